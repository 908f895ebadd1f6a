"""Scores a file of answers to questions offline, any number of times.

Every verdict is written at once, so a scoring that was killed resumes where it stopped.
Programs in answers run in the sandbox, and so do mathematical comparisons, since sympy
evaluates what it parses.
"""

import csv
import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from onlyif_jax.config import ConfigError
from onlyif_jax.evals import latex_forms, sandbox, typed_answers
from onlyif_jax.evals import sandbox_plain as plain
from onlyif_jax.evals.answer_book import Verdicts
from onlyif_jax.evals.code import Times
from onlyif_jax.evals.questions import Question, QuestionSet
from onlyif_jax.evals.sandbox import Isolation, Job, Limits, Record, Status

SCORERS = ('boxed', 'printed', 'contains', 'first_letter')
SANDBOXED = ('boxed', 'printed')  # need the sandbox and _PACKAGES
_PACKAGES = ('sympy', 'pylatexenc', 'antlr4-python3-runtime')
_MODULES = ('latex_forms', 'latex_answers', 'typed_answers')
_COLUMNS = ('task_id', 'samples', 'correct')
CHUNK = 64  # comparisons in a cell, which takes a second to import sympy
_STEPS = 10  # the most steps of a comparison
_OUTPUT_BYTES = 1 << 20  # bytes of what a program prints that are compared
# Only stdout counts; `exec`, since a program may begin with `from __future__`.
_PROGRAM_WRAPPER = """
import io, sys
sys.stderr = io.StringIO()
exec(compile({text!r}, 'answer.py', 'exec'))
"""
# Loads the comparing modules from their texts and defines one function.
_COMPARISON = """
import logging, sys, types
logging.disable(logging.CRITICAL)
for name, text in {modules!r}:
  module = types.ModuleType('onlyif_jax.evals.' + name)
  exec(compile(text, name, 'exec'), vars(module))
  sys.modules[module.__name__] = module
from onlyif_jax.evals import latex_answers, typed_answers
if {warm}:  # what the parsers build at first is no step's time
  latex_answers.equal(r'\\sqrt{{x}}', r'\\frac{{1}}{{2}}', 60.0)
def judge(answer, reference, kind, seconds):
  if kind:
    return bool(typed_answers.equal(answer, reference, kind))
  return bool(latex_answers.equal(answer, reference, seconds))
"""


def prepare() -> dict[str, str]:
  """Versions of the packages that compare mathematics; ConfigError without them."""
  try:
    return {name: importlib.metadata.version(name) for name in _PACKAGES}
  except importlib.metadata.PackageNotFoundError as e:
    raise ConfigError(
      f"answers in LaTeX need {e.name}: pip install 'onlyif_jax[eval]'"
    ) from None


def read_answers(path: str | os.PathLike) -> dict[str, str]:
  """task_id -> answer; raises ConfigError naming a malformed line."""
  try:
    text = Path(path).read_text(encoding='utf-8')
  except (OSError, UnicodeDecodeError) as e:
    reason = getattr(e, 'strerror', None) or 'no UTF-8'
    raise ConfigError(f'{path} cannot be read ({reason}); generate samples') from None
  answers: dict[str, str] = {}
  for n, line in enumerate(text.split('\n'), start=1):
    if not line.strip():
      continue
    try:
      row = json.loads(line)
      task_id, answer = row['task_id'], row['answer']
      valid = (
        isinstance(task_id, str) and isinstance(answer, str) and task_id not in answers
      )
    except (ValueError, KeyError, TypeError):
      valid = False
    if not valid:
      raise ConfigError(
        f'{path}: line {n} is no sample; each line is a JSON object with a task_id of '
        'its own and answer'
      )
    answers[task_id] = answer
  return answers


def answers_of(samples: str | os.PathLike, task_ids: Sequence[str]) -> dict[str, str]:
  """`read_answers`; raises ConfigError where one of these task_ids has no answer."""
  answers = read_answers(samples)
  missing = set(task_ids) - set(answers)
  if missing:
    raise ConfigError(
      f'{samples} has no answer to {len(missing)} of {len(task_ids)} questions, such '
      f'as {min(missing)}; generate the rest'
    )
  return answers


