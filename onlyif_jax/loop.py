"""The host loop of one stack: chunks of steps, logging, evaluation, checkpoints.

Chunks end at a fixed list of steps, so a resumed stack does the same work in the same
order as one that was never interrupted.
"""

import contextlib
import dataclasses
import os
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tensorboardX import SummaryWriter

from onlyif_jax import distributed
from onlyif_jax.checkpoint import Checkpointer
from onlyif_jax.evals.anatomy import Anatomist
from onlyif_jax.evals.exact_match import (
  IN_LOOP,
  EvalSet,
  Evaluator,
  eval_sets,
  plain_set,
)
from onlyif_jax.experiment import Experiment, Row
from onlyif_jax.progress import StackProgress
from onlyif_jax.stacks import Stack, done_members, failed_members
from onlyif_jax.training.metrics import Tally
from onlyif_jax.training.parallel import StackProgram
from onlyif_jax.workdir import (
  ANATOMY_COLUMNS,
  CELL_COLUMNS,
  DYNAMICS_COLUMNS,
  RESULT_COLUMNS,
  TIMING_COLUMNS,
  Workdir,
)

METRICS = 'metrics.jsonl'
OnProgress = Callable[[list[dict]], None]  # takes rows of METRICS as they are written


class Programs(NamedTuple):
  """The compiled programs that stacks with equal trainers share."""

  train: StackProgram
  evaluator: Evaluator
  anatomist: Anatomist | None  # None where no outputs are examined


class StopSignal:
  """Turns SIGTERM and Ctrl-C into a flag that is polled between chunks."""

  def __init__(self):
    self.number = 0
    for number in (signal.SIGTERM, signal.SIGINT):
      signal.signal(number, self._set)

  def _set(self, number, frame):
    del frame
    if self.number == signal.SIGINT:  # a second Ctrl-C ends at once
      raise KeyboardInterrupt
    self.number = number
    text = 'stopping after this chunk and a save; Ctrl-C ends at once\n'
    os.write(2, text.encode())  # print is not safe in a signal handler


def stop_number(stop: StopSignal | None) -> int:
  """The signal that any process got, which stops them all; 0 if none did."""
  own = stop.number if stop is not None else 0
  number = distributed.largest(own)
  if stop is not None and number != own:
    stop.number = number
  return number


