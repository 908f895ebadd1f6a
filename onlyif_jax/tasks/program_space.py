"""Random Markov programs as a pure function of an index, split into parts.

A body is a pair (lhs, rhs) of different strings; a rule is a body that may be marked
as a stop rule. A keyed bijection lists all bodies, and three intervals of the list
are the parts, so that the split is arithmetic. The programs of a part are numbered:
the digits of a keyed permutation of a number are the program's bodies, in order.
Program i is the first of the candidates 4i to 4i + 3 that halts on its probe inputs
and all of whose rules can apply. If there is none, it is the last candidate with
every rule turned into a stop rule, which always halts.
"""

import dataclasses
import functools
import hashlib
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from onlyif_jax import keys
from onlyif_jax.keys import Purpose
from onlyif_jax.tasks import tokens
from onlyif_jax.tasks.programs import GAP, Inputs, Program
from onlyif_jax.tasks.rewrite import matches
from onlyif_jax.tasks.rules import Part, Rule

TRIES = 4  # candidates of a program
PROBES = 4  # inputs on which a candidate has to halt
CHUNK = 2048  # programs made in one call
LISTED = 2**17  # most programs of a part that a certificate lists
CELL = 'seen_rules'  # the cell of new programs made of training programs' rules
RELATIONS = {
  'rules': 'no rule of a held-out program is in a training program',
  'programs': 'no held-out program has the rules of a training program in its order',
}


class Choice(NamedTuple):
  """How a program was chosen; boolean scalars."""

  halts: jax.Array  # whether its first candidate halts on the probes
  shadowed: jax.Array  # whether a rule of its first candidate can never apply
  fallback: jax.Array  # whether no candidate was suitable


