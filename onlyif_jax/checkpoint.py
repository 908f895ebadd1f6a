"""Checkpoints of one stack under <directory>/<step>; the only file that touches Orbax.

Orbax writes a step as `saving.<step>`. That directory then gets `digest.json`, the
sha256 of every file (Orbax has no checksum of array data, so a flipped bit would load
silently), and is renamed to `<step>` last. A process killed at any moment therefore
leaves whole steps, and leftovers that no reader looks at; a step without a matching
digest was damaged by something else.

Every process of a multi-process run calls the same methods and writes its part of the
arrays. Process 0 alone writes digests, renames, removes, and decides which step is
restored.
"""

import concurrent.futures
import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from absl import logging
from orbax.checkpoint import v1 as ocp

from onlyif_jax import distributed
from onlyif_jax.config import ConfigError

DIGEST, NOTES = 'digest.json', 'notes.json'
_STEP = re.compile('0|[1-9][0-9]*')
_LEFTOVER = re.compile(r'(saving|removing)\..+|.+\.orbax-checkpoint-tmp.*')


class Checkpointer:
  """Saves and restores the state of one stack under <directory>/<step>.

  A context manager. One save is in flight at a time. `damaged` lists (step, reason) of
  the steps that the last `restore` passed over, until the next save.
  """

  def __init__(self, directory: str | os.PathLike, *, keep: int = 2):
    """directory: need not exist; keep: number of steps, >= 2 as one may be damaged."""
    self.directory = Path(directory).absolute()
    self.keep = keep
    self.damaged: list[tuple[int, str]] = []
    self._thread = concurrent.futures.ThreadPoolExecutor(1, 'checkpoint')
    self._pending: concurrent.futures.Future[None] | None = None

  def save(
    self, step: int, state, *, wait: bool = False, notes: dict | None = None
  ) -> None:
    """Starts saving a pytree of jax arrays, which may be donated once this returns.

    Waits for the previous save. Replaces all steps on disk from `step` on. notes: JSON
    for the method `notes`. Raises ConfigError if this or the previous save failed;
    earlier steps stay usable.
    """
    distributed.together(self._wait)
    response = self._start(step, state)
    self._pending = self._thread.submit(self._finish, step, response, notes)
    if wait:
      distributed.together(self._wait)

  def wait(self) -> None:
    """Waits until the last save is whole on disk; raises ConfigError if it failed."""
    distributed.together(self._wait)

  def restore(self, abstract) -> tuple[int, Any] | None:
    """(step, state) of the newest undamaged step, or None where there is no step.

    abstract: the state as ShapeDtypeStructs; leaves without a sharding go to the first
    device. Raises ConfigError if all steps are damaged or the layout differs.
    """
    self._wait()
    step, self.damaged = distributed.agree(self._newest)
    return None if step is None else (step, self._load(step, abstract))

  def _newest(self) -> tuple[int | None, list[tuple[int, str]]]:
    """The newest undamaged step, and the damaged ones after it."""
    damaged = []
    for step in reversed(self.steps()):
      path = self.directory / str(step)
      reason = verify(path)
      if reason is None:
        return step, damaged
      damaged.append((step, reason))
      logging.warning('checkpoint %s is damaged (%s): passed over', path, reason)
    if not damaged:
      return None, []
    reasons = ', '.join(f'step {step}: {reason}' for step, reason in damaged)
    raise ConfigError(
      f'every checkpoint in {self.directory} is damaged ({reasons}); '
      'delete that directory to start this stack anew'
    )

  def restore_step(self, step: int, abstract) -> Any:
    """The state at a step; raises ConfigError if it is absent or damaged."""
    self._wait()
    steps, path = self.steps(), self.directory / str(step)
    if reason := verify(path) if step in steps else 'absent':
      known = ', '.join(map(str, steps)) or 'none'
      raise ConfigError(f'checkpoint {path}: {reason}; steps there: {known}')
    return self._load(step, abstract)

  def notes(self, step: int) -> dict:
    """The notes that were saved with a step."""
    return json.loads((self.directory / str(step) / NOTES).read_text())

  def steps(self) -> list[int]:
    """Committed steps, ascending, damaged ones included."""
    with _one_line(self.directory, 'read'):
      if not self.directory.exists():
        return []
      names = [entry.name for entry in self.directory.iterdir() if entry.is_dir()]
      return sorted(int(name) for name in names if _STEP.fullmatch(name))

  def close(self) -> None:
    """Waits until the last save is whole on disk; raises ConfigError if it failed."""
    self._thread.shutdown()
    self._wait()

  def __enter__(self) -> 'Checkpointer':
    return self

  def __exit__(self, kind, error, trace) -> None:
    try:
      self.close()
    except ConfigError as e:
      if error is None:
        raise
      logging.error('%s', e)  # the exception in flight propagates

  def _wait(self) -> None:
    pending, self._pending = self._pending, None
    if pending is not None:
      pending.result()

  def _start(self, step, state):
    """Removes damaged steps and leftovers, then hands the arrays to Orbax."""
    with self._writing(step):
      self.directory.mkdir(parents=True, exist_ok=True)
      # Other processes must not write before process 0 has removed everything.
      distributed.agree(lambda: self._clear([step for step, _ in self.damaged]))
      self.damaged = []
      context = ocp.Context()
      # Asynchronously, a directory that cannot be made would go unnoticed for minutes.
      context.async_options.create_directories_asynchronously = False
      with context:
        path = str(self.directory / f'saving.{step}')
        return ocp.save_async(path, state, custom_metadata=_layout(state))

  def _finish(self, step, response, notes) -> None:
    """The background part of a save: digest, rename, removal of old steps."""
    with self._writing(step):
      response.result()
      if jax.process_index() != 0:
        return
      saving = self.directory / f'saving.{step}'
      if notes is not None:
        (saving / NOTES).write_text(json.dumps(notes))
      paths = [path for path in saving.rglob('*') if path.is_file()]
      files = {p.relative_to(saving).as_posix(): _fingerprint(p) for p in paths}
      (saving / DIGEST).write_text(json.dumps({'step': step, 'files': files}))
      for other in self.steps():
        if other >= step:
          self._set_aside(other)
      os.rename(saving, self.directory / str(step))
      self._clear(self.steps()[: -self.keep])

  def _set_aside(self, step) -> None:
    """Renames a step for removal, so a kill while it is removed leaves no part of it."""
    aside = self.directory / f'removing.{step}'
    shutil.rmtree(aside, ignore_errors=True)
    os.rename(self.directory / str(step), aside)

  def _clear(self, steps) -> None:
    """Removes steps and all leftovers; process 0 only."""
    if jax.process_index() != 0:
      return
    for step in steps:
      self._set_aside(step)
    for entry in self.directory.iterdir():
      if _LEFTOVER.fullmatch(entry.name):
        shutil.rmtree(entry)

  def _load(self, step, abstract):
    path = self.directory / str(step)
    saved: Any = ocp.metadata(str(path)).custom_metadata or {}
    expected = _layout(abstract)
    for name in sorted(saved.keys() | expected.keys()):
      if saved.get(name) != expected.get(name):
        raise ConfigError(
          f'checkpoint {path} does not fit this run: state{name} is '
          f'{saved.get(name, "absent")} there and {expected.get(name, "absent")} here; '
          'use the config that it was made with, or another workdir'
        )
    # Without a sharding Orbax looks for the devices that the step was saved on.
    first = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    placed = jax.tree.map(
      lambda x: x if x.sharding else x.update(sharding=first), abstract
    )
    return ocp.load(str(path), placed)

  @contextlib.contextmanager
  def _writing(self, step) -> Iterator[None]:
    try:
      with _one_line(self.directory / str(step), 'written'):
        yield
    except ConfigError:
      with contextlib.suppress(OSError):
        self._clear([])  # a half-written step would keep a full disk full
      raise


