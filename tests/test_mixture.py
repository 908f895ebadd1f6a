"""The planner: exact counts, nested draws, rows once, and the manifest's files."""

import hashlib
import json
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from onlyif_jax import keys
from onlyif_jax.config import ConfigError
from onlyif_jax.corpora import mixture
from onlyif_jax.corpora.rows import Row, Turn


def row(source, index, ask, answer='yes'):
  return Row(source, index, (Turn('user', ask), Turn('assistant', answer)))


def source(name, n, seed=0, prefix=None):
  rows = [row(name, i, f'{prefix or name} {i}') for i in range(n)]
  return mixture.keyed(mixture.source_of(name, rows), seed)


def files(folder, sizes, ask=None):
  """One JSON-lines file of a source each; ask: (name, i) -> prompt."""
  ask = ask or (lambda name, i: f'What does {name} say of item {i}?')
  for name, size in sizes.items():
    lines = [
      json.dumps({'prompt': ask(name, i), 'response': f'{name} {i} is {i * i}.'})
      for i in range(size)
    ]
    (folder / f'{name}.jsonl').write_text('\n'.join(lines) + '\n')
  return tuple(f'{name}={folder / name}.jsonl:plain' for name in sizes)


# The order.


@pytest.mark.parametrize('n', [53, 101])
def test_order_is_the_bijection_of_the_device(n, monkeypatch):
  words = mixture.round_keys(7, 'source/oss')
  monkeypatch.setattr(keys, 'round_keys', lambda key, rounds: jnp.asarray(words))
  on_device = jax.vmap(lambda i: keys.permute(jax.random.key(0), i, n))
  np.testing.assert_array_equal(
    on_device(jnp.arange(n)), mixture.keyed_order(7, 'source/oss', n)
  )


@pytest.mark.parametrize('n', [0, 1, 2, 3, 13, 997])
def test_order_holds_every_place_once(n):
  order = mixture.keyed_order(3, 'order', n)
  assert sorted(order.tolist()) == list(range(n))


def test_order_depends_on_seed_and_address():
  orders = {
    tuple(mixture.keyed_order(seed, address, 53).tolist())
    for seed in range(5)
    for address in ('order', 'source/a', 'source/b')
  }
  assert len(orders) == 15


def test_order_of_a_large_source_is_without_runs():
  """About 1/n of places keep their row, and neighbours do not stay neighbours."""
  order = mixture.keyed_order(0, 'source/x', 10_007)
  assert np.sum(order == np.arange(10_007)) < 10
  assert np.sum(np.diff(order) == 1) < 10
  assert abs(np.corrcoef(order, np.arange(10_007))[0, 1]) < 0.05


# The draw.


def test_mixture_has_the_exact_counts_without_repeats():
  plan = mixture.plan([source('a', 53), source('b', 31)], {'a': 29, 'b': 7}, 0)
  assert len(plan.rows) == len(set(plan.rows)) == 36
  names = [where.source for where in plan.rows]
  assert (names.count('a'), names.count('b')) == (29, 7)
  assert names != sorted(names)  # they are mixed
  assert {where.index for where in plan.rows if where.source == 'a'} <= set(range(53))


def test_smaller_draw_is_part_of_the_larger_one_in_any_company():
  a, b, c = source('a', 53), source('b', 31), source('c', 17)
  small = mixture.plan([a], {'a': 11}, 0).rows
  large = mixture.plan([a, b, c], {'a': 23, 'b': 5, 'c': 13}, 0).rows
  assert set(small) < set(large)
  first = mixture.plan([a, b], {'a': 23}, 0).rows
  assert set(first) == {where for where in large if where.source == 'a'}


def test_another_seed_draws_others():
  draws = {
    frozenset(mixture.plan([source('a', 53, seed)], {'a': 11}, seed).rows)
    for seed in range(7)
  }
  assert len(draws) == 7


