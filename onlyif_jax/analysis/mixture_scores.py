"""The benchmark scores of a run's mixtures: means, and differences with their noise.

A measure is (benchmark, suite). A difference of two rows is resampled over problems,
the same ones for both; where problems are not told, it has the two scores' errors as
if independent. Where rows have several seeds, the spread of single runs, pooled over
the rows, is added to it.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from onlyif_jax.analysis import paired
from onlyif_jax.analysis.benchmark_scores import Score

Measure = tuple[str, str]
NORMAL = 1.96
BEYOND = 1.001  # times a difference: an interval that reaches over 0


class Gap(NamedTuple):
  """How much a row scores above another, in shares, with its 95 % interval."""

  value: float
  low: float | None  # None where nothing tells the noise
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

  only_a, only_b: problems that one alone solves. holm: its p-value after Holm over all
  rows and seeds that were tested together.
  """

  seed: str
  only_a: int
  only_b: int
  holm: float


@dataclasses.dataclass(frozen=True)
class Scores:
  """Scores of rows under one version of every benchmark; label tells it."""

  scores: tuple[Score, ...]
  label: str = ''

  @functools.cached_property
  def measures(self) -> tuple[Measure, ...]:
    """Every (benchmark, suite), in the order of the files."""
    return tuple(dict.fromkeys((s.benchmark, s.suite) for s in self.scores))

  @functools.cached_property
  def rows(self) -> tuple[str, ...]:
    """The rows that have scores, without their seeds."""
    return tuple(dict.fromkeys(s.row for s in self.scores))

  @functools.cached_property
  def _found(self) -> dict[tuple[str, Measure], dict[str, Score]]:
    out: dict[tuple[str, Measure], dict[str, Score]] = {}
    for s in self.scores:
      out.setdefault((s.row, (s.benchmark, s.suite)), {})[s.seed] = s
    return out

  def of(self, row: str, measure: Measure) -> dict[str, Score]:
    """Seed -> score."""
    return self._found.get((row, measure), {})

  def by_seed(self, row: str, measures: Sequence[Measure]) -> dict[str, float]:
    """Seed -> mean of the measures, for seeds that have all of them."""
    found = [self.of(row, m) for m in measures]
    seeds = [s for s in found[0] if all(s in own for own in found)] if found else []
    return {s: float(np.mean([own[s].value for own in found])) for s in seeds}

  def mean(self, row: str, measures: Sequence[Measure]) -> float | None:
    """The mean over seeds and measures; None where one is missing."""
    values = self.by_seed(row, measures)
    return float(np.mean(list(values.values()))) if values else None

  def error(self, row: str, seed: str, measures: Sequence[Measure]) -> float:
    """Standard error over problems of a model's mean; nan where nothing tells it."""
    parts = []
    for _, own in _benchmarks(measures):
      found = [self.of(row, m)[seed] for m in own]
      told = [list(s.problems.values()) for s in found if len(s.problems) > 1]
      if len(told) == len(found) and len({len(values) for values in told}) == 1:
        each = np.mean(told, axis=0)
        error = float(np.std(each, ddof=1)) / math.sqrt(len(each))
      else:
        # The suites of a benchmark are of the same problems.
        error = float(np.mean([s.error for s in found]))
      parts.append(error * len(own) / len(measures))
    return math.hypot(*parts)

  def size(self, row: str, measures: Sequence[Measure]) -> int:
    """Problems that a mean of shares rests on: by how many one benchmark varies so."""
    weights = 0.0
    for _, own in _benchmarks(measures):
      scores = [s for m in own for s in self.of(row, m).values()]
      weights += (len(own) / len(measures)) ** 2 / min(s.count for s in scores)
    return round(1 / weights)

  def freedom(self, measures: Sequence[Measure]) -> int:
    """Degrees of freedom of the spread of single runs; 0: no row has two seeds."""
    sizes = [len(self.by_seed(row, measures)) for row in self.rows]
    return sum(n - 1 for n in sizes if n > 1)

  def gap(self, a: str, b: str, measures: Sequence[Measure]) -> Gap | None:
    """Row b less row a; None where one has no such score."""
    means = self.mean(a, measures), self.mean(b, measures)
    if means[0] is None or means[1] is None:
      return None
    value = means[1] - means[0]
    ends = self._over_problems(a, b, measures) or self._by_errors(a, b, measures)
    if ends is None:
      return Gap(value, None, None)
    runs = self._over_runs(a, b, measures)
    low, high = math.hypot(ends[0], runs), math.hypot(ends[1], runs)
    return Gap(value, value - low, value + high)

  def tests(
    self, pairs: Sequence[tuple[str, str]], measure: Measure
  ) -> dict[tuple[str, str], tuple[SeedTest, ...]]:
    """Pairs of rows -> the tests of the seeds that both have; Holm over them all.

    Without pairs whose problems have no single answers, right or wrong, by seed.
    """
    found = []
    for pair in dict.fromkeys(pairs):
      a, b = (self.of(row, measure) for row in pair)
      for seed in (s for s in a if s in b):
        told = a[seed].problems, b[seed].problems
        if all(len(t) > 1 and set(t.values()) <= {0.0, 1.0} for t in told):
          found.append((pair, seed, paired.mcnemar(*paired.aligned(*told))))
    out: dict[tuple[str, str], tuple[SeedTest, ...]] = {}
    corrected = paired.holm([test.p for *_, test in found])
    for (pair, seed, test), p in zip(found, corrected, strict=True):
      own = SeedTest(seed, test.only_a, test.only_b, p)
      out[pair] = (*out.get(pair, ()), own)
    return out

  def problems(self, row: str, measure: Measure) -> dict[str, float] | None:
    """Problem -> share that was right, mean over seeds; None where it is not told."""
    own = [s.problems for s in self.of(row, measure).values()]
    if not own or not all(own):
      return None
    return {p: float(np.mean([one[p] for one in own])) for p in own[0]}

  def _over_problems(self, a, b, measures) -> tuple[float, float] | None:
    """How far the interval reaches below and above, by resampling problems.

    It holds 0 where the exact test does not tell more wins from more losses.
    """
    gaps, weights = [], []
    for _, own in _benchmarks(measures):
      found = [self.problems(row, m) for m in own for row in (a, b)]
      if any(f is None for f in found):
        return None
      pairs = [
        paired.aligned(self.problems(a, m) or {}, self.problems(b, m) or {})
        for m in own
      ]
      if any(len(y) != len(pairs[0][0]) or len(y) < 2 for _, y in pairs):
        return None
      gaps.append(np.mean([y - x for x, y in pairs], axis=0))
      weights.append(len(own) / len(measures))
    found = paired.stratified(gaps, weights)
    below, above = found.value - found.low, found.high - found.value
    # Where few problems differ, all in one direction, so do the resamples.
    every = np.concatenate(gaps)
    if paired.mcnemar(every < 0, every > 0).p > 1 - paired.LEVEL:
      below, above = max(below, BEYOND * found.value), max(above, -BEYOND * found.value)
    return below, above

  def _by_errors(self, a, b, measures) -> tuple[float, float] | None:
    """The same from standard errors, as if rows and benchmarks were independent."""
    errors = [
      float(np.mean([s.error for s in self.of(row, m).values()]))
      for row in (a, b)
      for m in measures
    ]
    half = NORMAL * math.hypot(*errors) / len(measures)
    return (half, half) if math.isfinite(half) else None

  def _over_runs(self, a, b, measures) -> float:
    """Half an interval for the spread of single runs; 0 where no row has two."""
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
  """'5 : 2 (0.3)', problems of b alone, of a alone and Holm's p; of each seed."""
  many = len(tests) > 1
  return '; '.join(
    f'{f"seed {t.seed}: " if many else ""}{t.only_b} : {t.only_a} ({t.holm:.2g})'
    for t in tests
  )


def views(scores: Sequence[Score]) -> list[Scores]:
  """The scores under each version of the benchmarks that were scored in several."""
  versions: dict[str, list[str]] = {}
  for s in scores:
    own = versions.setdefault(s.benchmark, [])
    if s.version not in own:
      own.append(s.version)
  several = {name: sorted(own) for name, own in versions.items() if len(own) > 1}
  return [
    Scores(
      tuple(s for s in scores if chosen.get(s.benchmark, s.version) == s.version),
      ', '.join(chosen.values()),
    )
    for chosen in _choices(several)
    if scores
  ]


def _benchmarks(measures: Sequence[Measure]) -> list[tuple[str, list[Measure]]]:
  """Benchmark -> its measures, in the order of the names."""
  grouped = itertools.groupby(sorted(measures), key=lambda m: m[0])
  return [(name, list(own)) for name, own in grouped]


def _choices(several: dict[str, list[str]]) -> Iterator[dict[str, str]]:
  for some in itertools.product(*several.values()):
    yield dict(zip(several, some, strict=True))
