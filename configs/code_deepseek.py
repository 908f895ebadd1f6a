"""Code instructions with general ones, DeepSeek-Coder-6.7B (Only-IF, Table 1, Fig. 6).

  python -m onlyif_jax.main --config=configs/code_deepseek.py        # tiny, two cores
  python -m onlyif_jax.main --config=configs/code_deepseek.py:7b,base=DIR,data=DIR

Arguments after the size: base=DIR (a Hugging Face directory of the model), data=DIR
(the files named below, and both of EvalPlus, whose prompts no row may give away),
seeds=3.

OSS-Instruct is replaced step by step by Alpaca, or by Alpaca and CoT-Collection. Rows
are thousands of the three; a smaller mixture is part of a larger one. The papers give
neither prompt, nor rank, nor seeds: ours are Magicoder's prompt, rank 64, and 3 seeds
on one draw. `67.5/3.25/3.25` has 74 thousand rows, as printed. OSS-Instruct has hardly
more than 75 thousand; if too few are left, --config.mixture.ngram=0 removes none.

`tiny` (an analogue): a small decoder, made on the spot; of the rows in configs/rows
two stand for a thousand. Its problems are of the kinds that the rows of code teach.

Measured: see README.
"""

import os
from pathlib import Path

from onlyif_jax import presets
from onlyif_jax.config import parse_arg
from onlyif_jax.corpora.mixture_settings import of_thousands
from onlyif_jax.finetune.tuning_config import mixture_config

ROWS = (
  *('20/0/0', '19/1/0', '18/2/0', '17/3/0', '16/4/0', '15/5/0'),
  *('75/0/0', '60/15/0', '60/7.5/7.5', '67.5/7.5/0', '67.5/3.25/3.25'),
  *('72.5/2.5/0', '72.5/1.25/1.25', '74/1/0', '74/0.5/0.5'),
)
FILES = {  # source -> (shipped rows, the published file), and how to read both
  'oss': ('oss_instruct.jsonl', 'data-oss_instruct-decontaminated.jsonl'),
  'alpaca': ('alpaca_data.json', 'alpaca_data.json'),
  'cot': ('CoT_collection_en.json', 'CoT_collection_en.json'),
}
FORMATS = {'oss': 'oss_instruct', 'alpaca': 'alpaca', 'cot': 'cot_collection'}
PAPER = (
  '18K OSS + 2K Alpaca (67.1) beats 75K OSS (66.4); replacing more helps less, and '
  'most gaps are a few problems'
)


def get_config(arg=None):
  """The config of a size."""
  given = parse_arg(arg, ('tiny', '7b'), base=str, data=str, seeds=int)
  c = mixture_config()
  c.name, c.size, c.paper = 'code_deepseek', given.size, PAPER
  tiny = given.size == 'tiny'
  shipped = os.path.relpath(Path(__file__).parent / 'rows')
  folder = given.data or (shipped if tiny else 'data')
  if tiny:
    presets.tiny_mixtures(c)
    c.mixture.tests = (f'problems={folder}/humaneval.jsonl:prompt',)
  else:
    presets.papers_mixtures(c)
    c.base.directory = 'models/deepseek-coder-6.7b-base'
    c.mixture.tests = (
      f'humaneval={folder}/HumanEvalPlus.jsonl.gz:prompt',
      f'mbpp={folder}/MbppPlus.jsonl.gz:prompt',
    )
  c.base.directory = given.base or c.base.directory
  c.tune.template, c.seeds = 'magicoder', given.seeds or (1 if tiny else 3)
  c.mixture.sources = tuple(
    f'{name}={folder}/{files[not tiny]}:{FORMATS[name]}'
    for name, files in FILES.items()
  )
  c.benchmarks.names = ('humaneval',) if tiny else ('humaneval', 'mbpp')
  c.benchmarks.data = folder
  c.mixture.rows = tuple(of_thousands(FILES, row, c.thousand) for row in ROWS)
  return c
