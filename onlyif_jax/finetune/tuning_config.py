"""Fine-tuning configs: ConfigDict at the edge, checked dataclasses inside."""

import dataclasses
from typing import Any

import ml_collections

from onlyif_jax import config as config_lib
from onlyif_jax.config import ConfigError
from onlyif_jax.corpora import prompts
from onlyif_jax.corpora.mixture_settings import MixtureSettings
from onlyif_jax.tuning_settings import (
  QUANTIZED,
  DevicesConfig,
  MixtureTuning,
  SymbolicTuning,
  parse_variant,
)

Tuning = SymbolicTuning | MixtureTuning
_CHOICES = {
  'base.dtype': ('bfloat16', 'float32'),
  'base.compute_dtype': ('bfloat16', 'float32'),
  'base.quantize': QUANTIZED,
  'tune.packing': ('first_fit', 'none'),
  'tune.template': prompts.NAMES,
  'optim.name': ('adamw', 'muon'),
  'optim.schedule': ('linear', 'constant'),
}
_AT_LEAST = {
  'scratch.layers': 1,
  'scratch.width': 1,
  'scratch.heads': 1,
  'scratch.kv_heads': 1,
  'scratch.hidden': 1,
  'scratch.steps': 0,
  'scratch.batch_size': 1,
  'lora.rank': 0,
  'lora.tile': 1,
  'tune.epochs': 1,
  'tune.batch_size': 1,
  'tune.micro_batches': 1,
  'tune.length': 2,
  'tune.save_every': 1,
  'tune.log_every': 1,
  'devices.data': 1,
  'devices.fsdp': 1,
  'devices.tensor': 1,
  'answers.examples': 1,
  'answers.shown': 0,
  'answers.max_tokens': 1,
  'answers.batch_size': 1,
  'answers.shots': 0,
  'optim.clip': 0,
  'optim.weight_decay': 0,
  'seed': 0,
}


def symbolic_config(task: str = 'cipher') -> Any:
  """The defaults of fine-tuning on a symbolic task as a locked ConfigDict."""
  tuning = SymbolicTuning(task=config_lib.task_settings(task)())
  return ml_collections.ConfigDict(dataclasses.asdict(tuning)).lock()


def mixture_config() -> Any:
  """The defaults of fine-tuning on mixtures as a locked ConfigDict."""
  values = dataclasses.asdict(MixtureTuning())
  fields = dataclasses.fields(MixtureSettings)
  values['mixture'] = {f.name: f.default for f in fields}
  return ml_collections.ConfigDict(values).lock()


def is_tuning(config) -> bool:
  """Whether a ConfigDict is of fine-tuning, not of a sweep from scratch."""
  return 'base' in config and 'tune' in config


def freeze(config) -> Tuning:
  """A ConfigDict or plain dict -> checked settings; raises ConfigError."""
  if isinstance(config, ml_collections.ConfigDict):
    config = config.to_dict()
  values = dict(config)
  if 'mixture' in values:
    mixture = config_lib.build(MixtureSettings, values.pop('mixture'), 'mixture.')
    tuning = config_lib.build(MixtureTuning, values, '')
    tuning = dataclasses.replace(tuning, mixture=mixture)
  else:
    tuning = config_lib.build(SymbolicTuning, values, '')
  check(tuning)
  return tuning


def check(c: Tuning) -> None:
  """Raises ConfigError for values that cannot work together."""
  flat = config_lib.flatten(dataclasses.asdict(c))
  config_lib.check_values(flat, _CHOICES, _AT_LEAST)
  if c.tune.batch_size % (c.devices.data * c.devices.fsdp * c.tune.micro_batches):
    raise ConfigError(
      f'tune.batch_size={c.tune.batch_size} is not divisible by devices.data x fsdp x '
      'tune.micro_batches; change one of them'
    )
  if c.scratch.heads % c.scratch.kv_heads or c.scratch.width % c.scratch.heads:
    raise ConfigError(
      'scratch.width, heads and kv_heads must divide each other, in this order'
    )
  if not 0 <= c.optim.warmup < 1:
    raise ConfigError(f'optim.warmup={c.optim.warmup} is not a share in [0, 1)')
  if isinstance(c, SymbolicTuning):
    _check_instructions(c)
  elif min(c.seeds, c.thousand) < 1:
    raise ConfigError(f'seeds={c.seeds} or thousand={c.thousand} is below 1')
  elif c.answers.shots:
    raise ConfigError(
      f'answers.shots={c.answers.shots} is for symbolic tasks; the prompts of '
      'benchmarks are those of benchmarks.protocol'
    )


def variant(c: SymbolicTuning, text: str) -> SymbolicTuning:
  """The config with the settings of one of its variants; raises ConfigError."""
  changes = parse_variant(c.task, text)
  counts = changes.pop('instructions.counts', c.instructions.counts)
  fields = {name.removeprefix('task.'): value for name, value in changes.items()}
  try:
    task = dataclasses.replace(c.task, **fields)
  except ValueError as e:
    raise ConfigError(f'instructions.variants, {text!r}: {e}') from None
  instructions = dataclasses.replace(c.instructions, counts=counts)
  return dataclasses.replace(c, task=task, instructions=instructions)


def _check_instructions(c: SymbolicTuning) -> None:
  i = c.instructions
  if len(set(i.variants)) < len(i.variants):
    raise ConfigError(f'instructions.variants={list(i.variants)} names a variant twice')
  for text in i.variants or ('',):
    _check_counts(variant(c, text))
  if i.seeds < 1 or not 0 <= i.noop_share < 1:
    raise ConfigError('instructions.seeds must be 1 or more, noop_share in [0, 1)')
  for text in i.subsets:
    parse_subset(text)


def _check_counts(c: SymbolicTuning) -> None:
  i = c.instructions
  if not i.counts or min(i.counts) < 1 or max(i.counts) > i.examples:
    raise ConfigError(
      f'instructions.counts={list(i.counts)} must be from 1 to instructions.examples='
      f'{i.examples}'
    )


def parse_subset(text: str) -> tuple[float, float]:
  """'all', 'half' or 'skewed:0.2' -> (share of the examples, alpha or 0)."""
  name, _, number = text.partition(':')
  if text in ('all', 'half'):
    return (1.0 if text == 'all' else 0.5), 0.0
  try:
    alpha = float(number)
  except ValueError:
    alpha = 0.0
  if name != 'skewed' or alpha <= 0:
    raise ConfigError(
      f"instructions.subsets has {text!r}, which is not 'all', 'half' or 'skewed:ALPHA'"
    )
  return 0.5, alpha


def differences(old: Tuning, new: Tuning) -> dict[str, tuple[Any, Any]]:
  """Fields that keep `new` from going on in the workdir of `old`."""
  stored, given = (config_lib.flatten(dataclasses.asdict(c)) for c in (old, new))
  ignored = (
    *('instructions.counts', 'instructions.variants', 'instructions.seeds'),
    *('mixture.rows', 'seeds'),
    *(f'devices.{f.name}' for f in dataclasses.fields(DevicesConfig)),
  )
  return {
    k: (stored.get(k), given.get(k))
    for k in sorted({*stored, *given})
    if k not in ignored and stored.get(k) != given.get(k)
  }
