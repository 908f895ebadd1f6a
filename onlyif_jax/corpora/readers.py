"""Reads instruction data sets in the formats in which they are published.

JSON (a list, or rows keyed by id) and JSON lines, both also as .gz, Parquet, and
directories of such files in name order. Errors name the file and the line (JSON lines)
or the row.
"""

import collections
import gzip
import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from absl import logging

from onlyif_jax.config import ConfigError
from onlyif_jax.corpora.formats import FORMATS, Format, matching
from onlyif_jax.corpora.rows import Row, RowError, conversation

__all__ = ['FORMATS', 'Format', 'Reader', 'data_files', 'raw_rows', 'read']

_KINDS = ('.json', '.jsonl', '.parquet')
_BAD = ('error', 'drop')


class Reader:
  """Rows of a file or directory, read anew in each iteration.

  path: a .json, .jsonl or .parquet file, .json.gz, .jsonl.gz, or a directory of them.
  format: a name of FORMATS, or 'auto' to choose by the columns of the first row; the
  attribute has the chosen name. source: of the rows, by default the path's name up to
  its first dot. bad: what to do with rows that have no response or whose turns do not
  alternate: 'error' raises at the first, 'drop' leaves them out and counts them in
  `dropped` (reason -> rows). The indices of the rows are 0, 1, ... without gaps.
  Raises ConfigError if nothing can be read.
  """

  def __init__(
    self,
    path,
    format: str = 'auto',  # noqa: A002 - what the setting is called everywhere
    source: str | None = None,
    bad: str = 'error',
  ):
    if bad not in _BAD:
      raise ConfigError(f'bad={bad!r} is not one of {", ".join(_BAD)}')
    self.path = Path(path)
    self.source = source or self.path.name.split('.')[0]
    self.bad = bad
    self.dropped: collections.Counter[str] = collections.Counter()
    self.files = data_files(self.path)
    self.format = self._choose(format)

  def __iter__(self) -> Iterator[Row]:
    """Rows in the order of the file; `dropped` is complete after the last."""
    self.dropped.clear()
    count, form = 0, FORMATS[self.format]
    for place, raw in raw_rows(self.files):
      try:
        missing = [c for c in form.columns if c not in raw]
        if missing:
          raise ConfigError(
            f'{place}: format {self.format} needs the column {missing[0]!r}; '
            f'this row has {_names(raw)}'
          )
        turns = conversation(form.parse(raw))
      except RowError as e:
        if self.bad == 'error':
          raise ConfigError(
            f"{place}: {e}; mend the row, or leave such rows out with bad='drop'"
          ) from None
        self.dropped[str(e)] += 1
        continue
      yield Row(self.source, count, turns)
      count += 1
    if not count:
      raise ConfigError(f'{self.path} has no row with a response')

  def _choose(self, name: str) -> str:
    first = next(raw_rows(self.files), None)
    if first is None:
      raise ConfigError(f'{self.path} is empty; give a file with rows')
    if name == 'auto':
      place, raw = first
      chosen = matching(raw)
      if chosen is None:
        raise ConfigError(
          f'{place}: no known format has the columns {_names(raw)}; rename them to '
          f'those of one of {", ".join(FORMATS)} (plain: prompt, response)'
        )
      logging.info('%s: %s', self.path, FORMATS[chosen].description)
      return chosen
    if name not in FORMATS:
      raise ConfigError(f'format={name!r} is not one of auto, {", ".join(FORMATS)}')
    return name


def read(
  path,
  format: str = 'auto',  # noqa: A002
  source: str | None = None,
  bad: str = 'error',
) -> list[Row]:
  """All rows of a file or directory in memory; see `Reader` for the arguments."""
  reader = Reader(path, format, source, bad)
  rows = list(reader)
  for reason, count in reader.dropped.items():
    logging.warning('%s: %d rows left out: %s', reader.path, count, reason)
  return rows


