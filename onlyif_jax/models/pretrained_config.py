"""Convert config.json of Llama, Mistral, Qwen2 and GPT-2 to `DecoderConfig` and back.

An attribute is used, known to change no logit, or refused by name: no model is
loaded as something that it is not.
"""

import dataclasses
import re
from pathlib import Path
from typing import Any

from onlyif_jax.config import ConfigError
from onlyif_jax.models.llama import DecoderConfig
from onlyif_jax.models.rope import Rope
from onlyif_jax.workdir import read_object

_ARCHITECTURES = {
  'llama': 'LlamaForCausalLM',
  'mistral': 'MistralForCausalLM',
  'qwen2': 'Qwen2ForCausalLM',
  'gpt2': 'GPT2LMHeadModel',
}
# Attributes that change no logit: training, generation, other heads, names.
_HARMLESS = re.compile(
  r"""architectures | (transformers_)?version | (torch_)?dtype | _name_or_path
  | (bos|eos|pad|sep|unk|decoder_start)_token_id | (attn|embd|resid)_pdrop
  | initializer_range | summary_\w+ | use_cache | gradient_checkpointing
  | output_(attentions|hidden_states|past|scores) | return_dict | n_ctx | seq_length
  | task_specific_params | id2label | label2id | num_labels | problem_type
  | finetuning_task | tokenizer_class | prefix | is_decoder | chunk_size_feed_forward
  | pretraining_tp | auto_map | _attn_implementation_autoset
  """,
  re.VERBOSE,
)
# Attributes that change logits -> the values that are supported.
_COMMON = {
  'is_encoder_decoder': (False,),
  'add_cross_attention': (False,),
  'pruned_heads': ({}, None),
  'quantization_config': (None,),
}
_LLAMA = _COMMON | {
  'hidden_act': ('silu',),
  'attention_dropout': (0, None),
  'partial_rotary_factor': (1,),
}
_GPT2 = _COMMON | {
  'activation_function': ('gelu_new',),
  'scale_attn_weights': (True,),
  'scale_attn_by_inverse_layer_idx': (False,),
  'reorder_and_upcast_attn': (False,),
}
_LLAMA_SIZES = {  # attribute of config.json -> field of DecoderConfig
  'vocab_size': 'vocab_size',
  'max_position_embeddings': 'max_length',
  'num_hidden_layers': 'layers',
  'hidden_size': 'width',
  'intermediate_size': 'hidden',
  'num_attention_heads': 'heads',
}
_GPT2_SIZES = {
  'vocab_size': 'vocab_size',
  'n_positions': 'max_length',
  'n_layer': 'layers',
  'n_embd': 'width',
  'n_head': 'heads',
}
_LLAMA_USED = {
  'num_key_value_heads', 'head_dim', 'rms_norm_eps', 'tie_word_embeddings',
  'rope_theta', 'rope_scaling', 'rope_parameters',
}  # fmt: skip
_QWEN2_USED = {
  'use_sliding_window', 'sliding_window', 'max_window_layers', 'layer_types',
  'rotary_emb_base',
}  # fmt: skip
_USED = {
  'llama': _LLAMA_USED | {'attention_bias', 'mlp_bias'},
  'mistral': _LLAMA_USED | {'sliding_window'},
  'qwen2': _LLAMA_USED | _QWEN2_USED,
  'gpt2': {'n_inner', 'layer_norm_epsilon', 'tie_word_embeddings'},
}
_ROPE = {  # attribute of config.json -> field of Rope
  'rope_theta': 'theta',
  'factor': 'factor',
  'low_freq_factor': 'low_factor',
  'high_freq_factor': 'high_factor',
  'original_max_position_embeddings': 'original_length',
}
_ROPE_NEEDS = {
  'default': set(),
  'linear': {'factor'},
  'llama3': {'factor', 'low_freq_factor', 'high_freq_factor'},
}
# Fields of DecoderConfig that are not written, as they change no logit.
_NOT_WRITTEN = ('compute_dtype', 'remat', 'dropout')


