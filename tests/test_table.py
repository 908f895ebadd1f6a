"""The user's own table: rows, parts, errors, and a run of it."""

import csv
import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs
from toys import member

from onlyif_jax import sweep, tasks
from onlyif_jax.config import ConfigError, RulesConfig, base_config, freeze
from onlyif_jax.data import Data, Plan
from onlyif_jax.settings import TableSettings
from onlyif_jax.tasks import table_file
from onlyif_jax.tasks.rules import Part
from onlyif_jax.tasks.table import Table

COLUMNS = ('instruction', 'prompt', 'answer', 'split')
PARTS = {'train': 11, 'dev': 3, 'test': 5}


def rows():
  """Rows of every instruction; their numbers differ, answers tell the row."""
  out = []
  for split, count in PARTS.items():
    for n in range(count):
      for k in range(2 + n):
        prompt = f'{split} {n}' if k == 0 else f'{split} {n}: Zeile {k}'
        out.append([f'{split[:2]}{n}', prompt, f'{split[1]}{n}.{k}', split])
  return out


def write(path, given, columns=COLUMNS):
  if path.suffix == '.csv':
    with path.open('w', newline='') as f:
      csv.writer(f).writerows([columns, *given])
  else:
    lines = [json.dumps(dict(zip(columns, row, strict=True))) for row in given]
    path.write_text('\n'.join(lines) + '\n')
  return str(path)


@pytest.fixture(scope='module')
def table(tmp_path_factory):
  return Table(path=write(tmp_path_factory.mktemp('table') / 'own.csv', rows()))


@pytest.fixture(scope='module')
def data(table):
  return Data(table, table.space(RulesConfig()), Plan(101, 2, 7))


def own_member(table, count=7):
  setting = {k: jnp.asarray(v) for k, v in table.setting(count).items()}
  none = jnp.zeros(0, jnp.int32)
  return dataclasses.replace(member(count), setting=setting, mix_K=none)


def read(table, batch):
  """(prompt, answer) of each example of a batch."""
  out = []
  for b, row in enumerate(np.asarray(batch.tokens_BL)):
    start = int(batch.answer_BA[b, 0]) + 1
    count = int(batch.weights_BA[b].sum())
    fields = table.fields(row[:start].tolist())
    prompt = ''.join(table.symbols[n] for n in fields['prompt'])
    answer = ''.join(table.symbols[n - 6] for n in row[start : start + count - 1])
    assert row[start + count - 1] == 1
    assert not row[start + count :].any()
    out.append((prompt, answer))
  return out


