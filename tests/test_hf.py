import dataclasses
import functools
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file
from toys import seen

from onlyif_jax.config import ConfigError, OptimConfig
from onlyif_jax.data import Data, Member, Plan
from onlyif_jax.models import decode, hf
from onlyif_jax.models.gpt2 import GPT2, GPT2Config
from onlyif_jax.tasks import tokens
from onlyif_jax.tasks.rewrite import Rewrite
from onlyif_jax.tasks.rules import RuleSpace
from onlyif_jax.training.step import Trainer, graphdef

TINY = Path(__file__).parent / 'data' / 'tiny_gpt2'
# vocabulary, positions, layers, width, heads: pairwise different
SIZES = [(37, 17, 3, 20, 5), (29, 23, 2, 42, 7), (11, 13, 1, 6, 3), (41, 19, 5, 22, 11)]


def random_model(sizes, positions):
  """Random values everywhere, also where a fresh model has zeros and ones."""
  config = GPT2Config(*sizes, positions=positions, rotary_base=997.0)
  model = nnx.eval_shape(lambda: GPT2(config, rngs=nnx.Rngs(0)))
  abstract = nnx.to_pure_dict(nnx.state(model, nnx.Param))
  rng = np.random.default_rng(sum(sizes))
  params = jax.tree.map(
    lambda x: rng.normal(0, 0.2, x.shape).astype(np.float32), abstract
  )
  return config, params


def logits_of(config, params, tokens_BL):
  apply = jax.jit(lambda p, t: nnx.merge(graphdef(config), p)(t))
  return np.asarray(apply(params, jnp.asarray(tokens_BL)))


def random_tokens(config):
  rng = np.random.default_rng(config.width)
  return rng.integers(0, config.vocab_size, (7, config.max_length)).astype(np.int32)


@pytest.fixture
def directory(tmp_path):
  """A copy of the recorded directory, to be changed."""
  return shutil.copytree(TINY, tmp_path / 'gpt2')


def edit_config(directory, **changes):
  file = directory / 'config.json'
  file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def edit_tensors(directory, change):
  file = directory / 'model.safetensors'
  tensors = load_file(file)
  save_file(change(tensors) or tensors, file)


def refused(directory) -> str:
  with pytest.raises(ConfigError) as error:
    hf.load_gpt2(directory)
  message = str(error.value)
  assert '\n' not in message
  assert str(directory) in message
  return message


def test_recorded_gpt2_gives_the_recorded_logits():
  config, params = hf.load_gpt2(TINY)
  assert config == GPT2Config(37, 17, 3, 20, 5)
  recorded = np.load(TINY / 'logits.npz')
  got = logits_of(config, params, recorded['tokens'])
  assert got.shape == (7, 13, 37)
  assert np.abs(recorded['logits']).max() > 1
  np.testing.assert_allclose(got, recorded['logits'], rtol=0, atol=1e-5)
  size = sum(file.stat().st_size for file in TINY.iterdir())
  assert size < 200_000


def test_save_and_load_is_exact(tmp_path):
  config, params = random_model(SIZES[0], 'learned')
  config = dataclasses.replace(config, rotary_base=10_000.0)
  hf.save_gpt2(params, config, tmp_path / 'new' / 'out')
  loaded_config, loaded = hf.load_gpt2(tmp_path / 'new' / 'out')
  assert loaded_config == config
  assert jax.tree.structure(loaded) == jax.tree.structure(params)
  jax.tree.map(np.testing.assert_array_equal, loaded, params)
  attributes = json.loads((tmp_path / 'new' / 'out' / 'config.json').read_text())
  assert attributes['eos_token_id'] == tokens.EOS


def test_other_spellings_of_the_same_model_load(directory):
  _, want = hf.load_gpt2(TINY)

  def published(tensors):  # no prefix, the causal mask as a buffer, a tied head
    out = {k.removeprefix('transformer.'): v for k, v in tensors.items()}
    mask = np.tril(np.ones((1, 1, 17, 17), np.float32))
    return out | {
      'h.0.attn.bias': mask,
      'h.2.attn.masked_bias': np.float32([-1e4]),
      'lm_head.weight': out['wte.weight'],
    }

  edit_tensors(directory, published)
  edit_config(directory, n_ctx=17, torch_dtype='float32', n_inner=80)
  jax.tree.map(np.testing.assert_array_equal, hf.load_gpt2(directory)[1], want)


