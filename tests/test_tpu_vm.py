"""launch/tpu_vm.sh against a gcloud that only plays: states, VMs and a bucket."""

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import runs

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / 'launch/tpu_vm.sh'
ZONE = '--zone=us-east1-d'
JOB = (ZONE, '--workdir=gs://b/run', '--config=configs/imin.py:cpu')

# Plays gcloud. Files in $BOX: `queue` and `vm` hold the states that describe tells
# one after another, the last for ever; `next` those after a create; `ends` the
# workers; `calls` what was called. Workers are directories, in which ssh runs.
GCLOUD = r"""#!/usr/bin/env bash
printf '%q ' gcloud "$@" >>"$BOX/calls"
echo >>"$BOX/calls"
tell() {
  word="$(head -n 1 "$BOX/$1" 2>/dev/null)"
  if [ "$(grep -c . "$BOX/$1")" -gt 1 ]; then
    tail -n +2 "$BOX/$1" >"$BOX/rest" && mv "$BOX/rest" "$BOX/$1"
  fi
  case "$word" in
    ABSENT) echo 'ERROR: NOT_FOUND: Resource was not found' >&2; exit 1 ;;
    ERROR) echo 'ERROR: no network' >&2; exit 1 ;;
    *) echo "$word" ;;
  esac
}
command='' worker=0
for word in "$@"; do
  case "$word" in
    --command=*) command="${word#*=}" ;;
    --worker=*) worker="${word#*=}" ;;
  esac
done
count="$(tr ';' '\n' <"$BOX/ends" | grep -c .)"
[ "$worker" != all ] || worker="$(seq 0 $((count - 1)))"
case "$3 $4" in
  'queued-resources describe') tell queue ;;
  'queued-resources create') mv "$BOX/next" "$BOX/queue"; echo READY >"$BOX/vm" ;;
  'queued-resources delete') echo ABSENT >"$BOX/queue"; rm -rf "$BOX"/worker-* ;;
  'tpu-vm describe') case "$*" in *Endpoints*) cat "$BOX/ends" ;; *) tell vm ;; esac ;;
  'tpu-vm scp')
    for n in $worker; do
      mkdir -p "$BOX/worker-$n" && cp "$5" "$BOX/worker-$n/${6#*:}"
    done
    ;;
  'tpu-vm ssh')
    if [ -e "$BOX/deaf" ]; then rm "$BOX/deaf"; exit 255; fi
    for n in $worker; do
      mkdir -p "$BOX/worker-$n" && cd "$BOX/worker-$n" || exit
      HOME="$PWD" bash -c "$command" || exit
    done
    ;;
esac
case "$1 $2" in 'storage rsync') cp -r "$BOX/bucket/." "${@: -1}" ;; esac
"""
# Plays pip and uv; the environment that it makes plays the sweep: it notes its
# arguments and ends with the next of its worker's `codes`, or sleeps.
PYTHON3 = r"""#!/usr/bin/env bash
case "$*" in
  *'uv venv'*)
    mkdir -p .venv/bin
    cat >.venv/bin/python <<'END'
#!/usr/bin/env bash
echo "$(basename "$(dirname "$PWD")") ${TPU_PROCESS_BOUNDS:-alone} $*" >>"$BOX/started"
codes="$BOX/codes_${PWD: -12:1}"
code="$(head -n 1 "$codes")"
tail -n +2 "$codes" >"$codes.rest"; mv "$codes.rest" "$codes"
case "$code" in
  sleep) while [ ! -e "$BOX/stop" ]; do sleep 0.1; done; exit ;;
  preempt) echo SUSPENDED >"$BOX/queue"; exit 143 ;;
esac
echo "said $code"
exit "$code"
END
    chmod +x .venv/bin/python ;;
  *'uv pip'*) test -f pyproject.toml && test -f launch/tpu_vm.sh ;;
esac
"""


