"""Two models on the same problems: is their difference more than noise?

Most gaps of the papers' Table 1 are one to five of 164 problems. So: the difference of
means with a paired bootstrap interval over problems, McNemar's exact test, Holm's
correction over the rows of a table, and, where several subsets were drawn and several
seeds trained, how much of the spread is the draw's and how much the seed's. Numpy and
scipy only.
"""

import csv
import dataclasses
import math
import os
from collections.abc import Mapping, Sequence

import numpy as np

from onlyif_jax.config import ConfigError

DRAWS = 10_000  # of the bootstrap
LEVEL = 0.95


@dataclasses.dataclass(frozen=True)
class Difference:
  """Mean of b less mean of a, in shares, with its interval over problems."""

  value: float
  low: float
  high: float
  problems: int


@dataclasses.dataclass(frozen=True)
class McNemar:
  """Problems that one model alone solves, and the exact two-sided p-value."""

  only_a: int
  only_b: int
  p: float


@dataclasses.dataclass(frozen=True)
class Components:
  """Standard deviations of a score: of subset draws, and of seeds on one subset.

  draw is None without a second draw, seed without a second seed on a draw.
  """

  mean: float
  draw: float | None
  seed: float | None
  draws: int
  runs: int

  @property
  def single(self) -> float | None:
    """Standard deviation of one run's score over draws and seeds."""
    known = [x for x in (self.draw, self.seed) if x is not None]
    return math.hypot(*known) if known else None


@dataclasses.dataclass(frozen=True)
class Comparison:
  """One row of a table: a model b against a baseline a."""

  name: str
  difference: Difference
  mcnemar: McNemar
  holm: float  # McNemar's p-value, corrected for the table's rows
  runs: Components | None = None  # of single runs, where several were trained

  @property
  def within_noise(self) -> bool:
    """Whether the difference is less than its noise: of problems or of runs."""
    d = self.difference
    return d.low <= 0 <= d.high or self.holm > 1 - LEVEL or self._within_runs

  @property
  def _within_runs(self) -> bool:
    single = self.runs.single if self.runs else None
    return single is not None and abs(self.difference.value) < 1.96 * 2**0.5 * single

  def sentence(self) -> str:
    """What may be said of the row, in points of per cent and in problems."""
    d, m = self.difference, self.mcnemar
    n = m.only_b - m.only_a
    text = (
      f'{self.name}: {_points(d.value)} points [{_points(d.low)}, {_points(d.high)}], '
      f'{n:+d} of {d.problems} problems ({m.only_b} solved by it alone, {m.only_a} by '
      f'the baseline alone; exact McNemar p = {m.p:.2g}, {self.holm:.2g} after Holm)'
    )
    if not self.within_noise:
      return f'{text}: more than its noise.'
    if self._within_runs and self.runs:
      points = 100 * (self.runs.single or 0.0)
      return (
        f'{text}: less than its noise; two runs that differ in nothing but '
        f'{_sources(self.runs)} differ by as much (standard deviation {points:.1f}).'
      )
    return f'{text}: less than its noise.'


def _points(share: float) -> str:
  return f'{round(100 * share, 1) + 0.0:+.1f}'  # no -0.0


def _sources(runs: Components) -> str:
  names = {'subset draw': runs.draw, 'training seed': runs.seed}
  return ' and '.join(name for name, value in names.items() if value is not None)


def bootstrap(
  a: np.ndarray, b: np.ndarray, *, draws: int = DRAWS, seed: int = 0
) -> Difference:
  """The difference of means, by resampling problems; a, b: scores by problem, (N,).

  The interval is of percentiles, widened by sqrt(N / (N - 1)) as few problems need.
  """
  a, b = _paired(a, b)
  return stratified([b - a], draws=draws, seed=seed)


def stratified(
  gaps: Sequence[np.ndarray],
  weights: Sequence[float] | None = None,
  *,
  draws: int = DRAWS,
  seed: int = 0,
) -> Difference:
  """The weighted mean of several benchmarks' mean gaps, by resampling inside each.

  gaps: b less a by problem, one array a benchmark; weights: with sum 1, by default
  equal. The interval is widened as that of `bootstrap`.
  """
  weights = [1 / len(gaps)] * len(gaps) if weights is None else weights
  rng = np.random.default_rng(seed)
  value, around = 0.0, np.zeros(draws)
  for gap, weight in zip(gaps, weights, strict=True):
    n = len(gap)
    # Scores repeat, so a draw of problems is a draw of counts of the gap's values.
    values, counts = np.unique(gap, return_counts=True)
    means = rng.multinomial(n, counts / n, size=draws) @ values / n
    mean = float(gap.mean())
    value += weight * mean
    around += weight * math.sqrt(n / (n - 1)) * (means - mean)
  tail = 100 * (1 - LEVEL) / 2
  low, high = np.percentile(around, [tail, 100 - tail])
  problems = sum(map(len, gaps))
  return Difference(value, value + float(low), value + float(high), problems)


