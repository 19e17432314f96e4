//! Starts, names, stops and joins the threads of a node.

mod discovering;
mod embedded;
mod error;
mod folders;
mod ports;
mod pulse;
mod senders;

use std::collections::BTreeMap;
use std::fs::File;
use std::net::SocketAddr;
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
use crate::keeper::{Keeper, SetJob};
use crate::protocol::BODY_BYTES_MAX;
use crate::protocol::address::Address;
use crate::protocol::crypto::{NetworkKeys, PrivateKey, Signer};
use crate::protocol::entries::Change;
use crate::protocol::fault::Fault;
use crate::protocol::head::{next_timestamp, unwritten_timestamp};
use crate::protocol::identity::{NodeId, PublicKey};
use crate::protocol::node::{MESH_MAX, Node, RELAY_HEADS, Secret, Settings};
use crate::protocol::record::{Draft, Record};
use crate::protocol::verified::Verified;
use crate::protocol::wire::ProgramVersion;

use discovering::Discovering;
pub use error::StartError;
use folders::{NewKeys, check_data, lock_folder, look_for_old_names, network_keys, own_key};
use ports::{Ports, threads_min};
pub use pulse::Pulse;
use senders::Senders;
pub use senders::senders_max;

/// Stack of a thread, bytes: HTTP, and records by reference. Small, as there may be many.
const STACK_BYTES: usize = 256 * 1024;
/// Most connections to peers that are kept open between requests.
const IDLE_CONNECTIONS_MAX: usize = 128;

/// A node that runs, in threads of its own. Dropping it stops it.
pub struct RunningNode {
    pub(crate) driver: Arc<Driver>,
    listen: SocketAddr,
    control: Option<ControlServer>,
    discovery: Discovering,
    threads: Vec<JoinHandle<()>>,
    senders: Option<Arc<Senders<Driver>>>,
    stop_asked: Receiver<()>,
    /// Dropped to stop the threads.
    stop: Option<Sender<()>>,
}

/// Starts a node: looks whether all that it needs is free, reads or makes its keys, reads its
/// state, and begins to look for its network.
///
/// The first node of a network (no bootstrap address, no peers known from before) makes the
/// network key where there is none. A start that fails leaves no new key. Under a limit of file
/// sizes the process has to catch SIGXFSZ, as the command does, for a write to fail and not it.
pub fn start(config: Config) -> Result<RunningNode, StartError> {
    let credentials_folder = config.credentials.join(config.node_id.as_str());
    let data_folder = config.data.as_ref().map(|data| data.join(config.node_id.as_str()));
    // What may be lacking, or another process may have, comes first, and nothing is made before.
    check_host(&config)?;
    let there = data_folder.as_deref().filter(|folder| folder.is_dir());
    let lock = there.map(lock_folder).transpose()?;
    let socket = config.control_socket();
    socket.as_deref().map(ControlServer::check).transpose()?;
    let allow = config.allow.as_deref().map(credentials::load_allow_list).transpose()?;
    let driver_cell: Arc<OnceLock<Arc<Driver>>> = Arc::default();
    let ports = Ports::open(&config, &driver_cell)?;

    let old_names = look_for_old_names(&config);
    let lock = match (lock, &data_folder) {
        (None, Some(folder)) => lock_folder(folder)?,
        (lock, _) => lock.unwrap_or_default(),
    };
    let syncs = !matches!(config.sync, SyncRule::Within(_));
    let opened = data_folder.as_deref().map(|folder| Journal::open(folder, syncs)).transpose()?;
    let (mut journal, mut loaded) =
        opened.map_or((None, Loaded::default()), |(journal, loaded)| (Some(journal), loaded));
    let is_broken = journal.as_ref().is_some_and(Journal::is_broken);
    let last_warning = || loaded.warnings.last().filter(|_| is_broken).map(|it| it.text.clone());
    let fault = lock.fault.or_else(last_warning);
    let (known, mut notices) = credentials::load_known_peers(&credentials_folder)?;
    // Where peers were known once, this is not the first node, whatever is left of them.
    let had_peers = !known.is_empty() || !notices.is_empty();
    notices.extend(old_names.into_iter().chain(ports.notice));
    let mut new_keys = NewKeys::default();
    let keys = network_keys(&config, had_peers, &mut new_keys, &mut notices)?;
    let private_key = own_key(&config, &credentials_folder, &mut new_keys, &mut notices)?;
    notices.append(&mut loaded.warnings);
    log_notices(&mut notices, &mut loaded.notes);
    let began = Instant::now();
    let address = ports.server.local_address();
    let settings = settings(&config, &private_key, allow, address)?;
    let own = first_record(&settings, &private_key, loaded, journal.as_mut(), began)?;

    log_start(&config, &private_key, &keys, address);
    let node = Node::new(settings, own, known, random_number()?, now_since(began));
    let (driver, queues) = Driver::new(Parts {
        node,
        keys,
        key_file: config.network_key_file(),
        allow_file: config.allow.clone(),
        private_key,
        client: Client::new(BODY_BYTES_MAX, IDLE_CONNECTIONS_MAX),
        credentials_folder,
        journal: journal.as_ref().map(Journal::tally),
        began,
        notices,
    });
    driver.attach(ports.server, ports.web);

    let (stop, stopped) = bounded(0);
    let mut running = RunningNode {
        driver: Arc::clone(&driver),
        listen: address,
        control: None,
        discovery: Discovering::default(),
        threads: Vec::new(),
        senders: None,
        stop_asked: queues.stop_asked.clone(),
        stop: Some(stop),
    };
    let keeper = Keeper::new(journal, config.sync, fault, driver.now_ms(), &*driver);
    if let Some(path) = socket {
        let group = config.control_group;
        running.control = Some(ControlServer::start(&path, group, Arc::clone(&driver))?);
    }
    running.spawn_threads(queues, (keeper, lock.file), &stopped)?;
    running.discovery = Discovering::start(&config, address, &driver)?;
    // Nothing fails from here on, and others may see the keys. The cell is new, so this can't fail;
    // until now the port answered 503.
    new_keys.keep();
    let _ = driver_cell.set(driver);
    Ok(running)
}

