"""Addressed randomness: every key is `key(seed, purpose, index)`, nothing is threaded.

A number drawn in a run depends on the run's seed, on what it is for and on its
index, never on device count, host, batch size or the order of events. The
integers of `Purpose` are fixed for good: a new purpose takes a new integer, so
adding one changes no number drawn before.
"""

import enum
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

ROUNDS = 6  # Feistel rounds; an even number, so both halves are mixed alike


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
  SEEN_RULE = 12  # which training rules are evaluated, where counts differ
  MIX = 13  # which test examples are no-ops at the training ratio


def key(seed: Any, purpose: Any, index: Any = 0) -> jax.Array:
  """The typed key of (seed, purpose, index): a `Purpose`; each may be traced."""
  if isinstance(purpose, Purpose):
    purpose = int(purpose)
  return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), purpose), index)


def mix32(h: Any) -> jax.Array:
  """A bijective 32-bit finaliser (murmur3): every output bit sees every input bit."""
  h = jnp.asarray(h, jnp.uint32)
  h = (h ^ (h >> 16)) * jnp.uint32(0x85EBCA6B)
  h = (h ^ (h >> 13)) * jnp.uint32(0xC2B2AE35)
  return h ^ (h >> 16)


def permute(key_: jax.Array, i, n: int) -> jax.Array:
  """Keyed bijection of [0, n) at i: a mixed-radix Feistel network, cycle-walked.

  i is an int32 scalar (vmap for more), n is static and at most 2**31 - 2**16.
  """
  return _walk(key_, i, n, _feistel)


def unpermute(key_: jax.Array, i, n: int) -> jax.Array:
  """The inverse of `permute`: unpermute(k, permute(k, i, n), n) == i."""
  return _walk(key_, i, n, _unfeistel)


def round_keys(key_: jax.Array, rounds: int) -> jax.Array:
  """The keys of a network's rounds: the words of a key, mixed with the round."""
  words = jax.random.key_data(key_)
  round_ = np.arange(1, rounds + 1, dtype=np.uint32)
  return mix32(mix32(words[0] + round_ * np.uint32(0x9E3779B1)) ^ words[1])


def _walk(key_, i, n, network):
  if not 1 <= n <= 2**31 - 2**16:
    raise ValueError(f'a keyed bijection of [0, {n}) does not fit int32')
  a = math.isqrt(n - 1) + 1
  b = -(-n // a)  # a * b < n + a, so a walk leaves [0, n) rarely
  subkeys = round_keys(key_, ROUNDS)

  def again(carry):
    v, walked = carry
    return network(subkeys, v, a, b), walked + 1

  # i mod n keeps a value that is computed but not used from walking for ever. The
  # zero ties the start to the key, so that both vary alike over a mesh.
  start = jnp.asarray(i, jnp.int32) % n + (subkeys[0] * 0).astype(jnp.int32)
  v, _ = jax.lax.while_loop(lambda c: (c[1] == 0) | (c[0] >= n), again, (start, 0))
  return v


def _round(subkey, half, modulus):
  h = mix32(half.astype(jnp.uint32) * jnp.uint32(0x9E3779B1) + subkey)
  return (h % jnp.uint32(modulus)).astype(jnp.int32)


def _feistel(subkeys, v, a, b):
  left, right = v // b, v % b
  for r in range(0, ROUNDS, 2):
    left = (left + _round(subkeys[r], right, a)) % a
    right = (right + _round(subkeys[r + 1], left, b)) % b
  return left * b + right


def _unfeistel(subkeys, v, a, b):
  left, right = v // b, v % b
  for r in reversed(range(0, ROUNDS, 2)):
    right = (right - _round(subkeys[r + 1], left, b)) % b
    left = (left - _round(subkeys[r], right, a)) % a
  return left * b + right
