"""Figures that compare steps: by lengths, alphabets and settings that papers omit."""

from collections.abc import Sequence

import numpy as np

from onlyif_jax.analysis.figures_style import BLACK, GREY, Look, Page, look
from onlyif_jax.analysis.panels import (
  HOLLOW,
  View,
  count_axes,
  count_ticks,
  draw_step,
  fitted_series,
  hollow,
  setting_words,
  step_text,
  variant_name,
)
from onlyif_jax.analysis.results import Analysis, Curve, mean

SHAPE = ('task.x_min', 'task.x_max', 'task.y_min', 'task.y_max', 'task.input_length')


def lengths(plt, run: Analysis, parts: Sequence[str]):
  """Robustness to lengths: a curve per variant, and the step of each."""
  view = View(run)
  curves = view.curves()
  names = [variant_name(run, c.variant) for c in curves]
  page = Page(plt, f'Exact match on instructions never seen, by lengths ({run.label})')
  axes, forest = page.row([4.8, 3.2], max(3.2, 0.42 * len(curves)), gap=0.5)
  _curves(axes, view, curves, names)
  _forest(forest, view, curves)
  forest.set_yticks([])
  forest.set_title(f'I$_{{50}}$, {_spread(run)}')
  return page.finish(parts, [axes])


def alphabet(plt, run: Analysis, parts: Sequence[str]):
  """Curves over I by letters in use, and I_50 over the size of the alphabet."""
  view = View(run)
  groups: dict[str, list[Curve]] = {}  # lengths in words -> curves
  for curve in view.curves():
    shape = {f: view.setting(curve.rows[0], f) for f in SHAPE}
    groups.setdefault(setting_words(shape), []).append(curve)
  sizes = sorted({_letters(view, c) for c in view.curves()})
  page = Page(
    plt,
    f'Exact match on instructions never seen, by size of the alphabet ({run.label})',
  )
  panels = page.grid(len(groups) + 1, 3, 3.4, 2.9, gap=0.65)
  for axes, (name, curves) in zip(panels, groups.items(), strict=False):
    for curve in sorted(curves, key=lambda c: _letters(view, c)):
      size = _letters(view, curve)
      fitted_series(axes, view, curve, look(sizes.index(size)), f'{size} letters')
    count_axes(axes, [r.instructions for c in curves for r in c.rows])
    axes.set_title(name)
  hollow(panels[0])
  _over_letters(panels[len(groups)], view, groups)
  return page.finish(parts, panels)


def sensitivity(plt, run: Analysis, parts: Sequence[str]):
  """Settings that the papers omit: I_50 of each, and exact match at each I."""
  view = View(run)
  curves = view.curves()
  base = [c for c in curves if _is_base(run, c.variant)]
  curves = base + [c for c in curves if c not in base]
  names = [variant_name(run, c.variant, changes=True) for c in curves]
  left = 0.4 + 0.082 * max(map(len, names), default=1)
  page = Page(
    plt,
    f'Which setting moves the step? One row per setting ({run.label})',
    left=left,
  )
  height = max(1.6, 0.5 * len(curves))
  axes, dots = page.row([4.4, 3.6], height, gap=0.35)
  _forest(axes, view, curves, marked=len(base))
  axes.set_yticks(range(len(names)), names)
  axes.set_title(f'I$_{{50}}$, {_spread(run)}')
  _dots(dots, view, curves, len(base))
  return page.finish(parts, [dots])


def _curves(axes, view: View, curves: Sequence[Curve], names: Sequence[str]):
  for n, (curve, name) in enumerate(zip(curves, names, strict=True)):
    fitted_series(axes, view, curve, look(n), name)
  hollow(axes)
  count_axes(axes, [r.instructions for c in curves for r in c.rows])


def _forest(axes, view: View, curves: Sequence[Curve], *, marked: int = 0):
  """Draws each curve's I_50 or bracket in a row, the first on top; marked: in bold."""
  counts = [r.instructions for c in curves for r in c.rows]
  for n, curve in enumerate(curves):
    t = view.run.fits[curve.name]
    draw_step(axes, n, curve, t, Look(BLACK, 'D') if n < marked else look(n))
    axes.annotate(
      step_text(t),
      xy=(0.01, n),
      xycoords=('axes fraction', 'data'),
      xytext=(0, 6),
      textcoords='offset points',
      fontsize=8,
      va='bottom',
      fontweight='bold' if n < marked else 'normal',
    )
    if n < marked and t.i_50:
      axes.axvline(t.i_50.value, c=BLACK, lw=1, ls=':', zorder=0)
  axes.set(
    xscale='log',
    xlim=(min(counts) / 1.3, max(counts) * 1.3),
    ylim=(len(curves) - 0.6, -0.75),
    xlabel='instructions I',
  )
  count_ticks(axes.xaxis)
  axes.grid(alpha=0.25, axis='x')


