//! Answers for people. What comes from other nodes is escaped: a terminal acts on control
//! characters, and others are not seen or turn the line around (Unicode TR 36, Trojan Source).

use std::fmt::Write;

use dsn::control::bytes_from_json;
use serde_json::Value as Json;

/// A field that is a text; empty where it is none.
pub(super) fn text<'a>(json: &'a Json, name: &str) -> &'a str {
    json.get(name).and_then(Json::as_str).unwrap_or_default()
}

/// A field that is a number; 0 where it is none.
pub(super) fn number(json: &Json, name: &str) -> u64 {
    json.get(name).and_then(Json::as_u64).unwrap_or_default()
}

/// A field that is a text, for people; a dash where it is none.
pub(super) fn text_or_dash<'a>(json: &'a Json, name: &str) -> &'a str {
    json.get(name).and_then(Json::as_str).unwrap_or("-")
}

/// How long ago a peer was heard.
pub(super) fn heard(peer: &Json) -> String {
    let ms = peer.get("heard_ms_ago").and_then(Json::as_u64);
    ms.map_or_else(|| "never".to_owned(), ago)
}

/// The elements of a list; none where it is no list.
pub(super) fn list(json: &Json) -> &[Json] {
    json.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// A text or bytes on one line, without anything that a terminal would act on.
pub(super) fn escaped(json: &Json) -> String {
    let bytes = bytes_from_json(json).unwrap_or_default();
    match str::from_utf8(&bytes) {
        Ok(text) => escape(text),
        Err(_) => format!("({} bytes)", bytes.len()),
    }
}

/// A text on one line, with nothing in it that does more than show itself.
pub(super) fn escape(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut line, character| {
        if is_seen(character) && character != '\\' {
            line.push(character);
        } else {
            line.extend(character.escape_default());
        }
        line
    })
}

/// What is said to people: our own words, with those of others in them. A second line is set apart,
/// so that none of these begins like one of ours.
pub(super) fn message(text: &str) -> String {
    let line = |line: &str| line.split('\\').map(escape).collect::<Vec<_>>().join("\\");
    text.lines().map(line).collect::<Vec<_>>().join("\n  ")
}

/// Whether a character shows itself, and does nothing else.
fn is_seen(character: char) -> bool {
    // What Rust leaves as it is in a text is what can be printed; accents only behind another one.
    let is_left = || String::from_iter(['.', character]).escape_debug().count() == 2;
    character.is_ascii_graphic() || character == ' ' || is_left()
}

/// What was set or sent, for a terminal: a text as it is, with its lines, but for what would do
/// more than show itself; of other bytes their number.
pub(super) fn for_a_terminal(bytes: &[u8]) -> String {
    match str::from_utf8(bytes) {
        Ok(text) => text
            .split_inclusive(['\n', '\t'])
            .flat_map(|part| {
                let end = part.len() - usize::from(part.ends_with(['\n', '\t']));
                [escape(&part[..end]), part[end..].to_owned()]
            })
            .collect(),
        Err(_) => format!("({} bytes; --raw prints them)", bytes.len()),
    }
}

/// JSON on one line: characters that do not show themselves as their escapes, so that it may go to
/// a terminal, too.
pub(super) fn json(json: &Json) -> String {
    let text = json.to_string();
    text.chars().fold(String::with_capacity(text.len()), |mut line, character| {
        if is_seen(character) {
            line.push(character);
        } else {
            for unit in character.encode_utf16(&mut [0; 2]) {
                let _ = write!(line, "\\u{unit:04x}");
            }
        }
        line
    })
}

