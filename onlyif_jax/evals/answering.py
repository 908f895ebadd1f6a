"""A model as benchmarks query it: log-likelihoods of texts, and continuations.

Tokens, windows and limits follow lm-evaluation-harness's backend for Hugging Face
models, and so do the scores. Answers go into a book batch by batch. Batches are formed
from all requests, answered or not, so a resumed run computes the same numbers.
"""

import dataclasses
import functools
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from onlyif_jax.config import ConfigError
from onlyif_jax.corpora.tokenizer import Tokenizer
from onlyif_jax.evals.answer_book import Book, Memory, request_hash
from onlyif_jax.models import batches, choices, llama
from onlyif_jax.models.generate import GREEDY, Sampling, generate

CHUNK = 64  # sampled continuations share a key with those of their chunk
Ids = Sequence[int]


@dataclasses.dataclass(frozen=True)
class Decoding:
  """How a continuation is generated; stops: texts that end it and are cut off."""

  max_new_tokens: int
  stops: tuple[str, ...] = ()
  sampling: Sampling = GREEDY


@dataclasses.dataclass(frozen=True)
class Answer:
  """A continuation: its tokens, and its text after the prompt, up to a stop."""

  tokens: list[int]
  text: str


class _Request(NamedTuple):
  """Continuations of one context to score; keys: the hash of each."""

  context: Ids
  continuations: list[Ids]
  keys: list[str]


