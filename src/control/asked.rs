//! Requests: their fields, checked as they are asked for.

use std::time::Duration;

use serde_json::Value as Json;
use zeroize::Zeroizing;

use super::bytes_from_json;
use crate::config::OWN_NODE;
use crate::driver::KeyChange;
use crate::protocol::entries::{Change, Key, Value};
use crate::protocol::identity::{NodeId, unhex};
use crate::protocol::lease::Ttl;
use crate::protocol::report::{PeerStatus, Refused};

/// How long an operation may take where its caller does not say, ms.
const TIMEOUT_DEFAULT_MS: u64 = 5_000;
/// Longest time that an operation may take, ms: a day.
const TIMEOUT_MAX_MS: u64 = 24 * 60 * 60 * 1000;

/// Why an operation has no result.
pub(super) enum Fault {
    /// The answer is no.
    No(String),
    /// What was asked makes no sense.
    Usage(String),
    /// The node is about to stop.
    Stopping,
    /// The caller is gone.
    Gone,
}

impl From<Refused> for Fault {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Invalid(_) | Refused::DataTooLong { .. } | Refused::OwnNode(_) => {
                Self::Usage(refused.to_string())
            }
            Refused::Stopping => Self::Stopping,
            other => Self::No(other.to_string()),
        }
    }
}

impl From<std::io::Error> for Fault {
    fn from(_: std::io::Error) -> Self {
        Self::Gone
    }
}

/// A request.
pub(super) struct Asked<'a> {
    pub(super) json: Json,
    /// The own id, for `self`.
    pub(super) own: &'a NodeId,
}

/// What a key is waited for to be.
pub(super) enum Wanted {
    /// There, whatever its value.
    There,
    /// This value.
    Value(Vec<u8>),
    /// Not there.
    Gone,
    /// Another value than this one, or not there.
    Not(Vec<u8>),
    /// Another value than at the beginning.
    Changed,
}

impl Asked<'_> {
    pub(super) fn text(&self, name: &str) -> Result<&str, Fault> {
        let text = self.json.get(name).and_then(Json::as_str);
        text.ok_or_else(|| Fault::Usage(format!("the field {name:?} is missing or is no text")))
    }

    /// A key. One that nobody can have is a mistake of the caller, who would wait for it in vain.
    pub(super) fn key(&self) -> Result<&str, Fault> {
        let key = self.text("key")?;
        Key::new(key).map_err(Refused::Invalid)?;
        Ok(key)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.json.get(name).is_some_and(|value| !value.is_null())
    }

    /// A field that may be missing, but that may be nothing else.
    pub(super) fn flag(&self, name: &str) -> Result<bool, Fault> {
        match self.json.get(name) {
            None | Some(Json::Null) => Ok(false),
            Some(Json::Bool(flag)) => Ok(*flag),
            Some(_) => Err(Fault::Usage(format!("the field {name:?} is neither true nor false"))),
        }
    }

    fn named(&self, text: &str) -> Result<NodeId, Fault> {
        if text == OWN_NODE {
            return Ok(self.own.clone());
        }
        NodeId::new(text).map_err(|fault| Fault::Usage(fault.to_string()))
    }

    pub(super) fn node(&self) -> Result<NodeId, Fault> {
        self.named(self.text("node")?)
    }

    /// A node, if one is named in this field.
    pub(super) fn node_in(&self, name: &str) -> Result<Option<NodeId>, Fault> {
        if self.has(name) { Ok(Some(self.named(self.text(name)?)?)) } else { Ok(None) }
    }

    pub(super) fn nodes(&self) -> Result<Vec<NodeId>, Fault> {
        let list = self.json.get("nodes").and_then(Json::as_array);
        let list =
            list.ok_or_else(|| Fault::Usage("the field \"nodes\" is no list of node ids".into()))?;
        list.iter().map(|json| self.named(json.as_str().unwrap_or_default())).collect()
    }

    /// `status`: one word, or a list of them.
    pub(super) fn statuses(&self) -> Result<Vec<PeerStatus>, Fault> {
        let all = [PeerStatus::Alive, PeerStatus::Suspect, PeerStatus::Lost, PeerStatus::Left];
        let status = |json: &Json| {
            let found = all.into_iter().find(|status| json.as_str() == Some(status.as_str()));
            found.ok_or_else(|| {
                Fault::Usage(format!("{json} is no status; there are alive, suspect, lost, left"))
            })
        };
        match self.json.get("status") {
            Some(Json::Array(list)) if !list.is_empty() => list.iter().map(status).collect(),
            other => Ok(vec![status(other.unwrap_or(&Json::Null))?]),
        }
    }

    pub(super) fn bytes(&self, name: &str) -> Result<Vec<u8>, Fault> {
        self.json.get(name).and_then(bytes_from_json).ok_or_else(|| {
            Fault::Usage(format!(
                "the field {name:?} is missing, or neither a text nor {{\"base64\":…}}"
            ))
        })
    }

    pub(super) fn number(&self, name: &str) -> Result<u64, Fault> {
        let number = self.json.get(name).and_then(Json::as_u64);
        number.ok_or_else(|| Fault::Usage(format!("the field {name:?} is missing or is no number")))
    }

    pub(super) fn timeout(&self) -> Result<Duration, Fault> {
        let ms =
            if self.has("timeout_ms") { self.number("timeout_ms")? } else { TIMEOUT_DEFAULT_MS };
        Ok(Duration::from_millis(ms.min(TIMEOUT_MAX_MS)))
    }

    /// What `wait_key` waits for: one thing of them.
    pub(super) fn wanted(&self) -> Result<Wanted, Fault> {
        let mut wanted = Vec::new();
        if self.has("value") {
            wanted.push(Wanted::Value(self.bytes("value")?));
        }
        if self.has("not") {
            wanted.push(Wanted::Not(self.bytes("not")?));
        }
        if self.flag("gone")? {
            wanted.push(Wanted::Gone);
        }
        if self.flag("changed")? {
            wanted.push(Wanted::Changed);
        }
        let first = wanted.pop().unwrap_or(Wanted::There);
        if wanted.is_empty() {
            return Ok(first);
        }
        Err(Fault::Usage("only one of \"value\", \"not\", \"gone\" and \"changed\" goes".into()))
    }
}

