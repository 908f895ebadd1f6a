"""Turn config files and flags into a validated RunConfig, and back.

`settings.py` declares each field once. `base_config` turns the declarations into a
locked ConfigDict; `freeze` turns that into a RunConfig and refuses unknown keys,
wrong types and values that cannot work. No jax here.
"""

import dataclasses
import difflib
import functools
import hashlib
import importlib
import json
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import ml_collections

from onlyif_jax.settings import (
  EXTENDABLE,
  FIGURES,
  REFERENCES,
  TASKS,
  CheckpointConfig,
  DataConfig,
  EvalConfig,
  ModelConfig,
  OptimConfig,
  RulesConfig,
  RunConfig,
  StackConfig,
  SweepConfig,
)

__all__ = [  # re-exports the declarations of settings.py
  'EXTENDABLE',
  'FIGURES',
  'REFERENCES',
  'TASKS',
  'CheckpointConfig',
  'ConfigError',
  'DataConfig',
  'EvalConfig',
  'ModelConfig',
  'OptimConfig',
  'RulesConfig',
  'RunConfig',
  'StackConfig',
  'SweepConfig',
]


class ConfigError(Exception):
  """A setting that cannot work; the message names the field and the remedy."""


_CHOICES = {
  'rules.distinct': ('xy', 'pairs'),
  'model.positions': ('learned', 'rotary'),
  'model.attention': ('plain', 'fused'),
  'model.compute_dtype': ('float32', 'bfloat16'),
  'optim.name': ('adamw', 'muon'),
  'optim.schedule': ('linear', 'constant'),
  'stack.mode': ('auto', 'map', 'vmap', 'serial', 'measure'),
  'figure': FIGURES,
}
_NOT_NEGATIVE = (
  'data.alpha', 'eval.cell_examples', 'eval.loop_points', 'eval.outputs',
  'stack.members', 'stack.member_devices', 'stack.data_devices', 'stack.chunk',
  'optim.clip', 'optim.weight_decay', 'seed',
)  # fmt: skip
_POSITIVE = (
  'data.examples', 'data.batch_size', 'model.layers', 'model.width', 'model.heads',
  'eval.examples', 'eval.loop_examples', 'eval.batch_size', 'sweep.reference_count',
  'stack.micro_batches', 'checkpoint.every',
)  # fmt: skip
_AT_LEAST: dict[str, int] = dict.fromkeys(_NOT_NEGATIVE, 0)
_AT_LEAST |= dict.fromkeys(_POSITIVE, 1) | {'checkpoint.keep': 2}
# Sections whose settings a variant may change.
_VARIED = ('task', 'rules', 'data', 'model', 'optim')


def base_config(task: str = 'rewrite') -> Any:
  """The defaults as a locked ConfigDict; task is in TASKS or 'package.module:Class'."""
  run = RunConfig(task=task_settings(task)())
  return ml_collections.ConfigDict(dataclasses.asdict(run)).lock()


def task_settings(name: str) -> type:
  """The settings dataclass of a task; raises ConfigError for an unknown name."""
  if name in TASKS:
    return TASKS[name]
  return _outside_settings(name)


@functools.cache
def _outside_settings(name: str) -> type:
  """Settings with the fields of an outside task class, and its name first."""
  cls = outside_class(name)
  hints = typing.get_type_hints(cls)
  fields: list = [('name', str, name)]
  for f in dataclasses.fields(cls):
    if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
      raise ConfigError(f'{name}: its field {f.name} needs a default value')
    if f.name != 'name':
      fields.append((f.name, hints[f.name], f))
  return dataclasses.make_dataclass('Settings', fields, frozen=True)


def outside_class(name: str) -> Any:
  """Import the task class 'package.module:Class'; raises ConfigError on failure."""
  module, colon, attribute = name.partition(':')
  if not colon:
    known = ', '.join(TASKS)
    raise ConfigError(
      f'task.name={name!r} is not one of {known}, nor package.module:Class'
      + _hint(name, TASKS)
    )
  try:
    cls = getattr(importlib.import_module(module), attribute)
  except (ImportError, AttributeError) as e:
    raise ConfigError(f'task.name={name!r} cannot be imported: {e}') from None
  if not dataclasses.is_dataclass(cls):
    raise ConfigError(f'task.name={name!r} is not a dataclass; see tasks/contract.py')
  return cls


def freeze(config: Any) -> RunConfig:
  """A ConfigDict or plain dict as a validated RunConfig; raises ConfigError."""
  if isinstance(config, ml_collections.ConfigDict):
    config = config.to_dict()
  run = build(RunConfig, config, '')
  check(run)
  for text in run.sweep.variants:
    check(variant(run, text))
  return run


