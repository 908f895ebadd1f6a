"""Opens a finished or running sweep from its workdir, evaluates and shows it."""

import dataclasses
import functools
import os
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from onlyif_jax import experiment as experiment_lib
from onlyif_jax.checkpoint import Checkpointer
from onlyif_jax.config import ConfigError, RunConfig
from onlyif_jax.evals import counterfactual
from onlyif_jax.evals.exact_match import EvalSet, Evaluator, eval_sets, plain_set
from onlyif_jax.experiment import Experiment, Row
from onlyif_jax.models import decode
from onlyif_jax.tasks import tokens
from onlyif_jax.training import ensemble, parallel
from onlyif_jax.training.metrics import Tally
from onlyif_jax.training.step import Trainer
from onlyif_jax.workdir import Workdir


@dataclasses.dataclass(frozen=True)
class Run:
  """The contents of a workdir."""

  workdir: Workdir
  config: RunConfig
  experiment: Experiment
  stacks: tuple[tuple[str, tuple[Row, ...]], ...]  # (name, rows) of each


@dataclasses.dataclass(frozen=True)
class Restored:
  """The parameters of one member at a step."""

  row: Row
  step: int
  params: dict


def open_run(path: str | os.PathLike) -> Run:
  """Opens a workdir; raises ConfigError where it holds no run."""
  workdir = Workdir(path)
  config = workdir.config()
  if config is None:
    raise ConfigError(f'--workdir={path} holds no run (no config.json in it)')
  by_name = {row.member: row for row in experiment_lib.rows(config)}
  stacks = tuple(
    (event['stack'], tuple(by_name[m] for m in event['members']))
    for event in workdir.ledger()
    if event['event'] == 'planned'
  )
  return Run(workdir, config, experiment_lib.build(config), stacks)


def restore(
  run: Run, members: Sequence[str] | None = None, step: int | None = None
) -> Iterator[Restored]:
  """Yields members, by default all, at their newest or the given step.

  In the order of the sweep, without members that have no checkpoint yet. Raises
  ConfigError for unknown names, and where there is no checkpoint at all.
  """
  known = [row.member for _, rows in run.stacks for row in rows]
  for name in members or ():
    if name not in known:
      raise ConfigError(
        f'--member={name} is not in the run; members: {first_names(known)}'
      )
  mesh = parallel.make_mesh(1)
  empty = True
  for stack, rows in run.stacks:
    requested = [row for row in rows if members is None or row.member in members]
    directory = run.workdir.file(f'checkpoints/{stack}')
    if not requested or not directory.exists():
      continue
    experiment = run.experiment.sibling(rows[0])
    program = experiment.program(mesh, 'map')
    stacked = experiment.members([rows[0]] * run.config.stack.members)
    abstract = jax.tree.map(
      functools.partial(_on, program.sharding),
      jax.eval_shape(program.init, stacked),
    )
    with Checkpointer(directory, keep=run.config.checkpoint.keep) as saver:
      if step is None:
        newest = saver.restore(abstract)
        if newest is None:
          continue
        at, state = newest
      else:
        at, state = step, saver.restore_step(step, abstract)
    for row in requested:
      empty = False
      yield Restored(row, at, ensemble.unstack(state['params'], rows.index(row)))
  if empty:
    raise ConfigError(f'--workdir={run.workdir.path} holds no checkpoint yet')


def _on(sharding, v):
  return jax.ShapeDtypeStruct(v.shape, v.dtype, sharding=sharding)


def evaluate(
  run: Run, restored: Restored, sets: list[EvalSet], evaluator: Evaluator
) -> list[Tally]:
  """A member's tallies, by the code that runs at the end of training."""
  members = run.experiment.members([restored.row])
  params = ensemble.stack([restored.params])
  prompts = evaluator.training_prompts(members)
  return evaluator.tallies(params, members, sets, prompts)[0]


class _Evaluators:
  """Evaluators on one device, one for all members with equal trainers."""

  def __init__(self, run: Run):
    self.run = run
    self.by_trainer: dict[Trainer, Evaluator] = {}

  def of(self, row: Row) -> Evaluator:
    experiment = self.run.experiment.sibling(row)
    if experiment.trainer not in self.by_trainer:
      evaluator = experiment.evaluator(parallel.make_mesh(1))
      self.by_trainer[experiment.trainer] = evaluator
    return self.by_trainer[experiment.trainer]