pub(super) fn status(status: &Json) -> String {
    let peers = status.get("peers").unwrap_or(&Json::Null);
    let mut out = String::new();
    let mut line = |name: &str, value: &str| {
        // Writing to a String can't fail, here and below.
        let _ = writeln!(out, "{name:<13}{value}");
    };
    line("node", text(status, "node_id"));
    line("listen", text(status, "listen"));
    if let Some(http) = status.get("http").and_then(Json::as_str) {
        line("page", &format!("http://{http}/"));
    }
    line("advertise", text_or_dash(status, "advertise"));
    line(
        "version",
        &format!("{} (protocol {})", text(status, "version"), number(status, "protocol")),
    );
    line("uptime", &format!("{} s", number(status, "uptime_s")));
    line(
        "peers",
        &format!(
            "{} alive, {} suspect, {} lost, {} left",
            number(peers, "alive"),
            number(peers, "suspect"),
            number(peers, "lost"),
            number(peers, "left")
        ),
    );
    line("keys", &number(status, "keys").to_string());
    line("timestamp", &number(status, "timestamp").to_string());
    line("public key", text(status, "public_key"));
    line("fingerprint", text(status, "fingerprint"));
    line("network key", text(status, "network_key"));
    for (at, what) in discovery(status.get("discovery").unwrap_or(&Json::Null)).iter().enumerate() {
        line(if at == 0 { "discovery" } else { "" }, what);
    }
    let degraded = list(status.get("degraded").unwrap_or(&Json::Null));
    if degraded.is_empty() {
        line("degraded", "no");
    }
    for fault in degraded {
        line("degraded", &format!("{}: {}", fault_name(fault), escape(text(fault, "text"))));
        line("", &escape(text(fault, "hint")));
    }
    for notice in list(status.get("notices").unwrap_or(&Json::Null)) {
        let (name, what) = (fault_name(notice), escape(text(notice, "text")));
        line("noticed", &format!("{name}, {}: {what}", ago(number(notice, "ago_ms"))));
        line("", &escape(text(notice, "hint")));
    }
    out
}

/// What finding others on the local network does: a line for each interface, and what came of it.
/// Of what is limited or strange only what there was is named.
fn discovery(discovery: &Json) -> Vec<String> {
    if discovery.is_null() {
        return vec!["off".into()];
    }
    let counted = |json: &Json, names: &[(&str, &str)]| -> String {
        let some = names.iter().map(|(name, what)| (number(json, name), what));
        some.filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!("; {what}: {count}"))
            .collect()
    };
    let interface = |it: &Json| {
        let heard = it.get("member_ms_ago").and_then(Json::as_u64);
        let heard = heard.map_or("no member heard so far".to_owned(), |ms| {
            format!("a member heard {}", ago(ms))
        });
        let odd = counted(
            it,
            &[
                ("strangers", "announced with another network key"),
                ("passed_over", "members passed over"),
                ("dropped", "messages dropped"),
                ("full_seconds", "seconds not read to the end"),
            ],
        );
        format!("{} {}: {heard}{odd}", escape(text(it, "name")), text(it, "address"))
    };
    let interfaces = list(discovery.get("interfaces").unwrap_or(&Json::Null));
    let mut lines: Vec<String> = interfaces.iter().map(interface).collect();
    if lines.is_empty() {
        lines.push("on, and no interface to look on".into());
    }
    let rest = counted(
        discovery,
        &[
            ("waiting", "waiting to be called"),
            ("refused", "not let in"),
            ("nobody", "nobody there"),
            ("dropped", "addresses dropped"),
        ],
    );
    lines.push(format!("new nodes called: {}{rest}", number(discovery, "met")));
    lines
}

/// `clone (garden)`
pub(super) fn fault_name(fault: &Json) -> String {
    match fault.get("node").and_then(Json::as_str) {
        Some(node) => format!("{} ({})", text(fault, "code"), escape(node)),
        None => text(fault, "code").to_owned(),
    }
}

pub(super) fn ago(ms: u64) -> String {
    match ms {
        0..100_000 => format!("{}.{} s ago", ms / 1000, ms % 1000 / 100),
        100_000..6_000_000 => format!("{} min ago", ms / 60_000),
        6_000_000..172_800_000 => format!("{} h ago", ms / 3_600_000),
        _ => format!("{} days ago", ms / 86_400_000),
    }
}

