#!/bin/sh
# Publishes readings of this host to a running node, every few seconds:
#
#   scripts/sensor.sh [CONTROL-SOCKET] [SECONDS]
#
# Without a socket the only node under the data folder is meant. Readings that this host does not
# have are left out. A node that is down is tried again; SIGTERM and SIGINT end it.
set -eu

case ${1-} in -h | --help)
    sed -n '2,/^set /s/^# \{0,1\}//p' "$0"
    exit 0
    ;;
esac

usage() {
    printf 'sensor.sh: %s\n' "$1" >&2
    sed -n 's/^#   //p' "$0" >&2
    exit 2
}

[ $# -le 2 ] || usage "a socket and a number of seconds, not $# words"
case "${1-}" in -*) usage "there is no option $1" ;; esac
[ -z "${1-}" ] || DSN_CONTROL=$1
[ -z "${DSN_CONTROL-}" ] || export DSN_CONTROL
interval=${2:-5}
case $interval in '' | *[!0-9]*) usage "'$interval' is not a number of seconds" ;; esac
[ "$interval" -gt 0 ] || usage "0 seconds are too few"

here=$(cd "$(dirname "$0")/.." && pwd)
target=${CARGO_TARGET_DIR:-$here/target}
if [ -z "${DSN_BIN-}" ]; then
    DSN_BIN=dsn
    for candidate in "$target/release/dsn" "$target/debug/dsn"; do
        [ ! -x "$candidate" ] || { DSN_BIN=$candidate; break; }
    done
fi

# Each reading prints KEY=VALUE lines, or nothing where the host does not have it.
readings() {
    if [ -r /proc/loadavg ]; then
        read -r one five fifteen _ </proc/loadavg
        printf 'load1=%s\nload5=%s\nload15=%s\n' "$one" "$five" "$fifteen"
    else
        uptime | sed -n 's/.*load average[s]*: *\([0-9.]*\).*/load1=\1/p'
    fi
    if [ -r /proc/meminfo ]; then
        awk '$1 == "MemTotal:" { print "memory_total_kb=" $2 }
             $1 == "MemAvailable:" { print "memory_available_kb=" $2 }' /proc/meminfo
    fi
    if [ -r /proc/uptime ]; then
        awk '{ printf "uptime_s=%d\n", $1 }' /proc/uptime
    fi
    for zone in /sys/class/thermal/thermal_zone*; do
        if [ -r "$zone/temp" ] && reading=$(cat "$zone/temp" 2>/dev/null); then
            name=$(cat "$zone/type" 2>/dev/null || echo zone)
            # The reading first: a name may have blanks.
            echo "$reading $name" | awk -v zone="${zone##*zone}" '{
                reading = $1 / 1000
                sub(/^[^ ]* /, "")
                gsub(/[^A-Za-z0-9_-]/, "_")
                printf "temperature_c/%s-%s=%.1f\n", zone, $0, reading
            }'
        fi
    done
}

trap 'exit 0' TERM INT
missed=0
while :; do
    # Keys and values have no blanks, so the lines are words.
    # shellcheck disable=SC2046
    if fault=$("$DSN_BIN" set $(readings) 2>&1); then
        missed=0
    else
        # Said once for a row of failures: a log is not to be filled.
        [ "$missed" -gt 0 ] || printf 'sensor.sh: %s\n' "$fault" >&2
        missed=$((missed + 1))
    fi
    # In the background, so that a signal ends the wait at once.
    sleep "$interval" &
    wait $! || :
done
