import json
import math

import fake_figures
import fake_run
import numpy as np
import pytest

from onlyif_jax.analysis import diversity, results
from onlyif_jax.analysis.sweetspot import best_shares, sweet_spot

UNIFORM = 'data.alpha=0.0,sweep.counts=101|307|503|1009|3001'
SKEWED = ('data.alpha=0.5', 'data.alpha=0.2', 'data.alpha=0.1')


def longtail(path, **options):
  given = {'counts': (1009, 3001), 'seeds': 2, 'spread': 0.0}
  variants = (UNIFORM, *SKEWED, 'data.alpha=0.1,data.balance=true')
  variants += ('data.examples=19200,data.alpha=0.2,sweep.counts=1009',)
  return fake_figures.make(
    path, 'longtail', **{'variants': variants, **given, **options}
  )


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  return results.load(longtail(tmp_path_factory.mktemp('d') / 'r'))


@pytest.fixture(scope='module')
def found(run):
  return diversity.one_curve(run)


def test_measures_of_a_hand_made_law():
  # alpha 0.5, I = 4, N = 100: cumulated shares sqrt(i / 4), so counts 50 21 16 13.
  own = diversity.measure(4, 0.5, 100)
  p = np.array([50, 21, 16, 13]) / 100
  assert own['perplexity'] == pytest.approx(math.prod(p**-p))
  assert own['inverse_simpson'] == pytest.approx(1 / (p**2).sum())
  assert own['rules_1'] == own['rules_10'] == 4
  assert own['rules_30'] == 1
  assert own['rules_100'] == 0


def test_uniform_sets_have_as_many_effective_rules_as_rules():
  own = diversity.measure(7, 0.0, 700)
  assert own['perplexity'] == pytest.approx(7)
  assert own['inverse_simpson'] == pytest.approx(7)
  assert own['rules_100'] == 7
  assert diversity.measure(7, 0.0, 5)['rules_1'] == 5  # two rules have no example


def test_each_set_is_in_one_group(run):
  own = diversity.Diversity(run)
  assert [s.instructions for s in own.uniform] == [101, 307, 503, 1009, 3001]
  assert sorted((s.alpha, s.instructions) for s in own.skewed) == [
    (a, i) for a in (0.1, 0.2, 0.5) for i in (1009, 3001)
  ]
  assert [(s.alpha, s.instructions) for s in own.controls] == [(0.1, 1009), (0.1, 3001)]
  assert [(s.alpha, s.examples) for s in own.halves] == [(0.0, 38400), (0.2, 19200)]
  assert len(own.sets) == 5 + 6 + 2 + 1
  assert {len(s.rows) for s in own.sets} == {2}


def test_the_measure_that_decides_explains_the_skewed_sets(found):
  # Made-up accuracy follows the perplexity alone, with a slope of its own.
  assert set(found) == set(diversity.MEASURES)
  assert found['perplexity']['n'] == 6
  assert found['perplexity']['rmse'] < 0.03
  others = [found[name]['rmse'] for name in found if name != 'perplexity']
  assert min(others) > 3 * found['perplexity']['rmse']


def test_rmse_and_bias_are_those_of_the_listed_sets(found):
  told = found['inverse_simpson']
  gaps = [s['exact_match'] - s['predicted'] for s in told['sets']]
  assert told['rmse'] == pytest.approx(math.sqrt(sum(g * g for g in gaps) / 6))
  assert told['bias'] == pytest.approx(sum(gaps) / 6)
  beyond = sum(not 101 <= s['effective'] <= 3001 for s in told['sets'])
  assert told['beyond'] == beyond > 0
  assert told['not_i'] == 0
  # 3,001 rules share 38,400 examples: none has 30.
  assert found['rules_30']['not_i'] == 1


def test_no_curve_is_said_with_its_reason(tmp_path):
  variants = ('data.alpha=0.0', 'data.alpha=0.1')
  path = longtail(tmp_path / 'r', variants=variants, seeds=1)
  told = diversity.one_curve(results.load(path))['perplexity']
  assert told['rmse'] is None
  assert told['n'] == 2
  assert told['reason'] == ('no curve of uniform sets: seed 0: 2 counts, a fit needs 4')


def test_transition_json_has_what_the_run_can_say(run, found, tmp_path):
  text = json.loads(json.dumps(run.to_json(), allow_nan=False))
  assert text['one_curve'] == found
  plain = results.load(fake_run.make(tmp_path / 'r', counts=(29,), seeds=1))
  assert 'one_curve' not in plain.to_json()
  assert 'best_shares' not in plain.to_json()


def test_effective_numbers_of_zero_can_be_predicted(run):
  curve = diversity.Diversity(run).curve
  at_zero = diversity.predict(curve, np.array([0.0]))
  assert at_zero[0] == pytest.approx(curve.floor, abs=1e-3)


def test_counts_without_a_curve_give_some_count():
  assert diversity.best_count({}) == 'rules_1'
  assert diversity.best_count({'rules_10': {'rmse': 0.2}}) == 'rules_10'


def parabola(top, shares=(0.01, 0.03, 0.1, 0.3), height=0.4):
  return [(s, height - 0.1 * math.log10(s / top) ** 2) for s in shares]


def test_sweet_spot_is_the_top_of_the_parabola():
  spot = sweet_spot({'0': parabola(0.05)})
  assert spot.share == pytest.approx(0.05)
  assert (spot.low, spot.high, spot.reason) == (None, None, None)
  # A share of 0 has no logarithm: it takes no part.
  assert sweet_spot({'0': [(0.0, 0.9), *parabola(0.05)]}).share == pytest.approx(0.05)


def test_sweet_spot_has_students_interval_over_seeds():
  tops = (0.04, 0.05, 0.0625)  # equally apart: the log's deviation is log10 1.25
  spot = sweet_spot({str(n): parabola(top) for n, top in enumerate(tops)})
  half = 4.3027 * math.log10(1.25) / math.sqrt(3)
  assert spot.share == pytest.approx(0.05)
  assert spot.low == pytest.approx(0.05 / 10**half, rel=1e-3)
  assert spot.high == pytest.approx(0.05 * 10**half, rel=1e-3)


@pytest.mark.parametrize(
  ('points', 'reason'),
  [
    ([(0.1, 0.2), (0.2, 0.3)], 'seed 0: 2 shares, a parabola needs 3'),
    ([(s, 1 - value) for s, value in parabola(0.05)], 'seed 0: no peak'),
    (parabola(0.9), 'seed 0: the best share is at an end'),
  ],
)
def test_sweet_spot_says_why_there_is_none(points, reason):
  spot = sweet_spot({'0': points, '1': parabola(0.05)})
  assert spot.share is None
  assert spot.reason == reason
  assert spot.per_seed == {'1': pytest.approx(0.05)}


def test_best_shares_of_a_run(tmp_path):
  run = results.load(fake_figures.make(tmp_path / 'r', 'algebra', counts=(11,)))
  spots = best_shares(run)
  assert set(spots) == {(20, 5), (20, 20), (20, 40)}
  spot = spots[20, 40]
  assert spot.share == pytest.approx(0.1, rel=0.2)  # 0.1 but for the seeds' luck
  assert spot.low < spot.share < spot.high
  assert set(run.to_json()['best_shares']) == {
    '20 in-domain + 5 others',
    '20 in-domain + 20 others',
    '20 in-domain + 40 others',
  }