@pytest.mark.parametrize(
  ('changes', 'words'),
  [
    ({'rope_scaling': {'factor': 2}}, "rope_scaling={'factor': 2} is not known"),
    ({'activation_function': 'relu'}, "activation_function='relu' is not supported"),
    ({'layer_norm_epsilon': 1e-6}, 'layer_norm_epsilon=1e-06 is not supported'),
    ({'tie_word_embeddings': False}, 'tie_word_embeddings=False is not supported'),
    ({'scale_attn_by_inverse_layer_idx': True}, 'scale_attn_by_inverse_layer_idx=True'),
    ({'model_type': 'llama'}, "model_type='llama' is not supported, only 'gpt2'"),
    ({'n_inner': 60}, 'n_inner=60 is not supported'),
    ({'n_head': 3}, 'n_head=3 does not divide n_embd=20'),
    ({'n_layer': '3'}, 'must be whole numbers'),
    ({'n_positions': 19}, 'position.embedding has shape (17, 20), expected (19, 20)'),
    ({'n_layer': 2}, 'tensors that a GPT-2 does not have: transformer.h.2.'),
    ({'n_layer': 5}, 'tensors are missing: transformer.h.3.'),
  ],
)
def test_foreign_attributes_are_refused_by_name(directory, changes, words):
  edit_config(directory, **changes)
  assert words in refused(directory)


def test_damaged_directories_are_refused(directory):
  weights = directory / 'model.safetensors'
  whole = weights.read_bytes()
  for size in (len(whole) - 1, 1000, 5, 0):
    weights.write_bytes(whole[:size])
    assert 'cannot be read' in refused(directory)
  weights.unlink()
  assert 'no .safetensors file' in refused(directory)
  (directory / 'config.json').write_text('{"n_layer": 3')
  assert 'config.json cannot be read' in refused(directory)
  (directory / 'config.json').write_text('{"model_type": "gpt2"}')
  assert 'vocab_size is missing' in refused(directory)
  (directory / 'config.json').unlink()
  assert 'config.json cannot be read' in refused(directory)


def test_missing_unused_and_differing_tensors_are_refused(directory):
  name = 'transformer.h.1.mlp.c_fc.bias'
  edit_tensors(directory, lambda t: {k: v for k, v in t.items() if k != name})
  assert f'tensors are missing: {name}' in refused(directory)
  edit_tensors(
    directory,
    lambda t: t | {name: np.zeros(80, np.float32), 'score': t[name[:-4] + 'weight']},
  )
  assert 'tensors that a GPT-2 does not have: transformer.score' in refused(directory)
  head = 'lm_head.weight'
  edit_tensors(
    directory,
    lambda t: (
      {k: v for k, v in t.items() if k != 'score'}
      | {head: t['transformer.wte.weight'] + 1}
    ),
  )
  assert 'lm_head.weight differs from wte.weight' in refused(directory)


def test_what_hugging_face_cannot_express_is_refused(tmp_path):
  @dataclasses.dataclass(frozen=True)
  class Wider(GPT2Config):
    prefix_mask: bool = False

  config, params = random_model(SIZES[2], 'learned')
  fields = dataclasses.asdict(config)
  with pytest.raises(ConfigError, match='prefix_mask=True has no counterpart'):
    hf.save_gpt2(params, Wider(**fields, prefix_mask=True), tmp_path / 'a')
  other = dataclasses.replace(config, positions='alibi')
  with pytest.raises(ConfigError, match="positions='alibi' has no counterpart"):
    hf.save_gpt2(params, other, tmp_path / 'a')
  stacked = jax.tree.map(lambda x: x[None], params)
  with pytest.raises(ConfigError, match='has shape .* expected'):  # noqa: RUF043
    hf.save_gpt2(stacked, config, tmp_path / 'a')
  assert list(tmp_path.iterdir()) == []
  hf.save_gpt2(params, Wider(**fields), tmp_path / 'a')
  assert hf.load_gpt2(tmp_path / 'a')[0].width == config.width


