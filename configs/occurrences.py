"""Table 1 of 2402.10891 (section 4.5): inputs in which x occurs several times.

  python -m onlyif_jax.main --config=configs/occurrences.py        # cpu, two cores
  python -m onlyif_jax.main --config=configs/occurrences.py:full   # the paper's table

Arguments after the size: counts=300|1000, seeds=3, epochs=4.

Only the leftmost x is replaced. Each row of the table trains with certain numbers of
occurrences in equal shares and is tested on all from 1 to 20 (slices `occurrences=m`).
Slice `mix=train` has unseen rules, and split `seen` training rules, with the row's own
numbers.

Paper (unseen accuracy for 2,000, 1,000, 500 and 200 rules; its lengths and budget are
not given): 1 occurrence .71 .41 .00 .00; 10: .88 .71 .00 .00; 20: .73 .28 .07 .00;
1, 5, 10, 15, 20: .94 .94 .62 .00. So at 1,000 rules, variety of inputs alone raises .41
to .94. `full`: |x| = 8 and 200 letters, our choice, so that twenty x fit.
`cpu` (an analogue): three letters per pattern, 30 letters, tested on 1 to 8; 4 of the 9
rows, 2 of the 4 counts, 2 seeds.

Measured (`cpu`, 2 seeds, 29 min of CPU time): at I = 1,000 .06 .29 .38 trained on 1, 4,
8 and .32 on 1|4|8, each tested on 1 to 8; at I = 300 all at most .06. Seen rules .58 to
.95: three passes do not fit the mix. `full`: not run.
"""

from onlyif_jax import presets
from onlyif_jax.config import base_config, parse_arg

PAPER = 'at 1,000 rules .41 with one occurrence, .94 with a mix of 1, 5, 10, 15, 20'
ROWS = ('1', '5', '10', '15', '20', '1|5', '1|5|10', '1|5|10|15', '1|5|10|15|20')


def get_config(arg=None):
  """The config of a size."""
  given = parse_arg(
    arg, ('cpu', 'full'), counts=tuple[int, ...], seeds=str, epochs=float
  )
  c = base_config('occurrences')
  c.name, c.size, c.figure, c.paper = 'occurrences', given.size, 'occurrences', PAPER
  if given.size == 'cpu':
    presets.two_cores(c)
    c.task.matches, c.task.input_length = 8, 30
    c.sweep.counts, rows = (300, 1_000), ('1', '4', '8', '1|4|8')
    c.data.epochs = 3.0
  else:
    presets.papers(c)
    c.task.matches, c.task.input_length = 20, 200
    c.task.x_min = c.task.x_max = c.task.y_min = c.task.y_max = 8
    c.sweep.counts, rows = (200, 500, 1_000, 2_000), ROWS
  c.sweep.variants = tuple(f'task.train_matches={row}' for row in rows)
  c.sweep.references = ()
  c.sweep.seeds = given.seeds or ('2' if given.size == 'cpu' else '3')
  c.sweep.counts = given.counts or c.sweep.counts
  c.data.epochs = given.epochs or c.data.epochs
  return c
