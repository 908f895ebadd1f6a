"""Algebraic rewriting of expression trees (Only-IF section 3, Fig. 5 a-c).

A rule is an equation between two templates. The input is a random tree of depth d,
one of whose leaves is the left side with its slots filled by trees of depth d_p; the
answer is the same tree with the right side there. The prompt is lhs SEP rhs SEP
input SEP. An analogue of the paper's fine-tuning: trained from scratch.

A generalist is tested on unseen rules. A specialist has `specialist` in-domain rules
and I - `specialist` diversification rules, which get `diverse_share` of the examples;
it is tested on its in-domain rules with deeper slots than it was trained on.

By chance another part of an input may match the left side too, and nothing tells
which one is meant; tests/test_algebra.py bounds how often.

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
  """How deep the trees in the slots are."""

  TRAINED = 0  # slot_min to slot_max
  DEEPER = 1  # slot_test


@dataclasses.dataclass(frozen=True)
class Algebra(AlgebraSettings):
  """Rewrite one leaf of an expression tree by an equation."""

  noops: ClassVar[bool] = False

  @property
  def vocab_size(self) -> int:
    """Token ids in use."""
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
    """The longest tree in a slot."""
    return expressions.longest(self._slot_depth, self.slot_shape)

  @property
  def _host_size(self) -> int:
    """The longest input tree, the hole included as one letter without function."""
    return expressions.longest(self.depth, functions=True) - 1

  def _filled(self, length: int, slots: int) -> int:
    return length + slots * (self._slot_size - 1)

  @property
  def _sizes(self) -> list[tuple[int, int, int, int]]:
    """Template and instance lengths of both sides of the longest rules."""
    return [
      (p, self._filled(p, a), q, self._filled(q, b))
      for p, a, q, b in templates.sizes(self.source, self.functions)
    ]

  @property
  def _side_size(self) -> int:
    """The longest instance of a side."""
    return max(max(lhs, rhs) for _, lhs, _, rhs in self._sizes)

  @property
  def out_length(self) -> int:
    """The longest output, without the end token; the longest input too."""
    return self._host_size - 1 + self._side_size

  @property
  def answer_length(self) -> int:
    """The longest answer, end token included."""
    return self.out_length + 1

  @property
  def sequence_length(self) -> int:
    """The longest sequence: no two sides of different rules are ever added up."""
    return max(map(sum, self._sizes)) + 2 * (self._host_size - 1) + 4

  def static(self) -> 'Algebra':
    """The task without the settings of a mixture."""
    return dataclasses.replace(self, specialist=0, diverse_share=0.0)

  def setting(self, instructions: int) -> dict[str, np.ndarray]:
    """specialist: the number of in-domain rules."""
    self._check_mixture(instructions)
    return {'specialist': np.array(self.specialist or instructions, np.int32)}

  def shares(self, instructions: int) -> np.ndarray | None:
    """The share of each rule in the training examples; None: all alike.

    With no diversification rules the in-domain ones get everything; a count table
    all the same, so that every mixture runs in one program.
    """
    self._check_mixture(instructions)
    s, diverse = self.specialist, instructions - self.specialist
    if not s:
      return None
    r = self.diverse_share if diverse else 0.0
    return np.repeat([(1 - r) / s, r / max(1, diverse)], [s, diverse])

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
    """'deeper' has the test's slots, the others the training's."""
    names = {'plain': Kind.TRAINED, 'train': Kind.TRAINED, 'deeper': Kind.DEEPER}
    if name not in names:
      raise ValueError(f'unknown kind {name!r}; one of {", ".join(names)}')
    return jnp.full_like(i_B, int(names[name]))

  def space(self, rules: RulesConfig) -> EquationSpace:
    """The rules; raises ValueError for settings that cannot work."""
    for field, options in (
      ('source', ('random', 'identities')),
      ('slot_shape', ('chain', 'full')),
    ):
      if (value := getattr(self, field)) not in options:
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
    place = (bits[1] % 2**self.depth).astype(jnp.int32)
    host_H, host_len = self._host(bits[2 : 2 + nodes], place)

    def slot(bits_N):
      tree = expressions.random_tree(bits_N, depth, self.slot_shape)
      return expressions.write(tree, self._slot_size)

    values_SW, length_S = jax.vmap(slot)(bits[2 + nodes :].reshape(SLOTS, slot_nodes))

    def apply(side_P, side_len):
      side = expressions.fill(side_P, side_len, values_SW, length_S, self._side_size)
      return *_plug(host_H, host_len, side, self.out_length), side[1]

    in_Z, in_len, _ = apply(rule.lhs_P, rule.lhs_len)
    out_O, out_len, rhs_len = apply(rule.rhs_Q, rule.rhs_len)
    shown = rule if shown is None else shown
    prompt = [(shown.lhs_P, shown.lhs_len), (shown.rhs_Q, shown.rhs_len)]
    at_A = jnp.arange(self.answer_length) - jnp.argmax(host_H == expressions.HOLE)
    return tokens.layout(
      [*prompt, (in_Z, in_len)],
      (out_O, out_len),
      self.sequence_length,
      inserted_A=(at_A >= 0) & (at_A < rhs_len),
      slices={'in_domain': rule.in_domain, 'place': place, 'slot_depth': depth},
    )

  def _host(self, bits_N, place):
    """The input's tree with a hole at a leaf, as (letters, length)."""
    tree = expressions.random_tree(bits_N, self.depth, functions=True)
    hole = 2**self.depth - 1 + place
    function_N = tree.function_N.at[hole].set(-1)
    atom_N = tree.atom_N.at[hole].set(expressions.HOLE)
    tree = tree._replace(function_N=function_N, atom_N=atom_N)
    return expressions.write(tree, self._host_size)

  def eval_sets(self, examples: int, cell_examples: int) -> list[EvalSet]:
    """unseen: unseen rules at trained depths; deeper: in-domain rules, deeper slots."""
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
    """Where the prompts [..., L] state the two sides."""
    is_sep = example.tokens_L == tokens.SEP
    before = jnp.cumsum(is_sep.astype(jnp.int32), -1)
    return (before < 2) & ~is_sep

  def fields(self, prompt_N) -> dict[str, list[int]]:
    """A prompt's ids on the host -> lhs, rhs and input, in letters."""
    parts: list[list[int]] = [[]]
    for n in map(int, prompt_N):
      if n == tokens.SEP:
        parts.append([])
      else:
        parts[-1].append(n - tokens.FIRST_LETTER)
    return dict(zip(('lhs', 'rhs', 'input'), parts, strict=False))


def _plug(host_H, host_len, side, size: int):
  """The host with an expression in its hole: (letters, length)."""
  values_SW, length_S = side[0][None], side[1][None]
  hole = expressions.HOLE
  return expressions.fill(host_H, host_len, values_SW, length_S, size, first=hole)


def trace(rule: str, host: str, **slots: str) -> tuple[str, str]:
  """(input, output) on plain text, through the same code as the data.

  rule: 'lhs=rhs'; host: an expression with '_' for the hole; slots: A='x' ...
  """
  texts = [slots.get(c, 'x') for c in expressions.SLOTS]
  size = max(map(len, texts))
  rows = [np.pad(expressions.encode(t), (0, size - len(t))) for t in texts]
  length_S = jnp.array([len(t) for t in texts])
  host_H = jnp.asarray(expressions.encode(host))
  out = []
  for side in rule.split('='):
    letters_P = jnp.asarray(expressions.encode(side))
    bound = len(side) * size
    filled = expressions.fill(letters_P, len(side), jnp.array(rows), length_S, bound)
    letters, length = _plug(host_H, len(host), filled, bound + len(host))
    out.append(expressions.decode(letters[:length]))
  return out[0], out[1]
