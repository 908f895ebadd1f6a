"""Scores samples of HumanEval(+) and MBPP(+) offline, any number of times.

Samples are in EvalPlus's formats: JSON lines of {task_id, solution} (a whole program)
or {task_id, completion}, gzipped or not, or a folder of HumanEval_0/*.py. Every verdict
is written at once, so a scoring that was killed resumes where it stopped. As in
EvalPlus, a program passes `plus` only if it also passes the base tests.
"""

import csv
import dataclasses
import gzip
import hashlib
import json
import math
import os
import re
import sys
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from onlyif_jax.config import ConfigError
from onlyif_jax.evals import sandbox
from onlyif_jax.evals import sandbox_plain as plain
from onlyif_jax.evals.answer_book import Verdicts
from onlyif_jax.evals.problems import Problem, ProblemSet
from onlyif_jax.evals.sandbox import Calls, Isolation, Job, Limits, Outcome, Status
from onlyif_jax.evals.sandbox_checker import NOT_NONE

KS = (1, 10, 100)
SUITES = ('base', 'plus')
_COLUMNS: tuple[str, ...] = ('task_id', 'samples', 'base_correct', 'plus_correct')


@dataclasses.dataclass(frozen=True)
class Times:
  """Limits of a scoring: CPU seconds, and memory.

  A call may take `factor` times as long as the file's solution, but at least `least`;
  all calls of a suite at most `most`. In a script of tests each call may take `least`.
  """

  least: float = 1.0
  factor: float = 4.0
  most: float = 60.0
  memory_mb: int = 4096

  def limits(self, seconds: Sequence[float] = ()) -> Limits:
    """The limits of one suite; seconds: the limits of its calls."""
    total = min(self.most, sum(seconds)) if seconds else self.most
    # One second more, as in EvalPlus, and one for the interpreter's start.
    return Limits(
      cpu_seconds=total + 2.0,
      call_seconds=self.least,
      wall_seconds=20 * (total + 2.0),
      memory_mb=self.memory_mb,
    )


@dataclasses.dataclass(frozen=True)
class Scores:
  """pass@k of each suite as a share, and each problem's counts."""

  pass_at: Mapping[str, Mapping[int, float]]  # suite -> k -> share
  rows: tuple[Mapping[str, Any], ...]  # of problems.csv
  ignored: int  # samples whose problem is not in the file of problems


def pass_at_k(n: int, correct: int, k: int) -> float:
  """Unbiased estimate of the chance that one of k samples passes; n samples, `correct`.

  >>> pass_at_k(5, 2, 1), pass_at_k(5, 2, 3)
  (0.4, 0.9)
  """
  if not 0 <= correct <= n or not 1 <= k <= n:
    raise ValueError(f'pass@{k} of {correct} right samples among {n} is not defined')
  return 1.0 - math.comb(n - correct, k) / math.comb(n, k)


def write_samples(
  path: str | os.PathLike, samples: Iterable[Mapping[str, str]]
) -> None:
  """Appends samples as JSON lines, each flushed at once."""
  with open(path, 'a', encoding='utf-8') as file:
    for sample in samples:
      file.write(json.dumps(dict(sample)) + '\n')
      file.flush()


def read_samples(path: str | os.PathLike) -> list[dict[str, str]]:
  """The samples of a file or folder; raises ConfigError for a malformed one."""
  if Path(path).is_dir():
    samples = [
      {'task_id': re.sub(r'_(\d+)$', r'/\1', file.parent.name), 'solution': _text(file)}
      for file in _files(Path(path))
    ]
  else:
    samples = _parsed(path, _text(Path(path)))
  if not samples:
    raise ConfigError(f'{path} holds no samples; generate some')
  return samples


def _text(path: Path) -> str:
  """The text of a program, or of a file that may be gzipped."""
  try:
    if path.suffix == '.py':
      return path.read_text('utf-8')
    raw = path.read_bytes()
    return (gzip.decompress(raw) if path.suffix == '.gz' else raw).decode()
  except UnicodeDecodeError:
    reason = 'no UTF-8'
  except (OSError, EOFError, zlib.error) as e:
    reason = getattr(e, 'strerror', None) or e
  raise ConfigError(f'{path} cannot be read ({reason}); generate samples')


