"""Pieces of html pages: tables, images, collapsed details."""

import base64
import html
import io
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from onlyif_jax import config as config_lib
from onlyif_jax.analysis import table
from onlyif_jax.analysis.html_style import STYLE

# The fields of provenance.json on an anonymous page; others name people or places.
PUBLIC = (
  *('versions', 'parameters', 'base_parameters', 'devices'),
  *('python', 'cores', 'machine'),
)


def document(title: str, body: Sequence[str]) -> str:
  """A whole page with the given parts as its body."""
  return (
    '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
    f'<title>{text(title)}</title><style>{STYLE}</style></head>\n'
    f'<body>{chr(10).join(body)}</body></html>\n'
  )


def provenance(content: Mapping[str, Any], label: str, anonymous: bool) -> list[str]:
  """Versions, devices, code and command of a run; content: of provenance.json."""
  shown = {
    name: value
    for name, value in content.items()
    if name != 'command' and (name in PUBLIC or not anonymous)
  }
  title = (
    f'Versions, devices and code of {label}' if label else 'Versions, devices, code'
  )
  out = [details(title, config_lib.flatten(shown))]
  command = content.get('command')
  if command and not anonymous:
    words = command if isinstance(command, str) else shlex.join(command)
    out.append(f'<h3>Command{f" of {text(label)}" if label else ""}</h3>')
    out.append(f'<pre>{text(words)}</pre>')
  return out


def grid(content: table.Grid) -> str:
  """A table with its title."""
  head = ''.join(f'<th>{text(name)}</th>' for name in content.columns)
  rows = (
    '<tr>' + ''.join(f'<td>{text(cell)}</td>' for cell in row) + '</tr>'
    for row in content.rows
  )
  return (
    f'<h3>{text(content.title)}</h3><div class="scroll"><table><tr>{head}</tr>\n'
    f'{chr(10).join(rows)}</table></div>'
  )


def details(title: str, values: dict) -> str:
  """Named values that open on a click."""
  lines = '\n'.join(f'{name}: {value}' for name, value in values.items())
  return f'<details><summary>{text(title)}</summary><pre>{text(lines)}</pre></details>'


def image(file: io.BytesIO, alt: str) -> str:
  """A png inside the page."""
  data = base64.b64encode(file.getvalue()).decode()
  return f'<img alt="{text(alt)}" src="data:image/png;base64,{data}">'


def text(value) -> str:
  """A value as escaped html."""
  return html.escape(str(value))
