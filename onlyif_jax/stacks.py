"""Stacks of members that train together, as the ledger of a run records them.

The ledger gets an event `planned` per stack, then `failed` for a member that stopped
being finite, and `done` once a stack's results are written.
"""

import dataclasses

from onlyif_jax.experiment import Experiment, Row
from onlyif_jax.training.step import Trainer
from onlyif_jax.workdir import Workdir


@dataclasses.dataclass(frozen=True)
class Stack:
  """Members that train together; `width` includes the padding that fills devices."""

  name: str
  rows: tuple[Row, ...]
  width: int

  @property
  def padded(self) -> list[Row]:
    """The rows, the last one repeated up to the stack's width."""
    return list(self.rows) + [self.rows[-1]] * (self.width - len(self.rows))


def plan_stacks(
  workdir: Workdir, rows: list[Row], width: int, experiment: Experiment
) -> list[Stack]:
  """The stacks of the ledger, then new ones, which it records, for all other rows.

  The rows of a stack share a program.
  """
  by_name = {row.member: row for row in rows}
  stacks, planned = [], set()
  for event in workdir.ledger():
    if event['event'] == 'planned':
      known = tuple(by_name[m] for m in event['members'] if m in by_name)
      planned |= set(event['members'])
      if known:
        stacks.append(Stack(event['stack'], known, width))
  unplanned = [row for row in rows if row.member not in planned]
  for group in group_rows(unplanned, width, experiment):
    stack = Stack(f'{len(stacks):03d}', group, width)
    names = [row.member for row in group]
    event = {'event': 'planned', 'stack': stack.name, 'members': names}
    workdir.append_json('ledger.jsonl', event)
    stacks.append(stack)
  return stacks


def group_rows(
  rows: list[Row], width: int, experiment: Experiment
) -> list[tuple[Row, ...]]:
  """Groups of up to `width` rows that share a program, in order."""
  by_trainer: dict[Trainer, list[Row]] = {}
  for row in rows:
    by_trainer.setdefault(experiment.sibling(row).trainer, []).append(row)
  return [
    tuple(same[start : start + width])
    for same in by_trainer.values()
    for start in range(0, len(same), width)
  ]


def done_members(workdir: Workdir) -> set[str]:
  """Members of the stacks that are done, those that failed included."""
  ledger = workdir.ledger()
  done = {event['stack'] for event in ledger if event['event'] == 'done'}
  planned = [event for event in ledger if event['event'] == 'planned']
  return {m for event in planned if event['stack'] in done for m in event['members']}


def failed_members(workdir: Workdir) -> dict[str, int]:
  """Member -> the step at which it stopped being finite."""
  events = [event for event in workdir.ledger() if event['event'] == 'failed']
  return {event['member']: event['step'] for event in events}
