"""Rows of instruction data in mixtures: what a row trains on, what it is judged on.

Every mixture of a run is drawn from one pool, so that smaller ones are parts of larger
ones. A model is judged on rows of every source that are in no mixture of the run: the
loss of their responses says what a mixture taught beside its own benchmark.
"""

import functools
from pathlib import Path
from typing import Any

import numpy as np

from onlyif_jax import mixing
from onlyif_jax.corpora import batching, manifest, mixture
from onlyif_jax.corpora.manifest import Pool
from onlyif_jax.corpora.mixture import RowId
from onlyif_jax.corpora.mixture_settings import MixtureSettings
from onlyif_jax.corpora.rows import Row
from onlyif_jax.finetune.answers import RESULT_COLUMNS, Found
from onlyif_jax.finetune.base import Base
from onlyif_jax.finetune.rows import TuningRow
from onlyif_jax.models.lora import Parts
from onlyif_jax.training.tuning import measure
from onlyif_jax.tuning_settings import MixtureTuning

HELD_OUT = 'heldout'  # the split of rows that no mixture of the run has


@functools.lru_cache(maxsize=2)
def pool(settings: MixtureSettings) -> Pool:
  """The rows that a config's mixtures are drawn from."""
  return manifest.gather(settings)


def write(config: MixtureTuning, path: Path, base: Path) -> None:
  """Writes the manifest, the diversity of the mixtures and their map.

  base: the model's directory, whose tokenizer counts unless the config names another.
  """
  mixing.write_pool(pool(config.mixture), path / 'mixture', str(base))


def base_rows(config: MixtureTuning) -> list[Row]:
  """What a small stand-in for a pretrained model is made with.

  Rows of no mixture on which no model is judged, so that it knows a little of every
  source and nothing of what is asked.
  """
  own = pool(config.mixture)
  asked = {where for some in judged(own, config).values() for where in some}
  held = (where for some in held_out(own).values() for where in some)
  ids = [where for where in held if where not in asked]
  if not ids:  # every row is in a mixture
    ids = [RowId(name, n) for name, rows in own.rows.items() for n in range(len(rows))]
  return [own.row(where) for where in ids]


def held_out(own: Pool) -> dict[str, list[RowId]]:
  """The rows of each source that no mixture has, in the order of drawing."""
  used = {where for plan in own.plans for where in plan.rows}
  rows = {s.name: [RowId(s.name, n) for n in s.indices] for s in own.drawn}
  return {
    name: [where for where in ids if where not in used] for name, ids in rows.items()
  }


def judged(own: Pool, config: MixtureTuning) -> dict[str, list[RowId]]:
  """The rows of each source that models are judged on: half of those held out at most.

  The last in the order of drawing, which further mixtures reach last.
  """
  most = config.answers.examples
  return {
    name: ids[len(ids) - min(most, (len(ids) + 1) // 2) :]
    for name, ids in held_out(own).items()
  }


class MixtureTask:
  """The rows of one mixture, and the judgement of a model on held-out ones."""

  def __init__(self, config: MixtureTuning, row: TuningRow):
    self.pool = pool(config.mixture)
    text = row.mixture or config.mixture.rows[0]
    self.plan: mixture.Plan = self.pool.plans[config.mixture.rows.index(text)]

  def training(self):
    """(rows by source, the plan)."""
    return self.pool.rows, [(w.source, w.index) for w in self.plan.rows]

  def facts(self) -> dict[str, Any]:
    """What the ledger says of the row's data."""
    return {'rows_sha256': self.plan.sha256, 'counts': dict(self.plan.counts)}

  def judge(self, config: MixtureTuning, base: Base, parts: Parts) -> Found:
    """The loss of held-out responses, for each source."""
    settings = batching.BatchSettings(
      template=config.tune.template,
      length=config.tune.length,
      batch_size=config.tune.batch_size,
      packing='none',
    )
    found = Found([], [], [])
    for name, ids in judged(self.pool, config).items():
      rows = [
        (where.source, where.index)
        for where in ids
        if batching.encode(self.pool.row(where), base.tokenizer, settings)
      ]
      if not rows:
        continue
      sums = np.zeros(3)
      for batch in batching.batches(rows, self.pool.rows, base.tokenizer, settings):
        got = measure(parts.definitions, parts.trained, parts.frozen, batch)
        sums += np.array([float(v) for v in got])
      for metric, total in (('response_nll', sums[0]), ('token_accuracy', sums[1])):
        values = (HELD_OUT, f'source={name}', metric, total, int(sums[2]))
        row = zip(RESULT_COLUMNS, (*values, total / sums[2]), strict=True)
        found.results.append(dict(row))
    return found
