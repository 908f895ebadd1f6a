"""The best share of a mixture: the top of a parabola in the logarithm of the share."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from onlyif_jax.analysis import spread
from onlyif_jax.analysis.results import Analysis
from onlyif_jax.analysis.selector import Selector

MIN_SHARES = 3  # a parabola has three parameters


@dataclasses.dataclass(frozen=True)
class SweetSpot:
  """The best share with its 95 % interval over seeds; None with a reason."""

  share: float | None
  low: float | None  # None for fewer than three seeds
  high: float | None
  per_seed: Mapping[str, float]
  reason: str | None


def sweet_spot(points: Mapping[str, Sequence[tuple[float, float]]]) -> SweetSpot:
  """The share above 0 at which accuracy is highest, between the shares measured.

  points: seed -> (share, accuracy). Each seed gets a least-squares parabola in log10
  share, and the interval is Student's t over seeds of the log of its top, as it is
  for I_50 (a bootstrap over so few seeds would be too narrow). A seed has no sweet
  spot if its parabola opens upwards or has its top at or beyond the end of the
  shares; if only some seeds have one, there is none, since leaving seeds out would
  hide that the peak is not there.
  """
  tops, reasons = {}, []
  for seed, own in points.items():
    top = _top([(s, value) for s, value in own if s > 0])
    if isinstance(top, str):
      reasons.append(f'seed {seed}: {top}')
    else:
      tops[seed] = top
  if reasons or not tops:
    per_seed = {s: 10**v for s, v in tops.items()}
    return SweetSpot(None, None, None, per_seed, '; '.join(reasons) or 'no points')
  found = spread.over_seeds(list(tops.values()), [], [math.inf])
  known = math.isfinite(found.half)
  return SweetSpot(
    share=10**found.value,
    low=10 ** (found.value - found.half) if known else None,
    high=10 ** (found.value + found.half) if known else None,
    per_seed={s: 10**v for s, v in tops.items()},
    reason=None,
  )


def best_shares(run: Analysis) -> dict[tuple[int, int], SweetSpot]:
  """(in-domain rules, diversification rules) -> the best share at unseen depth.

  {} for a run without a specialist's mixtures (task algebra, split deeper).
  """
  select = Selector(run)
  found: dict[tuple[int, int], dict[str, list[tuple[float, float]]]] = {}
  for row in run.values('deeper').values():
    own = int(select.value(row, 'task.specialist') or 0)
    diverse = row.instructions - own
    if own and diverse and not row.reference:
      share = float(select.value(row, 'task.diverse_share'))
      seeds = found.setdefault((own, diverse), {})
      seeds.setdefault(row.seed, []).append((share, row.value))
  return {key: sweet_spot(seeds) for key, seeds in sorted(found.items())}


def _top(points: Sequence[tuple[float, float]]) -> float | str:
  """log10 of the share at the parabola's top, or why there is none within."""
  shares = sorted({s for s, _ in points})
  if len(shares) < MIN_SHARES:
    return f'{len(shares)} shares, a parabola needs {MIN_SHARES}'
  x = np.log10([s for s, _ in points])
  y = np.array([value for _, value in points])
  middle = x.mean()
  a, b, _ = np.polyfit(x - middle, y, 2)
  if a >= 0:
    return 'no peak'
  top = middle - b / (2 * a)
  if not x.min() < top < x.max():
    return 'the best share is at an end'
  return float(top)
