"""A workdir with made-up results, as a run would leave it."""

import csv
import dataclasses
import json
import math

import numpy as np

from onlyif_jax import config as config_lib
from onlyif_jax.tasks import distribution
from onlyif_jax.workdir import DYNAMICS_COLUMNS, RESULT_COLUMNS, Workdir

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
  task='rewrite',
  variants=(),
  drop=(),
  **settings,
):
  """Writes config.json, provenance.json, results.csv and dynamics.csv; the path.

  task: its name. variants: as `sweep.variants`; then, or with another task, the numbers
  depend on the settings as `_shift` and `_slices` say. drop: (variant, count) pairs
  that did not run. settings: of the task, task__noops=True; of data, data__epochs=5.
  """
  workdir.mkdir(parents=True)
  noops = figure == 'noop'
  config = config_lib.RunConfig(
    name=name or figure,
    figure=figure,
    task=config_lib.TASKS[task](
      **({'noops': True} if noops else {}), **_section('task', settings)
    ),
    data=config_lib.DataConfig(**_section('data', settings)),
    sweep=config_lib.SweepConfig(
      counts=counts, seeds=str(seeds), noop_shares=shares, variants=variants
    ),
  )
  write_config(workdir, config)
  rows, dynamics = [], []
  rng = np.random.default_rng(5)
  plain = task == 'rewrite' and not variants
  for variant in variants or ('',):
    own = config_lib.variant(config, variant)
    swept = {'variant': variant, **config_lib.swept_values(config, variant)}
    for share in shares:
      middles = i50 * 10 ** (spread * rng.standard_normal(seeds))
      for count in own.sweep.counts:
        for seed, middle in enumerate(middles):
          if (variant, count) in drop:
            continue
          member = f'q{share:g}-i{count}-{variant}-s{seed}'
          member = member if variant else f'q{share:g}-i{count}-s{seed}'
          base = _member(member, '', count, share, str(seed)) | swept
          if plain:
            right = accuracy(count, middle)
            rows += [base | line for line in _results(right, noops)]
            dynamics += [base | line for line in _dynamics(right)]
          else:
            right = _shifted(own, count, middle)
            rows += [base | line for line in _seen(own, count)]
            rows += [base | line for line in _slices(own, count, right, middle / i50)]
            dynamics += [base | line for line in _learning(own, count, right)]
  for reference, right in REFERENCES.items() if references else ():
    base = _member(reference, reference, 1009, 0.0, '0')
    rows += [base | line for line in _results(right, noops)]
  columns = Workdir(workdir).columns
  _write(workdir / 'results.csv', columns(RESULT_COLUMNS), rows)
  _write(workdir / 'dynamics.csv', columns(DYNAMICS_COLUMNS), dynamics)
  return workdir


def write_config(workdir, config):
  """Writes config.json and provenance.json."""
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


def anatomy(workdir, *, classes=None):
  """Writes the anatomy.csv of a made-up run: what its unseen outputs are."""
  classes = classes or {
    'right': 0.0,
    'copied': 0.3,
    'nearest_y': 0.4,
    'wrong_y': 0.15,
    'wrong_letters': 0.1,
    'malformed': 0.05,
  }
  rows = []
  for row in Workdir(workdir).read_csv('results.csv'):
    place = row['split'], row['slice'], row['metric']
    if place == ('unseen', 'all', 'exact_match'):
      right, n = float(row['value']), 199
      left = n
      for kind, share in reversed(classes.items()):
        count = left if kind == 'right' else round(share * (1 - right) * n)
        left -= count
        line = {'split': 'unseen', 'class': kind, 'count': count, 'examples': n}
        rows.append({k: row[k] for k in row if k != 'split'} | line)
  columns = Workdir(workdir).columns(RESULT_COLUMNS)
  members = columns[: columns.index('split')]
  own = (*members, 'split', 'class', 'count', 'examples')
  _write(workdir / 'anatomy.csv', own, rows)


