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

ZERO_SHOT = 'zero-shot'  # the row of the model before any fine-tuning
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
    return without_seed(self.name)


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

  @property
  def label(self) -> str:
    """The run's name in tables and titles."""
    return f'{self.config["name"]}-{self.config["size"]}'

  @property
  def provenance(self) -> dict[str, Any]:
    """The content of provenance.json; {} where there is none."""
    return read_json(self.path / 'provenance.json')

  @property
  def steps(self) -> dict[str, Transition]:
    """The fits that are shown: of whole splits, and of no-ops and others apart."""
    parts = ('all', OTHERS, NOOPS)
    return {k: fit for k, fit in self.fits.items() if k.split(', ')[1] in parts}

  def mean(self, name: str, **wanted) -> float | None:
    """The mean of a row's values over seeds; name without its seed."""
    values = [
      r.value
      for r in self.results
      if r.row == name and all(getattr(r, k) == v for k, v in wanted.items())
    ]
    return float(np.mean(values)) if values else None


def is_tuned(workdir: Path) -> bool:
  """Whether a directory holds a run of fine-tuning."""
  try:
    return 'tune' in json.loads((workdir / 'config.json').read_text())
  except (OSError, ValueError):
    return False


def without_seed(name: str) -> str:
  """A row's name as its other seeds have it too."""
  return re.sub(r'-s\d+$', '', name)


def shots_row(shots: int) -> str:
  """The row of the model before fine-tuning that is shown so many solved examples."""
  return f'{shots}-shot' if shots else ZERO_SHOT


def untuned(row: str) -> str:
  """What such a row is, in words; '' for a fine-tuned model."""
  if row == ZERO_SHOT:
    return 'before tuning'
  found = re.fullmatch(r'(\d+)-shot', row)
  if found is None:
    return ''
  many = '' if found[1] == '1' else 's'
  return f'before tuning, {found[1]} example{many} in the prompt'


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


def read_json(file: Path) -> dict[str, Any]:
  """A JSON file's object; {} where there is none. Raises ConfigError."""
  if not file.exists():
    return {}
  try:
    return json.loads(file.read_text())
  except ValueError as e:
    raise ConfigError(f'{file} cannot be read: {e}') from None


def write(run: Tuned, out: Path) -> None:
  """Writes transition.json (of symbolic runs) and figure.png; raises ConfigError."""
  from onlyif_jax.analysis import tuned_tables  # it reads these classes

  try:
    out.mkdir(parents=True, exist_ok=True)
    if run.symbolic:
      told = {name: fit.to_json() for name, fit in run.fits.items()}
      (out / 'transition.json').write_text(json.dumps(told, indent=1) + '\n')
    tuned_tables.draw(run, out / 'figure.png')
  except OSError as e:
    raise ConfigError(f'{out}: cannot write the analysis ({e.strerror})') from e


def show(run: Tuned, console: Console | None = None) -> None:
  """Prints the results as tables, with what must be said of them below."""
  from onlyif_jax.analysis import tuned_evidence, tuned_tables

  found = table.verdicts(tuned_evidence.of(run))
  grids = [*tuned_tables.grids(run), *([found] if found else [])]
  out = table.show_grids(grids, console)
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
  """The model before fine-tuning as lines: alone, and with examples in the prompt."""
  for r in own:
    if words := untuned(r.row):
      line = ':' if r.row == ZERO_SHOT else (0, (6, 2, 1, 2))
      axes.axhline(
        r.value, color=look.colour, lw=0.9, ls=line, label=f'{label}, {words}'
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
