import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from toys import DATA, member, trainer

from onlyif_jax.config import ConfigError, OptimConfig
from onlyif_jax.training import ensemble, optim, parallel
from onlyif_jax.training.parallel import StackProgram
from onlyif_jax.training.step import Trainer

# One step of a tiny model at fixed seeds. Change these only together with a commit
# message that says why the numbers must change (data, init, model or optimiser).
GOLDEN = {
  'loss': 186.26,
  'tokens': 63.0,
  'blocks/0/attention/out/kernel': 0.0104889,
  'blocks/0/attention/qkv/kernel': 0.115306,
  'blocks/0/mlp/down/kernel': 0.0405148,
  'blocks/0/mlp/up/kernel': 0.173271,
  'blocks/1/attention/out/kernel': 0.00966788,
  'blocks/1/attention/qkv/kernel': 0.109045,
  'blocks/1/mlp/down/kernel': 0.0413185,
  'blocks/1/mlp/up/kernel': 0.162019,
  'embed/embedding': 0.070019,
  'position/embedding': 0.114296,
}


@functools.cache
def program(mode='map', devices=1, **changes):
  """One compiled program for all the tests that can share it; stacks of two."""
  return StackProgram(trainer(**changes), parallel.make_mesh(devices), mode)


def stacked(one_program, *rows):
  return jax.device_put(ensemble.stack(list(rows)), one_program.sharding)


def run(one_program, rows, *chunks):
  members = stacked(one_program, *rows)
  state, losses = one_program.init(members), []
  for n in chunks:
    state, sums = one_program.train(members, state, jnp.int32(n))
    losses.append(jax.device_get(sums))
  return jax.device_get(state), losses


def equal(a, b):
  return all(
    np.array_equal(x, y)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
  )


class RawGradients(Trainer):
  """A trainer whose update keeps the gradients in place of the parameters."""

  def _update(self, member, state, grads, loss):
    return {**state, 'params': grads, 'step': state['step'] + 1}


def test_parts_of_a_batch_give_the_gradients_of_the_whole():
  # A batch of 8 with answers of different lengths: the shards' counts differ.
  eight = dataclasses.replace(DATA, plan=dataclasses.replace(DATA.plan, batch_size=8))
  own = trainer(eight, layers=1)
  one = member()
  found = []
  for parts, micro in ((1, 1), (4, 2)):
    raw = RawGradients(own.data, own.model, own.optim, micro)
    split = StackProgram(raw, parallel.make_mesh(1, parts), 'map')
    state, [sums] = run(split, [one], 1)
    found.append((state['params'], sums))
  g1, (loss1, count1, _) = found[0]
  batch = jax.jit(eight.train_batch)(one, jnp.int32(0))
  counts = np.asarray(batch.weights_BA).sum(1)
  assert len(set(counts)) > 2
  assert count1 == counts.sum()
  g, (loss, count, _) = found[1]
  assert count == count1
  np.testing.assert_allclose(loss1, loss, rtol=1e-5)
  for a, b in zip(jax.tree.leaves(g1), jax.tree.leaves(g), strict=True):
    assert np.abs(a).max() > 0
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * np.abs(a).max())


MESHES = [(2, 2), (2, 1), (1, 2), (4, 1), (1, 4), (8, 1), (1, 8), (2, 4)]


@functools.cache
def twenty_steps(members, parts):
  """(parameters, losses [20, M]) of eight members on a mesh of members x parts."""
  eight = dataclasses.replace(DATA, plan=dataclasses.replace(DATA.plan, batch_size=8))
  rows = [member(3 + m, init_seed=m, learning_rate=1e-3 * (m + 1)) for m in range(8)]
  split = StackProgram(
    trainer(eight, layers=1), parallel.make_mesh(members, parts), 'map'
  )
  state, sums = run(split, rows, *[1] * 20)
  return state['params'], np.array([loss / count for loss, count, _ in sums])


@pytest.mark.slow
@pytest.mark.parametrize(('members', 'parts'), MESHES)
def test_twenty_steps_are_the_same_on_any_number_of_devices(members, parts):
  (a, one), (b, many) = twenty_steps(1, 1), twenty_steps(members, parts)
  assert one.shape == many.shape == (20, 8)
  assert np.ptp(one[-1]) > 0.01  # the members differ
  np.testing.assert_allclose(one, many, rtol=1e-4)
  # As a whole: what has no gradient, as biases of keys, is moved by rounding alone.
  apart = optax.tree.norm(jax.tree.map(jnp.subtract, a, b))
  assert apart < 1e-4 * optax.tree.norm(a)


ROWS = member(11, learning_rate=1e-2), member(3, init_seed=1, learning_rate=3e-3)


def test_map_is_bit_equal_to_serial():
  state, [sums] = run(program('map'), ROWS, 5)
  serial_state, [serial_sums] = run(program('serial'), ROWS, 5)
  assert equal(state, serial_state)
  assert equal(sums, serial_sums)


