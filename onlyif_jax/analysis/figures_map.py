"""Fig. 1 of Only-IF: a map of training and test sets, with numbers beside it.

Vectors of texts come from elsewhere; here they are projected on two axes and drawn.
"""

import dataclasses
import textwrap
from collections.abc import Sequence

import numpy as np

from onlyif_jax.analysis.figures_style import (
  BLACK,
  GREY,
  STYLE,
  Page,
  apart,
  look,
  pyplot,
  save,
)
from onlyif_jax.analysis.table import Grid
from onlyif_jax.config import ConfigError

LINE, LETTER = 0.19, 0.07  # inches of a table's line, and of a letter in it
SHARES = 8  # of a set, drawn by turns so that no set hides the others
MAP = 4.8  # inches
TESTS = ('X', 'P', '*', 'd', 'h', '8')  # markers of test sets


@dataclasses.dataclass(frozen=True)
class Cloud:
  """The points of a set on the map (float [N, 2])."""

  name: str
  points_N2: np.ndarray
  test: bool = False


def project(
  vectors_ND: np.ndarray, how: str = 'pca', seed: int = 0
) -> tuple[np.ndarray, tuple[str, str]]:
  """Points on the plane (float64 [N, 2]) and what its axes are.

  how: 'pca', or 'umap' by cosine distance (extra viz). Raises ConfigError without it.
  """
  if how == 'umap':
    return _umap(vectors_ND, seed), ('UMAP 1', 'UMAP 2')
  if how != 'pca':
    raise ConfigError(f'mixture.projection={how!r} is not one of pca, umap')
  centred_ND = np.asarray(vectors_ND, np.float64)
  centred_ND = centred_ND - centred_ND.mean(axis=0, keepdims=True)
  values_D, turn_DD = np.linalg.eigh(centred_ND.T @ centred_ND)
  points_N2 = centred_ND @ turn_DD[:, ::-1][:, :2]
  if points_N2.shape[1] < 2:
    points_N2 = np.pad(points_N2, ((0, 0), (0, 1)))
  top_2 = points_N2[np.argmax(np.round(np.abs(points_N2), 9), axis=0), [0, 1]]
  points_N2 = points_N2 * np.where(top_2 < 0, -1.0, 1.0)[None, :]
  shares_2 = np.sum(points_N2**2, axis=0) / max(float(values_D.sum()), 1e-12)
  first, second = (f'PC {n + 1} ({s:.0%} of variance)' for n, s in enumerate(shares_2))
  return points_N2, (first, second)


def draw(
  clouds: Sequence[Cloud],
  axes_names: tuple[str, str],
  tables: Sequence[Grid],
  parts: Sequence[str],
  file,
) -> None:
  """Draws the map to a path or a binary file; parts: settings for the footer."""
  plt = pyplot()
  layouts = [_Layout.of(grid) for grid in tables]
  side = max((table.inches for table in layouts), default=1.0)
  height = max(MAP, sum(table.height for table in layouts))
  with plt.rc_context(STYLE):
    page = Page(plt, 'Where the sets lie, by what their prompts ask', left=0.6)
    axes, numbers = page.row([MAP, side], height, gap=0.3, above=0.2, below=0.45)
    _scatter(axes, clouds, axes_names)
    _write(numbers, layouts, side, height)
    save(plt, page.finish(parts, [axes]), file)


def _scatter(axes, clouds: Sequence[Cloud], names: tuple[str, str]):
  """Training sets by turns, then test sets on top; each labelled at its middle."""
  train = [c for c in clouds if not c.test]
  for share in range(SHARES):
    for n, cloud in enumerate(train):
      own = look(n)
      axes.scatter(
        *cloud.points_N2[share::SHARES].T,
        s=14,
        c=own.colour,
        marker=own.marker,
        alpha=0.55,
        linewidths=0,
        label=f'{cloud.name} ({len(cloud.points_N2):,})' if share == 0 else None,
        rasterized=True,
      )
  for n, cloud in enumerate(c for c in clouds if c.test):
    axes.scatter(
      *cloud.points_N2.T,
      s=34,
      c=(BLACK, 'white')[n % 2],
      edgecolors=('white', BLACK)[n % 2],
      marker=TESTS[n % len(TESTS)],
      linewidths=0.7,
      label=f'test: {cloud.name} ({len(cloud.points_N2):,})',
    )
  axes.set_xlabel(names[0])
  axes.set_ylabel(names[1])
  axes.set_xticks([])
  axes.set_yticks([])
  _label(axes, [c for c in clouds if len(c.points_N2)])


