"""Whole runs of a toy sweep: what they leave, and that interruptions do not show."""

import csv
import errno
import json
import os
import resource
import shutil
import signal
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
import runs
from runs import Crash, assert_same_run, flip_bit, toy_config, watch

from onlyif_jax import checkpoint, config, evaluation, loop, sweep
from onlyif_jax.analysis import results
from onlyif_jax.training import parallel
from onlyif_jax.workdir import DYNAMICS_COLUMNS, RESULT_COLUMNS, Workdir

FILES = {
  'provenance.json',
  'config.json',
  'splits.json',
  'ledger.jsonl',
  'metrics.jsonl',
  'events',
  'checkpoints',
  'results.csv',
  'timing.csv',
  'transition.json',
  'dynamics.csv',
  'figure.png',
}


@pytest.fixture(scope='module')
def cache():
  patch = runs.share_compiles()
  yield runs.CACHE
  patch.undo()


@pytest.fixture(scope='module')
def whole(cache, tmp_path_factory):
  """The workdir of a run that nothing interrupted; `writes` names its writes."""
  path = tmp_path_factory.mktemp('runs') / 'whole'
  with pytest.MonkeyPatch.context() as patch:
    path_writes = watch(patch)
    finished, failed, analysis = sweep.run(toy_config(), path)
  assert (finished, failed) == (True, {})
  assert analysis is not None
  return SimpleNamespace(path=path, writes=path_writes)


def read_csv(path):
  with path.open(newline='') as f:
    return list(csv.DictReader(f))


def test_a_run_leaves_its_files_provenance_first(whole):
  assert {p.name for p in whole.path.iterdir()} == FILES
  assert whole.writes[0] == 'provenance.json'
  provenance = json.loads((whole.path / 'provenance.json').read_text())
  assert {'command', 'commit', 'diff', 'versions', 'devices', 'seeds'} <= set(
    provenance
  )
  events = [p.name for p in (whole.path / 'events').iterdir()]
  assert sorted(events) == ['I17-s0', 'I3-s0', 'one-s0']
  for stack in ('000', '001'):
    steps = {p.name for p in (whole.path / 'checkpoints' / stack).iterdir()}
    assert steps == {'22', '30'}  # the newest two of 11, 22, 30


def test_results_have_every_split_with_right_counts(whole):
  rows = read_csv(whole.path / 'results.csv')
  assert tuple(rows[0]) == RESULT_COLUMNS
  exact = {
    (r['member'], r['split'], r['slice']): r
    for r in rows
    if r['metric'] == 'exact_match'
  }
  members = {'I3-s0': 3, 'I17-s0': 17, 'one-s0': 1}
  for member, instructions in members.items():
    for split in ('unseen', 'dev', 'seen', 'train'):
      row = exact[member, split, 'all']
      assert int(row['instructions']) == instructions
      assert 0 <= int(row['sum']) <= int(row['count']) <= 41
      assert float(row['value']) == int(row['sum']) / int(row['count'])
    assert int(exact[member, 'train', 'all']['count']) == 41
    assert int(exact[member, 'unseen', 'all']['count']) == 41
  assert {int(r['tokens']) for r in rows} == {30 * 7 * length()}


def length():
  # x SEP y SEP z SEP out EOS with |x| = |y| = 3 and |z| = |out| = 5
  return 3 + 1 + 3 + 1 + 5 + 1 + 5 + 1


def test_dynamics_and_metrics_are_at_the_marks(whole):
  rows = read_csv(whole.path / 'dynamics.csv')
  assert tuple(rows[0]) == DYNAMICS_COLUMNS
  assert {(int(r['step']), r['split']) for r in rows} == {
    (step, split) for step in (1, 5, 30) for split in ('dev', 'seen')
  }
  lines = Workdir(whole.path).read_json_lines('metrics.jsonl')
  steps = [r['step'] for r in lines if r['member'] == 'I3-s0' and 'loss' in r]
  assert steps == [1, 5, 10, 11, 15, 20, 22, 25, 30]
  # The first loss is that of guessing, near log(vocabulary).
  assert 2.0 < lines[0]['loss'] < 4.0


