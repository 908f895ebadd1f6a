"""The shipped rows: readable, distinct, true, and enough for every tiny mixture."""

import json
import re
import shutil
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest

from onlyif_jax.corpora import manifest, mixture, readers
from onlyif_jax.evals import problems
from onlyif_jax.finetune import mixed, tuning_config

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / 'configs' / 'rows'
FILES = {  # file -> (format, fewest rows)
  'oss_instruct.jsonl': ('oss_instruct', 250),
  'alpaca_data.json': ('alpaca', 150),
  'CoT_collection_en.json': ('cot_collection', 150),
  'ultrainteract_sft.jsonl': ('ultrainteract', 170),
  'openorca.jsonl': ('openorca', 60),
}
RUNNER = """
import contextlib, io, json, sys
for item in json.load(sys.stdin):
  names, out = {'input': lambda: item['input']}, io.StringIO()
  with contextlib.redirect_stdout(out):
    exec(item['code'], names)
  assert out.getvalue().strip() == item['prints'], item
  for call, gives in item['examples']:
    assert repr(eval(call, names)) == gives, item
"""


def lines(name):
  return [json.loads(line) for line in (FOLDER / name).read_text().splitlines()]


def item(code, examples=(), prints='', given=''):
  return {'code': code, 'examples': examples, 'prints': prints, 'input': given}


def fenced(text):
  return re.search(r'```python\n(.*?)\n```', text, re.S)[1]


def run(items):
  """Runs programs in one process apart; its error, '' without one."""
  text = json.dumps(items)
  command = [sys.executable, '-I', '-c', RUNNER]
  told = subprocess.run(
    command, input=text, capture_output=True, text=True, check=False
  )
  return told.stderr.strip().splitlines()[-1] if told.returncode else ''


@pytest.mark.parametrize('name', FILES)
def test_rows_are_readable_and_ask_different_things(name):
  kind, fewest = FILES[name]
  rows = readers.read(FOLDER / name, 'auto')
  assert readers.Reader(FOLDER / name).format == kind
  assert len(rows) >= fewest
  asked = {mixture.text_hash(mixture.instruction(row)) for row in rows}
  assert len(asked) == len(rows)


def test_files_are_small_and_made_by_the_script_beside_them(tmp_path):
  shipped = [p for p in FOLDER.iterdir() if p.suffix in ('.json', '.jsonl')]
  assert len(shipped) == len(FILES) + 1
  assert sum(p.stat().st_size for p in shipped) < 300_000
  for script in FOLDER.glob('*.py'):
    shutil.copy(script, tmp_path)
  subprocess.run([sys.executable, tmp_path / 'make_rows.py'], check=True)
  for path in shipped:
    assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name


def test_python_of_the_rows_is_right():
  items = [
    item(fenced(row['solution']), row['examples'])
    for row in lines('oss_instruct.jsonl')
  ]
  for row in lines('ultrainteract_sft.jsonl'):
    if '```python' in row['response']:
      code = fenced(row['response'])
      told = re.search(r'Observation:\n(.*)\nAnswer:\n\1$', row['response'])
      asked = re.search(r'Input: (.*)\nOutput: (.*)', row['instruction'])
      assert told or asked
      given, prints = (asked[1], asked[2]) if asked else ('', told[1])
      items.append(item(code, prints=prints, given=given))
  assert len(items) > 300
  assert all(one['examples'] or one['prints'] for one in items)
  assert run(items) == ''


def test_a_wrong_program_would_be_found():
  assert 'AssertionError' in run([item('def f(n):\n  return n', [['f(1)', '2']])])
  assert 'AssertionError' in run([item('print(3)', prints='4')])


