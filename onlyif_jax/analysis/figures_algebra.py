"""Fig. 5 of Only-IF: algebra, the generalist and the specialist."""

from collections.abc import Sequence

from onlyif_jax.analysis.figures_style import Page, look
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

DIVERSE = 'diversification rules'


def algebra(plt, run: Analysis, parts: Sequence[str]):
  """(a) unseen rules; (b), (c) unseen depth over diversification rules and share."""
  view = View(run)
  generalists = [c for c in view.curves() if not _specialist(view, c.rows[0])]
  deeper = [r for r in view.final('deeper', 'all') if _specialist(view, r)]
  page = Page(plt, f'Algebraic rewriting: exact match ({run.label})')
  panels = page.row([3.6] * (bool(generalists) + 2 * bool(deeper) or 1), 3.2)
  if generalists or not deeper:
    _generalist(panels[0], view, generalists)
  if deeper:
    _by_rules(panels[-2], view, deeper)
    _by_share(panels[-1], view, deeper)
  return page.finish(parts, panels, columns=2)


def _generalist(axes, view: View, curves: Sequence[Curve]):
  for n, curve in enumerate(curves):
    row = curve.rows[0]
    label = f'unseen rules, depth {view.setting(row, "task.depth")}'
    others = {view.setting(c.rows[0], 'task.source') for c in curves}
    if len(others) > 1:
      label += f', {view.setting(row, "task.source")}'
    fitted_series(axes, view, curve, look(n), label)
  hollow(axes)
  count_axes(axes, [r.instructions for c in curves for r in c.rows])
  axes.set_xlabel('rules in training')
  axes.set_title('(a) unseen rules')


def _by_rules(axes, view: View, rows: Sequence[Row]):
  """One line per number of in-domain rules, at the share that has most of them."""
  for n, specialist in enumerate(sorted({_specialist(view, r) for r in rows})):
    own = [r for r in rows if _specialist(view, r) == specialist]
    shares = sorted({_share(view, r) for r in own if _diverse(view, r)})
    counts = {
      s: len({_diverse(view, r) for r in own if _share(view, r) == s}) for s in shares
    }
    widest = [s for s in shares if counts[s] == max(counts.values())]
    share = widest[len(widest) // 2] if widest else 0.0
    # Without diversification rules, in-domain ones have every share.
    kept = [r for r in own if not _diverse(view, r) or _share(view, r) == share]
    label = f'unseen depth, {specialist} in-domain rules, share {share:g}'
    series(axes, view, [(_diverse(view, r), r) for r in kept], look(n + 2), label)
  match_axes(axes, label=False)
  most = max(_diverse(view, r) for r in rows)
  axes.set(xlabel=DIVERSE, xlim=(-0.06 * (most or 1), 1.06 * (most or 1)))
  axes.set_title('(b) in-domain rules, deeper slots')


def _by_share(axes, view: View, rows: Sequence[Row]):
  """One line per number of diversification rules; its top where there is one."""
  rows = [r for r in rows if _diverse(view, r) and _share(view, r) > 0]
  shares = sorted({_share(view, r) for r in rows})
  spots = best_shares(view.run)
  for n, key in enumerate(
    sorted({(_specialist(view, r), _diverse(view, r)) for r in rows})
  ):
    own = [r for r in rows if (_specialist(view, r), _diverse(view, r)) == key]
    style, spot = look(n + 4), spots[key]
    label = f'{key[0]} in-domain + {key[1]} {DIVERSE}: '
    if spot.share is None:
      label += 'no best share in between'
    else:
      axes.axvline(spot.share, ls=style.line, c=style.colour, lw=1)
      label += f'best share {spot.share:.2g}'
    if spot.low is not None and spot.high is not None:
      label += f' [{spot.low:.2g}, {spot.high:.2g}]'
      axes.axvspan(spot.low, spot.high, color=style.colour, alpha=0.1, lw=0)
    series(axes, view, [(_share(view, r) * 1.02**n, r) for r in own], style, label)
  if shares:
    axes.set(xscale='log', xlim=(min(shares) / 1.3, max(shares) * 1.3))
    axes.set_xticks(shares, [f'{s:g}' for s in shares])
    axes.set_xticks([], minor=True)
  match_axes(axes, label=False)
  axes.set(xlabel='share of the examples for diversification')
  axes.set_title('(c) mixture, deeper slots')


def _specialist(view: View, row: Row) -> int:
  return int(view.number(row, 'task.specialist'))


def _diverse(view: View, row: Row) -> int:
  """The number of diversification rules."""
  return row.instructions - _specialist(view, row)


def _share(view: View, row: Row) -> float:
  return view.number(row, 'task.diverse_share')
