"""The pretrained model of a run: read from a directory, or a small one made here.

A small stand-in is written as a Hugging Face directory, tokenizer included, and read
back as any other: with a downloaded directory nothing but the path changes.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

from onlyif_jax import keys
from onlyif_jax.config import ConfigError, OptimConfig
from onlyif_jax.corpora import batching, prompts
from onlyif_jax.corpora.rows import Row
from onlyif_jax.corpora.tokenizer import Tokenizer, load_tokenizer
from onlyif_jax.finetune.tuning_config import Tuning
from onlyif_jax.keys import Purpose
from onlyif_jax.models import hf, llama, pretrained, pretrained_config
from onlyif_jax.models.llama import DecoderConfig
from onlyif_jax.models.lora import Parts
from onlyif_jax.training import placement
from onlyif_jax.training.tuning import TuneStep, train_step

# Of each weight file the digest covers its head, which names the arrays and their
# shapes, and blocks spread over the rest.
_HEAD, _BLOCKS, _BLOCK = 2**16, 64, 2**12


@dataclasses.dataclass(frozen=True)
class Base:
  """A pretrained model with its tokenizer.

  Weights are read when they are asked for and belong to who asked: what a row trains
  or keeps quantised is then the only copy on a device.
  """

  directory: Path
  config: DecoderConfig
  tokenizer: Tokenizer
  digest: str
  dtype: str = 'float32'  # of the weights
  mesh: Any = None  # over which they are split while they are read

  def params(self) -> dict:
    """The weights as a pure tree; raises ConfigError for files that are damaged."""
    many = self.mesh is not None and self.mesh.size > 1
    rule = _rule(self.mesh, self.directory) if many else None
    return pretrained.load(self.directory, dtype=self.dtype, sharding=rule)[1]


def load(tuning: Tuning, directory: Path, mesh=None) -> Base:
  """The model of a directory in the run's dtypes; or ConfigError, one line."""
  config = dataclasses.replace(
    pretrained_config.read(Path(directory)),
    compute_dtype=tuning.base.compute_dtype,
    remat=tuning.base.remat,
  )
  tokenizer = load_tokenizer(directory)
  if tokenizer.size > config.vocab_size:
    raise ConfigError(
      f'{directory}: its tokenizer has {tokenizer.size} ids, its model '
      f'{config.vocab_size}; use the tokenizer of this model'
    )
  if config.rope is None and tuning.tune.length > config.max_length:
    raise ConfigError(
      f'tune.length={tuning.tune.length} is more than the {config.max_length} positions '
      f'that {directory} has learnt; lower it'
    )
  own = Path(directory), config, tokenizer, digest(directory)
  return Base(*own, tuning.base.dtype, mesh)


def _rule(mesh, directory):
  """A parameter's path -> where it lives on the mesh."""
  config = pretrained_config.read(Path(directory))
  leaves = jax.tree_util.tree_leaves_with_path(llama.shapes(config))
  placed = {
    '.'.join(str(k.key) for k in path): placement.weight(mesh, path, leaf.shape)
    for path, leaf in leaves
  }
  return placed.__getitem__


