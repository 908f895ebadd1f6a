"""Workdirs on a bucket: `gs://bucket/dir`, or any other URL that fsspec knows.

A run works on a local copy. What is there is pulled before it starts; while it runs
and at its end, what changed is pushed. A push may be cut short at any moment, so its
order is such that a run goes on from whatever is there as from a kill:

- tables before checkpoints: rows beyond the restored step are cut back, but rows
  before it are never written again;
- of a step its digest last, as without one a step does not count;
- the ledger after both, as it was when the push began, so that a stack which it calls
  done has its rows and its last step there;
- then what the run removed is removed there too, a step's digest first.
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
LOOK = 2.0  # seconds between looks for a new checkpoint, which is pushed at once
INTERVAL = 60.0  # seconds between pushes without one
PAUSES = (1.0, 5.0)  # seconds before the second and third try of the last push
_STEP = re.compile(r'checkpoints/([0-9]+)/(?:0|[1-9][0-9]*)/')


@contextlib.contextmanager
def local(
  workdir: str | Path,
  part: str | Path = '',
  *,
  write: bool = False,
  checkpoints: bool = True,
) -> Iterator[Path]:
  """The local directory of `workdir`/`part`: that very path, or a URL's local copy.

  write: push changes while the block runs and at its end. checkpoints: pull them too.
  The copy (below $TMPDIR) goes away once all of it is there, and standard output
  names it by its URL meanwhile. Raises ConfigError where the URL cannot be used; for
  the last push it names the copy, which is then kept.
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
        # A second Ctrl-C does not wait.
        unsent = isinstance(e, KeyboardInterrupt) or bool(_last_push(mirror))
        if unsent:
          lacks = f'{mirror.url} lacks the newest files; they are in {mirror.path}'
          print(lacks, file=sys.stderr)
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
  """Whether it is a URL, as opposed to a local path."""
  return '://' in str(workdir)


