"""Our models in lm-evaluation-harness, and its tasks by the names of benchmarks.

The harness (extra `eval`) is imported when it is used. Its tasks read their data from
the Hugging Face hub or its cache; a folder of local data takes the hub's place: a
folder of a task's name in it with <split>.jsonl, or a task file (*.yaml) of that name.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from onlyif_jax.config import ConfigError
from onlyif_jax.evals import ifeval
from onlyif_jax.evals.answering import Answerer, Decoding
from onlyif_jax.models.generate import Sampling

TASK_FILES = Path(__file__).with_name('tasks')  # of benchmarks that the harness lacks
MAX_NEW_TOKENS = 256  # the harness's, where a task says nothing
BOOTSTRAP = 1000  # draws for metrics without a formula
_LENGTHS = ('max_gen_toks', 'max_new_tokens', 'max_tokens', 'max_completion_tokens')
_KNOWN = {*_LENGTHS, 'until', 'do_sample', 'temperature', 'top_p', 'top_k'}


@dataclasses.dataclass(frozen=True)
class Task:
  """A benchmark in lm-eval 0.4.13: its task or group, and the number that is quoted."""

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
class Found:
  """What a task gave: scores and standard errors by 'metric,filter', sizes, hash."""

  scores: Mapping[str, float]
  errors: Mapping[str, float]
  count: int
  data_sha256: str  # of the documents that were asked
  subtasks: Mapping[str, Mapping[str, float]]
  version: str  # of the harness
  # By 'metric,filter', whether each document is right; of metrics that say only that.
  right: Mapping[str, Mapping[str, bool]] = dataclasses.field(default_factory=dict)


def library() -> Any:
  """lm_eval; ConfigError where it is not installed."""
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
  """An `lm_eval.api.model.LM` of a model; its answers are kept in the model's book."""
  return _kind()(answerer)


@functools.cache
def _kind() -> type:
  base: Any = library().api.model.LM

  class HarnessModel(base):
    """A model of ours as the harness calls it."""

    def __init__(self, answerer: Answerer):
      super().__init__()
      self.answerer = answerer
      self.asked = False

    def loglikelihood(self, requests, **_):
      self.asked = True
      return self.answerer.loglikelihood([r.args for r in requests])

    def loglikelihood_rolling(self, requests, **_):
      self.asked = True
      return self.answerer.rolling([r.args[0] for r in requests])

    def generate_until(self, requests, **_):
      self.asked = True
      return self.answerer.until([(r.args[0], decoding(r.args[1])) for r in requests])

    def apply_chat_template(self, chat_history, add_generation_prompt=True) -> str:
      with _template(self.answerer):
        return self.answerer.hf.apply_chat_template(
          chat_history,
          tokenize=False,
          add_generation_prompt=add_generation_prompt,
          continue_final_message=not add_generation_prompt,
        )

    def chat_template(self, chat_template=False):
      if not chat_template:
        return None
      with _template(self.answerer):
        name = chat_template if isinstance(chat_template, str) else None
        return self.answerer.hf.get_chat_template(name)

    @property
    def tokenizer_name(self) -> str:
      return self.answerer.tokenizer.directory.replace('/', '__')

  return HarnessModel


@contextlib.contextmanager
def _template(answerer: Answerer) -> Iterator[None]:
  try:
    yield
  except Exception as e:  # a template may raise what it likes (jinja2)
    reason = str(e).splitlines()[0] if str(e) else type(e).__name__
    raise ConfigError(
      f'{answerer.tokenizer.directory}: its chat template cannot be used: {reason}'
    ) from None


