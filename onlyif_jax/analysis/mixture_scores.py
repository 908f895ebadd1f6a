"""Benchmark scores of a run's mixtures: means, and differences with intervals.

A measure is (benchmark, suite). The interval of a difference of two rows comes from
resampling problems, the same ones for both; if problems are unknown, from the two
scores' errors as if independent. If rows have several seeds, it is widened by the
spread of single runs, pooled over the rows.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from onlyif_jax.analysis import paired
from onlyif_jax.analysis.benchmark_scores import Score

Measure = tuple[str, str]
NORMAL = 1.96
BEYOND = 1.001  # an interval that reaches this multiple of a difference holds 0


class Gap(NamedTuple):
  """How much a row scores above another, in shares, with its 95 % interval."""

  value: float
  low: float | None  # None if the noise is unknown
  high: float | None

  @property
  def within_noise(self) -> bool:
    """Whether 0 is inside the interval."""
    return self.low is not None and self.high is not None and self.low <= 0 <= self.high

  def text(self) -> str:
    """'+2.9 [-1.2, +7.0]' points of per cent."""
    if self.low is None or self.high is None:
      return f'{100 * self.value:+.1f}'
    ends = f'[{100 * self.low:+.1f}, {100 * self.high:+.1f}]'
    return f'{100 * self.value:+.1f} {ends}'


@dataclasses.dataclass(frozen=True)
class SeedTest:
  """McNemar's exact test of one seed of a row against the same seed of another.

  only_a, only_b: problems that only one of them solves. holm: the p-value, corrected
  over all rows and seeds that were tested together.
  """

  seed: str
  only_a: int
  only_b: int
  holm: float


@dataclasses.dataclass(frozen=True)
class Scores:
  """Scores of rows under one version of every benchmark."""

  scores: tuple[Score, ...]
  label: str = ''  # names the versions if there are several

  @functools.cached_property
  def measures(self) -> tuple[Measure, ...]:
    """Every (benchmark, suite) in the order of the scores."""
    return tuple(dict.fromkeys((s.benchmark, s.suite) for s in self.scores))

  @functools.cached_property
  def rows(self) -> tuple[str, ...]:
    """The rows that have scores, without their seeds."""
    return tuple(dict.fromkeys(s.row for s in self.scores))

  @functools.cached_property
  def _by_row(self) -> dict[tuple[str, Measure], dict[str, Score]]:
    out: dict[tuple[str, Measure], dict[str, Score]] = {}
    for s in self.scores:
      out.setdefault((s.row, (s.benchmark, s.suite)), {})[s.seed] = s
    return out

  def of(self, row: str, measure: Measure) -> dict[str, Score]:
    """Seed -> score."""
    return self._by_row.get((row, measure), {})

  def by_seed(self, row: str, measures: Sequence[Measure]) -> dict[str, float]:
    """Seed -> mean of the measures, for seeds that have all of them."""
    scores = [self.of(row, m) for m in measures]
    seeds = [s for s in scores[0] if all(s in m for m in scores)] if scores else []
    return {s: float(np.mean([m[s].value for m in scores])) for s in seeds}

  def mean(self, row: str, measures: Sequence[Measure]) -> float | None:
    """The mean over seeds and measures; None if one is missing."""
    values = self.by_seed(row, measures)
    return float(np.mean(list(values.values()))) if values else None

  def error(self, row: str, seed: str, measures: Sequence[Measure]) -> float:
    """Standard error over problems of a model's mean; nan if unknown."""
    parts = []
    for suites in _benchmarks(measures):
      scores = [self.of(row, m)[seed] for m in suites]
      solved = [list(s.problems.values()) for s in scores if len(s.problems) > 1]
      if len(solved) == len(scores) and len({len(values) for values in solved}) == 1:
        shares = np.mean(solved, axis=0)
        error = float(np.std(shares, ddof=1)) / math.sqrt(len(shares))
      else:
        # A benchmark's suites have the same problems: their errors do not average out.
        error = float(np.mean([s.error for s in scores]))
      parts.append(error * len(suites) / len(measures))
    return math.hypot(*parts)

  def size(self, row: str, measures: Sequence[Measure]) -> int:
    """Effective number of problems: one benchmark of this size varies as the mean."""
    inverse = 0.0
    for suites in _benchmarks(measures):
      scores = [s for m in suites for s in self.of(row, m).values()]
      inverse += (len(suites) / len(measures)) ** 2 / min(s.count for s in scores)
    return round(1 / inverse)

  def freedom(self, measures: Sequence[Measure]) -> int:
    """Degrees of freedom of the spread of single runs; 0 if no row has two seeds."""
    sizes = [len(self.by_seed(row, measures)) for row in self.rows]
    return sum(n - 1 for n in sizes if n > 1)

  def gap(self, a: str, b: str, measures: Sequence[Measure]) -> Gap | None:
    """Row b less row a; None if one of them lacks a score."""
    mean_a, mean_b = self.mean(a, measures), self.mean(b, measures)
    if mean_a is None or mean_b is None:
      return None
    value = mean_b - mean_a
    reach = self._over_problems(a, b, measures) or self._by_errors(a, b, measures)
    if reach is None:
      return Gap(value, None, None)
    runs = self._over_runs(a, b, measures)
    below, above = (math.hypot(side, runs) for side in reach)
    return Gap(value, value - below, value + above)

  def tests(
    self, pairs: Sequence[tuple[str, str]], measure: Measure
  ) -> dict[tuple[str, str], tuple[SeedTest, ...]]:
    """Pair of rows -> the tests of its shared seeds, with Holm's correction over all.

    Seeds whose problems are not all simply right or wrong have no test.
    """
    results = []
    for pair in dict.fromkeys(pairs):
      a, b = (self.of(row, measure) for row in pair)
      for seed in (s for s in a if s in b):
        problems = a[seed].problems, b[seed].problems
        if all(len(p) > 1 and set(p.values()) <= {0.0, 1.0} for p in problems):
          results.append((pair, seed, paired.mcnemar(*paired.aligned(*problems))))
    out: dict[tuple[str, str], tuple[SeedTest, ...]] = {}
    corrected = paired.holm([test.p for *_, test in results])
    for (pair, seed, test), p in zip(results, corrected, strict=True):
      seed_test = SeedTest(seed, test.only_a, test.only_b, p)
      out[pair] = (*out.get(pair, ()), seed_test)
    return out

  def problems(self, row: str, measure: Measure) -> dict[str, float] | None:
    """Problem -> share of right samples, mean over seeds; None if unknown."""
    seeds = [s.problems for s in self.of(row, measure).values()]
    if not seeds or not all(seeds):
      return None
    return {p: float(np.mean([seed[p] for seed in seeds])) for p in seeds[0]}

  def _over_problems(
    self, a: str, b: str, measures: Sequence[Measure]
  ) -> tuple[float, float] | None:
    """How far the interval reaches below and above, by resampling problems.

    It holds 0 if the exact test does not distinguish wins from losses.
    """
    gaps, weights = [], []
    for suites in _benchmarks(measures):
      sides = [(self.problems(a, m), self.problems(b, m)) for m in suites]
      known = [(x, y) for x, y in sides if x is not None and y is not None]
      if len(known) < len(sides):
        return None
      pairs = [paired.aligned(x, y) for x, y in known]
      if any(len(y) != len(pairs[0][0]) or len(y) < 2 for _, y in pairs):
        return None
      gaps.append(np.mean([y - x for x, y in pairs], axis=0))
      weights.append(len(suites) / len(measures))
    gap = paired.stratified(gaps, weights)
    below, above = gap.value - gap.low, gap.high - gap.value
    # If the few problems that differ all favour one row, so does every resample.
    gaps_P = np.concatenate(gaps)
    if paired.mcnemar(gaps_P < 0, gaps_P > 0).p > 1 - paired.LEVEL:
      below, above = max(below, BEYOND * gap.value), max(above, -BEYOND * gap.value)
    return below, above

  def _by_errors(
    self, a: str, b: str, measures: Sequence[Measure]
  ) -> tuple[float, float] | None:
    """The same from standard errors, as if rows and benchmarks were independent."""
    errors = [
      float(np.mean([s.error for s in self.of(row, m).values()]))
      for row in (a, b)
      for m in measures
    ]
    half = NORMAL * math.hypot(*errors) / len(measures)
    return (half, half) if math.isfinite(half) else None

  def _over_runs(self, a: str, b: str, measures: Sequence[Measure]) -> float:
    """Half of an interval for the spread of single runs; 0 if no row has two."""
    groups = [list(self.by_seed(row, measures).values()) for row in self.rows]
    freedom = self.freedom(measures)
    if not freedom:
      return 0.0
    from scipy import special  # slow to load

    squares = sum(float(np.var(g)) * len(g) for g in groups if len(g) > 1)
    counts = [len(self.by_seed(row, measures)) for row in (a, b)]
    spread = math.sqrt(squares / freedom * sum(1 / n for n in counts))
    return float(special.stdtrit(freedom, 0.975)) * spread


def tests_text(tests: Sequence[SeedTest]) -> str:
  """'5 : 2 (0.3)' per seed: problems of b alone, of a alone, and Holm's p."""
  many = len(tests) > 1
  return '; '.join(
    f'{f"seed {t.seed}: " if many else ""}{t.only_b} : {t.only_a} ({t.holm:.2g})'
    for t in tests
  )


def views(scores: Sequence[Score]) -> list[Scores]:
  """The scores under every choice of versions of benchmarks that have several."""
  if not scores:
    return []
  versions: dict[str, set[str]] = {}
  for s in scores:
    versions.setdefault(s.benchmark, set()).add(s.version)
  several = {name: sorted(v) for name, v in versions.items() if len(v) > 1}
  out = []
  for choice in itertools.product(*several.values()):
    chosen = dict(zip(several, choice, strict=True))
    kept = (s for s in scores if chosen.get(s.benchmark, s.version) == s.version)
    out.append(Scores(tuple(kept), ', '.join(choice)))
  return out


def _benchmarks(measures: Sequence[Measure]) -> list[list[Measure]]:
  """The measures grouped by benchmark, sorted by name."""
  groups = itertools.groupby(sorted(measures), key=lambda m: m[0])
  return [list(suites) for _, suites in groups]
