"""Save and load LoRA adapters as PEFT directories.

A directory has adapter_config.json and adapter_model.safetensors, which `peft` loads,
and base.json with the hash of the base: an adapter of another base is refused.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from onlyif_jax.config import ConfigError
from onlyif_jax.models import hf, lora
from onlyif_jax.models.llama import DecoderConfig
from onlyif_jax.tuning_settings import LINEAR, LoraConfig

CONFIG, WEIGHTS, BASE = 'adapter_config.json', 'adapter_model.safetensors', 'base.json'
_PREFIX = 'base_model.model.model.'
_SIDES = {lora.A: 'lora_A', lora.B: 'lora_B'}


def save(
  directory,
  config: DecoderConfig,
  trained: Any,
  settings: LoraConfig,
  *,
  base: str = '',
  base_digest: str = '',
) -> Path:
  """Write adapters as a PEFT directory, atomically; returns its path.

  trained: the tree of adapters. base: the base's directory or name, for `peft`.
  base_digest: compared by `load`. Raises ConfigError for a model without adapters, for
  a GPT-2 (PEFT treats its q, k and v as one module) and for a failed write.
  """
  if not settings.rank:
    raise ConfigError('lora.rank=0 has no adapters; export the model with --to=hf')
  if config.family == 'gpt2':
    raise ConfigError(
      'PEFT knows no q_proj, k_proj and v_proj of a GPT-2; export the merged model '
      'with --to=hf'
    )
  tensors = {}
  for path, a, b in lora.pairs(trained):
    name = _PREFIX + '.'.join(map(str, path))
    # PyTorch's linear layers store [out, in].
    tensors[f'{name}.lora_A.weight'] = np.ascontiguousarray(np.asarray(a).T)
    tensors[f'{name}.lora_B.weight'] = np.ascontiguousarray(np.asarray(b).T)
  peft_config = {
    'peft_type': 'LORA',
    'task_type': 'CAUSAL_LM',
    'base_model_name_or_path': base,
    'r': settings.rank,
    'lora_alpha': settings.alpha,
    'lora_dropout': settings.dropout,
    'target_modules': sorted(settings.targets),
    'bias': 'none',
    'fan_in_fan_out': False,
    'inference_mode': True,
  }
  with hf.new_directory(Path(directory)) as folder:
    (folder / CONFIG).write_text(json.dumps(peft_config, indent=1) + '\n')
    (folder / WEIGHTS).write_bytes(hf.safetensors_bytes(tensors))
    (folder / BASE).write_text(json.dumps({'digest': base_digest}) + '\n')
  return Path(directory)


def load(
  directory, config: DecoderConfig, base_digest: str = ''
) -> tuple[LoraConfig, dict]:
  """(settings, adapters) of a PEFT directory for a base of this config.

  base_digest: of the base; compared if the directory has one. Raises ConfigError for
  missing or damaged files, for methods other than plain LoRA, and for an adapter of
  another base.
  """
  folder = Path(directory)
  peft_config = _read_json(folder / CONFIG)
  settings = _settings(peft_config, folder)
  stored = _read_json(folder / BASE).get('digest') if (folder / BASE).exists() else ''
  if stored and base_digest and stored != base_digest:
    base = peft_config.get('base_model_name_or_path')
    raise ConfigError(
      f'{folder} is an adapter for another base ({base}, digest {stored[:12]}, here '
      f'{base_digest[:12]}); load it on its own base'
    )
  tensors = _read_tensors(folder / WEIGHTS)
  shapes = lora.shapes(config, settings, 'none', 'float32').trained
  adapters = jax.tree_util.tree_map_with_path(
    lambda path, leaf: _pop_tensor(tensors, path, leaf.shape, folder), shapes
  )
  if tensors:
    raise ConfigError(f'{folder}: unused tensors: {", ".join(sorted(tensors)[:3])}')
  return settings, adapters


def attach(
  config: DecoderConfig,
  params: Any,
  directory,
  quantize: str = 'none',
  digest: str = '',
) -> lora.Parts:
  """A loaded base with the adapters of a directory, without dropout.

  directory: None for adapters that add nothing, for a base that is only quantised.
  Raises ConfigError.
  """
  key = jax.random.key(0)
  if directory is None:
    return lora.adapt(config, params, LoraConfig(rank=1), quantize, key)
  settings, trained = load(directory, config, digest)
  # The fresh adapters made from the key are replaced.
  parts = lora.adapt(config, params, settings, quantize, key)
  return parts._replace(trained=jax.tree.map(jax.numpy.asarray, trained))


def merge(config: DecoderConfig, params: Any, directory, digest: str = '') -> dict:
  """The base's weights plus the adapters of a directory; raises ConfigError."""
  settings, trained = load(directory, config, digest)
  return lora.merged(config, params, trained, settings)


def _settings(peft_config: Mapping[str, Any], folder: Path) -> LoraConfig:
  """The settings of a PEFT config; raises ConfigError unless it is plain LoRA."""
  plain_lora = {
    'peft_type': 'LORA',
    'bias': 'none',
    'fan_in_fan_out': False,
    'use_rslora': False,
    'use_dora': False,
    'rank_pattern': {},
    'alpha_pattern': {},
    'modules_to_save': None,
    'layers_to_transform': None,
  }
  for name, expected in plain_lora.items():
    value = peft_config.get(name, expected)
    if value != expected and (value or expected):  # None, {} and False are the same
      raise ConfigError(f'{folder}: {name}={value!r} of an adapter is not supported')
  targets = peft_config.get('target_modules')
  if not isinstance(targets, list) or not set(targets) <= set(LINEAR):
    raise ConfigError(
      f'{folder}: target_modules={targets!r} must be some of {", ".join(LINEAR)}'
    )
  try:
    return LoraConfig(
      rank=int(peft_config['r']),
      alpha=float(peft_config['lora_alpha']),
      targets=tuple(name for name in LINEAR if name in targets),
    )
  except (KeyError, TypeError, ValueError) as e:
    raise ConfigError(f'{folder / CONFIG} lacks a number: {e}') from None


def _pop_tensor(
  tensors: dict[str, np.ndarray], path, shape, folder: Path
) -> np.ndarray:
  """Remove and return the float32 adapter at a path of the tree, as [in, out]."""
  *module, side = (k.key for k in path)
  name = f'{_PREFIX}{".".join(map(str, module))}.{_SIDES[side]}.weight'
  if name not in tensors:
    raise ConfigError(f'{folder}: the tensor {name} is missing')
  tensor = tensors.pop(name).T
  if tensor.shape != shape:
    raise ConfigError(
      f'{folder} is an adapter for another base: {name} is for {tensor.shape}, this '
      f'model has {shape}'
    )
  return np.asarray(tensor, np.float32)


def _read_json(path: Path) -> dict[str, Any]:
  try:
    return json.loads(path.read_text())
  except (OSError, ValueError) as e:
    reason = getattr(e, 'strerror', None) or e
    raise ConfigError(
      f'{path} cannot be read ({reason}); give a PEFT directory'
    ) from None


def _read_tensors(path: Path) -> dict[str, np.ndarray]:
  try:
    from safetensors.numpy import load_file
  except ImportError:
    raise ConfigError(
      "adapters need safetensors: pip install 'onlyif_jax[llm]'"
    ) from None
  try:
    return load_file(path)
  except Exception as e:  # safetensors has its own error class for damaged files
    raise ConfigError(f'{path} cannot be read ({e}); give a PEFT directory') from None