def _label(axes, clouds: Sequence[Cloud]):
  """Names above most of each set, moved apart where they would overlap."""
  from matplotlib import patheffects

  halo = [patheffects.withStroke(linewidth=3, foreground='white')]
  low, high = axes.get_ylim()
  axes.set_ylim(low, high + 0.06 * (high - low))  # room for the highest name
  inverse = axes.transAxes.inverted()
  places = []
  for cloud in clouds:
    # Above most of the set; above all of it a few rows far off would lead astray.
    x, y = np.median(cloud.points_N2[:, 0]), np.quantile(cloud.points_N2[:, 1], 0.85)
    places.append(inverse.transform(axes.transData.transform((x, y))))
  order = sorted(range(len(clouds)), key=lambda n: places[n][1])
  heights = apart([places[n][1] + 0.035 for n in order], 0.045)
  for n, height in zip(order, heights, strict=True):
    axes.text(
      min(max(places[n][0], 0.12), 0.88),
      height,
      clouds[n].name,
      transform=axes.transAxes,
      ha='center',
      va='center',
      fontsize=9,
      fontweight='bold',
      style='italic' if clouds[n].test else 'normal',
      path_effects=halo,
    )


def _write(axes, layouts: Sequence['_Layout'], width: float, height: float):
  """The tables as text from the top, in inches."""
  axes.set_axis_off()
  axes.set_xlim(0, width)
  axes.set_ylim(height, 0)
  y = 0.0
  for table in layouts:
    axes.text(0, y, table.title, fontsize=9, fontweight='bold', va='top')
    y += LINE * (1.2 + table.head_lines)
    axes.plot([0, table.inches], [y, y], color=GREY, linewidth=0.8, clip_on=False)
    for row, cells in enumerate((table.head, *table.rows)):
      x, bottom = 0.0, y + LINE * row - 0.02
      for n, (cell, letters) in enumerate(zip(cells, table.letters, strict=True)):
        x += letters * LETTER
        at, side = (x - letters * LETTER, 'left') if n == 0 else (x, 'right')
        axes.text(at, bottom, cell, fontsize=8, ha=side, va='bottom', color=BLACK)
    y += LINE * (len(table.rows) + 1)


@dataclasses.dataclass(frozen=True)
class _Layout:
  """A table whose heads are broken into lines as narrow as its cells."""

  title: str
  head: tuple[str, ...]
  rows: tuple[tuple[str, ...], ...]
  letters: tuple[int, ...]  # of every column, with room

  @classmethod
  def of(cls, grid: Grid) -> '_Layout':
    head, letters = [], []
    for n, name in enumerate(grid.columns):
      longest = max((len(row[n]) for row in grid.rows), default=0)
      lines = textwrap.wrap(name, max(longest, 9)) or ['']
      head.append('\n'.join(lines))
      letters.append(max(longest, *map(len, lines)) + 2)
    return cls(grid.title, tuple(head), grid.rows, tuple(letters))

  @property
  def inches(self) -> float:
    return sum(self.letters) * LETTER

  @property
  def head_lines(self) -> int:
    return 1 + max(name.count('\n') for name in self.head)

  @property
  def height(self) -> float:
    return LINE * (2.2 + self.head_lines + len(self.rows))


def _umap(vectors_ND: np.ndarray, seed: int) -> np.ndarray:
  try:
    import umap  # pyright: ignore[reportMissingImports]  # slow, and an extra
  except ImportError:
    raise ConfigError(
      "mixture.projection='umap' needs umap-learn: pip install 'onlyif_jax[viz]', or "
      'take pca'
    ) from None
  model = umap.UMAP(metric='cosine', random_state=seed, n_jobs=1)
  return np.asarray(model.fit_transform(np.asarray(vectors_ND)), np.float64)
