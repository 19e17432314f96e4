//! The one mutex: bytes are opened, decoded and verified outside it, the rules run inside it, and
//! what they decide is done outside it again.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use ring::rand::{SecureRandom, SystemRandom};

use crate::client::{self, Client};
use crate::events::{Hub, Subscription};
use crate::protocol::crypto::{
    CryptoFault, NONCE_BYTES, NetworkKeys, Opened, Place, PrivateKey, Signed, Tag, open, seal,
    verify,
};
use crate::protocol::identity::{NodeId, hex, unhex};
use crate::protocol::node::{Action, Authentic, Node, Now, Outcome, Outgoing, Pin, Reply, Target};
use crate::protocol::peers::Ticket;
use crate::protocol::report::{Event, Message, NodeState, PeerInfo, Refused, Status};
use crate::protocol::state::{Change, Entries, Head, Record, Signature};
use crate::protocol::verdict::{Reason, Status as HttpStatus};
use crate::protocol::wire::{self, Answer, Kind, Refusal, Request};
use crate::protocol::{PEERS_MAX, SEEDS_MAX};
use crate::server;

/// Most sends that can wait: one for each target, by the rule of one flight a target.
const JOBS_MAX: usize = PEERS_MAX + SEEDS_MAX;
/// Most changes that wait for the disk; whoever brings one more waits for a place.
const DISK_JOBS_MAX: usize = 256;

/// Something that the journal's thread has to do.
pub enum DiskJob {
    /// Make a change durable, then tell.
    Set {
        /// The change.
        change: Change,
        /// Whether the node leaves with it.
        left: bool,
        /// Gets the timestamp of the version.
        reply: Sender<Result<u64, Refused>>,
    },
    /// Make a version above what peers hold.
    Republish,
    /// Keep pinned keys and addresses.
    SavePeers,
}

/// What the threads take their work from.
pub struct Queues {
    /// Sends to peers that answer.
    pub prompt: Receiver<Target>,
    /// Sends to those that may not.
    pub doubtful: Receiver<Target>,
    /// Work for the disk.
    pub disk: Receiver<DiskJob>,
    /// The next tick is due earlier than thought.
    pub wake: Receiver<()>,
}

/// The node behind its mutex, with all that is needed to do what it decides.
pub struct Driver {
    inner: Mutex<Inner>,
    /// Told whenever something was settled.
    settled: Condvar,
    keys: NetworkKeys,
    private_key: PrivateKey,
    random: SystemRandom,
    client: Client,
    began: Instant,
    prompt: Sender<Target>,
    doubtful: Sender<Target>,
    disk: Sender<DiskJob>,
    wake: Sender<()>,
    stopping: AtomicBool,
}

struct Inner {
    node: Node,
    hub: Hub,
    waiting: HashMap<Ticket, Sender<Result<u64, Refused>>>,
    wake_at: u64,
    disk_fault: Option<String>,
}

/// The clocks of this process.
pub fn now_since(began: Instant) -> Now {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Now {
        wall_us: u64::try_from(wall.as_micros()).unwrap_or(u64::MAX),
        mono_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
    }
}

impl Driver {
    /// Takes the node and what it seals and signs with; gives the driver and its queues.
    pub fn new(
        node: Node,
        keys: NetworkKeys,
        private_key: PrivateKey,
        client: Client,
        began: Instant,
    ) -> (Arc<Self>, Queues) {
        let (prompt, prompt_queue) = bounded(JOBS_MAX);
        let (doubtful, doubtful_queue) = bounded(JOBS_MAX);
        let (disk, disk_queue) = bounded(DISK_JOBS_MAX);
        let (wake, wake_queue) = bounded(1);
        let inner = Inner {
            node,
            hub: Hub::default(),
            waiting: HashMap::new(),
            wake_at: 0,
            disk_fault: None,
        };
        let driver = Self {
            inner: Mutex::new(inner),
            settled: Condvar::new(),
            keys,
            private_key,
            random: SystemRandom::new(),
            client,
            began,
            prompt,
            doubtful,
            disk,
            wake,
            stopping: AtomicBool::new(false),
        };
        let queues = Queues {
            prompt: prompt_queue,
            doubtful: doubtful_queue,
            disk: disk_queue,
            wake: wake_queue,
        };
        (Arc::new(driver), queues)
    }

