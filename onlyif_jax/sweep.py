"""A whole sweep: groups its rows into stacks, trains them, analyses the results."""

import contextlib
import dataclasses
import functools
import os
import resource
import sys
import time
import types
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from onlyif_jax import adaptive, distributed
from onlyif_jax import experiment as experiment_lib
from onlyif_jax.analysis import reporting, results
from onlyif_jax.config import ConfigError, RunConfig, StackConfig
from onlyif_jax.evals.anatomy import Anatomist
from onlyif_jax.experiment import Experiment, Row
from onlyif_jax.extending import extend, extent
from onlyif_jax.loop import (
  METRICS,
  OnProgress,
  Programs,
  StackRun,
  StopSignal,
  stop_number,
)
from onlyif_jax.progress import Progress
from onlyif_jax.provenance import provenance
from onlyif_jax.stacks import done_members, failed_members, group_rows, plan_stacks
from onlyif_jax.tasks import certificate
from onlyif_jax.tasks.rules import Part
from onlyif_jax.training import parallel
from onlyif_jax.training.step import Trainer
from onlyif_jax.workdir import Workdir

CERTIFIED = 2**17  # most training rules to certify for the reference I = infinity
_SMALL = 128  # widest model that counts as small
# Stack settings by (platform, whether the model is small), for those that the config
# leaves at 'auto' or 0; stored with the run. On CPU one member does not fill two cores:
# two side by side on two devices are faster, by 1.13 at 6 x 256 and batch 32, and by
# more for small models.
_STACKS = {
  ('cpu', True): StackConfig('map', 0, 2, 1, 100),
  ('cpu', False): StackConfig('map', 0, 2, 1, 10),
  ('gpu', True): StackConfig('vmap', 32, 0, 1, 200),
  ('gpu', False): StackConfig('map', 1, 0, 1, 100),
  ('tpu', True): StackConfig('vmap', 32, 0, 1, 200),
  ('tpu', False): StackConfig('map', 1, 0, 1, 100),
}


class Outcome(NamedTuple):
  """What `run` returns."""

  finished: bool  # False: a signal stopped it
  failed: dict[str, int]  # member -> the step at which it stopped being finite
  analysis: results.Analysis | None  # None for a shard, or where every member failed


