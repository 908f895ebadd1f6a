import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest

from onlyif_jax.config import ConfigError, RulesConfig, base_config, freeze
from onlyif_jax.experiment import build, rows
from onlyif_jax.tasks.occurrences import Occurrences
from onlyif_jax.tasks.rules import Part, Rule

ROUND = 1500

TASKS = {
  'plain': Occurrences(alphabet=7, input_length=29, matches=5),
  # Two letters, every x down to one letter: matches everywhere, most inputs repaired.
  'binary': Occurrences(
    alphabet=2, x_min=1, x_max=4, y_min=2, y_max=5, input_length=23, matches=5,
    noops=True,
  ),
  # At most m the matches fill the whole input.
  'whole': Occurrences(
    alphabet=3, x_max=5, x_min=5, y_min=2, y_max=2, input_length=35, matches=7,
    noops=True, order='zxy',
  ),
}  # fmt: skip


@functools.cache
def program(task):
  space = task.space(RulesConfig())
  capacity = space.capacity(Part.TRAIN)

  @jax.jit
  def make(seed, start):
    i_B = start + jnp.arange(ROUND, dtype=jnp.int32)
    kind_B = task.kind('even' if task.noops else 'all', i_B)

    def one(i, kind):
      rule = space.rule(seed, Part.TRAIN, i % capacity)
      return task.example(rule, jax.random.fold_in(jax.random.key(seed), i), kind=kind)

    return jax.vmap(one)(i_B, kind_B), kind_B

  return make


def check(task, count, seed=0):
  for start in range(0, count, ROUND):
    examples, kinds = jax.device_get(program(task)(seed, start))
    for b, row in enumerate(examples.tokens_L.tolist()):
      slices = {k: v[b] for k, v in examples.slices.items()}
      check_one(task, row, kinds[b], slices, np.flatnonzero(examples.inserted_A[b]))
      assert row[examples.answer_start[b] - 1] == 2
      assert examples.answer_start[b] + examples.answer_len[b] == row.index(1) + 1


def check_one(task, row, m, slices, inserted):
  parts = oracle.parse(row, task.order)
  x, y, z = parts['x'], parts['y'], parts['z']
  assert parts['out'] == oracle.rewrite(x, y, z)
  assert len(z) == task.input_length
  assert oracle.occurrences(x, z) == m
  wanted = {'noop': m == 0, 'occurrences': m, 'pattern_length': len(x)}
  assert slices == wanted | {'near_miss': oracle.near(x, z)}
  at = z.find(x)
  assert list(inserted) == (list(range(at, at + len(y))) if m else [])


QUICK = [
  pytest.param(name, marks=pytest.mark.slow) if name == 'binary' else name
  for name in TASKS
]


@pytest.mark.parametrize('name', QUICK)
def test_examples_equal_the_oracle(name):
  check(TASKS[name], 4 * 1500)


@pytest.mark.slow
@pytest.mark.parametrize('name', TASKS)
def test_many_examples_equal_the_oracle(name):
  check(TASKS[name], 100_500, seed=5)


HOSTILE = Occurrences(alphabet=2, input_length=13, matches=6, x_min=1, x_max=2)


@functools.cache
def inputs_program(task):
  """Inputs of one rule and m; one compile serves every x."""

  def one(x_P, x_len, m, i):
    rule = Rule(x_P, x_len, jnp.zeros(task.y_max, jnp.int32), jnp.int32(task.y_min))
    return task.example(rule, jax.random.fold_in(jax.random.key(3), i), kind=m)

  i_B = jnp.arange(3000)
  make = jax.vmap(one, (None, None, None, 0))
  return jax.jit(lambda x_P, x_len, m: make(x_P, x_len, m, i_B).tokens_L)


@functools.cache
def inputs_of(task, x, m):
  """3,000 inputs that hold x, given as text, m times."""
  x_P = jnp.array([ord(c) - 97 for c in x] + [0] * (task.x_max - len(x)))
  rows_BL = inputs_program(task)(x_P, jnp.int32(len(x)), jnp.int32(m))
  return [oracle.parse(row, task.order)['z'] for row in rows_BL.tolist()]


@pytest.mark.parametrize('x', ['a', 'b', 'aa', 'ab', 'bb'])
@pytest.mark.parametrize('m', [0, 1, 5, 6])
def test_two_letters_give_exactly_m(x, m):
  inputs = inputs_of(HOSTILE, x, m)
  assert {z.count(x) for z in inputs} == {m}
  assert len({len(z) for z in inputs}) == 1


