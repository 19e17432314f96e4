#!/bin/sh
# Names the node with the lowest load, or runs a command with it.
#
#   least-loaded.sh [--key KEY] [--max-age SECONDS] [-- COMMAND…]
#
# COMMAND gets two more arguments: the node, and the host it can be reached at. Without one the node is
# printed. Only nodes that are alive and publish KEY [load1] as a number are looked at; what is not a number is
# said and passed over. Of equal ones the first by name is taken.
#
# A reading is fresh where its owner sets it with --ttl (reading.sh does): it goes when its script dies. With
# --max-age a node whose state did not change for so long is passed over, too: for readings that always change.
#
# Needs dsn alone. Exit codes: 0 done, 1 no such node, or COMMAND failed, 2 wrong usage, 3 no node answers here.
set -eu
export LC_ALL=C

case ${1-} in -h | --help)
    sed -n '2,/^set /s/^# \{0,1\}//p' "$0"
    exit 0
    ;;
esac

dsn=${DSN_BIN:-dsn} key=load1 max_age=''

say() { printf 'least-loaded.sh: %s\n' "$*" >&2; }
usage() {
    say "$1"
    sed -n 's/^#   //p' "$0" >&2
    exit 2
}

while [ $# -gt 0 ]; do
    case $1 in
        --key | --max-age)
            { [ $# -gt 1 ] && [ -n "$2" ]; } || usage "$1 wants a value"
            if [ "$1" = --key ]; then key=$2; else max_age=$2; fi
            shift 2
            ;;
        --)
            shift
            [ $# -gt 0 ] || usage "there is no command behind --"
            break
            ;;
        -*) usage "there is no option $1" ;;
        *) usage "a command stands behind --, such as: -- $1" ;;
    esac
done
case $max_age in 0?* | *[!0-9]* | ??????????*) usage "--max-age $max_age is not a number of seconds" ;; esac
command -v "$dsn" >/dev/null || usage "there is no $dsn: install it, or name it with DSN_BIN"

# For how many ms the state of a node was held; nothing where that is not known. A quote that is part of
# a value has a backslash before it, so this is no value.
held_ms() { "$dsn" --json get -- "$1" "$key" | sed -n 's/.*[{,]"held_ms":\([0-9]*\).*/\1/p'; }

# NODE, STATUS and VALUE, with tabs between; what is odd in a value is escaped.
code=0
readings=$("$dsn" get --alive -- "$key") || code=$?
[ "$code" = 0 ] || exit "$code"
[ -n "$readings" ] || { say "no node that is alive has the key $key"; exit 1; }
number='^-?([0-9]+[.]?[0-9]*|[.][0-9]+)([eE][-+]?[0-9]+)?$'
skipped=$(printf '%s\n' "$readings" | awk -F '\t' -v number="$number" '$3 !~ number { printf "%s%s", comma, $1; comma = ", " }')
[ -z "$skipped" ] || say "passed over, as $key is not a number there: $skipped"
ordered=$(printf '%s\n' "$readings" | awk -F '\t' -v number="$number" '$3 ~ number { print $3 "\t" $1 }' |
    sort -t "$(printf '\t')" -k 1,1g -k 2,2 | cut -f 2)

chosen=''
for node in $ordered; do
    if [ -n "$max_age" ]; then
        age=$(held_ms "$node") || continue
        if [ -z "$age" ] || [ "$age" -gt $((max_age * 1000)) ]; then
            say "passed over, as its state is older than $max_age s: $node"
            continue
        fi
    fi
    chosen=$node
    break
done
[ -n "$chosen" ] || { say "no node that is alive has a number in $key"; exit 1; }
if [ $# -eq 0 ]; then
    printf '%s\n' "$chosen"
    exit
fi

status=$("$dsn" --json status)
own=$(printf '%s\n' "$status" | sed 's/.*"node_id":"\([^"]*\)".*/\1/')
# Of itself a node is no peer. One that is none any more must not be taken for this host.
if [ "$chosen" = "$own" ]; then
    at=localhost:0
else
    peers=$("$dsn" peers)
    at=$(printf '%s\n' "$peers" | awk -v node="$chosen" '$1 == node { print $2 }')
fi
at=${at%:*} at=${at#\[} at=${at%\]}
# An address comes from the network: it must not be an option of the command.
case $at in -* | '' | *[!A-Za-z0-9.:%_-]*) say "$chosen has no address"; exit 1 ;; esac
"$@" "$chosen" "$at" && exit
say "failed with exit code $? for $chosen: $1"
exit 1
