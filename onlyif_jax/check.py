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
  """Prints the outcome of each check; exit code 0 if all are good, else 1."""
  if len(argv) != 2:
    raise ConfigError('give one task: a name such as rewrite, or package.module:Class')
  logging.set_verbosity(logging.WARNING)
  from onlyif_jax import checking  # loads JAX

  findings = checking.check(argv[1], _SETTINGS.value)
  table = Table(box=None)
  for column in ('check', '', 'what was seen'):
    table.add_column(column)
  for finding in findings:
    table.add_row(finding.name, _WORDS[finding.ok], Text(finding.text))
  console = Console()
  if not console.is_terminal:
    console = Console(width=200)
  console.print(table)
  return 1 if any(finding.ok is False for finding in findings) else 0


if __name__ == '__main__':
  cli.run(main, words=1)
