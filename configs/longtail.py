"""Fig. 3 and 7 of Only-IF: rules whose shares follow a power law, at fixed N.

  python -m onlyif_jax.main --config=configs/longtail.py            # cpu, two cores
  python -m onlyif_jax.main --config=configs/longtail.py:cpu,part=halving
  python -m onlyif_jax.main --config=configs/longtail.py:full

Arguments after the size: part=tail|halving, seeds=2, epochs=4. alpha 0 stands for equal
counts; f(x) = alpha x^(alpha-1), so a small alpha is peaked and 1 is uniform.

Paper (N = 10^6): I = 10,000 and 100,000 are robust, I = 1,000 falls sharply below
alpha = 0.2. `halving` is 2402.10891, section 5: at 9,000 rules, halving the data
uniformly costs nothing, and halving it by a power law hurts.

`cpu` (an analogue, three letters): of the 3 x 8 cells I = 1,000, 3,000 and 10,000 with
alpha .2, .1 and .03, without alpha 2, 1, .5 and .07; two more uniform sets (I = 100,
300) for the curve of effective diversity; and as a control alpha .1 with gradients
re-weighted to uniform. The whole grid is `full`. Beyond the paper: does one curve over
*effective* diversity, fitted on uniform sets, explain the skewed ones?

Measured (`cpu`, 2 seeds, two busy cores, 28 min of CPU time): unseen exact match at I =
1,000, 3,000, 10,000: uniform .89 .93 .93, alpha .2 .84 .89 .95, .1 .58 .84 .89, .03 .18
.22 .55; re-weighted at alpha .1: .48 and .72. Below .1 I = 10,000 falls too. Predicted
from uniform sets: RMSE .57 by exp(entropy), .72 by 1/sum p^2, .21 by the number of
rules with 3 examples or more (best of 1, 3, 10, 30, 100). `halving` (2 seeds, 13 min of
CPU time): I = 300 / 3,000 .43 .93, half of the data .41 .94, half by alpha .2 .04 .91.
`full`: not run.
"""

from onlyif_jax import presets
from onlyif_jax.config import base_config, parse_arg

PAPER = 'I = 10^4 and 10^5 are robust; I = 1,000 falls sharply below alpha = 0.2'
ALPHAS = (0.0, 2.0, 1.0, 0.5, 0.2, 0.1, 0.07, 0.03)


def get_config(arg=None):
  """The config of a size."""
  given = parse_arg(arg, ('cpu', 'full'), part=str, seeds=str, epochs=float)
  part = presets.choose('part', given.part, ('tail', 'halving'))
  c = base_config()
  c.name, c.size, c.figure, c.paper = 'longtail', given.size, 'longtail', PAPER
  if given.size == 'cpu':
    presets.two_cores(c)
    c.sweep.counts, alphas = (1_000, 3_000, 10_000), (0.2, 0.1, 0.03)
    controls = ('data.alpha=0.1,data.balance=true,sweep.counts=1000|10000',)
    uniform = 'data.alpha=0.0,sweep.counts=100|300|1000|3000|10000'
  else:
    presets.papers(c)
    c.sweep.counts, alphas = (1_000, 10_000, 100_000), ALPHAS[1:]
    controls = tuple(f'data.alpha={a:g},data.balance=true' for a in (0.2, 0.1, 0.03))
    uniform = 'data.alpha=0.0,sweep.counts=100|300|500|1000|10000|100000'
  c.data.epochs = given.epochs or c.data.epochs
  c.sweep.variants = (uniform, *(f'data.alpha={a:g}' for a in alphas), *controls)
  if part == 'halving':
    half = f'data.examples={c.data.examples // 2},data.epochs={2 * c.data.epochs:g}'
    c.sweep.counts = (300, 3_000) if given.size == 'cpu' else (1_000, 10_000)
    c.sweep.variants = (
      'data.alpha=0.0',
      f'{half},data.alpha=0.0',
      f'{half},data.alpha=0.2',
    )
  c.sweep.references = ()
  c.sweep.seeds = given.seeds or ('2' if given.size == 'cpu' else '3')
  return c
