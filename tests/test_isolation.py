"""What a machine offers to isolate programs with, and what stays the same in all."""

import contextlib
import dataclasses
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from test_sandbox import DOUBLE, REFUSED, RIGHT, possible, run, sandboxed

from onlyif_jax.config import ConfigError
from onlyif_jax.evals import sandbox, sandbox_machine
from onlyif_jax.evals.sandbox import (
  Calls,
  Isolation,
  Job,
  Limits,
)


def test_isolation_is_refused_only_where_the_kernel_refuses_namespaces():
  """Else every test below would agree with a sandbox that refuses always."""
  words = ['unshare', '--net', '--pid', '--fork', '--mount', '--mount-proc']
  user = [] if os.getuid() == 0 else ['--user', '--map-root-user']
  with contextlib.suppress(FileNotFoundError):
    allowed = subprocess.run([*words, *user, 'true'], capture_output=True, check=False)
    if allowed.returncode == 0:
      assert sandbox.detect().mode in ('root', 'user')
      return
  if not possible():
    with pytest.raises(ConfigError, match=REFUSED):
      sandbox.detect()


@sandboxed
def test_interpreters_below_tmp_are_seen(tmp_path):
  """As in a virtual environment that `mktemp -d` made: closed to other users."""
  tmp_path.chmod(0o700)
  venv.create(tmp_path / 'venv', with_pip=False)
  isolation = dataclasses.replace(
    sandbox.detect(),
    python=str(tmp_path / 'venv/bin/python'),
    prefixes=(sys.base_prefix, str(tmp_path / 'venv')),
  )
  if isolation.mode in ('root', 'bwrap') or os.getuid():
    assert sandbox.verify(isolation) == ''


@sandboxed
def test_nothing_is_left_in_the_temporary_folder(tmp_path, monkeypatch):
  monkeypatch.setattr('tempfile.tempdir', str(tmp_path))
  tmp_path.chmod(0o755)
  for parent in list(tmp_path.parents)[:2]:
    parent.chmod(0o755)
  assert run('open("mine", "w").write("x")\n' + RIGHT).status == 'passed'
  assert list(tmp_path.iterdir()) == []


def test_weaker_isolations_hold_or_are_refused():
  python = next(
    (p for p in ('/usr/bin/python3', sys.executable) if Path(p).exists()), ''
  )
  for mode in ('user', 'uid'):
    root = os.getuid() == 0
    if mode == 'uid' and not root:
      continue
    isolation = Isolation(
      mode, mode == 'uid', uids=root, python=python, prefixes=('/usr',)
    )
    wrong = sandbox.verify(isolation)
    if wrong:
      assert 'the sandbox cannot be made on this machine: ' in wrong
      continue
    check = Calls.of('double', [([3], 6)], seconds=0.3)
    limits = Limits(cpu_seconds=2.0)
    program = f'import os, time\nif not os.fork(): os.setsid(), time.sleep(60)\n{RIGHT}'
    assert sandbox.run(program, check, limits, isolation).status == 'passed'
    loop = 'def double(x):\n  while True: pass'
    assert sandbox.run(loop, check, limits, isolation).status == 'timed_out'


def test_the_strongest_isolation_is_tried_first(monkeypatch):
  def modes(uid, wrapper, network=False):
    monkeypatch.setattr('os.getuid', lambda: uid)
    monkeypatch.setattr('shutil.which', lambda _: wrapper)
    return [i.mode for i in sandbox_machine.candidates(allow_network=network)]

  assert modes(0, '/usr/bin/bwrap') == ['root', 'user']
  assert modes(0, '', network=True) == ['root', 'user', 'uid']
  assert modes(7, '/usr/bin/bwrap') == ['user', 'bwrap']
  assert modes(7, None, network=True) == ['user']


def test_bubblewrap_holds_where_it_is_installed():
  wrapper = shutil.which('bwrap')
  if os.getuid() == 0 or not wrapper:
    pytest.skip('needs bubblewrap, and a user other than root')
  wrong = sandbox.verify(Isolation('bwrap', wrapper=wrapper))
  assert wrong == '' or 'the sandbox cannot be made on this machine: ' in wrong


def test_a_machine_without_namespaces_refuses():
  """In a user namespace that allows no further namespaces and has a single uid."""
  program = """
import ctypes, os
from onlyif_jax.config import ConfigError
from onlyif_jax.evals import sandbox
uid = os.getuid()
if not ctypes.CDLL(None).unshare(0x10000000):
  open('/proc/self/setgroups', 'w').write('deny')
  open('/proc/self/uid_map', 'w').write(f'0 {uid} 1')
  for kind in ('user', 'net', 'pid', 'mnt'):
    open(f'/proc/sys/user/max_{kind}_namespaces', 'w').write('0')
try: print(sandbox.detect())
except ConfigError as e: print(e)
"""
  done = subprocess.run(
    [sys.executable, '-c', program], capture_output=True, text=True, check=True
  )
  assert done.stdout.startswith(REFUSED)
  assert done.stdout.count('\n') == 1
  assert '--allow_network' in done.stdout


def test_a_protection_that_does_not_hold_is_named():
  found = {
    **{'children': 8, 'network': False, 'root': False, 'environment': []},
    **{'parent': False, 'writes': [], 'shared': False},
  }
  strict = Isolation('root', uids=True)
  assert sandbox_machine.breach(found, strict) == ''
  for field, value, words in (
    *(('children', 16, 'processes'), ('network', True, 'network')),
    *(('root', True, 'as root'), ('environment', ['HOME'], 'environment')),
    *(('parent', True, "parent's"), ('writes', ['/usr'], '/usr')),
    ('shared', True, 'shared memory'),
  ):
    assert words in sandbox_machine.breach(found | {field: value}, strict)


def test_limits_must_be_above_zero():
  with pytest.raises(ConfigError, match='limits: memory_mb must be above 0'):
    Limits(memory_mb=0)


@sandboxed
def test_outcomes_do_not_depend_on_order_or_workers():
  programs = [
    *(RIGHT, 'def double(x): return 6', 'import os; os._exit(0)'),
    'import random\ndef double(x): return random.choice([2 * x, 0, 1])',
    'def double(x): return {frozenset({"ab", "cd"}): 6, "a": 10}.popitem()[1]',
    *(
      f'def double(x): return 2 * x * (min({{"a{n}", "b{n}"}}, key=len) < "b")'
      for n in 'xyz'
    ),
  ]
  jobs = [Job(program, DOUBLE) for program in programs]

  def key(outcome):
    return outcome.status, outcome.reason, outcome.tests

  one = [key(o) for o in sandbox.run_all(jobs, workers=1)]
  three = [key(o) for o in sandbox.run_all(jobs[::-1], workers=3)]
  assert one == three[::-1]
  assert [status for status, *_ in one][:2] == ['passed', 'failed']
