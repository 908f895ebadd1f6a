"""The engines that train units of a sweep: Ray, and SLURM through submitit.

An engine places units, and restarts (`--retries`) those whose process or machine died.
It is a context manager: call `start`, then `ended` until all have ended, or `cancel`.
"""

import collections
import dataclasses
import importlib
import logging
import math
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from onlyif_jax.config import ConfigError
from onlyif_jax.units import SEEN_SECONDS, InterruptedUnit, Outcome, Unit, stop, work

LOST = -1  # the exit code of a unit whose process or machine died
_POLL, _LOOK = 1.0, 20.0  # seconds between polls of results, and of SLURM's queue


@dataclasses.dataclass(frozen=True)
class Options:
  """The flags of a launcher."""

  launcher: str
  cpus: int
  gpus: int
  tpus: int
  retries: int
  ray_address: str | None = None
  minutes: int = 60
  slurm: dict[str, str | bool] = dataclasses.field(default_factory=dict)  # of sbatch


def _lost(reason: str) -> Outcome:
  return Outcome(LOST, f'it was lost ({" ".join(reason.split())})')


def _import(module: str, extra: str) -> ModuleType:
  """Imports a package of an extra; raises ConfigError where it is missing."""
  try:
    return importlib.import_module(module)
  except ImportError:
    raise ConfigError(
      f"--launcher={extra} needs {module}: pip install 'onlyif_jax[{extra}]'"
    ) from None


def _probe(address: str | None) -> None:
  """Raises ConfigError for HOST:PORT without answer; Ray would try for minutes."""
  match = re.fullmatch(r'(.+):(\d+)', address or '')
  if not match:
    return
  try:
    socket.create_connection((match[1], int(match[2])), timeout=10).close()
  except (OSError, OverflowError) as e:
    raise ConfigError(
      f'--ray_address={address}: nothing answers there ({e}); give that of a running '
      'cluster, or leave it out'
    ) from None


class Ray:
  """Units as tasks of a Ray cluster, which does the retries."""

  def __init__(self, options: Options, name: str, folder: Path):
    del name, folder
    self.options, self.tasks = options, {}
    self.ray: Any = _import('ray', 'ray')

  def __enter__(self):
    quiet = {'log_to_driver': False, 'logging_level': logging.ERROR}
    address = self.options.ray_address or os.environ.get('RAY_ADDRESS')
    _probe(address)
    try:
      self.ray.init(address=address or 'auto', **quiet)
      self.where = 'Ray cluster'
    except (OSError, RuntimeError, ValueError) as e:
      if address or not isinstance(e, ConnectionError):
        raise ConfigError(f'--ray_address={address}: {e}') from None
      # Only short messages go through Ray's object store.
      local = {'include_dashboard': False, 'object_store_memory': 2**27}
      self.ray.init(address='local', **local, **quiet)
      self.where = 'Ray on this machine'
    self._check_resources()
    return self

  def __exit__(self, *exc):
    self.ray.shutdown()

  def _check_resources(self) -> None:
    """Says, or refuses on one machine, if no node has what a unit needs."""
    o = self.options
    requested = {'CPU': o.cpus, 'GPU': o.gpus, 'TPU': o.tpus}
    nodes = [node['Resources'] for node in self.ray.nodes() if node['Alive']]
    for name, number in requested.items():
      most = max(node.get(name, 0) for node in nodes)
      if number > most:
        text = f'--{name.lower()}s={number}: the largest machine has {most:g}'
        if self.where != 'Ray cluster':
          self.ray.shutdown()
          raise ConfigError(f'{text}; lower it')
        print(f'{text}; waiting for one to join the cluster', flush=True)
    self.where += f', {len(nodes)} nodes' if len(nodes) > 1 else ''

  def start(self, units: Sequence[Unit]) -> None:
    """Hands units to Ray."""
    o, task = self.options, self.ray.remote(work)
    settings = {
      'num_cpus': o.cpus,
      'num_gpus': o.gpus,
      'resources': {'TPU': o.tpus} if o.tpus else None,
      'max_retries': o.retries,
      'retry_exceptions': [InterruptedUnit],
    }
    for unit in units:
      self.tasks[task.options(name=str(unit), **settings).remote(unit)] = unit

  def ended(self) -> list[tuple[Unit, Outcome]]:
    """The units that ended since the last call; waits up to a second."""
    ready, _ = self.ray.wait(list(self.tasks), timeout=_POLL)
    return [(self.tasks.pop(ref), self._outcome(ref)) for ref in ready]

  def _outcome(self, ref) -> Outcome:
    try:
      return self.ray.get(ref)
    except self.ray.exceptions.RayError as e:
      return _lost(str(getattr(e, 'cause', None) or e))

  def cancel(self) -> None:
    """Makes the workers stop; their processes save."""
    for ref in self.tasks:
      self.ray.cancel(ref, force=False)


