"""Judges a target by a run: supported, contradicted or inconclusive.

A number is supported if it lies in our 95 % prediction interval for one more run: the
spread of seeds, s sqrt(1 + 1/n), together with the papers' own sampling noise and the
rounding of the printed value. Outside it is contradicted. Under three seeds the
interval has sampling noise alone, which is too narrow: inside is then still supported,
outside is inconclusive. An interval wider than half of the scale is inconclusive.

A claim is a predicate on means (targets.PREDICATES): supported if the interval of the
mean lies on the right side of the threshold for every group, contradicted if it lies on
the wrong side for one, else inconclusive. It is also inconclusive if the run lacks a
setting that the claim lists (`Target.needs`).
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from onlyif_jax.analysis import claims, spread
from onlyif_jax.analysis.results import Row
from onlyif_jax.analysis.selector import Evidence, Group, Selector, matches
from onlyif_jax.analysis.spread import Mean
from onlyif_jax.analysis.targets import Target, experiments, load

SUPPORTED, CONTRADICTED = 'supported', 'contradicted'
INCONCLUSIVE, NOT_RUN = 'inconclusive', 'not run'
VERDICTS = (SUPPORTED, CONTRADICTED, INCONCLUSIVE, NOT_RUN)
SHOWN = 3  # missing settings that a verdict names


@dataclasses.dataclass(frozen=True)
class Verdict:
  """How a run decides a target."""

  state: str  # one of VERDICTS
  ours: str = ''  # our value in words
  reason: str = ''
  analogue: str = ''  # how the run differs from the papers' size, see `size_note`
  partial: bool = False  # supported by the settings that were run, but some are missing

  @property
  def label(self) -> str:
    """'supported', 'supported (cpu analogue)'."""
    return f'{self.state} ({self.analogue} analogue)' if self.analogue else self.state


def judge(target: Target, run: Evidence) -> Verdict:
  """The verdict of a run on a target of its experiment."""
  if target.arithmetic:
    return by_arithmetic(target)
  results = Selector(run)
  groups = results.groups(target.where)
  if target.unplaced and groups:
    return Verdict(
      INCONCLUSIVE,
      reason='it is not known which point the number belongs to',
      analogue=size_note(target, results, []),
    )
  if target.kind == 'number':
    out, rows = _number(target, results, groups)
  else:
    out = _claim(claims.Case(target, results, groups))
    rows = [row for group in groups for row in group.rows.values()]
  if out.state == NOT_RUN:
    return out
  where = load()[target.gain[0]].where if target.gain else target.where
  reason = '; '.join(filter(None, (out.reason, run.remark(where['slice']))))
  note = size_note(target, results, rows)
  return dataclasses.replace(out, reason=reason, analogue=note)


def size_note(target: Target, results: Selector, rows: Sequence[Row]) -> str:
  """'' for the papers' size, else the run's size and the first setting that differs."""
  size = results.run.size
  if size != results.run.papers_size:
    return size
  for field, pattern in experiments()[target.experiment].get('settings', {}).items():
    if field in target.where:
      continue
    values = {str(results.value(row, field)) for row in rows}
    for value in sorted(values or {str(results.settings.get(field))}):
      if not matches(value, pattern):
        return f'{size}, but {field}={value}:'
  return ''


def by_arithmetic(target: Target) -> Verdict:
  """The verdict on a claim that needs no run."""
  ((name, argument),) = target.predicate.items()
  if name == 'quotient':
    a, b = argument
    good = round(a / b, target.digits) == target.value
    return Verdict(SUPPORTED if good else CONTRADICTED, f'{a / b:.2f}', 'by arithmetic')
  count, numbers = argument['instructions'], []
  for alpha in argument['alpha']:
    edges = (np.arange(count + 1) / count) ** alpha
    numbers.append(int(np.sum(np.diff(edges) >= argument['share'])))
  good = max(numbers) < argument['below']
  text = f'at most {max(numbers)} of {count:,} rules'
  return Verdict(SUPPORTED if good else CONTRADICTED, text, 'by arithmetic')


def _number(
  target: Target, results: Selector, groups: list[Group]
) -> tuple[Verdict, list[Row]]:
  """The verdict on a printed number, and the rows that it is based on."""
  if target.gain:
    return _gain(target, results)
  if not groups:
    return Verdict(NOT_RUN, reason='the run has no such member'), []
  groups = _papers_test(groups, target.n)
  rows = [row for group in groups for row in group.rows.values()]
  if len(groups) > 1:
    varied = ', '.join(results.varied(groups))
    return Verdict(INCONCLUSIVE, reason=f'several members fit: {varied} vary'), rows
  values = [r.value for r in rows]
  noises = [spread.row_noise(r) for r in rows]
  printed = float(target.value or 0) / target.scale
  paper_noise = spread.noise(printed, target.n or spread.UNKNOWN_N)
  return _inside(target, values, noises, paper_noise, target.scale), rows


def _gain(target: Target, results: Selector) -> tuple[Verdict, list[Row]]:
  """The verdict on a relative gain, 100 (a / b - 1), paired by seed."""
  assert target.gain
  a, b = (load()[name] for name in target.gain)
  groups_a, groups_b = (_papers_test(results.groups(t.where), t.n) for t in (a, b))
  if not groups_a or not groups_b:
    return Verdict(NOT_RUN, reason='the run lacks one of the two members'), []
  if max(len(groups_a), len(groups_b)) > 1:
    return Verdict(INCONCLUSIVE, reason='several members fit'), []
  rows_a, rows_b = groups_a[0].rows, groups_b[0].rows
  rows = [*rows_a.values(), *rows_b.values()]
  pairs = [(rows_a[s], rows_b[s]) for s in rows_a if s in rows_b and rows_b[s].value]
  if not pairs:
    return Verdict(INCONCLUSIVE, reason='no seed has both members'), rows

  def quotient_noise(x: float, y: float, noise_x: float, noise_y: float) -> float:
    return math.hypot(noise_x / y, x * noise_y / y**2)

  values = [x.value / y.value - 1 for x, y in pairs]
  noises = [
    quotient_noise(x.value, y.value, spread.row_noise(x), spread.row_noise(y))
    for x, y in pairs
  ]
  x, y = ((t.value or 0) / t.scale for t in (a, b))
  noise_x = spread.noise(x, a.n or spread.UNKNOWN_N)
  noise_y = spread.noise(y, b.n or spread.UNKNOWN_N)
  paper_noise = quotient_noise(x, y, noise_x, noise_y)
  return _inside(target, values, noises, paper_noise, 100.0), rows


def _papers_test(groups: list[Group], n: int | None) -> list[Group]:
  """Of several versions of a test, the one with the papers' number of examples."""
  same = [g for g in groups if n in {row.count for row in g.rows.values()}]
  return same if len(groups) > 1 and same else groups


