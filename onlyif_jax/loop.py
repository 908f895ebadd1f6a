"""The host loop of one stack: chunks of steps, logging, evaluation, checkpoints.

Everything that happens at a step happens at a fixed list of marks, so a resumed
stack does the same work in the same order as one that was never interrupted.
"""

import contextlib
import dataclasses
import os
import signal
import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from tensorboardX import SummaryWriter

from onlyif_jax import distributed
from onlyif_jax.checkpoint import Checkpointer
from onlyif_jax.evals.anatomy import Anatomist
from onlyif_jax.evals.exact_match import IN_LOOP, Evaluator, eval_sets, plain_set
from onlyif_jax.experiment import Experiment, Row
from onlyif_jax.progress import StackProgress
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


class StopSignal:
  """Turns SIGTERM and Ctrl-C into a flag that is looked at between chunks."""

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
  """The signal to stop at, 0 if none: one that any process got stops them all."""
  own = stop.number if stop is not None else 0
  number = distributed.largest(own)
  if stop is not None and number != own:
    stop.number = number
  return number


@dataclasses.dataclass(frozen=True)
class Stack:
  """Members that train together; `width` counts the padding that fills devices."""

  name: str
  rows: tuple[Row, ...]
  width: int

  @property
  def padded(self) -> list[Row]:
    """The rows, the last one repeated to the stack's width."""
    return list(self.rows) + [self.rows[-1]] * (self.width - len(self.rows))