def score(
  samples: str | os.PathLike,
  question_set: QuestionSet,
  scorer: str,
  folder: str | os.PathLike,
  *,
  origin: Mapping[str, Any],
  times: Times | None = None,
  workers: int = 1,
  allow_network: bool = False,
) -> dict[str, bool]:
  """Judges a file of answers: task_id -> whether its answer is right.

  Writes judged.json and problems.csv into a folder. scorer: one of SCORERS. times: CPU
  seconds, `least` of a step of a comparison, `most` of a program. origin: the protocol
  and its hash, hashes of model and adapter, the seed. A folder with verdicts of another
  origin is refused.
  """
  times = times or Times()
  answers = answers_of(samples, [q.task_id for q in question_set.questions])
  folder = Path(folder)
  header: dict[str, Any] = {'data_sha256': question_set.sha256, 'scorer': scorer}
  header |= {'origin': dict(origin)}
  if scorer in SANDBOXED:
    header |= {'times': dataclasses.asdict(times), 'packages': prepare()}
    header |= {'python': sys.version.split()[0]}
    isolation = sandbox.detect(allow_network=allow_network)
    run = _Scoring(Verdicts(folder, header), times, workers, isolation)
    right = run.judge(question_set.questions, answers, programs=scorer == 'printed')
  else:
    folder.mkdir(parents=True, exist_ok=True)
    matches = _TEXT[scorer]
    right = {
      q.task_id: matches(answers[q.task_id], q.reference)
      for q in question_set.questions
    }
  digest = hashlib.sha256(Path(samples).read_bytes()).hexdigest()
  summary = header | {'questions': question_set.about, 'samples_sha256': digest}
  summary |= {'accuracy': sum(right.values()) / len(right)}
  (folder / 'judged.json').write_text(json.dumps(summary, indent=1) + '\n')
  write_problems(folder, right)
  return right


def write_problems(folder: Path, right: Mapping[str, bool]) -> None:
  """Writes problems.csv: a row for each task_id, with one sample, right or not."""
  with open(folder / 'problems.csv', 'w', newline='', encoding='utf-8') as file:
    writer = csv.writer(file)
    writer.writerow(_COLUMNS)
    writer.writerows((name, 1, int(correct)) for name, correct in right.items())


def contains(answer: str, reference: str) -> bool:
  """Whether the reference occurs in the answer, before any further question."""
  return reference.strip() in answer.lstrip().split('Q:')[0].strip()


def first_letter(answer: str, reference: str) -> bool:
  """Whether the answer, one token, is the letter of the right choice."""
  return answer.strip() == reference


_TEXT: Mapping[str, Callable[[str, str], bool]] = {
  'contains': contains,
  'first_letter': first_letter,
}


def program(answer: str) -> str | None:
  """The program in an answer, made to print its last line; None where there is none.

  As in the Eurus suite, the last closed block counts: of <execute> before ```python
  before ```bash, which is no Python and so fails.
  """
  shell_blocks = [
    x for x in re.findall(r'```bash(.*?)```', answer, re.S) if '!' not in x
  ]
  blocks = re.findall(r'```python(.*?)```', answer, re.S)
  blocks += re.findall(r'<execute>(.*?)</execute>', answer, re.S)
  if not blocks:
    return '!' if shell_blocks else None
  lines = blocks[-1].strip().split('\n')
  if 'print(' not in lines[-1]:
    lines[-1] = f'print({lines[-1]})'
  return '\n'.join(lines)