/// `{"do": "list"}` and so on
pub(super) fn key_change(asked: &Asked<'_>) -> Result<KeyChange, Fault> {
    let name = || asked.text("name").map(str::to_owned);
    Ok(match asked.text("do")? {
        "list" => KeyChange::List,
        "reload" => KeyChange::Reload,
        "use" => KeyChange::Use(name()?),
        "remove" => KeyChange::Remove(name()?),
        "add" => {
            let bytes = unhex(asked.text("key")?).map(Zeroizing::new);
            let key = bytes.and_then(|bytes| <[u8; 32]>::try_from(bytes.as_slice()).ok());
            let key = key.ok_or_else(|| Fault::Usage("the key is not 64 hex digits".into()))?;
            KeyChange::Add(Zeroizing::new(key))
        }
        other => return Err(Fault::Usage(format!("{other:?} can't be done with a key"))),
    })
}

/// `{"entries": {key: value, …}}`
pub(super) fn changes(asked: &Asked<'_>) -> Result<Change, Fault> {
    let entries = asked.json.get("entries").and_then(Json::as_object);
    let entries =
        entries.ok_or_else(|| Fault::Usage("the field \"entries\" is no object".into()))?;
    let mut change = Change::new();
    for (key, value) in entries {
        let bytes = bytes_from_json(value).ok_or_else(|| {
            Fault::Usage(format!("the value of {key:?} is neither a text nor {{\"base64\":…}}"))
        })?;
        let value = Value::new(&bytes).map_err(Refused::Invalid)?;
        change.insert(Key::new(key).map_err(Refused::Invalid)?, Some(value));
    }
    if change.is_empty() {
        return Err(Fault::Usage("nothing is to be set".into()));
    }
    Ok(change)
}

/// `{"ttl_ms": …}`, which may be missing.
pub(super) fn ttl_of(asked: &Asked<'_>) -> Result<Option<Ttl>, Fault> {
    if !asked.has("ttl_ms") {
        return Ok(None);
    }
    let ttl = Ttl::from_ms(asked.number("ttl_ms")?);
    ttl.map(Some).map_err(|fault| Fault::Usage(fault.to_string()))
}

