"""Asks a fine-tuned model questions and judges its answers.

Answers are decoded greedily and judged like those of models from scratch: by exact
match of the whole answer, for algebra also by equality in value. No-ops are reported
separately, and every wrong answer falls into one class of the anatomy.
"""

import collections
import dataclasses
from collections.abc import Iterable, Iterator, Sequence
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
MOST_VALUES = 20  # of a slice that is reported value by value


@dataclasses.dataclass(frozen=True)
class Judged:
  """The answers to one split's questions with the class of each."""

  split: str
  questions: Sequence[Question]
  answers: list[str]
  ended: np.ndarray  # bool: the model ended the answer itself
  kinds: np.ndarray  # Mistake, as integers

  @property
  def right(self) -> np.ndarray:
    """Which answers are exactly the expected ones."""
    return self.kinds == Mistake.RIGHT


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """What judging a model gives: rows of both tables, and wrong answers."""

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
  """A model's answers to questions in their order, and whether each ended.

  shots: solved examples before every question.
  """
  shot_turns = tuple(turn for row in shots for turn in row.turns)
  ids = [
    prompts.question(template, (*shot_turns, *question.turns), base.tokenizer)
    for question in questions
  ]
  texts, ended = [''] * len(ids), np.zeros(len(ids), bool)
  for answer in generate(
    graphdef,
    params,
    base.tokenizer,
    ids,
    max_new_tokens=config.max_tokens,
    batch_size=config.batch_size,
  ):
    texts[answer.index] = answer.text
    ended[answer.index] = answer.ended == 'stop_id'
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
  """Classifies answers, without the spaces around them.

  trained: the training rules, which some classes of wrong answers come from.
  """
  answers = [text.strip() for text in answers]
  kinds = mistakes.classify(
    _asked(questions), _strings(answers), ended, noops=noops, trained=trained
  )
  return Judged(split, questions, answers, ended, kinds)


def results(judged: Judged, *, symbolically: bool = False) -> Iterator[dict[str, Any]]:
  """Rows of RESULT_COLUMNS: every metric on all questions and on each slice.

  symbolically: judge expressions by equality in value too.
  """
  metrics = {'exact_match': judged.right}
  if symbolically:
    pairs = zip(judged.questions, judged.answers, strict=True)
    verdicts = [symbolic.compare(question.expected, text) for question, text in pairs]
    metrics['symbolic_match'] = np.array(
      [v == symbolic.Verdict.EQUAL for v in verdicts]
    )
    metrics['domain_error'] = np.array([v == symbolic.Verdict.DOMAIN for v in verdicts])
  for slice_name, inside in _slices(judged.questions).items():
    for metric, flags in metrics.items():
      total, count = int(flags[inside].sum()), int(inside.sum())
      cells = (judged.split, slice_name, metric, total, count, total / count)
      yield dict(zip(RESULT_COLUMNS, cells, strict=True))


def _slices(questions: Sequence[Question]) -> dict[str, np.ndarray]:
  """'all' and 'name=value' -> which questions are in it.

  Of slices with at least two values and at most MOST_VALUES.
  """
  values = collections.defaultdict(list)
  for question in questions:
    for name, value in question.slices.items():
      values[name].append(value)
  masks = {'all': np.ones(len(questions), bool)}
  for name, column in values.items():
    different = sorted(set(column))
    if 1 < len(different) <= MOST_VALUES:
      masks |= {f'{name}={value}': np.array(column) == value for value in different}
  return masks


def anatomy(judged: Judged) -> Iterator[dict[str, Any]]:
  """Rows of ANATOMY_COLUMNS: the number of answers of each class."""
  for mistake in Mistake:
    count = int((judged.kinds == mistake).sum())
    cells = (judged.split, mistake.name.lower(), count, len(judged.answers))
    yield dict(zip(ANATOMY_COLUMNS, cells, strict=True))


def wrong(judged: Judged, most: int) -> list[dict[str, str]]:
  """The first wrong answers as lines of wrong.jsonl, at most `most`."""
  lines = []
  for n in np.flatnonzero(~judged.right)[:most]:
    question = judged.questions[n]
    lines.append(
      {
        'split': judged.split,
        'class': Mistake(judged.kinds[n]).name.lower(),
        'prompt': question.turns[-1].text,
        'expected': question.expected,
        'output': judged.answers[n],
      }
    )
  return lines


def trained_rules(questions: Sequence[Question]) -> mistakes.Trained | None:
  """What training inserts for each left side; None for a task without sides."""
  if not questions or 'lhs' not in questions[0].fields:
    return None
  matching = [q for q in questions if q.fields['lhs'] in q.fields['input']]
  inserted = mistakes.locate(_asked(matching)).w
  rules: dict[tuple[str, str], None] = {}  # an ordered set
  for n, question in enumerate(matching):
    letters = inserted.letters_NW[n, : inserted.length_N[n]]
    rules[question.fields['lhs'], ''.join(map(chr, letters))] = None
  return mistakes.Trained(_strings(x for x, _ in rules), _strings(y for _, y in rules))


def _asked(questions: Sequence[Question]) -> mistakes.Asked:
  """The questions as the classes of wrong answers need them."""
  fields = [question.fields for question in questions]
  sides = ('lhs', 'rhs') if 'lhs' in fields[0] else ()
  return mistakes.Asked(
    _strings(f['input'] for f in fields),
    _strings(question.expected for question in questions),
    *(_strings(f[name] for f in fields) for name in sides),
  )


def _strings(texts: Iterable[str]) -> mistakes.Strings:
  """Texts as code points."""
  return mistakes.strings([[ord(c) for c in text] for text in texts])
