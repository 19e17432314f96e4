//! Starts, names, stops and joins the threads of a node.

use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, select};
use ring::rand::{SecureRandom, SystemRandom};

use crate::client::Client;
use crate::config::Config;
use crate::control::{ControlError, ControlServer, Service};
use crate::credentials::{self, CredentialsError, KnownPeer};
use crate::driver::{DiskJob, Driver, Queues, now_since};
use crate::events::Subscription;
use crate::journal::{Commit, Journal, JournalError, Loaded};
use crate::protocol::BODY_BYTES_MAX;
use crate::protocol::crypto::{CryptoFault, NetworkKeys, PrivateKey};
use crate::protocol::identity::{NodeId, Session};
use crate::protocol::node::{Node, Pin, Settings, Target};
use crate::protocol::report::{Message, NodeState, PeerInfo, Refused, Status};
use crate::protocol::state::{Change, Key, Record, Value, next_timestamp};
use crate::protocol::wire::{Kind, ProgramVersion};
use crate::server::{Server, ServerError};

/// Most senders to peers that answer. Each peer that hangs holds one until it is suspected, so
/// this many may hang at one time without any delay to the others.
const PROMPT_SENDERS_MAX: usize = 64;
/// Senders to peers that may not answer: however many those are, they hold no more than these.
const DOUBTFUL_SENDERS: usize = 6;
/// How long a sender beyond the first ones waits for work before it ends.
const SENDER_IDLE: Duration = Duration::from_secs(3);
/// Stack of a sender, bytes: HTTP, and records by reference. Small, as there may be many.
const SENDER_STACK_BYTES: usize = 256 * 1024;
/// Most connections to peers that are kept open between requests.
const IDLE_CONNECTIONS_MAX: usize = 128;
/// How long a failed write of the known peers waits before the next.
const SAVE_PEERS_RETRY: Duration = Duration::from_secs(30);
/// How long a change of the known peers waits for more of them before it is written.
const SAVE_PEERS_DELAY: Duration = Duration::from_millis(200);
/// Most changes that share one write to disk.
const BATCH_MAX: usize = 256;

/// The paths that are served.
static PATHS: [&str; 5] = [
    Kind::Hello.path(),
    Kind::Peers.path(),
    Kind::Update.path(),
    Kind::Ping.path(),
    Kind::Data.path(),
];

/// A node that runs, in threads of its own. Dropping it stops it.
pub struct RunningNode {
    shared: Arc<Shared>,
    control: Option<ControlServer>,
    threads: Vec<JoinHandle<()>>,
    senders: Arc<Senders>,
    /// Dropped to stop the threads.
    stop: Option<Sender<()>>,
    lock: Option<File>,
}

/// What the control socket and the embedding program both reach.
struct Shared {
    driver: Arc<Driver>,
    server: Mutex<Option<Server>>,
    listen: String,
    stop_asked: Sender<()>,
    stop_wanted: Receiver<()>,
}

