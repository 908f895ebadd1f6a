"""A model as benchmarks ask it: log-likelihoods of texts, and continuations.

Tokens, windows and limits are those of lm-evaluation-harness's own backend for Hugging
Face models, so scores are, too. Answers go into a book batch by batch. Batches are made
of all requests, answered or not: what goes on after a kill computes the same numbers.
"""

import dataclasses
import functools
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

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
  """How a continuation is made; stops end it, texts that are cut off."""

  max_new_tokens: int
  stops: tuple[str, ...] = ()
  sampling: Sampling = GREEDY


@dataclasses.dataclass(frozen=True)
class Answer:
  """A continuation: its tokens, and its text behind the prompt, up to a stop."""

  tokens: list[int]
  text: str


@dataclasses.dataclass(frozen=True)
class Answerer:
  """A model with its tokenizer; `book` holds what it has answered.

  graphdef, params: as in `generate`. stop_ids: ends of an answer, by default the
  tokenizer's. max_length: tokens, by default the model's. sharding: of a batch's rows.
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
    """The tokenizer as transformers has it, with its rules for special tokens."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(
      self.tokenizer.directory, local_files_only=True
    )

  @property
  def longest(self) -> int:
    """Tokens that the model reads at most."""
    return self.max_length or llama.merge(self.graphdef, self.params).config.max_length

  @property
  def prefix_id(self) -> int:
    """What stands before a text that nothing precedes."""
    bos = self.hf.bos_token_id
    return self.tokenizer.eos_id if bos is None else bos

  def encode(self, text: str, *, plain: bool = False) -> list[int]:
    """The ids of a text; plain: without the tokens that begin a sequence."""
    begun = text.startswith(self.hf.decode([self.prefix_id]))
    if plain or begun:
      return self.hf.encode(text, add_special_tokens=False)
    return self.hf.encode(text)

  def split(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
    """The ids of both, as they are tokenised together."""
    if not context:
      ids = self.encode(continuation, plain=True)
      if ids[:1] == [self.prefix_id]:
        return ids[:1], ids[1:]
      return [self.prefix_id], ids
    kept = context.rstrip()  # spaces at the end belong to the next word's token
    whole, before = self.encode(context + continuation), self.encode(kept)
    return before or [self.prefix_id], whole[len(before) :]

  def loglikelihood(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[float, bool]]:
    """(ln p of the continuation, whether greedy decoding gives it) of each pair.

    A context that is too long loses its beginning. ConfigError where a continuation
    alone is too long, or empty.
    """
    keys = [request_hash('loglikelihood', *pair) for pair in pairs]
    groups: dict[tuple[int, ...], dict[str, list[int]]] = {}
    for key, pair in zip(keys, pairs, strict=True):
      context, continuation = self._fitting(*self.split(*pair), pair[1])
      groups.setdefault(tuple(context), {})[key] = continuation
    todo = [(c, list(some.values()), list(some)) for c, some in groups.items()]
    for chosen in self._unanswered(todo):
      for names, scores in self._scored(chosen):
        for name, one in zip(names, scores, strict=True):
          self._add(name, [one.total, one.greedy])
    return [(float(self.book[k][0]), bool(self.book[k][1])) for k in keys]

  def rolling(self, texts: Sequence[str]) -> list[float]:
    """ln p of each text, in windows where it is longer than the model reads."""
    keys = [request_hash('rolling', self.longest, text) for text in texts]
    own = dict(zip(keys, texts, strict=True))
    found: dict[str, list[float]] = {key: [] for key in own}
    pieces, count = [], {}
    for key, text in own.items():
      ids = windows(self.encode(text), self.prefix_id, self.longest)
      pieces += [(context, [continuation], [key]) for context, continuation in ids]
      count[key] = len(ids)
      if not ids:
        self._add(key, 0.0)
    for chosen in self._unanswered(pieces):
      for (key,), (one,) in self._scored(chosen):
        found[key].append(one.total)
        if len(found[key]) == count[key]:
          self._add(key, sum(found[key]))
    return [float(self.book[key]) for key in keys]

  def until(self, requests: Sequence[tuple[str, Decoding]]) -> list[str]:
    """The texts that continue each context, cut at the first stop.

    A text is what its tokens alone stand for, without special ones; a context that is
    too long loses its beginning. ConfigError where max_new_tokens leaves no room.
    """
    texts, places = [''] * len(requests), {}
    for n, (_, how) in enumerate(requests):
      places.setdefault(how, []).append(n)
    end = self.tokenizer.decode([self.tokenizer.eos_id])
    for how, own in places.items():
      room = self.longest - how.max_new_tokens
      if room < 1:
        raise ConfigError(
          f'max_new_tokens={how.max_new_tokens} leaves no room for a prompt in the '
          f"model's {self.longest} tokens; ask for fewer"
        )
      prompts = [self.encode(requests[n][0])[-room:] for n in own]
      for n, answer in zip(own, self.continuations(prompts, how), strict=True):
        text = self.hf.decode(answer.tokens, skip_special_tokens=True)
        texts[n] = cut_in_turn(text, (*how.stops, end))
    return texts

  def continuations(self, prompts: Sequence[Ids], how: Decoding) -> list[Answer]:
    """What the model makes of each prompt, ids that are taken as they are.

    A sampled one depends on the seed, the prompt and its place in the list.
    """
    described = json.loads(json.dumps(dataclasses.asdict(how)))
    sampled = how.sampling.temperature > 0
    keys = []
    for n, ids in enumerate(prompts):
      place = [self.seed, n] if sampled else []
      keys.append(request_hash('generate', list(map(int, ids)), described, *place))
    own = dict(zip(keys, prompts, strict=True))
    for names, key in self._batches(own, sampled):
      if all(name in self.book for name in names):
        continue
      for one in generate(
        self.graphdef,
        self.params,
        self.tokenizer,
        [own[name] for name in names],
        max_new_tokens=how.max_new_tokens,
        batch_size=self.batch_size,
        sampling=how.sampling,
        key=key,
        stop_ids=self.stop_ids or (self.tokenizer.eos_id,),
        stop_strings=[stop for stop in how.stops if stop],
        sharding=self._sharding(len(names)),
      ):
        self._add(names[one.index], [one.tokens, one.text])
    return [Answer(*self.book[key]) for key in keys]

  def _batches(self, own: dict[str, Ids], sampled) -> Iterator[tuple[list[str], Any]]:
    """(names, key) of requests that are generated in one call."""
    names = list(own)
    if not sampled:
      for chosen in batches.groups([len(own[n]) for n in names], self.batch_size):
        yield [names[i] for i in chosen], None
      return
    for n, start in enumerate(range(0, len(names), CHUNK)):
      key = jax.random.fold_in(jax.random.key(self.seed), n)
      yield names[start : start + CHUNK], key

  def _unanswered(self, todo: Sequence[tuple]) -> Iterator[list[tuple]]:
    """Batches of (context, continuations, names) of which an answer is missing."""
    lengths = [len(context) + max(map(len, some)) for context, some, _ in todo]
    for chosen in batches.groups(lengths, self.batch_size):
      own = [todo[int(i)] for i in chosen]
      if not all(name in self.book for *_, names in own for name in names):
        yield own

  def _scored(self, own: list[tuple]) -> Iterator[tuple]:
    """(names, scores) of a batch."""
    for n, scores in choices.score(
      self.graphdef,
      self.params,
      [(context, some) for context, some, _ in own],
      batch_size=self.batch_size,
      sharding=self._sharding(len(own)),
    ):
      yield own[n][2], scores

  def _sharding(self, rows: int) -> Any:
    """The sharding where it divides the rows of such a batch."""
    if self.sharding is None:
      return None
    height = batches.height(rows, self.batch_size)
    return None if height % self.sharding.num_devices else self.sharding

  def _fitting(self, context, continuation, text) -> tuple[list[int], list[int]]:
    """A pair of ids whose beginning is cut to what the model reads."""
    if not 1 <= len(continuation) <= self.longest:
      raise ConfigError(
        f'the continuation {text[:40]!r} has {len(continuation)} tokens; the model '
        f'reads 1 to {self.longest}'
      )
    most = self.longest + 1 - len(continuation)  # the last token is only predicted
    return context[-most:], continuation

  def _add(self, name: str, answer: Any) -> None:
    if name not in self.book:
      self.book.add(name, answer)


def windows(ids: Ids, prefix: int, longest: int) -> list[tuple[Ids, Ids]]:
  """(context, continuation) pairs that predict each id once.

  The first begins with `prefix` alone; each further one sees as much as fits.

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
  """The text cut at one stop after the other, as the harness does.

  It differs from a cut at the first one where two stops overlap.
  """
  for stop in stops:
    if stop:
      text = text.split(stop)[0]
  return text


def stop_ids(tokenizer: Tokenizer) -> tuple[int, ...]:
  """The ends of an answer: the tokenizer's and those that the model's files name."""
  found: list[int] = [tokenizer.eos_id]
  for name in ('config.json', 'generation_config.json'):
    file = Path(tokenizer.directory) / name
    named = json.loads(file.read_text()).get('eos_token_id') if file.exists() else None
    found += named if isinstance(named, list) else [named] if named is not None else []
  return tuple(sorted(set(found)))
