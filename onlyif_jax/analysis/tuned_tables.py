"""Tables, notes and figure of a fine-tuning run, for the terminal and the html page."""

from onlyif_jax.analysis import (
  figures_mixture,
  mixture_curve,
  paper_tables,
  scoreboard,
  tuned,
  tuned_sweep,
)
from onlyif_jax.analysis.table import Grid
from onlyif_jax.analysis.tuned import Tuned


def draw(run: Tuned, file) -> None:
  """Draws the run's figure to a path or a binary file."""
  if not run.symbolic:
    figures_mixture.draw(run, paper_tables.scores(run), file)
  elif tuned_sweep.has_specialists(run):
    tuned_sweep.draw(run, file)
  else:
    tuned.draw(run, file)


def grids(run: Tuned) -> list[Grid]:
  """The run's tables."""
  if run.symbolic:
    return [tuned.grid(run), *_fits(run), *tuned_sweep.spots_grid(run)]
  views = paper_tables.scores(run)
  figure = mixture_curve.figure(run, views)
  spots = [mixture_curve.grid(figure)] if figure is not None else []
  return [*paper_tables.grids(run, views), *spots, tuned.grid(run)]


def notes(run: Tuned) -> list[str]:
  """Notes to the tables: noise, missing benchmarks, the papers."""
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
    # The counts of a specialist tell mixtures apart; its accuracy need not rise.
    if not run.task(name.rpartition('/')[0]).get('specialist')
  )
  columns = ('split, slice', 'I_50', 'fails up to / holds from', 'why no fit')
  return [Grid('The step', columns, rows)] if rows else []
