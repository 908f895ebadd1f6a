#!/usr/bin/env bash
# Bench and Fig. 2a on a machine that is lent for minutes; --help says how.
set -euo pipefail

usage() {
  cat <<'HELP'
launch/gpu_report.sh [--FLAG=VALUE ...] [-- FLAGS OF onlyif_jax.main ...]

One part of a long job, in at most --minutes: the bench table (once), then as much of
the sweep as there is time for. What a part leaves in --out is enough to go on from,
on another machine that has never seen the job:

  launch/gpu_report.sh --out=parts/1
  launch/gpu_report.sh --from=parts/1 --out=parts/2     # and so on, until it exits 0
  launch/gpu_report.sh --shard=1/4 --from=... --out=... # parts side by side

  --minutes=25       of the whole call
  --config=FILE:ARGS the sweep (configs/imin.py:gpu30); the papers' own settings are
                     'configs/imin.py:full,counts=100|200|300|400|500|600|1000|2000|10000|100000'
  --shard=i/n        only every n-th stack; parts of other shards come by --from too
  --from=DIR         what an earlier part left; may be given again
  --out=DIR          where to (runs/gpu_report)
  --work=DIR         the run itself, if it is to be kept (inside --out, removed)
  --wheels=DIR       wheels of packages that the machine lacks; installed into --work
  --piece=15         most MiB of one file, and
  --limit=56         of the state: an unfinished member's checkpoint above it is left out
  --no_bench         no bench table
  --toy              everything at toy size, on any machine

--out: bench.json, bundle.zip (config, provenance, numbers and figure of all parts;
checked by reading it again), report.txt (both as tables), state.tar.gz.* (the run
without the weights of members that are done) and SHA256SUMS. Exit code: 0 the sweep is done,
1 done but a member failed, 143 another part is needed, 2 something is wrong.
HELP
}

# shellcheck disable=SC1091
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

say() {
  echo "gpu_report: $*" >&2
}

root="$(cd "$(dirname "$0")/.." && pwd)"
python="${PYTHON:-python3}" minutes=25 config='' shard='' out=runs/gpu_report work=''
wheels='' piece=15 limit=56 bench=1 toy='' from=()
while [ $# -gt 0 ]; do
  value="${1#*=}"
  case "$1" in
    --minutes=*) minutes="$value" ;;
    --config=*) config="$value" ;;
    --shard=*) shard="$value" ;;
    --from=*) from+=("$value") ;;
    --out=*) out="$value" ;;
    --work=*) work="$value" ;;
    --wheels=*) wheels="$value" ;;
    --piece=*) piece="$value" ;;
    --limit=*) limit="$value" ;;
    --no_bench) bench='' ;;
    --toy) toy=1 ;;
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
for value in "$minutes" "$piece" "$limit"; do
  case "$value" in
    '' | *[!0-9]*) fail "--minutes, --piece and --limit are whole numbers, not $value" ;;
  esac
done
began=$SECONDS
[ -n "$config" ] || config="${toy:+$root/tests/toy.py}"
[ -n "$config" ] || config="$root/configs/imin.py:gpu30"
mkdir -p "$out"
out="$(cd "$out" && pwd)"
kept="$work"
work="${work:-$out/work}"
mkdir -p "$work"
work="$(cd "$work" && pwd)"
run="$work/run"
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
export JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR:-$work/compiled}"

left() { # remaining seconds, less the time for packing
  local reserve=90
  [ -z "$toy" ] || reserve=5
  echo $((minutes * 60 - reserve - (SECONDS - began)))
}

# Runs a command, which gets SIGTERM to save after SECONDS, or when this script gets it.
# Returns its exit code.
child='' stopped=''
limited() { # SECONDS COMMAND ...
  local code=0
  [ -z "$stopped" ] || return 143
  timeout --preserve-status --signal=TERM --kill-after=60 "$@" &
  child=$!
  wait "$child" || code=$?
  while kill -0 "$child" 2>/dev/null; do # a trap interrupts wait
    code=0
    wait "$child" || code=$?
  done
  child=''
  return "$code"
}
# shellcheck disable=SC2329  # the trap calls it
stop() {
  stopped=1
  [ -z "$child" ] || kill -TERM "$child" 2>/dev/null || true
}
trap stop TERM INT

