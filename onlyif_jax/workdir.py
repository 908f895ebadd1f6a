"""The files that a run writes, and how they are cut back on resume.

Rows are appended and flushed. A member's rows are final once the ledger says that its
stack is done. On resume the rows of unfinished members are cut back to the restored
step, so an interrupted run ends with the same bytes as an uninterrupted one.
"""

import contextlib
import csv
import io
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from onlyif_jax.config import ConfigError, RunConfig, freeze, swept
from onlyif_jax.extending import differences

MEMBER_COLUMNS = (
  'member',
  'reference',
  'instructions',
  'noop_share',
  'learning_rate',
  'seed',
  'rules_seed',
  'init_seed',
  'order_seed',
  'rules_met',
)
RESULT_COLUMNS = (
  *MEMBER_COLUMNS,
  *('split', 'slice', 'metric', 'sum', 'count', 'value', 'rule_se'),
  *('tokens', 'flops'),
)
DYNAMICS_COLUMNS = (
  *MEMBER_COLUMNS,
  *('step', 'split', 'metric', 'sum', 'count', 'value'),
)
ANATOMY_COLUMNS = (*MEMBER_COLUMNS, 'split', 'class', 'count', 'examples')
CELL_COLUMNS = (
  *MEMBER_COLUMNS,
  *('rule', 'input', 'split', 'examples', 'right', 'why_not'),
)
_TABLES = {
  'results.csv': RESULT_COLUMNS,
  'dynamics.csv': DYNAMICS_COLUMNS,
  'anatomy.csv': ANATOMY_COLUMNS,
  'cells.csv': CELL_COLUMNS,
}
TIMING_COLUMNS = ('stack', 'what', 'step', 'seconds', 'examples_per_s')


def read_object(file: Path) -> dict[str, Any]:
  """The JSON object in a file; raises ConfigError."""
  try:
    value = json.loads(file.read_text())
  except (OSError, ValueError) as e:
    raise ConfigError(f'{file} cannot be read: {e}') from None
  if not isinstance(value, dict):
    raise ConfigError(f'{file} holds no object')
  return value


