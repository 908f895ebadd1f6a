"""Batch rows of different lengths into few shapes, so that few programs compile."""

from collections.abc import Iterator, Sequence

import numpy as np

SHORTEST = 16  # the smallest bucket


def bucket(n: int) -> int:
  """The smallest of 16, 24, 32, 48, 64, 96, ... that is at least n."""
  size = SHORTEST
  while size < n:
    size += size // 2 if size & (size - 1) == 0 else size // 3
  return size


def groups(lengths: Sequence[int], batch_size: int) -> Iterator[np.ndarray]:
  """Indices of the rows of each batch, longest first, so that memory runs out early."""
  order = np.argsort(-np.asarray(lengths, int), kind='stable')
  for start in range(0, len(order), batch_size):
    yield order[start : start + batch_size]


def height(rows: int, batch_size: int) -> int:
  """The rows of each batch of a call: batch_size, or fewer if a power of 2 suffices."""
  return min(batch_size, 1 << (rows - 1).bit_length())


def pad(rows: Sequence[Sequence[int]], shape, *, left: bool) -> np.ndarray:
  """The rows as int32 [B, L], padded with 0 on one side and with rows of 0."""
  padded_BL = np.zeros(shape, np.int32)
  for n, row in enumerate(rows):
    columns = slice(shape[1] - len(row), None) if left else slice(len(row))
    padded_BL[n, columns] = row
  return padded_BL