@contextlib.contextmanager
def _one_line(path, done) -> Iterator[None]:
  """Turns the errors of a full disk or an unusable path into a ConfigError."""
  try:
    yield
  except (OSError, ValueError) as e:
    # TensorStore raises ValueError(".. [os_error_code='28']") for a full disk.
    code = re.search(r"os_error_code='(\d+)'", str(e))
    if code is None and not isinstance(e, OSError):
      raise
    reason = os.strerror(int(code[1])) if code else getattr(e, 'strerror', None) or e
    raise ConfigError(
      f'checkpoint {path} could not be {done}: {reason}; make the directory usable, '
      'with room on its disk, or choose another workdir; what it holds is untouched'
    ) from e


def verify(directory: str | os.PathLike) -> str | None:
  """Why the step in `directory` is damaged; None if every file is as saved."""
  directory = Path(directory)
  try:
    digest = json.loads((directory / DIGEST).read_text())
    step, files = int(digest['step']), dict(digest['files'])
  except FileNotFoundError:
    return 'no digest'
  except (OSError, ValueError, KeyError, TypeError):
    return f'{DIGEST} unreadable'
  if str(step) != directory.name:
    return f'it is step {step}, renamed'
  for name, saved in files.items():
    try:
      current = _fingerprint(directory / name)
    except OSError:
      return f'{name} missing or unreadable'
    if current[0] != saved[0]:
      return f'{name} has {current[0]} bytes of {saved[0]}'
    if current != saved:
      return f'{name} changed'
  return None


def _fingerprint(path: Path) -> list:
  """[bytes, sha256] of a file."""
  with path.open('rb') as file:
    return [path.stat().st_size, hashlib.file_digest(file, 'sha256').hexdigest()]


def _layout(state) -> dict[str, Any]:
  """'path of a leaf' -> 'dtype[shape]': compared on load, where Orbax would cast."""
  leaves = jax.tree_util.tree_leaves_with_path(state)
  return {jax.tree_util.keystr(p): f'{x.dtype}{list(x.shape)}' for p, x in leaves}


# Orbax's threads log the traceback of every error, which they also raise.
logging.get_absl_logger().addFilter(
  lambda r: not (r.exc_info and f'{os.sep}orbax{os.sep}' in r.pathname)
)
