"""Translates a fine-tuning run's results to the names that targets use.

Symbolic tasks: the number of examples is scaled to the papers', so that half of a
smaller run's budget counts as half of theirs; a variant of algebra has one depth, which
is its slice, and one share of diverse rules (pooled.py judges several runs together).
Mixtures: a row for every printed column of benchmarks, keyed by the thousands of
each source, and for how the mixtures cover the tests. Two models that were scored on
the same problems are compared problem by problem.
"""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from onlyif_jax import config as config_lib
from onlyif_jax.analysis import paper_tables, spread, targets, tuned
from onlyif_jax.analysis.mixture_scores import Measure, Scores
from onlyif_jax.analysis.paper_tables import Layout
from onlyif_jax.analysis.results import Analysis, Curve, Row
from onlyif_jax.analysis.selector import Evidence
from onlyif_jax.analysis.spread import Mean
from onlyif_jax.analysis.transition import Transition
from onlyif_jax.analysis.tuned import Result, Tuned

PAPERS_SIZE = '7b'
DEPTHS = (3, 4)  # of the papers' algebra; see `_papers_depths` for others
COVER = 'knn_cover'  # share of test prompts near a row of the mixture
_THOUSANDS = 50  # the papers' examples of algebra, in thousands


def of(run: Analysis | Tuned) -> Evidence:
  """The evidence of a run of either kind; raises ConfigError."""
  if isinstance(run, Analysis):
    return run
  names = (run.config['name'], run.label, run.config['size'])
  settings = config_lib.flatten(run.config)
  settings['base.parameters'] = run.provenance.get('base_parameters')
  if run.symbolic:
    tasks = tuple(run.task(variant) for variant in run.variants)
    return TunedEvidence(*names, settings, tuple(_symbolic(run)), tasks=tasks)
  views, covers = paper_tables.scores(run), tuple(_covers(run))
  plan = paper_tables.layout(run, views) if views else None
  if plan is None or not _places(plan):
    return TunedEvidence(*names, settings, covers)
  # The scores' protocol, since benchmarks may be run by another one than the config's.
  protocols = {s.origin.get('protocol') for v in views for s in v.scores} - {None}
  if protocols:
    settings['benchmarks.protocol'] = ', '.join(sorted(map(str, protocols)))
  rows = (*_mixtures(run, plan, views), *covers)
  return TunedEvidence(*names, settings, rows, plan, tuple(views))


@dataclasses.dataclass(frozen=True)
class TunedEvidence:
  """A fine-tuning run's results; see `selector.Evidence`.

  flat_config also has the number of the base's weights. plan, views: tables and
  benchmark scores of a run of mixtures. tasks: of a symbolic run, by variant. curves
  and fits are empty, since no target is about a fit of these runs.
  """

  experiment: str
  label: str
  size: str
  flat_config: Mapping[str, Any]
  rows: tuple[Row, ...]
  plan: Layout | None = None
  views: tuple[Scores, ...] = ()
  tasks: tuple[Mapping[str, Any], ...] = ()
  papers_size: str = PAPERS_SIZE
  curves: tuple[Curve, ...] = ()
  fits: Mapping[str, Transition] = dataclasses.field(default_factory=dict)

  def values(self, split: str, slice_name: str = 'all', metric: str = 'exact_match'):
    """Member -> its row of the final evaluation."""
    key = (split, slice_name, metric)
    return {r.member: r for r in self.rows if (r.split, r.slice, r.metric) == key}

  def difference(self, a: Mapping[str, Row], b: Mapping[str, Row]) -> Mean | None:
    """Mean of a - b (seed -> row); of benchmarks over the same problems.

    Its interval includes the spread of runs, which is assumed if no row has two seeds.
    """
    row_a, row_b = next(iter(a.values())), next(iter(b.values()))
    if row_a.metric == COVER:
      # One draw, of which the single prompts are not recorded.
      half = spread.NORMAL * math.hypot(
        spread.row_noise(row_a), spread.row_noise(row_b)
      )
      return Mean(row_a.value - row_b.value, half, 1)
    if self.plan is None:
      return spread.difference(a, b)
    measures = _measures(self.plan)[row_a.slice]
    version = row_a.swept.get('version', '')
    view = next(v for v in self.views if _version(v, self.views, measures) == version)
    name_a, name_b = (tuned.without_seed(row.member) for row in (row_a, row_b))
    gap = view.gap(name_b, name_a, measures)
    if gap is None:
      return None
    half = math.inf
    if gap.low is not None and gap.high is not None:
      half = max(gap.value - gap.low, gap.high - gap.value)
    if not view.freedom(measures):
      sides = ([row.value for row in side.values()] for side in (a, b))
      half = math.hypot(half, *(spread.NORMAL * spread.assumed(v) for v in sides))
    return Mean(gap.value, half, min(len(a), len(b)))

  def remark(self, slice_name: str) -> str:
    """A caveat: an average lacks benchmarks, or a depth stands for another."""
    if self.plan is not None:
      for name, (_, column_slice, _) in _places(self.plan).items():
        if column_slice == slice_name and name in self.plan.short:
          had = ', '.join(' '.join(m).strip() for m in self.plan.columns[name])
          return f'here the mean of {had} alone'
    for depth, papers_depth in _papers_depths(self.tasks).items():
      if slice_name == f'depth={papers_depth}' and depth != papers_depth:
        return f'expressions of depth {depth} stand for it'
    return ''


