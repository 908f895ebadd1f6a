"""What a machine offers to isolate programs with, and what must hold of it.

Modes, the first that holds is taken: `root` (namespaces and an unused uid), `user`
(namespaces inside a user namespace; as root, of an unused uid), `bwrap` (bubblewrap
makes them), `uid` (root without namespaces: an unused uid and limits only, if the
network is allowed).
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

UIDS = range(60600, 61184)  # which no distribution gives to users or services
_SYSTEM = ('/usr', '/lib', '/lib32', '/lib64', '/bin', '/nix/store')
_RUN = (
  'import sys; sys.path.insert(0, {harness!r}); '
  'from onlyif_jax.evals.sandbox_{role} import main; '
  'sys.path.remove({harness!r}); main({fds})'
)
# Tries, within bounds, what a program must not be able to do.
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
    """The command of a cell, less its settings; folder: its own, empty."""
    inner = [self.python, '-I', '-S', str(cell)]
    if self.mode != 'bwrap':
      return inner
    words = [self.wrapper, '--unshare-all', '--die-with-parent', '--new-session']
    words += ['--as-pid-1', '--clearenv', '--uid', '60577', '--gid', '60577']
    words += ['--cap-drop', 'ALL'] + ['--share-net'] * self.network
    words += ['--tmpfs', '/tmp']  # first: the interpreter may live below it
    for path in (*self._binds(), str(cell.parent)):
      words += ['--ro-bind', path, path]
    for path, target in _links().items():
      words += ['--symlink', target, path]
    words += ['--proc', '/proc', '--dev', '/dev']
    words += ['--tmpfs', '/harness', '--remount-ro', '/']
    return [*words, '--', *inner]

  def config(self, folder: Path, role: str, uid: int | None) -> dict[str, Any]:
    """The cell's settings, less limits and file descriptors."""
    harness, cwd = '/harness', '/tmp'
    if self.mode == 'uid':
      harness, cwd = str(folder / 'harness'), str(folder / 'tmp')
      os.mkdir(cwd, 0o700)
      assert uid is not None
      os.chown(cwd, uid, uid)
    root = folder / 'root'
    root.mkdir()
    fds = '3, 4' if role == 'checker' else '3'
    text = _RUN.format(harness=harness, role=role, fds=fds)
    # The checker needs the packages' folder for numpy only, and asks for it then.
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
      'command': [self.python, '-s', '-P', *bare, '-c', text],
    }

  def _binds(self) -> list[str]:
    """Folders to be seen inside: the system's libraries and the interpreter."""
    system = [p for p in _SYSTEM if os.path.isdir(p) and not os.path.islink(p)]
    out: list[str] = []
    for path in (*system, *self.prefixes):
      if not any(path == p or path.startswith(p + '/') for p in out):
        out.append(path)
    return out


def _links() -> Mapping[str, str]:
  return {p: os.readlink(p) for p in _SYSTEM if os.path.islink(p)}


def possible(*, allow_network: bool) -> Iterator[Isolation]:
  """The isolations to try here, the strongest first."""
  if not sys.platform.startswith('linux'):
    raise ConfigError('generated code is only run on Linux; score the samples there')
  root = os.getuid() == 0
  wrapper = shutil.which('bwrap') or ''
  if root:
    yield Isolation('root', allow_network, uids=True)
  yield Isolation('user', allow_network, uids=root)
  # Under root bubblewrap would run programs as root.
  if wrapper and not root:
    yield Isolation('bwrap', allow_network, wrapper=wrapper)
  if root and allow_network:
    yield Isolation('uid', True, uids=True)


def missing(found: Mapping[str, Any], isolation: Isolation) -> str:
  """What the probe got through to although it must not; '' if nothing."""
  allowed = {'PYTHONHASHSEED', 'OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'LC_CTYPE'}
  if found['children'] > 9:
    return f'it started {found["children"]} processes beyond its limit'
  if found['network'] and not isolation.network:
    return 'it reached a network'
  if found['root']:
    return 'it ran as root'
  if found['shared']:
    return 'it got shared memory, which no limit counts'
  if set(found['environment']) - allowed:
    return 'it saw the environment'
  if found['parent']:
    return "it could read its parent's environment"
  if found['writes']:
    return f'it could write to {", ".join(found["writes"])}'
  return ''


@contextlib.contextmanager
def leased(count: int) -> Iterator[Sequence[int]]:
  """Uids that no user has, no process runs as, and no other sandbox holds."""
  taken = _running_uids()
  with contextlib.ExitStack() as stack:
    uids: list[int] = []
    for uid in UIDS:
      if len(uids) == count:
        break
      if uid not in taken and not _named(uid) and (lock := _lock(uid)):
        stack.enter_context(lock)
        uids.append(uid)
    if len(uids) < count:
      raise ConfigError(
        f'no unused uid is left between {UIDS[0]} and {UIDS[-1]} to run programs as; '
        'use fewer workers or end the processes that run there'
      )
    yield uids


def _lock(uid: int) -> socket.socket | None:
  """Held as long as the socket is open, also against other processes."""
  lock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
  try:
    lock.bind(f'\0onlyif_jax-sandbox-{uid}')
  except OSError:
    lock.close()
    return None
  return lock


def _named(uid: int) -> bool:
  try:
    pwd.getpwuid(uid)
  except KeyError:
    return False
  return True


def _running_uids() -> set[int]:
  """Real, effective, saved and file-system uids of all processes."""
  out: set[int] = set()
  for name in os.listdir('/proc'):
    if name.isdigit():
      with contextlib.suppress(OSError), open(f'/proc/{name}/status') as file:
        for line in file:
          if line.startswith('Uid:'):
            out.update(map(int, line.split()[1:]))
            break
  return out
