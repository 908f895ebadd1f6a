"""Decoders: who sees whom under packing, padding, windows and caches; switches."""

import dataclasses
import functools

import decoders
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from decoders import GROUPED, LEARNED
from flax import nnx

from onlyif_jax.models import attention, llama, rope
from onlyif_jax.models.rope import Rope

L = 17
BOTH = pytest.mark.parametrize('config', [GROUPED, LEARNED], ids=['grouped', 'learned'])
TOKENS = decoders.tokens(1, 3, L)


@functools.cache
def plain(config):
  return decoders.logits(config, TOKENS)


def close(got, want, tolerance=1e-5):
  assert np.abs(want).max() > 1
  np.testing.assert_allclose(got, want, rtol=0, atol=tolerance)


def keyed(config, **fields):
  return dataclasses.replace(config, **fields)


@BOTH
def test_packed_rows_equal_rows_of_their_own(config):
  lengths = (5, 3, 7)  # and 2 of padding
  segments_L = np.repeat([1, 2, 3, 0], [*lengths, 2])
  packed_L = np.concatenate([TOKENS[n, :size] for n, size in enumerate(lengths)])
  packed_BL = np.pad(packed_L, (0, 2), constant_values=36)[None]
  got = decoders.logits(config, packed_BL, segments_BL=segments_L[None])[0]
  start = 0
  for n, size in enumerate(lengths):
    close(got[start : start + size], plain(config)[n, :size])
    start += size


def test_positions_default_to_those_within_the_segment():
  segments_BL = jnp.asarray([[1, 1, 2, 2, 2, 0, 0], [0, 0, 1, 1, 1, 1, 1]])
  want = [[0, 1, 0, 1, 2, 0, 1], [0, 1, 0, 1, 2, 3, 4]]
  np.testing.assert_array_equal(attention.positions(segments_BL, 7), want)
  np.testing.assert_array_equal(attention.positions(None, 3), [[0, 1, 2]])


@BOTH
@pytest.mark.parametrize('side', ['left', 'right'])
def test_padding_changes_no_real_token(config, side):
  lengths_B = np.array([L, 2, 11])
  index_L = np.arange(L)[:: -1 if side == 'left' else 1]
  real_BL = index_L[None] < lengths_B[:, None]
  padded_BL = np.full((3, L), 36)
  for n, size in enumerate(lengths_B):
    padded_BL[n, real_BL[n]] = TOKENS[n, :size]
  got = decoders.logits(config, padded_BL, segments_BL=real_BL)
  assert np.isfinite(got).all()
  for n, size in enumerate(lengths_B):
    close(got[n, real_BL[n]], plain(config)[n, :size])


def test_a_token_sees_its_window_and_nothing_later():
  """Layer 1 has the window 5 and layer 0 none; with window_from=0 all have it."""
  all_layers = keyed(GROUPED, window_from=0, layers=1)
  for config, reach in ((all_layers, 5), (keyed(GROUPED, layers=1), L)):
    before = decoders.logits(config, TOKENS)
    place = 4
    changed_BL = TOKENS.copy()
    changed_BL[:, place] = (changed_BL[:, place] + 1) % 37
    moved_L = np.abs(decoders.logits(config, changed_BL) - before).max((0, 2))
    within = np.arange(L) - place
    assert (moved_L[(within < 0) | (within >= reach)] == 0).all()
    assert (moved_L[(within >= 0) & (within < reach)] > 1e-4).all()


@BOTH
def test_answer_places_equal_those_of_the_full_logits(config):
  at_BA = np.array([[0, 3, 16, 5], [9, 9, 2, 1], [15, 14, 13, 12]])
  real_BL = np.arange(L)[None] >= np.array([0, 1, 12])[:, None]
  want = decoders.logits(config, TOKENS, segments_BL=real_BL)
  got = decoders.logits(config, TOKENS, segments_BL=real_BL, answer_BA=at_BA)
  close(got, np.take_along_axis(want, at_BA[:, :, None], 1))
  close(
    decoders.logits(config, TOKENS, answer_BA=at_BA),
    np.take_along_axis(plain(config), at_BA[:, :, None], 1),
  )