@dataclasses.dataclass(frozen=True)
class ProgramSpace:
  """The programs of `rules` rules with the given lengths of sides.

  held_out='rules': the parts share no body. 'programs': they share all of them.
  """

  inputs: Inputs
  rules: int
  lhs_min: int
  lhs_max: int
  rhs_min: int
  rhs_max: int
  stop_share: float
  held_out: str
  dev_fraction: float
  test_fraction: float

  def __post_init__(self):
    if self._bodies > keys.MAX_SIZE:
      raise ValueError(
        f'{self.description} has {self._bodies} rules, more than {keys.MAX_SIZE}; '
        'lower task.lhs_max, task.rhs_max or task.alphabet'
      )

  @property
  def description(self) -> str:
    """The programs in words, for error messages."""
    return (
      f'{self.rules} rules with |lhs|={self.lhs_min}-{self.lhs_max}, '
      f'|rhs|={self.rhs_min}-{self.rhs_max} over {self.inputs.alphabet} letters'
    )

  def capacity(self, part: Part = Part.TRAIN, setting: Any = None) -> int:
    """The number of distinct programs of a part."""
    del setting
    low, high = self._numbers(part)
    return (high - low) // TRIES if self._pool(part)[1] else 0

  def pair_capacity(self, part: Part = Part.TRAIN) -> int:
    """As `capacity`: all programs are distinct."""
    return self.capacity(part)

  def rule(self, seed, part: Part, i, setting: Any = None) -> Program:
    """Program i of a part; seed and i may be traced."""
    del setting
    return self.choose(seed, part, i)[0]

  def choose(self, seed, part: Part, i) -> tuple[Program, Choice]:
    """Program i of a part, and how it was chosen."""
    program, _, choice = self._choose(seed, part, i)
    return program, choice

  def cell_rule(self, seed, part: Part, cell: str, i, instructions, setting=None):
    """Program i of a cell, and whether it exists; '' has the programs of the part.

    'seen_rules': rule n is rule n of training program i + n, so that each rule is
    seen. The program exists if it halts and is not itself a training program.
    """
    del setting
    if cell == '':
      return self.rule(seed, part, i), jnp.bool_(True)
    if cell != CELL:
      raise ValueError(f"unknown cell {cell!r}; there are '' and {CELL!r}")
    n = jnp.arange(self.rules)
    programs, digits_NN, _ = jax.vmap(lambda j: self._choose(seed, Part.TRAIN, j))(
      (i + n) % instructions
    )
    mixed = jax.tree.map(lambda v: v[n, n], programs)
    program_key = self._key(seed, Part.TRAIN)
    bits_KW = self._probes(jax.random.fold_in(program_key, i))
    suitable = self.inputs.halts(mixed, bits_KW) & ~shadowed(mixed)
    # The bodies give the number of the program, and that its index among candidates.
    base, count = self._pool(Part.TRAIN)[1], self._digits(Part.TRAIN)
    powers = np.array([base**d for d in range(count)], np.int32)
    number = (digits_NN[n, n][:count] * powers).sum()
    low, _ = self._numbers(Part.TRAIN)
    candidate = keys.unpermute(program_key, number, base**count) - low
    trained = (candidate >= 0) & (candidate // TRIES < instructions)
    return mixed, suitable & ~trained

  def lend(self, rule: Program, other: Program) -> Program:
    """The program with the right-hand sides of another."""
    return rule._replace(rhs_NQ=other.rhs_NQ, rhs_len_N=other.rhs_len_N)

  def body(self, seed, b) -> Rule:
    """Body b of the list of all bodies."""
    letters, others = self.inputs.alphabet, self._rhs_count - 1
    b = keys.permute(keys.key(seed, Purpose.RULE_STRINGS), b, self._bodies)
    n_x, turn = b // others, b % others
    x_P, x_len = _string(n_x, letters, self.lhs_min, self.lhs_max)
    # n_x + shift is the number of x among the right-hand sides: y is any after it.
    shift = _count(letters, self.rhs_min, self.lhs_min - 1)
    shift -= _count(letters, self.lhs_min, self.rhs_min - 1)
    n_y = (n_x + shift + 1 + turn) % self._rhs_count
    y_Q, y_len = _string(n_y, letters, self.rhs_min, self.rhs_max)
    return Rule(x_P, x_len, y_Q, y_len)

  def certify(self, seed: int, instructions: int, held_out: int, setting=None) -> dict:
    """The certificate of the split, and statistics of runs; see `certify`."""
    del setting
    return certify(self, seed, instructions, held_out)

  @property
  def _rhs_count(self) -> int:
    return _count(self.inputs.alphabet, self.rhs_min, self.rhs_max)

  @functools.cached_property
  def _bodies(self) -> int:
    lhs = _count(self.inputs.alphabet, self.lhs_min, self.lhs_max)
    return lhs * (self._rhs_count - 1)

  def _interval(self, total: int, part: Part) -> tuple[int, int]:
    """The interval [low, high) of [0, total) that belongs to a part."""
    dev, test = round(total * self.dev_fraction), round(total * self.test_fraction)
    cuts = (0, total - dev - test, total - test, total)
    return cuts[part], cuts[part + 1]

  def _pool(self, part: Part) -> tuple[int, int]:
    """The bodies of a part: (first, number)."""
    if self.held_out == 'programs':
      return 0, self._bodies
    low, high = self._interval(self._bodies, part)
    return low, high - low

  def _digits(self, part: Part) -> int:
    """The number of a program's bodies that its number determines; others are drawn."""
    base = self._pool(part)[1]
    lengths = range(1, self.rules + 1)
    return max(n for n in lengths if n == 1 or base**n <= keys.MAX_SIZE)

  def _numbers(self, part: Part) -> tuple[int, int]:
    """The interval of the numbers of a part's programs, before their permutation."""
    total = self._pool(part)[1] ** self._digits(part)
    return self._interval(total, part) if self.held_out == 'programs' else (0, total)

  def _key(self, seed, part: Part):
    index = 0 if self.held_out == 'programs' else int(part)
    return keys.key(seed, Purpose.RULE_PAIRS, index)

  def _probes(self, key):
    return jax.random.bits(key, (PROBES, self.inputs.words))

  def _choose(self, seed, part: Part, i):
    """(program, the indices of its bodies in the part, Choice)."""
    first = jnp.asarray(i, jnp.int32) * TRIES + self._numbers(part)[0]
    candidates = jax.vmap(lambda number: self._candidate(seed, part, number))
    programs, digits_KN, halts_K, shadowed_K = candidates(first + jnp.arange(TRIES))
    suitable_K = halts_K & ~shadowed_K
    fallback = ~suitable_K.any()
    chosen = jnp.where(fallback, TRIES - 1, jnp.argmax(suitable_K))
    program, digits_N = jax.tree.map(lambda v: v[chosen], (programs, digits_KN))
    program = program._replace(stop_N=program.stop_N | fallback)
    return program, digits_N, Choice(halts_K[0], shadowed_K[0], fallback)

  def _candidate(self, seed, part: Part, number):
    """(program, its digits, whether it halts, whether a rule can never apply)."""
    (low, base), count = self._pool(part), self._digits(part)
    part_key = self._key(seed, part)
    number = keys.permute(part_key, number, base**count)
    powers = np.array([base**d for d in range(count)], np.int32)
    program_key = jax.random.fold_in(part_key, number)
    words = PROBES * self.inputs.words
    bits = jax.random.bits(program_key, (words + 2 * self.rules,))
    draws, stops, probes = jnp.split(bits, (self.rules, 2 * self.rules))
    numbered_N = number // powers % base
    drawn_N = (draws[count:] % jnp.uint32(base)).astype(jnp.int32)
    digits_N = jnp.concatenate([numbered_N, drawn_N])
    body = jax.vmap(lambda d: self.body(seed, low + d))(digits_N)
    stop_N = (stops >> 16) < jnp.uint32(round(self.stop_share * 2**16))
    program = Program(body.x_P, body.x_len, body.y_Q, body.y_len, stop_N)
    halts = self.inputs.halts(program, probes.reshape(PROBES, -1))
    return program, digits_N, halts, shadowed(program)


def shadowed(program: Program):
  """Whether some rule can never apply, as its lhs contains that of an earlier rule."""
  p = jnp.arange(program.lhs_NP.shape[1])
  in_lhs_NP = p[None] < program.lhs_len_N[:, None]
  texts_NP = jnp.where(in_lhs_NP, program.lhs_NP, GAP)

  def contains(text_P, lhs_P, lhs_len):
    return matches(text_P, Rule(lhs_P, lhs_len, lhs_P, lhs_len)).any()

  contains_each = jax.vmap(contains, (None, 0, 0))
  contains_NN = jax.vmap(contains_each, (0, None, None))(
    texts_NP, program.lhs_NP, program.lhs_len_N
  )
  return jnp.tril(contains_NN, -1).any()


def certify(space: ProgramSpace, seed: int, instructions: int, held_out: int) -> dict:
  """Check that the parts share nothing, and describe the programs' runs.

  Programs are generated and read back as text: the first 2^17 of each part, and all
  of its bodies. `distribution` is the result of `measure`.
  """
  counts = {Part.TRAIN: instructions, Part.DEV: held_out, Part.TEST: held_out}
  report: dict = {'rules_seed': seed, 'relation': RELATIONS[space.held_out]}
  bodies, programs, parts = {}, {}, {}
  for part, count in counts.items():
    count = min(count, space.capacity(part), LISTED)
    bodies[part] = set(_all_bodies(space, seed, part))
    rows = _texts(space, seed, part, count)
    programs[part] = set(rows)
    listing = b'\n'.join(b';'.join(row) for row in rows)
    parts[part.name.lower()] = {
      'rules': count,
      'distinct_pairs': len(programs[part]),
      'distinct_bodies': len({body for row in rows for body in row}),
      'foreign_bodies': sum(body not in bodies[part] for row in rows for body in row),
      'all_bodies': len(bodies[part]),
      'capacity': space.capacity(part),
      'sha256': hashlib.sha256(listing).hexdigest(),
    }
  disjoint = bodies if space.held_out == 'rules' else programs
  collisions = {
    f'{a.name.lower()}-{b.name.lower()}': len(disjoint[a] & disjoint[b])
    for a, b in itertools.combinations(Part, 2)
  }
  collisions['foreign'] = sum(counts['foreign_bodies'] for counts in parts.values())
  report |= {'parts': parts, 'collisions': collisions}
  return report | {'distribution': measure(space, seed)}


def measure(space: ProgramSpace, seed: int, part: Part = Part.TRAIN) -> dict:
  """Statistics of up to 2,048 programs of a part and of one run of each, as shares.

  programs: `non_halting` and `shadowed` (a rule can never apply) first candidates;
  `fallback`: no candidate was suitable. runs: `trivial` (no rule applies), `empty`
  (no letter is left), `stopped` (by a stop rule), `non_halting` (on the first input),
  `fallback` (on all inputs, so that the input is empty). steps: number -> share.
  """
  count = min(CHUNK, space.capacity(part))
  programs, choice = _program_maker(space, part)(jnp.int32(seed), jnp.int32(0))
  runs = _runner(space)(jnp.int32(seed), programs)
  choice, runs = jax.device_get((choice, runs))
  choice, (end, tries, lengths) = jax.tree.map(lambda v: v[:count], (choice, runs))
  steps = np.bincount(end.steps, minlength=2)
  shares = {
    'programs': {
      'non_halting': ~choice.halts,
      'shadowed': choice.shadowed,
      'fallback': choice.fallback,
    },
    'runs': {
      'trivial': end.steps == 0,
      'empty': (end.length == 0) & (lengths > 0),
      'stopped': end.stopped,
      'non_halting': tries > 0,
      'fallback': lengths == 0,
    },
    'steps': {str(n): end.steps == n for n in range(len(steps)) if steps[n]},
  }
  return {'measured': count} | {
    group: {name: round(float(np.mean(mask)), 4) for name, mask in masks.items()}
    for group, masks in shares.items()
  }


@functools.cache
def _program_maker(space: ProgramSpace, part: Part):
  """The compiled (seed, start) -> CHUNK programs and how they were chosen."""
  limit = space.capacity(part)

  def make(seed, start):
    i = jnp.minimum(start + jnp.arange(CHUNK, dtype=jnp.int32), limit - 1)
    return jax.vmap(lambda n: space.choose(seed, part, n))(i)

  return jax.jit(make)


@functools.cache
def _runner(space: ProgramSpace):
  """The compiled (seed, CHUNK programs) -> (end, inputs not halted on, input length)."""

  def run(seed, program, i):
    key = keys.key(seed, Purpose.SEEN_INPUT, i)
    _, length, result, tries = space.inputs.draw(program, key)
    return result.end, tries, length

  i = jnp.arange(CHUNK, dtype=jnp.int32)
  return jax.jit(lambda seed, programs: jax.vmap(run, (None, 0, 0))(seed, programs, i))


@functools.cache
def _body_maker(space: ProgramSpace):
  """The compiled (seed, indices of bodies) -> bodies."""
  return jax.jit(jax.vmap(space.body, (None, 0)))


def _texts(space, seed, part, count) -> list[tuple[bytes, ...]]:
  """The first programs of a part, each as the texts 'lhs>rhs' of its rules."""
  texts = []
  for start in range(0, count, CHUNK):
    programs, _ = _program_maker(space, part)(jnp.int32(seed), jnp.int32(start))
    sides = [np.asarray(side).reshape(-1, *side.shape[2:]) for side in programs[:4]]
    bodies = _body_texts(*sides)
    rules = [bodies[n :: space.rules] for n in range(space.rules)]
    texts += list(zip(*rules, strict=True))
  return texts[:count]


def _all_bodies(space, seed, part) -> list[bytes]:
  """Every body of a part as text."""
  low, count = space._pool(part)
  texts = []
  for start in range(low, low + count, CHUNK):
    bodies = _body_maker(space)(jnp.int32(seed), start + jnp.arange(CHUNK))
    texts += _body_texts(*jax.device_get(bodies))[: low + count - start]
  return texts


def _body_texts(lhs, lhs_len, rhs, rhs_len) -> list[bytes]:
  rows = zip(lhs, lhs_len, rhs, rhs_len, strict=True)
  return [
    f'{tokens.decode(x[:n])}>{tokens.decode(y[:m])}'.encode() for x, n, y, m in rows
  ]


def _count(letters: int, low: int, high: int) -> int:
  """The number of strings with low to high letters; 0 if high < low."""
  return sum(letters**n for n in range(low, high + 1))


def _string(n, letters: int, low: int, high: int):
  """String n of those with low to high letters, shortest first: (letters, length)."""
  starts = np.array(
    [_count(letters, low, k - 1) for k in range(low, high + 1)], np.int32
  )
  index = (n >= starts).sum() - 1
  powers = np.array([letters**k for k in range(max(1, high))], np.int32)
  length = low + index
  digits = (n - jnp.asarray(starts)[index]) // powers % letters
  return jnp.where(np.arange(max(1, high)) < length, digits, 0), length
