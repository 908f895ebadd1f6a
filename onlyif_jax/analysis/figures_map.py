"""Fig. 1 of Only-IF: a map of training and test sets beside tables of their diversity.

The caller embeds the texts; this module projects the vectors to a plane and draws it.
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

LINE, LETTER = 0.19, 0.07  # inches: height of a table's line, width of a letter
SLICES = 8  # parts of each set, drawn in turn so that no set hides the others
MAP = 4.8  # inches, width and least height
TESTS = ('X', 'P', '*', 'd', 'h', '8')  # markers of test sets


@dataclasses.dataclass(frozen=True)
class Cloud:
  """A set's points on the map (float [N, 2])."""

  name: str
  points_N2: np.ndarray
  test: bool = False


def project(
  vectors_ND: np.ndarray, how: str = 'pca', seed: int = 0
) -> tuple[np.ndarray, tuple[str, str]]:
  """Points on the plane (float64 [N, 2]) and the names of its axes.

  how: 'pca', or 'umap' by cosine distance (needs the extra viz). Raises ConfigError for
  another name or if the extra is missing.
  """
  if how == 'umap':
    return _umap(vectors_ND, seed), ('UMAP 1', 'UMAP 2')
  if how != 'pca':
    raise ConfigError(f'mixture.projection={how!r} is not one of pca, umap')
  centred_ND = np.asarray(vectors_ND, np.float64)
  centred_ND = centred_ND - centred_ND.mean(axis=0, keepdims=True)
  eigenvalues_D, eigenvectors_DD = np.linalg.eigh(centred_ND.T @ centred_ND)
  points_N2 = centred_ND @ eigenvectors_DD[:, ::-1][:, :2]
  if points_N2.shape[1] < 2:
    points_N2 = np.pad(points_N2, ((0, 0), (0, 1)))
  # An eigenvector's sign is arbitrary: the farthest point of each axis is positive.
  farthest_2 = points_N2[np.argmax(np.round(np.abs(points_N2), 9), axis=0), [0, 1]]
  points_N2 = points_N2 * np.where(farthest_2 < 0, -1.0, 1.0)[None, :]
  shares_2 = np.sum(points_N2**2, axis=0) / max(float(eigenvalues_D.sum()), 1e-12)
  first, second = (f'PC {n + 1} ({s:.0%} of variance)' for n, s in enumerate(shares_2))
  return points_N2, (first, second)


def draw(
  clouds: Sequence[Cloud],
  axes_names: tuple[str, str],
  tables: Sequence[Grid],
  parts: Sequence[str],
  file,
) -> None:
  """Draws the map and the tables to a path or a binary file; parts: of the footer."""
  plt = pyplot()
  layouts = [_Layout.of(grid) for grid in tables]
  width = max((layout.width for layout in layouts), default=1.0)
  height = max(MAP, sum(layout.height for layout in layouts))
  with plt.rc_context(STYLE):
    page = Page(plt, 'Where the sets lie, by what their prompts ask', left=0.6)
    axes, text_axes = page.row([MAP, width], height, gap=0.3, above=0.2, below=0.45)
    _scatter(axes, clouds, axes_names)
    _write(text_axes, layouts, width, height)
    save(plt, page.finish(parts, [axes]), file)


def _scatter(axes, clouds: Sequence[Cloud], names: tuple[str, str]):
  """Draws training sets slice by slice, then test sets on top; labels every set."""
  train = [c for c in clouds if not c.test]
  for part in range(SLICES):
    for n, cloud in enumerate(train):
      style = look(n)
      axes.scatter(
        *cloud.points_N2[part::SLICES].T,
        s=14,
        c=style.colour,
        marker=style.marker,
        alpha=0.55,
        linewidths=0,
        label=f'{cloud.name} ({len(cloud.points_N2):,})' if part == 0 else None,
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
  """Writes each set's name above most of its points; overlapping names move apart."""
  from matplotlib import patheffects

  halo = [patheffects.withStroke(linewidth=3, foreground='white')]
  low, high = axes.get_ylim()
  axes.set_ylim(low, high + 0.06 * (high - low))  # room for the highest name
  to_axes = axes.transAxes.inverted()
  positions = []
  for cloud in clouds:
    # A quantile, since a maximum would follow a few outliers.
    x, y = np.median(cloud.points_N2[:, 0]), np.quantile(cloud.points_N2[:, 1], 0.85)
    positions.append(to_axes.transform(axes.transData.transform((x, y))))
  order = sorted(range(len(clouds)), key=lambda n: positions[n][1])
  heights = apart([positions[n][1] + 0.035 for n in order], 0.045)
  for n, height in zip(order, heights, strict=True):
    axes.text(
      min(max(positions[n][0], 0.12), 0.88),
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
  """Writes the tables as text, from the top; the axes are in inches."""
  axes.set_axis_off()
  axes.set_xlim(0, width)
  axes.set_ylim(height, 0)
  y = 0.0
  for table in layouts:
    axes.text(0, y, table.title, fontsize=9, fontweight='bold', va='top')
    y += LINE * (1.2 + table.header_lines)
    axes.plot([0, table.width], [y, y], color=GREY, linewidth=0.8, clip_on=False)
    for row, cells in enumerate((table.header, *table.rows)):
      x, bottom = 0.0, y + LINE * row - 0.02
      for n, (cell, letters) in enumerate(zip(cells, table.letters, strict=True)):
        left, x = x, x + letters * LETTER
        anchor, align = (left, 'left') if n == 0 else (x, 'right')
        axes.text(anchor, bottom, cell, fontsize=8, ha=align, va='bottom', color=BLACK)
    y += LINE * (len(table.rows) + 1)


@dataclasses.dataclass(frozen=True)
class _Layout:
  """A table whose column names are wrapped to about the width of the cells."""

  title: str
  header: tuple[str, ...]
  rows: tuple[tuple[str, ...], ...]
  letters: tuple[int, ...]  # width of every column, with padding

  @classmethod
  def of(cls, grid: Grid) -> '_Layout':
    header, letters = [], []
    for n, name in enumerate(grid.columns):
      longest = max((len(row[n]) for row in grid.rows), default=0)
      lines = textwrap.wrap(name, max(longest, 9)) or ['']
      header.append('\n'.join(lines))
      letters.append(max(longest, *map(len, lines)) + 2)
    return cls(grid.title, tuple(header), grid.rows, tuple(letters))

  @property
  def width(self) -> float:
    """Inches."""
    return sum(self.letters) * LETTER

  @property
  def header_lines(self) -> int:
    return 1 + max(name.count('\n') for name in self.header)

  @property
  def height(self) -> float:
    """Inches, with the title and room below."""
    return LINE * (2.2 + self.header_lines + len(self.rows))


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
