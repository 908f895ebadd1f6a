"""The report in parts: cut off, carried to another folder, and gathered from shards."""

import json
import os
import signal
import subprocess
import time
import zipfile
from pathlib import Path

import pytest
import runs

SCRIPT = Path(__file__).resolve().parents[1] / 'launch' / 'gpu_report.sh'
LONGER = ('--', '--config.data.epochs=60.0', '--config.checkpoint.every=111')


def start(out, *words):
  env = os.environ | {
    'JAX_PLATFORMS': 'cpu',
    'JAX_NUM_CPU_DEVICES': '2',
    'JAX_DISABLE_MOST_OPTIMIZATIONS': '1',
    'JAX_COMPILATION_CACHE_DIR': str(runs.CACHE),
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    'PYTHON': runs.sys.executable,
  }
  command = ['bash', str(SCRIPT), '--toy', '--minutes=9', f'--out={out}', *words]
  return subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)


def call(out, *words):
  process = start(out, *words)
  _, err = process.communicate(timeout=400)
  return process.returncode, err


def bundled(out):
  with zipfile.ZipFile(out / 'bundle.zip') as file:
    return {name: file.read(name) for name in file.namelist()}


def assert_sums_hold(out):
  assert not subprocess.run(
    ['sha256sum', '--quiet', '-c', 'SHA256SUMS'], cwd=out
  ).returncode
  listed = {line.split()[1] for line in (out / 'SHA256SUMS').read_text().splitlines()}
  assert listed | {'SHA256SUMS'} == {p.name for p in out.iterdir()}


@pytest.mark.slow
def test_a_part_that_is_cut_off_goes_on_elsewhere(tmp_path):
  first, second, whole = (tmp_path / name for name in ('first', 'second', 'whole'))
  code, err = call(whole, '--no_bench', *LONGER)
  assert code == 0, err
  process = start(first, '--no_bench', *LONGER)
  deadline = time.monotonic() + 300
  while not list(first.glob('work/run/checkpoints/000/111')):
    assert process.poll() is None
    assert time.monotonic() < deadline
    time.sleep(0.01)
  process.send_signal(signal.SIGTERM)
  _, err = process.communicate(timeout=300)
  assert process.returncode == 143, err
  assert 'go on with --from=' in err
  assert_sums_hold(first)
  assert (first / 'state.tar.gz.00').exists()
  assert not (first / 'work').exists()
  code, err = call(second, '--no_bench', f'--from={first}', *LONGER)
  assert code == 0, err
  assert '3 members; it reads back' in err
  assert_sums_hold(second)
  a, b = bundled(second), bundled(whole)
  for name in runs.SAME_BYTES:
    assert a.get(name) == b.get(name), name
  (second / 'state.tar.gz.00').write_bytes(b'x')
  code, err = call(tmp_path / 'third', f'--from={second}', *LONGER)
  assert code == 2
  assert 'is damaged' in err


@pytest.mark.slow
def test_parts_of_shards_are_gathered_and_the_bench_is_done_once(tmp_path):
  one, two = tmp_path / 'one', tmp_path / 'two'
  code, err = call(one, '--shard=1/2')
  assert code == 0, err
  assert 'bundle.zip holds 2 members' in err
  report = json.loads((one / 'bench.json').read_text())
  assert report['toy']['whole_loop']['per_s'] > 0
  code, err = call(two, '--shard=2/2', f'--from={one}')
  assert code == 0, err
  assert 'bundle.zip holds 3 members' in err
  assert json.loads((two / 'bench.json').read_text()) == report
  shown = (two / 'report.txt').read_text()
  assert shown.count('whole loop') == 2  # of the table: a rate, and a share of it
  assert 'unseen exact match' in shown
  assert_sums_hold(two)
  assert {'figure.png', 'results.csv', 'config.json'} <= set(bundled(two))


def test_wrong_flags_end_in_one_line(tmp_path):
  for word, said in (('--minuts=3', 'unknown flag'), ('--minutes=x', 'whole numbers')):
    code, err = call(tmp_path / 'out', word)
    assert code == 2
    assert said in err
    assert err.count('\n') == 1
  assert not (tmp_path / 'out').exists()