def mcnemar(a: np.ndarray, b: np.ndarray) -> McNemar:
  """The exact test on problems that one of the two solves; a, b: 0 or 1, (N,)."""
  from scipy import stats

  a, b = _paired(a, b)
  if not np.isin([a, b], [0, 1]).all():
    raise ValueError('McNemar compares solved with unsolved; give scores of 0 and 1')
  only_a, only_b = int(((a == 1) & (b == 0)).sum()), int(((a == 0) & (b == 1)).sum())
  total = only_a + only_b
  p = float(stats.binomtest(only_a, total).pvalue) if total else 1.0
  return McNemar(only_a, only_b, p)


def holm(p_values: Sequence[float]) -> list[float]:
  """p-values corrected for their number, by Holm's step-down, in their order.

  >>> holm([0.01, 0.04, 0.03])
  [0.03, 0.06, 0.06]
  """
  out = [0.0] * len(p_values)
  largest = 0.0
  order = sorted(range(len(p_values)), key=lambda i: p_values[i])
  for rank, i in enumerate(order):
    largest = max(largest, (len(p_values) - rank) * p_values[i])
    out[i] = min(1.0, largest)
  return out


def components(scores: Mapping[tuple[str, str], float]) -> Components:
  """Spread of a score over (draw, seed), by analysis of variance.

  Seeds are nested in draws, which may have different numbers of them. A negative
  estimate of the draw's part is zero.
  """
  groups: dict[str, list[float]] = {}
  for (draw, _), value in scores.items():
    groups.setdefault(draw, []).append(value)
  if not groups:
    raise ValueError('no scores; give at least one run')
  sizes = np.array([len(g) for g in groups.values()])
  means = np.array([np.mean(g) for g in groups.values()])
  runs, k = int(sizes.sum()), len(groups)
  mean = float((sizes * means).sum() / runs)
  inside = sum(float(((np.array(g) - np.mean(g)) ** 2).sum()) for g in groups.values())
  within = inside / (runs - k) if runs > k else None
  if k == 1:
    draw = None
  else:
    between = float((sizes * (means - mean) ** 2).sum()) / (k - 1)
    # With equal sizes this is their size; with one seed each, draw holds both parts.
    each = (runs - float((sizes**2).sum()) / runs) / (k - 1)
    draw = math.sqrt(max(0.0, (between - (within or 0.0)) / each))
  seed = None if within is None else math.sqrt(within)
  return Components(mean, draw, seed, k, runs)


def compare(
  baseline: np.ndarray,
  others: Mapping[str, np.ndarray],
  runs: Components | None = None,
) -> list[Comparison]:
  """A table's rows against its baseline: 0 or 1 by problem; Holm over the rows.

  runs: the spread of single runs, where it was measured.
  """
  tests = [mcnemar(baseline, b) for b in others.values()]
  corrected = holm([t.p for t in tests])
  return [
    Comparison(name, bootstrap(baseline, b), test, p, runs)
    for (name, b), test, p in zip(others.items(), tests, corrected, strict=True)
  ]


def solved(path: str | os.PathLike, column: str) -> dict[str, float]:
  """Share of samples that were right, by problem, of a scoring's problems.csv."""
  try:
    with open(path, newline='', encoding='utf-8') as file:
      rows = list(csv.DictReader(file))
    return {r['task_id']: int(r[column]) / int(r['samples']) for r in rows}
  except (OSError, KeyError, ValueError, TypeError) as e:
    raise ConfigError(
      f'{path} has no column {column} of counts by problem ({type(e).__name__}: {e}); '
      'give the problems.csv of a scoring'
    ) from None


def aligned(a: Mapping[str, float], b: Mapping[str, float]) -> tuple[np.ndarray, ...]:
  """Two models' scores in one order of problems; refuses different problems."""
  if different := sorted(set(a) ^ set(b)):
    raise ConfigError(
      f'the results are of different problems ({len(different)}, such as '
      f'{different[0]}); score both on one file'
    )
  return np.array(list(a.values())), np.array([b[name] for name in a])


def _paired(a, b) -> tuple[np.ndarray, np.ndarray]:
  a, b = np.asarray(a, float), np.asarray(b, float)
  if a.shape != b.shape or a.ndim != 1 or len(a) < 2:
    raise ValueError(
      f'scores of shapes {a.shape} and {b.shape}; give one score of each problem, of '
      'two or more'
    )
  return a, b
