"""Runs generated programs in isolation; nothing else in this package executes them.

Each program gets a cell (sandbox_cell.py): its own process group and namespaces, an
unused uid where root runs this, kernel limits on CPU time, memory, processes and files,
no network, none of this process's environment, and an empty folder that is deleted
afterwards. Tests run in a second cell (sandbox_checker.py), which calls the program's
functions through a socket and compares what they return as plain data.

Time limits are CPU time, so verdicts are the same on a busy machine. A generous
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
from onlyif_jax.evals.sandbox_machine import Isolation, lease_uids

VERDICT = 1 << 28  # bytes of a checker's verdict
PATIENCE = 30.0  # seconds beyond a guard after which a cell is killed from outside
_CELL = Path(__file__).with_name('sandbox_cell.py')
_ENVIRONMENT = {
  'PYTHONHASHSEED': '0',  # verdicts may depend on the order of sets
  'OMP_NUM_THREADS': '1',
  'OPENBLAS_NUM_THREADS': '1',
}


@dataclasses.dataclass(frozen=True)
class Limits:
  """What a program may use; MB are 2^20 bytes.

  Its processes together may take processes * memory_mb, its files another disk_mb.
  Memory that neither limit counts (shared segments, files in memory) is refused.
  """

  cpu_seconds: float = 10.0  # of a process, its start included
  call_seconds: float = 10.0  # CPU seconds of one call, unless a check sets them
  wall_seconds: float = 120.0  # only a guard against sleeping
  memory_mb: int = 4096  # address space of a process
  processes: int = 16  # threads included
  open_files: int = 64
  file_mb: int = 16
  disk_mb: int = 64
  output_mb: int = 64  # of printed output; beyond it the program is ended
  head_bytes: int = 2000  # of the printed output that are kept
  reply_mb: int = 32  # of one encoded output

  def __post_init__(self):
    for field in dataclasses.fields(self):
      if not getattr(self, field.name) > 0:
        raise ConfigError(f'limits: {field.name} must be above 0')


# Limits of the checker, which runs the tests and not the program.
_CHECKER = {'cpu_seconds': 60.0, 'memory_mb': 8192, 'open_files': 256}


class Status(enum.StrEnum):
  """How a run ended."""

  PASSED = 'passed'  # every test passed
  FAILED = 'failed'
  TIMED_OUT = 'timed_out'
  ENDED = 'ended'  # without a check: exited with code 0


@dataclasses.dataclass(frozen=True)
class Outcome:
  """The result of a run."""

  status: Status
  reason: str = ''
  cpu_seconds: float = 0.0
  output: str = ''  # the head of what the program printed
  tests: tuple[bool, ...] = ()  # of Calls, up to the last one made
  answers: tuple[tuple, ...] = ()  # of a Record: (encoded value, type, CPU seconds)


@dataclasses.dataclass(frozen=True)
class Calls:
  """Tests by arguments and expected outputs, both encoded (sandbox_plain.encode)."""

  name: str  # the function under test
  inputs: Sequence[Any]  # lists of arguments
  expected: Sequence[Any]
  types: Sequence[str]  # names of the expected outputs' types
  seconds: Sequence[float]  # CPU limit of each call
  dataset: str = ''  # 'humaneval' or 'mbpp', whose special oracles apply
  atol: float = 0.0
  stop: bool = True  # at the first test that fails

  @classmethod
  def of(cls, name: str, cases: Iterable[tuple], seconds: float = 5.0, **kwargs):
    """Calls from (arguments, expected output) pairs of plain values."""
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
  """Tests as Python text, which may call the named functions of the program."""

  script: str
  names: tuple[str, ...]
  before: str = ''  # trusted text that the script needs, run in the checker
  call: str = ''  # a function of the script, called with the first named function


@dataclasses.dataclass(frozen=True)
class Record:
  """No test: records the outputs of a program that is trusted to be right."""

  name: str
  inputs: Sequence[Any]  # lists of arguments, encoded


Check = Calls | Script | Record
_KINDS = {Calls: 'calls', Script: 'script', Record: 'record'}


@dataclasses.dataclass(frozen=True)
class Job:
  """A program, its check (None: run it as a script), and its limits."""

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
    uids = stack.enter_context(lease_uids(2)) if isolation.uids else (None, None)
    folder = stack.enter_context(_folder())
    job = Job(program, check, limits or Limits())
    return _Run(job, isolation, uids, folder).outcome()


def run_all(
  jobs: Iterable[Job], workers: int = 1, isolation: Isolation | None = None
) -> Iterator[Outcome]:
  """The jobs' outcomes in order, the same for any number of workers.

  Jobs are consumed lazily, a few ahead.
  """
  if workers < 1:
    raise ConfigError('workers must be at least 1')
  isolation = isolation or detect()
  pool = ThreadPoolExecutor(workers)
  pending: collections.deque = collections.deque()
  try:
    for job in jobs:
      pending.append(pool.submit(run, job.program, job.check, job.limits, isolation))
      if len(pending) > 2 * workers:
        yield pending.popleft().result()
    while pending:
      yield pending.popleft().result()
  finally:
    # A program that cannot be isolated ends all; jobs that have not begun are dropped.
    pool.shutdown(cancel_futures=True)


@functools.cache
def detect(*, allow_network: bool = False) -> Isolation:
  """The strongest isolation that holds on this machine, tried by a probe.

  allow_network: accept that programs reach the network. Raises ConfigError.
  """
  failures = []
  for isolation in machine.candidates(allow_network=allow_network):
    if failure := verify(isolation):
      failures.append(f'{isolation.mode}: {failure}')
    else:
      return isolation
  raise ConfigError(
    f'generated code cannot be isolated on this machine ({"; ".join(failures) or "none"}); '
    'run on Linux as root or with user namespaces, install bubblewrap, or, as root '
    'in a container without network, give --allow_network'
  )


def verify(isolation: Isolation) -> str:
  """What an isolation fails to prevent, tried by a harmless program; '' if nothing.

  A program that forks without end may only run where this is empty.
  """
  limits = Limits(processes=7, wall_seconds=30.0)
  record = Record('probe', (plain.encode([limits.processes]),))
  try:
    outcome = run(machine.PROBE, record, limits, isolation)
  except ConfigError as e:
    return str(e)
  if outcome.status != Status.PASSED:
    return outcome.reason
  return machine.breach(plain.decode(outcome.answers[0][0]), isolation)


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
  """A temporary folder that lesser users can read."""
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
    ours, theirs = socket.socketpair()
    with ours, theirs:
      candidate = self._cell('candidate', [theirs], dataclasses.asdict(job.limits))
      with candidate:
        theirs.close()
        if job.check is None:
          _send(ours, {'program': job.program, 'serve': False})
          ours.close()
          return _outcome_alone(candidate.finish(wait=True), job.limits)
        verdict = self._check(ours)
        report = candidate.finish(wait=verdict.get('status') == 'lost')
    return _outcome_checked(verdict, report, job.limits)

  def _check(self, program_socket: socket.socket) -> dict[str, Any]:
    """The checker's verdict on the program at the other end of the socket."""
    job, check = self.job, self.job.check
    limits = dataclasses.asdict(job.limits) | _CHECKER
    limits['wall_seconds'] = job.limits.wall_seconds + PATIENCE
    ours, theirs = socket.socketpair()
    with ours, theirs, self._cell('checker', [program_socket, theirs], limits) as cell:
      theirs.close()
      program_socket.close()
      assert check is not None
      _send(
        ours,
        {
          'program': job.program,
          'check': dataclasses.asdict(check) | {'kind': _KINDS[type(check)]},
          'seconds': job.limits.call_seconds,
          'reply_bytes': job.limits.reply_mb << 20,
        },
      )
      try:
        # The checker has a wall-clock guard of its own, so this ends.
        verdict = plain.receive(ours.fileno(), VERDICT)
      except (EOFError, OSError):
        _, reason = _failure(cell.finish(wait=True), Limits(**limits))
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


