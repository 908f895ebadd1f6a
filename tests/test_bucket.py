"""Workdirs on a bucket: what is pushed in which order, and what errors say."""

import os
import random
import shutil
import threading
from pathlib import Path

import fsspec
import pytest
from buckets import Watched, copies, mirror, names, own_directories, put, save  # noqa: F401 - a fixture
from runs import Crash

from onlyif_jax import bucket, checkpoint
from onlyif_jax.bucket import Mirror
from onlyif_jax.config import ConfigError
from onlyif_jax.workdir import Workdir

TABLES = ('metrics.jsonl', 'wrong.jsonl', 'ledger.jsonl')


def test_a_local_path_is_left_alone(tmp_path):
  with bucket.local('runs/x', write=True) as path:
    assert path == Path('runs/x')
  with bucket.local(tmp_path, Path('shards/1-of-2')) as path:
    assert path == tmp_path / 'shards/1-of-2'
  assert not path.exists()
  assert copies(tmp_path) == []


def test_the_order_of_a_push(tmp_path):
  one = mirror(tmp_path / 'run')
  put(one.path / 'ledger.jsonl', '{}\n')
  put(one.path / 'zeta.csv')
  put(one.path / 'shards/1-of-2/results.csv')
  for stack in ('000', '001'):
    save(one.path / 'checkpoints' / stack, 11)
  put(one.path / 'checkpoints/001/saving.22/d/a')
  put(one.path / 'checkpoints/001/removing.5/d/a')
  put(one.path / 'results.csv.tmp')
  one.push()
  step = ('d/a', 'manifest', 'digest.json')
  assert [name for _, name in one.fs.did] == [
    'shards/1-of-2/results.csv',
    'zeta.csv',
    *(f'checkpoints/000/11/{f}' for f in step),
    *(f'checkpoints/001/11/{f}' for f in step),
    'ledger.jsonl',
  ]


def test_only_what_changed_is_sent(tmp_path):
  one = mirror(tmp_path / 'run')
  put(one.path / 'metrics.jsonl')
  put(one.path / 'ledger.jsonl', '{}\n')
  save(one.path / 'checkpoints/000', 11)
  one.push()
  two = mirror(tmp_path / 'again')
  two.pull()
  assert names(two.path) == names(one.path)
  for each in (one, two):
    each.fs.did.clear()
    each.push()
    assert each.fs.did == []
    put(each.path / 'metrics.jsonl', 'xy')
    each.push()
    assert each.fs.did == [('pipe_file', 'metrics.jsonl')]


def test_steps_that_the_run_removed_are_removed_after_the_others_are_there(tmp_path):
  one = mirror(tmp_path / 'run')
  put(one.path / 'events/m/events.1')
  for step in (11, 22):
    save(one.path / 'checkpoints/000', step)
  one.push()
  one.fs.did.clear()
  save(one.path / 'checkpoints/000', 30)
  (one.path / 'events/m/events.1').rename(one.path / 'events/m/events.2')
  one.push()
  kinds = [kind for kind, _ in one.fs.did]
  assert kinds == ['pipe_file', *['put_file'] * 3, *['rm_file'] * 4]
  assert one.fs.did[4] == ('rm_file', 'checkpoints/000/11/digest.json')
  two = mirror(tmp_path / 'again')
  two.pull()
  assert names(two.path) == names(one.path)


def test_a_lost_copy_does_not_empty_the_bucket(tmp_path):
  one = mirror(tmp_path / 'run')
  for name in ('results.csv', 'ledger.jsonl', 'events/m/events.1'):
    put(one.path / name, '{"event": "x"}\n')
  save(one.path / 'checkpoints/000', 11)
  one.push()
  before = names(one.path)
  shutil.rmtree(one.path)
  one.path.mkdir()
  one.push()
  two = mirror(tmp_path / 'again')
  two.pull()
  assert names(two.path) == before


