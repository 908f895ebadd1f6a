"""A whole sweep: rows into stacks, the ledger, and the analysis at the end."""

import contextlib
import dataclasses
import functools
import os
import resource
import sys
import time
import types
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from onlyif_jax import adaptive, distributed
from onlyif_jax import experiment as experiment_lib
from onlyif_jax.analysis import reporting, results
from onlyif_jax.config import ConfigError, RunConfig, StackConfig
from onlyif_jax.evals.anatomy import Anatomist
from onlyif_jax.experiment import Experiment, Row
from onlyif_jax.loop import (
  METRICS,
  OnProgress,
  Stack,
  StackRun,
  StopSignal,
  done_members,
  failed_members,
  stop_number,
)
from onlyif_jax.progress import Progress
from onlyif_jax.provenance import provenance
from onlyif_jax.tasks import certificate
from onlyif_jax.tasks.rules import Part
from onlyif_jax.training import parallel
from onlyif_jax.workdir import Workdir

# Settings of a stack by platform and model size, filled in where the config says
# 'auto' or 0, and stored with the run. On CPU one member does not fill two cores (6 x
# 256 at batch 32 by 1.13, small ones by more), so two run side by side on two devices.
CHECKED = 2**17  # training rules that are compared for the reference I = infinity
_SMALL = 128  # widest model that counts as small
_TABLE = {
  ('cpu', True): StackConfig('map', 0, 2, 1, 100),
  ('cpu', False): StackConfig('map', 0, 2, 1, 10),
  ('gpu', True): StackConfig('vmap', 32, 0, 1, 200),
  ('gpu', False): StackConfig('map', 1, 0, 1, 100),
  ('tpu', True): StackConfig('vmap', 32, 0, 1, 200),
  ('tpu', False): StackConfig('map', 1, 0, 1, 100),
}


