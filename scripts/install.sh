#!/bin/sh
# Installs a node as a systemd service: the binary, a user of its own, folders, a configuration file
# that says what can be set, and the units of the node and of hooks (docs/hooks.md). May be run again: keys, state and
# configuration stay.
#
#   scripts/install.sh [--binary FILE] [--prefix DIR] [--root DIR]
#   scripts/install.sh --uninstall [--purge] [--root DIR]
#
#   --binary FILE   the binary; if none is named, the one for this host in dist/ or target/release
#   --prefix DIR    where bin/dsn goes: where it is already, else /usr/local
#   --root DIR      installs into the system below DIR (an image, a chroot), where the binary may be
#                   one for another processor
#   --uninstall     removes the unit and the binary that it starts, wherever that is
#   --purge         removes keys, state, configuration and user, too
#
# Nothing is started: a node without a bootstrap address founds a network of its own.
# Exit codes: 0 done; 1 it can't be done (said above); 2 wrong usage.
set -eu

case ${1-} in -h | --help)
    sed -n '2,/^set /s/^# \{0,1\}//p' "$0"
    exit 0
    ;;
esac

here=$(cd "$(dirname "$0")/.." && pwd)
binary='' prefix='' root='' uninstall='' purge=''

say() { printf '%s\n' "$*"; }
fail() {
    printf 'install.sh: %s\n' "$2" >&2
    exit "$1"
}
usage() {
    printf 'install.sh: %s\n' "$1" >&2
    sed -n 's/^#   //p' "$0" >&2
    exit 2
}

while [ $# -gt 0 ]; do
    case $1 in
        --binary | --prefix | --root)
            [ $# -ge 2 ] || usage "$1 takes a value"
            case $1 in
                --binary) binary=$2 ;;
                --prefix) prefix=$2 ;;
                --root) root=${2%/} ;;
            esac
            shift
            ;;
        --uninstall) uninstall=1 ;;
        --purge) purge=1 ;;
        *) usage "there is no option $1" ;;
    esac
    shift
done
case $prefix in '' | /*) ;; *) usage "--prefix $prefix does not begin with /" ;; esac
[ -z "$purge" ] || [ -n "$uninstall" ] || usage "--purge goes with --uninstall"
[ -z "$root" ] || [ -d "$root" ] || fail 1 "there is no folder $root"
[ "$(id -u)" = 0 ] || fail 1 "only root can install a service: use sudo"

program=${prefix:-/usr/local}/bin/dsn
unit=/etc/systemd/system/dsn.service
hooks=/etc/systemd/system/dsn-on@.service
settings=/etc/dsn
configuration=$settings/dsn.toml
state=/var/lib/dsn

# inside COMMAND…: in the system that is installed into.
inside() { if [ -n "$root" ]; then chroot "$root" "$@"; else "$@"; fi; }
has_user() { grep -q '^dsn:' "$root/etc/passwd" 2>/dev/null; }
runs_systemd() { [ -z "$root" ] && [ -d /run/systemd/system ]; }

find_binary() {
    if [ -z "$binary" ]; then
        case $(uname -m) in
            x86_64) kinds='x86_64-*' ;;
            aarch64) kinds='aarch64-*' ;;
            armv7l) kinds='armv7-*' ;;
            armv6l) kinds='arm-*' ;;
            *) kinds='' ;;
        esac
        version=$(sed -n 's/^version = "\(.*\)"$/\1/p' "$here/Cargo.toml" | head -n 1)
        for binary in "$here/dist/dsn-$version-"$kinds "$here/target/release/dsn"; do
            [ ! -f "$binary" ] || break
        done
    fi
    [ -f "$binary" ] ||
        fail 1 "there is no binary $binary: build one (cargo build --release), or name one with --binary"
}

# So many bytes of the binary from a place on, as hex digits.
bytes_at() { od -A n -t x1 -j "$1" -N "$2" "$binary" 2>/dev/null | tr -d ' \n'; }

# Is it a program at all, and one for this host? For a system below --root only the first can be known.
check_binary() {
    why="name another one with --binary"
    [ "$(bytes_at 0 4)" = 7f454c46 ] || fail 1 "$binary is not a program (no ELF file): $why"
    case $(bytes_at 16 2) in
        0200 | 0300) ;;
        *) fail 1 "$binary is no program that can be started (an object, a core): $why" ;;
    esac
    # The class (32 or 64 bits) and the processor: e_ident[4], e_machine.
    case $(bytes_at 4 1)-$(bytes_at 18 2) in
        02-3e00) kind=x86_64 ;;
        02-b700) kind=aarch64 ;;
        01-2800) kind=arm ;;
        *) fail 1 "$binary is for a processor that no node runs on: $why" ;;
    esac
    [ -z "$root" ] || return 0
    case $(uname -m)-$kind in
        x86_64-x86_64 | aarch64-aarch64 | aarch64-arm | armv*-arm) ;;
        *) fail 1 "$binary is for $kind, this host is $(uname -m): $why" ;;
    esac
    # Not every user may start it where it is: a copy, in a folder of our own.
    tried=$(mktemp -d)
    said=''
    if cp "$binary" "$tried/dsn" && chmod 700 "$tried/dsn"; then
        said=$("$tried/dsn" --version 2>&1) || true
    fi
    rm -rf "$tried"
    case $said in
        "dsn "*) ;;
        *) fail 1 "$binary is not dsn, or does not run here: --version says '$said'; $why" ;;
    esac
}

# put FILE PLACE MODE: whole or not at all, and nothing where it is there already.
put() {
    mkdir -p "$root$(dirname "$2")"
    if cmp -s "$1" "$root$2" && [ "$(stat -c %a "$root$2")" = "$3" ]; then
        say "$2 is up to date"
        return
    fi
    cp "$1" "$root$2.new"
    chown root:root "$root$2.new"
    chmod "$3" "$root$2.new"
    mv "$root$2.new" "$root$2"
    say "$2 installed"
}

make_user() {
    if has_user; then
        say "user dsn is there"
    elif [ -n "$root" ] && [ ! -x "$root/usr/sbin/useradd" ]; then
        fail 1 "user dsn can't be made: $root has no useradd (package passwd)"
    else
        inside useradd --system --user-group --home-dir $state --no-create-home \
            --shell /usr/sbin/nologin dsn
        say "user dsn made"
    fi
}

make_folders() {
    # Its numbers in the system below the root are not those of this host.
    owner=$(sed -n 's/^dsn:[^:]*:\([0-9]*:[0-9]*\):.*/\1/p' "$root/etc/passwd" | head -n 1)
    for folder in "$root$state" "$root$state/credentials"; do
        # What is there belongs to the user, who may have put a link in its place: leave it alone.
        if [ -e "$folder" ] || [ -L "$folder" ]; then continue; fi
        mkdir -p "$folder"
        chown "$owner" "$folder"
        chmod 0700 "$folder"
    done
    say "$state belongs to user dsn"
}

