"""One self-contained html page about one or several runs."""

import base64
import html
import io
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from onlyif_jax import config as config_lib
from onlyif_jax.analysis import (
  figures,
  html_board,
  html_errors,
  results,
  scoreboard,
  table,
  targets,
)
from onlyif_jax.analysis.html_style import STYLE
from onlyif_jax.analysis.results import Analysis

# What an anonymous page may say of provenance.json; the rest names people or places.
PUBLIC = ('versions', 'parameters', 'devices', 'python', 'cores', 'machine')


def page(
  runs: Sequence[Analysis],
  labels: Sequence[str],
  *,
  anonymous: bool = False,
  comparison: Sequence[table.Grid] = (),
) -> str:
  """The page's html; anonymous leaves out commit, user, host, paths and command.

  comparison: tables that compare the runs, shown before everything else.
  """
  board = scoreboard.judge(runs, labels)
  title = ', '.join(labels)
  body = [f'<h1>{_text(title)}</h1>', f'<p class="coverage">{_text(board.text())}</p>']
  body += [grid(one) for one in comparison]
  if len(runs) > 1:
    file = io.BytesIO()
    figures.draw_joint(runs, labels, file)
    body.append(image(file, 'main curve of every run'))
  for run, label in zip(runs, labels, strict=True):
    body += _section(run, label if len(runs) > 1 else '', anonymous)
  body += html_board.scoreboard(board, [run.config.name for run in runs])
  body.append('<h2>Provenance</h2>')
  for run, label in zip(runs, labels, strict=True):
    body += provenance(run.provenance, label if len(runs) > 1 else '', anonymous)
  return document(title, body)


def document(title: str, body: Sequence[str]) -> str:
  """A whole page of parts."""
  return (
    '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
    f'<title>{_text(title)}</title><style>{STYLE}</style></head>\n'
    f'<body>{chr(10).join(body)}</body></html>\n'
  )


def _section(run: Analysis, label: str, anonymous: bool) -> list[str]:
  """Question, settings, figure, tables and mistakes of a run."""
  file = io.BytesIO()
  figures.draw(run, file, anonymous=anonymous)
  out = [f'<h2>{_text(label)}</h2>'] if label else []
  out.append(f'<p class="lead">{_text(targets.question(run.config.name))}</p>')
  facts = results.settings(run, anonymous=anonymous)
  out.append(f'<p class="soft">{_text(" · ".join(facts))}</p>')
  out.append(details('Settings', config_lib.flatten(run.config)))
  out.append(image(file, f'figure of {label or run.label}'))
  out += [grid(one) for one in table.grids(run)]
  out += [f'<p>{_text(note)}</p>' for note in table.notes(run)]
  if run.main.fits:
    out.append(grid(_fitted(run)))
  return [*out, *html_errors.anatomy(run), *html_errors.wrong(run)]


def provenance(told: Mapping[str, Any], label: str, anonymous: bool) -> list[str]:
  """Versions, devices and code of a run, and its command; told: provenance.json."""
  known = {
    name: value
    for name, value in told.items()
    if name != 'command' and (name in PUBLIC or not anonymous)
  }
  title = (
    f'Versions, devices and code of {label}' if label else 'Versions, devices, code'
  )
  out = [details(title, config_lib.flatten(known))]
  command = told.get('command')
  if command and not anonymous:
    text = command if isinstance(command, str) else shlex.join(command)
    out.append(f'<h3>Command{f" of {_text(label)}" if label else ""}</h3>')
    out.append(f'<pre>{_text(text)}</pre>')
  return out


def _fitted(run: Analysis) -> table.Grid:
  """Every seed's fitted logistic."""
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


def grid(own: table.Grid) -> str:
  """A table."""
  head = ''.join(f'<th>{_text(name)}</th>' for name in own.columns)
  rows = (
    '<tr>' + ''.join(f'<td>{_text(cell)}</td>' for cell in row) + '</tr>'
    for row in own.rows
  )
  return (
    f'<h3>{_text(own.title)}</h3><div class="scroll"><table><tr>{head}</tr>\n'
    f'{chr(10).join(rows)}</table></div>'
  )


def details(title: str, values: dict) -> str:
  """Values that open on a click."""
  text = '\n'.join(f'{name}: {value}' for name, value in values.items())
  return f'<details><summary>{_text(title)}</summary><pre>{_text(text)}</pre></details>'


def image(file: io.BytesIO, alt: str) -> str:
  """A png inside the page."""
  data = base64.b64encode(file.getvalue()).decode()
  return f'<img alt="{_text(alt)}" src="data:image/png;base64,{data}">'


def _text(value) -> str:
  return html.escape(str(value))
