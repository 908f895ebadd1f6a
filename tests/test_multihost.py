"""Two processes on loopback train one sweep: its numbers are those of one process."""

import json
import os
import signal
import socket
import time

import jax
import pytest
import runs
from runs import assert_same_run, toy_config

from onlyif_jax import config, distributed, evaluation, sweep
from onlyif_jax.training import parallel
from onlyif_jax.workdir import Workdir

# argv: variables, code to run first, then the arguments of the main command.
_CHILD = """
import json, os, runpy, signal, sys
os.environ.update(json.loads(sys.argv.pop(1)))
first = os.environ.get('JAX_PROCESS_ID') == '0'
exec(sys.argv.pop(1))
runpy.run_module('onlyif_jax.main', run_name='__main__', alter_sys=True)
"""
# Process 0 dies in the save of step 22; the test then kills process 1.
_DIE = """
from onlyif_jax import checkpoint
def finish(self, step, response, real=checkpoint.Checkpointer._finish):
  if step == 22 and first:
    checkpoint._fingerprint = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
  real(self, step, response)
checkpoint.Checkpointer._finish = finish
"""
# Process 1 alone gets a signal, in its fourth chunk, which ends at step 11.
_STOP = """
from onlyif_jax import loop
chunks = []
def log(self, *args, real=loop.StackRun._log):
  chunks.append(1)
  if len(chunks) == 4 and not first:
    os.kill(os.getpid(), signal.SIGTERM)
  real(self, *args)
loop.StackRun._log = log
"""
# The disk of process 0 is full when its first chunk is logged.
_FULL = """
import errno
from onlyif_jax import workdir
def append(self, name, text, real=workdir.Workdir._append):
  if name == 'metrics.jsonl' and first:
    raise self._unwritable(name, OSError(errno.ENOSPC, 'No space left on device'))
  real(self, name, text)
workdir.Workdir._append = append
"""
COMMAND = (f'--config={runs.toy.__file__}', '--multihost')
MESHES = {
  'member': {'eval_outputs': 11},
  # A batch of 8 can be halved.
  'data': {'stack_member_devices': 1, 'stack_data_devices': 2, 'data_batch_size': 8},
}


def flags_of(settings):
  return [f'--config.{k.replace("_", ".", 1)}={v}' for k, v in settings.items()]


@pytest.fixture(scope='module', autouse=True)
def shared():
  patch = runs.share_compiles()
  yield
  patch.undo()


def address():
  with socket.socket() as s:
    s.bind(('127.0.0.1', 0))
    return f'127.0.0.1:{s.getsockname()[1]}'


def child(variables, before, *words):
  """A process of the main command."""
  return runs.start(runs.CACHE, '-c', _CHILD, json.dumps(variables), before, *words)


def start(workdirs, *words, before=''):
  """Two processes of the main command, each with one device."""
  at, out = address(), []
  for index, workdir in enumerate(workdirs):
    variables = {
      'JAX_COORDINATOR_ADDRESS': at,
      'JAX_NUM_PROCESSES': '2',
      'JAX_PROCESS_ID': str(index),
      'JAX_NUM_CPU_DEVICES': '1',
    }
    out.append(child(variables, before, *COMMAND, f'--workdir={workdir}', *words))
  return out


def ends(processes, seconds=300):
  """(exit code, stdout, stderr) of each."""
  try:
    texts = [p.communicate(timeout=seconds) for p in processes]
  finally:
    for p in processes:
      p.kill()
  return [(p.returncode, *text) for p, text in zip(processes, texts, strict=True)]


def both(path, *words, before='', code=0):
  """Runs two processes to the end, which must have this exit code."""
  found = ends(start([path, path], *words, before=before))
  assert [one[0] for one in found] == [code, code], found
  return found


@pytest.fixture(scope='module', params=MESHES)
def mesh(request, tmp_path_factory):
  """(settings, the workdir of one process with two devices)."""
  settings = MESHES[request.param]
  path = tmp_path_factory.mktemp('one') / request.param
  assert sweep.run(toy_config('', **settings), path)[:2] == (True, {})
  return settings, path


@pytest.mark.slow
def test_two_processes_killed_and_resumed_leave_the_bytes_of_one(mesh, tmp_path):
  settings, one = mesh
  words = flags_of(settings)
  found = both(tmp_path, *words, before=_STOP, code=128 + signal.SIGTERM)
  assert 'the same command goes on' in found[0][1]
  assert 'goes on' not in found[1][1]  # process 0 speaks for both
  assert 'rows 0/3' not in found[1][2]
  assert os.listdir(tmp_path / 'checkpoints/000') == ['11']
  first, second = start([tmp_path, tmp_path], *words, before=_DIE)
  assert first.wait(300) == -signal.SIGKILL
  second.kill()
  ends([first, second])
  assert not (tmp_path / 'checkpoints/000/22').exists()
  assert not (tmp_path / 'transition.json').exists()
  both(tmp_path, *words)
  # Also: what two processes saved is restored here, by one, to the same bits.
  assert_same_run(tmp_path, one)
  looked_at = (
    ('anatomy.csv', 'cells.csv', 'wrong.jsonl') if 'eval_outputs' in settings else ()
  )
  for name in looked_at:
    assert (tmp_path / name).read_bytes() == (one / name).read_bytes(), name
  provenance = Workdir(tmp_path).read_json_lines('resumes.jsonl')[-1]
  assert len(provenance['devices']) == 2
  for row, tallies in evaluation.show(evaluation.open_run(tmp_path)):
    assert_as_stored(tmp_path, row.row.member, tallies)


