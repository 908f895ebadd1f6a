"""Reads a run's results into curves with their fits; writes the analysis files."""

import csv
import dataclasses
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from onlyif_jax.analysis.transition import Point, Transition, checked, fit_transition
from onlyif_jax.config import ConfigError, RunConfig, flatten, freeze, swept
from onlyif_jax.workdir import Workdir

FITTED = 0.95  # seen exact match of a member that has learned its own rules
TRANSFER_FROM = 0.5  # with less seen exact match, unseen / seen means little


@dataclasses.dataclass(frozen=True)
class Row:
  """One row of results.csv or, with a step, of dynamics.csv."""

  member: str
  reference: str  # '' for members of the sweep
  instructions: int
  noop_share: float
  learning_rate: float
  seed: str
  split: str
  metric: str
  sum: float
  count: int
  value: float
  slice: str = 'all'
  rule_se: float = math.nan
  step: int = -1  # -1: the final evaluation
  rules_met: int = 0  # rules with at least one training example
  variant: str = ''  # one of sweep.variants
  swept: Mapping[str, str] = dataclasses.field(default_factory=dict)  # field -> value


@dataclasses.dataclass(frozen=True)
class Curve:
  """Unseen exact match over I for one variant, no-op share, learning rate and slice."""

  name: str
  noop_share: float
  learning_rate: float
  slice: str
  rows: tuple[Row, ...]
  variant: str = ''

  def points(self) -> list[Point]:
    """The input of `fit_transition`."""
    return [Point(r.instructions, r.sum, r.count, r.seed, r.rule_se) for r in self.rows]

  def by_count(self) -> dict[int, list[Row]]:
    """I -> one row per seed, sorted by I."""
    out: dict[int, list[Row]] = {}
    for row in sorted(self.rows, key=lambda r: (r.instructions, r.seed)):
      out.setdefault(row.instructions, []).append(row)
    return out


@dataclasses.dataclass(frozen=True)
class Analysis:
  """A run's results with the fit of each curve; `curves[0]` is the main one."""

  workdir: Path
  config: RunConfig
  provenance: dict[str, Any]
  rows: tuple[Row, ...]
  dynamics: tuple[Row, ...]
  curves: tuple[Curve, ...]
  fits: dict[str, Transition]

  @property
  def main(self) -> Transition:
    """The main curve's fit."""
    return self.fits[self.curves[0].name]

  @property
  def label(self) -> str:
    """The run's name in tables and legends."""
    return f'{self.config.name}-{self.config.size}'

  @property
  def experiment(self) -> str:
    """The config file's name, which targets refer to."""
    return self.config.name

  @property
  def size(self) -> str:
    """The config's size: 'cpu', 'full' and so on."""
    return self.config.size

  @property
  def papers_size(self) -> str:
    """The config size that has the papers' own settings."""
    return 'full'

  @property
  def flat_config(self) -> dict[str, Any]:
    """'section.field' -> value."""
    return flatten(self.config)

  @property
  def steps(self) -> int:
    """Training steps of each member."""
    data = self.config.data
    return int(data.epochs * data.examples) // data.batch_size

  def values(self, split: str, slice_name: str = 'all', metric='exact_match'):
    """Member -> its row of the final evaluation."""
    key = (split, slice_name, metric)
    return {r.member: r for r in self.rows if (r.split, r.slice, r.metric) == key}

  def difference(self, a: Mapping[str, Row], b: Mapping[str, Row]):
    """Mean of a - b (seed -> row) with its interval; None without a shared seed."""
    from onlyif_jax.analysis import spread  # imports this module

    return spread.difference(a, b)

  def remark(self, slice_name: str) -> str:
    """A caveat about a slice's values; a sweep has none."""
    del slice_name
    return ''

  def references(self) -> dict[str, float]:
    """Reference -> mean unseen exact match of its members."""
    values: dict[str, list[float]] = {}
    for row in self.values('unseen').values():
      if row.reference not in ('', 'explore'):  # 'explore' members search for the step
        values.setdefault(row.reference, []).append(row.value)
    return {name: sum(v) / len(v) for name, v in values.items()}

  def to_json(self) -> dict[str, Any]:
    """The content of transition.json."""
    from onlyif_jax.analysis import diversity, sweetspot  # import this module

    curves = {c.name: _describe(c) | self.fits[c.name].to_json() for c in self.curves}
    out = curves[self.curves[0].name] | {'curves': curves}
    if one_curve := diversity.one_curve(self):
      out['one_curve'] = one_curve
    if spots := sweetspot.best_shares(self):
      names = {key: f'{key[0]} in-domain + {key[1]} others' for key in spots}
      out['best_shares'] = {names[k]: dataclasses.asdict(v) for k, v in spots.items()}
    return out