/// Starts a node: reads or makes its keys, reads its state, opens its port, and begins to look
/// for its network.
///
/// The first node of a network (no bootstrap address, no peers known from before) makes the
/// network key where there is none.
pub fn start(config: Config) -> Result<RunningNode, StartError> {
    let credentials_folder = config.credentials.join(config.node_id.as_str());
    let data_folder = config.data.join(config.node_id.as_str());
    let (known, warnings) = credentials::load_known_peers(&credentials_folder)?;
    let keys = network_keys(&config, !known.is_empty())?;
    let pkcs8 = credentials::load_or_create_pkcs8(&credentials_folder)?;
    let private_key = PrivateKey::from_pkcs8(&pkcs8)
        .map_err(|fault| StartError::NotAKey { folder: credentials_folder.clone(), fault })?;
    let lock = lock_folder(&data_folder)?;
    let (mut journal, loaded) = Journal::open(&data_folder)?;
    for warning in warnings.iter().chain(&loaded.warnings) {
        log::warn!("{warning}");
    }
    let began = Instant::now();
    let own = first_record(&config, &private_key, loaded, &mut journal, began)?;

    let driver_cell: Arc<OnceLock<Arc<Driver>>> = Arc::default();
    let server = start_server(&config, &driver_cell)?;
    let address = server.local_address();
    let node = new_node(&config, &private_key, own, known, address.port(), began)?;
    let client = Client::new(BODY_BYTES_MAX, IDLE_CONNECTIONS_MAX);
    let (driver, queues) = Driver::new(node, keys, private_key, client, began);
    // The cell is new, so this can't fail; until now the port answered 503.
    let _ = driver_cell.set(Arc::clone(&driver));

    let (stop_asked, stop_wanted) = bounded(1);
    let shared = Arc::new(Shared {
        driver: Arc::clone(&driver),
        server: Mutex::new(Some(server)),
        listen: address.to_string(),
        stop_asked,
        stop_wanted,
    });
    let (stop, stopped) = bounded(0);
    let senders = Senders::new(Arc::clone(&driver), queues.prompt.clone(), stopped.clone());
    let mut running = RunningNode {
        shared: Arc::clone(&shared),
        control: None,
        threads: Vec::new(),
        senders,
        stop: Some(stop),
        lock: Some(lock),
    };
    running.spawn_threads(driver, queues, journal, credentials_folder, &stopped)?;
    running.control = Some(ControlServer::start(&config.control, shared)?);
    Ok(running)
}

fn network_keys(config: &Config, has_known_peers: bool) -> Result<NetworkKeys, StartError> {
    let path = &config.network_key;
    if !path.exists() {
        if !config.bootstrap.is_empty() || has_known_peers {
            let from = config.bootstrap.first().map(|address| address.as_str().to_owned());
            return Err(StartError::NoNetworkKey { path: path.clone(), from });
        }
        credentials::create_network_key(path)?;
        log::warn!(
            "this is the first node of a new network: made the network key {}. Copy that file to each host that is to join",
            path.display()
        );
    }
    let keys = credentials::load_network_key(path)?;
    NetworkKeys::new(&keys)
        .ok_or_else(|| StartError::NoNetworkKey { path: path.clone(), from: None })
}

/// Two processes that write one journal would destroy it.
fn lock_folder(folder: &Path) -> Result<File, StartError> {
    let failed = |why: std::io::Error| StartError::Folder { path: folder.into(), why };
    crate::durable::create_private_folder(folder).map_err(failed)?;
    let lock = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(folder.join("lock"))
        .map_err(failed)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(std::fs::TryLockError::WouldBlock) => Err(StartError::Runs { folder: folder.into() }),
        Err(std::fs::TryLockError::Error(why)) => Err(failed(why)),
    }
}

/// The own record as it was kept; a new version of it for a node that starts for the first time,
/// or that had said goodbye.
fn first_record(
    config: &Config,
    private_key: &PrivateKey,
    loaded: Loaded,
    journal: &mut Journal,
    began: Instant,
) -> Result<Record, StartError> {
    let entries = Arc::new(loaded.entries);
    let record = |timestamp| {
        let (node_id, key) = (config.node_id.clone(), private_key.public_key());
        Record::new(node_id, key, timestamp, false, Arc::clone(&entries))
    };
    if loaded.timestamp > 0 && !loaded.left {
        return Ok(record(loaded.timestamp));
    }
    let wall_us = now_since(began).wall_us;
    let timestamp = next_timestamp(wall_us, loaded.timestamp).ok_or(StartError::NoTimestampLeft)?;
    let commit = Commit { change: &Change::new(), timestamp, left: false };
    journal.append(&[commit], &entries)?;
    Ok(record(timestamp))
}

fn start_server(
    config: &Config,
    driver: &Arc<OnceLock<Arc<Driver>>>,
) -> Result<Server, StartError> {
    let driver = Arc::clone(driver);
    let handler = move |request| match driver.get() {
        Some(driver) => driver.on_http(request),
        None => crate::server::Response { status: 503, ..crate::server::Response::default() },
    };
    Ok(Server::start(config.listen, &PATHS, BODY_BYTES_MAX, Arc::new(handler))?)
}