def _files(path: Path) -> list[Path]:
  return sorted(path.glob('*/*.py')) if path.is_dir() else [path]


def samples_sha256(path: str | os.PathLike) -> str:
  """The hash of a file of samples, or of a folder's file names and hashes."""
  hashes = [
    hashlib.sha256(file.read_bytes()).hexdigest() for file in _files(Path(path))
  ]
  if not Path(path).is_dir():
    return hashes[0]
  names = [str(file.relative_to(path)) for file in _files(Path(path))]
  return hashlib.sha256(json.dumps([names, hashes]).encode()).hexdigest()


def _parsed(path: str | os.PathLike, text: str) -> list[dict[str, str]]:
  """The samples of JSON lines."""
  samples = []
  for n, line in enumerate(text.split('\n'), start=1):
    if not line.strip():
      continue
    try:
      sample = json.loads(line)
      texts = [k for k in ('solution', 'completion') if isinstance(sample.get(k), str)]
      valid = isinstance(sample['task_id'], str) and texts
    except (ValueError, KeyError, AttributeError, TypeError):
      valid = False
    if not valid:
      raise ConfigError(
        f'{path}: line {n} is no sample; each line is a JSON object with task_id and '
        'solution or completion'
      )
    samples.append(sample)
  return samples


def score(
  samples: str | os.PathLike,
  problem_set: ProblemSet,
  folder: str | os.PathLike,
  *,
  origin: Mapping[str, Any],
  times: Times | None = None,
  workers: int = 1,
  isolation: Isolation | None = None,
) -> Scores:
  """Judges a file of samples and writes scores.json and problems.csv into a folder.

  origin: what every result names: the protocol and its hash, hashes of model and
  adapter, the seed. A folder with verdicts of another origin is refused.
  """
  times = times or Times()
  rows = read_samples(samples)
  known = [row for row in rows if row['task_id'] in problem_set.problems]
  missing = set(problem_set.problems) - {row['task_id'] for row in known}
  if missing:
    raise ConfigError(
      f'{samples} has no sample of {len(missing)} of {len(problem_set.problems)} '
      f'problems, such as {min(missing)}; generate the rest'
    )
  isolation = isolation or sandbox.detect()
  header = {
    'data_sha256': problem_set.sha256,
    'times': dataclasses.asdict(times),
    'python': sys.version.split()[0],
    'origin': dict(origin),
  }
  book = Verdicts(folder, header)
  programs = [
    (row['task_id'], problem_set.problems[row['task_id']].program(row)) for row in known
  ]
  run = _Scoring(problem_set, book, times, workers, isolation)
  suites = SUITES if problem_set.plus else SUITES[:1]
  for suite in suites:
    run.judge(suite, programs)
  scores = _scores(problem_set, book, programs, suites, len(rows) - len(known))
  data = {'benchmark': problem_set.dataset, 'problems': problem_set.version}
  _write(Path(folder), scores, header | data, samples)
  return scores


