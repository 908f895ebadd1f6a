"""Whole fine-tuning runs at toy size: files, resume, answers, errors, prediction."""

import functools
import json
import shutil
import signal

import jax
import numpy as np
import pytest

from onlyif_jax import assistant
from onlyif_jax.analysis import tuned
from onlyif_jax.config import ConfigError
from onlyif_jax.corpora.rows import Turn
from onlyif_jax.evals.mistakes import Mistake
from onlyif_jax.finetune import (
  answers,
  base,
  restore,
  run,
  symbolic,
  tuning_config,
)
from onlyif_jax.finetune import rows as rows_lib
from onlyif_jax.finetune.symbolic import Question


def config(**changes):
  """A toy run as a ConfigDict: two numbers of rules, one decoder layer."""
  c = tuning_config.symbolic_config('cipher')
  with c.unlocked():
    c.task.update(alphabet=11, noops=True, shifts=(1, 3), input_length=7)
  c.base.dtype = c.base.compute_dtype = 'float32'
  c.base.remat = False
  c.scratch.update(layers=1, width=16, heads=2, kv_heads=1, hidden=20)
  c.scratch.update(steps=3, examples=50, instructions=13, task='rewrite')
  c.scratch.prompt = '{input} {lhs} {rhs} 0'
  c.lora.rank = 2
  c.tune.update(template='plain', packing='none', length=31, batch_size=8, epochs=2)
  c.tune.update(save_every=4, log_every=3)
  c.instructions.update(
    examples=46, counts=(3, 7), prompt='{input} {lhs} {rhs} {shift}'
  )
  c.answers.update(examples=9, batch_size=9, max_tokens=9)
  for name, value in changes.items():
    section, field = name.split('__')
    setattr(c[section], field, value)
  return c


@functools.cache
def frozen(**changes):
  return tuning_config.freeze(config(**changes))


class StopAfter:
  """A signal that comes after so many looks at it."""

  def __init__(self, looks):
    self.looks = looks

  @property
  def number(self):
    self.looks -= 1
    return 15 if self.looks < 0 else 0


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  """A finished run."""
  path = tmp_path_factory.mktemp('runs') / 'whole'
  assert run.TuningRun(frozen(), path).train()
  return path


FILES = ('results.csv', 'anatomy.csv', 'metrics.jsonl', 'wrong.jsonl', 'splits.json')


def test_a_run_leaves_its_files_and_says_when_it_is_done(whole, capsys):
  for name in (*FILES, 'config.json', 'provenance.json', 'ledger.jsonl'):
    assert (whole / name).stat().st_size, name
  assert run.TuningRun(frozen(), whole).train()
  assert 'already done: the results of all 2 rows' in capsys.readouterr().out
  shown = tuned.load(whole)
  tuned.write(shown, whole)
  assert {r.row for r in shown.results} == {'zero-shot', 'I3', 'I7'}
  grid = tuned.grid(shown)
  assert [row[0] for row in grid.rows] == ['zero-shot', 'I3', 'I7']
  assert (whole / 'figure.png').exists()
  lines = (whole / 'metrics.jsonl').read_text().splitlines()
  steps = [json.loads(line) for line in lines]
  # 46 examples twice, 8 a step: 12 steps, logged every third.
  assert [m['step'] for m in steps] == [3, 6, 9, 12] * 2


def test_a_stopped_run_goes_on_to_the_same_bytes(whole, tmp_path):
  path = tmp_path / 'again'
  looks = 0
  while not run.TuningRun(frozen(), path, StopAfter(5)).train():
    looks += 1
    assert looks < 12
  assert looks >= 2, 'it was never stopped'
  for name in FILES:
    assert (path / name).read_bytes() == (whole / name).read_bytes(), name
  for row in ('I3-s0', 'I7-s0'):
    a, b = (restore.row(p, row)[2].trained for p in (whole, path))
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_more_counts_extend_a_run_and_another_config_is_refused(whole, tmp_path):
  more = run.TuningRun(frozen(instructions__counts=(5,)), whole)
  assert [r.instructions for r in more.rows] == [3, 5, 7]
  with pytest.raises(ConfigError, match=r'lora\.rank: 2 there, 3 now'):
    run.TuningRun(frozen(lora__rank=3), whole)


