"""Evaluates a pretrained model: `python -m onlyif_jax.benchmarks --model=DIR --out=DIR`.

With `--samples` in place of `--model` it scores what was generated before.
"""

from pathlib import Path
from typing import Any

from absl import flags, logging

from onlyif_jax import cli
from onlyif_jax.config import ConfigError

_MODEL = flags.DEFINE_string(
  'model', None, 'A Hugging Face directory with its tokenizer.'
)
_ADAPTER = flags.DEFINE_string('adapter', None, 'A PEFT directory with LoRA adapters.')
_DTYPE = flags.DEFINE_enum(
  'dtype', 'bfloat16', ['bfloat16', 'float32'], 'Of weights and matmuls.'
)
_QUANTIZE = flags.DEFINE_enum(
  'quantize', 'none', ['none', 'int8', 'nf4'], 'Of the weights of the layers.'
)
_BENCHMARKS = flags.DEFINE_list(
  'benchmarks', ['humaneval', 'mbpp'], 'Names in the protocol, with commas.'
)
_PROTOCOL = flags.DEFINE_string(
  'protocol', 'papers-code', 'A name in evals/protocols.yaml.'
)
_DATA = flags.DEFINE_string(
  'data',
  None,
  'Local files: humaneval*.jsonl[.gz], mbpp*.jsonl[.gz], leetcode*.json, '
  'input_data.jsonl of IFEval, the files of the Eurus suite as its eval/ names them, '
  'TASK/SPLIT.jsonl or TASK.yaml for tasks of lm-evaluation-harness.',
)
_OUT = flags.DEFINE_string('out', None, 'The directory to write; it resumes.')
_LIMIT = flags.DEFINE_integer('limit', None, 'Only so many problems of each.', 1)
_WORKERS = flags.DEFINE_integer('workers', 2, 'Programs that run at a time.', 1)
_ALLOW_NETWORK = flags.DEFINE_bool(
  'allow_network', False, 'Run programs even where they would reach the network.'
)
_BATCH_SIZE = flags.DEFINE_integer('batch_size', 8, 'Prompts at a time.', 1)
_DEVICES = flags.DEFINE_integer('devices', 1, 'Copies of the model, a device each.', 1)
_SAMPLES = flags.DEFINE_string(
  'samples', None, "Saved samples to score without a model, in EvalPlus's formats."
)
_SAMPLES_EACH = flags.DEFINE_integer(
  'samples_each', None, 'Samples of a problem of code, for pass@k.', 1
)
_SEED = flags.DEFINE_integer('seed', 0, 'Of sampled answers.', 0)


def main(argv) -> int:
  """Writes one result per benchmark and prints them."""
  del argv
  if bool(_MODEL.value) == bool(_SAMPLES.value) or not _OUT.value:
    raise ConfigError('give --out and either --model (a directory) or --samples')
  logging.set_verbosity(logging.WARNING)
  from onlyif_jax import benchmarking  # JAX starts here
  from onlyif_jax.analysis import table

  values: dict[str, Any] = {
    flag.name: Path(flag.value) if flag.value else None
    for flag in (_MODEL, _ADAPTER, _DATA, _SAMPLES)
  }
  scalars = (_DTYPE, _QUANTIZE, _PROTOCOL, _LIMIT, _WORKERS, _ALLOW_NETWORK)
  scalars += (_BATCH_SIZE, _DEVICES, _SEED, _SAMPLES_EACH)
  values |= {flag.name: flag.value for flag in scalars}
  settings = benchmarking.Settings(
    out=Path(_OUT.value), benchmarks=tuple(_BENCHMARKS.value), **values
  )
  table.show_grids([benchmarking.table(benchmarking.run(settings))])
  print(f'written: {_OUT.value}')
  return 0


if __name__ == '__main__':
  cli.run(main)
