"""Log-likelihoods of given continuations, for scoring answers by their probability."""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from onlyif_jax.config import ConfigError
from onlyif_jax.models import batches, llama


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
  pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
  *,
  batch_size: int = 8,
) -> list[Score]:
  """The scores of (context ids, continuation ids), in their order.

  graphdef, params as in `generate`. A context holds at least one token. Among equal
  logits the lowest id is the greedy one. Raises ConfigError for an empty context or
  continuation, ids beyond the vocabulary and more positions than a model with
  learned ones has.
  """
  config = llama.merge(graphdef, params).config
  for n, (context, continuation) in enumerate(pairs):
    if not len(context) or not len(continuation):
      raise ConfigError(f'pair {n} has an empty context or continuation')
    ids = [*context, *continuation]
    if not 0 <= min(ids) <= max(ids) < config.vocab_size:
      raise ConfigError(f'pair {n} has ids not below vocab_size={config.vocab_size}')
    length = len(ids)
    if config.rope is None and length > config.max_length:
      raise ConfigError(
        f'pair {n} has {length} tokens, but the model has {config.max_length} positions'
      )
  rows = [[*context, *continuation] for context, continuation in pairs]
  scores: dict[int, Score] = {}
  height = batches.height(len(rows), batch_size)
  for chosen in batches.groups([len(row) for row in rows], height):
    answers = [pairs[i][1] for i in chosen]
    length = batches.bucket(max(len(rows[i]) for i in chosen))
    most = batches.bucket(max(map(len, answers)))
    tokens_BL = batches.pad([rows[i] for i in chosen], (height, length), left=False)
    length_B = np.zeros(height, np.int32)
    length_B[: len(chosen)] = [len(rows[i]) for i in chosen]
    before_B = np.zeros(height, np.int32)
    before_B[: len(chosen)] = [len(pairs[i][0]) - 1 for i in chosen]
    at_BA = np.minimum(before_B[:, None] + np.arange(most, dtype=np.int32), length - 1)
    target_BA = batches.pad(answers, (height, most), left=False)
    found = _score(graphdef, params, tokens_BL, length_B, at_BA, target_BA)
    logprob_BA, best_BA = map(np.asarray, found)
    for n, i in enumerate(chosen):
      size = len(answers[n])
      greedy = bool((best_BA[n, :size] == target_BA[n, :size]).all())
      scores[int(i)] = Score(logprob_BA[n, :size], greedy)
  return [scores[i] for i in range(len(rows))]


@functools.partial(jax.jit, static_argnames='graphdef')
def _score(graphdef, params, tokens_BL, length_B, at_BA, target_BA):
  """(ln p of the targets, the most probable tokens) [B, A]."""
  index_L = np.arange(tokens_BL.shape[1], dtype=np.int32)
  segments_BL = (index_L[None] < length_B[:, None]).astype(jnp.int32)
  model = llama.merge(graphdef, params)
  logits_BAV = model(tokens_BL, segments_BL=segments_BL, answer_BA=at_BA)
  at_target_BA1 = jnp.take_along_axis(logits_BAV, target_BA[:, :, None], axis=-1)
  logprob_BA = at_target_BA1[:, :, 0] - jax.nn.logsumexp(logits_BAV, axis=-1)
  return logprob_BA, jnp.argmax(logits_BAV, axis=-1)
