"""Sweeps over machines: `main --launcher=ray|slurm` gives each stack to an engine.

Ray or SLURM (through submitit) place the units and start them again where a machine
dies; here is no scheduler. A unit is a shard of one stack (see `units`, `shards`), so
what is done stands in the ledgers of the shards, and the same command goes on from
there. When all are done the shards are gathered and analysed as a local run is.
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
_OWN = {  # flag -> the launchers that it is for
  **dict.fromkeys(('cpus', 'gpus', 'retries'), ('ray', 'slurm')),
  **dict.fromkeys(('tpus', 'ray_address'), ('ray',)),
  **dict.fromkeys(('minutes', 'slurm_options'), ('slurm',)),
}
_SAVE_SECONDS = 120  # for which a driver that was stopped waits for units to save


def options(other: Sequence[flags.FlagHolder]) -> Options | None:
  """What the flags ask for, None for a local run; ConfigError where they disagree.

  other: flags of `main` that make no sense with a launcher.
  """
  name = _LAUNCHER.value
  given = [flag.name for flag in other if flag.value]
  if name == 'local' and 'shard' in given:
    return None  # perhaps a unit, which has its launcher's flags too
  for flag, launchers in _OWN.items():
    if flags.FLAGS[flag].present and name not in launchers:
      those = ' or '.join(f'--launcher={launcher}' for launcher in launchers)
      raise ConfigError(f'--{flag} is for {those}; give that too, or leave it out')
  if name == 'local':
    return None
  if given:
    raise ConfigError(f'--launcher={name}: leave out --{given[0]}')
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
  """Raises ConfigError where a flag of a launcher, or one of `other`, is given.

  what: the kind of run that has no use for them.
  """
  given = [flag.name for flag in other if flag.value]
  if _LAUNCHER.value != 'local':
    given.append('launcher')
  given += [name for name in _OWN if flags.FLAGS[name].present]
  if given:
    raise ConfigError(f'--{given[0]}: {what} is one process here; leave it out')


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


def main(config: RunConfig, path: Path | str, chosen: Options) -> int:
  """Trains a sweep on an engine and shows its results; the exit code of `main`."""
  whole = Workdir(Path(path).absolute())
  _check(config, path, chosen)
  import jax

  # The driver trains nothing, and must not take the devices of a worker beside it.
  jax.config.update('jax_platforms', 'cpu')
  from onlyif_jax import experiment, sweep

  experiment.build(config)  # a setting that cannot be ends here
  stack = _stored(whole, config)
  done = stack and all(unit.done for unit in plan(config, whole, stack, chosen))
  if not done and (number := _train(config, whole, stack, chosen)):
    print(f'stopped after a save; the same command goes on from there ({path})')
    return 128 + number
  shards.gather(path)
  sweep.claim_devices(whole.config() or config)  # that of the units
  return sweep.main(config, path)


def _check(config: RunConfig, path: Path | str, chosen: Options) -> None:
  """Refuses what an engine cannot do."""
  name = f'--launcher={chosen.launcher}'
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
  if (chosen.gpus or chosen.tpus) and not config.stack.members:
    raise ConfigError(
      f'--{"gpus" if chosen.gpus else "tpus"}: say how many members of the sweep train '
      'together in a stack, for example --config.stack.members=8'
    )


def _stored(whole: Workdir, config: RunConfig) -> StackConfig | None:
  """How members are stacked in the units that have begun; refuses another run."""
  found = sorted(whole.file(shards.FOLDER).glob('*-of-*'))
  configs = {path: stored for path in found if (stored := Workdir(path).config())}
  planned = [e['stack'] for e in whole.ledger() if e['event'] == 'planned']
  here = any(not name.startswith('../') for name in planned)
  if here or (whole.config() and not configs):
    raise ConfigError(
      f'--workdir={whole.path} holds a run of one machine; leave out --launcher, or '
      'give another --workdir'
    )
  for path, stored in configs.items():
    Workdir(path).adopt(config)
    a, b = config.sweep, stored.sweep
    if (sorted(a.counts), a.seeds) != (sorted(b.counts), b.seeds):
      raise ConfigError(
        f'--workdir={whole.path} holds other sweep.counts or sweep.seeds; a sweep over '
        'machines cannot be extended: give another --workdir'
      )
  return next((stored.stack for stored in configs.values()), None)


def _resolve(config: RunConfig, chosen: Options) -> StackConfig:
  """How members are stacked, in every unit alike; on CPU as on this machine."""
  from onlyif_jax import sweep

  s, devices = config.stack, chosen.gpus or chosen.tpus
  if not devices:
    sweep.claim_devices(config)
    return sweep.resolve(config).stack
  side = s.member_devices or max(1, devices // (s.data_devices or 1))
  members = -(-s.members // side) * side
  return dataclasses.replace(s, members=members, member_devices=side)


def plan(
  config: RunConfig, whole: Workdir, stack: StackConfig, chosen: Options
) -> list[Unit]:
  """The units of a sweep, one for each stack."""
  from onlyif_jax import experiment as experiment_lib

  experiment = experiment_lib.build(dataclasses.replace(config, stack=stack))
  rows = experiment_lib.rows(config)
  programs = collections.Counter(experiment.sibling(row).trainer for row in rows)
  number = sum(-(-count // stack.members) for count in programs.values())
  for path in whole.file(shards.FOLDER).glob('*-of-*/config.json'):
    if (of := path.parent.name.partition('-of-')[2]) != str(number):
      raise ConfigError(
        f'{path.parents[1]} holds shards of {of}, and the sweep has {number} stacks; '
        'give another --workdir'
      )
  settled = [f'--config.stack.{k}={v}' for k, v in dataclasses.asdict(stack).items()]
  return [
    Unit(
      number=i,
      of=number,
      directory=str(shards.place(whole.path, (i, number))),
      arguments=(
        *('-m', 'onlyif_jax.main', *sys.argv[1:], '--launcher=local', *settled),
        *(f'--workdir={whole.path}', f'--shard={i}/{number}'),
      ),
      cwd=str(Path.cwd()),
      platform='cuda' if chosen.gpus else 'tpu,cpu' if chosen.tpus else 'cpu',
    )
    for i in range(1, number + 1)
  ]


def _train(
  config: RunConfig, whole: Workdir, stack: StackConfig | None, chosen: Options
) -> int:
  """Trains units to their end: 0, or the number of the signal that stopped it.

  Raises ConfigError, or exits with 1, where some cannot be trained.
  """
  from onlyif_jax.loop import StopSignal

  make = {'ray': engines.Ray, 'slurm': engines.Slurm}[chosen.launcher]
  folder = whole.file(shards.FOLDER)
  with make(chosen, config.name, folder) as engine:
    # Only now may JAX start, as Ray forks.
    work = plan(config, whole, stack or _resolve(config, chosen), chosen)
    todo = [unit for unit in work if not unit.done]
    for unit in todo:  # a worker that does not find the lock is not on the same disk
      Workdir(unit.directory).create()
      Path(unit.directory, units.LOCK).touch()
    return _drive(engine, work, todo, StopSignal())  # Ray has a handler of its own


def _drive(engine, work: list[Unit], todo: list[Unit], stop) -> int:
  """Hands units to an engine and waits for them; returns and raises as `_train`."""
  began, left, bad = time.monotonic(), set(todo), {}
  engine.start(todo)
  print(
    f'{engine.where}: {len(todo)} of {len(work)} stacks to train; '
    f'to watch: tail -f {Path(todo[0].directory).parent}/*/{units.LOG}',
    flush=True,
  )
  while left and not stop.number:
    for unit, outcome in engine.ended():
      left.remove(unit)
      if wrong := _wrong(unit, outcome):
        bad[unit] = wrong, outcome.code
        print(f'{unit} failed: {wrong}', file=sys.stderr, flush=True)
      else:
        ready = len(work) - len(left) - len(bad)
        print(
          f'{unit} is done on {outcome.host} after {outcome.seconds / 60:.1f} min; '
          f'{ready} of {len(work)} ready',
          flush=True,
        )
  if left:
    engine.cancel()
    _wait_for_saves(left)
    return stop.number
  if bad:
    _give_up(bad, work)
  print(f'trained in {(time.monotonic() - began) / 60:.1f} min')
  return 0


def _wrong(unit: Unit, outcome: Outcome) -> str:
  """Why a unit that ended is not done, '' if it is."""
  if outcome.code not in (0, 1):  # 1: done, but a member stopped being finite
    return outcome.said
  said = (
    outcome.said if outcome.code else f'{outcome.host} calls it done, its ledger not'
  )
  end = time.monotonic() + units.SEEN_SECONDS  # a shared directory may be late
  while not unit.done:
    if time.monotonic() > end:
      return f'{said}; see {unit.directory}/{units.LOG}'
    time.sleep(0.5)
  return ''


def _give_up(bad: dict[Unit, tuple[str, int]], work: list[Unit]) -> None:
  """Ends with exit code 2 where a setting or directory is at fault, else with 1."""
  first = min(bad, key=lambda unit: unit.number)
  text = (
    f'{len(bad)} of {len(work)} stacks could not be trained, the first because: '
    f'{bad[first][0]} (the same command goes on from what is done)'
  )
  if any(code == 2 for _, code in bad.values()):
    raise ConfigError(text)
  print(text, file=sys.stderr)
  sys.exit(1)


def _wait_for_saves(left: set[Unit]) -> None:
  """Waits until no process writes in the directories of these units."""
  end = time.monotonic() + _SAVE_SECONDS
  for unit in left:
    with Path(unit.directory, units.LOCK).open('r+') as lock:
      units.acquire(lock, end)
