"""Runs of mixtures: what they leave, what they are judged on, and how they fail."""

import json

import jax
import numpy as np
import pytest

from onlyif_jax import finetune
from onlyif_jax.config import ConfigError
from onlyif_jax.finetune import mixed, rows, run, tuning_config

WORDS = ('red', 'blue', 'tall', 'small', 'old')


def write(folder):
  """Two files of rows; 'a' is answered in one way, 'b' in another."""
  folder.mkdir(exist_ok=True)
  for name, count, answer in (('a', 53, 'yes'), ('b', 31, 'no')):
    lines = [
      {'prompt': f'{name} {n} {WORDS[n % 5]}?', 'response': f'{answer} {n}'}
      for n in range(count)
    ]
    (folder / f'{name}.jsonl').write_text(''.join(json.dumps(x) + '\n' for x in lines))


def config(folder, **changes):
  """A toy run as a ConfigDict: one decoder layer, two mixtures, no benchmark."""
  c = tuning_config.mixture_config()
  c.name, c.size = 'toy', 'tiny'
  c.mixture.sources = tuple(f'{name}={folder}/{name}.jsonl' for name in 'ab')
  c.mixture.rows = ('a=11', 'a=9,b=6')
  c.mixture.update(ngram=0, dimensions=5, clusters=3, sample=20)
  c.base.update(dtype='float32', compute_dtype='float32', remat=False)
  c.scratch.update(layers=1, width=16, heads=2, kv_heads=1, hidden=20, steps=0)
  c.tune.update(template='plain', packing='none', length=23, batch_size=4, epochs=1)
  c.answers.update(examples=5, zero_shot=True)
  c.seeds = 1
  for name, value in changes.items():
    *section, field = name.split('__')
    setattr(c[section[0]] if section else c, field, value)
  return c


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  """(the folder of the files, a finished run)."""
  folder = tmp_path_factory.mktemp('mixed')
  write(folder / 'data')
  assert finetune.main(config(folder / 'data'), folder / 'run') == 0
  return folder / 'data', folder / 'run'


def judged(tuning):
  own = mixed.pool(tuning.mixture)
  return own, {where for ids in mixed.judged(own, tuning).values() for where in ids}


def test_a_run_leaves_its_tables_plan_and_page(whole):
  folder, path = whole
  found = (path / 'results.csv').read_text().splitlines()
  assert len(found) == 1 + 3 * 2 * 2  # rows with the untuned one, sources, metrics
  for name in ('figure.png', 'report.html', 'mixture/manifest.json', 'mixture/map.png'):
    assert (path / name).stat().st_size, name
  told = json.loads((path / 'mixture' / 'manifest.json').read_text())
  # The base's own tokenizer counts.
  assert [set(one['tokens']) for one in told['mixtures']] == [{'a'}, {'a', 'b'}]
  assert min(told['mixtures'][0]['tokens'].values()) > 11
  assert run.TuningRun(tuning_config.freeze(config(folder)), path).train()


def test_models_are_judged_on_rows_of_no_mixture_whatever_is_added(whole):
  folder, _ = whole
  some = tuning_config.freeze(config(folder))
  more = tuning_config.freeze(
    config(folder, mixture__rows=('a=11', 'a=9,b=6', 'a=29,b=13'))
  )
  own, asked = judged(some)
  used = {where for plan in own.plans for where in plan.rows}
  assert len(asked) == 2 * 5
  assert not asked & used
  _, again = judged(more)
  assert again == asked


def test_a_mistaken_path_does_not_claim_the_workdir(whole, tmp_path):
  folder, _ = whole
  wrong = config(folder, mixture__sources=(f'a={folder}/typo.jsonl',))
  wrong.mixture.rows = ('a=11',)
  with pytest.raises(ConfigError, match='typo'):
    finetune.main(wrong, tmp_path / 'run')
  assert not (tmp_path / 'run' / 'config.json').exists()
  run.TuningRun(tuning_config.freeze(config(folder)), tmp_path / 'run')


def test_benchmarks_that_cannot_run_are_told_before_all_else(whole, tmp_path):
  folder, _ = whole
  c = config(folder)
  c.benchmarks.update(names=('humaneval',), data=str(tmp_path))
  with pytest.raises(ConfigError, match='humaneval'):
    finetune.main(c, tmp_path / 'run')
  assert not (tmp_path / 'run' / 'base').exists()


def test_a_row_that_is_not_finite_is_named_and_not_tried_again(
  whole, tmp_path, monkeypatch, capsys
):
  folder, _ = whole
  rates = run.loop.TuneStep.rates

  def broken(self, steps):
    return rates(self, steps) * (np.nan if steps == 3 else 1)  # 11 rows, 4 a step

  monkeypatch.setattr(run.loop.TuneStep, 'rates', broken)
  c = config(folder, answers__zero_shot=False)
  assert finetune.main(c, tmp_path / 'run') == 1
  first, second = rows.rows(tuning_config.freeze(c))
  assert second.name not in capsys.readouterr().err
  ledger = (tmp_path / 'run' / 'ledger.jsonl').read_text().splitlines()
  events = [(e['event'], e['row']) for e in map(json.loads, ledger)]
  assert events == [('failed', first.name), ('done', second.name)]
  assert finetune.main(c, tmp_path / 'run') == 1
  assert f'{first.name} stopped being finite by step 3' in capsys.readouterr().err


def test_preview_trains_nothing_and_leaves_nothing(whole, tmp_path, capsys):
  folder, _ = whole
  own = config(folder, scratch__steps=10**6)
  assert finetune.main(own, tmp_path / 'run', preview=2) == 0
  assert 'yes' in capsys.readouterr().out
  assert not (tmp_path / 'run').exists()


def test_weights_are_read_anew_for_every_row(whole):
  folder, path = whole
  base = run.TuningRun(tuning_config.freeze(config(folder)), path).base()
  one = base.params()
  kept = jax.device_get(one)
  jax.tree.map(lambda x: x.delete(), one)
  jax.tree.map(np.testing.assert_array_equal, kept, jax.device_get(base.params()))


@pytest.mark.slow
def test_a_run_on_a_mesh_has_the_losses_of_one_device(whole, tmp_path):
  """Weights split two ways and the batch with them: read, trained, resumed, judged."""
  folder, path = whole
  c = config(folder, scratch__width=16, tune__save_every=2)
  c.devices.update(fsdp=2, tensor=2)
  c.base.directory = str(path / 'base')
  tuning = tuning_config.freeze(c)

  class StopOnce:
    """A signal within the first row, after a checkpoint."""

    looks = 2

    @property
    def number(self):
      self.looks -= 1
      return 15 if self.looks < 0 else 0

  assert not run.TuningRun(tuning, tmp_path / 'run', StopOnce()).train()
  again = run.TuningRun(tuning, tmp_path / 'run')
  assert again.mesh.size == 4
  assert again.train()
  found, wanted = (
    [
      json.loads(line)['loss']
      for line in (p / 'metrics.jsonl').read_text().splitlines()
    ]
    for p in (tmp_path / 'run', path)
  )
  np.testing.assert_allclose(found, wanted, rtol=1e-4)
  a, b = (
    [float(line.rsplit(',', 1)[1]) for line in file.read_text().splitlines()[1:]]
    for file in (tmp_path / 'run' / 'results.csv', path / 'results.csv')
  )
  np.testing.assert_allclose(a, b, rtol=1e-3)
