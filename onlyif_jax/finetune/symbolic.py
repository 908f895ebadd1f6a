"""Examples of a symbolic task as instructions in text.

They are the examples that a sweep from scratch has under the same settings: the same
rules, the same certified split, the same slices. Only the prompt is words.
"""

import dataclasses
import string
from collections.abc import Sequence
from typing import Any, NamedTuple

from onlyif_jax import config as config_lib
from onlyif_jax import experiment as experiment_lib
from onlyif_jax import exporting, sweep, tasks
from onlyif_jax.config import (
  ConfigError,
  DataConfig,
  EvalConfig,
  RunConfig,
  SweepConfig,
)
from onlyif_jax.corpora.rows import Row, Turn
from onlyif_jax.evals.exact_match import EvalSet
from onlyif_jax.finetune import rows as rows_lib
from onlyif_jax.finetune import tuning_config
from onlyif_jax.finetune.rows import TuningRow
from onlyif_jax.tasks import certificate
from onlyif_jax.training import parallel
from onlyif_jax.tuning_settings import SymbolicTuning

_BATCH = 500  # examples that are made at once; decides no number


class Question(NamedTuple):
  """An example that a model is to answer."""

  turns: tuple[Turn, ...]  # the last one asks
  expected: str
  fields: dict[str, str]  # lhs, rhs, input and the like
  slices: dict[str, int]


class Examples(NamedTuple):
  """What one row trains on, and the questions that it is asked, by split."""

  train: list[Question]
  questions: dict[str, list[Question]]

  @property
  def rows(self) -> list[Row]:
    """The training examples as rows of the source 'train'."""
    return [as_row('train', n, question) for n, question in enumerate(self.train)]


def examples(config: SymbolicTuning, row: TuningRow) -> Examples:
  """Everything that a row trains on and is asked."""
  run = run_config(config, row)
  task = tasks.make_task(run.task).static()
  held_out = [
    eval_set
    for eval_set in task.eval_sets(run.eval.examples, 0)
    if eval_set.split not in ('train', 'dev') and not eval_set.label
  ]
  questions = _questions(config, run, held_out)
  return Examples(questions.pop('train'), questions)


def run_config(config: SymbolicTuning, row: TuningRow) -> RunConfig:
  """The settings of the sweep whose member has the row's examples."""
  config = tuning_config.variant(config, row.variant)
  i = config.instructions
  share, alpha = tuning_config.parse_subset(row.subset)
  run = RunConfig(
    task=config.task,
    rules=config.rules,
    seed=row.seed,
    data=DataConfig(
      examples=round(share * i.examples), epochs=1.0, batch_size=1, alpha=alpha
    ),
    eval=EvalConfig(
      examples=config.answers.examples,
      cell_examples=0,
      batch_size=_BATCH,
      loop_points=0,
    ),
    sweep=SweepConfig(counts=(row.instructions,), noop_shares=(i.noop_share,)),
  )
  config_lib.check(run)
  return run


def certificates(config: SymbolicTuning, row: TuningRow) -> list[dict]:
  """The proof that the row's test shares nothing with its training; or ConfigError."""
  reports = sweep.certificates(experiment_lib.build(run_config(config, row)))
  problems = [line for report in reports for line in certificate.broken(report)]
  if problems:
    raise ConfigError(f'the split does not hold ({"; ".join(problems)})')
  if row.variant:
    reports = [report | {'variant': row.variant} for report in reports]
  return reports


def kinds(
  config: SymbolicTuning, rows: Sequence[TuningRow]
) -> list[tuple[str, TuningRow]]:
  """The first row of each kind of question, with what tells the kinds apart.

  Variants that differ in the mixture of training rules alone (`Task.static`) are asked
  the same kind. The first of a pair is '' where there is one kind, else a part of a
  name such as '-depth4'.
  """
  first: dict[Any, TuningRow] = {}
  for row in rows:
    task = tasks.make_task(tuning_config.variant(config, row.variant).task)
    first.setdefault(task.static(), row)
  names = [f.name for f in dataclasses.fields(next(iter(first)))]
  apart = [n for n in names if len({str(getattr(task, n)) for task in first}) > 1]
  return [
    (rows_lib.suffix({name: getattr(task, name) for name in apart}), row)
    for task, row in first.items()
  ]


def as_row(source: str, index: int, question: Question) -> Row:
  """A question with its answer."""
  return Row(source, index, (*question.turns, Turn('assistant', question.expected)))


def base_rows(config: SymbolicTuning, count: int) -> list[Row]:
  """Rows that a small stand-in for a pretrained model is made with.

  Of the task scratch.task, with training rules only, so that it knows the kind of
  instruction and not what fine-tuning teaches.
  """
  s, i = config.scratch, config.instructions
  i = dataclasses.replace(i, examples=count, prompt=s.prompt or i.prompt)
  config = dataclasses.replace(config, instructions=i, task=_base_task(config))
  row = TuningRow('base', config.seed, min(s.instructions, count))
  questions = _questions(config, run_config(config, row), [])['train']
  return [as_row('base', n, question) for n, question in enumerate(questions)]


def check_prompt(config: SymbolicTuning) -> None:
  """Raises ConfigError where the prompt lacks the input: every answer needs it."""
  fields = {
    name for _, name, _, _ in string.Formatter().parse(config.instructions.prompt)
  }
  if 'input' not in fields:
    raise ConfigError('instructions.prompt has no {input}')


def _base_task(config: SymbolicTuning) -> Any:
  """The settings of scratch.task, equal to the run's task where both have them."""
  if not config.scratch.task:
    return config.task
  settings = config_lib.task_settings(config.scratch.task)
  names = {f.name for f in dataclasses.fields(settings)} - {'name'}
  values = dataclasses.asdict(config.task)
  return settings(**{k: v for k, v in values.items() if k in names})


def _questions(
  config: SymbolicTuning, run: RunConfig, held_out: Sequence[EvalSet]
) -> dict[str, list[Question]]:
  """The questions of the run's training ('train') and of held-out sets, by split."""
  experiment = experiment_lib.build(sweep.resolve(run))
  (member,) = experiment_lib.rows(run)
  evaluator = experiment.evaluator(parallel.make_mesh(1))
  sets = [*held_out, EvalSet('train', run.data.examples)]
  made = exporting.make_rows(evaluator, experiment.member(member), sets)
  task = experiment.data.task
  return {
    split: [_question(config, task, row) for row in rows]
    for split, rows in made.items()
  }


def _question(config: SymbolicTuning, task: Any, row: dict) -> Question:
  fields = {k: v for k, v in row.items() if isinstance(v, str) and k != 'prompt'}
  if 'shift' in fields:  # a number for people, a letter for the small models
    fields['shift'] = str(task.symbols.index(fields['shift']))
  expected = fields.pop('output')
  try:
    text = config.instructions.prompt.format(**fields)
  except (KeyError, IndexError, ValueError):
    known = ', '.join(f'{{{k}}}' for k in fields)
    raise ConfigError(
      f'instructions.prompt={config.instructions.prompt!r} must have no fields but '
      f'{known}'
    ) from None
  return Question((Turn('user', text),), expected, fields, row['slices'])
