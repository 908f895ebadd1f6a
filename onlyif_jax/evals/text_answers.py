"""A model's answers to questions, as a file of samples that is scored offline.

Questions and a protocol's benchmark -> prompts -> continuations, one JSON line with
task_id and answer each, in the order of the questions.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from onlyif_jax.config import ConfigError
from onlyif_jax.corpora import prompts
from onlyif_jax.corpora.rows import Turn
from onlyif_jax.corpora.tokenizer import Tokenizer
from onlyif_jax.evals import postprocess
from onlyif_jax.evals.answering import Answerer, Decoding
from onlyif_jax.evals.protocols import Benchmark
from onlyif_jax.evals.questions import Question, QuestionSet
from onlyif_jax.models.generate import Sampling


def generate(
  answerer: Answerer,
  question_set: QuestionSet,
  benchmark: Benchmark,
  path: str | os.PathLike,
) -> int:
  """Writes the answers to all questions to a file; returns how many.

  Answers in the answerer's book are not generated again. A prompt that is too long for
  the model gets an empty answer, as in vLLM. Raises ConfigError where the tokenizer
  lacks the template.
  """
  questions = question_set.questions
  prompt_ids = [ask(benchmark, question, answerer.tokenizer) for question in questions]
  longest = answerer.longest
  fitting = [n for n, ids in enumerate(prompt_ids) if len(ids) < longest]
  answers = answerer.continuations(
    [prompt_ids[n] for n in fitting], decoding(benchmark)
  )
  texts = [''] * len(questions)
  for n, answer in zip(fitting, answers, strict=True):
    texts[n] = postprocess.extract(answer.text, benchmark.extract)
  write(path, [question.task_id for question in questions], texts)
  return len(texts)


def write(
  path: str | os.PathLike, task_ids: Sequence[str], texts: Sequence[str]
) -> None:
  """Writes answers atomically: a killed evaluation leaves no partial file."""
  lines = [
    json.dumps({'task_id': task_id, 'answer': text}) + '\n'
    for task_id, text in zip(task_ids, texts, strict=True)
  ]
  new = Path(path).with_suffix('.new')
  new.write_text(''.join(lines), encoding='utf-8')
  new.replace(path)


def decoding(benchmark: Benchmark) -> Decoding:
  """How a benchmark's answers are generated."""
  settings = benchmark.decoding
  if settings is None:
    raise ConfigError('a benchmark with questions needs decoding; see protocols.yaml')
  sampling = Sampling(settings.temperature, settings.top_p)
  return Decoding(settings.max_new_tokens, postprocess.stops(benchmark.stops), sampling)


def ask(benchmark: Benchmark, question: Question, tokenizer: Tokenizer) -> list[int]:
  """The ids that a model continues.

  Where the template refuses a system turn, its text goes before the first question.
  """
  conversation = turns(benchmark, question)
  template = 'plain' if benchmark.template == 'none' else benchmark.template
  if benchmark.system:
    try:
      return prompts.question(
        template, (Turn('system', benchmark.system), *conversation), tokenizer
      )
    except ConfigError:
      conversation = [
        Turn('user', benchmark.system + conversation[0].text),
        *conversation[1:],
      ]
  ids = prompts.question(template, tuple(conversation), tokenizer)
  if not benchmark.prefill:
    return ids
  return ids + tokenizer.encode(benchmark.prefill, continues=True)


def turns(benchmark: Benchmark, question: Question) -> list[Turn]:
  """The conversation without its system turn, worked examples first."""
  shots = question.shots[: benchmark.shots]
  if len(shots) < benchmark.shots:
    raise ConfigError(
      f'{question.task_id} has {len(shots)} worked examples where the protocol shows '
      f'{benchmark.shots}; give the file as published'
    )
  if benchmark.shots_as_turns:
    pairs = [*((shot.text, shot.answer) for shot in shots), (question.text, '')]
    conversation = []
    for n, (text, answer) in enumerate(pairs):
      conversation.append(
        Turn('user', text if n else _filled(benchmark, question, text))
      )
      conversation.append(Turn('assistant', answer))
    return conversation[:-1]
  return [Turn('user', _filled(benchmark, question, question.text, shots))]


def _filled(
  benchmark: Benchmark, question: Question, text: str, shots: Sequence = ()
) -> str:
  """The benchmark's prompt, filled with a question's fields."""
  examples = ''.join(
    benchmark.shot.format(prompt=shot.text, answer=shot.answer) for shot in shots
  )
  return benchmark.prompt.format(prompt=text, head=question.head, shots=examples)
