import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from onlyif_jax.tasks import certificate
from onlyif_jax.tasks.rules import CELLS, Part, RuleSpace

SMALL = RuleSpace(alphabet=5, x_min=3, x_max=3, y_min=3, y_max=3)


def every_rule(space, part, seed=0, count=None):
  count = space.capacity(part) if count is None else count
  return certificate.texts(space, seed, part, count)


@pytest.mark.parametrize(
  'space',
  [
    SMALL,
    RuleSpace(alphabet=5, x_min=1, x_max=4, y_min=2, y_max=3),
    pytest.param(
      RuleSpace(alphabet=7, x_min=2, x_max=2, y_min=3, y_max=3), marks=pytest.mark.slow
    ),
    pytest.param(
      RuleSpace(alphabet=3, x_min=2, x_max=5, y_min=2, y_max=5), marks=pytest.mark.slow
    ),
  ],
)
def test_whole_domains_are_distinct_and_disjoint(space):
  strings = {}
  for part in Part:
    xs, ys = every_rule(space, part)
    assert len(set(xs)) == len(xs) == space.capacity(part) > 0
    assert len(set(ys)) == len(ys)
    assert all(x != y for x, y in zip(xs, ys, strict=True))
    assert {len(x) for x in xs} <= set(range(space.x_min, space.x_max + 1))
    assert {len(y) for y in ys} <= set(range(space.y_min, space.y_max + 1))
    strings[part] = set(xs) | set(ys)
  assert not strings[Part.TRAIN] & strings[Part.TEST]
  assert not strings[Part.TRAIN] & strings[Part.DEV]
  assert not strings[Part.DEV] & strings[Part.TEST]


def test_parts_cover_every_string_of_a_fixed_length():
  found = set()
  for part in Part:
    xs, _ = every_rule(SMALL, part)
    found |= set(xs)
  assert len(found) == 5**3


def test_pairs_allow_more_rules_than_strings():
  space = RuleSpace(alphabet=3, x_min=2, x_max=2, y_min=2, y_max=2, distinct='pairs')
  xs, ys = every_rule(space, Part.TRAIN)
  strings = len(set(xs))
  assert len(xs) == space.capacity() == strings * (strings - 1)
  assert len(set(zip(xs, ys, strict=True))) == len(xs)
  assert all(x != y for x, y in zip(xs, ys, strict=True))
  with pytest.raises(ValueError, match='distinct'):
    RuleSpace(x_min=2, x_max=3, distinct='pairs')


def test_rules_are_nested_and_depend_on_the_seed():
  # The prefix of a larger set is the smaller set: the index alone decides.
  xs, ys = every_rule(SMALL, Part.TRAIN, count=31)
  more_x, more_y = every_rule(SMALL, Part.TRAIN, count=67)
  assert more_x[:31] == xs
  assert more_y[:31] == ys
  assert every_rule(SMALL, Part.TRAIN, seed=1, count=31)[0] != xs


def test_one_program_serves_all_seeds_and_indices():
  traces = []

  @jax.jit
  def rule(seed, i):
    traces.append(0)
    return SMALL.rule(seed, Part.TRAIN, i)

  for seed, i in ((0, 0), (1, 5), (2, 11)):
    rule(jnp.int32(seed), jnp.int32(i))
  assert len(traces) == 1


def test_long_strings_use_every_letter_at_every_place():
  space = RuleSpace(x_min=20, x_max=20, y_min=20, y_max=20)
  xs, _ = every_rule(space, Part.TRAIN, count=2000)
  letters = np.array([list(x) for x in xs]) - ord('a')
  table = np.stack([np.bincount(letters[:, p], minlength=26) for p in range(20)])
  expected = 2000 / 26
  assert (table > 0).all()
  chi2 = ((table - expected) ** 2 / expected).sum()
  assert chi2 < 620  # 500 degrees of freedom, p = 2e-4


def test_length_ranges_are_used_evenly_and_apart():
  space = RuleSpace(x_min=3, x_max=5, y_min=2, y_max=6)
  xs, ys = every_rule(space, Part.TRAIN, count=960)
  lengths = [(len(x), len(y)) for x, y in zip(xs, ys, strict=True)]
  counts = np.array([[lengths.count((a, b)) for b in range(2, 7)] for a in range(3, 6)])
  assert (counts.sum(1) == 320).all()
  assert counts.min() > 30  # 64 on average in each of the 15 cells


@functools.cache
def cell_program(cell):
  def make(i, instructions):
    return SMALL.cell_rule(0, Part.TEST, cell, i, instructions)

  return jax.jit(jax.vmap(make, (0, None)))


@pytest.mark.parametrize('instructions', [1, 2, 3, 17])
def test_cells_are_what_they_say(instructions):
  rules = dict(zip(*every_rule(SMALL, Part.TRAIN, count=instructions), strict=True))
  train_x, train_y = set(rules), set(rules.values())

  def text(letters, n):
    return ''.join(chr(97 + v) for v in letters[:n]).encode()

  for cell in CELLS:
    program = cell_program(cell)
    rule, exists = jax.device_get(program(jnp.arange(23), jnp.int32(instructions)))
    if cell == 'seenx_seeny' and instructions < 3:
      assert not exists.any() or instructions == 2
    else:
      assert exists.all()
    for b in np.flatnonzero(exists):
      x, y = text(rule.x_P[b], rule.x_len[b]), text(rule.y_Q[b], rule.y_len[b])
      assert (x in train_x) == (cell[:5] == 'seenx'), cell
      assert (y in train_y) == cell.endswith('seeny'), cell
      assert x != y
      assert rules.get(x) != y, 'never a training rule'


def test_certificate_finds_what_is_wrong(monkeypatch):
  report = certificate.certify(SMALL, 0, 50, 20)
  assert certificate.broken(report) == []
  assert report['parts']['train']['rules'] == 50
  assert report['parts']['test']['capacity'] == SMALL.capacity(Part.TEST)
  assert report['collisions'] == {'train-dev': 0, 'train-test': 0, 'dev-test': 0}
  # Parts that overlap must be found by the comparison of strings.
  monkeypatch.setattr(RuleSpace, 'interval', lambda self, length, part: (0, 60))
  certificate._rule_maker.cache_clear()
  assert any(
    'train-test' in line
    for line in certificate.broken(certificate.certify(SMALL, 0, 50, 20))
  )
