"""The html of what a run gets wrong: anatomy.csv as bars, wrong.jsonl by character."""

import collections
import difflib
import html
from collections.abc import Iterable, Mapping, Sequence

from onlyif_jax.analysis import figures_anatomy
from onlyif_jax.analysis.results import Analysis
from onlyif_jax.workdir import Workdir

NARROW = 0.04  # share of a bar below which its letter does not fit
SHOWN, OF_A_CLASS = 12, 2  # wrong outputs on the page
LONGEST = 400  # characters of a string that are shown
DARK = (figures_anatomy.BLACK, figures_anatomy.BLUE, figures_anatomy.GREY)
HATCHES = {  # matplotlib's hatches as css, so that no two kinds differ by colour alone
  '//': 'repeating-linear-gradient(135deg,#fffa 0 2px,#fff0 2px 7px)',
  'xx': 'repeating-linear-gradient(45deg,#fffa 0 2px,#fff0 2px 7px)',
  '..': 'repeating-linear-gradient(90deg,#fffa 0 2px,#fff0 2px 7px)',
}
Looks = Mapping[str, tuple[str, str, str]]  # kind -> letter, label, css
Bar = tuple[str, str, int, Mapping[str, float]]  # split, panel, I, kind -> share


def anatomy(run: Analysis) -> list[str]:
  """Stacked bars of the kinds of outputs, per split and count; [] without any."""
  splits = dict.fromkeys(
    row['split'] for row in Workdir(run.workdir).read_csv(figures_anatomy.FILE)
  )
  found = {split: figures_anatomy.shares(run, split) for split in splits}
  bars = [
    (split, panel, count, kinds)
    for split, panels in found.items()
    for panel, counts in panels.items()
    for count, kinds in counts.items()
    if any(kinds.values())
  ]
  if not bars:
    return []
  met = {kind for *_, kinds in bars for kind, share in kinds.items() if share}
  names = [k for k in figures_anatomy.CLASSES if k in met]
  names += sorted(met - set(names))
  looks = {name: _look(n, name) for n, name in enumerate(names)}
  out = ['<h3>What the outputs are</h3>', _legend(looks)]
  title = None
  for split, panel, count, kinds in bars:
    if title != (title := f'{split}, {panel}'):
      out.append(f'<h4>{_text(title)}</h4>')
    out.append(_bar(f'I = {count:,}', kinds, looks))
  return [*out, _numbers(bars, looks)]


def wrong(run: Analysis) -> list[str]:
  """Some wrong outputs, of as many classes as there are; [] without any."""
  return wrong_of(Workdir(run.workdir).read_json_lines('wrong.jsonl'))


def wrong_of(rows: Iterable[Mapping[str, str]]) -> list[str]:
  """The same from the lines of wrong.jsonl, of a sweep or of fine-tuning."""
  chosen, seen = [], collections.Counter()
  for row in rows:
    seen[row['class']] += 1
    if seen[row['class']] <= OF_A_CLASS and len(chosen) < SHOWN:
      chosen.append(row)
  if not chosen:
    return []
  return [
    f'<h3>Wrong outputs</h3><p class="soft">{len(chosen)} of {seen.total():,}: '
    '<span class="hit">as expected</span>, <span class="miss">wrong</span>, '
    '<span class="gone">expected there</span>.</p>',
    *(_example(row) for row in chosen),
  ]


def marked(expected: str, output: str) -> tuple[str, str]:
  """Both strings as html, each character marked as right or not."""
  if len(expected) == len(output):  # by place: what is wrong is seldom shifted
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
  """Runs of equally marked characters as one span each."""
  joined: list[tuple[str, str]] = []
  for kind, text in parts:
    if joined and joined[-1][0] == kind:
      joined[-1] = (kind, joined[-1][1] + text)
    elif text:
      joined.append((kind, text))
  return ''.join(f'<span class="{k}">{_text(t)}</span>' for k, t in joined)


def _example(row: Mapping[str, str]) -> str:
  expected, output = (row[k][:LONGEST] for k in ('expected', 'output'))
  expected, output = marked(expected, output)
  parts = (
    ('prompt', _text(row['prompt'][:LONGEST])),
    ('expected', expected),
    ('output', output or '(nothing)'),
  )
  body = ''.join(f'<dt>{k}</dt><dd><code>{v}</code></dd>' for k, v in parts)
  own = row['member'] if 'member' in row else row['row']
  where = f'{row["class"]} · {row["split"]} · {own}'
  return f'<div class="wrong"><small>{_text(where)}</small><dl>{body}</dl></div>'


def _look(n: int, name: str) -> tuple[str, str, str]:
  """(letter, label, css) of the n-th kind, coloured as in the figure."""
  plain = (name.replace('_', ' '), figures_anatomy.BLACK, '')
  label, colour, hatch = figures_anatomy.CLASSES.get(name, plain)
  ink = 'white' if colour in DARK else 'black'
  lines = f'{HATCHES[hatch]},' if hatch in HATCHES else ''
  letter = 'abcdefghijklmnopqrstuvwxyz'[n % 26]
  return letter, label, f'background:{lines}{colour};color:{ink}'


def _legend(looks: Looks) -> str:
  items = (
    f'<li><b style="{css}">{letter}</b>{_text(label)}</li>'
    for letter, label, css in looks.values()
  )
  return f'<ul class="legend">{"".join(items)}</ul>'


def _bar(where: str, kinds: Mapping[str, float], looks: Looks) -> str:
  parts, words = [], []
  for name, (letter, label, css) in looks.items():
    if share := kinds.get(name):
      sign = letter if share >= NARROW else ''
      words.append(f'{label} {share:.0%}')
      title = _text(f'{label} {share:.1%}')
      style = f'flex:{share:.4f} 0 0;{css}'
      parts.append(f'<i style="{style}" title="{title}">{sign}</i>')
  return (
    f'<div class="bar"><span>{_text(where)}</span><div role="img" '
    f'aria-label="{_text(", ".join(words))}">{"".join(parts)}</div></div>'
  )


def _numbers(bars: Sequence[Bar], looks: Looks) -> str:
  labels = (label for _, label, _ in looks.values())
  head = ''.join(f'<th>{_text(n)}</th>' for n in ('split', 'members', 'I', *labels))
  rows = [
    f'<tr><td>{_text(split)}</td><td>{_text(panel)}</td><td>{count:,}</td>'
    + ''.join(f'<td>{kinds.get(n, 0.0):.3f}</td>' for n in looks)
    + '</tr>'
    for split, panel, count, kinds in bars
  ]
  return (
    '<details><summary>The same as shares, means over seeds</summary>'
    f'<div class="scroll"><table><tr>{head}</tr>{"".join(rows)}</table></div></details>'
  )


def _text(value) -> str:
  return html.escape(str(value))
