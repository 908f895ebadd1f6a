#!/usr/bin/env bash
# One sweep as several processes on one machine; --help says how.
set -euo pipefail

usage() {
  cat <<'END'
launch/multiprocess.sh [-n N] [--dry_run] --workdir=DIR [FLAGS OF onlyif_jax.main ...]

Trains a sweep as N processes, each a --shard=i/N of it, and gathers them with
onlyif_jax.report. Each process has a GPU of its own where there are GPUs, and its
share of the cores (taskset, where there is one). Its output goes to
DIR/shards/i-of-N.log (for a gs:// workdir to runs/shards-i-of-N.log).

  -n N       how many (as many as GPUs; without GPUs half as many as cores)
  --dry_run  print the commands, run none

SIGTERM and Ctrl-C are passed on: every process saves and ends, and the same command
goes on from there. The exit code is the worst of all. CUDA_VISIBLE_DEVICES limits
the GPUs, taskset around this command the cores.
END
}

# shellcheck disable=SC1091
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# The usable GPUs, one per line.
gpus() {
  if [ -n "${CUDA_VISIBLE_DEVICES+set}" ]; then
    echo "$CUDA_VISIBLE_DEVICES" | tr ',' '\n' | grep . || true
  elif command -v nvidia-smi >/dev/null; then
    nvidia-smi --query-gpu=index --format=csv,noheader 2>/dev/null || true
  fi
}

# The usable cores, one per line; nothing where taskset is missing.
cores() {
  local ranges range
  command -v taskset >/dev/null || return 0
  ranges="$(taskset -cp $$)"
  for range in $(echo "${ranges##*: }" | tr ',' ' '); do
    seq "${range%-*}" "${range#*-}"
  done
}

number='' workdir='' dry_run=''
flags=()
while [ $# -gt 0 ]; do
  case "$1" in
    -h | --help)
      usage
      exit 0
      ;;
    -n)
      [ $# -gt 1 ] || fail '-n needs a number'
      number="$2"
      shift
      ;;
    --dry_run) dry_run=1 ;;
    --workdir=*) workdir="${1#*=}" ;;
    --shard=*) fail 'every process gets its own --shard; leave it out' ;;
    *) flags+=("$1") ;;
  esac
  shift
done
[ -n "$workdir" ] || fail '--workdir is missing; give the directory of the run'
workdir="${workdir%/}"

all_gpus="$(gpus)" all_cores="$(cores)"
gpu_count="$(echo "$all_gpus" | grep -c . || true)"
core_count="$(echo "$all_cores" | grep -c . || true)"
if [ -z "$number" ]; then
  # A process without a GPU uses two cores, as it trains two members at a time.
  number="$gpu_count"
  [ "$number" -gt 0 ] || number=$(((core_count + 1) / 2))
  [ "$number" -gt 0 ] || number=1
fi
case "$number" in
  0* | *[!0-9]*) fail "-n $number is not a number of processes" ;;
esac
if [ "$gpu_count" -gt 0 ] && [ "$number" -gt "$gpu_count" ]; then
  fail "-n $number: there are $gpu_count GPUs, and a process takes one"
fi

# Line number $1 of $2, or nothing.
line() {
  echo "$2" | sed -n "$1p"
}

# The cores of process $1: every n-th block, at least one core.
share() {
  local first last
  first=$((($1 - 1) * core_count / number + 1))
  last=$(($1 * core_count / number))
  [ "$last" -ge "$first" ] || last="$first"
  echo "$all_cores" | sed -n "${first},${last}p" | paste -s -d , -
}

pids=()
stopped=0
# shellcheck disable=SC2329  # the traps call it
pass_on() { # SIGNAL, ITS NUMBER
  stopped="$2"
  local pid
  for pid in ${pids[@]+"${pids[@]}"}; do
    kill -s "$1" "$pid" 2>/dev/null || true
  done
}
# Background processes of a script ignore the Ctrl-C of the terminal, so it is passed on
# as SIGTERM, with the same effect.
trap 'pass_on TERM 15' TERM
trap 'pass_on TERM 2' INT

case "$workdir" in
  *://*) logs='runs/shards-' ;;
  *) logs="$workdir/shards/" ;;
esac
[ -n "$dry_run" ] || mkdir -p "$(dirname "${logs}1")"
for ((i = 1; i <= number; i++)); do
  words=("${PYTHON:-python}" -m onlyif_jax.main ${flags[@]+"${flags[@]}"}
    "--workdir=$workdir" "--shard=$i/$number")
  [ "$core_count" -eq 0 ] || words=(taskset -c "$(share "$i")" "${words[@]}")
  [ "$gpu_count" -eq 0 ] ||
    words=(env "CUDA_VISIBLE_DEVICES=$(line "$i" "$all_gpus")" "${words[@]}")
  log="$logs$i-of-$number.log"
  if [ -n "$dry_run" ]; then
    echo "$(show "${words[@]}") >>$log"
  elif [ "$stopped" -eq 0 ]; then
    "${words[@]}" >>"$log" 2>&1 </dev/null &
    pids+=("$!")
    echo "process $i of $number: see $log"
  fi
done

worst=0 i=0
for pid in ${pids[@]+"${pids[@]}"}; do
  i=$((i + 1))
  while true; do
    code=0
    wait "$pid" || code=$?
    # A signal interrupts wait, but does not end the process.
    if [ "$code" -le 128 ] || ! kill -0 "$pid" 2>/dev/null; then break; fi
  done
  [ "$code" -le "$worst" ] || worst="$code"
  if [ "$code" -gt 1 ] && [ "$stopped" -eq 0 ]; then
    echo "process $i of $number: exit code $code; $(tail -n 1 "$logs$i-of-$number.log")" >&2
  fi
done
if [ "$stopped" -ne 0 ]; then
  echo 'stopped; the same command goes on from there' >&2
  exit $((128 + stopped))
fi
[ "$worst" -le 1 ] || exit "$worst"
words=("${PYTHON:-python}" -m onlyif_jax.report "--workdir=$workdir")
if [ -n "$dry_run" ]; then
  show "${words[@]}"
else
  "${words[@]}" || worst=$?
fi
exit "$worst"
