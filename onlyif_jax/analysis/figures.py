"""The papers' figures from a run's results: Fig. 2a (imin) and Fig. 2b (noop).

Matplotlib loads with the first figure and draws without a display. Colours are
Okabe and Ito's; no two series differ by colour alone.
"""

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np

from onlyif_jax.analysis import scoreboard
from onlyif_jax.analysis.results import FITTED, Analysis, Curve, mean, settings
from onlyif_jax.analysis.transition import Transition

BLUE, ORANGE, GREEN, RED = '#0072B2', '#E69F00', '#009E73', '#D55E00'
SKY, PURPLE, BLACK, GREY = '#56B4E9', '#CC79A7', '#000000', '#666666'
SERIES = ((BLUE, 'o'), (RED, 's'), (GREEN, '^'), (PURPLE, 'D'), (ORANGE, 'v'))
HALVES = {  # slice -> label, colour, marker, line, shift that keeps bars apart
  'noop=1': ('no-op inputs', ORANGE, 's', '--', 0.95),
  'noop=0': ('has-op inputs', BLUE, 'o', '-', 1.0),
  'all': ('average, tested 50:50', BLACK, '^', ':', 1.05),
}
REFERENCES = {  # reference -> label at the right edge, line
  'infinite_rules': ('I = ∞', (0, (6, 2))),
  'infinite_inputs': ('S = ∞', (0, (4, 2, 1, 2))),
  'one': ('I = 1', (0, (1, 2))),
  'masked': ('instruction masked', (0, (3, 3))),
  'permuted': ('y permuted', (0, (5, 1, 1, 1, 1, 1))),
}
STYLE = {
  'font.size': 10,
  'axes.spines.top': False,
  'axes.spines.right': False,
  'axes.titlesize': 11,
  'legend.frameon': False,
  'figure.titlesize': 12,
  'figure.facecolor': 'white',
}


def draw(run: Analysis, file, *, anonymous: bool = False) -> None:
  """Writes the run's figure as png to `file` (a path or a binary file)."""
  plt = _pyplot()
  with plt.rc_context(STYLE):
    figure = (_noop if run.config.figure == 'noop' else _imin)(plt, run)
    _footer(figure, settings(run, anonymous=anonymous))
    figure.savefig(file, format='png', dpi=150, metadata={'Software': None})
    plt.close(figure)


def draw_joint(runs: Sequence[Analysis], labels: Sequence[str], file) -> None:
  """Writes one panel with the main curve of every run as png to `file`."""
  plt = _pyplot()
  below = 0.75 + 0.25 * len(runs)  # inches for the axis label and the legend
  with plt.rc_context(STYLE):
    figure, axes = plt.subplots(figsize=(9, 4.8 + below))
    figure.subplots_adjust(left=0.08, right=0.97)
    _margins(figure, top=0.8, bottom=below)
    for n, (run, label) in enumerate(zip(runs, labels, strict=True)):
      colour, marker = SERIES[n % len(SERIES)]
      line = ('-', '--', ':')[n % 3]
      bare = '' if run.main.fits else line
      _series(axes, run, run.curves[0], colour, marker, None, line=bare)
      _fitted(axes, run.curves[0], run.main, colour, line=line)
      axes.plot([], [], marker + line, c=colour, ms=4, label=_joint_label(run, label))
    _axes(axes, [run.curves[0] for run in runs])
    _paper(axes, runs[0].config.figure)
    figure.suptitle('Exact match on unseen instructions, by run')
    handles, names = axes.get_legend_handles_labels()
    figure.legend(handles, names, loc='lower left', bbox_to_anchor=(0.06, 0.0))
    figure.savefig(file, format='png', dpi=150, metadata={'Software': None})
    plt.close(figure)


def _joint_label(run: Analysis, label: str) -> str:
  seeds = len({r.seed for r in run.curves[0].rows})
  return (
    f'{label}: I$_{{50}}$ = {scoreboard.estimate(run.main.i_50)}, n = {seeds} seeds, '
    f'N = {run.config.data.examples:,}, {run.steps:,} steps, {run.config.optim.name}'
  )


def _pyplot() -> Any:
  import matplotlib  # slow to load, and only figures need it

  matplotlib.use('Agg')
  import matplotlib.pyplot as plt

  return plt


def _margins(figure, *, top: float, bottom: float):
  """Room above and below the panels, in inches."""
  height = figure.get_figheight()
  figure.subplots_adjust(top=1 - top / height, bottom=bottom / height)


