"""The engines of sweeps over machines, and clusters whose workers are killed."""

import contextlib
import dataclasses
import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import runs
from test_launchers import CHOSEN, SAVING, unit

from onlyif_jax import engines, shards
from onlyif_jax.config import ConfigError
from onlyif_jax.engines import Options
from onlyif_jax.workdir import Workdir


@pytest.mark.parametrize('name', ['ray', 'slurm'])
def test_an_engine_that_is_absent_is_named(name, tmp_path, monkeypatch):
  module = {'ray': 'ray', 'slurm': 'submitit'}[name]
  monkeypatch.setitem(sys.modules, module, None)
  make = {'ray': engines.Ray, 'slurm': engines.Slurm}[name]
  with pytest.raises(ConfigError, match=rf"pip install 'onlyif_jax\[{name}\]'"):
    make(dataclasses.replace(CHOSEN, launcher=name), 'toy', tmp_path)


@pytest.fixture
def quick(monkeypatch):
  monkeypatch.setattr(engines, '_POLL', 0.1)


@pytest.mark.parametrize('address', ['127.0.0.1:1', 'a:99999'])
def test_an_address_without_a_ray_cluster_is_named(address, monkeypatch, tmp_path):
  monkeypatch.setitem(sys.modules, 'ray', SimpleNamespace())
  engine = engines.Ray(dataclasses.replace(CHOSEN, ray_address=address), '', tmp_path)
  with pytest.raises(ConfigError, match=f'--ray_address={address}: nothing answers'):
    engine.__enter__()


def slurm(path, **options):
  pytest.importorskip('submitit')
  chosen = Options('slurm', cpus=2, gpus=0, tpus=0, retries=1, **options)
  return engines.Slurm(chosen, 'toy', path / 'shards')


LOCAL = {'slurm': {'cluster': 'local'}}


def test_slurm_without_a_cluster_is_refused(tmp_path, monkeypatch):
  monkeypatch.setenv('PATH', str(tmp_path))
  with pytest.raises(ConfigError, match='no sbatch; run this on a login node'):
    slurm(tmp_path)


def finish(engine):
  """All (unit, outcome) of an engine."""
  ended = []
  end = time.monotonic() + 300
  while engine.jobs:
    assert time.monotonic() < end
    ended += engine.ended()
  return ended


def test_slurm_jobs_run_units_and_hand_in_again_those_that_died(quick, tmp_path):
  engine = slurm(tmp_path, **LOCAL)
  dying = 'import os; open("tries", "a").write("x"); os.kill(os.getpid(), 9)'
  second = f'import os; os.path.exists("tries") and exit(2)\n{dying}'
  works = unit(tmp_path / 'a', '-c', 'print(7)', number=1)
  dies = unit(tmp_path / 'b', '-c', dying, number=2)
  dies_once = unit(tmp_path / 'c', '-c', second, number=3)
  with engine:
    engine.start([works, dies, dies_once])
    ended = dict(finish(engine))
  assert (ended[works].code, ended[works].said) == (0, '7')
  assert ended[dies].code == engines.LOST
  assert 'it was lost (' in ended[dies].said
  assert 'SIGKILL' in ended[dies].said
  assert (tmp_path / 'b' / 'tries').read_text() == 'xx'  # --retries=1
  assert ended[dies_once].code == 2


def test_slurm_jobs_save_at_the_end_of_their_time_and_go_on(quick, tmp_path):
  again = 'import os; os.path.exists("saved") and exit(0)\n'
  one = unit(tmp_path / 'a', '-c', again + SAVING)
  other = unit(tmp_path / 'b', '-c', SAVING)
  with slurm(tmp_path, **LOCAL) as engine:
    engine.start([one, other])
    for path in (tmp_path / 'a', tmp_path / 'b'):
      runs.wait_for((path / 'started').exists)
    controller = engine.jobs[one]._process.pid  # passes no signals on
    children = Path(f'/proc/{controller}/task/{controller}/children').read_text()
    os.kill(int(children), signal.SIGUSR2)
    ended = []
    while not ended:
      ended = engine.ended()
    assert [(u, o.code) for u, o in ended] == [(one, 0)]
    assert (tmp_path / 'a' / 'saved').read_text() == 'x'
    assert not (tmp_path / 'b' / 'saved').exists()
    engine.cancel()
    runs.wait_for((tmp_path / 'b' / 'saved').exists)
    runs.wait_for(engine.jobs[other].done)


