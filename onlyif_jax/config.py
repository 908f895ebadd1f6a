"""What a run is: every setting, its default, its meaning and its checks.

The frozen dataclasses below declare each field once. `base_config` turns them
into a locked ConfigDict for config files and flags; `freeze` turns that back,
refusing unknown keys, wrong types and values that cannot work. No jax here.
"""

import dataclasses
import difflib
import hashlib
import json
import types
import typing
from typing import Any

import ml_collections


class ConfigError(Exception):
  """A setting that cannot work; the message names the field and the remedy."""


@dataclasses.dataclass(frozen=True)
class TaskConfig:
  """The task; a class outside the package is given as 'package.module:Class'."""

  name: str = 'rewrite'
  alphabet: int = 26  # letters in use
  x_min: int = 3  # shortest x, in letters
  x_max: int = 3  # longest x
  y_min: int = 3  # shortest y
  y_max: int = 3  # longest y
  input_length: int = 10  # letters of z, x included
  noops: bool = False  # whether inputs without x are made
  order: str = 'xyz'  # prompt order: 'xyz' (instruction first) or 'zxy'


@dataclasses.dataclass(frozen=True)
class RulesConfig:
  """Which rules there are, and which of them training never sees."""

  distinct: str = 'xy'  # 'xy': no x and no y twice; 'pairs': no pair twice
  dev_fraction: float = 0.1  # strings set aside for tuning
  test_fraction: float = 0.2  # strings set aside for the reported test


@dataclasses.dataclass(frozen=True)
class DataConfig:
  """The fixed budget of examples."""

  examples: int = 38_400  # N = I x S, no-ops included
  epochs: float = 2.0  # passes over the N examples
  batch_size: int = 64  # sequences in one step
  alpha: float = 0.0  # 0: equal counts; else rule shares ~ power law (Fig. 3)


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """A GPT-2-style decoder."""

  layers: int = 3
  width: int = 64
  heads: int = 4
  positions: str = 'learned'  # 'learned' (GPT-2) or 'rotary' (GPT-NeoX)
  rotary_base: float = 10_000.0  # wavelength base of rotary positions
  dropout: float = 0.0  # on embeddings and residual branches
  compute_dtype: str = 'float32'  # of matmuls; parameters are float32


@dataclasses.dataclass(frozen=True)
class OptimConfig:
  """The optimiser; 'muon' uses Muon on the blocks' matrices, Adam elsewhere."""

  name: str = 'adamw'  # 'adamw' or 'muon'
  learning_rate: float = 1e-3  # peak
  muon_scale: float = 10.0  # Muon's rate as a multiple of learning_rate
  b1: float = 0.9
  b2: float = 0.999
  eps: float = 1e-8
  weight_decay: float = 0.01  # on matrices
  warmup: float = 0.01  # share of the steps
  schedule: str = 'linear'  # 'linear' (to zero) or 'constant'
  clip: float = 0.0  # global gradient norm; 0: no clipping


@dataclasses.dataclass(frozen=True)
class EvalConfig:
  """How much is evaluated, and when."""

  examples: int = 2_000  # of each split at the end
  cell_examples: int = 500  # of each further test cell at the end
  loop_examples: int = 256  # of dev and seen during training
  loop_points: int = 8  # evaluations during training, log-spaced
  batch_size: int = 512


@dataclasses.dataclass(frozen=True)
class SweepConfig:
  """The members: counts x no-op shares x rates x seeds, and reference members."""

  counts: tuple[int, ...] = (1_000,)  # numbers of instructions, I
  seeds: str = '1'  # '3': three of (rules, init, order) at once; '3x2': rules x rest
  noop_shares: tuple[float, ...] = (0.0,)  # no-op inputs / all training inputs
  learning_rates: tuple[float, ...] = ()  # empty: optim.learning_rate
  # of 'one', 'infinite_rules', 'infinite_inputs', 'masked', 'permuted'
  references: tuple[str, ...] = ()
  reference_count: int = 1_000  # I of the references that have one


@dataclasses.dataclass(frozen=True)
class StackConfig:
  """How members share one program; 0 and 'auto' are filled in per platform."""

  mode: str = 'auto'  # 'auto', 'map', 'vmap', 'serial' or 'measure'
  members: int = 0  # members in one stack
  member_devices: int = 0  # devices along the member axis
  data_devices: int = 0  # devices along the batch axis
  chunk: int = 0  # training steps in one dispatch


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
  """When a stack is saved."""

  every: int = 400  # steps between saves
  keep: int = 2  # newest saves that are kept


@dataclasses.dataclass(frozen=True)
class RunConfig:
  """One run: everything that decides its numbers."""

  name: str = 'run'  # the config file's name
  size: str = 'cpu'
  figure: str = 'imin'  # what the report draws: 'imin' or 'noop'
  paper: str = ''  # the papers' result, in words, printed beside ours
  seed: int = 0  # added to every seed of the sweep
  task: TaskConfig = TaskConfig()
  rules: RulesConfig = RulesConfig()
  data: DataConfig = DataConfig()
  model: ModelConfig = ModelConfig()
  optim: OptimConfig = OptimConfig()
  eval: EvalConfig = EvalConfig()
  sweep: SweepConfig = SweepConfig()
  stack: StackConfig = StackConfig()
  checkpoint: CheckpointConfig = CheckpointConfig()


