"""From a generation to a program: where it is cut, and which part of it is code.

Stop lists and the steps that extract a program are data (stops.yaml), which a
protocol's hash covers.
"""

import ast
import functools
import importlib.resources
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import yaml

from onlyif_jax.config import ConfigError

_LONGEST = 400  # lines of a text that are searched for the longest code


class Target(NamedTuple):
  """The prompt that a program continues, and the name it must define."""

  prompt: str = ''
  entry_point: str = ''


@functools.cache
def read() -> dict[str, Any]:
  """The content of stops.yaml."""
  files = importlib.resources.files('onlyif_jax.evals')
  return yaml.safe_load((files / 'stops.yaml').read_text(encoding='utf-8'))


def stops(name: str, entry_point: str = '') -> tuple[str, ...]:
  """A stop list by name; raises ConfigError for an unknown one."""
  texts = _entry('stops', name)
  return tuple(text.replace('{entry_point}', entry_point) for text in texts)


def steps(name: str) -> tuple[str, ...]:
  """The named list of steps that extract a program."""
  return tuple(_entry('extracts', name))


def _entry(kind: str, name: str) -> list[str]:
  known = read()[kind]
  if name not in known:
    raise ConfigError(f'{kind}: {name!r} is not in stops.yaml; it has {sorted(known)}')
  return known[name]


def cut(text: str, stop_texts: Sequence[str]) -> str:
  """The text before the first occurrence of any stop.

  >>> cut('  return 1\\nprint(2)\\n# end', ['\\n#', '\\nprint('])
  '  return 1'
  """
  positions = [
    position
    for position in (text.find(stop) for stop in stop_texts if stop)
    if position >= 0
  ]
  return text[: min(positions)] if positions else text


def extract(text: str, name: str, target: Target | None = None) -> str:
  """The program in an answer, by the named list of steps."""
  target = target or Target()
  for step in steps(name):
    text = STEPS[step](text, target)
  return text


def _closed_fence(text: str, target: Target) -> str:
  """The first closed block, preferably of Python; else the text before a fence.

  As in the Eurus suite, whose answers begin inside a block.
  """
  for pattern in (r'```python(.*?)```', r'```(.*?)```'):
    if match := re.search(pattern, text, re.S):
      return match.group(1)
  return text.split('```')[0]


def _before_fence(text: str, target: Target) -> str:
  """The text before a closing fence; for answers that begin inside a block."""
  return text.split('```')[0]


def _with_prompt(text: str, target: Target) -> str:
  """The prompt and its continuation, unless the answer repeats the prompt.

  An answer that begins with the prompt stays as it is. One that defines the entry point
  itself, unindented, only gets the prompt's imports and helpers in front.
  """
  if text.lstrip('\n').startswith(target.prompt.strip('\n')):
    return text
  definition = re.compile(rf'^(?:async )?def {re.escape(target.entry_point)}\b', re.M)
  if target.entry_point and definition.search(text):
    match = definition.search(target.prompt)
    preamble = target.prompt[: match.start()] if match else ''
    return preamble + text.lstrip('\n')
  return target.prompt + text


def _with_prompt_always(text: str, target: Target) -> str:
  """The prompt in front in any case; a repeated function replaces the prompt's."""
  return target.prompt + text


def _after_def(text: str, target: Target) -> str:
  """`def ` in front: the prefill ended in `def`."""
  return 'def ' + text


def _after_def_once(text: str, target: Target) -> str:
  """`def` in front unless the answer has one."""
  return text if 'def' in text else 'def' + text


def _indented_only(text: str, target: Target) -> str:
  """Drops unindented lines that begin no function: text, calls, imports."""
  lines = text.split('\n')
  return '\n'.join(
    line for line in lines if line[:1].isspace() or line.startswith('def') or not line
  )


def _longest_code(text: str, target: Target) -> str:
  """The run of lines that parses as Python and has the most non-empty lines.

  The first of several, as in evalplus.sanitize.code_extract; if none parses, the first
  line.
  """
  lines = text.split('\n')[:_LONGEST]
  filled_before = [0]
  for line in lines:
    filled_before.append(filled_before[-1] + bool(line.strip()))
  spans = [(i, j) for i in range(len(lines)) for j in range(i + 2, len(lines) + 1)]
  # By size, then position: the first that parses is the result.
  spans.sort(key=lambda s: (filled_before[s[0]] - filled_before[s[1]], s))
  for i, j in spans:
    if filled_before[i] == filled_before[j]:
      break
    if _parse('\n'.join(lines[i:j])) is not None:
      return '\n'.join(lines[i:j])
  return lines[0]


def _definitions(text: str, target: Target) -> str:
  """Imports and the definitions that the entry point needs, as in evalplus.sanitize.

  Like there, decorated definitions, functions without `return` and redefinitions are
  left out. The text itself if nothing remains.
  """
  tree = _parse(text)
  if tree is None:
    return text
  imports, definitions = [], {}
  for node in tree.body:
    name = _defined_name(node)
    if isinstance(node, ast.Import | ast.ImportFrom):
      imports.append(node)
    elif name and name not in definitions:
      definitions[name] = node
  if target.entry_point:
    needed = _reachable(definitions, target.entry_point)
    definitions = {name: node for name, node in definitions.items() if name in needed}
  nodes = [*imports, *definitions.values()]
  parts = [ast.get_source_segment(text, node) or '' for node in nodes]
  return '\n'.join(parts).strip() or text


def _defined_name(node: ast.stmt) -> str | None:
  if isinstance(node, ast.ClassDef):
    return None if node.decorator_list else node.name
  if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
    returns = any(isinstance(n, ast.Return) for n in ast.walk(node))
    return node.name if returns and not node.decorator_list else None
  assigned = None
  if isinstance(node, ast.Assign):
    assigned = node.targets[0]
  elif isinstance(node, ast.AnnAssign):
    assigned = node.target
  return assigned.id if isinstance(assigned, ast.Name) else None


def _reachable(definitions: Mapping[str, ast.stmt], start: str) -> set[str]:
  reachable, pending = {start}, [start]
  while pending:
    node = definitions.get(pending.pop())
    used = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)} if node else set()
    pending += used - reachable
    reachable |= used
  return reachable


def _parse(text: str) -> ast.Module | None:
  try:
    return ast.parse(text)
  except (SyntaxError, ValueError, RecursionError, MemoryError):
    return None


STEPS: Mapping[str, Callable[[str, Target], str]] = {
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
