"""Scores a file of answers to questions offline, any number of times.

A folder of scores holds what was judged line by line, so a scoring that was killed goes
on where it stopped. Programs in answers run in the sandbox, and so does what compares
answers as mathematics, since sympy evaluates what it reads.
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
CHUNK = 64  # comparisons in a cell, which takes a second to read sympy
_STEPS = 10  # at most, of a comparison
_SHOWN = 1 << 20  # bytes of what a program prints that are compared
# Only what is printed counts, not warnings; `exec`, as a program may begin with
# `from __future__`.
_ALONE = """
import io, sys
sys.stderr = io.StringIO()
exec(compile({text!r}, 'answer.py', 'exec'))
"""
# Modules of texts, and one function; both kinds of comparison.
_JUDGE = """
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
  """task_id -> answer of a file; raises ConfigError naming the line that is wrong."""
  try:
    text = Path(path).read_text(encoding='utf-8')
  except (OSError, UnicodeDecodeError) as e:
    reason = getattr(e, 'strerror', None) or 'no UTF-8'
    raise ConfigError(f'{path} cannot be read ({reason}); generate samples') from None
  found: dict[str, str] = {}
  for n, line in enumerate(text.split('\n'), start=1):
    if not line.strip():
      continue
    try:
      row = json.loads(line)
      name, answer = row['task_id'], row['answer']
      good = isinstance(name, str) and isinstance(answer, str) and name not in found
    except (ValueError, KeyError, TypeError):
      good = False
    if not good:
      raise ConfigError(
        f'{path}: line {n} is no sample; each line is a JSON object with a task_id of '
        'its own and answer'
      )
    found[name] = answer
  return found