def variant(c: RunConfig, text: str) -> RunConfig:
  """The config changed by a variant such as 'task.alphabet=13,optim.name=muon'."""
  changes: dict[str, dict[str, Any]] = {}
  for field, value in parse_variant(c, text).items():
    section, _, name = field.partition('.')
    changes.setdefault(section, {})[name] = value
  try:
    sections = {k: dataclasses.replace(getattr(c, k), **v) for k, v in changes.items()}
  except ValueError as e:
    raise ConfigError(f'sweep.variants, {text!r}: {e}') from None
  return dataclasses.replace(c, **sections)


def parse_variant(c: RunConfig, text: str) -> dict[str, Any]:
  """Parse a variant into field -> value; raises ConfigError for unknown fields."""
  kinds: dict[str, Any] = {'sweep.counts': tuple[int, ...]}  # a variant's own counts
  for section in _VARIED:
    fields = dataclasses.fields(getattr(c, section))
    kinds |= {f'{section}.{f.name}': f.type for f in fields}
  del kinds['task.name']
  return parse_settings(text, kinds, 'sweep.variants', _VARIED)


def parse_settings(
  text: str, kinds: Mapping[str, Any], setting: str, sections: Sequence[str]
) -> dict[str, Any]:
  """Parse 'a.b=13,a.c=1|2' by the types of fields; errors name setting and sections."""
  values = {}
  for word in filter(None, text.split(',')):
    field, equals, value = word.partition('=')
    if not equals or field not in kinds:
      section = field.partition('.')[0]
      options = [name for name in kinds if name.startswith(f'{section}.')]
      raise ConfigError(
        f'{setting} has {word!r}, which is not like section.field=value of '
        f'{", ".join(sections)}' + _hint(field, options or [f'{s}.' for s in sections])
      )
    values[field] = _convert(f'{setting}: {field}', value, kinds[field])
  return values


def swept(c: RunConfig) -> tuple[str, ...]:
  """The fields that variants change, in order; each is a column of the results."""
  fields: dict[str, None] = {}  # an ordered set
  for text in c.sweep.variants:
    fields |= dict.fromkeys(parse_variant(c, text))
  fields.pop('sweep.counts', None)
  return tuple(fields)


def swept_values(c: RunConfig, text: str) -> dict[str, Any]:
  """The values in a variant of every swept field; lists are joined by '|'."""
  flat = flatten(variant(c, text))
  values = {}
  for field in swept(c):
    value = flat[field]
    values[field] = '|'.join(map(str, value)) if isinstance(value, list) else value
  return values


def flatten(config: RunConfig | dict, prefix: str = '') -> dict[str, Any]:
  """All settings as 'section.field' -> value; tuples become lists."""
  tree = dataclasses.asdict(config) if isinstance(config, RunConfig) else config
  flat: dict[str, Any] = {}
  for name, value in tree.items():
    if isinstance(value, dict):
      flat |= flatten(value, f'{prefix}{name}.')
    else:
      flat[prefix + name] = list(value) if isinstance(value, tuple) else value
  return flat


def digest(values: dict[str, Any]) -> str:
  """A short hash of settings, for the names of workdirs."""
  return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:6]


def check(c: RunConfig) -> None:
  """Raise ConfigError for values that cannot work, alone or together."""
  check_values(flatten(c), _CHOICES, _AT_LEAST)
  if c.model.width % c.model.heads:
    raise ConfigError(
      f'model.heads={c.model.heads} does not divide model.width={c.model.width}'
    )
  if c.model.positions == 'rotary' and c.model.width // c.model.heads % 2:
    raise ConfigError('model.positions=rotary needs an even head width')
  if not 0 <= c.model.dropout < 1:
    raise ConfigError(f'model.dropout={c.model.dropout} is not in [0, 1)')
  train_fraction = 1 - c.rules.dev_fraction - c.rules.test_fraction
  if min(c.rules.dev_fraction, c.rules.test_fraction, train_fraction) <= 0:
    raise ConfigError(
      'rules.dev_fraction and rules.test_fraction must be above 0 and leave '
      f'something to train on; they leave {train_fraction:.3g}'
    )
  _check_data(c)
  _check_sweep(c)


