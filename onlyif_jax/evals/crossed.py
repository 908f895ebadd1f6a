"""Examples on the host, and the cell of held-out rules on training inputs."""

from typing import NamedTuple

import numpy as np

from onlyif_jax.evals import mistakes
from onlyif_jax.tasks import tokens


class Examples(NamedTuple):
  """Examples of one member and split: whole sequences, and what they ask for."""

  tokens_NL: np.ndarray
  start_N: np.ndarray
  asked: mistakes.Asked


def cross(unseen: Examples, train: Examples) -> Examples:
  """Held-out rules on training inputs, where a training input allows it.

  A rule whose x occurs in its own input takes a training input that holds x, a no-op
  takes one that does not; the answers follow. Each example differs from the unseen one
  only in its input and answer.
  """
  asked = unseen.asked
  if asked.x is None or not len(train.start_N):
    return head(unseen, 0)
  site = mistakes.locate(asked)
  train_inputs, inputs, patterns = map(_texts, (train.asked.z, asked.z, asked.x))
  joined = chr(0x10FFFF).join(train_inputs)
  begins = np.cumsum([0] + [len(text) + 1 for text in train_inputs])
  rows, chosen = [], []
  for i in np.flatnonzero(site.literal_N):
    # Each rule starts at another training input, so that inputs vary.
    first = int(i % len(train_inputs))
    if site.found_N[i]:
      at = joined.find(patterns[i], begins[first])
      at = at if at >= 0 else joined.find(patterns[i])
      k = int(np.searchsorted(begins, at, side='right')) - 1 if at >= 0 else -1
    else:
      k = first if patterns[i] not in train_inputs[first] else -1
    # Only inputs longer than x: in a prompt one as long as x could be mistaken for it.
    if k >= 0 and len(patterns[i]) < len(inputs[i]) == len(train_inputs[k]):
      rows.append(i)
      chosen.append(k)
  index, z = np.array(rows, int), train.asked.z[np.array(chosen, int)]
  return _with_inputs(take(unseen, index), z, site.w[index], [inputs[i] for i in rows])


def _with_inputs(
  examples: Examples, z: mistakes.Strings, w: mistakes.Strings, inputs: list[str]
) -> Examples:
  """The examples with z in place of their inputs, of the same lengths; w is inserted."""
  asked, length = examples.asked, examples.tokens_NL.shape[1]
  assert asked.x is not None
  site = mistakes.locate(asked._replace(z=z, expected=z))
  width = z.letters_NW.shape[1] + w.letters_NW.shape[1]
  put_NW = mistakes.splice(z, site.place_N[:, None], asked.x.length_N, w, width)[:, 0]
  change_N = np.where(site.found_N, w.length_N - asked.x.length_N, 0)
  same_NW = np.pad(z.letters_NW, ((0, 0), (0, width - z.letters_NW.shape[1])))
  letters_NW = np.where(site.found_N[:, None], put_NW, same_NW)
  expected = mistakes.from_padded(letters_NW, z.length_N + change_N)
  tokens_NL = examples.tokens_NL.copy()
  for n, (start, text) in enumerate(zip(examples.start_N, inputs, strict=True)):
    prompt = ''.join(chr(t) for t in tokens_NL[n, :start])
    old = ''.join(chr(ord(c) + tokens.FIRST_LETTER) for c in text)
    at = 0 if prompt.startswith(old + chr(tokens.SEP)) else prompt.rfind(old)
    tokens_NL[n, at : at + len(text)] = (
      z.letters_NW[n, : len(text)] + tokens.FIRST_LETTER
    )
    answer = expected.letters_NW[n, : expected.length_N[n]] + tokens.FIRST_LETTER
    tokens_NL[n, start:] = tokens.PAD
    answer = np.append(answer, tokens.EOS)[: length - start]
    tokens_NL[n, start : start + len(answer)] = answer
  return Examples(tokens_NL, examples.start_N, asked._replace(z=z, expected=expected))


def take(examples: Examples, index) -> Examples:
  """The examples at an index."""
  z, expected, x, y = examples.asked
  asked = mistakes.Asked(z[index], expected[index])
  if x is not None and y is not None:
    asked = asked._replace(x=x[index], y=y[index])
  return Examples(examples.tokens_NL[index], examples.start_N[index], asked)


def head(examples: Examples, count: int) -> Examples:
  """At most the first `count` examples."""
  return take(examples, np.arange(min(count, len(examples.start_N))))


def answers_of(tokens_NL, start_N) -> np.ndarray:
  """What follows the prompts, moved to the front and padded to [N, L]."""
  length = tokens_NL.shape[1]
  at_NL = start_N[:, None] + np.arange(length)[None]
  after_NL = np.take_along_axis(tokens_NL, np.minimum(at_NL, length - 1), 1)
  return np.where(at_NL < length, after_NL, tokens.PAD)


def _texts(a: mistakes.Strings) -> list[str]:
  """Each string as text, a character per letter."""
  return [
    ''.join(map(chr, row[:length]))
    for row, length in zip(a.letters_NW.tolist(), a.length_N.tolist(), strict=True)
  ]