pub(super) fn keys(result: &Json) -> String {
    let names = list(result.get("keys").unwrap_or(&Json::Null)).iter().filter_map(Json::as_str);
    let rows = names.enumerate().map(|(at, name)| {
        vec![name.to_owned(), if at == 0 { "seals" } else { "opens" }.to_owned()]
    });
    table(&rows.collect::<Vec<_>>())
}

/// A line for each peer, under names of the columns for whoever reads it on a terminal. The network
/// key is shown where there is more than one, as while it is changed.
pub(super) fn peers(peers: &Json, with_header: bool) -> String {
    let peers = list(peers);
    let keys: Vec<&str> =
        peers.iter().map(|peer| text(peer, "network_key")).filter(|key| !key.is_empty()).collect();
    let shows_keys = keys.iter().any(|key| Some(key) != keys.first());
    let header = ["NODE", "ADDRESS", "STATUS", "HEARD", "KEYS"].map(str::to_owned);
    let mut rows: Vec<Vec<String>> = vec![header.to_vec()];
    if let (Some(row), true) = (rows.first_mut(), shows_keys) {
        row.push("NETWORK KEY".into());
    }
    if let Some(row) = rows.first_mut() {
        row.push("WHY".into());
    }
    for peer in peers {
        let mut row = vec![
            text(peer, "node_id").to_owned(),
            text_or_dash(peer, "address").to_owned(),
            text(peer, "status").to_owned(),
            heard(peer),
            number(peer, "keys").to_string(),
        ];
        if shows_keys {
            let key = text(peer, "network_key");
            row.push(if key.is_empty() { "-" } else { key }.to_owned());
        }
        row.push(escape(text(peer, "reason")));
        rows.push(row);
    }
    if !with_header {
        rows.remove(0);
    }
    table(&rows)
}

/// Their ids, a line each.
pub(super) fn ids(peers: &Json) -> String {
    list(peers).iter().map(|peer| format!("{}\n", text(peer, "node_id"))).collect()
}

/// Columns as wide as what is in them.
fn table(rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max()
    };
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let _ = write!(line, "{cell:<width$}  ", width = width(column).unwrap_or(0));
        }
        let _ = writeln!(out, "{}", line.trim_end());
    }
    out
}

/// One node: its keys. All nodes: whose each key is, too. `shows_left`: how long those stand that
/// expire.
pub(super) fn states(states: &Json, shows_left: bool) -> String {
    let entries = |state: &Json, node: Option<&str>| {
        let expires = state.get("expires_ms").filter(|_| shows_left);
        let left = |key: &str| expires.and_then(|all| all.get(key)).and_then(Json::as_u64);
        let left = |key: &str| left(key).map(|ms| format!("  ({})", left_text(ms)));
        let entries = state.get("entries").and_then(Json::as_object);
        let mut out = String::new();
        for (key, value) in entries.into_iter().flatten() {
            let left = left(key).unwrap_or_default();
            let (key, value) = (escape(key), escaped(value));
            let _ = match node {
                Some(node) => writeln!(out, "{node}  {key}={value}{left}"),
                None => writeln!(out, "{key}={value}{left}"),
            };
        }
        out
    };
    match states {
        Json::Array(states) => {
            let width = states.iter().map(|state| text(state, "node_id").len()).max().unwrap_or(0);
            let block = |state: &Json| {
                let name =
                    format!("{:<width$}  {:<7}", text(state, "node_id"), text(state, "status"));
                entries(state, Some(&name))
            };
            states.iter().map(block).collect()
        }
        one => entries(one, None),
    }
}

/// `29.4 s left`
fn left_text(ms: u64) -> String {
    ago(ms).replace(" ago", " left")
}