def eval_steps(steps: int, points: int) -> list[int]:
  """Log-spaced steps at which the loop evaluates; the last is the final step."""
  if not points:
    return []
  first = max(1, steps // 128)
  return sorted({round(s) for s in np.geomspace(first, steps, points)})


def marks(steps: int, chunk: int, every: int, evals: Sequence[int]) -> list[int]:
  """The steps at which a chunk ends: a fixed list, whatever was interrupted."""
  regular = {*range(chunk, steps, chunk), *range(every, steps, every)}
  return sorted(regular | set(evals) | {steps})


class StackRun:
  """Trains one stack to the end, from its newest checkpoint if there is one."""

  def __init__(
    self,
    experiment: Experiment,
    program: StackProgram,
    evaluator: Evaluator,
    stack: Stack,
    workdir: Workdir,
    progress: StackProgress,
    stop: StopSignal | None = None,
    anatomist: Anatomist | None = None,
    on_progress: OnProgress | None = None,
  ):
    self.experiment, self.program, self.evaluator = experiment, program, evaluator
    self.anatomist = anatomist
    self.stack, self.workdir = stack, workdir
    self.progress, self.on_progress, self.stop = progress, on_progress, stop
    config = experiment.config
    members = experiment.members(stack.padded)
    self.members = distributed.place(members, program.sharding)
    self.steps = experiment.data.plan.steps
    self.eval_steps = eval_steps(self.steps, config.eval.loop_points)
    self.saves = set(
      range(config.checkpoint.every, self.steps, config.checkpoint.every)
    )
    self.failed: dict[str, int] = {}
    self.dev_match: float | None = None

  def run(self) -> bool:
    """True when the stack is done, False when a signal stopped it."""
    config = self.experiment.config
    directory = self.workdir.file(f'checkpoints/{self.stack.name}')
    with (
      Checkpointer(directory, keep=config.checkpoint.keep) as saver,
      contextlib.ExitStack() as self.closing,
    ):
      state, step = self._restore(saver)
      self.prompts = self.evaluator.training_prompts(self.members)
      self._open_events()
      todo = marks(
        self.steps, config.stack.chunk, config.checkpoint.every, self.eval_steps
      )
      for mark in [m for m in todo if m > step]:
        began = time.perf_counter()
        state, sums = self.program.train(self.members, state, jnp.int32(mark - step))
        self._log(mark, distributed.fetch(sums), mark - step, began)
        step = mark
        if mark in self.eval_steps:
          self._evaluate_in_loop(state['params'], mark)
        stopped = stop_number(self.stop)
        if mark in self.saves or mark == self.steps or stopped:
          saver.save(mark, state, wait=bool(stopped))
        if stopped and mark < self.steps:
          return False
      self._finish(state['params'], saver)
    return True

  def _restore(self, saver: Checkpointer):
    abstract = jax.eval_shape(self.program.init, self.members)
    sharded = jax.tree.map(
      lambda v: jax.ShapeDtypeStruct(v.shape, v.dtype, sharding=self.program.sharding),
      abstract,
    )
    found = saver.restore(sharded)
    step, state = (0, self.program.init(self.members)) if found is None else found
    if self.workdir.writes:
      done = done_members(self.workdir)
      self.workdir.cut_back(done, {row.member: step for row in self.stack.rows})
    return state, step

  def _open_events(self):
    """One TensorBoard run per member, rewritten from the metrics that stand."""
    self.events = {}
    if not self.workdir.writes:
      return
    rows = self.workdir.read_json_lines(METRICS)
    for row in self.stack.rows:
      directory = self.workdir.file(f'events/{row.member}')
      for old in directory.glob('events.*'):
        old.unlink()
      writer = SummaryWriter(str(directory))
      self.closing.callback(writer.close)
      self.events[row.member] = writer
    for row in rows:
      if row['member'] in self.events:
        self._write_events(row)

  def _write_events(self, row: dict):
    for name, value in row.items():
      if name not in ('member', 'step') and value is not None:
        self.events[row['member']].add_scalar(name, value, row['step'])

  def _record(self, rows: list[dict]):
    if not self.workdir.writes:
      return
    self.workdir.append_json(METRICS, *rows)
    for row in rows:
      self._write_events(row)
    if self.on_progress is not None and rows:
      self.on_progress(rows)

  def _log(self, step, sums, steps, began):
    seconds = time.perf_counter() - began
    losses, counts, failed = sums
    rows = []
    for m, row in enumerate(self.stack.rows):
      if failed[m] >= 0 and row.member not in self.failed:
        self.failed[row.member] = int(failed[m])
        known = failed_members(self.workdir) if self.workdir.writes else ()
        if row.member not in known:  # a resume meets it again
          event = {'event': 'failed', 'member': row.member, 'step': int(failed[m])}
          self.workdir.append_json('ledger.jsonl', event)
      if row.member not in self.failed:
        loss = float(losses[m] / counts[m])
        rows.append({'member': row.member, 'step': step, 'loss': loss})
    self._record(rows)
    size = self.experiment.data.plan.batch_size * len(self.stack.rows)
    self._time('train', step, seconds, steps * size / seconds)
    mean = float(np.mean([r['loss'] for r in rows])) if rows else float('nan')
    if self.workdir.writes:
      self.progress.chunk(step, steps, seconds, mean, self.dev_match)

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
    table, lines, matches = [], [], []
    for row, own in zip(self.stack.rows, tallies, strict=False):
      if row.member in self.failed:
        continue
      whole = [t for t in own if t.slice == 'all']
      table += [self.columns(row) | {'step': step} | tally_columns(t) for t in whole]
      line = {f'{t.split}/{t.metric}': t.value for t in whole}
      lines.append({'member': row.member, 'step': step} | line)
      matches.append(line['dev/exact_match'])
    for line in table:
      del line['slice'], line['rule_se']
    self._table('dynamics.csv', DYNAMICS_COLUMNS, table)
    self._record(lines)
    self.dev_match = float(np.mean(matches)) if matches else None
    seconds = time.perf_counter() - began
    self._time('eval', step, seconds)
    if self.workdir.writes:
      self.progress.judged(self._share(), seconds)

  def _share(self) -> float:
    """One evaluation in the loop as a share of all that a stack will have."""
    config = self.experiment.config.eval
    own = len(IN_LOOP) * config.loop_examples
    final = eval_sets(config, self.experiment.data.task)
    decoded = config.outputs * len({one.split for one in final})
    # Decoding with a cache costs about two passes over the sequence.
    total = len(self.eval_steps) * own + sum(one.examples for one in final)
    return own / (total + 2 * decoded)

  def _finish(self, params, saver: Checkpointer):
    began = time.perf_counter()
    config = self.experiment.config
    sets = eval_sets(config.eval, self.experiment.data.task)
    tallies = self.evaluator.tallies(params, self.members, sets, self.prompts)
    table = [
      self.columns(row) | tally_columns(tally) | self._cost()
      for row, own in zip(self.stack.rows, tallies, strict=False)
      for tally in own
      if row.member not in self.failed
    ]
    if self.anatomist is not None:
      table += self._examine(self.anatomist, params, sets)
    self._table('results.csv', RESULT_COLUMNS, table)
    good = [r.member for r in self.stack.rows if r.member not in self.failed]
    event = {'event': 'done', 'stack': self.stack.name, 'members': good}
    saver.wait()  # a stack that is done has its last checkpoint
    self.workdir.append_json('ledger.jsonl', event)
    self._time('final_eval', self.steps, time.perf_counter() - began)
    if self.workdir.writes:
      self.progress.done()

  def _examine(self, anatomist: Anatomist, params, sets):
    """Writes what the members' decoded outputs look like; more rows of results."""
    found = anatomist.examine(params, self.members, sets, self.prompts)
    pairs = [
      (row, one)
      for row, one in zip(self.stack.rows, found, strict=False)
      if row.member not in self.failed
    ]
    rows = [self.columns(row) | line for row, one in pairs for line in one.rows]
    self._table('anatomy.csv', ANATOMY_COLUMNS, rows)
    rows = [self.columns(row) | line for row, one in pairs for line in one.cells]
    self._table('cells.csv', CELL_COLUMNS, rows)
    wrong = [{'member': row.member} | line for row, one in pairs for line in one.wrong]
    self.workdir.append_json('wrong.jsonl', *wrong)
    return [
      self.columns(row) | tally_columns(tally) | self._cost()
      for row, one in pairs
      for tally in one.tallies
    ]

  def _table(self, name: str, columns: tuple[str, ...], rows: list[dict]):
    if self.workdir.writes:
      self.workdir.append_csv(name, self.workdir.columns(columns), rows)

  def _cost(self):
    return {'tokens': self.experiment.tokens, 'flops': self.experiment.flops}

  def columns(self, row: Row) -> dict:
    """The columns that name a member in every table."""
    return row.columns() | {'rules_met': self.experiment.sibling(row).rules_met(row)}


def tally_columns(tally: Tally) -> dict:
  """A tally as columns of a table."""
  return dataclasses.asdict(tally) | {'value': tally.value}


def done_members(workdir: Workdir) -> set[str]:
  """Members of the stacks that are done: their rows stand, or they failed."""
  ledger = workdir.ledger()
  stacks = {event['stack'] for event in ledger if event['event'] == 'done'}
  planned = [event for event in ledger if event['event'] == 'planned']
  return {m for event in planned if event['stack'] in stacks for m in event['members']}


def failed_members(workdir: Workdir) -> dict[str, int]:
  """Member -> the step at which it stopped being finite."""
  events = [event for event in workdir.ledger() if event['event'] == 'failed']
  return {event['member']: event['step'] for event in events}
