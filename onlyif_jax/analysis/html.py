"""One self-contained html page about one or several runs."""

import base64
import html
import io
import shlex
from collections.abc import Sequence

from onlyif_jax import config as config_lib
from onlyif_jax.analysis import figures, table
from onlyif_jax.analysis.results import Analysis

QUESTION = (
  'With a fixed budget of N = I x S examples, how many different instructions I '
  'does a model need before it follows instructions that it never saw?'
)
# What an anonymous page may say of provenance.json; the rest names people or places.
PUBLIC = ('versions', 'parameters', 'devices', 'python', 'cores', 'machine')
_STYLE = """
body { font: 16px/1.5 sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; margin: 1rem 0; font-size: 14px }
th, td { padding: .2rem .7rem; text-align: right; border-bottom: 1px solid #ccc }
th:first-child, td:first-child { text-align: left }
img { max-width: 100% } pre { overflow-x: auto; background: #f4f4f4; padding: .5rem }
"""


def page(
  runs: Sequence[Analysis], labels: Sequence[str], *, anonymous: bool = False
) -> str:
  """The page's html; anonymous leaves out commit, user, host, paths and command."""
  body = [f'<h1>{_text(", ".join(labels))}</h1>', f'<p>{_text(QUESTION)}</p>']
  if len(runs) > 1:
    file = io.BytesIO()
    figures.draw_joint(runs, labels, file)
    body.append(_image(file, 'main curve of every run'))
  for run, label in zip(runs, labels, strict=True):
    body += _section(run, label, anonymous)
  return (
    '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
    f'<title>{_text(", ".join(labels))}</title><style>{_STYLE}</style></head>\n'
    f'<body>{chr(10).join(body)}</body></html>\n'
  )


def _section(run: Analysis, label: str, anonymous: bool) -> list[str]:
  file = io.BytesIO()
  figures.draw(run, file, anonymous=anonymous)
  out = [f'<h2>{_text(label)}</h2>', _image(file, f'figure of {label}')]
  out += [_grid(grid) for grid in table.grids(run)]
  out += [f'<p>{_text(note)}</p>' for note in table.notes(run)]
  out.append(_grid(_fitted(run)))
  command = run.provenance.get('command')
  if command and not anonymous:
    text = command if isinstance(command, str) else shlex.join(command)
    out.append(f'<h3>Command</h3><pre>{_text(text)}</pre>')
  known = {
    name: value
    for name, value in run.provenance.items()
    if name != 'command' and (name in PUBLIC or not anonymous)
  }
  out.append(_details('Provenance', config_lib.flatten(known)))
  return [*out, _details('Settings', config_lib.flatten(run.config))]


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


def _grid(grid: table.Grid) -> str:
  head = ''.join(f'<th>{_text(name)}</th>' for name in grid.columns)
  rows = (
    '<tr>' + ''.join(f'<td>{_text(cell)}</td>' for cell in row) + '</tr>'
    for row in grid.rows
  )
  return (
    f'<h3>{_text(grid.title)}</h3><table><tr>{head}</tr>\n{chr(10).join(rows)}</table>'
  )


def _details(title: str, values: dict) -> str:
  text = '\n'.join(f'{name}: {value}' for name, value in values.items())
  return f'<details><summary>{title}</summary><pre>{_text(text)}</pre></details>'


def _image(file: io.BytesIO, alt: str) -> str:
  data = base64.b64encode(file.getvalue()).decode()
  return f'<img alt="{_text(alt)}" src="data:image/png;base64,{data}">'


def _text(value) -> str:
  return html.escape(str(value))
