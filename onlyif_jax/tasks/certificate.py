"""The proof that training and held-out rules share nothing.

The split is arithmetic (see `rules`); this checks it independently: the strings
are made, read back as text and compared as plain Python sets.
"""

import functools
import hashlib

import jax
import jax.numpy as jnp
import numpy as np

from onlyif_jax.tasks import tokens
from onlyif_jax.tasks.rules import Part, RuleSpace

CHUNK = 8192


def texts(space: RuleSpace, seed: int, part: Part, count: int):
  """The first `count` rules of a part as two lists of byte strings, x and y."""
  program = _program(space, part)
  xs: list[bytes] = []
  ys: list[bytes] = []
  for start in range(0, count, CHUNK):
    made = jax.device_get(program(jnp.int32(seed), jnp.int32(start)))
    xs += _strings(made.x_P, made.x_len)
    ys += _strings(made.y_Q, made.y_len)
  return xs[:count], ys[:count]


@functools.cache
def _program(space: RuleSpace, part: Part):
  """(seed, start) -> CHUNK rules; one compile serves every seed."""
  limit = space.pair_capacity(part)

  def rules(seed, start):
    i = jnp.minimum(start + jnp.arange(CHUNK, dtype=jnp.int32), limit - 1)
    return jax.vmap(lambda n: space.rule(seed, part, n))(i)

  return jax.jit(rules)


def certify(space: RuleSpace, seed: int, instructions: int, held_out: int) -> dict:
  """Counts, collisions (0 unless something is wrong), capacities and hashes.

  instructions: the largest I of the run; held_out: test rules evaluated.
  """
  wanted = {Part.TRAIN: instructions, Part.DEV: held_out, Part.TEST: held_out}
  seen = {}
  report: dict = {'rules_seed': seed, 'relation': RELATION, 'parts': {}}
  for part, count in wanted.items():
    count = min(count, space.capacity(part))
    xs, ys = texts(space, seed, part, count)
    seen[part] = set(xs) | set(ys)
    listing = b'\n'.join(x + b'>' + y for x, y in zip(xs, ys, strict=True))
    report['parts'][part.name.lower()] = {
      'rules': count,
      'distinct_x': len(set(xs)),
      'distinct_y': len(set(ys)),
      'distinct_pairs': len(set(zip(xs, ys, strict=True))),
      'x_equal_y': sum(x == y for x, y in zip(xs, ys, strict=True)),
      'capacity': space.capacity(part),
      'sha256': hashlib.sha256(listing).hexdigest(),
    }
  report['collisions'] = {
    f'{a.name.lower()}-{b.name.lower()}': len(seen[a] & seen[b])
    for a, b in ((Part.TRAIN, Part.DEV), (Part.TRAIN, Part.TEST), (Part.DEV, Part.TEST))
  }
  return report


RELATION = 'no x or y of a held-out rule is an x or y of a training rule'


def broken(report: dict) -> list[str]:
  """What contradicts the certificate, in words; empty where it holds."""
  out = [f'{k}: {n} shared' for k, n in report['collisions'].items() if n]
  for part, own in report['parts'].items():
    if own['distinct_pairs'] < own['rules'] or own.get('x_equal_y'):
      out.append(f'{part}: {own["distinct_pairs"]} distinct of {own["rules"]} rules')
  return out


def _strings(letters, lengths) -> list[bytes]:
  ids = np.asarray(letters)
  return [tokens.decode(row[:n]).encode() for row, n in zip(ids, lengths, strict=True)]