@dataclasses.dataclass(frozen=True)
class _Scoring:
  """Judges answers in the sandbox and keeps the verdicts."""

  book: Verdicts
  times: Times
  workers: int
  isolation: Isolation

  def judge(
    self,
    questions: Sequence[Question],
    answers: Mapping[str, str],
    *,
    programs: bool,
  ) -> dict[str, bool]:
    """The verdict on every question; those in the book are not judged again."""
    texts = dict(answers)
    if programs:
      texts |= self._printed(questions, answers)
    pending: dict[tuple[str, ...], tuple[str, Question]] = {}
    keys = {}
    for question in questions:
      answer = _final(texts[question.task_id], question, programs=programs)
      keys[question.task_id] = key = _key('equal', question.task_id, answer)
      if key in self.book.lines:
        continue
      if not question.kind and latex_forms.same_form(answer, question.reference):
        self.book.judge(key, right=True)
      elif not answer:
        self.book.judge(key, right=False)
      else:
        pending[key] = answer, question
    self._compare(pending)
    return {id_: bool(self.book.lines[key]['right']) for id_, key in keys.items()}

  def _printed(self, questions, answers) -> dict[str, str]:
    """What the programs in answers print, by task_id; '' where one fails.

    Answers without a program are left out.
    """
    texts: dict[str, str] = {}
    for question in questions:
      text = program(answers[question.task_id])
      if text is not None:
        texts[question.task_id] = text
    keys = {task_id: _key('printed', task_id, text) for task_id, text in texts.items()}
    pending = [task_id for task_id, key in keys.items() if key not in self.book.lines]
    # One second more for the interpreter's start.
    limits = Limits(
      cpu_seconds=self.times.most + 1.0,
      wall_seconds=20 * (self.times.most + 1.0),
      memory_mb=self.times.memory_mb,
      head_bytes=_OUTPUT_BYTES,
    )
    jobs = (
      Job(_PROGRAM_WRAPPER.format(text=texts[task_id]), None, limits)
      for task_id in pending
    )
    outcomes = sandbox.run_all(jobs, self.workers, self.isolation)
    for task_id, outcome in zip(pending, outcomes, strict=True):
      output = outcome.output.strip() if outcome.status == Status.ENDED else ''
      self.book.judge(keys[task_id], output=output, reason=outcome.reason)
    return {task_id: self.book.lines[key]['output'] for task_id, key in keys.items()}

  def _compare(self, pending: Mapping[tuple[str, ...], tuple[str, Question]]) -> None:
    """Judges in cells; where a cell fails, halving finds the comparison at fault."""
    if not pending:
      return
    keys = list(pending)
    batches = [keys[n : n + CHUNK] for n in range(0, len(keys), CHUNK)]
    _probe(self.isolation)
    while batches:
      jobs = (_job([pending[key] for key in batch], self.times) for batch in batches)
      outcomes = sandbox.run_all(jobs, self.workers, self.isolation)
      halves = []
      for batch, outcome in zip(batches, outcomes, strict=True):
        if outcome.status == Status.PASSED:
          for key, (right, *_) in zip(batch, outcome.answers, strict=True):
            self.book.judge(key, right=plain.decode(right) is True)
        elif len(batch) == 1:
          self.book.judge(batch[0], right=False, reason=outcome.reason)
        else:
          halves += [batch[: len(batch) // 2], batch[len(batch) // 2 :]]
      batches = halves


def _job(pairs: Sequence[tuple[str, Question]], times: Times) -> Job:
  """The job that compares answers with their questions' references, in one cell."""
  step_seconds = times.least
  inputs = [
    plain.encode([answer, question.reference, question.kind, step_seconds])
    for answer, question in pairs
  ]
  cpu_seconds = 60.0 + _STEPS * step_seconds * len(pairs)
  limits = Limits(
    cpu_seconds=cpu_seconds,
    call_seconds=_STEPS * step_seconds,
    wall_seconds=20 * cpu_seconds,
    memory_mb=times.memory_mb,
  )
  warm = not all(question.kind for _, question in pairs)
  return Job(_judge(warm), Record('judge', inputs), limits)


@functools.cache
def _probe(isolation: Isolation) -> None:
  """Raises ConfigError where cells cannot compare; else every answer would be wrong."""
  half = Question('', '', r'\frac{1}{2}')
  (outcome,) = sandbox.run_all([_job([(r'\sqrt{0.25}', half)], Times())], 1, isolation)
  passed = outcome.status == Status.PASSED
  if not passed or plain.decode(outcome.answers[0][0]) is not True:
    raise ConfigError(
      f'the sandbox cannot compare answers ({outcome.reason or "1/2 is not 0.5"}); '
      f'install {", ".join(_PACKAGES)} into this environment'
    )


@functools.cache
def _judge(warm: bool) -> str:
  """The program that compares in a cell; warm: LaTeX is among the answers."""
  folder = Path(__file__).parent
  modules = [(name, (folder / f'{name}.py').read_text('utf-8')) for name in _MODULES]
  return _COMPARISON.format(modules=modules, warm=warm)


def _final(text: str, question: Question, *, programs: bool) -> str:
  """The final answer in a text, or in the output of its program."""
  if not question.kind:
    return latex_forms.final_answer(text)
  if programs:
    return typed_answers.printed_answer(text)
  return typed_answers.stated_answer(text)


def _key(kind: str, task_id: str, text: str) -> tuple[str, ...]:
  raw = text.encode('utf-8', 'surrogatepass')
  return kind, task_id, hashlib.sha256(raw).hexdigest()
