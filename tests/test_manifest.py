"""Settings of a mixture and the files that the planner writes."""

import dataclasses
import hashlib
import json
import os
import random
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from test_mixture import files

from onlyif_jax import mixing
from onlyif_jax.config import ConfigError
from onlyif_jax.corpora import manifest, mixture, mixture_settings
from onlyif_jax.corpora.mixture_settings import MixtureSettings, largest_remainder

ROOT = Path(__file__).resolve().parents[1]


def test_shares_are_exact_and_as_near_as_can_be():
  rng = random.Random(2)
  for _ in range(97):
    total = rng.randint(0, 1009)
    weights = {
      f's{i}': Fraction(rng.randint(0, 37), rng.randint(1, 7)) for i in range(5)
    }
    weights['s0'] += 1
    found = largest_remainder(total, weights)
    exact = {k: total * w / sum(weights.values()) for k, w in weights.items()}
    assert sum(found.values()) == total
    assert all(abs(found[k] - exact[k]) < 1 for k in found)
    up = [exact[k] % 1 for k in found if found[k] > exact[k]]
    down = [exact[k] % 1 for k in found if found[k] < exact[k]]
    assert not (up and down) or min(up) >= max(down)
    assert not any(found[k] for k in found if not weights[k])


def settings(**changes):
  base = {'sources': ('oss=o.jsonl', 'alpaca=a.jsonl'), 'rows': ('oss=3',)}
  return MixtureSettings(**(base | changes))


def test_rows_are_counts_or_shares_of_a_budget():
  assert settings().counts('alpaca=1000,oss=19000') == {'oss': 19000, 'alpaca': 1000}
  shares = settings(budget=20_000).counts('oss=0.95,alpaca=0.05')
  assert shares == {'oss': 19_000, 'alpaca': 1_000}
  assert settings(budget=20).counts('oss=2/3,alpaca=1/3') == {'oss': 13, 'alpaca': 7}


def test_files_are_parted():
  own = settings(
    sources=('oss=gs://b/o.jsonl', 'a=x/a.json:alpaca'), tests=('he=h.gz:text', 'm=m')
  )
  assert own.source_files == (
    ('oss', 'gs://b/o.jsonl', 'auto'),
    ('a', 'x/a.json', 'alpaca'),
  )
  assert own.test_files == (('he', 'h.gz', 'text'), ('m', 'm', ''))


@pytest.mark.parametrize(
  ('changes', 'words'),
  [
    ({'sources': ()}, 'mixture.sources is empty'),
    ({'rows': ()}, 'mixture.rows is empty'),
    ({'sources': ('oss',)}, "mixture.sources has 'oss'"),
    ({'sources': ('oss=p:',)}, "mixture.sources has 'oss=p:'"),
    ({'sources': ('oss=p', 'oss=q')}, "name 'oss' twice"),
    ({'tests': ('oss=p',)}, "name 'oss' twice"),
    ({'tests': ('p',)}, "mixture.tests has 'p'"),
    ({'rows': ('os=3',)}, 'Did you mean oss?'),
    ({'rows': ('oss',)}, "mixture.rows has 'oss'"),
    ({'rows': ('oss=-3',)}, "mixture.rows has 'oss=-3'"),
    ({'rows': ('oss=3,oss=4',)}, 'each source once'),
    ({'rows': ('oss=0',)}, 'no row at all'),
    ({'rows': ('oss=2.5',)}, 'oss is not a whole number'),
    ({'rows': ('oss=3', 'oss=3')}, 'names a mixture twice'),
    ({'selection': 'kcentre'}, 'Did you mean kcenter?'),
    ({'dedup': 'x'}, "mixture.dedup='x'"),
    ({'substring': 0}, 'mixture.substring=0 is below 1'),
    ({'radius': float('nan')}, 'mixture.radius=nan'),
  ],
)
def test_settings_that_cannot_work_are_named(changes, words):
  config = mixture_settings.base_config()
  config.mixture.update({'sources': ('oss=o.jsonl',), 'rows': ('oss=3',)} | changes)
  with pytest.raises(ConfigError) as e:
    mixture_settings.freeze(config)
  assert words in str(e.value)


def test_unknown_setting_is_refused():
  with pytest.raises(ConfigError, match=r'unknown setting mixture.budgets'):
    mixture_settings.freeze({'mixture': {'budgets': 3}})
  with pytest.raises(ConfigError, match='no section mixture'):
    mixture_settings.freeze({'sources': ()})


# Files.

WORDS = ['red', 'blue', 'tall', 'small', 'old', 'new', 'round', 'flat', 'warm', 'cold']


