"""Generation and scoring: equal to full forward passes, row by row, in any batch."""

import dataclasses
import functools

import decoders
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from decoders import GROUPED, LEARNED
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from onlyif_jax.config import ConfigError
from onlyif_jax.models import batches, choices, llama
from onlyif_jax.models.generate import Sampling, advance, generate, pick, start

NEW = 13
SIZES = (3, 11, 7, 5, 2)
PROMPTS = [decoders.tokens(n, size).tolist() for n, size in enumerate(SIZES)]
LETTERS = '_abcdefghijklmnopqrstuvwxyz0123456789'


class Letters:
  """One letter for each id; decoding drops a first space, as SentencePiece does."""

  bos_id = 36
  eos_id = None
  space = ''

  def encode(self, text):
    return [LETTERS.index(c) for c in text]

  def decode(self, ids):
    return ''.join(LETTERS[n] for n in ids).removeprefix(self.space)


def run(config, prompts=PROMPTS, **more):
  """Generations in the order of the prompts."""
  options = {'max_new_tokens': NEW, 'batch_size': 8} | more
  made = list(
    generate(
      *(llama.graphdef(config), decoders.params(config)),
      *(options.pop('tokenizer', Letters()), prompts),
      **options,
    )
  )
  assert sorted(one.index for one in made) == list(range(len(prompts)))
  return sorted(made, key=lambda one: one.index)


@functools.cache
def greedy(config):
  return [one.tokens for one in run(config)]


@pytest.mark.parametrize('config', [GROUPED, LEARNED], ids=['grouped', 'learned'])
def test_greedy_is_the_argmax_of_full_forward_passes(config):
  """One pass over each finished row: every token is the best after those before."""
  rows = [p + made for p, made in zip(PROMPTS, greedy(config), strict=True)]
  width = max(map(len, rows))
  whole_BL = batches.pad(rows, (len(rows), width), left=False)
  best_BL = decoders.logits(config, whole_BL).argmax(-1)
  for prompt, row, best_L in zip(PROMPTS, rows, best_BL, strict=True):
    assert row[len(prompt) :] == best_L[len(prompt) - 1 : len(row) - 1].tolist()
  assert len({token for made in greedy(config) for token in made}) > 2
  assert all(len(made) == NEW for made in greedy(config))


def test_a_row_depends_on_no_other_row():
  """In batches of two and all at once; the index addresses the random numbers."""
  config = dataclasses.replace(GROUPED, layers=1, window_from=0)
  more = {'sampling': Sampling(0.7, 0.9, 11), 'key': jax.random.key(5)}
  whole = [one.tokens for one in run(config, **more)]
  assert [one.tokens for one in run(config, batch_size=2, **more)] == whole
  same = run(config, [PROMPTS[1]] * 2, batch_size=2, **more)
  assert same[0].tokens != same[1].tokens
  assert same[1].tokens == whole[1]
  other = run(config, **(more | {'key': jax.random.key(6)}))
  assert [one.tokens for one in other] != whole


def test_stop_ids_end_a_row_and_are_left_out():
  tokens = greedy(GROUPED)
  stops = (tokens[0][4], tokens[1][0])
  for one, all_of_it in zip(run(GROUPED, stop_ids=stops), tokens, strict=True):
    place = min([all_of_it.index(s) for s in stops if s in all_of_it] or [NEW])
    assert one.tokens == all_of_it[:place]
    assert one.ended == ('length' if place == NEW else 'stop_id')
    assert one.text == ''.join(LETTERS[n] for n in one.tokens)
  assert run(GROUPED, stop_ids=stops)[1].tokens == []


@pytest.mark.parametrize('every', [1, 4, 16])
def test_stop_strings_cut_the_text(every):
  texts = [''.join(LETTERS[n] for n in made) for made in greedy(GROUPED)]
  stops = (texts[0][3:6], texts[1][0:2], texts[2][-1:], 'never')
  found = run(GROUPED, stop_strings=stops, check_every=every)
  kinds = set()
  for one, text, tokens in zip(found, texts, greedy(GROUPED), strict=True):
    ends = {s: text.find(s) + len(s) for s in stops if s in text}
    kinds.add(one.ended)
    if not ends:
      assert (one.text, one.ended, one.tokens) == (text, 'length', tokens)
      continue
    end = min(ends.values())
    cut = min(text.find(s) for s in ends if ends[s] == end)
    assert (one.text, one.ended) == (text[:cut], 'stop_string')
    assert one.tokens == tokens[:end]
  assert 'stop_string' in kinds


