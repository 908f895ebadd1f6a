"""Sweeps over machines: units of work, flags, and the driver."""

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest
from absl import flags
from absl.testing import flagsaver
from runs import toy_config, wait_for

from onlyif_jax import engines, launchers, shards, sweep, units
from onlyif_jax.config import ConfigError
from onlyif_jax.engines import Options
from onlyif_jax.units import InterruptedUnit, Outcome, Unit
from onlyif_jax.workdir import Workdir

ARG = 'counts=3|17|5,seeds=1'  # with a reference two stacks of two members
CHOSEN = Options('ray', cpus=2, gpus=0, tpus=0, retries=1)
SAVING = """
import signal, sys, time
def save(*_):
  time.sleep(0.7)
  open('saved', 'a').write('x')
  sys.exit(143)
signal.signal(signal.SIGTERM, save)
open('started', 'a').write('x')
time.sleep(60)
"""


def unit(path, *words, number=1) -> Unit:
  """A unit whose process is python with these words, in the directory `path`."""
  path.mkdir(parents=True, exist_ok=True)
  (path / units.LOCK).touch()
  return Unit(number, 3, str(path), words, str(path), 'cpu')


# Units


def test_a_unit_ends_with_the_code_and_last_words_of_its_process(tmp_path):
  told = 'import os, sys; print("a"); print(os.environ["JAX_PLATFORMS"])'
  first = units.work(unit(tmp_path, '-c', told))
  assert (first.code, first.said) == (0, 'cpu')
  refused = 'import sys; print("error: too few"); print("later"); sys.exit(2)'
  second = units.work(unit(tmp_path, '-c', refused))
  assert (second.code, second.said) == (2, 'too few')
  assert (tmp_path / units.LOG).read_text() == 'a\ncpu\nerror: too few\nlater\n'
  third = units.work(unit(tmp_path, '-c', '1 / 0'))
  assert third.code == 1
  assert third.said.startswith('ZeroDivisionError')


@pytest.mark.parametrize('how', ['os.kill(os.getpid(), 9)', 'sys.exit(143)'])
def test_a_unit_that_a_signal_ended_is_to_go_on(how, tmp_path):
  with pytest.raises(InterruptedUnit, match=r'SIG(KILL|TERM) on '):
    units.work(unit(tmp_path, '-c', f'import os, sys; {how}'))


def test_a_machine_without_the_directories_says_so(tmp_path, monkeypatch):
  monkeypatch.setattr(units, 'SEEN_SECONDS', 0)
  one = unit(tmp_path, '-c', '')
  (tmp_path / units.LOCK).unlink()
  outcome = units.work(one)
  assert (outcome.code, outcome.said.split(' ', 1)[1]) == (
    *(2, f'does not see {tmp_path}/lock; give a --workdir that all machines share'),
  )
  assert not (tmp_path / units.LOG).exists()
  moved = Unit(1, 3, str(tmp_path), (), str(tmp_path / 'absent'), 'cpu')
  assert 'absent; start in a shared directory' in units.work(moved).said


def test_the_process_of_a_killed_worker_saves_before_another_starts(tmp_path):
  one = unit(tmp_path, '-c', SAVING)
  code = 'import sys; from onlyif_jax import units; units.work(eval(sys.argv[1]))'
  code = code.replace('eval', 'units.Unit').replace('sys.argv[1]', '*eval(sys.argv[1])')
  fields = repr((1, 3, one.directory, one.arguments, one.cwd, 'cpu'))
  worker = subprocess.Popen([sys.executable, '-c', code, fields])
  wait_for((tmp_path / 'started').exists)
  worker.kill()
  worker.wait()
  seen = 'import os; print(os.path.exists("saved"))'
  assert units.work(unit(tmp_path, '-c', seen)).said == 'True'


def test_a_worker_that_is_cancelled_makes_its_process_save(tmp_path):
  started = tmp_path / 'started'

  def interrupt():
    wait_for(started.exists)
    os.kill(os.getpid(), signal.SIGINT)

  thread = threading.Thread(target=interrupt)
  thread.start()
  with pytest.raises(KeyboardInterrupt):
    units.work(unit(tmp_path, '-c', SAVING))
  thread.join()
  assert (tmp_path / 'saved').exists()


