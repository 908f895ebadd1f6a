"""Evaluates a pretrained model: `python -m onlyif_jax.benchmarks --model=DIR --out=DIR`."""

from pathlib import Path

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
_SEED = flags.DEFINE_integer('seed', 0, 'Of sampled answers.', 0)


def main(argv) -> int:
  """Writes one result per benchmark and prints them."""
  del argv
  for flag in (_MODEL, _OUT):
    if not flag.value:
      raise ConfigError(f'--{flag.name} is missing; give a directory')
  logging.set_verbosity(logging.WARNING)
  from onlyif_jax import benchmarking  # JAX starts here
  from onlyif_jax.analysis import table

  settings = benchmarking.Settings(
    model=Path(str(_MODEL.value)),
    adapter=Path(_ADAPTER.value) if _ADAPTER.value else None,
    dtype=_DTYPE.value,
    quantize=_QUANTIZE.value,
    benchmarks=tuple(_BENCHMARKS.value),
    protocol=_PROTOCOL.value,
    data=Path(_DATA.value) if _DATA.value else None,
    out=Path(str(_OUT.value)),
    limit=_LIMIT.value,
    workers=_WORKERS.value,
    allow_network=_ALLOW_NETWORK.value,
    batch_size=_BATCH_SIZE.value,
    devices=_DEVICES.value,
    seed=_SEED.value,
  )
  table.show_grids([benchmarking.table(benchmarking.run(settings))])
  print(f'written: {_OUT.value}')
  return 0


if __name__ == '__main__':
  cli.run(main)