def answers_of(samples: str | os.PathLike, task_ids: Sequence[str]) -> dict[str, str]:
  """As `read_answers`; ConfigError where one of these task_ids has no answer."""
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
  """task_id -> whether the answer is right, of a file of answers.

  Writes judged.json and problems.csv into a folder.

  scorer: one of SCORERS. times: CPU seconds, `least` of a step of a comparison, `most`
  of a program. origin: protocol and its hash, hashes of model and adapter, seed. A
  folder that holds verdicts of others is refused.
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
    holds = _TEXT[scorer]
    right = {
      q.task_id: holds(answers[q.task_id], q.reference) for q in question_set.questions
    }
  digest = hashlib.sha256(Path(samples).read_bytes()).hexdigest()
  told = header | {'questions': question_set.about, 'samples_sha256': digest}
  told |= {'accuracy': sum(right.values()) / len(right)}
  (folder / 'judged.json').write_text(json.dumps(told, indent=1) + '\n')
  write_problems(folder, right)
  return right


def write_problems(folder: Path, right: Mapping[str, bool]) -> None:
  """Writes problems.csv, a row for each task_id with one sample, right or not."""
  with open(folder / 'problems.csv', 'w', newline='', encoding='utf-8') as file:
    writer = csv.writer(file)
    writer.writerow(_COLUMNS)
    writer.writerows((name, 1, int(good)) for name, good in right.items())


def contains(answer: str, reference: str) -> bool:
  """Whether the reference stands anywhere in the answer, up to a further question."""
  return reference.strip() in answer.lstrip().split('Q:')[0].strip()


def first_letter(answer: str, reference: str) -> bool:
  """Whether the answer, a token, is the letter of the right choice."""
  return answer.strip() == reference


_TEXT: Mapping[str, Callable[[str, str], bool]] = {
  'contains': contains,
  'first_letter': first_letter,
}


def program(answer: str) -> str | None:
  """What runs of an answer: its last block, printing its last line; None without one.

  As the Eurus suite has it: each block is a program of its own and the last one counts,
  <execute> after ```python after ```bash, which is no Python. Blocks must be closed.
  """
  shell = [x for x in re.findall(r'```bash(.*?)```', answer, re.S) if '!' not in x]
  blocks = re.findall(r'```python(.*?)```', answer, re.S)
  blocks += re.findall(r'<execute>(.*?)</execute>', answer, re.S)
  if not blocks:
    return '!' if shell else None
  lines = blocks[-1].strip().split('\n')
  if 'print(' not in lines[-1]:
    lines[-1] = f'print({lines[-1]})'
  return '\n'.join(lines)


@dataclasses.dataclass(frozen=True)
class _Scoring:
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
    """The verdict on every question; what the book has is not judged again."""
    texts = dict(answers)
    if programs:
      texts |= self._printed(questions, answers)
    todo: dict[tuple[str, ...], tuple[str, Question]] = {}
    keys = {}
    for question in questions:
      answer = _final(texts[question.task_id], question, programs=programs)
      keys[question.task_id] = key = _key('equal', question.task_id, answer)
      if key in self.book.lines:
        continue
      plain = not question.kind
      if plain and latex_forms.same_form(answer, question.reference):
        self.book.judge(key, right=True)
      elif answer:
        todo[key] = answer, question
      else:
        self.book.judge(key, right=False)
    self._compare(todo)
    return {name: bool(self.book.lines[key]['right']) for name, key in keys.items()}

  def _printed(self, questions, answers) -> dict[str, str]:
    """What the programs in answers print; '' of those that fail."""
    found = {q.task_id: program(answers[q.task_id]) for q in questions}
    texts = {name: text for name, text in found.items() if text is not None}
    keys = {name: _key('printed', name, text) for name, text in texts.items()}
    todo = [name for name, key in keys.items() if key not in self.book.lines]
    # One second more for the interpreter's start.
    limits = Limits(
      cpu_seconds=self.times.most + 1.0,
      wall_seconds=20 * (self.times.most + 1.0),
      memory_mb=self.times.memory_mb,
      head_bytes=_SHOWN,
    )
    jobs = (Job(_ALONE.format(text=texts[name]), None, limits) for name in todo)
    outcomes = sandbox.run_all(jobs, self.workers, self.isolation)
    for name, outcome in zip(todo, outcomes, strict=True):
      ended = outcome.status == Status.ENDED
      output = outcome.output.strip() if ended else ''
      self.book.judge(keys[name], output=output, reason=outcome.reason)
    return {name: self.book.lines[key]['output'] for name, key in keys.items()}

  def _compare(self, todo: Mapping[tuple[str, ...], tuple[str, Question]]) -> None:
    """Judges in cells; a comparison that ends its cell is found by halving."""
    if not todo:
      return
    names = list(todo)
    pending = [names[n : n + CHUNK] for n in range(0, len(names), CHUNK)]
    _probe(self.isolation)
    while pending:
      jobs = (_job([todo[name] for name in own], self.times) for own in pending)
      outcomes = sandbox.run_all(jobs, self.workers, self.isolation)
      again = []
      for own, outcome in zip(pending, outcomes, strict=True):
        if outcome.status == Status.PASSED:
          for name, (right, *_) in zip(own, outcome.answers, strict=True):
            self.book.judge(name, right=plain.decode(right) is True)
        elif len(own) == 1:
          self.book.judge(own[0], right=False, reason=outcome.reason)
        else:
          again += [own[: len(own) // 2], own[len(own) // 2 :]]
      pending = again


def _job(pairs: Sequence[tuple[str, Question]], times: Times) -> Job:
  """Compares answers with the references of questions, all in one cell."""
  seconds = times.least
  inputs = [
    plain.encode([answer, question.reference, question.kind, seconds])
    for answer, question in pairs
  ]
  most = 60.0 + _STEPS * seconds * len(pairs)
  limits = Limits(
    cpu_seconds=most,
    call_seconds=_STEPS * seconds,
    wall_seconds=20 * most,
    memory_mb=times.memory_mb,
  )
  warm = not all(question.kind for _, question in pairs)
  return Job(_judge(warm), Record('judge', inputs), limits)


@functools.cache
def _probe(isolation: Isolation) -> None:
  """Raises ConfigError where a cell cannot compare, rather than judge all wrong."""
  half = Question('', '', r'\frac{1}{2}')
  (outcome,) = sandbox.run_all([_job([(r'\sqrt{0.25}', half)], Times())], 1, isolation)
  held = outcome.status == Status.PASSED
  if not held or plain.decode(outcome.answers[0][0]) is not True:
    raise ConfigError(
      f'the sandbox cannot compare answers ({outcome.reason or "1/2 is not 0.5"}); '
      f'install {", ".join(_PACKAGES)} into this environment'
    )


@functools.cache
def _judge(warm: bool) -> str:
  folder = Path(__file__).parent
  modules = [(name, (folder / f'{name}.py').read_text('utf-8')) for name in _MODULES]
  return _JUDGE.format(modules=modules, warm=warm)


def _final(text: str, question: Question, *, programs: bool) -> str:
  """What is compared of an answer, or of what its program printed."""
  if question.kind:
    return (typed_answers.printed if programs else typed_answers.said)(text)
  return latex_forms.final_answer(text)


def _key(kind: str, task_id: str, text: str) -> tuple[str, ...]:
  raw = text.encode('utf-8', 'surrogatepass')
  return kind, task_id, hashlib.sha256(raw).hexdigest()
