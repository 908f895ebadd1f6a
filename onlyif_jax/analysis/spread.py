"""Means over seeds with intervals, and their comparison with thresholds.

For three seeds or more the interval is Student's t over seeds, but not narrower than
the sampling noise of the test examples (clustered by rule if known). For fewer, the
spread of seeds is unknown, and a standard deviation of ASSUMED sqrt(p (1 - p)) per
seed is assumed, as seen on the plateau of Fig. 2a.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from onlyif_jax.analysis.results import Row

ASSUMED = 0.2
NORMAL = 1.96
MIN_SEEDS = 3
WIDEST = 0.25  # largest half of a prediction interval that is conclusive
UNKNOWN_N = 1_000  # test examples assumed if the papers do not give their number


class Mean(NamedTuple):
  """A mean over seeds, half of its 95 % interval, and the number of seeds."""

  value: float
  half: float
  seeds: int

  def beyond(self, threshold: float, *, above: bool) -> bool | None:
    """Whether the mean is at least (above) or at most a threshold; None: undecided."""
    gap = self.value - threshold if above else threshold - self.value
    if gap >= self.half:
      return True
    return False if gap < -self.half else None

  def text(self, digits: int = 2, top: float | None = 1.0) -> str:
    """'0.41 [0.35, 0.47]', or '0.41' if the interval is unknown.

    top: the value of a whole, since the interval of a share ends there and at 0; None
    for a difference, which has no such ends.
    """
    if not math.isfinite(self.half):
      return f'{self.value:.{digits}f}'
    low, high = self.value - self.half, self.value + self.half
    if top is not None and 0 <= self.value <= top:
      low, high = max(0.0, low), min(top, high)
    return f'{self.value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]'


def noise(value: float, n: float) -> float:
  """Standard error of a share of n examples, positive even at 0 and 1.

  0 for a value that is not a share.
  """
  if not 0 <= value <= 1:
    return 0.0
  shrunk = (value * n + 1) / (n + 2)
  return math.sqrt(shrunk * (1 - shrunk) / n)


def row_noise(row: Row) -> float:
  """A row's sampling noise: of its examples or, if larger, of its sample of rules."""
  of_examples = noise(row.value, row.count) if row.count else 0.0
  return max(of_examples, row.rule_se) if math.isfinite(row.rule_se) else of_examples


def mean(rows: Mapping[str, Row]) -> Mean:
  """The mean over a group's seeds (seed -> row), by which claims are judged."""
  values = [r.value for r in rows.values()]
  return over_seeds(values, [row_noise(r) for r in rows.values()], [assumed(values)])


def difference(a: Mapping[str, Row], b: Mapping[str, Row]) -> Mean | None:
  """Mean of a - b (seed -> row), paired by seed; None without a shared seed."""
  pairs = [(a[seed], b[seed]) for seed in a if seed in b]
  if not pairs:
    return None
  values = [x.value - y.value for x, y in pairs]
  noises = [math.hypot(row_noise(x), row_noise(y)) for x, y in pairs]
  spreads = [assumed([row.value for row in side]) for side in zip(*pairs, strict=True)]
  return over_seeds(values, noises, spreads)


def over_seeds(
  values: Sequence[float], noises: Sequence[float], assumed: Sequence[float]
) -> Mean:
  """The mean of single seeds with its interval.

  noises: sampling noise of each. assumed: standard deviations between seeds to assume
  for fewer than three.
  """
  half = deviation(values, noises)
  if len(values) >= MIN_SEEDS:
    half /= math.sqrt(len(values))
  else:
    half = math.hypot(half, *(NORMAL * a for a in assumed))
  return Mean(float(np.mean(values)), half, len(values))


def deviation(values: Sequence[float], noises: Sequence[float]) -> float:
  """Half of the range of 95 % of single seeds: quantile x standard deviation.

  At least the sampling noise, and just that for fewer than three seeds.
  """
  noise = NORMAL * math.sqrt(np.mean(np.square(noises))) if len(noises) else 0.0
  if len(values) < MIN_SEEDS:
    return noise
  from scipy import special  # slow to load

  quantile = float(special.stdtrit(len(values) - 1, 0.975))
  return max(quantile * float(np.std(values, ddof=1)), noise)


def assumed(values: Sequence[float]) -> float:
  """Standard deviation to assume between too few seeds; inf for values not shares."""
  mean = float(np.mean(values))
  if not 0 <= mean <= 1:
    return math.inf
  return ASSUMED * math.sqrt(mean * (1 - mean))
