"""Whether an answer equals the reference as mathematics, as the Eurus suite judges it.

The verdicts are those of that suite's utils/ (2024-09-18), which joins three graders
and takes the kindest: the forms of LaTeX as MATH's authors clean them, the same after a
looser cleaning, or sympy says that the difference is zero or the values are within
1e-4. A percentage equals its share, so 5 equals 500 and 0.05, too.

sympy's parser evaluates what it reads, so `equal` is for sandboxes: this module and
latex_forms are sent there as texts.
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
  is_fraction,
  is_whole,
  loosely,
  same_form,
  without_commas,
)

_BRACKETS = '()[]'
_TOLERANCE = 1e-4
_LONGEST = 1000  # letters of an answer that are compared
# What a text could reach Python itself with; no answer needs it.
_UNSAFE = re.compile(r'__|[\'"`@;]|\blambda\b')
_HARMLESS = (abs, complex, divmod, float, int, len, max, min, pow, round, sum)


class TooLong(BaseException):
  """A step took its time; sympy must not catch this."""


def equal(answer: str, reference: str, seconds: float) -> bool:
  """Whether two final answers are equal; a step may take so many CPU seconds."""
  if same_form(answer, reference) or _graded(answer, reference, seconds):
    return True
  with_pi = '\\pi' in answer or '\\pi' in reference
  try:
    found = [
      _close(answer, reference, seconds, pi)
      for pi in ((math.pi, 3.14) if with_pi else (math.pi,))
    ]
  except (Exception, TooLong):
    return False
  return any(found)


def _graded(answer: str, reference: str, seconds: float) -> bool:
  """Equal part by part by sympy, after the looser cleaning.

  What is whole must be met exactly, and fractions must be reduced as the reference is.
  """
  ours, theirs = loosely(answer), loosely(reference)
  if not ours:
    return False
  parts, wanted = _parts(ours), _parts(theirs)
  ends = ours[0] == theirs[:1] and ours[-1] == theirs[-1:]
  if len(parts) != len(wanted) or (len(wanted) > 1 and not ends):
    return False
  for part, other in zip(parts, wanted, strict=True):
    if is_fraction(part) and is_fraction(other):
      fits = part == other
    elif is_whole(part) != is_whole(other):
      fits = False
    else:
      fits = _no_difference(part, other, seconds)
    if not fits:
      return False
  return True


def _parts(text: str) -> list[str]:
  """What stands between the brackets of a tuple or interval; else the text alone."""
  text = without_commas(text)
  inner = text[1:-1]
  bracketed = len(text) > 2 and text[0] in _BRACKETS and text[-1] in _BRACKETS
  if bracketed and not any(c in _BRACKETS for c in inner):
    return [part.strip() for part in inner.split(',')]
  return [text] if text else []


def _no_difference(part: str, other: str, seconds: float) -> bool:
  import sympy
  from sympy.parsing import sympy_parser as parser

  text = f'({other})-({part})'
  letters = {c for c in text.replace('sqrt', '').replace('frac', '') if c.isalpha()}
  heavy = r'\^\{|\^\(|\^[0-9]+\^|\^[0-9][0-9]+'  # sympy might go on without end
  if len(letters) > 2 or re.search(heavy, text):
    return False
  ways = (
    *parser.standard_transformations,
    parser.implicit_multiplication_application,
  )
  try:
    with _within(seconds):
      return sympy.simplify(_expression(text.replace('^', '**'), ways)) == 0
  except (Exception, TooLong):
    return False


def _expression(text: str, ways: tuple | None = None) -> Any:
  """sympy's parser, which evaluates: without what reaches beyond mathematics."""
  from sympy.parsing import sympy_parser as parser

  if _UNSAFE.search(text):
    raise ValueError('the text is no expression')
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')  # of Python's compiler, on the text
    return parser.parse_expr(
      text,
      transformations=ways or parser.standard_transformations,
      global_dict=dict(_names()),
    )


@functools.cache
def _names() -> dict[str, Any]:
  import sympy

  own = {f.__name__: f for f in _HARMLESS}
  own |= {name: getattr(sympy, name) for name in sympy.__all__}
  return own | {'max': sympy.Max, 'min': sympy.Min, '__builtins__': {}}


