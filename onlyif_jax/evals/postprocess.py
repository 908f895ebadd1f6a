"""From a generation to a program: where it is cut, and what of it is code.

Stop lists and the steps of each way to extract a program are data (stops.yaml), so that
two results under one protocol went the same way.
"""

import ast
import functools
import importlib.resources
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import yaml

from onlyif_jax.config import ConfigError

_LONGEST = 400  # lines that are tried for the longest code; what is longer is cut


class Asked(NamedTuple):
  """What a program is to continue or to define."""

  prompt: str = ''
  entry_point: str = ''


@functools.cache
def read() -> dict[str, Any]:
  """The content of stops.yaml."""
  files = importlib.resources.files('onlyif_jax.evals')
  return yaml.safe_load((files / 'stops.yaml').read_text(encoding='utf-8'))


def stops(name: str, entry_point: str = '') -> tuple[str, ...]:
  """A stop list by name; raises ConfigError for one that is not there."""
  texts = _named('stops', name)
  return tuple(text.replace('{entry_point}', entry_point) for text in texts)


def steps(name: str) -> tuple[str, ...]:
  """The steps of a way to extract a program."""
  return tuple(_named('extracts', name))


def _named(kind: str, name: str) -> list[str]:
  known = read()[kind]
  if name not in known:
    raise ConfigError(f'{kind}: {name!r} is not in stops.yaml; it has {sorted(known)}')
  return known[name]


def cut(text: str, at: Sequence[str]) -> str:
  """The text before the first occurrence of any stop.

  >>> cut('  return 1\\nprint(2)\\n# end', ['\\n#', '\\nprint('])
  '  return 1'
  """
  found = [n for n in (text.find(stop) for stop in at if stop) if n >= 0]
  return text[: min(found)] if found else text


def extract(text: str, name: str, asked: Asked | None = None) -> str:
  """The program in an answer, by the steps of that name."""
  asked = asked or Asked()
  for step in steps(name):
    text = STEPS[step](text, asked)
  return text


def _closed_fence(text: str, asked: Asked) -> str:
  """The first closed block, one of Python before others, else what precedes a fence.

  As the Eurus suite takes programs out of answers that begin inside a block.
  """
  for form in (r'```python(.*?)```', r'```(.*?)```'):
    if found := re.search(form, text, re.S):
      return found.group(1)
  return text.split('```')[0]


def _before_fence(text: str, asked: Asked) -> str:
  """What precedes a closing fence; for answers that begin inside a block."""
  return text.split('```')[0]


def _with_prompt(text: str, asked: Asked) -> str:
  """The prompt and its continuation; an answer that repeats the prompt is whole.

  It is whole if it begins with the prompt or defines the entry point itself, unindented;
  then only the prompt's imports and helpers before that function go in front.
  """
  if text.lstrip('\n').startswith(asked.prompt.strip('\n')):
    return text
  head = re.compile(rf'^(?:async )?def {re.escape(asked.entry_point)}\b', re.M)
  if asked.entry_point and head.search(text):
    own = head.search(asked.prompt)
    before = asked.prompt[: own.start()] if own else ''
    return before + text.lstrip('\n')
  return asked.prompt + text


def _with_prompt_always(text: str, asked: Asked) -> str:
  """The prompt in front, whatever the answer repeats: its function is then replaced."""
  return asked.prompt + text


def _after_def(text: str, asked: Asked) -> str:
  """`def ` in front: the prefill ended in `def`."""
  return 'def ' + text


def _after_def_once(text: str, asked: Asked) -> str:
  """`def` in front unless the answer has one."""
  return text if 'def' in text else 'def' + text


def _indented_only(text: str, asked: Asked) -> str:
  """Without unindented lines that begin no function: text, calls, imports."""
  lines = text.split('\n')
  return '\n'.join(x for x in lines if x[:1].isspace() or x.startswith('def') or not x)


def _longest_code(text: str, asked: Asked) -> str:
  """The run of lines with the most non-empty ones that is Python; '' if none is.

  Of several the first, as evalplus.sanitize.code_extract has it.
  """
  lines = text.split('\n')[:_LONGEST]
  filled = [0]
  for line in lines:
    filled.append(filled[-1] + bool(line.strip()))
  spans = [(i, j) for i in range(len(lines)) for j in range(i + 2, len(lines) + 1)]
  # The largest first, and the first of the largest: the first that parses is it.
  spans.sort(key=lambda s: (filled[s[0]] - filled[s[1]], s))
  for i, j in spans:
    if filled[i] == filled[j]:
      break
    if _parsed('\n'.join(lines[i:j])) is not None:
      return '\n'.join(lines[i:j])
  return lines[0]


def _definitions(text: str, asked: Asked) -> str:
  """Imports and the definitions that the entry point needs, as evalplus.sanitize.

  Decorated definitions, functions without `return` and later ones of a name are left
  out, as there. The text itself if nothing remains.
  """
  tree = _parsed(text)
  if tree is None:
    return text
  imports, named = [], {}
  for node in tree.body:
    name = _defined(node)
    if isinstance(node, ast.Import | ast.ImportFrom):
      imports.append(node)
    elif name and name not in named:
      named[name] = node
  if asked.entry_point:
    needed = _reachable(named, asked.entry_point)
    named = {name: node for name, node in named.items() if name in needed}
  nodes = [*imports, *named.values()]
  parts = [ast.get_source_segment(text, node) or '' for node in nodes]
  return '\n'.join(parts).strip() or text


def _defined(node: ast.stmt) -> str | None:
  if isinstance(node, ast.ClassDef):
    return None if node.decorator_list else node.name
  if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
    returns = any(isinstance(n, ast.Return) for n in ast.walk(node))
    return node.name if returns and not node.decorator_list else None
  target = None
  if isinstance(node, ast.Assign):
    target = node.targets[0]
  elif isinstance(node, ast.AnnAssign):
    target = node.target
  return target.id if isinstance(target, ast.Name) else None


def _reachable(named: Mapping[str, ast.stmt], start: str) -> set[str]:
  found, todo = {start}, [start]
  while todo:
    node = named.get(todo.pop())
    used = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)} if node else set()
    todo += used - found
    found |= used
  return found


def _parsed(text: str) -> ast.Module | None:
  try:
    return ast.parse(text)
  except (SyntaxError, ValueError, RecursionError, MemoryError):
    return None


STEPS: Mapping[str, Callable[[str, Asked], str]] = {
  'closed_fence': _closed_fence,
  'before_fence': _before_fence,
  'with_prompt': _with_prompt,
  'with_prompt_always': _with_prompt_always,
  'after_def': _after_def,
  'after_def_once': _after_def_once,
  'indented_only': _indented_only,
  'longest_code': _longest_code,
  'definitions': _definitions,
}
