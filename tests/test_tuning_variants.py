"""Variants of a fine-tuning run: parsing, rows, extension, curves, verdicts."""

import csv
import dataclasses
import json

import fake_tuned
import pytest

from onlyif_jax.analysis import (
  pooled,
  scoreboard,
  targets,
  tuned,
  tuned_evidence,
  tuned_sweep,
  tuned_tables,
)
from onlyif_jax.config import ConfigError
from onlyif_jax.finetune import predict, run, symbolic, tuning_config
from onlyif_jax.finetune import rows as rows_lib

PARAMETERS = targets.experiments()['algebra_lm']['settings']['base.parameters']


def frozen(*variants, task='algebra', **changes):
  c = tuning_config.symbolic_config(task)
  c.instructions.update(variants=variants, counts=(3, 5), noop_share=0.0, **changes)
  return tuning_config.freeze(c)


def names(tuning):
  return [row.name for row in rows_lib.rows(tuning)]


def test_rows_cross_variants_with_counts_subsets_and_seeds():
  tuning = frozen(
    *('task.depth=3', 'task.specialist=2,task.depth=4,instructions.counts=7'),
    subsets=('all', 'half'),
    seeds=2,
  )
  once = ['I3-depth3', 'I5-depth3', 'I5-depth3-half']
  once += ['I7-specialist2-depth4', 'I7-specialist2-depth4-half']
  assert names(tuning) == [f'{name}-s{seed}' for seed in (0, 1) for name in once]
  last = rows_lib.rows(tuning)[-1]
  assert last.variant == tuning.instructions.variants[1]
  run_config = symbolic.run_config(tuning, last)
  assert (run_config.task.depth, run_config.task.specialist) == (4, 2)
  assert run_config.sweep.counts == (7,)
  assert names(frozen()) == ['I3-s0', 'I5-s0']


@pytest.mark.parametrize(
  ('texts', 'message'),
  [
    (('task.dept=3',), r"variants has 'task.dept=3'.* Did you mean task\.depth\?"),
    (('task.name=cipher',), "has 'task.name=cipher', which is not like"),
    (('optim.clip=1',), "has 'optim.clip=1', which is not like"),
    (('task.depth=deep',), r"task\.depth='deep' is not int"),
    (('instructions.counts=50000',), r'instructions\.counts=\[50000\] must be from 1'),
    (('task.depth=3', 'task.depth=3'), 'names a variant twice'),
  ],
)
def test_variants_that_cannot_work_are_refused(texts, message):
  with pytest.raises(ConfigError, match=message):
    frozen(*texts)
  with pytest.raises(ConfigError, match=r"'task\.x_min=9': task\.x_min=9 is above"):
    frozen('task.x_min=9', task='cipher')


def test_variants_extend_a_run_and_keep_its_rows():
  old = frozen('task.depth=3,instructions.counts=3')
  new = frozen('task.depth=3,instructions.counts=3|7', 'task.depth=4')
  assert tuning_config.differences(old, new) == {}
  both = names(run.extended(old, new))
  assert both == ['I3-depth3-s0', 'I7-depth3-s0', 'I3-depth4-s0', 'I5-depth4-s0']
  assert names(run.extended(frozen(), old)) == ['I3-s0', 'I5-s0', 'I3-depth3-s0']
  assert run.extended(frozen(), frozen()) == frozen()
  assert 'task.depth' in tuning_config.differences(
    tuning_config.variant(old, 'task.depth=7'), new
  )


def test_each_kind_of_question_is_asked_of_the_untuned_model_once():
  shares = ('task.diverse_share=0.1', 'task.diverse_share=0.5')
  tuning = frozen(*(f'task.specialist=2,{text}' for text in shares))
  assert [kind for kind, _ in symbolic.kinds(tuning, rows_lib.rows(tuning))] == ['']
  tuning = frozen(*shares, *(f'task.depth=3,{text}' for text in shares))
  found = symbolic.kinds(tuning, rows_lib.rows(tuning))
  assert [kind for kind, _ in found] == ['-depth2', '-depth3']
  assert [row.name for _, row in found] == [
    'I3-diverse_share0.1-s0',
    'I3-depth3-diverse_share0.1-s0',
  ]