@pytest.mark.slow
def test_companions_do_not_change_a_member():
  both, _ = run(program('map', devices=2), ROWS, 5)
  for m, row in enumerate(ROWS):
    alone, _ = run(program('map', devices=2), [row, row], 5)
    assert equal(ensemble.unstack(both, m), ensemble.unstack(alone, m))
    assert equal(ensemble.unstack(alone, 0), ensemble.unstack(alone, 1))


def test_vmap_is_close_to_map_after_twenty_steps():
  losses = [run(program(mode), ROWS, 20)[1][0][0] for mode in ('map', 'vmap')]
  np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)


def test_chunks_do_not_change_a_bit():
  whole, _ = run(program(), ROWS, 6)
  parts, _ = run(program(), ROWS, 1, 3, 2)
  assert equal(whole, parts)


def test_one_compile_serves_every_member_and_chunk(monkeypatch):
  run(program(), ROWS, 1)
  traces = []
  original = Trainer.step
  monkeypatch.setattr(
    Trainer, 'step', lambda *a, **k: traces.append(0) or original(*a, **k)
  )
  for rows, n in (
    (ROWS, 1),
    ([member(3, learning_rate=1e-4, rules_seed=4, order_seed=6)] * 2, 2),
    ([member(1, mask_instruction=True, fresh_rules=True, noops=5)] * 2, 3),
  ):
    run(program(), rows, n)
  assert not traces


def test_a_member_that_is_not_finite_stops_alone():
  rows = member(11, learning_rate=1e38), ROWS[1]
  state, [(loss, _, failed)] = run(program(), rows, 9)
  assert failed[0] >= 0
  assert failed[1] == -1
  assert np.isfinite(loss).all()
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state['params']))
  healthy, _ = run(program(), ROWS, 9)
  assert equal(ensemble.unstack(state, 1), ensemble.unstack(healthy, 1))


@pytest.mark.parametrize(
  'name', ['adamw', pytest.param('muon', marks=pytest.mark.slow)]
)
def test_training_learns_its_examples(name):
  own = program() if name == 'adamw' else program(name='muon', layers=1)
  _, [before, after] = run(own, [member(3, learning_rate=3e-2)] * 2, 12, 12)
  assert after[0][0] / after[1][0] < 0.9 * before[0][0] / before[1][0]


def test_golden_step():
  state, [(loss, count, _)] = run(program(), ROWS, 1)
  found = {'loss': float(loss[0]), 'tokens': float(count[0])}
  for path, leaf in jax.tree_util.tree_leaves_with_path(state['params']):
    name = '/'.join(str(k.key) for k in path)
    if name.endswith(('kernel', 'embedding')):
      found[name] = float(np.square(leaf[0]).sum())
  assert found == pytest.approx(GOLDEN, rel=1e-4)


def test_schedule_warms_up_then_falls_to_zero():
  rate = optim.schedule(OptimConfig(warmup=0.1), 50)
  values = np.array([float(rate(n)) for n in range(51)])
  assert values[0] > 0
  assert values.argmax() == 5
  assert values[5] == 1.0
  assert values[50] == 0.0
  np.testing.assert_allclose(np.diff(values[5:]), -1 / 45, rtol=1e-4)


def test_rate_is_traced_and_decay_spares_vectors():
  config = OptimConfig(weight_decay=0.5, warmup=0.0, schedule='constant')
  params = {'kernel': jnp.ones((3, 2)), 'bias': jnp.ones(5)}
  zero = jax.tree.map(jnp.zeros_like, params)

  @jax.jit
  def step(rate):
    tx = optim.optimizer(config, 10, rate)
    return optax.apply_updates(params, tx.update(zero, tx.init(params), params)[0])

  for rate in (0.1, 0.2):
    new = step(jnp.float32(rate))
    np.testing.assert_allclose(new['kernel'], 1 - rate * 0.5, rtol=1e-6)
    np.testing.assert_array_equal(new['bias'], 1.0)


def test_muon_takes_the_blocks_matrices_only():
  params = trainer().init(member())['params']
  chosen = jax.tree_util.tree_leaves_with_path(
    optim.muon_matrices(params),
    is_leaf=lambda v: v is None or isinstance(v, optax.contrib.MuonDimensionNumbers),
  )
  found = {'/'.join(str(k.key) for k in path) for path, leaf in chosen if leaf}
  inner = ('attention/qkv', 'attention/out', 'mlp/up', 'mlp/down')
  assert found == {f'blocks/{n}/{name}/kernel' for n in range(2) for name in inner}


def test_mesh_says_what_is_missing():
  with pytest.raises(ConfigError, match='needs 9 devices; there are 8'):
    parallel.make_mesh(3, 3)
