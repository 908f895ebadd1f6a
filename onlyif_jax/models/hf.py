"""Write and read Hugging Face directories of models trained from scratch.

A model with learned positions is written as `GPT2LMHeadModel`, one with rotary
positions as `GPTNeoXForCausalLM` with sequential residuals. What the other side
cannot express is refused: nothing is dropped or guessed.
"""

import contextlib
import dataclasses
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict
from orbax.checkpoint import v1 as ocp

from onlyif_jax.config import ConfigError
from onlyif_jax.models.gpt2 import GPT2, LAYER_NORM_EPSILON, GPT2Config
from onlyif_jax.models.layers import INIT_STD
from onlyif_jax.tasks import tokens

# Our modules -> Hugging Face's; N stands for the number of a block.
_GPT2 = {
  'embed': 'transformer.wte',
  'position': 'transformer.wpe',
  'norm': 'transformer.ln_f',
  'blocks.N.norm_1': 'transformer.h.N.ln_1',
  'blocks.N.norm_2': 'transformer.h.N.ln_2',
  'blocks.N.attention.qkv': 'transformer.h.N.attn.c_attn',
  'blocks.N.attention.out': 'transformer.h.N.attn.c_proj',
  'blocks.N.mlp.up': 'transformer.h.N.mlp.c_fc',
  'blocks.N.mlp.down': 'transformer.h.N.mlp.c_proj',
}
_NEOX = {
  'embed': 'gpt_neox.embed_in',
  'norm': 'gpt_neox.final_layer_norm',
  'blocks.N.norm_1': 'gpt_neox.layers.N.input_layernorm',
  'blocks.N.norm_2': 'gpt_neox.layers.N.post_attention_layernorm',
  'blocks.N.attention.qkv': 'gpt_neox.layers.N.attention.query_key_value',
  'blocks.N.attention.out': 'gpt_neox.layers.N.attention.dense',
  'blocks.N.mlp.up': 'gpt_neox.layers.N.mlp.dense_h_to_4h',
  'blocks.N.mlp.down': 'gpt_neox.layers.N.mlp.dense_4h_to_h',
}
_LEAVES = {'embedding': 'weight', 'scale': 'weight', 'kernel': 'weight', 'bias': 'bias'}

# Fields of GPT2Config that config.json expresses. compute_dtype is not written: the
# parameters are float32, and a loader may cast them.
_EXPRESSED = {
  'vocab_size', 'max_length', 'layers', 'width', 'heads', 'positions', 'rotary_base',
  'dropout', 'compute_dtype',
}  # fmt: skip

_SIZES = ('vocab_size', 'n_positions', 'n_layer', 'n_embd', 'n_head')
# Attributes that change logits -> the values that are supported.
_REQUIRED = {
  'model_type': ('gpt2',),
  'activation_function': ('gelu_new',),
  'layer_norm_epsilon': (LAYER_NORM_EPSILON,),
  'scale_attn_weights': (True,),
  'scale_attn_by_inverse_layer_idx': (False,),
  'reorder_and_upcast_attn': (False,),
  'add_cross_attention': (False,),
  'tie_word_embeddings': (True,),
  'is_encoder_decoder': (False,),
  'pruned_heads': ({}, None),
  'quantization_config': (None,),
}
# Attributes that do not change logits: training, generation, other heads, names.
_IRRELEVANT = re.compile(
  r"""architectures | (transformers_)?version | (torch_)?dtype | _name_or_path
  | (bos|eos|pad|sep|unk|decoder_start)_token_id | (attn|embd|resid)_pdrop
  | initializer_range | summary_\w+ | use_cache | gradient_checkpointing
  | output_(attentions|hidden_states|past|scores) | return_dict | n_ctx
  | task_specific_params | id2label | label2id | num_labels | problem_type
  | finetuning_task | tokenizer_class | prefix | is_decoder | chunk_size_feed_forward
  """,
  re.VERBOSE,
)
_SPECIAL = ('<pad>', '<eos>', '<sep>', '<mask>', '<reserved_4>', '<reserved_5>')
_BUFFER = re.compile(r'transformer\.h\.\d+\.attn\.(bias|masked_bias)')


