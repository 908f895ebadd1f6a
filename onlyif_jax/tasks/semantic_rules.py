"""Patterns of constrained form, and rules whose x and y share one (Only-IF, Fig. 4).

A pattern of P letters is a block of P / k letters, spelled out k times in one of
three ways; k divides P, and k = 1 is an unconstrained pattern.

>>> spell('abc', 'repeat', 3), spell('abc', 'periodic', 2), spell('abc', 'mirror', 3)
('aaabbbccc', 'abcabc', 'abccbaabc')

Many patterns can be read in several ways (abababab has k = 4 and k = 2; with k = P
there is one letter, whatever the class). A pattern belongs to one *group* (k, class)
alone: that of its largest k, and there to the first class in the order above.

>>> form('aabbaabb'), form('abbaabba'), form('aaaa'), form('abac')
((2, 'repeat'), (4, 'mirror'), (4, 'repeat'), (1, 'unconstrained'))

So no test pattern (k < 3) can be read as one of k >= 3, and a pattern that is counted
for k = 3 is none of k = 4. A training set of several classes has the patterns of
their groups; those of one repeated letter (k = P) belong to every class.
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
DOMAINS = ('unconstrained', *CLASSES)  # a group's domain is an index of these
CELLS = ('in_range', 'small_k')
INDEXED = 2**20  # blocks of a group that are indexed, where it has more
SMALL_K = 3  # held-out rules have a smaller k, training rules have none
MOST = 2**31 - 2**16  # what an int32 index reaches


class Group(NamedTuple):
  """The patterns of one k and class."""

  k: int
  domain: int

  @property
  def text(self) -> str:
    """The group in words."""
    return f'{DOMAINS[self.domain]} k={self.k}'


class SemanticRule(NamedTuple):
  """Replace x by y, both of one k and domain (an index of DOMAINS)."""

  x_P: jax.Array
  x_len: jax.Array
  y_Q: jax.Array
  y_len: jax.Array
  k: jax.Array
  domain: jax.Array


def groups(length: int) -> tuple[Group, ...]:
  """Every group of patterns of a length; a pattern belongs to the first that fits."""
  ks = [k for k in range(length - 1, 1, -1) if length % k == 0]
  own = [Group(k, 1 + n) for k in ks for n in range(len(CLASSES))]
  return (Group(length, 1), *own, Group(1, 0))


def chosen(length: int, classes: str, k_min: int, k_max: int) -> np.ndarray:
  """Which groups (bool, [G]) have some of the classes and a k of the range."""
  domains = [DOMAINS.index(name) for name in classes.split('+')]
  return np.array(
    [
      k_min <= k <= k_max and (k == length or domain in domains)
      for k, domain in groups(length)
    ]
  )


def source(length: int, group: Group) -> np.ndarray:
  """The place in the block, [P], that each letter of the group's patterns repeats."""
  size = length // group.k
  at = np.arange(length)
  if DOMAINS[group.domain] == 'repeat':
    return at // group.k
  turn, place = np.divmod(at, size)
  if DOMAINS[group.domain] == 'mirror':
    return np.where(turn % 2, size - 1 - place, place)
  return place


def spell(block: str, name: str, k: int) -> str:
  """The pattern of a block, by the places that the data use."""
  at = source(k * len(block), Group(k, DOMAINS.index(name)))
  return ''.join(block[n] for n in at)


def form(text: str) -> tuple[int, str]:
  """A pattern's k and class, read from plain text: an independent check."""
  for k in range(len(text), 1, -1):
    size, rest = divmod(len(text), k)
    block = text[:size]
    if rest:
      continue
    if text == ''.join(letter * k for letter in text[::k]):
      return k, 'repeat'
    if text == block * k:
      return k, 'periodic'
    if text == ((block + block[::-1]) * k)[: len(text)]:
      return k, 'mirror'
  return 1, 'unconstrained'


class _Tables(NamedTuple):
  """What is known about the groups, made on the host."""

  source_GP: np.ndarray  # pattern = block[source]
  first_GP: np.ndarray  # where in the pattern that letter stands first
  size_G: np.ndarray  # letters of a block
  counts_G: np.ndarray  # patterns that are indexed
  skips_S: np.ndarray  # sorted: group * INDEXED + number - rank of a skipped number
  skipped_G: np.ndarray  # skipped numbers of all groups before


