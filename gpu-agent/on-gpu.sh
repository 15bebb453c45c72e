#!/usr/bin/env bash
# All that needs a real GPU, in one call of less than nine minutes: a folder of reports, each bar with
# what was measured beside it, and exit code 0 only if every step passed and no bar was missed.
#
#   gpu-agent/on-gpu.sh AGENT REPORT     AGENT is a built gpu-agent, REPORT a folder
#
# Needs the NVIDIA driver (CUDA 12.8 or newer); one GPU, number 0 or $GPU, is tested.
# compute-sanitizer is used where it is installed. A rehearsal without a GPU runs the same against the
# emulator: with its folder of libraries in LD_LIBRARY_PATH and SECONDS_OF_WORK=0.
set -uo pipefail

readonly agent=${1:?usage: on-gpu.sh AGENT REPORT} out=${2:?usage: on-gpu.sh AGENT REPORT}
readonly gpu=${GPU:-0} limit_seconds=520
work=()
[[ -n ${SECONDS_OF_WORK:-} ]] && work=(--seconds "$SECONDS_OF_WORK")
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
    echo "$code" >"$out/$name.code"
    local word=passed
    ((code == expected)) || { word="DID NOT PASS, exit $code"; failed=1; }
    printf '%-28s %s in %d s\n' "$name" "$word" "$((SECONDS - start))" | tee -a "$out/summary.txt"
}

: >"$out/summary.txt"
if command -v nvidia-smi >/dev/null; then
    step driver 0 nvidia-smi -q
fi
step inventory 0 "$agent" inventory -o json
step t1 0 "$agent" burn-in --tier t1 --gpu "$gpu" "${work[@]}" -o json
step t2 0 "$agent" burn-in --tier t2 --gpu "$gpu" "${work[@]}" -o json
for run in 1 2 3 4 5 6 7 8 9 10; do
    step "same-seed-$run" 0 "$agent" burn-in --tier t1 --gpu "$gpu" --seconds 0 --seed 42 -o json
done
if command -v compute-sanitizer >/dev/null; then
    for tool in memcheck racecheck initcheck; do
        # A sanitizer is slow: the check of the units, asked as the burn-in asks its children.
        printf '{"check":"units","gpu":%d,"uuid":"","seed":1,"passes":1,"seconds":0}\n' "$gpu" \
            >"$out/question"
        step "sanitizer-$tool" 0 sh -c \
            'compute-sanitizer --error-exitcode 9 --tool "$1" "$2" check <"$3"' \
            sh "$tool" "$agent" "$out/question"
    done
else
    printf 'compute-sanitizer is not installed: not run\n' | tee -a "$out/summary.txt"
fi
# A short soak: memory that is left alone, and rows of it that are read in turns.
step t3 0 "$agent" burn-in --tier t3 --gpu "$gpu" --seconds "${SECONDS_OF_WORK:-30}" -o json
"$agent" bars "$out" | tee -a "$out/summary.txt"
((PIPESTATUS[0] == 0)) || failed=1
exit "$failed"