# The binary that the unit starts, if there is one; nobody else removes that.
installed() {
    [ ! -f "$root$unit" ] || sed -n 's|^ExecStart=\(/.*/bin/dsn\) run .*|\1|p' "$root$unit" | head -n 1
}

install_all() {
    find_binary
    check_binary
    say "installing $binary"
    old=$(installed)
    [ -n "$prefix" ] || program=${old:-$program}
    make_user
    put "$binary" "$program" 755
    if [ -f "$root$configuration" ]; then say "$configuration stays as it is"; else
        put "$here/scripts/systemd/dsn.toml" $configuration 644
    fi
    make_folders
    edited=$(mktemp)
    for file in $unit $hooks; do
        sed "s|^ExecStart=/usr/bin/dsn |ExecStart=$program |" "$here/scripts/systemd/${file##*/}" >"$edited"
        put "$edited" "$file" 644
    done
    rm -f "$edited"
    # Nothing starts that one any more.
    if [ -n "$old" ] && [ "$old" != "$program" ] && [ -f "$root$old" ]; then
        rm -f "$root$old"
        say "$old removed"
    fi
    if runs_systemd; then
        systemctl daemon-reload
        systemctl try-restart dsn 'dsn-on@*'
    fi
    say "next: put network.key of the network into $state/credentials (dsn keygen makes it, once for all hosts):"
    say "        install -o dsn -g dsn -m 600 network.key $state/credentials/"
    say "      edit $configuration, then: systemctl enable --now dsn, and: dsn status"
}

uninstall_all() {
    old=$(installed)
    # Where the unit is gone, the place has to be named.
    [ -n "$prefix" ] || program=${old:-$program}
    if runs_systemd && [ -f $unit ]; then
        systemctl disable --now dsn
        # As many as there are: a pattern takes those that run.
        systemctl stop 'dsn-on@*'
    fi
    for file in "$program" "$old" "$unit" "$hooks" /etc/systemd/system/multi-user.target.wants/dsn.service; do
        if [ -n "$file" ] && { [ -e "$root$file" ] || [ -L "$root$file" ]; }; then
            rm -f "$root$file"
            say "$file removed"
        fi
    done
    # Those that were enabled: else a later installation brings them back.
    for file in "$root"/etc/systemd/system/multi-user.target.wants/dsn-on@*.service; do
        if [ -L "$file" ]; then
            rm -f "$file"
            say "${file#"$root"} removed"
        fi
    done
    if runs_systemd; then systemctl daemon-reload; fi
    if [ -z "$purge" ]; then
        say "$configuration and $state stay, with the keys; --purge removes them, too"
        return
    fi
    rm -rf "$root${settings:?}" "$root${state:?}"
    say "$settings and $state removed"
    if has_user && { [ -z "$root" ] || [ -x "$root/usr/sbin/userdel" ]; }; then
        inside userdel dsn
        say "user dsn removed"
    fi
}

if [ -n "$uninstall" ]; then uninstall_all; else install_all; fi
