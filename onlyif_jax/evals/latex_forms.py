"""Final answers in LaTeX: where they stand in a text, and cleaned ways to write them.

As the Eurus suite has them (its utils/, 2024-09-18): `clean` is what MATH's authors do,
`loosely` what PRM800K adds. Texts alone, nothing is evaluated. This module is sent into
sandboxes as a text, too, and imports nothing of this package.
"""

import math
import re

_AFTER = ('answer:', 'answer is', 'answers are')
_BEFORE = ('is answer', 'is the answer', 'are answers', 'are the answers')
_SAYS = ('be ', 'is ', 'are ', '=', ': ', 'get ')
_ENDS = ('be\n', 'is\n', 'are\n', ':\n', 'get\n')
_UNITS = (
  *('degree', 'cm', 'centimeter', 'meter', 'mile', 'second', 'minute', 'hour', 'day'),
  *('week', 'month', 'year', 'foot', 'feet', 'inch', 'yard', 'liter'),
)
_POWERS = (('million', '*10^6'), ('billion', '*10^9'), ('trillion', '*10^12'))
_SIGNS = (
  *(('√', 'sqrt'), ('π', 'pi'), ('∞', 'inf')),
  *(('\u222a', 'U'), ('·', '*'), ('\u00d7', '*')),
)


def final_answer(text: str) -> str:
  """What an answer says in the end: its last box, or what follows `is`, `=`, ...

  >>> final_answer('We add.\\nThe answer is $x = \\\\boxed{4}$.')
  '4'
  """
  for marker in _AFTER:
    text = _after(text, marker)
  for marker in _BEFORE:
    at = text.lower().rfind(marker)
    text = text[:at].strip() if at >= 0 else text
  text = last_boxed(text) or text
  if '. ' in text:
    text = text[: text.lower().rfind('. ')].strip()
  for marker in (*_SAYS, *_ENDS):
    text = _after(text, marker)
  return text


def _after(text: str, marker: str) -> str:
  at = text.lower().rfind(marker)
  return text[at + len(marker) :].strip() if at >= 0 else text


def last_boxed(text: str) -> str:
  """The content of the last \\boxed{}, or else \\fbox{}; '' if there is none."""
  start = text.rfind('\\boxed')
  start = text.rfind('\\fbox') if start < 0 else start
  depth, left = 0, -1
  for n in range(start, len(text)) if start >= 0 else ():
    if text[n] == '{':
      depth += 1
      left = n if left < 0 else left
    elif text[n] == '}':
      depth -= 1
      if depth == 0:
        return text[left + 1 : n].strip() if left >= 0 else ''
  return ''


def same_form(answer: str, reference: str) -> bool:
  """Whether both are written the same, cleaned in one way or the other.

  Text alone decides, nothing is evaluated: this is safe anywhere.
  """
  return clean(answer) == clean(reference) or loosely(answer) == loosely(reference)


def clean(text: str) -> str:
  """One way to write fractions, roots and decimals; no sizes, degrees, units, signs."""
  text = text.strip()
  if found := re.search(r'^\\text\{(.+?)\}$', text):
    text = found.group(1).strip()
  try:
    return _cleaned(text)
  except (ValueError, IndexError):  # of broken LaTeX: as it is
    return text


def _cleaned(text: str) -> str:
  for old, new in (('\n', ''), ('\\!', ''), ('\\\\', '\\')):
    text = text.replace(old, new)
  for old in ('tfrac', 'dfrac'):
    text = text.replace(old, 'frac')
  for old in ('\\left', '\\right', '^{\\circ}', '^\\circ', '\\$'):
    text = text.replace(old, '')
  if '\\text{ ' in text:
    text, _ = text.split('\\text{ ')  # a unit, once; more of them are an error
  text = text.replace('\\%', '').replace(' .', ' 0.').replace('{.', '{0.')
  if not text:
    return text
  text = '0' + text if text[0] == '.' else text
  sides = text.split('=')
  if len(sides) == 2 and len(sides[0]) <= 2:
    text = sides[1]
  first, *others = text.split('\\sqrt')
  text = first + ''.join(
    '\\sqrt' + (x if x[0] == '{' else f'{{{x[0]}}}{x[1:]}') for x in others
  )
  text = _braced_fractions(text)
  return _slashed('\\frac{1}{2}' if text == '0.5' else text)


