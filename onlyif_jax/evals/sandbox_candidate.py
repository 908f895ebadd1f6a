"""Runs a program under test inside its cell and answers calls of its functions.

This process knows neither the tests nor the expected outputs: it gets the program and
then, one by one, arguments; what it sends back is only compared as data, in another
process. So nothing here needs to be hidden from the program.
"""

import os
import random
import signal
import sys
import time
import traceback
from typing import Any

from onlyif_jax.evals import sandbox_plain as plain

LIMIT = 1 << 30  # bytes of a message from the checker, which is trusted


def main(fd: int) -> None:
  """Serves the socket fd until its other end closes; never returns."""
  job = plain.receive(fd, LIMIT)
  random.seed(0)
  if not job['serve']:
    os.close(fd)
    _run_alone(job['program'])
  names: dict[str, Any] = {}
  try:
    exec(compile(job['program'], '<program>', 'exec'), names)
  except BaseException as e:
    plain.send(fd, _error(e, 0.0))
  else:
    plain.send(fd, ['loaded'])
  while True:
    try:
      name, args, kwargs, seconds = plain.receive(fd, LIMIT)
    except EOFError:
      os._exit(0)
    plain.send(fd, _call(names, name, args, kwargs, seconds))


def _call(names: dict[str, Any], name: str, args: Any, kwargs: Any, seconds: float):
  """The reply to one call: its value and type, or its error, and CPU seconds."""
  if name not in names:
    return ['error', 'NameError', f'the program has no {name!r}', 0.0]
  args, kwargs = plain.decode(args), plain.decode(kwargs)
  start = time.process_time()
  try:
    # A limit on CPU time, with the default action: the kernel kills the process.
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    value = names[name](*args, **kwargs)
    cpu_seconds = time.process_time() - start
    return ['value', plain.encode(value), type(value).__name__, cpu_seconds]
  except BaseException as e:
    return _error(e, time.process_time() - start)
  finally:
    signal.setitimer(signal.ITIMER_PROF, 0)


def _error(error: BaseException, cpu_seconds: float) -> list:
  try:
    text = str(error)[:200]
  except BaseException:
    text = ''
  return ['error', type(error).__name__, text, cpu_seconds]


def _run_alone(program: str) -> None:
  """Runs the program as a script, and exits as it does."""
  try:
    exec(compile(program, '<program>', 'exec'), {'__name__': '__main__'})
  except SystemExit:
    raise
  except BaseException:
    traceback.print_exc()
    sys.exit(1)
  sys.exit(0)
