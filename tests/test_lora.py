"""Adapters and quantised bases, against plain numpy."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from onlyif_jax.config import ConfigError
from onlyif_jax.models import adapters, llama, lora, pretrained
from onlyif_jax.models.llama import DecoderConfig
from onlyif_jax.tuning_settings import LoraConfig

CONFIG = DecoderConfig(
  vocab_size=29,
  max_length=19,
  layers=2,
  width=12,
  hidden=20,
  heads=3,
  kv_heads=1,
  head_width=4,
)
LORA = LoraConfig(rank=5, alpha=7.0, targets=('q_proj', 'down_proj'))
STATES = jnp.zeros((1, 5, 12), jnp.bfloat16)
NO_MASK = (None, (None, None))  # neither rotary tables nor masks
TOKENS = np.random.default_rng(0).integers(0, 29, (3, 11)).astype(np.int32)


@functools.cache
def params():
  """Weights with norms that are not one."""
  tree = llama.init(CONFIG, jax.random.key(3))
  leaves, kind = jax.tree.flatten(tree)
  more = [
    leaf + 0.2 * jax.random.normal(jax.random.key(n), leaf.shape)
    for n, leaf in enumerate(leaves)
  ]
  return jax.tree.unflatten(kind, more)


@functools.cache
def adapted(quantize='none', settings=LORA, remat=False) -> lora.Parts:
  config = dataclasses.replace(CONFIG, remat=remat)
  return lora.adapt(config, params(), settings, quantize, jax.random.key(1))


def trained(parts):
  """The adapters with B no longer 0."""
  return jax.tree.map(lambda x: x + 0.1, parts.trained)


def logits(parts, own=None, key=None):
  return np.asarray(jax.jit(lambda t: parts.merge(t, key=key)(TOKENS))(own))


@jax.jit
def _plain(tree):
  return llama.merge(llama.graphdef(CONFIG), tree)(TOKENS)


def plain(tree):
  return np.asarray(_plain(tree))


def kernels(tree):
  """(path, kernel) of the layers' linear maps."""
  flat = jax.tree_util.tree_leaves_with_path(tree)
  paths = [([k.key for k in path], leaf) for path, leaf in flat]
  return [(p, leaf) for p, leaf in paths if p[0] == 'layers' and p[-1] == 'kernel']


def with_kernels(tree, change):
  """The tree with every linear map of the layers changed."""
  out = jax.tree.map(lambda x: x, tree)
  for path, leaf in kernels(tree):
    place = out
    for name in path[:-1]:
      place = place[name]
    place['kernel'] = change(path, np.asarray(leaf))
  return out


def test_fresh_adapters_change_nothing():
  parts = adapted()
  np.testing.assert_allclose(logits(parts), plain(params()), atol=1e-5)


def test_an_adapter_adds_its_product_scaled_by_alpha_over_rank():
  parts = adapted()
  own = trained(parts)
  added = {tuple(p): (np.asarray(a), np.asarray(b)) for p, a, b in lora.pairs(own)}
  assert {p[-1] for p in added} == {'q_proj', 'down_proj'}

  def change(path, kernel):
    if tuple(path[:-1]) not in added:
      return kernel
    a, b = added[tuple(path[:-1])]
    return kernel + a @ b * 7.0 / 5

  wanted = plain(with_kernels(params(), change))
  assert np.abs(wanted - plain(params())).max() > 1e-2
  np.testing.assert_allclose(logits(parts, own), wanted, atol=2e-5)
  merged = lora.merged(CONFIG, params(), own, LORA)
  np.testing.assert_allclose(plain(merged), wanted, atol=2e-5)


def quantised(parts) -> dict[tuple, dict[str, np.ndarray]]:
  """Path of each linear map of the layers -> its qvalue and scale."""
  stored: dict[tuple, dict[str, np.ndarray]] = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(parts.frozen):
    names = [getattr(k, 'key', None) for k in path]
    if 'kernel' in names and 'layers' in names:
      at = names.index('kernel')
      stored.setdefault(tuple(names[:at]), {})[names[at + 2]] = np.asarray(leaf)
  return stored


def test_int8_keeps_one_scale_for_each_column():
  parts = adapted('int8')
  stored = quantised(parts)

  def stored_kernel(path, kernel):
    own = stored[tuple(path[:-1])]
    assert own['qvalue'].dtype == np.int8
    assert own['scale'].shape == (1, kernel.shape[1])
    got = own['qvalue'] * own['scale']
    assert (np.abs(got - kernel) <= 0.51 * own['scale']).all()
    return got

  wanted = plain(with_kernels(params(), stored_kernel))
  assert np.abs(wanted - plain(params())).max() > 1e-3
  np.testing.assert_allclose(logits(parts), wanted, atol=1e-4)


