//! Starts, names, stops and joins the threads of a node.

mod error;
mod pulse;
mod senders;

use std::fs::File;
use std::net::SocketAddr;
use std::ops::Deref;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, after, bounded, never, select};
use ring::rand::{SecureRandom, SystemRandom};

use crate::client::Client;
use crate::config::{Config, SyncRule};
use crate::control::ControlServer;
use crate::credentials;
use crate::driver::{Driver, Parts, Queues, now_since};
use crate::journal::{Commit, Journal, Loaded, RealDisk};
use crate::keeper::Keeper;
use crate::protocol::BODY_BYTES_MAX;
use crate::protocol::address::Address;
use crate::protocol::crypto::{NetworkKeys, PrivateKey, Signer};
use crate::protocol::entries::Change;
use crate::protocol::head::next_timestamp;
use crate::protocol::node::{Class, Node, Secret, Settings};
use crate::protocol::peer::KnownPeer;
use crate::protocol::record::{Draft, Record};
use crate::protocol::verified::Verified;
use crate::protocol::wire::{Kind, ProgramVersion};
use crate::server::Server;

pub use error::StartError;
pub use pulse::Pulse;
use senders::Senders;
pub use senders::senders_max;

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

/// A node that runs, in threads of its own. Dropping it stops it. What can be asked of it are the
/// methods of [`Driver`].
pub struct RunningNode {
    driver: Arc<Driver>,
    listen: SocketAddr,
    control: Option<ControlServer>,
    threads: Vec<JoinHandle<()>>,
    senders: Vec<Arc<Senders>>,
    stop_asked: Receiver<()>,
    /// Dropped to stop the threads.
    stop: Option<Sender<()>>,
}

impl Deref for RunningNode {
    type Target = Driver;

    fn deref(&self) -> &Driver {
        &self.driver
    }
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
    for note in &loaded.notes {
        log::info!("{note}");
    }
    let began = Instant::now();
    let own = first_record(&config, &private_key, loaded, journal.as_mut(), began)?;

    let driver_cell: Arc<OnceLock<Arc<Driver>>> = Arc::default();
    let server = start_server(&config, &driver_cell)?;
    let address = server.local_address();
    let node = new_node(&config, &private_key, own, known, address, began)?;
    let (driver, queues) = Driver::new(Parts {
        node,
        keys,
        key_file: config.network_key.clone(),
        private_key,
        client: Client::new(BODY_BYTES_MAX, IDLE_CONNECTIONS_MAX),
        credentials_folder,
        began,
    });
    driver.attach(server);
    // The cell is new, so this can't fail; until now the port answered 503.
    let _ = driver_cell.set(Arc::clone(&driver));

    let (stop, stopped) = bounded(0);
    let mut running = RunningNode {
        driver: Arc::clone(&driver),
        listen: address,
        control: None,
        threads: Vec::new(),
        senders: Vec::new(),
        stop_asked: queues.stop_asked.clone(),
        stop: Some(stop),
    };
    let keeper = Keeper::new(journal, config.sync, fault, driver.now_ms(), &*driver);
    running.spawn_threads(queues, (keeper, lock), &stopped)?;
    running.control = Some(ControlServer::start(&config.control, driver)?);
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
) -> Result<Verified<Record>, StartError> {
    let entries = Arc::new(loaded.entries);
    let record = |timestamp| {
        let draft = Draft::new(config.node_id.clone(), timestamp, false, Arc::clone(&entries));
        Verified::sign(draft, private_key).map_err(|_| StartError::NoRandomness)
    };
    if loaded.timestamp > 0 && !loaded.left {
        return record(loaded.timestamp);
    }
    let wall_us = now_since(began).wall_us;
    let timestamp = next_timestamp(wall_us, loaded.timestamp).ok_or(StartError::NoTimestampLeft)?;
    let commit = Commit { change: &Change::new(), timestamp, left: false };
    if let Some(journal) = journal {
        journal.append(&[commit], &entries)?;
    }
    record(timestamp)
}

fn start_server(
    config: &Config,
    driver: &Arc<OnceLock<Arc<Driver>>>,
) -> Result<Server, StartError> {
    let (driver, owner) = (Arc::clone(driver), Arc::clone(driver));
    let handler = move |request| match driver.get() {
        Some(driver) => driver.on_http(request),
        None => crate::server::Response { status: 503, ..crate::server::Response::default() },
    };
    let on_fault = move |why: &str| match owner.get() {
        Some(driver) => driver.broke(why),
        None => log::error!("BUG: {why}"),
    };
    let (handler, on_fault) = (Arc::new(handler), Arc::new(on_fault));
    Ok(Server::start(config.listen, &PATHS, BODY_BYTES_MAX, handler, on_fault)?)
}

