"""Running Markov algorithms, Turing-complete string rewriting (Only-IF, App. A).

An instruction is a program of ordered rules, some of them stop rules; the answer is
the text after one rewrite ('step'), at the end of the run ('final'), or after every
rewrite, each text closed by '}' ('trace'). A prompt has the rules and the input, each
ended by SEP; '{' stands in a rule for the arrow and '}' for the arrow of a stop rule.

>>> show('abb', 'ab -> ba; b ->. c')
'ab{ba|b}c|abb|cba$'
>>> show('abb', 'ab -> ba; b ->. c', answer='step')
'ab{ba|b}c|abb|bab$'
>>> show('abb', 'ab -> ba; b ->. c', answer='trace')
'ab{ba|b}c|abb|bab}bba}cba}$'
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from onlyif_jax.config import RulesConfig
from onlyif_jax.settings import MarkovSettings
from onlyif_jax.tasks import tokens
from onlyif_jax.tasks.contract import EvalSet
from onlyif_jax.tasks.program_space import CELL, ProgramSpace
from onlyif_jax.tasks.programs import GAP, Inputs, Program, Run, parse, run
from onlyif_jax.tasks.tokens import FIRST_LETTER, Example

# The reserved ids as letters: `tokens` adds FIRST_LETTER to every letter.
ARROW, STOP_ARROW, END = 4 - FIRST_LETTER, 5 - FIRST_LETTER, 5 - FIRST_LETTER
STEPS_TOLD = 6  # runs of more rewrites share a slice


@dataclasses.dataclass(frozen=True)
class Markov(MarkovSettings):
  """Run a program on an input."""

  noops: ClassVar[bool] = False  # inputs on which no rule applies come by themselves

  @property
  def symbols(self) -> str:
    """The character of each letter."""
    return tokens.decode(range(self.alphabet))

  @property
  def vocab_size(self) -> int:
    """Token ids in use."""
    return FIRST_LETTER + self.alphabet

  @property
  def out_length(self) -> int:
    """The longest output, without the end token."""
    if self.answer == 'step':
      return self.input_max + max(0, self.rhs_max - self.lhs_min)
    return self.text_length if self.answer == 'final' else self.trace_length

  @property
  def trace_length(self) -> int:
    """The longest trace."""
    return self.steps * (self.text_length + 1)

  @property
  def answer_length(self) -> int:
    """The longest answer, end token included."""
    return self.out_length + 1

  @property
  def sequence_length(self) -> int:
    """The longest sequence."""
    prompt = self.rules * (self.lhs_max + self.rhs_max + 2) + self.input_max + 1
    return prompt + self.answer_length

  def static(self):
    """Every setting is static."""
    return self

  def setting(self, instructions: int) -> dict:
    """Nothing is traced."""
    del instructions
    return {}

  def mix(self, noop_share: float) -> tuple[tuple[int, float], ...]:
    """There is one kind of example."""
    del noop_share
    return ()

  def kind(self, name: str, i_B):
    """'plain', the one kind."""
    if name != 'plain':
      raise ValueError(f"unknown kind {name!r}; there is 'plain'")
    return jnp.zeros_like(i_B)

  @property
  def inputs(self) -> Inputs:
    """How inputs are drawn."""
    return Inputs(
      alphabet=self.alphabet,
      low=self.input_min,
      high=self.input_max,
      plants=self.plants,
      size=self.text_length,
      steps=self.steps,
    )

  def space(self, rules: RulesConfig) -> ProgramSpace:
    """The programs."""
    return ProgramSpace(
      inputs=self.inputs,
      rules=self.rules,
      lhs_min=self.lhs_min,
      lhs_max=self.lhs_max,
      rhs_min=self.rhs_min,
      rhs_max=self.rhs_max,
      stop_share=self.stop_share,
      held_out=self.held_out,
      dev_fraction=rules.dev_fraction,
      test_fraction=rules.test_fraction,
    )

  def eval_sets(self, examples: int, cell_examples: int) -> list[EvalSet]:
    """All splits; for unseen also new programs made of seen rules."""
    sets = [EvalSet('unseen', examples)]
    if cell_examples:
      sets.append(EvalSet('unseen', cell_examples, f'cell={CELL}', CELL))
    return sets + [EvalSet(split, examples) for split in ('dev', 'seen', 'train')]

  def example(self, rule: Program, key, *, kind=0, shown=None, setting=None) -> Example:
    """An example of a program, a pure function of the key.

    Its run halts: of a few inputs the first on which it does is taken, and else the
    empty one. `shown` is the program that the prompt states.
    """
    del kind, setting
    text_L, length, own, _ = self.inputs.draw(rule, key)
    return self.pack(shown or rule, text_L, length, own)

  def pack(self, shown: Program, text_L, length, own: Run) -> Example:
    """Lays out a prompt and what is asked of its run."""
    out_O, out_len, new_O = self._answer(own)
    prompt = [_rule_piece(shown, n) for n in range(shown.stop_N.shape[0])]
    inserted_A = jnp.pad(new_O, (0, 1)) & (jnp.arange(self.answer_length) < out_len)
    return tokens.layout(
      [*prompt, (text_L, length)],
      (out_O, out_len),
      self.sequence_length,
      inserted_A=inserted_A,
      slices={
        'steps': jnp.minimum(own.end.steps, STEPS_TOLD),
        'rules_used': own.end.used_N.sum(),
        'stop': own.end.stopped.astype(jnp.int32),
        'length': length,
      },
    )

  def instruction_mask(self, example: Example):
    """Where the prompts [..., L] state the program."""
    shape = example.tokens_L.shape
    t = jax.lax.broadcasted_iota(jnp.int32, shape, len(shape) - 1)
    input_at = example.answer_start - 1 - example.slices['length']
    return (t < input_at[..., None]) & (example.tokens_L != tokens.SEP)

  def fields(self, prompt_N) -> dict[str, list[int]]:
    """A prompt's ids -> 'input', and 'lhs_1', 'rhs_1' ... of its rules, in letters.

    Whether a rule is a stop rule is left to the prompt; a hidden rule is all lhs.
    """
    *rules, text = tokens.split(prompt_N)
    out = {'input': text}
    for n, rule in enumerate(rules, 1):
      at = next((k for k, v in enumerate(rule) if v in (ARROW, STOP_ARROW)), len(rule))
      out |= {f'lhs_{n}': rule[:at], f'rhs_{n}': rule[at + 1 :]}
    return out

  def _answer(self, own: Run):
    """What is asked of a run: (letters, length, whether a rule put each there)."""
    if self.answer == 'final':
      return own.end.text_L, own.end.length, own.end.new_L
    if self.answer == 'step':
      first = (own.texts_TL[0], own.lengths_T[0], own.news_TL[0])
      texts_L, length, new_L = first
      return texts_L[: self.out_length], length, new_L[: self.out_length]
    lengths_T = jnp.where(own.live_T, own.lengths_T, 0)
    texts, news = [], []
    for t in range(self.steps):
      texts += [(own.texts_TL[t], lengths_T[t]), (jnp.array([END]), own.live_T[t])]
      news += [(own.news_TL[t], lengths_T[t]), (jnp.array([0]), own.live_T[t])]
    trace_O, length = tokens.join(texts, self.trace_length)
    new_O, _ = tokens.join(news, self.trace_length)
    return trace_O, length, new_O == 1


def show(text: str, program: str, answer: str = 'final') -> str:
  """A sequence made of plain text, through the same code as the data."""
  rule = parse(program)
  task = Markov(
    rules=rule.stop_N.shape[0],
    lhs_max=rule.lhs_NP.shape[1],
    rhs_max=rule.rhs_NQ.shape[1],
    input_min=len(text),
    input_max=len(text),
    answer=answer,
  )
  letters = jnp.array(tokens.encode(text), jnp.int32)
  pad = (0, task.text_length - len(text))
  text_L, length = jnp.pad(letters, pad, constant_values=GAP), jnp.int32(len(text))
  own = run(rule, text_L, length, task.steps)
  return tokens.show(task.pack(rule, text_L, length, own).tokens_L)


def _rule_piece(program: Program, n: int):
  """Rule n as a prompt's (letters, length): its two sides with an arrow between."""
  lhs_P, rhs_Q = program.lhs_NP[n], program.rhs_NQ[n]
  arrow = jnp.where(program.stop_N[n], STOP_ARROW, ARROW)[None]
  pieces = [(lhs_P, program.lhs_len_N[n]), (arrow, 1), (rhs_Q, program.rhs_len_N[n])]
  return tokens.join(pieces, lhs_P.shape[0] + 1 + rhs_Q.shape[0])
