#!/usr/bin/env bash
# One sweep on a Cloud TPU VM or pod, from any machine with gcloud; --help says how.
set -euo pipefail

usage() {
  cat <<'END'
launch/tpu_vm.sh COMMAND [--FLAG=VALUE ...] [-- FLAGS OF onlyif_jax.main ...]

Commands, in the order of use; each may be given again at any time.
  create   request the TPU (a queued resource) and wait until it is there
  run      install onlyif_jax on every worker and start the sweep in the background
  resume   what is missing of create and run: a TPU that was preempted, suspended or
           failed is deleted and requested anew, and the same sweep goes on from the
           bucket; give it the flags of create and run
  watch    resume, then again whenever the TPU is preempted, until the sweep is done;
           the exit code is the sweep's
  logs     the last lines of every worker's log
  fetch    copy the workdir here and make its report
  delete   delete the TPU; what is in the bucket stays

Flags; each has a variable that does the same.
  --name=NAME              TPU_NAME             its name (onlyif-jax)
  --zone=ZONE              TPU_ZONE             where it is; needed
  --project=PROJECT        TPU_PROJECT          (as gcloud is configured)
  --accelerator_type=TYPE  TPU_ACCELERATOR_TYPE v4-8, v5litepod-16, v6e-8, ... (v4-8)
  --runtime_version=IMAGE  TPU_RUNTIME_VERSION  (the one for the type)
  --spot                   TPU_SPOT=1           cheaper, and may be preempted
  --workdir=gs://...       TPU_WORKDIR          needed by run, resume, watch, fetch
  --config=FILE[:ARGS]     TPU_CONFIG           (configs/imin.py:full)
  --ref=REF                TPU_REF              a commit, branch or tag of --repo
                                                (none: the files of this checkout)
  --repo=URL               TPU_REPO             (this checkout's remote "origin")
  --shards=N               TPU_SHARDS           on a pod, workers to use (all)
  --poll=SECONDS           TPU_POLL             between looks at the state (30)
  --worker=N               TPU_WORKER           logs: of one worker (all)
  --lines=N                TPU_LINES            logs: how many (20)
  --out=DIR                TPU_OUT              fetch: where to (runs/NAME)
  --all                    TPU_ALL=1            fetch: checkpoints too
  --dry_run                                     print the gcloud commands, run none

On a pod, worker w of n trains shard w+1 of n on its own chips (onlyif_jax.main
--shard): members of a sweep never communicate. A sweep must have at least as many
stacks as workers: see --config.stack.members.
END
}

# shellcheck disable=SC1091
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

say() {
  echo "$*" >&2
}

# Runs a command, or prints it with --dry_run.
do_it() {
  if [ -n "$dry_run" ]; then
    show "$@"
  else
    "$@"
  fi
}

# --- The TPU ---------------------------------------------------------------------

tpus() { # GROUP VERB ...: gcloud compute tpus, with what every call needs
  local group="$1" verb="$2"
  shift 2
  do_it gcloud compute tpus "$group" "$verb" "$name" "--zone=$zone" \
    ${project:+"--project=$project"} "$@"
}

# A field of describe; ABSENT where the resource does not exist.
field() { # GROUP FORMAT
  local out errors
  errors="$(mktemp)"
  if out="$(tpus "$1" describe "--format=value($2)" 2>"$errors")"; then
    rm -f "$errors"
    echo "$out"
  elif grep -qiE 'NOT_FOUND|not found' "$errors"; then
    rm -f "$errors"
    echo ABSENT
  else
    cat "$errors" >&2
    rm -f "$errors"
    return 1
  fi
}

# ACTIVE only if the VM exists, too: a preempted VM may be gone before the state of its
# queued resource changes.
state() {
  local queued vm
  queued="$(field queued-resources state.state)" || return 1
  if [ "$queued" = ACTIVE ]; then
    vm="$(field tpu-vm state)" || return 1
    case "$vm" in
      READY) ;;
      CREATING | STARTING | RESTARTING | REPAIRING) queued=PROVISIONING ;;
      ABSENT) queued=PREEMPTED ;;
      *) queued="$vm" ;;
    esac
  fi
  echo "$queued"
}

request() {
  tpus queued-resources create "--node-id=$name" "--accelerator-type=$type" \
    "--runtime-version=$runtime" ${spot:+--spot}
}