/// A key of several nodes: whose, how that one is doing, and the value; with tabs between, or in
/// columns.
pub(super) fn values(values: &Json, in_columns: bool) -> String {
    let rows: Vec<Vec<String>> = list(values)
        .iter()
        .map(|it| {
            let value = escaped(it.get("value").unwrap_or(&Json::Null));
            vec![text(it, "node_id").to_owned(), text(it, "status").to_owned(), value]
        })
        .collect();
    if in_columns {
        return table(&rows);
    }
    rows.iter().map(|row| row.join("\t") + "\n").collect()
}

/// The ids of those that were forgotten, a line each.
pub(super) fn forgotten(result: &Json) -> String {
    let ids = result.get("forgotten").and_then(Json::as_array).into_iter().flatten();
    ids.filter_map(Json::as_str).map(|id| format!("{id}\n")).collect()
}

pub(super) fn ping(node: &str, result: &Json) -> String {
    let ms = result.get("ms").and_then(Json::as_f64).unwrap_or_default();
    format!("{node} answered in {ms:.1} ms\n")
}

/// When, what, whose, and what of it.
pub(super) fn event(event: &Json) -> String {
    let (name, node) = (text(event, "event"), text(event, "node_id"));
    let what = match name {
        "updated" => {
            let key = escape(text(event, "key"));
            match event.get("value") {
                None | Some(Json::Null) => format!("{name} {node} {key} (removed)"),
                Some(value) => format!("{name} {node} {key}={}", escaped(value)),
            }
        }
        "data" => format!("{name} {node} {}", escaped(event.get("data").unwrap_or(&Json::Null))),
        "lagged" => format!("{name} {} events were missed", number(event, "count")),
        _ if node.is_empty() => name.to_owned(),
        _ => format!("{name} {node}"),
    };
    format!("{} {what}", text(event, "time"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn nothing_that_a_terminal_acts_on_is_printed() {
        let evil = json!([{
            "node_id": "a", "status": "alive", "entries": { "k": "\u{1b}[2Jx\n\u{9b}" }
        }]);
        assert_eq!(states(&evil, true), "a  alive    k=\\u{1b}[2Jx\\n\\u{9b}\n");
        let bytes = json!({ "entries": { "k": { "base64": "/w==" } } });
        assert_eq!(states(&bytes, true), "k=(1 bytes)\n");
        let expires = json!({ "entries": { "k": "v", "l": "w" }, "expires_ms": { "l": 29_400 } });
        assert_eq!(states(&expires, true), "k=v\nl=w  (29.4 s left)\n");
        assert_eq!(states(&expires, false), "k=v\nl=w\n");
    }

    #[test]
    fn what_turns_a_line_around_or_is_not_seen_is_escaped() {
        let evil = "a\u{202e}b\u{200b}c\u{2066}d\u{feff}e\u{2028}f\u{e0041}g\u{ad}";
        let shown = "a\\u{202e}b\\u{200b}c\\u{2066}d\\u{feff}e\\u{2028}f\\u{e0041}g\\u{ad}";
        assert_eq!(escape(evil), shown);
        let plain = "e\u{301}é ü 漢字 नमस्ते 🙂 \"' ~";
        assert_eq!(escape(plain), plain);
        assert_eq!(escape("\\u{1b}"), "\\\\u{1b}", "what was escaped is told from what looks so");
        assert_eq!(message("a \"\\n\"\u{1b}"), "a \"\\n\"\\u{1b}");
        assert_eq!(message("one\ndsn: two"), "one\n  dsn: two");
        assert_eq!(for_a_terminal(b"one\n\ttwo\x1b[2J\n"), "one\n\ttwo\\u{1b}[2J\n");
        assert_eq!(for_a_terminal(b"\xff\x1b"), "(2 bytes; --raw prints them)");
    }

    #[test]
    fn json_stays_the_same_json() {
        let evil = json!({ "k": "a\u{202e}\u{9b}\u{e0041}\u{7f}\"\\é🙂", "n": [1, null] });
        let line = super::json(&evil);
        assert!(line.contains("a\\u202e\\u009b\\udb40\\udc41\\u007f\\\"\\\\é🙂"), "{line}");
        assert_eq!(serde_json::from_str::<Json>(&line).unwrap(), evil);
    }

    #[test]
    fn peers_are_a_table_with_the_reason_and_the_network_key_where_there_are_two() {
        let mut all = json!([
            { "node_id": "a", "address": "1.2.3.4:1", "status": "alive", "heard_ms_ago": 1_234, "keys": 2,
              "network_key": "aaaa", "reason": null },
            { "node_id": "bb", "address": null, "status": "suspect", "heard_ms_ago": null, "keys": 0,
              "network_key": null, "reason": "no\u{1b} answer" },
        ]);
        let table = "a   1.2.3.4:1  alive    1.2 s ago  2\nbb  -          suspect  never      0  no\\u{1b} answer\n";
        assert_eq!(peers(&all, false), table);
        assert!(
            peers(&all, true).starts_with("NODE  ADDRESS    STATUS   HEARD      KEYS  WHY\na ")
        );
        assert_eq!(ids(&all), "a\nbb\n");
        all[1]["network_key"] = json!("bbbb");
        assert!(peers(&all, true).contains("NETWORK KEY") && peers(&all, true).contains("bbbb"));
        assert_eq!(peers(&json!([]), false), "");
    }

    #[test]
    fn discovery_is_off_or_tells_what_it_does() {
        assert_eq!(discovery(&Json::Null), ["off"]);
        let none = json!({ "interfaces": [], "met": 0 });
        assert_eq!(discovery(&none), ["on, and no interface to look on", "new nodes called: 0"]);
        let some = json!({
            "interfaces": [
                { "name": "eth0", "address": "10.0.0.1", "member_ms_ago": 4_200, "members": 9, "dropped": 3 },
                { "name": "w\u{1b}0", "address": "fe80::1", "member_ms_ago": null, "strangers": 2 },
            ],
            "met": 2, "waiting": 1, "nobody": 0,
        });
        let lines = [
            "eth0 10.0.0.1: a member heard 4.2 s ago; messages dropped: 3",
            "w\\u{1b}0 fe80::1: no member heard so far; announced with another network key: 2",
            "new nodes called: 2; waiting to be called: 1",
        ];
        assert_eq!(discovery(&some), lines);
        assert!(
            status(&json!({ "discovery": some })).contains("\n             new nodes called: 2")
        );
    }

    #[test]
    fn what_is_wrong_comes_with_what_to_do() {
        let fault =
            json!({ "code": "clone", "node": "a", "text": "two", "hint": "stop \u{1b}one" });
        let mut notice = fault.clone();
        notice["ago_ms"] = json!(7_200_000);
        let text = status(&json!({ "degraded": [fault], "notices": [notice] }));
        let lines: Vec<&str> = text.lines().rev().take(4).collect();
        assert_eq!(lines[3], "degraded     clone (a): two");
        assert_eq!(lines[2], "             stop \\u{1b}one");
        assert_eq!(lines[1], "noticed      clone (a), 2 h ago: two");
        assert!(status(&json!({})).contains("degraded     no\n"));
    }

    #[test]
    fn events_are_lines() {
        let at = |mut json: Json| {
            json["time"] = "T".into();
            event(&json)
        };
        let updated = json!({ "event": "updated", "node_id": "a", "key": "k", "value": "v" });
        assert_eq!(at(updated), "T updated a k=v");
        let removed = json!({ "event": "updated", "node_id": "a", "key": "k", "value": null });
        assert_eq!(at(removed), "T updated a k (removed)");
        assert_eq!(at(json!({ "event": "lost", "node_id": "a" })), "T lost a");
        assert_eq!(at(json!({ "event": "watching" })), "T watching");
    }
}
