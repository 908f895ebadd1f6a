"""Algebraic rewriting on a pretrained model (Only-IF, section 3, Fig. 5).

  python -m onlyif_jax.main --config=configs/algebra_lm.py                  # 5a, tiny
  python -m onlyif_jax.main --config=configs/algebra_lm.py:7b,base=DIR,part=specialist

Arguments after the size: part=generalist|specialist, base=DIR (a Hugging Face directory
of Mistral-7B-v0.3), depth=3|4, counts=, seeds=, shots=3 (the few-shot line).

Generalist (5a): 50,000 instances of 10, 20 or 40 rules, then unseen rules, on trees of
depth 3 and 4. Specialist: in-domain rules with deeper slots than in training, against
the number of diversification rules, every rule alike (5b), and against their share of
the examples (5c, with 20 in-domain rules: the paper gives no number, nor the rules,
slots, prompt, rank or epochs). Exact match and equality in value are reported apart.

`tiny` (an analogue): a decoder of 3 layers, random templates, one slot of one letter.

Measured (`tiny`, 1 seed, 5.9 min, 7.7 min of CPU time): unseen rules .00 .10 1.00 at
I = 10 40 200, seen 1.00; before tuning .00.
Specialist (8.4 min of CPU time): deeper slots 0 of 300 in each mixture, in-domain rules
1.00; unseen .00 .00 .04 .02 without others and with 40 at 2 10 20 % of the examples.
"""

from onlyif_jax import presets
from onlyif_jax.config import ConfigError, parse_arg
from onlyif_jax.finetune.tuning_config import symbolic_config

PAPER = (
  'unseen rules .44 .52 .80 (D3) and .33 .49 .58 (D4) with 10, 20, 40 rules '
  '(the assignment at 20 is not certain)'
)
RATIOS = (0.02, 0.1, 0.2)  # 1:49, 5:45 and 10:40 thousand
DEEPER = (
  'unseen depth .06 .33 (20 in-domain rules) and .07 .36 (40) with 5 and 40 '
  'diversification rules; at most .40, with 40 of them and 5 of 50 thousand examples'
)


def get_config(arg=None):
  """The config of a size."""
  kinds = {'part': str, 'base': str, 'seeds': int, 'shots': int}
  kinds |= dict.fromkeys(('depth', 'counts'), tuple[int, ...])
  given = parse_arg(arg, ('tiny', '7b'), **kinds)
  part = presets.choose('part', given.part, ('generalist', 'specialist'))
  tiny, general = given.size == 'tiny', part == 'generalist'
  depths = given.depth or ((1,) if tiny else (3, 4) if general else (3,))
  if not general and (given.counts or len(depths) > 1):
    raise ConfigError('counts= and several depths are for part=generalist')
  c = symbolic_config('algebra')
  c.name, c.size, c.paper = 'algebra_lm', given.size, PAPER if general else DEEPER
  c.task.depth, c.instructions.noop_share = depths[0], 0.0
  if tiny:
    presets.tiny_decoder(c)
    c.task.slots, c.task.slot_min, c.task.slot_max = 1, 0, 0
    c.task.slot_test = 0 if general else 1
    c.tune.length, c.tune.epochs = 64, 4 if general else 2
    c.optim.update(name='muon', learning_rate=1e-3, weight_decay=0.0, warmup=0.05)
    c.instructions.examples, c.instructions.counts = 10_000, (10, 40, 200)
    c.instructions.prompt = '{lhs}={rhs}:{input}'
    c.answers.examples, c.answers.max_tokens = 300, 24 if general else 32
    variants, numbers = [presets.specialist(20, 0.0, 0)], (40,)
  else:
    c.base.directory = given.base or 'models/Mistral-7B-v0.3'
    c.base.quantize, c.lora.rank, c.lora.alpha = 'int8', 64, 128.0
    c.task.source = 'identities'
    c.task.slot_min, c.task.slot_max, c.task.slot_test = 1, 2, 3
    c.tune.template, c.tune.length = 'alpaca', 768
    c.instructions.examples, c.instructions.counts = 50_000, (10, 20, 40)
    c.instructions.prompt = 'Rewrite by {lhs} = {rhs} the expression {input}'
    c.answers.examples, c.answers.max_tokens = 1_000, 400
    pairs = [(inside, n) for inside in (20, 40) for n in (5, 20, 40)]
    variants = [presets.specialist(own, n / (own + n), n) for own, n in pairs]
    numbers = (20, 40)
  variants += [presets.specialist(20, share, *numbers) for share in RATIOS]
  if general:
    variants = [f'task.depth={depth}' for depth in depths if len(depths) > 1]
  c.instructions.variants = tuple(variants)
  c.answers.shots = (0 if tiny else 3) if given.shots is None else given.shots
  c.instructions.counts = given.counts or c.instructions.counts
  c.instructions.seeds = given.seeds or 1
  return c