@pytest.mark.slow
def test_a_crash_in_the_middle_of_any_write_does_not_show(whole, tmp_path, monkeypatch):
  monkeypatch.setattr(results, 'analyse', lambda path: None)  # it is slow to draw
  assert len(set(whole.writes)) == 8
  for file in set(whole.writes):  # the middle one of the writes to each
    all_at = [n for n, name in enumerate(whole.writes, start=1) if name == file]
    at = all_at[len(all_at) // 2]
    path = tmp_path / str(at)
    with monkeypatch.context() as patch:
      writes = watch(patch, crash_at=at)
      with pytest.raises(Crash):
        sweep.run(toy_config(), path)
    assert writes[-1] == file
    assert sweep.run(toy_config(), path)[0]
    for name in set(runs.SAME_BYTES) - {'transition.json'}:
      assert (path / name).read_bytes() == (whole.path / name).read_bytes(), (
        file,
        name,
      )
    for row in Workdir(path).read_csv('timing.csv'):
      assert int(row['step']) > 0  # whole lines, and the header once
    shutil.rmtree(path)


class StopAt:
  """A stop signal that arrives in the n-th chunk."""

  def __init__(self, chunk):
    self.left = chunk

  @property
  def number(self):
    self.left -= 1
    return signal.SIGTERM if self.left < 0 else 0


def test_two_steps_restored_and_two_more_are_four(cache, tmp_path):
  experiment = sweep.experiment_lib.build(toy_config())
  rows = sweep.experiment_lib.rows(experiment.config)[:2]
  program = experiment.program(parallel.make_mesh(2), 'map')
  members = jax.device_put(experiment.members(rows), program.sharding)
  four, _ = program.train(members, program.init(members), jnp.int32(4))
  two, _ = program.train(members, program.init(members), jnp.int32(2))
  with checkpoint.Checkpointer(tmp_path) as saver:
    saver.save(2, two, wait=True)
    step, state = saver.restore(two)
  assert step == 2
  again, _ = program.train(members, state, jnp.int32(2))
  runs.assert_same_bits(again, four)


def test_more_counts_and_seeds_extend_a_run(whole, tmp_path, monkeypatch, capsys):
  path = tmp_path / 'moved'
  shutil.copytree(whole.path, path)
  with monkeypatch.context() as patch:
    patch.setattr(sweep, '_train', None)  # nothing is trained or compiled
    assert sweep.run(toy_config(), path)[:2] == (True, {})
  assert 'already done' in capsys.readouterr().out
  monkeypatch.setattr(results, 'analyse', lambda path: None)
  assert sweep.run(toy_config('counts=29,seeds=2'), path)[0]
  for name in ('results.csv', 'dynamics.csv', 'metrics.jsonl'):
    old, new = (whole.path / name).read_bytes(), (path / name).read_bytes()
    assert new.startswith(old)
  members = {r['member'] for r in read_csv(path / 'results.csv')}
  seeds = {f'I{i}-s{s}' for i in (3, 17, 29) for s in (0, 1)}
  assert members == seeds | {'one-s0'}
  stored = Workdir(path).config()
  assert (stored.sweep.counts, stored.sweep.seeds) == ((3, 17, 29), '2')


def test_evaluate_gives_the_integers_of_the_run(whole, cache, tmp_path, capsys):
  path = tmp_path / 'moved'
  shutil.copytree(whole.path, path)
  found = {}
  for one, tallies in evaluation.show(evaluation.open_run(path)):
    assert one.step == 30
    for t in tallies:
      found[one.row.member, t.split, t.slice, t.metric] = (t.sum, t.count)
  rows = read_csv(path / 'results.csv')
  wanted = {
    (r['member'], r['split'], r['slice'], r['metric']): (
      float(r['sum']),
      int(r['count']),
    )
    for r in rows
  }
  assert set(found) == set(wanted)
  for name, (total, count) in wanted.items():
    if name[-1] == 'answer_nll':
      assert found[name] == (pytest.approx(total, rel=1e-4), count)
    else:
      assert found[name] == (total, count), name
  capsys.readouterr()
  evaluation.show(evaluation.open_run(path), splits=('unseen',), wrong=3)
  out = capsys.readouterr().out
  for member in ('I3-s0', 'I17-s0', 'one-s0'):
    total, count = found[member, 'unseen', 'all', 'exact_match']
    (line,) = [x for x in out.splitlines() if x.split()[:1] == [member]]
    assert line.split() == [member, '30', f'{total}/{count}']
  expected = [x for x in out.splitlines() if x.startswith('    expected')]
  output = [x for x in out.splitlines() if x.startswith('    output')]
  assert len(expected) == len(output) == 3
  for a, b in zip(expected, output, strict=True):
    assert a.split()[1:] != b.split()[1:]


def test_evaluate_at_an_earlier_step_is_what_the_loop_saw(cache, tmp_path, capsys):
  for chunk in (2, 1):  # stops at step 5, where the loop evaluates, then at 10
    assert sweep.run(toy_config(), tmp_path, StopAt(chunk))[0] is False
  run = evaluation.open_run(tmp_path)
  pairs = evaluation.show(run, step=5, examples=41, splits=('dev', 'seen'))
  assert [one.row.member for one, _ in pairs] == ['I3-s0', 'I17-s0']
  rows = {
    (r['member'], r['split'], r['metric']): (float(r['sum']), int(r['count']))
    for r in read_csv(tmp_path / 'dynamics.csv')
    if r['step'] == '5'
  }
  for one, tallies in pairs:
    for t in tallies:
      wanted = rows[one.row.member, t.split, t.metric]
      assert (pytest.approx(t.sum, rel=1e-4), t.count) == wanted
      if t.metric != 'answer_nll':
        assert t.sum == wanted[0]
  with pytest.raises(config.ConfigError, match='steps there: 5, 10'):
    evaluation.show(run, step=7)
  with pytest.raises(config.ConfigError, match='members: I3-s0'):
    evaluation.show(run, members=('I4-s0',))


def test_a_damaged_checkpoint_is_named_and_passed_over(whole, tmp_path, caplog):
  path = tmp_path / 'run'
  shutil.copytree(whole.path, path)
  lines = (path / 'ledger.jsonl').read_text().splitlines(keepends=True)
  assert '"done"' in lines[-1]
  (path / 'ledger.jsonl').write_text(''.join(lines[:-1]))
  flip_bit(path / 'checkpoints/001/30')
  assert sweep.run(toy_config(), path)[0]
  assert 'checkpoints/001/30 is damaged' in caplog.text
  assert_same_run(path, whole.path)
  # With none that is good, nothing is lost and nothing goes on.
  (path / 'ledger.jsonl').write_text(''.join(lines[:-1]))
  before = (path / 'metrics.jsonl').read_bytes()
  for step in (path / 'checkpoints/001').iterdir():
    flip_bit(step)
  with pytest.raises(config.ConfigError, match=r'every checkpoint .* delete'):
    sweep.run(toy_config(), path)
  assert (path / 'metrics.jsonl').read_bytes() == before


def test_a_member_that_is_not_finite_fails_alone(cache, tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(sweep, 'StopSignal', lambda: None)
  settings = toy_config('counts=3', sweep_learning_rates=(1e-3, 1e30))
  assert sweep.main(settings, tmp_path) == 1
  (event,) = [e for e in Workdir(tmp_path).ledger() if e['event'] == 'failed']
  assert event['member'] == 'I3-lr1e+30-s0'
  assert 1 <= event['step'] <= 5
  out = capsys.readouterr().out
  assert f'I3-lr1e+30-s0 stopped being finite at step {event["step"]}' in out
  members = {r['member'] for r in read_csv(tmp_path / 'results.csv')}
  assert members == {'I3-lr0.001-s0', 'one-s0'}
  lines = Workdir(tmp_path).read_json_lines('metrics.jsonl')
  assert all(r['loss'] == r['loss'] for r in lines if 'loss' in r)
  before = (tmp_path / 'metrics.jsonl').read_bytes()
  assert sweep.main(settings, tmp_path) == 1  # it is done, and says so again
  assert 'already done' in capsys.readouterr().out
  assert (tmp_path / 'metrics.jsonl').read_bytes() == before


@pytest.mark.parametrize(
  'what', ['fsync', pytest.param('limit', marks=pytest.mark.slow)]
)
def test_a_full_disk_is_one_line_and_loses_nothing(
  what, whole, cache, tmp_path, monkeypatch
):
  path = tmp_path / 'run'
  assert sweep.run(toy_config(), path, StopAt(4))[0] is False  # saved at step 11
  before = (path / 'metrics.jsonl').read_bytes()
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  with monkeypatch.context() as patch:
    if what == 'fsync':
      patch.setattr(os, 'fsync', full)
    else:
      resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 99, hard))
    try:
      with pytest.raises(config.ConfigError, match=r'could not be written.*again|room'):
        sweep.run(toy_config(), path)
    finally:
      resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
  assert sweep.run(toy_config(), path)[0]
  assert_same_run(path, whole.path)


