"""Decoders of Llama's family (Llama, Mistral, Qwen2) and GPT-2, by switches.

Module names are those of Hugging Face, so that parameters map by name and LoRA
targets (q_proj, down_proj, ...) mean the same. Everything is computed through
`__call__`, which adapters can intercept. Shape names as in `gpt2`, and
  G heads of keys and values   S slots of a cache   T query positions
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from onlyif_jax.models import attention, layers, rope
from onlyif_jax.models.gpt2 import take
from onlyif_jax.models.rope import Rope

INIT_STD = 0.02
LLAMA_2 = Rope()


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
  """Sizes and switches of one decoder; the defaults are Llama-2's.

  family is the model_type under which the model is saved: 'llama', 'mistral',
  'qwen2' or 'gpt2'; it changes no number. rope=None means learned positions.
  norm is 'rms' or 'layer', mlp 'silu' (gated) or 'gelu_new' (plain). Layers from
  `window_from` on see the last `window` positions only, themselves included.
  compute_dtype is that of matmuls; remat recomputes each layer in the backward
  pass; dropout (at the embedding and at each residual) acts where a key is given.
  """

  vocab_size: int
  max_length: int
  layers: int
  width: int
  hidden: int
  heads: int
  kv_heads: int
  head_width: int
  family: str = 'llama'
  rope: Rope | None = LLAMA_2
  norm: str = 'rms'
  norm_epsilon: float = 1e-5
  mlp: str = 'silu'
  qkv_bias: bool = False
  out_bias: bool = False
  mlp_bias: bool = False
  window: int | None = None
  window_from: int = 0
  tied_head: bool = False
  dropout: float = 0.0
  compute_dtype: str = 'float32'
  remat: bool = False


class RMSNorm(nnx.Module):
  """x over its root mean square, in float32, times a scale."""

  def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
    self.scale = nnx.Param(nnx.initializers.ones(rngs.params(), (config.width,)))
    self.config = config

  def __call__(self, x_BLD):
    """x -> normalized x, in compute_dtype."""
    x32_BLD = x_BLD.astype(jnp.float32)
    square_BL1 = jnp.mean(x32_BLD * x32_BLD, axis=-1, keepdims=True)
    y_BLD = x32_BLD * jax.lax.rsqrt(square_BL1 + self.config.norm_epsilon)
    dtype = jnp.dtype(self.config.compute_dtype)
    return self.scale[...].astype(dtype)[None, None] * y_BLD.astype(dtype)


class Attention(nnx.Module):
  """Causal attention with grouped heads; queries may be at some positions only."""

  def __init__(self, config: DecoderConfig, n: int, *, rngs: nnx.Rngs):
    c = self.config = config
    self.window = config.window if n >= config.window_from else None
    q_width, kv_width = c.heads * c.head_width, c.kv_heads * c.head_width
    self.q_proj = _linear(c, c.width, q_width, c.qkv_bias, rngs)
    self.k_proj = _linear(c, c.width, kv_width, c.qkv_bias, rngs)
    self.v_proj = _linear(c, c.width, kv_width, c.qkv_bias, rngs)
    self.o_proj = _linear(c, q_width, c.width, c.out_bias, rngs)

  def __call__(self, x_BLD, tables, masks, at_BA=None, kv=None, used: Any = None):
    """(y, (keys, values)); kv are the cache's, written from slot `used` on."""
    x_BTD = x_BLD if at_BA is None else take(x_BLD, at_BA)
    q_BTHK = self._heads(self.q_proj(x_BTD))
    k_BLGK, v_BLGK = (self._heads(f(x_BLD)) for f in (self.k_proj, self.v_proj))
    if tables is not None:
      k_BLGK = layers.rotate(k_BLGK, *tables)
      at_tables = tables if at_BA is None else [_at(t, at_BA) for t in tables]
      q_BTHK = layers.rotate(q_BTHK, *at_tables)
    if kv is not None:
      put = functools.partial(jax.lax.dynamic_update_slice_in_dim, axis=1)
      k_BLGK, v_BLGK = put(kv[0], k_BLGK, used), put(kv[1], v_BLGK, used)
    mask_BTS = masks[self.window is not None]
    y_BTHK = attention.attend(q_BTHK, k_BLGK, v_BLGK, mask_BTS, self.window)
    y_BTD = self.o_proj(y_BTHK.reshape(*y_BTHK.shape[:2], -1))
    return y_BTD, (k_BLGK, v_BLGK)

  def _heads(self, x_BLD):
    return x_BLD.reshape(*x_BLD.shape[:2], -1, self.config.head_width)


