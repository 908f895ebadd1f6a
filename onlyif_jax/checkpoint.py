"""Checkpoints of one stack under <directory>/<step>; the only file that touches Orbax.

Orbax writes a step as `saving.<step>`. That directory then gets `digest.json`, the
sha256 of every file (Orbax has no checksum of array data: a flipped bit would load in
silence), and only then is it renamed to `<step>`. So a process killed at any moment
leaves whole steps and leftovers that no reader looks at, and a step without a matching
digest was damaged by something else. Every process of a multi-process run calls the
same methods and writes its part of the arrays; process 0 alone writes digests, renames,
removes, and decides which step is restored.
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

  One save is in flight at a time. `damaged` lists the (step, reason) that the last
  `restore` passed over, until the next save. A context manager.
  """

  def __init__(self, directory: str | os.PathLike, *, keep: int = 2):
    """directory: need not exist. keep: >= 2 steps, since one may turn out damaged."""
    self.directory = Path(directory).absolute()
    self.keep = keep
    self.damaged: list[tuple[int, str]] = []
    self._thread = concurrent.futures.ThreadPoolExecutor(1, 'checkpoint')
    self._pending: concurrent.futures.Future[None] | None = None

  def save(
    self, step: int, state, *, wait: bool = False, notes: dict | None = None
  ) -> None:
    """Starts saving a pytree of jax arrays; they may be donated once this returns.

    notes: JSON that `notes` gives back. Waits for the save before it. Replaces all
    steps on disk from `step` on. Raises ConfigError if this save or the one before
    it failed; earlier steps stay usable.
    """
    distributed.together(self._wait)
    response = self._start(step, state)
    self._pending = self._thread.submit(self._finish, step, response, notes)
    if wait:
      distributed.together(self._wait)

  def wait(self) -> None:
    """Returns when the last save is whole on disk; ConfigError if it could not be."""
    distributed.together(self._wait)

  def restore(self, abstract) -> tuple[int, Any] | None:
    """The newest undamaged step: (step, state), or None when there is no checkpoint.

    abstract: ShapeDtypeStructs; a leaf without sharding goes to the first device.
    Raises ConfigError if all steps are damaged, or not of abstract's layout.
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
    found = ', '.join(f'step {s}: {reason}' for s, reason in damaged)
    raise ConfigError(
      f'every checkpoint in {self.directory} is damaged ({found}); '
      'delete that directory to start this stack anew'
    )

  def restore_step(self, step: int, abstract) -> Any:
    """The state of a given step, as `restore`; ConfigError if absent or damaged."""
    self._wait()
    steps, path = self.steps(), self.directory / str(step)
    if reason := verify(path) if step in steps else 'absent':
      known = ', '.join(map(str, steps)) or 'none'
      raise ConfigError(f'checkpoint {path}: {reason}; steps there: {known}')
    return self._load(step, abstract)

  def notes(self, step: int) -> dict:
    """What was saved with a step beside its arrays."""
    return json.loads((self.directory / str(step) / NOTES).read_text())

  def steps(self) -> list[int]:
    """Committed steps, ascending; whether they are damaged is not looked at."""
    with _one_line(self.directory, 'read'):
      if not self.directory.exists():
        return []
      entries = [e.name for e in self.directory.iterdir() if e.is_dir()]
      return sorted(int(name) for name in entries if _STEP.fullmatch(name))

  def close(self) -> None:
    """Waits until the last save is whole on disk; ConfigError if it could not be."""
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
      logging.error('%s', e)  # the exception under way goes on

  def _wait(self) -> None:
    pending, self._pending = self._pending, None
    if pending is not None:
      pending.result()

  def _start(self, step, state):
    """Clears what earlier processes left, and hands the arrays to Orbax."""
    with self._writing(step):
      self.directory.mkdir(parents=True, exist_ok=True)
      # The others must not begin to write what process 0 still removes.
      distributed.agree(lambda: self._clear([step for step, _ in self.damaged]))
      self.damaged = []
      context = ocp.Context()
      # In the background, a directory that cannot be made is noticed after minutes.
      context.async_options.create_directories_asynchronously = False
      with context:
        path = str(self.directory / f'saving.{step}')
        return ocp.save_async(path, state, custom_metadata=_layout(state))

  def _finish(self, step, response, notes) -> None:
    """The background part of a save: digest, rename, and removal of old steps."""
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
    # A kill in the middle of a removal must not leave a damaged step.
    aside = self.directory / f'removing.{step}'
    shutil.rmtree(aside, ignore_errors=True)
    os.rename(self.directory / str(step), aside)

  def _clear(self, steps) -> None:
    """Removes steps and all leftovers."""
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
    wanted = _layout(abstract)
    for name in sorted(saved.keys() | wanted.keys()):
      if saved.get(name) != wanted.get(name):
        raise ConfigError(
          f'checkpoint {path} does not fit this run: state{name} is '
          f'{saved.get(name, "absent")} there and {wanted.get(name, "absent")} here; '
          'use the config that it was made with, or another workdir'
        )
    # Without a sharding Orbax looks for the devices that the step was saved from.
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
        self._clear([])  # what was half written would keep a full disk full
      raise


@contextlib.contextmanager
def _one_line(path, done) -> Iterator[None]:
  """Turns what a full disk or an unusable path raises into a ConfigError."""
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
  """Why the step in `directory` is damaged, or None when every file is as saved."""
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
      now = _fingerprint(directory / name)
    except OSError:
      return f'{name} missing or unreadable'
    if now[0] != saved[0]:
      return f'{name} has {now[0]} bytes of {saved[0]}'
    if now != saved:
      return f'{name} changed'
  return None


def _fingerprint(path: Path) -> list:  # [bytes, sha256]
  with path.open('rb') as file:
    return [path.stat().st_size, hashlib.file_digest(file, 'sha256').hexdigest()]


def _layout(state) -> dict[str, Any]:
  """'path of a leaf' -> 'dtype[shape]', compared before Orbax would cast."""
  leaves = jax.tree_util.tree_leaves_with_path(state)
  return {jax.tree_util.keystr(p): f'{x.dtype}{list(x.shape)}' for p, x in leaves}


# Orbax's threads log the traceback of every error that they also hand over.
logging.get_absl_logger().addFilter(
  lambda r: not (r.exc_info and f'{os.sep}orbax{os.sep}' in r.pathname)
)
