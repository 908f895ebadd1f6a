"""Sweeps over machines: `main --launcher=ray|slurm` gives each stack to an engine.

Ray or SLURM (through submitit) schedule the units and restart them where a machine
dies. A unit is a shard of one stack (see `units`, `shards`), so the ledgers of the
shards say what is done, and the same command resumes from there. When all are done, the
shards are gathered and analysed like a local run.
"""

import collections
import dataclasses
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from onlyif_jax import bucket, engines, shards, units
from onlyif_jax.config import ConfigError, RunConfig, StackConfig
from onlyif_jax.engines import Options
from onlyif_jax.extending import extent
from onlyif_jax.units import Outcome, Unit
from onlyif_jax.workdir import Workdir

_LAUNCHER = flags.DEFINE_enum(
  *('launcher', 'local', ['local', 'ray', 'slurm']),
  'Where stacks train: here, or each as a task of a Ray cluster or a SLURM job. '
  '--workdir must then be a directory that all machines share.',
)
_CPUS = flags.DEFINE_integer(
  'cpus', 2, 'ray, slurm: CPU cores of a stack.', lower_bound=1
)
_GPUS = flags.DEFINE_integer(
  'gpus', 0, 'ray, slurm: GPUs of a stack; 0: it trains on CPU.', lower_bound=0
)
_TPUS = flags.DEFINE_integer(
  'tpus', 0, "ray: TPU chips of a stack, all of one host's.", lower_bound=0
)
_RETRIES = flags.DEFINE_integer(
  *('retries', 3),
  'ray, slurm: how often a stack whose process or machine died is started again; it '
  'resumes from its checkpoint.',
  lower_bound=0,
)
_RAY_ADDRESS = flags.DEFINE_string(
  *('ray_address', None),
  'ray: HOST:PORT of a cluster; default: RAY_ADDRESS, else a cluster that this '
  'machine belongs to, else this machine alone.',
)
_MINUTES = flags.DEFINE_integer(
  *('minutes', 60),
  'slurm: time limit of a job; a stack that needs more is queued again.',
  lower_bound=5,
)
_SLURM_OPTIONS = flags.DEFINE_list(
  *('slurm_options', []),
  'slurm: options of sbatch as KEY=VALUE,..., such as partition=gpu,account=lab,mem=8G; '
  'cluster=local runs the jobs on this machine, to try it out.',
)
_LAUNCHERS_OF = {  # flag -> the launchers that it is for
  **dict.fromkeys(('cpus', 'gpus', 'retries'), ('ray', 'slurm')),
  **dict.fromkeys(('tpus', 'ray_address'), ('ray',)),
  **dict.fromkeys(('minutes', 'slurm_options'), ('slurm',)),
}
_SAVE_SECONDS = 120  # how long a stopped driver waits for units to save


def options(other: Sequence[flags.FlagHolder]) -> Options | None:
  """The options of the launcher, None for a local run; raises ConfigError.

  other: flags of `main` that exclude a launcher.
  """
  name = _LAUNCHER.value
  excluded = [flag.name for flag in other if flag.value]
  if name == 'local' and 'shard' in excluded:
    return None  # a unit gets the flags of its launcher, too
  for flag, launchers in _LAUNCHERS_OF.items():
    if flags.FLAGS[flag].present and name not in launchers:
      required = ' or '.join(f'--launcher={launcher}' for launcher in launchers)
      raise ConfigError(f'--{flag} is for {required}; give that too, or leave it out')
  if name == 'local':
    return None
  if excluded:
    raise ConfigError(f'--launcher={name}: leave out --{excluded[0]}')
  if _GPUS.value and _TPUS.value:
    raise ConfigError('--gpus and --tpus: a stack trains on one of them; leave one out')
  return Options(
    launcher=name,
    cpus=_CPUS.value,
    gpus=_GPUS.value,
    tpus=_TPUS.value,
    retries=_RETRIES.value,
    ray_address=_RAY_ADDRESS.value,
    minutes=_MINUTES.value,
    slurm=_parse(_SLURM_OPTIONS.value),
  )


def refuse(other: Sequence[flags.FlagHolder], what: str) -> None:
  """Raises ConfigError if a flag of a launcher, or one of `other`, was given.

  what: the kind of run that does not take them.
  """
  present = [flag.name for flag in other if flag.value]
  if _LAUNCHER.value != 'local':
    present.append('launcher')
  present += [name for name in _LAUNCHERS_OF if flags.FLAGS[name].present]
  if present:
    raise ConfigError(f'--{present[0]}: {what} is one process here; leave it out')


