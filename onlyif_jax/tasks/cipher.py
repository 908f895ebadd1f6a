"""Encrypted rewriting: replace x by y and encrypt what was inserted (2402.10891,
section 5).

A rule is x -> y and a shift s: each letter of y that is written moves s places on in
the alphabet. The prompt is x SEP y SEP s SEP z SEP, with s as the letter that stands
for 'a'. Where x does not occur the answer is the input itself, not encrypted.

>>> trace('mississippi', 'iss', 'art', 3)
'mduwissippi'
>>> trace('mississippi', 'iss', 'art', 3, scope='output')
'pduwlvvlssl'
>>> trace('canada', 'iss', 'art', 3, scope='output')
'canada'
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from onlyif_jax import keys
from onlyif_jax.keys import Purpose
from onlyif_jax.settings import CipherSettings, RulesConfig
from onlyif_jax.tasks import certificate, rewrite, tokens
from onlyif_jax.tasks.contract import EvalSet
from onlyif_jax.tasks.rewrite import Kind, Rewrite
from onlyif_jax.tasks.rules import Part, Rule, RuleSpace

SHIFTS = len(Part)  # indices of RULE_PAIRS from here on: order of the shifts, tables


class CipherRule(NamedTuple):
  """Replace x by y, each of whose letters is written as code_A says."""

  x_P: jax.Array
  x_len: jax.Array
  y_Q: jax.Array
  y_len: jax.Array
  shift: jax.Array  # 1..A-1: the letter that the prompt states
  code_A: jax.Array  # letter -> the letter written


@dataclasses.dataclass(frozen=True)
class CipherSpace:
  """The rules x -> y of `strings`, each with one of the shifts.

  The shifts take turns over the rules, in an order of the seed. Fewer rules than
  shifts see the first of them only; held-out rules then have these as well, which
  needs `setting` (see `Cipher.setting`).
  """

  strings: RuleSpace
  shifts: tuple[int, ...]
  table: bool = False  # a random table for each shift

  @property
  def description(self) -> str:
    """The rules in words."""
    return f'{self.strings.description}, {len(self.shifts)} shifts'

  def capacity(self, part: Part = Part.TRAIN, setting=None) -> int:
    """The number of rules of a part: that of its x -> y."""
    return self.strings.capacity(part, setting)

  def pair_capacity(self, part: Part = Part.TRAIN) -> int:
    """The number of rules when only the pairs of x and y must differ."""
    return self.strings.pair_capacity(part)

  def rule(self, seed, part: Part, i, setting=None) -> CipherRule:
    """Rule i of a part."""
    i = jnp.asarray(i, jnp.int32)
    rule = self.strings.rule(seed, part, i)
    return self._encrypted(seed, rule, self._turn(i, setting))

  def cell_rule(self, seed, part: Part, cell: str, i, instructions, setting=None):
    """Rule i of a test cell, and whether it exists, as (CipherRule, bool).

    'pair': x -> y of a training rule with a shift that training has in other rules
    alone. The other cells are those of rewriting.
    """
    i = jnp.asarray(i, jnp.int32)
    if cell != 'pair':
      rule, exists = self.strings.cell_rule(seed, part, cell, i, instructions)
      return self._encrypted(seed, rule, self._turn(i, setting)), exists
    own, seen = i % instructions, self._seen(setting)
    # Any of the other shifts: hashed, as i alone goes with the kind of input too.
    step = keys.mix32(i) % jnp.maximum(seen - 1, 1).astype(jnp.uint32)
    turn = (self._turn(own, setting) + 1 + step.astype(jnp.int32)) % seen
    rule = self.strings.rule(seed, Part.TRAIN, own)
    return self._encrypted(seed, rule, turn), seen > 1

  def lend(self, rule: CipherRule, other: CipherRule) -> CipherRule:
    """The rule with the other's y."""
    return rule._replace(y_Q=other.y_Q, y_len=other.y_len)

  def certify(self, seed: int, instructions: int, held_out: int, setting=None) -> dict:
    """The certificate of x and y, and that of the shifts.

    collisions: 'pair', rules of the pair split that are training rules; 'new_shift',
    shifts of held-out rules that training lacks; 'equal_codes', shifts in use that
    change the letters as another does or not at all.
    """
    report = self.strings.certify(seed, instructions, held_out)
    parts = report['parts']
    rules, shifts = self._listing(seed, parts['train']['rules'], held_out, setting)
    seen = {shift for *_, shift in rules['train']}
    others = {shift for *_, shift in rules['pair']}
    for part in ('dev', 'test'):
      others |= set(shifts[part][: parts[part]['rules']])
    pairs = set(rules['pair'])
    report['relation'] = RELATION
    parts['train']['distinct_shifts'] = len(seen)
    parts['pair'] = {'rules': len(pairs), 'distinct_pairs': len(pairs)}
    report['collisions'] |= {
      'pair': len(pairs & set(rules['train'])),
      'new_shift': len(others - seen),
      'equal_codes': self.equal_codes(seed),
    }
    return report

  def equal_codes(self, seed: int) -> int:
    """How many shifts encrypt as one before them does, or leave the letters alone."""
    shifts = jnp.asarray(self.shifts, jnp.int32)
    codes = jax.vmap(self._code, (None, 0))(seed, shifts).tolist()
    plain = tuple(range(self._letters))
    return len(codes) - len({tuple(code) for code in codes} - {plain})

  @property
  def _letters(self) -> int:
    return self.strings.alphabet

  def _seen(self, setting):
    """The number of shifts in training."""
    return jnp.int32(len(self.shifts)) if setting is None else setting['shifts']

  def _turn(self, i, setting):
    """The place of rule i's shift in their order, below the number seen.

    Each round through the shifts begins one later: kinds of inputs alternate with i,
    and with an even number of shifts each would meet half of them.
    """
    seen = self._seen(setting)
    return (i + i // seen) % seen

  def _encrypted(self, seed, rule: Rule, turn) -> CipherRule:
    order = keys.key(seed, Purpose.RULE_PAIRS, SHIFTS)
    which = keys.permute(order, turn, len(self.shifts))
    shift = jnp.asarray(self.shifts, jnp.int32)[which]
    return CipherRule(*rule, shift, self._code(seed, shift))

  def _code(self, seed, shift):
    """Letter -> the letter written."""
    if not self.table:
      return (jnp.arange(self._letters) + shift) % self._letters
    key = keys.key(seed, Purpose.RULE_PAIRS, SHIFTS + shift)
    return jnp.argsort(jax.random.bits(key, (self._letters,))).astype(jnp.int32)

  def _listing(self, seed, instructions, held_out, setting):
    """Rules as text: (split -> (x, y, shift) of each, part -> shifts of its rules)."""
    if setting is None:
      setting = {'shifts': np.int32(len(self.shifts))}
    program = _program(self)
    rules: dict[str, list] = {'train': [], 'pair': []}
    shifts: dict[str, list] = {'dev': [], 'test': []}
    for start in range(0, max(instructions, held_out), certificate.CHUNK):
      made = jax.device_get(program(seed, start, instructions, setting))
      for split, found in rules.items():
        x_BP, x_len_B, y_BQ, y_len_B, shift_B, exists_B = made[split]
        room = (instructions if split == 'train' else held_out) - start
        for b in np.flatnonzero(exists_B[: max(room, 0)]):
          x, y = x_BP[b, : x_len_B[b]], y_BQ[b, : y_len_B[b]]
          found.append((tokens.decode(x), tokens.decode(y), int(shift_B[b])))
      for part, found in shifts.items():
        found += made[part].tolist()
    return rules, shifts


@functools.cache
def _program(space: CipherSpace):
  """(seed, start, I, setting) -> what the certificate lists, CHUNK of each."""
  limit = space.pair_capacity()

  def listed(rule, exists: Any = True):
    return *rule[:5], jnp.bool_(exists)  # without the code: x, y and shift say it

  def one(seed, i, instructions, setting):
    train = space.rule(seed, Part.TRAIN, jnp.minimum(i, limit - 1), setting)
    pair = space.cell_rule(seed, Part.TEST, 'pair', i, instructions, setting)
    return {
      'train': listed(train),
      'pair': listed(*pair),
      'dev': space.rule(seed, Part.DEV, i, setting).shift,
      'test': space.rule(seed, Part.TEST, i, setting).shift,
    }

  @jax.jit
  def make(seed, start, instructions, setting):
    i_B = start + jnp.arange(certificate.CHUNK, dtype=jnp.int32)
    return jax.vmap(one, (None, 0, None, None))(seed, i_B, instructions, setting)

  return make


RELATION = (
  f'{certificate.RELATION}; shifts are seen; a rule of split pair has x -> y of a '
  'training rule and a shift of others, never the two together'
)


@dataclasses.dataclass(frozen=True)
class Cipher(CipherSettings, Rewrite):
  """Replace the leftmost x in z by y, encrypted by the rule's shift.

  scope='inserted': y's letters alone are encrypted. scope='output': every letter of
  the output, unless x does not occur: then the answer is z as it is.
  """

  @property
  def sequence_length(self) -> int:
    """The longest sequence."""
    return super().sequence_length + 2

  def setting(self, instructions: int) -> dict[str, np.ndarray]:
    """How many shifts the training rules have."""
    return {'shifts': np.array(min(instructions, len(self._shifts)), np.int32)}

  def space(self, rules: RulesConfig) -> CipherSpace:
    """The rules over this task's patterns and shifts."""
    return CipherSpace(super().space(rules), self._shifts, self.cipher == 'table')

  def eval_sets(self, examples: int, cell_examples: int) -> list[EvalSet]:
    """Those of rewriting, and the split `pair`."""
    sets = super().eval_sets(examples, cell_examples)
    if len(self._shifts) == 1:
      return sets
    return [*sets, EvalSet('pair', examples, cell='pair', kind=sets[0].kind)]

  def example(
    self, rule: CipherRule, key, *, kind=Kind.HAS_OP, shown=None, setting=None
  ):
    """An example of a rule, a pure function of the key; see `Rewrite.example`."""
    example = super().example(Rule(*rule[:4]), key, kind=kind, shown=shown or rule)
    a = jnp.arange(self.answer_length)
    written_A = (a < example.answer_len - 1) & (example.slices['noop'] == 0)
    coded_A = example.inserted_A if self.scope == 'inserted' else written_A
    a_L = jnp.arange(self.sequence_length) - example.answer_start
    inside_L = (a_L >= 0) & (a_L < self.answer_length)
    coded_L = inside_L & coded_A[jnp.clip(a_L, 0, self.answer_length - 1)]
    letters_L = example.tokens_L - tokens.FIRST_LETTER
    coded_ids_L = tokens.letters_to_ids(encrypt(letters_L, coded_L, rule.code_A))
    return example._replace(tokens_L=coded_ids_L)

  def pack(self, shown: CipherRule, z_Z, answer, *, inserted_A, slices):
    """Lays a prompt and an answer (letters, length) out as an `Example`."""
    parts = {
      'x': (shown.x_P, shown.x_len),
      'y': (shown.y_Q, shown.y_len),
      's': (shown.shift[None], 1),
      'z': (z_Z, self.input_length),
    }
    prompt = [parts[name] for name in self._order]
    size = self.sequence_length
    return tokens.layout(prompt, answer, size, inserted_A=inserted_A, slices=slices)

  def fields(self, prompt_N) -> dict[str, list[int]]:
    """A prompt's ids -> its 'input', 'lhs', 'rhs' and 'shift' in letters."""
    names = {'x': 'lhs', 'y': 'rhs', 's': 'shift', 'z': 'input'}
    parts = tokens.split(prompt_N)
    return dict(zip([names[n] for n in self._order], parts, strict=True))

  @property
  def _order(self) -> str:
    return self.order.replace('y', 'ys')

  @property
  def _shifts(self) -> tuple[int, ...]:
    return self.shifts or tuple(range(1, self.alphabet))


def encrypt(letters_N, coded_N, code_A):
  """The letters, of which those marked are written in the code."""
  return jnp.where(coded_N, code_A[jnp.clip(letters_N, 0)], letters_N)


def trace(z: str, x: str, y: str, shift: int, scope: str = 'inserted') -> str:
  """The task's map on plain text of lower-case letters, by the code of the data."""
  rule = Rule(
    jnp.array(tokens.encode(x)),
    jnp.int32(len(x)),
    jnp.array(tokens.encode(y)),
    jnp.int32(len(y)),
  )
  out_O, length, place, found = rewrite.rewrite(
    jnp.array(tokens.encode(z)), rule, len(z) + len(y)
  )
  t = jnp.arange(out_O.shape[0])
  inserted_O = (t >= place) & (t < place + len(y))
  coded_O = (inserted_O if scope == 'inserted' else t < length) & found
  code_A = (jnp.arange(26) + shift) % 26
  return tokens.decode(encrypt(out_O, coded_O, code_A)[:length])
