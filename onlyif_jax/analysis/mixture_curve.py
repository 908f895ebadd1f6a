"""Scores over the share of a second source in a fixed budget: Fig. 6 of Only-IF.

A curve's rows have one total, in which the second source replaces the first; its sweet
spot is the top of a parabola (sweetspot.py).
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

LINES = ('Avg(Base)', 'Avg(+)', 'Avg')  # Fig. 6's, drawn if a run has them
PROBLEMS = 465  # effective test size of the papers' average of four; see targets.yaml


class Curve(NamedTuple):
  """One line: shares of the second source, and scores (as shares too).

  of: 'paper' or 'here', with the version of the benchmark; name: of the table's column.
  """

  of: str
  name: str
  shares: tuple[float, ...]
  values: tuple[float, ...]
  baseline: float | None  # the value at share 0
  spot: MixtureSpot | None  # only of the table's average

  @property
  def papers(self) -> bool:
    """Whether these are printed values."""
    return self.of == paper_tables.PAPER


class Figure(NamedTuple):
  """The curves of a run and what their axes show."""

  title: str
  source: str  # the second one
  total: str
  average: str
  curves: tuple[Curve, ...]


def figure(run: Tuned, views: Sequence[Scores]) -> Figure | None:
  """The run's Fig. 6; None if fewer than three of its rows have scores."""
  if not views:
    return None
  plan = paper_tables.layout(run, views)
  keys = _keys(run, plan)
  scored = [k for k in keys if k in plan.rows and _scored(plan, views, k)]
  if len({_share(k) for k in scored}) < sweetspot.MIN_SHARES:
    return None
  columns = [n for n in LINES if n in plan.columns] or [plan.average]
  curves: list[Curve] = []
  for name in columns:
    with_spot = name == plan.average
    curves += _papers(plan, keys, name, with_spot)
    for view in views:
      curves.append(_ours(plan, view, scored, name, with_spot))
  names = [text.partition('=')[0] for text in run.config['mixture']['sources']]
  total = f'{float(sum(map(Fraction, keys[0].split("/")))):g}K'
  return Figure(plan.title, names[1], total, plan.average, tuple(curves))


def grid(content: Figure) -> Grid:
  """A table of the sweet spots with their intervals."""
  rows = tuple(
    (curve.of, curve.name, f'{100 * max(curve.values):.1f}', curve.spot.text())
    for curve in content.curves
    if curve.spot is not None
  )
  columns = ('of', 'score', 'best row, %', f'best share of {content.source} [95 %]')
  title = f'Sweet spot of {content.total} rows: the top of a parabola in the share'
  return Grid(title, columns, rows)


def _keys(run: Tuned, plan: Layout) -> list[str]:
  """The curve's keys by share: the papers', else the run's largest set of one total."""
  keys = paper_tables.read()['tables'].get(run.config['name'], {}).get('curve')
  if keys is None:
    families: dict[Fraction, list[str]] = {}
    for key in plan.rows:
      parts = [Fraction(p) for p in key.split('/')]
      if len(parts) > 1 and not any(parts[2:]):
        families.setdefault(sum(parts, Fraction()), []).append(key)
    keys = max(families.values(), key=len, default=[])
  return sorted(keys, key=_share)


def _share(key: str) -> float:
  """The second source's share of a mixture such as '18/2/0'."""
  parts = [float(Fraction(p)) for p in key.split('/')]
  return parts[1] / sum(parts)


def _scored(plan: Layout, views: Sequence[Scores], key: str) -> bool:
  row, measures = plan.rows[key], plan.columns[plan.average]
  return all(view.mean(row, measures) is not None for view in views)


def _ours(
  plan: Layout, view: Scores, keys: Sequence[str], name: str, with_spot: bool
) -> Curve:
  """The run's points of a line."""
  measures = plan.columns[name]
  shares = tuple(_share(k) for k in keys)
  means = (view.mean(plan.rows[k], measures) for k in keys)
  values = tuple(m for m in means if m is not None)
  solved = _solved(plan, view, keys, measures) if with_spot else None
  spot = sweetspot.mixture_spot(shares, solved) if solved else None
  baseline = values[0] if shares[0] == 0 else None
  return Curve(paper_tables.view_name(view), name, shares, values, baseline, spot)


def _solved(
  plan: Layout, view: Scores, keys: Sequence[str], measures: Sequence[Measure]
) -> list[np.ndarray] | None:
  """Scores [seeds, K, problems] of each benchmark, mean over its suites.

  Of the seeds that every row has on every benchmark; None if there are none, or if
  problems are unknown.
  """
  benchmarks: list[dict[str, list[np.ndarray]]] = []  # seed -> K rows [problems]
  for benchmark in dict.fromkeys(m[0] for m in measures):
    suites = [m for m in measures if m[0] == benchmark]
    per_seed: dict[str, list[np.ndarray]] = {}
    for key in keys:
      for seed in view.of(plan.rows[key], suites[0]):
        scores = [view.of(plan.rows[key], m).get(seed) for m in suites]
        problems = [s.problems for s in scores if s is not None and s.problems]
        if len(problems) == len(suites):
          values = [[shares[p] for p in problems[0]] for shares in problems]
          per_seed.setdefault(seed, []).append(np.mean(values, axis=0))
    complete = {s: rows for s, rows in per_seed.items() if len(rows) == len(keys)}
    if len({len(row) for rows in complete.values() for row in rows}) != 1:
      return None
    benchmarks.append(complete)
  seeds = sorted(set.intersection(*map(set, benchmarks)))
  if not seeds:
    return None
  return [np.array([rows[s] for s in seeds]) for rows in benchmarks]


def _papers(
  plan: Layout, keys: Sequence[str], name: str, with_spot: bool
) -> Iterator[Curve]:
  """The printed points of a line, if there are enough of them."""
  blocks = [b for b in plan.blocks if b.table and keys[0] in b.keys]
  if not blocks:
    return
  (block,) = blocks  # a block has all rows of one total
  printed = {k: v for k in keys if (v := paper_tables.printed(block, k, name))}
  if len(printed) < sweetspot.MIN_SHARES:
    return
  shares = tuple(_share(k) for k in printed)
  values = tuple(float(v) / 100 for v in printed.values())
  spot = sweetspot.printed_spot(shares, values, PROBLEMS) if with_spot else None
  baseline = values[0] if shares[0] == 0 else None
  yield Curve(paper_tables.PAPER, name, shares, values, baseline, spot)
