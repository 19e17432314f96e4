#!/bin/sh
# Saves the states of all nodes into a dated file, and gives a node its own keys back.
#
#   backup.sh save FOLDER                     writes FOLDER/dsn-ID-DATE.json, whole or not at all
#   backup.sh list FILE                       the nodes in a file, and how many keys each has
#   backup.sh restore FILE [NODE] [PREFIX]    sets the keys that NODE had [the node of this host] in the node of this
#                                             host, as one change; those that begin with PREFIX alone, where it is given
#
# BACKUP_KEEP is how many files of this node are kept [14]. They have mode 600: whoever reads one reads all states.
# Keys that were set after the backup, and are not in it, stay. A node can change its own state alone, so each node
# restores for itself. Keys of a backup that was taken elsewhere, and that would have expired, stand for good.
# The keys of the node itself (node.key) are another matter: docs/operations.md.
#
# Needs jq (Debian: jq) for list and restore, dsn alone for save. Exit codes: 0 done, 1 it could not be done, 2 wrong
# usage, 3 no node answers here.
set -eu
export LC_ALL=C

case ${1-} in -h | --help)
    sed -n '2,/^set /s/^# \{0,1\}//p' "$0"
    exit 0
    ;;
esac

dsn=${DSN_BIN:-dsn} keep=${BACKUP_KEEP:-14}

say() { printf 'backup.sh: %s\n' "$*" >&2; }
fail() { say "$1"; exit "${2:-1}"; }
usage() {
    say "$1"
    sed -n 's/^#   //p' "$0" >&2
    exit 2
}
need_dsn() { command -v "$dsn" >/dev/null || usage "there is no $dsn: install it, or name it with DSN_BIN"; }
need_jq() { command -v jq >/dev/null || usage "there is no jq: apt-get install jq"; }

# The id of the node of this host. A quote in a text of it has a backslash before it.
own() { "$dsn" --json status | sed 's/.*"node_id":"\([^"]*\)".*/\1/'; }

save() {
    [ -d "$1" ] || usage "there is no folder $1: make it, mode 700"
    case $keep in '' | 0* | *[!0-9]* | ??????*) usage "BACKUP_KEEP=$keep is not a number from 1" ;; esac
    case $1 in /*) folder=$1 ;; *) folder=./$1 ;; esac
    umask 077
    "$dsn" status >/dev/null
    id=$(own)
    name=$folder/dsn-$id-$(date -u +%Y%m%dT%H%M%SZ).json
    new=$folder/.dsn-$id.$$.new
    trap 'rm -f "$new"' EXIT
    trap 'exit 143' INT TERM
    "$dsn" --json state >"$new" || fail "nothing was saved" $?
    # A full disk may have cut it off.
    [ "$(tail -c 2 "$new")" = ']' ] || fail "$new is not whole: nothing was saved"
    # On disk before it has its name, and its name before an older one goes.
    sync "$new" && mv -f "$new" "$name" && sync "$folder"
    printf '%s\n' "$name"
    # The date orders the names. Of this node and this form alone: another id may begin alike.
    for file in "$folder/dsn-$id-"????????T??????Z.json; do
        printf '%s\n' "${file##*/}"
    done | sort -r | tail -n "+$((keep + 1))" | while IFS= read -r old; do
        rm -f "$folder/$old"
    done
}

restore() {
    need_jq
    id=$(own)
    [ -n "$id" ] || exit 3
    node=${2:-$id}
    state=$(jq -c --arg node "$node" --arg prefix "${3-}" '
        .[] | select(.node_id == $node)
        | .entries |= with_entries(select(.key | startswith($prefix)))' <"$1") || fail "$1 is no backup"
    [ -n "$state" ] || fail "$1 has no state of $node: backup.sh list $1"
    [ "$(printf '%s\n' "$state" | jq '.entries | length')" -gt 0 ] || fail "$1 has no such key of $node"
    # Keys that expire are left out by this; values are bytes for nobody but the node.
    printf '%s\n' "$state" | "$dsn" set --from - || exit $?
    say "the keys of $node were set in $id"
}

command=${1-}
[ $# -eq 0 ] || shift
case $command in
    save)
        need_dsn
        [ $# -eq 1 ] || usage "save wants a folder"
        save "$1"
        ;;
    list)
        [ $# -eq 1 ] || usage "list wants a file"
        [ -f "$1" ] || usage "there is no file $1"
        need_jq
        jq -r '.[] | "\(.node_id)\t\(.status)\t\(.entries | length)"' <"$1" || fail "$1 is no backup"
        ;;
    restore)
        need_dsn
        { [ $# -ge 1 ] && [ $# -le 3 ]; } || usage "restore wants a file, and may have a node and a prefix"
        [ -f "$1" ] || usage "there is no file $1"
        restore "$@"
        ;;
    -*) usage "there is no option $command" ;;
    *) usage "save, list or restore, not '$command'" ;;
esac
