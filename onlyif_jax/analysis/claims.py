"""Checks the predicates of the papers' claims (targets.PREDICATES) group by group."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from onlyif_jax.analysis import spread
from onlyif_jax.analysis.results import TRANSFER_FROM
from onlyif_jax.analysis.selector import Group, Selector, matches, order
from onlyif_jax.analysis.spread import Mean
from onlyif_jax.analysis.targets import Target
from onlyif_jax.analysis.transition import FAILS, HOLDS, Transition

LEAST_BEST = 0.5  # the best group must reach this before any can 'generalise'
CEILING = 'infinite_rules'  # the reference that shows what training can reach


@dataclasses.dataclass(frozen=True)
class Check:
  """A predicate checked on one group or pair of groups."""

  good: bool | None  # None: undecided
  text: str
  margin: float = 0.0  # the check with the smallest margin is shown


@dataclasses.dataclass(frozen=True)
class Case:
  """A claim and the groups of a run that it selects."""

  target: Target
  results: Selector
  groups: list[Group]

  def name(self, group: Group) -> str:
    """The group by the fields in which the claim's groups differ."""
    return group.name(self.results.varied(self.groups))

  def all_groups(self) -> list[Group]:
    """All groups of the target's split, slice and metric, and the ceiling's."""
    where = self.target.where
    place = {f: where[f] for f in ('split', 'slice', 'metric')}
    return self.results.groups({**place, 'reference': [where['reference'], CEILING]})

  def missing(self) -> list[str]:
    """The settings, in words, that the claim lists and the run lacks."""
    where, ((name, argument),) = dict(self.target.where), self.target.predicate.items()
    if name == 'highest':
      where |= argument['among']
    sides = [where, where | argument['than']] if name == 'above' else [where]
    missing = []
    for side in sides:
      listed = {f: values for f, values in where.items() if isinstance(values, list)}
      listed |= self.target.needs
      # A field that the other side replaces is not required of it.
      listed = {f: v for f, v in listed.items() if side.get(f) == where.get(f)}
      if not listed:
        continue
      had = [self.results.settings_of(g, listed) for g in self.results.groups(side)]
      for setting in itertools.product(*listed.values()):
        if not any(all(map(matches, values, setting)) for values in had):
          group = Group(dict(zip(listed, setting, strict=True)), {})
          missing.append(group.name(tuple(listed)))
    return list(dict.fromkeys(missing))


def _check(
  mean: Mean, threshold: float, above: bool, name: str, top: float | None = 1.0
) -> Check:
  """A mean against a threshold; name: of the group; top: see `Mean.text`."""
  good = mean.beyond(threshold, above=above)
  margin = mean.value - threshold if above else threshold - mean.value
  seeds = f'{mean.seeds} seed{"s" if mean.seeds > 1 else ""}'
  at = f' at {name}' if name else ''
  return Check(good, f'{mean.text(top=top)}{at}, {seeds}', margin - mean.half)


def _bound(case: Case, threshold: float, above: bool) -> list[Check]:
  """Each group against a threshold; a group that learned nothing shows no failure."""
  seen = case.results.run.values('seen')
  checks = []
  for group in case.groups:
    check = _check(spread.mean(group.rows), threshold, above, case.name(group))
    members = [row.member for row in group.rows.values()]
    least_seen = min((seen[m].value for m in members if m in seen), default=1.0)
    if not above and least_seen < TRANSFER_FROM:
      text = f'{check.text}, but {least_seen:.2f} on seen rules: not trained enough'
      check = Check(None, text, check.margin)
    checks.append(check)
  return checks


def _best(case: Case) -> float:
  return max(spread.mean(g.rows).value for g in case.all_groups())


def _holds(case: Case, _) -> list[Check]:
  return _bound(case, HOLDS * max(_best(case), LEAST_BEST / HOLDS), above=True)


def _misses(case: Case, _) -> list[Check]:
  best = max(_best(case), LEAST_BEST / HOLDS)
  return _bound(case, HOLDS * best, above=False)


def _above(case: Case, argument: Mapping[str, Any]) -> list[Check]:
  """Each group against the one that differs in the fields of `than` alone."""
  than = argument['than']
  others = case.results.groups({**case.target.where, **than})
  checks = []
  for group in case.groups:
    for other in others:
      if group.without(*than) == other.without(*than) and group.key != other.key:
        checks += _exceeds(case, group, other, argument.get('by', 0.0))
  return checks


def _exceeds(case: Case, a: Group, b: Group, by: float) -> list[Check]:
  """Whether a exceeds b by `by`; [] if they cannot be compared."""
  gap = case.results.run.difference(a.rows, b.rows)
  fields = case.results.varied([a, b])
  name = f'{a.name(fields)} less {b.name(fields)}'
  return [_check(gap, by, True, name, None)] if gap else []


