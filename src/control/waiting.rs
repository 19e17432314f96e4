//! What takes its time: messages, events, and waiting until something is true.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::RecvTimeoutError;
use serde_json::{Value as Json, json};

use super::asked::{Asked, Fault, Wanted};
use super::places::STAY_MAX;
use super::server::{Conversation, LOOK_EVERY, success};
use super::{bytes_to_json, json};
use crate::protocol::entries::Value;
use crate::protocol::identity::NodeId;
use crate::protocol::report::Event;

/// How often it is looked whether others hold the own version: no event tells.
const HOLDERS_LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long a caller that promised to acknowledge a message may take.
const ACKNOWLEDGE_TIME: Duration = Duration::from_secs(5);
/// Most nodes, and most characters of a value, that a text names.
const NAMED_MAX: usize = 10;
const SHOWN_MAX: usize = 80;

impl Conversation<'_> {
    /// Takes a place of those who stay.
    pub(super) fn stay(&self) -> Result<(), Fault> {
        if self.place.stays() {
            return Ok(());
        }
        Err(Fault::No(format!(
            "{STAY_MAX} programs watch, wait or receive at this node already, which is the most; end one of them, \
             or try again later"
        )))
    }

    /// Whether the caller hung up. A caller that only stopped writing still reads.
    fn is_gone(&self) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let mut ends = [PollFd::new(self.stream, PollFlags::empty())];
        let now = Timespec::default();
        poll(&mut ends, Some(&now)).is_ok_and(|count| count > 0)
    }

    /// A node that is named has to be known, unless it is wanted to wait for one that comes.
    fn check_known(&self, asked: &Asked<'_>, node: Option<&NodeId>) -> Result<(), Fault> {
        match node {
            Some(node) if !asked.flag("unknown")? && !self.service.knows(node) => {
                Err(Fault::No(format!(
                    "no node {node} is known here; `dsn peers --all` lists those that are, --unknown waits for one \
                     that comes later"
                )))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn receive(
        &self,
        asked: &Asked<'_>,
        reader: &mut BufReader<&UnixStream>,
    ) -> Result<Option<Json>, Fault> {
        let (follow, acknowledges) = (asked.flag("follow")?, asked.flag("ack")?);
        let from = asked.node_in("from")?;
        self.check_known(asked, from.as_ref())?;
        let until = Instant::now() + asked.timeout()?;
        let mut stays = false;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let wait = if follow { LOOK_EVERY } else { left.min(LOOK_EVERY) };
            let wait = if stays { wait } else { Duration::ZERO };
            let message = self.service.receive_from(from.as_ref(), wait);
            if self.is_gone() {
                if let Some(message) = message {
                    self.service.give_back(message);
                }
                return Err(Fault::Gone);
            }
            let Some(message) = message else {
                if self.service.is_stopping() {
                    return Err(Fault::Stopping);
                }
                if !follow && left.is_zero() {
                    return Err(Fault::No(match from {
                        Some(from) => format!("no message of {from} came in time"),
                        None => "no message came in time".into(),
                    }));
                }
                if !stays {
                    self.stay()?;
                    stays = true;
                }
                continue;
            };
            let written = self.write(&success(json::message(&message)));
            let taken = written.is_ok() && (!acknowledges || self.is_acknowledged(reader));
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

    pub(super) fn watch(&self, asked: &Asked<'_>) -> Result<Option<Json>, Fault> {
        let node = asked.node_in("node")?;
        let prefix = if asked.has("key") { Some(asked.text("key")?) } else { None };
        let initial = asked.flag("initial")?;
        self.check_known(asked, node.as_ref())?;
        self.stay()?;
        let (events, peers, states) =
            self.service.subscribe_with_all().ok_or_else(too_many_listen)?;
        let is_wanted = |event: &Event| {
            let of_node = node.as_ref().is_none_or(|node| event.node_id() == Some(node));
            let of_key = prefix.is_none_or(|prefix| {
                matches!(event, Event::Updated { key, .. } if key.as_str().starts_with(prefix))
            });
            matches!(event, Event::Lagged { .. }) || of_node && of_key
        };
        let now = SystemTime::now();
        if initial {
            self.write(&success(json::mark("snapshot", now)))?;
            let statuses = peers.iter().map(json::status_event);
            let now_ms = self.service.now_ms();
            let updates = states.iter().flat_map(|state| json::updates(state, now_ms));
            for event in statuses.chain(updates).filter(is_wanted) {
                self.write(&success(json::event(now, &event)))?;
            }
        }
        drop((peers, states));
        // So that the caller knows from when on it sees every change.
        self.write(&success(json::mark("watching", now)))?;
        loop {
            let (time, event) = match events.wait(LOOK_EVERY) {
                Ok(timed) => timed,
                Err(RecvTimeoutError::Disconnected) => return Err(Fault::Stopping),
                Err(_) if self.is_gone() => return Err(Fault::Gone),
                Err(_) => continue,
            };
            if is_wanted(&event) {
                self.write(&success(json::event(time, &event)))?;
            }
        }
    }

    /// So many peers are alive, and were heard since the question came: all are asked, those that
    /// come meanwhile, too.
    pub(super) fn wait_peers(&self, asked: &Asked<'_>) -> Result<Json, Fault> {
        let count = asked.number("count")?;
        let began = self.service.now_ms();
        self.wait(asked, &format!("{count} peers to be alive"), LOOK_EVERY / 10, || {
            if count > 0 {
                self.service.ask_the_living(began);
            }
            let heard = self.service.heard_since(began) as u64;
            if heard >= count {
                return Ok(json!({ "alive": heard }));
            }
            let alive = self.service.status().peers.alive;
            Err(format!("{heard} answered, of {alive} that count as alive"))
        })
    }

    pub(super) fn wait_node(&self, asked: &Asked<'_>) -> Result<Json, Fault> {
        let (node, wanted) = (asked.node()?, asked.statuses()?);
        let words: Vec<&str> = wanted.iter().map(|status| status.as_str()).collect();
        let what = format!("{node} to be {}", words.join(" or "));
        self.wait(asked, &what, LOOK_EVERY, || match self.service.status_of(&node) {
            Some(status) if wanted.contains(&status) => Ok(json!({ "status": status.as_str() })),
            Some(status) => Err(format!("it is {}", status.as_str())),
            None => Err(format!("no node {node} is known here")),
        })
    }

    pub(super) fn wait_synced(&self, asked: &Asked<'_>) -> Result<Json, Fault> {
        let count = if asked.has("count") { Some(asked.number("count")?) } else { None };
        let what = match count {
            Some(count) => format!("{count} peers to hold the newest version of the own state"),
            None => "all peers that are alive to hold the newest version of the own state".into(),
        };
        self.wait(asked, &what, HOLDERS_LOOK_EVERY, || {
            let holders = self.service.holders();
            let held = holders.held as u64;
            let is_done = match count {
                Some(count) => held >= count,
                None => held > 0 && holders.lacking.is_empty(),
            };
            if is_done {
                return Ok(json!({ "held": held }));
            }
            let lacking: Vec<&str> =
                holders.lacking.iter().take(NAMED_MAX).map(NodeId::as_str).collect();
            let alive = holders.held + holders.lacking.len();
            Err(match lacking.as_slice() {
                [] if alive == 0 => "no peer is alive".into(),
                [] => format!("all {alive} that are alive do"),
                some => {
                    let more = if holders.lacking.len() > some.len() { ", …" } else { "" };
                    format!("{held} of {alive} that are alive do, not {}{more}", some.join(", "))
                }
            })
        })
    }

    pub(super) fn wait_key(&self, asked: &Asked<'_>) -> Result<Json, Fault> {
        let (node, key, wanted) = (asked.node()?, asked.key()?, asked.wanted()?);
        let what = match &wanted {
            Wanted::There => format!("the key {key:?} of {node}"),
            Wanted::Value(value) => format!("the key {key:?} of {node} to be {}", shown(value)),
            Wanted::Gone => format!("the key {key:?} of {node} to be gone"),
            Wanted::Not(value) => format!("the key {key:?} of {node} to be not {}", shown(value)),
            Wanted::Changed => format!("the key {key:?} of {node} to change"),
        };
        let value = || {
            let state = self.service.state(&node)?;
            Some((state.timestamp, state.entries.get(key).cloned()))
        };
        let first = value().and_then(|(_, value)| value);
        self.wait(asked, &what, LOOK_EVERY, || {
            let Some((timestamp, value)) = value() else {
                return Err(format!("no state of a node {node} is here"));
            };
            let bytes = value.as_ref().map(Value::as_bytes);
            let is_it = match &wanted {
                Wanted::There => bytes.is_some(),
                Wanted::Value(wanted) => bytes == Some(wanted),
                Wanted::Gone => bytes.is_none(),
                Wanted::Not(unwanted) => bytes != Some(unwanted),
                Wanted::Changed => value != first,
            };
            if is_it {
                let value = bytes.map_or(Json::Null, bytes_to_json);
                return Ok(json!({ "value": value, "timestamp": timestamp }));
            }
            Err(bytes
                .map_or_else(|| "there is none".into(), |bytes| format!("it is {}", shown(bytes))))
        })
    }

    /// Looks now, after each event, and now and then, until it is true or the time runs out.
    fn wait(
        &self,
        asked: &Asked<'_>,
        what: &str,
        look_every: Duration,
        look: impl Fn() -> Result<Json, String>,
    ) -> Result<Json, Fault> {
        let until = Instant::now() + asked.timeout()?;
        // First the subscription, then the look: nothing falls between them.
        let events = self.service.subscribe().ok_or_else(too_many_listen)?;
        let mut stays = false;
        loop {
            let seen = match look() {
                Ok(result) => return Ok(result),
                Err(seen) => seen,
            };
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Fault::No(format!("timed out: waited for {what}; seen last: {seen}")));
            }
            if !stays {
                self.stay()?;
                stays = true;
            }
            if self.is_gone() {
                return Err(Fault::Gone);
            }
            if let Err(RecvTimeoutError::Disconnected) = events.wait(left.min(look_every)) {
                return Err(Fault::Stopping);
            }
        }
    }
}

fn too_many_listen() -> Fault {
    Fault::No("too many programs listen to events already; try again later".into())
}

/// A value for a text: its beginning, or how long it is.
fn shown(bytes: &[u8]) -> String {
    match str::from_utf8(bytes) {
        Ok(text) if text.chars().count() <= SHOWN_MAX => format!("{text:?}"),
        Ok(text) => {
            let start: String = text.chars().take(SHOWN_MAX).collect();
            format!("{start:?}… ({} bytes)", bytes.len())
        }
        Err(_) => format!("{} bytes that are no text", bytes.len()),
    }
}
