"""What a run would cost: rows, parameters, tokens, FLOPs, memory and time.

Nothing is written. Memory comes from the compiled step of the real batch, which is
not run; time from a few steps on the largest part of the batch that runs quickly.
"""

import dataclasses
import time
from typing import Any

import jax
import jax.numpy as jnp
from rich.console import Console
from rich.table import Table

from onlyif_jax import experiment as experiment_lib
from onlyif_jax import sweep
from onlyif_jax.config import RunConfig
from onlyif_jax.evals.exact_match import IN_LOOP, eval_sets
from onlyif_jax.experiment import Experiment
from onlyif_jax.training import parallel

TIMED_SECONDS = 6.0  # of timed steps
QUICK_FLOPS = 2e11  # a CPU does these in a few seconds
EVALUATED = 2 / 3  # time of an evaluated example over that of a trained one, measured


def show(config: RunConfig) -> None:
  """Prints the prediction for a config."""
  config = sweep.resolve(config)
  if config.stack.mode == 'measure':
    stack = dataclasses.replace(config.stack, mode='map')
    config = dataclasses.replace(config, stack=stack)
  experiment = experiment_lib.build(config)
  rows = experiment_lib.rows(config)
  seconds, memory, batch = _measure(config, experiment)
  plan, s = experiment.data.plan, config.stack
  stacks = -(-len(rows) // s.members)
  training = seconds * plan.steps * stacks
  evaluated = (
    training * EVALUATED * _evaluated(experiment) / (plan.steps * plan.batch_size)
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
    'memory': f'{memory / 2**20:,.0f} MiB a device',
    'step': f'{seconds * 1e3:.1f} ms for {s.members} members, timed with {batch} of '
    f'{plan.batch_size} sequences',
    'time': f'{_duration(training + evaluated)}: {_duration(training)} of training, '
    f'{_duration(evaluated)} of evaluation; compiling adds a minute or two',
  }
  for name, value in lines.items():
    table.add_row(name, value)
  Console(width=100).print(table)


def _measure(config: RunConfig, experiment: Experiment):
  """(seconds a step of a whole stack, bytes a device, batch that was timed)."""
  s = config.stack
  mesh = parallel.make_mesh(s.member_devices, s.data_devices)
  batch = config.data.batch_size
  step_flops = experiment.flops / experiment.data.plan.steps * s.members
  part = batch
  while jax.default_backend() == 'cpu' and part % 2 == 0:
    if step_flops * part / batch <= QUICK_FLOPS or part // 2 % s.data_devices:
      break
    part //= 2
  compiled, arguments = _compile(experiment, mesh, s)
  stats = compiled.memory_analysis()
  memory = stats.argument_size_in_bytes + stats.temp_size_in_bytes if stats else 0
  if part < batch:
    data = dataclasses.replace(config.data, batch_size=part)
    smaller = experiment_lib.build(dataclasses.replace(config, data=data))
    compiled, arguments = _compile(smaller, mesh, s)
  members, init = arguments
  state = init(members)
  state, sums = compiled(members, state, jnp.int32(1))
  jax.block_until_ready(sums)
  began, steps = time.perf_counter(), 0
  while time.perf_counter() - began < TIMED_SECONDS / 2:
    state, sums = compiled(members, state, jnp.int32(1))
    jax.block_until_ready(sums)
    steps += 1
  return (time.perf_counter() - began) / steps * batch / part, memory, part


def _compile(experiment: Experiment, mesh, stack):
  mode = 'map' if stack.mode == 'serial' else stack.mode
  program = experiment.program(mesh, mode)
  rows = experiment_lib.rows(experiment.config)
  rows = (rows * stack.members)[: stack.members]
  members = jax.device_put(experiment.members(rows), program.sharding)
  shapes = jax.tree.map(
    lambda v: jax.ShapeDtypeStruct(v.shape, v.dtype, sharding=program.sharding),
    jax.eval_shape(program.init, members),
  )
  train: Any = program.train
  compiled = train.lower(members, shapes, jnp.int32(1)).compile()
  return compiled, (members, program.init)


def _evaluated(experiment: Experiment) -> int:
  """Examples on which a member is evaluated, during and after its training."""
  e = experiment.config.eval
  final = sum(one.examples for one in eval_sets(e, experiment.data.task))
  return final + e.loop_points * len(IN_LOOP) * e.loop_examples


def _duration(seconds: float) -> str:
  if seconds < 5400:
    return f'{seconds / 60:.1f} min'
  return f'{seconds / 3600:,.1f} h'
