"""Tables 1, 2 and 3 and Fig. 6 in the papers' form: their values, and ours below.

paper_tables.yaml has the layout, targets.yaml the numbers. A run's rows are found by
their counts: `thousand` of its config says how many rows stand for the papers' thousand.
"""

import functools
import importlib.resources
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import yaml

from onlyif_jax.analysis import benchmark_scores, mixture_scores, paired, targets
from onlyif_jax.analysis.mixture_scores import Gap, Measure, Scores
from onlyif_jax.analysis.table import Grid
from onlyif_jax.analysis.tuned import ZERO_SHOT, Tuned
from onlyif_jax.corpora.mixture_settings import of_thousands

NOISE = '≈'  # a difference that is less than its noise
PAPER, HERE = 'paper', 'here'
# Averages that the tables print in few rows.
CODE_MEANS = {'Avg(Base)': ('HE', 'MBPP'), 'Avg(+)': ('HE+', 'MBPP+')}
HOLM = 'p of McNemar after Holm over rows and seeds'
WORDS = (
  f'{NOISE}: less than its noise, as its interval holds 0. Intervals hold 95 % of '
  'resampled problems (the same for both rows) and, where rows have several seeds, the '
  'spread of single runs; they are of single rows, not corrected for their number.'
)


class Block(NamedTuple):
  """Rows of a table with one budget: those printed, then others of the run."""

  table: Mapping[str, Any]  # of targets.yaml; {} where nothing is printed
  base: Fraction
  keys: tuple[str, ...]  # '18/2/0'

  @property
  def gains(self) -> dict[str, str]:
    """Column of a gain -> the row that it is against."""
    columns = self.table.get('columns', {})
    return {name: c['gain'] for name, c in columns.items() if 'gain' in c}


class Layout(NamedTuple):
  """A table for a run: its blocks, and the run's rows by key."""

  title: str
  rows_are: str
  columns: Mapping[str, Sequence[Measure]]
  average: str
  blocks: tuple[Block, ...]
  rows: Mapping[str, str]  # key -> name of a row in results.csv
  short: tuple[str, ...]  # columns of which some benchmarks are missing


@functools.cache
def read() -> dict[str, Any]:
  """The content of paper_tables.yaml."""
  files = importlib.resources.files('onlyif_jax.analysis')
  return yaml.safe_load((files / 'paper_tables.yaml').read_text(encoding='utf-8'))


def scores(run: Tuned) -> list[Scores]:
  """The run's benchmark scores, once for each version of a benchmark; ConfigError."""
  return mixture_scores.views(benchmark_scores.read(run.path))


def rows(run: Tuned) -> dict[str, str]:
  """Thousands of each source, '18/2/0', -> the row's name, in the config's order."""
  known = {r.mixture: r.row for r in run.results if r.mixture}
  return {key: known[text] for text, key in keys(run).items() if text in known}


def keys(run: Tuned) -> dict[str, str]:
  """A mixture as the config has it, 'oss=18000,alpaca=2000' -> '18/2/0'."""
  c, names = run.config, _sources(run)
  printed = {
    of_thousands(names, key, c['thousand']): key
    for block in _spec(run).get('blocks', ())
    for key in _printed(block['of'])['rows']
  }
  out = {}
  for text in c['mixture']['rows']:
    counts = dict(word.strip().split('=') for word in text.split(','))
    parts = (Fraction(counts.get(name, '0')) for name in names)
    scale = 1 if c['mixture']['budget'] else c['thousand']
    out[text] = printed.get(text) or '/'.join(f'{float(p / scale):g}' for p in parts)
  return out


def grids(run: Tuned, views: Sequence[Scores]) -> list[Grid]:
  """The papers' table with ours; [] for a run without benchmark scores."""
  if not views:
    return []
  plan = layout(run, views)
  return [_grid(plan, block, views) for block in plan.blocks]


def notes(run: Tuned, views: Sequence[Scores]) -> list[str]:
  """What must be said beside the tables: noise, what is missing, inconsistencies."""
  if not views:
    return []
  plan, out = layout(run, views), [WORDS]
  for name in plan.short:
    had = ', '.join(' '.join(m).strip() for m in plan.columns[name])
    out.append(f'{name} is here the mean of {had} alone.')
  if any(s.benchmark == 'ifeval' for v in views for s in v.scores):
    out.append('IFEval: mean of prompt- and instruction-level strict accuracy.')
  if len(views) > 1:
    out.append(
      f'Scored under several versions: {"; ".join(v.label for v in views)}; the papers '
      'do not say which is theirs.'
    )
  out += [text for view in views if (text := _between_seeds(plan, view))]
  named = {c: None for block in plan.blocks for c in _caveats(block)}
  return [*out, *(f'[{name}] {targets.caveat(name)}' for name in named)]


