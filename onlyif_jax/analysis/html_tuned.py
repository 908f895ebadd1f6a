"""The html about a fine-tuning run: of a symbolic task, or of mixtures."""

import collections
import io
from collections.abc import Sequence
from pathlib import Path

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
# Settings that name people's directories.
_FIELDS = (
  *('base.directory', 'benchmarks.data', 'mixture.sources', 'mixture.tests'),
  *('mixture.encoder', 'mixture.tokenizer'),
)


def section(run: Tuned, name: str, anonymous: bool) -> list[str]:
  """Question, settings, figure, tables, map and mistakes of a run."""
  file = io.BytesIO()
  tuned_tables.draw(run, file)
  out = [f'<h2>{text(name)}</h2>'] if name else []
  known = targets.experiments().get(run.config['name'])
  question = known['question'] if known else 'Which mixture of instructions is best?'
  out.append(f'<p class="lead">{text(question)}</p>')
  out.append(f'<p class="soft">{text(" · ".join(_settings(run, anonymous)))}</p>')
  flat = config_lib.flatten(run.config)
  if anonymous:
    flat = {k: v for k, v in flat.items() if k not in _FIELDS}
  out.append(html_parts.details('Settings', flat))
  out.append(html_parts.image(file, f'figure of {run.label}'))
  out += [html_parts.grid(own) for own in tuned_tables.grids(run)]
  out += [f'<p>{text(note)}</p>' for note in tuned_tables.notes(run)]
  out += _pairs(run) if not run.symbolic else []
  out += _mixtures(run)
  out += _anatomy(run)
  return [*out, *html_errors.wrong_of(Workdir(run.path).read_json_lines('wrong.jsonl'))]


def _settings(run: Tuned, anonymous: bool) -> list[str]:
  """One line: model, training, seeds, commit."""
  c, told = run.config, run.provenance
  base = Path(c['base']['directory']).name or 'a small decoder made on the spot'
  how = f'LoRA rank {c["lora"]["rank"]}' if c['lora']['rank'] else 'all weights'
  t, stored = c['tune'], c['base']['quantize']
  out = [base, how + (f', {stored} base' if stored != 'none' else '')]
  if told.get('base_parameters'):
    out.append(f'{told["base_parameters"]:,} weights')
  out += [
    f'rate {c["optim"]["learning_rate"]:g}',
    f'{t["epochs"]} passes, batches of {t["batch_size"]} x {t["length"]} tokens',
    f'template {t["template"]}',
    f'seeds: {len({r.seed for r in run.results})}',
    f'size {c["size"]}',
  ]
  if not anonymous:
    out.append(f'commit {str(told.get("commit") or "unknown")[:10]}')
  return out


def _pairs(run: Tuned) -> list[str]:
  """Rows against their baseline, problem by problem, that open on a click."""
  found = paper_tables.details(run, paper_tables.scores(run))
  if not found:
    return []
  parts = ''.join(html_parts.grid(own) for own in found)
  return [f'<details><summary>Problem by problem</summary>{parts}</details>']


def _mixtures(run: Tuned) -> list[str]:
  """What was drawn, how diverse it is, and the map of the sets."""
  told = tuned.read_json(run.path / 'mixture' / 'manifest.json')
  found = tuned.read_json(run.path / 'mixture' / 'diversity.json')
  if not told or not found:
    return []
  out = ['<h3>The mixtures</h3>']
  file = run.path / MAP
  if file.exists():
    out.append(html_parts.image(io.BytesIO(file.read_bytes()), 'map of the sets'))
  own = ''.join(html_parts.grid(one) for one in mixture_grids.tables(told, found))
  summary = 'Rows, removals and diversity'
  return [*out, f'<details><summary>{summary}</summary>{own}</details>']


def _anatomy(run: Tuned) -> list[str]:
  """Shares of the classes of outputs, by split and row; [] without any."""
  shares: dict[tuple[str, str], dict[str, list[float]]] = {}
  for row in Workdir(run.path).read_csv('anatomy.csv'):
    share = int(row['count']) / max(int(row['examples']), 1)
    own = shares.setdefault((row['split'], tuned.without_seed(row['name'])), {})
    own.setdefault(row['class'], []).append(share)
  met = collections.Counter(
    k for own in shares.values() for k, v in own.items() if any(v)
  )
  if not met:
    return []
  rows = tuple(
    (f'{split}, {name}', *(_mean(own.get(k, [0.0])) for k in met))
    for (split, name), own in shares.items()
  )
  columns = ('split, row', *(k.replace('_', ' ') for k in met))
  return [html_parts.grid(Grid('What the outputs are, shares', columns, rows))]


def _mean(values: Sequence[float]) -> str:
  return f'{sum(values) / len(values):.3f}'
