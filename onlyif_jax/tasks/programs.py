"""Markov algorithms on the device: what a program is and how it runs (App. A).

A program is an ordered list of rules lhs -> rhs. At each step the first rule whose
lhs occurs is applied to its leftmost occurrence; a stop rule (lhs ->. rhs) ends the
run, and so does a text in which no lhs occurs. This computes whatever is computable.

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

GAP = -1  # what a text holds beyond its length: no letter, so nothing matches it
INPUT_TRIES = 3  # random inputs tried before the empty one


class Program(NamedTuple):
  """N ordered rules; letters 0..A-1, zero beyond their length; stop_N is bool."""

  lhs_NP: jax.Array
  lhs_len_N: jax.Array
  rhs_NQ: jax.Array
  rhs_len_N: jax.Array
  stop_N: jax.Array


class State(NamedTuple):
  """A run between two steps, with texts of at most L letters.

  text_L: the text, GAP beyond `length`; new_L: its letters that a rule put there;
  steps: rewrites so far; used_N: the rules applied; live: whether it goes on;
  stopped: whether a stop rule ended it.
  """

  text_L: jax.Array
  new_L: jax.Array
  length: jax.Array
  steps: jax.Array
  used_N: jax.Array
  live: jax.Array
  stopped: jax.Array


class Run(NamedTuple):
  """A whole run of at most T rewrites.

  halted: whether it ended within T rewrites and L letters; texts_TL, news_TL and
  lengths_T: the text after each step; live_T: whether that step was a rewrite.
  """

  end: State
  halted: jax.Array
  texts_TL: jax.Array
  news_TL: jax.Array
  lengths_T: jax.Array
  live_T: jax.Array


def run(program: Program, text_L, length, steps: int) -> Run:
  """Runs a program for at most `steps` rewrites of a text with GAP beyond its length."""
  # Every start is made from the data, so that it varies over a mesh as they do.
  zero = 0 * (text_L.sum() + program.lhs_len_N.sum())
  no = zero > 0
  text_L, used_N = text_L + zero, (program.stop_N & no)
  start = State(text_L, (text_L >= 0) & no, length + zero, zero, used_N, ~no, no)

  def visit(state, _):
    after = advance(program, state)
    seen = (after.text_L, after.new_L, after.length, after.steps > state.steps)
    return after, seen

  # One more than allowed: it finds out whether a rule still applies.
  end, seen = jax.lax.scan(visit, start, length=steps + 1)
  halted = ~end.live & (end.steps <= steps)
  return Run(end, halted, *(v[:steps] for v in seen))


def advance(program: Program, state: State) -> State:
  """One step: the leftmost match of the first rule that has one is rewritten.

  A run whose text would outgrow L stays as it is, live, and so never halts.
  """

  def hits(lhs_P, lhs_len):
    return matches(state.text_L, Rule(lhs_P, lhs_len, lhs_P, lhs_len))

  hits_NL = jax.vmap(hits)(program.lhs_NP, program.lhs_len_N)
  found = hits_NL.any()
  which = jnp.argmax(hits_NL.any(-1))
  place = jnp.argmax(hits_NL[which])
  cut, rhs_Q, rhs_len = (
    v[which] for v in (program.lhs_len_N, program.rhs_NQ, program.rhs_len_N)
  )
  length = state.length + rhs_len - cut
  fits = length <= state.text_L.shape[0]
  go, ends = state.live & found & fits, program.stop_N[which] & fits
  text_L = splice(state.text_L, place, cut, rhs_Q, rhs_len, GAP)
  new_L = splice(state.new_L, place, cut, rhs_Q >= 0, rhs_len, False)
  rule_N = jnp.arange(program.stop_N.shape[0]) == which
  return State(
    text_L=jnp.where(go, text_L, state.text_L),
    new_L=jnp.where(go, new_L, state.new_L),
    length=jnp.where(go, length, state.length),
    steps=state.steps + go,
    used_N=state.used_N | (go & rule_N),
    live=state.live & found & ~ends,
    stopped=state.stopped | (go & ends),
  )


def splice(values_L, place, cut, piece_Q, size, fill):
  """`cut` values at a place replaced by the first `size` of piece_Q."""
  t = jnp.arange(values_L.shape[0])
  from_ = t - (size - cut)
  after_L = values_L[jnp.clip(from_, 0, t.shape[0] - 1)]
  after_L = jnp.where(from_ < t.shape[0], after_L, fill)
  inside_L = piece_Q[jnp.clip(t - place, 0, piece_Q.shape[0] - 1)]
  tail_L = jnp.where(t < place + size, inside_L, after_L)
  return jnp.where(t < place, values_L, tail_L)


@dataclasses.dataclass(frozen=True)
class Inputs:
  """Random inputs with left-hand sides in them, and the runs on them.

  plants: up to so many left-hand sides are put at random places, so that runs of
  several steps are common; with none of them many runs are trivial.
  """

  alphabet: int
  low: int  # shortest input
  high: int  # longest input
  plants: int
  size: int  # L, the longest text of a run
  steps: int  # T

  @property
  def words(self) -> int:
    """Random words that an input takes."""
    return self.high + 1 + self.plants

  def make(self, program: Program, bits_W):
    """An input from random words, as (text_L, length)."""
    letters_Z, sizes, plants = jnp.split(bits_W, (self.high, self.high + 1))
    text_Z = _below(letters_Z, self.alphabet)
    length = self.low + _below(sizes[0] >> 16, self.high - self.low + 1)
    planted = _below(sizes[0] & 0xFFFF, self.plants + 1)
    t = jnp.arange(self.high)
    for n in range(self.plants):
      which = _below(plants[n] >> 16, program.stop_N.shape[0])
      lhs_P, lhs_len = program.lhs_NP[which], program.lhs_len_N[which]
      room = jnp.maximum(length - lhs_len + 1, 1).astype(jnp.uint32)
      at = t - ((plants[n] & 0xFFFF) % room).astype(jnp.int32)
      inside = (at >= 0) & (at < lhs_len) & (lhs_len <= length) & (n < planted)
      text_Z = jnp.where(inside, lhs_P[jnp.clip(at, 0, lhs_P.shape[0] - 1)], text_Z)
    text_Z = jnp.where(t < length, text_Z, GAP)
    return jnp.pad(text_Z, (0, self.size - self.high), constant_values=GAP), length

  def halts(self, program: Program, bits_KW):
    """Whether a program halts on every one of K inputs."""

    def one(bits_W):
      return run(program, *self.make(program, bits_W), self.steps).halted

    return jax.vmap(one)(bits_KW).all()

  def draw(self, program: Program, key):
    """The first of some inputs on which the program halts: (text_L, length, Run, n).

    n is the number of inputs that it did not halt on; the last one tried is empty,
    and a program without empty left-hand sides halts there at once.
    """
    bits_KW = jax.random.bits(key, (INPUT_TRIES, self.words))
    texts_KL, lengths_K = jax.vmap(lambda b: self.make(program, b))(bits_KW)
    texts_KL = jnp.pad(texts_KL, ((0, 1), (0, 0)), constant_values=GAP)
    lengths_K = jnp.pad(lengths_K, (0, 1))
    runs = jax.vmap(lambda z, n: run(program, z, n, self.steps))(texts_KL, lengths_K)
    first = jnp.argmax(runs.halted)
    text_L, length, own = jax.tree.map(lambda v: v[first], (texts_KL, lengths_K, runs))
    return text_L, length, own, first


def parse(text: str) -> Program:
  """Rules in words, 'ab -> ba; b ->. c' -> a program."""
  rules = []
  for line in text.split(';'):
    lhs, _, rhs = line.partition('->')
    stop = rhs.startswith('.')
    rules.append((lhs.strip(), rhs.removeprefix('.').strip(), stop))
  lhs_N, rhs_N, stop_N = zip(*rules, strict=True)
  return Program(*_pad(lhs_N), *_pad(rhs_N), jnp.array(stop_N))


def double_and_reverse(letters: str) -> str:
  """The five schemes that map w to w w reversed, spelt out for the given letters.

  (1) βxy -> yβx, (2) αx -> xαβx, (3) αβx -> xα, (4) α ->. nothing, (5) nothing -> α.
  """
  a, b = map(chr, (0x3B1, 0x3B2))
  rules = [f'{b}{x}{y} -> {y}{b}{x}' for x, y in itertools.product(letters, repeat=2)]
  rules += [f'{a}{x} -> {x}{a}{b}{x}' for x in letters]
  rules += [f'{a}{b}{x} -> {x}{a}' for x in letters]
  return '; '.join([*rules, f'{a} ->. ', f' -> {a}'])


def trace(text: str, program: str, steps: int = 12, size: int = 32) -> list[str]:
  """The texts after each rewrite, through the same code as the data.

  Raises ValueError where the run does not halt within `steps` rewrites and `size`
  letters.
  """
  letters = jnp.array(tokens.encode(text), jnp.int32)
  text_L = jnp.pad(letters, (0, size - len(text)), constant_values=GAP)
  done = jax.device_get(run(parse(program), text_L, jnp.int32(len(text)), steps))
  if not done.halted:
    raise ValueError(f'{program!r} does not halt on {text!r} within {steps} rewrites')
  rows = zip(done.texts_TL, done.lengths_T, done.live_T, strict=True)
  return [tokens.decode(row[:n]) for row, n, live in rows if live]


def _pad(texts_N):
  """Strings -> (letters_NP, lengths_N)."""
  width = max(1, *map(len, texts_N))
  rows = [
    np.pad(np.array(tokens.encode(s), np.int32), (0, width - len(s))) for s in texts_N
  ]
  return jnp.array(rows), jnp.array([len(s) for s in texts_N], jnp.int32)


def _below(words, n: int):
  """Random words -> numbers below n."""
  return (words % jnp.uint32(n)).astype(jnp.int32)
