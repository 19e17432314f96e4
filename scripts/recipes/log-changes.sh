#!/bin/sh
# Logs each change of each key of all nodes into an SQLite database, and gives it out as CSV.
#
#   log-changes.sh run DATABASE               logs until SIGTERM or SIGINT
#   log-changes.sh csv DATABASE [FILE]        prints all as CSV (RFC 4180), or replaces FILE in one step
#
# The table changes has id, time (UTC), node, key, form, value. The form says what the value is: text, base64 (bytes
# that are no text), json (a text in quotes, as there is a NUL in it), or gone (the key was removed, and there is none).
# Started again it logs what differs from what it logged last, and nothing twice. Of changes that came close together
# dsn shows the last. What went with the last key of a node, or with a node that was forgotten, is logged two looks
# after the start: by then the node that is asked has the states of the others.
#
# LOG_LOOK is how many seconds lie between two looks [60]. LOG_MB is how many MB of changes are kept [100], about; the oldest go. CSV_SAFE=1 puts a ' before each node, key
# and value that a spreadsheet would take for a formula (= + - @ tab): they come from other hosts.
#
# Needs sqlite3 3.38 or newer (Debian: sqlite3). Exit codes: 0 done, or ended by a signal, 1 it could not be done,
# 2 wrong usage.
set -eu
export LC_ALL=C

case ${1-} in -h | --help)
    sed -n '2,/^set /s/^# \{0,1\}//p' "$0"
    exit 0
    ;;
esac

dsn=${DSN_BIN:-dsn} megabytes=${LOG_MB:-100} pause=${LOG_LOOK:-60}

say() { printf 'log-changes.sh: %s\n' "$*" >&2; }
fail() { say "$1"; exit 1; }
usage() {
    say "$1"
    sed -n 's/^#   //p' "$0" >&2
    exit 2
}

command=${1-} database=${2-} file=${3-}
case $command in
    run) [ $# -eq 2 ] || usage "run wants the name of a database" ;;
    csv) { [ $# -ge 2 ] && [ $# -le 3 ]; } || usage "csv wants the name of a database, and may have that of a file" ;;
    -*) usage "there is no option $command" ;;
    *) usage "run or csv, not '$command'" ;;
