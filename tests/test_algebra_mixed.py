"""In-domain rules among others, and the sets of the task."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_algebra import CHUNK, MIXED, made, space_of

from onlyif_jax.settings import RulesConfig
from onlyif_jax.tasks import distribution
from onlyif_jax.tasks.algebra import Algebra, Kind
from onlyif_jax.tasks.contract import EvalSet
from onlyif_jax.tasks.rules import Part


def test_shares_give_the_diversification_rules_their_part():
  task = Algebra(specialist=20, diverse_share=0.25)
  shares = task.shares(60)
  counts = distribution.integer_counts(shares, 8_000)
  assert counts[:20].tolist() == [300] * 20
  assert counts[20:].tolist() == [50] * 40
  assert task.shares(20).tolist() == [1 / 20] * 20
  assert Algebra().shares(60) is None
  assert shares.sum() == pytest.approx(1)


def test_mixtures_share_one_program():
  a, b = Algebra(specialist=5, diverse_share=0.1), Algebra(specialist=20)
  assert a.static() == b.static() != Algebra(depth=1).static()
  assert a.setting(60) == {'specialist': 5}
  assert Algebra().setting(60) == {'specialist': 60}


def test_more_specialist_rules_than_rules_are_refused():
  for call in (Algebra(specialist=20).setting, Algebra(specialist=20).shares):
    with pytest.raises(ValueError, match='specialist=20'):
      call(10)


def test_in_domain_cell_has_the_first_training_rules():
  space = space_of('random')

  @jax.jit
  @functools.partial(jax.vmap, in_axes=(0, None))
  def both(i, specialist):
    setting = {'specialist': specialist}
    cell, _ = space.cell_rule(1, Part.TEST, 'in_domain', i, 60, setting)
    own, _ = space.cell_rule(1, Part.TRAIN, '', i % 7, 60, setting)
    new, exists = space.cell_rule(1, Part.TEST, '', i, 60, setting)
    return cell, own, new, exists

  cell, own, new, exists = jax.device_get(both(jnp.arange(30), jnp.int32(7)))
  assert all(map(np.array_equal, cell, own))
  assert cell.in_domain.all()
  assert not new.in_domain.any()
  assert exists.all()
  with pytest.raises(ValueError, match='unknown cell'):
    space.cell_rule(1, Part.TEST, 'seenx_newy', 0, 60)


def test_slice_tells_in_domain_rules_from_diversification_rules():
  examples, _ = made('random')
  wanted = np.arange(CHUNK) % space_of('random').capacity() < MIXED['specialist']
  assert (examples.slices['in_domain'] == wanted).all()


def test_sets_have_a_deeper_split_where_the_test_is_deeper():
  task = Algebra()
  sets = task.eval_sets(100, 30)
  assert EvalSet('deeper', 100, cell='in_domain', kind='deeper') in sets
  assert EvalSet('unseen', 30, 'slots=deeper', kind='deeper') in sets
  assert {s.split for s in task.eval_sets(100, 0)} == {
    *('unseen', 'dev', 'seen', 'train', 'deeper')
  }
  flat = dataclasses.replace(task, slot_test=1).eval_sets(100, 30)
  assert [s.split for s in flat] == ['unseen', 'dev', 'seen', 'train']
  i_B = jnp.arange(3)
  for one in sets:
    wanted = Kind.DEEPER if one.kind == 'deeper' else Kind.TRAINED
    assert task.kind(one.kind, i_B).tolist() == [wanted] * 3
  with pytest.raises(ValueError, match='unknown kind'):
    task.kind('near', i_B)


@pytest.mark.parametrize(
  ('setting', 'message'),
  [
    ({'source': 'file'}, 'task.source'),
    ({'slot_shape': 'bush'}, 'task.slot_shape'),
    ({'slot_min': 2}, 'task.slot_min=2'),
    ({'functions': 6}, 'task.functions=6'),
    ({'slots': 3}, 'task.slots=3'),
    ({'depth': -1}, 'negative'),
    ({'diverse_share': 1.0}, 'task.diverse_share'),
  ],
)
def test_settings_that_cannot_work_are_refused(setting, message):
  with pytest.raises(ValueError, match=message):
    Algebra(**setting).space(RulesConfig())
