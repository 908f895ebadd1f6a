"""Expression trees as text with full parentheses, written by index arithmetic.

An expression is an atom `x`, a function before an expression `sx`, or two
expressions in parentheses `(x+y)`: every symbol is one character, so n tokens are n
characters. n s c l e q are minus, sin, cos, log, exp and square root; A B C are the
slots of templates. A tree lies in a heap (children of k at 2k+1 and 2k+2): lengths
are summed from the leaves up, places from the root down, and every symbol is put at
its place; no loop over characters. (Only-IF, section 3.)
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

DIGITS, VARIABLES, FUNCTIONS = '0123456789', 'uvwxyz', 'nscleq'
OPERATORS, BRACKETS, SLOTS = '+-*/^', '()', 'ABC'
COMMUTATIVE = '+*'
SYMBOLS = DIGITS + VARIABLES + FUNCTIONS + OPERATORS + BRACKETS + SLOTS
HOLE = len(SYMBOLS)  # the letter where an expression is to be put; in no example
FUNCTION_SHARE = 3  # one leaf in so many has a function
MAX_NESTING = 100  # parsing gives up beyond it

_ATOMS = np.array([SYMBOLS.index(c) for c in '123456789' + VARIABLES], np.int32)
_FIRST_FUNCTION, _FIRST_OPERATOR = SYMBOLS.index('n'), SYMBOLS.index('+')
_OPEN, _CLOSE = SYMBOLS.index('('), SYMBOLS.index(')')
FIRST_SLOT = SYMBOLS.index('A')


class Tree(NamedTuple):
  """Heap-indexed nodes: a function or -1, an operator or -1 (a leaf), an atom.

  Functions and operators count from 0 in their own lists; an atom is a letter.
  """

  function_N: jnp.ndarray
  operator_N: jnp.ndarray
  atom_N: jnp.ndarray


def longest(depth: int, shape: str = 'full', functions: bool = False) -> int:
  """The length of the longest random tree of a depth.

  >>> longest(2), longest(2, functions=True), longest(2, 'chain')
  (13, 17, 9)
  """
  if shape == 'chain':
    return 4 * depth + 1 + functions * (depth + 1)
  leaves = 2**depth
  return 3 * (leaves - 1) + leaves * (1 + functions)


def random_tree(bits_N, depth, shape: str = 'full', functions: bool = False) -> Tree:
  """A tree whose every node is drawn from one word of 32 bits.

  depth: operators on the longest path, may be traced; the heap's levels bound it.
  shape: 'full' has operators everywhere above the depth, 'chain' one random child of
  an operator is an atom. functions: whether some leaves have a function.
  """
  nodes = bits_N.shape[0]
  level_N = np.array([(k + 1).bit_length() - 1 for k in range(nodes)])
  take = _digits(bits_N)
  operator_N, atom_N = take(len(OPERATORS)), take(len(_ATOMS))
  function_N = take(FUNCTION_SHARE * len(FUNCTIONS))
  inner_N = level_N < depth
  if shape == 'chain':
    inner_N = inner_N & _spine(take(2))
  has_N = ~inner_N & (function_N < len(FUNCTIONS)) & functions
  return Tree(
    jnp.where(has_N, function_N, -1),
    jnp.where(inner_N, operator_N, -1),
    jnp.asarray(_ATOMS)[atom_N],
  )


def _spine(right_N):
  """The nodes on the path from the root that turns right where right_N is 1."""
  on = [jnp.bool_(True)] * right_N.shape[0]
  for k in range(1, len(on)):
    parent = (k - 1) // 2
    on[k] = on[parent] & (right_N[parent] == (k - 1) % 2)
  return jnp.stack(on)


def _digits(bits_N):
  """A function of a base that takes the next digits of the words in that base."""
  rest = bits_N

  def take(base: int):
    nonlocal rest
    digit_N = (rest % jnp.uint32(base)).astype(jnp.int32)
    rest = rest // jnp.uint32(base)
    return digit_N

  return take


def write(tree: Tree, size: int):
  """A tree -> (letters, length); size: a bound of the length."""
  nodes = tree.operator_N.shape[0]
  has_N = (tree.function_N >= 0).astype(jnp.int32)
  inner_N = tree.operator_N >= 0
  levels = [(2**k - 1, 2 ** (k + 1) - 1) for k in range(nodes.bit_length())]
  lengths, below = [], jnp.zeros(nodes + 1, jnp.int32)
  for low, high in reversed(levels):
    pair = 3 + below.reshape(-1, 2).sum(-1)
    below = has_N[low:high] + jnp.where(inner_N[low:high], pair, 1)
    lengths.append(below)
  length_N = jnp.concatenate(lengths[::-1])
  starts, middles = [jnp.zeros(1, jnp.int32)], []
  live = [jnp.ones(1, bool)]  # nodes below a leaf are not part of the tree
  for low, high in levels:
    first = starts[-1] + has_N[low:high] + 1
    children = length_N[high : 2 * high + 1].reshape(-1, 2)
    left = children[:, 0] if children.size else jnp.zeros_like(first)
    middles.append(first + left)
    starts.append(jnp.stack([first, first + left + 1], -1).reshape(-1))
    live.append(jnp.repeat(live[-1] & inner_N[low:high], 2))
  start_N, middle_N = jnp.concatenate(starts[:-1]), jnp.concatenate(middles)
  live_N = jnp.concatenate(live[:-1])
  inner_N = inner_N & live_N
  heads_N = jnp.where(inner_N, _OPEN, tree.atom_N)
  places = [
    (start_N, tree.function_N + _FIRST_FUNCTION, live_N & (has_N > 0)),
    (start_N + has_N, heads_N, live_N),
    (middle_N, tree.operator_N + _FIRST_OPERATOR, inner_N),
    (start_N + length_N - 1, jnp.full_like(start_N, _CLOSE), inner_N),
  ]
  at_K, letter_K, live_K = (jnp.concatenate(v) for v in zip(*places, strict=True))
  here_KO = live_K[:, None] & (at_K[:, None] == jnp.arange(size)[None, :])
  return jnp.where(here_KO, letter_K[:, None], 0).sum(0), length_N[0]


def fill(template_P, length, values_SW, length_S, size: int, first: int = FIRST_SLOT):
  """A template with its slots replaced by expressions: (letters, length).

  Slot s is the letter first + s, and values_SW[s, :length_S[s]] goes there; size: a
  bound of the length.
  """
  slots = values_SW.shape[0]
  p = jnp.arange(template_P.shape[0])
  slot_P = template_P - first
  is_slot_P = (slot_P >= 0) & (slot_P < slots)
  slot_P = jnp.clip(slot_P, 0, slots - 1)
  piece_P = jnp.where(is_slot_P, length_S[slot_P], 1) * (p < length)
  end_P = jnp.cumsum(piece_P)
  t = jnp.arange(size)
  # The piece of a place is the number of pieces that end before it.
  at_O = (end_P[None, :] <= t[:, None]).sum(-1)
  at_O = jnp.minimum(at_O, template_P.shape[0] - 1)
  inside_O = jnp.clip(t - (end_P - piece_P)[at_O], 0, values_SW.shape[1] - 1)
  value_O = values_SW[slot_P[at_O], inside_O]
  letters_O = jnp.where(is_slot_P[at_O], value_O, template_P[at_O])
  return jnp.where(t < end_P[-1], letters_O, 0), end_P[-1]


def parse(text: str, slots: bool = False):
  """Text -> an atom, (function, argument) or (operator, left, right), on the host.

  slots: whether A B C count as atoms. Raises ValueError for malformed text.

  >>> parse('(sx+3)')
  ('+', ('s', 'x'), '3')
  """
  atoms = DIGITS + VARIABLES + (SLOTS if slots else '')

  def take(at: int, nesting: int):
    if nesting > MAX_NESTING:
      raise ValueError(f'more than {MAX_NESTING} levels in {text!r}')
    c = text[at : at + 1]
    if c and c in atoms:
      return c, at + 1
    if c and c in FUNCTIONS:
      argument, end = take(at + 1, nesting + 1)
      return (c, argument), end
    if c != '(':
      raise ValueError(f'no expression at character {at} of {text!r}')
    left, middle = take(at + 1, nesting + 1)
    operator = text[middle : middle + 1]
    if not operator or operator not in OPERATORS:
      raise ValueError(f'no operator at character {middle} of {text!r}')
    right, end = take(middle + 1, nesting + 1)
    if text[end : end + 1] != ')':
      raise ValueError(f'no closing bracket at character {end} of {text!r}')
    return (operator, left, right), end + 1

  tree, end = take(0, 0)
  if end < len(text):
    raise ValueError(f'more text at character {end} of {text!r}')
  return tree


def encode(text: str) -> np.ndarray:
  """Text -> letters; '_' is the hole."""
  return np.array([HOLE if c == '_' else SYMBOLS.index(c) for c in text], np.int32)


def decode(letters) -> str:
  """Letters -> text, the inverse of `encode`."""
  return ''.join('_' if n == HOLE else SYMBOLS[n] for n in map(int, letters))
