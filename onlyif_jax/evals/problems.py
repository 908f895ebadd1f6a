"""Problems of code benchmarks, read from local files in their published formats.

EvalPlus (HumanEval+, MBPP+ of both versions): JSON lines with base_input, plus_input,
canonical_solution, atol. HumanEval: JSON lines with a `check(candidate)`. MBPP: JSON
(lines) with asserts in test_list. LeetCode: JSON lines with asserts on a `Solution()`,
as in the Eurus suite. Files may be gzipped.
"""

import ast
import dataclasses
import gzip
import hashlib
import json
import os
import re
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from onlyif_jax.config import ConfigError
from onlyif_jax.evals.sandbox import Script

VARIABLES = {'humaneval': 'HUMANEVAL_OVERRIDE_PATH', 'mbpp': 'MBPP_OVERRIDE_PATH'}
DATASETS = (*VARIABLES, 'leetcode')
_WHERE = {
  'humaneval': 'HumanEvalPlus.jsonl.gz of the releases of evalplus/humanevalplus_release',
  'mbpp': 'MbppPlus.jsonl.gz of the releases of evalplus/mbppplus_release',
}
# EvalPlus v0.2.0 dropped problems of MBPP+, which raised scores by about four points.
VERSIONS = {('mbpp', 399): 'MBPP+ v0.1.0', ('mbpp', 378): 'MBPP+ v0.2.0'}
_MALFORMED = (KeyError, TypeError, ValueError, SyntaxError, IndexError, AttributeError)
_EVALPLUS = ('prompt', 'entry_point', 'canonical_solution', 'base_input', 'atol')


@dataclasses.dataclass(frozen=True)
class Problem:
  """One problem: either inputs, whose outputs come from `solution`, or a script."""

  task_id: str
  dataset: str  # one of DATASETS
  prompt: str  # what a completion continues; '' for MBPP's original format
  text: str  # the task as a model sees it
  entry_point: str
  solution: str  # a complete correct program
  base: tuple = ()  # argument lists
  plus: tuple = ()
  atol: float = 0.0
  script: Script | None = None
  tests: tuple[str, ...] = ()  # asserts that a prompt may show
  around: tuple[str, str] = ('', '')  # trusted text before and after every program

  def program(self, sample: Mapping[str, Any]) -> str:
    """The program of a sample with `solution` (a whole program) or `completion`."""
    before, after = self.around
    if 'solution' in sample:
      return before + sample['solution'] + after
    return before + self.prompt + sample['completion'] + after

  @property
  def sha256(self) -> str:
    """The hash of all that the expected outputs depend on."""
    return _sha256(repr((self.solution, self.entry_point, self.base, self.plus)))


@dataclasses.dataclass(frozen=True)
class ProblemSet:
  """The problems of one file."""

  dataset: str
  version: str
  path: str
  sha256: str  # of the file
  plus: bool  # whether the file has EvalPlus's further tests
  problems: Mapping[str, Problem]


def read(dataset: str, path: str | os.PathLike | None = None) -> ProblemSet:
  """The problems of one of DATASETS; raises ConfigError for an unreadable file.

  path: None reads the file that EvalPlus's environment variable names.
  """
  if dataset not in DATASETS:
    raise ConfigError(
      f'dataset {dataset!r} is not known; give one of {", ".join(DATASETS)}'
    )
  if not path and dataset not in VARIABLES:
    raise ConfigError(f'no problems of {dataset}: name a local file of the suite')
  path = path or os.environ.get(VARIABLES[dataset])
  if not path:
    raise ConfigError(
      f'no problems of {dataset}: set {VARIABLES[dataset]} to a local file, for '
      f'instance {_WHERE[dataset]}'
    )
  raw = _bytes(Path(path))
  rows = _rows(raw, path)
  problems, plus = {}, False
  for index, row in enumerate(rows, start=1):
    place = f'{path}: problem {index}'
    if not isinstance(row, dict) or 'task_id' not in row:
      raise ConfigError(
        f'{place} has no task_id; give a file of {dataset} as published'
      )
    parse, plus = _format(row, place)
    try:
      problem = parse(row, dataset)
    except _MALFORMED as e:
      raise ConfigError(
        f'{place} ({row["task_id"]}) is malformed ({type(e).__name__}: {e}); give the '
        'file as published'
      ) from None
    problems[problem.task_id] = problem
  if not problems:
    raise ConfigError(f'{path} holds no problems; give a file of {dataset}')
  version = VERSIONS.get((dataset, len(problems)), '') if plus else ''
  version = version or f'{dataset}{"+" * plus}, {len(problems)} problems'
  digest = hashlib.sha256(raw).hexdigest()
  return ProblemSet(dataset, version, str(path), digest, plus, problems)