@dataclasses.dataclass(frozen=True)
class _Scoring:
  """Judges programs in the sandbox and keeps the verdicts."""

  problem_set: ProblemSet
  book: Verdicts
  times: Times
  workers: int
  isolation: Isolation

  def judge(self, suite: str, programs: Sequence[tuple[str, str]]) -> None:
    """Runs a suite's tests on the programs that have no verdict yet."""
    pending: dict[tuple[str, ...], tuple[Problem, str]] = {}
    for task_id, program in programs:
      key = _verdict_key(suite, task_id, program)
      base_line = self.book.lines.get(_verdict_key('base', task_id, program))
      base_failed = suite == 'plus' and base_line and base_line['status'] != 'passed'
      if key not in self.book.lines and not base_failed:
        pending[key] = self.problem_set.problems[task_id], program
    self._expect(suite, {p.task_id: p for p, _ in pending.values()}.values())
    jobs = (self._job(suite, p, program) for p, program in pending.values())
    for key, outcome in zip(pending, self._run(jobs), strict=True):
      self.book.judge(
        key,
        status=str(outcome.status),
        reason=outcome.reason,
        cpu_seconds=round(outcome.cpu_seconds, 3),
      )

  def _run(self, jobs: Iterable[Job]) -> Iterator[Outcome]:
    return sandbox.run_all(jobs, self.workers, self.isolation)

  def _expect(self, suite: str, problems: Iterable[Problem]) -> None:
    """Makes expected outputs by running the file's own solutions."""
    pending = [
      p
      for p in problems
      if not p.script and _expected_key(suite, p) not in self.book.lines
    ]
    limits = dataclasses.replace(self.times.limits(), call_seconds=self.times.most)
    jobs = (
      Job(
        p.solution,
        sandbox.Record(p.entry_point, [plain.encode(a) for a in getattr(p, suite)]),
        limits,
      )
      for p in pending
    )
    for problem, outcome in zip(pending, self._run(jobs), strict=True):
      reason = '' if outcome.status == Status.PASSED else outcome.reason
      existence_only = problem.dataset == 'mbpp' and problem.entry_point in NOT_NONE
      answers = [_existence(a) if existence_only else a for a in outcome.answers]
      if any(plain.has_opaque(data) for data, *_ in answers):
        reason = 'an output is no plain data'
      if reason:
        raise ConfigError(
          f"{self.problem_set.path}: the file's own solution of {problem.task_id} does "
          f'not run here ({reason}); install what it imports, or give the file as '
          'published'
        )
      self.book.judge(_expected_key(suite, problem), answers=answers)

  def _job(self, suite: str, problem: Problem, program: str) -> Job:
    if problem.script:
      return Job(program, problem.script, self.times.limits())
    answers = self.book.lines[_expected_key(suite, problem)]['answers']
    seconds = [max(self.times.least, self.times.factor * s) for *_, s in answers]
    check = Calls(
      problem.entry_point,
      [plain.encode(args) for args in getattr(problem, suite)],
      [data for data, *_ in answers],
      [kind for _, kind, _ in answers],
      seconds,
      problem.dataset,
      problem.atol,
    )
    return Job(program, check, self.times.limits(seconds))


def _verdict_key(suite: str, task_id: str, program: str) -> tuple[str, ...]:
  raw = program.encode('utf-8', 'surrogatepass')
  return suite, task_id, hashlib.sha256(raw).hexdigest()


def _expected_key(suite: str, problem: Problem) -> tuple[str, ...]:
  return 'expected', suite, problem.task_id, problem.sha256


def _existence(answer: tuple) -> tuple:
  """An expected output that is only compared with None."""
  data, _, seconds = answer
  return data is not None, 'bool', seconds


def _scores(
  problem_set: ProblemSet,
  book: Verdicts,
  programs: Sequence[tuple[str, str]],
  suites: Sequence[str],
  ignored: int,
) -> Scores:
  correct: Counter = Counter()
  total = Counter(task_id for task_id, _ in programs)
  for task_id, program in programs:
    for suite in suites:
      # `plus` has no verdict where `base` failed.
      line = book.lines.get(_verdict_key(suite, task_id, program), {})
      correct[suite, task_id] += line.get('status') == 'passed'
  rows = []
  for task_id in problem_set.problems:
    counts = [correct[s, task_id] if s in suites else '' for s in SUITES]
    rows.append(dict(zip(_COLUMNS, (task_id, total[task_id], *counts), strict=True)))
  pass_at = {
    suite: {
      k: sum(pass_at_k(total[t], correct[suite, t], k) for t in total) / len(total)
      for k in KS
      if min(total.values()) >= k
    }
    for suite in suites
  }
  return Scores(pass_at, tuple(rows), ignored)


def _write(folder: Path, scores: Scores, header: Mapping[str, Any], samples) -> None:
  result = dict(header) | {
    'samples_sha256': samples_sha256(samples),
    'ignored_samples': scores.ignored,
    'pass_at': {
      suite: {str(k): value for k, value in values.items()}
      for suite, values in scores.pass_at.items()
    },
  }
  with open(folder / 'problems.csv', 'w', newline='', encoding='utf-8') as file:
    writer = csv.DictWriter(file, _COLUMNS)
    writer.writeheader()
    writer.writerows(scores.rows)
  (folder / 'scores.json').write_text(json.dumps(result, indent=1) + '\n')
