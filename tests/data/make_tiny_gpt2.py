"""Records tiny_gpt2/: a random GPT-2 of transformers, and its logits.

Run where torch and transformers are installed: python tests/data/make_tiny_gpt2.py
"""

from pathlib import Path

import numpy as np
import torch
import transformers

OUT = Path(__file__).parent / 'tiny_gpt2'


def main():
  torch.manual_seed(0)
  config = transformers.GPT2Config(
    vocab_size=37,
    n_positions=17,
    n_embd=20,
    n_layer=3,
    n_head=5,
    bos_token_id=None,
    eos_token_id=1,
    pad_token_id=0,
  )
  model = transformers.GPT2LMHeadModel(config).eval()
  with torch.no_grad():
    for weight in model.parameters():  # biases and norms too, which start trivial
      weight.add_(0.1 * torch.randn(weight.shape))
    tokens = torch.randint(0, config.vocab_size, (7, 13))
    logits = model(tokens).logits
  model.save_pretrained(OUT)
  (OUT / 'generation_config.json').unlink(missing_ok=True)
  np.savez(OUT / 'logits.npz', tokens=tokens.numpy(), logits=logits.numpy())


if __name__ == '__main__':
  main()
