"""The worked examples of README.md are the code that is tested, or run here."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BLOCKS = re.findall(r'```python\n(.*?)```', (ROOT / 'README.md').read_text(), re.S)


def block(word: str) -> str:
  (own,) = [text for text in BLOCKS if word in text]
  return own


def test_the_task_of_ones_own_is_the_tested_one():
  tested = (ROOT / 'tests' / 'outside_task.py').read_text()
  assert block('class Reverse').strip() in tested


@pytest.mark.hf
def test_the_exported_examples_train_a_torch_model(tmp_path, monkeypatch):
  pytest.importorskip('torch')
  import toy

  from onlyif_jax import exporting
  from onlyif_jax.config import freeze

  c = toy.get_config('counts=7')
  c.task.alphabet, c.data.examples = 5, 1009
  exporting.config_to_tfds(freeze(c), tmp_path / 'data', 'I7-s0')
  monkeypatch.chdir(tmp_path)
  losses: list[float] = []
  text = block('import torch').replace(
    'optimizer.step()', 'optimizer.step(); losses.append(loss.item())'
  )
  exec(text, {'losses': losses})
  assert len(losses) == 16  # 1009 examples in batches of 64
  assert losses[-1] < 0.8 * losses[0]