fn new_node(
    config: &Config,
    private_key: &PrivateKey,
    own: Record,
    known: Vec<KnownPeer>,
    port: u16,
    began: Instant,
) -> Result<Node, StartError> {
    let mut random = [0; 24];
    SystemRandom::new().fill(&mut random).map_err(|_| StartError::NoRandomness)?;
    let (session, seed) = random.split_at(16);
    let settings = Settings {
        node_id: config.node_id.clone(),
        public_key: private_key.public_key(),
        session: Session(session.try_into().map_err(|_| StartError::NoRandomness)?),
        port,
        advertise: config.advertise.clone(),
        seeds: config.bootstrap.clone(),
        tick_ms: u64::try_from(config.tick.as_millis()).unwrap_or(u64::MAX),
        program: ProgramVersion::new(env!("CARGO_PKG_VERSION")),
        timestamp_rule: next_timestamp,
    };
    let pin = |peer: KnownPeer| Pin {
        node_id: peer.node_id,
        public_key: peer.public_key,
        direct: peer.direct,
        address: peer.address,
    };
    let seed = u64::from_le_bytes(seed.try_into().map_err(|_| StartError::NoRandomness)?);
    let pins = known.into_iter().map(pin).collect();
    Ok(Node::new(settings, own, pins, seed, now_since(began)))
}

impl RunningNode {
    fn spawn_threads(
        &mut self,
        driver: Arc<Driver>,
        queues: Queues,
        journal: Journal,
        credentials_folder: PathBuf,
        stopped: &Receiver<()>,
    ) -> Result<(), StartError> {
        for index in 0..DOUBTFUL_SENDERS {
            let (driver, jobs) = (Arc::clone(&driver), queues.doubtful.clone());
            let stopped = stopped.clone();
            self.spawn(format!("dsn-doubtful-{index}"), move || {
                while let Some(target) = next_job(&jobs, &stopped) {
                    driver.run_send(&target);
                }
            })?;
        }
        self.senders.add().map_err(StartError::NoThread)?;
        let keeper =
            Keeper { driver: Arc::clone(&driver), journal, credentials_folder, peers_due: None };
        let (disk, stop) = (queues.disk, stopped.clone());
        self.spawn("dsn-journal".into(), move || keeper.run(&disk, &stop))?;
        let (senders, wake, stop) = (Arc::clone(&self.senders), queues.wake, stopped.clone());
        self.spawn("dsn-ticker".into(), move || tick(&driver, &senders, &wake, &stop))
    }

    fn spawn(
        &mut self,
        name: String,
        work: impl FnOnce() + Send + 'static,
    ) -> Result<(), StartError> {
        let thread = thread::Builder::new().name(name).stack_size(SENDER_STACK_BYTES).spawn(work);
        self.threads.push(thread.map_err(StartError::NoThread)?);
        Ok(())
    }

    /// The address that it listens on.
    pub fn listen(&self) -> &str {
        &self.shared.listen
    }

    /// Waits until somebody asked the node to stop, over its control socket or here.
    pub fn wait_for_stop(&self) {
        // The sender lives as long as `shared`: an error can't happen, and would mean to stop.
        let _ = self.shared.stop_wanted.recv();
    }

    /// Something that asks the node to stop, for a signal handler.
    pub fn stop_asker(&self) -> impl Fn() + Send + Sync + use<> {
        let ask = self.shared.stop_asked.clone();
        move || {
            // One wish to stop is enough.
            let _ = ask.try_send(());
        }
    }

    /// Stops the node: tells nobody, ends all threads, frees the port. Returns when all of that
    /// is done, which takes as long as a request that is under way, 5 s at most.
    pub fn stop(mut self) {
        self.end(Duration::MAX);
    }

    /// The same, but waits no longer than this for requests that are under way: for a process
    /// that ends now anyway.
    pub fn stop_within(mut self, patience: Duration) {
        self.end(patience);
    }

