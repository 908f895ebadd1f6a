"""A generalist from mixtures of domains, Mistral-7B-v0.3 (Only-IF, Table 3).

  python -m onlyif_jax.main --config=configs/generalist.py           # tiny, two cores
  python -m onlyif_jax.main --config=configs/generalist.py:7b,base=DIR,data=DIR

Arguments after the size: base=DIR (a Hugging Face directory of the model), data=DIR
(the files named below, and both of EvalPlus, whose prompts no row may give away),
select=kcenter (a core set, the default) or random, encoder=DIR (a static encoder for
it), length=2048, seeds=3.

To a base of UltraInteract another 10 or 20 thousand rows are added: of UltraInteract,
OpenOrca, Alpaca, or two of them. Rows are thousands of the three in all. The papers say
"a core-set selection approach" and give no settings of training: ours are k-centre on
embeddings, and those of code but for lines of 2,048, since UltraInteract's are long.
Without encoder= the embedding is TF-IDF, which holds every row's features at once.

`tiny` (an analogue): a small decoder, made on the spot; of the rows in configs/rows
two stand for a thousand; models are judged by their loss on held-out responses alone.

Measured: see README.
"""

import os
from pathlib import Path

from onlyif_jax import presets
from onlyif_jax.config import parse_arg
from onlyif_jax.corpora.mixture_settings import of_thousands
from onlyif_jax.finetune.tuning_config import mixture_config

ROWS = (
  *('20/0/0', '10/10/0', '10/0/10'),
  *('40/0/0', '20/20/0', '20/0/20', '30/10/0', '30/0/10'),
  *('60/0/0', '40/20/0', '40/0/20', '50/10/0', '50/0/10'),
  *('80/0/0', '60/20/0', '60/0/20', '70/10/0', '70/0/10'),
)
FILES = {  # source -> (shipped rows, the published file), and how to read both
  'ultra': ('ultrainteract_sft.jsonl', '0000_sft.parquet'),
  'orca': ('openorca.jsonl', '1M-GPT4-Augmented.parquet'),
  'alpaca': ('alpaca_data.json', 'alpaca_data.json'),
}
FORMATS = {'ultra': 'ultrainteract', 'orca': 'openorca', 'alpaca': 'alpaca'}
CODE = {'humaneval': 'HumanEvalPlus.jsonl.gz', 'mbpp': 'MbppPlus.jsonl.gz'}
PAPER = (
  'within a budget, 10K of OpenOrca beside UltraInteract beats more UltraInteract by '
  '10 to 16 %; the best of all is 40K (47.59)'
)


def get_config(arg=None):
  """The config of a size."""
  words = {'base': str, 'data': str, 'select': str, 'encoder': str}
  given = parse_arg(arg, ('tiny', '7b'), **words, length=int, seeds=int)
  c = mixture_config()
  c.name, c.size, c.paper = 'generalist', given.size, PAPER
  tiny = given.size == 'tiny'
  shipped = os.path.relpath(Path(__file__).parent / 'rows')
  folder = given.data or (shipped if tiny else 'data')
  if tiny:
    presets.tiny_mixtures(c)
    c.mixture.tests = (f'problems={folder}/humaneval.jsonl:prompt',)
  else:
    presets.papers_mixtures(c)
    c.base.directory = 'models/Mistral-7B-v0.3'
    c.tune.template, c.tune.length = 'mistral', 2_048
    c.benchmarks.names = (*CODE, 'math', 'gsm8k', 'theoremqa', 'mmlu', 'ifeval', 'bbh')
    c.benchmarks.protocol, c.benchmarks.data = 'harness-default', folder
    c.mixture.tests = tuple(f'{k}={folder}/{v}:prompt' for k, v in CODE.items())
  c.base.directory = given.base or c.base.directory
  c.tune.length = given.length or c.tune.length
  c.seeds = given.seeds or (1 if tiny else 3)
  c.mixture.selection = presets.choose('select', given.select, ('kcenter', 'random'))
  c.mixture.encoder = given.encoder or ''
  c.mixture.sources = tuple(
    f'{name}={folder}/{files[not tiny]}:{FORMATS[name]}'
    for name, files in FILES.items()
  )
  c.mixture.rows = tuple(of_thousands(FILES, row, c.thousand) for row in ROWS)
  return c
