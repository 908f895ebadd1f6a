import dataclasses
import json

import pytest

from onlyif_jax import exporting
from onlyif_jax.config import ConfigError, freeze

RUN = {
  'task': {
    **{'alphabet': 7, 'x_min': 1, 'x_max': 2, 'y_min': 1, 'y_max': 3},
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


@pytest.mark.parametrize('order', ['xyz', 'zxy'])
def test_rows_state_rewriting_tasks(tmp_path, order):
  config = freeze(RUN | {'task': RUN['task'] | {'order': order}})
  out = exporting.config_to_jsonl(config, tmp_path / 'out', 'I13-s0')
  assert sorted(p.name for p in out.iterdir()) == [
    *('dev.jsonl', 'train.jsonl', 'unseen.jsonl')
  ]
  rules = {}
  for split, count in {'train': 53, 'dev': 29, 'unseen': 29}.items():
    rows = rows_of(out, split)
    assert len(rows) == count
    for row in rows:
      assert row['split'] == split
      assert row['output'] == row['input'].replace(row['lhs'], row['rhs'], 1)
      assert len(row['input']) == 5
      named = {'x': row['lhs'], 'y': row['rhs'], 'z': row['input']}
      assert row['prompt'] == ''.join(named[c] + '<sep>' for c in order)
      assert row['slices']['noop'] == (row['lhs'] not in row['input'])
      assert row['slices']['occurrences'] == row['input'].count(row['lhs'])
    rules[split] = {(row['lhs'], row['rhs']) for row in rows}
    noops = sum(row['slices']['noop'] for row in rows)
    assert noops == {'train': round(0.25 * 53), 'dev': 15, 'unseen': 15}[split]
  assert len(rules['train']) == 13
  strings = {split: {s for rule in rules[split] for s in rule} for split in rules}
  assert not strings['train'] & (strings['dev'] | strings['unseen'])


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
