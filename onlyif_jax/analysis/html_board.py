"""The scoreboard as html: the runs' own experiments in full, others collapsed."""

from collections.abc import Iterable, Sequence

from onlyif_jax.analysis import targets
from onlyif_jax.analysis.html_parts import text
from onlyif_jax.analysis.scoreboard import Line, Scoreboard
from onlyif_jax.analysis.verdict import NOT_RUN

INLINE = 12  # tables up to this length explain caveats in the row itself
SIGNS = {'supported': '✓', 'contradicted': '✗', 'inconclusive': '?', NOT_RUN: '·'}


def scoreboard(board: Scoreboard, experiments: Iterable[str]) -> list[str]:
  """The targets of these experiments, then all others in <details>."""
  shown = [name for name in dict.fromkeys(experiments) if board.of([name])]
  out = ['<h2>Scoreboard</h2>']
  if not shown:
    out.append(
      '<p>The papers have no row for this experiment: it is an analogue of theirs or '
      'an extension.</p>'
    )
  for name in shown:
    out += [f'<h3>{text(name)}</h3>', *_table(board.of([name]))]
  others, count = [], 0
  for name in board.experiments():
    if name in shown:
      continue
    lines = board.of([name])
    count += len(lines)
    others.append(
      f'<details><summary>{text(name)}: {len(lines)} rows</summary>'
      f'<p>{text(targets.question(name))}</p>{"".join(_table(lines))}</details>'
    )
  title = f'All other experiments of the papers: {count} rows'
  return [*out, f'<details><summary>{title}</summary>{"".join(others)}</details>']


def _table(lines: Sequence[Line]) -> list[str]:
  inline = len(lines) <= INLINE
  columns = ('of the papers', 'value', 'here', 'verdict')
  head = ''.join(f'<th>{name}</th>' for name in columns)
  rows = ''.join(_row(line, inline) for line in lines)
  out = [
    f'<table class="board"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'
  ]
  caveats = dict.fromkeys(name for line in lines for name in line.target.caveats)
  if not inline:
    out += [f'<p class="soft">{_note(name)}</p>' for name in caveats]
  return out


def _row(line: Line, inline: bool) -> str:
  """A target's row; inline: with the text of its caveats."""
  t, v = line.target, line.best
  source = f'{t.figure} · arXiv {t.paper} · {targets.STATES[t.state]}'
  notes = ''.join(f'<small>{_note(c)}</small>' for c in t.caveats) if inline else ''
  tags = '' if inline or not t.caveats else f' [{", ".join(t.caveats)}]'
  value = f'{t.printed}{" %" if t.gain or t.percent else ""}' if t.printed else ''
  reason = f'<small>{text(v.reason)}</small>' if v.reason else ''
  each_run = ''.join(
    f'<small>{text(label)}: {text(w.label)} {text(w.ours)}</small>'
    for label, w in line.results
    if len(line.results) > 1
  )
  mark = f'<span class="verdict">{SIGNS[v.state]} {text(v.label)}</span>'
  cells = (  # attribute, content
    ('', f'{text(t.text)}<small>{text(source + tags)}</small>{notes}'),
    (' data-of="papers"', text(value)),
    (' data-of="here"', text(v.ours)),
    (f' class="{v.state.replace(" ", "-")}"', f'{mark}{reason}{each_run}'),
  )
  row = ''.join(f'<td{attribute}>{content}</td>' for attribute, content in cells)
  return f'<tr>{row}</tr>'


def _note(name: str) -> str:
  return f'{text(name)}: {text(targets.caveat(name))}'
