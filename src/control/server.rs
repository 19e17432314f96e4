//! The end of the socket that answers.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};
use zeroize::Zeroizing;

use super::json;
use super::{LINE_BYTES_MAX, bytes_from_json};
use crate::driver::{Driver, KeyChange};
use crate::protocol::entries::{Change, Key, Value};
use crate::protocol::identity::{NodeId, unhex};
use crate::protocol::report::{Event, Refused};

/// How long an operation may take where its caller does not say, ms.
const TIMEOUT_DEFAULT_MS: u64 = 5_000;
/// Longest time that an operation may take, ms: a day.
const TIMEOUT_MAX_MS: u64 = 24 * 60 * 60 * 1000;
/// How often those who wait look whether their caller is still there.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long a caller that promised to acknowledge a message may take.
const ACKNOWLEDGE_TIME: Duration = Duration::from_secs(5);

/// Serves one connection until its end.
pub(super) fn converse(stream: &UnixStream, service: &Driver) {
    Conversation { stream, service }.run();
}

/// Says why nobody listens.
pub(super) fn refuse(stream: &UnixStream, error: String) {
    // Whoever called may have gone.
    let _ = write_line(stream, &failure("no", error));
}

fn write_line(mut stream: &UnixStream, line: &Json) -> std::io::Result<()> {
    let mut text = line.to_string();
    if text.len() as u64 >= LINE_BYTES_MAX {
        let error = format!(
            "the answer has {} bytes, a line has at most {LINE_BYTES_MAX}; ask for one node after the other",
            text.len()
        );
        text = failure("no", error).to_string();
    }
    text.push('\n');
    stream.write_all(text.as_bytes())
}

fn success(result: Json) -> Json {
    json!({ "ok": true, "result": result })
}

fn failure(kind: &str, error: String) -> Json {
    json!({ "ok": false, "kind": kind, "error": error })
}

/// One connection.
struct Conversation<'a> {
    stream: &'a UnixStream,
    service: &'a Driver,
}

/// Why an operation has no result.
enum Fault {
    /// The answer is no.
    No(String),
    /// What was asked makes no sense.
    Usage(String),
    /// The caller is gone.
    Gone,
}

impl From<Refused> for Fault {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Invalid(_) | Refused::DataTooLong { .. } | Refused::OwnNode(_) => {
                Self::Usage(refused.to_string())
            }
            other => Self::No(other.to_string()),
        }
    }
}

impl From<std::io::Error> for Fault {
    fn from(_: std::io::Error) -> Self {
        Self::Gone
    }
}

/// A request: its fields, checked as they are asked for.
struct Asked(Json);

impl Asked {
    fn text(&self, name: &str) -> Result<&str, Fault> {
        let text = self.0.get(name).and_then(Json::as_str);
        text.ok_or_else(|| Fault::Usage(format!("the field {name:?} is missing or is no text")))
    }

    fn has(&self, name: &str) -> bool {
        self.0.get(name).is_some_and(|value| !value.is_null())
    }

    fn flag(&self, name: &str) -> bool {
        self.0.get(name).and_then(Json::as_bool).unwrap_or(false)
    }

    fn node(&self) -> Result<NodeId, Fault> {
        NodeId::new(self.text("node")?).map_err(|fault| Fault::Usage(fault.to_string()))
    }

    fn nodes(&self) -> Result<Vec<NodeId>, Fault> {
        let list = self.0.get("nodes").and_then(Json::as_array);
        let list =
            list.ok_or_else(|| Fault::Usage("the field \"nodes\" is no list of node ids".into()))?;
        let node = |json: &Json| {
            NodeId::new(json.as_str().unwrap_or_default())
                .map_err(|fault| Fault::Usage(fault.to_string()))
        };
        list.iter().map(node).collect()
    }

    fn bytes(&self, name: &str) -> Result<Vec<u8>, Fault> {
        self.0.get(name).and_then(bytes_from_json).ok_or_else(|| {
            Fault::Usage(format!(
                "the field {name:?} is missing, or neither a text nor {{\"base64\":…}}"
            ))
        })
    }

    fn number(&self, name: &str) -> Result<u64, Fault> {
        let number = self.0.get(name).and_then(Json::as_u64);
        number.ok_or_else(|| Fault::Usage(format!("the field {name:?} is missing or is no number")))
    }

    fn timeout(&self) -> Duration {
        let ms = self.0.get("timeout_ms").and_then(Json::as_u64).unwrap_or(TIMEOUT_DEFAULT_MS);
        Duration::from_millis(ms.min(TIMEOUT_MAX_MS))
    }
}

