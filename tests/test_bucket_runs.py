"""Workdirs on a bucket: real runs of the toy go on elsewhere."""

import shutil
import signal
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import runs
from buckets import Watched, copies, mirror, names, own_directories, put  # noqa: F401 - a fixture
from runs import Crash, toy_config

from onlyif_jax import bucket, loop, report, sweep
from onlyif_jax.analysis import results
from onlyif_jax.bucket import Mirror

TABLES = ('metrics.jsonl', 'wrong.jsonl', 'ledger.jsonl')


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
    copy.remote, copy.fs = dict(one.remote), Watched(copy.fs)
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
