"""A unit of a sweep over machines: one stack, trained by a process on a worker.

The process is `main --shard=i/n` in a directory that all machines share. It holds a
lock there, which the kernel releases when it dies, and it is told to save and stop
when the worker that watches it dies. So a unit that is started again elsewhere
neither writes beside the old process nor loses what that saved.
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
SEEN_SECONDS = 20.0  # within which a shared directory shows a new file everywhere
_POLL = 0.2
# Runs before the process becomes `main`: SIGTERM when the worker dies (1 is Linux's
# PR_SET_PDEATHSIG; elsewhere the lock alone guards), and none of the signals that
# engines send to all processes of a job, for which only the worker has a handler.
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


class InterruptedUnit(Exception):  # noqa: N818 - it is no error, the unit goes on
  """The process was stopped by a signal; started again, it resumes."""


@dataclasses.dataclass(frozen=True)
class Unit:
  """One stack of a sweep, as a worker needs it."""

  number: int  # from 1
  of: int
  directory: str  # the shard's own, absolute
  arguments: tuple[str, ...]  # of python
  cwd: str
  platform: str  # JAX_PLATFORMS

  def __str__(self) -> str:
    return f'stack {self.number} of {self.of}'

  @property
  def done(self) -> bool:
    """Whether its ledger says so."""
    ledger = Workdir(self.directory).ledger()
    return any(event['event'] == 'done' for event in ledger)


@dataclasses.dataclass(frozen=True)
class Outcome:
  """How a unit ended: exit code of its process, its last words, where, how long."""

  code: int
  said: str
  host: str = ''
  seconds: float = 0.0


def work(unit: Unit, on_start: Callable[[int], object] = int) -> Outcome:
  """Runs a unit's process to its end; this is what an engine runs on a worker.

  on_start: takes the number of the process. Raises InterruptedUnit where a signal
  ended the process. Whatever ends this function early makes the process save first.
  """
  host, began = socket.gethostname(), time.monotonic()
  if not Path(unit.cwd).is_dir():
    return Outcome(2, f'{host} has no {unit.cwd}; start in a shared directory', host)
  path = Path(unit.directory, LOCK)
  while not path.exists():
    if time.monotonic() - began > SEEN_SECONDS:
      return Outcome(
        *(2, f'{host} does not see {path}; give a --workdir that all machines share'),
        host,
      )
    time.sleep(_POLL)
  with path.open('r+') as lock, path.with_name(LOG).open('a+') as log:
    try:
      acquire(lock)
    except OSError as e:
      return Outcome(2, f'{path} cannot be locked on {host} ({e.strerror})', host)
    start = log.tell()
    code = _run(unit, lock, log, on_start)
    log.seek(start)
    said = [line.strip() for line in log if line.strip()]
  if code < 0 or code in (128 + signal.SIGTERM, 128 + signal.SIGINT):
    number = signal.Signals(-code if code < 0 else code - 128)
    raise InterruptedUnit(f'{number.name} on {host}')
  last = next(
    (x for x in reversed(said) if x.startswith('error: ')), ''.join(said[-1:])
  )
  return Outcome(
    code, last.removeprefix('error: '), host, round(time.monotonic() - began, 1)
  )


def acquire(lock, end: float = math.inf) -> bool:
  """Waits for the lock of an open file: whoever held it has ended. False: not yet.

  end: on the clock time.monotonic().
  """
  while time.monotonic() < end:
    with contextlib.suppress(BlockingIOError):
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
      return True
    time.sleep(_POLL)
  return False


def stop(pid: int) -> None:
  """Makes a process of `work` save and end, and waits for it; for signal handlers.

  It leaves the exit code to `work`, whose own waiting the signal may have interrupted.
  """
  with contextlib.suppress(ProcessLookupError, ChildProcessError):
    os.kill(pid, signal.SIGTERM)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


@contextlib.contextmanager
def _watched(process: subprocess.Popen) -> Iterator[None]:
  try:
    yield
  finally:  # also where the engine cancels this function
    if process.poll() is None:
      process.terminate()
      process.wait()


def _run(unit: Unit, lock, log, on_start: Callable[[int], object]) -> int:
  """The exit code of the unit's process, which shares the lock."""
  leash = ['-c', _LEASH, str(os.getpid())]
  process = subprocess.Popen(
    [sys.executable, *leash, *unit.arguments],
    cwd=unit.cwd,
    env=os.environ | {'JAX_PLATFORMS': unit.platform},
    stdin=subprocess.DEVNULL,
    stdout=log,
    stderr=log,
    pass_fds=(lock.fileno(),),
    start_new_session=True,  # a Ctrl-C in a terminal is for the driver alone
  )
  with _watched(process):
    on_start(process.pid)
    # A plain wait could not be interrupted by an engine that cancels.
    while process.poll() is None:
      time.sleep(_POLL)
  return process.returncode