/// Logs what was found; what is no more than a note is one of the notices from then on.
fn log_notices(notices: &mut Vec<Fault>, notes: &mut Vec<Fault>) {
    for warning in notices.iter() {
        log::warn!("{warning}");
    }
    for note in notes.iter() {
        log::info!("{note}");
    }
    notices.append(notes);
}

/// Who this is, and where its files are, as whoever reads the log has to look for them.
fn log_start(config: &Config, private_key: &PrivateKey, keys: &NetworkKeys, listen: SocketAddr) {
    let absolute = |path: &Path| {
        std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).display().to_string()
    };
    log::info!(
        "dsn {} runs as {}: listening on {listen}, public key {}, network key {}, credentials {}, data {}",
        env!("CARGO_PKG_VERSION"),
        config.node_id,
        private_key.public_key().fingerprint(),
        keys.names().join(", "),
        absolute(&config.credentials),
        config.data.as_deref().map_or_else(|| "none".into(), absolute)
    );
}

/// Whether this host has what the node is to have.
fn check_host(config: &Config) -> Result<(), StartError> {
    Discovering::check(config)?;
    probe_threads(threads_min(config))?;
    check_data(config)
}

/// Whether the system gives as many threads as a node has from the beginning: the HTTP server ends
/// the process where it gets none.
fn probe_threads(count: usize) -> Result<(), StartError> {
    let (hold, held) = bounded::<()>(0);
    let spawn = |_| {
        let held = held.clone();
        let thread = thread::Builder::new().name("dsn-probe".into()).stack_size(STACK_BYTES);
        // It ends when nobody holds it any more.
        thread.spawn(move || _ = held.recv())
    };
    let threads: Vec<_> = (0..count).map(spawn).collect();
    drop(hold);
    let ended = threads.into_iter().map(|thread| thread.map(JoinHandle::join).map(drop));
    ended.fold(Ok(()), Result::and).map_err(StartError::NoThread)
}

/// The first version of this run, which says where the node lives now. Its entries are those on
/// disk, so it is written only by a node that starts for the first time, or had said goodbye.
fn first_record(
    settings: &Settings,
    private_key: &PrivateKey,
    loaded: Loaded,
    journal: Option<&mut Journal>,
    began: Instant,
) -> Result<Verified<Record>, StartError> {
    let entries = Arc::new(loaded.entries);
    let record = |timestamp| {
        let draft = Draft::new(settings.node_id.clone(), timestamp, false, Arc::clone(&entries));
        Verified::sign(draft.at(settings.home()), private_key).map_err(|_| StartError::NoRandomness)
    };
    let wall_us = now_since(began).wall_us;
    if loaded.timestamp > 0 && !loaded.left {
        return record(unwritten_timestamp(wall_us, loaded.timestamp));
    }
    let timestamp = next_timestamp(wall_us, loaded.timestamp).ok_or(StartError::NoTimestampLeft)?;
    let commit = Commit { change: &Change::new(), ttl: None, timestamp, left: false };
    if let Some(journal) = journal {
        journal.append(&[commit], &entries)?;
    }
    record(timestamp)
}

fn random_number() -> Result<u64, StartError> {
    let mut bytes = [0; 8];
    SystemRandom::new().fill(&mut bytes).map_err(|_| StartError::NoRandomness)?;
    Ok(u64::from_le_bytes(bytes))
}

