"""Every published format becomes the same rows; what cannot be read is said in a line."""

import gzip
import json
import sys
from pathlib import Path

import pytest

from onlyif_jax.config import ConfigError
from onlyif_jax.corpora import readers
from onlyif_jax.corpora.rows import Row, RowError, Turn, conversation

DATA = Path(__file__).parent / 'data' / 'rows'
S, U, A = 'system', 'user', 'assistant'

# file -> (format, rows, the turns of the last row)
EXPECTED = {
  'alpaca_data.json': (
    'alpaca',
    5,
    [
      (U, 'Write a greeting in "quotes" — with a dash.'),
      (A, '“Good morning”, she said.'),
    ],
  ),
  'oss_instruct.jsonl': (
    'oss_instruct',
    3,
    [(U, 'Count the files of a folder.'), (A, '```sh\nls | wc -l\n```')],
  ),
  'evol_codealpaca.jsonl': (
    'evol_codealpaca',
    2,
    [(U, 'Sum the even numbers of a list.'), (A, '`sum(n for n in a if n % 2 == 0)`')],
  ),
  'CoT_collection_en.json': (
    'cot_collection',
    3,
    [(U, 'Can a whale breathe under water?'), (A, 'Whales have lungs.\n[ANSWER] no')],
  ),
  'ultrainteract_sft.parquet': (
    'ultrainteract',
    2,
    [
      (
        U,
        'Solve the following problem step-by-step:\nWho is older?\nStep 1: We look both '
        'up.\n```python\nprint(search("Ann"))\n```\nAnn was born in 1901.',
      ),
      (A, 'Step 2: done.'),
    ],
  ),
  'openorca.parquet': (
    'openorca',
    3,
    [(S, 'Think it over.'), (U, 'What is 3 times 4?'), (A, '3 times 4 is 12.')],
  ),
  'MathInstruct.json': (
    'mathinstruct',
    2,
    [(U, 'What is 5 times 7? Write a program.'), (A, 'print(5 * 7)')],
  ),
  'lima.jsonl': (
    'lima',
    2,
    [(U, 'Tell a joke.'), (A, 'No.'), (U, 'Please.'), (A, 'A fish walks into a bar.')],
  ),
  'stackoverflow.jsonl': (
    'stackoverflow',
    2,
    [(U, 'What does `git stash` do?'), (A, 'It puts changes aside.')],
  ),
  'stack_exchange.parquet': (
    'stack_exchange',
    2,
    [(U, 'How long do eggs boil?'), (A, 'Eight minutes.')],
  ),
  'orca_math.parquet': ('orca_math', 2, [(U, '2 + 2?'), (A, '4')]),
  'sharegpt.json': (
    'sharegpt',
    2,
    [(S, 'Be brief.'), (U, 'Colour of snow?'), (A, 'White.')],
  ),
  'wizardlm.json': (
    'evol_instruct',
    1,
    [(U, 'Explain rain to a child.'), (A, 'Clouds let drops fall.')],
  ),
  'chat.jsonl': ('chat', 3, [(U, 'One plus one?'), (A, 'Two.')]),
  'plain': ('plain', 5, [(U, '1'), (A, '2')]),
}


def said(row: Row) -> list[tuple[str, str]]:
  return [(t.role, t.text) for t in row.turns]


def write(path: Path, rows) -> Path:
  text = ''.join(f'{r if isinstance(r, str) else json.dumps(r)}\n' for r in rows)
  path.write_text(text, encoding='utf-8')
  return path


@pytest.mark.parametrize('name', EXPECTED)
def test_published_formats_are_read_and_recognised(name):
  format_, count, last = EXPECTED[name]
  reader = readers.Reader(DATA / name)
  assert reader.format == format_
  rows = list(reader)
  assert rows == readers.read(DATA / name, format_)
  assert [row.index for row in rows] == list(range(count))
  assert {row.source for row in rows} == {name.split('.')[0]}
  assert said(rows[-1]) == last
  assert all(row.turns[-1].role == A for row in rows)
  assert readers.read(DATA / name, source='mine')[0].source == 'mine'


def test_every_format_of_the_table_has_a_file():
  assert set(readers.FORMATS) == {own[0] for own in EXPECTED.values()} | {
    'dolly',
    'magicoder_evol',
  }


