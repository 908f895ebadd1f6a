"""The papers' numbers beside ours: reads targets.yaml, prints nothing itself."""

import functools
import importlib.resources
from typing import Any

import yaml

from onlyif_jax.analysis.results import Analysis
from onlyif_jax.analysis.transition import Estimate, Transition

OWN_SIZE = 'at its own size'  # ours is an analogue: sizes and budgets differ


@functools.cache
def target(figure: str) -> dict[str, Any]:
  """The papers' entry for a figure ('imin' or 'noop')."""
  files = importlib.resources.files('onlyif_jax.analysis')
  return yaml.safe_load((files / 'targets.yaml').read_text())[figure]


def number(value: float | None) -> str:
  """A count of instructions with three significant digits, '-' for None."""
  return '-' if value is None else f'{float(f"{value:.3g}"):,.10g}'


def estimate(e: Estimate | None) -> str:
  """'412 [350, 480]', 'both seeds', or '-' where there is none."""
  if e is None:
    return '-'
  text = number(e.value)
  if e.low is not None:
    text += f' [{number(e.low)}, {number(e.high)}]'
  elif len(e.per_seed) > 1:
    text += f' (seeds: {", ".join(map(number, e.per_seed.values()))})'
  else:
    text += ' (one seed)'
  return text


def flagged(e: Estimate | None) -> str:
  """An end of the rise, marked where no count lies near it."""
  return estimate(e) + (' extrapolated' if e is not None and e.extrapolated else '')


def brackets(t: Transition) -> str:
  """'200 / 1,000': fails up to / holds from."""
  return ' / '.join('-' if x is None else f'{x:,.10g}' for x in t.bracket)


def compare(run: Analysis) -> list[tuple[str, str, str]]:
  """(quantity, the papers' value at their own size, ours) for the run's figure."""
  ours = _noop(run) if run.config.figure == 'noop' else _imin(run.main)
  return [
    (f'{row["what"]}{where}', row['paper'], value)
    for row in target(run.config.figure)['rows']
    for where, value in ours[row['quantity']].items()
  ]


def _imin(t: Transition) -> dict[str, dict[str, str]]:
  return {
    'bracket': {'': brackets(t)},
    'i_50': {'': estimate(t.i_50)},
    'i_min': {'': flagged(t.i_min)},
  }


def _noop(run: Analysis) -> dict[str, dict[str, str]]:
  """Quantity -> (which no-op share -> ours)."""
  each, values = {}, []
  for curve in run.curves:
    if curve.slice == 'noop=0':
      t = run.fits[curve.name]
      where = curve.name.removesuffix('unseen/noop=0').rstrip('/')
      each[f', {where}' if where else ''] = f'{estimate(t.i_50)}; bracket {brackets(t)}'
      values += [t.i_50.value] if t.i_50 else []
  spread = f'{max(values) / min(values):.2f}' if len(values) > 1 else '-'
  return {'i_50': each, 'share_spread': {'': spread}}
