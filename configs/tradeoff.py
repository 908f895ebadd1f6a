"""The first question of 2402.10891: more instructions I, or more examples of each, S?

  python -m onlyif_jax.main --config=configs/tradeoff.py        # cpu, two cores
  python -m onlyif_jax.main --config=configs/tradeoff.py:full

Arguments after the size: seeds=1.

Not at a fixed budget, but over a plane of I and S with N = I x S, in three ways. Equal
steps: every member takes the same number of steps, so small sets are repeated more
often. Equal passes: every example is seen equally often, so small sets get few steps.
Trained until fitted: the equal-steps members at the first evaluation where seen rules
reach .95 (read from dynamics.csv, on dev rules). The papers ask which of I and S is
worth more, and answer with the fixed budget of Fig. 2a; they show no plane.

`cpu` (an analogue): I in 100, 400, 1,600, 6,400 and S in 3, 12, 48 with N at most
76,800: ten cells with equal steps and six with equal passes. `full` has the papers'
sizes and 4 x 4 cells of each.

Measured (`cpu,seeds=2`, 20 min of CPU time a seed): unseen with equal steps, S = 48: .00
.80 .90 at I = 100 400 1,600; S = 12: .00 .58 .95 .94 (to 6,400); S = 3: .25 .90 .90 from
400 on. At N = 4,800: I = 100, 400, 1,600 give .00 .58 .90. Equal passes (4): .00 .79 .97
and .00 .09 .91. `full`: not run.
"""

from onlyif_jax import presets
from onlyif_jax.config import base_config, parse_arg

PAPER = 'diversity of instructions drives generalisation; no plane is printed'


def get_config(arg=None):
  """The config of a size."""
  given = parse_arg(arg, ('cpu', 'full'), seeds=str)
  c = base_config()
  c.name, c.size, c.figure, c.paper = 'tradeoff', given.size, 'tradeoff', PAPER
  if given.size == 'cpu':
    presets.two_cores(c)
    c.eval.cell_examples = 0
    steps, passes = 1_250, 4.0
    cells = [(i, s) for i in (100, 400, 1_600, 6_400) for s in (3, 12, 48)]
    cells = [(i, s) for i, s in cells if 1_000 < i * s <= 76_800]
    equal_passes = [(i, s) for i, s in cells if i < 6_400 and s > 3]
  else:
    presets.papers(c)
    steps, passes = 50 * 10**6 / 512, 50.0  # so one cell is in both planes
    cells = [(i, s) for i in (100, 300, 1_000, 10_000) for s in (1, 10, 100, 1_000)]
    cells = equal_passes = [(i, s) for i, s in cells if i * s >= 10_000]
  batch = c.data.batch_size
  planes = [(cells, lambda n: steps * batch / n), (equal_passes, lambda n: passes)]
  variants = []
  for plane, epochs in planes:
    for n in sorted({i * s for i, s in plane}):
      counts = '|'.join(str(i) for i, s in plane if i * s == n)
      variants.append(
        f'data.examples={n},data.epochs={epochs(n):.9g},sweep.counts={counts}'
      )
  c.sweep.variants = tuple(dict.fromkeys(variants))
  c.sweep.counts = (min(i for i, _ in cells),)
  c.sweep.references = ()
  c.sweep.seeds = given.seeds or '1'
  return c
