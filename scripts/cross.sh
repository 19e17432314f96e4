#!/bin/sh
# Release binaries for boards and servers: static, so they need nothing beside them, wherever that can
# be had.
#
#   scripts/cross.sh [BOARD…]      builds for: aarch64 armv7 armv6 x86-64 (all of them if none is named)
#   scripts/cross.sh --check FILE BOARD     checks a binary that is there already
#
#   aarch64   Pi 3, 4, 5, Zero 2 with a 64-bit system, and other 64-bit ARM
#   armv7     Pi 2, 3, 4, 5, Zero 2 with a 32-bit system
#   armv6     Pi Zero, Pi 1
#   x86-64    PCs and servers
#
# They stand in dist/ as dsn-VERSION-TARGET, with their sums in dist/SHA256SUMS. Each is checked with
# readelf and, where this host can run it, started once. What is missing is said, with the way to
# get it, and the rest is built.
#
# Exit codes: 0 all built; 1 a build or a check failed; 2 wrong usage; 3 something is missing for
# one board at least, and all others are built.
set -eu

case ${1-} in -h | --help)
    sed -n '2,/^set /s/^# \{0,1\}//p' "$0"
    exit 0
    ;;
esac

here=$(cd "$(dirname "$0")/.." && pwd)
dist=$here/dist
target_folder=${CARGO_TARGET_DIR:-$here/target}
missing=''
failed=''
built=''

say() { printf '%s\n' "$*"; }
complain() { printf 'cross.sh: %s\n' "$*" >&2; }
usage() {
    complain "$1"
    sed -n 's/^#   //p' "$0" >&2
    exit 2
}

# The ways to build for a board, the best one first: rust target, C compiler (ring needs one, and it
# links), its package in Debian. musl comes first: it makes a static binary that asks nobody for anything.
# glibc is not linked statically: such a binary loads the name services of the host, and ends at once
# where these are of another version. That was seen with mDNS, which a Raspberry Pi has.
ways_of() {
    case $1 in
        aarch64) say aarch64-unknown-linux-musl:aarch64-linux-gnu-gcc:gcc-aarch64-linux-gnu ;;
        armv7)
            say armv7-unknown-linux-musleabihf:arm-linux-gnueabihf-gcc:gcc-arm-linux-gnueabihf
            say armv7-unknown-linux-gnueabihf:arm-linux-gnueabihf-gcc:gcc-arm-linux-gnueabihf
            ;;
        # Debian's C library for armhf is ARMv7 code, that for armel is not. It passes floats in other
        # registers, which nobody notices in a static binary; it looks for name services of its own
        # kind, and a host for armhf has none.
        armv6)
            say arm-unknown-linux-musleabihf:arm-linux-gnueabihf-gcc:gcc-arm-linux-gnueabihf
            say arm-unknown-linux-gnueabi:arm-linux-gnueabi-gcc:gcc-arm-linux-gnueabi
            ;;
        x86-64)
            cc=x86_64-linux-gnu-gcc
            say "x86_64-unknown-linux-musl:$cc:gcc-x86-64-linux-gnu"
            say "x86_64-unknown-linux-gnu:$cc:gcc-x86-64-linux-gnu"
            ;;
        *) usage "there is no board $1" ;;
    esac
}

# Whether the standard library of a rust target is here; or its source, for a target that is often not
# to be had ready-made. Sets build_std.
has_target() {
    build_std=''
    libraries=$(rustc --print target-libdir --target "$1" 2>/dev/null) || return 1
    for file in "$libraries"/libstd-*.rlib; do
        [ ! -f "$file" ] || return 0
    done
    [ "$1" = arm-unknown-linux-gnueabi ] || return 1
    [ -f "$(rustc --print sysroot)/lib/rustlib/src/rust/library/std/Cargo.toml" ] || return 1
    build_std=1
}

has_command() { command -v "$1" >/dev/null 2>&1; }

