//! What people and programs beside the node ask for.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, SendTimeoutError, bounded};

use super::{Driver, Pushes};
use crate::events::Subscription;
use crate::keeper::SetJob;
use crate::protocol::entries::{Change, Key, Value, change_of};
use crate::protocol::fault::{Code, Fault, Notice};
use crate::protocol::flight::Ticket;
use crate::protocol::identity::NodeId;
use crate::protocol::lease::Ttl;
use crate::protocol::node::{Action, Node, Now};
use crate::protocol::report::{Holders, Message, NodeState, PeerInfo, PeerStatus, Refused, Status};
use crate::server::{Server, Trouble};

impl Driver {
    /// What the node says of itself.
    pub fn status(&self) -> Status {
        self.status_at().1
    }

    /// The same, with the moment that it is of, ms by the clock for all waiting.
    pub fn status_at(&self) -> (u64, Status) {
        let listen = match &*self.server() {
            Some(server) => server.local_address().to_string(),
            None => String::new(),
        };
        let now = self.now();
        let inner = self.lock();
        let mut status = inner.node.status(&listen, env!("CARGO_PKG_VERSION"), now);
        status.discovery = inner.discovered();
        drop(inner);
        status.http = self.web().as_ref().map(|web| web.local_address().to_string());
        status.degraded.splice(..0, self.own_faults(|_| true));
        status.notices.extend(self.log_notice());
        status.network_key = self.network_key_names().into_iter().next().unwrap_or_default();
        (now.mono_ms, status)
    }

    /// All that is wrong but a crowd at the port of the page: anybody who reaches that could make a
    /// probe restart the node.
    pub fn faults_for_probes(&self) -> Vec<Fault> {
        let mut faults = self.own_faults(|trouble| trouble != Trouble::Strangers);
        faults.extend(self.lock().node.faults(self.now()));
        faults
    }

    /// All that is wrong right now: with the program, the disk and the port first, then with the
    /// network.
    pub(super) fn faults(&self, now: Now) -> Vec<Fault> {
        let mut faults = self.own_faults(|_| true);
        faults.extend(self.lock().node.faults(now));
        faults
    }

    /// Takes which troubles of the port of the page count.
    fn own_faults(&self, counts: fn(Trouble) -> bool) -> Vec<Fault> {
        let broken = self.broken().map(|why| {
            let text = format!("the node broke a rule of its own and stops: {why}");
            Fault::new(Code::Program, text, "start it again, and report it")
        });
        let port = self.server().as_ref().map(Server::troubles).unwrap_or_default();
        let port = port.into_iter().map(|(trouble, text)| port_fault(trouble, text));
        let web = self.web().as_ref().map(Server::troubles).unwrap_or_default();
        let web = web.into_iter().filter(|(trouble, _)| counts(*trouble));
        let web = web.map(|(trouble, text)| web_fault(trouble, &text));
        let inner = self.lock();
        let hint = "it is tried again by itself; until then no change of it is taken";
        let disk = |code, text: &Option<String>| Some(Fault::new(code, text.clone()?, hint));
        let disks =
            [disk(Code::StateDisk, &inner.state_fault), disk(Code::PeersDisk, &inner.peers_fault)];
        let discovery = inner.discovering.as_ref().and_then(|it| it.fault.clone());
        drop(inner);
        broken
            .into_iter()
            .chain(disks.into_iter().flatten())
            .chain(port)
            .chain(web)
            .chain(discovery)
            .collect()
    }

    /// Lets `status` tell how many lines of the log were dropped: whoever writes the log counts.
    pub fn count_dropped_lines(&self, count: Arc<AtomicU64>) {
        // The first one stays: there is one log.
        let _ = self.log_dropped.set(count);
    }

    fn log_notice(&self) -> Option<Notice> {
        let count = self.log_dropped.get()?.load(Ordering::Relaxed);
        let text = format!("{count} lines of the log were dropped, as nobody took them");
        let hint =
            "whoever reads stderr of the node stands still: Ctrl-Q in its terminal lets it go on";
        (count > 0).then(|| Notice {
            fault: Fault::new(Code::LogDropped, text, hint),
            ago: Duration::ZERO,
        })
    }

