"""One cell: isolates itself, runs one process inside, and reports how it ended.

Run as a program with its settings (JSON) as the only argument; it imports nothing of
this package. The scorer holds the other end of file descriptor 0; closing it ends the
cell. The report on descriptor 1 is one JSON object: `refused` (why the cell could not
be made), or how the process ended, its CPU and wall seconds, and the head of its output.

Modes: `root` (namespaces; the process is dropped to an unused uid), `user` (the same
within a user namespace), `inside` (bubblewrap has made the namespaces), `uid` (no
namespaces: an unused uid only).
"""

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import resource
import select
import signal
import struct
import sys
import time
from typing import Any

NEWNS, NEWUTS, NEWIPC = 0x00020000, 0x04000000, 0x08000000
NEWUSER, NEWPID, NEWNET = 0x10000000, 0x20000000, 0x40000000
RDONLY, NOSUID, NODEV, NOEXEC = 1, 2, 4, 8
REMOUNT, BIND, REC, PRIVATE = 32, 4096, 16384, 1 << 18
PDEATHSIG, DUMPABLE, SECCOMP, SUBREAPER, NO_NEW_PRIVS = 1, 4, 22, 36, 38
INNER = 60577  # the uid and gid inside a user namespace
# The machine's ABI, then numbers by machine of forbidden system calls: for memory that no
# rlimit counts and that outlives its mapping, and those that could mount a new tmpfs.
AUDIT = {'x86_64': 0xC000003E, 'aarch64': 0xC00000B7}
FORBIDDEN = {
  'shmget': {'x86_64': 29, 'aarch64': 194},
  'msgget': {'x86_64': 68, 'aarch64': 186},
  'semget': {'x86_64': 64, 'aarch64': 190},
  'memfd_create': {'x86_64': 319, 'aarch64': 279},
  'memfd_secret': {'x86_64': 447, 'aarch64': 447},
  'unshare': {'x86_64': 272, 'aarch64': 97},
  'mount': {'x86_64': 165, 'aarch64': 40},
  'fsopen': {'x86_64': 430, 'aarch64': 430},
}
MODULES = ('sandbox_plain', 'sandbox_candidate', 'sandbox_checker')
_libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
  """Makes the cell, runs the process, reports."""
  config = json.loads(sys.argv[1])
  sources = _sources(config)
  try:
    if config['mode'] == 'user':
      _enter_user_namespace(config)
    if config['mode'] in ('root', 'user'):
      flags = NEWNS | NEWUTS | NEWIPC | NEWPID
      _unshare(flags | (0 if config['network'] else NEWNET))
      child = os.fork()
      if child:
        for fd in (1, *config['fds']):
          os.close(fd)  # readers wait until the last copy is closed
        os.waitpid(child, 0)
        os._exit(0)
    if config['mode'] != 'uid' and os.getpid() != 1:
      raise OSError(0, 'there is no process namespace of its own', 'cell')
    # Other processes of this user must not read this one.
    _libc.prctl(DUMPABLE, 0, 0, 0, 0)
    _libc.prctl(SUBREAPER, 1, 0, 0, 0)
    if config['mode'] in ('root', 'user'):
      _make_root(config)
    _write_modules(config, sources)
    report = Init(config).run()
  except OSError as e:
    report = {'refused': f'{e.filename or e.args[-1]}: {e.strerror}'}
  with open(1, 'w') as out:
    json.dump(report, out)
  os._exit(0)


def _sources(config: dict[str, Any]) -> dict[str, str]:
  """The modules that run inside, read before the root changes."""
  folder = os.path.dirname(os.path.abspath(__file__))
  sources = {}
  for name in MODULES:
    with open(os.path.join(folder, f'{name}.py'), encoding='utf-8') as file:
      sources[name] = file.read()
  return sources


def _write_modules(config: dict[str, Any], sources: dict[str, str]) -> None:
  package = os.path.join(config['harness'], 'onlyif_jax')
  os.makedirs(os.path.join(package, 'evals'))
  files = {'__init__': '', 'evals/__init__': ''}
  files |= {f'evals/{name}': text for name, text in sources.items()}
  for name, text in files.items():
    with open(os.path.join(package, f'{name}.py'), 'w', encoding='utf-8') as file:
      file.write(text)
  if config['mode'] in ('root', 'user'):
    _mount(None, '/', None, REMOUNT | BIND | RDONLY | NOSUID | NODEV)


def _check(result: int, what: str) -> None:
  if result:
    code = ctypes.get_errno()
    raise OSError(code, os.strerror(code), what)


def _unshare(flags: int) -> None:
  _check(_libc.unshare(ctypes.c_int(flags)), 'unshare')


def _mount(source, target: str, kind, flags: int, data: str | None = None) -> None:
  def raw(text):
    return None if text is None else text.encode()

  _check(
    _libc.mount(
      *(raw(source), raw(target), raw(kind), ctypes.c_ulong(flags), raw(data))
    ),
    f'mount {target}',
  )


def _drop(uid: int) -> None:
  os.setgroups([])
  os.setresgid(uid, uid, uid)
  os.setresuid(uid, uid, uid)