# Flags


def asked(*other, **given):
  """The options of a command line with these flags, and those of main."""
  with flagsaver.as_parsed(**given):
    flags.FLAGS.mark_as_parsed()
    return launchers.options([SimpleNamespace(name=n, value=True) for n in other])


def test_flags_become_options():
  assert asked() is None
  assert asked('shard', launcher='local', cpus='3') is None  # a unit's own command
  got = asked(launcher='slurm', gpus='1', slurm_options='partition=a,exclusive')
  assert got == Options(
    *('slurm', 2, 1, 0, 3, None, 60),
    {'partition': 'a', 'exclusive': True},
  )
  assert asked(launcher='ray', tpus='4', ray_address='a:1').ray_address == 'a:1'


BAD_FLAGS = {
  '--gpus is for --launcher=ray or --launcher=slurm; give': {'gpus': '1'},
  '--minutes is for --launcher=slurm; give': {'launcher': 'ray', 'minutes': '5'},
  '--tpus is for --launcher=ray; give': {'launcher': 'slurm', 'tpus': '4'},
  '--gpus and --tpus': {'launcher': 'ray', 'gpus': '1', 'tpus': '1'},
  "has 'part ition=a'; give KEY=VALUE": {'slurm_options': 'part ition=a'},
  "has 'mem='; give KEY=VALUE": {'slurm_options': 'mem='},
  "has 'cluster=x'; only cluster=local": {'slurm_options': 'cluster=x'},
}


@pytest.mark.parametrize('said', BAD_FLAGS)
def test_flags_that_disagree_are_named(said):
  given = {'launcher': 'slurm'} if 'slurm_options' in BAD_FLAGS[said] else {}
  with pytest.raises(ConfigError, match=said):
    asked(**given, **BAD_FLAGS[said])


@pytest.mark.parametrize(
  ('other', 'given', 'said'),
  [
    (['multihost'], {}, '--multihost: a run of mine is one process'),
    ([], {'launcher': 'slurm'}, '--launcher: a run of mine'),
    ([], {'minutes': '60'}, '--minutes: a run of mine'),
  ],
)
def test_runs_of_one_process_go_without_launchers(other, given, said):
  holders = [SimpleNamespace(name=n, value=True) for n in other]
  with flagsaver.as_parsed(**given):
    flags.FLAGS.mark_as_parsed()
    with pytest.raises(ConfigError, match=said):
      launchers.refuse(holders, 'a run of mine')
  launchers.refuse([SimpleNamespace(name='shard', value=None)], 'a run of mine')


@pytest.mark.parametrize('flag', ['shard', 'multihost', 'dry_run'])
def test_a_launcher_goes_without_flags_of_one_machine(flag):
  with pytest.raises(ConfigError, match=f'--launcher=ray: leave out --{flag}'):
    asked(flag, launcher='ray')


# The driver


class Instead:
  """Stands for an engine: every unit ends as `how` says, by number."""

  where = 'nowhere'

  def __init__(self, how, stop=None):
    self.how, self.stop, self.started, self.cancelled = how, stop, [], False

  def __call__(self, options, name, folder):
    return contextlib.nullcontext(self)

  def start(self, todo):
    self.started += [(one.number, one.of) for one in todo]
    self.left = list(todo)

  def ended(self):
    if self.stop:
      os.kill(os.getpid(), self.stop)
      return []
    one = self.left.pop(0)
    code, said, done = self.how[one.number]
    if done:
      Workdir(one.directory).append_json('ledger.jsonl', {'event': 'done'})
    return [(one, Outcome(code, said, 'host', 3.0))]

  def cancel(self):
    self.cancelled = True


@pytest.fixture
def engine(monkeypatch):
  """Puts an engine in Ray's place and leaves out what comes after the training."""

  def put(*args):
    one = Instead(*args)
    monkeypatch.setattr(engines, 'Ray', one)
    return one

  monkeypatch.setattr(shards, 'gather', lambda path: path)
  monkeypatch.setattr(sweep, 'main', lambda config, path: 0)
  monkeypatch.setattr(units, 'SEEN_SECONDS', 0)
  before = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
  yield put
  signal.signal(signal.SIGTERM, before[0])
  signal.signal(signal.SIGINT, before[1])


