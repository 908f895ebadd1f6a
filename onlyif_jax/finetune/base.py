"""The pretrained model of a run: read from a directory, or a small one made here.

A small stand-in is written as a Hugging Face directory, tokenizer included, and read
back like any other, so that a downloaded model only changes the path.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
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
from onlyif_jax.loop import StopSignal
from onlyif_jax.models import hf, llama, pretrained, pretrained_config
from onlyif_jax.models.llama import DecoderConfig
from onlyif_jax.models.lora import Parts
from onlyif_jax.training import placement
from onlyif_jax.training.tuning import TuneStep, train_step

# The digest covers the head of each weight file, which names the arrays and their
# shapes, and blocks spread over the rest.
_HEAD, _BLOCKS, _BLOCK = 2**16, 64, 2**12
CHUNK = 25  # steps of making a small base between looks at a signal


@dataclasses.dataclass(frozen=True)
class Base:
  """A pretrained model with its tokenizer.

  `params` reads the weights anew for each caller, so that what a row trains or keeps
  quantised is the only copy on a device.
  """

  directory: Path
  config: DecoderConfig
  tokenizer: Tokenizer
  digest: str
  dtype: str = 'float32'  # of the weights
  mesh: Any = None  # over which they are split while they are read

  def params(self) -> dict:
    """The weights as a pure tree; raises ConfigError for damaged files."""
    sharded = self.mesh is not None and self.mesh.size > 1
    sharding = _sharding(self.mesh, self.directory) if sharded else None
    return pretrained.load(self.directory, dtype=self.dtype, sharding=sharding)[1]


def load(tuning: Tuning, directory: Path, mesh=None) -> Base:
  """The model of a directory in the run's dtypes; raises ConfigError."""
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
  return Base(
    Path(directory), config, tokenizer, digest(directory), tuning.base.dtype, mesh
  )


def _sharding(mesh, directory) -> Callable[[str], Any]:
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
  sha256 = hashlib.sha256()
  for path in sorted(Path(directory).glob('*.safetensors')):
    size = path.stat().st_size
    sha256.update(f'{path.name}\0{size}\0'.encode())
    with path.open('rb') as file:
      sha256.update(file.read(_HEAD))
      for n in range(_BLOCKS):
        file.seek(n * max(size - _BLOCK, 0) // (_BLOCKS - 1))
        sha256.update(file.read(_BLOCK))
  sha256.update((Path(directory) / 'config.json').read_bytes())
  return sha256.hexdigest()


class StoppedError(Exception):
  """A signal came while the small base was made."""


def make(
  tuning: Tuning, rows: Sequence[Row], directory: Path, stop: StopSignal | None = None
) -> None:
  """Trains a small decoder on rows and writes it with a tokenizer of their text.

  Raises StoppedError at most CHUNK steps after a signal, and writes nothing then.
  """
  s = tuning.scratch
  with hf.new_directory(directory) as folder:
    _write_tokenizer(list(_texts(tuning, rows)), s.vocabulary, folder)
    tokenizer = load_tokenizer(folder)
    config = scratch_config(tuning, tokenizer.size)
    params = llama.init(config, keys.key(tuning.seed, Purpose.INIT))
    if s.steps:
      params = _pretrained(tuning, config, params, rows, tokenizer, stop)
    params = jax.device_get(params)
    pretrained.save(folder / 'model', config, params)
    for file in (folder / 'model').iterdir():
      file.rename(folder / file.name)
    (folder / 'model').rmdir()


def scratch_config(tuning: Tuning, vocabulary: int) -> DecoderConfig:
  """The small decoder of section `scratch`; vocabulary: its number of ids."""
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
    parts = row.turns if name == prompts.CHAT else prompts.pieces(name, row.turns)
    yield from (part.text for part in parts)


def _pretrained(tuning: Tuning, config, params, rows, tokenizer, stop):
  """The weights after scratch.steps steps on the rows; or StoppedError."""
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
    if n % CHUNK == 0 and stop is not None:
      # Steps are queued faster than they are done.
      jax.block_until_ready(state)
      if stop.number:
        raise StoppedError
    batch = batches[n % len(batches)]
    state, _ = train_step(tune, parts.definitions, state, {}, batch, rate, 0)
  return state['trained']


def _write_tokenizer(texts: Sequence[str], vocabulary: int, folder: Path) -> None:
  """Writes byte pairs learnt from the texts; 257 ids or fewer give plain bytes."""
  try:
    import tokenizers
    from transformers import PreTrainedTokenizerFast
  except ImportError:
    raise ConfigError(
      "a tokenizer needs transformers: pip install 'onlyif_jax[llm]'"
    ) from None
  tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
  # A line feed is a token of its own, so that an answer which is begun for the model up
  # to the end of a line has the same tokens as in training.
  split = tokenizers.pre_tokenizers
  tokenizer.pre_tokenizer = split.Sequence(
    [split.Split('\n', 'isolated'), split.ByteLevel(add_prefix_space=False)]
  )
  tokenizer.decoder = tokenizers.decoders.ByteLevel()
  trainer = tokenizers.trainers.BpeTrainer(
    vocab_size=vocabulary,
    initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    special_tokens=['<end>'],
    show_progress=False,
  )
  tokenizer.train_from_iterator(texts, trainer)
  wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token='<end>')
  wrapped.save_pretrained(str(folder))


def describe(base: Base) -> dict[str, Any]:
  """The base in provenance.json: its size, and the hash that adapters refer to."""
  return {
    'base_digest': base.digest,
    'base_parameters': llama.weight_count(base.config),
    'base_config': json.loads((base.directory / 'config.json').read_text()),
    'base_dtype': base.dtype,
  }
