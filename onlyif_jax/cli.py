"""What the entry points share: parsing flags early and reporting errors plainly."""

import sys
from collections.abc import Callable, Sequence

from absl import app, flags

from onlyif_jax.config import ConfigError

DEBUG = flags.DEFINE_bool('debug', False, 'Show tracebacks of user errors.')


def run(main: Callable[[Sequence[str]], int | None]) -> None:
  """Runs an entry point: user errors end in one line and exit code 2."""

  def parse(argv: Sequence[str]) -> list[str]:
    argv = _config_first(argv)
    try:
      rest = flags.FLAGS(argv)
      if len(rest) > 1:
        fail(f'unknown argument {rest[1]!r}; settings are --config.KEY=VALUE')
      return rest
    except flags.Error as e:
      fail(str(e).replace('\n', ' '))
    except ConfigError as e:
      fail(str(e))
    except (FileNotFoundError, IsADirectoryError, PermissionError) as e:
      fail(f'--config={e.filename}: {e.strerror}; give the path of a config file')
    except (AttributeError, KeyError, TypeError, ValueError, SyntaxError) as e:
      if '--debug' in argv:
        raise
      fail(str(e).strip('"\'').replace('\n', ' '))
    raise AssertionError('not reached')

  def guarded(argv: Sequence[str]) -> int | None:
    try:
      return main(argv)
    except ConfigError as e:
      if DEBUG.value:
        raise
      fail(str(e))
    except OSError as e:
      if DEBUG.value:
        raise
      where = f' {e.filename}' if e.filename else ''
      fail(f'cannot read or write{where}: {e.strerror}; nothing finished is lost')

  app.run(guarded, flags_parser=parse)


def fail(message: str) -> None:
  """One line on standard error, exit code 2."""
  print(f'error: {message}', file=sys.stderr)
  sys.exit(2)


def _config_first(argv: Sequence[str]) -> list[str]:
  """Puts --config before its overrides: the library wants that order."""
  own = [a for a in argv if a.startswith(('--config=', '-config='))]
  return [argv[0], *own, *(a for a in argv[1:] if a not in own)]
