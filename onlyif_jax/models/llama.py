"""Pretrained decoders: Llama, Mistral, Qwen2 and GPT-2 as options of one model.

Module names are those of Hugging Face, so that parameters map by name and LoRA
targets (q_proj, down_proj, ...) mean the same. Every layer is computed through its
`__call__`, which adapters can intercept. Shape names as in `gpt2`, and
  G heads of keys and values   S slots of a cache   T query positions
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from onlyif_jax.models import attention, layers, rope
from onlyif_jax.models.layers import INIT_STD, take
from onlyif_jax.models.rope import Rope

LLAMA_2 = Rope()


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
  """Sizes and options of a decoder; the defaults are Llama 2's.

  family: the model_type under which the model is saved: 'llama', 'mistral', 'qwen2'
  or 'gpt2'; it changes no number. rope: None for learned positions. norm: 'rms' or
  'layer'. mlp: 'silu' (gated) or 'gelu_new' (plain). window: layers from
  `window_from` on see the last `window` positions only, their own included. dropout:
  on the embedding and each residual, if a key is given. compute_dtype: of matmuls.
  remat: recompute each layer in the backward pass.
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


class Context(NamedTuple):
  """What the attention of every layer needs besides the states."""

  tables: Any  # rotary (cos, sin), or None with learned positions
  masks: Any  # (without, with the window); each may be None: see `attention.mask`


class RMSNorm(nnx.Module):
  """x divided by its root mean square, in float32, times a scale."""

  def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
    self.scale = nnx.Param(nnx.initializers.ones(rngs.params(), (config.width,)))
    self.config = config

  def __call__(self, x_BLD):
    """The normalized x, in compute_dtype."""
    x32_BLD = x_BLD.astype(jnp.float32)
    square_BL1 = jnp.mean(x32_BLD * x32_BLD, axis=-1, keepdims=True)
    y_BLD = x32_BLD * jax.lax.rsqrt(square_BL1 + self.config.norm_epsilon)
    dtype = jnp.dtype(self.config.compute_dtype)
    return self.scale[...].astype(dtype)[None, None] * y_BLD.astype(dtype)


class Attention(nnx.Module):
  """Causal attention with grouped heads, with queries at all or some positions."""

  def __init__(self, config: DecoderConfig, n: int, *, rngs: nnx.Rngs):
    c = self.config = config
    self.window = config.window if n >= config.window_from else None
    q_width, kv_width = c.heads * c.head_width, c.kv_heads * c.head_width
    self.q_proj = _linear(c, c.width, q_width, c.qkv_bias, rngs)
    self.k_proj = _linear(c, c.width, kv_width, c.qkv_bias, rngs)
    self.v_proj = _linear(c, c.width, kv_width, c.qkv_bias, rngs)
    self.o_proj = _linear(c, q_width, c.width, c.out_bias, rngs)

  def __call__(self, x_BLD, tables, masks, at_BA=None, kv=None, used: Any = None):
    """(y, (keys, values)); kv: the cache's, to be written from slot `used` on."""
    x_BTD = x_BLD if at_BA is None else take(x_BLD, at_BA)
    q_BTHK = self._heads(self.q_proj(x_BTD))
    k_BSGK, v_BSGK = self._heads(self.k_proj(x_BLD)), self._heads(self.v_proj(x_BLD))
    if tables is not None:
      k_BSGK = layers.rotate(k_BSGK, *tables)
      if at_BA is not None:
        tables = [layers.take_positions(table_BLK, at_BA) for table_BLK in tables]
      q_BTHK = layers.rotate(q_BTHK, *tables)
    if kv is not None:
      write = functools.partial(jax.lax.dynamic_update_slice_in_dim, axis=1)
      k_BSGK, v_BSGK = write(kv[0], k_BSGK, used), write(kv[1], v_BSGK, used)
    mask_BTS = masks[self.window is not None]
    y_BTHK = attention.attend(q_BTHK, k_BSGK, v_BSGK, mask_BTS, self.window)
    y_BTD = self.o_proj(y_BTHK.reshape(*y_BTHK.shape[:2], -1))
    return y_BTD, (k_BSGK, v_BSGK)

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
    """The update to add to the residual stream."""
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

  def __call__(self, x_BLD, context, at_BA=None, kv=None, used=None, key=None):
    """(y, (keys, values)); context: a `Context` or an equal tuple."""
    keys = (None, None) if key is None else layers.split_keys(key, 2)
    normed_BLD = self.input_layernorm(x_BLD)
    tables, masks = context
    y, kv = self.self_attn(normed_BLD, tables, masks, at_BA, kv, used)
    x_BLD = x_BLD if at_BA is None else take(x_BLD, at_BA)
    x_BLD = x_BLD + layers.dropout(y, keys[0], self.config.dropout)
    y = self.mlp(self.post_attention_layernorm(x_BLD))
    return x_BLD + layers.dropout(y, keys[1], self.config.dropout), kv


