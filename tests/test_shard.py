"""A sweep in shards: the same bytes as one run, whatever is there yet."""

import json
import shutil

import pytest
import runs
from runs import toy_config

from onlyif_jax import evaluation, report, shards, sweep
from onlyif_jax.analysis import results
from onlyif_jax.config import ConfigError
from onlyif_jax.workdir import Workdir

SAME = ('results.csv', 'dynamics.csv', 'metrics.jsonl', 'splits.json')
ARG = 'counts=3|17|5,seeds=1'  # two stacks, and a third with a reference alone
SETTINGS = {'sweep_references': ('one', 'masked'), 'eval_loop_points': 1}


@pytest.fixture(scope='module')
def made(tmp_path_factory):
  """A whole run, and a directory with both shards of the same sweep."""
  patch = runs.share_compiles()
  patch.setattr(results, 'analyse', lambda path: None)  # it is slow to draw
  config = toy_config(ARG, **SETTINGS)
  path = tmp_path_factory.mktemp('shards')
  sweep.run(config, path / 'whole')
  for shard in ((1, 2), (2, 2)):
    own = shards.place(path / 'split', shard)
    assert sweep.run(config, own, shard=shard) == (True, {}, None)
  yield config, path
  patch.undo()


def split(made, tmp_path):
  """A copy of the directory of shards."""
  shutil.copytree(made[1] / 'split', tmp_path / 'split')
  return tmp_path / 'split'


def test_gathered_shards_are_the_bytes_of_one_run(made, tmp_path, capsys):
  path = split(made, tmp_path)
  assert shards.gather(path) == path
  for name in SAME:
    assert (path / name).read_bytes() == (made[1] / 'whole' / name).read_bytes(), name
  assert '5 members of 2 of 2 shards\n' in capsys.readouterr().out
  first = {
    m for e in Workdir(shards.place(path, (1, 2))).ledger() for m in e['members']
  }
  assert first == {'I3-s0', 'I17-s0', 'masked-s0'}
  # It is a workdir like any other: done, and with its checkpoints.
  assert sweep.run(made[0], path)[:2] == (True, {})
  assert 'already done: the results of all 5' in capsys.readouterr().out
  run = evaluation.open_run(path)
  members = [one.row.member for one in evaluation.restore(run)]
  assert members == ['I3-s0', 'I17-s0', 'I5-s0', 'one-s0', 'masked-s0']
  before = (path / 'ledger.jsonl').read_bytes()
  shards.gather(path)  # once more changes nothing
  assert (path / 'ledger.jsonl').read_bytes() == before


def test_what_is_there_is_gathered_and_the_rest_is_named(made, tmp_path, capsys):
  path = split(made, tmp_path)
  other = shards.place(path, (2, 2))
  kept = [
    x for x in (other / 'ledger.jsonl').read_text().splitlines() if 'done' not in x
  ]
  (other / 'ledger.jsonl').write_text('\n'.join(kept) + '\n')  # still in training
  shards.gather(path)
  assert '3 members of 2 of 2 shards; nothing yet from 2' in capsys.readouterr().out
  members = {row['member'] for row in Workdir(path).read_csv('results.csv')}
  assert members == {'I3-s0', 'I17-s0', 'masked-s0'}
  shutil.rmtree(other)
  shards.gather(path)
  assert '3 members of 1 of 2 shards; nothing yet from 2' in capsys.readouterr().out


def test_shards_that_do_not_belong_together_are_refused(made, tmp_path):
  path = split(made, tmp_path)
  file = shards.place(path, (2, 2)) / 'config.json'
  stored = json.loads(file.read_text())
  stored['optim']['learning_rate'] = 0.5
  file.write_text(json.dumps(stored))
  with pytest.raises(ConfigError, match=r'1 and 2 .* \(optim.learning_rate: 0.001 and'):
    shards.gather(path)
  shards.place(path, (2, 2)).rename(shards.place(path, (2, 3)))
  with pytest.raises(ConfigError, match='shards of 2 and 3; move the older'):
    shards.gather(path)


def test_a_directory_with_a_run_of_its_own_is_left_alone(made, tmp_path):
  path = tmp_path / 'whole'
  shutil.copytree(made[1] / 'whole', path)
  assert shards.gather(path) == path  # no shards: nothing to do
  shutil.copytree(made[1] / 'split' / 'shards', path / 'shards')
  with pytest.raises(ConfigError, match='a run of its own beside its shards'):
    shards.gather(path)


def test_a_shard_cannot_grow_or_be_one_of_too_many(made, tmp_path):
  config, path = made[0], split(made, tmp_path)
  own = shards.place(path, (1, 2))
  with pytest.raises(ConfigError, match='cannot be extended'):
    sweep.run(toy_config('counts=3|17|29', **SETTINGS), own, shard=(1, 2))
  with pytest.raises(ConfigError, match='the sweep has 3 stacks; lower 4'):
    sweep.run(config, tmp_path / 'new', shard=(4, 4))
  adaptive = toy_config('counts=3|5|7|17', sweep_adaptive_width=0.1)
  with pytest.raises(ConfigError, match='an adaptive sweep cannot be split'):
    sweep.run(adaptive, tmp_path / 'new', shard=(1, 2))


@pytest.mark.parametrize('text', ['2', '0/3', '4/3', 'a/b', '1/2/3'])
def test_bad_shards_are_named(text):
  with pytest.raises(ConfigError, match=f'--shard={text} is not like 2/8'):
    shards.parse(text)
  assert shards.parse('3/7') == (3, 7)


def test_report_gathers(made, tmp_path, monkeypatch):
  seen = []
  monkeypatch.setattr(results, 'load', lambda path: seen.append(path) or 1 / 0)
  path = split(made, tmp_path)
  monkeypatch.setattr(report, '_WORKDIR', type('Flag', (), {'value': [str(path)]}))
  for name in ('_COMPARE', '_BUNDLE', '_OUT', '_ANONYMOUS'):
    monkeypatch.setattr(report, name, type('Flag', (), {'value': []}))
  with pytest.raises(ZeroDivisionError):
    report.main([])
  assert seen == [path]
  assert (path / 'results.csv').exists()
