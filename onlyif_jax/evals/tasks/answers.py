"""Scoring of our own tasks of lm-evaluation-harness, which loads this file.

>>> theorem({'Answer': '2.5', 'Answer_type': 'float'}, ['... The answer is 2.45.'])
{'exact_match': 1.0}
"""

import ast
import math
import re
from typing import Any

_NUMBER = re.compile(r'-?\d[\d,]*(?:\.\d+)?(?:[eE][-+]?\d+)?|-?\.\d+')
_ANSWER_IS = re.compile(r'answer is:?\s*', re.I)
_TOLERANCE = 0.04


def number(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
  """SVAMP: whether the last number in the answer is right."""
  reference = _value(_reference(doc))
  numbers = _NUMBER.findall(results[0])
  right = bool(numbers) and math.isclose(_value(numbers[-1]), reference)
  return {'exact_match': float(right)}


def theorem(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
  """TheoremQA: whether what follows the last "answer is" is right."""
  reference = _reference(doc)
  parts = _ANSWER_IS.split(results[0])
  # Without these words the whole last line is the answer.
  text = parts[-1] if len(parts) > 1 else results[0].strip().split('\n')[-1]
  return {'exact_match': float(_right(text.strip(), reference.strip()))}


def without_pictures(docs: Any) -> Any:
  """The questions without a picture, as in the authors' code."""
  return docs.filter(lambda doc: not doc.get('Picture'))


def _reference(doc: dict[str, Any]) -> str:
  """The right answer; KeyError where a row has none, which `datasets` makes None."""
  if doc['Answer'] is None:
    raise KeyError('Answer')
  return str(doc['Answer'])


def _right(text: str, reference: str) -> bool:
  option = re.fullmatch(r'\(?([a-zA-Z])\)?', reference)
  if option:
    chosen = re.match(r'\(?([a-zA-Z])\b\)?', text)
    return bool(chosen) and chosen[1].lower() == option[1].lower()
  if reference in ('True', 'False'):
    return text.lower().startswith(reference.lower())
  try:
    expected = ast.literal_eval(reference)
  except (ValueError, SyntaxError):
    return text.rstrip('.') == reference
  if not isinstance(expected, list):
    number = _NUMBER.search(text)
    return bool(number) and _close(_value(number[0]), expected)
  brackets = re.search(r'\[(.*?)\]', text, re.S)
  items = (brackets[1] if brackets else text).split(',')
  numbers = [_value(match[0]) for match in map(_NUMBER.search, items) if match]
  pairs = zip(sorted(numbers), sorted(expected), strict=False)
  return len(numbers) == len(expected) and all(_close(n, e) for n, e in pairs)


def _close(value: float, reference: float) -> bool:
  if isinstance(reference, float):
    return abs(value - reference) <= _TOLERANCE * abs(reference)
  return math.isfinite(value) and round(value) == reference


def _value(text: str) -> float:
  return float(text.replace(',', ''))
