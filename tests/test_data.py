import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from toys import DATA, NOOP_DATA, held_out, member, seen

from onlyif_jax.tasks import distribution, tokens
from onlyif_jax.tasks.rules import Part

# One program each, however many tests use it.
EXAMPLES = jax.jit(DATA.train_examples)
BY_INDEX = jax.jit(DATA.by_index)
SEEN = jax.jit(functools.partial(seen, DATA))


def stream(one, steps=DATA.plan.steps):
  """The first steps of a member's training stream as one batch on the host."""
  total = DATA.plan.steps * DATA.plan.batch_size
  batch = jax.device_get(EXAMPLES(one, jnp.arange(total, dtype=jnp.int32)))
  return jax.tree.map(lambda v: v[: steps * DATA.plan.batch_size], batch)


def test_each_epoch_visits_every_example_once():
  n = DATA.plan.examples
  # A batch of 7 does not divide N = 59: batches straddle the epochs.
  assert n % DATA.plan.batch_size
  batch = stream(member(instructions=11))
  hashes = [tuple(h) for h in batch.prompt_hash_B2.tolist()]
  stored = jax.device_get(BY_INDEX(member(instructions=11), jnp.arange(n)))
  everything = sorted(tuple(h) for h in stored.prompt_hash_B2.tolist())
  assert DATA.plan.steps == (n * 3) // 7
  assert sorted(hashes[:n]) == sorted(hashes[n : 2 * n]) == everything
  assert hashes[:n] != hashes[n : 2 * n], 'each epoch has its own order'


@pytest.mark.parametrize('instructions', [1, 11, 59])
def test_counts_per_rule_are_floor_or_ceil(instructions):
  rules = jax.jit(DATA.rule_of)(member(instructions=instructions), jnp.arange(59))
  counts = np.bincount(np.asarray(rules), minlength=instructions)
  assert set(counts) <= {59 // instructions, -(-59 // instructions)}
  assert counts.sum() == 59


def test_batches_equal_the_stream_whatever_the_step():
  one = member(instructions=11)
  whole = stream(one)
  step = jax.jit(DATA.train_batch)
  for n in (0, 8, DATA.plan.steps - 1):
    batch = jax.device_get(step(one, jnp.int32(n)))
    np.testing.assert_array_equal(batch.tokens_BL, whole.tokens_BL[7 * n : 7 * n + 7])


def test_layout_weights_and_answer_positions():
  batch = stream(member(instructions=11), steps=3)
  for b in range(21):
    row = batch.tokens_BL[b].tolist()
    parts = oracle.parse(row)
    assert parts['out'] == oracle.rewrite(parts['x'], parts['y'], parts['z'])
    answer = [t + 6 for t in tokens.encode(parts['out'])] + [1]
    live = batch.weights_BA[b] > 0
    assert batch.targets_BA[b][live].tolist() == answer
    # Position p predicts token p + 1.
    at = batch.answer_BA[b][live] + 1
    assert [row[t] for t in at] == answer
    np.testing.assert_array_equal(np.flatnonzero(batch.weights_BL[b]), at)


@pytest.mark.parametrize('share', [0.0, 0.3, 0.99])
def test_noops_are_counted_exactly(share):
  n = NOOP_DATA.plan.examples
  wanted = round(share * n)
  one = member(instructions=11, noops=wanted)
  batch = jax.device_get(jax.jit(NOOP_DATA.by_index)(one, jnp.arange(n)))
  found = 0
  for row in batch.tokens_BL.tolist():
    parts = oracle.parse(row)
    found += parts['x'] not in parts['z']
  assert found == wanted == batch.slices['noop'].sum()


def test_reference_members_do_what_they_say():
  n = DATA.plan.examples
  plain = stream(member(instructions=3))
  fresh = stream(member(instructions=3, fresh_inputs=True))
  many = stream(member(instructions=3, fresh_rules=True))
  hidden = stream(member(instructions=3, mask_instruction=True), steps=2)
  lying = stream(member(instructions=11, permute_y=True), steps=2)

  def distinct(batch):
    return len({tuple(h) for h in batch.prompt_hash_B2.tolist()})

  total = len(plain.rule_B)
  assert distinct(plain) <= n < distinct(fresh)
  assert set(plain.rule_B) == set(fresh.rule_B) == {0, 1, 2}
  assert sorted(many.rule_B) == list(range(total)), 'a new rule for each example'
  for row in hidden.tokens_BL.tolist():
    text = tokens.show(row)
    x, y, _, _ = text.rstrip('$').split('|')
    assert set(x) == set(y) == {'?'}
  wrong = 0
  for row in lying.tokens_BL.tolist():
    parts = oracle.parse(row)
    wrong += parts['out'] != oracle.rewrite(parts['x'], parts['y'], parts['z'])
  assert wrong > 10


def test_skewed_counts_are_exact():
  shares = distribution.power_law(13, 0.3)
  counts = distribution.integer_counts(shares, 59)
  assert counts.sum() == 59
  np.testing.assert_allclose(counts, shares * 59, atol=1)
  one = member(instructions=13, counts_R=jnp.asarray(np.cumsum(counts), jnp.int32))
  rules = jax.jit(DATA.rule_of)(one, jnp.arange(59))
  np.testing.assert_array_equal(np.bincount(rules, minlength=13), counts)
  met = SEEN(one, jnp.arange(59), jnp.zeros(59, jnp.int32)).rule_B
  assert (counts[np.asarray(met)] > 0).all(), 'a rule without an example is not seen'


def test_largest_remainder_against_fractions():
  from fractions import Fraction

  for alpha in (1, 2):
    exact = [Fraction((i + 1) ** alpha - i**alpha, 17**alpha) for i in range(17)]
    counts = distribution.integer_counts(distribution.power_law(17, alpha), 101)
    assert sum(counts) == 101
    for share, count in zip(exact, counts, strict=True):
      assert abs(share * 101 - int(count)) < 1


def test_splits_use_their_own_rules():
  one, i = member(instructions=11), jnp.arange(23)
  kinds = jnp.zeros(23, jnp.int32)

  def rules(batch):
    return {
      (p['x'], p['y'])
      for p in map(oracle.parse, jax.device_get(batch).tokens_BL.tolist())
    }

  trained = rules(BY_INDEX(one, jnp.arange(59)))
  met = rules(SEEN(one, i, kinds))
  held = jax.jit(functools.partial(held_out, DATA), static_argnums=1)
  test, dev = (rules(held(one, part, i, kinds)) for part in (Part.TEST, Part.DEV))
  assert met <= trained
  strings = {s for pair in trained for s in pair}
  for pairs in (test, dev):
    assert not strings & {s for pair in pairs for s in pair}
  assert not test & dev


def test_members_differ_only_where_their_seeds_do():
  def rules_and_hashes(**seeds):
    batch = stream(member(instructions=11, **seeds), steps=2)
    return batch.tokens_BL[:, :3].tolist(), batch.prompt_hash_B2.tolist()

  base = rules_and_hashes()
  assert rules_and_hashes(init_seed=5) == base
  assert rules_and_hashes(order_seed=5)[1] != base[1]
  assert rules_and_hashes(rules_seed=5)[0] != base[0]


def test_plan_counts_whole_batches():
  plan = dataclasses.replace(DATA.plan, epochs=0.5)
  assert plan.steps == 29 // 7