def _symbolic(run: Tuned) -> Iterator[Row]:
  """Every result under the fields that targets name."""
  algebra = run.config['task']['name'] == 'algebra'
  tasks = {variant: run.task(variant) for variant in run.variants}
  depths = _papers_depths(tasks.values())
  # What a variant changes keeps its results apart, except for what targets name.
  named = ('depth', 'specialist', 'diverse_share') if algebra else ()
  varied = {f for variant in tasks for f in run.changes(variant)}
  fields = [f.removeprefix('task.') for f in sorted(varied) if f.startswith('task.')]
  fields = [f for f in fields if f not in named]
  for r in run.results:
    task = tasks[r.variant]
    others = {f'task.{f}': task[f] for f in fields}
    places = _algebra(task, r, depths) if algebra else _cipher(run, r)
    for changes, swept in places:
      swept = others | swept
      yield sweep_row(run, r, swept, **changes)


def sweep_row(run: Tuned, r: Result, swept: Mapping[str, Any], **changes) -> Row:
  """A result as a sweep's row; changes: columns that differ from the result's."""
  reference = ''
  if tuned.untuned(r.row):
    is_zero = r.row.startswith(tuned.ZERO_SHOT)
    reference = 'zero_shot' if is_zero else 'few_shot'
  known = {
    'member': r.name,
    'reference': reference,
    'instructions': r.instructions,
    'noop_share': run.config.get('instructions', {}).get('noop_share', 0.0),
    'learning_rate': run.config['optim']['learning_rate'],
    **{name: getattr(r, name) for name in ('seed', 'split', 'slice', 'metric')},
    **{name: getattr(r, name) for name in ('sum', 'count', 'value')},
  }
  return Row(**known | changes, swept={k: str(v) for k, v in swept.items()})


def _cipher(run: Tuned, r: Result) -> Iterator[tuple[dict, dict]]:
  """(changed columns, swept): a subset is a number of examples and a power law."""
  name, _, alpha = r.subset.partition(':')
  papers = targets.experiments().get(run.config['name'], {}).get('settings', {})
  budget = papers.get('instructions.examples', run.config['instructions']['examples'])
  examples = budget if name == 'all' else budget // 2
  yield {}, {'data.examples': examples, 'data.alpha': float(alpha or 0)}


