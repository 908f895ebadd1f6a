"""A run's mistakes as html: anatomy.csv as bars, wrong.jsonl character by character."""

import collections
import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from onlyif_jax.analysis import figures_anatomy
from onlyif_jax.analysis.html_parts import text as html_text
from onlyif_jax.analysis.results import Analysis
from onlyif_jax.workdir import Workdir

NARROW = 0.04  # share of a bar below which its letter does not fit
SHOWN, PER_CLASS = 12, 2  # wrong outputs on the page
LONGEST = 400  # characters of a string that are shown
DARK = (figures_anatomy.BLACK, figures_anatomy.BLUE, figures_anatomy.GREY)
HATCHES = {  # matplotlib's hatches as css: no two kinds differ by colour alone
  '//': 'repeating-linear-gradient(135deg,#fffa 0 2px,#fff0 2px 7px)',
  'xx': 'repeating-linear-gradient(45deg,#fffa 0 2px,#fff0 2px 7px)',
  '..': 'repeating-linear-gradient(90deg,#fffa 0 2px,#fff0 2px 7px)',
}


class Look(NamedTuple):
  """How a kind of output is shown."""

  letter: str
  label: str
  css: str


class Bar(NamedTuple):
  """The outputs of one split, panel and count."""

  split: str
  panel: str
  count: int
  kinds: Mapping[str, float]  # kind -> share of the outputs


Looks = Mapping[str, Look]  # by kind


def anatomy(run: Analysis) -> list[str]:
  """Stacked bars of the kinds of outputs, per split and count; [] without any."""
  bars = _bars(run)
  if not bars:
    return []
  kinds = {kind for bar in bars for kind, share in bar.kinds.items() if share}
  names = [name for name in figures_anatomy.CLASSES if name in kinds]
  names += sorted(kinds - set(names))
  looks = {name: _look(n, name) for n, name in enumerate(names)}
  out = ['<h3>What the outputs are</h3>', _legend(looks)]
  title = None
  for bar in bars:
    if title != (title := f'{bar.split}, {bar.panel}'):
      out.append(f'<h4>{html_text(title)}</h4>')
    out.append(_bar(f'I = {bar.count:,}', bar.kinds, looks))
  return [*out, _numbers(bars, looks)]


def _bars(run: Analysis) -> list[Bar]:
  """The bars that are not empty, in the order of anatomy.csv."""
  splits = dict.fromkeys(
    row['split'] for row in Workdir(run.workdir).read_csv(figures_anatomy.FILE)
  )
  bars = []
  for split in splits:
    for panel, by_count in figures_anatomy.shares(run, split).items():
      for count, kinds in by_count.items():
        if any(kinds.values()):
          bars.append(Bar(split, panel, count, kinds))
  return bars


def wrong(run: Analysis) -> list[str]:
  """Some of a sweep's wrong outputs, at most two per class; [] without any."""
  return wrong_rows(Workdir(run.workdir).read_json_lines('wrong.jsonl'))


def wrong_rows(rows: Iterable[Mapping[str, str]]) -> list[str]:
  """Some rows of a wrong.jsonl, at most two per class; [] without any."""
  chosen, counts = [], collections.Counter()
  for row in rows:
    counts[row['class']] += 1
    if counts[row['class']] <= PER_CLASS and len(chosen) < SHOWN:
      chosen.append(row)
  if not chosen:
    return []
  return [
    f'<h3>Wrong outputs</h3><p class="soft">{len(chosen)} of {counts.total():,}: '
    '<span class="hit">as expected</span>, <span class="miss">wrong</span>, '
    '<span class="gone">expected there</span>.</p>',
    *(_example(row) for row in chosen),
  ]


