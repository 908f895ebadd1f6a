"""Evaluates a pretrained model on benchmarks under one protocol.

<out>/<benchmark>.json is the result; <out>/<benchmark>/ holds the model's answers, each
problem's verdict and, except for tasks of the harness, samples. The same command resumes
where it was stopped. Saved samples are scored without a model.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from onlyif_jax.analysis.table import Grid
from onlyif_jax.config import ConfigError
from onlyif_jax.corpora import prompts
from onlyif_jax.corpora.tokenizer import load_tokenizer
from onlyif_jax.evals import (
  answering,
  code,
  code_answers,
  harness,
  ifeval,
  problems,
  protocols,
  questions,
  sandbox,
  text_answers,
  text_scores,
)
from onlyif_jax.evals.answer_book import Book
from onlyif_jax.evals.answering import Answerer
from onlyif_jax.evals.jobs import (
  Job,
  Settings,
  run_code,
  run_ifeval,
  run_questions,
  run_task,
)
from onlyif_jax.evals.protocols import Benchmark, Protocol
from onlyif_jax.finetune import base as base_lib
from onlyif_jax.models import adapters, llama, pretrained
from onlyif_jax.provenance import provenance
from onlyif_jax.training import placement
from onlyif_jax.tuning_settings import DevicesConfig

_TOKENIZER_FILES = (
  'tokenizer*',
  'special_tokens_map.json',
  'chat_template*',
  'vocab.*',
)
_SANDBOXED = (*code_answers.SCORERS, *text_scores.SANDBOXED)
_IFEVAL_FILES = ('ifeval*.jsonl', 'input_data.jsonl')


def run(settings: Settings) -> list[dict[str, Any]]:
  """Runs or resumes all benchmarks; returns the results as written to the files.

  Raises ConfigError for unusable benchmarks or data and for a missing package or
  sandbox before the model is loaded, and for an unusable model.
  """
  jobs = plan(settings)
  if settings.samples is None:
    return execute(settings, jobs, *load(settings))
  origin = {'samples': settings.samples.name}
  return execute(settings, jobs, None, origin)


def plan(settings: Settings) -> list[Job]:
  """The jobs of a call; reads the data but no model. Raises ConfigError."""
  protocol = protocols.get(settings.protocol)
  if settings.data is not None and not settings.data.is_dir():
    raise ConfigError(f'--data={settings.data} is no directory')
  names = dict.fromkeys(name.strip() for name in settings.benchmarks)
  jobs = [job for name in names for job in _jobs(settings, protocol, name)]
  if not jobs:
    raise ConfigError(
      f'--benchmarks names none; {protocol.name} has {_benchmark_names(protocol)}'
    )
  for job in jobs:
    _check_samples(settings, job)
  if any(job.benchmark.scorer in _SANDBOXED for job in jobs):
    sandbox.detect(allow_network=settings.allow_network)
  return jobs


def execute(
  settings: Settings,
  jobs: Sequence[Job],
  answerer: Answerer | None,
  model: Mapping[str, Any],
) -> list[dict[str, Any]]:
  """Runs the jobs; model: the fields that identify it in results.

  Without an answerer the samples of the settings are scored.
  """
  protocol = protocols.get(settings.protocol)
  chat = any(job.benchmark.template == prompts.CHAT for job in jobs)
  if chat and answerer is not None and answerer.hf.chat_template is None:
    raise ConfigError(
      f'{settings.model} has no chat template, which protocol {protocol.name} asks in; '
      'copy chat_template.jinja there, or give another --protocol'
    )
  results = []
  for job in jobs:
    origin, folder = protocol.stamp() | dict(model), settings.out / job.name
    job_answerer = None
    if answerer is not None:
      origin |= {'seed': settings.seed}
      if settings.samples_each:
        origin |= {'samples_each': settings.samples_each}
      # The header refuses answers of another model or protocol.
      book = Book(folder / 'answers.jsonl', origin | {'benchmark': job.name})
      job_answerer = dataclasses.replace(answerer, book=book)
    outcome = job.run(job, job_answerer, folder, settings, origin)
    result = {'benchmark': job.name} | origin | {'limit': settings.limit} | outcome
    if settings.samples is not None:
      result['samples_sha256'] = code.samples_sha256(settings.samples)
    result['provenance'] = provenance()
    text = json.dumps(result, indent=1) + '\n'
    (settings.out / f'{job.name}.json').write_text(text)
    results.append(result)
  return results


def table(results: Sequence[Mapping[str, Any]]) -> Grid:
  """Scores in percent, with 95 % intervals over problems."""
  rows = []
  for result in results:
    for name, score in result['scores'].items():
      ends = [f'{100 * score[end]:.1f}' for end in ('low', 'high') if end in score]
      rows.append(
        (
          result['benchmark'],
          f'{name} *' if name == result['metric'] else name,
          f'{100 * score["value"]:.1f}',
          f'[{", ".join(ends)}]' if ends else '-',
          f'{result["count"]:,}',
          result['data'],
        )
      )
  stamp = f'{results[0]["protocol"]}, version {results[0]["protocol_version"]}'
  columns = ('', 'score (*: quoted)', '%', '95 % interval', 'problems', 'data')
  return Grid(f'Benchmarks under {stamp}', columns, tuple(rows))


def load(settings: Settings) -> tuple[Answerer, dict[str, Any]]:
  """The model, and the fields that identify it in results. Raises ConfigError."""
  path, devices = settings.model, settings.devices
  if path is None:
    raise ConfigError('--model is missing; give a directory, or --samples')
  available = jax.config.jax_num_cpu_devices  # pyright: ignore[reportAttributeAccessIssue]
  if available < devices:
    jax.config.update('jax_num_cpu_devices', devices)
  tokenizer = load_tokenizer(path)
  config, params = pretrained.load(path, dtype=settings.dtype)
  if tokenizer.size > config.vocab_size:
    raise ConfigError(
      f'{path}: its tokenizer has {tokenizer.size} ids, its model '
      f'{config.vocab_size}; use the tokenizer of this model'
    )
  digest, graphdef = base_lib.digest(path), llama.graphdef(config)
  adapter, quantize = settings.adapter, settings.quantize
  if adapter is not None or quantize != 'none':
    parts = adapters.attach(config, params, adapter, quantize, digest)
    graphdef, params = parts.graphdef, parts.weights()
  sharding = None
  if devices > 1:
    mesh = placement.make_mesh(DevicesConfig(data=devices))
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
    'tokenizer_sha256': _sha256(path, _TOKENIZER_FILES),
    'adapter_sha256': _sha256(settings.adapter, ('adapter_*',)),
    'dtype': settings.dtype,
    'quantize': settings.quantize,
  }


def _check_samples(settings: Settings, job: Job) -> None:
  """Raises ConfigError where a benchmark cannot use --samples or --samples_each."""
  saved, each, benchmark = settings.samples, settings.samples_each, job.benchmark
  if saved is not None and each:
    raise ConfigError('--samples are there already; leave --samples_each out')
  if saved is not None and not saved.exists():
    raise ConfigError(f'--samples={saved} is neither a file nor a folder')
  if saved is not None and benchmark.scorer == 'lm_eval':
    raise ConfigError(
      f'{job.name} is a task of lm-evaluation-harness, which scores no saved samples; '
      'give --model'
    )
  if not each or each == 1:
    return
  if benchmark.scorer not in code_answers.SCORERS:
    raise ConfigError(f'--samples_each is for benchmarks of code; {job.name} is none')
  if benchmark.decoding is None or benchmark.decoding.temperature == 0:
    raise ConfigError(
      f'--samples_each={each}: {settings.protocol} decodes {job.name} greedily, so all '
      'samples would be the same; give a protocol with a temperature'
    )


def _jobs(settings: Settings, protocol: Protocol, name: str) -> Iterator[Job]:
  """The jobs of one benchmark; its data is read here, so that errors come early."""
  benchmark, limit = protocol.benchmark(name), settings.limit
  if benchmark.scorer in code_answers.SCORERS:
    problem_sets = _problem_sets(settings, benchmark, name)
    for problem_set in problem_sets:
      job_name = name
      if len(problem_sets) > 1:
        job_name += f'-{Path(problem_set.path).name.split(".j")[0]}'
      selected = dict(list(problem_set.problems.items())[:limit])
      data = dataclasses.replace(problem_set, problems=selected)
      yield Job(job_name, benchmark, run_code, data)
  elif benchmark.scorer == 'ifeval':
    ifeval.prepare()
    yield Job(name, benchmark, run_ifeval, _ifeval_rows(settings.data)[:limit])
  elif benchmark.scorer == 'lm_eval':
    harness.library()
    yield Job(name, benchmark, run_task)
  else:
    if benchmark.scorer in text_scores.SANDBOXED:
      text_scores.prepare()
    question_set = questions.read(name, settings.data)
    for question in question_set.questions:  # refuses one without its worked examples
      text_answers.turns(benchmark, question)
    data = dataclasses.replace(question_set, questions=question_set.questions[:limit])
    yield Job(name, benchmark, run_questions, data)


def _problem_sets(settings: Settings, benchmark: Benchmark, name: str):
  """The sets of problems that the scorer can judge."""
  plus = benchmark.scorer == 'evalplus'
  if settings.data is None:
    candidates = [problems.read(name)]
  else:
    files = _json_files(settings.data.iterdir(), name)
    # Else at any depth, as in the Eurus suite's eval/ with its new_mbpp.json.
    files = files or _json_files(settings.data.rglob('*.json*'), name, f'new_{name}')
    candidates = [problems.read(name, file) for file in files]
  matching = [problem_set for problem_set in candidates if problem_set.plus == plus]
  if not matching:
    required = f"{name} with EvalPlus's tests" if plus else f'{name} as first published'
    raise ConfigError(
      f'--data={settings.data} has no file {name}*.jsonl of {required}, which protocol '
      f'{settings.protocol} scores by; put it there'
    )
  return matching


def _json_files(files: Iterable[Path], *beginnings: str) -> list[Path]:
  """JSON files with one of these beginnings of names, case ignored."""
  return sorted(
    file
    for file in files
    if file.name.lower().startswith(beginnings)
    and '.json' in file.name.lower()
    and file.is_file()
  )


def _ifeval_rows(data: Path | None) -> list[dict[str, Any]]:
  """The prompts of IFEval in a data folder, checked."""
  files: list[Path] = []
  if data is not None:
    files = [file for pattern in _IFEVAL_FILES for file in sorted(data.glob(pattern))]
    files = files or sorted(data.rglob(_IFEVAL_FILES[-1]))
  if len(files) != 1:
    raise ConfigError(
      f'--data={data} has {len(files)} files of IFEval; put its input_data.jsonl there'
    )
  rows = ifeval.read(files[0])
  ifeval.check(rows, files[0])
  return rows


def _sha256(folder: Path | None, patterns: Sequence[str]) -> str | None:
  """A hash of the files that match patterns; None without a folder."""
  if folder is None:
    return None
  digest = hashlib.sha256()
  for file in sorted({path for pattern in patterns for path in folder.glob(pattern)}):
    content = hashlib.sha256(file.read_bytes()).hexdigest()
    digest.update(f'{file.name}\0{content}\0'.encode())
  return digest.hexdigest()


def _benchmark_names(protocol: Protocol) -> str:
  return ', '.join(sorted(protocol.benchmarks))
