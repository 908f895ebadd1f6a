import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest

from onlyif_jax.tasks.rewrite import Kind, Rewrite, trace
from onlyif_jax.tasks.rules import Part, RuleSpace


def spaces(task, **kwargs):
  fields = ('alphabet', 'x_min', 'x_max', 'y_min', 'y_max')
  return RuleSpace(**{k: getattr(task, k) for k in fields}, **kwargs)


def check(task, count, seed=0):
  """Every example equals the oracle; returns slices for further checks."""
  space = spaces(task)
  capacity = space.capacity(Part.TRAIN)

  @jax.jit
  def make(start):
    i = start + jnp.arange(1000, dtype=jnp.int32)
    kinds = i % 3 if task.noops else jnp.zeros_like(i)

    def one(i, kind):
      rule = space.rule(seed, Part.TRAIN, i % capacity)
      return task.example(rule, jax.random.fold_in(jax.random.key(seed), i), kind=kind)

    return jax.vmap(one)(i, kinds), kinds

  kinds_seen = []
  for start in range(0, count, 1000):
    examples, kinds = jax.device_get(make(start))
    for b in range(1000):
      check_one(task, jax.tree.map(lambda v, b=b: v[b], examples), kinds[b])
    kinds_seen.append(kinds)
  return np.concatenate(kinds_seen)


def check_one(task, example, kind):
  row = example.tokens_L.tolist()
  parts = oracle.parse(row, task.order)
  x, y, z, out = parts['x'], parts['y'], parts['z'], parts['out']
  assert out == oracle.rewrite(x, y, z)
  assert len(z) == task.input_length
  assert (x in z) == (kind == Kind.HAS_OP)
  assert example.slices['noop'] == (x not in z)
  assert example.slices['occurrences'] == oracle.occurrences(x, z)
  assert example.slices['pattern_length'] == len(x)
  assert example.slices['near_miss'] == oracle.near(x, z)
  start, length = int(example.answer_start), int(example.answer_len)
  assert row[start - 1] == 2
  assert start + length == row.index(1) + 1
  assert length == len(out) + 1
  at = z.find(x)
  inserted = set(range(at, at + len(y))) if at >= 0 else set()
  assert set(np.flatnonzero(example.inserted_A)) == inserted


TASKS = {
  'fixed': Rewrite(alphabet=5, x_min=3, x_max=3, y_min=3, y_max=3, input_length=11),
  'ranged': Rewrite(
    alphabet=7, x_min=2, x_max=5, y_min=1, y_max=8, input_length=13, noops=True
  ),
  # Two letters and long patterns: matches everywhere, and repairs are needed.
  'binary': Rewrite(
    alphabet=2, x_min=1, x_max=3, y_min=2, y_max=6, input_length=17, noops=True
  ),
  'whole': Rewrite(
    alphabet=3, x_min=7, x_max=7, y_min=2, y_max=2, input_length=7, order='zxy'
  ),
}


QUICK = [
  pytest.param(name, marks=pytest.mark.slow) if name == 'binary' else name
  for name in TASKS
]


@pytest.mark.parametrize('name', QUICK)
def test_examples_equal_the_oracle(name):
  check(TASKS[name], 3000)


@pytest.mark.slow
@pytest.mark.parametrize('name', TASKS)
def test_a_million_examples_equal_the_oracle(name):
  check(TASKS[name], 250_000, seed=5)


def test_a_papers_worked_example():
  # Three more stand in the module's docstring.
  assert trace('mississipi', 'ss', 'tr') == 'mitrissipi'


def test_places_are_uniform_and_the_rest_is_free():
  task = Rewrite(alphabet=26, x_min=3, x_max=3, y_min=3, y_max=3, input_length=11)
  space = spaces(task)

  def place(i):
    rule = space.rule(0, Part.TRAIN, i)
    example = task.example(rule, jax.random.fold_in(jax.random.key(1), i))
    return jnp.argmax(example.inserted_A)

  places = jax.jit(jax.vmap(place))(jnp.arange(9000))
  counts = np.bincount(np.asarray(places), minlength=9)
  assert len(counts) == 9
  assert ((counts - 1000) ** 2 / 1000).sum() < 30  # 8 d.o.f., p = 2e-4


def test_near_misses_are_near():
  task = dataclasses.replace(TASKS['ranged'], alphabet=26, x_min=3, x_max=5)
  space = spaces(task)

  def near(i):
    rule = space.rule(0, Part.TRAIN, i)
    key = jax.random.fold_in(jax.random.key(1), i)
    example = task.example(rule, key, kind=jnp.int32(Kind.NEAR_MISS))
    return example.slices['near_miss']

  assert np.asarray(jax.jit(jax.vmap(near))(jnp.arange(500))).mean() > 0.99


def test_shown_rule_changes_the_prompt_only():
  task = TASKS['fixed']
  space = spaces(task)

  @jax.jit
  def make():
    rule, other = (space.rule(0, Part.TRAIN, i) for i in (3, 4))
    key = jax.random.key(0)
    lying = task.example(rule, key, shown=rule._replace(y_Q=other.y_Q))
    return task.example(rule, key), lying

  plain, lying = jax.device_get(make())
  a, b = (oracle.parse(e.tokens_L.tolist()) for e in (plain, lying))
  assert a['y'] != b['y']
  assert {**a, 'y': ''} == {**b, 'y': ''}
