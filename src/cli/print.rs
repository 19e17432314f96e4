//! Answers for people. What comes from other nodes is escaped: a terminal acts on control
//! characters.

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
        if character.is_control() {
            line.extend(character.escape_default());
        } else {
            line.push(character);
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
    fn events_are_lines() {
        let updated = json!({ "event": "updated", "node_id": "a", "key": "k", "value": "v" });
        assert_eq!(event(&updated), "updated a k=v");
        let removed = json!({ "event": "updated", "node_id": "a", "key": "k", "value": null });
        assert_eq!(event(&removed), "updated a k (removed)");
        assert_eq!(event(&json!({ "event": "lost", "node_id": "a" })), "lost a");
    }
}
