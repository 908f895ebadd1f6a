"""Variants of a sweep: parsing, rows, shared programs, counts and weights."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toys import DATA, member

from onlyif_jax import config as config_lib
from onlyif_jax import experiment
from onlyif_jax.config import ConfigError, RunConfig, freeze
from onlyif_jax.stacks import plan_stacks
from onlyif_jax.tasks import distribution
from onlyif_jax.training import ensemble
from onlyif_jax.workdir import RESULT_COLUMNS, Workdir


def run_config(*variants, counts=(3, 5), **sections):
  tree = json.loads(json.dumps(dataclasses.asdict(RunConfig())))
  tree['sweep'] |= {'variants': list(variants), 'counts': list(counts)}
  tree['data'] |= {'examples': 101, 'epochs': 2.0, 'batch_size': 7}
  for section, values in sections.items():
    tree[section] |= values
  return freeze(tree)


def test_a_variant_changes_only_what_it_names():
  c = run_config('task.x_min=5,task.x_max=5,optim.name=muon,data.balance=true', '')
  own = config_lib.variant(c, c.sweep.variants[0])
  before, after = config_lib.flatten(c), config_lib.flatten(own)
  assert {k: after[k] for k in after if after[k] != before[k]} == {
    'task.x_min': 5,
    'task.x_max': 5,
    'optim.name': 'muon',
    'data.balance': True,
  }
  assert config_lib.variant(c, '') == c
  assert config_lib.swept_values(c, '')['task.x_max'] == 3


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('task.alphabett=3', 'has .task.alphabett=3.* Did you mean task.alphabet'),
    ('task.name=cipher', "has 'task.name=cipher', which is not like"),
    ('stack.members=3', "has 'stack.members=3', which is not like"),
    ('task.alphabet=many', "task.alphabet='many' is not int"),
    ('task.noops=perhaps', "task.noops='perhaps' is not bool"),
    ('task.x_min=9', 'task.x_min=9 is above task.x_max=3'),
    ('model.heads=5', 'model.heads=5 does not divide'),
  ],
)
def test_bad_variants_are_named(text, message):
  with pytest.raises(ConfigError, match=message):
    run_config(text)
  with pytest.raises(ConfigError, match='names a variant twice'):
    run_config('data.alpha=0.5', 'data.alpha=0.5')


def test_rows_cross_variants_with_counts_and_seeds():
  texts = ('task.alphabet=13', 'task.alphabet=17,sweep.counts=7')
  c = run_config(*texts, sweep={'seeds': '2', 'references': ['one']})
  rows = experiment.rows(c)
  assert len({row.member for row in rows}) == len(rows) == 2 * 3 + 1
  assert [r.instructions for r in rows if r.variant == texts[1]] == [7, 7]
  assert rows[-1].variant == texts[0], 'references take the first variant'
  columns = rows[0].columns()
  assert (columns['variant'], columns['task.alphabet']) == (texts[0], 13)
  plain = experiment.rows(run_config())[0].columns()
  assert 'variant' not in plain


def test_variants_share_a_program_unless_something_static_differs(tmp_path):
  c = run_config('data.alpha=0.0', 'data.alpha=0.3', 'task.alphabet=13')
  first = experiment.build(c)
  rows = experiment.rows(c)
  own = {row.variant: first.sibling(row) for row in rows}
  assert own['data.alpha=0.0'].trainer == own['data.alpha=0.3'].trainer
  assert own['data.alpha=0.0'].trainer != own['task.alphabet=13'].trainer
  planned = plan_stacks(Workdir(tmp_path), rows, 3, first)
  assert [len(s.rows) for s in planned] == [3, 1, 2]
  for stack in planned:
    assert len({first.sibling(row).trainer for row in stack.rows}) == 1
  again = plan_stacks(Workdir(tmp_path), rows, 3, first)
  assert again == planned, 'the ledger names them'


def test_members_for_timing_are_of_one_variant():
  c = run_config('', 'task.noops=true', counts=(3,))
  first, rows = experiment.build(c), experiment.rows(c)
  with pytest.raises(ValueError, match='same shape'):
    first.members(rows[:2])
  assert ensemble.size(first.first_members(2)) == 2
  assert ensemble.size(first.sibling(rows[1]).first_members(5)) == 5


def test_counts_of_a_skewed_sweep_are_exact_for_every_variant():
  c = run_config('data.alpha=0.0', 'data.alpha=0.3', counts=(3, 11))
  for row in experiment.rows(c):
    own = experiment.build(c, row.variant)
    counts_R = np.diff(np.asarray(own.member(row).counts_R), prepend=0)
    assert counts_R.shape == (11,)
    assert counts_R.sum() == 101
    assert (counts_R[row.instructions :] == 0).all()
    if row.variant == 'data.alpha=0.0':
      assert np.ptp(counts_R[: row.instructions]) <= 1


def test_balanced_examples_weigh_every_rule_alike():
  counts = distribution.integer_counts(distribution.power_law(13, 0.3), 59)
  skewed = {'counts_R': jnp.asarray(np.cumsum(counts), jnp.int32)}
  make = jax.jit(DATA.by_index)
  plain = make(member(instructions=13, **skewed), jnp.arange(59))
  even = make(member(instructions=13, balance=True, **skewed), jnp.arange(59))
  weight_B = np.asarray(even.weights_BA)[:, 0]
  totals = np.bincount(np.asarray(even.rule_B), weights=weight_B, minlength=13)
  np.testing.assert_allclose(totals[counts > 0], 59 / (counts > 0).sum(), rtol=1e-5)
  np.testing.assert_array_equal(plain.weights_BA, np.asarray(even.weights_BA) > 0)
  np.testing.assert_array_equal(plain.tokens_BL, even.tokens_BL)


def test_tables_have_a_column_for_each_swept_field(tmp_path):
  c = run_config('data.alpha=0.0', 'data.alpha=0.3')
  workdir = Workdir(tmp_path)
  assert workdir.columns(RESULT_COLUMNS) == RESULT_COLUMNS
  workdir.write_json('config.json', dataclasses.asdict(c))
  columns = workdir.columns(RESULT_COLUMNS)
  assert set(columns) - set(RESULT_COLUMNS) == {'variant', 'data.alpha'}
