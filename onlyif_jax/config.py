"""From config files and flags to a checked RunConfig, and back.

`settings.py` declares each field once. `base_config` turns the declarations into a
locked ConfigDict; `freeze` turns that back, refusing unknown keys, wrong types and
values that cannot work. No jax here.
"""

import dataclasses
import difflib
import functools
import hashlib
import importlib
import json
import types
import typing
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

__all__ = [  # the declarations can be had from here as well
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
_LEAST = {  # least value -> fields
  0: (
    'data.alpha eval.cell_examples eval.loop_points eval.outputs stack.members '
    'stack.member_devices stack.data_devices stack.chunk optim.clip '
    'optim.weight_decay seed'
  ),
  1: (
    'data.examples data.batch_size model.layers model.width model.heads '
    'eval.examples eval.loop_examples eval.batch_size sweep.reference_count '
    'stack.micro_batches checkpoint.every'
  ),
  2: 'checkpoint.keep',
}
_AT_LEAST = {field: low for low, names in _LEAST.items() for field in names.split()}


# Sections whose settings a variant may change.
_VARIED = ('task', 'rules', 'data', 'model', 'optim')


def base_config(task: str = 'rewrite') -> Any:
  """The defaults as a locked ConfigDict, typed Any: its fields are attributes.

  task: a name of TASKS, or 'package.module:Class'.
  """
  run = RunConfig(task=task_settings(task)())
  return ml_collections.ConfigDict(dataclasses.asdict(run)).lock()


def task_settings(name: str) -> type:
  """The dataclass of a task's settings; raises ConfigError for unknown names."""
  if name in TASKS:
    return TASKS[name]
  return _outside_settings(name)


@functools.cache
def _outside_settings(name: str) -> type:
  cls = outside_class(name)
  kinds, own = typing.get_type_hints(cls), dataclasses.fields(cls)
  for f in own:
    if f.default is f.default_factory:  # both are missing
      raise ConfigError(f'{name}: its field {f.name} needs a default value')
  fields = [(f.name, kinds[f.name], f) for f in own if f.name != 'name']
  return dataclasses.make_dataclass(
    'Settings', [('name', str, name), *fields], frozen=True
  )


def outside_class(name: str) -> Any:
  """The task class 'package.module:Class'; raises ConfigError where there is none."""
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


def freeze(config) -> RunConfig:
  """A ConfigDict or plain dict -> checked RunConfig; raises ConfigError."""
  if isinstance(config, ml_collections.ConfigDict):
    config = config.to_dict()
  run = build(RunConfig, config, '')
  check(run)
  for text in run.sweep.variants:
    check(variant(run, text))
  return run


def variant(c: RunConfig, text: str) -> RunConfig:
  """The config with a variant's settings, 'task.alphabet=13,optim.name=muon'."""
  changes: dict[str, dict[str, Any]] = {}
  for field, value in parse_variant(c, text).items():
    section, _, name = field.partition('.')
    changes.setdefault(section, {})[name] = value
  try:
    parts = {k: dataclasses.replace(getattr(c, k), **v) for k, v in changes.items()}
  except ValueError as e:
    raise ConfigError(f'sweep.variants, {text!r}: {e}') from None
  return dataclasses.replace(c, **parts)


def parse_variant(c: RunConfig, text: str) -> dict[str, Any]:
  """A variant's text -> field -> value; raises ConfigError for unknown fields."""
  out = {}
  for word in filter(None, text.split(',')):
    field, equals, value = word.partition('=')
    section, _, name = field.partition('.')
    known = _fields(getattr(c, section)) if section in _VARIED else {}
    if section == 'task':
      del known['name']
    elif section == 'sweep':  # a variant may have counts of its own
      known = {'counts': tuple[int, ...]}
    if not equals or name not in known:
      options = [f'{section}.{k}' for k in known] or [f'{s}.' for s in _VARIED]
      raise ConfigError(
        f'sweep.variants has {word!r}, which is not like section.field=value of '
        f'{", ".join(_VARIED)}' + _hint(field, options)
      )
    out[field] = _convert(f'sweep.variants: {field}', value, known[name])
  return out


def swept(c: RunConfig) -> tuple[str, ...]:
  """The fields that variants change, in order; each is a column of the results."""
  found: dict[str, None] = {}
  for text in c.sweep.variants:
    found |= dict.fromkeys(parse_variant(c, text))
  found.pop('sweep.counts', None)
  return tuple(found)


def swept_values(c: RunConfig, text: str) -> dict[str, Any]:
  """Field -> its value in a variant, for every field that some variant changes."""
  flat = flatten(variant(c, text))
  return {
    k: '|'.join(map(str, v)) if isinstance(v := flat[k], list) else v for k in swept(c)
  }


def _fields(settings) -> dict[str, Any]:
  return {f.name: f.type for f in dataclasses.fields(settings)}


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
  check_values(flatten(c), _CHOICES, _AT_LEAST)
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


def check_values(flat: dict, choices: dict, at_least: dict) -> None:
  """Raises ConfigError for a field outside of its choices or below its least value."""
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
  parts, micro = max(1, c.stack.data_devices), c.stack.micro_batches
  if c.data.batch_size % (parts * micro):
    raise ConfigError(
      f'data.batch_size={c.data.batch_size} is not divisible by '
      f'stack.data_devices={parts} x stack.micro_batches={micro}'
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
    if kind is bool:
      return {'true': True, 'false': False}[text.lower()]
    return kind(text)
  except (ValueError, KeyError):
    wanted = 'numbers as 10|100' if typing.get_origin(kind) is tuple else kind.__name__
    raise ConfigError(f'{name}={text!r} is not {wanted}') from None


def build(cls, values, prefix: str) -> Any:
  """A dict of plain values -> a dataclass of settings; ConfigError with the field."""
  known = {f.name: f for f in dataclasses.fields(cls)}
  for name in values:
    if name not in known:
      raise ConfigError(f'unknown setting {prefix}{name}' + _hint(name, known))
  out = {}
  for name, value in values.items():
    kind = known[name].type
    if name == 'task' and kind is Any:
      given = value if isinstance(value, dict) else {}
      kind = task_settings(str(given.get('name', 'rewrite')))
    if dataclasses.is_dataclass(kind):
      out[name] = build(kind, value, f'{prefix}{name}.')
    else:
      out[name] = _coerce(value, kind, prefix + name)
  try:
    return cls(**out)
  except ValueError as e:
    raise ConfigError(str(e)) from None


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
