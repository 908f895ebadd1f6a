"""Figures of single tasks: occurrences, semantics, cipher, Markov algorithms."""

from collections.abc import Sequence

import numpy as np

from onlyif_jax.analysis import targets
from onlyif_jax.analysis.diversity import Diversity
from onlyif_jax.analysis.figures_longtail import halving
from onlyif_jax.analysis.figures_style import GREY, LOOKS, ORANGE, Look, Page, look
from onlyif_jax.analysis.panels import (
  View,
  count_axes,
  fitted_series,
  hollow,
  match_axes,
  series,
  variant_name,
)
from onlyif_jax.analysis.results import Analysis, Row, mean

DOMAINS = ('unconstrained', 'repeat', 'periodic', 'mirror')  # slice domain=n
MOST_STEPS = 6  # the slice steps=6 includes longer runs
PANELS = 4  # at most so many counts have their own panel


def occurrences(plt, run: Analysis, parts: Sequence[str]):
  """Table 1 of 2402.10891, and exact match by the occurrences of x in the input."""
  view = View(run)
  rows = view.final()
  # The variants have the table's order: mixes last.
  mixes = list(dict.fromkeys(_mix(view, r) for r in rows))
  counts = sorted({r.instructions for r in rows}, reverse=True)
  left = 0.9 + 0.085 * max(map(len, mixes), default=1)
  page = Page(
    plt,
    'Exact match on instructions never seen, by how often x occurs in the input '
    f'({run.label})',
    left=left,
  )
  height = 0.6 * len(mixes)
  (table,) = page.row([1.35 * len(counts)], height, above=0.75, below=0.2)
  _table(table, view, rows, mixes, counts)
  slices = view.slices('occurrences')
  if slices:
    shown = sorted(counts[:PANELS])
    panels = page.row([2.9] * len(shown), 2.6, gap=0.3, above=0.55)
    for axes, count in zip(panels, shown, strict=True):
      _by_matches(axes, view, mixes, count, slices)
    for axes in panels[1:]:
      axes.set_yticklabels([])
    panels[0].set_ylabel('exact match')
    return page.finish(parts, panels[:1])
  return page.finish(parts)


def _mix(view: View, row: Row) -> str:
  return view.setting(row, 'task.train_matches')


def _table(
  axes,
  view: View,
  rows: Sequence[Row],
  mixes: Sequence[str],
  counts: Sequence[int],
):
  """Draws the table's cells, the printed value in the corner of each."""
  values = np.full((len(mixes), len(counts)), np.nan)
  for y, mix in enumerate(mixes):
    for x, count in enumerate(counts):
      members = [r for r in rows if (_mix(view, r), r.instructions) == (mix, count)]
      values[y, x] = mean(members)
      ink = 'black' if values[y, x] > 0.55 else 'white'
      axes.text(
        x - 0.12,
        y,
        f'{values[y, x]:.2f}' if members else 'not run',
        ha='center',
        va='center',
        color=ink if members else GREY,
        fontsize=11 if members else 9,
      )
      paper = targets.load().get(f'occurrences/{mix}/{count}')
      if paper:
        axes.text(
          x + 0.46,
          y + 0.42,
          f'paper {paper.printed}',
          ha='right',
          va='bottom',
          fontsize=8,
          color=ink if members else GREY,
          alpha=0.8,
        )
  axes.imshow(values, vmin=0, vmax=1, cmap='cividis', aspect='auto')
  axes.set_xticks(range(len(counts)), [f'{c:,}' for c in counts])
  axes.set_yticks(range(len(mixes)), [m.replace('|', ', ') for m in mixes])
  axes.xaxis.tick_top()
  axes.xaxis.set_label_position('top')
  axes.set(xlabel='instructions I', ylabel='occurrences in training')
  axes.tick_params(length=0)
  axes.spines[:].set_visible(False)


def _by_matches(
  axes, view: View, mixes: Sequence[str], count: int, slices: Sequence[str]
):
  """Draws exact match over the occurrences in the test input, at one I."""
  tested = [int(s.partition('=')[2]) for s in slices]
  for n, mix in enumerate(mixes):
    shift = 0.06 * (n - (len(mixes) - 1) / 2)
    points = [
      (m + shift, r)
      for m, part in zip(tested, slices, strict=True)
      for r in view.final(part=part)
      if (_mix(view, r), r.instructions) == (mix, count)
    ]
    series(axes, view, points, look(n), f'trained on {mix.replace("|", ", ")}')
  hollow(axes)
  match_axes(axes, label=False)
  axes.set_title(f'I = {count:,}')
  axes.set(
    xlabel='occurrences in the test input', xlim=(min(tested) - 0.5, max(tested) + 0.5)
  )


def semantics(plt, run: Analysis, parts: Sequence[str]):
  """Fig. 4: exact match at k < 3 over the largest k in training, by trained classes."""
  view = View(run)
  rows = view.final()
  classes = sorted({_classes(view, r) for r in rows}, key=lambda c: (c.count('+'), c))
  k_maxima = sorted({_k_max(view, r) for r in rows})
  page = Page(
    plt,
    'Exact match on unseen patterns of k < 3, trained on larger k, by classes of '
    f'patterns in training ({run.label})',
  )
  across = min(3, len(classes))
  upper = page.grid(len(classes), across, 3.2, 2.6, gap=0.45, above=0.5)
  lower = page.grid(len(classes), across, 3.2, 2.6, gap=0.45, above=0.6)
  for axes, name in zip(upper, classes, strict=True):
    members = [r for r in rows if _classes(view, r) == name]
    for n, count in enumerate(sorted({r.instructions for r in rows})):
      shift = 0.05 * (n - 1.5)
      points = [
        (k_maxima.index(_k_max(view, r)) + shift, r)
        for r in members
        if r.instructions == count
      ]
      series(axes, view, points, look(n), f'I = {count:,}')
    axes.set_title(name.replace('+', ' + '))
  hollow(upper[0])
  for axes, name in zip(lower, classes, strict=True):
    _domains(axes, view, name, k_maxima)
  for n, axes in enumerate(upper + lower):
    axes.set_xticks(range(len(k_maxima)), [str(k) for k in k_maxima])
    axes.set(xlabel='largest k in training', xlim=(-0.4, len(k_maxima) - 0.4))
    match_axes(axes, label=n % len(upper) % across == 0)
  return page.finish(parts, [upper[0], lower[0]], columns=4)


