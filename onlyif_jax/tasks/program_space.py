"""Random Markov programs as a pure function of an index, and their parts.

A body is a pair (lhs, rhs) of different strings. One keyed bijection lists all of
them, and three intervals of the list are the parts' own bodies, so that whether a
rule is held out is arithmetic; a stop mark makes no new rule. The programs of a part
are numbered likewise: the digits of a keyed permutation of their number name the
bodies, in order. Programs that do not halt are passed over: program i is the first of
the candidates 4i to 4i + 3 that halts on its probe inputs and whose every rule can
apply; where none does, the last one with every rule a stop rule, which always halts.
"""

import dataclasses
import functools
import hashlib
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

LIMIT = 2**31 - 2**16  # the largest domain of a keyed bijection
TRIES = 4  # candidates of a program
PROBES = 4  # inputs on which a candidate has to halt
CHUNK = 2048  # programs made at a time
LISTED = 2**17  # programs of a part that a certificate lists
CELL = 'seen_rules'  # the cell of new programs made of training programs' rules
RELATIONS = {
  'rules': 'no rule of a held-out program is in a training program',
  'programs': 'no held-out program has the rules of a training program in its order',
}


class Choice(NamedTuple):
  """How a program was chosen; each a scalar.

  halts, shadowed: of its first candidate; fallback: whether no candidate would do.
  """

  halts: jax.Array
  shadowed: jax.Array
  fallback: jax.Array


