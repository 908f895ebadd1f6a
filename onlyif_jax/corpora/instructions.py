"""Instruction rows as TFDS datasets, prepared once from a local file.

They are written and read without TensorFlow (array_record). TFDS is slow to import, so
import this module only where a set is opened.
"""

import hashlib
import io
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, overload

import tensorflow_datasets as tfds
from absl import logging

from onlyif_jax.config import ConfigError
from onlyif_jax.corpora.readers import Reader
from onlyif_jax.corpora.rows import Row, Turn

NAME, VERSION = 'instructions', '1.0.0'  # raise it if a format is read differently


# Not registered by name: a set is made of rows, so it cannot be built on request.
class Instructions(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """Writes the rows of a reader in their order; the i-th example is row i.

  An example has `turns` with role, text and context, as `rows.Turn`. The metadata has
  the format, the files, their sha256, and the number of rows left out by reason.
  """

  name = NAME
  VERSION = tfds.core.Version(VERSION)

  def __init__(self, reader: Reader, sha256: str, data_dir):
    self._reader = reader
    self._metadata = {
      'format': reader.format,
      'files': [p.name for p in reader.files],
      'sha256': sha256,
      'dropped': reader.dropped,  # complete after the last row, when it is stored
    }
    super().__init__(data_dir=data_dir)

  def _info(self) -> tfds.core.DatasetInfo:
    text = tfds.features.Text()
    turn = {'role': text, 'text': text, 'context': text}
    return tfds.core.DatasetInfo(
      builder=self,
      description='Conversations: each assistant turn is a response to learn.',
      features=tfds.features.FeaturesDict({'turns': tfds.features.Sequence(turn)}),
      metadata=tfds.core.MetadataDict(self._metadata),
      disable_shuffling=True,
    )

  def _split_generators(self, dl_manager):
    del dl_manager  # nothing is downloaded
    return {'train': self._generate_examples()}

  def _generate_examples(self):
    for row in self._reader:
      turns = [
        {'role': t.role, 'text': t.text, 'context': t.context} for t in row.turns
      ]
      yield row.index, {'turns': turns}


class PreparedRows(Sequence[Row]):
  """The rows of a prepared set, read from disk on access: rows[i] has index i.

  metadata: format, files, sha256, dropped (reason -> rows left out).
  """

  def __init__(self, directory: Path, source: str):
    builder = tfds.builder_from_directory(directory)
    stored: Any = builder.info.metadata
    self.metadata: dict[str, Any] = dict(stored)
    self.directory, self.source = directory, source
    self._data: Sequence[dict] = builder.as_data_source('train')  # pyright: ignore

  def __len__(self) -> int:
    return len(self._data)

  @overload
  def __getitem__(self, index: int) -> Row: ...

  @overload
  def __getitem__(self, index: slice) -> list[Row]: ...

  def __getitem__(self, index):
    if isinstance(index, slice):
      return [self[i] for i in range(*index.indices(len(self)))]
    if index < 0:
      index += len(self)
    if not 0 <= index < len(self):
      raise IndexError(f'{self.source} has no row {index}')
    turns = self._data[index]['turns']
    cells = zip(turns['role'], turns['text'], turns['context'], strict=True)
    decoded = tuple(Turn(*(cell.decode() for cell in turn)) for turn in cells)
    return Row(self.source, int(index), decoded)

  def __iter__(self) -> Iterator[Row]:
    return (self[i] for i in range(len(self)))


def open_rows(
  path,
  data_dir,
  format: str = 'auto',  # noqa: A002 - what the setting is called everywhere
  source: str | None = None,
  bad: str = 'error',
) -> PreparedRows:
  """The rows of a local file or directory, prepared in data_dir the first time.

  Contents, format and `bad` determine the directory in data_dir, so a changed file is
  prepared anew and a renamed one is not. Arguments and ConfigError as of
  `readers.Reader`; no partly written set remains after an error.
  """
  reader = Reader(path, format, source, bad)
  sha256 = _sha256(reader.files)
  home = Path(data_dir) / f'{reader.format}-{bad}-{sha256[:16]}'
  done = home / NAME / VERSION
  if not (done / 'dataset_info.json').exists():
    _prepare(reader, sha256, Path(data_dir), home)
  rows = PreparedRows(done, reader.source)
  for reason, count in rows.metadata['dropped'].items():
    logging.warning('%s: %d rows left out: %s', path, count, reason)
  return rows


def _prepare(reader: Reader, sha256: str, data_dir: Path, home: Path) -> None:
  """Writes beside `home` and renames, so that others see a whole set or none."""
  try:
    data_dir.mkdir(parents=True, exist_ok=True)
  except OSError as e:
    raise ConfigError(f'{data_dir} cannot be written: {e.strerror}') from None
  tfds.disable_progress_bar()
  with tempfile.TemporaryDirectory(prefix='preparing-', dir=data_dir) as scratch:
    builder = Instructions(reader, sha256, Path(scratch) / 'set')
    # TFDS makes a directory for downloads and prints about them, though there are none.
    with redirect_stdout(io.StringIO()):
      builder.download_and_prepare(
        download_dir=str(Path(scratch) / 'none'), file_format='array_record'
      )
    try:
      os.replace(Path(scratch) / 'set', home)
    except OSError:
      if not (home / NAME / VERSION / 'dataset_info.json').exists():
        raise  # no other process was faster


def _sha256(files: Sequence[Path]) -> str:
  """The digest of one file, or of the digests of several in name order."""
  digests = []
  for file in files:
    with file.open('rb') as stream:
      digests.append(hashlib.file_digest(stream, 'sha256').hexdigest())
  if len(digests) == 1:
    return digests[0]
  return hashlib.sha256('\n'.join(digests).encode()).hexdigest()
