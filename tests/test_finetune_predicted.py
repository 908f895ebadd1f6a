"""What --dry_run predicts of a fine-tuning: memory, rows and time."""

import contextlib
import dataclasses
import re

import jax
import pytest
from test_finetune import frozen

from onlyif_jax.finetune import predict
from onlyif_jax.models import llama, lora
from onlyif_jax.training.tuning import TuneStep
from onlyif_jax.tuning_settings import (
  BaseConfig,
  LoraConfig,
  SymbolicTuning,
  TuneConfig,
)


@contextlib.contextmanager
def optimised():
  jax.config.update('jax_disable_most_optimizations', False)
  try:
    yield
  finally:
    jax.config.update('jax_disable_most_optimizations', True)


@pytest.mark.parametrize(
  ('rank', 'quantize', 'micro'),
  [
    pytest.param(0, 'none', 1, marks=pytest.mark.slow),
    (8, 'int8', 1),
    pytest.param(0, 'none', 2, marks=pytest.mark.slow),
  ],
)
def test_predicted_memory_is_within_15_percent_of_the_compilers(rank, quantize, micro):
  c = llama.DecoderConfig(1_000, 256, 2, 256, 704, 8, 8, 32)
  tuning = SymbolicTuning(
    base=BaseConfig(
      dtype='float32', compute_dtype='float32', quantize=quantize, remat=False
    ),
    lora=LoraConfig(rank=rank),
    tune=TuneConfig(batch_size=4, length=256, micro_batches=micro),
  )
  parts = lora.shapes(c, tuning.lora, quantize, 'float32')
  step = TuneStep(tuning.optim, micro)
  kinds = {'tokens': 'int32', 'weights': 'float32'}
  kinds |= {'segments': 'int32', 'positions': 'int32'}
  batch = {k: jax.ShapeDtypeStruct((4, 256), kind) for k, kind in kinds.items()}
  program = jax.jit(lambda s, f, b: step.step(parts, s, f, b, 0.1), donate_argnums=0)
  state = jax.eval_shape(step.init, parts.trained)
  with optimised():  # as users compile it
    told = program.lower(state, parts.frozen, batch).compile().memory_analysis()
  really = told.argument_size_in_bytes + told.temp_size_in_bytes
  really += told.output_size_in_bytes - told.alias_size_in_bytes
  assert abs(predict.memory(tuning, c).total / really - 1) < 0.15


def test_llama_2_with_int8_and_lora_fits_48_gb():
  from published_configs import PUBLISHED

  from onlyif_jax.models import pretrained_config

  config_7b = pretrained_config.parse(PUBLISHED['Llama-2-7b-hf'][0], 'test')
  config_7b = dataclasses.replace(config_7b, compute_dtype='bfloat16', remat=True)
  tuning = SymbolicTuning(
    base=BaseConfig(quantize='int8'),
    lora=LoraConfig(rank=512, alpha=1024.0),
    tune=TuneConfig(batch_size=4, length=768),
  )
  found = predict.memory(tuning, config_7b)
  assert 6e9 < found.frozen < 8e9  # a byte for each weight of the layers
  assert found.total < 48e9
  two = dataclasses.replace(tuning.devices, fsdp=2)
  halves = predict.memory(dataclasses.replace(tuning, devices=two), config_7b)
  assert halves.frozen < 0.55 * found.frozen


def test_dry_run_prints_rows_memory_and_time(capsys):
  predict.show(frozen())
  out = capsys.readouterr().out
  for word in ('I3-s0', 'total on one device', 'time on one A40'):
    assert word in out
  assert re.search(r'trained +[\d,]+ weights', out)
