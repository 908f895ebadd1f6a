"""Scores samples of HumanEval(+) and MBPP(+) offline, any number of times.

Samples are in EvalPlus's formats: JSON lines of {task_id, solution} (a whole program)
or {task_id, completion}, gzipped or not, or a folder as HumanEval_0/*.py. A folder of scores holds what was judged line by line, so a
scoring that was killed goes on where it stopped. A right program passes the base tests;
for the plus tests it must pass both, as EvalPlus counts.
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
  """CPU seconds of a scoring, and memory.

  A call may take `factor` times what the file's solution takes, at least `least`; all
  calls of a suite `most`. A script of tests may take `least` for each call, too.
  """

  least: float = 1.0
  factor: float = 4.0
  most: float = 60.0
  memory_mb: int = 4096

  def limits(self, seconds: Sequence[float] = ()) -> Limits:
    """The limits of one suite; seconds: the limits of its calls."""
    total = min(self.most, sum(seconds)) if seconds else self.most
    # One second more, as EvalPlus has it, and one for the interpreter's start.
    return Limits(
      cpu_seconds=total + 2.0,
      call_seconds=self.least,
      wall_seconds=20 * (total + 2.0),
      memory_mb=self.memory_mb,
    )


@dataclasses.dataclass(frozen=True)
class Scores:
  """pass@k of each suite in shares, and each problem's counts."""

  pass_at: Mapping[str, Mapping[int, float]]  # suite -> k -> share
  rows: tuple[Mapping[str, Any], ...]  # of problems.csv
  ignored: int  # samples of problems that the file of problems does not have


def pass_at_k(n: int, correct: int, k: int) -> float:
  """Unbiased estimate that one of k samples passes, of `correct` among n.

  >>> pass_at_k(5, 2, 1), pass_at_k(5, 2, 3)
  (0.4, 0.9)
  """
  if not 0 <= correct <= n or not 1 <= k <= n:
    raise ValueError(f'pass@{k} of {correct} right samples among {n} is not defined')
  return 1.0 - math.comb(n - correct, k) / math.comb(n, k)


def write_samples(
  path: str | os.PathLike, samples: Iterable[Mapping[str, str]]
) -> None:
  """Appends samples, each on its line and at once on the disk."""
  with open(path, 'a', encoding='utf-8') as file:
    for sample in samples:
      file.write(json.dumps(dict(sample)) + '\n')
      file.flush()


def read_samples(path: str | os.PathLike) -> list[dict[str, str]]:
  """The samples of a file or folder; ConfigError names what is wrong."""
  samples = []
  for name, text in _texts(Path(path)):
    samples += [{'task_id': name, 'solution': text}] if name else _parsed(path, text)
  if not samples:
    raise ConfigError(f'{path} holds no samples; generate some')
  return samples


def _texts(path: Path) -> list[tuple[str, str]]:
  """(task_id of a program, its text) in a folder, or ('', text) of a file."""
  try:
    if path.is_dir():
      return [
        (re.sub(r'_(\d+)$', r'/\1', file.parent.name), file.read_text('utf-8'))
        for file in _files(path)
      ]
    raw = path.read_bytes()
    return [('', (gzip.decompress(raw) if path.suffix == '.gz' else raw).decode())]
  except (OSError, EOFError, zlib.error, UnicodeDecodeError) as e:
    own = 'no UTF-8' if isinstance(e, UnicodeDecodeError) else str(e)
    reason = getattr(e, 'strerror', None) or own
    raise ConfigError(f'{path} cannot be read ({reason}); generate samples') from None


def _files(path: Path) -> list[Path]:
  return sorted(path.glob('*/*.py')) if path.is_dir() else [path]


def samples_sha256(path: str | os.PathLike) -> str:
  """Of a file of samples; of a folder: of the names and hashes of its files."""
  own = [hashlib.sha256(file.read_bytes()).hexdigest() for file in _files(Path(path))]
  if not Path(path).is_dir():
    return own[0]
  names = [str(file.relative_to(path)) for file in _files(Path(path))]
  return hashlib.sha256(json.dumps([names, own]).encode()).hexdigest()