class Box:
  """A directory with the players on its PATH."""

  def __init__(self, path: Path):
    self.path = path
    for name, text in (('gcloud', GCLOUD), ('python3', PYTHON3)):
      file = path / 'bin' / name
      file.parent.mkdir(exist_ok=True)
      file.write_text(text)
      file.chmod(0o755)
    self.put(queue='ABSENT', vm='READY', next='ACTIVE', ends='10.0.0.1', codes_0='0')

  def put(self, **files: str) -> None:
    for name, text in files.items():
      (self.path / name).write_text(text.replace(' ', '\n') + '\n')

  def call(self, *words: str, **env: str) -> tuple[int, str, str]:
    path = f'{self.path}/bin:{os.environ["PATH"]}'
    own = {'BOX': str(self.path), 'PATH': path, 'TMPDIR': str(self.path)}
    done = subprocess.run(
      [SCRIPT, *words],
      env=os.environ | own | {'TPU_POLL': '0'} | env,
      cwd=self.path,
      capture_output=True,
      text=True,
      timeout=300,
      stdin=subprocess.DEVNULL,
    )
    return done.returncode, done.stdout, done.stderr

  def lines(self, name: str) -> list[str]:
    file = self.path / name
    return file.read_text().splitlines() if file.exists() else []

  def verbs(self) -> list[str]:
    """What was called, without looks at the state."""
    return [w[4] for w in map(shlex.split, self.lines('calls')) if w[4] != 'describe']

  def wait(self, *files: str) -> None:
    """Until background jobs have made these files."""
    runs.wait_for(lambda: all((self.path / f).exists() for f in files))


@pytest.fixture
def box(tmp_path):
  box = Box(tmp_path)
  yield box
  box.put(stop='')  # ends jobs that sleep


def test_create_requests_once_and_waits_until_it_is_active(box):
  box.put(next='CREATING ACCEPTED WAITING_FOR_RESOURCES ERROR PROVISIONING ACTIVE')
  words = ('create', ZONE, '--accelerator_type=v6e-16', '--spot', '--project=p')
  code, _, err = box.call(*words)
  assert code == 0, err
  said = [line for line in err.splitlines() if line.startswith('onlyif-jax: ')]
  assert said[-1] == 'onlyif-jax: ACTIVE'
  assert 'onlyif-jax: WAITING_FOR_RESOURCES' in said
  (call,) = [line for line in box.lines('calls') if ' create ' in line]
  assert shlex.split(call) == [
    *('gcloud', 'compute', 'tpus', 'queued-resources', 'create', 'onlyif-jax'),
    *(ZONE, '--project=p', '--node-id=onlyif-jax', '--accelerator-type=v6e-16'),
    *('--runtime-version=v2-alpha-tpuv6e', '--spot'),
  ]
  assert box.call(*words)[0] == 0
  assert box.verbs() == ['create']


@pytest.mark.parametrize('state', ['SUSPENDED', 'FAILED'])
def test_create_leaves_a_lost_tpu_to_resume(state, box):
  box.put(queue=state)
  code, _, err = box.call('create', ZONE)
  assert (code, box.verbs()) == (2, [])
  assert f'onlyif-jax is {state}; resume' in err
  box.put(queue='ABSENT', next=f'ACCEPTED {state}')
  code, _, err = box.call('create', ZONE)
  assert code == 2
  assert 'was not granted' in err


def test_a_call_that_fails_is_not_taken_for_an_absent_tpu(box):
  box.put(queue='ERROR')
  for command in ('create', 'resume', 'run'):
    code, _, err = box.call(command, *JOB)
    assert code == 1, err
    assert 'no network' in err
  assert box.verbs() == []


def test_a_single_host_runs_the_sweep_whole(box):
  box.put(queue='ACTIVE', codes_0='sleep')
  flag = "--config.sweep.references=('one',)"
  code, _, err = box.call('run', *JOB, '--', '--config.sweep.seeds=2', flag)
  assert code == 0, err
  box.wait('started')
  assert box.lines('started') == [
    'worker-0 alone -m onlyif_jax.main --config=configs/imin.py:cpu '
    f'--workdir=gs://b/run --config.sweep.seeds=2 {flag}'
  ]
  before = box.verbs()
  assert before == ['ssh', 'scp', 'ssh', 'ssh']  # looks, sends, installs, starts
  code, _, err = box.call('run', *JOB)
  assert code == 0
  assert 'the sweep is running' in err
  assert box.verbs() == [*before, 'ssh']  # that looked


