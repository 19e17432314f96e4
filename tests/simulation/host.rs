//! One virtual host: a clock, a disk, and the real rules with the real steps around them.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use crossbeam_channel::{Receiver, bounded};
use dsn::config::SyncRule;
use dsn::driver::JOBS_MAX;
use dsn::journal::{Commit, Journal};
use dsn::keeper::{Core, Keeper, Kept, SetJob};
use dsn::protocol::address::Address;
use dsn::protocol::crypto::CryptoFault;
use dsn::protocol::entries::{Change, Key};
use dsn::protocol::flight::Ticket;
use dsn::protocol::head::{Home, next_timestamp, unwritten_timestamp};
use dsn::protocol::identity::{NodeId, PublicKey};
use dsn::protocol::node::{Action, Class, DiskWishes, Job, Node, Now, Outgoing, Secret, Settings};
use dsn::protocol::node::{MESH_MAX, RELAY_HEADS};
use dsn::protocol::peer::KnownPeer;
use dsn::protocol::record::{Draft, Record};
use dsn::protocol::report::Refused;
use dsn::protocol::verified::Verified;
use dsn::protocol::wire::ProgramVersion;
use dsn::runtime::senders_max;

use super::crypto::{SimKey, sign};
use super::disk::SimDisk;
use super::expiry::{Lives, Wanted};

pub const PORT: u16 = 8000;
/// The true time when a simulation begins, microseconds since 1970.
const EPOCH_US: u64 = 1_767_225_600_000_000;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Clock {
    Right,
    /// Off by so much.
    Off(i64),
    /// Begins in 1970 with each start: a board without a clock chip.
    SinceBoot,
    Stopped(u64),
}

pub struct Host {
    pub node_id: NodeId,
    pub key: SimKey,
    pub ip: IpAddr,
    pub clock: Clock,
    pub seeds: Vec<Address>,
    pub allow: Option<BTreeMap<NodeId, PublicKey>>,
    /// Beyond so many peers changes go by relays.
    pub mesh_max: usize,
    /// Into how many parts they cut a ring.
    pub relay_heads: usize,
    pub hung_until: u64,
    pub run: u64,
    pub disk: SimDisk,
    pub disk_fails: bool,
    /// The file of the known peers.
    pub known: Vec<KnownPeer>,
    pub sync: SyncRule,
    pub running: Option<Running>,
    /// Requests that it sent, and how many of them were HELLOs.
    pub sent: u64,
    pub sent_bytes: u64,
    pub hellos: u64,
    /// How often the known peers were written.
    pub saves: u64,
    /// Which of its keys expire.
    pub lives: Lives,
}

pub struct Running {
    pub node: Node,
    pub keeper: Keeper<SimDisk>,
    pub began_ms: u64,
    pub wake_at: u64,
    pub disk_wake_at: Option<u64>,
    queues: [VecDeque<Job>; Class::ALL.len()],
    busy: [usize; Class::ALL.len()],
    pub open: HashMap<u64, OpenFlight>,
    pub waiting: HashMap<Ticket, u64>,
    pub pings: Vec<Ticket>,
    /// Changes whose callers wait for the answer.
    pub sets: Vec<(Receiver<Result<u64, Refused>>, Wanted)>,
}

/// A request on its way.
pub struct OpenFlight {
    pub job: Job,
    pub outgoing: Outgoing,
    pub tag: dsn::protocol::crypto::Tag,
}

fn place_of(class: Class) -> usize {
    Class::ALL.iter().position(|other| *other == class).unwrap()
}

impl Running {
    /// Puts a job in its queue, as the driver does.
    pub fn enqueue(&mut self, job: Job) {
        let queue = &mut self.queues[place_of(job.class)];
        if queue.len() == JOBS_MAX {
            self.node.put_back(&job);
        } else {
            queue.push_back(job);
        }
    }

    /// Jobs that senders take now.
    pub fn take_jobs(&mut self) -> Vec<Job> {
        let mut taken = Vec::new();
        for class in Class::ALL {
            let at = place_of(class);
            while self.busy[at] < senders_max(class)
                && let Some(job) = self.queues[at].pop_front()
            {
                self.busy[at] += 1;
                taken.push(job);
            }
        }
        taken
    }

    pub fn sender_is_free(&mut self, class: Class) {
        self.busy[place_of(class)] -= 1;
    }
}

/// The node, as the journal's thread sees it.
struct SimCore<'a> {
    key: SimKey,
    now: Now,
    node: RefCell<&'a mut Node>,
    actions: RefCell<Vec<Action>>,
    made: RefCell<Vec<Verified<Record>>>,
    known: RefCell<Option<Vec<KnownPeer>>>,
    disk_fails: bool,
}

impl Core for SimCore<'_> {
    fn own(&self) -> Verified<Record> {
        self.node.borrow().own().clone()
    }

    fn home(&self) -> Home {
        self.node.borrow().home().clone()
    }

    fn next_timestamp(&self, last: u64) -> Option<u64> {
        self.node.borrow().next_timestamp(self.now.wall_us, last)
    }

    fn sign(&self, draft: Draft) -> Result<Verified<Record>, CryptoFault> {
        let record = sign(draft, &self.key);
        self.made.borrow_mut().push(record.clone());
        Ok(record)
    }

    fn publish(&self, record: Verified<Record>) {
        let actions = self.node.borrow_mut().on_set(record, self.now);
        self.actions.borrow_mut().extend(actions);
    }

    fn wishes(&self) -> DiskWishes {
        self.node.borrow_mut().take_disk_wishes()
    }

    fn known_peers(&self) -> Vec<KnownPeer> {
        self.node.borrow().known_peers()
    }

    fn save_peers(&self, peers: &[KnownPeer]) -> Result<(), String> {
        if self.disk_fails {
            return Err("the disk is full".into());
        }
        *self.known.borrow_mut() = Some(peers.to_vec());
        Ok(())
    }

    fn note_disk(&self, _: Kept, _: Option<String>) {}

    fn note_leases(&self, _: Vec<(Key, Option<u64>)>) {}
}

