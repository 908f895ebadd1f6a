"""Exports a run: `python -m onlyif_jax.export --workdir=DIR --to=hf --out=DIR`."""

from pathlib import Path

from absl import flags, logging
from ml_collections import config_flags

from onlyif_jax import bucket, cli
from onlyif_jax.config import ConfigError, freeze

_WORKDIR = flags.DEFINE_string('workdir', None, 'The directory or URL of a run.')
_CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'Instead of a workdir, for jsonl, tfds: FILE[:ARGS] of a config.'
)
_TO = flags.DEFINE_enum(
  'to',
  None,
  ['hf', 'peft', 'jsonl', 'tfds', 'bundle'],
  'hf: a Hugging Face model; peft: adapters alone; jsonl, tfds: the examples; bundle: '
  'a run without weights.',
)
_OUT = flags.DEFINE_string('out', None, 'A new directory to write.')
_MEMBER = flags.DEFINE_string('member', None, 'Which member; default: the only one.')
_STEP = flags.DEFINE_integer('step', None, 'Checkpoint step; default: the newest.')


def main(argv) -> int:
  """Writes the directory --out."""
  del argv
  for flag in (_TO, _OUT):
    if not flag.value:
      raise ConfigError(f'--{flag.name} is missing; see --help')
  if bool(_WORKDIR.value) == bool(_CONFIG.value):
    raise ConfigError('give one of --workdir=DIR and --config=FILE')
  if _TO.value in ('hf', 'peft', 'bundle') and not _WORKDIR.value:
    raise ConfigError(f'--to={_TO.value} needs --workdir=DIR, a run')
  with bucket.local(
    _WORKDIR.value or '', checkpoints=_TO.value in ('hf', 'peft')
  ) as path:
    _write(path)
  return 0


def _write(workdir: Path) -> None:
  """Writes what --to says, from a workdir or from --config."""
  if _TO.value == 'bundle':
    from onlyif_jax.analysis import bundle

    path, omitted = bundle.write(workdir, str(_OUT.value))
    note = f'; left out for size: {", ".join(omitted)}' if omitted else ''
    print(f'written: {path}{note}')
    return
  logging.set_verbosity(logging.WARNING)
  from onlyif_jax import evaluation, exporting, sweep  # loads JAX
  from onlyif_jax.finetune import restore

  if _WORKDIR.value and restore.is_tuning(workdir):
    if _TO.value not in ('hf', 'peft'):
      raise ConfigError(f'--to={_TO.value} is not for a fine-tuning run; hf or peft')
    path = restore.export(workdir, _TO.value, _OUT.value, _MEMBER.value)
    print(f'written: {path}')
    return
  if _TO.value == 'peft':
    raise ConfigError('--to=peft needs the workdir of a fine-tuning run')
  if _WORKDIR.value:
    config = evaluation.open_run(workdir).config
  else:
    config = freeze(_CONFIG.value)
  sweep.claim_devices(config)
  out, to = str(_OUT.value), str(_TO.value)
  if to == 'hf':
    path = exporting.run_to_hf(workdir, out, _MEMBER.value, _STEP.value)
  else:
    write = {'jsonl': exporting.config_to_jsonl, 'tfds': exporting.config_to_tfds}[to]
    path = write(config, out, _MEMBER.value)
  print(f'written: {path}')


if __name__ == '__main__':
  cli.run(main)
