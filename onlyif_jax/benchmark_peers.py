"""Compares training here with Hugging Face GPT-2 on the same work.

Both sides have the same vocabulary, layers, width, heads, length, batches, tokens,
initial weights, loss on answers alone, AdamW and dropout 0; float32 on CPU, bfloat16
matmuls on a GPU. Our side makes its data as it trains, Trainer loads them with its
DataLoader, the bare loop has them in memory. Sides take turns (A B A B), and ratios
are taken within a round.
"""

import dataclasses
import functools
import os
import statistics
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from onlyif_jax import benchmark_torch
from onlyif_jax.benchmark_stack import StackBench, wall
from onlyif_jax.benchmark_torch import IGNORED
from onlyif_jax.config import ConfigError, RunConfig, StackConfig
from onlyif_jax.experiment import Experiment
from onlyif_jax.models import hf
from onlyif_jax.training import ensemble

BATCHES = 256  # most batches to prepare for the other side
TOLERANCE = 1e-4  # largest relative difference of the losses of one batch
OURS = {
  'ours_one': 'ours, one member',
  'ours_stack': 'ours, the whole stack',
}
SIDES = OURS | {
  'trainer': 'HF Trainer with its DataLoader',
  'bare': 'HF GPT-2 in a bare loop',
  'compiled': 'the same under torch.compile',
}


def comparable(config: RunConfig) -> RunConfig:
  """The config with a model and an optimiser that both sides have."""
  if config.data.balance:
    raise ConfigError('--peers: data.balance=True has no counterpart; set it to False')
  dtype = 'float32' if jax.default_backend() == 'cpu' else 'bfloat16'
  model = dataclasses.replace(
    config.model, positions='learned', dropout=0.0, compute_dtype=dtype
  )
  optim = dataclasses.replace(config.optim, name='adamw')
  return dataclasses.replace(config, model=model, optim=optim)


def compare(config: RunConfig, seconds: float, rounds: int) -> dict[str, Any]:
  """Turns, medians and ratios of all sides; raises ConfigError without torch.

  seconds: of each turn, about.
  """
  benchmark_torch.check()
  config = comparable(config)
  one = StackConfig(config.stack.mode, 1, 1, 1, config.stack.chunk)
  stack = StackBench(config)
  ours = {
    'ours_one': StackBench(dataclasses.replace(config, stack=one)),
    'ours_stack': stack,
  }
  with tempfile.TemporaryDirectory() as folder:
    settings, loss = prepare(stack.experiment, Path(folder))
    with benchmark_torch.Worker(Path(folder), settings) as worker:
      theirs = worker.about['first_loss']
      if abs(theirs - loss) > TOLERANCE * abs(loss):
        raise ConfigError(
          f'--peers: not the same work: the loss of one batch is {loss} here and '
          f'{theirs} there'
        )
      turns = _turns(ours, worker, seconds, rounds, config.data.batch_size)
      about = worker.about
  return summary(turns) | {'about': about | {'our_first_loss': loss}, 'turns': turns}


def prepare(experiment: Experiment, folder: Path) -> tuple[dict[str, Any], float]:
  """Writes weights and examples for the other side; returns (its settings, our loss).

  The loss is of the first batch, under the initial weights of both sides.
  """
  config, plan = experiment.config, experiment.data.plan
  stack = dataclasses.replace(config.stack, members=1, member_devices=1, data_devices=1)
  run = dataclasses.replace(experiment.run, stack=stack)
  member = ensemble.unstack(StackBench(run).members, 0)
  params = jax.jit(experiment.trainer.init)(member)['params']
  hf.save_gpt2(params, experiment.model, folder / 'model')
  arrays = examples(experiment, member, min(BATCHES, plan.steps))
  np.savez(folder / 'data.npz', tokens=arrays['tokens'], labels=arrays['labels'])
  fields = ('learning_rate', 'b1', 'b2', 'eps', 'weight_decay', 'clip')
  settings = {
    'batch_size': plan.batch_size,
    'optimizer': {name: getattr(config.optim, name) for name in fields},
    'cores': _cores(),
  }
  return settings, first_loss(experiment, member, params)


