"""Live: lm-evaluation-harness on our models gives what its own backend gives."""

import functools
import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from test_harness import TOKENIZER, KilledError, Torn

from onlyif_jax.config import ConfigError
from onlyif_jax.corpora.tokenizer import load_tokenizer
from onlyif_jax.evals import answering, harness, ifeval
from onlyif_jax.evals.answer_book import Book
from onlyif_jax.evals.answering import Answerer
from onlyif_jax.models import llama, pretrained

pytestmark = [pytest.mark.hf, pytest.mark.filterwarnings('default')]
LONGEST = 53
SUBJECTS = ['river', 'kettle', 'old harbour', 'train at noon', 'function of a list']
ROWS = [
  {
    'question': f'Why does the {a} follow the {b}?' + ' Tell it.' * n,
    'choices': ['It does.', f' The {b}', 'never', 'n'][: 2 + n % 3],
    'answer': n % 2,
    'text': f'The {a} and the {b}: ' * (1 + 2 * n) + 'first, second, third.',
  }
  for n, (a, b) in enumerate(zip(SUBJECTS, SUBJECTS[::-1], strict=True))
]
COMMON = {'test_split': 'train', 'dataset_path': 'json', 'num_fewshot': 0}
TASKS = {
  'choices': {
    'output_type': 'multiple_choice',
    'doc_to_text': 'Question: {{question}}\nAnswer:',
    'doc_to_choice': '{{choices}}',
    'doc_to_target': 'answer',
    'metric_list': [{'metric': 'acc'}, {'metric': 'acc_norm'}],
  },
  'endings': {
    'output_type': 'loglikelihood',
    'doc_to_text': '',
    'doc_to_target': '{{question}}',
    'metric_list': [{'metric': 'perplexity'}, {'metric': 'acc'}],
  },
  'whole': {
    'output_type': 'loglikelihood_rolling',
    'doc_to_text': '',
    'doc_to_target': '{{text}}',
    'metric_list': [{'metric': 'word_perplexity'}],
  },
  'continued': {
    'output_type': 'generate_until',
    'doc_to_text': 'Question: {{question}}\nAnswer: ',
    'doc_to_target': '{{text}}',
    'num_fewshot': 1,
    'fewshot_split': 'train',
    'generation_kwargs': {'until': ['e', '\n\n'], 'max_gen_toks': 17},
    'metric_list': [{'metric': 'exact_match'}],
  },
  'free': {
    'output_type': 'generate_until',
    'doc_to_text': '{{question}}',
    'doc_to_target': '{{text}}',
    'generation_kwargs': {'until': [], 'max_gen_toks': 23, 'do_sample': False},
    'metric_list': [{'metric': 'exact_match'}],
  },
}


@functools.cache
def folder():
  """A random Llama of transformers, the tests' tokenizer, tasks and their data."""
  torch = pytest.importorskip('torch')
  transformers = pytest.importorskip('transformers')
  torch.manual_seed(7)
  path = Path(tempfile.mkdtemp(prefix='onlyif_jax_live_'))
  shutil.copytree(TOKENIZER, path / 'model')
  own = load_tokenizer(TOKENIZER)
  config = transformers.LlamaConfig(
    vocab_size=own.size,
    hidden_size=24,
    intermediate_size=29,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=LONGEST,
    bos_token_id=own.bos_id,
    eos_token_id=own.eos_id,
  )
  model = transformers.LlamaForCausalLM(config)
  with torch.no_grad():
    for weight in model.parameters():
      weight.add_(0.3 * torch.randn(weight.shape))
  model.save_pretrained(path / 'model')
  (path / 'tasks').mkdir()
  (path / 'rows.jsonl').write_text('\n'.join(map(json.dumps, ROWS)))
  files = {'data_files': {'train': str(path / 'rows.jsonl')}}
  for name, content in TASKS.items():
    content = COMMON | {'task': name, 'dataset_kwargs': files} | content
    (path / 'tasks' / f'{name}.yaml').write_text(yaml.safe_dump(content))
  return path


def answerer(**more):
  config, params = pretrained.load(folder() / 'model')
  tokenizer = load_tokenizer(folder() / 'model')
  ends = answering.stop_ids(tokenizer)
  model = llama.graphdef(config), params, tokenizer
  return Answerer(*model, stop_ids=ends, batch_size=4, **more)


