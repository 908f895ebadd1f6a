"""Certify that training and held-out rules share no string.

The split is arithmetic (see `rules`). This is an independent check: the strings are
generated, read back as text and compared as Python sets.
"""

import functools
import hashlib
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from onlyif_jax.tasks import tokens
from onlyif_jax.tasks.rules import Part, RuleSpace

CHUNK = 8192  # rules made in one call
RELATION = 'no x or y of a held-out rule is an x or y of a training rule'


def texts(
  space: RuleSpace, seed: int, part: Part, count: int
) -> tuple[list[bytes], list[bytes]]:
  """The first `count` rules of a part as two lists of byte strings, x and y."""
  make_rules = _rule_maker(space, part)
  xs: list[bytes] = []
  ys: list[bytes] = []
  for start in range(0, count, CHUNK):
    rules = jax.device_get(make_rules(jnp.int32(seed), jnp.int32(start)))
    xs += _strings(rules.x_P, rules.x_len)
    ys += _strings(rules.y_Q, rules.y_len)
  return xs[:count], ys[:count]


@functools.cache
def _rule_maker(space: RuleSpace, part: Part):
  """The compiled (seed, start) -> CHUNK rules; one compile serves every seed."""
  limit = space.pair_capacity(part)

  def rules(seed, start):
    i = jnp.minimum(start + jnp.arange(CHUNK, dtype=jnp.int32), limit - 1)
    return jax.vmap(lambda n: space.rule(seed, part, n))(i)

  return jax.jit(rules)


def certify(space: RuleSpace, seed: int, instructions: int, held_out: int) -> dict:
  """Counts, collisions (0 unless something is wrong), capacities and hashes.

  instructions: the largest I of the run. held_out: the number of dev, and of test,
  rules that are evaluated.
  """
  counts = {Part.TRAIN: instructions, Part.DEV: held_out, Part.TEST: held_out}
  strings = {}
  report: dict = {'rules_seed': seed, 'relation': RELATION, 'parts': {}}
  for part, count in counts.items():
    count = min(count, space.capacity(part))
    xs, ys = texts(space, seed, part, count)
    pairs = list(zip(xs, ys, strict=True))
    strings[part] = set(xs) | set(ys)
    listing = b'\n'.join(x + b'>' + y for x, y in pairs)
    report['parts'][part.name.lower()] = {
      'rules': count,
      'distinct_x': len(set(xs)),
      'distinct_y': len(set(ys)),
      'distinct_pairs': len(set(pairs)),
      'x_equal_y': sum(x == y for x, y in pairs),
      'capacity': space.capacity(part),
      'sha256': hashlib.sha256(listing).hexdigest(),
    }
  report['collisions'] = {
    f'{a.name.lower()}-{b.name.lower()}': len(strings[a] & strings[b])
    for a, b in itertools.combinations(Part, 2)
  }
  return report


def broken(report: dict) -> list[str]:
  """What contradicts a certificate, in words; empty if it holds."""
  problems = [f'{k}: {n} shared' for k, n in report['collisions'].items() if n]
  for name, part in report['parts'].items():
    if part['distinct_pairs'] < part['rules'] or part.get('x_equal_y'):
      problems.append(
        f'{name}: {part["distinct_pairs"]} distinct of {part["rules"]} rules'
      )
  return problems


def _strings(letters, lengths) -> list[bytes]:
  ids = np.asarray(letters)
  return [tokens.decode(row[:n]).encode() for row, n in zip(ids, lengths, strict=True)]
