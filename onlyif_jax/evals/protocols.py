"""Protocols (protocols.yaml): how a model is asked and scored, under one name and hash.

Fields of a benchmark:
  data: the problems.
  task: a task of lm-evaluation-harness, which then defines the prompt.
  prompt: text with {prompt}, {description}, {test}, {signature}, {entry_point} of a
    problem, or {prompt}, {head}, {shots} of a question.
  system: the system turn. prefill: the beginning of the answer.
  template: a name of corpora/prompts.py, chat (the tokenizer's own) or none.
  shots: the number of worked examples, each a turn of its own (the first one in the
    prompt), or formatted by `shot` with {prompt} and {answer} into {shots}.
  stops, extract: names in stops.yaml. scorer: one of SCORERS.
  limits: of programs and comparisons, fields of code.Times.
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
# Fields that no score depends on, so the hash leaves them out.
_PROSE = ('about', 'source', 'papers', 'note')


@dataclasses.dataclass(frozen=True)
class Decoding:
  """temperature 0 is greedy."""

  temperature: float
  max_new_tokens: int
  top_p: float = 1.0
  samples: int = 1  # of each problem


@dataclasses.dataclass(frozen=True)
class Benchmark:
  """One benchmark of a protocol; the module describes the fields."""

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
  """The papers' rows that the protocol is compared with, in percent."""

  columns: tuple[str, ...]
  tables: Mapping[str, Mapping[str, tuple[float, ...]]]


@dataclasses.dataclass(frozen=True)
class Protocol:
  """A named way to evaluate; sha256 covers everything that decides its scores."""

  name: str
  version: int
  about: str
  source: str
  benchmarks: Mapping[str, Benchmark]
  sha256: str
  papers: Papers | None = None

  def benchmark(self, name: str) -> Benchmark:
    """One benchmark; raises ConfigError where the protocol lacks it."""
    if name not in self.benchmarks:
      raise ConfigError(
        f'protocol {self.name} has no benchmark {name!r}; it has '
        f'{sorted(self.benchmarks)}'
      )
    return self.benchmarks[name]

  def stamp(self) -> dict[str, Any]:
    """The fields that identify the protocol in every result."""
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
  """name -> protocol; raises ConfigError where protocols.yaml is invalid."""
  files = importlib.resources.files('onlyif_jax.evals')
  return parse(yaml.safe_load((files / 'protocols.yaml').read_text(encoding='utf-8')))


def parse(content: Mapping[str, Any]) -> dict[str, Protocol]:
  """The protocols of a file's content."""
  protocols_by_name = {}
  for name, fields in content['protocols'].items():
    benchmarks = {
      key: _benchmark(value, f'{name}.{key}')
      for key, value in fields['benchmarks'].items()
    }
    values = fields | {
      'name': name,
      'benchmarks': benchmarks,
      'sha256': _sha256(fields, benchmarks),
    }
    if 'papers' in fields:
      values['papers'] = _papers(fields['papers'], name)
    protocols_by_name[name] = _make(Protocol, values, name)
  return protocols_by_name


def _make(kind, fields: Mapping[str, Any], where: str):
  """A dataclass from fields; refuses unknown or missing fields and wrong types."""
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
  values = dict(fields)
  if 'decoding' in fields:
    values['decoding'] = _make(Decoding, fields['decoding'], f'{where}.decoding')
  if 'limits' in fields:
    values['limits'] = _make(Times, fields['limits'], f'{where}.limits')
  benchmark = _make(Benchmark, values, where)
  unknown = []
  if benchmark.scorer not in SCORERS:
    unknown.append(f'scorer {benchmark.scorer!r}')
  if benchmark.template not in TEMPLATES:
    unknown.append(f'template {benchmark.template!r}')
  for kind, name in (('stops', benchmark.stops), ('extracts', benchmark.extract)):
    if name not in postprocess.read()[kind]:
      unknown.append(f'{kind} {name!r}')
  placeholders = QUESTION_FIELDS if benchmark.scorer in _OF_QUESTIONS else FIELDS
  text = (benchmark.prompt + benchmark.prefill).replace('{{', '')
  used = re.findall(r'\{(\w+)\}', text)
  unknown += [f'{{{name}}} in a text' for name in used if name not in placeholders]
  if unknown:
    raise ConfigError(f'protocols.yaml: {where}: {", ".join(unknown)} is not known')
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
  """The hash of all that decides a score; stop lists and steps by their content."""
  hashed: dict[str, Any] = {'version': fields.get('version')}
  for name, benchmark in benchmarks.items():
    values = dataclasses.asdict(benchmark)
    values['stops'] = postprocess.stops(benchmark.stops, '{entry_point}')
    values['extract'] = postprocess.steps(benchmark.extract)
    hashed[name] = {k: v for k, v in values.items() if k not in _PROSE}
  text = json.dumps(hashed, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()


def ask(benchmark: Benchmark, problem: Problem) -> tuple[str, str]:
  """The instruction and the prefill of the answer, for a code problem."""
  fields = {
    'prompt': problem.text.strip(),
    'description': description(problem),
    'test': problem.tests[0] if problem.tests else '',
    'signature': signature(problem),
    'entry_point': problem.entry_point,
  }
  if '{prompt}```' in benchmark.prompt:  # the problem's own line end precedes the fence
    fields['prompt'] = problem.text
  return benchmark.prompt.format(**fields), benchmark.prefill.format(**fields)


def description(problem: Problem) -> str:
  """MBPP's task in words: its docstring without quotes and asserts."""
  lines = problem.text.strip().strip('"').strip().splitlines()
  text = '\n'.join(line for line in lines if not line.startswith('assert'))
  return text.split(' https://www.')[0]


def signature(problem: Problem) -> str:
  """`name(arguments)` with annotations, from the prompt or else the solution."""
  pattern = re.compile(
    rf'^def\s+({re.escape(problem.entry_point)}.*?):[ \t]*$', re.M | re.S
  )
  match = pattern.search(problem.prompt) or pattern.search(problem.solution)
  if not match:
    return problem.entry_point
  if problem.prompt:
    return match.group(1)
  return match.group(1).replace(' ', '').replace(',', ', ')
