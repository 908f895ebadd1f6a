"""Expression trees as text with full parentheses, written by index arithmetic.

An expression is an atom `x`, a function before an expression `sx`, or two
expressions in parentheses `(x+y)`; every symbol is one character. n s c l e q are
minus, sin, cos, log, exp and square root; A B C are the slots of templates. A tree is
stored as a heap (children of k at 2k+1 and 2k+2). To write it, lengths are summed
from the leaves up and positions from the root down, and every symbol is put at its
position, without a loop over characters. (Only-IF, section 3.)
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

DIGITS, VARIABLES, FUNCTIONS = '0123456789', 'uvwxyz', 'nscleq'
OPERATORS, BRACKETS, SLOTS = '+-*/^', '()', 'ABC'
COMMUTATIVE = '+*'
SYMBOLS = DIGITS + VARIABLES + FUNCTIONS + OPERATORS + BRACKETS + SLOTS
HOLE = len(SYMBOLS)  # the letter that an expression replaces; in no example
FUNCTION_SHARE = 3  # one leaf in this many has a function
MAX_NESTING = 100  # deeper text is refused by the parser

_ATOMS = np.array([SYMBOLS.index(c) for c in '123456789' + VARIABLES], np.int32)
_FIRST_FUNCTION, _FIRST_OPERATOR = SYMBOLS.index('n'), SYMBOLS.index('+')
_OPEN, _CLOSE = SYMBOLS.index('('), SYMBOLS.index(')')
FIRST_SLOT = SYMBOLS.index('A')


class Tree(NamedTuple):
  """A tree of N heap-indexed nodes."""

  function_N: jnp.ndarray  # index into FUNCTIONS, or -1
  operator_N: jnp.ndarray  # index into OPERATORS, or -1 at a leaf
  atom_N: jnp.ndarray  # the letter of a leaf


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
  """A tree, each of whose nodes is drawn from one word of 32 bits.

  depth: operators on the longest path; may be traced, bounded by the heap's levels.
  shape: 'full' has operators everywhere above the depth; in a 'chain' one random child
  of each operator is a leaf. functions: whether some leaves have a function.
  """
  nodes = bits_N.shape[0]
  level_N = np.array([(k + 1).bit_length() - 1 for k in range(nodes)])
  next_digits = _digit_reader(bits_N)
  operator_N, atom_N = next_digits(len(OPERATORS)), next_digits(len(_ATOMS))
  function_N = next_digits(FUNCTION_SHARE * len(FUNCTIONS))
  inner_N = level_N < depth
  if shape == 'chain':
    inner_N = inner_N & _spine(next_digits(2))
  has_function_N = ~inner_N & (function_N < len(FUNCTIONS)) & functions
  return Tree(
    jnp.where(has_function_N, function_N, -1),
    jnp.where(inner_N, operator_N, -1),
    jnp.asarray(_ATOMS)[atom_N],
  )


def _spine(right_N):
  """The nodes on the path from the root that turns right where right_N is 1."""
  on_path = [jnp.bool_(True)] * right_N.shape[0]
  for k in range(1, len(on_path)):
    parent = (k - 1) // 2
    on_path[k] = on_path[parent] & (right_N[parent] == (k - 1) % 2)
  return jnp.stack(on_path)


def _digit_reader(bits_N):
  """A function that reads the next digits of random words, each call in its own base."""
  remaining_N = bits_N

  def next_digits(base: int):
    nonlocal remaining_N
    digit_N = (remaining_N % jnp.uint32(base)).astype(jnp.int32)
    remaining_N = remaining_N // jnp.uint32(base)
    return digit_N

  return next_digits


def write(tree: Tree, size: int):
  """The text of a tree: (letters, length); size: an upper bound of the length."""
  nodes = tree.operator_N.shape[0]
  has_function_N = (tree.function_N >= 0).astype(jnp.int32)
  inner_N = tree.operator_N >= 0
  levels = [(2**k - 1, 2 ** (k + 1) - 1) for k in range(nodes.bit_length())]
  # Lengths of subtrees, from the leaves up.
  lengths, below = [], jnp.zeros(nodes + 1, jnp.int32)
  for low, high in reversed(levels):
    inner_length = 3 + below.reshape(-1, 2).sum(-1)
    below = has_function_N[low:high] + jnp.where(inner_N[low:high], inner_length, 1)
    lengths.append(below)
  length_N = jnp.concatenate(lengths[::-1])
  # Positions of subtrees and of their operators, from the root down.
  starts, middles = [jnp.zeros(1, jnp.int32)], []
  exists = [jnp.ones(1, bool)]  # nodes below a leaf do not
  for low, high in levels:
    first = starts[-1] + has_function_N[low:high] + 1
    children = length_N[high : 2 * high + 1].reshape(-1, 2)
    left = children[:, 0] if children.size else jnp.zeros_like(first)
    middles.append(first + left)
    starts.append(jnp.stack([first, first + left + 1], -1).reshape(-1))
    exists.append(jnp.repeat(exists[-1] & inner_N[low:high], 2))
  start_N, middle_N = jnp.concatenate(starts[:-1]), jnp.concatenate(middles)
  exists_N = jnp.concatenate(exists[:-1])
  inner_N = inner_N & exists_N
  head_N = jnp.where(inner_N, _OPEN, tree.atom_N)
  symbols = [  # (position, letter, whether it is written)
    (start_N, tree.function_N + _FIRST_FUNCTION, exists_N & (has_function_N > 0)),
    (start_N + has_function_N, head_N, exists_N),
    (middle_N, tree.operator_N + _FIRST_OPERATOR, inner_N),
    (start_N + length_N - 1, jnp.full_like(start_N, _CLOSE), inner_N),
  ]
  position_K, letter_K, written_K = map(jnp.concatenate, zip(*symbols, strict=True))
  here_KO = written_K[:, None] & (position_K[:, None] == jnp.arange(size)[None, :])
  return jnp.where(here_KO, letter_K[:, None], 0).sum(0), length_N[0]


def fill(template_P, length, values_SW, length_S, size: int, first: int = FIRST_SLOT):
  """A template with its slots replaced by expressions: (letters, length).

  Slot s is the letter first + s; values_SW[s, :length_S[s]] replaces it. size: an
  upper bound of the length.
  """
  slots = values_SW.shape[0]
  p = jnp.arange(template_P.shape[0])
  slot_P = template_P - first
  is_slot_P = (slot_P >= 0) & (slot_P < slots)
  slot_P = jnp.clip(slot_P, 0, slots - 1)
  piece_len_P = jnp.where(is_slot_P, length_S[slot_P], 1) * (p < length)
  end_P = jnp.cumsum(piece_len_P)
  t = jnp.arange(size)
  # The piece at a position is the number of pieces that end before it.
  piece_O = (end_P[None, :] <= t[:, None]).sum(-1)
  piece_O = jnp.minimum(piece_O, template_P.shape[0] - 1)
  offset_O = t - (end_P - piece_len_P)[piece_O]
  offset_O = jnp.clip(offset_O, 0, values_SW.shape[1] - 1)
  value_O = values_SW[slot_P[piece_O], offset_O]
  letters_O = jnp.where(is_slot_P[piece_O], value_O, template_P[piece_O])
  return jnp.where(t < end_P[-1], letters_O, 0), end_P[-1]


def parse(text: str, slots: bool = False):
  """Text -> an atom, (function, argument) or (operator, left, right), on the host.

  slots: whether A B C are atoms too. Raises ValueError for malformed text.

  >>> parse('(sx+3)')
  ('+', ('s', 'x'), '3')
  """
  atoms = DIGITS + VARIABLES + (SLOTS if slots else '')

  def parse_from(start: int, nesting: int):
    """(tree, the index of the character after it)."""
    if nesting > MAX_NESTING:
      raise ValueError(f'more than {MAX_NESTING} levels in {text!r}')
    c = text[start : start + 1]
    if c and c in atoms:
      return c, start + 1
    if c and c in FUNCTIONS:
      argument, end = parse_from(start + 1, nesting + 1)
      return (c, argument), end
    if c != '(':
      raise ValueError(f'no expression at character {start} of {text!r}')
    left, middle = parse_from(start + 1, nesting + 1)
    operator = text[middle : middle + 1]
    if not operator or operator not in OPERATORS:
      raise ValueError(f'no operator at character {middle} of {text!r}')
    right, end = parse_from(middle + 1, nesting + 1)
    if text[end : end + 1] != ')':
      raise ValueError(f'no closing bracket at character {end} of {text!r}')
    return (operator, left, right), end + 1

  tree, end = parse_from(0, 0)
  if end < len(text):
    raise ValueError(f'more text at character {end} of {text!r}')
  return tree


def encode(text: str) -> np.ndarray:
  """Text -> letters; '_' is the hole."""
  return np.array([HOLE if c == '_' else SYMBOLS.index(c) for c in text], np.int32)


def decode(letters) -> str:
  """Letters -> text; the inverse of `encode`."""
  return ''.join('_' if n == HOLE else SYMBOLS[n] for n in map(int, letters))
