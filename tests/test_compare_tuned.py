"""Two fine-tuning runs beside each other, and one as a small file."""

import json
import math
import subprocess
import sys
import zipfile

import fake_run
import fake_tuned
import numpy as np
import pytest
from fake_tuned import right
from test_html_tuned import mixture, symbolic
from test_tuned_evidence import code

from onlyif_jax.analysis import bundle, compare_tuned, reporting, tuned
from onlyif_jax.config import ConfigError
from onlyif_jax.finetune import rows as rows_lib

COUNTS = (10, 30, 100, 300, 1_000, 3_000)


def steps(path, i50, *, seeds=3, rank=16):
  """A run of cipher_lm whose has-op half rises at i50, seed by seed 0.1 decades on."""
  tuning = fake_tuned.config('cipher_lm', 'tiny')
  results = []
  for seed in range(seeds):
    for count in COUNTS:
      row = rows_lib.TuningRow(f'I{count}-s{seed}', seed, count)
      own = fake_run.accuracy(count, i50 * 10 ** (0.1 * seed), slope=5.0)
      total = round(own * 1_009)
      results.append((row, 'unseen', 'noop=0', 'exact_match', total, 1_009))
  fake_tuned.write(path, tuning, results)
  changed = json.loads((path / 'config.json').read_text())
  changed['lora']['rank'] = rank
  (path / 'config.json').write_text(json.dumps(changed))
  return path


def test_steps_are_paired_by_seed_and_settings_come_first(tmp_path):
  a, b = (
    tuned.load(steps(tmp_path / str(i50), i50, rank=rank))
    for i50, rank in ((101, 16), (199, 8))
  )
  first, second, third = compare_tuned.grids(a, b)
  assert first.rows == (('lora.rank', '16', '8'),)
  (shift,) = compare_tuned.shifts(a, b)
  assert shift.curve == 'unseen, noop=0'
  assert shift.paired
  assert shift.delta == pytest.approx(math.log10(199 / 101), abs=0.02)
  assert shift.low is not None
  assert shift.high - shift.low < 0.1  # seeds differ by 0.2 decades: pairing helps
  assert second.rows[0][0] == 'unseen, noop=0'
  assert [row[0] for row in third.rows] == [f'I{c}' for c in COUNTS]
  middle = dict(zip(('row', 'A', 'B', 'gap'), third.rows[2], strict=True))
  assert float(middle['gap'].split()[0]) == pytest.approx(
    float(middle['B']) - float(middle['A']), abs=0.002
  )
  told = json.loads(compare_tuned.to_json(a, b))
  assert told['differing'] == {'lora.rank': [16, 8]}
  assert told['shifts'][0]['paired'] is True


def test_other_rules_are_not_paired(tmp_path):
  a, b = (tuned.load(steps(tmp_path / str(n), n)) for n in (101, 199))
  b.config['seed'] = 5
  assert not compare_tuned.shifts(a, b)[0].paired


def test_benchmarks_are_compared_problem_by_problem(tmp_path):
  a = tuned.load(code(tmp_path / 'a', (0.0, 0.0, 0.0), seeds=1, sizes=(399,)))
  b = tuned.load(code(tmp_path / 'b', (0.0, 0.01, 0.1), seeds=1, sizes=(399,)))
  found = {(g.row, g.measure): g for g in compare_tuned.row_gaps(a, b)}
  assert len(found) == 3 * 4
  none, few, many = (
    found[row.name.removesuffix('-s0'), 'humaneval base']
    for row in rows_lib.rows(fake_tuned.config('code_deepseek'))[:3]
  )
  more = round(0.7 * 164) - round(0.6 * 164)
  (test,) = many.tests
  assert (test.seed, test.only_a, test.only_b) == ('0', 0, more)
  assert many.gap.value == pytest.approx(more / 164)
  assert many.gap.low > 0
  smallest = 2 * 0.5**more  # McNemar's, then Holm over three rows
  assert test.holm == pytest.approx(3 * smallest)
  assert (none.gap.value, none.tests[0].holm) == (0.0, 1.0)
  assert (few.tests[0].only_a, few.tests[0].only_b) == (0, 2)
  assert few.gap.within_noise
  grids = compare_tuned.grids(a, b)
  assert grids[0].title == 'Settings that differ'
  marks = {row[0]: row[6] for row in grids[1].rows if row[1] == 'humaneval base'}
  assert ['≈' in marks[g.row] for g in (none, few, many)] == [True, True, False]
  assert 'another training seed' in grids[1].title
  assert len(json.loads(compare_tuned.to_json(a, b))['benchmarks']) == 12