@pytest.mark.parametrize('x', ['aba', 'aaa', 'aab', 'baa', 'bab'])
def test_patterns_that_overlap_themselves_give_exactly_m(x):
  task = dataclasses.replace(HOSTILE, x_max=3, matches=4)
  for m in (0, 1, 3, 4):
    assert {z.count(x) for z in inputs_of(task, x, m)} == {m}


def test_matches_may_overlap_a_counted_one_and_touch():
  task = dataclasses.replace(HOSTILE, x_max=3, matches=4)
  inputs = inputs_of(task, 'aba', 3)
  assert any('ababa' in z for z in inputs)  # the second is not counted
  assert any('abaaba' in z for z in inputs)


def test_places_are_uniform():
  # Two matches of two letters in seven: C(5, 2) = 10 ways to place them.
  task = Occurrences(x_min=2, x_max=2, alphabet=26, input_length=7, matches=3)
  places = [
    tuple(found.start() for found in re.finditer('ab', z))
    for z in inputs_of(task, 'ab', 2)
  ]
  counts = np.unique(places, axis=0, return_counts=True)[1]
  assert len(counts) == 10
  assert ((counts - 300) ** 2 / 300).sum() < 34  # 9 d.o.f., p = 1e-4


def test_letters_around_the_matches_are_free():
  task = Occurrences(x_min=2, x_max=2, alphabet=5, input_length=7, matches=3)
  rest = [z.replace('ab', '', 1) for z in inputs_of(task, 'ab', 1)]
  counts = np.bincount([ord(c) - 97 for z in rest for c in z], minlength=5)
  assert counts.sum() == 3000 * 5
  # A letter is 'a' a little less often: where b follows, it started a match.
  assert (counts / counts.sum()).min() > 0.15


def test_every_rule_meets_every_m():
  task = TASKS['plain']
  m_I = np.asarray(task.kind('all', jnp.arange(5 * 40 * 60)))
  assert (np.bincount(m_I) == [0] + [40 * 60] * 5).all()
  by_rule = m_I.reshape(60, 200)  # 200 rules in turn, a multiple of five
  assert min(len(set(own)) for own in by_rule.T) == 5


def config(**task):
  c = base_config('occurrences')
  c.data.examples, c.data.batch_size, c.data.epochs = 1001, 7, 1.0
  c.sweep.counts = (13,)
  c.task.matches, c.task.noops = 7, True
  c.sweep.noop_shares = (0.3,)
  c.sweep.variants = tuple(f'task.train_matches={m}' for m in ('1', '2|7', '1|3|5'))
  c.task.update(task)
  return c


def test_training_has_exact_numbers_of_each_m():
  made = build(freeze(config()))
  members = made.members(rows(made.run))

  @jax.jit
  @jax.vmap
  def count(member):
    j_B = jnp.arange(1001, dtype=jnp.int32)
    return made.data.by_index(member, j_B).slices['occurrences']

  counts = [np.bincount(own, minlength=8).tolist() for own in count(members)]
  assert counts[0] == [300, 701, 0, 0, 0, 0, 0, 0]
  assert sorted(counts[1], reverse=True) == [351, 350, 300, 0, 0, 0, 0, 0]
  assert counts[1][2] + counts[1][7] == 701
  assert sum(counts[2][m] for m in (1, 3, 5)) == 701
  assert max(counts[2][1:]) - min(counts[2][m] for m in (1, 3, 5)) <= 1


def test_variants_of_the_training_m_share_a_program():
  run = freeze(config())
  made = [build(run, text).data for text in run.sweep.variants]
  assert made[0] == made[1] == made[2]


def test_sets_tell_new_rules_from_new_numbers_of_matches():
  sets = TASKS['binary'].eval_sets(100, 10)
  found = {(s.split, s.label): (s.kind, s.examples) for s in sets}
  assert found['unseen', ''] == found['dev', ''] == ('even', 100)
  assert found['unseen', 'mix=train'] == found['seen', ''] == ('train', 100)
  assert found['seen', 'mix=all'] == ('even', 10)
  assert all(s.examples for s in TASKS['plain'].eval_sets(100, 0))


@pytest.mark.parametrize(
  ('task', 'said'),
  [
    ({'matches': 11}, 'make the input longer'),
    ({'matches': 0}, 'give 1 or more'),
    ({'train_matches': (1, 8)}, 'raise task.matches'),
    ({'train_matches': (1, 1)}, 'different numbers'),
    ({'train_matches': (0, 1)}, 'different numbers'),
    ({'alphabet': 1}, 'give 2 or more'),
  ],
)
def test_settings_that_cannot_work_are_refused(task, said):
  with pytest.raises(ConfigError, match=said):
    freeze(config(**task))