# --- The machine -------------------------------------------------------------------

missing() {
  "$python" - <<'PY'
import importlib.util
names = ['jax', 'flax', 'optax', 'orbax', 'absl', 'matplotlib', 'rich', 'scipy', 'yaml']
names += ['ml_collections', 'tensorboardX']
print(*(n for n in names if importlib.util.find_spec(n) is None))
PY
}

if [ -n "$wheels" ] && [ -n "$(missing)" ]; then
  "$python" -m pip install --quiet --no-index --no-deps --no-compile --upgrade \
    --target "$work/site" "$wheels"/*.whl || fail "--wheels=$wheels cannot be installed"
  export PYTHONPATH="$PYTHONPATH:$work/site"
fi
lacking="$(missing)"
[ -z "$lacking" ] || fail "this machine lacks $lacking; bring their wheels by --wheels=DIR"

# --- Results of earlier parts ------------------------------------------------------

for folder in ${from[@]+"${from[@]}"}; do
  [ -f "$folder/SHA256SUMS" ] || fail "--from=$folder holds no SHA256SUMS of a part"
  (cd "$folder" && sha256sum --quiet --check SHA256SUMS >&2) ||
    fail "--from=$folder is damaged; take an earlier part"
  if ls "$folder"/state.tar.gz.* >/dev/null 2>&1; then
    cat "$folder"/state.tar.gz.* | tar -xz -C "$work"
  fi
done

# --- Bench -------------------------------------------------------------------------

measure() { # NAME FLAGS ...
  local file="$work/bench/$1" code=0
  shift
  if [ -f "$file.json" ] || [ "$(left)" -lt 1 ]; then return; fi
  mkdir -p "$work/bench"
  limited "$(left)" "$python" -m onlyif_jax.bench "$@" --out="$file.part" \
    >"$file.txt" || code=$?
  cat "$file.txt"
  if [ "$code" -eq 0 ]; then
    mv "$file.part" "$file.json"
  else
    rm -f "$file.part" "$file.txt"
    say "bench ${file##*/} ended with exit code $code; the sweep goes on"
  fi
}

peers=()
if "$python" - <<'PY'
import importlib.util as i, sys
names = ('torch', 'transformers', 'accelerate', 'safetensors')
sys.exit(any(i.find_spec(n) is None for n in names))
PY
then peers=(--peers --rounds=3); fi
if [ -n "$bench" ] && [ -n "$toy" ]; then
  measure toy --config="$config" --seconds=0.01
elif [ -n "$bench" ]; then
  measure small --config="$root/configs/imin.py" --config.data.batch_size=256 \
    --seconds=4 ${peers[@]+"${peers[@]}"}
  measure paper --config="$root/configs/imin.py:full" --seconds=4 \
    ${peers[@]+"${peers[@]}"}
  measure fused --config="$root/configs/imin.py:full" --seconds=4 \
    --config.model.attention=fused
  measure stacked --config="$root/configs/imin.py" --seconds=2 --modes
fi

# --- The sweep ---------------------------------------------------------------------

code=143
if [ "$(left)" -ge 1 ]; then
  code=0
  limited "$(left)" "$python" -m onlyif_jax.main --config="$config" --workdir="$run" \
    ${shard:+"--shard=$shard"} "$@" || code=$?
fi
case "$code" in
  0 | 1 | 143) ;;
  2) fail 'the sweep was refused, see above' ;;
  137)
    say 'the sweep was killed; its last save is kept'
    code=143
    ;;
  *) say "the sweep ended with exit code $code; what it saved is kept" ;;
esac

# --- Results of this part ----------------------------------------------------------

