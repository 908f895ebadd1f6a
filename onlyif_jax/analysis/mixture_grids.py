"""Tables of a planned mixture: what was removed, drawn, and how diverse that is."""

from collections.abc import Mapping
from typing import Any

from onlyif_jax.analysis.table import Grid

_NUMBERS = ('vendi', 'effective_clusters')


def tables(told: Mapping[str, Any], found: Mapping[str, Any]) -> list[Grid]:
  """What was removed, what was drawn, and how diverse it is."""
  names = [own['name'] for own in told['sources']]
  removed = tuple(
    (
      own['name'],
      f'{own["read"]:,}',
      f'{own["contaminated"]:,}',
      ', '.join(f'{n:,} of {other}' for other, n in own['duplicates'].items()) or '0',
      f'{own["left"]:,}',
    )
    for own in told['sources']
  )
  drawn = []
  for own in told['mixtures']:
    cells = [f'{own["counts"].get(name, 0):,}' for name in names]
    counted = [f'{sum(own["tokens"].values()):,}'] if own['tokens'] else []
    drawn.append(
      (own['rows'], *cells, f'{own["total"]:,}', *counted, own['sha256'][:8])
    )
  counted = ('tokens',) if told['mixtures'][0]['tokens'] else ()
  columns = ('mixture', *names, 'rows', *counted, 'sha256')
  heads = ('source', 'rows', 'contaminated', 'duplicates', 'left')
  return [
    Grid('Sources', heads, removed),
    Grid('Mixtures', columns, tuple(drawn)),
    *diversity_tables(found),
  ]


def diversity_tables(found: Mapping[str, Any]) -> list[Grid]:
  """The numbers of diversity.json, of sets and of mixtures."""
  tests = tuple(found['tests'])
  common = ('sampled', 'Vendi', 'clusters')
  common += tuple(f'cover of {name} (distance)' for name in tests)

  def cells(own: Mapping[str, Any]) -> tuple[str, ...]:
    numbers = (f'{own["sampled"]:,}', *(f'{own[k]:.1f}' for k in _NUMBERS))
    return numbers + tuple(
      f'{own["cover"][name]:.2f} ({own["mean_nearest"][name]:.2f})' for name in tests
    )

  sets = tuple((name, *cells(own)) for name, own in found['sets'].items())
  mixtures = tuple(
    (own['rows'], f'{own["effective_sources"]:.2f}', *cells(own))
    for own in found['mixtures']
  )
  return [
    Grid('Diversity of the sets', ('set', *common), sets),
    Grid('Diversity of the mixtures', ('mixture', 'sources', *common), mixtures),
  ]
