"""Results of fine-tuning runs: curves over the number of rules, fits, a figure.

A run of a symbolic task is a curve as the sweeps from scratch have it: exact match on
unseen rules against their number, no-ops and the others apart. A run of mixtures is a
table, a row for each mixture.
"""

import collections
import csv
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console

from onlyif_jax.analysis import figures_style as style
from onlyif_jax.analysis import table
from onlyif_jax.analysis.transition import Point, Transition, fit_transition
from onlyif_jax.config import ConfigError

ZERO_SHOT = 'zero-shot'
OTHERS, NOOPS = 'noop=0', 'noop=1'


class Result(NamedTuple):
  """One line of results.csv."""

  name: str
  seed: str
  instructions: int
  subset: str
  mixture: str
  split: str
  slice: str
  metric: str
  sum: float
  count: int

  @property
  def value(self) -> float:
    """sum / count."""
    return self.sum / self.count

  @property
  def row(self) -> str:
    """The name without its seed."""
    return re.sub(r'-s\d+$', '', self.name)


class Tuned(NamedTuple):
  """A run's config, results and fits by 'split, slice'."""

  path: Path
  config: dict[str, Any]
  results: list[Result]
  fits: dict[str, Transition]

  @property
  def symbolic(self) -> bool:
    """Whether it is a run of a symbolic task, with numbers of rules."""
    return 'task' in self.config

  def mean(self, name: str, **wanted) -> float | None:
    """The mean of a row's values over seeds; name without its seed."""
    values = [
      r.value
      for r in self.results
      if r.row == name and all(getattr(r, k) == v for k, v in wanted.items())
    ]
    return float(np.mean(values)) if values else None


def load(path: Path) -> Tuned:
  """The results of a workdir, with the fits; raises ConfigError where there are none."""
  file = path / 'results.csv'
  if not file.exists():
    raise ConfigError(f'{path} has no results.csv yet; run main with its config first')
  config = json.loads((path / 'config.json').read_text())
  with file.open(newline='') as lines:
    results = [
      Result(
        *(row['name'], row['seed'], int(row['instructions']), row['subset']),
        *(row['mixture'], row['split'], row['slice'], row['metric']),
        *(float(row['sum']), int(row['count'])),
      )
      for row in csv.DictReader(lines)
    ]
  curves = collections.defaultdict(list)
  for r in results:
    if r.metric == 'exact_match' and r.instructions and r.subset == 'all':
      curves[f'{r.split}, {r.slice}'].append(
        Point(r.instructions, r.sum, r.count, r.seed)
      )
  fits = {name: fit_transition(points) for name, points in curves.items()}
  return Tuned(path, config, results, fits)


def write(path: Path) -> Tuned:
  """Writes transition.json (of symbolic runs) and figure.png; the loaded run."""
  from onlyif_jax.analysis import tuned_tables  # it reads these classes

  run = load(path)
  if run.symbolic:
    told = {name: fit.to_json() for name, fit in run.fits.items()}
    (path / 'transition.json').write_text(json.dumps(told, indent=1) + '\n')
  tuned_tables.draw(run, path / 'figure.png')
  return run


def show(run: Tuned, console: Console | None = None) -> None:
  """Prints the results as tables, with what must be said of them below."""
  from onlyif_jax.analysis import tuned_tables

  out = table.show_grids(tuned_tables.grids(run), console)
  for note in tuned_tables.notes(run):
    out.print(note, highlight=False, markup=False)


def grid(run: Tuned) -> table.Grid:
  """A row of results for each number of rules and subset, or for each mixture."""
  if not run.symbolic:
    return _mixtures(run)
  splits = list(dict.fromkeys(r.split for r in run.results))
  columns = [(split, part) for split in splits for part in ('all', OTHERS, NOOPS)]
  names = list(dict.fromkeys(r.row for r in run.results))
  lines = []
  for name in sorted(names, key=lambda n: _order(run, n)):
    values = [
      run.mean(name, split=split, slice=part, metric='exact_match')
      for split, part in columns
    ]
    lines.append([name, *(_text(v) for v in values)])
  kept = [n for n in range(len(columns)) if any(line[n + 1] for line in lines)]
  header = ('row', *(f'{columns[n][0]} {columns[n][1]}' for n in kept))
  rows = tuple((line[0], *(line[n + 1] for n in kept)) for line in lines)
  return table.Grid('Exact match, mean over seeds', header, rows)


