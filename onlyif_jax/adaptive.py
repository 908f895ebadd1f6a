"""Adaptive sweeps: where to train next, to find the step with few members.

Members with the reference `explore` and seeds of their own look for the step: the
first round trains the counts of the config, each later one a few counts where the
curve that was fitted to their dev rules is steep. When the interval of I_50 is narrow
or the budget is spent, a grid around the step is fixed and trained with the seeds that
are reported. What is reported thus neither chose its counts nor was chosen by them.

The interval here is that of one pooled quasi-binomial fit, whose overdispersion holds
the spread of the seeds (each round has a new one). Every placement is a pure function
of the results so far, so an interrupted run places the same again.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from onlyif_jax.analysis.transition import Point, SeedFit, fit_seed
from onlyif_jax.config import ConfigError, RunConfig
from onlyif_jax.experiment import EXPLORE
from onlyif_jax.workdir import Workdir

STEEP = (0.25, 0.75)  # shares of the rise between which counts are placed
REPORTED = (0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98)  # shares where the final grid lies
_CANDIDATES = 101  # counts that are compared in one placement


@dataclasses.dataclass(frozen=True)
class Placement:
  """What to train next, and why."""

  final: bool  # these are the counts to report; exploration is over
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

  points: dev results of the exploration; counts: those of its first round, within
  which all others lie; width: decades at which the interval is narrow; most: members
  that may still be added; each: members of a round.
  """
  fit = fit_seed(points) if points else 'no results'
  done = {int(p.x) for p in points}
  each = min(each, most)
  if isinstance(fit, str):
    return Placement(True, tuple(sorted(counts)), f'{fit}: the first counts stay')
  if fit.reason:
    gap = _gap(points, fit)
    new = _evenly(gap, done, each) if gap else ()
    if new:
      return Placement(False, new, f'{fit.reason}: even steps between {gap}')
    return Placement(
      True, tuple(sorted(counts)), f'{fit.reason}: the first counts stay'
    )
  found = _interval(points, fit)
  told: dict = {'i_50': _round(10**fit.log_i50)}
  if found is not None:
    told |= {'interval': tuple(_round(10**v) for v in found)}
    told |= {'width': round(found[1] - found[0], 4)}
  if found is not None and found[1] - found[0] < width:
    return _report(fit, counts, f'the interval is narrower than {width:g}', told)
  if not each:
    return _report(fit, counts, 'the budget is spent', told)
  new = _informative(points, fit, done, counts, each)
  if not new:
    return _report(fit, counts, 'no count is left where the curve is steep', told)
  low, high = (_round(10 ** fit.end(share)) for share in STEEP)
  reason = f'most information on I_50 between {low:g} and {high:g}, where it is steep'
  return Placement(False, new, reason, **told)


def _report(fit: SeedFit, counts, why: str, told: dict) -> Placement:
  """The fixed grid: shares of the rise, and the ends of the first counts."""
  low, high = min(counts), max(counts)
  inner = [10 ** fit.end(share) for share in REPORTED]
  grid = {low, high} | {round(min(max(v, low), high)) for v in inner}
  return Placement(True, tuple(sorted(grid)), f'{why}: the grid to report', **told)


def _gap(points: Sequence[Point], fit: SeedFit) -> tuple[int, int] | None:
  """The neighbouring counts between which the whole rise lies, if it lies so."""
  xs = sorted({int(p.x) for p in points})
  middle = 10**fit.log_i50
  mean = {x: np.mean([p.k / p.n for p in points if int(p.x) == x]) for x in xs}
  for low, high in itertools.pairwise(xs):
    if low <= middle <= high and mean[high] - mean[low] >= 0.3:
      return low, high
  return None


def _evenly(gap: tuple[int, int], done: set[int], each: int) -> tuple[int, ...]:
  """Counts that part a gap evenly in log I."""
  found = {round(v) for v in np.geomspace(*gap, each + 2)[1:-1]}
  return tuple(sorted(found - done - set(gap)))


def _gradient(t, fit: SeedFit):
  """Accuracy and its derivatives [K, 4] by log10 I_50, slope, floor and ceiling."""
  z = fit.slope * (t - fit.log_i50)
  share = 0.5 * (1 + np.tanh(z / 2))
  bend = (fit.ceiling - fit.floor) * share * (1 - share)
  columns = (-bend * fit.slope, bend * (t - fit.log_i50), 1 - share, share)
  return fit.floor + (fit.ceiling - fit.floor) * share, np.stack(columns, axis=-1)


