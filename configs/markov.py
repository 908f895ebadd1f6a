"""An extension of appendix A of Only-IF: running unseen Markov algorithms.

  python -m onlyif_jax.main --config=configs/markov.py        # cpu, two cores
  python -m onlyif_jax.main --config=configs/markov.py:full

Arguments after the size: counts=30|100|1000, answers=step|final|trace (step and final
unless given), held_out=rules or programs, seeds=3, epochs=4.

The papers choose rewriting because Markov algorithms, which are ordered lists of
rewriting rules, compute everything computable; they train on single rules only and print
no number. The question here: how many distinct programs does a model need before it runs
programs with only unseen rules, for one rewrite and to the end of the run? The cell
`seen_rules` has new programs made of seen rules; the slices `steps` and `rules_used`
show how far a run is followed.

`cpu`: programs of 3 rules over 6 letters, inputs of 4 to 8 letters, at most 12
rewrites, one seed. `full`: 4 rules over 8 letters, inputs of 8 to 16 letters, at most
24 rewrites, the papers' model and budget. splits.json (`distribution`) has the shares
of rejected programs and of trivial and empty runs. For 2,048 programs of the `cpu` size
10 % of the candidates did not halt and 17 % had a rule that could never apply, so the
next candidate was taken; of their runs 8.5 % are trivial, 0.1 % end empty, 21 % end by a
stop rule and 55 % take two or more rewrites.

Measured (`cpu,seeds=2`, 21 min of CPU time a seed): one step .08 .21 .41 .49 .44 .54 at
I = 30 100 300 1k 3k 10k, seen .81 to .48; final string .05 .06 .10 .19 .15 .24, seen .72
to .15: from 1,000 on unseen programs do as well as seen ones, but neither well in 4
passes.
"""

from onlyif_jax import presets
from onlyif_jax.config import REFERENCES, base_config, parse_arg

PAPER = 'an extension of appendix A; no numbers are printed'
COUNTS = (30, 100, 300, 1_000, 3_000, 10_000)


def get_config(arg=None):
  """The config of a size."""
  given = parse_arg(
    arg,
    ('cpu', 'full'),
    counts=tuple[int, ...],
    answers=tuple[str, ...],
    held_out=str,
    seeds=str,
    epochs=float,
  )
  c = base_config('markov')
  c.name, c.size, c.figure, c.paper = 'markov', given.size, 'markov', PAPER
  if given.size == 'cpu':
    presets.two_cores(c)
    c.sweep.references = ()
    c.sweep.counts, c.sweep.seeds = COUNTS, '1'
  else:
    _full(c)
  answers = given.answers or ('step', 'final')
  c.sweep.variants = tuple(f'task.answer={answer}' for answer in answers)
  c.task.held_out = given.held_out or c.task.held_out
  c.sweep.seeds = given.seeds or c.sweep.seeds
  c.sweep.counts = given.counts or c.sweep.counts
  c.data.epochs = given.epochs or c.data.epochs
  return c


def _full(c):
  """Longer programs and runs, with the papers' model, budget and optimiser."""
  c.task.alphabet, c.task.rules, c.task.plants = 8, 4, 9
  c.task.input_min, c.task.input_max = 8, 16
  c.task.text_length = c.task.steps = 24
  presets.papers_model(c)
  # There are fewer programs than training steps times the batch.
  c.sweep.references = tuple(r for r in REFERENCES if r != 'infinite_rules')
  c.sweep.counts, c.sweep.seeds = (*COUNTS, 100_000, 1_000_000), '3'