def read(directory) -> DecoderConfig:
  """The config of a Hugging Face directory.

  Dropout concerns training and is set to 0. Raises ConfigError, one line, for a file
  that cannot be read, another architecture, an unknown attribute and an attribute
  whose value is not supported.
  """
  file = Path(directory) / 'config.json'
  return parse(read_object(file), str(file))


def parse(entries: dict[str, Any], where: str = 'config.json') -> DecoderConfig:
  """The config that the attributes of a config.json give; errors as in `read`."""
  family = entries.get('model_type')
  if not isinstance(family, str) or family not in _ARCHITECTURES:
    known = ', '.join(_ARCHITECTURES)
    raise ConfigError(f'{where}: model_type={family!r} is not supported, only {known}')
  architectures = entries.get('architectures') or []
  if not isinstance(architectures, list):
    architectures = [architectures]
  for name in architectures:
    if name != _ARCHITECTURES[family]:
      raise ConfigError(
        f'{where}: architecture {name} is not supported, only {_ARCHITECTURES[family]}'
      )
  fields = _GPT2_SIZES if family == 'gpt2' else _LLAMA_SIZES
  _check(entries, family, fields, where)
  sizes = {field: entries[attribute] for attribute, field in fields.items()}
  try:
    return (_gpt2 if family == 'gpt2' else _llama)(entries, sizes)
  except (ValueError, TypeError, AttributeError, OverflowError) as error:
    raise ConfigError(f'{where}: {error}') from None


def attributes(config: DecoderConfig) -> dict[str, Any]:
  """The attributes of a config's config.json.

  Raises ConfigError for a field that the family cannot express.
  """
  if config.family not in _ARCHITECTURES:
    raise ConfigError(
      f'family={config.family!r} is none of {", ".join(_ARCHITECTURES)}'
    )
  if config.family == 'llama' and config.width % config.heads:
    raise ConfigError(
      f'heads={config.heads} does not divide width={config.width}, which transformers '
      'asks of a llama model'
    )
  of_family = _gpt2_attributes if config.family == 'gpt2' else _llama_attributes
  written = {
    'architectures': [_ARCHITECTURES[config.family]],
    'model_type': config.family,
    'tie_word_embeddings': config.tied_head,
  } | of_family(config)
  parsed = parse(written)
  for field in dataclasses.fields(config):
    value = getattr(config, field.name)
    if field.name not in _NOT_WRITTEN and getattr(parsed, field.name) != value:
      raise ConfigError(
        f'{field.name}={value!r} has no counterpart in a {config.family} model, so '
        'this model cannot be written'
      )
  return written


def _check(entries, family, sizes, where):
  """Raise ConfigError for unknown attributes, unsupported values and bad sizes."""
  required = _GPT2 if family == 'gpt2' else _LLAMA
  for name, value in entries.items():
    if name in required and value not in required[name]:
      supported = ' or '.join(map(repr, required[name]))
      raise ConfigError(f'{where}: {name}={value!r} is not supported, only {supported}')
    used = name in sizes or name in _USED[family] or name in required
    if not used and name != 'model_type' and not _HARMLESS.fullmatch(name):
      raise ConfigError(f'{where}: {name}={value!r} is not known to be supported')
  for name in sizes:
    if name not in entries:
      raise ConfigError(f'{where}: {name} is missing')
    if type(entries[name]) is not int or entries[name] < 1:
      raise ConfigError(
        f'{where}: {name}={entries[name]!r} must be a whole number above 0'
      )


