"""The papers' numbers and claims, and what a run is said to say about them."""

import dataclasses
import functools
import json
import tempfile
from pathlib import Path

import fake_run
import numpy as np
import pytest

from onlyif_jax.analysis import results, scoreboard, selector, spread, targets, verdict

TARGETS = targets.load()


@functools.cache
def base():
  """A finished run, whose rows the tests replace."""
  with tempfile.TemporaryDirectory() as folder:
    return results.load(fake_run.make(Path(folder) / 'run', seeds=3))


def run_of(experiment, rows, *, size='full', **settings):
  """The base run with these rows, of an experiment, at the settings it asks for."""
  wanted = targets.experiments()[experiment].get('settings', {}) | settings
  config = dataclasses.replace(base().config, name=experiment, size=size)
  for field, value in wanted.items():
    section, _, name = field.partition('.')
    part = getattr(config, section, None)
    if not hasattr(part, name):  # a setting of another task, or of fine-tuning
      continue
    part = object.__new__(type(part)) if section == 'task' else part
    if section == 'task':  # settings of a task are not checked again here
      for f in dataclasses.fields(part):
        object.__setattr__(part, f.name, getattr(config.task, f.name))
      object.__setattr__(part, name, value)
    else:
      part = dataclasses.replace(part, **{name: type(getattr(part, name))(value)})
    config = dataclasses.replace(config, **{section: part})
  return dataclasses.replace(base(), config=config, rows=tuple(rows))


def rows(values, *, count=100_003, **fields):
  """One row per seed with these exact matches; fields of Row, or swept ones."""
  known = {f.name for f in dataclasses.fields(results.Row)}
  own = {'instructions': 1009, 'split': 'unseen', 'metric': 'exact_match'}
  own |= {k: v for k, v in fields.items() if k in known}
  swept = {k.replace('__', '.'): str(v) for k, v in fields.items() if k not in known}
  return [
    results.Row(
      **{'member': f'm{seed}', 'reference': '', 'noop_share': 0.0} | own,
      learning_rate=0.001,
      seed=str(seed),
      sum=value * count,
      count=count,
      value=value,
      swept=swept,
    )
    for seed, value in enumerate(values)
  ]


def judged(target, rows, **settings):
  target = TARGETS[target]
  return verdict.judge(target, run_of(target.experiment, rows, **settings))


# --- what is selected


@pytest.mark.parametrize(
  ('value', 'wanted', 'good'),
  [
    (300, '<300', False),
    (299, '<300', True),
    (400.0, '>=400', True),
    ('0.2', 0.2, True),
    ('1|5|10', '(1, 5, 10)', True),
    ('1|5', '1|5|10', False),
    ('20/0/0', '20/0/0', True),
    ('20/0/0', '2/00/0', False),
    ('5:45', '5:45', True),
    ('noop=0', 'noop=0', True),
    ('noop=0', 'noop=1', False),
    ('repeat+mirror', ['repeat', 'repeat+mirror'], True),
    ('abc', '<3', False),
    (None, '0.2', False),
    ('anything', '*', True),
    (True, 1, False),
  ],
)
def test_values_match(value, wanted, good):
  assert selector.matches(value, wanted) == good


def test_groups_are_told_apart_by_every_swept_field():
  made = [
    *rows([0.1, 0.2, 0.3], data__alpha=0.5),
    *rows([0.4, 0.5, 0.6], data__alpha=0.2),
    *rows([0.9], data__alpha=0.2, reference='one'),
    *rows([0.9], data__alpha=0.2, split='seen'),
  ]
  found = selector.Selector(run_of('longtail', made))
  groups = found.groups(targets.DEFAULTS)
  assert [g.key['data.alpha'] for g in groups] == ['0.2', '0.5']
  assert [r.value for r in groups[1].rows.values()] == [0.1, 0.2, 0.3]
  assert found.varied(groups) == ['data.alpha']
  assert groups[0].name(['data.alpha', 'instructions']) == 'alpha = 0.2, I = 1,009'
  assert found.groups(targets.DEFAULTS | {'task.alphabet': 27}) == []


# --- numbers


NUMBER = 'occurrences/1/1000'  # printed as 0.41
AT = {'task__train_matches': 1, 'instructions': 1000}


