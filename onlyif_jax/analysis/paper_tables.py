"""Tables 1, 2 and 3 and Fig. 6 in the papers' form: their values with ours below.

paper_tables.yaml has the layout, targets.yaml the numbers. A run's rows are matched by
their counts; `thousand` of its config is the number of rows that stand for a thousand
of the papers'.
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

NOISE = '≈'  # marks a difference whose interval holds 0
PAPER, HERE = 'paper', 'here'
# Averages that the tables omit in most rows.
CODE_MEANS = {'Avg(Base)': ('HE', 'MBPP'), 'Avg(+)': ('HE+', 'MBPP+')}
HOLM = 'p of McNemar after Holm over rows and seeds'
WORDS = (
  f'{NOISE}: less than its noise, as its interval holds 0. Intervals hold 95 % of '
  'resampled problems (the same for both rows) and, where rows have several seeds, the '
  'spread of single runs; they are of single rows, not corrected for their number.'
)


class Block(NamedTuple):
  """Rows of a table with one budget: the printed ones, then others of the run."""

  table: Mapping[str, Any]  # of targets.yaml; {} if nothing is printed
  base: Fraction
  keys: tuple[str, ...]  # '18/2/0'

  @property
  def gains(self) -> dict[str, str]:
    """Column of a gain -> the row that is its baseline."""
    columns = self.table.get('columns', {})
    return {name: c['gain'] for name, c in columns.items() if 'gain' in c}


class Layout(NamedTuple):
  """How a table is laid out for a run."""

  title: str
  rows_are: str  # heads the first column
  columns: Mapping[str, Sequence[Measure]]
  average: str
  blocks: tuple[Block, ...]
  rows: Mapping[str, str]  # key -> name of a row in results.csv
  short: tuple[str, ...]  # columns that lack some of the papers' benchmarks


@functools.cache
def read() -> dict[str, Any]:
  """The content of paper_tables.yaml."""
  files = importlib.resources.files('onlyif_jax.analysis')
  return yaml.safe_load((files / 'paper_tables.yaml').read_text(encoding='utf-8'))


def scores(run: Tuned) -> list[Scores]:
  """The run's scores under each version of the benchmarks; raises ConfigError."""
  return mixture_scores.views(benchmark_scores.read(run.path))


def rows(run: Tuned) -> dict[str, str]:
  """Key (thousands of each source, '18/2/0') -> row's name, in the config's order."""
  names = {r.mixture: r.row for r in run.results if r.mixture}
  return {key: names[mixture] for mixture, key in keys(run).items() if mixture in names}


def keys(run: Tuned) -> dict[str, str]:
  """Mixture of the config ('oss=18000,alpaca=2000') -> key ('18/2/0')."""
  c, names = run.config, _sources(run)
  printed_keys = {
    of_thousands(names, key, c['thousand']): key
    for block in _spec(run).get('blocks', ())
    for key in _printed_table(block['of'])['rows']
  }
  scale = 1 if c['mixture']['budget'] else c['thousand']
  out = {}
  for mixture in c['mixture']['rows']:
    counts = dict(word.strip().split('=') for word in mixture.split(','))
    parts = (Fraction(counts.get(name, '0')) / scale for name in names)
    out[mixture] = printed_keys.get(mixture) or '/'.join(f'{float(p):g}' for p in parts)
  return out


def grids(run: Tuned, views: Sequence[Scores]) -> list[Grid]:
  """The papers' tables with our values; [] for a run without benchmark scores."""
  if not views:
    return []
  plan = layout(run, views)
  return [_grid(plan, block, views) for block in plan.blocks]


def notes(run: Tuned, views: Sequence[Scores]) -> list[str]:
  """Notes to the tables: noise, missing benchmarks, versions, inconsistencies."""
  if not views:
    return []
  plan, out = layout(run, views), [WORDS]
  for name in plan.short:
    measures = ', '.join(' '.join(m).strip() for m in plan.columns[name])
    out.append(f'{name} is here the mean of {measures} alone.')
  if any(s.benchmark == 'ifeval' for v in views for s in v.scores):
    out.append('IFEval: mean of prompt- and instruction-level strict accuracy.')
  if len(views) > 1:
    out.append(
      f'Scored under several versions: {"; ".join(v.label for v in views)}; the papers '
      'do not say which is theirs.'
    )
  out += [text for view in views if (text := _between_seeds(plan, view))]
  caveats = dict.fromkeys(c for block in plan.blocks for c in _caveats(block))
  return [*out, *(f'[{name}] {targets.caveat(name)}' for name in caveats)]


