"""A plain-Python oracle of encrypted rewriting; it shares no code with the package."""


def shifted(text: str, shift: int, alphabet: int) -> str:
  """Each letter moved on by the shift, round the alphabet."""
  return ''.join(chr(97 + (ord(c) - 97 + shift) % alphabet) for c in text)


def answer(x, y, z, table, scope='inserted') -> str:
  """The leftmost x replaced by y, encrypted; z itself where x does not occur."""
  before, found, after = z.partition(x)
  if not found:
    return z
  coded = before + y + after if scope == 'output' else y
  coded = ''.join(table[c] for c in coded)
  return coded if scope == 'output' else before + coded + after


def parse(row: list[int], order: str = 'xyz') -> dict[str, str]:
  """Token ids -> the parts x, y, s, z and out; checks the layout."""
  end = row.index(1)
  assert set(row[end + 1 :]) <= {0}, 'padding only after the end'
  text = ''.join('|' if t == 2 else chr(91 + t) for t in row[:end])
  assert all(c == '|' or 'a' <= c <= 'z' for c in text), 'letters only'
  return dict(zip([*order.replace('y', 'ys'), 'out'], text.split('|'), strict=True))
