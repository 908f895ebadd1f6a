"""The page about fine-tuning runs: every part in its place, and nothing private."""

import csv
import functools
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import fake_run
import fake_tuned
import pages as pages_lib
import pytest
from fake_tuned import right

from onlyif_jax.analysis import html as page_lib
from onlyif_jax.analysis import reporting, results, tuned
from onlyif_jax.analysis.figures_style import pyplot
from onlyif_jax.finetune import rows as rows_lib
from onlyif_jax.finetune.answers import ANATOMY_COLUMNS


def mixture(path, *, scored=True):
  """A run of code_codeqwen of which the first four rows are done."""
  fake_tuned.mixtures(path, 'code_codeqwen', keep=4)
  for n, row in enumerate(rows_lib.rows(fake_tuned.config('code_codeqwen'))[:4]):
    if scored:
      own = {'base': right(53, 0.5 + n / 20), 'plus': right(53, 0.4 + n / 20)}
      fake_tuned.solve(path, row.name, own)
  folder = path / 'mixture'
  folder.mkdir()
  sources = {
    **{'read': 5, 'contaminated': 1, 'duplicates': {'oss': 2}, 'left': 2, 'name': 'oss'}
  }
  drawn = {'rows': 'oss=2', 'counts': {'oss': 2}, 'total': 2, 'tokens': None}
  told = {'sources': [sources], 'mixtures': [drawn | {'sha256': 'abcdef0123'}]}
  numbers = {'sampled': 2, 'vendi': 1.5, 'effective_clusters': 1.25}
  numbers |= {'cover': {}, 'mean_nearest': {}}
  mixed = {'rows': 'oss=2', 'effective_sources': 1.0} | numbers
  found = {'tests': {}, 'sets': {'oss': numbers}, 'mixtures': [mixed]}
  (folder / 'manifest.json').write_text(json.dumps(told))
  (folder / 'diversity.json').write_text(json.dumps(found))
  plt = pyplot()
  figure = plt.figure(figsize=(1, 1))
  figure.savefig(folder / 'map.png', dpi=20)
  plt.close(figure)
  return path


def symbolic(path):
  """A run of cipher_lm with a step, wrong answers and their classes."""
  tuning = fake_tuned.config('cipher_lm', 'tiny')
  own = rows_lib.rows(tuning)
  parts = (('all', 1.0), ('noop=0', 0.6), ('noop=1', 0.4))
  results = [
    (row, 'unseen', part, 'exact_match', round(n * share * 100), 101 * 3)
    for n, row in enumerate(own)
    for part, share in parts
  ]
  fake_tuned.write(path, tuning, results)
  with (path / 'anatomy.csv').open('w', newline='') as file:
    write = csv.writer(file).writerow
    write([*rows_lib.COLUMNS, *ANATOMY_COLUMNS])
    for row in own:
      for kind, count in (('right', 3), ('false_no_op', 4), ('length', 0)):
        write([*row.columns().values(), 'unseen', kind, count, 7])
  wrong = {'row': own[0].name, 'split': 'unseen', 'class': 'copied'}
  wrong |= {'prompt': '<b>ab</b>', 'expected': 'abc', 'output': 'abX'}
  (path / 'wrong.jsonl').write_text(json.dumps(wrong) + '\n')
  return path


@functools.cache
def pages():
  """(page of mixtures, page of a symbolic run, anonymous page of mixtures)."""
  with tempfile.TemporaryDirectory() as name:
    first = tuned.load(mixture(Path(name) / 'a'))
    second = tuned.load(symbolic(Path(name) / 'b'))
    return (page(first), page(second), page(first, anonymous=True))


def page(run, **how):
  return page_lib.page([run], [run.label], **how)


def plain(text):
  return re.sub(r'\s+', ' ', re.sub(r'<[^>]*>', ' ', text.partition('<body>')[2]))


def in_order(text, wanted):
  places = [text.index(part) for part in wanted]
  return places == sorted(places)


def test_sections_of_mixtures_come_in_order():
  wanted = (
    *(
      'code_codeqwen-7b',
      'Coverage: ',
      'Does replacing code instructions',
      'LoRA rank 64, int8 base',
    ),
    *('Settings', 'Table 2, CodeQwen-7B: 20K', 'Sweet spot of 20K rows'),
    *('Mixtures, mean over seeds', 'less than its noise', '[C14.4] CodeQwen'),
    *('Papers: 18K OSS', 'Problem by problem', 'The mixtures'),
    *('Rows, removals and diversity', 'Diversity of the sets'),
    *('Scoreboard', 'CodeQwen rises, then falls', 'All other experiments'),
    *('Provenance', 'Command', 'python -m onlyif_jax.main'),
  )
  assert in_order(plain(pages()[0]), wanted)
  assert pages()[0].count('<img') == 2  # figure and map