    /// A panic while the lock is held is a bug of ours; the state it guards is changed in whole
    /// steps, so the others go on.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Now {
        now_since(self.began)
    }

    /// Runs a rule under the lock and does what it decides.
    fn decide<T>(&self, rule: impl FnOnce(&mut Node, Now) -> (T, Vec<Action>)) -> T {
        let mut inner = self.lock();
        let (result, actions) = rule(&mut inner.node, self.now());
        let later = inner.settle(actions);
        drop(inner);
        self.settled.notify_all();
        self.perform(later);
        result
    }

    fn perform(&self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Send { target, doubtful } => {
                    let queue = if doubtful { &self.doubtful } else { &self.prompt };
                    if let Err(TrySendError::Full(target)) = queue.try_send(target) {
                        log::error!(
                            "BUG: the queue of sends is full; {target:?} waits for a restart"
                        );
                    }
                }
                // A full queue means that the ticker is about to look anyway.
                Action::WakeAt(_) => drop(self.wake.try_send(())),
                Action::Republish => self.ask_disk(DiskJob::Republish),
                Action::SavePeers => self.ask_disk(DiskJob::SavePeers),
                Action::Note(text) => log::warn!("{text}"),
                Action::Tell(_) | Action::Changed { .. } | Action::Finish(..) => {}
            }
        }
    }

    /// The disk's queue is only full while many changes wait: the next tick asks again.
    fn ask_disk(&self, job: DiskJob) {
        if self.disk.try_send(job).is_err() {
            log::debug!("the disk is busy");
        }
    }
}

impl Inner {
    /// Does what has to be done in order and can't block; gives back the rest.
    fn settle(&mut self, actions: Vec<Action>) -> Vec<Action> {
        let mut later = Vec::new();
        for action in actions {
            match action {
                Action::Tell(event) => self.tell(&event),
                Action::Changed { node_id, old, new } => self.tell_changes(&node_id, &old, &new),
                Action::Finish(ticket, result) => {
                    if let Some(waiting) = self.waiting.remove(&ticket) {
                        // Whoever waited may have gone.
                        let _ = waiting.try_send(result);
                    }
                }
                Action::WakeAt(at) if at >= self.wake_at => {}
                Action::WakeAt(at) => {
                    self.wake_at = at;
                    later.push(Action::WakeAt(at));
                }
                other => later.push(other),
            }
        }
        later
    }

    fn tell(&mut self, event: &Event) {
        match event {
            Event::Data { node_id, data } => {
                log::debug!("{} bytes of DATA from {node_id}", data.len())
            }
            other => {
                if let Some(node_id) = other.node_id() {
                    log::info!("{node_id} {}", other.name());
                }
            }
        }
        self.hub.publish(event);
    }

    fn tell_changes(&mut self, node_id: &NodeId, old: &Entries, new: &Entries) {
        if self.hub.is_empty() {
            return;
        }
        let gone = old.keys().filter(|key| !new.contains_key(*key));
        for key in new.keys().chain(gone) {
            let (before, after) = (old.get(key), new.get(key));
            if before != after {
                self.hub.publish(&Event::Updated {
                    node_id: node_id.clone(),
                    key: key.clone(),
                    old: before.cloned(),
                    new: after.cloned(),
                });
            }
        }
    }
}

/// Requests that come in.
impl Driver {
    /// Takes the bytes of a request and gives the answer: the only way in from the network.
    pub fn on_http(&self, request: server::Request) -> server::Response {
        let Some(kind) = Kind::of_path(&request.path) else {
            return server::Response { status: 404, ..server::Response::default() };
        };
        let place = Place::Request { path: kind.path() };
        let Ok(opened) = open(&self.keys, place, request.body) else {
            log::debug!("{} sent bytes to {} that are not a message", request.peer, request.path);
            return server::Response {
                status: HttpStatus::BadRequest.code(),
                ..server::Response::default()
            };
        };
        let reply = match self.judge(kind, &opened, request.peer) {
            Ok(reply) => reply,
            Err(reason) => Reply::refuse(reason, reason.to_string()),
        };
        self.answer(kind, &opened, reply).unwrap_or_else(|fault| {
            log::error!("the answer to {} could not be made: {fault}", request.path);
            server::Response {
                status: HttpStatus::Internal.code(),
                trusted: true,
                ..server::Response::default()
            }
        })
    }

