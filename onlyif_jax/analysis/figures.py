"""Draws the papers' figures from a run's results; `config.figure` names the figure."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from onlyif_jax.analysis import scoreboard
from onlyif_jax.analysis.figures_algebra import algebra
from onlyif_jax.analysis.figures_longtail import longtail
from onlyif_jax.analysis.figures_settings import alphabet, lengths, sensitivity
from onlyif_jax.analysis.figures_style import (
  BLACK,
  BLUE,
  GREY,
  LOOKS,
  ORANGE,
  STYLE,
  Look,
  footer,
  look,
  margins,
  pyplot,
  save,
)
from onlyif_jax.analysis.figures_tasks import cipher, markov, occurrences, semantics
from onlyif_jax.analysis.figures_tradeoff import tradeoff
from onlyif_jax.analysis.panels import (
  REFERENCES,
  View,
  count_axes,
  fitted_line,
  footer_parts,
  hollow,
  i50_span,
  paper_step,
  reference_lines,
  seen_line,
  series,
)
from onlyif_jax.analysis.results import Analysis, Curve, Row, settings
from onlyif_jax.analysis.transition import Transition

SLICES = {  # slice -> label, look, factor on I that keeps error bars apart
  'noop=1': ('no-op inputs', Look(ORANGE, 's', '--'), 0.95),
  'noop=0': ('has-op inputs', LOOKS[0], 1.0),
  'all': ('average, tested 50:50', Look(BLACK, '^', ':'), 1.05),
}


def draw(run: Analysis, file, *, anonymous: bool = False) -> None:
  """Writes the run's figure as png to `file` (a path or a binary file)."""
  plt = pyplot()
  parts = footer_parts(run, settings(run, anonymous=anonymous))
  with plt.rc_context(STYLE):
    save(plt, FIGURES.get(run.config.figure, imin)(plt, run, parts), file)


def draw_joint(runs: Sequence[Analysis], labels: Sequence[str], file) -> None:
  """Writes one panel with the main curve of every run as png to `file`."""
  plt = pyplot()
  bottom = 0.75 + 0.25 * len(runs)  # inches for the axis label and the legend
  with plt.rc_context(STYLE):
    figure, axes = plt.subplots(figsize=(9, 4.8 + bottom))
    figure.subplots_adjust(left=0.08, right=0.97)
    margins(figure, top=0.8, bottom=bottom)
    for n, (run, label) in enumerate(zip(runs, labels, strict=True)):
      curve, t, style = run.curves[0], run.main, look(n)
      without_line = style._replace(line='') if t.fits else style
      series(axes, View(run), _points(curve), without_line, middle='_')
      fitted_line(axes, list(curve.by_count()), t, style)
      axes.plot(
        [],
        [],
        marker=style.marker,
        ls=style.line,
        c=style.colour,
        ms=4,
        label=_joint_label(run, label),
      )
    _axes(axes, [run.curves[0] for run in runs])
    paper_step(axes, runs[0].config.figure)
    figure.suptitle('Exact match on unseen instructions, by run')
    handles, names = axes.get_legend_handles_labels()
    figure.legend(handles, names, loc='lower left', bbox_to_anchor=(0.06, 0.0))
    save(plt, figure, file)


def _joint_label(run: Analysis, label: str) -> str:
  seeds = len({r.seed for r in run.curves[0].rows})
  return (
    f'{label}: I$_{{50}}$ = {scoreboard.estimate(run.main.i_50)}, n = {seeds} seeds, '
    f'N = {run.config.data.examples:,}, {run.steps:,} steps, {run.config.optim.name}'
  )


def imin(plt, run: Analysis, parts: Sequence[str]):
  """Fig. 2a of Only-IF: unseen exact match over I, and S below it."""
  figure, (axes, budget_axes) = plt.subplots(
    2, 1, figsize=(9, 7.2), height_ratios=(4.2, 1), sharex=True
  )
  figure.subplots_adjust(left=0.08, right=0.78, hspace=0.08)
  view, curve, t = View(run), run.curves[0], run.main
  seen_line(axes, view, curve)
  label = 'unseen rules: mean, 95 % interval over seeds'
  points_look = Look(BLUE, 'o', '' if t.fits else '-')
  series(axes, view, _points(curve), points_look, label, middle='_')
  label = 'fitted logistic, mean over seeds'
  fitted_line(axes, list(curve.by_count()), t, LOOKS[0], label)
  i50_span(axes, t)
  reference_lines(axes, run)
  _axes(axes, [curve], label_x=False)
  paper_step(axes, run.config.figure)
  counts = np.array(list(curve.by_count()) or [1, 10])
  budget_axes.plot(counts, run.config.data.examples / counts, '.-', c=GREY, lw=1)
  budget_axes.set(yscale='log', xlabel='instructions I', ylabel='S = N / I')
  budget_axes.grid(alpha=0.25)
  figure.suptitle(
    'Exact match on instructions never seen, by their number in training\n'
    f'{run.label}, N = {run.config.data.examples:,} = I x S: {_step(t)}',
    x=0.08,
    ha='left',
  )
  _legend(figure, axes, 2, top=1.05)
  footer(figure, parts)
  return figure


