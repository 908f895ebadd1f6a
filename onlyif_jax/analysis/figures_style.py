"""Shared by all figures: colours, a page laid out in inches, its legend and footer.

Matplotlib loads with the first figure and needs no display. Colours are Okabe and
Ito's; no two series differ by colour alone.
"""

import sys
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

BLUE, ORANGE, GREEN, RED = '#0072B2', '#E69F00', '#009E73', '#D55E00'
SKY, PURPLE, BLACK, GREY = '#56B4E9', '#CC79A7', '#000000', '#666666'
STYLE = {
  'font.size': 10,
  'axes.spines.top': False,
  'axes.spines.right': False,
  'axes.titlesize': 10,
  'legend.frameon': False,
  'figure.titlesize': 12,
  'figure.facecolor': 'white',
}
SIDE, LINE = 0.3, 0.2  # inches: left of title and legend; height of a legend line


class Look(NamedTuple):
  """How a series is drawn."""

  colour: str
  marker: str
  line: str | tuple = '-'


LOOKS = (
  Look(BLUE, 'o', '-'),
  Look(RED, 's', '--'),
  Look(GREEN, '^', '-.'),
  Look(PURPLE, 'D', ':'),
  Look(ORANGE, 'v', (0, (6, 2))),
  Look(BLACK, 'P', (0, (4, 2, 1, 2))),
  Look(SKY, 'X', (0, (2, 1))),
  Look(GREY, '*', (0, (5, 1, 1, 1, 1, 1))),
)


def look(n: int) -> Look:
  """The n-th series' look; beyond eight, colours pair with other markers and lines."""
  cycle, index = divmod(n, len(LOOKS))
  shifted = LOOKS[(index + 3 * cycle) % len(LOOKS)]
  return Look(LOOKS[index].colour, shifted.marker, shifted.line)


def pyplot() -> Any:
  """Matplotlib's pyplot, without a display unless a backend is already in use."""
  import matplotlib  # slow to load, and only figures need it

  if 'matplotlib.pyplot' not in sys.modules:  # a notebook keeps its own backend
    matplotlib.use('Agg')
  import matplotlib.pyplot as plt

  return plt


def save(plt, figure, file) -> None:
  """Writes a figure as png to a path or a binary file, and closes it."""
  figure.savefig(file, format='png', dpi=150, metadata={'Software': None})
  plt.close(figure)


class Panel(NamedTuple):
  """Where a panel goes, in inches from the left and from the top of the page."""

  axes: Any
  x: float
  y: float
  width: float
  height: float


class Page:
  """Panels placed in inches from the top; `finish` adds title, legend and footer."""

  def __init__(self, plt, title: str, *, left: float = 0.75, right: float = 0.25):
    self.figure: Any = plt.figure()
    self.title, self.left, self.right = title, left, right
    self.width, self.y = 7.2, 0.0
    self.panels: list[Panel] = []

  def row(
    self,
    widths: Sequence[float],
    height: float,
    *,
    gap: float = 0.8,
    above: float = 0.4,
    below: float = 0.6,
  ) -> list[Any]:
    """Adds a row of panels; their axes, from left to right."""
    x, out = self.left, []
    for width in widths:
      axes = self.figure.add_axes((0, 0, 1, 1), label=str(len(self.panels)))
      self.panels.append(Panel(axes, x, self.y + above, width, height))
      out.append(axes)
      x += width + gap
    self.width = max(self.width, x - gap + self.right)
    self.y += above + height + below
    return out

  def grid(
    self, count: int, columns: int, width: float, height: float, **room
  ) -> list[Any]:
    """Adds `count` panels of one size, row by row; room: arguments of `row`."""
    out: list[Any] = []
    while len(out) < count:
      out += self.row([width] * min(columns, count - len(out)), height, **room)
    return out

  def finish(self, parts: Sequence[str], labelled: Any = (), *, columns: int = 9):
    """Lays out the page and returns the figure.

    parts: of the footer. labelled: the axes whose labels make up the legend.
    """
    title = _wrap(self.title, self.width, 10.3)
    footer = _wrap(' · '.join(parts), self.width, 13.5)
    entries: dict[str, Any] = {}
    for axes in labelled:
      for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
        entries.setdefault(name, handle)
    for name in [name for name in entries if name.startswith('hollow')]:
      entries[name] = entries.pop(name)  # the key to all series comes last
    columns = min(columns, self._columns(entries))
    footer_height = 0.15 + 0.145 * (1 + footer.count('\n'))
    lines = -(-len(entries) // columns)
    title_height = 0.2 + 0.21 * (1 + title.count('\n'))
    height = title_height + self.y + lines * LINE + footer_height + 0.1
    self.figure.set_size_inches(self.width, height)
    for axes, x, y, w, h in self.panels:
      bottom = height - title_height - y - h
      axes.set_position((x / self.width, bottom / height, w / self.width, h / height))
    side = SIDE / self.width
    self.figure.text(side, 1 - 0.12 / height, title, fontsize=12, va='top')
    self.figure.text(side, 0.1 / height, footer, fontsize=8, color=GREY, va='bottom')
    if entries:
      self.figure.legend(
        list(entries.values()),
        list(entries),
        ncols=columns,
        loc='lower left',
        bbox_to_anchor=(side, footer_height / height),
        borderaxespad=0,
        fontsize=9,
      )
    return self.figure

  def _columns(self, names: Iterable[str]) -> int:
    """How many columns of the legend fit on the page."""
    longest = max((len(name) for name in names), default=1)
    return max(1, int((self.width - SIDE) / (0.75 + 0.072 * longest)))


def margins(figure, *, top: float, bottom: float) -> None:
  """Sets the room above and below the panels of a plain figure, in inches."""
  height = figure.get_figheight()
  figure.subplots_adjust(top=1 - top / height, bottom=bottom / height)


def footer(figure, parts: Sequence[str]) -> None:
  """Writes the settings at the foot of a plain figure."""
  text = _wrap(' · '.join(parts), figure.get_figwidth(), 13.5)
  figure.text(0.03, 0.012, text, fontsize=8, color=GREY, va='bottom')


def apart(values: Sequence[float], gap: float) -> list[float]:
  """Label heights at least `gap` apart and at most 1, near the ascending `values`."""
  heights: list[float] = []
  for value in values:
    heights.append(max(value, heights[-1] + gap) if heights else value)
  limit = 1.0
  for n in reversed(range(len(heights))):
    heights[n] = min(heights[n], limit)
    limit = heights[n] - gap
  return heights


def _wrap(text: str, inches: float, per_inch: float) -> str:
  width = int(inches * per_inch)
  lines = text.split('\n')
  return '\n'.join(textwrap.fill(t, width, break_long_words=False) for t in lines)