    fn judge(&self, kind: Kind, opened: &Opened, caller: SocketAddr) -> Result<Reply, Reason> {
        if opened.kind != kind.byte() {
            return Err(Reason::WrongType);
        }
        let decoded = wire::decode_request(kind, &opened.payload)?;
        let signed = Signed::Request { kind: kind.byte(), payload: decoded.signed };
        let key = match &decoded.message {
            Request::Hello(hello) => Some(hello.public_key),
            Request::Peers(peers) => self.lock().node.direct_key_of(&peers.header.from),
            Request::Ping(ping) => self.lock().node.direct_key_of(&ping.header.from),
            Request::Data(data) => self.lock().node.direct_key_of(&data.header.from),
            Request::Update(update) => {
                self.check_records(&update.records)?;
                None
            }
        };
        if let Some(key) = key
            && !verify(&key, signed, &decoded.signature)
        {
            return Err(Reason::BadSignature);
        }
        let request = Authentic::new(decoded.message, key);
        Ok(self.decide(|node, now| node.on_request(request, caller, now)))
    }

    /// Checks the owners' signatures of the records that would be taken.
    fn check_records(&self, records: &[Arc<Record>]) -> Result<(), Reason> {
        for record in records {
            let lacks = self.lock().node.lacks(record);
            if lacks && !is_signed_by_owner(record) {
                return Err(Reason::BadSignature);
            }
        }
        Ok(())
    }

    fn answer(
        &self,
        kind: Kind,
        opened: &Opened,
        reply: Reply,
    ) -> Result<server::Response, DriverFault> {
        let (status, payload) = match reply {
            Reply::Answer(answer) => {
                if let Answer::Update(records) = &*answer {
                    self.sign_records(records)?;
                }
                let payload = wire::encode_answer(&answer)?;
                (HttpStatus::Ok, self.sign_answer(kind, &opened.tag, payload)?)
            }
            Reply::Nothing => {
                (HttpStatus::NoContent, self.sign_answer(kind, &opened.tag, Vec::new())?)
            }
            Reply::Refuse(reason, refusal) => (reason.status(), wire::encode_refusal(&refusal)?),
        };
        let place =
            Place::Answer { path: kind.path(), status: status.code(), request: &opened.tag };
        let nonce = self.nonce()?;
        let (envelope, _) = seal(&self.keys, opened.key, nonce, place, kind.byte(), &payload)
            .ok_or(DriverFault::NoKey)?;
        let mut response = server::Response {
            status: status.code(),
            trusted: true,
            ..server::Response::default()
        };
        if status == HttpStatus::NoContent {
            // A 204 has no body, so its seal travels in a header.
            response.seal = Some(hex(&envelope));
        } else {
            response.body = envelope;
        }
        Ok(response)
    }

    fn sign_answer(
        &self,
        kind: Kind,
        request: &Tag,
        mut payload: Vec<u8>,
    ) -> Result<Vec<u8>, DriverFault> {
        if kind.is_signed() {
            let signed = Signed::Answer { kind: kind.byte(), request, payload: &payload };
            let signature = self.private_key.sign(signed)?;
            payload.extend_from_slice(&signature);
        }
        Ok(payload)
    }

    /// The own record is signed when it is first sent, once for each version.
    fn sign_records(&self, records: &[Arc<Record>]) -> Result<(), DriverFault> {
        for record in records {
            if record.signature.get().is_none() {
                let signature = self.private_key.sign(Signed::Record(&record.head))?;
                // Another sender may have been quicker: its signature is as good.
                let _ = record.signature.set(signature);
            }
        }
        Ok(())
    }

    fn nonce(&self) -> Result<[u8; NONCE_BYTES], DriverFault> {
        let mut nonce = [0; NONCE_BYTES];
        self.random.fill(&mut nonce).map_err(|_| DriverFault::NoRandomness)?;
        Ok(nonce)
    }
}