def _step(t: Transition) -> str:
  """I_50 and the bracket in words."""
  text = f'I$_{{50}}$ = {scoreboard.estimate(t.i_50)}' if t.i_50 else 'no fit'
  return f'{text}; fails up to / holds from {scoreboard.brackets(t)}'


def noop(plt, run: Analysis, parts: Sequence[str]):
  """Fig. 2b of Only-IF: no-op and has-op inputs, one panel per share of no-ops."""
  groups: dict[tuple[str, float, float], list[Curve]] = {}
  for curve in run.curves:
    if curve.slice in SLICES:
      key = (curve.variant, curve.noop_share, curve.learning_rate)
      groups.setdefault(key, []).append(curve)
  columns = min(3, len(groups))
  rows = -(-len(groups) // columns)
  size = max(7.5, 3.9 * columns), 2.6 + 2.9 * rows
  figure, grid = plt.subplots(rows, columns, figsize=size, sharey=True, squeeze=False)
  figure.subplots_adjust(left=0.55 / size[0], right=0.98, hspace=0.42, wspace=0.08)
  several_rates = len({rate for _, _, rate in groups}) > 1
  view = View(run)
  for axes, ((_, share, rate), curves) in zip(grid.flat, groups.items(), strict=False):
    for curve in curves:
      label, style, shift = SLICES[curve.slice]
      series(axes, view, _points(curve, shift), style, label, middle='_')
    for name, value in run.references().items():
      label, dashes = REFERENCES[name]
      axes.axhline(value, c=GREY, lw=1, ls=dashes, zorder=1, label=label)
    _axes(axes, curves, label_y=axes in grid[:, 0])
    paper_step(axes, run.config.figure, above=False)
    title = f'{share:.0%} no-ops' + (f', rate {rate:g}' if several_rates else '')
    i_50 = next((run.fits[c.name].i_50 for c in curves if c.slice == 'noop=0'), None)
    if i_50:
      axes.axvline(i_50.value, c=BLUE, lw=1, ls=':')
      title += f': has-op I$_{{50}}$ = {scoreboard.number(i_50.value)}'
    axes.set_title(title)
  for axes in list(grid.flat)[len(groups) :]:
    axes.axis('off')
  figure.suptitle(
    f'Exact match on instructions never seen, by share of no-ops ({run.label})'
  )
  # Two panels are too narrow for four labels in a row.
  _legend(figure, grid.flat[0], 4 if columns > 2 else 2, top=0.85)
  footer(figure, parts)
  return figure


def _points(curve: Curve, shift: float = 1.0) -> list[tuple[float, Row]]:
  return [(r.instructions * shift, r) for r in curve.rows]


def _axes(axes, curves: Sequence[Curve], **labels):
  count_axes(axes, [r.instructions for c in curves for r in c.rows], **labels)


def _legend(figure, axes, columns: int, top: float):
  """One legend for the figure, between the panels and the footer."""
  hollow(axes)
  handles, names = axes.get_legend_handles_labels()
  figure.legend(
    handles,
    names,
    ncols=columns,
    loc='lower left',
    bbox_to_anchor=(0.05, 0.42 / figure.get_figheight()),
    fontsize=9,
  )
  margins(figure, top=top, bottom=1.0 + 0.22 * -(-len(names) // columns))


def _or_imin(figure: Callable[..., Any]) -> Callable[..., Any]:
  """A figure that compares variants; `imin` for a run without variants."""

  def draw_figure(plt, run: Analysis, parts: Sequence[str]):
    return (figure if run.config.sweep.variants else imin)(plt, run, parts)

  return draw_figure


# config.figure -> (pyplot, run, parts of the footer) -> matplotlib figure
FIGURES: dict[str, Callable[..., Any]] = {
  'imin': imin,
  'noop': noop,
  'longtail': _or_imin(longtail),
  'occurrences': occurrences,
  'semantics': semantics,
  'lengths': _or_imin(lengths),
  'tradeoff': _or_imin(tradeoff),
  'alphabet': _or_imin(alphabet),
  'sensitivity': _or_imin(sensitivity),
  'cipher': cipher,
  'algebra': algebra,
  'markov': markov,
}