def _information(t, n, fit: SeedFit):
  """What points at log10 counts t add to the information, [K, 4, 4]."""
  p, gradient = _gradient(t, fit)
  # As in the fit: where the model says 0 or 1, an example more or less is no news.
  weight = n**2 / np.maximum(n * p * (1 - p), 1.0)
  return weight[:, None, None] * gradient[:, :, None] * gradient[:, None, :]


def _interval(points: Sequence[Point], fit: SeedFit) -> tuple[float, float] | None:
  """The 95 % interval of log10 I_50; None without degrees of freedom."""
  if not fit.freedom or fit.dispersion is None:
    return None
  from scipy import special

  t = np.log10([p.x for p in points])
  n = np.array([p.n for p in points], float)
  inverse = np.linalg.pinv(_information(t, n, fit).sum(0))
  spread = np.sqrt(max(1.0, fit.dispersion) * inverse[0, 0])
  half = float(special.stdtrit(fit.freedom, 0.975) * spread)
  return fit.log_i50 - half, fit.log_i50 + half


def _informative(points, fit: SeedFit, done, counts, each: int) -> tuple[int, ...]:
  """One by one, the counts that narrow I_50 most, where the curve is steep."""
  low = max(fit.end(STEEP[0]), np.log10(min(counts)))
  high = min(fit.end(STEEP[1]), np.log10(max(counts)))
  if low > high:
    return ()
  steps = np.round(np.logspace(low, high, _CANDIDATES)).astype(int)
  left = sorted(set(steps.tolist()) - done)
  n = np.array([p.n for p in points], float)
  known = _information(np.log10([p.x for p in points]), n, fit).sum(0)
  chosen: list[int] = []
  while left and len(chosen) < each:
    added = _information(np.log10(left), np.full(len(left), n.mean()), fit)
    variance = np.linalg.pinv(known + added)[:, 0, 0]
    best = int(np.argmin(variance))
    known = known + added[best]
    chosen.append(left.pop(best))
    # Neighbours tell the same: the next count is at least a tenth of the way off.
    apart = (high - low) / 10
    left = [x for x in left if abs(np.log10(x / chosen[-1])) >= apart]
  return tuple(sorted(chosen))


def _round(value: float) -> float:
  return float(f'{value:.4g}')


def check(config: RunConfig) -> None:
  """Raises ConfigError where a sweep cannot be adaptive."""
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
  """The config with the next counts once all before are done; None at the end.

  Writes the placement into the ledger.
  """
  s = config.sweep
  if not s.adaptive_width or s.reported:
    return None
  rounds = [int(text.partition(':')[0]) for text in s.explored]
  number = max(rounds, default=0) + 1
  most = s.adaptive_budget - len(s.explored)
  placed = place(
    dev_points(workdir, noops=getattr(config.task, 'noops', False)),
    s.counts,
    width=s.adaptive_width,
    most=most,
    each=s.adaptive_counts,
  )
  event = {'event': 'placed', 'round': number} | dataclasses.asdict(placed)
  told = [e['round'] for e in workdir.ledger() if e['event'] == 'placed']
  if number not in told:  # it may have been killed right after this line
    workdir.append_json('ledger.jsonl', event)
  if placed.final:
    new = dataclasses.replace(s, reported=placed.counts)
  else:
    words = tuple(f'{number}:{count}' for count in placed.counts)
    new = dataclasses.replace(s, explored=(*s.explored, *words))
  return dataclasses.replace(config, sweep=new)


def dev_points(workdir: Workdir | Path, *, noops: bool = False) -> list[Point]:
  """Exact match of the exploring members on dev rules, in the order of results.csv."""
  if isinstance(workdir, Path):
    workdir = Workdir(workdir)
  wanted = (EXPLORE, 'dev', 'noop=0' if noops else 'all', 'exact_match')
  return [
    Point(int(r['instructions']), float(r['sum']), int(r['count']), r['seed'])
    for r in workdir.read_csv('results.csv')
    if (r['reference'], r['split'], r['slice'], r['metric']) == wanted
  ]