def save_gpt2(
  params, config: GPT2Config, path, eos=tokens.EOS, pad=tokens.PAD, symbols=''
):
  """Write a directory that `transformers`' AutoModelForCausalLM loads, atomically.

  params: the pure tree of one model, float32. The directory has config.json,
  generation_config.json, model.safetensors and a tokenizer of single characters.
  Raises ConfigError for what Hugging Face cannot express, for a directory that is in
  use and for one that cannot be written.
  """
  attributes, names = _describe(config)
  ids = {'bos_token_id': None, 'eos_token_id': eos, 'pad_token_id': pad}
  flat = flatten(params)
  _check_shapes(flat, {k: v.shape for k, v in _expected(config).items()}, 'params')
  arrays = {k: np.asarray(v, np.float32) for k, v in flat.items()}
  tensors = {_rename(name, names): value for name, value in arrays.items()}
  if names is _NEOX:
    tensors = {k: _to_neox(k, v, config) for k, v in tensors.items()}
    tensors['embed_out.weight'] = tensors['gpt_neox.embed_in.weight']
  files = {
    'config.json': json_bytes(attributes | ids | {'dtype': 'float32'}),
    'generation_config.json': json_bytes({'do_sample': False} | ids),
    'model.safetensors': safetensors_bytes(tensors),
    **tokenizer_files(config.vocab_size, config.max_length, symbols),
  }
  with new_directory(Path(path)) as folder:
    for name, content in files.items():
      (folder / name).write_bytes(content)


def load_gpt2(path) -> tuple[GPT2Config, dict]:
  """Read a GPT-2 directory with safetensors: (config, params in float32).

  Dropout concerns training and is set to 0. Raises ConfigError for an unknown or
  unsupported attribute, for missing, unused or misshapen tensors, and for files that
  cannot be read.
  """
  path = Path(path)
  config = _read_config(path / 'config.json')
  tensors = _read_tensors(path)
  expected = _expected(config)
  names = {_rename(name, _GPT2): name for name in expected}
  _drop_tied_head(tensors, path)
  missing, unused = names.keys() - tensors.keys(), tensors.keys() - names.keys()
  if missing:
    raise ConfigError(f'{path}: tensors are missing: {some_of(missing)}')
  if unused:
    raise ConfigError(f'{path}: tensors that a GPT-2 does not have: {some_of(unused)}')
  flat = {names[k]: np.asarray(v, np.float32) for k, v in tensors.items()}
  _check_shapes(flat, {k: v.shape for k, v in expected.items()}, str(path))
  return config, unflatten_dict({tree_path(name): v for name, v in flat.items()})


def to_text(ids, symbols='') -> str:
  """Token ids -> the text that the exported tokenizer maps to them.

  symbols: the characters of the letters, if the task has its own.
  """
  return ''.join(
    _SPECIAL[n] if n < tokens.FIRST_LETTER else tokens.character(n, symbols)
    for n in map(int, ids)
  )


def tokenizer_files(vocab_size: int, max_length: int, symbols='') -> dict[str, bytes]:
  """The files of a tokenizer with a token per character and '<pad>', '<eos>' ..."""
  vocab = {to_text([n], symbols): n for n in range(vocab_size)}
  flags = {'single_word': False, 'lstrip': False, 'rstrip': False, 'normalized': False}
  added = [
    {'id': n, 'content': text, 'special': True} | flags
    for text, n in vocab.items()
    if n < tokens.FIRST_LETTER
  ]
  split = {'type': 'Split', 'pattern': {'Regex': '.'}, 'behavior': 'Isolated'}
  tokenizer = {
    'version': '1.0',
    'truncation': None,
    'padding': None,
    'added_tokens': added,
    'normalizer': None,
    'pre_tokenizer': split | {'invert': False},
    'post_processor': None,
    'decoder': {'type': 'Fuse'},
    # No such token exists, so a character outside the alphabet is an error.
    'model': {'type': 'WordLevel', 'vocab': vocab, 'unk_token': '<unknown>'},
  }
  tokenizer_config = {
    'tokenizer_class': 'PreTrainedTokenizerFast',
    'model_max_length': max_length,
    'pad_token': '<pad>',
    'eos_token': '<eos>',
    'sep_token': '<sep>',
    'padding_side': 'left',  # prompts are continued
    'clean_up_tokenization_spaces': False,
  }
  return {
    'tokenizer.json': json_bytes(tokenizer),
    'tokenizer_config.json': json_bytes(tokenizer_config),
  }


