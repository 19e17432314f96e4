#!/bin/sh
# Writes the list of all nodes that Prometheus reads by file_sd: who comes or goes is scraped, or not, by itself.
#
#   prometheus-targets.sh PORT FILE        such as: prometheus-targets.sh 8001 /etc/prometheus/dsn.json
#
# PORT is that of --http, the same at all nodes. The node that is asked is in it, and all others but those
# that said goodbye: a lost one has to be seen as down. The file is replaced in one step, where it changes.
#
# Needs dsn alone. Exit codes: 0 done, 1 it could not be done, 2 wrong usage, 3 no node answers here.
set -eu
export LC_ALL=C

case ${1-} in -h | --help)
    sed -n '2,/^set /s/^# \{0,1\}//p' "$0"
    exit 0
    ;;
esac

dsn=${DSN_BIN:-dsn}

say() { printf 'prometheus-targets.sh: %s\n' "$*" >&2; }
fail() { say "$1"; exit 1; }
usage() {
    say "$1"
    sed -n 's/^#   //p' "$0" >&2
    exit 2
}
case ${1-} in -*) usage "there is no option $1" ;; esac
[ $# -eq 2 ] || usage "a port and a file, not $# words"
case $1 in '' | 0* | *[!0-9]* | ??????*) usage "$1 is not a port" ;; esac
[ "$1" -le 65535 ] || usage "$1 is not a port"
case $2 in /*) file=$2 ;; *) file=./$2 ;; esac
[ -d "$(dirname "$file")" ] || usage "there is no folder $(dirname "$file")"
[ ! -e "$file" ] || [ -f "$file" ] || usage "$file is no file, and is not replaced"
command -v "$dsn" >/dev/null || usage "there is no $dsn: install it, or name it with DSN_BIN"

status=$("$dsn" --json status)
page=$(printf '%s\n' "$status" | sed -n 's/.*[{,]"http":"\([^"]*\)".*/\1/p')
# What listens everywhere is reached here.
case $page in 0.0.0.0:* | \[::\]:*) page=localhost:${page##*:} ;; esac
new=$file.new.$$
trap 'rm -f "$new"' EXIT
peers=$("$dsn" peers --all)
# Ids and addresses have no blank and no quote; a node whose address is not known has - there.
printf '%s\n' "$peers" | awk -v port="$1" -v own="$page" '
    function target(at) { printf "%s\n  \"%s\"", comma, at; comma = "," }
    BEGIN { printf "[{\"targets\": ["; if (own != "") target(own) }
    $2 ~ /^[][0-9A-Za-z.:_%-]+:[0-9]+$/ && $3 != "left" { sub(/:[0-9]+$/, "", $2); target($2 ":" port) }
    END { printf "\n]}]\n" }' >"$new" || fail "$file was not written"
# Not each awk says that the disk is full.
[ "$(tail -c 4 "$new")" = ']}]' ] || fail "$new is not whole: $file was not written"
if cmp -s "$new" "$file"; then exit 0; fi
chmod 644 "$new"
mv "$new" "$file"