cd "$out"
rm -f state.tar.gz.* bundle.zip bench.json report.txt SHA256SUMS
if ls "$work"/bench/*.json >/dev/null 2>&1; then
  "$python" - "$work/bench" >bench.json <<'PY'
import json, pathlib, sys
found = sorted(pathlib.Path(sys.argv[1]).glob('*.json'))
print(json.dumps({p.stem: json.loads(p.read_text()) for p in found}, indent=2))
PY
  cat "$work"/bench/*.txt >report.txt
fi
tested="$work/tested"
rm -rf "$tested"
mkdir "$tested"
if "$python" -m onlyif_jax.report --workdir="$run" >"$work/report.txt" 2>&1; then
  cat "$work/report.txt"
  cat "$work/report.txt" >>report.txt
  "$python" -m onlyif_jax.export --workdir="$run" --to=bundle --out=bundle >&2
  "$python" -m onlyif_jax.report --bundle=bundle.zip --out="$tested" >/dev/null
  "$python" -m zipfile -e bundle.zip "$tested/bundle"
  cmp "$run/results.csv" "$tested/bundle/results.csv" || fail 'bundle.zip is damaged'
  say "bundle.zip holds $("$python" - "$run" <<'PY'
import csv, pathlib, sys
rows = csv.DictReader((pathlib.Path(sys.argv[1]) / 'results.csv').open(newline=''))
print(len({row['member'] for row in rows}))
PY
) members; it reads back"
else
  say "no member is done yet: $(tail -n 1 "$work/report.txt")"
fi
"$python" - "$work" "$out" "$piece" "$limit" <<'PY'
"""state.tar.gz.NN: the run, without what is not needed to go on."""
import json, pathlib, sys, tarfile

work, out = map(pathlib.Path, sys.argv[1:3])
piece, limit = (int(n) * 2**20 for n in sys.argv[3:])
run = work / 'run'


def needed(workdir):
  """The newest checkpoint of each stack that has begun and is not done."""
  ledger = workdir / 'ledger.jsonl'
  lines = ledger.read_text().splitlines() if ledger.exists() else []
  done = {e['stack'] for e in map(json.loads, lines) if e['event'] == 'done'}
  for stack in sorted((workdir / 'checkpoints').glob('*')):
    steps = [p for p in stack.glob('*') if p.name.isdigit()]
    if stack.name not in done and steps:
      yield max(steps, key=lambda p: int(p.name))


def pack(with_checkpoints):
  path = work / 'state.tar.gz'
  with tarfile.open(path, 'w:gz', compresslevel=1) as tar:
    if (work / 'bench').is_dir():
      tar.add(work / 'bench', 'bench')
    for workdir in (run, *sorted(run.glob('shards/*-of-*'))):
      for p in sorted(workdir.glob('*')):
        if p.is_file() and not p.name.startswith('.'):
          tar.add(p, p.relative_to(work))
      for p in needed(workdir) if with_checkpoints else ():
        tar.add(p, p.relative_to(work))
  return path


if run.is_dir() or (work / 'bench').is_dir():
  path = pack(True)
  if path.stat().st_size > limit:
    print('gpu_report: the checkpoint is above --limit and was left out', file=sys.stderr)
    path = pack(False)
  data = path.read_bytes()
  for n, start in enumerate(range(0, len(data), piece)):
    (out / f'state.tar.gz.{n:02d}').write_bytes(data[start : start + piece])
PY
[ -n "$kept" ] || rm -rf "$work"
find . -maxdepth 1 -type f ! -name '.*' ! -name SHA256SUMS -printf '%P\0' | sort -z |
  xargs -0 sha256sum >"$out/.sums"
mv .sums SHA256SUMS
if [ "$code" -eq 143 ]; then
  say "the time is up; go on with --from=$out and another --out"
fi
say "took $((SECONDS - began)) s; in $out: $(find . -maxdepth 1 -type f -printf '%P ')"
exit "$code"
