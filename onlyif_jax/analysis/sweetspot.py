"""The best share of a mixture: the top of a parabola.

For symbolic tasks, whose shares span decades, the parabola is in the logarithm of the
share, with an interval over seeds. For mixtures of text, which begin at share 0, it is
in the share itself, with an interval over problems and, if there are several, seeds.
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
  """The best share with its 95 % interval over seeds; None, with a reason, if none."""

  share: float | None
  low: float | None  # None for fewer than three seeds
  high: float | None
  per_seed: Mapping[str, float]
  reason: str | None

  def text(self) -> str:
    """'0.11 [0.08, 0.14]', '0.11' where there is no interval, or '-'."""
    if self.share is None:
      return '-'
    if self.low is None or self.high is None:
      return f'{self.share:.2g}'
    return f'{self.share:.2g} [{self.low:.2g}, {self.high:.2g}]'


def sweet_spot(points: Mapping[str, Sequence[tuple[float, float]]]) -> SweetSpot:
  """The share above 0 with the highest accuracy, within the shares measured.

  points: seed -> (share, accuracy). Each seed gets a least-squares parabola in log10
  share, and the interval is Student's t over seeds of the log of its top, as it is
  for I_50 (a bootstrap over so few seeds would be too narrow). A seed has no sweet
  spot if its parabola opens upwards or has its top outside the shares. If one seed has
  none, the result is None: leaving it out would hide that the peak is not there.
  """
  tops, reasons = {}, []
  for seed, curve in points.items():
    top = _top([(share, value) for share, value in curve if share > 0])
    if isinstance(top, str):
      reasons.append(f'seed {seed}: {top}')
    else:
      tops[seed] = top
  per_seed = {seed: 10**top for seed, top in tops.items()}
  if reasons or not tops:
    return SweetSpot(None, None, None, per_seed, '; '.join(reasons) or 'no points')
  mean = spread.over_seeds(list(tops.values()), [], [math.inf])
  known = math.isfinite(mean.half)
  return SweetSpot(
    share=10**mean.value,
    low=10 ** (mean.value - mean.half) if known else None,
    high=10 ** (mean.value + mean.half) if known else None,
    per_seed=per_seed,
    reason=None,
  )


@dataclasses.dataclass(frozen=True)
class MixtureSpot:
  """The share at which a mixture's score is highest, with its uncertainty.

  share: the top of the parabola; None, with a reason, if it has none between the ends.
  low, high: the 95 % interval, within the ends; None without problems to resample.
  inside: share of resamples with a top between the ends. seeds: of the curve; 0 for
  printed values.
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
  problems for all shares and seeds, which are thus paired. Seeds are too few to
  resample: Student's t over their best shares widens the interval.
  """
  rng = np.random.default_rng(seed)
  x_K = np.asarray(shares)
  y_SK = np.mean([scores_SKP.mean(axis=2) for scores_SKP in solved], axis=0)
  drawn_DK = np.zeros((draws, len(shares)))
  for scores_SKP in solved:
    problems = scores_SKP.shape[2]
    counts_DP = rng.multinomial(problems, np.full(problems, 1 / problems), size=draws)
    drawn_DK += (counts_DP / problems) @ scores_SKP.mean(axis=0).T
  spot = _spot(x_K, y_SK.mean(axis=0), drawn_DK / len(solved))
  return _over_seeds(spot, x_K, y_SK)


def _over_seeds(spot: MixtureSpot, x_K: np.ndarray, y_SK: np.ndarray) -> MixtureSpot:
  """The spot with its interval widened by the spread of the seeds' best shares."""
  seeds = len(y_SK)
  spot = dataclasses.replace(spot, seeds=seeds)
  if spot.low is None or spot.high is None or seeds < 2:
    return spot
  from scipy import special  # slow to load

  (best,), _ = _parabolas(x_K, y_SK.mean(axis=0)[None, :])
  best_S, _ = _parabolas(x_K, y_SK)
  quantile = float(special.stdtrit(seeds - 1, 0.975))
  half = quantile * float(np.std(best_S, ddof=1)) / math.sqrt(seeds)
  low = best - math.hypot(best - spot.low, half)
  high = best + math.hypot(spot.high - best, half)
  low, high = max(low, float(x_K.min())), min(high, float(x_K.max()))
  return dataclasses.replace(spot, low=float(low), high=float(high))


def printed_spot(
  shares: Sequence[float], values: Sequence[float], n: int, *, draws: int = 2_000
) -> MixtureSpot:
  """The best share of a printed curve, as if each row had n problems of its own.

  The interval is too wide if rows share their problems, whose scores are not printed.
  """
  y_K = np.asarray(values)
  noise = np.random.default_rng(0).normal(size=(draws, len(y_K)))
  errors_K = np.sqrt(y_K * (1 - y_K) / n)
  return _spot(np.asarray(shares), y_K, y_K[None, :] + noise * errors_K[None, :])


def _spot(x_K: np.ndarray, y_K: np.ndarray, drawn_DK: np.ndarray) -> MixtureSpot:
  """The best share of a curve, with its interval over D resampled curves."""
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
  """Where each curve's parabola is highest within the shares; whether at a top."""
  middle, low, high = x_K.mean(), x_K.min(), x_K.max()
  a, b, _ = np.polyfit(x_K - middle, y_DK.T, 2)
  flat = np.abs(a) < 1e-12
  with np.errstate(divide='ignore', invalid='ignore'):
    top_D = middle - b / (2 * a)
  is_top_D = ~flat & (a < 0) & (top_D > low) & (top_D < high)
  # Without a top the higher end is best; the parabola's values there differ by this.
  rise_D = a * ((high - middle) ** 2 - (low - middle) ** 2) + b * (high - low)
  return np.where(is_top_D, top_D, np.where(rise_D > 0, high, low)), is_top_D


def best_shares(run: Analysis) -> dict[tuple[int, int], SweetSpot]:
  """(in-domain rules, diversification rules) -> the best share at unseen depth.

  Only for numbers of rules that were trained at several shares; {} for a run without
  a specialist's mixtures (task algebra, split deeper).
  """
  selector = Selector(run)
  curves: dict[tuple[int, int], dict[str, list[tuple[float, float]]]] = {}
  for row in run.values('deeper').values():
    in_domain = int(selector.value(row, 'task.specialist') or 0)
    diverse = row.instructions - in_domain
    if in_domain and diverse and not row.reference:
      share = float(selector.value(row, 'task.diverse_share'))
      seeds = curves.setdefault((in_domain, diverse), {})
      seeds.setdefault(row.seed, []).append((share, row.value))
  return {
    key: sweet_spot(seeds)
    for key, seeds in sorted(curves.items())
    if len({share for points in seeds.values() for share, _ in points}) > 1
  }


def _top(points: Sequence[tuple[float, float]]) -> float | str:
  """log10 of the share at the parabola's top, or why there is none inside."""
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
