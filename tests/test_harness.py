"""Models as benchmarks ask them: scores, windows, continuations, resuming.

What lm-evaluation-harness itself says of the same models is in test_harness_live.
"""

import functools
import json
from pathlib import Path

import decoders
import numpy as np
import pytest
from decoders import GROUPED, LEARNED

from onlyif_jax.config import ConfigError
from onlyif_jax.corpora.tokenizer import load_tokenizer
from onlyif_jax.evals import answer_book, answering, harness, ifeval
from onlyif_jax.evals.answer_book import Book
from onlyif_jax.evals.answering import Answerer, Decoding
from onlyif_jax.models import choices, llama
from onlyif_jax.models.generate import Sampling
from onlyif_jax.models.llama import DecoderConfig
from onlyif_jax.training import placement
from onlyif_jax.tuning_settings import DevicesConfig

TOKENIZER = Path(__file__).parent / 'data' / 'tokenizer'
NEW = 5
# Short and of an even number: the tests share few compiled shapes.
TEXTS = ['', 'The river rises.', 'Why does the kettle sing?', 'First, second, third']
ODDS = [[3, 1, 4], [15], [9, 2, 6, 5, 35, 8, 9], [7], [9, 3]]


@functools.cache
def config():
  size = load_tokenizer(TOKENIZER).size
  sizes = {**decoders.SIZES, 'vocab_size': size, 'layers': 1, 'heads': 2}
  return DecoderConfig(**sizes)


def answerer(**more):
  """A random model with the tests' tokenizer."""
  model = llama.graphdef(config()), decoders.params(config())
  return Answerer(*model, load_tokenizer(TOKENIZER), **({'batch_size': 2} | more))


def logprobs(ids):
  """ln p of every id but the first, by one plain pass in float64."""
  padded = np.array([[*ids, *[0] * (24 - len(ids))]])
  own = decoders.compiled(config())(decoders.params(config()), padded)
  logits_LV = np.asarray(own, np.float64)[0]
  return [
    logits_LV[n, i] - np.log(np.exp(logits_LV[n]).sum()) for n, i in enumerate(ids[1:])
  ]


@pytest.mark.parametrize(
  'own',
  [GROUPED, pytest.param(LEARNED, marks=pytest.mark.slow)],
  ids=['grouped', 'learned'],
)
def test_continuations_of_one_context_score_as_alone(own):
  contexts = [decoders.tokens(n, size).tolist() for n, size in enumerate((5, 1, 17))]
  groups = [(c, ODDS[n : n + 3]) for n, c in enumerate(contexts)]
  model = llama.graphdef(own), decoders.params(own)
  found = dict(choices.score(*model, groups, batch_size=2))
  pairs = [(c, [one]) for c, some in groups for one in some]
  by_pair = dict(choices.score(*model, pairs, batch_size=16))
  alone = [by_pair[n][0] for n in range(len(pairs))]
  together = [one for n in range(3) for one in found[n]]
  for a, b in zip(together, alone, strict=True):
    np.testing.assert_allclose(a.logprobs, b.logprobs, atol=2e-5)
    assert a.greedy == b.greedy
  context = contexts[2]
  best = decoders.logits(own, [context])[0, -1].argmax()
  ((_, scores),) = choices.score(*model, [(context, [[int(best)], [int(best) - 1]])])
  assert [one.greedy for one in scores] == [True, False]


def test_scoring_refuses_what_no_model_can_read():
  model = llama.graphdef(LEARNED), decoders.params(LEARNED)
  for groups, said in [
    ([([], [[1]])], 'empty'),
    ([([1], [[]])], 'empty'),
    ([([1], [])], 'empty'),
    ([([1], [[37]])], 'vocab_size=37'),
    ([([1] * 50, [[1] * 5])], '54 positions'),
  ]:
    with pytest.raises(ConfigError, match=said):
      choices.score(*model, groups)


