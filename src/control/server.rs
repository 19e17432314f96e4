//! The end of the socket that answers.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::net::{SendFlags, send};
use serde_json::{Value as Json, json};

use super::LINE_BYTES_MAX;
use super::asked::{Asked, Fault, changes, key_change, removals, ttl_of};
use super::json;
use super::once::Once;
use super::places::Place;
use crate::driver::Driver;
use crate::protocol::entries::Change;
use crate::protocol::identity::NodeId;
use crate::protocol::lease::Ttl;
use crate::protocol::report::Refused;

/// How often those who wait look whether their caller is still there.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(500);
/// What may take longer needs a place of those who stay.
const SHORT_TIME: Duration = Duration::from_secs(10);

/// Serves one connection until its end.
pub(super) fn converse(stream: &UnixStream, service: &Driver, place: Place<'_>) {
    Conversation { stream, service, place }.run();
}

fn write_line(mut stream: &UnixStream, line: &Json) -> std::io::Result<()> {
    stream.write_all(text_of(line).as_bytes())
}

fn text_of(line: &Json) -> String {
    let mut text = line.to_string();
    if text.len() as u64 >= LINE_BYTES_MAX {
        let error = format!(
            "the answer has {} bytes, a line has at most {LINE_BYTES_MAX}; ask for one node after the other",
            text.len()
        );
        text = failure("no", error).to_string();
    }
    text.push('\n');
    text
}

pub(super) fn success(result: Json) -> Json {
    json!({ "ok": true, "result": result })
}

fn failure(kind: &str, error: String) -> Json {
    json!({ "ok": false, "kind": kind, "error": error })
}

/// One connection.
pub(super) struct Conversation<'a> {
    pub(super) stream: &'a UnixStream,
    pub(super) service: &'a Driver,
    pub(super) place: Place<'a>,
}

