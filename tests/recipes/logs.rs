//! Changes in SQLite and CSV; states in files, and back.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use serde_json::{Value as Json, json};

use super::{Running, Shell, beside, have, on_a_full_disk, program, shells};
use crate::faults::tools::around;
use crate::support::process::{Process, Said, run_with};
use crate::support::{Place4Nodes, eventually};

/// Values that break out of a careless statement, line or cell.
const HOSTILE: [&str; 5] = [
    "'); DROP TABLE changes;--",
    "a\"b,c\r\nd\\'",
    "=cmd|' /C calc'!A0",
    "\u{202e}\u{1b}[2J&\\1&",
    ".shell touch pwned\n.quit",
];

fn query(place: &Place4Nodes, sql: &str) -> Json {
    let mut command = Command::new("sqlite3");
    command.current_dir(place.path()).args(["-json", "-readonly", "log.db", sql]);
    let said: Said = command.output().unwrap().into();
    serde_json::from_str(&said.out).unwrap_or_else(|_| json!([]))
}

fn log(place: &Place4Nodes, node: &Process, shell: &Shell) -> Running {
    let mut command = shell.recipe(place, node, "log-changes.sh");
    command.args(["run", "log.db"]);
    Running::start(command)
}

/// All changes of the log, without their times, when there are so many.
fn changes(place: &Place4Nodes, count: usize) -> Vec<Json> {
    let sql = "SELECT node, key, form, value FROM changes ORDER BY id";
    eventually(&format!("{count} changes are logged"), || {
        query(place, sql).as_array().unwrap().len() >= count
    });
    let all = query(place, sql).as_array().unwrap().clone();
    assert_eq!(all.len(), count, "{all:?}");
    all
}

/// The cells of RFC 4180.
fn cells(text: &str) -> Vec<Vec<String>> {
    let (mut rows, mut row, mut cell) = (Vec::new(), Vec::new(), String::new());
    let mut quoted = false;
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '"' if quoted && characters.peek() == Some(&'"') => {
                characters.next();
                cell.push('"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => row.push(std::mem::take(&mut cell)),
            '\r' if !quoted => {}
            '\n' if !quoted => {
                row.push(std::mem::take(&mut cell));
                rows.push(std::mem::take(&mut row));
            }
            other => cell.push(other),
        }
    }
    rows
}

/// The form and the value of the last change.
fn last(place: &Place4Nodes) -> Json {
    query(place, "SELECT form, value FROM changes ORDER BY id DESC LIMIT 1")[0].clone()
}

