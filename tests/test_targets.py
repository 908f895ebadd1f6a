"""The papers' printed numbers are there, and they fit together."""

import dataclasses
import itertools
from fractions import Fraction

import fake_tuned
import pytest

from onlyif_jax import config as config_lib
from onlyif_jax.analysis import paper_tables, targets
from onlyif_jax.analysis.selector import matches
from onlyif_jax.evals import protocols

TARGETS = targets.load()


def cell(table, row, column):
  return TARGETS[f'{table}/{row}/{column}'].value


def table_rows(*tables):
  """(table, row) of the tables, in order."""
  keys = (t.split('/', 1) for t in TARGETS if t.split('/')[0] in tables)
  return dict.fromkeys((table, rest.rpartition('/')[0]) for table, rest in keys)


def test_every_cell_is_there():
  sizes: dict = {}
  for name in TARGETS:
    if '/' in name:
      table = name.split('/')[0]
      sizes[table] = sizes.get(table, 0) + 1
  assert sizes == {
    'occurrences': 16,
    'algebra-5a': 6,
    'algebra-5b': 5,
    'algebra-5c': 6,
    'deepseek-20k': 6 * 5 + 5 + 2,
    'deepseek-75k': 9 * 5 + 8,
    'codeqwen': 6 * 5 + 5 + 2,
    'generalist-20k': 3 * 4 + 2,
    'generalist-40k': 5 * 4 + 9,
    'generalist-60k': 5 * 4 + 9,
    'generalist-80k': 5 * 4 + 9,
  }
  claims = [t for t in TARGETS.values() if t.kind == 'claim']
  assert len(claims) >= 45
  assert all(t.value is not None for t in TARGETS.values() if t.kind == 'number')


def fits(percent, problems):
  """Whether a printed percentage is a whole number of problems."""
  return round(100 * round(percent * problems / 100) / problems, 1) == percent


def test_code_cells_are_whole_numbers_of_problems():
  """A misprint here would hardly be a multiple of 1/164 and 1/399 (C14.2)."""
  for table, row in table_rows('deepseek-20k', 'deepseek-75k', 'codeqwen'):
    for column in ('HE', 'HE+'):
      assert fits(cell(table, row, column), 164), (table, row, column)
    for column in ('MBPP', 'MBPP+'):
      value, n = cell(table, row, column), TARGETS[f'{table}/{row}/{column}'].n
      assert fits(value, n), (table, row, column)


def test_code_averages_follow_from_their_cells():
  for table, row in table_rows('deepseek-20k', 'deepseek-75k', 'codeqwen'):
    four = [cell(table, row, c) for c in ('HE', 'HE+', 'MBPP', 'MBPP+')]
    assert cell(table, row, 'Avg') == pytest.approx(sum(four) / 4, abs=0.0501)
  for table in ('deepseek-20k', 'codeqwen'):
    assert cell(table, '16/4/0', 'Avg(Base)') == pytest.approx(
      (65.2 + 76.7) / 2, abs=0.051
    )
    assert cell(table, '16/4/0', 'Avg(+)') == pytest.approx(
      (58.5 + 63.7) / 2, abs=0.051
    )


def test_gains_follow_from_their_cells():
  """100 (a / b - 1) of rounded cells; 14.64 is the papers' own slip (C14.6)."""
  for t in TARGETS.values():
    if t.gain:
      a, b = (TARGETS[name].value for name in t.gain)
      error = 0.16 if t.digits == 1 else 0.03
      assert 100 * (a / b - 1) == pytest.approx(t.value, abs=error), t.id


def test_inconsistencies_stand_with_the_rows_they_touch():
  assert 'C14.5' in TARGETS['deepseek-75k/67.5/3.25/3.25/Avg'].caveats
  assert 'C14.4' in TARGETS['codeqwen/16/4/0/HE'].caveats
  assert 'C14.6b' in TARGETS['generalist-20k/10/0/10/in budget'].caveats
  assert TARGETS['generalist-20k/10/0/10/in budget'].printed == '14.64'
  used = {c for t in TARGETS.values() for c in t.caveats}
  assert used == set(targets.read()['caveats'])


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'state': 'guessed'}, "state 'guessed'"),
    ({'experiment': 'imn'}, "experiment 'imn'"),
    ({'predicate': {'hold': {}}}, "predicate 'hold'"),
    ({'caveats': ('C99',)}, "caveat 'C99'"),
    ({'gain': ('x', 'y')}, "gain on 'x'"),
    ({'needs': {'instructions': [100, 300]}}, 'needs of instructions 300'),
    ({'kind': 'number'}, 'neither value'),
  ],
)
def test_a_wrong_target_is_named(change, message):
  target = dataclasses.replace(TARGETS['imin-never'], **change)
  with pytest.raises(ValueError, match=f'target imin-never: .*{message}'):
    targets._check(target, TARGETS)


def test_ranges_say_what_they_need():
  for t in TARGETS.values():
    ranges = [f for f, v in t.where.items() if str(v).startswith(('<', '>'))]
    assert set(ranges) <= set(t.needs), t.id


def swept(name):
  """The paper-sized config's rows as (instructions, field -> value)."""
  scope = {}
  exec((fake_tuned.ROOT / 'configs' / f'{name}.py').read_text(), scope)
  config = config_lib.freeze(scope['get_config']('full'))
  for variant in config.sweep.variants or ('',):
    own = config_lib.variant(config, variant)
    flat = config_lib.flatten(own)
    for count in own.sweep.counts:
      for share in own.sweep.noop_shares:
        yield {**flat, 'instructions': count, 'noop_share': share}


def test_every_cell_that_a_claim_names_is_run_by_its_config():
  """Otherwise no run could support it."""
  for name in ('imin', 'noop', 'longtail', 'occurrences', 'semantics', 'lengths'):
    found = list(swept(name))
    for t in TARGETS.values():
      if t.experiment != name or t.arithmetic:
        continue
      where = {f: w for f, w in t.where.items() if f not in targets.DEFAULTS}
      own = [r for r in found if all(matches(r[f], w) for f, w in where.items())]
      named = {f: w for f, w in where.items() if isinstance(w, list)} | t.needs
      for cell in itertools.product(*named.values()):
        asked = dict(zip(named, cell, strict=True))
        assert any(all(matches(r[f], v) for f, v in asked.items()) for r in own), (
          t.id,
          asked,
        )


def test_both_records_of_the_papers_tables_agree():
  """evals/protocols.yaml has the cells of Tables 1 to 3 too."""
  plans = paper_tables.read()['tables'].values()
  blocks = [block['of'] for plan in plans for block in plan['blocks']]
  tables = {
    **protocols.get('papers-code').papers.tables,
    **protocols.get('eurus-2024-09').papers.tables,
  }
  theirs = {}
  for name, table in tables.items():
    for row, cells in table.items():
      base, _, added = row.split(': ')[-1].partition('+')
      first, *rest = (added or base).split('/')
      total = Fraction(first) + (Fraction(base) if added else 0)
      key = (name.partition(',')[0], total, *map(Fraction, rest))
      assert key not in theirs
      theirs[key] = list(cells)
  ours = {
    (table['figure'], *map(Fraction, row.split('/'))): cells[:4]
    for table in targets.read()['tables']
    if table['id'] in blocks
    for row, cells in table['rows'].items()
  }
  assert len(ours) == 15 + 6 + 18
  assert ours == theirs


def test_analogues_have_no_target():
  found = {t.experiment for t in TARGETS.values()}
  assert not found & {'algebra', 'cipher', 'markov', 'tradeoff'}
