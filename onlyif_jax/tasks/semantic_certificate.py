"""Certify that the parts of semantic rules share no pattern, and the patterns' forms.

The split and the forms are arithmetic (see `semantic_rules`). This is an independent
check: patterns are read back as text, compared as Python sets, and the k and class of
each are determined from the text.
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
# The sets of rules in a report: name -> (part, cell)
SETS = {
  'train': (Part.TRAIN, ''),
  'dev': (Part.DEV, ''),
  'test': (Part.TEST, ''),
  'test_in_range': (Part.TEST, 'in_range'),
  'dev_small_k': (Part.DEV, 'small_k'),
}


def listed(
  space: SemanticSpace, seed: int, name: str, count: int, setting=None
) -> list[tuple[str, str, Group]]:
  """The first rules of a set as (x, y, group), in plain text."""
  part, cell = SETS[name]
  make_rules = _rule_maker(space)
  groups_G = jnp.asarray(space.groups(part, setting, cell))
  listing = []
  for start in range(0, count, CHUNK):
    rules = jax.device_get(make_rules(seed, int(part), jnp.int32(start), groups_G))
    columns = rules.x_P, rules.y_Q, rules.k, rules.domain
    for x_P, y_P, k, domain in zip(*columns, strict=True):
      group = Group(int(k), int(domain))
      listing.append((tokens.decode(x_P), tokens.decode(y_P), group))
  return listing[:count]


@functools.cache
def _rule_maker(space: SemanticSpace):
  """The compiled (seed, part, start, groups) -> CHUNK rules; one compile for all sets."""

  def rules(seed, part, start, groups_G):
    i = start + jnp.arange(CHUNK, dtype=jnp.int32)
    return jax.vmap(lambda i: space.pick(seed, part, i, groups_G))(i)

  return jax.jit(rules)


def certify(
  space: SemanticSpace, seed: int, instructions: int, held_out: int, setting=None
) -> dict:
  """Counts per group, collisions (0 unless something is wrong), capacities, hashes.

  instructions: the largest I of the run. held_out: the number of rules that are
  evaluated of each other set.
  """
  report: dict = {'rules_seed': seed, 'relation': RELATION, 'parts': {}}
  patterns, collisions = {}, {}
  for name, (part, cell) in SETS.items():
    capacity = space.capacity(part, setting, cell)
    count = min(instructions if name == 'train' else held_out, capacity)
    rules = listed(space, seed, name, count, setting)
    patterns[name] = {text for x, y, _ in rules for text in (x, y)}
    report['parts'][name] = _describe(rules, capacity)
    small_k = name in ('test', 'dev_small_k')
    wrong = sum(not _has_form(group, small_k, x, y) for x, y, group in rules)
    collisions[f'{name}: rules of another k or class'] = wrong
  for a, b in itertools.combinations(SETS, 2):
    collisions[f'{a}-{b}'] = len(patterns[a] & patterns[b])
  return report | {'collisions': collisions}


def _describe(rules: list[tuple[str, str, Group]], capacity: int) -> dict:
  pairs = [(x, y) for x, y, _ in rules]
  counts = collections.Counter(group for _, _, group in rules)
  listing = '\n'.join(f'{x}>{y}' for x, y in pairs)
  return {
    'rules': len(rules),
    'distinct_x': len({x for x, _ in pairs}),
    'distinct_y': len({y for _, y in pairs}),
    'distinct_pairs': len(set(pairs)),
    'x_equal_y': sum(x == y for x, y in pairs),
    'capacity': capacity,
    'groups': {group.text: counts[group] for group in sorted(counts)},
    'sha256': hashlib.sha256(listing.encode()).hexdigest(),
  }


def _has_form(group: Group, small_k: bool, *texts: str) -> bool:
  """Whether patterns have the k and class of their rule's group, and k is allowed."""
  expected = (group.k, DOMAINS[group.domain])
  is_small = group.k < SMALL_K
  return is_small == small_k and all(form(text) == expected for text in texts)
