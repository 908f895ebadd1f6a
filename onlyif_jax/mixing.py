"""Plans mixtures, measures how diverse they are, and writes both down.

The measures look at `sample` rows of a mixture, each source in its share, and at the
first `sample` rows of each source; a source's rows stand in a keyed order, so those are
random ones. Vectors, clusters and radii are the same for everything that is compared.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onlyif_jax.analysis import figures_map
from onlyif_jax.analysis.mixture_grids import diversity_tables, tables
from onlyif_jax.analysis.table import Grid
from onlyif_jax.config import ConfigError
from onlyif_jax.corpora import embeddings, manifest, spread
from onlyif_jax.corpora.manifest import Pool
from onlyif_jax.corpora.mixture import Plan, RowId
from onlyif_jax.corpora.mixture_settings import MixtureSettings, largest_remainder


def write(settings: MixtureSettings, directory) -> list[Grid]:
  """`write_pool` of what the settings name; ConfigError for files that cannot be used."""
  return write_pool(manifest.gather(settings), directory)


def write_pool(pool: Pool, directory, tokenizer: str = '') -> list[Grid]:
  """Writes the manifest, diversity.json and map.png; the tables that tell of them.

  tokenizer: as of `manifest.write`. Raises ConfigError where a source has too few rows.
  """
  found = measure(pool)
  told = manifest.write(pool, directory, tokenizer)
  folder = Path(directory)
  (folder / 'diversity.json').write_text(json.dumps(found, indent=1) + '\n')
  draw(pool, found, folder / 'map.png')
  return tables(told, found)


def measure(pool: Pool) -> dict[str, Any]:
  """What diversity.json says of the sets and of the mixtures."""
  settings, plans = pool.settings, pool.plans
  tests = _tests(pool)
  sets = {own.name: _sampled_set(pool, own.name) for own in pool.sources}
  sets = {name: ids for name, ids in sets.items() if ids}
  every_ND = pool.vectors.of([where for ids in sets.values() for where in ids])
  _, centres_CD = spread.k_means(every_ND, settings.clusters, settings.seed)

  def numbers(ids: Sequence[RowId]) -> dict[str, Any]:
    rows_ND = pool.vectors.of(ids)
    cluster_N = spread.assign(rows_ND, centres_CD)
    near = {name: spread.nearest(test.rows_QD, rows_ND) for name, test in tests.items()}
    return {
      'sampled': len(ids),
      'vendi': _round(spread.vendi(rows_ND)),
      'effective_clusters': _round(spread.cluster_entropy(cluster_N)),
      'cover': {
        name: _round(spread.cover(near[name], test.radius_Q))
        for name, test in tests.items()
      },
      'mean_nearest': {name: _round(float(np.mean(own))) for name, own in near.items()},
    }

  return {
    'encoder': embeddings.identity(settings.encoder, settings.dimensions),
    'clusters': len(centres_CD),
    'tests': {
      name: {
        'prompts': len(test.rows_QD),
        'mean_radius': _round(float(np.mean(test.radius_Q))),
      }
      for name, test in tests.items()
    },
    'sets': {name: numbers(ids) for name, ids in sets.items()},
    'mixtures': [
      {
        'rows': text,
        'effective_sources': _round(spread.effective(own.counts.values())),
        **numbers(sampled(pool, own)),
      }
      for text, own in zip(settings.rows, plans, strict=True)
    ],
  }


def draw(pool: Pool, found: Mapping[str, Any], file) -> None:
  """Fig. 1: the map of the sets, with their numbers beside it."""
  settings, tests = pool.settings, _tests(pool)
  ids = {name: _sampled_set(pool, name) for name in found['sets']}
  vectors = [pool.vectors.of(own) for own in ids.values()]
  vectors += [test.rows_QD[: settings.sample] for test in tests.values()]
  points, axes = figures_map.project(
    np.concatenate(vectors), settings.projection, settings.seed
  )
  ends = np.cumsum([len(own) for own in vectors])[:-1]
  clouds = [
    figures_map.Cloud(name, own_N2, name in tests)
    for name, own_N2 in zip([*ids, *tests], np.split(points, ends), strict=True)
  ]
  encoder = found['encoder']['encoder']
  parts = [
    f'encoder {encoder}, {vectors[0].shape[1]} dimensions',
    f'up to {settings.sample:,} rows a set, after removals',
    f'{found["clusters"]} clusters',
    f'draw: {settings.selection}, seed {settings.seed}',
    *([_covering(settings)] if tests else []),
  ]
  figures_map.draw(clouds, axes, diversity_tables(found), parts, file)


def _covering(settings: MixtureSettings) -> str:
  """What covered means, for the footer."""
  near = (
    f'within cosine distance {settings.radius:g}'
    if settings.radius
    else f'no farther away than its {settings.neighbour} nearest other prompts'
  )
  return f'cover: share of test prompts with a row {near} (mean distance to a row)'


@dataclasses.dataclass(frozen=True)
class _Test:
  """A test set: vectors, and within which distance each prompt counts as covered."""

  rows_QD: np.ndarray
  radius_Q: np.ndarray


def _tests(pool: Pool) -> dict[str, _Test]:
  settings, out = pool.settings, {}
  for file in settings.test_files:
    places = [n for n, prompt in enumerate(pool.prompts) if prompt.test == file.name]
    rows_QD = pool.vectors.prompts_QD[places]
    if settings.radius:
      radius_Q = np.full(len(places), settings.radius)
    elif len(places) > 1:
      radius_Q = spread.radii(rows_QD, settings.neighbour)
    else:
      raise ConfigError(
        f'{file.path} has one prompt, without a neighbour to measure by; set '
        'mixture.radius'
      )
    out[file.name] = _Test(rows_QD, radius_Q)
  return out


def _sampled_set(pool: Pool, name: str) -> list[RowId]:
  """The first rows of a source in its keyed order."""
  (own,) = (s for s in pool.sources if s.name == name)
  return [RowId(name, index) for index in own.indices[: pool.settings.sample]]


def sampled(pool: Pool, plan: Plan) -> list[RowId]:
  """A mixture's sample: of each source its share of rows, first in the keyed order."""
  sizes = largest_remainder(min(pool.settings.sample, len(plan.rows)), plan.counts)
  chosen, out = set(plan.rows), []
  for own in pool.sources:
    ids = (RowId(own.name, index) for index in own.indices)
    some = [where for where in ids if where in chosen]
    out += some[: sizes.get(own.name, 0)]
  return out


def _round(value: float) -> float:
  """Six digits: what differs beyond is rounding."""
  return float(f'{value:.6g}')
