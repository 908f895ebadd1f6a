"""Tables 1-3: the papers' rows, ours beside them, gains and their noise."""

import functools
import json
import tempfile
from fractions import Fraction
from pathlib import Path

import fake_tuned
import numpy as np
import pytest
from fake_tuned import right

from onlyif_jax.analysis import (
  benchmark_scores,
  mixture_scores,
  paired,
  paper_tables,
  targets,
  tuned,
)
from onlyif_jax.config import ConfigError
from onlyif_jax.finetune import rows as rows_lib

FOUR = {'HE': 0.6, 'HE+': 0.55, 'MBPP': 0.7, 'MBPP+': 0.6}


def code(path, name='code_deepseek', *, better=(), keep=6, sizes=(399,)):
  """A run whose rows solve the same problems, but for those `better` by key."""
  fake_tuned.mixtures(path, name, keep=keep)
  for row in rows_lib.rows(fake_tuned.config(name))[:keep]:
    more = dict(better).get(row.mixture, 0.0)
    fake_tuned.solve(
      path,
      row.name,
      {'base': right(164, 0.6 + more), 'plus': right(164, 0.55 + more)},
    )
    for size in sizes:
      fake_tuned.solve(
        path,
        row.name,
        {'base': right(size, 0.7 + more, 1), 'plus': right(size, 0.6 + more, 1)},
        folder=f'mbpp-{size}',
      )
  return path


@functools.cache
def plain():
  """(run, its scores): rows of 20K; 18/2/0 is far better, 17/3/0 by three problems."""
  better = {'oss=18000,alpaca=2000': 0.15, 'oss=17000,alpaca=3000': 0.001}
  with tempfile.TemporaryDirectory() as name:
    run = tuned.load(code(Path(name) / 'run', better=better.items()))
    return run, paper_tables.scores(run)


def lines(grid):
  return {
    (row[0], row[1]): dict(zip(grid.columns, row, strict=True)) for row in grid.rows
  }


@pytest.mark.parametrize(
  ('name', 'tables'),
  [
    ('code_deepseek', ('deepseek-20k', 'deepseek-75k')),
    ('code_codeqwen', ('codeqwen',)),
    (
      'generalist',
      ('generalist-20k', 'generalist-40k', 'generalist-60k', 'generalist-80k'),
    ),
  ],
)
def test_a_config_has_every_row_of_its_table_with_exact_counts(name, tables):
  printed = {
    tuple(1000 * Fraction(part) for part in row.split('/'))
    for table in targets.read()['tables']
    if table['id'] in tables
    for row in table['rows']
  }
  assert len(printed) >= 6
  mixture = fake_tuned.config(name).mixture
  names = [file.name for file in mixture.source_files]
  counts = [mixture.counts(row) for row in mixture.rows]
  own = [tuple(c.get(name, 0) for name in names) for c in counts]
  if name == 'code_codeqwen':  # drawn in Fig. 6 alone
    printed |= {(17000, 3000, 0), (15000, 5000, 0)}
  assert sorted(own) == sorted(printed)


def test_the_papers_line_stands_above_ours_in_the_papers_form():
  run, views = plain()
  grid, *rest = paper_tables.grids(run, views)
  assert 'Table 1, DeepSeek-Coder-6.7B: 20K rows' in grid.title
  assert len(rest) == 1  # the block of 75K, of which nothing ran
  assert all(row[1] == 'paper' for row in rest[0].rows)
  found = lines(grid)
  paper = found['15 + 3/2/0', 'paper']
  assert [paper[c] for c in ('HE', 'HE+', 'MBPP', 'MBPP+')] == [
    *('68.3', '61.6', '75.4', '63.2')
  ]
  assert (paper['Avg'], paper['gain, %']) == ('67.1', '+4.6')
  assert paper['Avg(Base)'] == f'{(68.3 + 75.4) / 2:.1f}'  # printed in few rows
  places = [row[:2] for row in grid.rows]
  assert places[places.index(('15 + 3/2/0', 'paper')) + 1] == ('', 'here')


