"""Plans a mixture without training: `python -m onlyif_jax.mixture --config=FILE --out=DIR`."""

from absl import flags, logging
from ml_collections import config_flags

from onlyif_jax import cli
from onlyif_jax.config import ConfigError

_CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'FILE[:ARGS] of a config with the section `mixture`.'
)
_OUT = flags.DEFINE_string('out', None, 'The directory to write.')


def main(argv) -> int:
  """Writes manifest, rows, hits, diversity and map; prints what they say."""
  del argv
  if not _CONFIG.value:
    raise ConfigError('--config is missing; give a file with the section mixture')
  if not _OUT.value:
    raise ConfigError('--out is missing; give a directory to write')
  logging.set_verbosity(logging.WARNING)
  from onlyif_jax import mixing
  from onlyif_jax.analysis import table
  from onlyif_jax.corpora import mixture_settings

  grids = mixing.write(mixture_settings.freeze(_CONFIG.value), _OUT.value)
  table.show_grids(grids)
  print(f'written: {_OUT.value}')
  return 0


if __name__ == '__main__':
  cli.run(main)
