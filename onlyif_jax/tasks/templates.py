"""Rules of algebra: pairs of expression templates, and the split into parts.

Two templates are of one class if they are equal up to renaming of slots and
commutation of + and *. Classes are enumerated once on the host, permuted by a keyed
bijection and cut into train, dev and test. So no side of a held-out rule, left or
right, is of the class of a side of a training rule. (Only-IF, section 3.)

'random': both sides are any templates of two operators over the slots A and B. They
need not be equal as expressions, and there are tens of thousands. 'identities': the
true equations of identities.txt, no two of which share a class.
"""

import dataclasses
import functools
import hashlib
import importlib.resources
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from onlyif_jax import keys
from onlyif_jax.keys import Purpose
from onlyif_jax.tasks import expressions
from onlyif_jax.tasks.expressions import COMMUTATIVE, FUNCTIONS, OPERATORS, Tree
from onlyif_jax.tasks.rules import Part

RELATION = (
  'no side of a held-out rule equals a side of a training rule up to renaming of '
  'slots, commutation of + and *, and swap of sides'
)
MIN_LENGTH = 9  # ((A+B)*A): the length of a random template without functions
IN_DOMAIN = 'in_domain'  # the cell of the training rules with index < specialist
CHUNK = 4096  # rules made in one call
# Digits of a random template's number: whether the inner operator is on the right;
# outer and inner operator; slots of the inner leaves p and q (AB, BA, BB or, with one
# slot, AA; the outer leaf is A); the functions of the outer operator, the inner
# operator, p, q and the outer leaf.
_RADIX = (2, 5, 5, 4, 7, 7, 7, 7, 7)
_LEAVES = np.array([[0, 1, 0], [1, 0, 0], [1, 1, 0], [0, 0, 0]], np.int32)  # p q outer
_ONE_SLOT = 3
_COMMUTES = np.array([c in COMMUTATIVE for c in OPERATORS])


class Equation(NamedTuple):
  """A rule: rewrite the left side to the right side; zero beyond their lengths."""

  lhs_P: jax.Array
  lhs_len: jax.Array
  rhs_Q: jax.Array
  rhs_len: jax.Array
  in_domain: jax.Array  # 1 for training rules with an index below `specialist`


