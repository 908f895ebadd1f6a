"""Selects the rows of a run's results that a target is about."""

import dataclasses
import operator
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from onlyif_jax.analysis.results import Curve, Row
from onlyif_jax.analysis.spread import Mean
from onlyif_jax.analysis.transition import Transition

COLUMNS = ('instructions', 'noop_share', 'learning_rate')
PLACE = ('split', 'slice', 'metric', 'reference')
_COMPARE = {
  '<': operator.lt,
  '<=': operator.le,
  '>': operator.gt,
  '>=': operator.ge,
}
_LIST = re.compile(
  r'[\s()\[\]]*-?[\d.]+([eE][-+]?\d+)?([\s()\[\]|,/:]+-?[\d.]+)*[\s()\[\],]*'
)


class Evidence(Protocol):
  """By what targets are judged: a run's final results and its settings.

  `Analysis` implements it for a sweep, `tuned_evidence` for a fine-tuning run.
  """

  @property
  def experiment(self) -> str:
    """The config file's name, which targets refer to."""
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
    """The config size that has the papers' own settings."""
    ...

  @property
  def flat_config(self) -> Mapping[str, Any]:
    """'section.field' -> value."""
    ...

  @property
  def rows(self) -> Sequence[Row]:
    """The rows of the final evaluation."""
    ...

  @property
  def curves(self) -> Sequence[Curve]:
    """The fitted curves over the number of instructions."""
    ...

  @property
  def fits(self) -> Mapping[str, Transition]:
    """Curve's name -> its fit."""
    ...

  def values(
    self, split: str, slice_name: str = 'all', metric: str = 'exact_match'
  ) -> dict[str, Row]:
    """Member -> its row of the final evaluation."""
    ...

  def difference(self, a: Mapping[str, Row], b: Mapping[str, Row]) -> Mean | None:
    """Mean of a - b (seed -> row); None if they cannot be compared."""
    ...

  def remark(self, slice_name: str) -> str:
    """A caveat about a slice's values, or ''."""
    ...


@dataclasses.dataclass(frozen=True)
class Group:
  """The seeds of one setting, over which a mean is taken."""

  key: Mapping[str, Any]  # field -> value, of every field that may differ
  rows: Mapping[str, Row]  # seed -> its row

  def name(self, fields: Sequence[str]) -> str:
    """The group by some fields, such as 'I = 400, noop_share = 0.1'."""
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
    """The key without some fields, to find the group's counterpart."""
    return tuple((k, str(v)) for k, v in self.key.items() if k not in fields)


class Selector:
  """Selects a run's final results by the fields that targets name."""

  def __init__(self, run: Evidence):
    self.run = run
    self.settings = run.flat_config
    swept = {field for row in run.rows for field in _swept(row)}
    self.fields = (*COLUMNS, *sorted(swept), *PLACE)

  def value(self, row: Row, field: str) -> Any:
    """A row's column or swept setting, else the run's setting; None if unknown."""
    if field == 'optim.learning_rate':
      return row.learning_rate
    if field in COLUMNS or field in PLACE:
      return getattr(row, field)
    swept = _swept(row)
    return swept[field] if field in swept else self.settings.get(field)

  def settings_of(self, group: Group, fields: Iterable[str]) -> list[Any]:
    """A group's values of some fields."""
    row = next(iter(group.rows.values()))
    return [self.value(row, field) for field in fields]

  def groups(self, where: Mapping[str, Any]) -> list[Group]:
    """The groups that `where` selects, sorted by the values of their key."""
    keys: dict[tuple[str, ...], dict[str, Any]] = {}
    rows: dict[tuple[str, ...], dict[str, Row]] = {}  # seed -> row, of each key
    for row in self.run.rows:
      if all(matches(self.value(row, f), pattern) for f, pattern in where.items()):
        key = {f: self.value(row, f) for f in self.fields}
        text = tuple(map(str, key.values()))
        keys.setdefault(text, key)
        rows.setdefault(text, {})[row.seed] = row
    groups = [Group(key, rows[text]) for text, key in keys.items()]
    if 'learning_rate' not in where:
      groups = self._own_rate(groups)
    return sorted(groups, key=lambda g: [order(v) for v in g.key.values()])

  def curves(self, where: Mapping[str, Any]) -> list[Curve]:
    """The fitted curves whose rows `where` selects, whatever their counts."""
    fixed = {'split': 'unseen', 'metric': 'exact_match'}  # of every curve
    if any(not matches(value, where[f]) for f, value in fixed.items()):
      return []
    rest = {f: p for f, p in where.items() if f not in (*fixed, 'instructions')}

    def selected(row: Row) -> bool:
      return all(matches(self.value(row, f), pattern) for f, pattern in rest.items())

    return [c for c in self.run.curves if c.rows and all(map(selected, c.rows))]

  def varied(self, groups: Sequence[Group]) -> list[str]:
    """The fields in which groups differ, the number of instructions first."""
    fields = [f for f in self.fields if len({str(g.key[f]) for g in groups}) > 1]
    return fields or ['instructions']

  def _own_rate(self, groups: list[Group]) -> list[Group]:
    """The groups of the config's own learning rate; all, if it has none."""
    rate = self.settings.get('optim.learning_rate')
    kept = [g for g in groups if matches(g.key['learning_rate'], rate)]
    return kept or groups


def matches(value: Any, pattern: Any) -> bool:
  """Whether a value is the pattern, in a list of them, or in a range ('<=5', '*')."""
  if isinstance(pattern, list | tuple):
    return any(matches(value, p) for p in pattern)
  if pattern == '*':
    return True
  if isinstance(pattern, str):
    bound = re.match(r'([<>]=?)(-?[\d.]+)$', pattern)
    if bound:
      number = _numbers(value)
      if number is None or len(number) != 1:
        return False
      return _COMPARE[bound[1]](number[0], float(bound[2]))
  left, right = _numbers(value), _numbers(pattern)
  if left is not None and right is not None:
    return left == right
  return str(value) == str(pattern)


def order(value: Any) -> tuple:
  """A sort key: numbers by size, before words."""
  numbers = _numbers(value)
  return (0, numbers, '') if numbers is not None else (1, (), str(value))


def _numbers(value: Any) -> tuple[float, ...] | None:
  """The numbers in '1|5', '[1, 5]', '20/0/0' or a number; None for words."""
  text = str(value)
  if isinstance(value, bool) or not _LIST.fullmatch(text):
    return None
  try:
    return tuple(map(float, re.findall(r'-?[\d.]+(?:[eE][-+]?\d+)?', text)))
  except ValueError:
    return None


def _swept(row: Row) -> Mapping[str, Any]:
  """Field -> value, of the fields that the run's variants change."""
  return dict(getattr(row, 'swept', None) or {})