def data_files(path: Path) -> list[Path]:
  """The files of a data set: the path itself, or those of a directory by name."""
  if not path.exists():
    raise ConfigError(f'{path} does not exist')
  if not path.is_dir():
    if _kind(path) is None:
      raise ConfigError(f'{path} is not one of {", ".join(_KINDS)} (or .gz of these)')
    return [path]
  files = [p for p in sorted(path.iterdir()) if p.is_file() and _kind(p)]
  if not files:
    raise ConfigError(f'{path} has no file of {", ".join(_KINDS)} (or .gz of these)')
  return files


def _kind(path: Path) -> str | None:
  """The file format by the name; only text formats can be gzipped."""
  zipped = path.suffix == '.gz'
  kind = path.with_suffix('').suffix if zipped else path.suffix
  return kind if kind in _KINDS and not (zipped and kind == '.parquet') else None


def raw_rows(files: Iterable[Path]) -> Iterator[tuple[str, dict[str, Any]]]:
  """(place, columns) of the rows of files; place names the file and the line or row."""
  readers = {'.json': _json, '.jsonl': _json_lines, '.parquet': _parquet}
  return itertools.chain.from_iterable(
    readers[_kind(file) or ''](file) for file in files
  )


def _lines(file: Path) -> Iterator[str]:
  opened = gzip.open if file.suffix == '.gz' else open
  try:
    with opened(file, 'rt', encoding='utf-8-sig') as stream:
      yield from stream
  except UnicodeDecodeError as e:
    raise ConfigError(f'{file} is not UTF-8 text ({e.reason})') from None
  except (OSError, EOFError) as e:
    raise ConfigError(f'{file} cannot be read: {e}') from None


def _json_lines(file: Path):
  yield from _numbered(file, _lines(file))


def _numbered(file: Path, lines):
  for n, line in enumerate(lines, 1):
    if line.strip():
      place = f'{file}, line {n}'
      yield place, _row(place, _parsed(place, line.strip()))


def _json(file: Path):
  text = ''.join(_lines(file))
  if not text.strip():
    return
  try:
    whole = _parsed(str(file), text)
  except ConfigError as e:
    # Some data sets publish JSON lines as .json.
    if 'Extra data' not in str(e):
      raise
    yield from _numbered(file, text.split('\n'))
    return
  if isinstance(whole, dict):
    keyed = ((f'{file}, row {key!r}', row) for key, row in whole.items())
  elif isinstance(whole, list):
    keyed = ((f'{file}, row {n}', row) for n, row in enumerate(whole, 1))
  else:
    raise ConfigError(f'{file} is neither a list of rows nor rows keyed by id')
  for place, row in keyed:
    yield place, _row(place, row)


def _parquet(file: Path):
  try:
    import pyarrow
    from pyarrow import parquet
  except ImportError:
    raise ConfigError(
      f"{file} is Parquet, which needs pyarrow: pip install 'onlyif_jax[llm]'"
    ) from None
  try:
    count = 0
    with parquet.ParquetFile(file) as table:
      for batch in table.iter_batches(batch_size=1024):
        for row in batch.to_pylist():
          count += 1
          yield f'{file}, row {count}', row
  except (pyarrow.ArrowException, OSError) as e:
    reason = str(e).splitlines()[0]
    raise ConfigError(f'{file} is not a whole Parquet file: {reason}') from None


def _parsed(place: str, text: str):
  try:
    return json.loads(text)
  except json.JSONDecodeError as e:
    line = f', line {e.lineno}' if e.lineno > 1 else ''
    raise ConfigError(f'{place}{line} is not JSON: {e.msg}, column {e.colno}') from None


def _row(place: str, value) -> dict[str, Any]:
  if not isinstance(value, dict):
    raise ConfigError(f'{place} is not an object but {type(value).__name__}')
  return value


def _names(raw) -> str:
  return ', '.join(sorted(map(str, raw)))
