"""Compares two fine-tuning runs: steps, or mixtures row by row.

Symbolic runs: the shift of the step, as for two sweeps. Mixtures: a row of B less the
same row of A, on the same problems of each benchmark (bootstrap over problems;
McNemar's exact test of each seed, Holm over rows and seeds), and in the loss of the
same held-out responses, by seed.
"""

import dataclasses
import json
import math
from collections.abc import Sequence
from typing import Any

from onlyif_jax.analysis import (
  benchmark_scores,
  compare,
  mixture_scores,
  paper_tables,
  spread,
  tuned_evidence,
)
from onlyif_jax.analysis.compare import Shift
from onlyif_jax.analysis.mixture_scores import Gap, Measure, Scores, SeedTest
from onlyif_jax.analysis.results import Row
from onlyif_jax.analysis.table import Grid
from onlyif_jax.analysis.tuned import Result, Tuned, without_seed
from onlyif_jax.config import ConfigError

LOSS = 'response_nll'
_PREFIXES = ('A/', 'B/')  # of a row's name, by run


@dataclasses.dataclass(frozen=True)
class RowGap:
  """A row of B less that of A on one benchmark.

  tests: McNemar's of each shared seed; none if problems are unknown or have several
  samples.
  """

  row: str
  measure: str
  version: str
  a: float
  b: float
  gap: Gap
  problems: int
  seeds: int  # the smaller number of the two runs
  tests: tuple[SeedTest, ...] = ()


@dataclasses.dataclass(frozen=True)
class LossGap:
  """B less A in nats per token on one source's held-out responses, by seed."""

  row: str
  source: str
  a: float
  b: float
  gap: spread.Mean | None
  reason: str = ''  # why there is no gap


def grids(a: Tuned, b: Tuned) -> list[Grid]:
  """Tables of the settings that differ and of the results; raises ConfigError."""
  out = [compare.settings_grid(a.config, b.config)]
  if a.symbolic != b.symbolic:
    raise ConfigError(
      f'{a.path} and {b.path} are a symbolic task and mixtures; compare runs of a kind'
    )
  if a.symbolic:
    return [*out, compare.shifts_grid(shifts(a, b)), *_accuracy(a, b)]
  gaps, losses = row_gaps(a, b), loss_gaps(a, b)
  if not gaps and not losses:
    raise ConfigError(
      f'{a.path} and {b.path} have no mixture in common; compare runs of one config'
    )
  return [*out, *_scores_grid(gaps), *_versions_grid(a, b), *_losses_grid(losses)]


def to_json(a: Tuned, b: Tuned) -> str:
  """The content of compare.json."""
  content: dict[str, Any] = {'a': a.label, 'b': b.label}
  changed = compare.differing(a.config, b.config)
  content['differing'] = {k: list(v) for k, v in changed.items()}
  if a.symbolic:
    content['shifts'] = [dataclasses.asdict(s) for s in shifts(a, b)]
  else:
    content['benchmarks'] = [
      dataclasses.asdict(g) | {'gap': g.gap._asdict()} for g in row_gaps(a, b)
    ]
    content['losses'] = [
      dataclasses.asdict(g) | {'gap': _gap_json(g.gap)} for g in loss_gaps(a, b)
    ]
  return json.dumps(content, indent=1, allow_nan=False) + '\n'


def shifts(a: Tuned, b: Tuned) -> list[Shift]:
  """One shift per curve that both runs have; raises ConfigError if there is none."""
  names = [name for name in a.steps if name in b.steps]
  if not names:
    raise ConfigError(
      f'{a.path} and {b.path} have no curve in common; compare runs of one task'
    )
  paired = seeds_agree(a, b)
  return [compare.shift(name, a.fits[name], b.fits[name], paired) for name in names]


def seeds_agree(a: Tuned, b: Tuned) -> bool:
  """Whether equal seeds have the same rules in both runs."""
  return all(a.config[k] == b.config[k] for k in ('seed', 'task', 'rules'))


def row_gaps(a: Tuned, b: Tuned) -> list[RowGap]:
  """Gaps of the rows that both runs have, on every benchmark; raises ConfigError.

  Benchmarks of several versions are compared under each version that both have.
  """
  scores = [
    s._replace(row=prefix + s.row)
    for prefix, run in zip(_PREFIXES, (a, b), strict=True)
    for s in benchmark_scores.read(run.path)
  ]
  gaps: dict[tuple, RowGap] = {}
  names = list(dict.fromkeys(r.row for r in a.results))
  for view in mixture_scores.views(scores):
    for measure in view.measures:
      for gap in _measure_gaps(view, measure, names):
        gaps[gap.row, gap.measure, gap.version] = gap
  return list(gaps.values())


def _measure_gaps(view: Scores, measure: Measure, names: Sequence[str]) -> list[RowGap]:
  """The gaps of every common row on one benchmark, with their tests."""
  prefix_a, prefix_b = _PREFIXES
  pairs = {name: (prefix_a + name, prefix_b + name) for name in names}
  tests = view.tests(list(pairs.values()), measure)
  gaps = []
  for name, pair in pairs.items():
    gap = view.gap(*pair, [measure])
    if gap is None:
      continue
    a, b = (view.mean(row, [measure]) or 0.0 for row in pair)
    gaps.append(
      RowGap(
        row=name,
        measure=' '.join(measure).strip(),
        version=next(iter(view.of(pair[0], measure).values())).version,
        a=a,
        b=b,
        gap=gap,
        problems=view.size(pair[0], [measure]),
        seeds=min(len(view.of(row, measure)) for row in pair),
        tests=tests.get(pair, ()),
      )
    )
  return gaps


