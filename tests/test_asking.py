"""Typed questions: laid out as in training, and answered as the model would."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
import runs
from flax import nnx

from onlyif_jax import asking
from onlyif_jax import experiment as experiment_lib
from onlyif_jax.config import ConfigError
from onlyif_jax.evaluation import Restored, open_run
from onlyif_jax.tasks import tokens
from onlyif_jax.tasks.algebra import Algebra
from onlyif_jax.tasks.cipher import Cipher
from onlyif_jax.tasks.occurrences import Occurrences
from onlyif_jax.tasks.rewrite import Rewrite
from onlyif_jax.tasks.rules import Part
from onlyif_jax.tasks.semantics import Semantics
from onlyif_jax.workdir import Workdir

EOS, SEP, MASK, FIRST = 1, 2, 3, 6
SIZES = {'alphabet': 17, 'x_min': 2, 'x_max': 3, 'y_min': 1, 'y_max': 5}
TASKS = [
  Rewrite(**SIZES, input_length=11, noops=True, order='zxy'),
  Occurrences(**SIZES, input_length=13, matches=4, noops=True),
  Semantics(alphabet=7, pattern_length=6, input_length=11),
]
COUNT = 29


@pytest.mark.parametrize(
  'task',
  [
    pytest.param(task, marks=pytest.mark.slow) if task.name == 'occurrences' else task
    for task in TASKS
  ],
  ids=lambda task: task.name,
)
def test_a_typed_example_has_the_tokens_of_training(task):
  space = task.space(runs.toy_config().rules)
  setting = task.setting(COUNT)

  def one(i):
    rule = space.rule(0, Part.TRAIN, i, setting)
    return task.example(rule, jax.random.key(i), kind=i % 2, setting=setting)

  made = jax.device_get(jax.jit(jax.vmap(one))(jnp.arange(COUNT)))
  typed = [oracle.parse(row.tolist(), task.order) for row in made.tokens_L]
  if task.noops:
    assert {t['x'] in t['z'] for t in typed} == {True, False}
  asked = [asking.question(task, t['z'], t['x'], t['y']) for t in typed]
  rule_B, z_BZ = jax.tree.map(lambda *v: np.stack(v), *asked)
  own = jax.jit(jax.vmap(functools.partial(asking.example, task)))(rule_B, z_BZ)
  for name in ('tokens_L', 'answer_start', 'answer_len', 'inserted_A', 'prompt_hash_2'):
    assert (np.asarray(getattr(own, name)) == getattr(made, name)).all(), name


def random_run(path, patch, arg='counts=17', **settings):
  """A run of which every member has random parameters: (asker, run, params by name)."""
  config = runs.toy_config(arg, **settings)
  workdir = Workdir(path)
  workdir.create()
  workdir.write_json('config.json', dataclasses.asdict(config))
  names = [row.member for row in experiment_lib.rows(config)]
  event = {'event': 'planned', 'stack': '000', 'members': names}
  workdir.append_json('ledger.jsonl', event)
  run = open_run(path)
  params = {}

  def restore(run, wanted):
    for row in run.stacks[0][1]:
      if row.member in wanted:
        assert row.member not in params, 'each member is restored once'
        params[row.member] = random_params(run.experiment.sibling(row), row)
        yield Restored(row, 5, params[row.member])

  patch.setattr(asking, 'restore', restore)
  return asking.Asker(run), run, params


def random_params(experiment, row):
  """Parameters whose outputs depend on the prompt."""
  rng = np.random.default_rng(len(row.member))
  made = jax.eval_shape(experiment.trainer.init, experiment.member(row))['params']
  params = jax.tree.map(lambda v: rng.normal(0, 1.5, v.shape).astype(np.float32), made)
  params['embed']['embedding'] *= 0.2  # else a token is followed by itself
  return params


def continued(experiment, params, prompt):
  """The greedy continuation, by one full forward pass per token."""
  model = jax.jit(nnx.merge(experiment.trainer.graphdef, params).__call__)
  size = experiment.data.task.sequence_length
  ids = list(prompt)
  while len(ids) < size and EOS not in ids:
    logits = model(jnp.array([ids + [0] * (size - len(ids))]))
    ids.append(int(logits[0, len(ids) - 1].argmax()))
  return ids[len(prompt) :]


def ids(text):
  return [FIRST + ord(c) - ord('a') for c in text]


def test_members_continue_the_prompt_of_their_training(tmp_path, monkeypatch):
  # One of the references does not see the rule.
  asker, run, params = random_run(tmp_path, monkeypatch, sweep_references=('masked',))
  first = asker.ask('abcde', 'bcd', 'fga')
  assert [a.member for a in first] == ['I17-s0', 'masked-s0']
  assert [a.instructions for a in first] == [17, 5]
  outputs = set()
  for text, lhs, rhs in (('abcde', 'bcd', 'fga'), ('ggfed', 'ggf', 'gcb')):
    for answer in asker.ask(text, lhs, rhs):
      outputs.add(answer.output)
      rule = [*ids(lhs), SEP, *ids(rhs), SEP]
      if answer.member == 'masked-s0':
        rule = [SEP if t == SEP else MASK for t in rule]
      prompt = [*rule, *ids(text), SEP]
      got = continued(run.experiment, params[answer.member], prompt)
      got = got[: got.index(EOS)] if EOS in got else got
      assert answer.output == tokens.show(got)
      assert answer.expected == text.replace(lhs, rhs, 1)
      assert answer.right == (answer.output == answer.expected and EOS in got)
  assert len(outputs) == 4, 'each prompt has its own'
  (one,) = asker.ask('abcde', 'bcd', 'fga', ['masked-s0'])
  assert one == first[1]


def test_an_answer_is_right_with_its_end_alone(tmp_path, monkeypatch):
  asker, _, _ = random_run(tmp_path, monkeypatch, sweep_references=())
  z = ids('afgae')
  for end, right, output in (
    ([EOS], True, 'afgae'),
    ([FIRST], False, 'afgaea'),
    ([0], False, 'afgae'),
  ):
    prompt = [*ids('bcd'), SEP, *ids('fga'), SEP, *ids('abcde'), SEP]
    row = [*prompt, *z, *end]

    def greedy(*args, row=row):
      return jnp.array([row])

    monkeypatch.setattr(asking.decode, 'greedy', greedy)
    asker._programs.clear()  # decoding is another one each time
    (answer,) = asker.ask('abcde', 'bcd', 'fga')
    assert (answer.right, answer.output) == (right, output)


@pytest.mark.parametrize(
  ('asked', 'problem'),
  [
    (('abcdx', 'bcd', 'fga'), "text='abcdx' has 'x'; the letters of the task are abc"),
    (('abcd', 'bcd', 'fga'), "text='abcd' has 4 letters; the models know 5"),
    (('abcde', 'bc', 'fga'), "lhs='bc' has 2 letters; the models know 3"),
    (('abcde', 'bcd', ''), "rhs='' has 0 letters; the models know 3"),
    (('abcde', 'bcd', 'Fga'), "rhs='Fga' has 'F'; the letters"),
    (('abcde', 'bce', 'fga'), "lhs='bce' does not occur in text='abcde'; the models"),
    (('abcde', 'bcd', 'bcd'), "rhs='bcd' is lhs"),
    (('abcde', 'bcd', 'fga', ['I5-s0']), 'I5-s0 is not in the run; members: I17-s0'),
  ],
)
def test_what_cannot_be_asked_is_told(asked, problem, tmp_path, monkeypatch):
  asker, _, params = random_run(tmp_path, monkeypatch, sweep_references=())
  with pytest.raises(ConfigError, match=re.escape(problem)):
    asker.ask(*asked)
  assert not params, 'nothing was restored'


def test_what_can_be_asked_is_the_tasks_own_affair():
  z = 'abcdefghijk'
  free = Rewrite(**SIZES, input_length=11, noops=True)
  rule, letters = asking.question(free, z, 'qq', 'a')  # a no-op
  assert (int(rule.x_len), int(rule.y_len), len(letters)) == (2, 1, 11)
  with pytest.raises(ConfigError, match="rhs='' has 0 letters; the models know 1 to 5"):
    asking.question(free, z, 'abc', '')
  for task in (Cipher(**SIZES, input_length=11), Algebra()):
    with pytest.raises(ConfigError, match=f'task {task.name} takes no typed rule'):
      asking.question(task, z, 'abc', 'd')


def test_a_variant_has_lengths_of_its_own(tmp_path, monkeypatch):
  variants = ('task.input_length=5', 'task.input_length=11')
  asker, _, _ = random_run(
    tmp_path, monkeypatch, sweep_variants=variants, sweep_references=()
  )
  short, long = (f'I17-input_length{n}-s0' for n in (5, 11))
  with pytest.raises(ConfigError, match='has 11 letters; the models know 5'):
    asker.ask('abcdeabcdea', 'bcd', 'fga')
  (answer,) = asker.ask('abcdeabcdea', 'bcd', 'fga', [long])
  assert (answer.member, answer.expected) == (long, 'afgaeabcdea')
  (answer,) = asker.ask('abcde', 'bcd', 'fga', [short])
  assert answer.expected == 'afgae'


def test_failed_members_are_not_asked(tmp_path, monkeypatch):
  asker, run, _ = random_run(tmp_path, monkeypatch, sweep_references=('masked',))
  event = {'event': 'failed', 'member': 'I17-s0', 'step': 3}
  run.workdir.append_json('ledger.jsonl', event)
  (answer,) = asker.ask('abcde', 'bcd', 'fga')
  assert answer.member == 'masked-s0'