/// `{"keys": [key, …]}`
pub(super) fn removals(asked: &Asked<'_>) -> Result<Change, Fault> {
    let keys = asked.json.get("keys").and_then(Json::as_array);
    let keys = keys.ok_or_else(|| Fault::Usage("the field \"keys\" is no list".into()))?;
    let mut change = Change::new();
    for key in keys {
        let text = key.as_str().ok_or_else(|| Fault::Usage("a key is no text".into()))?;
        change.insert(Key::new(text).map_err(Refused::Invalid)?, None);
    }
    if change.is_empty() {
        return Err(Fault::Usage("nothing is to be removed".into()));
    }
    Ok(change)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn faults_of_the_caller_and_of_the_world_are_told_apart() {
        let usage: Fault = Refused::DataTooLong { bytes: 1 }.into();
        assert!(matches!(usage, Fault::Usage(_)));
        let no: Fault = Refused::Stopping.into();
        assert!(matches!(no, Fault::Stopping));
    }

    #[test]
    fn changes_are_checked() {
        let own = NodeId::new("me").unwrap();
        let asked = |json| Asked { json, own: &own };
        assert!(
            changes(&asked(json!({ "entries": { "a": "1", "b": { "base64": "AA==" } } }))).is_ok()
        );
        for wrong in [
            json!({}),
            json!({ "entries": {} }),
            json!({ "entries": { "a": 1 } }),
            json!({ "entries": { "": "x" } }),
            json!({ "entries": { "a=b": "x" } }),
        ] {
            assert!(changes(&asked(wrong)).is_err());
        }
        for (json, is_right) in [
            (json!({}), true),
            (json!({ "ttl_ms": null }), true),
            (json!({ "ttl_ms": 1000 }), true),
            (json!({ "ttl_ms": 999 }), false),
            (json!({ "ttl_ms": -1 }), false),
            (json!({ "ttl_ms": "30s" }), false),
        ] {
            assert_eq!(ttl_of(&asked(json.clone())).is_ok(), is_right, "{json}");
        }
        assert!(removals(&asked(json!({ "keys": ["a"] }))).is_ok());
        assert!(removals(&asked(json!({ "keys": [1] }))).is_err());
    }

    #[test]
    fn a_key_that_nobody_can_have_is_a_mistake() {
        let own = NodeId::new("me").unwrap();
        let key = |key: &str| Asked { json: json!({ "key": key }), own: &own }.key().is_ok();
        assert!(key("k") && key("a b"));
        for wrong in ["", "a=b", "a\nb", &"x".repeat(257)] {
            assert!(!key(wrong), "{wrong:?}");
        }
    }

    #[test]
    fn self_is_the_own_node_and_a_key_is_waited_for_in_one_way() {
        let own = NodeId::new("me").unwrap();
        let asked = |json| Asked { json, own: &own };
        assert!(matches!(asked(json!({ "node": "self" })).node(), Ok(id) if id == own));
        assert!(
            matches!(asked(json!({ "nodes": ["self"] })).nodes(), Ok(ids) if ids == [own.clone()])
        );
        assert!(matches!(asked(json!({})).wanted(), Ok(Wanted::There)));
        assert!(matches!(asked(json!({ "gone": true })).wanted(), Ok(Wanted::Gone)));
        for wrong in
            [json!({ "gone": true, "value": "x" }), json!({ "not": 1 }), json!({ "gone": 1 })]
        {
            assert!(matches!(asked(wrong).wanted(), Err(Fault::Usage(_))));
        }
        assert!(asked(json!({ "status": "lost" })).statuses().is_ok_and(|list| list.len() == 1));
        assert!(asked(json!({ "status": ["lost", "left"] })).statuses().is_ok());
        for wrong in [json!({}), json!({ "status": "dead" }), json!({ "status": [] })] {
            assert!(asked(wrong).statuses().is_err());
        }
        assert!(asked(json!({ "timeout_ms": "5s" })).timeout().is_err());
    }
}
