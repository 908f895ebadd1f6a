"""A model's answers and their verdicts, kept on disk so that a run can resume."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onlyif_jax.config import ConfigError


class Book:
  """JSON lines: a header that the answers depend on, then (request hash, answer).

  Answers are written at once, so a killed evaluation resumes after the last one; an
  incomplete last line is cut off.
  """

  holds = 'answers'

  def __init__(self, path: str | os.PathLike, header: Mapping[str, Any]):
    """Raises ConfigError for a file with another header, and for a damaged one."""
    self.path = Path(path)
    self.answers: dict[Any, Any] = {}
    header = json.loads(json.dumps(header))  # as it is read back
    stored = self._stored()
    if stored is None:
      self.path.parent.mkdir(parents=True, exist_ok=True)
      self._append(header)
    elif stored != header:
      keys = {*header, *stored}
      differing = sorted(k for k in keys if stored.get(k) != header.get(k))
      raise ConfigError(
        f'{self.path} holds {self.holds} of another {", ".join(differing)}; give another '
        'folder'
      )

  def _stored(self) -> dict[str, Any] | None:
    """Loads the file's answers; returns its header, None where there is no file."""
    if not self.path.exists():
      return None
    data = self.path.read_bytes()
    complete = data[: data.rfind(b'\n') + 1]
    if complete != data:
      self.path.write_bytes(complete)
    header = None
    for n, text in enumerate(complete.splitlines(), start=1):
      try:
        line = json.loads(text)
        if header is None and not isinstance(line, dict):
          raise TypeError
        if header is None:
          header = line
          continue
        key, answer = self._entry(line)
        self.answers[key] = answer
      except (ValueError, LookupError, TypeError, RecursionError):
        raise ConfigError(
          f'{self.path} is no file of {self.holds} (line {n}); give another folder'
        ) from None
    return header

  def _entry(self, line: Any) -> tuple[Any, Any]:
    """Key and answer of a line; raises where it is malformed."""
    if not isinstance(line, list):
      raise TypeError
    key, answer = line
    return str(key), answer

  def __contains__(self, key: str) -> bool:
    return key in self.answers

  def __getitem__(self, key: str) -> Any:
    return self.answers[key]

  def add(self, key: str, answer: Any) -> None:
    """Adds an answer and writes it at once."""
    self.answers[key] = answer
    self._append([key, answer])

  def _append(self, line: Any) -> None:
    with open(self.path, 'a', encoding='utf-8') as file:
      file.write(json.dumps(line) + '\n')


Key = tuple[str, ...]
# First part of a verdict's key -> the field that later steps read, and its type.
_FIELDS: Mapping[str, tuple[str, type]] = {
  'expected': ('answers', list),
  'base': ('status', str),
  'plus': ('status', str),
  'equal': ('right', bool),
  'printed': ('output', str),
}


class Verdicts(Book):
  """A folder's verdicts and expected outputs, kept like answers in a book.

  Each line is an object; its `key` says what was judged.
  """

  holds = 'verdicts'

  def __init__(self, folder: str | os.PathLike, header: Mapping[str, Any]):
    super().__init__(Path(folder) / 'verdicts.jsonl', header)

  @property
  def lines(self) -> dict[Key, dict[str, Any]]:
    """The lines, by key."""
    return self.answers

  def judge(self, key: Key, **fields) -> None:
    """Adds a verdict under its key."""
    self.answers[key] = {'key': list(key), **fields}
    self._append(self.answers[key])

  def _entry(self, line: Any) -> tuple[Key, dict[str, Any]]:
    key = tuple(map(str, line['key']))
    name, kind = _FIELDS[key[0]]
    if not isinstance(line[name], kind):
      raise TypeError
    return key, line


class Memory(dict):
  """A book that is kept in memory only."""

  def add(self, key: str, answer: Any) -> None:
    """Adds an answer."""
    self[key] = answer


def request_hash(*parts: Any) -> str:
  """The key of a request: a hash of all that its answer depends on but the model."""
  return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
