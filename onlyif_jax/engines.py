"""The engines that train units of a sweep: Ray, and SLURM through submitit.

An engine places units, and starts one again (`--retries`) whose process or machine
died. It is a context manager; `start`, then `ended` until nothing is left, or `cancel`.
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

LOST = -1  # the exit code of a unit that was started often enough
_POLL, _LOOK = 1.0, 20.0  # seconds between looks at results, and at SLURM's queue


@dataclasses.dataclass(frozen=True)
class Options:
  """What a launcher's flags ask for."""

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


def _extra(module: str, extra: str) -> ModuleType:
  try:
    return importlib.import_module(module)
  except ImportError:
    raise ConfigError(
      f"--launcher={extra} needs {module}: pip install 'onlyif_jax[{extra}]'"
    ) from None


def _probe(address: str | None) -> None:
  """Refuses HOST:PORT where nothing answers; Ray itself would try for minutes."""
  found = re.fullmatch(r'(.+):(\d+)', address or '')
  if not found:
    return
  try:
    socket.create_connection((found[1], int(found[2])), timeout=10).close()
  except (OSError, OverflowError) as e:
    raise ConfigError(
      f'--ray_address={address}: nothing answers there ({e}); give that of a running '
      'cluster, or leave it out'
    ) from None


class Ray:
  """Units as tasks of a Ray cluster, which retries them by itself."""

  def __init__(self, options: Options, name: str, folder: Path):
    del name, folder
    self.options, self.tasks = options, {}
    self.ray: Any = _extra('ray', 'ray')

  def __enter__(self):
    o, quiet = self.options, {'log_to_driver': False, 'logging_level': logging.ERROR}
    address = o.ray_address or os.environ.get('RAY_ADDRESS')
    _probe(address)
    try:
      self.ray.init(address=address or 'auto', **quiet)
      self.where = 'Ray cluster'
    except (OSError, RuntimeError, ValueError) as e:
      if address or not isinstance(e, ConnectionError):
        raise ConfigError(f'--ray_address={address}: {e}') from None
      # Nothing goes through Ray's store but a few words.
      own = {'include_dashboard': False, 'object_store_memory': 2**27}
      self.ray.init(address='local', **own, **quiet)
      self.where = 'Ray on this machine'
    self._check_resources()
    return self

  def __exit__(self, *exc):
    self.ray.shutdown()

  def _check_resources(self) -> None:
    o = self.options
    asked = {'CPU': o.cpus, 'GPU': o.gpus, 'TPU': o.tpus}
    alive = [node['Resources'] for node in self.ray.nodes() if node['Alive']]
    most = {name: max(node.get(name, 0) for node in alive) for name in asked}
    for name, number in asked.items():
      if number > most[name]:
        text = f'--{name.lower()}s={number}: the largest machine has {most[name]:g}'
        if self.where != 'Ray cluster':
          self.ray.shutdown()
          raise ConfigError(f'{text}; lower it')
        print(f'{text}; waiting for one to join the cluster', flush=True)
    self.where += f', {len(alive)} nodes' if len(alive) > 1 else ''

  def start(self, todo: Sequence[Unit]) -> None:
    """Hands units to Ray."""
    o, task = self.options, self.ray.remote(work)
    settings = {
      'num_cpus': o.cpus,
      'num_gpus': o.gpus,
      'resources': {'TPU': o.tpus} if o.tpus else None,
      'max_retries': o.retries,
      'retry_exceptions': [InterruptedUnit],
    }
    for unit in todo:
      self.tasks[task.options(name=str(unit), **settings).remote(unit)] = unit

  def ended(self) -> list[tuple[Unit, Outcome]]:
    """The units that ended since the last call; waits for a second."""
    ready, _ = self.ray.wait(list(self.tasks), timeout=_POLL)
    return [(self.tasks.pop(ref), self._outcome(ref)) for ref in ready]

  def _outcome(self, ref) -> Outcome:
    try:
      return self.ray.get(ref)
    except self.ray.exceptions.RayError as e:
      return _lost(str(getattr(e, 'cause', None) or e))

  def cancel(self) -> None:
    """Tells the workers to stop; their processes save."""
    for ref in self.tasks:
      self.ray.cancel(ref, force=False)


