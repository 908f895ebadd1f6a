import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracle_cipher as oracle
import pytest

from onlyif_jax.config import ConfigError, RulesConfig, base_config, freeze
from onlyif_jax.experiment import build, rows
from onlyif_jax.tasks.certificate import broken
from onlyif_jax.tasks.cipher import Cipher
from onlyif_jax.tasks.rules import Part

ROUND = 1500

TASKS = {
  'inserted': Cipher(alphabet=7, input_length=11, x_max=4, y_min=2, noops=True),
  'output': Cipher(
    alphabet=5, x_min=2, y_max=5, input_length=13, scope='output', noops=True,
    order='zxy', shifts=(1, 3),
  ),
  'table': Cipher(alphabet=11, y_max=5, input_length=7, cipher='table', shifts=(2, 7)),
}  # fmt: skip


@functools.cache
def program(task):
  space = task.space(RulesConfig())
  capacity = space.capacity(Part.TRAIN)

  @jax.jit
  def make(seed, start):
    i_B = start + jnp.arange(ROUND, dtype=jnp.int32)
    kind_B = i_B // 3 % 3 if task.noops else jnp.zeros_like(i_B)

    def one(i, kind):
      rule = space.rule(seed, Part.TRAIN, i % capacity)
      return task.example(rule, jax.random.fold_in(jax.random.key(seed), i), kind=kind)

    return jax.vmap(one)(i_B, kind_B), kind_B

  return make


def check(task, count, seed=0, tables=None):
  """Every example equals the oracle; a table is found from its first uses."""
  tables = {} if tables is None else tables
  for start in range(0, count, ROUND):
    examples, kinds = jax.device_get(program(task)(seed, start))
    for b, row in enumerate(examples.tokens_L.tolist()):
      parts = check_one(task, row, kinds[b], tables)
      assert examples.answer_start[b] + examples.answer_len[b] == row.index(1) + 1
      y_at = parts['z'].find(parts['x'])
      inserted = range(y_at, y_at + len(parts['y'])) if y_at >= 0 else ()
      assert np.flatnonzero(examples.inserted_A[b]).tolist() == list(inserted)
  return tables


def check_one(task, row, kind, tables):
  parts = oracle.parse(row, task.order)
  x, y, z, out = parts['x'], parts['y'], parts['z'], parts['out']
  shift = ord(parts['s']) - 97
  assert shift in (task.shifts or range(1, task.alphabet))
  assert (x in z) == (kind == 0)
  assert len(z) == task.input_length
  if task.cipher == 'shift':
    own = {
      chr(97 + n): oracle.shifted(chr(97 + n), shift, task.alphabet)
      for n in range(task.alphabet)
    }
  else:
    at, own = z.find(x), tables.setdefault(shift, {})
    for plain, coded in zip(y, out[at : at + len(y)], strict=True):
      assert own.setdefault(plain, coded) == coded
  assert out == oracle.answer(x, y, z, own, task.scope)
  return parts


@pytest.mark.parametrize('name', TASKS)
def test_examples_equal_the_oracle(name):
  check(TASKS[name], 3 * ROUND)


@pytest.mark.slow
@pytest.mark.parametrize('name', TASKS)
def test_many_examples_equal_the_oracle(name):
  check(TASKS[name], 100_500, seed=5)


def test_tables_are_bijections_of_the_seed_and_the_shift():
  task = TASKS['table']
  tables = check(task, 2 * ROUND)
  assert set(tables) == {2, 7}
  for table in tables.values():
    assert sorted(table.values()) == sorted(table) == list('abcdefghijk')
  assert tables[2] != tables[7]
  assert check(task, ROUND, seed=1) != tables


SPACE = Cipher(alphabet=7).space(RulesConfig())


@functools.cache
def rules_of(kind, instructions=50, count=140):
  """(x, y, shift) of rules, as tuples of numbers; pairs that do not exist are left."""
  setting = Cipher(alphabet=7).setting(instructions)
  i_B = jnp.arange(count)
  found = jax.device_get(program_of(kind)(i_B, instructions, setting))
  rule, exists = found
  rows_ = np.concatenate([rule.x_P, rule.y_Q, rule.shift[:, None]], 1)[exists]
  return [(tuple(r[:3]), tuple(r[3:6]), int(r[6])) for r in rows_.tolist()]


@functools.cache
def program_of(kind):
  def one(i, instructions, setting):
    if isinstance(kind, Part):
      return SPACE.rule(3, kind, i, setting), jnp.bool_(True)
    return SPACE.cell_rule(3, Part.TEST, kind, i, instructions, setting)

  return jax.jit(jax.vmap(one, (0, None, None)))


def test_shifts_take_turns():
  counts = np.bincount([s for *_, s in rules_of(Part.TRAIN, 140)])
  assert counts[0] == 0
  assert sorted(counts[1:]) == [23, 23, 23, 23, 24, 24]


def test_every_second_rule_meets_every_shift():
  assert len({s for *_, s in rules_of(Part.TRAIN, 140)[::2]}) == 6


def test_fewer_rules_than_shifts_leave_held_out_rules_the_seen_shifts():
  seen = {s for *_, s in rules_of(Part.TRAIN, 4)[:4]}
  assert len(seen) == 4
  for kind in (Part.TEST, 'pair', 'seenx_newy'):
    assert {s for *_, s in rules_of(kind, 4)} == seen


