#!/bin/sh
# Cuts the power of nodes whose disk loses, reorders and tears what was not flushed, and looks whether all that they
# acknowledged is there when they start again.
#
#   scripts/powercut.sh [--seed SEED] COUNT       so many cuts; each 250 of them have a recording of their own
#   scripts/powercut.sh --seed SEED --recording FILE --cut CUT
#                                                 one cut again; the line for it is printed where something was lost
#   scripts/powercut.sh --self-test               is the disk itself right?
#
# The disk is a server of our own that logs all that it is told (tests/powercut/disk.py); qemu-storage-daemon shows it as a
# file, and file systems are mounted from that. Real nodes start there for the first time, meet, are changed by several
# writers, killed, stopped and started. Then the power is cut: at a place of the log, all that came before the last flush
# stays, and of the rest any part. What is left is mounted, nodes start on it, and are asked. Two controls have to lose
# something: ext4 without barriers, and --sync 5s taken for --sync always. What is cut: docs/faults.md.
#
# It needs root. All of it is in namespaces of its own: mounts, processes and network end with it, whatever happens.
# DSN_TEST_BIN names another binary to test. Recordings in which something was lost are kept below TMPDIR.
# Exit codes: 0 nothing was lost; 1 something was, or a control lost nothing, or something hung (said above); 2 wrong usage;
# 3 it can't run here.
set -eu

here=$(cd "$(dirname "$0")/.." && pwd)
rig=$here/tests/powercut
usage() {
    printf 'powercut.sh: %s\n' "$1" >&2
    sed -n 's/^#   //p' "$0" >&2
    exit 2
}
lacks() {
    printf 'powercut.sh: %s\n' "$1" >&2
    exit 3
}

seed='' recording='' cut='' count='' self_test=''
while [ $# -gt 0 ]; do
    case $1 in
        --seed | --recording | --cut)
            [ $# -ge 2 ] || usage "$1 needs a value"
            case $1 in
                --seed) seed=$2 ;;
                --recording) recording=$2 ;;
                --cut) cut=$2 ;;
            esac
            shift
            ;;
        --self-test) self_test=1 ;;
        -h | --help)
            sed -n '2,/^set /s/^# \{0,1\}//p' "$0"
            exit 0
            ;;
        -*) usage "there is no option $1" ;;
        '' | 0* | *[!0-9]* | ???????*) usage "'$1' is not a number of cuts (1 to 999999)" ;;
        *) count=$1 ;;
    esac
    shift
done
command -v python3 >/dev/null 2>&1 || lacks 'python3 is not here: the disk and the rig are written in Python'
if [ -n "$self_test" ]; then
    exec python3 -B "$rig/disk_test.py"
fi
if [ -n "$recording" ]; then
    if [ -z "$seed" ] || [ -z "$cut" ] || [ ! -r "$recording" ]; then
        usage 'a cut is made again with --seed, --cut and a --recording that can be read'
    fi
else
    [ -n "$count" ] || usage 'how many cuts?'
fi
[ -n "$seed" ] || seed=$(od -An -N4 -tu4 /dev/urandom | tr -d ' ')

[ "$(id -u)" = 0 ] || lacks 'this needs root: it mounts file systems'
for part in qemu-storage-daemon:qemu-utils unshare:util-linux setpriv:util-linux mount:mount ip:iproute2 mkfs.ext4:e2fsprogs timeout:coreutils; do
    command -v "${part%:*}" >/dev/null 2>&1 || lacks "${part%:*} is not here (Debian: ${part#*:})"
done
[ -c /dev/fuse ] || lacks '/dev/fuse is not here: no file can stand for the disk'
[ -c /dev/loop-control ] || lacks '/dev/loop-control is not here: no file can be mounted'
unshare --mount --net --pid --fork true 2>/dev/null || lacks 'no namespaces can be made here'

program=${DSN_TEST_BIN-}
if [ -z "$program" ]; then
    command -v cargo >/dev/null 2>&1 || lacks 'cargo is not here: install Rust, or name a binary with DSN_TEST_BIN'
    printf 'building in release mode ...\n'
    (cd "$here" && cargo build --locked --release --quiet) || lacks 'the build failed'
    program=${CARGO_TARGET_DIR:-$here/target}/release/dsn
fi
[ -x "$program" ] || lacks "$program is not a program that can be run"

# A disk that is not right proves nothing. What its test says is only of interest then.
said=$(timeout --kill-after=5 120 python3 -B "$rig/disk_test.py" 2>&1) || {
    printf '%s\npowercut.sh: the disk fails its own test (or hangs in it for 120 s)\n' "$said" >&2
    exit 1
}

folder=$(mktemp -d "${TMPDIR:-/tmp}/dsn-powercut-XXXXXX")
keep=${TMPDIR:-/tmp}/dsn-powercut-lost-$seed
child=''
# Who made the namespaces goes with this shell and minds no other signal; their first process goes with it, and all others
# with that one.
trap '[ -z "$child" ] || { kill -KILL "$child"; wait "$child"; } 2>/dev/null || :; rmdir "$folder" 2>/dev/null || :' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

set -- --program "$program" --folder "$folder" --seed "$seed"
if [ -n "$recording" ]; then
    set -- "$@" --recording "$recording" --cut "$cut"
else
    set -- "$@" --keep "$keep" "$count"
fi
# In memory: what is on the disk has not to be on another one.
# shellcheck disable=SC2016 # These are for the shell inside.
setpriv --pdeathsig KILL unshare --mount --net --pid --fork --kill-child --mount-proc sh -c '
    set -eu
    folder=$1 rig=$2
    shift 2
    ip link set lo up
    mount -t tmpfs -o mode=0700 dsn-powercut "$folder"
    exec python3 -B "$rig" "$@"' sh "$folder" "$rig/rig.py" "$@" &
child=$!
code=0
wait "$child" || code=$?
child=''
exit "$code"