def test_removed_row_moves_no_other():
  full = mixture.source_of('a', [row('a', i, f'a {i}') for i in range(53)])
  before = mixture.keyed(full, 5).indices
  after = mixture.keyed(mixture.without(full, [2, 3, 41]), 5)
  assert after.indices == tuple(i for i in before if i not in (2, 3, 41))
  assert after.contaminated == 3


def test_sha256_is_that_of_the_list_of_rows():
  plan = mixture.plan([source('a', 7), source('b', 5)], {'a': 3, 'b': 2}, 0)
  lines = [f'{where.source}\t{where.index}\n' for where in plan.rows]
  assert plan.sha256 == hashlib.sha256(''.join(lines).encode()).hexdigest()
  other = mixture.Plan(plan.counts, plan.rows[::-1])
  assert other.sha256 != plan.sha256


def test_draw_of_today_is_the_draw_of_tomorrow():
  """A pin: another order would make other training sets of the same config."""
  plan = mixture.plan([source('oss', 53), source('alpaca', 31)], {'oss': 19}, 0)
  assert [where.index for where in plan.rows[:5]] == PINNED


PINNED = [50, 47, 52, 2, 7]


def test_too_large_mixture_is_refused_with_what_there_is():
  rows = [row('a', i, f'ask {i % 11}') for i in range(13)]
  own = mixture.deduplicate([mixture.without(mixture.source_of('a', rows), [4])])
  with pytest.raises(ConfigError) as e:
    mixture.plan(own, {'a': 11}, 0)
  text = str(e.value)
  assert 'asks for 11 rows of a' in text
  assert 'a has 13 rows, 10 of them after 2 duplicates and 1 contaminated' in text


# Rows once.


def test_duplicates_go_to_the_first_source_and_its_first_row():
  rng = random.Random(1)
  asks = [f'Ask  number {i}' for i in range(19)]

  def made(name, n):
    texts = [rng.choice(asks) for _ in range(n)]
    texts = [rng.choice([t, t.upper(), f' {t}\n', t.replace('  ', ' ')]) for t in texts]
    return [row(name, i, t, f'{name}{i}') for i, t in enumerate(texts)]

  own = [made('a', 11), made('b', 13), made('c', 23)]
  seen, kept, copies = {}, [], {}
  for rows in own:
    for r in rows:
      plain = ' '.join(r.turns[0].text.lower().split())
      if plain in seen:
        copies[r.source, seen[plain]] = copies.get((r.source, seen[plain]), 0) + 1
      else:
        seen[plain] = r.source
        kept.append((r.source, r.index))
  found = mixture.deduplicate([mixture.source_of(rows[0].source, rows) for rows in own])
  assert [(s.name, i) for s in found for i in s.indices] == kept
  assert {(s.name, o): n for s in found for o, n in s.duplicates.items()} == copies
  assert any(a == b for a, b in copies)
  assert any(a != b for a, b in copies)


@pytest.mark.parametrize(
  ('dedup', 'left'), [('instruction', 1), ('row', 2), ('none', 3)]
)
def test_what_makes_two_rows_one(dedup, left):
  rows = [
    row('a', 0, 'Add.', 'two'),
    row('a', 1, 'add.', 'TWO'),
    row('a', 2, 'Add.', '2'),
  ]
  (found,) = mixture.deduplicate([mixture.source_of('a', rows, dedup)])
  assert len(found.indices) == left


def test_texts_that_differ_in_a_sign_stay_apart():
  assert mixture.text_hash('2 + 3') != mixture.text_hash('2 - 3')
  assert mixture.text_hash('2 + 3') == mixture.text_hash('２ ＋ ３')  # noqa: RUF001


def test_instruction_ends_with_the_first_response():
  turns = [('system', 'S'), ('user', 'U'), ('assistant', 'A'), ('user', 'V')]
  own = Row('a', 0, tuple(Turn(*t) for t in [*turns, ('assistant', 'B')]))
  assert mixture.instruction(own) == 'S\nU'
  assert mixture.whole(own) == 'S\nU\nA\nV\nB'
