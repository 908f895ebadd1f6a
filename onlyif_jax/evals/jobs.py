"""Jobs: one benchmark on one set of data, from the model's answers to the result.

A job has a folder of its own for samples, verdicts and problems.csv, the counts of each
problem by which two models are compared.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from onlyif_jax.config import ConfigError
from onlyif_jax.corpora import prompts
from onlyif_jax.corpora.rows import Turn
from onlyif_jax.evals import (
  code,
  code_answers,
  harness,
  ifeval,
  postprocess,
  sandbox,
  text_answers,
  text_scores,
)
from onlyif_jax.evals.answering import Answerer
from onlyif_jax.evals.problems import ProblemSet
from onlyif_jax.evals.protocols import Benchmark
from onlyif_jax.evals.questions import QuestionSet
from onlyif_jax.evals.shares import Z, interval, wilson


@dataclasses.dataclass(frozen=True)
class Settings:
  """The settings of one call; paths are directories, None where not given."""

  model: Path | None
  out: Path
  benchmarks: tuple[str, ...]
  protocol: str
  data: Path | None = None
  adapter: Path | None = None
  dtype: str = 'bfloat16'
  quantize: str = 'none'
  limit: int | None = None
  workers: int = 2
  allow_network: bool = False
  batch_size: int = 8
  devices: int = 1
  seed: int = 0
  samples: Path | None = None  # a file or folder to score, without a model
  samples_each: int | None = None  # per problem; None: the protocol's

  def samples_in(self, folder: Path) -> Path:
    """The samples to score: those given, else what is generated into a folder."""
    return self.samples or folder / 'samples.jsonl'


@dataclasses.dataclass(frozen=True)
class Job:
  """One benchmark on one set of data; `run` does it.

  run: (job, model or None where samples are given, folder, settings, origin) -> the
  result's scores; origin: what every result names.
  """

  name: str
  benchmark: Benchmark
  run: Callable[
    ['Job', Answerer | None, Path, Settings, Mapping[str, Any]], dict[str, Any]
  ]
  data: Any = None  # a ProblemSet, a QuestionSet, or rows


def run_code(
  job: Job, answerer: Answerer | None, folder: Path, settings: Settings, origin
) -> dict[str, Any]:
  """Runs programs against tests: pass@k."""
  problem_set: ProblemSet = job.data
  samples = settings.samples_in(folder)
  if answerer is not None:
    each = settings.samples_each
    code_answers.generate(answerer, problem_set, job.benchmark, samples, each)
  scores = code.score(
    samples,
    problem_set,
    folder / 'scores',
    origin=origin,
    times=job.benchmark.limits,
    workers=settings.workers,
    isolation=sandbox.detect(allow_network=settings.allow_network),
  )
  count_N = np.array([row['samples'] for row in scores.rows])
  intervals = {}
  for suite, values in scores.pass_at.items():
    right_N = np.array([row[f'{suite}_correct'] for row in scores.rows])
    intervals[f'{suite} pass@1'] = interval(right_N, count_N)
    for k, value in values.items():
      if k > 1:
        intervals[f'{suite} pass@{k}'] = {'value': value}
  metric = f'{list(scores.pass_at)[-1]} pass@1'  # plus where there is one
  data = problem_set.version, problem_set.sha256
  return _result(metric, intervals, len(count_N), *data)


def run_questions(
  job: Job, answerer: Answerer | None, folder: Path, settings: Settings, origin
) -> dict[str, Any]:
  """Compares answers with references: accuracy, overall and by group."""
  question_set: QuestionSet = job.data
  samples = settings.samples_in(folder)
  if answerer is not None:
    text_answers.generate(answerer, question_set, job.benchmark, samples)
  right = text_scores.score(
    samples,
    question_set,
    job.benchmark.scorer,
    folder / 'scores',
    origin=origin,
    times=job.benchmark.limits,
    workers=settings.workers,
    allow_network=settings.allow_network,
  )
  groups: dict[str, list[bool]] = {}
  for question in question_set.questions:
    for group in ('', *question.groups):
      groups.setdefault(group, []).append(right[question.task_id])
  all_N = np.array(groups.pop(''))
  scores = {'accuracy': interval(all_N, np.ones_like(all_N, int))}
  subtasks = {
    name: {'accuracy': sum(flags) / len(flags)}
    for name, flags in sorted(groups.items())
  }
  result = _result(
    'accuracy', scores, len(all_N), question_set.about, question_set.sha256
  )
  return result | {'subtasks': subtasks}


def run_ifeval(
  job: Job, answerer: Answerer | None, folder: Path, settings: Settings, origin
) -> dict[str, Any]:
  """Checks answers against their instructions: four shares."""
  del origin
  rows: list[dict[str, Any]] = job.data
  task_ids = ifeval.names(rows)
  samples = settings.samples_in(folder)
  if answerer is not None:
    prompt_ids = [_prompt(job.benchmark, row, answerer) for row in rows]
    generated = answerer.continuations(prompt_ids, text_answers.decoding(job.benchmark))
    text_answers.write(samples, task_ids, [answer.text for answer in generated])
  answers = text_scores.answers_of(samples, task_ids)
  verdicts = [
    ifeval.judge(row, answers[task_id])
    for task_id, row in zip(task_ids, rows, strict=True)
  ]
  folder.mkdir(parents=True, exist_ok=True)
  lines = [
    json.dumps({'key': row['key']} | verdict)
    for row, verdict in zip(rows, verdicts, strict=True)
  ]
  (folder / 'judged.jsonl').write_text('\n'.join(lines) + '\n')
  metric = ifeval.NUMBERS[0]
  right = [bool(verdict[metric]) for verdict in verdicts]
  text_scores.write_problems(folder, dict(zip(task_ids, right, strict=True)))
  scores = {}
  for name in ifeval.NUMBERS:
    flags = [np.atleast_1d(verdict[name]) for verdict in verdicts]
    right_N = np.array([np.sum(flag) for flag in flags])
    scores[name] = interval(right_N, np.array([len(flag) for flag in flags]))
  return _result(metric, scores, len(rows), 'IFEval', ifeval.digest(rows))


def _prompt(
  benchmark: Benchmark, row: Mapping[str, Any], answerer: Answerer
) -> list[int]:
  """The ids of an IFEval prompt in the benchmark's template."""
  template = 'plain' if benchmark.template == 'none' else benchmark.template
  turn = Turn('user', benchmark.prompt.format(prompt=row['prompt']))
  return prompts.question(template, (turn,), answerer.tokenizer)


