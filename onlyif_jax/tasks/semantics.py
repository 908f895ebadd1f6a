"""Rewriting with patterns of constrained form (Only-IF, section 2.5 and Fig. 4).

x and y are both repeats, both periodic or both mirrors, with the same k, or both
unconstrained. The map is that of `rewrite`. Training has some classes with k >= 3;
the test has unseen patterns with k < 3. The patterns are defined in `semantic_rules`.

>>> spell('ab', 'repeat', 3), spell('ab', 'periodic', 3), spell('ab', 'mirror', 3)
('aaabbb', 'ababab', 'abbaab')
>>> trace('zaaabbbaaabbbz', spell('ab', 'repeat', 3), spell('cd', 'repeat', 3))
'zcccdddaaabbbz'
>>> trace('qabbaabq', spell('ab', 'mirror', 3), spell('cd', 'mirror', 3))
'qcddccdq'
"""

import dataclasses

import jax.numpy as jnp
import numpy as np

from onlyif_jax.config import RulesConfig
from onlyif_jax.settings import SemanticsSettings
from onlyif_jax.tasks.contract import EvalSet
from onlyif_jax.tasks.rewrite import Rewrite, trace
from onlyif_jax.tasks.rules import Rule
from onlyif_jax.tasks.semantic_rules import (
  CLASSES,
  SMALL_K,
  SemanticRule,
  SemanticSpace,
  chosen,
  spell,
)
from onlyif_jax.tasks.tokens import Example

__all__ = ['Semantics', 'spell', 'trace']


@dataclasses.dataclass(frozen=True)
class Semantics(SemanticsSettings):
  """Replace the leftmost x in z by y, for patterns of constrained form."""

  noops = False  # x always occurs

  @property
  def rewriting(self) -> Rewrite:
    """The `Rewrite` task that makes the inputs and answers."""
    n = self.pattern_length
    return Rewrite(
      alphabet=self.alphabet,
      x_min=n,
      x_max=n,
      y_min=n,
      y_max=n,
      input_length=self.input_length,
      order=self.order,
    )

  @property
  def symbols(self) -> str:
    """The character of each letter."""
    return self.rewriting.symbols

  @property
  def vocab_size(self) -> int:
    """The number of token ids in use."""
    return self.rewriting.vocab_size

  @property
  def answer_length(self) -> int:
    """The length of an answer, end token included."""
    return self.rewriting.answer_length

  @property
  def sequence_length(self) -> int:
    """The length of a sequence."""
    return self.rewriting.sequence_length

  def static(self):
    """The task without its classes and range of k, which are traced."""
    return dataclasses.replace(
      self, classes='+'.join(CLASSES), k_min=SMALL_K, k_max=self.pattern_length
    )

  def setting(self, instructions: int) -> dict[str, np.ndarray]:
    """The groups of patterns in training (bool [G]); the same for every I."""
    del instructions
    groups_G = chosen(self.pattern_length, self.classes, self.k_min, self.k_max)
    return {'groups': groups_G}

  def mix(self, noop_share: float) -> tuple[tuple[int, float], ...]:
    """All inputs are of one kind."""
    del noop_share
    return ()

  def kind(self, name: str, i_B):
    """The only kind."""
    del name
    return jnp.zeros_like(i_B)

  def space(self, rules: RulesConfig) -> SemanticSpace:
    """The rules over this task's patterns."""
    return SemanticSpace(
      length=self.pattern_length,
      alphabet=self.alphabet,
      dev_fraction=rules.dev_fraction,
      test_fraction=rules.test_fraction,
      distinct=rules.distinct,
    )

  def example(
    self, rule: SemanticRule, key, *, kind=0, shown=None, setting=None
  ) -> Example:
    """An example of a rule, a pure function of the key; x is at a uniform position.

    shown: the rule that the prompt states, if a control experiment states another.
    """
    del kind, setting
    shown = rule if shown is None else shown
    example = self.rewriting.example(_plain(rule), key, shown=_plain(shown))
    slices = {
      'k': rule.k,
      'domain': rule.domain,
      'occurrences': example.slices['occurrences'],
    }
    return example._replace(slices=slices)

  def eval_sets(self, examples: int, cell_examples: int) -> list[EvalSet]:
    """unseen: k < 3. dev: the k and classes of training. Cells have them swapped."""
    sets = [EvalSet('unseen', examples), EvalSet('dev', examples)]
    if cell_examples:
      sets += [
        EvalSet(split, cell_examples, f'cell={cell}', cell)
        for split, cell in (('unseen', 'in_range'), ('dev', 'small_k'))
      ]
    return [*sets, EvalSet('seen', examples), EvalSet('train', examples)]

  def instruction_mask(self, example: Example):
    """True at the tokens [..., L] of x and y in the prompts."""
    return self.rewriting.instruction_mask(example)

  def fields(self, prompt_N) -> dict[str, list[int]]:
    """A prompt's ids -> the letters of its 'input', 'lhs' and 'rhs'."""
    return self.rewriting.fields(prompt_N)


def _plain(rule: SemanticRule) -> Rule:
  """The rule without its class and k."""
  return Rule(rule.x_P, rule.x_len, rule.y_Q, rule.y_len)
