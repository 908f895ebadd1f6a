"""Fig. 5 of Only-IF as an analogue from scratch: rewriting expressions by equations.

  python -m onlyif_jax.main --config=configs/algebra.py                   # 5a, two cores
  python -m onlyif_jax.main --config=configs/algebra.py:part=specialist   # 5b and 5c
  python -m onlyif_jax.main --config=configs/algebra.py:cpu60,part=specialist
  python -m onlyif_jax.main --config=configs/algebra.py:full

Arguments after the size: part=generalist|specialist, source=random|identities,
slots=1|2, depths=1|2, counts=100|1000 (of the generalist), seeds=3, epochs=4.

Rules are random templates by default, so there can be thousands. Generalist: unseen
rules against their number, for input trees of depth 3 and 4 (`cpu`: 1). Specialist: 20
in-domain rules, tested with deeper slots than in training (split `deeper`), against the
share and the number of diversification rules.

`cpu` (an analogue): one slot, 4 counts x 3 seeds or 5 mixtures with 1 seed; `cpu60`: 5
counts or 9 mixtures, 3 seeds. `slots=2` is not learnt, only copied (unseen .25).

Measured (`cpu60`, 42 min of CPU time on a busy machine, `cpu` is 4/5 of it): unseen
rules .01 .12 .85 1.00 1.00 at I = 10 20 40 100 300, seen 1.00. Specialist (`cpu60` with
seeds=2, 39 min of CPU time a seed, `cpu` 5/9 of one): deeper slots 0 of 2,000 in every
mixture; unseen rules .12 without further rules, .76 .95 .94 .96 with 40 at 2 10 20 50 %
of the examples, .90 .99 1.00 1.00 with 1,000.
"""

from onlyif_jax import presets
from onlyif_jax.config import base_config, parse_arg

PAPER = 'unseen rules .44 .52 .80 (D3), .33 .49 .58 (D4); deeper slots at most .40'
SPECIALIST = 20  # in-domain rules


def get_config(arg=None):
  """The config of a size."""
  numbers = {'slots': int, 'depths': tuple[int, ...], 'counts': tuple[int, ...]}
  words = {'part': str, 'source': str, 'seeds': str, 'epochs': float}
  given = parse_arg(arg, ('cpu', 'cpu60', 'full'), **numbers, **words)
  part = presets.choose('part', given.part, ('generalist', 'specialist'))
  cpu = given.size != 'full'
  c = base_config('algebra')
  c.name, c.size, c.figure, c.paper = 'algebra', given.size, 'algebra', PAPER
  c.task.source = presets.choose('source', given.source, ('random', 'identities'))
  presets.two_cores(c)
  c.task.slots = given.slots or (1 if cpu else 2)
  if not cpu:
    presets.papers_model(c)
    c.data.epochs, c.eval.examples, c.eval.cell_examples = 20.0, 10_000, 1_000
  many = c.task.source == 'random'
  few = given.size == 'cpu' and part == 'specialist'
  if part == 'generalist':
    c.task.slot_min = 0 if cpu else 1
    c.task.slot_max = c.task.slot_test = 1 if cpu else 2
    depths = given.depths or ((1,) if cpu else (3, 4))
    c.sweep.variants = tuple(f'task.depth={d}' for d in depths)
    c.sweep.counts = (10, 20, 40, 80)
    if many:
      counts = {'cpu': (10, 20, 40, 100), 'cpu60': (10, 20, 40, 100, 300)}
      c.sweep.counts = counts.get(given.size, (*c.sweep.counts, *MANY))
    c.sweep.counts = given.counts or c.sweep.counts
  else:
    c.task.depth, c.task.specialist = (1 if cpu else 3), SPECIALIST
    c.task.slot_min, c.task.slot_max, c.task.slot_test = (0, 1, 2) if cpu else (1, 2, 3)
    diverse = (40, 1_000) if many and cpu else (20, 40, 1_000) if many else (20, 40)
    shares = (0.02, 0.2) if few else (0.02, 0.1, 0.2, 0.5)
    c.sweep.variants = mixtures(shares, diverse)
    c.sweep.counts = (SPECIALIST,)
  c.sweep.references = ()
  c.sweep.seeds = given.seeds or ('1' if few else '3')
  c.data.epochs = given.epochs or c.data.epochs
  return c


MANY = (100, 300, 1_000, 3_000, 10_000)


def mixtures(shares: tuple[float, ...], diverse: tuple[int, ...]) -> tuple[str, ...]:
  """In-domain rules alone, and each share with each number of further rules."""
  counts = '|'.join(str(SPECIALIST + n) for n in diverse)
  alone = f'task.diverse_share=0.0,sweep.counts={SPECIALIST}'
  return (alone, *(f'task.diverse_share={r},sweep.counts={counts}' for r in shares))
