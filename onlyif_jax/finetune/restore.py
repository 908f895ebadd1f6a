"""Reads the fine-tuned models of a workdir, and exports them."""

import dataclasses
import itertools
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

# The files beside config and weights: how texts become ids, and how answers end.
_TOKENIZER_FILES = (
  *('tokenizer*', 'special_tokens_map.json', 'added_tokens.json', 'chat_template*'),
  *('vocab.*', 'merges.txt', '*.model', 'generation_config.json'),
)
# The fields of config.json that belong to the tokenizer.
_TOKEN_IDS = ('bos_token_id', 'eos_token_id', 'pad_token_id')


def is_tuning(path: Path) -> bool:
  """Whether a directory is the workdir of a fine-tuning run."""
  file = Path(path) / 'config.json'
  return file.exists() and '"tune"' in file.read_text()


def row(path: Path, name: str | None = None) -> tuple[run.TuningRun, Base, Parts]:
  """(run, base, fine-tuned model) of a row, on one device; raises ConfigError."""
  tuning_run, chosen = _open(Path(path), name)
  base = tuning_run.base()
  shapes, trained = _trained(tuning_run, chosen, base)
  parts = shapes  # if everything was trained, the base's weights are not needed
  if tuning_run.tuning.lora.rank:
    parts = loop.adapt(tuning_run.tuning, chosen, base)
  return tuning_run, base, parts._replace(trained=trained)


def export(path: Path, to: str, out, name: str | None = None) -> Path:
  """Writes a row's adapters (to='peft') or its whole model ('hf'); returns the path."""
  tuning_run, chosen = _open(Path(path), name)
  base, settings = tuning_run.base(), tuning_run.tuning.lora
  trained = jax.device_get(_trained(tuning_run, chosen, base)[1])
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
  attributes = json.loads((base.directory / 'config.json').read_text())
  token_ids = {name: attributes[name] for name in _TOKEN_IDS if name in attributes}
  with hf.new_directory(Path(out)) as folder:
    dtype = tuning_run.tuning.base.dtype
    pretrained.save(folder, base.config, merged, attributes=token_ids, dtype=dtype)
    files = (base.directory.glob(pattern) for pattern in _TOKENIZER_FILES)
    for file in set(itertools.chain.from_iterable(files)):
      if file.is_file():
        shutil.copyfile(file, folder / file.name)
  return Path(out)


def _open(path: Path, name: str | None) -> tuple[run.TuningRun, TuningRow]:
  """(the run of a workdir, one of its rows by name); raises ConfigError."""
  tuning = run.stored_config(path)
  if tuning is None:
    raise ConfigError(f'{path} holds no run; give the workdir of one')
  # This machine need not have the mesh of the training.
  tuning = dataclasses.replace(tuning, devices=DevicesConfig())
  tuning_run = run.TuningRun(tuning, path)
  names = [r.name for r in tuning_run.rows]
  if name is None and len(names) == 1:
    name = names[0]
  if name not in names:
    problem = 'is missing' if name is None else f'{name} is not in the run'
    raise ConfigError(f'--member {problem}; rows: {", ".join(names[:8])}')
  return tuning_run, tuning_run.rows[names.index(name)]


def _trained(
  tuning_run: run.TuningRun, chosen: TuningRow, base: Base
) -> tuple[Parts, Any]:
  """(the shapes of a row's model, its trained weights); raises ConfigError."""
  t = tuning_run.tuning
  shapes = lora.shapes(base.config, t.lora, t.base.quantize, t.base.dtype)
  state = jax.eval_shape(TuneStep(t.optim).init, shapes.trained)
  workdir = tuning_run.workdir
  with Checkpointer(workdir.file(f'checkpoints/{chosen.name}')) as saver:
    restored = saver.restore(state)
  if restored is None:
    raise ConfigError(
      f'{workdir.path}: {chosen.name} has no checkpoint yet; train it first'
    )
  return shapes, restored[1]['trained']
