import decimal
import itertools
import random
from decimal import Decimal
from fractions import Fraction

import oracle_algebra as oracle
import pytest

from onlyif_jax.tasks import templates
from onlyif_jax.tasks.algebra import Algebra

PAIRS = templates.identities()
DIGITS = 50  # of the numeric check
POINTS = 12


def rational(tree) -> bool:
  """Whether a side is a quotient of polynomials with exact values."""
  if tree[0] == '^':
    return rational(tree[1]) and tree[2][0].isdigit()
  return tree[0] not in 'scleq' and all(rational(t) for t in tree[1:])


EXACT = [p for p in PAIRS if all(rational(oracle.parse(s)) for s in p)]
NUMERIC = [p for p in PAIRS if p not in EXACT]


def exact(tree, at):
  """The value of a side in rational numbers."""
  head, *below = tree
  if not below:
    return at[head] if head in at else Fraction(int(head))
  a, *rest = (exact(t, at) for t in below)
  if head == 'n':
    return -a
  (b,) = rest
  if head == '^':
    return a ** int(b)
  return {'+': a + b, '-': a - b, '*': a * b, '/': a / b if head == '/' else 0}[head]


def degrees(tree, slot):
  """Bounds of the degrees of numerator and denominator in a slot."""
  head, *below = tree
  if not below:
    return int(head == slot), 0
  (n, d), *rest = (degrees(t, slot) for t in below)
  if head == 'n':
    return n, d
  if head == '^':
    return n * int(below[1][0]), d * int(below[1][0])
  ((m, e),) = rest
  if head in '+-':
    return max(n + e, m + d), d + e
  return (n + m, d + e) if head == '*' else (n + e, d + m)


def prove(lhs: str, rhs: str) -> None:
  """Two quotients of polynomials agree on a grid with more points than the degree.

  N/D = M/E on the grid means N E - M D vanishes there, so it is zero.
  """
  left, right = oracle.parse(lhs), oracle.parse(rhs)
  grid, slots = [], sorted(set(lhs) & set('ABC'))
  for k, slot in enumerate(slots):
    (n, d), (m, e) = degrees(left, slot), degrees(right, slot)
    # Apart for the slots, so that no denominator vanishes.
    grid.append([Fraction(7 + 100 * k + p, 2) for p in range(max(n + e, m + d) + 1)])
  for values in itertools.product(*grid):
    at = dict(zip(slots, values, strict=True))
    assert exact(left, at) == exact(right, at), (lhs, rhs, at)


def taylor(x: Decimal, term: Decimal, n: int) -> Decimal:
  """The series of sine (term x, n 1) or cosine (term 1, n 0)."""
  total = Decimal(0)
  while abs(term) > Decimal(10) ** -(DIGITS + 8):
    total += term
    term *= -x * x / ((n + 1) * (n + 2))
    n += 2
  return total


def numeric(tree, at) -> Decimal:
  """The value of a side to 50 digits and more."""
  head, *below = tree
  if not below:
    return at[head] if head in at else Decimal(head)
  values = [numeric(t, at) for t in below]
  one = {
    'n': lambda x: -x,
    's': lambda x: taylor(x, x, 1),
    'c': lambda x: taylor(x, Decimal(1), 0),
    'l': Decimal.ln,
    'e': Decimal.exp,
    'q': Decimal.sqrt,
    '+': lambda x, y: x + y,
    '-': lambda x, y: x - y,
    '*': lambda x, y: x * y,
    '/': lambda x, y: x / y,
    '^': lambda x, y: x**y,
  }
  return one[head](*values)


def check_numerically(lhs: str, rhs: str) -> None:
  """Both sides agree to 40 digits at random points with positive slots."""
  rng = random.Random(11)
  with decimal.localcontext() as context:
    context.prec = DIGITS + 10
    for _ in range(POINTS):
      at = {
        slot: Decimal(rng.randrange(200, 2600)) / Decimal('997.3') for slot in 'ABC'
      }
      a, b = (numeric(oracle.parse(side), at) for side in (lhs, rhs))
      assert abs(a - b) <= Decimal(10) ** -40 * max(1, abs(a)), (lhs, rhs, at)


def test_there_are_enough_identities():
  assert len(PAIRS) >= 80
  assert len(EXACT) >= 40
  assert len(NUMERIC) >= 40


def test_rational_identities_are_proved():
  for lhs, rhs in EXACT:
    prove(lhs, rhs)


def test_other_identities_hold_to_forty_digits():
  for lhs, rhs in NUMERIC:
    check_numerically(lhs, rhs)


@pytest.mark.parametrize(
  'pair', [('((A+B)^2)', '((A^2)+(B^2))'), ('((A^9)-(A^9))', '(A-(2*A))')]
)
def test_proof_refuses_what_is_false(pair):
  with pytest.raises(AssertionError):
    prove(*pair)


def test_numeric_check_refuses_what_is_nearly_true():
  with pytest.raises(AssertionError):
    check_numerically('sA', '(sA+(1/(9^(9+9))))')


def test_no_two_sides_of_the_file_are_of_one_class():
  classes = [oracle.class_of(side) for pair in PAIRS for side in pair]
  assert len(set(classes)) == 2 * len(PAIRS)
  assert classes == [templates.canonical(s) for pair in PAIRS for s in pair]


def test_both_sides_have_the_same_slots():
  for lhs, rhs in PAIRS:
    assert set(lhs) & set('ABC') == set(rhs) & set('ABC') != set(), (lhs, rhs)


def test_every_side_is_specific():
  for side in itertools.chain(*PAIRS):
    tree = oracle.parse(side)
    slots = [c for c in side if c in 'ABC']
    constants = sum(c.isdigit() for c in side)
    repeats = len(slots) - len(set(slots))
    own = oracle.operators(tree) + oracle.functions(tree) + constants + repeats
    assert own >= 2, side


def test_sequences_of_identities_stay_within_160():
  assert Algebra(source='identities', depth=2, slot_test=2).sequence_length <= 160
