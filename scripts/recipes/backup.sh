#!/bin/sh
# Saves the states of all nodes into a dated file, and gives a node its own keys back.
#
#   backup.sh save FOLDER                     writes FOLDER/dsn-ID-DATE.json, whole or not at all
#   backup.sh list FILE                       the nodes in a file, and how many keys each has
#   backup.sh restore FILE [NODE] [PREFIX]    sets the keys that NODE had [the node of this host] in the node of this
#                                             host, as one change; those that begin with PREFIX alone, where it is given
#
# BACKUP_KEEP is how many files of this node are kept [14], by the dates in their names; the new one always is. They
# have mode 600: whoever reads one reads all states.
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

# The backups of this node in the folder, by their dates.
dated() {
    for file in "$folder/dsn-$id-"????????T??????Z.json; do
        printf '%s\n' "${file##*/}"
    done | sort
}

save() {
    [ -d "$1" ] || usage "there is no folder $1: make it, mode 700"
    case $keep in '' | 0* | *[!0-9]* | ??????*) usage "BACKUP_KEEP=$keep is not a number from 1" ;; esac
    case $1 in /*) folder=$1 ;; *) folder=./$1 ;; esac
    umask 077
    "$dsn" status >/dev/null
    id=$(own)
    [ -n "$id" ] || fail "the node did not say its id: nothing was saved" 3
    name=$folder/dsn-$id-$(date -u +%Y%m%dT%H%M%SZ).json
    new=$folder/.dsn-$id.$$.new
    trap 'rm -f "$new"' EXIT
    trap 'exit 143' INT TERM
    # What was left by one that was killed.
    find "$folder" -maxdepth 1 -name ".dsn-$id.*.new" -mtime +0 -exec rm -f {} + || :
    (: >"$new") 2>/dev/null || fail "$folder can't be written: nothing was saved"
    "$dsn" --json state >"$new" || fail "nothing was saved" $?
    # A full disk may have cut it off.
    [ "$(tail -c 2 "$new")" = ']' ] || fail "$new is not whole: nothing was saved"
    # On disk before it has its name, and its name before an older one goes.
    sync "$new" || fail "$new does not come to the disk: nothing was saved"
    mv -f "$new" "$name" || fail "$name can't be made: nothing was saved"
    sync "$folder" || fail "$name may be gone after a power cut: no older one was removed"
    printf '%s\n' "$name"
    # The date orders the names. Of this node and this form alone: another id may begin alike.
    newest=$(dated | tail -n 1)
    [ "$newest" = "${name##*/}" ] ||
        say "$folder/$newest has a date after that of the new one: is the clock right? Mend it, or give that file another name"
    # Whatever the clock says, the one that was just made stays.
    dated | grep -vxF -e "${name##*/}" | sort -r | tail -n "+$keep" | while IFS= read -r old; do
        rm -f "$folder/$old" || say "$folder/$old can't be removed"
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
    keys=$(printf '%s\n' "$state" | jq '.entries | length')
    [ "$keys" -gt 0 ] || fail "$1 has no such key of $node"
    expire=$(printf '%s\n' "$state" | jq '(.expires_ms // {}) as $expires | [.entries | keys[] | select(in($expires))] | length') ||
        fail "$1 is no backup"
    [ "$expire" -lt "$keys" ] || fail "nothing was set, as all $keys keys would have expired"
    # Keys that expire are left out by this; values are bytes for nobody but the node.
    printf '%s\n' "$state" | "$dsn" set --from - || exit $?
    left=''
    [ "$expire" = 0 ] || left="; $expire that would have expired were left out"
    say "$((keys - expire)) keys of $node were set in $id$left"
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
