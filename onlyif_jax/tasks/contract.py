"""The interfaces `Task` and `Space`, on which data, training and evaluation rely.

A task is a frozen dataclass of plain numbers (hashable, static under jit) that
inherits its settings from `settings.py`; its `space` enumerates the rules. Both are
pure jnp functions of traced arguments: no host code, no stored examples, no loop
over characters.
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

  split: 'unseen', 'dev', 'seen', 'train', or one that the task adds.
  label: the slice under which the set is reported. If empty, the set is the `all`
    of its split, and each value of each of its slices is reported too.
  cell: '' for rules of the split's part, or a cell that `Space.cell_rule` accepts.
  kind: how inputs are made: a name that `Task.kind` accepts, or 'train' for the mix
    of the training set.
  """

  split: str
  examples: int
  label: str = ''
  cell: str = ''
  kind: str = 'plain'


class Space(Protocol):
  """Rules as a pure function of (seed, part, index); a rule is any pytree.

  A space may have a property `remedy`: the words that follow 'Lower the count, ' in
  the error about a sweep that needs more rules than exist.
  """

  @property
  def description(self) -> str:
    """The rules in words, for error messages: '|x|=3-3, |y|=3-3 over 26 letters'."""
    ...

  def capacity(self, part: Part = Part.TRAIN, setting: Any = None) -> int:
    """The number of distinct rules of a part; larger counts are refused."""
    ...

  def pair_capacity(self, part: Part = Part.TRAIN) -> int:
    """The number of indices that `rule` accepts, used by the reference I = infinity."""
    ...

  def rule(self, seed, part: Part, i, setting: Any = None) -> Any:
    """Rule i of a part; seed and i may be traced. I instructions are the rules i < I."""
    ...

  def cell_rule(
    self, seed, part: Part, cell: str, i, instructions, setting: Any = None
  ) -> tuple[Any, jax.Array]:
    """Rule i of a further test cell, and whether it exists: (rule, bool)."""
    ...

  def lend(self, rule: Any, other: Any) -> Any:
    """The rule with its answer side (y) taken from another, for misleading prompts."""
    ...

  def certify(self, seed: int, instructions: int, held_out: int, setting=None) -> dict:
    """Check on the host that the parts share nothing; the result is for splits.json.

    Keys: rules_seed, relation (words), parts (name -> rules, distinct_pairs, capacity,
    sha256 ...) and collisions (name -> number, all 0).
    """
    ...


class Task(Protocol):
  """Examples of a rule.

  A task may also have `shares(instructions) -> float64 array | None`: the shares of
  the rules 0..I-1 among the training examples (None: all equal).
  """

  # Whether there are inputs that the rule leaves unchanged. A task with such inputs
  # also has `inputs` and `force`, as `Rewrite` does: evaluation needs them.
  noops: bool

  @property
  def vocab_size(self) -> int:
    """The number of token ids in use."""
    ...

  @property
  def answer_length(self) -> int:
    """The length of the longest answer, end token included."""
    ...

  @property
  def sequence_length(self) -> int:
    """The length of the longest sequence."""
    ...

  @property
  def symbols(self) -> str:
    """The character of each letter 0..A-1, for display and export."""
    ...

  def static(self) -> 'Task':
    """The task without its traced settings; equal tasks share a compiled program."""
    ...

  def setting(self, instructions: int) -> dict[str, np.ndarray]:
    """Traced settings of a member with I rules; shapes depend on static ones only."""
    ...

  def mix(self, noop_share: float) -> tuple[tuple[int, float], ...]:
    """(kind, share of the training examples) pairs; () means that all are of kind 0.

    The kinds depend on static settings only.
    """
    ...

  def kind(self, name: str, i_B) -> jax.Array:
    """The kinds (int32) of the examples i_B of an `EvalSet` whose `kind` is `name`."""
    ...

  def space(self, rules: RulesConfig) -> Space:
    """The rules; raises ValueError for settings that cannot work."""
    ...

  def example(self, rule, key, *, kind=0, shown=None, setting=None) -> Example:
    """An example of a rule, a pure function of the key; kind may be traced.

    shown: the rule that the prompt states, if a control experiment states another.
    """
    ...

  def eval_sets(self, examples: int, cell_examples: int) -> list[EvalSet]:
    """The sets of a final evaluation; cell_examples = 0 leaves out further cells."""
    ...

  def instruction_mask(self, example: Example) -> jax.Array:
    """True at the tokens [..., L] of the prompts that state the instruction."""
    ...

  def fields(self, prompt_N) -> dict[str, list[int]]:
    """Split a prompt's ids, on the host, into named parts of letters 0..A-1.

    Rewriting has 'input', 'lhs' and 'rhs'. The names are columns of an export.
    """
    ...