class Job:
  """A unit as a SLURM job, which is queued again when its time is over."""

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
    """Saves when the time is nearly over: the job that goes on from there."""
    for pid in self.processes:
      stop(pid)
    return _extra('submitit', 'slurm').helpers.DelayedSubmission(Job(self.unit))


class Slurm:
  """Units as an array of SLURM jobs; one that died is handed in again."""

  def __init__(self, options: Options, name: str, folder: Path):
    self.jobs: dict[Unit, Any] = {}
    self.tries: collections.Counter[Unit] = collections.Counter()
    self.retries, own = options.retries, dict(options.slurm)
    submitit = _extra('submitit', 'slurm')
    cluster = own.pop('cluster', 'slurm')
    if cluster == 'slurm' and not shutil.which('sbatch'):
      raise ConfigError(
        '--launcher=slurm: there is no sbatch; run this on a login node of the cluster'
      )
    self.queued, self.looked = cluster == 'slurm', time.monotonic()
    self.gone: dict[str, float] = {}  # job -> since when the queue lacks it
    self.where = 'SLURM' if self.queued else 'jobs on this machine'
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
      slurm_additional_parameters=own,
      # Since 22.05 srun does not take it from the job.
      slurm_srun_args=[f'--cpus-per-task={options.cpus}'],
    )

  def __enter__(self):
    return self

  def __exit__(self, *exc):
    pass

  def start(self, todo: Sequence[Unit]) -> None:
    """Hands units in, several as one array; ConfigError where sbatch refuses them."""
    try:
      with self.executor.batch():
        jobs = [self.executor.submit(Job(unit)) for unit in todo]
    except (RuntimeError, subprocess.CalledProcessError) as e:
      raise ConfigError(f'--launcher=slurm: {e}') from None
    self.jobs |= zip(todo, jobs, strict=True)

  def ended(self) -> list[tuple[Unit, Outcome]]:
    """The units that ended since the last call; waits for a second."""
    time.sleep(_POLL)
    self._look()
    out, again = [], []
    for unit, job in list(self.jobs.items()):
      outcome = self._outcome(job)
      if outcome is None:
        continue
      del self.jobs[unit]
      if outcome.code == LOST and self.tries[unit] < self.retries:
        self.tries[unit] += 1
        again.append(unit)
        print(f'{unit}: {outcome.said}; it is handed in again', flush=True)
      else:
        out.append((unit, outcome))
    if again:
      self.start(again)
    return out

  def _look(self) -> None:
    """Notes, now and then, which jobs the queue lacks.

    submitit asks sacct, which not every cluster has, and at last every ten minutes.
    """
    if not self.queued or time.monotonic() < self.looked + _LOOK:
      return
    self.looked = time.monotonic()
    names = ','.join({job.job_id.partition('_')[0] for job in self.jobs.values()})
    words = ('squeue', '--noheader', '--array', '--format=%i', f'--jobs={names}')
    asked = subprocess.run(words, capture_output=True, text=True, check=False)
    # It fails where it knows none of them any more, and where it is out of reach.
    if not asked.returncode or 'Invalid job id' in asked.stderr:
      gone = {job.job_id for job in self.jobs.values()} - set(asked.stdout.split())
      self.gone = {i: self.gone.get(i, self.looked) for i in gone}

  def _outcome(self, job) -> Outcome | None:
    """How a job ended, None while it has not."""
    if not job.paths.result_pickle.exists():
      if self.queued:  # a shared directory may show the result late
        since = self.gone.get(job.job_id, math.inf)
        ended = time.monotonic() > since + SEEN_SECONDS
      else:
        ended = job.done()
      if not ended:
        return None
      log = job.paths.stderr
      words = log.read_text().strip().splitlines()[-1:] if log.exists() else []
      return _lost(f'{" ".join(words) or "the job died"}; see {log}')
    error = job.exception()
    return job.result() if error is None else _lost(f'{error}')

  def cancel(self) -> None:
    """Tells the jobs to stop; their processes save."""
    for job in self.jobs.values():
      job.cancel(check=False)