@pytest.mark.parametrize('longest', [1, 2, 5, 13])
def test_windows_predict_each_token_once_with_all_that_fits(longest):
  for size in range(28):
    ids = list(range(100, 100 + size))
    pairs = answering.windows(ids, 7, longest)
    assert [i for _, c in pairs for i in c] == ids
    done = 0
    for n, (context, continuation) in enumerate(pairs):
      assert len(context) + len(continuation) - 1 <= longest
      before = [7, *ids][: done + 1] if n == 0 else ids[:done]
      room = longest + 1 - len(continuation)
      assert context == before[-room:]
      done += len(continuation)


def test_texts_are_scored_with_their_begin_token_and_joined_spaces():
  own = answerer()
  pairs = [('', 'The river'), ('The river ', 'rises'), ('Why?\n', 'Bubbles')]
  bos = own.tokenizer.bos_id
  for (context, continuation), (total, _) in zip(
    pairs, own.loglikelihood(pairs), strict=True
  ):
    whole = [bos, *own.tokenizer.encode(context + continuation)]
    tail = len(whole) - max(1, len([bos, *own.tokenizer.encode(context.rstrip())]))
    assert total == pytest.approx(sum(logprobs(whole)[-tail:]), abs=1e-4)
  assert own.encode('<s>The') == own.encode('The')


def test_a_context_that_is_too_long_loses_its_beginning():
  own = answerer(max_length=7)
  context, continuation = 'one two three four five six seven', ' eight nine'
  ids, tail = own.split(context, continuation)
  assert len(ids) + len(tail) > 8 > len(tail)
  ((total, _),) = own.loglikelihood([(context, continuation)])
  kept = [*ids, *tail][-8:]
  assert total == pytest.approx(sum(logprobs(kept)[-len(tail) :]), abs=1e-4)
  with pytest.raises(ConfigError, match='the model reads 1 to 7'):
    own.loglikelihood([('a', context + continuation)])


def test_a_rolling_score_is_the_sum_over_windows():
  own = answerer(max_length=5, batch_size=8)
  text = 'First, second, third, and finally'
  ids = own.encode(text)
  assert len(ids) > 11
  expected = sum(logprobs([ids[0], *ids[:5]]))
  for start in range(5, len(ids), 5):
    end = min(start + 5, len(ids))
    expected += sum(logprobs(ids[end - 6 : end])[start - end :])
  assert own.rolling([text, text])[1] == pytest.approx(expected, abs=1e-4)


def test_continuations_are_cut_at_stops_and_without_special_tokens():
  own, how = answerer(), Decoding(NEW)
  texts = own.until([(text, how) for text in TEXTS])
  made = own.continuations([own.encode(text) for text in TEXTS], how)
  for text, one in zip(texts, made, strict=True):
    assert own.hf.decode(one.tokens, skip_special_tokens=True) == text
  whole = max(texts, key=len)
  asked, stop = TEXTS[texts.index(whole)], whole[2:4]
  again = own.until([(asked, Decoding(NEW, (stop, '')))] * 2)
  assert again == [whole.split(stop)[0]] * 2


def test_a_prompt_that_is_too_long_loses_its_beginning():
  own = answerer(max_length=NEW + 3)
  asked = TEXTS[3]
  ids = own.encode(asked)
  assert len(ids) > 3
  (made,) = own.continuations([ids[-3:]], Decoding(NEW))
  text = own.hf.decode(made.tokens, skip_special_tokens=True)
  assert own.until([(asked, Decoding(NEW))]) == [text]
  with pytest.raises(ConfigError, match='max_new_tokens=8 leaves no room'):
    own.until([('a', Decoding(8))])


class KilledError(Exception):
  """Stands for a kill."""


class Torn(Book):
  """A book that dies at its n-th new answer."""

  left = 3

  def add(self, key, answer):
    self.left -= 1
    if self.left < 0:
      with self.path.open('a') as file:
        file.write('["half a li')
      raise KilledError
    super().add(key, answer)


def ask(own):
  pairs = [(a, b) for a in TEXTS for b in (' The', ' answer')]
  sampled = Decoding(NEW, sampling=Sampling(0.8, 0.9))
  ids = [own.encode(text) for text in TEXTS[1:3]] * 2
  return (
    own.loglikelihood(pairs),
    own.rolling(TEXTS[2:]),
    own.until([(text, Decoding(NEW)) for text in TEXTS]),
    own.continuations(ids, sampled),
  )


