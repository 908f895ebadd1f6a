"""A run's results as tables: rich in a terminal, plain text elsewhere."""

import dataclasses
from collections.abc import Iterable

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from onlyif_jax.analysis import scoreboard
from onlyif_jax.analysis.results import (
  Analysis,
  Row,
  mean,
  over_time,
  settings,
  transfer,
)
from onlyif_jax.analysis.selector import Evidence
from onlyif_jax.analysis.verdict import NOT_RUN

WIDE = 200  # characters in a line if the output is no terminal


@dataclasses.dataclass(frozen=True)
class Grid:
  """A table of text cells, for the terminal and for the html page."""

  title: str
  columns: tuple[str, ...]
  rows: tuple[tuple[str, ...], ...]


def grids(run: Analysis) -> list[Grid]:
  """The run's tables: exact match by count, the papers' step, reference members."""
  out = [_noop(run) if run.config.figure == 'noop' else _counts(run)]
  if steps := scoreboard.compare(run):
    figure = scoreboard.target(run.config.figure)['figure']
    columns = ('', f'papers, {scoreboard.OWN_SIZE}', 'here [95 % interval over seeds]')
    out.append(Grid(f'The step, beside {figure}', columns, tuple(steps)))
  if references := run.references():
    rows = ((name, f'{value:.3f}') for name, value in references.items())
    title = 'Reference members'
    out.append(Grid(title, ('reference', 'unseen exact match'), tuple(rows)))
  return out


def verdicts(run: Evidence) -> Grid | None:
  """The targets on which the run has a verdict; None without any."""
  board = scoreboard.judge([run])
  lines = board.of([run.experiment])
  rows = tuple(
    (line.target.text, line.target.figure, line.target.printed or '-', v.ours, v.label)
    for line in lines
    if (v := line.best).state != NOT_RUN
  )
  if not rows:
    return None
  title, not_run = board.text(), len(lines) - len(rows)
  if not_run:
    title += f' {not_run} more of this experiment: not run.'
  return Grid(title, ('of the papers', 'where', 'value', 'here', 'verdict'), rows)


def notes(run: Analysis) -> list[str]:
  """Notes on the numbers: seeds without fit, noise of the rules, the papers."""
  out = []
  if run.main.reason:
    out.append(f'No fit for {run.main.reason}.')
  if run.main.rule_se is not None:
    out.append(
      f'The sample of test rules adds {run.main.rule_se:.3f} decades (1 s.e.).'
    )
  if run.config.paper:
    out.append(f'Papers: {run.config.paper}')
  return out


def show(run: Analysis, console: Console | None = None) -> None:
  """Prints the tables, the notes and the settings."""
  tables = grids(run)
  if board := verdicts(run):
    tables.append(board)
  console = show_grids(tables, console)
  for text in (*notes(run), '; '.join(settings(run))):
    console.print(text, highlight=False, markup=False)


def show_grids(tables: Iterable[Grid], console: Console | None = None) -> Console:
  """Prints tables; returns the console, which is wide if there is no terminal."""
  console = console or Console()
  if not console.is_terminal:
    console = Console(file=console.file, width=WIDE)
  for grid in tables:
    # Escaped, since a bracketed range would be rich's markup.
    table = Table(
      title=escape(grid.title),
      title_justify='left',
      box=box.HEAVY_HEAD if console.is_terminal else None,
    )
    for n, name in enumerate(grid.columns):
      justify = 'left' if n == 0 else 'right'
      table.add_column(escape(name), justify=justify, overflow='fold')
    for row in grid.rows:
      table.add_row(*map(escape, row))
    console.print(table)
  return console


def _counts(run: Analysis) -> Grid:
  """One row per count of each curve that has the main curve's slice."""
  seen, main = run.values('seen'), run.curves[0]
  curves = [c for c in run.curves if c.slice == main.slice]
  several = len(curves) > 1
  rows = []
  for curve in curves:
    name = curve.name.rpartition('unseen/')[0].rstrip('/') or '-'
    for count, members in curve.by_count().items():
      ratios = [transfer(r, seen.get(r.member)) for r in members]
      ratios = [ratio for ratio in ratios if ratio is not None]
      trace = over_time(run, members)
      rows.append(
        (
          *([name] if several else []),
          f'{count:,}',
          f'{run.config.data.examples / count:,.4g}',
          str(len(members)),
          _spread(members),
          f'{_rule_se(members):.3f}',
          _spread(seen[r.member] for r in members if r.member in seen),
          f'{sum(ratios) / len(ratios):.2f}' if ratios else '-',
          '{:.2f} / {:.2f}'.format(*trace) if trace else '-',
        )
      )
  columns = (
    *(['setting'] if several else []),
    'I',
    'S = N/I',
    'seeds',
    'unseen exact match',
    '± rules',
    'seen',
    'transfer',
    'dev last / best',
  )
  return Grid(
    f'{run.label}: exact match, mean [min..max] of seeds', columns, tuple(rows)
  )


def _noop(run: Analysis) -> Grid:
  """One row per no-op share, rate and count; the last columns are error rates."""
  measures = (
    ('has-op', 'noop=0', 'exact_match'),
    ('no-op', 'noop=1', 'exact_match'),
    ('average 50:50', 'all', 'exact_match'),
    ('training mix', 'mix=train', 'exact_match'),
    ('near miss', 'near_miss=1', 'exact_match'),
    ('false op', 'noop=1', 'false_op'),
    ('false no-op', 'noop=0', 'false_no_op'),
  )
  values = [run.values('unseen', part, metric) for _, part, metric in measures]
  groups: dict[tuple[float, float, int], list[str]] = {}
  for row in run.values('unseen').values():
    if not row.reference:
      key = (row.noop_share, row.learning_rate, row.instructions)
      groups.setdefault(key, []).append(row.member)
  several_rates = len({rate for _, rate, _ in groups}) > 1
  rows = []
  for (share, rate, count), members in sorted(groups.items()):
    has_op, *others = [[v[m] for m in members if m in v] for v in values]
    name = f'{share:.0%}' + (f' @ {rate:g}' if several_rates else '')
    cells = (_spread(has_op), *map(_plain, others))
    rows.append((name, f'{count:,}', str(len(members)), *cells))
  columns = ('no-ops', 'I', 'seeds', *(name for name, _, _ in measures))
  title = f'{run.label}: unseen exact match, means over seeds'
  return Grid(title, columns, tuple(rows))


def _spread(rows: Iterable[Row]) -> str:
  """'0.520 [0.41..0.60]', without the range for one seed."""
  rows = list(rows)
  if not rows:
    return '-'
  values = [r.value for r in rows]
  text = f'{mean(rows):.3f}'
  return text + (f' [{min(values):.2f}..{max(values):.2f}]' if len(values) > 1 else '')


def _plain(rows: list[Row]) -> str:
  return f'{mean(rows):.3f}' if rows else '-'


def _rule_se(rows: list[Row]) -> float:
  """Standard error of the mean over seeds due to the sample of rules."""
  return sum(r.rule_se**2 for r in rows) ** 0.5 / len(rows)