def check_values(flat: dict, choices: dict, at_least: dict) -> None:
  """Raise ConfigError for a field outside its choices or below its minimum."""
  for field, options in choices.items():
    if flat[field] not in options:
      raise ConfigError(
        f'{field}={flat[field]!r} is not one of {", ".join(options)}'
        + _hint(str(flat[field]), options)
      )
  for field, low in at_least.items():
    if flat[field] < low:
      raise ConfigError(f'{field}={flat[field]} is below {low}; give {low} or more')


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
  devices, micro_batches = max(1, c.stack.data_devices), c.stack.micro_batches
  if c.data.batch_size % (devices * micro_batches):
    raise ConfigError(
      f'data.batch_size={c.data.batch_size} is not divisible by '
      f'stack.data_devices={devices} x stack.micro_batches={micro_batches}'
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
  if len(set(s.variants)) < len(s.variants):
    raise ConfigError(f'sweep.variants={list(s.variants)} names a variant twice')
  parse_seeds(s.seeds)
  for share in s.noop_shares:
    if not 0 <= share < 1:
      raise ConfigError(f'sweep.noop_shares has {share}, not a share in [0, 1)')
    if share and not getattr(c.task, 'noops', False):
      raise ConfigError('sweep.noop_shares above 0 need task.noops=True')
  for name in s.references:
    if name not in REFERENCES:
      raise ConfigError(
        f'sweep.references has {name!r}; known: {", ".join(REFERENCES)}'
        + _hint(name, REFERENCES)
      )


def parse_seeds(text: str) -> list[tuple[int, int]]:
  """Pairs (rules seed, other seeds): '3' -> (0,0) (1,1) (2,2), '2x3' -> all 2 x 3."""
  counts = text.split('x')
  if len(counts) > 2 or not all(n.isdigit() and int(n) > 0 for n in counts):
    raise ConfigError(f"sweep.seeds={text!r} is not like '3' or '3x3'")
  if len(counts) == 1:
    return [(s, s) for s in range(int(counts[0]))]
  return [(r, s) for r in range(int(counts[0])) for s in range(int(counts[1]))]


def parse_arg(
  arg: str | None, sizes: tuple[str, ...], **fields: Any
) -> types.SimpleNamespace:
  """Parse a config file's argument '[size][,name=value]...'; sizes[0] is the default.

  fields: name -> type (int, float, str, or tuple[int, ...] written 10|100). The
  result has `size` and each field, None where the argument leaves it out.
  """
  values: dict[str, Any] = dict.fromkeys(fields)
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
      values[name] = _convert(name, value, fields[name])
  return types.SimpleNamespace(size=size, **values)


def _convert(name: str, text: str, kind: Any) -> Any:
  """Parse text as a value of a type; raises ConfigError."""
  try:
    if typing.get_origin(kind) is tuple:
      return tuple(typing.get_args(kind)[0](v) for v in text.split('|'))
    if kind is bool:
      return {'true': True, 'false': False}[text.lower()]
    return kind(text)
  except (ValueError, KeyError):
    numbers = typing.get_origin(kind) is tuple
    expected = 'numbers as 10|100' if numbers else kind.__name__
    raise ConfigError(f'{name}={text!r} is not {expected}') from None


def build(cls: Any, values: dict[str, Any], prefix: str) -> Any:
  """A settings dataclass from plain values; a ConfigError names prefix + field."""
  known = {f.name: f for f in dataclasses.fields(cls)}
  for name in values:
    if name not in known:
      raise ConfigError(f'unknown setting {prefix}{name}' + _hint(name, known))
  arguments = {}
  for name, value in values.items():
    kind: Any = known[name].type
    if name == 'task' and kind is Any:
      task = value.get('name', 'rewrite') if isinstance(value, dict) else 'rewrite'
      kind = task_settings(str(task))
    if dataclasses.is_dataclass(kind):
      arguments[name] = build(kind, value, f'{prefix}{name}.')
    else:
      arguments[name] = _coerce(value, kind, prefix + name)
  try:
    return cls(**arguments)
  except ValueError as e:
    raise ConfigError(str(e)) from None


def _coerce(value: Any, kind: Any, field: str) -> Any:
  """Check a leaf's type; lists become tuples, ints become floats where declared."""
  if typing.get_origin(kind) is tuple:
    if not isinstance(value, list | tuple):
      raise ConfigError(f'{field}={value!r} is not a list')
    return tuple(_coerce(v, typing.get_args(kind)[0], field) for v in value)
  if kind is float and isinstance(value, int) and not isinstance(value, bool):
    return float(value)
  if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
    raise ConfigError(f'{field}={value!r} is not of type {kind.__name__}')
  return value


def _hint(word: str, options: Iterable[str]) -> str:
  close = difflib.get_close_matches(word, list(options), n=1)
  return f'. Did you mean {close[0]}?' if close else ''
