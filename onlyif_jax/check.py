"""Checks a task: `python -m onlyif_jax.check package.module:Class`."""

from absl import flags, logging
from rich.console import Console
from rich.table import Table
from rich.text import Text

from onlyif_jax import cli
from onlyif_jax.config import ConfigError

_SETTINGS = flags.DEFINE_string(
  'settings', '', 'Settings of the task: field=value,...; lists as 1|2.'
)
_WORDS = {True: 'good', False: 'WRONG', None: '-'}


def main(argv) -> int:
  """Prints what was checked; 0 all good, 1 something is wrong."""
  if len(argv) != 2:
    raise ConfigError('give one task: a name such as rewrite, or package.module:Class')
  logging.set_verbosity(logging.WARNING)
  from onlyif_jax import checking  # JAX starts here

  found = checking.check(argv[1], _SETTINGS.value)
  table = Table(box=None)
  for column in ('check', '', 'what was seen'):
    table.add_column(column)
  for one in found:
    table.add_row(one.name, _WORDS[one.ok], Text(one.text))
  console = Console()
  if not console.is_terminal:
    console = Console(width=200)
  console.print(table)
  return 1 if any(one.ok is False for one in found) else 0


if __name__ == '__main__':
  cli.run(main, words=1)
