"""Hugging Face directories of Llama's family and GPT-2: in, out, and refused."""

import dataclasses
import functools
import json
import math
import shutil
from pathlib import Path

import decoders
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from published_configs import PUBLISHED
from safetensors.numpy import load_file, save_file

from onlyif_jax.config import ConfigError
from onlyif_jax.models import llama, pretrained, pretrained_config
from onlyif_jax.models.llama import DecoderConfig
from onlyif_jax.models.rope import Rope

DATA = Path(__file__).parent / 'data'
TINY = DATA / 'tiny_llama'
RECORDED = {
  'llama': DecoderConfig(29, 53, 2, 18, 17, 6, 6, 6),
  'mistral': DecoderConfig(
    *(37, 53, 2, 18, 31, 6, 2, 10, 'mistral', Rope(1e6)),
    norm_epsilon=1e-6,
    window=5,
  ),
  'deepseek': DecoderConfig(
    *(43, 53, 2, 18, 23, 6, 3, 8, 'llama', Rope(1e5, 'linear', 4.0)),
    norm_epsilon=1e-6,
  ),
  'qwen2': DecoderConfig(
    *(47, 53, 2, 24, 19, 6, 1, 4, 'qwen2'),
    norm_epsilon=1e-6,
    qkv_bias=True,
    tied_head=True,
  ),
  '../tiny_gpt2': DecoderConfig(
    *(37, 17, 3, 20, 80, 5, 5, 4, 'gpt2', None, 'layer', 1e-5, 'gelu_new'),
    *(True, True, True),
    tied_head=True,
  ),
}


@functools.cache
def loaded(name):
  return pretrained.load(TINY / name)


def logits(config, params, tokens_BL):
  return np.asarray(
    decoders.compiled(config)(params, jnp.asarray(tokens_BL, jnp.int32))
  )


def equal(got, want):
  assert jax.tree.structure(got) == jax.tree.structure(want)
  jax.tree.map(np.testing.assert_array_equal, got, want)


@pytest.fixture
def directory(tmp_path):
  """A copy of the recorded Llama, to be changed."""
  return shutil.copytree(TINY / 'llama', tmp_path / 'model')


def edit(directory, **changes):
  """Changes attributes; ... removes one."""
  file = directory / 'config.json'
  given = json.loads(file.read_text()) | changes
  given = {k: v for k, v in given.items() if v is not ...}
  file.write_text(json.dumps(given))


def edit_tensors(directory, change):
  file = directory / 'model.safetensors'
  save_file(change(load_file(file)), file)


def refused(directory) -> str:
  with pytest.raises(ConfigError) as error:
    pretrained.load(directory)
  message = str(error.value)
  assert '\n' not in message
  assert str(directory) in message
  return message


@pytest.mark.parametrize('name', RECORDED)
def test_recorded_models_give_the_recorded_logits(name):
  config, params = loaded(name)
  assert config == RECORDED[name]
  recorded = np.load(TINY / name / 'logits.npz')
  got = logits(config, params, recorded['tokens'])
  assert np.abs(recorded['logits']).max() > 1
  np.testing.assert_allclose(got, recorded['logits'], rtol=0, atol=1e-5)


def test_recorded_files_are_small():
  files = [file for file in TINY.rglob('*') if file.is_file()]
  assert sum(file.stat().st_size for file in files) < 200_000
  assert len(list((TINY / 'mistral').glob('*.safetensors'))) == 3


@pytest.mark.parametrize('name', PUBLISHED)
def test_published_configs_have_the_published_sizes(name):
  given, count = PUBLISHED[name]
  config = pretrained_config.parse(given)

  def parameters(layers):
    shapes = llama.shapes(dataclasses.replace(config, layers=layers))
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))

  one, two = parameters(1), parameters(2)
  assert one + (config.layers - 1) * (two - one) == count
  wanted = {
    'Llama-2-7b-hf': (Rope(), 1e-5, 32, False),
    'Mistral-7B-v0.3': (Rope(1e6), 1e-5, 8, False),
    'deepseek-coder-6.7b-base': (Rope(1e5, 'linear', 4.0), 1e-6, 32, False),
    'CodeQwen1.5-7B': (Rope(1e6), 1e-5, 4, True),
  }[name]
  c = config
  assert (c.rope, c.norm_epsilon, c.kv_heads, c.qkv_bias) == wanted
  assert (c.window, c.head_width, c.family) == (None, 128, given['model_type'])
  assert pretrained_config.parse(pretrained_config.attributes(config)) == config


