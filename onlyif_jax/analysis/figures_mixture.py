"""The figure of a run on mixtures: Fig. 6, held-out loss and mean scores."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from onlyif_jax.analysis import figures_style as style
from onlyif_jax.analysis import mixture_curve, paper_tables
from onlyif_jax.analysis.mixture_curve import Curve
from onlyif_jax.analysis.mixture_scores import Scores
from onlyif_jax.analysis.sweetspot import MixtureSpot
from onlyif_jax.analysis.tuned import ZERO_SHOT, Tuned

LOSS = 'response_nll'
HEIGHT, PER_ROW = 3.2, 0.2  # inches


class Panel(NamedTuple):
  """A panel of dots; series: label -> (row, x) of its dots."""

  title: str
  series: Mapping[str, Sequence[tuple[str, float]]]
  xlabel: str


def draw(run: Tuned, views: Sequence[Scores], file) -> None:
  """Draws to a path or a binary file; panels without data are left out."""
  plt = style.pyplot()
  figure = mixture_curve.figure(run, views)
  with plt.rc_context(style.STYLE):
    page = style.Page(plt, f'{run.config["name"]}: mixtures of instructions', left=0.8)
    labelled = []
    if figure is not None:
      ours = [c for c in figure.curves if not c.papers]
      papers = [c for c in figure.curves if c.papers]
      sides = [side for side in (ours, papers) if side]
      for axes, side in zip(page.row([3.3] * len(sides), HEIGHT), sides, strict=True):
        _curves(axes, figure, side)
        labelled.append(axes)
    names = _names(run)
    panels = [_losses(run, list(names)), *_averages(run, views)]
    drawn = 0
    page.left = 0.3 + 0.075 * max((len(n) for n in names.values()), default=5)
    for panel in panels:
      if not panel.series:
        continue
      height = max(1.2, PER_ROW * len(names))
      (axes,) = page.row([5.6], height, above=0.45)
      _dots(axes, names, panel.series, drawn)
      drawn += len(panel.series)
      axes.set_title(panel.title, loc='left')
      axes.set_xlabel(panel.xlabel)
      labelled.append(axes)
    style.save(plt, page.finish(_parts(run), labelled, columns=3), file)


def _curves(axes, figure: mixture_curve.Figure, curves: Sequence[Curve]) -> None:
  """Curves of one origin; a dotted line is the value without the second source."""
  names = list(dict.fromkeys(c.name for c in figure.curves))
  origins = list(dict.fromkeys(c.of for c in curves))
  for c in curves:
    look = style.look(names.index(c.name) + len(names) * origins.index(c.of))
    axes.plot(
      [100 * share for share in c.shares],
      [100 * value for value in c.values],
      color=look.colour,
      marker=look.marker,
      mfc='white' if c.papers else look.colour,
      ls='--' if c.papers else '-',
      label=f'{c.name}, {c.of}',
    )
    if c.baseline is not None:
      axes.axhline(100 * c.baseline, color=look.colour, lw=0.7, ls=':')
    if c.spot is not None:
      _best_share(axes, c.spot)
  axes.set_title(
    f'{figure.title}: {"paper" if curves[0].papers else "here"}', loc='left'
  )
  axes.set_xlabel(f'{figure.source}, % of {figure.total} rows')
  axes.set_ylabel('solved, %')


def _best_share(axes, spot: MixtureSpot) -> None:
  """The best share as a line, its interval as a band."""
  if spot.low is not None and spot.high is not None:
    axes.axvspan(
      100 * spot.low,
      100 * spot.high,
      color=style.GREY,
      alpha=0.12,
      lw=0,
      label='95 % interval of the best share'
      + (', over problems alone' if spot.seeds == 1 else ''),
    )
  if spot.share is not None:
    axes.axvline(
      100 * spot.share,
      color=style.GREY,
      lw=1,
      ls='-.',
      label='best share: top of a parabola',
    )


def _names(run: Tuned) -> dict[str, str]:
  """Row -> its name in the figure."""
  keys = {row: key for key, row in paper_tables.rows(run).items()}
  rows = dict.fromkeys(r.row for r in run.results)
  return {
    row: 'before tuning' if row == ZERO_SHOT else keys.get(row, row) for row in rows
  }


def _losses(run: Tuned, rows: Sequence[str]) -> Panel:
  """Loss of held-out responses, a series per source."""
  series: dict[str, list[tuple[str, float]]] = {}
  for r in run.results:
    if r.metric == LOSS:
      series.setdefault(r.slice.removeprefix('source='), []).append((r.row, r.value))
  for dots in series.values():
    dots.sort(key=lambda dot: rows.index(dot[0]))
  return Panel('Held-out responses, by their source', series, 'nats per token')


def _averages(run: Tuned, views: Sequence[Scores]) -> list[Panel]:
  """The average column of the papers' table, printed and ours."""
  if not views:
    return []
  plan = paper_tables.layout(run, views)
  series: dict[str, list[tuple[str, float]]] = {}
  for block in plan.blocks:
    for key in block.keys:
      text = paper_tables.printed(block, key, plan.average)
      if key in plan.rows and text:
        dots = series.setdefault(paper_tables.PAPER, [])
        dots.append((plan.rows[key], float(text)))
  for view in views:
    means = {row: view.mean(row, plan.columns[plan.average]) for row in view.rows}
    series[paper_tables.view_name(view)] = [
      (row, 100 * mean) for row, mean in means.items() if mean is not None
    ]
  return [Panel(f'{plan.title}: {plan.average}', series, '%')]


def _dots(axes, names: Mapping[str, str], series: Mapping, first: int) -> None:
  """Draws a panel's series, from the `first` look on; names: row -> label."""
  heights = {row: n for n, row in enumerate(names)}
  for n, (label, dots) in enumerate(series.items()):
    look = style.look(first + n)
    shown = [(x, heights[row]) for row, x in dots if row in heights]
    x, y = np.reshape(shown, (-1, 2)).T
    axes.plot(x, y, color=look.colour, marker=look.marker, ls='', ms=5, label=label)
  axes.set_yticks(range(len(names)), list(names.values()), fontsize=8)
  axes.set_ylim(len(names) - 0.5, -0.5)
  axes.grid(axis='y', lw=0.4, alpha=0.5)


def _parts(run: Tuned) -> list[str]:
  """The footer's settings."""
  c = run.config
  parts = [
    run.base_name,
    run.trained_weights,
    f'{c["tune"]["epochs"]} passes in batches of {c["tune"]["batch_size"]}',
    f'rate {c["optim"]["learning_rate"]:g}',
    f'{c["thousand"]:,} rows to a thousand of the papers',
    f'draw: {c["mixture"]["selection"]}',
    f'seeds: {len({r.seed for r in run.results})}',
    f'size {c["size"]}',
  ]
  return [*parts, f'paper: {c["paper"]}'] if c['paper'] else parts
