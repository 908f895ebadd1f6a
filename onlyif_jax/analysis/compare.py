"""Compares two sweeps: settings, the shift of the step, accuracy count by count."""

import dataclasses
import json
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from onlyif_jax import config as config_lib
from onlyif_jax.analysis import scoreboard, spread, table
from onlyif_jax.analysis.results import Analysis, Curve
from onlyif_jax.analysis.transition import Transition
from onlyif_jax.config import ConfigError, RunConfig

Config = RunConfig | dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Shift:
  """Delta log10 I_50 of a curve, B less A, with its 95 % interval over seeds.

  paired: the interval is of differences by seed, because both runs have the same rules
  under the same seed; else it is Welch's, for two independent samples.
  """

  curve: str
  a: float | None  # I_50 of A, the geometric mean over seeds
  b: float | None
  delta: float | None
  low: float | None
  high: float | None
  per_seed: Mapping[str, float]  # empty if not paired
  paired: bool
  reason: str = ''  # why there is no delta or no interval


def compare(a: Analysis, b: Analysis) -> list[Shift]:
  """One shift per curve that both runs have; raises ConfigError if there is none."""
  names = [c.name for c in a.curves if c.name in b.fits]
  if not names:
    raise ConfigError(
      f'{a.workdir} and {b.workdir} have no curve in common; compare runs of one task'
    )
  paired = seeds_agree(a, b)
  return [shift(name, a.fits[name], b.fits[name], paired) for name in names]


def seeds_agree(a: Analysis, b: Analysis) -> bool:
  """Whether equal seeds have the same rules in both runs."""
  return (a.config.seed, a.config.task, a.config.rules) == (
    b.config.seed,
    b.config.task,
    b.config.rules,
  )


def grids(a: Analysis, b: Analysis) -> list[table.Grid]:
  """Tables of the differing settings, the shifts and the accuracy count by count."""
  out = [settings_grid(a.config, b.config), shifts_grid(compare(a, b))]
  b_curves = {c.name: c for c in b.curves}
  common = next(c for c in a.curves if c.name in b_curves)
  if rows := _accuracy(common, b_curves[common.name]):
    columns = ('I', 'A', 'B', 'B less A')
    out.append(table.Grid(f'Exact match of {common.name}', columns, rows))
  return out


def settings_grid(a: Config, b: Config) -> table.Grid:
  """A table of the settings that differ."""
  rows = tuple((k, str(x), str(y)) for k, (x, y) in differing(a, b).items())
  columns = ('setting', 'A', 'B')
  return table.Grid('Settings that differ', columns, rows or (('none', '', ''),))


def shifts_grid(shifts: Sequence[Shift]) -> table.Grid:
  """A table of the shifts."""
  return table.Grid(
    'Shift of the step, B less A [95 % interval over seeds]',
    ('curve', 'I_50 of A', 'I_50 of B', 'Δ log10 I_50', 'B / A', 'seeds'),
    tuple(_shift_cells(s) for s in shifts),
  )


def differing(a: Config, b: Config) -> dict[str, tuple[Any, Any]]:
  """Setting -> (value in A, value in B) where they differ; '-' for an absent one."""
  flat_a, flat_b = config_lib.flatten(a), config_lib.flatten(b)
  names = dict.fromkeys((*flat_a, *flat_b))
  pairs = {k: (flat_a.get(k, '-'), flat_b.get(k, '-')) for k in names}
  return {k: (x, y) for k, (x, y) in pairs.items() if x != y}


def to_json(a: Analysis, b: Analysis) -> str:
  """The content of compare.json."""
  content = {
    'a': a.label,
    'b': b.label,
    'differing': {k: list(v) for k, v in differing(a.config, b.config).items()},
    'shifts': [dataclasses.asdict(shift) for shift in compare(a, b)],
  }
  return json.dumps(content, indent=1, allow_nan=False) + '\n'


