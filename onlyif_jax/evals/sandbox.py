"""Runs generated programs in isolation; nothing else in this package executes them.

Each program gets a cell (sandbox_cell.py): a process group and namespaces of its own,
an unused uid where root runs this, limits of the kernel on CPU time, memory, processes
and files, no network, none of this process's environment, an empty folder that goes
with it. Tests run in a second cell (sandbox_checker.py), which calls the program's
functions through a socket and compares what returns as plain data.

Time limits are CPU time, so a busy machine gives the same verdicts. A generous
wall-clock guard only ends programs that sleep or wait, and says so.
"""

import collections
import contextlib
import dataclasses
import enum
import functools
import json
import os
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from onlyif_jax.config import ConfigError
from onlyif_jax.evals import sandbox_machine as machine
from onlyif_jax.evals import sandbox_plain as plain
from onlyif_jax.evals.sandbox_machine import Isolation, leased

VERDICT = 1 << 28  # bytes of a checker's verdict
PATIENCE = 30.0  # seconds beyond a guard after which a cell is killed from outside
_CELL = Path(__file__).with_name('sandbox_cell.py')
_ENVIRONMENT = {
  'PYTHONHASHSEED': '0',  # the order of sets, and so the verdict, stays the same
  'OMP_NUM_THREADS': '1',
  'OPENBLAS_NUM_THREADS': '1',
}


@dataclasses.dataclass(frozen=True)
class Limits:
  """What a program may use; MB are 2^20 bytes.

  Its processes may together take processes * memory_mb, and files disk_mb more. Memory
  that no such limit counts (shared segments, files in memory) is refused.
  """

  cpu_seconds: float = 10.0  # of a process in all, its start included
  call_seconds: float = 10.0  # of CPU, of one call, where a check says nothing else
  wall_seconds: float = 120.0  # guard against sleeping, not a measure
  memory_mb: int = 4096  # address space of a process
  processes: int = 16  # threads included
  open_files: int = 64
  file_mb: int = 16
  disk_mb: int = 64
  output_mb: int = 64  # printed; then the program is ended
  head_bytes: int = 2000  # of what it printed, kept
  reply_mb: int = 32  # one output, encoded

  def __post_init__(self):
    for field in dataclasses.fields(self):
      if not getattr(self, field.name) > 0:
        raise ConfigError(f'limits: {field.name} must be above 0')


# Of the checker, which runs the tests and not the program.
_CHECKER = {'cpu_seconds': 60.0, 'memory_mb': 8192, 'open_files': 256}


class Status(enum.StrEnum):
  """How a run ended."""

  PASSED = 'passed'  # every test held
  FAILED = 'failed'
  TIMED_OUT = 'timed_out'
  ENDED = 'ended'  # without a check: ended by itself with exit code 0


@dataclasses.dataclass(frozen=True)
class Outcome:
  """What a run gave."""

  status: Status
  reason: str = ''
  cpu_seconds: float = 0.0
  output: str = ''  # the head of what the program printed
  tests: tuple[bool, ...] = ()  # of a check by calls, as far as it went
  answers: tuple[tuple, ...] = ()  # of a record: (encoded value, type, CPU seconds)


@dataclasses.dataclass(frozen=True)
class Calls:
  """Tests by arguments and expected outputs, both encoded (sandbox_plain.encode)."""

  name: str  # the function under test
  inputs: Sequence[Any]  # lists of arguments
  expected: Sequence[Any]
  types: Sequence[str]  # names of the expected outputs' types
  seconds: Sequence[float]  # CPU limit of each call
  dataset: str = ''  # 'humaneval' or 'mbpp': whose special oracles hold
  atol: float = 0.0
  stop: bool = True  # at the first test that does not hold

  @classmethod
  def of(cls, name: str, cases: Iterable[tuple], seconds: float = 5.0, **kwargs):
    """Of (arguments, expected output) pairs of plain values."""
    pairs = list(cases)
    return cls(
      name,
      [plain.encode(list(args)) for args, _ in pairs],
      [plain.encode(expected) for _, expected in pairs],
      [type(expected).__name__ for _, expected in pairs],
      [seconds] * len(pairs),
      **kwargs,
    )


@dataclasses.dataclass(frozen=True)
class Script:
  """Tests written as Python text, which may call the named functions."""

  script: str
  names: tuple[str, ...]
  before: str = ''  # trusted text that the script needs, run in the checker
  call: str = ''  # a function of the script that takes the first name's function


@dataclasses.dataclass(frozen=True)
class Record:
  """No test: the outputs themselves, of a program that is trusted to be right."""

  name: str
  inputs: Sequence[Any]  # lists of arguments, encoded


