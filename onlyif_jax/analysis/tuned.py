"""Results of fine-tuning runs: curves over the number of rules, fits, a figure.

A run of a symbolic task gives the same curves as a sweep from scratch: exact match on
unseen rules against their number, for no-ops and for other inputs. A run of mixtures
gives a table with one row per mixture.
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

from onlyif_jax import config as config_lib
from onlyif_jax.analysis import figures_style as style
from onlyif_jax.analysis import panels, table
from onlyif_jax.analysis.transition import Point, Transition, fit_transition
from onlyif_jax.config import ConfigError
from onlyif_jax.tuning_settings import parse_variant

ZERO_SHOT = 'zero-shot'  # the row of the model before any fine-tuning
OTHERS, NOOPS = 'noop=0', 'noop=1'


class Result(NamedTuple):
  """One row of results.csv."""

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
  variant: str = ''  # one of instructions.variants

  @property
  def value(self) -> float:
    """sum / count."""
    return self.sum / self.count

  @property
  def row(self) -> str:
    """The name without its seed, which all seeds share."""
    return without_seed(self.name)


class Tuned(NamedTuple):
  """A run's config and results; fits: 'split, slice' -> fit.

  Of several variants each has its own fits, 'variant/split, slice'.
  """

  path: Path
  config: dict[str, Any]
  results: list[Result]
  fits: dict[str, Transition]

  @property
  def symbolic(self) -> bool:
    """Whether the run is of a symbolic task rather than of mixtures."""
    return 'task' in self.config

  @property
  def variants(self) -> tuple[str, ...]:
    """The texts of the run's variants; ('',) where there is only one."""
    return tuple(self.config.get('instructions', {}).get('variants', ())) or ('',)

  def changes(self, variant: str) -> dict[str, Any]:
    """The settings that a variant changes: 'task.depth' -> 4; its counts too."""
    if not variant:
      return {}
    kind = config_lib.task_settings(self.config['task']['name'])
    return parse_variant(kind, variant)

  def task(self, variant: str) -> dict[str, Any]:
    """The settings of the task in a variant."""
    changes = self.changes(variant).items()
    return self.config['task'] | {k.removeprefix('task.'): v for k, v in changes}

  @property
  def label(self) -> str:
    """The run's name in tables and titles."""
    return f'{self.config["name"]}-{self.config["size"]}'

  @property
  def base_name(self) -> str:
    """The name of the base model's directory, or what stands for it."""
    directory = self.config['base']['directory']
    return Path(directory).name or 'a small decoder made on the spot'

  @property
  def trained_weights(self) -> str:
    """'LoRA rank 16' or 'all weights'."""
    rank = self.config['lora']['rank']
    return f'LoRA rank {rank}' if rank else 'all weights'

  @property
  def provenance(self) -> dict[str, Any]:
    """The content of provenance.json; {} if there is none."""
    return read_json(self.path / 'provenance.json')

  @property
  def steps(self) -> dict[str, Transition]:
    """The fits that are shown: of whole splits, of no-ops and of the others."""
    parts = ('all', OTHERS, NOOPS)
    return {k: fit for k, fit in self.fits.items() if k.split(', ')[1] in parts}

  def mean(self, name: str, **fields: str) -> float | None:
    """A row's mean over seeds, of the results with these fields."""
    values = [
      r.value
      for r in self.results
      if r.row == name and all(getattr(r, k) == v for k, v in fields.items())
    ]
    return float(np.mean(values)) if values else None


def is_tuned(workdir: Path) -> bool:
  """Whether a directory holds a fine-tuning run."""
  try:
    return 'tune' in json.loads((workdir / 'config.json').read_text())
  except (OSError, ValueError):
    return False


def without_seed(name: str) -> str:
  """A row's name without its seed."""
  return re.sub(r'-s\d+$', '', name)


def shots_row(shots: int) -> str:
  """The row of the untuned model with `shots` solved examples in the prompt."""
  return f'{shots}-shot' if shots else ZERO_SHOT