class MLP(nnx.Module):
  """The feed-forward layer: gated SiLU, or GPT-2's plain gelu_new."""

  def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
    c = self.config = config
    if c.mlp == 'silu':
      self.gate_proj = _linear(c, c.width, c.hidden, c.mlp_bias, rngs)
    self.up_proj = _linear(c, c.width, c.hidden, c.mlp_bias, rngs)
    self.down_proj = _linear(c, c.hidden, c.width, c.mlp_bias, rngs)

  def __call__(self, x_BLD):
    """x -> the residual to add."""
    if self.config.mlp == 'silu':
      y_BLF = jax.nn.silu(self.gate_proj(x_BLD)) * self.up_proj(x_BLD)
    else:
      y_BLF = layers.gelu(self.up_proj(x_BLD))
    return self.down_proj(y_BLF)


class Layer(nnx.Module):
  """Pre-norm block: x + attention, then x + MLP."""

  def __init__(self, config: DecoderConfig, n: int, *, rngs: nnx.Rngs):
    self.config = config
    self.input_layernorm = _norm(config, rngs)
    self.self_attn = Attention(config, n, rngs=rngs)
    self.post_attention_layernorm = _norm(config, rngs)
    self.mlp = MLP(config, rngs=rngs)

  def __call__(self, x_BLD, seen, at_BA=None, kv=None, used=None, key=None):
    """(y, keys and values); seen = (rope tables, masks without and with window)."""
    keys = (None, None) if key is None else layers.split_keys(key, 2)
    normal = self.input_layernorm(x_BLD)
    tables, masks = seen
    y, kv = self.self_attn(normal, tables, masks, at_BA, kv, used)
    x_BLD = x_BLD if at_BA is None else take(x_BLD, at_BA)
    x_BLD = x_BLD + _drop(y, keys[0], self.config.dropout)
    y = self.mlp(self.post_attention_layernorm(x_BLD))
    return x_BLD + _drop(y, keys[1], self.config.dropout), kv


class Decoder(nnx.Module):
  """tokens -> logits in float32."""

  def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
    c = self.config = config
    self.embed_tokens = _embed(c, c.vocab_size, rngs)
    if c.rope is None:
      self.embed_positions = _embed(c, c.max_length, rngs)
    self.layers = nnx.List([Layer(c, n, rngs=rngs) for n in range(c.layers)])
    self.norm = _norm(c, rngs)
    if not c.tied_head:
      self.lm_head = _linear(
        c, c.width, c.vocab_size, False, rngs, preferred_element_type=jnp.float32
      )

  def __call__(
    self,
    tokens_BL,
    *,
    positions_BL=None,
    segments_BL=None,
    cache=None,
    answer_BA=None,
    key=None,
  ):
    """Logits [B, L, V], or [B, A, V] at the places answer_BA; with a cache, and it.

    A token sees the tokens before it of its own segment; segment 0 is padding,
    on either side, and its logits mean nothing. Without segments_BL all tokens
    are of segment 1; without positions_BL they count from 0 in each segment. With
    a cache positions_BL must be given, and the cache's slots are seen as well.
    answer_BA makes the last layer and the head work at those places only. key,
    one for each row, turns dropout on.
    """
    c = self.config
    if positions_BL is None:
      if cache is not None:
        raise ValueError('with a cache, positions_BL must be given')
      positions_BL = attention.positions(segments_BL, tokens_BL.shape[1])
    x_BLD = self.embed_tokens(tokens_BL)
    tables = None
    if c.rope is None:
      x_BLD += self.embed_positions(jnp.asarray(positions_BL))
    else:
      tables = rope.tables(positions_BL, rope.rates(c.rope, c.head_width))
    keys = [None] * (c.layers + 1)
    if key is not None and c.dropout > 0:
      keys = layers.split_keys(key, c.layers + 1)
    x_BLD = _drop(x_BLD, keys[-1], c.dropout)
    if cache is not None:
      cache = attention.claim(cache, segments_BL, tokens_BL.shape)
    kvs, seen = [], None
    for n, layer in enumerate(self.layers):
      at_BA = answer_BA if n == c.layers - 1 else None
      if seen is None or at_BA is not None:
        where = segments_BL, cache, at_BA, tokens_BL.shape
        seen = tables, [attention.mask(*where, w) for w in (None, c.window)]
      run: Any = _recomputed(layer) if c.remat else layer
      if cache is None:
        x_BLD, _ = run(x_BLD, seen, at_BA, key=keys[n])
      else:
        kv = cache.k[n], cache.v[n]
        x_BLD, kv = run(x_BLD, seen, at_BA, kv, cache.used, keys[n])
        kvs.append(kv)
    logits = self._head(self.norm(x_BLD))
    if cache is None:
      return logits
    k, v = map(list, zip(*kvs, strict=True))
    used = cache.used + tokens_BL.shape[1]
    return logits, dataclasses.replace(cache, k=k, v=v, used=used)

  def _head(self, x_BLD):
    if not self.config.tied_head:
      return self.lm_head(x_BLD).astype(jnp.float32)
    embedding_VD = self.embed_tokens.embedding[...].astype(x_BLD.dtype)
    return jnp.einsum(
      'BLD,VD->BLV', x_BLD, embedding_VD, preferred_element_type=jnp.float32
    )


