"""Workdirs on a bucket: `gs://bucket/dir`, or any other URL that fsspec knows.

A run works on a local copy, which is pulled before it starts and pushed while it runs
and at its end. A push may be cut short at any moment, so its order lets a run resume
from whatever is there as it would after a kill:

- tables before checkpoints: rows beyond the restored step are cut back, but rows
  before it are never written again;
- within a step its digest last, as a step without one does not count;
- then the ledger as it was when the push began, so that the rows and the last step of
  a stack that it calls done are there;
- removals last, a step's digest first.
"""

import contextlib
import os
import re
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from absl import logging

from onlyif_jax.config import ConfigError
from onlyif_jax.workdir import Workdir

LEDGER = 'ledger.jsonl'
DIGEST = 'digest.json'  # as checkpoint.py writes it
LOOK = 2.0  # seconds between polls for a new checkpoint, which is pushed at once
INTERVAL = 60.0  # seconds between pushes without a new checkpoint
PAUSES = (1.0, 5.0)  # seconds before the second and third attempt of the last push
_STEP = re.compile(r'checkpoints/([0-9]+)/(?:0|[1-9][0-9]*)/')


@contextlib.contextmanager
def local(
  workdir: str | Path,
  part: str | Path = '',
  *,
  write: bool = False,
  checkpoints: bool = True,
) -> Iterator[Path]:
  """The local directory of `workdir`/`part`: that path itself, or a copy of a URL.

  write: push changes while the block runs and at its end; checkpoints: pull them too.
  The copy lies below $TMPDIR and is removed once all of it is pushed; until then
  standard output shows the URL in place of its path. Raises ConfigError where the URL
  cannot be used; if the last push fails, the error names the copy, which is kept.
  """
  url = str(workdir).rstrip('/')
  if not is_url(workdir):
    yield Path(workdir) / part
    return
  mirror = Mirror('/'.join((url, *PurePosixPath(part).parts)))
  copy = Path(tempfile.mkdtemp(prefix='onlyif_jax-'))
  mirror.path = copy.joinpath(part)
  mirror.path.mkdir(parents=True, exist_ok=True)
  unsent = False
  try:
    with _named(copy, url):
      mirror.pull(checkpoints)
      if not write:
        yield mirror.path
        return
      mirror.prepare()
      unsent = True
      try:
        with _pushing(mirror):
          yield mirror.path
      except BaseException as e:
        # After a second Ctrl-C nothing is pushed.
        unsent = isinstance(e, KeyboardInterrupt) or bool(_last_push(mirror))
        if unsent:
          message = f'{mirror.url} lacks the newest files; they are in {mirror.path}'
          print(message, file=sys.stderr)
        raise
    reason = _last_push(mirror)
    unsent = bool(reason)
    if unsent:
      raise ConfigError(
        f'{reason}. Everything is kept in {mirror.path}: copy it there, or give the '
        'same command again, which goes on from what was sent'
      )
  finally:
    if not unsent:
      shutil.rmtree(copy, ignore_errors=True)


def is_url(workdir: str | Path) -> bool:
  """Whether a workdir is a URL, as opposed to a local path."""
  return '://' in str(workdir)


