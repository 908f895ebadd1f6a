"""Fine-tuned models of a workdir: back into memory, and out for others."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import jax

from onlyif_jax.checkpoint import Checkpointer
from onlyif_jax.config import ConfigError
from onlyif_jax.finetune import loop, run
from onlyif_jax.finetune.base import Base
from onlyif_jax.finetune.rows import TuningRow
from onlyif_jax.models import adapters, hf, lora, pretrained
from onlyif_jax.models.lora import Parts
from onlyif_jax.training.tuning import TuneStep
from onlyif_jax.tuning_settings import DevicesConfig

# What a directory holds beside config and weights: how texts become ids, and answers
# are ended.
_BESIDE = (
  *('tokenizer*', 'special_tokens_map.json', 'added_tokens.json', 'chat_template*'),
  *('vocab.*', 'merges.txt', '*.model', 'generation_config.json'),
)
# The tokenizer's, in config.json.
_IDS = ('bos_token_id', 'eos_token_id', 'pad_token_id')


def is_tuning(path: Path) -> bool:
  """Whether a workdir is one of fine-tuning."""
  file = Path(path) / 'config.json'
  return file.exists() and '"tune"' in file.read_text()


def row(path: Path, name: str | None = None) -> tuple[run.TuningRun, Base, Parts]:
  """(the run, its base, the fine-tuned model) of a row, on one device; ConfigError."""
  own, chosen = _open(Path(path), name)
  base = own.base()
  shapes, trained = _trained(own, chosen, base)
  # Where everything was trained there is nothing to read of the base.
  parts = loop.adapt(own.tuning, chosen, base) if own.tuning.lora.rank else shapes
  return own, base, parts._replace(trained=trained)


def export(path: Path, to: str, out, name: str | None = None) -> Path:
  """Writes a row's adapters (`peft`) or its whole model (`hf`); returns the path."""
  own, chosen = _open(Path(path), name)
  base, settings = own.base(), own.tuning.lora
  trained = jax.device_get(_trained(own, chosen, base)[1])
  if to == 'peft':
    return adapters.save(
      out,
      base.config,
      trained,
      settings,
      base=str(base.directory),
      base_digest=base.digest,
    )
  params = base.params() if settings.rank else None
  merged = lora.merged(base.config, params, trained, settings)
  described = json.loads((base.directory / 'config.json').read_text())
  ids = {name: described[name] for name in _IDS if name in described}
  with hf.new_directory(Path(out)) as folder:
    dtype = own.tuning.base.dtype
    pretrained.save(folder, base.config, merged, attributes=ids, dtype=dtype)
    for file in {file for pattern in _BESIDE for file in base.directory.glob(pattern)}:
      if file.is_file():
        shutil.copyfile(file, folder / file.name)
  return Path(out)


def _open(path: Path, name: str | None) -> tuple[run.TuningRun, TuningRow]:
  """(the run of a workdir, one of its rows by name); ConfigError."""
  tuning = run.stored_config(path)
  if tuning is None:
    raise ConfigError(f'{path} holds no run; give the workdir of one')
  # The mesh that it was trained on need not be here.
  own = run.TuningRun(dataclasses.replace(tuning, devices=DevicesConfig()), path)
  names = [r.name for r in own.rows]
  if name is None and len(names) == 1:
    name = names[0]
  if name not in names:
    problem = 'is missing' if name is None else f'{name} is not in the run'
    raise ConfigError(f'--member {problem}; rows: {", ".join(names[:8])}')
  return own, own.rows[names.index(name)]


def _trained(own: run.TuningRun, chosen: TuningRow, base: Base) -> tuple[Parts, Any]:
  """(a row's model as shapes, its weights that were trained); ConfigError."""
  t = own.tuning
  shapes = lora.shapes(base.config, t.lora, t.base.quantize, t.base.dtype)
  state = jax.eval_shape(TuneStep(t.optim).init, shapes.trained)
  with Checkpointer(own.workdir.file(f'checkpoints/{chosen.name}')) as saver:
    found = saver.restore(state)
  if found is None:
    raise ConfigError(
      f'{own.workdir.path}: {chosen.name} has no checkpoint yet; train it first'
    )
  return shapes, found[1]['trained']
