"""Rows of different lengths as few batches of few shapes, so few programs compile."""

from collections.abc import Iterator, Sequence

import numpy as np

SHORTEST = 16


def bucket(n: int) -> int:
  """The next length of 16, 24, 32, 48, 64, 96, ...: at most half of it is filled up."""
  size = SHORTEST
  while size < n:
    size += size // 2 if size & (size - 1) == 0 else size // 3
  return size


def groups(lengths: Sequence[int], batch_size: int) -> Iterator[np.ndarray]:
  """Indices of the rows of each batch, longest first: what is too large fails early."""
  order = np.argsort(-np.asarray(lengths, int), kind='stable')
  for start in range(0, len(order), batch_size):
    yield order[start : start + batch_size]


def height(rows: int, batch_size: int) -> int:
  """Rows of every batch of one call: batch_size, or a power of 2 that is enough."""
  return min(batch_size, 1 << (rows - 1).bit_length())


def pad(rows: Sequence[Sequence[int]], shape, *, left: bool) -> np.ndarray:
  """int32 [B, L] with 0 beside each row, and in the rows that are not there."""
  out_BL = np.zeros(shape, np.int32)
  for n, row in enumerate(rows):
    where = slice(shape[1] - len(row), None) if left else slice(len(row))
    out_BL[n, where] = row
  return out_BL