def full(*_):
  raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_sigterm_saves_and_the_same_command_goes_on(
  whole, cache, tmp_path, monkeypatch, capsys
):
  handlers = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}
  real, chunks = loop.StackRun._log, []

  def log(self, *args):
    chunks.append(1)
    if len(chunks) == 5:
      os.kill(os.getpid(), signal.SIGTERM)
    real(self, *args)

  try:
    with monkeypatch.context() as patch:
      patch.setattr(loop.StackRun, '_log', log)
      assert sweep.main(toy_config(), tmp_path) == 143
    assert 'the same command goes on' in capsys.readouterr().out
    assert (tmp_path / 'checkpoints/000/15').exists()  # saved where it stopped
    assert sweep.main(toy_config(), tmp_path) == 0
  finally:
    for number, handler in handlers.items():
      signal.signal(number, handler)
  assert_same_run(tmp_path, whole.path)


# Lets the main command meet its end at a chosen moment:
#   save:N      SIGKILL in the save of step N
#   before:WORD SIGKILL before the ledger's line with WORD
_END = """
import os, signal
from onlyif_jax import checkpoint, sweep, workdir
what, _, which = moment.partition(':')
die = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
def finish(self, step, response, real=checkpoint.Checkpointer._finish):
  if what == 'save' and step == int(which):
    checkpoint._fingerprint = die
  real(self, step, response)
def append(self, name, text, real=workdir.Workdir._append):
  if what == 'before' and which in text:
    die()
  real(self, name, text)
checkpoint.Checkpointer._finish = finish
sweep._certify = lambda *_: None  # it takes a second, and decides nothing here
workdir.Workdir._append = append
"""


