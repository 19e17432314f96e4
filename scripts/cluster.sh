#!/bin/sh
# A cluster of nodes on this host, under a folder of its own.
#
#   scripts/cluster.sh up N [--http]   start nodes 1 to N (those that run already stay); with --http the
#                                      first one has a web page, whose address is printed
#   scripts/cluster.sh status          what each node says of itself
#   scripts/cluster.sh exec I CMD…     run `dsn CMD…` against node I
#   scripts/cluster.sh kill I          kill -9
#   scripts/cluster.sh start I         start it again
#   scripts/cluster.sh stop I          stop it cleanly
#   scripts/cluster.sh logs I          its log
#   scripts/cluster.sh down            stop all and remove the folder
#   scripts/cluster.sh demo            the whole story in half a minute, in a folder of its own
#
# DSN_CLUSTER names the folder, DSN_BIN the binary (built if there is none), DSN_TICK the tick.
set -eu

case ${1-} in -h | --help)
    sed -n '2,/^set /s/^# \{0,1\}//p' "$0"
    exit 0
    ;;
esac

here=$(cd "$(dirname "$0")/.." && pwd)
target=${CARGO_TARGET_DIR:-$here/target}
cluster=${DSN_CLUSTER:-${TMPDIR:-/tmp}/dsn-cluster-$(id -u)}
# Settings of the caller's own node must not reach these.
unset DSN_CONTROL DSN_NODE_ID DSN_LISTEN DSN_BOOTSTRAP DSN_ADVERTISE DSN_NETWORK_KEY \
    DSN_CREDENTIALS DSN_DATA DSN_CONFIG DSN_HTTP DSN_HTTP_TOKEN DSN_HTTP_HOST

say() { printf '%s\n' "$*"; }
fail() {
    printf 'cluster.sh: %s\n' "$*" >&2
    exit 1
}
usage() {
    printf 'cluster.sh: %s\n' "$1" >&2
    sed -n 's/^#   //p' "$0" >&2
    exit 2
}

find_binary() {
    if [ -n "${DSN_BIN-}" ]; then
        [ -x "$DSN_BIN" ] || fail "DSN_BIN=$DSN_BIN is not a program that can be run"
        return
    fi
    for DSN_BIN in "$target/release/dsn" "$target/debug/dsn"; do
        [ ! -x "$DSN_BIN" ] || return 0
    done
    build
}

build() {
    command -v cargo >/dev/null 2>&1 || fail "cargo is not here: install Rust, or name a binary with DSN_BIN"
    say "building (cargo build --release), which takes some minutes …"
    (cd "$here" && cargo build --release --quiet) || fail "the build failed: what stands above says why"
    DSN_BIN=$target/release/dsn
}

folder() { printf '%s/node-%s' "$cluster" "$1"; }
socket() { printf '%s/control.sock' "$(folder "$1")"; }

check_number() {
    case ${1-} in '' | 0* | *[!0-9]*) usage "${1:-nothing} is not a number of a node (1, 2, …)" ;; esac
}

check_node() {
    check_number "${1-}"
    [ -d "$(folder "$1")" ] || fail "there is no node $1 in $cluster; 'cluster.sh up $1' makes it"
}

# The process of a node, if it is one that this script started and that still runs: its number
# alone could belong to another program by now, so the id of the node in its command is asked for.
pid_of() {
    pid_file=$(folder "$1")/pid
    [ -r "$pid_file" ] || return 1
    pid=$(cat "$pid_file")
    kill -0 "$pid" 2>/dev/null || return 1
    if [ -r "/proc/$pid/cmdline" ]; then
        tr '\0' '\n' <"/proc/$pid/cmdline" | grep -qxF "$(socket "$1")" || return 1
    fi
    printf '%s' "$pid"
}

# await SECONDS COMMAND…: until it succeeds
await() {
    tries=$(($1 * 20))
    shift
    while ! "$@"; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || return 1
        sleep 0.05
    done
}

serves_or_died() { grep -q '^listening on ' "$1/out" || ! kill -0 "$2" 2>/dev/null; }
is_gone() { ! kill -0 "$1" 2>/dev/null; }

# Where a node listens: remembered, so that it comes back to the same place.
address() { sed -n 's/^listening on //p' "$(folder "$1")/address" 2>/dev/null || :; }

