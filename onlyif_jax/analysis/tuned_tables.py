"""Tables, notes and figure of a fine-tuning run: what terminal and page both show."""

from onlyif_jax.analysis import (
  figures_mixture,
  mixture_curve,
  paper_tables,
  scoreboard,
  tuned,
)
from onlyif_jax.analysis.table import Grid
from onlyif_jax.analysis.tuned import Tuned


def draw(run: Tuned, file) -> None:
  """The run's figure, to a path or a binary file."""
  if run.symbolic:
    tuned.draw(run, file)
  else:
    figures_mixture.draw(run, paper_tables.scores(run), file)


def grids(run: Tuned) -> list[Grid]:
  """The tables that the terminal shows as well."""
  if run.symbolic:
    return [tuned.grid(run), *_fits(run)]
  views = paper_tables.scores(run)
  found = mixture_curve.figure(run, views)
  spots = [mixture_curve.grid(found)] if found is not None else []
  return [*paper_tables.grids(run, views), *spots, tuned.grid(run)]


def notes(run: Tuned) -> list[str]:
  """What must be said below them."""
  out = []
  if not run.symbolic:
    views = paper_tables.scores(run)
    out += paper_tables.notes(run, views)
    if not views:
      out.append(
        'No benchmark was run. `python -m onlyif_jax.benchmarks` with '
        '--out=WORKDIR/benchmarks/ROW adds the scores of a row.'
      )
  if run.config['paper']:
    out.append(f'Papers: {run.config["paper"]}')
  return out


def _fits(run: Tuned) -> list[Grid]:
  """Where each curve rises; [] for a run of one number of rules."""
  rows = tuple(
    (name, scoreboard.estimate(fit.i_50), scoreboard.brackets(fit), fit.reason or '')
    for name, fit in run.steps.items()
  )
  columns = ('split, slice', 'I_50', 'fails up to / holds from', 'why no fit')
  return [Grid('The step', columns, rows)] if rows else []
