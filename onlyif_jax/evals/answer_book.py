"""Answers that a model has given, kept on the disk: what is there is not asked again."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onlyif_jax.config import ConfigError


class Book:
  """JSON lines: what the answers depend on, then a request's hash and its answer.

  An answer is on the disk as soon as it is added, so a killed evaluation goes on
  behind the last one; a torn last line is cut off.
  """

  holds = 'answers'

  def __init__(self, path: str | os.PathLike, header: Mapping[str, Any]):
    """Raises ConfigError for a file of another header, and for a damaged one."""
    self.path = Path(path)
    self.answers: dict[Any, Any] = {}
    own = json.loads(json.dumps(header))
    stored = self._stored()
    if stored is not None and stored != own:
      names = sorted(k for k in {*own, *stored} if stored.get(k) != own.get(k))
      raise ConfigError(
        f'{self.path} holds {self.holds} of another {", ".join(names)}; give another '
        'folder'
      )
    if stored is None:
      self.path.parent.mkdir(parents=True, exist_ok=True)
      self._append(own)

  def _stored(self) -> dict[str, Any] | None:
    """Takes in the file's answers; returns its header, None where there is none."""
    if not self.path.exists():
      return None
    data = self.path.read_bytes()
    whole = data[: data.rfind(b'\n') + 1]
    if whole != data:
      self.path.write_bytes(whole)
    header = None
    for n, text in enumerate(whole.splitlines(), start=1):
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
    """One more answer, at once on the disk."""
    self.answers[key] = answer
    self._append([key, answer])

  def _append(self, line: Any) -> None:
    with open(self.path, 'a', encoding='utf-8') as file:
      file.write(json.dumps(line) + '\n')


Key = tuple[str, ...]
# The field of a verdict that later steps read, by the first part of its key.
_FIELDS: Mapping[str, tuple[str, type]] = {
  'expected': ('answers', list),
  'base': ('status', str),
  'plus': ('status', str),
  'equal': ('right', bool),
  'printed': ('output', str),
}


class Verdicts(Book):
  """A folder's verdicts and expected outputs, kept as a book keeps answers.

  Each line is an object whose `key` says what was judged; `lines` has them by it.
  """

  holds = 'verdicts'

  def __init__(self, folder: str | os.PathLike, header: Mapping[str, Any]):
    super().__init__(Path(folder) / 'verdicts.jsonl', header)

  @property
  def lines(self) -> dict[Key, dict[str, Any]]:
    """The lines, by key."""
    return self.answers

  def judge(self, key: Key, **fields) -> None:
    """One more line under a key."""
    self.answers[key] = {'key': list(key), **fields}
    self._append(self.answers[key])

  def _entry(self, line: Any) -> tuple[Key, dict[str, Any]]:
    key = tuple(map(str, line['key']))
    name, kind = _FIELDS[key[0]]
    if not isinstance(line[name], kind):
      raise TypeError
    return key, line


class Memory(dict):
  """A book that is not kept."""

  def add(self, key: str, answer: Any) -> None:
    """One more answer."""
    self[key] = answer


def request_hash(*parts: Any) -> str:
  """The name of a request: everything that its answer depends on, but for the model."""
  return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
