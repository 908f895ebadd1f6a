"""Encrypted rewriting from scratch (after 2402.10891, section 5, Fig. 5).

  python -m onlyif_jax.main --config=configs/cipher.py        # cpu, two cores
  python -m onlyif_jax.main --config=configs/cipher.py:full   # seven counts
  python -m onlyif_jax.main --config=configs/cipher.py:cpu,cipher=table

Arguments after the size: counts=100|1000, seeds=3, epochs=4, cipher=shift|table,
scope=inserted|output.

A rule is x -> y and a shift, by which the inserted letters move on in the alphabet.
40 % of the inputs are no-ops; both halves are reported (slices noop=0, noop=1). Unseen
rules have new x and y, with shifts of training; split `pair` combines x -> y of a
training rule with a shift of other rules.

Paper (Llama-2-7B, LoRA, 40,000 examples; prompt, cipher and most numbers are not given):
with few rules only the no-op half is solved, with more rules the model generalises. This
asks the same of a small model from scratch, with 10^6 examples as in the other
experiments. `cpu` (an analogue): three letters per pattern, five shifts.

Measured (`cpu`, 3 seeds, two busy cores, 29 min of CPU time): inputs with x .000 .000
.000 .004 .491 .814 at I = 30 100 300 1k 1.7k 3k (at 1.7k .00 .61 .86), no-ops .998 to
.917; split `pair`, inputs with x, .000 .000 .000 .002 .504 .810: below the step the
model inserts the y of training. `full`: not run.
"""

from onlyif_jax import presets
from onlyif_jax.config import base_config, parse_arg

PAPER = 'few rules solve the no-op half alone; more rules generalise (Llama-2-7B)'


def get_config(arg=None):
  """The config of a size."""
  given = parse_arg(
    arg,
    ('cpu', 'full'),
    counts=tuple[int, ...],
    seeds=str,
    epochs=float,
    cipher=str,
    scope=str,
  )
  c = base_config('cipher')
  c.name, c.size, c.figure, c.paper = 'cipher', given.size, 'cipher', PAPER
  if given.size == 'cpu':
    presets.two_cores(c)
    c.task.shifts, c.data.epochs = (1, 2, 3, 5, 8), 6.0
    c.sweep.counts = (30, 100, 300, 1_000, 1_700, 3_000)
  else:
    presets.papers(c)
    c.sweep.counts = (10, 30, 100, 300, 1_000, 3_000, 9_000)
  c.task.noops, c.sweep.noop_shares = True, (0.4,)
  c.task.cipher = presets.choose('cipher', given.cipher, ('shift', 'table'))
  c.task.scope = presets.choose('scope', given.scope, ('inserted', 'output'))
  c.sweep.references = ()
  c.sweep.seeds = given.seeds or '3'
  c.sweep.counts = given.counts or c.sweep.counts
  c.data.epochs = given.epochs or c.data.epochs
  return c