/// What the journal's thread did.
pub struct Written {
    pub actions: Vec<Action>,
    /// Versions that it signed, on disk or not.
    pub made: Vec<Verified<Record>>,
}

impl Host {
    pub fn new(number: usize, ip: IpAddr, key: SimKey) -> Self {
        Self {
            node_id: NodeId::new(&format!("n{number}")).unwrap(),
            key,
            ip,
            clock: Clock::Right,
            seeds: Vec::new(),
            allow: None,
            mesh_max: MESH_MAX,
            relay_heads: RELAY_HEADS,
            hung_until: 0,
            run: 0,
            disk: SimDisk::default(),
            disk_fails: false,
            known: Vec::new(),
            sync: SyncRule::Always,
            running: None,
            sent: 0,
            sent_bytes: 0,
            hellos: 0,
            saves: 0,
            lives: Lives::default(),
        }
    }

    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(self.ip, PORT)
    }

    pub fn now(&self, now_ms: u64) -> Now {
        let since = |began_ms: u64| (now_ms - began_ms) * 1000;
        let right = EPOCH_US + now_ms * 1000;
        let began = self.running.as_ref().map_or(now_ms, |it| it.began_ms);
        let wall_us = match self.clock {
            Clock::Right => right,
            Clock::Off(by) => right.saturating_add_signed(by),
            Clock::SinceBoot => since(began),
            Clock::Stopped(at) => at,
        };
        Now { wall_us, mono_ms: since(began) / 1000 + 5 }
    }

    /// Starts as `runtime::start` does; gives the first version that it shows, and the timestamp of
    /// the one that it found on its disk.
    pub fn start(
        &mut self,
        now_ms: u64,
        tick_ms: u64,
        random: &mut fastrand::Rng,
    ) -> (Verified<Record>, u64) {
        assert!(self.running.is_none());
        self.run += 1;
        let now = self.now(now_ms);
        let syncs = !matches!(self.sync, SyncRule::Within(_));
        // Whoever starts a node waits for its disk (docs/operations.md).
        self.disk.is_away(false);
        let opened = Journal::open_on(self.disk.clone(), Path::new("data"), syncs);
        let (mut journal, loaded) = opened.unwrap();
        self.lives.started(&loaded.terms, now_ms);
        let entries = std::sync::Arc::new(loaded.entries);
        let timestamp = if loaded.timestamp > 0 && !loaded.left {
            unwritten_timestamp(now.wall_us, loaded.timestamp)
        } else {
            let timestamp = next_timestamp(now.wall_us, loaded.timestamp).unwrap();
            let commit = Commit { change: &Change::new(), ttl: None, timestamp, left: false };
            self.disk.fails(false);
            journal.append(&[commit], &entries).unwrap();
            self.disk.fails(self.disk_fails);
            timestamp
        };
        let mut secret = [0; 32];
        secret.fill_with(|| random.u8(..));
        let settings = Settings {
            discovers: false,
            node_id: self.node_id.clone(),
            public_key: self.key.0,
            secret: Secret(secret),
            port: PORT,
            advertise: None,
            seeds: self.seeds.clone(),
            tick_ms,
            mesh_max: self.mesh_max,
            relay_heads: self.relay_heads,
            program: ProgramVersion::new("simulated"),
            alone: false,
            is_durable: true,
            allow: self.allow.clone(),
        };
        let own = Draft::new(self.node_id.clone(), timestamp, false, entries);
        let own = sign(own.at(settings.home()), &self.key);
        let mut node = Node::new(settings, own.clone(), self.known.clone(), random.u64(..), now);
        let core = core_of(self.key, now, self.disk_fails, &mut node);
        let keeper = Keeper::new(Some(journal), self.sync, None, now.mono_ms, &core);
        drop(core);
        self.running = Some(Running {
            node,
            keeper,
            began_ms: now_ms,
            wake_at: now_ms,
            disk_wake_at: None,
            queues: Default::default(),
            busy: Default::default(),
            open: HashMap::new(),
            waiting: HashMap::new(),
            pings: Vec::new(),
            sets: Vec::new(),
        });
        (own, loaded.timestamp)
    }

    /// What the journal's thread does when it is woken, or brought changes.
    pub fn write(&mut self, now_ms: u64, wanted: Option<Wanted>) -> Option<Written> {
        let now = self.now(now_ms);
        let running = self.running.as_mut()?;
        let core = core_of(self.key, now, self.disk_fails, &mut running.node);
        match wanted {
            Some(wanted) => {
                let (reply, answer) = bounded(1);
                let Wanted { change, ttl, left } = wanted.clone();
                running.sets.push((answer, wanted));
                running.keeper.take(vec![SetJob { change, ttl, left, reply }], now.mono_ms, &core);
            }
            None => running.keeper.look(now.mono_ms, &core),
        }
        let SimCore { actions, made, known, .. } = core;
        if let Some(known) = known.into_inner() {
            self.known = known;
            self.saves += 1;
        }
        Some(Written { actions: actions.into_inner(), made: made.into_inner() })
    }
}

fn core_of(key: SimKey, now: Now, disk_fails: bool, node: &mut Node) -> SimCore<'_> {
    SimCore {
        key,
        now,
        node: RefCell::new(node),
        actions: RefCell::default(),
        made: RefCell::default(),
        known: RefCell::default(),
        disk_fails,
    }
}
