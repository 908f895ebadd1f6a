"""One line of progress: rows done, step, examples per second, loss, match, ETA."""

import sys
import time

from rich.console import Console
from rich.live import Live
from rich.text import Text

PLAIN_SECONDS = 15.0  # between lines where there is no terminal


class Progress:
  """Counts member-steps over the whole sweep; prints to standard error."""

  def __init__(self, rows: int, steps: int, batch_size: int):
    self.rows, self.steps, self.batch = rows, steps, batch_size
    self.rows_done = 0  # by earlier calls too
    # Member-steps of this process and the seconds they took, without the first
    # chunk, which compiles; and the seconds that each stack spent beside training.
    self.trained, self.seconds = 0, 0.0
    self.beside: list[float] = []
    self.began = 0.0  # when the last stack began, moved on by its training
    self.chunks = 0
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

  def stack(self, rows: int, steps: int | None = None, batch_size: int | None = None):
    """Starts a stack of so many rows; returns the callback for its chunks.

    steps, batch_size: of this stack, where a variant changes them; what is left is
    taken to be like it.
    """
    self.steps, self.batch = steps or self.steps, batch_size or self.batch
    now = time.monotonic()
    if self.chunks:
      self.beside.append((now - self.began) / rows)
    self.began = now

    def on_chunk(step: int, steps: int, seconds: float, loss: float, match=None):
      """Reports that `steps` steps, up to `step`, took `seconds`."""
      self.began += seconds
      self.chunks += 1
      if self.chunks > 1:
        self.trained += steps * rows
        self.seconds += seconds
      eta = self._eta(rows * step)
      if step == self.steps:
        self.rows_done += rows
      rate = steps * rows * self.batch / seconds
      shown = '' if match is None else f'  dev exact match {match:.3f}'
      self._print(
        f'rows {self.rows_done}/{self.rows}  step {step:,}/{self.steps:,}  '
        f'{rate:,.0f} examples/s  loss {loss:.4f}{shown}  ETA {eta}',
        last=self.rows_done == self.rows,
      )

    return on_chunk

  def _eta(self, current: int) -> str:
    """The time that is left; evaluation counts once a stack without compiling did it."""
    if not self.trained:
      return '?'
    left = self.rows - self.rows_done
    seconds = (left * self.steps - current) * self.seconds / self.trained
    if len(self.beside) > 1:  # the first stack compiles
      seconds += left * sum(self.beside[1:]) / len(self.beside[1:])
    return f'{seconds:.0f} s' if seconds < 100 else f'{seconds / 60:.0f} min'

  def _print(self, line: str, *, last: bool = False):
    if self.console.is_terminal:
      self.live.update(Text(line, no_wrap=True, overflow='ellipsis'))
    elif last or time.monotonic() - self.printed > PLAIN_SECONDS:
      self.printed = time.monotonic()
      print(line, file=sys.stderr, flush=True)
