#!/usr/bin/env bash
# Puts each known bug back, one at a time, into a copy of the simulator and its cores, and requires
# that some seed finds it; the tree itself must be clean on the same seeds.
#
#   chaos/mutants/check.sh [NAME…]     only these
#
# SEEDS (default 0..1000), JOBS (default: all processors) and CARGO_TARGET_DIR may be set.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
root="$(cd "$here/../.." && pwd)"
seeds="${SEEDS:-0..1000}"
jobs="${JOBS:-$(nproc)}"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$root/target}/mutants"
# Units of code are small, so that a mutant builds little anew: 10 s for each in place of 28 s, and
# the simulator is as fast.
export CARGO_PROFILE_RELEASE_DEBUG=false CARGO_PROFILE_RELEASE_OPT_LEVEL=2 CARGO_INCREMENTAL=1
export CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=256

copy="$(mktemp -d)"
trap 'rm -rf "$copy"' EXIT
readonly crates=(specs fabric/core federation/core gpu-agent/core chaos/sim)

# What cargo needs, with fresh times: with old ones it would not build anew.
fresh_copy() {
    for crate in "${crates[@]}"; do
        rm -rf "${copy:?}/$crate"
        mkdir -p "$copy/$(dirname "$crate")"
        cp -R "$root/$crate" "$copy/$crate"
    done
    cp "$root/Cargo.lock" "$copy/"
    awk -v crates="${crates[*]}" '
        /^members = \[/ { print; n = split(crates, list, " ")
            for (i = 1; i <= n; i++) printf "    \"%s\",\n", list[i]; skipping = 1; next }
        skipping && /^\]/ { skipping = 0 }
        !skipping { print }
    ' "$root/Cargo.toml" >"$copy/Cargo.toml"
}

# Only the files that the last patch touched are put back, so that only they are built anew.
restore() {
    local file
    for file in "$@"; do
        cp "$root/$file" "$copy/$file"
    done
}

build() {
    (cd "$copy" && cargo build --quiet --release -p chaos-sim --bin sim) >"$copy/log" 2>&1
}

failed=0
fail() { # name, what
    printf '%-52s %s\n' "$1" "$2"
    failed=1
}

fresh_copy
if ! build; then
    cat "$copy/log"
    exit 1
fi
if "$CARGO_TARGET_DIR/release/sim" --seeds "$seeds" --jobs "$jobs" >"$copy/log"; then
    printf '%-52s clean on seeds %s\n' "the tree" "$seeds"
    sed 's/^/    /' "$copy/log"
else
    fail "the tree" "is not clean: $(grep -m1 violates "$copy/log")"
fi

touched=()
check() { # patch
    local name found
    name="$(basename "$1" .patch)"
    restore "${touched[@]}"
    mapfile -t touched < <(sed -n 's|^+++ b/||p' "$1")
    # A file must be newer than what was built from it.
    if ! patch -d "$copy" -p1 --batch --silent --no-backup-if-mismatch -F0 <"$1" >"$copy/log" 2>&1
    then
        fail "$name" "DOES NOT APPLY"
        restore "${touched[@]}"
        return
    fi
    if ! build; then
        fail "$name" "DOES NOT BUILD: $(grep -m1 '^error' "$copy/log")"
        return
    fi
    if "$CARGO_TARGET_DIR/release/sim" --seeds "$seeds" --jobs "$jobs" >"$copy/log" 2>&1; then
        fail "$name" "SURVIVES seeds $seeds"
        return
    fi
    found="$(sed -n 's/^seed \([0-9]*\) violates "\([^"]*\)".*/found at seed \1: \2/p' "$copy/log")"
    if [[ -z $found ]]; then
        fail "$name" "BREAKS the simulator: $(tail -n1 "$copy/log")"
        return
    fi
    printf '%-52s %s\n' "$name" "$(head -n1 <<<"$found")"
}

if (($# > 0)); then
    for name in "$@"; do check "$here/$name.patch"; done
else
    for patch in "$here"/*.patch; do check "$patch"; done
fi
exit "$failed"