#[test]
fn changes_are_logged_once_and_without_gaps() {
    if !have(&[("sqlite3", "sqlite3")]) {
        return;
    }
    let place = Place4Nodes::new();
    let kitchen = place.spawn_at("kitchen", "127.0.0.1:0", &[]);
    let garden = beside(&place, &kitchen, "garden");
    let shells = shells(&place);
    garden.told(&["set", "a=1", "b=1"]);
    kitchen.told(&["wait", "key", "garden", "b", "--timeout", "60s"]);
    let running = log(&place, &kitchen, &shells[0]);
    changes(&place, 2);
    for value in HOSTILE {
        garden.told(&["set", &format!("it's=x{value}")]);
        garden.told(&["set", &format!("it's={value}")]);
        kitchen.told(&["wait", "key", "garden", "it's", value, "--timeout", "60s"]);
    }
    let is = |form: &str, value: Json| {
        eventually(&format!("{value} is logged"), || {
            last(&place) == json!({"form": form, "value": value})
        });
    };
    is("text", HOSTILE[4].into());
    for (bytes, form, value) in [
        (&b"a\0b"[..], "json", json!("\"a\\u0000b\"")),
        // No NUL, but what one looks like in JSON.
        (b"\\u0000", "text", json!(r"\u0000")),
        (b"\\\0", "json", json!(r#""\\\u0000""#)),
        (b"\xff\0", "base64", json!("/wA=")),
        (&[b'\''; 65_536], "text", json!("'".repeat(65_536))),
        (b"", "text", json!("")),
    ] {
        assert_eq!(run_with(&mut garden.command(&["set", "it's", "-"]), bytes).code, 0);
        is(form, value);
    }
    garden.told(&["unset", "it's"]);
    is("gone", Json::Null);
    assert_eq!(running.stop(), Some(0));

    logs_what_changed_meanwhile(&place, &kitchen, &garden, &shells);
    assert!(!place.path().join("pwned").exists());
    let mode = std::fs::metadata(place.path().join("log.db")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    gives_all_as_csv(&place, &kitchen);
}

/// One key changed, one went, and two came. With every start all that is there comes again, and is
/// found to be logged already.
fn logs_what_changed_meanwhile(
    place: &Place4Nodes,
    kitchen: &Process,
    garden: &Process,
    shells: &[Shell],
) {
    let before = query(place, "SELECT max(id) AS id FROM changes")[0]["id"].as_u64().unwrap();
    garden.told(&["set", "a=2", "c=3"]);
    garden.told(&["unset", "b"]);
    garden.told(&["set", "d=1"]);
    kitchen.told(&["wait", "key", "garden", "d", "--timeout", "60s"]);
    for shell in shells.iter().chain(shells) {
        let running = log(place, kitchen, shell);
        let sql = format!("SELECT key, form, value FROM changes WHERE id > {before} ORDER BY key");
        let expected = json!([
            {"key": "a", "form": "text", "value": "2"}, {"key": "b", "form": "gone", "value": null},
            {"key": "c", "form": "text", "value": "3"}, {"key": "d", "form": "text", "value": "1"},
        ]);
        eventually("what changed meanwhile is logged", || query(place, &sql) == expected);
        kitchen.told(&["set", "mark=1"]);
        eventually("it has read all", || {
            let sql = "SELECT value FROM changes WHERE key = 'mark' AND form = 'text'";
            query(place, sql) != json!([])
        });
        assert_eq!(query(place, &sql.replace("ORDER", "AND node = 'garden' ORDER")), expected);
        kitchen.told(&["unset", "mark"]);
        eventually("the mark is gone", || last(place)["form"] == "gone");
        assert_eq!(running.stop(), Some(0));
        let mut command = Command::new("sqlite3");
        command
            .current_dir(place.path())
            .args(["log.db", "DELETE FROM changes WHERE key = 'mark'"]);
        assert!(command.status().unwrap().success());
    }
}

/// Each value comes out as it went in.
fn gives_all_as_csv(place: &Place4Nodes, kitchen: &Process) {
    let csv = |safe: &str| -> Vec<Vec<String>> {
        let mut command = Shell::Default.recipe(place, kitchen, "log-changes.sh");
        command.env("CSV_SAFE", safe).args(["csv", "log.db"]);
        let said: Said = command.output().unwrap().into();
        assert_eq!((said.code, said.err.as_str()), (0, ""));
        cells(&said.out)
    };
    let rows = csv("");
    assert_eq!(rows[0], ["id", "time", "node", "key", "form", "value"]);
    let has = |rows: &[Vec<String>], value: &str| rows.iter().any(|row| row[5] == value);
    for value in HOSTILE {
        assert!(has(&rows, value), "{value:?} is not there");
    }
    assert!(has(&csv("1"), "'=cmd|' /C calc'!A0") && !has(&csv("1"), HOSTILE[2]));
    // On a full disk the old one stays.
    for shell in shells(place) {
        let mut command = shell.recipe(place, kitchen, "log-changes.sh");
        command.args(["csv", "log.db", "full/old"]);
        if let Some((said, left)) = on_a_full_disk(place, &command) {
            assert_eq!((said.code, left.as_str()), (1, "old\n"), "{}", said.err);
            assert!(said.err.contains("full/old was not written"), "{}", said.err);
        }
        let recipe = shell.recipe(place, kitchen, "log-changes.sh");
        let mut outer = Command::new("sh");
        outer.args(["-c", "exec \"$@\" >full/printed", "sh"]);
        let mut command = around(outer, &recipe);
        command.args(["csv", "log.db"]);
        if let Some((said, _)) = on_a_full_disk(place, &command) {
            assert_eq!(said.code, 1, "{}", said.err);
            assert!(said.err.contains("not all of ./log.db was printed"), "{}", said.err);
        }
    }
    let said = Shell::Default.say(place, kitchen, "log-changes.sh", &["csv", "log.db", "-log.csv"]);
    assert_eq!(said.code, 0, "{}", said.err);
    let file = std::fs::read_to_string(place.path().join("-log.csv")).unwrap();
    assert_eq!(cells(&file), rows);
    let sql = "INSERT INTO changes (time, node, key, form, value, total) \
               VALUES ('', '-2+3', '@SUM(1+1)', 'text', '1', 0)";
    let mut command = Command::new("sqlite3");
    assert!(command.current_dir(place.path()).args(["log.db", sql]).status().unwrap().success());
    assert_eq!(csv("1").last().unwrap()[2..], ["'-2+3", "'@SUM(1+1)", "text", "1"]);
}

/// Of a node that has no key any more, or is known no more, nothing comes at the start; of one
/// whose state is not here nobody can say.
#[test]
fn what_went_with_a_node_while_the_log_was_off_is_logged() {
    if !have(&[("sqlite3", "sqlite3")]) {
        return;
    }
    let place = Place4Nodes::new();
    let kitchen = place.spawn_at("kitchen", "127.0.0.1:0", &[]);
    let log = |shell: &Shell| {
        let mut command = shell.recipe(&place, &kitchen, "log-changes.sh");
        command.env("LOG_LOOK", "1").args(["run", "log.db"]);
        Running::start(command)
    };
    for shell in shells(&place) {
        let others = ["attic", "garden", "shed"].map(|name| beside(&place, &kitchen, name));
        let [attic, garden, shed] = &others;
        kitchen.told(&["set", "own=1"]);
        for node in &others {
            node.told(&["set", "it's=1"]);
        }
        garden.told(&["set", "stays=1"]);
        for (name, key) in [("attic", "it's"), ("garden", "stays"), ("shed", "it's")] {
            kitchen.told(&["wait", "key", name, key, "--timeout", "60s"]);
        }
        let running = log(&shell);
        changes(&place, 5);
        assert_eq!(running.stop(), Some(0));

        attic.told(&["unset", "it's"]);
        garden.told(&["unset", "it's"]);
        kitchen.told(&["unset", "own"]);
        kitchen.told(&["wait", "key", "attic", "it's", "--gone", "--timeout", "60s"]);
        kitchen.told(&["wait", "key", "garden", "it's", "--gone", "--timeout", "60s"]);
        shed.told(&["stop"]);
        kitchen.told(&["wait", "node", "shed", "lost", "--timeout", "60s"]);
        kitchen.told(&["forget", "shed"]);
        // Nobody knows yet what it has.
        let mut sqlite = Command::new("sqlite3");
        let sql = "INSERT INTO latest VALUES ('unmet', 'k', 'text', '1', 1)";
        assert!(sqlite.current_dir(place.path()).args(["log.db", sql]).status().unwrap().success());
        let dsn = place.path().join("knows-unmet");
        let script = format!(
            "#!/bin/sh\ncase $* in *peers*) ;; *) exec {0} \"$@\" ;; esac\n\
             {0} \"$@\" | sed 's/]$/,{1}]/'\n",
            crate::support::process::binary().display(),
            json!({"node_id": "unmet", "timestamp": 0})
        );
        program(&dsn, &script);
        let mut command = shell.recipe(&place, &kitchen, "log-changes.sh");
        command.env("LOG_LOOK", "1").env("DSN_BIN", &dsn).args(["run", "log.db"]);
        let running = Running::start(command);
        let gone = "SELECT node, key FROM changes WHERE form = 'gone' ORDER BY node, key";
        let expected = json!([
            {"node": "attic", "key": "it's"}, {"node": "garden", "key": "it's"},
            {"node": "kitchen", "key": "own"}, {"node": "shed", "key": "it's"},
        ]);
        eventually("what went is logged", || query(&place, gone) == expected);
        let left = "SELECT node, key FROM latest ORDER BY node";
        let expected = json!([{"node": "garden", "key": "stays"}, {"node": "unmet", "key": "k"}]);
        assert_eq!(query(&place, left), expected);
        assert_eq!(running.stop(), Some(0));
        let times = query(&place, "SELECT DISTINCT length(time) AS length FROM changes");
        assert_eq!(times, json!([{"length": 24}]));

        // All of it is new to the next shell.
        std::fs::remove_file(place.path().join("log.db")).unwrap();
        drop(others);
        kitchen.told(&["forget", "attic", "garden"]);
    }
}

/// Of events that were dropped nobody knows what they said: all is read anew.
#[test]
fn a_log_that_was_too_slow_catches_up() {
    if !have(&[("sqlite3", "sqlite3")]) {
        return;
    }
    let place = Place4Nodes::new();
    let kitchen = place.spawn_at("kitchen", "127.0.0.1:0", &[]);
    kitchen.told(&["set", "k=1"]);
    let dsn = place.path().join("lags");
    let script = format!(
        "#!/bin/sh\n[ -e lagged ] && exec {} \"$@\"\ntouch lagged\necho '{}'\nexec sleep 600\n",
        crate::support::process::binary().display(),
        json!({"count": 5, "event": "lagged", "time": "2026-01-31T23:59:59.999Z"})
    );
    for shell in shells(&place) {
        std::fs::write(&dsn, &script).unwrap();
        std::fs::set_permissions(&dsn, std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut command = shell.recipe(&place, &kitchen, "log-changes.sh");
        command.env("DSN_BIN", &dsn).args(["run", "log.db"]);
        let running = Running::start(command);
        let expected = [json!({"node": "kitchen", "key": "k", "form": "text", "value": "1"})];
        assert_eq!(changes(&place, 1), expected);
        assert_eq!(running.stop(), Some(0));
        for name in ["lagged", "log.db"] {
            std::fs::remove_file(place.path().join(name)).unwrap();
        }
    }
}

#[test]
fn a_log_has_a_bound() {
    if !have(&[("sqlite3", "sqlite3")]) {
        return;
    }
    let place = Place4Nodes::new();
    let kitchen = place.spawn_at("kitchen", "127.0.0.1:0", &[]);
    let mut command = Shell::Default.recipe(&place, &kitchen, "log-changes.sh");
    command.args(["run", "log.db"]).env("LOG_MB", "1");
    let _running = Running::start(command);
    eventually("it is ready", || place.path().join("log.db").exists());
    for number in 0..40 {
        let value = format!("{number} ").repeat(20_000);
        assert_eq!(run_with(&mut kitchen.command(&["set", "k", "-"]), value.as_bytes()).code, 0);
        let sql = "SELECT substr(value, 1, 3) AS value FROM changes ORDER BY id DESC LIMIT 1";
        let begins = &value[..3];
        eventually("it is logged", || query(&place, sql)[0]["value"] == begins);
    }
    let sum = query(&place, "SELECT sum(length(value)) AS sum, count(*) AS count FROM changes");
    let (sum, count) = (sum[0]["sum"].as_u64().unwrap(), sum[0]["count"].as_u64().unwrap());
    // The oldest one that is kept may go beyond it.
    assert!((900_000..1_100_000).contains(&sum) && count < 30, "{sum} bytes, {count} rows");
    let size = std::fs::metadata(place.path().join("log.db")).unwrap().len();
    assert!(size < 3_000_000, "{size} bytes");
}

#[test]
fn states_are_saved_and_come_back() {
    if !have(&[("jq", "jq")]) {
        return;
    }
    let place = Place4Nodes::new();
    let kitchen = place.spawn_at("kitchen", "127.0.0.1:0", &[]);
    let garden = beside(&place, &kitchen, "garden");
    let value = "$(touch pwned)\n'\"\0\u{202e}";
    let entries = json!({"door": value, "it's \"so\"": "", "raw": {"base64": "/wD+"}});
    let set = ["set", "--from", "-"];
    let said = run_with(&mut kitchen.command(&set), entries.to_string().as_bytes());
    assert_eq!(said.code, 0, "{}", said.err);
    kitchen.told(&["set", "--ttl", "1h", "reading=1"]);
    garden.told(&["set", "door=open"]);
    kitchen.told(&["wait", "key", "garden", "door", "--timeout", "60s"]);
    std::fs::create_dir(place.path().join("backups")).unwrap();
    for shell in shells(&place) {
        let say = |arguments: &[&str]| shell.say(&place, &kitchen, "backup.sh", arguments);
        let said = say(&["save", "backups"]);
        assert_eq!((said.code, said.err.as_str()), (0, ""));
        let file = said.out.trim_end().to_owned();
        let path = place.path().join(&file);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let listed = say(&["list", &file]).out;
        let cells = |line: &str| line.split('\t').map(str::to_owned).collect::<Vec<_>>();
        let listed: Vec<Vec<String>> = listed.lines().map(cells).collect();
        let counts: Vec<(&str, &str)> = listed.iter().map(|it| (&*it[0], &*it[2])).collect();
        assert_eq!(counts, [("kitchen", "4"), ("garden", "1")]);

        kitchen.told(&["set", "door=another", "new=1"]);
        kitchen.told(&["unset", "raw", "it's \"so\"", "reading"]);
        assert_eq!(say(&["restore", &file, "kitchen", "do"]).code, 0);
        assert_eq!(kitchen.json(&["get", "self", "door"])["value"], value);
        assert_eq!(kitchen.ask(&["get", "self", "raw"]).code, 1, "it does not begin with do");
        let said = say(&["restore", &file]);
        assert_eq!(said.code, 0, "{}", said.err);
        let why = "3 keys of kitchen were set in kitchen; 1 that would have expired were left out";
        assert!(said.err.contains(why), "{}", said.err);
        let said = say(&["restore", &file, "kitchen", "reading"]);
        assert_eq!(said.code, 1);
        assert!(said.err.contains("all 1 keys would have expired"), "{}", said.err);
        let mut expected = entries.clone();
        expected["new"] = "1".into();
        // The reading would stand for good, so it stays away.
        assert_eq!(kitchen.json(&["state", "self"])["entries"], expected);
        assert_eq!(say(&["restore", &file, "shed"]).code, 1);
        kitchen.told(&["unset", "new"]);
        kitchen.told(&["set", "--ttl", "1h", "reading=1"]);
        std::fs::remove_file(path).unwrap();
    }

    // Of all files so many are kept; those of others, and what looks alike, are not touched.
    let backups = place.path().join("backups");
    let older = ["20200101T000000Z", "20210101T000000Z", "20220101T000000Z"];
    let others = ["dsn-kitchen-2-20200101T000000Z.json", "dsn-kitchen-notes.json"];
    let own = older.map(|date| format!("dsn-kitchen-{date}.json"));
    for name in own.iter().map(String::as_str).chain(others) {
        std::fs::write(backups.join(name), "[]").unwrap();
    }
    let mut command = Shell::Default.recipe(&place, &kitchen, "backup.sh");
    command.env("BACKUP_KEEP", "2").args(["save", "backups"]);
    let said: Said = command.output().unwrap().into();
    let newest = said.out.trim_end().rsplit('/').next().unwrap().to_owned();
    let names = || {
        let entries = std::fs::read_dir(&backups).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    let mut expected = vec![own[2].clone(), newest, others[0].into(), others[1].into()];
    expected.sort();
    assert_eq!(names(), expected);

    keeps_what_it_has(&place, &kitchen, &names);

    assert!(!place.path().join("pwned").exists());
}

/// Nothing goes where nothing was saved; and a clock that is wrong costs no backup.
fn keeps_what_it_has(place: &Place4Nodes, kitchen: &Process, names: &dyn Fn() -> Vec<String>) {
    let backups = place.path().join("backups");
    let save = |keep: &str, path: &str| -> Said {
        let mut command = Shell::Default.recipe(place, kitchen, "backup.sh");
        command.env("BACKUP_KEEP", keep).env("PATH", path).args(["save", "backups"]);
        command.output().unwrap().into()
    };
    let path = std::env::var("PATH").unwrap();
    let before = names();
    for tool in ["mv", "sync"] {
        let tools = place.path().join(format!("no-{tool}"));
        std::fs::create_dir(&tools).unwrap();
        program(&tools.join(tool), "#!/bin/sh\nexit 1\n");
        let said = save("1", &format!("{}:{path}", tools.display()));
        assert_eq!((said.code, said.out.as_str()), (1, ""), "{tool}: {}", said.err);
        assert!(said.err.contains("nothing was saved"), "{tool}: {}", said.err);
        assert_eq!(names(), before, "{tool}");
    }
    let left = backups.join(".dsn-kitchen.1.new");
    let young = backups.join(".dsn-kitchen.2.new");
    std::fs::write(&young, "").unwrap();
    let day = std::time::Duration::from_secs(50 * 3600);
    let old = std::fs::File::create(&left).unwrap();
    old.set_modified(std::time::SystemTime::now() - day).unwrap();
    std::fs::write(backups.join("dsn-kitchen-20990101T000000Z.json"), "[]").unwrap();
    for (keep, is_kept) in [("2", true), ("1", false)] {
        let said = save(keep, &path);
        assert_eq!(said.code, 0, "{}", said.err);
        assert!(said.err.contains("is the clock right?"), "{}", said.err);
        assert!(place.path().join(said.out.trim_end()).exists(), "the new one is gone");
        let is_there = names().iter().any(|name| name == "dsn-kitchen-20990101T000000Z.json");
        assert_eq!(is_there, is_kept);
    }
    assert!(!left.exists() && young.exists());

    // Without a node nothing is made, and nothing goes.
    let before = names();
    let mut command = Shell::Default.recipe(place, kitchen, "backup.sh");
    command.env("DSN_CONTROL", "nowhere.sock").args(["save", "backups"]);
    assert_eq!(Said::from(command.output().unwrap()).code, 3);
    assert_eq!(names(), before);
}