    /// The own id.
    pub fn node_id(&self) -> &NodeId {
        &self.node_id
    }

    /// All peers in the order of their ids.
    pub fn peers(&self) -> Vec<PeerInfo> {
        self.peers_at().1
    }

    /// The same, with the moment that they are seen at, ms by the clock for all waiting.
    pub fn peers_at(&self) -> (u64, Vec<PeerInfo>) {
        let now = self.now();
        (now.mono_ms, self.lock().node.peers(now))
    }

    /// The value of a key of a node, the own one too.
    pub fn get(&self, node_id: &NodeId, key: &str) -> Option<Value> {
        self.state(node_id)?.entries.get(key).cloned()
    }

    /// The state of a node, the own one too.
    pub fn state(&self, node_id: &NodeId) -> Option<NodeState> {
        let inner = self.lock();
        inner.node.state(node_id).map(|state| inner.with_leases(state))
    }

    /// Whether it is this node, or one that it knows of.
    pub fn knows(&self, node_id: &NodeId) -> bool {
        self.lock().node.knows(node_id)
    }

    /// How a node is doing; this one is always alive.
    pub fn status_of(&self, node_id: &NodeId) -> Option<PeerStatus> {
        self.lock().node.status_of(node_id)
    }

    /// Who of the peers that are alive holds the newest version of the own state.
    pub fn holders(&self) -> Holders {
        self.lock().node.holders()
    }

    /// Asks all that count as alive and were not heard since then (ms) whether they still are.
    pub fn ask_the_living(&self, since_ms: u64) {
        self.decide(|node, now| ((), node.ask_the_living(since_ms, now)));
    }

    /// How many peers are alive and were heard since then (ms).
    pub fn heard_since(&self, since_ms: u64) -> usize {
        self.lock().node.heard_since(since_ms)
    }

    /// The states of all nodes, the own one first.
    pub fn states(&self) -> Vec<NodeState> {
        let inner = self.lock();
        inner.states()
    }

    /// Sets a key of the own state; returns the timestamp of the version when it is durable.
    pub fn set(&self, key: Key, value: Value) -> Result<u64, Refused> {
        self.change(change_of(vec![(key, Some(value))]))
    }

    /// Removes a key of the own state.
    pub fn unset(&self, key: Key) -> Result<u64, Refused> {
        self.change(change_of(vec![(key, None)]))
    }

    /// Sets and removes several keys in one version; returns its timestamp when it is durable.
    pub fn change(&self, change: Change) -> Result<u64, Refused> {
        self.change_for(change, None)
    }

    /// The same; what it sets stands for so long unless it is set again.
    pub fn change_for(&self, change: Change, ttl: Option<Ttl>) -> Result<u64, Refused> {
        let _pushes = Pushes(self);
        self.commit(change, ttl, false, None)
    }

    /// The same, and does not wait longer than that for the disk. A change that was handed to it is
    /// made all the same where the disk takes it later.
    ///
    /// The change begins to go to others when the second of what this gives is dropped: an answer
    /// that has to be passed on does not wait for those pushes.
    pub fn change_within(
        &self,
        change: Change,
        ttl: Option<Ttl>,
        timeout: Duration,
    ) -> (Result<u64, Refused>, Pushes<'_>) {
        let pushes = Pushes(self);
        (self.commit(change, ttl, false, Some(timeout)), pushes)
    }

