"""Runs of the toy sweep for several test files, in this process and in others."""

import functools
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest
import toy

from onlyif_jax import config as config_lib
from onlyif_jax import experiment as experiment_lib
from onlyif_jax.experiment import Experiment
from onlyif_jax.stacks import Stack, plan_stacks
from onlyif_jax.tasks import certificate
from onlyif_jax.workdir import Workdir

CACHE = Path(jax.config.jax_compilation_cache_dir)  # of every process of a call
SAME_BYTES = ('results.csv', 'metrics.jsonl', 'dynamics.csv', 'transition.json')
COMMAND = ('-m', 'onlyif_jax.main', f'--config={toy.__file__}')


def toy_config(arg: str = '', **settings) -> config_lib.RunConfig:
  """The toy's config; settings as section_field=value."""
  c = toy.get_config(arg)
  for name, value in settings.items():
    section, _, field = name.partition('_')
    setattr(c[section], field, value)
  return config_lib.freeze(c)


def wait_for(condition):
  """What a condition becomes; fails where it stays false for five minutes."""
  end = time.monotonic() + 300
  while not (value := condition()):
    assert time.monotonic() < end
    time.sleep(0.05)
  return value


def share_compiles():
  """Every run of a test module uses the same compiled programs; undo() at its end."""
  patch = pytest.MonkeyPatch()
  for name in ('program', 'evaluator'):
    real = getattr(Experiment, name)
    made: dict = {}

    def shared(self, *args, real=real, made=made):
      key = (self.trainer, self.config.eval, *args)
      if key not in made:
        made[key] = real(self, *args)
      return made[key]

    patch.setattr(Experiment, name, shared)
  patch.setattr(certificate, 'certify', functools.cache(certificate.certify))
  return patch


def start(cache: Path, *words: str, **more):
  """Starts python with these words, with this process's devices and cache."""
  env = os.environ | {
    'JAX_PLATFORMS': 'cpu',
    'JAX_NUM_CPU_DEVICES': '8',
    'JAX_DISABLE_MOST_OPTIMIZATIONS': '1',
    'JAX_COMPILATION_CACHE_DIR': str(cache),
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    'PYTHONPATH': os.pathsep.join(filter(None, sys.path)),
  }
  pipes = {'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE, 'text': True}
  return subprocess.Popen([sys.executable, *words], env=env, **pipes | more)


def call(cache: Path, *words: str, **more):
  """Runs python with these words to the end: (exit code, stdout, stderr)."""
  process = start(cache, *words, **more)
  try:
    out, err = process.communicate(timeout=300)
  finally:
    process.kill()
  return process.returncode, out, err


# Imports once, then forks for each request [module, arguments, code to run before]
# and answers with [exit code, stdout, stderr].
_SERVER = """
import json, os, runpy, sys, tempfile, traceback, warnings
warnings.simplefilter('ignore')
import onlyif_jax.dry_run, onlyif_jax.evaluation, onlyif_jax.sweep
for line in sys.stdin:
  module, arguments, before = json.loads(line)
  files = [tempfile.TemporaryFile('w+') for _ in range(2)]
  pid = os.fork()
  if not pid:
    for number, file in enumerate(files, start=1):
      os.dup2(file.fileno(), number)
    sys.argv = [module, *arguments]
    code = 0
    try:
      exec(before)
      runpy.run_module(module, run_name='__main__', alter_sys=True)
    except SystemExit as e:
      code = e.code or 0
    except BaseException:
      traceback.print_exc()
      code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
  code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
  texts = []
  for file in files:
    file.seek(0)
    texts.append(file.read())
  print(json.dumps([code, *texts]), flush=True)
"""


class Server:
  """Calls entry points in processes of their own that start in no time."""

  def __init__(self, cache: Path):
    self.process = start(cache, '-c', _SERVER, stdin=subprocess.PIPE, stderr=None)

  def call(self, module: str, *arguments, before: str = '') -> tuple[int, str, str]:
    """Runs onlyif_jax.<module> to its end: (exit code, stdout, stderr)."""
    request = [f'onlyif_jax.{module}', [str(a) for a in arguments], before]
    self.process.stdin.write(json.dumps(request) + '\n')
    self.process.stdin.flush()
    return tuple(json.loads(self.process.stdout.readline()))

  def close(self) -> None:
    """Ends the server."""
    self.process.stdin.close()
    self.process.wait(timeout=300)
    self.process.stdout.close()


class Crash(BaseException):
  """Ends a run as a kill would, without ending this process."""


def watch(patch, crash_at=None):
  """Lists the files as they are written; crashes in the middle of a write."""
  writes = []
  for name in ('_append', 'write_text'):
    real = getattr(Workdir, name)

    def write(self, file, text, real=real):
      writes.append(file)
      if len(writes) == crash_at:
        # A write in place is torn; one to a temporary file leaves that.
        target = file if real.__name__ == '_append' else f'{file}.tmp'
        with self.file(target).open('a') as f:
          f.write(text[: len(text) // 2])
        raise Crash
      real(self, file, text)

    patch.setattr(Workdir, name, write)
  return writes


def flip_bit(step):
  """Damages the largest file of a checkpoint, in the middle."""
  path = max(step.rglob('*'), key=lambda p: p.is_file() and p.stat().st_size)
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 4
  path.write_bytes(data)


def state(path: Path, stack: str = '000', step: int | None = None):
  """(step, state) of a stack's newest or given checkpoint, on one device."""
  from onlyif_jax.checkpoint import Checkpointer
  from onlyif_jax.training import parallel

  workdir = Workdir(path)
  config = workdir.config()
  experiment = experiment_lib.build(config)
  program = experiment.program(parallel.make_mesh(2), 'map')
  rows = experiment_lib.rows(config)
  (own,) = [s for s in plan_stacks(workdir, rows, 2, experiment) if s.name == stack]
  assert isinstance(own, Stack)
  abstract = jax.eval_shape(program.init, experiment.members(own.padded))
  with Checkpointer(workdir.file(f'checkpoints/{stack}')) as saver:
    if step is not None:
      return step, saver.restore_step(step, abstract)
    return saver.restore(abstract)


def assert_same_run(path: Path, other: Path) -> None:
  """The same bytes in every table, and the same bits in the last checkpoints."""
  for name in SAME_BYTES:
    assert (path / name).read_bytes() == (other / name).read_bytes(), name
  for stack in sorted(p.name for p in (other / 'checkpoints').iterdir()):
    (step, a), (wanted, b) = state(path, stack), state(other, stack)
    assert step == wanted
    assert_same_bits(a, b)


def assert_same_bits(a, b) -> None:
  """Equal trees of arrays, bit by bit."""
  assert jax.tree.structure(a) == jax.tree.structure(b)
  for x, y in zip(*map(jax.tree.leaves, map(jax.device_get, (a, b))), strict=True):
    assert x.tobytes() == y.tobytes()