def test_texts_continue_their_prompts():
  """Leading spaces depend on the prompt, which is therefore decoded along."""
  texts = ['ab', 'hello']
  made = run(LEARNED, texts)
  given = [[36, *Letters().encode(text)] for text in texts]
  assert [one.tokens for one in made] == [one.tokens for one in run(LEARNED, given)]
  for one in made:
    assert one.text == ''.join(LETTERS[n] for n in one.tokens)
  spaced = Letters()
  spaced.space = made[0].text[0]
  for one, same in zip(run(LEARNED, given, tokenizer=spaced), made, strict=True):
    assert one.text == same.text
  bare = run(LEARNED, given, tokenizer=None)
  assert [(one.tokens, one.text) for one in bare] == [(one.tokens, '') for one in made]


def test_few_shapes_are_compiled():
  """Prompts of 24 lengths: two programs for each bucket, with stops none more."""
  config = dataclasses.replace(GROUPED, layers=1, vocab_size=31, window=None)
  start.clear_cache()
  advance.clear_cache()
  prompts = [[n % 31] * n for n in range(1, 25)]
  for more in ({}, {'stop_strings': ('!',), 'check_every': 3}):
    run(config, prompts, batch_size=5, **({'max_new_tokens': 7} | more))
    assert (start._cache_size(), advance._cache_size()) == (2, 2)
  assert {batches.bucket(n) for n in range(1, 25)} == {16, 24}


def test_buckets_waste_at_most_half():
  found = [batches.bucket(n) for n in range(1, 3000)]
  assert found == sorted(found)
  assert all(n <= size for n, size in enumerate(found, 1))
  assert all(size <= 1.5 * n + 1 for n, size in enumerate(found, 1) if n > 16)
  assert len(set(found)) == 16
  assert [g.tolist() for g in batches.groups([3, 9, 3, 7], 3)] == [[1, 3, 0], [2]]
  assert [batches.height(n, 8) for n in (1, 2, 3, 5, 9)] == [1, 2, 4, 8, 8]


def test_loops_end_when_all_rows_have():
  graphdef, params = llama.graphdef(GROUPED), decoders.params(GROUPED)
  tokens = greedy(GROUPED)
  stop_S = jnp.asarray([tokens[0][0], tokens[1][4]])
  rows = batches.pad(PROMPTS[:2], (8, 16), left=True)
  sizes_B = jnp.asarray([*SIZES[:2], 0, 0, 0, 0, 0, 0])
  how = {'key': None, 'stop_S': stop_S, 'static': (NEW, Sampling())}
  state = start(graphdef, params, rows, sizes_B, jnp.arange(8), **how)
  assert state.done_B[0]
  assert not state.done_B[1]
  state = advance(graphdef, params, state=state, limit=NEW, **how)
  assert (
    int(state.made) == min(tokens[1].index(n) for n in stop_S if n in tokens[1]) + 1
  )
  assert state.done_B.all()


def test_rows_may_be_sharded_over_devices():
  mesh = jax.make_mesh((2,), ('data',), axis_types=(AxisType.Auto,))
  sharding = NamedSharding(mesh, P('data'))
  found = run(LEARNED, PROMPTS[:4], sharding=sharding)
  assert [one.tokens for one in found] == greedy(LEARNED)[:4]


def wanted_shares(logits_V, sampling):
  """The distribution that is sampled, in float64 and with a loop."""
  p = np.exp(np.float64(logits_V) / sampling.temperature)
  order = list(np.argsort(-p, kind='stable'))
  order = order[: sampling.top_k or None]
  total, kept, held = sum(p[i] for i in order), [], 0.0
  for i in order:
    if held < sampling.top_p:
      kept.append(i)
    held += p[i] / total
  out = np.zeros_like(p)
  out[kept] = p[kept]
  return out / out.sum()


