//! An event as the control socket tells it, as the plan takes it, and as the command gets it.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::sync::Arc;

use dsn::control::{bytes_from_json, bytes_to_base64, bytes_to_json};
use serde_json::{Value as Json, json};

use super::plan::{News, Start, State, Subject};
use crate::cli::print;

/// The event of a key: it is there, or has another value, or is gone.
pub(super) const UPDATED: &str = "updated";
/// The events of a node.
pub(super) const STATUSES: [&str; 4] = ["joined", "suspect", "lost", "left"];

/// What is in the environment of a command, and nowhere else: that of another hook, in which this
/// one may run, means nothing.
pub(super) const VARIABLES: [&str; 7] = [
    "DSN_EVENT",
    "DSN_NODE",
    "DSN_KEY",
    "DSN_VALUE",
    "DSN_VALUE_BASE64",
    "DSN_OLD",
    "DSN_OLD_BASE64",
];

/// Whose state, and how it is, of an event that is about a state.
pub(super) fn news_of(event: &Json) -> Option<(Subject, News)> {
    let name = print::text(event, "event");
    let node: Arc<str> = print::text(event, "node_id").into();
    let time = print::text(event, "time").into();
    let timestamp = event.get("timestamp").and_then(Json::as_u64);
    if name == UPDATED {
        let state = match event.get("value") {
            None | Some(Json::Null) => State::Nothing,
            Some(value) => State::Value(bytes_from_json(value)?.into()),
        };
        let key = Some(print::text(event, "key").into());
        return Some((Subject { node, key }, News { state, time, timestamp }));
    }
    let state = State::Status((*STATUSES.iter().find(|status| **status == name)?).into());
    Some((Subject { node, key: None }, News { state, time, timestamp }))
}

/// The name of the event that tells this.
pub(super) fn event_of(news: &News) -> &str {
    match &news.state {
        State::Status(name) => name,
        State::Nothing | State::Value(_) => UPDATED,
    }
}

/// The line on the stdin of the command.
pub(super) fn line_of(start: &Start) -> String {
    let Start { subject, news, old } = start;
    let mut event = json!({
        "event": event_of(news),
        "time": &*news.time,
        "node_id": &*subject.node,
    });
    if let (Json::Object(fields), Some(key)) = (&mut event, &subject.key) {
        fields.insert("timestamp".into(), news.timestamp.into());
        fields.insert("key".into(), (**key).into());
        fields.insert("value".into(), json_of(&news.state));
        fields.insert("old".into(), json_of(old));
    }
    let mut line = event.to_string();
    line.push('\n');
    line
}

fn json_of(state: &State) -> Json {
    match state {
        State::Value(bytes) => bytes_to_json(bytes),
        State::Nothing | State::Status(_) => Json::Null,
    }
}

/// What the environment of the command has of [`VARIABLES`]. A variable holds any bytes but a NUL,
/// and a value is shorter than the longest one (MAX_ARG_STRLEN, 128 KiB), in base64, too.
pub(super) fn environment_of(start: &Start) -> Vec<(&'static str, OsString)> {
    let Start { subject, news, old } = start;
    let mut variables: Vec<(&'static str, OsString)> =
        vec![("DSN_EVENT", event_of(news).into()), ("DSN_NODE", (*subject.node).into())];
    if let Some(key) = &subject.key {
        variables.push(("DSN_KEY", (**key).into()));
    }
    let values =
        [("DSN_VALUE", "DSN_VALUE_BASE64", &news.state), ("DSN_OLD", "DSN_OLD_BASE64", old)];
    for (plain, base64, state) in values {
        if let State::Value(bytes) = state {
            variables.push(if bytes.contains(&0) {
                (base64, bytes_to_base64(bytes).into())
            } else {
                (plain, OsString::from_vec(bytes.to_vec()))
            });
        }
    }
    variables
}

/// A subject in the log.
pub(super) fn name_of(subject: &Subject) -> String {
    match &subject.key {
        Some(key) => format!("{} {}", subject.node, print::escape(key)),
        None => subject.node.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(value: &[u8], old: State) -> Start {
        Start {
            subject: Subject { node: "a".into(), key: Some("k".into()) },
            news: News { state: State::Value(value.into()), time: "T".into(), timestamp: Some(1) },
            old,
        }
    }

    #[test]
    fn what_is_told_is_handed_on_as_it_is() {
        for value in [json!("17.5"), json!(""), json!({ "base64": "/wA=" }), Json::Null] {
            let event = json!({
                "event": "updated", "time": "T", "node_id": "a", "timestamp": 1, "key": "k",
                "value": value, "old": null,
            });
            let (subject, news) = news_of(&event).unwrap();
            let line = line_of(&Start { subject, news, old: State::Nothing });
            assert_eq!(serde_json::from_str::<Json>(&line).unwrap(), event);
            assert_eq!(line.matches('\n').count(), 1);
        }
        for status in STATUSES {
            let event = json!({ "event": status, "time": "T", "node_id": "a" });
            let (subject, news) = news_of(&event).unwrap();
            let start = Start { subject, news, old: State::Nothing };
            assert_eq!(serde_json::from_str::<Json>(&line_of(&start)).unwrap(), event);
            let variables = environment_of(&start);
            assert_eq!(variables, [("DSN_EVENT", status.into()), ("DSN_NODE", "a".into())]);
        }
        for other in ["data", "lagged", "watching", ""] {
            assert_eq!(news_of(&json!({ "event": other, "time": "T", "node_id": "a" })), None);
        }
    }

    #[test]
    fn the_environment_has_bytes_and_base64_for_those_it_can_not_have() {
        let old = State::Value([0xff, b'\n'].as_slice().into());
        let variables = environment_of(&start(b"$(x) `y`", old));
        assert_eq!(variables[3], ("DSN_VALUE", "$(x) `y`".into()));
        assert_eq!(variables[4], ("DSN_OLD", OsString::from_vec(vec![0xff, b'\n'])));
        let variables = environment_of(&start(b"a\0b", State::Nothing));
        assert_eq!(variables[3..], [("DSN_VALUE_BASE64", "YQBi".into())]);
        let names: Vec<&str> = variables.iter().map(|(name, _)| *name).collect();
        assert!(names.iter().all(|name| VARIABLES.contains(name)));
    }
}
