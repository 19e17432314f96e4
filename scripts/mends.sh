#!/bin/sh
# Takes defences out of the source, one at a time, and demands that a test notices each.
#
#   scripts/mends.sh                  all of tests/mends.txt: half an hour or more
#   scripts/mends.sh NAME…            some of them
#   scripts/mends.sh --changed BASE   those of files that differ from this git revision
#   scripts/mends.sh --list           their names
#
# Each is done in a copy of the tree below target/mends, never in the tree itself; what is not
# committed is copied, too. At first all tests that are named have to pass there as it is. Then, for
# each mend that is taken out: it has to compile, and each of its tests has to fail within its time.
# All builds share one target folder. MENDS_FOLDER names another place for all of it.
# Exit codes: 0 all were noticed; 1 one was not, or the list is wrong (said above); 2 wrong usage;
# 3 it can't run here.
set -eu

here=$(cd "$(dirname "$0")/.." && pwd)
list=$here/tests/mends.txt

say() {
    printf 'mends.sh: %s\n' "$*" >&2
}

names() {
    sed -n 's/^mend: //p' "$list"
}

# All values of a field of a mend, one on each line.
field() {
    awk -v name="$1" -v field="$2: " '
        /^mend: / { here = $0 == "mend: " name }
        here && index($0, field) == 1 { print substr($0, length(field) + 1) }' "$list"
}

# The lines of a mend behind its file of this number that begin with this sign, without it.
part() {
    awk -v name="$1" -v number="$2" -v sign="$3" '
        /^mend: / { here = $0 == "mend: " name; file = 0 }
        /^file: / { file++ }
        here && file == number && substr($0, 1, 1) == sign { print substr($0, 2) }' "$list"
}

# Whether a mend is on the list.
is_known() {
    names | grep -qxF -e "$1"
}

chosen=
case ${1-} in
    -h | --help)
        sed -n '2,/^set /s/^# \{0,1\}//p' "$0"
        exit 0
        ;;
    --list)
        [ $# -eq 1 ] || { say 'usage: mends.sh --list'; exit 2; }
        names
        exit 0
        ;;
    --changed)
        [ $# -eq 2 ] || { say 'usage: mends.sh --changed BASE'; exit 2; }
        changed=$(git -C "$here" diff --name-only "$2" -- src) || exit 2
        [ -n "$changed" ] || changed=none
        for name in $(names); do
            if field "$name" file | grep -qxF -e "$changed"; then
                chosen="$chosen $name"
            fi
        done
        [ -n "$chosen" ] || { echo 'no file has changed that a mend is in'; exit 0; }
        ;;
    -*)
        say "there is no option $1; see mends.sh --help"
        exit 2
        ;;
    '')
        chosen=$(names)
        ;;
    *)
        for name in "$@"; do
            is_known "$name" || { say "there is no mend '$name'; see mends.sh --list"; exit 2; }
        done
        chosen=$*
        ;;
esac
for program in cargo git timeout flock; do
    command -v "$program" >/dev/null 2>&1 || { say "$program is not here"; exit 3; }
done

folder=${MENDS_FOLDER:-${CARGO_TARGET_DIR:-$here/target}/mends}
tree=$folder/tree
logs=$folder/logs
mkdir -p "$folder"
exec 9>"$folder/lock"
flock -n 9 || { say "another one runs in $folder"; exit 3; }

rm -rf "$tree" "$logs"
rm -f "$folder"/before-*
mkdir -p "$tree" "$logs"
(
    cd "$here"
    git -c core.quotepath=off ls-files --cached --others --exclude-standard |
        while IFS= read -r file; do
            [ ! -f "$file" ] || printf '%s\n' "$file"
        done | tar -cf - -T -
) | tar -xf - -C "$tree"
# It stays as it is now, whatever is done to it meanwhile.
list=$tree/tests/mends.txt
# What was built before may have been built of another text of the same age.
find "$tree/src" "$tree/tests" -name '*.rs' -exec touch {} +
export CARGO_TARGET_DIR="$folder/target" CARGO_PROFILE_DEV_DEBUG=0

# Runs cargo test in the copy: LOG SECONDS TARGET ENVIRONMENT [ARGUMENT…]. Units are built faster
# without optimisation; the simulator is too slow that way.
run() {
    log=$1 seconds=$2 target=$3 environment=$4
    shift 4
    level=1
    [ "$target" != --lib ] || level=0
    # shellcheck disable=SC2086 # Both are several words.
    (
        cd "$tree"
        exec env $environment CARGO_PROFILE_DEV_OPT_LEVEL="$level" \
            timeout --kill-after=5 "$seconds" cargo test --locked --quiet $target "$@"
    ) >"$log" 2>&1 </dev/null 9>&-
}

