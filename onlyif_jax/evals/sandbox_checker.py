"""Judges a program in another process by what its functions return.

The checker has a cell of its own. It sends arguments to the program's process and
compares what comes back as plain data; the verdict goes to the scorer by a socket that
the program's process does not have. A program therefore passes only if the right
outputs came back, whatever it does to its own `assert`, `==` or exit code.

Outputs are compared as EvalPlus compares them (evalplus.eval.unsafe_execute, 0.3.1,
with its later repair of `find_zero`).
"""

import builtins
import math
import random
import site
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from onlyif_jax.evals import sandbox_plain as plain

JOB = 1 << 30  # bytes of a job, which is trusted
RTOL, ATOL = 1e-7, 1e-6  # of floats, as EvalPlus has them
# evalplus.eval._special_oracle: outputs of which only the existence is compared, ...
NOT_NONE = ('check_str', 'text_match_three', 'text_starta_endb')
# ... and outputs that are compared as sets.
AS_SETS = (
  *('similar_elements', 'find_char_long', 'common_in_nested_lists', 'extract_singly'),
  *('larg_nnum', 'intersection_array', 'find_dissimilar', 'Diff'),
)


class Lost(BaseException):
  """The program's process is gone; no `except Exception` of a test may hide it."""


class Malformed(BaseException):
  """The program's process sent what is no answer."""


class FailedError(Exception):
  """The program raised, or a comparison did not hold."""


class Answer(NamedTuple):
  """What one call gave."""

  data: Any  # encoded
  type: str
  seconds: float  # of CPU, as the program's process says


class Program:
  """The program's process at the other end of a socket."""

  def __init__(self, fd: int, limit: int, seconds: float):
    self.fd = fd
    self.limit = limit
    self.seconds = seconds

  def start(self, text: str) -> None:
    """Loads the program; raises FailedError if that raises there."""
    self._send({'program': text, 'serve': True})
    self._receive()

  def call(self, name, args, kwargs=None, seconds=None) -> Answer:
    """One call of a function of the program."""
    limit = self.seconds if seconds is None else seconds
    self._send([name, plain.encode(list(args)), plain.encode(kwargs or {}), limit])
    reply = self._receive()
    try:
      _, data, kind, used = reply
      return Answer(data, str(kind), float(used))
    except (TypeError, ValueError):
      raise Malformed('the answer is malformed') from None

  def proxy(self, name: str):
    """A function that calls the program's one; errors of builtin types pass on."""

    def call(*args, **kwargs):
      return value_of(self.call(name, args, kwargs))

    call.__name__ = name
    return call

  def _send(self, message: Any) -> None:
    try:
      plain.send(self.fd, message)
    except OSError:
      raise Lost from None

  def _receive(self) -> list:
    try:
      reply = plain.receive(self.fd, self.limit)
    except (EOFError, OSError):
      raise Lost from None
    except ValueError as e:
      raise Malformed(str(e)) from None
    if not isinstance(reply, list) or not reply:
      raise Malformed('the answer is malformed')
    if reply[0] == 'error':
      name, text = (*map(str, reply[1:3]), '', '')[:2]
      kind = getattr(builtins, name, None)
      # A test may expect an error; ends of the process are none.
      if not (isinstance(kind, type) and issubclass(kind, Exception)):
        kind, text = FailedError, f'{name}: {text}' if text else name
      raise kind(text)
    return reply


def value_of(answer: Answer) -> Any:
  """The value of an answer; raises Malformed where it is no encoded value."""
  try:
    return plain.decode(answer.data)
  except (ValueError, TypeError, OverflowError, ArithmeticError, RecursionError):
    raise Malformed('the answer is malformed') from None


def main(fd: int, scorer: int) -> None:
  """Reads one job from the scorer's socket and sends the verdict there."""
  job = plain.receive(scorer, JOB)
  random.seed(0)
  verdict = judge(Program(fd, job['reply_bytes'], job['seconds']), job)
  plain.send(scorer, verdict)


def judge(program: Program, job: dict[str, Any]) -> dict[str, Any]:
  """status passed, failed or lost; reason; tests: which held; answers of a record."""
  check = job['check']
  verdict: dict[str, Any] = {'status': 'passed', 'reason': '', 'tests': []}
  try:
    program.start(job['program'])
    if check['kind'] == 'record':
      calls = [program.call(check['name'], plain.decode(x)) for x in check['inputs']]
      verdict['answers'] = [list(answer) for answer in calls]
    elif check['kind'] == 'calls':
      compare_all(program, check, verdict)
    else:
      run_script(program, check)
  except Lost:
    verdict['status'] = 'lost'
  except BaseException as e:
    name = type(e).__name__
    hidden = isinstance(e, FailedError | Malformed)
    text = (str(e) if hidden else f'{name}: {e}' if str(e) else name)[:300]
    verdict |= {'status': 'failed', 'reason': text}
  return verdict


