"""One self-contained html page about fine-tuning runs: symbolic tasks and mixtures."""

import collections
import html
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from onlyif_jax import config as config_lib
from onlyif_jax.analysis import html as page_lib
from onlyif_jax.analysis import (
  html_errors,
  mixture_grids,
  paper_tables,
  targets,
  tuned,
  tuned_tables,
)
from onlyif_jax.analysis.table import Grid
from onlyif_jax.analysis.tuned import Tuned
from onlyif_jax.config import ConfigError
from onlyif_jax.workdir import Workdir

MAP = 'mixture/map.png'
_FIELDS = ('base.directory', 'mixture.encoder', 'mixture.tokenizer', 'benchmarks.data')


def is_tuned(workdir: Path) -> bool:
  """Whether a directory holds a run of fine-tuning."""
  try:
    return 'tune' in json.loads((workdir / 'config.json').read_text())
  except (OSError, ValueError):
    return False


def page(runs: Sequence[Tuned], *, anonymous: bool = False) -> str:
  """The page's html; anonymous leaves out commit, user, host, paths and command."""
  labels = [label(run) for run in runs]
  title = ', '.join(dict.fromkeys(labels))
  body = [f'<h1>{_text(title)}</h1>']
  for run, name in zip(runs, labels, strict=True):
    body += _section(run, name if len(runs) > 1 else '', anonymous)
  body.append('<h2>Provenance</h2>')
  for run, name in zip(runs, labels, strict=True):
    told = _json(run.path / 'provenance.json')
    body += page_lib.provenance(told, name if len(runs) > 1 else '', anonymous)
  return page_lib.document(title, body)


def label(run: Tuned) -> str:
  """The run's name in titles."""
  return f'{run.config["name"]}-{run.config["size"]}'


def _section(run: Tuned, name: str, anonymous: bool) -> list[str]:
  """Question, settings, figure, tables, map and mistakes of a run."""
  file = io.BytesIO()
  tuned_tables.draw(run, file)
  out = [f'<h2>{_text(name)}</h2>'] if name else []
  known = targets.experiments().get(run.config['name'])
  question = known['question'] if known else 'Which mixture of instructions is best?'
  out.append(f'<p class="lead">{_text(question)}</p>')
  out.append(f'<p class="soft">{_text(" · ".join(_settings(run, anonymous)))}</p>')
  flat = config_lib.flatten(run.config)
  if anonymous:
    flat = {k: v for k, v in flat.items() if k not in (*_FIELDS, 'mixture.sources')}
  out.append(page_lib.details('Settings', flat))
  out.append(page_lib.image(file, f'figure of {label(run)}'))
  out += [page_lib.grid(own) for own in tuned_tables.grids(run)]
  out += [f'<p>{_text(note)}</p>' for note in tuned_tables.notes(run)]
  out += _pairs(run) if not run.symbolic else []
  out += _mixtures(run)
  out += _anatomy(run)
  return [*out, *html_errors.wrong_of(Workdir(run.path).read_json_lines('wrong.jsonl'))]


def _settings(run: Tuned, anonymous: bool) -> list[str]:
  """One line: model, training, seeds, commit."""
  c, told = run.config, _json(run.path / 'provenance.json')
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
  parts = ''.join(page_lib.grid(own) for own in found)
  return [f'<details><summary>Problem by problem</summary>{parts}</details>']


def _mixtures(run: Tuned) -> list[str]:
  """What was drawn, how diverse it is, and the map of the sets."""
  told = _json(run.path / 'mixture' / 'manifest.json')
  found = _json(run.path / 'mixture' / 'diversity.json')
  if not told or not found:
    return []
  out = ['<h3>The mixtures</h3>']
  file = run.path / MAP
  if file.exists():
    out.append(page_lib.image(io.BytesIO(file.read_bytes()), 'map of the sets'))
  own = ''.join(page_lib.grid(one) for one in mixture_grids.tables(told, found))
  summary = 'Rows, removals and diversity'
  return [*out, f'<details><summary>{summary}</summary>{own}</details>']


def _anatomy(run: Tuned) -> list[str]:
  """Shares of the classes of outputs, by split and row; [] without any."""
  shares: dict[tuple[str, str], dict[str, list[float]]] = {}
  for row in Workdir(run.path).read_csv('anatomy.csv'):
    share = int(row['count']) / max(int(row['examples']), 1)
    own = shares.setdefault((row['split'], row['name'].rpartition('-s')[0]), {})
    own.setdefault(row['class'], []).append(share)
  met = collections.Counter(
    k for own in shares.values() for k, v in own.items() if any(v)
  )
  if not met:
    return []
  rows = tuple(
    (f'{split}, {name or tuned.ZERO_SHOT}', *(_mean(own.get(k, [0.0])) for k in met))
    for (split, name), own in shares.items()
  )
  columns = ('split, row', *(k.replace('_', ' ') for k in met))
  return [page_lib.grid(Grid('What the outputs are, shares', columns, rows))]


def _mean(values: Sequence[float]) -> str:
  return f'{sum(values) / len(values):.3f}'


def _json(file: Path) -> dict[str, Any]:
  """A JSON file's object; {} where there is none."""
  if not file.exists():
    return {}
  try:
    return json.loads(file.read_text())
  except ValueError as e:
    raise ConfigError(f'{file} cannot be read: {e}') from None


def _text(value) -> str:
  return html.escape(str(value))