def marked(expected: str, output: str) -> tuple[str, str]:
  """Both strings as html, each character marked as right or not."""
  if len(expected) == len(output):  # position by position: mistakes are seldom shifts
    spans = [
      ('equal' if a == b else 'replace', n, n + 1, n, n + 1)
      for n, (a, b) in enumerate(zip(expected, output, strict=True))
    ]
  else:
    matcher = difflib.SequenceMatcher(None, expected, output, autojunk=False)
    spans = matcher.get_opcodes()
  left, right = [], []
  for kind, a, b, c, d in spans:
    same = kind == 'equal'
    left.append(('hit' if same else 'gone', expected[a:b]))
    right.append(('hit' if same else 'miss', output[c:d]))
  return _spans(left), _spans(right)


def _spans(parts: Iterable[tuple[str, str]]) -> str:
  """(css class, characters) as html; neighbours of one class share a span."""
  joined: list[tuple[str, str]] = []
  for kind, text in parts:
    if joined and joined[-1][0] == kind:
      joined[-1] = (kind, joined[-1][1] + text)
    elif text:
      joined.append((kind, text))
  return ''.join(f'<span class="{k}">{html_text(t)}</span>' for k, t in joined)


def _example(row: Mapping[str, str]) -> str:
  """A wrong output beside what was expected."""
  expected, output = (row[k][:LONGEST] for k in ('expected', 'output'))
  expected, output = marked(expected, output)
  parts = (
    ('prompt', html_text(row['prompt'][:LONGEST])),
    ('expected', expected),
    ('output', output or '(nothing)'),
  )
  body = ''.join(f'<dt>{k}</dt><dd><code>{v}</code></dd>' for k, v in parts)
  member = row['member'] if 'member' in row else row['row']
  source = f'{row["class"]} · {row["split"]} · {member}'
  return f'<div class="wrong"><small>{html_text(source)}</small><dl>{body}</dl></div>'


def _look(n: int, name: str) -> Look:
  """The look of the n-th kind, coloured as in the figure."""
  default = (name.replace('_', ' '), figures_anatomy.BLACK, '')
  label, colour, hatch = figures_anatomy.CLASSES.get(name, default)
  ink = 'white' if colour in DARK else 'black'
  lines = f'{HATCHES[hatch]},' if hatch in HATCHES else ''
  letter = 'abcdefghijklmnopqrstuvwxyz'[n % 26]
  return Look(letter, label, f'background:{lines}{colour};color:{ink}')


def _legend(looks: Looks) -> str:
  items = (
    f'<li><b style="{css}">{letter}</b>{html_text(label)}</li>'
    for letter, label, css in looks.values()
  )
  return f'<ul class="legend">{"".join(items)}</ul>'


def _bar(name: str, kinds: Mapping[str, float], looks: Looks) -> str:
  """One stacked bar; its accessible label lists the shares."""
  parts, words = [], []
  for kind, (letter, label, css) in looks.items():
    if share := kinds.get(kind):
      sign = letter if share >= NARROW else ''
      words.append(f'{label} {share:.0%}')
      title = html_text(f'{label} {share:.1%}')
      style = f'flex:{share:.4f} 0 0;{css}'
      parts.append(f'<i style="{style}" title="{title}">{sign}</i>')
  return (
    f'<div class="bar"><span>{html_text(name)}</span><div role="img" '
    f'aria-label="{html_text(", ".join(words))}">{"".join(parts)}</div></div>'
  )


def _numbers(bars: Sequence[Bar], looks: Looks) -> str:
  """The bars as a collapsed table."""
  labels = (look.label for look in looks.values())
  head = ''.join(f'<th>{html_text(n)}</th>' for n in ('split', 'members', 'I', *labels))
  rows = [
    f'<tr><td>{html_text(split)}</td><td>{html_text(panel)}</td><td>{count:,}</td>'
    + ''.join(f'<td>{kinds.get(n, 0.0):.3f}</td>' for n in looks)
    + '</tr>'
    for split, panel, count, kinds in bars
  ]
  return (
    '<details><summary>The same as shares, means over seeds</summary>'
    f'<div class="scroll"><table><tr>{head}</tr>{"".join(rows)}</table></div></details>'
  )