@functools.cache
def graphdef(config: DecoderConfig):
  """The static part of a decoder, made without allocating its parameters."""
  return nnx.split(_abstract(config), nnx.Param)[0]


def shapes(config: DecoderConfig) -> dict:
  """The pure tree of parameters as jax.ShapeDtypeStruct, nothing allocated."""
  return nnx.to_pure_dict(nnx.state(_abstract(config), nnx.Param))


@functools.lru_cache(maxsize=4)
def weight_count(config: DecoderConfig) -> int:
  """Numbers in all weights, told from one and two layers: tracing many takes minutes."""
  one, two = (
    sum(x.size for x in jax.tree.leaves(shapes(small)))
    for small in (dataclasses.replace(config, layers=n) for n in (1, 2))
  )
  return one + (config.layers - 1) * (two - one)


def init(config: DecoderConfig, key) -> dict:
  """Fresh parameters, float32: Normal(0.02) matrices, scales 1, biases 0."""

  def make(key):
    return nnx.to_pure_dict(nnx.state(Decoder(config, rngs=nnx.Rngs(key)), nnx.Param))

  return jax.jit(make)(key)


def merge(graphdef_, params):
  """The model of a graphdef and its parameters, or a tuple of parts of them."""
  parts = params if isinstance(params, tuple) else (params,)
  return nnx.merge(graphdef_, *parts)


def _recomputed(layer):
  """The layer, with nothing stored inside it for the backward pass."""
  graphdef_, state = nnx.split(layer)

  def run(state, *args, **more):
    return nnx.merge(graphdef_, state)(*args, **more)

  return functools.partial(jax.checkpoint(run), state)


def _abstract(config):
  return nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0)))


def _at(table_BLK, at_BA):
  """Rows of a table with one row of the batch, or one for each."""
  if table_BLK.shape[0] == 1:
    return jnp.asarray(table_BLK[0])[at_BA]
  return take(table_BLK, at_BA)


def _drop(x_BLD, key_B, rate):
  return x_BLD if key_B is None else layers.dropout(x_BLD, key_B, rate)


def _linear(config, n_in, n_out, bias, rngs, **more):
  return nnx.Linear(
    n_in,
    n_out,
    use_bias=bias,
    kernel_init=nnx.initializers.normal(INIT_STD),
    dtype=jnp.dtype(config.compute_dtype),
    rngs=rngs,
    **more,
  )


def _embed(config, rows, rngs):
  return nnx.Embed(
    rows,
    config.width,
    embedding_init=nnx.initializers.normal(INIT_STD),
    dtype=jnp.dtype(config.compute_dtype),
    rngs=rngs,
  )


def _norm(config, rngs):
  if config.norm == 'rms':
    return RMSNorm(config, rngs=rngs)
  return nnx.LayerNorm(
    config.width,
    epsilon=config.norm_epsilon,
    dtype=jnp.dtype(config.compute_dtype),
    rngs=rngs,
  )
