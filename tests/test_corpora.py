"""A prepared set says what JSON lines say, and is read without JAX or TensorFlow."""

import hashlib
import json
import re
import subprocess
import sys

import jax
import numpy as np
import oracle
import pytest

from onlyif_jax import corpora, experiment, exporting
from onlyif_jax.config import ConfigError, freeze
from onlyif_jax.tasks import certificate

COUNTS = {'train': 31, 'dev': 17, 'unseen': 17}
RUN = {
  'task': {
    **{'alphabet': 7, 'x_min': 2, 'x_max': 2, 'y_min': 3, 'y_max': 3},
    **{'input_length': 5, 'noops': True},
  },
  'data': {'examples': 31, 'batch_size': 11},
  'eval': {'examples': 17, 'loop_examples': 3, 'batch_size': 19},
  'model': {'layers': 1, 'width': 8, 'heads': 2},
  'sweep': {'counts': [5], 'noop_shares': [0.25]},
}
# Where one of these differs, the same config no longer means the same data.
SHA256 = {
  'train': '981caef2679f9d0bb9971920bab4951445082588bf217833cf22b38c0f200070',
  'dev': 'f833ffbed68bdc86bc7b76676a2124ad954e51759da5eabfcab92157aa2f8667',
  'unseen': '92231b742da39c8ca80a87e172b1cb252052ab0a4ab4c833d1360829df0283ed',
}

# What somebody else does with a set, without JAX and without TensorFlow.
READER = """
import json, sys
sys.modules['jax'] = sys.modules['flax'] = None  # as if they were not installed
from onlyif_jax import corpora
made = corpora.open_set(sys.argv[1])
rows = {split: [
  {k: v.decode() if isinstance(v, bytes) else v for k, v in row.items()}
  for row in made.as_data_source(split)
] for split in made.info.splits}
batches = [b['tokens'] for b in corpora.pipeline(sys.argv[1], 'dev', 5, 0)]
plain = lambda v: v.tolist()
assert 'tensorflow' not in sys.modules
json.dump({'rows': rows, 'batches': batches}, sys.stdout, default=plain)
"""


@pytest.fixture(scope='module')
def made(tmp_path_factory):
  """The same examples in both formats, made once: compiling them takes the time."""
  path, config, kept = tmp_path_factory.mktemp('corpora'), freeze(RUN), {}
  make = exporting.make_rows

  def once(*args):
    if not kept:
      kept.update({split: list(rows) for split, rows in make(*args).items()})
    return {split: iter(rows) for split, rows in kept.items()}

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(exporting, 'make_rows', once)
    patch.setattr(certificate, 'certify', report)
    assert exporting.config_to_jsonl(config, path / 'jsonl') == path / 'jsonl'
    assert exporting.config_to_tfds(config, path / 'tfds') == path / 'tfds'
    exporting.config_to_tfds(config, path / 'again')
    kept['dev'][7]['tokens'][3] ^= 1
    exporting.config_to_tfds(config, path / 'other')
  return path


def report(space, seed, instructions, held_out) -> dict:
  """A certificate without the proof."""
  own = {'seed': seed, 'rules': instructions, 'held_out': held_out}
  return {'collisions': {}, 'parts': {}, 'alphabet': space.alphabet} | own


@pytest.fixture(scope='module')
def read(made):
  """What another process reads from the set."""
  call = [sys.executable, '-c', READER, str(made / 'tfds')]
  done = subprocess.run(call, capture_output=True, text=True, check=False, timeout=300)
  assert done.returncode == 0, done.stderr
  return json.loads(done.stdout)


def metadata(path) -> dict:
  return dict(corpora.open_set(path).info.metadata)


def test_rows_are_those_of_json_lines_and_the_oracle(made, read):
  assert {split: len(rows) for split, rows in read['rows'].items()} == COUNTS
  for split, rows in read['rows'].items():
    lines = (made / 'jsonl' / f'{split}.jsonl').read_text(encoding='utf-8')
    for row, line in zip(rows, lines.splitlines(), strict=True):
      tokens, start = row['tokens'], row['answer_start']
      end = start + row['answer_length']
      text = {k: v for k, v in row.items() if k not in exporting._IDS}
      assert {'split': split} | text == json.loads(line)  # in the order of the index
      assert row['output'] == oracle.rewrite(row['lhs'], row['rhs'], row['input'])
      parts = oracle.parse(tokens)
      sides = {'x': 'lhs', 'y': 'rhs', 'z': 'input', 'out': 'output'}
      assert parts == {k: row[v] for k, v in sides.items()}
      assert tokens[start - 1] == 2  # SEP
      assert tokens[end - 1] == 1  # EOS
      assert end - start == len(row['output']) + 1


