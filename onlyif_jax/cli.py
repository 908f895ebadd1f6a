"""What the entry points share: parsing flags early and reporting errors plainly."""

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
  """Runs an entry point: user errors end in one line and exit code 2.

  config: the file that --config stands for where it is not given. words: how many
  arguments without a flag it takes.
  """

  def parse(argv: Sequence[str]) -> list[str]:
    sys.argv[:] = _config_first(argv, config)  # where the library looks for overrides
    try:
      rest = flags.FLAGS(sys.argv)
      if 'config' in flags.FLAGS and flags.FLAGS['config'].value is not None:
        flags.FLAGS['config'].value.to_dict()  # an absent file is noticed here
    except SystemExit:  # after --help
      sys.exit(0)
    except Exception as e:  # a config file is anybody's code
      if '--debug' in argv:
        traceback.print_exc()
      fail(_explain_setting(e, argv))
    if len(rest) > 1 + words:
      wrong = rest[1 + words]
      fail(f'unknown argument {wrong!r}; settings are --config.KEY=VALUE')
    return rest

  def guarded(argv: Sequence[str]) -> int | None:
    try:
      code = main(argv)
      sys.stdout.flush()
      return code
    except BrokenPipeError:  # the reader, `head` for one, has seen enough
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
  """runs/<config>-<size>, with a hash of what --config and its overrides change."""
  from ml_collections import config_flags

  flag = flags.FLAGS['config']
  _, _, arg = config_flags.get_config_filename(flag).partition(':')
  changed = dict(config_flags.get_override_values(flag))
  changed |= {word: '' for word in arg.split(',') if '=' in word}
  # More counts or seeds extend a run, so they do not change its name.
  kept = {
    k: str(v)
    for k, v in changed.items()
    if k not in EXTENDABLE and not k.startswith(('counts=', 'seeds=', 'stack.'))
  }
  name = f'{run_config.name}-{run_config.size}'
  return Path('runs') / (f'{name}-{digest(kept)}' if kept else name)


def fail(message: str) -> NoReturn:
  """One line on standard error, exit code 2."""
  print('error:', ' '.join(message.split()), file=sys.stderr)
  sys.exit(2)


def _explain_file(e: OSError) -> str:
  where = f' {e.filename}' if e.filename else ''
  return f'cannot read or write{where}: {e.strerror or e}; nothing finished is lost'


def _explain_setting(e: Exception, argv: Sequence[str]) -> str:
  """One line for what is wrong with the command line or the config file."""
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
    # The library names the part of a setting that it does not know.
    wrong = re.search(r'(?<=instead of ")\w+', text) or re.search(r'\w+', text)
    hint = re.search(r'Did you mean "(\w+)"', text)
    remedy = f'. Did you mean {hint[1]}?' if hint else '; see onlyif_jax/config.py'
    for arg in argv:
      name = arg.partition('=')[0].removeprefix('--')
      if wrong and wrong[0] in name.split('.')[1:]:
        return f'unknown setting --{name}{remedy}'
    if hint and wrong:
      return f'{file}: it sets {wrong[0]}, which is unknown{remedy}'
  return f'{file}: {type(e).__name__}: {text}'


def _explain_value(text: str) -> str:
  found = re.fullmatch(r'flag --([\w.]+)=(.*?): (.*)', text, re.DOTALL)
  if found is None:
    return text
  for reason, kind in (('int()', 'a whole number'), ('float', 'a number')):
    if reason in found[3]:
      return f'--{found[1]}={found[2]} is not {kind}'
  if 'ConfigDict' in found[3]:
    return f'--{found[1]}={found[2]}: {found[1]} is a group; set one of its fields'
  return text


def _config_first(argv: Sequence[str], default: str) -> list[str]:
  """Puts --config before its overrides: the library wants that order."""
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
