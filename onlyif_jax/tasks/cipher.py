"""Encrypted rewriting: replace x by y and encrypt y (arXiv:2402.10891, section 5).

A rule is x -> y with a shift s: each inserted letter moves on by s in the alphabet.
The prompt is x SEP y SEP s SEP z SEP, where s is the letter that encrypts 'a'. If x
does not occur, the answer is the input itself, not encrypted.

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

# Indices of the purpose RULE_PAIRS: below SHIFTS the pairs of x and y of each part,
# SHIFTS the order of the shifts, beyond it the table of each shift.
SHIFTS = len(Part)
RELATION = (
  f'{certificate.RELATION}; shifts are seen; a rule of split pair has x -> y of a '
  'training rule and a shift of others, never the two together'
)


class CipherRule(NamedTuple):
  """Replace x by y and encrypt letters by the table code_A."""

  x_P: jax.Array
  x_len: jax.Array
  y_Q: jax.Array
  y_len: jax.Array
  shift: jax.Array  # 1..A-1: the letter that the prompt states
  code_A: jax.Array  # letter -> encrypted letter


@dataclasses.dataclass(frozen=True)
class CipherSpace:
  """The rules x -> y of `strings`, each with one of the shifts.

  The shifts take turns over the rules, in an order given by the seed. With fewer
  training rules than shifts only the first shifts are seen; held-out rules then have
  these only, for which they need `setting` (see `Cipher.setting`).
  """

  strings: RuleSpace
  shifts: tuple[int, ...]
  table: bool = False  # each shift stands for a random substitution table

  @property
  def description(self) -> str:
    """The rules in words, for error messages."""
    return f'{self.strings.description}, {len(self.shifts)} shifts'

  def capacity(self, part: Part = Part.TRAIN, setting=None) -> int:
    """The number of rules x -> y of a part."""
    return self.strings.capacity(part, setting)

  def pair_capacity(self, part: Part = Part.TRAIN) -> int:
    """The number of rules if only the pairs (x, y) must differ."""
    return self.strings.pair_capacity(part)

  def rule(self, seed, part: Part, i, setting=None) -> CipherRule:
    """Rule i of a part."""
    i = jnp.asarray(i, jnp.int32)
    rule = self.strings.rule(seed, part, i)
    return self._encrypted(seed, rule, self._turn(i, setting))

  def cell_rule(self, seed, part: Part, cell: str, i, instructions, setting=None):
    """Rule i of a test cell, and whether it exists: (CipherRule, bool).

    'pair': x -> y of a training rule with a shift that training has in other rules
    only. The other cells are those of rewriting.
    """
    i = jnp.asarray(i, jnp.int32)
    if cell != 'pair':
      rule, exists = self.strings.cell_rule(seed, part, cell, i, instructions)
      return self._encrypted(seed, rule, self._turn(i, setting)), exists
    i_train, seen = i % instructions, self._seen(setting)
    # Any of the other shifts. Hashed, because i also determines the kind of input.
    step = keys.mix32(i) % jnp.maximum(seen - 1, 1).astype(jnp.uint32)
    turn = (self._turn(i_train, setting) + 1 + step.astype(jnp.int32)) % seen
    rule = self.strings.rule(seed, Part.TRAIN, i_train)
    return self._encrypted(seed, rule, turn), seen > 1

  def lend(self, rule: CipherRule, other: CipherRule) -> CipherRule:
    """The rule with the y of another."""
    return rule._replace(y_Q=other.y_Q, y_len=other.y_len)

  def certify(self, seed: int, instructions: int, held_out: int, setting=None) -> dict:
    """The certificate of x and y, extended by that of the shifts.

    collisions: 'pair', rules of the pair split that are training rules; 'new_shift',
    shifts of held-out rules that training lacks; 'equal_codes', see `equal_codes`.
    """
    report = self.strings.certify(seed, instructions, held_out)
    parts = report['parts']
    rules, shifts = self._listing(seed, parts['train']['rules'], held_out, setting)
    train_shifts = {shift for *_, shift in rules['train']}
    held_out_shifts = {shift for *_, shift in rules['pair']}
    for part in ('dev', 'test'):
      held_out_shifts |= set(shifts[part][: parts[part]['rules']])
    pairs = set(rules['pair'])
    report['relation'] = RELATION
    parts['train']['distinct_shifts'] = len(train_shifts)
    parts['pair'] = {'rules': len(pairs), 'distinct_pairs': len(pairs)}
    report['collisions'] |= {
      'pair': len(pairs & set(rules['train'])),
      'new_shift': len(held_out_shifts - train_shifts),
      'equal_codes': self.equal_codes(seed),
    }
    return report

  def equal_codes(self, seed: int) -> int:
    """The number of shifts that encrypt as an earlier one does, or not at all."""
    shifts = jnp.asarray(self.shifts, jnp.int32)
    codes = jax.vmap(self._code, (None, 0))(seed, shifts).tolist()
    identity = tuple(range(self._letters))
    return len(codes) - len({tuple(code) for code in codes} - {identity})

  @property
  def _letters(self) -> int:
    return self.strings.alphabet

  def _seen(self, setting):
    """The number of shifts in training."""
    return jnp.int32(len(self.shifts)) if setting is None else setting['shifts']

  def _turn(self, i, setting):
    """The index of rule i's shift in the order of the shifts, below the number seen.

    Each round through the shifts starts one later. Kinds of input alternate with i: if
    rounds of even length all started alike, a kind would meet half of the shifts.
    """
    seen = self._seen(setting)
    return (i + i // seen) % seen

  def _encrypted(self, seed, rule: Rule, turn) -> CipherRule:
    """The rule with the shift at an index of their order."""
    key = keys.key(seed, Purpose.RULE_PAIRS, SHIFTS)
    index = keys.permute(key, turn, len(self.shifts))
    shift = jnp.asarray(self.shifts, jnp.int32)[index]
    return CipherRule(*rule, shift, self._code(seed, shift))

  def _code(self, seed, shift):
    """The table [A] letter -> encrypted letter."""
    if not self.table:
      return (jnp.arange(self._letters) + shift) % self._letters
    key = keys.key(seed, Purpose.RULE_PAIRS, SHIFTS + shift)
    return jnp.argsort(jax.random.bits(key, (self._letters,))).astype(jnp.int32)

  def _listing(self, seed, instructions, held_out, setting):
    """({'train', 'pair'} -> its (x, y, shift), {'dev', 'test'} -> its shifts)."""
    if setting is None:
      setting = {'shifts': np.int32(len(self.shifts))}
    make_chunk = _chunk_maker(self)
    counts = {'train': instructions, 'pair': held_out}
    rules: dict[str, list] = {'train': [], 'pair': []}
    shifts: dict[str, list] = {'dev': [], 'test': []}
    for start in range(0, max(instructions, held_out), certificate.CHUNK):
      chunk = jax.device_get(make_chunk(seed, start, instructions, setting))
      for split, listing in rules.items():
        x_BP, x_len_B, y_BQ, y_len_B, shift_B, exists_B = chunk[split]
        remaining = max(counts[split] - start, 0)
        for b in np.flatnonzero(exists_B[:remaining]):
          x, y = x_BP[b, : x_len_B[b]], y_BQ[b, : y_len_B[b]]
          listing.append((tokens.decode(x), tokens.decode(y), int(shift_B[b])))
      for part, listing in shifts.items():
        listing += chunk[part].tolist()
    return rules, shifts


@functools.cache
def _chunk_maker(space: CipherSpace):
  """The compiled (seed, start, I, setting) -> CHUNK rules of each part and split."""
  limit = space.pair_capacity()

  def entry(rule, exists: Any = True):
    return *rule[:5], jnp.bool_(exists)  # not the code: x, y and shift determine it

  def rules(seed, i, instructions, setting):
    train = space.rule(seed, Part.TRAIN, jnp.minimum(i, limit - 1), setting)
    pair, exists = space.cell_rule(seed, Part.TEST, 'pair', i, instructions, setting)
    return {
      'train': entry(train),
      'pair': entry(pair, exists),
      'dev': space.rule(seed, Part.DEV, i, setting).shift,
      'test': space.rule(seed, Part.TEST, i, setting).shift,
    }

  @jax.jit
  def make(seed, start, instructions, setting):
    i_B = start + jnp.arange(certificate.CHUNK, dtype=jnp.int32)
    return jax.vmap(rules, (None, 0, None, None))(seed, i_B, instructions, setting)

  return make


@dataclasses.dataclass(frozen=True)
class Cipher(CipherSettings, Rewrite):
  """Replace the leftmost x in z by y, encrypted by the rule's shift.

  scope='inserted': only the letters of y are encrypted. scope='output': all letters
  of the output are, if x occurs.
  """

  @property
  def sequence_length(self) -> int:
    """The length of the longest sequence."""
    return super().sequence_length + 2

  def setting(self, instructions: int) -> dict[str, np.ndarray]:
    """The number of shifts that the training rules have."""
    return {'shifts': np.array(min(instructions, len(self._shifts)), np.int32)}

  def space(self, rules: RulesConfig) -> CipherSpace:
    """The rules over this task's alphabet, pattern lengths and shifts."""
    return CipherSpace(super().space(rules), self._shifts, self.cipher == 'table')

  def eval_sets(self, examples: int, cell_examples: int) -> list[EvalSet]:
    """The sets of rewriting, and the split `pair`."""
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
    output_A = (a < example.answer_len - 1) & (example.slices['noop'] == 0)
    encrypted_A = example.inserted_A if self.scope == 'inserted' else output_A
    a_L = jnp.arange(self.sequence_length) - example.answer_start
    in_answer_L = (a_L >= 0) & (a_L < self.answer_length)
    index_L = jnp.clip(a_L, 0, self.answer_length - 1)
    encrypted_L = in_answer_L & encrypted_A[index_L]
    letters_L = example.tokens_L - tokens.FIRST_LETTER
    letters_L = encrypt(letters_L, encrypted_L, rule.code_A)
    return example._replace(tokens_L=tokens.letters_to_ids(letters_L))

  def pack(self, shown: CipherRule, z_Z, answer, *, inserted_A, slices):
    """Lay out a prompt and an answer (letters, length) as an `Example`."""
    pieces = {
      'x': (shown.x_P, shown.x_len),
      'y': (shown.y_Q, shown.y_len),
      's': (shown.shift[None], 1),
      'z': (z_Z, self.input_length),
    }
    prompt = [pieces[name] for name in self._order]
    size = self.sequence_length
    return tokens.layout(prompt, answer, size, inserted_A=inserted_A, slices=slices)

  def fields(self, prompt_N) -> dict[str, list[int]]:
    """A prompt's ids -> the letters of its 'input', 'lhs', 'rhs' and 'shift'."""
    names = {'x': 'lhs', 'y': 'rhs', 's': 'shift', 'z': 'input'}
    order = [names[part] for part in self._order]
    return dict(zip(order, tokens.split(prompt_N), strict=True))

  @property
  def _order(self) -> str:
    return self.order.replace('y', 'ys')

  @property
  def _shifts(self) -> tuple[int, ...]:
    return self.shifts or tuple(range(1, self.alphabet))


def encrypt(letters_N, encrypted_N, code_A):
  """The letters, replaced by code_A[letter] where encrypted_N is True."""
  return jnp.where(encrypted_N, code_A[jnp.clip(letters_N, 0)], letters_N)


def trace(z: str, x: str, y: str, shift: int, scope: str = 'inserted') -> str:
  """The task's map on plain text of lower-case letters."""
  out_O, length, start, occurs = rewrite.rewrite(
    jnp.array(tokens.encode(z)), rewrite.text_rule(x, y), len(z) + len(y)
  )
  t = jnp.arange(out_O.shape[0])
  inserted_O = (t >= start) & (t < start + len(y))
  encrypted_O = (inserted_O if scope == 'inserted' else t < length) & occurs
  code_A = (jnp.arange(26) + shift) % 26
  return tokens.decode(encrypt(out_O, encrypted_O, code_A)[:length])