Check = Calls | Script | Record
_KINDS = {Calls: 'calls', Script: 'script', Record: 'record'}


@dataclasses.dataclass(frozen=True)
class Job:
  """A program, what to check of it (None: let it run as a script), its limits."""

  program: str
  check: Check | None = None
  limits: Limits = Limits()


def run(
  program: str,
  check: Check | None = None,
  limits: Limits | None = None,
  isolation: Isolation | None = None,
) -> Outcome:
  """Runs one program; raises ConfigError if it cannot be isolated here."""
  isolation = isolation or detect()
  with contextlib.ExitStack() as stack:
    uids = stack.enter_context(leased(2)) if isolation.uids else (None, None)
    folder = stack.enter_context(_folder())
    job = Job(program, check, limits or Limits())
    return _Run(job, isolation, uids, folder).outcome()


def run_all(
  jobs: Iterable[Job], workers: int = 1, isolation: Isolation | None = None
) -> Iterator[Outcome]:
  """The jobs' outcomes in their order, the same for any number of workers.

  Jobs are taken as they are needed, a few ahead.
  """
  if workers < 1:
    raise ConfigError('workers must be at least 1')
  isolation = isolation or detect()
  pool = ThreadPoolExecutor(workers)
  ahead: collections.deque = collections.deque()
  try:
    for job in jobs:
      ahead.append(pool.submit(run, job.program, job.check, job.limits, isolation))
      if len(ahead) > 2 * workers:
        yield ahead.popleft().result()
    while ahead:
      yield ahead.popleft().result()
  finally:
    # One program that cannot be isolated ends all; those not begun are dropped.
    pool.shutdown(cancel_futures=True)


@functools.cache
def detect(*, allow_network: bool = False) -> Isolation:
  """The strongest isolation of this machine, after a trial that it holds.

  allow_network: go on where programs would reach the network. Raises ConfigError.
  """
  why = []
  for isolation in machine.possible(allow_network=allow_network):
    if wrong := verify(isolation):
      why.append(f'{isolation.mode}: {wrong}')
    else:
      return isolation
  raise ConfigError(
    f'generated code cannot be isolated on this machine ({"; ".join(why) or "none"}); '
    'run on Linux as root or with user namespaces, install bubblewrap, or, as root '
    'in a container without network, give --allow_network'
  )


def verify(isolation: Isolation) -> str:
  """What an isolation fails to hold back, by a harmless program; '' if nothing.

  A program that forks without end is only safe to run where this came out empty.
  """
  limits = Limits(processes=7, wall_seconds=30.0)
  record = Record('probe', (plain.encode([limits.processes]),))
  try:
    outcome = run(machine.PROBE, record, limits, isolation)
  except ConfigError as e:
    return str(e)
  if outcome.status != Status.PASSED:
    return outcome.reason
  return machine.missing(plain.decode(outcome.answers[0][0]), isolation)


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
  """A private folder, readable to a lesser user; removed afterwards."""
  with tempfile.TemporaryDirectory(prefix='sandbox-', ignore_cleanup_errors=True) as t:
    os.chmod(t, 0o755)
    yield Path(t)


class _Run:
  """One program and, if there is a check, its checker."""

  def __init__(self, job: Job, isolation: Isolation, uids, folder: Path):
    self.job = job
    self.isolation = isolation
    self.uids = uids
    self.folder = folder

  def outcome(self) -> Outcome:
    job = self.job
    here, there = socket.socketpair()
    with here, there:
      candidate = self._cell('candidate', [there], dataclasses.asdict(job.limits))
      with candidate:
        there.close()
        if job.check is None:
          _say(here, {'program': job.program, 'serve': False})
          here.close()
          return _alone(candidate.finish(wait=True), job.limits)
        verdict = self._check(here)
        report = candidate.finish(wait=verdict.get('status') == 'lost')
    return _judged(verdict, report, job.limits)

  def _check(self, rpc: socket.socket) -> dict[str, Any]:
    """The checker's verdict; rpc: the socket to the program."""
    job, check = self.job, self.job.check
    limits = dataclasses.asdict(job.limits) | _CHECKER
    limits['wall_seconds'] = job.limits.wall_seconds + PATIENCE
    here, there = socket.socketpair()
    with here, there, self._cell('checker', [rpc, there], limits) as cell:
      there.close()
      rpc.close()
      assert check is not None
      _say(
        here,
        {
          'program': job.program,
          'check': dataclasses.asdict(check) | {'kind': _KINDS[type(check)]},
          'seconds': job.limits.call_seconds,
          'reply_bytes': job.limits.reply_mb << 20,
        },
      )
      try:
        # The checker has a wall-clock guard of its own, so this ends.
        verdict = plain.receive(here.fileno(), VERDICT)
      except (EOFError, OSError):
        _, reason = _ending(cell.finish(wait=True), Limits(**limits))
        return {'status': 'failed', 'reason': f'its comparison: {reason}'}
      cell.finish(wait=False)
      return verdict

  def _cell(self, role: str, sockets: list[socket.socket], limits) -> '_Cell':
    folder = self.folder / role
    folder.mkdir()
    uid = self.uids[role == 'checker']
    config = self.isolation.config(folder, role, uid)
    config |= {'limits': limits, 'fds': [s.fileno() for s in sockets]}
    config['environment'] = _ENVIRONMENT
    return _Cell(self.isolation.command(folder, _CELL), config)


