"""Two runs beside each other: how far one's step lies from the other's."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from onlyif_jax import config as config_lib
from onlyif_jax.analysis import scoreboard, spread, table
from onlyif_jax.analysis.results import Analysis, Curve
from onlyif_jax.analysis.transition import Transition
from onlyif_jax.config import ConfigError, RunConfig

Config = RunConfig | dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Shift:
  """Delta log10 I_50 of a curve, B less A, with its 95 % interval if there are seeds.

  paired: by seed, as both runs have the same rules under the same seed; else Welch's
  interval for two independent samples.
  """

  curve: str
  a: float | None  # I_50 of A, the geometric mean over seeds
  b: float | None
  delta: float | None
  low: float | None
  high: float | None
  per_seed: Mapping[str, float]  # empty where it is not paired
  paired: bool
  reason: str = ''  # why there is no delta or no interval


def compare(a: Analysis, b: Analysis) -> list[Shift]:
  """One shift per curve that both runs have; raises ConfigError without any."""
  names = [c.name for c in a.curves if c.name in b.fits]
  if not names:
    raise ConfigError(
      f'{a.workdir} and {b.workdir} have no curve in common; compare runs of one task'
    )
  paired = seeds_agree(a, b)
  return [shift(name, a.fits[name], b.fits[name], paired) for name in names]


def seeds_agree(a: Analysis, b: Analysis) -> bool:
  """Whether a seed's name stands for the same rules in both runs."""
  return (a.config.seed, a.config.task, a.config.rules) == (
    b.config.seed,
    b.config.task,
    b.config.rules,
  )


def grids(a: Analysis, b: Analysis) -> list[table.Grid]:
  """Differing settings first, then the shifts, then accuracy count by count."""
  out = [settings_grid(a.config, b.config), shifts_grid(compare(a, b))]
  curves = {c.name: c for c in b.curves}
  common = next(c for c in a.curves if c.name in curves)
  if rows := _accuracy(common, curves[common.name]):
    columns = ('I', 'A', 'B', 'B less A')
    out.append(table.Grid(f'Exact match of {common.name}', columns, rows))
  return out


def settings_grid(a: Config, b: Config) -> table.Grid:
  """The settings that differ."""
  changed = differing(a, b)
  rows = tuple((k, str(x), str(y)) for k, (x, y) in changed.items())
  columns = ('setting', 'A', 'B')
  return table.Grid('Settings that differ', columns, rows or (('none', '', ''),))


def shifts_grid(shifts: Sequence[Shift]) -> table.Grid:
  """How far the steps lie apart."""
  return table.Grid(
    'Shift of the step, B less A [95 % interval over seeds]',
    ('curve', 'I_50 of A', 'I_50 of B', 'Δ log10 I_50', 'B / A', 'seeds'),
    tuple(_words(s) for s in shifts),
  )


def differing(a: Config, b: Config) -> dict[str, tuple[Any, Any]]:
  """Setting -> (of A, of B), of those that differ or that one run has alone."""
  left, right = config_lib.flatten(a), config_lib.flatten(b)
  names = dict.fromkeys((*left, *right))
  pairs = {k: (left.get(k, '-'), right.get(k, '-')) for k in names}
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
  """The shift of one curve; one seed's fit is one observation."""
  left, right = ({s: float(f.log_i50) for s, f in t.fits.items()} for t in (a, b))
  at_a, at_b = (10 ** (sum(x.values()) / len(x)) if x else None for x in (left, right))

  def made(delta=None, half=None, per_seed=None, reason=''):
    low = high = None
    if delta is not None and half is not None:
      low, high = delta - half, delta + half
    return Shift(name, at_a, at_b, delta, low, high, per_seed or {}, paired, reason)

  if not left or not right:
    run, fit = ('A', a) if not left else ('B', b)
    return made(reason=f'{run} has no fit ({fit.reason})')
  if not paired:
    means = [sum(x.values()) / len(x) for x in (left, right)]
    half = _welch(list(left.values()), list(right.values()))
    reason = '' if half is not None else 'an interval needs 3 seeds in each run'
    return made(means[1] - means[0], half, reason=reason)
  gaps = {s: right[s] - left[s] for s in left if s in right}
  if not gaps:
    return made(reason='no seed has a fit in both runs')
  middle = spread.over_seeds(list(gaps.values()), [], [math.inf])
  known = middle.seeds >= spread.MIN_SEEDS
  reason = '' if known else f'an interval needs 3 shared seeds, there are {len(gaps)}'
  return made(middle.value, middle.half if known else None, gaps, reason)


def _welch(a: list[float], b: list[float]) -> float | None:
  """Half of the interval of a difference of means; None for fewer than 3 seeds."""
  if min(len(a), len(b)) < spread.MIN_SEEDS:
    return None
  import numpy as np
  from scipy import special

  parts = [float(np.var(x, ddof=1)) / len(x) for x in (a, b)]
  if not sum(parts):
    return 0.0
  freedom = sum(parts) ** 2 / sum(
    p**2 / (len(x) - 1) for p, x in zip(parts, (a, b), strict=True)
  )
  return float(special.stdtrit(freedom, 0.975)) * math.sqrt(sum(parts))


def _words(s: Shift) -> tuple[str, ...]:
  a, b = scoreboard.number(s.a), scoreboard.number(s.b)
  if s.delta is None:
    return s.curve, a, b, '-', '-', s.reason
  delta, ratio = f'{s.delta:+.3f}', f'{10**s.delta:.2f}'
  if s.low is not None and s.high is not None:
    delta += f' [{s.low:+.3f}, {s.high:+.3f}]'
    ratio += f' [{10**s.low:.2f}, {10**s.high:.2f}]'
  elif len(s.per_seed) > 1:
    delta += f' (seeds: {", ".join(f"{v:+.3f}" for v in s.per_seed.values())})'
  how = f'{len(s.per_seed)}, paired' if s.paired else 'not paired: rules differ'
  return s.curve, a, b, delta, ratio, f'{how}; {s.reason}' if s.reason else how


def _accuracy(a: Curve, b: Curve) -> tuple[tuple[str, ...], ...]:
  """(I, mean of A, mean of B, difference paired by seed) at every shared count."""
  out = []
  other = b.by_count()
  for count, rows in a.by_count().items():
    if count in other:
      sides = [{r.seed: r for r in side} for side in (rows, other[count])]
      means = [spread.mean(side).value for side in sides]
      gap = gap_words(spread.difference(sides[1], sides[0]))
      out.append((f'{count:,}', *(f'{m:.3f}' for m in means), gap))
  return tuple(out)


def gap_words(gap: spread.Mean | None) -> str:
  """'+0.031 [-0.012, +0.074]', the interval from three seeds on."""
  if gap is None:
    return '-'
  text = f'{gap.value:+.3f}'
  if gap.seeds >= spread.MIN_SEEDS:
    text += f' [{gap.value - gap.half:+.3f}, {gap.value + gap.half:+.3f}]'
  return text
