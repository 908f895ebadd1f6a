"""A task under check, with the examples that all checks share."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from onlyif_jax import keys, tasks
from onlyif_jax.config import RunConfig
from onlyif_jax.keys import Purpose
from onlyif_jax.tasks.rules import Part
from onlyif_jax.tasks.tokens import Example


class Subject:
  """A task under check, its space, and examples that are made once."""

  def __init__(self, run: RunConfig, examples: int = 2_000, rules: int = 2_000):
    """examples: of each kind; rules: most rules of a part to check."""
    self.run, self.per_kind, self.most_rules = run, examples, rules
    self.full: Any = tasks.make_task(run.task)  # including its traced settings

  @functools.cached_property
  def task(self) -> Any:
    """The static task, as in `data`."""
    return self.full.static()

  @functools.cached_property
  def space(self) -> Any:
    """The space of its rules."""
    return tasks.make_space(self.task, self.run.rules)

  @functools.cached_property
  def instructions(self) -> int:
    """The number of training rules to check."""
    few = self.full.setting(2)
    return min(self.space.capacity(Part.TRAIN, few), self.most_rules)

  @functools.cached_property
  def host_setting(self) -> dict[str, np.ndarray]:
    """The traced settings for that number of rules, on the host."""
    return self.full.setting(self.instructions)

  @property
  def setting(self) -> dict[str, jax.Array]:
    """The traced settings as arrays of the current trace."""
    return jax.tree.map(jnp.asarray, self.host_setting)

  @functools.cached_property
  def kinds(self) -> list[int]:
    """All kinds of examples in training and in evaluation sets."""
    kinds = {int(kind) for kind, _ in self.task.mix(0.5 if self.task.noops else 0.0)}
    n = self.per_kind
    i_B = jnp.arange(n, dtype=jnp.int32)
    for eval_set in self.task.eval_sets(n, n):
      if eval_set.kind != 'train':
        kinds |= set(np.unique(self.task.kind(eval_set.kind, i_B)).tolist())
    return sorted(kinds) or [0]

  def make(self, index, kind) -> Example:
    """Makes example `index` of a kind: a pure function of both."""
    rule = self.space.rule(0, Part.TRAIN, index % self.instructions, self.setting)
    key = keys.key(0, Purpose.TRAIN_INPUT, index)
    return self.task.example(rule, key, kind=kind, setting=self.setting)

  @functools.cached_property
  def many(self):
    """`make`, vmapped and compiled."""
    return jax.jit(jax.vmap(self.make))

  @functools.cached_property
  def indices(self) -> tuple[jax.Array, jax.Array]:
    """(index_B, kind_B) of the examples, `per_kind` of each kind."""
    kind_B = np.repeat(np.asarray(self.kinds, np.int32), self.per_kind)
    return jnp.arange(len(kind_B), dtype=jnp.int32), jnp.asarray(kind_B)

  @functools.cached_property
  def examples(self) -> Example:
    """The examples, on the host."""
    return jax.device_get(self.many(*self.indices))

  def rules(self, part: Part, count: int):
    """Rules 0 to count - 1 of a part, on the host."""
    make = jax.jit(jax.vmap(lambda i: self.space.rule(0, part, i, self.setting)))
    return jax.device_get(make(jnp.arange(count, dtype=jnp.int32)))
