"""Our models in lm-evaluation-harness, and its tasks by the names of benchmarks.

The harness (extra `eval`) is imported on first use. Its tasks read their data from the
Hugging Face hub or its cache, unless a folder of local data has a folder of the task's
name with <split>.jsonl, or a task file (*.yaml) of that name.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from onlyif_jax.config import ConfigError
from onlyif_jax.evals import ifeval
from onlyif_jax.evals.answering import Answerer, Decoding
from onlyif_jax.models.generate import Sampling

TASK_FILES = Path(__file__).with_name('tasks')  # benchmarks that the harness lacks
MAX_NEW_TOKENS = 256  # the harness's, where a task says nothing
BOOTSTRAP = 1000  # draws for metrics without a formula
_LENGTHS = ('max_gen_toks', 'max_new_tokens', 'max_tokens', 'max_completion_tokens')
_GENERATION_KWARGS = {*_LENGTHS, 'until', 'do_sample', 'temperature', 'top_p', 'top_k'}


@dataclasses.dataclass(frozen=True)
class Task:
  """A benchmark in lm-eval 0.4.13: its task or group, and the metric to quote."""

  name: str
  metric: str


TASKS = {
  'mmlu': Task('mmlu', 'acc,none'),
  'gsm8k': Task('gsm8k', 'exact_match,strict-match'),
  'math': Task('minerva_math', 'exact_match,none'),
  'bbh': Task('bbh_cot_fewshot', 'exact_match,get-answer'),
  'ifeval': Task('ifeval', 'prompt_level_strict_acc,none'),
  'gsm-plus': Task('gsm_plus', 'exact_match,strict-match'),
  'asdiv': Task('asdiv', 'acc,none'),
  'svamp': Task('svamp', 'exact_match,none'),  # our task file
  'theoremqa': Task('theoremqa', 'exact_match,none'),  # our task file
}


@dataclasses.dataclass(frozen=True)
class TaskResult:
  """Scores of a task and their standard errors, by 'metric,filter'."""

  scores: Mapping[str, float]
  errors: Mapping[str, float]
  count: int
  data_sha256: str  # of the evaluated documents
  subtasks: Mapping[str, Mapping[str, float]]
  version: str  # of the harness
  # 'metric,filter' -> document -> whether it is right, for metrics with values 0 and 1 only.
  right: Mapping[str, Mapping[str, bool]] = dataclasses.field(default_factory=dict)


def library() -> Any:
  """lm_eval; raises ConfigError where it is not installed."""
  try:
    import lm_eval  # pyright: ignore[reportMissingImports]
    import lm_eval.api.model  # pyright: ignore[reportMissingImports]
    import lm_eval.tasks  # pyright: ignore[reportMissingImports]
  except ImportError as e:
    raise ConfigError(
      f"lm-evaluation-harness needs {e.name}: pip install 'onlyif_jax[eval]'"
    ) from None
  return lm_eval


def language_model(answerer: Answerer) -> Any:
  """An `lm_eval.api.model.LM` of a model, whose book keeps the answers."""
  return _model_class()(answerer)


@functools.cache
def _model_class() -> type:
  base: Any = library().api.model.LM

  class HarnessModel(base):
    """An Answerer with the harness's methods; tasks: those whose requests came."""

    def __init__(self, answerer: Answerer):
      super().__init__()
      self.answerer = answerer
      self.started = False
      self.tasks: set[str] = set()

    def _start(self, requests) -> None:
      self.started = True
      self.tasks |= {request.task_name for request in requests}

    def loglikelihood(self, requests, **_):
      self._start(requests)
      return self.answerer.loglikelihood([r.args for r in requests])

    def loglikelihood_rolling(self, requests, **_):
      self._start(requests)
      return self.answerer.rolling([r.args[0] for r in requests])

    def generate_until(self, requests, **_):
      self._start(requests)
      return self.answerer.until([(r.args[0], decoding(r.args[1])) for r in requests])

    def apply_chat_template(self, chat_history, add_generation_prompt=True) -> str:
      with _template_errors(self.answerer):
        return self.answerer.hf.apply_chat_template(
          chat_history,
          tokenize=False,
          add_generation_prompt=add_generation_prompt,
          continue_final_message=not add_generation_prompt,
        )

    def chat_template(self, chat_template=False):
      if not chat_template:
        return None
      with _template_errors(self.answerer):
        name = chat_template if isinstance(chat_template, str) else None
        return self.answerer.hf.get_chat_template(name)

    @property
    def tokenizer_name(self) -> str:
      return self.answerer.tokenizer.directory.replace('/', '__')

  return HarnessModel