def _between_seeds(plan: Layout, view: Scores) -> str:
  """How far seeds of one mixture lie apart; '' where none has two."""
  scores = {
    (key, seed): value
    for key, row in plan.rows.items()
    for seed, value in view.by_seed(row, plan.columns[plan.average]).items()
  }
  found = paired.components(scores) if scores else None
  if found is None or found.inside is None:
    return ''
  text = (
    f'{plan.average}{f", {view.label}" if view.label else ""}: seeds of one mixture, '
    f'asked the same problems, have a standard deviation of {100 * found.inside:.1f} '
    f'points ({found.runs} runs of {found.groups} mixtures)'
  )
  if found.between is not None:
    text += f'; mixtures differ by {100 * found.between:.1f} beyond that'
  return f'{text}.'


def details(run: Tuned, views: Sequence[Scores]) -> list[Grid]:
  """Rows against their baseline problem by problem: McNemar of each seed."""
  out = []
  plan = layout(run, views) if views else None
  for view in views:
    for block in plan.blocks if plan else ():
      grid = _pairs(plan, block, view) if plan else None
      out += [grid] if grid else []
  return out


def layout(run: Tuned, views: Sequence[Scores]) -> Layout:
  """How the run's table is laid out; a generic one for a mixture of no paper."""
  spec, own = _spec(run), rows(run)
  measures = tuple(dict.fromkeys(m for v in views for m in v.measures))
  columns, short = _columns(spec.get('kind', ''), measures)
  average = read()['kinds'][spec['kind']]['average'] if spec else 'mean'
  blocks, left = [], dict.fromkeys(own)
  for block in spec.get('blocks', ()):
    table = _printed(block['of'])
    keys = dict.fromkeys(table['rows'])
    total = _total(next(iter(keys)))
    keys |= dict.fromkeys(k for k in own if _total(k) == total)
    blocks.append(Block(table, Fraction(str(block.get('base', 0))), tuple(keys)))
    left = {k: None for k in left if k not in keys}
  if left:
    blocks.append(Block({}, Fraction(0), tuple(left)))
  title = spec.get('title', run.config['name'])
  said = spec.get('rows', 'thousands of ' + '/'.join(_sources(run)))
  return Layout(title, said, columns, average, tuple(blocks), own, short)


def _spec(run: Tuned) -> dict[str, Any]:
  return read()['tables'].get(run.config['name'], {})


def _sources(run: Tuned) -> list[str]:
  return [text.partition('=')[0] for text in run.config['mixture']['sources']]


def _printed(name: str) -> dict[str, Any]:
  return next(t for t in targets.read()['tables'] if t['id'] == name)


def _total(key: str) -> Fraction:
  return sum(map(Fraction, key.split('/')), Fraction())


def _columns(kind: str, measures: Sequence[Measure]):
  """(column -> the measures that there are, columns that lack some)."""
  if not kind:
    return {' '.join(m).strip(): [m] for m in measures} | {'mean': list(measures)}, ()
  wanted, short = read()['kinds'][kind]['columns'], []
  if kind == 'code':
    out = {}
    for name, pairs in wanted.items():
      known = [tuple(p) for p in pairs if tuple(p) in measures]
      out[name] = known
      if 0 < len(known) < len(pairs):
        short.append(name)
    return {name: own for name, own in out.items() if own}, tuple(short)
  # Code counts once: by the tests that it was published with.
  every = [m for m in measures if m[1] != 'plus']
  out = {' '.join(m).strip(): [m] for m in every}
  for name, rule in wanted.items():
    own = [m for m in every if _counted(m[0], rule)]
    if own:
      out[name] = own
      had = {m[0] for m in own}
      needed = [n for n in _needed(kind) if any(_counted(b, rule) for b in n)]
      if not all(had & set(n) for n in needed):
        short.append(name)
  return out, tuple(short)


def _needed(kind: str) -> list[list[str]]:
  """The benchmarks that the papers' average has, each with what may stand for it."""
  return read()['kinds'][kind].get('needs', [])


def _counted(benchmark: str, rule: Mapping[str, str]) -> bool:
  """Whether a column of general mixtures has a benchmark."""
  groups = read()['groups']
  only = groups.get(rule.get('only', ''), None)
  without = groups.get(rule.get('without', ''), ())
  return benchmark not in without and (only is None or benchmark in only)


