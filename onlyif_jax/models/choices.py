"""Log-likelihoods of several continuations of one context, which is read only once.

One program reads the contexts into a key-value cache, a second one scores
continuations, each behind its own context's cache. So the four answers to a question
cost little more than one.
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
  """ln p of each token of a continuation, and whether greedy decoding gives it."""

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
  """Yields (index of a group, its continuations' scores), longest groups first.

  graphdef, params as in `generate`; a group is (context, continuations), none of them
  empty. sharding: of the batch's rows over devices. Among equal logits the lowest id
  is the greedy one. Raises ConfigError, before anything is computed, for an empty
  context or continuation, ids beyond the vocabulary and more positions than a model
  with learned ones has.
  """
  config = llama.merge(graphdef, params).config
  for n, group in enumerate(groups):
    _check(n, *group, config)
  lengths = [len(context) + max(map(len, some)) for context, some in groups]
  height = batches.height(len(groups), batch_size)

  def put(*arrays):
    return arrays if sharding is None else jax.device_put(arrays, sharding)

  def run():
    for chosen in batches.groups(lengths, height):
      own = [groups[i] for i in chosen]
      # The last token of a context is read with the continuation that it predicts.
      before = [context[:-1] for context, _ in own]
      length_B = np.zeros(height, np.int32)
      length_B[: len(own)] = [len(row) for row in before]
      shape = height, batches.bucket(int(length_B.max()))
      most = _short(max(len(c) for _, some in own for c in some))
      given = put(batches.pad(before, shape, left=True), length_B)
      cache = _read(graphdef, params, *given, room=most)
      parts = [(n, c) for n, (_, some) in enumerate(own) for c in some]
      scores: list[list[Score]] = [[] for _ in own]
      for start in range(0, len(parts), height):
        some = parts[start : start + height]
        given = put(*_rows(some, own, length_B, (height, most)))
        found = map(np.asarray, _continue(graphdef, params, cache, *given))
        for (n, c), logprob_A, best_A in zip(some, *found, strict=False):
          greedy = bool((best_A[: len(c)] == np.asarray(c)).all())
          scores[n].append(Score(logprob_A[: len(c)], greedy))
      yield from zip(map(int, chosen), scores, strict=True)

  return run()


def _rows(some, own, length_B, shape):
  """(which cache row, tokens, their count, first position, targets) of a batch."""
  fed = [[own[n][0][-1], *c[:-1]] for n, c in some]
  which_B, count_B = np.zeros((2, shape[0]), np.int32)
  which_B[: len(some)] = [n for n, _ in some]
  count_B[: len(some)] = [len(c) for _, c in some]
  tokens_BA = batches.pad(fed, shape, left=False)
  target_BA = batches.pad([c for _, c in some], shape, left=False)
  return which_B, tokens_BA, count_B, length_B[which_B], target_BA


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


def _short(n: int) -> int:
  """The next length of 1, 2, 4, 8, and then of the buckets: most answers are short."""
  return 1 << (n - 1).bit_length() if n < batches.SHORTEST else batches.bucket(n)


@functools.partial(jax.jit, static_argnames=('graphdef', 'room'))
def _read(graphdef, params, tokens_BL, length_B, *, room):
  """A cache of left-padded rows of length_B tokens, with room for more."""
  model = llama.merge(graphdef, params)
  batch, length = tokens_BL.shape
  behind_BL = length - 1 - np.arange(length, dtype=np.int32)[None]
  _, cache = model(
    tokens_BL,
    positions_BL=jnp.maximum(length_B[:, None] - 1 - behind_BL, 0),
    segments_BL=(behind_BL < length_B[:, None]).astype(jnp.int32),
    cache=empty_cache(model.config, batch, length + room),
    answer_BA=jnp.full((batch, 1), length - 1, jnp.int32),
  )
  return cache


@functools.partial(jax.jit, static_argnames='graphdef')
def _continue(graphdef, params, cache, which_B, tokens_BA, count_B, first_B, target_BA):
  """(ln p of the targets, the most probable tokens) [B, A] behind cache rows."""
  model = llama.merge(graphdef, params)
  cache = jax.tree.map(lambda x: x[which_B] if x.ndim else x, cache)
  index_A = np.arange(tokens_BA.shape[1], dtype=np.int32)
  real_BA = index_A[None] < count_B[:, None]
  logits_BAV, _ = model(
    tokens_BA,
    positions_BL=jnp.where(real_BA, first_B[:, None] + index_A[None], 0),
    segments_BL=real_BA.astype(jnp.int32),
    cache=cache,
  )
  at_target_BA1 = jnp.take_along_axis(logits_BAV, target_BA[:, :, None], axis=-1)
  logprob_BA = at_target_BA1[:, :, 0] - jax.nn.logsumexp(logits_BAV, axis=-1)
  return logprob_BA, jnp.argmax(logits_BAV, axis=-1)