REFERENCES = ('one', 'infinite_rules', 'infinite_inputs', 'masked', 'permuted')
# Settings that a later call in the same workdir may change: more of these extend
# the run, and the stack's shape never changes a member's data.
EXTENDABLE = ('sweep.counts', 'sweep.seeds')

_CHOICES = {
  'task.order': ('xyz', 'zxy'),
  'rules.distinct': ('xy', 'pairs'),
  'model.positions': ('learned', 'rotary'),
  'model.compute_dtype': ('float32', 'bfloat16'),
  'optim.name': ('adamw', 'muon'),
  'optim.schedule': ('linear', 'constant'),
  'stack.mode': ('auto', 'map', 'vmap', 'serial', 'measure'),
  'figure': ('imin', 'noop'),
}
_AT_LEAST = {
  'task.alphabet': 2,
  'task.x_min': 1,
  'task.y_min': 0,
  'task.input_length': 1,
  'data.examples': 1,
  'data.batch_size': 1,
  'data.alpha': 0,
  'model.layers': 1,
  'model.width': 1,
  'model.heads': 1,
  'eval.examples': 1,
  'eval.cell_examples': 0,
  'eval.loop_examples': 1,
  'eval.loop_points': 0,
  'eval.batch_size': 1,
  'sweep.reference_count': 1,
  'stack.members': 0,
  'stack.member_devices': 0,
  'stack.data_devices': 0,
  'stack.chunk': 0,
  'checkpoint.every': 1,
  'checkpoint.keep': 2,
  'optim.clip': 0,
  'optim.weight_decay': 0,
  'seed': 0,
}


def base_config() -> Any:
  """The defaults as a locked ConfigDict, typed Any: its fields are attributes."""
  config = ml_collections.ConfigDict(dataclasses.asdict(RunConfig()))
  return config.lock()


def freeze(config) -> RunConfig:
  """A ConfigDict or plain dict -> checked RunConfig; raises ConfigError."""
  if isinstance(config, ml_collections.ConfigDict):
    config = config.to_dict()
  run = _build(RunConfig, config, '')
  check(run)
  return run


def flatten(config: RunConfig | dict, prefix: str = '') -> dict[str, Any]:
  """'section.field' -> value."""
  tree = dataclasses.asdict(config) if isinstance(config, RunConfig) else config
  out: dict[str, Any] = {}
  for name, value in tree.items():
    if isinstance(value, dict):
      out |= flatten(value, f'{prefix}{name}.')
    else:
      out[prefix + name] = list(value) if isinstance(value, tuple) else value
  return out


def differences(old: RunConfig, new: RunConfig) -> dict[str, tuple[Any, Any]]:
  """Fields that keep `new` from going on in the workdir of `old`."""
  a, b = flatten(old), flatten(new)
  ignored = {k for k in a if k.startswith('stack.')} | set(EXTENDABLE)
  return {k: (a[k], b[k]) for k in a if k not in ignored and a[k] != b[k]}


def digest(values: dict[str, Any]) -> str:
  """A short hash of settings, for names of workdirs."""
  return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:6]


def check(c: RunConfig) -> None:
  """Raises ConfigError for values that cannot work together."""
  flat = flatten(c)
  for field, options in _CHOICES.items():
    if flat[field] not in options:
      raise ConfigError(
        f'{field}={flat[field]!r} is not one of {", ".join(options)}'
        + _hint(str(flat[field]), options)
      )
  for field, low in _AT_LEAST.items():
    if flat[field] < low:
      raise ConfigError(f'{field}={flat[field]} is below {low}; give {low} or more')
  for side in 'xy':
    low, high = flat[f'task.{side}_min'], flat[f'task.{side}_max']
    if low > high:
      raise ConfigError(f'task.{side}_min={low} is above task.{side}_max={high}')
  if c.task.x_max > c.task.input_length:
    raise ConfigError(
      f'task.x_max={c.task.x_max} does not fit into task.input_length='
      f'{c.task.input_length}; make the input longer'
    )
  if c.model.width % c.model.heads:
    raise ConfigError(
      f'model.heads={c.model.heads} does not divide model.width={c.model.width}'
    )
  if c.model.positions == 'rotary' and c.model.width // c.model.heads % 2:
    raise ConfigError('model.positions=rotary needs an even head width')
  if not 0 <= c.model.dropout < 1:
    raise ConfigError(f'model.dropout={c.model.dropout} is not in [0, 1)')
  rest = 1 - c.rules.dev_fraction - c.rules.test_fraction
  if min(c.rules.dev_fraction, c.rules.test_fraction, rest) <= 0:
    raise ConfigError(
      'rules.dev_fraction and rules.test_fraction must be above 0 and leave '
      f'something to train on; they leave {rest:.3g}'
    )
  _check_data(c)
  _check_sweep(c)


