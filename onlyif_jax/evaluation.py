"""A finished or running sweep opened from its workdir, evaluated and shown."""

import dataclasses
import functools
import os
from collections.abc import Iterator

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
from onlyif_jax.workdir import Workdir


@dataclasses.dataclass(frozen=True)
class Run:
  """What a workdir holds: its config, its rows and its stacks."""

  workdir: Workdir
  config: RunConfig
  experiment: Experiment
  stacks: tuple[tuple[str, tuple[Row, ...]], ...]


@dataclasses.dataclass(frozen=True)
class Restored:
  """One member's parameters at a step."""

  row: Row
  step: int
  params: dict


def open_run(path: str | os.PathLike) -> Run:
  """Opens a workdir; ConfigError where it holds no run."""
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


def restore(run: Run, members=None, step: int | None = None) -> Iterator[Restored]:
  """Members in the order of the sweep, from their newest or the given step."""
  known = [row.member for _, rows in run.stacks for row in rows]
  for name in members or ():
    if name not in known:
      raise ConfigError(f'--member={name} is not in the run; members: {_few(known)}')
  mesh = parallel.make_mesh(1)
  found = False
  for stack, rows in run.stacks:
    experiment = run.experiment.sibling(rows[0])
    program = experiment.program(mesh, 'map')
    wanted = [row for row in rows if members is None or row.member in members]
    directory = run.workdir.file(f'checkpoints/{stack}')
    if not wanted or not directory.exists():
      continue
    width = run.config.stack.members
    stacked = experiment.members([rows[0]] * width)
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
    for row in wanted:
      found = True
      yield Restored(row, at, ensemble.unstack(state['params'], rows.index(row)))
  if not found:
    raise ConfigError(f'--workdir={run.workdir.path} holds no checkpoint yet')


def _on(sharding, v):
  return jax.ShapeDtypeStruct(v.shape, v.dtype, sharding=sharding)


def evaluate(
  run: Run, one: Restored, sets: list[EvalSet], evaluator: Evaluator
) -> list[Tally]:
  """A member's tallies, by the very code that runs at the end of training."""
  members = run.experiment.members([one.row])
  params = ensemble.stack([one.params])
  prompts = evaluator.training_prompts(members)
  return evaluator.tallies(params, members, sets, prompts)[0]


def show(
  run: Run, *, members=None, step=None, examples=None, splits=None, wrong: int = 0
) -> list[tuple[Restored, list[Tally]]]:
  """Prints every member's exact match by split and test cell, and wrong outputs."""
  config = run.config.eval
  if examples:
    config = dataclasses.replace(config, examples=examples)
  if splits == (counterfactual.SPLIT,):
    _show_counterfactual(run, members, step, config.examples)
    return []
  table = Table(title='exact match: right / examples', title_justify='left', box=None)
  done: list[tuple[Restored, list[Tally]]] = []
  columns: list[str] = []
  made: dict = {}
  for one in restore(run, members, step):
    experiment = run.experiment.sibling(one.row)
    if experiment.trainer not in made:
      evaluator = experiment.evaluator(parallel.make_mesh(1))
      made[experiment.trainer] = evaluator
    evaluator = made[experiment.trainer]
    sets = eval_sets(config, experiment.data.task, splits)
    if not sets:
      known = sorted({s.split for s in eval_sets(config, experiment.data.task)})
      raise ConfigError(f'--split={splits}: the task has {", ".join(known)}')
    tallies = evaluate(run, one, sets, evaluator)
    exact = {f'{t.split} {t.slice}': t for t in tallies if t.metric == 'exact_match'}
    if not done:
      columns = [name for name in exact if name.endswith(' all') or 'unseen' in name]
      for name in ('member', 'step', *columns):
        table.add_column(name.removesuffix(' all'), justify='right', no_wrap=True)
    cells = [_cell(exact.get(name)) for name in columns]
    table.add_row(one.row.member, str(one.step), *cells)
    done.append((one, tallies))
  console = Console()
  if not console.is_terminal:
    console = Console(width=200)
  console.print(table)
  if wrong:
    one = min(done, key=lambda pair: abs(_unseen(pair[1]) - 0.5))[0]
    evaluator = made[run.experiment.sibling(one.row).trainer]
    show_wrong(run, one, evaluator, wrong, console)
  return done


def _show_counterfactual(run: Run, members, step, examples: int) -> None:
  """Prints what members do where something else would be easier than to obey."""
  table = Table(title='shares of outputs', title_justify='left', box=None)
  made: dict = {}
  for one in restore(run, members, step):
    own = run.experiment.sibling(one.row)
    if own.trainer not in made:
      evaluator = own.evaluator(parallel.make_mesh(1))
      made[own.trainer] = counterfactual.Counterfactual(evaluator)
    params, stacked = ensemble.stack([one.params]), own.members([one.row])
    (tallies,) = made[own.trainer].tallies(params, stacked, examples)
    if not tallies:
      raise ConfigError('--split=counterfactual needs a task with an x and a y')
    if not table.columns:
      for name in ('member', 'step', *(t.slice for t in tallies)):
        table.add_column(name, justify='right')
    shares = ['-' if t.value is None else f'{t.value:.3f}' for t in tallies]
    table.add_row(one.row.member, str(one.step), *shares)
  Console(width=None if Console().is_terminal else 200).print(table)
  for name, meaning in counterfactual.MEANING.items():
    print(f'{name}: {meaning}')


def show_wrong(run: Run, one: Restored, evaluator: Evaluator, wrong: int, console):
  """Prints wrong outputs, decoded freely, beside what was expected."""
  experiment = run.experiment.sibling(one.row)
  config, task = run.config.eval, experiment.data.task
  unseen = plain_set(task, 'unseen', config.examples)
  member = experiment.member(one.row)
  graphdef = experiment.trainer.graphdef
  make = jax.jit(lambda i_B: evaluator.batch(member, unseen, i_B)[0])
  decoded = jax.jit(
    lambda batch: decode.greedy(
      graphdef, one.params, batch.tokens_BL, batch.answer_BA[:, 0] + 1, length
    )
  )
  length = task.sequence_length
  console.print(f'wrong outputs of {one.row.member} on unseen rules:')
  left = wrong
  for start in range(0, config.examples, config.batch_size):
    i_B = start + jnp.arange(config.batch_size, dtype=jnp.int32)
    batch = make(i_B)
    got_BL = np.asarray(decoded(batch))
    made = jax.device_get(batch)
    for b in range(min(config.batch_size, config.examples - start)):
      prompt = int(made.answer_BA[b, 0]) + 1
      want, got = made.tokens_BL[b, prompt:], got_BL[b, prompt:]
      if left and not np.array_equal(want, got):
        left -= 1
        shown = (made.tokens_BL[b, :prompt], want, got)
        _print_wrong(console, *(tokens.show(ids, task.symbols) for ids in shown))
  if left:
    console.print(f'({wrong - left} wrong outputs among {config.examples})')


def _print_wrong(console, prompt, want, got):
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


def _cell(tally: Tally | None) -> str:
  return '' if tally is None else f'{tally.sum}/{tally.count}'


def _unseen(tallies: list[Tally]) -> float:
  for t in tallies:
    if (t.split, t.slice, t.metric) == ('unseen', 'all', 'exact_match'):
      return t.value or 0.0
  return 0.0


def _few(names: list[str]) -> str:
  return ', '.join(names[:6]) + (' …' if len(names) > 6 else '')
