"""The published formats of instruction data sets: columns, and how they become turns.

A file's format is recognised by its columns; `parse` turns one raw row into turns.
Other columns (ids, languages, seeds, ...) are ignored.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from onlyif_jax.corpora.rows import RowError, Turn

_ROLES = {
  'system': 'system',
  'user': 'user',
  'human': 'user',
  'assistant': 'assistant',
  'gpt': 'assistant',
  'chatgpt': 'assistant',
  'bing': 'assistant',
  'bard': 'assistant',
}


@dataclasses.dataclass(frozen=True)
class Format:
  """One published row format.

  columns: those that every row has. parse: row -> turns. strings: whether the items of
  its list column are strings (LIMA) rather than messages; None without such a column.
  """

  description: str
  columns: tuple[str, ...]
  parse: Callable[[Mapping[str, Any]], Iterable[Turn]]
  strings: bool | None = None


def _text(row: Mapping[str, Any], column: str) -> str:
  """A cell as text: missing and null cells are empty."""
  value = row.get(column)
  if value is None:
    return ''
  if not isinstance(value, str):
    raise RowError(f'{column} is not text but {type(value).__name__}')
  return value


def _pair(prompt: str, response: str, system: str = ''):
  def parse(row):
    turns = [Turn('user', _text(row, prompt)), Turn('assistant', _text(row, response))]
    return [Turn('system', _text(row, system)), *turns] if system else turns

  return parse


def _with_context(column: str, response: str):
  def parse(row):
    instruction, context = _text(row, 'instruction'), _text(row, column)
    text = f'{instruction}\n\n{context}' if context else instruction
    return [Turn('user', text, context), Turn('assistant', _text(row, response))]

  return parse


def _cot(row):
  # As in the collection's own training code.
  rationale, answer = _text(row, 'rationale').strip(), _text(row, 'target')
  response = f'{rationale}\n[ANSWER] {answer}' if rationale and answer else ''
  return [Turn('user', _text(row, 'source')), Turn('assistant', response)]


def _messages(column: str):
  def parse(row):
    turns = []
    for item in _items(row, column):
      role = item.get('from', item.get('role'))
      if not isinstance(role, str) or role not in _ROLES:
        raise RowError(f'{column} has the unknown role {role!r}')
      text = _text(item, 'value' if 'from' in item else 'content')
      turns.append(Turn(_ROLES[role], text))
    return turns

  return parse


def _items(row, column) -> list[dict]:
  items = row.get(column)
  if not isinstance(items, list) or not all(isinstance(i, dict) for i in items):
    raise RowError(f'{column} is not a list of messages')
  return items


def _lima(row):
  items = row.get('conversations')
  if not isinstance(items, list) or not all(isinstance(i, str) for i in items):
    raise RowError('conversations is not a list of texts')
  return [Turn(('user', 'assistant')[n % 2], text) for n, text in enumerate(items)]


def _stackoverflow(row):
  title, body = _text(row, 'title').strip(), _text(row, 'question')
  text = f'{title}\n\n{body}' if title and body else title or body
  return [Turn('user', text), Turn('assistant', _text(row, 'answer'))]


def _stack_exchange(row):
  """The accepted answer, else the best-rated one (the first of equals)."""
  answers = _items(row, 'answers')

  def rank(answer) -> tuple[bool, float]:
    score = answer.get('pm_score') or 0
    if not isinstance(score, int | float):
      raise RowError(f'pm_score is not a number but {type(score).__name__}')
    return bool(answer.get('selected')), score

  best = max(answers, key=rank, default={})
  return [Turn('user', _text(row, 'question')), Turn('assistant', _text(best, 'text'))]


# Of two formats that fit a file, the one with more columns is chosen, then the first.
FORMATS: dict[str, Format] = {
  'alpaca': Format(
    'Alpaca: an instruction, perhaps with an input',
    ('instruction', 'input', 'output'),
    _with_context('input', 'output'),
  ),
  'dolly': Format(
    'Dolly: an instruction, perhaps with a context',
    ('instruction', 'context', 'response'),
    _with_context('context', 'response'),
  ),
  'oss_instruct': Format(
    'OSS-Instruct (Magicoder): a problem and its solution',
    ('problem', 'solution'),
    _pair('problem', 'solution'),
  ),
  'evol_codealpaca': Format(
    'Evol-Instruct for code (evol-codealpaca-v1)',
    ('instruction', 'output'),
    _pair('instruction', 'output'),
  ),
  'magicoder_evol': Format(
    'Evol-Instruct for code (Magicoder-Evol-Instruct-110K)',
    ('instruction', 'response'),
    _pair('instruction', 'response'),
  ),
  'evol_instruct': Format(
    'Evol-Instruct (WizardLM_evol_instruct_V2): ShareGPT turns with an idx',
    ('idx', 'conversations'),
    _messages('conversations'),
    strings=False,
  ),
  'cot_collection': Format(
    'CoT-Collection: the response is the rationale, then [ANSWER] and the target',
    ('source', 'target', 'rationale'),
    _cot,
  ),
  'ultrainteract': Format(
    'UltraInteract SFT: earlier actions stand inside the instruction, as published',
    ('task', 'dataset', 'instruction', 'response', 'id', 'parent_id'),
    _pair('instruction', 'response'),
  ),
  'openorca': Format(
    'OpenOrca: a system prompt, a question and a response',
    ('system_prompt', 'question', 'response'),
    _pair('question', 'response', 'system_prompt'),
  ),
  'mathinstruct': Format(
    'MathInstruct: an instruction and an output, with their source',
    ('source', 'output', 'instruction'),
    _pair('instruction', 'output'),
  ),
  'lima': Format(
    'LIMA: texts of user and assistant by turns',
    ('conversations', 'source'),
    _lima,
    strings=True,
  ),
  'stackoverflow': Format(
    'Stack Overflow: a title, a question and one answer',
    ('title', 'question', 'answer'),
    _stackoverflow,
  ),
  'stack_exchange': Format(
    'Stack Exchange preferences: the accepted or else the best-rated answer',
    ('question', 'answers'),
    _stack_exchange,
  ),
  'orca_math': Format(
    'Orca-Math: a question and its answer',
    ('question', 'answer'),
    _pair('question', 'answer'),
  ),
  'sharegpt': Format(
    'ShareGPT: conversations of {from, value}',
    ('conversations',),
    _messages('conversations'),
    strings=False,
  ),
  'chat': Format(
    'Chat: messages of {role, content}',
    ('messages',),
    _messages('messages'),
  ),
  'plain': Format(
    'Plain rows: a prompt and a response',
    ('prompt', 'response'),
    _pair('prompt', 'response'),
  ),
}


def matching(row: Mapping[str, Any]) -> str | None:
  """The name of the format that a raw row fits best, or None."""
  fitting = [name for name, form in FORMATS.items() if _fits(form, row)]
  return max(fitting, key=lambda name: len(FORMATS[name].columns), default=None)


def _fits(form: Format, row: Mapping[str, Any]) -> bool:
  if not set(form.columns) <= set(row):
    return False
  if form.strings is None:
    return True
  items = row['conversations']
  first = items[0] if isinstance(items, list) and items else None
  return isinstance(first, str) == form.strings