@pytest.mark.parametrize('name', ['mistral', 'deepseek'])
def test_published_spelling_of_rope_is_the_same_model(tmp_path, name):
  directory = shutil.copytree(TINY / name, tmp_path / 'model')
  spec = json.loads((directory / 'config.json').read_text())['rope_parameters']
  scaling = {'type': 'linear', 'factor': 4.0} if 'factor' in spec else None
  old = {'rope_theta': spec['rope_theta'], 'rope_scaling': scaling}
  edit(directory, rope_parameters=..., **old)
  assert pretrained_config.read(directory) == RECORDED[name]
  edit(directory, rope_parameters=spec)  # both, in agreement
  assert pretrained_config.read(directory) == RECORDED[name]
  edit(directory, rope_theta=spec['rope_theta'] + 1)
  assert 'contradict' in refused(directory)


def test_llama3_scaling_and_windows_of_later_layers():
  given = pretrained_config.attributes(RECORDED['llama'])
  numbers = {'factor': 8.0, 'low_freq_factor': 1.0, 'high_freq_factor': 4.0}
  scaling = {'rope_type': 'llama3', **numbers, 'original_max_position_embeddings': 31}
  given |= {'rope_parameters': ..., 'rope_scaling': scaling, 'rope_theta': 5e5}
  given.pop('rope_parameters')
  rope = pretrained_config.parse(given).rope
  assert rope == Rope(5e5, 'llama3', 8.0, 1.0, 4.0, 31)
  given = pretrained_config.attributes(RECORDED['qwen2'])
  given |= {'use_sliding_window': True, 'sliding_window': 7, 'max_window_layers': 1}
  given.pop('layer_types')
  config = pretrained_config.parse(given)
  assert (config.window, config.window_from) == (7, 1)
  again = pretrained_config.attributes(config)
  assert again['layer_types'] == ['full_attention', 'sliding_attention']
  assert pretrained_config.parse(again) == config
  assert pretrained_config.parse(given | {'max_window_layers': 2}).window is None


@pytest.mark.parametrize(
  ('changes', 'words'),
  [
    ({'logit_scale': 0.5}, 'logit_scale=0.5 is not known to be supported'),
    ({'hidden_act': 'gelu'}, "hidden_act='gelu' is not supported, only 'silu'"),
    ({'attention_dropout': 0.1}, 'attention_dropout=0.1 is not supported, only 0'),
    ({'quantization_config': {'bits': 4}}, "quantization_config={'bits': 4} is not"),
    ({'sliding_window': 7}, 'sliding_window=7 is not known to be supported'),
    ({'model_type': 'gemma'}, "model_type='gemma' is not supported, only llama, mis"),
    ({'architectures': ['LlamaForSequenceClassification']}, 'only LlamaForCausalLM'),
    ({'num_hidden_layers': '2'}, "num_hidden_layers='2' must be a whole number"),
    ({'vocab_size': ...}, 'vocab_size is missing'),
    ({'num_key_value_heads': 4}, 'num_key_value_heads=4 does not divide num_att'),
    ({'head_dim': 5}, 'head_dim=5 must be an even number'),
    ({'head_dim': None, 'hidden_size': 19}, 'num_attention_heads=6 does not divide'),
    ({'rope_parameters': {'rope_type': 'yarn'}}, "of type 'yarn' is not supported"),
    ({'rope_parameters': {'rope_type': 'linear'}}, "type 'linear' lacks factor"),
    ({'rope_parameters': {'beta_fast': 32}}, 'beta_fast=32 is not known'),
    ({'rope_parameters': {'partial_rotary_factor': 0.5}}, 'partial_rotary_factor is'),
    ({'rope_scaling': {'type': 'linear', 'factor': 2}}, 'contradict each other'),
    ({'num_hidden_layers': 1}, 'tensors that this llama does not have: model.layers.1'),
    ({'num_hidden_layers': 3}, 'tensors are missing: model.layers.2.input_layernorm'),
    ({'intermediate_size': 19}, 'weight has shape (18, 17), expected (18, 19)'),
    ({'attention_bias': True}, 'missing: model.layers.0.self_attn.k_proj.bias'),
    ({'tie_word_embeddings': True}, 'lm_head.weight differs from the tied embedding'),
  ],
)
def test_what_is_not_supported_is_refused_by_name(directory, changes, words):
  edit(directory, **changes)
  assert words in refused(directory)