@pytest.mark.slow
def test_a_run_of_before_there_were_variants_is_extended_by_one(whole, tmp_path):
  path = shutil.copytree(whole, tmp_path / 'run')
  stored = json.loads((path / 'config.json').read_text())
  del stored['instructions']['variants']
  (path / 'config.json').write_text(json.dumps(stored))
  for name in ('results.csv', 'anatomy.csv'):
    lines = (path / name).read_text().splitlines()
    at = lines[0].split(',').index('variant')
    kept = [line.split(',') for line in lines]
    kept = [','.join([*cells[:at], *cells[at + 1 :]]) for cells in kept]
    (path / name).write_text('\n'.join(kept) + '\n')
  assert 'variant' not in (path / 'results.csv').read_text()
  more = frozen(
    instructions__variants=('task.shifts=1,instructions.counts=3',),
    instructions__counts=(7,),
  )
  own = run.TuningRun(more, path)
  assert [row.name for row in own.rows] == ['I3-s0', 'I7-s0', 'I3-shifts1-s0']
  assert own.train()
  shown = tuned.load(path)
  before = {(r.name, r.split, r.slice, r.metric): r.sum for r in shown.results}
  for r in tuned.load(whole).results:
    assert before[r.name, r.split, r.slice, r.metric] == r.sum
  variants = {r.row: r.variant for r in shown.results}
  text = 'task.shifts=1,instructions.counts=3'
  assert variants == {
    **dict.fromkeys(('zero-shot', 'zero-shot-shifts1+3', 'I3', 'I7'), ''),
    **dict.fromkeys(('zero-shot-shifts1', 'I3-shifts1'), text),
  }
  reports = json.loads((path / 'splits.json').read_text())
  assert [report.get('variant') for report in reports] == [None, None, text]
  tuned.write(shown, path)
  assert f'{text}/unseen, all' in json.loads((path / 'transition.json').read_text())


def test_a_signal_while_the_base_is_made_leaves_nothing(
  whole, tmp_path, monkeypatch, capsys
):
  path, real, steps = tmp_path / 'run', base.train_step, []

  def step(*args):
    steps.append(args)
    signal.raise_signal(signal.SIGTERM)
    return real(*args)

  monkeypatch.setattr(base, 'CHUNK', 2)
  monkeypatch.setattr(base, 'train_step', step)
  handlers = {s: signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)}
  try:
    assert run.main(frozen(), path) == 143
  finally:
    for number, handler in handlers.items():
      signal.signal(number, handler)
  assert len(steps) == 2, 'the steps between two looks, of three'
  assert list(path.iterdir()) == []
  assert 'the same command starts again' in capsys.readouterr().out
  monkeypatch.setattr(base, 'train_step', real)
  made = run.TuningRun(frozen(), path).base()
  assert made.digest == base.digest(whole / 'base')


def test_examples_are_those_of_the_task_and_certified():
  c = frozen()
  row = rows_lib.rows(c)[1]
  made = symbolic.examples(c, row)
  assert len(made.train) == 46
  assert sum(q.slices['noop'] for q in made.train) == round(0.4 * 46)
  rules = {split: set() for split in ('train', 'seen', 'unseen')}
  for split, questions in {'train': made.train, **made.questions}.items():
    for q in questions:
      z, x, y, s = q.turns[0].text.split(' ')
      letters = ''.join(chr(97 + (ord(c) - 97 + int(s)) % 11) for c in y)
      assert q.expected == z.replace(x, letters, 1)
      if split in rules:
        rules[split].add((x, y, s))
  assert rules['seen'] <= rules['train']
  strings = {part for x, y, _ in rules['train'] for part in (x, y)}
  assert not strings & {part for x, y, _ in rules['unseen'] for part in (x, y)}
  assert len(rules['train']) == 7
  symbolic.certificates(c, row)


def test_the_base_meets_training_rules_of_the_plain_task_alone():
  c = frozen()
  made = symbolic.examples(c, rows_lib.rows(c)[1])
  tested = {p for q in made.questions['unseen'] for p in q.turns[0].text.split()[1:3]}
  for row in symbolic.base_rows(c, 50):
    z, x, y, s = row.turns[0].text.split(' ')
    assert s == '0'
    assert row.turns[1].text == z.replace(x, y, 1)
    assert not {x, y} & tested