start_node() {
    if pid_of "$1" >/dev/null; then
        say "node $1 runs already"
        return
    fi
    dir=$(folder "$1")
    mkdir -p "$dir"
    chmod 700 "$cluster" "$dir"
    listen=$(address "$1")
    set -- "$1" run --node-id "node-$1" --listen "${listen:-127.0.0.1:0}" \
        --credentials "$dir/credentials" --data "$dir/data" --control "$dir/control.sock"
    number=$1
    shift
    # A node that had a page comes back with it, at the same place.
    [ ! -e "$dir/http" ] || set -- "$@" --http "$(cat "$dir/http")"
    if [ "$number" -gt 1 ]; then
        # The key of the first node is copied, as a person would with scp.
        mkdir -p "$dir/credentials"
        chmod 700 "$dir/credentials"
        [ -e "$dir/credentials/network.key" ] ||
            cp "$(folder 1)/credentials/network.key" "$dir/credentials/network.key"
        for other in 1 2; do
            [ "$other" -lt "$number" ] || continue
            set -- "$@" --bootstrap "$(address "$other")"
        done
    fi
    : >"$dir/out"
    nohup "$DSN_BIN" "$@" >"$dir/out" 2>>"$dir/log" </dev/null &
    pid=$!
    printf '%s\n' "$pid" >"$dir/pid"
    if ! await 20 serves_or_died "$dir" "$pid" || ! grep -q '^listening on ' "$dir/out"; then
        tail -n 5 "$dir/log" >&2
        fail "node $number did not start; its log is $dir/log"
    fi
    cp "$dir/out" "$dir/address"
    [ ! -e "$dir/http" ] || page_of "$number" >"$dir/http"
}

# Where the page of a node is.
page_of() { node_dsn "$1" status | sed -n 's|^page  *http://\(.*\)/$|\1|p'; }

# The first node is to have a page; port 0 picks one.
want_page() {
    [ ! -e "$(folder 1)/http" ] || return 0
    ! pid_of 1 >/dev/null || fail "node 1 runs without a page; 'cluster.sh stop 1', then 'up' with --http"
    mkdir -p "$(folder 1)"
    printf '127.0.0.1:0\n' >"$(folder 1)/http"
}

# end_node I SIGNAL
end_node() {
    if ! pid=$(pid_of "$1"); then
        say "node $1 does not run"
        return
    fi
    kill "-$2" "$pid"
    await 10 is_gone "$pid" || fail "node $1 (process $pid) does not end"
    rm -f "$(folder "$1")/pid"
}

nodes() {
    for dir in "$cluster"/node-*; do
        [ ! -d "$dir" ] || printf '%s\n' "${dir##*/node-}"
    done | sort -n
}

node_dsn() {
    at=$1
    shift
    "$DSN_BIN" --control "$(socket "$at")" "$@"
}

