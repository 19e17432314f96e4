#!/bin/sh
# A cluster under writes, DATA, random kills, stops, hangs, partitions, garbage on the ports, a
# member that lies and hosts that are set up anew, for a long time, while all promises are checked.
#
#   scripts/soak.sh [MINUTES]          60 if none are given; fewer than 10 are too short to
#                                      compare memory
#
# It prints a line of figures every ten seconds, and a verdict. All of it runs on loopback, in a temporary
# folder, without privileges. SEED=n makes the faults of the run that had this seed again.
# Exit codes: 0 all promises held; 1 one was broken (said above); 2 wrong usage; 3 it can't run here.
set -eu

case ${1-} in -h | --help)
    sed -n '2,/^set /s/^# \{0,1\}//p' "$0"
    exit 0
    ;;
esac

here=$(cd "$(dirname "$0")/.." && pwd)
minutes=${1-60}
case $minutes in
    -*)
        printf 'soak.sh: there is no option %s; see soak.sh --help\n' "$minutes" >&2
        exit 2
        ;;
    '' | 0* | *[!0-9]* | ?????*)
        printf 'soak.sh: %s is not a number of minutes (1 to 9999)\n' "'$minutes'" >&2
        exit 2
        ;;
esac
if [ $# -gt 1 ]; then
    printf 'soak.sh: one number of minutes, not %s words\n' "$#" >&2
    exit 2
fi
command -v cargo >/dev/null 2>&1 || {
    printf 'soak.sh: cargo is not here: install Rust (https://rustup.rs)\n' >&2
    exit 3
}
[ -r /proc/self/status ] || {
    printf 'soak.sh: /proc is not here: memory, threads and callers are read there (Linux)\n' >&2
    exit 3
}

cd "$here"
printf 'building in release mode ...\n'
cargo test --locked --release --test suite --no-run --quiet || {
    printf 'soak.sh: the build failed\n' >&2
    exit 3
}
code=0
DSN_SOAK_MINUTES=$minutes cargo test --locked --release --quiet --test suite soak:: -- --nocapture || code=$?
if [ "$code" -eq 0 ]; then
    printf '\nsoak.sh: %s minutes, all promises held\n' "$minutes"
    exit 0
fi
printf '\nsoak.sh: a promise was broken, or the run was ended (see above)\n' >&2
exit 1