def show(
  run: Run,
  *,
  members: Sequence[str] | None = None,
  step: int | None = None,
  examples: int | None = None,
  splits: tuple[str, ...] | None = None,
  wrong: int = 0,
) -> list[tuple[Restored, list[Tally]]]:
  """Prints each member's exact match by split and test cell; returns all tallies.

  examples: per split; None, like members, step and splits: as in training. wrong: how
  many wrong outputs to print, of the member nearest to half right on unseen rules.
  """
  config = run.config.eval
  if examples:
    config = dataclasses.replace(config, examples=examples)
  if splits == (counterfactual.SPLIT,):
    _show_counterfactual(run, members, step, config.examples)
    return []
  table = Table(title='exact match: right / examples', title_justify='left', box=None)
  evaluated: list[tuple[Restored, list[Tally]]] = []
  columns: list[str] = []
  evaluators = _Evaluators(run)
  for restored in restore(run, members, step):
    task = run.experiment.sibling(restored.row).data.task
    sets = eval_sets(config, task, splits)
    if not sets:
      known = sorted({s.split for s in eval_sets(config, task)})
      raise ConfigError(f'--split={splits}: the task has {", ".join(known)}')
    tallies = evaluate(run, restored, sets, evaluators.of(restored.row))
    exact = {f'{t.split} {t.slice}': t for t in tallies if t.metric == 'exact_match'}
    if not evaluated:
      columns = [name for name in exact if name.endswith(' all') or 'unseen' in name]
      for name in ('member', 'step', *columns):
        table.add_column(name.removesuffix(' all'), justify='right', no_wrap=True)
    cells = [_cell(exact.get(name)) for name in columns]
    table.add_row(restored.row.member, str(restored.step), *cells)
    evaluated.append((restored, tallies))
  console = _console()
  console.print(table)
  if wrong:
    restored, _ = min(evaluated, key=lambda pair: abs(_unseen(pair[1]) - 0.5))
    show_wrong(run, restored, evaluators.of(restored.row), wrong, console)
  return evaluated


def _show_counterfactual(
  run: Run, members: Sequence[str] | None, step: int | None, examples: int
) -> None:
  """Prints how members answer where a shortcut would compete with the instruction."""
  table = Table(title='shares of outputs', title_justify='left', box=None)
  evaluators = _Evaluators(run)
  judges: dict[Evaluator, counterfactual.Counterfactual] = {}
  for restored in restore(run, members, step):
    evaluator = evaluators.of(restored.row)
    if evaluator not in judges:
      judges[evaluator] = counterfactual.Counterfactual(evaluator)
    stacked = run.experiment.members([restored.row])
    params = ensemble.stack([restored.params])
    (tallies,) = judges[evaluator].tallies(params, stacked, examples)
    if not tallies:
      raise ConfigError('--split=counterfactual needs a task with an x and a y')
    if not table.columns:
      for name in ('member', 'step', *(t.slice for t in tallies)):
        table.add_column(name, justify='right')
    shares = ['-' if t.value is None else f'{t.value:.3f}' for t in tallies]
    table.add_row(restored.row.member, str(restored.step), *shares)
  _console().print(table)
  for name, meaning in counterfactual.MEANING.items():
    print(f'{name}: {meaning}')


def show_wrong(
  run: Run, restored: Restored, evaluator: Evaluator, wrong: int, console: Console
) -> None:
  """Prints up to `wrong` wrong outputs on unseen rules, decoded without forcing."""
  experiment = run.experiment.sibling(restored.row)
  config, task = run.config.eval, experiment.data.task
  unseen = plain_set(task, 'unseen', config.examples)
  member = experiment.member(restored.row)
  graphdef, length = experiment.trainer.graphdef, task.sequence_length
  make_batch = jax.jit(lambda i_B: evaluator.batch(member, unseen, i_B)[0])
  decoded = jax.jit(
    lambda batch: decode.greedy(
      graphdef, restored.params, batch.tokens_BL, batch.answer_BA[:, 0] + 1, length
    )
  )
  console.print(f'wrong outputs of {restored.row.member} on unseen rules:')
  remaining = wrong
  for start in range(0, config.examples, config.batch_size):
    batch = make_batch(start + jnp.arange(config.batch_size, dtype=jnp.int32))
    got_BL = np.asarray(decoded(batch))
    batch = jax.device_get(batch)
    for b in range(min(config.batch_size, config.examples - start)):
      prompt = int(batch.answer_BA[b, 0]) + 1
      want, got = batch.tokens_BL[b, prompt:], got_BL[b, prompt:]
      if remaining and not np.array_equal(want, got):
        remaining -= 1
        shown = (batch.tokens_BL[b, :prompt], want, got)
        _print_wrong(console, *(tokens.show(ids, task.symbols) for ids in shown))
  if remaining:
    console.print(f'({wrong - remaining} wrong outputs among {config.examples})')


def _print_wrong(console: Console, prompt: str, want: str, got: str) -> None:
  """Prints an output with what differs from the expected one in red, above a caret."""
  marked = ''.join(
    escape(g) if n < len(want) and g == want[n] else f'[bold red]{escape(g)}[/]'
    for n, g in enumerate(got)
  )
  under = ''.join(
    ' ' if n < len(want) and n < len(got) and got[n] == want[n] else '^'
    for n in range(max(len(want), len(got)))
  )
  console.print(f'  {escape(prompt)}', highlight=False)
  console.print(f'    expected  {escape(want)}', highlight=False)
  console.print(f'    output    {marked}', highlight=False)
  console.print(f'              {under}', highlight=False)


def _console() -> Console:
  console = Console()
  return console if console.is_terminal else Console(width=200)


def _cell(tally: Tally | None) -> str:
  return '' if tally is None else f'{tally.sum}/{tally.count}'


def _unseen(tallies: list[Tally]) -> float:
  """Exact match on unseen rules, 0 where it was not evaluated."""
  for tally in tallies:
    if (tally.split, tally.slice, tally.metric) == ('unseen', 'all', 'exact_match'):
      return tally.value or 0.0
  return 0.0


def first_names(names: Sequence[str]) -> str:
  """The first names of a list for an error message."""
  return ', '.join(names[:6]) + (' …' if len(names) > 6 else '')