def _highest(case: Case, argument: Mapping[str, Any]) -> list[Check]:
  """Each group against all that the claim compares it with."""
  claimed = [g.key for g in case.groups]
  rivals = [
    group
    for group in case.results.groups({**case.target.where, **argument['among']})
    if group.key not in claimed
  ]
  checks = []
  for group in case.groups:
    for rival in rivals:
      checks += _exceeds(case, group, rival, 0.0)
  return checks


def _families(case: Case, field: str) -> list[list[Group]]:
  """Groups that differ only in one field, sorted by its values."""
  families: dict[tuple, list[Group]] = {}
  for group in case.groups:
    families.setdefault(group.without(field), []).append(group)
  return [
    sorted(family, key=lambda g: order(g.key[field]))
    for family in families.values()
    if len(family) > 1
  ]


def _steady(case: Case, argument: Mapping[str, Any]) -> list[Check]:
  """The best of each family less the worst of it, against `within`."""
  checks = []
  fields = case.results.varied(case.groups)
  for family in _families(case, argument['over']):
    worst, *_, best = sorted(family, key=lambda g: spread.mean(g.rows).value)
    gap = case.results.run.difference(best.rows, worst.rows)
    if gap:
      name = f'{best.name(fields)} less {worst.name(fields)}'
      checks.append(_check(gap, argument['within'], False, name, None))
  return checks


def _ordered(case: Case, argument: Mapping[str, Any]) -> list[Check]:
  """The ends must differ in the direction; no neighbours may clearly contradict it."""
  checks = []
  for family in _families(case, argument['over']):
    if argument['direction'] == 'down':
      family = family[::-1]
    checks += _exceeds(case, family[-1], family[0], 0.0)
    for low, high in itertools.pairwise(family):
      checks += [c for c in _exceeds(case, high, low, 0.0) if c.good is False]
  return checks


def _inner_peak(case: Case, argument: Mapping[str, Any]) -> list[Check]:
  """The best inner group of each family against both ends."""
  checks = []
  for family in _families(case, argument['over']):
    if len(family) < 3:
      continue
    best = max(family[1:-1], key=lambda g: spread.mean(g.rows).value)
    for end in (family[0], family[-1]):
      checks += _exceeds(case, best, end, 0.0)
  return checks


def _step_between(case: Case, argument: Sequence[float]) -> list[Check]:
  """The interval of I_50 of each curve, or its bracket, against two counts."""
  low, high = argument
  checks = []
  for curve in case.results.curves(case.target.where):
    t = case.results.run.fits[curve.name]
    i_50 = t.i_50
    if i_50 is None or i_50.low is None or i_50.high is None:
      checks.append(_bracket_between(t, low, high))
      continue
    inside = low <= i_50.low <= i_50.high <= high
    outside = i_50.high < low or i_50.low > high
    interval = f'[{i_50.low:,.0f}, {i_50.high:,.0f}]'
    text = f'{i_50.value:,.0f} {interval}, {len(t.fits)} seeds'
    checks.append(Check(True if inside else False if outside else None, text))
  return checks


def _bracket_between(t: Transition, low: float, high: float) -> Check:
  """The bracket against two counts, if there is no interval of a fit."""
  ends = ['?' if x is None else f'{x:,g}' for x in t.bracket]
  text = f'between {ends[0]} and {ends[1]}'
  if len(t.seeds) < spread.MIN_SEEDS:
    return Check(None, f'{text}, {len(t.seeds)} seed(s)')
  a, b = t.bracket
  if a is None or b is None:
    return Check(None, text)
  inside, outside = low <= a <= b <= high, b <= low or a >= high
  return Check(True if inside else False if outside else None, text)


def _width(case: Case, limit: float) -> list[Check]:
  """The rise of each curve in decades, or that of its bracket, against a limit."""
  checks = []
  for curve in case.results.curves(case.target.where):
    t = case.results.run.fits[curve.name]
    widths = [f.end(0.9) - f.end(0.1) for f in t.fits.values()]
    if widths:
      mean = spread.over_seeds(widths, [], [math.inf])
      checks.append(_check(mean, limit, False, '', None))  # decades have no top
    elif None not in t.bracket:
      low, high = (float(x or 1) for x in t.bracket)
      width = math.log10(high / low)  # an upper bound
      good = True if width <= limit else None
      checks.append(Check(good, f'{width:.2f} decades at most'))
  return checks


PREDICATES: dict[str, Callable[[Case, Any], list[Check]]] = {
  'fails': lambda case, _: _bound(case, FAILS, above=False),
  'holds': _holds,
  'misses': _misses,
  'at_least': lambda case, x: _bound(case, x, above=True),
  'at_most': lambda case, x: _bound(case, x, above=False),
  'above': _above,
  'highest': _highest,
  'steady': _steady,
  'ordered': _ordered,
  'inner_peak': _inner_peak,
  'step_between': _step_between,
  'width_at_most': _width,
}
