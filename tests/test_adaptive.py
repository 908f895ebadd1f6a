"""Adaptive sweeps: placement on simulated curves, and a toy run."""

import numpy as np
import pytest
import runs
from runs import Crash, toy_config, watch

from onlyif_jax import adaptive, experiment, sweep
from onlyif_jax.analysis import results
from onlyif_jax.analysis.transition import Point
from onlyif_jax.config import ConfigError
from onlyif_jax.workdir import Workdir

COUNTS = (31, 101, 307, 1009, 3001)
SETTINGS = {'width': 0.12, 'each': 4}


def curve(count, middle, slope=7.0, floor=0.02, ceiling=0.94):
  """Accuracy of the simulated members."""
  z = slope * (np.log10(count) - np.log10(middle))
  return floor + (ceiling - floor) / (1 + np.exp(-z))


def measured(counts, seed, middle, **more):
  """Dev results of a round; each seed has a step of its own."""
  own = middle * 10 ** np.random.default_rng(seed).normal(0, 0.03)
  draw = np.random.default_rng(seed + 77)
  return [
    Point(c, float(draw.binomial(500, curve(c, own, **more))), 500, str(seed))
    for c in counts
  ]


def explore(middle, budget=24, **more):
  """(rounds of counts, the last placement) of a whole exploration."""
  points, rounds = measured(COUNTS, 0, middle, **more), []
  while True:
    spent = sum(map(len, rounds))
    placed = adaptive.place(points, COUNTS, most=budget - spent, **SETTINGS)
    if placed.final:
      return rounds, placed
    rounds.append(placed.counts)
    points = points + measured(placed.counts, len(rounds), middle, **more)


@pytest.mark.parametrize('middle', [150, 420, 700, 1200])
def test_it_converges_on_the_step(middle):
  rounds, placed = explore(middle)
  assert rounds
  assert placed.width < SETTINGS['width']
  assert abs(np.log10(placed.i_50 / middle)) < 0.1
  low, high = placed.interval
  assert low < placed.i_50 < high
  # Later rounds lie where the curve is steep, and no count comes twice.
  for counts in rounds[1:]:
    assert all(0.15 < curve(c, middle) < 0.85 for c in counts), counts
  every = [*COUNTS, *(c for counts in rounds for c in counts)]
  assert len(set(every)) == len(every)


def test_the_grid_to_report_covers_the_rise_and_the_ends():
  _, placed = explore(420)
  assert (placed.counts[0], placed.counts[-1]) == (COUNTS[0], COUNTS[-1])
  shares = [(curve(c, 420) - 0.02) / 0.92 for c in placed.counts]
  assert sum(0.2 < s < 0.8 for s in shares) >= 3
  assert any(0.02 <= s < 0.2 for s in shares)
  assert any(0.8 < s <= 0.98 for s in shares)
  assert placed.reason == 'the interval is narrower than 0.12: the grid to report'


def test_the_budget_is_kept():
  for budget in (0, 3, 5):
    rounds, placed = explore(420, budget=budget)
    assert sum(map(len, rounds)) <= budget
    if placed.width is None or placed.width >= SETTINGS['width']:
      assert placed.reason.startswith('the budget is spent')


def test_it_is_a_function_of_the_results():
  points = measured(COUNTS, 0, 420)
  one = adaptive.place(points, COUNTS, most=7, **SETTINGS)
  assert one == adaptive.place(list(points), COUNTS, most=7, **SETTINGS)
  assert one != adaptive.place(measured(COUNTS, 0, 700), COUNTS, most=7, **SETTINGS)


def test_a_rise_between_two_counts_is_parted_evenly():
  placed = adaptive.place(
    measured(COUNTS, 0, 560, slope=80.0), COUNTS, most=9, **SETTINGS
  )
  assert not placed.final
  assert 'no count within 10-90 % of the rise' in placed.reason
  steps = np.diff(np.log10([307, *placed.counts, 1009]))
  assert len(placed.counts) == 4
  assert np.allclose(steps, steps[0], atol=0.01)
  rounds, placed = explore(560, slope=80.0)
  assert len(rounds) > 1
  assert abs(np.log10(placed.i_50 / 560)) < 0.1


@pytest.mark.parametrize('middle', [10**6, 2])
def test_without_a_step_the_first_counts_stay(middle):
  placed = adaptive.place(measured(COUNTS, 0, middle), COUNTS, most=9, **SETTINGS)
  assert (placed.final, placed.counts) == (True, COUNTS)
  assert 'the first counts stay' in placed.reason