def ours(grid, label):
  rows = list(grid.rows)
  place = next(n for n, row in enumerate(rows) if row[0].startswith(label))
  return dict(zip(grid.columns, rows[place + 1], strict=True))


def test_our_cells_averages_and_gains_follow_from_the_problems():
  run, views = plain()
  grid = paper_tables.grids(run, views)[0]
  counts = [round(0.6 * 164), round(0.55 * 164), round(0.7 * 399), round(0.6 * 399)]
  shares = [counts[0] / 164, counts[1] / 164, counts[2] / 399, counts[3] / 399]
  base = ours(grid, '15 + 5/0/0')
  assert [float(base[c]) for c in FOUR] == pytest.approx(
    [100 * s for s in shares], abs=0.051
  )
  assert float(base['Avg']) == pytest.approx(25 * sum(shares), abs=0.051)
  assert float(base['Avg(+)']) == pytest.approx(50 * (shares[1] + shares[3]), abs=0.051)
  counts = [round(0.75 * 164), round(0.7 * 164), round(0.85 * 399), round(0.75 * 399)]
  more = sum(c / n for c, n in zip(counts, (164, 164, 399, 399), strict=True))
  best = ours(grid, '15 + 3/2/0')
  gain = 100 * (more / sum(shares) - 1)
  assert float(best['gain, %']) == pytest.approx(gain, abs=0.051)


def test_a_difference_within_its_noise_is_marked_and_a_large_one_is_not():
  grid = paper_tables.grids(*plain())[0]
  last = grid.columns[-1]
  assert '≈' in ours(grid, '15 + 2/3/0')[last]  # three problems of 563
  assert '≈' in ours(grid, '15 + 2/3/0')['gain, %']
  best = ours(grid, '15 + 3/2/0')[last]
  assert '≈' not in best
  value, low, high = (
    float(x) for x in best.replace('[', '').replace(']', '').replace(',', '').split()
  )
  assert low < value < high
  assert low > 10
  assert ours(grid, '15 + 5/0/0')[last] == ''  # the baseline itself


def test_inconsistencies_stand_beside_the_rows_they_touch():
  run, views = plain()
  grids = paper_tables.grids(run, views)
  assert '15 + 1/4/0 [C14.4]' in [row[0] for row in grids[0].rows]
  assert '60 + 7.5/3.25/3.25 [C14.5]' in [row[0] for row in grids[1].rows]
  said = paper_tables.notes(run, views)
  for name in ('C14.2', 'C14.3', 'C14.4', 'C14.5'):
    assert f'[{name}] {targets.caveat(name)}' in said
  assert not any(note.startswith('[C14.6]') for note in said)  # of Table 3


def test_both_versions_of_mbpp_are_scored_apart(tmp_path):
  run = tuned.load(code(tmp_path / 'run', keep=3, sizes=(378, 399)))
  views = paper_tables.scores(run)
  assert [view.label for view in views] == ['MBPP+ v0.1.0', 'MBPP+ v0.2.0']
  grid = paper_tables.grids(run, views)[0]
  rows = [row[1] for row in grid.rows[:3]]
  assert rows == ['paper', 'here, MBPP+ v0.1.0', 'here, MBPP+ v0.2.0']
  old, new = (dict(zip(grid.columns, grid.rows[n], strict=True)) for n in (1, 2))
  assert old['HE'] == new['HE']
  assert float(old['MBPP']) == pytest.approx(100 * round(0.7 * 399) / 399, abs=0.051)
  assert float(new['MBPP']) == pytest.approx(100 * round(0.7 * 378) / 378, abs=0.051)
  assert any('MBPP+ v0.1.0; MBPP+ v0.2.0' in n for n in paper_tables.notes(run, views))


