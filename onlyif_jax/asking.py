"""Questions that a person types, answered by the trained members of a run.

A question is an input and a rule in the letters of the task. It becomes the very
sequence of tokens that training uses (`Rewrite.answered`), and each member continues
it freely.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from onlyif_jax.config import ConfigError
from onlyif_jax.evaluation import Restored, Run, restore
from onlyif_jax.experiment import Experiment
from onlyif_jax.loop import failed_members
from onlyif_jax.models import decode
from onlyif_jax.tasks import tokens
from onlyif_jax.tasks.rules import Rule
from onlyif_jax.training.step import Trainer, graphdef

TASKS = ('rewrite', 'occurrences', 'semantics')  # the answer is z with x replaced by y


@dataclasses.dataclass(frozen=True)
class Answer:
  """What a member made of a question.

  output: what it generated, without the end token; right: whether it is the expected
  answer, end token included.
  """

  member: str
  instructions: int
  expected: str
  output: str
  right: bool


class Asker:
  """A run whose members answer; it keeps what it restored and compiled."""

  def __init__(self, run: Run):
    self.run = run
    self._restored: dict[str, Restored] = {}
    self._programs: dict[Trainer, Any] = {}

  def ask(
    self, text: str, lhs: str, rhs: str, members: Sequence[str] | None = None
  ) -> list[Answer]:
    """Each member's answer to: in `text`, replace the leftmost `lhs` by `rhs`.

    members: names, in the order of the answers; default: all that stayed finite.
    Raises ConfigError for what a member's task cannot ask and for unknown names.
    """
    known = {row.member: row for _, rows in self.run.stacks for row in rows}
    if members is None:
      failed = failed_members(self.run.workdir)
      members = [name for name in known if name not in failed]
    for name in members:
      if name not in known:
        some = ', '.join(list(known)[:6]) + (' …' if len(known) > 6 else '')
        raise ConfigError(f'member {name} is not in the run; members: {some}')
    # Wrong questions are told before anything is restored.
    experiments = [self.run.experiment.sibling(known[name]) for name in members]
    asked = [question(own.data.task, text, lhs, rhs) for own in experiments]
    missing = [name for name in members if name not in self._restored]
    if missing:
      self._restored |= {one.row.member: one for one in restore(self.run, missing)}
    return [
      self._answer(self._restored[name], own, *rest)
      for name, own, rest in zip(members, experiments, asked, strict=True)
      if name in self._restored
    ]

  def _answer(self, one: Restored, experiment: Experiment, rule, z_Z) -> Answer:
    task = experiment.data.task
    if experiment.trainer not in self._programs:
      self._programs[experiment.trainer] = _program(experiment.trainer)
    program = self._programs[experiment.trainer]
    want_L, got_L, start = program(one.params, experiment.member(one.row), rule, z_Z)
    want, got = (_shown(ids_L, start, task.symbols) for ids_L in (want_L, got_L))
    right = bool(np.array_equal(want_L[start:], got_L[start:]))
    return Answer(one.row.member, one.row.instructions, want, got, right)


def question(task: Any, text: str, lhs: str, rhs: str) -> tuple[Rule, jax.Array]:
  """The rule lhs -> rhs and the input in letters of the task, as (rule, z_Z).

  Raises ConfigError where the task has other questions, for letters that it does not
  have, for lengths that it was not made for, and for an lhs that does not occur where
  the task has no inputs without one.
  """
  name = getattr(task, 'name', type(task).__name__)
  if name not in TASKS:
    known = ', '.join(TASKS)
    raise ConfigError(f'task {name} takes no typed rule; tasks that do: {known}')
  rewriting = getattr(task, 'rewriting', task)
  n = rewriting.input_length
  lengths = {
    'text': (text, n, n),
    'lhs': (lhs, rewriting.x_min, rewriting.x_max),
    'rhs': (rhs, rewriting.y_min, rewriting.y_max),
  }
  for field, (value, low, high) in lengths.items():
    _check(field, value, low, high, task.symbols)
  if lhs == rhs:
    raise ConfigError(f'rhs={rhs!r} is lhs; a rule of the task changes something')
  if lhs not in text and not task.noops:
    raise ConfigError(
      f'lhs={lhs!r} does not occur in text={text!r}; the models were trained on '
      'inputs in which it does: put it there'
    )
  x_P, y_Q, z_Z = (
    _letters(value, high, task.symbols)
    for value, _, high in (lengths['lhs'], lengths['rhs'], lengths['text'])
  )
  return Rule(x_P, jnp.int32(len(lhs)), y_Q, jnp.int32(len(rhs))), z_Z


def example(task: Any, rule: Rule, z_Z) -> tokens.Example:
  """The question laid out as training lays out its examples, with its answer."""
  return getattr(task, 'rewriting', task).answered(rule, z_Z)


def _check(field: str, value: str, low: int, high: int, symbols: str) -> None:
  """Refuses characters that are no letters of the task, and other lengths."""
  odd = next((c for c in value if c not in symbols), None)
  if odd is not None:
    raise ConfigError(
      f'{field}={value!r} has {odd!r}; the letters of the task are {symbols}'
    )
  if not low <= len(value) <= high:
    wanted = str(low) if low == high else f'{low} to {high}'
    raise ConfigError(
      f'{field}={value!r} has {len(value)} letters; the models know {wanted}'
    )


def _letters(text: str, size: int, symbols: str) -> jax.Array:
  """Text -> letters, zero beyond its end."""
  letters = [symbols.index(c) for c in text]
  return jnp.array(letters + [0] * (size - len(text)), jnp.int32)


def _program(trainer: Trainer):
  """(params, member, rule, z_Z) -> (expected sequence, generated one, answer start)."""
  data = trainer.data
  graph = graphdef(dataclasses.replace(trainer.model, compute_dtype='float32'))

  @jax.jit
  def answer(params, member, rule: Rule, z_Z):
    made = jax.tree.map(lambda v: v[None], example(data.task, rule, z_Z))
    batch = data.collate(made, jnp.zeros(1, jnp.int32), member.mask_instruction)
    start_B, length = made.answer_start, data.task.sequence_length
    got_BL = decode.greedy(graph, params, batch.tokens_BL, start_B, length)
    return batch.tokens_BL[0], got_BL[0], start_B[0]

  return lambda *args: jax.device_get(answer(*args))


def _shown(ids_L: np.ndarray, start: int, symbols: str) -> str:
  """The text from `start` on, up to the end token."""
  answer = list(ids_L[start:])
  end = answer.index(tokens.EOS) if tokens.EOS in answer else len(answer)
  return tokens.show(answer[:end], symbols)
