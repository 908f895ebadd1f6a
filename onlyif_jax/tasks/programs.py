"""Programs of Markov algorithms and their runs, on the device (Only-IF, App. A).

A program is an ordered list of rules lhs -> rhs. At each step the first rule whose
lhs occurs is applied to its leftmost occurrence. The run ends after a stop rule
(lhs ->. rhs), or when no lhs occurs.

>>> trace('abb', 'ab -> ba; b ->. c')
['bab', 'bba', 'cba']
>>> texts = trace('abb', double_and_reverse('ab'), steps=16)
>>> texts[:6]
['αabb', 'aαβabb', 'aαbβab', 'aαbbβa', 'abαβbbβa', 'abαbβbβa']
>>> texts[-1], len(texts)
('abbbba', 11)
"""

import dataclasses
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from onlyif_jax.tasks import tokens
from onlyif_jax.tasks.rewrite import matches
from onlyif_jax.tasks.rules import Rule

GAP = -1  # fills a text beyond its length; no letter, so no rule matches it
INPUT_TRIES = 3  # random inputs tried before the empty one


class Program(NamedTuple):
  """N ordered rules; sides hold letters 0..A-1, zero beyond their length."""

  lhs_NP: jax.Array
  lhs_len_N: jax.Array
  rhs_NQ: jax.Array
  rhs_len_N: jax.Array
  stop_N: jax.Array  # bool


class State(NamedTuple):
  """The state of a run between two steps."""

  text_L: jax.Array  # the text, GAP beyond its length
  new_L: jax.Array  # bool: letters that a rule inserted
  length: jax.Array
  steps: jax.Array  # rewrites so far
  used_N: jax.Array  # bool: rules applied so far
  live: jax.Array  # whether the run continues
  stopped: jax.Array  # whether a stop rule ended it


class Run(NamedTuple):
  """A run of at most T rewrites, with texts of at most L letters."""

  end: State
  halted: jax.Array  # whether it ended within T rewrites and L letters
  texts_TL: jax.Array  # the text after each step
  news_TL: jax.Array  # its letters that a rule inserted
  lengths_T: jax.Array  # its length
  live_T: jax.Array  # whether the step was a rewrite


def run(program: Program, text_L, length, steps: int) -> Run:
  """Run a program for at most `steps` rewrites; the text is GAP beyond its length."""
  # The initial state is made from the data, so that it varies over a mesh as they do.
  zero = 0 * (text_L.sum() + program.lhs_len_N.sum())
  false = zero > 0
  text_L = text_L + zero
  start = State(
    text_L=text_L,
    new_L=(text_L >= 0) & false,
    length=length + zero,
    steps=zero,
    used_N=program.stop_N & false,
    live=~false,
    stopped=false,
  )

  def visit(state, _):
    after = advance(program, state)
    rewritten = after.steps > state.steps
    return after, (after.text_L, after.new_L, after.length, rewritten)

  # One step more than allowed, to see whether a rule still applies.
  end, history = jax.lax.scan(visit, start, length=steps + 1)
  halted = ~end.live & (end.steps <= steps)
  return Run(end, halted, *(v[:steps] for v in history))


def advance(program: Program, state: State) -> State:
  """One step: rewrite the leftmost match of the first rule that has a match.

  A run whose text would outgrow L keeps its state, and therefore never halts.
  """

  def matches_of(lhs_P, lhs_len):
    return matches(state.text_L, Rule(lhs_P, lhs_len, lhs_P, lhs_len))

  matches_NL = jax.vmap(matches_of)(program.lhs_NP, program.lhs_len_N)
  applies = matches_NL.any()
  n = jnp.argmax(matches_NL.any(-1))
  start = jnp.argmax(matches_NL[n])
  lhs_len, rhs_Q, rhs_len = (
    v[n] for v in (program.lhs_len_N, program.rhs_NQ, program.rhs_len_N)
  )
  length = state.length + rhs_len - lhs_len
  fits = length <= state.text_L.shape[0]
  rewrites, stops = state.live & applies & fits, program.stop_N[n] & fits
  text_L = splice(state.text_L, start, lhs_len, rhs_Q, rhs_len, GAP)
  new_L = splice(state.new_L, start, lhs_len, rhs_Q >= 0, rhs_len, False)
  is_rule_N = jnp.arange(program.stop_N.shape[0]) == n
  return State(
    text_L=jnp.where(rewrites, text_L, state.text_L),
    new_L=jnp.where(rewrites, new_L, state.new_L),
    length=jnp.where(rewrites, length, state.length),
    steps=state.steps + rewrites,
    used_N=state.used_N | (rewrites & is_rule_N),
    live=state.live & applies & ~stops,
    stopped=state.stopped | (rewrites & stops),
  )


def splice(values_L, start, cut, piece_Q, size, fill):
  """Replace `cut` values from `start` on by the first `size` of piece_Q."""
  t = jnp.arange(values_L.shape[0])
  source_L = t - (size - cut)
  after_L = values_L[jnp.clip(source_L, 0, t.shape[0] - 1)]
  after_L = jnp.where(source_L < t.shape[0], after_L, fill)
  piece_L = piece_Q[jnp.clip(t - start, 0, piece_Q.shape[0] - 1)]
  tail_L = jnp.where(t < start + size, piece_L, after_L)
  return jnp.where(t < start, values_L, tail_L)


