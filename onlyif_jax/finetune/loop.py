"""The host loop of one row: batches, steps, a log, checkpoints, resume.

A checkpoint holds the trained weights (adapters, or all), their optimiser and the
state of the data iterator: a stopped run goes on with the next batch, bit for bit.
"""

import contextlib
import dataclasses
import json
import math
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from onlyif_jax import keys
from onlyif_jax.checkpoint import Checkpointer
from onlyif_jax.config import ConfigError
from onlyif_jax.corpora import batching
from onlyif_jax.finetune.base import Base
from onlyif_jax.finetune.rows import TuningRow
from onlyif_jax.finetune.tuning_config import Tuning
from onlyif_jax.keys import Purpose
from onlyif_jax.loop import StopSignal
from onlyif_jax.models import lora
from onlyif_jax.models.lora import Parts
from onlyif_jax.progress import StackProgress
from onlyif_jax.training import placement
from onlyif_jax.training import tuning as tune_lib
from onlyif_jax.training.tuning import TuneStep
from onlyif_jax.workdir import Workdir

METRICS = 'metrics.jsonl'


class NotFiniteError(Exception):
  """The loss of a row stopped being finite; says at which step."""

  def __init__(self, step: int):
    super().__init__(step)
    self.step = step


@dataclasses.dataclass(frozen=True)
class Plan:
  """What a row trains on: rows by source, which of them, and their batches."""

  sources: batching.Sources
  rows: batching.Plan
  settings: batching.BatchSettings
  survey: batching.Survey


def batch_settings(tuning: Tuning, row: TuningRow) -> batching.BatchSettings:
  """How a row's text becomes batches."""
  t = tuning.tune
  return batching.BatchSettings(
    template=t.template,
    length=t.length,
    batch_size=t.batch_size,
    epochs=t.epochs,
    packing=t.packing,
    seed=row.seed,
  )


def make_plan(tuning: Tuning, row: TuningRow, base: Base, sources, rows) -> Plan:
  """The batches of a row; raises ConfigError where no row leaves a response."""
  settings = batch_settings(tuning, row)
  survey = batching.survey(rows, sources, base.tokenizer, settings)
  if not survey.batches:
    raise ConfigError(
      f'{row.name}: no response is left after tune.length={settings.length} tokens; '
      'raise it'
    )
  return Plan(sources, rows, settings, survey)


def adapt(tuning: Tuning, row: TuningRow, base: Base) -> Parts:
  """The base in trained and frozen parts, with new adapters from the row's seed."""
  key = keys.key(row.seed, Purpose.INIT)
  return lora.adapt(base.config, base.params(), tuning.lora, tuning.base.quantize, key)


class RowRun:
  """Trains one row to the end, from its newest checkpoint if there is one."""

  def __init__(
    self,
    tuning: Tuning,
    row: TuningRow,
    base: Base,
    plan: Plan,
    workdir: Workdir,
    mesh,
    progress: StackProgress,
    stop: StopSignal | None = None,
  ):
    self.tuning, self.row, self.base, self.plan = tuning, row, base, plan
    self.workdir, self.mesh, self.progress, self.stop = workdir, mesh, progress, stop
    self.steps = plan.survey.batches
    t = tuning.tune
    self.tune = TuneStep(tuning.optim, t.micro_batches)

  def run(self) -> Parts | None:
    """The model after the last step; None if a signal stopped the run.

    Raises NotFiniteError and leaves the last checkpoint as it was.
    """
    parts, state = self._start()
    directory = self.workdir.file(f'checkpoints/{self.row.name}')
    with Checkpointer(directory) as saver, contextlib.ExitStack() as closing:
      abstract = jax.tree.map(_abstract, state)
      restored = saver.restore(abstract)
      batches = batching.batches(
        self.plan.rows, self.plan.sources, self.base.tokenizer, self.plan.settings
      )
      iterator = iter(batches)
      done, losses = 0, _Losses()
      if restored is not None:
        done, state = restored
        notes = saver.notes(done)
        iterator.set_state(notes['data'])
        losses.sums = notes['sums']
      self._cut_log(done)
      closing.callback(getattr(iterator, 'close', lambda: None))
      state = self._train(parts, state, iterator, done, saver, losses)
      if state is None:
        return None
    return parts._replace(trained=state['trained'])

  def _start(self) -> tuple[Parts, Any]:
    """The parts without their trained weights, and the state that holds these."""
    parts = adapt(self.tuning, self.row, self.base)
    state = self.tune.init(parts.trained)
    if self.mesh.size > 1:
      placed = placement.place(self.mesh, parts.frozen)
      parts = parts._replace(frozen=jax.device_put(parts.frozen, placed))
      state = jax.device_put(state, placement.place(self.mesh, state))
    # A step donates its state, which includes the weights at the start.
    return parts._replace(trained=None), state

  def _train(
    self, parts: Parts, state, iterator, done: int, saver: Checkpointer, losses
  ):
    """The state after the last step; None if a signal stopped the run.

    done: steps of earlier calls. losses: those that are not logged yet.
    """
    t, on_batch = self.tuning.tune, placement.batch(self.mesh)
    rates, seed = self.tune.rates(self.steps), jnp.int32(self.row.seed)
    for n in range(done + 1, self.steps + 1):
      batch = jax.device_put(next(iterator), on_batch)
      state, sums = tune_lib.train_step(
        self.tune, parts.definitions, state, parts.frozen, batch, rates[n - 1], seed
      )
      losses.sums.append(sums)
      if n % t.log_every == 0 or n == self.steps:
        self._log(n, losses)
      stopping = self.stop is not None and self.stop.number
      if n % t.save_every == 0 or n == self.steps or stopping:
        # The iterator may read ahead of training, its state does not.
        notes = {'data': iterator.get_state(), 'sums': losses.fetched()}
        if not np.isfinite(notes['sums']).all():
          raise NotFiniteError(n)
        saver.save(n, state, notes=notes)
      if stopping and n < self.steps:
        return None
    saver.wait()
    return state

  def _log(self, step: int, losses: '_Losses') -> None:
    steps, (loss, count, seconds) = len(losses.sums), losses.take()
    if not math.isfinite(loss):
      raise NotFiniteError(step)
    self.workdir.append_json(
      METRICS,
      {'row': self.row.name, 'step': step, 'loss': loss, 'response_tokens': count},
    )
    self.progress.chunk(step, steps, seconds, loss)

  def _cut_log(self, step: int) -> None:
    """Drops what was logged of this row after the restored step."""
    entries = self.workdir.read_json_lines(METRICS)
    kept = [m for m in entries if m['row'] != self.row.name or m['step'] <= step]
    if len(kept) < len(entries):
      lines = ''.join(f'{json.dumps(m)}\n' for m in kept)
      self.workdir.write_text(METRICS, lines)


class _Losses:
  """The losses that are not logged yet, on the device until they are needed."""

  def __init__(self):
    self.sums: list[Any] = []  # of each step: (loss sum, weight sum)
    self.began = time.perf_counter()

  def fetched(self) -> list[list[float]]:
    """The sums as numbers."""
    self.sums = [[float(total) for total in sums] for sums in self.sums]
    return list(self.sums)

  def take(self) -> tuple[float, int, float]:
    """(mean loss, tokens, seconds) since the last call; empties the sums."""
    loss, count = np.sum(self.fetched(), axis=0)
    now = time.perf_counter()
    seconds, self.began, self.sums = now - self.began, now, []
    return float(loss / max(count, 1.0)), int(count), seconds


def _abstract(x: jax.Array) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
