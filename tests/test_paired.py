"""Differences on the same problems, against scipy and simulated coverage."""

import numpy as np
import pytest
from scipy import stats

from onlyif_jax.analysis import paired
from onlyif_jax.config import ConfigError

N = 164


def bootstrap(a, b, **how):
  """Of one benchmark."""
  return paired.stratified([b - a], **how)


def pair(rng, p=0.65, both=0.5, gain=0.05):
  """Two models that agree on a share of the problems."""
  a = rng.random(N) < p
  b = np.where(rng.random(N) < both, a, rng.random(N) < p + gain / (1 - both))
  return a.astype(float), b.astype(float)


def test_bootstrap_agrees_with_scipy():
  a, b = pair(np.random.default_rng(0))
  ours = bootstrap(a, b)
  theirs = stats.bootstrap(
    (b - a,), np.mean, method='percentile', n_resamples=10_000, rng=0
  ).confidence_interval
  assert ours.value == pytest.approx(b.mean() - a.mean())
  assert ours.low == pytest.approx(theirs.low, abs=0.008)
  assert ours.high == pytest.approx(theirs.high, abs=0.008)
  assert bootstrap(a, b) == ours  # the same again
  assert bootstrap(b, a).value == -ours.value
  shares = bootstrap(a * 0.3, b * 0.7)  # several samples of a problem
  assert bootstrap(a * 0.3, b * 0.7, seed=1) != shares
  assert shares.value == pytest.approx(0.7 * b.mean() - 0.3 * a.mean())


def test_intervals_cover_the_truth_as_often_as_they_say():
  rng = np.random.default_rng(1)
  hits, trials, gain = 0, 600, 0.05
  for _ in range(trials):
    found = bootstrap(*pair(rng, gain=gain), draws=1000)
    hits += found.low <= gain <= found.high
  assert 0.92 < hits / trials < 0.98


def test_mcnemar_agrees_with_the_binomial_distribution():
  a = np.repeat([1, 1, 0, 0], [90, 4, 11, 59])
  b = np.repeat([1, 0, 1, 0], [90, 4, 11, 59])
  found = paired.mcnemar(a, b)
  assert (found.only_a, found.only_b) == (4, 11)
  assert found.p == pytest.approx(2 * stats.binom.cdf(4, 15, 0.5))
  assert paired.mcnemar(b, a).p == found.p
  assert paired.mcnemar(a, a).p == 1.0
  with pytest.raises(ValueError, match='scores of 0 and 1'):
    paired.mcnemar(a, b / 2)


def test_mcnemar_rejects_no_more_than_it_may():
  rng = np.random.default_rng(2)
  p = [paired.mcnemar(*pair(rng, gain=0.0)).p for _ in range(400)]
  assert 0.005 < np.mean(np.array(p) <= 0.05) <= 0.07


def test_holm_keeps_the_order_and_bounds_the_family():
  p = [0.01, 0.2, 0.012, 0.9, 0.04]
  corrected = paired.holm(p)
  assert corrected == pytest.approx([0.05, 0.4, 0.05, 0.9, 0.12])
  assert paired.holm([]) == []
  rng = np.random.default_rng(3)
  families = [min(paired.holm(list(rng.random(7)))) <= 0.05 for _ in range(4000)]
  assert 0.035 < np.mean(families) < 0.065


@pytest.mark.parametrize('draws', [40, 53])
def test_components_tell_groups_from_their_runs(draws):
  rng = np.random.default_rng(draws)
  found = []
  for _ in range(30):
    scores = {}
    for d in range(draws):
      centre = 0.6 + 0.03 * rng.standard_normal()
      for s in range(2 + d % 3):  # different numbers of seeds
        scores[str(d), str(s)] = centre + 0.01 * rng.standard_normal()
    found.append(paired.components(scores))
  assert np.mean([f.between for f in found]) == pytest.approx(0.03, rel=0.06)
  assert np.mean([f.inside for f in found]) == pytest.approx(0.01, rel=0.04)
  assert found[0].mean == pytest.approx(0.6, abs=0.02)
  assert (found[0].groups, found[0].runs) == (draws, len(scores))


def test_components_of_equal_groups_agree_with_analysis_of_variance():
  groups = np.array([[3.0, 5.0, 4.0], [8.0, 7.0, 9.0], [1.0, 2.0, 6.0]])
  scores = {(str(i), str(j)): x for i, g in enumerate(groups) for j, x in enumerate(g)}
  found = paired.components(scores)
  f = stats.f_oneway(*groups).statistic
  assert 1 + 3 * (found.between / found.inside) ** 2 == pytest.approx(f)
  one_group = paired.components({('0', '0'): 1.0, ('0', '1'): 3.0})
  assert (one_group.between, one_group.inside) == (None, pytest.approx(2**0.5))
  one_run = paired.components({('0', '0'): 1.0, ('1', '0'): 3.0})
  assert (one_run.between, one_run.inside) == (pytest.approx(2**0.5), None)
  assert paired.components({('0', '0'): 1.0}).inside is None
  with pytest.raises(ValueError, match='no scores'):
    paired.components({})


def test_results_are_paired_by_problem(tmp_path):
  text = 'task_id,samples,base_correct,plus_correct\n'
  (tmp_path / 'a.csv').write_text(text + 'x/1,2,1,0\nx/2,2,2,2\n')
  (tmp_path / 'b.csv').write_text(text + 'x/2,4,1,0\nx/1,4,3,3\n')
  a, b = (paired.solved(tmp_path / f'{n}.csv', 'base_correct') for n in 'ab')
  first, second = paired.aligned(a, b)
  np.testing.assert_array_equal(first, [0.5, 1.0])
  np.testing.assert_array_equal(second, [0.75, 0.25])
  with pytest.raises(ConfigError, match=r'different problems \(1, such as x/3\)'):
    paired.aligned(a, b | {'x/3': 1.0})
  with pytest.raises(ConfigError, match=r'c.csv has no column base_correct'):
    paired.solved(tmp_path / 'c.csv', 'base_correct')
  with pytest.raises(ConfigError, match='has no column other'):
    paired.solved(tmp_path / 'a.csv', 'other')
  with pytest.raises(ValueError, match='one score of each problem'):
    paired.mcnemar(first, second[:1])
