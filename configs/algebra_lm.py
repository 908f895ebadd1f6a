"""Algebraic rewriting on a pretrained model (Only-IF, section 3, Fig. 5).

  python -m onlyif_jax.main --config=configs/algebra_lm.py            # tiny, two cores
  python -m onlyif_jax.main --config=configs/algebra_lm.py:tiny,part=specialist
  python -m onlyif_jax.main --config=configs/algebra_lm.py:7b,base=DIR         # 5a
  python -m onlyif_jax.main --config=configs/algebra_lm.py:7b,base=DIR,part=specialist

Arguments after the size: part=generalist|specialist, base=DIR (a Hugging Face directory
of Mistral-7B-v0.3), depth=3|4, counts= (of the generalist), seeds=, shots=3 (solved
examples before each question: the few-shot line).

Generalist (5a): fine-tuned on 50,000 instances of 10, 20 or 40 rules and asked unseen
ones, on trees of depth 3 and 4, beside Mistral's zero- and few-shot lines. Specialist:
in-domain rules with deeper slots than in training, against the number of diversification
rules where every rule has equally many examples (5b, 20 and 40 in-domain rules), and
against the share of the examples that these get (5c, 20 in-domain rules: the paper does
not say how many). The rules, depths of slots, prompt, rank and epochs are not given
either; ours stand below. Answers are judged by exact match and by equality in value,
apart.

`tiny` (an analogue): all weights of a decoder of 3 layers, random templates of one slot
that holds a single letter.

Measured (`tiny`, 1 seed, 5.9 min, 7.7 min of CPU time): unseen rules .00 .10 1.00 at
I = 10 40 200, seen 1.00; before tuning .00.
"""

from onlyif_jax import presets
from onlyif_jax.config import ConfigError, parse_arg
from onlyif_jax.finetune.tuning_config import symbolic_config

PAPER = (
  'unseen rules .44 .52 .80 (D3) and .33 .49 .58 (D4) with 10, 20, 40 rules '
  '(the assignment at 20 is not certain)'
)
DEEPER = (
  'unseen depth .06 .33 (20 in-domain rules) and .07 .36 (40) with 5 and 40 '
  'diversification rules; at most .40, with 40 of them and 5 of 50 thousand examples'
)


def get_config(arg=None):
  """The config of a size."""
  numbers = {'seeds': int, 'shots': int, 'depth': tuple[int, ...]}
  words = {'part': str, 'base': str, 'counts': tuple[int, ...]}
  given = parse_arg(arg, ('tiny', '7b'), **words, **numbers)
  part = presets.choose('part', given.part, ('generalist', 'specialist'))
  tiny = given.size == 'tiny'
  c = symbolic_config('algebra')
  c.name, c.size = 'algebra_lm', given.size
  c.paper = PAPER if part == 'generalist' else DEEPER
  c.instructions.noop_share = 0.0
  c.instructions.prompt = 'Rewrite by {lhs} = {rhs} the expression {input}'
  if tiny:
    c.task.slots = 1
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
    c.task.source = 'identities'
    c.task.slot_min, c.task.slot_max, c.task.slot_test = 1, 2, 3
    c.tune.template, c.tune.length = 'alpaca', 768
    c.instructions.examples, c.instructions.counts = 50_000, (10, 20, 40)
    c.answers.examples, c.answers.max_tokens = 1_000, 400
  depths = given.depth or ((1,) if tiny else (3, 4) if part == 'generalist' else (3,))
  c.task.depth = depths[0]
  if part == 'specialist':
    if given.counts or len(depths) > 1:
      raise ConfigError('counts= and several depths are for part=generalist')
    if tiny:
      c.task.slot_test, c.tune.epochs, c.answers.max_tokens = 1, 2, 32
    c.instructions.variants = specialists(tiny)
  elif len(depths) > 1:
    c.instructions.variants = tuple(f'task.depth={depth}' for depth in depths)
  c.answers.shots = (0 if tiny else 3) if given.shots is None else given.shots
  c.instructions.counts = given.counts or c.instructions.counts
  c.instructions.seeds = given.seeds or 1
  return c


def specialists(tiny: bool) -> tuple[str, ...]:
  """5b: every rule alike. 5c: shares of the examples for diversification rules.

  `tiny`: in-domain rules alone, and 5c with 40 diversification rules.
  """
  ratios = (0.02, 0.1, 0.2)  # 1:49, 5:45 and 10:40 thousand
  if tiny:
    return mixture(20, 0.0, 0), *(mixture(20, share, 40) for share in ratios)
  alike = [
    mixture(inside, others / (inside + others), others)
    for inside in (20, 40)
    for others in (5, 20, 40)
  ]
  return (*alike, *(mixture(20, share, 20, 40) for share in ratios))


def mixture(inside: int, share: float, *others: int) -> str:
  """A variant: in-domain rules, the share of the others, and how many these are."""
  counts = '|'.join(str(inside + n) for n in others)
  settings = f'task.specialist={inside},task.diverse_share={share:.4g}'
  return f'{settings},instructions.counts={counts}'
