"""Whether an answer equals the reference as mathematics, as judged by the Eurus suite.

The verdicts are those of the suite's utils/ (2024-09-18), where an answer is right if
any of three graders accepts it: LaTeX forms cleaned as by MATH's authors are equal, so
are loosely cleaned ones, or sympy finds a difference of zero or values within 1e-4.
Percentages equal shares, so 5 also equals 500 and 0.05.

sympy's parser evaluates what it reads, so `equal` may only run in the sandbox: this
module and latex_forms are sent there as texts.
"""

import contextlib
import functools
import math
import re
import signal
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from onlyif_jax.evals.latex_forms import (
  as_float,
  clean_loosely,
  is_fraction,
  is_whole,
  same_form,
  without_commas,
)

_BRACKETS = '()[]'
_TOLERANCE = 1e-4
_LONGEST = 1000  # characters of an answer that are compared
# Syntax that would give access to Python itself; no answer needs it.
_UNSAFE = re.compile(r'__|[\'"`@;]|\blambda\b')
_HARMLESS = (abs, complex, divmod, float, int, len, max, min, pow, round, sum)


class TooLong(BaseException):
  """A step took too long; no Exception, since sympy would catch one."""


def equal(answer: str, reference: str, seconds: float) -> bool:
  """Whether two final answers are equal; seconds: CPU limit of a step."""
  if same_form(answer, reference) or _graded(answer, reference, seconds):
    return True
  with_pi = '\\pi' in answer or '\\pi' in reference
  try:
    matches = [
      _close(answer, reference, seconds, pi)
      for pi in ((math.pi, 3.14) if with_pi else (math.pi,))
    ]
  except (Exception, TooLong):
    return False
  return any(matches)


def _graded(answer: str, reference: str, seconds: float) -> bool:
  """Whether sympy finds all parts equal, after the loose cleaning.

  Whole numbers must be equal, and fractions must be written alike.
  """
  answer, reference = clean_loosely(answer), clean_loosely(reference)
  if not answer:
    return False
  answer_parts, reference_parts = _parts(answer), _parts(reference)
  same_brackets = answer[0] == reference[:1] and answer[-1] == reference[-1:]
  if len(answer_parts) != len(reference_parts) or (
    len(reference_parts) > 1 and not same_brackets
  ):
    return False
  for left, right in zip(answer_parts, reference_parts, strict=True):
    if is_fraction(left) and is_fraction(right):
      matches = left == right
    elif is_whole(left) != is_whole(right):
      matches = False
    else:
      matches = _no_difference(left, right, seconds)
    if not matches:
      return False
  return True


def _parts(text: str) -> list[str]:
  """The elements of a tuple or interval; else only the text itself."""
  text = without_commas(text)
  inner = text[1:-1]
  bracketed = len(text) > 2 and text[0] in _BRACKETS and text[-1] in _BRACKETS
  if bracketed and not any(c in _BRACKETS for c in inner):
    return [part.strip() for part in inner.split(',')]
  return [text] if text else []


def _no_difference(answer: str, reference: str, seconds: float) -> bool:
  import sympy
  from sympy.parsing import sympy_parser as parser

  text = f'({reference})-({answer})'
  letters = {c for c in text.replace('sqrt', '').replace('frac', '') if c.isalpha()}
  heavy = r'\^\{|\^\(|\^[0-9]+\^|\^[0-9][0-9]+'  # powers that sympy may never finish
  if len(letters) > 2 or re.search(heavy, text):
    return False
  transformations = (
    *parser.standard_transformations,
    parser.implicit_multiplication_application,
  )
  try:
    with _within(seconds):
      return sympy.simplify(_expression(text.replace('^', '**'), transformations)) == 0
  except (Exception, TooLong):
    return False


def _expression(text: str, transformations: tuple | None = None) -> Any:
  """Parses with sympy, which evaluates; only names of mathematics are accessible."""
  from sympy.parsing import sympy_parser as parser

  if _UNSAFE.search(text):
    raise ValueError('the text is no expression')
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')  # of Python's compiler, on the text
    return parser.parse_expr(
      text,
      transformations=transformations or parser.standard_transformations,
      global_dict=dict(_names()),
    )


@functools.cache
def _names() -> dict[str, Any]:
  import sympy

  names = {f.__name__: f for f in _HARMLESS}
  names |= {name: getattr(sympy, name) for name in sympy.__all__}
  return names | {'max': sympy.Max, 'min': sympy.Min, '__builtins__': {}}


@contextlib.contextmanager
def _within(seconds: float) -> Iterator[None]:
  """Raises TooLong after the given CPU seconds in user mode."""

  def stop(*_):
    raise TooLong

  previous = signal.signal(signal.SIGVTALRM, stop)
  signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
  try:
    yield
  finally:
    signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    signal.signal(signal.SIGVTALRM, previous)


