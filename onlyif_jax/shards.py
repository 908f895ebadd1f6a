"""A sweep in shards: each trains every n-th stack in a directory of its own.

`<workdir>/shards/<i>-of-<n>/` is a whole workdir. `gather` puts the members that are
done together in `<workdir>`, in the order in which one run would have left them; their
checkpoints stay where they are.
"""

import csv
import dataclasses
import io
import json
import re
from pathlib import Path

from onlyif_jax.config import ConfigError, RunConfig, flatten
from onlyif_jax.workdir import Workdir

FOLDER = 'shards'


@dataclasses.dataclass(frozen=True)
class Stack:
  """A stack of a shard that is done."""

  name: str  # in its shard
  shard: int
  place: int  # among the stacks of its shard
  workdir: Workdir
  members: tuple[str, ...]

  @property
  def gathered(self) -> str:
    """Its name in the gathered ledger: a path from `checkpoints/`."""
    return f'../{FOLDER}/{self.workdir.path.name}/checkpoints/{self.name}'


def parse(text: str) -> tuple[int, int]:
  """'2/8' -> (2, 8); raises ConfigError."""
  found = re.fullmatch(r'(\d+)/(\d+)', text)
  if found is None or not 1 <= int(found[1]) <= int(found[2]):
    raise ConfigError(f'--shard={text} is not like 2/8, the second of eight')
  return int(found[1]), int(found[2])


def place(workdir: Path | str, shard: tuple[int, int]) -> Path:
  """The directory of a shard."""
  return Path(workdir) / FOLDER / f'{shard[0]}-of-{shard[1]}'


def gather(workdir: Path | str) -> Path:
  """Puts a sweep's shards together, as far as they are; returns the workdir.

  Does nothing where there are no shards. Raises ConfigError for shards of different
  configs or numbers, and where the workdir holds a run of its own.
  """
  whole = Workdir(workdir)
  found = _shards(whole)
  if not found:
    return whole.path
  for event in whole.ledger():
    if event['event'] == 'planned' and not event['stack'].startswith('../'):
      raise ConfigError(
        f'{whole.path} holds a run of its own beside its shards; move one of them away'
      )
  number = _same(whole, found)
  stacks = [
    stack for i, (shard, _) in sorted(found.items()) for stack in _done(i, shard)
  ]
  if not stacks:
    raise ConfigError(f'{whole.path}: no stack of its shards is done yet')
  stacks.sort(key=lambda stack: (stack.place, stack.shard))
  whole.file('checkpoints').mkdir(exist_ok=True)  # names of stacks begin there
  first = min(found)
  for name in ('config.json', 'splits.json', 'provenance.json'):
    whole.write_text(name, found[first][0].file(name).read_text())
  names = {path.name for shard, _ in found.values() for path in shard.path.iterdir()}
  for name in sorted(names):
    if name.endswith('.csv'):
      _gather_table(whole, name, stacks)
    elif name.endswith('.jsonl') and name != 'resumes.jsonl':
      _gather_lines(whole, name, stacks)
  missing = sorted(set(range(1, number + 1)) - {s.shard for s in stacks})
  told = f'; nothing yet from {", ".join(map(str, missing))}' if missing else ''
  members = sum(len(stack.members) for stack in stacks)
  print(f'{whole.path}: {members} members of {len(found)} of {number} shards{told}')
  return whole.path


def _shards(whole: Workdir) -> dict[int, tuple[Workdir, RunConfig]]:
  """The shards that have begun, by number."""
  found, numbers = {}, set()
  for path in sorted(whole.file(FOLDER).glob('*-of-*')):
    shard, config = Workdir(path), Workdir(path).config()
    if config is not None:
      i, _, n = path.name.partition('-of-')
      found[int(i)] = shard, config
      numbers.add(int(n))
  if len(numbers) > 1:
    raise ConfigError(
      f'{whole.file(FOLDER)} holds shards of {" and ".join(map(str, sorted(numbers)))}; '
      'move the older ones away'
    )
  return found


def _same(whole: Workdir, found) -> int:
  """Refuses shards of different configs; the number of shards that there should be."""
  first = min(found)
  a = _settings(found[first][1])
  for i, (_, config) in found.items():
    b = _settings(config)
    if wrong := [f'{k}: {a[k]!r} and {b[k]!r}' for k in a if a[k] != b.get(k)]:
      raise ConfigError(
        f'{whole.file(FOLDER)}: shards {first} and {i} have different configs '
        f'({"; ".join(wrong)}); run them again with one config'
      )
  return int(found[first][0].path.name.partition('-of-')[2])


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


def _gather_table(whole: Workdir, name: str, stacks: list[Stack]) -> None:
  """A table's rows, stack by stack; timings are told apart by stack alone."""
  rows: list[dict] = []
  for stack in stacks:
    for row in stack.workdir.read_csv(name):
      if row.get('member') in stack.members:
        rows.append(row)
      elif 'member' not in row and row['stack'] == stack.name:
        rows.append(row | {'stack': stack.gathered})
  if rows:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), lineterminator='\n')
    writer.writeheader()
    writer.writerows(rows)
    whole.write_text(name, out.getvalue())


def _gather_lines(whole: Workdir, name: str, stacks: list[Stack]) -> None:
  """Lines of JSON, stack by stack; those of the ledger get the stack's new name."""
  out: list[dict] = []
  for stack in stacks:
    for line in stack.workdir.read_json_lines(name):
      if line.get('stack') == stack.name:
        out.append(line | {'stack': stack.gathered})
      elif line.get('member') in stack.members:
        out.append(line)
  whole.write_text(name, ''.join(json.dumps(line) + '\n' for line in out))
