"""What a fine-tuned model answers, and how its answers are judged.

Answers are decoded greedily and judged as those of the models from scratch: exact
match of the whole answer, for algebra also equality in value, no-op halves apart, and
every wrong answer in one class of the anatomy.
"""

import collections
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from onlyif_jax.corpora import prompts
from onlyif_jax.corpora.rows import Row
from onlyif_jax.evals import mistakes, symbolic
from onlyif_jax.evals.mistakes import Mistake
from onlyif_jax.finetune.base import Base
from onlyif_jax.finetune.symbolic import Question
from onlyif_jax.models.generate import generate
from onlyif_jax.tuning_settings import AnswerConfig

RESULT_COLUMNS = ('split', 'slice', 'metric', 'sum', 'count', 'value')
ANATOMY_COLUMNS = ('split', 'class', 'count', 'examples')


@dataclasses.dataclass(frozen=True)
class Judged:
  """The answers to one split's questions, and the class of each."""

  split: str
  questions: Sequence[Question]
  answers: list[str]
  ended: np.ndarray  # whether the model ended the answer itself
  kinds: np.ndarray  # Mistake, as integers

  @property
  def right(self) -> np.ndarray:
    """Which answers are exactly the expected ones."""
    return self.kinds == Mistake.RIGHT


@dataclasses.dataclass(frozen=True)
class Found:
  """What judging a model gave: rows of the tables, and wrong answers."""

  results: list[dict[str, Any]]
  anatomy: list[dict[str, Any]]
  wrong: list[dict[str, str]]


def ask(
  graphdef: Any,
  params: Any,
  base: Base,
  template: str,
  questions: Sequence[Question],
  config: AnswerConfig,
  shots: Sequence[Row] = (),
) -> tuple[list[str], np.ndarray]:
  """(answers, whether each ended) of a model to questions, in their order.

  shots: solved examples that stand before every question.
  """
  before = tuple(turn for row in shots for turn in row.turns)
  ids = [
    prompts.question(template, (*before, *one.turns), base.tokenizer)
    for one in questions
  ]
  texts, ended = [''] * len(ids), np.zeros(len(ids), bool)
  for one in generate(
    graphdef,
    params,
    base.tokenizer,
    ids,
    max_new_tokens=config.max_tokens,
    batch_size=config.batch_size,
  ):
    texts[one.index] = one.text
    ended[one.index] = one.ended == 'stop_id'
  return texts, ended


def judge(
  split: str,
  questions: Sequence[Question],
  answers: list[str],
  ended: np.ndarray,
  *,
  noops: bool,
  trained: mistakes.Trained | None = None,
) -> Judged:
  """Judges answers; spaces around an answer do not count.

  trained: the training rules, for the classes of answers that one of them gives.
  """
  answers = [text.strip() for text in answers]
  asked = _asked(questions)
  kinds = mistakes.classify(
    asked, _strings(answers), ended, noops=noops, trained=trained
  )
  return Judged(split, questions, answers, ended, kinds)


def results(judged: Judged, *, symbolically: bool = False) -> Iterator[dict[str, Any]]:
  """Rows of RESULT_COLUMNS: each slice and metric as sum, count and value."""
  metrics = {'exact_match': judged.right}
  if symbolically:
    pairs = zip(judged.questions, judged.answers, strict=True)
    verdicts = [symbolic.compare(one.expected, answer) for one, answer in pairs]
    metrics['symbolic_match'] = np.array(
      [v == symbolic.Verdict.EQUAL for v in verdicts]
    )
    metrics['domain_error'] = np.array([v == symbolic.Verdict.DOMAIN for v in verdicts])
  members = {'all': np.ones(len(judged.questions), bool)}
  values = collections.defaultdict(list)
  for one in judged.questions:
    for name, value in one.slices.items():
      values[name].append(value)
  for name, found in values.items():
    for value in sorted(set(found)):
      if 1 < len(set(found)) <= 20:
        members[f'{name}={value}'] = np.array(found) == value
  for slice_, inside in members.items():
    for metric, flags in metrics.items():
      total, count = int(flags[inside].sum()), int(inside.sum())
      row = (judged.split, slice_, metric, total, count, total / count)
      yield dict(zip(RESULT_COLUMNS, row, strict=True))


def anatomy(judged: Judged) -> Iterator[dict[str, Any]]:
  """Rows of ANATOMY_COLUMNS: how many answers are of each class."""
  for mistake in Mistake:
    count = int((judged.kinds == mistake).sum())
    row = (judged.split, mistake.name.lower(), count, len(judged.answers))
    yield dict(zip(ANATOMY_COLUMNS, row, strict=True))


def wrong(judged: Judged, most: int) -> list[dict[str, str]]:
  """The first wrong answers, as text."""
  out = []
  for n in np.flatnonzero(~judged.right)[:most]:
    one = judged.questions[n]
    out.append(
      {
        'split': judged.split,
        'class': Mistake(judged.kinds[n]).name.lower(),
        'prompt': one.turns[-1].text,
        'expected': one.expected,
        'output': judged.answers[n],
      }
    )
  return out


def trained_rules(questions: Sequence[Question]) -> mistakes.Trained | None:
  """What training inserted for each left side; None for a task without sides."""
  if not questions or 'lhs' not in questions[0].fields:
    return None
  found = [one for one in questions if one.fields['lhs'] in one.fields['input']]
  inserted, rules = mistakes.locate(_asked(found)).w, {}
  for n, one in enumerate(found):
    letters = inserted.letters_NW[n, : inserted.length_N[n]]
    rules[one.fields['lhs'], ''.join(map(chr, letters))] = None
  return mistakes.Trained(_strings(x for x, _ in rules), _strings(y for _, y in rules))


def _asked(questions: Sequence[Question]) -> mistakes.Asked:
  fields = [one.fields for one in questions]
  sides = ('lhs', 'rhs') if 'lhs' in fields[0] else ()
  return mistakes.Asked(
    _strings(f['input'] for f in fields),
    _strings(one.expected for one in questions),
    *(_strings(f[name] for f in fields) for name in sides),
  )


def _strings(texts) -> mistakes.Strings:
  """Texts as letters; what is no single character of a text cannot be."""
  return mistakes.strings([[ord(c) for c in text] for text in texts])
