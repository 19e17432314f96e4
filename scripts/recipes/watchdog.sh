#!/bin/sh
# Runs a command, such as a reboot, on a host that is cut off from all others, and only then.
#
#   watchdog.sh [--for SECONDS] [--peers N] [--probe PROGRAM] [--state FILE] [-- COMMAND…]
#
# One look; call it once a minute from a timer or cron. It acts when all of this is true:
#   * no other node is alive or suspect, and N [2] or more are lost (who said goodbye is not lost)
#   * that has been so for SECONDS [600], by a clock that nobody sets
#   * N or more were alive since this host was booted, and since it acted last
#   * PROGRAM fails, or takes 30 s: it says whether the network is there [ping to the default gateway]. It has to
#     have succeeded since this host was booted: one that never does says nothing
#   * it is an hour since it acted last
# Looks that are more than 180 s apart do not show what was between them: the time is counted anew.
# Without COMMAND it says what it sees, tries PROGRAM and does nothing. What it remembers is in FILE
# [/var/lib/dsn-watchdog/state]; where that can't be written, it does not act.
#
# A host can't know whether it is cut off, or all others are off: to it that looks the same. The gateway decides.
#
# Needs dsn; ping and ip (Debian: iputils-ping, iproute2) without --probe. Exit codes: 0 nothing to do, or
# COMMAND was done, 1 cut off and no COMMAND, or it failed, or FILE can't be written, 2 wrong usage, 3 no node answers here.
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
limit=${WATCHDOG_PROBE_SECONDS:-30}
# Between two actions; and between two looks at most, so that they are of one time. Seconds.
pause=3600 gap=180

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
        --)
            shift
            [ $# -gt 0 ] || usage "there is no command behind --"
            break
            ;;
        -*) usage "there is no option $1" ;;
        *) usage "a command stands behind --, such as: -- $1" ;;
    esac
done
command -v "$dsn" >/dev/null || usage "there is no $dsn: install it, or name it with DSN_BIN"
command -v timeout >/dev/null || usage "there is no timeout: apt-get install coreutils"
if [ -n "$probe" ]; then
    command -v "$probe" >/dev/null || usage "there is no $probe"
    case $probe in *[[:cntrl:]=]*) usage "the name of a probe has no = and no line end" ;; esac
else
    for tool in ip:iproute2 ping:iputils-ping; do
        command -v "${tool%:*}" >/dev/null || usage "there is no ${tool%:*}: apt-get install ${tool#*:}, or --probe PROGRAM"
    done
fi
[ -d "$(dirname "$file")" ] || usage "there is no folder $(dirname "$file"): make it (mode 700), or --state FILE"

[ ! -e "$file" ] || [ -f "$file" ] || usage "$file is no file, and is not replaced"

read -r now _ <"$uptime_file"
now=${now%.*}
read -r boot <"$boot_file"

# What is remembered of this boot: since when all are lost, when that was seen last, whether others were seen, which
# probe succeeded; and when it acted.
since='' looked='' seen=no probed='' acted='' acted_boot=''
if [ -e "$file" ]; then
    while IFS='=' read -r name value; do
        case $name in
            boot) remembered=$value ;;
            since) since=$value ;;
            looked) looked=$value ;;
            seen) seen=$value ;;
            probed) probed=$value ;;
            acted) acted=$value ;;
            acted_boot) acted_boot=$value ;;
        esac
    done <"$file"
    for number in "$since" "$looked" "$acted"; do
        # With a 0 before it, a number is another one to a shell, or none.
        case $number in 0?* | *[!0-9]* | ????????????????*)
            since='' looked='' seen=no probed='' acted='' acted_boot=''
            say "$file was damaged: begun anew"
            break
            ;;
        esac
    done
fi
[ "${remembered-}" = "$boot" ] || since='' looked='' seen=no probed=''

# replaced TEXT: replaces the file in one step
replaced() {
    (umask 077 && printf '%s\n' "$1" >"$file.new") 2>/dev/null && [ "$(cat "$file.new")" = "$1" ] &&
        sync "$file.new" && mv "$file.new" "$file" && sync "$(dirname "$file")"
}

# remember: writes the file, and only where that changes it, as cards wear out; what is not remembered is not acted upon
remember() {
    [ -n "$since" ] || looked=''
    text=$(printf 'boot=%s\nsince=%s\nlooked=%s\nseen=%s\nprobed=%s\nacted=%s\nacted_boot=%s' \
        "$boot" "$since" "$looked" "$seen" "$probed" "$acted" "$acted_boot")
    [ "$(cat "$file" 2>/dev/null)" != "$text" ] || return 0
    replaced "$text" || { say "$file can't be written (is the disk full, or read-only?): nothing is done"; return 1; }
}

count() { printf '%s\n' "$peers" | awk -v status="$1" '$3 == status { count++ } END { print count + 0 }'; }

is_there() {
    if [ -n "$probe" ]; then
        timeout -s KILL "$limit" "$probe" >/dev/null 2>&1 </dev/null
        return
    fi
    gateway=$(ip route show default | sed -n 's/.* via \([^ ]*\).*/\1/p;q')
    [ -n "$gateway" ] || gateway=$(ip -6 route show default | sed -n 's/.* via \([^ ]*\) dev \([^ ]*\).*/\1%\2/p;q')
    [ -n "$gateway" ] && timeout -s KILL "$limit" ping -c 3 -w 10 "$gateway" >/dev/null 2>&1
}
how=${probe:-gateway}
never="the probe ($how) did not succeed since the boot, so that it fails says nothing: give a --probe that does"
code=0
"$dsn" status >/dev/null || code=$?
if [ "$code" != 0 ]; then
    # A node that is off says nothing of the network.
    since=''
    remember || :
    exit "$code"
fi
# All of one look: were one of three to fail, the rest would look like a cut.
peers=$("$dsn" peers --all) || exit $?
alive=$(count alive) suspect=$(count suspect) lost=$(count lost)
if [ "$alive" -ge "$least" ]; then
    before=$seen seen=yes
    # Only one that is known to succeed can say that the network is not there.
    if [ "$probed" != "$how" ] || [ $# -eq 0 ]; then
        if is_there; then probed=$how; elif [ "$before" != yes ] || [ $# -eq 0 ]; then
            say "the probe ($how) fails, though others are alive: until it has succeeded once, nothing is done"
        fi
    fi
fi
[ $# -gt 0 ] || say "of the others $alive are alive, $suspect suspect, $lost lost; probe that succeeded: ${probed:-none}"
if [ $((alive + suspect)) -gt 0 ] || [ "$lost" -lt "$least" ] || [ "$seen" != yes ]; then
    since=''
    remember || exit 1
    exit 0
fi
# A host that slept, or a cron that was off, did not see what was meanwhile.
if [ -z "$since" ] || [ -z "$looked" ] || [ "$looked" -gt "$now" ] || [ $((now - looked)) -gt "$gap" ]; then since=$now; fi
looked=$now
remember || exit 1
[ $((now - since)) -ge "$wait" ] || exit 0

if is_there; then
    say "all $lost others are lost, but the network is there: nothing is done"
    exit 0
fi
if [ "$probed" != "$how" ]; then
    say "all $lost others are lost, but $never"
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
remember || exit 1
"$@" && exit
say "failed with exit code $?: $1"
exit 1
