#!/bin/bash
# Tests install.sh, the unit and the Debian package in a throw-away Debian below a temporary folder.
#
#   scripts/test-install.sh BINARY [PACKAGE.deb]
#
# As far as it goes without an init: the node is started by hand as the user of the service, and the
# unit is judged by systemd-analyze. Needs root, and debootstrap with its mirror (DSN_TEST_ROOT names a
# Debian that is there already: it is copied). Without it, install.sh is tried in an empty folder,
# and the rest is SKIPPED, which is said. Exit codes: 0 all tested; 1 a test failed; 2 wrong usage; 3 a part was
# skipped.
set -euo pipefail

case ${1-} in -h | --help)
    sed -n '2,/^set /s/^# \{0,1\}//p' "$0"
    exit 0
    ;;
esac

here=$(cd "$(dirname "$0")/.." && pwd)
usage() {
    printf 'test-install.sh: %s\n' "$1" >&2
    sed -n 's/^#   //p' "$0" >&2
    exit 2
}
binary=${1-} package=${2-}
[[ $# -gt 0 ]] || usage "which binary?"
[[ $binary != -* ]] || usage "there is no option $binary"
[[ -f $binary ]] || usage "there is no file $binary"
[[ -z $package || -f $package ]] || usage "there is no file $package"
[[ $(id -u) = 0 ]] || {
    echo "test-install.sh: only root can do this" >&2
    exit 2
}
place=$(mktemp -d)
root=$place/root
node=''
skipped=''

step() { printf -- '-- %s\n' "$*"; }
fail() {
    printf 'test-install.sh: %s\n' "$*" >&2
    tail -n 5 "$place/node" >&2 2>/dev/null || true
    exit 1
}
cleanup() {
    [[ -z $node ]] || kill "$node" 2>/dev/null || true
    rm -rf "$place"
}
trap cleanup EXIT

inside() { env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/bin chroot "$root" "$@"; }
# is PLACE MODE OWNER
is() {
    local found
    found=$(inside stat -c '%a %U' "$1") || fail "$1 is missing"
    [[ $found = "$2 $3" ]] || fail "$1 is $found, not $2 $3"
}
is_gone() { [[ ! -e $root$1 ]] || fail "$1 is still there"; }
await() {
    local tries
    for ((tries = 0; tries < 600; tries++)); do
        if "$@" >/dev/null 2>&1; then return; fi
        sleep 0.1
    done
    fail "waited in vain for: $*"
}

make_root() {
    if [[ -n ${DSN_TEST_ROOT-} ]]; then
        cp -a "$DSN_TEST_ROOT" "$root"
    elif command -v debootstrap >/dev/null; then
        step "a Debian in a folder (debootstrap)"
        debootstrap --variant=minbase --include=systemd,adduser stable "$root" \
            "${DSN_TEST_MIRROR-http://deb.debian.org/debian}" >"$place/log" 2>&1 || {
            tail -n 3 "$place/log" >&2
            return 1
        }
    else
        echo "debootstrap is missing (apt-get install debootstrap)" >&2
        return 1
    fi
}

# What install.sh can be asked without a system: files, modes, that it may be run again.
test_in_a_folder() {
    rm -rf "$root"
    mkdir -p "$root/etc"
    echo 'dsn:x:990:990::/var/lib/dsn:/usr/sbin/nologin' >"$root/etc/passwd"
    "$here/scripts/install.sh" --root "$root" --binary "$binary" >"$place/said"
    "$here/scripts/install.sh" --root "$root" --binary "$binary" >"$place/said"
    grep -q 'bin/dsn is up to date' "$place/said" || fail "the second run did something"
    [[ $(stat -c '%a %u' "$root/var/lib/dsn") = '700 990' ]] || fail "the folder of the state"
    "$here/scripts/install.sh" --root "$root" --uninstall --purge >/dev/null
    is_gone /var/lib/dsn
    is_gone /etc/dsn
    step "a place of its own is known when it is uninstalled"
    "$here/scripts/install.sh" --root "$root" --binary "$binary" --prefix /opt/d >/dev/null
    [[ -x $root/opt/d/bin/dsn ]] || fail "--prefix /opt/d is not where it is"
    "$here/scripts/install.sh" --root "$root" --binary "$binary" >"$place/said"
    grep -q '/opt/d/bin/dsn is up to date' "$place/said" || fail "the second run forgot the place"
    "$here/scripts/install.sh" --root "$root" --binary "$binary" --prefix /opt/e >/dev/null
    is_gone /opt/d/bin/dsn
    "$here/scripts/install.sh" --root "$root" --uninstall >/dev/null
    is_gone /opt/e/bin/dsn
    is_gone /etc/systemd/system/dsn.service
}

# run_node PROGRAM: as the service would: its user, its folders, its configuration.
run_node() {
    step "the node runs as user dsn, and root asks it without a word about sockets"
    inside install -d -o dsn -g dsn -m 0700 /run/dsn
    env -i PATH="$PATH" RUST_LOG=info chroot --userspec=dsn:dsn "$root" "$1" run --config /etc/dsn/dsn.toml \
        >"$place/node" 2>&1 &
    node=$!
    await inside "$1" status
    inside "$1" set k v
    [[ $(inside "$1" get pi k) = v ]] || fail "the state is not kept"
    is /var/lib/dsn/credentials/network.key 600 dsn
    is /run/dsn/control.sock 600 dsn
    is /var/lib/dsn/data/pi 700 dsn
    inside "$1" stop
    wait "$node" || fail "the node ended with $?: $(cat "$place/node")"
    node=''
}

configure() {
    sed -i 's|^#node-id = .*|node-id = "pi"|; s|^#listen = .*|listen = "127.0.0.1:0"|' \
        "$root/etc/dsn/dsn.toml"
    grep -q '^node-id = "pi"' "$root/etc/dsn/dsn.toml" || fail "the configuration can't be edited"
}

# judge UNIT: what systemd says of the unit. 2.0 is what it calls OK.
judge() {
    step "systemd-analyze verify and security"
    inside systemd-analyze verify "$1" 2>&1 | tee "$place/verify"
    [[ ! -s $place/verify ]] || fail "systemd-analyze verify has something to say"
    inside systemd-analyze security --offline=yes --threshold=20 --no-pager "$1" >"$place/security" ||
        fail "too much is exposed: $(tail -n 1 "$place/security")"
    tail -n 1 "$place/security"
}

test_script() {
    step "install.sh, twice"
    "$here/scripts/install.sh" --root "$root" --binary "$binary"
    is /usr/local/bin/dsn 755 root
    is /etc/systemd/system/dsn.service 644 root
    is /etc/systemd/system/dsn-on@.service 644 root
    is /etc/dsn/dsn.toml 644 root
    is /var/lib/dsn 700 dsn
    is /var/lib/dsn/credentials 700 dsn
    configure
    "$here/scripts/install.sh" --root "$root" --binary "$binary" >"$place/said"
    for said in '/usr/local/bin/dsn is up to date' 'dsn.toml stays' 'dsn.service is up to date'; do
        grep -q "$said" "$place/said" || fail "the second run does not say: $said"
    done
    grep -q '^node-id = "pi"' "$root/etc/dsn/dsn.toml" || fail "the configuration was overwritten"
    step "a link that the user dsn makes gives it nothing of root"
    inside mv /var/lib/dsn/credentials /var/lib/dsn/kept
    # Relative, so that it points into this Debian from outside of it, too.
    inside mkdir -m 755 /of-root
    inside ln -s ../../../of-root /var/lib/dsn/credentials
    "$here/scripts/install.sh" --root "$root" --binary "$binary" >/dev/null
    is /of-root 755 root
    inside rm /var/lib/dsn/credentials
    inside mv /var/lib/dsn/kept /var/lib/dsn/credentials
    judge /etc/systemd/system/dsn.service
    run_node /usr/local/bin/dsn
    step "uninstall, and then with --purge"
    "$here/scripts/install.sh" --root "$root" --uninstall
    is_gone /usr/local/bin/dsn
    is_gone /etc/systemd/system/dsn.service
    is_gone /etc/systemd/system/dsn-on@.service
    is /var/lib/dsn/credentials/network.key 600 dsn
    is /etc/dsn/dsn.toml 644 root
    "$here/scripts/install.sh" --root "$root" --uninstall --purge
    is_gone /var/lib/dsn
    is_gone /etc/dsn
    if inside getent passwd dsn >/dev/null; then fail "the user is still there"; fi
}

# A package like the other one, of a later version and with another default configuration.
later() {
    dpkg-deb -R "$package" "$place/later"
    sed -i 's/^Version: .*/Version: 9.9.9-1/' "$place/later/DEBIAN/control"
    echo '# a later default' >>"$place/later/etc/dsn/dsn.toml"
    dpkg-deb -b --root-owner-group "$place/later" "$root/later.deb" >/dev/null
}

test_package() {
    cp "$package" "$root/dsn.deb"
    step "dpkg --install"
    inside dpkg --install /dsn.deb
    is /usr/bin/dsn 755 root
    is /var/lib/dsn/credentials 700 dsn
    unit=$(inside dpkg -L dsn | grep '/dsn\.service$')
    is "$unit" 644 root
    is /usr/lib/systemd/system/dsn-on@.service 644 root
    configure
    judge "$unit"
    run_node /usr/bin/dsn
    inside systemctl enable dsn
    step "upgrade: keys, state and the edited configuration stay"
    later
    inside dpkg --force-confold --install /later.deb
    inside dpkg -s dsn | grep -q '^Version: 9.9.9-1' || fail "it was not upgraded"
    grep -q '^node-id = "pi"' "$root/etc/dsn/dsn.toml" || fail "the configuration was overwritten"
    is /etc/systemd/system/multi-user.target.wants/dsn.service 777 root
    is /var/lib/dsn/credentials/network.key 600 dsn
    run_node /usr/bin/dsn
    step "remove: keys, state and configuration stay"
    inside dpkg --remove dsn
    is_gone /usr/bin/dsn
    is /var/lib/dsn/credentials/network.key 600 dsn
    is /etc/dsn/dsn.toml 644 root
    step "purge: nothing stays"
    inside dpkg --purge dsn
    is_gone /var/lib/dsn
    is_gone /etc/dsn
    is_gone /etc/systemd/system/multi-user.target.wants/dsn.service
}

if make_root; then
    test_script
    if [[ -n $package ]]; then test_package; else
        skipped="the Debian package (none was named)"
    fi
else
    skipped="all that needs a Debian: user, unit, package, a node that runs"
fi
step "install.sh in an empty folder"
test_in_a_folder
if [[ -n $skipped ]]; then
    printf 'test-install.sh: SKIPPED: %s\n' "$skipped" >&2
    exit 3
fi
step "all is well"