def _llama(entries, sizes) -> DecoderConfig:
  """The config of a Llama, Mistral or Qwen2, with transformers' defaults."""
  family, heads = entries['model_type'], sizes['heads']
  head_width = entries.get('head_dim')
  if head_width is None:
    if sizes['width'] % heads:
      raise ValueError(
        f'num_attention_heads={heads} does not divide hidden_size={sizes["width"]}'
      )
    head_width = sizes['width'] // heads
  kv_heads = entries.get('num_key_value_heads')
  kv_heads = heads if kv_heads is None else kv_heads
  if type(kv_heads) is not int or kv_heads < 1 or heads % kv_heads:
    raise ValueError(
      f'num_key_value_heads={kv_heads!r} does not divide num_attention_heads={heads}'
    )
  if type(head_width) is not int or head_width < 2 or head_width % 2:
    raise ValueError(f'head_dim={head_width!r} must be an even number')
  window, window_from = _window(entries, sizes['layers'])
  return DecoderConfig(
    **sizes,
    family=family,
    kv_heads=kv_heads,
    head_width=head_width,
    rope=_rope(entries, sizes['max_length']),
    norm_epsilon=_number('rms_norm_eps', entries.get('rms_norm_eps', 1e-6)),
    qkv_bias=family == 'qwen2' or bool(entries.get('attention_bias', False)),
    out_bias=bool(entries.get('attention_bias', False)),
    mlp_bias=bool(entries.get('mlp_bias', False)),
    window=window,
    window_from=window_from,
    tied_head=bool(entries.get('tie_word_embeddings', False)),
  )


def _window(entries, layers):
  """(window, first layer that has it); (None, 0) without a window."""
  family, first = entries['model_type'], 0
  window = entries.get('sliding_window', 4_096) if family != 'llama' else None
  if family == 'qwen2':
    if not entries.get('use_sliding_window', False):
      window = None
    first, types = entries.get('max_window_layers', 28), entries.get('layer_types')
    if type(first) is not int or first < 0:
      raise ValueError(f'max_window_layers={first!r} must be a whole number')
    if not isinstance(types, list | None):
      raise ValueError(f'layer_types={types!r} must be a list')
    if types is not None:
      first = types.count('full_attention')
      ordered = ['full_attention'] * first + ['sliding_attention'] * (layers - first)
      if types != ordered or (window is None and first < layers):
        raise ValueError(
          f'layer_types={types!r} is not supported, only full_attention in the first '
          'layers and sliding_attention, with use_sliding_window, in the others'
        )
  if window is None or first >= layers:
    return None, 0
  if type(window) is not int or window < 1:
    raise ValueError(f'sliding_window={window!r} must be a whole number above 0')
  return window, first


def _rope(entries, max_length) -> Rope:
  """The rope of rope_parameters (transformers 5), or rope_theta and rope_scaling."""
  theta = entries.get('rope_theta')
  specs = {name: entries.get(name) for name in ('rope_parameters', 'rope_scaling')}
  for name, spec in specs.items():
    if not isinstance(spec, dict | None):
      raise ValueError(f'{name}={spec!r} must be an object')
  ropes = []
  for name, spec in specs.items():
    if spec is not None:
      spec = {'rope_theta': theta} | spec if theta else spec
      ropes.append(_parse_rope(spec, name, max_length))
  if not ropes:
    ropes = [Rope(theta=_number('rope_theta', theta or 10_000))]
  rope = ropes[0]
  if rope != ropes[-1]:
    raise ValueError('rope_parameters and rope_scaling contradict each other')
  base = entries.get('rotary_emb_base', rope.theta)
  for name, value in (('rotary_emb_base', base), ('rope_theta', theta)):
    if value is not None and value != rope.theta:
      raise ValueError(f'{name}={value!r} contradicts rope_theta={rope.theta!r}')
  return rope