def _check_data(c: RunConfig) -> None:
  positions = int(c.data.epochs * c.data.examples)
  if positions < c.data.batch_size:
    raise ConfigError(
      f'data.epochs x data.examples = {positions} is less than one batch of '
      f'data.batch_size={c.data.batch_size}; raise epochs or examples'
    )
  if positions >= 2**31 - 2**16:
    raise ConfigError(
      f'data.epochs x data.examples = {positions} does not fit int32; lower one'
    )
  if not 0 <= c.optim.warmup < 1:
    raise ConfigError(f'optim.warmup={c.optim.warmup} is not a share in [0, 1)')
  if c.data.batch_size % max(1, c.stack.data_devices):
    raise ConfigError(
      f'data.batch_size={c.data.batch_size} is not divisible by '
      f'stack.data_devices={c.stack.data_devices}'
    )


def _check_sweep(c: RunConfig) -> None:
  s = c.sweep
  if not s.counts or min(s.counts) < 1:
    raise ConfigError(f'sweep.counts={list(s.counts)} must be numbers of at least 1')
  if len(set(s.counts)) < len(s.counts):
    raise ConfigError(f'sweep.counts={list(s.counts)} names a count twice')
  if max(s.counts) > c.data.examples:
    raise ConfigError(
      f'sweep.counts has {max(s.counts)} instructions, but data.examples='
      f'{c.data.examples} gives some of them no example; raise data.examples'
    )
  parse_seeds(s.seeds)
  for share in s.noop_shares:
    if not 0 <= share < 1:
      raise ConfigError(f'sweep.noop_shares has {share}, not a share in [0, 1)')
    if share and not c.task.noops:
      raise ConfigError('sweep.noop_shares above 0 need task.noops=True')
  for name in s.references:
    if name not in REFERENCES:
      raise ConfigError(
        f'sweep.references has {name!r}; known: {", ".join(REFERENCES)}'
        + _hint(name, REFERENCES)
      )


def parse_seeds(text: str) -> list[tuple[int, int]]:
  """'3' -> (0,0) (1,1) (2,2); '2x3' -> all (rules, rest) pairs of 2 and 3."""
  parts = text.split('x')
  if len(parts) > 2 or not all(p.isdigit() and int(p) > 0 for p in parts):
    raise ConfigError(f"sweep.seeds={text!r} is not like '3' or '3x3'")
  if len(parts) == 1:
    return [(s, s) for s in range(int(parts[0]))]
  return [(r, s) for r in range(int(parts[0])) for s in range(int(parts[1]))]


def parse_arg(arg: str | None, sizes: tuple[str, ...], **fields):
  """Parses '[size][,name=value]...' of a config file; the first size is the default.

  fields: name -> type (int, float, str, or tuple[int, ...] written 10|100). The
  result has `size` and each field, None where it is not given.
  """
  given: dict[str, Any] = dict.fromkeys(fields)
  size = sizes[0]
  for n, word in enumerate(filter(None, (arg or '').split(','))):
    name, equals, value = word.partition('=')
    if not equals and n == 0:
      if word not in sizes:
        raise ConfigError(
          f'unknown size {word!r}; sizes: {", ".join(sizes)}' + _hint(word, sizes)
        )
      size = word
    elif not equals or name not in fields:
      raise ConfigError(
        f'unknown argument {word!r}; this file takes '
        + ', '.join(f'{k}=' for k in fields)
        + _hint(name, fields)
      )
    else:
      given[name] = _convert(name, value, fields[name])
  return types.SimpleNamespace(size=size, **given)


def _convert(name, text, kind):
  try:
    if typing.get_origin(kind) is tuple:
      return tuple(typing.get_args(kind)[0](v) for v in text.split('|'))
    return kind(text)
  except ValueError:
    wanted = 'numbers as 10|100' if typing.get_origin(kind) is tuple else kind.__name__
    raise ConfigError(f'{name}={text!r} is not {wanted}') from None


def _build(cls, values, prefix):
  known = {f.name: f for f in dataclasses.fields(cls)}
  for name in values:
    if name not in known:
      raise ConfigError(f'unknown setting {prefix}{name}' + _hint(name, known))
  out = {}
  for name, value in values.items():
    kind = known[name].type
    if dataclasses.is_dataclass(kind):
      out[name] = _build(kind, value, f'{prefix}{name}.')
    else:
      out[name] = _coerce(value, kind, prefix + name)
  return cls(**out)


def _coerce(value, kind, field):
  """Checks a leaf's type; lists become tuples, ints become floats."""
  if typing.get_origin(kind) is tuple:
    if not isinstance(value, list | tuple):
      raise ConfigError(f'{field}={value!r} is not a list')
    return tuple(_coerce(v, typing.get_args(kind)[0], field) for v in value)
  if kind is float and isinstance(value, int) and not isinstance(value, bool):
    return float(value)
  if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
    raise ConfigError(f'{field}={value!r} is not of type {kind.__name__}')
  return value


def _hint(word, options) -> str:
  close = difflib.get_close_matches(word, list(options), n=1)
  return f'. Did you mean {close[0]}?' if close else ''
