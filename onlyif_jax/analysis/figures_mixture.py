"""The figure of a run on mixtures: Fig. 6 with its sweet spot, scores, held-out loss."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from onlyif_jax.analysis import figures_style as style
from onlyif_jax.analysis import mixture_curve, paper_tables
from onlyif_jax.analysis.mixture_curve import Curve
from onlyif_jax.analysis.mixture_scores import Scores
from onlyif_jax.analysis.tuned import ZERO_SHOT, Tuned

LOSS = 'response_nll'
HEIGHT, PER_ROW = 3.2, 0.2  # inches


def draw(run: Tuned, views: Sequence[Scores], file) -> None:
  """Draws to a path or a binary file; what has no numbers is left out."""
  plt = style.pyplot()
  found = mixture_curve.figure(run, views)
  with plt.rc_context(style.STYLE):
    page = style.Page(plt, f'{run.config["name"]}: mixtures of instructions', left=0.8)
    labelled = []
    if found is not None:
      sides = [[c for c in found.curves if c.papers is p] for p in (False, True)]
      sides = [side for side in sides if side]
      for axes, side in zip(page.row([3.3] * len(sides), HEIGHT), sides, strict=True):
        _curves(axes, found, side)
        labelled.append(axes)
    names = _names(run)
    panels = [_losses(run, list(names)), *_averages(run, views)]
    panels = [p for p in panels if p[1]]
    shown = 0
    page.left = 0.3 + 0.075 * max((len(n) for n in names.values()), default=5)
    for title, series, xlabel in panels:
      height = max(1.2, PER_ROW * len(names))
      (axes,) = page.row([5.6], height, above=0.45)
      _dots(axes, names, series, shown)
      shown += len(series)
      axes.set_title(title, loc='left')
      axes.set_xlabel(xlabel)
      labelled.append(axes)
    style.save(plt, page.finish(_parts(run), labelled, columns=3), file)


def _curves(axes, found: mixture_curve.Figure, curves: Sequence[Curve]) -> None:
  """Lines of one origin, dotted at their value without the second source."""
  names = list(dict.fromkeys(c.name for c in found.curves))
  of = list(dict.fromkeys(c.of for c in curves))
  for c in curves:
    own = style.look(names.index(c.name) + len(names) * of.index(c.of))
    y = [100 * v for v in c.values]
    axes.plot(
      [100 * s for s in c.shares],
      y,
      color=own.colour,
      marker=own.marker,
      mfc='white' if c.papers else own.colour,
      ls='--' if c.papers else '-',
      label=f'{c.name}, {c.of}',
    )
    if c.baseline is not None:
      axes.axhline(100 * c.baseline, color=own.colour, lw=0.7, ls=':')
    if c.spot is not None:
      _band(axes, c)
  axes.set_title(
    f'{found.title}: {"paper" if curves[0].papers else "here"}', loc='left'
  )
  axes.set_xlabel(f'{found.source}, % of {found.total} rows')
  axes.set_ylabel('solved, %')


def _band(axes, curve: Curve) -> None:
  spot = curve.spot
  assert spot is not None
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
    x = 100 * spot.share
    axes.axvline(
      x, color=style.GREY, lw=1, ls='-.', label='best share: top of a parabola'
    )


def _names(run: Tuned) -> dict[str, str]:
  """Row -> what stands beside its dots."""
  keys = {row: key for key, row in paper_tables.rows(run).items()}
  found = dict.fromkeys(r.row for r in run.results)
  return {
    row: 'before tuning' if row == ZERO_SHOT else keys.get(row, row) for row in found
  }


Panel = tuple[str, dict[str, list[tuple[str, float]]], str]


def _losses(run: Tuned, names: Sequence[str]) -> Panel:
  """Loss of held-out responses of each source."""
  series: dict[str, list[tuple[str, float]]] = {}
  for r in run.results:
    if r.metric == LOSS:
      series.setdefault(r.slice.removeprefix('source='), []).append((r.row, r.value))
  order = {name: n for n, name in enumerate(names)}
  series = {k: sorted(v, key=lambda p: order[p[0]]) for k, v in series.items()}
  return 'Held-out responses, by their source', series, 'nats per token'


def _averages(run: Tuned, views: Sequence[Scores]) -> list[Panel]:
  """The tables' average, ours and printed."""
  if not views:
    return []
  plan = paper_tables.layout(run, views)
  printed = [
    (plan.rows[key], float(text))
    for block in plan.blocks
    for key in block.keys
    if key in plan.rows and (text := paper_tables.printed(block, key, plan.average))
  ]
  series = {paper_tables.PAPER: printed} if printed else {}
  for view in views:
    own = [(row, view.mean(row, plan.columns[plan.average])) for row in view.rows]
    name = paper_tables.HERE + (f', {view.label}' if view.label else '')
    series[name] = [(row, 100 * m) for row, m in own if m is not None]
  return [(f'{plan.title}: {plan.average}', series, '%')]


def _dots(axes, names: dict[str, str], series, first: int) -> None:
  places = {row: n for n, row in enumerate(names)}
  for n, (label, points) in enumerate(series.items()):
    own = style.look(first + n)
    known = [(x, places[row]) for row, x in points if row in places]
    x, y = (np.array(v) for v in zip(*known, strict=True)) if known else ([], [])
    axes.plot(x, y, color=own.colour, marker=own.marker, ls='', ms=5, label=label)
  axes.set_yticks(range(len(names)), list(names.values()), fontsize=8)
  axes.set_ylim(len(names) - 0.5, -0.5)
  axes.grid(axis='y', lw=0.4, alpha=0.5)


def _parts(run: Tuned) -> list[str]:
  """The settings of the footer."""
  c = run.config
  base = Path(c['base']['directory']).name or 'a small decoder made on the spot'
  how = f'LoRA rank {c["lora"]["rank"]}' if c['lora']['rank'] else 'all weights'
  seeds = len({r.seed for r in run.results})
  said = [
    base,
    how,
    f'{c["tune"]["epochs"]} passes in batches of {c["tune"]["batch_size"]}',
    f'rate {c["optim"]["learning_rate"]:g}',
    f'{c["thousand"]:,} rows to a thousand of the papers',
    f'draw: {c["mixture"]["selection"]}',
    f'seeds: {seeds}',
    f'size {c["size"]}',
  ]
  return [*said, f'paper: {c["paper"]}'] if c['paper'] else said
