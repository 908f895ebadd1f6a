"""Processes killed at chosen and at random moments while they save."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
from test_checkpoint import ABSTRACT, assert_same, make_state

from onlyif_jax.checkpoint import Checkpointer

# Restores, checks every bit, and saves on until it is killed; argv: directory, moment.
_CHILD = """
import os, shutil, signal, sys
import test_checkpoint as t
from onlyif_jax import checkpoint
directory, moment = sys.argv[1:]
die = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
def dying(module, name, when):
  real = getattr(module, name)
  def patched(*args, **kwargs):
    if when(*args):
      die()
    return real(*args, **kwargs)
  setattr(module, name, patched)
saver = checkpoint.Checkpointer(directory)
found = saver.restore(t.ABSTRACT)
step = 0
if found is not None:
  step = found[0]
  t.assert_same(found[1], t.make_state(step))
print('restored', step, len(saver.damaged), flush=True)
for step in (step + 1, step + 2, step + 3):
  if step % 3 == 0 and moment != 'any':
    if moment == 'digest':
      seen = []
      dying(checkpoint, '_fingerprint', lambda p: seen.append(p) or len(seen) > 4)
    elif moment == 'commit':
      dying(os, 'rename', lambda a, b: str(b).endswith(f'/{step}'))
    elif moment == 'remove':
      real = shutil.rmtree
      def half(path, **_):
        if 'removing' in str(path) and os.path.exists(path):
          real(os.path.join(path, 'state'))
          die()
        real(path, **_)
      shutil.rmtree = half
  saver.save(step, t.make_state(step), wait=moment != 'any')
  print('saved', step, flush=True)
while moment == 'any':
  step += 1
  saver.save(step, t.make_state(step))
  print('started', step, flush=True)
"""


def run_child(directory, moment, delay):
  """Starts a child and returns its lines; it dies by itself or after `delay`."""
  child = subprocess.Popen(
    [sys.executable, '-c', _CHILD, str(directory), moment],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    env=os.environ
    | {'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': os.pathsep.join(filter(None, sys.path))},
  )
  lines = [child.stdout.readline().split()]
  if moment == 'any':
    lines += [child.stdout.readline().split() for _ in range(3)]
    time.sleep(delay)
    child.send_signal(signal.SIGKILL)
  out, err = child.communicate(timeout=300)
  assert child.returncode == -signal.SIGKILL, err
  return lines + [line.split() for line in out.splitlines()]


def test_a_kill_loses_only_the_save_in_flight(tmp_path):
  assert run_child(tmp_path, 'digest', 0)[-1] == ['saved', '2']
  saver = Checkpointer(tmp_path)
  step, state = saver.restore(ABSTRACT)
  assert (step, saver.damaged) == (2, [])
  assert_same(state, make_state(2))


@pytest.mark.slow
def test_kill_at_any_moment_loses_only_the_save_in_flight(tmp_path):
  rng = random.Random(7)
  restored, at_least = [], 0
  for moment in ['digest', 'commit', 'remove', 'any', 'any']:
    (_, step, damaged), *lines = run_child(tmp_path, moment, rng.uniform(0, 0.15))
    restored.append(int(step))
    assert restored[-1] >= at_least
    assert int(damaged) == 0  # a kill damages nothing
    # With 'any', a line says that a save began, and so that the one before ended.
    whole = [int(number) - (moment == 'any') for _, number in lines]
    at_least = max(restored[-1], *whole, 0)
  assert restored[:4] == [0, 2, 2, 3]
  saver = Checkpointer(tmp_path)
  step, state = saver.restore(ABSTRACT)
  assert step >= at_least >= 7
  assert saver.damaged == []
  assert_same(state, make_state(step))
  saver.save(step, make_state(step), wait=True)  # saving that step again works
  names = [entry.name for entry in tmp_path.iterdir()]
  assert all(name.isdigit() for name in names), names
  assert json.loads((tmp_path / str(step) / 'digest.json').read_text())['step'] == step