impl Conversation<'_> {
    fn run(&self) {
        let mut reader = BufReader::new(self.stream);
        loop {
            let mut line = Vec::new();
            let mut limited = (&mut reader).take(LINE_BYTES_MAX);
            match limited.read_until(b'\n', &mut line) {
                Ok(0) | Err(_) => return,
                Ok(_) if line.len() as u64 == LINE_BYTES_MAX => {
                    let error = format!("a line has at most {LINE_BYTES_MAX} bytes");
                    let _ = write_line(self.stream, &failure("usage", error));
                    return;
                }
                Ok(_) if line.trim_ascii().is_empty() => continue,
                Ok(_) => {}
            }
            let answer = match serde_json::from_slice(&line) {
                Ok(request) => self.serve(&Asked(request), &mut reader),
                Err(fault) => Err(Fault::Usage(format!("the line is not JSON: {fault}"))),
            };
            let line = match answer {
                Ok(None) => continue,
                Ok(Some(result)) => success(result),
                Err(Fault::No(error)) => failure("no", error),
                Err(Fault::Usage(error)) => failure("usage", error),
                Err(Fault::Gone) => return,
            };
            if write_line(self.stream, &line).is_err() {
                return;
            }
        }
    }

    /// Does what is asked; gives the result, or nothing where it was written already.
    fn serve(
        &self,
        asked: &Asked,
        reader: &mut BufReader<&UnixStream>,
    ) -> Result<Option<Json>, Fault> {
        let service = self.service;
        Ok(Some(match asked.text("op")? {
            "status" => json::status(&service.status()),
            "peers" => Json::Array(service.peers().iter().map(json::peer).collect()),
            "state" if asked.has("node") => {
                let node = asked.node()?;
                let state = service.state(&node).ok_or(Refused::UnknownNode(node))?;
                json::state(&state)
            }
            "state" => Json::Array(service.states().iter().map(json::state).collect()),
            "get" => self.get(asked)?,
            "set" => json!({ "timestamp": service.change(changes(asked)?)? }),
            "unset" => json!({ "timestamp": service.change(removals(asked)?)? }),
            "ping" => {
                let elapsed = service.ping(&asked.node()?, asked.timeout())?;
                json!({ "ms": elapsed.as_secs_f64() * 1000.0 })
            }
            "send" => {
                let data = asked.bytes("data")?.into();
                service.send(&asked.node()?, data, asked.timeout())?;
                json!({})
            }
            "recv" => return self.receive(asked, reader),
            "watch" => return self.watch(asked),
            "wait_peers" => {
                let count = asked.number("count")?;
                self.wait(asked, &format!("{count} peers to be alive"), || {
                    let alive = service.status().peers.alive as u64;
                    (alive >= count).then(|| json!({ "alive": alive }))
                })?
            }
            "wait_key" => self.wait_key(asked)?,
            "key" => {
                let names = service.network_keys(key_change(asked)?)?;
                json!({ "keys": names })
            }
            "forget" => self.forget(asked)?,
            "leave" => {
                let not_told = match service.leave(asked.timeout()) {
                    Ok(()) => Vec::new(),
                    Err(Refused::NotTold { nodes }) => nodes,
                    Err(refused) => return Err(refused.into()),
                };
                let not_told: Vec<&str> = not_told.iter().map(NodeId::as_str).collect();
                write_line(self.stream, &success(json!({ "not_told": not_told })))?;
                service.request_stop();
                return Ok(None);
            }
            "stop" => {
                write_line(self.stream, &success(json!({})))?;
                service.request_stop();
                return Ok(None);
            }
            other => return Err(Fault::Usage(format!("there is no operation {other:?}"))),
        }))
    }

    /// One node, several, or all that are lost.
    fn forget(&self, asked: &Asked) -> Result<Json, Fault> {
        let forgotten = if asked.flag("lost") {
            self.service.forget_lost()
        } else {
            let nodes = if asked.has("nodes") { asked.nodes()? } else { vec![asked.node()?] };
            self.service.forget(&nodes)?;
            nodes
        };
        let names: Vec<&str> = forgotten.iter().map(NodeId::as_str).collect();
        Ok(json!({ "forgotten": names }))
    }

    fn get(&self, asked: &Asked) -> Result<Json, Fault> {
        let (node, key) = (asked.node()?, asked.text("key")?);
        let state = self.service.state(&node).ok_or_else(|| Refused::UnknownNode(node.clone()))?;
        let value = state
            .entries
            .get(key)
            .ok_or_else(|| Fault::No(format!("{node} has no key {key:?}")))?;
        Ok(json!({
            "node_id": node.as_str(),
            "key": key,
            "value": super::bytes_to_json(value.as_bytes()),
            "timestamp": state.timestamp,
        }))
    }

    /// Whether the caller hung up. A caller that only stopped writing still reads.
    fn is_gone(&self) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let mut ends = [PollFd::new(self.stream, PollFlags::empty())];
        let now = Timespec::default();
        poll(&mut ends, Some(&now)).is_ok_and(|count| count > 0)
    }

    fn receive(
        &self,
        asked: &Asked,
        reader: &mut BufReader<&UnixStream>,
    ) -> Result<Option<Json>, Fault> {
        let follow = asked.flag("follow");
        let until = Instant::now() + asked.timeout();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let wait = if follow { LOOK_EVERY } else { left.min(LOOK_EVERY) };
            let message = self.service.receive(wait);
            if self.is_gone() {
                if let Some(message) = message {
                    self.service.give_back(message);
                }
                return Err(Fault::Gone);
            }
            let Some(message) = message else {
                if self.service.is_stopping() {
                    return Err(Refused::Stopping.into());
                }
                if !follow && left.is_zero() {
                    return Err(Fault::No("no message came in time".into()));
                }
                continue;
            };
            let written = write_line(self.stream, &success(json::message(&message)));
            let taken = written.is_ok() && (!asked.flag("ack") || self.is_acknowledged(reader));
            if !taken {
                self.service.give_back(message);
                return Err(Fault::Gone);
            }
            if !follow {
                return Ok(None);
            }
        }
    }

    fn is_acknowledged(&self, reader: &mut BufReader<&UnixStream>) -> bool {
        let _ = self.stream.set_read_timeout(Some(ACKNOWLEDGE_TIME));
        let mut line = String::new();
        let read = reader.take(100).read_line(&mut line);
        let _ = self.stream.set_read_timeout(None);
        let op = serde_json::from_str::<Json>(&line);
        read.is_ok() && op.is_ok_and(|json| json.get("op").and_then(Json::as_str) == Some("ack"))
    }

    fn watch(&self, asked: &Asked) -> Result<Option<Json>, Fault> {
        let node = if asked.has("node") { Some(asked.node()?) } else { None };
        let prefix = if asked.has("key") { Some(asked.text("key")?) } else { None };
        let events = self.service.subscribe().ok_or_else(too_many_listen)?;
        // So that the caller knows from when on it sees everything.
        write_line(self.stream, &success(json!({ "event": "watching" })))?;
        loop {
            let event = match events.wait(LOOK_EVERY) {
                Ok(event) => event,
                Err(_) if self.is_gone() => return Err(Fault::Gone),
                Err(_) if self.service.is_stopping() => return Err(Refused::Stopping.into()),
                Err(_) => continue,
            };
            let is_lag = matches!(event, Event::Lagged { .. });
            let of_node = node.as_ref().is_none_or(|node| event.node_id() == Some(node));
            let of_key = prefix.is_none_or(|prefix| {
                matches!(&event, Event::Updated { key, .. } if key.as_str().starts_with(prefix))
            });
            if is_lag || of_node && of_key {
                write_line(self.stream, &success(json::event(&event)))?;
            }
        }
    }

    fn wait_key(&self, asked: &Asked) -> Result<Json, Fault> {
        let (node, key) = (asked.node()?, asked.text("key")?);
        let wanted = if asked.has("value") { Some(asked.bytes("value")?) } else { None };
        self.wait(asked, &format!("the key {key:?} of {node}"), || {
            let state = self.service.state(&node)?;
            let value = state.entries.get(key)?;
            let is_it = wanted.as_ref().is_none_or(|wanted| wanted == value.as_bytes());
            is_it
                .then(|| super::bytes_to_json(value.as_bytes()))
                .map(|value| json!({ "value": value }))
        })
    }

    /// Looks now and after each event, until it is true or the time runs out.
    fn wait(
        &self,
        asked: &Asked,
        what: &str,
        look: impl Fn() -> Option<Json>,
    ) -> Result<Json, Fault> {
        let until = Instant::now() + asked.timeout();
        // First the subscription, then the look: nothing falls between them.
        let events = self.service.subscribe().ok_or_else(too_many_listen)?;
        loop {
            if let Some(result) = look() {
                return Ok(result);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Fault::No(format!("timed out: waited for {what}")));
            }
            if self.is_gone() {
                return Err(Fault::Gone);
            }
            if self.service.is_stopping() {
                return Err(Refused::Stopping.into());
            }
            let _ = events.next(left.min(LOOK_EVERY));
        }
    }
}

fn too_many_listen() -> Fault {
    Fault::No("too many programs listen to events already; try again later".into())
}

/// `{"do": "list"}` and so on
fn key_change(asked: &Asked) -> Result<KeyChange, Fault> {
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
fn changes(asked: &Asked) -> Result<Change, Fault> {
    let entries = asked.0.get("entries").and_then(Json::as_object);
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

/// `{"keys": [key, …]}`
fn removals(asked: &Asked) -> Result<Change, Fault> {
    let keys = asked.0.get("keys").and_then(Json::as_array);
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

    #[test]
    fn faults_of_the_caller_and_of_the_world_are_told_apart() {
        let usage: Fault = Refused::DataTooLong { bytes: 1 }.into();
        assert!(matches!(usage, Fault::Usage(_)));
        let no: Fault = Refused::Stopping.into();
        assert!(matches!(no, Fault::No(_)));
    }

    #[test]
    fn changes_are_checked() {
        let asked = |json| Asked(json);
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
        assert!(removals(&asked(json!({ "keys": ["a"] }))).is_ok());
        assert!(removals(&asked(json!({ "keys": [1] }))).is_err());
    }
}
