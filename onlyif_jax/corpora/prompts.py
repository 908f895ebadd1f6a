"""Writes rows for a model: templates, and tokens with their loss mask.

A row becomes alternating pieces of text, prompts and responses. Each piece is tokenised
alone and the tokens are joined, with the end-of-text token after each response and the
tokenizer's begin token, if it has one, before everything. So no token spans a boundary,
the tokens do not depend on the mask, and a prompt's tokens are those that the model is
asked with later (`question`). Text of a row that spells a special token stays text;
only in the prompts of templates that are made of such tokens (mistral with its [INST],
chat) does it become the token, as elsewhere.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

from onlyif_jax.config import ConfigError
from onlyif_jax.corpora.rows import Row, Turn
from onlyif_jax.corpora.tokenizer import Tokenizer


class Piece(NamedTuple):
  """A part of a row's text: a prompt, or a response that the model learns."""

  text: str
  is_response: bool


@dataclasses.dataclass(frozen=True)
class Template:
  """The texts around a row's turns, with the fields {instruction},
  {context}, {text} (both of these), {system} and {response}.

  preamble: before the first turn; preamble_context: if that has a context; `system`
  replaces both if the row has a system turn. turn, turn_context: a user turn. between:
  before every further one. response: an assistant turn.
  """

  description: str
  preamble: str
  turn: str
  system: str = '{system}\n\n'
  preamble_context: str | None = None  # None: as without a context
  turn_context: str | None = None
  between: str = ''
  response: str = '{response}'
  markers: bool = False  # whether special tokens are spelt in these texts


_BELOW = 'Below is an instruction that describes a task'
_WRITE = 'Write a response that appropriately completes the request.\n\n'

TEMPLATES: dict[str, Template] = {
  'alpaca': Template(
    'Stanford Alpaca: ### Instruction, ### Input, ### Response',
    preamble=f'{_BELOW}. {_WRITE}',
    preamble_context=(
      f'{_BELOW}, paired with an input that provides further context. {_WRITE}'
    ),
    turn='### Instruction:\n{instruction}\n\n### Response:',
    turn_context=(
      '### Instruction:\n{instruction}\n\n### Input:\n{context}\n\n### Response:'
    ),
    between='\n\n',
  ),
  'magicoder': Template(
    'Magicoder: @@ Instruction, @@ Response',
    preamble=(
      'You are an exceptionally intelligent coding assistant that consistently '
      'delivers accurate and reliable responses to user instructions.\n\n'
    ),
    turn='@@ Instruction\n{text}\n\n@@ Response\n',
    between='\n\n',
  ),
  # Mistral's v3 tokenizer, that of Mistral-7B-v0.3; a system text goes before the
  # first instruction, since a later place would change the tokens of earlier turns.
  'mistral': Template(
    'Mistral: [INST] ... [/INST]',
    preamble='[INST] ',
    system='[INST] {system}\n\n',
    turn='{text}[/INST]',
    between='[INST] ',
    response=' {response}',
    markers=True,
  ),
  'plain': Template(
    'Nothing but the texts', preamble='', turn='{text}', between='\n\n'
  ),
}
CHAT = 'chat'  # the tokenizer's own template
NAMES = (*TEMPLATES, CHAT)


def check_template(name: str) -> None:
  """Raises ConfigError for a name that is not one of NAMES."""
  if name not in NAMES:
    raise ConfigError(f'template={name!r} is not one of {", ".join(NAMES)}')


def pieces(name: str, turns: Sequence[Turn]) -> list[Piece]:
  """The texts of turns in a template of TEMPLATES, prompts and responses alternating.

  The turns are those of a row, or end earlier with a user turn.
  """
  template, turns = TEMPLATES[name], list(turns)
  system = None
  if turns[0].role == 'system':
    system = template.system.format_map({'system': turns.pop(0).text})
  out: list[Piece] = []
  for n, turn in enumerate(turns):
    if turn.role == 'assistant':
      out.append(Piece(template.response.format_map({'response': turn.text}), True))
      continue
    has_context = turn.context != ''
    if n > 0:
      lead = template.between
    elif system is not None:
      lead = system
    elif has_context and template.preamble_context is not None:
      lead = template.preamble_context
    else:
      lead = template.preamble
    form = template.turn
    if has_context and template.turn_context is not None:
      form = template.turn_context
    fields = {
      'instruction': turn.instruction,
      'context': turn.context,
      'text': turn.text,
    }
    out.append(Piece(lead + form.format_map(fields), False))
  return out


def tokens(name: str, row: Row, tokenizer: Tokenizer) -> tuple[list[int], list[bool]]:
  """(ids, mask) of a row; the mask is true on responses and their end tokens."""
  if name == CHAT:
    return tokenizer.chat(row.turns)
  return _tokens(name, row.turns, tokenizer)


def question(name: str, turns: Sequence[Turn], tokenizer: Tokenizer) -> list[int]:
  """The ids that ask for a response to turns that end with a user turn.

  A row's `tokens` begin with those of `question(name, row.turns[:-1], tokenizer)`.
  """
  if name == CHAT:
    return tokenizer.ask(turns)
  return _tokens(name, turns, tokenizer)[0]


def _tokens(name, turns, tokenizer) -> tuple[list[int], list[bool]]:
  markers = TEMPLATES[name].markers
  ids = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
  mask = [False] * len(ids)
  for n, piece in enumerate(pieces(name, turns)):
    # A response never spells special tokens: only the template's texts may.
    special = markers and not piece.is_response
    part = tokenizer.encode(piece.text, continues=n > 0, markers=special)
    part += [tokenizer.eos_id] * piece.is_response
    ids += part
    mask += [piece.is_response] * len(part)
  return ids, mask
