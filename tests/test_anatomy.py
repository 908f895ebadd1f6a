"""Every output has one class, the one that a plain-Python reader gives it."""

import collections
import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import oracle_anatomy
import pytest
import toys
from flax import nnx

from onlyif_jax.evals import mistakes
from onlyif_jax.evals.anatomy import Anatomist
from onlyif_jax.evals.crossed import Examples
from onlyif_jax.evals.exact_match import Evaluator, as_uint64
from onlyif_jax.evals.mistakes import Mistake
from onlyif_jax.models import decode
from onlyif_jax.models.gpt2 import GPT2
from onlyif_jax.tasks import tokens
from onlyif_jax.training import ensemble, parallel

LETTERS = 'abc'  # few, so that coincidences are frequent
ROOM = 13  # tokens that are decoded


def word(rng, low, high):
  return ''.join(rng.choice(list(LETTERS), rng.integers(low, high + 1)))


def changed(rng, text):
  """The text with one letter replaced by another."""
  k = rng.integers(len(text))
  others = [c for c in LETTERS if c != text[k]]
  return text[:k] + rng.choice(others) + text[k + 1 :]


def candidates(rng, z, x, y, trained):
  """Outputs of every kind, right and wrong; random letters are of LETTERS."""
  k = rng.integers(len(z) - len(x) + 1)
  at = max(z.find(x), 0)
  later = z.find(x, at + 1)
  head, tail = z[:at], z[at + len(x) :]
  other = trained[rng.integers(len(trained))][1] if trained else ''
  near = [b for a, b in trained if a == x] or [other]
  yield z.replace(x, y, 1)
  yield z
  yield z[:k] + y + z[k + len(x) :]
  yield z[:later] + y + z[later + len(x) :] if later > 0 else z
  yield head + near[0] + tail
  yield head + other + tail
  yield head + word(rng, len(y), len(y)) + tail
  yield head + word(rng, 0, 4) + tail
  yield changed(rng, z)
  yield changed(rng, head + y + tail) if head + y + tail else ''
  yield changed(rng, changed(rng, z))
  yield z[:k] + word(rng, 0, 3) + z[k:]
  yield word(rng, 0, ROOM - 1)
  yield word(rng, len(z), len(z))
  yield y + z[len(y) :]


def ids(text, ended=True):
  """The text as generated ids, ended and padded."""
  row = [tokens.FIRST_LETTER + LETTERS.index(c) for c in text]
  row += [tokens.EOS] if ended else []
  return row + [tokens.PAD] * (ROOM - len(row))


def numbers(texts):
  return mistakes.strings([[LETTERS.index(c) for c in text] for text in texts])


def spoilt(rng, text):
  """Generated ids that are no text: no end, or a token that is no letter."""
  if rng.random() < 0.3:
    return (ids(text, ended=False)[: len(text)] + ids('a' * ROOM, ended=False))[:ROOM]
  row = ids(text)
  row[rng.integers(len(text) + 1)] = int(rng.choice([0, 2, 3, 4, 5]))
  return row


def check(seed, rounds, noops, literal=True):
  """Compares with the oracle; returns how often each class was met."""
  rng = np.random.default_rng(seed)
  rules = [(word(rng, 1, 3), word(rng, 0, 4)) for _ in range(7)]
  trained = rules if seed % 5 else []
  asked, outputs, raw = [], [], []
  for _ in range(rounds):
    z, x, y = word(rng, 7, 7), word(rng, 1, 3), word(rng, 0, 4)
    if rng.random() < 0.3:
      x, y = rules[rng.integers(len(rules))]
    expected = z.replace(x, y, 1) if literal else word(rng, 5, 9)
    for output in [expected, *candidates(rng, z, x, y, trained)]:
      asked.append((z, x, y, expected))
      bad = rng.random() < 0.03
      raw.append(spoilt(rng, output) if bad else ids(output))
      outputs.append(None if bad else output)
  z, x, y, expected = (numbers(column) for column in zip(*asked, strict=True))
  read, ended = mistakes.read(np.array(raw))
  known = mistakes.Trained(
    numbers([a for a, _ in trained]), numbers([b for _, b in trained])
  )
  got = mistakes.classify(
    mistakes.Asked(z, expected, x, y), read, ended, noops=noops, trained=known
  )
  names = [Mistake(n).name.lower() for n in got]
  for (z, x, y, e), output, name in zip(asked, outputs, names, strict=True):
    want = oracle_anatomy.mistake(z, x, y, e, output, noops=noops, trained=trained)
    assert name == want, (z, x, y, e, output)
  return collections.Counter(names)


@pytest.mark.parametrize('noops', [False, True])
def test_classes_equal_a_plain_reading(noops):
  met = collections.Counter()
  for seed in range(17):
    met += check(seed, 59, noops)
  never = {'copied' if noops else 'false_no_op'}
  assert set(met) == {m.name.lower() for m in Mistake} - never
  assert min(met.values()) >= 11, met


@pytest.mark.slow
def test_classes_equal_a_plain_reading_of_many():
  total = sum(sum(check(seed, 499, seed % 2 == 1).values()) for seed in range(100, 117))
  assert total > 10**5


