"""Tables, figure and html page of finished runs: `python -m onlyif_jax.report`.

`--workdir=DIR` (again for more) or `--bundle=FILE`; two runs: `--compare A B`.
"""

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from onlyif_jax import bucket, cli
from onlyif_jax.analysis import bundle, reporting
from onlyif_jax.config import ConfigError

_WORKDIR = flags.DEFINE_multi_string(
  'workdir', [], 'A run, a directory or URL; again for more.'
)
_BUNDLE = flags.DEFINE_multi_string('bundle', [], 'A run that was exported as bundle.')
_COMPARE = flags.DEFINE_multi_string('compare', [], 'Two runs: --compare A B.')
_OUT = flags.DEFINE_string(
  'out', None, 'Where to write; default: the first workdir, or beside the bundle.'
)
_ANONYMOUS = flags.DEFINE_bool(
  'anonymous', False, 'Leave out commit, command, user, host and paths.'
)


def main(argv) -> int:
  """Analyses the runs again, prints their tables, writes the page and figures."""
  del argv
  places = [*_WORKDIR.value, *_COMPARE.value, *_BUNDLE.value]
  if not places:
    raise ConfigError('--workdir is missing; give the directory of a run')
  if _COMPARE.value and len(places) != 2:
    raise ConfigError('--compare takes two runs: report --compare A B')
  with contextlib.ExitStack() as stack:
    # With --out the workdirs stay as they are: they may be read-only or another's.
    own = not (_OUT.value or _BUNDLE.value or _COMPARE.value)
    folders = [
      stack.enter_context(bucket.local(p, write=own, checkpoints=False))
      for p in (*_WORKDIR.value, *_COMPARE.value)
    ]
    folders += [stack.enter_context(bundle.opened(p)) for p in _BUNDLE.value]
    runs = [reporting.load(folder) for folder in folders]
    how = {'anonymous': _ANONYMOUS.value}
    names = reporting.labels(runs, places, _ANONYMOUS.value)
    out = Path(_OUT.value) if _OUT.value else None
    if _COMPARE.value:
      reporting.side_by_side(runs, names, out, **how)
      return 0
    beside = folders[0]
    if _BUNDLE.value:
      first = next(Path(p) for p in places if not bucket.is_url(p))
      beside = first.with_name(f'{first.stem}-report')
    reporting.report(runs, names, out or beside, also_own=own, **how)
  return 0


def spread_compare(argv: Sequence[str]) -> list[str]:
  """'--compare A B' as two flags, since a flag takes one value."""
  out, takes = [], False
  for word in argv:
    if word in ('--compare', '-compare'):
      takes = True
    elif takes and not word.startswith('-'):
      out.append(f'--compare={word}')
    else:
      takes = False
      out.append(word)
  return out


if __name__ == '__main__':
  sys.argv[:] = spread_compare(sys.argv)
  cli.run(main)