def test_examples_are_rows_of_their_instruction_and_part(table, data):
  known = {(row[1], row[2]): row for row in rows()}
  one = own_member(table)
  i_B = jnp.arange(503, dtype=jnp.int32)

  @jax.jit
  def make(one):
    kept = data.task.kind('kept', i_B)
    every = data.task.kind('plain', i_B)
    held = data.examples(one, data.ask_held_out(one, Part.TEST, i_B, every))
    seen = data.examples(one, data.ask_seen(one, i_B, kept))
    return data.by_index(one, i_B % 101), seen, held

  trained, seen, held = (read(table, batch) for batch in make(one))
  assert {known[pair][3] for pair in trained + seen} == {'train'}
  assert {known[pair][3] for pair in held} == {'test'}
  assert not set(trained) & set(seen)
  ids = {known[pair][0] for pair in trained}
  assert len(ids) == 7
  assert {known[pair][0] for pair in seen} == ids
  # A fifth is kept, at least one row; every row of a held-out instruction comes up.
  sizes = {name: sum(row[0] == name for row in rows()) for name in ids}
  assert len(set(seen)) == sum(max(1, n // 5) for n in sizes.values())
  assert set(held) == {pair for pair, row in known.items() if row[3] == 'test'}


def test_the_text_is_traced_and_not_in_the_program(table, data):
  one = own_member(table)
  jaxpr = jax.make_jaxpr(lambda one: data.by_index(one, jnp.arange(3)))(one)
  text = table.text.letters_C
  assert not any(np.shape(c) == text.shape for c in jaxpr.consts)


def test_both_formats_and_any_order_of_rows_give_one_table(table, tmp_path):
  path = write(tmp_path / 'own.jsonl', rows()[::-1])
  other = Table(path=path)
  for name, value in table.setting(3).items():
    assert np.array_equal(value, other.setting(3)[name]), name
  assert (table.symbols, table.text.ids) == (other.symbols, other.text.ids)
  assert table.sha256 != other.sha256


def test_an_input_column_leaves_the_prompt_to_the_instruction(tmp_path):
  given = [[f'{n}', f'do {n}', f'in{k}', f'a{n}{k}'] for n in range(13) for k in (0, 1)]
  columns = ('instruction', 'prompt', 'input', 'answer')
  own = Table(path=write(tmp_path / 'a.csv', given, columns), input='input', split='')
  space = own.space(RulesConfig(dev_fraction=0.2, test_fraction=0.3))
  s = own.setting(2)
  made, lent = (
    own.example(space.rule(1, Part.TRAIN, 0), jax.random.key(3), setting=s, shown=shown)
    for shown in (None, space.rule(1, Part.TRAIN, 1))
  )
  start = int(made.answer_start)
  first = own.fields(np.asarray(made.tokens_L)[:start])
  other = own.fields(np.asarray(lent.tokens_L)[: int(lent.answer_start)])
  assert first['input']
  assert first['prompt'] != other['prompt']
  hidden = np.asarray(own.instruction_mask(made))
  assert hidden.sum() == len(first['prompt'])
  assert hidden[: hidden.sum()].all()


def test_without_a_split_column_the_seed_cuts_the_instructions(tmp_path):
  given = [row[:3] for row in rows()]
  own = Table(path=write(tmp_path / 'a.csv', given, COLUMNS[:3]), split='')
  space = own.space(RulesConfig(dev_fraction=0.2, test_fraction=0.3))
  assert [space.capacity(part) for part in Part] == [9, 4, 6]
  parts = []
  for seed in (0, 1):
    made = [
      {int(space.rule(seed, part, i).index) for i in range(space.capacity(part))}
      for part in Part
    ]
    assert set().union(*made) == set(range(19))
    assert sum(map(len, made)) == 19
    parts.append(made)
  assert parts[0] != parts[1]


def test_the_certificate_reads_ids_and_texts(table, data):
  report = data.rules.certify(3, 11, 100)
  assert set(report['collisions'].values()) == {0}
  assert len(report['collisions']) == 6
  assert report['file']['sha256'] == table.sha256
  assert {k: v['rules'] for k, v in report['parts'].items()} == PARTS
  # The instructions of a part share no text with another: here one is smuggled in.
  text = table.text
  text.shown['te0'].add('shared')
  text.shown['de0'].add('shared')
  try:
    found = data.rules.certify(3, 11, 100)['collisions']
    assert found['dev-test: texts'] == 1
  finally:
    text.shown['te0'].remove('shared')
    text.shown['de0'].remove('shared')


def changed(at, column, value):
  given = rows()
  given[at][COLUMNS.index(column)] = value
  return given


@pytest.mark.parametrize(
  ('given', 'settings', 'message'),
  [
    (rows(), {'prompt': 'text'}, r"line 2: no column 'text'.*set task.prompt"),
    (rows(), {'split': 'part'}, r"no column 'part'.*task.split='' for none"),
    (changed(4, 'answer', ''), {}, r"line 6: 'answer' is empty; fill it or drop"),
    (
      changed(4, 'split', 'val'),
      {},
      r"line 6: 'split' is 'val', not one of train, dev",
    ),
    (changed(3, 'split', 'dev'), {}, r"instruction 'tr1' is dev, but train in line 4"),
    (rows(), {'prompt_max': 7}, r"'prompt' has .* raise task.prompt_max"),
    (rows(), {'answer_max': 1}, r'raise task.answer_max'),
    (rows(), {'least_rows': 3}, r"instruction 'tr0' has 2 rows, task.least_rows=3"),
    (
      changed(9, 'prompt', 'Test  0'),
      {},
      r'the prompt of line .* again, under another',
    ),
    (rows(), {'characters': 'abc'}, r'is not in task.characters; add it there'),
    ([], {}, 'has no rows'),
    ([row for row in rows() if row[3] != 'dev'], {}, "0 dev instructions.* 'dev'"),
  ],
)
def test_bad_tables_are_named_by_line(given, settings, message, tmp_path):
  path = write(tmp_path / 'bad.csv', given)
  with pytest.raises(ValueError, match=message) as e:
    Table(path=path, **settings).space(RulesConfig())
  assert str(e.value).count('\n') == 0
  assert str(e.value).startswith(path)


def test_files_that_cannot_be_read_are_named(tmp_path):
  with pytest.raises(ConfigError, match=r'task.path is empty; give --config.task.path'):
    tasks.make_space(tasks.make_task(TableSettings()), RulesConfig())
  with pytest.raises(ValueError, match=r'absent.csv cannot be read: No such file'):
    Table(path=str(tmp_path / 'absent.csv'))
  path = tmp_path / 'a.jsonl'
  for text, message in (('[1]', 'line 1: not an object'), ('\n{', 'line 2: not JSON')):
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
      table_file.read(TableSettings(path=str(path)))
  path.write_bytes(b'\xff\xfe')
  with pytest.raises(ValueError, match='not UTF-8'):
    table_file.read(TableSettings(path=str(path)))


@pytest.mark.slow
def test_a_run_of_a_table_and_a_file_that_changed_since(table, tmp_path):
  path = write(tmp_path / 'own.csv', rows())
  c, toy = base_config('table'), runs.toy.get_config()
  for section in ('data', 'model', 'eval', 'sweep', 'stack', 'checkpoint'):
    c[section] = toy[section]
  c.task.path = path
  c.sweep.counts, c.eval.loop_points = (3, 7), 0
  run = tmp_path / 'run'
  finished, failed, analysis = sweep.run(freeze(c), run)
  assert (finished, failed) == (True, {})
  assert {r.split for r in analysis.rows} == {'unseen', 'dev', 'seen', 'train'}
  seen = [r for r in analysis.rows if r.split == 'seen' and r.metric == 'exact_match']
  assert min(r.count for r in seen) > 30
  write(tmp_path / 'own.csv', changed(0, 'answer', 'new'))
  with pytest.raises(ConfigError, match=r'task.sha256: .* there, .* now'):
    sweep.run(freeze(c), run)