class Mirror:
  """A local directory `path` and its copy at a URL."""

  def __init__(self, url: str, path: Path = Path()):
    self.url, self.path = url, path
    self.fs, self.root = _open(url)
    # File there -> what tells whether the local one still is the same, None where
    # it was not pulled.
    self.there: dict[str, Any] = {}

  def pull(self, checkpoints: bool = True) -> None:
    """Fetches all files; of checkpoints, if at all, the steps with a digest."""
    with self._one_line('read'):
      self.fs.invalidate_cache()
      try:
        found = [f for f in self.fs.find(self.root) if f.startswith(self.root + '/')]
      except FileNotFoundError:
        found = []
      names = sorted(f.removeprefix(self.root + '/') for f in found)
      whole = {name.removesuffix(DIGEST) for name in names}
      for name in names:
        parts = PurePosixPath(name).parts
        if '..' in parts:  # names come from anybody
          raise ValueError(f'it holds {name!r}')
        if not checkpoints and 'checkpoints' in parts:
          continue
        self.there[name] = None
        step = _STEP.match(name)
        if step is None or step[0] in whole:
          target = self.path / name
          target.parent.mkdir(parents=True, exist_ok=True)
          self.fs.get_file(f'{self.root}/{name}', str(target))
          self.there[name] = self._mark(name)

  def prepare(self) -> None:
    """Finds out whether the URL can be written, and drops what cannot be used.

    Stacks train one after another, so the ledger vouches for those that are done
    and for the first that is not. A push that was cut short may have left steps of
    later ones; their rows will be cut back with that one's, so they begin anew.
    """
    with self._one_line('written'):
      self.fs.pipe_file(f'{self.root}/.write-test', b'.')
      self.fs.rm_file(f'{self.root}/.write-test')
    done = {e['stack'] for e in Workdir(self.path).ledger() if e['event'] == 'done'}
    first = 0
    while f'{first:03d}' in done:
      first += 1
    late = []
    for name in self.there:
      step = _STEP.match(name)
      if step and step[1] not in done and int(step[1]) > first:
        late.append(name)
        shutil.rmtree(self.path / 'checkpoints' / step[1], ignore_errors=True)
    with self._one_line('written'):
      self._remove(late)

  def push(self) -> None:
    """Sends what changed and removes what the run removed; raises ConfigError."""
    with self._one_line('written'):
      ledger, steps = self._moment()
      for name in self._tables():
        self._send_table(name)
      for step in steps:
        self._send_step(step)
      if ledger is not None and self.there.get(LEDGER) != ledger:
        self.fs.pipe_file(f'{self.root}/{LEDGER}', ledger)
        self.there[LEDGER] = ledger
      self._remove([name for name in self.there if self._gone(name, steps)])

  def steps(self) -> list[str]:
    """The committed steps here, as 'checkpoints/<stack>/<step>/'."""
    folders = [p.parent for p in self.path.glob(f'checkpoints/*/*/{DIGEST}')]
    names = [f'{p.relative_to(self.path).as_posix()}/' for p in folders]
    return sorted(name for name in names if _STEP.fullmatch(name))

  def _tables(self) -> list[str]:
    """All files but checkpoints, the ledger and those that are half written."""
    names = []
    for folder, below, files in os.walk(self.path):
      if Path(folder) == self.path and 'checkpoints' in below:
        below.remove('checkpoints')
      inside = Path(folder).relative_to(self.path)
      spare = ('.tmp', '.write-test')
      names += [(inside / f).as_posix() for f in files if not f.endswith(spare)]
    return sorted(set(names) - {LEDGER})

  def _moment(self) -> tuple[bytes | None, list[str]]:
    """The ledger, and the steps that were there while it said so."""
    while True:
      ledger = self._mark(LEDGER)
      steps = self.steps()
      if self._mark(LEDGER) == ledger:
        return ledger, steps

  def _mark(self, name: str) -> Any:
    """What changes with a file: of the ledger its bytes, as they are sent later."""
    path = self.path / name
    if name == LEDGER:
      return path.read_bytes() if path.exists() else None
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns, stat.st_ino

  def _send_table(self, name: str) -> None:
    try:
      mark = self._mark(name)  # before the bytes: what is added later is sent later
      if self.there.get(name) == mark:
        return
      data = (self.path / name).read_bytes()  # at once, for it may be growing
    except FileNotFoundError:  # removed meanwhile
      return
    self.fs.pipe_file(f'{self.root}/{name}', data)
    self.there[name] = mark

  def _send_step(self, step: str) -> None:
    folder, digest = self.path / step, step + DIGEST
    try:
      if self.there.get(digest) == self._mark(digest):
        return
      if digest in self.there:  # another save of that step
        self._remove([digest])
      files = [p for p in folder.rglob('*') if p.is_file()]
      names = [p.relative_to(self.path).as_posix() for p in files]
      for name in sorted(names, key=lambda name: (name == digest, name)):
        mark = self._mark(name)
        if self.there.get(name) != mark:
          self.there[name] = None  # so that half a step is removed some day
          self.fs.put_file(str(self.path / name), f'{self.root}/{name}')
          self.there[name] = mark
    except FileNotFoundError:
      if (self.path / digest).exists():
        raise
      # Newer steps took its place meanwhile.

  def _gone(self, name: str, steps: Sequence[str]) -> bool:
    """Whether the run itself removed a file that is there.

    Only steps and TensorBoard files are ever removed, and only where others took
    their place: a local copy that is lost must not empty the bucket.
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
      self.there.pop(name, None)

  @contextlib.contextmanager
  def _one_line(self, done: str) -> Iterator[None]:
    try:
      yield
    except ConfigError:
      raise
    except Exception as e:  # every kind of bucket raises its own
      raise ConfigError(
        f'{self.url} could not be {done} ({type(e).__name__}: {e}); see that the '
        'bucket exists and that this machine may use it'
      ) from e


def _open(url: str) -> tuple[Any, str]:
  """The file system of a URL and the path in it."""
  try:
    import fsspec.core
  except ImportError:
    raise ConfigError(
      f"{url} needs fsspec; install it with pip install 'onlyif_jax[gcs]'"
    ) from None
  # On a bucket there are no directories to make.
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
  """Pushes in the background: at a new checkpoint, and from time to time."""
  stop = threading.Event()

  def work() -> None:
    seen, last = mirror.steps(), time.monotonic()
    while not stop.wait(LOOK):
      steps = mirror.steps()
      if steps != seen or time.monotonic() - last >= INTERVAL:
        try:
          mirror.push()
        except ConfigError as e:
          logging.warning('%s; training goes on, it will be tried again', e)
        seen, last = steps, time.monotonic()

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
  """Pushes, if need be more than once; why it failed, '' if it did not."""
  reason = ''
  for pause in (0.0, *PAUSES):
    time.sleep(pause)
    try:
      mirror.push()
      return ''
    except ConfigError as e:
      reason = str(e)
  return reason


class _Named:
  """Standard output that says `new` for `old`."""

  def __init__(self, out: Any, old: str, new: str):
    self.out, self.old, self.new = out, old, new

  def write(self, text: str) -> int:
    self.out.write(text.replace(self.old, self.new))
    return len(text)

  def __getattr__(self, name: str) -> Any:
    return getattr(self.out, name)


@contextlib.contextmanager
def _named(copy: Path, url: str) -> Iterator[None]:
  """Within, the local copy goes by its URL, in the output and in errors."""
  out: Any = _Named(sys.stdout, str(copy), url)
  with contextlib.redirect_stdout(out):
    try:
      yield
    except ConfigError as e:
      raise ConfigError(str(e).replace(str(copy), url)) from e