def test_expected_outputs_of_another_form_have_the_plain_classes():
  met = check(3, 211, noops=False, literal=False)
  plain = {'right', 'malformed', 'copied', 'length', 'wrong_letters'}
  assert plain <= set(met)
  assert met['wrong_y'] < 11, 'only where a random output looks like a rewritten one'


def test_other_tokens_are_malformed_unless_they_are_asked_for():
  rows = [[7, 4, 8, 1], [7, 4, 9, 1], [7, 4, 8, 8], [7, 9, 8, 1], [7, 8, 1, 0]]
  read, ended = mistakes.read(np.array(rows))
  z = mistakes.strings([[-9]] * 5)

  def names(expected):
    asked = mistakes.Asked(z, mistakes.strings([expected] * 5))
    got = mistakes.classify(asked, read, ended, noops=False, trained=None)
    return [Mistake(n).name.lower() for n in got]

  wrong = 'wrong_letters'
  assert names([1, -2, 2]) == ['right', wrong, 'malformed', wrong, 'length']
  assert names([1, 3, 2]) == ['malformed'] * 3 + ['right', 'length']


ROWS = 53  # examples of each split
PARTS = ('unseen', 'seen', 'train', 'crossed')
DATA = toys.NOOP_DATA
SETS = DATA.task.eval_sets(ROWS, 0)
SET = {one.split: one for one in SETS if not one.label}
EVALUATOR = Evaluator(DATA, toys.trainer(DATA).model, 61, parallel.make_mesh(1))
MEMBERS = (
  toys.member(11, noops=29),
  toys.member(11, noops=29, mask_instruction=True),
  toys.member(3, noops=29, rules_seed=5),
  toys.member(7, noops=29, permute_y=True),
  toys.member(2, noops=29, fresh_rules=True),
)
STACKED = ensemble.stack(MEMBERS)
NONE = [np.zeros(0, np.uint64)] * len(MEMBERS)  # no prompt is left out


@dataclasses.dataclass(frozen=True)
class Crafted(Anatomist):
  """Decoding that responds `box['answer'](m, parts of the example)` in text."""

  box: dict

  @functools.cached_property
  def _decode(self):
    return self.craft

  def craft(self, args):
    _, rows_MBL, start_MB = args
    out_MBL = np.array(rows_MBL)
    for m, b in np.ndindex(start_MB.shape):
      start = start_MB[m, b]
      if start > 1:  # padding is not looked at
        answer = self.box['answer'](m, parts(rows_MBL[m, b].tolist()))
        ids_ = [tokens.FIRST_LETTER + ord(c) - 97 for c in answer] + [tokens.EOS]
        out_MBL[m, b, start:] = tokens.PAD
        out_MBL[m, b, start : start + len(ids_)] = ids_[: out_MBL.shape[2] - start]
    return out_MBL


def parts(row):
  """An example's x, y, z and out; hidden letters are '^'."""
  row = [9 + 82 if token == tokens.MASK else token for token in row]
  return oracle.parse(row)


LOOKING = Crafted(EVALUATOR, ROWS, {})  # one for all tests: it keeps its programs


def examine(answer: Callable[[int, dict], str], trained_on=NONE):
  LOOKING.box['answer'] = answer
  return LOOKING.examine({'none': jnp.zeros(len(MEMBERS))}, STACKED, SETS, trained_on)


def counts(rows, split):
  return {r['class']: r['count'] for r in rows if r['split'] == split and r['count']}


@functools.cache
def training_examples(m):
  """All training examples, as their prompts state the rule itself."""
  plain = dataclasses.replace(
    STACKED,
    mask_instruction=jnp.zeros_like(STACKED.mask_instruction),
    permute_y=jnp.zeros_like(STACKED.permute_y),
  )
  batch = jax.device_get(EVALUATOR.make(SET['train'])(plain, jnp.int32(0))[0])
  return [parts(row) for row in batch.tokens_BL[m].tolist()][:59]


def test_perfect_answers_are_right_in_every_cell():
  met = [[] for _ in MEMBERS]

  def answer(m, example):
    met[m].append(example)
    return example['out']

  for m, one in enumerate(examine(answer)):
    assert one.wrong == []
    assert {r['split'] for r in one.rows} == set(PARTS)
    for split in PARTS:
      assert set(counts(one.rows, split)) == {'right'}
      assert counts(one.rows, split)['right'] > 11
    assert [c['right'] for c in one.cells] == [c['examples'] for c in one.cells]
    total = {c['split']: c['examples'] for c in one.cells}
    assert total['unseen'] == total['seen'] == total['train'] == ROWS
    held = check_crossed(m, met[m][-total['crossed'] :])
    why = '' if held else 'no-ops alone: no training input that was looked at holds'
    for c in one.cells:
      assert c['why_not'].startswith(why if c['split'] == 'crossed' else '')
      assert bool(c['why_not']) == (c['split'] == 'crossed' and not held)


