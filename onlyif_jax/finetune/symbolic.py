"""Examples of a symbolic task as instructions in text.

They are the examples that a sweep from scratch has under the same settings: the same
rules, the same certified split, the same slices. Only the prompt is words.
"""

import dataclasses
import string
from typing import Any, NamedTuple

from onlyif_jax import config as config_lib
from onlyif_jax import experiment as experiment_lib
from onlyif_jax import exporting, sweep
from onlyif_jax.config import (
  ConfigError,
  DataConfig,
  EvalConfig,
  RunConfig,
  SweepConfig,
)
from onlyif_jax.corpora.rows import Row, Turn
from onlyif_jax.evals.exact_match import EvalSet
from onlyif_jax.finetune.rows import TuningRow
from onlyif_jax.finetune.tuning_config import parse_subset
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
    return [as_row('train', n, one) for n, one in enumerate(self.train)]


def run_config(config: SymbolicTuning, row: TuningRow) -> RunConfig:
  """The settings of the sweep whose member has the row's examples."""
  i = config.instructions
  share, alpha = parse_subset(row.subset)
  count = config.answers.examples
  run = RunConfig(
    task=config.task,
    rules=config.rules,
    seed=row.seed,
    data=DataConfig(
      examples=round(share * i.examples), epochs=1.0, batch_size=1, alpha=alpha
    ),
    eval=EvalConfig(examples=count, cell_examples=0, batch_size=_BATCH, loop_points=0),
    sweep=SweepConfig(counts=(row.instructions,), noop_shares=(i.noop_share,)),
  )
  config_lib.check(run)
  return run


def certificates(config: SymbolicTuning, row: TuningRow) -> list[dict]:
  """The proof that the row's test shares nothing with its training; or ConfigError."""
  reports = sweep.certificates(experiment_lib.build(run_config(config, row)))
  wrong = [line for report in reports for line in certificate.broken(report)]
  if wrong:
    raise ConfigError(f'the split does not hold ({"; ".join(wrong)})')
  return reports


def examples(config: SymbolicTuning, row: TuningRow) -> Examples:
  """Everything that a row trains on and is asked."""
  run = run_config(config, row)
  made = _made(config, run)
  return Examples(made.pop('train'), made)


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
  own = dataclasses.replace(config, instructions=i, task=_base_task(config))
  row = TuningRow('base', config.seed, min(s.instructions, count))
  made = _made(own, run_config(own, row), sets=[])
  return [as_row('base', n, question) for n, question in enumerate(made['train'])]


def _base_task(config: SymbolicTuning) -> Any:
  """The settings of scratch.task, equal to the run's task where both have them."""
  if not config.scratch.task:
    return config.task
  kind = config_lib.task_settings(config.scratch.task)
  names = {f.name for f in dataclasses.fields(kind)} - {'name'}
  given = dataclasses.asdict(config.task)
  return kind(**{k: v for k, v in given.items() if k in names})


def _made(config, run, sets=None) -> dict[str, list[Question]]:
  experiment = experiment_lib.build(sweep.resolve(run))
  (row,) = experiment_lib.rows(run)
  wanted = (
    experiment.data.task.eval_sets(run.eval.examples, 0) if sets is None else sets
  )
  wanted = [
    one for one in wanted if one.split not in ('train', 'dev') and not one.label
  ]
  wanted.append(EvalSet('train', run.data.examples))
  evaluator = experiment.evaluator(parallel.make_mesh(1))
  made = exporting.make_rows(evaluator, experiment.member(row), wanted)
  task = experiment.data.task
  return {
    split: [_question(config, task, one) for one in found]
    for split, found in made.items()
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


def check_prompt(config: SymbolicTuning) -> None:
  """Raises ConfigError where the prompt lacks the input: every answer needs it."""
  named = {
    name for _, name, _, _ in string.Formatter().parse(config.instructions.prompt)
  }
  if 'input' not in named:
    raise ConfigError('instructions.prompt has no {input}')
