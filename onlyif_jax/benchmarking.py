"""A pretrained model on benchmarks under one protocol, one result file for each.

<out>/<benchmark>.json is the result; <out>/<benchmark>/ holds the model's answers, each
problem's verdict and, but for tasks of the harness, samples. The same command goes on
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

_WORDS = ('tokenizer*', 'special_tokens_map.json', 'chat_template*', 'vocab.*')
_SANDBOXED = (*code_answers.SCORERS, *text_scores.SANDBOXED)
_IFEVAL = ('ifeval*.jsonl', 'input_data.jsonl')


def run(settings: Settings) -> list[dict[str, Any]]:
  """Runs or resumes all; the results, as they are in the files.

  Raises ConfigError, before the model is read, for benchmarks, data, packages or a
  sandbox that cannot be had, and then for the model.
  """
  jobs = plan(settings)
  if settings.samples is None:
    return execute(settings, jobs, *load(settings))
  told = {'samples': settings.samples.name}
  return execute(settings, jobs, None, told)


def plan(settings: Settings) -> list[Job]:
  """What is to be done; reads the data, no model. Raises ConfigError."""
  protocol = protocols.get(settings.protocol)
  if settings.data is not None and not settings.data.is_dir():
    raise ConfigError(f'--data={settings.data} is no directory')
  named = dict.fromkeys(name.strip() for name in settings.benchmarks)
  jobs = [job for name in named for job in _jobs(settings, protocol, name)]
  if not jobs:
    raise ConfigError(f'--benchmarks names none; {protocol.name} has {_some(protocol)}')
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
  """Does the jobs with a model in memory; model: what results say of it.

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
    own = None
    if answerer is not None:
      origin |= {'seed': settings.seed}
      if settings.samples_each:
        origin |= {'samples_each': settings.samples_each}
      # Asked with another model or protocol, the answers would be others.
      book = Book(folder / 'answers.jsonl', origin | {'benchmark': job.name})
      own = dataclasses.replace(answerer, book=book)
    found = job.run(job, own, folder, settings, origin)
    result = {'benchmark': job.name} | origin | {'limit': settings.limit} | found
    if settings.samples is not None:
      result['samples_sha256'] = code.samples_sha256(settings.samples)
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
  if path is None:
    raise ConfigError('--model is missing; give a directory, or --samples')
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


def _check_samples(settings: Settings, job: Job) -> None:
  """ConfigError where samples, saved or asked for, cannot be had of a benchmark."""
  saved, each, own = settings.samples, settings.samples_each, job.benchmark
  if saved is not None and each:
    raise ConfigError('--samples are there already; leave --samples_each out')
  if saved is not None and not saved.exists():
    raise ConfigError(f'--samples={saved} is neither a file nor a folder')
  if saved is not None and own.scorer == 'lm_eval':
    raise ConfigError(
      f'{job.name} is a task of lm-evaluation-harness, which scores no saved samples; '
      'give --model'
    )
  if not each or each == 1:
    return
  if own.scorer not in code_answers.SCORERS:
    raise ConfigError(f'--samples_each is for benchmarks of code; {job.name} is none')
  if own.decoding is None or own.decoding.temperature == 0:
    raise ConfigError(
      f'--samples_each={each}: {settings.protocol} decodes {job.name} greedily, so all '
      'samples would be the same; give a protocol with a temperature'
    )


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
      yield Job(called, benchmark, run_code, dataclasses.replace(own, problems=few))
  elif benchmark.scorer == 'ifeval':
    ifeval.prepare()
    yield Job(name, benchmark, run_ifeval, _ifeval_rows(settings.data)[:limit])
  elif benchmark.scorer == 'lm_eval':
    harness.library()
    yield Job(name, benchmark, run_task)
  else:
    if benchmark.scorer in text_scores.SANDBOXED:
      text_scores.prepare()
    asked = questions.read(name, settings.data)
    for question in asked.questions:  # that each has its worked examples
      text_answers.turns(benchmark, question)
    few = dataclasses.replace(asked, questions=asked.questions[:limit])
    yield Job(name, benchmark, run_questions, few)


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
