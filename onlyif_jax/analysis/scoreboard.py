"""The papers' numbers and claims beside ours: targets, verdicts and the coverage."""

import collections
import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from onlyif_jax.analysis import targets, verdict
from onlyif_jax.analysis.results import Analysis
from onlyif_jax.analysis.selector import Evidence
from onlyif_jax.analysis.targets import Target
from onlyif_jax.analysis.transition import Estimate, Transition
from onlyif_jax.analysis.verdict import (
  CONTRADICTED,
  INCONCLUSIVE,
  NOT_RUN,
  SUPPORTED,
  Verdict,
)

_ORDER = (CONTRADICTED, INCONCLUSIVE, SUPPORTED)
OWN_SIZE = 'at its own size'  # of the papers' values: our sizes and budgets differ


@dataclasses.dataclass(frozen=True)
class Line:
  """One target with the verdict of each run of its experiment: (label, verdict)."""

  target: Target
  results: tuple[tuple[str, Verdict], ...]

  @property
  def at_papers_size(self) -> bool:
    """Whether a run of the papers' size has all the members that the target needs."""
    ran = [v for _, v in self.results if v.state != NOT_RUN and not v.analogue]
    return any(not v.partial for v in ran) and not self.target.arithmetic

  @property
  def best(self) -> Verdict:
    """The verdict to show: of a run of the papers' size, else of an analogue.

    Complete runs precede partial ones; then contradicted precedes inconclusive, and
    that supported.
    """
    verdicts = [v for _, v in self.results]
    ran = [v for v in verdicts if v.state != NOT_RUN]
    ran.sort(key=lambda v: (bool(v.analogue), v.partial, _ORDER.index(v.state)))
    return [*ran, *verdicts, Verdict(NOT_RUN)][0]

  def to_json(self) -> dict[str, Any]:
    """A row of scoreboard.json."""
    t, v = self.target, self.best
    return {
      'id': t.id,
      'verdict': v.state,
      'label': v.label,
      'at_papers_size': self.at_papers_size,
      'experiment': t.experiment,
      'paper': t.paper,
      'figure': t.figure,
      'kind': t.kind,
      'state': targets.STATES[t.state],
      'text': t.text,
      'where': {**t.where} if not (t.gain or t.unplaced or t.arithmetic) else None,
      'papers_value': t.printed or None,
      'papers_n': t.n,
      'predicate': {**t.predicate} or None,
      'ours': v.ours or None,
      'reason': v.reason or None,
      'caveats': list(t.caveats),
      'runs': {label: dataclasses.asdict(v) for label, v in self.results},
    }


@dataclasses.dataclass(frozen=True)
class Scoreboard:
  """All targets with the verdicts of some runs."""

  lines: tuple[Line, ...]

  @property
  def coverage(self) -> tuple[int, int]:
    """(rows run at the papers' size, all rows), without those that need no run."""
    rows = [line for line in self.lines if not line.target.arithmetic]
    return sum(line.at_papers_size for line in rows), len(rows)

  def text(self) -> str:
    """The coverage in words, with the number of each verdict on analogues."""
    ran, rows = self.coverage
    analogues = collections.Counter(
      line.best.state for line in self.lines if line.best.analogue
    )
    out = f"Coverage: {ran} of {rows} of the papers' rows run at the papers' size"
    if analogues:
      parts = (f'{n} {state}' for state, n in sorted(analogues.items()))
      out += f'; as analogues of another size: {", ".join(parts)}'
    return f'{out}.'

  def of(self, experiments: Iterable[str]) -> list[Line]:
    """The lines of some experiments, in the order of targets.yaml."""
    names = set(experiments)
    return [line for line in self.lines if line.target.experiment in names]

  def experiments(self) -> list[str]:
    """The experiments in the order of targets.yaml."""
    return list(dict.fromkeys(line.target.experiment for line in self.lines))

  def to_json(self) -> dict[str, Any]:
    """The content of scoreboard.json."""
    ran, rows = self.coverage
    by_experiment = {}
    for name in self.experiments():
      lines = [line for line in self.of([name]) if not line.target.arithmetic]
      by_experiment[name] = {
        'run': sum(line.at_papers_size for line in lines),
        'rows': len(lines),
      }
    return {
      'coverage': {
        'text': self.text(),
        'run_at_papers_size': ran,
        'rows': rows,
        'by_experiment': by_experiment,
      },
      'verdicts': collections.Counter(line.best.label for line in self.lines),
      'caveats': targets.read()['caveats'],
      'rows': [line.to_json() for line in self.lines],
    }


