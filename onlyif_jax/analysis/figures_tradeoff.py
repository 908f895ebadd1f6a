"""Exact match over instructions I and examples of each S, under three budgets."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from onlyif_jax.analysis.figures_style import GREY, RED, Page
from onlyif_jax.analysis.panels import View, count_ticks
from onlyif_jax.analysis.results import FITTED, Analysis, Row, mean
from onlyif_jax.analysis.transition import Point, fit_transition

MOST_TEXTS = 10  # with more columns, cells do not show their value
SAME = 1.01  # steps or passes within this ratio are the same


@dataclasses.dataclass(frozen=True)
class Cell:
  """The members of one I and N; rows: one per seed that fitted its training rules."""

  instructions: int
  examples: int
  rows: tuple[Row, ...]

  @property
  def per_rule(self) -> float:
    """S, examples of each rule."""
    return self.examples / self.instructions


def tradeoff(plt, run: Analysis, parts: Sequence[str]):
  """Exact match over I and S at equal steps, at equal passes, and when fitted."""
  view = View(run)
  cells_by_title = planes(view)
  title = f'Instructions or examples of each? Unseen exact match ({run.label})'
  page = Page(plt, title, right=0.8)
  panels = page.row([3.7] * len(cells_by_title) + [0.16], 3.6, gap=0.5, above=0.6)
  all_cells = [c for cells in cells_by_title.values() for c in cells]
  scale = None
  for axes, (name, cells) in zip(panels, cells_by_title.items(), strict=False):
    scale = _plane(axes, cells, all_cells)
    axes.set_title(name)
  panels[0].set_ylabel('examples of each rule S = N / I')
  page.figure.colorbar(scale, cax=panels[-1], label='exact match')
  return page.finish(parts, [panels[0]])


def planes(view: View) -> dict[str, list[Cell]]:
  """Title -> cells of the number of steps or passes that has the most cells."""
  rows = view.final()
  steps = _largest(view, rows, lambda n, epochs: n * epochs)
  passes = _largest(view, rows, lambda n, epochs: epochs)
  out = {}
  if steps:
    batch = view.run.config.data.batch_size
    most = max(
      view.number(r, 'data.examples') * view.number(r, 'data.epochs') for r in steps
    )
    out[f'equal steps ({int(most) // batch:,})'] = _cells(view, steps)
  if passes:
    epochs = max(view.number(r, 'data.epochs') for r in passes)
    out[f'equal passes ({epochs:.4g})'] = _cells(view, passes)
  if steps:
    early = {r.member: r for r in until_fitted(view.run, steps)}
    cells = [
      dataclasses.replace(
        c, rows=tuple(early[r.member] for r in c.rows if r.member in early)
      )
      for c in _cells(view, steps)
    ]
    out[f'equal steps, stopped when seen ≥ {FITTED}\n(dev rules; crossed: never)'] = (
      cells
    )
  return out


def until_fitted(run: Analysis, rows: Iterable[Row]) -> list[Row]:
  """Each member's dev row at the first step with a seen exact match of 0.95 or more."""
  traces: dict[str, dict[str, dict[int, Row]]] = {}
  for row in run.dynamics:
    if row.metric == 'exact_match' and row.split in ('seen', 'dev'):
      traces.setdefault(row.member, {}).setdefault(row.split, {})[row.step] = row
  out = []
  for row in rows:
    splits = traces.get(row.member, {})
    seen, dev = splits.get('seen', {}), splits.get('dev', {})
    steps = [n for n in sorted(seen) if seen[n].value >= FITTED and n in dev]
    out += [dev[steps[0]]] if steps else []
  return out


def _largest(
  view: View, rows: Sequence[Row], budget: Callable[[float, float], float]
) -> list[Row]:
  """Groups rows by budget(N, epochs); the group with the most cells."""
  groups: list[list[Row]] = []
  last = -math.inf

  def amount(row: Row) -> float:
    return budget(view.number(row, 'data.examples'), view.number(row, 'data.epochs'))

  for row in sorted(rows, key=amount):
    if amount(row) > last * SAME:
      groups.append([])
    groups[-1].append(row)
    last = amount(row)
  return max(groups, key=lambda group: len(_cells(view, group)), default=[])


def _cells(view: View, rows: Iterable[Row]) -> list[Cell]:
  groups: dict[tuple[int, int], list[Row]] = {}
  for row in rows:
    key = row.instructions, int(view.number(row, 'data.examples'))
    groups.setdefault(key, []).append(row)
  return [Cell(i, n, tuple(group)) for (i, n), group in sorted(groups.items())]


