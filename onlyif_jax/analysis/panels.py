"""Parts of figures drawn from a run's results: series, fits, the papers' step."""

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from onlyif_jax import config as config_lib
from onlyif_jax.analysis import scoreboard
from onlyif_jax.analysis.figures_style import BLUE, GREY, ORANGE, SKY, Look, apart
from onlyif_jax.analysis.results import FITTED, Analysis, Curve, Row, mean
from onlyif_jax.analysis.selector import Selector
from onlyif_jax.analysis.spread import MIN_SEEDS
from onlyif_jax.analysis.transition import Transition

REFERENCES = {  # reference -> label at the right edge, line style
  'infinite_rules': ('I = ∞', (0, (6, 2))),
  'infinite_inputs': ('S = ∞', (0, (4, 2, 1, 2))),
  'one': ('I = 1', (0, (1, 2))),
  'masked': ('instruction masked', (0, (3, 3))),
  'permuted': ('y permuted', (0, (5, 1, 1, 1, 1, 1))),
}
HOLLOW = f'hollow: seen below {FITTED}'
_NAMES = {'data.examples': 'N', 'data.epochs': 'passes', 'optim.name': 'optimiser'}
_SIDES = ('task.x_min', 'task.x_max', 'task.y_min', 'task.y_max')


@dataclasses.dataclass(frozen=True)
class View:
  """A run's members of one no-op share and learning rate, with their settings."""

  run: Analysis

  @functools.cached_property
  def seen(self) -> dict[str, Row]:
    """Member -> its row of exact match on seen rules."""
    return self.run.values('seen')

  @functools.cached_property
  def _selector(self) -> Selector:
    return Selector(self.run)

  def final(self, split: str = 'unseen', part: str | None = None) -> list[Row]:
    """Final exact match of the sweep's members; part: a slice, by default the main."""
    part = self.run.curves[0].slice if part is None else part
    rows = self.run.values(split, part).values()
    return [r for r in rows if not r.reference and self._shown(r)]

  def slices(self, name: str, split: str = 'unseen') -> list[str]:
    """The slices `name=...` of a split, sorted by value."""
    slices = {r.slice for r in self.run.rows if r.split == split}
    named = [s for s in slices if s.startswith(f'{name}=')]
    return sorted(named, key=lambda s: float(s.partition('=')[2]))

  def curves(self) -> list[Curve]:
    """The main curve of each variant that has results."""
    part = self.run.curves[0].slice
    return [
      c
      for c in self.run.curves
      if c.slice == part and c.rows and self._shown(c.rows[0])
    ]

  def setting(self, row: Row, field: str) -> str:
    """A row's setting as text: the variant's, else the config's."""
    return str(_flat(self._selector.value(row, field)))

  def number(self, row: Row, field: str) -> float:
    """A row's setting as a number."""
    return float(self.setting(row, field))

  def fitted(self, row: Row) -> bool:
    """Whether a row's member has learned its own rules."""
    return row.member in self.seen and self.seen[row.member].value >= FITTED

  def _shown(self, row: Row) -> bool:
    """Variants are compared at the smallest share and rate of a sweep over these."""
    first, sweep = self.run.curves[0], self.run.config.sweep
    if len(sweep.noop_shares) > 1 and row.noop_share != first.noop_share:
      return False
    return len(sweep.learning_rates) < 2 or row.learning_rate == first.learning_rate


def footer_parts(run: Analysis, parts: Sequence[str]) -> list[str]:
  """A footer's parts, preceded by the fields that the run's variants change."""
  fields = config_lib.swept(run.config)
  if not fields:
    return list(parts)
  names = dict.fromkeys('pattern' if f in _SIDES else _name(f) for f in fields)
  return [f'varied: {", ".join(names)} (where not, as follows)', *parts]


def variant_name(run: Analysis, variant: str, *, changes: bool = False) -> str:
  """A variant in words: its values of all swept fields, or only those it changes.

  changes: only those. This is implied if one of the variants changes nothing.
  """
  values = config_lib.swept_values(run.config, variant)
  if changes or '' in run.config.sweep.variants:
    base = config_lib.flatten(run.config)
    values = {k: v for k, v in values.items() if str(v) != str(_flat(base[k]))}
  return setting_words(values) or 'base'