def _dots(axes, view: View, curves: Sequence[Curve], marked: int):
  """Draws exact match at each I: a mean per row and count, seeds as small points."""
  counts = sorted({r.instructions for c in curves for r in c.rows})
  for k, count in enumerate(counts):
    style = look(k)
    shift = 0.5 * (k / (len(counts) - 1) - 0.5) if len(counts) > 1 else 0.0
    means: list[tuple[float, float]] = []
    for n, curve in enumerate(curves):
      rows = curve.by_count().get(count, [])
      for row in rows:
        axes.plot(
          row.value,
          n + shift,
          style.marker,
          c=style.colour,
          mfc=style.colour if view.fitted(row) else 'white',
          ms=3.5,
          alpha=0.6,
        )
      if rows:
        means.append((mean(rows), n + shift))
    axes.plot(
      [x for x, _ in means],
      [y for _, y in means],
      style.marker,
      c=style.colour,
      ms=7,
      ls='',
      label=f'I = {count:,}',
    )
  if marked:
    axes.axhspan(-0.5, marked - 0.5, color=GREY, alpha=0.12, lw=0, zorder=0)
  axes.plot([], [], 'o', c=GREY, mfc='white', ms=4, ls='', label=HOLLOW)
  axes.set(ylim=(len(curves) - 0.6, -0.75), xlim=(-0.04, 1.04), yticks=[])
  axes.set_xlabel('exact match')
  axes.grid(alpha=0.25, axis='x')
  axes.set_title('exact match at each I, means and seeds')


def _over_letters(axes, view: View, groups: dict[str, list[Curve]]):
  """Draws I_50 over the letters in use, a line per lengths."""
  for n, (name, curves) in enumerate(groups.items()):
    shift = 1.1 ** (n - (len(groups) - 1) / 2)
    style = look(5 - n % 6)
    steps = []
    for curve in sorted(curves, key=lambda c: _letters(view, c)):
      t, x = view.run.fits[curve.name], _letters(view, curve) * shift
      draw_step(axes, x, curve, t, style, up=True)
      if t.i_50:
        steps.append((x, t.i_50.value))
    axes.plot(*np.reshape(steps, (-1, 2)).T, ls=style.line, c=style.colour, lw=1.2)
    label = f'I$_{{50}}$: {name}'
    axes.plot([], [], marker=style.marker, ls=style.line, c=style.colour, label=label)
  label = 'pale: no fit, between which counts'
  axes.plot([], [], 'o-', c=GREY, mfc='white', lw=5, alpha=0.4, label=label)
  curves = [curve for group in groups.values() for curve in group]
  counts = [r.instructions for c in curves for r in c.rows]
  letters = sorted({_letters(view, c) for c in curves})
  axes.set(xscale='log', yscale='log', xlabel='letters in use', ylabel='I$_{50}$')
  axes.set(xlim=(letters[0] / 1.3, letters[-1] * 1.3))
  axes.set(ylim=(min(counts) / 1.3, max(counts) * 1.3))
  axes.set_xticks(letters, [str(n) for n in letters])
  axes.set_xticks([], minor=True)
  count_ticks(axes.yaxis)
  axes.grid(alpha=0.25)
  axes.set_title(f'where the step lies, {_spread(view.run)}')


def _spread(run: Analysis) -> str:
  """What the marks around a step are: the seeds themselves where they are two."""
  fits = [t.i_50 for t in run.fits.values() if t.i_50]
  has_interval = any(i_50.low is not None for i_50 in fits)
  return '95 % interval over seeds' if has_interval else 'and each seed'


def _letters(view: View, curve: Curve) -> int:
  return int(view.number(curve.rows[0], 'task.alphabet'))


def _is_base(run: Analysis, variant: str) -> bool:
  """Whether a variant changes nothing."""
  return variant_name(run, variant, changes=True) == 'base'