@dataclasses.dataclass(frozen=True)
class EquationSpace:
  """The rules of a source.

  functions: the most in a random template. slots: its number of different slots.
  """

  source: str = 'random'
  functions: int = 2
  slots: int = 2
  dev_fraction: float = 0.1
  test_fraction: float = 0.2
  distinct: str = 'xy'

  @property
  def description(self) -> str:
    """The rules in words, for error messages."""
    if self.source == 'random':
      slots = f'{self.slots} slot{"s" * (self.slots > 1)}'
      return f'random templates of {slots} with at most {self.functions} functions'
    return 'the identities of onlyif_jax/tasks/identities.txt'

  @property
  def classes(self) -> int:
    """The number of classes ('random') or equations ('identities') of all parts."""
    return len(self._numbers if self._random else identities())

  @property
  def _random(self) -> bool:
    return self.source == 'random'

  @property
  def _numbers(self) -> np.ndarray:
    return random_classes(self.functions, self.slots)

  def interval(self, part: Part) -> tuple[int, int]:
    """Pre-images [low, high) of a part."""
    n = self.classes
    dev, test = round(n * self.dev_fraction), round(n * self.test_fraction)
    cuts = (0, n - dev - test, n - test, n)
    return cuts[part], cuts[part + 1]

  def capacity(self, part: Part = Part.TRAIN, setting: Any = None) -> int:
    """The number of distinct rules; with distinct='pairs' their sides recur."""
    low, high = self.interval(part)
    return self.pair_capacity(part) if self.distinct == 'pairs' else high - low

  def pair_capacity(self, part: Part = Part.TRAIN) -> int:
    """The number of indices that `rule` accepts: ordered pairs of two classes."""
    low, high = self.interval(part)
    n = high - low
    return min(n * (n - 1), keys.MAX_SIZE) if self._random else n

  def rule(self, seed, part: Part, i, setting: Any = None) -> Equation:
    """Rule i of a part; up to the number of classes, no side recurs on its side."""
    i = jnp.asarray(i, jnp.int32)
    specialist = 2**31 - 1 if setting is None else setting['specialist']
    in_domain = (i < specialist) if part == Part.TRAIN else jnp.bool_(False)
    make_sides = self._random_sides if self._random else self._identity_sides
    return Equation(*make_sides(seed, part, i), in_domain.astype(jnp.int32))

  def cell_rule(self, seed, part: Part, cell: str, i, instructions, setting=None):
    """Rule i of a cell, and whether it exists; '' has the rules of the part."""
    if cell not in ('', IN_DOMAIN):
      raise ValueError(f"unknown cell {cell!r}; '' or {IN_DOMAIN!r}")
    if not cell:
      return self.rule(seed, part, i, setting), jnp.bool_(True)
    count = instructions if setting is None else setting['specialist']
    return self.rule(seed, Part.TRAIN, i % count, setting), jnp.bool_(True)

  def lend(self, rule: Equation, other: Equation) -> Equation:
    """The rule with the right side of another."""
    return rule._replace(rhs_Q=other.rhs_Q, rhs_len=other.rhs_len)

  def _index(self, seed, part, i):
    """Pre-image i of a part -> index of a class."""
    key = keys.key(seed, Purpose.RULE_STRINGS)
    return keys.permute(key, self.interval(part)[0] + i, self.classes)

  def _bits(self, seed, part, i, count: int):
    """Random words of a rule."""
    key = keys.key(seed, Purpose.RULE_STRINGS, 1 + int(part))
    return jax.random.bits(jax.random.fold_in(key, i), (count,))

  def _random_sides(self, seed, part, i):
    low, high = self.interval(part)
    n = high - low
    key = keys.key(seed, Purpose.RULE_PAIRS, int(part))
    # A rotation conjugated by a bijection: no class is paired with itself.
    image = keys.permute(key, i % n, n)
    pair_2 = jnp.stack([i % n, keys.unpermute(key, (image + 1 + i // n) % n, n)])
    numbers = jnp.asarray(self._numbers)
    bits_2 = self._bits(seed, part, i, 2)

    def side(i_class, bits):
      number = numbers[self._index(seed, part, i_class)]
      return expressions.write(_template(number, bits), MIN_LENGTH + self.functions)

    letters_2P, length_2 = jax.vmap(side)(pair_2, bits_2)
    return letters_2P[0], length_2[0], letters_2P[1], length_2[1]

  def _identity_sides(self, seed, part, i):
    letters_I2P, length_I2 = _identity_table()
    index = self._index(seed, part, i % self.pair_capacity(part))
    left = (self._bits(seed, part, i, 1)[0] & 1).astype(jnp.int32)  # side of equation
    right = 1 - left
    sides_2P = jnp.asarray(letters_I2P)[index]
    length_2 = jnp.asarray(length_I2)[index]
    return sides_2P[left], length_2[left], sides_2P[right], length_2[right]

  def certify(self, seed: int, instructions: int, held_out: int, setting=None) -> dict:
    """Counts, collisions of classes, capacities and hashes; see `contract.Space`."""
    report: dict = {'rules_seed': seed, 'relation': RELATION, 'parts': {}}
    classes: dict[Part, set[str]] = {}
    for part in Part:
      count = instructions if part == Part.TRAIN else held_out
      rules = self.texts(seed, part, min(count, self.capacity(part)))
      pairs = [(canonical(lhs), canonical(rhs)) for lhs, rhs in rules]
      classes[part] = {side for pair in pairs for side in pair}
      listing = '\n'.join('='.join(rule) for rule in rules)
      report['parts'][part.name.lower()] = {
        'rules': len(rules),
        'distinct_x': len({x for x, _ in pairs}),
        'distinct_y': len({y for _, y in pairs}),
        'distinct_pairs': len(set(pairs)),
        'x_equal_y': sum(x == y for x, y in pairs),
        'capacity': self.capacity(part),
        'sha256': hashlib.sha256(listing.encode()).hexdigest(),
      }
    report['collisions'] = {
      f'{a.name.lower()}-{b.name.lower()}': len(classes[a] & classes[b])
      for a, b in itertools.combinations(Part, 2)
    }
    return report

  def texts(self, seed: int, part: Part, count: int) -> list[tuple[str, str]]:
    """The first rules of a part as text: (left side, right side)."""
    make_rules, texts = _rule_maker(self, part), []
    for start in range(0, count, CHUNK):
      rules = jax.device_get(make_rules(jnp.int32(seed), jnp.int32(start)))
      for b in range(min(CHUNK, count - start)):
        lhs = rules.lhs_P[b, : rules.lhs_len[b]]
        rhs = rules.rhs_Q[b, : rules.rhs_len[b]]
        texts.append((expressions.decode(lhs), expressions.decode(rhs)))
    return texts


def sizes(source: str, functions: int) -> list[tuple[int, int, int, int]]:
  """(length of lhs, slots in lhs, length of rhs, slots in rhs) of the longest rules."""
  if source == 'random':
    return [(MIN_LENGTH + functions, 3, MIN_LENGTH + functions, 3)]
  return [
    (len(lhs), _slots_in(lhs), len(rhs), _slots_in(rhs)) for lhs, rhs in identities()
  ]


def _slots_in(text: str) -> int:
  return sum(c in expressions.SLOTS for c in text)


@functools.cache
def _rule_maker(space: EquationSpace, part: Part):
  """The compiled (seed, start) -> CHUNK rules; one compile serves every seed."""
  limit = space.pair_capacity(part)

  def rules(seed, start):
    i = jnp.minimum(start + jnp.arange(CHUNK, dtype=jnp.int32), limit - 1)
    return jax.vmap(lambda n: space.rule(seed, part, n))(i)

  return jax.jit(rules)


@functools.cache
def random_classes(functions: int, slots: int = 2) -> np.ndarray:
  """The number of the normal form of each class with at most `functions` functions.

  In the normal form the outer leaf is A. If the outer operator is commutative, the
  inner one is on the left. If the inner operator is commutative, its leaves are AB, not
  BA, and the functions of equal leaves are in order.
  """
  choices = itertools.product(range(7), repeat=5)  # of functions, 0 being none
  f_F5 = np.array([f for f in choices if 5 - f.count(0) <= functions], np.int32)
  heads = np.array(list(itertools.product(*map(range, _RADIX[:4]))), np.int32)
  right, outer, inner, leaves = heads.T
  heads = heads[
    ((leaves == _ONE_SLOT) == (slots == 1))
    & ((right == 0) | ~_COMMUTES[outer])
    & ((leaves != 1) | ~_COMMUTES[inner])
  ]
  digits = np.concatenate(
    [np.repeat(heads, len(f_F5), 0), np.tile(f_F5, (len(heads), 1))], 1
  )
  interchangeable = _COMMUTES[digits[:, 2]] & (digits[:, 3] >= 2)  # equal inner leaves
  digits = digits[~interchangeable | (digits[:, 6] <= digits[:, 7])]
  return np.asarray(np.ravel_multi_index(tuple(digits.T), _RADIX), np.int32)


def _template(number, bits) -> Tree:
  """A template of the class of a normal form, commuted and renamed by three bits.

  A single slot stays A: renamed differently, the two sides would share no slot.
  """
  digits = []
  for base in reversed(_RADIX):
    digits.append(number % base)
    number = number // base
  right, outer, inner, leaves, f_outer, f_inner, f_p, f_q, f_leaf = digits[::-1]
  commutes = jnp.asarray(_COMMUTES)
  flip = ((bits >> jnp.arange(3, dtype=jnp.uint32)) & 1).astype(bool)
  right = right ^ (flip[0] & commutes[outer])
  swap = flip[1] & commutes[inner]
  slot_3 = jnp.asarray(_LEAVES)[leaves] ^ (flip[2] & (leaves != _ONE_SLOT))
  p, q = jnp.stack([slot_3[0], f_p]), jnp.stack([slot_3[1], f_q])
  p, q = jnp.where(swap, q, p), jnp.where(swap, p, q)
  none = jnp.zeros_like(right)
  # The heap: the outer operator, its two children, and the children of both. The two
  # nodes below the outer leaf are not written.
  slots = [none, slot_3[2], slot_3[2], p[0], q[0], p[0], q[0]]
  functions = [f_outer, *_children(right, f_inner, f_leaf), p[1], q[1], p[1], q[1]]
  operators = [outer, *_children(right, inner, none - 1), *[none - 1] * 4]
  return Tree(
    jnp.stack(functions) - 1,
    jnp.stack(operators),
    expressions.FIRST_SLOT + jnp.stack(slots),
  )


def _children(right, inner, leaf):
  """(left, right) child of the outer operator; right: whether inner is on the right."""
  return jnp.where(right == 0, inner, leaf), jnp.where(right == 0, leaf, inner)


@functools.cache
def identities() -> tuple[tuple[str, str], ...]:
  """The equations (lhs, rhs) of identities.txt."""
  file = importlib.resources.files('onlyif_jax.tasks') / 'identities.txt'
  lines = [line.strip() for line in file.read_text().splitlines()]
  pairs = [line.split(' = ') for line in lines if line and line[0] != '#']
  return tuple((lhs, rhs) for lhs, rhs in pairs)


@functools.cache
def _identity_table():
  """The letters [I, 2, P] and lengths [I, 2] of the equations' sides."""
  width = max(len(side) for pair in identities() for side in pair)
  letters_I2P = np.zeros((len(identities()), 2, width), np.int32)
  length_I2 = np.zeros((len(identities()), 2), np.int32)
  for n, pair in enumerate(identities()):
    for k, side in enumerate(pair):
      letters_I2P[n, k, : len(side)] = expressions.encode(side)
      length_I2[n, k] = len(side)
  return letters_I2P, length_I2


@functools.cache
def canonical(text: str) -> str:
  """The class of a template, as its least text among all renamings, commuted.

  >>> canonical('(B*(sA+B))') == canonical('((A+sB)*A)')
  True
  """
  tree = expressions.parse(text, slots=True)
  names = sorted(set(text) & set(expressions.SLOTS))
  new_names = itertools.permutations(expressions.SLOTS[: len(names)])
  return min(_sorted_text(tree, dict(zip(names, n, strict=True))) for n in new_names)


def _sorted_text(tree, names: dict[str, str]) -> str:
  """A tree as text, with slots renamed and the operands of + and * in order."""
  if isinstance(tree, str):
    return names.get(tree, tree)
  head, *arguments = tree
  texts = [_sorted_text(argument, names) for argument in arguments]
  if head in FUNCTIONS:
    return head + texts[0]
  left, right = sorted(texts) if head in COMMUTATIVE else texts
  return f'({left}{head}{right})'
