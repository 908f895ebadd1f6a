"""Running Markov algorithms, Turing-complete string rewriting (Only-IF, App. A).

An instruction is a program: ordered rules, some of them stop rules. The answer is the
text after one rewrite ('step'), at the end of the run ('final'), or after every
rewrite, each text followed by '}' ('trace'). A prompt has the rules and the input,
each followed by SEP; in a rule '{' is the arrow and '}' the arrow of a stop rule.

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
MAX_STEPS_SLICE = 6  # runs of this many rewrites or more share a slice


@dataclasses.dataclass(frozen=True)
class Markov(MarkovSettings):
  """Run a program on an input."""

  noops: ClassVar[bool] = False  # inputs to which no rule applies occur by chance

  @property
  def symbols(self) -> str:
    """The character of each letter."""
    return tokens.decode(range(self.alphabet))

  @property
  def vocab_size(self) -> int:
    """The number of token ids in use."""
    return FIRST_LETTER + self.alphabet

  @property
  def out_length(self) -> int:
    """The length of the longest output, without the end token."""
    if self.answer == 'step':
      return self.input_max + max(0, self.rhs_max - self.lhs_min)
    return self.text_length if self.answer == 'final' else self.trace_length

  @property
  def trace_length(self) -> int:
    """The length of the longest trace."""
    return self.steps * (self.text_length + 1)

  @property
  def answer_length(self) -> int:
    """The length of the longest answer, end token included."""
    return self.out_length + 1

  @property
  def sequence_length(self) -> int:
    """The length of the longest sequence."""
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
    """All examples are of one kind."""
    del noop_share
    return ()

  def kind(self, name: str, i_B):
    """The only kind, 'plain'."""
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
    """The programs with this task's sizes."""
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
    """All splits; for 'unseen' also new programs made of seen rules."""
    sets = [EvalSet('unseen', examples)]
    if cell_examples:
      sets.append(EvalSet('unseen', cell_examples, f'cell={CELL}', CELL))
    return sets + [EvalSet(split, examples) for split in ('dev', 'seen', 'train')]

  def example(self, rule: Program, key, *, kind=0, shown=None, setting=None) -> Example:
    """An example of a program, a pure function of the key.

    The run halts: see `Inputs.draw`. shown: the program that the prompt states.
    """
    del kind, setting
    text_L, length, result, _ = self.inputs.draw(rule, key)
    return self.pack(shown or rule, text_L, length, result)

  def pack(self, shown: Program, text_L, length, result: Run) -> Example:
    """Lay out a prompt and the answer that the task takes from the run."""
    out_O, out_len, new_O = self._answer(result)
    prompt = [_rule_piece(shown, n) for n in range(shown.stop_N.shape[0])]
    inserted_A = jnp.pad(new_O, (0, 1)) & (jnp.arange(self.answer_length) < out_len)
    return tokens.layout(
      [*prompt, (text_L, length)],
      (out_O, out_len),
      self.sequence_length,
      inserted_A=inserted_A,
      slices={
        'steps': jnp.minimum(result.end.steps, MAX_STEPS_SLICE),
        'rules_used': result.end.used_N.sum(),
        'stop': result.end.stopped.astype(jnp.int32),
        'length': length,
      },
    )

  def instruction_mask(self, example: Example):
    """True at the tokens [..., L] of the program in the prompts."""
    shape = example.tokens_L.shape
    t = jax.lax.broadcasted_iota(jnp.int32, shape, len(shape) - 1)
    input_start = example.answer_start - 1 - example.slices['length']
    return (t < input_start[..., None]) & (example.tokens_L != tokens.SEP)

  def fields(self, prompt_N) -> dict[str, list[int]]:
    """A prompt's ids -> the letters of 'input', 'lhs_1', 'rhs_1', 'lhs_2' ...

    The kind of an arrow is dropped. A rule without one (hidden) is all lhs.
    """
    *rules, text = tokens.split(prompt_N)
    fields = {'input': text}
    for n, rule in enumerate(rules, 1):
      arrows = [k for k, v in enumerate(rule) if v in (ARROW, STOP_ARROW)]
      cut = arrows[0] if arrows else len(rule)
      fields |= {f'lhs_{n}': rule[:cut], f'rhs_{n}': rule[cut + 1 :]}
    return fields

  def _answer(self, result: Run):
    """The answer taken from a run: (letters, length, which of them rules inserted)."""
    if self.answer == 'final':
      return result.end.text_L, result.end.length, result.end.new_L
    if self.answer == 'step':
      text_O = result.texts_TL[0][: self.out_length]
      new_O = result.news_TL[0][: self.out_length]
      return text_O, result.lengths_T[0], new_O
    live_T = result.live_T
    lengths_T = jnp.where(live_T, result.lengths_T, 0)
    texts, news = [], []
    for t in range(self.steps):
      texts += [(result.texts_TL[t], lengths_T[t]), (jnp.array([END]), live_T[t])]
      news += [(result.news_TL[t], lengths_T[t]), (jnp.array([0]), live_T[t])]
    trace_O, length = tokens.join(texts, self.trace_length)
    new_O, _ = tokens.join(news, self.trace_length)
    return trace_O, length, new_O == 1


def show(text: str, program: str, answer: str = 'final') -> str:
  """The sequence of a program and an input in plain text."""
  parsed = parse(program)
  task = Markov(
    rules=parsed.stop_N.shape[0],
    lhs_max=parsed.lhs_NP.shape[1],
    rhs_max=parsed.rhs_NQ.shape[1],
    input_min=len(text),
    input_max=len(text),
    answer=answer,
  )
  letters = jnp.array(tokens.encode(text), jnp.int32)
  pad = (0, task.text_length - len(text))
  text_L, length = jnp.pad(letters, pad, constant_values=GAP), jnp.int32(len(text))

  @jax.jit
  def sequence(parsed, text_L, length):
    result = run(parsed, text_L, length, task.steps)
    return task.pack(parsed, text_L, length, result).tokens_L

  return tokens.show(sequence(parsed, text_L, length))


def _rule_piece(program: Program, n: int):
  """Rule n as a piece of a prompt (letters, length): lhs, arrow, rhs."""
  lhs_P, rhs_Q = program.lhs_NP[n], program.rhs_NQ[n]
  arrow = jnp.where(program.stop_N[n], STOP_ARROW, ARROW)[None]
  pieces = [(lhs_P, program.lhs_len_N[n]), (arrow, 1), (rhs_Q, program.rhs_len_N[n])]
  return tokens.join(pieces, lhs_P.shape[0] + 1 + rhs_Q.shape[0])