@pytest.mark.parametrize(
  ('changes', 'words'),
  [
    ({'rms_norm_eps': None}, 'rms_norm_eps=None must be a number'),
    ({'rope_scaling': 'linear'}, "rope_scaling='linear' must be an object"),
    ({'rope_parameters': [3]}, 'rope_parameters=[3] must be an object'),
    ({'rope_parameters': {'rope_type': ['linear']}}, "type ['linear'] is not"),
    ({'rope_theta': {}, 'rope_parameters': {'rope_theta': []}}, 'rope_theta=[] must'),
    ({'model_type': ['llama']}, "model_type=['llama'] is not supported"),
    ({'architectures': 3}, 'architecture 3 is not supported'),
  ],
)
def test_attributes_of_another_type_are_one_line(directory, changes, words):
  edit(directory, **changes)
  assert words in refused(directory)


def test_attributes_of_another_type_in_other_families_are_one_line(tmp_path):
  for name, changes, words in (
    ('qwen2', {'max_window_layers': None}, 'max_window_layers=None must be a whole'),
    ('qwen2', {'layer_types': 3}, 'layer_types=3 must be a list'),
    ('../tiny_gpt2', {'n_inner': '48'}, "n_inner='48' must be a whole number"),
    ('../tiny_gpt2', {'layer_norm_epsilon': None}, 'layer_norm_epsilon=None must be a'),
  ):
    directory = shutil.copytree(TINY / name, tmp_path / next(iter(changes)))
    edit(directory, **changes)
    assert words in refused(directory)


def test_windows_that_differ_by_layer_are_refused(tmp_path):
  directory = shutil.copytree(TINY / 'qwen2', tmp_path / 'model')
  kinds = ['sliding_attention', 'full_attention']
  edit(directory, layer_types=kinds, use_sliding_window=True, sliding_window=3)
  assert 'layer_types' in refused(directory)
  edit(directory, layer_types=kinds[::-1], use_sliding_window=False)
  assert 'layer_types' in refused(directory)
  edit(directory, layer_types=..., max_window_layers=0, use_sliding_window=True)
  assert pretrained_config.read(directory).window == 3
  edit(directory, sliding_window=0)
  assert 'sliding_window=0 must be a whole number' in refused(directory)


def test_damaged_directories_are_refused(directory):
  weights = directory / 'model.safetensors'
  whole = weights.read_bytes()
  for size in (len(whole) - 1, 1000, 5, 0):
    weights.write_bytes(whole[:size])
    assert 'model.safetensors cannot be read' in refused(directory)
  weights.unlink()
  assert 'has neither model.safetensors nor' in refused(directory)
  index = directory / 'model.safetensors.index.json'
  index.write_text(json.dumps({'weight_map': {'a': 'model-1.safetensors'}}))
  assert 'model-1.safetensors, which' in refused(directory)
  index.write_text('{"weight_map": 3}')
  assert 'index.json cannot be read' in refused(directory)
  (directory / 'config.json').write_text('{"vocab_size": 3')
  assert 'config.json cannot be read' in refused(directory)
  (directory / 'config.json').write_text('[]')
  assert 'holds no object' in refused(directory)
  (directory / 'config.json').unlink()
  assert 'config.json cannot be read' in refused(directory)