def claim_devices(config: RunConfig, processes: int = 1) -> None:
  """Makes enough virtual CPU devices for the mesh; call before JAX is used.

  processes: how many share the mesh.
  """
  stack = config.stack
  cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else 1
  needed = max(1, stack.member_devices or min(2, cores)) * max(1, stack.data_devices)
  needed = -(-needed // processes) if stack.member_devices else needed
  have = jax.config.jax_num_cpu_devices  # pyright: ignore[reportAttributeAccessIssue]
  if have < needed:
    jax.config.update('jax_num_cpu_devices', needed)


def resolve(config: RunConfig) -> RunConfig:
  """Fills in the stack settings for this machine's devices."""
  stack, devices = config.stack, jax.device_count()
  small = config.model.width <= _SMALL
  default = _STACKS.get((jax.default_backend(), small), _STACKS['gpu', small])
  data_devices = stack.data_devices or default.data_devices
  most = max(1, devices // data_devices)
  usual = default.member_devices if jax.process_count() == 1 else 0
  member_devices = stack.member_devices or min(usual or devices, most)
  members = stack.members or max(default.members, member_devices)
  resolved = StackConfig(
    mode=default.mode if stack.mode == 'auto' else stack.mode,
    members=-(-members // member_devices) * member_devices,
    member_devices=member_devices,
    data_devices=data_devices,
    chunk=stack.chunk or default.chunk,
    micro_batches=stack.micro_batches,
  )
  return dataclasses.replace(config, stack=resolved)


def main(
  config: RunConfig, path: str | os.PathLike, shard: tuple[int, int] | None = None
) -> int:
  """Runs a sweep and prints its results; returns the exit code of the command."""
  began = time.perf_counter()
  stop = StopSignal()
  finished, failed, analysis = run(config, path, stop, shard)
  if not finished:
    if distributed.is_first():
      print(f'stopped after a save; the same command goes on from there ({path})')
    return 128 + stop.number
  if not distributed.is_first():
    return 1 if failed else 0
  for member, step in failed.items():
    print(
      f'member {member} stopped being finite at step {step} and was left out; '
      'lower its learning rate or clip its gradient (optim.clip)'
    )
  if analysis is not None:
    reporting.finish(analysis)
  usage = resource.getrusage(resource.RUSAGE_SELF)
  print(
    f'took {(time.perf_counter() - began) / 60:.1f} min, '
    f'{(usage.ru_utime + usage.ru_stime) / 60:.1f} min of CPU time'
  )
  if shard is None:
    print(f'next: python -m onlyif_jax.evaluate --workdir={path} --show=20')
  else:
    whole = Path(path).parents[1]
    print(f'after the other shards: python -m onlyif_jax.report --workdir={whole}')
  return 1 if failed else 0


def run(
  config: RunConfig,
  path: str | os.PathLike,
  stop: StopSignal | None = None,
  shard: tuple[int, int] | None = None,
  on_progress: OnProgress | None = None,
) -> Outcome:
  """Runs or resumes a sweep.

  shard: (i, n) trains every n-th stack from the i-th on, without an analysis; path is
  then the shard's own directory, see `shards`. on_progress: see `api.sweep`.
  """
  workdir = Workdir(path, writes=distributed.is_first())
  distributed.agree(lambda: workdir.adopt(config))
  adaptive.check(config)
  stored = distributed.agree(workdir.config)
  if shard is not None:
    _check_shard(config, stored, path)
  # A resumed run keeps its stored stack settings, and with them the order of members.
  current = extend(stored, config) if stored and shard is None else stored
  current = current or resolve(config)
  experiment_lib.build(current)
  mesh = parallel.make_mesh(current.stack.member_devices, current.stack.data_devices)
  distributed.agree(workdir.create)  # only now, when the config is known to be valid
  distributed.check_shared(workdir.path)
  earlier = workdir.read_json_lines(METRICS) if workdir.writes else []
  if on_progress is not None and earlier:
    on_progress(earlier)
  idle, programs, rows = True, {}, []
  while current is not None:  # once, or once per round of an adaptive sweep
    config, experiment = current, experiment_lib.build(current)
    rows = _shard_rows(experiment, shard)
    done = distributed.agree(lambda: done_members(workdir))
    if any(row.member not in done for row in rows):
      if idle:
        _write_provenance(workdir, experiment)
        config = _choose_mode(config, experiment)
        experiment, idle = experiment_lib.build(config), False
      _certify(workdir, experiment)
      workdir.write_json('config.json', dataclasses.asdict(config))
      if not _train(workdir, experiment, rows, mesh, stop, programs, on_progress):
        failed = distributed.agree(lambda: failed_members(workdir))
        return Outcome(False, failed, None)
    current = distributed.agree(functools.partial(adaptive.extended, workdir, config))
  if idle and workdir.writes:
    print(f'already done: the results of all {len(rows)} members in {path}')
  failed = distributed.agree(lambda: failed_members(workdir))
  if shard is not None or all(row.member in failed for row in rows):
    return Outcome(True, failed, None)
  analysis = distributed.agree(functools.partial(results.analyse, Path(path)))
  return Outcome(True, failed, analysis)


def _check_shard(config: RunConfig, stored: RunConfig | None, path) -> None:
  """Refuses a sweep whose rows could move from one shard to another."""
  if config.sweep.adaptive_width:
    raise ConfigError('--shard: an adaptive sweep cannot be split, its rounds follow')
  if stored and extent(config) != extent(stored):
    raise ConfigError(
      f'{path} is a shard of other counts, seeds or variants; a sweep in shards cannot '
      'be extended: give another --workdir'
    )


def _shard_rows(experiment: Experiment, shard: tuple[int, int] | None) -> list[Row]:
  """The rows of a shard (i, n): every n-th stack of the whole sweep; None: all."""
  rows = experiment_lib.rows(experiment.run)
  if shard is None:
    return rows
  stacks = group_rows(rows, experiment.run.stack.members, experiment)
  i, n = shard
  if n > len(stacks):
    raise ConfigError(f'--shard={i}/{n}: the sweep has {len(stacks)} stacks; lower {n}')
  return [row for stack in stacks[i - 1 :: n] for row in stack]


def _train(
  workdir: Workdir,
  experiment: Experiment,
  rows: list[Row],
  mesh: jax.sharding.Mesh,
  stop: StopSignal | None,
  programs: dict[Trainer, Programs],
  on_progress: OnProgress | None,
) -> bool:
  """Trains the stacks of the rows that are not done; False: a signal stopped it.

  programs: kept from call to call.
  """
  run = experiment.run
  done = distributed.agree(lambda: done_members(workdir))
  planned = distributed.agree(
    lambda: plan_stacks(workdir, rows, run.stack.members, experiment)
  )
  remaining = [
    stack for stack in planned if any(row.member not in done for row in stack.rows)
  ]
  work = [experiment.sibling(stack.rows[0]).flops for stack in remaining]
  progress = Progress(len(rows), work)
  with progress if workdir.writes else contextlib.nullcontext():
    progress.rows_done = sum(row.member in done for row in rows)
    for stack in remaining:
      if stop_number(stop):
        return False
      variant = experiment.sibling(stack.rows[0])
      compiles = variant.trainer not in programs
      if compiles:
        programs.clear()  # stacks are in the order of their programs
        programs[variant.trainer] = _make_programs(variant, mesh, run)
      stack_run = StackRun(
        variant,
        programs[variant.trainer],
        stack,
        workdir,
        progress.stack(
          len(stack.rows),
          variant.data.plan.steps,
          variant.data.plan.batch_size,
          compiles=compiles,
        ),
        stop,
        on_progress,
      )
      if not stack_run.run():
        return False
  return True


def _make_programs(experiment: Experiment, mesh, run: RunConfig) -> Programs:
  evaluator = experiment.evaluator(mesh)
  outputs = run.eval.outputs
  anatomist = Anatomist(evaluator, outputs) if outputs else None
  return Programs(experiment.program(mesh, run.stack.mode), evaluator, anatomist)


def _write_provenance(workdir: Workdir, experiment: Experiment) -> None:
  """Writes provenance.json, or appends to resumes.jsonl where it exists."""
  call = provenance() | {
    'devices': [str(d) for d in jax.devices()],
    'platform': jax.default_backend(),
    'parameters': experiment.parameters,
    'test_rules': min(
      experiment.config.eval.examples, experiment.data.rules.capacity(Part.TEST)
    ),
    'seeds': experiment.run.sweep.seeds,
  }
  if not workdir.file('provenance.json').exists():
    workdir.write_json('provenance.json', call)
  else:
    workdir.append_json('resumes.jsonl', call)


def certificates(experiment: Experiment) -> list[dict]:
  """The content of splits.json: per rules seed, the proof that splits are disjoint."""
  largest: dict = {}
  for row in experiment_lib.rows(experiment.run):
    variant, count = experiment.sibling(row), row.instructions
    rules = variant.data.rules
    if 'infinite_rules' in variant.config.sweep.references:
      # This reference may draw any training rule.
      count = max(count, min(rules.capacity(), CERTIFIED))
    # Variants with the same rules share one proof, for the largest count.
    setting = variant.setting(count)
    values = ((name, value.tobytes()) for name, value in setting.items())
    key = (row.rules_seed, rules, *values)
    if key not in largest or largest[key][1] < count:
      largest[key] = (variant, count, setting)
  reports = []
  for key in sorted(largest, key=lambda key: key[0]):
    variant, count, setting = largest[key]
    held_out = variant.config.eval.examples
    reports.append(variant.data.rules.certify(key[0], count, held_out, setting))
  return reports


def _certify(workdir: Workdir, experiment: Experiment) -> None:
  """Writes splits.json; raises ConfigError where the split does not hold."""
  path = workdir.file('splits.json')
  reports = certificates(experiment)
  workdir.write_json('splits.json', reports)
  for report in reports:
    wrong = certificate.broken(report)
    if wrong:
      raise ConfigError(f'the split does not hold ({"; ".join(wrong)}); see {path}')


def _choose_mode(config: RunConfig, experiment: Experiment) -> RunConfig:
  """Replaces stack.mode=measure by the mode that is fastest over a few steps."""
  if config.stack.mode != 'measure':
    return config
  mesh = parallel.make_mesh(config.stack.member_devices, config.stack.data_devices)
  unplaced = experiment.first_members(config.stack.members)
  seconds = {}
  for mode in ('map', 'vmap', 'serial'):
    program = experiment.program(mesh, mode)
    members = distributed.place(unplaced, program.sharding)
    state = program.init(members)
    for steps in (1, 3):  # the first call compiles; the last time counts
      began = time.perf_counter()
      state, sums = program.train(members, state, jnp.int32(steps))
      jax.block_until_ready(sums)
      seconds[mode] = time.perf_counter() - began
  best = distributed.agree(lambda: min(seconds, key=lambda mode: seconds[mode]))
  stack = dataclasses.replace(config.stack, mode=best)
  return dataclasses.replace(config, stack=stack)


class _CallableModule(types.ModuleType):
  """Makes this module callable, so `onlyif_jax.sweep(config)` is `api.sweep`."""

  def __call__(
    self,
    config: Any,
    workdir: str | os.PathLike | None = None,
    *,
    on_progress: OnProgress | None = None,
  ):
    from onlyif_jax import api  # which imports this module

    return api.sweep(config, workdir, on_progress=on_progress)


sys.modules[__name__].__class__ = _CallableModule
