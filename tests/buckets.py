"""A bucket in memory, a mirror that can be watched, steps as a run leaves them."""

import json
import os
import shutil
import tempfile
from pathlib import Path

import fsspec
import pytest
from runs import Crash

from onlyif_jax import bucket, checkpoint
from onlyif_jax.bucket import Mirror


@pytest.fixture(autouse=True)
def own_directories(tmp_path, monkeypatch):
  """Local copies are made in tmp_path/copies, and the memory is a new bucket."""
  (tmp_path / 'copies').mkdir()
  monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path / 'copies'))
  monkeypatch.setattr(bucket, 'PAUSES', (0.0,))
  fsspec.filesystem('memory').store.clear()


def copies(tmp_path) -> list[Path]:
  return sorted((tmp_path / 'copies').iterdir())


def names(path) -> set[str]:
  path = Path(path)
  return {p.relative_to(path).as_posix() for p in path.rglob('*') if p.is_file()}


def put(path: Path, text: str = 'x') -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(text)


def save(stack: Path, step: int, by: str = 'a', keep: int = 2) -> None:
  """A step as checkpoint.py leaves it; Orbax gives its files new names each time."""
  saving = stack / f'saving.{step}'
  put(saving / f'd/{by}', f'{stack.name} {step}')
  put(saving / 'manifest', by)
  files = {
    p.relative_to(saving).as_posix(): checkpoint._fingerprint(p)
    for p in saving.rglob('*')
    if p.is_file()
  }
  put(saving / 'digest.json', json.dumps({'step': step, 'files': files}))
  os.rename(saving, stack / str(step))
  steps = sorted(int(p.name) for p in stack.iterdir() if p.name.isdigit())
  for old in steps[:-keep]:
    shutil.rmtree(stack / str(old))


class Watched:
  """A file system that lists what is done to it, and may fail at the n-th."""

  def __init__(self, fs, fail_at=None, error=Crash):
    self.fs, self.fail_at, self.error, self.did = fs, fail_at, error, []

  def __getattr__(self, name):
    real = getattr(self.fs, name)
    if name not in ('pipe_file', 'put_file', 'rm_file'):
      return real

    def call(*args):
      path = args[1] if name == 'put_file' else args[0]
      if len(self.did) == self.fail_at:
        raise self.error('no network')
      self.did.append((name, path.removeprefix('/b/run/')))
      return real(*args)

    return call


def mirror(path, **watch) -> Mirror:
  path.mkdir(exist_ok=True)
  made = Mirror('memory://b/run', path)
  made.fs = Watched(made.fs, **watch)
  return made
