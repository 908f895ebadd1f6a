"""Questions with one right answer, read from local files in the Eurus suite's formats.

The suite's folder eval/ (2024-09-18) holds the files: MATH, GSM-Plus, SVAMP, ASDiv,
TheoremQA and BBH as JSON, MMLU as a dev and a test folder of CSV. They may lie at any
depth of the data folder, so that can be eval/ itself.
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

PROGRAM = '-program'  # suffix of benchmarks that ask for a program
_COT = "A: Let's think step by step."


class Shot(NamedTuple):
  """A worked example."""

  text: str
  answer: str


@dataclasses.dataclass(frozen=True)
class Question:
  """One question; groups: the subsets of the benchmark that have scores of their own."""

  task_id: str
  text: str
  reference: Any  # text, or a JSON value where there is a kind
  kind: str = ''  # of TheoremQA's answers, which decides how they are compared
  head: str = ''  # text before the question: BBH's task description, MMLU's subject
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
  """The questions of a benchmark of NAMES; raises ConfigError for an unusable file."""
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
  parsed: list[Question] = []
  try:
    for question in _FORMATS[name](rows):
      parsed.append(question)
  except (KeyError, TypeError, ValueError, AttributeError, IndexError) as e:
    reason = f'lacks {e}' if isinstance(e, KeyError) else f'({e})'
    raise ConfigError(
      f'{path}: question {len(parsed) + 1} is malformed: {reason}; give the file of '
      f'{name} as the suite has it'
    ) from None
  return _set(name, path.name, hashlib.sha256(raw).hexdigest(), parsed, path)


def _set(name, about, sha256, parsed: Sequence[Question], path) -> QuestionSet:
  if not parsed:
    raise ConfigError(f'{path} holds no questions; give the file as published')
  # The file may repeat questions, for instance if it was appended to itself.
  if len({question.task_id for question in parsed}) < len(parsed):
    parsed = [
      dataclasses.replace(question, task_id=f'{question.task_id}#{n}')
      for n, question in enumerate(parsed)
    ]
  return QuestionSet(name, f'{about}, {len(parsed):,} questions', sha256, tuple(parsed))


def _only(data: Path, file: str, name: str) -> Path:
  """The file of that name in a folder, or else the only one below it."""
  if (data / file).is_file():
    return data / file
  paths = sorted(path for path in data.rglob(file) if path.is_file())
  if len(paths) != 1:
    raise ConfigError(
      f'--data={data} has {len(paths)} files {file} of {name}; put the one of the Eurus '
      "suite's eval/ there"
    )
  return paths[0]


def _records(rows: Any) -> list[Mapping[str, Any]]:
  """The rows of a list, or of a table by columns: pandas reads both."""
  if isinstance(rows, dict):
    names = list(rows)
    return [{n: rows[n][i] for n in names} for i in rows[names[0]]]
  if not isinstance(rows, list):
    raise TypeError('not a list of records')
  return rows


def _text(row: Mapping[str, Any], name: str) -> str:
  """A field that must hold a text."""
  if not isinstance(row[name], str):
    raise TypeError(f'{name} is no text')
  return row[name]


def _value(row: Mapping[str, Any], name: str) -> str:
  """An answer's field as a text; null gives 'None', as in the suite."""
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
      text, answer = _text(row, 'question'), _value(row, 'answer')
      yield Question(f'gsm-plus/{n}/{kind}', text, answer, groups=(kind,))


def _svamp(rows: Any) -> Iterator[Question]:
  for row in _records(rows):
    # Most bodies lack the final full stop.
    text = f'{_text(row, "Body")}. {_text(row, "Question")}'
    yield Question(f'svamp/{row["ID"]}', text, _value(row, 'Answer'))


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
  """Questions of BBH, whose texts include the worked examples."""
  for n, row in enumerate(rows):
    head, *parts = _text(row, 'text').split('\n\nQ: ')
    pairs = [part.split(_COT) for part in parts]
    if not pairs or any(len(pair) != 2 for pair in pairs):
      raise ValueError(f'text has a question without one {_COT!r}')
    shots = [
      Shot(f'Q: {query}'.strip(), (_COT + answer).strip()) for query, answer in pairs
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
  """Questions of test/<subject>_test.csv, worked examples of dev/<subject>_dev.csv."""
  files = sorted(path for path in data.rglob('test/*_test.csv') if path.is_file())
  if not files or len({path.parent for path in files}) > 1:
    raise ConfigError(
      f'--data={data} has {"several folders" if files else "no"} test/*_test.csv of '
      "mmlu; put dev/ and test/ of the suite's eval/mmlu there"
    )
  parsed, digest = [], hashlib.sha256()
  for file in files:
    subject = file.name.removesuffix('_test.csv')
    dev = file.parents[1] / 'dev' / f'{subject}_dev.csv'
    rows = {}
    for path in (dev, file):
      rows[path] = _choices(path)
      digest.update(f'{path.name}\0'.encode() + path.read_bytes())
    shots = tuple(rows[dev])
    head = ''.join(
      f' {word}' for word in subject.split('_')
    )  # the leading space is the suite's
    parsed += [
      Question(f'{subject}/{n}', row.text, row.answer, '', head, shots, (head.strip(),))
      for n, row in enumerate(rows[file])
    ]
  return _set('mmlu', f'{len(files)} subjects', digest.hexdigest(), parsed, data)


def _choices(path: Path) -> list[Shot]:
  """(question with its choices, letter of the right one) of each row."""
  try:
    with open(path, newline='', encoding='utf-8') as file:
      rows = list(csv.reader(file))
  except (OSError, UnicodeDecodeError, csv.Error) as e:
    reason = getattr(e, 'strerror', None) or 'no CSV'
    raise ConfigError(
      f'{path} cannot be read ({reason}); put dev/ and test/ of MMLU there'
    ) from None
  shots = []
  for n, row in enumerate(rows, start=1):
    letters = 'ABCDEFGH'[: len(row) - 2]
    if len(row) < 4 or row[-1] not in tuple(letters):
      raise ConfigError(
        f'{path}: row {n} is no question of MMLU; each has a question, its choices, '
        'and the letter of the right one'
      )
    lines = [f'{x}. {choice}' for x, choice in zip(letters, row[1:-1], strict=True)]
    shots.append(Shot('\n'.join([row[0], *lines]), row[-1]))
  return shots


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
