"""Predicts what a fine-tuning run needs before anything is loaded: `--dry_run`.

Memory per device is estimated from shapes alone: weights as they are stored, the
trained ones with gradient and two moments in float32, what the backward pass keeps,
and the largest temporary arrays. tests/test_finetune.py compares it with the
compiler's own account.
"""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from onlyif_jax.analysis import table
from onlyif_jax.finetune import rows as rows_lib
from onlyif_jax.finetune.base import scratch_config
from onlyif_jax.finetune.tuning_config import Tuning
from onlyif_jax.models import llama, lora, pretrained_config, published
from onlyif_jax.models.llama import DecoderConfig
from onlyif_jax.training import placement
from onlyif_jax.tuning_settings import DevicesConfig, MixtureTuning, SymbolicTuning

GIB = 2**30
_FLOAT = 4  # bytes of float32
# Peak rates of bf16 matmuls in TFLOP/s, and the share of it that such a run reaches;
# both only for the predicted time.
DEVICES = {
  'A40': 150.0,
  'A100': 312.0,
  'H100': 989.0,
  'TPU v4': 275.0,
  'TPU v5e': 197.0,
}
REACHED = 0.3


@dataclasses.dataclass(frozen=True)
class Memory:
  """Bytes on one device, by purpose."""

  frozen: int
  trained: int  # with gradient and moments
  kept: int  # by the forward for the backward pass
  passing: int  # the largest temporary arrays

  @property
  def total(self) -> int:
    """All of them at once."""
    return self.frozen + self.trained + self.kept + self.passing


def memory(tuning: Tuning, config: DecoderConfig) -> Memory:
  """The estimate for one device of the run's mesh."""
  d, t = tuning.devices, tuning.tune
  frozen, trained = _stored(tuning, config, lambda tree: _bytes(tree, d))
  rows = t.batch_size // (d.data * d.fsdp * t.micro_batches)
  places = rows * t.length
  item = jnp.dtype(config.compute_dtype).itemsize
  heads, kv = config.heads / d.tensor, config.kv_heads / d.tensor
  hidden = config.hidden / d.tensor
  # Inside one layer: two norms (three arrays each in float32), the output and the
  # sum; queries and keys before and after their rotation, values, what attention
  # gives; seven arrays of the MLP; the softmax of the scores.
  wide = 8 * config.width + 3 * (heads + kv) * config.head_width + 7 * hidden
  inside = places * item * wide
  scores = rows * heads * t.length**2 * _FLOAT
  edge = places * item * config.width
  logits = places * config.vocab_size / d.tensor * _FLOAT
  if tuning.base.remat:
    kept, again = config.layers * edge, inside + scores
  else:
    kept, again = config.layers * (inside + scores), 0.0
  largest = max(config.hidden, config.heads * config.head_width) * config.width
  weight = largest / d.tensor * item if tuning.base.quantize != 'none' else 0.0
  passing = max(2 * logits, again + inside + scores + weight)
  moments = 4 if tuning.optim.name == 'adamw' else 3
  if t.micro_batches > 1:  # a part's gradient grows beside their sum as `kept` shrinks
    passing = max(passing, trained - kept)
  return Memory(frozen, moments * trained, round(kept), round(passing))


def _stored(tuning: Tuning, config: DecoderConfig, measure) -> tuple[int, int]:
  """A measure of the frozen and of the trained weights.

  Layers are alike, so models of one and two layers tell of all; tracing a large model
  takes minutes.
  """
  measures = []
  for layers in (1, 2):
    small = dataclasses.replace(config, layers=layers)
    parts = _shapes(small, tuning.lora, tuning.base.quantize, tuning.base.dtype)
    measures.append([measure(tree) for tree in (parts.frozen, parts.trained)])
  more = config.layers - 1
  return tuple(one + more * (two - one) for one, two in zip(*measures, strict=True))


_shapes = functools.lru_cache(maxsize=4)(lora.shapes)