def claim_devices(config: RunConfig, processes: int = 1) -> None:
  """Makes enough virtual CPU devices for the mesh; call before JAX is used.

  processes: how many share the mesh.
  """
  s = config.stack
  cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else 1
  wanted = max(1, s.member_devices or min(2, cores)) * max(1, s.data_devices)
  wanted = -(-wanted // processes) if s.member_devices else wanted
  have = jax.config.jax_num_cpu_devices  # pyright: ignore[reportAttributeAccessIssue]
  if have < wanted:
    jax.config.update('jax_num_cpu_devices', wanted)


def resolve(config: RunConfig) -> RunConfig:
  """Fills in how members are stacked on this machine's devices."""
  s, devices = config.stack, jax.device_count()
  platform = jax.default_backend()
  default = _TABLE.get(
    (platform, config.model.width <= _SMALL),
    _TABLE['gpu', config.model.width <= _SMALL],
  )
  data = s.data_devices or default.data_devices
  most = max(1, devices // data)
  usual = default.member_devices if jax.process_count() == 1 else 0
  member = s.member_devices or min(usual or devices, most)
  members = s.members or max(default.members, member)
  members = -(-members // member) * member
  stack = StackConfig(
    mode=default.mode if s.mode == 'auto' else s.mode,
    members=members,
    member_devices=member,
    data_devices=data,
    chunk=s.chunk or default.chunk,
    micro_batches=s.micro_batches,
  )
  return dataclasses.replace(config, stack=stack)


def main(
  config: RunConfig, path: str | os.PathLike, shard: tuple[int, int] | None = None
) -> int:
  """Runs a sweep and prints its results; the exit code of the main command."""
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
  used = resource.getrusage(resource.RUSAGE_SELF)
  print(
    f'took {(time.perf_counter() - began) / 60:.1f} min, '
    f'{(used.ru_utime + used.ru_stime) / 60:.1f} min of CPU time'
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
):
  """Runs or resumes a sweep: (finished, failed members, analysis).

  shard: (i, n) trains only every n-th stack, the i-th and so on, without an analysis;
  path is then the shard's own directory, see `shards`. on_progress: see `api.sweep`.
  """
  workdir = Workdir(path, writes=distributed.is_first())
  distributed.agree(lambda: workdir.adopt(config))
  adaptive.check(config)
  stored = distributed.agree(workdir.config)
  if shard is not None:
    _check_shard(config, stored, path)
  # The stored way of stacking goes on, and with it the order of the members.
  more = extend(stored, config) if stored and shard is None else stored
  more = more or resolve(config)
  experiment_lib.build(more)
  mesh = parallel.make_mesh(more.stack.member_devices, more.stack.data_devices)
  distributed.agree(workdir.create)  # what the config alone decides is checked by now
  distributed.check_shared(workdir.path)
  standing = workdir.read_json_lines(METRICS) if workdir.writes else []
  if on_progress is not None and standing:
    on_progress(standing)
  idle, made, rows = True, {}, []
  while more is not None:
    config, experiment = more, experiment_lib.build(more)
    rows = _share(experiment, shard)
    done = distributed.agree(lambda: done_members(workdir))
    if any(row.member not in done for row in rows):
      if idle:
        _write_provenance(workdir, experiment)
        config = _measured(config, experiment)
        experiment, idle = experiment_lib.build(config), False
      _certify(workdir, experiment)
      workdir.write_json('config.json', dataclasses.asdict(config))
      if not _train(workdir, experiment, rows, mesh, stop, made, on_progress):
        return False, distributed.agree(lambda: failed_members(workdir)), None
    more = distributed.agree(functools.partial(adaptive.extended, workdir, config))
  if idle and workdir.writes:
    print(f'already done: the results of all {len(rows)} members in {path}')
  failed = distributed.agree(lambda: failed_members(workdir))
  some = shard is None and any(row.member not in failed for row in rows)
  analyse = functools.partial(results.analyse, Path(path))
  return True, failed, distributed.agree(analyse) if some else None


def _check_shard(config: RunConfig, stored: RunConfig | None, path) -> None:
  """Refuses what would give a row to another shard than before."""
  if config.sweep.adaptive_width:
    raise ConfigError('--shard: an adaptive sweep cannot be split, its rounds follow')
  now = (set(config.sweep.counts), config.sweep.seeds)
  if stored and now != (set(stored.sweep.counts), stored.sweep.seeds):
    raise ConfigError(
      f'{path} is a shard of other sweep.counts or sweep.seeds; a sweep in shards '
      'cannot be extended: give another --workdir'
    )


def _share(experiment: Experiment, shard: tuple[int, int] | None) -> list[Row]:
  """The rows of a shard: every n-th stack as one run would make them."""
  rows = experiment_lib.rows(experiment.run)
  if shard is None:
    return rows
  stacks = _grouped(rows, experiment.run.stack.members, experiment)
  i, n = shard
  if n > len(stacks):
    raise ConfigError(f'--shard={i}/{n}: the sweep has {len(stacks)} stacks; lower {n}')
  return [row for stack in stacks[i - 1 :: n] for row in stack]


def _train(
  workdir: Workdir,
  experiment: Experiment,
  rows: list[Row],
  mesh,
  stop,
  made: dict,
  on_progress: OnProgress | None,
) -> bool:
  """Trains every stack of the rows that is not done; False where a signal stopped it.

  made: programs by what they are compiled from, for the next call.
  """
  run = experiment.run
  done = distributed.agree(lambda: done_members(workdir))
  planned = distributed.agree(
    lambda: plan_stacks(workdir, rows, run.stack.members, experiment)
  )
  left = [
    stack for stack in planned if any(row.member not in done for row in stack.rows)
  ]
  work = [experiment.sibling(stack.rows[0]).flops for stack in left]
  progress = Progress(len(rows), work)
  with progress if workdir.writes else contextlib.nullcontext():
    progress.rows_done = sum(row.member in done for row in rows)
    for stack in left:
      if stop_number(stop):
        return False
      own = experiment.sibling(stack.rows[0])
      new = own.trainer not in made
      if new:
        # Those of an earlier group of variants are not needed again.
        made.clear()
        made[own.trainer] = _programs(own, mesh, run)
      program, evaluator, anatomist = made[own.trainer]
      shape = own.data.plan.steps, own.data.plan.batch_size
      told = progress.stack(len(stack.rows), *shape, compiles=new)
      parts = (own, program, evaluator, stack, workdir, told, stop, anatomist)
      if not StackRun(*parts, on_progress).run():
        return False
  return True


def _programs(experiment: Experiment, mesh, run: RunConfig):
  """What a group of stacks shares: training, evaluation and anatomy."""
  evaluator = experiment.evaluator(mesh)
  count = run.eval.outputs
  anatomist = Anatomist(evaluator, count) if count else None
  return experiment.program(mesh, run.stack.mode), evaluator, anatomist


def extend(stored: RunConfig, new: RunConfig) -> RunConfig:
  """The stored config with the union of both calls' counts and the most seeds."""
  counts = tuple(sorted({*stored.sweep.counts, *new.sweep.counts}))
  seeds = _more_seeds(stored.sweep.seeds, new.sweep.seeds)
  sweep = dataclasses.replace(stored.sweep, counts=counts, seeds=seeds)
  return dataclasses.replace(stored, sweep=sweep)


def _more_seeds(old: str, new: str) -> str:
  """The larger of two numbers of seeds, of the same form."""
  a, b = old.split('x'), new.split('x')
  if len(a) != len(b):
    raise ConfigError(
      f"sweep.seeds={new!r} does not extend the workdir's {old!r}; give "
      'another --workdir'
    )
  return 'x'.join(str(max(int(p), int(q))) for p, q in zip(a, b, strict=True))


def plan_stacks(
  workdir: Workdir, rows: list[Row], width: int, experiment: Experiment
) -> list[Stack]:
  """The stacks that the ledger names, then new ones for the rows that are left.

  The rows of a stack share a program.
  """
  by_name = {row.member: row for row in rows}
  stacks, planned = [], set()
  for event in workdir.ledger():
    if event['event'] == 'planned':
      own = tuple(by_name[m] for m in event['members'] if m in by_name)
      planned |= set(event['members'])
      if own:
        stacks.append(Stack(event['stack'], own, width))
  left = [row for row in rows if row.member not in planned]
  for own in _grouped(left, width, experiment):
    stack = Stack(f'{len(stacks):03d}', own, width)
    members = [row.member for row in own]
    event = {'event': 'planned', 'stack': stack.name, 'members': members}
    workdir.append_json('ledger.jsonl', event)
    stacks.append(stack)
  return stacks


def _grouped(rows: list[Row], width: int, experiment: Experiment):
  """Rows that share a program, `width` at a time, in order."""
  groups: dict = {}
  for row in rows:
    groups.setdefault(experiment.sibling(row).trainer, []).append(row)
  return [
    tuple(own[start : start + width])
    for own in groups.values()
    for start in range(0, len(own), width)
  ]


def _write_provenance(workdir: Workdir, experiment: Experiment) -> None:
  call = provenance() | {
    'devices': [str(d) for d in jax.devices()],
    'platform': jax.default_backend(),
    'parameters': experiment.parameters,
    'test_rules': min(
      experiment.config.eval.examples, experiment.data.rules.capacity(Part.TEST)
    ),
    'seeds': experiment.run.sweep.seeds,
  }
  path = workdir.file('provenance.json')
  if not path.exists():
    workdir.write_json('provenance.json', call)
  else:
    workdir.append_json('resumes.jsonl', call)


def certificates(experiment: Experiment) -> list[dict]:
  """The proof per rules seed that the splits share nothing: content of splits.json."""
  groups: dict = {}
  for row in experiment_lib.rows(experiment.run):
    own = experiment.sibling(row)
    count = row.instructions
    if 'infinite_rules' in own.config.sweep.references:
      # It may meet every training rule; of very many the first are checked.
      count = max(count, min(own.data.rules.capacity(), CHECKED))
    # Variants with the same rules share a proof, of the largest number of them.
    key = (row.rules_seed, own.data.rules)
    setting = own.setting(count)
    key += tuple((name, value.tobytes()) for name, value in setting.items())
    if key not in groups or groups[key][1] < count:
      groups[key] = (own, count, setting)
  return [
    own.data.rules.certify(seed, count, own.config.eval.examples, setting)
    for (seed, *_), (own, count, setting) in sorted(
      groups.items(), key=lambda item: item[0][0]
    )
  ]


def _certify(workdir: Workdir, experiment: Experiment) -> None:
  """Writes splits.json, or refuses to go on where the split does not hold."""
  path = workdir.file('splits.json')
  reports = certificates(experiment)
  workdir.write_json('splits.json', reports)
  for report in reports:
    wrong = certificate.broken(report)
    if wrong:
      raise ConfigError(f'the split does not hold ({"; ".join(wrong)}); see {path}')


def _measured(config: RunConfig, experiment: Experiment) -> RunConfig:
  """With stack.mode=measure: times the modes on a few steps and takes the best."""
  if config.stack.mode != 'measure':
    return config
  mesh = parallel.make_mesh(config.stack.member_devices, config.stack.data_devices)
  rows = experiment_lib.rows(config)
  rows = (rows * config.stack.members)[: config.stack.members]
  seconds = {}
  for mode in ('map', 'vmap', 'serial'):
    program = experiment.program(mesh, mode)
    members = distributed.place(experiment.members(rows), program.sharding)
    state = program.init(members)
    for n in (1, 3):
      began = time.perf_counter()
      state, sums = program.train(members, state, jnp.int32(n))
      jax.block_until_ready(sums)
      seconds[mode] = time.perf_counter() - began
  best = distributed.agree(lambda: min(seconds, key=lambda mode: seconds[mode]))
  stack = dataclasses.replace(config.stack, mode=best)
  return dataclasses.replace(config, stack=stack)


class _CallableModule(types.ModuleType):
  """Lets `onlyif_jax.sweep(config)` stand for `api.sweep`: the name is this module's."""

  def __call__(
    self,
    config: Any,
    workdir: str | os.PathLike | None = None,
    *,
    on_progress: OnProgress | None = None,
  ):
    from onlyif_jax import api  # it needs this module

    return api.sweep(config, workdir, on_progress=on_progress)


sys.modules[__name__].__class__ = _CallableModule