def test_rows_are_counts_subsets_and_seeds():
  c = frozen(instructions__subsets=('all', 'half', 'skewed:0.2'), instructions__seeds=2)
  names = [row.name for row in rows_lib.rows(c)]
  one = ['I3-s0', 'I7-s0', 'I7-half-s0', 'I7-skewed0.2-s0']
  assert names == one + [name.replace('s0', 's1') for name in one]
  half = symbolic.run_config(c, rows_lib.rows(c)[2])
  skewed = symbolic.run_config(c, rows_lib.rows(c)[3])
  assert (half.data.examples, half.data.alpha) == (23, 0.0)
  assert (skewed.data.examples, skewed.data.alpha) == (23, 0.2)


def test_answers_are_judged_by_classes_and_halves():
  def question(z, expected, noop):
    fields = {'input': z, 'lhs': 'ab', 'rhs': 'cd', 'shift': '1'}
    return Question((Turn('user', ''),), expected, fields, {'noop': noop})

  asked = [
    question('xabx', 'xdex', 0),
    question('xabx', 'xdex', 0),
    question('xxxx', 'xxxx', 1),
    question('yabx', 'ydex', 0),
  ]
  got = [' xdex', 'xabx', 'xxxx', 'ycdx']
  judged = answers.judge('unseen', asked, got, np.array([True] * 4), noops=True)
  kinds = [Mistake(k) for k in judged.kinds]
  assert kinds == [Mistake.RIGHT, Mistake.FALSE_NO_OP, Mistake.RIGHT, Mistake.WRONG_Y]
  found = {
    (r['slice'], r['metric']): (r['sum'], r['count']) for r in answers.results(judged)
  }
  assert found['all', 'exact_match'] == (2, 4)
  assert found['noop=0', 'exact_match'] == (1, 3)
  assert found['noop=1', 'exact_match'] == (1, 1)
  classes = {r['class']: r['count'] for r in answers.anatomy(judged)}
  assert sum(classes.values()) == 4
  assert classes['wrong_y'] == 1
  trained = answers.trained_rules([question('abz', 'dez', 0)])
  told = answers.judge('unseen', asked[3:], ['ydex'], np.array([False]), noops=True)
  assert Mistake(told.kinds[0]) == Mistake.MALFORMED  # it never ended
  seen = answers.judge(
    'unseen',
    [question('zabz', 'zffz', 0)],
    ['zdez'],
    np.array([True]),
    noops=True,
    trained=trained,
  )
  assert Mistake(seen.kinds[0]) == Mistake.TRAINING_Y


def test_algebra_answers_of_equal_value_count_apart():
  fields = {'input': '(x+y)', 'lhs': 'A', 'rhs': 'A'}
  asked = [Question((Turn('user', ''),), '(y*x)', fields, {})]
  judged = answers.judge('unseen', asked, ['(x*y)'], np.array([True]), noops=False)
  found = {r['metric']: r['sum'] for r in answers.results(judged, symbolically=True)}
  assert found == {'exact_match': 0, 'symbolic_match': 1, 'domain_error': 0}


def test_a_fine_tuned_row_answers_from_python_and_as_directories(whole, tmp_path):
  model = assistant.load(whole, row='I7-s0')
  asked = ['abcdefg cde abc 1', 'aaaaaaa bcd efg 3']
  both = model.ask(asked, max_tokens=5)
  assert model.ask(asked[1], max_tokens=5) == both[1]
  restore.export(whole, 'peft', tmp_path / 'peft', 'I7-s0')
  restore.export(whole, 'hf', tmp_path / 'hf', 'I7-s0')
  how = {'dtype': 'float32', 'template': 'plain'}
  attached = assistant.load(whole / 'base', tmp_path / 'peft', **how)
  merged = assistant.load(tmp_path / 'hf', **how)
  assert attached.ask(asked, max_tokens=5) == both
  assert merged.ask(asked, max_tokens=5) == both
  with pytest.raises(ConfigError, match='rows: I3-s0, I7-s0'):
    restore.row(whole, 'I8-s0')