def _classes(view: View, row: Row) -> str:
  return view.setting(row, 'task.classes')


def _k_max(view: View, row: Row) -> int:
  return int(view.number(row, 'task.k_max'))


def _domains(axes, view: View, classes: str, k_maxima: Sequence[int]):
  """Draws the slices at the largest I: by test pattern, and with k as in training."""
  slices = {
    f'domain={n}': f'k {"= 1" if n == 0 else "= 2"}, {domain}'
    for n, domain in enumerate(DOMAINS)
  }
  slices['cell=in_range'] = 'k as in training'
  most = max(r.instructions for r in view.final())
  for n, (part, label) in enumerate(slices.items()):
    points = [
      (k_maxima.index(_k_max(view, r)) + 0.05 * (n - 2), r)
      for r in view.final(part=part)
      if _classes(view, r) == classes and r.instructions == most
    ]
    series(axes, view, points, look(4 + n), label)
  name = classes.replace('+', ' + ')
  axes.set_title(f'{name}\nI = {most:,}, by test pattern')


def cipher(plt, run: Analysis, parts: Sequence[str]):
  """Has-op and no-op inputs and unseen pairs over I; smaller budgets, if there are."""
  view = View(run)
  noops = bool(view.final(part='noop=1'))
  variants = [c.variant for c in view.curves()]
  variants = [v for v in variants if not _halved(view, v)] or variants
  halves = Diversity(run).halves
  page = Page(plt, f'Encrypted rewriting: exact match by number of rules ({run.label})')
  count = len(variants) + bool(halves)
  panels = page.grid(count, min(3, count), 3.7, 3.1, gap=0.6)
  kinds = [('unseen', 'noop=0' if noops else 'all', 'inputs with x', LOOKS[0])]
  if noops:
    kinds.append(('unseen', 'noop=1', 'no-op inputs', Look(ORANGE, 's', '--')))
  label = 'seen x → y with another shift' + (', inputs with x' if noops else '')
  kinds.append(('pair', kinds[0][1], label, look(2)))
  for axes, variant in zip(panels, variants, strict=False):
    for n, (split, part, label, style) in enumerate(kinds):
      rows = [r for r in view.final(split, part) if r.variant == variant]
      points = [(r.instructions * 1.04 ** (n - 1), r) for r in rows]
      if points:
        series(axes, view, points, style, label)
    count_axes(axes, [r.instructions for r in view.final() if r.variant == variant])
    title = variant_name(run, variant) if len(variants) > 1 else 'unseen rules'
    axes.set_title(title)
  hollow(panels[0])
  if halves:
    halving(panels[-1], halves)
  return page.finish(parts, panels[:1])


def _halved(view: View, variant: str) -> bool:
  """Whether a variant has another budget than the run."""
  rows = [r for r in view.final() if r.variant == variant]
  n = view.run.config.data.examples
  return bool(rows) and view.number(rows[0], 'data.examples') != n


def markov(plt, run: Analysis, parts: Sequence[str]):
  """Exact match over the number of programs, by kind of answer and by run length."""
  view = View(run)
  curves = view.curves()
  names = [_answer(view, c.rows[0]) for c in curves]
  if len(set(names)) < len(names):
    names = [variant_name(run, c.variant) for c in curves]
  page = Page(plt, f'Markov algorithms never seen: exact match ({run.label})')
  slices = view.slices('steps')
  panels = page.row([4.2] * (1 + bool(slices)), 3.4)
  for n, (curve, name) in enumerate(zip(curves, names, strict=True)):
    fitted_series(panels[0], view, curve, look(n), f'answer: {name}')
  hollow(panels[0])
  count_axes(panels[0], [r.instructions for c in curves for r in c.rows])
  panels[0].set_xlabel('programs in training')
  panels[0].set_title('unseen programs')
  if slices:
    _by_steps(panels[1], view, names, slices)
  return page.finish(parts, panels[:1])


def _answer(view: View, row: Row) -> str:
  return view.setting(row, 'task.answer')


def _by_steps(axes, view: View, names: Sequence[str], slices: Sequence[str]):
  """Draws exact match over the number of rewrites, at the largest I."""
  most = max(r.instructions for r in view.final())
  steps = [int(s.partition('=')[2]) for s in slices]
  for n, (curve, name) in enumerate(zip(view.curves(), names, strict=True)):
    points = [
      (step + 0.07 * (n - 1), r)
      for step, part in zip(steps, slices, strict=True)
      for r in view.final(part=part)
      if (r.variant, r.instructions) == (curve.variant, most)
    ]
    series(axes, view, points, look(n), f'answer: {name}')
  axes.set_xticks(steps, [f'{s}' if s < MOST_STEPS else f'{s}+' for s in steps])
  axes.set(xlabel='rewrites of the run', xlim=(min(steps) - 0.5, max(steps) + 0.5))
  match_axes(axes, label=False)
  axes.set_title(f'by length of the run, I = {most:,}')
