import dataclasses
import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import oracle_algebra as oracle
import pytest

from onlyif_jax.settings import RulesConfig
from onlyif_jax.tasks import expressions, templates, tokens
from onlyif_jax.tasks.algebra import Algebra
from onlyif_jax.tasks.rules import Part

TASKS = {
  'random': Algebra(depth=2, slot_min=0, slot_max=1, slot_test=2),
  'identities': Algebra(source='identities', depth=1, slot_max=2, slot_test=3),
  'full': Algebra(depth=3, functions=1, slot_shape='full'),
}
CHUNK = 1000
MIXED = {'specialist': 11}  # in-domain rules of the examples below


@functools.cache
def space_of(name):
  return TASKS[name].space(RulesConfig())


@functools.cache
def program(name):
  """(seed, start, shift) -> examples of both kinds, and each one's rule.

  With a shift their prompts state the right side of a later rule.
  """
  task, space = TASKS[name], space_of(name)

  @jax.jit
  def make(seed, start, shift):
    def one(i):
      index = i % space.capacity()
      pair = jnp.stack([index, (index + shift) % space.capacity()])
      both = jax.vmap(lambda n: space.rule(seed, Part.TRAIN, n, MIXED))(pair)
      rule, other = (jax.tree.map(lambda v, k=k: v[k], both) for k in range(2))
      key = jax.random.fold_in(jax.random.key(seed), i)
      return task.example(
        rule, key, kind=i % 2, shown=space.lend(rule, other), setting=MIXED
      ), rule

    return jax.vmap(one)(start + jnp.arange(CHUNK, dtype=jnp.int32))

  return lambda *at: jax.device_get(make(*map(jnp.int32, at)))


@functools.cache
def made(name, seed=0, start=0, shift=0):
  return program(name)(seed, start, shift)


def row_of(batch, b):
  return jax.tree.map(lambda v: v[b], batch)


def check_one(task, example, b) -> bool:
  """Compares with the oracle; whether another place could be rewritten too."""
  row = example.tokens_L.tolist()
  lhs, rhs, before, after = oracle.parse_row(row)
  left, right, tree = map(oracle.parse, (lhs, rhs, before))
  slices = {k: int(v) for k, v in example.slices.items()}
  turns = [slices['place'] >> k & 1 for k in reversed(range(task.depth))]
  path = tuple(1 + turn for turn in turns)
  here = [r for r in oracle.rewrites(left, right, tree) if r[1] == path]
  assert len(here) == 1
  new, _, slots = here[0]
  assert after == oracle.render(new)
  check_trees(task, tree, path, slots, slices['slot_depth'])
  low, high = (task.slot_min, task.slot_max) if b % 2 == 0 else [task.slot_test] * 2
  assert low <= slices['slot_depth'] <= high
  # The answer and what the rule inserted.
  start, length = int(example.answer_start), int(example.answer_len)
  assert row[start - 1] == 2
  assert start + length == row.index(1) + 1
  assert length == len(after) + 1 <= task.answer_length == len(example.inserted_A)
  first = oracle.start(new, path)
  inserted = range(first, first + len(oracle.render(oracle.put(right, slots))))
  assert np.flatnonzero(example.inserted_A).tolist() == list(inserted)
  return len({oracle.render(r[0]) for r in oracle.rewrites(left, right, tree)}) > 1


def check_trees(task, tree, path, slots, slot_depth):
  """The input is a full tree above its leaves, and slots hold trees of one depth."""
  for leaf in itertools.product((1, 2), repeat=task.depth):
    node = tree
    for turn in leaf:
      assert len(node) == 3
      node = node[turn]
    assert leaf == path or (oracle.depth(node) == 0 and oracle.functions(node) <= 1)
  most = slot_depth if task.slot_shape == 'chain' else 2**slot_depth - 1
  for value in slots.values():
    assert oracle.depth(value) == slot_depth
    assert oracle.operators(value) == most
    assert oracle.functions(value) == 0


def check(name, count, seed=0):
  """Every example equals the oracle; the share with more than one place."""
  several = 0
  for start in range(0, count, CHUNK):
    examples, _ = program(name)(seed, start, 0)
    for b in range(CHUNK):
      several += check_one(TASKS[name], row_of(examples, b), b)
  return several / count


# The share of inputs of which another part matches the left side by chance too.
AMBIGUOUS = {'random': 0.01, 'identities': 0.03, 'full': 0.01}


QUICK = [
  pytest.param(name, marks=pytest.mark.slow) if name == 'full' else name
  for name in TASKS
]


