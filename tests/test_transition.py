import json
import math
import subprocess
import sys

import numpy as np
import pytest

from onlyif_jax.analysis import transition
from onlyif_jax.analysis.transition import Point, fit_transition

COUNTS = (31, 101, 199, 307, 503, 1009, 1999, 5003, 10007)


def logistic(x, i50, slope, floor, ceiling):
  """The four-parameter curve in plain Python."""
  share = 1 / (1 + math.exp(-slope * (math.log10(x) - math.log10(i50))))
  return floor + (ceiling - floor) * share


def points(values, seed='0', n=2003, counts=COUNTS):
  return [Point(x, round(v * n), n, seed) for x, v in zip(counts, values, strict=True)]


def exact(i50, slope=9, floor=0.07, ceiling=0.93, seed='0', n=10**7):
  values = [logistic(x, i50, slope, floor, ceiling) for x in COUNTS]
  return points(values, seed, n)


def test_recovers_the_parameters_of_noiseless_curves():
  for i50, slope in ((150, 4), (419, 9), (2300, 20)):
    fit = fit_transition(exact(i50, slope)).fits['0']
    assert 10**fit.log_i50 == pytest.approx(i50, rel=2e-3)
    assert fit.slope == pytest.approx(slope, rel=1e-2)
    assert (fit.floor, fit.ceiling) == pytest.approx((0.07, 0.93), abs=2e-3)
    assert fit.freedom == len(COUNTS) - 4


@pytest.mark.slow
def test_more_starts_find_nothing_better(monkeypatch):
  rng = np.random.default_rng(7)
  starts = transition._starts
  for slope in (3, 9, 15, 40) * 5:
    group = simulate(rng, seeds=1, slope=slope, mu=2.7)
    few = transition.fit_seed(group).deviance
    with monkeypatch.context() as patch:
      patch.setattr(transition, '_starts', lambda t, k, n: starts(t, k, n, keep=40))
      many = transition.fit_seed(group).deviance
    assert few <= many * 1.001 + 1e-6


def test_gradient_of_the_curve():
  t = np.log10(COUNTS)
  theta = np.array([2.6, 1.9, 0.11, 0.83])
  _, jacobian = transition._model(theta, t)
  for j in range(4):
    step = np.zeros(4)
    step[j] = 1e-6
    up, down = (
      transition._model(theta + step, t)[0],
      transition._model(theta - step, t)[0],
    )
    np.testing.assert_allclose(jacobian[:, j], (up - down) / 2e-6, atol=1e-8)


def test_ends_of_the_rise_and_its_width():
  t = fit_transition(exact(419, 9))
  low, high = t.i_min.value, t.i_max.value
  rise = [(logistic(x, 419, 9, 0.07, 0.93) - 0.07) / 0.86 for x in (low, high)]
  assert rise == pytest.approx([0.01, 0.99], abs=1e-3)
  assert t.width == pytest.approx(2 * math.log(9) / 9, rel=1e-2)


def test_an_end_without_a_near_count_is_extrapolated():
  near = fit_transition(exact(419, 9))  # i_min near 130, 101 lies 0.11 away
  assert near.i_min.extrapolated
  assert not near.i_50.extrapolated
  dense = [Point(x, p.k, p.n) for p, x in zip(exact(419, 9), COUNTS, strict=True)]
  k = round(logistic(131, 419, 9, 0.07, 0.93) * 10**7)
  assert not fit_transition([*dense, Point(131, k, 10**7)]).i_min.extrapolated


def test_interval_is_student_t_on_the_logarithm():
  t = fit_transition([p for s in range(3) for p in exact(300 * 2**s, seed=str(s))])
  assert t.i_50.value == pytest.approx(600, rel=5e-3)
  # t quantile for two degrees of freedom, 4.3027; log10(2) is the sd of 0, 1, 2 steps
  half = 4.3027 * math.log10(2) / math.sqrt(3)
  assert math.log10(t.i_50.high / 600) == pytest.approx(half, rel=1e-2)
  assert math.log10(600 / t.i_50.low) == pytest.approx(half, rel=1e-2)


def test_two_seeds_have_values_and_no_interval():
  t = fit_transition(exact(300, seed='0') + exact(500, seed='1'))
  assert (t.i_50.low, t.i_50.high) == (None, None)
  assert list(t.i_50.per_seed.values()) == pytest.approx([300, 500], rel=5e-3)


def simulate(rng, *, seeds=3, mu=2.6, spread=0.08, slope=9, rho=0.02, n=2003):
  """Seeds whose log10 I_50 is normal around mu, and beta-binomial answers."""
  out = []
  for seed in range(seeds):
    middle = 10 ** (mu + spread * rng.standard_normal())
    for x in COUNTS:
      p = logistic(x, middle, slope, 0.0, 0.97)
      q = rng.beta(p * (1 / rho - 1) + 1e-9, (1 - p) * (1 / rho - 1) + 1e-9)
      out.append(Point(x, int(rng.binomial(n, q)), n, str(seed)))
  return out


@pytest.mark.slow
def test_interval_covers_the_truth():
  rng = np.random.default_rng(3)
  steps = [fit_transition(simulate(rng)).i_50 for _ in range(200)]
  kept = [s for s in steps if s is not None and s.low is not None]
  assert len(kept) >= 190
  hits = sum(s.low <= 10**2.6 <= s.high for s in kept)
  assert 0.90 <= hits / len(kept) <= 0.99


def test_a_step_between_neighbours_has_a_bracket_and_no_fit():
  t = fit_transition(points([0, 0, 0, 0, 0.98, 0.98, 0.99, 0.97, 0.98]))
  assert t.i_50 is None
  assert t.to_json()['fit'] is None
  assert 'between 307 and 503' in t.reason
  assert t.bracket == (307, 503)