def loss_gaps(a: Tuned, b: Tuned) -> list[LossGap]:
  """Gaps of the rows that both runs have, in each source's held-out loss."""
  losses_a, losses_b = _losses(a), _losses(b)
  gaps = []
  for key, seeds_a in losses_a.items():
    seeds_b = losses_b.get(key)
    if seeds_b is None:
      continue
    mean_a, mean_b = (
      sum(r.value for r in s.values()) / len(s) for s in (seeds_a, seeds_b)
    )
    counts_a, counts_b = ({r.count for r in s.values()} for s in (seeds_a, seeds_b))
    gap, reason = None, ''
    if counts_a != counts_b:
      reason = 'not the same responses'
    else:
      gap = _by_seed(seeds_a, seeds_b)
      reason = '' if gap else 'no seed in common'
    gaps.append(LossGap(*key, mean_a, mean_b, gap, reason))
  return gaps


def _losses(run: Tuned) -> dict[tuple[str, str], dict[str, Result]]:
  """(row, source) -> seed -> its loss."""
  out: dict[tuple[str, str], dict[str, Result]] = {}
  for r in run.results:
    if r.metric == LOSS:
      key = r.row, r.slice.removeprefix('source=')
      out.setdefault(key, {})[r.seed] = r
  return out


def _by_seed(a: dict[str, Result], b: dict[str, Result]) -> spread.Mean | None:
  """B less A over shared seeds; losses of single responses are not recorded."""
  gaps = [b[s].value - a[s].value for s in a if s in b]
  return spread.over_seeds(gaps, [], [math.inf]) if gaps else None


def _gap_json(gap: spread.Mean | None) -> dict[str, Any] | None:
  if gap is None:
    return None
  return gap._asdict() | {'half': gap.half if math.isfinite(gap.half) else None}


def _accuracy(a: Tuned, b: Tuned) -> list[Grid]:
  """Exact match on unseen rules, row by row; of inputs with x if there are no-ops."""
  rows_a, rows_b = (tuned_evidence.of(run).rows for run in (a, b))
  part = 'noop=0' if any(r.slice == 'noop=0' for r in rows_a) else 'all'
  unseen_a, unseen_b = _unseen(rows_a, part), _unseen(rows_b, part)
  lines = []
  for name, seeds_a in unseen_a.items():
    if seeds_b := unseen_b.get(name):
      means = [spread.mean(seeds).value for seeds in (seeds_a, seeds_b)]
      gap = compare.gap_text(spread.difference(seeds_b, seeds_a))
      lines.append((name, *(f'{m:.3f}' for m in means), gap))
  columns = ('row', 'A', 'B', 'B less A [95 %, paired by seed]')
  return [Grid(f'Exact match of unseen, {part}', columns, tuple(lines))]


def _unseen(rows: Sequence[Row], part: str) -> dict[str, dict[str, Row]]:
  """A row's name -> seed -> its exact match on unseen rules."""
  out: dict[str, dict[str, Row]] = {}
  for r in rows:
    if (r.split, r.slice, r.metric) == ('unseen', part, 'exact_match'):
      out.setdefault(without_seed(r.member), {})[r.seed] = r
  return out


def _scores_grid(gaps: Sequence[RowGap]) -> list[Grid]:
  if not gaps:
    return []
  lines = []
  for g in gaps:
    alone = mixture_scores.tests_text(g.tests) or '-'
    noise = f' {paper_tables.NOISE}' if g.gap.within_noise else ''
    cells = (f'{100 * g.a:.1f}', f'{100 * g.b:.1f}', g.gap.text() + noise)
    lines.append((g.row, g.measure, g.version, str(g.problems), *cells, alone))
  columns = (
    *('mixture', 'benchmark', 'version', 'problems', 'A, %', 'B, %'),
    f'B less A, points [95 %]; {paper_tables.NOISE}: less than its noise',
    f'solved by B alone : by A alone ({paper_tables.HOLM})',
  )
  title = 'Benchmarks, the same problems for both; intervals by resampling problems'
  if all(g.seeds == 1 for g in gaps):
    title += ', without what another training seed would change'
  return [Grid(title, columns, tuple(lines))]


def _versions(run: Tuned) -> dict[str, set[str]]:
  """Benchmark -> versions of its problems that the run was scored on."""
  versions: dict[str, set[str]] = {}
  for s in benchmark_scores.read(run.path):
    versions.setdefault(s.benchmark, set()).add(s.version)
  return versions


def _versions_grid(a: Tuned, b: Tuned) -> list[Grid]:
  """Benchmarks of both runs that have no version of the problems in common."""
  versions_a, versions_b = _versions(a), _versions(b)
  lines = tuple(
    (name, ', '.join(sorted(versions)), ', '.join(sorted(versions_b[name])))
    for name, versions in versions_a.items()
    if name in versions_b and not versions & versions_b[name]
  )
  columns = ('benchmark', 'version of A', 'version of B')
  return [Grid('Not compared: other problems', columns, lines)] if lines else []


def _losses_grid(losses: Sequence[LossGap]) -> list[Grid]:
  if not losses:
    return []
  lines = tuple(
    (
      *(g.row, g.source, f'{g.a:.4f}', f'{g.b:.4f}'),
      g.reason or compare.gap_text(g.gap),
      str(g.gap.seeds) if g.gap else '-',
    )
    for g in losses
  )
  columns = ('mixture', 'source', 'A', 'B', 'B less A [95 % over seeds]', 'seeds')
  title = 'Loss of held-out responses, nats per token, paired by seed'
  return [Grid(title, columns, lines)]
