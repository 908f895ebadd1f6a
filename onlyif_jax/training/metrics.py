"""Verdicts per example -> rows of (sum, count), which stay apart to the end."""

import dataclasses
from collections.abc import Iterator

import numpy as np


@dataclasses.dataclass(frozen=True)
class Tally:
  """A metric as a sum over `count` units, and its error clustered by rule."""

  split: str
  slice: str
  metric: str
  sum: float
  count: int
  rule_se: float | None

  @property
  def value(self) -> float | None:
    """sum / count, None where nothing was counted."""
    return self.sum / self.count if self.count else None


@dataclasses.dataclass(frozen=True)
class Verdicts:
  """What is known of n evaluated examples; every field is a numpy array.

  sums[metric], counts[metric]: per example, so that a ratio of totals is exact.
  rule: the example's rule, which clusters it. keep: false for examples that do
  not exist or were met in training.
  """

  sums: dict[str, np.ndarray]
  counts: dict[str, np.ndarray]
  slices: dict[str, np.ndarray]
  rule: np.ndarray
  keep: np.ndarray

  def tally(self, split: str, name: str, where=None) -> Iterator[Tally]:
    """The totals of every metric over the kept examples where `where` holds."""
    chosen = self.keep if where is None else self.keep & where
    for metric in self.sums:
      sums, counts = self.sums[metric][chosen], self.counts[metric][chosen]
      total, count = sums.sum(dtype=np.float64), int(counts.sum(dtype=np.int64))
      whole = np.issubdtype(sums.dtype, np.integer)
      yield Tally(
        split,
        name,
        metric,
        int(total) if whole else float(total),
        count,
        clustered_se(sums, counts, self.rule[chosen]),
      )

  def sliced(self, split: str, names: tuple[str, ...]) -> Iterator[Tally]:
    """Tallies for each value of each named slice that varies."""
    for name in names:
      values = np.unique(self.slices[name][self.keep])
      if len(values) < 2:
        continue
      for value in values:
        where = self.slices[name] == value
        yield from self.tally(split, f'{name}={value}', where)


def clustered_se(sums, counts, cluster) -> float | None:
  """Standard error of sum/count when examples of one cluster may go together."""
  total = counts.sum(dtype=np.float64)
  ids, which = np.unique(cluster, return_inverse=True)
  if total == 0 or len(ids) < 2:
    return None
  residual = sums - counts * (sums.sum(dtype=np.float64) / total)
  per_cluster = np.bincount(which, weights=residual, minlength=len(ids))
  scale = len(ids) / (len(ids) - 1)
  return float(np.sqrt(scale * (per_cluster**2).sum()) / total)
