"""Settings that the config files of mixtures share (Only-IF, Tables 1 to 3)."""

import os
from collections.abc import Mapping
from pathlib import Path

from onlyif_jax.config import parse_arg
from onlyif_jax.corpora.mixture_settings import of_thousands
from onlyif_jax.finetune.tuning_config import mixture_config

CODE_TESTS = {'humaneval': 'HumanEvalPlus.jsonl.gz', 'mbpp': 'MbppPlus.jsonl.gz'}
CODE = {  # source -> (format, shipped file of `tiny`, published file)
  'oss': (
    'oss_instruct',
    'oss_instruct.jsonl',
    'data-oss_instruct-decontaminated.jsonl',
  ),
  'alpaca': ('alpaca', 'alpaca_data.json', 'alpaca_data.json'),
  'cot': ('cot_collection', 'CoT_collection_en.json', 'CoT_collection_en.json'),
}


def start(name: str, arg, file: str, sources: Mapping, rows, thousand: int = 2, **more):
  """(config of a size, its parsed arguments, directory of its rows).

  arg: the argument of the config file; file: its path; sources: as `CODE`; rows: the
  mixtures, in thousands of each source as in the papers' tables; thousand: rows that
  stand for a thousand at the size `tiny`; more: further arguments and their types.
  """
  words = {'base': str, 'data': str, 'rows': tuple[str, ...], 'seeds': int}
  given = parse_arg(arg, ('tiny', '7b'), **words, **more)
  c = mixture_config()
  c.name, c.size = name, given.size
  is_tiny = given.size == 'tiny'
  shipped = os.path.relpath(Path(file).parent / 'rows')
  folder = given.data or (shipped if is_tiny else 'data')
  if is_tiny:
    tiny(c)
    c.thousand = thousand
    c.mixture.tests = (f'problems={folder}/humaneval.jsonl:prompt',)
  else:
    papers(c)
    c.mixture.prepared = f'{folder}/prepared'
    c.mixture.tests = tuple(f'{k}={folder}/{v}:prompt' for k, v in CODE_TESTS.items())
  c.base.directory = given.base or c.base.directory
  c.seeds = given.seeds or (1 if is_tiny else 3)
  c.mixture.sources = tuple(
    f'{source}={folder}/{shipped_file if is_tiny else published_file}:{form}'
    for source, (form, shipped_file, published_file) in sources.items()
  )
  mixtures = given.rows or rows
  c.mixture.rows = tuple(of_thousands(sources, row, c.thousand) for row in mixtures)
  return c, given, folder


def code(name: str, arg, file: str, rows, base: str, thousand: int = 2):
  """The config of Tables 1 and 2: code and general instructions, Magicoder's prompt."""
  c, given, folder = start(name, arg, file, CODE, rows, thousand)
  is_tiny = given.size == 'tiny'
  c.base.directory = given.base or ('' if is_tiny else base)
  c.tune.template = 'magicoder'
  c.benchmarks.names = ('humaneval',) if is_tiny else tuple(CODE_TESTS)
  c.benchmarks.data = folder
  return c


def tiny(c) -> None:
  """A small decoder and the shipped rows, two per thousand; minutes on two cores."""
  c.base.dtype = c.base.compute_dtype = 'float32'
  c.base.remat = False
  c.scratch.vocabulary, c.scratch.heads, c.scratch.kv_heads = 500, 4, 2
  c.scratch.steps, c.scratch.batch_size, c.scratch.learning_rate = 1_600, 8, 2e-3
  c.lora.rank, c.lora.alpha = 16, 32.0
  c.tune.length, c.tune.batch_size, c.tune.epochs = 192, 8, 6
  c.optim.learning_rate, c.optim.clip, c.optim.b2 = 3e-3, 1.0, 0.95
  c.answers.examples = 25
  c.mixture.ngram, c.mixture.dimensions, c.mixture.clusters = 10, 64, 20
  c.thousand = 2


def papers(c) -> None:
  """The papers' settings for code (Only-IF, section 4), and our choices.

  Theirs: rate 1e-5, batches of 4, 8-bit, 3 epochs, length 768. Ours: LoRA of rank 64
  on all linear layers, no packing, and rows without a response are dropped.
  """
  c.base.quantize = 'int8'
  c.lora.rank, c.lora.alpha = 64, 128.0
  c.optim.learning_rate = 1e-5
  c.tune.length, c.tune.batch_size, c.tune.epochs = 768, 4, 3
  c.tune.packing = 'none'
  c.mixture.bad = 'drop'
