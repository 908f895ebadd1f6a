"""Forced answers and outcomes of the counterfactual evaluation."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
import toys
from flax import nnx

from onlyif_jax.evals import counterfactual
from onlyif_jax.evals.counterfactual import Counterfactual, Forced
from onlyif_jax.evals.exact_match import Evaluator
from onlyif_jax.models import decode
from onlyif_jax.models.gpt2 import GPT2
from onlyif_jax.training import ensemble, parallel

# Inputs so short that two long patterns do not fit into one.
DATA = dataclasses.replace(
  toys.DATA, task=dataclasses.replace(toys.DATA.task, input_length=5)
)
MODEL = dataclasses.replace(toys.trainer(DATA).model, positions='rotary')
EVALUATOR = Evaluator(DATA, MODEL, 61, parallel.make_mesh(1))
PAIRS = 127


def texts(forced, b):
  """The prompt's x, y, z and the answer; the answer fields say the same."""
  row = forced.tokens_L[b].tolist()
  found = oracle.parse(row)
  start, length = int(forced.start[b]), int(forced.length[b])
  assert row[start : start + length] == forced.answer_A[b, :length].tolist()
  assert length == len(found['out']) + 1
  return found


# The second and the last rule have no example.
MEMBER = toys.member(11, counts_R=np.cumsum([9, 0, 7, 5, 5, 5, 5, 5, 5, 13, 0]))


@functools.cache
def made():
  """Both questions' answers, in one program."""

  def both(i):
    one = Counterfactual(EVALUATOR)
    return one.two_patterns(MEMBER, i), one.seen_x_new_y(MEMBER, i)

  i_B = jnp.arange(PAIRS, dtype=jnp.int32)
  return jax.device_get(jax.jit(jax.vmap(both))(i_B))


def test_an_input_holds_two_patterns_and_the_answers_edit_either():
  forced, exists, pair = made()[0]
  assert sorted(set(pair.tolist())) == list(range(len(set(pair.tolist()))))
  before, fits = 0, []
  for b in range(PAIRS):
    own, swap, other, own2, swap2, other2 = (texts(one, b) for one in forced)
    assert len({e['z'] for e in (own, swap, other, own2, swap2, other2)}) == 1
    assert own['x'] == swap['x'] == other['x'] != own2['x'] == other2['x']
    x1, y1, z, x2, y2 = own['x'], own['y'], own['z'], own2['x'], own2['y']
    fits.append(len(x1 + x2) <= len(z))
    if not fits[-1]:
      continue
    assert x1 in z
    assert x2 in z
    assert own['out'] == other2['out'] == oracle.rewrite(x1, y1, z)
    assert own2['out'] == other['out'] == oracle.rewrite(x2, y2, z)
    assert swap['out'] == oracle.rewrite(x2, y1, z)
    assert swap2['out'] == oracle.rewrite(x1, y2, z)
    before += z.index(x1) < z.index(x2)
  assert exists.tolist() == fits
  assert 0.2 * PAIRS < sum(fits) < PAIRS
  assert 0.3 * sum(fits) < before < 0.7 * sum(fits), 'either may come first'


def test_a_seen_x_has_a_new_y_and_the_y_of_training():
  forced, exists, rule = made()[1]
  batch = jax.jit(DATA.by_index)(MEMBER, jnp.arange(59, dtype=jnp.int32))
  examples = [oracle.parse(row) for row in batch.tokens_BL.tolist()]
  trained = {e['x']: e['y'] for e in examples}
  x_of = {int(r): e['x'] for r, e in zip(batch.rule_B, examples, strict=True)}
  assert exists.tolist() == [r in x_of for r in rule.tolist()]
  assert len(trained) == len(x_of) == 9
  for b in np.flatnonzero(exists):
    new, old = (texts(one, b) for one in forced)
    x, y, z = new['x'], new['y'], new['z']
    assert (x, y, z) == (old['x'], old['y'], old['z']), 'one prompt, two answers'
    assert x == x_of[int(rule[b])]
    assert y not in trained.values()
    assert new['out'] == oracle.rewrite(x, y, z)
    assert old['out'] == oracle.rewrite(x, trained[x], z)


