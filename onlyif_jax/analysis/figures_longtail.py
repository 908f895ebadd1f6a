"""Fig. 3 and 7 of Only-IF: power-law rule sets, and their effective diversity."""

from collections.abc import Sequence

import numpy as np

from onlyif_jax.analysis import diversity
from onlyif_jax.analysis.diversity import Diversity, RuleSet
from onlyif_jax.analysis.figures_style import GREY, Look, Page, look
from onlyif_jax.analysis.panels import (
  HOLLOW,
  View,
  count_ticks,
  half_interval,
  match_axes,
  series,
)
from onlyif_jax.analysis.results import Analysis
from onlyif_jax.analysis.transition import Transition

ALPHA, POWER_LAW = r'$\alpha$', r'$\alpha$ of the power law $\alpha x^{\alpha-1}$'
ZERO_AT = 0.5  # where a log axis shows an effective number of 0
HATCHES = ('', '//', '..', 'xx', '--', '\\\\')


def longtail(plt, run: Analysis, parts: Sequence[str]):
  """Exact match over alpha, the rules' shares, and exact match by effective number."""
  view = View(run)
  diverse = Diversity(run)
  page = Page(
    plt,
    'Exact match on instructions never seen, if the rules have unequal shares of the '
    f'examples ({run.label}, N = {run.config.data.examples:,})',
  )
  by_alpha = bool(diverse.skewed or diverse.controls or not diverse.halves)
  panels = page.row([4.4] * by_alpha + [3.0] + [3.0] * bool(diverse.halves), 3.0)
  labelled = panels[:by_alpha]
  if by_alpha:
    _over_alpha(panels[0], view, diverse)
  _shares(panels[by_alpha], diverse)
  if diverse.halves:
    halving(panels[-1], diverse.halves)
  if diverse.skewed:
    names = ('perplexity', 'inverse_simpson', diversity.best_count(diverse.one_curve))
    panels = page.row([3.35] * 3, 2.7, above=0.65)
    for axes, name in zip(panels, names, strict=True):
      _effective(axes, view, diverse, name)
      labelled.append(axes)
    panels[0].set_ylabel('exact match')
  return page.finish(parts, labelled, columns=3)


def halving(axes, sets: Sequence[RuleSet]):
  """Draws bars of uniform sets and power laws at the full and at smaller budgets."""
  counts = sorted({s.instructions for s in sets})
  kinds = sorted(
    {(s.examples, s.alpha, s.balanced) for s in sets},
    key=lambda kind: (-kind[0], kind[1], kind[2]),
  )
  width = 0.8 / len(kinds)
  for n, kind in enumerate(kinds):
    members = [s for s in sets if (s.examples, s.alpha, s.balanced) == kind]
    shift = (n - (len(kinds) - 1) / 2) * width
    positions = [counts.index(s.instructions) + shift for s in members]
    examples, alpha, balanced = kind
    label = f'N = {examples:,}, ' + (f'{ALPHA} = {alpha:g}' if alpha else 'uniform')
    axes.bar(
      positions,
      [s.value for s in members],
      width * 0.92,
      color=look(n).colour,
      alpha=0.75,
      hatch=HATCHES[n % len(HATCHES)],
      edgecolor='white',
      label=label + (', re-weighted' if balanced else ''),
    )
    for x, s in zip(positions, members, strict=True):
      values = [r.value for r in s.rows]
      axes.errorbar(x, s.value, yerr=half_interval(values), c=GREY, capsize=3)
      axes.plot([x] * len(values), values, 'o', c='black', ms=3)
  axes.set_xticks(range(len(counts)), [f'{c:,}' for c in counts])
  match_axes(axes)
  axes.set(xlabel='instructions I', ylim=(0, 1.16 + 0.11 * len(kinds)))
  axes.set_yticks(np.linspace(0, 1, 6))
  axes.set_title('fewer examples')
  axes.legend(fontsize=8, loc='upper left', borderaxespad=0.1)


def _alphas(sets: Sequence[RuleSet]) -> list[float]:
  """The sets' alphas in the order of Fig. 3: uniform, then from flat to peaked."""
  return sorted({s.alpha for s in sets}, key=lambda a: (a > 0, -a))


