"""A row of an instruction data set, independent of its file's format."""

import dataclasses
from collections.abc import Iterable

ROLES = ('system', 'user', 'assistant')


class RowError(ValueError):
  """A row that cannot be trained on; the message says why, not where."""


@dataclasses.dataclass(frozen=True)
class Turn:
  """One message. text: all of it; context: its end, if the data set has that apart.

  Alpaca's `input` is such a context: text is '<instruction>\\n\\n<input>', so that
  readers of text see everything and the Alpaca template can separate the two again.
  """

  role: str  # one of ROLES
  text: str
  context: str = ''

  @property
  def instruction(self) -> str:
    """The text without its context."""
    return self.text.removesuffix(f'\n\n{self.context}') if self.context else self.text


@dataclasses.dataclass(frozen=True)
class Row:
  """A conversation: an optional system turn, then user and assistant alternating.

  source: the name of the data set; index: the row's position there, from 0. Every
  assistant turn is a response to learn; the last turn is one.
  """

  source: str
  index: int
  turns: tuple[Turn, ...]


def conversation(turns: Iterable[Turn]) -> tuple[Turn, ...]:
  """The turns of a row in training form; raises RowError if they have none.

  Empty system turns and turns after the last response are left out, since nothing can
  be learned from them.
  """
  kept = [t for t in turns if t.role != 'system' or t.text.strip()]
  while kept and kept[-1].role != 'assistant':
    kept.pop()
  if not kept:
    raise RowError('no response')
  for n, turn in enumerate(kept):
    if turn.role == 'assistant' and not turn.text.strip():
      raise RowError(f'no response (turn {n + 1} is empty)')
    try:
      turn.text.encode()
    except UnicodeEncodeError as e:  # JSON can write half of a character, as \ud83d
      broken = turn.text[e.start]
      raise RowError(f'turn {n + 1} has {broken!r}, half of a character') from None
  roles = [t.role for t in kept]
  if roles[0] == 'system':
    roles = roles[1:]
  for n, role in enumerate(roles):
    expected = ('user', 'assistant')[n % 2]
    if role != expected:
      raise RowError(
        f'a turn of the {role} in place of the {expected} (number {n + 1})'
      )
  return tuple(kept)
