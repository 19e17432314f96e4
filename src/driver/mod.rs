//! The one mutex: bytes are read and checked outside it, the rules run inside it, and what they
//! decide is done outside it again. The steps themselves are in [`crate::steps`].

mod asked;
#[cfg(feature = "discover")]
mod discovered;
mod kept;
mod keys;
mod leases;
mod lines;
mod measured;
mod network;
mod pushes;
#[cfg(test)]
mod tests;
mod told;

use std::collections::HashMap;
use std::hash::RandomState;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam_channel::{Receiver, Sender, bounded};
use ring::rand::{SecureRandom, SystemRandom};

use crate::client::Client;
use crate::events::Hub;
use crate::journal;
use crate::keeper::SetJob;
use crate::metrics::Counts;
use crate::protocol::crypto::{NetworkKeys, PrivateKey};
use crate::protocol::fault::Fault;
use crate::protocol::flight::Ticket;
use crate::protocol::identity::NodeId;
use crate::protocol::node::{Action, Class, Job, Node, Now};
use crate::protocol::report::{Event, Refused};
use crate::protocol::{PEERS_MAX, SEEDS_MAX};
use crate::server::Server;
use crate::steps::Nonce;

pub use keys::KeyChange;
use leases::KnownLeases;
use lines::Lines;
pub use measured::Discovering;
pub use pushes::Pushes;
use told::Told;

/// Most sends of one class that can wait: one for each target. One more goes back to the core.
pub const JOBS_MAX: usize = PEERS_MAX + SEEDS_MAX;
/// Most changes that wait for the disk; whoever brings one more waits for a place.
pub const SETS_MAX: usize = 256;

/// How long the ticker of a node that does nothing more sleeps, unless the node is stopped.
const BROKEN_SLEEP: Duration = Duration::from_secs(3600);

/// What the threads take their work from.
pub struct Queues {
    /// Sends of each class, in the order of [`Class::ALL`].
    pub sends: [Receiver<Job>; Class::ALL.len()],
    /// Changes of the own state.
    pub sets: Receiver<SetJob>,
    /// The node wants something of the disk.
    pub wake_disk: Receiver<()>,
    /// The next tick is due earlier than thought.
    pub wake: Receiver<()>,
    /// Somebody asked the node to stop.
    pub stop_asked: Receiver<()>,
}

/// What a driver is made of.
pub struct Parts {
    /// The node.
    pub node: Node,
    /// What it seals with.
    pub keys: NetworkKeys,
    /// Where that is kept.
    pub key_file: PathBuf,
    /// Where the list of allowed nodes is, if there is one.
    pub allow_file: Option<PathBuf>,
    /// What it signs with.
    pub private_key: PrivateKey,
    /// What it sends with.
    pub client: Client,
    /// Where the known peers are kept.
    pub credentials_folder: PathBuf,
    /// What is done to the file of the own state, where there is one.
    pub journal: Option<Arc<journal::Tally>>,
    /// When the clock for all waiting began.
    pub began: Instant,
    /// What was found or done at the start.
    pub notices: Vec<Fault>,
}

/// The node behind its mutex, with all that is needed to do what it decides; and what programs
/// beside it ask it for.
pub struct Driver {
    inner: Mutex<Inner>,
    /// Told whenever something was settled.
    settled: Condvar,
    node_id: NodeId,
    /// Those of the moment; a request and its answer use the same ones.
    keys: RwLock<Arc<NetworkKeys>>,
    key_file: keys::KeyFile,
    allow_file: Option<PathBuf>,
    private_key: PrivateKey,
    random: SystemRandom,
    /// Names nodes to the gate; nobody can choose ids that get one name.
    callers: RandomState,
    client: Client,
    credentials_folder: PathBuf,
    began: Instant,
    sends: [Sender<Job>; Class::ALL.len()],
    /// Told of each job.
    jobs_wait: OnceLock<Box<dyn Fn() + Send + Sync>>,
    sets: Sender<SetJob>,
    /// Pushes of a change whose callers are about to have their answer: that comes first. One for
    /// each peer at most.
    held: Mutex<Vec<Job>>,
    wake_disk: Sender<()>,
    wake: Sender<()>,
    stop_asked: Sender<()>,
    /// Told of that, too.
    tell_stop: OnceLock<Box<dyn Fn() + Send + Sync>>,
    /// The open port, once it is there.
    server: Mutex<Option<Server>>,
    /// That of the web page, where there is one.
    web: Mutex<Option<Server>>,
    /// Which rule of its own the node broke.
    broken: OnceLock<String>,
    /// Requests that were answered.
    handled: AtomicU64,
    /// What is counted for those who watch the node.
    counts: Counts,
    journal: Option<Arc<journal::Tally>>,
    /// Faults that the log has.
    told: Mutex<Told>,
    /// How many lines of the log were dropped, where whoever writes them counts that.
    log_dropped: OnceLock<Arc<AtomicU64>>,
}