def eval_steps(steps: int, points: int) -> list[int]:
  """Log-spaced steps of in-loop evaluations, the final step included."""
  if not points:
    return []
  first = max(1, steps // 128)
  return sorted({round(s) for s in np.geomspace(first, steps, points)})


def chunk_ends(steps: int, chunk: int, every: int, evals: Sequence[int]) -> list[int]:
  """The steps at which chunks end; they do not depend on where a run was resumed.

  chunk: most steps of a chunk; every: steps between checkpoints; evals: steps of
  in-loop evaluations.
  """
  regular = {*range(chunk, steps, chunk), *range(every, steps, every)}
  return sorted(regular | set(evals) | {steps})


class StackRun:
  """Trains one stack to the end, from its newest checkpoint if there is one."""

  def __init__(
    self,
    experiment: Experiment,
    programs: Programs,
    stack: Stack,
    workdir: Workdir,
    progress: StackProgress,
    stop: StopSignal | None = None,
    on_progress: OnProgress | None = None,
  ):
    self.experiment, self.stack, self.workdir = experiment, stack, workdir
    self.program, self.evaluator, self.anatomist = programs
    self.progress, self.on_progress, self.stop = progress, on_progress, stop
    config = experiment.config
    members = experiment.members(stack.padded)
    self.members = distributed.place(members, self.program.sharding)
    self.steps = experiment.data.plan.steps
    self.eval_steps = eval_steps(self.steps, config.eval.loop_points)
    self.save_steps = set(
      range(config.checkpoint.every, self.steps, config.checkpoint.every)
    )
    self.failed: dict[str, int] = {}
    self.dev_match: float | None = None

  def run(self) -> bool:
    """Returns True when the stack is done, False when a signal stopped it."""
    config = self.experiment.config
    directory = self.workdir.file(f'checkpoints/{self.stack.name}')
    with (
      Checkpointer(directory, keep=config.checkpoint.keep) as saver,
      contextlib.ExitStack() as self.closing,
    ):
      state, step = self._restore(saver)
      self.prompts = self.evaluator.training_prompts(self.members)
      self._open_events()
      ends = chunk_ends(
        self.steps, config.stack.chunk, config.checkpoint.every, self.eval_steps
      )
      for end in [end for end in ends if end > step]:
        began = time.perf_counter()
        state, sums = self.program.train(self.members, state, jnp.int32(end - step))
        self._log(end, distributed.fetch(sums), end - step, began)
        step = end
        if step in self.eval_steps:
          self._evaluate_in_loop(state['params'], step)
        stopped = stop_number(self.stop)
        if step in self.save_steps or step == self.steps or stopped:
          saver.save(step, state, wait=bool(stopped))
        if stopped and step < self.steps:
          return False
      self._finish(state['params'], saver)
    return True

  def _restore(self, saver: Checkpointer):
    """(state, step) of the newest checkpoint, or a fresh state; cuts tables back."""
    abstract = jax.eval_shape(self.program.init, self.members)
    sharded = jax.tree.map(
      lambda v: jax.ShapeDtypeStruct(v.shape, v.dtype, sharding=self.program.sharding),
      abstract,
    )
    restored = saver.restore(sharded)
    step, state = restored or (0, self.program.init(self.members))
    if self.workdir.writes:
      done = done_members(self.workdir)
      self.workdir.cut_back(done, {row.member: step for row in self.stack.rows})
    return state, step

  def _open_events(self):
    """Opens one TensorBoard run per member, rewritten from metrics.jsonl."""
    self.events = {}
    if not self.workdir.writes:
      return
    for row in self.stack.rows:
      directory = self.workdir.file(f'events/{row.member}')
      for old in directory.glob('events.*'):
        old.unlink()
      writer = SummaryWriter(str(directory))
      self.closing.callback(writer.close)
      self.events[row.member] = writer
    for metrics in self.workdir.read_json_lines(METRICS):
      if metrics['member'] in self.events:
        self._write_events(metrics)

  def _write_events(self, metrics: dict):
    for name, value in metrics.items():
      if name not in ('member', 'step') and value is not None:
        self.events[metrics['member']].add_scalar(name, value, metrics['step'])

  def _record(self, rows: list[dict]):
    """Writes rows of metrics.jsonl, also to TensorBoard, and hands them on."""
    if not self.workdir.writes:
      return
    self.workdir.append_json(METRICS, *rows)
    for metrics in rows:
      self._write_events(metrics)
    if self.on_progress is not None and rows:
      self.on_progress(rows)

  def _log(self, step, sums, steps, began):
    """Records a chunk: losses, members that stopped being finite, and its time."""
    seconds = time.perf_counter() - began
    losses, counts, failed = sums
    metrics = []
    for m, row in enumerate(self.stack.rows):
      if failed[m] >= 0 and row.member not in self.failed:
        self._note_failure(row.member, int(failed[m]))
      if row.member not in self.failed:
        loss = float(losses[m] / counts[m])
        metrics.append({'member': row.member, 'step': step, 'loss': loss})
    self._record(metrics)
    batch_size = self.experiment.data.plan.batch_size * len(self.stack.rows)
    self._time('train', step, seconds, steps * batch_size / seconds)
    mean = float(np.mean([m['loss'] for m in metrics])) if metrics else float('nan')
    if self.workdir.writes:
      self.progress.chunk(step, steps, seconds, mean, self.dev_match)

  def _note_failure(self, member: str, step: int):
    self.failed[member] = step
    known = failed_members(self.workdir) if self.workdir.writes else ()
    if member not in known:  # a resumed run fails there again
      event = {'event': 'failed', 'member': member, 'step': step}
      self.workdir.append_json('ledger.jsonl', event)

  def _time(self, what, step, seconds, rate=None):
    row = {
      'stack': self.stack.name,
      'what': what,
      'step': step,
      'seconds': round(seconds, 4),
      'examples_per_s': rate and round(rate, 1),
    }
    self.workdir.append_csv('timing.csv', TIMING_COLUMNS, [row])

  def _evaluate_in_loop(self, params, step):
    began = time.perf_counter()
    n = self.experiment.config.eval.loop_examples
    sets = [plain_set(self.experiment.data.task, split, n) for split in IN_LOOP]
    tallies = self.evaluator.tallies(params, self.members, sets, self.prompts)
    table, metrics, matches = [], [], []
    for row, member_tallies in self._finite(tallies):
      overall = [t for t in member_tallies if t.slice == 'all']
      for tally in overall:
        columns = self.columns(row) | {'step': step} | tally_columns(tally)
        del columns['slice'], columns['rule_se']
        table.append(columns)
      values = {f'{t.split}/{t.metric}': t.value for t in overall}
      metrics.append({'member': row.member, 'step': step} | values)
      matches.append(values['dev/exact_match'])
    self._table('dynamics.csv', DYNAMICS_COLUMNS, table)
    self._record(metrics)
    self.dev_match = float(np.mean(matches)) if matches else None
    seconds = time.perf_counter() - began
    self._time('eval', step, seconds)
    if self.workdir.writes:
      self.progress.evaluated(self._eval_share(), seconds)

  def _eval_share(self) -> float:
    """One in-loop evaluation as a share of all evaluation of a stack."""
    config = self.experiment.config.eval
    in_loop = len(IN_LOOP) * config.loop_examples
    final = eval_sets(config, self.experiment.data.task)
    decoded = config.outputs * len({eval_set.split for eval_set in final})
    # Decoding with a cache costs about two passes over the sequence.
    total = len(self.eval_steps) * in_loop + sum(s.examples for s in final)
    return in_loop / (total + 2 * decoded)

  def _finish(self, params, saver: Checkpointer):
    """The final evaluation; the ledger then calls the stack done."""
    began = time.perf_counter()
    config = self.experiment.config
    sets = eval_sets(config.eval, self.experiment.data.task)
    tallies = self.evaluator.tallies(params, self.members, sets, self.prompts)
    table = [
      self._result(row, tally)
      for row, member_tallies in self._finite(tallies)
      for tally in member_tallies
    ]
    if self.anatomist is not None:
      table += self._examine(self.anatomist, params, sets)
    self._table('results.csv', RESULT_COLUMNS, table)
    finite = [r.member for r in self.stack.rows if r.member not in self.failed]
    event = {'event': 'done', 'stack': self.stack.name, 'members': finite}
    saver.wait()  # a stack that is done has its last checkpoint
    self.workdir.append_json('ledger.jsonl', event)
    self._time('final_eval', self.steps, time.perf_counter() - began)
    if self.workdir.writes:
      self.progress.done()

  def _examine(
    self, anatomist: Anatomist, params, sets: Sequence[EvalSet]
  ) -> list[dict]:
    """Writes the anatomy of the members' decoded outputs; returns rows of results."""
    anatomies = anatomist.examine(params, self.members, sets, self.prompts)
    classes, cells, wrong, results = [], [], [], []
    for row, anatomy in self._finite(anatomies):
      columns = self.columns(row)
      classes += [columns | line for line in anatomy.rows]
      cells += [columns | line for line in anatomy.cells]
      wrong += [{'member': row.member} | line for line in anatomy.wrong]
      results += [self._result(row, tally) for tally in anatomy.tallies]
    self._table('anatomy.csv', ANATOMY_COLUMNS, classes)
    self._table('cells.csv', CELL_COLUMNS, cells)
    self.workdir.append_json('wrong.jsonl', *wrong)
    return results

  def _finite(self, values: Iterable) -> list[tuple[Row, Any]]:
    """(row, value) of the members that stayed finite; values: by place in the stack."""
    pairs = zip(self.stack.rows, values, strict=False)  # padding has no row
    return [(row, value) for row, value in pairs if row.member not in self.failed]

  def _table(self, name: str, columns: tuple[str, ...], rows: list[dict]):
    if self.workdir.writes:
      self.workdir.append_csv(name, self.workdir.columns(columns), rows)

  def _result(self, row: Row, tally: Tally) -> dict:
    """A row of results.csv."""
    cost = {'tokens': self.experiment.tokens, 'flops': self.experiment.flops}
    return self.columns(row) | tally_columns(tally) | cost

  def columns(self, row: Row) -> dict:
    """The columns that identify a member in every table."""
    return row.columns() | {'rules_met': self.experiment.sibling(row).rules_met(row)}


def tally_columns(tally: Tally) -> dict:
  """A tally as columns of a table."""
  return dataclasses.asdict(tally) | {'value': tally.value}