class Mirror:
  """A local directory `path` and its mirror at a URL."""

  def __init__(self, url: str, path: Path = Path()):
    self.url, self.path = url, path
    self.fs, self.root = _open(url)
    # Remote file -> the stamp of the local file that it equals, None where there is
    # none.
    self.remote: dict[str, Any] = {}

  def pull(self, checkpoints: bool = True) -> None:
    """Fetches all files; checkpoints, if at all, only as steps with a digest."""
    with self._config_errors('read'):
      self.fs.invalidate_cache()
      try:
        files = [f for f in self.fs.find(self.root) if f.startswith(self.root + '/')]
      except FileNotFoundError:
        files = []
      names = sorted(file.removeprefix(self.root + '/') for file in files)
      with_digest = {name.removesuffix(DIGEST) for name in names}
      for name in names:
        parts = PurePosixPath(name).parts
        if '..' in parts:  # names on a bucket are not trusted
          raise ValueError(f'it holds {name!r}')
        if not checkpoints and 'checkpoints' in parts:
          continue
        self.remote[name] = None
        step = _STEP.match(name)
        if step is None or step[0] in with_digest:
          target = self.path / name
          target.parent.mkdir(parents=True, exist_ok=True)
          self.fs.get_file(f'{self.root}/{name}', str(target))
          self.remote[name] = self._stamp(name)

  def prepare(self) -> None:
    """Checks that the URL can be written, and drops steps that cannot be used.

    Stacks train one after another, so the ledger vouches for those that are done and
    for the first that is not. An interrupted push may have left steps of later stacks;
    their rows are cut back with those of the first, so they start anew.
    """
    with self._config_errors('written'):
      self.fs.pipe_file(f'{self.root}/.write-test', b'.')
      self.fs.rm_file(f'{self.root}/.write-test')
    done = {e['stack'] for e in Workdir(self.path).ledger() if e['event'] == 'done'}
    first = 0
    while f'{first:03d}' in done:
      first += 1
    premature = []
    for name in self.remote:
      step = _STEP.match(name)
      if step and step[1] not in done and int(step[1]) > first:
        premature.append(name)
        shutil.rmtree(self.path / 'checkpoints' / step[1], ignore_errors=True)
    with self._config_errors('written'):
      self._remove(premature)

  def push(self) -> None:
    """Sends changed files and repeats the run's removals; raises ConfigError."""
    with self._config_errors('written'):
      ledger, steps = self._snapshot()
      for name in self._tables():
        self._send_table(name)
      for step in steps:
        self._send_step(step)
      if ledger is not None and self.remote.get(LEDGER) != ledger:
        self.fs.pipe_file(f'{self.root}/{LEDGER}', ledger)
        self.remote[LEDGER] = ledger
      self._remove([name for name in self.remote if self._removed(name, steps)])

  def steps(self) -> list[str]:
    """The committed local steps, as 'checkpoints/<stack>/<step>/'."""
    folders = [p.parent for p in self.path.glob(f'checkpoints/*/*/{DIGEST}')]
    names = [f'{p.relative_to(self.path).as_posix()}/' for p in folders]
    return sorted(name for name in names if _STEP.fullmatch(name))

  def _tables(self) -> list[str]:
    """All local files but checkpoints, the ledger and temporary files."""
    names = []
    for folder, subfolders, files in os.walk(self.path):
      if Path(folder) == self.path and 'checkpoints' in subfolders:
        subfolders.remove('checkpoints')
      relative = Path(folder).relative_to(self.path)
      temporary = ('.tmp', '.write-test')
      names += [(relative / f).as_posix() for f in files if not f.endswith(temporary)]
    return sorted(set(names) - {LEDGER})

  def _snapshot(self) -> tuple[bytes | None, list[str]]:
    """The ledger, and the steps at one moment of it."""
    while True:
      ledger = self._stamp(LEDGER)
      steps = self.steps()
      if self._stamp(LEDGER) == ledger:
        return ledger, steps

  def _stamp(self, name: str) -> Any:
    """A value that changes with a local file: of the ledger the bytes themselves."""
    path = self.path / name
    if name == LEDGER:
      return path.read_bytes() if path.exists() else None
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns, stat.st_ino

  def _send_table(self, name: str) -> None:
    try:
      stamp = self._stamp(name)  # before reading, so that later bytes are sent later
      if self.remote.get(name) == stamp:
        return
      data = (self.path / name).read_bytes()  # at once, as it may be growing
    except FileNotFoundError:  # removed meanwhile
      return
    self.fs.pipe_file(f'{self.root}/{name}', data)
    self.remote[name] = stamp

  def _send_step(self, step: str) -> None:
    folder, digest = self.path / step, step + DIGEST
    try:
      if self.remote.get(digest) == self._stamp(digest):
        return
      if digest in self.remote:  # the step was saved again
        self._remove([digest])
      files = [p for p in folder.rglob('*') if p.is_file()]
      names = [p.relative_to(self.path).as_posix() for p in files]
      for name in sorted(names, key=lambda name: (name == digest, name)):
        stamp = self._stamp(name)
        if self.remote.get(name) != stamp:
          self.remote[name] = None  # known, so that half a step is removed later
          self.fs.put_file(str(self.path / name), f'{self.root}/{name}')
          self.remote[name] = stamp
    except FileNotFoundError:
      if (self.path / digest).exists():
        raise
      # The step was meanwhile replaced by newer ones.

  def _removed(self, name: str, steps: Sequence[str]) -> bool:
    """Whether the run itself removed a remote file.

    It only removes steps and TensorBoard files, and only where others replace them, so
    that a lost local copy does not empty the bucket.
    """
    path = self.path / name
    if path.exists():
      return False
    step = _STEP.match(name)
    if step:
      return any(other.startswith(f'checkpoints/{step[1]}/') for other in steps)
    return name.startswith('events/') and any(path.parent.glob('events.*'))

  def _remove(self, names: Sequence[str]) -> None:
    for name in sorted(names, key=lambda name: (not name.endswith(DIGEST), name)):
      with contextlib.suppress(FileNotFoundError):
        self.fs.rm_file(f'{self.root}/{name}')
      self.remote.pop(name, None)

  @contextlib.contextmanager
  def _config_errors(self, done: str) -> Iterator[None]:
    """Turns the errors of a file system into a ConfigError."""
    try:
      yield
    except ConfigError:
      raise
    except Exception as e:  # every file system raises its own kinds
      raise ConfigError(
        f'{self.url} could not be {done} ({type(e).__name__}: {e}); see that the '
        'bucket exists and that this machine may use it'
      ) from e