def _imin(plt, run: Analysis):
  figure, (axes, below) = plt.subplots(
    2, 1, figsize=(9, 7.2), height_ratios=(4.2, 1), sharex=True
  )
  figure.subplots_adjust(left=0.08, right=0.78, hspace=0.08)
  curve, t = run.curves[0], run.main
  _seen(axes, run, curve)
  label = 'unseen rules: mean, 95 % interval over seeds'
  _series(axes, run, curve, BLUE, 'o', label, line='' if t.fits else '-')
  _fitted(axes, curve, t, BLUE, 'fitted logistic, mean over seeds')
  if t.i_50:
    axes.axvline(t.i_50.value, c=BLUE, lw=1, ls=':')
    if t.i_50.low is not None:
      axes.axvspan(t.i_50.low, t.i_50.high, color=SKY, alpha=0.3, lw=0)
  _references(axes, run)
  _axes(axes, [curve], label_x=False)
  _paper(axes, run.config.figure)
  counts = np.array(list(curve.by_count()) or [1, 10])
  below.plot(counts, run.config.data.examples / counts, '.-', c=GREY, lw=1)
  below.set(yscale='log', xlabel='instructions I', ylabel='S = N / I')
  below.grid(alpha=0.25)
  figure.suptitle(
    'Exact match on instructions never seen, by their number in training\n'
    f'{run.label}, N = {run.config.data.examples:,} = I x S: {_step(t)}',
    x=0.08,
    ha='left',
  )
  _legend(figure, axes, 2, top=1.05)
  return figure


def _step(t: Transition) -> str:
  """The fitted step in words, or that there is none."""
  text = f'I$_{{50}}$ = {scoreboard.estimate(t.i_50)}' if t.i_50 else 'no fit'
  return f'{text}; fails up to / holds from {scoreboard.brackets(t)}'


