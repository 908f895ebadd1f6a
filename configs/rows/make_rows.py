"""Writes the small files of rows that the size `tiny` of the configs is trained on.

  python configs/rows/make_rows.py

The texts are our own, in the formats in which the data sets are published; every file
is the same on every machine. A row of code has examples beside its columns (readers
leave them aside): tests/test_rows.py runs them.
"""

import json
import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import general
import kinds
import reasoning
from kinds import Kind

OUT = Path(__file__).parent
HELD = 2  # values that each way to word a kind lacks in the rows: those of problems
TWICE = 6  # kinds with two problems
COMPLETE = 'Write a solution to the following problem:\n```python\n{head}\n```'
FORMS = (  # how a row of code asks; most ask for the rest of a function
  COMPLETE,
  'Create a Python function `{sign}` for a small library. {doc}',
  COMPLETE,
  'Implement `{sign}`. {doc} For example, `{call}` gives `{gives}`.',
  COMPLETE,
  'You are given the start of a program. Add a function `{sign}` to it. {doc}',
)


class Made:
  """One function of a kind: its text, and examples of what it gives."""

  def __init__(self, kind: Kind, words: tuple[str, str], argument: str, k=None):
    self.argument, self.k = argument, k
    self.name, self.doc = (self._filled(text) for text in words)
    self.head = f'def {self.name}({argument}):\n    """{self.doc}"""'
    lines = self._filled(kind.body).split('\n')
    self.body = '\n'.join(f'    {line}' for line in lines)
    self.bare = f'def {self.name}({argument}):\n{self.body}'
    self.inputs = kind.inputs
    if isinstance(k, str):
      self.inputs = (*self.inputs[:2], f'{k}un{k}')  # so that no constant is right
    self.examples = [(self.call(x), repr(kind.truth(k, x))) for x in self.inputs]
    self._check()

  def call(self, given) -> str:
    """The call with an argument, as it is written."""
    return f'{self.name}({given!r})'

  def _filled(self, text: str) -> str:
    return text.format(a=self.argument, k=self.k)

  def _check(self) -> None:
    names: dict[str, Any] = {}
    exec(f'{self.head}\n{self.body}', names)
    for call, gives in self.examples:
      found = repr(eval(call, dict(names)))
      assert found == gives, f'{self.head}: {call} gives {found}, not {gives}'


def made() -> tuple[list[Made], list[Made]]:
  """(functions of the rows, functions of the problems)."""
  rows, problems, number = [], [], 0
  for group, values, arguments in kinds.GROUPS:
    for kind in group:
      order = random.Random(number).sample(values, len(values))
      for w, words in enumerate(kind.words):
        own = order[HELD * w :] + order[: HELD * w]
        for m, k in enumerate(own[HELD:]):
          rows.append(Made(kind, words, arguments[(m + w) % len(arguments)], k))
      for m in range(2 if number < TWICE else 1):
        w = (number + m) % len(kind.words)
        name, k = arguments[(number + m) % len(arguments)], order[HELD * w + m]
        problems.append(Made(kind, kind.words[w], name, k))
      number += 1
  for n, kind in enumerate(kinds.SINGLE_KINDS):
    rows.append(Made(kind, kind.words[0], ('data', 'given', 'it')[n % 3]))
  random.Random(1).shuffle(rows)
  return rows, problems


def oss(rows: Iterable[Made]) -> Iterator[dict[str, Any]]:
  """OSS-Instruct."""
  for n, own in enumerate(rows):
    form = FORMS[n % len(FORMS)]
    call, gives = own.examples[0]
    sign = f'{own.name}({own.argument})'
    whole = f'{own.head}\n{own.body}'
    answer = whole if form is COMPLETE else own.bare
    yield {
      'lang': 'python',
      'index': n,
      'seed': f'def {sign}:',
      'problem': form.format(
        head=own.head, sign=sign, doc=own.doc, call=call, gives=gives
      ),
      'solution': f'```python\n{answer}\n```',
      'examples': [list(pair) for pair in own.examples],
    }


def problem(n: int, own: Made) -> dict[str, Any]:
  """HumanEval, with the further columns that EvalPlus has."""
  calls = (
    f'    assert candidate({call.removeprefix(own.name)[1:-1]}) == {gives}\n'
    for call, gives in own.examples
  )
  inputs = [[given] for given in own.inputs]
  return {
    'task_id': f'HumanEval/{n}',
    'prompt': f'{own.head}\n',
    'entry_point': own.name,
    'canonical_solution': f'{own.body}\n',
    'test': f'def check(candidate):\n{"".join(calls)}',
    'base_input': inputs[:2],
    'plus_input': inputs[2:],
    'atol': 0,
  }


def write_lines(name: str, rows: Iterable[dict[str, Any]]) -> None:
  """JSON lines; the same row twice is refused."""
  lines = [json.dumps(row, ensure_ascii=False) for row in rows]
  assert len(set(lines)) == len(lines), f'{name}: a row is there twice'
  (OUT / name).write_text('\n'.join(lines) + '\n', encoding='utf-8')


def write_whole(name: str, rows: Any) -> None:
  """One JSON value."""
  text = json.dumps(rows, indent=0, ensure_ascii=False)
  (OUT / name).write_text(text + '\n', encoding='utf-8')


def main() -> None:
  """Writes every file."""
  rows, problems = made()
  write_lines('oss_instruct.jsonl', oss(rows))
  write_lines('humaneval.jsonl', (problem(n, own) for n, own in enumerate(problems)))
  keys = ('instruction', 'input', 'output')
  asked = dict.fromkeys(general.alpaca())
  write_whole('alpaca_data.json', [dict(zip(keys, a, strict=True)) for a in asked])
  keys = ('source', 'rationale', 'target')
  thoughts = {t[0]: t for t in reasoning.cot()}
  write_whole(
    'CoT_collection_en.json',
    {
      str(n): dict(zip(keys, t, strict=True)) | {'task': 'rows', 'type': 'CoT'}
      for n, t in enumerate(thoughts.values())
    },
  )
  keys = ('task', 'dataset', 'instruction', 'response')
  tasks = {t[2]: t for t in reasoning.ultrainteract()}
  write_lines(
    'ultrainteract_sft.jsonl',
    (
      dict(zip(keys, t, strict=True)) | {'id': str(n), 'parent_id': str(n)}
      for n, t in enumerate(tasks.values())
    ),
  )
  keys = ('system_prompt', 'question', 'response')
  write_lines(
    'openorca.jsonl',
    (
      {'id': f'rows.{n}'} | dict(zip(keys, a, strict=True))
      for n, a in enumerate(general.openorca())
    ),
  )


if __name__ == '__main__':
  main()
