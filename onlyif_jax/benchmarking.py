"""A pretrained model on benchmarks under one protocol, one result file for each.

<out>/<benchmark>.json is the result; <out>/<benchmark>/ holds the model's answers and,
but for tasks of the harness, samples and verdicts. The same command goes on where it
was stopped.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from onlyif_jax.analysis.table import Grid
from onlyif_jax.config import ConfigError
from onlyif_jax.corpora import prompts
from onlyif_jax.corpora.rows import Turn
from onlyif_jax.corpora.tokenizer import load_tokenizer
from onlyif_jax.evals import (
  answering,
  code,
  code_answers,
  harness,
  ifeval,
  postprocess,
  problems,
  protocols,
  questions,
  sandbox,
  text_answers,
  text_scores,
)
from onlyif_jax.evals.answer_book import Book
from onlyif_jax.evals.answering import Answerer, Decoding
from onlyif_jax.evals.problems import ProblemSet
from onlyif_jax.evals.protocols import Benchmark, Protocol
from onlyif_jax.evals.questions import QuestionSet
from onlyif_jax.evals.shares import Z, interval, wilson
from onlyif_jax.finetune import base as base_lib
from onlyif_jax.models import adapters, llama, pretrained
from onlyif_jax.models.generate import Sampling
from onlyif_jax.provenance import provenance
from onlyif_jax.training import placement
from onlyif_jax.tuning_settings import DevicesConfig

_WORDS = ('tokenizer*', 'special_tokens_map.json', 'chat_template*', 'vocab.*')
_SANDBOXED = (*code_answers.SCORERS, *text_scores.SANDBOXED)
_IFEVAL = ('ifeval*.jsonl', 'input_data.jsonl')


@dataclasses.dataclass(frozen=True)
class Settings:
  """One call; paths are directories, None where nothing is given."""

  model: Path
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


@dataclasses.dataclass(frozen=True)
class Job:
  """One benchmark on one set of data; `run` does it in a folder of its own."""

  name: str
  benchmark: Benchmark
  run: Callable[['Job', Answerer, Path, Mapping[str, Any]], dict[str, Any]]
  data: Any = None  # a ProblemSet, a QuestionSet, or rows


def run(settings: Settings) -> list[dict[str, Any]]:
  """Runs or resumes all; the results, as they are in the files.

  Raises ConfigError, before the model is read, for benchmarks, data, packages or a
  sandbox that cannot be had, and then for the model.
  """
  jobs = plan(settings)
  return execute(settings, jobs, *load(settings))


def plan(settings: Settings) -> list[Job]:
  """What is to be done; reads the data, no model. Raises ConfigError."""
  protocol = protocols.get(settings.protocol)
  if settings.data is not None and not settings.data.is_dir():
    raise ConfigError(f'--data={settings.data} is no directory')
  named = dict.fromkeys(name.strip() for name in settings.benchmarks)
  jobs = [job for name in named for job in _jobs(settings, protocol, name)]
  if not jobs:
    raise ConfigError(f'--benchmarks names none; {protocol.name} has {_some(protocol)}')
  if any(job.benchmark.scorer in _SANDBOXED for job in jobs):
    sandbox.detect(allow_network=settings.allow_network)
  return jobs


def execute(
  settings: Settings, jobs: Sequence[Job], answerer: Answerer, model: Mapping[str, Any]
) -> list[dict[str, Any]]:
  """Does the jobs with a model in memory; model: what results say of it."""
  protocol = protocols.get(settings.protocol)
  if any(job.benchmark.template == prompts.CHAT for job in jobs) and (
    answerer.hf.chat_template is None
  ):
    raise ConfigError(
      f'{settings.model} has no chat template, which protocol {protocol.name} asks in; '
      'copy chat_template.jinja there, or give another --protocol'
    )
  results = []
  for job in jobs:
    origin = protocol.stamp() | dict(model) | {'seed': settings.seed}
    folder = settings.out / job.name
    # Asked with another model or protocol, the answers would be others.
    book = Book(folder / 'answers.jsonl', origin | {'benchmark': job.name})
    own = dataclasses.replace(answerer, book=book)
    found = job.run(job, own, folder, {'settings': settings, 'origin': origin})
    result = {'benchmark': job.name} | origin | {'limit': settings.limit} | found
    result['provenance'] = provenance()
    text = json.dumps(result, indent=1) + '\n'
    (settings.out / f'{job.name}.json').write_text(text)
    results.append(result)
  return results


def table(results: Sequence[Mapping[str, Any]]) -> Grid:
  """Scores in per cent, with 95 % intervals over problems."""
  rows = []
  for result in results:
    for name, one in result['scores'].items():
      ends = [f'{100 * one[end]:.1f}' for end in ('low', 'high') if end in one]
      star = ' *' if name == result['metric'] else ''
      value = f'{100 * one["value"]:.1f}', f'[{", ".join(ends)}]' if ends else '-'
      about = f'{result["count"]:,}', result['data']
      rows.append((result['benchmark'], name + star, *value, *about))
  stamp = f'{results[0]["protocol"]}, version {results[0]["protocol_version"]}'
  columns = ('', 'score (*: quoted)', '%', '95 % interval', 'problems', 'data')
  return Grid(f'Benchmarks under {stamp}', columns, tuple(rows))


def load(settings: Settings) -> tuple[Answerer, dict[str, Any]]:
  """The model, and what results say of it; ConfigError, one line."""
  path, n = settings.model, settings.devices
  have = jax.config.jax_num_cpu_devices  # pyright: ignore[reportAttributeAccessIssue]
  if have < n:
    jax.config.update('jax_num_cpu_devices', n)
  tokenizer = load_tokenizer(path)
  config, params = pretrained.load(path, dtype=settings.dtype)
  if tokenizer.size > config.vocab_size:
    raise ConfigError(
      f'{path}: its tokenizer has {tokenizer.size} ids, its model '
      f'{config.vocab_size}; use the tokenizer of this model'
    )
  digest, graphdef = base_lib.digest(path), llama.graphdef(config)
  own, quantize = settings.adapter, settings.quantize
  if own is not None or quantize != 'none':
    parts = adapters.attach(config, params, own, quantize, digest)
    graphdef, params = parts.graphdef, parts.weights()
  sharding = None
  if n > 1:
    mesh = placement.make_mesh(DevicesConfig(data=n))
    params = jax.device_put(params, placement.place(mesh, params))
    sharding = placement.batch(mesh)
  answerer = Answerer(
    graphdef,
    params,
    tokenizer,
    stop_ids=answering.stop_ids(tokenizer),
    batch_size=settings.batch_size,
    seed=settings.seed,
    sharding=sharding,
  )
  return answerer, {
    'model': path.name,
    'model_sha256': digest,
    'tokenizer_sha256': _sha256(path, _WORDS),
    'adapter_sha256': _sha256(settings.adapter, ('adapter_*',)),
    'dtype': settings.dtype,
    'quantize': settings.quantize,
  }


def _jobs(settings: Settings, protocol: Protocol, name: str) -> Iterator[Job]:
  """The work of one benchmark; its data is read here, so that errors come first."""
  benchmark, limit = protocol.benchmark(name), settings.limit
  if benchmark.scorer in code_answers.SCORERS:
    sets = _problem_sets(settings, benchmark, name)
    for own in sets:
      few = dict(list(own.problems.items())[:limit])
      called = (
        name if len(sets) == 1 else f'{name}-{Path(own.path).name.split(".j")[0]}'
      )
      yield Job(called, benchmark, _run_code, dataclasses.replace(own, problems=few))
  elif benchmark.scorer == 'ifeval':
    ifeval.prepare()
    yield Job(name, benchmark, _run_ifeval, _ifeval_rows(settings.data)[:limit])
  elif benchmark.scorer == 'lm_eval':
    harness.library()
    yield Job(name, benchmark, _run_task)
  else:
    if benchmark.scorer in text_scores.SANDBOXED:
      text_scores.prepare()
    asked = questions.read(name, settings.data)
    for question in asked.questions:  # that each has its worked examples
      text_answers.turns(benchmark, question)
    few = dataclasses.replace(asked, questions=asked.questions[:limit])
    yield Job(name, benchmark, _run_questions, few)


def _problem_sets(settings: Settings, benchmark: Benchmark, name: str):
  """The sets of problems that the scorer can judge."""
  plus = benchmark.scorer == 'evalplus'
  if settings.data is None:
    found = [problems.read(name)]
  else:
    files = _named(settings.data.iterdir(), name)
    # Else anywhere below, as in the Eurus suite's eval/ with its new_mbpp.json.
    files = files or _named(settings.data.rglob('*.json*'), name, f'new_{name}')
    found = [problems.read(name, f) for f in files]
  sets = [own for own in found if own.plus == plus]
  if not sets:
    wanted = f"{name} with EvalPlus's tests" if plus else f'{name} as first published'
    raise ConfigError(
      f'--data={settings.data} has no file {name}*.jsonl of {wanted}, which protocol '
      f'{settings.protocol} scores by; put it there'
    )
  return sets


def _named(files: Iterable[Path], *beginnings: str) -> list[Path]:
  """JSON files whose names begin so."""
  return sorted(
    f
    for f in files
    if f.name.lower().startswith(beginnings)
    and '.json' in f.name.lower()
    and f.is_file()
  )


def _ifeval_rows(data: Path | None) -> list[dict[str, Any]]:
  files = [f for form in _IFEVAL for f in sorted(data.glob(form))] if data else []
  files = files or (sorted(data.rglob(_IFEVAL[-1])) if data else [])
  if len(files) != 1:
    raise ConfigError(
      f'--data={data} has {len(files)} files of IFEval; put its input_data.jsonl there'
    )
  return ifeval.read(files[0])


def _run_code(job: Job, answerer, folder: Path, told) -> dict[str, Any]:
  own: ProblemSet = job.data
  settings: Settings = told['settings']
  samples = folder / 'samples.jsonl'
  code_answers.generate(answerer, own, job.benchmark, samples)
  scores = code.score(
    samples,
    own,
    folder / 'scores',
    origin=told['origin'],
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


def _run_questions(job: Job, answerer, folder: Path, told) -> dict[str, Any]:
  own: QuestionSet = job.data
  settings: Settings = told['settings']
  samples = folder / 'samples.jsonl'
  text_answers.generate(answerer, own, job.benchmark, samples)
  right = text_scores.score(
    samples,
    own,
    job.benchmark.scorer,
    folder / 'scores',
    origin=told['origin'],
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


def _run_ifeval(job: Job, answerer, folder: Path, told) -> dict[str, Any]:
  rows, own = job.data, job.benchmark
  assert own.decoding is not None
  ids = [
    prompts.question(
      'plain' if own.template == 'none' else own.template,
      (Turn('user', own.prompt.format(prompt=row['prompt'])),),
      answerer.tokenizer,
    )
    for row in rows
  ]
  sampling = Sampling(own.decoding.temperature, own.decoding.top_p)
  stops = postprocess.stops(own.stops)
  how = Decoding(own.decoding.max_new_tokens, stops, sampling)
  texts = [one.text for one in answerer.continuations(ids, how)]
  judged = [ifeval.judge(row, text) for row, text in zip(rows, texts, strict=True)]
  lines = [json.dumps({'key': r['key']} | j) for r, j in zip(rows, judged, strict=True)]
  (folder / 'judged.jsonl').write_text('\n'.join(lines) + '\n')
  scores = {}
  for name in ifeval.NUMBERS:
    flags = [np.atleast_1d(one[name]) for one in judged]
    right_N, count_N = ([f(x) for x in flags] for f in (np.sum, len))
    scores[name] = interval(np.array(right_N), np.array(count_N))
  return _result(ifeval.NUMBERS[0], scores, len(rows), 'IFEval', ifeval.digest(rows))


def _run_task(job: Job, answerer, folder: Path, told) -> dict[str, Any]:
  own, settings = job.benchmark, told['settings']
  generation = None
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


def _sha256(folder: Path | None, forms: Sequence[str]) -> str | None:
  """Of the files of some names in a folder."""
  if folder is None:
    return None
  out = hashlib.sha256()
  for file in sorted({f for form in forms for f in folder.glob(form)}):
    content = hashlib.sha256(file.read_bytes()).hexdigest()
    out.update(f'{file.name}\0{content}\0'.encode())
  return out.hexdigest()


def _some(protocol: Protocol) -> str:
  return ', '.join(sorted(protocol.benchmarks))