fn new_node(
    config: &Config,
    private_key: &PrivateKey,
    own: Verified<Record>,
    known: Vec<KnownPeer>,
    address: SocketAddr,
    began: Instant,
) -> Result<Node, StartError> {
    let (mut secret, mut seed) = ([0; 32], [0; 8]);
    let random = SystemRandom::new();
    let filled = random.fill(&mut secret).and_then(|()| random.fill(&mut seed));
    filled.map_err(|_| StartError::NoRandomness)?;
    // Where only one address is listened on, others can only be told that one.
    let bound = (!address.ip().is_unspecified()).then(|| Address::of(address.ip(), address.port()));
    let settings = Settings {
        node_id: config.node_id.clone(),
        public_key: private_key.public_key(),
        secret: Secret(secret),
        port: address.port(),
        advertise: config.advertise.clone().or(bound),
        seeds: config.bootstrap.clone(),
        tick_ms: u64::try_from(config.tick.as_millis()).unwrap_or(u64::MAX),
        program: ProgramVersion::new(env!("CARGO_PKG_VERSION")),
        allow: config.allow.as_deref().map(credentials::load_allow_list).transpose()?,
    };
    Ok(Node::new(settings, own, known, u64::from_le_bytes(seed), now_since(began)))
}

impl RunningNode {
    fn spawn_threads(
        &mut self,
        queues: Queues,
        (keeper, lock): (Keeper<RealDisk>, Option<File>),
        stopped: &Receiver<()>,
    ) -> Result<(), StartError> {
        let Queues { sends, sets, wake_disk, wake, .. } = queues;
        for (class, jobs) in Class::ALL.into_iter().zip(sends) {
            let senders = Senders::new(Arc::clone(&self.driver), class, jobs, stopped.clone());
            senders.add().map_err(StartError::NoThread)?;
            self.senders.push(senders);
        }
        let (driver, stop) = (Arc::clone(&self.driver), stopped.clone());
        self.spawn("dsn-journal", move || {
            // The folder is free when its writer has ended, and not before.
            let _lock = lock;
            keep(keeper, &driver, &(sets, wake_disk, stop));
        })?;
        let (driver, senders, stop) =
            (Arc::clone(&self.driver), self.senders.clone(), stopped.clone());
        self.spawn("dsn-ticker", move || tick(&driver, &senders, &wake, &stop))
    }

    fn spawn(
        &mut self,
        name: &'static str,
        work: impl FnOnce() + Send + 'static,
    ) -> Result<(), StartError> {
        let driver = Arc::clone(&self.driver);
        let thread = thread::Builder::new().name(name.into()).stack_size(STACK_BYTES);
        let thread = thread.spawn(move || driver.guard(name, work));
        self.threads.push(thread.map_err(StartError::NoThread)?);
        Ok(())
    }

    /// The address that it listens on.
    pub fn listen(&self) -> String {
        self.listen.to_string()
    }

    /// Waits until somebody asked the node to stop, over its control socket or here, or until it
    /// broke a rule of its own: the error says which.
    pub fn wait_for_stop(&self) -> Result<(), String> {
        // The sender lives as long as the driver: an error can't happen, and would mean to stop.
        let _ = self.stop_asked.recv();
        self.driver.broken().map_or(Ok(()), |why| Err(why.to_owned()))
    }

    /// Something that asks the node to stop, for a signal handler.
    pub fn stop_asker(&self) -> impl Fn() + Send + Sync + use<> {
        let driver = Arc::downgrade(&self.driver);
        move || {
            if let Some(driver) = driver.upgrade() {
                driver.request_stop();
            }
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
        self.driver.begin_stop();
        drop(stop);
        if let Some(server) = self.driver.detach() {
            server.stop();
        }
        let senders = self.senders.iter().flat_map(|senders| senders.take_threads());
        let threads: Vec<JoinHandle<()>> = self.threads.drain(..).chain(senders).collect();
        for thread in threads {
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

/// The journal's thread: changes that wait together share one write.
fn keep(
    mut keeper: Keeper<RealDisk>,
    driver: &Driver,
    (sets, wake, stopped): &(Receiver<crate::keeper::SetJob>, Receiver<()>, Receiver<()>),
) {
    let nobody = never();
    loop {
        let wait = keeper.due().map(|due| due.saturating_sub(driver.now_ms()));
        let timer = wait.map_or_else(never, |wait| after(Duration::from_millis(wait)));
        // More than one write takes waits in the queue, which has a bound of its own.
        let open = if keeper.room() > 0 { sets } else { &nobody };
        select! {
            recv(open) -> set => {
                let most = keeper.room().saturating_sub(1);
                let batch = set.into_iter().chain(sets.try_iter().take(most)).collect();
                keeper.take(batch, driver.now_ms(), driver);
            }
            recv(wake) -> _ => keeper.look(driver.now_ms(), driver),
            recv(timer) -> _ => keeper.look(driver.now_ms(), driver),
            recv(stopped) -> _ => {
                keeper.take(sets.try_iter().collect(), driver.now_ms(), driver);
                keeper.finish(driver.now_ms(), driver);
                return;
            }
        }
    }
}

fn tick(driver: &Driver, senders: &[Arc<Senders>], wake: &Receiver<()>, stopped: &Receiver<()>) {
    loop {
        driver.tick();
        senders.iter().for_each(|senders| senders.reap());
        loop {
            // The end is looked for each time, however late the tick is.
            select! {
                recv(stopped) -> _ => return,
                recv(wake) -> _ => {}
                default(driver.until_tick()) => break,
            }
        }
    }
}