def test_problem_by_problem_counts_are_mcnemars():
  run, views = plain()
  grid = paper_tables.details(run, views)[0]
  found = {row[0]: dict(zip(grid.columns, row, strict=True)) for row in grid.rows}
  more = round(0.75 * 164) - round(0.6 * 164)
  assert found['15 + 3/2/0']['HE'].startswith(f'{more} : 0 (')
  assert found['15 + 4/1/0']['HE'] == '0 : 0 (1)'
  assert '15 + 5/0/0' not in found


def seeds_apart(path, seeds=3, spread=0.02):
  """Three rows of code_deepseek on HumanEval; seeds differ, 18/2/0 is better."""
  own = [r for r in rows_lib.rows(fake_tuned.config('code_deepseek')) if r.seed < seeds]
  places = list(dict.fromkeys(r.mixture for r in own))[:3]
  fake_tuned.mixtures(path, 'code_deepseek', keep=9)
  for r in own:
    if r.mixture in places:
      share = 0.5 + 0.1 * (places.index(r.mixture) == 2) + spread * (r.seed - 1)
      both = {'base': right(164, share), 'plus': right(164, share)}
      fake_tuned.solve(path, r.name, both)
  return tuned.load(path)


def test_seeds_are_tested_one_by_one_with_holm_over_rows_and_seeds(tmp_path):
  run = seeds_apart(tmp_path / 'run')
  grid = paper_tables.details(run, paper_tables.scores(run))[0]
  assert 'Holm over rows and seeds' in grid.title
  found = {row[0]: dict(zip(grid.columns, row, strict=True)) for row in grid.rows}
  counts = [
    [round((share + 0.02 * (seed - 1)) * 164) for share in (0.5, 0.6)]
    for seed in range(3)
  ]
  more = [b - a for a, b in counts]
  p = sorted(2 * 0.5**n for n in more)
  cells = found['15 + 3/2/0']['HE'].split('; ')
  assert [cell.partition(' (')[0] for cell in cells] == [
    f'seed {seed}: {n} : 0' for seed, n in enumerate(more)
  ]
  assert float(cells[more.index(max(more))].split('(')[1][:-1]) == pytest.approx(
    6 * p[0], rel=0.05
  )
  assert found['15 + 4/1/0']['HE'].count('0 : 0 (1)') == 3


def test_spread_between_seeds_is_told_apart_from_that_of_problems(tmp_path):
  run = seeds_apart(tmp_path / 'run')
  views = paper_tables.scores(run)
  (said,) = (n for n in paper_tables.notes(run, views) if 'standard deviation' in n)
  inside = [
    np.var([round((share + 0.02 * d) * 164) / 164 for d in (-1, 0, 1)], ddof=1)
    for share in (0.5, 0.5, 0.6)
  ]
  points = 100 * np.sqrt(np.mean(inside))
  assert f'a standard deviation of {points:.1f} points' in said
  assert '(9 runs of 3 mixtures)' in said
  assert '; mixtures differ by 5.' in said  # 0.5, 0.5 and 0.6
  one = seeds_apart(tmp_path / 'one', seeds=1)
  found = paper_tables.notes(one, paper_tables.scores(one))
  assert not any('standard deviation' in note for note in found)


def test_a_run_without_scores_has_no_table(tmp_path):
  run = tuned.load(fake_tuned.mixtures(tmp_path / 'run', 'code_codeqwen', keep=2))
  assert paper_tables.scores(run) == []
  assert paper_tables.grids(run, []) == paper_tables.notes(run, []) == []


def test_with_one_benchmark_averages_say_so(tmp_path):
  path = fake_tuned.mixtures(tmp_path / 'run', 'code_deepseek', arg='tiny', keep=3)
  for row in rows_lib.rows(fake_tuned.config('code_deepseek', 'tiny'))[:3]:
    fake_tuned.solve(path, row.name, {'base': right(53, 0.6), 'plus': right(53, 0.4)})
  fake_tuned.solve(path, 'zero-shot', {'base': right(53, 0.2), 'plus': right(53, 0.1)})
  run = tuned.load(path)
  views = paper_tables.scores(run)
  grid = paper_tables.grids(run, views)[0]
  assert 'MBPP' not in grid.columns
  assert grid.rows[0][:2] == ('before tuning', 'here')
  assert any(
    'Avg is here the mean of' in note for note in paper_tables.notes(run, views)
  )


