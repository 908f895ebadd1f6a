"""A model's answers to problems of code, as a file of samples that is scored offline.

Problems and a protocol's benchmark -> prompts -> continuations -> programs, in
EvalPlus's format, one line a sample in the order of the problems.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from onlyif_jax.config import ConfigError
from onlyif_jax.corpora import prompts
from onlyif_jax.corpora.rows import Turn
from onlyif_jax.corpora.tokenizer import Tokenizer
from onlyif_jax.evals import code, postprocess, protocols
from onlyif_jax.evals.answering import Answerer, Decoding
from onlyif_jax.evals.postprocess import Asked
from onlyif_jax.evals.problems import Problem, ProblemSet
from onlyif_jax.evals.protocols import Benchmark
from onlyif_jax.models.generate import Sampling

SCORERS = ('evalplus', 'check')  # of protocols, whose answers are programs
_OWN = '{entry_point}'


def generate(
  answerer: Answerer,
  problem_set: ProblemSet,
  benchmark: Benchmark,
  path: str | os.PathLike,
  each: int | None = None,
) -> int:
  """Writes the samples of all problems to a file; returns how many.

  each: samples of a problem, by default the benchmark's; greedily there is one.
  What the answerer's book has is not generated again. Raises ConfigError for a
  benchmark that asks for no programs, and where the tokenizer lacks the template.
  """
  how = decoding(benchmark)
  problems = list(problem_set.problems.values())
  times = 1 if how.sampling.temperature == 0 else each or _samples(benchmark)
  ids = [ask(benchmark, problem, answerer.tokenizer) for problem in problems]
  repeated = [own for own in ids for _ in range(times)]
  texts = [a.text for a in answerer.continuations(repeated, how)]
  Path(path).unlink(missing_ok=True)
  code.write_samples(path, _programs(benchmark, problems, texts, times))
  return len(texts)


def ask(benchmark: Benchmark, problem: Problem, tokenizer: Tokenizer) -> list[int]:
  """The ids that a model continues: template, instruction and begun answer."""
  asked, begun = protocols.ask(benchmark, problem)
  if benchmark.template == 'none':
    return prompts.question('plain', (Turn('user', asked + begun),), tokenizer)
  ids = prompts.question(benchmark.template, (Turn('user', asked),), tokenizer)
  return ids + (tokenizer.encode(begun, continues=True) if begun else [])


def decoding(benchmark: Benchmark) -> Decoding:
  """How a benchmark's answers are generated.

  A stop with the name of a problem's function cuts its text afterwards: problems in a
  batch share what ends them, and what comes after a stop is never seen.
  """
  if benchmark.scorer not in SCORERS or benchmark.decoding is None:
    raise ConfigError(
      f'scorer {benchmark.scorer!r} judges no generated programs; see protocols.yaml'
    )
  own = benchmark.decoding
  stops = postprocess.stops(benchmark.stops, _OWN)
  return Decoding(
    own.max_new_tokens,
    tuple(stop for stop in stops if _OWN not in stop),
    Sampling(own.temperature, own.top_p),
  )


def _samples(benchmark: Benchmark) -> int:
  return benchmark.decoding.samples if benchmark.decoding else 1


def _programs(
  benchmark: Benchmark, problems: Sequence[Problem], texts: Sequence[str], times: int
) -> Iterator[dict[str, Any]]:
  for n, text in enumerate(texts):
    problem = problems[n // times]
    stops = postprocess.stops(benchmark.stops, problem.entry_point)
    asked = Asked(problem.prompt, problem.entry_point)
    program = postprocess.extract(
      postprocess.cut(text, stops), benchmark.extract, asked
    )
    yield {'task_id': problem.task_id, 'solution': program}
