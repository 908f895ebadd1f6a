"""What is wrong with an output: every output falls into exactly one class.

The classes are tried in the order of `Mistake` and the first that fits wins, so they
exclude each other; the last takes what is left, so none is missing. All is numpy on
the host, vectorised over the examples N. Rewriting reads as: z is the input, x stands
in it at a place, y is to stand there instead.
"""

import dataclasses
import enum
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from onlyif_jax.tasks import tokens

FAR = np.int16(2**14)  # the distance of strings of different lengths
PAIRS = 2**22  # (example, training rule) pairs that are compared at once


class Mistake(enum.IntEnum):
  """The classes, in the order in which they are tried."""

  RIGHT = 0
  MALFORMED = 1
  COPIED = 2
  FALSE_NO_OP = 3
  FALSE_OP = 4
  LATER_OCCURRENCE = 5
  TRAINING_Y = 6
  NEAREST_Y = 7
  WRONG_Y = 8
  EXTRA_EDIT = 9
  EDIT_ELSEWHERE = 10
  LENGTH = 11
  WRONG_LETTERS = 12


MEANING = {
  Mistake.RIGHT: 'as expected, end token included',
  Mistake.MALFORMED: 'no end token, or others than letters where letters are asked',
  Mistake.COPIED: 'the input unchanged, in a task in which every input is to change',
  Mistake.FALSE_NO_OP: 'the input unchanged, though x occurs, in a task with no-ops',
  Mistake.FALSE_OP: 'y stands in place of |x| letters, though x does not occur',
  Mistake.LATER_OCCURRENCE: 'y in place of a later x, not of the leftmost',
  Mistake.TRAINING_Y: 'right place, y of a training rule with this x',
  Mistake.NEAREST_Y: 'right place, y of the training rule with the nearest other x',
  Mistake.WRONG_Y: 'right place, another y of the right length',
  Mistake.EXTRA_EDIT: 'y in its place, but letters around it changed',
  Mistake.EDIT_ELSEWHERE: 'x (if it occurs) still stands, but other letters changed',
  Mistake.LENGTH: 'too long or too short, and none of the above',
  Mistake.WRONG_LETTERS: 'right length, but neither y nor the letters around it right',
}


@dataclasses.dataclass(frozen=True)
class Strings:
  """N strings of letters 0..A-1; letters_NW is -1 beyond the lengths."""

  letters_NW: np.ndarray
  length_N: np.ndarray

  def __getitem__(self, rows) -> 'Strings':
    """The strings at an index array, mask or slice."""
    return Strings(self.letters_NW[rows], self.length_N[rows])


class Asked(NamedTuple):
  """What was asked of N examples; x and y are None for tasks without them."""

  z: Strings
  expected: Strings
  x: Strings | None = None
  y: Strings | None = None


class Trained(NamedTuple):
  """The training rules' x and what they insert."""

  x: Strings
  y: Strings


class Site(NamedTuple):
  """Where each example's x stands, and what is to stand there.

  found_N: x occurs; place_N: the leftmost; hits_NZ: all. literal_N: the expected
  output is z with the leftmost x replaced (or z itself), so that classes about
  places apply; w: what is inserted (y as stated where x does not occur).
  """

  found_N: np.ndarray
  place_N: np.ndarray
  hits_NZ: np.ndarray
  literal_N: np.ndarray
  w: Strings


def strings(rows: Iterable[Sequence[int]]) -> Strings:
  """Lists of letters -> Strings."""
  rows = list(rows)
  length_N = np.array([len(row) for row in rows], np.int32)
  letters_NW = np.full((len(rows), max([1, *length_N])), -1, np.int32)
  inside = np.arange(letters_NW.shape[1])[None] < length_N[:, None]
  letters_NW[inside] = [letter for row in rows for letter in row]
  return Strings(letters_NW, length_N)


def padded(letters_NW, length_N) -> Strings:
  """Letters with anything beyond their lengths -> Strings."""
  letters_NW, length_N = np.asarray(letters_NW, np.int32), np.asarray(length_N)
  inside = np.arange(letters_NW.shape[1])[None] < length_N[:, None]
  return Strings(np.where(inside, letters_NW, -1), length_N.astype(np.int32))


def read(output_NO) -> tuple[Strings, np.ndarray]:
  """Generated ids (after the prompt) -> (letters before the end, whether it ends).

  Tokens that are no letters become negative ones.
  """
  output_NO = np.asarray(output_NO)
  ends = output_NO == tokens.EOS
  length_N = np.where(ends.any(1), ends.argmax(1), output_NO.shape[1])
  return padded(output_NO - tokens.FIRST_LETTER, length_N), ends.any(1)


