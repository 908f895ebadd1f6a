"""The report of `bench` for a fine-tuning config: training and generation, tokens/s.

The model has the run's shapes, precision and adapters, but random weights, so a
published config.json is enough.
"""

import json
import os
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console

from onlyif_jax import benchmark
from onlyif_jax.analysis import table
from onlyif_jax.finetune import predict
from onlyif_jax.finetune.tuning_config import Tuning
from onlyif_jax.models import llama, lora
from onlyif_jax.models.generate import generate
from onlyif_jax.models.llama import DecoderConfig
from onlyif_jax.models.lora import Parts
from onlyif_jax.training import placement
from onlyif_jax.training.tuning import TuneStep, train_step


def run(
  tuning: Tuning, *, seconds: float, out: str | os.PathLike | None = None
) -> dict[str, Any]:
  """Measures a config, prints a table, writes JSON to `out`; returns the report.

  seconds: per measurement, which has at least one step.
  """
  config = predict.decoder(tuning)
  mesh = placement.make_mesh(tuning.devices)
  parts = model(tuning, config, mesh)
  report: dict[str, Any] = {'machine': benchmark.machine()}
  report['generation'] = _generation(tuning, parts, config.vocab_size, seconds)
  # Last, because its first step donates the adapters.
  report['training'] = _training(tuning, parts, config.vocab_size, mesh, seconds)
  report['predicted_bytes'] = predict.memory(tuning, config).total
  lines = [
    (f'{what}: {name.replace("_", " ")}', f'{value:,.1f}')
    for what in ('training', 'generation')
    for name, value in report[what].items()
  ]
  table.show_grids(
    [table.Grid('Fine-tuning', ('', 'measured'), tuple(lines))], Console()
  )
  if out is not None:
    Path(out).write_text(json.dumps(report, indent=2) + '\n')
  return report


def model(tuning: Tuning, config: DecoderConfig, mesh) -> Parts:
  """The run's model with random weights, sharded over the mesh like the run's."""
  parts = lora.adapt(
    config,
    random_weights(config, tuning.base.dtype, mesh),  # not named, so it can be freed
    tuning.lora,
    tuning.base.quantize,
    jax.random.key(1),
  )
  placed = placement.place(mesh, (parts.trained, parts.frozen))
  trained, frozen = jax.device_put((parts.trained, parts.frozen), placed)
  return parts._replace(trained=trained, frozen=frozen)


def random_weights(config: DecoderConfig, dtype: str, mesh) -> dict:
  """Random weights in a dtype, each made on its own devices."""

  def make(key):
    return jax.tree.map(lambda p: p.astype(dtype), llama.init(config, key))

  placed = placement.place(mesh, llama.shapes(config))
  return jax.jit(make, out_shardings=placed)(jax.random.key(0))


def _training(
  tuning: Tuning, parts: Parts, vocabulary: int, mesh, seconds: float
) -> dict[str, float]:
  """Times training steps on full rows, with a loss on every token."""
  t, rng = tuning.tune, np.random.default_rng(0)
  shape = (t.batch_size, t.length)
  batch = {
    'tokens': rng.integers(0, vocabulary, shape).astype(np.int32),
    'weights': np.ones(shape, np.float32),
    'segments': np.ones(shape, np.int32),
    'positions': np.tile(np.arange(t.length, dtype=np.int32), (t.batch_size, 1)),
  }
  tune = TuneStep(tuning.optim, t.micro_batches)
  state = tune.init(parts.trained)
  state = jax.device_put(state, placement.place(mesh, state))
  batch = jax.device_put(batch, placement.batch(mesh))
  rate = np.float32(tuning.optim.learning_rate)

  def step(state):
    return train_step(tune, parts.definitions, state, parts.frozen, batch, rate, 0)

  began = time.perf_counter()
  state, sums = step(state)
  jax.block_until_ready(sums)
  first, steps = time.perf_counter() - began, 0
  began = time.perf_counter()
  while not steps or time.perf_counter() - began < seconds:
    state, sums = step(state)
    jax.block_until_ready(sums)
    steps += 1
  took = time.perf_counter() - began
  return {
    'first_step_seconds': first,
    'step_seconds': took / steps,
    'tokens_per_second': steps * t.batch_size * t.length / took,
  }


def _generation(
  tuning: Tuning, parts: Parts, vocabulary: int, seconds: float
) -> dict[str, float]:
  """Times generation: prompts of half a row, and answers that never end early."""
  a, rng = tuning.answers, np.random.default_rng(1)
  length = max(1, tuning.tune.length // 2)
  prompts = rng.integers(0, vocabulary, (a.batch_size, length)).tolist()

  def answer() -> int:
    generated = generate(
      parts.graphdef,
      parts.weights(),
      None,
      prompts,
      max_new_tokens=a.max_tokens,
      batch_size=a.batch_size,
      stop_ids=(),
    )
    return sum(len(answer.tokens) for answer in generated)

  began = time.perf_counter()
  answer()
  first, tokens = time.perf_counter() - began, 0
  began = time.perf_counter()
  while not tokens or time.perf_counter() - began < seconds:
    tokens += answer()
  took = time.perf_counter() - began
  return {
    'first_batch_seconds': first,
    'new_tokens_per_second': tokens / took,
    'prompt_tokens': float(length),
  }