    fn end(&mut self, patience: Duration) {
        let until = Instant::now().checked_add(patience);
        let Some(stop) = self.stop.take() else { return };
        self.shared.driver.begin_stop();
        drop(stop);
        if let Some(control) = self.control.take() {
            control.stop();
        }
        let server = self.shared.server.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(server) = server {
            server.stop();
        }
        let threads = self.threads.drain(..).chain(self.senders.take_threads());
        for thread in threads.collect::<Vec<_>>() {
            // A thread in the middle of a request can't be woken; only time ends that.
            while !thread.is_finished() && until.is_none_or(|until| Instant::now() < until) {
                thread::park_timeout(Duration::from_millis(5));
            }
            if thread.is_finished() && thread.join().is_err() {
                log::error!("a thread of the node had panicked");
            }
        }
        // Whoever asked over the socket to stop is waiting for its end: then all else is free.
        self.lock = None;
        if let Some(control) = self.control.take() {
            control.stop();
        }
    }
}

impl Drop for RunningNode {
    fn drop(&mut self) {
        self.end(Duration::MAX);
    }
}

fn next_job(jobs: &Receiver<Target>, stopped: &Receiver<()>) -> Option<Target> {
    select! {
        recv(jobs) -> job => job.ok(),
        recv(stopped) -> _ => None,
    }
}

fn tick(driver: &Driver, senders: &Arc<Senders>, wake: &Receiver<()>, stopped: &Receiver<()>) {
    loop {
        driver.tick();
        senders.reap();
        loop {
            let wait = driver.until_tick();
            if wait.is_zero() {
                break;
            }
            select! {
                recv(wake) -> _ => {}
                recv(stopped) -> _ => return,
                default(wait) => {}
            }
        }
    }
}