def _parsed(path, text: str) -> list[dict[str, str]]:
  samples = []
  for n, line in enumerate(text.split('\n'), start=1):
    if not line.strip():
      continue
    try:
      sample = json.loads(line)
      ways = [k for k in ('solution', 'completion') if isinstance(sample.get(k), str)]
      good = isinstance(sample['task_id'], str) and ways
    except (ValueError, KeyError, AttributeError, TypeError):
      good = False
    if not good:
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

  origin: protocol and its hash, hashes of model and adapter, seed: what every result
  names. A folder that holds verdicts of others is refused.
  """
  times = times or Times()
  found = read_samples(samples)
  known = [s for s in found if s['task_id'] in problem_set.problems]
  missing = set(problem_set.problems) - {s['task_id'] for s in known}
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
    (s['task_id'], problem_set.problems[s['task_id']].program(s)) for s in known
  ]
  run = _Scoring(problem_set, book, times, workers, isolation)
  suites = SUITES if problem_set.plus else SUITES[:1]
  for suite in suites:
    run.judge(suite, programs)
  scores = _scores(problem_set, book, programs, suites, len(found) - len(known))
  told = {'benchmark': problem_set.dataset, 'problems': problem_set.version}
  _write(Path(folder), scores, header | told, samples)
  return scores


@dataclasses.dataclass(frozen=True)
class _Scoring:
  problem_set: ProblemSet
  book: Verdicts
  times: Times
  workers: int
  isolation: Isolation

  def judge(self, suite: str, programs: Sequence[tuple[str, str]]) -> None:
    """Runs a suite's tests on the programs that have no verdict yet."""
    todo: dict[tuple[str, ...], tuple[Problem, str]] = {}
    for task_id, program in programs:
      key = _key(suite, task_id, program)
      base = self.book.lines.get(_key('base', task_id, program))
      fails = suite == 'plus' and base and base['status'] != 'passed'
      if key not in self.book.lines and not fails:
        todo[key] = self.problem_set.problems[task_id], program
    self._expect(suite, {p.task_id: p for p, _ in todo.values()}.values())
    jobs = (self._job(suite, p, program) for p, program in todo.values())
    for key, outcome in zip(todo, self._run(jobs), strict=True):
      self.book.judge(
        key,
        status=str(outcome.status),
        reason=outcome.reason,
        cpu_seconds=round(outcome.cpu_seconds, 3),
      )

  def _run(self, jobs: Iterable[Job]) -> Iterator[Outcome]:
    return sandbox.run_all(jobs, self.workers, self.isolation)

  def _expect(self, suite: str, problems: Iterable[Problem]) -> None:
    """Expected outputs, by running the file's own solutions."""
    todo = [
      p for p in problems if not p.script and _key(suite, p) not in self.book.lines
    ]
    limits = dataclasses.replace(self.times.limits(), call_seconds=self.times.most)
    jobs = (
      Job(
        p.solution,
        sandbox.Record(p.entry_point, [plain.encode(a) for a in getattr(p, suite)]),
        limits,
      )
      for p in todo
    )
    for problem, outcome in zip(todo, self._run(jobs), strict=True):
      wrong = '' if outcome.status == Status.PASSED else outcome.reason
      checked = problem.dataset == 'mbpp' and problem.entry_point in NOT_NONE
      answers = [_existence(a) if checked else a for a in outcome.answers]
      if any(plain.has_opaque(data) for data, *_ in answers):
        wrong = 'an output is no plain data'
      if wrong:
        raise ConfigError(
          f"{self.problem_set.path}: the file's own solution of {problem.task_id} does "
          f'not run here ({wrong}); install what it imports, or give the file as '
          'published'
        )
      self.book.judge(_key(suite, problem), answers=answers)

  def _job(self, suite: str, problem: Problem, program: str) -> Job:
    if problem.script:
      return Job(program, problem.script, self.times.limits())
    answers = self.book.lines[_key(suite, problem)]['answers']
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


def _key(suite: str, problem: Problem | str, program: str | None = None):
  """A verdict's or (without a program) an expectation's place in the book."""
  if isinstance(problem, Problem):
    return 'expected', suite, problem.task_id, problem.sha256
  assert program is not None
  text = program.encode('utf-8', 'surrogatepass')
  return suite, problem, hashlib.sha256(text).hexdigest()


def _existence(answer: tuple) -> tuple:
  data, _, seconds = answer
  return data is not None, 'bool', seconds


def _scores(
  problem_set: ProblemSet,
  book: Verdicts,
  programs: Sequence[tuple[str, str]],
  suites: Sequence[str],
  ignored: int,
) -> Scores:
  right: Counter = Counter()
  total = Counter(task_id for task_id, _ in programs)
  for task_id, program in programs:
    for suite in suites:
      # No line of `plus` stands where `base` failed.
      line = book.lines.get(_key(suite, task_id, program), {})
      right[suite, task_id] += line.get('status') == 'passed'
  rows = []
  for task_id in problem_set.problems:
    counts = [right[s, task_id] if s in suites else '' for s in SUITES]
    rows.append(dict(zip(_COLUMNS, (task_id, total[task_id], *counts), strict=True)))
  pass_at = {
    suite: {
      k: sum(pass_at_k(total[t], right[suite, t], k) for t in total) / len(total)
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