def test_a_slurm_job_has_saved_before_it_is_queued_again(tmp_path):
  pytest.importorskip('submitit')
  job, ended = engines.Job(unit(tmp_path, '-c', SAVING)), []
  thread = threading.Thread(target=lambda: ended.append(job()))
  thread.start()
  runs.wait_for((tmp_path / 'started').exists)
  again = job.checkpoint()
  assert (tmp_path / 'saved').exists()
  assert again.function.unit == job.unit
  thread.join()
  assert ended[0].code == engines.LOST


def program(path, monkeypatch, name, text):
  """A program of SLURM's, and an srun, which submitit looks for."""
  for file in (name, 'srun'):
    (path / file).write_text(f'#!/bin/sh\n{text}\n')
    (path / file).chmod(0o755)
  monkeypatch.setenv('PATH', f'{path}:{os.environ["PATH"]}')


def test_a_slurm_job_asks_for_what_the_flags_say(tmp_path, monkeypatch):
  program(tmp_path, monkeypatch, 'sbatch', 'cp $1 $(dirname $0)/job; echo job 7')
  options = {'partition': 'big', 'mem': '8G', 'exclusive': True}
  engine = slurm(tmp_path, minutes=45, slurm=options)
  engine.start([unit(tmp_path / x, '-c', '', number=n) for n, x in enumerate('ab', 1)])
  asked = (tmp_path / 'job').read_text().splitlines()
  for line in ('cpus-per-task=2', 'time=45', 'partition=big', 'mem=8G', 'exclusive'):
    assert f'#SBATCH --{line}' in asked
  assert '#SBATCH --array=0-1%2' in asked
  assert any(x.startswith('srun ') and '--cpus-per-task=2' in x for x in asked)
  assert not any('gpu' in line for line in asked)
  program(tmp_path, monkeypatch, 'sbatch', 'echo no such partition >&2; exit 1')
  with pytest.raises(ConfigError, match='no such partition'):
    engine.start([unit(tmp_path / 'a', '-c', '')])


def test_a_slurm_job_that_left_the_queue_is_handed_in_again(
  quick, tmp_path, monkeypatch, capsys
):
  for name in ('_LOOK', 'SEEN_SECONDS'):
    monkeypatch.setattr(engines, name, 0)
  count = 'echo x >> $(dirname $0)/jobs; echo job $(wc -l < $(dirname $0)/jobs)'
  program(tmp_path, monkeypatch, 'sbatch', count)
  program(tmp_path, monkeypatch, 'squeue', 'echo 1')
  engine = slurm(tmp_path)
  one = unit(tmp_path / 'a', '-c', '')
  engine.start([one])
  assert [engine.ended() for _ in range(3)] == [[], [], []]  # it is there
  program(tmp_path, monkeypatch, 'squeue', 'echo cannot be reached >&2; exit 1')
  assert [engine.ended() for _ in range(3)] == [[], [], []]
  program(tmp_path, monkeypatch, 'squeue', 'echo Invalid job id specified >&2; exit 1')
  (ended,) = finish(engine)
  assert ended[1].code == engines.LOST
  assert 'the job died; see ' in ended[1].said
  assert (tmp_path / 'jobs').read_text() == 'x\nx\n'  # --retries=1
  assert 'stack 1 of 3: it was lost (' in capsys.readouterr().out


# Whole sweeps, in processes

LONG = (  # three stacks, each of a few seconds of training
  f'--config={runs.toy.__file__}:counts=3|17,seeds=2',
  *(
    '--config.data.epochs=400',
    '--config.stack.chunk=100',
    '--config.checkpoint.every=499',
  ),
)
# As `runs.start` has it.
ENVIRONMENT = {
  'JAX_NUM_CPU_DEVICES': '8',
  'JAX_DISABLE_MOST_OPTIMIZATIONS': '1',
  'JAX_COMPILATION_CACHE_DIR': str(runs.CACHE),
  'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
  'PYTHONPATH': os.pathsep.join(filter(None, sys.path)),
}


