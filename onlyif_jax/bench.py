"""Measures the speed of a config here: `python -m onlyif_jax.bench --config=FILE`.

--peers compares with GPT-2 of Hugging Face on the same work, which needs torch,
transformers and accelerate. Shapes for comparison on CPU:

  --config=configs/imin.py --config.data.batch_size=256              # 3 x 64, length 30
  --config=configs/imin.py:full --config.data.batch_size=32 \\
    --config.model.compute_dtype=float32 --config.eval.batch_size=64  # 6 x 256, 144
"""

import os

from absl import flags, logging
from ml_collections import config_flags

from onlyif_jax import benchmark_torch, cli, config

_CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'FILE[:ARGS]; default: configs/imin.py. Example: FILE:full.'
)
_PEERS = flags.DEFINE_bool(
  'peers', False, 'Also Hugging Face GPT-2, in turn with ours.'
)
_MODES = flags.DEFINE_bool('modes', False, 'Also other ways of stacking members.')
_SECONDS = flags.DEFINE_float(
  'seconds', 10.0, 'Timed seconds of each measurement and of each turn.', 0.0
)
_ROUNDS = flags.DEFINE_integer('rounds', 5, 'Turns of each side with --peers.', 1)
_OUT = flags.DEFINE_string('out', None, 'A file for everything as JSON.')


def main(argv) -> int:
  """Prints a table, and writes JSON to --out."""
  del argv
  logging.set_verbosity(logging.WARNING)
  if 'tune' in _CONFIG.value:
    if _PEERS.value or _MODES.value:
      raise config.ConfigError('--peers and --modes are for sweeps from scratch')
    from onlyif_jax import benchmark_tuning
    from onlyif_jax.finetune import tuning_config

    tuning = tuning_config.freeze(_CONFIG.value)
    benchmark_tuning.run(tuning, seconds=_SECONDS.value, out=_OUT.value)
    return 0
  run_config = config.freeze(_CONFIG.value)
  if _PEERS.value:
    benchmark_torch.check()
    # Both sides share the memory of the GPU.
    os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')
  from onlyif_jax import benchmark, sweep  # loads JAX

  sweep.claim_devices(run_config)
  benchmark.run(
    run_config,
    seconds=_SECONDS.value,
    rounds=_ROUNDS.value,
    peers=_PEERS.value,
    modes=_MODES.value,
    out=_OUT.value,
  )
  return 0


if __name__ == '__main__':
  cli.run(main, config='configs/imin.py')
