"""Live comparison with transformers: logits over a grid, both ways, and generation."""

import dataclasses
import itertools

import decoders
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_pretrained_saved import SAVED

from onlyif_jax.models import generate, llama, pretrained, rope
from onlyif_jax.models.rope import Rope

pytestmark = [pytest.mark.hf, pytest.mark.filterwarnings('default')]
L = 17
ROPES = {
  'none': {'rope_type': 'default', 'rope_theta': 1e4},
  'linear': {'rope_type': 'linear', 'rope_theta': 1e5, 'factor': 4.0},
  'llama3': {
    'rope_type': 'llama3',
    'rope_theta': 5e5,
    'factor': 8.0,
    'low_freq_factor': 1.0,
    'high_freq_factor': 4.0,
    'original_max_position_embeddings': 11,
  },
}
FAMILIES = {  # class, settings
  'llama': ('Llama', {}),
  'biased': ('Llama', {'attention_bias': True, 'mlp_bias': True}),
  'mistral': ('Mistral', {'sliding_window': 5}),
  'wide': ('Mistral', {'sliding_window': None}),
  'qwen2': ('Qwen2', {}),
  'later': (
    'Qwen2',
    {'use_sliding_window': True, 'sliding_window': 3, 'max_window_layers': 1},
  ),
}
# Heads tied in every other case: each pair of values of two columns occurs.
GRID = [
  (kv_heads, (n + m) % 2 == 1, kind, family)
  for (n, (kv_heads, kind)), (m, family) in itertools.product(
    enumerate(itertools.product((1, 2, 6), ROPES)), enumerate(FAMILIES)
  )
]


def random_model(seed, family, **settings):
  """A random model of transformers, its biases and norms random too."""
  transformers = pytest.importorskip('transformers')
  torch = pytest.importorskip('torch')
  torch.manual_seed(seed)
  config = getattr(transformers, f'{family}Config')(**settings)
  head = 'LMHeadModel' if family == 'GPT2' else 'ForCausalLM'
  model = getattr(transformers, f'{family}{head}')(config)
  with torch.no_grad():
    for weight in model.parameters():
      weight.add_(0.1 * torch.randn(weight.shape))
  return model.eval()


def theirs(model, tokens_BL, **more):
  import torch

  more = {k: torch.tensor(np.asarray(v)).long() for k, v in more.items()}
  with torch.no_grad():
    return model(torch.tensor(np.asarray(tokens_BL)).long(), **more).logits.numpy()


def ours(config, params, tokens_BL, **more):
  more = {k: jnp.asarray(v, jnp.int32) for k, v in more.items()}
  tokens_BL = jnp.asarray(tokens_BL, jnp.int32)
  return np.asarray(decoders.compiled(config)(params, tokens_BL, **more))


def close(got, want):
  assert np.abs(want).max() > 0.5
  np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)


def sizes(case):
  """Odd vocabularies and widths that are not heads x head width."""
  seed = GRID.index(case)
  kv_heads, tied, kind, _ = case
  return seed, {
    'vocab_size': 29 + 2 * (seed % 7),
    'hidden_size': 18,
    'intermediate_size': 23,
    'num_hidden_layers': 2,
    'num_attention_heads': 6,
    'num_key_value_heads': kv_heads,
    'head_dim': 10,
    'max_position_embeddings': 53,
    'tie_word_embeddings': tied,
    'rope_parameters': ROPES[kind],
  }


@pytest.mark.parametrize('case', GRID, ids=lambda c: '-'.join(map(str, c)))
def test_logits_over_the_grid(tmp_path, case):
  """Plain, padded left and right, and packed rows against separate ones."""
  seed, settings = sizes(case)
  family, more = FAMILIES[case[3]]
  model = random_model(seed, family, **settings, **more)
  model.save_pretrained(tmp_path)
  config, params = pretrained.load(tmp_path)
  rng = np.random.default_rng(seed)
  tokens_BL = rng.integers(0, config.vocab_size, (3, L))
  plain = theirs(model, tokens_BL)
  close(ours(config, params, tokens_BL), plain)
  lengths_B = np.array([L, 4, 11])
  for flip in (1, -1):
    real_BL = np.arange(L)[None, ::flip] < lengths_B[:, None]
    positions_BL = np.maximum(real_BL.cumsum(1) - 1, 0)
    mask = {'attention_mask': real_BL, 'position_ids': positions_BL}
    want = theirs(model, tokens_BL, **mask)
    got = ours(config, params, tokens_BL, segments_BL=real_BL)
    close(got[real_BL], want[real_BL])
  parts = (4, 11, 2)
  packed_L = np.concatenate([tokens_BL[n, :size] for n, size in enumerate(parts)])
  packed_BL, segments_BL = (
    np.tile(x, (3, 1)) for x in (packed_L, np.repeat([1, 2, 3], parts))
  )
  got = ours(config, params, packed_BL, segments_BL=segments_BL)[1]
  close(got, np.concatenate([plain[n, :size] for n, size in enumerate(parts)]))


