"""The scoreboard as html: a run's own targets in full, all others collapsed."""

import html
from collections.abc import Iterable, Sequence

from onlyif_jax.analysis import targets
from onlyif_jax.analysis.scoreboard import Line, Scoreboard
from onlyif_jax.analysis.verdict import NOT_RUN

INLINE = 12  # rows up to which an inconsistency is told in the row itself
SIGNS = {'supported': '✓', 'contradicted': '✗', 'inconclusive': '?', NOT_RUN: '·'}


def scoreboard(board: Scoreboard, experiments: Iterable[str]) -> list[str]:
  """The targets of these experiments, then the others in <details>."""
  own = [name for name in dict.fromkeys(experiments) if board.of([name])]
  out = ['<h2>Scoreboard</h2>']
  if not own:
    out.append(
      '<p>The papers have no row for this experiment: it is an analogue of theirs or '
      'an extension.</p>'
    )
  for name in own:
    out += [f'<h3>{_text(name)}</h3>', *_table(board.of([name]))]
  rest = [name for name in board.experiments() if name not in own]
  inner = []
  for name in rest:
    lines = board.of([name])
    inner.append(
      f'<details><summary>{_text(name)}: {len(lines)} rows</summary>'
      f'<p>{_text(targets.question(name))}</p>{"".join(_table(lines))}</details>'
    )
  count = sum(len(board.of([name])) for name in rest)
  title = f'All other experiments of the papers: {count} rows'
  return [*out, f'<details><summary>{title}</summary>{"".join(inner)}</details>']


def _table(lines: Sequence[Line]) -> list[str]:
  inline = len(lines) <= INLINE
  head = ''.join(f'<th>{n}</th>' for n in ('of the papers', 'value', 'here', 'verdict'))
  rows = ''.join(_row(line, inline) for line in lines)
  out = [
    f'<table class="board"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'
  ]
  named = [] if inline else dict.fromkeys(c for x in lines for c in x.target.caveats)
  return [*out, *(f'<p class="soft">{_note(name)}</p>' for name in named)]


def _row(line: Line, inline: bool) -> str:
  t, v = line.target, line.best
  source = f'{t.figure} · arXiv {t.paper} · {targets.STATES[t.state]}'
  notes = ''.join(f'<small>{_note(c)}</small>' for c in t.caveats) if inline else ''
  tags = '' if inline or not t.caveats else f' [{", ".join(t.caveats)}]'
  value = f'{t.printed}{" %" if t.gain or t.percent else ""}' if t.printed else ''
  reason = f'<small>{_text(v.reason)}</small>' if v.reason else ''
  more = ''.join(
    f'<small>{_text(label)}: {_text(w.label)} {_text(w.ours)}</small>'
    for label, w in line.results
    if len(line.results) > 1
  )
  cells = (
    ('', '', f'{_text(t.text)}<small>{_text(source + tags)}</small>{notes}'),
    (' data-of="papers"', '', _text(value)),
    (' data-of="here"', '', _text(v.ours)),
    (
      '',
      f' class="{v.state.replace(" ", "-")}"',
      f'<span class="verdict">{SIGNS[v.state]} {_text(v.label)}</span>{reason}{more}',
    ),
  )
  return '<tr>' + ''.join(f'<td{a}{b}>{text}</td>' for a, b, text in cells) + '</tr>'


def _note(name: str) -> str:
  return f'{_text(name)}: {_text(targets.caveat(name))}'


def _text(value) -> str:
  return html.escape(str(value))