delete() {
  tpus queued-resources delete --force --quiet
}

# Waits until the request is granted; fails if it is refused.
await() {
  local now before='' errors=0
  if [ -n "$dry_run" ]; then
    tpus queued-resources describe '--format=value(state.state)'
    return
  fi
  while true; do
    if ! now="$(state)"; then # a single failed call does not end a long wait
      errors=$((errors + 1))
      [ "$errors" -lt 5 ] || return 1
      sleep "$poll"
      continue
    fi
    errors=0
    [ "$now" = "$before" ] || say "$name: $now"
    before="$now"
    case "$now" in
      ACTIVE) return ;;
      CREATING | ACCEPTED | WAITING_FOR_RESOURCES | PROVISIONING | STATE_UNSPECIFIED)
        sleep "$poll"
        ;;
      *) return 1 ;;
    esac
  done
}

create() {
  local now=ABSENT
  [ -n "$dry_run" ] || now="$(state)" || exit 1
  case "$now" in
    ABSENT) request || exit 1 ;;
    ACTIVE | CREATING | ACCEPTED | WAITING_FOR_RESOURCES | PROVISIONING) ;;
    *) fail "$name is $now; resume requests it anew, delete removes it" ;;
  esac
  await || fail "$name was not granted; see: gcloud compute tpus queued-resources" \
    "describe $name --zone=$zone"
}

# Makes the TPU ACTIVE again, from any state.
revive() {
  local now tries=0
  if [ -n "$dry_run" ]; then
    echo '# if it is SUSPENDED, FAILED or its VM is gone:'
    delete
    echo '# if there is none (any more):'
    request
    echo "# every $poll seconds until it says ACTIVE:"
    await
    return
  fi
  while true; do
    now="$(state)" || exit 1
    case "$now" in
      ACTIVE) return ;;
      SUSPENDING | DELETING) sleep "$poll" ;;
      CREATING | ACCEPTED | WAITING_FOR_RESOURCES | PROVISIONING | STATE_UNSPECIFIED)
        await || true
        ;;
      ABSENT)
        [ "$tries" -lt 3 ] || fail "$name was not granted three times; see the quota"
        tries=$((tries + 1))
        request || exit 1
        await || true
        ;;
      *)
        say "$name is $now: it is deleted and requested anew"
        delete || exit 1
        ;;
    esac
  done
}

# --- The workers -----------------------------------------------------------------

ssh_to() { # WORKER COMMAND
  tpus tpu-vm ssh "--worker=$1" "--command=$2"
}

# The number of workers, at most --shards.
workers() {
  local count
  if [ -n "$dry_run" ]; then
    case "$type" in
      *-[1-8]) count=1 ;;
      *) count="${shards:-2}" ;; # a dry run does not query the number
    esac
  else
    count="$(field tpu-vm 'networkEndpoints[].ipAddress')" || return 1
    count="$(echo "$count" | tr ';' '\n' | grep -c .)" || return 1
  fi
  if [ -n "$shards" ] && [ "$shards" -lt "$count" ]; then
    count="$shards"
  fi
  echo "$count"
}

# Packs the files of this checkout: tracked and new ones, without deleted ones.
pack() { # ARCHIVE
  (cd "$root" && git ls-files -z --cached --others --exclude-standard |
    while IFS= read -r -d '' file; do
      if [ -e "$file" ]; then printf '%s\0' "$file"; fi
    done | tar --null -czf "$1" -T -)
}

# Sends the code to all workers and installs it there.
install() {
  local archive="${TMPDIR:-/tmp}/onlyif_jax-$name.tar.gz" get
  if [ -n "$ref" ]; then
    [ -n "$repo" ] || repo="$(git -C "$root" remote get-url origin 2>/dev/null)" ||
      fail '--ref needs --repo=URL: this checkout has no remote "origin"'
    get="$(show git clone --quiet "$repo" onlyif_jax)"
    get="$get && git -C onlyif_jax checkout --quiet $(show "$ref")"
  else
    [ -n "$dry_run" ] || pack "$archive" || return 1
    do_it gcloud compute tpus tpu-vm scp "$archive" "$name:onlyif_jax.tar.gz" \
      "--zone=$zone" ${project:+"--project=$project"} --worker=all || return 1
    get='mkdir onlyif_jax && tar xzf onlyif_jax.tar.gz -C onlyif_jax'
  fi
  # The images may have a Python older than 3.11; uv installs its own.
  ssh_to all "rm -rf onlyif_jax && $get && cd onlyif_jax && \
python3 -m pip install --quiet --user uv && \
python3 -m uv venv --quiet --python 3.12 .venv && \
python3 -m uv pip install --quiet --python .venv/bin/python \
--constraint launch/requirements-py3.12.txt -e \".[tpu,gcs]\""
}

