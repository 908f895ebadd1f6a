"""GPT-2 in Flax NNX, numerically as in Hugging Face transformers.

Legend of the shape suffixes in names, for the whole package:
  B batch   L sequence   A answer positions   T query positions
  D width   H heads      K head width         F feed-forward width   V vocabulary
  M members of a stack   P letters of x       Q letters of y         Z letters of z
  O letters of the output                     R rules in a count table
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from onlyif_jax.models import layers
from onlyif_jax.models.layers import INIT_STD, take

LAYER_NORM_EPSILON = 1e-5  # as in HF; the NNX default is 1e-6


@dataclasses.dataclass(frozen=True)
class GPT2Config:
  """Sizes and options of a model; see `settings.ModelConfig`."""

  vocab_size: int
  max_length: int
  layers: int
  width: int
  heads: int
  positions: str = 'learned'  # 'learned' (GPT-2) or 'rotary' (GPT-NeoX)
  rotary_base: float = 10_000.0
  dropout: float = 0.0
  compute_dtype: str = 'float32'
  attention: str = 'plain'  # 'plain' or 'fused'

  @property
  def head_width(self) -> int:
    """Width of one head."""
    return self.width // self.heads


class Attention(nnx.Module):
  """Causal self-attention, with queries at all positions or at a subset."""

  def __init__(self, config: GPT2Config, *, rngs: nnx.Rngs):
    self.config = config
    self.qkv = _linear(config, config.width, 3 * config.width, rngs)
    self.out = _linear(config, config.width, config.width, rngs, residual=True)

  def __call__(self, x_BLD, positions_BL, at_BA=None, mask=None, cache=None):
    """(y, the cache with the new keys and values); positions_BL=None: the indices."""
    c = self.config
    is_causal = all(v is None for v in (positions_BL, at_BA, mask, cache))
    q_BTHK, k_BLHK, v_BLHK = map(self._heads, self._project(x_BLD, at_BA))
    if positions_BL is None:  # numpy, so that they are constants of the program
      positions_BL = np.arange(x_BLD.shape[1], dtype=np.int32)[None]
      query_BT = positions_BL if at_BA is None else at_BA
    else:
      query_BT = positions_BL if at_BA is None else take(positions_BL, at_BA)
    if c.positions == 'rotary':
      k_tables = layers.rotary_tables(positions_BL, c.head_width, c.rotary_base)
      q_tables = k_tables
      if at_BA is not None:
        q_tables = [layers.take_positions(t_BLK, at_BA) for t_BLK in k_tables]
      q_BTHK = layers.rotate(q_BTHK, *q_tables)
      k_BLHK = layers.rotate(k_BLHK, *k_tables)
    if cache is not None:
      k_BLHK, v_BLHK, cache = cache.append(k_BLHK, v_BLHK)
    # The position of a key is its index, also in a cache.
    key_L = np.arange(k_BLHK.shape[1])
    allowed_BTL = query_BT[:, :, None] >= key_L[None, None, :]
    if mask is not None:
      allowed_BTL = allowed_BTL & (mask if at_BA is None else take(mask, at_BA))
    if c.attention == 'fused':
      y_BTHK = fused(q_BTHK, k_BLHK, v_BLHK, None if is_causal else allowed_BTL)
    else:
      y_BTHK = attend(q_BTHK, k_BLHK, v_BLHK, allowed_BTL)
    y_BTD = layers.linear(self.out, y_BTHK.reshape(*y_BTHK.shape[:2], c.width))
    return y_BTD, cache

  def _project(self, x_BLD, at_BA):
    """(q_BTD, k_BLD, v_BLD); with at_BA, q is computed at those positions only."""
    if at_BA is None:
      return jnp.split(layers.linear(self.qkv, x_BLD), 3, axis=-1)
    kernel, bias = layers.weights(self.qkv, x_BLD.dtype)
    wq_DD, wkv_D2D = jnp.split(kernel, [self.config.width], axis=1)
    bq_D, bkv_2D = jnp.split(bias, [self.config.width])
    q_BTD = layers.affine(take(x_BLD, at_BA), wq_DD, bq_D)
    return q_BTD, *jnp.split(layers.affine(x_BLD, wkv_D2D, bkv_2D), 2, axis=-1)

  def _heads(self, x_BLD):
    return x_BLD.reshape(*x_BLD.shape[:2], self.config.heads, self.config.head_width)


class MLP(nnx.Module):
  """The feed-forward layer, four times the model's width, with gelu_new."""

  def __init__(self, config: GPT2Config, *, rngs: nnx.Rngs):
    self.up = _linear(config, config.width, 4 * config.width, rngs)
    self.down = _linear(config, 4 * config.width, config.width, rngs, residual=True)

  def __call__(self, x_BLD):
    """The update to add to the residual stream."""
    return layers.linear(self.down, layers.gelu(layers.linear(self.up, x_BLD)))


