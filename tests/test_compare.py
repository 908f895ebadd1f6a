"""Two runs beside each other, and a run as one small file."""

import csv
import dataclasses
import functools
import json
import math
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import fake_run
import numpy as np
import pytest

from onlyif_jax import report
from onlyif_jax.analysis import bundle, compare, results
from onlyif_jax.config import ConfigError

COUNTS = (29, 101, 199, 307, 503, 1009, 5003)


@functools.cache
def runs(seeds=3):
  """Two runs with steps at 307 and 503, the second with another rate."""
  with tempfile.TemporaryDirectory() as name:
    made = [
      results.load(
        fake_run.make(Path(name) / str(i50), i50=i50, seeds=seeds, counts=COUNTS)
      )
      for i50 in (307, 503)
    ]
  a, b = made
  optim = dataclasses.replace(b.config.optim, learning_rate=0.002)
  return a, dataclasses.replace(b, config=dataclasses.replace(b.config, optim=optim))


def main_shift(a, b):
  return next(s for s in compare.compare(a, b) if s.curve == a.curves[0].name)


def test_the_shift_is_paired_by_seed():
  a, b = runs()
  shift = main_shift(a, b)
  logs = [
    {s: math.log10(v) for s, v in run.main.i_50.per_seed.items()} for run in (a, b)
  ]
  gaps = [logs[1][s] - logs[0][s] for s in '012']
  assert list(shift.per_seed.values()) == pytest.approx(gaps)
  assert shift.delta == pytest.approx(np.mean(gaps))
  half = 4.30265 * np.std(gaps, ddof=1) / 3**0.5
  assert (shift.low, shift.high) == pytest.approx(
    (shift.delta - half, shift.delta + half), rel=1e-4
  )
  assert shift.delta == pytest.approx(math.log10(503 / 307), abs=0.01)
  # Seeds differ by 0.1 decades; pairing takes that out.
  assert half < 0.02


def test_other_rules_are_not_paired():
  a, b = runs()
  b = dataclasses.replace(b, config=dataclasses.replace(b.config, seed=7))
  shift = main_shift(a, b)
  assert not shift.paired
  logs = [np.log10(list(run.main.i_50.per_seed.values())) for run in (a, b)]
  from scipy import stats

  wanted = stats.ttest_ind(logs[1], logs[0], equal_var=False).confidence_interval()
  assert (shift.low, shift.high) == pytest.approx(tuple(wanted), rel=1e-4)


def test_few_seeds_have_no_interval():
  shift = main_shift(*runs(seeds=2))
  assert (shift.low, shift.high) == (None, None)
  assert len(shift.per_seed) == 2
  assert 'needs 3 shared seeds' in shift.reason


def test_a_run_without_a_step_is_named(tmp_path):
  a, _ = runs()
  flat = results.load(fake_run.make(tmp_path / 'r', counts=(29, 101), seeds=3))
  shift = main_shift(a, flat)
  assert shift.delta is None
  assert shift.reason.startswith('B has no fit (')


def test_differing_settings_come_first():
  first, second, third = compare.grids(*runs())
  assert first.rows == (('optim.learning_rate', '0.001', '0.002'),)
  assert second.rows[0][0] == 'unseen/all'
  assert second.rows[0][5] == '3, paired'
  assert [row[0] for row in third.rows] == [f'{c:,}' for c in COUNTS]
  read = json.loads(compare.to_json(*runs()))
  assert read['differing'] == {'optim.learning_rate': [0.001, 0.002]}


def test_runs_of_unlike_tasks_are_refused(tmp_path):
  a, _ = runs()
  noop = fake_run.make(tmp_path / 'r', figure='noop', shares=(0.1, 0.5), counts=(29,))
  with pytest.raises(ConfigError, match='no curve in common'):
    compare.compare(a, results.load(noop))


def test_compare_takes_two_words():
  words = ['report', '--compare', 'a', 'b', '--out=c']
  assert report.spread_compare(words) == [
    *('report', '--compare=a', '--compare=b'),
    '--out=c',
  ]
  assert report.spread_compare(['report', '--workdir=a']) == ['report', '--workdir=a']


def call(*words):
  return subprocess.run(
    [sys.executable, '-m', 'onlyif_jax.report', *map(str, words)],
    capture_output=True,
    text=True,
    check=False,
  )


