"""Tables, figures and HTML page of finished runs: `python -m onlyif_jax.report`.

`--workdir=DIR` or `--bundle=FILE`, each repeatable; for two runs `--compare A B`.
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
  """Analyses the runs anew, prints their tables, writes the page and figures."""
  del argv
  sources = [*_WORKDIR.value, *_COMPARE.value, *_BUNDLE.value]
  anonymous = _ANONYMOUS.value
  if not sources:
    raise ConfigError('--workdir is missing; give the directory of a run')
  if _COMPARE.value and len(sources) != 2:
    raise ConfigError('--compare takes two runs: report --compare A B')
  with contextlib.ExitStack() as stack:
    # With --out the workdirs stay untouched: they may be read-only or someone else's.
    in_place = not (_OUT.value or _BUNDLE.value or _COMPARE.value)
    folders = [
      stack.enter_context(bucket.local(workdir, write=in_place, checkpoints=False))
      for workdir in (*_WORKDIR.value, *_COMPARE.value)
    ]
    folders += [stack.enter_context(bundle.opened(file)) for file in _BUNDLE.value]
    runs = [reporting.load(folder) for folder in folders]
    names = reporting.labels(runs, sources, anonymous)
    out = Path(_OUT.value) if _OUT.value else None
    if _COMPARE.value:
      reporting.side_by_side(runs, names, out, anonymous=anonymous)
      return 0
    default = folders[0]
    if _BUNDLE.value:
      first = next(Path(source) for source in sources if not bucket.is_url(source))
      default = first.with_name(f'{first.stem}-report')
    reporting.report(
      runs, names, out or default, also_own=in_place, anonymous=anonymous
    )
  return 0


def spread_compare(argv: Sequence[str]) -> list[str]:
  """Rewrites '--compare A B' as two flags, since a flag takes one value."""
  out, after_compare = [], False
  for word in argv:
    if word in ('--compare', '-compare'):
      after_compare = True
    elif after_compare and not word.startswith('-'):
      out.append(f'--compare={word}')
    else:
      after_compare = False
      out.append(word)
  return out


if __name__ == '__main__':
  sys.argv[:] = spread_compare(sys.argv)
  cli.run(main)