def _papers_depths(tasks: Iterable[Mapping[str, Any]]) -> dict[int, int]:
  """Depth of the run -> the papers' depth that it is or, in order, stands for."""
  depths = sorted({task['depth'] for task in tasks if 'depth' in task})
  same = {depth: depth for depth in depths if depth in DEPTHS}
  return same or dict(zip(depths, DEPTHS, strict=False))


def _algebra(
  task: Mapping[str, Any], r: Result, depths: Mapping[int, int]
) -> Iterator[tuple[dict, dict]]:
  """(changed columns, swept) of a result, once per name that targets have for it.

  A generalist's depth is a slice; a specialist's results are those of Fig. 5b and 5c.
  """
  inside = task['specialist']
  if not inside or r.split == 'seen':
    yield {}, {}
    if r.slice == 'all' and task['depth'] in depths:
      yield {'slice': f'depth={depths[task["depth"]]}'}, {}
    return
  if r.split != 'deeper':
    return  # its unseen rules are not those of Fig. 5a
  others = max(0, r.instructions - inside)
  share = task['diverse_share'] if others else 0.0
  mixtures = [f'{_THOUSANDS * share:g}:{_THOUSANDS * (1 - share):g}']
  if others and math.isclose(share, others / r.instructions, abs_tol=0.01):
    mixtures.append('uniform')
  for mixture in mixtures:
    swept = {'data.mixture': mixture, 'data.diversification': others}
    yield {'split': 'unseen_depth', 'instructions': inside}, swept


def _mixtures(run: Tuned, plan: Layout, views: Sequence[Scores]) -> Iterator[Row]:
  """A row per printed column, mixture and seed.

  At the papers' size, averages that lack a benchmark are left out.
  """
  for name, (split, slice_, metric) in _places(plan).items():
    if name in plan.short and run.config['size'] == PAPERS_SIZE:
      continue
    measures = plan.columns[name]
    for view in views:
      swept = {'version': _version(view, views, measures)}
      for key, row in plan.rows.items():
        for seed, value in view.by_seed(row, measures).items():
          count = view.size(row, measures)
          result = Result(
            *(f'{row}-s{seed}', seed, 0, '', key, split, slice_, metric),
            *(value * count, count),
          )
          error = view.error(row, seed, measures)
          yield sweep_row(run, result, {'data.mixture': key, **swept}, rule_se=error)


def _covers(run: Tuned) -> Iterator[Row]:
  """The share of each set of test prompts that each mixture covers."""
  diversity = tuned.read_json(run.path / 'mixture' / 'diversity.json')
  keys = paper_tables.keys(run)
  for mixture in diversity.get('mixtures', ()):
    key = keys.get(mixture['rows'])
    if not key:
      continue
    for name, share in mixture['cover'].items():
      count = diversity['tests'][name]['prompts']
      place = ('test', f'cover={name}', COVER)
      result = Result(f'{key}-s0', '0', 0, '', key, *place, share * count, count)
      yield sweep_row(run, result, {'data.mixture': key})


def _places(plan: Layout) -> dict[str, tuple[str, str, str]]:
  """Column -> (split, slice, metric) of its targets."""
  out = {}
  for block in plan.blocks:
    for name, column in block.table.get('columns', {}).items():
      if 'where' in column and name in plan.columns:
        where = block.table['where'] | column['where']
        out[name] = (where['split'], where['slice'], where['metric'])
  return out


def _measures(plan: Layout) -> dict[str, Sequence[Measure]]:
  """Slice -> the measures that its column is the mean of."""
  return {slice_: plan.columns[name] for name, (_, slice_, _) in _places(plan).items()}


def _version(view: Scores, views: Sequence[Scores], measures: Sequence[Measure]) -> str:
  """The versions of the problems that other views do not share; '' if all do."""
  names = {name for name, _ in measures}

  def versions(view: Scores) -> list[str]:
    return list(dict.fromkeys(s.version for s in view.scores if s.benchmark in names))

  shared = set.intersection(*(set(versions(v)) for v in views))
  return ', '.join(v for v in versions(view) if v not in shared)
