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

  What the answerer's book has is not generated again. A prompt that the model cannot
  read in full is answered by nothing, as vLLM does. Raises ConfigError where the
  tokenizer lacks the template.
  """
  asked = question_set.questions
  ids = [ask(benchmark, question, answerer.tokenizer) for question in asked]
  longest = answerer.longest
  fitting = [n for n, own in enumerate(ids) if len(own) < longest]
  texts = [''] * len(ids)
  found = answerer.continuations([ids[n] for n in fitting], decoding(benchmark))
  for n, answer in zip(fitting, found, strict=True):
    texts[n] = postprocess.extract(answer.text, benchmark.extract)
  write(path, [question.task_id for question in asked], texts)
  return len(texts)


def write(
  path: str | os.PathLike, task_ids: Sequence[str], texts: Sequence[str]
) -> None:
  """Writes answers; whole or not at all: a killed evaluation leaves no part of a file."""
  lines = [
    json.dumps({'task_id': task_id, 'answer': text}) + '\n'
    for task_id, text in zip(task_ids, texts, strict=True)
  ]
  new = Path(path).with_suffix('.new')
  new.write_text(''.join(lines), encoding='utf-8')
  new.replace(path)


def decoding(benchmark: Benchmark) -> Decoding:
  """How a benchmark's answers are generated."""
  own = benchmark.decoding
  if own is None:
    raise ConfigError('a benchmark with questions needs decoding; see protocols.yaml')
  sampling = Sampling(own.temperature, own.top_p)
  return Decoding(own.max_new_tokens, postprocess.stops(benchmark.stops), sampling)


def ask(benchmark: Benchmark, question: Question, tokenizer: Tokenizer) -> list[int]:
  """The ids that a model continues.

  Where a template refuses a system turn, its text goes before the first question.
  """
  own = turns(benchmark, question)
  name = 'plain' if benchmark.template == 'none' else benchmark.template
  if benchmark.system:
    try:
      return prompts.question(name, (Turn('system', benchmark.system), *own), tokenizer)
    except ConfigError:
      own = [Turn('user', benchmark.system + own[0].text), *own[1:]]
  ids = prompts.question(name, tuple(own), tokenizer)
  if not benchmark.prefill:
    return ids
  return ids + tokenizer.encode(benchmark.prefill, continues=True)


def turns(benchmark: Benchmark, question: Question) -> list[Turn]:
  """The conversation, worked examples first, without a system turn."""
  shots = question.shots[: benchmark.shots]
  if len(shots) < benchmark.shots:
    raise ConfigError(
      f'{question.task_id} has {len(shots)} worked examples where the protocol shows '
      f'{benchmark.shots}; give the file as published'
    )
  if benchmark.shots_as_turns:
    pairs = [*((shot.text, shot.answer) for shot in shots), (question.text, '')]
    out = []
    for n, (text, answer) in enumerate(pairs):
      out.append(Turn('user', text if n else _filled(benchmark, question, text)))
      out.append(Turn('assistant', answer))
    return out[:-1]
  return [Turn('user', _filled(benchmark, question, question.text, shots))]


def _filled(
  benchmark: Benchmark, question: Question, text: str, shots: Sequence = ()
) -> str:
  """The prompt of a benchmark with a question's fields."""
  shown = ''.join(
    benchmark.shot.format(prompt=shot.text, answer=shot.answer) for shot in shots
  )
  return benchmark.prompt.format(prompt=text, head=question.head, shots=shown)