def decoding(asked: Mapping[str, Any]) -> Decoding:
  """A task's generation_kwargs; ConfigError for what has no meaning here."""
  unknown = sorted(set(asked) - _KNOWN)
  if unknown:
    raise ConfigError(
      f'generation_kwargs {", ".join(unknown)} are not known; known are '
      f'{", ".join(sorted(_KNOWN))}'
    )
  until = asked.get('until') or []
  stops = (until,) if isinstance(until, str) else tuple(until)
  given = [int(asked[name]) for name in _LENGTHS if asked.get(name) is not None]
  temperature = float(asked.get('temperature') or 0.0)
  if asked.get('do_sample') is False or temperature == 0:
    sampling = Sampling()
  else:
    top = float(asked.get('top_p', 1.0)), int(asked.get('top_k', 0))
    sampling = Sampling(temperature, *top)
  return Decoding((given or [MAX_NEW_TOKENS])[0], stops, sampling)


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
) -> Found:
  """Runs a task or group by its name.

  shots: worked examples, None for the task's own number. chat: in the model's chat
  template. generation: replaces values of the tasks' generation_kwargs. data: a folder
  of local data; scratch: where task files that point there are written. Raises
  ConfigError for an unknown task and for data that cannot be had.
  """
  lm_eval = library()
  manager, spec = _manager(task, data, scratch)
  if task not in manager.all_tasks:
    raise ConfigError(f'lm-evaluation-harness has no task {task!r}; give another')
  if task == 'ifeval':
    ifeval.prepare()
  model = language_model(answerer)
  try:
    out = lm_eval.simple_evaluate(
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
    # All questions are made of the data before the first one is asked. What fails on
    # the way is of many kinds: no network, a file, a split or a column that is missing.
    if model.asked:
      raise
    reason = ': '.join([type(e).__name__, *str(e).splitlines()[:1]])
    raise ConfigError(
      f'the data of {task} cannot be had ({reason}); without network give a folder '
      f'{task}/ with <split>.jsonl in --data'
    ) from e
  return _found(lm_eval, out, task)


@functools.cache
def _tasks(*paths: str) -> Any:
  """The harness's tasks and those of task files; finding them takes seconds."""
  return library().tasks.TaskManager(include_path=list(paths))


def _manager(task: str, data: Path | None, scratch: Path | None) -> tuple[Any, str]:
  """(the harness's tasks, ours and those that local data stand for, the task in it)."""
  paths = [str(TASK_FILES)]
  if data is not None and any(data.glob('*.yaml')):
    paths.append(str(data))
  manager = _tasks(*paths)
  folders = sorted(data.iterdir()) if data is not None and scratch is not None else []
  local = {}
  for folder in folders:
    files = {f.stem: str(f.resolve()) for f in sorted(folder.glob('*.jsonl'))}
    if files and folder.name in manager.all_subtasks:
      local[folder.name] = {
        'include': str(Path(manager.task_index[folder.name].yaml_path).resolve()),
        'task': folder.name,
        'dataset_path': 'json',
        'dataset_name': None,
        'dataset_kwargs': {'data_files': files},
      }
  for name, content in local.items():
    assert scratch is not None
    scratch.mkdir(parents=True, exist_ok=True)
    (scratch / f'{name}.yaml').write_text(yaml.safe_dump(content))
  if task in local:
    return manager, str(Path(str(scratch)) / f'{task}.yaml')
  if local and task in manager.all_groups:  # the group finds its tasks by name
    manager = _tasks(*paths, str(scratch))
  return manager, task


def _found(lm_eval, out: Mapping[str, Any], task: str) -> Found:
  samples = [(name, one) for name, some in out['samples'].items() for one in some]
  asked = sorted({(name, one['doc_id'], one['doc_hash']) for name, one in samples})
  scores, errors = _numbers(out['results'][task])
  return Found(
    scores,
    errors,
    len(asked),
    hashlib.sha256(json.dumps(asked).encode()).hexdigest(),
    {k: _numbers(v)[0] for k, v in out['results'].items() if k != task},
    lm_eval.__version__,
    _right(samples),
  )


def _right(samples: Iterable[tuple[str, Mapping[str, Any]]]):
  """'metric,filter' -> document -> whether it is right, of (task, its sample)."""
  out: dict[str, dict[str, bool]] = {}
  graded: set[str] = set()  # metrics with other values, too
  for task, one in samples:
    for metric in one.get('metrics', ()):
      name, value = f'{metric},{one["filter"]}', one[metric]
      if isinstance(value, bool | int | float) and value in (0, 1):
        out.setdefault(name, {})[f'{task}/{one["doc_id"]}'] = bool(value)
      else:
        graded.add(name)
  return {name: right for name, right in out.items() if name not in graded}


def _numbers(result: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, float]]:
  """(scores, standard errors) of a task, both under 'metric,filter'."""
  scores, errors = {}, {}
  for key, value in result.items():
    if ',' not in key or isinstance(value, str):
      continue
    kind = errors if '_stderr,' in key else scores
    kind[key.replace('_stderr,', ',')] = float(value)
  return scores, errors