def _parse(words: Sequence[str]) -> dict[str, str | bool]:
  """['partition=gpu', 'exclusive'] -> {'partition': 'gpu', 'exclusive': True}."""
  out: dict[str, str | bool] = {}
  for word in words:
    key, equals, value = word.partition('=')
    if not re.fullmatch(r'[a-z][a-z0-9_-]*', key) or (equals and not value):
      raise ConfigError(f'--slurm_options has {word!r}; give KEY=VALUE, as sbatch does')
    if key == 'cluster' and value != 'local':
      raise ConfigError(f'--slurm_options has {word!r}; only cluster=local is known')
    out[key] = value or True
  return out


def main(config: RunConfig, path: Path | str, launch: Options) -> int:
  """Trains a sweep on an engine and shows its results; returns the exit code."""
  workdir = Workdir(Path(path).absolute())
  _check(config, path, launch)
  import jax

  # The driver trains nothing, and must not take the devices of a worker beside it.
  jax.config.update('jax_platforms', 'cpu')
  from onlyif_jax import experiment, sweep

  experiment.build(config)  # raises ConfigError for impossible settings
  stack = _stored_stack(workdir, config)
  done = stack and all(unit.done for unit in plan(config, workdir, stack, launch))
  if not done and (number := _train(config, workdir, stack, launch)):
    print(f'stopped after a save; the same command goes on from there ({path})')
    return 128 + number
  shards.gather(path)
  sweep.claim_devices(workdir.config() or config)  # as many as the units had
  return sweep.main(config, path)


def _check(config: RunConfig, path: Path | str, launch: Options) -> None:
  """Raises ConfigError for what an engine cannot do."""
  name = f'--launcher={launch.launcher}'
  if bucket.is_url(path):
    raise ConfigError(
      f'{name}: {path} is not a directory that all machines share; mount one, or give '
      'each machine a --shard'
    )
  if config.sweep.adaptive_width:
    raise ConfigError(
      f'{name}: an adaptive sweep cannot be split, its rounds follow; leave out '
      'sweep.adaptive_width, or --launcher'
    )
  if (launch.gpus or launch.tpus) and not config.stack.members:
    raise ConfigError(
      f'--{"gpus" if launch.gpus else "tpus"}: say how many members of the sweep train '
      'together in a stack, for example --config.stack.members=8'
    )


def _stored_stack(workdir: Workdir, config: RunConfig) -> StackConfig | None:
  """The stack settings of units that have begun, None if none has.

  Raises ConfigError for a workdir that holds another run.
  """
  folders = sorted(workdir.file(shards.FOLDER).glob('*-of-*'))
  configs = {path: stored for path in folders if (stored := Workdir(path).config())}
  planned = [e['stack'] for e in workdir.ledger() if e['event'] == 'planned']
  is_local = any(not name.startswith('../') for name in planned)
  if is_local or (workdir.config() and not configs):
    raise ConfigError(
      f'--workdir={workdir.path} holds a run of one machine; leave out --launcher, or '
      'give another --workdir'
    )
  for path, stored in configs.items():
    Workdir(path).adopt(config)
    if extent(config) != extent(stored):
      raise ConfigError(
        f'--workdir={workdir.path} holds other counts, seeds or variants; a sweep over '
        'machines cannot be extended: give another --workdir'
      )
  return next((stored.stack for stored in configs.values()), None)