@dataclasses.dataclass(frozen=True)
class ProgramSpace:
  """Every program of n rules over an alphabet with the given lengths of sides.

  held_out='rules': parts have bodies of their own; 'programs': they share them.
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
    if self._bodies > LIMIT:
      raise ValueError(
        f'{self.description} has {self._bodies} rules, more than {LIMIT}; lower '
        'task.lhs_max, task.rhs_max or task.alphabet'
      )

  @property
  def description(self) -> str:
    """The programs in words."""
    return (
      f'{self.rules} rules with |lhs|={self.lhs_min}-{self.lhs_max}, '
      f'|rhs|={self.rhs_min}-{self.rhs_max} over {self.inputs.alphabet} letters'
    )

  def capacity(self, part: Part = Part.TRAIN, setting: Any = None) -> int:
    """Distinct programs of a part."""
    del setting
    low, high = self._numbers(part)
    return (high - low) // TRIES if self._pool(part)[1] else 0

  def pair_capacity(self, part: Part = Part.TRAIN) -> int:
    """The same: there is nothing beyond distinct programs."""
    return self.capacity(part)

  def rule(self, seed, part: Part, i, setting: Any = None) -> Program:
    """Program i of a part; seed and i may be traced."""
    del setting
    return self.choose(seed, part, i)[0]

  def choose(self, seed, part: Part, i) -> tuple[Program, Choice]:
    """Program i of a part and how it was chosen."""
    program, _, choice = self._choose(seed, part, i)
    return program, choice

  def cell_rule(self, seed, part: Part, cell: str, i, instructions, setting=None):
    """Program i of a cell, and whether it exists; '' has the part's own programs.

    'seen_rules': rule n is rule n of training program i + n, so every rule was seen
    and the program is new. It exists if it halts and is no training program.
    """
    del setting
    if cell == '':
      return self.rule(seed, part, i), jnp.bool_(True)
    if cell != CELL:
      raise ValueError(f"unknown cell {cell!r}; there are '' and {CELL!r}")
    n = jnp.arange(self.rules)
    own_N = (i + n) % instructions
    programs, digits_NN, _ = jax.vmap(lambda j: self._choose(seed, Part.TRAIN, j))(
      own_N
    )
    mixed = jax.tree.map(lambda v: v[n, n], programs)
    program_key = self._key(seed, Part.TRAIN)
    bits_KW = self._probes(jax.random.fold_in(program_key, i))
    works = self.inputs.halts(mixed, bits_KW) & ~shadowed(mixed)
    # The number of the training program with these bodies tells its index.
    base, count = self._pool(Part.TRAIN)[1], self._digits(Part.TRAIN)
    powers = np.array([base**d for d in range(count)], np.int32)
    number = (digits_NN[n, n][:count] * powers).sum()
    low, _ = self._numbers(Part.TRAIN)
    owner = keys.unpermute(program_key, number, base**count) - low
    trained = (owner >= 0) & (owner // TRIES < instructions)
    return mixed, works & ~trained

  def lend(self, rule: Program, other: Program) -> Program:
    """The program with the other's right-hand sides."""
    return rule._replace(rhs_NQ=other.rhs_NQ, rhs_len_N=other.rhs_len_N)

  def body(self, seed, b) -> Rule:
    """Body b of the list of all bodies, 0 <= b < the number of bodies."""
    letters, inner = self.inputs.alphabet, self._rhs_count - 1
    b = keys.permute(keys.key(seed, Purpose.RULE_STRINGS), b, self._bodies)
    n_x, turn = b // inner, b % inner
    x_P, x_len = _string(n_x, letters, self.lhs_min, self.lhs_max)
    # A rotation of all right-hand sides that starts after the left-hand side.
    shift = _count(letters, self.rhs_min, self.lhs_min - 1)
    shift -= _count(letters, self.lhs_min, self.rhs_min - 1)
    n_y = (n_x + shift + 1 + turn) % self._rhs_count
    y_Q, y_len = _string(n_y, letters, self.rhs_min, self.rhs_max)
    return Rule(x_P, x_len, y_Q, y_len)

  def certify(self, seed: int, instructions: int, held_out: int, setting=None) -> dict:
    """Counts, collisions, hashes and what runs are like; see `certify`."""
    del setting
    return certify(self, seed, instructions, held_out)

  @property
  def _rhs_count(self) -> int:
    return _count(self.inputs.alphabet, self.rhs_min, self.rhs_max)

  @functools.cached_property
  def _bodies(self) -> int:
    lhs = _count(self.inputs.alphabet, self.lhs_min, self.lhs_max)
    return lhs * (self._rhs_count - 1)

  def _cuts(self, total: int, part: Part) -> tuple[int, int]:
    dev, test = round(total * self.dev_fraction), round(total * self.test_fraction)
    cuts = (0, total - dev - test, total - test, total)
    return cuts[part], cuts[part + 1]

  def _pool(self, part: Part) -> tuple[int, int]:
    """A part's bodies as (first, number)."""
    if self.held_out == 'programs':
      return 0, self._bodies
    low, high = self._cuts(self._bodies, part)
    return low, high - low

  def _digits(self, part: Part) -> int:
    """How many of a program's bodies its number names; the others are drawn."""
    base = self._pool(part)[1]
    return max(n for n in range(1, self.rules + 1) if n == 1 or base**n <= LIMIT)

  def _numbers(self, part: Part) -> tuple[int, int]:
    """A part's programs as an interval of numbers, before their permutation."""
    total = self._pool(part)[1] ** self._digits(part)
    return self._cuts(total, part) if self.held_out == 'programs' else (0, total)

  def _key(self, seed, part: Part):
    own = 0 if self.held_out == 'programs' else int(part)
    return keys.key(seed, Purpose.RULE_PAIRS, own)

  def _probes(self, key):
    return jax.random.bits(key, (PROBES, self.inputs.words))

  def _choose(self, seed, part: Part, i):
    """(program, the digits of its bodies, Choice)."""
    first = jnp.asarray(i, jnp.int32) * TRIES + self._numbers(part)[0]
    tried = jax.vmap(lambda v: self._candidate(seed, part, v))
    programs, digits_KN, halts_K, shadowed_K = tried(first + jnp.arange(TRIES))
    works_K = halts_K & ~shadowed_K
    none = ~works_K.any()
    which = jnp.where(none, TRIES - 1, jnp.argmax(works_K))
    program, digits_N = jax.tree.map(lambda v: v[which], (programs, digits_KN))
    program = program._replace(stop_N=program.stop_N | none)
    return program, digits_N, Choice(halts_K[0], shadowed_K[0], none)

  def _candidate(self, seed, part: Part, number):
    """(program, its digits, whether it halts, whether a rule can never apply)."""
    (low, base), count = self._pool(part), self._digits(part)
    key = self._key(seed, part)
    number = keys.permute(key, number, base**count)
    powers = np.array([base**d for d in range(count)], np.int32)
    own = jax.random.fold_in(key, number)
    words = PROBES * self.inputs.words
    bits = jax.random.bits(own, (words + 2 * self.rules,))
    drawn, stops, probes = jnp.split(bits, (self.rules, 2 * self.rules))
    named_N = number // powers % base
    drawn_N = (drawn[count:] % jnp.uint32(base)).astype(jnp.int32)
    digits_N = jnp.concatenate([named_N, drawn_N])
    body = jax.vmap(lambda d: self.body(seed, low + d))(digits_N)
    stop_N = (stops >> 16) < jnp.uint32(round(self.stop_share * 2**16))
    program = Program(body.x_P, body.x_len, body.y_Q, body.y_len, stop_N)
    halts = self.inputs.halts(program, probes.reshape(PROBES, -1))
    return program, digits_N, halts, shadowed(program)


def shadowed(program: Program):
  """Whether some rule can never apply: its lhs holds that of an earlier rule."""
  p = jnp.arange(program.lhs_NP.shape[1])
  live_NP = p[None] < program.lhs_len_N[:, None]
  texts_NP = jnp.where(live_NP, program.lhs_NP, GAP)

  def inside(text_P, lhs_P, lhs_len):
    return matches(text_P, Rule(lhs_P, lhs_len, lhs_P, lhs_len)).any()

  by_earlier = jax.vmap(inside, (None, 0, 0))
  inside_NN = jax.vmap(by_earlier, (0, None, None))(
    texts_NP, program.lhs_NP, program.lhs_len_N
  )
  return jnp.tril(inside_NN, -1).any()