def test_a_pod_trains_a_shard_on_each_worker(box):
  box.put(queue='ACTIVE', ends='10.0.0.1;10.0.0.2;10.0.0.3')
  box.put(codes_0='0 0', codes_1='0 0', codes_2='1')
  assert box.call('run', *JOB)[0] == 0
  box.wait(*(f'worker-{n}/job/exit' for n in range(3)))
  found = {line.split(' -m ')[0]: line.split()[-1] for line in box.lines('started')}
  assert found == {f'worker-{n} 1,1,1': f'--shard={n + 1}/3' for n in range(3)}
  _, out, _ = box.call('logs', ZONE)
  assert out.count(': said 0\n') == 2
  assert out.count(': said 1\n') == 1
  _, out, _ = box.call('logs', ZONE, '--worker=1', '--lines=1')
  assert out.count('\n') == 1
  (box.path / 'started').unlink()
  assert box.call('run', *JOB, '--shards=2')[0] == 0
  box.wait('worker-1/job/exit')
  assert sorted(line.split()[-1] for line in box.lines('started')) == [
    '--shard=1/2',
    '--shard=2/2',
  ]


def test_run_needs_an_active_tpu(box):
  box.put(queue='WAITING_FOR_RESOURCES')
  code, _, err = box.call('run', *JOB)
  assert (code, box.verbs()) == (2, [])
  assert 'is WAITING_FOR_RESOURCES; create or resume' in err


@pytest.mark.parametrize(
  ('queue', 'vm', 'renewed'),
  [
    ('SUSPENDED', 'ABSENT', True),
    ('SUSPENDING SUSPENDING SUSPENDED', 'ABSENT', True),
    ('FAILED', 'ABSENT', True),
    ('ACTIVE', 'PREEMPTED', True),  # the queue does not know yet
    ('ACTIVE', 'ABSENT', True),
    ('WAITING_FOR_RESOURCES ACTIVE', 'READY', False),
    ('ACTIVE', 'READY', False),
  ],
)
def test_resume_requests_anew_what_is_lost_and_goes_on(queue, vm, renewed, box):
  box.put(queue=queue, vm=vm)
  code, _, err = box.call('resume', *JOB, '--spot')
  assert code == 0, err
  assert box.verbs()[: -len(['ssh', 'scp', 'ssh', 'ssh'])] == (
    ['delete', 'create'] if renewed else []
  )
  box.wait('worker-0/job/exit')
  assert len(box.lines('started')) == 1
  if renewed:
    assert [line for line in box.lines('calls') if line.endswith('--spot ')]
    (delete,) = [line for line in box.lines('calls') if ' delete ' in line]
    assert '--force --quiet' in delete


def test_resume_waits_for_ssh_of_a_new_vm(box):
  box.put(deaf='')
  assert box.call('resume', *JOB)[0] == 0
  assert box.verbs() == ['create', 'ssh', 'ssh', 'scp', 'ssh', 'ssh']


@pytest.mark.parametrize(
  ('codes', 'code', 'starts'),
  [
    ('0', 0, 1),
    ('1', 1, 1),
    ('2', 2, 1),
    ('preempt 0', 0, 2),
    ('143 1', 1, 2),  # the same VM
  ],
)
def test_watch_resumes_until_the_sweep_is_done(codes, code, starts, box):
  box.put(codes_0=codes, next='ACTIVE')
  # A second request, after the preemption, is granted too.
  gcloud = box.path / 'bin/gcloud'
  gcloud.write_text(GCLOUD.replace('mv "$BOX/next"', 'cp "$BOX/next"'))
  found, _, err = box.call('watch', *JOB)
  assert (found, len(box.lines('started'))) == (code, starts), err
  created = 2 if 'preempt' in codes else 1
  assert box.verbs().count('create') == created
  assert f'done, exit code {code}' in err


def test_fetch_copies_the_bucket_and_reports(box):
  (box.path / 'bucket').mkdir()
  (box.path / 'bucket/results.csv').write_text('rows')
  reporter = box.path / 'bin/reporter'
  reporter.write_text('#!/bin/sh\necho "$@"; ls "${3#*=}"\n')
  reporter.chmod(0o755)
  words = ('fetch', '--workdir=gs://b/run/', '--out=own place')
  code, out, err = box.call(*words, PYTHON='reporter')
  assert code == 0, err
  assert out == '-m onlyif_jax.report --workdir=own place\nresults.csv\n'
  (call,) = box.lines('calls')
  assert 'rsync --recursive' in call
  assert 'checkpoints' in call
  assert shlex.split(call)[-2:] == ['gs://b/run', 'own place']
  box.call(*words, '--all', PYTHON='reporter')
  assert 'checkpoints' not in box.lines('calls')[-1]


