"""Read the user's table, JSON lines or CSV, into numpy arrays; no jax here.

Every error is a single line with the file, the line number if any, and the remedy.
"""

import csv
import dataclasses
import functools
import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from onlyif_jax.settings import TableSettings, file_sha256

NAMES = ('train', 'dev', 'test')  # of the split column, in the order of `Part`
KEPT = 5  # one in this many rows of an instruction is kept from training
JSON = ('.jsonl', '.ndjson', '.json')


@dataclasses.dataclass(frozen=True)
class Line:
  """A row of the file."""

  number: int
  id: str
  split: str  # '' without a split column
  texts: tuple[str, ...]  # in the order of `Text.fields`


@dataclasses.dataclass(frozen=True, eq=False)
class Text:
  """A table as arrays: I instructions in the order of their parts, R rows by instruction.

  The rows of an instruction that are trained on come first.
  """

  fields: tuple[str, ...]  # prompt, perhaps input, answer
  symbols: str  # the characters in use
  longest: dict[str, int]  # field -> most characters
  ids: tuple[str, ...]
  shown: dict[str, set[str]]  # id -> its normalised prompts
  parts: tuple[int, ...] | None  # instructions of each part; None: no split column
  letters_C: np.ndarray  # all text
  at_RF: np.ndarray  # where each field of a row starts in letters_C
  length_RF: np.ndarray
  first_I: np.ndarray  # the first row of an instruction
  trained_I: np.ndarray  # its number of rows that are trained on
  rows_I: np.ndarray  # its number of rows


@functools.lru_cache(maxsize=8)
def read(s: TableSettings) -> Text:
  """The table that the settings name; raises ValueError for files that cannot work."""
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
  for lines in by_id.values():
    _check_instruction(s, lines)
  _check_shared(s, by_id)
  return _pack(s, by_id, fields)


def normalised(text: str) -> str:
  """The text with case and differences in spaces removed."""
  return ' '.join(text.casefold().split())


def _lines(s: TableSettings, content: str, fields: tuple[str, ...]) -> Iterator[Line]:
  """The rows, each checked on its own."""
  columns = {name: getattr(s, name) for name in ('instruction', *fields)}
  if s.split:
    columns['split'] = s.split
  limits = {name: getattr(s, f'{name}_max') for name in fields}
  count = 0
  for number, row in _records(s.path, content):
    for name, column in columns.items():
      if column not in row:
        raise ValueError(
          f'{s.path}, line {number}: no column {column!r}; it has '
          f'{", ".join(map(str, row))}: set task.{name}'
          + (", or task.split='' for none" if name == 'split' else '')
        )
    values = {}
    for name, column in columns.items():
      values[name] = '' if row[column] is None else str(row[column])
    place = f'{s.path}, line {number}'
    for name in ('instruction', 'prompt', 'answer'):
      if not values[name]:
        raise ValueError(
          f'{place}: {columns[name]!r} is empty; fill it or drop the row'
        )
    for name in fields:
      if len(values[name]) > limits[name]:
        raise ValueError(
          f'{place}: {columns[name]!r} has {len(values[name])} characters, '
          f'task.{name}_max={limits[name]}; shorten it or raise task.{name}_max'
        )
      unknown = set(values[name]) - set(s.characters) if s.characters else set()
      if unknown:
        raise ValueError(
          f'{place}: {min(unknown)!r} in {columns[name]!r} is not in task.characters; '
          'add it there, or leave task.characters empty'
        )
    if s.split and values['split'] not in NAMES:
      raise ValueError(
        f'{place}: {s.split!r} is {values["split"]!r}, not one of {", ".join(NAMES)}'
      )
    count += 1
    texts = tuple(values[name] for name in fields)
    yield Line(number, values['instruction'], values.get('split', ''), texts)
  if not count:
    raise ValueError(f'{s.path} has no rows')


def _records(path: str, content: str) -> Iterator[tuple[int, dict]]:
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


def _check_instruction(s: TableSettings, lines: list[Line]) -> None:
  """Raise ValueError if the rows of an instruction are too few or of several splits."""
  first = lines[0]
  for line in lines:
    if line.split != first.split:
      raise ValueError(
        f'{s.path}, line {line.number}: instruction {line.id!r} is {line.split}, but '
        f'{first.split} in line {first.number}; an instruction is in one split'
      )
  least = s.least_rows if first.split in ('', 'train') else 1
  if len(lines) < least:
    raise ValueError(
      f'{s.path}, line {first.number}: instruction {first.id!r} has {len(lines)} rows, '
      f'task.least_rows={least}; add rows or drop it'
    )


def _check_shared(s: TableSettings, by_id: dict[str, list[Line]]) -> None:
  """Raise ValueError if instructions that may be in different parts share a prompt."""
  first_with: dict[str, Line] = {}
  for lines in by_id.values():
    for line in lines:
      other = first_with.setdefault(normalised(line.texts[0]), line)
      separable = not s.split or other.split != line.split
      if other.id != line.id and separable:
        raise ValueError(
          f'{s.path}, line {line.number}: the prompt of line {other.number} again, under '
          f'another instruction ({line.id!r}, {other.id!r}); give both one instruction '
          'or tell the prompts apart'
        )


def _pack(
  s: TableSettings, by_id: dict[str, list[Line]], fields: tuple[str, ...]
) -> Text:
  """The arrays of a table that passed all checks."""
  instructions = sorted(by_id.values(), key=lambda lines: lines[0].id)
  parts = None
  if s.split:
    instructions.sort(key=lambda lines: NAMES.index(lines[0].split))  # stable
    splits = [lines[0].split for lines in instructions]
    parts = tuple(splits.count(name) for name in NAMES)
  # The order of rows must not depend on the file's, which may be sorted by answer.
  rows = [line for lines in instructions for line in sorted(lines, key=_text_hash)]
  all_text = ''.join(text for line in rows for text in line.texts)
  symbols = s.characters or ''.join(sorted(set(all_text)))
  letter = {c: n for n, c in enumerate(symbols)}
  length_RF = np.array([[len(text) for text in line.texts] for line in rows], np.int32)
  ends = np.cumsum(length_RF.ravel()).reshape(length_RF.shape)
  count_I = np.array([len(lines) for lines in instructions], np.int32)
  kept_I = np.maximum(1, count_I // KEPT)
  trained_I = np.where(count_I > 1, count_I - kept_I, count_I)
  return Text(
    fields=fields,
    symbols=symbols,
    longest={n: int(length_RF[:, f].max()) for f, n in enumerate(fields)},
    ids=tuple(lines[0].id for lines in instructions),
    shown={
      lines[0].id: {normalised(line.texts[0]) for line in lines}
      for lines in instructions
    },
    parts=parts,
    letters_C=np.array([letter[c] for c in all_text], np.uint16),
    at_RF=(ends - length_RF).astype(np.int32),
    length_RF=length_RF,
    first_I=(np.cumsum(count_I) - count_I).astype(np.int32),
    trained_I=trained_I.astype(np.int32),
    rows_I=count_I,
  )


def _text_hash(line: Line) -> bytes:
  return hashlib.sha256('\0'.join(line.texts).encode()).digest()
