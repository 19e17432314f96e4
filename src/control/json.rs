//! The forms in JSON, and back.

use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value as Json, json};

use crate::order::Gather;
use crate::protocol::entries::{Key, Value};
use crate::protocol::fault::{Fault, Notice};
use crate::protocol::identity::NodeId;
use crate::protocol::report::{
    Discovered, Event, Interface, Message, NodeState, PeerInfo, PeerStatus, Status,
};

/// Bytes as JSON: a text where they are UTF-8, else `{"base64": …}`.
pub fn bytes_to_json(bytes: &[u8]) -> Json {
    match str::from_utf8(bytes) {
        Ok(text) => Json::String(text.to_owned()),
        Err(_) => json!({ "base64": bytes_to_base64(bytes) }),
    }
}

/// Bytes in base64, as they stand in JSON where they are no text.
pub fn bytes_to_base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// The other way; nothing where the JSON is neither.
pub fn bytes_from_json(json: &Json) -> Option<Vec<u8>> {
    match json {
        Json::String(text) => Some(text.as_bytes().to_vec()),
        Json::Object(object) if object.len() == 1 => {
            STANDARD.decode(object.get("base64")?.as_str()?).ok()
        }
        _ => None,
    }
}

/// What the node says of itself at that moment.
pub(crate) fn status(status: &Status, now_ms: u64) -> Json {
    json!({
        "node_id": status.node_id.as_str(),
        "listen": status.listen,
        "http": status.http,
        "advertise": status.advertise.as_ref().map(|address| address.as_str()),
        "version": status.version,
        "protocol": status.protocol,
        "uptime_s": status.uptime.as_secs(),
        "peers": {
            "alive": status.peers.alive,
            "suspect": status.peers.suspect,
            "lost": status.peers.lost,
            "left": status.peers.left,
        },
        "keys": status.keys,
        "timestamp": status.timestamp,
        "public_key": status.public_key.to_hex(),
        "fingerprint": status.public_key.fingerprint(),
        "network_key": status.network_key,
        "discovery": status.discovery.as_ref().map(|it| discovered(it, now_ms)),
        "degraded": status.degraded.iter().map(fault).collect::<Vec<Json>>(),
        "notices": status.notices.iter().map(notice).collect::<Vec<Json>>(),
    })
}

fn discovered(discovered: &Discovered, now_ms: u64) -> Json {
    let interface = |Interface { name, address, heard }: &Interface| {
        json!({
            "name": &**name,
            "address": address.to_string(),
            "member_ms_ago": heard.member_at.map(|at| now_ms.saturating_sub(at)),
            "members": heard.members,
            "strangers": heard.strangers,
            "passed_over": heard.passed_over,
            "messages": heard.messages,
            "unreadable": heard.unreadable,
            "dropped": heard.dropped,
            "full_seconds": heard.full_seconds,
        })
    };
    let found = &discovered.found;
    json!({
        "interfaces": discovered.interfaces.iter().map(interface).collect::<Vec<Json>>(),
        "waiting": found.waiting,
        "met": found.met,
        "known": found.known,
        "refused": found.refused,
        "nobody": found.nobody,
        "dropped": found.dropped,
    })
}

fn fault(fault: &Fault) -> Json {
    json!({
        "code": fault.code.as_str(),
        "node": fault.node.as_ref().map(NodeId::as_str),
        "text": fault.text,
        "hint": fault.hint,
    })
}

fn ms(time: Duration) -> Json {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).into()
}

fn notice(notice: &Notice) -> Json {
    let mut json = fault(&notice.fault);
    if let Json::Object(fields) = &mut json {
        fields.insert("ago_ms".into(), ms(notice.ago));
    }
    json
}

pub(crate) fn peer(peer: &PeerInfo) -> Json {
    json!({
        "node_id": peer.node_id.as_str(),
        "address": peer.address.as_ref().map(|address| address.as_str()),
        "status": peer.status.as_str(),
        "heard_ms_ago": peer.heard_ago.map(ms),
        "round_trip_ms": peer.round_trip.map(|time| time.as_micros() as f64 / 1000.0),
        "keys": peer.keys,
        "timestamp": peer.timestamp,
        "public_key": peer.public_key.map(|key| key.to_hex()),
        "fingerprint": peer.public_key.map(|key| key.fingerprint()),
        "network_key": peer.network_key.as_deref(),
        "reason": peer.reason,
    })
}

