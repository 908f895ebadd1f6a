"""Load and save Hugging Face directories of Llama, Mistral, Qwen2 and GPT-2.

Tensors are cast, and sharded if a rule is given, while they are read: each process
reads what its devices hold, file by file. What is missing, unknown or misshapen is
refused by name.
"""

import contextlib
import dataclasses
import functools
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict
from jax.sharding import NamedSharding, PartitionSpec
from orbax.checkpoint import v1 as ocp

from onlyif_jax.config import ConfigError
from onlyif_jax.models import hf, llama, pretrained_config
from onlyif_jax.models.llama import DecoderConfig

Rule = Callable[[str], NamedSharding]

INDEX = 'model.safetensors.index.json'
WHOLE = 'model.safetensors'
# Our modules -> GPT-2's; N stands for the number of a layer. Llama's names are ours.
_GPT2 = {
  'embed_tokens': 'transformer.wte',
  'embed_positions': 'transformer.wpe',
  'norm': 'transformer.ln_f',
  'lm_head': 'lm_head',
  'layers.N.input_layernorm': 'transformer.h.N.ln_1',
  'layers.N.post_attention_layernorm': 'transformer.h.N.ln_2',
  'layers.N.self_attn.q_proj': 'transformer.h.N.attn.c_attn',
  'layers.N.self_attn.k_proj': 'transformer.h.N.attn.c_attn',
  'layers.N.self_attn.v_proj': 'transformer.h.N.attn.c_attn',
  'layers.N.self_attn.o_proj': 'transformer.h.N.attn.c_proj',
  'layers.N.mlp.up_proj': 'transformer.h.N.mlp.c_fc',
  'layers.N.mlp.down_proj': 'transformer.h.N.mlp.c_proj',
}
_PARTS = ('q_proj', 'k_proj', 'v_proj')  # of GPT-2's c_attn, concatenated
_BUFFERS = re.compile(r'.*rotary_emb\.inv_freq|.*h\.\d+\.attn\.(bias|masked_bias)')


class Source(NamedTuple):
  """The Hugging Face tensor that holds a parameter."""

  tensor: str
  transposed: bool
  part: int | None  # which third of the tensor's last axis; None: all of it


def load(
  directory, *, dtype: Any = 'float32', sharding: Rule | None = None
) -> tuple[DecoderConfig, dict]:
  """(config, params) of a directory with config.json and safetensors.

  params is a pure tree: `llama.merge(llama.graphdef(config), params)` is the model.
  dtype: of the parameters, and the config's compute_dtype, which may be replaced.
  sharding: name of a parameter, such as 'layers.3.self_attn.q_proj.kernel', ->
  NamedSharding; by default the parameters are on the default device. Raises
  ConfigError, one line, for an attribute that is not supported, for missing, unused
  or misshapen tensors, and for files that cannot be read.
  """
  path = Path(directory)
  config = pretrained_config.read(path)
  config = dataclasses.replace(config, compute_dtype=jnp.dtype(dtype).name)
  targets = {  # name of a parameter -> its shape, dtype and sharding
    k: jax.ShapeDtypeStruct(v.shape, jnp.dtype(dtype))
    for k, v in hf.flatten(llama.shapes(config)).items()
  }
  if sharding is not None:
    targets = {k: _sharded(k, v, sharding(k), path) for k, v in targets.items()}
  sources = {name: source(name, config) for name in targets}
  files = [(file, _headers(file)) for file in _files(path)]
  tensor_names = [_full_names(headers, config) for _, headers in files]
  _check_names(tensor_names, sources, config, path)
  flat, heads = {}, []
  for (file, headers), names in zip(files, tensor_names, strict=True):
    users: dict[str, list[str]] = {}  # tensor of this file -> parameters made of it
    for name, origin in sources.items():
      if origin.tensor in names:
        users.setdefault(origin.tensor, []).append(name)
        _check_shape(targets[name], headers[names[origin.tensor]], origin, name, path)
    tied = config.tied_head and 'lm_head.weight' in names
    tensors = _read(file, headers, names, users, targets, sources, tied)
    for tensor, parameters in users.items():
      x = tensors.pop(names[tensor])
      for name in parameters:
        flat[name] = _to_parameter(x, targets[name], sources[name])
    if tied:
      heads.append(tensors.pop('lm_head.weight'))
  for head in heads:
    if not np.array_equal(np.asarray(head, dtype), flat['embed_tokens.embedding']):
      raise ConfigError(f'{path}: lm_head.weight differs from the tied embedding')
  return config, unflatten_dict({hf.tree_path(name): flat[name] for name in targets})


