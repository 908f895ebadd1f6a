import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from onlyif_jax.config import ConfigError
from onlyif_jax.models import decode
from onlyif_jax.models.gpt2 import GPT2, GPT2Config
from onlyif_jax.tasks.tokens import EOS, PAD

CONFIG = GPT2Config(vocab_size=7, max_length=13, layers=2, width=22, heads=11)
LENGTH = 13

greedy = functools.partial(jax.jit, static_argnums=(0, 4, 5))(decode.greedy)


@functools.cache
def abstract_model(positions):
  config = dataclasses.replace(CONFIG, positions=positions)
  return nnx.split(nnx.eval_shape(lambda: GPT2(config, rngs=nnx.Rngs(0))), nnx.Param)


def random_model(positions, seed=0):
  """A model whose outputs vary: at the usual std it repeats its input token."""
  graphdef, state = abstract_model(positions)
  rng = np.random.default_rng(seed)
  params = jax.tree.map(
    lambda x: rng.normal(0, 0.4, x.shape).astype(np.float32), nnx.to_pure_dict(state)
  )
  # Rows are to end, some early and some late or never.
  params['norm']['bias'] += 0.15 * params['embed']['embedding'][EOS]
  return graphdef, params


def random_prompts(rows, seed=0):
  rng = np.random.default_rng(seed)
  lengths = rng.integers(1, 6, rows)
  tokens_BL = rng.integers(2, CONFIG.vocab_size, (rows, LENGTH))
  return tokens_BL.astype(np.int32), lengths.astype(np.int32)


def forward(graphdef, params):
  """tokens [B, LENGTH] -> argmax ids, by full forward passes."""
  model = jax.jit(lambda t: nnx.merge(graphdef, params)(t).argmax(-1))
  return lambda tokens: np.asarray(model(jnp.asarray(tokens)))


def by_forward_passes(graphdef, params, prompt_BL, lengths_B):
  """Greedy decoding as a reader would write it: one full pass per token."""
  best = forward(graphdef, params)
  out = np.where(np.arange(LENGTH) < lengths_B[:, None], prompt_BL, PAD)
  for t in range(1, LENGTH):
    top_B = best(out)[:, t - 1]
    for b in range(len(out)):
      ended = EOS in out[b, lengths_B[b] : t]
      if t >= lengths_B[b] and not ended:
        out[b, t] = top_B[b]
  return out


@pytest.mark.parametrize('positions', ['learned', 'rotary'])
def test_equals_full_forward_passes(positions):
  graphdef, params = random_model(positions)
  prompt_BL, lengths_B = random_prompts(53)
  want = by_forward_passes(graphdef, params, prompt_BL, lengths_B)
  got = np.asarray(greedy(graphdef, params, prompt_BL, lengths_B, LENGTH))
  np.testing.assert_array_equal(got, want)
  ends = [EOS in row[n:] for row, n in zip(got, lengths_B, strict=True)]
  assert 0 < sum(ends) < len(ends), 'both rows that end and rows that do not'
  assert len(set(lengths_B.tolist())) == 5
  # What stands behind a prompt is not read, and neither is the row's width.
  narrow = np.where(np.arange(LENGTH) < lengths_B[:, None], prompt_BL, PAD)[:, :5]
  again = greedy(graphdef, params, narrow, lengths_B, LENGTH)
  np.testing.assert_array_equal(np.asarray(again), want)


def test_pads_after_the_chosen_end_token():
  graphdef, params = random_model('rotary')
  prompt_BL, lengths_B = random_prompts(53)
  free = np.asarray(greedy(graphdef, params, prompt_BL, lengths_B, LENGTH, eos=-1))
  share_V = (free[:, 5:, None] == np.arange(CONFIG.vocab_size)).any(1).mean(0)
  end = int(np.abs(share_V - 0.5).argmin())  # another end token, which some rows meet
  got = np.asarray(greedy(graphdef, params, prompt_BL, lengths_B, LENGTH, eos=end))
  stopped = 0
  for row, ref, n in zip(got, free, lengths_B, strict=True):
    at = [t for t in range(n, LENGTH) if ref[t] == end][:1]
    stop = at[0] + 1 if at else LENGTH  # an `end` inside the prompt ends nothing
    stopped += bool(at)
    np.testing.assert_array_equal(row[:stop], ref[:stop])
    assert (row[stop:] == PAD).all()
  assert 0 < stopped < len(got)


