"""Elementary operations of the models, most with hand-written gradients.

Each computes what its plain form in jnp does. On a CPU, XLA's code for derived
gradients passes over memory more often than these need; elsewhere the two compile
to much the same. Shape names as in `gpt2`; N stands for any leading axes.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

INIT_STD = 0.02  # of fresh matrices, as in GPT-2 and Llama


def embedding(config, rows: int, rngs: nnx.Rngs) -> nnx.Embed:
  """A table of `rows` vectors of config.width, Normal(0.02)."""
  return nnx.Embed(
    rows,
    config.width,
    embedding_init=nnx.initializers.normal(INIT_STD),
    dtype=jnp.dtype(config.compute_dtype),
    rngs=rngs,
  )


def take(x_BL, index_BT):
  """x [B, L, ...] at the given positions of each row: [B, T, ...]."""
  index = index_BT.reshape(index_BT.shape + (1,) * (x_BL.ndim - 2))
  return jnp.take_along_axis(x_BL, index, axis=1)


def take_positions(table_BLK, index_BT):
  """A rotary table, of one row or of one for each row of the batch, at positions."""
  if table_BLK.shape[0] == 1:
    return jnp.asarray(table_BLK[0])[index_BT]
  return take(table_BLK, index_BT)


def linear(layer, x_ND):
  """Apply an nnx.Linear in the dtype of x."""
  return affine(x_ND, *weights(layer, x_ND.dtype))


def weights(layer, dtype):
  """(kernel, bias) of an nnx.Linear, cast to a dtype."""
  return layer.kernel[...].astype(dtype), layer.bias[...].astype(dtype)


@jax.custom_vjp
def affine(x_ND, kernel_DE, bias_E):
  """x @ kernel + bias; all have the same dtype."""
  return x_ND @ kernel_DE + _as_rank_of(x_ND, bias_E)


def _as_rank_of(x_ND, v_D):
  return v_D.reshape((1,) * (x_ND.ndim - 1) + v_D.shape)


def _affine_forward(x_ND, kernel_DE, bias_E):
  return affine(x_ND, kernel_DE, bias_E), (x_ND, kernel_DE)


def _affine_backward(saved, g_NE):
  x_ND, kernel_DE = saved
  rows_ND = x_ND.reshape(-1, x_ND.shape[-1])
  g_rows_NE = g_NE.reshape(-1, g_NE.shape[-1])
  dx_ND = (g_rows_NE @ kernel_DE.T).reshape(x_ND.shape)
  dkernel_DE = lax.platform_dependent(
    rows_ND, g_rows_NE, cpu=_kernel_gradient_cpu, default=lambda x, g: x.T @ g
  )
  return dx_ND, dkernel_DE, g_rows_NE.sum(0)


affine.defvjp(_affine_forward, _affine_backward)


def _kernel_gradient_cpu(x_ND, g_NE):
  """x.T @ g, by copying the transpose of the narrower factor.

  XLA by default transposes the gradient, and its matmul of two factors in that layout
  is about three times slower. The inner barriers keep the copy from being fused with
  the computation of x or g, which would then run in the copy's memory order.
  """
  barrier = lax.optimization_barrier
  if x_ND.shape[1] <= g_NE.shape[1]:
    return barrier(barrier(x_ND).T) @ g_NE
  return barrier(barrier(barrier(g_NE).T) @ x_ND).T


_GELU_RATE = math.sqrt(2 / math.pi)
_GELU_CUBE = 0.044715


@jax.custom_vjp
def gelu(x):
  """gelu_new, the tanh approximation of GELU; computed in float32."""
  x32 = x.astype(jnp.float32)
  return (0.5 * x32 * (1 + _gelu_tanh(x32))).astype(x.dtype)


def _gelu_tanh(x):
  return jnp.tanh(_GELU_RATE * x * (1 + _GELU_CUBE * (x * x)))


def _gelu_backward(x, g):
  # Recomputing the tanh is cheaper than storing and loading it. The barrier keeps
  # XLA from reusing that of the forward pass.
  x32 = lax.optimization_barrier(x).astype(jnp.float32)
  t = _gelu_tanh(x32)
  slope = _GELU_RATE * (1 + 3 * _GELU_CUBE * (x32 * x32))
  return ((g * (0.5 * (1 + t) + 0.5 * x32 * (1 - t * t) * slope)).astype(x.dtype),)


gelu.defvjp(lambda x: (gelu(x), x), _gelu_backward)


def layer_norm(layer, x_ND):
  """Apply an nnx.LayerNorm; computed in float32, returned in the dtype of x."""
  return _normalize(x_ND, layer.scale[...], layer.bias[...], layer.epsilon)


def _normalize_plain(x_ND, scale_D, bias_D, epsilon):
  x32_ND = x_ND.astype(jnp.float32)
  mean_N1 = x32_ND.mean(-1, keepdims=True)
  square_N1 = (x32_ND * x32_ND).mean(-1, keepdims=True)
  variance_N1 = jnp.maximum(square_N1 - mean_N1 * mean_N1, 0)
  rate_N1 = lax.rsqrt(variance_N1 + epsilon)
  scale_ND, bias_ND = _as_rank_of(x_ND, scale_D), _as_rank_of(x_ND, bias_D)
  y_ND = (x32_ND - mean_N1) * (rate_N1 * scale_ND) + bias_ND
  return y_ND.astype(x_ND.dtype), (x_ND, mean_N1, rate_N1, scale_D)


def _normalize_backward(epsilon, saved, g_ND):
  x_ND, mean_N1, rate_N1, scale_D = saved
  normal_ND = (x_ND.astype(jnp.float32) - mean_N1) * rate_N1
  g_ND = g_ND.astype(jnp.float32)
  scaled_ND = g_ND * _as_rank_of(x_ND, scale_D)
  along_N1 = (scaled_ND * normal_ND).mean(-1, keepdims=True)
  centred_ND = scaled_ND - scaled_ND.mean(-1, keepdims=True)
  dx_ND = rate_N1 * (centred_ND - normal_ND * along_N1)
  rows = tuple(range(x_ND.ndim - 1))
  return dx_ND.astype(x_ND.dtype), (g_ND * normal_ND).sum(rows), g_ND.sum(rows)


_normalize = jax.custom_vjp(
  lambda *operands: _normalize_plain(*operands)[0], nondiff_argnums=(3,)
)
_normalize.defvjp(_normalize_plain, _normalize_backward)


def dropout(x_BLD, key_B, rate: float):
  """Dropout with one key per row, on which alone its mask depends; None: no dropout."""
  if key_B is None:
    return x_BLD

  def keep(key):
    return jax.random.bernoulli(key, 1 - rate, x_BLD.shape[1:])

  return jnp.where(jax.vmap(keep)(key_B), x_BLD / (1 - rate), 0)


def split_keys(key_B, n: int):
  """n new keys for each row, as a list of n vectors of keys."""
  key_BN = jax.vmap(lambda key: jax.random.split(key, n))(key_B)
  return [key_BN[:, i] for i in range(n)]


def rotary_tables(positions_BL, head_width: int, base: float):
  """(cos, sin) [B, L, K/2] of positions [B, L]; B is 1 if all rows agree.

  Positions in numpy give constants: XLA would otherwise evaluate the cosines again
  in every operation that uses them.
  """
  np_or_jnp = np if isinstance(positions_BL, np.ndarray) else jnp
  rate_K = base ** (-np.arange(head_width // 2) / (head_width // 2))
  angle = positions_BL[:, :, None] * rate_K.astype(np.float32)[None, None]
  return tuple(f(angle).astype(np.float32) for f in (np_or_jnp.cos, np_or_jnp.sin))


@jax.custom_vjp
def rotate(x_BLHK, cos_BLK, sin_BLK):
  """Apply rotary positions to whole heads, pairing their halves as GPT-NeoX does."""
  half = x_BLHK.shape[-1] // 2
  cos, sin = cos_BLK[:, :, None], sin_BLK[:, :, None]
  a, b = x_BLHK[..., :half], x_BLHK[..., half:]
  rotated = jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)
  return rotated.astype(x_BLHK.dtype)


def _rotate_forward(x_BLHK, cos_BLK, sin_BLK):
  return rotate(x_BLHK, cos_BLK, sin_BLK), (cos_BLK, sin_BLK)


def _rotate_backward(saved, g_BLHK):
  cos_BLK, sin_BLK = saved
  return rotate(g_BLHK, cos_BLK, -sin_BLK), None, None  # the inverse rotation


rotate.defvjp(_rotate_forward, _rotate_backward)