def _section(name, settings):
  words = {k.partition('__'): v for k, v in settings.items()}
  return {field: v for (section, _, field), v in words.items() if section == name}


def _shifted(c, count, middle):
  """Unseen exact match of a variant's member: the step moves with the settings."""
  effective = count
  if c.data.alpha and not c.data.balance:
    law = distribution.power_law(count, c.data.alpha)
    effective = distribution.effective(law)['perplexity']
  ceiling = 0.97 * min(1.0, (c.data.examples / count) / 3)
  return accuracy(effective, middle * _shift(c), ceiling=ceiling, slope=7.0)


def _shift(c):
  """Factor by which a variant's settings move the step."""
  factor = 1.5 if c.optim.name == 'adamw' else 1.0
  factor *= (getattr(c.task, 'alphabet', 26) / 26) ** 0.8
  if c.task.name == 'semantics':
    return factor * 3 ** (3 - len(c.task.classes.split('+'))) * c.task.k_max**0.3
  if c.task.name == 'occurrences':
    return factor * 2 / len(c.task.train_matches)
  if c.task.name == 'algebra':
    return factor * c.task.depth / 20
  if c.task.name == 'markov':
    return factor * {'step': 1, 'final': 4, 'trace': 2}[c.task.answer]
  return factor * (c.task.input_length / 10) ** 0.5


def _seen(c, count):
  right = 0.98 if c.data.examples * c.data.epochs > 20 * count else 0.9
  yield _line('seen', 'all', 'exact_match', right, 2003)


def _slices(c, count, right, luck):
  """The lines that figures of tasks read, beside unseen as a whole."""
  task = c.task
  if getattr(task, 'noops', False):
    yield _line('unseen', 'noop=0', 'exact_match', right, 1009)
    yield _line('unseen', 'noop=1', 'exact_match', 0.93, 1009)
    yield _line('unseen', 'all', 'exact_match', (right + 0.93) / 2, 2018)
  else:
    yield _line('unseen', 'all', 'exact_match', right, 2003)
  if task.name == 'occurrences':
    for m in range(1, task.matches + 1):
      near = min(abs(m - own) for own in task.train_matches)
      part = f'occurrences={m}'
      yield _line('unseen', part, 'exact_match', right * 0.9**near, 251)
  if task.name == 'semantics':
    for n, factor in enumerate((0.7, 1.0, 0.9, 0.8)):
      yield _line('unseen', f'domain={n}', 'exact_match', right * factor, 499)
    yield _line('unseen', 'cell=in_range', 'exact_match', right**0.5, 499)
  if task.name == 'cipher':
    for part in ('all', 'noop=0', 'noop=1'):
      value = 0.9 if part == 'noop=1' else right**0.5
      yield _line('pair', part, 'exact_match', value, 499)
  if task.name == 'markov':
    for steps in range(7):
      yield _line('unseen', f'steps={steps}', 'exact_match', right * 0.95**steps, 251)
  if task.name == 'algebra' and task.specialist:
    yield _line('deeper', 'all', 'exact_match', _deeper(task, count, luck), 1009)


def _deeper(task, count, luck):
  """Highest at a share of about 0.1, more with more diversification rules."""
  diverse = count - task.specialist
  if not diverse:
    return 0.12
  peak = 0.15 + 0.06 * math.log2(1 + diverse)
  off = math.log10(10 * (task.diverse_share or 1e-3) * luck) ** 2
  return max(0.02, peak - 0.12 * off)


def _learning(c, count, right):
  """Dev and seen exact match that rise together; seen is never reached at S = 1."""
  last = 0.6 if c.data.examples < 2 * count else 0.98
  for step in STEPS:
    done = min(1, math.log(step + 1) / math.log(128))
    for split, value in (('dev', right * done), ('seen', last * done)):
      line = _line(split, 'all', 'exact_match', value, 257)
      yield {k: line[k] for k in DYNAMICS_COLUMNS if k in line} | {'step': step}


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
