"""From a plan of rows to batches of tokens, with Grain.

order -> template -> tokens -> truncation -> packing -> batch. The plan names the rows;
each epoch visits all of them in a keyed order of its own. Batches depend on the plan,
the rows, the tokenizer and `BatchSettings` alone. Iterators over the result of `batches`
have get_state and set_state (which Orbax saves); one that is set to a stored state goes
on with the next batch.

A batch, as numpy arrays [batch_size, length]:
  tokens     int32
  weights    float32: 1 if the prediction OF that token counts, 0 on prompts, padding
             and the first token of a segment
  segments   int32: 1, 2, ... for the rows that share a line, 0 for padding
  positions  int32: position in the segment
The last batch is filled up with empty lines (segments and weights 0).
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from onlyif_jax.config import ConfigError
from onlyif_jax.corpora import prompts
from onlyif_jax.corpora.rows import Row
from onlyif_jax.corpora.tokenizer import Tokenizer

PACKINGS = ('first_fit', 'none')
_AHEAD = 64  # rows that are tokenised before they are needed
_THREADS = 2

Plan = Sequence[tuple[str, int]]  # (source, index of a row in it)
Sources = Mapping[str, Sequence[Row]]


@dataclasses.dataclass(frozen=True)
class BatchSettings:
  """How rows become batches."""

  template: str  # one of prompts.NAMES
  length: int  # tokens in a line; longer rows are cut at the end
  batch_size: int  # lines in a batch
  epochs: int = 1
  packing: str = 'first_fit'  # several rows in a line if they fit; 'none': one
  bins: int = 64  # lines that are filled at the same time; more leave less empty
  seed: int = 0  # of the order in each epoch

  def __post_init__(self):
    prompts.check_template(self.template)
    if self.packing not in PACKINGS:
      raise ConfigError(f'packing={self.packing!r} is not one of {", ".join(PACKINGS)}')
    for field, low in {'length': 2, 'batch_size': 1, 'epochs': 1, 'bins': 1}.items():
      if getattr(self, field) < low:
        raise ConfigError(f'{field}={getattr(self, field)} is below {low}')


@dataclasses.dataclass(frozen=True)
class Survey:
  """The size of a plan under some settings; counts of rows are per epoch."""

  rows: int  # rows that are trained on
  truncated: int  # rows of these that were cut
  dropped: int  # rows of the plan whose response was cut off entirely
  tokens: int  # of the rows, after cutting
  response_tokens: int  # those that the loss counts
  batches: int  # in all epochs
  fill: float  # share of the batches' positions that hold tokens


def batches(
  plan: Plan, sources: Sources, tokenizer: Tokenizer, settings: BatchSettings
):
  """A Grain dataset of batches; see above. Raises ConfigError for missing rows."""
  import grain

  check_plan(plan, sources)
  examples: Any = _Examples(plan, sources, tokenizer, settings)
  # Grain keeps the order of examples whatever thread makes them.
  ahead = grain.ReadOptions(num_threads=_THREADS, prefetch_buffer_size=_AHEAD)
  rows = grain.MapDataset.source(examples).filter(_is_kept).to_iter_dataset(ahead)
  return _batched(rows, settings, tokenizer.pad_id)


def survey(
  plan: Plan, sources: Sources, tokenizer: Tokenizer, settings: BatchSettings
) -> Survey:
  """Tokenises every row once and counts; as many batches as `batches` gives."""
  check_plan(plan, sources)
  lengths, kept_lengths, truncated, response_tokens = [], [], 0, 0
  for source, index in plan:
    ids, mask = _tokens(sources[source][index], tokenizer, settings)
    weights = _weights(mask[: settings.length])
    lengths.append(min(len(ids), settings.length) if weights.any() else 0)
    if lengths[-1]:
      kept_lengths.append(lengths[-1])
      truncated += len(ids) > settings.length
      response_tokens += int(weights.sum())
  count = _count_batches(np.asarray(lengths), settings)
  places = max(count * settings.batch_size * settings.length, 1)
  return Survey(
    rows=len(kept_lengths),
    truncated=truncated,
    dropped=len(lengths) - len(kept_lengths),
    tokens=sum(kept_lengths),
    response_tokens=response_tokens,
    batches=count,
    fill=settings.epochs * sum(kept_lengths) / places,
  )


def check_plan(plan: Plan, sources: Sources) -> None:
  """Raises ConfigError for an empty plan, and for rows that the sources lack."""
  if not len(plan):
    raise ConfigError('the plan has no rows; give its sources larger counts')
  sizes = {name: len(rows) for name, rows in sources.items()}
  for source, index in plan:
    if source not in sizes:
      known = ', '.join(sizes)
      raise ConfigError(f'the plan names the source {source!r}; sources: {known}')
    if not 0 <= index < sizes[source]:
      raise ConfigError(
        f'the plan names row {index} of {source}, which has {sizes[source]} rows'
      )


def epoch_orders(count: int, epochs: int, seed: int) -> np.ndarray:
  """The plan's indices in the order of each epoch (int32 [epochs, count])."""
  # One epoch after the other: a program for all would take their memory at once.
  order = _epoch_order(count)
  return np.stack([np.asarray(order(seed, epoch), np.int32) for epoch in range(epochs)])


