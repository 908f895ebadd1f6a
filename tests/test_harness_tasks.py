"""The task files beside the harness's own, and how their answers are scored."""

import importlib

import pytest
import yaml

from onlyif_jax.evals import harness, protocols
from onlyif_jax.evals.tasks import answers


class Tagged(yaml.SafeLoader):
  """Reads `!function module.name` as the function."""


def _function(loader, node):
  module, name = node.value.split('.')
  assert (harness.TASK_FILES / f'{module}.py').exists()
  return getattr(importlib.import_module(f'onlyif_jax.evals.tasks.{module}'), name)


Tagged.add_constructor('!function', _function)


def test_our_task_files_name_what_they_need():
  found = {}
  for file in harness.TASK_FILES.glob('*.yaml'):
    content = yaml.load(file.read_text(), Tagged)
    assert content['task'] == file.stem
    assert harness.decoding(content['generation_kwargs']).max_new_tokens > 0
    assert callable(content['process_results'])
    found[file.stem] = content
  assert (
    set(found) == {'svamp', 'theoremqa'} <= {t.name for t in harness.TASKS.values()}
  )


def test_benchmarks_of_the_default_protocol_are_tasks_of_the_harness():
  own = protocols.get('harness-default').benchmarks
  tasks = {name: one.task for name, one in own.items() if one.scorer == 'lm_eval'}
  assert tasks == {name: task.name for name, task in harness.TASKS.items()}


THEOREM = [
  ('So x is 3. The answer is 2.41', '2.5', 1),
  ('The answer is 2.39', '2.5', 0),
  ('The answer is 7.4', '7', 1),
  ('The answer is: 1,024.', '1024', 1),
  ('The answer is 3.\nThe answer is 4', '3', 0),
  ('The answer is True.', 'True', 1),
  ('The answer is false', 'True', 0),
  ('The answer is [3, 1.0]', '[1, 3]', 1),
  ('The answer is [1, 2, 3]', '[1, 2]', 0),
  ('The answer is (b) since', '(b)', 1),
  ('The answer is b', '(b)', 1),
  ('The answer is because', '(b)', 0),
  ('it is\n-2.0e-3', '-0.002', 1),
  ('nothing', '1.5', 0),
]


@pytest.mark.parametrize(('text', 'wanted', 'right'), THEOREM)
def test_answers_to_theorem_questions_are_compared_by_kind(text, wanted, right):
  assert answers.theorem({'Answer': wanted}, [text]) == {'exact_match': right}


def test_the_last_number_answers_a_word_problem():
  for text, right in [('5 + 2 = 7.0', 1), ('7 then 8', 0), ('', 0), ('1,007', 0)]:
    assert answers.number({'Answer': '7'}, [text]) == {'exact_match': right}
  assert answers.number({'Answer': '1007.0'}, ['1,007'])['exact_match'] == 1


@pytest.mark.parametrize('doc', [{}, {'Answer': None}])
def test_a_question_without_its_answer_is_an_error_whatever_was_said(doc):
  for score in (answers.number, answers.theorem):
    with pytest.raises(KeyError, match='Answer'):
      score(doc, ['no number'])