def _say(to: socket.socket, message: Any) -> None:
  # A cell that could not be made is gone already; its report says why.
  with contextlib.suppress(BrokenPipeError, ConnectionResetError):
    plain.send(to.fileno(), message)


class _Cell:
  """A running cell; leaving the context kills whatever is left of it."""

  def __init__(self, command: Sequence[str], config: Mapping[str, Any]):
    self.wall = config['limits']['wall_seconds']
    control, self.control = os.pipe()  # the cell ends when this end closes
    try:
      self.process = subprocess.Popen(
        [*command, json.dumps(config)],
        stdin=control,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=config['fds'],
        start_new_session=True,
        env={},
        cwd='/',
      )
    finally:
      os.close(control)

  def __enter__(self) -> '_Cell':
    return self

  def __exit__(self, *_) -> None:
    os.close(self.control)
    try:
      self.process.communicate(timeout=PATIENCE)  # it has the time to end all inside
    except subprocess.TimeoutExpired:
      os.killpg(self.process.pid, signal.SIGKILL)
      self.process.communicate()

  def finish(self, *, wait: bool) -> dict[str, Any]:
    """The cell's report; wait: let the process end by itself or by its limits.

    Raises ConfigError if the cell could not be made.
    """
    if not wait:
      control, self.control = self.control, os.open('/dev/null', os.O_RDONLY)
      os.close(control)
    try:
      out, err = self.process.communicate(timeout=self.wall + PATIENCE)
    except subprocess.TimeoutExpired:
      return {'end': 'wall', 'code': 0, 'cpu': 0.0, 'output': ''}
    try:
      report = json.loads(out)
    except ValueError:
      lines = err.decode('utf-8', 'replace').strip().splitlines() or ['it was killed']
      report = {'refused': lines[-1]}
    if 'refused' in report:
      raise ConfigError(
        f'the sandbox cannot be made on this machine: {report["refused"]}; run as root '
        'or with user namespaces on Linux, or install bubblewrap'
      )
    return report


def _alone(report: Mapping[str, Any], limits: Limits) -> Outcome:
  """The outcome of a program without a check."""
  if report['end'] == 'exited' and report['code'] == 0:
    return Outcome(Status.ENDED, '', report['cpu'], report['output'])
  return Outcome(*_ending(report, limits), report['cpu'], report['output'])


def _judged(verdict: Mapping[str, Any], report, limits: Limits) -> Outcome:
  """The outcome of a checked program: the verdict, or how its process ended."""
  if verdict['status'] == 'lost':
    status, reason = _ending(report, limits)
    if report['end'] == 'exited' and report['code'] >= 0:
      reason = f'{reason} before its tests were done'
  else:
    status, reason = Status(verdict['status']), verdict['reason']
  return Outcome(
    status,
    reason,
    report['cpu'],
    report['output'],
    tuple(verdict.get('tests', ())),
    tuple(tuple(answer) for answer in verdict.get('answers', ())),
  )


def _ending(report: Mapping[str, Any], limits: Limits) -> tuple[Status, str]:
  """Status and reason of a process that did not end as it should."""
  end, code = report['end'], report['code']
  if end == 'wall':
    guard = f'the wall-clock guard of {limits.wall_seconds:g} s: it slept or waited'
    return Status.TIMED_OUT, guard
  if end == 'output':
    return Status.FAILED, f'it printed more than {limits.output_mb} MB'
  if end == 'stopped':
    return Status.FAILED, 'it closed the channel of its answers'
  # SIGKILL comes from the kernel too, one second after an ignored SIGXCPU.
  spent = code == -signal.SIGKILL and report['cpu'] >= limits.cpu_seconds
  if code in (-signal.SIGXCPU, -signal.SIGPROF) or spent:
    return Status.TIMED_OUT, 'its CPU time ran out'
  if code < 0:
    return Status.FAILED, f'killed by {signal.Signals(-code).name}'
  return Status.FAILED, f'exit code {code}'
