"""Greedy decoding with a key-value cache.

In each step of a scan one token goes through the model, be it of the prompt or
generated. So prompts of different lengths stay right-padded without gaps, and a
token's position is its index, as in training.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from onlyif_jax.config import ConfigError
from onlyif_jax.models.gpt2 import GPT2Config
from onlyif_jax.tasks import tokens


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KVCache:
  """Keys and values of one layer; positions from `used` on are still empty.

  Empty positions need no mask: they come after every query, and attention compares
  positions.
  """

  k_BLHK: jax.Array
  v_BLHK: jax.Array
  used: jax.Array  # int32

  def append(self, k_BTHK, v_BTHK):
    """Add the next T positions: (all keys, all values, the new cache)."""
    start = (0, self.used, 0, 0)
    k_BLHK = jax.lax.dynamic_update_slice(self.k_BLHK, k_BTHK, start)
    v_BLHK = jax.lax.dynamic_update_slice(self.v_BLHK, v_BTHK, start)
    return k_BLHK, v_BLHK, KVCache(k_BLHK, v_BLHK, self.used + k_BTHK.shape[1])


def empty_cache(config: GPT2Config, batch: int, length: int) -> list[KVCache]:
  """One empty cache per layer, for `length` positions of `batch` rows."""
  shape = (batch, length, config.heads, config.head_width)
  zeros = jnp.zeros(shape, config.compute_dtype)
  return [KVCache(zeros, zeros, jnp.int32(0)) for _ in range(config.layers)]


def greedy(graphdef, params, prompt_BL, prompt_len_B, length: int, eos=tokens.EOS):
  """Continue each prompt with the most probable tokens: tokens [B, length].

  prompt_BL: right-padded prompts of at least one token. Tokens after prompt_len_B are
  ignored, so prompts may be whole examples, with `answer_start` as the length. A row
  ends with its first generated `eos`, and is PAD after it. Among equal logits the
  lowest id wins. `length` and `eos` are static. Raises ConfigError if a model with
  learned positions has too few of them.
  """
  model = nnx.merge(graphdef, params)
  config = model.config
  if config.positions == 'learned' and length > config.max_length:
    raise ConfigError(
      f'cannot decode {length} tokens: the model has {config.max_length} positions'
    )
  batch = prompt_BL.shape[0]
  missing = max(0, length - prompt_BL.shape[1])
  prompt_BL = jnp.pad(prompt_BL, ((0, 0), (0, missing)))[:, :length]

  def step(carry, t):
    token_B, ended_B, cache = carry
    logits_B1V, cache = model(
      token_B[:, None], positions_BL=jnp.full((batch, 1), t), cache=cache
    )
    best_B = jnp.argmax(logits_B1V[:, 0], axis=-1)
    generated_B = jnp.where(ended_B, tokens.PAD, best_B)
    in_prompt_B = t + 1 < prompt_len_B
    token_B = jnp.where(in_prompt_B, prompt_BL[:, t + 1], generated_B)
    token_B = token_B.astype(prompt_BL.dtype)
    ended_B |= ~in_prompt_B & (token_B == eos)
    return (token_B, ended_B, cache), token_B

  start = (prompt_BL[:, 0], jnp.zeros(batch, bool), empty_cache(config, batch, length))
  _, tokens_LB = jax.lax.scan(step, start, jnp.arange(length - 1))
  return jnp.concatenate([prompt_BL[:, :1], tokens_LB.T], axis=1)
