"""Examples on the host, and the cell of held-out rules on training inputs."""

from typing import NamedTuple

import numpy as np

from onlyif_jax.evals import mistakes
from onlyif_jax.tasks import tokens


class Shown(NamedTuple):
  """Examples of one split of one member: whole sequences, and what was asked."""

  tokens_NL: np.ndarray
  start_N: np.ndarray
  asked: mistakes.Asked


def crossed(unseen: Shown, train: Shown) -> Shown:
  """Held-out rules on training inputs, where a training input allows it.

  A rule of which x occurred in its own input takes a training input that holds x, a
  rule of a no-op takes one that does not; the answer is made accordingly. Each
  example differs from the unseen one in its input and answer alone.
  """
  asked = unseen.asked
  if asked.x is None or not len(train.start_N):
    return first(unseen, 0)
  site = mistakes.locate(asked)
  inputs = _texts(train.asked.z)
  joined = chr(0x10FFFF).join(inputs)
  begins = np.cumsum([0] + [len(text) + 1 for text in inputs])
  rows, chosen = [], []
  own, patterns = _texts(asked.z), _texts(asked.x)
  for i in np.flatnonzero(site.literal_N):
    if site.found_N[i]:
      # The search begins at another input for each rule, so inputs vary.
      at = joined.find(patterns[i], begins[i % len(inputs)])
      at = at if at >= 0 else joined.find(patterns[i])
      which = int(np.searchsorted(begins, at, side='right')) - 1 if at >= 0 else -1
    else:
      which = int(i % len(inputs))
      which = which if patterns[i] not in inputs[which] else -1
    # An x as long as its input could not be told from it in the prompt.
    if which >= 0 and len(patterns[i]) < len(own[i]) == len(inputs[which]):
      rows.append(i)
      chosen.append(which)
  index, z = np.array(rows, int), train.asked.z[np.array(chosen, int)]
  return _with_inputs(take(unseen, index), z, site.w[index], own=[own[i] for i in rows])


def _with_inputs(shown: Shown, z: mistakes.Strings, w, own: list[str]) -> Shown:
  """The examples with other inputs of the same lengths; w: what is inserted."""
  asked, length = shown.asked, shown.tokens_NL.shape[1]
  assert asked.x is not None
  site = mistakes.locate(asked._replace(z=z, expected=z))
  width = z.letters_NW.shape[1] + w.letters_NW.shape[1]
  put_NW = mistakes.splice(z, site.place_N[:, None], asked.x.length_N, w, width)[:, 0]
  change_N = np.where(site.found_N, w.length_N - asked.x.length_N, 0)
  same_NW = np.pad(z.letters_NW, ((0, 0), (0, width - z.letters_NW.shape[1])))
  letters_NW = np.where(site.found_N[:, None], put_NW, same_NW)
  expected = mistakes.padded(letters_NW, z.length_N + change_N)
  tokens_NL = shown.tokens_NL.copy()
  for n, (start, text) in enumerate(zip(shown.start_N, own, strict=True)):
    prompt = ''.join(chr(t) for t in tokens_NL[n, :start])
    before = ''.join(chr(ord(c) + tokens.FIRST_LETTER) for c in text)
    at = 0 if prompt.startswith(before + chr(tokens.SEP)) else prompt.rfind(before)
    ids = z.letters_NW[n, : len(text)] + tokens.FIRST_LETTER
    tokens_NL[n, at : at + len(text)] = ids
    answer = expected.letters_NW[n, : expected.length_N[n]] + tokens.FIRST_LETTER
    tokens_NL[n, start:] = tokens.PAD
    answer = np.append(answer, tokens.EOS)[: length - start]
    tokens_NL[n, start : start + len(answer)] = answer
  return Shown(tokens_NL, shown.start_N, asked._replace(z=z, expected=expected))


def take(shown: Shown, index) -> Shown:
  """The examples at an index."""
  z, expected, x, y = shown.asked
  asked = mistakes.Asked(z[index], expected[index])
  if x is not None and y is not None:
    asked = asked._replace(x=x[index], y=y[index])
  return Shown(shown.tokens_NL[index], shown.start_N[index], asked)


def first(shown: Shown, count: int) -> Shown:
  """At most the first `count` examples."""
  return take(shown, np.arange(min(count, len(shown.start_N))))


def answers(tokens_NL, start_N) -> np.ndarray:
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
