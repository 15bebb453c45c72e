#!/usr/bin/env bash
# All that needs a real GPU, in one call: a report, and exit code 0 only if every step passed.
#
#   gpu-agent/on-gpu.sh AGENT REPORT     AGENT is a built gpu-agent, REPORT a folder
#
# Needs the NVIDIA driver (CUDA 12.8 or newer). compute-sanitizer is used where it is installed.
set -uo pipefail

readonly agent=${1:?usage: on-gpu.sh AGENT REPORT} out=${2:?usage: on-gpu.sh AGENT REPORT}
readonly limit_seconds=520
mkdir -p "$out"
failed=0

step() { # name, expected exit code, command…
    local name=$1 expected=$2 start=$SECONDS code=0 left=$((limit_seconds - SECONDS))
    shift 2
    if ((left < 10)); then
        printf '%-28s NOT RUN, the time is up\n' "$name" | tee -a "$out/summary.txt"
        failed=1
        return
    fi
    timeout --kill-after=5 "$left" "$@" >"$out/$name.out" 2>"$out/$name.err" || code=$?
    local word=passed
    ((code == expected)) || { word="DID NOT PASS, exit $code"; failed=1; }
    printf '%-28s %s in %d s\n' "$name" "$word" "$((SECONDS - start))" | tee -a "$out/summary.txt"
}

: >"$out/summary.txt"
step driver 0 nvidia-smi -q
step inventory 0 "$agent" inventory -o json
step t1 0 "$agent" burn-in --tier t1 -o json
step t2 0 "$agent" burn-in --tier t2 -o json
for run in 1 2 3 4 5 6 7 8 9 10; do
    step "same-seed-$run" 0 "$agent" burn-in --tier t1 --gpu 0 --seconds 0 --seed 42 -o json
done
digests() { sed -n '/"digests"/,/}/p' "$1"; }
for run in 2 3 4 5 6 7 8 9 10; do
    if ! diff <(digests "$out/same-seed-1.out") <(digests "$out/same-seed-$run.out") >/dev/null; then
        printf 'digests of run %s differ\n' "$run" | tee -a "$out/summary.txt"
        failed=1
    fi
done
if command -v compute-sanitizer >/dev/null; then
    for tool in memcheck racecheck initcheck; do
        # A sanitizer is slow: two checks of the shortest, asked as the burn-in asks its children.
        printf '{"check":"units","gpu":0,"uuid":"","seed":1,"passes":1,"seconds":0}' >"$out/question"
        step "sanitizer-$tool" 0 sh -c \
            'compute-sanitizer --error-exitcode 9 --tool "$1" "$2" check <"$3"' \
            sh "$tool" "$agent" "$out/question"
    done
else
    printf 'compute-sanitizer is not installed: not run\n' | tee -a "$out/summary.txt"
fi
grep -h -A16 '"cycles"\|memoryBytes' "$out/t2.out" >>"$out/summary.txt" 2>/dev/null || true
exit "$failed"