def test_an_exported_directory_has_what_stands_beside_its_base(
  whole, tmp_path, monkeypatch
):
  path = shutil.copytree(whole, tmp_path / 'run')
  config = path / 'base' / 'config.json'
  ids = {'bos_token_id': 3, 'eos_token_id': [0, 5]}
  config.write_text(json.dumps(json.loads(config.read_text()) | ids))
  beside = ('generation_config.json', 'vocab.json', 'merges.txt', 'added_tokens.json')
  for name in beside:
    (path / 'base' / name).write_text('{}')
  out = restore.export(path, 'hf', tmp_path / 'hf', 'I3-s0')
  described = json.loads((out / 'config.json').read_text())
  assert {k: described.get(k) for k in (*ids, 'pad_token_id')} == ids | {
    'pad_token_id': None
  }
  for name in (*beside, 'tokenizer.json', 'tokenizer_config.json'):
    assert (out / name).read_bytes() == (path / 'base' / name).read_bytes(), name
  peft = restore.export(path, 'peft', tmp_path / 'peft', 'I3-s0')
  described = json.loads((peft / 'adapter_config.json').read_text())
  assert described['base_model_name_or_path'] == str(path / 'base')

  def full(*args):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(restore.shutil, 'copyfile', full)
  with pytest.raises(ConfigError, match='cannot be written'):
    restore.export(path, 'hf', tmp_path / 'other', 'I3-s0')
  assert sorted(p.name for p in tmp_path.iterdir()) == ['hf', 'peft', 'run']


def test_a_run_of_many_devices_is_read_on_one(whole, tmp_path):
  path = shutil.copytree(whole, tmp_path / 'run')
  config = json.loads((path / 'config.json').read_text())
  config['devices']['tensor'] = 16  # twice as many as here
  (path / 'config.json').write_text(json.dumps(config))
  own = restore.row(path, 'I3-s0')[2]
  jax.tree.map(
    np.testing.assert_array_equal,
    *(parts.trained for parts in (own, restore.row(whole, 'I3-s0')[2])),
  )
  assert {len(x.devices()) for x in jax.tree.leaves((own.trained, own.frozen))} == {1}


def test_what_a_directory_says_itself_is_not_asked_for(whole):
  for name, value in (
    ('adapter', 'a'),
    ('quantize', 'int8'),
    ('dtype', 'float32'),
    ('template', 'plain'),
  ):
    with pytest.raises(ConfigError, match=f'{name}={value}: .* leave it out'):
      assistant.load(whole, row='I3-s0', **{name: value})
  with pytest.raises(ConfigError, match=r'row=I3-s0: .* leave it out'):
    assistant.load(whole / 'base', row='I3-s0')


def test_a_base_that_is_only_asked_stays_in_its_dtype(whole):
  parts = assistant.load(whole / 'base').parts
  leaves = jax.tree.leaves(parts.trained)
  assert {str(x.dtype) for x in leaves} == {'bfloat16'}
  used = jax.tree.leaves(parts.weights())
  assert all(a is b for a, b in zip(used, leaves, strict=True))


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'tune__template': 'alpaka'}, r"tune\.template='alpaka' is not one of"),
    ({'tune__batch_size': 7, 'devices__data': 2}, r'tune\.batch_size=7'),
    ({'instructions__counts': (50,)}, r'instructions\.counts'),
    ({'instructions__subsets': ('most',)}, r'instructions\.subsets'),
    ({'answers__max_tokens': 0}, r'answers\.max_tokens=0 is below 1'),
    ({'scratch__heads': 3}, r'scratch\.width'),
  ],
)
def test_settings_that_cannot_work_are_refused(changes, message):
  with pytest.raises(ConfigError, match=message):
    tuning_config.freeze(config(**changes))


def test_prompts_without_input_or_with_unknown_fields_are_refused(tmp_path):
  with pytest.raises(ConfigError, match=r'has no \{input\}'):
    run.TuningRun(frozen(instructions__prompt='{lhs}'), tmp_path)
  bad = frozen(instructions__prompt='{input} {left}')
  with pytest.raises(ConfigError, match='must have no fields but'):
    symbolic.examples(bad, rows_lib.rows(bad)[0])