fn settings(
    config: &Config,
    private_key: &PrivateKey,
    allow: Option<BTreeMap<NodeId, PublicKey>>,
    address: SocketAddr,
) -> Result<Settings, StartError> {
    let mut secret = [0; 32];
    SystemRandom::new().fill(&mut secret).map_err(|_| StartError::NoRandomness)?;
    // Where only one address is listened on, others can only be told that one; but a link-local one
    // they know better, with a zone of theirs.
    let bound = Address::of(address.ip(), address.port());
    let bound = (!address.ip().is_unspecified() && !bound.is_link_local()).then_some(bound);
    Ok(Settings {
        node_id: config.node_id.clone(),
        public_key: private_key.public_key(),
        secret: Secret(secret),
        port: address.port(),
        advertise: config.advertise.clone().or(bound),
        seeds: config.bootstrap.clone(),
        discovers: config.discover,
        tick_ms: u64::try_from(config.tick.as_millis()).unwrap_or(u64::MAX),
        mesh_max: MESH_MAX,
        relay_heads: RELAY_HEADS,
        program: ProgramVersion::new(env!("CARGO_PKG_VERSION")),
        alone: config.alone,
        is_durable: config.data.is_some(),
        allow,
    })
}

impl RunningNode {
    fn spawn_threads(
        &mut self,
        queues: Queues,
        (keeper, lock): (Keeper<RealDisk>, Option<File>),
        stopped: &Receiver<()>,
    ) -> Result<(), StartError> {
        let Queues { sends, sets, wake_disk, wake, .. } = queues;
        let senders = Senders::new(Arc::clone(&self.driver), sends, stopped.clone());
        senders.call_in().map_err(StartError::NoThread)?;
        let weak = Arc::downgrade(&senders);
        self.driver.tell_of_jobs(move || {
            if let Some(senders) = weak.upgrade() {
                senders.look();
            }
        });
        self.senders = Some(Arc::clone(&senders));
        let (driver, stop) = (Arc::clone(&self.driver), stopped.clone());
        self.spawn("dsn-journal", move || {
            // The folder is free when its writer has ended, and not before.
            let _lock = lock;
            keep(keeper, &driver, &(sets, wake_disk, stop));
        })?;
        let (driver, stop) = (Arc::clone(&self.driver), stopped.clone());
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

    /// Names what is called when somebody asks the node to stop, or it broke a rule of its own:
    /// at once where that has happened. The first one stays.
    pub fn when_asked_to_stop(&self, tell: impl Fn() + Send + Sync + 'static) {
        self.driver.when_asked_to_stop(tell);
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

    /// Something that reads key file and list of allowed nodes again ([`Driver::reload`]), for a
    /// signal handler. Gives what is wrong with them.
    pub fn reloader(&self) -> impl Fn() -> Vec<String> + Send + Sync + use<> {
        let driver = Arc::downgrade(&self.driver);
        move || driver.upgrade().map(|driver| driver.reload()).unwrap_or_default()
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
        self.discovery = Discovering::default();
        if let Some(web) = self.driver.detach_web() {
            web.stop();
        }
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
    (sets, wake, stopped): &(Receiver<SetJob>, Receiver<()>, Receiver<()>),
) {
    let nobody = never();
    // A change that waits decides before what is due by time: what is being set again stays.
    let take_all = |keeper: &mut Keeper<RealDisk>, first: Option<SetJob>| {
        let most = keeper.room().saturating_sub(usize::from(first.is_some()));
        let batch = first.into_iter().chain(sets.try_iter().take(most)).collect();
        keeper.take(batch, driver.now_ms(), driver);
    };
    loop {
        let wait = keeper.due().map(|due| due.saturating_sub(driver.now_ms()));
        let timer = wait.map_or_else(never, |wait| after(Duration::from_millis(wait)));
        // More than one write takes waits in the queue, which has a bound of its own.
        let open = if keeper.room() > 0 { sets } else { &nobody };
        select! {
            recv(open) -> set => take_all(&mut keeper, set.ok()),
            recv(wake) -> _ => take_all(&mut keeper, None),
            recv(timer) -> _ => take_all(&mut keeper, None),
            recv(stopped) -> _ => {
                keeper.take(sets.try_iter().collect(), driver.now_ms(), driver);
                keeper.finish(driver.now_ms(), driver);
                return;
            }
        }
    }
}

fn tick(
    driver: &Driver,
    senders: &Arc<Senders<Driver>>,
    wake: &Receiver<()>,
    stopped: &Receiver<()>,
) {
    loop {
        driver.tick();
        senders.reap();
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
