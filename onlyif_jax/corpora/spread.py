"""Measures of the diversity of a mixture: of its sources, and of its rows as vectors.

Vectors are rows of unit length (zero for a text without words), so cosine similarity is
a dot product. Effective numbers are 1 for rows that are all the same.
"""

from collections.abc import Iterable

import numpy as np

CHUNK = 1_024  # prompts at a time in a search for neighbours
ROUNDS = 50  # of k-means at most


def effective(counts: Iterable[float]) -> float:
  """exp(entropy) of shares in proportion to counts: the effective number of parts.

  >>> effective([7, 7, 7, 0])
  3.0
  """
  counts_S = np.array([c for c in counts if c > 0], np.float64)
  if not len(counts_S):
    return 0.0
  shares_S = counts_S / counts_S.sum()
  return float(np.round(np.exp(-np.sum(shares_S * np.log(shares_S))), 12))


def vendi(rows_ND: np.ndarray) -> float:
  """Vendi score (2210.02410): exp(entropy) of the eigenvalues of the kernel X X^T / n.

  They are those of X^T X / n, D x D, so the number of rows hardly affects the cost. The
  score is at most min(N, D), so compare samples of the same size.
  """
  rows_ND = np.asarray(rows_ND, np.float64)
  values_D = np.linalg.eigvalsh(rows_ND.T @ rows_ND)
  return effective(np.where(values_D > 1e-12 * max(len(rows_ND), 1), values_D, 0.0))


def nearest(queries_QD: np.ndarray, rows_ND: np.ndarray, k: int = 1) -> np.ndarray:
  """Cosine distance of every query to its k-th nearest row (float64 [Q])."""
  if not 1 <= k <= len(rows_ND):
    raise ValueError(f'no neighbour {k} among {len(rows_ND)} rows')
  queries_QD = np.asarray(queries_QD, np.float64)
  rows_DN = np.asarray(rows_ND, np.float64).T
  kth = []
  for start in range(0, len(queries_QD), CHUNK):
    distances_CN = 1 - queries_QD[start : start + CHUNK] @ rows_DN
    kth.append(np.partition(distances_CN, k - 1, axis=1)[:, k - 1])
  return np.maximum(np.concatenate(kth or [np.zeros(0)]), 0.0)


def radii(tests_QD: np.ndarray, k: int) -> np.ndarray:
  """Distance of every test prompt to its k-th nearest other one (float64 [Q]).

  With fewer than k others, to the farthest of them. Raises ValueError for one prompt.
  """
  if len(tests_QD) < 2:
    raise ValueError('one test prompt has no neighbour')
  return nearest(tests_QD, tests_QD, min(k + 1, len(tests_QD)))  # itself is the first


def cover(distances_Q: np.ndarray, radius: float | np.ndarray) -> float:
  """Share of test prompts whose nearest row is within a radius, common or per prompt."""
  return float(np.mean(distances_Q <= np.asarray(radius) + 1e-9))


def k_means(
  rows_ND: np.ndarray, clusters: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
  """Groups of rows: the cluster of each (int64 [N]) and the centres (float64 [C, D]).

  k-means++ from a fixed seed, then Lloyd's rounds. There are no more clusters than
  different rows; ties go to the lower cluster.
  """
  rows_ND = np.asarray(rows_ND, np.float64)
  centres_CD = _seeds(rows_ND, clusters, np.random.default_rng(seed))
  cluster_N = assign(rows_ND, centres_CD)
  for _ in range(ROUNDS):
    sums_CD = np.zeros_like(centres_CD)
    np.add.at(sums_CD, cluster_N, rows_ND)
    sizes_C = np.bincount(cluster_N, minlength=len(centres_CD))[:, None]
    # A cluster that lost its rows keeps its place.
    centres_CD = np.where(sizes_C > 0, sums_CD / np.maximum(sizes_C, 1), centres_CD)
    moved_N = assign(rows_ND, centres_CD)
    if np.array_equal(moved_N, cluster_N):
      break
    cluster_N = moved_N
  return cluster_N, centres_CD


def assign(rows_ND: np.ndarray, centres_CD: np.ndarray) -> np.ndarray:
  """The nearest centre of every row, the lower of equals (int64 [N])."""
  halves_C = np.sum(centres_CD**2, axis=1) / 2
  rows_ND = np.asarray(rows_ND, np.float64)
  return np.argmin(np.round(halves_C[None, :] - rows_ND @ centres_CD.T, 12), axis=1)


def cluster_entropy(cluster_N: np.ndarray) -> float:
  """exp(entropy) of rows over clusters: the effective number of clusters."""
  return effective(np.bincount(cluster_N).tolist() if len(cluster_N) else [])


def _seeds(rows_ND: np.ndarray, clusters: int, rng: np.random.Generator) -> np.ndarray:
  """k-means++: each row drawn in proportion to its squared distance from the others."""
  picked = [int(rng.integers(len(rows_ND)))]
  squares_N = np.full(len(rows_ND), np.inf)
  while True:
    last_N = np.sum((rows_ND - rows_ND[picked[-1]][None, :]) ** 2, axis=1)
    squares_N = np.minimum(squares_N, np.where(last_N > 1e-12, last_N, 0.0))
    total = squares_N.sum()
    if len(picked) == clusters or total == 0:
      return rows_ND[picked]
    drawn = rng.random() * total
    row = int(np.searchsorted(np.cumsum(squares_N), drawn, side='right'))
    picked.append(min(row, int(np.flatnonzero(squares_N)[-1])))
