"""Patterns of constrained form, and rules whose x and y share a form (Only-IF, Fig. 4).

A pattern of P letters is a block of P / k letters that is repeated k times, in one of
three ways (classes). k divides P; k = 1 is an unconstrained pattern.

>>> spell('abc', 'repeat', 3), spell('abc', 'periodic', 2), spell('abc', 'mirror', 3)
('aaabbbccc', 'abcabc', 'abccbaabc')

Many patterns can be read in several ways (abababab has k = 4 and k = 2; with k = P
there is one letter, whatever the class). A pattern belongs to exactly one *group*
(k, class): that of its largest k, and of the first class in the order above.

>>> form('aabbaabb'), form('abbaabba'), form('aaaa'), form('abac')
((2, 'repeat'), (4, 'mirror'), (4, 'repeat'), (1, 'unconstrained'))

So no test pattern (k < 3) can be read as one with k >= 3. A training set of several
classes has the patterns of their groups; patterns of one letter (k = P) belong to
every class.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from onlyif_jax import keys
from onlyif_jax.keys import Purpose
from onlyif_jax.tasks import rules
from onlyif_jax.tasks.rules import Part

CLASSES = ('repeat', 'periodic', 'mirror')
DOMAINS = ('unconstrained', *CLASSES)  # a group's domain is an index into these
CELLS = ('in_range', 'small_k')
INDEXED = 2**20  # most blocks of a group that are indexed
SMALL_K = 3  # test rules have a smaller k, training rules do not


class Group(NamedTuple):
  """The patterns of one k and class."""

  k: int
  domain: int

  @property
  def text(self) -> str:
    """The group in words."""
    return f'{DOMAINS[self.domain]} k={self.k}'


class SemanticRule(NamedTuple):
  """Replace x by y, both of one k and domain (an index into DOMAINS)."""

  x_P: jax.Array
  x_len: jax.Array
  y_Q: jax.Array
  y_len: jax.Array
  k: jax.Array
  domain: jax.Array


def groups(length: int) -> tuple[Group, ...]:
  """Every group of patterns of a length; a pattern belongs to the first that fits."""
  ks = [k for k in range(length - 1, 1, -1) if length % k == 0]
  constrained = [Group(k, 1 + n) for k in ks for n in range(len(CLASSES))]
  return (Group(length, 1), *constrained, Group(1, 0))


def chosen(length: int, classes: str, k_min: int, k_max: int) -> np.ndarray:
  """The groups (bool [G]) with one of the classes and a k in the range."""
  domains = [DOMAINS.index(name) for name in classes.split('+')]
  return np.array(
    [
      k_min <= k <= k_max and (k == length or domain in domains)
      for k, domain in groups(length)
    ]
  )


def source(length: int, group: Group) -> np.ndarray:
  """The index [P] into the block of each letter of the group's patterns."""
  size = length // group.k
  index_P = np.arange(length)
  if DOMAINS[group.domain] == 'repeat':
    return index_P // group.k
  copy_P, offset_P = np.divmod(index_P, size)
  if DOMAINS[group.domain] == 'mirror':
    return np.where(copy_P % 2, size - 1 - offset_P, offset_P)
  return offset_P


def spell(block: str, name: str, k: int) -> str:
  """The pattern of a block in plain text, by the same `source` as the data."""
  source_P = source(k * len(block), Group(k, DOMAINS.index(name)))
  return ''.join(block[n] for n in source_P)


def form(text: str) -> tuple[int, str]:
  """The k and class of a pattern in plain text; independent of `source`."""
  for k in range(len(text), 1, -1):
    size, remainder = divmod(len(text), k)
    block = text[:size]
    if remainder:
      continue
    if text == ''.join(letter * k for letter in text[::k]):
      return k, 'repeat'
    if text == block * k:
      return k, 'periodic'
    if text == ((block + block[::-1]) * k)[: len(text)]:
      return k, 'mirror'
  return 1, 'unconstrained'


