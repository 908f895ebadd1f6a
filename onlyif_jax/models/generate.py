"""Generation from decoders: batched, greedy or sampled, with a key-value cache.

Prompts are padded on the left, so that every row continues in the same column. One
program reads the prompts, a second one makes tokens until a limit or until all
rows have ended. The token `step` of row `index` is drawn with a key of these two
numbers: it depends neither on the batch nor on the order of the prompts.
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

CONTEXT = 8  # tokens of the prompt that are decoded along: spaces depend on them


class Tokenizer(Protocol):
  """What generation needs of a tokenizer; `encode` adds no special token."""

  @property
  def bos_id(self) -> int | None:
    """Starts every prompt that is given as text; None: nothing does."""

  @property
  def eos_id(self) -> int | None:
    """Ends a row unless other stop ids are given."""

  def encode(self, text: str) -> Sequence[int]:
    """Text -> ids."""
    ...

  def decode(self, ids: Sequence[int]) -> str:
    """Ids -> text."""
    ...


@dataclasses.dataclass(frozen=True)
class Sampling:
  """How a token is chosen: temperature 0 is greedy, ties going to the lowest id.

  Otherwise among the top_k most probable tokens (0: all), and of those among the
  fewest that hold the probability top_p.
  """

  temperature: float = 0.0
  top_p: float = 1.0
  top_k: int = 0


GREEDY = Sampling()


@dataclasses.dataclass(frozen=True)
class Generation:
  """One continuation: `index` is its prompt's, `ended` says what ended it.

  ended is 'stop_id' (which is not among the tokens), 'stop_string' (where the text
  is cut; the tokens reach to where it was complete) or 'length'.
  """

  index: int
  tokens: list[int]
  text: str
  ended: str


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
  """A batch in the middle of its generation."""

  cache: Cache
  length_B: jax.Array  # real tokens of the prompts
  row_B: jax.Array  # which prompt: addresses the random numbers
  tokens_BN: jax.Array
  made: jax.Array  # int32: columns of tokens_BN that are filled
  count_B: jax.Array  # tokens of each row before it ended
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
  """Continues each prompt; yields in order of falling length, `index` says which.

  graphdef, params: a decoder's (`llama.graphdef`, or an adapted one's with a tuple
  of its parts). A prompt is a text, to which bos_id is added, or ids as they are;
  without a tokenizer all are ids, and the texts are empty.
  key: required where tokens are sampled. stop_ids: default the tokenizer's eos_id.
  stop_strings are looked for every check_every tokens, which changes speed only.
  sharding: of the batch's rows over devices. Raises ConfigError, before anything is
  computed, for an empty prompt, ids beyond the vocabulary, sampling without a key,
  max_new_tokens below 1 and more positions than a model with learned ones has.
  """
  ids = [_encoded(prompt, tokenizer) for prompt in prompts]
  if stop_ids is None:
    eos_id = None if tokenizer is None else tokenizer.eos_id
    stop_ids = () if eos_id is None else (eos_id,)
  if stop_strings and (tokenizer is None or '' in stop_strings):
    raise ConfigError('stop_strings need a tokenizer, and letters in each')
  config = llama.merge(graphdef, params).config
  _check(ids, config, max_new_tokens, sampling, key)
  stop_S = np.asarray(stop_ids, np.int32).reshape(-1)
  model = graphdef, params
  how = {'key': key, 'stop_S': stop_S, 'static': (max_new_tokens, sampling)}
  height = batches.height(len(ids), batch_size)

  def run():
    for chosen in batches.groups([len(row) for row in ids], height):
      rows = [ids[i] for i in chosen]
      state = _begin(*model, rows, chosen, height, sharding, **how)
      watch = _Watch(tokenizer, rows, stop_strings)
      more = functools.partial(advance, *model, **how)
      every = check_every if stop_strings else max_new_tokens
      yield from _finish(state, watch, more, every, max_new_tokens, chosen)

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


def _finish(state, watch, more, every, most, chosen) -> Iterator[Generation]:
  """Goes on until all rows have ended, looking at their texts now and then."""
  made = 1
  while True:
    stopped_B = watch.look(state)
    if stopped_B.any():
      state = dataclasses.replace(state, done_B=state.done_B | stopped_B)
    if made >= most or bool(state.done_B.all()):
      return watch.results(state, chosen)
    made = min(made + every, most)
    state = more(state=state, limit=made)


def _begin(graphdef, params, rows, chosen, height, sharding, **how) -> State:
  """The state after the prompts and the first token of each."""
  length_B = np.zeros(height, np.int32)
  length_B[: len(rows)] = [len(row) for row in rows]
  row_B = np.zeros(height, np.int32)
  row_B[: len(rows)] = chosen
  shape = height, batches.bucket(int(length_B.max()))
  given = batches.pad(rows, shape, left=True), length_B, row_B
  if sharding is not None:
    given = jax.device_put(given, sharding)
  return start(graphdef, params, *given, **how)


@functools.partial(jax.jit, static_argnames=('graphdef', 'static'))
def start(
  graphdef, params, tokens_BL, length_B, row_B, *, key, stop_S, static
) -> State:
  """Reads left-padded prompts of length_B tokens and makes the first token of each.

  static = (most new tokens, Sampling). A row of length 0 is done from the start.
  """
  new, sampling = static
  model = llama.merge(graphdef, params)
  batch, length = tokens_BL.shape
  behind_BL = length - 1 - np.arange(length, dtype=np.int32)[None]
  segments_BL = (behind_BL < length_B[:, None]).astype(jnp.int32)
  position_BL = jnp.maximum(length_B[:, None] - 1 - behind_BL, 0)
  logits_B1V, cache = model(
    tokens_BL,
    positions_BL=position_BL,
    segments_BL=segments_BL,
    cache=empty_cache(model.config, batch, length + new),
    answer_BA=jnp.full((batch, 1), length - 1, jnp.int32),
  )
  state = State(
    cache,
    length_B,
    row_B,
    jnp.zeros((batch, new), jnp.int32),
    jnp.int32(0),
    jnp.zeros(batch, jnp.int32),
    length_B == 0,
  )
  return _choose(state, logits_B1V[:, 0], key, sampling, stop_S)


@functools.partial(
  jax.jit, static_argnames=('graphdef', 'static'), donate_argnames='state'
)
def advance(graphdef, params, *, state: State, limit, key, stop_S, static) -> State:
  """Makes tokens until there are `limit` columns or all rows are done."""
  _, sampling = static
  model = llama.merge(graphdef, params)

  def step(state):
    token_B1 = jax.lax.dynamic_slice_in_dim(state.tokens_BN, state.made - 1, 1, axis=1)
    position_B1 = (state.length_B + state.made - 1)[:, None]
    logits_B1V, cache = model(token_B1, positions_BL=position_B1, cache=state.cache)
    state = dataclasses.replace(state, cache=cache)
    return _choose(state, logits_B1V[:, 0], key, sampling, stop_S)

  def going(state):
    return (state.made < limit) & ~state.done_B.all()

  return jax.lax.while_loop(going, step, state)


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
  """One token for each row, int32 [B]; drawn with fold_in(fold_in(key, row), step)."""
  if sampling.temperature == 0:
    return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
  logits_BV = _cut(logits_BV / sampling.temperature, sampling)

  def draw(row, logits_V):
    key_ = jax.random.fold_in(jax.random.fold_in(key, row), step)
    return jax.random.categorical(key_, logits_V)

  return jax.vmap(draw)(row_B, logits_BV).astype(jnp.int32)


def _cut(logits_BV, sampling):
  """Logits with -inf where top_k and top_p leave a token out."""
  if sampling.top_k:
    kept_BK, _ = jax.lax.top_k(logits_BV, min(sampling.top_k, logits_BV.shape[1]))
    logits_BV = jnp.where(logits_BV >= kept_BK[:, -1:], logits_BV, -jnp.inf)
  if sampling.top_p < 1:
    down_BV = jnp.sort(logits_BV, axis=-1, descending=True)
    share_BV = jax.nn.softmax(down_BV, axis=-1)
    before_BV = jnp.cumsum(share_BV, axis=-1) - share_BV
    within_BV = jnp.where(before_BV < sampling.top_p, down_BV, jnp.inf)
    logits_BV = jnp.where(
      logits_BV >= within_BV.min(-1, keepdims=True), logits_BV, -jnp.inf
    )
  return logits_BV


def _encoded(prompt, tokenizer):
  if not isinstance(prompt, str):
    return list(map(int, prompt))
  if tokenizer is None:
    raise ConfigError('a prompt given as text needs a tokenizer')
  start = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
  return start + list(tokenizer.encode(prompt))


class _Watch:
  """Looks for stop strings in the texts of one batch, on the host."""

  def __init__(self, tokenizer, rows, stop_strings):
    self.tokenizer, self.rows, self.stop_strings = tokenizer, rows, stop_strings
    self.looked = [0] * len(rows)
    self.found: dict[int, tuple[int, str]] = {}  # row -> tokens, text before it

  def look(self, state) -> np.ndarray:
    """Rows whose text now contains a stop string, as bool [B]."""
    stopped_B = np.zeros(len(state.done_B), bool)
    if self.stop_strings:
      tokens_BN, count_B = np.asarray(state.tokens_BN), np.asarray(state.count_B)
      for n in range(len(self.rows)):
        if n not in self.found:
          self._look_at(n, tokens_BN[n, : count_B[n]].tolist())
        stopped_B[n] = n in self.found
    return stopped_B

  def _look_at(self, n, ids):
    if self._cut(self._text(n, ids)) is not None:
      for count in range(self.looked[n] + 1, len(ids) + 1):
        cut = self._cut(self._text(n, ids[:count]))
        if cut is not None:
          self.found[n] = count, cut
          return
    self.looked[n] = len(ids)

  def _cut(self, text):
    """The text before the first stop string, None without any."""
    places = [text.find(stop) for stop in self.stop_strings]
    first = min((place for place in places if place >= 0), default=None)
    return None if first is None else text[:first]

  def _text(self, n, ids):
    """The text that ids add to their prompt."""
    if self.tokenizer is None:
      return ''
    before = self.rows[n][-CONTEXT:]
    prefix = self.tokenizer.decode(before)
    whole = self.tokenizer.decode([*before, *ids])
    if whole.startswith(prefix):
      return whole[len(prefix) :]
    return self.tokenizer.decode(ids)

  def results(self, state, chosen) -> Iterator[Generation]:
    """What each row has become."""
    tokens_BN, count_B = np.asarray(state.tokens_BN), np.asarray(state.count_B)
    for n, index in enumerate(chosen):
      ids = tokens_BN[n, : count_B[n]].tolist()
      if n in self.found:
        count, text = self.found[n]
        yield Generation(int(index), ids[:count], text, 'stop_string')
      else:
        ended = 'length' if len(ids) == tokens_BN.shape[1] else 'stop_id'
        yield Generation(int(index), ids, self._text(n, ids), ended)
