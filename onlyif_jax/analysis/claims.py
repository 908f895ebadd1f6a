"""The predicates of the papers' claims (targets.PREDICATES), group by group."""

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

LEAST_BEST = 0.5  # accuracy that something must reach before anything 'generalises'
CEILING = 'infinite_rules'  # the reference that shows what training could reach


@dataclasses.dataclass(frozen=True)
class Check:
  """One group against a predicate; None: undecided."""

  good: bool | None
  text: str
  margin: float = 0.0  # the smaller, the more it decides


@dataclasses.dataclass(frozen=True)
class Case:
  """A claim's target with what it selects from a run."""

  target: Target
  results: Selector
  groups: list[Group]

  def name(self, group: Group) -> str:
    """The group by the fields in which the groups differ."""
    return group.name(self.results.varied(self.groups))

  def all_groups(self) -> list[Group]:
    """Every group at the target's place in the results, and the reference beside it."""
    where = self.target.where
    place = {f: where[f] for f in ('split', 'slice', 'metric')}
    return self.results.groups({**place, 'reference': [where['reference'], CEILING]})

  def missing(self) -> list[str]:
    """The settings that the claim names one by one and the run lacks, in words."""
    where, ((name, argument),) = dict(self.target.where), self.target.predicate.items()
    if name == 'highest':
      where |= argument['among']
    sides = [where, where | argument['than']] if name == 'above' else [where]
    out = []
    for side in sides:
      named = {f: wanted for f, wanted in where.items() if isinstance(wanted, list)}
      named |= self.target.needs
      # What the other side has instead is not asked of it.
      named = {f: w for f, w in named.items() if side.get(f) == where.get(f)}
      if not named:
        continue
      had = [self.results.settings_of(g, named) for g in self.results.groups(side)]
      out += [
        Group(dict(zip(named, cell, strict=True)), {}).name(tuple(named))
        for cell in itertools.product(*named.values())
        if not any(all(map(matches, own, cell)) for own in had)
      ]
    return list(dict.fromkeys(out))


def _check(
  mean: Mean, threshold: float, above: bool, where: str, top: float | None = 1.0
) -> Check:
  good = mean.beyond(threshold, above=above)
  margin = mean.value - threshold if above else threshold - mean.value
  seeds = f'{mean.seeds} seed{"s" if mean.seeds > 1 else ""}'
  at = f' at {where}' if where else ''
  return Check(good, f'{mean.text(top=top)}{at}, {seeds}', margin - mean.half)


def _bound(case: Case, threshold: float, above: bool) -> list[Check]:
  """Each group against a threshold; one that learned nothing shows no failure."""
  seen = case.results.run.values('seen')
  checks = []
  for group in case.groups:
    check = _check(spread.mean(group.rows), threshold, above, case.name(group))
    own = [seen[row.member].value for row in group.rows.values() if row.member in seen]
    if not above and own and min(own) < TRANSFER_FROM:
      text = f'{check.text}, but {min(own):.2f} on seen rules: not trained enough'
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
  gap = case.results.run.difference(a.rows, b.rows)
  fields = case.results.varied([a, b])
  where = f'{a.name(fields)} less {b.name(fields)}'
  return [_check(gap, by, True, where, None)] if gap else []


def _highest(case: Case, argument: Mapping[str, Any]) -> list[Check]:
  every = case.results.groups({**case.target.where, **argument['among']})
  own = [g.key for g in case.groups]
  return [
    check
    for group in case.groups
    for other in every
    if other.key not in own
    for check in _exceeds(case, group, other, 0.0)
  ]


def _families(case: Case, field: str) -> list[list[Group]]:
  """Groups that differ in one field alone, in the order of its values."""
  found: dict[tuple, list[Group]] = {}
  for group in case.groups:
    found.setdefault(group.without(field), []).append(group)
  families = [sorted(f, key=lambda g: order(g.key[field])) for f in found.values()]
  return [f for f in families if len(f) > 1]


def _steady(case: Case, argument: Mapping[str, Any]) -> list[Check]:
  checks = []
  for family in _families(case, argument['over']):
    by_mean = sorted(family, key=lambda g: spread.mean(g.rows).value)
    gap = case.results.run.difference(by_mean[-1].rows, by_mean[0].rows)
    fields = case.results.varied(case.groups)
    where = f'{by_mean[-1].name(fields)} less {by_mean[0].name(fields)}'
    checks += [_check(gap, argument['within'], False, where, None)] if gap else []
  return checks


def _ordered(case: Case, argument: Mapping[str, Any]) -> list[Check]:
  """The ends must differ in the direction; no step may go clearly against it."""
  checks = []
  for family in _families(case, argument['over']):
    if argument['direction'] == 'down':
      family = family[::-1]
    checks += _exceeds(case, family[-1], family[0], 0.0)
    for low, high in itertools.pairwise(family):
      checks += [c for c in _exceeds(case, high, low, 0.0) if c.good is False]
  return checks


def _inner_peak(case: Case, argument: Mapping[str, Any]) -> list[Check]:
  checks = []
  for family in _families(case, argument['over']):
    if len(family) < 3:
      continue
    best = max(family[1:-1], key=lambda g: spread.mean(g.rows).value)
    for end in (family[0], family[-1]):
      checks += _exceeds(case, best, end, 0.0)
  return checks


def _step_between(case: Case, argument: Sequence[float]) -> list[Check]:
  low, high = argument
  checks = []
  for curve in case.results.curves(case.target.where):
    t = case.results.run.fits[curve.name]
    at = t.i_50
    if at is None or at.low is None or at.high is None:
      checks.append(_bracketed(t, low, high))
      continue
    inside, outside = low <= at.low <= at.high <= high, at.high < low or at.low > high
    text = f'{at.value:,.0f} [{at.low:,.0f}, {at.high:,.0f}], {len(t.fits)} seeds'
    checks.append(Check(True if inside else False if outside else None, text))
  return checks


def _bracketed(t: Transition, low: float, high: float) -> Check:
  """The step by its bracket, where there is no interval of a fit."""
  a, b = t.bracket
  text = 'between {} and {}'.format(*('?' if x is None else f'{x:,g}' for x in (a, b)))
  if a is None or b is None or len(t.seeds) < spread.MIN_SEEDS:
    few = len(t.seeds) < spread.MIN_SEEDS
    return Check(None, f'{text}, {len(t.seeds)} seed(s)' if few else text)
  inside, outside = low <= a <= b <= high, b <= low or a >= high
  return Check(True if inside else False if outside else None, text)


def _width(case: Case, limit: float) -> list[Check]:
  checks = []
  for curve in case.results.curves(case.target.where):
    t = case.results.run.fits[curve.name]
    widths = [f.end(0.9) - f.end(0.1) for f in t.fits.values()]
    if widths:
      mean = spread.over_seeds(widths, [], [math.inf])
      checks.append(_check(mean, limit, False, '', None))  # decades have no top
    elif None not in t.bracket:
      low, high = (float(x or 1) for x in t.bracket)
      width = math.log10(high / low)
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