def test_compare_from_the_command_line(tmp_path):
  paths = [
    fake_run.make(tmp_path / name, i50=i50, counts=COUNTS)
    for name, i50 in (('a', 307), ('b', 503))
  ]
  before = [sorted(p.iterdir()) for p in paths]
  done = call('--compare', *paths)
  assert done.returncode == 0, done.stderr
  assert 'Shift of the step' in done.stdout
  assert [sorted(p.iterdir()) for p in paths] == before
  done = call('--compare', paths[0])
  assert done.returncode == 2
  assert 'takes two runs' in done.stderr


# --- bundles


def test_a_bundle_holds_the_numbers_and_no_weights(tmp_path):
  path = fake_run.make(tmp_path / 'run', counts=COUNTS)
  fake_run.anatomy(path)
  (path / 'checkpoints').mkdir()
  (path / 'checkpoints' / 'weights').write_bytes(b'0' * 1000)
  (path / 'events').mkdir()
  packed, left_out = bundle.write(path, tmp_path / 'out' / 'mine')
  assert packed == tmp_path / 'out' / 'mine.zip'
  assert left_out == []
  with zipfile.ZipFile(packed) as file:
    names = set(file.namelist())
  assert names == {
    *('config.json', 'provenance.json', 'results.csv', 'dynamics.csv'),
    *('transition.json', 'figure.png', 'anatomy.csv', 'anatomy.png'),
  }
  assert packed.stat().st_size < 300_000
  again, _ = bundle.write(path, tmp_path / 'again.zip')
  assert again.read_bytes() == packed.read_bytes()
  with pytest.raises(ConfigError, match='exists; give a new name'):
    bundle.write(path, again)


@pytest.mark.slow
def test_a_bundle_is_drawn_again(tmp_path):
  path = fake_run.make(tmp_path / 'run', counts=COUNTS)
  packed, _ = bundle.write(path, tmp_path / 'mine.zip')
  with bundle.opened(packed) as folder:
    run = results.load(folder)
  whole = results.load(path)
  assert run.main == whole.main
  assert run.rows == whole.rows
  assert not folder.exists()
  done = call(f'--bundle={packed}')
  assert done.returncode == 0, done.stderr
  out = tmp_path / 'mine-report'
  assert {p.name for p in out.iterdir()} == {
    *('figure.png', 'report.html', 'scoreboard.json', 'transition.json')
  }
  assert sorted(p.name for p in tmp_path.iterdir()) == [
    'mine-report',
    'mine.zip',
    'run',
  ]


def test_what_is_too_large_is_left_out_and_told(tmp_path, monkeypatch):
  path = fake_run.make(tmp_path / 'run', counts=COUNTS)
  rng = np.random.default_rng(3)
  with (path / 'dynamics.csv').open('a', newline='') as file:
    writer = csv.writer(file, lineterminator='\n')
    for _ in range(3000):
      writer.writerow(rng.integers(2**60, size=16))
  monkeypatch.setattr(bundle.results, 'write', lambda run, out: None)
  monkeypatch.setattr(bundle.results, 'load', lambda path: None)
  size = bundle.write(path, tmp_path / 'a')[0].stat().st_size
  monkeypatch.setattr(bundle, 'LIMIT', size - 1)
  packed, left_out = bundle.write(path, tmp_path / 'b')
  assert left_out == ['dynamics.csv']
  assert 'dynamics.csv' not in zipfile.ZipFile(packed).namelist()
  monkeypatch.setattr(bundle, 'LIMIT', 100)
  with pytest.raises(ConfigError, match='above 100'):
    bundle.write(path, tmp_path / 'c')
  assert not (tmp_path / 'c.zip').exists()


@pytest.mark.parametrize('name', ['../escape.json', 'config.json/x', 'run.sh'])
def test_a_bundle_with_anything_else_is_refused(name, tmp_path):
  path = tmp_path / 'odd.zip'
  with zipfile.ZipFile(path, 'w') as file:
    file.writestr(name, '{}')
  with (
    pytest.raises(ConfigError, match='not a run'),
    bundle.opened(path),
  ):
    pass


def test_a_file_that_is_no_bundle_is_named(tmp_path):
  for path in (tmp_path / 'absent.zip', Path(__file__)):
    with pytest.raises(ConfigError, match=path.name), bundle.opened(path):
      pass
