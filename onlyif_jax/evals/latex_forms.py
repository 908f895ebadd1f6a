"""Final answers in LaTeX: finds them in a text and normalises how they are written.

As in the Eurus suite (its utils/, 2024-09-18): `clean` is the normalisation of MATH's
authors, `clean_loosely` that of PRM800K. Nothing is evaluated. This module is also sent
into sandboxes as a text, so it imports nothing of this package.
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
  """The final answer in a text: its last box, or what follows `is`, `=`, ...

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
  depth, brace = 0, -1
  for n in range(start, len(text)) if start >= 0 else ():
    if text[n] == '{':
      depth += 1
      brace = n if brace < 0 else brace
    elif text[n] == '}':
      depth -= 1
      if depth == 0:
        return text[brace + 1 : n].strip() if brace >= 0 else ''
  return ''


def same_form(answer: str, reference: str) -> bool:
  """Whether both texts are the same, cleaned in one way or the other.

  Nothing is evaluated, so this is safe outside a sandbox.
  """
  if clean(answer) == clean(reference):
    return True
  return clean_loosely(answer) == clean_loosely(reference)


def clean(text: str) -> str:
  """Normalises fractions, roots and decimals; drops sizes, degrees, units and signs."""
  text = text.strip()
  if found := re.search(r'^\\text\{(.+?)\}$', text):
    text = found.group(1).strip()
  try:
    return _cleaned(text)
  except (ValueError, IndexError):  # broken LaTeX stays as it is
    return text


def _cleaned(text: str) -> str:
  for old, new in (('\n', ''), ('\\!', ''), ('\\\\', '\\')):
    text = text.replace(old, new)
  for old in ('tfrac', 'dfrac'):
    text = text.replace(old, 'frac')
  for old in ('\\left', '\\right', '^{\\circ}', '^\\circ', '\\$'):
    text = text.replace(old, '')
  if '\\text{ ' in text:
    text, _ = text.split('\\text{ ')  # a unit; more than one is an error
  text = text.replace('\\%', '').replace(' .', ' 0.').replace('{.', '{0.')
  if not text:
    return text
  text = '0' + text if text[0] == '.' else text
  sides = text.split('=')
  if len(sides) == 2 and len(sides[0]) <= 2:
    text = sides[1]
  first, *others = text.split('\\sqrt')
  text = first + ''.join(
    '\\sqrt' + (part if part[0] == '{' else f'{{{part[0]}}}{part[1:]}')
    for part in others
  )
  text = _braced_fractions(text)
  return _slashed('\\frac{1}{2}' if text == '0.5' else text)


def _braced_fractions(text: str) -> str:
  """Adds the braces to `\\frac12`, `\\frac1{2}`; the text itself if one is incomplete."""
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
  """Writes `a/b` of whole numbers as a fraction."""
  numerator, *denominator = text.split('/')
  try:
    top, bottom = int(numerator), int(denominator[0])
  except (ValueError, IndexError):
    return text
  return f'\\frac{{{top}}}{{{bottom}}}' if text == f'{top}/{bottom}' else text


def clean_loosely(text: str) -> str:
  """Drops units, signs and commas of numbers, and writes LaTeX as sympy reads it."""
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
  if (value := as_float(text)) is not None and _near_integer(value):
    text = str(round(value))
  if '\\' in text:
    text = _plain_text(text)
  text = re.sub('- *', '-', text)
  text = re.sub('([0-9]) +([0-9])', r'\1+\2', text).lower()  # 7 3/4 is 7+3/4
  return str(int(float(text.replace(',', '')))) if is_whole(text) else text


def _plain_text(text: str) -> str:
  """LaTeX as plain text, by pylatexenc; unchanged where that fails."""
  from pylatexenc.latex2text import (  # pyright: ignore[reportMissingImports]
    LatexNodes2Text,
  )

  for old, new in (('\\tfrac', '\\frac'), ('\\dfrac', '\\frac'), ('\\frac', ' \\frac')):
    text = text.replace(old, new)
  try:
    plain = LatexNodes2Text().latex_to_text(text)
  except Exception:
    return text
  for old, new in _SIGNS:
    plain = plain.replace(old, new)
  return plain.strip()


def as_float(text: str) -> float | None:
  """The number in a text, as Python parses it; None where there is none."""
  try:
    return float(text)
  except ValueError:
    return None


def _near_integer(value: float) -> bool:
  return math.isfinite(value) and abs(value - round(value)) <= 1e-7


def without_commas(text: str) -> str:
  """Drops the commas of thousands; those of lists stay."""
  while (replaced := re.sub(r'(\d)(,)(\d\d\d)($|\D)', r'\1\3\4', text)) != text:
    text = replaced
  return text


def is_whole(text: str) -> bool:
  """Whether a text is a whole number, as 3.0 or 1,000."""
  value = as_float(without_commas(text))
  return value is not None and _near_integer(value)


def is_fraction(text: str) -> bool:
  """Whether a text is a fraction of whole numbers."""
  return bool(re.search(r'^-?[0-9]+.?/0*[1-9][0-9]*.?$', text))
