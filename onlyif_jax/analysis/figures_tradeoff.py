"""The plane of instructions I and examples of each S, seen in three ways."""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from onlyif_jax.analysis.figures_style import GREY, RED, Page
from onlyif_jax.analysis.panels import View, count_ticks
from onlyif_jax.analysis.results import FITTED, Analysis, Row, mean
from onlyif_jax.analysis.transition import Point, fit_transition

MOST_TEXTS = 10  # columns of cells whose values are written out
SAME = 1.01  # steps or passes that differ by less are the same


@dataclasses.dataclass(frozen=True)
class Cell:
  """The members of one I and N; rows: one per seed, none where never fitted."""

  instructions: int
  examples: int
  rows: tuple[Row, ...]

  @property
  def each(self) -> float:
    """S, examples of a rule."""
    return self.examples / self.instructions


def tradeoff(plt, run: Analysis, parts: Sequence[str]):
  """Exact match over I and S at equal steps, at equal passes, and when fitted."""
  view = View(run)
  found = planes(view)
  title = f'Instructions or examples of each? Unseen exact match ({run.label})'
  page = Page(plt, title, right=0.8)
  panels = page.row([3.7] * len(found) + [0.16], 3.6, gap=0.5, above=0.6)
  every = [c for cells in found.values() for c in cells]
  image = None
  for axes, (name, cells) in zip(panels, found.items(), strict=False):
    image = _plane(axes, cells, every)
    axes.set_title(name)
  panels[0].set_ylabel('examples of each rule S = N / I')
  page.figure.colorbar(image, cax=panels[-1], label='exact match')
  return page.finish(parts, [panels[0]])


def planes(view: View) -> dict[str, list[Cell]]:
  """Title -> cells. Of several budgets of steps or passes, the one with most cells."""
  rows = view.final()
  steps = _largest(view, rows, lambda n, epochs: n * epochs)
  passes = _largest(view, rows, lambda n, epochs: epochs)
  out = {}
  if steps:
    batch = view.run.config.data.batch_size
    each = [
      view.number(r, 'data.examples') * view.number(r, 'data.epochs') for r in steps
    ]
    out[f'equal steps ({int(max(each)) // batch:,})'] = _cells(view, steps)
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
  """Dev exact match of members at the first step at which seen is 0.95 or more."""
  traces: dict[str, dict[str, dict[int, Row]]] = {}
  for row in run.dynamics:
    if row.metric == 'exact_match' and row.split in ('seen', 'dev'):
      traces.setdefault(row.member, {}).setdefault(row.split, {})[row.step] = row
  out = []
  for row in rows:
    own = traces.get(row.member, {})
    seen, dev = own.get('seen', {}), own.get('dev', {})
    steps = [n for n in sorted(seen) if seen[n].value >= FITTED and n in dev]
    out += [dev[steps[0]]] if steps else []
  return out


def _largest(view: View, rows: Sequence[Row], of) -> list[Row]:
  """The rows whose of(N, epochs) agree, of the group with the most cells."""
  told = sorted(
    (of(view.number(r, 'data.examples'), view.number(r, 'data.epochs')), n)
    for n, r in enumerate(rows)
  )
  groups: list[list[tuple[float, int]]] = []
  for value, n in told:
    if not groups or value > groups[-1][-1][0] * SAME:
      groups.append([])
    groups[-1].append((value, n))

  def size(group):
    return len(_cells(view, [rows[n] for _, n in group]))

  return [rows[n] for _, n in max(groups, key=size)] if groups else []


def _cells(view: View, rows: Iterable[Row]) -> list[Cell]:
  found: dict[tuple[int, int], list[Row]] = {}
  for row in rows:
    key = row.instructions, int(view.number(row, 'data.examples'))
    found.setdefault(key, []).append(row)
  return [Cell(i, n, tuple(own)) for (i, n), own in sorted(found.items())]


