"""The html of a fine-tuning run on a symbolic task or on mixtures."""

import io
from collections.abc import Sequence

from onlyif_jax import config as config_lib
from onlyif_jax.analysis import (
  html_errors,
  html_parts,
  mixture_grids,
  paper_tables,
  targets,
  tuned,
  tuned_tables,
)
from onlyif_jax.analysis.html_parts import text
from onlyif_jax.analysis.table import Grid
from onlyif_jax.analysis.tuned import Tuned
from onlyif_jax.workdir import Workdir

MAP = 'mixture/map.png'
# Settings that hold paths, which an anonymous page leaves out.
_PATHS = (
  *('base.directory', 'benchmarks.data', 'mixture.sources', 'mixture.tests'),
  *('mixture.encoder', 'mixture.tokenizer'),
)


def section(run: Tuned, name: str, anonymous: bool) -> list[str]:
  """A run's question, settings, figure, tables, map and mistakes."""
  file = io.BytesIO()
  tuned_tables.draw(run, file)
  out = [f'<h2>{text(name)}</h2>'] if name else []
  experiment = targets.experiments().get(run.config['name'])
  question = 'Which mixture of instructions is best?'
  if experiment:
    question = experiment['question']
  out.append(f'<p class="lead">{text(question)}</p>')
  out.append(f'<p class="soft">{text(" · ".join(_settings(run, anonymous)))}</p>')
  flat = config_lib.flatten(run.config)
  if anonymous:
    flat = {k: v for k, v in flat.items() if k not in _PATHS}
  out.append(html_parts.details('Settings', flat))
  out.append(html_parts.image(file, f'figure of {run.label}'))
  out += [html_parts.grid(grid) for grid in tuned_tables.grids(run)]
  out += [f'<p>{text(note)}</p>' for note in tuned_tables.notes(run)]
  out += _pairs(run) if not run.symbolic else []
  out += _mixtures(run)
  out += _anatomy(run)
  wrong = Workdir(run.path).read_json_lines('wrong.jsonl')
  return [*out, *html_errors.wrong_rows(wrong)]


def _settings(run: Tuned, anonymous: bool) -> list[str]:
  """The parts of a line: model, training, seeds, commit."""
  c, provenance = run.config, run.provenance
  tune, quantize = c['tune'], c['base']['quantize']
  quantized = f', {quantize} base' if quantize != 'none' else ''
  out = [run.base_name, run.trained_weights + quantized]
  if provenance.get('base_parameters'):
    out.append(f'{provenance["base_parameters"]:,} weights')
  out += [
    f'rate {c["optim"]["learning_rate"]:g}',
    f'{tune["epochs"]} passes, batches of {tune["batch_size"]} x '
    f'{tune["length"]} tokens',
    f'template {tune["template"]}',
    f'seeds: {len({r.seed for r in run.results})}',
    f'size {c["size"]}',
  ]
  if not anonymous:
    out.append(f'commit {str(provenance.get("commit") or "unknown")[:10]}')
  return out


def _pairs(run: Tuned) -> list[str]:
  """Rows against their baseline, problem by problem; opens on a click."""
  grids = paper_tables.details(run, paper_tables.scores(run))
  if not grids:
    return []
  body = ''.join(html_parts.grid(grid) for grid in grids)
  return [f'<details><summary>Problem by problem</summary>{body}</details>']


def _mixtures(run: Tuned) -> list[str]:
  """What was drawn, how diverse it is, and the map of the sets."""
  manifest = tuned.read_json(run.path / 'mixture' / 'manifest.json')
  diversity = tuned.read_json(run.path / 'mixture' / 'diversity.json')
  if not manifest or not diversity:
    return []
  out = ['<h3>The mixtures</h3>']
  file = run.path / MAP
  if file.exists():
    out.append(html_parts.image(io.BytesIO(file.read_bytes()), 'map of the sets'))
  grids = mixture_grids.tables(manifest, diversity)
  body = ''.join(html_parts.grid(grid) for grid in grids)
  summary = 'Rows, removals and diversity'
  return [*out, f'<details><summary>{summary}</summary>{body}</details>']


def _anatomy(run: Tuned) -> list[str]:
  """Shares of the classes of outputs, by split and row; [] without any."""
  shares: dict[tuple[str, str], dict[str, list[float]]] = {}
  for row in Workdir(run.path).read_csv('anatomy.csv'):
    share = int(row['count']) / max(int(row['examples']), 1)
    by_class = shares.setdefault((row['split'], tuned.without_seed(row['name'])), {})
    by_class.setdefault(row['class'], []).append(share)
  classes = dict.fromkeys(
    name
    for by_class in shares.values()
    for name, values in by_class.items()
    if any(values)
  )
  if not classes:
    return []
  rows = tuple(
    (f'{split}, {name}', *(_mean(by_class.get(k, [0.0])) for k in classes))
    for (split, name), by_class in shares.items()
  )
  columns = ('split, row', *(k.replace('_', ' ') for k in classes))
  return [html_parts.grid(Grid('What the outputs are, shares', columns, rows))]


def _mean(values: Sequence[float]) -> str:
  return f'{sum(values) / len(values):.3f}'