def test_metadata_certifies_the_set(made):
  own = metadata(made / 'tfds')
  assert own['config']['data']['examples'] == 31
  assert own['member'] == 'I5-s0'
  space = experiment.build(freeze(RUN)).data.rules
  assert own['certificate'] == [report(space, 0, 5, 17)]
  assert own['sha256'] == SHA256
  assert sorted(p.name for p in (made / 'tfds').iterdir()) == ['rewriting']


def test_hash_is_of_the_rows(made, read):
  digest = hashlib.sha256()
  for row in read['rows']['train']:
    digest.update(json.dumps(row, sort_keys=True).encode() + b'\n')
  own, again, other = (
    metadata(made / name)['sha256'] for name in ('tfds', 'again', 'other')
  )
  assert own == again
  assert own['train'] == digest.hexdigest() == other['train']
  assert own['dev'] != other['dev']


def positions(source, tokens_BL) -> list[int]:
  rows = [row['tokens'].tolist() for row in source]
  assert len({tuple(row) for row in rows}) == len(rows)
  return [rows.index(row) for row in tokens_BL.tolist()]


def test_each_epoch_visits_each_example_once(made, read):
  source = corpora.open_set(made / 'tfds').as_data_source('train')
  batches = list(corpora.pipeline(made / 'tfds', 'train', 7, seed=3, epochs=2))
  assert [len(b['tokens']) for b in batches] == [7] * 8 + [6]
  assert set(batches[0]) == {'tokens', 'answer_start', 'answer_length', 'slices'}
  assert {leaf.dtype for leaf in jax.tree.leaves(batches)} == {np.dtype('int32')}
  seen = positions(source, np.concatenate([b['tokens'] for b in batches]))
  first, second = seen[:31], seen[31:]
  assert oracle.epoch_order_ok(first, 31)
  assert oracle.epoch_order_ok(second, 31)
  assert first != second
  assert first != sorted(first)
  assert sum(map(len, read['batches'])) == COUNTS['dev']


@pytest.mark.parametrize('stop', [0, 3, 5])
def test_a_stored_state_goes_on_with_the_next_batch(made, stop):
  def start(seed=3):
    return iter(corpora.pipeline(made / 'tfds', 'train', 7, seed, epochs=None))

  one = start()
  for _ in range(stop):
    next(one)
  state = json.loads(json.dumps(one.get_state()))  # it fits beside a checkpoint
  other = start()
  other.set_state(state)
  for _ in range(5):  # into the next epoch
    jax.tree.map(np.testing.assert_array_equal, next(one), next(other))
  assert not np.array_equal(next(start())['tokens'], next(start(4))['tokens'])


def test_bad_requests_are_refused(made, tmp_path):
  config = freeze(RUN)
  with pytest.raises(ConfigError, match='is not an empty directory'):
    exporting.config_to_tfds(config, made / 'tfds')
  (tmp_path / 'file').write_text('')
  with pytest.raises(ConfigError, match='cannot be written'):
    exporting.config_to_tfds(config, tmp_path / 'file' / 'out')
  with pytest.raises(ConfigError, match=re.escape('(no rewriting/1.0.0 in it)')):
    corpora.open_set(tmp_path)
  with pytest.raises(ConfigError, match="no split 'test'; splits: train, dev, unseen"):
    corpora.pipeline(made / 'tfds', 'test[:5]', 7, 0)
  assert [p.name for p in tmp_path.iterdir()] == ['file']


def test_a_set_that_is_not_held_out_is_not_written(tmp_path, monkeypatch):
  monkeypatch.setattr(certificate, 'certify', report)
  monkeypatch.setattr(certificate, 'broken', lambda one: ['train-dev: 1 shared'])
  with pytest.raises(ConfigError, match='the split does not hold'):
    exporting.config_to_tfds(freeze(RUN), tmp_path / 'out')
  assert not list(tmp_path.iterdir())
