//! The forms in JSON, and back.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value as Json, json};

use crate::protocol::entries::{Entries, Value};
use crate::protocol::report::{Event, Message, NodeState, PeerInfo, Status};

/// Bytes as JSON: a text where they are UTF-8, else `{"base64": …}`.
pub fn bytes_to_json(bytes: &[u8]) -> Json {
    match str::from_utf8(bytes) {
        Ok(text) => Json::String(text.to_owned()),
        Err(_) => json!({ "base64": STANDARD.encode(bytes) }),
    }
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

pub(super) fn status(status: &Status) -> Json {
    json!({
        "node_id": status.node_id.as_str(),
        "listen": status.listen,
        "advertise": status.advertise.as_ref().map(|address| address.as_str()),
        "version": status.version,
        "protocol": status.protocol,
        "uptime_s": status.uptime_s,
        "peers": {
            "alive": status.peers.alive,
            "suspect": status.peers.suspect,
            "lost": status.peers.lost,
            "left": status.peers.left,
        },
        "keys": status.keys,
        "timestamp": status.timestamp,
        "public_key": status.public_key.to_hex(),
        "network_key": status.network_key,
        "degraded": status.degraded,
    })
}

pub(super) fn peer(peer: &PeerInfo) -> Json {
    json!({
        "node_id": peer.node_id.as_str(),
        "address": peer.address.as_ref().map(|address| address.as_str()),
        "status": peer.status.as_str(),
        "heard_ms_ago": peer.heard_ms_ago,
        "keys": peer.keys,
        "timestamp": peer.timestamp,
        "public_key": peer.public_key.map(|key| key.to_hex()),
    })
}

pub(super) fn state(state: &NodeState) -> Json {
    json!({
        "node_id": state.node_id.as_str(),
        "status": state.status.as_str(),
        "timestamp": state.timestamp,
        "entries": entries(&state.entries),
    })
}

fn entries(entries: &Entries) -> Json {
    let pair = |(key, value): (&crate::protocol::entries::Key, &Value)| {
        (key.as_str().to_owned(), bytes_to_json(value.as_bytes()))
    };
    Json::Object(entries.iter().map(pair).collect())
}

pub(super) fn message(message: &Message) -> Json {
    json!({ "from": message.from.as_str(), "data": bytes_to_json(&message.data) })
}

pub(super) fn event(event: &Event) -> Json {
    let mut object = Map::new();
    object.insert("event".into(), event.name().into());
    if let Some(node_id) = event.node_id() {
        object.insert("node_id".into(), node_id.as_str().into());
    }
    let value = |value: &Option<Value>| {
        value.as_ref().map_or(Json::Null, |value| bytes_to_json(value.as_bytes()))
    };
    match event {
        Event::Updated { key, old, new, .. } => {
            object.insert("key".into(), key.as_str().into());
            object.insert("value".into(), value(new));
            object.insert("old".into(), value(old));
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