def save(
  directory,
  config: DecoderConfig,
  params,
  *,
  attributes: Mapping[str, Any] | None = None,
  dtype: Any = None,
  max_shard_bytes: int = 2 * 10**9,
):
  """Write config.json and safetensors that `transformers` loads, atomically.

  attributes: more entries of config.json, such as the base's bos_token_id. dtype:
  None keeps each parameter's. max_shard_bytes: above it there are several files and
  an index. Raises ConfigError for what the family cannot express, for params of
  another model and for a directory that is in use or cannot be written.
  """
  config_json = pretrained_config.attributes(config)
  flat = hf.flatten(params)
  shapes = {k: v.shape for k, v in hf.flatten(llama.shapes(config)).items()}
  if flat.keys() != shapes.keys():
    names = hf.some_of(flat.keys() ^ shapes.keys())
    raise ConfigError(f'params: not the parameters of this model: {names}')
  for name, shape in shapes.items():
    if flat[name].shape != shape:
      raise ConfigError(
        f'params: {name} has shape {flat[name].shape}, expected {shape}'
      )
  dtype_of = {k: jnp.dtype(dtype or v.dtype) for k, v in flat.items()}
  first_dtype = str(next(iter(dtype_of.values())))
  config_json |= {'torch_dtype': first_dtype, 'dtype': first_dtype}
  config_json |= dict(attributes or {})
  members: dict[str, list[str]] = {}  # tensor -> the parameters that it holds
  for name in sorted(flat, key=hf.tree_path):
    members.setdefault(source(name, config).tensor, []).append(name)
  sizes = {
    tensor: sum(flat[k].size * dtype_of[k].itemsize for k in names)
    for tensor, names in members.items()
  }
  shards = _shards(sizes, max_shard_bytes)
  with hf.new_directory(Path(directory)) as folder:
    (folder / 'config.json').write_bytes(hf.json_bytes(config_json))
    for file, tensors in shards.items():
      content = {}
      for tensor in tensors:
        names = sorted(members[tensor], key=lambda k: source(k, config).part or 0)
        arrays = [np.asarray(flat[k]).astype(dtype_of[k]) for k in names]
        x = arrays[0] if len(arrays) == 1 else np.concatenate(arrays, -1)
        x = x.T if source(names[0], config).transposed else x
        content[tensor] = np.ascontiguousarray(x)
      (folder / file).write_bytes(hf.safetensors_bytes(content))
    if len(shards) > 1:
      weight_map = {t: file for file, tensors in shards.items() for t in tensors}
      metadata = {'total_size': sum(sizes.values())}
      index = hf.json_bytes({'metadata': metadata, 'weight_map': weight_map})
      (folder / INDEX).write_bytes(index)


def source(name: str, config: DecoderConfig) -> Source:
  """Where a Hugging Face model of the config's family has one of our parameters."""
  module, leaf = name.rsplit('.', 1)
  suffix = '.bias' if leaf == 'bias' else '.weight'
  if config.family != 'gpt2':
    prefix = '' if module == 'lm_head' else 'model.'
    return Source(prefix + module + suffix, leaf == 'kernel', None)
  number = next((part for part in module.split('.') if part.isdigit()), '')
  generic = _GPT2[re.sub(r'\b\d+\b', 'N', module)]
  tensor = re.sub(r'\bN\b', number, generic) + suffix
  layer = module.rsplit('.', 1)[-1]
  part = _PARTS.index(layer) if layer in _PARTS else None
  return Source(tensor, module == 'lm_head', part)


def _files(path: Path) -> list[Path]:
  """The safetensors files of a directory, in the order of the index."""
  if (path / WHOLE).exists():
    return [path / WHOLE]
  index = path / INDEX
  if not index.exists():
    raise ConfigError(
      f'{path} has neither {WHOLE} nor {INDEX}; write them with transformers '
      '(model.save_pretrained)'
    )
  try:
    names = sorted(set(json.loads(index.read_text())['weight_map'].values()))
  except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
    raise ConfigError(f'{index} cannot be read: {error!r}') from None
  for name in names:
    if not (path / name).exists():
      raise ConfigError(f'{path}: {name}, which {INDEX} lists, is missing')
  return [path / name for name in names]


def _headers(file) -> dict[str, jax.ShapeDtypeStruct]:
  """The shapes and dtypes of a file's tensors."""
  with _reading(file):
    return ocp.metadata(file.absolute()).metadata