def command(path, *words):
  return ('-m', 'onlyif_jax.main', *LONG, f'--workdir={path}', *words)


@pytest.fixture(scope='module')
def local_run(tmp_path_factory):
  """What the sweep leaves when one machine trains it."""
  path = tmp_path_factory.mktemp('local')
  finish_driver(runs.start(runs.CACHE, *command(path)))
  return path


def finish_driver(driver, code=0) -> str:
  """What a command prints, which ends with this code."""
  try:
    out, err = driver.communicate(timeout=500)
  finally:
    driver.kill()
  assert driver.returncode == code, err
  return out


def processes(path, number) -> list[int]:
  """The processes that train a shard."""
  wanted = {f'--workdir={path}', f'--shard={number}/3'}
  found = []
  for path in Path('/proc').glob('[0-9]*/cmdline'):
    with contextlib.suppress(OSError):
      words = path.read_bytes().decode().split('\0')
      if wanted <= set(words) and words[1] == '-m':
        found.append(int(path.parent.name))
  return found


def parent(pid: int) -> int:
  return int(Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[1])


def mid_row(path, number) -> bool:
  """Whether a unit has saved and is not done."""
  shard = shards.place(path, (number, 3))
  saved = any(shard.glob('checkpoints/000/*/digest.json'))
  return saved and not Workdir(shard).read_csv('results.csv')


@pytest.mark.slow
def test_a_sweep_over_ray_survives_killed_workers_and_nodes(
  local_run, tmp_path, monkeypatch
):
  cluster_utils = pytest.importorskip('ray.cluster_utils')
  for name, value in ENVIRONMENT.items():  # that of the nodes
    monkeypatch.setenv(name, value)
  cluster = cluster_utils.Cluster(True, head_node_args={'num_cpus': 2})
  driver = None
  try:
    node = cluster.add_node(num_cpus=2)
    words = ('--launcher=ray', '--cpus=2', f'--ray_address={cluster.address}')
    driver = runs.start(runs.CACHE, *command(tmp_path, *words))
    runs.wait_for(lambda: mid_row(tmp_path, 1) and mid_row(tmp_path, 2))
    raylet = node.all_processes['raylet'][0].process.pid
    pids = {n: processes(tmp_path, n)[0] for n in (1, 2)}
    (there,) = (n for n, pid in pids.items() if parent(parent(pid)) == raylet)
    here = 3 - there
    os.kill(parent(pids[here]), signal.SIGKILL)  # the worker
    os.kill(pids[here], signal.SIGKILL)  # and what it had started
    cluster.remove_node(node, allow_graceful=False)
    assert mid_row(tmp_path, there)
    assert 'figure: ' in finish_driver(driver)
  finally:
    if driver is not None:
      driver.kill()
    cluster.shutdown()
  for n in (1, 2):
    resumes = Workdir(shards.place(tmp_path, (n, 3))).read_json_lines('resumes.jsonl')
    assert len(resumes) == 1
  for name in runs.SAME_BYTES:
    assert (tmp_path / name).read_bytes() == (local_run / name).read_bytes(), name


@pytest.mark.slow
def test_a_sweep_of_slurm_jobs_that_is_stopped_goes_on(local_run, tmp_path):
  pytest.importorskip('submitit')
  words = command(tmp_path, '--launcher=slurm', '--slurm_options=cluster=local')
  driver = runs.start(runs.CACHE, *words)
  runs.wait_for(lambda: all(mid_row(tmp_path, n) for n in (1, 2, 3)))
  driver.terminate()
  assert 'the same command goes on from there' in finish_driver(driver, 143)
  assert not any(processes(tmp_path, n) for n in (1, 2, 3))
  out = finish_driver(runs.start(runs.CACHE, *words))
  assert 'jobs on this machine: ' in out  # a stack may have been at its end
  for name in runs.SAME_BYTES:
    assert (tmp_path / name).read_bytes() == (local_run / name).read_bytes(), name