# Starts the sweep on every worker. It outlives the connection and writes its exit code
# to job/exit. The local copy of the workdir is not in /tmp, which some images clean up.
start() { # FLAGS OF main
  local count n=0 shard settings
  count="$(workers)" || fail "$name: its workers could not be listed"
  if [ -n "$dry_run" ] && [ "$count" -gt 1 ]; then
    echo "# for every worker, here $count:"
  fi
  while [ "$n" -lt "$count" ]; do
    shard='' settings="TMPDIR=\$HOME/job/tmp"
    if [ "$count" -gt 1 ]; then
      shard="$((n + 1))/$count"
      # Each worker of a pod sees its own four chips and waits for no other.
      settings="$settings TPU_PROCESS_BOUNDS=1,1,1 TPU_CHIPS_PER_PROCESS_BOUNDS=2,2,1"
      settings="$settings TPU_VISIBLE_CHIPS=0,1,2,3"
    fi
    ssh_to "$n" "mkdir -p job/tmp && rm -f job/exit && \
{ (trap \"\" HUP; trap : TERM; cd onlyif_jax; $settings .venv/bin/python \
-m onlyif_jax.main $(show "--config=$config" "--workdir=$workdir" \
      ${shard:+"--shard=$shard"} "$@"); echo \$? >~/job/exit) \
>>job/log 2>&1 </dev/null & echo \$! >job/pid; }" || return 1
    n=$((n + 1))
  done
}

# 'job running', 'job exit CODE' or 'job none' for every worker, one per line.
jobs_now() {
  # shellcheck disable=SC2016  # the worker's shell expands it
  ssh_to all 'if [ -f job/exit ]; then echo "job exit $(cat job/exit)";'\
' elif [ ! -f job/pid ]; then echo "job none";'\
' elif kill -0 "$(cat job/pid)" 2>/dev/null; then echo "job running";'\
' else echo "job exit 137"; fi' </dev/null | grep -o 'job [a-z0-9 ]*'
}

run() { # FLAGS OF main
  local now='' tries=0
  if [ -z "$dry_run" ]; then
    now="$(state)" || return 1
    [ "$now" = ACTIVE ] || fail "$name is $now; create or resume makes it ACTIVE"
    until now="$(jobs_now)"; do # a new VM takes a while to become reachable
      tries=$((tries + 1))
      [ "$tries" -lt 5 ] || fail "$name cannot be reached by ssh; try again later"
      sleep "$poll"
    done
    case "$now" in
      *running*)
        say "$name: the sweep is running; see: launch/tpu_vm.sh logs"
        return
        ;;
    esac
  fi
  install </dev/null || return 1
  start "$@" </dev/null || return 1
  [ -n "$dry_run" ] || say "$name: started; what it makes goes to $workdir"
}

# Resumes the sweep until every worker is done; returns the worst exit code.
watch() { # FLAGS OF main
  local now worst again=0
  while true; do
    revive
    if ! (run "$@"); then
      [ "$(state)" != ACTIVE ] || exit 1 # otherwise it was preempted meanwhile
      continue
    fi
    [ -z "$dry_run" ] || return 0
    while true; do
      sleep "$poll"
      if ! now="$(jobs_now)"; then # gone, or unreachable for a moment
        [ "$(state)" = ACTIVE ] || break
        continue
      fi
      case "$now" in *running*) continue ;; esac
      worst="$(echo "$now" | sed -n 's/^job exit //p' | sort -n | tail -n 1)"
      case "$worst" in
        # Not started, killed, or stopped by SIGTERM after a save: the VM goes away or
        # was restarted. The limit ends a loop with another cause.
        '' | 137 | 143)
          again=$((again + 1))
          [ "$again" -gt 20 ] || break
          ;;
      esac
      say "$name: done, exit code ${worst:-137}; its results are in $workdir"
      return "${worst:-137}"
    done
    say "$name: $(state); resuming"
  done
}

