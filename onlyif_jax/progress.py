"""One line of progress: rows done, step, examples per second, loss, match, ETA."""

import sys
import time
from collections.abc import Sequence

from rich.console import Console
from rich.live import Live
from rich.text import Text

PLAIN_SECONDS = 15.0  # between lines where there is no terminal


class Progress:
  """Follows a run stack by stack; prints to standard error.

  work: what the training of each stack that is left costs, in their order and in any
  unit, so that stacks of different sizes foretell each other.
  """

  def __init__(self, rows: int, work: Sequence[float]):
    self.rows, self.left = rows, list(work)
    self.rows_done = 0  # by earlier calls too
    # The work that was done here and its seconds, without chunks that compile.
    self.trained, self.seconds = 0.0, 0.0
    # The same of evaluations, whose unit is that of one stack; and the seconds that
    # every whole stack spent beside training.
    self.judged, self.judging = 0.0, 0.0
    self.beside: list[float] = []
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

  def stack(self, rows: int, steps: int, batch_size: int, *, compiles=False):
    """Starts the next stack; returns what is to be told of it.

    compiles: whether its first chunk has to.
    """
    return StackProgress(self, rows, steps, batch_size, compiles)

  def show(self, line: str, share: float):
    """Prints a line with the time that is left; share: of the current stack's work."""
    left = (sum(self.left) - share * self.left[0]) if self.left else 0.0
    eta = '?'
    if self.trained:
      seconds = left * self.seconds / self.trained
      # The first stack compiles: what it spent says nothing of the next.
      if len(self.beside) > 1:
        seconds += len(self.left) * sum(self.beside[1:]) / len(self.beside[1:])
      elif self.judged:
        seconds += len(self.left) * self.judging / self.judged
      eta = f'{seconds:.0f} s' if seconds < 100 else f'{seconds / 60:.0f} min'
    text = f'rows {self.rows_done}/{self.rows}  {line}  ETA {eta}'
    self._print(text, last=self.rows_done == self.rows)

  def _print(self, line: str, *, last: bool = False):
    if self.console.is_terminal:
      self.live.update(Text(line, no_wrap=True, overflow='ellipsis'))
    elif last or time.monotonic() - self.printed > PLAIN_SECONDS:
      self.printed = time.monotonic()
      print(line, file=sys.stderr, flush=True)


class StackProgress:
  """What is told of one stack; the stack ends with `done`."""

  def __init__(self, whole: Progress, rows, steps, batch_size, compiles):
    self.whole, self.rows, self.steps = whole, rows, steps
    self.batch_size, self.compiles = batch_size, compiles
    self.began, self.training, self.judgements = time.monotonic(), 0.0, 0

  def chunk(self, step: int, steps: int, seconds: float, loss: float, match=None):
    """Steps, up to `step`, took `seconds`; match: exact match on dev rules."""
    whole = self.whole
    if not self.compiles:
      self.training += seconds
      whole.trained += whole.left[0] * steps / self.steps
      whole.seconds += seconds
    self.compiles = False
    rate = steps * self.rows * self.batch_size / seconds
    shown = '' if match is None else f'  dev exact match {match:.3f}'
    if step == self.steps:
      whole.rows_done += self.rows
    whole.show(
      f'step {step:,}/{self.steps:,}  {rate:,.0f} examples/s  loss {loss:.4f}{shown}',
      step / self.steps,
    )

  def judged(self, share: float, seconds: float):
    """An evaluation took `seconds`; share: of all evaluation of a stack."""
    self.judgements += 1
    if self.judgements > 1:  # the first compiles
      self.whole.judged += share
      self.whole.judging += seconds

  def done(self):
    """The stack is done, its evaluation too."""
    self.whole.left.pop(0)
    self.whole.beside.append(time.monotonic() - self.began - self.training)
