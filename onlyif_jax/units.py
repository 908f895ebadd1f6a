"""A unit of a sweep over machines: one stack, trained by a process on a worker.

The process is `main --shard=i/n` in a directory that all machines share. It holds a
lock there, which the kernel releases when it dies, and it gets a signal to save and
stop when the worker that watches it dies. So a unit that is restarted elsewhere neither
writes while the old process does, nor loses what that saved.
"""

import contextlib
import dataclasses
import fcntl
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from onlyif_jax.workdir import Workdir

LOCK, LOG = 'lock', 'log.txt'
SEEN_SECONDS = 20.0  # until a new file in a shared directory is visible everywhere
_POLL = 0.2  # seconds
# Runs before the process becomes `main`. It asks for SIGTERM when the worker dies (1 is
# PR_SET_PDEATHSIG of Linux; elsewhere only the lock guards), and ignores the signals
# that engines send to all processes of a job, which only the worker handles.
_LEASH = """
import ctypes, os, signal, sys
libc, watcher = ctypes.CDLL(None), int(sys.argv[1])
if hasattr(libc, 'prctl'):
  libc.prctl(1, int(signal.SIGTERM))
if os.getppid() != watcher:
  sys.exit(128 + signal.SIGTERM)
for number in (signal.SIGUSR1, signal.SIGUSR2):
  signal.signal(number, signal.SIG_IGN)
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""


class InterruptedUnit(Exception):  # noqa: N818 - not an error: the unit resumes
  """The process was stopped by a signal; started again, it resumes."""


@dataclasses.dataclass(frozen=True)
class Unit:
  """One stack of a sweep, with all that a worker needs to train it."""

  number: int  # from 1 to `of`
  of: int
  directory: str  # of the shard, absolute
  arguments: tuple[str, ...]  # of python
  cwd: str
  platform: str  # JAX_PLATFORMS

  def __str__(self) -> str:
    return f'stack {self.number} of {self.of}'

  @property
  def done(self) -> bool:
    """Whether the ledger says that its stack is done."""
    ledger = Workdir(self.directory).ledger()
    return any(event['event'] == 'done' for event in ledger)


@dataclasses.dataclass(frozen=True)
class Outcome:
  """How a unit ended."""

  code: int  # exit code of its process
  said: str  # the error, or the last line, that it printed
  host: str = ''
  seconds: float = 0.0


def work(unit: Unit, on_start: Callable[[int], object] = int) -> Outcome:
  """Runs a unit's process to its end; engines call this on a worker.

  on_start: called with the process id. Raises InterruptedUnit where a signal ended the
  process. If this function is interrupted, the process saves first.
  """
  host, began = socket.gethostname(), time.monotonic()
  if not Path(unit.cwd).is_dir():
    return Outcome(2, f'{host} has no {unit.cwd}; start in a shared directory', host)
  path = Path(unit.directory, LOCK)
  while not path.exists():
    if time.monotonic() - began > SEEN_SECONDS:
      reason = f'{host} does not see {path}; give a --workdir that all machines share'
      return Outcome(2, reason, host)
    time.sleep(_POLL)
  with path.open('r+') as lock, path.with_name(LOG).open('a+') as log:
    try:
      acquire(lock)
    except OSError as e:
      return Outcome(2, f'{path} cannot be locked on {host} ({e.strerror})', host)
    start = log.tell()
    code = _run(unit, lock, log, on_start)
    log.seek(start)
    lines = [line.strip() for line in log if line.strip()]
  if code < 0 or code in (128 + signal.SIGTERM, 128 + signal.SIGINT):
    number = signal.Signals(-code if code < 0 else code - 128)
    raise InterruptedUnit(f'{number.name} on {host}')
  errors = [line for line in lines if line.startswith('error: ')]
  said = (errors or lines or [''])[-1].removeprefix('error: ')
  return Outcome(code, said, host, round(time.monotonic() - began, 1))


def acquire(lock, end: float = math.inf) -> bool:
  """Waits for the lock of an open file, until its holder ends; False at the deadline.

  end: the deadline, on the clock of time.monotonic().
  """
  while time.monotonic() < end:
    with contextlib.suppress(BlockingIOError):
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
      return True
    time.sleep(_POLL)
  return False


def stop(pid: int) -> None:
  """Makes a process of `work` save and end, and waits for it; for signal handlers.

  It does not reap the process: the wait in `work`, which the signal interrupted, does.
  """
  with contextlib.suppress(ProcessLookupError, ChildProcessError):
    os.kill(pid, signal.SIGTERM)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


@contextlib.contextmanager
def _ending(process: subprocess.Popen) -> Iterator[None]:
  """Ends the process at the end of the block, also if an engine cancels it."""
  try:
    yield
  finally:
    if process.poll() is None:
      process.terminate()
      process.wait()


def _run(unit: Unit, lock, log, on_start: Callable[[int], object]) -> int:
  """Runs the unit's process, which inherits the lock; returns its exit code."""
  leash = ['-c', _LEASH, str(os.getpid())]
  process = subprocess.Popen(
    [sys.executable, *leash, *unit.arguments],
    cwd=unit.cwd,
    env=os.environ | {'JAX_PLATFORMS': unit.platform},
    stdin=subprocess.DEVNULL,
    stdout=log,
    stderr=log,
    pass_fds=(lock.fileno(),),
    start_new_session=True,  # Ctrl-C in a terminal is for the driver only
  )
  with _ending(process):
    on_start(process.pid)
    # Polls, as an engine that cancels could not interrupt process.wait().
    while process.poll() is None:
      time.sleep(_POLL)
  return process.returncode
