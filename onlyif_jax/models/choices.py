"""Log-likelihoods of several continuations of a context, which is read only once.

One program reads the contexts into a key-value cache; a second scores continuations
after the cached contexts. So the four answers to a question cost little more than one.
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from onlyif_jax.config import ConfigError
from onlyif_jax.models import batches, llama
from onlyif_jax.models.attention import empty_cache

Ids = Sequence[int]


@dataclasses.dataclass(frozen=True)
class Score:
  """ln p of each token of a continuation, and whether greedy decoding yields it."""

  logprobs: np.ndarray  # float32
  greedy: bool

  @property
  def total(self) -> float:
    """ln p of the continuation."""
    return float(self.logprobs.sum(dtype=np.float64))


def score(
  graphdef,
  params,
  groups: Sequence[tuple[Ids, Sequence[Ids]]],
  *,
  batch_size: int = 8,
  sharding: Any = None,
) -> Iterator[tuple[int, list[Score]]]:
  """Yield (index of a group, scores of its continuations), longest groups first.

  graphdef, params: as in `generate`. groups: (context, continuations), none empty.
  sharding: of the batch's rows over devices. Among equal logits greedy decoding takes
  the lowest id. Raises ConfigError, before any computation, for an empty context or
  continuation, ids beyond the vocabulary, and more positions than a model with
  learned positions has.
  """
  config = llama.merge(graphdef, params).config
  for n, group in enumerate(groups):
    _check(n, *group, config)
  lengths = [
    len(context) + max(map(len, continuations)) for context, continuations in groups
  ]
  height = batches.height(len(groups), batch_size)

  def run():
    for indices in batches.groups(lengths, height):
      batch = [groups[i] for i in indices]
      scores = _score_batch(graphdef, params, batch, height, sharding)
      yield from zip(map(int, indices), scores, strict=True)

  return run()


def _score_batch(graphdef, params, groups, height, sharding) -> list[list[Score]]:
  """The scores of the continuations of at most `height` groups."""

  def put(*arrays):
    return arrays if sharding is None else jax.device_put(arrays, sharding)

  # The last token of a context is read with the continuation that it predicts.
  contexts = [context[:-1] for context, _ in groups]
  length_B = np.zeros(height, np.int32)
  length_B[: len(groups)] = [len(row) for row in contexts]
  shape = height, batches.bucket(int(length_B.max()))
  tokens_BL = batches.pad(contexts, shape, left=True)
  rows = [(n, c) for n, (_, continuations) in enumerate(groups) for c in continuations]
  answer_length = _answer_bucket(max(len(c) for _, c in rows))
  cache = _read(graphdef, params, *put(tokens_BL, length_B), room=answer_length)
  scores: list[list[Score]] = [[] for _ in groups]
  for start in range(0, len(rows), height):
    batch = rows[start : start + height]
    arrays = put(*_arrays(batch, groups, length_B, (height, answer_length)))
    results = map(np.asarray, _continue(graphdef, params, cache, *arrays))
    for (n, c), logprob_A, best_A in zip(batch, *results, strict=False):
      greedy = bool((best_A[: len(c)] == np.asarray(c)).all())
      scores[n].append(Score(logprob_A[: len(c)], greedy))
  return scores


def _arrays(rows, groups, length_B, shape):
  """(index of the cache row, tokens, their count, first position, targets)."""
  inputs = [[groups[n][0][-1], *c[:-1]] for n, c in rows]
  cache_row_B, count_B = np.zeros((2, shape[0]), np.int32)
  cache_row_B[: len(rows)] = [n for n, _ in rows]
  count_B[: len(rows)] = [len(c) for _, c in rows]
  tokens_BA = batches.pad(inputs, shape, left=False)
  target_BA = batches.pad([c for _, c in rows], shape, left=False)
  return cache_row_B, tokens_BA, count_B, length_B[cache_row_B], target_BA


def _check(n, context, continuations, config):
  if not len(context) or not continuations or not all(map(len, continuations)):
    raise ConfigError(f'group {n} has an empty context or continuation')
  for continuation in continuations:
    ids = [*context, *continuation]
    if not 0 <= min(ids) <= max(ids) < config.vocab_size:
      raise ConfigError(
        f'group {n} has ids that are not below vocab_size={config.vocab_size}; it is '
        "not in the words of this model's tokenizer"
      )
    if config.rope is None and len(ids) - 1 > config.max_length:
      raise ConfigError(
        f'group {n} needs {len(ids) - 1} positions, but the model has '
        f'{config.max_length}'
      )


def _answer_bucket(n: int) -> int:
  """The next of 1, 2, 4, 8 (most answers are short) and then of the buckets."""
  return 1 << (n - 1).bit_length() if n < batches.SHORTEST else batches.bucket(n)


@functools.partial(jax.jit, static_argnames=('graphdef', 'room'))
def _read(graphdef, params, tokens_BL, length_B, *, room):
  """The cache of left-padded rows of length_B tokens, with room for more tokens."""
  model = llama.merge(graphdef, params)
  batch, length = tokens_BL.shape
  to_end_BL = length - 1 - np.arange(length, dtype=np.int32)[None]
  _, cache = model(
    tokens_BL,
    positions_BL=jnp.maximum(length_B[:, None] - 1 - to_end_BL, 0),
    segments_BL=(to_end_BL < length_B[:, None]).astype(jnp.int32),
    cache=empty_cache(model.config, batch, length + room),
    answer_BA=jnp.full((batch, 1), length - 1, jnp.int32),
  )
  return cache


@functools.partial(jax.jit, static_argnames='graphdef')
def _continue(
  graphdef, params, cache, cache_row_B, tokens_BA, count_B, first_B, target_BA
):
  """(ln p of the targets, the most probable tokens), each [B, A], after cache rows."""
  model = llama.merge(graphdef, params)
  cache = jax.tree.map(lambda x: x[cache_row_B] if x.ndim else x, cache)
  index_A = np.arange(tokens_BA.shape[1], dtype=np.int32)
  is_token_BA = index_A[None] < count_B[:, None]
  logits_BAV, _ = model(
    tokens_BA,
    positions_BL=jnp.where(is_token_BA, first_B[:, None] + index_A[None], 0),
    segments_BL=is_token_BA.astype(jnp.int32),
    cache=cache,
  )
  logit_BA1 = jnp.take_along_axis(logits_BAV, target_BA[:, :, None], axis=-1)
  logprob_BA = logit_BA1[:, :, 0] - jax.nn.logsumexp(logits_BAV, axis=-1)
  return logprob_BA, jnp.argmax(logits_BAV, axis=-1)
