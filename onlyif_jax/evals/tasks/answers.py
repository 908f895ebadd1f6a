"""How the answers of our own tasks are read and compared; lm_eval loads this file.

>>> theorem({'Answer': '2.5', 'Answer_type': 'float'}, ['... The answer is 2.45.'])
{'exact_match': 1.0}
"""

import ast
import math
import re
from typing import Any

_NUMBER = re.compile(r'-?\d[\d,]*(?:\.\d+)?(?:[eE][-+]?\d+)?|-?\.\d+')
_SAID = re.compile(r'answer is:?\s*', re.I)
_TOLERANCE = 0.04


def number(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
  """SVAMP: whether the last number of the answer is the right one."""
  found = _NUMBER.findall(results[0])
  right = found and math.isclose(_value(found[-1]), _value(str(doc['Answer'])))
  return {'exact_match': float(bool(right))}


def theorem(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
  """TheoremQA: whether what follows the last "answer is" is right."""
  said = _SAID.split(results[0])
  # Without these words the whole last line is the answer.
  text = said[-1] if len(said) > 1 else results[0].strip().split('\n')[-1]
  return {'exact_match': float(_right(text.strip(), str(doc['Answer']).strip()))}


def without_pictures(docs: Any) -> Any:
  """The questions that are text alone, as in the authors' code."""
  return docs.filter(lambda doc: not doc.get('Picture'))


def _right(text: str, wanted: str) -> bool:
  option = re.fullmatch(r'\(?([a-zA-Z])\)?', wanted)
  if option:
    found = re.match(r'\(?([a-zA-Z])\b\)?', text)
    return bool(found) and found[1].lower() == option[1].lower()
  if wanted in ('True', 'False'):
    return text.lower().startswith(wanted.lower())
  try:
    value = ast.literal_eval(wanted)
  except (ValueError, SyntaxError):
    return text.rstrip('.') == wanted
  if not isinstance(value, list):
    found = _NUMBER.search(text)
    return bool(found) and _close(_value(found[0]), value)
  listed = re.search(r'\[(.*?)\]', text, re.S)
  parts = (listed[1] if listed else text).split(',')
  found = [_NUMBER.search(part) for part in parts]
  numbers = [_value(n[0]) for n in found if n]
  pairs = zip(sorted(numbers), sorted(value), strict=False)
  return len(numbers) == len(value) and all(_close(n, v) for n, v in pairs)


def _close(found: float, wanted: float) -> bool:
  if isinstance(wanted, float):
    return abs(found - wanted) <= _TOLERANCE * abs(wanted)
  return math.isfinite(found) and round(found) == wanted


def _value(text: str) -> float:
  return float(text.replace(',', ''))