@contextlib.contextmanager
def _template_errors(answerer: Answerer) -> Iterator[None]:
  try:
    yield
  except Exception as e:  # a jinja2 template may raise anything
    reason = str(e).splitlines()[0] if str(e) else type(e).__name__
    raise ConfigError(
      f'{answerer.tokenizer.directory}: its chat template cannot be used: {reason}'
    ) from None


def decoding(kwargs: Mapping[str, Any]) -> Decoding:
  """A task's generation_kwargs as a Decoding; ConfigError for unknown ones."""
  unknown = sorted(set(kwargs) - _GENERATION_KWARGS)
  if unknown:
    raise ConfigError(
      f'generation_kwargs {", ".join(unknown)} are not known; known are '
      f'{", ".join(sorted(_GENERATION_KWARGS))}'
    )
  until = kwargs.get('until') or []
  stops = (until,) if isinstance(until, str) else tuple(until)
  lengths = [int(kwargs[name]) for name in _LENGTHS if kwargs.get(name) is not None]
  temperature = float(kwargs.get('temperature') or 0.0)
  if kwargs.get('do_sample') is False or temperature == 0:
    sampling = Sampling()
  else:
    top_p, top_k = float(kwargs.get('top_p', 1.0)), int(kwargs.get('top_k', 0))
    sampling = Sampling(temperature, top_p, top_k)
  return Decoding((lengths or [MAX_NEW_TOKENS])[0], stops, sampling)


def evaluate(
  answerer: Answerer,
  task: str,
  *,
  shots: int | None = None,
  limit: int | None = None,
  chat: bool = False,
  generation: Mapping[str, Any] | None = None,
  data: Path | None = None,
  scratch: Path | None = None,
) -> TaskResult:
  """Runs a task or group by its name.

  shots: worked examples, None for the task's default. chat: use the model's chat
  template. generation: overrides the tasks' generation_kwargs. data: a folder of local
  data; scratch: where task files that point there are written. Raises ConfigError for
  an unknown task and for data that cannot be read.
  """
  lm_eval = library()
  manager, spec = _manager(task, data, scratch)
  if task not in manager.all_tasks:
    raise ConfigError(f'lm-evaluation-harness has no task {task!r}; give another')
  if task == 'ifeval':
    ifeval.prepare()
  model = language_model(answerer)
  try:
    results = lm_eval.simple_evaluate(
      model,
      tasks=[spec],
      num_fewshot=shots,
      limit=limit,
      bootstrap_iters=BOOTSTRAP,
      apply_chat_template=chat,
      fewshot_as_multiturn=chat,
      gen_kwargs=dict(generation) if generation else None,
      task_manager=manager,
    )
  except ConfigError:
    raise
  except Exception as e:
    error = _data_error(e, model, task, data)
    if error is None:
      raise
    raise error from e
  return _task_result(lm_eval, results, task)


def _data_error(error: Exception, model: Any, task: str, data: Path | None):
  """The ConfigError for an error caused by the data; None for other errors."""
  files = _local_files(data)
  used = [file for name in model.tasks or [task] for file in files.get(name, [])]
  absent = _absent_column(error, used, guess=model.started)
  kind = type(error).__name__
  if not model.started:
    # Many kinds of errors: no network, a missing file, split or column.
    reason = absent or ': '.join([kind, *str(error).splitlines()[:1]])
    return ConfigError(
      f'the data of {task} cannot be had ({reason}); without network give a folder '
      f'{task}/ with <split>.jsonl in --data'
    )
  if absent:  # all prompts were made, so only the scoring reads the column
    return ConfigError(
      f'{absent}, which the scoring of {task} reads ({kind}); give the file as '
      'published, the answers are kept'
    )
  return None


@functools.cache
def _tasks(*paths: str) -> Any:
  """The tasks of the harness and of task files; finding them takes seconds."""
  return library().tasks.TaskManager(include_path=list(paths))