# QLoRA (2305.14314), appendix E.
NF4 = (
  *(-1.0, -0.6961928, -0.52507305, -0.39491749, -0.28444138, -0.18477343, -0.09105004),
  *(0.0, 0.0795803, 0.1609302, 0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684),
  1.0,
)


def test_nf4_keeps_the_nearest_of_sixteen_levels_and_one_scale_for_each_tile():
  parts = adapted('nf4', dataclasses.replace(LORA, tile=4))
  stored = quantised(parts)

  def nearest(path, kernel):
    tiles = kernel.reshape(-1, 4, 1, kernel.shape[1])
    scale = np.abs(tiles).max(axis=1, keepdims=True)
    levels = np.asarray(NF4, np.float32)[None, None, :, None]
    index = np.abs(tiles / scale - levels).argmin(axis=2)
    own = stored[tuple(path[:-1])]
    np.testing.assert_array_equal(own['qvalue'], index.reshape(kernel.shape))
    np.testing.assert_allclose(own['scale'], scale[:, 0, 0], rtol=1e-6)
    return (levels[0, 0, :, 0][index] * scale[:, 0]).reshape(kernel.shape)

  wanted = plain(with_kernels(params(), nearest))
  assert np.abs(wanted - plain(params())).max() > 1e-2
  np.testing.assert_allclose(logits(parts), wanted, atol=1e-4)


def test_quantised_weights_take_their_few_bits():
  for quantize, kind in (('int8', 'int8'), ('nf4', 'uint4')):
    settings = dataclasses.replace(LORA, tile=4)
    shapes = lora.shapes(CONFIG, settings, quantize, 'float32')
    kinds = {str(x.dtype) for x in jax.tree.leaves(shapes.frozen) if x.ndim == 2}
    assert kind in kinds
    parts = adapted(quantize, settings)
    assert jax.tree.map(_kind, shapes.frozen) == jax.tree.map(_kind, parts.frozen)
    assert jax.tree.map(_kind, shapes.trained) == jax.tree.map(_kind, parts.trained)


def _kind(x):
  return x.shape, str(x.dtype)


def test_adapters_are_float32_on_a_base_of_bfloat16():
  base = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params())
  config = dataclasses.replace(CONFIG, compute_dtype='bfloat16')
  parts = lora.adapt(config, base, LORA, 'none', jax.random.key(1))
  assert {x.dtype for x in jax.tree.leaves(parts.trained)} == {np.dtype('float32')}
  states = jax.eval_shape(lambda own: parts.merge(own).layers[0](STATES, NO_MASK), None)
  assert states[0].dtype == jnp.bfloat16
  assert np.dtype(jnp.bfloat16) in {x.dtype for x in jax.tree.leaves(parts.frozen)}


def test_only_adapters_are_trained_and_the_base_gets_no_gradient():
  parts = adapted()
  names = {p[-1].key for p, _ in jax.tree_util.tree_leaves_with_path(parts.trained)}
  assert names == {lora.A, lora.B}
  count = sum(x.size for x in jax.tree.leaves(parts.trained))
  assert count == 2 * (5 * (12 + 12) + 5 * (20 + 12))


def test_dropout_acts_with_a_key_alone_and_differs_between_layers():
  settings = dataclasses.replace(LORA, dropout=0.4)
  parts = adapted(settings=settings)
  own = trained(parts)
  still = logits(parts, own)
  np.testing.assert_array_equal(still, logits(adapted(), trained(adapted())))
  one, two = (logits(parts, own, jax.random.key(n)) for n in (1, 2))
  assert np.abs(one - still).max() > 1e-3
  assert np.abs(one - two).max() > 1e-3
  np.testing.assert_array_equal(one, logits(parts, own, jax.random.key(1)))


def test_recomputed_layers_have_the_same_loss_and_gradient():
  def gradient(parts):
    def loss(own):
      return jnp.square(parts.merge(own, key=jax.random.key(5))(TOKENS)).mean()

    return jax.jit(jax.value_and_grad(loss))(trained(parts))

  settings = dataclasses.replace(LORA, dropout=0.4)
  kept, again = (gradient(adapted('none', settings, remat)) for remat in (False, True))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7), kept, again
  )