def _enter_user_namespace(config: dict[str, Any]) -> None:
  """Enters a user namespace, as an unused uid where root starts the cell."""
  if config['uid'] is not None:
    _drop(config['uid'])
    _libc.prctl(DUMPABLE, 1, 0, 0, 0)  # else /proc/self stays root's
  uid, gid = os.getuid(), os.getgid()
  _unshare(NEWUSER)
  for name, text in (
    ('setgroups', 'deny'),
    ('uid_map', f'{INNER} {uid} 1'),
    ('gid_map', f'{INNER} {gid} 1'),
  ):
    with open(f'/proc/self/{name}', 'w') as file:
      file.write(text)


def _make_root(config: dict[str, Any]) -> None:
  """Changes to a new root folder: the interpreter, read-only, and an empty /tmp."""
  _mount(None, '/', None, REC | PRIVATE)
  root = config['root']
  safe = NOSUID | NODEV
  _mount('tmpfs', root, 'tmpfs', safe, 'size=4m,mode=0755')
  # Before the binds, since the interpreter may live below /tmp.
  os.makedirs(f'{root}/tmp')
  uid = INNER if config['mode'] == 'user' else config['uid']
  size = config['limits']['disk_mb']
  options = f'size={size}m,nr_inodes=10000,mode=0700,uid={uid},gid={uid}'
  _mount('tmpfs', f'{root}/tmp', 'tmpfs', safe, options)
  for path in config['binds']:
    target = root + path
    os.makedirs(target)
    _bind(path, target)
  for path, target in config['links'].items():
    os.makedirs(os.path.dirname(root + path), exist_ok=True)
    os.symlink(target, root + path)
  for folder in ('dev', 'proc'):
    os.makedirs(f'{root}/{folder}', exist_ok=True)
  for name in ('null', 'zero', 'random', 'urandom'):
    with open(f'{root}/dev/{name}', 'w'):
      pass
    _mount(f'/dev/{name}', f'{root}/dev/{name}', None, BIND)
  # Containers that hide parts of /proc refuse a new one; the cell then has none.
  _quietly(_mount, 'proc', f'{root}/proc', 'proc', safe | NOEXEC | RDONLY)
  os.chroot(root)
  os.chdir('/')


def _bind(path: str, target: str) -> None:
  try:
    _mount(path, target, None, BIND)
  except OSError:  # mounts below must not be uncovered in a user namespace
    _mount(path, target, None, BIND | REC)
  # A user namespace must not clear flags that the mount already has.
  kept = os.statvfs(target).f_flag & (NOSUID | NODEV | NOEXEC)
  _mount(None, target, None, REMOUNT | BIND | RDONLY | NOSUID | NODEV | kept)