def _plane(axes, cells: Sequence[Cell], every: Sequence[Cell]):
  """The cells as rectangles between the middles to their neighbours, in log scale."""
  from matplotlib import cm, colors, patches

  scale: Any = cm.ScalarMappable(colors.Normalize(0, 1), cmap='cividis')
  columns = _edges([c.instructions for c in every])
  by = _aligned(every)
  rows = _edges([getattr(c, by) for c in every])
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
        cell.each,
        f'{value:.2f}',
        ha='center',
        va='center',
        fontsize=9 if len(columns) <= 7 else 8,
        color='black' if value > 0.55 else 'white',
        bbox={'facecolor': fill['facecolor'], 'edgecolor': 'none', 'pad': 1.5},
        zorder=4,
      )
    elif cell.rows:
      axes.plot(cell.instructions, cell.each, '.', c=GREY, ms=4)
  axes.set(xscale='log', yscale='log', xlabel='instructions I')
  axes.set_xlim(min(columns.values())[0], max(columns.values())[1])
  each = [c.each for c in every]
  room = 2.0 if by == 'each' else 1.6
  axes.set_ylim(min(each) / room, max(each) * room)
  _budgets(axes, every)
  _ridge(axes, cells)
  count_ticks(axes.xaxis)
  count_ticks(axes.yaxis)
  return scale


def _budgets(axes, every: Sequence[Cell]):
  """Lines of constant N = I x S, at round numbers within those of the cells."""
  x = np.array(axes.get_xlim())
  own = [c.examples for c in every]
  ends = math.floor(math.log10(min(own))), math.ceil(math.log10(max(own)))
  round_ = [m * 10**k for k in range(*ends) for m in (1, 3)] + [10 ** ends[1]]
  kept = [n for n in round_ if min(own) / 1.5 <= n <= max(own) * 1.5]
  for n in kept:
    axes.plot(x, n / x, ls=':', c=GREY, lw=1.2, zorder=3)
  label = f'N = I x S of {", ".join(f"{n:,}" for n in kept)} (from lower left)'
  axes.plot([], [], ls=':', c=GREY, lw=1.2, label=label)


def _ridge(axes, cells: Sequence[Cell]):
  """I_50 along lines of equal S, or of equal N where these hold more cells."""
  same, ridge = _aligned(cells), []
  for value in sorted({getattr(c, same) for c in cells}):
    own = [c for c in cells if getattr(c, same) == value]
    points = [
      Point(r.instructions, r.sum, r.count, r.seed) for c in own for r in c.rows
    ]
    t = fit_transition(points)
    if t.i_50:
      each = value if same == 'each' else value / t.i_50.value
      ridge.append((t.i_50.value, each))
  if ridge:
    label = 'I$_{50}$ along equal ' + ('S' if same == 'each' else 'N')
    # Hollow: the number of a cell may stand behind it.
    look = {'c': RED, 'mfc': 'none', 'mew': 1.5, 'ms': 14, 'lw': 2, 'zorder': 5}
    axes.plot(*zip(*ridge, strict=True), 'D-', label=label, **look)


def _aligned(cells: Sequence[Cell]) -> str:
  """Whether the cells lie in rows of equal S ('each') or of equal N ('examples')."""
  by_s, by_n = {c.each for c in cells}, {c.examples for c in cells}
  return 'each' if len(by_s) <= len(by_n) else 'examples'


def _edges(values: Iterable[float]) -> dict[float, tuple[float, float]]:
  """Value -> the middles to its neighbours; the outer ones as wide as the next."""
  own = sorted(set(values))
  middles = [math.sqrt(a * b) for a, b in itertools.pairwise(own)]
  low, high = (middles[0], middles[-1]) if middles else (own[0] * 2, own[0] / 2)
  edges = [own[0] ** 2 / low, *middles, own[-1] ** 2 / high]
  return {v: (edges[n], edges[n + 1]) for n, v in enumerate(own)}