class Job:
  """A unit as a SLURM job, which is queued again at its time limit."""

  def __init__(self, unit: Unit):
    self.unit = unit
    self.processes: list[int] = []

  def __call__(self) -> Outcome:
    """Runs the unit."""
    try:
      return work(self.unit, self.processes.append)
    except InterruptedUnit as e:
      return _lost(str(e))

  def checkpoint(self):
    """Stops the unit near the time limit, so that it saves; returns the next job."""
    for pid in self.processes:
      stop(pid)
    return _import('submitit', 'slurm').helpers.DelayedSubmission(Job(self.unit))


class Slurm:
  """Units as an array of SLURM jobs; one that died is submitted again."""

  def __init__(self, options: Options, name: str, folder: Path):
    self.jobs: dict[Unit, Any] = {}
    self.restarts: collections.Counter[Unit] = collections.Counter()
    self.retries, parameters = options.retries, dict(options.slurm)
    submitit = _import('submitit', 'slurm')
    cluster = parameters.pop('cluster', 'slurm')
    if cluster == 'slurm' and not shutil.which('sbatch'):
      raise ConfigError(
        '--launcher=slurm: there is no sbatch; run this on a login node of the cluster'
      )
    self.has_queue, self.polled = cluster == 'slurm', time.monotonic()
    self.missing: dict[str, float] = {}  # job id -> since when the queue lacks it
    self.where = 'SLURM' if self.has_queue else 'jobs on this machine'
    self.executor: Any = submitit.AutoExecutor(
      folder / 'jobs', cluster=cluster, slurm_max_num_timeout=100
    )
    self.executor.update_parameters(
      name=f'onlyif-{name}',
      nodes=1,
      tasks_per_node=1,
      cpus_per_task=options.cpus,
      **({'gpus_per_node': options.gpus} if options.gpus else {}),
      timeout_min=options.minutes,
      slurm_additional_parameters=parameters,
      # Since SLURM 22.05 srun does not inherit it from the job.
      slurm_srun_args=[f'--cpus-per-task={options.cpus}'],
    )

  def __enter__(self):
    return self

  def __exit__(self, *exc):
    pass

  def start(self, units: Sequence[Unit]) -> None:
    """Submits units as one array; raises ConfigError where sbatch refuses them."""
    try:
      with self.executor.batch():
        jobs = [self.executor.submit(Job(unit)) for unit in units]
    except (RuntimeError, subprocess.CalledProcessError) as e:
      raise ConfigError(f'--launcher=slurm: {e}') from None
    self.jobs |= zip(units, jobs, strict=True)

  def ended(self) -> list[tuple[Unit, Outcome]]:
    """The units that ended since the last call; waits for a second."""
    time.sleep(_POLL)
    self._poll_queue()
    ended, lost = [], []
    for unit, job in list(self.jobs.items()):
      outcome = self._outcome(job)
      if outcome is None:
        continue
      del self.jobs[unit]
      if outcome.code == LOST and self.restarts[unit] < self.retries:
        self.restarts[unit] += 1
        lost.append(unit)
        print(f'{unit}: {outcome.said}; it is handed in again', flush=True)
      else:
        ended.append((unit, outcome))
    if lost:
      self.start(lost)
    return ended

  def _poll_queue(self) -> None:
    """Notes, every _LOOK seconds, which jobs the queue lacks.

    submitit asks sacct, which not every cluster has, and later only every ten minutes.
    """
    if not self.has_queue or time.monotonic() < self.polled + _LOOK:
      return
    self.polled = time.monotonic()
    arrays = ','.join({job.job_id.partition('_')[0] for job in self.jobs.values()})
    command = ('squeue', '--noheader', '--array', '--format=%i', f'--jobs={arrays}')
    queue = subprocess.run(command, capture_output=True, text=True, check=False)
    # squeue fails where it knows none of the jobs any more, or where it is out of reach.
    if not queue.returncode or 'Invalid job id' in queue.stderr:
      missing = {job.job_id for job in self.jobs.values()} - set(queue.stdout.split())
      self.missing = {i: self.missing.get(i, self.polled) for i in missing}

  def _outcome(self, job) -> Outcome | None:
    """How a job ended, None while it runs."""
    result = job.paths.result_pickle
    if not result.exists() and not self._has_ended(job):
      return None
    if result.exists():
      error = job.exception()
      return job.result() if error is None else _lost(f'{error}')
    log = job.paths.stderr
    last = log.read_text().strip().splitlines()[-1:] if log.exists() else []
    return _lost(f'{" ".join(last) or "the job died"}; see {log}')

  def _has_ended(self, job) -> bool:
    """Whether a job without a result has ended."""
    if not self.has_queue:
      return job.done()
    # A shared directory may show the result late.
    since = self.missing.get(job.job_id, math.inf)
    return time.monotonic() > since + SEEN_SECONDS

  def cancel(self) -> None:
    """Makes the jobs stop; their processes save."""
    for job in self.jobs.values():
      job.cancel(check=False)
