"""The model before fine-tuning, asked with and without solved examples."""

import functools
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from test_finetune import config

from onlyif_jax.analysis import reporting, tuned, tuned_evidence
from onlyif_jax.config import ConfigError
from onlyif_jax.corpora.rows import Turn
from onlyif_jax.finetune import answers, loop, run, symbolic, tuning_config
from onlyif_jax.finetune import rows as rows_lib
from onlyif_jax.finetune.symbolic import Question
from onlyif_jax.tuning_settings import AnswerConfig


@functools.cache
def frozen():
  """All weights of a base that was never trained, and one row."""
  small = {'scratch__steps': 0, 'instructions__counts': (3,)}
  return tuning_config.freeze(config(lora__rank=0, answers__shots=2, **small))


made = functools.cache(symbolic.examples)


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  """(a workdir, what `ask` was given); an untuned model is right with examples alone."""
  path, asked = tmp_path_factory.mktemp('runs') / 'run', []

  def ask(graphdef, params, base, template, questions, settings, shots=()):
    asked.append([row.turns for row in shots])
    texts = [q.expected if shots else 'no' for q in questions]
    return texts, np.ones(len(texts), bool)

  class Untrained(loop.RowRun):
    def run(self):
      parts, state = self._start()
      return parts._replace(trained=state['trained'])

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(answers, 'ask', ask)
    patch.setattr(loop, 'RowRun', Untrained)
    patch.setattr(symbolic, 'examples', made)
    patch.setattr(symbolic, 'certificates', lambda *_: [])
    assert run.TuningRun(frozen(), path).train()
  return path, asked


def test_a_row_owns_what_it_trains(finished):
  """A step donates its state; the next row begins with the base's weights again."""
  own = run.TuningRun(frozen(), finished[0])
  base, row = own.base(), own.rows[0]
  plan = SimpleNamespace(survey=SimpleNamespace(batches=3))
  told = (plan, own.workdir, own.mesh, None)
  starts = [
    loop.RowRun(own.tuning, row, base, *told)._start()[1]['trained'] for _ in range(2)
  ]
  first = jax.device_get(starts[0])
  jax.tree.map(lambda x: x.delete(), starts[0])
  jax.tree.map(np.testing.assert_array_equal, first, jax.device_get(starts[1]))


def test_the_untuned_model_is_asked_with_and_without_solved_examples(finished):
  path, asked = finished
  own = tuned.load(path)
  values = {r.row: r.value for r in own.results if r.slice == 'all'}
  assert values == {'zero-shot': 0.0, '2-shot': 1.0, 'I3': 0.0}
  splits = len({r.split for r in own.results})
  given = [len(shots) for shots in asked]
  assert given == [0] * splits + [2] * splits + [0] * splits
  train = made(frozen(), rows_lib.rows(frozen())[0]).train
  told = [(q.turns[0].text, q.expected) for q in train[:2]]
  assert [(t[0].text, t[1].text) for t in asked[splits]] == told
  done = [e['row'] for e in run.TuningRun(frozen(), path).workdir.ledger()]
  assert done == ['zero-shot', '2-shot', 'I3-s0']


def test_solved_examples_stand_before_the_question(monkeypatch):
  given = []
  monkeypatch.setattr(answers, 'generate', lambda *_, **__: [])
  monkeypatch.setattr(
    answers.prompts, 'question', lambda template, turns, tokenizer: given.append(turns)
  )
  asked = Question((Turn('user', 'c'),), 'd', {}, {})
  shots = [symbolic.as_row('shot', 0, Question((Turn('user', 'a'),), 'b', {}, {}))]
  base = SimpleNamespace(tokenizer=None)
  answers.ask(None, None, base, 'plain', [asked], AnswerConfig(), shots)
  assert [turn.text for turn in given[0]] == ['a', 'b', 'c']
  assert [turn.role for turn in given[0]] == ['user', 'assistant', 'user']


def test_the_figure_has_a_line_for_it(finished, monkeypatch):
  own = tuned.load(finished[0])
  labels = []
  page = tuned.style.Page.finish

  def finish(self, parts, axes):
    labels.extend(axes[0].get_legend_handles_labels()[1])
    return page(self, parts, axes)

  monkeypatch.setattr(tuned.style.Page, 'finish', finish)
  tuned.draw(own, finished[0] / 'again.png')
  assert 'all, before tuning' in labels
  assert 'no-ops, before tuning, 2 examples in the prompt' in labels


def test_targets_know_it_by_name(finished):
  rows = tuned_evidence.of(tuned.load(finished[0])).rows
  found = {r.member: r.reference for r in rows}
  assert found == {**{'zero-shot': 'zero_shot', '2-shot': 'few_shot', 'I3-s0': ''}}


def test_a_finished_run_has_its_page(finished, capsys):
  assert run.main(frozen(), finished[0]) == 0
  text = (finished[0] / 'report.html').read_text()
  assert '2-shot' in text
  assert 'Scoreboard' in text
  assert str(finished[0] / 'report.html') in capsys.readouterr().out
  assert reporting.load(finished[0]).label == 'tuning-tiny'


@pytest.mark.parametrize(
  ('row', 'words'),
  [
    ('zero-shot', 'before tuning'),
    ('1-shot', 'before tuning, 1 example in the prompt'),
    ('12-shot', 'before tuning, 12 examples in the prompt'),
    ('I30', ''),
    ('oss40', ''),
  ],
)
def test_rows_without_tuning_are_told_by_their_names(row, words):
  assert tuned.untuned(row) == words
  assert tuned.without_seed(row) == row


def test_mixtures_refuse_solved_examples():
  c = tuning_config.mixture_config()
  c.mixture.sources, c.mixture.rows = ('a=a.jsonl:alpaca',), ('a=7',)
  c.answers.shots = 3
  with pytest.raises(ConfigError, match=r'answers\.shots=3 is for symbolic tasks'):
    tuning_config.freeze(c)


def test_algebra_without_no_ops_is_judged(monkeypatch):
  """Tasks of which no input is to be copied have no such setting."""
  none = symbolic.Examples([], {'unseen': []})
  monkeypatch.setattr(symbolic, 'examples', lambda *_: none)
  monkeypatch.setattr(answers, 'ask', lambda *_: ([], np.zeros(0, bool)))
  monkeypatch.setattr(answers, 'judge', lambda *_, noops, trained: noops)
  monkeypatch.setattr(answers, 'results', lambda noops, **_: [{'noops': noops}])
  for name in ('anatomy', 'wrong'):
    monkeypatch.setattr(answers, name, lambda *_: [])
  c = tuning_config.freeze(tuning_config.symbolic_config('algebra'))
  row = rows_lib.TuningRow('I10-s0', 0, 10)

  class Parts:
    graphdef = None

    def weights(self):
      return None

  found = run.SymbolicTask(c, row).judge(c, None, Parts())
  assert found.results == [{'noops': False}]
