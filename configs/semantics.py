"""Fig. 4 of Only-IF: patterns of constrained form, tested on less constrained ones.

  python -m onlyif_jax.main --config=configs/semantics.py        # cpu, two cores
  python -m onlyif_jax.main --config=configs/semantics.py:full   # the papers' settings

Arguments after the size: counts=500|5000, seeds=3, epochs=4.

x and y are repeats (aaabbbccc), periodic (abcabc) or mirrors (abccbaabc) with k >= 3;
the test has k < 3: slices k=1 (any letters) and k=2, by class domain=1 (repeat), 2
(periodic) and 3 (mirror), domain=0 where k = 1. Slice cell=in_range has unseen patterns
of the classes and k of training.

Paper (patterns of 60 letters, inputs of 500; no numbers printed): a model trained on
one class with large k fails at small k, on two classes it still fails, on all three it
works; 500 rules or fewer never generalise, 5,000 help; a range with larger k is harder.
Our choices where the papers give none: y has the form of x, k is uniform over the
divisors in range, N = 10^6. `cpu` has 5 of the 18 combinations of classes and k, at 2
counts: 12 letters, so k is 3, 4, 6 or 12, and inputs of 24.

Measured (`cpu,seeds=2`, 46 min of CPU time): k < 3 at I = 500 / 5,000: repeat .20 / .06,
repeat+periodic .06 / .20, all three .00 / .28; all three up to k = 6 .00 / .21, up to 12
.03 / .22. `full`: not run.
"""

from onlyif_jax import presets
from onlyif_jax.config import base_config, parse_arg

PAPER = 'small k needs all three classes; never with 500 rules, helped by 5,000'
CLASSES = ('repeat', 'repeat+periodic', 'repeat+periodic+mirror')
RANGES = (4, 6, 12, 20, 30, 60)  # the largest k; the smallest is 3


def variants(pairs) -> tuple[str, ...]:
  """(classes, k_max) pairs as variants of a sweep."""
  return tuple(f'task.classes={classes},task.k_max={k}' for classes, k in pairs)


def get_config(arg=None):
  """The config of a size."""
  given = parse_arg(
    arg, ('cpu', 'full'), counts=tuple[int, ...], seeds=str, epochs=float
  )
  c = base_config('semantics')
  c.name, c.size, c.figure, c.paper = 'semantics', given.size, 'semantics', PAPER
  if given.size == 'cpu':
    presets.two_cores(c)
    c.task.pattern_length, c.task.input_length = 12, 24
    c.sweep.counts = (500, 5_000)
    pairs = [(names, 4) for names in CLASSES] + [(CLASSES[2], k) for k in (6, 12)]
  else:
    _full(c)
    pairs = [(names, k) for names in CLASSES for k in RANGES]
  c.sweep.variants = variants(pairs)
  c.sweep.references = ()
  c.sweep.seeds = given.seeds or ('1' if given.size == 'cpu' else '3')
  c.sweep.counts = given.counts or c.sweep.counts
  c.data.epochs = given.epochs or c.data.epochs
  return c


def _full(c):
  """Longer patterns and inputs, with the papers' model, budget and optimiser."""
  c.task.pattern_length, c.task.input_length = 60, 500
  presets.papers_model(c)
  c.sweep.counts = (500, 1_000, 5_000, 10_000)