@pytest.mark.parametrize('name', SAVED)
def test_saved_models_give_the_same_logits_in_transformers(tmp_path, name):
  transformers = pytest.importorskip('transformers')
  config = SAVED[name]
  params = jax.tree.map(lambda x: 0.5 * x, decoders.params(config))
  pretrained.save(tmp_path / 'out', config, params, max_shard_bytes=20_000)
  model, info = transformers.AutoModelForCausalLM.from_pretrained(
    tmp_path / 'out', output_loading_info=True
  )
  assert not info['missing_keys'], info
  assert not info['unexpected_keys'], info
  assert not info['mismatched_keys'], info
  tokens_BL = decoders.tokens(2, 5, L)
  close(ours(config, params, tokens_BL), theirs(model.eval(), tokens_BL))


@pytest.mark.parametrize('kind', ROPES)
@pytest.mark.parametrize('theta', [1e4, 1e5, 1e6])
def test_rope_rates_are_those_of_transformers(kind, theta):
  spec = ROPES[kind] | {'rope_theta': theta}
  model = random_model(
    *(0, 'Llama'),
    **{'vocab_size': 11, 'hidden_size': 256, 'num_hidden_layers': 1},
    **{'num_attention_heads': 2, 'intermediate_size': 3, 'rope_parameters': spec},
  )
  want = model.model.rotary_emb.inv_freq.numpy()
  numbers = [spec.get(k) for k in list(ROPES['llama3'])[2:]]
  given = Rope(theta, spec['rope_type'].replace('none', 'default'))
  names = ('factor', 'low_factor', 'high_factor', 'original_length')
  known = {k: v for k, v in zip(names, numbers, strict=True) if v is not None}
  got = rope.rates(dataclasses.replace(given, **known), 128)
  np.testing.assert_allclose(got, want, rtol=3e-7)
  assert (got == want).mean() > (0.9 if kind != 'llama3' else 0.5)


@pytest.mark.parametrize('family', ['Mistral', 'Qwen2', 'GPT2'])
def test_greedy_continuations_are_those_of_transformers(tmp_path, family):
  torch = pytest.importorskip('torch')
  case = GRID[7]
  settings = sizes(case)[1] | {'tie_word_embeddings': False}
  if family == 'GPT2':
    names = {'n_embd': 18, 'n_layer': 2, 'n_head': 6, 'n_positions': 53}
    settings = {'vocab_size': 43, 'tie_word_embeddings': False, **names}
  model = random_model(
    6, family, **settings, **({'sliding_window': 5} if family == 'Mistral' else {})
  )
  model.save_pretrained(tmp_path)
  config, params = pretrained.load(tmp_path)
  rng = np.random.default_rng(1)
  rows = [rng.integers(0, config.vocab_size, size).tolist() for size in (3, 11, 7, 5)]
  width = max(map(len, rows))
  padded = torch.tensor([[0] * (width - len(row)) + row for row in rows])
  mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
  new = 13
  out = model.generate(
    *(padded,),
    **{'attention_mask': mask, 'max_new_tokens': new, 'min_new_tokens': new},
    **{'do_sample': False, 'pad_token_id': 0, 'eos_token_id': None},
  )
  made = generate.generate(
    *(llama.graphdef(config), params, None, rows),
    **{'max_new_tokens': new, 'stop_ids': ()},
  )
  found = {one.index: one.tokens for one in made}
  assert [found[n] for n in range(len(rows))] == out[:, width:].tolist()
  assert len({token for row in found.values() for token in row}) > 2
