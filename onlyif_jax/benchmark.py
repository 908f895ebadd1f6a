"""The report of `bench`, as a table and JSON; the speeds in README come from here.

Rates are sums over the members of a stack, which runs as in training: same mode,
members, devices and steps per dispatch.
"""

import dataclasses
import datetime
import json
import os
import resource
import sys
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.table import Table

from onlyif_jax import benchmark_peaks as peaks
from onlyif_jax import benchmark_peers, sweep
from onlyif_jax.benchmark_stack import MATMUL, StackBench, matmul_rate
from onlyif_jax.config import RunConfig, StackConfig, flatten
from onlyif_jax.provenance import provenance

HELD_OUT = 100_000  # held-out examples whose evaluation is compared with training
QUIET = 0.5  # load average per core up to which a machine counts as quiet
WIDTH = 96  # of the table, in characters


def run(
  config: RunConfig,
  *,
  seconds: float,
  rounds: int,
  peers: bool = False,
  modes: bool = False,
  out: str | os.PathLike | None = None,
) -> dict[str, Any]:
  """Measures a config, prints a table, writes JSON to `out`; returns the report.

  seconds: per measurement and per turn; rounds: turns of each side, with peers; modes:
  also other ways of stacking members.
  """
  if out is not None:
    Path(out).parent.mkdir(parents=True, exist_ok=True)
  config = settle(config)
  report: dict[str, Any] = {'machine': machine()}
  load, cores = report['machine']['load'], report['machine']['cores']
  if load is not None and load > QUIET * cores:
    print(
      f'warning: the machine is not quiet (load {load:.1f} on {cores} cores), so '
      'every time below is too long',
      file=sys.stderr,
    )
  report |= measure(config, seconds)
  if modes:
    report['modes'] = ways(config, seconds)
  if peers:
    report['peers'] = benchmark_peers.compare(config, seconds, rounds)
  report['machine']['load_at_the_end'] = _load()
  show(report)
  if out is not None:
    Path(out).write_text(json.dumps(report, indent=2) + '\n')
  return report


def settle(config: RunConfig) -> RunConfig:
  """The config with the stack settings of this machine; `map` instead of `measure`."""
  config = sweep.resolve(config)
  if config.stack.mode == 'measure':
    stack = dataclasses.replace(config.stack, mode='map')
    config = dataclasses.replace(config, stack=stack)
  return config


def machine() -> dict[str, Any]:
  """Provenance, devices, load and date."""
  devices = jax.devices()
  return provenance() | {
    'platform': devices[0].platform,
    'device': devices[0].device_kind,
    'devices': len(devices),
    'load': _load(),
    'date': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
  }


def _load() -> float | None:
  return os.getloadavg()[0] if hasattr(os, 'getloadavg') else None


def measure(config: RunConfig, seconds: float) -> dict[str, Any]:
  """The report of one config, without machine, modes and peers."""
  bench = StackBench(config)
  experiment = bench.experiment
  plan, task = experiment.data.plan, experiment.data.task
  examples = plan.steps * plan.batch_size
  _, compile_stats = bench.compiled
  whole = bench.whole_loop(seconds)
  usage = use(bench, whole.rate)  # at once, so that conditions are the same
  training_memory = memory(bench)
  generation, checksums = bench.generation(seconds)
  evaluation = bench.evaluation(seconds, whole.rate)
  verdicts = evaluation['verdicts']
  return {
    'config': flatten(config),
    'work': {
      'parameters': experiment.parameters,
      'sequence_length': task.sequence_length,
      'examples_per_member': examples,
      'flops_per_member': experiment.flops,
    },
    'whole_loop': whole.columns()
    | {
      'tokens_per_s': whole.rate * task.sequence_length,
      'run_seconds': examples * config.stack.members / whole.rate,
    },
    'generation': generation.columns()
    | {'first_checksums': checksums, 'share_of_whole': whole.rate / generation.rate},
    'evaluation': verdicts.columns()
    | {
      'examples': evaluation['examples'],
      'held_out': HELD_OUT,
      'share_of_run': (HELD_OUT / verdicts.rate) / (examples / whole.rate),
      'hashing': evaluation['hashing'].columns(),
    },
    'compile': {
      'train': compile_stats,
      'evaluation_seconds': evaluation['compile_seconds'],
      'hashing_seconds': evaluation['hashing_compile_seconds'],
    },
    'memory': training_memory | {'at_the_end': memory(bench)},
    'use': usage,
  }


