"""Algebraic rewriting of expression trees (Only-IF, section 3, Fig. 5 a-c).

A rule is an equation between two templates. The input is a random tree of depth d,
one of whose leaves is the left side with its slots filled by trees of depth d_p. The
answer is the same tree with the right side there. The prompt is lhs SEP rhs SEP
input SEP. Models are trained from scratch, where the paper fine-tunes.

A generalist is tested on unseen rules. A specialist has `specialist` in-domain rules
and I - `specialist` diversification rules, which get `diverse_share` of the examples;
it is tested on its in-domain rules with deeper slots than in training.

By chance another part of an input may match the left side too, so that the task is
ambiguous; tests/test_algebra.py bounds how often.

>>> trace('((A^2)-(B^2))=((A+B)*(A-B))', '(_^3)', A='(x+5)', B='z')
('((((x+5)^2)-(z^2))^3)', '((((x+5)+z)*((x+5)-z))^3)')
>>> trace('s(2*A)=((2*sA)*cA)', '(ly-_)', A='(3*u)')
('(ly-s(2*(3*u)))', '(ly-((2*s(3*u))*c(3*u)))')
"""

import dataclasses
import enum
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from onlyif_jax.config import RulesConfig
from onlyif_jax.settings import AlgebraSettings
from onlyif_jax.tasks import expressions, templates, tokens
from onlyif_jax.tasks.contract import EvalSet
from onlyif_jax.tasks.templates import EquationSpace

SLOTS = len(expressions.SLOTS)


class Kind(enum.IntEnum):
  """The depth of the trees in the slots."""

  TRAINED = 0  # slot_min to slot_max
  DEEPER = 1  # slot_test