def test_training_rules_of_less_instructions_are_a_prefix():
  assert rules_of(Part.TRAIN, 4)[:4] == rules_of(Part.TRAIN, 50)[:4]
  assert rules_of(Part.TRAIN, 6)[:6] == rules_of(Part.TRAIN, 50)[:6]


@pytest.mark.parametrize('instructions', [2, 5, 50])
def test_pairs_mix_a_seen_rule_with_a_seen_shift(instructions):
  train = rules_of(Part.TRAIN, instructions)[:instructions]
  pairs = rules_of('pair', instructions)
  assert len(pairs) == 140
  assert {(x, y) for x, y, _ in pairs} == {(x, y) for x, y, _ in train}
  assert {s for *_, s in pairs} == {s for *_, s in train}
  assert not set(pairs) & set(train)


def test_one_instruction_has_no_pairs():
  assert rules_of('pair', 1) == []
  assert all(one.split != 'pair' for one in Cipher(shifts=(3,)).eval_sets(5, 5))


def test_split_of_pairs_has_both_halves():
  sets = {one.split: one for one in TASKS['inserted'].eval_sets(100, 0)}
  assert (sets['pair'].cell, sets['pair'].kind) == ('pair', 'even')
  assert sets['unseen'].cell == ''


def test_certificate_holds_and_finds_broken_spaces():
  setting = Cipher(alphabet=7).setting(4)
  report = SPACE.certify(3, 4, 50, setting)
  assert broken(report) == []
  assert report['parts']['train']['distinct_shifts'] == 4
  assert SPACE.certify(3, 50, 50)['parts']['train']['distinct_shifts'] == 6
  # Without the setting, held-out rules have shifts that four rules do not have.
  assert SPACE.certify(3, 4, 50)['collisions']['new_shift'] == 2


def test_certificate_finds_pairs_that_are_training_rules():
  class Careless(type(SPACE)):
    def cell_rule(self, seed, part, cell, i, instructions, setting=None):
      return self.rule(seed, Part.TRAIN, i % instructions, setting), jnp.bool_(True)

  careless = Careless(SPACE.strings, SPACE.shifts)
  assert broken(careless.certify(3, 4, 50)) == ['pair: 4 shared', 'new_shift: 2 shared']


def test_certificate_finds_equal_tables():
  task = Cipher(alphabet=3, cipher='table')
  space = task.space(RulesConfig())
  found = [space.equal_codes(seed) for seed in range(30)]
  assert {0, 1} <= set(found)  # six tables in all, and one changes nothing


def toy(**task):
  c = base_config('cipher')
  c.data.examples, c.data.batch_size, c.data.epochs = 101, 7, 1.0
  c.sweep.counts, c.sweep.references, c.sweep.reference_count = (13,), ('permuted',), 13
  c.task.alphabet = 7
  c.task.update(task)
  return c


def test_lying_prompts_state_another_y_and_the_true_shift():
  made = build(freeze(toy()))
  member = made.members(rows(made.run))
  both = jax.jit(jax.vmap(made.data.by_index, (0, None)))(member, jnp.arange(20))
  texts = [
    [oracle.parse(row) for row in half] for half in np.asarray(both.tokens_BL).tolist()
  ]
  for a, b in zip(*texts, strict=True):
    assert a['y'] != b['y']
    assert {**a, 'y': ''} == {**b, 'y': ''}


def test_instruction_mask_hides_the_shift_too():
  task = TASKS['inserted']
  examples, _ = program(task)(0, 0)
  hidden = np.asarray(task.instruction_mask(examples)).sum(1)
  sizes = [
    sum(len(oracle.parse(row, task.order)[name]) for name in 'xys')
    for row in np.asarray(examples.tokens_L).tolist()
  ]
  assert hidden.tolist() == sizes


@pytest.mark.parametrize('name', ['inserted', 'output'])
def test_fields_are_the_parts_of_the_prompt(name):
  task = TASKS[name]
  row = np.asarray(program(task)(0, 0)[0].tokens_L)[0].tolist()
  prompt = row[: len(row) - row[::-1].index(2)]
  parts = oracle.parse(row, task.order)
  texts = {k: ''.join(chr(97 + n) for n in v) for k, v in task.fields(prompt).items()}
  assert texts == {
    'lhs': parts['x'], 'rhs': parts['y'], 'shift': parts['s'], 'input': parts['z']
  }  # fmt: skip


@pytest.mark.parametrize(
  ('task', 'said'),
  [
    ({'cipher': 'enigma'}, 'shift, table'),
    ({'scope': 'all'}, 'inserted, output'),
    ({'shifts': (0, 1)}, r'1\.\.6'),
    ({'shifts': (7,)}, r'1\.\.6'),
    ({'shifts': (2, 2)}, 'different numbers'),
  ],
)
def test_settings_that_cannot_work_are_refused(task, said):
  with pytest.raises(ConfigError, match=said):
    freeze(toy(**task))


def test_settings_reach_the_task():
  made = build(freeze(toy(scope='output', shifts=(1, 4), cipher='table')))
  assert made.data.task == dataclasses.replace(
    Cipher(alphabet=7), scope='output', shifts=(1, 4), cipher='table'
  )
  assert made.data.rules == made.task.space(RulesConfig())