def assert_as_stored(path, member, tallies):
  rows = {
    (r['split'], r['slice'], r['metric']): (float(r['sum']), int(r['count']))
    for r in Workdir(path).read_csv('results.csv')
    if r['member'] == member
  }
  assert 0 < len(tallies) <= len(rows)  # decoded outputs are not looked at again
  for t in tallies:
    total, count = rows[t.split, t.slice, t.metric]
    assert (t.sum, t.count) == (pytest.approx(total, rel=1e-4), count)


@pytest.mark.slow
def test_one_process_goes_on_where_two_stopped(mesh, tmp_path):
  settings, one = mesh
  words = flags_of(settings)
  both(tmp_path, *words, before=_STOP, code=128 + signal.SIGTERM)
  assert sweep.run(toy_config('', **settings), tmp_path)[:2] == (True, {})
  assert_same_run(tmp_path, one)


@pytest.mark.slow
def test_a_directory_that_is_not_shared_is_refused(tmp_path):
  words = [tmp_path / 'a', tmp_path / 'b']
  before = 'from onlyif_jax import distributed; distributed.SEEN_SECONDS = 1.0'
  for code, _, err in ends(start(words, before=before)):
    assert code == 2, err
    assert 'a is not shared: processes [1] do not see' in err or 'b is not' in err
  assert not list((tmp_path / 'a').iterdir())


@pytest.mark.slow
def test_an_error_of_one_process_ends_both_soon(tmp_path):
  processes = start([tmp_path, tmp_path], before=_FULL)
  found = processes[0].wait(300)
  began = time.monotonic()
  (_, _, err), (code, *_) = ends(processes)
  assert time.monotonic() - began < 20
  assert found == 2
  assert 'error: ' in err
  assert 'could not be written (No space left' in err
  assert 'Traceback' not in err
  assert code != 0


def test_wrong_variables_are_named():
  place = {
    'JAX_COORDINATOR_ADDRESS': 'a:1',
    'JAX_NUM_PROCESSES': '2',
    'JAX_PROCESS_ID': '1',
  }
  assert distributed.parse_variables(place) == ('a:1', 2, 1)
  assert distributed.parse_variables({}) == (None, None, None)
  for name, value, told in (
    ('JAX_COORDINATOR_ADDRESS', 'a', 'JAX_COORDINATOR_ADDRESS=a is not host:port'),
    ('JAX_COORDINATOR_ADDRESS', 'a:b', 'not host:port'),
    ('JAX_NUM_PROCESSES', 'two', 'JAX_NUM_PROCESSES=two is not a whole number'),
    ('JAX_PROCESS_ID', '-1', 'JAX_PROCESS_ID=-1 is not a whole number'),
    ('JAX_PROCESS_ID', '2', 'JAX_PROCESS_ID=2 and JAX_NUM_PROCESSES=2'),
    ('JAX_NUM_PROCESSES', '0', 'JAX_NUM_PROCESSES=0'),
  ):
    with pytest.raises(config.ConfigError, match=told):
      distributed.parse_variables(place | {name: value})


@pytest.mark.slow
def test_processes_that_cannot_join_end_with_one_line():
  at = address()
  alone = {
    'JAX_COORDINATOR_ADDRESS': at,
    'JAX_NUM_PROCESSES': '2',
    'JAX_PROCESS_ID': '1',
  }
  before = 'from onlyif_jax import distributed as d; d.JOIN_SECONDS = 1'
  waiting = child(alone, before, *COMMAND)
  missing = child({'JAX_COORDINATOR_ADDRESS': at}, '', *COMMAND)
  for (code, _, err), told in zip(
    ends([waiting, missing]),
    (
      f'process 1 could not join the others at {at} (waited 1 s)',
      'JAX_NUM_PROCESSES, JAX_PROCESS_ID not set',
    ),
    strict=True,
  ):
    assert code == 2
    assert err.startswith('error: --multihost: ')
    assert err.count('\n') == 1
    assert told in err


def test_every_process_has_a_part_of_the_mesh(monkeypatch):
  monkeypatch.setattr(jax, 'process_count', lambda: 3)
  with pytest.raises(config.ConfigError, match='cannot be divided among 3 processes'):
    parallel.make_mesh(2, 2)
