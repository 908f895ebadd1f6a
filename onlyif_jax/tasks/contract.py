"""What a task is: the two interfaces that data, training and evaluation rely on.

A task is a frozen dataclass of plain numbers (hashable, static under jit) that
inherits its settings from `settings.py`; its `space` enumerates the rules. Both are
pure jnp in traced arguments: no host, no stored examples, no loop over characters.
"""

import dataclasses
from typing import Any, Protocol

import jax
import numpy as np

from onlyif_jax.config import RulesConfig
from onlyif_jax.tasks.rules import Part
from onlyif_jax.tasks.tokens import Example


@dataclasses.dataclass(frozen=True)
class EvalSet:
  """One set of examples to evaluate.

  split: 'unseen', 'dev', 'seen', 'train', or one that the task adds. An empty
  `label` makes the set its split's `all`, with a row for each value of each slice;
  otherwise it is reported as the slice `label` alone. cell: '' for the part's own
  rules, or one that the space's `cell_rule` knows. kind: how inputs are made, by a
  name that the task's `kind` knows, or 'train' for the mix of training.
  """

  split: str
  examples: int
  label: str = ''
  cell: str = ''
  kind: str = 'plain'


class Space(Protocol):
  """Rules as a pure function of (seed, part, index); a rule is any pytree.

  A space may have `remedy`, words that follow 'Lower the count, ' where a sweep asks
  for more rules than there are.
  """

  @property
  def description(self) -> str:
    """The rules in words, for error messages: '|x|=3-3, |y|=3-3 over 26 letters'."""
    ...

  def capacity(self, part: Part = Part.TRAIN, setting: Any = None) -> int:
    """Distinct rules of a part; more are refused."""
    ...

  def pair_capacity(self, part: Part = Part.TRAIN) -> int:
    """How far `rule` may be indexed for the reference I = infinity."""
    ...

  def rule(self, seed, part: Part, i, setting: Any = None) -> Any:
    """Rule i of a part; seed and i may be traced. The rule set of I is i < I."""
    ...

  def cell_rule(
    self, seed, part: Part, cell: str, i, instructions, setting: Any = None
  ) -> tuple[Any, jax.Array]:
    """Rule i of a further test cell, and whether it exists, as (rule, bool)."""
    ...

  def lend(self, rule: Any, other: Any) -> Any:
    """The rule as a prompt states it that shows the other rule's answer side."""
    ...

  def certify(self, seed: int, instructions: int, held_out: int, setting=None) -> dict:
    """The proof that parts share nothing, checked on the host: for splits.json.

    Has rules_seed, relation (words), parts (name -> rules, distinct_pairs, capacity,
    sha256 ...) and collisions (name -> number, all 0).
    """
    ...


class Task(Protocol):
  """Examples of a rule.

  A task may also have `shares(instructions) -> float64 array | None`: the shares of
  the rules 0..I-1 among the training examples (None: all equal).
  """

  # Whether inputs are made on which the rule does nothing. Such a task has `inputs`
  # and `force` as `Rewrite` has them, by which copied inputs are found.
  noops: bool

  @property
  def vocab_size(self) -> int:
    """Token ids in use."""
    ...

  @property
  def answer_length(self) -> int:
    """The longest answer, end token included."""
    ...

  @property
  def sequence_length(self) -> int:
    """The longest sequence."""
    ...

  @property
  def symbols(self) -> str:
    """The character of each letter 0..A-1, for people and for export."""
    ...

  def static(self) -> 'Task':
    """The task without its traced settings: equal where one program serves."""
    ...

  def setting(self, instructions: int) -> dict[str, np.ndarray]:
    """The traced settings of a member with I rules; shapes depend on static ones."""
    ...

  def mix(self, noop_share: float) -> tuple[tuple[int, float], ...]:
    """Shares of the training examples by kind; () means all of kind 0.

    Which kinds there are depends on static settings alone.
    """
    ...

  def kind(self, name: str, i_B) -> jax.Array:
    """The kinds (int32) of the examples i_B of an evaluation set."""
    ...

  def space(self, rules: RulesConfig) -> Space:
    """The rules; raises ValueError for settings that cannot work."""
    ...

  def example(self, rule, key, *, kind=0, shown=None, setting=None) -> Example:
    """An example of a rule, a pure function of the key; kind may be traced.

    shown: the rule that the prompt states, for controls that state another one.
    """
    ...

  def eval_sets(self, examples: int, cell_examples: int) -> list[EvalSet]:
    """The sets of a final evaluation; cell_examples = 0 leaves further cells out."""
    ...

  def instruction_mask(self, example: Example) -> jax.Array:
    """Where the prompts [..., L] state the instruction."""
    ...

  def fields(self, prompt_N) -> dict[str, list[int]]:
    """A prompt's ids on the host -> its parts by name, in letters 0..A-1.

    Rewriting has 'input', 'lhs' and 'rhs'; they become columns of an export.
    """
    ...