@dataclasses.dataclass(frozen=True)
class Algebra(AlgebraSettings):
  """Rewrite one leaf of an expression tree by an equation."""

  noops: ClassVar[bool] = False

  @property
  def vocab_size(self) -> int:
    """The number of token ids in use."""
    return tokens.FIRST_LETTER + len(expressions.SYMBOLS)

  @property
  def symbols(self) -> str:
    """The character of each letter."""
    return expressions.SYMBOLS

  @property
  def _slot_depth(self) -> int:
    return max(self.slot_max, self.slot_test)

  @property
  def _slot_size(self) -> int:
    """The length of the longest tree in a slot."""
    return expressions.longest(self._slot_depth, self.slot_shape)

  @property
  def _host_size(self) -> int:
    """The length of the longest input tree, whose hole is one letter, no function."""
    return expressions.longest(self.depth, functions=True) - 1

  def _filled(self, length: int, slots: int) -> int:
    """The greatest length of a template when its slots are filled."""
    return length + slots * (self._slot_size - 1)

  @property
  def _sizes(self) -> list[tuple[int, int, int, int]]:
    """Lengths (lhs, filled lhs, rhs, filled rhs) of the longest rules."""
    return [
      (p, self._filled(p, a), q, self._filled(q, b))
      for p, a, q, b in templates.sizes(self.source, self.functions)
    ]

  @property
  def _side_size(self) -> int:
    """The length of the longest filled side."""
    return max(max(lhs, rhs) for _, lhs, _, rhs in self._sizes)

  @property
  def out_length(self) -> int:
    """The length of the longest output (without end token), and of the longest input."""
    return self._host_size - 1 + self._side_size

  @property
  def answer_length(self) -> int:
    """The length of the longest answer, end token included."""
    return self.out_length + 1

  @property
  def sequence_length(self) -> int:
    """The length of the longest sequence, both of whose sides are of the same rule."""
    return max(map(sum, self._sizes)) + 2 * (self._host_size - 1) + 4

  def static(self) -> 'Algebra':
    """The task without the settings of a mixture."""
    return dataclasses.replace(self, specialist=0, diverse_share=0.0)

  def setting(self, instructions: int) -> dict[str, np.ndarray]:
    """specialist: the number of in-domain rules."""
    self._check_mixture(instructions)
    return {'specialist': np.array(self.specialist or instructions, np.int32)}

  def shares(self, instructions: int) -> np.ndarray | None:
    """The share of each rule in the training examples; None: all equal.

    Without diversification rules the in-domain rules have all examples. The shares are
    still an array, so that every mixture runs in the same program.
    """
    self._check_mixture(instructions)
    specialist, diverse = self.specialist, instructions - self.specialist
    if not specialist:
      return None
    r = self.diverse_share if diverse else 0.0
    return np.repeat([(1 - r) / specialist, r / max(1, diverse)], [specialist, diverse])

  def _check_mixture(self, instructions: int) -> None:
    if self.specialist > instructions:
      raise ValueError(
        f'task.specialist={self.specialist} in-domain rules are more than the '
        f'{instructions} of sweep.counts, which include them; raise the count'
      )

  def mix(self, noop_share: float) -> tuple[tuple[int, float], ...]:
    """All training examples are of one kind."""
    return ()

  def kind(self, name: str, i_B):
    """'deeper': slots as deep as in the test; 'plain' and 'train': as in training."""
    names = {'plain': Kind.TRAINED, 'train': Kind.TRAINED, 'deeper': Kind.DEEPER}
    if name not in names:
      raise ValueError(f'unknown kind {name!r}; one of {", ".join(names)}')
    return jnp.full_like(i_B, int(names[name]))

  def space(self, rules: RulesConfig) -> EquationSpace:
    """The rules; raises ValueError for settings that cannot work."""
    choices = {'source': ('random', 'identities'), 'slot_shape': ('chain', 'full')}
    for field, options in choices.items():
      value = getattr(self, field)
      if value not in options:
        raise ValueError(f'task.{field}={value!r} is not one of {", ".join(options)}')
    if not 0 <= self.slot_min <= self.slot_max:
      raise ValueError(
        f'task.slot_min={self.slot_min} is not in [0, task.slot_max={self.slot_max}]'
      )
    if not 0 <= self.functions <= 5:
      raise ValueError(f'task.functions={self.functions} is not in [0, 5]')
    if self.slots not in (1, 2):
      raise ValueError(f'task.slots={self.slots} is not 1 or 2')
    if min(self.depth, self.slot_test, self.specialist) < 0:
      raise ValueError('task.depth, slot_test and specialist must not be negative')
    if not 0 <= self.diverse_share < 1:
      raise ValueError(f'task.diverse_share={self.diverse_share} is not in [0, 1)')
    return EquationSpace(
      source=self.source,
      functions=self.functions if self.source == 'random' else 0,
      slots=self.slots,
      dev_fraction=rules.dev_fraction,
      test_fraction=rules.test_fraction,
      distinct=rules.distinct,
    )

  def example(self, rule, key, *, kind=Kind.TRAINED, shown=None, setting=None):
    """An example of a rule, a pure function of the key; kind may be traced."""
    nodes, slot_nodes = 2 ** (self.depth + 1) - 1, 2 ** (self._slot_depth + 1) - 1
    bits = jax.random.bits(key, (2 + nodes + SLOTS * slot_nodes,))
    trained = self.slot_min + bits[0] % (self.slot_max - self.slot_min + 1)
    depth = jnp.where(kind == Kind.DEEPER, self.slot_test, trained.astype(jnp.int32))
    leaf = (bits[1] % 2**self.depth).astype(jnp.int32)
    host_H, host_len = self._host(bits[2 : 2 + nodes], leaf)

    def slot(bits_N):
      tree = expressions.random_tree(bits_N, depth, self.slot_shape)
      return expressions.write(tree, self._slot_size)

    values_SW, length_S = jax.vmap(slot)(bits[2 + nodes :].reshape(SLOTS, slot_nodes))

    def instantiate(side_P, side_len):
      """The host with a filled side in its hole, and the length of that side."""
      side = expressions.fill(side_P, side_len, values_SW, length_S, self._side_size)
      return *_plug(host_H, host_len, side, self.out_length), side[1]

    in_Z, in_len, _ = instantiate(rule.lhs_P, rule.lhs_len)
    out_O, out_len, rhs_len = instantiate(rule.rhs_Q, rule.rhs_len)
    shown = rule if shown is None else shown
    prompt = [(shown.lhs_P, shown.lhs_len), (shown.rhs_Q, shown.rhs_len)]
    offset_A = jnp.arange(self.answer_length) - jnp.argmax(host_H == expressions.HOLE)
    return tokens.layout(
      [*prompt, (in_Z, in_len)],
      (out_O, out_len),
      self.sequence_length,
      inserted_A=(offset_A >= 0) & (offset_A < rhs_len),
      slices={'in_domain': rule.in_domain, 'place': leaf, 'slot_depth': depth},
    )

  def _host(self, bits_N, leaf):
    """The input's tree with a hole at one of its 2^depth leaves: (letters, length)."""
    tree = expressions.random_tree(bits_N, self.depth, functions=True)
    hole = 2**self.depth - 1 + leaf
    function_N = tree.function_N.at[hole].set(-1)
    atom_N = tree.atom_N.at[hole].set(expressions.HOLE)
    tree = tree._replace(function_N=function_N, atom_N=atom_N)
    return expressions.write(tree, self._host_size)

  def eval_sets(self, examples: int, cell_examples: int) -> list[EvalSet]:
    """unseen: unseen rules, depths as in training; deeper: in-domain rules, deeper."""
    sets = [EvalSet('unseen', examples)]
    deeper = self.slot_test > self.slot_max
    if deeper and cell_examples:
      sets.append(EvalSet('unseen', cell_examples, 'slots=deeper', kind='deeper'))
    sets += [EvalSet(split, examples) for split in ('dev', 'seen')]
    sets.append(EvalSet('train', examples, kind='train'))
    if deeper:
      cell = templates.IN_DOMAIN
      sets.append(EvalSet('deeper', examples, cell=cell, kind='deeper'))
    return sets

  def instruction_mask(self, example: tokens.Example):
    """True at the tokens [..., L] of the two sides in the prompts."""
    is_sep = example.tokens_L == tokens.SEP
    seps_before = jnp.cumsum(is_sep.astype(jnp.int32), -1)
    return (seps_before < 2) & ~is_sep

  def fields(self, prompt_N) -> dict[str, list[int]]:
    """A prompt's ids -> the letters of its 'lhs', 'rhs' and 'input'."""
    return dict(zip(('lhs', 'rhs', 'input'), tokens.split(prompt_N), strict=True))