def test_sections_of_a_symbolic_run_come_in_order():
  name = rows_lib.rows(fake_tuned.config('cipher_lm', 'tiny'))[0].name
  wanted = (
    *('cipher_lm-tiny', 'Does a pretrained model show the step', 'made on the spot'),
    *('Exact match, mean over seeds', 'The step', 'Papers: few rules solve'),
    *('What the outputs are', '0.571', 'Wrong outputs', f'copied · unseen · {name}'),
    *('Scoreboard', 'solve the no-op half (here', '(tiny analogue)', 'Command'),
  )
  assert in_order(plain(pages()[1]), wanted)
  assert '&lt;b&gt;ab' in pages()[1]
  assert '<b>ab' not in pages()[1]
  assert 'length' not in plain(pages()[1]).partition('What the outputs')[2][:60]


@pytest.mark.parametrize('n', [0, 1, 2])
def test_the_page_is_well_formed_and_needs_nothing_else(n):
  text = pages()[n]
  pages_lib.check_alone_and_well_formed(text)


def test_an_anonymous_page_names_neither_commit_nor_paths():
  named, hidden = pages()[0], pages()[2]
  for word in ('c0ffee', 'python -m onlyif_jax.main --config', 'data/alpaca_data.json'):
    assert word in named
    assert word not in hidden
  assert 'Table 2, CodeQwen-7B' in hidden


def test_without_benchmarks_the_page_says_how_to_get_them(tmp_path):
  run = tuned.load(mixture(tmp_path / 'a', scored=False))
  text = plain(page(run))
  assert 'No benchmark was run' in text
  assert 'Table 2, CodeQwen-7B' not in text


def test_sweeps_and_fine_tuning_share_a_report(tmp_path, capsys):
  paths = [symbolic(tmp_path / 'a'), fake_run.make(tmp_path / 'b', counts=(101, 1009))]
  assert [tuned.is_tuned(p) for p in (*paths, tmp_path / 'c')] == [True, False, False]
  runs = [reporting.load(p) for p in paths]
  names = reporting.labels(runs, [str(p) for p in paths], False)
  assert names == ['cipher_lm-tiny', 'imin-cpu']
  out = tmp_path / 'out'
  reporting.report(runs, names, out)
  assert {p.name for p in out.iterdir()} == {'report.html', 'scoreboard.json'}
  text = plain((out / 'report.html').read_text())
  assert in_order(text, ('cipher_lm-tiny, imin-cpu', 'Coverage: 0 of'))
  own = text.partition('Scoreboard')[2].partition('All other experiments')[0]
  assert in_order(own, ('cipher_lm', 'few rules solve', 'imin', 'fewer than 300'))
  board = json.loads((out / 'scoreboard.json').read_text())
  ran = {r['experiment'] for r in board['rows'] if r['ours'] and '' not in r['runs']}
  assert ran == {'cipher_lm', 'imin'}
  assert 'few rules solve the no-op half' in capsys.readouterr().out


def test_a_run_leaves_its_figure_and_page(tmp_path, capsys):
  for path in (symbolic(tmp_path / 'a'), fake_run.make(tmp_path / 'b')):
    tuned_run = tuned.is_tuned(path)
    run = path if tuned_run else results.analyse(path)
    reporting.finish(run)
    assert (path / 'figure.png').exists()
    text = (path / 'report.html').read_text()
    assert 'Scoreboard' in text
    assert f'report: {path / "report.html"}' in capsys.readouterr().out
    again = tmp_path / 'again'
    loaded = reporting.load(path)
    reporting.report([loaded], [loaded.label], again)
    assert (again / 'report.html').read_text() == text


def test_the_command_writes_page_and_figure_and_prints_the_tables(tmp_path):
  path = mixture(tmp_path / 'a')
  before = {p: p.read_bytes() for p in path.rglob('*') if p.is_file()}
  command = [sys.executable, '-m', 'onlyif_jax.report', f'--workdir={path}']
  told = subprocess.run(
    [*command, f'--out={tmp_path / "out"}'], capture_output=True, text=True, check=False
  )
  assert told.returncode == 0, told.stderr
  assert 'Table 2, CodeQwen-7B' in told.stdout
  assert (tmp_path / 'out' / 'report.html').read_text().startswith('<!doctype html>')
  assert (tmp_path / 'out' / 'figure.png').stat().st_size > 1_000
  assert {p: p.read_bytes() for p in path.rglob('*') if p.is_file()} == before