/// Requests that go out.
impl Driver {
    /// Makes one try of what is due to the target, and takes what comes back.
    pub fn run_send(&self, target: &Target) {
        let now = self.now();
        let Some(outgoing) = self.lock().node.begin(target, now) else {
            return;
        };
        let began = Instant::now();
        let outcome = self.try_once(&outgoing).unwrap_or_else(|fault| {
            log::error!("a request to {} could not be made: {fault}", outgoing.address);
            Outcome::Failed(fault.to_string())
        });
        if let Outcome::Failed(why) = &outcome {
            log::debug!("{:?} to {}: {why}", outgoing.request.kind(), outgoing.address);
        }
        let elapsed_us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.decide(|node, now| {
            ((), node.on_answer(target, outgoing.flight, outcome, elapsed_us, now))
        });
    }

    fn try_once(&self, outgoing: &Outgoing) -> Result<Outcome, DriverFault> {
        let kind = outgoing.request.kind();
        if let Request::Update(update) = &outgoing.request {
            self.sign_records(&update.records)?;
        }
        let mut payload = wire::encode_request(&outgoing.request)?;
        if kind.is_signed() {
            let signed = Signed::Request { kind: kind.byte(), payload: &payload };
            let signature = self.private_key.sign(signed)?;
            payload.extend_from_slice(&signature);
        }
        let place = Place::Request { path: kind.path() };
        let (body, tag) = seal(&self.keys, 0, self.nonce()?, place, kind.byte(), &payload)
            .ok_or(DriverFault::NoKey)?;
        let address = outgoing.address.as_str();
        Ok(match self.client.post(address, kind.path(), &body, client::TRY_TIMEOUT) {
            Ok(answer) => self.read_answer(outgoing, &tag, answer).unwrap_or_else(Outcome::Failed),
            Err(fault) => Outcome::Failed(fault.to_string()),
        })
    }

    /// What came back, or why it does not count.
    fn read_answer(
        &self,
        outgoing: &Outgoing,
        tag: &Tag,
        answer: client::Answer,
    ) -> Result<Outcome, String> {
        let kind = outgoing.request.kind();
        let status = answer.status;
        let envelope = if status == HttpStatus::NoContent.code() {
            answer.seal.as_deref().and_then(unhex).unwrap_or_default()
        } else {
            answer.body
        };
        let place = Place::Answer { path: kind.path(), status, request: tag };
        let opened = open(&self.keys, place, envelope).map_err(|_| {
            format!("it answered {status} without the seal of this network: it has another network key, or is no dsn node")
        })?;
        if opened.kind != kind.byte() {
            return Err("its answer is of another kind".into());
        }
        match status {
            200 => self.read_message(outgoing, kind, tag, &opened),
            204 => {
                let signer = match &outgoing.request {
                    Request::Hello(hello) => {
                        let to = hello.to.as_ref().map(|(node_id, _)| node_id);
                        to.and_then(|node_id| self.lock().node.direct_key_of(node_id))
                    }
                    _ => None,
                };
                let signed = Signed::Answer { kind: kind.byte(), request: tag, payload: &[] };
                let signature = Signature::try_from(opened.payload.as_slice());
                let proved = match (kind, signer, signature) {
                    (Kind::Update, ..) => opened.payload.is_empty(),
                    (Kind::Hello, Some(key), Ok(signature)) => verify(&key, signed, &signature),
                    _ => false,
                };
                if proved { Ok(Outcome::Nothing) } else { Err("its answer is not signed".into()) }
            }
            _ => self.read_refusal(status, &opened),
        }
    }

    fn read_message(
        &self,
        outgoing: &Outgoing,
        kind: Kind,
        tag: &Tag,
        opened: &Opened,
    ) -> Result<Outcome, String> {
        let decoded = wire::decode_answer(kind, &opened.payload)
            .map_err(|reason| format!("its answer can't be read: {reason}"))?;
        let signer = match &decoded.message {
            Answer::Hello(hello) => Some(hello.public_key),
            Answer::Update(records) => {
                self.check_records(records)
                    .map_err(|_| "it sent a record that its owner did not sign".to_owned())?;
                None
            }
            _ => outgoing.signer,
        };
        let signed = Signed::Answer { kind: kind.byte(), request: tag, payload: decoded.signed };
        let proved =
            !kind.is_signed() || signer.is_some_and(|key| verify(&key, signed, &decoded.signature));
        if proved {
            Ok(Outcome::Answered(decoded.message))
        } else {
            Err("its answer is not signed with the pinned key".into())
        }
    }