@contextlib.contextmanager
def _within(seconds: float) -> Iterator[None]:
  """Raises TooLong after so many CPU seconds of Python's own."""

  def end(*_):
    raise TooLong

  before = signal.signal(signal.SIGVTALRM, end)
  signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
  try:
    yield
  finally:
    signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    signal.signal(signal.SIGVTALRM, before)


def _close(answer: Any, reference: Any, seconds: float, pi: float = math.pi) -> bool:
  """Equal as texts, as numbers (or percentages), part by part, or symbolically."""
  answer, reference = _valued(answer, pi), _valued(reference, pi)
  answer = answer[:_LONGEST] if isinstance(answer, str) else answer
  if isinstance(answer, str) and isinstance(reference, str):
    if answer.strip().lower() == reference.strip().lower():
      return True
    if answer.replace(' ', '') == reference.replace(' ', ''):
      return True
  a, b = _number(answer), _number(reference)
  if a is not None and b is not None:
    ways = (b / 100, b, b * 100)
    return any(math.isclose(x, a, rel_tol=_TOLERANCE) for x in ways)
  if not answer and answer not in [0, False]:
    return False
  reference, answer = str(reference).strip(), _interval(str(answer).strip())
  if _bare(answer, reference):
    return True

  def same(ours: str, theirs: str) -> bool | None:
    """Of all parts; None if there are not as many."""
    if ours.count(',') != theirs.count(','):
      return None
    pairs = zip(ours.split(','), theirs.split(','), strict=True)
    return all(_close(x, y, seconds) for x, y in pairs)

  bracketed = answer and reference and answer[0] in '([' and answer[-1] in ')]'
  ends = bracketed and (answer[0], answer[-1]) == (reference[0], reference[-1])
  if ends and same(answer[1:-1], reference[1:-1]):
    return True
  if ',' in answer and ',' in reference:
    found = same(*(re.sub(r'\s*,\s*', ',', x) for x in (answer, reference)))
    if found is not None:
      return found
  point = answer.startswith('Point') and (reference[0], reference[-1]) == ('(', ')')
  if point and same(answer[answer.find('(') + 1 : -1], reference[1:-1]):
    return True
  # The suite's case of matrices never holds: it looks for `\begin` unescaped.
  return _symbolically(answer, reference, seconds)


def _valued(text: Any, pi: float) -> Any:
  """A text without its currency or per cent; a number in a base or with pi as such."""
  if re.match(r'\$\d+(\.\d+)?', text):
    return text[1:]
  if re.match(r'^\d+(\.\d+)?\\?%$', text):
    return text.replace('\\%', '').replace('%', '')
  if '_' in text:
    return int(float(text.split('_')[0]))
  if '\\pi' not in text:
    return text
  while (at := text.find('\\pi')) >= 0:
    times = '*' if at > 0 and text[at - 1].isdigit() else '1*'
    text = f'{text[:at]}{times}{pi}{text[at + 3 :]}'
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
  """sympy's intervals in brackets."""
  for name, left, right in (
    *((r'Interval', '[', ']'), (r'Interval\.Ropen', '[', ')')),
    *((r'Interval\.Lopen', '(', ']'), (r'Interval\.open', '(', ')')),
  ):
    if found := re.match(rf'^{name}\((.*)\)$', text):
      return f'{left}{found.group(1)}{right}'
  return text


def _bare(answer: str, reference: str) -> bool:
  """Equal without brackets and braces, where these may differ."""
  ours, theirs = answer, reference
  for own, other in (('[]', '('), ('()', '[')):
    if (ours[:1], ours[-1:]) == tuple(own) and not theirs.startswith(other):
      ours, theirs = answer.strip('[]()'), reference.strip('[]()')
      break
  for c in '{}()':
    ours, theirs = ours.replace(c, ''), theirs.replace(c, '')
  return ours == theirs


def _symbolically(answer: str, reference: str, seconds: float) -> bool:
  import sympy

  a, b = _parsed(answer, seconds), _parsed(reference, seconds)
  if a is None or b is None:
    return False
  tests: tuple[Callable[[], bool], ...] = (
    lambda: sympy.simplify(a - b) == 0,
    lambda: math.isclose(sympy.N(a), sympy.N(b), rel_tol=_TOLERANCE),
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
  """A text as Python writes mathematics, or else as LaTeX does; None as neither."""
  from sympy.parsing.latex import parse_latex

  for parse in (_expression, parse_latex):
    try:
      with _within(seconds):
        return parse(text)
    except (Exception, TooLong):
      continue
  return None