def test_a_low_plateau_is_no_point_of_the_rise():
  t = fit_transition(points([0, 0, 0, 0, 0.98, 0.98, 0.83, 0.97, 0.98]))
  assert t.i_50 is None
  assert 'between 307 and 503' in t.reason


def test_one_sharp_seed_leaves_the_others_their_fit():
  sharp = points([0, 0, 0, 0, 0.98, 0.98, 0.99, 0.97, 0.98], 'b')
  t = fit_transition(exact(419, floor=0, seed='a') + sharp)
  assert set(t.i_50.per_seed) == {'a'}
  assert t.reason.startswith('seed b: no count')
  assert t.seeds == ('a', 'b')


def test_no_step_without_a_rise():
  for level in (0.0, 0.5, 1.0):
    t = fit_transition(points([level] * 9))
    assert (t.i_50, t.fits) == (None, {})
    assert 'rises by 0.00' in t.reason
  small = fit_transition(points([0, 0, 0, 0, 0.1, 0.2, 0.25, 0.24, 0.25]))
  assert 'a step needs 0.3' in small.reason
  falling = fit_transition(points([0.9, 0.9, 0.8, 0.7, 0.5, 0.3, 0.1, 0, 0]))
  assert falling.i_50 is None


def test_too_few_counts():
  t = fit_transition(points([0, 0.4, 0.9], counts=COUNTS[:3]))
  assert t.reason == 'seed 0: 3 counts, a fit needs 4'
  assert fit_transition([]).reason == 'no points'
  assert fit_transition([]).bracket == (None, None)


def test_bracket_asks_all_seeds_and_all_larger_counts():
  a = points([0, 0, 0.04, 0.2, 0.7, 0.97, 0.97, 0.97, 0.97], '0')
  b = points([0, 0, 0.06, 0.1, 0.9, 0.95, 0.80, 0.96, 0.96], '1')
  # 0.9 x 0.965 = 0.87: seed 1 falls below it again at 1,999.
  assert fit_transition(a + b).bracket == (101, 5003)
  assert fit_transition(points([0.1] * 9)).bracket == (None, None)


def test_a_dip_of_the_plateau_is_kept_in_the_deviance():
  smooth = fit_transition(points([0, 0, 0.02, 0.2, 0.6, 0.96, 0.96, 0.96, 0.96]))
  dip = fit_transition(points([0, 0, 0.02, 0.2, 0.6, 0.96, 0.96, 0.80, 0.96]))
  assert dip.deviance > 5 * smooth.deviance
  assert dip.fits['0'].dispersion > 10


def test_rule_error_is_carried_into_the_middle():
  base = exact(419)
  with_se = [p._replace(rule_se=0.01) for p in base]
  once = fit_transition(with_se).rule_se
  twice = fit_transition([p._replace(rule_se=0.02) for p in base]).rule_se
  assert twice == pytest.approx(2 * once, rel=1e-6)
  # Against refits of data with that error in every point.
  rng = np.random.default_rng(11)
  refits = []
  for _ in range(60):
    noisy = [p.k + 0.01 * p.n * rng.standard_normal() for p in base]
    moved = [
      Point(p.x, min(max(k, 0), p.n), p.n) for p, k in zip(base, noisy, strict=True)
    ]
    refits.append(fit_transition(moved).fits['0'].log_i50)
  assert once == pytest.approx(np.std(refits), rel=0.35)
  assert fit_transition(base).rule_se is None


@pytest.mark.parametrize('bad', [(0, 1, 2), (10, 3, 2), (10, -1, 2), (10, 0, 0)])
def test_impossible_points_are_refused(bad):
  with pytest.raises(ValueError, match='are not x > 0'):
    fit_transition([bad])


def test_json_has_no_number_that_json_lacks():
  t = fit_transition(exact(419) + points([0, 0, 0, 0, 1, 1, 1, 1, 1], '1'))
  text = json.loads(json.dumps(t.to_json(), allow_nan=False))
  assert text['bracket'] == [None, 1009]
  assert set(text['fit']['per_seed']) == {'0'}


FIT = (sys.executable, '-m', 'onlyif_jax.fit')


def test_fit_command_reads_any_csv_without_jax(tmp_path):
  file = tmp_path / 'mine.csv'
  rows = [f'{p.x},{p.k},{p.n},{p.seed}' for s in 'abc' for p in exact(419, seed=s)]
  file.write_text('rules,right,asked,run\n' + '\n'.join(rows) + '\n')
  code = (
    'import runpy, sys\nsys.argv = ["fit", *sys.argv[1:]]\n'
    'try: runpy.run_module("onlyif_jax.fit", run_name="__main__")\n'
    'finally: assert not {"jax", "matplotlib"} & set(sys.modules)'
  )
  words = [f'--csv={file}', '--x=rules', '--k=right', '--n=asked', '--seed=run']
  done = subprocess.run(
    [sys.executable, '-c', code, *words], capture_output=True, text=True, check=False
  )
  assert done.returncode == 0, done.stderr
  assert done.stdout.startswith('I_50: 419 [419, 419]')
  assert done.stdout.count('slope 9 per decade') == 3


def test_fit_command_names_what_is_wrong(tmp_path):
  file = tmp_path / 'mine.csv'
  file.write_text('x,k,n\n100,7,5\n')
  for words, message in (
    ([], '--csv is missing'),
    ([f'--csv={tmp_path}/none.csv'], 'none.csv'),
    ([f'--csv={file}', '--seed=run'], '--seed=run'),
    ([f'--csv={file}'], 'line 2: x=100, k=7, n=5'),
  ):
    done = subprocess.run([*FIT, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count('\n') == 1