/// The senders to peers that answer. One always waits for work: the last one that takes a job
/// makes another first. So no job waits behind peers that hang, and an idle node has one.
struct Senders {
    driver: Arc<Driver>,
    jobs: Receiver<Target>,
    stopped: Receiver<()>,
    idle: AtomicUsize,
    names: AtomicUsize,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Senders {
    fn new(driver: Arc<Driver>, jobs: Receiver<Target>, stopped: Receiver<()>) -> Arc<Self> {
        let (idle, names) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Arc::new(Self { driver, jobs, stopped, idle, names, threads: Mutex::default() })
    }

    fn threads(&self) -> std::sync::MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes one more, up to the limit.
    fn add(self: &Arc<Self>) -> std::io::Result<()> {
        let mut threads = self.threads();
        threads.retain(|thread| !thread.is_finished());
        if threads.len() >= PROMPT_SENDERS_MAX {
            return Ok(());
        }
        let name = format!("dsn-sender-{}", self.names.fetch_add(1, Ordering::Relaxed));
        let senders = Arc::clone(self);
        self.idle.fetch_add(1, Ordering::SeqCst);
        let thread = thread::Builder::new().name(name).stack_size(SENDER_STACK_BYTES);
        match thread.spawn(move || senders.work()) {
            Ok(thread) => {
                threads.push(thread);
                Ok(())
            }
            Err(fault) => {
                self.idle.fetch_sub(1, Ordering::SeqCst);
                Err(fault)
            }
        }
    }

    fn work(self: Arc<Self>) {
        loop {
            let target = select! {
                recv(self.jobs) -> job => match job {
                    Ok(target) => target,
                    Err(_) => return,
                },
                recv(self.stopped) -> _ => return,
                default(SENDER_IDLE) => {
                    if self.retire() {
                        return;
                    }
                    continue;
                }
            };
            if self.idle.fetch_sub(1, Ordering::SeqCst) == 1
                && let Err(fault) = self.add()
            {
                log::warn!("no thread for another sender: {fault}; sends may wait");
            }
            self.driver.run_send(&target);
            self.idle.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Whether one that waited in vain may end: another one waits.
    fn retire(&self) -> bool {
        let fewer = |idle: usize| (idle > 1).then(|| idle - 1);
        self.idle.fetch_update(Ordering::SeqCst, Ordering::SeqCst, fewer).is_ok()
    }

    fn reap(&self) {
        self.threads().retain(|thread| !thread.is_finished());
    }

    fn take_threads(&self) -> Vec<JoinHandle<()>> {
        std::mem::take(&mut *self.threads())
    }
}

/// The thread that owns the disk: changes that wait together share one write.
struct Keeper {
    driver: Arc<Driver>,
    journal: Journal,
    credentials_folder: PathBuf,
    /// When the known peers are to be written, if they are.
    peers_due: Option<Instant>,
}

impl Keeper {
    fn run(mut self, jobs: &Receiver<DiskJob>, stopped: &Receiver<()>) {
        loop {
            let wait = self.peers_due.map(|due| due.saturating_duration_since(Instant::now()));
            let timer = wait.map_or_else(crossbeam_channel::never, crossbeam_channel::after);
            select! {
                recv(jobs) -> job => {
                    let batch: Vec<DiskJob> =
                        job.into_iter().chain(jobs.try_iter().take(BATCH_MAX - 1)).collect();
                    self.work_off(batch);
                }
                recv(timer) -> _ => self.save_peers(),
                recv(stopped) -> _ => {
                    self.work_off(jobs.try_iter().collect());
                    if self.peers_due.is_some() {
                        self.save_peers();
                    }
                    return;
                }
            }
        }
    }

    fn work_off(&mut self, batch: Vec<DiskJob>) {
        let mut sets = Vec::new();
        for job in batch {
            match job {
                DiskJob::Set { change, left, reply } => sets.push((change, left, reply)),
                DiskJob::Republish => self.republish(),
                DiskJob::SavePeers if self.peers_due.is_none() => {
                    // A burst of joins is one write.
                    self.peers_due = Some(Instant::now() + SAVE_PEERS_DELAY);
                }
                DiskJob::SavePeers => {}
            }
        }
        if !sets.is_empty() {
            self.set(&sets);
        }
    }

    /// Makes a version for each change, writes all with one sync, publishes the last, tells.
    fn set(&mut self, sets: &[(Change, bool, Sender<Result<u64, Refused>>)]) {
        let mut record = self.driver.own();
        let mut commits = Vec::new();
        let mut results = Vec::new();
        for (change, left, reply) in sets {
            let result = match self.driver.next_timestamp(record.head.timestamp) {
                None => Err(Refused::NotDurable { why: "no timestamp is left".into() }),
                Some(timestamp) => match record.after(change, *left, timestamp) {
                    Err(fault) => Err(fault.into()),
                    Ok(None) => Ok(record.head.timestamp),
                    Ok(Some(next)) => {
                        record = Arc::new(next);
                        commits.push(Commit { change, timestamp, left: *left });
                        Ok(timestamp)
                    }
                },
            };
            results.push((reply, result));
        }
        let written = self.write(&commits, record);
        for (reply, result) in results {
            let result = match &written {
                Err(refused) if result.is_ok() => Err(refused.clone()),
                _ => result,
            };
            // Whoever waited may have gone.
            let _ = reply.try_send(result);
        }
    }

    fn write(&mut self, commits: &[Commit<'_>], record: Arc<Record>) -> Result<(), Refused> {
        if commits.is_empty() {
            return Ok(());
        }
        match self.journal.append(commits, &record.entries) {
            Ok(()) => {
                self.driver.note_disk(None);
                self.driver.publish(record);
                Ok(())
            }
            Err(fault) => {
                let why = fault.to_string();
                self.driver.note_disk(Some(why.clone()));
                Err(Refused::NotDurable { why })
            }
        }
    }

    /// The same entries under a later timestamp.
    fn republish(&mut self) {
        let own = self.driver.own();
        let Some(timestamp) = self.driver.next_timestamp(own.head.timestamp) else {
            return;
        };
        let (head, change) = (&own.head, Change::new());
        let entries = Arc::clone(&own.entries);
        let next = Record::new(head.node_id.clone(), own.public_key, timestamp, head.left, entries);
        let commit = Commit { change: &change, timestamp, left: head.left };
        if self.write(&[commit], Arc::new(next)).is_ok() {
            log::info!("peers held a later version of the own state; it goes on from there");
        }
    }

    fn save_peers(&mut self) {
        let known: Vec<KnownPeer> = self
            .driver
            .known_peers()
            .into_iter()
            .map(|pin| KnownPeer {
                node_id: pin.node_id,
                public_key: pin.public_key,
                direct: pin.direct,
                address: pin.address,
            })
            .collect();
        self.peers_due = match credentials::save_known_peers(&self.credentials_folder, &known) {
            Ok(()) => None,
            Err(fault) => {
                log::error!("{fault}");
                Some(Instant::now() + SAVE_PEERS_RETRY)
            }
        };
    }
}

/// What people and programs beside the node ask for; [`Service`] for the control socket has the
/// same.
impl RunningNode {
    /// What the node says of itself.
    pub fn status(&self) -> Status {
        self.shared.status()
    }

    /// All peers in the order of their ids.
    pub fn peers(&self) -> Vec<PeerInfo> {
        self.shared.driver.peers()
    }

    /// The value of a key of a node, the own one too.
    pub fn get(&self, node_id: &NodeId, key: &str) -> Option<Value> {
        self.shared.driver.state(node_id)?.entries.get(key).cloned()
    }

    /// The state of a node, the own one too.
    pub fn state(&self, node_id: &NodeId) -> Option<NodeState> {
        self.shared.driver.state(node_id)
    }

    /// The states of all nodes, the own one first.
    pub fn states(&self) -> Vec<NodeState> {
        self.shared.driver.states()
    }

    /// Sets a key of the own state; returns the timestamp of the version when it is durable.
    pub fn set(&self, key: Key, value: Value) -> Result<u64, Refused> {
        self.change(Change::from([(key, Some(value))]))
    }

    /// Removes a key of the own state.
    pub fn unset(&self, key: Key) -> Result<u64, Refused> {
        self.change(Change::from([(key, None)]))
    }

    /// Sets and removes several keys in one version.
    pub fn change(&self, change: Change) -> Result<u64, Refused> {
        self.shared.driver.set(change, false)
    }

    /// Sends a PING; gives the round-trip time.
    pub fn ping(&self, node_id: &NodeId, timeout: Duration) -> Result<Duration, Refused> {
        self.shared.driver.ping(node_id, timeout)
    }

    /// Sends DATA; returns when the other side has accepted it.
    pub fn send(
        &self,
        node_id: &NodeId,
        data: Arc<[u8]>,
        timeout: Duration,
    ) -> Result<(), Refused> {
        self.shared.driver.send(node_id, data, timeout)
    }

    /// Takes the oldest DATA out of the inbox, or waits for one.
    pub fn receive(&self, timeout: Duration) -> Option<Message> {
        self.shared.driver.receive(timeout)
    }

    /// Events from now on, over a bounded channel; nothing where too many listen already.
    pub fn subscribe(&self) -> Option<Subscription> {
        self.shared.driver.subscribe()
    }

    /// Drops all that is known of a node: its key, its addresses, its state.
    pub fn forget(&self, node_id: &NodeId) -> Result<(), Refused> {
        self.shared.driver.forget(node_id)
    }

    /// Says goodbye to the network; then stop the node.
    pub fn leave(&self, timeout: Duration) -> Result<(), Refused> {
        self.shared.driver.leave(timeout)
    }
}

impl Service for Shared {
    fn status(&self) -> Status {
        let mut status = self.driver.status(&self.listen);
        let server = self.server.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(fault) = server.as_ref().and_then(|server| server.health().degraded) {
            status.degraded.push(fault);
        }
        status
    }

    fn peers(&self) -> Vec<PeerInfo> {
        self.driver.peers()
    }

    fn state(&self, node: &NodeId) -> Option<NodeState> {
        self.driver.state(node)
    }

    fn states(&self) -> Vec<NodeState> {
        self.driver.states()
    }

    fn set(&self, change: Change) -> Result<u64, Refused> {
        self.driver.set(change, false)
    }

    fn ping(&self, node: &NodeId, timeout: Duration) -> Result<Duration, Refused> {
        self.driver.ping(node, timeout)
    }

    fn send(&self, node: &NodeId, data: Arc<[u8]>, timeout: Duration) -> Result<(), Refused> {
        self.driver.send(node, data, timeout)
    }

    fn receive(&self, timeout: Duration) -> Option<Message> {
        self.driver.receive(timeout)
    }

    fn give_back(&self, message: Message) {
        self.driver.give_back(message);
    }

    fn subscribe(&self) -> Option<Subscription> {
        self.driver.subscribe()
    }

    fn forget(&self, node: &NodeId) -> Result<(), Refused> {
        self.driver.forget(node)
    }

    fn leave(&self, timeout: Duration) -> Result<(), Refused> {
        self.driver.leave(timeout)
    }

    fn request_stop(&self) {
        // One wish to stop is enough.
        let _ = self.stop_asked.try_send(());
    }

    fn is_stopping(&self) -> bool {
        self.driver.is_stopping()
    }
}

/// Why a node did not start. Nothing is left running.
#[derive(Debug)]
pub enum StartError {
    /// A node that is to join has no network key.
    NoNetworkKey {
        /// Where it was looked for.
        path: PathBuf,
        /// A bootstrap node that has it.
        from: Option<String>,
    },
    /// Key files.
    Credentials(CredentialsError),
    /// What is in the key file is not a key.
    NotAKey {
        /// The folder of the file.
        folder: PathBuf,
        /// What it is not.
        fault: CryptoFault,
    },
    /// The folder of the own state can't be used.
    Folder {
        /// Which.
        path: PathBuf,
        /// What the system said.
        why: std::io::Error,
    },
    /// A node runs on this folder already.
    Runs {
        /// Which.
        folder: PathBuf,
    },
    /// The own state can't be read or written.
    Journal(JournalError),
    /// The port can't be opened.
    Server(ServerError),
    /// The control socket can't be opened.
    Control(ControlError),
    /// The system gave no thread.
    NoThread(std::io::Error),
    /// The system gave no randomness.
    NoRandomness,
    /// The own timestamps are used up.
    NoTimestampLeft,
}

impl fmt::Display for StartError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoNetworkKey { path, from } => {
                let from = from.as_deref().unwrap_or("a node of the network");
                write!(
                    formatter,
                    "there is no network key at {}. Copy the file network.key from the credentials folder of {from}, for \
                     example with scp, and keep its mode 0600",
                    path.display()
                )
            }
            Self::Credentials(fault) => fault.fmt(formatter),
            Self::NotAKey { folder, fault } => write!(
                formatter,
                "the key in {} can't be used: {fault}. Put back a copy of it, or move it away to start with a new key \
                 (then the other nodes have to forget this one)",
                folder.join("node.key").display()
            ),
            Self::Folder { path, why } => write!(
                formatter,
                "the folder {} can't be used: {why}. Name another one with --data, or give this user the right to write \
                 there",
                path.display()
            ),
            Self::Runs { folder } => write!(
                formatter,
                "a node runs on {} already. Stop it with `dsn stop`, or name another folder with --data",
                folder.display()
            ),
            Self::Journal(fault) => fault.fmt(formatter),
            Self::Server(fault) => fault.fmt(formatter),
            Self::Control(fault) => fault.fmt(formatter),
            Self::NoThread(why) => write!(formatter, "the system gave no thread: {why}"),
            Self::NoRandomness => write!(formatter, "the system gave no randomness"),
            Self::NoTimestampLeft => write!(
                formatter,
                "the own state has the last timestamp there is (year 2255): give the node a new id"
            ),
        }
    }
}

impl std::error::Error for StartError {}

impl From<CredentialsError> for StartError {
    fn from(fault: CredentialsError) -> Self {
        Self::Credentials(fault)
    }
}

impl From<JournalError> for StartError {
    fn from(fault: JournalError) -> Self {
        Self::Journal(fault)
    }
}

impl From<ServerError> for StartError {
    fn from(fault: ServerError) -> Self {
        Self::Server(fault)
    }
}

impl From<ControlError> for StartError {
    fn from(fault: ControlError) -> Self {
        Self::Control(fault)
    }
}
