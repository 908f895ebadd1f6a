import collections
import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import oracle_semantics
import pytest

from onlyif_jax.settings import RulesConfig, SemanticsSettings
from onlyif_jax.tasks import semantic_certificate
from onlyif_jax.tasks.certificate import broken
from onlyif_jax.tasks.rules import Part
from onlyif_jax.tasks.semantic_rules import DOMAINS, Forms, SemanticSpace, groups
from onlyif_jax.tasks.semantics import Semantics

TASK = Semantics(alphabet=5, pattern_length=6, input_length=13, k_max=6)
SPACE = TASK.space(RulesConfig())
PAIRS = dataclasses.replace(SPACE, distinct='pairs')
RANGES = {
  'repeat, 3': {'classes': 'repeat', 'k_max': 3},
  'two, 3-6': {'classes': 'mirror+repeat', 'k_max': 6},
  'all, 3-6': {'k_max': 6},
  'letters': {'classes': 'mirror', 'k_min': 6, 'k_max': 6},
}


def setting(name):
  return dataclasses.replace(TASK, **RANGES[name]).setting(31)


def listed(space, name, count, own=None, seed=0):
  return semantic_certificate.listed(space, seed, name, count, own)


@functools.cache
def every_pattern(forms):
  """The patterns of each group as lists of text."""

  @jax.jit
  def make(group, i_N):
    return jax.vmap(lambda i: forms.pattern(3, group, i))(i_N)

  size = int(forms.counts.max())
  out = {}
  for g, group in enumerate(groups(forms.length)):
    own = np.asarray(make(jnp.int32(g), jnp.arange(size)))[: forms.counts[g]]
    key = (group.k, DOMAINS[group.domain])
    out[key] = [''.join(chr(97 + n) for n in row) for row in own]
  return out


@pytest.mark.parametrize(('length', 'letters'), [(4, 'abcde'), (6, 'abc'), (12, 'ab')])
def test_groups_hold_every_string_once(length, letters):
  found = every_pattern(Forms(length, len(letters)))
  expected = oracle_semantics.groups(letters, length)
  assert {key: len(own) for key, own in found.items() if own} == {
    key: len(own) for key, own in expected.items()
  }
  assert {key: set(own) for key, own in found.items() if own} == expected


def test_long_blocks_are_indexed_in_part_and_keep_their_form():
  forms = Forms(12, 3, indexed=30)
  found = every_pattern(forms)
  assert forms.digits == 3
  exact = {key: len(own) for key, own in oracle_semantics.groups('abc', 12).items()}
  for (k, name), own in found.items():
    assert len(set(own)) == len(own)
    if 12 // k <= 3:
      assert len(own) == exact.get((k, name), 0)
    else:
      assert 20 < len(own) <= 27
    assert all(oracle_semantics.has_form(text, name, k) for text in own)


def test_long_blocks_differ_in_every_letter():
  # The letters that do not vary at first are mixed as well.
  found = every_pattern(Forms(12, 3, indexed=30))[1, 'unconstrained']
  assert all(len(set(letters)) == 3 for letters in zip(*found, strict=True))


def test_whole_parts_are_distinct_and_disjoint():
  strings, total = {}, 0
  for name, part in (('train', Part.TRAIN), ('dev', Part.DEV), ('test', Part.TEST)):
    own = listed(SPACE, name, SPACE.capacity(part))
    xs, ys, _ = zip(*own, strict=True)
    assert len(set(xs)) == len(xs) == SPACE.capacity(part) > 4
    assert len(set(ys)) == len(ys)
    assert all(x != y for x, y, _ in own)
    strings[name] = set(xs) | set(ys)
    total += len(strings[name])
  assert len(set.union(*strings.values())) == total


@pytest.mark.parametrize('name', RANGES)
def test_training_has_the_classes_and_ks_of_its_setting(name):
  own = setting(name)
  task = dataclasses.replace(TASK, **RANGES[name])
  rules = listed(SPACE, 'train', SPACE.capacity(Part.TRAIN, own), own)
  allowed = {
    (k, one)
    for k in (3, 6)
    for one in task.classes.split('+')
    if task.k_min <= k <= task.k_max
  } | ({(6, 'repeat')} if task.k_max == 6 else set())
  for x, y, group in rules:
    told = (group.k, DOMAINS[group.domain])
    assert told in allowed
    for text in (x, y):
      assert oracle_semantics.has_form(text, told[1], told[0])
  # All of them are used, save those that own no pattern: with k = 6 there is one
  # letter, whatever the class.
  assert {(g.k, DOMAINS[g.domain]) for *_, g in rules} == {
    (k, one) for k, one in allowed if k < 6 or one == 'repeat'
  }


@pytest.mark.parametrize('count', [17, 41])
def test_groups_take_turns_until_they_are_used_up(count):
  sizes = SPACE.interval(Part.TRAIN)[1]
  own = setting('all, 3-6')
  supplies = {
    g: int(n)
    for g, n, used in zip(groups(6), sizes, own['groups'], strict=True)
    if used
  }
  rules = listed(SPACE, 'train', count, own)
  given = oracle_semantics.turns(supplies, count)
  assert collections.Counter(g for *_, g in rules) == {
    g: n for g, n in given.items() if n
  }
  assert SPACE.capacity(Part.TRAIN, own) == sum(supplies.values())


