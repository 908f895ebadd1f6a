"""Fig. 5 of Only-IF: algebraic rewriting by generalists and specialists."""

import math
from collections.abc import Sequence

from onlyif_jax.analysis.figures_style import GREY, Page, look
from onlyif_jax.analysis.panels import (
  View,
  count_axes,
  fitted_series,
  hollow,
  match_axes,
  series,
)
from onlyif_jax.analysis.results import Analysis, Curve, Row
from onlyif_jax.analysis.sweetspot import best_shares

DIVERSIFICATION = 'diversification rules'


def algebra(plt, run: Analysis, parts: Sequence[str]):
  """(a) unseen rules; (b), (c) unseen depth over diversification rules and share."""
  view = View(run)
  generalists = [c for c in view.curves() if not _in_domain(view, c.rows[0])]
  deeper = [r for r in view.final('deeper', 'all') if _in_domain(view, r)]
  page = Page(plt, f'Algebraic rewriting: exact match ({run.label})')
  panels = page.row([3.6] * (bool(generalists) + 2 * bool(deeper) or 1), 3.2)
  if generalists or not deeper:
    _generalist(panels[0], view, generalists)
  if deeper:
    _by_rules(panels[-2], view, deeper)
    _by_share(panels[-1], view, deeper)
  panels[0].set_ylabel('exact match')
  return page.finish(parts, panels, columns=2)


def _generalist(axes, view: View, curves: Sequence[Curve]):
  sources = {view.setting(c.rows[0], 'task.source') for c in curves}
  for n, curve in enumerate(curves):
    row = curve.rows[0]
    label = f'unseen rules, depth {view.setting(row, "task.depth")}'
    if len(sources) > 1:
      label += f', {view.setting(row, "task.source")}'
    fitted_series(axes, view, curve, look(n), label)
  hollow(axes)
  count_axes(axes, [r.instructions for c in curves for r in c.rows])
  axes.set_xlabel('rules in training')
  axes.set_title('(a) unseen rules')


def _by_rules(axes, view: View, rows: Sequence[Row]):
  """One line per number of in-domain rules, at the share with the most points."""
  for n, in_domain in enumerate(sorted({_in_domain(view, r) for r in rows})):
    members = [r for r in rows if _in_domain(view, r) == in_domain]
    share, kept = _widest(view, [r for r in members if _diverse(view, r)])
    # Without diversification rules the share does not matter.
    kept += [r for r in members if not _diverse(view, r)]
    label = f'unseen depth, {in_domain} in-domain rules, {share}'
    series(axes, view, [(_diverse(view, r), r) for r in kept], look(n + 2), label)
  _untuned_lines(axes, view)
  match_axes(axes, label=False)
  largest = max(_diverse(view, r) for r in rows) or 1
  axes.set(xlabel=DIVERSIFICATION, xlim=(-0.06 * largest, 1.06 * largest))
  axes.set_title('(b) in-domain rules, deeper slots')


def _widest(view: View, rows: Sequence[Row]) -> tuple[str, list[Row]]:
  """(a share in words, its rows): the one with the most numbers of rules.

  Of equally many, that which gives every rule as many examples, else the middle one.
  """
  shares: dict[float, list[Row]] = {}
  for row in rows:
    shares.setdefault(_share(view, row), []).append(row)
  numbers = {s: len({_diverse(view, r) for r in own}) for s, own in shares.items()}
  most = max(numbers.values(), default=0)
  alike = [
    r
    for r in rows
    if math.isclose(_share(view, r), _diverse(view, r) / r.instructions, rel_tol=1e-3)
  ]
  if alike and len({_diverse(view, r) for r in alike}) >= most:
    return 'every rule alike', alike
  widest = sorted(s for s, number in numbers.items() if number == most)
  share = widest[len(widest) // 2] if widest else 0.0
  return f'share {share:g}', list(shares.get(share, ()))


def _untuned_lines(axes, view: View):
  """The model before fine-tuning, of a run that fine-tunes one."""
  labels = {'zero_shot': 'before tuning', 'few_shot': 'before tuning, few-shot'}
  for row in view.run.values('deeper').values():
    if row.reference in labels:
      line = ':' if row.reference == 'zero_shot' else (0, (6, 2, 1, 2))
      axes.axhline(row.value, c=GREY, lw=1, ls=line, label=labels[row.reference])


def _by_share(axes, view: View, rows: Sequence[Row]):
  """One line per numbers of rules, with the best share if there is one."""
  groups: dict[tuple[int, int], list[Row]] = {}
  spots = best_shares(view.run)
  for row in rows:
    key = _in_domain(view, row), _diverse(view, row)
    if key in spots and _share(view, row) > 0:
      groups.setdefault(key, []).append(row)
  for n, key in enumerate(sorted(groups)):
    style, spot = look(n + 4), spots[key]
    label = f'{key[0]} in-domain + {key[1]} {DIVERSIFICATION}: '
    if spot.share is None:
      label += 'no best share in between'
    else:
      axes.axvline(spot.share, ls=style.line, c=style.colour, lw=1)
      label += f'best share {spot.text()}'
    if spot.low is not None and spot.high is not None:
      axes.axvspan(spot.low, spot.high, color=style.colour, alpha=0.1, lw=0)
    points = [(_share(view, r) * 1.02**n, r) for r in groups[key]]
    series(axes, view, points, style, label)
  if shares := sorted({_share(view, r) for own in groups.values() for r in own}):
    axes.set(xscale='log', xlim=(min(shares) / 1.3, max(shares) * 1.3))
    ticks = shares[:1]
    for share in shares:
      ticks += [share] if share > 1.5 * ticks[-1] else []
    axes.set_xticks(ticks, [f'{s:g}' for s in ticks])
    axes.set_xticks([], minor=True)
  match_axes(axes, label=False)
  axes.set(xlabel='share of the examples for diversification')
  axes.set_title('(c) mixture, deeper slots')


def _in_domain(view: View, row: Row) -> int:
  """A specialist's number of in-domain rules; 0 for a generalist."""
  return int(view.number(row, 'task.specialist'))


def _diverse(view: View, row: Row) -> int:
  """The number of diversification rules."""
  return row.instructions - _in_domain(view, row)


def _share(view: View, row: Row) -> float:
  return view.number(row, 'task.diverse_share')
