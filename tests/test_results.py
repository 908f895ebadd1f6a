import base64
import io
import json
import subprocess
import sys

import fake_run
import pytest
from rich.console import Console

from onlyif_jax.analysis import figures, results, scoreboard, table
from onlyif_jax.analysis.transition import Estimate
from onlyif_jax.config import ConfigError


def printed(run, width=200):
  out = io.StringIO()
  table.show(run, Console(file=out, width=width))
  return out.getvalue()


def words(text, start):
  """The words of the line that starts with a word."""
  return next(line.split() for line in text.split('\n') if line.split()[:1] == [start])


@pytest.fixture(scope='module')
def imin(tmp_path_factory):
  path = tmp_path_factory.mktemp('imin') / 'run'
  return results.load(fake_run.make(path))


@pytest.fixture(scope='module')
def noop(tmp_path_factory):
  path = tmp_path_factory.mktemp('noop') / 'run'
  return results.load(fake_run.make(path, figure='noop', shares=(0.1, 0.5)))


def test_main_curve_is_the_sweep_without_references(imin):
  main = imin.curves[0]
  assert (main.name, main.slice) == ('unseen/all', 'all')
  assert list(main.by_count()) == list(fake_run.COUNTS)
  assert {len(rows) for rows in main.by_count().values()} == {3}
  assert not {r.reference for r in main.rows} - {''}
  assert imin.main.i_50.low < 419 < imin.main.i_50.high
  assert imin.references() == pytest.approx(fake_run.REFERENCES, abs=1e-3)
  assert [c.name for c in imin.curves[1:]] == ['unseen/cell=seenx_newy']


def test_noop_has_a_curve_for_each_share_and_half(noop):
  halves = ('noop=0', 'noop=1', 'all', 'mix=train')
  names = [f'noop_share={q}/unseen/{half}' for q in ('0.1', '0.5') for half in halves]
  assert [c.name for c in noop.curves] == names
  assert noop.main is noop.fits['noop_share=0.1/unseen/noop=0']
  assert noop.fits['noop_share=0.5/unseen/noop=1'].i_50 is None
  average = noop.fits['noop_share=0.1/unseen/all']
  assert average.floor == pytest.approx(0.45, abs=0.01)
  assert average.bracket[0] is None


def test_transition_json(imin, tmp_path):
  results.write(imin, tmp_path)
  text = json.loads((tmp_path / 'transition.json').read_text())
  assert set(text) == {
    *('metric', 'split', 'slice', 'noop_share', 'learning_rate', 'curves'),
    *('i_50', 'i_min', 'i_max', 'bracket', 'width', 'floor', 'ceiling', 'fit'),
    *('reason', 'deviance', 'rule_se', 'seeds'),
  }
  assert text['curves']['unseen/all']['i_50'] == text['i_50']
  assert set(text['i_50']) >= {'value', 'low', 'high', 'per_seed'}
  assert set(text['i_50']['per_seed']) == {'0', '1', '2'}
  assert text['bracket'] == [101, 1009]
  assert (tmp_path / 'figure.png').stat().st_size > 10_000


def test_transfer_needs_half_of_the_seen(imin):
  seen = imin.values('seen')
  unseen = imin.values('unseen')['q0-i10007-s1']
  assert results.transfer(unseen, seen['q0-i10007-s1']) == pytest.approx(
    0.97 / 0.98, 1e-2
  )
  low = fake_run_row(seen['q0-i10007-s1'], 0.49)
  assert results.transfer(unseen, low) is None
  assert results.transfer(unseen, None) is None


def fake_run_row(row, value):
  return results.Row(**{**vars(row), 'value': value})


def test_dynamics_show_the_best_beside_the_last(imin):
  rows = imin.curves[0].by_count()[10007]
  last, best = results.over_time(imin, rows)
  assert best == pytest.approx(0.97, abs=0.01)
  assert last == pytest.approx(0.9 * 0.97, abs=0.01)
  assert results.over_time(imin, rows, split='seen') is None


def test_table_of_counts(imin):
  text = printed(imin)
  row = '10,007 3.837 3 0.970 [0.97..0.97] 0.006 0.980 [0.98..0.98] 0.99 0.87 / 0.97'
  assert ' '.join(words(text, '10,007')) == row
  assert '300 / 1,000 (Fig. 2a' in text
  assert '101 / 1,009' in text
  assert scoreboard.estimate(imin.main.i_50) in text
  assert 'mean [min..max] of seeds' in text
  assert words(text, 'masked')[-1] == '0.001'
  assert 'N = 38,400; 2 passes; 1,200 steps of 64; adamw 0.001, linear' in text
  assert 'commit abc1234567' in text


def test_table_of_noops(noop):
  text = printed(noop)
  row = next(w for w in map(str.split, text.split('\n')) if w[:2] == ['10%', '10,007'])
  assert row[2:5] == ['3', '0.970', '[0.97..0.97]']
  # no-op, average, training mix, near miss, false op, false no-op
  assert row[5:] == ['0.900', '0.935', '0.790', '0.830', '0.070', '0.030']
  assert 'I_50 of has-op inputs, noop_share=0.5' in text