def test_sets_of_rules_are_nested_and_depend_on_the_seed():
  own = setting('two, 3-6')
  more = listed(SPACE, 'train', 23, own)
  assert listed(SPACE, 'train', 11, own) == more[:11]
  assert listed(SPACE, 'train', 11, own, seed=1) != more[:11]


def test_pairs_allow_more_rules_than_strings():
  own = setting('all, 3-6')
  assert PAIRS.capacity(Part.TRAIN, own) > 10 * SPACE.capacity(Part.TRAIN, own)
  rules = listed(PAIRS, 'train', PAIRS.capacity(Part.TRAIN, own), own)
  assert len(set(rules)) == len(rules)
  assert all(x != y for x, y, _ in rules)
  assert PAIRS.capacity(Part.TRAIN, own) == SPACE.pair_capacity()


def test_rules_beyond_the_capacity_are_new_pairs():
  own = setting('letters')
  capacity = SPACE.capacity(Part.TRAIN, own)
  rules = listed(SPACE, 'train', 2 * capacity, own)
  assert len(set(rules)) == 2 * capacity
  assert all(x != y for x, y, _ in rules)


def test_few_rules_share_no_string():
  rules = listed(SPACE, 'test', SPACE.capacity(Part.TEST) // 2)
  strings = [text for x, y, _ in rules for text in (x, y)]
  assert len(set(strings)) > 0.95 * len(strings)


def test_one_program_serves_every_variant():
  statics = {dataclasses.replace(TASK, **v).static() for v in RANGES.values()}
  assert len(statics) == 1
  assert len({t.space(RulesConfig()) for t in statics}) == 1
  traces = []

  @jax.jit
  def rule(own, i):
    traces.append(0)
    return SPACE.rule(0, Part.TRAIN, i, own)

  ks = [int(rule(setting(name), 5).k) for name in RANGES]
  assert len(traces) == 1
  assert set(ks) == {3, 6}


class Telling(SemanticSpace):
  """Tells which groups a rule is picked from."""

  def pick(self, seed, part, i, own_G):
    return [g.text for g, own in zip(groups(6), own_G, strict=True) if own]


def test_parts_and_cells_are_picked_from_their_groups():
  own, space = setting('repeat, 3'), Telling(6, 5)
  small = ['repeat k=2', 'periodic k=2', 'mirror k=2', 'unconstrained k=1']
  for part, cell, expected in (
    (Part.TRAIN, '', ['repeat k=3']),
    (Part.DEV, '', ['repeat k=3']),
    (Part.TEST, '', small),
    (Part.TEST, 'in_range', ['repeat k=3']),
    (Part.DEV, 'small_k', small),
  ):
    assert space.capacity(part, own, cell) > 1
    if not cell:
      assert space.rule(0, part, 0, own) == expected
    else:
      found, exists = space.cell_rule(0, part, cell, 0, 7, own)
      assert found == expected
      assert exists
  with pytest.raises(ValueError, match='in_range, small_k'):
    space.cell_rule(0, Part.TEST, 'newx_newy', 0, 7)


def test_cell_without_patterns_does_not_exist():
  # Five patterns of one letter, of which one is a test pattern.
  own = setting('letters')
  assert SPACE.capacity(Part.TEST, own, 'in_range') == 0
  assert not Telling(6, 5).cell_rule(0, Part.TEST, 'in_range', 0, 7, own)[1]


def test_certificate_counts_and_holds():
  own = setting('two, 3-6')
  report = SPACE.certify(0, 23, 11, own)
  assert broken(report) == []
  train = report['parts']['train']
  assert train['rules'] == train['distinct_x'] == train['distinct_y'] == 23
  assert sum(train['groups'].values()) == 23
  assert list(train['groups'])[-1] == 'repeat k=6'
  assert train['capacity'] == SPACE.capacity(Part.TRAIN, own)
  assert report['parts']['test']['groups'] == {
    'unconstrained k=1': 2,
    'repeat k=2': 3,
    'periodic k=2': 3,
    'mirror k=2': 3,
  }
  assert SPACE.certify(0, 23, 11, own) == report
  assert len(report['collisions']) == 5 + 10


class Leaking(SemanticSpace):
  """Every part has the training strings, and claims to be periodic."""

  def interval(self, part):
    return super().interval(Part.TRAIN)

  def pick(self, seed, part, i, own_G):
    return super().pick(seed, part, i, own_G)._replace(domain=jnp.int32(2))


def test_certificate_finds_what_is_wrong():
  report = Leaking(6, 5).certify(0, 23, 11)
  wrong = broken(report)
  assert any(line.startswith('train-dev: ') for line in wrong)
  assert any(line.startswith('test: rules of another k') for line in wrong)


def check(task, count, seed=0):
  """Every example equals the oracle; returns how many there are of each group."""
  space = task.space(RulesConfig())
  own = task.setting(count)

  groups_G = jnp.stack([jnp.asarray(space.groups(part, own)) for part in Part])

  @jax.jit
  def make(part, start):
    i = start + jnp.arange(1000, dtype=jnp.int32)

    def one(i):
      key = jax.random.fold_in(jax.random.key(seed), i)
      return task.example(space.pick(seed, part, i, groups_G[part]), key)

    return jax.vmap(one)(i)

  found = collections.Counter()
  for start in range(0, count, 1000):
    for part in Part:
      examples = jax.device_get(make(int(part), start))
      for b in range(1000):
        example = jax.tree.map(lambda v, b=b: v[b], examples)
        found[part, check_one(task, example)] += 1
  return found


def check_one(task, example):
  row = example.tokens_L.tolist()
  parts = oracle.parse(row, task.order)
  x, y, z, out = parts['x'], parts['y'], parts['z'], parts['out']
  assert out == oracle.rewrite(x, y, z)
  assert len(x) == len(y) == task.pattern_length
  assert len(z) == task.input_length
  assert x in z
  assert x != y
  k, name = int(example.slices['k']), DOMAINS[example.slices['domain']]
  assert oracle_semantics.has_form(x, name, k)
  assert oracle_semantics.has_form(y, name, k)
  assert example.slices['occurrences'] == oracle.occurrences(x, z)
  start, length = int(example.answer_start), int(example.answer_len)
  assert start == 2 * len(x) + len(z) + 3
  assert length == len(out) + 1 == task.answer_length
  assert start + length == len(row) == task.sequence_length
  at = z.find(x)
  assert set(np.flatnonzero(example.inserted_A)) == set(range(at, at + len(y)))
  return k


TASKS = {
  'toy': TASK,
  'binary': Semantics(
    alphabet=2, pattern_length=24, input_length=29, classes='periodic', order='zxy'
  ),
  'cpu': Semantics(),
  'part': Semantics(alphabet=7, pattern_length=20, input_length=23, k_max=5),
}


@pytest.mark.parametrize(
  'name', ['toy', 'cpu', pytest.param('binary', marks=pytest.mark.slow)]
)
def test_examples_equal_the_oracle(name):
  found = check(TASKS[name], 1000)
  for (part, k), count in found.items():
    assert (k < 3) == (part == Part.TEST)
    assert count > 0


@pytest.mark.slow
@pytest.mark.parametrize('name', TASKS)
def test_a_hundred_thousand_examples_equal_the_oracle(name):
  check(TASKS[name], 9000, seed=5)


def test_shown_rule_changes_the_prompt_only():
  @jax.jit
  def make():
    both = jax.vmap(lambda i: SPACE.rule(0, Part.TEST, i))(jnp.array([3, 4]))
    rule, other = (jax.tree.map(lambda v, n=n: v[n], both) for n in range(2))
    key = jax.random.key(0)
    lying = TASK.example(rule, key, shown=SPACE.lend(rule, other))
    mask_L = TASK.instruction_mask(lying)
    return TASK.example(rule, key), lying, mask_L

  plain, lying, mask_L = jax.device_get(make())
  a, b = (oracle.parse(e.tokens_L.tolist()) for e in (plain, lying))
  assert a['y'] != b['y']
  assert {**a, 'y': ''} == {**b, 'y': ''}
  assert mask_L.tolist() == [n < 13 and n != 6 for n in range(TASK.sequence_length)]
  fields = TASK.fields(lying.tokens_L[: lying.answer_start])
  assert {name: ''.join(chr(97 + n) for n in v) for name, v in fields.items()} == {
    'input': b['z'],
    'lhs': b['x'],
    'rhs': b['y'],
  }


def test_evaluated_sets_know_their_cells_and_kinds():
  sets = TASK.eval_sets(50, 10)
  assert [(s.split, s.cell) for s in sets] == [
    ('unseen', ''),
    ('dev', ''),
    ('unseen', 'in_range'),
    ('dev', 'small_k'),
    ('seen', ''),
    ('train', ''),
  ]
  assert {s.split for s in TASK.eval_sets(50, 0) if s.label} == set()
  assert TASK.kind(sets[0].kind, jnp.arange(3)).tolist() == [0, 0, 0]


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'alphabet': 1}, 'task.alphabet=1 is below 2'),
    ({'k_min': 2}, 'task.k_min=2 is below 3'),
    ({'pattern_length': 25}, 'does not fit into task.input_length=24'),
    ({'classes': 'repeat+repeat'}, 'joined by +'),
    ({'classes': 'cyclic'}, "task.classes='cyclic' is not some of repeat"),
    ({'k_min': 7, 'k_max': 11}, 'holds no divisor of task.pattern_length=12'),
    ({'order': 'xzy'}, 'task.order'),
  ],
)
def test_settings_that_cannot_work_are_refused(changes, message):
  with pytest.raises(ValueError, match=re.escape(message)):
    SemanticsSettings(**changes)