@BOTH
def test_a_cache_gives_the_logits_of_the_whole(config):
  """First some tokens at once, left-padded, then one, then the others."""
  net = decoders.compiled(config)
  values, pads_B = decoders.params(config), np.array([0, 6, 3])
  real_BL = np.arange(L)[None] >= pads_B[:, None]
  positions_BL = np.maximum(np.arange(L)[None] - pads_B[:, None], 0)
  want = decoders.logits(config, TOKENS, segments_BL=real_BL)
  cache = attention.empty_cache(config, 3, L + 2)
  for part in (slice(0, 9), slice(9, 10), slice(10, L)):
    last_B1 = jnp.full((3, 1), part.stop - part.start - 1)
    more = {'segments_BL': jnp.asarray(real_BL[:, part], jnp.int32)}
    if part.start == 10:  # real tokens are the default
      more = {}
    if part.start == 0:
      more['answer_BA'] = last_B1
    got, cache = net(
      values,
      jnp.asarray(TOKENS[:, part]),
      positions_BL=jnp.asarray(positions_BL[:, part], jnp.int32),
      cache=cache,
      **more,
    )
    wanted = want[:, 8:9] if part.start == 0 else want[:, part]
    close(got, wanted)
  assert int(cache.used) == L
  with pytest.raises(ValueError, match='positions_BL must be given'):
    net(values, jnp.asarray(TOKENS), cache=cache)


def test_recomputed_layers_give_the_same_gradients():
  found = []
  for remat in (False, True):
    config = keyed(GROUPED, remat=remat, layers=1, dropout=0.2)
    net = decoders.compiled(config)
    keys = jax.random.split(jax.random.key(3), 3)

    def loss(params, net=net, keys=keys):
      segments_BL = jnp.asarray(np.repeat([[1, 2]], [5, L - 5], axis=1).repeat(3, 0))
      logits = net(params, jnp.asarray(TOKENS), segments_BL=segments_BL, key=keys)
      return jnp.square(logits).mean()

    values = decoders.params(config)
    gradient = jax.jit(jax.grad(loss)).trace(values)
    assert ('remat' in str(gradient.jaxpr)) == remat
    found.append(gradient.lower().compile()(values))
  for a, b in zip(*map(jax.tree.leaves, found), strict=True):
    assert np.abs(a).max() > 0
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6 * np.abs(a).max())


def test_dropout_follows_its_key_and_is_off_without():
  config = keyed(LEARNED, dropout=0.3, layers=1)
  net, values = decoders.compiled(config), decoders.params(config)
  keys = {k: jax.random.split(jax.random.key(k), 3) for k in (1, 2)}
  one, same, two = (net(values, TOKENS, key=keys[k]) for k in (1, 1, 2))
  np.testing.assert_array_equal(one, same)
  assert np.abs(one - two).max() > 1e-2
  off = keyed(config, dropout=0.0)
  np.testing.assert_array_equal(net(values, TOKENS), decoders.logits(off, TOKENS))
  half = net(values, TOKENS[1:], key=keys[1][1:])
  np.testing.assert_allclose(half, one[1:], rtol=1e-4, atol=1e-4)


def test_dropout_acts_on_the_embedding_and_on_both_residuals():
  """Without a part of the layer the other places still move its output."""
  config = keyed(LEARNED, dropout=0.3, layers=1)
  x_BLD = jnp.asarray(np.random.default_rng(1).normal(size=(3, L, 18)), jnp.float32)
  key = jax.random.split(jax.random.key(1), 3)
  for part, layer in (('self_attn', 'o_proj'), ('mlp', 'down_proj')):
    values = jax.tree.map(lambda x: x, decoders.params(config))
    values['layers'][0][part][layer] = jax.tree.map(
      jnp.zeros_like, values['layers'][0][part][layer]
    )
    block = llama.merge(llama.graphdef(config), values).layers[0]
    run = jax.jit(lambda k, block=block: block(x_BLD, (None, (None, None)), key=k)[0])
    y, dropped = run(None), run(key)
    assert 0.1 < ((dropped - x_BLD) == 0).mean() < 0.5
    assert np.abs(y - dropped).max() > 0.1
  model = llama.merge(llama.graphdef(config), decoders.params(config))
  model.layers = nnx.List([])
  run = jax.jit(lambda k: model(TOKENS, key=k))
  assert np.abs(run(None) - run(key)).max() > 0.1