environment_of() {
    field "$1" env | tr '\n' ' '
}

# As it is, all has to pass: what fails anyway notices nothing.
for name in $chosen; do
    field "$name" test | while IFS= read -r test; do
        printf '%s|%s|%s\n' "${test% *}" "$(environment_of "$name")" "${test##* }"
    done
done | sort -u >"$folder/wanted"
cut -d '|' -f 1,2 "$folder/wanted" | sort -u >"$folder/groups"
at=0
while IFS='|' read -r target environment; do
    at=$((at + 1))
    log=$logs/as-it-is-$at
    tests=$(awk -F '|' -v target="$target" -v environment="$environment" \
        '$1 == target && $2 == environment { print $3 }' "$folder/wanted")
    count=$(printf '%s\n' "$tests" | wc -l)
    printf 'as it is: %s of %s %s... ' "$count" "$target" "$environment"
    # shellcheck disable=SC2086 # Paths of tests have no blanks.
    if run "$log" 3600 "$target" "$environment" -- --exact $tests &&
        grep -q "^test result: ok\. $((count)) passed" "$log"; then
        echo 'pass'
    else
        echo 'NOT ALL PASS'
        tail -n 40 "$log"
        say "the tests that are named have to pass as it is; the whole output is in $log"
        exit 1
    fi
done <"$folder/groups"

# Takes a mend out of the copy; each old text has to be there exactly once.
take_out() {
    number=0
    field "$1" file >"$folder/files"
    while IFS= read -r file; do
        number=$((number + 1))
        cat "$tree/$file" >"$folder/before-$number"
        OLD=$(part "$1" "$number" -) NEW=$(part "$1" "$number" +) awk '
            { text = text $0 "\n" }
            END {
                old = ENVIRON["OLD"]
                at = index(text, old)
                if (old == "" || !at || index(substr(text, at + 1), old)) { exit 1 }
                printf "%s%s", substr(text, 1, at - 1), ENVIRON["NEW"]
                printf "%s", substr(text, at + length(old))
            }' "$folder/before-$number" >"$folder/text" || return 1
        cat "$folder/text" >"$tree/$file"
    done <"$folder/files"
}

# Brings it in again, the last one first.
bring_in() {
    number=$(wc -l <"$folder/files")
    while [ "$number" -gt 0 ]; do
        if [ -f "$folder/before-$number" ]; then
            cat "$folder/before-$number" >"$tree/$(sed -n "${number}p" "$folder/files")"
            rm "$folder/before-$number"
        fi
        number=$((number - 1))
    done
}

# Whether each test of a mend fails that is taken out; says what is wrong.
is_noticed() {
    name=$1
    take_out "$name" || { echo 'ITS OLD TEXT IS NOT THERE ONCE'; return 1; }
    field "$name" test >"$folder/tests"
    while IFS= read -r test; do
        log=$logs/$name
        target=${test% *} environment=$(environment_of "$name") path=${test##* }
        run "$log" 1800 "$target" '' --no-run ||
            { echo "DOES NOT COMPILE ($log)"; return 1; }
        code=0
        limit=$(field "$name" limit)
        run "$log" "${limit:-120}" "$target" "$environment" -- --exact "$path" || code=$?
        case $code in
            0)
                echo "NOT NOTICED by $path"
                return 1
                ;;
            124 | 137)
                [ "$(field "$name" hang)" = counts ] ||
                    { echo "HANGS: $path ($log)"; return 1; }
                ;;
            *)
                grep -q '^test result: FAILED' "$log" ||
                    { echo "ENDS OTHERWISE: $path, $code ($log)"; return 1; }
                ;;
        esac
    done <"$folder/tests"
}

missed=
count=0
for name in $chosen; do
    count=$((count + 1))
    began=$(date +%s)
    printf '%s: ' "$name"
    if is_noticed "$name"; then
        echo "noticed ($(($(date +%s) - began)) s)"
    else
        missed="$missed $name"
    fi
    bring_in
done
if [ -n "$missed" ]; then
    printf '%s mends, not noticed or not to be tried:%s\n' "$count" "$missed"
    exit 1
fi
printf '%s mends, each was noticed when it was taken out\n' "$count"
