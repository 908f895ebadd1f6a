"""Only-IF, section 2.3 and App. B.2: longer inputs and longer patterns.

  python -m onlyif_jax.main --config=configs/lengths.py        # cpu, two cores
  python -m onlyif_jax.main --config=configs/lengths.py:full   # the papers' settings

Arguments after the size: counts=100|1000, seeds=3, epochs=4.

Paper: inputs of 50, 100 and 200 letters with patterns of 20, 40 and 50 behave alike (no
numbers are shown). Here each length has its own curve over I, to see whether I_min
moves. `cpu` (an analogue): inputs of 10, 14 and 20 letters, patterns of 3, 4 and 6.

Measured (`cpu,seeds=2`, 18 min of CPU time a seed): unseen .04 .60 .87 .92 with
(10, 3), I_50 = 288 and 299; .00 .09 .67 .85 with (14, 4), 479 and 331; .08 .50 .73 .89
with (20, 6), 273 and 298: no trend with length. `full`: not run.
"""

from onlyif_jax import presets
from onlyif_jax.config import base_config, parse_arg

PAPER = 'the step is at 300 to 1,000 instructions for every length (no numbers shown)'


def get_config(arg=None):
  """The config of a size."""
  given = parse_arg(
    arg, ('cpu', 'full'), counts=tuple[int, ...], seeds=str, epochs=float
  )
  c = base_config()
  c.name, c.size, c.figure, c.paper = 'lengths', given.size, 'lengths', PAPER
  if given.size == 'cpu':
    presets.two_cores(c)
    c.sweep.counts, sizes = (200, 300, 500, 1_000), ((10, 3), (14, 4), (20, 6))
  else:
    presets.papers(c)
    c.sweep.counts = (100, 200, 300, 400, 500, 600, 1_000, 2_000, 10_000)
    sizes = ((50, 20), (100, 40), (200, 50))
  c.sweep.variants = tuple(_size(*size) for size in sizes)
  c.sweep.references = ()
  c.sweep.seeds = given.seeds or ('1' if given.size == 'cpu' else '3')
  c.sweep.counts = given.counts or c.sweep.counts
  c.data.epochs = given.epochs or c.data.epochs
  return c


def _size(letters: int, pattern: int) -> str:
  sides = ('x_min', 'x_max', 'y_min', 'y_max')
  return ','.join(
    [f'task.input_length={letters}', *(f'task.{side}={pattern}' for side in sides)]
  )
