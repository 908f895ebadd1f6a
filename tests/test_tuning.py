"""The step of fine-tuning: loss, accumulation, packing, meshes."""

import dataclasses
import functools

import decoders
import jax
import numpy as np
import pytest

from onlyif_jax.config import ConfigError, OptimConfig
from onlyif_jax.models import llama, lora
from onlyif_jax.training import placement, tuning
from onlyif_jax.training.tuning import TuneStep
from onlyif_jax.tuning_settings import DevicesConfig, LoraConfig

CONFIG = llama.DecoderConfig(
  vocab_size=31,
  max_length=23,
  layers=2,
  width=16,
  hidden=24,
  heads=4,
  kv_heads=2,
  head_width=4,
)
OPTIM = OptimConfig(learning_rate=1e-2, warmup=0.0)
LORA = LoraConfig(rank=3, alpha=5.0)


def batch(rows=8, length=13, seed=0):
  """Rows of one or two segments of different lengths, some padded."""
  rng = np.random.default_rng(seed)
  out = {
    'tokens': rng.integers(0, 31, (rows, length)).astype(np.int32),
    'weights': (rng.random((rows, length)) < 0.6).astype(np.float32),
    'segments': np.zeros((rows, length), np.int32),
    'positions': np.zeros((rows, length), np.int32),
  }
  for b in range(rows):
    first, end = 3 + b % 4, length - b % 3
    out['segments'][b, :first], out['segments'][b, first:end] = 1, 2
    out['positions'][b, :first] = np.arange(first)
    out['positions'][b, first:end] = np.arange(end - first)
    out['weights'][b, [0, first]] = 0
    out['weights'][b, end:] = 0
  return out


@functools.cache
def parts(settings=LORA, quantize='none'):
  params = decoders.params(CONFIG)
  return lora.adapt(CONFIG, params, settings, quantize, jax.random.key(1))


@functools.cache
def compiled(tune, settings, quantize):
  """The step as a plain jit, which donates nothing: the parts are shared by the tests."""
  definitions = parts(settings, quantize)
  return jax.jit(lambda *state_and_more: tune.step(definitions, *state_and_more))


def run(tune, batches, settings=LORA, quantize='none', mesh=None, steps=5, seed=0):
  """The state after some steps, and their (loss, count)."""
  step, whole = compiled(tune, settings, quantize), parts(settings, quantize)
  state, frozen = tune.init(whole.trained), whole.frozen
  if mesh is not None:
    state = jax.device_put(state, placement.place(mesh, state))
    frozen = jax.device_put(frozen, placement.place(mesh, frozen))
    batches = [jax.device_put(b, placement.batch(mesh)) for b in batches]
  sums = []
  for rows, rate in zip(batches, tune.rates(steps), strict=False):
    state, step_sums = step(state, frozen, rows, rate, seed)
    sums.append([float(v) for v in step_sums])
  return state, np.array(sums)


def close(a, b, **tolerance):
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), a, b)


@functools.cache
def measure():
  """The compiled function of a batch -> (sums, logits)."""
  made = parts()

  @jax.jit
  def both(rows):
    model = made.merge()
    places = {'positions_BL': rows['positions'], 'segments_BL': rows['segments']}
    return tuning.sums(model, rows), model(rows['tokens'], **places)

  return both


def test_the_loss_is_that_of_plain_numpy():
  one = batch()
  got, logits_BLV = jax.device_get(measure()(one))
  logits_BLV = logits_BLV.astype(np.float64)
  loss, right, count = 0.0, 0, 0
  for b in range(8):
    for t in range(1, 13):
      if one['weights'][b, t]:
        row = logits_BLV[b, t - 1]
        loss += np.log(np.exp(row - row.max()).sum()) + row.max()
        loss -= row[one['tokens'][b, t]]
        right += row.argmax() == one['tokens'][b, t]
        count += 1
  np.testing.assert_allclose(got, [loss, right, count], rtol=1e-5)