logs() {
  ssh_to "${worker:-all}" "tail -n $lines job/log | sed \"s/^/\$(hostname): /\""
}

fetch() {
  local out_dir="${out:-runs/$name}"
  do_it mkdir -p "$out_dir"
  do_it gcloud storage rsync --recursive ${project:+"--project=$project"} \
    ${no_checkpoints:+"--exclude=(^|.*/)checkpoints/.*"} "$workdir" "$out_dir"
  do_it "${PYTHON:-python}" -m onlyif_jax.report "--workdir=$out_dir"
}

# --- The command line --------------------------------------------------------------

number() { # FLAG VALUE
  case "$2" in
    '' | *[!0-9]*) fail "--$1=$2 is not a whole number" ;;
  esac
}

default_runtime() {
  case "$1" in
    v6e-*) echo v2-alpha-tpuv6e ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    *) echo tpu-ubuntu2204-base ;;
  esac
}

root="$(cd "$(dirname "$0")/.." && pwd)"
command="${1:-}"
case "$command" in
  -h | --help | help)
    usage
    exit 0
    ;;
  create | run | resume | watch | logs | fetch | delete) shift ;;
  '') fail 'a command is missing: create, run, resume, watch, logs, fetch or delete' ;;
  *) fail "unknown command $command; see launch/tpu_vm.sh --help" ;;
esac

name="${TPU_NAME:-onlyif-jax}" zone="${TPU_ZONE:-}" project="${TPU_PROJECT:-}"
type="${TPU_ACCELERATOR_TYPE:-v4-8}" runtime="${TPU_RUNTIME_VERSION:-}"
spot="${TPU_SPOT:-}" workdir="${TPU_WORKDIR:-}"
config="${TPU_CONFIG:-configs/imin.py:full}"
ref="${TPU_REF:-}" repo="${TPU_REPO:-}" shards="${TPU_SHARDS:-}" poll="${TPU_POLL:-30}"
worker="${TPU_WORKER:-}" lines="${TPU_LINES:-20}" out="${TPU_OUT:-}"
no_checkpoints=1 dry_run=''
[ -z "${TPU_ALL:-}" ] || no_checkpoints=''
while [ $# -gt 0 ]; do
  value="${1#*=}"
  case "$1" in
    --name=*) name="$value" ;;
    --zone=*) zone="$value" ;;
    --project=*) project="$value" ;;
    --accelerator_type=*) type="$value" ;;
    --runtime_version=*) runtime="$value" ;;
    --spot) spot=1 ;;
    --workdir=*) workdir="${value%/}" ;;
    --config=*) config="$value" ;;
    --ref=*) ref="$value" ;;
    --repo=*) repo="$value" ;;
    --shards=*) shards="$value" ;;
    --poll=*) poll="$value" ;;
    --worker=*) worker="$value" ;;
    --lines=*) lines="$value" ;;
    --out=*) out="$value" ;;
    --all) no_checkpoints='' ;;
    --dry_run) dry_run=1 ;;
    -h | --help)
      usage
      exit 0
      ;;
    --)
      shift
      break
      ;;
    *) fail "unknown flag $1; flags of onlyif_jax.main follow --, see --help" ;;
  esac
  shift
done
[ -n "$runtime" ] || runtime="$(default_runtime "$type")"
case "$command" in
  fetch) ;;
  *) [ -n "$zone" ] || fail '--zone is missing, for example --zone=us-central2-b' ;;
esac
case "$command" in
  run | resume | watch | fetch)
    case "$workdir" in
      gs://*/*) ;;
      '') fail '--workdir is missing; give gs://BUCKET/DIR' ;;
      *) fail "--workdir=$workdir is not gs://BUCKET/DIR, where a run survives its VM" ;;
    esac
    ;;
esac
case "$command" in
  run | resume | watch) ;;
  *) [ $# -eq 0 ] || fail "$command takes no flags of onlyif_jax.main" ;;
esac
number poll "$poll"
number lines "$lines"
[ -z "$worker" ] || number worker "$worker"
[ -z "$shards" ] || number shards "$shards"
[ -n "$dry_run" ] || command -v gcloud >/dev/null ||
  fail 'gcloud is not on the PATH; install the Google Cloud CLI, or give --dry_run'

case "$command" in
  resume)
    revive
    run "$@" || exit 1
    ;;
  *) "$command" "$@" ;;
esac
