"""Adaptive sweeps: chooses the next counts, to find the transition with few members.

Members with the reference `explore` and seeds of their own search for the transition.
The first round trains the counts of the config, each later one a few counts where the
curve fitted to results on dev rules is steep. Once the interval of I_50 is narrow or
the budget is spent, a grid around the transition is fixed and trained with the reported
seeds. Reported results thus had no part in choosing their counts.

The interval is that of one pooled quasi-binomial fit, whose overdispersion covers the
spread over seeds (each round has a new one). A placement is a pure function of the
results so far, so an interrupted run repeats it.
"""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from onlyif_jax.analysis.transition import Point, SeedFit, fit_seed
from onlyif_jax.config import ConfigError, RunConfig
from onlyif_jax.experiment import EXPLORE
from onlyif_jax.workdir import Workdir

STEEP = (0.25, 0.75)  # shares of the rise between which counts are placed
REPORTED = (
  0.02,
  0.1,
  0.25,
  0.5,
  0.75,
  0.9,
  0.98,
)  # shares of the rise in the final grid
_CANDIDATES = 101  # counts to choose from in one placement


@dataclasses.dataclass(frozen=True)
class Placement:
  """The counts to train next, and why; as the ledger records it."""

  final: bool  # exploration is over, and these are the counts to report
  counts: tuple[int, ...]
  reason: str
  i_50: float | None = None
  interval: tuple[float, float] | None = None  # 95 %, as counts
  width: float | None = None  # of the interval, in decades


def place(
  points: Sequence[Point],
  counts: Sequence[int],
  *,
  width: float,
  most: int,
  each: int,
) -> Placement:
  """The next counts of an exploration, or the grid to report.

  points: results of the exploration on dev rules; counts: of its first round, within
  whose range all others lie; width: of a narrow interval, in decades; most: members
  that may still be added; each: members of a round.
  """
  fit = fit_seed(points) if points else 'no results'
  done = {int(point.x) for point in points}
  each = min(each, most)
  if isinstance(fit, str):
    return Placement(True, tuple(sorted(counts)), f'{fit}: the first counts stay')
  if fit.reason:
    gap = _gap(points, fit)
    new = _between(gap, done, each) if gap else ()
    if new:
      return Placement(False, new, f'{fit.reason}: even steps between {gap}')
    return Placement(
      True, tuple(sorted(counts)), f'{fit.reason}: the first counts stay'
    )
  stats: dict = {'i_50': _round(10**fit.log_i50)}
  if (interval := _interval(points, fit)) is not None:
    stats['interval'] = tuple(_round(10**end) for end in interval)
    stats['width'] = round(interval[1] - interval[0], 4)
  if interval is not None and interval[1] - interval[0] < width:
    return _final(fit, counts, f'the interval is narrower than {width:g}', stats)
  if not each:
    return _final(fit, counts, 'the budget is spent', stats)
  new = _informative(points, fit, done, counts, each)
  if not new:
    return _final(fit, counts, 'no count is left where the curve is steep', stats)
  low, high = (_round(10 ** fit.end(share)) for share in STEEP)
  reason = f'most information on I_50 between {low:g} and {high:g}, where it is steep'
  return Placement(False, new, reason, **stats)


def _final(fit: SeedFit, counts: Sequence[int], why: str, stats: dict) -> Placement:
  """The grid to report: shares of the rise, and the ends of the first counts."""
  low, high = min(counts), max(counts)
  inner = [10 ** fit.end(share) for share in REPORTED]
  grid = {low, high} | {round(min(max(count, low), high)) for count in inner}
  return Placement(True, tuple(sorted(grid)), f'{why}: the grid to report', **stats)


def _gap(points: Sequence[Point], fit: SeedFit) -> tuple[int, int] | None:
  """Neighbouring counts with the whole rise between them; None if there are none."""
  counts = sorted({int(p.x) for p in points})
  i_50 = 10**fit.log_i50
  mean = {x: np.mean([p.k / p.n for p in points if int(p.x) == x]) for x in counts}
  for low, high in itertools.pairwise(counts):
    if low <= i_50 <= high and mean[high] - mean[low] >= 0.3:
      return low, high
  return None


def _between(gap: tuple[int, int], done: set[int], each: int) -> tuple[int, ...]:
  """New counts that divide a gap evenly in log I."""
  counts = {round(count) for count in np.geomspace(*gap, each + 2)[1:-1]}
  return tuple(sorted(counts - done - set(gap)))


def _gradient(t, fit: SeedFit):
  """Accuracy [K] and its gradient [K, 4] by log10 I_50, slope, floor and ceiling."""
  z = fit.slope * (t - fit.log_i50)
  share = 0.5 * (1 + np.tanh(z / 2))
  rise = fit.ceiling - fit.floor
  d_z = rise * share * (1 - share)
  columns = (-d_z * fit.slope, d_z * (t - fit.log_i50), 1 - share, share)
  return fit.floor + rise * share, np.stack(columns, axis=-1)


