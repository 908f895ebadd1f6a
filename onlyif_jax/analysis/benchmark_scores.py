"""Reads the benchmark results of a run's fine-tuned models.

`onlyif_jax.benchmarks` writes them to <workdir>/benchmarks/<row>/: for a code benchmark
a folder with scores.json and problems.csv, for any other a file <benchmark>.json. <row>
is a name of results.csv.
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
CODE = ('humaneval', 'mbpp', 'leetcode')  # prefixes of the problems' versions
# IFEval's score is the mean of two numbers; lm-eval's names, then those of evals.
_STRICT = (
  ('prompt_level_strict_acc,none', 'inst_level_strict_acc,none'),
  ('prompt_level_strict_acc', 'inst_level_strict_acc'),
)


class Score(NamedTuple):
  """A model's score on one benchmark, as a share.

  problems: problem -> share of right samples, empty if unknown. error: standard error
  over problems, nan if unknown. version: of the problems. origin: the result's file.
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
    """The number of problems; if unknown, as inferred from the error; at least 1."""
    count = len(self.problems) or int(self.origin.get('count') or 0)
    if not count and self.error > 0:
      count = round(self.value * (1 - self.value) / self.error**2)
    return max(1, count)


def read(workdir: Path) -> list[Score]:
  """Every score below a workdir, by row; [] without any. Raises ConfigError."""
  scores: list[Score] = []
  for folder in sorted(p for p in (workdir / FOLDER).glob('*') if p.is_dir()):
    match = re.fullmatch(r'(.*)-s(\d+)', folder.name)
    row, seed = match.groups() if match else (folder.name, '0')
    code_files = sorted(folder.rglob('scores.json'))
    for file in code_files:
      scores += _code(file, row, seed)
    code_names = {file.relative_to(folder).parts[0] for file in code_files}
    for file in sorted(folder.glob('*.json')):
      if file.stem not in code_names:
        scores.append(_other(file, row, seed))
  return scores


def _code(file: Path, row: str, seed: str) -> Iterator[Score]:
  """The scores of a code benchmark, one per suite."""
  result = read_object(file)
  try:
    version, shares = str(result['problems']), dict(result['pass_at'])
    values = {suite: float(shares[suite]['1']) for suite in SUITES if suite in shares}
  except (KeyError, TypeError, ValueError) as e:
    raise ConfigError(
      f'{file} is no scoring of code ({type(e).__name__}: {e}); score the samples again'
    ) from None
  # A result without a name is known by the version of its problems.
  default = next((n for n in CODE if version.lower().startswith(n)), CODE[0])
  name = str(result.get('benchmark') or default)
  for suite, value in values.items():
    problems = paired.solved(file.with_name('problems.csv'), f'{suite}_correct')
    correct = sum(problems.values())
    if not problems or abs(correct / len(problems) - value) > 1e-6:
      raise ConfigError(
        f'{file} and its problems.csv disagree on {suite}; score the samples again'
      )
    error = math.sqrt(value * (1 - value) / len(problems))
    origin = result.get('origin', {})
    yield Score(row, seed, name, suite, version, value, error, problems, origin)


def _other(file: Path, row: str, seed: str) -> Score:
  """The score of a benchmark that is not of code."""
  result = read_object(file)
  try:
    scores, metrics = result['scores'], [result['metric']]
    for names in _STRICT:
      if result['benchmark'] == 'ifeval' and set(names) <= set(scores):
        metrics = list(names)
    values = [float(scores[name]['value']) for name in metrics]
    errors = [_error(scores[name]) for name in metrics]
    version = str(result['data'])
  except (KeyError, TypeError, ValueError) as e:
    raise ConfigError(
      f'{file} is no result of a benchmark ({type(e).__name__}: {e}); run it again'
    ) from None
  # Metrics of the same answers: their errors do not average out.
  value, error = sum(values) / len(values), sum(errors) / len(errors)
  name = str(result['benchmark'])
  # The verdict on every question, if there is one, pairs two models.
  files = list((file.parent / file.stem).rglob('problems.csv'))
  problems = paired.solved(files[0], 'correct') if len(files) == 1 else {}
  return Score(row, seed, name, '', version, value, error, problems, result)


def _error(score: Mapping[str, float]) -> float:
  """Standard error from a 95 % interval."""
  if 'low' not in score or 'high' not in score:
    return math.nan
  return (float(score['high']) - float(score['low'])) / (2 * 1.96)
