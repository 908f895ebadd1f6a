"""Whether two expressions are equal in value, however they are written.

Both are texts with full parentheses (`tasks.expressions`), evaluated in float64 at eight
random points. Where either side is not finite at a point (a negative logarithm, a
division by zero, an overflow), the verdict is a domain error, even if the texts are the
same. No jax here.
"""

import enum

import numpy as np

from onlyif_jax.tasks import expressions

POINTS = 8
LOW, HIGH = 0.5, 2.0  # the range of the variables
TOLERANCE = 1e-9  # of a difference, relative to the greater value or to one
_BINARY = {
  '+': np.add,
  '-': np.subtract,
  '*': np.multiply,
  '/': np.divide,
  '^': np.power,
}
_UNARY = {
  'n': np.negative,
  's': np.sin,
  'c': np.cos,
  'l': np.log,
  'e': np.exp,
  'q': np.sqrt,
}


class Verdict(enum.StrEnum):
  """The result of comparing an output with the expected expression."""

  EQUAL = 'equal'
  UNEQUAL = 'unequal'
  DOMAIN = 'domain'  # not finite at a point; counts as unequal
  MALFORMED = 'malformed'  # the output is no expression; counts as unequal


def compare(expected: str, got: str, seed: int = 0) -> Verdict:
  """The verdict on an output; raises ValueError where `expected` is malformed.

  >>> compare('((x+y)*2)', '((2*y)+(2*x))')
  <Verdict.EQUAL: 'equal'>
  >>> compare('((x+y)*2)', '((2*y)+x'), compare('(x+y)', 'l(1-3)')
  (<Verdict.MALFORMED: 'malformed'>, <Verdict.DOMAIN: 'domain'>)
  """
  points = np.random.default_rng(seed).uniform(
    LOW, HIGH, (len(expressions.VARIABLES), POINTS)
  )
  values = dict(zip(expressions.VARIABLES, points, strict=True))
  expected_values = evaluate(expressions.parse(expected), values)
  try:
    tree = expressions.parse(got)
  except ValueError:
    return Verdict.MALFORMED
  got_values = evaluate(tree, values)
  if not (np.isfinite(expected_values) & np.isfinite(got_values)).all():
    return Verdict.DOMAIN
  scale = np.maximum(1, np.maximum(abs(expected_values), abs(got_values)))
  close = abs(expected_values - got_values) <= TOLERANCE * scale
  return Verdict.EQUAL if close.all() else Verdict.UNEQUAL


def evaluate(tree, values: dict[str, np.ndarray]) -> np.ndarray:
  """Values of a parsed expression at points; nan outside its domain.

  An intermediate infinity is a domain error, even if the result is finite (1/(1/0)).
  """
  with np.errstate(all='ignore'):
    return _evaluate(tree, values)


def _evaluate(tree, values) -> np.ndarray:
  if isinstance(tree, str):
    return np.full(POINTS, float(tree)) if tree.isdigit() else values[tree]
  operator, *subtrees = tree
  operands = [_evaluate(t, values) for t in subtrees]
  function = _UNARY[operator] if len(operands) == 1 else _BINARY[operator]
  value = function(*operands)
  return np.where(np.isfinite(value), value, np.nan)


def tally(pairs) -> dict[str, int]:
  """Counts of (expected, got) pairs, of identical texts, and of each verdict.

  >>> tally([('(x+y)', '(y+x)'), ('(x+y)', '(x+y)'), ('x', 'y')])
  {'pairs': 3, 'identical': 1, 'equal': 2, 'unequal': 1, 'domain': 0, 'malformed': 0}
  """
  counts = {'pairs': 0, 'identical': 0} | {str(v): 0 for v in Verdict}
  for expected, got in pairs:
    counts['pairs'] += 1
    counts['identical'] += expected == got
    counts[str(compare(expected, got))] += 1
  return counts
