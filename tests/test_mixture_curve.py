"""Fig. 6: the curve over the share of another source, and where it is highest."""

import numpy as np
import pytest
from test_paper_tables import code, plain

from onlyif_jax.analysis import (
  mixture_curve,
  mixture_scores,
  paper_tables,
  sweetspot,
  tuned,
)


def test_the_curve_has_our_rows_and_the_papers_by_share():
  run, views = plain()
  found = mixture_curve.figure(run, views)
  assert found.source == 'alpaca'
  by_name = {(c.of, c.name): c for c in found.curves}
  paper, own = by_name['paper', 'Avg'], by_name['here', 'Avg']
  assert paper.shares == own.shares == (0.0, 0.05, 0.1, 0.15, 0.2, 0.25)
  assert paper.values == pytest.approx((0.642, 0.662, 0.671, 0.662, 0.66, 0.645))
  assert own.values.index(max(own.values)) == 2
  assert own.baseline == own.values[0]
  assert paper.spot.share == pytest.approx(0.13, abs=0.02)
  assert paper.spot.low < 0.08 < 0.18 < paper.spot.high  # hardly told by 465 problems
  text = mixture_curve.grid(found)
  assert [row[:2] for row in text.rows] == [('paper', 'Avg'), ('here', 'Avg')]


def test_sweet_spot_of_a_parabola_is_its_top():
  shares = np.array([0, 0.05, 0.1, 0.15, 0.2, 0.25])
  curve = 0.6 - 20 * (shares - 0.11) ** 2
  solved = np.repeat(curve[None, :, None], 13, axis=2)
  found = sweetspot.mixture_spot(shares, [solved])
  assert found.share == pytest.approx(0.11)
  assert (found.low, found.high) == pytest.approx((0.11, 0.11))
  assert found.inside == 1


@pytest.mark.parametrize(('slope', 'end'), [(1.0, 0.25), (-1.0, 0.0)])
def test_a_curve_that_only_rises_or_falls_has_no_sweet_spot(slope, end):
  shares = np.array([0, 0.05, 0.1, 0.15, 0.2, 0.25])
  solved = np.repeat((0.5 + slope * shares)[None, :, None], 13, axis=2)
  found = sweetspot.mixture_spot(shares, [solved])
  assert found.share is None
  assert found.low == found.high == end
  assert f'at an end, {100 * end:.0f} %' in found.text()


def test_interval_of_the_sweet_spot_covers_the_truth():
  rng = np.random.default_rng(5)
  shares = np.array([0, 0.05, 0.1, 0.15, 0.2, 0.25])
  truth, hits, halves = 0.6 - 16 * (shares - 0.12) ** 2, 0, []
  for _ in range(120):
    ease = rng.random(233)[None, :]  # problems are hard or easy for all rows
    level = np.clip(truth[:, None] + 0.6 * (ease - 0.5), 0, 1)
    solved = (rng.random((6, 233)) < level).astype(float)
    found = sweetspot.mixture_spot(shares, [solved[None]], draws=300)
    hits += found.low <= 0.12 <= found.high
    halves.append(found.high - found.low)
  assert 0.88 <= hits / 120 <= 1
  assert np.median(halves) < 0.2


def seeded(rng, middles, solved):
  """Two benchmarks' scores of seeds whose best shares differ, on the same problems."""
  shares = np.array([0, 0.05, 0.1, 0.15, 0.2, 0.25])
  out = []
  for problems in solved:
    ease_P = rng.random(problems)
    u_KP = rng.random((6, problems))
    own = []
    for middle in middles:
      level = 0.6 - 16 * (shares - middle) ** 2
      level = np.clip(level[:, None] + 0.4 * (ease_P[None, :] - 0.5), 0, 1)
      own.append((u_KP < level).astype(float))
    out.append(np.array(own))
  return shares, out


def test_interval_of_several_seeds_covers_the_truth_over_all_benchmarks():
  """Seeds differ alike on all benchmarks, so that these do not average it out."""
  rng = np.random.default_rng(11)
  hits, trials = 0, 60
  for _ in range(trials):
    middles = 0.12 + 0.03 * rng.standard_normal(3)
    shares, solved = seeded(rng, middles, (1009, 1013))
    found = sweetspot.mixture_spot(shares, solved, draws=60)
    hits += found.low <= 0.12 <= found.high
  assert hits / trials >= 0.9


def test_the_text_of_one_seed_says_what_its_interval_leaves_out():
  rng = np.random.default_rng(3)
  shares, solved = seeded(rng, (0.12, 0.12, 0.12), (397,))
  one = sweetspot.mixture_spot(shares, [own[:1] for own in solved])
  assert one.text().endswith('] over problems alone, of one seed')
  three = sweetspot.mixture_spot(shares, solved)
  assert 'problems' not in three.text()
  # Seeds that agree add nothing; two that do not leave nothing certain.
  assert (three.low, three.high) == pytest.approx((one.low, one.high))
  shares, solved = seeded(rng, (0.07, 0.17), (397,))
  two = sweetspot.mixture_spot(shares, solved)
  assert (two.low, two.high) == (0.0, 0.25)


def test_curves_take_the_seeds_that_all_benchmarks_have(tmp_path):
  run = tuned.load(code(tmp_path / 'run'))
  views = paper_tables.scores(run)
  plan = paper_tables.layout(run, views)
  keys = list(plan.rows)[:6]
  assert mixture_curve._solved(plan, views[0], keys, plan.columns['Avg']) is not None
  scores = [
    s._replace(seed='7') if s.benchmark == 'mbpp' else s for s in views[0].scores
  ]
  apart = mixture_scores.Scores(tuple(scores))
  assert mixture_curve._solved(plan, apart, keys, plan.columns['Avg']) is None
