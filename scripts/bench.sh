#!/bin/sh
# Measures nodes on this machine against their goals, and prints all figures as a table.
#
#   scripts/bench.sh                  all of it: about ten minutes
#   scripts/bench.sh FIGURE…          some of it, then the table of all that was measured so far
#   scripts/bench.sh --quick          under a minute, to see that the benches still run
#   scripts/bench.sh change           one change: five minutes, ten with another binary in DSN_BASE_BIN
#   scripts/bench.sh scale [OPTION…] [FIGURE…]   many nodes: a few minutes
#
# `messages` also measures the node of another build of the bench in turns, where DSN_BASE_BENCH names one
# (target/release/deps/load-…).
#
# Figures: updates messages propagation python start memory durable idle growth, and parts (what
# signatures, envelopes and messages cost by themselves). What they mean: docs/benchmarks.md.
#
# Measured is the static binary, which is what scripts/cross.sh ships, wherever it can be built; else the
# one of `cargo build --release`, which is said. DSN_TEST_BIN names another one.
#
# `scale` measures networks of many nodes: 16, 64 and 256 with the real rules in a modelled network, and
# 16 to 100 real processes, side by side with another binary where DSN_BASE_BIN names one. Its figures are
# primed mistakes join join-loss late hangs split restart half partial overload processes, and table, which measures
# nothing; its options --sizes 16,64,… (DSN_BENCH_SIZES has those of processes), --hours H (of virtual
# time, for mistakes), --sets N, --victims N, --seed N, --shape TEXT (those of partial with it in their
# name), --loss PERCENT (of requests and answers, in these), and --long: 1 000 nodes as well, and 24 hours.
# Results are kept in target/bench/scale.json, those that are measured again take the place of old ones.
#
# The comparison with the Python package needs python3 with venv, and its registry or a mirror; the
# package goes into a temporary folder. Without them it is left out, and that is said.
# DSN_BENCH_PYTHON names a Python that has the package already.
set -eu

here=$(cd "$(dirname "$0")/.." && pwd)
package=distributed_state_network==1.2.0
cd "$here"

say() { printf '%s\n' "$*"; }
fail() {
    printf 'bench.sh: %s\n' "$*" >&2
    exit "${2:-1}"
}

# All that is made for a while is in here: nodes, the Python package.
folder=$(mktemp -d "${TMPDIR:-/tmp}/dsn-bench-XXXXXX")
export TMPDIR="$folder"
end() {
    code=$?
    trap - EXIT INT TERM
    rm -rf "$folder"
    exit "$code"
}
trap end EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Many nodes: what is left of the arguments goes to the bench itself.
measure_scale() {
    processes=yes rules=yes names='' options=''
    while [ $# -gt 0 ]; do
        case $1 in
            --sizes | --hours | --seed | --sets | --victims | --shape | --loss)
                [ $# -gt 1 ] || fail "$1 needs a value" 2
                options="$options $1 $2"
                shift
                ;;
            --long) options="$options $1" ;;
            processes) names="$names $1" ;;
            *)
                names="$names $1"
                options="$options $1"
                ;;
        esac
        shift
    done
    case $names in
        '') ;;
        ' processes') rules= ;;
        *' processes'*) ;;
        *) processes= ;;
    esac
    if [ -n "$processes" ]; then
        cargo bench --locked --bench load -- processes
    fi
    [ -n "$rules" ] || options=table
    # shellcheck disable=SC2086 # a list of words
    cargo bench --locked --profile scale --bench scale -- $options
}

if [ "${1-}" = scale ]; then
    shift
    measure_scale "$@"
    exit 0
fi

quick=
parts=
asked_python=
figures=
for argument in "$@"; do
    case $argument in
        --quick) quick=yes ;;
        parts) parts=yes ;;
        python)
            asked_python=yes
            figures="$figures python"
            ;;
        updates | messages | propagation | start | memory | durable | idle | growth | change)
            figures="$figures $argument"
            ;;
        -h | --help)
            sed -n '2,/^set /s/^# \{0,1\}//p' "$0"
            exit 0
            ;;
        *)
            printf 'bench.sh: there is no figure %s; see bench.sh --help\n' "$argument" >&2
            exit 2
            ;;
    esac
done
command -v cargo >/dev/null 2>&1 || fail "cargo is not here: install Rust"

# Makes a Python with the package, in a folder that goes away with this script.
make_python() {
    command -v python3 >/dev/null 2>&1 || {
        say "python3 is not here"
        return 1
    }
    say "installing $package into $folder …"
    python3 -m venv "$folder/venv" || return 1
    "$folder/venv/bin/pip" install --quiet --disable-pip-version-check "$package" || return 1
    DSN_BENCH_PYTHON=$folder/venv/bin/python
    export DSN_BENCH_PYTHON
}

wants_python() {
    [ -n "$asked_python" ] || { [ -z "$figures" ] && [ -z "$quick" ] && [ -z "$parts" ]; }
}

if wants_python && [ -z "${DSN_BENCH_PYTHON-}" ] && ! make_python; then
    [ -z "$asked_python" ] || fail "there is no Python with $package to compare with"
    say "SKIPPED: the comparison with Python (said above)"
fi

if [ -n "$quick" ]; then
    # With what `cargo test` has built: the numbers mean nothing, so they are kept apart.
    # shellcheck disable=SC2086 # a list of figures
    cargo bench --locked --profile dev --bench load -- --quick $figures
    cargo bench --locked --profile dev --bench parts -- --sample-count 1 --sample-size 1
    exit 0
fi

# The one for this host that asks nobody for anything, built just now.
build_static() {
    case $(uname -m) in
        x86_64) board=x86-64 ;;
        aarch64) board=aarch64 ;;
        *) return 1 ;;
    esac
    touch "$folder/began"
    scripts/cross.sh "$board" >"$folder/cross.log" 2>&1 || return 1
    DSN_TEST_BIN=$(find "$here/dist" -name "dsn-*-$(uname -m)-unknown-linux-musl" -newer "$folder/began")
    [ -n "$DSN_TEST_BIN" ] || return 1
    export DSN_TEST_BIN
}

if [ -n "$parts" ] || [ -z "$figures" ]; then
    cargo bench --locked --bench parts
fi
if [ -n "$figures" ] || [ -z "$parts" ]; then
    if [ -z "${DSN_TEST_BIN-}" ] && ! build_static; then
        unset DSN_TEST_BIN
        say "there is no static binary to measure: scripts/cross.sh says why"
    fi
    say "measured is ${DSN_TEST_BIN-the binary of cargo build}"
    [ -z "$figures" ] || figures="$figures table"
    # shellcheck disable=SC2086 # a list of figures
    cargo bench --locked --bench load -- $figures
fi
