"""One line of progress: rows done, step, examples per second, loss, match, ETA."""

import sys
import time
from collections.abc import Sequence

from rich.console import Console
from rich.live import Live
from rich.text import Text

PLAIN_SECONDS = 15.0  # between lines outside a terminal


class Progress:
  """Follows a run stack by stack and estimates its end; prints to standard error.

  work: the training cost of each remaining stack, in order and in any unit, so that
  the time of one stack predicts that of another size.
  """

  def __init__(self, rows: int, work: Sequence[float]):
    self.rows, self.remaining = rows, list(work)
    self.rows_done = 0  # by earlier runs too
    # Work of the timed chunks and its seconds; chunks that compile are not timed.
    self.trained, self.train_seconds = 0.0, 0.0
    # The same of in-loop evaluations, in units of all evaluation of one stack.
    self.evaluated, self.eval_seconds = 0.0, 0.0
    self.other_seconds: list[float] = []  # of each finished stack, outside training
    self.printed = -PLAIN_SECONDS
    self.console = Console(file=sys.stderr)
    self.live = Live(console=self.console, refresh_per_second=4, transient=True)

  def __enter__(self):
    if self.console.is_terminal:
      self.live.start()
    self._print(f'rows {self.rows_done}/{self.rows}  compiling')
    return self

  def __exit__(self, *exc):
    if self.console.is_terminal:
      self.live.stop()

  def stack(
    self, rows: int, steps: int, batch_size: int, *, compiles: bool = False
  ) -> 'StackProgress':
    """Starts the next stack; compiles: whether its first chunk has to."""
    return StackProgress(self, rows, steps, batch_size, compiles)

  def show(self, line: str, share: float) -> None:
    """Prints a line with an ETA; share: of the current stack's training, done so far."""
    work = sum(self.remaining) - share * self.remaining[0] if self.remaining else 0.0
    eta = '?'
    if self.trained:
      seconds = work * self.train_seconds / self.trained
      stacks = len(self.remaining)
      # The first stack compiles, so its other seconds say nothing about the next.
      if len(self.other_seconds) > 1:
        others = self.other_seconds[1:]
        seconds += stacks * sum(others) / len(others)
      elif self.evaluated:
        seconds += stacks * self.eval_seconds / self.evaluated
      eta = f'{seconds:.0f} s' if seconds < 100 else f'{seconds / 60:.0f} min'
    text = f'rows {self.rows_done}/{self.rows}  {line}  ETA {eta}'
    self._print(text, last=self.rows_done == self.rows)

  def _print(self, line: str, *, last: bool = False) -> None:
    if self.console.is_terminal:
      self.live.update(Text(line, no_wrap=True, overflow='ellipsis'))
    elif last or time.monotonic() - self.printed > PLAIN_SECONDS:
      self.printed = time.monotonic()
      print(line, file=sys.stderr, flush=True)


class StackProgress:
  """The progress of one stack, which ends with `done`."""

  def __init__(
    self, run: Progress, rows: int, steps: int, batch_size: int, compiles: bool
  ):
    self.run, self.rows, self.steps = run, rows, steps
    self.batch_size, self.compiles = batch_size, compiles
    self.began, self.train_seconds, self.evaluations = time.monotonic(), 0.0, 0

  def chunk(
    self,
    step: int,
    steps: int,
    seconds: float,
    loss: float,
    match: float | None = None,
  ) -> None:
    """Reports `steps` steps up to `step`; match: exact match on dev rules."""
    run = self.run
    if not self.compiles:
      self.train_seconds += seconds
      run.trained += run.remaining[0] * steps / self.steps
      run.train_seconds += seconds
    self.compiles = False
    rate = steps * self.rows * self.batch_size / seconds
    dev = '' if match is None else f'  dev exact match {match:.3f}'
    if step == self.steps:
      run.rows_done += self.rows
    run.show(
      f'step {step:,}/{self.steps:,}  {rate:,.0f} examples/s  loss {loss:.4f}{dev}',
      step / self.steps,
    )

  def evaluated(self, share: float, seconds: float) -> None:
    """Reports an in-loop evaluation; share: of all evaluation of the stack."""
    self.evaluations += 1
    if self.evaluations > 1:  # the first compiles
      self.run.evaluated += share
      self.run.eval_seconds += seconds

  def done(self) -> None:
    """Reports that the stack is done, final evaluation included."""
    self.run.remaining.pop(0)
    elapsed = time.monotonic() - self.began
    self.run.other_seconds.append(elapsed - self.train_seconds)
