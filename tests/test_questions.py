"""Files of the Eurus suite's questions: what is read, and what is refused."""

import json
import shutil
from pathlib import Path

import pytest

from onlyif_jax.config import ConfigError
from onlyif_jax.evals import ifeval, questions

DATA = Path(__file__).parent / 'data' / 'eurus'


READ = {  # task_id, reference, kind, groups of the last question; how many there are
  'math': ('math/2', '(-2,2)', '', ('Prealgebra', 'Level 2'), 3),
  'gsm-plus': (
    'gsm-plus/1/distraction insertion',
    '6',
    '',
    ('distraction insertion',),
    3,
  ),
  'svamp': ('svamp/chal-2', '2.5', '', (), 2),
  'asdiv': ('asdiv/1', '5', '', (), 1),  # the test split
  'theoremqa': ('own/count.json', 6, 'integer', (), 5),
  'bbh': ('date_understanding/1', '(B)', '', ('date_understanding',), 2),
  'mmlu': ('world_religions/0', 'D', '', ('world religions',), 3),
}


@pytest.mark.parametrize('name', READ)
def test_questions_are_read_with_their_references(name):
  own = questions.read(name, DATA)
  last, count = own.questions[-1], len(own.questions)
  found = last.task_id, last.reference, last.kind, last.groups, count
  assert found == READ[name]
  assert questions.read(f'{name}-program', DATA) == own
  assert own.about.endswith(f', {count} questions')


def test_a_changed_file_has_another_hash(tmp_path):
  shutil.copytree(DATA / 'mmlu', tmp_path / 'mmlu')
  assert questions.read('mmlu', tmp_path).sha256 == questions.read('mmlu', DATA).sha256
  dev = tmp_path / 'mmlu' / 'dev' / 'abstract_algebra_dev.csv'
  dev.write_text(dev.read_text().replace('12,A', '13,A', 1))
  assert questions.read('mmlu', tmp_path).sha256 != questions.read('mmlu', DATA).sha256


def test_line_ends_of_unicode_do_not_cut_a_line(tmp_path):
  (file,) = DATA.rglob('test_prompts.json')
  lines = file.read_text().splitlines()
  row = json.loads(lines[0])
  row['text'] = row['text'].replace('Q:', 'a\u2028b\u0085Q:', 1)
  text = json.dumps(row, ensure_ascii=False)
  (tmp_path / 'test_prompts.json').write_text('\n'.join([text, *lines[1:]]))
  found = questions.read('bbh', tmp_path).questions
  assert len(found) == READ['bbh'][-1]
  prompt = {
    'key': 1,
    'prompt': 'a\u2028b',
    'kwargs': [{}],
    'instruction_id_list': ['x'],
  }
  (tmp_path / 'ifeval.jsonl').write_text(json.dumps(prompt, ensure_ascii=False))
  assert ifeval.read(tmp_path / 'ifeval.jsonl') == [prompt]


@pytest.mark.parametrize('column', ['kwargs', 'instruction_id_list', 'key', 'prompt'])
def test_a_column_that_a_prompt_of_ifeval_lacks_is_named(tmp_path, column):
  row = {'key': 1, 'prompt': 'a', 'kwargs': [{}], 'instruction_id_list': ['x']}
  without = {name: value for name, value in row.items() if name != column}
  file = tmp_path / 'input_data.jsonl'
  for other, said in ((without, f'lacks {column!r}'), (row | {column: None}, 'is no ')):
    file.write_text('\n'.join(map(json.dumps, [row, other])))
    with pytest.raises(ConfigError) as caught:
      ifeval.read(file)
    assert str(caught.value).startswith(f'{file}: line 2 is no prompt of IFEval (')
    assert said in str(caught.value)
    assert '\n' not in str(caught.value)


def test_instructions_that_no_checker_knows_are_named(monkeypatch, tmp_path):
  class Checker:
    @staticmethod
    def process_results(doc, results):
      return {'punctuation:no_comma': True}[doc['instruction_id_list'][0]]

  monkeypatch.setattr(ifeval, 'prepare', Checker)
  good = {'key': 3, 'instruction_id_list': ['punctuation:no_comma'], 'kwargs': [{}]}
  ifeval.check([good], tmp_path)
  bad = good | {'key': 5, 'instruction_id_list': ['nothing']}
  with pytest.raises(
    ConfigError, match=r"of key 5 .*\(KeyError: 'nothing'\)"
  ) as caught:
    ifeval.check([good, bad], tmp_path)
  assert str(tmp_path) in str(caught.value)


def refused(name, data):
  with pytest.raises(ConfigError) as caught:
    questions.read(name, data)
  assert '\n' not in str(caught.value)
  return str(caught.value)


def test_absent_and_malformed_files_are_named(tmp_path):
  for name, file in questions.FILES.items():
    assert (file if name != 'mmlu' else 'test/*_test.csv') in refused(name, tmp_path)
    assert '--data=DIR' in refused(name, None)
  row = {'problem': 'x', 'level': '1', 'type': 'y'}
  for text, said in (
    ('{', 'is no JSON'),
    ('[]', 'holds no questions'),
    (json.dumps([row]), "question 1 is malformed: lacks 'expected_answer'"),
    (json.dumps([row | {'expected_answer': [1]}]), 'expected_answer is no text or num'),
    ('3', 'not a list of records'),
  ):
    (tmp_path / 'math_test_cleaned.json').write_text(text)
    assert said in refused('math-program', tmp_path)
  row = {'id': '1', 'Question': 'x', 'Answer': 1, 'Answer_type': 'list of integer'}
  (tmp_path / 'theorem_qa.json').write_text(json.dumps([row]))
  assert 'Answer 1 is no list of integer' in refused('theoremqa', tmp_path)
  (tmp_path / 'theorem_qa.json').write_text(json.dumps([row | {'Answer_type': 'x'}]))
  assert "Answer_type 'x' is not known" in refused('theoremqa', tmp_path)
  (tmp_path / 'test_prompts.json').write_text('{"text": "Q: x", "task_name": "y"}')
  assert 'is malformed' in refused('bbh', tmp_path)
  (tmp_path / 'gsmplus_test.json').write_text('[1]')
  assert 'question 1 is malformed' in refused('gsm-plus', tmp_path)
  shutil.copytree(DATA / 'mmlu', tmp_path / 'mmlu')
  file = tmp_path / 'mmlu' / 'test' / 'world_religions_test.csv'
  file.write_text('Which?,a,b,c,d,E\n')
  assert f'{file}: row 1 is no question of MMLU' in refused('mmlu', tmp_path)
  shutil.copytree(DATA / 'mmlu', tmp_path / 'mmlu2')
  assert 'several folders' in refused('mmlu', tmp_path)
  shutil.copytree(DATA / 'Math', tmp_path / 'one')
  shutil.copytree(DATA / 'Math', tmp_path / 'two')
  assert 'has 2 files SVAMP.json' in refused('svamp', tmp_path)


def test_tables_by_columns_are_read_as_pandas_reads_them(tmp_path):
  rows = json.loads((DATA / 'Math' / 'math_test_cleaned.json').read_text())
  table = {key: {str(n): row[key] for n, row in enumerate(rows)} for key in rows[0]}
  (tmp_path / 'math_test_cleaned.json').write_text(json.dumps(table))
  found = questions.read('math', tmp_path).questions
  assert found == questions.read('math', DATA).questions
  assert len({q.task_id for q in found}) == 3