def untuned(row: str) -> str:
  """A row of the untuned model in words; '' for a fine-tuned model.

  Where variants ask different questions, the row's name has them: 'zero-shot-depth4'.
  """
  if re.fullmatch(rf'{ZERO_SHOT}(-.+)?', row):
    return 'before tuning'
  match = re.fullmatch(r'(\d+)-shot(-.+)?', row)
  if match is None:
    return ''
  plural = '' if match[1] == '1' else 's'
  return f'before tuning, {match[1]} example{plural} in the prompt'


def load(path: Path) -> Tuned:
  """Reads a workdir's results and fits them; raises ConfigError if there are none."""
  file = path / 'results.csv'
  if not file.exists():
    raise ConfigError(f'{path} has no results.csv yet; run main with its config first')
  config = json.loads((path / 'config.json').read_text())
  if 'instructions' in config:  # runs of before there were variants
    config['instructions'].setdefault('variants', [])
  with file.open(newline='') as lines:
    results = [
      Result(
        *(row['name'], row['seed'], int(row['instructions']), row['subset']),
        *(row['mixture'], row['split'], row['slice'], row['metric']),
        *(float(row['sum']), int(row['count']), row.get('variant') or ''),
      )
      for row in csv.DictReader(lines)
    ]
  curves = collections.defaultdict(list)
  for r in results:
    if r.metric == 'exact_match' and r.instructions and r.subset == 'all':
      name = f'{r.variant}/' if r.variant else ''
      curves[f'{name}{r.split}, {r.slice}'].append(
        Point(r.instructions, r.sum, r.count, r.seed)
      )
  fits = {name: fit_transition(points) for name, points in curves.items()}
  return Tuned(path, config, results, fits)


def read_json(file: Path) -> dict[str, Any]:
  """The object in a JSON file, {} without a file; raises ConfigError."""
  if not file.exists():
    return {}
  try:
    return json.loads(file.read_text())
  except ValueError as e:
    raise ConfigError(f'{file} cannot be read: {e}') from None


def write(run: Tuned, out: Path) -> None:
  """Writes transition.json (of symbolic runs) and figure.png; raises ConfigError."""
  from onlyif_jax.analysis import tuned_sweep, tuned_tables  # import this module

  try:
    out.mkdir(parents=True, exist_ok=True)
    if run.symbolic:
      fits = {name: fit.to_json() for name, fit in run.fits.items()}
      content = fits | tuned_sweep.best_shares_json(run)
      (out / 'transition.json').write_text(json.dumps(content, indent=1) + '\n')
    tuned_tables.draw(run, out / 'figure.png')
  except OSError as e:
    raise ConfigError(f'{out}: cannot write the analysis ({e.strerror})') from e


def show(run: Tuned, console: Console | None = None) -> None:
  """Prints the results as tables, with notes below."""
  from onlyif_jax.analysis import tuned_evidence, tuned_tables  # import this module

  grids = tuned_tables.grids(run)
  if verdicts := table.verdicts(tuned_evidence.of(run)):
    grids.append(verdicts)
  console = table.show_grids(grids, console)
  for note in tuned_tables.notes(run):
    console.print(note, highlight=False, markup=False)


def grid(run: Tuned) -> table.Grid:
  """Mean results: a row per number of rules and subset, or per mixture."""
  if not run.symbolic:
    return _mixtures(run)
  splits = list(dict.fromkeys(r.split for r in run.results))
  columns = [(split, part) for split in splits for part in ('all', OTHERS, NOOPS)]
  names = list(dict.fromkeys(r.row for r in run.results))
  rows = {}
  for name in sorted(names, key=lambda n: _order(run, n)):
    means = (
      run.mean(name, split=split, slice=part, metric='exact_match')
      for split, part in columns
    )
    rows[name] = [_text(mean) for mean in means]
  kept = [n for n in range(len(columns)) if any(cells[n] for cells in rows.values())]
  return table.Grid(
    'Exact match, mean over seeds',
    ('row', *(' '.join(columns[n]) for n in kept)),
    tuple((name, *(cells[n] for n in kept)) for name, cells in rows.items()),
  )