def memory(bench: StackBench) -> dict[str, Any]:
  """Peak bytes of a device (None if it has no counter), this process, the program."""
  stats = [device.memory_stats() or {} for device in bench.mesh.devices.flat]
  peak = [s['peak_bytes_in_use'] for s in stats if 'peak_bytes_in_use' in s]
  unit = 1 if sys.platform == 'darwin' else 1024
  program = {k: v for k, v in bench.compiled[1].items() if k.endswith('_bytes')}
  return {
    'device_peak_bytes': max(peak) if peak else None,
    'process_peak_bytes': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
    'program': program,
  }


def use(bench: StackBench, rate: float) -> dict[str, Any]:
  """FLOP/s at a rate of examples/s, and their share of the peak of the devices.

  The peak of a CPU is that of a bare matmul on the same cores, measured here.
  """
  experiment, devices = bench.experiment, list(bench.mesh.devices.flat)
  plan = experiment.data.plan
  flops = experiment.flops / (plan.steps * plan.batch_size) * rate
  platform, kind = devices[0].platform, devices[0].device_kind
  roofline = None
  if platform == 'cpu':
    arithmetic, count = 'f32', 1
    peak = matmul_rate(devices)
    name = f'a bare f32 matmul of {MATMUL} x {MATMUL} here, measured'
  else:
    precision = getattr(jax.config, 'jax_default_matmul_precision', None)
    dtype = experiment.model.compute_dtype
    arithmetic = peaks.arithmetic(platform, dtype, precision)
    known, count = peaks.find(kind), len(devices)
    peak = peaks.rate(known, arithmetic)
    name = f'{known.name}, {arithmetic}' if peak and known else f'unknown peak ({kind})'
    length = experiment.data.task.sequence_length
    roofline = peaks.roofline(experiment.model, length, known, arithmetic)
  return {
    'flops_per_s': flops,
    'devices': count,
    'arithmetic': arithmetic,
    'peak_flops_per_s': peak,
    'peak': name,
    'mfu': peaks.mfu(flops, count, peak),
    'formula': peaks.FORMULA,
    'roofline': roofline,
  }


def ways(config: RunConfig, seconds: float) -> list[dict[str, Any]]:
  """The speed of other modes, numbers of members and meshes, one change at a time."""
  stored, devices = config.stack, jax.device_count()
  stacks = [stored]
  stacks += [dataclasses.replace(stored, mode=mode) for mode in ('map', 'vmap')]
  stacks.append(StackConfig('serial', stored.members, 1, 1, stored.chunk))
  for members in (stored.member_devices, 2 * stored.members):
    stacks.append(dataclasses.replace(stored, members=members))
  for member, data in ((1, 1), (devices, 1), (1, devices)):
    divides = not stored.members % member and not config.data.batch_size % data
    if divides and stored.mode != 'serial':
      mesh = {'member_devices': member, 'data_devices': data}
      stacks.append(dataclasses.replace(stored, **mesh))
  out = []
  for stack in dict.fromkeys(stacks):
    bench = StackBench(dataclasses.replace(config, stack=stack))
    rate = bench.whole_loop(seconds)
    out.append(
      dataclasses.asdict(stack)
      | {'whole_loop': rate.columns(), 'compile': bench.compiled[1]}
    )
  return out


def show(report: dict[str, Any]) -> None:
  """Prints a report."""
  console = Console(width=WIDTH, highlight=False)
  console.print(_summary(report))
  if 'modes' in report:
    console.print(_ways(report['modes']))
  if 'peers' in report:
    benchmark_peers.show(report['peers'], console)