def test_delete_forces(box):
  assert box.call('delete', ZONE, '--name=other')[0] == 0
  assert box.lines('calls') == [
    f'gcloud compute tpus queued-resources delete other {ZONE} --force --quiet '
  ]


def test_a_dry_run_prints_what_would_be_called_and_calls_nothing(box):
  box.put(ends='10.0.0.1;10.0.0.2')
  words = (*JOB, '--accelerator_type=v4-16', '--', "--config.x='a b'")
  code, printed, err = box.call('resume', *words[:-2], '--dry_run', *words[-2:])
  assert code == 0, err
  assert box.lines('calls') == []
  printed = [shlex.split(x) for x in printed.splitlines() if not x.startswith('#')]
  box.put(queue='SUSPENDED', codes_1='0')
  assert box.call('resume', *words)[0] == 0
  called = [shlex.split(line) for line in box.lines('calls')]
  looks = [w for w in called if w[4] == 'describe' or 'job none' in w[-1]]
  assert [w for w in printed if w[4] != 'describe'] == [
    w for w in called if w not in looks
  ]
  for command in ('create', 'run', 'watch', 'logs', 'fetch', 'delete'):
    calls = len(box.lines('calls'))
    code, printed, err = box.call(command, *JOB, '--dry_run')
    assert code == 0, err
    assert 'gcloud ' in printed
    assert len(box.lines('calls')) == calls


def test_a_ref_is_cloned_instead_of_copied(box):
  words = ('--ref=v1.0', '--repo=https://host/r.git', '--dry_run')
  code, printed, err = box.call('run', *JOB, *words)
  assert code == 0, err
  assert ' scp ' not in printed
  assert 'git clone --quiet https://host/r.git onlyif_jax && git -C' in printed


@pytest.mark.parametrize(
  ('words', 'said'),
  [
    ((), 'a command is missing'),
    (('start',), 'unknown command start'),
    (('run', *JOB, '--pot'), 'unknown flag --pot; flags of onlyif_jax.main follow --'),
    (('run', *JOB, 'x'), 'unknown flag x'),
    (('create',), '--zone is missing'),
    (('run', ZONE), '--workdir is missing; give gs://BUCKET/DIR'),
    (('run', ZONE, '--workdir=runs/x'), '--workdir=runs/x is not gs://BUCKET/DIR'),
    (('logs', ZONE, '--lines=x'), '--lines=x is not a whole number'),
    (
      ('create', ZONE, '--', '--config.x=1'),
      'create takes no flags of onlyif_jax.main',
    ),
  ],
)
def test_wrong_words_are_one_line(words, said, box):
  code, out, err = box.call(*words)
  assert (code, out, err.count('\n')) == (2, '', 1)
  assert err.startswith(f'error: {said}')
  assert box.lines('calls') == []


def test_help_states_every_flag_with_its_variable(box):
  code, out, _ = box.call('run', '--help')
  assert code == 0
  text = SCRIPT.read_text()
  loop = text[text.index('while [ $# -gt 0 ]') :]
  for flag in ('name', 'zone', 'spot', 'workdir', 'config', 'ref', 'shards', 'out'):
    assert f'    --{flag}' in loop
    assert f'--{flag}' in out
    assert f'TPU_{flag.upper()}' in out
    assert f'TPU_{flag.upper()}' in loop or f'${{TPU_{flag.upper()}' in text


@pytest.mark.skipif(shutil.which('shellcheck') is None, reason='shellcheck not there')
@pytest.mark.parametrize('file', sorted(ROOT.glob('launch/*.sh')), ids=lambda p: p.name)
def test_shellcheck_finds_nothing(file):
  done = subprocess.run(['shellcheck', file], capture_output=True, text=True)
  assert done.returncode == 0, done.stdout
