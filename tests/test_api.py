"""The library call: one name for the module and for the function."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import runs

import onlyif_jax
from onlyif_jax import api, exporting, sweep
from onlyif_jax.analysis.transition import Transition
from onlyif_jax.config import ConfigError

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope='module', autouse=True)
def cache():
  patch = runs.share_compiles()
  yield
  patch.undo()


def snippet(text):
  """The lines of the example, from its import to its print."""
  lines = text.splitlines()
  first = next(n for n, x in enumerate(lines) if x.strip() == 'import onlyif_jax')
  last = next(n for n, x in enumerate(lines) if x.strip().startswith('print(run'))
  return textwrap.dedent('\n'.join(lines[first : last + 1]))


@pytest.mark.slow
def test_the_documented_snippet_runs(tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  small = SimpleNamespace(get_config=lambda arg: runs.toy.get_config())
  monkeypatch.setitem(sys.modules, 'configs.imin', small)
  code = snippet(onlyif_jax.__doc__)
  assert "onlyif_jax.sweep(get_config('" in code
  readme = (ROOT / 'README.md').read_text()
  if 'onlyif_jax.sweep(' in readme:
    assert code in readme
  made: dict = {}
  exec(compile(code, 'snippet', 'exec'), made)
  assert capsys.readouterr().out.startswith('I3-s0 (')
  run = made['run']
  assert run.workdir == Path('runs/mine')
  assert (run.failed, isinstance(run.fit(), Transition)) == ({}, True)
  rows = run.results
  assert {r['instructions'] for r in rows if not r['reference']} == {3, 17}
  row = next(r for r in rows if r['metric'] == 'exact_match')
  assert row['value'] == row['sum'] / row['count']
  assert (row['seed'], row['rules_seed']) == ('0', 0)
  # The same call goes on: here it only reads.
  again = onlyif_jax.sweep(runs.toy_config(), 'runs/mine')
  assert 'already done' in capsys.readouterr().out
  assert again.results == rows
  assert again.fit('unseen/all') == again.fit()
  with pytest.raises(ConfigError, match=r"no curve 'x'; curves: unseen/all"):
    again.fit('x')
  with pytest.raises(ConfigError, match='every member of the run failed'):
    api.Run(run.workdir, {}, None).fit()
  # Its members answer to anybody's rule.
  answers = run.answer('abcde', 'bcd', 'fga')
  assert [a.member for a in answers] == ['I3-s0', 'I17-s0', 'one-s0']
  assert {a.expected for a in answers} == {'afgae'}
  assert run.answer('abcde', 'bcd', 'fga', ['I17-s0']) == answers[1:2]
  with pytest.raises(ConfigError, match='does not occur in text'):
    run.answer('abcde', 'ccc', 'fga')


def test_progress_is_told_row_by_row_across_an_interruption(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  config = runs.toy_config(sweep_references=())
  told: list[list[dict]] = []

  def stop(rows):
    told.append(rows)
    if rows[0]['step'] == 15:  # after the save at 11
      raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    onlyif_jax.sweep(config, 'run', on_progress=stop)
  lines = Path('run/metrics.jsonl')

  def written():
    return [json.loads(line) for line in lines.read_text().splitlines()]

  left = written()
  assert [row for rows in told for row in rows] == left
  told.clear()
  onlyif_jax.sweep(config, 'run', on_progress=told.append)
  assert told[0] == left
  rows = {(r['member'], r['step'], 'loss' in r): r for rows in told for r in rows}
  assert rows == {(r['member'], r['step'], 'loss' in r): r for r in written()}
  looked = [r for r in rows.values() if 'loss' not in r]
  assert {r['member'] for r in looked} == {'I3-s0', 'I17-s0'}
  assert all({'dev/exact_match', 'seen/exact_match'} <= r.keys() for r in looked)
  # What is done is told too, in one piece.
  told.clear()
  onlyif_jax.sweep(config, 'run', on_progress=told.append)
  assert told == [written()]


@pytest.mark.slow
def test_examples_are_those_of_the_export(tmp_path):
  config = runs.toy_config()
  made = api.examples(config, 'I17-s0', count=3)
  assert list(made) == ['train', 'dev', 'unseen']
  exporting.config_to_jsonl(config, tmp_path / 'all', 'I17-s0')
  for split, rows in made.items():
    text = (tmp_path / 'all' / f'{split}.jsonl').read_text()
    whole = [json.loads(line) for line in text.splitlines()]
    assert [{'split': split} | row for row in rows] == whole[:3]
    for row in rows:
      assert row['output'] == row['input'].replace(row['lhs'], row['rhs'], 1)
  with pytest.raises(ConfigError, match='is missing'):
    api.examples(config)


def test_the_module_and_the_call_share_a_name():
  assert isinstance(sweep, ModuleType)
  assert sweep is onlyif_jax.sweep
  assert callable(onlyif_jax.sweep)
  with pytest.raises(AttributeError, match="no attribute 'sweeps'"):
    onlyif_jax.sweeps  # noqa: B018


@pytest.mark.parametrize(
  'code',
  [
    'import onlyif_jax; assert "jax" not in sys.modules; onlyif_jax.sweep.run',
    'import onlyif_jax.sweep; onlyif_jax.sweep(None)',
    pytest.param(
      'from onlyif_jax import sweep; import onlyif_jax; onlyif_jax.sweep(None)',
      marks=pytest.mark.slow,
    ),
  ],
)
def test_it_is_callable_however_it_was_imported(code):
  done = subprocess.run(
    [sys.executable, '-c', f'import sys; {code}'], capture_output=True, text=True
  )
  assert ('(None)' in code) == (done.returncode != 0)
  if done.returncode:
    assert 'api.py' in done.stderr
    assert 'not callable' not in done.stderr


def test_the_default_workdir_is_told_by_the_settings():
  one, more = runs.toy_config(), runs.toy_config('counts=3|17|29,seeds=2')
  assert api.default_workdir(one) == api.default_workdir(more)
  other = runs.toy_config(data_epochs=2.0)
  assert api.default_workdir(one) != api.default_workdir(other)
  assert api.default_workdir(one).name.startswith('toy-cpu-')