def _send(to: socket.socket, message: Any) -> None:
  # A cell that could not be made is already gone; its report says why.
  with contextlib.suppress(BrokenPipeError, ConnectionResetError):
    plain.send(to.fileno(), message)


class _Cell:
  """A running cell; leaving the context kills what remains of it."""

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
      self.process.communicate(timeout=PATIENCE)  # time to end all processes inside
    except subprocess.TimeoutExpired:
      os.killpg(self.process.pid, signal.SIGKILL)
      self.process.communicate()

  def finish(self, *, wait: bool) -> dict[str, Any]:
    """The cell's report; wait: until the process ends by itself or by its limits.

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


def _outcome_alone(report: Mapping[str, Any], limits: Limits) -> Outcome:
  """The outcome of a program without a check."""
  if report['end'] == 'exited' and report['code'] == 0:
    return Outcome(Status.ENDED, '', report['cpu'], report['output'])
  return Outcome(*_failure(report, limits), report['cpu'], report['output'])


def _outcome_checked(verdict: Mapping[str, Any], report, limits: Limits) -> Outcome:
  """The outcome of a checked program: the verdict, or how its process ended."""
  if verdict['status'] == 'lost':
    status, reason = _failure(report, limits)
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


def _failure(report: Mapping[str, Any], limits: Limits) -> tuple[Status, str]:
  """Status and reason of a process that did not end properly."""
  end, code = report['end'], report['code']
  if end == 'wall':
    reason = f'the wall-clock guard of {limits.wall_seconds:g} s: it slept or waited'
    return Status.TIMED_OUT, reason
  if end == 'output':
    return Status.FAILED, f'it printed more than {limits.output_mb} MB'
  if end == 'stopped':
    return Status.FAILED, 'it closed the channel of its answers'
  # SIGKILL comes from the kernel too, one second after an ignored SIGXCPU.
  cpu_spent = code == -signal.SIGKILL and report['cpu'] >= limits.cpu_seconds
  if code in (-signal.SIGXCPU, -signal.SIGPROF) or cpu_spent:
    return Status.TIMED_OUT, 'its CPU time ran out'
  if code < 0:
    return Status.FAILED, f'killed by {signal.Signals(-code).name}'
  return Status.FAILED, f'exit code {code}'