def run_script(program: Program, check: dict[str, Any]) -> None:
  """Runs a test written as Python, with stand-ins for the program's functions.

  before: trusted text that the test needs (a prompt's helper functions); script: the
  test; names: functions under test; call: what to call with the first of them.
  """
  names: dict[str, Any] = {}
  exec(compile(check['before'], '<prompt>', 'exec'), names)
  names |= {name: program.proxy(name) for name in check['names']}
  exec(compile(check['script'], '<test>', 'exec'), names)
  if check['call']:
    names[check['call']](program.proxy(check['names'][0]))


def compare_all(
  program: Program, check: dict[str, Any], verdict: dict[str, Any]
) -> None:
  """Calls and compares; raises FailedError after the first (or, all asked, last) miss."""
  compare = Comparison(check['dataset'], check['name'], check['atol'])
  tests, first = verdict['tests'], None
  for n, data in enumerate(check['inputs']):
    args = plain.decode(data)
    try:
      answer = program.call(check['name'], args, seconds=check['seconds'][n])
      expected = plain.decode(check['expected'][n])
      fits = compare.holds(args, answer, expected, check['types'][n])
      reason = 'a wrong output'
    except Exception as e:
      text = str(e) if isinstance(e, FailedError) else f'{type(e).__name__}: {e}'
      fits, reason = False, text
    tests.append(fits)
    if not fits and first is None:
      first = f'test {n}: {reason}'
    if first and check['stop']:
      break
  if first:
    raise FailedError(first)


class Comparison:
  """EvalPlus's comparison of outputs, for the tests of one problem in their order."""

  def __init__(self, dataset: str, name: str, atol: float):
    self.dataset = dataset
    self.name = name
    self.atol = atol

  def holds(self, args: Sequence, answer: Answer, expected: Any, kind: str) -> bool:
    """Whether an answer fits; an impossible comparison raises.

    kind: the type of the expected output, by name.
    """
    out = value_of(answer)
    if self.dataset == 'humaneval' and self.name == 'find_zero':
      return abs(_polynomial(args[0], out)) <= self.atol
    same = out == expected
    if self.dataset == 'mbpp':
      same = self._mbpp(args, answer, out, expected, same)
    if self.atol == 0 and _floats(expected):
      self.atol = ATOL  # and stays so for the problem's later tests
    if same or self.atol == 0:
      return bool(same)
    if answer.type != kind:
      return False
    if isinstance(expected, list | tuple) and len(out) != len(expected):
      return False
    return _close(out, expected, self.atol)

  def _mbpp(self, args, answer: Answer, out, expected, same: bool) -> bool:
    """Special oracles by entry point."""
    if self.name == 'are_equivalent':  # Mbpp/164: no right output is known
      return True
    if self.name == 'sum_div':  # Mbpp/295
      return same or out == 0
    if self.name == 'surface_Area':  # Mbpp/581: height up to the apex is right too
      return same or abs(out - _pyramid(*args)) <= self.atol
    if self.name == 'digit_distance_nums':  # Mbpp/558: shorter numbers padded
      return same or out == _digit_distance(*args)
    if self.name in AS_SETS:
      return set(out) == set(expected)
    if self.name in NOT_NONE:
      is_bool = answer.type == 'bool'
      return out == expected if is_bool else expected == (out is not None)
    return same


def _floats(x: Any) -> bool:
  if isinstance(x, list | tuple) and x:
    return all(isinstance(i, float) for i in x)
  return isinstance(x, float)


def _close(out: Any, expected: Any, atol: float) -> bool:
  """numpy.allclose; numpy is loaded for outputs that are not equal, only."""
  if isinstance(out, float | int) and isinstance(expected, float | int):
    if math.isnan(out) or math.isnan(expected):
      return False
    if math.isinf(out) or math.isinf(expected):
      return out == expected
    return abs(out - expected) <= atol + RTOL * abs(expected)
  if 'numpy' not in sys.modules:
    site.main()  # the checker starts without the packages' folder
  import numpy as np

  return bool(np.allclose(out, expected, rtol=RTOL, atol=atol))


def _polynomial(coefficients: Sequence, x: Any) -> Any:
  return sum(c * math.pow(x, n) for n, c in enumerate(coefficients))


def _pyramid(edge, height) -> int:
  """Surface of a square pyramid whose height is that of its apex."""
  slant = math.sqrt((edge / 2) ** 2 + height**2)
  return round(edge**2 + 4 * (edge * slant) / 2)


def _digit_distance(a, b) -> int:
  """Sum of the differences of digits, the shorter number padded with zeros."""
  x, y = str(a), str(b)
  width = max(len(x), len(y))
  pairs = zip(x.zfill(width), y.zfill(width), strict=True)
  return sum(abs(int(i) - int(j)) for i, j in pairs)
