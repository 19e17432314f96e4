#!/bin/sh
# Publishes readings of this host once: for a timer of systemd, or cron.
#
#   reading.sh [KEY=VALUE…]        such as: reading.sh "door=$(cat /run/door)"
#
# Load, free memory, free space and temperature, as far as the host has them, and what was given. They expire after
# READING_TTL [5m] unless they are set again: so what is there was read of late. Set it to a few times the
# time between two runs.
#
# Needs dsn alone. Exit codes: those of dsn set.
set -eu
export LC_ALL=C

case ${1-} in -h | --help)
    sed -n '2,/^set /s/^# \{0,1\}//p' "$0"
    exit 0
    ;;
esac

dsn=${DSN_BIN:-dsn} ttl=${READING_TTL:-5m}

usage() {
    printf 'reading.sh: %s\n' "$1" >&2
    sed -n 's/^#   //p' "$0" >&2
    exit 2
}
for word; do
    case $word in
        -*) usage "there is no option $word" ;;
        *=*) ;;
        *) usage "$word is not KEY=VALUE" ;;
    esac
done
command -v "$dsn" >/dev/null || usage "there is no $dsn: install it, or name it with DSN_BIN"

if read -r load _ 2>/dev/null </proc/loadavg; then set -- "$@" "load1=$load"; fi
memory=$(awk '$1 == "MemAvailable:" { print $2 }' /proc/meminfo 2>/dev/null) || memory=''
[ -z "$memory" ] || set -- "$@" "memory_available_kb=$memory"
space=$(df -P -k / 2>/dev/null | awk 'NR == 2 { print $4 }') || space=''
[ -z "$space" ] || set -- "$@" "disk_free_kb=$space"
if read -r degrees 2>/dev/null </sys/class/thermal/thermal_zone0/temp; then
    set -- "$@" "temperature_c=$(awk -v it="$degrees" 'BEGIN { printf "%.1f", it / 1000 }')"
fi
exec "$dsn" set --ttl "$ttl" "$@"
