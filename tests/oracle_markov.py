"""A plain-Python interpreter of Markov algorithms; shares no code with the package."""

from typing import NamedTuple


class Outcome(NamedTuple):
  texts: list[str]  # after each rewrite
  news: list[list[bool]]  # which of their letters a rule put there
  used: set[int]
  halted: bool
  stopped: bool


def run(rules, text: str, steps: int, size: int) -> Outcome:
  """Runs [(lhs, rhs, stop)]; not halted after `steps` rewrites or beyond `size`."""
  texts: list[str] = []
  news: list[list[bool]] = []
  used: set[int] = set()
  new = [False] * len(text)
  while True:
    first = next((n for n, (lhs, _, _) in enumerate(rules) if lhs in text), None)
    if first is None:
      return Outcome(texts, news, used, True, False)
    lhs, rhs, stop = rules[first]
    at = text.index(lhs)
    text = text[:at] + rhs + text[at + len(lhs) :]
    if len(texts) == steps or len(text) > size:
      return Outcome(texts, news, used, False, False)
    new = new[:at] + [True] * len(rhs) + new[at + len(lhs) :]
    texts.append(text)
    news.append(new)
    used.add(first)
    if stop:
      return Outcome(texts, news, used, True, True)


def answer(kind: str, text: str, outcome: Outcome) -> tuple[str, set[int]]:
  """The answer asked for and the places of the letters that rules put there."""
  if kind == 'trace':
    out = ''.join(t + '}' for t in outcome.texts)
    flags = [flag for new in outcome.news for flag in [*new, False]]
  else:
    at = 0 if kind == 'step' else -1
    out = outcome.texts[at] if outcome.texts else text
    flags = outcome.news[at] if outcome.texts else []
  return out, {n for n, flag in enumerate(flags) if flag}


def parse(row: list[int], count: int):
  """Token ids -> (rules, input, answer); checks the layout."""
  end = row.index(1)  # EOS
  assert all(t == 0 for t in row[end + 1 :]), 'padding only after the end'
  assert 3 not in row
  body = ''.join({2: '|', 4: '{', 5: '}'}.get(t, chr(91 + t)) for t in row[:end])
  *program, text, out = body.split('|')
  assert len(program) == count
  rules = []
  for piece in program:
    stop = '}' in piece
    lhs, rhs = piece.split('}' if stop else '{')
    rules.append((lhs, rhs, stop))
  return rules, text, out


def shadowed(rules) -> bool:
  """Whether a rule can never apply, as an earlier one always comes first."""
  sides = [lhs for lhs, _, _ in rules]
  return any(a in b for n, b in enumerate(sides) for a in sides[:n])