def _over_alpha(axes, view: View, diverse: Diversity):
  """Exact match over alpha, a series per count; re-weighted controls beside it."""
  uniform, skewed, controls = diverse.uniform, diverse.skewed, diverse.controls
  alphas = _alphas([*uniform, *skewed, *controls])
  counts = sorted({s.instructions for s in skewed + controls})
  counts = counts or sorted({s.instructions for s in uniform})

  def points(sets: Sequence[RuleSet], count: int, shift: float):
    return [
      (alphas.index(s.alpha) + shift, r)
      for s in sets
      if s.instructions == count
      for r in s.rows
    ]

  for n, count in enumerate(counts):
    style, shift = look(n), 0.07 * (n - (len(counts) - 1) / 2)
    shown = points(uniform + skewed, count, shift)
    series(axes, view, shown, style, f'I = {count:,}')
    if shown := points(controls, count, shift + 0.2):
      style = style._replace(line='')
      series(axes, view, shown, style, _control(count), fill=False)
  axes.plot([], [], 'o', c=GREY, mfc='white', ms=4, label=f'{HOLLOW} (small points)')
  axes.set_xticks(range(len(alphas)), [f'{a:g}' if a else 'uniform' for a in alphas])
  axes.set(xlabel=POWER_LAW, xlim=(-0.4, max(len(alphas), 1) - 0.4))
  match_axes(axes)
  axes.set_title('exact match, by the shares of the rules')


def _control(count: int) -> str:
  return f'I = {count:,}, gradients re-weighted to uniform (hollow means)'


def _shares(axes, diverse: Diversity):
  """Fig. 7: share of the examples by rank of the rule, one line per alpha."""
  from onlyif_jax.tasks import distribution  # its package loads jax

  sets = [s for s in diverse.sets if s.alpha] or diverse.sets
  count = min(s.instructions for s in sets)
  alphas = _alphas(diverse.sets)
  rank = np.arange(1, count + 1)
  for n, alpha in enumerate(alphas):
    law = np.full(count, 1 / count)
    if alpha:
      law = distribution.power_law(count, alpha)
    style = look(n)
    # Lines that coincide have their markers at different ranks.
    marked_ranks = np.geomspace(1, count, 13)[n % 2 :: 2]
    indices = np.unique(marked_ranks.astype(int) - 1)
    axes.plot(
      rank,
      np.sort(law)[::-1],
      ls=style.line,
      c=style.colour,
      marker=style.marker,
      ms=4.5,
      markevery=indices.tolist(),
      label=f'{alpha:g}' if alpha else 'uniform',
    )
  axes.set(xscale='log', yscale='log', xlabel='rank of the rule', ylabel='its share')
  count_ticks(axes.xaxis)
  axes.set_ylim(top=8)
  axes.grid(alpha=0.25)
  axes.set_title(f'shares of I = {count:,} rules, by {ALPHA}')
  columns = 2 if len(alphas) < 7 else 3
  axes.legend(
    fontsize=8,
    ncols=columns,
    loc='upper right',
    borderaxespad=0.1,
    handlelength=2.6,
    columnspacing=0.8,
    labelspacing=0.2,
  )


def _effective(axes, view: View, diverse: Diversity, name: str):
  """Exact match over one effective number, with the curve of the uniform sets."""
  uniform, skewed, controls = diverse.uniform, diverse.skewed, diverse.controls
  counts = sorted({s.instructions for s in skewed + controls})
  points = [(s.instructions, r) for s in uniform for r in s.rows]
  series(axes, view, points, Look(GREY, 'o', ''), 'uniform sets')
  _curve(axes, uniform, diverse.curve)
  for n, count in enumerate(counts):
    for sets, label in ((skewed, f'I = {count:,}'), (controls, _control(count))):
      points = [
        (max(s.measures[name], ZERO_AT), r)
        for s in sets
        if s.instructions == count
        for r in s.rows
      ]
      if points:
        style = look(n)._replace(line='')
        series(axes, view, points, style, label, fill=sets is skewed)
  axes.set(xscale='log', xlabel=diversity.MEASURES[name])
  count_ticks(axes.xaxis)
  match_axes(axes, label=False)
  fit = diverse.one_curve[name]
  if fit['rmse'] is None:
    text = 'no curve: too few uniform sets'
  else:
    text = f'RMSE {fit["rmse"]:.3f} over {fit["n"]} sets, bias {fit["bias"]:+.3f}'
  if name.startswith('rules_'):
    thresholds = ', '.join(map(str, diversity.LEAST))
    text = f'best of n = {thresholds} (at {ZERO_AT:g}: none)\n{text}'
  axes.set_title(text)


def _curve(axes, uniform: Sequence[RuleSet], t: Transition):
  """Draws the uniform sets' curve, dotted below their counts."""
  if not t.fits:
    return
  counts = [s.instructions for s in uniform]
  inside = np.geomspace(min(counts), max(counts), 200)
  axes.plot(inside, t.curve(inside), c='black', lw=1.8, label='fitted to uniform sets')
  below = np.geomspace(1, min(counts), 100)
  axes.plot(below, t.curve(below), c='black', lw=1.2, ls=':')
