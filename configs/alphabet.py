"""Is "300-500 instructions" a fact about 26 letters? I_50 against alphabet and |x|.

  python -m onlyif_jax.main --config=configs/alphabet.py        # cpu, two cores
  python -m onlyif_jax.main --config=configs/alphabet.py:full

Arguments after the size: counts=100|400|1200, seeds=2.

The papers use one alphabet and do not say which; we assume 26 letters. A first run with
one seed at I = 400 gave .79, .27 and .08 for 13, 26 and 52 letters, as if the step moved
with the alphabet. Here each alphabet, and 26 letters with longer patterns, has its own
curve over I.

`cpu` (an analogue): 13, 26 and 52 letters with three per pattern, 26 with five; 3 counts.

Measured (`cpu`, 1 seed, 17 min of CPU time): at I = 100, 400, 1,200 .02 .71 .93 with 13
letters, .00 .64 .96 with 26, .00 .64 .89 with 52, .00 .52 .92 with patterns of five:
the step does not move. Three counts are too few for a fit. `full`: not run.
"""

from onlyif_jax import presets
from onlyif_jax.config import base_config, parse_arg

PAPER = '300-500 instructions, alphabet not given'
FIVE = 'task.x_min=5,task.x_max=5,task.y_min=5,task.y_max=5,task.input_length=16'


def get_config(arg=None):
  """The config of a size."""
  given = parse_arg(arg, ('cpu', 'full'), counts=tuple[int, ...], seeds=str)
  c = base_config()
  c.name, c.size, c.figure, c.paper = 'alphabet', given.size, 'alphabet', PAPER
  sizes = (13, 26, 52)
  if given.size == 'cpu':
    presets.two_cores(c)
    c.eval.cell_examples = 0
    c.sweep.counts = (100, 400, 1_200)
    more = (FIVE,)
  else:
    presets.papers(c)
    c.sweep.counts, sizes = (100, 200, 300, 400, 500, 1_000, 2_000), (6, 13, 26, 52)
    short = 'task.x_min=10,task.x_max=10,task.y_min=10,task.y_max=10'
    more = (short, f'{short},task.input_length=100')
  c.sweep.variants = tuple(f'task.alphabet={n}' for n in sizes) + more
  c.sweep.references = ()
  c.sweep.counts = given.counts or c.sweep.counts
  c.sweep.seeds = given.seeds or ('2' if given.size == 'cpu' else '3')
  return c