    fn read_refusal(&self, status: u16, opened: &Opened) -> Result<Outcome, String> {
        let refusal: Refusal = wire::decode_refusal(&opened.payload)
            .map_err(|_| format!("it answered {status} with something that can't be read"))?;
        let own_key = self.private_key.public_key();
        let held_is_proved = refusal.held.as_ref().is_some_and(|held| {
            let head = Head {
                node_id: held.node_id.clone(),
                timestamp: held.timestamp,
                left: held.left,
                digest: held.digest,
            };
            verify(&own_key, Signed::Record(&head), &held.signature)
        });
        Ok(Outcome::Refused { refusal, held_is_proved })
    }
}

fn is_signed_by_owner(record: &Record) -> bool {
    let signature = record.signature.get();
    signature.is_some_and(|it| verify(&record.public_key, Signed::Record(&record.head), it))
}

/// Time and disk.
impl Driver {
    /// Does what is due by now.
    pub fn tick(&self) {
        let now = self.now();
        let mut inner = self.lock();
        let (wake_at, actions) = inner.node.on_tick(now);
        inner.wake_at = wake_at;
        let later = inner.settle(actions);
        drop(inner);
        self.settled.notify_all();
        self.perform(later);
    }

    /// How long the ticker may sleep from now.
    pub fn until_tick(&self) -> Duration {
        let wake_at = self.lock().wake_at;
        Duration::from_millis(wake_at.saturating_sub(self.now().mono_ms))
    }

    /// The own record, for the journal's thread to make the next version of.
    pub fn own(&self) -> Arc<Record> {
        Arc::clone(self.lock().node.own())
    }

    /// The timestamp of the next version after `last`.
    pub fn next_timestamp(&self, last: u64) -> Option<u64> {
        let now = self.now();
        self.lock().node.next_timestamp(now.wall_us, last)
    }

    /// Publishes a version of the own record that is on disk by now.
    pub fn publish(&self, record: Arc<Record>) {
        self.decide(|node, now| ((), node.on_set(record, now)));
    }

    /// What to keep of the peers.
    pub fn known_peers(&self) -> Vec<Pin> {
        self.lock().node.known_peers()
    }

    /// Notes that the disk failed, or that it works again.
    pub fn note_disk(&self, fault: Option<String>) {
        let mut inner = self.lock();
        if inner.disk_fault != fault {
            match &fault {
                Some(why) => log::error!("{why}"),
                None => log::info!("the disk takes changes again"),
            }
            inner.disk_fault = fault;
        }
    }
}

/// What people and programs beside the node ask for.
impl Driver {
    /// What the node says of itself; `listen` is where its port is.
    pub fn status(&self, listen: &str) -> Status {
        let now = self.now();
        let inner = self.lock();
        let mut status = inner.node.status(listen, env!("CARGO_PKG_VERSION"), now);
        status.degraded.extend(inner.disk_fault.clone());
        status
    }

    /// All peers in the order of their ids.
    pub fn peers(&self) -> Vec<PeerInfo> {
        let now = self.now();
        self.lock().node.peers(now)
    }

    /// The state of a node, the own one too.
    pub fn state(&self, node_id: &NodeId) -> Option<NodeState> {
        self.lock().node.state(node_id)
    }

    /// The states of all nodes.
    pub fn states(&self) -> Vec<NodeState> {
        self.lock().node.states()
    }

    /// Changes the own state; returns the timestamp of the version when it is durable.
    pub fn set(&self, change: Change, left: bool) -> Result<u64, Refused> {
        let (reply, answer) = bounded(1);
        if self.is_stopping() {
            return Err(Refused::Stopping);
        }
        self.disk.send(DiskJob::Set { change, left, reply }).map_err(|_| Refused::Stopping)?;
        answer.recv().map_err(|_| Refused::Stopping)?
    }