@pytest.mark.slow
def test_killed_processes_end_with_the_same_bytes(whole, cache, tmp_path):
  words = [f'--config={runs.toy.__file__}', f'--workdir={tmp_path / "run"}']
  server = runs.Server(cache)

  def interrupted(moment):
    # Its globals are those of the code that is run first.
    before = f'exec({_END!r}, {{"moment": {moment!r}}})'
    return server.call('main', *words, before=before)

  for moment in ('save:22', 'before:"done"'):
    code, out, err = interrupted(moment)
    assert code == -signal.SIGKILL, (moment, err)
    assert not (tmp_path / 'run/transition.json').exists()
  server.close()
  assert read_csv(tmp_path / 'run/results.csv')
  code, out, err = runs.call(cache, '-m', 'onlyif_jax.main', *words)
  assert code == 0, err
  assert_same_run(tmp_path / 'run', whole.path)
  assert 'min of CPU time' in out
  assert 'rows 0/3' in err
  resumes = Workdir(tmp_path / 'run').read_json_lines('resumes.jsonl')
  assert len(resumes) == 2


@pytest.mark.slow
def test_kills_at_random_moments_do_not_show(whole, cache, tmp_path):
  import random
  import time

  rng = random.Random(3)
  words = [f'--config={runs.toy.__file__}', f'--workdir={tmp_path}']
  killed = 0
  for _ in range(12):
    process = runs.start(cache, '-m', 'onlyif_jax.main', *words)
    time.sleep(rng.uniform(3, 12))
    killed += process.poll() is None
    process.kill()
    process.communicate()
  assert killed > 3
  assert runs.call(cache, '-m', 'onlyif_jax.main', *words)[0] == 0
  assert_same_run(tmp_path, whole.path)