def _summary(report: dict[str, Any]) -> Table:
  config, here, work = report['config'], report['machine'], report['work']
  whole, generation = report['whole_loop'], report['generation']
  evaluation, compiling = report['evaluation'], report['compile']
  usage, sizes = report['use'], report['memory']
  length = work['sequence_length']
  device = sizes['device_peak_bytes']
  program = sum(sizes['program'].values())
  devices = f'{_mib(device)} a device, ' if device else ''
  devices += f'{_mib(program)} a device by analysis, ' if program else ''
  mfu = 'unknown' if usage['mfu'] is None else f'{usage["mfu"]:.1%}'
  rate = usage['peak_flops_per_s']
  peak = usage['peak'] + (f', {rate / 1e9:,.0f} GFLOP/s' if rate else '')
  table = Table(show_header=False, box=None)
  lines = {
    'config': f'{config["name"]}:{config["size"]}, {config["model.layers"]} layers x '
    f'{config["model.width"]}, batch {config["data.batch_size"]}, length {length}, '
    f'{work["parameters"]:,} parameters, {config["model.compute_dtype"]}',
    'machine': f'{here["devices"]} x {here["device"]} ({here["platform"]}), '
    f'{here["cores"]} cores, jax {here["versions"]["jax"]}, load {here["load"] or 0:.1f}',
    'stack': f'{config["stack.members"]} members ({config["stack.mode"]}), '
    f'{config["stack.member_devices"]} x {config["stack.data_devices"]} devices, '
    f'chunks of {config["stack.chunk"]} steps',
    'whole loop': f'{_rate(whole)} examples/s, {whole["tokens_per_s"]:,.0f} tokens/s, '
    f'data included; a run of this stack: {_duration(whole["run_seconds"])}',
    'generation': f'{_rate(generation)} examples/s alone, '
    f'{generation["share_of_whole"]:.1%} of the whole loop',
    'evaluation': f'{_rate(evaluation)} examples/s alone; {HELD_OUT:,} held-out '
    f'examples take {evaluation["share_of_run"]:.1%} of the training',
    'prompt hashes': f'{evaluation["hashing"]["per_s"]:,.0f} /s, to leave out what was '
    'trained on',
    'compiling': f'{compiling["train"]["seconds"]:.1f} s training, '
    f'{compiling["evaluation_seconds"]:.1f} s evaluation, '
    f'{compiling["hashing_seconds"]:.1f} s hashes; nothing cached',
    'memory': f'{devices}{_mib(sizes["process_peak_bytes"])} of the process, at its '
    'peak',
    'FLOPs': f'{usage["flops_per_s"] / 1e9:,.1f} GFLOP/s really done, MFU {mfu}',
    'peak': f'{usage["devices"]} x {peak}',
    'formula': usage['formula'],
  }
  if usage['roofline']:
    lines['roofline'] = usage['roofline']
  for name, value in lines.items():
    table.add_row(name, value)
  return table


def _ways(ways: list[dict[str, Any]]) -> Table:
  table = Table(title='ways of stacking', title_justify='left', box=None)
  for name in ('mode', 'members', 'devices', 'examples/s', 'compiling', 'temporary'):
    table.add_column(name, justify='left' if name == 'mode' else 'right')
  for way in ways:
    bytes_ = way['compile'].get('temporary_bytes')
    table.add_row(
      way['mode'],
      str(way['members']),
      f'{way["member_devices"]} x {way["data_devices"]}',
      _rate(way['whole_loop']),
      f'{way["compile"]["seconds"]:.1f} s',
      '' if bytes_ is None else _mib(bytes_),
    )
  return table


def _rate(timed: dict[str, Any]) -> str:
  return f'{timed["per_s"]:,.0f}'


def _mib(size: float) -> str:
  return f'{size / 2**20:,.0f} MiB'


def _duration(seconds: float) -> str:
  if seconds < 100:
    return f'{seconds:.1f} s'
  return f'{seconds / 60:.1f} min' if seconds < 5400 else f'{seconds / 3600:,.1f} h'
