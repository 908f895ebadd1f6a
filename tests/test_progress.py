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


def train(clock, stack, steps, seconds):
  """A chunk that takes so many seconds for each of its steps."""
  clock.now += (steps[1] - steps[0]) * seconds
  stack.chunk(steps[1], steps[1] - steps[0], (steps[1] - steps[0]) * seconds, 0.5, 0.25)


def test_lines_come_at_once_and_then_every_fifteen_seconds(clock, capsys):
  with progress.Progress(rows=4, work=[3.0, 3.0]) as shown:
    assert capsys.readouterr().err == 'rows 0/4  compiling\n'
    stack = shown.stack(2, 100, 7, compiles=True)
    lines = []
    for step in range(0, 100, 10):
      train(clock, stack, (step, step + 10), 0.4)
      lines.append(capsys.readouterr().err)
  assert [bool(line) for line in lines] == [n in (3, 7) for n in range(10)]
  assert 'rows 0/4  step 40/100  35 examples/s  loss 0.5000' in lines[3]
  assert 'dev exact match 0.250' in lines[3]
  # 2 rows have 60 steps to go and 2 have 100, two at a time in 0.4 s.
  assert lines[3].endswith('ETA 64 s\n')


def test_after_a_resume_only_what_runs_here_tells_the_speed(clock, capsys):
  with progress.Progress(rows=9, work=[5.0, 5.0]) as shown:
    shown.rows_done = 5
    stack = shown.stack(2, 100, 7, compiles=True)
    train(clock, stack, (60, 70), 3.0)
    assert capsys.readouterr().err.endswith('ETA ?\n')
    train(clock, stack, (70, 80), 1.6)
    train(clock, stack, (80, 100), 1.0)
    line = capsys.readouterr().err.splitlines()[-1]
  # 30 steps of 2 rows took 36 s; 2 rows of 100 steps are left.
  assert 'rows 7/9  step 100/100' in line
  assert line.endswith('ETA 2 min')


def test_stacks_are_foretold_by_their_own_work(clock, capsys):
  with progress.Progress(rows=3, work=[2.0, 8.0, 4.0]) as shown:
    stack = shown.stack(1, 100, 7)
    train(clock, stack, (0, 50), 0.4)
    # 20 s for 1 unit of work; 1 + 8 + 4 are left.
    assert capsys.readouterr().err.splitlines()[-1].endswith('ETA 4 min')
    train(clock, stack, (50, 100), 0.4)
    stack.done()
    stack = shown.stack(1, 400, 7, compiles=True)
    train(clock, stack, (0, 40), 9.0)  # compiles: says nothing of the speed
    train(clock, stack, (40, 360), 0.4)
    assert capsys.readouterr().err.splitlines()[-1].endswith('ETA 96 s')


def test_evaluation_of_the_first_stack_is_foretold_by_its_share(clock, capsys):
  with progress.Progress(rows=2, work=[1.0, 1.0]) as shown:
    stack = shown.stack(1, 100, 7)
    for step, seconds in ((0, 77.0), (20, 1.0), (40, 3.0)):
      train(clock, stack, (step, step + 20), 0.5)
      clock.now += seconds
      stack.evaluated(0.125, seconds)  # the first compiles
    train(clock, stack, (60, 80), 0.5)
  # 20 and 100 steps of 0.5 s; 4 s were a quarter of the evaluation of each.
  assert capsys.readouterr().err.splitlines()[-1].endswith('ETA 92 s')


def test_evaluation_counts_without_the_first_stack(clock, capsys):
  with progress.Progress(rows=6, work=[1.0] * 6) as shown:
    for n, beside in enumerate((500, 8, 0)):  # seconds; the first stack compiles
      stack = shown.stack(1, 100, 7, compiles=not n)
      for start in (0, 50):
        train(clock, stack, (start, start + 50), 0.1)
      clock.now += beside
      if beside:
        stack.done()
    line = capsys.readouterr().err.splitlines()[-1]
    # 3.5 rows of 10 s are left to train and 4 to evaluate, 8 s each.
    assert 'rows 2/6  step 50/100' in line
    assert line.endswith('ETA 67 s')
