"""The papers' claims: what supports them, contradicts them or leaves them open."""

import dataclasses

import fake_run
import pytest
from test_scoreboard import (
  ALPHAS,
  COUNTS,
  LOW,
  MID,
  MIXES,
  NEVER,
  TARGETS,
  TOP,
  judged,
  over,
  rows,
  run_of,
)

from onlyif_jax.analysis import results, scoreboard, targets, verdict

CLASSES = {'task__classes': 'repeat+periodic+mirror'}
TABLE_3 = [
  row
  for table in targets.read()['tables']
  if table['id'].startswith('generalist')
  for row in table['rows']
]
CLAIMS = [
  # fails, holds, misses
  ('imin-never', COUNTS((100, LOW), (200, LOW), (300, TOP)), 'supported'),
  ('imin-never', COUNTS((100, LOW), (200, LOW), (299, MID)), 'inconclusive'),
  ('imin-never', COUNTS((101, TOP), (299, LOW)), 'contradicted'),
  ('imin-never', COUNTS((300, LOW)), 'not run'),
  ('imin-never', COUNTS((100, LOW[:1]), (200, LOW[:1])), 'supported'),
  ('imin-never', COUNTS((100, LOW), (200, (0.049,))), 'inconclusive'),
  ('imin-always', COUNTS((300, LOW), (1000, TOP), (10_000, TOP)), 'supported'),
  ('imin-always', COUNTS((300, TOP), (1000, LOW)), 'contradicted'),
  ('imin-always', COUNTS((1000, (0.2, 0.2, 0.2))), 'contradicted'),  # all low
  (
    'noop-below',
    COUNTS((100, LOW), (300, LOW), (1000, TOP), slice='noop=0'),
    'supported',
  ),
  ('noop-below', COUNTS((300, TOP), (1000, TOP), slice='noop=0'), 'contradicted'),
  # at_least
  ('cipher-noop', COUNTS((10, TOP), (100, TOP), slice='noop=1'), 'supported'),
  ('cipher-noop', COUNTS((100, LOW), slice='noop=1'), 'contradicted'),
  # above
  (
    'longtail-i1-falls',
    ALPHAS((0.2, TOP), (0.03, LOW), instructions=1000),
    'supported',
  ),
  (
    'longtail-i1-falls',
    ALPHAS((0.2, TOP), (0.03, TOP), instructions=1000),
    'contradicted',
  ),
  (
    'longtail-i1-falls',
    ALPHAS((0.2, TOP), (0.03, MID), instructions=1000),
    'inconclusive',
  ),
  ('longtail-i1-falls', ALPHAS((0.2, TOP), instructions=1000), 'not run'),
  # steady
  (
    'longtail-i2',
    ALPHAS((0, TOP), (0.2, TOP), (0.03, TOP), instructions=10_000),
    'supported',
  ),
  ('longtail-i2', ALPHAS((0.2, TOP), (0.03, LOW), instructions=10_000), 'contradicted'),
  ('longtail-i2', ALPHAS((0.2, TOP), instructions=10_000), 'not run'),
  # ordered
  (
    'semantics-range',
    over(
      'task__k_max',
      *((4, TOP), (12, (0.5, 0.51, 0.52)), (60, LOW)),
      **CLASSES | {'instructions': 5000},
    ),
    'supported',
  ),
  (
    'semantics-range',
    over('task__k_max', (4, (0.5, 0.51, 0.52)), (12, TOP), (60, LOW), **CLASSES),
    'contradicted',
  ),
  (
    'semantics-range',
    over('task__k_max', (4, TOP), (60, TOP), **CLASSES),
    'inconclusive',
  ),
  # inner_peak
  (
    'deepseek-peak',
    MIXES(
      *(('20/0/0', (0.6, 0.61)), ('18/2/0', (0.97, 0.98)), ('15/5/0', (0.5, 0.51))),
      *((row, (0.6, 0.61)) for row in ('19/1/0', '17/3/0', '16/4/0')),
    ),
    'supported',
  ),
  (
    'deepseek-peak',
    MIXES(('20/0/0', (0.9,) * 3), ('18/2/0', (0.6,) * 3), ('15/5/0', (0.5,) * 3)),
    'contradicted',
  ),
  ('deepseek-peak', MIXES(('20/0/0', TOP), ('15/5/0', LOW)), 'not run'),
  # highest
  (
    'generalist-best',
    over(
      'data__mixture',
      ('30/10/0', TOP),
      *((row, LOW) for row in TABLE_3 if row != '30/10/0'),
      **{'split': 'test', 'metric': 'score', 'slice': 'average=overall'},
    ),
    'supported',
  ),
]


@pytest.mark.parametrize(('target', 'made', 'state'), CLAIMS)
def test_claims(target, made, state):
  found = judged(target, made)
  assert found.state == state, found
  assert found.ours or state == 'not run'