def _between_seeds(plan: Layout, view: Scores) -> str:
  """The spread of the seeds of one mixture, in words; '' if none has two seeds."""
  scores = {
    (key, seed): value
    for key, row in plan.rows.items()
    for seed, value in view.by_seed(row, plan.columns[plan.average]).items()
  }
  parts = paired.components(scores) if scores else None
  if parts is None or parts.inside is None:
    return ''
  text = (
    f'{plan.average}{f", {view.label}" if view.label else ""}: seeds of one mixture, '
    f'asked the same problems, have a standard deviation of {100 * parts.inside:.1f} '
    f'points ({parts.runs} runs of {parts.groups} mixtures)'
  )
  if parts.between is not None:
    text += f'; mixtures differ by {100 * parts.between:.1f} beyond that'
  return f'{text}.'


def details(run: Tuned, views: Sequence[Scores]) -> list[Grid]:
  """Tables of rows against their baseline, problem by problem: McNemar per seed."""
  if not views:
    return []
  plan = layout(run, views)
  tables = [_pairs(plan, block, view) for view in views for block in plan.blocks]
  return [table for table in tables if table is not None]


def layout(run: Tuned, views: Sequence[Scores]) -> Layout:
  """The layout of the run's table, a generic one for mixtures of no paper."""
  spec, run_rows = _spec(run), rows(run)
  measures = tuple(dict.fromkeys(m for v in views for m in v.measures))
  columns, short = _columns(spec.get('kind', ''), measures)
  average = read()['kinds'][spec['kind']]['average'] if spec else 'mean'
  blocks, remaining = [], list(run_rows)
  for block in spec.get('blocks', ()):
    table = _printed_table(block['of'])
    block_keys = dict.fromkeys(table['rows'])
    total = _total(next(iter(block_keys)))
    block_keys |= dict.fromkeys(k for k in run_rows if _total(k) == total)
    base = Fraction(str(block.get('base', 0)))
    blocks.append(Block(table, base, tuple(block_keys)))
    remaining = [k for k in remaining if k not in block_keys]
  if remaining:
    blocks.append(Block({}, Fraction(0), tuple(remaining)))
  title = spec.get('title', run.config['name'])
  rows_are = spec.get('rows', 'thousands of ' + '/'.join(_sources(run)))
  return Layout(title, rows_are, columns, average, tuple(blocks), run_rows, short)


def _spec(run: Tuned) -> dict[str, Any]:
  """The run's table in paper_tables.yaml; {} for a run of no paper."""
  return read()['tables'].get(run.config['name'], {})


def _sources(run: Tuned) -> list[str]:
  return [text.partition('=')[0] for text in run.config['mixture']['sources']]


def _printed_table(name: str) -> dict[str, Any]:
  return next(t for t in targets.read()['tables'] if t['id'] == name)


def _total(key: str) -> Fraction:
  return sum(map(Fraction, key.split('/')), Fraction())


Columns = dict[str, list[Measure]]  # name -> the measures that it is the mean of


def _columns(kind: str, measures: Sequence[Measure]) -> tuple[Columns, tuple[str, ...]]:
  """(columns that have scores, names of those that lack some benchmarks)."""
  if kind == 'code':
    return _code_columns(measures)
  if kind:
    return _general_columns(kind, measures)
  return {' '.join(m).strip(): [m] for m in measures} | {'mean': list(measures)}, ()


def _code_columns(measures: Sequence[Measure]) -> tuple[Columns, tuple[str, ...]]:
  """Columns of the code tables, which list their measures."""
  columns: Columns = {}
  short = []
  for name, pairs in read()['kinds']['code']['columns'].items():
    scored = [tuple(p) for p in pairs if tuple(p) in measures]
    if scored:
      columns[name] = scored
    if 0 < len(scored) < len(pairs):
      short.append(name)
  return columns, tuple(short)


def _general_columns(
  kind: str, measures: Sequence[Measure]
) -> tuple[Columns, tuple[str, ...]]:
  """A column per benchmark, and averages over those that a rule selects."""
  spec = read()['kinds'][kind]
  # A code benchmark counts once, by the tests that it was published with.
  measures = [m for m in measures if m[1] != 'plus']
  columns: Columns = {' '.join(m).strip(): [m] for m in measures}
  short = []
  for name, rule in spec['columns'].items():
    scored = [m for m in measures if _counted(m[0], rule)]
    if not scored:
      continue
    columns[name] = scored
    benchmarks = {m[0] for m in scored}
    for alternatives in spec.get('needs', []):
      needed = any(_counted(b, rule) for b in alternatives)
      if needed and not benchmarks & set(alternatives):
        short.append(name)
        break
  return columns, tuple(short)


def _counted(benchmark: str, rule: Mapping[str, str]) -> bool:
  """Whether a column's rule selects a benchmark."""
  groups = read()['groups']
  only = groups.get(rule.get('only', ''), None)
  without = groups.get(rule.get('without', ''), ())
  return benchmark not in without and (only is None or benchmark in only)