def _plane(axes, cells: Sequence[Cell], all_cells: Sequence[Cell]):
  """Draws the cells as rectangles up to halfway to their neighbours, in log scale.

  all_cells: of all panels, which share their edges. Returns the colour scale.
  """
  from matplotlib import cm, colors, patches

  scale: Any = cm.ScalarMappable(colors.Normalize(0, 1), cmap='cividis')
  columns = _edges([c.instructions for c in all_cells])
  by = _aligned(all_cells)
  rows = _edges([getattr(c, by) for c in all_cells])
  for cell in cells:
    (x0, x1), (y0, y1) = columns[cell.instructions], rows[getattr(cell, by)]
    if by == 'examples':
      y0, y1 = y0 / cell.instructions, y1 / cell.instructions
    value = mean(cell.rows)
    fill: Any = {'facecolor': 'white', 'hatch': 'xx', 'edgecolor': '#bbbbbb'}
    if cell.rows:
      fill: Any = {'facecolor': scale.to_rgba(value), 'edgecolor': 'white'}
    axes.add_patch(patches.Rectangle((x0, y0), x1 - x0, y1 - y0, **fill))
    if cell.rows and len(columns) <= MOST_TEXTS:
      axes.text(
        cell.instructions,
        cell.per_rule,
        f'{value:.2f}',
        ha='center',
        va='center',
        fontsize=9 if len(columns) <= 7 else 8,
        color='black' if value > 0.55 else 'white',
        bbox={'facecolor': fill['facecolor'], 'edgecolor': 'none', 'pad': 1.5},
        zorder=4,
      )
    elif cell.rows:
      axes.plot(cell.instructions, cell.per_rule, '.', c=GREY, ms=4)
  axes.set(xscale='log', yscale='log', xlabel='instructions I')
  axes.set_xlim(min(columns.values())[0], max(columns.values())[1])
  per_rule = [c.per_rule for c in all_cells]
  room = 2.0 if by == 'per_rule' else 1.6
  axes.set_ylim(min(per_rule) / room, max(per_rule) * room)
  _budgets(axes, all_cells)
  _ridge(axes, cells)
  count_ticks(axes.xaxis)
  count_ticks(axes.yaxis)
  return scale


def _budgets(axes, cells: Sequence[Cell]):
  """Draws lines of constant N = I x S at round numbers about those of the cells."""
  x = np.array(axes.get_xlim())
  low, high = min(c.examples for c in cells), max(c.examples for c in cells)
  first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
  numbers = [m * 10**k for k in range(first, last) for m in (1, 3)] + [10**last]
  numbers = [n for n in numbers if low / 1.5 <= n <= high * 1.5]
  for n in numbers:
    axes.plot(x, n / x, ls=':', c=GREY, lw=1.2, zorder=3)
  label = f'N = I x S of {", ".join(f"{n:,}" for n in numbers)} (from lower left)'
  axes.plot([], [], ls=':', c=GREY, lw=1.2, label=label)


def _ridge(axes, cells: Sequence[Cell]):
  """Draws I_50 along rows of equal S, or of equal N (see `_aligned`)."""
  by, ridge = _aligned(cells), []
  for value in sorted({getattr(c, by) for c in cells}):
    rows = [r for c in cells if getattr(c, by) == value for r in c.rows]
    t = fit_transition(Point(r.instructions, r.sum, r.count, r.seed) for r in rows)
    if t.i_50:
      per_rule = value if by == 'per_rule' else value / t.i_50.value
      ridge.append((t.i_50.value, per_rule))
  if ridge:
    label = 'I$_{50}$ along equal ' + ('S' if by == 'per_rule' else 'N')
    # Hollow, since a cell's number may stand behind the marker.
    look = {'c': RED, 'mfc': 'none', 'mew': 1.5, 'ms': 14, 'lw': 2, 'zorder': 5}
    axes.plot(*zip(*ridge, strict=True), 'D-', label=label, **look)


def _aligned(cells: Sequence[Cell]) -> str:
  """The field in which cells align: 'per_rule' (equal S) or 'examples' (equal N)."""
  by_s, by_n = {c.per_rule for c in cells}, {c.examples for c in cells}
  return 'per_rule' if len(by_s) <= len(by_n) else 'examples'


def _edges(values: Iterable[float]) -> dict[float, tuple[float, float]]:
  """Value -> geometric means with its neighbours; symmetric about the outer values."""
  ordered = sorted(set(values))
  middles = [math.sqrt(a * b) for a, b in itertools.pairwise(ordered)]
  first, last = ordered[0], ordered[-1]
  low, high = (middles[0], middles[-1]) if middles else (first * 2, first / 2)
  edges = [first**2 / low, *middles, last**2 / high]
  return {value: (edges[n], edges[n + 1]) for n, value in enumerate(ordered)}