def _bytes(path: Path) -> bytes:
  try:
    raw = path.read_bytes()
    return gzip.decompress(raw) if path.suffix == '.gz' else raw
  except (OSError, EOFError, zlib.error) as e:
    reason = getattr(e, 'strerror', None) or e
    raise ConfigError(f'{path} cannot be read ({reason}); name another file') from None


def _rows(raw: bytes, path) -> list:
  """A file's rows: JSON lines, or one JSON list."""
  try:
    text = raw.decode('utf-8')
    if text.lstrip().startswith('['):
      return json.loads(text)
    return [json.loads(line) for line in text.split('\n') if line.strip()]
  except (ValueError, RecursionError) as e:
    raise ConfigError(f'{path} is no JSON ({e}); give the file as published') from None


def _format(row: Mapping[str, Any], place: str) -> tuple[Callable, bool]:
  """The parser of a row's format, and whether it is EvalPlus's."""
  if 'prompt_sft' in row:
    return _leetcode, False
  if 'base_input' in row:
    return _evalplus, True
  if 'test' in row:
    return _humaneval, False
  if 'test_list' in row:
    return _mbpp, False
  raise ConfigError(
    f'{place} has neither base_input (EvalPlus) nor test (HumanEval) nor test_list '
    '(MBPP); give a file in one of these formats'
  )


def _evalplus(row: Mapping[str, Any], dataset: str) -> Problem:
  fields = {key: row[key] for key in _EVALPLUS}
  prompt = fields['prompt']

  def inputs(key: str) -> tuple:
    rows = row.get(key) or []
    rows = mbpp_inputs(row['task_id'], rows) if dataset == 'mbpp' else rows
    return tuple(list(args) for args in rows)

  return Problem(
    task_id=str(row['task_id']),
    dataset=dataset,
    prompt=prompt,
    text=prompt,
    entry_point=fields['entry_point'],
    solution=prompt + fields['canonical_solution'],
    base=inputs('base_input'),
    plus=inputs('plus_input'),
    atol=float(fields['atol']),
    tests=tuple(str(row.get('assertion', '')).strip().splitlines()),
  )


def _humaneval(row: Mapping[str, Any], dataset: str) -> Problem:
  prompt, name = row['prompt'], row['entry_point']
  return Problem(
    task_id=str(row['task_id']),
    dataset=dataset,
    prompt=prompt,
    text=prompt,
    entry_point=name,
    solution=prompt + row['canonical_solution'],
    # The test may call helper functions of the prompt.
    script=Script(row['test'], (name,), before=prompt, call='check'),
  )


def _mbpp(row: Mapping[str, Any], dataset: str) -> Problem:
  code, tests = row['code'], tuple(row['test_list'])
  setup = row.get('test_setup_code') or '\n'.join(row.get('test_imports') or ())
  # The names under test are those that the solution defines and the tests call.
  defined = [
    node.name
    for node in ast.parse(code).body
    if isinstance(node, ast.FunctionDef | ast.ClassDef)
  ]
  names = [name for name in defined if re.search(rf'\b{name}\(', '\n'.join(tests))]
  return Problem(
    task_id=f'Mbpp/{row["task_id"]}',
    dataset=dataset,
    prompt='',
    text=row.get('prompt') or row['text'],
    entry_point=names[0],
    solution=code,
    script=Script('\n'.join(tests), tuple(names), before=setup),
    tests=tests,
  )