def draw(run: Tuned, file) -> None:
  """Draws exact match over the number of rules, for no-ops, other inputs and both."""
  plt = style.pyplot()
  with plt.rc_context(style.STYLE):
    page = style.Page(plt, f'{run.config["name"]}: unseen rules after fine-tuning')
    (axes,) = page.row([5.6], 3.2)
    unseen = [
      r for r in run.results if r.split == 'unseen' and r.metric == 'exact_match'
    ]
    for n, (label, results) in enumerate(_series(run, unseen)):
      if results:
        _curve(axes, results, style.look(n), label)
        _untuned_lines(axes, results, style.look(n), label)
    axes.set(
      xscale='log', ylim=(-0.03, 1.03), xlabel='training rules I', ylabel='exact match'
    )
    panels.count_ticks(axes.xaxis)
    style.save(plt, page.finish(footer(run), [axes]), file)


def _series(run: Tuned, unseen: Sequence[Result]) -> list[tuple[str, list[Result]]]:
  """(label, results) of each variant: of all inputs, with x, and no-ops."""
  parts = {'all': 'all', OTHERS: 'inputs with x', NOOPS: 'no-ops'}
  parts = {k: v for k, v in parts.items() if any(r.slice == k for r in unseen)}
  series = []
  for variant in run.variants:
    words = panels.setting_words(
      {k: v for k, v in run.changes(variant).items() if k.startswith('task.')}
    )
    for part, label in parts.items():
      results = [r for r in unseen if (r.slice, r.variant) == (part, variant)]
      if words:
        label = f'{words}: {label}' if len(parts) > 1 else words
      series.append((label, results))
  return series


def _curve(axes, results: Sequence[Result], look: style.Look, label: str) -> None:
  """Means and seeds over I; subsets as hollow points."""
  points = [r for r in results if r.instructions and r.subset == 'all']
  counts = sorted({r.instructions for r in points})
  means = [np.mean([r.value for r in points if r.instructions == i]) for i in counts]
  axes.plot(
    counts,
    means,
    label=label,
    color=look.colour,
    marker=look.marker,
    linestyle=look.line,
  )
  if len({r.seed for r in points}) > 1:
    x, y = [r.instructions for r in points], [r.value for r in points]
    axes.scatter(x, y, s=12, color=look.colour, alpha=0.5)
  subsets = [r for r in results if r.subset not in ('all', '') and r.instructions]
  for r in subsets:
    axes.plot(
      r.instructions, r.value, marker=look.marker, color=look.colour, mfc='white'
    )
    axes.annotate(r.subset, (r.instructions, r.value), fontsize=7)


def _untuned_lines(
  axes, results: Iterable[Result], look: style.Look, label: str
) -> None:
  """The untuned model as lines: zero-shot, and with examples in the prompt."""
  for r in results:
    if words := untuned(r.row):
      line = ':' if r.row.startswith(ZERO_SHOT) else (0, (6, 2, 1, 2))
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


def _order(run: Tuned, name: str) -> tuple[int, int, bool, str]:
  """Sorts rows by variant and the number of rules, whole sets before subsets."""
  for r in run.results:
    if r.row == name:
      # What the untuned model says comes first, whatever the variant.
      variant = run.variants.index(r.variant) if r.instructions else -1
      return variant, r.instructions, r.subset != 'all', r.subset
  return -1, 0, False, ''


def _text(value: float | None) -> str:
  return '' if value is None else f'{value:.3f}'


def footer(run: Tuned) -> list[str]:
  """The footer of a symbolic run's figure: settings, and the papers' result."""
  c = run.config
  seeds = len({r.seed for r in run.results})
  settings = (
    f'{run.base_name}; {run.trained_weights}; '
    f'N = {c["instructions"]["examples"]:,}; '
    f'{c["tune"]["epochs"]} passes; seeds: {seeds}; size {c["size"]}'
  )
  return [settings, *([f'paper: {c["paper"]}'] if c['paper'] else [])]
