"""Protocols (protocols.yaml): how a model is asked and scored, under one name and hash.

Fields of a benchmark. data: which problems. task: the name of a task of lm-evaluation-
harness, which then has the prompt. prompt: text with {prompt}, {description}, {test},
{signature}, {entry_point} of a problem, or {prompt}, {head}, {shots} of a question.
system: a turn before it. template: what is around it, a name of corpora/prompts.py,
chat (the tokenizer's own) or none. prefill: how the answer begins. shots: worked
examples before it, each a turn of its own (the first one in the prompt), or a `shot`
with {prompt} and {answer} in {shots}. stops, extract: names in stops.yaml. scorer: one
of SCORERS. limits: of programs and comparisons, fields of code.Times.
"""

import dataclasses
import functools
import hashlib
import importlib.resources
import json
import re
from collections.abc import Mapping
from typing import Any

import yaml

from onlyif_jax.config import ConfigError
from onlyif_jax.evals import postprocess
from onlyif_jax.evals.code import Times
from onlyif_jax.evals.problems import Problem

SCORERS = {
  'evalplus': "EvalPlus's base and plus tests, in the sandbox",
  'check': "the benchmark's own asserts, in the sandbox",
  'lm_eval': 'as the task of lm-evaluation-harness says',
  'boxed': 'the last \\boxed{} equals the reference, as mathematics',
  'printed': 'what the last program prints equals the reference, as mathematics',
  'contains': 'the reference stands in the answer',
  'ifeval': 'four numbers: prompts and instructions, strict and loose',
  'first_letter': 'the answer, one token, is the letter of the right choice',
}
TEMPLATES = ('none', 'chat', 'alpaca', 'magicoder', 'mistral')
FIELDS = ('prompt', 'description', 'test', 'signature', 'entry_point')
QUESTION_FIELDS = ('prompt', 'head', 'shots')
_OF_QUESTIONS = ('boxed', 'printed', 'contains', 'first_letter')
_LIMITED = ('evalplus', 'check', 'boxed', 'printed')  # need the sandbox
# What no score depends on, and so no hash.
_WORDS = ('about', 'source', 'papers', 'note')


@dataclasses.dataclass(frozen=True)
class Decoding:
  """temperature 0 is greedy."""

  temperature: float
  max_new_tokens: int
  top_p: float = 1.0
  samples: int = 1  # of each problem


@dataclasses.dataclass(frozen=True)
class Benchmark:
  """One benchmark of a protocol; the module says what the fields mean."""

  data: str
  scorer: str
  task: str = ''
  prompt: str = ''
  system: str = ''
  shot: str = ''
  template: str = 'none'
  prefill: str = ''
  shots: int = 0
  shots_as_turns: bool = False
  decoding: Decoding | None = None  # None: nothing is generated
  stops: str = 'none'
  extract: str = 'text'
  limits: Times | None = None
  note: str = ''


@dataclasses.dataclass(frozen=True)
class Papers:
  """The papers' rows that the protocol is held against, in percent."""

  columns: tuple[str, ...]
  tables: Mapping[str, Mapping[str, tuple[float, ...]]]


@dataclasses.dataclass(frozen=True)
class Protocol:
  """A named way to evaluate; sha256 covers what decides its scores."""

  name: str
  version: int
  about: str
  source: str
  benchmarks: Mapping[str, Benchmark]
  sha256: str
  papers: Papers | None = None

  def benchmark(self, name: str) -> Benchmark:
    """One benchmark; raises ConfigError for one that the protocol lacks."""
    if name not in self.benchmarks:
      raise ConfigError(
        f'protocol {self.name} has no benchmark {name!r}; it has '
        f'{sorted(self.benchmarks)}'
      )
    return self.benchmarks[name]

  def stamp(self) -> dict[str, Any]:
    """What every result under the protocol says of it."""
    return {
      'protocol': self.name,
      'protocol_version': self.version,
      'protocol_sha256': self.sha256,
    }


def get(name: str) -> Protocol:
  """A protocol by name; raises ConfigError for an unknown one."""
  known = load()
  if name not in known:
    raise ConfigError(f'protocol {name!r} is not known; give one of {sorted(known)}')
  return known[name]


@functools.cache
def load() -> dict[str, Protocol]:
  """name -> protocol; raises ConfigError where protocols.yaml is wrong."""
  files = importlib.resources.files('onlyif_jax.evals')
  return parse(yaml.safe_load((files / 'protocols.yaml').read_text(encoding='utf-8')))


def parse(content: Mapping[str, Any]) -> dict[str, Protocol]:
  """The protocols of a file's content."""
  out = {}
  for name, fields in content['protocols'].items():
    benchmarks = {
      key: _benchmark(value, f'{name}.{key}')
      for key, value in fields['benchmarks'].items()
    }
    made = fields | {
      'name': name,
      'benchmarks': benchmarks,
      'sha256': _sha256(fields, benchmarks),
    }
    if 'papers' in fields:
      made['papers'] = _papers(fields['papers'], name)
    out[name] = _make(Protocol, made, name)
  return out


