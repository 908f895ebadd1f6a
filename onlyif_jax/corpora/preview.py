"""Shows rows as a model reads them, with the parts that the loss counts in colour."""

import itertools
from collections.abc import Iterable

import numpy as np
from rich.console import Console
from rich.text import Text

from onlyif_jax.corpora.batching import (
  BatchSettings,
  Plan,
  Sources,
  encode,
  epoch_orders,
)
from onlyif_jax.corpora.rows import Row
from onlyif_jax.corpora.tokenizer import Tokenizer

OPEN, CLOSE = '[[', ']]'  # around responses where there is no colour


def preview(
  plan: Plan,
  sources: Sources,
  tokenizer: Tokenizer,
  settings: BatchSettings,
  count: int,
  console: Console | None = None,
) -> None:
  """Prints the first `count` rows of the first epoch."""
  order = epoch_orders(len(plan), 1, settings.seed)[0]
  chosen = (plan[i] for i in order[:count])
  show(
    (sources[source][index] for source, index in chosen), tokenizer, settings, console
  )


def show(
  rows: Iterable[Row],
  tokenizer: Tokenizer,
  settings: BatchSettings,
  console: Console | None = None,
) -> None:
  """Prints rows, cut to the length: on a terminal responses are green, prompts dim.

  Elsewhere responses stand in [[ ]].
  """
  console = console or Console()
  for row in rows:
    example = encode(row, tokenizer, settings)
    title = f'{row.source}, row {row.index}'
    if example is None:
      console.rule(f'{title}: left out, no response within {settings.length} tokens')
      continue
    ids, weights = example['tokens'], example['weights']
    counts = f'{len(ids)} tokens, {int(weights.sum())} in the loss'
    console.rule(f'{title}: {counts}')
    text = marked(ids, weights > 0, tokenizer, colour=console.is_terminal)
    console.print(text, soft_wrap=True)


def marked(
  ids: np.ndarray, mask: np.ndarray, tokenizer: Tokenizer, colour: bool
) -> Text:
  """The text of ids; where the mask is true it is green, or in [[ ]] without colour."""
  text = Text()
  pairs = zip(ids.tolist(), mask.tolist(), strict=True)
  for counted, run in itertools.groupby(pairs, key=lambda pair: pair[1]):
    part = tokenizer.decode([token for token, _ in run])
    if colour:
      text.append(part, style='green' if counted else 'dim')
    else:
      text.append(f'{OPEN}{part}{CLOSE}' if counted else part)
  return text
