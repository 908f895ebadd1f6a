"""launch/multiprocess.sh with a python that only plays the sweep."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import runs

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / 'launch/multiprocess.sh'

# Notes what it was given and where it runs; ends with the code of its shard, or, with
# `sleep`, when a signal says so.
PLAYER = r"""#!/usr/bin/env bash
trap 'echo "saved after TERM"; exit 143' TERM
shard="${@: -1}"
shard="${shard#--shard=}"
case "$*" in *report*) shard=report ;; esac
{
  echo "$*"
  echo "gpu ${CUDA_VISIBLE_DEVICES-none}"
  taskset -cp $$ | sed 's/.*: /cores /'
} >"$BOX/did-${shard%/*}"
code="$(cat "$BOX/code-${shard%/*}" 2>/dev/null || echo 0)"
[ "$code" != sleep ] || for _ in $(seq 600); do sleep 0.1; done
echo "shard $shard says $code"
exit "$code"
"""
# Cores 0, 2, 3, 5 and 7 may be used; what runs on them does so in fact anywhere.
TASKSET = r"""#!/usr/bin/env bash
case "$1" in
  -cp) echo "pid $2's current affinity list: ${ON:-0,2-3,5,7}" ;;
  -c) export ON="$2"; shift 2; exec "$@" ;;
esac
"""


@pytest.fixture
def call(tmp_path):
  """Starts the script with the players; .box is the directory that they share."""
  for name, text in (('player', PLAYER), ('taskset', TASKSET)):
    (tmp_path / 'bin').mkdir(exist_ok=True)
    file = tmp_path / 'bin' / name
    file.write_text(text)
    file.chmod(0o755)

  def start(*words, gpus='', **how):
    return subprocess.Popen(
      [SCRIPT, *words],
      env=os.environ
      | {
        'PATH': f'{tmp_path}/bin:{os.environ["PATH"]}',
        'BOX': str(tmp_path),
        'PYTHON': 'player',
        'CUDA_VISIBLE_DEVICES': gpus,
      },
      cwd=tmp_path,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
      **how,
    )

  def run(*words, **how):
    process = start(*words, **how)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err

  run.start, run.box = start, tmp_path
  return run


def did(call, shard) -> list[str]:
  return (call.box / f'did-{shard}').read_text().splitlines()


def test_each_process_has_its_shard_and_cores_and_a_report_follows(call):
  code, out, err = call('-n', '2', '--workdir=run/', '--config=a b', '--config.x=(1,)')
  assert code == 0, err
  words = '-m onlyif_jax.main --config=a b --config.x=(1,) --workdir=run'
  assert did(call, 1) == [f'{words} --shard=1/2', 'gpu ', 'cores 0,2']
  assert did(call, 2) == [f'{words} --shard=2/2', 'gpu ', 'cores 3,5,7']
  assert did(call, 'report')[0] == '-m onlyif_jax.report --workdir=run'
  assert (call.box / 'run/shards/2-of-2.log').read_text() == 'shard 2/2 says 0\n'
  assert out.endswith('shard report says 0\n')


def test_more_processes_than_cores_share_them(call):
  assert call('-n', '7', '--workdir=run')[0] == 0
  cores = [did(call, n)[2].removeprefix('cores ') for n in range(1, 8)]
  assert sorted(cores) == ['0', '0', '2', '3', '3', '5', '7']


def test_each_process_has_a_gpu_of_its_own(call):
  code, _, err = call('--workdir=run', gpus='3,5,6')
  assert code == 0, err
  assert [did(call, n)[1] for n in (1, 2, 3)] == ['gpu 3', 'gpu 5', 'gpu 6']
  code, _, err = call('-n', '4', '--workdir=run', gpus='3,5,6')
  assert code == 2
  assert err == 'error: -n 4: there are 3 GPUs, and a process takes one\n'


def test_without_a_number_there_is_a_process_for_two_cores(call):
  assert call('--workdir=run')[0] == 0
  assert did(call, 3)[0].endswith('--shard=3/3')


def test_the_worst_exit_code_counts_and_its_last_line_is_shown(call):
  (call.box / 'code-1').write_text('1')
  assert call('-n', '2', '--workdir=run')[0] == 1  # a member failed: still a result
  assert did(call, 'report')
  (call.box / 'did-report').unlink()
  (call.box / 'code-2').write_text('2')
  code, _, err = call('-n', '2', '--workdir=run')
  assert code == 2
  assert err == 'process 2 of 2: exit code 2; shard 2/2 says 2\n'
  assert not (call.box / 'did-report').exists()


@pytest.mark.parametrize(
  ('number', 'code'), [(signal.SIGTERM, 143), (signal.SIGINT, 130)]
)
def test_a_signal_reaches_all_and_their_saves_are_waited_for(number, code, call):
  for shard in (1, 2):
    (call.box / f'code-{shard}').write_text('sleep')
  process = call.start('-n', '2', '--workdir=run')
  runs.wait_for(lambda: all((call.box / f'did-{n}').exists() for n in (1, 2)))
  time.sleep(0.2)
  process.send_signal(number)
  _, err = process.communicate(timeout=300)
  assert process.returncode == code
  assert err.endswith('stopped; the same command goes on from there\n')
  for shard in (1, 2):
    log = (call.box / f'run/shards/{shard}-of-2.log').read_text()
    assert log == 'saved after TERM\n'
  assert not (call.box / 'did-report').exists()


def test_a_dry_run_runs_nothing(call):
  code, out, _ = call('-n', '2', '--workdir=gs://b/run', '--dry_run', gpus='4,5')
  assert code == 0
  assert out.splitlines() == [
    'env CUDA_VISIBLE_DEVICES=4 taskset -c 0,2 player -m onlyif_jax.main '
    '--workdir=gs://b/run --shard=1/2 >>runs/shards-1-of-2.log',
    'env CUDA_VISIBLE_DEVICES=5 taskset -c 3,5,7 player -m onlyif_jax.main '
    '--workdir=gs://b/run --shard=2/2 >>runs/shards-2-of-2.log',
    'player -m onlyif_jax.report --workdir=gs://b/run',
  ]
  assert sorted(p.name for p in call.box.iterdir()) == ['bin']


@pytest.mark.parametrize(
  ('words', 'said'),
  [
    ((), '--workdir is missing'),
    (('-n', 'x', '--workdir=run'), '-n x is not a number of processes'),
    (('-n', '0', '--workdir=run'), '-n 0 is not a number of processes'),
    (('-n',), '-n needs a number'),
    (('--workdir=run', '--shard=1/2'), 'every process gets its own --shard'),
  ],
)
def test_wrong_words_are_one_line(words, said, call):
  code, out, err = call(*words)
  assert (code, out, err.count('\n')) == (2, '', 1)
  assert err.startswith(f'error: {said}')


@pytest.mark.slow
def test_two_processes_leave_what_one_leaves(tmp_path):
  flags = (f'--config={runs.toy.__file__}:counts=3|17|5',)
  code, _, err = runs.call(
    runs.CACHE, '-m', 'onlyif_jax.main', *flags, f'--workdir={tmp_path}/one'
  )
  assert code == 0, err
  env = os.environ | {
    'JAX_PLATFORMS': 'cpu',
    'JAX_NUM_CPU_DEVICES': '8',
    'JAX_DISABLE_MOST_OPTIMIZATIONS': '1',
    'JAX_COMPILATION_CACHE_DIR': str(runs.CACHE),
    'CUDA_VISIBLE_DEVICES': '',
  }
  done = subprocess.run(
    [SCRIPT, '-n', '2', *flags, f'--workdir={tmp_path}/two'],
    env=env,
    capture_output=True,
    text=True,
    timeout=300,
  )
  assert done.returncode == 0, done.stderr
  for name in ('results.csv', 'dynamics.csv', 'metrics.jsonl', 'transition.json'):
    one, two = (tmp_path / folder / name for folder in ('one', 'two'))
    assert one.read_bytes() == two.read_bytes(), name
  assert (tmp_path / 'two/report.html').exists()
