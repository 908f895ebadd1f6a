"""A file is prepared once, keyed by what is in it, and read back row for row."""

import hashlib
import shutil
import sys
from pathlib import Path

import pytest

from onlyif_jax.config import ConfigError
from onlyif_jax.corpora import instructions, readers
from onlyif_jax.corpora.rows import Row

DATA = Path(__file__).parent / 'data' / 'rows'


def test_prepared_rows_are_those_of_the_file(tmp_path):
  for name in ('alpaca_data.json', 'chat.jsonl', 'plain'):
    rows = instructions.open_rows(DATA / name, tmp_path)
    wanted = readers.read(DATA / name)
    assert list(rows) == wanted  # texts, contexts, order and indices
    assert len(rows) == len(wanted)
    assert (rows[-1], rows[1:3]) == (wanted[-1], wanted[1:3])
    assert isinstance(rows[0], Row)
    for i in (len(wanted), -len(wanted) - 1):
      with pytest.raises(IndexError, match='has no row'):
        rows[i]
  assert 'tensorflow' not in sys.modules
  assert len(list(tmp_path.iterdir())) == 3


def test_a_set_is_prepared_once(tmp_path, monkeypatch):
  first = instructions.open_rows(DATA / 'chat.jsonl', tmp_path / 'out')
  digest = hashlib.sha256((DATA / 'chat.jsonl').read_bytes()).hexdigest()
  assert dict(first.metadata) == {
    **{'format': 'chat', 'files': ['chat.jsonl'], 'sha256': digest, 'dropped': {}}
  }
  shutil.copy(DATA / 'chat.jsonl', tmp_path / 'renamed.jsonl')
  with monkeypatch.context() as patch:
    patch.setattr(instructions, '_prepare', None)  # would be called otherwise
    again = instructions.open_rows(tmp_path / 'renamed.jsonl', tmp_path / 'out')
  assert again.directory == first.directory
  assert [row.source for row in again] == ['renamed'] * 3
  with (tmp_path / 'renamed.jsonl').open('a') as file:
    file.write('{"messages": [{"role": "user", "content": "?"}]}\n')
  dropping = {'path': tmp_path / 'renamed.jsonl', 'bad': 'drop'}
  other = instructions.open_rows(data_dir=tmp_path / 'out', **dropping)
  assert other.directory != first.directory
  assert dict(other.metadata['dropped']) == {'no response': 1}
  assert list(other) == list(again)
  with pytest.raises(ConfigError, match='line 4: no response'):
    instructions.open_rows(tmp_path / 'renamed.jsonl', tmp_path / 'out')


def test_the_files_of_a_directory_count_in_the_key(tmp_path):
  shutil.copytree(DATA / 'plain', tmp_path / 'in')
  one = instructions.open_rows(tmp_path / 'in', tmp_path / 'out')
  (tmp_path / 'in' / 'part-2.parquet').unlink()
  two = instructions.open_rows(tmp_path / 'in', tmp_path / 'out')
  assert (len(one), len(two)) == (5, 3)
  assert one.metadata['files'] == ['part-0.json', 'part-1.jsonl.gz', 'part-2.parquet']


def test_nothing_is_left_of_a_set_that_fails(tmp_path):
  (tmp_path / 'bad.jsonl').write_text(
    '{"prompt": "p", "response": "r"}\n{"prompt": "p", "response": ""}\n'
  )
  with pytest.raises(ConfigError, match=r'bad\.jsonl, line 2: no response') as error:
    instructions.open_rows(tmp_path / 'bad.jsonl', tmp_path / 'out')
  assert '\n' not in str(error.value)
  assert not list((tmp_path / 'out').iterdir())
  with pytest.raises(ConfigError, match='cannot be written'):
    instructions.open_rows(DATA / 'chat.jsonl', tmp_path / 'bad.jsonl' / 'out')


def test_two_processes_that_prepare_the_same_set_agree(tmp_path, monkeypatch):
  make, calls = instructions._prepare, []

  def slower(reader, sha256, data_dir, home):
    """As if another process had finished in the meantime."""
    calls.append(home)
    make(reader, sha256, data_dir, home)
    make(reader, sha256, data_dir, home)

  monkeypatch.setattr(instructions, '_prepare', slower)
  rows = instructions.open_rows(DATA / 'lima.jsonl', tmp_path)
  assert list(rows) == readers.read(DATA / 'lima.jsonl')
  assert [p.name for p in tmp_path.iterdir()] == [calls[0].name]