def _describe(config: GPT2Config):
  """(attributes of config.json, table of names) of a model; raises ConfigError."""
  for field in dataclasses.fields(config):
    is_default = getattr(config, field.name) == field.default
    if field.name not in _EXPRESSED and not is_default:
      raise ConfigError(
        f'{field.name}={getattr(config, field.name)!r} has no counterpart in Hugging '
        'Face models, so this model cannot be exported'
      )
  c = config
  if c.positions == 'learned':
    return {
      'architectures': ['GPT2LMHeadModel'],
      'model_type': 'gpt2',
      'vocab_size': c.vocab_size,
      'n_positions': c.max_length,
      'n_embd': c.width,
      'n_layer': c.layers,
      'n_head': c.heads,
      'n_inner': None,
      'activation_function': 'gelu_new',
      'layer_norm_epsilon': LAYER_NORM_EPSILON,
      'initializer_range': INIT_STD,
      'embd_pdrop': c.dropout,
      'resid_pdrop': c.dropout,
      'attn_pdrop': 0.0,
      'tie_word_embeddings': True,
    }, _GPT2
  if c.positions == 'rotary':
    rotary = {'rope_theta': c.rotary_base, 'partial_rotary_factor': 1.0}
    return {
      'architectures': ['GPTNeoXForCausalLM'],
      'model_type': 'gpt_neox',
      'vocab_size': c.vocab_size,
      'max_position_embeddings': c.max_length,
      'hidden_size': c.width,
      'num_hidden_layers': c.layers,
      'num_attention_heads': c.heads,
      'intermediate_size': 4 * c.width,
      'hidden_act': 'gelu_new',
      'layer_norm_eps': LAYER_NORM_EPSILON,
      'initializer_range': INIT_STD,
      'hidden_dropout': c.dropout,
      'attention_dropout': 0.0,
      'attention_bias': True,
      'use_parallel_residual': False,
      'tie_word_embeddings': False,
      # transformers 4 reads the first two, transformers 5 the third.
      'rotary_pct': 1.0,
      'rotary_emb_base': c.rotary_base,
      'rope_parameters': rotary | {'rope_type': 'default'},
    }, _NEOX
  raise ConfigError(
    f'positions={c.positions!r} has no counterpart in Hugging Face models; '
    "'learned' and 'rotary' do"
  )


def _to_neox(name, value, config):
  """A tensor as GPT-NeoX has it: [out, in], with q, k and v of each head together."""
  if 'query_key_value' in name:
    parts = value.reshape(*value.shape[:-1], 3, config.heads, config.head_width)
    value = parts.swapaxes(-3, -2).reshape(value.shape)
  is_kernel = value.ndim == 2 and 'embed' not in name
  return value.T if is_kernel else value


def _rename(name, names):
  """The Hugging Face name of one of our parameters, by a table of modules."""
  module, leaf = name.rsplit('.', 1)
  number = next((part for part in module.split('.') if part.isdigit()), '')
  generic = re.sub(r'\b\d+\b', 'N', module)
  return re.sub(r'\bN\b', number, names[generic]) + '.' + _LEAVES[leaf]


def flatten(tree) -> dict[str, Any]:
  """A pure tree as dotted parameter name -> leaf."""
  return {'.'.join(map(str, k)): v for k, v in flatten_dict(tree).items()}


def tree_path(name: str) -> tuple[str | int, ...]:
  """The path in a pure tree of a dotted parameter name."""
  return tuple(int(part) if part.isdigit() else part for part in name.split('.'))


def _expected(config) -> dict:
  """Our parameter names -> shapes, without allocation."""
  state = nnx.eval_shape(lambda: nnx.state(GPT2(config, rngs=nnx.Rngs(0)), nnx.Param))
  return flatten(nnx.to_pure_dict(state))


def _check_shapes(flat, shapes, origin: str) -> None:
  """Raise ConfigError unless names and shapes are those expected."""
  differing = shapes.keys() ^ flat.keys()
  if differing:
    raise ConfigError(
      f'{origin}: not the parameters of this model: {some_of(differing)}'
    )
  for name, shape in shapes.items():
    if tuple(flat[name].shape) != tuple(shape):
      raise ConfigError(
        f'{origin}: {name} has shape {tuple(flat[name].shape)}, expected {tuple(shape)}'
      )