/// A state, with the keys that begin with this.
pub(crate) fn state(state: &NodeState, prefix: &str, now_ms: u64) -> Json {
    let entries = state.entries.iter().filter(|(key, _)| key.as_str().starts_with(prefix));
    let pair =
        |(key, value): (&Key, &Value)| (key.as_str().to_owned(), bytes_to_json(value.as_bytes()));
    let expires = state.expires.iter().filter(|(key, _)| key.as_str().starts_with(prefix));
    let expires = expires
        .map(|(key, due_ms)| (key.as_str().to_owned(), due_ms.saturating_sub(now_ms).into()));
    json!({
        "node_id": state.node_id.as_str(),
        "status": state.status.as_str(),
        "timestamp": state.timestamp,
        "held_ms": held_ms(state, now_ms),
        "entries": Json::Object(entries.map(pair).gathered()),
        "expires_ms": Json::Object(expires.gathered()),
    })
}

/// One key of a state, if it has it.
pub(super) fn value(state: &NodeState, key: &str, now_ms: u64) -> Option<Json> {
    let value = state.entries.get(key)?;
    Some(json!({
        "node_id": state.node_id.as_str(),
        "status": state.status.as_str(),
        "key": key,
        "value": bytes_to_json(value.as_bytes()),
        "timestamp": state.timestamp,
        "held_ms": held_ms(state, now_ms),
        "expires_ms": state.expires.get(key).map(|due_ms| due_ms.saturating_sub(now_ms)),
    }))
}

/// How long the version is held here, by a clock that only goes forward.
fn held_ms(state: &NodeState, now_ms: u64) -> Option<u64> {
    state.held_since.map(|since| now_ms.saturating_sub(since))
}

pub(super) fn message(message: &Message) -> Json {
    json!({ "from": message.from.as_str(), "data": bytes_to_json(&message.data) })
}

/// How a peer is doing, as the event that would tell it.
pub(super) fn status_event(peer: &PeerInfo) -> Event {
    let node_id = peer.node_id.clone();
    match peer.status {
        PeerStatus::Alive => Event::Joined { node_id },
        PeerStatus::Suspect => Event::Suspect { node_id },
        PeerStatus::Lost => Event::Lost { node_id },
        PeerStatus::Left => Event::Left { node_id },
    }
}

/// All keys of a state, as the events that would tell them.
pub(super) fn updates(state: &NodeState, now_ms: u64) -> impl Iterator<Item = Event> + '_ {
    let left = move |due_ms: &u64| Duration::from_millis(due_ms.saturating_sub(now_ms));
    state.entries.iter().map(move |(key, value)| Event::Updated {
        node_id: state.node_id.clone(),
        timestamp: state.timestamp,
        key: key.clone(),
        old: None,
        new: Some(value.clone()),
        expires_in: state.expires.get(key).map(left),
    })
}

/// A line between the events.
pub(super) fn mark(name: &str, time: SystemTime) -> Json {
    json!({ "event": name, "time": time_text(time) })
}

/// UTC, to the millisecond.
fn time_text(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time).to_string()
}

pub(super) fn event(time: SystemTime, event: &Event) -> Json {
    let mut object = Map::new();
    object.insert("event".into(), event.name().into());
    object.insert("time".into(), time_text(time).into());
    if let Some(node_id) = event.node_id() {
        object.insert("node_id".into(), node_id.as_str().into());
    }
    let value = |value: &Option<Value>| {
        value.as_ref().map_or(Json::Null, |value| bytes_to_json(value.as_bytes()))
    };
    match event {
        Event::Updated { timestamp, key, old, new, expires_in, .. } => {
            object.insert("timestamp".into(), (*timestamp).into());
            object.insert("key".into(), key.as_str().into());
            object.insert("value".into(), value(new));
            object.insert("old".into(), value(old));
            object.extend(expires_in.map(|left| ("expires_ms".into(), ms(left))));
        }
        Event::Data { data, .. } => {
            object.insert("data".into(), bytes_to_json(data));
        }
        Event::Lagged { count } => {
            object.insert("count".into(), (*count).into());
        }
        _ => {}
    }
    Json::Object(object)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_go_both_ways() {
        for bytes in [&b""[..], b"text", "é\n\"".as_bytes(), &[0xff, 0, 0x80]] {
            assert_eq!(bytes_from_json(&bytes_to_json(bytes)).as_deref(), Some(bytes));
        }
        for other in
            [json!(1), json!({"base64": "!"}), json!({"base64": "AA==", "x": 1}), json!([])]
        {
            assert_eq!(bytes_from_json(&other), None, "{other}");
        }
    }
}