class Workdir:
  """The directory of one run. Paths inside it are relative, so it can be moved.

  writes: False in a process that leaves writing to another one; its methods that
  write then do nothing.
  """

  def __init__(self, path: str | os.PathLike, *, writes: bool = True):
    self.path = Path(path)
    self.writes = writes

  def file(self, name: str) -> Path:
    """The path of a file in this directory."""
    return self.path / name

  def create(self) -> None:
    """Makes the directory; raises ConfigError where it cannot be written."""
    if not self.writes:
      return
    try:
      self.path.mkdir(parents=True, exist_ok=True)
      probe = self.file('.write-test')
      probe.write_text('')
      probe.unlink()
    except OSError as e:
      raise ConfigError(
        f'--workdir={self.path} cannot be written ({e.strerror}); give another one'
      ) from None

  def columns(self, columns: tuple[str, ...]) -> tuple[str, ...]:
    """A table's columns, plus one for each field that the run's variants change."""
    config = self.config()
    fields = swept(config) if config else ()
    if not fields:
      return columns
    at = columns.index('rules_met')
    return (*columns[:at], 'variant', *fields, *columns[at:])

  def config(self) -> RunConfig | None:
    """The stored config, None where there is no run yet; raises ConfigError."""
    path = self.file('config.json')
    if not path.exists():
      return None
    try:
      return freeze(json.loads(path.read_text()))
    except (ValueError, TypeError, AttributeError, ConfigError) as e:
      raise ConfigError(
        f'{path} is not a config of this program ({e}); give another --workdir'
      ) from None

  def adopt(self, config: RunConfig) -> None:
    """Raises ConfigError where the stored config differs, naming the fields."""
    stored = self.config()
    changed = differences(stored, config) if stored else {}
    if changed:
      fields = '; '.join(
        f'{name}: {old!r} there, {new!r} now' for name, (old, new) in changed.items()
      )
      raise ConfigError(
        f'--workdir={self.path} holds a run of another config ({fields}); '
        'give another --workdir'
      )

  def write_json(self, name: str, value: Any) -> None:
    """Writes a JSON file atomically."""
    self.write_text(name, json.dumps(value, indent=1) + '\n')

  def write_text(self, name: str, text: str) -> None:
    """Writes a file atomically."""
    if not self.writes:
      return
    temporary = self.file(name + '.tmp')
    try:
      temporary.write_text(text)
      os.replace(temporary, self.file(name))
    except OSError as e:
      with contextlib.suppress(OSError):
        temporary.unlink()
      raise self._unwritable(name, e) from e

  def append_json(self, name: str, *rows: dict) -> None:
    """Appends rows to a JSON-lines file and syncs it."""
    self._append(name, _json_lines(rows))

  def read_json_lines(self, name: str) -> list[dict]:
    """The rows of a JSON-lines file, without a last line cut short by a kill."""
    if not self.file(name).exists():
      return []
    lines = self.file(name).read_text().split('\n')
    try:
      return [json.loads(line) for line in lines[:-1] if line]
    except ValueError as e:
      raise ConfigError(
        f'{self.file(name)} is damaged ({e}); put back a copy, or give another '
        '--workdir'
      ) from None

  def append_csv(self, name: str, columns: Sequence[str], rows: Iterable[dict]) -> None:
    """Appends rows to a table and syncs it; a new file gets a header."""
    if not self.writes:
      return
    new = not self._cut_torn_line(name)
    self._append(name, _table(columns, rows, header=new))

  def read_csv(self, name: str) -> list[dict]:
    """The rows of a table as text, without a last row cut short by a kill."""
    path = self.file(name)
    if not path.exists():
      return []
    whole_lines = path.read_text().rpartition('\n')[0]
    rows = list(csv.DictReader(whole_lines.split('\n')))
    return [row for row in rows if None not in row.values()]

  def cut_back(self, done: set[str], restored: dict[str, int]) -> None:
    """Drops the rows of unfinished members after the step that was restored.

    done: members whose rows all stay; restored: member -> step, 0 if it has none.
    """
    if not self.writes:
      return

    def keep(row):
      if row['member'] in done:
        return True
      return int(row.get('step') or 2**60) <= restored.get(row['member'], 0)

    for name, columns in _TABLES.items():
      if self.file(name).exists():
        rows = [row for row in self.read_csv(name) if keep(row)]
        self.write_text(name, _table(self.columns(columns), rows, header=True))
    for name in ('metrics.jsonl', 'wrong.jsonl'):
      if self.file(name).exists():
        rows = [row for row in self.read_json_lines(name) if keep(row)]
        self.write_text(name, _json_lines(rows))

  def ledger(self) -> list[dict]:
    """The events so far: members that were planned, are done or failed."""
    return self.read_json_lines('ledger.jsonl')

  def _append(self, name: str, text: str) -> None:
    if not self.writes:
      return
    try:
      self._cut_torn_line(name)
      with self.file(name).open('a') as f:
        f.write(text)
        f.flush()
        os.fsync(f.fileno())
    except OSError as e:
      raise self._unwritable(name, e) from e

  def _cut_torn_line(self, name: str) -> int:
    """Drops a last line that a kill cut short; returns the size that remains."""
    if not self.file(name).exists():
      return 0
    with self.file(name).open('rb+') as f:
      size = f.seek(0, os.SEEK_END)
      f.seek(max(0, size - 1))
      if size and f.read() != b'\n':
        f.seek(0)
        size = f.read().rfind(b'\n') + 1
        f.truncate(size)
      return size

  def _unwritable(self, name: str, e: OSError) -> ConfigError:
    return ConfigError(
      f'{self.file(name)} could not be written ({e.strerror}); make room or another '
      'repair and give the same command again: it goes on from the newest checkpoint'
    )


def _json_lines(rows: Iterable[dict]) -> str:
  return ''.join(json.dumps(row) + '\n' for row in rows)


def _table(columns: Sequence[str], rows: Iterable[dict], *, header: bool) -> str:
  out = io.StringIO()
  writer = csv.DictWriter(out, columns, lineterminator='\n')
  if header:
    writer.writeheader()
  writer.writerows(rows)
  return out.getvalue()
