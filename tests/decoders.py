"""Small decoders that several tests share, with parameters far from their start."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from onlyif_jax.models import llama
from onlyif_jax.models.llama import DecoderConfig
from onlyif_jax.models.rope import Rope

SIZES = {
  'vocab_size': 37,
  'max_length': 53,
  'layers': 2,
  'width': 18,
  'hidden': 29,
  'heads': 6,
  'kv_heads': 2,
  'head_width': 10,
}
# Everything at once: grouped heads, scaled positions, biases, a window from layer 1.
GROUPED = DecoderConfig(
  **SIZES,
  rope=Rope(997.0, 'llama3', 5.0, 1.0, 3.0, 23),
  qkv_bias=True,
  window=5,
  window_from=1,
)
LEARNED = DecoderConfig(
  **(SIZES | {'kv_heads': 6}),
  family='gpt2',
  rope=None,
  norm='layer',
  mlp='gelu_new',
  qkv_bias=True,
  out_bias=True,
  mlp_bias=True,
  tied_head=True,
)


@functools.cache
def params(config, seed=0):
  """Random values everywhere, also where a fresh model has zeros and ones."""
  rng = np.random.default_rng(seed)

  def draw(path, leaf):
    values = rng.normal(0, 0.3, leaf.shape) + (path[-1].key == 'scale')
    return jnp.asarray(values, jnp.float32)

  return jax.tree_util.tree_map_with_path(draw, llama.shapes(config))


@functools.cache
def compiled(config):
  """(params, tokens, **more) -> logits, one program for each set of shapes."""
  return jax.jit(
    lambda params, tokens_BL, **more: llama.merge(llama.graphdef(config), params)(
      tokens_BL, **more
    )
  )


def logits(config, tokens_BL, **more):
  """Logits of the shared parameters, as numpy."""
  tokens_BL = jnp.asarray(tokens_BL, jnp.int32)
  more = {k: jnp.asarray(v, jnp.int32) for k, v in more.items()}
  return np.asarray(compiled(config)(params(config), tokens_BL, **more))


def tokens(seed, *shape):
  """Random token ids that every toy has."""
  return np.random.default_rng(seed).integers(0, 37, shape).astype(np.int32)