def _close(answer: Any, reference: Any, seconds: float, pi: float = math.pi) -> bool:
  """Whether both are equal as text, numbers (or percentages), in parts, or symbolically."""
  answer, reference = _valued(answer, pi), _valued(reference, pi)
  answer = answer[:_LONGEST] if isinstance(answer, str) else answer
  if isinstance(answer, str) and isinstance(reference, str):
    if answer.strip().lower() == reference.strip().lower():
      return True
    if answer.replace(' ', '') == reference.replace(' ', ''):
      return True
  value, reference_value = _number(answer), _number(reference)
  if value is not None and reference_value is not None:
    accepted = (reference_value / 100, reference_value, reference_value * 100)
    return any(math.isclose(x, value, rel_tol=_TOLERANCE) for x in accepted)
  if not answer and answer not in [0, False]:
    return False
  reference, answer = str(reference).strip(), _interval(str(answer).strip())
  if _bare(answer, reference):
    return True

  def same_parts(left: str, right: str) -> bool | None:
    """Whether all parts are close; None where their numbers differ."""
    if left.count(',') != right.count(','):
      return None
    pairs = zip(left.split(','), right.split(','), strict=True)
    return all(_close(x, y, seconds) for x, y in pairs)

  bracketed = answer and reference and answer[0] in '([' and answer[-1] in ')]'
  same_brackets = bracketed and (answer[0], answer[-1]) == (reference[0], reference[-1])
  if same_brackets and same_parts(answer[1:-1], reference[1:-1]):
    return True
  if ',' in answer and ',' in reference:
    matches = same_parts(*(re.sub(r'\s*,\s*', ',', x) for x in (answer, reference)))
    if matches is not None:
      return matches
  is_point = answer.startswith('Point') and (reference[0], reference[-1]) == ('(', ')')
  if is_point and same_parts(answer[answer.find('(') + 1 : -1], reference[1:-1]):
    return True
  # The suite's case for matrices never applies: it looks for an unescaped `\begin`.
  return _symbolically(answer, reference, seconds)


def _valued(text: Any, pi: float) -> Any:
  """The text without a dollar or percent sign; the value of one with a base or pi."""
  if re.match(r'\$\d+(\.\d+)?', text):
    return text[1:]
  if re.match(r'^\d+(\.\d+)?\\?%$', text):
    return text.replace('\\%', '').replace('%', '')
  if '_' in text:
    return int(float(text.split('_')[0]))
  if '\\pi' not in text:
    return text
  while (start := text.find('\\pi')) >= 0:
    prefix = '*' if start > 0 and text[start - 1].isdigit() else '1*'
    text = f'{text[:start]}{prefix}{pi}{text[start + 3 :]}'
  try:
    if _UNSAFE.search(text):
      return text
    with warnings.catch_warnings():
      warnings.simplefilter('ignore')
      names = {'__builtins__': {f.__name__: f for f in _HARMLESS}}
      return eval(text, names)
  except Exception:
    return text


def _number(value: Any) -> float | None:
  text = str(value)
  return as_float(text.replace('{,}' if '{,}' in text else ',', ''))


def _interval(text: str) -> str:
  """A sympy interval written with brackets; other texts as they are."""
  for name, left, right in (
    *((r'Interval', '[', ']'), (r'Interval\.Ropen', '[', ')')),
    *((r'Interval\.Lopen', '(', ']'), (r'Interval\.open', '(', ')')),
  ):
    if match := re.match(rf'^{name}\((.*)\)$', text):
      return f'{left}{match.group(1)}{right}'
  return text


def _bare(answer: str, reference: str) -> bool:
  """Whether both are equal without brackets and braces, which may differ."""
  left, right = answer, reference
  for brackets, other in (('[]', '('), ('()', '[')):
    if (left[:1], left[-1:]) == tuple(brackets) and not right.startswith(other):
      left, right = answer.strip('[]()'), reference.strip('[]()')
      break
  for c in '{}()':
    left, right = left.replace(c, ''), right.replace(c, '')
  return left == right


def _symbolically(answer: str, reference: str, seconds: float) -> bool:
  import sympy

  left, right = _parsed(answer, seconds), _parsed(reference, seconds)
  if left is None or right is None:
    return False
  tests: tuple[Callable[[], bool], ...] = (
    lambda: sympy.simplify(left - right) == 0,
    lambda: math.isclose(sympy.N(left), sympy.N(right), rel_tol=_TOLERANCE),
  )
  for test in tests:
    try:
      with _within(seconds):
        if test():
          return True
    except (Exception, TooLong):
      continue
  return False


def _parsed(text: str, seconds: float) -> Any:
  """A text parsed as Python mathematics, or else as LaTeX; None where neither works."""
  from sympy.parsing.latex import parse_latex

  for parse in (_expression, parse_latex):
    try:
      with _within(seconds):
        return parse(text)
    except (Exception, TooLong):
      continue
  return None
