"""Fine-tuned models of a workdir: back into memory, and out for others."""

from pathlib import Path

import jax

from onlyif_jax.checkpoint import Checkpointer
from onlyif_jax.config import ConfigError
from onlyif_jax.finetune import loop, run
from onlyif_jax.finetune.base import Base
from onlyif_jax.models import adapters, lora, pretrained
from onlyif_jax.models.lora import Parts
from onlyif_jax.training.tuning import TuneStep

_TOKENIZER = ('tokenizer*', 'special_tokens_map.json', 'chat_template*', '*.model')


def is_tuning(path: Path) -> bool:
  """Whether a workdir is one of fine-tuning."""
  file = Path(path) / 'config.json'
  return file.exists() and '"tune"' in file.read_text()


def row(path: Path, name: str | None = None) -> tuple[run.TuningRun, Base, Parts]:
  """(the run, its base, the fine-tuned model) of a row; ConfigError."""
  tuning = run.stored_config(Path(path))
  if tuning is None:
    raise ConfigError(f'{path} holds no run; give the workdir of one')
  own = run.TuningRun(tuning, Path(path))
  names = [r.name for r in own.rows]
  if name is None and len(names) == 1:
    name = names[0]
  if name not in names:
    problem = 'is missing' if name is None else f'{name} is not in the run'
    raise ConfigError(f'--member {problem}; rows: {", ".join(names[:8])}')
  chosen, base = own.rows[names.index(name)], own.base()
  parts = loop.adapt(tuning, chosen, base)
  state = TuneStep(tuning.optim).init(parts.trained)
  with Checkpointer(Path(path) / 'checkpoints' / chosen.name) as saver:
    found = saver.restore(jax.tree.map(_abstract, state))
  if found is None:
    raise ConfigError(f'{path}: {chosen.name} has no checkpoint yet; train it first')
  return own, base, parts._replace(trained=found[1]['trained'])


def export(path: Path, to: str, out, name: str | None = None) -> Path:
  """Writes a row's adapters (`peft`) or its whole model (`hf`); returns the path."""
  own, base, parts = row(path, name)
  settings = own.tuning.lora
  trained = jax.device_get(parts.trained)
  if to == 'peft':
    return adapters.save(
      out,
      base.config,
      trained,
      settings,
      base=str(own.tuning.base.directory),
      base_digest=base.digest,
    )
  merged = lora.merged(base.config, base.params, trained, settings)
  pretrained.save(out, base.config, merged, dtype=own.tuning.base.dtype)
  for pattern in _TOKENIZER:
    for file in base.directory.glob(pattern):
      (Path(out) / file.name).write_bytes(file.read_bytes())
  return Path(out)


def _abstract(x):
  return jax.ShapeDtypeStruct(x.shape, x.dtype)