def examples(experiment: Experiment, member, batches: int) -> dict[str, np.ndarray]:
  """tokens and labels [N, L] of the first batches of a member's training."""
  make = jax.jit(experiment.data.train_batch)
  tokens, labels = [], []
  for step in range(batches):
    batch = make(member, jnp.int32(step))
    tokens_BL = np.asarray(batch.tokens_BL)
    counts_BL = np.asarray(batch.weights_BL) > 0
    tokens.append(tokens_BL)
    labels.append(np.where(counts_BL, tokens_BL, IGNORED))
  return {'tokens': np.concatenate(tokens), 'labels': np.concatenate(labels)}


def first_loss(experiment: Experiment, member, params) -> float:
  """Our loss on the first batch, in nats per answer token, in float32."""
  model = dataclasses.replace(experiment.model, compute_dtype='float32')
  trainer = dataclasses.replace(experiment.trainer, model=model)

  def loss(member, params):
    total, count = trainer.loss(params, trainer.data.train_batch(member, 0))
    return total / count

  with jax.default_matmul_precision('highest'):
    return float(jax.jit(loss)(member, params))


def _cores() -> int:
  """The number of cores that this process, and so the other side's, may use."""
  if hasattr(os, 'sched_getaffinity'):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def _turns(
  ours: Mapping[str, StackBench],
  worker: benchmark_torch.Worker,
  seconds: float,
  rounds: int,
  batch_size: int,
) -> list[dict[str, Any]]:
  """Rounds of one turn of each side: its steps, seconds and rate."""
  # Side -> (function of a number of steps that returns seconds, examples per step).
  sides: dict[str, tuple[Callable[[int], float], int]] = {}
  for side, bench in ours.items():
    sides[side] = functools.partial(wall, bench.training.run), bench.per_step
  for side in worker.about['sides']:
    sides[side] = functools.partial(worker.turn, side), batch_size
  steps = {}
  for side, (train, _) in sides.items():
    train(1)  # compiles, or allocates
    few = 3
    steps[side] = max(1, round(seconds / (train(few) / few)))
  turns = []
  for number in range(rounds):
    for side, (train, examples_per_step) in sides.items():
      taken = train(steps[side])
      turns.append(
        {
          'round': number,
          'side': side,
          'steps': steps[side],
          'seconds': round(taken, 6),
          'examples_per_s': steps[side] * examples_per_step / taken,
        }
      )
  return turns


def summary(turns: list[dict[str, Any]]) -> dict[str, Any]:
  """Median rates by side, and ratios ours / theirs within each round."""
  rates: dict[str, list[float]] = {}
  for turn in turns:
    rates.setdefault(turn['side'], []).append(turn['examples_per_s'])
  ratios = {}
  for ours in OURS:
    for theirs in (side for side in rates if side not in OURS):
      pairs = zip(rates[ours], rates[theirs], strict=True)
      per_round = [a / b for a, b in pairs]
      ratios[f'{ours}/{theirs}'] = {
        'median': statistics.median(per_round),
        'low': min(per_round),
        'high': max(per_round),
        'per_round': per_round,
      }
  medians = {side: statistics.median(each) for side, each in rates.items()}
  return {'examples_per_s': medians, 'ratios': ratios}


def show(report: dict[str, Any], console: Console) -> None:
  """Prints a comparison."""
  about = report['about']
  rounds = 1 + max(turn['round'] for turn in report['turns'])
  versions = ', '.join(f'{k} {v}' for k, v in about['versions'].items())
  console.print(
    f'\npeers: the same model, tokens and loss ({about["our_first_loss"]:.6f} and '
    f'{about["first_loss"]:.6f} on one batch), AdamW; {versions}, {about["device"]}, '
    f'{about["threads"]} threads; {rounds} rounds in turn'
  )
  table = Table(box=None)
  table.add_column('side')
  table.add_column('examples/s', justify='right')
  for name in OURS.values():
    table.add_column(f'{name.partition(", ")[2]} / it')
  for side, rate in report['examples_per_s'].items():
    ratios = [report['ratios'].get(f'{ours}/{side}') for ours in OURS]
    table.add_row(SIDES[side], f'{rate:,.0f}', *map(_cell, ratios))
  console.print(table)


def _cell(ratio: dict[str, Any] | None) -> str:
  if ratio is None:
    return ''
  return f'{ratio["median"]:.2f} [{ratio["low"]:.2f}, {ratio["high"]:.2f}]'
