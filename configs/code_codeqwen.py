"""Code instructions with general ones, CodeQwen1.5-7B (Only-IF, Table 2, Fig. 6).

  python -m onlyif_jax.main --config=configs/code_codeqwen.py        # tiny, two cores
  python -m onlyif_jax.main --config=configs/code_codeqwen.py:7b,base=DIR,data=DIR

Arguments after the size: base=DIR (a Hugging Face directory of the model), data=DIR
(data-oss_instruct-decontaminated.jsonl, alpaca_data.json, CoT_collection_en.json, and
both files of EvalPlus, against whose prompts rows are decontaminated),
rows=20/0/0|18/2/0 (a part of the table), seeds=3.

Some of 20 thousand rows of OSS-Instruct are replaced by Alpaca, or by Alpaca and
CoT-Collection. A mixture is given in thousands of rows of the three; 17/3/0 and 15/5/0
appear only in Fig. 6. The papers give neither prompt, nor rank, nor seeds: we use
Magicoder's prompt, rank 64, and 3 seeds on one draw of the rows.

`tiny` (an analogue): a small decoder that is pretrained first; seven of the rows in
configs/rows stand for a thousand. Its problems are of the kinds in the rows of code.

Measured: see README.
"""

from onlyif_jax import mixture_presets

ROWS = (
  *('20/0/0', '19/1/0', '18/2/0', '17/3/0', '16/4/0', '15/5/0'),
  *('18/1/1', '16/2/2'),
)
PAPER = (
  '18K OSS + 1K Alpaca + 1K CoT is best (68.5 against 65.4 of OSS alone); two-way '
  'mixtures rise to 18:2 and fall beyond'
)


def get_config(arg=None):
  """The config of a size."""
  base = 'models/CodeQwen1.5-7B'
  c = mixture_presets.code('code_codeqwen', arg, __file__, ROWS, base, thousand=7)
  c.paper = PAPER
  return c