@pytest.mark.parametrize(
  ('target', 'made', 'missing'),
  [
    ('imin-never', COUNTS((10, LOW), (200, LOW)), 'I = 100'),
    ('imin-never', COUNTS((10, LOW)), 'I = 100; I = 200'),
    ('imin-always', COUNTS((1000, TOP)), 'I = 10,000'),
    (
      'longtail-i1-holds',
      ALPHAS((2, TOP), instructions=1000),
      'alpha = 0; alpha = 1; alpha = 0.5; 1 more',
    ),
    (
      'lengths-always',
      [
        *over('task__input_length', (50, TOP), (100, TOP), instructions=1000),
        *over('task__input_length', (50, TOP), (200, TOP), instructions=10_000),
      ],
      'input_length = 100, I = 10,000; input_length = 200, I = 1,000',
    ),
    (
      'algebra-rules',
      COUNTS((10, LOW), (20, MID), (40, TOP), slice='depth=3'),
      'slice = depth=4, I = 10; slice = depth=4, I = 20; slice = depth=4, I = 40',
    ),
    # Both sides of a comparison, and what the highest must exceed.
    (
      'semantics-5000',
      [
        *over('task__k_max', (4, TOP), (12, TOP), instructions=5000, **CLASSES),
        *over('task__k_max', (4, LOW), instructions=500, **CLASSES),
      ],
      'k_max = 12',
    ),
    (
      'generalist-best',
      over(
        'data__mixture',
        *(('30/10/0', TOP), *((row, LOW) for row in TABLE_3[:-1] if row != '30/10/0')),
        **{'split': 'test', 'metric': 'score', 'slice': 'average=overall'},
      ),
      'mixture = 70/0/10',
    ),
    (
      'deepseek-peak',
      MIXES(('20/0/0', (0.6, 0.61)), ('18/2/0', (0.97, 0.98)), ('15/5/0', (0.5, 0.51))),
      'mixture = 19/1/0; mixture = 17/3/0; mixture = 16/4/0',
    ),
  ],
)
def test_a_claim_is_supported_by_all_that_it_names_alone(target, made, missing):
  found = judged(target, made)
  assert (found.state, found.partial) == ('inconclusive', True)
  assert found.reason == f'not run: {missing}'
  assert found.ours
  board = scoreboard.judge([run_of(TARGETS[target].experiment, made)])
  (line,) = [x for x in board.lines if x.target.id == target]
  assert not line.at_papers_size


def test_the_ceiling_is_what_endless_rules_reach():
  """0.56 is not 0.9 of what training could reach, though it is the run's best."""
  alone = COUNTS((1000, (0.55, 0.56, 0.57)), (10_000, (0.55, 0.56, 0.57)))
  assert judged('imin-always', alone).state == 'supported'
  endless = rows(TOP, instructions=1000, reference='infinite_rules')
  assert judged('imin-always', alone + endless).state == 'contradicted'
  other = rows(TOP, instructions=1000, reference='infinite_inputs')
  assert judged('imin-always', alone + other).state == 'supported'


def test_reweighted_controls_are_no_rows_of_the_papers():
  plain = ALPHAS((0.2, TOP), (0.03, LOW), instructions=1000, data__balance=False)
  control = ALPHAS((0.2, LOW), (0.03, LOW), instructions=1000, data__balance=True)
  assert judged('longtail-i1-falls', plain + control).state == 'supported'
  five = ((alpha, TOP) for alpha in (0, 2, 1, 0.5, 0.2))
  holds = ALPHAS(*five, instructions=1000, data__balance=False)
  assert judged('longtail-i1-holds', holds + control).state == 'supported'
  for target, count in (('longtail-i2', 10_000), ('longtail-i3', 100_000)):
    three = ((alpha, TOP) for alpha in (0, 0.2, 0.03))
    made = ALPHAS(*three, instructions=count, data__balance=False)
    lost = ALPHAS((0.2, TOP), (0.03, LOW), instructions=count, data__balance=True)
    assert judged(target, made + lost).state == 'supported'
    assert judged(target, lost).state == 'not run'


def test_a_member_that_learned_nothing_shows_no_failure():
  made = COUNTS(*NEVER)
  assert judged('imin-never', made).state == 'supported'
  learned = COUNTS((200, TOP), split='seen')
  assert judged('imin-never', made + learned).state == 'supported'
  assert judged('imin-never', made + COUNTS((200, LOW), split='seen')).state == (
    'inconclusive'
  )


def test_the_worst_group_is_told():
  found = judged('imin-always', COUNTS((1000, (0.9, 0.91, 0.92)), (5000, TOP)))
  assert found.ours == '0.91 [0.89, 0.93] at I = 1,000, 3 seeds; so for 2 of 2'


@pytest.mark.parametrize(
  ('spread_of', 'i50', 'target', 'state'),
  [
    (0.005, 407, 'imin-around-400', 'supported'),
    (0.005, 407, 'imin-400-500', 'inconclusive'),
    (0.005, 809, 'imin-around-400', 'contradicted'),
    (0.2, 407, 'imin-around-400', 'inconclusive'),
    (0.005, 407, 'imin-sharp', 'supported'),
  ],
)
def test_steps(tmp_path, spread_of, i50, target, state):
  run = results.load(fake_run.make(tmp_path / 'r', spread=spread_of, i50=i50))
  assert verdict.judge(TARGETS[target], run).label == f'{state} (cpu analogue)'


def test_a_step_of_two_seeds_says_nothing(tmp_path):
  run = results.load(fake_run.make(tmp_path / 'r', spread=0.005, seeds=2))
  assert verdict.judge(TARGETS['imin-around-400'], run).state == 'inconclusive'


def test_the_width_of_a_step_is_no_share(tmp_path):
  """An interval of decades neither begins at 0 nor ends at 1."""
  run = results.load(fake_run.make(tmp_path / 'r', spread=0.005))
  fits = {
    name: dataclasses.replace(
      t,
      fits={
        seed: dataclasses.replace(fit, slope=2 * 2.197 / width)
        for (seed, fit), width in zip(t.fits.items(), (0.1, 0.4, 0.7), strict=True)
      },
    )
    for name, t in run.fits.items()
  }
  run = dataclasses.replace(run, fits=fits)
  found = verdict.judge(TARGETS['imin-sharp'], run)
  low, high = (float(x) for x in found.ours.split('[')[1].split(']')[0].split(','))
  assert low < 0
  assert high > 1
