"""Jobs: one benchmark on one set of data, from the model's answers to the result.

A job works in a folder of its own. Samples and verdicts stay there, and problems.csv
with each problem's count, by which two models can be compared.
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
  """One call; paths are directories, None where nothing is given."""

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
  samples: Path | None = None  # a file or folder to score; then there is no model
  samples_each: int | None = None  # of a problem; None: as the protocol says


@dataclasses.dataclass(frozen=True)
class Job:
  """One benchmark on one set of data; `run` does it.

  run: (job, the model or None where samples are given, folder, settings, what every
  result names) -> the result's scores.
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
  """Programs against tests: pass@k."""
  own: ProblemSet = job.data
  samples = settings.samples or folder / 'samples.jsonl'
  if answerer is not None:
    each = settings.samples_each
    code_answers.generate(answerer, own, job.benchmark, samples, each)
  scores = code.score(
    samples,
    own,
    folder / 'scores',
    origin=origin,
    times=job.benchmark.limits,
    workers=settings.workers,
    isolation=sandbox.detect(allow_network=settings.allow_network),
  )
  count_N = np.array([row['samples'] for row in scores.rows])
  out = {}
  for suite, values in scores.pass_at.items():
    right_N = np.array([row[f'{suite}_correct'] for row in scores.rows])
    out[f'{suite} pass@1'] = interval(right_N, count_N)
    more = {f'{suite} pass@{k}': {'value': v} for k, v in values.items() if k > 1}
    out |= more
  metric = list(scores.pass_at)[-1]  # plus where there is one
  return _result(f'{metric} pass@1', out, len(count_N), own.version, own.sha256)


def run_questions(
  job: Job, answerer: Answerer | None, folder: Path, settings: Settings, origin
) -> dict[str, Any]:
  """Answers against references: accuracy, of the groups of questions, too."""
  own: QuestionSet = job.data
  samples = settings.samples or folder / 'samples.jsonl'
  if answerer is not None:
    text_answers.generate(answerer, own, job.benchmark, samples)
  right = text_scores.score(
    samples,
    own,
    job.benchmark.scorer,
    folder / 'scores',
    origin=origin,
    times=job.benchmark.limits,
    workers=settings.workers,
    allow_network=settings.allow_network,
  )
  groups: dict[str, list[bool]] = {}
  for question in own.questions:
    for group in ('', *question.groups):
      groups.setdefault(group, []).append(right[question.task_id])
  all_N = np.array(groups.pop(''))
  scores = {'accuracy': interval(all_N, np.ones_like(all_N, int))}
  parts = {name: {'accuracy': sum(x) / len(x)} for name, x in sorted(groups.items())}
  result = _result('accuracy', scores, len(all_N), own.about, own.sha256)
  return result | {'subtasks': parts}


def run_ifeval(
  job: Job, answerer: Answerer | None, folder: Path, settings: Settings, origin
) -> dict[str, Any]:
  """Answers against instructions that a program checks: four shares."""
  del origin
  rows = job.data
  names = ifeval.names(rows)
  samples = settings.samples or folder / 'samples.jsonl'
  if answerer is not None:
    asked = [_prompt(job.benchmark, row, answerer) for row in rows]
    found = answerer.continuations(asked, text_answers.decoding(job.benchmark))
    text_answers.write(samples, names, [one.text for one in found])
  answers = text_scores.answers_of(samples, names)
  judged = [
    ifeval.judge(row, answers[name]) for name, row in zip(names, rows, strict=True)
  ]
  folder.mkdir(parents=True, exist_ok=True)
  lines = [json.dumps({'key': r['key']} | j) for r, j in zip(rows, judged, strict=True)]
  (folder / 'judged.jsonl').write_text('\n'.join(lines) + '\n')
  quoted = ifeval.NUMBERS[0]
  whole = {name: bool(one[quoted]) for name, one in zip(names, judged, strict=True)}
  text_scores.write_problems(folder, whole)
  scores = {}
  for name in ifeval.NUMBERS:
    flags = [np.atleast_1d(one[name]) for one in judged]
    right_N, count_N = ([f(x) for x in flags] for f in (np.sum, len))
    scores[name] = interval(np.array(right_N), np.array(count_N))
  return _result(quoted, scores, len(rows), 'IFEval', ifeval.digest(rows))


def _prompt(own: Benchmark, row: Mapping[str, Any], answerer: Answerer) -> list[int]:
  """The ids that a prompt of IFEval is asked with."""
  template = 'plain' if own.template == 'none' else own.template
  turn = Turn('user', own.prompt.format(prompt=row['prompt']))
  return prompts.question(template, (turn,), answerer.tokenizer)


def run_task(
  job: Job, answerer: Answerer | None, folder: Path, settings: Settings, origin
) -> dict[str, Any]:
  """A task of lm-evaluation-harness."""
  del origin
  if answerer is None:
    raise ConfigError(f'{job.name} needs a model; give --model')
  own, generation = job.benchmark, None
  if own.decoding is not None:
    sampled = own.decoding.temperature > 0
    generation = {
      'max_gen_toks': own.decoding.max_new_tokens,
      'do_sample': sampled,
      'temperature': own.decoding.temperature,
    } | ({'top_p': own.decoding.top_p} if sampled else {})
    stops = postprocess.stops(own.stops)
    generation |= {'until': list(stops)} if stops else {}
  found = harness.evaluate(
    answerer,
    own.task,
    shots=own.shots,
    limit=settings.limit,
    chat=own.template == prompts.CHAT,
    generation=generation,
    data=settings.data,
    scratch=folder / 'tasks',
  )
  scores = {}
  for name, value in found.scores.items():
    ends, error = {}, found.errors.get(name)
    if error:
      ends = {'low': value - Z * error, 'high': value + Z * error}
    elif error == 0 and value in (0, 1):
      ends = wilson(value, found.count)
    scores[name] = {'value': value} | ends
  wanted = harness.TASKS.get(job.name)
  quoted = wanted.metric if wanted and wanted.metric in scores else next(iter(scores))
  right = found.right.get(quoted, {})
  if len(right) == found.count:
    text_scores.write_problems(folder, right)
  about = f'{own.task}, lm-eval {found.version}'
  result = _result(quoted, scores, found.count, about, found.data_sha256)
  return result | {'subtasks': dict(found.subtasks)}


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