def responses(model, *names, **more):
  """Task -> the model's responses, by document; and the results."""
  lm_eval = harness.library()
  manager = lm_eval.tasks.TaskManager(
    include_path=str(folder() / 'tasks'), include_defaults=False
  )
  out = lm_eval.simple_evaluate(
    model,
    tasks=list(names or TASKS),
    task_manager=manager,
    bootstrap_iters=0,
    **more,
  )
  found = {
    name: [one['resps'] for one in sorted(some, key=lambda one: one['doc_id'])]
    for name, some in out['samples'].items()
  }
  return found, {
    k: {m: v for m, v in r.items() if isinstance(v, float)}
    for k, r in out['results'].items()
  }


@functools.cache
def theirs(chat=False):
  transformers = pytest.importorskip('transformers')
  from lm_eval.models.huggingface import HFLM

  model = transformers.AutoModelForCausalLM.from_pretrained(folder() / 'model')
  tokenizer = transformers.AutoTokenizer.from_pretrained(folder() / 'model')
  own = HFLM(pretrained=model.eval(), tokenizer=tokenizer, batch_size=3, device='cpu')
  assert own.max_length == LONGEST
  return responses(own, apply_chat_template=chat)


@pytest.mark.parametrize('chat', [False, True], ids=['plain', 'chat'])
def test_scores_and_answers_are_those_of_the_harness(chat):
  pytest.importorskip('lm_eval')
  ours, our_results = responses(
    harness.language_model(answerer()), apply_chat_template=chat
  )
  found, results = theirs(chat)
  for name in ('choices', 'endings'):
    for a, b in zip(ours[name], found[name], strict=True):
      for ((x, greedy),), ((y, theirs_greedy),) in zip(a, b, strict=True):
        assert float(x) == pytest.approx(float(y), abs=1e-4)
        assert str(greedy) == str(theirs_greedy)
  flat = [np.array([float(r[0][0]) for r in some['whole']]) for some in (ours, found)]
  np.testing.assert_allclose(*flat, atol=2e-4)
  for name in ('continued', 'free'):
    assert ours[name] == found[name]
    assert len({r[0][0] for r in ours[name]}) > 2
  for name, own in our_results.items():
    assert own == pytest.approx(results[name], rel=1e-4), name


def test_a_killed_evaluation_goes_on_and_scores_the_same(tmp_path):
  pytest.importorskip('lm_eval')
  names = 'choices', 'continued'
  whole = responses(harness.language_model(answerer()), *names)
  kills = 0
  while True:
    book = Torn(tmp_path / 'answers.jsonl', {})
    try:
      found = responses(harness.language_model(answerer(book=book)), *names)
      break
    except KilledError:
      kills += 1
  assert kills > 2
  assert found == whole


def test_tasks_by_name_take_local_data(tmp_path):
  pytest.importorskip('lm_eval')
  rows = [{'question': q, 'answer': f'So #### {n}'} for n, q in enumerate(SUBJECTS)]
  svamp = {'Body': 'Two apples.', 'Question': 'How many?', 'Answer': '2'}
  data = tmp_path / 'data'
  for name, split, some in (
    ('gsm8k', 'train', rows),
    ('gsm8k', 'test', rows[:3]),
    ('svamp', 'test', [svamp] * 2),
  ):
    (data / name).mkdir(parents=True, exist_ok=True)
    (data / name / f'{split}.jsonl').write_text('\n'.join(map(json.dumps, some)))
  more = {'data': data, 'scratch': tmp_path / 'tasks'}
  own = answerer(max_length=2000, book=Book(tmp_path / 'a.jsonl', {}))
  generation = {'max_gen_toks': 3}
  found = harness.evaluate(own, 'gsm8k', limit=2, generation=generation, **more)
  assert found.count == 2
  assert found.scores['exact_match,strict-match'] == 0.0
  assert set(found.errors) == set(found.scores)
  wrong = {'gsm8k/0': False, 'gsm8k/1': False}
  assert found.right == dict.fromkeys(found.scores, wrong)
  other = harness.evaluate(own, 'svamp', generation=generation, **more)
  assert other.count == 2
  assert other.data_sha256 != found.data_sha256
  with pytest.raises(ConfigError, match="no task 'nothing'"):
    harness.evaluate(own, 'nothing')
  file = data / 'svamp' / 'test.jsonl'
  without = {name: text for name, text in svamp.items() if name != 'Answer'}
  file.write_text('\n'.join(map(json.dumps, [svamp, without])))
  with pytest.raises(ConfigError, match=r"svamp.test\.jsonl: line 2 has no 'Answer', "):
    harness.evaluate(own, 'svamp', generation=generation, **more)
  file.write_text('{"Body": "Two."}\n')
  said = (
    r"data of svamp cannot be had \(.*svamp.test\.jsonl: line 1 has no 'Question'\)"
  )
  with pytest.raises(ConfigError, match=said):
    harness.evaluate(own, 'svamp', generation=generation, **more)
  (data / 'gsm8k' / 'train.jsonl').unlink()
  with pytest.raises(ConfigError, match='data of gsm8k cannot be had'):
    harness.evaluate(own, 'gsm8k', generation=generation, **more)
  with pytest.raises(ConfigError, match=r'data of asdiv cannot be had .*--data'):
    harness.evaluate(own, 'asdiv')