def _open(url: str) -> tuple[Any, str]:
  """The file system of a URL, and its path there."""
  try:
    import fsspec.core
  except ImportError:
    raise ConfigError(
      f"{url} needs fsspec; install it with pip install 'onlyif_jax[gcs]'"
    ) from None
  # Only a local file system needs directories.
  options = {'auto_mkdir': True} if url.startswith('file:') else {}
  try:
    fs, root = fsspec.core.url_to_fs(url, **options)
  except ImportError as e:
    raise ConfigError(
      f"{url}: {e}; for gs:// it comes with pip install 'onlyif_jax[gcs]'"
    ) from None
  except ValueError as e:
    raise ConfigError(f'{url}: {e}; give gs://BUCKET/DIR or a local path') from None
  return fs, root.rstrip('/')


@contextlib.contextmanager
def _pushing(mirror: Mirror) -> Iterator[None]:
  """Pushes in the background: at each new checkpoint, and every INTERVAL seconds."""
  stop = threading.Event()
  before = mirror.steps()  # here, as the thread may start after the first new one

  def work() -> None:
    pushed, last = before, time.monotonic()
    while not stop.wait(LOOK):
      steps = mirror.steps()
      if steps != pushed or time.monotonic() - last >= INTERVAL:
        try:
          mirror.push()
        except ConfigError as e:
          logging.warning('%s; training goes on, it will be tried again', e)
        pushed, last = steps, time.monotonic()

  thread = threading.Thread(target=work, name='bucket', daemon=True)
  thread.start()
  try:
    yield
  except KeyboardInterrupt:
    stop.set()
    raise
  except BaseException:
    stop.set()
    thread.join()
    raise
  stop.set()
  thread.join()


def _last_push(mirror: Mirror) -> str:
  """Pushes, up to three times; returns why it failed, '' if it did not."""
  reason = ''
  for pause in (0.0, *PAUSES):
    time.sleep(pause)
    try:
      mirror.push()
      return ''
    except ConfigError as e:
      reason = str(e)
  return reason


class _Replacing:
  """A text stream that writes `new` in place of `old`."""

  def __init__(self, out: Any, old: str, new: str):
    self.out, self.old, self.new = out, old, new

  def write(self, text: str) -> int:
    self.out.write(text.replace(self.old, self.new))
    return len(text)

  def __getattr__(self, name: str) -> Any:
    return getattr(self.out, name)


@contextlib.contextmanager
def _named(copy: Path, url: str) -> Iterator[None]:
  """Shows the URL in place of the local copy, in standard output and in errors."""
  out: Any = _Replacing(sys.stdout, str(copy), url)
  with contextlib.redirect_stdout(out):
    try:
      yield
    except ConfigError as e:
      raise ConfigError(str(e).replace(str(copy), url)) from e