def _resolve(config: RunConfig, launch: Options) -> StackConfig:
  """The stack settings, the same for every unit; on CPU those of this machine."""
  from onlyif_jax import sweep

  s, devices = config.stack, launch.gpus or launch.tpus
  if not devices:
    sweep.claim_devices(config)
    return sweep.resolve(config).stack
  member_devices = s.member_devices or max(1, devices // (s.data_devices or 1))
  members = -(-s.members // member_devices) * member_devices
  return dataclasses.replace(s, members=members, member_devices=member_devices)


def plan(
  config: RunConfig, workdir: Workdir, stack: StackConfig, launch: Options
) -> list[Unit]:
  """The units of a sweep, one per stack; raises ConfigError."""
  from onlyif_jax import experiment as experiment_lib

  experiment = experiment_lib.build(dataclasses.replace(config, stack=stack))
  rows = experiment_lib.rows(config)
  programs = collections.Counter(experiment.sibling(row).trainer for row in rows)
  stacks = sum(-(-count // stack.members) for count in programs.values())
  for path in workdir.file(shards.FOLDER).glob('*-of-*/config.json'):
    if (of := path.parent.name.partition('-of-')[2]) != str(stacks):
      raise ConfigError(
        f'{path.parents[1]} holds shards of {of}, and the sweep has {stacks} stacks; '
        'give another --workdir'
      )
  resolved = [f'--config.stack.{k}={v}' for k, v in dataclasses.asdict(stack).items()]
  return [
    Unit(
      number=i,
      of=stacks,
      directory=str(shards.place(workdir.path, (i, stacks))),
      arguments=(
        *('-m', 'onlyif_jax.main', *sys.argv[1:], '--launcher=local', *resolved),
        *(f'--workdir={workdir.path}', f'--shard={i}/{stacks}'),
      ),
      cwd=str(Path.cwd()),
      platform='cuda' if launch.gpus else 'tpu,cpu' if launch.tpus else 'cpu',
    )
    for i in range(1, stacks + 1)
  ]


def _train(
  config: RunConfig, workdir: Workdir, stack: StackConfig | None, launch: Options
) -> int:
  """Trains all units; returns 0, or the number of the signal that stopped it.

  Raises ConfigError, or exits with 1, where some cannot be trained.
  """
  from onlyif_jax.loop import StopSignal

  make = {'ray': engines.Ray, 'slurm': engines.Slurm}[launch.launcher]
  folder = workdir.file(shards.FOLDER)
  with make(launch, config.name, folder) as engine:
    # JAX may only start here, after Ray has forked.
    all_units = plan(config, workdir, stack or _resolve(config, launch), launch)
    todo = [unit for unit in all_units if not unit.done]
    for unit in todo:  # a worker that does not see the lock has another disk
      Workdir(unit.directory).create()
      Path(unit.directory, units.LOCK).touch()
    return _drive(engine, todo, len(all_units), StopSignal())  # replaces Ray's handler


def _drive(engine, todo: list[Unit], total: int, stop) -> int:
  """Hands units to an engine and waits for them; returns and raises as `_train`.

  total: the number of units, those already done included.
  """
  began, remaining = time.monotonic(), set(todo)
  failures: dict[Unit, tuple[str, int]] = {}  # (reason, exit code)
  engine.start(todo)
  print(
    f'{engine.where}: {len(todo)} of {total} stacks to train; '
    f'to watch: tail -f {Path(todo[0].directory).parent}/*/{units.LOG}',
    flush=True,
  )
  while remaining and not stop.number:
    for unit, outcome in engine.ended():
      remaining.remove(unit)
      if reason := _failure(unit, outcome):
        failures[unit] = reason, outcome.code
        print(f'{unit} failed: {reason}', file=sys.stderr, flush=True)
      else:
        ready = total - len(remaining) - len(failures)
        print(
          f'{unit} is done on {outcome.host} after {outcome.seconds / 60:.1f} min; '
          f'{ready} of {total} ready',
          flush=True,
        )
  if remaining:
    engine.cancel()
    _wait_for_saves(remaining)
    return stop.number
  if failures:
    _give_up(failures, total)
  print(f'trained in {(time.monotonic() - began) / 60:.1f} min')
  return 0


def _failure(unit: Unit, outcome: Outcome) -> str:
  """Why a unit that ended is not done, '' if it is."""
  if outcome.code not in (0, 1):  # 1: done, but a member stopped being finite
    return outcome.said
  said = (
    outcome.said if outcome.code else f'{outcome.host} calls it done, its ledger not'
  )
  end = time.monotonic() + units.SEEN_SECONDS  # a shared directory may lag
  while not unit.done:
    if time.monotonic() > end:
      return f'{said}; see {unit.directory}/{units.LOG}'
    time.sleep(0.5)
  return ''


def _give_up(failures: dict[Unit, tuple[str, int]], total: int) -> None:
  """Raises ConfigError where a setting or directory is at fault, else exits with 1."""
  first = min(failures, key=lambda unit: unit.number)
  text = (
    f'{len(failures)} of {total} stacks could not be trained, the first because: '
    f'{failures[first][0]} (the same command goes on from what is done)'
  )
  if any(code == 2 for _, code in failures.values()):
    raise ConfigError(text)
  print(text, file=sys.stderr)
  sys.exit(1)


def _wait_for_saves(remaining: set[Unit]) -> None:
  """Waits until no process writes in the directories of these units."""
  end = time.monotonic() + _SAVE_SECONDS
  for unit in remaining:
    with Path(unit.directory, units.LOCK).open('r+') as lock:
      units.acquire(lock, end)
