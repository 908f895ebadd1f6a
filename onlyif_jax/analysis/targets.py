"""The papers' numbers and claims (targets.yaml) as a checked list of targets.

A target is one printed number or one claim. Its `where` selects rows of results.csv:
a column (instructions, noop_share, split, slice, metric, reference), a swept setting
or a field of the config -> a value, a list of them, or '<=500', '>0', '*' (any).
Defaults: split unseen, slice all, exact match, no reference members. A claim's
`predicate` is one of PREDICATES with its arguments. To be supported, it must have been
run at every value listed in its `where` and in its `needs`, which lists values of
fields that `where` gives as a range or omits. A gain is 100 (a / b - 1) of two other
targets. The file's tables become one target per cell.
"""

import dataclasses
import functools
import importlib.resources
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from onlyif_jax.analysis.selector import matches

STATES = {
  'given': 'given',
  'axis': 'read from an axis',
  'not given': 'not given: the threshold is ours',
}
MAIN_PAPER = '2410.04717'
DEFAULTS = {
  'split': 'unseen',
  'slice': 'all',
  'metric': 'exact_match',
  'reference': '',
}
# name -> its meaning for the selected groups (the seeds of one setting)
PREDICATES = {
  'fails': 'every group is at most 0.05',
  'holds': 'every group is at least 0.9 of the best, which is at least 0.5',
  'misses': 'every group is below 0.9 of the best',
  'at_least': 'every group is at least a number',
  'at_most': 'every group is at most a number',
  'above': 'every group exceeds its counterpart `than` (by `by`)',
  'highest': 'the group exceeds all others `among`',
  'steady': 'over the values of a field, groups differ by at most `within`',
  'ordered': 'over the values of a field, groups rise (up) or fall (down)',
  'inner_peak': 'over the values of a field, a group in between exceeds both ends',
  'step_between': 'I_50 lies between two numbers',
  'width_at_most': 'the rise takes at most this many decades',
  'quotient': 'arithmetic: the quotient of two numbers rounds to the value',
  'rules_above': 'arithmetic: of a power law, fewer rules than `below` have a share',
}
ARITHMETIC = ('quotient', 'rules_above')


@dataclasses.dataclass(frozen=True)
class Target:
  """One printed number or one claim of the papers."""

  id: str
  experiment: str  # the config file's name
  paper: str  # arXiv id
  figure: str
  kind: str  # 'number' or 'claim'
  state: str  # a key of STATES
  text: str
  where: Mapping[str, Any]
  value: float | None = None  # as printed, percent where `percent`
  digits: int = 2  # printed after the decimal point
  percent: bool = False  # the printed value is in percent, ours is a share
  n: int | None = None  # the papers' test examples; None: not given
  predicate: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  needs: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # field -> values
  gain: tuple[str, str] | None = None  # ids of a and b
  unplaced: bool = False  # the papers do not say which point the number belongs to
  caveats: tuple[str, ...] = ()

  @property
  def scale(self) -> float:
    """The factor from our unit to the papers'."""
    return 100.0 if self.percent else 1.0

  @property
  def printed(self) -> str:
    """The papers' value as they print it, or '' for a claim without one."""
    return '' if self.value is None else f'{self.value:.{self.digits}f}'

  @property
  def arithmetic(self) -> bool:
    """Whether it can be checked without a run."""
    return any(name in ARITHMETIC for name in self.predicate)


@functools.cache
def read() -> dict[str, Any]:
  """The content of targets.yaml."""
  files = importlib.resources.files('onlyif_jax.analysis')
  return yaml.safe_load((files / 'targets.yaml').read_text(encoding='utf-8'))


@functools.cache
def load() -> dict[str, Target]:
  """Id -> target, in the file's order; raises ValueError if the file is invalid."""
  targets: dict[str, Target] = {}
  file = read()
  cells = (cell for table in file['tables'] for cell in _cells(table))
  for fields in (*file['targets'], *cells):
    target = _make(fields)
    if target.id in targets:
      raise ValueError(f'target {target.id} is there twice')
    targets[target.id] = target
  for target in targets.values():
    _check(target, targets)
  return targets