def test_a_step_saved_again_is_never_a_mixture(tmp_path):
  one = mirror(tmp_path / 'run')
  save(one.path / 'checkpoints/000', 11)
  save(one.path / 'checkpoints/000', 22)
  one.push()
  shutil.rmtree(one.path / 'checkpoints/000/22')
  save(one.path / 'checkpoints/000', 22, by='b')
  there = dict(fsspec.filesystem('memory').store), dict(one.remote)
  for fail_at in range(6):
    fsspec.filesystem('memory').store.clear()
    fsspec.filesystem('memory').store.update(there[0])
    one.remote, one.fs = dict(there[1]), Watched(one.fs.fs, fail_at)
    if fail_at < 5:
      with pytest.raises(Crash):
        one.push()
    else:  # digest away, three files, the other d/ away
      one.push()
    two = mirror(tmp_path / f'again{fail_at}')
    two.pull()
    folder = two.path / 'checkpoints/000'
    assert {p.name for p in folder.iterdir()} <= {'11', '22'}
    for step in folder.iterdir():
      assert checkpoint.verify(step) is None
    assert (folder / '11').exists()


def train(path: Path, machine: str):
  """What a run does to its workdir, one write at a time, without the training."""
  workdir = Workdir(path)
  for stack in ('000', '001', '002'):
    done = {e['stack'] for e in workdir.ledger()}
    if stack in done:
      continue
    folder = path / 'checkpoints' / stack
    steps = [p for p in folder.glob('*') if p.name.isdigit()]
    good = [int(p.name) for p in steps if checkpoint.verify(p) is None]
    restored = max(good, default=0)
    workdir.cut_back(done, {stack: restored})
    for step in (5, 11, 17, 22, 30):
      if step > restored:
        workdir.append_json('metrics.jsonl', {'member': stack, 'step': step})
        yield
        if step in (11, 22, 30):
          save(folder, step, machine)
          yield
    workdir.append_json('wrong.jsonl', {'member': stack})
    yield
    workdir.append_json('ledger.jsonl', {'event': 'done', 'stack': stack})
    yield