def _read_config(file: Path) -> GPT2Config:
  """The config of a config.json; raises ConfigError for what is not supported."""
  try:
    attributes = json.loads(file.read_text())
  except (OSError, ValueError) as error:
    raise ConfigError(f'{file} cannot be read: {error}') from None
  for name, value in attributes.items():
    if name in _SIZES or name == 'n_inner' or _IRRELEVANT.fullmatch(name):
      continue
    if name not in _REQUIRED:
      raise ConfigError(f'{file}: {name}={value!r} is not known to be supported')
    if value not in _REQUIRED[name]:
      supported = ' or '.join(map(repr, _REQUIRED[name]))
      raise ConfigError(f'{file}: {name}={value!r} is not supported, only {supported}')
  for name in ('model_type', *_SIZES):
    if name not in attributes:
      raise ConfigError(f'{file}: {name} is missing')
  sizes = [attributes[name] for name in _SIZES]
  if not all(type(size) is int and size > 0 for size in sizes):
    raise ConfigError(f'{file}: {", ".join(_SIZES)} must be whole numbers above 0')
  vocab, positions, layers, width, heads = sizes
  if width % heads:
    raise ConfigError(f'{file}: n_head={heads} does not divide n_embd={width}')
  if attributes.get('n_inner') not in (None, 4 * width):
    raise ConfigError(
      f'{file}: n_inner={attributes["n_inner"]} is not supported, only 4 x n_embd'
    )
  return GPT2Config(vocab, positions, layers, width, heads)


def _read_tensors(path) -> dict[str, np.ndarray]:
  """All tensors of a directory by their GPT2LMHeadModel names, without buffers."""
  if not list(path.glob('*.safetensors')):
    raise ConfigError(
      f'{path} has no .safetensors file; write one with transformers '
      '(model.save_pretrained)'
    )
  context = ocp.Context()
  context.checkpoint_layout = 'safetensors'
  try:
    with context:
      tensors = ocp.load(path.absolute())
  except Exception as error:  # a damaged file raises whatever its bytes lead to
    reason = str(error).split('\n')[0]
    raise ConfigError(f'{path}: the tensors cannot be read: {reason}') from None
  named = {
    k if k.startswith(('transformer.', 'lm_head.')) else f'transformer.{k}': v
    for k, v in tensors.items()
  }
  return {k: v for k, v in named.items() if not _BUFFER.fullmatch(k)}


def _drop_tied_head(tensors, path):
  """Remove a stored tied head; raises ConfigError if it is not the embedding."""
  head = tensors.pop('lm_head.weight', None)
  embedding = tensors.get('transformer.wte.weight')
  if head is not None and not np.array_equal(head, embedding):
    raise ConfigError(
      f'{path}: lm_head.weight differs from wte.weight, but heads are tied'
    )


def safetensors_bytes(tensors) -> bytes:
  """The content of a safetensors file; raises ConfigError without the library."""
  try:
    from safetensors.numpy import save
  except ImportError:
    raise ConfigError(
      "writing Hugging Face directories needs safetensors: pip install 'onlyif_jax[llm]'"
    ) from None
  contiguous = {k: np.ascontiguousarray(v) for k, v in sorted(tensors.items())}
  return save(contiguous, metadata={'format': 'pt'})


def json_bytes(value) -> bytes:
  """The content of a JSON file."""
  return (json.dumps(value, indent=2, ensure_ascii=False) + '\n').encode()


@contextlib.contextmanager
def new_directory(path: Path):
  """A temporary folder that becomes `path` at the end, and is removed on failure.

  Raises ConfigError if `path` is in use or cannot be written.
  """
  temporary = path.with_name(f'.{path.name}-{os.getpid()}')
  try:
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
      raise ConfigError(f'{path} is not an empty directory; choose another one')
    temporary.mkdir(parents=True)
    yield temporary
    os.replace(temporary, path)
  except OSError as error:
    raise ConfigError(f'{path} cannot be written: {error}') from None
  finally:
    shutil.rmtree(temporary, ignore_errors=True)


def some_of(names) -> str:
  """The first three names in order, and how many more there are."""
  names = sorted(names)
  more = f' and {len(names) - 3} more' if len(names) > 3 else ''
  return ', '.join(names[:3]) + more
