"""Code instructions with general ones, CodeQwen1.5-7B (Only-IF, Table 2, Fig. 6).

  python -m onlyif_jax.main --config=configs/code_codeqwen.py        # tiny, two cores
  python -m onlyif_jax.main --config=configs/code_codeqwen.py:7b,base=DIR,data=DIR

Arguments after the size: base=DIR (a Hugging Face directory of the model), data=DIR
(the files named below, and both of EvalPlus, whose prompts no row may give away),
seeds=3.

Of 20 thousand rows of OSS-Instruct some are replaced by Alpaca, or by Alpaca and
CoT-Collection. Rows are thousands of the three; 17/3/0 and 15/5/0 are drawn in Fig. 6
alone. The papers give neither prompt, nor rank, nor seeds: ours are Magicoder's prompt,
rank 64, and 3 seeds on one draw.

`tiny` (an analogue): a small decoder, made on the spot; of the rows in configs/rows
seven stand for a thousand. Its problems are of the kinds that the rows of code teach.

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
  *('18/1/1', '16/2/2'),
)
FILES = {  # source -> (shipped rows, the published file), and how to read both
  'oss': ('oss_instruct.jsonl', 'data-oss_instruct-decontaminated.jsonl'),
  'alpaca': ('alpaca_data.json', 'alpaca_data.json'),
  'cot': ('CoT_collection_en.json', 'CoT_collection_en.json'),
}
FORMATS = {'oss': 'oss_instruct', 'alpaca': 'alpaca', 'cot': 'cot_collection'}
PAPER = (
  '18K OSS + 1K Alpaca + 1K CoT is best (68.5 against 65.4 of OSS alone); two-way '
  'mixtures rise to 18:2 and fall beyond'
)


def get_config(arg=None):
  """The config of a size."""
  given = parse_arg(arg, ('tiny', '7b'), base=str, data=str, seeds=int)
  c = mixture_config()
  c.name, c.size, c.paper = 'code_codeqwen', given.size, PAPER
  tiny = given.size == 'tiny'
  shipped = os.path.relpath(Path(__file__).parent / 'rows')
  folder = given.data or (shipped if tiny else 'data')
  if tiny:
    presets.tiny_mixtures(c)
    c.thousand = 7
    c.mixture.tests = (f'problems={folder}/humaneval.jsonl:prompt',)
  else:
    presets.papers_mixtures(c)
    c.base.directory = 'models/CodeQwen1.5-7B'
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