def run_task(
  job: Job, answerer: Answerer | None, folder: Path, settings: Settings, origin
) -> dict[str, Any]:
  """Runs a task of lm-evaluation-harness."""
  del origin
  if answerer is None:
    raise ConfigError(f'{job.name} needs a model; give --model')
  benchmark, generation = job.benchmark, None
  if benchmark.decoding is not None:
    sampled = benchmark.decoding.temperature > 0
    generation = {
      'max_gen_toks': benchmark.decoding.max_new_tokens,
      'do_sample': sampled,
      'temperature': benchmark.decoding.temperature,
    } | ({'top_p': benchmark.decoding.top_p} if sampled else {})
    stops = postprocess.stops(benchmark.stops)
    generation |= {'until': list(stops)} if stops else {}
  outcome = harness.evaluate(
    answerer,
    benchmark.task,
    shots=benchmark.shots,
    limit=settings.limit,
    chat=benchmark.template == prompts.CHAT,
    generation=generation,
    data=settings.data,
    scratch=folder / 'tasks',
  )
  scores = {}
  for name, value in outcome.scores.items():
    ends, error = {}, outcome.errors.get(name)
    if error:
      ends = {'low': value - Z * error, 'high': value + Z * error}
    elif error == 0 and value in (0, 1):
      ends = wilson(value, outcome.count)
    scores[name] = {'value': value} | ends
  task = harness.TASKS.get(job.name)
  metric = task.metric if task and task.metric in scores else next(iter(scores))
  right = outcome.right.get(metric, {})
  if len(right) == outcome.count:
    text_scores.write_problems(folder, right)
  about = f'{benchmark.task}, lm-eval {outcome.version}'
  result = _result(metric, scores, outcome.count, about, outcome.data_sha256)
  return result | {'subtasks': dict(outcome.subtasks)}


def _result(metric, scores, count, data, sha256) -> dict[str, Any]:
  return {
    'metric': metric,
    'score': scores[metric]['value'],
    'interval': [scores[metric].get(end) for end in ('low', 'high')],
    'count': count,
    'scores': scores,
    'data': data,
    'data_sha256': sha256,
  }