def small(tmp_path, **changes):
  def ask(name, i):
    if i < 3 and name != 'c':
      return f'What is said of item {i}?'  # a and b share these
    if name == 'a' and i == 5:
      return 'Please tell me how many legs the seven tall spiders of Ann have'
    return f'What does {name} say of item {i}?  {WORDS[i % 7]} {WORDS[(i * i) % 10]}'

  sources = files(tmp_path, {'a': 53, 'b': 31, 'c': 17}, ask)
  tests = [{'question': 'How many legs the seven tall spiders of Ann have?'}]
  tests += [{'question': f'Which {w} thing does item {w} hold?'} for w in WORDS]
  path = tmp_path / 'test.jsonl'
  path.write_text(''.join(json.dumps(t) + '\n' for t in tests))
  own = {
    'sources': sources,
    'rows': ('a=13', 'a=23,b=11', 'a=5,b=7,c=3'),
    'tests': (f'legs={path}:question',),
    'sample': 19,
    'clusters': 5,
    'dimensions': 11,
  }
  return MixtureSettings(**(own | changes))


def test_manifest_tells_what_was_removed_and_drawn(tmp_path):
  own = small(tmp_path)
  mixing.write(own, tmp_path / 'out')
  told = json.loads((tmp_path / 'out' / 'manifest.json').read_text())
  a, b, c = told['sources']
  assert (a['read'], a['contaminated'], a['left']) == (53, 1, 52)
  assert (b['read'], b['duplicates'], b['left']) == (31, {'a': 3}, 28)
  assert (c['read'], c['left'], c['format']) == (17, 17, 'plain')
  data = (tmp_path / 'a.jsonl').read_bytes()
  assert a['sha256'] == hashlib.sha256(data).hexdigest()
  assert told['tests'][0]['prompts'] == 11
  assert told['tests'][0]['found'] == 1
  hits = (tmp_path / 'out' / 'decontamination.jsonl').read_text().splitlines()
  (hit,) = map(json.loads, hits)
  assert (hit['source'], hit['index'], hit['item']) == ('a', 5, 0)
  assert 'legs the seven tall spiders' in hit['shared']
  lines = (tmp_path / 'out' / 'rows.csv').read_text().splitlines()
  assert lines[0] == 'mixture,order,source,index'
  assert len(lines) == 1 + 13 + 34 + 15
  first = [line.split(',') for line in lines[1:14]]
  assert [f[1] for f in first] == [str(i) for i in range(13)]
  gone = {('a', '5'), ('b', '0'), ('b', '1'), ('b', '2')}
  assert not gone & {tuple(line.split(',')[2:]) for line in lines}
  # What is written is read back, and leads to the rows.
  plans = manifest.read(tmp_path / 'out')
  pool = manifest.gather(own)
  assert plans == pool.plans
  asked = mixture.instruction(pool.row(plans[0].rows[0]))
  number = plans[0].rows[0].index
  assert asked.startswith(f'What does a say of item {number}?')


def test_prepared_rows_give_the_mixtures_of_files_that_are_read(tmp_path):
  own = small(tmp_path)
  folder = tmp_path / 'prepared'
  kept = dataclasses.replace(own, prepared=str(folder))
  one, two = manifest.gather(own), manifest.gather(kept)
  assert not isinstance(two.rows['a'], list)
  assert [p.rows for p in one.plans] == [p.rows for p in two.plans]
  assert [one.row(w) for w in one.plans[0].rows] == [
    two.row(w) for w in two.plans[0].rows
  ]
  assert one.facts == two.facts
  # Prepared once: the second time nothing is written.
  before = sorted((p, p.stat().st_mtime_ns) for p in folder.rglob('*'))
  assert len(before) > 6
  manifest.gather(kept)
  assert sorted((p, p.stat().st_mtime_ns) for p in folder.rglob('*')) == before


def test_same_settings_give_the_same_bytes(tmp_path):
  own = small(tmp_path)
  mixing.write(own, tmp_path / 'one')
  mixing.write(own, tmp_path / 'two')
  names = sorted(path.name for path in (tmp_path / 'one').iterdir())
  assert names == [
    'decontamination.jsonl',
    'diversity.json',
    'manifest.json',
    'map.png',
    'rows.csv',
  ]
  for name in names:
    one, two = ((tmp_path / side / name).read_bytes() for side in ('one', 'two'))
    assert one == two, name


def test_diversity_is_that_of_the_mixture(tmp_path):
  found = mixing.measure(manifest.gather(small(tmp_path)))
  one, two, three = found['mixtures']
  assert one['effective_sources'] == 1
  two_sources = (34 / 23) ** (23 / 34) * (34 / 11) ** (11 / 34)
  assert two['effective_sources'] == pytest.approx(two_sources, abs=1e-5)
  assert 2.8 < three['effective_sources'] < 3
  assert (one['sampled'], two['sampled'], three['sampled']) == (13, 19, 15)
  assert found['sets']['c']['sampled'] == 17
  assert one['cover'].keys() == {'legs'}
  assert one['vendi'] < two['vendi']


def test_core_set_is_nested_and_lies_wider(tmp_path):
  rows = ('a=13', 'a=23,b=11')
  core = manifest.gather(small(tmp_path, selection='kcenter', rows=rows))
  one, two = (
    {where for where in plan.rows if where.source == 'a'} for plan in core.plans
  )
  assert len(one) == 13
  assert one < two
  drawn = manifest.gather(small(tmp_path, rows=rows))
  assert set(drawn.plans[0].rows) != one

  def nearest(ids):
    texts = core.vectors.of(ids)
    near = texts @ texts.T - 2 * np.eye(len(texts))
    return np.max(near)

  assert nearest(sorted(one)) < nearest(sorted(drawn.plans[0].rows))
  found = mixing.measure(core)
  assert found['mixtures'][0]['sampled'] == 13


