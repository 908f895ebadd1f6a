"""A fine-tuning run as the scoreboard sees it: its results under the targets' names.

Symbolic tasks: examples are counted in the papers' number of them, so that half of a
smaller run's is the half; a run of algebra has one depth, which is its slice, and one
share of diverse rules (pooled.py judges several together). Mixtures: a row for every
printed column of benchmarks, by the thousands of each source, and for how they cover the
tests. Two models that were scored on the same problems are compared problem by problem.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
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
DEPTHS = (3, 4)  # of the papers' algebra; another one stands for the first
COVER = 'knn_cover'  # share of test prompts near a row of the mixture
_THOUSANDS = 50  # of the papers' examples of algebra


def of(run: Analysis | Tuned) -> Evidence:
  """What a run of either kind says to the papers' targets; raises ConfigError."""
  if isinstance(run, Analysis):
    return run
  known = {'base.parameters': run.provenance.get('base_parameters')}
  told = (run.config['name'], run.label, run.config['size'])
  settings = config_lib.flatten(run.config) | known
  if run.symbolic:
    return TunedEvidence(*told, settings, tuple(_symbolic(run)))
  views, covers = paper_tables.scores(run), tuple(_covers(run))
  plan = paper_tables.layout(run, views) if views else None
  if plan is None or not _places(plan):
    return TunedEvidence(*told, settings, covers)
  # What the scores tell, since benchmarks may be run by another protocol later.
  asked = {s.origin.get('protocol') for v in views for s in v.scores} - {None}
  if asked:
    settings |= {'benchmarks.protocol': ', '.join(sorted(map(str, asked)))}
  rows = (*_mixtures(run, plan, views), *covers)
  return TunedEvidence(*told, settings, rows, plan, tuple(views))


@dataclasses.dataclass(frozen=True)
class TunedEvidence:
  """A fine-tuning run's results; see `selector.Evidence`.

  flat_config has the number of the base's weights too. plan, views: the tables and the
  benchmark scores of a run of mixtures. No target speaks of a fit of these runs.
  """

  experiment: str
  label: str
  size: str
  flat_config: Mapping[str, Any]
  rows: tuple[Row, ...]
  plan: Layout | None = None
  views: tuple[Scores, ...] = ()
  papers_size: str = PAPERS_SIZE
  curves: tuple[Curve, ...] = ()
  fits: Mapping[str, Transition] = dataclasses.field(default_factory=dict)

  def values(self, split: str, slice_name: str = 'all', metric: str = 'exact_match'):
    """member -> its row of the final evaluation."""
    wanted = (split, slice_name, metric)
    return {r.member: r for r in self.rows if (r.split, r.slice, r.metric) == wanted}

  def difference(self, a: Mapping[str, Row], b: Mapping[str, Row]) -> Mean | None:
    """Mean of a - b; of benchmarks over the same problems, and the spread of runs.

    Where no row has a second seed, that spread is assumed, as everywhere.
    """
    first, second = next(iter(a.values())), next(iter(b.values()))
    if first.metric == COVER:
      # There is one draw; the prompts that are covered are not told one by one.
      half = spread.NORMAL * math.hypot(*map(spread.row_noise, (first, second)))
      return Mean(first.value - second.value, half, 1)
    if self.plan is None:
      return spread.difference(a, b)
    measures = _measures(self.plan)[first.slice]
    view = next(
      v for v in self.views if _version(v, self.views, measures) == _of(first)
    )
    low, high = (tuned.without_seed(row.member) for row in (second, first))
    gap = view.gap(low, high, measures)
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
    """What an average lacks here, or what a depth stands for."""
    if self.plan is not None:
      for name, (_, own, _) in _places(self.plan).items():
        if own == slice_name and name in self.plan.short:
          had = ', '.join(' '.join(m).strip() for m in self.plan.columns[name])
          return f'here the mean of {had} alone'
    depth = self.flat_config.get('task.depth')
    if slice_name == f'depth={DEPTHS[0]}' and depth not in DEPTHS:
      return f'expressions of depth {depth} stand for it'
    return ''


def _symbolic(run: Tuned) -> Iterator[Row]:
  """Every result under the fields that targets name."""
  algebra = run.config['task']['name'] == 'algebra'
  for r in run.results:
    places = _algebra(run, r) if algebra else _cipher(run, r)
    for changes, swept in places:
      yield _row(run, r, swept, **changes)


def _row(run: Tuned, r: Result, swept: Mapping[str, Any], **changes) -> Row:
  reference = ''
  if tuned.untuned(r.row):
    reference = 'zero_shot' if r.row == tuned.ZERO_SHOT else 'few_shot'
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
  """The subset as a number of the papers' examples and the exponent of its law."""
  name, _, alpha = r.subset.partition(':')
  known = targets.experiments().get(run.config['name'], {}).get('settings', {})
  most = known.get('instructions.examples', run.config['instructions']['examples'])
  examples = most if name == 'all' else most // 2
  yield {}, {'data.examples': examples, 'data.alpha': float(alpha or 0)}


def _algebra(run: Tuned, r: Result) -> Iterator[tuple[dict, dict]]:
  """A generalist's slice of its depth; of a specialist what Fig. 5b and 5c show."""
  task = run.config['task']
  inside, depth = task['specialist'], task['depth']
  if not inside or r.split == 'seen':
    yield {}, {}
    if r.slice == 'all':
      depth = depth if depth in DEPTHS else DEPTHS[0]
      yield {'slice': f'depth={depth}'}, {}
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
  """A row for each printed column, mixture and seed; averages are whole at 7b."""
  for name, (split, slice_, metric) in _places(plan).items():
    if name in plan.short and run.config['size'] == PAPERS_SIZE:
      continue
    measures = plan.columns[name]
    for view in views:
      swept = {'version': _version(view, views, measures)}
      for key, row in plan.rows.items():
        for seed, value in view.by_seed(row, measures).items():
          count = view.size(row, measures)
          own = Result(
            *(f'{row}-s{seed}', seed, 0, '', key, split, slice_, metric),
            *(value * count, count),
          )
          error = view.error(row, seed, measures)
          yield _row(run, own, {'data.mixture': key, **swept}, rule_se=error)


def _covers(run: Tuned) -> Iterator[Row]:
  """For each mixture and set of test prompts the share of these that it covers."""
  found = tuned.read_json(run.path / 'mixture' / 'diversity.json')
  keys = paper_tables.keys(run)
  for mixture in found.get('mixtures', ()):
    key = keys.get(mixture['rows'])
    for name, share in mixture['cover'].items() if key else ():
      count = found['tests'][name]['prompts']
      place = ('test', f'cover={name}', COVER)
      own = Result(f'{key}-s0', '0', 0, '', str(key), *place, share * count, count)
      yield _row(run, own, {'data.mixture': key})


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
  return {own: plan.columns[name] for name, (_, own, _) in _places(plan).items()}


def _version(view: Scores, views: Sequence[Scores], measures: Sequence[Measure]) -> str:
  """The version of the problems, '' where there is but one."""
  names = {name for name, _ in measures}

  def of_view(one: Scores) -> list[str]:
    found = dict.fromkeys(s.version for s in one.scores if s.benchmark in names)
    return list(found)

  every = [of_view(one) for one in views]
  return ', '.join(v for v in of_view(view) if not all(v in other for other in every))


def _of(row: Row) -> str:
  return row.swept.get('version', '')
