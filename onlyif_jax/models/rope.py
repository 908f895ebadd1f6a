"""Rotary positions of Llama's family, with their scalings.

The rates are computed in the precision and order of transformers' PyTorch code: a
rate that is wrong in its last bit changes far positions noticeably.
"""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class Rope:
  """Base and scaling; kind is 'default', 'linear' or 'llama3' (Llama 3.1).

  'linear' divides every rate by `factor`. 'llama3' divides those with a wavelength
  above original_length / low_factor, keeps those with a wavelength below
  original_length / high_factor, and interpolates between.
  """

  theta: float = 10_000.0
  kind: str = 'default'
  factor: float = 1.0
  low_factor: float = 1.0
  high_factor: float = 4.0
  original_length: int = 8_192


def rates(rope: Rope, head_width: int) -> np.ndarray:
  """The rates [head_width / 2] in radians per position, float32."""
  exponent_K = np.arange(0, head_width, 2, dtype=np.float32) / np.float32(head_width)
  power_K = np.float64(rope.theta) ** exponent_K.astype(np.float64)
  rate_K = np.float32(1) / power_K.astype(np.float32)
  scaled_K = rate_K / np.float32(rope.factor)
  if rope.kind == 'default':
    return rate_K
  if rope.kind == 'linear':
    return scaled_K
  if rope.kind == 'llama3':
    turns_K = np.float32(rope.original_length) * rate_K / np.float32(2 * math.pi)
    span = np.float32(rope.high_factor - rope.low_factor)
    share_K = np.clip((turns_K - np.float32(rope.low_factor)) / span, 0, 1)
    return (scaled_K * (1 - share_K) + rate_K * share_K).astype(np.float32)
  raise ValueError(f'rope kind {rope.kind!r} is none of default, linear, llama3')


def tables(positions_BL, rate_K):
  """(cos, sin), each [B, L, K] float32; constants if the positions are in numpy."""
  np_or_jnp = np if isinstance(positions_BL, np.ndarray) else jnp
  angle_BLK = positions_BL.astype(np.float32)[:, :, None] * rate_K[None, None]
  return np_or_jnp.cos(angle_BLK), np_or_jnp.sin(angle_BLK)