def check_crossed(m, examples):
  """Unseen rules on training inputs, answered as the rule asks; how many hold x."""
  trained = training_examples(m)
  known = {e['z'] for e in trained}
  assert len({e['z'] for e in examples}) > 7
  for e in examples:
    assert e['z'] in known
    if m not in (1, 3):  # there the prompt does not state the rule
      assert e['x'] not in {t['x'] for t in trained}
      assert e['out'] == oracle.rewrite(e['x'], e['y'], e['z'])
  held = sum(e['z'] != e['out'] for e in examples)
  assert held > 1 or m != 2
  return held


def test_every_output_counts_once_in_the_class_of_a_plain_reading():
  rng = np.random.default_rng(3)
  expected = [collections.Counter() for _ in MEMBERS]

  def answer(m, e):
    trained = set() if m == 4 else {(t['x'], t['y']) for t in training_examples(m)}
    room = len(e['z']) + 2  # an answer that is longer has no room for its end
    x, y, z = e['x'], e['y'], e['z']
    found = [o for o in candidates(rng, z, x, y, [*trained]) if len(o) <= room]
    output = str(rng.choice(found))
    args = (z, x, y, e['out'], output)
    expected[m][oracle_anatomy.mistake(*args, noops=True, trained=trained)] += 1
    return output

  for m, one in enumerate(examine(answer)):
    got = collections.Counter()
    for split in PARTS:
      got += collections.Counter(counts(one.rows, split))
    assert sum(got.values()) == sum(c['examples'] for c in one.cells)
    wrong = {(r['split'], r['class']) for r in one.rows if r['count']}
    wrong = {pair for pair in wrong if pair[1] != 'right'}
    shown = {(r['split'], r['class']) for r in one.wrong}
    assert len(one.wrong) == 20
    assert shown <= wrong
    assert len(shown) == min(20, len(wrong)), 'as many kinds as there are'
    if m not in (1, 3):
      assert got == expected[m]


def test_outputs_of_hidden_rules_are_judged_by_the_rule():
  def answer(m, e):  # y goes to the right place, one letter off
    z, out = e['z'], e['out']
    if z == out:
      return z
    k = next(k for k in range(len(out)) if out[: k + 1] != z[: k + 1])
    return out[:k] + ('b' if out[k] == 'a' else 'a') + out[k + 1 :]

  for m in (1, 3):
    found = counts(examine(answer)[m].rows, 'unseen')
    assert found.pop('right') == 27  # every second input is a no-op
    assert sum(found.values()) == ROWS - 27
    assert set(found) <= {'wrong_y', 'nearest_y', 'training_y'}


def test_prompts_that_were_trained_on_are_left_out():
  batch = jax.device_get(EVALUATOR.make(SET['seen'])(STACKED, jnp.int32(0))[0])
  hashes = [as_uint64(own)[:ROWS] for own in batch.prompt_hash_B2]
  some = [own[5 * m : 5 * m + 7] for m, own in enumerate(hashes)]
  for m, one in enumerate(examine(lambda m, e: e['out'], some)):
    left = int((~np.isin(hashes[m], some[m])).sum())
    assert counts(one.rows, 'seen') == {'right': left}
    assert left < ROWS
  for one in examine(lambda m, e: e['out'], hashes):
    assert counts(one.rows, 'seen') == {}
    cell = next(c for c in one.cells if c['split'] == 'seen')
    assert cell['why_not'] == 'every input that was drawn had been trained on'


def test_decodes_every_member_on_every_device_by_its_own_parameters():
  rng = np.random.default_rng(0)
  model = dataclasses.replace(EVALUATOR.model, positions='rotary')
  evaluator = dataclasses.replace(EVALUATOR, model=model, mesh=parallel.make_mesh(2))
  graph, state = nnx.split(nnx.eval_shape(lambda: GPT2(model, rngs=nnx.Rngs(0))))
  params = jax.tree.map(
    lambda v: rng.normal(0, 0.4, (2, *v.shape)).astype(np.float32),
    nnx.to_pure_dict(state),
  )
  length = DATA.task.sequence_length
  shown = []
  for _ in range(2):
    own = {}
    for split, count in (('unseen', 37), ('train', 11)):
      rows = rng.integers(2, 23, (count, length)).astype(np.int32)
      starts = rng.integers(9, 13, count).astype(np.int32)
      own[split] = Examples(rows, starts, mistakes.Asked(*[mistakes.strings([])] * 2))
    shown.append(own)
  found = Anatomist(evaluator, ROWS)._outputs(params, shown)
  greedy = jax.jit(lambda *args: decode.greedy(graph, *args, length))
  for m, own in enumerate(shown):
    one = ensemble.unstack(params, m)
    rows, starts = (np.concatenate([s[n] for s in own.values()]) for n in (0, 1))
    want = np.asarray(greedy(one, rows, starts))
    got = np.concatenate(list(found[m].values()))
    for want_L, got_L, start in zip(want, got, starts, strict=True):
      np.testing.assert_array_equal(got_L[: length - start], want_L[start:])
      assert (got_L[length - start :] == tokens.PAD).all()
