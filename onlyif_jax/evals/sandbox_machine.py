"""The ways to isolate programs on a machine, and the probe that checks them.

Modes, of which the first that holds is used: `root` (namespaces and an unused uid),
`user` (namespaces inside a user namespace; as root, of an unused uid), `bwrap`
(namespaces made by bubblewrap), `uid` (root without namespaces: only an unused uid and
limits, if the network is allowed).
"""

import contextlib
import dataclasses
import os
import pwd
import shutil
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from onlyif_jax.config import ConfigError

UIDS = range(60600, 61184)  # no distribution gives these to users or services
_SYSTEM = ('/usr', '/lib', '/lib32', '/lib64', '/bin', '/nix/store')
_RUN = (
  'import sys; sys.path.insert(0, {harness!r}); '
  'from onlyif_jax.evals.sandbox_{role} import main; '
  'sys.path.remove({harness!r}); main({fds})'
)
# Tries what a program must not be able to do, within bounds.
PROBE = """
import ctypes, os, socket, time

def shared():
  libc = ctypes.CDLL(None)
  found = libc.shmget(0, ctypes.c_size_t(1), 0o600)
  if found >= 0:
    libc.shmctl(found, 0, None)
  try:
    os.close(os.memfd_create('probe'))
  except OSError:
    return found >= 0
  return True

def probe(limit):
  children = []
  try:
    for _ in range(limit + 9):
      pid = os.fork()
      if not pid:
        time.sleep(60)
        os._exit(0)
      children.append(pid)
  except OSError:
    pass
  for pid in children:
    os.kill(pid, 9)
    os.waitpid(pid, 0)
  try:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
      s.connect(('192.0.2.1', 9))
    network = True
  except OSError:
    network = False
  return {
    'children': len(children),
    'network': network,
    'root': os.getuid() == 0,
    'shared': shared(),
    'environment': sorted(os.environ),
    'parent': os.path.exists(f'/proc/{os.getppid()}/environ') and os.access(
      f'/proc/{os.getppid()}/environ', os.R_OK),
    'writes': [p for p in ('/', '/usr', '/etc', '/home') if os.access(p, os.W_OK)],
  }
"""


@dataclasses.dataclass(frozen=True)
class Isolation:
  """How cells are made."""

  mode: str
  network: bool = False  # whether programs may reach it
  uids: bool = False  # whether cells drop from root to unused uids
  wrapper: str = ''  # bubblewrap's path
  python: str = sys.executable
  prefixes: tuple[str, ...] = (sys.base_prefix, sys.prefix)

  def command(self, folder: Path, cell: Path) -> list[str]:
    """The command of a cell without its settings; folder: its own, empty."""
    interpreter = [self.python, '-I', '-S', str(cell)]
    if self.mode != 'bwrap':
      return interpreter
    argv = [self.wrapper, '--unshare-all', '--die-with-parent', '--new-session']
    argv += ['--as-pid-1', '--clearenv', '--uid', '60577', '--gid', '60577']
    argv += ['--cap-drop', 'ALL'] + ['--share-net'] * self.network
    argv += ['--tmpfs', '/tmp']  # first: the interpreter may live below it
    for path in (*self._binds(), str(cell.parent)):
      argv += ['--ro-bind', path, path]
    for path, target in _links().items():
      argv += ['--symlink', target, path]
    argv += ['--proc', '/proc', '--dev', '/dev']
    argv += ['--tmpfs', '/harness', '--remount-ro', '/']
    return [*argv, '--', *interpreter]

  def config(self, folder: Path, role: str, uid: int | None) -> dict[str, Any]:
    """The cell's settings without limits and file descriptors."""
    harness, cwd = '/harness', '/tmp'
    if self.mode == 'uid':
      harness, cwd = str(folder / 'harness'), str(folder / 'tmp')
      os.mkdir(cwd, 0o700)
      assert uid is not None
      os.chown(cwd, uid, uid)
    root = folder / 'root'
    root.mkdir()
    fds = '3, 4' if role == 'checker' else '3'
    script = _RUN.format(harness=harness, role=role, fds=fds)
    # The checker adds the packages' folder itself, only if it needs numpy.
    bare = ['-S'] if role == 'checker' else []
    return {
      'mode': 'inside' if self.mode == 'bwrap' else self.mode,
      'network': self.network,
      'uid': uid,
      'root': str(root),
      'binds': self._binds(),
      'links': _links(),
      'harness': harness,
      'cwd': cwd,
      'command': [self.python, '-s', '-P', *bare, '-c', script],
    }

  def _binds(self) -> list[str]:
    """Folders visible inside: the system's libraries and the interpreter."""
    system = [
      folder
      for folder in _SYSTEM
      if os.path.isdir(folder) and not os.path.islink(folder)
    ]
    binds: list[str] = []
    for path in (*system, *self.prefixes):
      if not any(path == folder or path.startswith(folder + '/') for folder in binds):
        binds.append(path)
    return binds


