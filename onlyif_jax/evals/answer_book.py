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

  def __init__(self, path: str | os.PathLike, header: Mapping[str, Any]):
    """Raises ConfigError for a file of another header."""
    self.path = Path(path)
    self.answers: dict[str, Any] = {}
    own = json.loads(json.dumps(header))
    lines = self._stored()
    if lines and lines[0] != own:
      names = sorted(k for k in {*own, *lines[0]} if lines[0].get(k) != own.get(k))
      raise ConfigError(
        f'{self.path} holds answers of another {", ".join(names)}; give another folder'
      )
    for key, answer in lines[1:]:
      self.answers[key] = answer
    if not lines:
      self.path.parent.mkdir(parents=True, exist_ok=True)
      self._append(own)

  def _stored(self) -> list[Any]:
    if not self.path.exists():
      return []
    data = self.path.read_bytes()
    whole = data[: data.rfind(b'\n') + 1]
    if whole != data:
      self.path.write_bytes(whole)
    try:
      lines = [json.loads(line) for line in whole.splitlines()]
      pairs = all(isinstance(x, list) and len(x) == 2 for x in lines[1:])
    except ValueError:
      lines, pairs = [None], False
    if not pairs or not all(isinstance(x, dict) for x in lines[:1]):
      raise ConfigError(f'{self.path} is no file of answers; give another folder')
    return lines

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


class Memory(dict):
  """A book that is not kept."""

  def add(self, key: str, answer: Any) -> None:
    """One more answer."""
    self[key] = answer


def request_hash(*parts: Any) -> str:
  """The name of a request: everything that its answer depends on, but for the model."""
  return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
