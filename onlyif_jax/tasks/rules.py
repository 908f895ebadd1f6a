"""Rules as a pure function of an index, and the split between seen and unseen.

A keyed bijection maps pre-images (integers) to the strings of one length. Three
intervals of the pre-images are the three parts (train, dev, test), so a string
belongs to exactly one part and the split is arithmetic. A rule takes both x and y
from its own part: a test x or y occurs nowhere in training, neither as x nor as y.

The rule set of I instructions is the prefix i < I. It is therefore nested in every
larger one of the same seed, and I itself may be traced. (Only-IF, section 2.)
"""

import dataclasses
import enum
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from onlyif_jax import keys
from onlyif_jax.keys import Purpose

POOL_LIMIT = 2**30  # most pre-images of one length that are indexed
BLOCK = 64  # |y| is shuffled against |x| within blocks of this many rules
STRING_ROUNDS = 6  # Feistel rounds of the bijection of strings


class Part(enum.IntEnum):
  """The three disjoint parts of the strings."""

  TRAIN = 0
  DEV = 1
  TEST = 2


CELLS = ('newx_newy', 'seenx_newy', 'newx_seeny', 'seenx_seeny')


class Rule(NamedTuple):
  """Replace x by y; both hold letters 0..A-1, and zeros beyond their length."""

  x_P: jax.Array
  x_len: jax.Array
  y_Q: jax.Array
  y_len: jax.Array