@functools.lru_cache(maxsize=8)
def _epoch_order(count: int):
  """A program (seed, epoch) -> keyed bijection of [0, count); compiled per count."""
  import jax
  import jax.numpy as jnp

  from onlyif_jax import keys

  def order(seed, epoch):
    key = keys.key(seed, keys.Purpose.EPOCH_ORDER, epoch)
    return jax.vmap(lambda i: keys.permute(key, i, count))(jnp.arange(count))

  return jax.jit(order)


class _Examples:
  """Random access to the epochs' rows as arrays; rows without a response are None."""

  def __init__(self, plan, sources, tokenizer, settings):
    self._plan, self._sources = plan, sources
    self._tokenizer, self._settings = tokenizer, settings
    self._order = epoch_orders(len(plan), settings.epochs, settings.seed).ravel()

  def __len__(self) -> int:
    return len(self._order)

  def __getitem__(self, place):
    source, index = self._plan[self._order[place]]
    return encode(self._sources[source][index], self._tokenizer, self._settings)


def encode(row: Row, tokenizer: Tokenizer, settings: BatchSettings):
  """A row as {tokens, weights}, cut to the length; None if no response is left."""
  ids, mask = _tokens(row, tokenizer, settings)
  weights = _weights(mask[: settings.length])
  if not weights.any():
    return None
  return {'tokens': np.asarray(ids[: settings.length], np.int32), 'weights': weights}


def _tokens(row, tokenizer, settings):
  try:
    return prompts.tokens(settings.template, row, tokenizer)
  except ConfigError as e:
    raise ConfigError(f'{row.source}, row {row.index}: {e}') from None


def _weights(mask) -> np.ndarray:
  weights = np.asarray(mask, np.float32)
  weights[:1] = 0  # nothing predicts the first token
  return weights


def _is_kept(example) -> bool:
  return example is not None


def _batched(rows, settings: BatchSettings, pad_id: int):
  """Packs and batches an IterDataset of {tokens, weights}."""
  import grain

  length = settings.length
  if settings.packing == 'none':
    lines = rows.map(lambda example: _line(example, length, pad_id))
  else:
    lines = grain.experimental.FirstFitPackIterDataset(
      rows,
      length_struct={'tokens': length, 'weights': length},
      padding_struct={'tokens': pad_id, 'weights': 0},
      num_packing_bins=settings.bins,
      # The first bins are the fullest: in their order, batches would differ in kind.
      seed=settings.seed,
      shuffle_bins=True,
      meta_features=('weights',),
    ).map(_packed_line)
  return lines.batch(
    settings.batch_size, batch_fn=lambda group: _batch(group, settings, pad_id)
  )


def _line(example, length: int, pad_id: int) -> dict[str, np.ndarray]:
  count = len(example['tokens'])
  line = _empty_line(length, pad_id)
  line['tokens'][:count] = example['tokens']
  line['weights'][:count] = example['weights']
  line['segments'][:count] = 1
  line['positions'][:count] = np.arange(count)
  return line


def _packed_line(packed) -> dict[str, np.ndarray]:
  return {
    'tokens': packed['tokens'],
    'weights': packed['weights'],
    'segments': packed['tokens_segment_ids'],
    'positions': packed['tokens_positions'],
  }


def _empty_line(length: int, pad_id: int) -> dict[str, np.ndarray]:
  return {
    'tokens': np.full(length, pad_id, np.int32),
    'weights': np.zeros(length, np.float32),
    'segments': np.zeros(length, np.int32),
    'positions': np.zeros(length, np.int32),
  }


def _batch(lines, settings: BatchSettings, pad_id: int) -> dict[str, np.ndarray]:
  missing = settings.batch_size - len(lines)
  lines = [*lines, *[_empty_line(settings.length, pad_id)] * missing]
  return {name: np.stack([line[name] for line in lines]) for name in lines[0]}


def _count_batches(lengths_P: np.ndarray, settings: BatchSettings) -> int:
  """The number of batches in all epochs; lengths_P: of the rows, 0 if dropped."""
  import grain

  orders = epoch_orders(len(lengths_P), settings.epochs, settings.seed)
  lengths = lengths_P[orders.ravel()]
  lengths = lengths[lengths > 0]
  if settings.packing == 'none':
    return -(-len(lengths) // settings.batch_size)
  blanks: Any = _Blanks(lengths)
  rows = grain.MapDataset.source(blanks).to_iter_dataset(
    grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
  )
  return sum(1 for _ in _batched(rows, settings, 0))


class _Blanks:
  """Random access to rows of given lengths without contents."""

  def __init__(self, lengths):
    self._lengths = lengths

  def __len__(self) -> int:
    return len(self._lengths)

  def __getitem__(self, place) -> dict[str, Any]:
    count = self._lengths[place]
    return {'tokens': np.zeros(count, np.int32), 'weights': np.zeros(count, np.float32)}
