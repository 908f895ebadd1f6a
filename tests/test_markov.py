import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import oracle_markov as oracle
import pytest
from jax.sharding import PartitionSpec as P

from onlyif_jax.config import ConfigError, base_config, freeze
from onlyif_jax.experiment import build
from onlyif_jax.settings import RulesConfig
from onlyif_jax.tasks import certificate, program_space, programs
from onlyif_jax.tasks.markov import MAX_STEPS_SLICE, Markov
from onlyif_jax.tasks.programs import GAP, Program, double_and_reverse, trace
from onlyif_jax.tasks.rules import Part

ROUND = 2000
# Two sides of different lengths, runs that often outgrow the text or never end.
TASKS = {
  'final': Markov(
    alphabet=3, rules=5, lhs_max=3, rhs_max=4, input_min=2, input_max=7,
    text_length=11, steps=13, answer='final',
  ),
  'step': Markov(alphabet=7, answer='step'),  # the defaults with another letter
  'trace': Markov(
    alphabet=5, rules=3, lhs_min=2, lhs_max=3, rhs_max=2, input_min=6, input_max=7,
    text_length=11, steps=5, answer='trace', held_out='programs',
  ),
}  # fmt: skip


def space_of(task):
  return task.space(RulesConfig())


@functools.cache
def maker(name):
  task, space = TASKS[name], space_of(TASKS[name])

  def one(seed, i):
    program, choice = space.choose(seed, Part.TRAIN, i)
    lent = space.lend(program, jax.tree.map(lambda v: jnp.roll(v, 1, 0), program))
    shown = jax.tree.map(lambda a, b: jnp.where(lies(i), a, b), lent, program)
    key = jax.random.fold_in(jax.random.key(seed), i)
    return task.example(program, key, shown=shown), program, choice

  return jax.jit(
    lambda seed, start: jax.vmap(one, (None, 0))(seed, start + jnp.arange(ROUND))
  )


def lies(i):
  """Whether the prompt of example i states the rules with each other's sides."""
  return i % 20 == 19


@functools.cache
def made(name, seed=0, start=0):
  return jax.device_get(maker(name)(seed, start))


def check(name, count, seed=0):
  task = TASKS[name]
  for start in range(0, count, ROUND):
    examples, program, choices = made(name, seed, start)
    for b, rules in enumerate(rules_of(program)):
      example = jax.tree.map(lambda v, b=b: v[b], examples)
      shown = check_one(task, example, rules)
      sides = [rhs for _, rhs, _ in (rules[-1:] + rules[:-1])]
      lent = [(x, y, stop) for (x, _, stop), y in zip(rules, sides, strict=True)]
      assert shown == (lent if lies(start + b) else rules)
      if choices.fallback[b]:
        assert all(stop for _, _, stop in rules)
      else:
        assert not oracle.shadowed(rules)


def rules_of(programs):
  """Stacked programs -> each as [(lhs, rhs, stop)]."""
  p, letters = jax.device_get(programs), 'abcdefg'.__getitem__

  def texts(letters_BNP, lengths_BN):
    return [
      [''.join(map(letters, row[:n])) for row, n in zip(rows, lengths, strict=True)]
      for rows, lengths in zip(letters_BNP, lengths_BN, strict=True)
    ]

  sides = texts(p.lhs_NP, p.lhs_len_N), texts(p.rhs_NQ, p.rhs_len_N), p.stop_N.tolist()
  return [list(zip(*one, strict=True)) for one in zip(*sides, strict=True)]


def check_one(task, example, rules):
  row = example.tokens_L.tolist()
  shown, text, out = oracle.parse(row, task.rules)
  done = oracle.run(rules, text, task.steps, task.text_length)
  assert done.halted
  want, inserted = oracle.answer(task.answer, text, done)
  assert out == want
  assert set(np.flatnonzero(example.inserted_A)) == inserted
  assert text == '' or task.input_min <= len(text) <= task.input_max
  start, length = int(example.answer_start), int(example.answer_len)
  assert row[start - 1] == 2
  assert start + length == row.index(1) + 1
  assert length == len(out) + 1
  assert example.slices == {
    'steps': min(len(done.texts), MAX_STEPS_SLICE),
    'rules_used': len(done.used),
    'stop': done.stopped,
    'length': len(text),
  }
  return shown


