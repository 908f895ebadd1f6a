"""A workdir with made-up results, as a run would leave it."""

import csv
import dataclasses
import json

import numpy as np

from onlyif_jax import config as config_lib
from onlyif_jax.workdir import DYNAMICS_COLUMNS, RESULT_COLUMNS

COUNTS = (29, 101, 199, 307, 503, 1009, 1999, 3001, 5003, 10007)
REFERENCES = {
  'one': 0.0,
  'infinite_rules': 0.985,
  'infinite_inputs': 0.95,
  'masked': 0.001,
  'permuted': 0.0,
}
STEPS = (1, 3, 11, 37, 127, 1200)


def accuracy(count, i50, slope=12.0, ceiling=0.97):
  """The logistic that the made-up members follow, without noise."""
  return ceiling / (1 + np.exp(-slope * (np.log10(count) - np.log10(i50))))


def make(
  workdir,
  *,
  figure='imin',
  seeds=3,
  counts=COUNTS,
  shares=(0.0,),
  references=True,
  i50=419,
  spread=0.1,
  name=None,
):
  """Writes config.json, provenance.json, results.csv and dynamics.csv; the path."""
  workdir.mkdir(parents=True)
  config = config_lib.RunConfig(
    name=name or figure,
    figure=figure,
    task=config_lib.TASKS['rewrite'](noops=figure == 'noop'),
    sweep=config_lib.SweepConfig(counts=counts, seeds=str(seeds), noop_shares=shares),
  )
  (workdir / 'config.json').write_text(json.dumps(dataclasses.asdict(config)))
  provenance = {
    'commit': 'abc123456789def',
    'command': 'python -m onlyif_jax.main --workdir=/home/alice/run',
    'versions': {'jax': '0.10.2'},
    'host': 'wonderland',
    'user': 'alice',
    'parameters': 161_536,
  }
  (workdir / 'provenance.json').write_text(json.dumps(provenance))
  rows, dynamics = [], []
  rng = np.random.default_rng(5)
  for share in shares:
    middles = i50 * 10 ** (spread * rng.standard_normal(seeds))
    for count in counts:
      for seed, middle in enumerate(middles):
        member = f'q{share:g}-i{count}-s{seed}'
        base = _member(member, '', count, share, str(seed))
        right = accuracy(count, middle)
        rows += [base | line for line in _results(right, figure == 'noop')]
        dynamics += [base | line for line in _dynamics(right)]
  for reference, right in REFERENCES.items() if references else ():
    base = _member(reference, reference, 1009, 0.0, '0')
    rows += [base | line for line in _results(right, figure == 'noop')]
  _write(workdir / 'results.csv', RESULT_COLUMNS, rows)
  _write(workdir / 'dynamics.csv', DYNAMICS_COLUMNS, dynamics)
  return workdir


def _member(member, reference, count, share, seed):
  base = {'member': member, 'reference': reference, 'instructions': count}
  seeds = dict.fromkeys(('rules_seed', 'init_seed', 'order_seed', 'seed'), seed)
  rest = {'noop_share': share, 'learning_rate': 0.001, 'rules_met': count}
  return base | seeds | rest | {'tokens': 7, 'flops': 11}


def _results(right, noops):
  yield _line('seen', 'all', 'exact_match', 0.98 if right > 0.5 else 0.93, 2003)
  yield _line('unseen', 'all', 'answer_nll', 1.5, 2003)
  if not noops:
    yield _line('unseen', 'all', 'exact_match', right, 2003)
    yield _line('unseen', 'cell=seenx_newy', 'exact_match', right, 499)
    return
  yield _line('unseen', 'noop=0', 'exact_match', right, 1009)
  yield _line('unseen', 'noop=1', 'exact_match', 0.9, 1009)
  yield _line('unseen', 'all', 'exact_match', (right + 0.9) / 2, 2018)
  yield _line('unseen', 'near_miss=1', 'exact_match', 0.83, 499)
  yield _line('unseen', 'mix=train', 'exact_match', 0.79, 2003)
  yield _line('unseen', 'noop=0', 'false_no_op', 0.03, 1009)
  yield _line('unseen', 'noop=1', 'false_op', 0.07, 1009)


def _line(split, slice_name, metric, value, count):
  total = round(value * count)
  return {
    'split': split,
    'slice': slice_name,
    'metric': metric,
    'sum': total,
    'count': count,
    'value': total / count,
    'rule_se': 0.01,
  }


def _dynamics(right):
  """Accuracy that peaks before the last step."""
  for step in STEPS:
    value = right * min(1, step / 127) * (0.9 if step == STEPS[-1] else 1.0)
    line = _line('dev', 'all', 'exact_match', value, 257)
    yield {k: line[k] for k in DYNAMICS_COLUMNS if k in line} | {'step': step}


def _write(path, columns, rows):
  with path.open('w', newline='') as file:
    writer = csv.DictWriter(file, columns, extrasaction='ignore', lineterminator='\n')
    writer.writeheader()
    writer.writerows(rows)