@BOTH
def test_bfloat16_stays_near_float32(config):
  half = keyed(config, compute_dtype='bfloat16')
  got = decoders.logits(half, TOKENS)
  assert got.dtype == np.float32
  scale = np.abs(plain(config)).max()
  assert 1e-4 < np.abs(got - plain(config)).max() / scale < 0.1
  # The head adds in float32: its sums are not rounded to bfloat16.
  assert (got != got.astype(jnp.bfloat16).astype(np.float32)).mean() > 0.5
  assert attention.empty_cache(half, 1, 2).k[0].dtype == jnp.bfloat16


def test_rope_rates_by_hand():
  """Wavelengths below 23 / 3 stay, above 23 / 1 are stretched by 5, between: mixed."""
  base = 100.0 ** -(np.arange(5) / 5)
  np.testing.assert_allclose(rope.rates(Rope(100.0), 10), base, rtol=1e-6)
  linear = rope.rates(Rope(100.0, 'linear', 4.0), 10)
  np.testing.assert_allclose(linear, base / 4, rtol=1e-6)
  wavelength = 2 * np.pi / base
  np.testing.assert_allclose(wavelength[:4], [6.28, 15.8, 39.6, 99.6], rtol=1e-2)
  mix = (23 / wavelength[1] - 1) / (3 - 1)
  want = [base[0], (mix + (1 - mix) / 5) * base[1], *base[2:] / 5]
  got = rope.rates(Rope(100.0, 'llama3', 5.0, 1.0, 3.0, 23), 10)
  np.testing.assert_allclose(got, want, rtol=1e-6)
  assert got.dtype == np.float32
  with pytest.raises(ValueError, match="'yarn' is none of"):
    rope.rates(Rope(kind='yarn'), 10)


def test_cudnn_is_asked_for_what_it_can_do_only():
  def may(platform='gpu', dtype=jnp.bfloat16, q=(2, 6, 4, 64), keys=6, masked=True):
    return attention.cudnn_may(platform, dtype, q, keys, masked)

  assert may()
  assert may(q=(2, 7, 4, 64), keys=7, masked=False)
  assert not may(q=(2, 7, 4, 64), keys=7)
  assert not may(platform='cpu')
  assert not may(dtype=jnp.float32)
  assert not may(q=(2, 6, 4, 68))
  assert not may(q=(2, 6, 4, 256))
  assert not may(q=(2, 1, 4, 64))


def test_initial_values_and_names():
  sizes = {'vocab_size': 211, 'width': 64, 'layers': 1}
  config = keyed(GROUPED, **sizes, out_bias=True, mlp_bias=True)
  values = llama.init(config, jax.random.key(7))
  shapes = jax.tree.map(lambda x: x.shape, llama.shapes(config))
  assert jax.tree.map(lambda x: x.shape, values) == shapes
  for path, leaf in jax.tree_util.tree_leaves_with_path(values):
    name = path[-1].key
    assert leaf.dtype == jnp.float32
    if name in ('scale', 'bias'):
      assert (leaf == (name == 'scale')).all()
    else:
      # A standard deviation from n values scatters by 1 / sqrt(2 n).
      assert abs(leaf.std() / 0.02 - 1) < 4 / (2 * leaf.size) ** 0.5, path
  assert set(values) == {'embed_tokens', 'layers', 'norm', 'lm_head'}
  assert set(values['layers'][0]['self_attn']) == {
    *('q_proj', 'k_proj', 'v_proj', 'o_proj')
  }
  assert set(values['layers'][0]['mlp']) == {'gate_proj', 'up_proj', 'down_proj'}
  assert set(decoders.params(LEARNED)) == {
    *('embed_tokens', 'embed_positions', 'layers', 'norm')
  }
