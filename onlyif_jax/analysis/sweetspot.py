"""The best share of a mixture: the top of a parabola.

For symbolic tasks, whose shares span decades, it is one in the logarithm of the share,
with an interval over seeds; for mixtures of text, which begin at share 0, one in the
share itself, with an interval over problems and, of several, over seeds.
"""

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


@dataclasses.dataclass(frozen=True)
class MixtureSpot:
  """The share at which a mixture's score is highest, and how sure that is.

  share: the top of the parabola; None, with a reason, where it has none between the
  ends. low, high: its 95 % interval, within the ends; None without problems to
  resample. inside: resamples of problems with a top in between. seeds: of the curve; 0
  for printed values.
  """

  share: float | None
  low: float | None
  high: float | None
  inside: float | None
  reason: str = ''
  seeds: int = 0

  def text(self) -> str:
    """'11 % [4, 18]', or why there is none."""
    ends = ''
    if self.low is not None and self.high is not None:
      ends = f' [{100 * self.low:.0f}, {100 * self.high:.0f}]'
      ends += ' over problems alone, of one seed' if self.seeds == 1 else ''
    if self.share is None:
      return f'none: {self.reason}{f"; 95 %{ends}" if ends else ""}'
    text = f'{100 * self.share:.0f} %{ends}'
    if self.inside is not None and self.inside < 0.95:
      text += f'; no top between the ends in {1 - self.inside:.0%} of resamples'
    return text


def mixture_spot(
  shares: Sequence[float],
  solved: Sequence[np.ndarray],
  *,
  draws: int = 2_000,
  seed: int = 0,
) -> MixtureSpot:
  """The best share of a curve of scores.

  shares: K of them. solved: for each benchmark the scores [seeds, K, problems], of the
  same seeds; the curve is the mean over benchmarks. Every resample takes the same
  problems for all shares and seeds: they are paired. Seeds are too few to resample:
  Student's t over their own best shares widens the interval.
  """
  rng = np.random.default_rng(seed)
  x_K = np.asarray(shares)
  each_SK = np.mean([own.mean(axis=2) for own in solved], axis=0)
  drawn_DK = np.zeros((draws, len(shares)))
  for own in solved:
    problems = own.shape[2]
    p_DP = rng.multinomial(problems, np.full(problems, 1 / problems), size=draws)
    drawn_DK += (p_DP / problems) @ own.mean(axis=0).T
  spot = _spot(x_K, each_SK.mean(axis=0), drawn_DK / len(solved))
  return _over_seeds(spot, x_K, each_SK)


def _over_seeds(spot: MixtureSpot, x_K: np.ndarray, each_SK: np.ndarray) -> MixtureSpot:
  """The spot with its interval widened by the spread of the seeds' best shares."""
  seeds = len(each_SK)
  spot = dataclasses.replace(spot, seeds=seeds)
  if spot.low is None or spot.high is None or seeds < 2:
    return spot
  from scipy import special  # slow to load

  (middle,), _ = _parabolas(x_K, each_SK.mean(axis=0)[None, :])
  best_S, _ = _parabolas(x_K, each_SK)
  quantile = float(special.stdtrit(seeds - 1, 0.975))
  reach = quantile * float(np.std(best_S, ddof=1)) / math.sqrt(seeds)
  low = middle - math.hypot(middle - spot.low, reach)
  high = middle + math.hypot(spot.high - middle, reach)
  low, high = max(low, float(x_K.min())), min(high, float(x_K.max()))
  return dataclasses.replace(spot, low=float(low), high=float(high))


def printed_spot(
  shares: Sequence[float], values: Sequence[float], n: int, *, draws: int = 2_000
) -> MixtureSpot:
  """That of printed shares of n problems, as if rows had no problem in common.

  Too wide where, as usual, all rows are asked the same: their problems are not printed.
  """
  y_K = np.asarray(values)
  noise = np.random.default_rng(0).normal(size=(draws, len(y_K)))
  errors_K = np.sqrt(y_K * (1 - y_K) / n)
  return _spot(np.asarray(shares), y_K, y_K[None, :] + noise * errors_K[None, :])


def _spot(x_K: np.ndarray, y_K: np.ndarray, drawn_DK: np.ndarray) -> MixtureSpot:
  if len(set(x_K.tolist())) < MIN_SHARES:
    reason = f'{len(x_K)} shares, a parabola needs {MIN_SHARES}'
    return MixtureSpot(None, None, None, None, reason)
  best, top = _parabolas(x_K, y_K[None, :])
  best_D, top_D = _parabolas(x_K, drawn_DK)
  low, high = (float(v) for v in np.percentile(best_D, [2.5, 97.5]))
  inside = float(top_D.mean())
  if top[0]:
    return MixtureSpot(float(best[0]), low, high, inside)
  reason = f'the best share is at an end, {100 * best[0]:.0f} %'
  return MixtureSpot(None, low, high, inside, reason)


def _parabolas(x_K: np.ndarray, y_DK: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """(where each curve's parabola is highest within the shares, whether at a top)."""
  middle, low, high = x_K.mean(), x_K.min(), x_K.max()
  a, b, _ = np.polyfit(x_K - middle, y_DK.T, 2)
  flat = np.abs(a) < 1e-12
  with np.errstate(divide='ignore', invalid='ignore'):
    top_D = middle - b / (2 * a)
  is_top_D = ~flat & (a < 0) & (top_D > low) & (top_D < high)
  # Without a top the higher end: the parabola's values there differ by this.
  rise_D = a * ((high - middle) ** 2 - (low - middle) ** 2) + b * (high - low)
  return np.where(is_top_D, top_D, np.where(rise_D > 0, high, low)), is_top_D


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