def test_packed_rows_have_the_loss_of_rows_alone():
  one = batch()
  packed = jax.device_get(measure()(one)[0])
  alone = np.zeros(3)
  for b in range(8):
    for segment in (1, 2):
      inside = np.flatnonzero(one['segments'][b] == segment)
      line = {k: np.zeros((1, 13), v.dtype) for k, v in one.items()}
      for name in line:
        line[name][0, : len(inside)] = one[name][b, inside]
      line['segments'][0, : len(inside)] = 1
      alone += jax.device_get(measure()(line)[0])
  np.testing.assert_allclose(packed, alone, rtol=1e-5)


def test_parts_of_a_batch_give_the_same_step():
  batches = [batch(seed=n) for n in range(2)]
  whole, sums = run(TuneStep(OPTIM), batches)
  split, split_sums = run(TuneStep(OPTIM, micro_batches=4), batches)
  np.testing.assert_allclose(split_sums, sums, rtol=1e-5)
  close(split['trained'], whole['trained'], rtol=1e-3, atol=2e-5)


MESHES = [
  (2, 2, 2),
  *(pytest.param(m, marks=pytest.mark.slow) for m in [(8, 1, 1), (1, 4, 2)]),
]


@pytest.mark.parametrize('settings', [LORA, LoraConfig()])
@pytest.mark.parametrize('shape', MESHES)
def test_meshes_of_eight_devices_give_the_step_of_one(shape, settings):
  # AdamW's weights would hide a gradient that is too large, its moments show it.
  batches = [batch(seed=n) for n in range(2)]
  alone, sums = run(TuneStep(OPTIM), batches, settings)
  mesh = placement.make_mesh(DevicesConfig(*shape))
  spread, spread_sums = run(TuneStep(OPTIM), batches, settings, mesh=mesh)
  np.testing.assert_allclose(spread_sums, sums, rtol=1e-4)
  moments = (jax.device_get(state['opt']) for state in (spread, alone))
  close(*moments, rtol=2e-2, atol=1e-5)


def test_weights_lie_in_parts_on_the_mesh():
  mesh = placement.make_mesh(DevicesConfig(1, 4, 2))
  tree = jax.device_put(
    decoders.params(CONFIG), placement.place(mesh, decoders.params(CONFIG))
  )
  attention = tree['layers'][0]['self_attn']
  assert attention['q_proj']['kernel'].sharding.shard_shape((16, 16)) == (4, 8)
  assert attention['o_proj']['kernel'].sharding.shard_shape((16, 16)) == (8, 4)
  assert tree['embed_tokens']['embedding'].sharding.shard_shape((31, 16)) == (31, 4)
  assert tree['norm']['scale'].sharding.is_fully_replicated


def test_only_adapters_change_and_the_loss_falls():
  one = batch()
  state, sums = run(TuneStep(OPTIM), [one] * 12, steps=12)
  means = sums[:, 0] / sums[:, 1]
  assert means[-1] < 0.9 * means[0]
  assert jax.tree.structure(state['trained']) == jax.tree.structure(parts().trained)


def test_int8_bases_learn_too():
  one = batch()
  _, sums = run(TuneStep(OPTIM), [one] * 12, quantize='int8', steps=12)
  means = sums[:, 0] / sums[:, 1]
  assert means[-1] < 0.9 * means[0]


def test_the_dropout_of_a_step_depends_on_seed_and_step_alone():
  noisy = dataclasses.replace(LORA, dropout=0.5)
  batches = [batch()] * 3
  first, sums = run(TuneStep(OPTIM), batches, noisy, seed=1)
  again, same = run(TuneStep(OPTIM), batches, noisy, seed=1)
  _, other = run(TuneStep(OPTIM), batches, noisy, seed=2)
  np.testing.assert_array_equal(sums, same)
  close(first['trained'], again['trained'], rtol=0)
  assert (sums[1:] != other[1:]).any()


def test_too_many_devices_are_refused():
  with pytest.raises(ConfigError, match='= 16 devices; there are 8'):
    placement.make_mesh(DevicesConfig(4, 2, 2))
  with pytest.raises(ConfigError, match='at least 1'):
    placement.make_mesh(DevicesConfig(0, 2, 2))
