#!/bin/sh
# Runs the fuzz targets of fuzz/, one after the other, each from its committed corpus.
#
#   scripts/fuzz.sh [SECONDS [TARGET…]]     60 seconds of each target if nothing else is said
#
# What is found stands in fuzz/artifacts; new inputs of interest in fuzz/corpus-found. Needs
# cargo-fuzz, and a nightly compiler or one that can be told to be one (RUSTC_BOOTSTRAP).
set -eu

case ${1-} in -h | --help)
    sed -n '2,/^set /s/^# \{0,1\}//p' "$0"
    exit 0
    ;;
esac

here=$(cd "$(dirname "$0")/.." && pwd)
seconds=${1-60}
[ $# -eq 0 ] || shift
case $seconds in -*)
    printf 'fuzz.sh: there is no option %s; see fuzz.sh --help\n' "$seconds" >&2
    exit 2
    ;;
esac
case $seconds in '' | *[!0-9]*)
    printf 'fuzz.sh: %s is not a number of seconds\n' "$seconds" >&2
    exit 2
    ;;
esac

if ! command -v cargo-fuzz >/dev/null 2>&1; then
    printf 'fuzz.sh: cargo-fuzz is missing; get it with: cargo install --locked cargo-fuzz\n' >&2
    exit 3
fi
if ! rustc --version | grep -q nightly; then
    export RUSTC_BOOTSTRAP=1
fi

cd "$here/fuzz"
targets=$*
[ -n "$targets" ] || targets=$(cargo fuzz list --fuzz-dir . | tr '\n' ' ')
for target in $targets; do
    [ -f "fuzz_targets/$target.rs" ] || {
        printf 'fuzz.sh: there is no target %s; there are:\n' "$target" >&2
        cargo fuzz list --fuzz-dir . >&2
        exit 2
    }
done
cargo fuzz build --fuzz-dir . -O
log=$(mktemp)
trap 'rm -f "$log"' EXIT
for target in $targets; do
    printf '\n== fuzz %s for %s s\n' "$target" "$seconds"
    mkdir -p "corpus-found/$target"
    if ! cargo fuzz run --fuzz-dir . -O "$target" "corpus-found/$target" "corpus/$target" -- \
        "-max_total_time=$seconds" -max_len=65536 -print_final_stats=1 -verbosity=0 >"$log" 2>&1; then
        cat "$log" >&2
        printf 'fuzz.sh: %s found something; the input is in fuzz/artifacts/%s\n' "$target" "$target" >&2
        exit 1
    fi
    grep '^stat::' "$log"
done
printf '\nnothing was found by: %s\n' "$targets"
