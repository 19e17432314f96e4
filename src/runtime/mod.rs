//! Starts, names, stops and joins the threads of a node.

mod embedded;
mod error;
mod keeper;
mod keys;
mod pulse;
mod senders;

use std::fs::File;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, select};
use ring::rand::{SecureRandom, SystemRandom};

use crate::client::Client;
use crate::config::{Config, SyncRule};
use crate::control::ControlServer;
use crate::credentials::{self, KnownPeer};
use crate::driver::{Driver, Queues, now_since};
use crate::journal::{Commit, Journal, Loaded};
use crate::protocol::BODY_BYTES_MAX;
use crate::protocol::address::Address;
use crate::protocol::crypto::{NetworkKeys, PrivateKey};
use crate::protocol::identity::Session;
use crate::protocol::node::{Node, Pin, Settings, Target};
use crate::protocol::state::{Change, Record, next_timestamp};
use crate::protocol::wire::{Kind, ProgramVersion};
use crate::server::Server;

pub use error::StartError;
use keeper::Keeper;
use keys::KeyFile;
pub use pulse::Pulse;
use senders::Senders;

/// Senders to peers that may not answer: however many those are, they hold no more than these.
const DOUBTFUL_SENDERS: usize = 6;
/// Stack of a thread, bytes: HTTP, and records by reference. Small, as there may be many.
const STACK_BYTES: usize = 256 * 1024;
/// Most connections to peers that are kept open between requests.
const IDLE_CONNECTIONS_MAX: usize = 128;

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
}

/// What the control socket and the embedding program both reach.
struct Shared {
    driver: Arc<Driver>,
    server: Mutex<Option<Server>>,
    listen: String,
    port: SocketAddr,
    key_file: KeyFile,
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
    let data_folder = config.data.as_ref().map(|data| data.join(config.node_id.as_str()));
    let (known, warnings) = credentials::load_known_peers(&credentials_folder)?;
    // Where peers were known once, this is not the first node, whatever is left of them.
    let had_peers = !known.is_empty() || !warnings.is_empty();
    let keys = network_keys(&config, had_peers)?;
    let pkcs8 = credentials::load_or_create_pkcs8(&credentials_folder)?;
    let private_key = PrivateKey::from_pkcs8(&pkcs8)
        .map_err(|fault| StartError::NotAKey { folder: credentials_folder.clone(), fault })?;
    let (lock, mut fault) = match data_folder.as_deref().map(lock_folder).transpose()? {
        Some((lock, fault)) => (lock, fault),
        None => (None, None),
    };
    let syncs = !matches!(config.sync, SyncRule::Within(_));
    let opened = data_folder.as_deref().map(|folder| Journal::open(folder, syncs)).transpose()?;
    let (mut journal, loaded) =
        opened.map_or((None, Loaded::default()), |(journal, loaded)| (Some(journal), loaded));
    if journal.as_ref().is_some_and(Journal::is_broken) {
        fault = fault.or_else(|| loaded.warnings.last().cloned());
    }
    for warning in warnings.iter().chain(&loaded.warnings) {
        log::warn!("{warning}");
    }
    let began = Instant::now();
    let own = first_record(&config, &private_key, loaded, journal.as_mut(), began)?;

    let driver_cell: Arc<OnceLock<Arc<Driver>>> = Arc::default();
    let server = start_server(&config, &driver_cell)?;
    let address = server.local_address();
    let node = new_node(&config, &private_key, own, known, address, began)?;
    let client = Client::new(BODY_BYTES_MAX, IDLE_CONNECTIONS_MAX);
    let (driver, queues) = Driver::new(node, keys, private_key, client, began);
    // The cell is new, so this can't fail; until now the port answered 503.
    let _ = driver_cell.set(Arc::clone(&driver));

    let (stop_asked, stop_wanted) = bounded(1);
    let shared = Arc::new(Shared {
        driver: Arc::clone(&driver),
        server: Mutex::new(Some(server)),
        listen: address.to_string(),
        port: address,
        key_file: KeyFile { path: config.network_key.clone(), changing: Mutex::default() },
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
    };
    let keeper = Keeper::new(Arc::clone(&driver), journal, config.sync, credentials_folder, fault);
    running.spawn_threads(driver, queues, (keeper, lock), &stopped)?;
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
///
/// A disk that can only be read (Linux makes one so after it failed) does not keep a node that has
/// its state there from starting; gives what is wrong then.
fn lock_folder(folder: &Path) -> Result<(Option<File>, Option<String>), StartError> {
    let failed = |why: std::io::Error| StartError::Folder { path: folder.into(), why };
    crate::durable::create_private_folder(folder).map_err(failed)?;
    let path = folder.join("lock");
    let opened = File::options().create(true).truncate(false).write(true).open(&path);
    let (lock, fault) = match opened {
        Ok(lock) => (lock, None),
        Err(why) if why.kind() == std::io::ErrorKind::ReadOnlyFilesystem => {
            let fault = Some(format!(
                "the folder {} can't be written: {why}. No change can be kept; mount that disk so that it can be written, \
                 or use --data DIR or --data none",
                folder.display()
            ));
            match File::open(&path) {
                Ok(lock) => (lock, fault),
                // Nobody who could write there runs either.
                Err(_) => return Ok((None, fault)),
            }
        }
        Err(why) => return Err(failed(why)),
    };
    match lock.try_lock() {
        Ok(()) => Ok((Some(lock), fault)),
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
    journal: Option<&mut Journal>,
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
    if let Some(journal) = journal {
        journal.append(&[commit], &entries)?;
    }
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
    address: SocketAddr,
    began: Instant,
) -> Result<Node, StartError> {
    let mut random = [0; 24];
    SystemRandom::new().fill(&mut random).map_err(|_| StartError::NoRandomness)?;
    let (session, seed) = random.split_at(16);
    // Where only one address is listened on, others can only be told that one.
    let bound = (!address.ip().is_unspecified()).then(|| Address::of(address.ip(), address.port()));
    let settings = Settings {
        node_id: config.node_id.clone(),
        public_key: private_key.public_key(),
        session: Session(session.try_into().map_err(|_| StartError::NoRandomness)?),
        port: address.port(),
        advertise: config.advertise.clone().or(bound),
        seeds: config.bootstrap.clone(),
        tick_ms: u64::try_from(config.tick.as_millis()).unwrap_or(u64::MAX),
        program: ProgramVersion::new(env!("CARGO_PKG_VERSION")),
        timestamp_rule: next_timestamp,
        allow: config.allow.as_deref().map(credentials::load_allow_list).transpose()?,
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
        (keeper, lock): (Keeper, Option<File>),
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
        let (disk, stop) = (queues.disk, stopped.clone());
        self.spawn("dsn-journal".into(), move || {
            // The folder is free when its writer has ended, and not before.
            let _lock = lock;
            keeper.run(&disk, &stop);
        })?;
        let (senders, wake, stop) = (Arc::clone(&self.senders), queues.wake, stopped.clone());
        self.spawn("dsn-ticker".into(), move || tick(&driver, &senders, &wake, &stop))
    }

    fn spawn(
        &mut self,
        name: String,
        work: impl FnOnce() + Send + 'static,
    ) -> Result<(), StartError> {
        let thread = thread::Builder::new().name(name).stack_size(STACK_BYTES).spawn(work);
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
        // Last: whoever asked over the socket to stop takes its end as a sign that all is free.
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