def shift(name: str, a: Transition, b: Transition, paired: bool) -> Shift:
  """The shift of one curve; each seed's fit is one observation."""
  logs_a = {seed: float(fit.log_i50) for seed, fit in a.fits.items()}
  logs_b = {seed: float(fit.log_i50) for seed, fit in b.fits.items()}
  mean_a, mean_b = _mean(logs_a.values()), _mean(logs_b.values())

  def result(delta=None, half=None, per_seed=None, reason=''):
    i50_a, i50_b = (None if m is None else 10**m for m in (mean_a, mean_b))
    low = high = None
    if delta is not None and half is not None:
      low, high = delta - half, delta + half
    return Shift(name, i50_a, i50_b, delta, low, high, per_seed or {}, paired, reason)

  if mean_a is None or mean_b is None:
    run, fit = ('A', a) if mean_a is None else ('B', b)
    return result(reason=f'{run} has no fit ({fit.reason})')
  if not paired:
    half = _welch(list(logs_a.values()), list(logs_b.values()))
    reason = '' if half is not None else 'an interval needs 3 seeds in each run'
    return result(mean_b - mean_a, half, reason=reason)
  gaps = {s: logs_b[s] - logs_a[s] for s in logs_a if s in logs_b}
  if not gaps:
    return result(reason='no seed has a fit in both runs')
  gap = spread.over_seeds(list(gaps.values()), [], [math.inf])
  enough = gap.seeds >= spread.MIN_SEEDS
  reason = '' if enough else f'an interval needs 3 shared seeds, there are {len(gaps)}'
  return result(gap.value, gap.half if enough else None, gaps, reason)


def _mean(values: Collection[float]) -> float | None:
  return sum(values) / len(values) if values else None


def _welch(a: list[float], b: list[float]) -> float | None:
  """Half of Welch's interval of a difference of means; None for under 3 seeds."""
  if min(len(a), len(b)) < spread.MIN_SEEDS:
    return None
  import numpy as np
  from scipy import special

  squared_errors = [float(np.var(x, ddof=1)) / len(x) for x in (a, b)]
  total = sum(squared_errors)
  if not total:
    return 0.0
  freedom = total**2 / sum(
    e**2 / (len(x) - 1) for e, x in zip(squared_errors, (a, b), strict=True)
  )
  return float(special.stdtrit(freedom, 0.975)) * math.sqrt(total)


def _shift_cells(s: Shift) -> tuple[str, ...]:
  """A row of `shifts_grid`."""
  a, b = scoreboard.number(s.a), scoreboard.number(s.b)
  if s.delta is None:
    return s.curve, a, b, '-', '-', s.reason
  delta, ratio = f'{s.delta:+.3f}', f'{10**s.delta:.2f}'
  if s.low is not None and s.high is not None:
    delta += f' [{s.low:+.3f}, {s.high:+.3f}]'
    ratio += f' [{10**s.low:.2f}, {10**s.high:.2f}]'
  elif len(s.per_seed) > 1:
    delta += f' (seeds: {", ".join(f"{v:+.3f}" for v in s.per_seed.values())})'
  seeds = f'{len(s.per_seed)}, paired' if s.paired else 'not paired: rules differ'
  return s.curve, a, b, delta, ratio, f'{seeds}; {s.reason}' if s.reason else seeds


def _accuracy(a: Curve, b: Curve) -> tuple[tuple[str, ...], ...]:
  """(I, mean of A, mean of B, difference paired by seed) at every shared count."""
  cells = []
  rows_a, rows_b = a.by_count(), b.by_count()
  for count in rows_a:
    if count in rows_b:
      seeds_a, seeds_b = ({r.seed: r for r in x[count]} for x in (rows_a, rows_b))
      means = [spread.mean(seeds).value for seeds in (seeds_a, seeds_b)]
      gap = gap_text(spread.difference(seeds_b, seeds_a))
      cells.append((f'{count:,}', *(f'{m:.3f}' for m in means), gap))
  return tuple(cells)


def gap_text(gap: spread.Mean | None) -> str:
  """'+0.031 [-0.012, +0.074]', the interval from three seeds on."""
  if gap is None:
    return '-'
  text = f'{gap.value:+.3f}'
  if gap.seeds >= spread.MIN_SEEDS:
    text += f' [{gap.value - gap.half:+.3f}, {gap.value + gap.half:+.3f}]'
  return text
