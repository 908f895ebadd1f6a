"""A sweep as a library call: `onlyif_jax.sweep(config)` and what it returns."""

import contextlib
import dataclasses
import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from onlyif_jax import config as config_lib
from onlyif_jax import exporting
from onlyif_jax import sweep as sweep_lib
from onlyif_jax.analysis.results import Analysis
from onlyif_jax.analysis.transition import Transition
from onlyif_jax.asking import Answer, Asker
from onlyif_jax.config import EXTENDABLE, ConfigError, RunConfig
from onlyif_jax.evaluation import open_run
from onlyif_jax.loop import OnProgress
from onlyif_jax.workdir import Workdir

_TEXT = ('member', 'reference', 'seed', 'variant', 'split', 'slice', 'metric')


@dataclasses.dataclass(frozen=True)
class Run:
  """A finished sweep."""

  workdir: Path
  failed: dict[str, int]  # member -> the step at which it stopped being finite
  analysis: Analysis | None  # None where every member failed

  @property
  def results(self) -> list[dict[str, Any]]:
    """The rows of results.csv, with numbers parsed: one per member, split, slice, metric.

    For instance `pandas.DataFrame(run.results)`.
    """
    return [
      {name: text if name in _TEXT else _number(text) for name, text in row.items()}
      for row in Workdir(self.workdir).read_csv('results.csv')
    ]

  def fit(self, curve: str = '') -> Transition:
    """The fitted transition of the main curve, or of another one of `analysis.fits`."""
    if self.analysis is None:
      raise ConfigError('every member of the run failed, so there is nothing to fit')
    if curve and curve not in self.analysis.fits:
      known = ', '.join(self.analysis.fits)
      raise ConfigError(f'there is no curve {curve!r}; curves: {known}')
    return self.analysis.fits[curve] if curve else self.analysis.main

  def answer(
    self, text: str, lhs: str, rhs: str, members: Sequence[str] | None = None
  ) -> list[Answer]:
    """Asks trained members to replace `lhs` by `rhs` in `text`.

    The right answer is `text.replace(lhs, rhs, 1)`; letters and lengths are those of the
    run's task. members: names; default: all. Raises ConfigError for other questions.
    """
    return self._asker.ask(text, lhs, rhs, members)

  @functools.cached_property
  def _asker(self) -> Asker:
    return Asker(open_run(self.workdir))


def sweep(
  config: Any,
  workdir: str | os.PathLike | None = None,
  *,
  on_progress: OnProgress | None = None,
) -> Run:
  """Trains a sweep, or what is left of it, and reads its results; raises ConfigError.

  config: a ConfigDict as config files return it, a plain dict, or a RunConfig.
  workdir: default runs/<config>-<size>-<hash of the config>; the same call resumes an
  interrupted sweep.
  on_progress: called with lists of rows of metrics.jsonl, first with those of earlier
  calls, then with new ones as they are written: dicts with member, step, and either
  loss or `<split>/<metric>` of the splits dev and seen. A resumed member repeats rows,
  with the same numbers.
  """
  run_config = _frozen(config)
  path = Path(workdir) if workdir is not None else default_workdir(run_config)
  _claim_devices(Workdir(path).config() or run_config)
  outcome = sweep_lib.run(run_config, path, on_progress=on_progress)
  return Run(path, outcome.failed, outcome.analysis)


def examples(
  config: Any, member: str | None = None, count: int = 5
) -> dict[str, list[dict[str, Any]]]:
  """Split -> its first examples as text, as `export --to=jsonl` writes them.

  config: as for `sweep`; member: required where the config has several; count: of each
  split. A row has input, lhs, rhs (or the task's own fields), output, prompt and
  slices. Raises ConfigError.
  """
  run_config = _frozen(config)
  _claim_devices(run_config)
  return exporting.examples(run_config, member, count)


def _frozen(config: Any) -> RunConfig:
  if isinstance(config, RunConfig):
    config = dataclasses.asdict(config)
  return config_lib.freeze(config)


def _claim_devices(config: RunConfig) -> None:
  with contextlib.suppress(RuntimeError):  # JAX is in use, so its devices are fixed
    sweep_lib.claim_devices(config)


def default_workdir(config: RunConfig) -> Path:
  """runs/<config>-<size>-<hash>; the hash is without counts, seeds and stack."""
  fixed = {
    name: value
    for name, value in config_lib.flatten(config).items()
    if name not in EXTENDABLE and not name.startswith('stack.')
  }
  return Path('runs') / f'{config.name}-{config.size}-{config_lib.digest(fixed)}'


def _number(text: str) -> Any:
  """An int or a float; '' is None, and other text (a variant's value) stays."""
  for kind in (int, float):
    with contextlib.suppress(ValueError):
      return kind(text)
  return text or None