def test_several_seeds_are_tested_one_by_one(tmp_path):
  a = tuned.load(code(tmp_path / 'a', (0.0, 0.0), spread=0.03))
  b = tuned.load(code(tmp_path / 'b', (0.05, 0.0), spread=0.03))
  gaps = compare_tuned.row_gaps(a, b)
  for one in gaps[::2]:
    assert one.seeds == 3
    assert one.gap.value == pytest.approx(0.05, abs=0.01)
    assert one.gap.within_noise  # as seeds differ by 0.03
  (first, second) = (g for g in gaps if g.measure == 'humaneval base')
  assert [t.seed for t in first.tests] == ['0', '1', '2']
  for seed, test in enumerate(first.tests):
    own = [round((0.6 + lift + 0.03 * (seed - 1)) * 164) for lift in (0.0, 0.05)]
    assert (test.only_a, test.only_b) == (0, own[1] - own[0])
  p = [2 * 0.5**t.only_b for t in first.tests]
  assert min(t.holm for t in first.tests) == pytest.approx(6 * min(p))  # of 2 x 3
  assert [t.holm for t in second.tests] == [1.0] * 3
  grid = compare_tuned.grids(a, b)[1]
  cells = [row[-1] for row in grid.rows if row[1] == 'humaneval base']
  assert cells[0].startswith(f'seed 0: {first.tests[0].only_b} : 0 (')
  assert cells[0].count('seed') == 3
  told = json.loads(compare_tuned.to_json(a, b))['benchmarks'][0]['tests']
  assert [one['seed'] for one in told] == ['0', '1', '2']


def test_the_sign_of_noise_is_the_intervals_in_every_report(tmp_path):
  """Holm's p over many rows stands beside it, and marks nothing."""
  a = tuned.load(code(tmp_path / 'a', (0.0,) * 6, seeds=1, sizes=()))
  b = tuned.load(code(tmp_path / 'b', (0.04,) * 6, seeds=1, sizes=()))
  for one in compare_tuned.row_gaps(a, b):
    assert one.tests[0].only_b == 7
    assert one.tests[0].holm == pytest.approx(6 * 2 * 0.5**7)  # above 0.05
    assert one.gap.low > 0
  assert not any('≈' in row[6] for row in compare_tuned.grids(a, b)[1].rows)


def test_other_versions_of_problems_are_named_and_not_compared(tmp_path):
  a = tuned.load(code(tmp_path / 'a', (0.0,), seeds=1, sizes=(378,)))
  b = tuned.load(code(tmp_path / 'b', (0.0,), seeds=1, sizes=(399,)))
  assert {g.measure for g in compare_tuned.row_gaps(a, b)} == {
    *('humaneval base', 'humaneval plus')
  }
  apart = compare_tuned.grids(a, b)[2]
  assert apart.rows == (('mbpp', 'MBPP+ v0.2.0', 'MBPP+ v0.1.0'),)


def losses(path, lift, *, seeds=3, count=101):
  tuning = fake_tuned.config('code_codeqwen')
  own = [r for r in rows_lib.rows(tuning) if r.seed < seeds][:2]
  own = [
    r for r in rows_lib.rows(tuning) if r.seed < seeds and r.mixture == own[0].mixture
  ]
  noise = np.random.default_rng(1).normal(size=seeds)
  results = [
    (r, 'heldout', 'source=oss', 'response_nll', count * (1 + noise[n] + lift), count)
    for n, r in enumerate(own)
  ]
  return tuned.load(fake_tuned.write(path, tuning, results))


def test_held_out_losses_are_paired_by_seed(tmp_path):
  a, b = losses(tmp_path / 'a', 0.0), losses(tmp_path / 'b', -0.07)
  (found,) = compare_tuned.loss_gaps(a, b)
  assert (found.source, found.gap.seeds) == ('oss', 3)
  assert found.gap.value == pytest.approx(-0.07)
  assert found.gap.half < 1e-6
  assert compare_tuned.grids(a, b)[-1].rows[0][4].startswith('-0.070 [-0.070')
  one = losses(tmp_path / 'one', 0.1, seeds=1)
  (found,) = compare_tuned.loss_gaps(a, one)
  assert found.gap.seeds == 1
  assert json.loads(compare_tuned.to_json(a, one))['losses'][0]['gap']['half'] is None
  other = losses(tmp_path / 'other', 0.1, count=103)
  assert compare_tuned.loss_gaps(a, other)[0].reason == 'not the same responses'


def test_runs_that_cannot_be_compared_are_named(tmp_path):
  one, two = symbolic(tmp_path / 'a'), mixture(tmp_path / 'b')
  sweep = fake_run.make(tmp_path / 'c', counts=(101,), seeds=1)
  for pair, message in (
    ((one, two), 'compare runs of a kind'),
    ((one, sweep), 'two sweeps from scratch or two of fine-tuning'),
    ((sweep, two), 'two sweeps from scratch or two of fine-tuning'),
    ((two, losses(tmp_path / 'd', 0.0).path), None),
  ):
    runs = [reporting.load(p) for p in pair]
    if message is None:
      reporting.side_by_side(runs, ['A', 'B'], None)
      continue
    with pytest.raises(ConfigError, match=message):
      reporting.side_by_side(runs, ['A', 'B'], None)