def _make(kind, fields: Mapping[str, Any], where: str):
  """A dataclass of fields; refuses unknown and missing ones and wrong types."""
  known = {f.name: f for f in dataclasses.fields(kind)}
  unknown = sorted(set(fields) - set(known))
  if unknown:
    raise ConfigError(
      f'protocols.yaml: {where} has unknown fields {unknown}; known are {sorted(known)}'
    )
  for name, field in known.items():
    if name not in fields:
      if field.default is dataclasses.MISSING:
        raise ConfigError(f'protocols.yaml: {where} lacks {name}; add it')
      continue
    if field.type in (str, int, float, bool):
      allowed = (int, float) if field.type is float else field.type
      value = fields[name]
      if not isinstance(value, allowed) or type(value) is bool is not field.type:
        raise ConfigError(
          f'protocols.yaml: {where}.{name}={value!r} is no {field.type.__name__}'
        )
  return kind(**fields)


def _benchmark(fields: Mapping[str, Any], where: str) -> Benchmark:
  made = dict(fields)
  if 'decoding' in fields:
    made['decoding'] = _make(Decoding, fields['decoding'], f'{where}.decoding')
  if 'limits' in fields:
    made['limits'] = _make(Times, fields['limits'], f'{where}.limits')
  benchmark = _make(Benchmark, made, where)
  wrong = []
  if benchmark.scorer not in SCORERS:
    wrong.append(f'scorer {benchmark.scorer!r}')
  if benchmark.template not in TEMPLATES:
    wrong.append(f'template {benchmark.template!r}')
  for kind in ('stops', 'extracts'):
    name = getattr(benchmark, kind.removesuffix('s') if kind == 'extracts' else kind)
    if name not in postprocess.read()[kind]:
      wrong.append(f'{kind} {name!r}')
  known = QUESTION_FIELDS if benchmark.scorer in _OF_QUESTIONS else FIELDS
  used = re.findall(
    r'\{(\w+)\}', (benchmark.prompt + benchmark.prefill).replace('{{', '')
  )
  wrong += [f'{{{name}}} in a text' for name in used if name not in known]
  if wrong:
    raise ConfigError(f'protocols.yaml: {where}: {", ".join(wrong)} is not known')
  if bool(benchmark.task) == bool(benchmark.prompt):
    raise ConfigError(f'protocols.yaml: {where} needs either task or prompt')
  if benchmark.scorer in _LIMITED and not benchmark.limits:
    raise ConfigError(f'protocols.yaml: {where} runs in the sandbox and lacks limits')
  return benchmark


def _papers(fields: Mapping[str, Any], where: str) -> Papers:
  columns = tuple(fields['columns'])
  tables = {
    table: {row: tuple(values) for row, values in rows.items()}
    for table, rows in fields['tables'].items()
  }
  for table, rows in tables.items():
    for row, values in rows.items():
      if len(values) != len(columns):
        raise ConfigError(
          f'protocols.yaml: {where}: {table}, {row} has {len(values)} values for '
          f'{len(columns)} columns'
        )
  return _make(
    Papers, dict(fields) | {'columns': columns, 'tables': tables}, f'{where}.papers'
  )


def _sha256(fields: Mapping[str, Any], benchmarks: Mapping[str, Benchmark]) -> str:
  """Of all that decides a score; stop lists and steps by their content."""
  covered: dict[str, Any] = {'version': fields.get('version')}
  for name, benchmark in benchmarks.items():
    values = dataclasses.asdict(benchmark)
    values['stops'] = postprocess.stops(benchmark.stops, '{entry_point}')
    values['extract'] = postprocess.steps(benchmark.extract)
    covered[name] = {k: v for k, v in values.items() if k not in _WORDS}
  text = json.dumps(covered, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()


def ask(benchmark: Benchmark, problem: Problem) -> tuple[str, str]:
  """The instruction and the begun answer for a problem of code."""
  fields = {
    'prompt': problem.text.strip(),
    'description': description(problem),
    'test': problem.tests[0] if problem.tests else '',
    'signature': signature(problem),
    'entry_point': problem.entry_point,
  }
  if '{prompt}```' in benchmark.prompt:  # the text brings its own line end
    fields['prompt'] = problem.text
  return benchmark.prompt.format(**fields), benchmark.prefill.format(**fields)


def description(problem: Problem) -> str:
  """What MBPP asks in words: its docstring without quotes and asserts."""
  lines = problem.text.strip().strip('"').strip().splitlines()
  return '\n'.join(x for x in lines if not x.startswith('assert')).split(
    ' https://www.'
  )[0]


def signature(problem: Problem) -> str:
  """`name(arguments)` with annotations, from the prompt or else the solution."""
  head = re.compile(
    rf'^def\s+({re.escape(problem.entry_point)}.*?):[ \t]*$', re.M | re.S
  )
  found = head.search(problem.prompt) or head.search(problem.solution)
  if not found:
    return problem.entry_point
  if problem.prompt:
    return found.group(1)
  return found.group(1).replace(' ', '').replace(',', ', ')
