"""A sweep as a library call: `onlyif_jax.sweep(config)` and what it returns."""

import contextlib
import dataclasses
import os
from pathlib import Path
from typing import Any

from onlyif_jax import config as config_lib
from onlyif_jax import sweep as sweep_lib
from onlyif_jax.analysis.results import Analysis
from onlyif_jax.analysis.transition import Transition
from onlyif_jax.config import EXTENDABLE, ConfigError, RunConfig
from onlyif_jax.workdir import Workdir

_WORDS = ('member', 'reference', 'seed', 'variant', 'split', 'slice', 'metric')


@dataclasses.dataclass(frozen=True)
class Run:
  """A finished sweep; failed: member -> the step at which it stopped being finite."""

  workdir: Path
  failed: dict[str, int]
  analysis: Analysis | None  # None where every member failed

  @property
  def results(self) -> list[dict[str, Any]]:
    """results.csv: a row per member, split, slice and metric; numbers are numbers.

    Any table takes them, for instance `pandas.DataFrame(run.results)`.
    """
    return [
      {name: text if name in _WORDS else _number(text) for name, text in row.items()}
      for row in Workdir(self.workdir).read_csv('results.csv')
    ]

  def fit(self, curve: str = '') -> Transition:
    """The fitted step of the main curve or of another one of `analysis.fits`."""
    if self.analysis is None:
      raise ConfigError('every member of the run failed, so there is nothing to fit')
    if curve and curve not in self.analysis.fits:
      known = ', '.join(self.analysis.fits)
      raise ConfigError(f'there is no curve {curve!r}; curves: {known}')
    return self.analysis.fits[curve] if curve else self.analysis.main


def sweep(config: Any, workdir: str | os.PathLike | None = None) -> Run:
  """Trains what is left of a sweep and reads its results; raises ConfigError.

  config: a ConfigDict as config files return it, a plain dict, or a RunConfig. workdir:
  default runs/<config>-<size>-<hash of the config>; the same call goes on where an
  earlier one stopped.
  """
  if isinstance(config, RunConfig):
    config = dataclasses.asdict(config)
  run_config = config_lib.freeze(config)
  path = Path(workdir) if workdir is not None else default_workdir(run_config)
  with contextlib.suppress(RuntimeError):  # JAX is in use: its devices stay as they are
    sweep_lib.claim_devices(Workdir(path).config() or run_config)
  _, failed, analysis = sweep_lib.run(run_config, path)
  return Run(path, failed, analysis)


def default_workdir(config: RunConfig) -> Path:
  """runs/<config>-<size>-<hash of what more counts or seeds would not change>."""
  flat = config_lib.flatten(config)
  kept = {
    k: v for k, v in flat.items() if k not in EXTENDABLE and not k.startswith('stack.')
  }
  return Path('runs') / f'{config.name}-{config.size}-{config_lib.digest(kept)}'


def _number(text: str) -> Any:
  """'' -> None, else an int, a float or, for a word of a variant, the text."""
  for kind in (int, float):
    with contextlib.suppress(ValueError):
      return kind(text)
  return text or None
