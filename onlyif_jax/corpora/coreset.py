"""Core sets: the rows of a source that lie farthest apart, instead of random ones."""

import numpy as np

# Unit vectors are scaled by this and rounded to whole numbers: every dot product stays
# below 2**24, so float32 is exact and ties do not depend on a machine's order of sums.
SCALE = 4000


def k_centre(rows_ND: np.ndarray, count: int) -> np.ndarray:
  """Greedy k-centre: indices of `count` rows, each the farthest from those before it.

  rows_ND: unit vectors or zeros, in the order of drawing; D up to 2,000. The first row
  comes first and ties go to the lowest index, so a shorter selection is the start of a
  longer one. Distances are those of vectors rounded to 1 / SCALE. Time: count x N x D.
  """
  n = len(rows_ND)
  if not 0 <= count <= n:
    raise ValueError(f'{count} of {n} rows cannot be chosen')
  if count == 0:
    return np.zeros(0, np.int64)
  grid_ND = np.rint(np.asarray(rows_ND, np.float64) * SCALE).astype(np.float32)
  squares_N = np.sum(grid_ND.astype(np.int64) ** 2, axis=1)
  chosen = np.zeros(count, np.int64)
  nearest_N = np.full(n, np.iinfo(np.int64).max)
  for step in range(count):
    if step:
      chosen[step] = np.argmax(nearest_N)  # the lowest index of equals
    row = chosen[step]
    dots_N = (grid_ND @ grid_ND[row]).astype(np.int64)
    distances_N = squares_N + squares_N[row] - 2 * dots_N
    np.minimum(nearest_N, distances_N, out=nearest_N)
    nearest_N[row] = -1  # not chosen again; its copies, at 0, come last
  return chosen
