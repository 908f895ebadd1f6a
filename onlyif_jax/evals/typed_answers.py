"""Answers of TheoremQA: a number, a list of numbers, a truth value or an option.

As judged by the Eurus suite (its Math/theorem_qa/util.py, 2024-09-18): an answer is
evaluated as a Python expression, so `equal` may only run in the sandbox. It may use only
the names and attributes listed here, so that no answer can change how later ones are
judged. A number may be off by 4 % where the reference is a float, else it is rounded.
Powers like 10^3 never count: the suite turns them into calls of `math`, which it does
not import.
"""

import ast
import contextlib
import re
import types
from typing import Any

from onlyif_jax.evals.latex_forms import last_boxed

KINDS = ('bool', 'option', 'Option', 'integer', 'float') + (
  'list of integer',
  'list of float',
)
_NUMBER = r'[-+]?(?:[\d,]*\.*\d+)'
_UNITS = (  # a number with other text before or after it; group 1 is kept
  rf'({_NUMBER}) [^0-9 ]+$',
  rf'[^0-9 ]+ ({_NUMBER})$',
  rf'({_NUMBER})[^\d]{{1,2}}$',
  r'[^-+\d]{1,2}((?:[\d,]*\.*\d+))$',
)
_COMMAS = re.compile(r'^[-+]?(\d{1,3}(,\d{3})*|(\d+))(\.\d+)?$')
_UNSAFE = re.compile(r'__|[\'"@;]|\blambda\b')
_TOLERANCE = 0.04  # relative, where the reference is a float
_BUILTINS = (
  *(abs, bool, complex, dict, divmod, enumerate, float, int, len, list, max, min),
  *(pow, range, reversed, round, set, sorted, str, sum, tuple, zip),
)

# Names of numpy; none gives access to more than its arguments.
_NUMPY = frozenset(
  ('abs', 'arange', 'arccos', 'arccosh', 'arcsin', 'arcsinh', 'arctan', 'arctan2')
  + ('arctanh', 'array', 'cbrt', 'ceil', 'cos', 'cosh', 'cross', 'cumsum', 'deg2rad')
  + ('degrees', 'dot', 'e', 'exp', 'floor', 'hypot', 'inf', 'linspace', 'log', 'log10')
  + ('log2', 'matmul', 'max', 'mean', 'min', 'nan', 'pi', 'power', 'prod', 'rad2deg')
  + ('radians', 'round', 'sin', 'sinh', 'sqrt', 'std', 'sum', 'tan', 'tanh', 'var')
)


def stated_answer(text: str) -> str:
  """The answer in a text: what follows `Answer:`, or the last box in it."""
  for marker in ('answer:\n', 'answer: '):
    start = text.lower().rfind(marker)
    text = text[start + len(marker) :].strip() if start >= 0 else text
  return last_boxed(text) or text


def printed_answer(text: str) -> str:
  """The answer in a program's output: the end of its last line.

  >>> printed_answer('n = 3\\nThe area is 4.5 cm.')
  '4.5 cm'
  """
  words: list[str] = []
  for word in text.strip().split('\n')[-1].split(' ')[::-1]:
    if word in ('is', 'be', 'are') or word.endswith(':'):
      break
    words.insert(0, word)
  return ' '.join(words).strip().strip('.')


def equal(answer: str, reference: Any, kind: str) -> bool:
  """Whether an answer equals a reference of one of KINDS."""
  try:
    value = value_of(answer)
    if isinstance(value, list) and kind.startswith('list'):
      return _all_close(value, reference)
    if kind in ('bool', 'option', 'Option'):
      plain = isinstance(value, str | int | float | list)
      return plain and (value == f'({reference})' or value == reference)
    return kind in ('integer', 'float') and _close(value, reference)
  except Exception:  # the text may evaluate to nan or an empty tuple
    return False


def _close(value: Any, reference: Any) -> bool:
  if not isinstance(value, int | float):
    return False
  if isinstance(reference, float):
    return abs(value - reference) <= abs(reference) * _TOLERANCE or value == reference
  return round(value) == reference


def _all_close(values: list, references: list) -> bool:
  """Whether all are close, in any order."""
  numbers = all(isinstance(value, int | float) for value in values)
  if len(values) != len(references) or not numbers:
    return False
  pairs = zip(sorted(values), sorted(references), strict=True)
  return all(_close(value, reference) for value, reference in pairs)


def value_of(answer: str) -> Any:
  """The value of an answer; None where it is no Python expression."""
  text = _cleaned(answer)
  for option in 'abcd':
    if f'{option})' in text or f'{option} )' in text or text.lower().strip() == option:
      text = f'({option})'
  if match := re.search(r'\([a-d]\)', text):
    return match.group(0)
  value: Any = _evaluated(text) if text else None
  if isinstance(value, set | tuple):
    values: list[Any] = list(value)
    if isinstance(values[0], complex):
      return [v.real for v in values]
    return [float(v) for v in values] if _is_rational(values[0]) else values
  if type(value).__name__ == 'ndarray':
    return value.tolist()
  if isinstance(value, complex):
    return value.real
  return float(value) if _is_rational(value) else value


def _cleaned(text: str) -> str:
  """Drops what surrounds a value: equations, signs, units."""
  for sign in '=≈':
    text = text.split(sign)[-1].strip() if sign in text else text
  for sign in '`$°':
    text = text.replace(sign, '')
  if text.lower() in ('true', 'yes', 'false', 'no'):
    text = str(text.lower() in ('true', 'yes'))
  for name in ('True', 'False'):
    if name in text:
      text = name
      break
  if 'approximately' in text:
    text = text.replace('approximately', '').strip()
  text = text.split(' or ')[0]
  for pattern in _UNITS:
    match = re.match(pattern, text)
    text = match.group(1) if match else text
  text = re.sub(r'10\^(-?\d+)', r'math.pow(10, \1)', text)
  for sign in (' x ', ' \u00d7 '):
    text = text.replace(sign, '*')
  return text.replace(',', '') if _COMMAS.match(text) else text


def _evaluated(text: str) -> Any:
  if _UNSAFE.search(text):
    return None
  with contextlib.suppress(Exception):
    return ast.literal_eval(text)
  if not _is_safe(text):
    return None
  names: dict[str, Any] = {f.__name__: f for f in _BUILTINS}
  names = {'__builtins__': names}
  if re.search(r'\bnp\b', text):
    import numpy as np

    names['np'] = types.SimpleNamespace(**{n: getattr(np, n) for n in _NUMPY})
  if 'Rational' in text:
    import sympy

    names['Rational'] = sympy.Rational
  with contextlib.suppress(Exception):
    return eval(text, names)
  return None


def _is_safe(text: str) -> bool:
  """Whether all attributes in an expression are listed names of numpy.

  Others lead from a value to its type, module or frame, and so to the judge itself.
  """
  try:
    tree = ast.parse(text.strip(), mode='eval')
  except Exception:  # also for too deep nesting
    return False
  attributes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
  return all(
    isinstance(attribute.value, ast.Name)
    and attribute.value.id == 'np'
    and attribute.attr in _NUMPY
    for attribute in attributes
  )


def _is_rational(value: Any) -> bool:
  return hasattr(value, 'is_Rational') and bool(value.is_Rational)
