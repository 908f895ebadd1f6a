"""Shardings of the weights and the batch of a large model, from paths and shapes.

The mesh has three axes. 'data': copies of the model. 'fsdp': parts of every weight,
gathered when they are used; the batch is split along it too. 'tensor': parts of a
layer's columns (q, k, v, gate, up) or rows (o, down), as in Megatron. Axes are of
type Auto: the compiler inserts the communication.
"""

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from onlyif_jax.config import ConfigError
from onlyif_jax.tuning_settings import DevicesConfig

AXES = ('data', 'fsdp', 'tensor')
_COLUMNS = ('q_proj', 'k_proj', 'v_proj', 'gate_proj', 'up_proj', 'lm_head')
_ROWS = ('o_proj', 'down_proj')


def make_mesh(devices: DevicesConfig, available=None) -> Mesh:
  """The mesh of a config; raises ConfigError if there are too few devices."""
  available = jax.devices() if available is None else available
  shape = (devices.data, devices.fsdp, devices.tensor)
  if min(shape) < 1:
    raise ConfigError('devices.data, fsdp and tensor must be at least 1')
  needed = devices.data * devices.fsdp * devices.tensor
  if needed > len(available):
    raise ConfigError(
      f'devices.data x fsdp x tensor = {needed} devices; there are {len(available)}. '
      'Lower one of them'
    )
  return jax.make_mesh(
    shape, AXES, axis_types=(AxisType.Auto,) * 3, devices=available[:needed]
  )


def batch(mesh: Mesh) -> NamedSharding:
  """The sharding of a batch: its rows are split along 'data' and 'fsdp'."""
  return NamedSharding(mesh, P(('data', 'fsdp')))


def weight(mesh: Mesh, path, shape) -> NamedSharding:
  """The sharding of an array of a model, of its quantised form or of its optimiser.

  path: as jax.tree_util gives it. A dimension that its axis does not divide is not
  split.
  """
  return NamedSharding(mesh, P(*spec(dict(mesh.shape), path, shape)))


def spec(sizes: dict[str, int], path, shape) -> tuple[str | None, ...]:
  """The axis that splits each dimension of an array; sizes: axis -> its size."""
  axes = _axes([str(getattr(k, 'key', getattr(k, 'name', k))) for k in path])
  axes = (*axes, *[None] * len(shape))[: len(shape)]
  return tuple(
    axis if axis and size % sizes[axis] == 0 else None
    for axis, size in zip(axes, shape, strict=True)
  )


def place(mesh: Mesh, tree):
  """The sharding of every leaf of a tree of arrays or ShapeDtypeStructs."""
  return jax.tree_util.tree_map_with_path(
    lambda path, x: weight(mesh, path, x.shape), tree
  )


def _axes(names: list[str]) -> tuple[str | None, ...]:
  """The axes of [in, out] (or [vocabulary, width]) from the names in a leaf's path."""
  if any(name.endswith('embedding') for name in names):
    return 'tensor', 'fsdp'
  columns = any(name in _COLUMNS for name in names)
  if not columns and not any(name in _ROWS for name in names):
    return ()  # norms
  if any(name == 'bias' for name in names):
    return ('tensor',) if columns else ()
  if any(name.endswith('lora_a') for name in names):
    return ('fsdp', None) if columns else ('tensor', None)
  if any(name.endswith('lora_b') for name in names):
    return (None, 'tensor') if columns else (None, 'fsdp')
  return ('fsdp', 'tensor') if columns else ('tensor', 'fsdp')