def experiments() -> dict[str, dict[str, Any]]:
  """Experiment -> its question and the settings that the papers print."""
  return read()['experiments']


def question(experiment: str) -> str:
  """An experiment's question; that of `imin` for one that the papers do not have."""
  return experiments().get(experiment, experiments()['imin'])['question']


def caveat(name: str) -> str:
  """The text of an inconsistency of the papers."""
  return read()['caveats'][name]


def _make(fields: dict[str, Any]) -> Target:
  fields = dict(fields)
  fields['paper'] = str(fields.get('paper', MAIN_PAPER))
  fields['where'] = DEFAULTS | fields.get('where', {})
  fields['caveats'] = tuple(fields.get('caveats', ()))
  claim = bool(fields.get('predicate')) and 'quotient' not in fields['predicate']
  return Target(kind='claim' if claim else 'number', **fields)


def _cells(table: dict[str, Any]) -> Iterator[dict[str, Any]]:
  """The fields of a target for each cell of a table; null is an unknown cell."""
  shared = ('experiment', 'paper', 'figure', 'percent', 'digits')
  for row, values in table['rows'].items():
    for (name, column), value in zip(table['columns'].items(), values, strict=True):
      if value is None:
        continue
      place = f'{row}/{name}'
      fields = {k: table[k] for k in shared if k in table}
      fields |= {'id': f'{table["id"]}/{place}', 'state': 'given', 'value': value}
      fields['text'] = table['text'].format(row=row, column=name)
      fields['caveats'] = (
        *table.get('caveats', ()),
        *table.get('row_caveats', {}).get(row, ()),
        *column.get('caveats', ()),
        *table.get('cell_caveats', {}).get(place, ()),
      )
      # An inconsistency may touch a row and its column.
      fields['caveats'] = tuple(dict.fromkeys(fields['caveats']))
      if 'gain' in column:
        fields['gain'] = _gain(table, row, column)
      elif column.get('unplaced'):
        fields |= {'unplaced': True, 'where': table.get('where', {})}
      else:
        where = table.get('where', {}) | {table['rows_are']: row} | column['where']
        fields |= {'where': where, 'n': column.get('n')}
      yield fields


def _gain(table: dict[str, Any], row: str, column: dict[str, Any]) -> tuple[str, str]:
  """The ids of a gain's two cells; the baseline may be in another such table."""
  cell = f'{table["id"]}/{row}/{column["of"]}'
  for other in (table, *read()['tables']):
    same = other['experiment'] == table['experiment']
    if same and column['gain'] in other['rows'] and column['of'] in other['columns']:
      return cell, f'{other["id"]}/{column["gain"]}/{column["of"]}'
  raise ValueError(f'{cell}: there is no row {column["gain"]} to gain on')


def _check(target: Target, known: Mapping[str, Target]) -> None:
  """Raises ValueError naming what is wrong with a target."""
  problems = []
  if target.state not in STATES:
    problems.append(f'state {target.state!r}')
  if target.experiment not in experiments():
    problems.append(f'experiment {target.experiment!r}')
  problems += [f'predicate {p!r}' for p in target.predicate if p not in PREDICATES]
  problems += [
    f'needs of {field} {value!r}'
    for field, values in target.needs.items()
    for value in values
    if not matches(value, target.where.get(field, '*'))
  ]
  problems += [f'caveat {c!r}' for c in target.caveats if c not in read()['caveats']]
  problems += [f'gain on {g!r}' for g in target.gain or () if g not in known]
  if target.kind == 'number' and target.value is None:
    problems.append('neither value nor predicate')
  if problems:
    raise ValueError(f'target {target.id}: {", ".join(problems)} is not known')
