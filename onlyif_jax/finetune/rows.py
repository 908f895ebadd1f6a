"""The rows of a fine-tuning run: one fine-tuned model each, in a fixed order."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from onlyif_jax.experiment import name_suffix
from onlyif_jax.finetune import tuning_config
from onlyif_jax.finetune.tuning_config import Tuning
from onlyif_jax.tuning_settings import SymbolicTuning, parse_variant


@dataclasses.dataclass(frozen=True)
class TuningRow:
  """One fine-tuned model, in words.

  instructions, subset and variant: of a symbolic task; mixture: the text of one of
  mixture.rows. seed: added to every seed of the row.
  """

  name: str
  seed: int
  instructions: int = 0
  subset: str = 'all'
  mixture: str = ''
  variant: str = ''  # one of instructions.variants

  def columns(self) -> dict[str, Any]:
    """The columns that name the row in every table."""
    return dataclasses.asdict(self)


COLUMNS = tuple(f.name for f in dataclasses.fields(TuningRow))


def rows(config: Tuning) -> list[TuningRow]:
  """All rows, seed by seed and variant by variant.

  Every count with all examples, then the subsets of the variant's largest count.
  """
  if not isinstance(config, SymbolicTuning):
    return [
      TuningRow(f'{_short(text)}-s{seed}', config.seed + seed, mixture=text)
      for seed in range(config.seeds)
      for text in config.mixture.rows
    ]
  by_name: dict[str, TuningRow] = {}
  for seed in range(config.instructions.seeds):
    for text in config.instructions.variants or ('',):
      for row in _symbolic(config, text, seed):
        # Variants that an extended run has both may differ in their counts alone.
        by_name.setdefault(row.name, row)
  return list(by_name.values())


def _symbolic(config: SymbolicTuning, text: str, seed: int) -> Iterator[TuningRow]:
  """The rows of one variant and seed."""
  changes = parse_variant(config.task, text)
  own = tuning_config.variant(config, text).instructions
  for count in own.counts:
    subsets = own.subsets if count == max(own.counts) else ('all',)
    for subset in dict.fromkeys(subsets):
      name = f'I{count}{suffix(changes)}'
      name += '' if subset == 'all' else '-' + subset.replace(':', '')
      row_seed = config.seed + seed
      yield TuningRow(f'{name}-s{seed}', row_seed, count, subset, variant=text)


def suffix(changes: Mapping[str, Any]) -> str:
  """The settings of a variant as a part of a name; its counts are not among them.

  >>> suffix({'task.alphabet': 13, 'task.shifts': (1, 3)})
  '-alphabet13-shifts1+3'
  """
  texts = {
    field: '+'.join(map(str, value)) if isinstance(value, tuple) else value
    for field, value in changes.items()
    if field != 'instructions.counts'
  }
  return name_suffix(texts)


def _short(text: str) -> str:
  """'oss=19000,alpaca=1000' -> 'oss19000+alpaca1000'."""
  return text.replace('=', '').replace(',', '+').replace(' ', '')