    fn commit(
        &self,
        change: Change,
        ttl: Option<Ttl>,
        left: bool,
        timeout: Option<Duration>,
    ) -> Result<u64, Refused> {
        self.check_broken()?;
        if self.is_stopping() {
            return Err(Refused::Stopping);
        }
        let (reply, answer) = bounded(1);
        let job = SetJob { change, ttl, left, reply };
        let Some(timeout) = timeout else {
            self.sets.send(job).map_err(|_| Refused::Stopping)?;
            return answer.recv().map_err(|_| Refused::Stopping)?;
        };
        let until = Instant::now() + timeout;
        let late = |what: &str| Refused::TimedOut {
            what: format!("the disk did not take the change within {timeout:?}; {what}"),
        };
        self.sets.send_timeout(job, timeout).map_err(|failed| match failed {
            SendTimeoutError::Timeout(_) => late("nothing was changed, as others wait before it"),
            SendTimeoutError::Disconnected(_) => Refused::Stopping,
        })?;
        answer.recv_deadline(until).unwrap_or_else(|failed| match failed {
            RecvTimeoutError::Timeout => Err(late("it is made all the same if the disk does")),
            RecvTimeoutError::Disconnected => Err(Refused::Stopping),
        })
    }

    /// Sends a PING; gives the round-trip time.
    pub fn ping(&self, node_id: &NodeId, timeout: Duration) -> Result<Duration, Refused> {
        let in_vain = |refused| match refused {
            Refused::TimedOut { .. } => {
                Refused::TimedOut { what: format!("{node_id} did not answer within {timeout:?}") }
            }
            other => other,
        };
        let elapsed_us =
            self.wait_for(timeout, |node, now| node.ping(node_id, now)).map_err(in_vain)?;
        Ok(Duration::from_micros(elapsed_us))
    }

    /// Sends DATA; returns when the other side has accepted it.
    pub fn send(
        &self,
        node_id: &NodeId,
        data: Arc<[u8]>,
        timeout: Duration,
    ) -> Result<(), Refused> {
        let in_vain = |refused| match refused {
            Refused::TimedOut { what } => Refused::TimedOut {
                what: format!("{node_id} did not accept the data within {timeout:?}{what}"),
            },
            other => other,
        };
        self.wait_for(timeout, |node, now| node.send(node_id, data, now)).map_err(in_vain)?;
        Ok(())
    }

    fn wait_for(
        &self,
        timeout: Duration,
        ask: impl FnOnce(&mut Node, Now) -> Result<(Ticket, Vec<Action>), Refused>,
    ) -> Result<u64, Refused> {
        self.check_broken()?;
        let (reply, answer) = bounded(1);
        let mut inner = self.lock();
        if inner.is_stopping {
            return Err(Refused::Stopping);
        }
        let now = self.now();
        let (ticket, actions) = ask(&mut inner.node, now)?;
        inner.waiting.insert(ticket, reply);
        let later = inner.settle(actions, now);
        drop(inner);
        self.perform(later);
        if let Ok(result) = answer.recv_timeout(timeout) {
            return result;
        }
        let mut inner = self.lock();
        inner.waiting.remove(&ticket);
        let doubtful = inner.node.cancel(ticket);
        drop(inner);
        // It may have been settled between the end of the time and the lock.
        answer.try_recv().unwrap_or_else(|_| {
            let what = if doubtful { "; it may have been delivered all the same" } else { "" };
            Err(Refused::TimedOut { what: what.into() })
        })
    }

    /// Takes the oldest DATA out of the inbox, or waits for one.
    pub fn receive(&self, timeout: Duration) -> Option<Message> {
        self.receive_from(None, timeout)
    }

    /// The same, of one sender where one is named.
    pub fn receive_from(&self, from: Option<&NodeId>, timeout: Duration) -> Option<Message> {
        let until = Instant::now() + timeout;
        let mut inner = self.lock();
        loop {
            if let Some(message) = inner.node.receive_from(from) {
                return Some(message);
            }
            let left = until.checked_duration_since(Instant::now())?;
            if left.is_zero() || inner.is_stopping {
                return None;
            }
            inner = self.wait_settled(inner, left);
        }
    }

    /// Puts a message back in front of the inbox: its reader went away before it had it.
    pub fn give_back(&self, message: Message) {
        self.lock().node.give_back(message);
        self.settled.notify_all();
    }