def test_a_directory_appears_whole_or_not_at_all(tmp_path, monkeypatch):
  config, params = random_model(SIZES[2], 'learned')
  (tmp_path / 'used').mkdir()
  (tmp_path / 'used' / 'notes').write_text('mine')
  with pytest.raises(ConfigError, match='used is not an empty directory'):
    hf.save_gpt2(params, config, tmp_path / 'used')
  with pytest.raises(ConfigError, match='cannot be written'):
    hf.save_gpt2(params, config, tmp_path / 'used' / 'notes' / 'out')
  real = Path.write_bytes

  def full_disk(self, content):
    if self.name == 'model.safetensors':
      raise OSError(28, 'No space left on device')
    return real(self, content)

  monkeypatch.setattr(Path, 'write_bytes', full_disk)
  with pytest.raises(ConfigError, match='cannot be written: .*No space left'):  # noqa: RUF043
    hf.save_gpt2(params, config, tmp_path / 'out')
  assert [p.name for p in tmp_path.iterdir()] == ['used']
  monkeypatch.undo()
  (tmp_path / 'out').mkdir()
  hf.save_gpt2(params, config, tmp_path / 'out')


def test_neox_layout_by_hand(tmp_path):
  """Query, key, value of head h are rows 3hK.. of the fused matrix, transposed."""
  config, params = random_model(SIZES[1], 'rotary')
  hf.save_gpt2(params, config, tmp_path / 'out')
  got = load_file(tmp_path / 'out' / 'model.safetensors')
  attention = params['blocks'][1]['attention']
  fused = got['gpt_neox.layers.1.attention.query_key_value.weight']
  width, k = config.width, config.head_width
  for part in range(3):
    for head in range(config.heads):
      ours = attention['qkv']['kernel'][:, part * width + head * k :][:, :k]
      theirs = fused[(3 * head + part) * k :][:k]
      np.testing.assert_array_equal(theirs, ours.T)
  np.testing.assert_array_equal(got['embed_out.weight'], params['embed']['embedding'])
  down = params['blocks'][0]['mlp']['down']['kernel']
  np.testing.assert_array_equal(
    got['gpt_neox.layers.0.mlp.dense_4h_to_h.weight'], down.T
  )
  attributes = json.loads((tmp_path / 'out' / 'config.json').read_text())
  assert attributes['rotary_emb_base'] == 997
  assert attributes['rope_parameters']['rope_theta'] == 997
  assert 'not supported' in refused(tmp_path / 'out')


def live(directory, **kwargs):
  """The directory as transformers loads it, every weight accounted for."""
  transformers = pytest.importorskip('transformers')
  pytest.importorskip('torch')
  model, info = transformers.AutoModelForCausalLM.from_pretrained(
    directory, output_loading_info=True, **kwargs
  )
  assert not info['missing_keys'], info
  assert not info['unexpected_keys'], info
  assert not info['mismatched_keys'], info
  return model.eval()


def live_logits(model, tokens_BL):
  import torch

  with torch.no_grad():
    return model(torch.tensor(np.asarray(tokens_BL)).long()).logits.numpy()


@pytest.mark.hf
@pytest.mark.filterwarnings('default')
@pytest.mark.parametrize('positions', ['learned', 'rotary'])
@pytest.mark.parametrize('sizes', SIZES)
def test_exported_logits_in_transformers(tmp_path, sizes, positions):
  config, params = random_model(sizes, positions)
  hf.save_gpt2(params, config, tmp_path / 'out')
  model = live(tmp_path / 'out')
  name = {'learned': 'GPT2LMHeadModel', 'rotary': 'GPTNeoXForCausalLM'}[positions]
  assert type(model).__name__ == name
  tokens_BL = random_tokens(config)
  want = logits_of(config, params, tokens_BL)
  got = live_logits(model, tokens_BL)
  assert np.abs(want).max() > 0.3
  np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)


@pytest.mark.hf
@pytest.mark.filterwarnings('default')
@pytest.mark.parametrize('sizes', SIZES)
def test_logits_of_models_that_transformers_wrote(tmp_path, sizes):
  transformers = pytest.importorskip('transformers')
  torch = pytest.importorskip('torch')
  torch.manual_seed(sum(sizes))
  names = ('vocab_size', 'n_positions', 'n_layer', 'n_embd', 'n_head')
  settings = dict(zip(names, sizes, strict=True))
  model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**settings)).eval()
  with torch.no_grad():
    for weight in model.parameters():
      weight.add_(0.1 * torch.randn(weight.shape))
  model.save_pretrained(tmp_path / 'in')
  config, params = hf.load_gpt2(tmp_path / 'in')
  tokens_BL = random_tokens(config)
  np.testing.assert_allclose(
    logits_of(config, params, tokens_BL),
    live_logits(model, tokens_BL),
    rtol=0,
    atol=1e-5,
  )