@pytest.mark.parametrize(
  ('arg', 'settings', 'message'),
  [
    ('counts=3|5|7', {}, 'begins with 4 counts or more'),
    ('', {'sweep_adaptive_counts': 0}, 'adaptive_counts must be 1 or more'),
    ('', {'sweep_learning_rates': (1.0, 2.0)}, 'places the counts of one curve'),
  ],
)
def test_what_cannot_be_adaptive_is_refused(arg, settings, message, tmp_path):
  arg = arg or 'counts=3|5|7|17'
  with pytest.raises(ConfigError, match=message):
    sweep.run(toy_config(arg, sweep_adaptive_width=0.1, **settings), tmp_path / 'x')


def test_exploring_rows_have_seeds_of_their_own():
  config = toy_config('counts=3|5|7|17,seeds=2', sweep_adaptive_width=0.1)
  config = sweep.dataclasses.replace(
    config,
    sweep=sweep.dataclasses.replace(
      config.sweep, explored=('1:11', '2:13'), reported=(3, 17)
    ),
  )
  rows = experiment.rows(config)
  exploring = [row for row in rows if row.reference == 'explore']
  reported = [row for row in rows if not row.reference]
  assert [(row.instructions, row.rules_seed) for row in exploring] == [
    *((count, 1000) for count in (3, 5, 7, 17)),
    *((11, 1001), (13, 1002)),
  ]
  assert [row.instructions for row in reported] == [3, 17] * 2
  assert len({row.member for row in rows}) == len(rows)
  seeds = {row.init_seed for row in exploring}
  assert not seeds & {row.init_seed for row in rows if row.reference != 'explore'}


def steps(monkeypatch):
  """Makes the toy's dev results look like a step, since it learns nothing."""
  real = Workdir.read_csv

  def read_csv(self, name):
    rows = real(self, name)
    for row in rows:
      if (row.get('split'), row.get('metric')) == ('dev', 'exact_match'):
        share = curve(int(row['instructions']), 29, slope=9.0)
        row['sum'], row['count'] = str(round(500 * share)), '500'
    return rows

  monkeypatch.setattr(Workdir, 'read_csv', read_csv)


@pytest.mark.slow
def test_a_toy_run_explores_then_reports_and_resumes(tmp_path, monkeypatch):
  patch = runs.share_compiles()
  try:
    _a_toy_run(tmp_path, monkeypatch)
  finally:
    patch.undo()


def _a_toy_run(tmp_path, monkeypatch):
  monkeypatch.setattr(results, 'analyse', lambda path: None)
  steps(monkeypatch)
  config = toy_config(
    'counts=3|11|37|101',
    sweep_adaptive_width=1e-6,
    sweep_adaptive_counts=2,
    sweep_adaptive_budget=3,
    sweep_references=(),
    eval_loop_points=0,
  )
  with monkeypatch.context() as patch:
    writes = watch(patch)
    assert sweep.run(config, tmp_path / 'run')[:2] == (True, {})
  workdir = Workdir(tmp_path / 'run')
  events = [e for e in workdir.ledger() if e['event'] == 'placed']
  assert [e['round'] for e in events] == [1, 2, 3]
  assert [e['final'] for e in events] == [False, False, True]
  assert [len(e['counts']) for e in events[:2]] == [2, 1]
  assert events[-1]['reason'] == 'the budget is spent: the grid to report'
  stored = workdir.config().sweep
  words = [f'{e["round"]}:{c}' for e in events[:2] for c in e['counts']]
  assert (list(stored.explored), list(stored.reported)) == (words, events[2]['counts'])
  rows = {
    (r['reference'], int(r['instructions'])) for r in workdir.read_csv('results.csv')
  }
  assert {c for name, c in rows if name == ''} == set(stored.reported)
  explored = {3, 11, 37, 101} | {c for e in events[:2] for c in e['counts']}
  assert {c for name, c in rows if name == 'explore'} == explored
  found = results.load(tmp_path / 'run')
  assert {r.instructions for r in found.curves[0].rows} == set(stored.reported)
  assert found.references() == {}
  # Killed in the middle of what follows a placement, it places the same again.
  at = [n for n, name in enumerate(writes, 1) if name == 'ledger.jsonl']
  config_writes = [n for n, name in enumerate(writes, 1) if name == 'config.json']
  for crash_at in (config_writes[1], max(n for n in at if n < config_writes[1])):
    path = tmp_path / f'killed{crash_at}'
    with monkeypatch.context() as patch:
      watch(patch, crash_at=crash_at)
      with pytest.raises(Crash):
        sweep.run(config, path)
    assert sweep.run(config, path)[:2] == (True, {})
    assert (path / 'config.json').read_bytes() == workdir.file(
      'config.json'
    ).read_bytes()
    assert Workdir(path).ledger() == workdir.ledger()