@pytest.mark.parametrize('arg', ['7b', '7b,part=specialist'])
def test_the_rules_of_every_variant_are_certified(arg):
  tuning = fake_tuned.config('algebra_lm', arg)
  for row in rows_lib.rows(tuning):
    (report,) = symbolic.certificates(tuning, row)
    assert report['variant'] == row.variant
    assert report['parts']['train']['rules'] == row.instructions
    assert set(report['collisions'].values()) == {0}
  wrong = frozen('task.specialist=99')
  with pytest.raises(ConfigError, match='specialist=99 in-domain rules are more'):
    symbolic.certificates(wrong, rows_lib.rows(wrong)[0])


def test_dry_run_lists_the_variants(capsys):
  predict.show(fake_tuned.config('algebra_lm', 'tiny,part=specialist'))
  out = capsys.readouterr().out
  for text in ('task.diverse_share=0.02', 'I20-specialist20-diverse_share0.0-s0'):
    assert text in out


# Results.


def made(path, arg, share, *, extra=()):
  """A run of algebra_lm; share: row -> share of right answers where it is judged."""
  tuning = fake_tuned.config('algebra_lm', f'{arg},seeds=3')
  results = []
  for row in (*rows_lib.rows(tuning), *extra):
    for split in ('unseen', 'deeper'):
      total = round(share(row) * 1_009)
      results.append((row, split, 'all', 'exact_match', total, 1_009))
    results.append((row, 'seen', 'all', 'exact_match', 1_000, 1_009))
  fake_tuned.write(path, tuning, results)
  file = path / 'provenance.json'
  told = json.loads(file.read_text()) | {'base_parameters': PARAMETERS}
  file.write_text(json.dumps(told))
  return path


FIG_5A = {3: {10: 0.44, 20: 0.52, 40: 0.8}, 4: {10: 0.33, 20: 0.49, 40: 0.58}}


def depth_of(row):
  return int(row.variant.removeprefix('task.depth='))


@pytest.fixture(scope='module')
def generalist(tmp_path_factory):
  """A run of 7b with the papers' numbers, beside few-shot lines."""
  few = [
    rows_lib.TuningRow(f'3-shot-depth{d}', 0, 0, variant=f'task.depth={d}')
    for d in (3, 4)
  ]

  def share(row):
    return FIG_5A[depth_of(row)][row.instructions] if row.instructions else 0.2

  path = tmp_path_factory.mktemp('generalist') / 'run'
  return made(path, '7b', share, extra=few)


def board_of(*paths):
  runs = [tuned.load(path) for path in paths]
  board = scoreboard.judge(*pooled.pool(runs, [path.name for path in paths]))
  return {line.target.id: line.best for line in board.lines}


def test_one_run_answers_for_both_depths(generalist):
  found = board_of(generalist)
  for cell in ('10/D3', '40/D3', '10/D4', '20/D4'):
    assert found[f'algebra-5a/{cell}'].label == 'supported', cell
  assert found['algebra-rules'].label == 'supported'
  assert found['algebra-base'].state == 'supported'
  assert found['algebra-peak'].state == 'not run'


def test_curves_tables_and_figure_keep_variants_apart(generalist, tmp_path):
  shown = tuned.load(generalist)
  assert {'task.depth=3/unseen, all', 'task.depth=4/unseen, all'} <= set(shown.fits)
  grid = tuned.grid(shown)
  assert [row[0] for row in grid.rows[:3]] == [
    '3-shot-depth3',
    '3-shot-depth4',
    'I10-depth3',
  ]
  assert grid.rows[-1][1] == '0.580'
  names = [row[0] for row in tuned_tables.grids(shown)[1].rows]
  assert 'task.depth=4/seen, all' in names
  tuned.write(shown, tmp_path)
  told = json.loads((tmp_path / 'transition.json').read_text())
  assert 'best_shares' not in told
  assert (tmp_path / 'figure.png').stat().st_size > 10_000


