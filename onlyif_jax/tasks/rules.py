"""Rules as a pure function of an index, and the split between seen and unseen.

All strings of one length are enumerated by one keyed bijection: index ->
pre-image digits -> string. Three intervals of the pre-image are the three
parts (train, dev, test), so a string belongs to exactly one part and the split
is arithmetic. A rule takes both x and y from its own part: a test x or y occurs
nowhere in training, neither as x nor as y.

The rule set of I instructions is the prefix i < I, so it is nested in every
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

POOL_LIMIT = 2**30  # largest number of pre-images of a length that are indexed
BLOCK = 64  # |y| is shuffled against |x| within blocks of this many rules
STRING_ROUNDS = 6


class Part(enum.IntEnum):
  """The three disjoint parts of the strings."""

  TRAIN = 0
  DEV = 1
  TEST = 2


CELLS = ('newx_newy', 'seenx_newy', 'newx_seeny', 'seenx_seeny')


class Rule(NamedTuple):
  """Replace x by y; both are letters 0..A-1, zero beyond their length."""

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
    """True where |x| and |y| are single numbers."""
    return self.x_min == self.x_max and self.y_min == self.y_max

  @property
  def same_length(self) -> bool:
    """True where every x and every y have one and the same length."""
    return self.fixed and self.x_min == self.y_min

  def interval(self, length: int, part: Part) -> tuple[int, int]:
    """Pre-images [low, high) of a part among the strings of one length."""
    pool = self.alphabet ** min(length, self._digits)
    dev, test = round(pool * self.dev_fraction), round(pool * self.test_fraction)
    cuts = (0, pool - dev - test, pool - test, pool)
    return cuts[part], cuts[part + 1]

  @property
  def _digits(self) -> int:
    """Digits of a pre-image that vary; those of longer strings stay zero."""
    if self.alphabet < 2:
      return 1
    return max(n for n in range(1, 31) if self.alphabet**n <= POOL_LIMIT)

  @property
  def description(self) -> str:
    """The rules in words."""
    x, y = f'{self.x_min}-{self.x_max}', f'{self.y_min}-{self.y_max}'
    return f'|x|={x}, |y|={y} over {self.alphabet} letters'

  @property
  def remedy(self) -> str:
    """What makes more rules, for the message that there are too few."""
    return 'lengthen the patterns, or set rules.distinct=pairs'

  def strings(self, part: Part, side: str) -> 'Pool':
    """The pool of strings from which one side ('x' or 'y') of a part's rules come."""
    low, high = (self.x_min, self.x_max) if side == 'x' else (self.y_min, self.y_max)
    other_low, other_high = (
      (self.y_min, self.y_max) if side == 'x' else (self.x_min, self.x_max)
    )
    starts, counts, strides = [], [], []
    for length in range(low, high + 1):
      start, stop = self.interval(length, part)
      # Where x and y could be equal and no derangement keeps them apart, x takes
      # the even pre-images and y the odd ones.
      shared = not self.same_length and other_low <= length <= other_high
      odd = shared and side == 'y'
      starts.append(start + odd)
      counts.append((stop - start - odd + 1) // 2 if shared else stop - start)
      strides.append(2 if shared else 1)
    return Pool(
      tuple(range(low, high + 1)), tuple(starts), tuple(counts), tuple(strides)
    )

  def capacity(self, part: Part = Part.TRAIN, setting=None) -> int:
    """The number of rules of a part that `distinct` allows."""
    del setting
    if self.distinct == 'pairs':
      return self.pair_capacity(part)
    x, y = self.strings(part, 'x').size, self.strings(part, 'y').size
    if self.same_length:
      return x if x > 1 else 0  # one string alone makes no rule x != y
    if not self.fixed:
      y = y // BLOCK * BLOCK if y > BLOCK else y
    return min(x, y)

  def pair_capacity(self, part: Part = Part.TRAIN) -> int:
    """The number of rules of a part when only the pairs must differ."""
    x, y = self.strings(part, 'x').size, self.strings(part, 'y').size
    if not self.fixed:
      return self.capacity(part)
    pairs = x * (x - 1) if self.same_length else x * y
    return min(pairs, 2**31 - 2**16)

  def rule(self, seed, part: Part, i, setting=None) -> Rule:
    """Rule i of a part; seed and i may be traced, 0 <= i < pair_capacity(part).

    The first `capacity` rules have pairwise distinct x and pairwise distinct y;
    with fixed lengths later ones are new pairs of the same strings.
    """
    del setting
    xs, ys = self.strings(part, 'x'), self.strings(part, 'y')
    i = jnp.asarray(i, jnp.int32)
    pair_key = keys.key(seed, Purpose.RULE_PAIRS, int(part))
    if self.same_length:
      # A rotation seen through a bijection: no i is paired with itself.
      place = keys.permute(pair_key, i % xs.size, xs.size)
      shift = 1 + i // xs.size
      i_x = i % xs.size
      i_y = keys.unpermute(pair_key, (place + shift) % ys.size, ys.size)
    elif self.fixed:
      i_x = i % xs.size
      i_y = keys.permute(pair_key, (i_x + i // xs.size) % ys.size, ys.size)
    else:
      size = min(BLOCK, ys.size)
      block_key = keys.key(seed, Purpose.RULE_LENGTHS, i // size)
      i_x, i_y = i, i // size * size + keys.permute(block_key, i % size, size)
    x_P, x_len = self._string(seed, xs, i_x)
    y_Q, y_len = self._string(seed, ys, i_y)
    return Rule(x_P, x_len, y_Q, y_len)

  def lend(self, rule: Rule, other: Rule) -> Rule:
    """The rule with the other's y."""
    return rule._replace(y_Q=other.y_Q, y_len=other.y_len)

  def certify(self, seed: int, instructions: int, held_out: int, setting=None) -> dict:
    """The proof that training and held-out rules share nothing; see `certificate`."""
    from onlyif_jax.tasks import certificate  # it is about this class

    del setting
    return certificate.certify(self, seed, instructions, held_out)

  def cell_rule(self, seed, part: Part, cell: str, i, instructions, setting=None):
    """Rule i of a test cell, and whether it exists, as (Rule, bool).

    'seenx' and 'seeny' take that side from a training rule (index < I). A pair
    of a seen x and a seen y is never itself a training rule.
    """
    del setting
    if cell not in CELLS:
      raise ValueError(f'unknown cell {cell!r}; one of {", ".join(CELLS)}')
    exists = jnp.bool_(True)
    if cell == 'seenx_seeny':
      return self._seen_pair(seed, i, instructions)
    new = self.rule(seed, part, i)
    seen = self.rule(seed, Part.TRAIN, i % instructions)
    x, y = (
      (seen if cell[:4] == 'seen' else new),
      (seen if cell.endswith('seeny') else new),
    )
    return Rule(x.x_P, x.x_len, y.y_Q, y.y_len), exists

  def _seen_pair(self, seed, i, instructions):
    own = i % instructions
    cap = (
      self.capacity() if self.distinct == 'xy' else self.strings(Part.TRAIN, 'x').size
    )
    x = self.rule(seed, Part.TRAIN, own)
    once = self.rule(seed, Part.TRAIN, (i + 1) % instructions)
    twice = self.rule(seed, Part.TRAIN, (i + 2) % instructions)
    clash = same_string(x.x_P, x.x_len, once.y_Q, once.y_len)
    y = jax.tree.map(lambda a, b: jnp.where(clash, b, a), once, twice)
    mixed = Rule(x.x_P, x.x_len, y.y_Q, y.y_len)
    exists = (instructions > 2) | ((instructions == 2) & ~clash)
    if self.distinct == 'pairs':
      # Beyond `cap` rules every string is seen: the next pairs are the cell.
      later = self.rule(seed, Part.TRAIN, instructions + i)
      many = instructions > cap
      mixed = jax.tree.map(lambda a, b: jnp.where(many, b, a), mixed, later)
      room = instructions + i < self.pair_capacity()
      exists = jnp.where(many, room, exists)
    return mixed, exists

  def _string(self, seed, pool: 'Pool', i):
    """String i of a pool as (letters, length), zero beyond the length."""
    which, within = pool.locate(i)
    starts, strides, lengths = (
      jnp.asarray(v, jnp.int32) for v in (pool.starts, pool.strides, pool.lengths)
    )
    preimage = starts[which] + within * strides[which]
    return self._scramble(seed, preimage, lengths[which], pool), lengths[which]

  def _scramble(self, seed, preimage, length, pool: 'Pool'):
    """Keyed bijection of the strings of each length: pre-image -> letters.

    A Feistel network on digits: the first half of the string and the rest are
    shifted in turn by pseudo-random digits made from the other. length is traced,
    so one network serves all lengths.
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
  """Strings of several lengths in one order: lengths take turns until used up."""

  lengths: tuple[int, ...]
  starts: tuple[int, ...]  # first pre-image of each length
  counts: tuple[int, ...]  # strings of each length
  strides: tuple[int, ...]  # distance between neighbouring pre-images

  @property
  def size(self) -> int:
    """Strings in the pool, at most what an int32 index reaches."""
    return min(sum(self.counts), 2**31 - 2**16)

  @functools.cached_property
  def _stages(self):
    """Stage s: the s shortest supplies are used up, the others take turns."""
    order = sorted(range(len(self.counts)), key=lambda n: self.counts[n])
    begins, used, begin, before = [], [], 0, 0
    for s, n in enumerate(order):
      begins.append(min(begin, 2**31 - 1))
      used.append(before)
      begin += (len(order) - s) * (self.counts[n] - before)
      before = self.counts[n]
    return np.array(order), np.array(begins), np.array(used)

  def locate(self, i):
    """Index i of the pool -> (which length, index among its strings)."""
    order, begins, used = (jnp.asarray(v, jnp.int32) for v in self._stages)
    stage = jnp.searchsorted(begins, i, side='right') - 1
    offset = i - begins[stage]
    active = len(self.lengths) - stage
    which = order[stage + offset % active]
    return which, used[stage] + offset // active


def same_string(a_P, a_len, b_Q, b_len):
  """Whether two padded strings are equal."""
  n = max(a_P.shape[0], b_Q.shape[0])
  a = jnp.pad(a_P, (0, n - a_P.shape[0]))
  b = jnp.pad(b_Q, (0, n - b_Q.shape[0]))
  return (a_len == b_len) & (a == b).all()


def digit_round(subkey, digits, source, target, alphabet: int):
  """Shifts the target digits by pseudo-random digits made from the source digits."""
  n = np.arange(1, digits.shape[0] + 1, dtype=np.uint32)
  weights = keys.mix32(np.uint32(0x9E3779B1) * n) | jnp.uint32(1)
  h = (jnp.where(source, digits, 0).astype(jnp.uint32) * weights).sum(dtype=jnp.uint32)
  shift = keys.mix32(keys.mix32(h + subkey) + n) % jnp.uint32(alphabet)
  return jnp.where(target, (digits + shift.astype(jnp.int32)) % alphabet, digits)
