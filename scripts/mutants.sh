#!/bin/sh
# Changes the source in small ways (cargo-mutants), one at a time, and lists the changes that no
# test notices. Each of them is worth a test, or a line with its reason in tests/mutants.txt.
#
#   scripts/mutants.sh FILE…             what is in these files
#   scripts/mutants.sh --changed BASE    what differs from this commit
#   scripts/mutants.sh --sample N        N of all, spread over all files (--seed S: other ones)
#   scripts/mutants.sh --all             all of them: some 2 500, a day on two cores
#
#   --minutes M    ends after this time; what was not tried then is said
#   --quick        with the units alone
#
# Only the rules and what stands around them are changed: src/protocol, src/steps, src/driver,
# src/journal, src/server, src/keeper.rs. Tests that need real hosts, disks or much time are left
# out, so a survivor here may be noticed by those. Exit code 1: somebody survived. 3: cargo-mutants
# is missing.
set -eu

case ${1-} in -h | --help)
    sed -n '2,/^set /s/^# \{0,1\}//p' "$0"
    exit 0
    ;;
esac

here=$(cd "$(dirname "$0")/.." && pwd)
cd "$here"

fail() {
    printf 'mutants.sh: %s\n' "$1" >&2
    exit 2
}

number() {
    case $2 in '' | *[!0-9]*) fail "$1 takes a number, not '$2'" ;; esac
}

base='' sample='' seed=0 minutes=0 all=no quick=no files=''
while [ $# -gt 0 ]; do
    case $1 in
        --all) all=yes ;;
        --quick) quick=yes ;;
        --changed | --sample | --seed | --minutes)
            [ $# -ge 2 ] || fail "$1 takes a value"
            [ "$1" = --changed ] || number "$1" "$2"
            case $1 in
                --changed) base=$2 ;;
                --sample) sample=$2 ;;
                --seed) seed=$2 ;;
                --minutes) minutes=$2 ;;
            esac
            shift
            ;;
        -*) fail "there is no option $1" ;;
        *)
            [ -f "$1" ] || fail "there is no file $1"
            files="$files $1"
            ;;
    esac
    shift
done
[ -n "$base$sample$files" ] || [ "$all" = yes ] ||
    fail 'say what: FILE…, --changed BASE, --sample N or --all'
[ -z "$base" ] || git rev-parse --verify --quiet "$base^{commit}" >/dev/null ||
    fail "there is no commit $base here"

if ! cargo mutants --version >/dev/null 2>&1; then
    echo 'mutants.sh: cargo-mutants is missing; get it with: cargo install --locked cargo-mutants' >&2
    exit 3
fi

out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
trap 'exit 130' INT TERM

set -- --no-shuffle
[ "$all" = yes ] || [ -n "$files" ] || set -- --shuffle
if [ -n "$files" ]; then
    for file in $files; do set -- "$@" -f "$file"; done
else
    for part in 'protocol/**' 'steps/**' 'driver/**' 'journal/**' 'server/**' keeper.rs; do
        set -- "$@" -f "src/$part"
    done
fi
if [ -n "$base" ]; then
    git diff "$base" -- src >"$out/diff"
    if [ ! -s "$out/diff" ]; then
        echo "nothing in src differs from $base"
        exit 0
    fi
    set -- "$@" --in-diff "$out/diff"
fi
count=$(cargo mutants --list "$@" | wc -l)
if [ -n "$sample" ] && [ "$sample" -lt "$count" ]; then
    shards=$((count / sample))
    set -- "$@" --shard "$((seed % shards))/$shards" --sharding round-robin
    count=$(cargo mutants --list "$@" | wc -l)
fi
printf '%s changes are to be tried\n' "$count"
[ "$count" -gt 0 ] || exit 0

limit=''
[ "$minutes" = 0 ] || limit="timeout --signal=INT --kill-after=60 $((minutes * 60))"
code=0
set -- "$@" --output "$out" --timeout 180 --no-times --colors never -- --lib
if [ "$quick" = yes ]; then
    # Units are built faster without optimisation; the simulator is too slow that way.
    export CARGO_PROFILE_DEV_OPT_LEVEL=0
else
    set -- "$@" --test suite -- --skip network:: --skip port:: --skip faults:: --skip liars:: \
        --skip soak:: --skip cluster:: --skip interop:: --skip sizing:: --skip tidy:: --skip stop:: \
        --skip notify::
fi
# As many histories as find most in the time that building takes.
export SIMULATION_SEEDS="${SIMULATION_SEEDS-300}"
# What does not change is built once: here, and in scripts/mends.sh.
export CARGO_TARGET_DIR="$here/target/mends/target" CARGO_PROFILE_DEV_DEBUG=0
# The end of the time is no fault of anybody that needs a trace.
RUST_BACKTRACE=0 RUST_LIB_BACKTRACE=0 $limit cargo mutants "$@" || code=$?

found=$out/mutants.out
[ -d "$found" ] || fail "cargo-mutants ended with $code before it began"
# The tests have to pass as they are, else nothing that fails says anything.
case $code in 4) fail 'the tests fail without any change' ;; esac
lines() { grep -c '' "$found/$1.txt" 2>/dev/null || true; }
tried=$(($(lines caught) + $(lines missed) + $(lines timeout) + $(lines unviable)))
printf '\n%s tried: %s noticed, %s without an end, %s do not compile, %s survived\n' \
    "$tried" "$(lines caught)" "$(lines timeout)" "$(lines unviable)" "$(lines missed)"
[ "$tried" -ge "$count" ] || printf '%s were not tried, as the time was over\n' "$((count - tried))"

# tests/mutants.txt names places without lines, so that it outlives other changes.
known=tests/mutants.txt
survivors=0
while IFS= read -r line; do
    place=$(printf '%s\n' "$line" | sed 's/:[0-9]*:[0-9]*: /: /')
    if grep -qF -- "$place |" "$known"; then
        printf 'survived, with a reason: %s\n' "$place"
    else
        printf 'SURVIVED: %s\n' "$line"
        survivors=$((survivors + 1))
    fi
done <"$found/missed.txt"
[ "$survivors" = 0 ] || {
    printf 'mutants.sh: %s survived: write a test, or say why none is needed in %s\n' "$survivors" "$known" >&2
    exit 1
}
