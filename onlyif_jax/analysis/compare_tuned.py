"""Two fine-tuning runs beside each other: steps, or mixtures row by row.

Symbolic runs: how far one's step lies from the other's, as of two sweeps. Mixtures: a
row of B less the same row of A, on the same problems of each benchmark (bootstrap over
problems; McNemar's exact test of each seed, Holm over rows and seeds), and in the loss of the same
held-out responses, by seed.
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
_SIDES = ('A/', 'B/')  # before a row's name


@dataclasses.dataclass(frozen=True)
class RowGap:
  """A row of B less that of A on one benchmark.

  tests: McNemar's of each seed that both have; none where answers are not single ones,
  or problems are not told.
  """

  row: str
  measure: str
  version: str
  a: float
  b: float
  gap: Gap
  problems: int
  seeds: int  # that both have
  tests: tuple[SeedTest, ...] = ()


@dataclasses.dataclass(frozen=True)
class LossGap:
  """B less A in nats per token on one source's held-out responses, by seed."""

  row: str
  source: str
  a: float
  b: float
  gap: spread.Mean | None
  reason: str = ''  # why there is none


def grids(a: Tuned, b: Tuned) -> list[Grid]:
  """Differing settings first, then what the runs have in common; ConfigError."""
  out = [compare.settings_grid(a.config, b.config)]
  if a.symbolic != b.symbolic:
    raise ConfigError(
      f'{a.path} and {b.path} are a symbolic task and mixtures; compare runs of a kind'
    )
  if a.symbolic:
    return [*out, compare.shifts_grid(shifts(a, b)), *_accuracy(a, b)]
  found, losses = row_gaps(a, b), loss_gaps(a, b)
  if not found and not losses:
    raise ConfigError(
      f'{a.path} and {b.path} have no mixture in common; compare runs of one config'
    )
  return [*out, *_scores_grid(found), *_apart(a, b), *_losses_grid(losses)]


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
      dataclasses.asdict(g) | {'gap': _told(g.gap)} for g in loss_gaps(a, b)
    ]
  return json.dumps(content, indent=1, allow_nan=False) + '\n'


def shifts(a: Tuned, b: Tuned) -> list[Shift]:
  """One shift per curve that both runs have; raises ConfigError without any."""
  names = [name for name in a.steps if name in b.steps]
  if not names:
    raise ConfigError(
      f'{a.path} and {b.path} have no curve in common; compare runs of one task'
    )
  same = seeds_agree(a, b)
  return [compare.shift(name, a.fits[name], b.fits[name], same) for name in names]


def seeds_agree(a: Tuned, b: Tuned) -> bool:
  """Whether a seed's name stands for the same rules in both runs."""
  return all(a.config[k] == b.config[k] for k in ('seed', 'task', 'rules'))


def row_gaps(a: Tuned, b: Tuned) -> list[RowGap]:
  """Rows that both runs have, on every benchmark; raises ConfigError.

  Benchmarks of several versions are compared under each that both have.
  """
  scores = [
    s._replace(row=side + s.row)
    for side, run in zip(_SIDES, (a, b), strict=True)
    for s in benchmark_scores.read(run.path)
  ]
  out: dict[tuple, RowGap] = {}
  names = list(dict.fromkeys(r.row for r in a.results))
  for view in mixture_scores.views(scores):
    for measure in view.measures:
      for one in _of_measure(view, measure, names):
        out[one.row, one.measure, one.version] = one
  return list(out.values())


def _of_measure(view: Scores, measure: Measure, names: Sequence[str]) -> list[RowGap]:
  """The gaps of every common row on one benchmark, with their tests."""
  first, second = _SIDES
  every = view.tests([(first + name, second + name) for name in names], measure)
  found = []
  for name in names:
    sides = first + name, second + name
    gap = view.gap(*sides, [measure])
    if gap is None:
      continue
    a, b = (view.mean(row, [measure]) or 0.0 for row in sides)
    version = next(iter(view.of(sides[0], measure).values())).version
    size = view.size(sides[0], [measure])
    seeds = min(len(view.of(row, measure)) for row in sides)
    told = ' '.join(measure).strip(), version
    tests = every.get(sides, ())
    found.append(RowGap(name, *told, a, b, gap, size, seeds, tests))
  return found


