"""Hugging Face directories of Llama, Mistral, Qwen2 and GPT-2, in and out.

Tensors are cast, and sharded where a rule is given, while they are read: each
process reads what its devices hold, one file after the other. What is missing,
unknown or misshapen is refused by name.
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
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import NamedSharding, PartitionSpec
from orbax.checkpoint import v1 as ocp

from onlyif_jax.config import ConfigError
from onlyif_jax.models import hf, llama, pretrained_config
from onlyif_jax.models.llama import DecoderConfig

Rule = Callable[[str], NamedSharding]

INDEX = 'model.safetensors.index.json'
WHOLE = 'model.safetensors'
# Our modules -> GPT-2's; N stands for a layer's number. Llama's are called alike.
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
_PARTS = ('q_proj', 'k_proj', 'v_proj')  # of GPT-2's c_attn, side by side
_BUFFERS = re.compile(r'.*rotary_emb\.inv_freq|.*h\.\d+\.attn\.(bias|masked_bias)')


class Source(NamedTuple):
  """Where one parameter is found: tensor, whether transposed, which third of it."""

  tensor: str
  transposed: bool
  part: int | None


def load(
  directory, *, dtype: Any = 'float32', sharding: Rule | None = None
) -> tuple[DecoderConfig, dict]:
  """(config, params) of a directory with config.json and safetensors.

  params is a pure tree: `llama.merge(llama.graphdef(config), params)` is the model.
  dtype: of the parameters, and the config's compute_dtype, which may be replaced.
  sharding: a parameter's path, such as 'layers.3.self_attn.q_proj.kernel', ->
  NamedSharding; without it the parameters are on the default device. Raises
  ConfigError, one line, for an attribute that is not supported, for missing,
  unused or misshapen tensors and for files that cannot be read.
  """
  path = Path(directory)
  config = pretrained_config.read(path)
  config = dataclasses.replace(config, compute_dtype=jnp.dtype(dtype).name)
  wanted = _flatten(llama.shapes(config))
  wanted = {
    k: jax.ShapeDtypeStruct(v.shape, jnp.dtype(dtype)) for k, v in wanted.items()
  }
  if sharding is not None:
    wanted = {k: _sharded(k, v, sharding(k), path) for k, v in wanted.items()}
  sources = {name: source(name, config) for name in wanted}
  files = [(file, _headers(file)) for file in _files(path)]
  found = [_known(headers, config) for _, headers in files]
  _check_names(found, sources, config, path)
  flat, heads = {}, []
  for (file, headers), names in zip(files, found, strict=True):
    takers: dict[str, list[str]] = {}
    for name, where in sources.items():
      if where.tensor in names:
        takers.setdefault(where.tensor, []).append(name)
        _check_shape(wanted[name], headers[names[where.tensor]], where, name, path)
    tied = config.tied_head and 'lm_head.weight' in names
    tensors = _read(file, headers, names, takers, wanted, sources, tied)
    for tensor, ours in takers.items():
      x = tensors.pop(names[tensor])
      for name in ours:
        flat[name] = _arranged(x, wanted[name], sources[name])
    heads += [tensors.pop('lm_head.weight')] if tied else []
  for head in heads:
    if not np.array_equal(np.asarray(head, dtype), flat['embed_tokens.embedding']):
      raise ConfigError(f'{path}: lm_head.weight differs from the tied embedding')
  return config, unflatten_dict({_path(name): flat[name] for name in wanted})


def save(
  directory,
  config: DecoderConfig,
  params,
  *,
  attributes: Mapping[str, Any] | None = None,
  dtype: Any = None,
  max_shard_bytes: int = 2 * 10**9,
):
  """Writes config.json and safetensors that `transformers` loads.

  The directory appears whole or not at all. attributes: more entries of
  config.json, such as the base's bos_token_id. dtype: None keeps each parameter's.
  Above max_shard_bytes there are several files and an index. Raises ConfigError
  for what the family cannot express, for params of another model and for a
  directory that is in use or cannot be written.
  """
  described = pretrained_config.attributes(config)
  flat = _flatten(params)
  shapes = {k: v.shape for k, v in _flatten(llama.shapes(config)).items()}
  if flat.keys() != shapes.keys():
    names = _some(flat.keys() ^ shapes.keys())
    raise ConfigError(f'params: not the parameters of this model: {names}')
  for name, shape in shapes.items():
    if flat[name].shape != shape:
      raise ConfigError(
        f'params: {name} has shape {flat[name].shape}, expected {shape}'
      )
  dtype_of = {k: jnp.dtype(dtype or v.dtype) for k, v in flat.items()}
  first = str(next(iter(dtype_of.values())))
  described |= {'torch_dtype': first, 'dtype': first} | dict(attributes or {})
  parts: dict[str, list[str]] = {}
  for name in sorted(flat, key=_path):
    parts.setdefault(source(name, config).tensor, []).append(name)
  sizes = {
    tensor: sum(flat[k].size * dtype_of[k].itemsize for k in names)
    for tensor, names in parts.items()
  }
  shards = _shards(sizes, max_shard_bytes)
  with hf.new_directory(Path(directory)) as folder:
    (folder / 'config.json').write_bytes(_json(described))
    for file, tensors in shards.items():
      content = {}
      for tensor in tensors:
        names = sorted(parts[tensor], key=lambda k: source(k, config).part or 0)
        arrays = [np.asarray(flat[k]).astype(dtype_of[k]) for k in names]
        x = arrays[0] if len(arrays) == 1 else np.concatenate(arrays, -1)
        x = x.T if source(names[0], config).transposed else x
        content[tensor] = np.ascontiguousarray(x)
      (folder / file).write_bytes(hf.safetensors_bytes(content))
    if len(shards) > 1:
      weight_map = {t: file for file, tensors in shards.items() for t in tensors}
      total = {'total_size': sum(sizes.values())}
      (folder / INDEX).write_bytes(_json({'metadata': total, 'weight_map': weight_map}))


def source(name: str, config: DecoderConfig) -> Source:
  """The Hugging Face tensor of one of our parameters."""
  module, leaf = name.rsplit('.', 1)
  suffix = '.bias' if leaf == 'bias' else '.weight'
  if config.family != 'gpt2':
    prefix = '' if module == 'lm_head' else 'model.'
    return Source(prefix + module + suffix, leaf == 'kernel', None)
  number = next((part for part in module.split('.') if part.isdigit()), '')
  theirs = _GPT2[re.sub(r'\b\d+\b', 'N', module)]
  last = module.rsplit('.', 1)[-1]
  part = _PARTS.index(last) if last in _PARTS else None
  return Source(re.sub(r'\bN\b', number, theirs) + suffix, module == 'lm_head', part)


def _files(path) -> list[Path]:
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
  with _reading(file):
    return ocp.metadata(file.absolute()).metadata


@contextlib.contextmanager
def _reading(file):
  context = ocp.Context()
  context.checkpoint_layout = 'safetensors'
  try:
    with context:
      yield
  except Exception as error:  # a damaged file raises whatever its bytes lead to
    reason = str(error).split('\n')[0]
    raise ConfigError(f'{file} cannot be read: {reason}') from None


def _known(headers, config) -> dict[str, str]:
  """Tensors under their full names -> their names in the file, without buffers."""
  names = {name: name for name in headers if not _BUFFERS.fullmatch(name)}
  if config.family != 'gpt2':
    return names
  head = ('transformer.', 'lm_head.')  # published GPT-2 leaves the first out
  return {k if k.startswith(head) else f'transformer.{k}': k for k in names}


def _check_names(found, sources, config, path):
  have = set().union(*found)
  if sum(map(len, found)) != len(have):
    raise ConfigError(f'{path}: a tensor is in two files')
  need = {where.tensor for where in sources.values()}
  if need - have:
    raise ConfigError(f'{path}: tensors are missing: {_some(need - have)}')
  unused = have - need - ({'lm_head.weight'} if config.tied_head else set())
  if unused:
    raise ConfigError(
      f'{path}: tensors that this {config.family} does not have: {_some(unused)}'
    )


def _check_shape(wanted, header, where, name, path):
  shape = wanted.shape
  if where.part is not None:
    shape = (*shape[:-1], 3 * shape[-1])
  shape = shape[::-1] if where.transposed else shape
  if tuple(header.shape) != shape:
    raise ConfigError(
      f'{path}: {where.tensor} has shape {tuple(header.shape)}, expected {shape} '
      f'for {name}'
    )


def _sharded(name, wanted, sharding, path):
  try:
    sharding.shard_shape(wanted.shape)
  except ValueError as error:
    raise ConfigError(f'{path}: {name} cannot be sharded: {error}') from None
  return jax.ShapeDtypeStruct(wanted.shape, wanted.dtype, sharding=sharding)


def _read(file, headers, names, takers, wanted, sources, tied):
  """Tensors of one file under its own names, sharded as their takers will be."""
  sharded = next(iter(wanted.values())).sharding is not None
  abstract = None
  if sharded:
    abstract = {}
    for tensor, ours in takers.items():
      target = wanted[ours[0]]
      spec = tuple(target.sharding.spec)
      spec += (None,) * (len(target.shape) - len(spec))
      where = sources[ours[0]]
      # Thirds of a sharded tensor would not lie where the parameters are.
      spec = () if where.part is not None else spec[:: -1 if where.transposed else 1]
      spec = NamedSharding(target.sharding.mesh, PartitionSpec(*spec))
      header = headers[names[tensor]]
      abstract[names[tensor]] = jax.ShapeDtypeStruct(
        header.shape, target.dtype, sharding=spec
      )
    if tied:
      header, target = headers['lm_head.weight'], wanted['embed_tokens.embedding']
      abstract['lm_head.weight'] = jax.ShapeDtypeStruct(
        header.shape, target.dtype, sharding=target.sharding
      )
  with _reading(file):
    return ocp.load(file.absolute(), abstract)


def _arranged(x, wanted, where):
  """A tensor -> the parameter: its third, transposed, in its dtype and place."""
  if wanted.sharding is None:
    return _arrange(jnp.asarray(x), where.transposed, where.part, wanted.dtype)
  place = functools.partial(jax.jit, static_argnums=(1, 2, 3))(
    _arrange, out_shardings=wanted.sharding
  )
  return place(x, where.transposed, where.part, wanted.dtype)


def _arrange(x, transposed, part, dtype):
  x = x if part is None else jnp.split(x, 3, axis=-1)[part]
  return (x.T if transposed else x).astype(dtype)


def _shards(sizes, limit) -> dict[str, list[str]]:
  """File names -> tensors, in order, each file at most `limit` bytes or one tensor."""
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


def _json(value) -> bytes:
  return (json.dumps(value, indent=2, ensure_ascii=False) + '\n').encode()


def _flatten(tree) -> dict[str, Any]:
  return {'.'.join(map(str, k)): v for k, v in flatten_dict(tree).items()}


def _path(name):
  return tuple(int(part) if part.isdigit() else part for part in name.split('.'))


def _some(names) -> str:
  names = sorted(names)
  more = f' and {len(names) - 3} more' if len(names) > 3 else ''
  return ', '.join(names[:3]) + more
