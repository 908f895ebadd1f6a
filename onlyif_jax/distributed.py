"""Several processes, on one host or many, that run one sweep together.

All processes run the same program on a mesh of all their devices. Process 0 alone
writes files, and decisions follow what it reads, which `agree` hands to the others.
With one process nothing here communicates or copies.
"""

import atexit
import contextlib
import functools
import os
import pickle
import re
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from onlyif_jax.config import ConfigError

ADDRESS = 'JAX_COORDINATOR_ADDRESS'
COUNT = 'JAX_NUM_PROCESSES'
INDEX = 'JAX_PROCESS_ID'
VARIABLES = (ADDRESS, COUNT, INDEX)
JOIN_SECONDS = 120  # how long processes wait for each other to start
LEAVE_SECONDS = 30  # how long a process that ends waits for the others
PARTING_SECONDS = 3  # how long a failed process 0 lets the others report their errors
SEEN_SECONDS = 20.0  # until a new file in a shared directory is visible everywhere
_STATUS = re.compile('[A-Z_]+: ')  # how errors of the JAX runtime begin

T = TypeVar('T')


def initialize() -> int:
  """Joins the processes of this run, before JAX is used; returns their number.

  Address and index come from the three variables above, or from a cluster that
  jax.distributed detects (TPU pods, GKE, SLURM, Open MPI). Raises ConfigError where
  variables are missing or wrong. After JOIN_SECONDS without the others the process
  ends with one line and exit code 2.
  """
  variables = parse_variables(os.environ)
  jax.config.update('jax_cpu_collectives_implementation', 'gloo')
  # Its handler would swallow the SIGTERM that `loop.StopSignal` handles.
  jax.config.update('jax_enable_preemption_service', False)
  # At its own timeout JAX aborts the process with a stack trace.
  alarm = threading.Timer(JOIN_SECONDS, _give_up)
  alarm.daemon = True
  alarm.start()
  try:
    jax.distributed.initialize(
      *variables,
      cluster_detection_method=None if None in variables else 'deactivate',
      initialization_timeout=JOIN_SECONDS + 60,
      shutdown_timeout_seconds=LEAVE_SECONDS,
    )
  except ValueError as e:
    missing = [n for n, v in zip(VARIABLES, variables, strict=True) if v is None]
    raise ConfigError(
      f'--multihost: no cluster was recognised ({e}), and {", ".join(missing)} not '
      f'set; set {ADDRESS}=host:port, {COUNT} and {INDEX} for every process'
    ) from None
  except RuntimeError as e:
    raise ConfigError(_join_error(str(e).partition('\n')[0])) from None
  finally:
    alarm.cancel()
  return _state().num_processes


def _state():
  # The public functions would start the devices, before `claim_devices`.
  return jax._src.distributed.global_state  # pyright: ignore[reportAttributeAccessIssue]


def _give_up() -> None:
  message = _join_error(f'waited {JOIN_SECONDS} s')
  print('error:', message, file=sys.stderr, flush=True)
  os._exit(2)


def _join_error(reason: str) -> str:
  state = _state()
  return (
    f'--multihost: process {state.process_id} could not join the others at '
    f'{state.coordinator_address} ({reason}); start all processes, and see that '
    f'{ADDRESS} is that of process 0 and can be reached, that {COUNT} is their number '
    f'and that each has its own {INDEX}'
  )


def parse_variables(
  env: Mapping[str, str],
) -> tuple[str | None, int | None, int | None]:
  """(address, count, index) from the environment, None where one is not set.

  Raises ConfigError where one is wrong.
  """
  address = env.get(ADDRESS) or None
  host, _, port = (address or 'host:1').rpartition(':')
  if not host or not port.isdigit():
    raise ConfigError(f'--multihost: {ADDRESS}={address} is not host:port')
  numbers: list[int | None] = []
  for name in (COUNT, INDEX):
    text = env.get(name) or None
    if text is not None and not text.isdigit():
      raise ConfigError(f'--multihost: {name}={text} is not a whole number')
    numbers.append(None if text is None else int(text))
  count, index = numbers
  if count is not None and (count < 1 or (index or 0) >= count):
    raise ConfigError(
      f'--multihost: {INDEX}={index} and {COUNT}={count}: the processes have the '
      f'numbers 0 to {COUNT} - 1'
    )
  return address, count, index


@contextlib.contextmanager
def session() -> Iterator[None]:
  """Makes this process end at once where it fails, or where another one has ended.

  On success it waits for the others, which would otherwise wait for it.
  """
  if not jax.distributed.is_initialized():
    yield
    return
  try:
    yield
  except (Exception, KeyboardInterrupt) as e:
    code = 128 + signal.SIGINT if isinstance(e, KeyboardInterrupt) else 1
    lost_peer = isinstance(e, RuntimeError | ValueError) and _STATUS.match(str(e))
    if lost_peer or isinstance(e, ConfigError | OSError):
      code = 2
    atexit.register(_leave, code)  # runs after the error is printed
    if lost_peer:
      reason = str(e).partition('\n')[0]
      raise ConfigError(
        f'process {jax.process_index()} cannot go on ({reason}); where another '
        'process ended, give all the same command again: they go on from the newest '
        'checkpoint'
      ) from e
    raise