class Decoder(nnx.Module):
  """A decoder from tokens to logits in float32."""

  def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
    c = self.config = config
    self.embed_tokens = layers.embedding(c, c.vocab_size, rngs)
    if c.rope is None:
      self.embed_positions = layers.embedding(c, c.max_length, rngs)
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
    """Logits [B, L, V], or (logits, cache) if there is a cache.

    A token sees itself and the earlier tokens of its own segment. Segment 0 is
    padding, on either side; its logits mean nothing. segments_BL: by default all 1.
    positions_BL: by default from 0 in each segment; required with a cache, whose
    slots are seen as well. answer_BA: the last layer and the head compute those
    positions only; logits are [B, A, V]. key: one per row, turns dropout on.
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
    x_BLD = layers.dropout(x_BLD, keys[-1], c.dropout)
    if cache is not None:
      cache = attention.claim(cache, segments_BL, tokens_BL.shape)
    shape, context, kvs = tokens_BL.shape, None, []
    for n, layer in enumerate(self.layers):
      at_BA = answer_BA if n == c.layers - 1 else None
      if context is None or at_BA is not None:
        windows = (None, c.window)
        masks = [attention.mask(segments_BL, cache, at_BA, shape, w) for w in windows]
        context = Context(tables, masks)
      apply: Any = _recomputed(layer) if c.remat else layer
      if cache is None:
        x_BLD, _ = apply(x_BLD, context, at_BA, key=keys[n])
      else:
        kv = cache.k[n], cache.v[n]
        x_BLD, kv = apply(x_BLD, context, at_BA, kv, cache.used, keys[n])
        kvs.append(kv)
    logits = self._head(self.norm(x_BLD))
    if cache is None:
      return logits
    k, v = map(list, zip(*kvs, strict=True))
    return logits, dataclasses.replace(cache, k=k, v=v, used=cache.used + shape[1])

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
  """The number of parameters, from one and two layers (tracing many takes minutes)."""

  def count(n: int) -> int:
    tree = shapes(dataclasses.replace(config, layers=n))
    return sum(x.size for x in jax.tree.leaves(tree))

  one_layer, two_layers = count(1), count(2)
  return one_layer + (config.layers - 1) * (two_layers - one_layer)


def init(config: DecoderConfig, key) -> dict:
  """Fresh float32 parameters: Normal(0.02) matrices, scales 1, biases 0."""

  def make(key):
    return nnx.to_pure_dict(nnx.state(Decoder(config, rngs=nnx.Rngs(key)), nnx.Param))

  return jax.jit(make)(key)


def merge(graphdef_, params):
  """The model of a graphdef and its parameters, which may be a tuple of subtrees."""
  subtrees = params if isinstance(params, tuple) else (params,)
  return nnx.merge(graphdef_, *subtrees)


def _recomputed(layer):
  """The layer, storing nothing inside it for the backward pass."""
  graphdef_, state = nnx.split(layer)

  def apply(state, *args, **kwargs):
    return nnx.merge(graphdef_, state)(*args, **kwargs)

  return functools.partial(jax.checkpoint(apply), state)


def _abstract(config):
  return nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0)))


def _linear(config, n_in, n_out, bias, rngs, **options):
  return nnx.Linear(
    n_in,
    n_out,
    use_bias=bias,
    kernel_init=nnx.initializers.normal(INIT_STD),
    dtype=jnp.dtype(config.compute_dtype),
    rngs=rngs,
    **options,
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
