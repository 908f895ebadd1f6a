"""What a later call may add to the run in its workdir."""

import csv
import dataclasses

import pytest
from runs import toy_config

from onlyif_jax import extending, sweep
from onlyif_jax.analysis import results
from onlyif_jax.config import ConfigError, RunConfig
from onlyif_jax.workdir import Workdir

PLAIN, SKEWED = 'data.alpha=0.0', 'data.alpha=0.7'


def changed(config, section, **values):
  section_values = dataclasses.replace(getattr(config, section), **values)
  return dataclasses.replace(config, **{section: section_values})


def test_differences_name_fields_but_not_what_may_grow():
  old = RunConfig()
  grown = changed(old, 'sweep', counts=(5, 7), seeds='7')
  assert extending.differences(old, grown) == {}
  labelled = dataclasses.replace(grown, size='cpu60', paper='other words')
  assert extending.differences(old, labelled) == {}
  other = changed(grown, 'data', epochs=3.0)
  assert extending.differences(old, other) == {'data.epochs': (2.0, 3.0)}


@pytest.mark.parametrize(
  ('old', 'new', 'free'),
  [
    ((PLAIN,), (SKEWED,), True),
    ((PLAIN, SKEWED), (PLAIN,), True),
    ((PLAIN, 'data.alpha=0.2,sweep.counts=7'), (PLAIN,), True),
    ((), (PLAIN,), False),
    ((), ('sweep.counts=5',), False),
    ((PLAIN,), (PLAIN, 'data.alpha=0.2,task.alphabet=13'), False),
  ],
)
def test_further_variants_may_be_added_where_they_change_the_same_settings(
  old, new, free
):
  stored = changed(RunConfig(), 'sweep', variants=old)
  given = changed(RunConfig(), 'sweep', variants=new)
  assert ('sweep.variants' not in extending.differences(stored, given)) == free
  if free:
    union = extending.extend(stored, given)
    assert union.sweep.variants == (*old, *(v for v in new if v not in old))
    assert extending.extent(union) != extending.extent(
      changed(given, 'sweep', seeds='9')
    )


def test_the_more_counts_and_seeds_are_kept():
  stored = changed(RunConfig(), 'sweep', counts=(3, 11), seeds='2')
  given = changed(RunConfig(), 'sweep', counts=(7, 3), seeds='5')
  union = extending.extend(stored, dataclasses.replace(given, size='cpu60'))
  assert (union.sweep.counts, union.sweep.seeds, union.size) == (
    (3, 7, 11),
    '5',
    'cpu60',
  )
  assert extending.extend(union, stored).sweep == union.sweep
  rows_by_columns = changed(given, 'sweep', seeds='2x3')
  with pytest.raises(
    ConfigError, match="seeds='2x3' does not extend the workdir's '2'"
  ):
    extending.extend(stored, rows_by_columns)


@pytest.mark.slow
def test_a_run_is_extended_by_a_variant(tmp_path, monkeypatch):
  monkeypatch.setattr(results, 'analyse', lambda path: None)
  config = toy_config('counts=3,seeds=1', sweep_variants=(PLAIN,), sweep_references=())
  assert sweep.run(config, tmp_path)[:2] == (True, {})
  names = ('results.csv', 'dynamics.csv', 'metrics.jsonl')
  before = {name: (tmp_path / name).read_bytes() for name in names}
  assert sweep.run(changed(config, 'sweep', variants=(SKEWED,)), tmp_path)[0]
  for name, text in before.items():
    assert (tmp_path / name).read_bytes().startswith(text)
  rows = list(csv.DictReader((tmp_path / 'results.csv').read_text().splitlines()))
  assert {(r['member'], r['variant'], r['data.alpha']) for r in rows} == {
    ('I3-alpha0.0-s0', PLAIN, '0.0'),
    ('I3-alpha0.7-s0', SKEWED, '0.7'),
  }
  assert Workdir(tmp_path).config().sweep.variants == (PLAIN, SKEWED)
