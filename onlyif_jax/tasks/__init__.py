"""Tasks by name, and the rules that they are about."""

import importlib

from onlyif_jax.config import ConfigError, RulesConfig, TaskConfig
from onlyif_jax.tasks.rewrite import Rewrite
from onlyif_jax.tasks.rules import RuleSpace

REGISTRY = {'rewrite': Rewrite}


def make_task(config: TaskConfig):
  """The task object of a config; 'package.module:Class' names one from outside."""
  fields = {
    name: getattr(config, name)
    for name in config.__dataclass_fields__
    if name != 'name'
  }
  if config.name in REGISTRY:
    return REGISTRY[config.name](**fields)
  module, colon, name = config.name.partition(':')
  if not colon:
    known = ', '.join(REGISTRY)
    raise ConfigError(
      f'task.name={config.name!r} is not one of {known}, nor package.module:Class'
    )
  try:
    cls = getattr(importlib.import_module(module), name)
  except (ImportError, AttributeError) as e:
    raise ConfigError(f'task.name={config.name!r} cannot be imported: {e}') from None
  return cls(**fields)


def make_rules(task: TaskConfig, rules: RulesConfig) -> RuleSpace:
  """The rule space of a config."""
  try:
    return RuleSpace(
      alphabet=task.alphabet,
      x_min=task.x_min,
      x_max=task.x_max,
      y_min=task.y_min,
      y_max=task.y_max,
      dev_fraction=rules.dev_fraction,
      test_fraction=rules.test_fraction,
      distinct=rules.distinct,
    )
  except ValueError as e:
    raise ConfigError(str(e)) from None
