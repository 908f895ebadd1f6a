"""A fine-tuning run of a symbolic task as a sweep, for the figures of sweeps."""

import dataclasses
from typing import Any

from onlyif_jax import config as config_lib
from onlyif_jax.analysis import figures_algebra, results, tuned, tuned_evidence
from onlyif_jax.analysis import figures_style as style
from onlyif_jax.analysis.results import Analysis
from onlyif_jax.analysis.sweetspot import SweetSpot, best_shares
from onlyif_jax.analysis.table import Grid
from onlyif_jax.analysis.transition import fit_transition
from onlyif_jax.analysis.tuned import Tuned
from onlyif_jax.config import DataConfig, OptimConfig, RunConfig, SweepConfig


def has_specialists(run: Tuned) -> bool:
  """Whether some variant of a run of algebra is a specialist of Fig. 5b and 5c."""
  return any(run.task(variant).get('specialist') for variant in run.variants)


def draw(run: Tuned, file) -> None:
  """Draws Fig. 5 as of a sweep from scratch, to a path or a binary file."""
  plt = style.pyplot()
  with plt.rc_context(style.STYLE):
    figure = figures_algebra.algebra(plt, as_sweep(run), tuned.footer(run))
    style.save(plt, figure, file)


def as_sweep(run: Tuned) -> Analysis:
  """The results under the fields of a sweep whose variants are the run's, fitted."""
  sweep = _unfitted(run)
  fits = {curve.name: fit_transition(curve.points()) for curve in sweep.curves}
  return dataclasses.replace(sweep, fits=fits)


def _unfitted(run: Tuned) -> Analysis:
  """`as_sweep` without the fits, which the best shares do not need."""
  config = _config(run)
  sweep_variants = config.sweep.variants or ('',)
  texts = dict(zip(run.variants, sweep_variants, strict=True))
  swept = {text: config_lib.swept_values(config, text) for text in sweep_variants}
  rows = tuple(
    dataclasses.replace(
      tuned_evidence.sweep_row(run, result, swept[texts[result.variant]]),
      variant=texts[result.variant],
    )
    for result in run.results
    if result.subset in ('all', '')
  )
  curves = results.curves_of(rows, config)
  return Analysis(run.path, config, run.provenance, rows, (), curves, {})


def spots_grid(run: Tuned) -> list[Grid]:
  """The best share of each number of rules, where there are several shares."""
  rows = tuple(
    (*map(str, key), spot.text(), spot.reason or '')
    for key, spot in _best_shares(run).items()
  )
  columns = ('in-domain rules', 'diversification rules', 'best share', 'why none')
  return [Grid('The best share at unseen depth', columns, rows)] if rows else []


def best_shares_json(run: Tuned) -> dict[str, Any]:
  """The fitted shares as a part of transition.json; {} without any."""
  spots = {
    f'{inside} in-domain + {others} others': dataclasses.asdict(spot)
    for (inside, others), spot in _best_shares(run).items()
  }
  return {'best_shares': spots} if spots else {}


def _best_shares(run: Tuned) -> dict[tuple[int, int], SweetSpot]:
  return best_shares(_unfitted(run)) if has_specialists(run) else {}


def _config(run: Tuned) -> RunConfig:
  c, i = run.config, run.config['instructions']
  task = config_lib.task_settings(c['task']['name'])
  return RunConfig(
    name=c['name'],
    size=c['size'],
    figure=c['task']['name'],
    paper=c['paper'],
    seed=c['seed'],
    task=config_lib.build(task, c['task'], 'task.'),
    data=DataConfig(
      examples=i['examples'],
      epochs=float(c['tune']['epochs']),
      batch_size=c['tune']['batch_size'],
    ),
    optim=config_lib.build(OptimConfig, c['optim'], 'optim.'),
    sweep=SweepConfig(
      counts=tuple(i['counts']),
      seeds=str(i['seeds']),
      noop_shares=(i['noop_share'],),
      variants=tuple(
        text.replace('instructions.counts=', 'sweep.counts=')
        for text in i.get('variants', ())
      ),
    ),
  )
