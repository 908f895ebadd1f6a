"""Encrypted rewriting on a pretrained model (2402.10891, section 5, Fig. 5).

  python -m onlyif_jax.main --config=configs/cipher_lm.py            # tiny, two cores
  python -m onlyif_jax.main --config=configs/cipher_lm.py:7b,base=DIR

Arguments after the size: base=DIR (a Hugging Face directory of Llama-2-7B), counts=,
seeds=, shots=.

The paper fine-tunes Llama-2-7B with LoRA (rank 512, alpha 1024, rate 1e-5, batch 64,
8-bit, about 2,000 steps) on 40,000 examples, 40 % of them no-ops, and tests on 5,000.
It gives neither prompt nor cipher, and of the numbers of rules only 9,000; our choices
are below. At the largest number the data are also halved, for all rules alike or by a
power law.

`tiny` (an analogue): a decoder of 3 layers, pretrained to replace without a shift,
learns with LoRA to shift what it inserts by one letter. With three or five shifts it did
not learn seen rules in 40,000 presentations (.26 and .02 at 1,000 rules).

Measured (`tiny`, 1 seed, 9 min of CPU time): unseen rules with a match .00 .32 .54 at I =
30 300 1,000, no-ops 1.00 .76 .74; before tuning .00 and .69.
"""

from onlyif_jax import presets
from onlyif_jax.config import parse_arg
from onlyif_jax.finetune.tuning_config import symbolic_config

PAPER = (
  'few rules solve the no-op half alone, more rules generalise; at 9,000 rules half '
  'of the examples is enough if all rules lose alike, not by a power law'
)


def get_config(arg=None):
  """The config of a size."""
  given = parse_arg(
    arg, ('tiny', '7b'), base=str, counts=tuple[int, ...], seeds=int, shots=int
  )
  c = symbolic_config('cipher')
  c.name, c.size, c.paper = 'cipher_lm', given.size, PAPER
  c.task.noops = True
  if given.size == 'tiny':
    presets.tiny_decoder(c)
    c.task.shifts = (1,)
    c.scratch.task, c.scratch.prompt = 'rewrite', '{input} {lhs} {rhs} 0'
    c.scratch.steps, c.scratch.examples, c.scratch.batch_size = 1_250, 20_000, 64
    c.lora.rank, c.lora.alpha = 16, 32.0
    c.tune.length, c.tune.epochs, c.optim.learning_rate = 40, 3, 3e-3
    c.instructions.examples, c.instructions.counts = 20_000, (30, 300, 1_000)
    c.instructions.prompt = '{input} {lhs} {rhs} {shift}'
    c.answers.examples, c.answers.max_tokens = 500, 16
  else:
    c.base.directory, c.base.quantize = given.base or 'models/Llama-2-7b-hf', 'int8'
    c.lora.rank, c.lora.alpha = 512, 1024.0
    c.task.x_min = c.task.x_max = c.task.y_min = c.task.y_max = 6
    c.task.input_length = 20
    c.tune.template, c.tune.length, c.tune.batch_size = 'alpaca', 768, 64
    c.tune.packing, c.tune.epochs, c.tune.micro_batches = 'none', 3, 16
    c.instructions.counts = (10, 30, 100, 300, 1_000, 3_000, 9_000)
    c.instructions.subsets = ('all', 'half', 'skewed:0.2')
    c.instructions.prompt = (
      'In {input} replace {lhs} by {rhs} and encrypt the inserted part with shift '
      '{shift}.'
    )
    c.answers.examples, c.answers.max_tokens = 5_000, 48
  c.answers.shots = given.shots or 0
  c.instructions.counts = given.counts or c.instructions.counts
  c.instructions.seeds = given.seeds or 1
  return c