@dataclasses.dataclass(frozen=True)
class Inputs:
  """Random inputs that contain left-hand sides, and the runs on them.

  plants: up to this many left-hand sides are written at random positions, so that
  runs of several steps are common; without them many runs are trivial.
  """

  alphabet: int
  low: int  # shortest input
  high: int  # longest input
  plants: int
  size: int  # L, the longest text of a run
  steps: int  # T

  @property
  def words(self) -> int:
    """The number W of random words that an input takes."""
    return self.high + 1 + self.plants

  def make(self, program: Program, bits_W):
    """An input from random words: (text_L, length)."""
    letters_Z, sizes, plants = jnp.split(bits_W, (self.high, self.high + 1))
    text_Z = _below(letters_Z, self.alphabet)
    length = self.low + _below(sizes[0] >> 16, self.high - self.low + 1)
    planted = _below(sizes[0] & 0xFFFF, self.plants + 1)
    t = jnp.arange(self.high)
    for k in range(self.plants):
      n = _below(plants[k] >> 16, program.stop_N.shape[0])
      lhs_P, lhs_len = program.lhs_NP[n], program.lhs_len_N[n]
      starts = jnp.maximum(length - lhs_len + 1, 1).astype(jnp.uint32)
      offset = t - ((plants[k] & 0xFFFF) % starts).astype(jnp.int32)
      inside = (offset >= 0) & (offset < lhs_len) & (lhs_len <= length) & (k < planted)
      lhs_Z = lhs_P[jnp.clip(offset, 0, lhs_P.shape[0] - 1)]
      text_Z = jnp.where(inside, lhs_Z, text_Z)
    text_Z = jnp.where(t < length, text_Z, GAP)
    return jnp.pad(text_Z, (0, self.size - self.high), constant_values=GAP), length

  def halts(self, program: Program, bits_KW):
    """Whether a program halts on each of K inputs."""

    def halts_on(bits_W):
      return run(program, *self.make(program, bits_W), self.steps).halted

    return jax.vmap(halts_on)(bits_KW).all()

  def draw(self, program: Program, key):
    """The first of some inputs on which the program halts: (text_L, length, Run, n).

    n: the number of inputs before it. The last input is empty: on it a program
    without empty left-hand sides halts at once.
    """
    bits_KW = jax.random.bits(key, (INPUT_TRIES, self.words))
    texts_KL, lengths_K = jax.vmap(lambda b: self.make(program, b))(bits_KW)
    texts_KL = jnp.pad(texts_KL, ((0, 1), (0, 0)), constant_values=GAP)
    lengths_K = jnp.pad(lengths_K, (0, 1))
    runs = jax.vmap(lambda z, n: run(program, z, n, self.steps))(texts_KL, lengths_K)
    first = jnp.argmax(runs.halted)
    text_L, length, result = jax.tree.map(
      lambda v: v[first], (texts_KL, lengths_K, runs)
    )
    return text_L, length, result, first


def parse(text: str) -> Program:
  """A program from text such as 'ab -> ba; b ->. c'."""
  rules = []
  for line in text.split(';'):
    lhs, _, rhs = line.partition('->')
    stop = rhs.startswith('.')
    rules.append((lhs.strip(), rhs.removeprefix('.').strip(), stop))
  lhs_N, rhs_N, stop_N = zip(*rules, strict=True)
  return Program(*_pad(lhs_N), *_pad(rhs_N), jnp.array(stop_N))


def double_and_reverse(letters: str) -> str:
  """The program that maps w to w w reversed, for given letters; from five schemes.

  (1) βxy -> yβx, (2) αx -> xαβx, (3) αβx -> xα, (4) α ->. nothing, (5) nothing -> α.
  """
  a, b = map(chr, (0x3B1, 0x3B2))
  rules = [f'{b}{x}{y} -> {y}{b}{x}' for x, y in itertools.product(letters, repeat=2)]
  rules += [f'{a}{x} -> {x}{a}{b}{x}' for x in letters]
  rules += [f'{a}{b}{x} -> {x}{a}' for x in letters]
  return '; '.join([*rules, f'{a} ->. ', f' -> {a}'])


def trace(text: str, program: str, steps: int = 12, size: int = 32) -> list[str]:
  """The plain texts after each rewrite.

  Raises ValueError if the run does not halt within `steps` rewrites and `size`
  letters.
  """
  letters = jnp.array(tokens.encode(text), jnp.int32)
  text_L = jnp.pad(letters, (0, size - len(text)), constant_values=GAP)
  compiled = jax.jit(run, static_argnums=3)
  result = jax.device_get(compiled(parse(program), text_L, jnp.int32(len(text)), steps))
  if not result.halted:
    raise ValueError(f'{program!r} does not halt on {text!r} within {steps} rewrites')
  steps_T = zip(result.texts_TL, result.lengths_T, result.live_T, strict=True)
  return [tokens.decode(text_L[:n]) for text_L, n, live in steps_T if live]


def _pad(texts_N):
  """Strings as (letters_NP, lengths_N)."""
  width = max(1, *map(len, texts_N))
  rows = [
    np.pad(np.array(tokens.encode(s), np.int32), (0, width - len(s))) for s in texts_N
  ]
  return jnp.array(rows), jnp.array([len(s) for s in texts_N], jnp.int32)


def _below(words, n: int):
  """Random words -> numbers below n."""
  return (words % jnp.uint32(n)).astype(jnp.int32)
