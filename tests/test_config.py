import dataclasses
import importlib.util
import json
import re
from pathlib import Path

import pytest

from onlyif_jax import config, experiment
from onlyif_jax.config import ConfigError, RunConfig, freeze, parse_arg
from onlyif_jax.finetune import rows, tuning_config

CONFIGS = sorted((Path(__file__).parents[1] / 'configs').glob('*.py'))
FINE = ('finetune.tuning_config', 'mixture_presets')  # what they import
TUNING = [p for p in CONFIGS if any(word in p.read_text() for word in FINE)]
SWEEPS = [p for p in CONFIGS if p not in TUNING]
BASE = dataclasses.asdict(RunConfig())


def load(path):
  spec = importlib.util.spec_from_file_location(path.stem, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def changed(**fields):
  """The defaults with 'section__field' values changed."""
  tree = json.loads(json.dumps(BASE))
  for name, value in fields.items():
    *path, last = name.split('__')
    section = tree
    for part in path:
      section = section[part]
    section[last] = value
  return tree


def sizes_of(module):
  with pytest.raises(ConfigError, match='unknown size') as error:
    module.get_config('?')
  return re.search('sizes: (.*)', str(error.value))[1].split(', ')


@pytest.mark.parametrize('path', CONFIGS, ids=lambda p: p.name)
def test_every_config_tells_its_command_and_is_short(path):
  module = load(path)
  assert module.__doc__
  assert 'python -m onlyif_jax.main' in module.__doc__
  assert path.read_text().count('\n') <= 80


@pytest.mark.parametrize('path', TUNING, ids=lambda p: p.name)
def test_every_config_of_fine_tuning_and_size_builds(path):
  module = load(path)
  assert sizes_of(module) == ['tiny', '7b']
  for size in ('tiny', '7b'):
    tuning = tuning_config.freeze(module.get_config(size))
    assert (tuning.name, tuning.size) == (path.stem, size)
    assert tuning.paper
    assert len(rows.rows(tuning)) >= 3
    assert bool(tuning.base.directory) == (size == '7b')  # tiny needs no download
    again = json.loads(json.dumps(dataclasses.asdict(tuning)))
    assert tuning_config.freeze(again) == tuning


def test_some_rows_of_a_table_are_one_argument():
  get_config = load(CONFIGS[0].with_name('code_deepseek.py')).get_config
  c = tuning_config.freeze(get_config('tiny,rows=20/0/0|67.5/3.25/3.25'))
  assert c.mixture.rows == ('oss=40', 'oss=135,alpaca=7,cot=6')
  for wrong in ('20/0', 'x/1/0', '1/1/1/0'):
    with pytest.raises(
      ConfigError, match=f"rows has '{wrong}'; give thousands of oss,"
    ):
      get_config(f'tiny,rows={wrong}')


def test_mixtures_at_7b_have_the_papers_settings():
  for name in ('code_deepseek', 'code_codeqwen'):
    path = CONFIGS[0].with_name(f'{name}.py')
    c = tuning_config.freeze(load(path).get_config('7b,data=here'))
    assert (c.optim.learning_rate, c.base.quantize) == (1e-5, 'int8')
    assert (c.tune.epochs, c.tune.batch_size, c.tune.length) == (3, 4, 768)
    assert (c.lora.rank, c.lora.alpha, c.tune.template) == (64, 128.0, 'magicoder')
    assert len(c.lora.targets) == 7
    assert all(file.path.startswith('here/') for file in c.mixture.source_files)
  path = CONFIGS[0].with_name('generalist.py')
  both = [load(path).get_config(arg) for arg in ('7b', '7b,select=random')]
  assert [c.mixture.selection for c in both] == ['kcenter', 'random']
  with pytest.raises(ConfigError, match="select='rand' is not one of kcenter, random"):
    load(path).get_config('7b,select=rand')


@pytest.mark.parametrize('path', SWEEPS, ids=lambda p: p.name)
def test_every_config_and_size_builds(path):
  module = load(path)
  sizes = sizes_of(module)
  assert sizes[0] == 'cpu'
  assert 'full' in sizes
  for size in sizes:
    run = freeze(module.get_config(size))
    built = experiment.build(run)
    assert (run.name, run.size) == (path.stem, size)
    assert built.data.plan.steps > 100
    assert len(experiment.rows(run)) >= 8


def test_cpu_size_of_imin_keeps_its_promises():
  run = freeze(load(Path(CONFIGS[0]).parent / 'imin.py').get_config('cpu'))
  assert len(run.sweep.counts) >= 8
  assert min(run.sweep.counts) == 30
  assert max(run.sweep.counts) == 10_000
  assert run.data.examples / max(run.sweep.counts) <= 2
  assert run.data.epochs >= 2


def test_full_size_is_the_papers():
  run = freeze(load(Path(CONFIGS[0]).parent / 'imin.py').get_config('full'))
  assert (run.model.layers, run.model.width, run.model.heads) == (6, 256, 4)
  assert (run.task.x_min, run.task.y_max, run.task.input_length) == (20, 20, 50)
  assert (run.data.examples, run.data.epochs) == (10**6, 50)
  assert (run.optim.name, run.optim.learning_rate) == ('adamw', 1e-3)
  assert len(run.sweep.counts) == 16
  assert experiment.build(run).data.plan.steps == 97_656


def test_freeze_round_trips_through_json():
  run = freeze(changed(sweep__counts=[3, 5], optim__learning_rate=1))
  assert run.sweep.counts == (3, 5)
  assert isinstance(run.optim.learning_rate, float)
  assert freeze(json.loads(json.dumps(dataclasses.asdict(run)))) == run


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'optim__learning_rat': 1.0}, r'unknown setting optim.learning_rat. Did you mean'),
    ({'data__examples': 'many'}, 'data.examples=.* is not of type int'),
    ({'task__noops': 1}, 'task.noops=1 is not of type bool'),
    ({'optim__name': 'adam'}, 'optim.name=.*adamw, muon. Did you mean adamw'),
    ({'model__heads': 5}, 'model.heads=5 does not divide model.width=64'),
    ({'task__x_max': 11}, 'task.x_max=11 does not fit into task.input_length=10'),
    ({'task__x_min': 4}, 'task.x_min=4 is above task.x_max=3'),
    ({'sweep__seeds': '3y'}, "sweep.seeds='3y' is not like"),
    ({'sweep__counts': []}, 'sweep.counts'),
    ({'sweep__counts': [7, 7]}, 'names a count twice'),
    ({'sweep__counts': [10**6]}, 'gives some of them no example'),
    ({'sweep__noop_shares': [0.5]}, 'need task.noops=True'),
    ({'sweep__references': ['mask']}, 'Did you mean masked'),
    ({'data__epochs': 0.0001}, 'less than one batch'),
    ({'rules__test_fraction': 0.95}, 'leave something to train on'),
    ({'stack__data_devices': 3}, 'data.batch_size=64 is not divisible'),
    (
      {'stack__data_devices': 2, 'stack__micro_batches': 3},
      'stack.data_devices=2 x stack.micro_batches=3',
    ),
    ({'optim__warmup': 1.5}, 'optim.warmup=1.5'),
  ],
)
def test_bad_settings_are_named(fields, message):
  with pytest.raises(ConfigError, match=message):
    freeze(changed(**fields))


