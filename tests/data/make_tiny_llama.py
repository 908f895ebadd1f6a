"""Records tiny_llama/: random decoders of transformers, and their logits.

Run where torch and transformers are installed: python tests/data/make_tiny_llama.py
"""

from pathlib import Path

import numpy as np
import torch
import transformers

OUT = Path(__file__).parent / 'tiny_llama'
SHAPE = {'hidden_size': 18, 'num_attention_heads': 6, 'head_dim': 10}
MODELS = {  # name -> (class, settings); mistral's window is shorter than the text
  'llama': (
    'Llama',
    {'vocab_size': 29, 'intermediate_size': 17, 'head_dim': 6, 'rms_norm_eps': 1e-5},
  ),
  'mistral': (
    'Mistral',
    {
      'vocab_size': 37,
      'intermediate_size': 31,
      'num_key_value_heads': 2,
      'sliding_window': 5,
      'rope_parameters': {'rope_type': 'default', 'rope_theta': 1e6},
    },
  ),
  'deepseek': (
    'Llama',
    {
      'vocab_size': 43,
      'head_dim': 8,
      'intermediate_size': 23,
      'num_key_value_heads': 3,
      'rope_parameters': {'rope_type': 'linear', 'rope_theta': 1e5, 'factor': 4.0},
    },
  ),
  'qwen2': (
    'Qwen2',
    {
      'vocab_size': 47,
      'hidden_size': 24,
      'head_dim': 4,
      'intermediate_size': 19,
      'num_key_value_heads': 1,
      'tie_word_embeddings': True,
      'rope_parameters': {'rope_type': 'default', 'rope_theta': 1e4},
    },
  ),
}


def randomize(model, std=0.1):
  """Biases and norms too, which start trivial."""
  with torch.no_grad():
    for weight in model.parameters():
      weight.add_(std * torch.randn(weight.shape))
  return model.eval()


def main():
  for seed, (name, (family, settings)) in enumerate(MODELS.items()):
    torch.manual_seed(seed)
    config = getattr(transformers, f'{family}Config')(
      num_hidden_layers=2, max_position_embeddings=53, **(SHAPE | settings)
    )
    model = randomize(getattr(transformers, f'{family}ForCausalLM')(config))
    tokens = torch.randint(0, config.vocab_size, (3, 11))
    with torch.no_grad():
      logits = model(tokens).logits
    # Mistral in several files with an index, as the published ones.
    size = '20KB' if name == 'mistral' else '1GB'
    model.save_pretrained(OUT / name, max_shard_size=size)
    (OUT / name / 'generation_config.json').unlink(missing_ok=True)
    np.savez(OUT / name / 'logits.npz', tokens=tokens.numpy(), logits=logits.numpy())


if __name__ == '__main__':
  main()