QUICK = [
  pytest.param(name, marks=pytest.mark.slow) if name == 'trace' else name
  for name in TASKS
]


@pytest.mark.parametrize('name', QUICK)
def test_examples_equal_the_oracle(name):
  check(name, ROUND)


@pytest.mark.slow
@pytest.mark.parametrize('name', TASKS)
def test_many_examples_equal_the_oracle(name):
  check(name, 34_000, seed=5)


def random_programs(count, seed=0):
  """Programs that no space would choose: empty sides, loops, growth."""
  rng = np.random.default_rng(seed)
  n, p, q = 5, 3, 4
  lhs_len, rhs_len = (
    rng.integers(0, p + 1, (count, n)),
    rng.integers(0, q + 1, (count, n)),
  )
  lhs_len = np.where(rng.random((count, n)) < 0.9, np.maximum(lhs_len, 1), lhs_len)
  live = (np.arange(w) < v[..., None] for w, v in ((p, lhs_len), (q, rhs_len)))
  lhs, rhs = (rng.integers(0, 3, m.shape) * m for m in live)
  stop = rng.random((count, n)) < 0.2
  length = rng.integers(0, 12, count)
  text = np.where(np.arange(13) < length[:, None], rng.integers(0, 3, (count, 13)), GAP)
  ints = [np.asarray(v, np.int32) for v in (lhs, lhs_len, rhs, rhs_len)]
  return Program(*ints, stop), text.astype(np.int32), length.astype(np.int32)


RUN = jax.jit(jax.vmap(functools.partial(programs.run, steps=11)))


def check_runs(count, seed):
  program, text, length = random_programs(count, seed)
  done = jax.device_get(RUN(program, text, length))
  letters = functools.partial(np.take, np.array(list('abc')))
  halted = 0
  for b, rules in enumerate(rules_of(program)):
    want = oracle.run(rules, ''.join(letters(text[b, : length[b]])), 11, 13)
    halted += want.halted
    assert done.halted[b] == want.halted
    got = [
      ''.join(letters(done.texts_TL[b, t, : done.lengths_T[b, t]]))
      for t in np.flatnonzero(done.live_T[b])
    ]
    assert got == want.texts
    if want.halted:
      assert done.end.stopped[b] == want.stopped
      assert set(np.flatnonzero(done.end.used_N[b])) == want.used
  assert 0.2 < halted / count < 0.8  # both outcomes are tested


def test_runs_equal_the_oracle_whether_they_halt_or_not():
  check_runs(6000, 0)


@pytest.mark.slow
def test_many_runs_equal_the_oracle():
  for seed in range(1, 18):
    check_runs(6000, seed)


def test_double_and_reverse():
  program = programs.parse(double_and_reverse('abc'))
  words = [''.join(w) for n in (0, 1, 2, 3) for w in itertools.product('abc', repeat=n)]
  texts = [[*map('abc'.index, w), *[GAP] * (13 - len(w))] for w in words]
  run = jax.vmap(functools.partial(programs.run, steps=17), (None, 0, 0))
  lengths = np.array([len(w) for w in words], np.int32)
  done = jax.device_get(jax.jit(run)(program, np.array(texts, np.int32), lengths))
  assert done.halted.all()
  assert done.end.stopped.all()
  for word, row, n in zip(words, done.end.text_L, done.end.length, strict=True):
    assert ''.join('abc'[k] for k in row[:n]) == word + word[::-1]
  assert done.end.steps[words.index('abb')] == 11
  assert done.end.steps[words.index('ab')] == 7


def test_a_trace_that_does_not_end_is_refused():
  with pytest.raises(ValueError, match=r"'a -> aa' does not halt on 'a' within 12"):
    trace('a', 'a -> aa')


