"""Fig. 2a of Only-IF: unseen accuracy against the number of instructions.

  python -m onlyif_jax.main --config=configs/imin.py        # cpu, two cores
  python -m onlyif_jax.main --config=configs/imin.py:full   # the papers' settings

Arguments after the size: counts=10|100|1000, seeds=3 (or 3x3), epochs=4.

Paper (6 layers x 256, |x|=|y|=20, input 50, N = 10^6, 50 epochs): models with fewer
than 300 instructions never generalise, models with 1,000 or more always do.
`cpu` is an analogue with three letters per pattern; `full` has the papers' settings,
and our choices where they give none (batch, warm-up, decay, dropout, seeds).

Measured (`cpu`, 3 seeds, two quiet cores, 10 min, 19 min of CPU time): unseen exact
match .00 .00 .16 .53 .85 .87 .88 .89 at I = 30 100 200 300 500 1k 3k 10k, seen .90 or
more; I_50 = 273 [220, 339], bracket 100 / 500. With epochs=4: .94 to .96 from 1,000 on,
I_50 = 251 [117, 538]. `full`: not run.
"""

from onlyif_jax import presets
from onlyif_jax.config import base_config, parse_arg

PAPER = 'I_min = 300 (never below), I_max = 1,000 (always from there on)'
COUNTS = (10, 20, 50, 100, 200, 300, 400, 500, 600, 1_000, 2_000, 2_500, 5_000)
COUNTS += (10_000, 100_000, 1_000_000)  # the 16 counts of Fig. 2a


def get_config(arg=None):
  """The config of a size."""
  given = parse_arg(
    arg, ('cpu', 'gpu30', 'full'), counts=tuple[int, ...], seeds=str, epochs=float
  )
  c = base_config()
  c.name, c.size, c.figure, c.paper = 'imin', given.size, 'imin', PAPER
  if given.size == 'cpu':
    presets.two_cores(c)
    c.data.epochs = 3.0
    c.sweep.counts = (30, 100, 200, 300, 500, 1_000, 3_000, 10_000)
  else:
    presets.papers(c)
    c.sweep.counts = COUNTS
  if given.size == 'gpu30':
    c.data.epochs = 5.0
    c.sweep.counts = (100, 200, 300, 400, 500, 600, 1_000, 2_000, 10_000, 100_000)
  c.sweep.seeds = given.seeds or '3'
  c.sweep.counts = given.counts or c.sweep.counts
  c.data.epochs = given.epochs or c.data.epochs
  return c