def _parse_rope(spec, name, max_length) -> Rope:
  """The rope of one of the two attributes; raises ValueError."""
  spec = {k: v for k, v in spec.items() if v is not None}
  kinds = [spec.pop(k) for k in ('rope_type', 'type') if k in spec] or ['default']
  kind = kinds[0]
  if kind != kinds[-1] or kind not in list(_ROPE_NEEDS):
    known = ', '.join(_ROPE_NEEDS)
    raise ValueError(f'{name} of type {kind!r} is not supported, only {known}')
  if spec.pop('partial_rotary_factor', 1) != 1:
    raise ValueError(f'{name}: a partial_rotary_factor is not supported')
  needs = _ROPE_NEEDS[kind]
  if kind == 'llama3':
    spec.setdefault('original_max_position_embeddings', max_length)
    needs = needs | {'original_max_position_embeddings'}
  if needs - spec.keys():
    missing = ', '.join(sorted(needs - spec.keys()))
    raise ValueError(f'{name} of type {kind!r} lacks {missing}')
  for key in spec.keys() - needs - {'rope_theta'}:
    raise ValueError(f'{name}: {key}={spec[key]!r} is not known for type {kind!r}')
  numbers = {_ROPE[k]: _number(f'{name}: {k}', v) for k, v in spec.items()}
  length = int(numbers.pop('original_length', Rope.original_length))
  return Rope(kind=kind, original_length=length, **numbers)


def _number(name, value) -> float:
  if type(value) not in (int, float):
    raise ValueError(f'{name}={value!r} must be a number')
  return float(value)


def _gpt2(entries, sizes) -> DecoderConfig:
  """The config of a GPT-2, with transformers' defaults."""
  width, heads = sizes['width'], sizes['heads']
  if width % heads:
    raise ValueError(f'n_head={heads} does not divide n_embd={width}')
  hidden = entries.get('n_inner') or 4 * width
  if type(hidden) is not int or hidden < 1:
    raise ValueError(f'n_inner={hidden!r} must be a whole number above 0')
  return DecoderConfig(
    **sizes,
    family='gpt2',
    hidden=hidden,
    kv_heads=heads,
    head_width=width // heads,
    rope=None,
    norm='layer',
    norm_epsilon=_number('layer_norm_epsilon', entries.get('layer_norm_epsilon', 1e-5)),
    mlp='gelu_new',
    qkv_bias=True,
    out_bias=True,
    mlp_bias=True,
    tied_head=bool(entries.get('tie_word_embeddings', True)),
  )


def _llama_attributes(config):
  """Attributes as both transformers 5 and earlier versions read them."""
  c = config
  written: dict[str, Any] = {k: getattr(c, v) for k, v in _LLAMA_SIZES.items()}
  written |= {
    'num_key_value_heads': c.kv_heads,
    'head_dim': c.head_width,
    'hidden_act': 'silu',
    'rms_norm_eps': c.norm_epsilon,
    'attention_dropout': 0.0,
  }
  if c.rope is not None:
    kind = c.rope.kind
    names = {'llama3': list(_ROPE)[1:], 'linear': ['factor']}.get(kind, [])
    scaling = {name: getattr(c.rope, _ROPE[name]) for name in names}
    types = {'type': kind, 'rope_type': kind}
    written['rope_theta'] = c.rope.theta
    written['rope_scaling'] = types | scaling if names else None
    parameters = {'rope_type': kind, 'rope_theta': c.rope.theta}
    written['rope_parameters'] = parameters | scaling
  if c.family == 'llama':
    written |= {'attention_bias': c.out_bias, 'mlp_bias': c.mlp_bias}
  if c.family == 'mistral':
    written['sliding_window'] = c.window
  if c.family == 'qwen2':
    full = c.layers if c.window is None else c.window_from
    sliding = c.layers - full
    written |= {
      'use_sliding_window': c.window is not None,
      'sliding_window': c.window,
      'max_window_layers': full,
      'layer_types': ['full_attention'] * full + ['sliding_attention'] * sliding,
    }
  return written


def _gpt2_attributes(config):
  return {
    **{k: getattr(config, v) for k, v in _GPT2_SIZES.items()},
    'n_inner': config.hidden,
    'activation_function': 'gelu_new',
    'layer_norm_epsilon': config.norm_epsilon,
    **dict.fromkeys(('embd_pdrop', 'resid_pdrop', 'attn_pdrop'), 0.0),
  }
