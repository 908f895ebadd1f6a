"""Basic and conditional rewriting (arXiv:2402.10891; Only-IF, section 2.3).

An instruction is a rule x -> y. The answer is the input z with its leftmost x
replaced by y, or z itself if x does not occur (a no-op).

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

NOOP_TRIES = 4  # random inputs tried before one is repaired


class Kind(enum.IntEnum):
  """The kind of an input."""

  HAS_OP = 0  # x occurs
  NO_OP = 1  # x does not occur
  NEAR_MISS = 2  # x does not occur, x with one letter changed does


@dataclasses.dataclass(frozen=True)
class Rewrite(RewriteSettings):
  """Replace the leftmost x in z by y.

  The settings are documented in `RewriteSettings`.
  """

  @property
  def symbols(self) -> str:
    """The character of each letter."""
    return tokens.decode(range(self.alphabet))

  @property
  def vocab_size(self) -> int:
    """The number of token ids in use."""
    return tokens.FIRST_LETTER + self.alphabet

  @property
  def out_length(self) -> int:
    """The length of the longest output, without the end token."""
    return self.input_length + max(0, self.y_max - self.x_min)

  @property
  def answer_length(self) -> int:
    """The length of the longest answer, end token included."""
    return self.out_length + 1

  @property
  def sequence_length(self) -> int:
    """The length of the longest sequence."""
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
    """No-ops at their share, if the task has any."""
    if not self.noops:
      return ()
    return ((Kind.NO_OP, noop_share), (Kind.HAS_OP, 1 - noop_share))

  def kind(self, name: str, i_B):
    """'plain': x occurs; 'even': in every second input; 'near': x but for one letter."""
    if name == 'even':
      lengths = self.x_max - self.x_min + 1
      if lengths % 2 == 0:  # |x| alternates too: shift, so that each has both kinds
        i_B = i_B + i_B // lengths
      return jnp.where(i_B % 2 == 0, Kind.NO_OP, Kind.HAS_OP)
    return jnp.full_like(i_B, {'plain': Kind.HAS_OP, 'near': Kind.NEAR_MISS}[name])

  def space(self, rules: RulesConfig) -> RuleSpace:
    """The rules over this task's alphabet and pattern lengths."""
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
    """All splits; for unseen rules also the other cells and mixes of no-ops."""
    kind = 'even' if self.noops else 'plain'
    sets = [EvalSet('unseen', examples, kind=kind)]
    sets += [
      EvalSet('unseen', cell_examples, f'cell={cell}', cell, kind)
      for cell in CELLS[1:]
      if cell_examples
    ]
    if self.noops:
      sets.append(EvalSet('unseen', examples, 'mix=train', kind='train'))
      near_misses = cell_examples or examples
      sets.append(EvalSet('unseen', near_misses, 'near_miss=1', kind='near'))
    sets += [EvalSet(split, examples, kind=kind) for split in ('dev', 'seen')]
    train_kind = 'train' if self.noops else kind
    return [*sets, EvalSet('train', examples, kind=train_kind)]

  def example(self, rule: Rule, key, *, kind=Kind.HAS_OP, shown=None, setting=None):
    """An example of a rule, a pure function of the key.

    kind (may be traced) is ignored without `noops`. shown: the rule that the prompt
    states, if a control experiment states another.
    """
    del setting
    bits = jax.random.bits(key, (NOOP_TRIES + 1, self.input_length + 2))
    z_Z = self._has_op(rule, bits[0])
    if self.noops:
      no_op_Z = self._no_op(rule, bits, near=kind == Kind.NEAR_MISS)
      z_Z = jnp.where(kind == Kind.HAS_OP, z_Z, no_op_Z)
    return self.answered(rule, z_Z, shown)

  def answered(self, rule: Rule, z_Z, shown: Rule | None = None) -> tokens.Example:
    """The example of a rule and an input; shown: the rule that the prompt states."""
    out_O, out_len, start, occurs = rewrite(z_Z, rule, self.out_length)
    index_A = jnp.arange(self.answer_length)
    inserted_A = (index_A >= start) & (index_A < start + rule.y_len) & occurs
    distance = jnp.where(occurs, 0, nearest(z_Z, rule))
    return self.pack(
      shown or rule,
      z_Z,
      (out_O, out_len),
      inserted_A=inserted_A,
      slices={
        'noop': (~occurs).astype(jnp.int32),
        'occurrences': count(z_Z, rule),
        'pattern_length': rule.x_len,
        'near_miss': (distance == 1).astype(jnp.int32),
      },
    )

  def pack(self, shown: Rule, z_Z, answer, *, inserted_A, slices) -> tokens.Example:
    """Lay out a prompt and an answer (letters, length) as an `Example`."""
    x, y = (shown.x_P, shown.x_len), (shown.y_Q, shown.y_len)
    pieces = {'x': x, 'y': y, 'z': (z_Z, self.input_length)}
    prompt = [pieces[name] for name in self.order]
    size = self.sequence_length
    return tokens.layout(prompt, answer, size, inserted_A=inserted_A, slices=slices)

  def inputs(self, tokens_BL, start_B):
    """The token ids [B, Z] of z in prompts whose answers start at start_B."""
    n = self.input_length
    z_start_B = jnp.zeros_like(start_B) if self.order[0] == 'z' else start_B - 1 - n
    index_BZ = z_start_B[:, None] + jnp.arange(n)[None]
    return jnp.take_along_axis(tokens_BL, index_BZ, axis=1)

  def force(self, tokens_BL, start_B, answer_BO):
    """The prompts followed by another answer: (tokens_BL, targets_BA)."""
    length, extra = answer_BO.shape[1], self.answer_length - answer_BO.shape[1]
    targets_BA = jnp.pad(answer_BO, ((0, 0), (0, extra)))
    targets_BA = targets_BA.at[:, length].set(tokens.EOS)
    offset_BL = jnp.arange(tokens_BL.shape[1])[None] - start_B[:, None]
    index_BL = jnp.clip(offset_BL, 0, self.answer_length - 1)
    forced_BL = jnp.take_along_axis(targets_BA, index_BL, axis=1)
    forced_BL = jnp.where(offset_BL >= 0, forced_BL, tokens_BL)
    return jnp.where(offset_BL > length, tokens.PAD, forced_BL), targets_BA

  def instruction_mask(self, example: tokens.Example):
    """True at the tokens [..., L] of x and y in the prompts."""
    shape = example.tokens_L.shape
    t = jax.lax.broadcasted_iota(jnp.int32, shape, len(shape) - 1)
    # The prompt is x, y and z, each followed by SEP: all of it but z and SEP.
    answer_start = example.answer_start[..., None]
    z_first = self.order[0] == 'z'
    z_start = 0 if z_first else answer_start - 1 - self.input_length
    in_z = (t >= z_start) & (t < z_start + self.input_length)
    return (t < answer_start) & ~in_z & (example.tokens_L != tokens.SEP)

  def fields(self, prompt_N) -> dict[str, list[int]]:
    """A prompt's ids -> the letters of its 'input', 'lhs' and 'rhs'."""
    names = {'x': 'lhs', 'y': 'rhs', 'z': 'input'}
    order = [names[part] for part in self.order]
    return dict(zip(order, tokens.split(prompt_N), strict=True))

  def _letters(self, bits):
    return (bits % jnp.uint32(self.alphabet)).astype(jnp.int32)

  def _start(self, rule, bits):
    """A uniform start of x within z."""
    starts = (self.input_length - rule.x_len + 1).astype(jnp.uint32)
    return (bits % starts).astype(jnp.int32)

  def _has_op(self, rule, bits):
    """Random letters with x at a uniform position."""
    n = self.input_length
    z_Z = self._letters(bits[:n])
    return _overwrite(z_Z, rule.x_P, rule.x_len, self._start(rule, bits[n]))

  def _no_op(self, rule, bits, near):
    """The first x-free one of some tries T, else the first try with x removed.

    near: every try contains x with one letter changed.
    """
    n = self.input_length
    random_TZ = self._letters(bits[1:, :n])
    start_bits_T, change_bits_T = bits[1:, n], bits[1:, n + 1]
    # One letter of x, chosen uniformly, is changed by a non-zero step.
    changed_T = (change_bits_T % rule.x_len.astype(jnp.uint32)).astype(jnp.int32)
    step_T = 1 + (change_bits_T // 65536) % jnp.uint32(self.alphabet - 1)
    is_changed_TP = jnp.arange(rule.x_P.shape[0])[None] == changed_T[:, None]
    change_TP = jnp.where(is_changed_TP, step_T[:, None].astype(jnp.int32), 0)
    almost_x_TP = (rule.x_P[None] + change_TP) % self.alphabet
    start_T = self._start(rule, start_bits_T)
    near_TZ = jax.vmap(_overwrite, (0, 0, None, 0))(
      random_TZ, almost_x_TP, rule.x_len, start_T
    )
    tries_TZ = jnp.where(near, near_TZ, random_TZ)
    has_x_T = jax.vmap(lambda z_Z: matches(z_Z, rule).any())(tries_TZ)
    return self._remove(tries_TZ[jnp.argmin(has_x_T)], rule)

  def _remove(self, z_Z, rule):
    """Change the last letter of the leftmost x until x does not occur.

    This terminates: after a change no match ends there or before.
    """

    def change(z_Z):
      end = jnp.argmax(matches(z_Z, rule)) + rule.x_len - 1
      return z_Z.at[end].set((z_Z[end] + 1) % self.alphabet)

    return jax.lax.while_loop(lambda z_Z: matches(z_Z, rule).any(), change, z_Z)


def _overwrite(z_Z, x_P, x_len, start):
  """z with x written over it from a position on."""
  offset_Z = jnp.arange(z_Z.shape[0]) - start
  inside_Z = (offset_Z >= 0) & (offset_Z < x_len)
  return jnp.where(inside_Z, x_P[jnp.clip(offset_Z, 0, x_P.shape[0] - 1)], z_Z)


def _equal_ZP(z_Z, rule):
  """Letter-wise equality of x and the window of z that starts at each position."""
  z, p = z_Z.shape[0], rule.x_P.shape[0]
  padded = jnp.concatenate([z_Z, jnp.full(p, -1, z_Z.dtype)])
  windows_ZP = padded[jnp.arange(z)[:, None] + jnp.arange(p)[None, :]]
  beyond_P = jnp.arange(p) >= rule.x_len
  return (windows_ZP == rule.x_P[None, :]) | beyond_P[None, :]


def matches(z_Z, rule: Rule):
  """True [Z] at the positions where x starts, overlapping matches included."""
  return _equal_ZP(z_Z, rule).all(-1)


def nearest(z_Z, rule: Rule):
  """The smallest number of letters in which x differs from a window of z."""
  differing_Z = (~_equal_ZP(z_Z, rule)).sum(-1)
  fits_Z = jnp.arange(z_Z.shape[0]) <= z_Z.shape[0] - rule.x_len
  return jnp.where(fits_Z, differing_Z, rule.x_len).min()


def count(z_Z, rule: Rule):
  """The number of non-overlapping matches from the left, as in `str.count`."""

  def visit(carry, is_match):
    blocked, total = carry  # blocked: letters until the last counted match ends
    counted = is_match & (blocked == 0)
    blocked = jnp.where(counted, rule.x_len - 1, jnp.maximum(blocked - 1, 0))
    return (blocked, total + counted), None

  matches_Z = matches(z_Z, rule)
  zero = 0 * matches_Z.sum()  # made from the data: it must vary over a mesh with them
  (_, total), _ = jax.lax.scan(visit, (zero, zero), matches_Z)
  return total


def rewrite(z_Z, rule: Rule, size: int):
  """z with its leftmost x replaced by y: (out_O, length, start of x, x occurs).

  size: the static length O of the output, which is zero beyond its length.
  """
  matches_Z = matches(z_Z, rule)
  occurs, start = matches_Z.any(), jnp.argmax(matches_Z)
  shift = jnp.where(occurs, rule.y_len - rule.x_len, 0)
  t = jnp.arange(size)
  z, q = z_Z.shape[0], rule.y_Q.shape[0]
  before_O = z_Z[jnp.clip(t, 0, z - 1)]
  inserted_O = rule.y_Q[jnp.clip(t - start, 0, q - 1)]
  after_O = z_Z[jnp.clip(t - shift, 0, z - 1)]
  out_O = jnp.where(t < start + rule.y_len, inserted_O, after_O)
  out_O = jnp.where(occurs & (t >= start), out_O, before_O)
  length = z + shift
  return jnp.where(t < length, out_O, 0), length, start, occurs


def text_rule(x: str, y: str) -> Rule:
  """The rule x -> y of plain text."""
  x_P, y_Q = jnp.array(tokens.encode(x)), jnp.array(tokens.encode(y))
  return Rule(x_P, jnp.int32(len(x)), y_Q, jnp.int32(len(y)))


def trace(z: str, x: str, y: str) -> str:
  """`rewrite` on plain text."""
  z_Z = jnp.array(tokens.encode(z))
  compiled = jax.jit(rewrite, static_argnums=2)
  out_O, length, _, _ = compiled(z_Z, text_rule(x, y), len(z) + len(y))
  return tokens.decode(out_O[:length])