@pytest.mark.parametrize('name', QUICK)
def test_examples_equal_the_oracle(name):
  assert check(name, CHUNK) < AMBIGUOUS[name]


@pytest.mark.slow
@pytest.mark.parametrize('name', TASKS)
def test_a_hundred_thousand_examples_equal_the_oracle(name):
  assert check(name, 34_000, seed=5) < AMBIGUOUS[name]


@pytest.mark.parametrize('name', QUICK)
def test_sequences_stay_within_their_bound_and_reach_it(name):
  task, longest = TASKS[name], 0
  for seed in (0, 3):
    examples, _ = made(name, seed=seed, start=0)
    ends = examples.answer_start + examples.answer_len
    assert examples.tokens_L.shape[1] == task.sequence_length
    assert (examples.tokens_L == tokens.EOS).sum(1).tolist() == [1] * CHUNK
    longest = max(longest, ends.max())
  assert task.sequence_length - 6 <= longest <= task.sequence_length


def test_cpu_sequences_stay_within_160():
  for source in ('random', 'identities'):
    assert Algebra(source=source, depth=2, slot_test=2).sequence_length <= 160


def test_places_and_symbols_are_even():
  examples, _ = made('random', seed=3)
  counts = np.bincount(examples.slices['place'], minlength=4)
  assert ((counts - CHUNK / 4) ** 2 / (CHUNK / 4)).sum() < 20  # 3 d.o.f.
  counts = np.bincount(examples.tokens_L.ravel() - tokens.PAD)[tokens.FIRST_LETTER :]
  atoms = counts[1:16]  # digits 1..9 and u..z
  assert ((atoms - atoms.mean()) ** 2 / atoms.mean()).sum() < 400  # repeats weigh


def test_shown_rule_changes_the_prompt_only():
  plain, _ = made('random')
  lying, _ = made('random', shift=1)
  for b in range(20):
    a, c = (oracle.parse_row(row_of(e, b).tokens_L.tolist()) for e in (plain, lying))
    assert a[1] != c[1]
    assert (a[0], *a[2:]) == (c[0], *c[2:])
    later = oracle.parse_row(row_of(plain, b + 1).tokens_L.tolist())
    assert c[1] == later[1]


def test_instruction_mask_covers_both_sides_and_nothing_else():
  task, (examples, _) = TASKS['random'], made('random')
  mask_BL = np.asarray(task.instruction_mask(examples))
  for b in range(20):
    lhs, rhs, *_ = oracle.parse_row(row_of(examples, b).tokens_L.tolist())
    wanted = [*range(len(lhs)), *range(len(lhs) + 1, len(lhs) + 1 + len(rhs))]
    assert np.flatnonzero(mask_BL[b]).tolist() == wanted


def test_fields_are_the_parts_of_the_prompt():
  task, (examples, _) = TASKS['identities'], made('identities')
  example = row_of(examples, 7)
  fields = task.fields(example.tokens_L[: example.answer_start])
  texts = {k: ''.join(task.symbols[n] for n in v) for k, v in fields.items()}
  lhs, rhs, before, _ = oracle.parse_row(example.tokens_L.tolist())
  assert texts == {'lhs': lhs, 'rhs': rhs, 'input': before}


def test_symbols_are_one_character_for_each_letter():
  task = TASKS['random']
  assert task.symbols == oracle.SYMBOLS
  assert len(set(task.symbols)) == task.vocab_size - tokens.FIRST_LETTER


# Rules.


def brute_force_classes(functions: int, leaves=('AAB', 'ABA', 'BAA')) -> set[str]:
  """Classes of all templates of two operators, these leaves in order, functions."""
  out = set()
  for slots in leaves:
    for f in itertools.product(['', *'nscleq'], repeat=5):
      if sum(map(bool, f)) > functions:
        continue
      p, q, r = (a + b for a, b in zip(f[2:], slots, strict=True))
      for o, i in itertools.product('+-*/^', repeat=2):
        inner = f'{f[1]}({p}{i}{q})'
        for pair in ((inner, r), (r, inner)):
          out.add(oracle.class_of(f'{f[0]}({pair[0]}{o}{pair[1]})'))
  return out