def _grid(plan: Layout, block: Block, views: Sequence[Scores]) -> Grid:
  """A block's table: a printed row and a row of ours per view, for each mixture."""
  gains = block.gains or {'gain': block.keys[0]}
  baseline = next(iter(gains.values()))
  header = (plan.rows_are, 'of', *plan.columns)
  header += tuple(f'{name}, %' for name in gains)
  header += (f'{plan.average} less that of {baseline}, points',)
  lines = []
  if ZERO_SHOT in views[0].rows:
    for view in views:
      cells = _cells(plan, view, ZERO_SHOT)
      lines.append(('before tuning', view_name(view), *cells, *[''] * (len(gains) + 1)))
  for key in block.keys:
    first = _label(block, key)
    cells = [printed(block, key, name) for name in (*plan.columns, *gains)]
    if any(cells):
      lines.append((first, PAPER, *cells, ''))
      first = ''
    for view in views if key in plan.rows else ():
      lines.append((first, view_name(view), *_ours(plan, view, key, gains)))
      first = ''
  total = f'{float(_total(block.keys[0])):g}K rows in all'
  return Grid(f'{plan.title}: {total}, %', header, tuple(lines))


def view_name(view: Scores) -> str:
  """The name of our values under a view, in tables and figures."""
  return f'{HERE}, {view.label}' if view.label else HERE


def _label(block: Block, key: str) -> str:
  """'15 + 3/2/0 [C14.4]': the base, what is added to it, its caveats."""
  first, *others = key.split('/')
  text = key
  if block.base:
    added = f'{float(Fraction(first) - block.base):g}'
    text = f'{float(block.base):g} + {"/".join((added, *others))}'
  caveats = list(block.table.get('row_caveats', {}).get(key, ()))
  for cell, cell_caveats in block.table.get('cell_caveats', {}).items():
    if cell.startswith(f'{key}/'):
      caveats += cell_caveats
  return f'{text} [{", ".join(caveats)}]' if caveats else text


def _caveats(block: Block) -> Iterator[str]:
  """The caveats of a block's targets, with repetitions."""
  for target in targets.load().values():
    if block.table and target.id.startswith(f'{block.table["id"]}/'):
      yield from target.caveats


def printed(block: Block, key: str, column: str) -> str:
  """A printed cell; an omitted average of code is computed from the row's cells."""
  table = block.table
  if key not in table.get('rows', {}):
    return ''
  cells = dict(zip(table['columns'], table['rows'][key], strict=True))
  value, sign = cells.get(column), '+' if column in block.gains else ''
  if value is None and column in CODE_MEANS:
    parts = [cells[name] for name in CODE_MEANS[column]]
    value = sum(parts) / len(parts)
  return '' if value is None else f'{value:{sign}.{table["digits"]}f}'


def _cells(plan: Layout, view: Scores, row: str) -> list[str]:
  """A row's mean in every column, in per cent."""
  means = (view.mean(row, measures) for measures in plan.columns.values())
  return ['' if m is None else f'{100 * m:.1f}' for m in means]


def _ours(
  plan: Layout, view: Scores, key: str, gains: Mapping[str, str]
) -> tuple[str, ...]:
  """Our means, their gains on the baselines, and the difference from the first."""
  row, average = plan.rows[key], plan.columns[plan.average]
  cells = _cells(plan, view, row)
  difference = ''
  for n, baseline in enumerate(gains.values()):
    gap = None
    if baseline in plan.rows and baseline != key:
      gap = view.gap(plan.rows[baseline], row, average)
    cells.append(_gain(gap, view.mean(row, average)))
    if n == 0 and gap is not None:
      difference = f'{gap.text()}{f" {NOISE}" if gap.within_noise else ""}'
  return (*cells, difference)


def _gain(gap: Gap | None, mean: float | None) -> str:
  """A relative gain in per cent; mean: of the row itself."""
  if gap is None or mean is None or mean == gap.value:
    return ''
  sign = f' {NOISE}' if gap.within_noise else ''
  return f'{100 * gap.value / (mean - gap.value):+.1f}{sign}'


def _pairs(plan: Layout, block: Block, view: Scores) -> Grid | None:
  """Problems that a row or its baseline alone solves; None without single answers."""
  baseline = next(iter(block.gains.values()), block.keys[0])
  if baseline not in plan.rows:
    return None
  pairs = {
    key: (plan.rows[baseline], plan.rows[key])
    for key in block.keys
    if key != baseline and key in plan.rows
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
    cells = [mixture_scores.tests_text(t.get(pair, ())) for t in columns.values()]
    if any(cells):
      lines.append((_label(block, key), *cells))
  version = f', {view.label}' if view.label else ''
  title = f'Solved by it alone : by {baseline} alone{version} ({HOLM})'
  return Grid(title, (plan.rows_are, *columns), tuple(lines))
