"""Attention over packed, padded and cached rows: masks, cache and softmax.

A row holds one or more segments; a token sees itself and the earlier tokens of its
own segment. Segment 0 is padding, on either side, and sees padding: the softmax of a
query that sees nothing is undefined. Shape names as in `gpt2`, and
  G heads of keys and values   S slots of a cache   T query positions
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from onlyif_jax.models.layers import take

CUDNN_HEAD_WIDTH = 128  # the largest that cuDNN's attention supports on every GPU


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cache:
  """Keys and values of all layers; slots from `used` on are still empty.

  A slot is a column of the batch, not a position: left padding takes slots too, but
  is not seen, because it is in segment 0.
  """

  k: list[jax.Array]  # per layer, [B, S, G, K]
  v: list[jax.Array]
  segments_BS: jax.Array
  used: jax.Array  # int32


def empty_cache(config, batch: int, length: int) -> Cache:
  """An empty cache for `length` tokens of `batch` rows, in compute_dtype."""
  shape = (batch, length, config.kv_heads, config.head_width)
  zeros = [jnp.zeros(shape, config.compute_dtype) for _ in range(config.layers)]
  segments_BS = jnp.zeros((batch, length), jnp.int32)
  return Cache(zeros, list(zeros), segments_BS, jnp.int32(0))


def positions(segments_BL, length: int):
  """Positions [B, L] that count from 0 in each segment, or constants [1, L] if None."""
  index_L = np.arange(length, dtype=np.int32)
  if segments_BL is None:
    return index_L[None]
  previous_BL = jnp.pad(segments_BL[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
  start_BL = jnp.where(segments_BL != previous_BL, index_L[None], 0)
  return index_L[None] - jax.lax.cummax(start_BL, axis=1)


def mask(segments_BL: Any, cache, at_BA, shape, window=None):
  """Who sees whom, bool [B or 1, T, S]; None if it is plain causal attention.

  at_BA: the query positions, by default all. shape: (B, L) of the tokens.
  """
  if segments_BL is None and cache is None and at_BA is None:
    return None
  query_BT: Any = np.arange(shape[1], dtype=np.int32)[None]
  segments_BS = segments_BL if cache is None else cache.segments_BS
  if segments_BL is None:
    segments_BL = jnp.ones(shape, jnp.int32)  # used only with a cache
  if at_BA is not None:
    query_BT = at_BA
    segments_BL = take(segments_BL, at_BA)
  if cache is not None:
    query_BT = query_BT + cache.used
  length = shape[1] if segments_BS is None else segments_BS.shape[1]
  distance_BTS = query_BT[:, :, None] - np.arange(length, dtype=np.int32)[None, None]
  allowed_BTS = distance_BTS >= 0
  if window is not None:
    allowed_BTS = allowed_BTS & (distance_BTS < window)
  if segments_BS is not None:
    allowed_BTS = allowed_BTS & (segments_BL[:, :, None] == segments_BS[:, None, :])
  return jnp.asarray(allowed_BTS)


def claim(cache: Cache, segments_BL, shape) -> Cache:
  """The cache with the segments of the tokens [B, L] that are about to be added."""
  if segments_BL is None:
    segments_BL = jnp.ones(shape, jnp.int32)
  segments_BS = jax.lax.dynamic_update_slice_in_dim(
    cache.segments_BS, segments_BL.astype(jnp.int32), cache.used, axis=1
  )
  return dataclasses.replace(cache, segments_BS=segments_BS)


def attend(q_BTHK, k_BSGK, v_BSGK, mask_BTS=None, window: int | None = None):
  """Softmax attention under a mask, or causal within the window if there is none."""
  masked = mask_BTS is not None
  cudnn = cudnn_may(
    jax.default_backend(), q_BTHK.dtype, q_BTHK.shape, k_BSGK.shape[1], masked
  )
  return jax.nn.dot_product_attention(
    q_BTHK,
    k_BSGK,
    v_BSGK,
    mask=mask_BTS[:, None] if masked else None,
    is_causal=not masked,
    local_window_size=None if masked or window is None else (window - 1, 0),
    implementation='cudnn' if cudnn else None,
  )


def cudnn_may(platform: str, dtype, q_shape, keys: int, masked: bool) -> bool:
  """Whether cuDNN's attention supports these operands, gradients included."""
  _, queries, _, head_width = q_shape
  return (
    platform == 'gpu'
    and dtype == jnp.bfloat16
    and head_width % 8 == 0
    and head_width <= CUDNN_HEAD_WIDTH
    and queries == keys  # whole rows: neither queries of answers nor a cache
    and not (masked and queries % 2)  # a mask becomes a bias, which needs even lengths
  )
