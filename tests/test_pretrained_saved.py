"""Models that are written come back as they were."""

import dataclasses
import json

import decoders
import jax
import jax.numpy as jnp
import pytest
from decoders import GROUPED, LEARNED
from safetensors.numpy import load_file
from test_pretrained import equal

from onlyif_jax.config import ConfigError
from onlyif_jax.models import pretrained

SAVED = {
  'grouped': dataclasses.replace(GROUPED, family='qwen2'),
  'windowed': dataclasses.replace(
    GROUPED, family='mistral', qkv_bias=False, window_from=0, tied_head=True
  ),
  'biased': dataclasses.replace(
    GROUPED, window=None, window_from=0, out_bias=True, mlp_bias=True
  ),
  'learned': dataclasses.replace(LEARNED, width=60),
}


@pytest.mark.parametrize('name', SAVED)
def test_save_and_load_is_exact(tmp_path, name):
  config = SAVED[name]
  params = decoders.params(config)
  ids = {'bos_token_id': 5}
  pretrained.save(
    tmp_path / 'out', config, params, attributes=ids, max_shard_bytes=9_000
  )
  files = sorted(file.name for file in (tmp_path / 'out').glob('*.safetensors'))
  assert len(files) > 3
  assert files[0] == f'model-00001-of-{len(files):05}.safetensors'
  for file in files:
    tensors = load_file(tmp_path / 'out' / file)
    total = sum(tensor.nbytes for tensor in tensors.values())
    assert total <= 9_000 or len(tensors) == 1
  found, again = pretrained.load(tmp_path / 'out')
  assert found == config
  equal(again, params)
  given = json.loads((tmp_path / 'out' / 'config.json').read_text())
  assert (given['bos_token_id'], given['dtype']) == (5, 'float32')
  pretrained.save(tmp_path / 'half', config, params, dtype='bfloat16')
  found, half = pretrained.load(tmp_path / 'half')
  assert found == config
  equal(half, jax.tree.map(lambda x: x.astype(jnp.bfloat16).astype(x.dtype), params))
  given = json.loads((tmp_path / 'half' / 'config.json').read_text())
  assert given['torch_dtype'] == 'bfloat16'
  assert [f.name for f in (tmp_path / 'half').glob('*.safetensors')] == [
    'model.safetensors'
  ]


def test_what_the_family_cannot_express_is_not_written(tmp_path):
  params = decoders.params(GROUPED)
  out = tmp_path / 'out'
  cases = [
    (GROUPED, 'qkv_bias=True has no counterpart in a llama model'),
    (dataclasses.replace(SAVED['grouped'], out_bias=True), 'out_bias=True has no'),
    (dataclasses.replace(SAVED['windowed'], window_from=1), 'window_from=1 has no'),
    (dataclasses.replace(SAVED['learned'], kv_heads=3), 'kv_heads=3 has no'),
    (dataclasses.replace(SAVED['biased'], width=19), 'heads=6 does not divide width'),
    (dataclasses.replace(GROUPED, family='gemma'), "family='gemma' is none of llama"),
  ]
  for config, words in cases:
    with pytest.raises(ConfigError, match=words):
      pretrained.save(out, config, params)
  qwen2 = SAVED['grouped']
  stacked = jax.tree.map(lambda x: x[None], params)
  with pytest.raises(ConfigError, match=r'has shape \(1, .* expected'):
    pretrained.save(out, qwen2, stacked)
  with pytest.raises(ConfigError, match=r'not the parameters of this model: lm_head'):
    pretrained.save(out, qwen2, {k: v for k, v in params.items() if k != 'lm_head'})
  out.mkdir()
  (out / 'notes').write_text('mine')
  with pytest.raises(ConfigError, match='not an empty directory'):
    pretrained.save(out, qwen2, params)