up() {
    check_number "${1-}"
    [ $# -le 1 ] || [ "$2" = --http ] || usage "up takes a number, and --http"
    mkdir -p "$cluster"
    [ $# -le 1 ] || want_page
    number=1
    while [ "$number" -le "$1" ]; do
        start_node_quietly "$number"
        number=$((number + 1))
    done
    number=1
    while [ "$number" -le "$1" ]; do
        node_dsn "$number" wait peers "$(($1 - 1))" --timeout 30s ||
            fail "node $number does not know all others; see 'cluster.sh logs $number'"
        number=$((number + 1))
    done
    say "$1 nodes run and know each other, in $cluster"
    [ ! -e "$(folder 1)/http" ] || say "their page: http://$(cat "$(folder 1)/http")/"
}

# start_node changes variables of its own; a loop around it must keep its own.
start_node_quietly() {
    wanted=$1
    (start_node "$wanted") || exit 1
}

status() {
    [ -n "$(nodes)" ] || fail "there is no cluster in $cluster; 'cluster.sh up 3' makes one"
    for number in $(nodes); do
        if pid=$(pid_of "$number"); then
            say "node-$number runs as process $pid at $(address "$number"), log $(folder "$number")/log"
            node_dsn "$number" status | sed -n 's/^\(peers\|keys\|degraded\)/  \1/p'
        else
            say "node-$number does not run, was at $(address "$number")"
        fi
    done
}

down() {
    for number in $(nodes); do
        if pid=$(pid_of "$number"); then
            kill "$pid" 2>/dev/null || :
        fi
    done
    for number in $(nodes); do
        if pid=$(pid_of "$number"); then
            await 10 is_gone "$pid" || kill -9 "$pid" 2>/dev/null || :
        fi
    done
    # Only what this script made: folders of nodes in a folder of a cluster.
    rm -rf "$cluster"/node-*
    rmdir "$cluster" 2>/dev/null || :
}

# --- the demo -----------------------------------------------------------------------------------

step() { printf '\n== %s\n' "$*"; }

sensors=
end_demo() {
    code=$?
    trap - EXIT INT TERM
    for pid in $sensors; do
        kill "$pid" 2>/dev/null || :
    done
    down
    rmdir "$demo_folder" 2>/dev/null || :
    exit "$code"
}

show_states() {
    node_dsn "$1" state
}

start_sensor() {
    DSN_BIN=$DSN_BIN sh "$here/scripts/sensor.sh" "$(socket "$1")" 1 2>>"$(folder "$1")/sensor.log" &
    sensors="$sensors $!"
}

has_status() { node_dsn 1 peers --all | grep -q "^$1 .* $2 "; }

demo() {
    [ -n "${DSN_BIN-}" ] || build
    find_binary
    demo_folder=$(mktemp -d "${TMPDIR:-/tmp}/dsn-demo-XXXXXX")
    cluster=$demo_folder/c
    trap end_demo EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM

    step "three nodes start, and find each other"
    up 3 --http

    step "a sensor on each publishes readings of this host"
    for number in 1 2 3; do
        start_sensor "$number"
    done
    for number in 1 2 3; do
        node_dsn 1 wait key "node-$number" load1 --timeout 15s ||
            fail "no reading of node-$number reached node-1"
    done
    node_dsn 3 set note="set before the crash"
    node_dsn 1 wait key node-3 note --timeout 5s || fail "the note of node-3 did not reach node-1"

    step "what node-1 knows of all"
    show_states 1
    node_dsn 1 peers

    step "node-1 sends DATA to node-2"
    node_dsn 1 send node-2 "hello from node-1"
    received=$(node_dsn 2 recv)
    [ "$received" = "hello from node-1" ] || fail "node-2 received '$received'"
    say "node-2 received: $received"

    step "node-3 is killed with -9"
    end_node 3 KILL
    await 30 has_status node-3 lost || fail "node-3 did not become lost"
    node_dsn 1 peers --all
    kept=$(node_dsn 1 get node-3 note)
    [ "$kept" = "set before the crash" ] || fail "the last state of the lost node is not readable"
    say "its last state is still readable: note=$kept"

    step "node-3 starts again, and is back with its state"
    start_node 3
    await 20 has_status node-3 alive || fail "node-3 did not come back"
    node_dsn 3 wait peers 2 --timeout 15s || fail "node-3 does not know the others again"
    own=$(node_dsn 3 get node-3 note)
    [ "$own" = "set before the crash" ] || fail "node-3 lost its state"
    node_dsn 1 set after=restart
    node_dsn 3 wait key node-1 after restart --timeout 10s || fail "a change does not reach node-3"
    node_dsn 1 peers
    say "node-3 has its note again: $own"

    step "all of it was seen; everything is taken down"
}

command=${1-}
[ $# -eq 0 ] || shift
case $command in
    up) find_binary && up "$@" ;;
    status) find_binary && status ;;
    exec)
        check_node "${1-}"
        find_binary
        [ $# -gt 1 ] || usage "exec needs a command, such as: exec 1 peers"
        node_dsn "$@"
        ;;
    kill) check_node "${1-}" && end_node "$1" KILL ;;
    stop) check_node "${1-}" && end_node "$1" TERM ;;
    start) check_node "${1-}" && find_binary && start_node "$1" ;;
    logs) check_node "${1-}" && cat "$(folder "$1")/log" ;;
    down) down ;;
    demo) demo ;;
    '') usage "which command?" ;;
    *) usage "there is no command '$command'" ;;
esac