# Table 3.


def test_table_3_averages_are_means_of_the_benchmarks(tmp_path):
  path = fake_tuned.mixtures(tmp_path / 'run', 'generalist', keep=3)
  strict = ('prompt_level_strict_acc__none', 'inst_level_strict_acc__none')
  for n, row in enumerate(rows_lib.rows(fake_tuned.config('generalist'))[:3]):
    fake_tuned.solve(path, row.name, {'base': right(164, 0.4), 'plus': right(164, 0.3)})
    both = dict(zip(strict, [(0.3, 0.2, 0.4), (0.5 + n / 10, 0.4, 0.6)], strict=True))
    fake_tuned.score(path, row.name, 'ifeval', **both)
    fake_tuned.score(path, row.name, 'gsm8k', exact_match=(0.2, 0.15, 0.25))
    fake_tuned.score(path, row.name, 'mmlu', acc=(0.6, 0.59, 0.61))
  run = tuned.load(path)
  views = paper_tables.scores(run)
  grid = paper_tables.grids(run, views)[0]
  assert grid.rows[0][:2] == ('10 + 10/0/0', 'paper')
  own = ours(grid, '10 + 0/10/0')
  he, instructions = 100 * round(0.4 * 164) / 164, 45.0
  assert float(own['IF']) == pytest.approx(instructions, abs=0.051)
  overall = (he + instructions + 20 + 60) / 4
  assert float(own['overall']) == pytest.approx(overall, abs=0.051)
  assert float(own['w/o IF']) == pytest.approx((he + 20 + 60) / 3, abs=0.051)
  assert float(own['w/o math']) == pytest.approx(
    (he + instructions + 60) / 3, abs=0.051
  )
  assert '10 + 0/0/10 [C14.6b]' in [row[0] for row in grid.rows]
  assert lines(grid)['10 + 0/0/10 [C14.6b]', 'paper']['in budget, %'] == '+14.64'
  assert any(
    'prompt- and instruction-level' in n for n in paper_tables.notes(run, views)
  )
  assert '≈' in own['in budget, %']  # IFEval's own interval is wide


# Noise.


def test_interval_of_two_benchmarks_is_that_of_their_sampling():
  rng = np.random.default_rng(3)
  gaps = [rng.choice([-1, 0, 1], 397, p=[0.1, 0.6, 0.3]), rng.choice([0, 1], 163)]
  found = paired.stratified(gaps)
  assert found.value == pytest.approx(np.mean([g.mean() for g in gaps]))
  error = np.sqrt(sum(g.var(ddof=1) / len(g) for g in gaps)) / 2
  assert found.high - found.value == pytest.approx(1.96 * error, rel=0.06)
  assert found.value - found.low == pytest.approx(1.96 * error, rel=0.06)
  alone = paired.stratified([gaps[0]], [1.0])
  error = gaps[0].std(ddof=1) / 397**0.5
  assert alone.high - alone.value == pytest.approx(1.96 * error, rel=0.06)


def test_seeds_that_differ_widen_the_interval(tmp_path):
  def half(folder, spread):
    for row, share in (('a', 0.5), ('b', 0.6)):
      for seed in range(3):
        own = right(211, share + spread * (seed - 1))
        fake_tuned.solve(tmp_path / folder, f'{row}-s{seed}', {'base': own})
    (view,) = mixture_scores.views(benchmark_scores.read(tmp_path / folder))
    gap = view.gap('a', 'b', [('humaneval', 'base')])
    assert gap.value == pytest.approx(0.1, abs=0.01)
    return gap.high - gap.value

  assert half('wide', 0.1) > 2 * half('narrow', 0.0)


