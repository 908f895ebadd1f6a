"""GPT-2: causality, answer positions, hand-written gradients, initial values."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from onlyif_jax.models import layers
from onlyif_jax.models.gpt2 import GPT2, GPT2Config

B, L, A, V = 3, 11, 5, 17


def config(**more):
  sizes = {'vocab_size': V, 'max_length': 13, 'layers': 2, 'width': 28, 'heads': 2}
  return GPT2Config(**(sizes | more))


@functools.cache
def model(**more):
  """A model whose attention and biases matter: parameters far from their start."""
  graphdef, params = start(config(**more))
  return graphdef, jax.tree.map(lambda p: 4 * p + 0.03, params)


def start(config):
  """(graphdef, initial parameters), made by one compiled program."""

  def split():
    graphdef, params = nnx.split(GPT2(config, rngs=nnx.Rngs(7)), nnx.Param)
    graphdefs.append(graphdef)
    return nnx.to_pure_dict(params)

  graphdefs = []
  params = jax.jit(split)()
  return graphdefs[0], params


def apply(net):
  """The network as a compiled function: quicker than its operations one by one."""
  graphdef, params = nnx.split(net)
  return jax.jit(
    lambda tokens_BL, **more: nnx.merge(graphdef, params)(tokens_BL, **more)
  )


def draw(seed, *shape):
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def batch(seed=0):
  r = np.random.default_rng(seed)
  answer_BA = np.sort(r.permuted(np.tile(np.arange(L), (B, 1)), axis=1)[:, :A])
  return jnp.asarray(r.integers(0, V, (B, L))), jnp.asarray(answer_BA)


def close(got, want, tolerance=1e-5):
  """Every leaf agrees relative to the largest value of the wanted leaf."""

  def leaf(got, want):
    got, want = (np.asarray(x, np.float32) for x in (got, want))
    assert got.shape == want.shape
    bound = tolerance * max(1e-3, np.abs(want).max())
    np.testing.assert_allclose(got, want, rtol=0, atol=bound)

  jax.tree.map(leaf, got, want)


@pytest.mark.parametrize('positions', ['learned', 'rotary'])
def test_outputs_depend_on_no_later_token(positions):
  graphdef, params = model(positions=positions)
  net = nnx.merge(graphdef, params)
  tokens_BL, _ = batch()

  def block_outputs(x_LD):
    for block in net.blocks:
      x_LD = block(x_LD[None], None)[0][0]
    return layers.layer_norm(net.norm, x_LD)

  x_LD = net.embed(tokens_BL)[0]
  weight_D = draw(1, x_LD.shape[1])
  jacobian = jax.jacrev(lambda x_LD: block_outputs(x_LD) @ weight_D)
  per_position = jax.jit(jacobian)(x_LD)
  reach_LL = np.abs(per_position).max(-1)
  assert (reach_LL[np.triu_indices(L, 1)] == 0).all()
  assert (reach_LL[np.tril_indices(L)] > 1e-6).all()


@pytest.mark.parametrize(
  ('positions', 'masked', 'given'),
  [
    ('learned', False, False),
    pytest.param('rotary', False, False, marks=pytest.mark.slow),
    ('rotary', True, True),
  ],
)
def test_answer_positions_equal_those_of_the_full_logits(positions, masked, given):
  graphdef, params = model(positions=positions)
  tokens_BL, answer_BA = batch()
  more = {}
  if given:
    more['positions_BL'] = jnp.tile(jnp.arange(L), (B, 1))
  if masked:
    kept = np.random.default_rng(3).random((B, L, L)) < 0.6
    more['mask'] = jnp.asarray(kept | np.eye(L, dtype=bool))
  weight_BAV = draw(2, B, A, V)

  def some(params):
    logits = nnx.merge(graphdef, params)(tokens_BL, answer_BA=answer_BA, **more)
    return (logits * weight_BAV).sum(), logits

  def full(params):
    logits = nnx.merge(graphdef, params)(tokens_BL, **more)
    logits = jnp.take_along_axis(logits, answer_BA[:, :, None], 1)
    return (logits * weight_BAV).sum(), logits

  gradient = functools.partial(jax.value_and_grad, has_aux=True)
  (_, got), got_grads = jax.jit(gradient(some))(params)
  (_, want), want_grads = jax.jit(gradient(full))(params)
  close(got, want)
  close(got_grads, want_grads)


@pytest.mark.parametrize('positions', ['learned', 'rotary'])
def test_given_positions_replace_the_indices(positions):
  tokens_BL, _ = batch()
  index_BL = jnp.tile(jnp.arange(L), (B, 1))
  net = apply(nnx.merge(*model(positions=positions, layers=1)))
  default = net(tokens_BL)
  close(net(tokens_BL, positions_BL=index_BL), default)
  # Rotary attention sees distances, so all positions may move, learned ones not.
  causal = jnp.tile(jnp.tri(L, dtype=bool), (B, 1, 1))
  moved = net(tokens_BL, positions_BL=index_BL + 2, mask=causal)
  if positions == 'rotary':
    close(moved, default)
    spread = net(tokens_BL, positions_BL=index_BL * 2, mask=causal)
    assert np.abs(spread - default).max() > 1e-2
  else:
    assert np.abs(moved - default).max() > 1e-2


def test_mask_narrows_attention():
  net = apply(nnx.merge(*model(layers=1)))
  tokens_BL, _ = batch()
  everything = np.ones((B, L, L), bool)
  close(net(tokens_BL, mask=jnp.asarray(everything)), net(tokens_BL), 1e-7)
  everything[:, :, 2] = False
  everything[:, 2, 2] = True
  hidden = jnp.asarray(everything)
  changed_BL = tokens_BL.at[:, 2].set((tokens_BL[:, 2] + 1) % V)
  before, after = (net(t_BL, mask=hidden) for t_BL in (tokens_BL, changed_BL))
  other = np.arange(L) != 2
  np.testing.assert_array_equal(before[:, other], after[:, other])
  moved = np.abs(net(changed_BL) - net(tokens_BL)).max((0, 2))
  assert (moved[2:] > 1e-4).all()
  assert (moved[:2] == 0).all()


def test_dropout_follows_its_key_and_is_off_without():
  graphdef, params = model(layers=1, dropout=0.3)
  net, plain = apply(nnx.merge(graphdef, params)), apply(nnx.merge(*model(layers=1)))
  tokens_BL, _ = batch()
  rows = len(tokens_BL)
  keys = {k: jax.random.split(jax.random.key(k), rows) for k in (1, 2)}
  one, same, two = (net(tokens_BL, key=keys[k]) for k in (1, 1, 2))
  np.testing.assert_array_equal(one, same)
  assert np.abs(one - two).max() > 1e-2
  np.testing.assert_array_equal(net(tokens_BL), plain(tokens_BL))
  np.testing.assert_array_equal(plain(tokens_BL, key=keys[1]), plain(tokens_BL))
  # A row's mask is its own: it does not depend on the rows beside it.
  half = net(tokens_BL[1:], key=keys[1][1:])
  np.testing.assert_allclose(half, one[1:], rtol=1e-5, atol=1e-6)
  block = nnx.merge(graphdef, params).blocks[0]
  x_BLD = draw(16, B, L, 28)
  kept, dropped = (block(x_BLD, None, key=k)[0] for k in (None, keys[1]))
  assert np.abs(kept - dropped).max() > 1e-2


def test_initial_values():
  sizes = {'vocab_size': 211, 'max_length': 97, 'layers': 3, 'width': 64, 'heads': 4}
  _, params = start(GPT2Config(**sizes))
  paths = jax.tree_util.tree_leaves_with_path(params)
  for path, leaf in paths:
    names = [str(getattr(k, 'key', k)) for k in path]
    if names[-1] == 'scale':
      assert (leaf == 1).all()
    elif names[-1] == 'bias':
      assert (leaf == 0).all()
    else:
      residual = names[-2] in ('out', 'down')
      want = 0.02 / 6**0.5 if residual else 0.02  # two branches in each of 3 layers
      # A standard deviation from n values scatters by 1 / sqrt(2 n).
      assert abs(leaf.std() / want - 1) < 4 / (2 * leaf.size) ** 0.5, names
      assert abs(leaf.mean()) < 4 * want / leaf.size**0.5, names
  assert len(paths) == 2 + 3 * 12 + 2


# The plain forms, as one would write them, against the hand-written gradients.


def plain_affine(x, kernel, bias):
  return jnp.einsum('...i,io->...o', x, kernel) + bias


def plain_norm(x, scale, bias):
  centred = x - jnp.mean(x, -1, keepdims=True)
  variance = jnp.mean(centred**2, -1, keepdims=True)
  return centred / jnp.sqrt(variance + 1e-5) * scale + bias


def plain_rotate(x_BLHK, cos_BLK, sin_BLK):
  half = x_BLHK.shape[-1] // 2
  z = jax.lax.complex(x_BLHK[..., :half], x_BLHK[..., half:])
  z = z * jax.lax.complex(cos_BLK, sin_BLK)[:, :, None]
  return jnp.concatenate([z.real, z.imag], -1)


def norm(x, scale, bias):
  layer = nnx.LayerNorm(x.shape[-1], epsilon=1e-5, rngs=nnx.Rngs(0))
  layer.scale[...], layer.bias[...] = scale, bias
  return layers.layer_norm(layer, x)


def rules():
  """name -> (ours, plain, operands, how many of them are differentiated)."""
  tables = layers.rotary_tables(np.arange(L)[None], 14, 100.0)
  wide, narrow = (draw(3, 7, 19), draw(4, 19)), (draw(5, 7, 5), draw(6, 5))
  norm_at = (draw(8, B, L, 7) + 0.4, draw(9, 7), draw(10, 7))
  gelu = functools.partial(jax.nn.gelu, approximate=True)
  return {
    'widening': (layers.affine, plain_affine, (draw(7, B, L, 7), *wide), 3),
    'narrowing': (layers.affine, plain_affine, (draw(7, B, L, 7), *narrow), 3),
    'gelu': (layers.gelu, gelu, (3 * draw(11, B, 1009),), 1),
    'norm': (norm, plain_norm, norm_at, 3),
    'rotate': (layers.rotate, plain_rotate, (draw(12, B, L, 2, 14), *tables), 1),
  }


@pytest.mark.parametrize(
  'lifted',
  [
    'vmap',
    'shard_map',
    *(pytest.param(v, marks=pytest.mark.slow) for v in ('alone', 'map')),
  ],
)
@pytest.mark.parametrize('name', ['widening', 'narrowing', 'gelu', 'norm', 'rotate'])
def test_values_and_gradients_equal_the_plain_form(name, lifted):
  ours, plain, operands, n = rules()[name]
  rest = operands[n:]
  with jax.numpy_rank_promotion('allow'):
    shape = jax.eval_shape(plain, *operands).shape
  weight = draw(13, *shape)

  def both(f, operands):
    def loss(*operands):
      y = f(*operands, *rest)
      return (y * weight).sum(), y

    (_, y), grads = jax.value_and_grad(loss, range(n), has_aux=True)(*operands)
    return y, grads

  members = [
    jax.tree.map(lambda x, m=m: (1 + 0.1 * m) * x, operands[:n]) for m in range(2)
  ]
  with jax.numpy_rank_promotion('allow'):
    written = jax.jit(functools.partial(both, plain))
    want = jax.tree.map(lambda *x: jnp.stack(x), *[written(m) for m in members])
  stacked = jax.tree.map(lambda *x: jnp.stack(x), *members)
  one = functools.partial(both, ours)
  lifts = {
    'alone': lambda s: jax.lax.scan(lambda _, m: (None, one(m)), None, s)[1],
    'vmap': jax.vmap(one),
    'map': lambda s: jax.lax.map(one, s),
  }
  mesh = jax.make_mesh((2,), ('member',), axis_types=(AxisType.Auto,))
  lifts['shard_map'] = jax.shard_map(
    lifts['map'], mesh=mesh, in_specs=(P('member'),), out_specs=P('member')
  )
  close(jax.jit(lifts[lifted])(stacked), want)


def test_gelu_equals_float64_and_is_finite_far_out():
  x = np.linspace(-9, 9, 4001)
  inner = np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)
  want = 0.5 * x * (1 + np.tanh(inner))
  slope = np.sqrt(2 / np.pi) * (1 + 3 * 0.044715 * x**2)
  want_slope = 0.5 * (1 + np.tanh(inner)) + 0.5 * x / np.cosh(inner) ** 2 * slope
  x32 = jnp.asarray(x, jnp.float32)
  np.testing.assert_allclose(layers.gelu(x32), want, rtol=1e-6, atol=1e-6)
  got_slope = jax.vmap(jax.grad(layers.gelu))(x32)
  np.testing.assert_allclose(got_slope, want_slope, rtol=2e-6, atol=1e-5)
  far = jnp.asarray([-1e4, 1e4], jnp.float32)
  np.testing.assert_array_equal(jax.vmap(jax.grad(layers.gelu))(far), [0, 1])


def test_bfloat16_stays_near_float32():
  tokens_BL, answer_BA = batch()
  out = {}
  for dtype in ('float32', 'bfloat16'):
    graphdef, params = model(positions='rotary', layers=1, compute_dtype=dtype)

    def loss(params, graphdef=graphdef):
      logits = nnx.merge(graphdef, params)(tokens_BL, answer_BA=answer_BA)
      assert logits.dtype == jnp.float32
      return jnp.square(logits).sum(), logits

    (_, logits), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    assert all(g.dtype == jnp.float32 for g in jax.tree.leaves(grads))
    out[dtype] = logits, grads
  close(out['bfloat16'], out['float32'], 0.12)
  with pytest.raises(AssertionError):  # it was computed in bfloat16
    close(out['bfloat16'], out['float32'], 1e-4)


def test_rotary_scores_depend_on_the_distance_only():
  tables = layers.rotary_tables(np.arange(L)[None], 14, 100.0)
  q_K, k_K = draw(14, 14), draw(15, 14)
  q, k = (
    layers.rotate(jnp.tile(v_K[None, None, None], (1, L, 1, 1)), *tables)[0, :, 0]
    for v_K in (q_K, k_K)
  )
  scores = np.asarray(q @ k.T)
  for distance in range(1, L):
    line = np.diagonal(scores, -distance)
    np.testing.assert_allclose(line, line[0], atol=1e-4)
  assert np.abs(scores[:, 0] - scores[0, 0])[1:].min() > 1e-3
  traced = layers.rotary_tables(jnp.arange(L)[None], 14, 100.0)
  close(traced, tables, 2e-6)


@pytest.mark.parametrize(
  'given',
  [*(pytest.param(v, marks=pytest.mark.slow) for v in ('tokens', 'answers')), 'mask'],
)
def test_fused_attention_computes_the_same(given):
  tokens_BL, answer_BA = batch()
  more: dict = {'answers': {'answer_BA': answer_BA}}.get(given, {})
  if given == 'mask':  # in one row a position is hidden from later ones
    more['mask'] = jnp.broadcast_to(np.tri(L, dtype=bool)[None], (B, L, L))
    more['mask'] = more['mask'].at[1, 5:, 2].set(False)
  found = []
  for attention in ('plain', 'fused'):
    graphdef, params = model(attention=attention)

    def loss(params, graphdef=graphdef):
      logits = nnx.merge(graphdef, params)(tokens_BL, **more)
      return (jnp.sin(logits) ** 2).sum(), logits

    found.append(jax.jit(jax.grad(loss, has_aux=True))(params))
  (plain, _), (_, logits) = found
  np.testing.assert_allclose(found[0][1], logits, rtol=1e-4, atol=1e-5)
  # The gradient of the keys' biases is zero but for rounding, hence one scale for all.
  scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(plain))
  for a, b in zip(*map(jax.tree.leaves, (plain, found[1][0])), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5 * scale)