def digest(directory) -> str:
  """A hash of a model: its config, and size, head and samples of each weight file."""
  out = hashlib.sha256()
  for path in sorted(Path(directory).glob('*.safetensors')):
    size = path.stat().st_size
    out.update(f'{path.name}\0{size}\0'.encode())
    with path.open('rb') as file:
      out.update(file.read(_HEAD))
      for n in range(_BLOCKS):
        file.seek(n * max(size - _BLOCK, 0) // (_BLOCKS - 1))
        out.update(file.read(_BLOCK))
  out.update((Path(directory) / 'config.json').read_bytes())
  return out.hexdigest()


def make(tuning: Tuning, rows: Sequence[Row], directory: Path) -> None:
  """Trains a small decoder on rows and writes it with a tokenizer of their text."""
  s = tuning.scratch
  with hf.new_directory(directory) as folder:
    _write_tokenizer(list(_texts(tuning, rows)), s.vocabulary, folder)
    tokenizer = load_tokenizer(folder)
    config = scratch_config(tuning, tokenizer.size)
    params = llama.init(config, keys.key(tuning.seed, Purpose.INIT))
    if s.steps:
      params = _pretrained(tuning, config, params, rows, tokenizer)
    params = jax.device_get(params)
    pretrained.save(folder / 'model', config, params)
    for file in (folder / 'model').iterdir():
      file.rename(folder / file.name)
    (folder / 'model').rmdir()


def scratch_config(tuning: Tuning, vocabulary: int) -> DecoderConfig:
  """The small decoder of section `scratch`, with so many ids."""
  s = tuning.scratch
  return DecoderConfig(
    vocab_size=vocabulary,
    max_length=tuning.tune.length,
    layers=s.layers,
    width=s.width,
    hidden=s.hidden,
    heads=s.heads,
    kv_heads=s.kv_heads,
    head_width=s.width // s.heads,
  )


def _texts(tuning: Tuning, rows: Sequence[Row]) -> Iterator[str]:
  """The rows' texts, with what the template puts around them."""
  name = tuning.tune.template
  for row in rows:
    own = row.turns if name == prompts.CHAT else prompts.pieces(name, row.turns)
    yield from (part.text for part in own)


def _pretrained(tuning: Tuning, config, params, rows, tokenizer):
  """The weights after scratch.steps steps on the rows."""
  s = tuning.scratch
  settings = batching.BatchSettings(
    template=tuning.tune.template,
    length=tuning.tune.length,
    batch_size=s.batch_size,
    epochs=1,
    packing=tuning.tune.packing,
    seed=tuning.seed,
  )
  sources, plan = {'base': rows}, [('base', n) for n in range(len(rows))]
  batches = list(batching.batches(plan, sources, tokenizer, settings))
  optim = OptimConfig(
    name='muon',
    learning_rate=s.learning_rate,
    b2=0.95,
    weight_decay=0.0,
    warmup=0.05,
    clip=1.0,
  )
  tune = TuneStep(optim)
  parts = Parts(llama.graphdef(config), None, params, {})
  state = tune.init(params)
  for n, rate in enumerate(tune.rates(s.steps)):
    batch = batches[n % len(batches)]
    state, _ = train_step(tune, parts.definitions, state, {}, batch, rate, 0)
  return state['trained']


def _write_tokenizer(texts, vocabulary: int, folder: Path) -> None:
  """Byte pairs learnt from the texts; 257 ids or fewer mean plain bytes."""
  try:
    import tokenizers
    from transformers import PreTrainedTokenizerFast
  except ImportError:
    raise ConfigError(
      "a tokenizer needs transformers: pip install 'onlyif_jax[llm]'"
    ) from None
  own = tokenizers.Tokenizer(tokenizers.models.BPE())
  # A line's end is a token of its own: an answer that is begun for the model, up to
  # such an end, has the tokens that it has in training.
  split = tokenizers.pre_tokenizers
  own.pre_tokenizer = split.Sequence(
    [split.Split('\n', 'isolated'), split.ByteLevel(add_prefix_space=False)]
  )
  own.decoder = tokenizers.decoders.ByteLevel()
  trainer = tokenizers.trainers.BpeTrainer(
    vocab_size=vocabulary,
    initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    special_tokens=['<end>'],
    show_progress=False,
  )
  own.train_from_iterator(texts, trainer)
  PreTrainedTokenizerFast(tokenizer_object=own, eos_token='<end>').save_pretrained(
    str(folder)
  )


def describe(base: Base) -> dict[str, Any]:
  """What provenance says of a base: sizes, and the hash that adapters are tied to."""
  return {
    'base_digest': base.digest,
    'base_parameters': llama.weight_count(base.config),
    'base_config': json.loads((base.directory / 'config.json').read_text()),
    'base_dtype': base.dtype,
  }