# LeetCode's imports, as in the suite's IMPORT_HELPER.
_LEETCODE_IMPORTS = """import math, re, sys, copy, datetime, itertools, collections
import heapq, functools, hashlib, numpy, string
import numpy as np
from typing import *
from collections import *
from functools import *
"""
# One Solution serves all tests. A linked list travels as its values.
_LEETCODE_CALL = """

_the_solution = []
def call_solution(method, args, chains):
  for name in chains:
    node = None
    for value in reversed(args[name]):
      node = ListNode(value, node)
    args[name] = node
  if not _the_solution:
    _the_solution.append(Solution())
  found = getattr(_the_solution[0], method)(**args)
  if not hasattr(found, 'next') or not hasattr(found, 'val'):
    return [False, found]
  values = []
  while found:
    values.append(found.val)
    found = found.next
  return [True, values]
"""
_LEETCODE_TEST = """
class ListNode:
  def __init__(self, val=0, next=None):
    self.val, self.next = val, next
def _values(node):
  return [node.val, *_values(node.next)] if node else []
def _chain(values):
  return ListNode(values[0], _chain(values[1:])) if values else None
class Solution:
  def __getattr__(self, method):
    def call(**args):
      chains = [name for name, x in args.items() if isinstance(x, ListNode)]
      sent = {k: _values(x) if k in chains else x for k, x in args.items()}
      is_chain, found = call_solution(method, sent, chains)
      return _chain(found) if is_chain else found
    return call
"""


def _leetcode(row: Mapping[str, Any], dataset: str) -> Problem:
  text = row['prompt_sft']
  name = re.search(r'my_solution\.(\w+)\(', row['test'])
  if name is None:
    raise ValueError('test calls no method of my_solution')
  return Problem(
    task_id=str(row['task_id']),
    dataset=dataset,
    prompt='',
    text=text,
    entry_point=name.group(1),
    solution='',  # the file has none
    script=Script(row['test'], ('call_solution',), before=_LEETCODE_TEST),
    around=(_LEETCODE_IMPORTS, _LEETCODE_CALL),
  )


def _sha256(text: str) -> str:
  return hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()


# Arguments of MBPP+ that are tuples, sets or complex numbers, which JSON lacks: as in
# evalplus.data.mbpp.mbpp_deserialize_inputs, the same in both versions.
def _tuples(args):
  return [tuple(arg) for arg in args]


def _lists_of_tuples(args):
  return [[tuple(x) for x in arg] for arg in args]


def _nested_tuple(value):
  return tuple(map(_nested_tuple, value)) if isinstance(value, list) else value


_FORMS: tuple[tuple[Callable, tuple[int, ...]], ...] = (
  (
    _tuples,
    (2, 116, 132, 143, 222, 261, 273, 394, 399, 421, 424)
    + (429, 470, 560, 579, 596, 616, 630, 726, 740, 744, 809),
  ),
  (
    _lists_of_tuples,
    (63, 64, 70, 94, 120, 237, 272, 299, 400, 409, 417, 438, 473, 614, 780),
  ),
  (lambda a: [[tuple(x) for x in a[0]], a[1]], (75, 413, 444, 753)),
  (lambda a: [a[0], tuple(a[1])], (106, 750)),
  (
    lambda a: [[set(x) if isinstance(x, list) and x else {} for x in a[0]]],
    (115,),
  ),
  (lambda a: [float(a[0]), complex(a[1])], (124,)),
  (lambda a: [tuple(a[0]), a[1]], (250, 405, 446, 617, 720, 763, 808)),
  (lambda a: [tuple(map(tuple, arg)) for arg in a], (259, 401, 445)),
  (
    lambda a: [tuple(tuple(x) if isinstance(x, list) else x for x in a[0])],
    (278,),
  ),
  (lambda a: [tuple(a[0]), a[1], a[2]], (307,)),
  (lambda a: [{k: tuple(v) for k, v in a[0].items()}, *a[1:]], (722,)),
  (lambda a: [complex(a[0])], (252,)),
  (lambda a: list(_nested_tuple(a)), (580, 615, 791)),
)
_FORM = {number: form for form, numbers in _FORMS for number in numbers}


def mbpp_inputs(task_id: str, rows: list) -> list:
  """The arguments of an MBPP+ problem as its solution takes them."""
  form = _FORM.get(int(str(task_id).split('/')[-1]))
  return [form(args) for args in rows] if form else rows
