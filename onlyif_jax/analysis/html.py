"""One self-contained html page about sweeps from scratch and fine-tuning runs."""

import io
from collections.abc import Sequence

from onlyif_jax import config as config_lib
from onlyif_jax.analysis import (
  figures,
  html_board,
  html_errors,
  html_parts,
  html_tuned,
  pooled,
  results,
  scoreboard,
  table,
  targets,
)
from onlyif_jax.analysis.html_parts import text
from onlyif_jax.analysis.results import Analysis
from onlyif_jax.analysis.tuned import Tuned


def page(
  runs: Sequence[Analysis | Tuned],
  labels: Sequence[str],
  *,
  anonymous: bool = False,
  comparison: Sequence[table.Grid] = (),
) -> str:
  """The page's html; anonymous leaves out commit, user, host, paths and command.

  comparison: tables that compare the runs, shown first.
  """
  evidence, names = pooled.pool(runs, labels)
  board = scoreboard.judge(evidence, names)
  title = ', '.join(labels)
  body = [f'<h1>{text(title)}</h1>', f'<p class="coverage">{text(board.text())}</p>']
  body += [html_parts.grid(grid) for grid in comparison]
  sweeps = [
    (run, label)
    for run, label in zip(runs, labels, strict=True)
    if isinstance(run, Analysis)
  ]
  if len(sweeps) > 1:
    file = io.BytesIO()
    figures.draw_joint([run for run, _ in sweeps], [name for _, name in sweeps], file)
    body.append(html_parts.image(file, 'main curve of every run'))
  for run, label in zip(runs, labels, strict=True):
    name = label if len(runs) > 1 else ''
    if isinstance(run, Tuned):
      body += html_tuned.section(run, name, anonymous)
    else:
      body += _section(run, name, anonymous)
  body += html_board.scoreboard(board, [run.experiment for run in evidence])
  body.append('<h2>Provenance</h2>')
  for run, label in zip(runs, labels, strict=True):
    name = label if len(runs) > 1 else ''
    body += html_parts.provenance(run.provenance, name, anonymous)
  return html_parts.document(title, body)


def _section(run: Analysis, label: str, anonymous: bool) -> list[str]:
  """A sweep's question, settings, figure, tables and mistakes."""
  file = io.BytesIO()
  figures.draw(run, file, anonymous=anonymous)
  out = [f'<h2>{text(label)}</h2>'] if label else []
  out.append(f'<p class="lead">{text(targets.question(run.config.name))}</p>')
  settings = results.settings(run, anonymous=anonymous)
  out.append(f'<p class="soft">{text(" · ".join(settings))}</p>')
  out.append(html_parts.details('Settings', config_lib.flatten(run.config)))
  out.append(html_parts.image(file, f'figure of {label or run.label}'))
  out += [html_parts.grid(grid) for grid in table.grids(run)]
  out += [f'<p>{text(note)}</p>' for note in table.notes(run)]
  if run.main.fits:
    out.append(html_parts.grid(_fits(run)))
  return [*out, *html_errors.anatomy(run), *html_errors.wrong(run)]


def _fits(run: Analysis) -> table.Grid:
  """Each seed's fitted logistic."""
  rows = tuple(
    (
      seed,
      f'{10**fit.log_i50:,.0f}',
      f'{fit.slope:.3g}',
      f'{fit.floor:.3f}',
      f'{fit.ceiling:.3f}',
      f'{fit.deviance:.3g} / {fit.freedom}',
      '-' if fit.dispersion is None else f'{fit.dispersion:.3g}',
    )
    for seed, fit in run.main.fits.items()
  )
  columns = (
    'seed',
    'I_50',
    'slope per decade',
    'floor',
    'ceiling',
    'deviance / freedom',
    'dispersion',
  )
  return table.Grid('Fitted logistics, one per seed', columns, rows)
