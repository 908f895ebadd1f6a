"""The html page: self-contained, every part in its place, and nothing private."""

import csv
import functools
import json
import re
import tempfile
from pathlib import Path

import fake_run
import pages as pages_lib
import pytest

from onlyif_jax.analysis import html as page_lib
from onlyif_jax.analysis import html_errors, results

KINDS = ('right', 'copied', 'nearest_y', 'wrong_y')
COUNTS = (101, 307, 503, 1009)


def add_mistakes(folder, counts=COUNTS):
  """Writes anatomy.csv and wrong.jsonl as a run does."""
  with (folder / 'anatomy.csv').open('w', newline='') as file:
    write = csv.writer(file, lineterminator='\n').writerow
    columns = ('member', 'reference', 'instructions', 'noop_share', 'learning_rate')
    write([*columns, 'split', 'class', 'count', 'examples'])
    for count in counts:
      for kind, n in zip(KINDS, (count % 100, 50, 7, 0), strict=True):
        write([f'q0-i{count}-s0', '', count, 0.0, 0.001, 'unseen', kind, n, 157])
    write(['one', 'one', 1009, 0.0, 0.001, 'unseen', 'length', 157, 157])
  wrong = [
    {
      'member': 'q0-i101-s0',
      'split': 'unseen',
      'class': kind,
      'prompt': '<b>abc</b>',
      'expected': 'abcdefg',
      'output': 'abXde<g' if n % 2 else 'abcdg',
    }
    for kind in KINDS[1:]
    for n in range(5)
  ]
  lines = ''.join(json.dumps(row) + '\n' for row in wrong)
  (folder / 'wrong.jsonl').write_text(lines)
  return folder


@functools.cache
def pages():
  """(page of one run with mistakes, page of an experiment without rows)."""
  with tempfile.TemporaryDirectory() as name:
    path = fake_run.make(Path(name) / 'a', counts=COUNTS)
    run = results.load(add_mistakes(path))
    other = results.load(fake_run.make(Path(name) / 'b', counts=COUNTS, name='algebra'))
    return page_lib.page([run], ['imin-cpu']), page_lib.page([other], ['algebra-cpu'])


def plain(text):
  return re.sub(r'\s+', ' ', re.sub(r'<[^>]*>', ' ', text.partition('<body>')[2]))


def test_sections_come_in_order():
  text = plain(pages()[0])
  wanted = (
    *('Coverage: 0 of', 'With a fixed budget of N', 'Settings', 'exact match, mean'),
    *('Fitted logistics', 'What the outputs are', 'Wrong outputs', 'Scoreboard'),
    *('fewer than 300 instructions never', 'All other experiments of the papers'),
    *('Provenance', 'Command', 'python -m onlyif_jax.main'),
  )
  places = [text.index(part) for part in wanted]
  assert places == sorted(places)


def test_the_page_is_well_formed_and_needs_nothing_else():
  text = pages()[0]
  pages_lib.check_alone_and_well_formed(text)
  assert 'name="viewport" content="width=device-width' in text


def test_own_rows_stand_open_and_others_collapsed():
  text = pages()[0]
  own, others = text.split('All other experiments of the papers')
  assert 'supported (cpu analogue)' in own
  assert 'deepseek' not in own.lower()
  assert others.count('<details>') >= 11
  assert 'OSS/Alpaca/CoT 18/2/0 (thousands), HE+' in others
  assert '61.6 %' in others
  # Told in the row where rows are few, else once below each table.
  assert own.count('C14.1: The paper gives I_min as 300') == 4
  assert others.count('C14.2: MBPP versions look mixed') == 2


def test_an_analogue_is_called_so():
  assert 'no row for this experiment: it is an analogue' in plain(pages()[1])
  assert 'What the outputs are' not in pages()[1]
  assert 'Wrong outputs' not in pages()[1]


def test_bars_show_every_kind_of_output():
  text = pages()[0]
  bars = re.findall(r'<div class="bar">.*?</div></div>', text)
  assert len(bars) == len(COUNTS)  # reference members are left out
  label = re.findall(r'aria-label="([^"]*)"', bars[1])
  assert label == ['right 4%, input copied 32%, y of the rule with the nearest x 4%']
  shares = [float(x) for x in re.findall(r'flex:([\d.]+)', bars[1])]
  assert shares == pytest.approx([7 / 157, 50 / 157, 7 / 157], abs=1e-4)
  legend = re.search(r'<ul class="legend">(.*?)</ul>', text)[1]
  assert re.findall(r'>([a-z])</b>([^<]*)<', legend) == [
    ('a', 'right'),
    ('b', 'input copied'),
    ('c', 'y of the rule with the nearest x'),
  ]
  assert len(set(re.findall(r'style="([^"]*)"', legend))) == 3


def test_wrong_outputs_are_of_many_kinds_and_escaped():
  text = pages()[0]
  shown = re.findall(r'<small>(\w+) · unseen · q0-i101-s0</small>', text)
  assert shown == ['copied'] * 2 + ['nearest_y'] * 2 + ['wrong_y'] * 2
  assert '&lt;b&gt;abc&lt;/b&gt;' in text
  assert '<b>abc' not in text


@pytest.mark.parametrize(
  ('expected', 'output', 'marks'),
  [
    ('abcd', 'abXd', ('hit:ab gone:c hit:d', 'hit:ab miss:X hit:d')),
    ('abcd', 'abd', ('hit:ab gone:c hit:d', 'hit:abd')),
    ('abd', 'abcd', ('hit:abd', 'hit:ab miss:c hit:d')),
    ('ab', 'ab', ('hit:ab', 'hit:ab')),
    ('ab', '', ('gone:ab', '')),
    # By place where lengths agree: a shift would hide what was changed.
    ('aabb', 'abbb', ('hit:a gone:a hit:bb', 'hit:a miss:b hit:bb')),
  ],
)
def test_characters_are_marked(expected, output, marks):
  found = html_errors.marked(expected, output)
  for text, wanted in zip(found, marks, strict=True):
    spans = re.findall(r'<span class="(\w+)">(.*?)</span>', text)
    assert ' '.join(f'{kind}:{part}' for kind, part in spans) == wanted