@pytest.mark.parametrize('slots', [1, 2])
def test_random_templates_are_all_classes_once(slots):
  numbers = templates.random_classes(1, slots)
  surface = jax.jit(
    jax.vmap(lambda n, b: expressions.write(templates._template(n, b), 10))
  )
  # Every class in each way of writing it: three bits.
  seen = []
  for bits in range(8):
    both = surface(jnp.asarray(numbers), jnp.full(len(numbers), bits, jnp.uint32))
    letters, lengths = jax.device_get(both)
    rows = zip(letters, lengths, strict=True)
    seen.append([''.join(oracle.SYMBOLS[c] for c in w[:n]) for w, n in rows])
  classes = [oracle.class_of(text) for text in seen[0]]
  assert len(set(classes)) == len(numbers)
  leaves = {1: {'leaves': ('AAA',)}, 2: {}}[slots]
  assert set(classes) == brute_force_classes(1, **leaves)
  for column in range(0, len(numbers), 7):
    ways = {row[column] for row in seen}
    assert {oracle.class_of(text) for text in ways} == {classes[column]}
  if slots == 1:
    return
  both_commute = classes.index(oracle.class_of('((A+B)*B)'))
  assert {row[both_commute] for row in seen} == {
    *('((A+B)*B)', '((B+A)*B)', '(B*(A+B))', '(B*(B+A))'),
    *('((B+A)*A)', '((A+B)*A)', '(A*(B+A))', '(A*(A+B))'),
  }


@pytest.mark.parametrize('slots', [1, 2])
def test_right_sides_have_only_slots_of_their_left_sides(slots):
  space = templates.EquationSpace(functions=1, slots=slots)
  for lhs, rhs in space.texts(2, Part.TRAIN, 97):
    names = [set(side) & set('ABC') for side in (lhs, rhs)]
    assert names[0] == names[1]
    assert len(names[0]) == slots


def test_canonical_equals_the_oracle():
  texts = [side for pair in space_of('full').texts(3, Part.TEST, 200) for side in pair]
  texts += ['(A-(B+C))', '(C-(A+B))', 's((C*B)+(A*sC))', '(B+A)', 'A']
  for text in texts:
    assert templates.canonical(text) == oracle.class_of(text)


def test_no_class_is_in_two_parts_and_rules_are_distinct():
  space = space_of('full')
  seen = {}
  for part in Part:
    pairs = space.texts(2, part, 250)
    sides = [[oracle.class_of(side) for side in pair] for pair in pairs]
    for column in zip(*sides, strict=True):
      assert len(set(column)) == 250
    assert all(a != b for a, b in sides)
    seen[part] = set(itertools.chain(*sides))
  for a, b in itertools.combinations(Part, 2):
    assert not seen[a] & seen[b]


def test_capacities_are_the_parts_and_their_ordered_pairs():
  space = space_of('full')
  sizes = [space.capacity(part) for part in Part]
  assert sum(sizes) == len(brute_force_classes(1))
  assert sizes[1:] == [round(0.1 * sum(sizes)), round(0.2 * sum(sizes))]
  assert space.pair_capacity(Part.DEV) == sizes[1] * (sizes[1] - 1)
  pairs = dataclasses.replace(space, distinct='pairs')
  assert pairs.capacity(Part.DEV) == space.pair_capacity(Part.DEV)
  identities = space_of('identities')
  assert sum(identities.capacity(part) for part in Part) == len(templates.identities())


def test_rules_of_all_pairs_are_distinct():
  small = templates.EquationSpace(functions=0, distinct='pairs')
  count = small.capacity(Part.DEV)
  texts = small.texts(0, Part.DEV, count)
  classes = {tuple(map(oracle.class_of, pair)) for pair in texts}
  assert len(classes) == count == math.perm(10, 2)


def test_identities_are_the_files_in_both_directions():
  space, parts = space_of('identities'), []
  file = set(templates.identities())
  for part in Part:
    parts += space.texts(4, part, space.capacity(part))
  straight = [pair for pair in parts if pair in file]
  turned = [(b, a) for a, b in parts if (b, a) in file]
  assert sorted(straight + turned) == sorted(file)
  assert min(len(straight), len(turned)) > 30


def test_certificate_holds_and_would_notice_a_shared_class():
  space = space_of('full')
  report = space.certify(0, 300, 100)
  assert set(report['collisions'].values()) == {0}
  assert [p['distinct_pairs'] for p in report['parts'].values()] == [300, 100, 100]
  assert report['parts']['test']['capacity'] == space.capacity(Part.TEST)

  @dataclasses.dataclass(frozen=True)
  class Shared(templates.EquationSpace):
    def interval(self, part):
      return super().interval(Part.TRAIN if part == Part.TEST else part)

  broken = Shared(functions=1).certify(0, 300, 100)['collisions']
  assert broken['train-test'] > 0 == broken['train-dev']


# Mixtures.
