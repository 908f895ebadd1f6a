"""Questions with one right answer, read from local files as the Eurus suite has them.

That suite's folder eval/ (2024-09-18) holds the files: MATH, GSM-Plus, SVAMP, ASDiv,
TheoremQA and BBH as JSON, MMLU as a dev and a test folder of CSV. A folder of data may
have them at any depth, so eval/ itself is one.
"""

import csv
import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from onlyif_jax.config import ConfigError
from onlyif_jax.evals import typed_answers

PROGRAM = '-program'  # ends the name of a benchmark that asks for a program
_COT = "A: Let's think step by step."


class Shot(NamedTuple):
  """A worked example."""

  text: str
  answer: str


@dataclasses.dataclass(frozen=True)
class Question:
  """One question; kind: '' or how TheoremQA compares; groups: what has scores too."""

  task_id: str
  text: str
  reference: Any  # text, or a JSON value where there is a kind
  kind: str = ''
  head: str = ''  # what stands before: BBH's description of a task, MMLU's subject
  shots: tuple[Shot, ...] = ()
  groups: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class QuestionSet:
  """The questions of one benchmark."""

  name: str
  about: str
  sha256: str  # of the files
  questions: tuple[Question, ...]


def read(name: str, data: Path | None) -> QuestionSet:
  """The questions of a benchmark of NAMES; raises ConfigError naming what is wrong."""
  name = name.removesuffix(PROGRAM)
  if data is None:
    raise ConfigError(f'{name} has no data; give --data=DIR with {FILES[name]}')
  if name == 'mmlu':
    return _mmlu(data)
  path = _only(data, FILES[name], name)
  try:
    raw = path.read_bytes()
    text = raw.decode('utf-8')
    lines = [line for line in text.split('\n') if line.strip()]
    rows = list(map(json.loads, lines)) if name == 'bbh' else json.loads(text)
  except OSError as e:
    raise ConfigError(f'{path} cannot be read ({e.strerror})') from None
  except ValueError as e:
    kind = 'JSON lines' if name == 'bbh' else 'JSON'
    raise ConfigError(
      f'{path} is no {kind} ({e}); give the file as published'
    ) from None
  found: list[Question] = []
  try:
    for question in _FORMATS[name](rows):
      found.append(question)
  except (KeyError, TypeError, ValueError, AttributeError, IndexError) as e:
    reason = f'lacks {e}' if isinstance(e, KeyError) else f'({e})'
    raise ConfigError(
      f'{path}: question {len(found) + 1} is malformed: {reason}; give the file of '
      f'{name} as the suite has it'
    ) from None
  return _set(name, path.name, hashlib.sha256(raw).hexdigest(), found, path)


def _set(name, about, sha256, found: Sequence[Question], path) -> QuestionSet:
  if not found:
    raise ConfigError(f'{path} holds no questions; give the file as published')
  if len({q.task_id for q in found}) < len(found):  # as of a file joined to itself
    found = [
      dataclasses.replace(q, task_id=f'{q.task_id}#{n}') for n, q in enumerate(found)
    ]
  return QuestionSet(name, f'{about}, {len(found):,} questions', sha256, tuple(found))


def _only(data: Path, file: str, name: str) -> Path:
  """The file of that name in a folder, or else the one below it."""
  if (data / file).is_file():
    return data / file
  found = sorted(f for f in data.rglob(file) if f.is_file())
  if len(found) != 1:
    raise ConfigError(
      f'--data={data} has {len(found)} files {file} of {name}; put the one of the Eurus '
      "suite's eval/ there"
    )
  return found[0]


def _records(rows: Any) -> list[Mapping[str, Any]]:
  """Rows of a list, or of a table by columns, as pandas reads both."""
  if isinstance(rows, dict):
    names = list(rows)
    return [{n: rows[n][i] for n in names} for i in rows[names[0]]]
  if not isinstance(rows, list):
    raise TypeError('not a list of records')
  return rows


def _text(row: Mapping[str, Any], name: str) -> str:
  """A field that holds a text."""
  if not isinstance(row[name], str):
    raise TypeError(f'{name} is no text')
  return row[name]


def _value(row: Mapping[str, Any], name: str) -> str:
  """A field that holds an answer, as a text; `None` where there is none, as there."""
  if isinstance(row[name], bool | list | dict):
    raise TypeError(f'{name} is no text or number')
  return str(row[name])


def _math(rows: Any) -> Iterator[Question]:
  for n, row in enumerate(_records(rows)):
    groups = _text(row, 'type'), _text(row, 'level')
    yield Question(
      f'math/{n}', _text(row, 'problem'), _value(row, 'expected_answer'), groups=groups
    )


def _gsm_plus(rows: Any) -> Iterator[Question]:
  for n, seed in enumerate(rows.values()):
    for kind, row in seed['perturbation_questions'].items():
      asked, answer = _text(row, 'question'), _value(row, 'answer')
      yield Question(f'gsm-plus/{n}/{kind}', asked, answer, groups=(kind,))