    /// Sends a PING; gives the round-trip time.
    pub fn ping(&self, node_id: &NodeId, timeout: Duration) -> Result<Duration, Refused> {
        let elapsed_us =
            self.wait_for(timeout, |node, now| node.ping(node_id, now)).map_err(|refused| {
                match refused {
                    Refused::TimedOut { .. } => Refused::TimedOut {
                        what: format!("{node_id} did not answer within {timeout:?}"),
                    },
                    other => other,
                }
            })?;
        Ok(Duration::from_micros(elapsed_us))
    }

    /// Sends DATA; returns when the other side has accepted it.
    pub fn send(
        &self,
        node_id: &NodeId,
        data: Arc<[u8]>,
        timeout: Duration,
    ) -> Result<(), Refused> {
        self.wait_for(timeout, |node, now| node.send(node_id, data, now)).map(|_| ()).map_err(
            |refused| match refused {
                Refused::TimedOut { what } => Refused::TimedOut {
                    what: format!("{node_id} did not accept the data within {timeout:?}{what}"),
                },
                other => other,
            },
        )
    }

    fn wait_for(
        &self,
        timeout: Duration,
        ask: impl FnOnce(&mut Node, Now) -> Result<(Ticket, Vec<Action>), Refused>,
    ) -> Result<u64, Refused> {
        if self.is_stopping() {
            return Err(Refused::Stopping);
        }
        let (reply, answer) = bounded(1);
        let mut inner = self.lock();
        let (ticket, actions) = ask(&mut inner.node, self.now())?;
        inner.waiting.insert(ticket, reply);
        let later = inner.settle(actions);
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

    /// Takes the oldest message out of the inbox, or waits for one.
    pub fn receive(&self, timeout: Duration) -> Option<Message> {
        let until = Instant::now() + timeout;
        let mut inner = self.lock();
        loop {
            if let Some(message) = inner.node.receive() {
                return Some(message);
            }
            let left = until.checked_duration_since(Instant::now())?;
            if left.is_zero() || self.is_stopping() {
                return None;
            }
            let waited = self.settled.wait_timeout(inner, left);
            inner = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Puts a message back in front of the inbox.
    pub fn give_back(&self, message: Message) {
        self.lock().node.give_back(message);
        self.settled.notify_all();
    }

    /// Events from now on; nothing where too many listen already.
    pub fn subscribe(&self) -> Option<Subscription> {
        self.lock().hub.subscribe()
    }

    /// Drops all that is known of a node.
    pub fn forget(&self, node_id: &NodeId) -> Result<(), Refused> {
        self.decide(|node, _| match node.forget(node_id) {
            Ok(actions) => (Ok(()), actions),
            Err(refused) => (Err(refused), Vec::new()),
        })
    }

    /// Says goodbye: makes it durable, then waits until all that answer were told, or the time
    /// ran out.
    pub fn leave(&self, timeout: Duration) -> Result<(), Refused> {
        self.set(Change::new(), true)?;
        let until = Instant::now() + timeout;
        let mut inner = self.lock();
        while !inner.node.everybody_knows() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                log::warn!("not all peers could be told that this node leaves");
                break;
            }
            let waited = self.settled.wait_timeout(inner, left);
            inner = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(())
    }

    /// Refuses what comes from now on, and wakes whoever waits.
    pub fn begin_stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        let mut inner = self.lock();
        for (_, waiting) in inner.waiting.drain() {
            let _ = waiting.try_send(Err(Refused::Stopping));
        }
        drop(inner);
        self.settled.notify_all();
    }

    /// Whether the node is about to stop.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }
}

/// Why a message could not be made: our own fault.
#[derive(Debug)]
enum DriverFault {
    Crypto(CryptoFault),
    Encode(String),
    NoRandomness,
    NoKey,
}

impl std::fmt::Display for DriverFault {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Crypto(fault) => fault.fmt(formatter),
            Self::Encode(why) => write!(formatter, "it can't be encoded: {why}"),
            Self::NoRandomness => write!(formatter, "the system gave no randomness"),
            Self::NoKey => write!(formatter, "there is no network key to seal with"),
        }
    }
}

impl From<CryptoFault> for DriverFault {
    fn from(fault: CryptoFault) -> Self {
        Self::Crypto(fault)
    }
}

impl From<wire::EncodeFault> for DriverFault {
    fn from(fault: wire::EncodeFault) -> Self {
        Self::Encode(fault.to_string())
    }
}