def test_numbers_in_words():
  assert scoreboard.number(416.4) == '416'
  assert scoreboard.number(12_345) == '12,300'
  assert scoreboard.number(None) == '-'
  both = Estimate(400, None, None, {'0': 350.0, '1': 457.1})
  assert scoreboard.estimate(both) == '400 (seeds: 350, 457)'
  assert scoreboard.estimate(Estimate(400, None, None, {'0': 400})) == '400 (one seed)'
  far = Estimate(87, 80, 95, {}, extrapolated=True)
  assert scoreboard.flagged(far) == '87 [80, 95] extrapolated'


def test_a_running_sweep_is_read_as_far_as_it_is(tmp_path):
  path = fake_run.make(tmp_path / 'r', seeds=1, counts=(29, 10007), references=False)
  (path / 'provenance.json').unlink()
  (path / 'dynamics.csv').unlink()
  with (path / 'results.csv').open('a') as file:
    file.write('q0-i503-s0,,503,0.0,0.0')  # a row that a kill cut short
  run = results.analyse(path)
  text = json.loads((path / 'transition.json').read_text())
  assert text['i_50'] is None
  assert text['fit'] is None
  assert text['reason'] == 'seed 0: 2 counts, a fit needs 4'
  assert 'No fit for seed 0: 2 counts' in printed(run)
  assert (path / 'figure.png').exists()


def test_references_alone_can_be_shown(tmp_path):
  path = fake_run.make(tmp_path / 'r', seeds=1, counts=(29,))
  lines = (path / 'results.csv').read_text().split('\n')
  kept = [line for line in lines if not line.startswith('q0')]
  (path / 'results.csv').write_text('\n'.join(kept))
  run = results.analyse(path)
  assert run.main.reason == 'no points'
  assert 'infinite_rules' in printed(run)


@pytest.mark.parametrize(
  ('break_it', 'message'),
  [
    (lambda p: (p / 'config.json').unlink(), 'config.json is missing'),
    (lambda p: (p / 'config.json').write_text('{'), 'config.json cannot be read'),
    (lambda p: (p / 'results.csv').unlink(), 'has no results yet'),
    (lambda p: (p / 'results.csv').write_text('member\n'), 'has no results yet'),
    (lambda p: (p / 'results.csv').write_text('member\nq\n'), 'results.csv, line 2'),
  ],
)
def test_broken_workdirs_are_named(tmp_path, break_it, message):
  path = fake_run.make(tmp_path / 'r', seeds=1, counts=(29,))
  break_it(path)
  with pytest.raises(ConfigError, match=message):
    results.load(path)


def report(*arguments):
  return subprocess.run(
    [sys.executable, '-m', 'onlyif_jax.report', *arguments],
    capture_output=True,
    text=True,
    check=False,
  )


def test_report_of_one_run(tmp_path):
  path = fake_run.make(tmp_path / 'r')
  done = report(f'--workdir={path}')
  assert done.returncode == 0, done.stderr
  assert str(path / 'report.html') in done.stdout
  page = (path / 'report.html').read_text()
  for part in ('data:image/png;base64', 'abc123456789def', '/home/alice'):
    assert part in page
  assert 'rules.test_fraction: 0.2' in page
  assert {p.name for p in path.iterdir()} >= {'figure.png', 'transition.json'}


@pytest.mark.slow
def test_report_of_several_runs_elsewhere_and_anonymous(tmp_path):
  paths = [fake_run.make(tmp_path / name) for name in 'ab']
  out = tmp_path / 'out'
  before = [sorted(p.iterdir()) for p in paths]
  done = report(*(f'--workdir={p}' for p in paths), f'--out={out}', '--anonymous')
  assert done.returncode == 0, done.stderr
  assert {p.name for p in out.iterdir()} == {
    'joint.png',
    'report.html',
    'scoreboard.json',
  }
  assert [sorted(p.iterdir()) for p in paths] == before
  page = (out / 'report.html').read_text()
  for anonymous in (True, False):
    file = io.BytesIO()
    figures.draw(results.load(paths[0]), file, anonymous=anonymous)
    assert (base64.b64encode(file.getvalue()).decode() in page) == anonymous
  assert page.count('data:image/png;base64') == 3
  assert 'imin-cpu (2)' in page
  for private in ('abc1234567', 'alice', 'wonderland', str(tmp_path), 'commit'):
    assert private not in page


def test_report_names_what_is_wrong(tmp_path):
  for arguments, message in (
    ([], '--workdir is missing'),
    ([f'--workdir={tmp_path}/none'], 'there is no such directory'),
    ([f'--workdir={tmp_path}'], 'config.json is missing'),
  ):
    done = report(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count('\n') == 1
