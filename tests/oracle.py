"""Plain-Python oracles of the tasks; they share no code with the package."""


def rewrite(x: str, y: str, z: str) -> str:
  """The leftmost x in z replaced by y; z itself where there is none."""
  return z.replace(x, y, 1)


def occurrences(x: str, z: str) -> int:
  """Non-overlapping matches from the left."""
  return z.count(x)


def near(x: str, z: str) -> bool:
  """Whether z has no x but has x with exactly one letter changed."""
  if x in z:
    return False
  windows = [z[i : i + len(x)] for i in range(len(z) - len(x) + 1)]
  return any(sum(a != b for a, b in zip(w, x, strict=True)) == 1 for w in windows)


def parse(row: list[int], order: str = 'xyz') -> dict[str, str]:
  """Token ids -> the parts of x SEP y SEP z SEP out EOS; checks the layout."""
  end = row.index(1)  # EOS
  assert all(t == 0 for t in row[end + 1 :]), 'padding only after the end'
  parts: list[list[int]] = [[]]
  for token in row[:end]:
    if token == 2:  # SEP
      parts.append([])
    else:
      assert token >= 6, 'letters only'
      parts[-1].append(token - 6)
  assert len(parts) == 4
  texts = [''.join(chr(97 + n) for n in part) for part in parts]
  return dict(zip([*order, 'out'], texts, strict=True))


def epoch_order_ok(places: list[int], n: int) -> bool:
  """Whether the places are a permutation of 0..n-1."""
  return sorted(places) == list(range(n))
