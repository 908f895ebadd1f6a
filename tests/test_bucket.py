"""Workdirs on a bucket: what is pushed in which order, and that a run can go on."""

import json
import os
import random
import shutil
import signal
import tempfile
import threading
from pathlib import Path
from types import SimpleNamespace

import fsspec
import pytest
import runs
from runs import Crash, toy_config

from onlyif_jax import bucket, checkpoint, loop, report, sweep
from onlyif_jax.analysis import results
from onlyif_jax.bucket import Mirror
from onlyif_jax.config import ConfigError
from onlyif_jax.workdir import Workdir

TABLES = ('metrics.jsonl', 'wrong.jsonl', 'ledger.jsonl')


@pytest.fixture(autouse=True)
def own_directories(tmp_path, monkeypatch):
  """Local copies are made in tmp_path/copies, and the memory is a new bucket."""
  (tmp_path / 'copies').mkdir()
  monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path / 'copies'))
  monkeypatch.setattr(bucket, 'PAUSES', (0.0,))
  fsspec.filesystem('memory').store.clear()


def copies(tmp_path) -> list[Path]:
  return sorted((tmp_path / 'copies').iterdir())


def names(path) -> set[str]:
  path = Path(path)
  return {p.relative_to(path).as_posix() for p in path.rglob('*') if p.is_file()}


def put(path: Path, text: str = 'x') -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(text)


def save(stack: Path, step: int, by: str = 'a', keep: int = 2) -> None:
  """A step as checkpoint.py leaves it; Orbax gives its files new names each time."""
  saving = stack / f'saving.{step}'
  put(saving / f'd/{by}', f'{stack.name} {step}')
  put(saving / 'manifest', by)
  files = {
    p.relative_to(saving).as_posix(): checkpoint._fingerprint(p)
    for p in saving.rglob('*')
    if p.is_file()
  }
  put(saving / 'digest.json', json.dumps({'step': step, 'files': files}))
  os.rename(saving, stack / str(step))
  steps = sorted(int(p.name) for p in stack.iterdir() if p.name.isdigit())
  for old in steps[:-keep]:
    shutil.rmtree(stack / str(old))


class Watched:
  """A file system that lists what is done to it, and may fail at the n-th."""

  def __init__(self, fs, fail_at=None, error=Crash):
    self.fs, self.fail_at, self.error, self.did = fs, fail_at, error, []

  def __getattr__(self, name):
    real = getattr(self.fs, name)
    if name not in ('pipe_file', 'put_file', 'rm_file'):
      return real

    def call(*args):
      path = args[1] if name == 'put_file' else args[0]
      if len(self.did) == self.fail_at:
        raise self.error('no network')
      self.did.append((name, path.removeprefix('/b/run/')))
      return real(*args)

    return call


def mirror(path, **watch) -> Mirror:
  path.mkdir(exist_ok=True)
  made = Mirror('memory://b/run', path)
  made.fs = Watched(made.fs, **watch)
  return made


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
  there = dict(fsspec.filesystem('memory').store), dict(one.there)
  for fail_at in range(6):
    fsspec.filesystem('memory').store.clear()
    fsspec.filesystem('memory').store.update(there[0])
    one.there, one.fs = dict(there[1]), Watched(one.fs.fs, fail_at)
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
    assert tried.wait(5)
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
    assert pushed.wait(5)
    with bucket.local('memory://b/run') as other:
      assert names(other) == names(path)


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


# Real runs of the toy.


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  """The workdir of a run that nothing interrupted."""
  patch = runs.share_compiles()
  patch.setattr(results, 'analyse', lambda path: None)  # it is slow to draw
  path = tmp_path_factory.mktemp('runs') / 'whole'
  assert sweep.run(toy_config(), path)[0]
  yield path
  patch.undo()


def stop_in_chunk(patch, chunk: int):
  """A stop signal that arrives in the n-th chunk."""
  stop, real, chunks = SimpleNamespace(number=0), loop.StackRun._log, []

  def log(self, *args):
    chunks.append(1)
    if len(chunks) == chunk:
      stop.number = signal.SIGTERM
    real(self, *args)

  patch.setattr(loop.StackRun, '_log', log)
  return stop


def assert_same_tables(path, whole):
  for name in set(runs.SAME_BYTES) - {'transition.json'}:
    assert (path / name).read_bytes() == (whole / name).read_bytes(), name


@pytest.mark.slow
def test_a_preempted_run_goes_on_elsewhere_as_if_nothing_had_been(
  whole, tmp_path, monkeypatch
):
  url = f'file://{tmp_path}/bucket/run'
  with monkeypatch.context() as patch:
    stop = stop_in_chunk(patch, 12)  # in the second stack
    with bucket.local(url, write=True) as path:
      assert sweep.run(toy_config(), path, stop)[0] is False
  assert copies(tmp_path) == []
  assert (tmp_path / 'bucket/run/checkpoints/001/10').exists()
  with bucket.local(url, write=True) as path:
    assert sweep.run(toy_config(), path)[0]
  there = tmp_path / 'bucket/run'
  assert_same_tables(there, whole)
  for stack in ('000', '001'):
    step, state = runs.state(there, stack)
    assert step == 30
    runs.assert_same_bits(state, runs.state(whole, stack)[1])
  assert not [name for name in names(there) if 'saving' in name or '.tmp' in name]