def test_what_was_killed_goes_on_and_answers_the_same(tmp_path):
  header = {'model': 'a', 'seed': 3}
  more = {'seed': 3}
  whole = ask(answerer(book=Book(tmp_path / 'whole.jsonl', header), **more))
  kills = 0
  while True:
    own = answerer(book=Torn(tmp_path / 'torn.jsonl', header), **more)
    try:
      found = ask(own)
      break
    except KilledError:
      kills += 1
  assert kills > 2
  assert found == whole  # to the last bit
  assert found[3][0].tokens != found[3][2].tokens  # one prompt, sampled twice
  assert ask(answerer(seed=4))[3] != whole[3]
  with pytest.raises(ConfigError, match='another model; give another folder'):
    Book(tmp_path / 'torn.jsonl', header | {'model': 'b'})
  (tmp_path / 'bad.jsonl').write_text('{}\n3\n')
  with pytest.raises(ConfigError, match='no file of answers'):
    Book(tmp_path / 'bad.jsonl', {})


def test_what_is_answered_is_not_computed_again(tmp_path, monkeypatch):
  book = Book(tmp_path / 'a.jsonl', {})
  first = ask(answerer(book=book))
  for name in ('generate', 'choices'):
    monkeypatch.setattr(answering, name, None)
  again = Book(tmp_path / 'a.jsonl', {})
  assert ask(answerer(book=again)) == first
  assert len(json.loads((tmp_path / 'a.jsonl').read_text().splitlines()[1])) == 2
  assert answer_book.request_hash('a', 1) != answer_book.request_hash('a', '1')


def test_samples_depend_neither_on_the_batch_nor_on_a_limit():
  how = Decoding(NEW, sampling=Sampling(0.8, 0.9))
  ids = [[3, n] for n in range(7)]
  whole = answerer(batch_size=8).continuations(ids, how)
  assert answerer(batch_size=2).continuations(ids[:5], how) == whole[:5]


def test_devices_share_the_rows_of_a_batch():
  mesh = placement.make_mesh(DevicesConfig(data=2))
  own = answerer(sharding=placement.batch(mesh))
  pairs = [('The', ' river'), ('Why', ' not')]
  for a, b in zip(
    own.loglikelihood(pairs), answerer().loglikelihood(pairs), strict=True
  ):
    assert a[0] == pytest.approx(b[0], abs=1e-5)


def test_generation_settings_of_tasks_are_read():
  read = harness.decoding
  assert read({}) == Decoding(256)
  assert read({'until': 'Q:', 'max_gen_toks': 5}) == Decoding(5, ('Q:',))
  assert read({'until': ['a', 'b'], 'max_new_tokens': '7'}) == Decoding(7, ('a', 'b'))
  assert read({'do_sample': False, 'temperature': 0.7}) == Decoding(256)
  assert read({'do_sample': True, 'temperature': 0.7, 'top_p': 0.9, 'top_k': 3}) == (
    Decoding(256, (), Sampling(0.7, 0.9, 3))
  )
  with pytest.raises(ConfigError, match='num_beams are not known'):
    read({'num_beams': 3})


def test_the_harness_is_named_where_it_is_missing(monkeypatch):
  for name in ('lm_eval', 'langdetect'):
    monkeypatch.setitem(__import__('sys').modules, name, None)
  with pytest.raises(ConfigError, match=r'onlyif_jax\[eval\]'):
    harness.language_model(answerer())
  with pytest.raises(ConfigError, match=r'langdetect: pip install .*eval'):
    ifeval.prepare()


class Lm:
  """Stands for the harness: one task, whose evaluation is given."""

  __version__ = '0'

  class api:  # noqa: N801
    class model:  # noqa: N801
      LM = object

  def __init__(self, evaluate):
    self.simple_evaluate = evaluate

  @staticmethod
  def task(*_):
    return type('Manager', (), {'all_tasks': ['toy']})(), 'toy'