class Init:
  """The first process of a cell: starts the program's process, watches and ends it."""

  def __init__(self, config: dict[str, Any]):
    self.config = config
    self.limits = config['limits']
    self.head = b''
    self.printed = 0
    self.cpu = 0.0

  def run(self) -> dict[str, Any]:
    """Runs the process to its end; returns the report."""
    started = time.monotonic()
    read_end, write_end = os.pipe()
    awake, waker = os.pipe()
    error_read, error_write = os.pipe()
    for fd in (read_end, awake, waker):
      os.set_blocking(fd, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
    child = os.fork()
    if not child:
      self._become(write_end, error_write)
    for fd in (write_end, error_write, *self.config['fds']):
      os.close(fd)
    if error := os.read(error_read, 4096):  # empty once the interpreter has begun
      return {'refused': error.decode('utf-8', 'replace')}
    how, status = self._watch(
      child, read_end, awake, started + self.limits['wall_seconds']
    )
    self._kill_all()
    self._drain(read_end)
    return {
      'end': how,
      'code': os.waitstatus_to_exitcode(status),
      'cpu': self.cpu,
      'wall': time.monotonic() - started,
      'output': self.head.decode('utf-8', 'replace'),
      'printed': self.printed,
    }

  def _watch(self, child: int, read_end: int, awake: int, deadline: float):
    """How the process ended: exited, stopped (by the scorer), wall or output."""
    fds = [0, read_end, awake]
    while True:
      remaining = deadline - time.monotonic()
      if remaining <= 0:
        return 'wall', 0
      ready, _, _ = select.select(fds, [], [], remaining)
      if awake in ready:
        os.read(awake, 4096)
        status = self._reap(child)
        if status is not None:
          return 'exited', status
      if 0 in ready:
        return 'stopped', 0
      if read_end in ready and not self._read(read_end):
        fds.remove(read_end)  # every writer has closed it
      if self.printed > self.limits['output_mb'] << 20:
        return 'output', 0

  def _read(self, read_end: int) -> bool:
    try:
      data = os.read(read_end, 1 << 16)
    except BlockingIOError:
      return True
    self.printed += len(data)
    self.head += data[: self.limits['head_bytes'] - len(self.head)]
    return bool(data)

  def _drain(self, read_end: int) -> None:
    before = -1
    while self.printed != before:
      before = self.printed
      self._read(read_end)

  def _reap(self, child: int) -> int | None:
    """Collects ended processes; returns the main one's status if it is among them."""
    child_status = None
    while True:
      try:
        pid, status, usage = os.wait4(-1, os.WNOHANG)
      except ChildProcessError:
        return child_status
      if not pid:
        return child_status
      self.cpu += usage.ru_utime + usage.ru_stime
      child_status = status if pid == child else child_status

  def _kill_all(self) -> None:
    """Kills all processes of the cell, including those that left its group."""
    signal.set_wakeup_fd(-1)
    while True:
      if os.getpid() == 1:
        _quietly(os.kill, -1, signal.SIGKILL)  # reaches this namespace alone
      elif not (killer := os.fork()):
        try:
          _drop(self.config['uid'])  # nothing but this cell runs as this uid
          _quietly(os.kill, -1, signal.SIGKILL)
        finally:
          os._exit(0)
      else:
        os.waitpid(killer, 0)
      try:
        _, _, usage = os.wait4(-1, 0)
      except ChildProcessError:
        return
      self.cpu += usage.ru_utime + usage.ru_stime

  def _become(self, output: int, error_fd: int) -> None:
    """In the forked child: sets limits, drops to the uid, and execs; never returns."""
    try:
      os.setsid()
      signal.set_wakeup_fd(-1)
      signal.signal(signal.SIGCHLD, signal.SIG_DFL)
      null = os.open('/dev/null', os.O_RDONLY)
      # Moved out of the way of the final numbers, so that none is overwritten.
      fds = [fcntl.fcntl(fd, fcntl.F_DUPFD, 64) for fd in (null, output, output)]
      fds += [fcntl.fcntl(fd, fcntl.F_DUPFD, 64) for fd in self.config['fds']]
      error_fd = fcntl.fcntl(error_fd, fcntl.F_DUPFD, 64)
      for number, fd in enumerate(fds):
        os.dup2(fd, number)
      os.dup2(error_fd, len(fds), inheritable=False)
      error_fd = len(fds)
      os.closerange(error_fd + 1, 4096)
      os.chdir(self.config['cwd'])
      for name, value in _rlimits(self.limits).items():
        resource.setrlimit(name, value)
      if self.config['mode'] in ('root', 'uid'):
        _drop(self.config['uid'])
      _libc.prctl(NO_NEW_PRIVS, 1, 0, 0, 0)
      _forbid(os.uname().machine)
      command = self.config['command']
      os.execve(command[0], command, self.config['environment'])
    except BaseException as e:
      os.write(error_fd, f'{self.config["command"][0]}: {e}'.encode())
    os._exit(127)


def _rlimits(limits: dict[str, Any]) -> dict[int, tuple[int, int]]:
  cpu = max(1, int(limits['cpu_seconds'] + 0.999))
  memory = int(limits['memory_mb']) << 20
  size = int(limits['file_mb']) << 20
  return {
    resource.RLIMIT_CPU: (cpu, cpu + 1),
    resource.RLIMIT_AS: (memory, memory),
    # In a user namespace this process and its parent count, too.
    resource.RLIMIT_NPROC: (limits['processes'] + 2,) * 2,
    resource.RLIMIT_NOFILE: (limits['open_files'],) * 2,
    resource.RLIMIT_FSIZE: (size, size),
    resource.RLIMIT_CORE: (0, 0),
    resource.RLIMIT_MEMLOCK: (0, 0),
    resource.RLIMIT_MSGQUEUE: (0, 0),
  }


class _Program(ctypes.Structure):
  _fields_ = [('length', ctypes.c_ushort), ('steps', ctypes.c_char_p)]


def _forbid(machine: str) -> None:
  """Makes FORBIDDEN calls fail in this process and its descendants (seccomp)."""
  if machine not in AUDIT:
    raise OSError(errno.ENOSYS, f'no list of forbidden system calls for {machine}')
  load, equal, at_least, return_ = (
    0x20,
    0x15,
    0x35,
    0x06,
  )  # steps of a classic BPF program
  numbers = [by_machine[machine] for by_machine in FORBIDDEN.values()]
  count = len(numbers)
  steps = [
    (load, 0, 0, 4),  # the ABI of the call, on which the meaning of numbers depends
    (equal, 0, count + 3, AUDIT[machine]),
    (load, 0, 0, 0),  # the number of the call
    (at_least, count + 1, 0, 1 << 30),  # x32: the same ABI value, other numbers
    *((equal, count - i, 0, number) for i, number in enumerate(numbers)),
    (return_, 0, 0, 0x7FFF0000),  # allow
    (return_, 0, 0, 0x00050000 | errno.EPERM),
  ]
  program = _Program(len(steps), b''.join(struct.pack('=HBBI', *s) for s in steps))
  _check(_libc.prctl(SECCOMP, 2, ctypes.byref(program), 0, 0), 'seccomp')


def _quietly(function, *args) -> None:
  with contextlib.suppress(OSError):
    function(*args)


if __name__ == '__main__':
  main()