def test_errors_of_scores_without_problems_add_up(tmp_path):
  fake_tuned.score(tmp_path, 'a-s0', 'mmlu', acc=(0.5, 0.46, 0.54))
  fake_tuned.score(tmp_path, 'b-s0', 'mmlu', acc=(0.6, 0.57, 0.63))
  (view,) = mixture_scores.views(benchmark_scores.read(tmp_path))
  gap = view.gap('a', 'b', [('mmlu', '')])
  assert gap.value == pytest.approx(0.1)
  assert gap.high - gap.value == pytest.approx(0.05)
  assert not gap.within_noise
  assert view.gap('a', 'c', [('mmlu', '')]) is None


@pytest.mark.parametrize(
  ('break_', 'message'),
  [
    (lambda f: (f / 'scores.json').write_text('{}'), 'is no scoring of code'),
    (lambda f: (f / 'scores.json').write_text('['), 'cannot be read'),
    (lambda f: (f / 'problems.csv').unlink(), 'problems.csv has no column'),
    (
      lambda f: (f / 'problems.csv').write_text(
        'task_id,samples,base_correct\nT/1,1,1\n'
      ),
      'disagree on base',
    ),
    (
      lambda f: (f / 'problems.csv').write_text('task_id,samples,base_correct\n'),
      'disagree on base',
    ),
    (
      lambda f: (f / 'problems.csv').write_text(
        'task_id,samples,base_correct\nT/1,0,0\n'
      ),
      'problems.csv has no column',
    ),
  ],
)
def test_damaged_results_are_named(tmp_path, break_, message):
  folder = fake_tuned.solve(tmp_path, 'a-s0', {'base': right(7, 0.5)})
  break_(folder)
  with pytest.raises(ConfigError, match=message):
    benchmark_scores.read(tmp_path)


def test_code_counts_once_beside_the_summary_of_its_benchmark(tmp_path):
  own = {'base': right(7, 0.5)}
  fake_tuned.solve(tmp_path, 'a-s3', own, folder='humaneval/scores')
  fake_tuned.score(tmp_path, 'a-s3', 'humaneval', base=(0.5, 0.2, 0.8))
  (found,) = benchmark_scores.read(tmp_path)
  assert (found.row, found.seed, found.suite) == ('a', '3', 'base')
  assert len(found.problems) == 7


def test_a_result_of_another_kind_is_named(tmp_path):
  fake_tuned.score(tmp_path, 'a-s0', 'mmlu', acc=(0.5, 0.46, 0.54))
  (tmp_path / 'benchmarks' / 'a-s0' / 'mmlu.json').write_text(json.dumps({'x': 1}))
  with pytest.raises(ConfigError, match='is no result of a benchmark'):
    benchmark_scores.read(tmp_path)


def test_a_scoring_that_tells_its_benchmark_is_believed(tmp_path):
  folder = fake_tuned.solve(tmp_path, 'a-s0', {'base': right(7, 0.5)}, folder='x')
  assert benchmark_scores.read(tmp_path)[0].benchmark == 'humaneval'
  told = json.loads((folder / 'scores.json').read_text()) | {'benchmark': 'mbpp'}
  (folder / 'scores.json').write_text(json.dumps(told))
  assert benchmark_scores.read(tmp_path)[0].benchmark == 'mbpp'


def test_rows_of_another_config_are_compared_with_the_first(tmp_path):
  path = code(tmp_path / 'run', keep=3, better=[('oss=19000,alpaca=1000', 0.1)])
  told = json.loads((path / 'config.json').read_text())
  (path / 'config.json').write_text(json.dumps(told | {'name': 'mine', 'paper': ''}))
  run = tuned.load(path)
  views = paper_tables.scores(run)
  (grid,) = paper_tables.grids(run, views)
  assert [row[0] for row in grid.rows] == ['20/0/0', '19/1/0', '18/2/0']
  assert {row[1] for row in grid.rows} == {'here'}
  assert grid.columns[-1] == 'mean less that of 20/0/0, points'
  assert not any(note.startswith('[C') for note in paper_tables.notes(run, views))
