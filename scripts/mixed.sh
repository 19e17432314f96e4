#!/bin/bash
# One network of nodes of different architectures on this host: those that it can't run itself run
# under user-mode qemu. Each node sets, reads, sends and receives; one is killed and comes back.
#
#   scripts/mixed.sh [BOARD…]     boards as in cross.sh: x86-64 aarch64 armv7 if none is named
#
# Takes the binaries of this version from dist/. Exit codes: 0 all is well; 1 it is not; 2 wrong
# usage; 3 a binary or qemu is missing, so nothing was tested.
set -euo pipefail

case ${1-} in -h | --help)
    sed -n '2,/^set /s/^# \{0,1\}//p' "$0"
    exit 0
    ;;
esac

here=$(cd "$(dirname "$0")/.." && pwd)
[[ $# -gt 0 ]] || set -- x86-64 aarch64 armv7
boards=("$@")
place=$(mktemp -d)
declare -A command pid
# Settings of the caller's own node must not reach these.
unset DSN_CONTROL DSN_NODE_ID DSN_LISTEN DSN_BOOTSTRAP DSN_ADVERTISE DSN_NETWORK_KEY \
    DSN_CREDENTIALS DSN_DATA DSN_CONFIG DSN_TICK DSN_SYNC DSN_ALLOW

say() { printf '%s\n' "$*"; }
fail() {
    printf 'mixed.sh: %s\n' "$*" >&2
    tail -n 5 "$place"/*.log >&2 || true
    exit 1
}
lacks() {
    printf 'mixed.sh: NOTHING was tested: %s\n' "$*" >&2
    exit 3
}
cleanup() {
    for board in "${!pid[@]}"; do kill -9 "${pid[$board]}" 2>/dev/null || true; done
    rm -rf "$place"
}
trap cleanup EXIT

# How the binary of a board is run here. The processors are those of a Pi 3, a Pi 2 and a Pi Zero.
find_command() {
    local runner='' pattern file
    case $1 in
        x86-64) pattern='x86_64-*' runner=qemu-x86_64-static ;;
        aarch64) pattern='aarch64-*' runner='qemu-aarch64-static -cpu cortex-a53' ;;
        armv7) pattern='armv7-*' runner='qemu-arm-static -cpu cortex-a7 -L /usr/arm-linux-gnueabihf' ;;
        armv6) pattern='arm-*' runner='qemu-arm-static -cpu arm1176' ;;
        *)
            say "mixed.sh: there is no board $1" >&2
            exit 2
            ;;
    esac
    case $1:$(uname -m) in x86-64:x86_64 | aarch64:aarch64 | armv7:armv7l) runner='' ;; esac
    # shellcheck disable=SC2012,SC2086 # names of our own, and a pattern
    file=$(ls -t "$here/dist/dsn-$version-"$pattern 2>/dev/null | head -n 1)
    [[ -n $file ]] || lacks "there is no binary for $1 in dist/; build it with: scripts/cross.sh $1"
    [[ -z $runner ]] || command -v "${runner%% *}" >/dev/null ||
        lacks "${runner%% *} is missing (apt-get install qemu-user-static)"
    command[$1]="$runner $file"
}

# dsn BOARD ARGUMENTS…: the command of that board to the node of that board.
dsn() {
    local board=$1
    shift
    # shellcheck disable=SC2086 # a command with its arguments
    ${command[$board]} --control "$place/$board.sock" --timeout 60s "$@"
}

start() {
    local board=$1 address='' tries
    shift
    : >"$place/$board.out"
    # shellcheck disable=SC2086 # a command with its arguments
    ${command[$board]} run --node-id "$board" --listen 127.0.0.1:0 --tick 500ms \
        --credentials "$place/credentials" --data "$place/data" \
        --control "$place/$board.sock" "$@" >"$place/$board.out" 2>>"$place/$board.log" &
    pid[$board]=$!
    for ((tries = 0; tries < 600; tries++)); do
        address=$(sed -n 's/^listening on //p' "$place/$board.out")
        [[ -z $address ]] || break
        kill -0 "${pid[$board]}" 2>/dev/null || fail "$board did not start"
        sleep 0.1
    done
    [[ -n $address ]] || fail "$board does not say where it listens"
    say "$board listens on $address (${command[$board]%% *})"
    first=${first-$address}
}

# All see all, read what each one set, and send to each.
talk() {
    local round=$1 from to
    for board in "${boards[@]}"; do
        dsn "$board" wait peers $((${#boards[@]} - 1)) || fail "$board does not see all others"
        dsn "$board" set "board=$board $round"
        dsn "$board" set big - <"$place/big"
    done
    for from in "${boards[@]}"; do
        for to in "${boards[@]}"; do
            dsn "$to" wait key "$from" board "$from $round" || fail "$to does not hold what $from set"
            [[ $from != "$to" ]] || continue
            dsn "$to" wait key "$from" big "$(cat "$place/big")" || fail "$to lacks 60 KB of $from"
            dsn "$from" ping "$to" >/dev/null || fail "$from can't ping $to"
            say "to $to from $from" | dsn "$from" send "$to" - || fail "$from can't send to $to"
            [[ $(dsn "$to" recv) = "to $to from $from" ]] || fail "$to got something else"
            say "$from -> $to: state, 60 KB, ping and DATA"
        done
    done
}

version=$(sed -n 's/^version = "\(.*\)"$/\1/p' "$here/Cargo.toml" | head -n 1)
for board in "${boards[@]}"; do find_command "$board"; done
head -c 45000 /dev/urandom | base64 -w 0 >"$place/big"
for board in "${boards[@]}"; do
    # The first one founds the network.
    if [[ -n ${first-} ]]; then start "$board" --bootstrap "$first"; else start "$board"; fi
done
talk 1
last=${boards[${#boards[@]} - 1]}
say "kill -9 $last, and again"
kill -9 "${pid[$last]}"
wait "${pid[$last]}" 2>/dev/null || true
start "$last" --bootstrap "$first"
[[ $(dsn "$last" get "$last" board) = "$last 1" ]] || fail "$last lost its state"
talk 2
for board in "${boards[@]}"; do
    dsn "$board" leave || fail "$board can't leave"
    wait "${pid[$board]}" || fail "$board ended with $?"
    unset "pid[$board]"
done
say "all is well: ${boards[*]}"