def evaluated(monkeypatch, evaluate, **more):
  harness._model_class.cache_clear()
  monkeypatch.setattr(harness, 'library', lambda: Lm(evaluate))
  monkeypatch.setattr(harness, '_manager', Lm.task)
  try:
    return harness.evaluate(answerer(), 'toy', **more)
  finally:
    harness._model_class.cache_clear()


@pytest.mark.parametrize(
  'error', [KeyError('answer'), OSError('no\nnet'), ValueError(''), RuntimeError('x y')]
)
def test_data_that_cannot_be_had_is_one_line(monkeypatch, error):
  def before(model, **_):
    raise error

  with pytest.raises(ConfigError, match='data of toy cannot be had') as caught:
    evaluated(monkeypatch, before)
  assert '\n' not in str(caught.value)
  assert type(error).__name__ in str(caught.value)

  def after(model, **_):
    model.generate_until([])
    raise error

  with pytest.raises(type(error)):  # no fault of the data, so no word of it
    evaluated(monkeypatch, after)


@pytest.mark.parametrize(
  ('rows', 'error', 'line'),
  [
    ([{'question': 'a'}] * 2, KeyError('answer'), 1),
    ([{'question': 'a'}] * 2, RuntimeError("'answer' is undefined"), 1),
    ([{'question': 'a', 'answer': '1'}, {'question': 'b'}], TypeError('None'), 2),
    ([{'question': 'a', 'answer': '1'}] * 2, KeyError('answer'), 0),
    ([{'question': 'a', 'answer': '1'}] * 2, TypeError('None'), 0),
  ],
)
def test_a_column_that_only_scoring_reads_is_named(
  monkeypatch, tmp_path, rows, error, line
):
  for task in ('toy', 'other'):  # of other tasks no file is to blame
    (tmp_path / task).mkdir()
    (tmp_path / task / 'test.jsonl').write_text('\n'.join(map(json.dumps, rows)))
  file = tmp_path / 'toy' / 'test.jsonl'
  (tmp_path / 'other' / 'test.jsonl').write_text('{"question": 1}')

  def evaluate(model, **_):
    request = type('Instance', (), {'task_name': 'toy', 'args': ('a', {})})()
    monkeypatch.setattr(Answerer, 'until', lambda *_: ['a'])
    model.generate_until([request])
    raise error

  if not line:
    with pytest.raises(type(error)):
      evaluated(monkeypatch, evaluate, data=tmp_path)
    return
  with pytest.raises(ConfigError) as caught:
    evaluated(monkeypatch, evaluate, data=tmp_path)
  assert f"{file}: line {line} has no 'answer'" in str(caught.value)
  assert '\n' not in str(caught.value)


def test_documents_are_right_or_wrong_where_a_metric_says_so(monkeypatch):
  def sample(n, name, **metrics):
    more = {'doc_id': n, 'doc_hash': str(n), 'filter': name, 'metrics': list(metrics)}
    return more | metrics

  def evaluate(model, **_):
    found = [sample(0, 'a', acc=1.0, loss=1.0), sample(1, 'a', acc=0, loss=0.5)]
    found += [sample(0, 'b', acc=False, loss=1.0), sample(1, 'b', acc=True, loss=0)]
    return {'samples': {'toy': found}, 'results': {'toy': {'acc,a': 0.5}}}

  found = evaluated(monkeypatch, evaluate)
  assert found.count == 2
  assert found.right == {
    'acc,a': {'toy/0': True, 'toy/1': False},
    'acc,b': {'toy/0': False, 'toy/1': True},
    'loss,b': {'toy/0': True, 'toy/1': False},
  }


def test_ends_of_answers_are_also_those_of_the_files_of_the_model(tmp_path):
  own = load_tokenizer(TOKENIZER)
  assert answering.stop_ids(own) == (own.eos_id,)
  for name, ends in (('config.json', 5), ('generation_config.json', [6, 5])):
    (tmp_path / name).write_text(json.dumps({'eos_token_id': ends}))
  for file in TOKENIZER.iterdir():
    (tmp_path / file.name).write_bytes(file.read_bytes())
  assert answering.stop_ids(load_tokenizer(tmp_path)) == (own.eos_id, 5, 6)