def draw(run: Tuned, file) -> None:
  """Exact match against the number of rules: no-ops, the others, both; subsets."""
  plt = style.pyplot()
  with plt.rc_context(style.STYLE):
    page = style.Page(plt, f'{run.config["name"]}: unseen rules after fine-tuning')
    (axes,) = page.row([5.6], 3.2)
    unseen = [
      r for r in run.results if r.split == 'unseen' and r.metric == 'exact_match'
    ]
    series = (('all', 'all'), (OTHERS, 'inputs with x'), (NOOPS, 'no-ops'))
    for n, (part, label) in enumerate(series):
      own = [r for r in unseen if r.slice == part]
      if own:
        _curve(axes, own, style.look(n), label)
        _flat(axes, own, style.look(n), label)
    axes.set(
      xscale='log', ylim=(-0.03, 1.03), xlabel='training rules I', ylabel='exact match'
    )
    parts = [_footer(run)]
    if run.config['paper']:
      parts.append(f'paper: {run.config["paper"]}')
    style.save(plt, page.finish(parts, [axes]), file)


def _curve(axes, own: Sequence[Result], look, label: str) -> None:
  points = [r for r in own if r.instructions and r.subset == 'all']
  counts = sorted({r.instructions for r in points})
  means = [np.mean([r.value for r in points if r.instructions == i]) for i in counts]
  how = {'color': look.colour, 'marker': look.marker, 'linestyle': look.line}
  axes.plot(counts, means, label=label, **how)
  if len({r.seed for r in points}) > 1:
    x, y = [r.instructions for r in points], [r.value for r in points]
    axes.scatter(x, y, s=12, color=look.colour, alpha=0.5)
  hollow = [r for r in own if r.subset not in ('all', '') and r.instructions]
  for r in hollow:
    axes.plot(
      r.instructions, r.value, marker=look.marker, color=look.colour, mfc='white'
    )
    axes.annotate(r.subset, (r.instructions, r.value), fontsize=7)


def _flat(axes, own: Iterable[Result], look, label: str) -> None:
  for r in own:
    if r.name == ZERO_SHOT:
      axes.axhline(
        r.value, color=look.colour, lw=0.8, ls=':', label=f'{label}, before tuning'
      )


def _mixtures(run: Tuned) -> table.Grid:
  columns = list(dict.fromkeys((r.split, r.slice, r.metric) for r in run.results))
  names = list(dict.fromkeys(r.row for r in run.results))
  rows = []
  for name in names:
    values = [run.mean(name, split=s, slice=p, metric=m) for s, p, m in columns]
    rows.append((name, *(_text(v) for v in values)))
  header = (f'{p} {m}' if p != 'all' else f'{s} {m}' for s, p, m in columns)
  return table.Grid('Mixtures, mean over seeds', ('mixture', *header), tuple(rows))


def _order(run: Tuned, name: str):
  for r in run.results:
    if r.row == name:
      return r.instructions, r.subset != 'all', r.subset
  return 0, False, ''


def _text(value: float | None) -> str:
  return '' if value is None else f'{value:.3f}'


def _footer(run: Tuned) -> str:
  c = run.config
  seeds = len({r.seed for r in run.results})
  base = Path(c['base']['directory']).name or 'a small decoder made on the spot'
  how = f'LoRA rank {c["lora"]["rank"]}' if c['lora']['rank'] else 'all weights'
  return (
    f'{base}; {how}; N = {c["instructions"]["examples"]:,}; '
    f'{c["tune"]["epochs"]} passes; seeds: {seeds}; size {c["size"]}'
  )
