"""The proof that semantic rules share nothing and have the form they should.

The split and the forms are arithmetic (see `semantic_rules`); this reads the patterns
back as text, compares them as plain Python sets, and reads k and class off each.
"""

import collections
import functools
import hashlib
import itertools

import jax
import jax.numpy as jnp

from onlyif_jax.tasks import tokens
from onlyif_jax.tasks.certificate import CHUNK
from onlyif_jax.tasks.rules import Part
from onlyif_jax.tasks.semantic_rules import (
  DOMAINS,
  SMALL_K,
  Group,
  SemanticSpace,
  form,
)

RELATION = (
  'no x or y of a held-out rule is an x or y of a training rule, and test rules have '
  f'k < {SMALL_K}, training rules k >= {SMALL_K}'
)
# The parts of a report: name -> (part, further cell)
SETS = {
  'train': (Part.TRAIN, ''),
  'dev': (Part.DEV, ''),
  'test': (Part.TEST, ''),
  'test_in_range': (Part.TEST, 'in_range'),
  'dev_small_k': (Part.DEV, 'small_k'),
}


def listed(space: SemanticSpace, seed: int, name: str, count: int, setting=None):
  """The first rules of a set as (x, y, Group) of plain text."""
  part, cell = SETS[name]
  program = _program(space)
  own_G = jnp.asarray(space.groups(part, setting, cell))
  out = []
  for start in range(0, count, CHUNK):
    made = jax.device_get(program(seed, int(part), jnp.int32(start), own_G))
    for x_P, y_P, k, domain in zip(
      made.x_P, made.y_Q, made.k, made.domain, strict=True
    ):
      group = Group(int(k), int(domain))
      out.append((tokens.decode(x_P), tokens.decode(y_P), group))
  return out[:count]


@functools.cache
def _program(space: SemanticSpace):
  """(seed, part, start, groups) -> CHUNK rules; one compile serves every set."""

  def rules(seed, part, start, own_G):
    i = start + jnp.arange(CHUNK, dtype=jnp.int32)
    return jax.vmap(lambda i: space.pick(seed, part, i, own_G))(i)

  return jax.jit(rules)


def certify(
  space: SemanticSpace, seed: int, instructions: int, held_out: int, setting=None
) -> dict:
  """Counts per group, collisions (0 unless something is wrong), capacities, hashes.

  instructions: the largest I of the run; held_out: rules evaluated of other sets.
  """
  report: dict = {'rules_seed': seed, 'relation': RELATION, 'parts': {}}
  seen, collisions = {}, {}
  for name, (part, cell) in SETS.items():
    capacity = space.capacity(part, setting, cell)
    count = min(instructions if name == 'train' else held_out, capacity)
    own = listed(space, seed, name, count, setting)
    seen[name] = {text for x, y, _ in own for text in (x, y)}
    report['parts'][name] = _describe(own, capacity)
    small = name in ('test', 'dev_small_k')
    wrong = sum(not _fits(group, small, x, y) for x, y, group in own)
    collisions[f'{name}: rules of another k or class'] = wrong
  for a, b in itertools.combinations(SETS, 2):
    collisions[f'{a}-{b}'] = len(seen[a] & seen[b])
  return report | {'collisions': collisions}


def _describe(own, capacity) -> dict:
  xs, ys, groups = zip(*own, strict=True) if own else ((), (), ())
  listing = '\n'.join(f'{x}>{y}' for x, y in zip(xs, ys, strict=True))
  counts = collections.Counter(groups)
  return {
    'rules': len(own),
    'distinct_x': len(set(xs)),
    'distinct_y': len(set(ys)),
    'distinct_pairs': len(set(zip(xs, ys, strict=True))),
    'x_equal_y': sum(x == y for x, y in zip(xs, ys, strict=True)),
    'capacity': capacity,
    'groups': {group.text: counts[group] for group in sorted(counts)},
    'sha256': hashlib.sha256(listing.encode()).hexdigest(),
  }


def _fits(group: Group, small: bool, *texts: str) -> bool:
  """Whether patterns have the k and class that their rule tells, on the right side."""
  told = (group.k, DOMAINS[group.domain])
  return (group.k < SMALL_K) == small and all(form(text) == told for text in texts)
