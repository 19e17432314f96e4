#!/bin/sh
# Measures what members that lie, and honest nodes that are set up wrongly, cost three honest nodes.
#
#   scripts/liars.sh             all cases, half an hour or more
#   scripts/liars.sh CASE…       some of them
#   scripts/liars.sh --list      their names
#
# It starts release processes on loopback, with the default tick, and prints a line for each case. Traffic of
# nodes is counted by a proxy in front of each (what comes in, with its answers; HTTP bytes), that of liars at
# their own port; CPU is the process clock in /proc/PID/stat, in percent of a core. What the cases are:
# docs/faults.md. DSN_TEST_BIN names another binary to measure.
# Exit codes: 0 all was measured; 1 some was not (said above); 2 wrong usage; 3 it can't run here.
set -eu

here=$(cd "$(dirname "$0")/.." && pwd)
case ${1-} in
    -h | --help)
        sed -n '2,/^set /s/^# \{0,1\}//p' "$0"
        exit 0
        ;;
    --list)
        sed -n 's/^    ("\([a-z0-9-]*\)", .*/\1/p' "$here/tests/liars/mod.rs"
        exit 0
        ;;
esac
for name in "$@"; do
    "$0" --list | grep -qxF -e "$name" || {
        printf 'liars.sh: there is no case %s; see liars.sh --list\n' "'$name'" >&2
        exit 2
    }
done
command -v cargo >/dev/null 2>&1 || {
    printf 'liars.sh: cargo is not here: install Rust (https://rustup.rs)\n' >&2
    exit 3
}
[ -r /proc/self/io ] || {
    printf 'liars.sh: /proc is not here: CPU, memory and disk are read there (Linux)\n' >&2
    exit 3
}

# All that the nodes write is in here. It has to be on a disk, for what is written is counted.
folder=$(mktemp -d "${TMPDIR:-/tmp}/dsn-liars-XXXXXX")
export TMPDIR="$folder"
trap 'rm -rf "$folder"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

cd "$here"
printf 'building in release mode ...\n'
cargo test --locked --release --test suite --no-run --quiet || {
    printf 'liars.sh: the build failed\n' >&2
    exit 3
}
code=0
DSN_LIARS=${*:-all} cargo test --locked --release --quiet --test suite liars:: -- --nocapture || code=$?
[ "$code" -eq 0 ] && exit 0
printf '\nliars.sh: not all was measured, or the run was ended (see above)\n' >&2
exit 1