@pytest.mark.parametrize('name', ['final', 'step'])
def test_every_body_belongs_to_exactly_one_part(name):
  task = TASKS[name]
  parts = [program_space._all_bodies(space_of(task), 3, part) for part in Part]
  listed = [body.decode() for own in parts for body in own]
  letters = task.symbols

  def strings(low, high):
    for n in range(low, high + 1):
      yield from map(''.join, itertools.product(letters, repeat=n))

  lhs, rhs = strings(task.lhs_min, task.lhs_max), list(strings(0, task.rhs_max))
  everything = {f'{x}>{y}' for x in lhs for y in rhs if x != y}
  assert len(listed) == len(set(listed))
  assert set(listed) <= everything
  if task.lhs_max <= task.rhs_max:
    assert set(listed) == everything
  sizes = np.array([len(own) for own in parts]) / len(listed)
  np.testing.assert_allclose(sizes, (0.7, 0.1, 0.2), atol=0.01)


@functools.cache
def report(name):
  return space_of(TASKS[name]).certify(0, 3001, 499)


@pytest.mark.parametrize(
  'name', ['step', pytest.param('trace', marks=pytest.mark.slow)]
)
def test_certificate_holds(name):
  found = report(name)
  assert certificate.broken(found) == []
  assert found['parts']['train']['rules'] == 3001
  assert found['parts']['test']['rules'] == 499
  assert set(found['collisions'].values()) == {0}
  assert ('in a training program' in found['relation']) == (name != 'trace')


def test_certificate_finds_shared_rules(monkeypatch):
  bodies = program_space._all_bodies(space_of(TASKS['step']), 0, Part.TRAIN)
  lists = {Part.TRAIN: bodies[:500], Part.DEV: bodies[499:], Part.TEST: bodies[600:]}
  monkeypatch.setattr(program_space, '_all_bodies', lambda *args: lists[args[2]])
  monkeypatch.setattr(program_space, 'measure', lambda space, seed: {})
  found = space_of(TASKS['step']).certify(0, 59, 53)
  assert found['collisions']['train-dev'] == 1
  assert found['collisions']['train-test'] == 0
  assert found['collisions']['dev-test'] == len(bodies) - 600
  assert found['collisions']['foreign'] > 0
  assert len(certificate.broken(found)) == 3


def test_shares_are_those_of_the_oracle():
  examples, program, choices = made('step')
  texts = [oracle.parse(row, 3)[1] for row in examples.tokens_L.tolist()]
  both = zip(rules_of(program), texts, strict=True)
  runs = [oracle.run(rules, text, 12, 12) for rules, text in both]
  shares = {
    'trivial': [not run.texts for run in runs],
    'stopped': [run.stopped for run in runs],
    'empty': [run.texts[-1:] == [''] for run in runs],
  }
  found = report('step')['distribution']
  assert found['measured'] == 2048
  for name, hits in shares.items():
    assert abs(found['runs'][name] - np.mean(hits)) < 0.03, name
  for n in range(5):
    share = np.mean([len(run.texts) == n for run in runs])
    assert abs(found['steps'][str(n)] - share) < 0.04
  assert abs(found['programs']['non_halting'] - (~choices.halts).mean()) < 0.03
  assert abs(sum(found['steps'].values()) - 1) < 0.01


def test_half_of_the_runs_take_several_steps():
  found = report('step')['distribution']
  assert found['steps']['0'] + found['steps']['1'] < 0.53
  assert 0.05 < found['runs']['trivial'] < 0.15
  assert 0.03 < found['programs']['non_halting'] < 0.15
  assert found['programs']['fallback'] < 0.01
  assert found['runs']['fallback'] < 0.001


def test_programs_that_would_not_do_are_passed_over():
  _, _, choices = made('final')
  first = choices.halts & ~choices.shadowed
  assert 0.05 < first.mean() < 0.9
  assert (choices.fallback <= ~first).all()
  assert choices.fallback.mean() < (~first).mean()


def test_instruction_mask_hides_the_rules_alone():
  task = TASKS['step']
  examples, _, _ = made('step')
  mask = np.asarray(task.instruction_mask(examples))
  for row, hidden in zip(examples.tokens_L.tolist()[:300], mask[:300], strict=True):
    at = [n for n, t in enumerate(row) if t == 2][2]  # the end of the last rule
    want = [n < at and t != 2 for n, t in enumerate(row)]
    assert hidden.tolist() == want


