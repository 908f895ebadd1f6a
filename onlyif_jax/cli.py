"""Shared by the entry points: parses flags early and reports errors in one line."""

import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from absl import app, flags

from onlyif_jax.config import EXTENDABLE, ConfigError, digest

DEBUG = flags.DEFINE_bool('debug', False, 'Show tracebacks of user errors.')


def run(
  main: Callable[[Sequence[str]], int | None], config: str = '', words: int = 0
) -> None:
  """Runs an entry point; user errors end in one line and exit code 2.

  config: default of --config; words: most positional arguments.
  """

  def parse(argv: Sequence[str]) -> list[str]:
    sys.argv[:] = _config_first(argv, config)  # ml_collections reads overrides there
    try:
      rest = flags.FLAGS(sys.argv)
      if 'config' in flags.FLAGS and flags.FLAGS['config'].value is not None:
        flags.FLAGS['config'].value.to_dict()  # fails here if the file is absent
    except SystemExit:  # after --help
      sys.exit(0)
    except Exception as e:  # a config file may raise anything
      if '--debug' in argv:
        traceback.print_exc()
      fail(_explain_setting(e, argv))
    if len(rest) > 1 + words:
      unknown = rest[1 + words]
      fail(f'unknown argument {unknown!r}; settings are --config.KEY=VALUE')
    return rest

  def guarded(argv: Sequence[str]) -> int | None:
    try:
      code = main(argv)
      sys.stdout.flush()
      return code
    except BrokenPipeError:  # the reader, such as `head`, has closed the pipe
      os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
      return 128 + signal.SIGPIPE
    except KeyboardInterrupt:
      print('interrupted', file=sys.stderr)
      return 128 + signal.SIGINT
    except (ConfigError, OSError) as e:
      if DEBUG.value:
        traceback.print_exc()
      fail(str(e) if isinstance(e, ConfigError) else _explain_file(e))

  app.run(guarded, flags_parser=parse)


def default_workdir(run_config: Any) -> Path:
  """runs/<config>-<size>, with a hash of the arguments and overrides of --config."""
  from ml_collections import config_flags

  flag = flags.FLAGS['config']
  _, _, arg = config_flags.get_config_filename(flag).partition(':')
  changed = dict(config_flags.get_override_values(flag))
  changed |= {word: '' for word in arg.split(',') if '=' in word}
  # More counts or seeds extend a run, so they do not change its name.
  hashed = {
    k: str(v)
    for k, v in changed.items()
    if k not in EXTENDABLE and not k.startswith(('counts=', 'seeds=', 'stack.'))
  }
  name = f'{run_config.name}-{run_config.size}'
  return Path('runs') / (f'{name}-{digest(hashed)}' if hashed else name)


def fail(message: str) -> NoReturn:
  """Prints one line on standard error and exits with code 2."""
  print('error:', ' '.join(message.split()), file=sys.stderr)
  sys.exit(2)


def _explain_file(e: OSError) -> str:
  file = f' {e.filename}' if e.filename else ''
  return f'cannot read or write{file}: {e.strerror or e}; nothing finished is lost'


def _explain_setting(e: Exception, argv: Sequence[str]) -> str:
  """One line about what is wrong with the command line or the config file."""
  text = str(e.args[0] if isinstance(e, KeyError) and e.args else e)
  if isinstance(e, flags.IllegalFlagValueError):
    return _explain_value(text)
  if isinstance(e, ConfigError | flags.Error):
    return text
  file = next((a for a in argv if a.startswith('--config=')), '--config')
  if isinstance(e, OSError):
    reason = re.search(r'\[Errno \d+\] ([^:]+)', text)
    reason = reason[1] if reason else text
    return f'{file}: {reason}; give the path of a config file'
  if isinstance(e, AttributeError | KeyError):
    # The error names one part of a dotted setting: the one that is unknown.
    unknown = re.search(r'(?<=instead of ")\w+', text) or re.search(r'\w+', text)
    hint = re.search(r'Did you mean "(\w+)"', text)
    remedy = f'. Did you mean {hint[1]}?' if hint else '; see onlyif_jax/config.py'
    for arg in argv:
      name = arg.partition('=')[0].removeprefix('--')
      if unknown and unknown[0] in name.split('.')[1:]:
        return f'unknown setting --{name}{remedy}'
    if hint and unknown:
      return f'{file}: it sets {unknown[0]}, which is unknown{remedy}'
  return f'{file}: {type(e).__name__}: {text}'


def _explain_value(text: str) -> str:
  """The message of an IllegalFlagValueError, where possible without internals."""
  match = re.fullmatch(r'flag --([\w.]+)=(.*?): (.*)', text, re.DOTALL)
  if match is None:
    return text
  flag, value, reason = match.groups()
  for call, kind in (('int()', 'a whole number'), ('float', 'a number')):
    if call in reason:
      return f'--{flag}={value} is not {kind}'
  if 'ConfigDict' in reason:
    return f'--{flag}={value}: {flag} is a group; set one of its fields'
  return text


def _config_first(argv: Sequence[str], default: str) -> list[str]:
  """Moves --config before its overrides, as ml_collections requires."""
  first, rest = [], list(argv[1:])
  for n, arg in enumerate(rest):
    if arg.startswith(('--config=', '-config=')):
      first = [rest.pop(n)]
      break
    if arg in ('--config', '-config') and n + 1 < len(rest):
      first = [f'--config={rest.pop(n + 1)}']
      del rest[n]
      break
  if not first and default:
    first = [f'--config={default}']
  return [argv[0], *first, *rest]