@pytest.mark.hf
@pytest.mark.filterwarnings('default')
def test_tokenizer_loads(tmp_path):
  transformers = pytest.importorskip('transformers')
  config, params = random_model(SIZES[3], 'learned')  # 35 letters: a-z, A-I
  hf.save_gpt2(params, config, tmp_path / 'out')
  tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / 'out')
  ids = tokenizer('iss<sep>Art<eos>')['input_ids']
  letters = [n + tokens.FIRST_LETTER for n in tokens.encode('issArt')]
  want = [*letters[:3], tokens.SEP, *letters[3:], tokens.EOS]
  assert ids == want
  assert tokenizer.decode(ids) == 'iss<sep>Art<eos>'
  assert tokenizer.decode(ids, skip_special_tokens=True) == 'issArt'
  assert tokenizer.pad_token_id == tokens.PAD
  assert len(tokenizer) == config.vocab_size
  assert tokenizer.tokenize('<pad><mask><reserved_5>Iz') == [
    *('<pad>', '<mask>', '<reserved_5>', 'I', 'z')
  ]
  with pytest.raises(Exception, match='UNK'):
    tokenizer('J')


def partly_trained(positions):
  """A member that answers some examples right and some not: (data, config, params)."""
  task = Rewrite(
    alphabet=7, x_min=1, x_max=2, y_min=1, y_max=3, input_length=5, noops=True
  )
  rules = RuleSpace(alphabet=7, x_min=1, x_max=2, y_min=1, y_max=3)
  data = Data(task, rules, Plan(examples=9_600, epochs=2.0, batch_size=64))
  config = GPT2Config(
    task.vocab_size, task.sequence_length, 2, 48, 4, positions, rotary_base=101.0
  )
  trainer = Trainer(data, config, OptimConfig(learning_rate=3e-3))
  off = ('fresh_rules', 'fresh_inputs', 'mask_instruction', 'permute_y', 'balance')
  member = Member(
    *map(jnp.int32, (0, 0, 0, 19)),
    learning_rate=jnp.float32(3e-3),
    mix_K=jnp.array([2_400, 9_600], jnp.int32),  # no-ops, then all
    **dict.fromkeys(off, jnp.bool_(False)),
    counts_R=jnp.zeros(0, jnp.int32),
  )

  @jax.jit
  def train(member):
    def step(state, _):
      return trainer.step(member, state)

    return jax.lax.scan(step, trainer.init(member), length=data.plan.steps)[0]

  return data, member, config, train(member)['params']


@pytest.mark.hf
@pytest.mark.filterwarnings('default')
@pytest.mark.parametrize('positions', ['learned', 'rotary'])
def test_exported_model_decodes_alike_in_transformers(tmp_path, positions):
  torch = pytest.importorskip('torch')
  data, member, config, params = partly_trained(positions)
  index = jnp.arange(500, dtype=jnp.int32)
  batch = jax.jit(functools.partial(seen, data))(member, index, index % 2)
  start_B = np.asarray(batch.answer_BA[:, 0]) + 1
  gold_BL = np.asarray(batch.tokens_BL)
  length = gold_BL.shape[1]
  decode_ = functools.partial(jax.jit, static_argnums=(0, 4))(decode.greedy)
  ours_BL = np.asarray(decode_(graphdef(config), params, gold_BL, start_B, length))
  ours_B = (ours_BL == gold_BL).all(-1)
  logits_BAV = jax.jit(
    lambda p, b: nnx.merge(graphdef(config), p)(b.tokens_BL, answer_BA=b.answer_BA)
  )(params, batch)
  right_BA = (logits_BAV.argmax(-1) == batch.targets_BA) | (batch.weights_BA == 0)
  np.testing.assert_array_equal(right_BA.all(-1), ours_B)
  hf.save_gpt2(params, config, tmp_path / 'out')
  model = live(tmp_path / 'out')
  theirs_B = np.zeros(500, bool)
  for n in np.unique(start_B):  # prompts of one length at a time: no padding
    rows = np.flatnonzero(start_B == n)
    prompt = torch.tensor(gold_BL[rows, :n]).long()
    out = model.generate(
      prompt, attention_mask=torch.ones_like(prompt), max_length=length
    ).numpy()
    full = np.full((len(rows), length), tokens.PAD)
    full[:, : out.shape[1]] = out
    theirs_B[rows] = (full == gold_BL[rows]).all(-1)
    np.testing.assert_array_equal(full, ours_BL[rows])
  print(positions, 'exact match', theirs_B.sum(), 'of 500')
  assert len(np.unique(start_B)) > 2
  assert 25 < theirs_B.sum() < 475
  assert theirs_B.sum() == ours_B.sum()
