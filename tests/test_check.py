"""The check of a task, on one from outside the package, whole and broken."""

import copy
import dataclasses

import jax
import jax.numpy as jnp
import pytest
import runs
from outside_task import Reverse
from runs import toy_config

from onlyif_jax import checking, config, experiment
from onlyif_jax.config import ConfigError, RunConfig, base_config, freeze
from onlyif_jax.subject import Subject
from onlyif_jax.tasks.rules import RuleSpace
from onlyif_jax.training import parallel

NAME = 'outside_task:Reverse'
SUBJECT = Subject(RunConfig(task=config.task_settings(NAME)()), 211, 101)


def found(name, **changes):
  """The outcome of a check where parts of the subject are replaced."""
  subject = copy.copy(SUBJECT)
  subject.__dict__.update(changes)
  return checking._guarded(subject, name)


def tampered(**changes):
  """The subject's examples with other fields."""
  return SUBJECT.examples._replace(**changes)


@pytest.mark.parametrize('name', checking.CHECKS)
def test_a_task_that_keeps_the_contract_passes(name):
  one = found(name)
  assert one.ok, one.text


def test_a_wrong_answer_is_shown_beside_the_oracles():
  tokens_BL = SUBJECT.examples.tokens_L.copy()
  at = SUBJECT.examples.answer_start[3]
  tokens_BL[3, at] = 6 + (tokens_BL[3, at] - 5) % 11
  one = found('oracle', examples=tampered(tokens_L=tokens_BL))
  assert one.ok is False
  assert 'the oracle says' in one.text
  assert found('oracle', full=experiment.build(toy_config()).task).ok is None


@pytest.mark.parametrize(
  ('place', 'token', 'message'),
  [
    (0, 17, 'token ids reach from 1 to 17, vocab_size is 17'),
    (-1, 6, 'the answer does not end with EOS: 1 examples'),
    (0, 1, 'EOS stands before the end'),
    (2, 0, 'PAD stands inside'),
  ],
)
def test_broken_layouts_are_named(place, token, message):
  tokens_BL = SUBJECT.examples.tokens_L.copy()
  stop = SUBJECT.examples.answer_start[5] + SUBJECT.examples.answer_len[5]
  tokens_BL[5, stop - 1 if place < 0 else place] = token
  one = found('layout', examples=tampered(tokens_L=tokens_BL))
  assert one.ok is False
  assert one.text.startswith(message)


def test_lengths_beyond_what_the_task_says_are_named():
  longer = tampered(answer_len=SUBJECT.examples.answer_len + 1)
  assert 'longer than answer_length' in found('layout', examples=longer).text
  none = tampered(answer_start=SUBJECT.examples.answer_start * 0)
  assert 'the prompt is empty' in found('layout', examples=none).text


class Twice(RuleSpace):
  def rule(self, seed, part, i, setting=None):
    return super().rule(seed, part, i // 2, setting)


class Shared(RuleSpace):
  def certify(self, seed, instructions, held_out, setting=None):
    report = SUBJECT.space.certify(seed, instructions, held_out, setting)
    return report | {'collisions': {'train-test': 1}}


@pytest.mark.parametrize(
  ('kind', 'message'),
  [(Twice, 'of 101 training rules come twice'), (Shared, 'train-test: 1 shared')],
)
def test_rules_that_come_twice_or_are_shared_are_found(kind, message, monkeypatch):
  monkeypatch.setattr(checking.certificate, 'CHUNK', 101)
  space = kind(**dataclasses.asdict(SUBJECT.space))
  if kind is Twice:  # the space says that all is well
    monkeypatch.setattr(Twice, 'certify', lambda self, *a: SUBJECT.space.certify(*a))
  one = found('split', space=space)
  assert one.ok is False
  assert message in one.text


def test_an_example_that_depends_on_the_batch_is_found():
  many = SUBJECT.many

  def turned(index_B, kind_B):
    made = many(index_B, kind_B)
    return made._replace(tokens_L=made.tokens_L + (index_B[0] > 0).astype(jnp.int32))

  assert 'in another order' in found('determinism', many=turned).text
  shifted = dataclasses.replace(SUBJECT.task, input_length=6)
  assert found('determinism', task=shifted, make=None).ok is False


def test_a_mask_over_the_answer_or_nothing_is_found():
  class Masked(Reverse):
    def instruction_mask(self, example):
      return example.tokens_L >= 0

  assert 'of the answer' in found('mask', task=Masked()).text
  Masked.instruction_mask = lambda self, example: example.tokens_L < 0
  assert 'covers nothing' in found('mask', task=Masked()).text


def test_what_is_missing_or_unhashable_is_named():
  class Without(Reverse):
    fields = None

  assert 'the task has no fields()' in found('contract', full=Without()).text

  class Loose(Reverse):
    __hash__ = None

  loose = Loose()
  assert 'the task is not hashable' in found('contract', full=loose, task=loose).text


def test_the_command_exits_by_what_it_found():
  server = runs.Server(runs.CACHE)
  before = (
    'from onlyif_jax import checking\n'
    'checking.CHECKS = {k: checking.CHECKS[k] for k in ("contract",)}\n'
  )
  try:
    code, out, err = server.call(
      'check', NAME, '--settings=input_length=5', before=before
    )
    assert (code, err) == (0, '')
    assert 'contract  good' in out
    code, out, err = server.call('check', NAME, '--settings=x_min=4')
    assert (code, err) == (1, '')
    assert 'task.x_min=4 is above task.x_max=3' in out
    for words, message in (
      (['rewrit'], 'Did you mean rewrite?'),
      (['outside_task:Absent'], 'cannot be imported'),
      ([NAME, '--settings=input=5'], 'Did you mean task.input_length?'),
      ([], 'give one task'),
      ([NAME, 'extra'], "unknown argument 'extra'"),
    ):
      code, out, err = server.call('check', *words)
      assert (code, out, err.count('\n')) == (2, '', 1), err
      assert message in err
  finally:
    server.close()


@dataclasses.dataclass(frozen=True)
class Later(Reverse):
  size: 'int' = 3
  names: 'tuple[int, ...]' = (1,)


def test_fields_need_defaults_and_their_types_may_be_text():
  own = config.task_settings('test_check:Later')
  kinds = {f.name: f.type for f in dataclasses.fields(own)}
  assert (kinds['size'], kinds['names']) == (int, tuple[int, ...])
  with pytest.raises(ConfigError, match='Bare: its field size needs a default'):
    config.task_settings('test_check:Bare')


@dataclasses.dataclass(frozen=True)
class Bare:
  size: int


def test_an_outside_task_is_trained_by_its_name():
  c, toy = base_config(NAME), runs.toy.get_config()
  for section in ('data', 'model', 'eval', 'sweep', 'stack', 'checkpoint'):
    c[section] = toy[section]
  c.task.alphabet, c.task.input_length = 7, 5
  made = experiment.build(freeze(c))
  assert (type(made.task), made.task.alphabet) == (Reverse, 7)
  row = experiment.rows(made.run)[0]
  program = made.program(parallel.make_mesh(1), 'map')
  members = jax.device_put(made.members([row]), program.sharding)
  state = program.init(members)
  losses = []
  for _ in range(2):
    state, (loss, count, failed) = program.train(members, state, jnp.int32(5))
    losses.append(float(loss[0] / count[0]))
  assert failed[0] < 0
  assert losses[1] < losses[0]
