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
    self.rows_done = 0  # before this call
    self.done, self.fresh = 0, 0  # member-steps in all, and made by this process
    self.began = time.monotonic()
    self.printed = 0.0
    self.console = Console(file=sys.stderr)
    self.live = Live(console=self.console, refresh_per_second=4, transient=True)

  def __enter__(self):
    if self.console.is_terminal:
      self.live.start()
    return self

  def __exit__(self, *exc):
    if self.console.is_terminal:
      self.live.stop()

  def stack(self, rows: int):
    """Starts a stack of so many rows; returns the callback for its chunks."""
    before = 0

    def on_chunk(step: int, loss: float, match: float | None):
      nonlocal before
      # A resumed stack starts above zero; only what ran here counts for the rate.
      made = (step - before) * rows if before else 0
      before = step
      self.fresh += made
      self._show(self.rows_done, rows * step, step, loss, match)
      if step == self.steps:
        self.rows_done += rows

    return on_chunk

  def _show(self, rows_done, current, step, loss, match):
    seconds = time.monotonic() - self.began
    left = self.rows * self.steps - rows_done * self.steps - current
    rate = self.fresh / seconds if self.fresh else 0.0
    eta = f'{left / rate / 60:.1f} min' if rate else '?'
    shown = '' if match is None else f'  dev exact match {match:.3f}'
    line = (
      f'rows {rows_done}/{self.rows}  step {step}/{self.steps}  '
      f'{rate * self.batch:,.0f} examples/s  loss {loss:.4f}{shown}  ETA {eta}'
    )
    if self.console.is_terminal:
      self.live.update(Text(line))
    elif time.monotonic() - self.printed > PLAIN_SECONDS:
      self.printed = time.monotonic()
      print(line, file=sys.stderr, flush=True)
