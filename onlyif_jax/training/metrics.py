"""Metrics as (sum, count) pairs, from verdicts on single examples."""

import dataclasses
from collections.abc import Iterator

import numpy as np


@dataclasses.dataclass(frozen=True)
class Tally:
  """A metric as a sum over `count` units, with its standard error."""

  split: str
  slice: str
  metric: str
  sum: float
  count: int
  rule_se: float | None  # of the value, with examples clustered by rule

  @property
  def value(self) -> float | None:
    """sum / count, or None if nothing was counted."""
    return self.sum / self.count if self.count else None


@dataclasses.dataclass(frozen=True)
class Verdicts:
  """Results of n evaluated examples; all arrays are [n].

  sums[metric], counts[metric]: per example; a metric is the ratio of their totals.
  rule: the example's rule, its cluster in standard errors. keep: False for examples
  that do not exist or occur in training.
  """

  sums: dict[str, np.ndarray]
  counts: dict[str, np.ndarray]
  slices: dict[str, np.ndarray]
  rule: np.ndarray
  keep: np.ndarray

  def tally(self, split: str, name: str, where=None) -> Iterator[Tally]:
    """The totals of every metric over the kept examples where the mask holds."""
    selected = self.keep if where is None else self.keep & where
    for metric in self.sums:
      sums, counts = self.sums[metric][selected], self.counts[metric][selected]
      total = sums.sum(dtype=np.float64)
      is_integer = np.issubdtype(sums.dtype, np.integer)
      yield Tally(
        split,
        name,
        metric,
        int(total) if is_integer else float(total),
        int(counts.sum(dtype=np.int64)),
        clustered_se(sums, counts, self.rule[selected]),
      )

  def sliced(self, split: str, names: tuple[str, ...]) -> Iterator[Tally]:
    """The tallies of each value of each named slice with more than one value."""
    for name in names:
      values = np.unique(self.slices[name][self.keep])
      if len(values) < 2:
        continue
      for value in values:
        yield from self.tally(split, f'{name}={value}', self.slices[name] == value)


def clustered_se(sums, counts, cluster) -> float | None:
  """The cluster-robust standard error of sum/count; None for fewer than two clusters."""
  total = counts.sum(dtype=np.float64)
  ids, cluster_index = np.unique(cluster, return_inverse=True)
  if total == 0 or len(ids) < 2:
    return None
  residual = sums - counts * (sums.sum(dtype=np.float64) / total)
  per_cluster = np.bincount(cluster_index, weights=residual, minlength=len(ids))
  scale = len(ids) / (len(ids) - 1)
  return float(np.sqrt(scale * (per_cluster**2).sum()) / total)