struct Inner {
    node: Node,
    hub: Hub,
    lines: Lines,
    waiting: HashMap<Ticket, Sender<Result<u64, Refused>>>,
    wake_at: u64,
    /// Newer states of others that were taken.
    changes_received: u64,
    /// How many wait for something to be settled.
    wait_settled: usize,
    state_fault: Option<String>,
    peers_fault: Option<String>,
    discovering: Option<Discovering>,
    leases: KnownLeases,
    is_stopping: bool,
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
    pub fn new(parts: Parts) -> (Arc<Self>, Queues) {
        let [healthy, returning, unproved] = [0; Class::ALL.len()].map(|_| bounded(JOBS_MAX));
        let (sets, sets_queue) = bounded(SETS_MAX);
        let mut node = parts.node;
        for notice in parts.notices {
            node.notice(notice, now_since(parts.began));
        }
        // Those of the start are in the log already.
        drop(node.take_untold_notices());
        let [wake_disk, wake, stop_asked] = [0; 3].map(|_| bounded(1));
        let inner = Inner {
            wake_at: 0,
            changes_received: 0,
            wait_settled: 0,
            hub: Hub::default(),
            lines: Lines::new(now_since(parts.began).mono_ms),
            waiting: HashMap::new(),
            state_fault: None,
            peers_fault: None,
            discovering: None,
            leases: KnownLeases::default(),
            is_stopping: false,
            node,
        };
        let driver = Self {
            node_id: inner.node.node_id().clone(),
            inner: Mutex::new(inner),
            settled: Condvar::new(),
            keys: RwLock::new(Arc::new(parts.keys)),
            key_file: keys::KeyFile::new(parts.key_file),
            allow_file: parts.allow_file,
            private_key: parts.private_key,
            random: SystemRandom::new(),
            callers: RandomState::new(),
            client: parts.client,
            credentials_folder: parts.credentials_folder,
            began: parts.began,
            sends: [healthy.0, returning.0, unproved.0],
            jobs_wait: OnceLock::new(),
            sets,
            held: Mutex::default(),
            wake_disk: wake_disk.0,
            wake: wake.0,
            stop_asked: stop_asked.0,
            tell_stop: OnceLock::new(),
            server: Mutex::default(),
            web: Mutex::default(),
            broken: OnceLock::new(),
            handled: AtomicU64::new(0),
            counts: Counts::default(),
            journal: parts.journal,
            told: Mutex::default(),
            log_dropped: OnceLock::new(),
        };
        let queues = Queues {
            sends: [healthy.1, returning.1, unproved.1],
            sets: sets_queue,
            wake_disk: wake_disk.1,
            wake: wake.1,
            stop_asked: stop_asked.1,
        };
        (Arc::new(driver), queues)
    }

    /// The port is open, and that of the web page, where there is one.
    pub fn attach(&self, server: Server, web: Option<Server>) {
        *self.server() = Some(server);
        *self.web() = web;
    }

    /// The port is to be closed: it is the caller's now.
    pub fn detach(&self) -> Option<Server> {
        self.server().take()
    }

    /// The port of the web page is to be closed, too.
    pub fn detach_web(&self) -> Option<Server> {
        self.web().take()
    }

