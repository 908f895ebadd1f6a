import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from toys import DATA, member, trainer

from onlyif_jax.config import ConfigError, OptimConfig
from onlyif_jax.training import ensemble, optim, parallel
from onlyif_jax.training.parallel import StackProgram

# One step of a tiny model at fixed seeds. Change these only together with a commit
# message that says why the numbers must change (data, init, model or optimiser).
GOLDEN_LOSS = None
EIGHT = dataclasses.replace(DATA, plan=dataclasses.replace(DATA.plan, batch_size=8))


def run(program, members, steps):
  state = program.init(members)
  state, sums = program.train(members, state, jnp.int32(steps))
  return jax.device_get(state), jax.device_get(sums)


def stacked(program, *rows):
  return jax.device_put(ensemble.stack(list(rows)), program.sharding)


def equal(a, b):
  return all(
    np.array_equal(x, y)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
  )


def test_eight_devices_give_the_gradients_of_one():
  # Answers differ in length, so the shards' token counts differ.
  train = trainer(EIGHT)
  one = member()
  params = train.init(one)['params']

  def gradients(parts):
    program = StackProgram(train, parallel.make_mesh(1, parts), 'map')
    seen = {}

    def keep(member, state, grads, loss):
      seen['loss'] = loss
      return {**state, 'params': grads, 'step': state['step'] + 1}

    patched = _WithUpdate(train.data, train.model, train.optim)
    object.__setattr__(patched, 'keep', keep)
    program = StackProgram(patched, parallel.make_mesh(1, parts), 'map')
    members = stacked(program, one)
    state = program.init(members)
    state, sums = program.train(members, state, jnp.int32(1))
    return jax.device_get(state['params']), jax.device_get(sums)

  (g1, sums1), (g8, sums8) = gradients(1), gradients(8)
  counts = np.asarray(jax.jit(EIGHT.train_batch)(one, jnp.int32(0)).weights_BA).sum(1)
  assert len(set(counts)) > 2
  assert sums1[1] == sums8[1] == counts.sum()
  np.testing.assert_allclose(sums1[0], sums8[0], rtol=1e-5)
  assert jax.tree.structure(g1) == jax.tree.structure(params)
  for a, b in zip(jax.tree.leaves(g1), jax.tree.leaves(g8), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * np.abs(a).max())


class _WithUpdate(type(trainer())):
  """A trainer whose update keeps the raw gradients in place of the parameters."""

  def _update(self, member, state, grads, loss):
    return self.keep(member, state, grads, loss)

  def __hash__(self):
    return id(self)


@pytest.mark.parametrize(('member_devices', 'mode'), [(1, 'map'), (3, 'map')])
def test_map_is_bit_equal_to_the_run_alone(member_devices, mode):
  train = trainer()
  rows = [member(11, init_seed=s, learning_rate=r) for s, r in ((0, 1e-2), (1, 3e-3))]
  rows.append(member(3, order_seed=2, permute_y=True))
  program = StackProgram(train, parallel.make_mesh(member_devices), mode)
  state, sums = run(program, stacked(program, *rows), 5)
  alone = StackProgram(train, parallel.make_mesh(1), 'serial')
  for m, row in enumerate(rows):
    own_state, own_sums = run(alone, stacked(alone, row), 5)
    assert equal(ensemble.unstack(state, m), ensemble.unstack(own_state, 0))
    assert equal(ensemble.unstack(sums, m), ensemble.unstack(own_sums, 0))


def test_vmap_is_close_to_map_after_twenty_steps():
  train = trainer()
  rows = [member(11, init_seed=s) for s in range(2)]
  programs = [StackProgram(train, parallel.make_mesh(1), m) for m in ('map', 'vmap')]
  losses = [run(p, stacked(p, *rows), 20)[1][0] for p in programs]
  np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)


def test_chunks_do_not_change_a_bit():
  program = StackProgram(trainer(), parallel.make_mesh(1), 'map')
  members = stacked(program, member())
  whole, _ = run(program, members, 6)
  state = program.init(members)
  for n in (1, 3, 2):
    state, _ = program.train(members, state, jnp.int32(n))
  assert equal(jax.device_get(state), whole)


def test_one_compile_serves_every_member_and_chunk(monkeypatch):
  train = trainer(name='muon', width=6, layers=1)
  program = StackProgram(train, parallel.make_mesh(1), 'map')
  traces = []
  original = type(train).step

  def counted(*args, **kwargs):
    traces.append(0)
    return original(*args, **kwargs)

  monkeypatch.setattr(type(train), 'step', counted)
  before = None
  for rows, n in (
    ([member(11, learning_rate=1e-2)], 1),
    ([member(3, learning_rate=1e-4, rules_seed=4, init_seed=5, order_seed=6)], 2),
    ([member(1, mask_instruction=True, fresh_rules=True)], 3),
  ):
    run(program, stacked(program, *rows), n)
    before = before or len(traces)
    assert len(traces) == before
  assert program.train._cache_size() == 1


def test_a_member_that_is_not_finite_stops_alone():
  program = StackProgram(trainer(), parallel.make_mesh(1), 'map')
  rows = member(11, learning_rate=1e38), member(11)
  members = stacked(program, *rows)
  state, (loss, count, failed) = run(program, members, 9)
  assert failed[0] >= 0
  assert failed[1] == -1
  assert np.isfinite(loss).all()
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state['params']))
  healthy, _ = run(program, stacked(program, rows[1], rows[1]), 9)
  assert equal(ensemble.unstack(state, 1), ensemble.unstack(healthy, 1))


@pytest.mark.parametrize('name', ['adamw', 'muon'])
def test_training_learns_its_examples(name):
  program = StackProgram(trainer(name=name), parallel.make_mesh(1), 'map')
  members = stacked(program, member(3, learning_rate=1e-2))
  state = program.init(members)
  losses = []
  for _ in range(2):
    state, (loss, count, _) = program.train(members, state, jnp.int32(12))
    losses.append(loss[0] / count[0])
  assert losses[1] < 0.9 * losses[0]


def test_golden_step():
  """Ten scalars of one step; re-bless only with the reason in the commit message."""
  program = StackProgram(trainer(), parallel.make_mesh(1), 'map')
  state, (loss, count, _) = run(program, stacked(program, member()), 1)
  found = {
    'loss': float(loss[0]),
    'tokens': float(count[0]),
    **{
      '/'.join(str(k.key) for k in path): float(np.square(leaf).sum())
      for path, leaf in jax.tree_util.tree_leaves_with_path(state['params'])
      if 'kernel' in str(path[-1]) or 'embedding' in str(path[-1])
    },
  }
  assert found == pytest.approx(GOLDEN, rel=1e-4)


GOLDEN: dict[str, float] = {}


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
  chosen = optim.muon_matrices(params)
  found = {
    '/'.join(str(getattr(k, 'key', k)) for k in path)
    for path, leaf in jax.tree_util.tree_leaves_with_path(chosen)
    if leaf is not None
  }
  inner = ('attention/qkv', 'attention/out', 'mlp/up', 'mlp/down')
  names = {f'blocks/{n}/{name}/kernel' for n in range(2) for name in inner}
  assert {
    name.rsplit('/', 1)[0] if name.endswith(']') else name for name in found
  } >= set()
  assert {n for n in found if n.split('/kernel')[0] + '/kernel' in names} == found
  assert len({n.split('/kernel')[0] for n in found}) == len(names)


def test_mesh_says_what_is_missing():
  with pytest.raises(ConfigError, match='needs 9 devices; there are 8'):
    parallel.make_mesh(3, 3)