@pytest.mark.parametrize(
  ('values', 'state'),
  [
    ((0.36, 0.41, 0.45), 'supported'),
    ((0.10, 0.11, 0.12), 'contradicted'),
    ((0.10, 0.41, 0.95), 'inconclusive'),  # an interval too wide to say anything
    ((0.41,), 'supported'),
    ((0.42, 0.44), 'supported'),
    ((0.11,), 'inconclusive'),  # who knows how far seeds differ
    ((0.10, 0.11), 'inconclusive'),
    ((), 'not run'),
  ],
)
def test_a_number_matches_within_the_prediction_interval(values, state):
  found = judged(NUMBER, rows(values, **AT))
  assert found.state == state
  assert found.analogue == ''


def test_prediction_interval_has_the_spread_for_one_more_run():
  values = (0.60, 0.62, 0.64)
  found = judged(NUMBER, rows(values, **AT))
  paper = (0.41 * 0.59 / 1000) ** 0.5
  half = np.hypot(4.3027 * 0.02 * (4 / 3) ** 0.5, 1.96 * paper)
  low, high = (0.62 - half, 0.62 + half)
  assert found.ours == f'0.62 [{low:.2f}, {high:.2f}], 3 seeds'
  assert '1,000 assumed' in found.reason


def test_prediction_intervals_cover_another_run():
  """Seeds spread by 0.03, 2,003 test examples each: 95 % of the papers' runs match."""
  rng = np.random.default_rng(7)
  target = dataclasses.replace(TARGETS[NUMBER], n=997)
  hits = []
  for _ in range(400):
    true = 0.4 + 0.03 * rng.standard_normal(4)
    ours = [rng.binomial(2003, p) / 2003 for p in true[:3]]
    theirs = round(rng.binomial(997, true[3]) / 997, 2)
    noises = [spread.noise(v, 2003) for v in ours]
    asked = dataclasses.replace(target, value=theirs)
    found = verdict._inside(asked, ours, noises, spread.noise(theirs, 997), 1.0)
    hits.append(found.state != 'contradicted')
  assert 0.93 < np.mean(hits) < 0.99


def test_unknown_settings_beside_the_number_are_not_averaged():
  made = rows([0.4] * 3, **AT, optim__b1=0.8) + rows([0.4] * 3, **AT, optim__b1=0.9)
  found = judged(NUMBER, made)
  assert (found.state, found.reason) == (
    'inconclusive',
    'several members fit: optim.b1 vary',
  )


def test_gains_are_paired_by_seed():
  place = {'split': 'test', 'metric': 'pass_at_1', 'slice': 'benchmark=average'}
  plain = rows([0.60, 0.64, 0.68], data__mixture='20/0/0', **place)
  mixed = rows([0.628, 0.67, 0.711], data__mixture='18/2/0', **place)
  found = judged('deepseek-20k/18/2/0/gain', plain + mixed)
  assert found.state == 'supported'  # printed as 4.6
  assert found.ours.startswith('4.6 [')
  none = judged('deepseek-20k/18/2/0/gain', plain)
  assert none.state == 'not run'
  worse = rows([0.43, 0.45, 0.48], data__mixture='18/2/0', **place)
  assert judged('deepseek-20k/18/2/0/gain', plain + worse).state == 'contradicted'


def test_percentages_are_compared_with_shares():
  place = {'split': 'test', 'metric': 'pass_at_1', 'slice': 'benchmark=humaneval'}
  made = rows([0.66, 0.67, 0.68], data__mixture='19/1/0', count=164, **place)
  found = judged('deepseek-20k/19/1/0/HE', made)
  assert found.state == 'supported'
  assert found.ours.startswith('67.0 [')


def test_a_number_without_a_place_cannot_be_judged():
  name = 'algebra-5c/one of the points/label 1'
  assert judged(name, []).state == 'not run'
  assert judged(name, rows([0.2], split='unseen_depth')).state == 'inconclusive'


# --- rows of claims, see test_claims too

LOW, MID, TOP = (0.001, 0.002, 0.003), (0.2, 0.5, 0.8), (0.95, 0.96, 0.97)


def over(field, *pairs, **fixed):
  """Rows of several values of a field."""
  return [row for value, v in pairs for row in rows(v, **{field: value}, **fixed)]