def test_a_prompt_of_ifeval_without_its_instructions_is_named(monkeypatch, tmp_path):
  nltk = pytest.importorskip('nltk')
  pytest.importorskip('lm_eval')
  monkeypatch.setattr(nltk.data, 'find', lambda name: name)
  row = {'key': 1, 'prompt': 'Do it.', 'instruction_id_list': ['punctuation:no_comma']}
  (tmp_path / 'ifeval').mkdir()
  (tmp_path / 'ifeval' / 'train.jsonl').write_text(json.dumps(row))
  more = {'data': tmp_path, 'scratch': tmp_path / 'tasks'}
  own = answerer(max_length=2000)
  with pytest.raises(ConfigError, match=r"ifeval.train\.jsonl: line 1 has no 'kwargs'"):
    harness.evaluate(own, 'ifeval', generation={'max_gen_toks': 3}, **more)


CANNED = [  # instruction, kwargs, answer, strict, loose
  ('punctuation:no_comma', {}, 'One two.', True, True),
  ('punctuation:no_comma', {}, 'Well, two.', False, False),
  ('punctuation:no_comma', {}, 'Sure, here:\nOne two.', False, True),
  ('keywords:existence', {'keywords': ['river']}, 'The river.', True, True),
  ('startend:quotation', {}, '*"So it is."*', False, True),
  (
    'change_case:english_lowercase',
    {},
    'the train leaves at noon and the boat at one.',
    True,
    True,
  ),
  ('change_case:english_lowercase', {}, 'The train leaves.', False, False),
  ('language:response_language', {'language': 'de'}, 'Der Zug fährt.', True, True),
]


def test_canned_answers_follow_their_instructions_or_not(monkeypatch, tmp_path):
  nltk = pytest.importorskip('nltk')
  # None of these checkers splits sentences, so none needs its data.
  monkeypatch.setattr(nltk.data, 'find', lambda name: name)
  rows = [
    {'key': n, 'prompt': 'Do it.', 'instruction_id_list': [name], 'kwargs': [kwargs]}
    for n, (name, kwargs, *_) in enumerate(CANNED)
  ]
  file = tmp_path / 'ifeval.jsonl'
  file.write_text('\n'.join(map(json.dumps, rows)))
  judged = [
    ifeval.judge(row, case[2])
    for row, case in zip(ifeval.read(file), CANNED, strict=True)
  ]
  for one, case in zip(judged, CANNED, strict=True):
    assert one['prompt_level_strict_acc'] is case[3], case
    assert one['inst_level_loose_acc'] == [case[4]], case
  shares = [np.hstack([row[name] for row in judged]).mean() for name in ifeval.NUMBERS]
  assert shares == [0.5, 0.5, 0.75, 0.75]


def test_languages_are_guessed_the_same_every_time(monkeypatch):
  nltk = pytest.importorskip('nltk')
  langdetect = pytest.importorskip('langdetect')
  monkeypatch.setattr(nltk.data, 'find', lambda name: name)
  monkeypatch.setattr(langdetect.DetectorFactory, 'seed', None)
  ifeval.prepare()
  guesses = {str(langdetect.detect_langs('an die in de la')) for _ in range(7)}
  assert len(guesses) == 1


def test_missing_sentence_data_is_named(monkeypatch):
  nltk = pytest.importorskip('nltk')

  def missing(name):
    raise LookupError(name)

  monkeypatch.setattr(nltk.data, 'find', missing)
  with pytest.raises(ConfigError, match=r'nltk\.downloader punkt_tab'):
    ifeval.prepare()