    fn web(&self) -> MutexGuard<'_, Option<Server>> {
        self.web.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn server(&self) -> MutexGuard<'_, Option<Server>> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where a rule panicked in the middle of a change, nobody knows what the node is: it stops.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|poisoned| {
            self.broke("a rule panicked while it changed the node");
            poisoned.into_inner()
        })
    }

    fn now(&self) -> Now {
        now_since(self.began)
    }

    /// The clock for all waiting, ms.
    pub fn now_ms(&self) -> u64 {
        self.now().mono_ms
    }

    /// The node broke a rule of its own. It does nothing more and asks to be stopped, so that
    /// whoever looks after it starts it anew.
    pub fn broke(&self, why: &str) {
        if self.broken.set(why.to_owned()).is_ok() {
            log::error!("BUG: {why}; the node stops");
            self.request_stop();
        }
    }

    /// Does the work of a thread. A node that lacks one looks alive and is not: where it panics,
    /// the node stops, loudly.
    pub fn guard(&self, name: &str, work: impl FnOnce()) {
        if catch_unwind(AssertUnwindSafe(work)).is_err() {
            self.broke(&format!("the thread {name} panicked"));
        }
    }

    /// Which rule of its own the node broke, if it did.
    pub fn broken(&self) -> Option<&str> {
        self.broken.get().map(String::as_str)
    }

    fn check_broken(&self) -> Result<(), Refused> {
        match self.broken() {
            Some(why) => Err(Refused::Broken { why: why.to_owned() }),
            None => Ok(()),
        }
    }

    /// Asks the node to stop, soon after this returned.
    pub fn request_stop(&self) {
        // One wish to stop is enough.
        let _ = self.stop_asked.try_send(());
        self.tell_stop.get().into_iter().for_each(|tell| tell());
    }

    /// Names what is called when somebody asks the node to stop: at once where that was before.
    pub fn when_asked_to_stop(&self, tell: impl Fn() + Send + Sync + 'static) {
        // The first one stays.
        let _ = self.tell_stop.set(Box::new(tell));
        if !self.stop_asked.is_empty() {
            self.tell_stop.get().into_iter().for_each(|tell| tell());
        }
    }

    /// Runs a rule under the lock and does what it decides.
    fn decide<T>(&self, rule: impl FnOnce(&mut Node, Now) -> (T, Vec<Action>)) -> T {
        let (result, later) = self.settle(rule);
        self.perform(later);
        result
    }

    /// The same, and leaves to others what can wait.
    fn settle<T>(&self, rule: impl FnOnce(&mut Node, Now) -> (T, Vec<Action>)) -> (T, Vec<Action>) {
        let mut inner = self.lock();
        let now = self.now();
        let (result, actions) = rule(&mut inner.node, now);
        let later = inner.settle(actions, now);
        self.unlock_and_tell(inner);
        (result, later)
    }

    /// Tells those who wait for something to be settled, if anybody does.
    fn unlock_and_tell(&self, inner: MutexGuard<'_, Inner>) {
        let somebody = inner.wait_settled > 0;
        drop(inner);
        if somebody {
            self.settled.notify_all();
        }
    }

    /// Waits until something is settled, or the time is over.
    fn wait_settled<'a>(
        &self,
        mut inner: MutexGuard<'a, Inner>,
        time: Duration,
    ) -> MutexGuard<'a, Inner> {
        inner.wait_settled += 1;
        let waited = self.settled.wait_timeout(inner, time);
        let mut inner = waited.unwrap_or_else(PoisonError::into_inner).0;
        inner.wait_settled -= 1;
        inner
    }

    fn keys(&self) -> Arc<NetworkKeys> {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn nonce(&self) -> Option<Nonce> {
        let mut nonce = Nonce::default();
        self.random.fill(&mut nonce).ok()?;
        Some(nonce)
    }

    /// Does what is due by now.
    pub fn tick(&self) {
        if self.broken().is_some() {
            return;
        }
        let now = self.now();
        let mut inner = self.lock();
        let (wake_at, actions) = inner.node.on_tick(now);
        inner.wake_at = wake_at;
        let later = inner.settle(actions, now);
        self.unlock_and_tell(inner);
        self.perform(later);
        // Whoever was to do so is stuck, if anything is left.
        self.let_go();
        self.tell_faults(now);
    }

    /// How long the ticker may sleep from now.
    pub fn until_tick(&self) -> Duration {
        if self.broken().is_some() {
            return BROKEN_SLEEP;
        }
        let wake_at = self.lock().wake_at;
        Duration::from_millis(wake_at.saturating_sub(self.now_ms()))
    }

    /// How long ago the tick was due that did not come yet.
    pub fn tick_late(&self) -> Duration {
        let wake_at = self.lock().wake_at;
        Duration::from_millis(self.now_ms().saturating_sub(wake_at))
    }

    /// How many requests were answered so far; it goes round at its end.
    pub fn handled(&self) -> u64 {
        self.handled.load(Ordering::Relaxed)
    }
}

impl Inner {
    /// Does what has to be done in order and can't block; gives back the rest.
    fn settle(&mut self, actions: Vec<Action>, now: Now) -> Vec<Action> {
        let mut later = Vec::new();
        for action in actions {
            match action {
                Action::Tell(event) => self.tell(&event, now),
                Action::Changed { node_id, timestamp, old, new } => {
                    self.changes_received += u64::from(node_id != *self.node.node_id());
                    self.tell_changes(&node_id, timestamp, (&old, &new), now);
                }
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

    fn tell(&mut self, event: &Event, now: Now) {
        match event {
            Event::Data { node_id, data } => {
                log::debug!("{} bytes of DATA from {node_id}", data.len())
            }
            other => {
                if let Some(node_id) = other.node_id()
                    && let Some(left_out) = self.lines.next(now.mono_ms)
                {
                    if left_out > 0 {
                        log::warn!("{left_out} lines of nodes that came and went were left out");
                    }
                    log::info!("{node_id} {}", other.name());
                }
            }
        }
        self.hub.publish(event);
    }
}