def test_other_files_and_buffers_beside_the_model_do_not_matter(tmp_path):
  """Mistral's repository has its weights once more, in a layout of its own."""
  directory = shutil.copytree(TINY / 'mistral', tmp_path / 'model')
  save_file({'tok': np.zeros(3, np.float32)}, directory / 'consolidated.safetensors')
  first = directory / 'model-00001-of-00003.safetensors'
  rates = {'model.layers.0.self_attn.rotary_emb.inv_freq': np.ones(5, np.float32)}
  save_file(load_file(first) | rates, first)
  equal(pretrained.load(directory)[1], loaded('mistral')[1])
  save_file(load_file(first) | {'model.bias': np.ones(5, np.float32)}, first)
  assert 'does not have: model.bias' in refused(directory)
  second = directory / 'model-00002-of-00003.safetensors'
  save_file(load_file(second) | load_file(first), first)
  assert 'a tensor is in two files' in refused(directory)


def test_a_tied_head_may_be_stored_as_well(tmp_path):
  directory = shutil.copytree(TINY / 'qwen2', tmp_path / 'model')
  embedding = 'model.embed_tokens.weight'
  edit_tensors(directory, lambda t: t | {'lm_head.weight': t[embedding]})
  equal(pretrained.load(directory)[1], loaded('qwen2')[1])
  rule = sharding_rule()
  equal(pretrained.load(directory, sharding=rule)[1], loaded('qwen2')[1])


def test_published_gpt2_names_load(tmp_path):
  directory = shutil.copytree(DATA / 'tiny_gpt2', tmp_path / 'model')

  def published(tensors):  # no prefix, the causal mask as a buffer
    out = {k.removeprefix('transformer.'): v for k, v in tensors.items()}
    return out | {'h.0.attn.bias': np.tril(np.ones((1, 1, 17, 17), np.float32))}

  edit_tensors(directory, published)
  edit(directory, n_ctx=17, torch_dtype='float32')
  equal(pretrained.load(directory)[1], loaded('../tiny_gpt2')[1])
  edit(directory, scale_attn_by_inverse_layer_idx=True)
  assert 'scale_attn_by_inverse_layer_idx=True is not supported' in refused(directory)


@functools.cache
def mesh():
  return jax.make_mesh((2, 2), ('data', 'tensor'), axis_types=(AxisType.Auto,) * 2)


def sharding_rule():
  """Output features over tensor, inputs over data; odd sizes stay whole."""

  def rule(path):
    specs = {
      'q_proj.kernel': P('data', 'tensor'),
      'o_proj.kernel': P('tensor', 'data'),
      'q_proj.bias': P('tensor'),
      'down_proj.kernel': P(None, 'tensor'),
    }
    found = [spec for end, spec in specs.items() if path.endswith(end)]
    return NamedSharding(mesh(), found[0] if found else P())

  return rule


@pytest.mark.parametrize('name', ['qwen2', '../tiny_gpt2'])
def test_parameters_are_cast_and_sharded_while_loading(name):
  rule = sharding_rule()
  config, params = pretrained.load(TINY / name, dtype='bfloat16', sharding=rule)
  assert config == dataclasses.replace(RECORDED[name], compute_dtype='bfloat16')
  equal(params, jax.tree.map(lambda x: x.astype(jnp.bfloat16), loaded(name)[1]))
  attention = params['layers'][1]['self_attn']
  assert attention['q_proj']['kernel'].sharding.spec == P('data', 'tensor')
  assert attention['o_proj']['kernel'].sharding.spec == P('tensor', 'data')
  width = config.width
  shard = attention['q_proj']['kernel'].addressable_shards[0].data
  assert shard.shape == (width // 2, width // 2)
  assert {x.sharding.mesh for x in jax.tree.leaves(params)} == {mesh()}

  def uneven(path):
    return NamedSharding(mesh(), P('data') if path == 'embed_tokens.embedding' else P())

  with pytest.raises(ConfigError, match=r'embed_tokens.embedding cannot be sharded'):
    pretrained.load(TINY / name, sharding=uneven)