@contextlib.contextmanager
def _reading(file: Path):
  """Set Orbax up for safetensors, and turn any error into a ConfigError."""
  context = ocp.Context()
  context.checkpoint_layout = 'safetensors'
  try:
    with context:
      yield
  except Exception as error:  # a damaged file raises whatever its bytes lead to
    reason = str(error).split('\n')[0]
    raise ConfigError(f'{file} cannot be read: {reason}') from None


def _full_names(headers, config) -> dict[str, str]:
  """Full names of a file's tensors -> names in the file; buffers are left out."""
  names = {name: name for name in headers if not _BUFFERS.fullmatch(name)}
  if config.family != 'gpt2':
    return names
  prefixes = ('transformer.', 'lm_head.')  # the published GPT-2 omits the first
  return {k if k.startswith(prefixes) else f'transformer.{k}': k for k in names}


def _check_names(tensor_names, sources, config, path):
  """Raise ConfigError unless each tensor exists once and is used."""
  present = set().union(*tensor_names)
  if sum(map(len, tensor_names)) != len(present):
    raise ConfigError(f'{path}: a tensor is in two files')
  needed = {origin.tensor for origin in sources.values()}
  if needed - present:
    raise ConfigError(f'{path}: tensors are missing: {hf.some_of(needed - present)}')
  unused = present - needed - ({'lm_head.weight'} if config.tied_head else set())
  if unused:
    raise ConfigError(
      f'{path}: tensors that this {config.family} does not have: {hf.some_of(unused)}'
    )


def _check_shape(target, header, origin: Source, name, path):
  """Raise ConfigError unless a tensor has the shape that a parameter needs."""
  shape = target.shape
  if origin.part is not None:
    shape = (*shape[:-1], 3 * shape[-1])
  shape = shape[::-1] if origin.transposed else shape
  if tuple(header.shape) != shape:
    raise ConfigError(
      f'{path}: {origin.tensor} has shape {tuple(header.shape)}, expected {shape} '
      f'for {name}'
    )


def _sharded(name, target, sharding, path) -> jax.ShapeDtypeStruct:
  """The target with a sharding; raises ConfigError if that does not fit."""
  try:
    sharding.shard_shape(target.shape)
  except ValueError as error:
    raise ConfigError(f'{path}: {name} cannot be sharded: {error}') from None
  return jax.ShapeDtypeStruct(target.shape, target.dtype, sharding=sharding)


def _read(file, headers, names, users, targets, sources, tied):
  """The tensors of a file by their names in it, sharded like the parameters."""
  abstract = None
  if next(iter(targets.values())).sharding is not None:
    abstract = {}
    for tensor, parameters in users.items():
      target, origin = targets[parameters[0]], sources[parameters[0]]
      axes = tuple(target.sharding.spec)
      axes += (None,) * (len(target.shape) - len(axes))
      if origin.part is not None:
        axes = ()  # shards of a third would be on other devices than the parameter's
      elif origin.transposed:
        axes = axes[::-1]
      sharding = NamedSharding(target.sharding.mesh, PartitionSpec(*axes))
      header = headers[names[tensor]]
      abstract[names[tensor]] = jax.ShapeDtypeStruct(
        header.shape, target.dtype, sharding=sharding
      )
    if tied:
      header, target = headers['lm_head.weight'], targets['embed_tokens.embedding']
      abstract['lm_head.weight'] = jax.ShapeDtypeStruct(
        header.shape, target.dtype, sharding=target.sharding
      )
  with _reading(file):
    return ocp.load(file.absolute(), abstract)


def _to_parameter(x, target, origin: Source):
  """The parameter from its tensor, with the target's dtype and sharding."""
  if target.sharding is None:
    return _arrange(jnp.asarray(x), origin.transposed, origin.part, target.dtype)
  arrange = functools.partial(jax.jit, static_argnums=(1, 2, 3))(
    _arrange, out_shardings=target.sharding
  )
  return arrange(x, origin.transposed, origin.part, target.dtype)


def _arrange(x, transposed, part, dtype):
  x = x if part is None else jnp.split(x, 3, axis=-1)[part]
  return (x.T if transposed else x).astype(dtype)


def _shards(sizes, limit) -> dict[str, list[str]]:
  """File name -> tensors; a file has at most `limit` bytes, or a single tensor."""
  groups: list[list[str]] = [[]]
  used = 0
  for tensor, size in sizes.items():
    if groups[-1] and used + size > limit:
      groups.append([])
      used = 0
    groups[-1].append(tensor)
    used += size
  if len(groups) == 1:
    return {WHOLE: groups[0]}
  n = len(groups)
  return {f'model-{i + 1:05}-of-{n:05}.safetensors': g for i, g in enumerate(groups)}
