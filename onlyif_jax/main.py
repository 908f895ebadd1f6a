"""Trains a sweep and shows its step: `python -m onlyif_jax.main --config=FILE`."""

from pathlib import Path

from absl import flags, logging
from ml_collections import config_flags

from onlyif_jax import cli, config

_CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'FILE[:ARGS]; default: configs/imin.py. Example: FILE:cpu,seeds=2.'
)
_WORKDIR = flags.DEFINE_string('workdir', None, 'Default: runs/<config>-<size>.')
_SHARD = flags.DEFINE_string(
  'shard', None, 'i/n: trains the i-th of n shares, for a job array; see report.'
)
_DRY_RUN = flags.DEFINE_bool(
  'dry_run', False, 'Predict cost and memory; leave nothing.'
)


def main(argv) -> int:
  """Runs, resumes or predicts; 0 done, 1 a member failed, 143 stopped by a signal."""
  del argv
  run_config = config.freeze(_CONFIG.value)
  workdir = _WORKDIR.value or default_workdir(run_config)
  logging.set_verbosity(logging.WARNING)
  # JAX starts here, after the config is checked.
  from onlyif_jax import dry_run, shards, sweep
  from onlyif_jax.workdir import Workdir

  shard = shards.parse(_SHARD.value) if _SHARD.value else None
  if shard is not None:
    workdir = shards.place(workdir, shard)
  stored = None if _DRY_RUN.value else Workdir(workdir).config()
  sweep.claim_devices(stored or run_config)
  if _DRY_RUN.value:
    dry_run.show(run_config)
    return 0
  return sweep.main(run_config, workdir, shard)


def default_workdir(run_config: config.RunConfig) -> Path:
  """runs/<config>-<size>, with a hash of what the command line changed."""
  flag = flags.FLAGS['config']
  _, _, arg = config_flags.get_config_filename(flag).partition(':')
  changed = dict(config_flags.get_override_values(flag))
  changed |= {word: '' for word in arg.split(',') if '=' in word}
  # More counts or seeds extend a run, so they do not change its name.
  kept = {
    k: str(v)
    for k, v in changed.items()
    if k not in config.EXTENDABLE and not k.startswith(('counts=', 'seeds=', 'stack.'))
  }
  name = f'{run_config.name}-{run_config.size}'
  return Path('runs') / (f'{name}-{config.digest(kept)}' if kept else name)


if __name__ == '__main__':
  cli.run(main, config='configs/imin.py')
