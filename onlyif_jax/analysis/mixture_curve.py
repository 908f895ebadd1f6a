"""A score over the share of another source in a fixed budget: Fig. 6 of Only-IF.

The curve has rows with one total whose first source is replaced by the second; its
sweet spot is the top of a parabola (sweetspot.py).
"""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from onlyif_jax.analysis import paper_tables, sweetspot
from onlyif_jax.analysis.mixture_scores import Measure, Scores
from onlyif_jax.analysis.paper_tables import Layout
from onlyif_jax.analysis.sweetspot import MixtureSpot
from onlyif_jax.analysis.table import Grid
from onlyif_jax.analysis.tuned import Tuned

LINES = ('Avg(Base)', 'Avg(+)', 'Avg')  # of Fig. 6, where a run has them
PROBLEMS = 465  # the size at which the papers' average of four varies; see targets.yaml


class Curve(NamedTuple):
  """Points of one line: shares of the second source, and scores in shares.

  of: 'paper' or 'here', with the version of the benchmark; name: a column.
  """

  of: str
  name: str
  shares: tuple[float, ...]
  values: tuple[float, ...]
  baseline: float | None  # at share 0
  spot: MixtureSpot | None  # of the column that the figure is about

  @property
  def papers(self) -> bool:
    """Whether these are printed values."""
    return self.of == paper_tables.PAPER


class Figure(NamedTuple):
  """The curves of a run, and what their axis is."""

  title: str
  source: str  # that takes the place of the first
  total: str
  average: str
  curves: tuple[Curve, ...]


def figure(run: Tuned, views: Sequence[Scores]) -> Figure | None:
  """The run's Fig. 6; None where it has not three rows of such a kind with scores."""
  if not views:
    return None
  plan = paper_tables.layout(run, views)
  keys = _keys(run, plan)
  own = [k for k in keys if k in plan.rows and _scored(plan, views, k)]
  if len({_share(k) for k in own}) < sweetspot.MIN_SHARES:
    return None
  columns = [n for n in LINES if n in plan.columns] or [plan.average]
  curves: list[Curve] = []
  for name in columns:
    spotted = name == plan.average
    curves += _papers(run, plan, keys, name, spotted)
    for view in views:
      curves.append(_ours(plan, view, own, name, spotted))
  names = [text.partition('=')[0] for text in run.config['mixture']['sources']]
  total = f'{float(sum(map(Fraction, keys[0].split("/")))):g}K'
  return Figure(plan.title, names[1], total, plan.average, tuple(curves))


def grid(found: Figure) -> Grid:
  """The sweet spots: where the score is highest, with its interval."""
  rows = tuple(
    (one.of, one.name, f'{100 * max(one.values):.1f}', one.spot.text())
    for one in found.curves
    if one.spot is not None
  )
  columns = ('of', 'score', 'best row, %', f'best share of {found.source} [95 %]')
  title = f'Sweet spot of {found.total} rows: the top of a parabola in the share'
  return Grid(title, columns, rows)


def _keys(run: Tuned, plan: Layout) -> list[str]:
  """The keys of the curve, by share: the papers', or else the run's largest family."""
  wanted = paper_tables.read()['tables'].get(run.config['name'], {}).get('curve')
  if wanted is None:
    families: dict[Fraction, list[str]] = {}
    for key in plan.rows:
      parts = [Fraction(p) for p in key.split('/')]
      if len(parts) > 1 and not any(parts[2:]):
        families.setdefault(sum(parts, Fraction()), []).append(key)
    wanted = max(families.values(), key=len, default=[])
  return sorted(wanted, key=_share)


def _share(key: str) -> float:
  parts = [float(Fraction(p)) for p in key.split('/')]
  return parts[1] / sum(parts)


def _scored(plan: Layout, views: Sequence[Scores], key: str) -> bool:
  row, own = plan.rows[key], plan.columns[plan.average]
  return all(view.mean(row, own) is not None for view in views)


def _ours(plan: Layout, view: Scores, keys, name: str, spotted: bool) -> Curve:
  own = plan.columns[name]
  shares = tuple(_share(k) for k in keys)
  means = (view.mean(plan.rows[k], own) for k in keys)
  values = tuple(m for m in means if m is not None)
  solved = _solved(plan, view, keys, own) if spotted else None
  spot = sweetspot.mixture_spot(shares, solved) if solved else None
  of = paper_tables.HERE + (f', {view.label}' if view.label else '')
  return Curve(of, name, shares, values, values[0] if shares[0] == 0 else None, spot)


def _solved(
  plan: Layout, view: Scores, keys, measures: Sequence[Measure]
) -> list[np.ndarray] | None:
  """For each benchmark the scores [seeds, K, problems], mean over its suites.

  Of the seeds that every row has on every benchmark; None where there are none, or
  problems are not told.
  """
  found: list[dict[str, list[np.ndarray]]] = []
  for benchmark in dict.fromkeys(m[0] for m in measures):
    suites = [m for m in measures if m[0] == benchmark]
    per_seed: dict[str, list[np.ndarray]] = {}
    for key in keys:
      for seed in view.of(plan.rows[key], suites[0]):
        own = [view.of(plan.rows[key], m).get(seed) for m in suites]
        told = [one.problems for one in own if one is not None and one.problems]
        if len(told) == len(suites):
          scores = np.mean([[one[p] for p in told[0]] for one in told], axis=0)
          per_seed.setdefault(seed, []).append(scores)
    whole = {seed: rows for seed, rows in per_seed.items() if len(rows) == len(keys)}
    if len({len(row) for rows in whole.values() for row in rows}) != 1:
      return None
    found.append(whole)
  seeds = sorted(set.intersection(*map(set, found)))
  return [np.array([one[s] for s in seeds]) for one in found] if seeds else None


def _papers(
  run: Tuned, plan: Layout, keys, name: str, spotted: bool
) -> Iterator[Curve]:
  """The printed points of a line, with the spot that follows from them."""
  blocks = [b for b in plan.blocks if b.table and keys[0] in b.keys]
  if not blocks:
    return
  (block,) = blocks  # a block has all rows of one total, as the curve's are
  printed = {k: v for k in keys if (v := paper_tables.printed(block, k, name))}
  if len(printed) < sweetspot.MIN_SHARES:
    return
  shares = tuple(_share(k) for k in printed)
  values = tuple(float(v) / 100 for v in printed.values())
  spot = sweetspot.printed_spot(shares, values, PROBLEMS) if spotted else None
  base = values[0] if shares[0] == 0 else None
  yield Curve(paper_tables.PAPER, name, shares, values, base, spot)
