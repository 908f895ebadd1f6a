"""Plain-Python oracle of patterns with a form; it shares no code with the package."""

import itertools

ORDER = ('repeat', 'periodic', 'mirror')


def build(block: str, name: str, k: int) -> str:
  """The pattern of a block."""
  if name == 'repeat':
    return ''.join(letter * k for letter in block)
  if name == 'periodic':
    return block * k
  return ''.join(block[::-1] if n % 2 else block for n in range(k))


def groups(letters: str, length: int) -> dict[tuple[int, str], set[str]]:
  """Every string of a length, in the group that owns it: largest k, first class."""
  owned, out = set(), {}
  for k in range(length, 0, -1):
    if length % k:
      continue
    blocks = list(map(''.join, itertools.product(letters, repeat=length // k)))
    for name in ORDER if k > 1 else ('unconstrained',):
      made = {build(b, name, k) if k > 1 else b for b in blocks}
      out[k, name] = made - owned
      owned |= made
  return {key: own for key, own in out.items() if own}


def turns(supplies: dict, count: int) -> dict:
  """How many rules each group gives when they take turns until used up."""
  left, given = dict(supplies), dict.fromkeys(supplies, 0)
  while sum(given.values()) < count:
    for key in sorted(supplies, key=lambda key: supplies[key]):
      if left[key] and sum(given.values()) < count:
        left[key] -= 1
        given[key] += 1
  return given


def has_form(text: str, name: str, k: int) -> bool:
  """Whether a text is spelled as the class and k tell, and as no larger k."""
  size = len(text) // k
  block = text[::k] if name == 'repeat' else text[:size]
  if name != 'unconstrained' and text != build(block, name, k):
    return False
  larger = [m for m in range(k + 1, len(text) + 1) if len(text) % m == 0]
  for m in larger:
    for other in ORDER:
      block = text[::m] if other == 'repeat' else text[: len(text) // m]
      if text == build(block, other, m):
        return False
  return True
