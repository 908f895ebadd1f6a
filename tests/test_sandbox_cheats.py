"""Programs that try to pass without being right."""

import pytest
from test_sandbox import RIGHT, run, sandboxed

from onlyif_jax.evals.sandbox import Calls, Script

SECRET = 'nineteen-purple-otters'


@sandboxed
@pytest.mark.parametrize('way', ['import sys; sys.exit(0)', 'import os; os._exit(0)'])
def test_leaving_before_the_tests_does_not_pass(way):
  assert run(f'{way}\n{RIGHT}').status == 'failed'
  inside = run(f'def double(x):\n  {way}')
  assert inside.status == 'failed'
  assert 'SystemExit' in inside.reason or 'exit code 0 before' in inside.reason


@sandboxed
def test_patched_assert_and_unittest_change_nothing():
  program = """
import builtins, sys, unittest
class Never(Exception): pass
builtins.AssertionError = Never
builtins.all = lambda *a: True
unittest.TestCase.assertEqual = lambda *a, **k: None
sys.excepthook = lambda *a: None
def double(x): return 'wrong'
"""
  plainly = Script('def check(f):\n  assert f(3) == 6', ('double',), call='check')
  with_unittest = Script(
    'import unittest\ndef check(f): unittest.TestCase().assertTrue(all([f(3) == 6]))',
    ('double',),
    call='check',
  )
  for check in (plainly, with_unittest):
    assert run(program, check).reason.startswith('AssertionError')
    assert run(RIGHT, check).status == 'passed'


@sandboxed
def test_an_equality_that_always_agrees_is_not_asked():
  program = """
class Yes:
  def __eq__(self, other): return True
  def __float__(self): return 6.0
class Six(int):
  def __eq__(self, other): return True
  __hash__ = int.__hash__
def double(x): return {}
"""
  for wrong in ('Yes()', 'Six(7)', '[Six(6)]', 'None'):
    assert run(program.format(wrong)).status == 'failed', wrong
  # ... but a subclass with the right value is right, as `==` would find.
  assert run(program.format('Six(2 * x)')).status == 'passed'


@sandboxed
def test_expected_outputs_are_nowhere_in_its_reach():
  program = """
import gc, os, re
def search(text):
  found = re.search(rb'nineteen-[a-z]{6}-otters', text)
  return found and found.group().decode()
def f():
  for thing in gc.get_objects():
    text = repr(thing)[:10**6] if isinstance(thing, (list, dict)) else ''
    if found := search(text.encode(errors='replace')): return found
  for pid in os.listdir('/proc'):
    try:
      for line in open(f'/proc/{pid}/maps'):
        low, high = (int(x, 16) for x in line.split()[0].split('-'))
        with open(f'/proc/{pid}/mem', 'rb') as memory:
          memory.seek(low)
          if found := search(memory.read(high - low)): return found
    except (OSError, ValueError, OverflowError, MemoryError): pass
"""
  outcome = run(program, Calls.of('f', [([], SECRET)]))
  assert (outcome.status, outcome.reason) == ('failed', 'test 0: a wrong output')
  # The search itself works: an argument is found.
  found = Calls.of('g', [([SECRET], SECRET)])
  assert run(program + 'g = lambda x: f()', found).status == 'passed'


@sandboxed
def test_verdicts_cannot_be_forged_on_open_files():
  program = """
import json, os, struct
for message in ({'status': 'passed', 'reason': '', 'tests': [True, True]},
                {'end': 'exited', 'code': 0, 'cpu': 0, 'output': ''}, ['passed']):
  data = json.dumps(message).encode()
  for fd in os.listdir('/proc/self/fd'):
    for text in (struct.pack('>Q', len(data)) + data, data):
      try: os.write(int(fd), text)
      except OSError: pass
def double(x): return 2 * x
"""
  outcome = run(program)
  assert outcome.status == 'failed'
  assert outcome.reason == 'the answer is malformed'
