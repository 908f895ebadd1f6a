"""Typed questions, answered by the trained members of a run.

A question is an input and a rule in the letters of the task. It becomes the same token
sequence as a training example (`Rewrite.answered`), and each member decodes greedily.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from onlyif_jax.config import ConfigError
from onlyif_jax.evaluation import Restored, Run, first_names, restore
from onlyif_jax.experiment import Experiment
from onlyif_jax.models import decode
from onlyif_jax.stacks import failed_members
from onlyif_jax.tasks import tokens
from onlyif_jax.tasks.rules import Rule
from onlyif_jax.training.step import Trainer, graphdef

TASKS = ('rewrite', 'occurrences', 'semantics')  # the answer is z with x replaced by y


@dataclasses.dataclass(frozen=True)
class Answer:
  """A member's answer to a question."""

  member: str
  instructions: int
  expected: str
  output: str  # as generated, without the end token
  right: bool  # whether it is as expected, end token included


class Asker:
  """Asks the members of a run; keeps what it restored and compiled."""

  def __init__(self, run: Run):
    self.run = run
    self._restored: dict[str, Restored] = {}
    self._programs: dict[Trainer, Any] = {}

  def ask(
    self, text: str, lhs: str, rhs: str, members: Sequence[str] | None = None
  ) -> list[Answer]:
    """Asks members to replace the leftmost `lhs` in `text` by `rhs`.

    members: names, in the order of the answers; default: all that stayed finite.
    Raises ConfigError for questions that a member's task does not have and for unknown
    names.
    """
    known = {row.member: row for _, rows in self.run.stacks for row in rows}
    if members is None:
      failed = failed_members(self.run.workdir)
      members = [name for name in known if name not in failed]
    for name in members:
      if name not in known:
        raise ConfigError(
          f'member {name} is not in the run; members: {first_names(list(known))}'
        )
    # Questions are checked before anything is restored.
    experiments = [self.run.experiment.sibling(known[name]) for name in members]
    questions = [question(e.data.task, text, lhs, rhs) for e in experiments]
    missing = [name for name in members if name not in self._restored]
    if missing:
      self._restored |= {r.row.member: r for r in restore(self.run, missing)}
    return [
      self._answer(self._restored[name], experiment, rule, z_Z)
      for name, experiment, (rule, z_Z) in zip(
        members, experiments, questions, strict=True
      )
      if name in self._restored
    ]

  def _answer(
    self, restored: Restored, experiment: Experiment, rule: Rule, z_Z: jax.Array
  ) -> Answer:
    row, symbols = restored.row, experiment.data.task.symbols
    if experiment.trainer not in self._programs:
      self._programs[experiment.trainer] = _program(experiment.trainer)
    program = self._programs[experiment.trainer]
    member = experiment.member(row)
    want_L, got_L, start = program(restored.params, member, rule, z_Z)
    return Answer(
      member=row.member,
      instructions=row.instructions,
      expected=_answer_text(want_L, start, symbols),
      output=_answer_text(got_L, start, symbols),
      right=bool(np.array_equal(want_L[start:], got_L[start:])),
    )


def question(task: Any, text: str, lhs: str, rhs: str) -> tuple[Rule, jax.Array]:
  """(rule, z_Z): the rule lhs -> rhs and the input, in letters of the task.

  Raises ConfigError where the task takes no such question: for letters or lengths that
  it does not have, and for an lhs that does not occur where the task has no no-ops.
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
  """The question and its answer, laid out like a training example."""
  return getattr(task, 'rewriting', task).answered(rule, z_Z)


def _check(field: str, value: str, low: int, high: int, symbols: str) -> None:
  """Raises ConfigError for letters that the task lacks, and for other lengths."""
  unknown = next((c for c in value if c not in symbols), None)
  if unknown is not None:
    raise ConfigError(
      f'{field}={value!r} has {unknown!r}; the letters of the task are {symbols}'
    )
  if not low <= len(value) <= high:
    lengths = str(low) if low == high else f'{low} to {high}'
    raise ConfigError(
      f'{field}={value!r} has {len(value)} letters; the models know {lengths}'
    )


def _letters(text: str, size: int, symbols: str) -> jax.Array:
  """The letters of a text, padded with zeros to a size."""
  letters = [symbols.index(c) for c in text]
  return jnp.array(letters + [0] * (size - len(text)), jnp.int32)


def _program(trainer: Trainer):
  """(params, member, rule, z_Z) -> (expected tokens_L, generated tokens_L, start)."""
  data = trainer.data
  graph = graphdef(dataclasses.replace(trainer.model, compute_dtype='float32'))

  @jax.jit
  def answer(params, member, rule: Rule, z_Z):
    examples = jax.tree.map(lambda v: v[None], example(data.task, rule, z_Z))
    batch = data.collate(examples, jnp.zeros(1, jnp.int32), member.mask_instruction)
    start_B, length = examples.answer_start, data.task.sequence_length
    got_BL = decode.greedy(graph, params, batch.tokens_BL, start_B, length)
    return batch.tokens_BL[0], got_BL[0], start_B[0]

  return lambda *args: jax.device_get(answer(*args))


def _answer_text(tokens_L: np.ndarray, start: int, symbols: str) -> str:
  """The text from `start` up to the end token."""
  answer = list(tokens_L[start:])
  end = answer.index(tokens.EOS) if tokens.EOS in answer else len(answer)
  return tokens.show(answer[:end], symbols)
