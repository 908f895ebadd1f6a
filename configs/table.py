"""Your own examples: unseen exact match against the number of instructions.

  python -m onlyif_jax.main --config=configs/table.py:path=mine.jsonl,counts=30|100|300

The file, JSON lines or CSV, has one row per example with the columns instruction (an
id), prompt (what the model reads), answer, and split (train, dev or test, the same for
all rows of an instruction). `--config.task.prompt=COLUMN` and so on name other columns;
`--config.task.split=` without a value splits the instructions by `rules.*_fraction`;
`--config.task.input=COLUMN` reads inputs from a column of their own, so that the prompt
is the instruction alone (and the reference `masked` hides only that).

Arguments after the size: path=FILE, counts=10|100, seeds=3, examples=20000, epochs=4.
A fifth of the rows of each instruction is kept for the split `seen`. Without path= it
takes `configs/table.csv`, 60 small rewriting rules that show the format (not run).
"""

import os
from pathlib import Path

from onlyif_jax.config import base_config, parse_arg

EXAMPLE = Path(__file__).with_name('table.csv')


def get_config(arg=None):
  """The config of a size."""
  given = parse_arg(
    arg,
    ('cpu', 'full'),
    path=str,
    counts=tuple[int, ...],
    seeds=str,
    examples=int,
    epochs=float,
  )
  c = base_config('table')
  c.name, c.size = 'table', given.size
  c.task.path = given.path or os.path.relpath(EXAMPLE)
  c.data.examples, c.data.epochs = given.examples or 2_000, given.epochs or 10.0
  c.model.positions, c.model.heads = 'rotary', 2
  c.optim.name, c.optim.clip, c.optim.b2, c.optim.warmup = 'muon', 1.0, 0.95, 0.05
  if given.size == 'full':
    c.model.layers, c.model.width, c.model.heads = 6, 256, 4
    c.data.epochs = given.epochs or 20.0
  c.eval.cell_examples = 0
  c.sweep.counts = given.counts or (2, 4, 8, 16, 32)
  c.sweep.seeds = given.seeds or '3'
  c.sweep.references = ('one', 'masked', 'permuted')
  c.sweep.reference_count = min(c.sweep.counts[-1], 1_000)
  return c
