"""The published config.json of the papers' pretrained models, by directory name.

For predictions of memory and time before a download; a run reads the config.json in
the model's own directory.
"""

from typing import Any

_COMMON = {
  'hidden_act': 'silu',
  'hidden_size': 4096,
  'num_attention_heads': 32,
  'num_hidden_layers': 32,
  'tie_word_embeddings': False,
}
CONFIGS: dict[str, dict[str, Any]] = {
  'Llama-2-7b-hf': _COMMON
  | {
    'model_type': 'llama',
    'intermediate_size': 11008,
    'max_position_embeddings': 4096,
    'num_key_value_heads': 32,
    'rms_norm_eps': 1e-05,
    'vocab_size': 32000,
  },
  'Mistral-7B-v0.3': _COMMON
  | {
    'model_type': 'mistral',
    'intermediate_size': 14336,
    'max_position_embeddings': 32768,
    'num_key_value_heads': 8,
    'rms_norm_eps': 1e-05,
    'rope_theta': 1000000.0,
    'sliding_window': None,
    'vocab_size': 32768,
  },
  'deepseek-coder-6.7b-base': _COMMON
  | {
    'model_type': 'llama',
    'intermediate_size': 11008,
    'max_position_embeddings': 16384,
    'num_key_value_heads': 32,
    'rms_norm_eps': 1e-06,
    'rope_scaling': {'factor': 4.0, 'type': 'linear'},
    'rope_theta': 100000,
    'vocab_size': 32256,
  },
  'CodeQwen1.5-7B': _COMMON
  | {
    'model_type': 'qwen2',
    'intermediate_size': 13440,
    'max_position_embeddings': 65536,
    'max_window_layers': 28,
    'num_key_value_heads': 4,
    'rms_norm_eps': 1e-05,
    'rope_theta': 1000000,
    'sliding_window': 65536,
    'use_sliding_window': False,
    'vocab_size': 92416,
  },
}