def load(workdir: Path | str) -> Analysis:
  """Reads a workdir and fits its curves, writing nothing; raises ConfigError.

  An unfinished run is read as far as it has results.
  """
  workdir = Path(workdir)
  if not workdir.is_dir():
    raise ConfigError(f'--workdir={workdir}: there is no such directory')
  config = freeze(_read_json(workdir / 'config.json'))
  rows = _read_rows(workdir, 'results.csv', swept(config))
  if not rows:
    raise ConfigError(
      f'{workdir / "results.csv"} has no results yet; run onlyif_jax.main first'
    )
  provenance = workdir / 'provenance.json'
  curves = curves_of(rows, config)
  return Analysis(
    workdir=workdir,
    config=config,
    provenance=_read_json(provenance) if provenance.exists() else {},
    rows=rows,
    dynamics=_read_rows(workdir, 'dynamics.csv', swept(config)),
    curves=curves,
    fits={c.name: fit_transition(c.points()) for c in curves},
  )


def analyse(workdir: Path | str) -> Analysis:
  """Reads a workdir, writes its transition.json and figure.png; raises ConfigError."""
  run = load(workdir)
  write(run, run.workdir)
  return run


def write(run: Analysis, out: Path, *, anonymous: bool = False) -> None:
  """Writes transition.json, figure.png and anatomy.png; raises ConfigError."""
  from onlyif_jax.analysis import figures, figures_anatomy  # import this module

  text = json.dumps(run.to_json(), indent=1, allow_nan=False)
  try:
    out.mkdir(parents=True, exist_ok=True)
    (out / 'transition.json').write_text(text + '\n')
    figures.draw(run, out / 'figure.png', anonymous=anonymous)
    if (run.workdir / 'anatomy.csv').exists():
      figures_anatomy.draw_anatomy(run, out / 'anatomy.png', anonymous=anonymous)
  except OSError as e:
    raise ConfigError(f'{out}: cannot write the analysis ({e.strerror})') from e


def read_points(path: str, x: str, k: str, n: str, seed: str | None) -> list[Point]:
  """Reads points from the named columns of a csv file; raises ConfigError."""
  try:
    with open(path, newline='') as file:
      reader = csv.DictReader(file)
      columns = list(reader.fieldnames or [])
      lines = list(reader)
  except (OSError, UnicodeDecodeError, csv.Error) as e:
    raise ConfigError(f'--csv={path} cannot be read: {e}') from e
  for flag, name in (('x', x), ('k', k), ('n', n), ('seed', seed)):
    if name is not None and name not in columns:
      raise ConfigError(
        f'--{flag}={name}: {path} has no such column; it has {", ".join(columns)}'
      )
  points = []
  for number, line in enumerate(lines, start=2):
    try:
      label = line[seed] if seed else '0'
      points.append(
        checked(Point(float(line[x]), float(line[k]), float(line[n]), label))
      )
    except (TypeError, ValueError) as e:
      raise ConfigError(f'{path}, line {number}: {e}') from e
  return points


def mean(rows: Iterable[Row]) -> float:
  """Mean value of some rows; nan without any."""
  values = [r.value for r in rows]
  return sum(values) / len(values) if values else math.nan


def transfer(unseen: Row, seen: Row | None) -> float | None:
  """A member's unseen / seen exact match; None if seen is below 0.5."""
  if seen is None or seen.value < TRANSFER_FROM:
    return None
  return unseen.value / seen.value


def over_time(
  run: Analysis, rows: Iterable[Row], split: str = 'dev'
) -> tuple[float, float] | None:
  """(last, best) exact match during training, means over the rows' members."""
  last, best = [], []
  for row in rows:
    trace = [
      (d.step, d.value)
      for d in run.dynamics
      if (d.member, d.split, d.metric) == (row.member, split, 'exact_match')
    ]
    if trace:
      last.append(max(trace)[1])
      best.append(max(value for _, value in trace))
  if not last:
    return None
  return sum(last) / len(last), sum(best) / len(best)