def _plug(host_H, host_len, side, size: int):
  """The host with an expression in its hole: (letters, length)."""
  values_SW, length_S = side[0][None], side[1][None]
  hole = expressions.HOLE
  return expressions.fill(host_H, host_len, values_SW, length_S, size, first=hole)


def trace(rule: str, host: str, **slots: str) -> tuple[str, str]:
  """(input, output) in plain text.

  rule: 'lhs=rhs'. host: an expression with '_' for the hole. slots: A='x' ...
  """
  values = [slots.get(c, 'x') for c in expressions.SLOTS]
  texts = [*rule.split('='), host, *values]
  size = -(-max(map(len, texts)) // 16) * 16  # few sizes, so few programs
  rows = [np.pad(expressions.encode(t), (0, size - len(t))) for t in texts]
  made = _instantiate(jnp.array(rows), jnp.array([len(t) for t in texts]))
  letters_2O, length_2 = jax.device_get(made)
  before, after = (letters_2O[n, : length_2[n]] for n in range(2))
  return expressions.decode(before), expressions.decode(after)


@jax.jit
def _instantiate(texts_NW, length_N):
  """Both sides in the host; texts: lhs, rhs, host and the slots' values."""
  size = texts_NW.shape[1]

  def one(side_P, length):
    filled = expressions.fill(side_P, length, texts_NW[3:], length_N[3:], size * size)
    return _plug(texts_NW[2], length_N[2], filled, size * size + size)

  return jax.vmap(one)(texts_NW[:2], length_N[:2])