esac
# Else sqlite3 takes some names for options, or for a database in memory.
case $database in /*) ;; *) database=./$database ;; esac
case $megabytes in '' | 0* | *[!0-9]* | ???????*) usage "LOG_MB=$megabytes is not a number of MB" ;; esac
case $pause in '' | 0* | *[!0-9]* | ??????*) usage "LOG_LOOK=$pause is not a number of seconds" ;; esac
[ -z "$file" ] || [ ! -e "$file" ] || [ -f "$file" ] || usage "$file is no file, and is not replaced"
command -v sqlite3 >/dev/null || usage "there is no sqlite3: apt-get install sqlite3"

# safe COLUMN: with a ' before what spreadsheets look at
safe() {
    if [ -z "${CSV_SAFE-}" ]; then
        printf '%s' "$1"
    else
        printf '%s' "iif(substr($1, 1, 1) IN ('=', '+', '-', '@', char(9), char(13)), '''' || $1, $1) AS $1"
    fi
}

# To the descriptor 4. sqlite3 does not say that what it prints was not written, as on a full disk: cat does.
csv() {
    columns="id, time, $(safe node), $(safe key), form, $(safe value)"
    whole=$({
        {
            sqlite3 -init /dev/null -readonly -batch -bail -header -csv "$database" "SELECT $columns FROM changes ORDER BY id" &&
                echo whole >&3
        } | cat >&4
    } 3>&1) && [ "$whole" = whole ]
}

if [ "$command" = csv ]; then
    [ -f "$database" ] || fail "there is no database $database"
    if [ -z "$file" ]; then
        exec 4>&1
        csv || fail "not all of $database was printed"
        exit 0
    fi
    new=$file.new.$$
    trap 'rm -f -- "$new"' EXIT
    (umask 077 && : >"$new") || fail "$file was not written: its folder has to be there"
    exec 4>"$new"
    csv || fail "$file was not written"
    mv -- "$new" "$file" || fail "$file was not written"
    exit 0
fi

[ -d "$(dirname "$database")" ] || usage "there is no folder $(dirname "$database"): make it, mode 700"
[ ! -e "$database" ] || [ -f "$database" ] || usage "$database is no file"
command -v "$dsn" >/dev/null || usage "there is no $dsn: install it, or name it with DSN_BIN"
umask 077
# What comes in goes through the view; its trigger is all that is known of events. `latest` is what was logged last
# of each key; seen: 1 it is there, 0 it is not known yet, 2 it was not among what there was, 3 a look found it gone.
# `total` counts the bytes that were ever logged, so the oldest rows beyond the bound are found at once.
sqlite3 -init /dev/null -batch -bail "$database" >/dev/null <<SQL || fail "$database can't be made ready"
.timeout 10000
PRAGMA journal_mode = WAL;
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS changes (id INTEGER PRIMARY KEY AUTOINCREMENT, time TEXT NOT NULL, node TEXT NOT NULL,
    key TEXT NOT NULL, form TEXT NOT NULL, value TEXT, total INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS latest (node TEXT NOT NULL, key TEXT NOT NULL, form TEXT NOT NULL, value TEXT NOT NULL,
    seen INTEGER NOT NULL, PRIMARY KEY (node, key)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS missing ON latest (seen) WHERE seen > 1;
UPDATE latest SET seen = 0;
DROP VIEW IF EXISTS events;
CREATE VIEW events AS SELECT '' AS event, '' AS time, '' AS node, '' AS key, '' AS form, '' AS value;
CREATE TRIGGER on_event INSTEAD OF INSERT ON events BEGIN
    -- What is there begins: what is not among it is gone.
    UPDATE latest SET seen = 0 WHERE new.event = 'snapshot';
    INSERT INTO changes (time, node, key, form, value, total)
        SELECT new.time, new.node, new.key, new.form, new.value, 0 WHERE new.event = 'updated'
        AND NOT EXISTS (SELECT 1 FROM latest
            WHERE node = new.node AND key = new.key AND form = new.form AND value = new.value)
        AND (new.form != 'gone' OR EXISTS (SELECT 1 FROM latest WHERE node = new.node AND key = new.key));
    INSERT OR REPLACE INTO latest SELECT new.node, new.key, new.form, new.value, 1
        WHERE new.event = 'updated' AND new.form != 'gone';
    DELETE FROM latest WHERE new.event = 'updated' AND new.form = 'gone' AND node = new.node AND key = new.key;
    -- All that is there was told. Of a node without a single key nobody can say whether its state has come yet.
    INSERT INTO changes (time, node, key, form, total) SELECT new.time, node, key, 'gone', 0 FROM latest
        WHERE new.event = 'watching' AND seen = 0 AND node IN (SELECT node FROM latest WHERE seen = 1);
    DELETE FROM latest
        WHERE new.event = 'watching' AND seen = 0 AND node IN (SELECT node FROM latest WHERE seen = 1);
    UPDATE latest SET seen = 2 WHERE new.event = 'watching' AND seen = 0;
END;
DROP TRIGGER IF EXISTS on_change;
CREATE TRIGGER on_change AFTER INSERT ON changes BEGIN
    UPDATE changes SET total = 64 + length(CAST(new.node || new.key AS BLOB)) + ifnull(length(CAST(new.value AS BLOB)), 0)
        + ifnull((SELECT total FROM changes WHERE id < new.id ORDER BY id DESC LIMIT 1), 0) WHERE id = new.id;
    DELETE FROM changes WHERE id < (SELECT id FROM changes WHERE total >
        (SELECT total FROM changes WHERE id = new.id) - $megabytes * 1000000 ORDER BY id LIMIT 1);
END;
COMMIT;
SQL

# A line of JSON has no line end and no NUL in it. With each ' doubled it is one text of SQL, whatever is in it.
# Behind a \\ the text u0000 is no NUL. Where events were dropped, as this was too slow, all is read anew: 9 says so.
escape="/^{\"data\":/d; s/^{\"count\":.*/.exit 9/; t
s/'/''/g; s/.*/INSERT INTO events SELECT json_extract(j, '\$.event'), \
json_extract(j, '\$.time'), json_extract(j, '\$.node_id'), json_extract(j, '\$.key'), \
CASE WHEN json_type(j, '\$.value') = 'object' THEN 'base64' WHEN json_type(j, '\$.value') = 'null' THEN 'gone' \
WHEN instr(replace(j -> '\$.value', '\\\\\\\\', ''), '\\\\u0000') THEN 'json' ELSE 'text' END, \
CASE WHEN json_type(j, '\$.value') = 'object' THEN json_extract(j, '\$.value.base64') \
WHEN instr(replace(j -> '\$.value', '\\\\\\\\', ''), '\\\\u0000') THEN j -> '\$.value' ELSE json_extract(j, '\$.value') END FROM (SELECT '&' AS j);/"
statements() {
    # Without a timeout a reader beside it would cost a change. NORMAL: a power cut may cost the last ones of the
    # log, which come again at the next start, and each change costs the card no sync.
    printf '.timeout 60000\nPRAGMA synchronous = NORMAL;\n'
    if printf x | sed -u p >/dev/null 2>&1; then
        sed -u "$escape"
    else
        # That of busybox can't be told to pass each line on at once.
        while IFS= read -r line; do
            printf '%s\n' "$line" | sed "$escape"
        done
    fi
}