def test_fields_are_the_parts_of_a_prompt():
  task = TASKS['step']
  examples, _, _ = made('step')
  for row, start in zip(examples.tokens_L[:100], examples.answer_start, strict=False):
    fields = task.fields(row[:start])
    rules, text, _ = oracle.parse(row.tolist(), 3)
    want = {'input': text}
    for n, (lhs, rhs, _) in enumerate(rules, 1):
      want |= {f'lhs_{n}': lhs, f'rhs_{n}': rhs}
    assert {k: ''.join(task.symbols[n] for n in v) for k, v in fields.items()} == want
  hidden = task.fields([3, 3, 2, 6, 2])
  assert hidden == {'input': [0], 'lhs_1': [-3, -3], 'rhs_1': []}


@pytest.mark.slow
def test_cell_has_new_programs_of_seen_rules():
  space, count = space_of(TASKS['step']), 37
  cell = functools.partial(space.cell_rule, 0, Part.TEST, 'seen_rules')
  many = jax.jit(jax.vmap(cell, (0, None)))
  own = jax.tree.map(lambda v: v[:count], made('step')[1])
  trained = [tuple(r[:2] for r in rules) for rules in rules_of(own)]
  met = [{row[n] for row in trained} for n in range(3)]
  mixed, exists = many(jnp.arange(4 * count), count)
  for rules, there in zip(rules_of(mixed), exists, strict=True):
    row = tuple(r[:2] for r in rules)
    assert all(body in met[n] for n, body in enumerate(row))
    assert not there or row not in trained
  assert np.asarray(exists).mean() > 0.5
  assert not many(jnp.arange(4 * count), 1)[1].any()  # the one program is trained


def test_runs_are_equal_on_a_mesh():
  mesh = jax.make_mesh((8,), ('data',), axis_types=(jax.sharding.AxisType.Auto,))
  program, text, length = random_programs(16)
  one = jax.tree.map(lambda v: v[0], program)
  run = jax.vmap(functools.partial(programs.run, steps=11), (None, 0, 0))
  specs = (P(), P('data'), P('data'))
  sharded = jax.shard_map(run, mesh=mesh, in_specs=specs, out_specs=P('data'))
  got = jax.device_get(jax.jit(sharded)(one, text, length))
  same = jax.tree.map(lambda v: np.stack([v[0]] * 6000), program)
  _, texts, lengths = random_programs(6000)
  texts[:16], lengths[:16] = text, length
  want = jax.device_get(RUN(same, texts, lengths))
  jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b[:16]), got, want)


def config(**task):
  c = base_config('markov')
  for name, value in task.items():
    c.task[name] = value
  c.sweep.counts = (7,)
  return c


@pytest.mark.parametrize(
  ('settings', 'message'),
  [
    ({'lhs_min': 0}, 'task.lhs_min=0 is below 1; give 1 or more'),
    ({'rhs_min': 3}, 'task.rhs_min=3 is above task.rhs_max=2'),
    ({'text_length': 8}, 'task.text_length=8 does not hold .* give 9 or more'),
    ({'answer': 'last'}, "task.answer='last' is not one of step, final, trace"),
    ({'held_out': 'none'}, "task.held_out='none' is not one of rules, programs"),
    ({'stop_share': 1.5}, 'task.stop_share=1.5 is not a share'),
    ({'alphabet': 26, 'lhs_max': 5}, 'has .* rules, more than .*; lower task.lhs_max'),
  ],
)
def test_settings_that_cannot_work_are_refused(settings, message):
  with pytest.raises(ConfigError, match=message):
    build(freeze(config(**settings)))


def test_more_programs_than_there_are_are_refused():
  c = config(alphabet=3, rules=1)
  # 12 left-hand sides, 13 right-hand sides less one, a part of .7, four tries each.
  c.sweep.counts = ((12 * 12 - 14 - 29) // 4,)
  build(freeze(c))
  c.sweep.counts = (c.sweep.counts[0] + 1,)
  with pytest.raises(ConfigError, match=r'1 rules with .lhs.=1-2, .* over 3 letters'):
    build(freeze(c))