def call(module, *words):
  command = [sys.executable, '-m', f'onlyif_jax.{module}', *map(str, words)]
  return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_compare_from_the_command_line(tmp_path):
  paths = mixture(tmp_path / 'a'), mixture(tmp_path / 'b')
  before = {p: p.read_bytes() for p in tmp_path.rglob('*') if p.is_file()}
  done = call('report', '--compare', *paths, f'--out={tmp_path / "out"}', '--anonymous')
  assert done.returncode == 0, done.stderr
  assert 'Benchmarks, the same problems for both' in done.stdout
  page = (tmp_path / 'out' / 'report.html').read_text()
  assert page.index('Settings that differ') < page.index('Table 2, CodeQwen')
  assert (tmp_path / 'out' / 'compare.json').exists()
  assert all(p.read_bytes() == content for p, content in before.items())


# --- bundles


@pytest.mark.parametrize('make', [symbolic, mixture])
def test_a_bundle_gives_the_same_report(make, tmp_path, capsys):
  path = make(tmp_path / 'run')
  for name in ('checkpoints/x/1/weights', 'base/model.safetensors', 'metrics.jsonl'):
    (path / name).parent.mkdir(parents=True, exist_ok=True)
    (path / name).write_bytes(b'0' * 1_000)
  for folder in path.glob('benchmarks/*/*'):
    (folder / 'samples.jsonl').write_text('{"completion": "secret"}\n')
  packed, left_out = bundle.write(path, tmp_path / 'mine')
  assert left_out == []
  assert packed.stat().st_size < bundle.LIMIT
  names = set(zipfile.ZipFile(packed).namelist())
  assert {'config.json', 'provenance.json', 'results.csv', 'figure.png'} <= names
  assert not {n for n in names if 'samples' in n or 'weights' in n or 'base/' in n}
  if make is mixture:
    assert {'mixture/manifest.json', 'mixture/diversity.json'} <= names
    assert sum(n.endswith('problems.csv') for n in names) == 4
  else:
    assert {'transition.json', 'anatomy.csv', 'wrong.jsonl'} <= names
  again, _ = bundle.write(path, tmp_path / 'again')
  assert again.read_bytes() == packed.read_bytes()
  with bundle.opened(packed) as folder:
    for place, out in ((path, 'one'), (folder, 'two')):
      run = reporting.load(place)
      reporting.report([run], [run.label], tmp_path / out)
  capsys.readouterr()
  files = sorted(p.name for p in (tmp_path / 'one').iterdir())
  assert 'report.html' in files
  for name in files:
    one, two = ((tmp_path / out / name).read_bytes() for out in ('one', 'two'))
    assert one == two, name


def test_the_commands_write_and_read_a_bundle(tmp_path):
  path, packed = mixture(tmp_path / 'run'), tmp_path / 'x.zip'
  done = call('export', f'--workdir={path}', '--to=bundle', f'--out={packed}')
  assert done.returncode == 0, done.stderr
  assert done.stdout == f'written: {packed}\n'
  done = call('report', f'--bundle={packed}')
  assert done.returncode == 0, done.stderr
  assert 'Table 2, CodeQwen-7B' in done.stdout
  text = (tmp_path / 'x-report' / 'report.html').read_text()
  assert text.count('<img') == 2  # figure and map


@pytest.mark.parametrize(
  'name',
  [
    'benchmarks/../../escape.json',
    'benchmarks/a-s0/samples.jsonl',
    'benchmarks/a-s0/humaneval/other.json',
    'benchmarks/.a/x.json',
    '/benchmarks/a/x.json',
    'mixture/rows.csv',
  ],
)
def test_a_bundle_with_anything_else_is_refused(name, tmp_path):
  path = tmp_path / 'odd.zip'
  with zipfile.ZipFile(path, 'w') as file:
    file.writestr(name, '{}')
  with pytest.raises(ConfigError, match='not a run'), bundle.opened(path):
    pass


def test_scores_of_every_depth_are_bundled(tmp_path):
  path = mixture(tmp_path / 'run', scored=False)
  row = rows_lib.rows(fake_tuned.config('code_codeqwen'))[0].name
  fake_tuned.solve(path, row, {'base': right(7, 0.5)}, folder='humaneval/scores')
  fake_tuned.score(path, row, 'humaneval', base=(0.5, 0.2, 0.8))
  packed, _ = bundle.write(path, tmp_path / 'x')
  names = {n for n in zipfile.ZipFile(packed).namelist() if n.startswith('benchmarks')}
  assert names == {
    f'benchmarks/{row}/humaneval.json',
    f'benchmarks/{row}/humaneval/scores/scores.json',
    f'benchmarks/{row}/humaneval/scores/problems.csv',
  }
