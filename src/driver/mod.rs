//! The one mutex: bytes are opened, decoded and verified outside it, the rules run inside it, and
//! what they decide is done outside it again.

mod asked;
mod incoming;
mod outgoing;

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use ring::rand::{SecureRandom, SystemRandom};

use crate::client::Client;
use crate::events::Hub;
use crate::protocol::crypto::{CryptoFault, NONCE_BYTES, NetworkKeys, PrivateKey, Signed, verify};
use crate::protocol::entries::Difference;
use crate::protocol::identity::NodeId;
use crate::protocol::node::{Action, Node, Now, Pin, Target};
use crate::protocol::peers::Ticket;
use crate::protocol::report::{Event, Refused};
use crate::protocol::state::{Change, Entries, Head, Record, Signature};
use crate::protocol::verdict::Reason;
use crate::protocol::wire;
use crate::protocol::{PEERS_MAX, SEEDS_MAX};

/// Most sends that can wait: one for each target, by the rule of one flight a target.
const JOBS_MAX: usize = PEERS_MAX + SEEDS_MAX;
/// Most changes that wait for the disk; whoever brings one more waits for a place.
const DISK_JOBS_MAX: usize = 256;

/// Something that the journal's thread has to do.
pub enum DiskJob {
    /// Make a change durable, then tell.
    Set(SetJob),
    /// Make a version above what peers hold.
    Republish,
    /// Keep pinned keys and addresses.
    SavePeers,
}

/// A change that somebody waits for.
pub struct SetJob {
    /// The change.
    pub change: Change,
    /// Whether the node leaves with it.
    pub left: bool,
    /// Gets the timestamp of the version.
    pub reply: Sender<Result<u64, Refused>>,
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
    /// Those of the moment; a request and its answer use the same ones.
    keys: RwLock<Arc<NetworkKeys>>,
    private_key: PrivateKey,
    /// Held while the own record is signed.
    signing: Mutex<()>,
    random: SystemRandom,
    client: Client,
    began: Instant,
    prompt: Sender<Target>,
    doubtful: Sender<Target>,
    disk: Sender<DiskJob>,
    wake: Sender<()>,
    stopping: AtomicBool,
    /// Requests that were answered.
    handled: AtomicU64,
}

struct Inner {
    node: Node,
    hub: Hub,
    waiting: HashMap<Ticket, Sender<Result<u64, Refused>>>,
    wake_at: u64,
    disk_faults: [Option<String>; 2],
}

/// What the node keeps on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// The own state.
    State = 0,
    /// Keys and addresses of the peers.
    Peers = 1,
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
            disk_faults: [None, None],
        };
        let driver = Self {
            inner: Mutex::new(inner),
            settled: Condvar::new(),
            keys: RwLock::new(Arc::new(keys)),
            private_key,
            signing: Mutex::default(),
            random: SystemRandom::new(),
            client,
            began,
            prompt,
            doubtful,
            disk,
            wake,
            stopping: AtomicBool::new(false),
            handled: AtomicU64::new(0),
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
        for Difference { key, old, new } in old.differences(new) {
            self.hub.publish(&Event::Updated { node_id: node_id.clone(), key, old, new });
        }
    }
}

/// What requests in both directions need.
impl Driver {
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

    /// The own record is signed when it is first sent, once for each version.
    fn sign_head(&self, head: &Head, cell: &OnceLock<Signature>) -> Result<(), DriverFault> {
        if cell.get().is_some() {
            return Ok(());
        }
        // Whoever waits here needs this very signature.
        let _signing = self.signing.lock().unwrap_or_else(PoisonError::into_inner);
        if cell.get().is_none() {
            let signature = self.private_key.sign(Signed::Record(head))?;
            // Nobody else sets it while the lock is held.
            let _ = cell.set(signature);
        }
        Ok(())
    }

    fn sign_records(&self, records: &[Arc<Record>]) -> Result<(), DriverFault> {
        records.iter().try_for_each(|record| self.sign_head(&record.head, &record.signature))
    }

    fn keys(&self) -> Arc<NetworkKeys> {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The names of the network keys, the one that seals first.
    pub fn network_key_names(&self) -> Vec<String> {
        self.keys().names()
    }

    /// Takes other network keys: from now on the first one seals, all open.
    pub fn set_keys(&self, keys: NetworkKeys) {
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
    }

    fn nonce(&self) -> Result<[u8; NONCE_BYTES], DriverFault> {
        let mut nonce = [0; NONCE_BYTES];
        self.random.fill(&mut nonce).map_err(|_| DriverFault::NoRandomness)?;
        Ok(nonce)
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

    /// How long ago the tick was due that did not come yet.
    pub fn tick_late(&self) -> Duration {
        let wake_at = self.lock().wake_at;
        Duration::from_millis(self.now().mono_ms.saturating_sub(wake_at))
    }

    /// How many requests were answered so far; it goes round at its end.
    pub fn handled(&self) -> u64 {
        self.handled.load(Ordering::Relaxed)
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

    /// Notes that the disk failed, or that it works again. Each is logged once.
    pub fn note_disk(&self, what: Kept, fault: Option<String>) {
        let mut inner = self.lock();
        let Some(known) = inner.disk_faults.get_mut(what as usize) else {
            return;
        };
        if *known == fault {
            return;
        }
        match (&fault, what) {
            (Some(why), _) => log::error!("{why}"),
            (None, Kept::State) => log::info!("the own state can be written again"),
            (None, Kept::Peers) => log::info!("the known peers can be written again"),
        }
        *known = fault;
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

impl fmt::Display for DriverFault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
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
