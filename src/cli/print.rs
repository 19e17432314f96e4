//! Answers for people. What comes from other nodes is escaped: a terminal acts on control
//! characters, and others are not seen or turn the line around (Unicode TR 36, Trojan Source).

use std::fmt::Write;

use dsn::control::bytes_from_json;
use serde_json::Value as Json;

/// A field that is a text; empty where it is none.
pub(super) fn text<'a>(json: &'a Json, name: &str) -> &'a str {
    json.get(name).and_then(Json::as_str).unwrap_or_default()
}

fn number(json: &Json, name: &str) -> u64 {
    json.get(name).and_then(Json::as_u64).unwrap_or_default()
}

fn list(json: &Json) -> &[Json] {
    json.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// A text or bytes on one line, without anything that a terminal would act on.
fn escaped(json: &Json) -> String {
    let bytes = bytes_from_json(json).unwrap_or_default();
    match str::from_utf8(&bytes) {
        Ok(text) => escape(text),
        Err(_) => format!("({} bytes)", bytes.len()),
    }
}

fn escape(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut line, character| {
        if is_seen(character) {
            line.push(character);
        } else {
            line.extend(character.escape_default());
        }
        line
    })
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
    line("advertise", status.get("advertise").and_then(Json::as_str).unwrap_or("-"));
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
    line("network key", text(status, "network_key"));
    let degraded = list(status.get("degraded").unwrap_or(&Json::Null));
    if degraded.is_empty() {
        line("degraded", "no");
    }
    for fault in degraded {
        line("degraded", &escape(fault.as_str().unwrap_or_default()));
    }
    out
}

pub(super) fn keys(result: &Json) -> String {
    let names = list(result.get("keys").unwrap_or(&Json::Null)).iter().filter_map(Json::as_str);
    let rows = names
        .enumerate()
        .map(|(at, name)| [name.to_owned(), if at == 0 { "seals" } else { "opens" }.to_owned()]);
    table(&rows.collect::<Vec<_>>())
}

pub(super) fn peers(peers: &Json) -> String {
    let heard = |peer: &Json| match peer.get("heard_ms_ago").and_then(Json::as_u64) {
        None => "never".to_owned(),
        Some(ms) if ms < 100_000 => format!("{}.{} s ago", ms / 1000, ms % 1000 / 100),
        Some(ms) => format!("{} min ago", ms / 60_000),
    };
    let rows = list(peers).iter().map(|peer| {
        let address = peer.get("address").and_then(Json::as_str).unwrap_or("-");
        [
            text(peer, "node_id").to_owned(),
            address.to_owned(),
            text(peer, "status").to_owned(),
            heard(peer),
            format!("{} keys", number(peer, "keys")),
        ]
    });
    table(&rows.collect::<Vec<_>>())
}

/// Columns as wide as what is in them.
fn table<const COLUMNS: usize>(rows: &[[String; COLUMNS]]) -> String {
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

/// One node: its keys. All nodes: whose each key is, too.
pub(super) fn states(states: &Json) -> String {
    let entries = |state: &Json, node: Option<&str>| {
        let entries = state.get("entries").and_then(Json::as_object);
        let mut out = String::new();
        for (key, value) in entries.into_iter().flatten() {
            let (key, value) = (escape(key), escaped(value));
            let _ = match node {
                Some(node) => writeln!(out, "{node}  {key}={value}"),
                None => writeln!(out, "{key}={value}"),
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

/// The ids of those that were forgotten, a line each.
pub(super) fn forgotten(result: &Json) -> String {
    let ids = result.get("forgotten").and_then(Json::as_array).into_iter().flatten();
    ids.filter_map(Json::as_str).map(|id| format!("{id}\n")).collect()
}

pub(super) fn ping(node: &str, result: &Json) -> String {
    let ms = result.get("ms").and_then(Json::as_f64).unwrap_or_default();
    format!("{node} answered in {ms:.1} ms\n")
}

pub(super) fn event(event: &Json) -> String {
    let (name, node) = (text(event, "event"), text(event, "node_id"));
    match name {
        "updated" => {
            let key = escape(text(event, "key"));
            match event.get("value") {
                None | Some(Json::Null) => format!("{name} {node} {key} (removed)"),
                Some(value) => format!("{name} {node} {key}={}", escaped(value)),
            }
        }
        "data" => format!("{name} {node} {}", escaped(event.get("data").unwrap_or(&Json::Null))),
        "lagged" => format!("{name} {} events were missed", number(event, "count")),
        _ => format!("{name} {node}"),
    }
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
        assert_eq!(states(&evil), "a  alive    k=\\u{1b}[2Jx\\n\\u{9b}\n");
        let bytes = json!({ "entries": { "k": { "base64": "/w==" } } });
        assert_eq!(states(&bytes), "k=(1 bytes)\n");
    }

    #[test]
    fn what_turns_a_line_around_or_is_not_seen_is_escaped() {
        let evil = "a\u{202e}b\u{200b}c\u{2066}d\u{feff}e\u{2028}f\u{e0041}g\u{ad}";
        let shown = "a\\u{202e}b\\u{200b}c\\u{2066}d\\u{feff}e\\u{2028}f\\u{e0041}g\\u{ad}";
        assert_eq!(escape(evil), shown);
        let plain = "e\u{301}é ü 漢字 नमस्ते 🙂 \"'\\ ~";
        assert_eq!(escape(plain), plain);
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
    fn events_are_lines() {
        let updated = json!({ "event": "updated", "node_id": "a", "key": "k", "value": "v" });
        assert_eq!(event(&updated), "updated a k=v");
        let removed = json!({ "event": "updated", "node_id": "a", "key": "k", "value": null });
        assert_eq!(event(&removed), "updated a k (removed)");
        assert_eq!(event(&json!({ "event": "lost", "node_id": "a" })), "lost a");
    }
}