def test_after_pushes_cut_short_anywhere_a_run_ends_with_the_same_bytes(
  tmp_path, monkeypatch
):
  whole = tmp_path / 'whole'
  whole.mkdir()
  writes = sum(1 for _ in train(whole, 'whole'))
  rng = random.Random(5)
  cut = 0
  monkeypatch.setattr(os, 'fsync', lambda _: None)  # the disk is not tested here
  for case in range(40):
    fsspec.filesystem('memory').store.clear()
    left = 3  # machines that are lost, each in the middle of a push
    for machine in range(left + 1):
      one = mirror(tmp_path / f'{case}-{machine}')
      one.pull()
      one.prepare()
      moments = rng.choices(range(1, writes // 2), k=2) if machine < left else []
      try:
        for n, _ in enumerate(train(one.path, str(machine)), start=1):
          if n == min(moments, default=0):
            one.push()
          if n == max(moments, default=0):
            one.fs.fail_at = len(one.fs.did) + rng.randrange(12)
            one.push()
            raise Crash
        one.push()
      except Crash:
        cut += 1
        continue
      for name in TABLES:
        text = (one.path / name).read_text()
        assert text == (whole / name).read_text(), (case, name)
      for stack in ('000', '001', '002'):
        for step in (22, 30):
          assert checkpoint.verify(one.path / f'checkpoints/{stack}/{step}') is None
    shutil.rmtree(one.path)
  assert cut > 80


def test_a_push_that_fails_is_tried_again_while_training_goes_on(
  tmp_path, monkeypatch, caplog
):
  monkeypatch.setattr(bucket, 'LOOK', 0.01)
  tried, failing = threading.Event(), True
  real = Mirror.push

  def push(self):
    if failing:
      tried.set()
      raise ConfigError(f'{self.url} could not be written (no network)')
    real(self)

  monkeypatch.setattr(Mirror, 'push', push)
  with bucket.local('memory://b/run', write=True) as path:
    save(path / 'checkpoints/000', 11)
    assert tried.wait(60)
    failing = False
  assert 'memory://b/run could not be written (no network); training' in caplog.text
  assert copies(tmp_path) == []
  with bucket.local('memory://b/run') as path:
    assert (path / 'checkpoints/000/11/digest.json').exists()


def test_a_new_checkpoint_is_pushed_while_the_run_goes_on(tmp_path, monkeypatch):
  monkeypatch.setattr(bucket, 'LOOK', 0.01)
  pushed = threading.Event()
  real = Mirror.push
  monkeypatch.setattr(Mirror, 'push', lambda self: (real(self), pushed.set()))
  with bucket.local('memory://b/run', write=True) as path:
    put(path / 'metrics.jsonl')
    assert not pushed.wait(0.1)  # that alone can wait
    save(path / 'checkpoints/000', 11)
    assert pushed.wait(60)
    with bucket.local('memory://b/run') as other:
      assert names(other) == names(path)


def test_a_checkpoint_saved_before_the_thread_runs_is_pushed(tmp_path, monkeypatch):
  saved, pushed = threading.Event(), threading.Event()

  class Late(threading.Thread):
    def run(self):
      saved.wait(60)
      super().run()

  monkeypatch.setattr(bucket, 'LOOK', 0.01)
  monkeypatch.setattr(threading, 'Thread', Late)
  real = Mirror.push
  monkeypatch.setattr(Mirror, 'push', lambda self: (real(self), pushed.set()))
  with bucket.local('memory://b/run', write=True) as path:
    save(path / 'checkpoints/000', 11)
    saved.set()
    assert pushed.wait(10)


def test_a_last_push_that_fails_keeps_the_copy_and_names_it(tmp_path, monkeypatch):
  real = Mirror.push

  def push(self):
    self.fs = Watched(self.fs, fail_at=1, error=OSError)
    real(self)

  monkeypatch.setattr(Mirror, 'push', push)

  def run():
    with bucket.local('memory://b/run', 'shards/1-of-2', write=True) as path:
      put(path / 'a.csv')
      put(path / 'b.csv')

  with pytest.raises(ConfigError) as error:
    run()
  (copy,) = copies(tmp_path)
  text = str(error.value)
  assert 'memory://b/run/shards/1-of-2 could not be written (OSError: no net' in text
  assert f'kept in {copy}/shards/1-of-2: ' in text
  assert 'same command' in text
  assert names(copy) == {'shards/1-of-2/a.csv', 'shards/1-of-2/b.csv'}


def test_an_error_of_the_run_stands_and_names_the_url(tmp_path, capsys):
  def run():
    with bucket.local('memory://b/run', write=True) as path:
      put(path / 'metrics.jsonl')
      print('figure:', path / 'figure.png')
      raise ConfigError(f'{path / "config.json"} is wrong')

  with pytest.raises(ConfigError, match=r'^memory://b/run/config.json is wrong$'):
    run()
  assert capsys.readouterr().out == 'figure: memory://b/run/figure.png\n'
  assert copies(tmp_path) == []
  with bucket.local('memory://b/run') as path:
    assert names(path) == {'metrics.jsonl'}  # what there was is not lost


def test_a_second_ctrl_c_keeps_the_copy(tmp_path, capsys):
  def run():
    with bucket.local('memory://b/run', write=True) as path:
      put(path / 'metrics.jsonl')
      raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    run()
  (copy,) = copies(tmp_path)
  assert names(copy) == {'metrics.jsonl'}
  assert f'lacks the newest files; they are in {copy}' in capsys.readouterr().err


@pytest.mark.parametrize(
  ('url', 'said'),
  [
    ('nosuch://b/run', 'nosuch.*; give gs://BUCKET/DIR or a local path'),
    ('file://{tmp}/file/run', 'could not be written .*see that the bucket exists'),
  ],
)
def test_a_url_that_cannot_be_used_is_one_line(url, said, tmp_path):
  put(tmp_path / 'file')
  with (
    pytest.raises(ConfigError, match=said),
    bucket.local(url.format(tmp=tmp_path), write=True),
  ):
    raise AssertionError
  assert copies(tmp_path) == []


def test_a_missing_package_is_named(tmp_path, monkeypatch):
  import fsspec.core

  def absent(*_, **__):
    raise ImportError('Please install gcsfs to access Google Storage')

  monkeypatch.setattr(fsspec.core, 'url_to_fs', absent)
  with (
    pytest.raises(ConfigError, match=r"gs://b/run: .*gcsfs.* 'onlyif_jax\[gcs\]'"),
    bucket.local('gs://b/run'),
  ):
    raise AssertionError
  monkeypatch.setitem(__import__('sys').modules, 'fsspec.core', None)
  with (
    pytest.raises(ConfigError, match=r"needs fsspec; .* 'onlyif_jax\[gcs\]'"),
    bucket.local('gs://b/run'),
  ):
    raise AssertionError


def test_names_that_lead_elsewhere_are_refused(tmp_path, monkeypatch):
  one = mirror(tmp_path / 'run')
  monkeypatch.setattr(one.fs, 'find', lambda root: ['/b/run/../../x'], raising=False)
  with pytest.raises(ConfigError, match=r"it holds '\.\./\.\./x'"):
    one.pull()