# Takes the first way that is open; says what each one before it lacks.
build() {
    board=$1
    target=''
    for way in $(ways_of "$board"); do
        name=${way%%:*} package=${way##*:} compiler=${way#*:}
        compiler=${compiler%%:*}
        lacks=''
        has_target "$name" || lacks="rustup target add $name"
        if [ -n "$lacks" ] && [ "$name" = arm-unknown-linux-gnueabi ]; then
            lacks="$lacks (where that can't be had: rustup component add rust-src)"
        fi
        has_command "$compiler" || lacks="${lacks:+$lacks; }apt-get install $package"
        if [ -z "$lacks" ]; then
            target=$name
            break
        fi
        complain "$board: $name can't be built here; get what it needs with: $lacks"
    done
    [ -n "$target" ] || {
        complain "$board is NOT built: none of the ways above is open"
        missing="$missing $board"
        return 0
    }
    say "== $board: $target"
    if compile && check "$file" "$board" && start; then built="$built $board"; else
        failed="$failed $board"
    fi
}

# Whether a file for the target uses the C library of the host.
is_shared() { case $target in *-gnu | *-gnueabihf) ;; *) false ;; esac }

compile() {
    upper=$(say "$target" | tr 'a-z-' 'A-Z_')
    lower=$(say "$target" | tr '-' '_')
    flags='-C target-feature=+crt-static'
    # The musl that comes with Rust 1.93 and later unpacks the addresses that are filled in at the
    # start: 60 KB of 2.5 MB. A linker that can't pack them warns and goes on.
    case $target:$(rustc --version | sed -n 's/^rustc 1\.\([0-9]*\)\..*/\1/p') in
        *-musl*:9[3-9] | *-musl*:[1-9][0-9][0-9]) flags="$flags -C link-arg=-Wl,-z,pack-relative-relocs" ;;
    esac
    if is_shared; then flags='-C target-feature=-crt-static'; fi
    (
        cd "$here"
        export "CC_$lower=$compiler" "CARGO_TARGET_${upper}_LINKER=$compiler"
        # With --target these reach no build script, so they hold for the board alone.
        export RUSTFLAGS="${RUSTFLAGS:+$RUSTFLAGS }$flags"
        if [ -n "$build_std" ]; then
            complain "$board: the standard library is built from its source, with unstable options"
            export RUSTC_BOOTSTRAP=1
        fi
        cargo build --quiet --locked --release --bin dsn --target "$target" \
            ${build_std:+-Zbuild-std=std,panic_unwind}
    ) || {
        complain "$board: the build for $target failed"
        return 1
    }
    mkdir -p "$dist"
    file=$dist/dsn-$version-$target
    cp "$target_folder/$target/release/dsn" "$file.new"
    mv "$file.new" "$file"
}

# check FILE BOARD: what readelf says has to be what the board can run.
check() {
    bad='' must_run=''
    case $2 in
        aarch64) machine=AArch64 ;;
        armv7 | armv6) machine=ARM ;;
        x86-64) machine=X86-64 ;;
        *) usage "there is no board $2" ;;
    esac
    header=$(readelf -hW "$1") || return 1
    segments=$(readelf -lW "$1")
    dynamic=$(readelf -dW "$1")
    say "$header" | grep -q "Machine:.*$machine\$" || bad="$bad; it is not for $machine"
    check_libraries "$1" "$2"
    if say "$dynamic" | grep -q TEXTREL; then bad="$bad; its code is changed when it is loaded"; fi
    if say "$segments" | grep GNU_STACK | grep -q 'RWE'; then bad="$bad; its stack can be executed"; fi
    if [ $machine = ARM ]; then check_arm "$1" "$2"; fi
    if [ -n "$bad" ]; then
        complain "$1 can't be given to $2:${bad#;}"
        return 1
    fi
}

# The latest glibc that a file may want: Debian 12 and Raspberry Pi OS of 2023 have 2.36.
glibc_max=2.36