def _manager(task: str, data: Path | None, scratch: Path | None) -> tuple[Any, str]:
  """(task manager, task) with local data in place of the hub's.

  The manager knows the harness's tasks, ours and those of local task files; the task is
  its name there, or the path of a task file that reads local data.
  """
  paths = [str(TASK_FILES)]
  if data is not None and any(data.glob('*.yaml')):
    paths.append(str(data))
  manager = _tasks(*paths)
  local_tasks = {}
  for name, files in _local_files(data).items() if scratch is not None else ():
    if name in manager.all_subtasks:
      local_tasks[name] = {
        'include': str(Path(manager.task_index[name].yaml_path).resolve()),
        'task': name,
        'dataset_path': 'json',
        'dataset_name': None,
        'dataset_kwargs': {'data_files': {f.stem: str(f.resolve()) for f in files}},
      }
  for name, content in local_tasks.items():
    assert scratch is not None
    scratch.mkdir(parents=True, exist_ok=True)
    (scratch / f'{name}.yaml').write_text(yaml.safe_dump(content))
  if task in local_tasks:
    return manager, str(Path(str(scratch)) / f'{task}.yaml')
  if local_tasks and task in manager.all_groups:  # the group finds its tasks by name
    manager = _tasks(*paths, str(scratch))
  return manager, task


def _local_files(data: Path | None) -> dict[str, list[Path]]:
  """Folder of a task -> its files <split>.jsonl, in a folder of local data."""
  if data is None:
    return {}
  files = {folder.name: sorted(folder.glob('*.jsonl')) for folder in data.iterdir()}
  return {name: files[name] for name in sorted(files) if files[name]}


def _absent_column(error: Exception, files: Iterable[Path], *, guess: bool) -> str:
  """Where local files lack the column that an error is about; '' if nowhere.

  A KeyError and jinja2's UndefinedError name the column. Where only some lines lack it,
  `datasets` fills it with None, which may end in any error; guess: name such a column.
  """
  undefined = re.match(r"'(\w+)' is undefined", str(error))
  column = undefined.group(1) if undefined else None
  if isinstance(error, KeyError) and error.args:
    column = str(error.args[0])
  if column is None and not guess:
    return ''
  for file in files:
    rows = _rows(file)
    columns = sorted({name for row in rows for name in row})
    for name in columns if column is None else [column]:
      lines = [n for n, row in enumerate(rows, start=1) if row.get(name) is None]
      if lines and (column is not None or len(lines) < len(rows)):
        return f'{file}: line {lines[0]} has no {name!r}'
  return ''


def _rows(file: Path) -> list[dict[str, Any]]:
  """The rows of JSON lines; none where a line is malformed."""
  try:
    lines = file.read_text('utf-8').split('\n')
    rows = [json.loads(line) for line in lines if line.strip()]
  except (OSError, ValueError):
    return []
  return rows if all(isinstance(row, dict) for row in rows) else []


def _task_result(lm_eval, results: Mapping[str, Any], task: str) -> TaskResult:
  samples = [(name, s) for name, rows in results['samples'].items() for s in rows]
  documents = sorted({(name, s['doc_id'], s['doc_hash']) for name, s in samples})
  scores, errors = _numbers(results['results'][task])
  return TaskResult(
    scores,
    errors,
    len(documents),
    hashlib.sha256(json.dumps(documents).encode()).hexdigest(),
    {k: _numbers(v)[0] for k, v in results['results'].items() if k != task},
    lm_eval.__version__,
    _right(samples),
  )


def _right(samples: Iterable[tuple[str, Mapping[str, Any]]]):
  """'metric,filter' -> document -> whether it is right; samples: (task, sample)."""
  by_metric: dict[str, dict[str, bool]] = {}
  graded: set[str] = set()  # metrics with values other than 0 and 1
  for task, sample in samples:
    for metric in sample.get('metrics', ()):
      name, value = f'{metric},{sample["filter"]}', sample[metric]
      if isinstance(value, bool | int | float) and value in (0, 1):
        by_metric.setdefault(name, {})[f'{task}/{sample["doc_id"]}'] = bool(value)
      else:
        graded.add(name)
  return {name: right for name, right in by_metric.items() if name not in graded}


def _numbers(result: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, float]]:
  """(scores, standard errors) of a task, both under 'metric,filter'."""
  scores, errors = {}, {}
  for key, value in result.items():
    if ',' not in key or isinstance(value, str):
      continue
    target = errors if '_stderr,' in key else scores
    target[key.replace('_stderr,', ',')] = float(value)
  return scores, errors