def _grid(plan: Layout, block: Block, views: Sequence[Scores]) -> Grid:
  gains = block.gains or {'gain': block.keys[0]}
  against = next(iter(gains.values()))
  heads = (plan.rows_are, 'of', *plan.columns)
  heads += tuple(f'{name}, %' for name in gains)
  heads += (f'{plan.average} less that of {against}, points',)
  lines = []
  if ZERO_SHOT in views[0].rows:
    for view in views:
      cells = _cells(plan, view, ZERO_SHOT)
      lines.append(('before tuning', _who(view), *cells, *[''] * (len(gains) + 1)))
  for key in block.keys:
    first = _label(block, key)
    cells = [printed(block, key, name) for name in (*plan.columns, *gains)]
    if any(cells):
      lines.append((first, PAPER, *cells, ''))
      first = ''
    for view in views if key in plan.rows else ():
      lines.append((first, _who(view), *_ours(plan, view, key, gains)))
      first = ''
  total = f'{float(_total(block.keys[0])):g}K rows in all'
  return Grid(f'{plan.title}: {total}, %', heads, tuple(lines))


def _who(view: Scores) -> str:
  return f'{HERE}, {view.label}' if view.label else HERE


def _label(block: Block, key: str) -> str:
  """'15 + 3/2/0 [C14.4]': the base, what is added to it, inconsistencies."""
  first, *others = key.split('/')
  text = key
  if block.base:
    added = f'{float(Fraction(first) - block.base):g}'
    text = f'{float(block.base):g} + {"/".join((added, *others))}'
  touched = list(block.table.get('row_caveats', {}).get(key, ()))
  cells = block.table.get('cell_caveats', {})
  touched += [
    c for place, own in cells.items() if place.startswith(f'{key}/') for c in own
  ]
  return f'{text} [{", ".join(touched)}]' if touched else text


def _caveats(block: Block) -> Iterator[str]:
  for target in targets.load().values():
    if block.table and target.id.startswith(f'{block.table["id"]}/'):
      yield from target.caveats


def printed(block: Block, key: str, column: str) -> str:
  """A printed cell; an average of code that is left out follows from the row's cells."""
  table = block.table
  if key not in table.get('rows', {}):
    return ''
  known = dict(zip(table['columns'], table['rows'][key], strict=True))
  value, sign = known.get(column), '+' if column in block.gains else ''
  if value is None and column in CODE_MEANS:
    cells = [known[name] for name in CODE_MEANS[column]]
    value = sum(cells) / len(cells)
  return '' if value is None else f'{value:{sign}.{table["digits"]}f}'


def _cells(plan: Layout, view: Scores, row: str) -> list[str]:
  means = (view.mean(row, own) for own in plan.columns.values())
  return ['' if m is None else f'{100 * m:.1f}' for m in means]


def _ours(plan: Layout, view: Scores, key: str, gains) -> tuple[str, ...]:
  row, average = plan.rows[key], plan.columns[plan.average]
  out = _cells(plan, view, row)
  last = ''
  for n, other in enumerate(gains.values()):
    gap = None
    if other in plan.rows and other != key:
      gap = view.gap(plan.rows[other], row, average)
    out.append(_gain(gap, view.mean(row, average)))
    if n == 0 and gap is not None:
      last = f'{gap.text()}{f" {NOISE}" if gap.within_noise else ""}'
  return (*out, last)


def _gain(gap: Gap | None, mean: float | None) -> str:
  if gap is None or mean is None or mean == gap.value:
    return ''
  sign = f' {NOISE}' if gap.within_noise else ''
  return f'{100 * gap.value / (mean - gap.value):+.1f}{sign}'


def _pairs(plan: Layout, block: Block, view: Scores) -> Grid | None:
  """How many problems each row alone solves; None without single greedy answers."""
  against = next(iter(block.gains.values()), block.keys[0])
  if against not in plan.rows:
    return None
  pairs = {
    key: (plan.rows[against], plan.rows[key])
    for key in block.keys
    if key != against and key in plan.rows
  }
  columns = {
    name: tests
    for name, measures in plan.columns.items()
    if len(measures) == 1 and (tests := view.tests(list(pairs.values()), measures[0]))
  }
  if not columns:
    return None
  lines = []
  for key, pair in pairs.items():
    cells = [mixture_scores.tests_text(own.get(pair, ())) for own in columns.values()]
    if any(cells):
      lines.append((_label(block, key), *cells))
  where = f', {view.label}' if view.label else ''
  title = f'Solved by it alone : by {against} alone{where} ({HOLM})'
  return Grid(title, (plan.rows_are, *columns), tuple(lines))