def test_problems_are_right_and_no_row_solves_them():
  own = problems.read('humaneval', FOLDER / 'humaneval.jsonl')
  assert len(own.problems) == 20
  assert own.plus
  items = []
  for row in lines('humaneval.jsonl'):
    code = row['prompt'] + row['canonical_solution'] + row['test']
    items.append(item(f'{code}\ncheck({row["entry_point"]})'))
    assert row['base_input']
  assert run(items) == ''
  names = {row['entry_point'] for row in lines('humaneval.jsonl')}
  known = {
    re.search(r'def (\w+)', fenced(row['solution']))[1]
    for row in lines('oss_instruct.jsonl')
  }
  assert len(known) > 200
  assert not names & known


def load(name):
  scope = {'__file__': str(ROOT / 'configs' / f'{name}.py')}
  exec((ROOT / 'configs' / f'{name}.py').read_text(), scope)
  return tuning_config.freeze(scope['get_config']('tiny'))


@pytest.mark.parametrize('name', ['code_deepseek', 'code_codeqwen', 'generalist'])
def test_rows_fill_every_tiny_mixture_with_some_held_out(name, monkeypatch):
  monkeypatch.chdir(ROOT)
  config = load(name)
  pool = manifest.gather(config.mixture)
  assert pool.hits == ()  # no row gives a problem away
  pool.__dict__['drawn'] = pool.sources  # a core set takes seconds to choose
  for counts in pool.counts:
    assert len(mixture.plan(pool.drawn, counts, 0).rows) == sum(counts.values())
  held, asked = mixed.held_out(pool), mixed.judged(pool, config)
  for source, ids in asked.items():
    assert len(ids) >= 5
    assert len(held[source]) > len(ids)  # the rest makes the small base
  monkeypatch.setattr(mixed, 'pool', lambda _: pool)
  base = {mixture.RowId(row.source, row.index) for row in mixed.base_rows(config)}
  assert base
  assert not base & {where for ids in asked.values() for where in ids}
  assert not base & {where for plan in pool.plans for where in plan.rows}


def test_sums_in_the_texts_are_right():
  texts = json.loads((FOLDER / 'CoT_collection_en.json').read_text()).values()
  found = 0
  for row in texts:
    equations = re.findall(r'(\d+) ([-+*/]) (\d+) = (\d+)', row['rationale'])
    for a, sign, b, result in equations:
      ways = {'+': int(a) + int(b), '-': int(a) - int(b), '*': int(a) * int(b)}
      assert ways.get(sign, Fraction(int(a), int(b))) == int(result), row
    if row['target'].isdigit():
      assert equations[-1][3] == row['target'], row
    found += len(equations)
  assert found > 100
  solved = 0
  for row in lines('ultrainteract_sft.jsonl'):
    boxed = re.search(r'boxed\{(\d+)\}$', row['response'])
    line = re.search(r'(\d+) x \+ (\d+) = (\d+)\.', row['instruction'])
    share = re.search(r'(\d+) per cent of (\d+)\?', row['instruction'])
    if line:
      a, b, c = map(int, line.groups())
      assert a * int(boxed[1]) + b == c, row
    elif share:
      assert int(share[1]) * int(share[2]) == 100 * int(boxed[1]), row
    solved += bool(line or share)
  assert solved > 50


def test_answers_about_words_are_right():
  checked = 0
  for row in json.loads((FOLDER / 'alpaca_data.json').read_text()):
    words = row['input'].split(', ')
    line = row['input'].strip('.').split()
    wanted = {
      'Put the words into alphabetical order.': ', '.join(sorted(words)),
      'Sort this list from A to Z.': ', '.join(sorted(words)),
      'How many words are in the sentence?': f'It has {len(line)} words.',
      'Repeat the first word of the sentence.': line[0] if line else '',
    }
    if row['instruction'] in wanted:
      checked += 1
      assert row['output'] == wanted[row['instruction']]
  for row in lines('openorca.jsonl'):
    gap = re.search(r'"(.*)\." lost a word: (.*)\. Choose: (.*)', row['question'])
    if gap:
      words, shown = gap[1].split(), gap[2].split()
      (missing,) = [w for w, s in zip(words, shown, strict=True) if s == '___']
      assert missing in gap[3].split(', ')
      assert row['response'] == f'The missing word is {missing}.'
      checked += 1
  assert checked > 20
