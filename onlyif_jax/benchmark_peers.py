"""The same work here and under Hugging Face: GPT-2, in turn with ours.

Same vocabulary, layers, width, heads, length, batch, tokens, weights at the start,
loss on answers alone, AdamW, dropout 0; float32 on CPU, bfloat16 matmuls on a GPU.
Ours makes its data as it trains; Trainer loads them with its DataLoader; the bare
loop has them in memory. Sides take turns (A B A B); ratios are of one round.
"""

import dataclasses
import os
import statistics
import tempfile
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

BATCHES = 256  # most batches that are made beforehand for the other side
TOLERANCE = 1e-4  # relative difference of the losses of one batch
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
  """The config with the model and optimiser that both sides have."""
  if config.data.balance:
    raise ConfigError('--peers: data.balance=True has no counterpart; set it to False')
  dtype = 'float32' if jax.default_backend() == 'cpu' else 'bfloat16'
  model = dataclasses.replace(
    config.model, positions='learned', dropout=0.0, compute_dtype=dtype
  )
  optim = dataclasses.replace(config.optim, name='adamw')
  return dataclasses.replace(config, model=model, optim=optim)


def compare(config: RunConfig, seconds: float, rounds: int) -> dict[str, Any]:
  """Every side's turns, medians and ratios; raises ConfigError without torch.

  seconds: about, of each turn.
  """
  benchmark_torch.check()
  config = comparable(config)
  alone = StackConfig(config.stack.mode, 1, 1, 1, config.stack.chunk)
  stack = StackBench(config)
  ours = {
    'ours_one': StackBench(dataclasses.replace(config, stack=alone)),
    'ours_stack': stack,
  }
  with tempfile.TemporaryDirectory() as name:
    settings, loss = prepare(stack.experiment, Path(name))
    with benchmark_torch.Worker(Path(name), settings) as worker:
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
  """Writes weights and examples for the other side: (its settings, our loss).

  The loss is of the first batch, under the weights that both sides begin with.
  """
  config, plan = experiment.config, experiment.data.plan
  stack = dataclasses.replace(config.stack, members=1, member_devices=1, data_devices=1)
  run = dataclasses.replace(experiment.run, stack=stack)
  members = StackBench(run).members
  member = ensemble.unstack(members, 0)
  params = jax.jit(experiment.trainer.init)(member)['params']
  hf.save_gpt2(params, experiment.model, folder / 'model')
  count = min(BATCHES, plan.steps)
  made = examples(experiment, member, count)
  np.savez(folder / 'data.npz', tokens=made['tokens'], labels=made['labels'])
  o = config.optim
  optimizer = {k: getattr(o, k) for k in ('learning_rate', 'b1', 'b2', 'eps')}
  optimizer |= {'weight_decay': o.weight_decay, 'clip': o.clip}
  settings = {'batch_size': plan.batch_size, 'optimizer': optimizer, 'cores': _cores()}
  return settings, first_loss(experiment, member, params)


def examples(experiment: Experiment, member, batches: int) -> dict[str, np.ndarray]:
  """tokens and labels [n, L] of the first batches of a member's training."""
  make = jax.jit(experiment.data.train_batch)
  made: dict[str, list] = {'tokens': [], 'labels': []}
  for step in range(batches):
    batch = make(member, jnp.int32(step))
    tokens_BL = np.asarray(batch.tokens_BL)
    made['tokens'].append(tokens_BL)
    counts_BL = np.asarray(batch.weights_BL) > 0
    made['labels'].append(np.where(counts_BL, tokens_BL, IGNORED))
  return {k: np.concatenate(v) for k, v in made.items()}


def first_loss(experiment: Experiment, member, params) -> float:
  """Our loss of the first batch, in nats per answer token, in float32."""
  model = dataclasses.replace(experiment.model, compute_dtype='float32')
  trainer = dataclasses.replace(experiment.trainer, model=model)

  def loss(member, params):
    total, count = trainer.loss(params, trainer.data.train_batch(member, 0))
    return total / count

  with jax.default_matmul_precision('highest'):
    return float(jax.jit(loss)(member, params))


def _cores() -> int:
  """The cores that this process may use, and with it the other side's."""
  if hasattr(os, 'sched_getaffinity'):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def _turns(ours, worker, seconds: float, rounds: int, batch: int) -> list[dict]:
  """Rounds of one turn of each side: what each did, and how long it took."""
  calls = {}
  for side, bench in ours.items():
    calls[side] = (lambda n, bench=bench: wall(bench.training.run, n)), bench.per_step
  for side in worker.about['sides']:
    calls[side] = (lambda n, side=side: worker.turn(side, n)), batch
  steps = {}
  for side, (call, _) in calls.items():
    call(1)  # compiles, or creates what a first call creates
    few = 3
    steps[side] = max(1, round(seconds / (call(few) / few)))
  turns = []
  for number in range(rounds):
    for side, (call, size) in calls.items():
      taken = call(steps[side])
      turns.append(
        {
          'round': number,
          'side': side,
          'steps': steps[side],
          'seconds': round(taken, 6),
          'examples_per_s': steps[side] * size / taken,
        }
      )
  return turns


def summary(turns: list[dict[str, Any]]) -> dict[str, Any]:
  """Medians by side, and ratios ours / theirs within each round."""
  rates: dict[str, list[float]] = {}
  for turn in turns:
    rates.setdefault(turn['side'], []).append(turn['examples_per_s'])
  ratios = {}
  for a in OURS:
    for b in (side for side in rates if side not in OURS):
      each = [x / y for x, y in zip(rates[a], rates[b], strict=True)]
      ratios[f'{a}/{b}'] = {
        'median': statistics.median(each),
        'low': min(each),
        'high': max(each),
        'per_round': each,
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
    cells = [report['ratios'].get(f'{a}/{side}') for a in OURS]
    table.add_row(SIDES[side], f'{rate:,.0f}', *map(_ratio, cells))
  console.print(table)


def _ratio(found: dict[str, Any] | None) -> str:
  if found is None:
    return ''
  return f'{found["median"]:.2f} [{found["low"]:.2f}, {found["high"]:.2f}]'
