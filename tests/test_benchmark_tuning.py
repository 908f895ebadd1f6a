"""`bench` of a fine-tuning config, at toy size on two devices."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from onlyif_jax import benchmark, benchmark_tuning
from onlyif_jax.finetune import predict
from onlyif_jax.training import placement
from onlyif_jax.tuning_settings import (
  AnswerConfig,
  BaseConfig,
  DevicesConfig,
  LoraConfig,
  ScratchConfig,
  SymbolicTuning,
  TuneConfig,
)

TUNING = SymbolicTuning(
  base=BaseConfig(remat=False),
  scratch=ScratchConfig(
    layers=1, width=16, heads=2, kv_heads=1, hidden=24, vocabulary=34
  ),
  lora=LoraConfig(rank=3),
  tune=TuneConfig(batch_size=4, length=14),
  answers=AnswerConfig(batch_size=2, max_tokens=5),
  devices=DevicesConfig(fsdp=2),
)


# Compiles training and generation on a mesh; their own tests are quick.
@pytest.mark.slow
def test_no_seconds_are_one_step(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(benchmark, 'machine', dict)
  out = tmp_path / 'bench.json'
  found = benchmark_tuning.run(TUNING, seconds=0.0, out=out)
  assert json.loads(out.read_text()) == found
  for what in ('training', 'generation'):
    assert all(value > 0 for value in found[what].values()), found
  assert found['generation']['prompt_tokens'] == 7
  assert 'training: tokens per second' in capsys.readouterr().out


@pytest.mark.parametrize(('rank', 'kind'), [(0, 'float32'), (3, 'bfloat16')])
def test_random_weights_are_made_in_the_runs_dtype_where_they_live(rank, kind):
  tuning = dataclasses.replace(TUNING, lora=LoraConfig(rank=rank))
  config, mesh = predict.decoder(tuning), placement.make_mesh(tuning.devices)
  weights = benchmark_tuning.random_weights(config, tuning.base.dtype, mesh)
  assert {str(x.dtype) for x in jax.tree.leaves(weights)} == {'bfloat16'}
  _, *matrices = (x for x in jax.tree.leaves(weights) if x.ndim == 2)
  for x in matrices:
    assert 2 * np.prod(x.sharding.shard_shape(x.shape)) == x.size
    assert float(x.std()) > 0.01
  parts = benchmark_tuning.model(tuning, config, mesh)
  own = parts.frozen if rank else parts.trained
  assert {str(x.dtype) for x in jax.tree.leaves(own)} == {kind}
  for tree in (parts.trained, parts.frozen):
    placed = placement.place(mesh, tree)
    same = jax.tree.map(
      lambda x, s: x.sharding.is_equivalent_to(s, x.ndim), tree, placed
    )
    assert all(jax.tree.leaves(same))
