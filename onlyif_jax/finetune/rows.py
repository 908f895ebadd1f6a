"""The rows of a fine-tuning run: one fine-tuned model each, in a fixed order."""

import dataclasses
from typing import Any

from onlyif_jax.finetune.tuning_config import Tuning
from onlyif_jax.tuning_settings import SymbolicTuning


@dataclasses.dataclass(frozen=True)
class TuningRow:
  """One fine-tuned model, in words.

  instructions and subset: of a symbolic task; mixture: the text of one of
  mixture.rows. seed: added to every seed of the row.
  """

  name: str
  seed: int
  instructions: int = 0
  subset: str = 'all'
  mixture: str = ''

  def columns(self) -> dict[str, Any]:
    """The columns that name the row in every table."""
    return dataclasses.asdict(self)


COLUMNS = tuple(f.name for f in dataclasses.fields(TuningRow))


def rows(config: Tuning) -> list[TuningRow]:
  """All rows, seed by seed: every count with all examples, then the largest's subsets."""
  if not isinstance(config, SymbolicTuning):
    return [
      TuningRow(f'{_short(text)}-s{seed}', config.seed + seed, mixture=text)
      for seed in range(config.seeds)
      for text in config.mixture.rows
    ]
  i, out = config.instructions, []
  for seed in range(i.seeds):
    for count in i.counts:
      subsets = i.subsets if count == max(i.counts) else ('all',)
      for subset in dict.fromkeys(subsets):
        name = f'I{count}{"" if subset == "all" else "-" + subset.replace(":", "")}'
        out.append(TuningRow(f'{name}-s{seed}', config.seed + seed, count, subset))
  return out


def _short(text: str) -> str:
  """'oss=19000,alpaca=1000' -> 'oss19000+alpaca1000'."""
  return text.replace('=', '').replace(',', '+').replace(' ', '')
