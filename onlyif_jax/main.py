"""Trains a sweep and fits its transition: `python -m onlyif_jax.main --config=FILE`."""

from pathlib import Path

from absl import flags, logging
from ml_collections import config_flags

from onlyif_jax import bucket, cli, config, launchers

_CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'FILE[:ARGS]; default: configs/imin.py. Example: FILE:cpu,seeds=2.'
)
_WORKDIR = flags.DEFINE_string(
  'workdir', None, 'A directory or gs://BUCKET/DIR; default: runs/<config>-<size>.'
)
_SHARD = flags.DEFINE_string(
  'shard', None, 'i/n: trains the i-th of n shares, for a job array; see report.'
)
_MULTIHOST = flags.DEFINE_bool(
  'multihost', False, 'One of several processes that train together; see README.'
)
_DRY_RUN = flags.DEFINE_bool(
  'dry_run', False, 'Predict cost and memory; leave nothing.'
)
_PREVIEW = flags.DEFINE_integer(
  'preview', 0, 'Fine-tuning: show so many rows with their loss mask, and end.'
)
flags.adopt_module_key_flags(launchers)


def main(argv) -> int:
  """Runs, resumes or dry-runs a config; exit code 1: a member failed."""
  del argv
  logging.set_verbosity(logging.WARNING)
  if 'tune' in _CONFIG.value:
    from onlyif_jax import finetune

    launchers.refuse((_SHARD, _MULTIHOST), 'a fine-tuning run')
    workdir = _WORKDIR.value or cli.default_workdir(_CONFIG.value)
    if bucket.is_url(workdir):
      raise config.ConfigError(
        f'--workdir={workdir}: a fine-tuning run needs a directory; mount the bucket'
      )
    return finetune.main(
      _CONFIG.value, Path(workdir), dry_run=_DRY_RUN.value, preview=_PREVIEW.value
    )
  if _PREVIEW.value:
    raise config.ConfigError('--preview is for fine-tuning; export --to=jsonl has rows')
  run_config = config.freeze(_CONFIG.value)
  workdir = _WORKDIR.value or cli.default_workdir(run_config)
  launch = launchers.options((_SHARD, _MULTIHOST, _DRY_RUN))
  if launch is not None:
    return launchers.main(run_config, workdir, launch)
  # Imported here so that a bad config fails before JAX is loaded.
  from onlyif_jax import distributed, dry_run, shards, sweep
  from onlyif_jax.workdir import Workdir

  shard = shards.parse(_SHARD.value) if _SHARD.value else None
  subdir = shards.place('', shard) if shard is not None else ''
  if _MULTIHOST.value and _DRY_RUN.value:
    raise config.ConfigError('--dry_run looks at one process; leave out --multihost')
  if _MULTIHOST.value and bucket.is_url(workdir):
    raise config.ConfigError(
      f'--multihost needs a directory that all processes share, not {workdir}; mount '
      'the bucket there, or give every process a --shard instead'
    )
  processes = distributed.initialize() if _MULTIHOST.value else 1
  if _DRY_RUN.value:
    sweep.claim_devices(run_config, processes)
    dry_run.show(run_config)
    return 0
  with distributed.session(), bucket.local(workdir, subdir, write=True) as path:
    sweep.claim_devices(Workdir(path).config() or run_config, processes)
    return sweep.main(run_config, path, shard)


if __name__ == '__main__':
  cli.run(main, config='configs/imin.py')