    /// Events from now on, over a bounded channel; nothing where too many listen already.
    pub fn subscribe(&self) -> Option<Subscription> {
        self.lock().hub.subscribe()
    }

    /// The same, with all that is there at this moment: peers, and the states of all nodes. What
    /// comes as an event is a change of that, and no change is missing.
    pub fn subscribe_with_all(&self) -> Option<(Subscription, Vec<PeerInfo>, Vec<NodeState>)> {
        let now = self.now();
        let mut inner = self.lock();
        let events = inner.hub.subscribe()?;
        Some((events, inner.node.peers(now), inner.states()))
    }

    /// Drops all that is known of nodes: their keys, addresses and states. They come back by their
    /// own HELLO alone. Where one can't be forgotten, none is.
    pub fn forget(&self, node_ids: &[NodeId]) -> Result<(), Refused> {
        self.decide(|node, now| {
            for node_id in node_ids {
                if let Err(refused) = node.may_forget(node_id) {
                    return (Err(refused), Vec::new());
                }
            }
            let forgets = node_ids.iter().map(|node_id| node.forget(node_id, now));
            let actions = forgets.flatten().flatten().collect();
            (Ok(()), actions)
        })
    }

    /// The same for all that are lost; gives which.
    pub fn forget_lost(&self) -> Vec<NodeId> {
        self.decide(|node, now| {
            let lost = node.lost();
            let forgets = lost.iter().map(|node_id| node.forget(node_id, now));
            let actions = forgets.flatten().flatten().collect();
            (lost, actions)
        })
    }

    /// Says goodbye: makes it durable, then waits until all that answer were told. Where the time
    /// runs out before, the error names those that were not; the goodbye stays.
    pub fn leave(&self, timeout: Duration) -> Result<(), Refused> {
        let pushes = Pushes(self);
        self.commit(Change::new(), None, true, None)?;
        drop(pushes);
        let until = Instant::now() + timeout;
        let mut inner = self.lock();
        loop {
            let nodes = inner.node.unaware();
            if nodes.is_empty() {
                return Ok(());
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || inner.is_stopping {
                return Err(Refused::NotTold { nodes });
            }
            inner = self.wait_settled(inner, left);
        }
    }

    /// Refuses what comes from now on, and wakes whoever waits.
    pub fn begin_stop(&self) {
        let mut inner = self.lock();
        inner.is_stopping = true;
        inner.hub.close();
        for (_, waiting) in inner.waiting.drain() {
            let _ = waiting.try_send(Err(Refused::Stopping));
        }
        drop(inner);
        self.settled.notify_all();
    }

    /// Whether the node is about to stop.
    pub fn is_stopping(&self) -> bool {
        self.lock().is_stopping
    }
}

fn port_fault(trouble: Trouble, text: String) -> Fault {
    let (code, hint) = match trouble {
        Trouble::Strangers => {
            (Code::Strangers, "find out who it is; members are served all the same")
        }
        Trouble::Deaf => (
            Code::Port,
            "raise the limit of open files (`ulimit -n`, `LimitNOFILE=`); it is tried again",
        ),
        Trouble::NoAddress => (
            Code::Port,
            "look at `ip address`, or change --listen; it works from when the address is there",
        ),
        Trouble::Backend => (Code::Program, "it mends itself; report it"),
    };
    Fault::new(code, text, hint)
}

/// The same of the port of the page, which is no port for members.
fn web_fault(trouble: Trouble, text: &str) -> Fault {
    let fault = port_fault(trouble, format!("the port of the page (--http): {text}"));
    let hint = match trouble {
        Trouble::Strangers => {
            "find out who it is; with a token (--http-token) who shows it is served all the same"
        }
        Trouble::NoAddress => {
            "look at `ip address`, or change --http; it works from when the address is there"
        }
        Trouble::Deaf | Trouble::Backend => return fault,
    };
    Fault { hint: hint.into(), ..fault }
}
