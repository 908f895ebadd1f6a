"""Kinds of outputs over I as stacked bars, from a run's anatomy.csv."""

import textwrap
from collections.abc import Mapping

import numpy as np

from onlyif_jax.analysis.figures_style import (
  BLACK,
  BLUE,
  GREEN,
  GREY,
  ORANGE,
  PURPLE,
  RED,
  SKY,
  STYLE,
  Page,
  pyplot,
  save,
)
from onlyif_jax.analysis.panels import footer_parts, variant_name
from onlyif_jax.analysis.results import Analysis, settings
from onlyif_jax.config import ConfigError
from onlyif_jax.workdir import Workdir

FILE = 'anatomy.csv'
CLASSES = {  # class -> label, colour, hatch; bottom of a bar first
  'right': ('right', GREEN, ''),
  'copied': ('input copied', SKY, ''),
  'false_no_op': ('input copied though x occurs', SKY, '//'),
  'false_op': ('y inserted though x is absent', BLUE, '..'),
  'later_occurrence': ('later x replaced', BLUE, ''),
  'training_y': ('y of a training rule with this x', ORANGE, ''),
  'nearest_y': ('y of the rule with the nearest x', ORANGE, '//'),
  'wrong_y': ('another y in its place', ORANGE, 'xx'),
  'extra_edit': ('y in its place, more changed', PURPLE, ''),
  'edit_elsewhere': ('x kept, others changed', PURPLE, '..'),
  'length': ('wrong length', RED, ''),
  'wrong_letters': ('wrong letters', RED, '//'),
  'malformed': ('malformed', GREY, 'xx'),
}
ACROSS = 3  # panels in a row
Shares = dict[str, dict[int, dict[str, float]]]  # panel -> I -> class -> share


def draw_anatomy(
  run: Analysis, file, *, split: str = 'unseen', anonymous: bool = False
) -> None:
  """Writes a split's kinds of outputs over I as stacked bars, as png to `file`.

  One panel per variant, no-op share and rate; bars are means over seeds. Raises
  ConfigError if the run's anatomy.csv has no rows of the split.
  """
  panel_shares = shares(run, split)
  if not panel_shares:
    raise ConfigError(
      f'{run.workdir / FILE} has no outputs of split {split}; run with '
      'eval.outputs above 0'
    )
  plt = pyplot()
  with plt.rc_context(STYLE):
    most = max(len(bars) for bars in panel_shares.values())
    width = min(7.0, max(2.6, 0.55 * most + 0.6))
    page = Page(plt, f'What the outputs are, split {split} ({run.label})')
    across = min(ACROSS, len(panel_shares))
    titles = [textwrap.fill(name, int(width * 11)) for name in panel_shares]
    above = 0.2 + 0.17 * max(1 + title.count('\n') for title in titles)
    panels = page.grid(len(panel_shares), across, width, 3.0, gap=0.35, above=above)
    for n, (axes, bars) in enumerate(zip(panels, panel_shares.values(), strict=True)):
      _bars(axes, bars)
      axes.set_title(titles[n])
      if n % across:
        axes.set_yticklabels([])
      else:
        axes.set_ylabel('share of outputs')
    parts = footer_parts(run, settings(run, anonymous=anonymous))
    save(plt, page.finish([_outputs(run, split), *parts], panels), file)


def shares(run: Analysis, split: str = 'unseen') -> Shares:
  """Panel -> I -> class -> share of the outputs, mean over seeds."""
  per_seed: dict[str, dict[int, dict[str, list[float]]]] = {}
  rows = [r for r in _rows(run) if r['split'] == split and not r['reference']]
  varied = [
    field
    for field in ('noop_share', 'learning_rate')
    if len({r[field] for r in rows}) > 1
  ]
  for row in rows:
    name = variant_name(run, row['variant']) if 'variant' in row else ''
    words = [f'{field.replace("_", " ")} {float(row[field]):g}' for field in varied]
    panel = ', '.join(filter(None, [name, *words])) or 'all members'
    bars = per_seed.setdefault(panel, {}).setdefault(int(row['instructions']), {})
    if int(row['examples']):
      share = int(row['count']) / int(row['examples'])
      bars.setdefault(row['class'], []).append(share)
  return {
    panel: {
      count: {kind: float(np.mean(v)) for kind, v in bars[count].items()}
      for count in sorted(bars)
    }
    for panel, bars in per_seed.items()
  }


def _rows(run: Analysis) -> list[dict]:
  return Workdir(run.workdir).read_csv(FILE)


def _outputs(run: Analysis, split: str) -> str:
  """How many outputs were decoded, in words."""
  most = max(int(r['examples']) for r in _rows(run) if r['split'] == split)
  return f'up to {most:,} outputs of each member decoded'


def _bars(axes, bars: Mapping[int, Mapping[str, float]]):
  """Draws one panel; bars: I -> class -> share."""
  bottom = np.zeros(len(bars))
  other_names = sorted({name for kinds in bars.values() for name in kinds})
  for name in dict.fromkeys([*CLASSES, *other_names]):
    height = np.array([kinds.get(name, 0.0) for kinds in bars.values()])
    if not height.any():
      continue
    label, colour, hatch = CLASSES.get(name, (name.replace('_', ' '), BLACK, '--'))
    axes.bar(
      range(len(bars)),
      height,
      0.86,
      bottom=bottom,
      color=colour,
      hatch=hatch,
      edgecolor='white',
      lw=0.5,
      label=label,
    )
    bottom += height
  axes.set_xticks(
    range(len(bars)),
    [f'{count:,}' for count in bars],
    rotation=45 if len(bars) > 6 else 0,
  )
  axes.set(xlabel='instructions I', ylim=(0, 1.0))