@pytest.mark.parametrize('selection', ['random', 'kcenter'])
def test_sample_is_of_the_mixture_in_its_shares(tmp_path, selection):
  pool = manifest.gather(small(tmp_path, selection=selection))
  plan = pool.plans[1]  # 23 + 11 rows, of which 19
  ids = mixing.sampled(pool, plan)
  assert len(ids) == len(set(ids)) == 19
  assert set(ids) < set(plan.rows)
  assert [where.source for where in ids] == ['a'] * 13 + ['b'] * 6
  if selection == 'kcenter':  # not the outermost rows of the core set
    assert {where.index for where in ids[:13]} != set(pool.drawn[0].indices[:13])


def test_tokens_are_counted_by_source(tmp_path, monkeypatch):
  class Words:
    def encode(self, text):
      return text.split()

  from onlyif_jax.corpora import tokenizer

  monkeypatch.setattr(tokenizer, 'load_tokenizer', lambda directory: Words())
  pool = manifest.gather(small(tmp_path, tokenizer='some/where'))
  counted = manifest.tokens(pool, pool.plans)
  assert counted is not None
  wanted = [dict.fromkeys(plan.counts, 0) for plan in pool.plans]
  for n, plan in enumerate(pool.plans):
    for name, index in plan.rows:
      line = (tmp_path / f'{name}.jsonl').read_text().splitlines()[index]
      own = json.loads(line)
      wanted[n][name] += len(f'{own["prompt"]} {own["response"]}'.split())
  assert counted == wanted
  assert manifest.tokens(manifest.gather(small(tmp_path)), pool.plans) is None


def test_damaged_manifest_is_refused(tmp_path):
  mixing.write(small(tmp_path), tmp_path / 'out')
  path = tmp_path / 'out' / 'rows.csv'
  lines = path.read_text().splitlines()
  path.write_text('\n'.join([lines[0], *lines[2:]]) + '\n')
  with pytest.raises(ConfigError, match='rows of mixture 0 are not those'):
    manifest.read(tmp_path / 'out')
  path.write_text('nothing\n')
  with pytest.raises(ConfigError, match='mixture 0 are not'):
    manifest.read(tmp_path / 'out')
  (tmp_path / 'out' / 'manifest.json').write_text('{}')
  with pytest.raises(ConfigError, match='is not a manifest'):
    manifest.read(tmp_path / 'out')
  with pytest.raises(ConfigError, match=r'holds no manifest\.json'):
    manifest.read(tmp_path)


def test_nothing_is_written_where_rows_do_not_suffice(tmp_path):
  with pytest.raises(ConfigError, match='asks for 53 rows of a, but a has 53 rows, 52'):
    mixing.write(small(tmp_path, rows=('a=53',)), tmp_path / 'out')
  assert not (tmp_path / 'out').exists()
  pool = manifest.gather(small(tmp_path, rows=('a=53',), ngram=0))  # nothing removed
  assert len(pool.plans[0].rows) == 53


def test_lone_test_prompt_needs_a_radius(tmp_path):
  (tmp_path / 'one.jsonl').write_text('{"prompt": "a lone prompt"}\n')
  own = {'tests': (f'one={tmp_path / "one.jsonl"}',)}
  with pytest.raises(ConfigError, match=r'set mixture\.radius'):
    mixing.measure(manifest.gather(small(tmp_path, **own)))
  found = mixing.measure(manifest.gather(small(tmp_path, radius=2.0, **own)))
  assert found['mixtures'][0]['cover'] == {'one': 1.0}


CONFIG = """
from onlyif_jax.corpora.mixture_settings import base_config
def get_config():
  c = base_config()
  c.mixture.sources = {sources!r}
  c.mixture.rows = ('a=11', 'a=7,b=3')
  return c
"""


def test_command_writes_and_prints(tmp_path):
  sources = files(tmp_path, {'a': 13, 'b': 7})
  (tmp_path / 'mix.py').write_text(CONFIG.format(sources=sources))
  command = [sys.executable, '-m', 'onlyif_jax.mixture']
  command += [f'--config={tmp_path / "mix.py"}', f'--out={tmp_path / "out"}']

  def call(*more):
    env = dict(os.environ, PYTHONPATH=str(ROOT))
    return subprocess.run([*command, *more], capture_output=True, text=True, env=env)

  done = call('--config.mixture.seed=3')
  assert done.returncode == 0, done.stderr
  assert 'a=7,b=3' in done.stdout
  assert json.loads((tmp_path / 'out' / 'manifest.json').read_text())['seed'] == 3
  assert (tmp_path / 'out' / 'map.png').read_bytes()[:4] == b'\x89PNG'
  failed = call('--config.mixture.budget=1000')
  assert failed.returncode == 2
  assert failed.stderr.startswith('error: mixture.rows asks for 1,000 rows of a')
  assert failed.stderr.count('\n') == 1
