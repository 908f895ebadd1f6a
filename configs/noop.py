"""Fig. 2b of Only-IF: inputs in which x does not occur, at five shares.

  python -m onlyif_jax.main --config=configs/noop.py        # cpu, two cores
  python -m onlyif_jax.main --config=configs/noop.py:full   # the papers' settings

Arguments after the size: counts=100|1000, seeds=3, shares=0.1|0.5, epochs=4.

Paper: models generalise from about 400 instructions on, and beyond that the share of
no-ops (1:9 to 5:5) hardly matters. Tested at 50:50 (slices noop=0 and noop=1) and at the
training ratio (slice mix=train). `cpu` has 4 of the 8 counts and 2 of the 5 shares; for
the whole grid use `full`, or counts= and shares=.

Measured (`cpu`, 3 seeds, 14 min, 24 min of CPU time): inputs with a match .00 .72 .90 .96
at I = 100 300 1k 5k with 10 % no-ops, .00 .30 .69 .79 with 50 %; no-ops 1.00 .96 .96 .87
and 1.00 .96 .91 .90. I_50 = 284 [279, 289] and 434 [86, 2,190]. `full`: not run.
"""

from onlyif_jax import presets
from onlyif_jax.config import base_config, parse_arg

PAPER = 'generalises from about 400 instructions, whatever the share of no-ops'
COUNTS = (100, 200, 300, 400, 500, 1_000, 10_000, 100_000)
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5)


def get_config(arg=None):
  """The config of a size."""
  given = parse_arg(
    arg,
    ('cpu', 'full'),
    counts=tuple[int, ...],
    seeds=str,
    shares=tuple[float, ...],
    epochs=float,
  )
  c = base_config()
  c.name, c.size, c.figure, c.paper = 'noop', given.size, 'noop', PAPER
  if given.size == 'cpu':
    presets.two_cores(c)
    c.sweep.counts, c.sweep.noop_shares = (100, 300, 1_000, 5_000), (0.1, 0.5)
  else:
    presets.papers(c)
    c.sweep.counts, c.sweep.noop_shares = COUNTS, SHARES
  c.task.noops = True
  c.sweep.references = ()
  c.sweep.seeds = given.seeds or '3'
  c.sweep.counts = given.counts or c.sweep.counts
  c.sweep.noop_shares = given.shares or c.sweep.noop_shares
  c.data.epochs = given.epochs or c.data.epochs
  return c