def _links() -> Mapping[str, str]:
  return {p: os.readlink(p) for p in _SYSTEM if os.path.islink(p)}


def candidates(*, allow_network: bool) -> Iterator[Isolation]:
  """The isolations to try on this machine, the strongest first."""
  if not sys.platform.startswith('linux'):
    raise ConfigError('generated code is only run on Linux; score the samples there')
  root = os.getuid() == 0
  wrapper = shutil.which('bwrap') or ''
  if root:
    yield Isolation('root', allow_network, uids=True)
  yield Isolation('user', allow_network, uids=root)
  # As root, bubblewrap would run programs as root.
  if wrapper and not root:
    yield Isolation('bwrap', allow_network, wrapper=wrapper)
  if root and allow_network:
    yield Isolation('uid', True, uids=True)


def breach(probed: Mapping[str, Any], isolation: Isolation) -> str:
  """What the probe could do although it must not; '' if nothing."""
  allowed = {'PYTHONHASHSEED', 'OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'LC_CTYPE'}
  if probed['children'] > 9:
    return f'it started {probed["children"]} processes beyond its limit'
  if probed['network'] and not isolation.network:
    return 'it reached a network'
  if probed['root']:
    return 'it ran as root'
  if probed['shared']:
    return 'it got shared memory, which no limit counts'
  if set(probed['environment']) - allowed:
    return 'it saw the environment'
  if probed['parent']:
    return "it could read its parent's environment"
  if probed['writes']:
    return f'it could write to {", ".join(probed["writes"])}'
  return ''


@contextlib.contextmanager
def lease_uids(count: int) -> Iterator[Sequence[int]]:
  """Holds uids that no user has, no process runs as, and no other sandbox holds."""
  running = _running_uids()
  with contextlib.ExitStack() as stack:
    uids: list[int] = []
    for uid in UIDS:
      if len(uids) == count:
        break
      if uid not in running and not _has_user(uid) and (lock := _lock(uid)):
        stack.enter_context(lock)
        uids.append(uid)
    if len(uids) < count:
      raise ConfigError(
        f'no unused uid is left between {UIDS[0]} and {UIDS[-1]} to run programs as; '
        'use fewer workers or end the processes that run there'
      )
    yield uids


def _lock(uid: int) -> socket.socket | None:
  """Locks a uid, also against other processes, as long as the socket is open."""
  lock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
  try:
    lock.bind(f'\0onlyif_jax-sandbox-{uid}')
  except OSError:
    lock.close()
    return None
  return lock


def _has_user(uid: int) -> bool:
  try:
    pwd.getpwuid(uid)
  except KeyError:
    return False
  return True


def _running_uids() -> set[int]:
  """Real, effective, saved and file-system uids of all processes."""
  uids: set[int] = set()
  for name in os.listdir('/proc'):
    if name.isdigit():
      with contextlib.suppress(OSError), open(f'/proc/{name}/status') as file:
        for line in file:
          if line.startswith('Uid:'):
            uids.update(map(int, line.split()[1:]))
            break
  return uids
