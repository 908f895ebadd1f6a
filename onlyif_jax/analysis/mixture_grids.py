"""Tables of planned mixtures: rows removed, rows drawn, diversity."""

from collections.abc import Mapping, Sequence
from typing import Any

from onlyif_jax.analysis.table import Grid

_NUMBERS = ('vendi', 'effective_clusters')


def tables(manifest: Mapping[str, Any], diversity: Mapping[str, Any]) -> list[Grid]:
  """Tables of manifest.json and diversity.json: removed, drawn, how diverse."""
  return [
    _sources(manifest['sources']),
    _mixtures(manifest),
    *diversity_tables(diversity),
  ]


def _sources(sources: Sequence[Mapping[str, Any]]) -> Grid:
  """What was read from each source, and what was removed."""
  rows = []
  for source in sources:
    duplicates = (f'{n:,} of {other}' for other, n in source['duplicates'].items())
    rows.append(
      (
        source['name'],
        f'{source["read"]:,}',
        f'{source["contaminated"]:,}',
        ', '.join(duplicates) or '0',
        f'{source["left"]:,}',
      )
    )
  header = ('source', 'rows', 'contaminated', 'duplicates', 'left')
  return Grid('Sources', header, tuple(rows))


def _mixtures(manifest: Mapping[str, Any]) -> Grid:
  """What was drawn for each mixture."""
  names = [source['name'] for source in manifest['sources']]
  rows = []
  for mixture in manifest['mixtures']:
    counts = [f'{mixture["counts"].get(name, 0):,}' for name in names]
    tokens = [f'{sum(mixture["tokens"].values()):,}'] if mixture['tokens'] else []
    total, digest = f'{mixture["total"]:,}', mixture['sha256'][:8]
    rows.append((mixture['rows'], *counts, total, *tokens, digest))
  tokens = ('tokens',) if manifest['mixtures'][0]['tokens'] else ()
  header = ('mixture', *names, 'rows', *tokens, 'sha256')
  return Grid('Mixtures', header, tuple(rows))


def diversity_tables(diversity: Mapping[str, Any]) -> list[Grid]:
  """Tables of diversity.json, for sets and for mixtures."""
  tests = tuple(diversity['tests'])
  common = ('sampled', 'Vendi', 'clusters')
  common += tuple(f'cover of {name} (distance)' for name in tests)

  def cells(stats: Mapping[str, Any]) -> tuple[str, ...]:
    numbers = (f'{stats["sampled"]:,}', *(f'{stats[k]:.1f}' for k in _NUMBERS))
    return numbers + tuple(
      f'{stats["cover"][name]:.2f} ({stats["mean_nearest"][name]:.2f})'
      for name in tests
    )

  sets = tuple((name, *cells(stats)) for name, stats in diversity['sets'].items())
  mixtures = tuple(
    (stats['rows'], f'{stats["effective_sources"]:.2f}', *cells(stats))
    for stats in diversity['mixtures']
  )
  return [
    Grid('Diversity of the sets', ('set', *common), sets),
    Grid('Diversity of the mixtures', ('mixture', 'sources', *common), mixtures),
  ]
