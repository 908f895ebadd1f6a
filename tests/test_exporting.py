import dataclasses
import json

import pytest

from onlyif_jax import experiment, exporting, sweep
from onlyif_jax.config import ConfigError, freeze
from onlyif_jax.evals.exact_match import EvalSet
from onlyif_jax.tasks import certificate
from onlyif_jax.training import parallel

RUN = {
  'task': {
    **{'alphabet': 7, 'x_min': 2, 'x_max': 2, 'y_min': 3, 'y_max': 3},
    **{'input_length': 5, 'noops': True},
  },
  'data': {'examples': 53, 'batch_size': 11},
  'eval': {'examples': 29, 'loop_examples': 3, 'batch_size': 19},
  'model': {'layers': 1, 'width': 8, 'heads': 2},
  'sweep': {'counts': [5, 13], 'noop_shares': [0.25]},
}


def rows_of(directory, split):
  text = (directory / f'{split}.jsonl').read_text(encoding='utf-8')
  return [json.loads(line) for line in text.splitlines()]


def check_row(row, split, order):
  assert row['split'] == split
  assert len(row['input']) == 5
  assert row['output'] == row['input'].replace(row['lhs'], row['rhs'], 1)
  named = {'x': row['lhs'], 'y': row['rhs'], 'z': row['input']}
  assert row['prompt'] == ''.join(named[c] + '<sep>' for c in order)
  assert row['slices']['noop'] == (row['lhs'] not in row['input'])
  assert row['slices']['occurrences'] == row['input'].count(row['lhs'])


@pytest.mark.slow
def test_rows_state_rewriting_tasks(tmp_path):
  out = exporting.config_to_jsonl(freeze(RUN), tmp_path / 'out', 'I13-s0')
  counts = {'train': 53, 'dev': 29, 'unseen': 29}
  noops = {'train': round(0.25 * 53), 'dev': 15, 'unseen': 15}
  names = {p.name for p in out.iterdir()}
  assert names == {f'{split}.jsonl' for split in counts} | {'splits.json'}
  (proof,) = json.loads((out / 'splits.json').read_text(encoding='utf-8'))
  assert set(proof['collisions'].values()) == {0}
  assert proof['parts']['train']['distinct_pairs'] == 13
  rules = {}
  for split, count in counts.items():
    rows = rows_of(out, split)
    assert len(rows) == count
    for row in rows:
      check_row(row, split, 'xyz')
    assert sum(row['slices']['noop'] for row in rows) == noops[split]
    rules[split] = {(row['lhs'], row['rhs']) for row in rows}
  assert len(rules['train']) == 13
  strings = {split: {s for rule in rules[split] for s in rule} for split in rules}
  assert not strings['train'] & (strings['dev'] | strings['unseen'])


@pytest.mark.slow
def test_input_first(tmp_path):
  task = RUN['task'] | {'order': 'zxy', 'noops': False}
  config = freeze(RUN | {'task': task, 'sweep': {'counts': [5]}})
  run = experiment.build(sweep.resolve(config))
  evaluator = run.evaluator(parallel.make_mesh(1))
  member = run.member(experiment.rows(config)[0])
  sets = [EvalSet('train', 23)]
  out = exporting.export_jsonl(evaluator, member, sets, tmp_path / 'out')
  rows = rows_of(out, 'train')
  assert len(rows) == 23
  for row in rows:
    check_row(row, 'train', 'zxy')


def test_examples_that_are_not_held_out_are_not_written(tmp_path, monkeypatch):
  monkeypatch.setattr(certificate, 'broken', lambda one: ['train-dev: 1 shared'])
  with pytest.raises(ConfigError, match=r'does not hold \(train-dev: 1 shared'):
    exporting.config_to_jsonl(freeze(RUN), tmp_path / 'out', 'I5-s0')
  assert not list(tmp_path.iterdir())


def test_bad_requests_are_refused(tmp_path):
  config = freeze(RUN)
  with pytest.raises(ConfigError, match='--member is missing; members: I5-s0, I13-s0'):
    exporting.config_to_jsonl(config, tmp_path / 'out')
  with pytest.raises(ConfigError, match='--member I6-s0 is not in the run'):
    exporting.config_to_jsonl(config, tmp_path / 'out', 'I6-s0')
  (tmp_path / 'file').write_text('')
  one = dataclasses.replace(
    config, sweep=dataclasses.replace(config.sweep, counts=(5,))
  )
  with pytest.raises(ConfigError, match='cannot be written'):
    exporting.config_to_jsonl(one, tmp_path / 'file' / 'out')
  with pytest.raises(ConfigError, match='holds no run'):
    exporting.run_to_hf(tmp_path, tmp_path / 'out')
  assert [p.name for p in tmp_path.iterdir()] == ['file']
