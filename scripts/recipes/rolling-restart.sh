#!/bin/sh
# Restarts the nodes of a fleet, one at a time, and stops at the first that does not come back.
#
#   rolling-restart.sh [--reboot] [--wait SECONDS] [NODE…] [-- COMMAND…]
#
# Without NODE all that are alive but the one that is asked. COMMAND gets two more arguments, the node and its
# host; without one it is: ssh HOST systemctl restart dsn. It has to return when the restart is done; with --reboot
# it may return before, and the node is waited for until it is gone, then until it is back. A node is back
# when it answers and holds what this one has set after that. SECONDS [120] is for each of these.
#
# While it runs, this node has the key rolling-restart, so that a second one refuses.
#
# Needs dsn on this host, and ssh where COMMAND is not given. Exit codes: 0 all were restarted, 1 it stopped or
# refused, and says what is left, 2 wrong usage, 3 no node answers here.
set -eu
export LC_ALL=C

case ${1-} in -h | --help)
    sed -n '2,/^set /s/^# \{0,1\}//p' "$0"
    exit 0
    ;;
esac

dsn=${DSN_BIN:-dsn} reboot='' seconds=120 nodes=''

say() { printf 'rolling-restart.sh: %s\n' "$*" >&2; }
fail() { say "$1"; exit "${2:-1}"; }
usage() {
    say "$1"
    sed -n 's/^#   //p' "$0" >&2
    exit 2
}

while [ $# -gt 0 ]; do
    case $1 in
        --reboot) reboot=yes ;;
        --wait)
            [ $# -gt 1 ] || usage "--wait wants seconds"
            seconds=$2
            case $seconds in '' | 0* | *[!0-9]* | ??????*) usage "--wait $seconds is not a number of seconds" ;; esac
            shift
            ;;
        --)
            shift
            [ $# -gt 0 ] || usage "there is no command behind --"
            break
            ;;
        -*) usage "there is no option $1" ;;
        '' | *[!A-Za-z0-9._-]*) usage "$1 is not the id of a node" ;;
        *) nodes="$nodes $1" ;;
    esac
    shift
done
command -v "$dsn" >/dev/null || usage "there is no $dsn: install it, or name it with DSN_BIN"
if [ $# -eq 0 ]; then
    command -v ssh >/dev/null || usage "there is no ssh: apt-get install openssh-client, or give a command behind --"
fi

# no_other NODE: refuses where a node but this one has the key
no_other() {
    code=0
    running=$("$dsn" get --alive rolling-restart 2>/dev/null) || code=$?
    # 1 is: nobody has it.
    [ "$code" -le 1 ] || fail "refused, as this node does not say whether one is running: dsn get --alive rolling-restart" "$code"
    running=$(printf '%s\n' "$running" | cut -f 1 | { grep -vxF -e "$1" || :; } | tr '\n' ' ')
    [ -z "${running% }" ] || fail "refused, as one is running from: ${running% }. If not: dsn unset rolling-restart there"
}

# Only a fleet that is well: with a node less, the next one might be the last with something.
peers=$("$dsn" peers --ids) || exit $?
"$dsn" status --quiet || fail "this node is degraded: see dsn status"
down=$("$dsn" peers --status suspect --status lost --ids) || exit $?
down=$(printf '%s' "$down" | tr '\n' ' ')
[ -z "$down" ] || fail "refused, as some do not answer: ${down% }. Mend them, or, if they are gone for good: dsn forget NODE"
no_other ''
for node in $nodes; do
    printf '%s\n' "$peers" | grep -qxF -e "$node" || fail "$node is not alive, or is this node: dsn peers"
done
if [ -z "$nodes" ]; then
    nodes=$peers
    say "this node itself is left out"
fi
[ -n "$nodes" ] || fail "there is no other node that is alive"

host_of() {
    at=$("$dsn" peers) || return 1
    at=$(printf '%s\n' "$at" | awk -v node="$1" '$1 == node { print $2 }')
    at=${at%:*} at=${at#\[} at=${at%\]}
    # It comes from the network: it must not be an option of ssh or the like.
    case $at in -* | '' | *[!A-Za-z0-9.:%_-]*) return 1 ;; esac
    printf '%s' "$at"
}

restart() {
    node=$1 host=$2
    shift 2
    if [ $# -gt 0 ]; then
        "$@" "$node" "$host" </dev/null
    else
        ssh -o BatchMode=yes -- "$host" systemctl restart dsn </dev/null
    fi
}

# lacks NODE TEXT: says why it is not back. Where the node of this host is gone, nobody knows more.
lacks() {
    code=0
    "$dsn" status >/dev/null 2>&1 || code=$?
    if [ "$code" = 3 ]; then
        say "the node of this host is gone, so nobody knows whether $1 is back: start it"
    else
        say "$2"
    fi
    return 1
}

# is_back NODE: says what is missing where it is not
is_back() {
    if [ -n "$reboot" ]; then
        "$dsn" --timeout "${seconds}s" wait node "$1" suspect lost left >/dev/null || { lacks "$1" "$1 did not go"; return 1; }
    fi
    # Asked, as it may count as alive still.
    tries=$seconds
    while :; do
        code=0
        "$dsn" --timeout 2s ping "$1" >/dev/null 2>&1 || code=$?
        [ "$code" != 0 ] || break
        tries=$((tries - 1))
        { [ "$code" != 3 ] && [ "$tries" -gt 0 ]; } || { lacks "$1" "$1 does not answer"; return 1; }
        sleep 1
    done
    "$dsn" --timeout "${seconds}s" wait node "$1" alive >/dev/null || { lacks "$1" "$1 is not alive"; return 1; }
    # A new value: that all hold an old one would not show that this one takes new ones.
    "$dsn" set --ttl 1h "rolling-restart=$1 is back" >/dev/null || { lacks "$1" "this node can't write its state"; return 1; }
    "$dsn" --timeout "${seconds}s" wait synced "$count" >/dev/null || { lacks "$1" "not all hold the newest state"; return 1; }
}

finish() {
    code=$?
    trap - EXIT INT TERM
    "$dsn" unset rolling-restart >/dev/null || say "the key rolling-restart stands for an hour: dsn unset rolling-restart"
    exit "$code"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Two that begin at the same time: the key first, then the look. So one of them sees the other, or both do.
"$dsn" set --ttl 1h "rolling-restart=begins" >/dev/null || fail "refused, as this node can't write its state"
"$dsn" --timeout "${seconds}s" wait synced >/dev/null || fail "refused, as not all hold what this node has set"
own=$("$dsn" --json status) || fail "refused, as this node does not say its id"
no_other "$(printf '%s\n' "$own" | sed 's/.*"node_id":"\([^"]*\)".*/\1/')"

count=$(printf '%s\n' "$peers" | wc -l)
done=''
# Ids have no blanks.
# shellcheck disable=SC2086
left=" $(printf '%s ' $nodes)"
for node in $nodes; do
    host=$(host_of "$node") || fail "$node has no address. Done:${done:- none}. Left:$left"
    say "$node at $host"
    "$dsn" set --ttl 1h "rolling-restart=$node" >/dev/null || fail "this node can't write its state. Done:${done:- none}. Left:$left"
    if ! restart "$node" "$host" "$@"; then
        fail "the command failed for $node. Done:${done:- none}. Left:$left"
    fi
    is_back "$node" || fail "stopped at $node. Done:${done:- none}. Left:$left"
    done="$done $node"
    left=${left#" $node"}
done
say "all were restarted:$done"
