"""Plans mixtures, measures their diversity, and writes both.

The measures use `sample` rows of a mixture, from each source in proportion, and the
first `sample` rows of each source, which are random since its order is keyed. Vectors,
clusters and radii are the same for everything that is compared.
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
  """`write_pool` of the settings' files; raises ConfigError for unusable ones."""
  return write_pool(manifest.gather(settings), directory)


def write_pool(pool: Pool, directory, tokenizer: str = '') -> list[Grid]:
  """Writes the manifest, diversity.json and map.png; returns their tables.

  tokenizer: see `manifest.write`. Raises ConfigError if a source has too few rows.
  """
  diversity = measure(pool)
  content = manifest.write(pool, directory, tokenizer)
  folder = Path(directory)
  (folder / 'diversity.json').write_text(json.dumps(diversity, indent=1) + '\n')
  draw(pool, diversity, folder / 'map.png')
  return tables(content, diversity)


def measure(pool: Pool) -> dict[str, Any]:
  """The content of diversity.json: measures of the sets and of the mixtures."""
  settings, plans = pool.settings, pool.plans
  tests = _tests(pool)
  sets = {source.name: _sampled_set(pool, source.name) for source in pool.sources}
  sets = {name: ids for name, ids in sets.items() if ids}
  every_ND = pool.vectors.of([row_id for ids in sets.values() for row_id in ids])
  _, centres_CD = spread.k_means(every_ND, settings.clusters, settings.seed)

  def numbers(ids: Sequence[RowId]) -> dict[str, Any]:
    rows_ND = pool.vectors.of(ids)
    cluster_N = spread.assign(rows_ND, centres_CD)
    distances = {
      name: spread.nearest(test.rows_QD, rows_ND) for name, test in tests.items()
    }
    return {
      'sampled': len(ids),
      'vendi': _round(spread.vendi(rows_ND)),
      'effective_clusters': _round(spread.cluster_entropy(cluster_N)),
      'cover': {
        name: _round(spread.cover(distances[name], test.radius_Q))
        for name, test in tests.items()
      },
      'mean_nearest': {
        name: _round(float(np.mean(own_Q))) for name, own_Q in distances.items()
      },
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
        'effective_sources': _round(spread.effective(plan.counts.values())),
        **numbers(sampled(pool, plan)),
      }
      for text, plan in zip(settings.rows, plans, strict=True)
    ],
  }


def draw(pool: Pool, diversity: Mapping[str, Any], file) -> None:
  """Draws Fig. 1: the map of the sets, with their measures beside it."""
  settings, tests = pool.settings, _tests(pool)
  sets = {name: _sampled_set(pool, name) for name in diversity['sets']}
  vectors = [pool.vectors.of(ids) for ids in sets.values()]
  vectors += [test.rows_QD[: settings.sample] for test in tests.values()]
  points, axes = figures_map.project(
    np.concatenate(vectors), settings.projection, settings.seed
  )
  ends = np.cumsum([len(rows_ND) for rows_ND in vectors])[:-1]
  clouds = [
    figures_map.Cloud(name, points_N2, name in tests)
    for name, points_N2 in zip([*sets, *tests], np.split(points, ends), strict=True)
  ]
  encoder = diversity['encoder']['encoder']
  parts = [
    f'encoder {encoder}, {vectors[0].shape[1]} dimensions',
    f'up to {settings.sample:,} rows a set, after removals',
    f'{diversity["clusters"]} clusters',
    f'draw: {settings.selection}, seed {settings.seed}',
    *([_covering(settings)] if tests else []),
  ]
  figures_map.draw(clouds, axes, diversity_tables(diversity), parts, file)


def _covering(settings: MixtureSettings) -> str:
  """The meaning of cover, for the footer."""
  near = (
    f'within cosine distance {settings.radius:g}'
    if settings.radius
    else f'no farther away than its {settings.neighbour} nearest other prompts'
  )
  return f'cover: share of test prompts with a row {near} (mean distance to a row)'


@dataclasses.dataclass(frozen=True)
class _Test:
  """A test set: its vectors, and the distance within which each prompt is covered."""

  rows_QD: np.ndarray
  radius_Q: np.ndarray


def _tests(pool: Pool) -> dict[str, _Test]:
  settings, tests = pool.settings, {}
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
    tests[file.name] = _Test(rows_QD, radius_Q)
  return tests


def _sampled_set(pool: Pool, name: str) -> list[RowId]:
  """The first rows of a source in its keyed order."""
  (source,) = (s for s in pool.sources if s.name == name)
  return [RowId(name, index) for index in source.indices[: pool.settings.sample]]


def sampled(pool: Pool, plan: Plan) -> list[RowId]:
  """A mixture's sample: the first rows of each source in keyed order, in proportion."""
  sizes = largest_remainder(min(pool.settings.sample, len(plan.rows)), plan.counts)
  chosen, sample = set(plan.rows), []
  for source in pool.sources:
    ids = (RowId(source.name, index) for index in source.indices)
    mixed = [row_id for row_id in ids if row_id in chosen]
    sample += mixed[: sizes.get(source.name, 0)]
  return sample


def _round(value: float) -> float:
  """Six digits; beyond them machines round differently."""
  return float(f'{value:.6g}')