def _bytes(tree: Any, devices: DevicesConfig) -> int:
  """Bytes of a tree on one device of a mesh of this shape; nothing is allocated."""
  shape = (devices.data, devices.fsdp, devices.tensor)
  mesh = jax.sharding.AbstractMesh(shape, placement.AXES)

  def size_of(path, leaf) -> int:
    spec = placement.spec(dict(mesh.shape), path, leaf.shape)
    parts = [mesh.shape[name] for name in spec if name]
    size = leaf.size * jnp.dtype(leaf.dtype).itemsize
    if str(leaf.dtype) in ('int4', 'uint4'):
      size = leaf.size / 2
    return round(size / int(np.prod(parts)))

  return sum(
    size_of(path, leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  )


def decoder(tuning: Tuning) -> DecoderConfig:
  """The run's decoder, from the directory's config.json alone.

  The papers' models need not be there: their config.json is known.
  """
  if _as_published(tuning):
    name = Path(tuning.base.directory).name
    config = pretrained_config.parse(published.CONFIGS[name], name)
  elif tuning.base.directory:
    config = pretrained_config.read(Path(tuning.base.directory))
  else:
    config = scratch_config(tuning, tuning.scratch.vocabulary)
  return dataclasses.replace(
    config, compute_dtype=tuning.base.compute_dtype, remat=tuning.base.remat
  )


def _as_published(tuning: Tuning) -> bool:
  """Whether the base is a model of the papers that is not on this disk."""
  directory = Path(tuning.base.directory)
  return directory.name in published.CONFIGS and not directory.exists()


def flops(tuning: Tuning, config: DecoderConfig, tokens: int) -> float:
  """Floating-point operations of training on a number of tokens.

  The forward pass takes 2 per weight and token and the gradient of the activations as
  many; so do recomputed layers, and the gradient of the weights if all are trained.
  """
  passes = 2 + tuning.base.remat + (0 if tuning.lora.rank else 1)
  return 2.0 * llama.weight_count(config) * tokens * passes


def show(tuning: Tuning, console: Console | None = None) -> Memory:
  """Prints rows, memory per device and time; loads and leaves nothing."""
  config = decoder(tuning)
  needed, rows = memory(tuning, config), rows_lib.rows(tuning)
  sizes = _stored(tuning, config, lambda t: sum(x.size for x in jax.tree.leaves(t)))
  trained = sizes[1]
  shape = f'{tuning.devices.data} x {tuning.devices.fsdp} x {tuning.devices.tensor}'
  lines = [
    ('rows', f'{len(rows)}: {", ".join(r.name for r in rows[:4])}'),
    ('base', f'{_base(tuning)}, {llama.weight_count(config):,} weights'),
    ('trained', f'{trained:,} weights'),
    ('devices', f'{shape} (data x fsdp x tensor)'),
    *((name, _gib(getattr(needed, name))) for name in ('frozen', 'trained', 'kept')),
    ('passing', _gib(needed.passing)),
    ('total on one device', _gib(needed.total)),
  ]
  most = [_most_tokens(tuning, row) for row in rows]
  flops_per_token = flops(tuning, config, 1)
  lines.append(('tokens of the first row', f'at most {most[0]:,}'))
  lines.append(('tokens of all rows', f'at most {sum(most):,}'))
  for name, peak in DEVICES.items():
    seconds = flops_per_token / (peak * 1e12 * REACHED)
    first, total = _time(seconds * most[0]), _time(seconds * sum(most))
    text = f'{first} a row, {total} in all, at {REACHED:.0%} of its peak'
    lines.append((f'time on one {name}', text))
  grids = [table.Grid('What the run needs', ('', 'estimate'), tuple(lines))]
  if not isinstance(tuning, SymbolicTuning):
    grids.insert(0, _plan(tuning, rows))
  elif tuning.instructions.variants:
    grids.insert(0, _variants(rows))
  table.show_grids(grids, console)
  return needed


def _variants(rows: Sequence[rows_lib.TuningRow]) -> table.Grid:
  """The numbers of rules of every variant, and its rows."""
  by_variant: dict[str, list[rows_lib.TuningRow]] = {}
  for row in rows:
    by_variant.setdefault(row.variant, []).append(row)
  lines = []
  for text, variant_rows in by_variant.items():
    counts = dict.fromkeys(f'{row.instructions:,}' for row in variant_rows)
    lines.append((text or '-', ', '.join(counts), str(len(variant_rows))))
  columns = ('variant', 'training rules', 'rows')
  return table.Grid('Variants', columns, tuple(lines))


def _plan(tuning: MixtureTuning, rows: Sequence[rows_lib.TuningRow]) -> table.Grid:
  """The rows per source of every mixture; the files are not read."""
  names = [file.name for file in tuning.mixture.source_files]
  lines = []
  for text in dict.fromkeys(row.mixture for row in rows):
    counts = tuning.mixture.counts(text)
    cells = (f'{counts.get(name, 0):,}' for name in names)
    lines.append((text, *cells, f'{sum(counts.values()):,}'))
  files = '; '.join(f'{file.name}: {file.path}' for file in tuning.mixture.source_files)
  title = f'Mixtures (draw: {tuning.mixture.selection}; seeds: {tuning.seeds})'
  return table.Grid(f'{title}\n{files}', ('mixture', *names, 'rows'), tuple(lines))


def _base(tuning: Tuning) -> str:
  """The base in words."""
  if not tuning.base.directory:
    return 'made on the spot'
  missing = ' (not there; as published)' if _as_published(tuning) else ''
  return f'{tuning.base.directory}{missing}'


def _time(seconds: float) -> str:
  return f'{seconds / 3600:.1f} h' if seconds > 360 else f'{seconds:.1f} s'


def _most_tokens(tuning: Tuning, row: rows_lib.TuningRow) -> int:
  """Tokens of a row's training if every example filled a line of its own."""
  if isinstance(tuning, SymbolicTuning):
    examples = tuning.instructions.examples
  else:
    examples = sum(tuning.mixture.counts(row.mixture).values())
  return examples * tuning.tune.epochs * tuning.tune.length


def _gib(size: int) -> str:
  return f'{size / GIB:.2f} GiB' if size > GIB / 10 else f'{size / 2**20:.1f} MiB'
