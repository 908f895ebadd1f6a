"""Algebraic rewriting on a pretrained model (Only-IF, section 3, Fig. 5 a).

  python -m onlyif_jax.main --config=configs/algebra_lm.py            # tiny, two cores
  python -m onlyif_jax.main --config=configs/algebra_lm.py:7b,base=DIR,depth=4

Arguments after the size: base=DIR (a Hugging Face directory of Mistral-7B-v0.3), depth=,
counts=, seeds=, shots=3 (solved examples before each question: the few-shot line).
Fig. 5 b and c are the configs/algebra.py of that name, from scratch: part=specialist.

The paper fine-tunes on 50,000 instances of 10, 20 or 40 rules and asks unseen ones, on
trees of depth 3 and 4, beside Mistral's zero- and few-shot lines. The rules, depths of
slots, prompt, rank and epochs are not given; ours stand below. Answers are judged by
exact match and by equality in value, apart.

`tiny` (an analogue): all weights of a decoder of 3 layers, random templates of one slot
that holds a single letter.

Measured (`tiny`, 1 seed, 5.9 min, 7.7 min of CPU time): unseen rules .00 .10 1.00 at
I = 10 40 200, seen 1.00; before tuning .00.
"""

from onlyif_jax.config import parse_arg
from onlyif_jax.finetune.tuning_config import symbolic_config

PAPER = (
  'unseen rules .44 .52 .80 (D3) and .33 .49 .58 (D4) with 10, 20, 40 rules '
  '(the assignment at 20 is not certain)'
)


def get_config(arg=None):
  """The config of a size."""
  numbers = {'depth': int, 'seeds': int, 'shots': int, 'counts': tuple[int, ...]}
  given = parse_arg(arg, ('tiny', '7b'), base=str, **numbers)
  c = symbolic_config('algebra')
  c.name, c.size, c.paper = 'algebra_lm', given.size, PAPER
  c.instructions.noop_share = 0.0
  c.instructions.prompt = 'Rewrite by {lhs} = {rhs} the expression {input}'
  if given.size == 'tiny':
    c.task.depth, c.task.slots = given.depth or 1, 1
    c.task.slot_min = c.task.slot_max = c.task.slot_test = 0
    c.base.dtype = c.base.compute_dtype = 'float32'
    c.base.remat = False
    c.scratch.kv_heads = 2
    c.tune.template, c.tune.length, c.tune.packing = 'plain', 64, 'none'
    c.tune.batch_size, c.tune.epochs = 64, 4
    c.optim.name, c.optim.learning_rate, c.optim.clip = 'muon', 1e-3, 1.0
    c.optim.b2, c.optim.weight_decay, c.optim.warmup = 0.95, 0.0, 0.05
    c.instructions.examples, c.instructions.counts = 10_000, (10, 40, 200)
    c.instructions.prompt = '{lhs}={rhs}:{input}'
    c.answers.examples, c.answers.batch_size, c.answers.max_tokens = 300, 100, 24
  else:
    c.base.directory = given.base or 'models/Mistral-7B-v0.3'
    c.base.quantize, c.lora.rank, c.lora.alpha = 'int8', 64, 128.0
    c.task.source, c.task.depth = 'identities', given.depth or 3
    c.task.slot_min, c.task.slot_max, c.task.slot_test = 1, 2, 3
    c.tune.template, c.tune.length = 'alpaca', 768
    c.instructions.examples, c.instructions.counts = 50_000, (10, 20, 40)
    c.answers.examples, c.answers.max_tokens = 1_000, 400
  shots = 0 if given.size == 'tiny' else 3
  c.answers.shots = shots if given.shots is None else given.shots
  c.instructions.counts = given.counts or c.instructions.counts
  c.instructions.seeds = given.seeds or 1
  return c