@pytest.mark.parametrize(
  'sampling',
  [Sampling(1.3), Sampling(0.8, top_k=5), Sampling(1.0, 0.6), Sampling(1.1, 0.7, 7)],
)
def test_samples_follow_the_cut_distribution(sampling):
  logits_V = np.random.default_rng(4).normal(0, 1.5, 19).astype(np.float32)
  n = 20_000
  draw = jax.jit(pick, static_argnums=1)
  logits_BV = jnp.tile(jnp.asarray(logits_V)[None], (n, 1))
  found = draw(logits_BV, sampling, jax.random.key(1), jnp.arange(n), jnp.int32(3))
  share_V = np.bincount(np.asarray(found), minlength=19) / n
  want_V = wanted_shares(logits_V, sampling)
  assert ((share_V > 0) <= (want_V > 0)).all()
  assert (np.abs(share_V - want_V) < 5 * np.sqrt(want_V / n) + 1e-9).all()
  assert (want_V == 0).any() == bool(sampling.top_k or sampling.top_p < 1)
  later = draw(logits_BV, sampling, jax.random.key(1), jnp.arange(n), jnp.int32(4))
  assert (np.asarray(later) != np.asarray(found)).mean() > 0.3


def test_scores_are_those_of_full_forward_passes():
  """Continuations: the greedy one, one changed at the end, and random ones."""
  config = GROUPED
  best = greedy(config)[1]
  pairs = [
    (PROMPTS[1], best),
    (PROMPTS[1], [*best[:-1], (best[-1] + 1) % 37]),
    *((PROMPTS[n], decoders.tokens(9 + n, 2 * n + 1).tolist()) for n in range(5)),
  ]
  graphdef, params = llama.graphdef(config), decoders.params(config)
  groups = [(context, [continuation]) for context, continuation in pairs]
  scored = choices.score(graphdef, params, groups, batch_size=4)
  found = {n: own for n, (own,) in scored}
  rows = [[*context, *continuation] for context, continuation in pairs]
  whole_BL = batches.pad(rows, (len(rows), 24), left=False)
  logits = np.float64(decoders.logits(config, whole_BL))
  logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
  for n, (context, continuation) in enumerate(pairs):
    at = np.arange(len(context) - 1, len(rows[n]) - 1)
    want = logp[n, at, continuation]
    np.testing.assert_allclose(found[n].logprobs, want, atol=2e-5)
    assert found[n].total == pytest.approx(want.sum(), abs=1e-4)
    assert found[n].greedy == (logits[n, at].argmax(-1) == continuation).all()
  assert [found[n].greedy for n in range(2)] == [True, False]


@pytest.mark.parametrize(
  ('prompts', 'more', 'words'),
  [
    ([[1], []], {}, 'prompt 1 is empty'),
    ([[1], [2, 37]], {}, 'prompt 1 has ids that are not below vocab_size=37'),
    ([[1] * 41], {}, 'make 54 tokens, but the model has 53 positions'),
    ([[1]], {'sampling': Sampling(0.5)}, 'sampling needs a key'),
    ([[1]], {'max_new_tokens': 0}, 'max_new_tokens=0 must be at least 1'),
    (['a'], {'stop_strings': ('b', '')}, 'and letters in each'),
    (['a'], {'tokenizer': None}, 'given as text needs a tokenizer'),
    ([[1]], {'tokenizer': None, 'stop_strings': ('a',)}, 'stop_strings need a'),
  ],
)
def test_errors_name_what_is_wrong(prompts, more, words):
  with pytest.raises(ConfigError, match=words):
    run(LEARNED, prompts, **more)


def test_errors_of_scoring():
  graphdef, params = llama.graphdef(LEARNED), decoders.params(LEARNED)
  for pair, words in (
    (([], [1]), 'group 0 has an empty context'),
    (([1], []), 'group 0 has an empty context or continuation'),
    (([1], [2, -1]), 'group 0 has ids that are not below vocab_size=37'),
    (([1] * 50, [1] * 5), 'group 0 needs 54 positions, but the model has 53'),
  ):
    with pytest.raises(ConfigError, match=words):
      choices.score(graphdef, params, [(pair[0], [pair[1]])])
  # A model with rotary positions has no such limit, nor does an empty list fail.
  assert list(choices.score(graphdef, params, [])) == []
