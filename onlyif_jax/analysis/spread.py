"""Means over seeds with intervals, and what an interval lets one say.

Three seeds or more: Student's t over seeds, and at least the sampling noise of the
test examples (clustered by rule where that is known), which needs no t. Fewer: seeds
differ by an unknown amount, so claims assume a standard deviation of ASSUMED
sqrt(p (1 - p)), which seeds of Fig. 2a's plateau show, for each single value.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from onlyif_jax.analysis.results import Row

ASSUMED = 0.2
NORMAL = 1.96
MIN_SEEDS = 3
WIDEST = 0.25  # half of a prediction interval that still says something
UNKNOWN_N = 1_000  # assumed where the papers do not give the size of their test


class Mean(NamedTuple):
  """A mean over seeds, half of its 95 % interval, and the number of seeds."""

  value: float
  half: float
  seeds: int

  def beyond(self, threshold: float, *, above: bool) -> bool | None:
    """Whether it is at least (above) or at most a threshold; None: undecided."""
    gap = self.value - threshold if above else threshold - self.value
    if gap >= self.half:
      return True
    return False if gap < -self.half else None

  def text(self, digits: int = 2, top: float | None = 1.0) -> str:
    """'0.41 [0.35, 0.47]'; without a range where it is not known.

    top: what a whole is, as an interval of a share ends there and at 0; None for a
    difference, which does not.
    """
    if not math.isfinite(self.half):
      return f'{self.value:.{digits}f}'
    low, high = self.value - self.half, self.value + self.half
    if top is not None and 0 <= self.value <= top:
      low, high = max(0.0, low), min(top, high)
    return f'{self.value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]'


def noise(value: float, n: float) -> float:
  """Standard deviation of a share of n examples; above 0 at shares of 0 and 1."""
  if not 0 <= value <= 1:
    return 0.0
  shrunk = (value * n + 1) / (n + 2)
  return math.sqrt(shrunk * (1 - shrunk) / n)


def row_noise(row: Row) -> float:
  """A row's sampling noise: of its examples or, if larger, of its sample of rules."""
  own = noise(row.value, row.count) if row.count else 0.0
  return max(own, row.rule_se) if math.isfinite(row.rule_se) else own


def mean(rows: Mapping[str, Row]) -> Mean:
  """The mean over a group's seeds, as a claim is judged by."""
  values = [r.value for r in rows.values()]
  return over_seeds(values, [row_noise(r) for r in rows.values()], [assumed(values)])


def difference(a: Mapping[str, Row], b: Mapping[str, Row]) -> Mean | None:
  """Mean of a - b, paired by seed; None where they share no seed."""
  return paired(a, b, lambda x, y: x - y, lambda x, y: (1.0, 1.0))


def paired(
  a: Mapping[str, Row],
  b: Mapping[str, Row],
  value: Callable[[float, float], float],
  slopes: Callable[[float, float], tuple[float, float]],
) -> Mean | None:
  """Mean over shared seeds of value(a, b); slopes: its derivatives, for the noise."""
  seeds = [s for s in a if s in b]
  if not seeds:
    return None
  values, noises = [], []
  for seed in seeds:
    x, y = a[seed], b[seed]
    values.append(value(x.value, y.value))
    by_a, by_b = slopes(x.value, y.value)
    noises.append(math.hypot(by_a * row_noise(x), by_b * row_noise(y)))
  sides = [assumed([side[s].value for s in seeds]) for side in (a, b)]
  steps = slopes(*(sum(side[s].value for s in seeds) / len(seeds) for side in (a, b)))
  return over_seeds(values, noises, [d * s for d, s in zip(steps, sides, strict=True)])


def over_seeds(
  values: Sequence[float], noises: Sequence[float], assumed: Sequence[float]
) -> Mean:
  """The mean with its interval; assumed: spreads between seeds if they are few."""
  reach = deviation(values, noises)
  count = len(values)
  if count >= MIN_SEEDS:
    half = reach / math.sqrt(count)
  else:
    half = math.hypot(reach, *(NORMAL * a for a in assumed))
  return Mean(float(np.mean(values)), half, count)


def deviation(values: Sequence[float], noises: Sequence[float]) -> float:
  """How far 95 % of single seeds lie from the mean: quantile x standard deviation.

  Under three seeds it is the sampling noise alone.
  """
  own = NORMAL * math.sqrt(np.mean(np.square(noises))) if len(noises) else 0.0
  if len(values) < MIN_SEEDS:
    return own
  from scipy import special  # slow to load

  quantile = float(special.stdtrit(len(values) - 1, 0.975))
  return max(quantile * float(np.std(values, ddof=1)), own)


def assumed(values: Sequence[float]) -> float:
  """Spread between seeds where there are too few to see it; inf beyond shares."""
  middle = float(np.mean(values))
  if not 0 <= middle <= 1:
    return math.inf
  return ASSUMED * math.sqrt(middle * (1 - middle))