sql() { sqlite3 -init /dev/null -batch -bail "$database"; }
# What is missing is gone where the node that is asked holds the state of its owner (which has a timestamp then), or knows
# no such owner. It is logged a look later: what is on its way here meanwhile is seen by then.
look() {
    missing=$(printf '.timeout 10000\nSELECT EXISTS (SELECT 1 FROM latest WHERE seen > 1);\n' | sql) || return
    [ "$missing" = 1 ] || return 0
    # Where the node does not answer, nothing is known.
    peers=$("$dsn" --json peers --all 2>/dev/null | sed "s/'/''/g") || return 0
    [ -n "$peers" ] || return 0
    sql <<SQL
.timeout 10000
BEGIN IMMEDIATE;
INSERT INTO changes (time, node, key, form, total)
    SELECT strftime('%Y-%m-%dT%H:%M:%fZ', 'now'), node, key, 'gone', 0 FROM latest WHERE seen = 3;
DELETE FROM latest WHERE seen = 3;
UPDATE latest SET seen = 3 WHERE seen = 2 AND node NOT IN (SELECT json_extract(value, '\$.node_id')
    FROM json_each('$peers') WHERE json_extract(value, '\$.timestamp') = 0);
COMMIT;
SQL
}
look_again() {
    rest=''
    trap - EXIT
    trap '[ -z "$rest" ] || kill "$rest" 2>/dev/null; exit 0' TERM
    while :; do
        sleep "$pause" &
        rest=$!
        wait "$rest" || :
        look || say "$database was not looked through"
    done
}

folder=$(mktemp -d)
watcher='' looker=''
finish() {
    code=$?
    trap - EXIT
    [ -z "$watcher" ] || kill "$watcher" 2>/dev/null || :
    [ -z "$looker" ] || kill "$looker" 2>/dev/null || :
    # What was read is written before this ends.
    wait
    rm -rf "$folder"
    exit "$code"
}
trap finish EXIT
trap 'exit 0' INT TERM
mkfifo "$folder/events" "$folder/statements"
look_again &
looker=$!
while :; do
    "$dsn" --json watch --initial --reconnect >"$folder/events" &
    watcher=$!
    # No pipe: some shells wait for all of one, and this has to hear of the last part at once.
    statements <"$folder/events" >"$folder/statements" &
    reader=$!
    sqlite3 -init /dev/null -batch -bail "$database" <"$folder/statements" &
    writer=$! code=0
    wait "$writer" || code=$?
    if [ "$code" = 9 ]; then
        say "events came faster than they were written: what is there is read anew"
        kill "$watcher" 2>/dev/null || :
        # Both: who still reads would take what the next one writes.
        wait "$watcher" "$reader" 2>/dev/null || :
        continue
    fi
    [ "$code" = 0 ] || fail "$database was not written"
    # There are no more events: it has come to its end.
    wait "$watcher" || code=$?
    watcher=''
    break
done
[ "$code" = 0 ] || exit "$code"