COUNTS = functools.partial(over, 'instructions')
ALPHAS = functools.partial(over, 'data__alpha')
SIZE = {'split': 'test', 'metric': 'pass_at_1', 'slice': 'benchmark=average'}
MIXES = functools.partial(over, 'data__mixture', **SIZE)
NEVER = ((100, LOW), (200, LOW))


def test_arithmetic_needs_no_run():
  board = scoreboard.judge([])
  states = {x.target.id: x.best for x in board.lines if x.target.arithmetic}
  assert states['noop-footnote'].label == 'supported'
  assert states['noop-footnote'].ours == f'{10000 / 900:.2f}'
  assert states['longtail-rare'].ours == 'at most 77 of 1,000 rules'


# --- coverage


def test_only_the_papers_size_counts():
  made = COUNTS(*NEVER, (1000, TOP), (10_000, TOP))
  full = run_of('imin', made)
  board = scoreboard.judge([full])
  ran = [x.target.id for x in board.lines if x.at_papers_size]
  assert ran == [
    'imin-never',
    'imin-always',
    'imin-around-400',
    'imin-400-500',
    'imin-sharp',
  ]
  assert board.coverage == (5, len(TARGETS) - 2)
  for run, why in (
    (run_of('imin', made, size='cpu'), 'cpu'),
    (run_of('imin', made, **{'data.epochs': 4}), 'full, but data.epochs=4.0:'),
    (run_of('imin', made, **{'task.x_max': 3}), 'full, but task.x_max=3:'),
  ):
    board = scoreboard.judge([run])
    assert board.coverage[0] == 0
    (line,) = [x for x in board.lines if x.target.id == 'imin-never']
    assert line.best.label == f'supported ({why} analogue)'


def test_analogues_have_no_row():
  assert scoreboard.judge([run_of('imin', [])]).of(['algebra']) == []


def test_several_runs_share_one_board():
  made = COUNTS(*NEVER)
  small = run_of('imin', COUNTS((101, TOP)), size='cpu')
  board = scoreboard.judge([small, run_of('imin', made)], ['small', 'large'])
  (line,) = [x for x in board.lines if x.target.id == 'imin-never']
  assert line.best.label == 'supported'  # the papers' size goes first
  assert [(name, v.state) for name, v in line.results] == [
    ('small', 'contradicted'),
    ('large', 'supported'),
  ]


@pytest.mark.parametrize('turned', [False, True])
def test_of_several_runs_the_one_that_contradicts_is_shown(turned):
  never = run_of('imin', COUNTS(*NEVER))
  unsure = run_of('imin', COUNTS(*NEVER, (299, MID)))
  often = run_of('imin', COUNTS((100, LOW), (200, TOP)))
  few = run_of('imin', COUNTS((100, LOW)))

  def shown(*runs):
    runs = runs[::-1] if turned else runs
    board = scoreboard.judge(runs, [str(n) for n in range(len(runs))])
    return next(x for x in board.lines if x.target.id == 'imin-never').best

  assert shown(never, often).state == 'contradicted'
  assert shown(unsure, often).state == 'contradicted'
  assert shown(never, unsure).state == 'inconclusive'
  assert shown(never, few).state == 'supported'  # one that lacks counts says less
  assert shown(few).partial


def test_json_has_the_coverage_first():
  board = scoreboard.judge([run_of('imin', COUNTS(*NEVER), size='cpu')])
  text = json.dumps(board.to_json(), allow_nan=False)
  read = json.loads(text)
  assert next(iter(read)) == 'coverage'
  assert read['coverage']['run_at_papers_size'] == 0
  assert read['coverage']['by_experiment']['occurrences'] == {'run': 0, 'rows': 18}
  assert len(read['rows']) == len(TARGETS)
  by_id = {row['id']: row for row in read['rows']}
  assert by_id['imin-never']['label'] == 'supported (cpu analogue)'
  assert by_id['imin-never']['state'] == 'read from an axis'
  assert by_id['occurrences/10/1000']['papers_value'] == '0.71'
  assert by_id['occurrences/1/500']['papers_value'] == '0.00'
  assert sum(read['verdicts'].values()) == len(TARGETS)
  assert board.text().startswith('Coverage: 0 of ')