@dataclasses.dataclass(frozen=True)
class Forms:
  """The patterns of each group, enumerated: static under jit.

  Pattern i of a group begins as a number, written as the first letters of a block
  (the rest is fixed). Numbers whose pattern belongs to another group are left out
  by a table. A keyed bijection of all blocks is then applied until the pattern
  belongs to the group again, which permutes the group's patterns.
  """

  length: int
  alphabet: int
  indexed: int = INDEXED

  @property
  def digits(self) -> int:
    """Letters of a block that vary at first: as many as `indexed` allows."""
    room = [n for n in range(1, 31) if self.alphabet**n <= self.indexed]
    return max(room, default=1)

  @property
  def counts(self) -> np.ndarray:
    """Patterns of each group, exact where a block has at most `digits` letters."""
    return _tables(self).counts_G

  def owner(self, pattern_P):
    """The group of a pattern."""
    first_GP = jnp.asarray(_tables(self).first_GP)
    return jnp.argmax((pattern_P[first_GP] == pattern_P[None, :]).all(-1))

  def pattern(self, seed, group, i):
    """Pattern i of a group, as letters; seed, group and i < `counts` may be traced."""
    t, a = _tables(self), self.alphabet
    source_P = jnp.asarray(t.source_GP)[group]
    size = jnp.asarray(t.size_G)[group]
    key = keys.key(seed, Purpose.RULE_STRINGS, group)
    # An index that is computed but not used must not walk for ever.
    count = jnp.asarray(t.counts_G)[group]
    i = i % jnp.maximum(count, 1)
    left_out = jnp.searchsorted(
      jnp.asarray(t.skips_S), group * self.indexed + i, side='right'
    ) - jnp.take(jnp.asarray(t.skipped_G), group)
    n = jnp.arange(self.length)
    powers = np.array([a ** min(k, self.digits - 1) for k in range(self.length)])
    block_P = (i + left_out) // powers.astype(np.int32) % a
    block_P = jnp.where(n < jnp.minimum(size, self.digits), block_P, 0)
    block_P = jnp.where((n >= self.digits) & (n == size - 1), 1, block_P)
    # One letter has no halves to mix.
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
  own = groups(forms.length)
  source_GP = np.stack([source(forms.length, g) for g in own])
  scale_G = np.array([g.k if DOMAINS[g.domain] == 'repeat' else 1 for g in own])
  first_GP = source_GP * scale_G[:, None]
  size_G = forms.length // np.array([g.k for g in own])
  counts, skips, skipped = [], [], [0]
  for g, size in enumerate(size_G):
    out = _left_out(forms, size, source_GP[g], first_GP[:g])
    counts.append(forms.alphabet ** min(size, forms.digits) - len(out))
    skips.append(g * forms.indexed + out - np.arange(len(out)))
    skipped.append(skipped[-1] + len(out))
  int32 = functools.partial(np.asarray, dtype=np.int32)
  return _Tables(
    *(int32(source_GP), int32(first_GP), int32(size_G), int32(counts)),
    *(int32(np.concatenate(skips)), int32(skipped[:-1])),
  )