class _Tables(NamedTuple):
  """Tables of the groups, computed on the host."""

  source_GP: np.ndarray  # pattern = block[source]
  first_GP: np.ndarray  # where in the pattern that letter of the block comes first
  size_G: np.ndarray  # letters of a block
  counts_G: np.ndarray  # patterns that are indexed
  skips_S: np.ndarray  # sorted: group * INDEXED + number - rank of a skipped number
  skipped_G: np.ndarray  # skipped numbers of all earlier groups


@dataclasses.dataclass(frozen=True)
class Forms:
  """An enumeration of the patterns of each group; static under jit.

  Pattern i of a group starts as a number whose digits are the first letters of a
  block (the others are fixed). A table skips numbers whose pattern belongs to another
  group. Then a keyed bijection of all blocks is applied until the pattern belongs to
  the group again, which permutes the group's patterns.
  """

  length: int
  alphabet: int
  indexed: int = INDEXED

  @property
  def digits(self) -> int:
    """The number of letters of a block that vary initially, limited by `indexed`."""
    possible = [n for n in range(1, 31) if self.alphabet**n <= self.indexed]
    return max(possible, default=1)

  @property
  def counts(self) -> np.ndarray:
    """The patterns of each group; all of them if a block has at most `digits` letters."""
    return _tables(self).counts_G

  def owner(self, pattern_P):
    """The index of the group to which a pattern belongs."""
    first_GP = jnp.asarray(_tables(self).first_GP)
    return jnp.argmax((pattern_P[first_GP] == pattern_P[None, :]).all(-1))

  def pattern(self, seed, group, i):
    """Letters [P] of pattern i of a group; seed, group and i < `counts` may be traced."""
    t, a = _tables(self), self.alphabet
    source_P = jnp.asarray(t.source_GP)[group]
    size = jnp.asarray(t.size_G)[group]
    key = keys.key(seed, Purpose.RULE_STRINGS, group)
    # An index out of range, whose pattern is discarded, would walk for ever.
    count = jnp.asarray(t.counts_G)[group]
    i = i % jnp.maximum(count, 1)
    skipped = jnp.searchsorted(
      jnp.asarray(t.skips_S), group * self.indexed + i, side='right'
    ) - jnp.take(jnp.asarray(t.skipped_G), group)
    n = jnp.arange(self.length)
    powers = np.array([a ** min(k, self.digits - 1) for k in range(self.length)])
    block_P = (i + skipped) // powers.astype(np.int32) % a
    block_P = jnp.where(n < jnp.minimum(size, self.digits), block_P, 0)
    block_P = jnp.where((n >= self.digits) & (n == size - 1), 1, block_P)
    # A single letter has no halves to mix.
    single = keys.permute(key, block_P[0], a)
    block_P = jnp.where((size == 1) & (n == 0), single, block_P)
    subkeys = keys.round_keys(key, rules.STRING_ROUNDS)
    left_P = n < size // 2
    right_P = ~left_P & (n < size)

    def scramble(block_P):
      for r in range(0, rules.STRING_ROUNDS, 2):
        block_P = rules.digit_round(subkeys[r], block_P, right_P, left_P, a)
        block_P = rules.digit_round(subkeys[r + 1], block_P, left_P, right_P, a)
      return block_P

    block_P = jax.lax.while_loop(
      lambda block_P: (self.owner(block_P[source_P]) != group) & (count > 0),
      scramble,
      scramble(block_P),
    )
    return block_P[source_P]


@functools.cache
def _tables(forms: Forms) -> _Tables:
  members = groups(forms.length)
  source_GP = np.stack([source(forms.length, g) for g in members])
  scale_G = np.array([g.k if DOMAINS[g.domain] == 'repeat' else 1 for g in members])
  first_GP = source_GP * scale_G[:, None]
  size_G = forms.length // np.array([g.k for g in members])
  counts, skips, skipped = [], [], [0]
  for g, size in enumerate(size_G):
    numbers = _skipped_numbers(forms, size, source_GP[g], first_GP[:g])
    counts.append(forms.alphabet ** min(size, forms.digits) - len(numbers))
    skips.append(g * forms.indexed + numbers - np.arange(len(numbers)))
    skipped.append(skipped[-1] + len(numbers))
  int32 = functools.partial(np.asarray, dtype=np.int32)
  return _Tables(
    source_GP=int32(source_GP),
    first_GP=int32(first_GP),
    size_G=int32(size_G),
    counts_G=int32(counts),
    skips_S=int32(np.concatenate(skips)),
    skipped_G=int32(skipped[:-1]),
  )