@dataclasses.dataclass(frozen=True)
class RuleSpace:
  """Every rule over an alphabet with the given pattern lengths.

  distinct='xy': training x are pairwise distinct, and so are training y.
  distinct='pairs': only the pairs are distinct, so there may be more rules than
  strings (fixed lengths only).
  """

  alphabet: int = 26
  x_min: int = 3
  x_max: int = 3
  y_min: int = 3
  y_max: int = 3
  dev_fraction: float = 0.1
  test_fraction: float = 0.2
  distinct: str = 'xy'

  def __post_init__(self):
    if self.distinct == 'pairs' and not self.fixed:
      raise ValueError(
        "rules.distinct='pairs' needs one |x| and one |y|: set task.x_min = "
        "task.x_max and task.y_min = task.y_max, or use distinct='xy'"
      )

  @property
  def fixed(self) -> bool:
    """Whether all x have one length, and all y have one length."""
    return self.x_min == self.x_max and self.y_min == self.y_max

  @property
  def same_length(self) -> bool:
    """Whether all x and all y have the same length."""
    return self.fixed and self.x_min == self.y_min

  def interval(self, length: int, part: Part) -> tuple[int, int]:
    """Pre-images [low, high) of a part among the strings of one length."""
    size = self.alphabet ** min(length, self._digits)
    dev, test = round(size * self.dev_fraction), round(size * self.test_fraction)
    cuts = (0, size - dev - test, size - test, size)
    return cuts[part], cuts[part + 1]

  @property
  def _digits(self) -> int:
    """The number of digits of a pre-image that vary; any further digits are zero."""
    if self.alphabet < 2:
      return 1
    return max(n for n in range(1, 31) if self.alphabet**n <= POOL_LIMIT)

  @property
  def description(self) -> str:
    """The rules in words, for error messages."""
    x, y = f'{self.x_min}-{self.x_max}', f'{self.y_min}-{self.y_max}'
    return f'|x|={x}, |y|={y} over {self.alphabet} letters'

  @property
  def remedy(self) -> str:
    """How to get more rules, for the error that there are too few."""
    return 'lengthen the patterns, or set rules.distinct=pairs'

  def strings(self, part: Part, side: str) -> 'Pool':
    """The strings from which a part's rules take one side, 'x' or 'y'."""
    x_lengths = range(self.x_min, self.x_max + 1)
    y_lengths = range(self.y_min, self.y_max + 1)
    lengths, others = (x_lengths, y_lengths) if side == 'x' else (y_lengths, x_lengths)
    starts, counts, strides = [], [], []
    for length in lengths:
      start, stop = self.interval(length, part)
      # If x and y share a length, they must not be equal. `rule` sees to that when
      # it is their only length; else x takes even pre-images and y odd ones.
      shared = not self.same_length and length in others
      odd = shared and side == 'y'
      starts.append(start + odd)
      counts.append((stop - start - odd + 1) // 2 if shared else stop - start)
      strides.append(2 if shared else 1)
    return Pool(tuple(lengths), tuple(starts), tuple(counts), tuple(strides))

  def capacity(self, part: Part = Part.TRAIN, setting=None) -> int:
    """The number of rules of a part, distinct as `distinct` says."""
    del setting
    if self.distinct == 'pairs':
      return self.pair_capacity(part)
    x, y = self.strings(part, 'x').size, self.strings(part, 'y').size
    if self.same_length:
      return x if x > 1 else 0  # a single string makes no rule with x != y
    if not self.fixed and y > BLOCK:
      y = y // BLOCK * BLOCK  # whole blocks only
    return min(x, y)

  def pair_capacity(self, part: Part = Part.TRAIN) -> int:
    """The number of rules of a part if only the pairs (x, y) must differ."""
    if not self.fixed:
      return self.capacity(part)
    x, y = self.strings(part, 'x').size, self.strings(part, 'y').size
    pairs = x * (x - 1) if self.same_length else x * y
    return min(pairs, keys.MAX_SIZE)

  def rule(self, seed, part: Part, i, setting=None) -> Rule:
    """Rule i of a part; seed and i may be traced, 0 <= i < pair_capacity(part).

    The first `capacity` rules with distinct='xy' have pairwise distinct x and
    pairwise distinct y; later ones (fixed lengths only) are new pairs of the same
    strings.
    """
    del setting
    xs, ys = self.strings(part, 'x'), self.strings(part, 'y')
    i = jnp.asarray(i, jnp.int32)
    pair_key = keys.key(seed, Purpose.RULE_PAIRS, int(part))
    if self.same_length:
      # A rotation by 1, 2, ... conjugated by a bijection: no string meets itself.
      i_x = i % xs.size
      shift = 1 + i // xs.size
      image = keys.permute(pair_key, i_x, xs.size)
      i_y = keys.unpermute(pair_key, (image + shift) % ys.size, ys.size)
    elif self.fixed:
      i_x = i % xs.size
      i_y = keys.permute(pair_key, (i_x + i // xs.size) % ys.size, ys.size)
    else:
      # On both sides lengths take turns: shuffle y within blocks, so that each |x|
      # meets each |y|.
      size = min(BLOCK, ys.size)
      block_key = keys.key(seed, Purpose.RULE_LENGTHS, i // size)
      i_x, i_y = i, i // size * size + keys.permute(block_key, i % size, size)
    x_P, x_len = self._string(seed, xs, i_x)
    y_Q, y_len = self._string(seed, ys, i_y)
    return Rule(x_P, x_len, y_Q, y_len)

  def lend(self, rule: Rule, other: Rule) -> Rule:
    """The rule with the y of another."""
    return rule._replace(y_Q=other.y_Q, y_len=other.y_len)

  def certify(self, seed: int, instructions: int, held_out: int, setting=None) -> dict:
    """Check that training and held-out rules share nothing; see `certificate`."""
    from onlyif_jax.tasks import certificate  # which imports this module

    del setting
    return certificate.certify(self, seed, instructions, held_out)

  def cell_rule(self, seed, part: Part, cell: str, i, instructions, setting=None):
    """Rule i of a test cell, and whether it exists: (Rule, bool).

    'seenx' and 'seeny' take that side from a training rule (index < I). In
    'seenx_seeny' the sides come from different rules, so that the pair is new.
    """
    del setting
    if cell not in CELLS:
      raise ValueError(f'unknown cell {cell!r}; one of {", ".join(CELLS)}')
    if cell == 'seenx_seeny':
      return self._seen_pair(seed, i, instructions)
    new = self.rule(seed, part, i)
    seen = self.rule(seed, Part.TRAIN, i % instructions)
    x_rule = seen if cell.startswith('seenx') else new
    y_rule = seen if cell.endswith('seeny') else new
    return self.lend(x_rule, y_rule), jnp.bool_(True)

  def _seen_pair(self, seed, i, instructions):
    """The x of training rule i with the y of a later one: (Rule, whether it exists)."""
    x_rule = self.rule(seed, Part.TRAIN, i % instructions)
    next_rule = self.rule(seed, Part.TRAIN, (i + 1) % instructions)
    second_next = self.rule(seed, Part.TRAIN, (i + 2) % instructions)
    clash = same_string(x_rule.x_P, x_rule.x_len, next_rule.y_Q, next_rule.y_len)
    y_rule = jax.tree.map(lambda a, b: jnp.where(clash, b, a), next_rule, second_next)
    pair = self.lend(x_rule, y_rule)
    exists = (instructions > 2) | ((instructions == 2) & ~clash)
    if self.distinct == 'pairs':
      # With more rules than strings every string is seen, and the pairs after the
      # training rules are the cell.
      later = self.rule(seed, Part.TRAIN, instructions + i)
      all_seen = instructions > self.strings(Part.TRAIN, 'x').size
      pair = jax.tree.map(lambda a, b: jnp.where(all_seen, b, a), pair, later)
      later_exists = instructions + i < self.pair_capacity()
      exists = jnp.where(all_seen, later_exists, exists)
    return pair, exists

  def _string(self, seed, pool: 'Pool', i):
    """String i of a pool as (letters, length), zero beyond the length."""
    n, i_in_length = pool.locate(i)
    starts, strides, lengths = (
      jnp.asarray(v, jnp.int32) for v in (pool.starts, pool.strides, pool.lengths)
    )
    preimage = starts[n] + i_in_length * strides[n]
    return self._scramble(seed, preimage, lengths[n], pool), lengths[n]

  def _scramble(self, seed, preimage, length, pool: 'Pool'):
    """A keyed bijection of the strings of each length: pre-image -> letters.

    A Feistel network on digits: each half of the string in turn is shifted by
    pseudo-random digits derived from the other. length is traced, so one network
    serves all lengths.
    """
    a, width = self.alphabet, pool.lengths[-1]
    key_ = keys.key(seed, Purpose.RULE_STRINGS, length)
    varying = min(width, self._digits)
    powers = np.array([a**k for k in range(varying)], np.int32)
    digits = jnp.pad(preimage // powers % a, (0, width - varying))
    n = jnp.arange(width)
    left = n < length // 2
    right = ~left & (n < length)
    subkeys = keys.round_keys(key_, STRING_ROUNDS)
    for r in range(0, STRING_ROUNDS, 2):
      digits = digit_round(subkeys[r], digits, right, left, a)
      digits = digit_round(subkeys[r + 1], digits, left, right, a)
    if pool.lengths[0] == 1:  # one digit has no halves
      single = keys.permute(key_, preimage, a)
      digits = jnp.where((length == 1) & (n == 0), single, digits)
    return digits


@dataclasses.dataclass(frozen=True)
class Pool:
  """Strings of several lengths in one order: the lengths take turns until used up."""

  lengths: tuple[int, ...]
  starts: tuple[int, ...]  # first pre-image of each length
  counts: tuple[int, ...]  # strings of each length
  strides: tuple[int, ...]  # distance between neighbouring pre-images

  @property
  def size(self) -> int:
    """The number of strings in the pool, capped at what can be indexed."""
    return min(sum(self.counts), keys.MAX_SIZE)

  @functools.cached_property
  def _stages(self):
    """(lengths in order of supply, first index of each stage, strings used before it).

    In stage s the s smallest supplies are used up and the other lengths take turns.
    """
    order = sorted(range(len(self.counts)), key=lambda n: self.counts[n])
    begins, used_before, begin, used = [], [], 0, 0
    for s, n in enumerate(order):
      begins.append(min(begin, 2**31 - 1))
      used_before.append(used)
      begin += (len(order) - s) * (self.counts[n] - used)
      used = self.counts[n]
    return np.array(order), np.array(begins), np.array(used_before)

  def locate(self, i):
    """Index i of the pool -> (index of its length, index within that length)."""
    order, begins, used = (jnp.asarray(v, jnp.int32) for v in self._stages)
    stage = jnp.searchsorted(begins, i, side='right') - 1
    offset = i - begins[stage]
    active = len(self.lengths) - stage
    return order[stage + offset % active], used[stage] + offset // active


def same_string(a_P, a_len, b_Q, b_len):
  """Whether two padded strings are equal."""
  n = max(a_P.shape[0], b_Q.shape[0])
  a = jnp.pad(a_P, (0, n - a_P.shape[0]))
  b = jnp.pad(b_Q, (0, n - b_Q.shape[0]))
  return (a_len == b_len) & (a == b).all()


def digit_round(subkey, digits, source, target, alphabet: int):
  """Shift the target digits by pseudo-random digits derived from the source digits."""
  n = np.arange(1, digits.shape[0] + 1, dtype=np.uint32)
  weights = keys.mix32(np.uint32(0x9E3779B1) * n) | jnp.uint32(1)
  h = (jnp.where(source, digits, 0).astype(jnp.uint32) * weights).sum(dtype=jnp.uint32)
  shift = keys.mix32(keys.mix32(h + subkey) + n) % jnp.uint32(alphabet)
  return jnp.where(target, (digits + shift.astype(jnp.int32)) % alphabet, digits)