class Block(nnx.Module):
  """Pre-norm block: x + attention, then x + MLP."""

  def __init__(self, config: GPT2Config, *, rngs: nnx.Rngs):
    self.norm_1 = _norm(config, rngs)
    self.attention = Attention(config, rngs=rngs)
    self.norm_2 = _norm(config, rngs)
    self.mlp = MLP(config, rngs=rngs)
    self.dropout = config.dropout

  def __call__(self, x_BLD, positions_BL, at_BA=None, mask=None, cache=None, key=None):
    """(y, cache); with at_BA, y has those positions only."""
    keys = (None, None) if key is None else layers.split_keys(key, 2)
    normed_BLD = layers.layer_norm(self.norm_1, x_BLD)
    y, cache = self.attention(normed_BLD, positions_BL, at_BA, mask, cache)
    x_BLD = x_BLD if at_BA is None else take(x_BLD, at_BA)
    x_BLD = x_BLD + layers.dropout(y, keys[0], self.dropout)
    y = self.mlp(layers.layer_norm(self.norm_2, x_BLD))
    return x_BLD + layers.dropout(y, keys[1], self.dropout), cache


class GPT2(nnx.Module):
  """A decoder from tokens to logits; the head is tied to the embedding."""

  def __init__(self, config: GPT2Config, *, rngs: nnx.Rngs):
    self.config = config
    self.embed = layers.embedding(config, config.vocab_size, rngs)
    if config.positions == 'learned':
      self.position = layers.embedding(config, config.max_length, rngs)
    self.blocks = nnx.List([Block(config, rngs=rngs) for _ in range(config.layers)])
    self.norm = _norm(config, rngs)
    self.dropout = config.dropout

  def __call__(
    self,
    tokens_BL,
    *,
    answer_BA=None,
    positions_BL=None,
    mask=None,
    cache=None,
    key=None,
  ):
    """Logits [B, L, V], or [B, A, V] at the positions answer_BA; float32.

    With answer_BA the last layer and the head compute those positions only: the same
    logits and gradients for less work. positions_BL: by default the indices. mask
    [B, L, L] (query, key): restricts causal attention. With a cache (see `decode`),
    returns (logits, cache). key: one per row, turns dropout on.
    """
    c = self.config
    x_BLD = self.embed(tokens_BL)
    if c.positions == 'learned':
      index = jnp.arange(tokens_BL.shape[1])[None]
      x_BLD += self.position(index if positions_BL is None else positions_BL)
    keys = [None] * (c.layers + 1)
    if key is not None and c.dropout > 0:
      keys = layers.split_keys(key, c.layers + 1)
      x_BLD = layers.dropout(x_BLD, keys[-1], c.dropout)
    caches = [None] * c.layers if cache is None else list(cache)
    for n, block in enumerate(self.blocks):
      at_BA = answer_BA if n == c.layers - 1 else None
      x_BLD, caches[n] = block(x_BLD, positions_BL, at_BA, mask, caches[n], keys[n])
    logits = self.embed.attend(layers.layer_norm(self.norm, x_BLD))
    logits = logits.astype(jnp.float32)
    return logits if cache is None else (logits, caches)


def attend(q_BTHK, k_BLHK, v_BLHK, allowed_BTL):
  """Softmax attention in float32 over the allowed positions."""
  scale = q_BTHK.shape[-1] ** -0.5
  scores_BHTL = jnp.einsum(
    'BTHK,BLHK->BHTL', q_BTHK * scale, k_BLHK, preferred_element_type=jnp.float32
  )
  scores_BHTL = jnp.where(allowed_BTL[:, None], scores_BHTL, -1e30)
  weights_BHTL = jax.nn.softmax(scores_BHTL, axis=-1).astype(v_BLHK.dtype)
  return jnp.einsum('BHTL,BLHK->BTHK', weights_BHTL, v_BLHK)


def fused(q_BTHK, k_BLHK, v_BLHK, allowed_BTL=None):
  """The same by jax.nn; causal if allowed_BTL is None.

  On a GPU in bfloat16, causal attention runs in cuDNN. The few queries of answers do
  not: cuDNN would store their mask in full.
  """
  cudnn = jax.default_backend() == 'gpu' and q_BTHK.dtype == jnp.bfloat16
  return jax.nn.dot_product_attention(
    q_BTHK,
    k_BLHK,
    v_BLHK,
    mask=None if allowed_BTL is None else allowed_BTL[:, None],
    is_causal=allowed_BTL is None,
    implementation='cudnn' if cudnn and allowed_BTL is None else None,
  )


def _linear(config, n_in, n_out, rngs, *, residual=False):
  """A linear layer with Normal(0.02) weights, less for writes to the residual stream."""
  std = INIT_STD / (2 * config.layers) ** 0.5 if residual else INIT_STD
  return nnx.Linear(
    n_in,
    n_out,
    kernel_init=nnx.initializers.normal(std),
    dtype=jnp.dtype(config.compute_dtype),
    rngs=rngs,
  )


def _norm(config, rngs):
  return nnx.LayerNorm(
    config.width,
    epsilon=LAYER_NORM_EPSILON,
    dtype=jnp.dtype(config.compute_dtype),
    rngs=rngs,
  )
