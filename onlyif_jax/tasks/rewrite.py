"""Basic and conditional rewriting (2402.10891, Only-IF section 2.3).

An instruction is a rule x -> y; the answer is the input z with the leftmost x
replaced by y, or z itself where x does not occur (a no-op).

>>> trace('mississippi', 'iss', 'art')
'martissippi'
>>> trace('canada', 'iss', 'art')
'canada'
>>> trace('caaba', 'aa', 'bac')
'cbacba'
"""

import dataclasses
import enum

import jax
import jax.numpy as jnp

from onlyif_jax.config import RulesConfig
from onlyif_jax.settings import RewriteSettings
from onlyif_jax.tasks import tokens
from onlyif_jax.tasks.contract import EvalSet
from onlyif_jax.tasks.rules import CELLS, Rule, RuleSpace

NOOP_TRIES = 4  # random inputs tried before the rest is repaired


class Kind(enum.IntEnum):
  """What kind of input is made."""

  HAS_OP = 0  # x occurs
  NO_OP = 1  # x does not occur
  NEAR_MISS = 2  # x does not occur, x with one letter changed does


@dataclasses.dataclass(frozen=True)
class Rewrite(RewriteSettings):
  """Replace the leftmost x in z by y.

  `noops` adds inputs without x. `order` is the order of the prompt's parts:
  'xyz' (the instruction first) or 'zxy'.
  """

  @property
  def symbols(self) -> str:
    """The character of each letter."""
    return tokens.decode(range(self.alphabet))

  @property
  def vocab_size(self) -> int:
    """Token ids in use."""
    return tokens.FIRST_LETTER + self.alphabet

  @property
  def out_length(self) -> int:
    """The longest output, without the end token."""
    return self.input_length + max(0, self.y_max - self.x_min)

  @property
  def answer_length(self) -> int:
    """The longest answer, end token included."""
    return self.out_length + 1

  @property
  def sequence_length(self) -> int:
    """The longest sequence."""
    prompt = self.x_max + self.y_max + self.input_length + 3
    return prompt + self.answer_length

  def static(self):
    """Every setting is static."""
    return self

  def setting(self, instructions: int) -> dict:
    """Nothing is traced."""
    del instructions
    return {}

  def mix(self, noop_share: float) -> tuple[tuple[int, float], ...]:
    """No-ops at their share, where there are any."""
    if not self.noops:
      return ()
    return ((Kind.NO_OP, noop_share), (Kind.HAS_OP, 1 - noop_share))

  def kind(self, name: str, i_B):
    """'plain': x occurs; 'even': in every second input; 'near': it nearly occurs."""
    if name == 'even':
      lengths = self.x_max - self.x_min + 1
      if lengths % 2 == 0:  # |x| takes turns too: each length is to have both kinds
        i_B = i_B + i_B // lengths
      return jnp.where(i_B % 2 == 0, Kind.NO_OP, Kind.HAS_OP)
    return jnp.full_like(i_B, {'plain': Kind.HAS_OP, 'near': Kind.NEAR_MISS}[name])

  def space(self, rules: RulesConfig) -> RuleSpace:
    """The rules over this task's patterns."""
    return RuleSpace(
      alphabet=self.alphabet,
      x_min=self.x_min,
      x_max=self.x_max,
      y_min=self.y_min,
      y_max=self.y_max,
      dev_fraction=rules.dev_fraction,
      test_fraction=rules.test_fraction,
      distinct=rules.distinct,
    )

  def eval_sets(self, examples: int, cell_examples: int) -> list[EvalSet]:
    """All splits; for unseen rules also the other cells and no-op mixes."""
    kind = 'even' if self.noops else 'plain'
    sets = [EvalSet('unseen', examples, kind=kind)]
    sets += [
      EvalSet('unseen', cell_examples, f'cell={cell}', cell, kind)
      for cell in CELLS[1:]
      if cell_examples
    ]
    if self.noops:
      sets.append(EvalSet('unseen', examples, 'mix=train', kind='train'))
      near = cell_examples or examples
      sets.append(EvalSet('unseen', near, 'near_miss=1', kind='near'))
    sets += [EvalSet(split, examples, kind=kind) for split in ('dev', 'seen')]
    own = 'train' if self.noops else kind
    return [*sets, EvalSet('train', examples, kind=own)]

  def example(self, rule: Rule, key, *, kind=Kind.HAS_OP, shown=None, setting=None):
    """An example of a rule, a pure function of the key.

    kind (may be traced) needs `noops` unless it is HAS_OP. `shown` is the rule
    that the prompt states, for controls that state another one.
    """
    del setting
    bits = jax.random.bits(key, (NOOP_TRIES + 1, self.input_length + 2))
    z_Z = self._has_op(rule, bits[0])
    if self.noops:
      no_op_Z = self._no_op(rule, bits, near=kind == Kind.NEAR_MISS)
      z_Z = jnp.where(kind == Kind.HAS_OP, z_Z, no_op_Z)
    return self.answered(rule, z_Z, shown)

  def answered(self, rule: Rule, z_Z, shown: Rule | None = None) -> tokens.Example:
    """The example of a rule and an input; `shown` is the rule that is stated."""
    out_O, out_len, place, found = rewrite(z_Z, rule, self.out_length)
    inserted_A = jnp.arange(self.answer_length)
    inserted_A = (inserted_A >= place) & (inserted_A < place + rule.y_len) & found
    distance = jnp.where(found, 0, nearest(z_Z, rule))
    return self.pack(
      shown or rule,
      z_Z,
      (out_O, out_len),
      inserted_A=inserted_A,
      slices={
        'noop': (~found).astype(jnp.int32),
        'occurrences': count(z_Z, rule),
        'pattern_length': rule.x_len,
        'near_miss': (distance == 1).astype(jnp.int32),
      },
    )

  def pack(self, shown: Rule, z_Z, answer, *, inserted_A, slices):
    """Lays a prompt and an answer (letters, length) out as an `Example`."""
    x, y = (shown.x_P, shown.x_len), (shown.y_Q, shown.y_len)
    parts = {'x': x, 'y': y, 'z': (z_Z, self.input_length)}
    prompt = [parts[name] for name in self.order]
    size = self.sequence_length
    return tokens.layout(prompt, answer, size, inserted_A=inserted_A, slices=slices)

  def inputs(self, tokens_BL, start_B):
    """The token ids of z in prompts whose answers start at start_B."""
    n = self.input_length
    z_at_B = jnp.zeros_like(start_B) if self.order[0] == 'z' else start_B - 1 - n
    return jnp.take_along_axis(tokens_BL, z_at_B[:, None] + jnp.arange(n)[None], axis=1)

  def force(self, tokens_BL, start_B, answer_BO):
    """The prompts with another answer: (tokens_BL, targets_BA)."""
    count, extra = answer_BO.shape[1], self.answer_length - answer_BO.shape[1]
    targets_BA = jnp.pad(answer_BO, ((0, 0), (0, extra)))
    targets_BA = targets_BA.at[:, count].set(tokens.EOS)
    t = jnp.arange(tokens_BL.shape[1])[None] - start_B[:, None]
    at_BL = jnp.clip(t, 0, self.answer_length - 1)
    forced_BL = jnp.take_along_axis(targets_BA, at_BL, axis=1)
    forced_BL = jnp.where(t >= 0, forced_BL, tokens_BL)
    return jnp.where(t > count, tokens.PAD, forced_BL), targets_BA

  def instruction_mask(self, example: tokens.Example):
    """Where the prompts [..., L] state x and y."""
    shape = example.tokens_L.shape
    t = jax.lax.broadcasted_iota(jnp.int32, shape, len(shape) - 1)
    # The prompt is x SEP y SEP z SEP: everything before the answer but z.
    start = example.answer_start[..., None]
    z_at = 0 if self.order[0] == 'z' else start - 1 - self.input_length
    in_z = (t >= z_at) & (t < z_at + self.input_length)
    return (t < start) & ~in_z & (example.tokens_L != tokens.SEP)

  def fields(self, prompt_N) -> dict[str, list[int]]:
    """A prompt's ids -> its 'input', 'lhs' and 'rhs' in letters."""
    names = {'x': 'lhs', 'y': 'rhs', 'z': 'input'}
    return dict(
      zip([names[n] for n in self.order], tokens.split(prompt_N), strict=True)
    )

  def _letters(self, bits):
    return (bits % jnp.uint32(self.alphabet)).astype(jnp.int32)

  def _has_op(self, rule, bits):
    """Random letters with x at a uniform place."""
    n = self.input_length
    places = (n - rule.x_len + 1).astype(jnp.uint32)
    place = (bits[n] % places).astype(jnp.int32)
    return _put(self._letters(bits[:n]), rule.x_P, rule.x_len, place)

  def _no_op(self, rule, bits, near):
    """The first x-free try, else the first try with its matches broken one by one.

    A near miss has x with one letter changed somewhere in every try.
    """
    n = self.input_length
    free_TZ = self._letters(bits[1:, :n])
    spare = bits[1:, n:]
    # One letter of x, changed by a non-zero step, at a uniform place.
    at = (spare[:, 1] % rule.x_len.astype(jnp.uint32)).astype(jnp.int32)
    step = 1 + (spare[:, 1] // 65536) % jnp.uint32(self.alphabet - 1)
    index = jnp.arange(rule.x_P.shape[0])
    almost_TP = (
      rule.x_P[None]
      + jnp.where(index[None] == at[:, None], step[:, None].astype(jnp.int32), 0)
    ) % self.alphabet
    places = (n - rule.x_len + 1).astype(jnp.uint32)
    place = (spare[:, 0] % places).astype(jnp.int32)
    near_TZ = jax.vmap(_put, (0, 0, None, 0))(free_TZ, almost_TP, rule.x_len, place)
    tries_TZ = jnp.where(near, near_TZ, free_TZ)
    hit_T = jax.vmap(lambda z: matches(z, rule).any())(tries_TZ)
    z_Z = tries_TZ[jnp.argmin(hit_T)]
    return self._repair(z_Z, rule)

  def _repair(self, z_Z, rule):
    """Changes the last letter of the leftmost match until there is none.

    Each change leaves no match that ends there or before, so it ends.
    """

    def change(z_Z):
      end = jnp.argmax(matches(z_Z, rule)) + rule.x_len - 1
      return z_Z.at[end].set((z_Z[end] + 1) % self.alphabet)

    return jax.lax.while_loop(lambda z: matches(z, rule).any(), change, z_Z)


def _put(z_Z, x_P, x_len, place):
  """z with x written over it at a place."""
  at = jnp.arange(z_Z.shape[0]) - place
  inside = (at >= 0) & (at < x_len)
  return jnp.where(inside, x_P[jnp.clip(at, 0, x_P.shape[0] - 1)], z_Z)


def _equal_ZP(z_Z, rule):
  """Letter-wise equality of x with the window that starts at each place."""
  z, p = z_Z.shape[0], rule.x_P.shape[0]
  padded = jnp.concatenate([z_Z, jnp.full(p, -1, z_Z.dtype)])
  windows_ZP = padded[jnp.arange(z)[:, None] + jnp.arange(p)[None, :]]
  beyond = jnp.arange(p) >= rule.x_len
  return (windows_ZP == rule.x_P[None, :]) | beyond[None, :]


def matches(z_Z, rule: Rule):
  """Where x starts in z, overlapping matches included."""
  return _equal_ZP(z_Z, rule).all(-1)


def nearest(z_Z, rule: Rule):
  """The least number of differing letters between x and a window of z."""
  differing = (~_equal_ZP(z_Z, rule)).sum(-1)
  fits = jnp.arange(z_Z.shape[0]) <= z_Z.shape[0] - rule.x_len
  return jnp.where(fits, differing, rule.x_len).min()


def count(z_Z, rule: Rule):
  """Non-overlapping matches from the left, as in `str.count`."""

  def visit(carry, hit):
    free_in, total = carry
    take = hit & (free_in == 0)
    free_in = jnp.where(take, rule.x_len - 1, jnp.maximum(free_in - 1, 0))
    return (free_in, total + take), None

  hits_Z = matches(z_Z, rule)
  zero = 0 * hits_Z.sum()  # made from the data, so it varies over a mesh as they do
  (_, total), _ = jax.lax.scan(visit, (zero, zero), hits_Z)
  return total


def rewrite(z_Z, rule: Rule, size: int):
  """z with its leftmost x replaced by y: (out_O, length, place, found)."""
  hits = matches(z_Z, rule)
  found, place = hits.any(), jnp.argmax(hits)
  shift = jnp.where(found, rule.y_len - rule.x_len, 0)
  t = jnp.arange(size)
  z, q = z_Z.shape[0], rule.y_Q.shape[0]
  before = z_Z[jnp.clip(t, 0, z - 1)]
  inside = rule.y_Q[jnp.clip(t - place, 0, q - 1)]
  after = z_Z[jnp.clip(t - shift, 0, z - 1)]
  out_O = jnp.where(t < place + rule.y_len, inside, after)
  out_O = jnp.where(found & (t >= place), out_O, before)
  length = z + shift
  return jnp.where(t < length, out_O, 0), length, place, found


def trace(z: str, x: str, y: str) -> str:
  """The task's map on plain text, through the same code as the data."""
  rule = Rule(
    jnp.array(tokens.encode(x)),
    jnp.int32(len(x)),
    jnp.array(tokens.encode(y)),
    jnp.int32(len(y)),
  )
  letters = jnp.array(tokens.encode(z))
  out_O, length, _, _ = rewrite(letters, rule, len(z) + len(y))
  return tokens.decode(out_O[:length])
