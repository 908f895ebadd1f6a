"""The progress line where there is no terminal: when it comes, and its ETA."""

import pytest

from onlyif_jax import progress


class Clock:
  """Time that passes only when it is told to."""

  def __init__(self):
    self.now = 1000.0

  def monotonic(self):
    return self.now


@pytest.fixture
def clock(monkeypatch):
  clock = Clock()
  monkeypatch.setattr(progress, 'time', clock)
  return clock


def train(clock, on_chunk, steps, seconds):
  """A chunk that takes so many seconds for each of its steps."""
  clock.now += (steps[1] - steps[0]) * seconds
  on_chunk(steps[1], steps[1] - steps[0], (steps[1] - steps[0]) * seconds, 0.5, 0.25)


def test_lines_come_at_once_and_then_every_fifteen_seconds(clock, capsys):
  with progress.Progress(rows=4, steps=100, batch_size=7) as shown:
    assert capsys.readouterr().err == 'rows 0/4  compiling\n'
    on_chunk = shown.stack(2)
    lines = []
    for step in range(0, 100, 10):
      train(clock, on_chunk, (step, step + 10), 0.4)
      lines.append(capsys.readouterr().err)
  assert [bool(line) for line in lines] == [n in (3, 7) for n in range(10)]
  assert 'rows 0/4  step 40/100  35 examples/s  loss 0.5000' in lines[3]
  assert 'dev exact match 0.250' in lines[3]
  # 2 rows have 60 steps to go and 2 have 100, two at a time in 0.4 s.
  assert lines[3].endswith('ETA 64 s\n')


def test_after_a_resume_only_what_runs_here_tells_the_speed(clock, capsys):
  with progress.Progress(rows=9, steps=100, batch_size=7) as shown:
    shown.rows_done = 5
    on_chunk = shown.stack(2)
    train(clock, on_chunk, (60, 70), 3.0)  # compiles
    assert capsys.readouterr().err.endswith('ETA ?\n')
    train(clock, on_chunk, (70, 80), 1.6)
    train(clock, on_chunk, (80, 100), 1.0)
    line = capsys.readouterr().err.splitlines()[-1]
    # 30 steps of 2 rows took 36 s; 2 rows of 100 steps are left.
    assert 'rows 7/9  step 100/100' in line
    assert line.endswith('ETA 2 min')


def test_evaluation_counts_without_the_first_stack(clock, capsys):
  with progress.Progress(rows=6, steps=100, batch_size=7) as shown:
    for beside in (500, 8, 0):  # seconds of evaluation; the first stack compiles
      on_chunk = shown.stack(1)
      for start in (0, 50):
        train(clock, on_chunk, (start, start + 50), 0.1)
      clock.now += beside
  out = capsys.readouterr().err.splitlines()
  # 3.5 rows of 10 s are left to train and 4 to evaluate, 8 s each.
  assert 'rows 2/6  step 50/100' in out[-1]
  assert out[-1].endswith('ETA 67 s')