def test_a_forced_answer_is_right_where_it_is_the_greedy_output():
  rng = np.random.default_rng(0)
  graph, state = nnx.split(nnx.eval_shape(lambda: GPT2(MODEL, rngs=nnx.Rngs(0))))
  params = jax.tree.map(
    lambda v: rng.normal(0, 0.4, v.shape).astype(np.float32), nnx.to_pure_dict(state)
  )
  length, size = DATA.task.sequence_length, DATA.task.answer_length
  rows = rng.integers(2, 23, (61, length)).astype(np.int32)
  starts = rng.integers(7, length - size, 61).astype(np.int32)
  # No token ends a row here, so every one has a whole answer.
  greedy = jax.jit(lambda t, s: decode.greedy(graph, params, t, s, length, eos=-1))
  own = np.array(greedy(rows, starts))
  answer = np.take_along_axis(own, starts[:, None] + np.arange(size)[None], 1)
  lengths = rng.integers(1, size + 1, 61).astype(np.int32)
  own = np.where(np.arange(length)[None] < (starts + lengths)[:, None], own, 0)
  wrong_tokens, wrong = own.copy(), answer.copy()
  at = (rng.integers(0, 10**6, 61) % lengths).astype(int)
  wrong[np.arange(61), at] = 2 + (wrong[np.arange(61), at] - 1) % 21
  wrong_tokens[np.arange(61), starts + at] = wrong[np.arange(61), at]
  forced = [Forced(own, starts, answer, lengths)]
  forced.append(Forced(wrong_tokens, starts, wrong, lengths))
  both = jax.tree.map(lambda *v: jnp.stack(v), *forced)
  right = jax.jit(Counterfactual(EVALUATOR).right)(params, both)
  assert right.tolist() == [[True] * 61, [False] * 61]


def test_outcomes_exclude_each_other():
  for right in itertools.product([False, True], repeat=6):
    obeyed = [right[0], right[3]]
    elsewhere = right[1] or right[2] or right[4] or right[5]
    want = 'other' if elsewhere else 'neither'
    want = {2: 'both', 1: 'one', 0: want}[sum(obeyed)]
    found = counterfactual.outcome_of_two(jnp.array(right)[:, None])
    assert counterfactual.TWO_PATTERNS[int(found[0])] == want
  for right in itertools.product([False, True], repeat=2):
    want = 'obeyed' if right[0] else 'memorised' if right[1] else 'neither'
    found = counterfactual.outcome_of_new(jnp.array(right)[:, None])
    assert counterfactual.SEEN_X_NEW_Y[int(found[0])] == want


class Crafted(Counterfactual):
  """Judges by the parameters: member m's verdict on each of the eight answers."""

  def right(self, params, forced_KB):
    return params[:, None] & (forced_KB.length >= 0)


class Recorded(Crafted):
  """Has the answers of `made`, for any member, instead of compiling them again."""

  def two_patterns(self, member, i):
    return jax.tree.map(lambda v: jnp.asarray(v)[i], made()[0])

  def seen_x_new_y(self, member, i):
    return jax.tree.map(lambda v: jnp.asarray(v)[i], made()[1])


def test_shares_of_every_member_in_rows():
  members = ensemble.stack([MEMBER, MEMBER])
  check_shares(Recorded(EVALUATOR), members, [int(made()[1][1].sum())] * 2)


@pytest.mark.slow
def test_shares_of_members_with_rules_of_their_own():
  members = ensemble.stack([toys.member(11), toys.member(71)])
  # Of 71 rules, 59 had examples.
  met = [PAIRS, sum(i % 71 < 59 for i in range(PAIRS))]
  check_shares(Crafted(EVALUATOR), members, met)


def check_shares(judge, members, met):
  """The rows of two members; met: how often each was asked of a rule with examples."""
  rights = jnp.array([[1, 0, 0, 1, 0, 0, 1, 0], [0, 0, 0, 1, 0, 0, 0, 1]], bool)
  found = judge.tallies(rights, members, PAIRS)
  names = [f'two_patterns={v}' for v in counterfactual.TWO_PATTERNS]
  names += [f'seen_x_new_y={v}' for v in counterfactual.SEEN_X_NEW_Y]
  assert set(names) == set(counterfactual.MEANING)
  fits = int(made()[0][1].sum())
  hits = [{'both', 'obeyed'}, {'one', 'memorised'}]
  for own, seen, which in zip(found, met, hits, strict=True):
    assert [t.slice for t in own] == names
    for t in own:
      assert (t.split, t.metric) == ('counterfactual', 'share')
      assert t.count == (fits if t.slice.startswith('two') else seen)
      assert t.sum == (t.count if t.slice.partition('=')[2] in which else 0)
      assert t.rule_se == 0
