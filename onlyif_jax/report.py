"""Tables, figure and html page of finished runs: `python -m onlyif_jax.report`."""

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from onlyif_jax import cli
from onlyif_jax.analysis import figures, html, results, table
from onlyif_jax.config import ConfigError

_WORKDIR = flags.DEFINE_multi_string('workdir', [], 'A run; give it again for more.')
_OUT = flags.DEFINE_string('out', None, 'Where to write; default: the first workdir.')
_ANONYMOUS = flags.DEFINE_bool(
  'anonymous', False, 'Leave out commit, command, user, host and paths.'
)


def main(argv) -> int:
  """Analyses the workdirs again, prints their tables, writes the page and figures."""
  del argv
  if not _WORKDIR.value:
    raise ConfigError('--workdir is missing; give the directory of a run')
  anonymous = _ANONYMOUS.value
  runs = [results.load(workdir) for workdir in _WORKDIR.value]
  out = Path(_OUT.value or _WORKDIR.value[0])
  # With --out the workdirs stay as they are: they may be read-only or another's.
  for run in runs:
    table.show(run)
    if not _OUT.value and len(runs) > 1:
      results.write(run, run.workdir, anonymous=anonymous)
  names = labels(runs, anonymous)
  if len(runs) == 1:
    results.write(runs[0], out, anonymous=anonymous)
    figure = out / 'figure.png'
  else:
    out.mkdir(parents=True, exist_ok=True)
    figure = out / 'joint.png'
    figures.draw_joint(runs, names, figure)
  page = out / 'report.html'
  page.write_text(html.page(runs, names, anonymous=anonymous), encoding='utf-8')
  print(f'figure: {figure}\nreport: {page}')
  return 0


def labels(runs: Sequence[results.Analysis], anonymous: bool) -> list[str]:
  """The runs' names, told apart by directory or, anonymously, by number."""
  names = [run.label for run in runs]
  if len(set(names)) == len(names):
    return names
  if anonymous:
    return [f'{name} ({n})' for n, name in enumerate(names, start=1)]
  return [f'{name} ({run.workdir})' for run, name in zip(runs, names, strict=True)]


if __name__ == '__main__':
  cli.run(main)