def test_ties_go_to_the_lowest_id():
  graphdef, params = random_model('learned')
  params = jax.tree.map(np.zeros_like, params)
  params['norm']['bias'][0] = 1.0
  for tied in ((3, 5), (2, 6)):
    params['embed']['embedding'][:, 0] = np.isin(np.arange(CONFIG.vocab_size), tied)
    out = greedy(graphdef, params, np.full((1, 1), 4), np.array([1]), LENGTH)
    assert out[0, 1:].tolist() == [tied[0]] * (LENGTH - 1)


def test_cache_takes_several_positions_at_once():
  graphdef, params = random_model('rotary')
  tokens_BL = jnp.asarray(random_prompts(3)[0])

  @jax.jit
  def apply(tokens, positions, cache):
    return nnx.merge(graphdef, params)(tokens, positions_BL=positions, cache=cache)

  whole = jax.jit(lambda t: nnx.merge(graphdef, params)(t))(tokens_BL)
  cache, parts = decode.empty_cache(CONFIG, 3, LENGTH), []
  for start, stop in ((0, 5), (5, 7), (7, LENGTH)):
    positions = jnp.broadcast_to(jnp.arange(start, stop), (3, stop - start))
    logits, cache = apply(tokens_BL[:, start:stop], positions, cache)
    parts.append(logits)
  assert [int(layer.used) for layer in cache] == [LENGTH] * CONFIG.layers
  np.testing.assert_allclose(np.concatenate(parts, axis=1), whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
  'positions', ['rotary', pytest.param('learned', marks=pytest.mark.slow)]
)
def test_teacher_forced_verdict_is_greedy_exact_match(positions):
  graphdef, params = random_model(positions, seed=3)
  rows = 499
  rng = np.random.default_rng(1)
  prompt_BL, lengths_B = random_prompts(rows, seed=1)
  own_BL = np.array(greedy(graphdef, params, prompt_BL, lengths_B, LENGTH))
  tokens_BL, at_L = own_BL.copy(), np.arange(LENGTH)
  live_BL = np.zeros((rows, LENGTH), bool)
  # Answers: the model's own, or that with one token changed, or random ones.
  for b in range(rows):
    first = lengths_B[b]
    stop = rng.integers(first + 1, LENGTH + 1)
    if b % 3 == 1:
      t = rng.integers(first, stop)
      tokens_BL[b, t] = rng.integers(2, CONFIG.vocab_size)
    if b % 3 == 2:
      tokens_BL[b, first:] = rng.integers(2, CONFIG.vocab_size, LENGTH - first)
    ends = np.flatnonzero((tokens_BL[b] == EOS) & (at_L >= first))
    end = ends[0] if len(ends) else stop - 1
    tokens_BL[b, end], tokens_BL[b, end + 1 :] = EOS, PAD
    live_BL[b, first : end + 1] = True
  best_BL = forward(graphdef, params)(tokens_BL)
  right_BL = best_BL[:, :-1] == tokens_BL[:, 1:]
  forced_B = (right_BL | ~live_BL[:, 1:]).all(-1)
  free_BL = greedy(graphdef, params, tokens_BL, lengths_B, LENGTH)
  np.testing.assert_array_equal(forced_B, (free_BL == tokens_BL).all(-1))
  assert 0.05 * rows < forced_B.sum() < 0.95 * rows
  # Some answers are right but for the end token, and that counts as wrong.
  but_end_B = (right_BL | ~live_BL[:, 1:] | (tokens_BL[:, 1:] == EOS)).all(-1)
  assert (but_end_B & ~forced_B).any()


def test_too_few_positions_are_refused():
  graphdef, params = random_model('learned')
  prompt_BL, lengths_B = random_prompts(3)
  with pytest.raises(ConfigError, match='14 tokens: the model has 13 positions'):
    greedy(graphdef, params, prompt_BL, lengths_B, LENGTH + 1)