# Static files want nothing. Others (their names say so) want the C library of the host and no more.
check_libraries() {
    interpreter=$(say "$segments" | sed -n 's/.*program interpreter: \(.*\)]/\1/p')
    libraries=$(say "$dynamic" | sed -n 's/.*(NEEDED).*\[\(.*\)]/\1/p' | sort | tr '\n' ' ')
    case $1 in *-gnu | *-gnueabihf) ;; *)
        [ -z "$interpreter" ] || bad="$bad; it wants the interpreter $interpreter"
        [ -z "$libraries" ] || bad="$bad; it wants libraries: $libraries"
        return 0
        ;;
    esac
    case $2:$interpreter in
        armv7:/lib/ld-linux-armhf.so.3 | x86-64:/lib64/ld-linux-x86-64.so.2) ;;
        *) bad="$bad; it wants the interpreter ${interpreter:-none}" ;;
    esac
    for library in $libraries; do
        case $library in
            libc.so.6 | libgcc_s.so.1 | libm.so.6 | ld-linux-armhf.so.3 | ld-linux-x86-64.so.2) ;;
            *) bad="$bad; it wants the library $library" ;;
        esac
    done
    glibc=$(readelf -VW "$1" | grep -o 'GLIBC_[0-9.]*' | cut -d _ -f 2 | sort -V | tail -n 1)
    say "$1 wants: ${libraries}with glibc $glibc or later"
    [ "$(printf '%s\n' "$glibc" $glibc_max | sort -V | tail -n 1)" = $glibc_max ] ||
        bad="$bad; it wants glibc $glibc, later than $glibc_max"
}

# The version of ARM. ring carries code for ARMv7 that it uses where the processor has it, and that
# marks the whole file: so for ARMv6 the mark says little, and it has to run (see start).
check_arm() {
    cpu=$(readelf -A "$1" | sed -n 's/.*Tag_CPU_arch: //p' | head -n 1)
    case $2:$cpu in
        armv7:v7 | arm*:v[456] | arm*:v5T* | arm*:v6K*) ;;
        armv6:v7) must_run=1 ;;
        *) bad="$bad; its code is for ARM ${cpu:-of an unknown version}" ;;
    esac
    if say "$header" | grep -q 'soft-float ABI' && [ "$2" != armv6 ]; then
        bad="$bad; it passes no floats in registers, so it is not what was asked for"
    fi
}

# Runs it where this host can: it has to say its version, and to make a key.
start() {
    case $board:$(uname -m) in
        aarch64:aarch64 | armv7:armv7l | armv6:armv6l | x86-64:x86_64) runner='' ;;
        aarch64:*) runner=qemu-aarch64-static ;;
        armv7:*) runner='qemu-arm-static -cpu cortex-a7 -L /usr/arm-linux-gnueabihf' ;;
        armv6:*) runner='qemu-arm-static -cpu arm1176' ;;
        *) runner=qemu-x86_64-static ;;
    esac
    if [ -n "$runner" ] && ! has_command "${runner%% *}"; then
        complain "$board: NOT started, as ${runner%% *} is missing (apt-get install qemu-user-static)"
        [ -n "$must_run" ] || return 0
        complain "$board: so it is not known whether it runs on ARMv6"
        return 1
    fi
    folder=$(mktemp -d)
    # shellcheck disable=SC2086 # a command with its arguments
    said=$($runner "$file" --version && $runner "$file" keygen "$folder/network.key" >/dev/null) ||
        said="exit code $?"
    [ -s "$folder/network.key" ] || said="$said, and makes no key"
    rm -rf "$folder"
    # A checkout names its commit behind the version.
    case $said in
        "dsn $version" | "dsn $version ("*")") ;;
        *)
            complain "$board: $file --version says '$said', not 'dsn $version'"
            return 1
            ;;
    esac
}

has_command readelf || {
    complain "readelf is missing. Get it with: apt-get install binutils"
    exit 3
}
if [ "${1-}" = --check ]; then
    [ $# -eq 3 ] || usage "--check takes a file and a board"
    check "$2" "$3"
    exit
fi
[ $# -gt 0 ] || set -- aarch64 armv7 armv6 x86-64
for board; do ways_of "$board" >/dev/null; done
has_command cargo || {
    complain "cargo is missing: install Rust"
    exit 3
}
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' "$here/Cargo.toml" | head -n 1)
for board; do build "$board"; done

if [ -n "$built" ]; then
    (
        cd "$dist"
        rm -f ./*.new
        sha256sum -- dsn* >SHA256SUMS.new
        mv SHA256SUMS.new SHA256SUMS
        say "== dist/SHA256SUMS"
        cat SHA256SUMS
    )
fi
[ -z "$missing" ] || complain "not built, as something is missing (said above):$missing"
if [ -n "$failed" ]; then
    complain "failed:$failed"
    exit 1
fi
[ -z "$missing" ] || exit 3
