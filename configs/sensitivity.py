"""Which setting that the papers omit could explain I_min = 300 against 500?

  python -m onlyif_jax.main --config=configs/sensitivity.py        # cpu, two cores
  python -m onlyif_jax.main --config=configs/sensitivity.py:cpu60  # with I_50
  python -m onlyif_jax.main --config=configs/sensitivity.py:full

Arguments after the size: counts=200|500, seeds=2, grid=one|all.

One paper gives I_min as 300, 400 and 500 (Only-IF, 2.3.1-2.3.3), each time without the
optimiser's details, positions, number of steps, dropout (HF's default is .1) and the
order of the prompt. `one` changes one of these at a time from the base; `all` is the
whole grid of 2 x 2 x 2 x 2 x 2.

`cpu` (an analogue): the base is Muon, rotary, 4 passes, no dropout, instruction first;
six settings at I = 200 and 500, near the step, where a shift shows best. `cpu60` adds
300, 1,000 and 3,000 for a fit.

Measured (2 seeds, 33 min of CPU time for `cpu`, 89 for `cpu60`), I_50 and that of each
seed: base 289 (281, 296), AdamW 760 (708, 815), learned positions 506 (500, 512), 16
passes 319 (300, 338), order z x y 339 (409, 280), dropout .1 below 200. Unseen at I =
200 and 500: .04 .87, .01 .09, .00 .43, .26 .91, .18 .65, .41 .70. `full`: not run.
"""

import itertools

from onlyif_jax import presets
from onlyif_jax.config import base_config, parse_arg

PAPER = 'I_min = 300, 400 and 500 in one paper'


def get_config(arg=None):
  """The config of a size."""
  sizes = ('cpu', 'cpu60', 'full')
  given = parse_arg(arg, sizes, counts=tuple[int, ...], seeds=str, grid=str)
  grid = presets.choose('grid', given.grid, ('one', 'all'))
  c = base_config()
  c.name, c.size, c.figure, c.paper = 'sensitivity', given.size, 'sensitivity', PAPER
  if given.size != 'full':
    presets.two_cores(c)
    c.eval.cell_examples = 0
    c.sweep.counts = (200, 500)
    if given.size == 'cpu60':
      c.sweep.counts = (200, 300, 500, 1_000, 3_000)
    optimizer, positions = 'optim.name=adamw', 'model.positions=learned'
  else:
    presets.papers(c)
    c.sweep.counts = (200, 300, 400, 500, 600, 1_000)
    optimizer, positions = 'optim.name=muon', 'model.positions=rotary'
  longer = f'data.epochs={4 * c.data.epochs:g}'
  changes = (optimizer, positions, longer, 'model.dropout=0.1', 'task.order=zxy')
  if grid == 'one':
    c.sweep.variants = ('', *changes)
  else:
    grid_points = itertools.product(*[('', change) for change in changes])
    c.sweep.variants = tuple(','.join(filter(None, point)) for point in grid_points)
  c.sweep.references = ()
  c.sweep.counts = given.counts or c.sweep.counts
  c.sweep.seeds = given.seeds or ('3' if given.size == 'full' else '2')
  return c