def _svamp(rows: Any) -> Iterator[Question]:
  for row in _records(rows):
    # The body has no full stop at its end, mostly.
    asked = f'{_text(row, "Body")}. {_text(row, "Question")}'
    yield Question(f'svamp/{row["ID"]}', asked, _value(row, 'Answer'))


def _asdiv(rows: Any) -> Iterator[Question]:
  for n, row in enumerate(rows['Instances']):
    if row['split'] == 'test':
      answer = {'Output Answer': row['Output Answer'][0]}
      yield Question(f'asdiv/{n}', _text(row, 'Input'), _value(answer, 'Output Answer'))


def _theoremqa(rows: Any) -> Iterator[Question]:
  for row in _records(rows):
    kind, answer = row['Answer_type'], row['Answer']
    if kind not in typed_answers.KINDS:
      raise ValueError(f'Answer_type {kind!r} is not known')
    if isinstance(answer, list) != kind.startswith('list'):
      raise ValueError(f'Answer {answer!r} is no {kind}')
    yield Question(str(row['id']), _text(row, 'Question'), answer, kind)


def _bbh(rows: Any) -> Iterator[Question]:
  """Worked examples and the question stand in one text."""
  for n, row in enumerate(rows):
    head, *parts = _text(row, 'text').split('\n\nQ: ')
    pairs = [part.split(_COT) for part in parts]
    if not pairs or any(len(pair) != 2 for pair in pairs):
      raise ValueError(f'text has a question without one {_COT!r}')
    shots = [
      Shot(f'Q: {asked}'.strip(), (_COT + answer).strip()) for asked, answer in pairs
    ]
    yield Question(
      f'{row["task_name"]}/{n}',
      shots[-1].text,
      _text(row, 'reference'),
      head=head,
      shots=tuple(shots[:-1]),
      groups=(_text(row, 'task_name'),),
    )


def _mmlu(data: Path) -> QuestionSet:
  """dev/<subject>_dev.csv are the worked examples of test/<subject>_test.csv."""
  files = sorted(f for f in data.rglob('test/*_test.csv') if f.is_file())
  if not files or len({f.parent for f in files}) > 1:
    raise ConfigError(
      f'--data={data} has {"several folders" if files else "no"} test/*_test.csv of '
      "mmlu; put dev/ and test/ of the suite's eval/mmlu there"
    )
  found, digest = [], hashlib.sha256()
  for file in files:
    subject = file.name.removesuffix('_test.csv')
    dev = file.parents[1] / 'dev' / f'{subject}_dev.csv'
    rows = {}
    for path in (dev, file):
      rows[path] = _choices(path)
      digest.update(f'{path.name}\0'.encode() + path.read_bytes())
    shots = tuple(rows[dev])
    head = ''.join(f' {word}' for word in subject.split('_'))  # so with two spaces
    found += [
      Question(f'{subject}/{n}', row.text, row.answer, '', head, shots, (head.strip(),))
      for n, row in enumerate(rows[file])
    ]
  return _set('mmlu', f'{len(files)} subjects', digest.hexdigest(), found, data)


def _choices(path: Path) -> list[Shot]:
  """Rows of a question, its choices, and the letter of the right one."""
  try:
    with open(path, newline='', encoding='utf-8') as file:
      rows = list(csv.reader(file))
  except (OSError, UnicodeDecodeError, csv.Error) as e:
    reason = getattr(e, 'strerror', None) or 'no CSV'
    raise ConfigError(
      f'{path} cannot be read ({reason}); put dev/ and test/ of MMLU there'
    ) from None
  out = []
  for n, row in enumerate(rows, start=1):
    letters = 'ABCDEFGH'[: len(row) - 2]
    if len(row) < 4 or row[-1] not in tuple(letters):
      raise ConfigError(
        f'{path}: row {n} is no question of MMLU; each has a question, its choices, '
        'and the letter of the right one'
      )
    lines = [f'{x}. {choice}' for x, choice in zip(letters, row[1:-1], strict=True)]
    out.append(Shot('\n'.join([row[0], *lines]), row[-1]))
  return out


_FORMATS: dict[str, Callable[[Any], Iterator[Question]]] = {
  'math': _math,
  'gsm-plus': _gsm_plus,
  'svamp': _svamp,
  'asdiv': _asdiv,
  'theoremqa': _theoremqa,
  'bbh': _bbh,
}
FILES = {
  'math': 'math_test_cleaned.json',
  'gsm-plus': 'gsmplus_test.json',
  'svamp': 'SVAMP.json',
  'asdiv': 'asdiv.json',
  'theoremqa': 'theorem_qa.json',
  'bbh': 'test_prompts.json',
  'mmlu': 'dev/ and test/ of MMLU',
}
NAMES = tuple(FILES)
