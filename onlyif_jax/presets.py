"""Settings that config files share: for two cores, and those of the papers."""

from onlyif_jax.config import REFERENCES, ConfigError


def two_cores(c) -> None:
  """A small analogue with three letters per pattern; minutes on two cores.

  Chosen on dev rules and seen accuracy at I = 100, 2,000 and 5,000. Dev / seen exact
  match at I = 5,000 (one seed, 1,250 steps): 4 heads, rate 2e-3, b2 .999, warm-up 1 %
  .61 / .64; rate 4e-3 .69 / .73; rate 1e-3 .78 / .82; batch 32 .86 / .89; then with
  rate 1e-3: 2 heads .94 / .96; 1 head .94 / .96; 2 layers .53 / .66; Muon scale 20
  .56 / .55; 2 heads, b2 .95, warm-up 5 % .98 / .98 (chosen).
  """
  c.data.examples, c.data.epochs, c.data.batch_size = 20_000, 4.0, 64
  c.model.positions, c.model.rotary_base, c.model.heads = 'rotary', 1_000.0, 2
  c.optim.name, c.optim.learning_rate, c.optim.clip = 'muon', 1e-3, 1.0
  c.optim.weight_decay, c.optim.b2, c.optim.warmup = 0.0, 0.95, 0.05
  c.eval.batch_size = 256  # the size of an in-loop evaluation
  c.sweep.references = REFERENCES


def papers(c) -> None:
  """The papers' settings (Only-IF, section 2.3).

  Our choices where they give none: batch 512, warm-up 1 %, decay .01 on matrices,
  dropout 0, |y| = |x|.
  """
  c.task.x_min = c.task.x_max = c.task.y_min = c.task.y_max = 20
  c.task.input_length = 50
  papers_model(c)
  c.sweep.references = REFERENCES


def papers_model(c) -> None:
  """The papers' model and budget, for any task."""
  c.data.examples, c.data.epochs, c.data.batch_size = 1_000_000, 50.0, 512
  c.model.layers, c.model.width, c.model.heads = 6, 256, 4
  c.model.compute_dtype = 'bfloat16'
  c.eval.examples, c.eval.cell_examples, c.eval.batch_size = 100_000, 10_000, 2_000
  c.eval.loop_examples = 2_000
  c.checkpoint.every = 5_000


def tiny_decoder(c) -> None:
  """Fine-tuning of a small decoder that is made on the spot: minutes on two cores."""
  c.base.dtype = c.base.compute_dtype = 'float32'
  c.base.remat, c.scratch.kv_heads = False, 2
  c.tune.template, c.tune.packing, c.tune.batch_size = 'plain', 'none', 64
  c.optim.clip, c.optim.b2 = 1.0, 0.95
  c.answers.batch_size = 100


def specialist(inside: int, share: float, *others: int) -> str:
  """A variant of instructions: algebra with in-domain rules and others beside them.

  share: of the examples, to the other rules; others: numbers of them, a row each.
  """
  counts = '|'.join(str(inside + n) for n in others)
  settings = f'task.specialist={inside},task.diverse_share={share:.4g}'
  return f'{settings},instructions.counts={counts}'


def choose(name: str, given: str | None, options: tuple[str, ...]) -> str:
  """An argument with a closed set of words, the first by default; else ConfigError."""
  if given is None:
    return options[0]
  if given not in options:
    raise ConfigError(f'{name}={given!r} is not one of {", ".join(options)}')
  return given
