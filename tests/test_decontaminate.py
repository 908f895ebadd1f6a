"""Rows that give a test away, against a search without an index."""

import gzip
import json
import random
import re

import pytest

from onlyif_jax.config import ConfigError
from onlyif_jax.corpora import manifest
from onlyif_jax.corpora.decontaminate import Detector, TestPrompt, find
from onlyif_jax.corpora.mixture_settings import TestFile
from onlyif_jax.corpora.rows import Row, Turn

# Few words, one of them a part of another, so that much is shared by chance.
VOCABULARY = ('a', 'bb', 'cab', 'cabs', 'dd', 'e', 'ff')


def row(index, ask, answer='-'):
  return Row('oss', index, (Turn('user', ask), Turn('assistant', answer)))


def detector(texts, ngram=5, substring=11):
  prompts = [TestPrompt('he', n, text) for n, text in enumerate(texts)]
  return Detector.of(prompts, ngram, substring)


def brute(texts, rows, ngram, substring):
  """(row, prompt, kind) of every hit, by trying everything."""
  plain = [re.findall(r'[a-z]+', text.lower()) for text in texts]
  found = []
  for r in rows:
    own = re.findall(r'[a-z]+', ' '.join(t.text for t in r.turns).lower())
    for n, words in enumerate(plain):
      inside = ' '.join(words) in ' '.join(own)
      shared = any(
        own[i : i + ngram] == words[j : j + ngram]
        for i in range(len(own) - ngram + 1)
        for j in range(len(words) - ngram + 1)
      )
      if shared or (inside and len(' '.join(words)) >= substring):
        found.append((r.index, n, 'substring' if inside else 'ngram'))
  return found


@pytest.mark.parametrize(('ngram', 'substring'), [(2, 3), (3, 7), (5, 11), (4, 5)])
def test_hits_are_those_of_a_search_by_hand(ngram, substring):
  rng = random.Random(ngram)

  def text(low, high):
    return ' '.join(rng.choice(VOCABULARY) for _ in range(rng.randint(low, high)))

  texts = [text(1, 13) for _ in range(53)]
  rows = [row(i, text(1, 17), text(0, 5)) for i in range(101)]
  found = find(detector(texts, ngram, substring), rows)
  wanted = brute(texts, rows, ngram, substring)
  assert [(h.index, h.item, h.kind) for h in found] == wanted
  assert {h[2] for h in wanted} == {'substring', 'ngram'}
  assert len(wanted) < len(texts) * len(rows) * 0.7


def test_hit_lists_what_is_shared():
  (hit,) = find(
    detector(['One two three four five six seven.'], ngram=3),
    [row(2, 'zero two, THREE: four five')],
  )
  assert hit._asdict() == {
    'source': 'oss',
    'index': 2,
    'test': 'he',
    'item': 0,
    'kind': 'ngram',
    'shared': 'two three four',
  }
  (hit,) = find(
    detector(['Sort this list.'], ngram=5, substring=7), [row(3, 'Now sort this list')]
  )
  assert (hit.kind, hit.shared) == ('substring', 'sort this list')


def test_responses_are_searched_too():
  own = row(0, 'Help me', 'Sure:\n\ndef has_close_elements(numbers, threshold): pass')
  prompt = 'def has_close_elements(numbers, threshold):'
  assert len(find(detector([prompt]), [own])) == 1
  assert not find(detector([prompt]), [row(0, 'Help me', 'def close(numbers): pass')])


def test_case_width_and_marks_do_not_hide_a_test():
  own = row(0, 'WRITE—a ｐｙｔｈｏｎ "function"; to\nreverse it')  # noqa: RUF001
  assert find(detector(['Write a Python function to reverse it!']), [own])


def test_script_without_spaces_is_found_whole():
  prompt = '编写一个函数来反转字符串'
  assert find(detector([prompt], substring=7), [row(0, f'请{prompt}。')])
  assert not find(detector([prompt], substring=7), [row(0, '编写一个函数')])


def test_short_prompts_are_told_to_be_unchecked():
  own = detector(['Hi', 'sort the list', 'a b c d e'], ngram=5, substring=11)
  assert [p.text for p in own.unchecked] == ['Hi']
  assert not find(own, [row(0, 'Hi there')])
  assert len(find(own, [row(0, 'a b c d e')])) == 1


def test_one_hit_for_a_prompt_that_is_shared_often():
  found = find(detector(['x y x y x y x y'], ngram=2), [row(0, 'x y x y'), row(1, 'z')])
  assert [(h.index, h.item) for h in found] == [(0, 0)]


# Files of test prompts.


def test_prompts_are_read_from_usual_fields(tmp_path):
  rows = [{'task_id': 'H/0', 'prompt': 'def f():'}, {'text': 'Add.'}]
  packed = tmp_path / 'he.jsonl.gz'
  packed.write_bytes(gzip.compress('\n'.join(map(json.dumps, rows)).encode()))
  found = manifest.read_prompts(TestFile('he', str(packed), ''))
  assert found == [TestPrompt('he', 0, 'def f():'), TestPrompt('he', 1, 'Add.')]
  plain = tmp_path / 'he.json'
  plain.write_text(json.dumps([{'prompt': 'p', 'code': 'q'}]))
  found = manifest.read_prompts(TestFile('he', str(plain), 'code'))
  assert [prompt.text for prompt in found] == ['q']


@pytest.mark.parametrize(
  ('lines', 'field', 'words'),
  [
    ('{"cells": "a"}', '', 'line 1: the field prompt or text or question'),
    ('{"cells": "a"}', 'code', 'the field code is missing; it has cells'),
    ('{"prompt": 3}', '', 'the field prompt is not text'),
    ('', '', 'is empty'),
    ('{"prompt": ', '', 'line 1 is not JSON'),
  ],
)
def test_file_without_prompts_is_refused(tmp_path, lines, field, words):
  path = tmp_path / 'he.jsonl'
  path.write_text(lines)
  with pytest.raises(ConfigError) as e:
    manifest.read_prompts(TestFile('he', str(path), field))
  assert words in str(e.value)
  assert str(path) in str(e.value)