def _leave(code: int) -> None:
  """Ends the process without JAX's wait for the others."""
  sys.stdout.flush()
  sys.stderr.flush()
  if _state().process_id == 0:  # its end kills the others, which may still report
    time.sleep(PARTING_SECONDS)
  os._exit(code)


def is_first() -> bool:
  """Whether this is process 0, which writes and prints."""
  return jax.process_index() == 0


def place(tree, sharding: NamedSharding) -> Any:
  """Puts a tree, equal on all processes, on a mesh of all their devices."""
  if jax.process_count() == 1:
    return jax.device_put(tree, sharding)

  def put(leaf):
    value = np.asarray(leaf)
    return jax.make_array_from_callback(value.shape, sharding, lambda at: value[at])

  return jax.tree.map(put, tree)


def fetch(tree) -> Any:
  """jax.device_get, on every process, of arrays that may span processes.

  The elements of a list are fetched one by one, so that equal ones share a program.
  """
  if jax.process_count() == 1:
    return jax.device_get(tree)
  if isinstance(tree, list):
    return [fetch(part) for part in tree]
  leaves, structure = jax.tree.flatten(tree)
  split = [n for n, leaf in enumerate(leaves) if not _is_local(leaf)]
  if split:
    gathered = _gather(leaves[split[0]].sharding.mesh)([leaves[n] for n in split])
    for n, leaf in zip(split, gathered, strict=True):
      leaves[n] = leaf
  return jax.device_get(jax.tree.unflatten(structure, leaves))


def _is_local(leaf) -> bool:
  """Whether this process holds all of a leaf."""
  if not isinstance(leaf, jax.Array):
    return True
  return leaf.is_fully_addressable or leaf.is_fully_replicated


@functools.cache
def _gather(mesh):
  return jax.jit(lambda leaves: leaves, out_shardings=NamedSharding(mesh, P()))


def agree(function: Callable[[], T]) -> T:
  """Calls a function on process 0 and returns its result on every process.

  All processes must call this. What it raises on process 0 is a ConfigError on the
  others.
  """
  if jax.process_count() == 1:
    return function()
  message, error = None, None
  if is_first():
    try:
      message = True, function()
    except Exception as e:  # or the others would wait for ever
      error = e
      message = False, f'{e} (process 0)'
  succeeded, value = pickle.loads(_broadcast(pickle.dumps(message)))
  if error is not None:
    raise error
  if not succeeded:
    raise ConfigError(value)
  return value


def _broadcast(data: bytes) -> bytes:
  """The bytes of process 0, on every process."""
  size = int(multihost_utils.broadcast_one_to_all(np.int32(len(data))))
  # Powers of two, so that few programs are compiled.
  padded = np.zeros(1 << (size - 1).bit_length(), np.uint8)
  if is_first():
    padded[:size] = np.frombuffer(data, np.uint8)
  return multihost_utils.broadcast_one_to_all(padded)[:size].tobytes()


def together(function: Callable[[], None]) -> None:
  """Calls a function on every process; if one fails, all raise."""
  if jax.process_count() == 1:
    return function()
  error = None
  try:
    function()
  except Exception as e:
    error = e
  failed = np.flatnonzero(_all(error is not None))
  if error is not None:
    raise error
  if failed.size:
    raise ConfigError(f'process {failed[0]} failed; its own output says why')
  return None


def largest(number: int) -> int:
  """The largest of the numbers of all processes."""
  return number if jax.process_count() == 1 else int(_all(number).max())


def _all(number: int) -> np.ndarray:
  """The numbers of all processes, by process."""
  return np.asarray(multihost_utils.process_allgather(np.int32(number)))


def check_shared(directory: Path) -> None:
  """Raises ConfigError unless all processes see the files of process 0.

  Also where their numbers of devices differ, which no mesh could use.
  """
  if jax.process_count() == 1:
    return
  _check_devices()
  name = agree(lambda: f'.shared-{uuid.uuid4().hex}')
  probe = directory / name
  agree(lambda: probe.write_text(name))
  blind = np.flatnonzero(_all(not _sees(probe)))
  agree(probe.unlink)
  if blind.size:
    raise ConfigError(
      f'--workdir={directory} is not shared: processes {blind.tolist()} do not see '
      'what process 0 writes there; give a directory that all hosts mount'
    )


def _check_devices() -> None:
  """Raises ConfigError on every process alike, since each knows all devices."""
  owners = [device.process_index for device in jax.devices()]
  counts = [owners.count(index) for index in range(jax.process_count())]
  if len(set(counts)) > 1:
    raise ConfigError(
      f'the processes have {counts} devices; give each the same number, the same '
      'command and the same --workdir'
    )


def _sees(probe: Path) -> bool:
  """Whether the probe appears here in time; shared directories may lag."""
  end = time.monotonic() + SEEN_SECONDS
  while time.monotonic() < end:
    with contextlib.suppress(OSError):
      if probe.read_text() == probe.name:
        return True
    time.sleep(0.1)
  return False
