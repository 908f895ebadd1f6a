"""A row of a mixture of instruction data: what it trains on, how a model is judged.

All mixtures of a run are drawn from one pool, so that smaller ones are parts of larger
ones. A model is judged by its loss on responses of every source that no mixture of the
run contains, which shows what a mixture teaches beside its benchmarks.
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
from onlyif_jax.finetune.answers import RESULT_COLUMNS, Evaluation
from onlyif_jax.finetune.base import Base
from onlyif_jax.finetune.rows import TuningRow
from onlyif_jax.models.lora import Parts
from onlyif_jax.training.tuning import measure
from onlyif_jax.tuning_settings import MixtureTuning

HELD_OUT = 'heldout'  # the split of rows that no mixture of the run has


class MixtureTask:
  """The rows of one mixture, and the judgement of a model on held-out rows."""

  def __init__(self, config: MixtureTuning, row: TuningRow):
    self.pool = pool(config.mixture)
    text = row.mixture or config.mixture.rows[0]
    self.plan: mixture.Plan = self.pool.plans[config.mixture.rows.index(text)]

  def training(self) -> tuple[batching.Sources, batching.Plan]:
    """(rows by source, the plan)."""
    return self.pool.rows, [(row_id.source, row_id.index) for row_id in self.plan.rows]

  def facts(self) -> dict[str, Any]:
    """What the ledger says of the row's data."""
    return {'rows_sha256': self.plan.sha256, 'counts': dict(self.plan.counts)}

  def judge(self, config: MixtureTuning, base: Base, parts: Parts) -> Evaluation:
    """The loss and token accuracy of held-out responses, for each source."""
    settings = batching.BatchSettings(
      template=config.tune.template,
      length=config.tune.length,
      batch_size=config.tune.batch_size,
      packing='none',
    )
    evaluation = Evaluation([], [], [])
    for name, ids in judged(self.pool, config).items():
      plan = [
        (row_id.source, row_id.index)
        for row_id in ids
        if batching.encode(self.pool.row(row_id), base.tokenizer, settings)
      ]
      if not plan:
        continue
      sums = np.zeros(3)  # loss, right tokens, tokens
      for batch in batching.batches(plan, self.pool.rows, base.tokenizer, settings):
        sums += [
          float(total)
          for total in measure(parts.definitions, parts.trained, parts.frozen, batch)
        ]
      loss, right, count = sums
      for metric, total in (('response_nll', loss), ('token_accuracy', right)):
        cells = (HELD_OUT, f'source={name}', metric, total, int(count), total / count)
        evaluation.results.append(dict(zip(RESULT_COLUMNS, cells, strict=True)))
    return evaluation


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
  """The rows that a small stand-in for a pretrained model is trained on.

  They are in no mixture and no model is judged on them, so that it knows a little of
  every source and nothing of the questions.
  """
  source = pool(config.mixture)
  taken = {row_id for ids in judged(source, config).values() for row_id in ids}
  held = (row_id for ids in held_out(source).values() for row_id in ids)
  free = [row_id for row_id in held if row_id not in taken]
  if not free:  # every row is in a mixture
    free = [
      RowId(name, n) for name, rows in source.rows.items() for n in range(len(rows))
    ]
  return [source.row(row_id) for row_id in free]


def held_out(source: Pool) -> dict[str, list[RowId]]:
  """The rows of each source that no mixture has, in the order of drawing."""
  used = {row_id for plan in source.plans for row_id in plan.rows}
  rows = {s.name: [RowId(s.name, n) for n in s.indices] for s in source.drawn}
  return {
    name: [row_id for row_id in ids if row_id not in used] for name, ids in rows.items()
  }


def judged(source: Pool, config: MixtureTuning) -> dict[str, list[RowId]]:
  """The rows of each source that models are judged on: at most half of those held out.

  They are the last in the order of drawing, which further mixtures reach last.
  """
  most = config.answers.examples
  return {
    name: ids[len(ids) - min(most, (len(ids) + 1) // 2) :]
    for name, ids in held_out(source).items()
  }