def classify(
  asked: Asked, output: Strings, ended_N, *, noops: bool, trained: Trained | None
) -> np.ndarray:
  """The Mistake of each output, as integers [N].

  output, ended_N: as from `read`; noops: whether the task has inputs without x.
  Where the expected output is not z with its leftmost x replaced, and for tasks
  without x and y, only RIGHT, MALFORMED, COPIED, FALSE_NO_OP, LENGTH and
  WRONG_LETTERS are given.
  """
  tests = {Mistake.RIGHT: ended_N & same(output, asked.expected)}
  # Some tasks' answers have other tokens too, and then their outputs may.
  odd_N = _has_other_tokens(output) & ~_has_other_tokens(asked.expected)
  tests[Mistake.MALFORMED] = ~ended_N | odd_N
  unchanged = Mistake.FALSE_NO_OP if noops else Mistake.COPIED
  tests[unchanged] = same(output, asked.z)
  tests[Mistake.LENGTH] = output.length_N != asked.expected.length_N
  if asked.x is not None:
    site = locate(asked)
    open_N = site.literal_N & ~np.logical_or.reduce(
      [tests[m] for m in (Mistake.RIGHT, Mistake.MALFORMED, unchanged)]
    )
    tests |= _edits(asked, site, output, open_N, trained)
  order = sorted(tests)
  return np.select(
    [tests[m] for m in order], [int(m) for m in order], int(Mistake.WRONG_LETTERS)
  )


def _edits(asked: Asked, site: Site, output: Strings, open_N, trained):
  """The tests of the classes about places, for the examples that are still open."""
  z, x, w = asked.z, asked.x, site.w
  assert x is not None
  n, found_N = z.length_N, site.found_N
  at_Z = np.arange(z.letters_NW.shape[1])
  width = z.letters_NW.shape[1] + max(w.letters_NW.shape[1], output.letters_NW.shape[1])
  put_NZ = (
    splice(z, at_Z[None].repeat(len(n), 0), x.length_N, w, width)
    == _widen(output, width)[:, None]
  ).all(-1)
  fits_NZ = at_Z[None] <= (n - x.length_N)[:, None]
  later_NZ = site.hits_NZ & (at_Z[None] != site.place_N[:, None])
  # What stands between the letters before x and those after it.
  v = part(output, site.place_N, output.length_N - (n - x.length_N))
  kept_N = splice(z, site.place_N[:, None], x.length_N, v, width)[:, 0]
  around_N = (kept_N == _widen(output, width)).all(-1)
  around_N &= found_N & (output.length_N >= n - x.length_N)
  of_x_N, of_nearest_N = of_training(x, v, open_N & around_N, trained)
  in_place_N = found_N & same(part(output, site.place_N, w.length_N), w)
  sized_N = output.length_N == asked.expected.length_N
  # x may stand where it stood, counted from the front or from the end.
  behind_N = site.place_N + output.length_N - n
  stands_N = same(part(output, site.place_N, x.length_N), x)
  stands_N |= same(part(output, behind_N, x.length_N), x)
  near_N = sized_N | (output.length_N == n)
  extra_N = in_place_N & sized_N & ((w.length_N > 0) | ~stands_N)
  tests = {
    Mistake.FALSE_OP: ~found_N & (put_NZ & fits_NZ).any(1),
    Mistake.LATER_OCCURRENCE: found_N & (put_NZ & later_NZ).any(1),
    Mistake.TRAINING_Y: of_x_N,
    Mistake.NEAREST_Y: of_nearest_N,
    Mistake.WRONG_Y: around_N & sized_N,
    Mistake.EXTRA_EDIT: extra_N,
    Mistake.EDIT_ELSEWHERE: near_N & (stands_N | ~found_N),
  }
  return {mistake: open_N & test for mistake, test in tests.items()}


def locate(asked: Asked) -> Site:
  """Finds x in the inputs and what is to be inserted."""
  z, x, y, expected = asked.z, asked.x, asked.y, asked.expected
  assert x is not None
  assert y is not None
  count, size = z.letters_NW.shape
  hits_NZ = np.ones((count, size), bool) & (x.length_N[:, None] > 0)
  z_wide = _widen(z, size + x.letters_NW.shape[1])
  for p in range(x.letters_NW.shape[1]):
    letter_N1 = x.letters_NW[:, p : p + 1]
    hits_NZ &= (z_wide[:, p : p + size] == letter_N1) | (letter_N1 < 0)
  found_N, place_N = np.any(hits_NZ, axis=1), np.argmax(hits_NZ, axis=1)
  length_N = expected.length_N - z.length_N + x.length_N
  inserted = part(expected, place_N, length_N)
  width = max(expected.letters_NW.shape[1], y.letters_NW.shape[1])
  w = Strings(
    np.where(found_N[:, None], _widen(inserted, width), _widen(y, width)),
    np.where(found_N, inserted.length_N, y.length_N),
  )
  width += size
  wanted = splice(z, place_N[:, None], x.length_N, w, width)[:, 0]
  replaced_N = np.all(_widen(expected, width) == wanted, axis=1) & (length_N >= 0)
  literal_N = np.where(found_N, replaced_N, same(expected, z))
  return Site(found_N, place_N, hits_NZ, literal_N, w)