def loss_gaps(a: Tuned, b: Tuned) -> list[LossGap]:
  """Rows that both runs have, in the loss of each source's held-out responses."""
  sides = [_losses(run) for run in (a, b)]
  out = []
  for place, left in sides[0].items():
    right = sides[1].get(place)
    if right is None:
      continue
    x, y = (sum(r.value for r in s.values()) / len(s) for s in (left, right))
    counts = [{r.count for r in s.values()} for s in (left, right)]
    reason = '' if counts[0] == counts[1] else 'not the same responses'
    gap = None if reason else _by_seed(left, right)
    reason = reason if gap or reason else 'no seed in common'
    out.append(LossGap(*place, x, y, gap, reason))
  return out


def _losses(run: Tuned) -> dict[tuple[str, str], dict[str, Result]]:
  """(row, source) -> seed -> its loss."""
  out: dict[tuple[str, str], dict[str, Result]] = {}
  for r in run.results:
    if r.metric == LOSS:
      place = r.row, r.slice.removeprefix('source=')
      out.setdefault(place, {})[r.seed] = r
  return out


def _by_seed(a: dict[str, Result], b: dict[str, Result]) -> spread.Mean | None:
  """B less A over shared seeds; what responses vary by is not told, seeds are."""
  gaps = [b[s].value - a[s].value for s in a if s in b]
  return spread.over_seeds(gaps, [], [math.inf]) if gaps else None


def _told(gap: spread.Mean | None) -> dict[str, Any] | None:
  if gap is None:
    return None
  return gap._asdict() | {'half': gap.half if math.isfinite(gap.half) else None}


def _accuracy(a: Tuned, b: Tuned) -> list[Grid]:
  """Exact match on unseen rules, count by count, of inputs with x where told apart."""
  rows = [tuned_evidence.of(run).rows for run in (a, b)]
  parts = {r.slice for r in rows[0]}
  part = 'noop=0' if 'noop=0' in parts else 'all'
  sides = [_unseen(own, part) for own in rows]
  lines = []
  for place, left in sides[0].items():
    if right := sides[1].get(place):
      means = [spread.mean(side).value for side in (left, right)]
      gap = compare.gap_words(spread.difference(right, left))
      lines.append((place, *(f'{m:.3f}' for m in means), gap))
  columns = ('row', 'A', 'B', 'B less A [95 %, paired by seed]')
  return [Grid(f'Exact match of unseen, {part}', columns, tuple(lines))]


def _unseen(rows: Sequence[Row], part: str) -> dict[str, dict[str, Row]]:
  """A row's name -> seed -> its exact match on unseen rules."""
  out: dict[str, dict[str, Row]] = {}
  for r in rows:
    if (r.split, r.slice, r.metric) == ('unseen', part, 'exact_match'):
      out.setdefault(without_seed(r.member), {})[r.seed] = r
  return out


def _scores_grid(found: Sequence[RowGap]) -> list[Grid]:
  if not found:
    return []
  lines = []
  for g in found:
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
  if all(g.seeds == 1 for g in found):
    title += ', without what another training seed would change'
  return [Grid(title, columns, tuple(lines))]


def _apart(a: Tuned, b: Tuned) -> list[Grid]:
  """Benchmarks of both runs that were scored on other versions of the problems."""
  sides: list[dict[str, set[str]]] = [{}, {}]
  for run, known in zip((a, b), sides, strict=True):
    for s in benchmark_scores.read(run.path):
      known.setdefault(s.benchmark, set()).add(s.version)
  lines = tuple(
    (name, ', '.join(sorted(own)), ', '.join(sorted(sides[1][name])))
    for name, own in sides[0].items()
    if name in sides[1] and not own & sides[1][name]
  )
  columns = ('benchmark', 'version of A', 'version of B')
  return [Grid('Not compared: other problems', columns, lines)] if lines else []


def _losses_grid(losses: Sequence[LossGap]) -> list[Grid]:
  if not losses:
    return []
  lines = tuple(
    (
      *(g.row, g.source, f'{g.a:.4f}', f'{g.b:.4f}'),
      g.reason or compare.gap_words(g.gap),
      str(g.gap.seeds) if g.gap else '-',
    )
    for g in losses
  )
  columns = ('mixture', 'source', 'A', 'B', 'B less A [95 % over seeds]', 'seeds')
  title = 'Loss of held-out responses, nats per token, paired by seed'
  return [Grid(title, columns, lines)]
