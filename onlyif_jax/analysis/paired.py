"""Two models on the same problems: is their difference more than noise?

Most gaps of the papers' Table 1 are one to five of 164 problems. Hence the difference
of means with a paired bootstrap interval over problems, McNemar's exact test, Holm's
correction over a table's rows and seeds, and variance components of rows and seeds.
Needs numpy and scipy only.
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
  """Mean of b less mean of a, in shares, with its 95 % interval over problems."""

  value: float
  low: float
  high: float
  problems: int


@dataclasses.dataclass(frozen=True)
class McNemar:
  """Problems that only one model solves, and the exact two-sided p-value."""

  only_a: int
  only_b: int
  p: float


@dataclasses.dataclass(frozen=True)
class Components:
  """Standard deviations of a score: between groups, and between runs inside a group.

  between is None for one group; inside is None if no group has two runs. In a table of
  mixtures the groups are the mixtures and the runs their seeds.
  """

  mean: float
  between: float | None
  inside: float | None
  groups: int
  runs: int


def stratified(
  gaps: Sequence[np.ndarray],
  weights: Sequence[float] | None = None,
  *,
  draws: int = DRAWS,
  seed: int = 0,
) -> Difference:
  """The weighted mean of several benchmarks' mean gaps, resampling inside each.

  gaps: b less a by problem, one array per benchmark; weights: with sum 1, equal by
  default. A percentile interval, widened by sqrt(N / (N - 1)) for small N.
  """
  weights = [1 / len(gaps)] * len(gaps) if weights is None else weights
  rng = np.random.default_rng(seed)
  value, deviations = 0.0, np.zeros(draws)
  for gap, weight in zip(gaps, weights, strict=True):
    n = len(gap)
    # Few distinct gaps: drawing problems is drawing the counts of these values.
    values, counts = np.unique(gap, return_counts=True)
    means = rng.multinomial(n, counts / n, size=draws) @ values / n
    mean = float(gap.mean())
    value += weight * mean
    deviations += weight * math.sqrt(n / (n - 1)) * (means - mean)
  tail = 100 * (1 - LEVEL) / 2
  low, high = np.percentile(deviations, [tail, 100 - tail])
  problems = sum(map(len, gaps))
  return Difference(value, value + float(low), value + float(high), problems)


def mcnemar(a: np.ndarray, b: np.ndarray) -> McNemar:
  """McNemar's exact test; a, b: 0 or 1 for each problem, shape [N]."""
  from scipy import stats

  a, b = _paired(a, b)
  if not np.isin([a, b], [0, 1]).all():
    raise ValueError('McNemar compares solved with unsolved; give scores of 0 and 1')
  only_a, only_b = int(((a == 1) & (b == 0)).sum()), int(((a == 0) & (b == 1)).sum())
  total = only_a + only_b
  p = float(stats.binomtest(only_a, total).pvalue) if total else 1.0
  return McNemar(only_a, only_b, p)


def holm(p_values: Sequence[float]) -> list[float]:
  """p-values after Holm's step-down correction, in their order.

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
  """Spread of a score over (group, run), by analysis of variance.

  Runs are nested in groups of any size. A negative estimate of the variance between
  groups is set to zero. Raises ValueError without any score.
  """
  groups: dict[str, list[float]] = {}
  for (group, _), value in scores.items():
    groups.setdefault(group, []).append(value)
  if not groups:
    raise ValueError('no scores; give at least one run')
  sizes = np.array([len(g) for g in groups.values()])
  means = np.array([np.mean(g) for g in groups.values()])
  runs, k = int(sizes.sum()), len(groups)
  mean = float((sizes * means).sum() / runs)
  squares = sum(float(((np.array(g) - np.mean(g)) ** 2).sum()) for g in groups.values())
  mean_square = squares / (runs - k) if runs > k else None
  inside = None if mean_square is None else math.sqrt(mean_square)
  between = None
  if k > 1:
    mean_square_between = float((sizes * (means - mean) ** 2).sum()) / (k - 1)
    # The size of the groups if they are equal. With one run each, the parts between
    # and inside cannot be separated, and both are counted as between.
    size = (runs - float((sizes**2).sum()) / runs) / (k - 1)
    variance = (mean_square_between - (mean_square or 0.0)) / size
    between = math.sqrt(max(0.0, variance))
  return Components(mean, between, inside, k, runs)


def solved(path: str | os.PathLike, column: str) -> dict[str, float]:
  """Problem -> share of right samples, from a problems.csv; raises ConfigError."""
  try:
    with open(path, newline='', encoding='utf-8') as file:
      rows = list(csv.DictReader(file))
    return {r['task_id']: int(r[column]) / int(r['samples']) for r in rows}
  except (OSError, KeyError, ValueError, TypeError, ZeroDivisionError) as e:
    raise ConfigError(
      f'{path} has no column {column} of counts by problem ({type(e).__name__}: {e}); '
      'give the problems.csv of a scoring'
    ) from None


def aligned(a: Mapping[str, float], b: Mapping[str, float]) -> tuple[np.ndarray, ...]:
  """Two models' scores in one order; raises ConfigError for different problems."""
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