def drive(path, **settings):
  return launchers.main(toy_config(ARG, **settings), path, CHOSEN)


def test_units_are_the_stacks_and_those_that_are_done_are_left_out(
  engine, tmp_path, capsys
):
  one = engine({1: (0, '', True), 2: (1, 'a member is not finite', True)})
  assert drive(tmp_path) == 0
  assert one.started == [(1, 2), (2, 2)]
  out = capsys.readouterr().out
  assert 'nowhere: 2 of 2 stacks to train; to watch: tail -f ' in out
  assert 'stack 2 of 2 is done on host after 0.1 min; 2 of 2 ready\n' in out
  again = engine({})
  config = json.dumps(dataclasses.asdict(toy_config(ARG)))
  for shard in ((1, 2), (2, 2)):
    assert (shards.place(tmp_path, shard) / units.LOCK).exists()
    Workdir(shards.place(tmp_path, shard)).write_text('config.json', config)
  assert drive(tmp_path) == 0
  assert again.started == []


def test_a_unit_that_fails_does_not_stop_the_others(engine, tmp_path, capsys):
  engine({1: (2, 'sweep.x is wrong', False), 2: (0, '', True)})
  with pytest.raises(ConfigError, match=r'1 of 2 .* because: sweep.x is wrong \(the s'):
    drive(tmp_path)
  told = capsys.readouterr()
  assert told.err == 'stack 1 of 2 failed: sweep.x is wrong\n'
  assert 'stack 2 of 2 is done on host' in told.out
  engine({1: (1, 'KeyError: 3', False)})  # a traceback, or files that are elsewhere
  with pytest.raises(SystemExit, match='1'):
    drive(tmp_path)
  assert 'KeyError: 3; see ' in capsys.readouterr().err


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_driver_that_is_stopped_cancels_and_says_how_to_go_on(
  number, engine, tmp_path, capsys
):
  one = engine({}, number)
  assert drive(tmp_path) == 128 + number
  assert one.cancelled
  assert 'the same command goes on from there' in capsys.readouterr().out


def test_what_cannot_be_split_or_joined_is_refused(engine, tmp_path):
  one = engine({})
  with pytest.raises(ConfigError, match='an adaptive sweep cannot be split'):
    drive(tmp_path, sweep_adaptive_width=0.1, sweep_counts=(3, 5, 7, 17))
  with pytest.raises(ConfigError, match='not a directory that all machines share'):
    drive('gs://bucket/a')
  gpu = Options('ray', cpus=2, gpus=4, tpus=0, retries=1)
  with pytest.raises(ConfigError, match=r'--gpus: say how many .*stack.members=8'):
    launchers.main(toy_config(ARG, stack_members=0), tmp_path, gpu)
  plan = {'event': 'planned', 'stack': '000', 'members': ['I3-s0']}
  local = Workdir(tmp_path / 'local')
  local.create()
  local.append_json('ledger.jsonl', plan)
  with pytest.raises(ConfigError, match='holds a run of one machine; leave out --laun'):
    drive(local.path)
  own = Workdir(shards.place(tmp_path / 'split', (2, 7)))
  own.create()
  stored = dataclasses.asdict(toy_config(ARG))
  own.write_text('config.json', json.dumps(stored))
  with pytest.raises(ConfigError, match='shards of 7, and the sweep has 2 stacks; giv'):
    drive(own.path.parents[1])
  stored['sweep']['seeds'] = '2'
  own.write_text('config.json', json.dumps(stored))
  with pytest.raises(
    ConfigError, match=r'other counts, seeds or .* cannot be extended'
  ):
    drive(own.path.parents[1])
  stored['optim']['learning_rate'] = 0.5
  own.write_text('config.json', json.dumps(stored))
  with pytest.raises(ConfigError, match='holds a run of another config'):
    drive(own.path.parents[1])
  assert not one.started