@dataclasses.dataclass(frozen=True)
class Answerer:
  """A model with its tokenizer; `book` keeps its answers.

  graphdef, params: as in `generate`. stop_ids: end tokens, by default the tokenizer's.
  max_length: tokens, by default the model's. sharding: of a batch's rows.
  """

  graphdef: Any
  params: Any
  tokenizer: Tokenizer
  stop_ids: tuple[int, ...] = ()
  max_length: int = 0
  batch_size: int = 8
  seed: int = 0
  sharding: Any = None
  book: Book | Memory = dataclasses.field(default_factory=Memory)

  @functools.cached_property
  def hf(self) -> Any:
    """The tokenizer in transformers, with its rules for special tokens."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(
      self.tokenizer.directory, local_files_only=True
    )

  @property
  def longest(self) -> int:
    """The most tokens that the model reads."""
    return self.max_length or llama.merge(self.graphdef, self.params).config.max_length

  @property
  def prefix_id(self) -> int:
    """The id that precedes a text without context."""
    bos = self.hf.bos_token_id
    return self.tokenizer.eos_id if bos is None else bos

  def encode(self, text: str, *, plain: bool = False) -> list[int]:
    """The ids of a text; plain: without the tokens that begin a sequence."""
    if plain or text.startswith(self.hf.decode([self.prefix_id])):
      return self.hf.encode(text, add_special_tokens=False)
    return self.hf.encode(text)

  def split(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
    """The ids of both, tokenised as one text."""
    if not context:
      ids = self.encode(continuation, plain=True)
      if ids[:1] == [self.prefix_id]:
        return ids[:1], ids[1:]
      return [self.prefix_id], ids
    # Trailing spaces belong to the next word's token.
    context_ids = self.encode(context.rstrip())
    ids = self.encode(context + continuation)
    return context_ids or [self.prefix_id], ids[len(context_ids) :]

  def loglikelihood(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[float, bool]]:
    """(ln p of the continuation, whether greedy decoding gives it) of each pair.

    A context that is too long loses its beginning. Raises ConfigError where a
    continuation by itself is too long, or empty.
    """
    keys = [request_hash('loglikelihood', *pair) for pair in pairs]
    by_context: dict[tuple[int, ...], dict[str, list[int]]] = {}
    for key, pair in zip(keys, pairs, strict=True):
      context, continuation = self._fitting(*self.split(*pair), pair[1])
      by_context.setdefault(tuple(context), {})[key] = continuation
    requests = [
      _Request(context, list(continuations.values()), list(continuations))
      for context, continuations in by_context.items()
    ]
    for request, scores in self._scored(requests):
      for key, score in zip(request.keys, scores, strict=True):
        self._add(key, [score.total, score.greedy])
    return [(float(self.book[k][0]), bool(self.book[k][1])) for k in keys]

  def rolling(self, texts: Sequence[str]) -> list[float]:
    """ln p of each text, in windows where it is longer than the model reads."""
    keys = [request_hash('rolling', self.longest, text) for text in texts]
    requests, window_count = [], {}
    for key, text in dict(zip(keys, texts, strict=True)).items():
      pairs = windows(self.encode(text), self.prefix_id, self.longest)
      requests += [_Request(context, [ids], [key]) for context, ids in pairs]
      window_count[key] = len(pairs)
      if not pairs:
        self._add(key, 0.0)
    totals: dict[str, list[float]] = {key: [] for key in window_count}
    for request, (score,) in self._scored(requests):
      (key,) = request.keys
      totals[key].append(score.total)
      if len(totals[key]) == window_count[key]:
        self._add(key, sum(totals[key]))
    return [float(self.book[key]) for key in keys]

  def until(self, requests: Sequence[tuple[str, Decoding]]) -> list[str]:
    """The texts that continue each context, cut at the first stop.

    A text decodes only the new tokens, without special ones; a context that is too
    long loses its beginning. Raises ConfigError where max_new_tokens leaves no room.
    """
    texts, rows_of = [''] * len(requests), {}
    for row, (_, decoding) in enumerate(requests):
      rows_of.setdefault(decoding, []).append(row)
    end = self.tokenizer.decode([self.tokenizer.eos_id])
    for decoding, rows in rows_of.items():
      room = self.longest - decoding.max_new_tokens
      if room < 1:
        raise ConfigError(
          f'max_new_tokens={decoding.max_new_tokens} leaves no room for a prompt in the '
          f"model's {self.longest} tokens; ask for fewer"
        )
      prompts = [self.encode(requests[row][0])[-room:] for row in rows]
      for row, answer in zip(rows, self.continuations(prompts, decoding), strict=True):
        text = self.hf.decode(answer.tokens, skip_special_tokens=True)
        texts[row] = cut_in_turn(text, (*decoding.stops, end))
    return texts

  def continuations(self, prompts: Sequence[Ids], decoding: Decoding) -> list[Answer]:
    """The continuation of each prompt, given as ids.

    A sampled one depends on the seed, the prompt and its index in the list.
    """
    fields = json.loads(json.dumps(dataclasses.asdict(decoding)))
    sampled = decoding.sampling.temperature > 0
    keys = []
    for n, ids in enumerate(prompts):
      address = [self.seed, n] if sampled else []
      keys.append(request_hash('generate', list(map(int, ids)), fields, *address))
    prompt_of = dict(zip(keys, prompts, strict=True))
    for batch, key in self._batches(prompt_of, sampled):
      if all(name in self.book for name in batch):
        continue
      for generated in generate(
        self.graphdef,
        self.params,
        self.tokenizer,
        [prompt_of[name] for name in batch],
        max_new_tokens=decoding.max_new_tokens,
        batch_size=self.batch_size,
        sampling=decoding.sampling,
        key=key,
        stop_ids=self.stop_ids or (self.tokenizer.eos_id,),
        stop_strings=[stop for stop in decoding.stops if stop],
        sharding=self._sharding(len(batch)),
      ):
        self._add(batch[generated.index], [generated.tokens, generated.text])
    return [Answer(*self.book[key]) for key in keys]

  def _batches(
    self, prompt_of: dict[str, Ids], sampled: bool
  ) -> Iterator[tuple[list[str], Any]]:
    """(request hashes, random key) of each call of `generate`."""
    names = list(prompt_of)
    if not sampled:
      lengths = [len(prompt_of[name]) for name in names]
      for rows in batches.groups(lengths, self.batch_size):
        yield [names[row] for row in rows], None
      return
    for n, start in enumerate(range(0, len(names), CHUNK)):
      key = jax.random.fold_in(jax.random.key(self.seed), n)
      yield names[start : start + CHUNK], key

  def _scored(self, requests: Sequence[_Request]) -> Iterator[tuple[_Request, Any]]:
    """(request, scores of its continuations), of batches that lack an answer."""
    lengths = [len(r.context) + max(map(len, r.continuations)) for r in requests]
    for rows in batches.groups(lengths, self.batch_size):
      batch = [requests[int(row)] for row in rows]
      if all(key in self.book for request in batch for key in request.keys):
        continue
      for n, scores in choices.score(
        self.graphdef,
        self.params,
        [(request.context, request.continuations) for request in batch],
        batch_size=self.batch_size,
        sharding=self._sharding(len(batch)),
      ):
        yield batch[n], scores

  def _sharding(self, rows: int) -> Any:
    """The sharding of a batch, None where it does not divide the padded rows."""
    if self.sharding is None:
      return None
    height = batches.height(rows, self.batch_size)
    return None if height % self.sharding.num_devices else self.sharding

  def _fitting(self, context, continuation, text) -> tuple[list[int], list[int]]:
    """A pair of ids, its context cut at the front to what the model reads."""
    if not 1 <= len(continuation) <= self.longest:
      raise ConfigError(
        f'the continuation {text[:40]!r} has {len(continuation)} tokens; the model '
        f'reads 1 to {self.longest}'
      )
    room = self.longest + 1 - len(continuation)  # the last token is only predicted
    return context[-room:], continuation

  def _add(self, name: str, answer: Any) -> None:
    if name not in self.book:
      self.book.add(name, answer)


def windows(ids: Ids, prefix: int, longest: int) -> list[tuple[Ids, Ids]]:
  """(context, continuation) pairs that predict each id once.

  The first context is only `prefix`; each later one is as long as fits.

  >>> windows([0, 1, 2, 3, 4], 9, 3)
  [([9], [0, 1, 2]), ([1, 2], [3, 4])]
  """
  ids = list(ids)
  pairs: list[tuple[Ids, Ids]] = [([prefix], ids[:longest])] if ids else []
  for start in range(longest, len(ids), longest):
    end = min(start + longest, len(ids))
    pairs.append((ids[end - longest - 1 : start], ids[start:end]))
  return pairs


def cut_in_turn(text: str, stops: Iterable[str]) -> str:
  """The text cut at one stop after the other, as the harness does it.

  This differs from a cut at the earliest stop where two stops overlap.
  """
  for stop in stops:
    if stop:
      text = text.split(stop)[0]
  return text


def stop_ids(tokenizer: Tokenizer) -> tuple[int, ...]:
  """The end tokens: the tokenizer's and those in the model's configuration files."""
  ends: list[int] = [tokenizer.eos_id]
  for name in ('config.json', 'generation_config.json'):
    file = Path(tokenizer.directory) / name
    ids = json.loads(file.read_text()).get('eos_token_id') if file.exists() else None
    ends += ids if isinstance(ids, list) else [ids] if ids is not None else []
  return tuple(sorted(set(ends)))
