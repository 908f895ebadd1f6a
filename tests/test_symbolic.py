import math

import numpy as np
import pytest

from onlyif_jax.evals.symbolic import POINTS, Verdict, compare, evaluate, tally
from onlyif_jax.tasks import expressions

EQUAL = [
  ('(x+y)', '(y+x)'),
  ('((x^2)-(y^2))', '((x+y)*(x-y))'),
  ('s(2*z)', '((2*sz)*cz)'),
  ('l(u*v)', '(lu+lv)'),
  ('q(w^2)', 'w'),
  ('enx', '(1/ex)'),
  ('((9^9)*x)', '(x*(9^9))'),
]
UNEQUAL = [
  ('(x-y)', '(y-x)'),
  ('(x^y)', '(y^x)'),
  ('x', '(x+(1/(9^6)))'),  # off by 1.9e-6
  ('sx', 'x'),
  ('u', 'v'),
]
DOMAIN = [
  ('lnx', 'lnx'),  # a negative logarithm is unequal even to itself
  ('x', '(1/(x-x))'),
  ('(1/(x-x))', 'x'),
  ('x', '(1/(1/(x-x)))'),  # an infinity on the way
  ('x', '((9^9)^(9^9))'),  # overflow
  ('x', '(nx^(1/2))'),
  ('x', 'qnx'),
]
MALFORMED = [
  '',
  '(',
  'x+y',
  '(x+y',
  '(x+y))',
  '(x y)',
  's',
  'A',
  '12',
  '()',
  '(x+)',
  '?',
]


@pytest.mark.parametrize(
  ('verdict', 'pairs'),
  [
    (Verdict.EQUAL, EQUAL),
    (Verdict.UNEQUAL, UNEQUAL),
    (Verdict.DOMAIN, DOMAIN),
    (Verdict.MALFORMED, [('x', got) for got in MALFORMED]),
  ],
)
def test_verdicts(verdict, pairs):
  for expected, got in pairs:
    assert compare(expected, got) == verdict, (expected, got)
    assert compare(expected, got, seed=7) == verdict, (expected, got)


def test_nesting_without_end_is_malformed_not_a_crash():
  for got in ('n' * 5_000 + 'x', '(' * 5_000, 's(' * 5_000):
    assert compare('x', got) == Verdict.MALFORMED


def test_malformed_expectation_is_an_error():
  with pytest.raises(ValueError, match='closing bracket'):
    compare('(x+y', 'x')


def test_values_equal_plain_arithmetic():
  values = {'x': np.linspace(0.5, 2, POINTS), 'y': np.linspace(1, 3, POINTS)}
  got = evaluate(expressions.parse('(n(sx*cy)+(l(x/y)-(e(x^y)/q(3*y))))'), values)
  for x, y, value in zip(values['x'], values['y'], got, strict=True):
    right = math.log(x / y) - math.exp(x**y) / math.sqrt(3 * y)
    assert value == pytest.approx(right - math.sin(x) * math.cos(y), rel=1e-12)


def test_tally_counts_every_pair_once():
  pairs = [*EQUAL, *UNEQUAL, *DOMAIN, *(('x', got) for got in MALFORMED)]
  counts = tally(iter(pairs))
  assert counts == {
    'pairs': len(pairs),
    'identical': 1,
    'equal': len(EQUAL),
    'unequal': len(UNEQUAL),
    'domain': len(DOMAIN),
    'malformed': len(MALFORMED),
  }