def test_inputs_stay_apart_from_instructions(tmp_path):
  turn = readers.read(DATA / 'alpaca_data.json')[2].turns[0]
  assert turn.text == 'Which number is odd?\n\n4, 9, 12'
  assert (turn.instruction, turn.context) == ('Which number is odd?', '4, 9, 12')
  assert readers.read(DATA / 'alpaca_data.json')[0].turns[0].context == ''
  dolly = {'instruction': 'Sum up.', 'context': 'Long.', 'response': 'Short.'}
  row = readers.read(write(tmp_path / 'a.jsonl', [dolly | {'category': 'x'}]))[0]
  assert row.turns == (Turn(U, 'Sum up.\n\nLong.', 'Long.'), Turn(A, 'Short.'))


def test_turns_of_a_conversation():
  row = readers.read(DATA / 'sharegpt.json')[0]
  assert [text for _, text in said(row)] == [
    'Name a prime.',
    '7',
    'A larger one.',
    '101',
  ]
  accepted = readers.read(DATA / 'stack_exchange.parquet')[0]
  assert said(accepted)[-1] == (A, 'Tea.')  # the accepted one, though rated less
  system = readers.read(DATA / 'openorca.parquet')
  assert [said(row)[0][0] for row in system] == [U, S, S]
  title = readers.read(DATA / 'stackoverflow.jsonl')[0]
  assert said(title)[0] == (U, 'How do I leave vim?\n\nIt ignores my keys.')


def test_files_of_a_directory_follow_their_names(tmp_path):
  rows = readers.read(DATA / 'plain')
  assert [said(row)[0][1] for row in rows] == ['a', 'What?', 'Two\nlines', 'ü', '1']
  one = {'prompt': 'p', 'response': 'r'}
  (tmp_path / 'README.md').write_text('not data')
  with pytest.raises(ConfigError, match=r'has no file of \.json, \.jsonl, \.parquet'):
    readers.read(tmp_path)
  write(tmp_path / 'b.jsonl', [one | {'prompt': 'second'}])
  with gzip.open(tmp_path / 'a.json.gz', 'wt') as file:
    json.dump([one], file)
  assert [said(row)[0][1] for row in readers.read(tmp_path)] == ['p', 'second']


def test_json_lines_under_the_name_of_json(tmp_path):
  rows = [{'prompt': f'p{n}', 'response': 'r'} for n in range(3)]
  path = write(tmp_path / 'a.json', rows)
  assert [said(row)[0][1] for row in readers.read(path)] == ['p0', 'p1', 'p2']
  write(path, [*rows, '{'])
  with pytest.raises(ConfigError, match=r'a\.json, line 4 is not JSON'):
    readers.read(path)


def test_a_byte_order_mark_is_no_text(tmp_path):
  path = tmp_path / 'a.jsonl'
  path.write_text('{"prompt": "p", "response": "r"}\n', encoding='utf-8-sig')
  assert said(readers.read(path)[0]) == [(U, 'p'), (A, 'r')]


GOOD = {'prompt': 'p', 'response': 'r'}
WRONG = {
  'no response': GOOD | {'response': ' \n'},
  'no response (null)': GOOD | {'response': None},
  'response is not text but int': GOOD | {'response': 5},
}


@pytest.mark.parametrize('reason', WRONG)
def test_rows_without_a_response_are_named_or_dropped(tmp_path, reason):
  path = write(tmp_path / 'a.jsonl', [GOOD, '', WRONG[reason], GOOD])
  text = reason.split(' (')[0]
  with pytest.raises(ConfigError, match=f'a.jsonl, line 3: {text}') as error:
    readers.read(path)
  assert '\n' not in str(error.value)
  assert "bad='drop'" in str(error.value)
  reader = readers.Reader(path, bad='drop')
  for _ in range(2):  # a second reading counts anew
    assert [row.index for row in reader] == [0, 1]
    assert sum(reader.dropped.values()) == 1
  assert next(iter(reader.dropped)).startswith(text)