impl Conversation<'_> {
    fn run(&self) {
        let mut reader = BufReader::new(self.stream);
        loop {
            self.place.rests();
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
                Ok(_) => self.place.asks(),
            }
            let answer = match serde_json::from_slice(&line) {
                Ok(Once(json)) => {
                    self.serve(&Asked { json, own: self.service.node_id() }, &mut reader)
                }
                Err(fault) if fault.is_data() => {
                    Err(Fault::Usage(format!("the line is not taken: {fault}")))
                }
                Err(fault) => Err(Fault::Usage(format!("the line is not JSON: {fault}"))),
            };
            let line = match answer {
                Ok(None) => continue,
                Ok(Some(result)) => success(result),
                Err(Fault::No(error)) => failure("no", error),
                Err(Fault::Usage(error)) => failure("usage", error),
                Err(Fault::Stopping) => failure("stopping", Refused::Stopping.to_string()),
                Err(Fault::Gone) => return,
            };
            if self.write(&line).is_err() {
                return;
            }
        }
    }

    pub(super) fn write(&self, line: &Json) -> std::io::Result<()> {
        write_line(self.stream, line)
    }

    /// How long an operation may take. One that may take long has to find a place for that.
    fn patience(&self, asked: &Asked<'_>) -> Result<Duration, Fault> {
        let timeout = asked.timeout()?;
        if timeout > SHORT_TIME {
            self.stay()?;
        }
        Ok(timeout)
    }

    /// The same for a change, which is not refused for others that wait: all wait for one disk.
    fn patience_for_the_disk(&self, asked: &Asked<'_>) -> Result<Duration, Fault> {
        let timeout = asked.timeout()?;
        let _ = timeout > SHORT_TIME && self.place.stays();
        Ok(timeout)
    }

    /// Does what is asked; gives the result, or nothing where it was written already.
    fn serve(
        &self,
        asked: &Asked<'_>,
        reader: &mut BufReader<&UnixStream>,
    ) -> Result<Option<Json>, Fault> {
        let service = self.service;
        Ok(Some(match asked.text("op")? {
            "status" => {
                let (now_ms, status) = service.status_at();
                json::status(&status, now_ms)
            }
            "metrics" => json!({ "text": service.measured().to_string() }),
            "peers" => Json::Array(service.peers().iter().map(json::peer).collect()),
            "state" if asked.has("node") => {
                let node = asked.node()?;
                let state = service.state(&node).ok_or(Refused::UnknownNode(node))?;
                json::state(&state, prefix_of(asked)?, service.now_ms())
            }
            "state" => {
                let (prefix, now) = (prefix_of(asked)?, service.now_ms());
                let states = service.states();
                Json::Array(states.iter().map(|state| json::state(state, prefix, now)).collect())
            }
            "get" if asked.has("node") => self.get(asked)?,
            "get" => {
                let (key, now) = (asked.key()?, service.now_ms());
                let states = service.states();
                Json::Array(
                    states.iter().filter_map(|state| json::value(state, key, now)).collect(),
                )
            }
            "set" => return self.change(changes(asked)?, ttl_of(asked)?, asked),
            "unset" => return self.change(removals(asked)?, None, asked),
            "ping" => {
                let elapsed = service.ping(&asked.node()?, self.patience(asked)?)?;
                json!({ "ms": elapsed.as_secs_f64() * 1000.0 })
            }
            "send" => {
                let data = asked.bytes("data")?.into();
                service.send(&asked.node()?, data, self.patience(asked)?)?;
                json!({})
            }
            "recv" => return self.receive(asked, reader),
            "watch" => return self.watch(asked),
            "wait_peers" => self.wait_peers(asked)?,
            "wait_node" => self.wait_node(asked)?,
            "wait_key" => self.wait_key(asked)?,
            "wait_synced" => self.wait_synced(asked)?,
            "key" => {
                let names = service.network_keys(key_change(asked)?)?;
                json!({ "keys": names })
            }
            "forget" => self.forget(asked)?,
            "leave" => {
                let not_told = match service.leave(asked.timeout()?) {
                    Ok(()) => Vec::new(),
                    Err(Refused::NotTold { nodes }) => nodes,
                    Err(refused) => return Err(refused.into()),
                };
                let not_told: Vec<&str> = not_told.iter().map(NodeId::as_str).collect();
                log::info!("this node has left, as it was asked to over its control socket");
                self.write(&success(json!({ "not_told": not_told })))?;
                service.request_stop();
                return Ok(None);
            }
            "stop" => {
                log::info!("the node stops, as it was asked to over its control socket");
                self.write(&success(json!({})))?;
                service.request_stop();
                return Ok(None);
            }
            other => return Err(Fault::Usage(format!("there is no operation {other:?}"))),
        }))
    }

    /// Answers as soon as the change is durable; it goes to others after that.
    fn change(
        &self,
        change: Change,
        ttl: Option<Ttl>,
        asked: &Asked<'_>,
    ) -> Result<Option<Json>, Fault> {
        let patience = self.patience_for_the_disk(asked)?;
        let (timestamp, pushes) = self.service.change_within(change, ttl, patience);
        let text = text_of(&success(json!({ "timestamp": timestamp? })));
        // Whoever does not read its answer keeps no push from beginning.
        let sent = send(self.stream, text.as_bytes(), SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
        drop(pushes);
        let rest = text.as_bytes().get(sent.unwrap_or_default()..).unwrap_or_default();
        let mut stream = self.stream;
        stream.write_all(rest)?;
        Ok(None)
    }

    /// One node, several, or all that are lost.
    fn forget(&self, asked: &Asked<'_>) -> Result<Json, Fault> {
        let forgotten = if asked.flag("lost")? {
            self.service.forget_lost()
        } else {
            let nodes = if asked.has("nodes") { asked.nodes()? } else { vec![asked.node()?] };
            self.service.forget(&nodes)?;
            nodes
        };
        let names: Vec<&str> = forgotten.iter().map(NodeId::as_str).collect();
        Ok(json!({ "forgotten": names }))
    }

    fn get(&self, asked: &Asked<'_>) -> Result<Json, Fault> {
        let (node, key) = (asked.node()?, asked.key()?);
        let state = self.service.state(&node).ok_or_else(|| Refused::UnknownNode(node.clone()))?;
        json::value(&state, key, self.service.now_ms())
            .ok_or_else(|| Fault::No(format!("{node} has no key {key:?}")))
    }
}

/// What keys have to begin with; anything where nothing is said.
fn prefix_of<'a>(asked: &'a Asked<'_>) -> Result<&'a str, Fault> {
    if asked.has("prefix") { asked.text("prefix") } else { Ok("") }
}
