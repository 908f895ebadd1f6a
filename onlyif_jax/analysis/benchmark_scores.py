"""Benchmark results of a run's fine-tuned models, as `benchmarks` leaves them.

<workdir>/benchmarks/<row>/ has, for a benchmark of code, a folder with scores.json and
problems.csv, and for any other a file <benchmark>.json. <row> is a name of results.csv.
"""

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from onlyif_jax.analysis import paired
from onlyif_jax.config import ConfigError
from onlyif_jax.workdir import read_object

FOLDER = 'benchmarks'
SUITES = ('base', 'plus')
CODE = ('humaneval', 'mbpp', 'leetcode')  # how versions of their problems begin
# The two numbers whose mean stands for IFEval; lm-eval's names, then those of evals.
_STRICT = (
  ('prompt_level_strict_acc,none', 'inst_level_strict_acc,none'),
  ('prompt_level_strict_acc', 'inst_level_strict_acc'),
)


class Score(NamedTuple):
  """A model's share on one benchmark.

  problems: of each problem the share of right samples, where they are told; error: the
  standard error over problems, nan where nothing tells it. version: of the problems.
  """

  row: str  # without its seed
  seed: str
  benchmark: str  # 'humaneval', 'mbpp', 'ifeval', ...
  suite: str  # 'base' or 'plus' for code, else ''
  version: str
  value: float
  error: float
  problems: Mapping[str, float]
  origin: Mapping[str, Any]

  @property
  def count(self) -> int:
    """Problems; where they are not told, as many as the error is of; at least 1."""
    known = len(self.problems) or int(self.origin.get('count') or 0)
    if not known and self.error > 0:
      known = round(self.value * (1 - self.value) / self.error**2)
    return max(1, known)


def read(workdir: Path) -> list[Score]:
  """Every score below a workdir, by row; [] without any. Raises ConfigError."""
  out: list[Score] = []
  for folder in sorted(p for p in (workdir / FOLDER).glob('*') if p.is_dir()):
    found = re.fullmatch(r'(.*)-s(\d+)', folder.name)
    row, seed = found.groups() if found else (folder.name, '0')
    code = sorted(folder.rglob('scores.json'))
    for file in code:
      out += _code(file, row, seed)
    inside = {file.relative_to(folder).parts[0] for file in code}
    for file in sorted(folder.glob('*.json')):
      if file.stem not in inside:
        out.append(_other(file, row, seed))
  return out


def _code(file: Path, row: str, seed: str) -> Iterator[Score]:
  told = read_object(file)
  try:
    version, shares = str(told['problems']), dict(told['pass_at'])
    values = {suite: float(shares[suite]['1']) for suite in SUITES if suite in shares}
  except (KeyError, TypeError, ValueError) as e:
    raise ConfigError(
      f'{file} is no scoring of code ({type(e).__name__}: {e}); score the samples again'
    ) from None
  # Scorings without a name are told by the version of their problems.
  known = next((n for n in CODE if version.lower().startswith(n)), CODE[0])
  name = str(told.get('benchmark') or known)
  for suite, value in values.items():
    problems = paired.solved(file.with_name('problems.csv'), f'{suite}_correct')
    own = list(problems.values())
    if abs(sum(own) / len(own) - value) > 1e-6:
      raise ConfigError(
        f'{file} and its problems.csv disagree on {suite}; score the samples again'
      )
    error = math.sqrt(value * (1 - value) / len(own))
    origin = told.get('origin', {})
    yield Score(row, seed, name, suite, version, value, error, problems, origin)


def _other(file: Path, row: str, seed: str) -> Score:
  told = read_object(file)
  try:
    scores, quoted = told['scores'], [told['metric']]
    for names in _STRICT:
      if told['benchmark'] == 'ifeval' and set(names) <= set(scores):
        quoted = list(names)
    values = [float(scores[name]['value']) for name in quoted]
    errors = [_error(scores[name]) for name in quoted]
    version = str(told['data'])
  except (KeyError, TypeError, ValueError) as e:
    raise ConfigError(
      f'{file} is no result of a benchmark ({type(e).__name__}: {e}); run it again'
    ) from None
  # Prompts and instructions are of the same texts: their errors do not average out.
  value, error = sum(values) / len(values), sum(errors) / len(errors)
  name = str(told['benchmark'])
  # Where every question has a verdict, two models are paired by it.
  found = list((file.parent / file.stem).rglob('problems.csv'))
  problems = paired.solved(found[0], 'correct') if len(found) == 1 else {}
  return Score(row, seed, name, '', version, value, error, problems, told)


def _error(score: Mapping[str, float]) -> float:
  """Standard error from a 95 % interval."""
  if 'low' not in score or 'high' not in score:
    return math.nan
  return (float(score['high']) - float(score['low'])) / (2 * 1.96)
