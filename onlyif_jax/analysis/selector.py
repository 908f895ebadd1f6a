"""Picks the members that a target speaks of out of a run's results."""

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from onlyif_jax.analysis.results import Curve, Row
from onlyif_jax.analysis.spread import Mean
from onlyif_jax.analysis.transition import Transition

COLUMNS = ('instructions', 'noop_share', 'learning_rate')
PLACE = ('split', 'slice', 'metric', 'reference')
_LIST = re.compile(
  r'[\s()\[\]]*-?[\d.]+([eE][-+]?\d+)?([\s()\[\]|,/:]+-?[\d.]+)*[\s()\[\],]*'
)


class Evidence(Protocol):
  """What targets are judged by: a run's final results and what they hold for.

  An `Analysis` is one; `tuned_evidence` makes one of a fine-tuning run.
  """

  @property
  def experiment(self) -> str:
    """The name of its config file, by which targets know it."""
    ...

  @property
  def label(self) -> str:
    """The run's name in tables."""
    ...

  @property
  def size(self) -> str:
    """The config's size."""
    ...

  @property
  def papers_size(self) -> str:
    """The size that is the papers' own."""
    ...

  @property
  def flat_config(self) -> Mapping[str, Any]:
    """'section.field' -> value."""
    ...

  @property
  def rows(self) -> Sequence[Row]:
    """The final evaluation."""
    ...

  @property
  def curves(self) -> Sequence[Curve]:
    """The fitted curves over the number of instructions."""
    ...

  @property
  def fits(self) -> Mapping[str, Transition]:
    """A curve's name -> its fit."""
    ...

  def values(
    self, split: str, slice_name: str = 'all', metric: str = 'exact_match'
  ) -> dict[str, Row]:
    """member -> its row of the final evaluation."""
    ...

  def difference(self, a: Mapping[str, Row], b: Mapping[str, Row]) -> Mean | None:
    """Mean of a - b, rows by seed; None where they cannot be compared."""
    ...

  def remark(self, slice_name: str) -> str:
    """What must be said of a slice's values, or ''."""
    ...


@dataclasses.dataclass(frozen=True)
class Group:
  """The seeds of one setting: what a mean is taken over."""

  key: Mapping[str, Any]  # field -> value, of every field that may differ
  rows: Mapping[str, Row]  # seed -> its row

  def name(self, fields: Sequence[str]) -> str:
    """'I = 400, noop_share = 0.1' of the fields that the run varies."""
    short = {'instructions': 'I'}
    parts = []
    for field in fields:
      value = self.key.get(field)
      if isinstance(value, int | float):
        value = f'{value:,.10g}'
      if value not in (None, ''):
        parts.append(f'{short.get(field, field.rpartition(".")[2])} = {value}')
    return ', '.join(parts)

  def without(self, *fields: str) -> tuple[tuple[str, str], ...]:
    """The key's other fields, to find the group's counterpart."""
    return tuple((k, str(v)) for k, v in self.key.items() if k not in fields)


class Selector:
  """A run's final results by the fields that targets name."""

  def __init__(self, run: Evidence):
    self.run = run
    self.settings = run.flat_config
    swept = {field for row in run.rows for field in _swept(row)}
    self.fields = (*COLUMNS, *sorted(swept), *PLACE)

  def value(self, row: Row, field: str) -> Any:
    """A row's column or swept setting, else the run's setting; None: unknown."""
    if field == 'optim.learning_rate':
      return row.learning_rate
    if field in COLUMNS or field in PLACE:
      return getattr(row, field)
    swept = _swept(row)
    return swept[field] if field in swept else self.settings.get(field)

  def settings_of(self, group: Group, fields: Iterable[str]) -> list[Any]:
    """The values of some fields that all rows of a group have."""
    row = next(iter(group.rows.values()))
    return [self.value(row, field) for field in fields]

  def groups(self, where: Mapping[str, Any]) -> list[Group]:
    """The groups that `where` selects, in the order of their values."""
    found: dict[tuple[str, ...], tuple[dict[str, Any], dict[str, Row]]] = {}
    for row in self.run.rows:
      if all(matches(self.value(row, f), wanted) for f, wanted in where.items()):
        key = {f: self.value(row, f) for f in self.fields}
        place = tuple(map(str, key.values()))
        found.setdefault(place, (key, {}))[1][row.seed] = row
    groups = [Group(*pair) for pair in found.values()]
    if 'learning_rate' not in where:
      groups = self._own_rate(groups)
    return sorted(groups, key=lambda g: [order(v) for v in g.key.values()])

  def curves(self, where: Mapping[str, Any]) -> list[Curve]:
    """The fitted curves whose members `where` selects, whatever their counts."""
    place = {'split': 'unseen', 'metric': 'exact_match'}
    if any(not matches(v, where[f]) for f, v in place.items()):
      return []
    rest = {f: w for f, w in where.items() if f not in place and f != 'instructions'}
    return [
      curve
      for curve in self.run.curves
      if curve.rows
      and all(matches(self.value(r, f), w) for r in curve.rows for f, w in rest.items())
    ]

  def varied(self, groups: Sequence[Group]) -> list[str]:
    """The fields in which groups differ, the number of instructions first."""
    fields = [f for f in self.fields if len({str(g.key[f]) for g in groups}) > 1]
    return fields or ['instructions']

  def _own_rate(self, groups: list[Group]) -> list[Group]:
    """Of several learning rates the config's own, where it is among them."""
    own = self.settings.get('optim.learning_rate')
    kept = [g for g in groups if matches(g.key['learning_rate'], own)]
    return kept or groups


def matches(value: Any, wanted: Any) -> bool:
  """Whether a value is the wanted one, in a list of them, or in a range ('<=5')."""
  if isinstance(wanted, list | tuple):
    return any(matches(value, w) for w in wanted)
  if wanted == '*':
    return True
  if isinstance(wanted, str) and (found := re.match(r'([<>]=?)(-?[\d.]+)$', wanted)):
    number = _numbers(value)
    if number is None or len(number) != 1:
      return False
    x, limit = number[0], float(found[2])
    return {'<': x < limit, '<=': x <= limit, '>': x > limit, '>=': x >= limit}[
      found[1]
    ]
  left, right = _numbers(value), _numbers(wanted)
  if left is not None and right is not None:
    return left == right
  return str(value) == str(wanted)


def order(value: Any) -> tuple:
  """A key that sorts numbers by size, before words."""
  numbers = _numbers(value)
  return (0, numbers, '') if numbers is not None else (1, (), str(value))


def _numbers(value: Any) -> tuple[float, ...] | None:
  """'1|5', '[1, 5]', '20/0/0' or a number as numbers; None for words."""
  text = str(value)
  if isinstance(value, bool) or not _LIST.fullmatch(text):
    return None
  try:
    return tuple(map(float, re.findall(r'-?[\d.]+(?:[eE][-+]?\d+)?', text)))
  except ValueError:
    return None


def _swept(row: Row) -> Mapping[str, Any]:
  """Field -> value of what the run's variants change."""
  return dict(getattr(row, 'swept', None) or {})