def _braced_fractions(text: str) -> str:
  """`\\frac12`, `\\frac1{2}` with all braces; the text itself if one is cut short."""
  first, *others = text.split('\\frac')
  out = first
  for part in others:
    if part[0] != '{':
      if len(part) < 2:
        return text
      below = part[1:] if part[1] == '{' else f'{{{part[1]}}}{part[2:]}'
      part = f'{{{part[0]}}}{below}'
    out += '\\frac' + part
  return out


def _slashed(text: str) -> str:
  """`a/b` of whole numbers as a fraction."""
  above, *below = text.split('/')
  try:
    a, b = int(above), int(below[0])
  except (ValueError, IndexError):
    return text
  return f'\\frac{{{a}}}{{{b}}}' if text == f'{a}/{b}' else text


def loosely(text: str) -> str:
  """Without units, signs and commas in numbers, in letters that sympy reads."""
  if found := re.search(r'^\\text\{(.+?)\}$', text):
    text = found.group(1)
  for old in ('\\%', '\\$'):
    text = text.replace(old, old[1])
  for old, new in (('$', ''), ('%', ''), (' or ', ' , '), (' and ', ' , '), *_POWERS):
    text = text.replace(old, new)
  for unit in _UNITS:
    text = re.sub(rf'{unit}(es)?(s)? *(\^[0-9]+)?', '', text)
  text = re.sub(r'\^ *\\circ', '', text)
  if text and text[0] == '{' and text[-1] == '}':
    text = text[1:-1]
  text = re.sub(r',\\! *', '', text)
  if (value := as_float(text)) is not None and _whole(value):
    text = str(round(value))
  if '\\' in text:
    text = _spelt(text)
  text = re.sub('- *', '-', text)
  text = re.sub('([0-9]) +([0-9])', r'\1+\2', text).lower()  # 7 3/4 is 7+3/4
  return str(int(float(text.replace(',', '')))) if is_whole(text) else text


def _spelt(text: str) -> str:
  """LaTeX in plain letters, by pylatexenc; as it is where that fails."""
  from pylatexenc.latex2text import (  # pyright: ignore[reportMissingImports]
    LatexNodes2Text,
  )

  for old, new in (('\\tfrac', '\\frac'), ('\\dfrac', '\\frac'), ('\\frac', ' \\frac')):
    text = text.replace(old, new)
  try:
    out = LatexNodes2Text().latex_to_text(text)
  except Exception:
    return text
  for old, new in _SIGNS:
    out = out.replace(old, new)
  return out.strip()


def as_float(text: str) -> float | None:
  """The number that Python reads in a text; None where there is none."""
  try:
    return float(text)
  except ValueError:
    return None


def _whole(value: float) -> bool:
  return math.isfinite(value) and abs(value - round(value)) <= 1e-7


def without_commas(text: str) -> str:
  """Without the commas of thousands; those of lists stay."""
  while (out := re.sub(r'(\d)(,)(\d\d\d)($|\D)', r'\1\3\4', text)) != text:
    text = out
  return text


def is_whole(text: str) -> bool:
  """Whether a text is a whole number, as 3.0 or 1,000."""
  value = as_float(without_commas(text))
  return value is not None and _whole(value)


def is_fraction(text: str) -> bool:
  """Whether a text is a fraction of whole numbers."""
  return bool(re.search(r'^-?[0-9]+.?/0*[1-9][0-9]*.?$', text))
