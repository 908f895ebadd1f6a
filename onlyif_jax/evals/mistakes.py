"""What is wrong with an output: every output falls into exactly one class.

The classes are tried in the order of `Mistake` and the first that fits wins; the last
takes the rest. All is numpy on the host, vectorised over the examples N. In rewriting,
z is the input, x a substring of it, and y its replacement.
"""

import dataclasses
import enum
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from onlyif_jax.tasks import tokens

FAR = np.int16(2**14)  # the distance of strings of different lengths
PAIRS = 2**22  # (example, training rule) pairs compared at once


class Mistake(enum.IntEnum):
  """The classes, in the order they are tried."""

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
  """Where x occurs in each input, and what replaces it.

  found_N: x occurs; place_N: its leftmost place; hits_NZ: all places. literal_N: the
  expected output is z with the leftmost x replaced (or z itself), so the classes about
  places apply. w: what is inserted (y as stated where x does not occur).
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
  letters_NW[_inside(letters_NW, length_N)] = [x for row in rows for x in row]
  return Strings(letters_NW, length_N)


def from_padded(letters_NW, length_N) -> Strings:
  """Letters with any padding beyond their lengths -> Strings."""
  letters_NW, length_N = np.asarray(letters_NW, np.int32), np.asarray(length_N)
  inside_NW = _inside(letters_NW, length_N)
  return Strings(np.where(inside_NW, letters_NW, -1), length_N.astype(np.int32))


def read(output_NO) -> tuple[Strings, np.ndarray]:
  """Generated ids (after the prompt) -> (letters before the end token, has an end).

  Tokens that are no letters become negative.
  """
  output_NO = np.asarray(output_NO)
  is_end_NO = output_NO == tokens.EOS
  length_N = np.where(is_end_NO.any(1), is_end_NO.argmax(1), output_NO.shape[1])
  return from_padded(output_NO - tokens.FIRST_LETTER, length_N), is_end_NO.any(1)


def classify(
  asked: Asked, output: Strings, ended_N, *, noops: bool, trained: Trained | None
) -> np.ndarray:
  """The Mistake of each output, as integers [N].

  output, ended_N: as `read` returns them; noops: whether the task has inputs without x.
  Tasks without x and y, and examples whose expected output is not z with its leftmost x
  replaced, only get RIGHT, MALFORMED, COPIED, FALSE_NO_OP, LENGTH and WRONG_LETTERS.
  """
  tests = {Mistake.RIGHT: ended_N & equal(output, asked.expected)}
  # In some tasks right answers also have tokens other than letters.
  foreign_N = _has_other_tokens(output) & ~_has_other_tokens(asked.expected)
  tests[Mistake.MALFORMED] = ~ended_N | foreign_N
  unchanged = Mistake.FALSE_NO_OP if noops else Mistake.COPIED
  tests[unchanged] = equal(output, asked.z)
  tests[Mistake.LENGTH] = output.length_N != asked.expected.length_N
  if asked.x is not None:
    site = locate(asked)
    decided_N = tests[Mistake.RIGHT] | tests[Mistake.MALFORMED] | tests[unchanged]
    tests |= _edits(asked, site, output, site.literal_N & ~decided_N, trained)
  mistakes = sorted(tests)
  return np.select(
    [tests[m] for m in mistakes], [int(m) for m in mistakes], int(Mistake.WRONG_LETTERS)
  )


def _edits(asked: Asked, site: Site, output: Strings, candidate_N, trained):
  """The tests of the classes about places, for the examples that are still open."""
  z, x, w = asked.z, asked.x, site.w
  assert x is not None
  z_len_N, found_N, place_N = z.length_N, site.found_N, site.place_N
  rest_len_N = z_len_N - x.length_N  # of z without x
  width = z.letters_NW.shape[1] + max(w.letters_NW.shape[1], output.letters_NW.shape[1])
  output_NW = _widen(output, width)
  right_len_N = output.length_N == asked.expected.length_N

  # w in place of |x| letters, at any place of z.
  at_Z = np.arange(z.letters_NW.shape[1])
  put_NZW = splice(z, at_Z[None].repeat(len(z_len_N), 0), x.length_N, w, width)
  matches_NZ = (put_NZW == output_NW[:, None]).all(-1)
  fits_NZ = at_Z[None] <= rest_len_N[:, None]
  later_NZ = site.hits_NZ & (at_Z[None] != place_N[:, None])

  # The letters around x are kept, whatever the output has between them.
  inserted = substring(output, place_N, output.length_N - rest_len_N)
  rebuilt_NW = splice(z, place_N[:, None], x.length_N, inserted, width)[:, 0]
  kept_N = (rebuilt_NW == output_NW).all(-1)
  kept_N &= found_N & (output.length_N >= rest_len_N)
  training_N, nearest_N = matches_training(x, inserted, candidate_N & kept_N, trained)

  # x may still stand at its place, counted from the front or from the end.
  place_from_end_N = place_N + output.length_N - z_len_N
  x_stands_N = equal(substring(output, place_N, x.length_N), x)
  x_stands_N |= equal(substring(output, place_from_end_N, x.length_N), x)
  in_place_N = found_N & equal(substring(output, place_N, w.length_N), w)
  tests = {
    Mistake.FALSE_OP: ~found_N & (matches_NZ & fits_NZ).any(1),
    Mistake.LATER_OCCURRENCE: found_N & (matches_NZ & later_NZ).any(1),
    Mistake.TRAINING_Y: training_N,
    Mistake.NEAREST_Y: nearest_N,
    Mistake.WRONG_Y: kept_N & right_len_N,
    Mistake.EXTRA_EDIT: in_place_N & right_len_N & ((w.length_N > 0) | ~x_stands_N),
    Mistake.EDIT_ELSEWHERE: (right_len_N | (output.length_N == z_len_N))
    & (x_stands_N | ~found_N),
  }
  return {mistake: candidate_N & test for mistake, test in tests.items()}


def locate(asked: Asked) -> Site:
  """Finds x in the inputs, and what the expected outputs insert."""
  z, x, y, expected = asked.z, asked.x, asked.y, asked.expected
  assert x is not None
  assert y is not None
  n, width_z = z.letters_NW.shape
  hits_NZ = np.ones((n, width_z), bool) & (x.length_N[:, None] > 0)
  z_wide = _widen(z, width_z + x.letters_NW.shape[1])
  for p in range(x.letters_NW.shape[1]):
    letter_N1 = x.letters_NW[:, p : p + 1]
    hits_NZ &= (z_wide[:, p : p + width_z] == letter_N1) | (letter_N1 < 0)
  found_N, place_N = np.any(hits_NZ, axis=1), np.argmax(hits_NZ, axis=1)
  inserted_len_N = expected.length_N - z.length_N + x.length_N
  inserted = substring(expected, place_N, inserted_len_N)
  width = max(expected.letters_NW.shape[1], y.letters_NW.shape[1])
  w = Strings(
    np.where(found_N[:, None], _widen(inserted, width), _widen(y, width)),
    np.where(found_N, inserted.length_N, y.length_N),
  )
  width += width_z
  spliced_NW = splice(z, place_N[:, None], x.length_N, w, width)[:, 0]
  replaced_N = np.all(_widen(expected, width) == spliced_NW, axis=1)
  replaced_N &= inserted_len_N >= 0
  literal_N = np.where(found_N, replaced_N, equal(expected, z))
  return Site(found_N, place_N, hits_NZ, literal_N, w)


def matches_training(
  x: Strings, inserted: Strings, candidate_N, trained: Trained | None
):
  """Whether training inserted this string for this x, or for the nearest other x.

  The distance is the number of differing letters, between x of one length only; of
  several nearest x any counts. Both are False outside candidate_N.
  """
  same_x_N, nearest_N = np.zeros((2, len(candidate_N)), bool)
  if trained is None or not len(trained.x.length_N):
    return same_x_N, nearest_N
  rows_C = np.flatnonzero(candidate_N)
  chunk = max(1, PAIRS // len(trained.x.length_N))
  for start in range(0, len(rows_C), chunk):
    rows = rows_C[start : start + chunk]
    equal_CI = distances(inserted[rows], trained.y) == 0
    any_y_C = equal_CI.any(1)  # few outputs do, so the rest is cheap
    rows, equal_CI = rows[any_y_C], equal_CI[any_y_C]
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
  for p in range(width):  # strings of equal length end within the narrower width
    out_CI += a.letters_NW[:, p][:, None] != b.letters_NW[:, p][None]
  return np.where(a.length_N[:, None] == b.length_N[None], out_CI, FAR)


def splice(z: Strings, place_NK, cut_N, v: Strings, width: int) -> np.ndarray:
  """z with cut_N letters from each place replaced by v: letters [N, K, width]."""
  at_NKW = np.arange(width)[None, None] - place_NK[..., None]
  length_N11 = v.length_N[:, None, None]
  shift_NKW = np.where(at_NKW < 0, 0, length_N11 - np.asarray(cut_N)[:, None, None])
  kept_NKW = _take(z, np.arange(width)[None, None] - shift_NKW)
  inside_NKW = (at_NKW >= 0) & (at_NKW < length_N11)
  return np.where(inside_NKW, _take(v, at_NKW), kept_NKW)


def substring(a: Strings, start_N, length_N) -> Strings:
  """The substring of each string from a start, cut off at the string's end.

  A start before the string or a negative length gives an empty string of length -1,
  which equals no other.
  """
  t = np.arange(a.letters_NW.shape[1])
  letters = _take(a, (start_N[:, None] + t[None])[:, None])[:, 0]
  length_N = np.minimum(length_N, a.length_N - start_N)
  length_N = np.where(start_N < 0, -1, np.maximum(length_N, -1))
  return from_padded(letters, length_N)


def equal(a: Strings, b: Strings) -> np.ndarray:
  """Row by row equality."""
  width = max(a.letters_NW.shape[1], b.letters_NW.shape[1])
  equal_N = (_widen(a, width) == _widen(b, width)).all(1)
  return equal_N & (a.length_N == b.length_N)


def _has_other_tokens(a: Strings) -> np.ndarray:
  return ((a.letters_NW < 0) & _inside(a.letters_NW, a.length_N)).any(1)


def _inside(letters_NW, length_N):
  """Which letters lie within the lengths."""
  return np.arange(letters_NW.shape[1])[None] < length_N[:, None]


def _take(a: Strings, at_NKT) -> np.ndarray:
  """Letters at the places, -1 outside."""
  last = a.letters_NW.shape[1] - 1
  taken = np.take_along_axis(a.letters_NW[:, None], np.clip(at_NKT, 0, last), 2)
  return np.where((at_NKT >= 0) & (at_NKT <= last), taken, -1)


def _widen(a: Strings, width: int) -> np.ndarray:
  extra = max(0, width - a.letters_NW.shape[1])
  return np.pad(a.letters_NW, ((0, 0), (0, extra)), constant_values=-1)
