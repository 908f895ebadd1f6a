"""Is "300-500 instructions" a fact about 26 letters? I_50 against alphabet and |x|.

  python -m onlyif_jax.main --config=configs/alphabet.py        # cpu, two cores
  python -m onlyif_jax.main --config=configs/alphabet.py:cpu60  # crossed with lengths
  python -m onlyif_jax.main --config=configs/alphabet.py:full

Arguments after the size: counts=100|400|1200, seeds=2.

The papers use one alphabet and do not say which; we assume 26 letters. A first run with
one seed at I = 400 gave .79, .27 and .08 for 13, 26 and 52 letters, as if the step moved
with the alphabet. Here each alphabet, and 26 letters with longer patterns, has its own
curve over I.

`cpu` (an analogue): 13, 26 and 52 letters with three per pattern, 26 with five; 4 counts,
1 seed (17 min of CPU time for 12 of its 16 members). `cpu60` crosses letters with lengths.

Measured (`cpu60`, 2 seeds, 79 min of CPU time for 56 of its 60 members): I_50 with 13, 26 and 52
letters 266 (seeds 230, 309), 276 (272, 280), 299 (350, 256); with patterns of five 303
(285, 323), 376 (374, 377), 392 (398, 386). It hardly moves. `full`: not run.
"""

from onlyif_jax import presets
from onlyif_jax.config import base_config, parse_arg

PAPER = '300-500 instructions, alphabet not given'
FIVE = 'task.x_min=5,task.x_max=5,task.y_min=5,task.y_max=5,task.input_length=16'
TEN = 'task.x_min=10,task.x_max=10,task.y_min=10,task.y_max=10'
TEN_OF_100 = f'{TEN},task.input_length=100'


def get_config(arg=None):
  """The config of a size."""
  sizes = ('cpu', 'cpu60', 'full')
  given = parse_arg(arg, sizes, counts=tuple[int, ...], seeds=str)
  c = base_config()
  c.name, c.size, c.figure, c.paper = 'alphabet', given.size, 'alphabet', PAPER
  if given.size != 'full':
    presets.two_cores(c)
    c.eval.cell_examples = 0
    letters, lengths = (13, 26, 52), (FIVE,)
    c.sweep.counts = (100, 200, 400, 1_200)
    if given.size == 'cpu60':
      c.sweep.counts = (100, 200, 300, 400, 1_200)
  else:
    presets.papers(c)
    letters, lengths = (6, 13, 26, 52), (TEN, TEN_OF_100)
    c.sweep.counts = (100, 200, 300, 400, 500, 1_000, 2_000)
  c.sweep.variants = tuple(f'task.alphabet={n}' for n in letters) + lengths
  if given.size != 'cpu':
    others = [n for n in letters if n != c.task.alphabet]
    c.sweep.variants += tuple(f'task.alphabet={n},{s}' for s in lengths for n in others)
  c.sweep.references = ()
  c.sweep.counts = given.counts or c.sweep.counts
  c.sweep.seeds = given.seeds or {'cpu': '1', 'cpu60': '2', 'full': '3'}[given.size]
  return c
