"""Fine-tuning of pretrained models: rows of a config -> base, data, training, answers.

One row is one fine-tuned model. Reading order: tuning_config -> rows -> symbolic ->
base -> loop -> answers -> symbolic_task, mixed -> run.
"""

from pathlib import Path
from typing import Any


def main(config: Any, path: Path, *, dry_run: bool = False, preview: int = 0) -> int:
  """Runs the main command on a fine-tuning config; its exit code.

  dry_run: predicts memory and time and leaves nothing. preview: the number of rows of
  the first mixture or number of rules to show as the model reads them. Raises
  ConfigError.
  """
  from onlyif_jax.finetune import tuning_config

  tuning = tuning_config.freeze(config)
  # JAX starts here, after the config is checked.
  import jax

  from onlyif_jax.finetune import predict, run

  needed = tuning.devices.data * tuning.devices.fsdp * tuning.devices.tensor
  have = jax.config.jax_num_cpu_devices  # pyright: ignore[reportAttributeAccessIssue]
  if have < needed and not dry_run:
    jax.config.update('jax_num_cpu_devices', needed)
  if dry_run:
    predict.show(tuning)
    return 0
  if preview:
    run.show_rows(tuning, path, preview)
    return 0
  return run.main(tuning, path)