def test_turns_that_cannot_be_trained_on():
  user, other = Turn(U, 'u'), Turn(A, 'a')
  assert conversation([Turn(S, ' '), user, other, user]) == (user, other)
  for turns, reason in {
    (): 'no response',
    (user,): 'no response',
    (user, Turn(A, ''), user, other): r'turn 2 is empty',
    (other,): 'turn of the assistant in place of the user',
    (user, other, other): r'of the user \(number 3\)',
    (user, user, other): 'of the user in place of the assistant',
    (user, Turn(S, 's'), other): 'of the system in place of',
    (Turn(S, 's'), Turn(S, 's'), user, other): 'of the system in place of',
    (user, Turn(A, 'ok \ud83d')): r"turn 2 has '\\ud83d', half of a character",
  }.items():
    with pytest.raises(RowError, match=reason):
      conversation(turns)


def problem(path, **options) -> str:
  with pytest.raises(ConfigError) as error:
    readers.read(path, **options)
  assert '\n' not in str(error.value)
  return str(error.value)


def test_unreadable_sources_are_refused_in_one_line(tmp_path):
  assert problem(tmp_path / 'none.json').endswith('none.json does not exist')
  for name, text in {'a.json': '', 'b.json': '[]', 'c.jsonl': '\n\n'}.items():
    (tmp_path / name).write_text(text)
    assert problem(tmp_path / name).endswith(f'{name} is empty; give a file with rows')
  (tmp_path / 'a.txt').write_text('x')
  assert 'a.txt is not one of .json' in problem(tmp_path / 'a.txt')
  path = write(tmp_path / 'd.jsonl', [GOOD, '{"prompt": '])
  assert 'd.jsonl, line 2 is not JSON' in problem(path)
  (tmp_path / 'e.json').write_text('[\n{"prompt": "p",\n "response" "r"}]')
  assert 'e.json, line 3 is not JSON' in problem(tmp_path / 'e.json')
  assert 'line 1: no known format has the columns text' in problem(
    write(tmp_path / 'f.jsonl', [{'text': 'x'}])
  )
  lacking = write(tmp_path / 'g.jsonl', [GOOD, {'prompt': 'p'}])
  assert "line 2: format plain needs the column 'response'" in problem(lacking)
  assert "needs the column 'messages'" in problem(DATA / 'plain', format='chat')
  assert "format='alpacca' is not one of auto, alpaca" in problem(
    lacking, format='alpacca'
  )
  assert "bad='skip' is not one of error, drop" in problem(lacking, bad='skip')
  (tmp_path / 'h.jsonl').write_bytes(b'{"prompt": "\xff"}\n')
  assert 'h.jsonl is not UTF-8' in problem(tmp_path / 'h.jsonl')
  (tmp_path / 'i.jsonl').write_text('[1]\n')
  assert 'line 1 is not an object but list' in problem(tmp_path / 'i.jsonl')
  role = {'messages': [{'role': 'tool', 'content': 'x'}]}
  path = write(tmp_path / 'j.jsonl', [role])
  assert "messages has the unknown role 'tool'" in problem(path)
  assert 'has no row with a response' in problem(path, bad='drop')


def test_values_of_another_type_are_refused_in_one_line(tmp_path):
  def told(raw):
    return problem(write(tmp_path / 'a.jsonl', [raw]))

  assert "messages has the unknown role ['user']" in told(
    {'messages': [{'role': ['user'], 'content': 'x'}]}
  )
  answers = [{'text': 'a', 'pm_score': 3}, {'text': 'b', 'pm_score': '4'}]
  said = told({'question': 'q', 'answers': answers})
  assert 'pm_score is not a number but str' in said
  said = told({'prompt': 'p', 'response': 'ok \ud83d'})
  assert r"turn 2 has '\ud83d', half of a character" in said


def test_torn_files_are_refused_in_one_line(tmp_path, monkeypatch):
  whole = (DATA / 'orca_math.parquet').read_bytes()
  (tmp_path / 'a.parquet').write_bytes(whole[:-10])
  assert 'a.parquet is not a whole Parquet file' in problem(tmp_path / 'a.parquet')
  whole = (DATA / 'plain' / 'part-1.jsonl.gz').read_bytes()
  (tmp_path / 'a.jsonl.gz').write_bytes(whole[:-12])
  assert 'a.jsonl.gz cannot be read' in problem(tmp_path / 'a.jsonl.gz')
  monkeypatch.setitem(sys.modules, 'pyarrow', None)
  assert "pip install 'onlyif_jax[llm]'" in problem(DATA / 'orca_math.parquet')
