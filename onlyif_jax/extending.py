"""What a later call may add to the run in its workdir: counts, seeds and variants."""

import dataclasses
from typing import Any

from onlyif_jax.config import EXTENDABLE, ConfigError, RunConfig, flatten, swept


def differences(old: RunConfig, new: RunConfig) -> dict[str, tuple[Any, Any]]:
  """Fields that keep `new` from continuing in the workdir of `old`: (old, new).

  Those of EXTENDABLE do not, nor variants that change the settings that those there
  do, nor the texts `size` and `paper`, nor how members are stacked.
  """
  before, after = flatten(old), flatten(new)
  free = {*EXTENDABLE, 'size', 'paper'}
  if swept(new) and set(swept(old)) == set(swept(new)):  # each is a column of tables
    free.add('sweep.variants')
  fields = [k for k in before if k not in free and not k.startswith('stack.')]
  return {k: (before[k], after[k]) for k in fields if before[k] != after[k]}


def extend(stored: RunConfig, new: RunConfig) -> RunConfig:
  """The stored config with the counts and variants of both, and the more seeds."""
  sweep = dataclasses.replace(
    stored.sweep,
    counts=tuple(sorted({*stored.sweep.counts, *new.sweep.counts})),
    variants=tuple(dict.fromkeys((*stored.sweep.variants, *new.sweep.variants))),
    seeds=_more_seeds(stored.sweep.seeds, new.sweep.seeds),
  )
  return dataclasses.replace(stored, size=new.size, paper=new.paper, sweep=sweep)


def extent(config: RunConfig) -> tuple[Any, ...]:
  """What `extend` may add to, equal where it would add nothing."""
  sweep = config.sweep
  return sorted(sweep.counts), sweep.seeds, sweep.variants


def _more_seeds(old: str, new: str) -> str:
  """The larger of two values of sweep.seeds, both '3' or both '3x3'."""
  old_counts, new_counts = old.split('x'), new.split('x')
  if len(old_counts) != len(new_counts):
    raise ConfigError(
      f"sweep.seeds={new!r} does not extend the workdir's {old!r}; give "
      'another --workdir'
    )
  pairs = zip(old_counts, new_counts, strict=True)
  return 'x'.join(str(max(int(a), int(b))) for a, b in pairs)
