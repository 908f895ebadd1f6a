"""A model's answers to code problems, as a file of samples that is scored offline.

Problems and a protocol's benchmark -> prompts -> continuations -> programs, in
EvalPlus's format: one line per sample, in the order of the problems.
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
from onlyif_jax.evals.postprocess import Target
from onlyif_jax.evals.problems import Problem, ProblemSet
from onlyif_jax.evals.protocols import Benchmark
from onlyif_jax.models.generate import Sampling

SCORERS = ('evalplus', 'check')  # those of protocols.SCORERS that judge programs
_ENTRY_POINT = '{entry_point}'


def generate(
  answerer: Answerer,
  problem_set: ProblemSet,
  benchmark: Benchmark,
  path: str | os.PathLike,
  each: int | None = None,
) -> int:
  """Writes the samples of all problems to a file; returns how many.

  each: samples per problem, by default the benchmark's; one if greedy. Answers in the
  answerer's book are not generated again. Raises ConfigError for a benchmark that asks
  for no programs, and where the tokenizer lacks the template.
  """
  how = decoding(benchmark)
  problems = list(problem_set.problems.values())
  each = 1 if how.sampling.temperature == 0 else each or _samples(benchmark)
  prompt_ids = [ask(benchmark, problem, answerer.tokenizer) for problem in problems]
  repeated = [ids for ids in prompt_ids for _ in range(each)]
  texts = [answer.text for answer in answerer.continuations(repeated, how)]
  Path(path).unlink(missing_ok=True)
  code.write_samples(path, _programs(benchmark, problems, texts, each))
  return len(texts)


def ask(benchmark: Benchmark, problem: Problem, tokenizer: Tokenizer) -> list[int]:
  """The ids that a model continues: instruction in its template, and prefill."""
  instruction, prefill = protocols.ask(benchmark, problem)
  if benchmark.template == 'none':
    return prompts.question('plain', (Turn('user', instruction + prefill),), tokenizer)
  ids = prompts.question(benchmark.template, (Turn('user', instruction),), tokenizer)
  return ids + (tokenizer.encode(prefill, continues=True) if prefill else [])


def decoding(benchmark: Benchmark) -> Decoding:
  """How a benchmark's answers are generated.

  Stops that name a problem's function are left to `_programs`: the problems of a batch
  share their stops.
  """
  if benchmark.scorer not in SCORERS or benchmark.decoding is None:
    raise ConfigError(
      f'scorer {benchmark.scorer!r} judges no generated programs; see protocols.yaml'
    )
  settings = benchmark.decoding
  stops = postprocess.stops(benchmark.stops, _ENTRY_POINT)
  return Decoding(
    settings.max_new_tokens,
    tuple(stop for stop in stops if _ENTRY_POINT not in stop),
    Sampling(settings.temperature, settings.top_p),
  )


def _samples(benchmark: Benchmark) -> int:
  return benchmark.decoding.samples if benchmark.decoding else 1


def _programs(
  benchmark: Benchmark,
  problems: Sequence[Problem],
  texts: Sequence[str],
  samples_each: int,
) -> Iterator[dict[str, Any]]:
  for n, text in enumerate(texts):
    problem = problems[n // samples_each]
    stops = postprocess.stops(benchmark.stops, problem.entry_point)
    target = Target(problem.prompt, problem.entry_point)
    program = postprocess.extract(
      postprocess.cut(text, stops), benchmark.extract, target
    )
    yield {'task_id': problem.task_id, 'solution': program}