def _skipped_numbers(forms: Forms, size, source_P, first_HP) -> np.ndarray:
  """The numbers, sorted, whose patterns belong to an earlier group.

  A pattern belongs to an earlier group if certain of its letters are equal. Each group
  H gives pairs of equal letters of the block, by which the numbers are filtered.
  """
  varying = min(size, forms.digits)
  numbers = np.arange(forms.alphabet**varying)
  letters = [numbers // forms.alphabet**n % forms.alphabet for n in range(varying)]
  fixed = [int(n == size - 1) for n in range(varying, size)]
  is_skipped = np.zeros(len(numbers), bool)
  for first_P in first_HP:
    equal = zip(source_P[first_P], source_P, strict=True)
    pairs = {(min(int(a), int(b)), max(int(a), int(b))) for a, b in equal if a != b}
    fixed_pairs = {(a, b) for a, b in pairs if a >= varying}
    if any(fixed[a - varying] != fixed[b - varying] for a, b in fixed_pairs):
      continue
    remaining = numbers
    for a, b in pairs - fixed_pairs:
      other = letters[b][remaining] if b < varying else fixed[b - varying]
      remaining = remaining[letters[a][remaining] == other]
    is_skipped[remaining] = True
  return np.flatnonzero(is_skipped)


@dataclasses.dataclass(frozen=True)
class SemanticSpace:
  """The rules over patterns of P letters; both sides belong to one group.

  The groups of training are traced: `setting['groups']` (bool [G]; see `chosen`), by
  default all with k >= 3. Train and dev rules come from these, test rules from the
  groups with k < 3. The groups take turns, so that k and class are uniform; a group
  (of large k) whose strings, or pairs with distinct='pairs', are used up drops out.
  A rule is a pure function of (seed, i, setting), and the set of I rules is nested in
  every larger one.
  """

  length: int
  alphabet: int
  dev_fraction: float = 0.1
  test_fraction: float = 0.2
  distinct: str = 'xy'
  indexed: int = INDEXED

  @property
  def forms(self) -> Forms:
    """The enumeration of the patterns."""
    return Forms(self.length, self.alphabet, self.indexed)

  @property
  def description(self) -> str:
    """The rules in words, for error messages."""
    return f'repeat, periodic, mirror: |x|=|y|={self.length} over {self.alphabet}'

  def interval(self, part: Part) -> tuple[np.ndarray, np.ndarray]:
    """(first pattern, number of patterns) of a part, each [G]."""
    count_G = self.forms.counts
    dev_G = np.round(count_G * self.dev_fraction).astype(np.int32)
    test_G = np.round(count_G * self.test_fraction).astype(np.int32)
    zero_G = np.zeros_like(count_G)
    cuts = (zero_G, count_G - dev_G - test_G, count_G - test_G, count_G)
    return cuts[part], cuts[part + 1] - cuts[part]

  def supply(self, part: Part, distinct: str) -> np.ndarray:
    """The number [G] of rules of a part; a single string makes no rule with x != y."""
    n_G = self.interval(part)[1].astype(np.int64)
    rules_G = n_G * (n_G - 1) if distinct == 'pairs' else np.where(n_G > 1, n_G, 0)
    return np.minimum(rules_G, keys.MAX_SIZE // len(n_G))

  def groups(self, part: Part, setting=None, cell: str = '') -> Any:
    """The groups in use (bool [G]), traced if the setting is.

    For the test part and the cell 'small_k' the groups with k < 3, else those of
    training.
    """
    if cell and cell not in CELLS:
      raise ValueError(f'unknown cell {cell!r}; one of {", ".join(CELLS)}')
    if cell == 'small_k' or (part == Part.TEST and not cell):
      return np.array([g.k < SMALL_K for g in groups(self.length)])
    if setting is not None:
      return setting['groups']
    return chosen(self.length, '+'.join(CLASSES), SMALL_K, self.length)

  def capacity(self, part: Part = Part.TRAIN, setting=None, cell: str = '') -> int:
    """The number of distinct rules of a part, in the groups in use."""
    groups_G = np.asarray(self.groups(part, setting, cell))
    return int(self.supply(part, self.distinct)[groups_G].sum())

  def pair_capacity(self, part: Part = Part.TRAIN) -> int:
    """The number of rules of a part if only the pairs (x, y) must differ."""
    return int(self.supply(part, 'pairs')[self.groups(part)].sum())

  def rule(self, seed, part: Part, i, setting=None) -> SemanticRule:
    """Rule i of a part; the first `capacity` have distinct x and distinct y.

    Later ones are new pairs of the same strings.
    """
    return self.pick(seed, part, i, self.groups(part, setting))

  def cell_rule(self, seed, part: Part, cell: str, i, instructions, setting=None):
    """Rule i of a part in the groups of a cell, and whether it exists: (rule, bool).

    It does not exist if the part has too few patterns.
    """
    del instructions
    groups_G = jnp.asarray(self.groups(part, setting, cell))
    exists = (jnp.asarray(self.supply(part, self.distinct) > 0) & groups_G).any()
    return self.pick(seed, part, i, groups_G), exists

  def lend(self, rule: SemanticRule, other: SemanticRule) -> SemanticRule:
    """The rule with the y of another."""
    return rule._replace(y_Q=other.y_Q, y_len=other.y_len)

  def certify(self, seed: int, instructions: int, held_out: int, setting=None) -> dict:
    """Check that parts share nothing, and k and class; see `semantic_certificate`."""
    from onlyif_jax.tasks import semantic_certificate  # which imports this module

    return semantic_certificate.certify(self, seed, instructions, held_out, setting)

  def locate(self, part, i, groups_G):
    """Rule i -> (group, its index there, completed rounds through all rules).

    groups_G (bool): the groups in use. They take turns, those with fewest rules first.
    """
    supplies = np.stack([self.supply(p, self.distinct) for p in Part])
    supply_G = jnp.asarray(supplies, jnp.int32)[part]
    supply_G = jnp.where(groups_G, supply_G, 0)
    order_G = jnp.argsort(supply_G)
    # In stage s the s smallest groups are used up and the others take turns.
    ends_G = supply_G[order_G]
    used_G = jnp.concatenate([0 * ends_G[:1], ends_G[:-1]])
    active_G = np.arange(len(order_G), 0, -1, dtype=np.int32)
    rules_G = active_G * (ends_G - used_G)  # of each stage
    begins_G = jnp.cumsum(rules_G) - rules_G
    total = jnp.maximum(supply_G.sum(), 1)
    rounds, i = i // total, i % total
    stage = (begins_G <= i).sum() - 1
    offset, active = i - begins_G[stage], len(order_G) - stage
    return order_G[stage + offset % active], used_G[stage] + offset // active, rounds

  def pick(self, seed, part, i, groups_G) -> SemanticRule:
    """Rule i of a part, from the groups in use (bool [G]); all may be traced."""
    starts, sizes = zip(*(self.interval(p) for p in Part), strict=True)
    start_G, size_G = jnp.asarray(np.stack(starts))[part], jnp.asarray(sizes)[part]
    groups_G = jnp.asarray(groups_G)
    group, index, rounds = self.locate(part, jnp.asarray(i, jnp.int32), groups_G)
    size = jnp.maximum(size_G[group], 1)
    # y is half the group away from x: no string is paired with itself, and while fewer
    # than half are used all strings differ. Rounding down keeps (x, y) from recurring
    # as (y, x).
    half = jnp.maximum((size - 1) // 2, 1)
    shift = 1 + (half - 1 + index // size + rounds) % jnp.maximum(size - 1, 1)
    i_x, i_y = index % size, (index % size + shift) % size
    pair_2 = start_G[group] + jnp.stack([i_x, i_y])
    x_P, y_P = jax.vmap(lambda n: self.forms.pattern(seed, group, n))(pair_2)
    k_G, domain_G = np.array(groups(self.length), np.int32).T
    length = jnp.int32(self.length)
    k, domain = jnp.asarray(k_G)[group], jnp.asarray(domain_G)[group]
    return SemanticRule(x_P, length, y_P, length, k, domain)