def setting_words(values: Mapping[str, Any]) -> str:
  """Field -> value in words; patterns of one length as 'pattern 3'.

  >>> values = {'task.input_length': 20, 'optim.name': 'muon', 'data.examples': 2000}
  >>> setting_words(values)
  'input 20, optimiser muon, N 2,000'
  """
  values = dict(values)
  out = []
  if set(_SIDES) <= set(values) and len({str(values[s]) for s in _SIDES}) == 1:
    out.append(f'pattern {values[_SIDES[0]]}')
    values = {k: v for k, v in values.items() if k not in _SIDES}
  for field, value in values.items():
    if isinstance(value, int | float) and not isinstance(value, bool):
      value = f'{value:,.10g}'
    out.append(f'{_name(field)} {value}')
  return ', '.join(out)


def _name(field: str) -> str:
  return _NAMES.get(field, field.rpartition('.')[2].removesuffix('_length'))


def series(
  axes,
  view: View,
  points: Iterable[tuple[float, Row]],
  look: Look,
  label: str | None = None,
  *,
  middle: str = '',
  fill: bool = True,
):
  """Draws each seed's point (hollow if not fitted), the mean per x and its interval.

  middle: marker of the means, by default the series'. fill: False draws the means
  hollow too, for controls. A look's line of '' draws no line.
  """
  points = [(float(x), row) for x, row in points]
  points.sort(key=lambda point: point[0])
  for fitted in (True, False):
    shown = [(x, r.value) for x, r in points if view.fitted(r) == fitted]
    axes.plot(
      [x for x, _ in shown],
      [value for _, value in shown],
      look.marker,
      c=look.colour,
      mfc=look.colour if fitted and fill else 'white',
      ms=4,
      ls='',
      alpha=0.6,
      zorder=3,
    )
  by_x: dict[float, list[Row]] = {}
  for x, row in points:
    by_x.setdefault(x, []).append(row)
  means = np.array([mean(rows) for rows in by_x.values()])
  half = np.array([half_interval([r.value for r in rows]) for rows in by_x.values()])
  # Accuracy ends at 0 and 1, and so does its interval.
  errors = [np.minimum(half, means), np.minimum(half, 1 - means)]
  axes.errorbar(
    list(by_x),
    means,
    yerr=errors if len(means) else None,
    marker=middle or look.marker,
    ms=9 if middle else 6,
    mew=1.6 if middle or not fill else 0.8,
    mfc=look.colour if fill else 'white',
    mec=look.colour,
    ls=look.line or 'none',
    c=look.colour,
    lw=1.3,
    elinewidth=1,
    capsize=3,
    label=label,
    zorder=4,
  )


def half_interval(values: Sequence[float]) -> float:
  """Half of a 95 % interval over seeds (Student t); 0 for fewer than three."""
  if len(values) < MIN_SEEDS:
    return 0.0
  from scipy import special  # slow to load

  quantile = special.stdtrit(len(values) - 1, 0.975)
  return float(quantile * np.std(values, ddof=1) / np.sqrt(len(values)))


def fitted_line(axes, counts: Sequence[float], t: Transition, look: Look, label=None):
  """Draws the mean of the seeds' fits between the least and the largest count."""
  if t.fits:
    x = np.geomspace(min(counts), max(counts), 400)
    axes.plot(x, t.curve(x), ls=look.line, c=look.colour, lw=1.8, label=label, zorder=2)


def fitted_series(axes, view: View, curve: Curve, look: Look, label: str):
  """Draws a curve over I: points, and the fit or else a line through the means."""
  t = view.run.fits[curve.name]
  points_look = look._replace(line='') if t.fits else look
  points = [(float(r.instructions), r) for r in curve.rows]
  series(axes, view, points, points_look, middle='_')
  fitted_line(axes, list(curve.by_count()), t, look)
  axes.plot([], [], marker=look.marker, ls=look.line, c=look.colour, ms=5, label=label)


def hollow(axes):
  """Adds a legend entry for members that have not learned their own rules."""
  axes.plot([], [], 'o', c=BLUE, mfc='white', ms=5, label=HOLLOW)


def seen_line(axes, view: View, curve: Curve):
  """Draws the mean over seeds of exact match on seen rules."""
  means = {}
  for count, rows in curve.by_count().items():
    seen = [view.seen[r.member] for r in rows if r.member in view.seen]
    if seen:
      means[count] = mean(seen)
  axes.plot(
    list(means),
    list(means.values()),
    's-',
    c=ORANGE,
    lw=1,
    ms=3.5,
    alpha=0.8,
    label='seen rules, new inputs: mean',
  )