def _information(t, n, fit: SeedFit):
  """Fisher information [K, 4, 4] of points with n examples at log10 counts t."""
  p, gradient = _gradient(t, fit)
  # As in the fit, a variance below one example does not count as information.
  weight = n**2 / np.maximum(n * p * (1 - p), 1.0)
  return weight[:, None, None] * gradient[:, :, None] * gradient[:, None, :]


def _interval(points: Sequence[Point], fit: SeedFit) -> tuple[float, float] | None:
  """95 % interval of log10 I_50; None without degrees of freedom."""
  if not fit.freedom or fit.dispersion is None:
    return None
  from scipy import special

  t = np.log10([p.x for p in points])
  n = np.array([p.n for p in points], float)
  inverse = np.linalg.pinv(_information(t, n, fit).sum(0))
  error = np.sqrt(max(1.0, fit.dispersion) * inverse[0, 0])
  half = float(special.stdtrit(fit.freedom, 0.975) * error)
  return fit.log_i50 - half, fit.log_i50 + half


def _informative(
  points: Sequence[Point],
  fit: SeedFit,
  done: set[int],
  counts: Sequence[int],
  each: int,
) -> tuple[int, ...]:
  """Up to `each` counts where the curve is steep that narrow I_50 most, greedily."""
  low = max(fit.end(STEEP[0]), np.log10(min(counts)))
  high = min(fit.end(STEEP[1]), np.log10(max(counts)))
  if low > high:
    return ()
  grid = np.round(np.logspace(low, high, _CANDIDATES)).astype(int)
  candidates = sorted(set(grid.tolist()) - done)
  n = np.array([p.n for p in points], float)
  information = _information(np.log10([p.x for p in points]), n, fit).sum(0)
  distance = (high - low) / 10  # closer counts say nearly the same
  chosen: list[int] = []
  while candidates and len(chosen) < each:
    examples = np.full(len(candidates), n.mean())
    added = _information(np.log10(candidates), examples, fit)
    variance = np.linalg.pinv(information + added)[:, 0, 0]
    best = int(np.argmin(variance))
    information = information + added[best]
    chosen.append(candidates.pop(best))
    candidates = [x for x in candidates if abs(np.log10(x / chosen[-1])) >= distance]
  return tuple(sorted(chosen))


def _round(value: float) -> float:
  return float(f'{value:.4g}')


def check(config: RunConfig) -> None:
  """Raises ConfigError for an adaptive sweep with settings that it cannot have."""
  s = config.sweep
  if not s.adaptive_width:
    return
  if s.adaptive_width < 0 or s.adaptive_counts < 1 or s.adaptive_budget < 0:
    raise ConfigError(
      'sweep.adaptive_width and adaptive_budget must not be negative, '
      'sweep.adaptive_counts must be 1 or more'
    )
  if max(map(len, (s.variants, s.noop_shares, s.learning_rates))) > 1:
    raise ConfigError(
      'sweep.adaptive_width places the counts of one curve; give one of '
      'sweep.variants, sweep.noop_shares and sweep.learning_rates'
    )
  if len(s.counts) < 4:
    raise ConfigError(
      f'sweep.counts={list(s.counts)}: an adaptive sweep begins with 4 counts or more'
    )


def extended(workdir: Workdir, config: RunConfig) -> RunConfig | None:
  """The config with the next counts, once all earlier ones are done; None at the end.

  Records the placement in the ledger.
  """
  s = config.sweep
  if not s.adaptive_width or s.reported:
    return None
  rounds = [int(text.partition(':')[0]) for text in s.explored]
  number = max(rounds, default=0) + 1
  placement = place(
    dev_points(workdir, noops=getattr(config.task, 'noops', False)),
    s.counts,
    width=s.adaptive_width,
    most=s.adaptive_budget - len(s.explored),
    each=s.adaptive_counts,
  )
  recorded = [e['round'] for e in workdir.ledger() if e['event'] == 'placed']
  if number not in recorded:  # a killed run may have got this far
    event = {'event': 'placed', 'round': number} | dataclasses.asdict(placement)
    workdir.append_json('ledger.jsonl', event)
  if placement.final:
    new = dataclasses.replace(s, reported=placement.counts)
  else:
    added = tuple(f'{number}:{count}' for count in placement.counts)
    new = dataclasses.replace(s, explored=(*s.explored, *added))
  return dataclasses.replace(config, sweep=new)


def dev_points(workdir: Workdir, *, noops: bool = False) -> list[Point]:
  """Exact match of the exploring members on dev rules, in the order of results.csv.

  noops: whether the task has no-op inputs, which are left out.
  """
  selected = (EXPLORE, 'dev', 'noop=0' if noops else 'all', 'exact_match')
  return [
    Point(int(r['instructions']), float(r['sum']), int(r['count']), r['seed'])
    for r in workdir.read_csv('results.csv')
    if (r['reference'], r['split'], r['slice'], r['metric']) == selected
  ]
