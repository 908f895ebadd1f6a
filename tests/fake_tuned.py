"""Workdirs of fine-tuning with made-up results, as a run would leave them."""

import csv
import dataclasses
import json
from pathlib import Path

import numpy as np

from onlyif_jax.finetune import answers, rows, tuning_config

ROOT = Path(__file__).resolve().parents[1]
COLUMNS = (*rows.COLUMNS, *answers.RESULT_COLUMNS)
VERSIONS = {399: 'MBPP+ v0.1.0', 378: 'MBPP+ v0.2.0'}


def config(name, arg='7b'):
  """The frozen config of a file."""
  path = ROOT / 'configs' / f'{name}.py'
  scope = {'__file__': str(path)}
  exec(path.read_text(), scope)
  return tuning_config.freeze(scope['get_config'](arg))


def write(path, tuning, results):
  """config.json, provenance.json and results.csv; results: (row, split, slice,
  metric, sum, count) each."""
  path.mkdir(parents=True)
  (path / 'config.json').write_text(json.dumps(dataclasses.asdict(tuning)))
  told = {'command': 'python -m onlyif_jax.main --config=x.py', 'commit': 'c0ffee'}
  told |= {'base_parameters': 6_740_512_768, 'versions': {'jax': '0.10'}}
  (path / 'provenance.json').write_text(json.dumps(told))
  with (path / 'results.csv').open('w', newline='') as file:
    writer = csv.writer(file, lineterminator='\n')
    writer.writerow(COLUMNS)
    for row, split, slice_, metric, total, count in results:
      own = row.columns().values()
      writer.writerow([*own, split, slice_, metric, total, count, total / count])
  return path


def mixtures(path, name, *, arg='7b', keep=None):
  """A run of mixtures: held-out losses of every row, or of the first `keep`."""
  tuning = config(name, arg)
  own = rows.rows(tuning)[:keep]
  zero = dataclasses.replace(own[0], name='zero-shot', mixture='')
  sources = [file.name for file in tuning.mixture.source_files]
  results = [
    (row, 'heldout', f'source={s}', metric, 101.0 * (n + 2) / (m + 3), 101)
    for m, row in enumerate([zero, *own])
    for n, s in enumerate(sources)
    for metric in ('response_nll', 'token_accuracy')
  ]
  return write(path, tuning, results)


def solve(path, row, solved, *, folder=None, version=''):
  """A row's benchmark of code; solved: suite -> right (0 or 1) by problem."""
  sizes = {len(right) for right in solved.values()}
  (count,) = sizes
  version = version or VERSIONS.get(count, f'humaneval+, {count} problems')
  folder = folder or ('mbpp' if 'MBPP' in version else 'humaneval')
  own = path / 'benchmarks' / row / folder
  own.mkdir(parents=True)
  shares = {s: {'1': float(np.mean(right))} for s, right in solved.items()}
  told = {'problems': version, 'pass_at': shares, 'origin': {'protocol': 'papers-code'}}
  (own / 'scores.json').write_text(json.dumps(told))
  lines = ['task_id,samples,base_correct,plus_correct']
  for n in range(count):
    cells = [str(int(solved[s][n])) if s in solved else '' for s in ('base', 'plus')]
    lines.append(f'T/{n},1,{",".join(cells)}')
  (own / 'problems.csv').write_text('\n'.join(lines) + '\n')
  return own


def score(path, row, benchmark, **values):
  """A row's other benchmark: name of a score -> (value, low, high)."""
  own = path / 'benchmarks' / row
  own.mkdir(parents=True, exist_ok=True)
  scores = {
    k.replace('__', ','): {'value': v, 'low': low, 'high': high}
    for k, (v, low, high) in values.items()
  }
  first = next(iter(scores))
  told = {'benchmark': benchmark, 'metric': first, 'score': scores[first]['value']}
  told |= {'scores': scores, 'data': benchmark}
  (own / f'{benchmark}.json').write_text(json.dumps(told))


def right(count, share, seed=0):
  """0 or 1 by problem: the first ones of a fixed order of difficulty."""
  order = np.random.default_rng(seed).permutation(count)
  return (order < round(share * count)).astype(int)