def judge(runs: Sequence[Evidence], labels: Sequence[str] = ()) -> Scoreboard:
  """Judges every target by the runs of its experiment."""
  labels = labels or [run.label for run in runs]
  lines = []
  for target in targets.load().values():
    results = [
      (label, verdict.judge(target, run))
      for run, label in zip(runs, labels, strict=True)
      if run.experiment == target.experiment
    ]
    if target.arithmetic:
      results = [('', verdict.by_arithmetic(target))]
    lines.append(Line(target, tuple(results)))
  return Scoreboard(tuple(lines))


def target(figure: str) -> dict[str, Any]:
  """The papers' values that a figure shows; {} for a figure that they do not have."""
  return targets.read()['figures'].get(figure, {})


def number(value: float | None) -> str:
  """A count of instructions with three significant digits, '-' for None."""
  return '-' if value is None else f'{float(f"{value:.3g}"):,.10g}'


def estimate(e: Estimate | None) -> str:
  """'412 [350, 480]', '412 (seeds: 390, 434)', '412 (one seed)', or '-' for None."""
  if e is None:
    return '-'
  text = number(e.value)
  if e.low is not None:
    text += f' [{number(e.low)}, {number(e.high)}]'
  elif len(e.per_seed) > 1:
    text += f' (seeds: {", ".join(map(number, e.per_seed.values()))})'
  else:
    text += ' (one seed)'
  return text


def flagged(e: Estimate | None) -> str:
  """An estimate in words, marked if it is extrapolated."""
  return estimate(e) + (' extrapolated' if e is not None and e.extrapolated else '')


def brackets(t: Transition) -> str:
  """The bracket as 'fails up to / holds from', such as '200 / 1,000'."""
  return ' / '.join('-' if x is None else f'{x:,.10g}' for x in t.bracket)


def compare(run: Analysis) -> list[tuple[str, str, str]]:
  """(quantity, the papers' value at their own size, ours) for the run's figure."""
  ours = _noop(run) if run.config.figure == 'noop' else _imin(run.main)
  return [
    (f'{row["what"]}{where}', row['paper'], value)
    for row in target(run.config.figure).get('rows', ())
    for where, value in ours[row['quantity']].items()
  ]


def _imin(t: Transition) -> dict[str, dict[str, str]]:
  """Quantity -> '' (there is one curve) -> our value."""
  return {
    'bracket': {'': brackets(t)},
    'i_50': {'': estimate(t.i_50)},
    'i_min': {'': flagged(t.i_min)},
  }


def _noop(run: Analysis) -> dict[str, dict[str, str]]:
  """Quantity -> no-op share in words -> our value."""
  steps, values = {}, []
  for curve in run.curves:
    if curve.slice == 'noop=0':
      t = run.fits[curve.name]
      share = curve.name.removesuffix('unseen/noop=0').rstrip('/')
      steps[f', {share}' if share else ''] = (
        f'{estimate(t.i_50)}; bracket {brackets(t)}'
      )
      values += [t.i_50.value] if t.i_50 else []
  spread = f'{max(values) / min(values):.2f}' if len(values) > 1 else '-'
  return {'i_50': steps, 'share_spread': {'': spread}}