def _left_out(forms: Forms, size, source_P, first_HP) -> np.ndarray:
  """The numbers, sorted, whose patterns belong to one of the groups before.

  A pattern belongs to an earlier group where certain letters are equal, so these
  equalities are asked of the block, one after the other.
  """
  varying = min(size, forms.digits)
  numbers = np.arange(forms.alphabet**varying)
  letters = [numbers // forms.alphabet**n % forms.alphabet for n in range(varying)]
  fixed = [int(n == size - 1) for n in range(varying, size)]
  found = np.zeros(len(numbers), bool)
  for first_P in first_HP:
    asked = {(int(a), int(b)) for a, b in zip(source_P[first_P], source_P, strict=True)}
    pairs = [tuple(sorted(pair)) for pair in asked if pair[0] != pair[1]]
    inside = [(a, b) for a, b in pairs if a >= varying]
    if any(fixed[a - varying] != fixed[b - varying] for a, b in inside):
      continue
    rest = numbers
    for a, b in set(pairs) - set(inside):
      other = letters[b][rest] if b < varying else fixed[b - varying]
      rest = rest[letters[a][rest] == other]
    found[rest] = True
  return np.flatnonzero(found)


@dataclasses.dataclass(frozen=True)
class SemanticSpace:
  """Every rule over patterns of P letters; both sides belong to one group.

  The groups that training may use are traced: `setting['groups']` (bool, [G]; see
  `chosen`), all of k >= 3 by default. Train and dev rules come from these, test rules
  from the groups of k < 3. The groups take turns, so k and class are uniform; one
  whose strings (or pairs, with distinct='pairs') are used up drops out, and the others
  go on, which have a smaller k. So a rule is a pure function of (seed, i, setting),
  and the set of I rules is nested in every larger one.
  """

  length: int
  alphabet: int
  dev_fraction: float = 0.1
  test_fraction: float = 0.2
  distinct: str = 'xy'
  indexed: int = INDEXED

  @property
  def forms(self) -> Forms:
    """The patterns."""
    return Forms(self.length, self.alphabet, self.indexed)

  @property
  def description(self) -> str:
    """The rules in words."""
    return f'repeat, periodic, mirror: |x|=|y|={self.length} over {self.alphabet}'

  def interval(self, part: Part) -> tuple[np.ndarray, np.ndarray]:
    """The first pattern and the number of patterns of a part, in each group."""
    pool = self.forms.counts
    dev = np.round(pool * self.dev_fraction).astype(np.int32)
    test = np.round(pool * self.test_fraction).astype(np.int32)
    cuts = (np.zeros_like(pool), pool - dev - test, pool - test, pool)
    return cuts[part], cuts[part + 1] - cuts[part]

  def supply(self, part: Part, distinct: str) -> np.ndarray:
    """The rules of a part in each group; one string alone makes no rule x != y."""
    own = self.interval(part)[1].astype(np.int64)
    rules_G = own * (own - 1) if distinct == 'pairs' else np.where(own > 1, own, 0)
    return np.minimum(rules_G, MOST // len(own))

  def groups(self, part: Part, setting=None, cell: str = '') -> Any:
    """The groups in use, bool, [G]: those of training (all k >= 3 unless given), or
    for the test part and cell 'small_k' those of k < 3. Traced where `setting` is.
    """
    if cell and cell not in CELLS:
      raise ValueError(f'unknown cell {cell!r}; one of {", ".join(CELLS)}')
    if cell == 'small_k' or (part == Part.TEST and not cell):
      return np.array([g.k < SMALL_K for g in groups(self.length)])
    if setting is not None:
      return setting['groups']
    return chosen(self.length, '+'.join(CLASSES), SMALL_K, self.length)

  def capacity(self, part: Part = Part.TRAIN, setting=None, cell: str = '') -> int:
    """Distinct rules of a part, in the groups that the setting allows."""
    own_G = np.asarray(self.groups(part, setting, cell))
    return int(self.supply(part, self.distinct)[own_G].sum())

  def pair_capacity(self, part: Part = Part.TRAIN) -> int:
    """The rules of a part when only the pairs must differ; later ones recur."""
    return int(self.supply(part, 'pairs')[self.groups(part)].sum())

  def rule(self, seed, part: Part, i, setting=None) -> SemanticRule:
    """Rule i of a part; the first `capacity` have distinct x and distinct y.

    Later ones are new pairs of the same strings.
    """
    return self.pick(seed, part, i, self.groups(part, setting))

  def cell_rule(self, seed, part: Part, cell: str, i, instructions, setting=None):
    """Rule i of a part with the k and classes of training, or with k < 3.

    With (Rule, bool): it does not exist where the part has too few patterns.
    """
    del instructions
    own_G = jnp.asarray(self.groups(part, setting, cell))
    exists = (jnp.asarray(self.supply(part, self.distinct) > 0) & own_G).any()
    return self.pick(seed, part, i, own_G), exists

  def lend(self, rule: SemanticRule, other: SemanticRule) -> SemanticRule:
    """The rule with the other's y."""
    return rule._replace(y_Q=other.y_Q, y_len=other.y_len)

  def certify(self, seed: int, instructions: int, held_out: int, setting=None) -> dict:
    """The proof that parts share nothing and have the k and class they should."""
    from onlyif_jax.tasks import semantic_certificate  # it is about this class

    return semantic_certificate.certify(self, seed, instructions, held_out, setting)

  def locate(self, part, i, own_G):
    """Rule i -> (group, its index there, how often all rules were passed).

    own_G: bool, the groups in use. They take turns, that of fewest rules first.
    """
    supplies = np.stack([self.supply(p, self.distinct) for p in Part])
    supply_G = jnp.asarray(supplies, jnp.int32)[part]
    supply_G = jnp.where(own_G, supply_G, 0)
    order_G = jnp.argsort(supply_G)
    # Stage s: the s smallest groups are used up, the others take turns.
    ends_G = supply_G[order_G]
    used_G = jnp.concatenate([0 * ends_G[:1], ends_G[:-1]])
    active_G = np.arange(len(order_G), 0, -1, dtype=np.int32)
    laps_G = active_G * (ends_G - used_G)
    begins_G = jnp.cumsum(laps_G) - laps_G
    total = jnp.maximum(supply_G.sum(), 1)
    passed, i = i // total, i % total
    stage = (begins_G <= i).sum() - 1
    offset, active = i - begins_G[stage], len(order_G) - stage
    return order_G[stage + offset % active], used_G[stage] + offset // active, passed

  def pick(self, seed, part, i, own_G) -> SemanticRule:
    """Rule i of a part, from the groups own_G (bool); all may be traced."""
    starts, sizes = zip(*(self.interval(p) for p in Part), strict=True)
    start_G, size_G = jnp.asarray(np.stack(starts))[part], jnp.asarray(sizes)[part]
    own_G = jnp.asarray(own_G)
    group, at, passed = self.locate(part, jnp.asarray(i, jnp.int32), own_G)
    size = jnp.maximum(size_G[group], 1)
    # y is half a turn away from x: no string is paired with itself, and while fewer
    # than half are used all strings differ. Rounding down keeps pairs from swapping.
    half = jnp.maximum((size - 1) // 2, 1)
    shift = 1 + (half - 1 + at // size + passed) % jnp.maximum(size - 1, 1)
    pair_2 = start_G[group] + jnp.stack([at % size, (at % size + shift) % size])
    x_P, y_P = jax.vmap(lambda n: self.forms.pattern(seed, group, n))(pair_2)
    k_G, domain_G = np.array(groups(self.length), np.int32).T
    length = jnp.int32(self.length)
    return SemanticRule(
      *(x_P, length, y_P, length),
      k=jnp.asarray(k_G)[group],
      domain=jnp.asarray(domain_G)[group],
    )