def test_results_without_a_column_of_variants_are_read(generalist, tmp_path):
  tuning = fake_tuned.config('algebra_lm', '7b,depth=3')
  results = [
    (row, 'unseen', 'all', 'exact_match', 521, 1_009) for row in rows_lib.rows(tuning)
  ]
  path = fake_tuned.write(tmp_path / 'old', tuning, results)
  with (path / 'results.csv').open(newline='') as file:
    rows = list(csv.DictReader(file))
  with (path / 'results.csv').open('w', newline='') as file:
    writer = csv.DictWriter(file, [k for k in rows[0] if k != 'variant'])
    writer.writeheader()
    writer.writerows([{k: v for k, v in r.items() if k != 'variant'} for r in rows])
  config = json.loads((path / 'config.json').read_text())
  del config['instructions']['variants']
  (path / 'config.json').write_text(json.dumps(config))
  shown = tuned.load(path)
  assert {r.variant for r in shown.results} == {''}
  assert 'unseen, all' in shown.fits
  assert run.stored_config(path) == tuning
  told = json.loads((path / 'provenance.json').read_text())
  told['base_parameters'] = PARAMETERS
  (path / 'provenance.json').write_text(json.dumps(told))
  assert board_of(path)['algebra-5a/20/D3'].label == 'supported'


FIG_5B = {(20, 5): 0.06, (20, 20): 0.18, (20, 40): 0.33}
FIG_5B |= {(40, 5): 0.07, (40, 20): 0.2, (40, 40): 0.36}
FIG_5C = {0.02: 0.22, 0.1: 0.4, 0.2: 0.26}


def unseen_depth(row):
  """What Fig. 5b and 5c have for a row, 5c with 0.06 less for 20 rules."""
  _, _, text = row.variant.partition('specialist=')
  inside, share = int(text[:2]), float(text.split('=')[1].split(',')[0])
  others = row.instructions - inside
  if share in FIG_5C and others > 5:
    return FIG_5C[share] - 0.06 * (others == 20)
  return FIG_5B[inside, others]


@pytest.fixture(scope='module')
def specialist(tmp_path_factory):
  path = tmp_path_factory.mktemp('specialist') / 'run'
  return made(path, '7b,part=specialist', unseen_depth)


def test_one_run_answers_for_diversification(specialist, generalist):
  found = board_of(specialist)
  for cell in (
    '5/20 in domain',
    '5/40 in domain',
    '40/20 in domain',
    '40/40 in domain',
  ):
    assert found[f'algebra-5b/{cell}'].label == 'supported', cell
  assert found['algebra-5c/5:45/Diver-40'].label == 'supported'
  assert found['algebra-diverse'].label == 'supported'
  assert found['algebra-peak'].label == 'supported'
  assert found['algebra-rules'].state == 'not run'
  both = board_of(specialist, generalist)
  assert both['algebra-rules'].label == both['algebra-peak'].label == 'supported'


def test_a_variant_that_targets_do_not_name_stays_apart(tmp_path):
  tuning = fake_tuned.config('algebra_lm', '7b,depth=3')
  texts = ('task.source=identities', 'task.source=random')
  i = dataclasses.replace(tuning.instructions, variants=texts, counts=(10,))
  tuning = dataclasses.replace(tuning, instructions=i)
  results = [
    (row, 'unseen', 'all', 'exact_match', 44 + n, 101)
    for n, row in enumerate(rows_lib.rows(tuning))
  ]
  path = fake_tuned.write(tmp_path / 'run', tuning, results)
  evidence = tuned_evidence.of(tuned.load(path))
  shown = {r.swept['task.source']: r.sum for r in evidence.rows if r.slice == 'depth=3'}
  assert shown == {'identities': 44, 'random': 45}


def test_the_best_share_is_fitted_and_drawn(specialist, tmp_path):
  shown = tuned.load(specialist)
  tuned.write(shown, tmp_path)
  told = json.loads((tmp_path / 'transition.json').read_text())['best_shares']
  spot = told['20 in-domain + 40 others']
  assert spot['low'] <= spot['share'] <= spot['high']
  assert 0.05 < spot['share'] < 0.5
  assert len(told) == 2, 'other numbers of rules have one share alone'
  (grid,) = tuned_sweep.spots_grid(shown)
  assert [row[:2] for row in grid.rows] == [('20', '20'), ('20', '40')]
  sweep = tuned_sweep.as_sweep(shown)
  assert len(sweep.values('deeper')) == 3 * 12
  assert (tmp_path / 'figure.png').stat().st_size > 20_000
