"""Examples of a sweep's member as a TFDS dataset, written without TensorFlow."""

import hashlib
import io
import itertools
import json
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import redirect_stdout

import numpy as np
import tensorflow_datasets as tfds

from onlyif_jax import corpora

_IDS = ('tokens', 'answer_start', 'answer_length', 'slices')
_DESCRIPTION = (
  'Following an instruction given in the prompt. The instructions of different '
  'splits share nothing, as the certificate in the metadata says. Examples are in '
  'the order of their index.'
)


# Not registered by name: a set is made of rows, so it cannot be built on request.
class Rewriting(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """Writes rows in their order; the i-th example of a split is its i-th row.

  rows: split -> rows, each with tokens, answer_start, answer_length, slices and
  texts: the prompt, its parts and the output. metadata: JSON values that are stored
  with the set beside `sha256`, the hash of each split's rows.
  """

  name = corpora.NAME
  VERSION = tfds.core.Version(corpora.VERSION)

  def __init__(self, rows: Mapping[str, Iterable[dict]], metadata: dict, data_dir):
    self._rows = {split: iter(own) for split, own in rows.items()}
    # The first row has the length of a sequence and the names of slices.
    split = next(iter(self._rows))
    self._first = next(self._rows[split])
    self._rows[split] = itertools.chain([self._first], self._rows[split])
    self._texts = [k for k, v in self._first.items() if isinstance(v, str)]
    self._sha256: dict[str, str] = {}  # complete after the last row, when it is stored
    self._metadata = metadata | {'sha256': self._sha256}
    super().__init__(data_dir=data_dir)

  def _info(self) -> tfds.core.DatasetInfo:
    number = tfds.features.Scalar(dtype=np.int32)
    features = {
      'tokens': tfds.features.Tensor(
        shape=(len(self._first['tokens']),), dtype=np.int32
      ),
      'answer_start': number,
      'answer_length': number,
      'slices': dict.fromkeys(sorted(self._first['slices']), number),
    } | {name: tfds.features.Text() for name in self._texts}
    return tfds.core.DatasetInfo(
      builder=self,
      description=_DESCRIPTION,
      features=tfds.features.FeaturesDict(features),
      metadata=tfds.core.MetadataDict(self._metadata),
      disable_shuffling=True,
    )

  def _split_generators(self, dl_manager):
    del dl_manager  # nothing is downloaded
    return {split: self._generate_examples(split) for split in self._rows}

  def _generate_examples(self, split):
    digest = hashlib.sha256()
    for i, row in enumerate(self._rows[split]):
      example = {name: row[name] for name in (*_IDS, *self._texts)}
      digest.update(json.dumps(example, sort_keys=True).encode() + b'\n')
      yield i, example
    self._sha256[split] = digest.hexdigest()


def write(rows: Mapping[str, Iterable[dict]], metadata: dict, directory) -> None:
  """Prepares a set of rows in a directory, for `corpora.open_set`."""
  tfds.disable_progress_bar()
  builder = Rewriting(rows, metadata, directory)
  # TFDS makes a directory for downloads and prints about them, though there are none.
  with tempfile.TemporaryDirectory() as none, redirect_stdout(io.StringIO()):
    builder.download_and_prepare(download_dir=none, file_format='array_record')
