#!/bin/sh
# Debian packages of the binaries that cross.sh builds, into dist/.
#
#   scripts/deb.sh [ARCHITECTURE…]     amd64 arm64 armhf (all of them if none is named)
#
# Needs cargo-deb. Exit codes are those of cross.sh: 3 where something is missing for one at least.
set -eu

case ${1-} in -h | --help)
    sed -n '2,/^set /s/^# \{0,1\}//p' "$0"
    exit 0
    ;;
esac

here=$(cd "$(dirname "$0")/.." && pwd)
missing='' failed=''

complain() { printf 'deb.sh: %s\n' "$*" >&2; }

[ $# -gt 0 ] || set -- amd64 arm64 armhf
for architecture; do
    case $architecture in amd64 | arm64 | armhf) ;; *)
        complain "there is no architecture $architecture; there are: amd64 arm64 armhf"
        exit 2
        ;;
    esac
done
command -v cargo-deb >/dev/null 2>&1 || {
    complain "cargo-deb is missing. Get it with: cargo install --locked cargo-deb"
    exit 3
}
cd "$here"
# Man pages and completions are the same for all.
cargo run --locked --quiet --example pages -- target/pages
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)
for architecture; do
    case $architecture in
        amd64) board=x86-64 ;;
        arm64) board=aarch64 ;;
        armhf) board=armv7 ;;
    esac
    code=0
    scripts/cross.sh "$board" || code=$?
    case $code in
        0) ;;
        3) missing="$missing $architecture" && continue ;;
        *) failed="$failed $architecture" && continue ;;
    esac
    # The one that was built just now, out of those of this board.
    # shellcheck disable=SC2012 # names of our own
    case $board in
        x86-64) target=$(ls -t "dist/dsn-$version-x86_64-"* | head -n 1) ;;
        aarch64) target=$(ls -t "dist/dsn-$version-aarch64-"* | head -n 1) ;;
        armv7) target=$(ls -t "dist/dsn-$version-armv7-"* | head -n 1) ;;
    esac
    target=${target#"dist/dsn-$version-"}
    variant=''
    case $target in *-gnu | *-gnueabihf) variant=glibc ;; esac
    cargo deb ${variant:+--variant=$variant} --quiet --no-build --no-strip --target "$target" --output "$here/dist/" ||
        failed="$failed $architecture"
done
if ls dist/dsn* >/dev/null 2>&1; then (cd dist && sha256sum -- dsn* >SHA256SUMS); fi
[ -z "$missing" ] || complain "not built, as something is missing (said above):$missing"
if [ -n "$failed" ]; then
    complain "failed:$failed"
    exit 1
fi
[ -z "$missing" ] || exit 3
