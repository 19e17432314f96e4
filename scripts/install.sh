#!/bin/sh
# Installs a node as a systemd service: the binary, a user of its own, folders, a configuration file
# that says what can be set, and the unit. May be run again: keys, state and configuration stay.
#
#   scripts/install.sh [--binary FILE] [--prefix DIR] [--root DIR]
#   scripts/install.sh --uninstall [--purge] [--prefix DIR] [--root DIR]
#
#   --binary FILE   the binary; if none is named, the one for this host in dist/ or target/release
#   --prefix DIR    where bin/dsn goes, /usr/local if nothing else is said
#   --root DIR      installs into the system below DIR (an image, a chroot)
#   --purge         removes keys, state, configuration and user, too
#
# Nothing is started: a node without a bootstrap address founds a network of its own.
set -eu

here=$(cd "$(dirname "$0")/.." && pwd)
binary='' prefix=/usr/local root='' uninstall='' purge=''

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
        *) usage "$1 is not known" ;;
    esac
    shift
done
case $prefix in /*) ;; *) usage "--prefix $prefix does not begin with /" ;; esac
[ -z "$purge" ] || [ -n "$uninstall" ] || usage "--purge goes with --uninstall"
[ -z "$root" ] || [ -d "$root" ] || fail 1 "there is no folder $root"
[ "$(id -u)" = 0 ] || fail 1 "only root can install a service: use sudo"

program=$prefix/bin/dsn
unit=/etc/systemd/system/dsn.service
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

install_all() {
    find_binary
    say "installing $binary"
    make_user
    put "$binary" "$program" 755
    if [ -f "$root$configuration" ]; then say "$configuration stays as it is"; else
        put "$here/scripts/systemd/dsn.toml" $configuration 644
    fi
    make_folders
    edited=$(mktemp)
    sed "s|^ExecStart=/usr/bin/dsn |ExecStart=$program |" "$here/scripts/systemd/dsn.service" >"$edited"
    put "$edited" $unit 644
    rm -f "$edited"
    if runs_systemd; then
        systemctl daemon-reload
        systemctl try-restart dsn
    fi
    say "next: put network.key of the network into $state/credentials (but for its first node):"
    say "        install -o dsn -g dsn -m 600 network.key $state/credentials/"
    say "      edit $configuration, then: systemctl enable --now dsn, and: dsn status"
}

uninstall_all() {
    if runs_systemd && [ -f $unit ]; then
        systemctl disable --now dsn
    fi
    for file in "$program" "$unit" /etc/systemd/system/multi-user.target.wants/dsn.service; do
        if [ -e "$root$file" ] || [ -L "$root$file" ]; then
            rm -f "$root$file"
            say "$file removed"
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