@pytest.mark.slow
def test_a_run_lost_in_the_middle_of_a_push_goes_on_elsewhere(
  whole, tmp_path, monkeypatch
):
  one = mirror(tmp_path / 'one')
  with monkeypatch.context() as patch:
    sweep.run(toy_config(), one.path, stop_in_chunk(patch, 4))  # saved at step 11
  one.push()
  with monkeypatch.context() as patch:
    sweep.run(toy_config(), one.path, stop_in_chunk(patch, 9))
  # All but the ledger gets there: the bucket holds a step of the second stack, and
  # does not say that the first is done.
  one.fs.fail_at = len(one.fs.did) + len(preview(one))
  with pytest.raises(Crash):
    one.push()
  two = mirror(tmp_path / 'two')
  two.pull()
  assert (two.path / 'checkpoints/000/30').exists()
  assert (two.path / 'checkpoints/001').exists()
  two.prepare()
  assert not (two.path / 'checkpoints/001').exists()
  assert sweep.run(toy_config(), two.path)[0]
  assert_same_tables(two.path, whole)


def preview(one: Mirror) -> list:
  """What a push would send before the ledger."""
  with tempfile.TemporaryDirectory() as folder:
    copy = Mirror('file://' + folder, one.path)
    copy.there, copy.fs = dict(one.there), Watched(copy.fs)
    copy.push()
    sent = [path for _, path in copy.fs.did]
    return sent[
      : next(n for n, path in enumerate(sent) if path.endswith('ledger.jsonl'))
    ]


def flag(value):
  return SimpleNamespace(value=value)


@pytest.mark.slow
def test_a_report_of_a_url_does_without_checkpoints(
  whole, tmp_path, monkeypatch, capsys
):
  url = f'file://{tmp_path}/bucket/run'
  shutil.copytree(whole, tmp_path / 'bucket/run')
  shutil.rmtree(tmp_path / 'bucket/run/checkpoints/001')
  seen = []

  def load(folder):
    seen.append(names(folder))
    return SimpleNamespace(label='toy', workdir=folder)

  def write(loaded, labels, out, **how):
    put(out / 'report.html')
    print(f'report: {out / "report.html"}')

  monkeypatch.setattr(results, 'load', load)
  monkeypatch.setattr(report.reporting, 'report', write)
  for name in ('_COMPARE', '_BUNDLE', '_OUT', '_ANONYMOUS'):
    monkeypatch.setattr(report, name, flag([]))
  monkeypatch.setattr(report, '_WORKDIR', flag([url]))
  assert report.main([]) == 0
  assert capsys.readouterr().out == f'report: {url}/report.html\n'
  assert (tmp_path / 'bucket/run/report.html').exists()
  assert (tmp_path / 'bucket/run/checkpoints/000/30/digest.json').exists()
  assert not [name for name in seen[0] if 'checkpoints' in name]
  assert 'results.csv' in seen[0]
  monkeypatch.setattr(report, '_OUT', flag(str(tmp_path / 'out')))
  (tmp_path / 'bucket/run/report.html').unlink()
  assert report.main([]) == 0
  assert (tmp_path / 'out/report.html').exists()
  assert not (tmp_path / 'bucket/run/report.html').exists()
  assert copies(tmp_path) == []


_NO_TRAINING = """
import onlyif_jax.evaluation as e, onlyif_jax.sweep as s
def run(config, path, shard):
  (path / 'results.csv').write_text('rows')
  print(f'stack {shard}; figure: {path}/figure.png, report {path.parents[1]}')
  return 143
s.main = run
e.open_run = lambda path: e.show(path)
def show(path):
  print(sorted(p.name for p in path.iterdir()))
  raise e.ConfigError(f'{path} has no more')
e.show = show
"""


def test_the_commands_on_a_url(tmp_path):
  url = f'file://{tmp_path}/bucket/run'
  server = runs.Server(runs.CACHE)

  def call(module, *words, more=''):
    # Its globals are those of the code that is run first.
    code = f'exec({_NO_TRAINING + more!r}, {{}})'
    return server.call(module, *words, before=code)

  words = (f'--config={runs.toy.__file__}', f'--workdir={url}/')
  code, out, err = call('main', *words, '--shard=2/2')
  assert (code, err) == (143, '')
  folder = f'{url}/shards/2-of-2'
  assert out == f'stack (2, 2); figure: {folder}/figure.png, report {url}\n'
  assert names(tmp_path / 'bucket') == {'run/shards/2-of-2/results.csv'}
  code, out, err = call('evaluate', f'--workdir={folder}')
  assert (code, out, err) == (2, "['results.csv']\n", f'error: {folder} has no more\n')
  words_hf = ('--to=jsonl', f'--out={tmp_path}/out', f'--workdir={folder}')
  assert call('export', *words_hf) == (code, out, err)
  code, out, err = call('main', *words, '--multihost')
  assert code == 2
  assert 'a directory that all processes share' in err
  # A bucket that goes away: one line, and the copy is named.
  broken = (
    'from onlyif_jax import bucket; bucket.PAUSES = ()\n'
    'bucket.Mirror._send_table = lambda *_: 1 / 0\n'
  )
  code, out, err = call('main', *words, '--shard=1/2', more=broken)
  server.close()
  assert code == 2
  assert err.count('\n') == 1
  assert err.startswith(f'error: {url}/shards/1-of-2 could not be written (ZeroDiv')
  kept = Path(err.partition('kept in ')[2].partition(': copy')[0])
  assert names(kept) == {'results.csv'}
  shutil.rmtree(kept.parents[1])
