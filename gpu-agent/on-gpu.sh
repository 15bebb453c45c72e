#!/usr/bin/env bash
# All that needs a real GPU, in one call of less than nine minutes: a folder of reports, each bar with
# what was measured beside it, what was found and where the time went, and exit code 0 only if every
# step passed and no bar was missed.
#
#   gpu-agent/on-gpu.sh AGENT REPORT     AGENT is a built gpu-agent, REPORT a folder
#
# Needs the NVIDIA driver (CUDA 12.8 or newer) and coreutils; one GPU, number 0 or $GPU, is tested.
# nvidia-smi and compute-sanitizer are used where they are installed. A rehearsal without a GPU runs
# the same against the emulator: with its folder of libraries in LD_LIBRARY_PATH and SECONDS_OF_WORK=0.
set -uo pipefail

readonly agent=${1:?usage: on-gpu.sh AGENT REPORT} out=${2:?usage: on-gpu.sh AGENT REPORT}
readonly gpu=${GPU:-0} limit_seconds=520 sanitizer_seconds=40
work=()
[[ -n ${SECONDS_OF_WORK:-} ]] && work=(--seconds "$SECONDS_OF_WORK")
mkdir -p "$out"
failed=0

say() { tee -a "$out/summary.txt"; }

# Leaves the exit code in $code.
step() { # name, expected exit code, seconds at most, command…
    local name=$1 expected=$2 most=$3 start=$SECONDS left=$((limit_seconds - SECONDS))
    shift 3
    code=0
    if ((left < 10)); then
        printf '%-28s NOT RUN, the time is up\n' "$name" | say
        failed=1
        return
    fi
    timeout --kill-after=5 "$((most < left ? most : left))" "$@" \
        >"$out/$name.out" 2>"$out/$name.err" || code=$?
    local word=passed
    if ((code == 124 || code == 137)); then
        word="WAS ENDED, it took too long"
    elif ((code != expected)); then
        word="DID NOT PASS, exit $code"
    fi
    ((code == expected)) || failed=1
    echo "$code" >"$out/$name.code"
    printf '%-28s %s in %d s\n' "$name" "$word" "$((SECONDS - start))" | say
    ((code == expected)) || head -n 3 "$out/$name.err" | sed 's/^/    /' | say
}

: >"$out/summary.txt"
{
    uname -r
    # What else may hold a GPU, or part of it.
    [[ -e /tmp/nvidia-mps/control ]] && echo 'an MPS daemon runs'
    head -n 1 /proc/driver/nvidia/version 2>/dev/null
} | say
if command -v nvidia-smi >/dev/null; then
    step driver 0 60 nvidia-smi -q
    nvidia-smi --format=csv --query-gpu=index,name,driver_version,persistence_mode,compute_mode,mig.mode.current,ecc.mode.current,pcie.link.gen.current,pcie.link.gen.max 2>&1 | say
fi
step inventory 0 60 "$agent" inventory -o json
step t0 0 60 "$agent" burn-in --tier t0 --gpu "$gpu" -o json
step t1 0 200 "$agent" burn-in --tier t1 --gpu "$gpu" "${work[@]}" -o json
step t2 0 300 "$agent" burn-in --tier t2 --gpu "$gpu" "${work[@]}" -o json
for run in 1 2 3 4 5 6 7 8 9 10; do
    step "same-seed-$run" 0 60 "$agent" burn-in --tier t1 --gpu "$gpu" --seconds 0 --seed 42 -o json
done
# A short soak: memory that is left alone, and rows of it that are read in turns.
step t3 0 300 "$agent" burn-in --tier t3 --gpu "$gpu" --seconds "${SECONDS_OF_WORK:-30}" -o json
if command -v compute-sanitizer >/dev/null; then
    # A sanitizer is slow: one check, asked as the burn-in asks its children.
    printf '{"check":"units","gpu":%d,"uuid":"","seed":1,"passes":1,"seconds":0}\n' "$gpu" \
        >"$out/question"
    for tool in memcheck racecheck initcheck; do
        # One that does not end, or that the check does not run under, says nothing.
        before=$failed
        step "sanitizer-$tool" 0 "$sanitizer_seconds" sh -c \
            'compute-sanitizer --error-exitcode 9 --tool "$1" "$2" check <"$3"' \
            sh "$tool" "$agent" "$out/question"
        if ((code != 9)) && ! grep -q '"votes"' "$out/sanitizer-$tool.out"; then
            printf '    says nothing of %s\n' "$tool" | say
            rm -f "$out/sanitizer-$tool.code"
            failed=$before
        fi
    done
else
    printf 'compute-sanitizer is not installed: not run\n' | say
fi
"$agent" bars "$out" | say
((PIPESTATUS[0] == 0)) || failed=1
exit "$failed"
