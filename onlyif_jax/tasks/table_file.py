"""Reads the user's table, JSON lines or CSV, into arrays; no jax here.

Every error is one line with the file, the line where there is one, and the remedy.
"""

import csv
import dataclasses
import functools
import hashlib
import io
import json
from pathlib import Path

import numpy as np

from onlyif_jax.settings import TableSettings, file_sha256

NAMES = ('train', 'dev', 'test')  # of the split column, in the order of `Part`
KEPT = 5  # one of so many rows of an instruction is kept from training
JSON = ('.jsonl', '.ndjson', '.json')


@dataclasses.dataclass(frozen=True)
class Line:
  """A row as it stands in the file."""

  number: int
  id: str
  split: str  # '' without a split column
  texts: tuple[str, ...]  # in the order of `Text.fields`


@dataclasses.dataclass(frozen=True, eq=False)
class Text:
  """A table in arrays: instructions in the order of their parts, rows by instruction.

  parts: instructions of train, dev and test; None without a split column. shown: the
  prompts of each instruction, normalised.
  """

  fields: tuple[str, ...]
  symbols: str
  longest: dict[str, int]
  ids: tuple[str, ...]
  shown: dict[str, set[str]]
  parts: tuple[int, ...] | None
  letters_C: np.ndarray
  at_RF: np.ndarray
  length_RF: np.ndarray
  first_I: np.ndarray
  trained_I: np.ndarray
  rows_I: np.ndarray


@functools.lru_cache(maxsize=8)
def read(s: TableSettings) -> Text:
  """The table of some settings; raises ValueError."""
  if not s.path:
    raise ValueError(
      'task.path is empty; give --config.task.path=FILE, a .jsonl or .csv'
    )
  try:
    if file_sha256(s.path) != s.sha256:
      raise ValueError(
        f'{s.path} has changed since these settings were made (its sha256 is not '
        'task.sha256); restore it, or start in another --workdir'
      )
    content = Path(s.path).read_text(encoding='utf-8-sig')
  except UnicodeDecodeError as e:
    raise ValueError(f'{s.path} is not UTF-8 text ({e.reason}); convert it') from None
  fields = ('prompt', 'input', 'answer') if s.input else ('prompt', 'answer')
  by_id: dict[str, list[Line]] = {}
  for line in _lines(s, content, fields):
    by_id.setdefault(line.id, []).append(line)
  for own in by_id.values():
    _check_instruction(s, own)
  _check_shared(s, by_id)
  return _pack(s, by_id, fields)


def normalised(text: str) -> str:
  """Text without regard to case and spaces."""
  return ' '.join(text.casefold().split())


def _lines(s: TableSettings, content: str, fields):
  """The rows, checked one by one."""
  columns = {name: getattr(s, name) for name in ('instruction', *fields)}
  if s.split:
    columns['split'] = s.split
  most = {name: getattr(s, f'{name}_max') for name in fields}
  count = 0
  for number, row in _records(s.path, content):
    for name, column in columns.items():
      if column not in row:
        raise ValueError(
          f'{s.path}, line {number}: no column {column!r}; it has '
          f'{", ".join(map(str, row))}: set task.{name}'
          + (", or task.split='' for none" if name == 'split' else '')
        )
    got = {name: _word(row[column]) for name, column in columns.items()}
    where = f'{s.path}, line {number}'
    for name in ('instruction', 'prompt', 'answer'):
      if not got[name]:
        raise ValueError(
          f'{where}: {columns[name]!r} is empty; fill it or drop the row'
        )
    for name in fields:
      if len(got[name]) > most[name]:
        raise ValueError(
          f'{where}: {columns[name]!r} has {len(got[name])} characters, task.{name}_max='
          f'{most[name]}; shorten it or raise task.{name}_max'
        )
      strange = set(got[name]) - set(s.characters) if s.characters else set()
      if strange:
        raise ValueError(
          f'{where}: {min(strange)!r} in {columns[name]!r} is not in task.characters; '
          'add it there, or leave task.characters empty'
        )
    if s.split and got['split'] not in NAMES:
      raise ValueError(
        f'{where}: {s.split!r} is {got["split"]!r}, not one of {", ".join(NAMES)}'
      )
    count += 1
    texts = tuple(got[name] for name in fields)
    yield Line(number, got['instruction'], got.get('split', ''), texts)
  if not count:
    raise ValueError(f'{s.path} has no rows')