@pytest.mark.parametrize(
  ('changes', 'quantize', 'message'),
  [
    ({'targets': ('q_proj', 'qq')}, 'none', 'lora.targets'),
    ({'rank': -1}, 'none', 'lora.rank=-1'),
    ({'dropout': 1.0}, 'none', 'dropout=1'),
    ({'rank': 0}, 'int8', "base.quantize='int8'"),
    ({'tile': 7}, 'nf4', 'lora.tile=7'),
    ({'rank': CONFIG.hidden}, 'none', f'lora.rank={CONFIG.hidden} is a size'),
    (
      {'rank': CONFIG.kv_heads * CONFIG.head_width, 'targets': ('k_proj',)},
      'int8',
      f'other than {CONFIG.kv_heads * CONFIG.head_width}, {CONFIG.width}',
    ),
  ],
)
def test_settings_that_cannot_work_are_refused(changes, quantize, message):
  with pytest.raises(ConfigError, match=message):
    lora.check(dataclasses.replace(LORA, **changes), quantize, CONFIG)


# PEFT directories.


def test_adapters_come_back_from_a_peft_directory(tmp_path):
  parts = adapted()
  own = trained(parts)
  adapters.save(tmp_path / 'a', CONFIG, own, LORA, base='b', base_digest='d')
  settings, back = adapters.load(tmp_path / 'a', CONFIG, 'd')
  assert settings == LORA
  jax.tree.map(np.testing.assert_array_equal, back, own)
  attached = adapters.attach(CONFIG, params(), tmp_path / 'a', digest='d')
  np.testing.assert_allclose(logits(attached), logits(parts, own), atol=5e-6)
  merged = plain(adapters.merge(CONFIG, params(), tmp_path / 'a'))
  np.testing.assert_allclose(merged, logits(parts, own), atol=2e-5)


def test_a_wrong_adapter_is_one_clear_line(tmp_path):
  own = adapted().trained
  adapters.save(tmp_path / 'a', CONFIG, own, LORA, base_digest='abc')
  with pytest.raises(ConfigError, match='adapter for another base'):
    adapters.load(tmp_path / 'a', CONFIG, 'xyz')
  wider = dataclasses.replace(CONFIG, width=24)
  with pytest.raises(ConfigError, match='adapter for another base'):
    adapters.load(tmp_path / 'a', wider)
  deeper = dataclasses.replace(CONFIG, layers=3)
  with pytest.raises(ConfigError, match='is missing'):
    adapters.load(tmp_path / 'a', deeper)
  shallow = dataclasses.replace(CONFIG, layers=1)
  with pytest.raises(ConfigError, match='unused tensors'):
    adapters.load(tmp_path / 'a', shallow)
  described = json.loads((tmp_path / 'a' / adapters.CONFIG).read_text())
  for change, message in (
    ({'use_dora': True}, 'use_dora=True'),
    ({'target_modules': 'all-linear'}, 'target_modules'),
    ({'r': None}, 'lacks a number'),
  ):
    (tmp_path / 'a' / adapters.CONFIG).write_text(json.dumps(described | change))
    with pytest.raises(ConfigError, match=message):
      adapters.load(tmp_path / 'a', CONFIG)
  (tmp_path / 'a' / adapters.CONFIG).write_text(json.dumps(described))
  content = (tmp_path / 'a' / adapters.WEIGHTS).read_bytes()
  (tmp_path / 'a' / adapters.WEIGHTS).write_bytes(content[:-9])
  with pytest.raises(ConfigError, match='cannot be read'):
    adapters.load(tmp_path / 'a', CONFIG)
  with pytest.raises(ConfigError, match='cannot be read'):
    adapters.load(tmp_path / 'none', CONFIG)


@pytest.mark.hf
@pytest.mark.filterwarnings('default')
def test_peft_loads_what_is_exported(tmp_path):
  torch = pytest.importorskip('torch')
  peft = pytest.importorskip('peft')
  transformers = pytest.importorskip('transformers')
  parts = adapted()
  own = trained(parts)
  pretrained.save(tmp_path / 'base', CONFIG, params())
  adapters.save(tmp_path / 'a', CONFIG, own, LORA, base=str(tmp_path / 'base'))
  base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / 'base')
  model = peft.PeftModel.from_pretrained(base, tmp_path / 'a').eval()
  with torch.no_grad():
    theirs = model(torch.tensor(TOKENS).long()).logits.numpy()
  np.testing.assert_allclose(theirs, logits(parts, own), atol=2e-5)
  merged = lora.merged(CONFIG, params(), own, LORA)
  pretrained.save(tmp_path / 'merged', CONFIG, merged)
  whole = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / 'merged').eval()
  with torch.no_grad():
    theirs = whole(torch.tensor(TOKENS).long()).logits.numpy()
  np.testing.assert_allclose(theirs, logits(parts, own), atol=2e-5)
