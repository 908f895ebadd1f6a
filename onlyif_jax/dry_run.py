"""Predicts what a run costs: rows, parameters, tokens, FLOPs, memory and time.

Writes nothing. Memory comes from the compiled step of the real batch, which is not
run; time from a few steps on the largest part of the batch that runs quickly.
"""

import dataclasses
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from rich.console import Console
from rich.table import Table

from onlyif_jax import experiment as experiment_lib
from onlyif_jax.benchmark import settle
from onlyif_jax.config import RunConfig, StackConfig
from onlyif_jax.evals.exact_match import IN_LOOP, eval_sets
from onlyif_jax.experiment import Experiment
from onlyif_jax.training import parallel

TIMED_SECONDS = 6.0  # budget for timing steps
QUICK_FLOPS = 2e11  # a few seconds of work for a CPU
EVAL_COST = 2 / 3  # time to evaluate an example / time to train on it, measured


class Timing(NamedTuple):
  """What was measured of a stack."""

  step_seconds: float  # of a whole stack
  memory: int  # bytes per device
  batch: int  # sequences in the timed steps, the whole batch or a part of it


def show(config: RunConfig) -> None:
  """Prints the prediction for a config."""
  config = settle(config)
  experiment = experiment_lib.build(config)
  rows = experiment_lib.rows(config)
  timing = _measure(config, experiment)
  plan, s = experiment.data.plan, config.stack
  stacks = -(-len(rows) // s.members)
  training = timing.step_seconds * plan.steps * stacks
  evaluation = (
    training * EVAL_COST * _eval_examples(experiment) / (plan.steps * plan.batch_size)
  )
  table = Table(show_header=False, box=None)
  references = sum(bool(row.reference) for row in rows)
  lines = {
    'members': f'{len(rows)} ({references} of them references)',
    'instructions': ' '.join(f'{i:,}' for i in config.sweep.counts),
    'examples N': f'{plan.examples:,} x {plan.epochs:g} passes = {plan.steps:,} steps',
    'parameters': f'{experiment.parameters:,}',
    'tokens': f'{experiment.tokens * len(rows):,} ({experiment.tokens:,} a member)',
    'FLOPs': f'{experiment.flops * len(rows):.3g} ({experiment.flops:.3g} a member)',
    'training rules': f'{experiment.data.rules.capacity():,} at most',
    'stacks': f'{stacks} of {s.members} ({s.mode}, {s.member_devices} x '
    f'{s.data_devices} devices of {jax.default_backend()})',
    'memory': f'{timing.memory / 2**20:,.0f} MiB a device',
    'step': f'{timing.step_seconds * 1e3:.1f} ms for {s.members} members, timed with '
    f'{timing.batch} of {plan.batch_size} sequences',
    'time': f'{_duration(training + evaluation)}: {_duration(training)} of training, '
    f'{_duration(evaluation)} of evaluation; compiling adds a minute or two',
  }
  for name, value in lines.items():
    table.add_row(name, value)
  Console(width=100).print(table)


def _measure(config: RunConfig, experiment: Experiment) -> Timing:
  """Compiles the whole step for its memory, times a step that is quick enough."""
  s = config.stack
  mesh = parallel.make_mesh(s.member_devices, s.data_devices)
  batch = config.data.batch_size
  step_flops = experiment.flops / experiment.data.plan.steps * s.members
  part = batch
  while jax.default_backend() == 'cpu' and part % 2 == 0:
    if step_flops * part / batch <= QUICK_FLOPS or part // 2 % s.data_devices:
      break
    part //= 2
  train, init, members = _compile(experiment, mesh, s)
  stats = train.memory_analysis()
  memory = stats.argument_size_in_bytes + stats.temp_size_in_bytes if stats else 0
  if part < batch:
    data = dataclasses.replace(config.data, batch_size=part)
    smaller = experiment_lib.build(dataclasses.replace(config, data=data))
    train, init, members = _compile(smaller, mesh, s)
  state = init(members)
  state, sums = train(members, state, jnp.int32(1))
  jax.block_until_ready(sums)
  began, steps = time.perf_counter(), 0
  while not steps or time.perf_counter() - began < TIMED_SECONDS / 2:
    state, sums = train(members, state, jnp.int32(1))
    jax.block_until_ready(sums)
    steps += 1
  seconds = (time.perf_counter() - began) / steps
  return Timing(seconds * batch / part, memory, part)


def _compile(experiment: Experiment, mesh: jax.sharding.Mesh, stack: StackConfig):
  """(compiled training function, function that makes its state, members)."""
  mode = 'map' if stack.mode == 'serial' else stack.mode
  program = experiment.program(mesh, mode)
  members = experiment.first_members(stack.members)
  members = jax.device_put(members, program.sharding)
  shapes = jax.tree.map(
    lambda v: jax.ShapeDtypeStruct(v.shape, v.dtype, sharding=program.sharding),
    jax.eval_shape(program.init, members),
  )
  train: Any = program.train
  compiled = train.lower(members, shapes, jnp.int32(1)).compile()
  return compiled, program.init, members


def _eval_examples(experiment: Experiment) -> int:
  """Examples that a member is evaluated on, during and after its training."""
  config = experiment.config.eval
  sets = eval_sets(config, experiment.data.task)
  in_loop = config.loop_points * len(IN_LOOP) * config.loop_examples
  return sum(eval_set.examples for eval_set in sets) + in_loop


def _duration(seconds: float) -> str:
  if seconds < 5400:
    return f'{seconds / 60:.1f} min'
  return f'{seconds / 3600:,.1f} h'