def count_axes(axes, counts: Iterable[float], *, label_x=True, label_y=True):
  """Sets up axes of exact match over I or another count."""
  ticks = sorted(set(counts)) or [1, 10]
  axes.set(xscale='log', xlim=(ticks[0] / 1.3, ticks[-1] * 1.3))
  count_ticks(axes.xaxis)
  match_axes(axes, label=label_y)
  if label_x:
    axes.set_xlabel('instructions I')


def match_axes(axes, *, label=True):
  """Sets up a vertical axis of exact match."""
  axes.set_ylim(-0.04, 1.06)
  axes.grid(alpha=0.25)
  if label:
    axes.set_ylabel('exact match')


def count_ticks(axis):
  """Labels a log axis with plain numbers; at 2 and 5 too if it spans few decades."""
  from matplotlib import ticker

  axis.set_major_formatter(lambda x, _: f'{x:,.10g}')
  low, high = axis.get_view_interval()
  few_decades = high / low < 30
  axis.set_minor_formatter(
    ticker.FuncFormatter(
      lambda x, _: f'{x:,.10g}' if few_decades and f'{x:e}'[0] in '25' else ''
    )
  )


def draw_step(
  axes, position: float, curve: Curve, t: Transition, look: Look, *, up=False
):
  """Draws I_50 with its interval and seeds, or the bracket as a pale bar.

  position: on the other axis; up: I runs upwards. A bracket's ends are hollow; an end
  that the counts leave open is an arrow.
  """

  def draw(counts, marker: str, **options):
    positions = [position] * len(counts)
    axes.plot(*((positions, counts) if up else (counts, positions)), marker, **options)

  if t.i_50:
    if t.i_50.low is not None:
      draw([t.i_50.low, t.i_50.high], '-', c=look.colour, lw=2)
    draw(list(t.i_50.per_seed.values()), '_' if up else '|', c=look.colour, ms=9)
    draw([t.i_50.value], look.marker, c=look.colour, ms=7, zorder=5)
    return
  counts = list(curve.by_count())
  low, high = t.bracket
  if low is None and high is None:
    return
  ends = [low or min(counts), high or max(counts)]
  draw(ends, '-', c=look.colour, lw=5, alpha=0.3, solid_capstyle='butt')
  arrows = 'v^' if up else '<>'
  for end, known, arrow in zip(ends, (low, high), arrows, strict=True):
    marker = arrow if known is None else look.marker
    fill = GREY if known is None else 'white'
    draw([end], marker, c=look.colour, mfc=fill, ms=6)


def step_text(t: Transition) -> str:
  """I_50 with its interval, else the bracket in words."""
  if t.i_50:
    return scoreboard.estimate(t.i_50)
  low, high = t.bracket
  if low is None and high is None:
    return 'no step within the counts'
  words = [f'fails up to {low:,.10g}'] if low is not None else []
  return ', '.join(words + ([f'holds from {high:,.10g}'] if high is not None else []))


def i50_span(axes, t: Transition):
  """Draws the fitted I_50 and its interval behind a panel."""
  if t.i_50:
    axes.axvline(t.i_50.value, c=BLUE, lw=1, ls=':')
    if t.i_50.low is not None:
      axes.axvspan(t.i_50.low, t.i_50.high, color=SKY, alpha=0.3, lw=0)


def reference_lines(axes, run: Analysis):
  """Draws the reference members as dashed lines, labelled at the right edge."""
  references = sorted(run.references().items(), key=lambda item: item[1])
  heights = apart([value for _, value in references], gap=0.062)
  low, high = -0.04, 1.06
  for (name, value), height in zip(references, heights, strict=True):
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


def paper_step(axes, figure: str, *, above: bool = True):
  """Draws the papers' step, named above the panel or else in the legend."""
  target = scoreboard.target(figure)
  if 'band' not in target:
    return
  label = f'{target["label"]} {scoreboard.OWN_SIZE}'
  low, high = target['band']
  legend = {} if above else {'label': label}
  if low < high:
    axes.axvspan(low, high, color=GREY, alpha=0.14, lw=0, zorder=0, **legend)
  else:
    axes.axvline(low, color=GREY, alpha=0.35, lw=5, zorder=0, **legend)
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


def _flat(value: Any) -> Any:
  """A value as a variant writes it: a list's entries joined by '|'."""
  return '|'.join(map(str, value)) if isinstance(value, list | tuple) else value
