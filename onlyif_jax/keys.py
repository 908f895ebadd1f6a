"""Addressed randomness: every key is `key(seed, purpose, index)`; none is threaded.

A random number depends on the run's seed, its purpose and its index, never on
device count, host, batch size or the order of events. The integers of `Purpose`
are permanent: a new purpose takes a new integer, so that adding one changes no
number drawn before.
"""

import enum
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

ROUNDS = 6  # Feistel rounds; an even number, so that both halves are mixed equally
MAX_SIZE = 2**31 - 2**16  # largest n of `permute`: the walk must not overflow int32


class Purpose(enum.IntEnum):
  """What a random number is for."""

  RULE_STRINGS = 1  # the enumeration of strings of one length
  RULE_PAIRS = 2  # which y goes with which x
  INIT = 3  # initial parameters
  EPOCH_ORDER = 4  # order of the examples, index = epoch
  NOOP_CHOICE = 5  # which examples are no-ops
  TRAIN_INPUT = 6  # training inputs, index = example
  SEEN_INPUT = 7  # fresh inputs for training rules
  DEV_INPUT = 8  # inputs for dev rules
  TEST_INPUT = 9  # inputs for test rules
  DROPOUT = 10  # dropout masks, index = step
  RULE_LENGTHS = 11  # which |y| goes with which |x|
  SEEN_RULE = 12  # which training rules are evaluated, if example counts differ
  MIX = 13  # which test examples are no-ops at the training ratio


def key(seed: Any, purpose: Any, index: Any = 0) -> jax.Array:
  """The typed key of (seed, purpose, index); all three may be traced integers."""
  if isinstance(purpose, Purpose):
    purpose = int(purpose)
  return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), purpose), index)


def mix32(h: Any) -> jax.Array:
  """MurmurHash3's 32-bit finaliser: bijective, each output bit mixes all input bits."""
  h = jnp.asarray(h, jnp.uint32)
  h = (h ^ (h >> 16)) * jnp.uint32(0x85EBCA6B)
  h = (h ^ (h >> 13)) * jnp.uint32(0xC2B2AE35)
  return h ^ (h >> 16)


def permute(key_: jax.Array, i, n: int) -> jax.Array:
  """A keyed bijection of [0, n), at i: a mixed-radix Feistel network, cycle-walked.

  i: an int32 scalar (vmap for more). n: static, at most MAX_SIZE.
  """
  return _walk(key_, i, n, _feistel)


def unpermute(key_: jax.Array, i, n: int) -> jax.Array:
  """The inverse of `permute`: unpermute(k, permute(k, i, n), n) == i."""
  return _walk(key_, i, n, _unfeistel)


def round_keys(key_: jax.Array, rounds: int) -> jax.Array:
  """The round keys [rounds] (uint32) of a Feistel network, derived from a key."""
  words = jax.random.key_data(key_)
  round_ = np.arange(1, rounds + 1, dtype=np.uint32)
  return mix32(mix32(words[0] + round_ * np.uint32(0x9E3779B1)) ^ words[1])


def _walk(key_, i, n, network):
  """Apply the network to i until the value is in [0, n), at least once."""
  if not 1 <= n <= MAX_SIZE:
    raise ValueError(f'a keyed bijection of [0, {n}) does not fit int32')
  # The network permutes [0, a * b). As a * b < n + a, few values need a second pass.
  a = math.isqrt(n - 1) + 1
  b = -(-n // a)
  subkeys = round_keys(key_, ROUNDS)

  def unfinished(carry):
    v, passes = carry
    return (passes == 0) | (v >= n)

  def advance(carry):
    v, passes = carry
    return network(subkeys, v, a, b), passes + 1

  # i % n: an index out of range, whose result is discarded, would walk for ever.
  # The zero makes the start depend on the key, so that both vary alike over a mesh.
  start = jnp.asarray(i, jnp.int32) % n + (subkeys[0] * 0).astype(jnp.int32)
  v, _ = jax.lax.while_loop(unfinished, advance, (start, 0))
  return v


def _round(subkey, half, modulus):
  """The pseudo-random shift in [0, modulus) that one half gives the other."""
  h = mix32(half.astype(jnp.uint32) * jnp.uint32(0x9E3779B1) + subkey)
  return (h % jnp.uint32(modulus)).astype(jnp.int32)


def _feistel(subkeys, v, a, b):
  """A permutation of [0, a * b) at v = left * b + right."""
  left, right = v // b, v % b
  for r in range(0, ROUNDS, 2):
    left = (left + _round(subkeys[r], right, a)) % a
    right = (right + _round(subkeys[r + 1], left, b)) % b
  return left * b + right


def _unfeistel(subkeys, v, a, b):
  """The inverse of `_feistel`."""
  left, right = v // b, v % b
  for r in reversed(range(0, ROUNDS, 2)):
    right = (right - _round(subkeys[r + 1], left, b)) % b
    left = (left - _round(subkeys[r], right, a)) % a
  return left * b + right
