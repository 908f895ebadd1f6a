"""A sweep in shards, each of which trains every n-th stack in its own directory.

`<workdir>/shards/<i>-of-<n>/` is a complete workdir. `gather` merges the members that
are done into `<workdir>`, in the order of a single run; checkpoints stay in place.
"""

import csv
import dataclasses
import io
import json
import re
from pathlib import Path
from typing import NamedTuple

from onlyif_jax.config import ConfigError, RunConfig, flatten
from onlyif_jax.workdir import Workdir

FOLDER = 'shards'


@dataclasses.dataclass(frozen=True)
class Stack:
  """A stack of a shard that is done."""

  name: str  # in its shard
  shard: int
  position: int  # among the stacks of its shard
  workdir: Workdir
  members: tuple[str, ...]

  @property
  def gathered_name(self) -> str:
    """Its name in the merged ledger: a path relative to `checkpoints/`."""
    return f'../{FOLDER}/{self.workdir.path.name}/checkpoints/{self.name}'


def parse(text: str) -> tuple[int, int]:
  """'2/8' -> (2, 8); raises ConfigError."""
  match = re.fullmatch(r'(\d+)/(\d+)', text)
  if match is None or not 1 <= int(match[1]) <= int(match[2]):
    raise ConfigError(f'--shard={text} is not like 2/8, the second of eight')
  return int(match[1]), int(match[2])


def place(workdir: Path | str, shard: tuple[int, int]) -> Path:
  """The directory of a shard."""
  return Path(workdir) / FOLDER / f'{shard[0]}-of-{shard[1]}'


def gather(workdir: Path | str) -> Path:
  """Merges the shards of a sweep, as far as they are done; returns the workdir.

  Does nothing where there are no shards. Raises ConfigError for shards of different
  configs or numbers, and where the workdir itself holds a run.
  """
  merged = Workdir(workdir)
  started = _shards(merged)
  if not started:
    return merged.path
  for event in merged.ledger():
    if event['event'] == 'planned' and not event['stack'].startswith('../'):
      raise ConfigError(
        f'{merged.path} holds a run of its own beside its shards; move one of them away'
      )
  _check_same_config(merged, started)
  first = started[min(started)].workdir
  total = int(first.path.name.partition('-of-')[2])
  stacks = [
    stack for i, shard in sorted(started.items()) for stack in _done(i, shard.workdir)
  ]
  if not stacks:
    raise ConfigError(f'{merged.path}: no stack of its shards is done yet')
  stacks.sort(key=lambda stack: (stack.position, stack.shard))
  merged.file('checkpoints').mkdir(exist_ok=True)  # names of stacks are relative to it
  for name in ('config.json', 'splits.json', 'provenance.json'):
    merged.write_text(name, first.file(name).read_text())
  shards = started.values()
  for name in sorted(
    {p.name for shard in shards for p in shard.workdir.path.iterdir()}
  ):
    if name.endswith('.csv'):
      _gather_table(merged, name, stacks)
    elif name.endswith('.jsonl') and name != 'resumes.jsonl':
      _gather_lines(merged, name, stacks)
  missing = sorted(set(range(1, total + 1)) - {stack.shard for stack in stacks})
  note = f'; nothing yet from {", ".join(map(str, missing))}' if missing else ''
  members = sum(len(stack.members) for stack in stacks)
  print(f'{merged.path}: {members} members of {len(started)} of {total} shards{note}')
  return merged.path


class _Shard(NamedTuple):
  workdir: Workdir
  config: RunConfig


def _shards(merged: Workdir) -> dict[int, _Shard]:
  """The shards that have started, by number."""
  started, totals = {}, set()
  for path in sorted(merged.file(FOLDER).glob('*-of-*')):
    workdir = Workdir(path)
    config = workdir.config()
    if config is not None:
      i, _, n = path.name.partition('-of-')
      started[int(i)] = _Shard(workdir, config)
      totals.add(int(n))
  if len(totals) > 1:
    raise ConfigError(
      f'{merged.file(FOLDER)} holds shards of {" and ".join(map(str, sorted(totals)))}; '
      'move the older ones away'
    )
  return started


def _check_same_config(merged: Workdir, started: dict[int, _Shard]) -> None:
  """Raises ConfigError for shards of different configs, stacks aside."""
  first = min(started)
  a = _settings(started[first].config)
  for i, shard in started.items():
    b = _settings(shard.config)
    if differing := [f'{k}: {a[k]!r} and {b[k]!r}' for k in a if a[k] != b.get(k)]:
      raise ConfigError(
        f'{merged.file(FOLDER)}: shards {first} and {i} have different configs '
        f'({"; ".join(differing)}); run them again with one config'
      )


def _settings(config: RunConfig) -> dict:
  return {k: v for k, v in flatten(config).items() if not k.startswith('stack.')}


def _done(i: int, shard: Workdir) -> list[Stack]:
  """The stacks of a shard that are done."""
  ledger = shard.ledger()
  done = {event['stack'] for event in ledger if event['event'] == 'done'}
  planned = [event for event in ledger if event['event'] == 'planned']
  return [
    Stack(event['stack'], i, n, shard, tuple(event['members']))
    for n, event in enumerate(planned)
    if event['stack'] in done
  ]


def _gather_table(merged: Workdir, name: str, stacks: list[Stack]) -> None:
  """Writes a table's rows, stack by stack; timings are rows of a stack, not a member."""
  rows: list[dict] = []
  for stack in stacks:
    for row in stack.workdir.read_csv(name):
      if row.get('member') in stack.members:
        rows.append(row)
      elif 'member' not in row and row['stack'] == stack.name:
        rows.append(row | {'stack': stack.gathered_name})
  if rows:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), lineterminator='\n')
    writer.writeheader()
    writer.writerows(rows)
    merged.write_text(name, out.getvalue())


def _gather_lines(merged: Workdir, name: str, stacks: list[Stack]) -> None:
  """Writes JSON lines, stack by stack; those of the ledger get the gathered name."""
  out: list[dict] = []
  for stack in stacks:
    for line in stack.workdir.read_json_lines(name):
      if line.get('stack') == stack.name:
        out.append(line | {'stack': stack.gathered_name})
      elif line.get('member') in stack.members:
        out.append(line)
  merged.write_text(name, ''.join(json.dumps(line) + '\n' for line in out))
