"""Batched generation from decoders, greedy or sampled, with a key-value cache.

Prompts are padded on the left, so that all rows continue in the same column. One
program reads the prompts; a second generates tokens until a limit or until all rows
have ended. A token is drawn with a key of its prompt's index and its step, so it
depends neither on the batch nor on the order of the prompts.
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from onlyif_jax.config import ConfigError
from onlyif_jax.models import batches, llama
from onlyif_jax.models.attention import Cache, empty_cache

CONTEXT = 8  # tokens of the prompt decoded with the answer, whose spaces need them


class Tokenizer(Protocol):
  """The interface of a tokenizer; `encode` adds no special token."""

  @property
  def bos_id(self) -> int | None:
    """The id put before every prompt in text; None: none is."""

  @property
  def eos_id(self) -> int | None:
    """The default stop id."""

  def encode(self, text: str) -> Sequence[int]:
    """Text -> ids."""
    ...

  def decode(self, ids: Sequence[int]) -> str:
    """Ids -> text."""
    ...


@dataclasses.dataclass(frozen=True)
class Sampling:
  """How tokens are chosen: temperature 0 is greedy, with ties to the lowest id.

  Otherwise a token is drawn from the top_k most probable ones (0: all), and of these
  from the fewest whose probability reaches top_p.
  """

  temperature: float = 0.0
  top_p: float = 1.0
  top_k: int = 0


GREEDY = Sampling()


@dataclasses.dataclass(frozen=True)
class Generation:
  """The continuation of the prompt with an index.

  ended: 'stop_id' (not among the tokens), 'stop_string' (the text ends before it, the
  tokens with its last one) or 'length'.
  """

  index: int
  tokens: list[int]
  text: str
  ended: str


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
  """A batch during its generation."""

  cache: Cache
  length_B: jax.Array  # tokens of the prompts without padding
  row_B: jax.Array  # indices of the prompts, which address the random numbers
  tokens_BN: jax.Array
  made: jax.Array  # int32: columns of tokens_BN that are filled
  count_B: jax.Array  # tokens of each row before its end
  done_B: jax.Array


def generate(
  graphdef,
  params,
  tokenizer: Tokenizer | None,
  prompts: Sequence[str | Sequence[int]],
  *,
  max_new_tokens: int,
  batch_size: int = 8,
  sampling: Sampling = GREEDY,
  key: jax.Array | None = None,
  stop_ids: Sequence[int] | None = None,
  stop_strings: Sequence[str] = (),
  check_every: int = 16,
  sharding: Any = None,
) -> Iterator[Generation]:
  """Continue each prompt; yields the longest prompts first.

  graphdef, params: of a decoder (`llama.graphdef`), or of an adapted one with a tuple
  of subtrees. prompts: texts, to which bos_id is added, or ids, which are used as they
  are. tokenizer: without one all prompts are ids and all texts are empty. key: required
  for sampling. stop_ids: by default the tokenizer's eos_id. check_every: tokens between
  searches for stop_strings; changes only the speed. sharding: of the batch's rows over
  devices. Raises ConfigError, before any computation, for an empty prompt, ids beyond
  the vocabulary, sampling without a key, max_new_tokens below 1, and more positions
  than a model with learned positions has.
  """
  ids = [_encode(prompt, tokenizer) for prompt in prompts]
  if stop_ids is None:
    eos_id = None if tokenizer is None else tokenizer.eos_id
    stop_ids = () if eos_id is None else (eos_id,)
  if stop_strings and (tokenizer is None or '' in stop_strings):
    raise ConfigError('stop_strings need a tokenizer, and letters in each')
  config = llama.merge(graphdef, params).config
  _check(ids, config, max_new_tokens, sampling, key)
  stop_S = np.asarray(stop_ids, np.int32).reshape(-1)
  model = graphdef, params
  options = {'key': key, 'stop_S': stop_S, 'static': (max_new_tokens, sampling)}
  extend = functools.partial(advance, *model, **options)
  height = batches.height(len(ids), batch_size)
  interval = check_every if stop_strings else max_new_tokens

  def run():
    for indices in batches.groups([len(row) for row in ids], height):
      rows = [ids[i] for i in indices]
      state = _begin(*model, rows, indices, height, sharding, **options)
      watch = _Watch(tokenizer, rows, stop_strings)
      yield from _finish(state, watch, extend, interval, max_new_tokens, indices)

  return run()


def _check(ids, config, max_new_tokens, sampling, key):
  if max_new_tokens < 1:
    raise ConfigError(f'max_new_tokens={max_new_tokens} must be at least 1')
  if sampling.temperature > 0 and key is None:
    raise ConfigError('sampling needs a key; without one set temperature=0')
  for n, row in enumerate(ids):
    if not row:
      raise ConfigError(f'prompt {n} is empty; start it with a token')
    if not 0 <= min(row) <= max(row) < config.vocab_size:
      raise ConfigError(
        f'prompt {n} has ids that are not below vocab_size={config.vocab_size}; it is '
        "not in the words of this model's tokenizer"
      )
  longest = max(map(len, ids), default=0) + max_new_tokens
  if config.rope is None and longest > config.max_length:
    raise ConfigError(
      f'a prompt and max_new_tokens={max_new_tokens} make {longest} tokens, but the '
      f'model has {config.max_length} positions'
    )


def _finish(state, watch, extend, interval, limit, indices) -> Iterator[Generation]:
  """Generate until all rows have ended; stop strings are searched at intervals."""
  made = 1
  while True:
    stopped_B = watch.look(state)
    if stopped_B.any():
      state = dataclasses.replace(state, done_B=state.done_B | stopped_B)
    if made >= limit or bool(state.done_B.all()):
      return watch.results(state, indices)
    made = min(made + interval, limit)
    state = extend(state=state, limit=made)


def _begin(graphdef, params, rows, indices, height, sharding, **options) -> State:
  """The state after the prompts and the first token of each."""
  length_B = np.zeros(height, np.int32)
  length_B[: len(rows)] = [len(row) for row in rows]
  row_B = np.zeros(height, np.int32)
  row_B[: len(rows)] = indices
  shape = height, batches.bucket(int(length_B.max()))
  arrays = batches.pad(rows, shape, left=True), length_B, row_B
  if sharding is not None:
    arrays = jax.device_put(arrays, sharding)
  return start(graphdef, params, *arrays, **options)


@functools.partial(jax.jit, static_argnames=('graphdef', 'static'))
def start(
  graphdef, params, tokens_BL, length_B, row_B, *, key, stop_S, static
) -> State:
  """Read left-padded prompts of length_B tokens and choose the first token of each.

  static: (max_new_tokens, Sampling). A row of length 0 is done from the start.
  """
  max_new_tokens, sampling = static
  model = llama.merge(graphdef, params)
  batch, length = tokens_BL.shape
  to_end_BL = length - 1 - np.arange(length, dtype=np.int32)[None]
  logits_B1V, cache = model(
    tokens_BL,
    positions_BL=jnp.maximum(length_B[:, None] - 1 - to_end_BL, 0),
    segments_BL=(to_end_BL < length_B[:, None]).astype(jnp.int32),
    cache=empty_cache(model.config, batch, length + max_new_tokens),
    answer_BA=jnp.full((batch, 1), length - 1, jnp.int32),
  )
  state = State(
    cache=cache,
    length_B=length_B,
    row_B=row_B,
    tokens_BN=jnp.zeros((batch, max_new_tokens), jnp.int32),
    made=jnp.int32(0),
    count_B=jnp.zeros(batch, jnp.int32),
    done_B=length_B == 0,
  )
  return _choose(state, logits_B1V[:, 0], key, sampling, stop_S)


@functools.partial(
  jax.jit, static_argnames=('graphdef', 'static'), donate_argnames='state'
)
def advance(graphdef, params, *, state: State, limit, key, stop_S, static) -> State:
  """Generate tokens until `limit` columns are filled or all rows are done."""
  _, sampling = static
  model = llama.merge(graphdef, params)

  def step(state):
    token_B1 = jax.lax.dynamic_slice_in_dim(state.tokens_BN, state.made - 1, 1, axis=1)
    position_B1 = (state.length_B + state.made - 1)[:, None]
    logits_B1V, cache = model(token_B1, positions_BL=position_B1, cache=state.cache)
    state = dataclasses.replace(state, cache=cache)
    return _choose(state, logits_B1V[:, 0], key, sampling, stop_S)

  def unfinished(state):
    return (state.made < limit) & ~state.done_B.all()

  return jax.lax.while_loop(unfinished, step, state)


def _choose(state, logits_BV, key, sampling, stop_S):
  """The state with one more token in each row that is not done."""
  token_B = pick(logits_BV, sampling, key, state.row_B, state.made)
  token_B = jnp.where(state.done_B, 0, token_B)
  ends_B = (token_B[:, None] == stop_S[None]).any(1)
  tokens_BN = jax.lax.dynamic_update_slice_in_dim(
    state.tokens_BN, token_B[:, None], state.made, axis=1
  )
  done_B = state.done_B | ends_B
  return dataclasses.replace(
    state,
    tokens_BN=tokens_BN,
    made=state.made + 1,
    count_B=state.count_B + ~done_B,
    done_B=done_B,
  )


def pick(logits_BV, sampling: Sampling, key, row_B, step):
  """One token per row, int32 [B]; drawn with fold_in(fold_in(key, row), step)."""
  if sampling.temperature == 0:
    return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
  logits_BV = _truncate(logits_BV / sampling.temperature, sampling)

  def draw(row, logits_V):
    key_ = jax.random.fold_in(jax.random.fold_in(key, row), step)
    return jax.random.categorical(key_, logits_V)

  return jax.vmap(draw)(row_B, logits_BV).astype(jnp.int32)


def _truncate(logits_BV, sampling):
  """The logits, -inf for tokens that top_k and top_p exclude."""
  if sampling.top_k:
    top_BK, _ = jax.lax.top_k(logits_BV, min(sampling.top_k, logits_BV.shape[1]))
    logits_BV = jnp.where(logits_BV >= top_BK[:, -1:], logits_BV, -jnp.inf)
  if sampling.top_p < 1:
    sorted_BV = jnp.sort(logits_BV, axis=-1, descending=True)
    probability_BV = jax.nn.softmax(sorted_BV, axis=-1)
    before_BV = jnp.cumsum(probability_BV, axis=-1) - probability_BV
    kept_BV = jnp.where(before_BV < sampling.top_p, sorted_BV, jnp.inf)
    threshold_B1 = kept_BV.min(-1, keepdims=True)
    logits_BV = jnp.where(logits_BV >= threshold_B1, logits_BV, -jnp.inf)
  return logits_BV


def _encode(prompt, tokenizer) -> list[int]:
  """The ids of a prompt in text or ids."""
  if not isinstance(prompt, str):
    return list(map(int, prompt))
  if tokenizer is None:
    raise ConfigError('a prompt given as text needs a tokenizer')
  start = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
  return start + list(tokenizer.encode(prompt))


class _Watch:
  """Searches the texts of a batch for stop strings, on the host."""

  def __init__(self, tokenizer, rows, stop_strings):
    self.tokenizer, self.rows, self.stop_strings = tokenizer, rows, stop_strings
    self.searched = [0] * len(rows)  # tokens of each row without a stop string
    self.stops: dict[int, tuple[int, str]] = {}  # row -> (tokens, text before the stop)

  def look(self, state) -> np.ndarray:
    """The rows (bool [B]) whose text contains a stop string."""
    stopped_B = np.zeros(len(state.done_B), bool)
    if self.stop_strings:
      tokens_BN, count_B = np.asarray(state.tokens_BN), np.asarray(state.count_B)
      for n in range(len(self.rows)):
        if n not in self.stops:
          self._search(n, tokens_BN[n, : count_B[n]].tolist())
        stopped_B[n] = n in self.stops
    return stopped_B

  def _search(self, n: int, ids: list[int]) -> None:
    """Find the first token with which row n contains a stop string."""
    if self._before_stop(self._text(n, ids)) is not None:
      for count in range(self.searched[n] + 1, len(ids) + 1):
        text = self._before_stop(self._text(n, ids[:count]))
        if text is not None:
          self.stops[n] = count, text
          return
    self.searched[n] = len(ids)

  def _before_stop(self, text: str) -> str | None:
    """The text before the first stop string, or None without any."""
    starts = [text.find(stop) for stop in self.stop_strings]
    first = min((start for start in starts if start >= 0), default=None)
    return None if first is None else text[:first]

  def _text(self, n: int, ids: list[int]) -> str:
    """The text that ids add to prompt n."""
    if self.tokenizer is None:
      return ''
    context = self.rows[n][-CONTEXT:]
    prefix = self.tokenizer.decode(context)
    text = self.tokenizer.decode([*context, *ids])
    if text.startswith(prefix):
      return text[len(prefix) :]
    return self.tokenizer.decode(ids)

  def results(self, state, indices) -> Iterator[Generation]:
    """The generation of each row."""
    tokens_BN, count_B = np.asarray(state.tokens_BN), np.asarray(state.count_B)
    for n, index in enumerate(indices):
      ids = tokens_BN[n, : count_B[n]].tolist()
      if n in self.stops:
        count, text = self.stops[n]
        yield Generation(int(index), ids[:count], text, 'stop_string')
      else:
        ended = 'length' if len(ids) == tokens_BN.shape[1] else 'stop_id'
        yield Generation(int(index), ids, self._text(n, ids), ended)