def _inside(
  target: Target,
  values: Sequence[float],
  noises: Sequence[float],
  paper_noise: float,
  scale: float,
) -> Verdict:
  """Whether the printed value lies in the prediction interval.

  values, noises: of our seeds; scale: from a share to the printed unit.
  """
  count = len(values)
  few = count < spread.MIN_SEEDS
  deviation = spread.deviation(values, noises)
  deviation *= math.sqrt(1 / count if few else 1 + 1 / count)
  rounding = 0.5 * 10**-target.digits
  half = math.hypot(deviation, spread.NORMAL * paper_noise)
  interval = Mean(float(np.mean(values)) * scale, half * scale, count)
  seeds = f'{count} seed{"s" if count > 1 else ""}'
  text = f'{interval.text(target.digits, None if target.gain else scale)}, {seeds}'
  reason = ''
  if target.n is None and not target.gain:
    reason = f"the papers' test size is not given, {spread.UNKNOWN_N:,} assumed"
  if half > spread.WIDEST:
    return Verdict(INCONCLUSIVE, text, 'the interval is too wide to say anything')
  if abs(interval.value - float(target.value or 0)) <= interval.half + rounding:
    return Verdict(SUPPORTED, text, reason)
  if few:
    return Verdict(INCONCLUSIVE, text, f'{seeds}: their spread is unknown')
  return Verdict(CONTRADICTED, text, reason)


def _claim(case: claims.Case) -> Verdict:
  """The verdict of all checks of a predicate; the text is of the decisive one."""
  ((name, argument),) = case.target.predicate.items()
  if not case.groups and name not in ('step_between', 'width_at_most'):
    return Verdict(NOT_RUN, reason='the run has no such member')
  checks = claims.PREDICATES[name](case, argument)
  if not checks:
    return Verdict(NOT_RUN, reason='the run lacks what it is compared with')
  for good, state in ((False, CONTRADICTED), (None, INCONCLUSIVE), (True, SUPPORTED)):
    deciding = [c for c in checks if c.good is good]
    if deciding:
      text = min(deciding, key=lambda c: c.margin).text
      if len(checks) > 1:
        text += f'; so for {len(deciding)} of {len(checks)}'
      missing = case.missing() if good else []
      if missing:
        return Verdict(INCONCLUSIVE, text, _not_run(missing), partial=True)
      return Verdict(state, text)
  raise AssertionError(checks)


def _not_run(missing: Sequence[str]) -> str:
  """'not run: I = 10; I = 20; 3 more'."""
  more = [f'{len(missing) - SHOWN} more'] if len(missing) > SHOWN else []
  return f'not run: {"; ".join([*missing[:SHOWN], *more])}'