def _noop(plt, run: Analysis):
  groups: dict[tuple[float, float], list[Curve]] = {}
  for curve in run.curves:
    if curve.slice in HALVES:
      groups.setdefault((curve.noop_share, curve.learning_rate), []).append(curve)
  columns = min(3, len(groups))
  rows = -(-len(groups) // columns)
  size = max(7.5, 3.9 * columns), 2.6 + 2.9 * rows
  figure, grid = plt.subplots(rows, columns, figsize=size, sharey=True, squeeze=False)
  figure.subplots_adjust(left=0.55 / size[0], right=0.98, hspace=0.42, wspace=0.08)
  rates = len({rate for _, rate in groups})
  for axes, ((share, rate), curves) in zip(grid.flat, groups.items(), strict=False):
    for curve in curves:
      label, colour, marker, line, shift = HALVES[curve.slice]
      _series(axes, run, curve, colour, marker, label, line=line, shift=shift)
    for name, value in run.references().items():
      label, dashes = REFERENCES[name]
      axes.axhline(value, c=GREY, lw=1, ls=dashes, zorder=1, label=label)
    _axes(axes, curves, label_y=axes in grid[:, 0])
    _paper(axes, run.config.figure, above=False)
    title = f'{share:.0%} no-ops' + (f', rate {rate:g}' if rates > 1 else '')
    has_op = next((run.fits[c.name].i_50 for c in curves if c.slice == 'noop=0'), None)
    if has_op:
      axes.axvline(has_op.value, c=BLUE, lw=1, ls=':')
      title += f': has-op I$_{{50}}$ = {scoreboard.number(has_op.value)}'
    axes.set_title(title, fontsize=10)
  for axes in list(grid.flat)[len(groups) :]:
    axes.axis('off')
  figure.suptitle(
    f'Exact match on instructions never seen, by share of no-ops ({run.label})'
  )
  # Two panels are too narrow for four labels in a row.
  _legend(figure, grid.flat[0], 4 if columns > 2 else 2, top=0.85)
  return figure


def _legend(figure, axes, columns: int, top: float):
  """One legend for the figure, between the panels and the footer."""
  axes.plot(
    [], [], 'o', c=BLUE, mfc='white', ms=5, label=f'hollow: seen below {FITTED}'
  )
  handles, names = axes.get_legend_handles_labels()
  figure.legend(
    handles,
    names,
    ncols=columns,
    loc='lower left',
    bbox_to_anchor=(0.05, 0.42 / figure.get_figheight()),
    fontsize=9,
  )
  _margins(figure, top=top, bottom=1.0 + 0.22 * -(-len(names) // columns))


def _series(axes, run, curve: Curve, colour, marker, label, *, line='', shift=1.0):
  """Each seed's point (hollow where not fitted), the mean and its interval."""
  seen = run.values('seen')
  for fitted in (True, False):
    rows = [
      r
      for r in curve.rows
      if (r.member in seen and seen[r.member].value >= FITTED) == fitted
    ]
    axes.plot(
      [r.instructions * shift for r in rows],
      [r.value for r in rows],
      marker,
      c=colour,
      mfc=colour if fitted else 'white',
      ms=4,
      alpha=0.6,
      zorder=3,
    )
  by_count = curve.by_count()
  middle = np.array([mean(rows) for rows in by_count.values()])
  error = np.array([_half([r.value for r in rows]) for rows in by_count.values()])
  # Accuracy ends at 0 and 1, and so does what an interval can say about it.
  span = [np.minimum(error, middle), np.minimum(error, 1 - middle)]
  axes.errorbar(
    [count * shift for count in by_count],
    middle,
    yerr=span if len(middle) else None,
    fmt='_' + line,
    ms=9,
    mew=1.6,
    c=colour,
    lw=1.3,
    elinewidth=1,
    capsize=3,
    label=label,
    zorder=4,
  )


def _half(values) -> float:
  """Half of a 95 % interval over seeds (Student t); 0 for fewer than three."""
  if len(values) < 3:
    return 0.0
  from scipy import special

  quantile = special.stdtrit(len(values) - 1, 0.975)
  return float(quantile * np.std(values, ddof=1) / np.sqrt(len(values)))


def _fitted(axes, curve: Curve, t: Transition, colour, label=None, line='-'):
  if t.fits:
    counts = list(curve.by_count())
    x = np.geomspace(min(counts), max(counts), 400)
    axes.plot(x, t.curve(x), line, c=colour, lw=1.8, label=label, zorder=2)


def _seen(axes, run: Analysis, curve: Curve):
  seen = run.values('seen')
  by_count = {
    count: [seen[r.member] for r in rows if r.member in seen]
    for count, rows in curve.by_count().items()
  }
  by_count = {count: rows for count, rows in by_count.items() if rows}
  axes.plot(
    list(by_count),
    [mean(rows) for rows in by_count.values()],
    's-',
    c=ORANGE,
    lw=1,
    ms=3.5,
    alpha=0.8,
    label='seen rules, new inputs: mean',
  )


def _references(axes, run: Analysis):
  """Dashed lines of the reference members, labelled at the right edge."""
  found = sorted(run.references().items(), key=lambda item: item[1])
  heights = _spread([value for _, value in found], gap=0.062)
  low, high = -0.04, 1.06
  for (name, value), height in zip(found, heights, strict=True):
    label, dashes = REFERENCES[name]
    axes.axhline(value, c=GREY, lw=1, ls=dashes, zorder=1)
    axes.annotate(
      f'{label}: {value:.2f}',
      xy=(1, (value - low) / (high - low)),
      xytext=(1.04, (height - low) / (high - low)),
      xycoords='axes fraction',
      va='center',
      fontsize=9,
      color=GREY,
      annotation_clip=False,
      arrowprops={'arrowstyle': '-', 'color': GREY, 'lw': 0.6, 'relpos': (0, 0.5)},
    )


def _spread(values: Sequence[float], gap: float) -> list[float]:
  """Ascending heights in [0, 1] as near to `values` as a gap between them allows."""
  out: list[float] = []
  for value in values:
    out.append(max(value, out[-1] + gap) if out else value)
  limit = 1.0
  for n in reversed(range(len(out))):
    out[n] = min(out[n], limit)
    limit = out[n] - gap
  return out


def _paper(axes, figure: str, *, above: bool = True):
  """Where the papers have the step, named above the panel or in the legend."""
  goal = scoreboard.target(figure)
  label = f'{goal["label"]} {scoreboard.OWN_SIZE}'
  low, high = goal['band']
  named = {} if above else {'label': label}
  if low < high:
    axes.axvspan(low, high, color=GREY, alpha=0.14, lw=0, zorder=0, **named)
  else:
    axes.axvline(low, color=GREY, alpha=0.35, lw=5, zorder=0, **named)
  middle = np.sqrt(low * high)
  if above and axes.get_xlim()[0] < middle < axes.get_xlim()[1]:
    axes.text(
      middle,
      1.015,
      label,
      transform=axes.get_xaxis_transform(),
      ha='center',
      va='bottom',
      fontsize=9,
      color=GREY,
    )


def _axes(axes, curves: Sequence[Curve], *, label_x=True, label_y=True):
  counts = sorted({r.instructions for c in curves for r in c.rows}) or [1, 10]
  axes.set(xscale='log', ylim=(-0.04, 1.06), xlim=(counts[0] / 1.3, counts[-1] * 1.3))
  axes.xaxis.set_major_formatter(lambda x, _: f'{x:,.10g}')
  axes.grid(alpha=0.25)
  if label_x:
    axes.set_xlabel('instructions I')
  if label_y:
    axes.set_ylabel('exact match')


def _footer(figure, parts: Sequence[str]):
  width = int(figure.get_figwidth() * 13.5)
  text = textwrap.fill(' · '.join(parts), width, break_long_words=False)
  figure.text(0.03, 0.012, text, fontsize=8, color=GREY, va='bottom')