def test_capacity_is_told():
  run = freeze(changed(sweep__counts=[13_000], data__examples=50_000))
  with pytest.raises(
    ConfigError, match=r'13000 instructions.*has 12303 training rules'
  ):
    experiment.build(run)


def test_what_a_task_refuses_is_a_config_error():
  c = config.base_config('algebra')
  c.task.specialist, c.sweep.counts, c.data.examples = 20, (10,), 100
  with pytest.raises(ConfigError, match='20 in-domain rules are more than the 10'):
    experiment.build(freeze(c))


def test_arguments_of_a_config_file():
  sizes, fields = ('cpu', 'full'), {'counts': tuple[int, ...], 'epochs': float}
  assert parse_arg(None, sizes, **fields).size == 'cpu'
  given = parse_arg('full,counts=10|100,epochs=2', sizes, **fields)
  assert (given.size, given.counts, given.epochs) == ('full', (10, 100), 2.0)
  assert parse_arg('counts=7', sizes, **fields).counts == (7,)
  for text, message in (
    ('ful', r"unknown size 'ful'; sizes: cpu, full. Did you mean full\?"),
    ('cpu,count=1', r'unknown argument .*counts=, epochs=. Did you mean counts\?'),
    ('counts=a|b', "counts='a|b' is not numbers as 10|100"),
  ):
    with pytest.raises(ConfigError, match=message.replace('|', r'\|')):
      parse_arg(text, sizes, **fields)


def test_seeds():
  assert config.parse_seeds('3') == [(0, 0), (1, 1), (2, 2)]
  assert config.parse_seeds('2x3') == [(r, s) for r in range(2) for s in range(3)]


def test_rows_are_the_product_and_the_references():
  run = freeze(
    changed(
      sweep__counts=[3, 5],
      sweep__seeds='2x2',
      sweep__references=['one', 'masked'],
      sweep__reference_count=7,
      seed=100,
    )
  )
  rows = experiment.rows(run)
  assert len(rows) == 2 * 4 + 2
  assert len({row.member for row in rows}) == len(rows)
  assert {(r.seed, r.rules_seed, r.init_seed) for r in rows if not r.reference} == {
    (f'{a}.{b}', 100 + a, 100 + b) for a in range(2) for b in range(2)
  }
  assert [(r.reference, r.instructions) for r in rows[-2:]] == [
    ('one', 1),
    ('masked', 7),
  ]