def settings(run: Analysis, *, anonymous: bool = False) -> list[str]:
  """The parts of a figure's footer: seeds, rules, budget, optimiser, model, commit."""
  c = run.config
  seeds = {r.seed for r in run.curves[0].rows}
  examples = max((r.count for r in run.values('unseen').values()), default=0)
  rules = run.provenance.get('test_rules')
  held_out = f'{rules:,} test rules, ' if rules else ''
  rates = c.sweep.learning_rates or (c.optim.learning_rate,)
  out = [
    f'{len(seeds)} seed{"s" if len(seeds) != 1 else ""}',
    f'{held_out}{examples:,} test examples',
    f'N = {c.data.examples:,}',
    f'{c.data.epochs:g} passes',
    f'{run.steps:,} steps of {c.data.batch_size}',
    f'{c.optim.name} {", ".join(f"{r:g}" for r in rates)}, {c.optim.schedule}',
    f'{c.model.layers} layers, width {c.model.width}',
  ]
  if run.provenance.get('parameters'):
    out.append(f'{run.provenance["parameters"]:,} parameters')
  if not anonymous:
    out.append(f'commit {str(run.provenance.get("commit") or "unknown")[:10]}')
  return out


def _describe(curve: Curve) -> dict[str, Any]:
  return {
    'metric': 'exact_match',
    'split': 'unseen',
    'slice': curve.slice,
    'noop_share': curve.noop_share,
    'learning_rate': curve.learning_rate,
  } | ({'variant': curve.variant} if curve.variant else {})


def curves_of(rows: Iterable[Row], config: RunConfig) -> tuple[Curve, ...]:
  """The sweep's curves; the first has the first variant and the least share and rate.

  It is of has-op inputs: averaged over no-op and has-op inputs, accuracy starts at
  one half and does not compare with a sweep without no-ops.
  """
  noops = getattr(config.task, 'noops', False)
  slices = ['noop=0', 'noop=1', 'all'] if noops else ['all']
  unseen = [
    r
    for r in rows
    if not r.reference and (r.split, r.metric) == ('unseen', 'exact_match')
  ]
  shares = sorted({r.noop_share for r in unseen}) or [0.0]
  rates = sorted({r.learning_rate for r in unseen}) or [0.0]
  slices += sorted({r.slice for r in unseen if r.slice.startswith(('cell=', 'mix='))})
  curves = []
  for variant in config.sweep.variants or ('',):
    for share in shares:
      for rate in rates:
        prefix = f'{variant}/' if variant else ''
        prefix += f'noop_share={share:g}/' if len(shares) > 1 else ''
        prefix += f'learning_rate={rate:g}/' if len(rates) > 1 else ''
        for name in slices:
          key = (share, rate, name)
          members = tuple(
            r
            for r in unseen
            if (r.noop_share, r.learning_rate, r.slice) == key and r.variant == variant
          )
          curves.append(Curve(f'{prefix}unseen/{name}', *key, members, variant))
  return tuple(c for n, c in enumerate(curves) if c.rows or n == 0)


def _read_json(path: Path) -> dict[str, Any]:
  try:
    return json.loads(path.read_text())
  except FileNotFoundError:
    raise ConfigError(f'{path} is missing: this is not the workdir of a run') from None
  except (OSError, ValueError) as e:
    raise ConfigError(f'{path} cannot be read: {e}') from e


def _read_rows(workdir: Path, name: str, varied: Sequence[str]) -> tuple[Row, ...]:
  """The rows of a csv file, none if it is absent; varied: columns of `Row.swept`."""
  types = {f.name: f.type for f in dataclasses.fields(Row)}
  out: list[Row] = []
  for line, cells in enumerate(Workdir(workdir).read_csv(name), start=2):
    swept_cells = {k: cells[k] for k in varied if k in cells}
    try:
      values = {k: _value(v, types[k]) for k, v in cells.items() if k in types}
      out.append(Row(**values, swept=swept_cells))
    except (TypeError, ValueError) as e:
      raise ConfigError(f'{workdir / name}, line {line}: {e}') from e
  return tuple(out)


def _value(text: str, kind) -> Any:
  if kind is float and not text:
    return math.nan
  return int(float(text)) if kind is int else kind(text)