def of_training(x: Strings, v: Strings, where_N, trained: Trained | None):
  """Whether v is what training inserted for this x, or for the nearest other x.

  Distance counts differing letters and compares x of one length only; among
  equally near x any will do. Both are False outside where_N.
  """
  same_x_N, nearest_N = np.zeros((2, len(where_N)), bool)
  if trained is None or not len(trained.x.length_N):
    return same_x_N, nearest_N
  rows_C = np.flatnonzero(where_N)
  step = max(1, PAIRS // len(trained.x.length_N))
  for start in range(0, len(rows_C), step):
    rows = rows_C[start : start + step]
    equal_CI = distances(v[rows], trained.y) == 0
    some = equal_CI.any(1)  # most outputs insert no y of training at all
    rows, equal_CI = rows[some], equal_CI[some]
    x_CI = distances(x[rows], trained.x)
    same_x_N[rows] = ((x_CI == 0) & equal_CI).any(1)
    other_CI = np.where(x_CI == 0, FAR, x_CI)
    least_C1 = other_CI.min(1, keepdims=True, initial=FAR)
    nearest_N[rows] = ((other_CI == least_C1) & (other_CI < FAR) & equal_CI).any(1)
  return same_x_N, nearest_N


def distances(a: Strings, b: Strings) -> np.ndarray:
  """Differing letters between strings a [C] and b [I]; FAR for unequal lengths."""
  width = min(a.letters_NW.shape[1], b.letters_NW.shape[1])
  out_CI = np.zeros((len(a.length_N), len(b.length_N)), np.int16)
  for p in range(width):  # beyond the narrower one, strings of one length have nothing
    out_CI += a.letters_NW[:, p][:, None] != b.letters_NW[:, p][None]
  return np.where(a.length_N[:, None] == b.length_N[None], out_CI, FAR)


def splice(z: Strings, place_NK, cut_N, v: Strings, width: int) -> np.ndarray:
  """z with `cut` letters from each place replaced by v: letters [N, K, width]."""
  at_NKW = np.arange(width)[None, None] - place_NK[..., None]
  length_N11 = v.length_N[:, None, None]
  back_NKW = np.where(at_NKW < 0, 0, length_N11 - np.asarray(cut_N)[:, None, None])
  kept_NKW = _take(z, np.arange(width)[None, None] - back_NKW)
  inside_NKW = (at_NKW >= 0) & (at_NKW < length_N11)
  return np.where(inside_NKW, _take(v, at_NKW), kept_NKW)


def part(a: Strings, start_N, length_N) -> Strings:
  """The piece of each string at a start; it ends where the string ends.

  A start before the string or a negative length gives the empty string, of length
  -1 so that it equals no other.
  """
  t = np.arange(a.letters_NW.shape[1])
  letters = _take(a, (start_N[:, None] + t[None])[:, None])[:, 0]
  length_N = np.minimum(length_N, a.length_N - start_N)
  length_N = np.where(start_N < 0, -1, np.maximum(length_N, -1))
  return padded(letters, length_N)


def same(a: Strings, b: Strings) -> np.ndarray:
  """Row by row equality."""
  width = max(a.letters_NW.shape[1], b.letters_NW.shape[1])
  equal_N = (_widen(a, width) == _widen(b, width)).all(1)
  return equal_N & (a.length_N == b.length_N)


def _has_other_tokens(a: Strings) -> np.ndarray:
  inside = np.arange(a.letters_NW.shape[1])[None] < a.length_N[:, None]
  return ((a.letters_NW < 0) & inside).any(1)


def _take(a: Strings, at_NKT) -> np.ndarray:
  """Letters at the given places, -1 outside."""
  last = a.letters_NW.shape[1] - 1
  taken = np.take_along_axis(a.letters_NW[:, None], np.clip(at_NKT, 0, last), 2)
  return np.where((at_NKT >= 0) & (at_NKT <= last), taken, -1)


def _widen(a: Strings, width: int) -> np.ndarray:
  extra = max(0, width - a.letters_NW.shape[1])
  return np.pad(a.letters_NW, ((0, 0), (0, extra)), constant_values=-1)