def certify(space: ProgramSpace, seed: int, instructions: int, held_out: int) -> dict:
  """The proof that the parts share nothing, and what the programs' runs are like.

  Programs are made and read back as text; those beyond the first 2^17 of a part are
  not listed, but every body of a part is. `distribution` has shares of 2,048 training
  programs and of a run of each: see `measure`.
  """
  wanted = {Part.TRAIN: instructions, Part.DEV: held_out, Part.TEST: held_out}
  report: dict = {'rules_seed': seed, 'relation': RELATIONS[space.held_out]}
  bodies, programs, parts = {}, {}, {}
  for part, count in wanted.items():
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
  shared = bodies if space.held_out == 'rules' else programs
  collisions = {
    f'{a.name.lower()}-{b.name.lower()}': len(shared[a] & shared[b])
    for a, b in ((Part.TRAIN, Part.DEV), (Part.TRAIN, Part.TEST), (Part.DEV, Part.TEST))
  }
  collisions['foreign'] = sum(own['foreign_bodies'] for own in parts.values())
  report |= {'parts': parts, 'collisions': collisions}
  return report | {'distribution': measure(space, seed)}


def measure(space: ProgramSpace, seed: int, part: Part = Part.TRAIN) -> dict:
  """Shares of programs by how they were chosen and of runs by how they went.

  programs: of the first candidates, `non_halting` and `shadowed` (a rule can never
  apply); `fallback`: every candidate was turned down. runs: `trivial` (no rule
  applies), `empty` (nothing is left), `stopped` (by a stop rule), `non_halting`
  (first inputs), `fallback` (no input halted, so the empty one); steps: by number.
  """
  count = min(CHUNK, space.capacity(part))
  listed, choice = _list_program(space, part)(jnp.int32(seed), jnp.int32(0))
  drawn = _draw_program(space)(jnp.int32(seed), listed)
  choice, drawn = jax.device_get((choice, drawn))
  choice, (end, tries, lengths) = jax.tree.map(lambda v: v[:count], (choice, drawn))
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
    kind: {name: round(float(np.mean(hit)), 4) for name, hit in own.items()}
    for kind, own in shares.items()
  }


@functools.cache
def _list_program(space: ProgramSpace, part: Part):
  """(seed, start) -> CHUNK programs and their choices; one compile for all seeds."""
  limit = space.capacity(part)

  def listed(seed, start):
    i = jnp.minimum(start + jnp.arange(CHUNK, dtype=jnp.int32), limit - 1)
    return jax.vmap(lambda n: space.choose(seed, part, n))(i)

  return jax.jit(listed)


@functools.cache
def _draw_program(space: ProgramSpace):
  """(seed, programs) -> what became of a run of each."""

  def draw(seed, program, i):
    key = keys.key(seed, Purpose.SEEN_INPUT, i)
    _, length, own, tries = space.inputs.draw(program, key)
    return own.end, tries, length

  i = jnp.arange(CHUNK, dtype=jnp.int32)
  return jax.jit(lambda seed, listed: jax.vmap(draw, (None, 0, 0))(seed, listed, i))


@functools.cache
def _body_program(space: ProgramSpace):
  """(seed, bodies) -> their sides."""
  return jax.jit(jax.vmap(space.body, (None, 0)))


def _texts(space, seed, part, count) -> list[tuple[bytes, ...]]:
  """The first programs of a part, each the texts 'lhs>rhs' of its rules."""
  rows = []
  for start in range(0, count, CHUNK):
    made, _ = _list_program(space, part)(jnp.int32(seed), jnp.int32(start))
    flat = jax.tree.map(lambda v: np.asarray(v).reshape(-1, *v.shape[2:]), made[:4])
    bodies = _body_texts(*flat)
    rows += list(
      zip(*(bodies[n :: space.rules] for n in range(space.rules)), strict=True)
    )
  return rows[:count]


def _all_bodies(space, seed, part) -> list[bytes]:
  """Every body of a part as text."""
  low, count = space._pool(part)
  texts = []
  for start in range(low, low + count, CHUNK):
    made = _body_program(space)(jnp.int32(seed), start + jnp.arange(CHUNK))
    texts += _body_texts(*jax.device_get(made))[: low + count - start]
  return texts


def _body_texts(lhs, lhs_len, rhs, rhs_len) -> list[bytes]:
  rows = zip(lhs, lhs_len, rhs, rhs_len, strict=True)
  return [
    f'{tokens.decode(x[:n])}>{tokens.decode(y[:m])}'.encode() for x, n, y, m in rows
  ]


def _count(letters: int, low: int, high: int) -> int:
  """The number of strings with low to high letters, none where high < low."""
  return sum(letters**n for n in range(low, high + 1))


def _string(n, letters: int, low: int, high: int):
  """String n of those with low to high letters, shortest first: (letters, length)."""
  starts = np.array(
    [_count(letters, low, k - 1) for k in range(low, high + 1)], np.int32
  )
  which = (n >= starts).sum() - 1
  powers = np.array([letters**k for k in range(max(1, high))], np.int32)
  length = low + which
  digits = (n - jnp.asarray(starts)[which]) // powers % letters
  return jnp.where(np.arange(max(1, high)) < length, digits, 0), length
