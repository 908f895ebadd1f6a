"""Make tasks by name."""

import dataclasses
import importlib

from onlyif_jax.config import ConfigError, RulesConfig, outside_class
from onlyif_jax.tasks.contract import Space, Task

REGISTRY = {  # task.name -> 'module:Class'; a task is imported on first use
  'rewrite': 'rewrite:Rewrite',
  'occurrences': 'occurrences:Occurrences',
  'semantics': 'semantics:Semantics',
  'cipher': 'cipher:Cipher',
  'algebra': 'algebra:Algebra',
  'markov': 'markov:Markov',
  'table': 'table:Table',
}


def make_task(settings) -> Task:
  """The task of a config's `task` section; raises ConfigError for bad settings."""
  values = {f.name: getattr(settings, f.name) for f in dataclasses.fields(settings)}
  if settings.name in REGISTRY:
    module, _, class_name = REGISTRY[settings.name].partition(':')
    cls = getattr(importlib.import_module(f'{__name__}.{module}'), class_name)
  else:
    cls = outside_class(settings.name)
    if 'name' not in cls.__dataclass_fields__:
      del values['name']
  try:
    return cls(**values)
  except ValueError as e:
    raise ConfigError(str(e)) from None


def make_space(task: Task, rules: RulesConfig) -> Space:
  """The rule space of a task; raises ConfigError for settings that cannot work."""
  try:
    return task.space(rules)
  except ValueError as e:
    raise ConfigError(str(e)) from None
