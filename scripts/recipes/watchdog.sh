#!/bin/sh
# Runs a command, such as a reboot, on a host that is cut off from all others, and only then.
#
#   watchdog.sh [--for SECONDS] [--peers N] [--probe PROGRAM] [--state FILE] [-- COMMAND…]
#
# One look; call it once a minute from a timer or cron. It acts when all of this is true:
#   * no other node is alive or suspect, and N [2] or more are lost (who said goodbye is not lost)
#   * that has been so for SECONDS [600], by a clock that nobody sets
#   * N or more were alive since this host was booted, and since it acted last
#   * PROGRAM fails: it says whether the network is there [ping to the default gateway]
#   * it is an hour since it acted last
# Without COMMAND it says so and does nothing. What it remembers is in FILE [/var/lib/dsn-watchdog/state].
#
# A host can't know whether it is cut off, or all others are off: to it that looks the same. The gateway decides.
#
# Needs dsn; ping and ip (Debian: iputils-ping, iproute2) without --probe. Exit codes: 0 nothing to do, or
# COMMAND was done, 1 cut off and no COMMAND, or it failed, 2 wrong usage, 3 no node answers here.
set -eu
export LC_ALL=C

case ${1-} in -h | --help)
    sed -n '2,/^set /s/^# \{0,1\}//p' "$0"
    exit 0
    ;;
esac

dsn=${DSN_BIN:-dsn} wait=600 least=2 probe='' file=/var/lib/dsn-watchdog/state
# Other files of these two are for tests alone.
uptime_file=${WATCHDOG_UPTIME:-/proc/uptime} boot_file=${WATCHDOG_BOOT_ID:-/proc/sys/kernel/random/boot_id}
# Between two actions, seconds.
pause=3600

say() { printf 'watchdog.sh: %s\n' "$*" >&2; }
usage() {
    say "$1"
    sed -n 's/^#   \([a-z]\)/\1/p' "$0" >&2
    exit 2
}

while [ $# -gt 0 ]; do
    case $1 in
        --for | --peers | --probe | --state)
            { [ $# -gt 1 ] && [ -n "$2" ]; } || usage "$1 wants a value"
            case $1 in --for | --peers)
                case $2 in 0* | *[!0-9]* | ???????*) usage "$1 $2 is not a number from 1" ;; esac
                ;;
            esac
            case $1 in --for) wait=$2 ;; --peers) least=$2 ;; --probe) probe=$2 ;; --state) file=$2 ;; esac
            shift 2
            ;;
        --) shift && break ;;
        -*) usage "there is no option $1" ;;
        *) usage "a command stands behind --, such as: -- $1" ;;
    esac
done
command -v "$dsn" >/dev/null || usage "there is no $dsn: install it, or name it with DSN_BIN"
if [ -n "$probe" ]; then
    command -v "$probe" >/dev/null || usage "there is no $probe"
else
    for tool in ip:iproute2 ping:iputils-ping; do
        command -v "${tool%:*}" >/dev/null || usage "there is no ${tool%:*}: apt-get install ${tool#*:}, or --probe PROGRAM"
    done
fi
[ -d "$(dirname "$file")" ] || usage "there is no folder $(dirname "$file"): make it (mode 700), or --state FILE"

read -r now _ <"$uptime_file"
now=${now%.*}
read -r boot <"$boot_file"

# What is remembered of this boot: since when all are lost, whether others were seen; and when it acted.
since='' seen=no acted='' acted_boot=''
if [ -e "$file" ]; then
    while IFS='=' read -r name value; do
        case $name in
            boot) remembered=$value ;;
            since) since=$value ;;
            seen) seen=$value ;;
            acted) acted=$value ;;
            acted_boot) acted_boot=$value ;;
        esac
    done <"$file"
    case $since$acted in *[!0-9]* | ????????????????????*) since='' acted='' seen=no && say "$file was damaged: begun anew" ;; esac
fi
[ "${remembered-}" = "$boot" ] || since='' seen=no

# remember: replaces the file in one step, and only where that changes it, as cards wear out
remember() {
    text=$(printf 'boot=%s\nsince=%s\nseen=%s\nacted=%s\nacted_boot=%s' "$boot" "$since" "$seen" "$acted" "$acted_boot")
    [ "$(cat "$file" 2>/dev/null)" != "$text" ] || return 0
    (umask 077 && printf '%s\n' "$text" >"$file.new") && sync "$file.new" && mv "$file.new" "$file" && sync "$(dirname "$file")"
}

count() { "$dsn" peers --status "$1" --ids | grep -c . || :; }
code=0
"$dsn" status >/dev/null || code=$?
if [ "$code" != 0 ]; then
    # A node that is off says nothing of the network.
    since=''
    remember
    exit "$code"
fi
alive=$(count alive) suspect=$(count suspect) lost=$(count lost)
[ "$alive" -lt "$least" ] || seen=yes
if [ $((alive + suspect)) -gt 0 ] || [ "$lost" -lt "$least" ] || [ "$seen" != yes ]; then
    since=''
    remember
    exit 0
fi
[ -n "$since" ] && [ "$since" -le "$now" ] || since=$now
remember
[ $((now - since)) -ge "$wait" ] || exit 0

is_there() {
    if [ -n "$probe" ]; then
        "$probe" >/dev/null 2>&1
        return
    fi
    gateway=$(ip route show default | sed -n 's/.* via \([^ ]*\).*/\1/p;q')
    [ -n "$gateway" ] || gateway=$(ip -6 route show default | sed -n 's/.* via \([^ ]*\) dev \([^ ]*\).*/\1%\2/p;q')
    [ -n "$gateway" ] && ping -c 3 -w 10 "$gateway" >/dev/null 2>&1
}
if is_there; then
    say "all $lost others are lost, but the network is there: nothing is done"
    exit 0
fi
# After a reboot the clock began anew, and the last time was before it.
if [ -n "$acted" ]; then
    [ "$acted_boot" = "$boot" ] || acted=0
    if [ $((now - acted)) -lt "$pause" ]; then
        say "cut off from all $lost others, but it acted less than an hour ago"
        exit 0
    fi
fi
say "cut off from all $lost others for $((now - since)) s, and the network is not there"
[ $# -gt 0 ] || exit 1
# On disk before it acts: what does not help is not done again before others were seen.
acted=$now acted_boot=$boot seen=no since=''
remember || { say "$file can't be written: nothing is done"; exit 1; }
"$@" && exit
say "failed with exit code $?: $1"
exit 1