def _word(value) -> str:
  return '' if value is None else str(value)


def _records(path: str, content: str):
  """(line number, column -> value) of each row."""
  if path.endswith(JSON):
    for number, text in enumerate(content.split('\n'), start=1):
      if not text.strip():
        continue
      try:
        row = json.loads(text)
      except ValueError as e:
        raise ValueError(f'{path}, line {number}: not JSON ({e})') from None
      if not isinstance(row, dict):
        raise ValueError(f'{path}, line {number}: not an object {{"column": value}}')
      yield number, row
  else:
    reader = csv.DictReader(io.StringIO(content, newline=''), restkey='(more)')
    for row in reader:
      if '(more)' in row:
        raise ValueError(
          f'{path}, line {reader.line_num}: more values than columns; quote commas'
        )
      yield reader.line_num, row


def _check_instruction(s: TableSettings, own: list[Line]) -> None:
  """Enough rows, in one split."""
  first = own[0]
  for line in own:
    if line.split != first.split:
      raise ValueError(
        f'{s.path}, line {line.number}: instruction {line.id!r} is {line.split}, but '
        f'{first.split} in line {first.number}; an instruction is in one split'
      )
  least = s.least_rows if first.split in ('', 'train') else 1
  if len(own) < least:
    raise ValueError(
      f'{s.path}, line {first.number}: instruction {first.id!r} has {len(own)} rows, '
      f'task.least_rows={least}; add rows or drop it'
    )


def _check_shared(s: TableSettings, by_id: dict[str, list[Line]]) -> None:
  """No text of one instruction may stand in another that can be held out from it."""
  owner: dict[str, Line] = {}
  for own in by_id.values():
    for line in own:
      other = owner.setdefault(normalised(line.texts[0]), line)
      apart = not s.split or other.split != line.split
      if other.id != line.id and apart:
        raise ValueError(
          f'{s.path}, line {line.number}: the prompt of line {other.number} again, under '
          f'another instruction ({line.id!r}, {other.id!r}); give both one instruction '
          'or tell the prompts apart'
        )


def _pack(s: TableSettings, by_id: dict[str, list[Line]], fields) -> Text:
  parts = {
    name: [own for own in by_id.values() if own[0].split == name] for name in NAMES
  }
  order = sorted(by_id.values(), key=lambda own: own[0].id)
  if s.split:
    order = [own for name in NAMES for own in order if own[0].split == name]
  # A row's place does not depend on the file's order, which may be sorted by answer.
  rows = [line for own in order for line in sorted(own, key=_shuffled)]
  found = sorted({c for line in rows for text in line.texts for c in text})
  symbols = s.characters or ''.join(found)
  letter = {c: n for n, c in enumerate(symbols)}
  whole = ''.join(text for line in rows for text in line.texts)
  length_RF = np.array([[len(text) for text in line.texts] for line in rows], np.int32)
  ends = np.cumsum(length_RF.ravel()).reshape(length_RF.shape)
  count_I = np.array([len(own) for own in order], np.int32)
  kept_I = np.maximum(1, count_I // KEPT)
  trained_I = np.where(count_I > 1, count_I - kept_I, count_I)
  return Text(
    fields=fields,
    symbols=symbols,
    longest={n: int(length_RF[:, f].max()) for f, n in enumerate(fields)},
    ids=tuple(own[0].id for own in order),
    shown={own[0].id: {normalised(line.texts[0]) for line in own} for own in order},
    parts=tuple(len(parts[name]) for name in NAMES) if s.split else None,
    letters_C=np.array([letter[c] for c in whole], np.uint16),
    at_RF=(ends - length_RF).astype(np.int32),
    length_RF=length_RF,
    first_I=(np.cumsum(count_I) - count_I).astype(np.int32),
    trained_I=trained_I.astype(np.int32),
    rows_I=count_I,
  )


def _shuffled(line: Line) -> bytes:
  return hashlib.sha256('\0'.join(line.texts).encode()).digest()
