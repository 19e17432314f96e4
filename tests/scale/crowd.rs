//! A thousand of the real rules in one process, with a clock of its own. The network, the CPU of
//! each host and its senders are modelled; what the nodes say to each other is passed on as it is.
//!
//! Nobody lies here, so nothing is signed: whoever wants liars takes `tests/simulation`.

use std::cell::Cell;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

use dsn::driver::JOBS_MAX;
use dsn::protocol::crypto::{ENVELOPE_BYTES, NetworkKeys, TAG_BYTES, Tag};
use dsn::protocol::entries::{Change, Key, Value};
use dsn::protocol::head::unwritten_timestamp;
use dsn::protocol::identity::{NodeId, PublicKey, SIGNATURE_BYTES};
use dsn::protocol::node::{
    Action, Class, Job, MESH_MAX, Node, Now, Outcome, RELAY_HEADS, Reply, Republish, Secret,
    Settings, Verdict,
};
use dsn::protocol::peer::{Known, KnownPeer, Pin, Trust};
use dsn::protocol::record::{Draft, Record};
use dsn::protocol::report::Event as Told;
use dsn::protocol::verified::Verified;
use dsn::protocol::wire::{self, Answer, Kind, ProgramVersion, Push, RECORDS_MAX, Request};
use dsn::runtime::senders_max;
use dsn::steps::{self, Arrived, HttpAnswer, Looked, Returned};
use zeroize::Zeroizing;

use super::host::{Back, Believes, Call, Doing, EPOCH_US, KEYS, Letter, PORT, Signs, Work};
pub use super::host::{Costs, Host, Traffic};
use super::host::{address_of, brings_records, ip_of, key_of, number_at, place_of};

/// After how long a connection is reset whose request got lost.
const RESET_US: u64 = 5_000;
/// What the journal's thread takes to look for wishes.
const DISK_US: u64 = 1_000;
/// What HTTP adds to a request and to an answer, bytes; read from a socket.
const REQUEST_HEAD_BYTES: u64 = 70;
const ANSWER_HEAD_BYTES: u64 = 45;
/// The name of the header with the seal, its colon, space and end of line.
const SEAL_HEAD_BYTES: u64 = 12;
/// How one node sees another one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Seen {
    Never,
    Alive,
    Suspect,
    Lost,
    Left,
}

enum Event {
    Tick,
    Disk,
    /// The CPU is done with what it did.
    Done,
    Arrive(Box<Letter>),
    Come(u64, Box<Back>),
    /// A try has waited long enough.
    Over(u64),
}

struct Entry {
    at_us: u64,
    sequence: u64,
    host: u32,
    run: u32,
    event: Event,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        (self.at_us, self.sequence) == (other.at_us, other.sequence)
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at_us, self.sequence).cmp(&(other.at_us, other.sequence))
    }
}

/// Who has a change, and when it came there.
pub struct Watch {
    pub owner: usize,
    timestamp: u64,
    pub set_us: u64,
    /// Microseconds after the set, by node.
    pub reached: HashMap<usize, u64>,
}

pub struct Crowd {
    pub now_us: u64,
    pub random: fastrand::Rng,
    pub hosts: Vec<Host>,
    pub costs: Costs,
    /// Requests that get lost, in a million; and of the answers to the others as many.
    pub loss: u32,
    /// Whose requests do not get through to whom; answers come back on their connection.
    pub walls: HashSet<(usize, usize)>,
    /// Whether such a request is refused at once, or meets silence.
    pub walls_refuse: bool,
    /// How many CPUs all hosts share; nothing where each has its own.
    pub cores: Option<usize>,
    /// How many of them are busy, and who waits for one.
    busy_cores: usize,
    waiting: VecDeque<usize>,
    /// `dsn::Config::tick`.
    pub tick_ms: u64,
    pub traffic: Traffic,
    pub events: u64,
    pub watches: Vec<Watch>,
    /// Said of nodes that were running, not hung and on the same side.
    pub false_suspects: u64,
    pub false_losts: u64,
    /// The same, each node counted once within ten seconds, however many say it.
    pub suspicions: u64,
    pub losses: u64,
    suspected_at: Vec<u64>,
    lost_at: Vec<u64>,
    /// Told for each false suspicion and loss: who, of whom.
    pub trace: Option<Vec<(u64, usize, usize, Seen)>>,
    index: HashMap<NodeId, usize>,
    /// By who sees, then by who is seen.
    seen: Vec<Seen>,
    /// The timestamp of what is held, in the same order.
    held: Vec<u64>,
    /// How many of those that run see a node in this way.
    lost_by: Vec<u32>,
    keys: NetworkKeys,
    queue: BinaryHeap<Reverse<Entry>>,
    sequence: u64,
    /// A node that did not know all others when it was looked at last.
    missed_at: Cell<usize>,
}

impl Crowd {
    /// So many hosts on which nothing runs yet.
    pub fn new(count: usize, seed: u64) -> Self {
        let hosts: Vec<Host> = (0..count).map(Host::new).collect();
        let index = hosts.iter().enumerate().map(|(at, host)| (host.node_id.clone(), at)).collect();
        Self {
            now_us: 1_000_000,
            random: fastrand::Rng::with_seed(seed),
            hosts,
            costs: Costs::REAL,
            loss: 0,
            walls: HashSet::new(),
            walls_refuse: false,
            cores: None,
            busy_cores: 0,
            waiting: VecDeque::new(),
            tick_ms: 3_000,
            traffic: Traffic::default(),
            events: 0,
            watches: Vec::new(),
            false_suspects: 0,
            false_losts: 0,
            suspicions: 0,
            losses: 0,
            suspected_at: vec![0; count],
            lost_at: vec![0; count],
            trace: None,
            index,
            seen: vec![Seen::Never; count * count],
            held: vec![0; count * count],
            lost_by: vec![0; count],
            keys: NetworkKeys::new(&[Zeroizing::new([9; 32])]).unwrap(),
            queue: BinaryHeap::new(),
            sequence: 0,
            missed_at: Cell::new(0),
        }
    }

    /// All run, know each other, and hold what the others have: without the time that it takes to
    /// meet. The last ones, so many, do not run yet, and nobody has heard of them.
    pub fn primed(count: usize, late: usize, seed: u64) -> Self {
        let mut crowd = Self::new(count, seed);
        crowd.costs = Costs::NONE;
        let first = count - late;
        let known: Vec<KnownPeer> = (0..first)
            .map(|number| KnownPeer {
                node_id: crowd.hosts[number].node_id.clone(),
                known: Known::Pinned {
                    pin: Pin { key: key_of(number), trust: Trust::Direct },
                    address: Some(address_of(number)),
                },
            })
            .collect();
        for host in 0..first {
            crowd.hosts[host].known.clone_from(&known);
            crowd.start(host);
        }
        crowd.bring_records();
        let is_whole = crowd.run_until(60_000_000, Self::is_whole);
        assert!(is_whole.is_some(), "{count} nodes do not meet: {}", crowd.lack());
        // What else there was to say.
        crowd.run_for(10_000_000);
        crowd.costs = Costs::REAL;
        crowd.run_for(5_000_000);
        crowd.forget_counts();
        crowd
    }

    /// All get the records of all, as if others had brought them.
    fn bring_records(&mut self) {
        let own = |host: &Host| host.node.as_ref().map(|node| node.own().share());
        let records: Vec<Arc<Record>> = self.hosts.iter().filter_map(own).collect();
        for host in 0..records.len() {
            let others: Vec<_> =
                records.iter().filter(|it| it.head.node_id != self.hosts[host].node_id).collect();
            for some in others.chunks(RECORDS_MAX) {
                let node = self.hosts[host].node.as_ref().unwrap();
                let records = some.iter().map(|it| Arc::clone(it)).collect();
                let push = Push::new(self.hosts[host].node_id.clone(), node.incarnation());
                let push = Push { records, ..push };
                let tag = self.next_tag();
                let caller = SocketAddr::new(ip_of(host), 40_000);
                let (_, reply, actions) = self.apply(host, Request::Push(push), tag, caller);
                let is_taken = matches!(reply.verdict, Verdict::Nothing);
                assert!(is_taken, "records are refused: {:?}", reply.verdict);
                self.perform(host, actions);
            }
        }
    }

    /// Makes nothing of what was counted so far.
    pub fn forget_counts(&mut self) {
        self.false_suspects = 0;
        self.false_losts = 0;
        self.suspicions = 0;
        self.losses = 0;
    }

    fn schedule(&mut self, delay_us: u64, host: usize, event: Event) {
        self.sequence += 1;
        let (host, run) = (u32::try_from(host).unwrap(), self.hosts[host].run);
        let at_us = self.now_us + delay_us;
        self.queue.push(Reverse(Entry { at_us, sequence: self.sequence, host, run, event }));
    }

    fn next_tag(&mut self) -> Tag {
        self.sequence += 1;
        let mut tag = [0; TAG_BYTES];
        tag[..8].copy_from_slice(&self.sequence.to_le_bytes());
        tag
    }

    pub fn now(&self) -> Now {
        Now { wall_us: EPOCH_US + self.now_us, mono_ms: self.now_us / 1000 }
    }

    fn delay(&mut self) -> u64 {
        self.random.u64(self.costs.delay.0..self.costs.delay.1)
    }

    fn sign(draft: Draft, key: PublicKey) -> Verified<Record> {
        Verified::sign(draft, &Signs(key)).unwrap()
    }

    /// Starts the node of a host with what is on its disk. Its bootstrap node is the first one that
    /// runs.
    pub fn start(&mut self, host: usize) {
        let seed = (0..self.hosts.len()).find(|at| *at != host && self.is_running(*at));
        let now = self.now();
        let mut secret = [0; 32];
        secret.fill_with(|| self.random.u8(..));
        let at = &mut self.hosts[host];
        at.run += 1;
        at.is_hung = false;
        let settings = Settings {
            discovers: false,
            node_id: at.node_id.clone(),
            public_key: at.key,
            secret: Secret(secret),
            port: PORT,
            advertise: None,
            seeds: seed.map(address_of).into_iter().collect(),
            tick_ms: self.tick_ms,
            mesh_max: MESH_MAX,
            relay_heads: RELAY_HEADS,
            program: ProgramVersion::new("simulated"),
            alone: false,
            is_durable: true,
            allow: None,
        };
        // Nothing is written for it: what is on the disk says the same.
        let on_disk = at.kept.head.timestamp;
        let timestamp = unwritten_timestamp(now.wall_us, on_disk);
        let own = Self::sign(at.kept.again(timestamp).at(settings.home()), at.key);
        let known = at.known.clone();
        at.node = Some(Node::new(settings, own, known, self.random.u64(..), now));
        (at.wake_us, at.disk_waits, at.doing) = (self.now_us, false, None);
        (at.queues, at.busy) = Default::default();
        at.work.clear();
        at.open.clear();
        let count = self.hosts.len();
        for other in 0..count {
            self.see(host, other, Seen::Never);
            self.held[host * count + other] = 0;
        }
        self.schedule(0, host, Event::Tick);
    }

    /// Ends the process of a node at once; its port is refused from now on.
    pub fn kill(&mut self, host: usize) {
        let count = self.hosts.len();
        for other in 0..count {
            self.see(host, other, Seen::Never);
        }
        let at = &mut self.hosts[host];
        if let Some(node) = at.node.take() {
            at.known = node.known_peers();
        }
        at.run += 1;
    }

    /// The process of a node stops, and says nothing any more.
    pub fn hang(&mut self, host: usize) {
        self.hosts[host].is_hung = true;
    }

    pub fn is_running(&self, host: usize) -> bool {
        self.hosts[host].node.is_some() && !self.hosts[host].is_hung
    }

    /// A node changes one of its keys; all are watched that get it.
    pub fn set(&mut self, host: usize) -> usize {
        let number = self.random.u32(..);
        let value = Value::new(format!("{number:08x}").as_bytes()).unwrap();
        let key = Key::new(&format!("key-{:02}", self.random.usize(..KEYS))).unwrap();
        let change = Change::from([(key, Some(value))]);
        let now = self.now();
        let node = self.hosts[host].node.as_ref().unwrap();
        let draft = node.own().draft();
        let timestamp = node.next_timestamp(now.wall_us, draft.head.timestamp).unwrap();
        let draft = draft.after(&change, false, timestamp).unwrap().expect("it changes something");
        let draft = draft.at(node.home().clone());
        self.hosts[host].kept = draft.clone();
        let reached = HashMap::new();
        self.watches.push(Watch { owner: host, timestamp, set_us: self.now_us, reached });
        self.publish(host, draft);
        self.watches.len() - 1
    }

    fn publish(&mut self, host: usize, draft: Draft) {
        let now = self.now();
        let record = Self::sign(draft, self.hosts[host].key);
        let Some(node) = &mut self.hosts[host].node else { return };
        let actions = node.on_set(record, now);
        self.perform(host, actions);
    }

    pub fn run_for(&mut self, us: u64) {
        self.run_to(self.now_us + us);
    }

    fn run_to(&mut self, until_us: u64) {
        while let Some(Reverse(next)) = self.queue.peek()
            && next.at_us <= until_us
        {
            let Some(Reverse(entry)) = self.queue.pop() else { break };
            self.now_us = entry.at_us;
            self.step(entry);
        }
        self.now_us = self.now_us.max(until_us);
    }

    /// Runs until the condition holds, looking every five milliseconds; gives how long that took.
    pub fn run_until(&mut self, limit_us: u64, holds: impl Fn(&Self) -> bool) -> Option<u64> {
        let began_us = self.now_us;
        while !holds(self) {
            if self.now_us - began_us >= limit_us {
                return None;
            }
            self.run_for(5_000);
        }
        Some(self.now_us - began_us)
    }

    fn step(&mut self, entry: Entry) {
        self.events += 1;
        let host = entry.host as usize;
        if let Event::Arrive(letter) = entry.event {
            return self.arrive(host, letter);
        }
        if entry.run != self.hosts[host].run || !self.is_running(host) {
            return;
        }
        match entry.event {
            Event::Tick => self.tick(host),
            Event::Disk => self.look_for_wishes(host),
            Event::Done => self.done(host),
            Event::Come(flight, back) => self.come(host, flight, *back),
            Event::Over(flight) => self.come(host, flight, Back::Failed("no answer in time")),
            Event::Arrive(_) => {}
        }
    }

    fn tick(&mut self, host: usize) {
        let (now, now_us) = (self.now(), self.now_us);
        let at = &mut self.hosts[host];
        if now_us < at.wake_us {
            return;
        }
        let Some(node) = &mut at.node else { return };
        let (wake_at, actions) = node.on_tick(now);
        let delay_us = wake_at.saturating_sub(now.mono_ms).max(1) * 1000;
        at.wake_us = now_us + delay_us;
        self.schedule(delay_us, host, Event::Tick);
        self.perform(host, actions);
    }

    fn look_for_wishes(&mut self, host: usize) {
        let now = self.now();
        let at = &mut self.hosts[host];
        at.disk_waits = false;
        let Some(node) = &mut at.node else { return };
        if let Some(republish) = node.take_disk_wishes().republish {
            at.refuted += 1;
            let draft = node.own().draft();
            if let Some(timestamp) = node.next_timestamp(now.wall_us, draft.head.timestamp) {
                let draft = draft.again(timestamp).at(node.home().clone());
                if republish == Republish::Written {
                    at.kept = draft.clone();
                }
                self.publish(host, draft);
            }
        }
    }

    fn perform(&mut self, host: usize, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Send(job) => {
                    let at = &mut self.hosts[host];
                    let queue = &mut at.queues[place_of(job.class)];
                    match &mut at.node {
                        Some(node) if queue.len() == JOBS_MAX => node.put_back(&job),
                        _ => queue.push_back(job),
                    }
                }
                Action::WakeAt(wake_at) => {
                    let (now, now_us) = (self.now(), self.now_us);
                    let delay_us = wake_at.saturating_sub(now.mono_ms).max(1) * 1000;
                    let at = &mut self.hosts[host];
                    if now_us + delay_us < at.wake_us {
                        at.wake_us = now_us + delay_us;
                        self.schedule(delay_us, host, Event::Tick);
                    }
                }
                Action::WakeDisk => {
                    if !std::mem::replace(&mut self.hosts[host].disk_waits, true) {
                        self.schedule(DISK_US, host, Event::Disk);
                    }
                }
                Action::Changed { node_id, timestamp, .. } => {
                    self.changed(host, &node_id, timestamp);
                }
                Action::Finish(..) => {}
                Action::Tell(event) => self.told(host, &event),
            }
        }
        self.pump(host);
    }

    fn changed(&mut self, host: usize, owner: &NodeId, timestamp: u64) {
        let (owner, count) = (self.index[owner], self.hosts.len());
        self.held[host * count + owner] = timestamp;
        let now_us = self.now_us;
        for watch in &mut self.watches {
            if watch.owner == owner && host != owner && timestamp >= watch.timestamp {
                watch.reached.entry(host).or_insert(now_us - watch.set_us);
            }
        }
    }

    fn told(&mut self, host: usize, event: &Told) {
        let seen = match event {
            Told::Joined { .. } => Seen::Alive,
            Told::Suspect { .. } => Seen::Suspect,
            Told::Lost { .. } => Seen::Lost,
            Told::Left { .. } => Seen::Left,
            _ => return,
        };
        let Some(&of) = event.node_id().and_then(|id| self.index.get(id)) else { return };
        self.see(host, of, seen);
        let is_there = self.is_running(of) && self.hosts[of].side == self.hosts[host].side;
        if !is_there || !matches!(seen, Seen::Suspect | Seen::Lost) {
            return;
        }
        let (all, each, at) = match seen {
            Seen::Suspect => {
                (&mut self.false_suspects, &mut self.suspicions, &mut self.suspected_at)
            }
            _ => (&mut self.false_losts, &mut self.losses, &mut self.lost_at),
        };
        *all += 1;
        if at[of] == 0 || self.now_us - at[of] > 10_000_000 {
            *each += 1;
            at[of] = self.now_us;
        }
        if let Some(trace) = &mut self.trace {
            trace.push((self.now_us, host, of, seen));
        }
    }

    fn see(&mut self, host: usize, of: usize, seen: Seen) {
        let at = host * self.hosts.len() + of;
        let before = std::mem::replace(&mut self.seen[at], seen);
        let is_lost = |seen| matches!(seen, Seen::Lost | Seen::Left);
        self.lost_by[of] += u32::from(is_lost(seen));
        self.lost_by[of] -= u32::from(is_lost(before));
    }

    /// By how many of those that run a node is counted as gone.
    pub fn lost_by(&self, of: usize) -> usize {
        self.lost_by[of] as usize
    }

    pub fn seen(&self, host: usize, of: usize) -> Seen {
        self.seen[host * self.hosts.len() + of]
    }

    /// Whether the node sees all others that run on its side as alive, and holds what they made
    /// last; and they the same of it.
    pub fn is_met(&self, host: usize) -> bool {
        (0..self.hosts.len()).all(|other| {
            !self.is_running(other)
                || self.hosts[other].side != self.hosts[host].side
                || self.has(host, other) && self.has(other, host)
        })
    }

    fn has(&self, host: usize, of: usize) -> bool {
        let at = host * self.hosts.len() + of;
        host == of
            || self.seen[at] == Seen::Alive && self.held[at] >= self.hosts[of].kept.head.timestamp
    }

    /// Whether all that run on one side see each other as alive, and hold what the others have.
    pub fn is_whole(&self) -> bool {
        // What was missing a moment ago mostly is still: all are looked at only when nothing is.
        let count = self.hosts.len();
        let first = self.missed_at.get();
        let missing = (first..count)
            .chain(0..first)
            .find(|host| self.is_running(*host) && !self.is_met(*host));
        self.missed_at.set(missing.unwrap_or(0));
        missing.is_none()
    }

    /// Pairs that run of which one does not hold what the other wrote last.
    pub fn unheld(&self) -> usize {
        let count = self.hosts.len();
        let running = || (0..count).filter(|host| self.is_running(*host));
        let lacks = |host: usize, of: usize| {
            host != of && self.held[host * count + of] < self.hosts[of].kept.head.timestamp
        };
        running().map(|host| running().filter(|of| lacks(host, *of)).count()).sum()
    }

    /// What is missing to that, for people.
    pub fn lack(&self) -> String {
        let (mut unseen, mut unheld, mut first) = (0, 0, None);
        let count = self.hosts.len();
        for host in (0..count).filter(|host| self.is_running(*host)) {
            for other in (0..count).filter(|other| self.is_running(*other) && *other != host) {
                let is_alive = self.seen(host, other) == Seen::Alive;
                let holds =
                    self.held[host * count + other] >= self.hosts[other].kept.head.timestamp;
                unseen += usize::from(!is_alive);
                unheld += usize::from(!holds);
                if !(is_alive && holds) && first.is_none() {
                    first = Some((host, other, self.seen(host, other)));
                }
            }
        }
        format!("{unseen} pairs not alive, {unheld} without the record, first {first:?}")
    }

    /// Senders that are free take jobs.
    fn pump(&mut self, host: usize) {
        let at = &mut self.hosts[host];
        for class in Class::ALL {
            let place = place_of(class);
            while at.busy[place] < senders_max(class)
                && let Some(job) = at.queues[place].pop_front()
            {
                at.busy[place] += 1;
                at.work.push_back(Work::Send(job));
            }
        }
        self.work(host);
    }

    /// The CPU takes what is next, if it has nothing to do.
    fn work(&mut self, host: usize) {
        while self.hosts[host].doing.is_none() && !self.hosts[host].work.is_empty() {
            if self.cores.is_some_and(|cores| self.busy_cores >= cores) {
                if !self.waiting.contains(&host) {
                    self.waiting.push_back(host);
                }
                return;
            }
            let Some(work) = self.hosts[host].work.pop_front() else { return };
            match work {
                Work::Send(job) => self.begin(host, job),
                Work::Receive(letter) => {
                    self.hosts[host].doing = Some(Doing::Receive(letter));
                    self.busy_cores += 1;
                    self.schedule(self.costs.receive, host, Event::Done);
                }
            }
        }
    }

    fn begin(&mut self, host: usize, job: Job) {
        let (now, tag) = (self.now(), self.next_tag());
        let at = &mut self.hosts[host];
        let Some(node) = &mut at.node else { return };
        let Some(mut outgoing) = node.begin(&job, now) else {
            at.busy[place_of(job.class)] -= 1;
            return self.pump(host);
        };
        steps::sign_words(&mut outgoing.request, &at.node_id, &Signs(at.key)).unwrap();
        let (flight, limit_us) = (job.flight, outgoing.limit_ms * 1_000);
        let call = Call { job, outgoing, tag, began_us: self.now_us };
        at.open.insert(flight, call);
        at.doing = Some(Doing::Send(flight));
        self.busy_cores += 1;
        self.schedule(self.costs.send, host, Event::Done);
        self.schedule(limit_us, host, Event::Over(flight));
    }

    fn done(&mut self, host: usize) {
        self.busy_cores -= 1;
        match self.hosts[host].doing.take() {
            Some(Doing::Send(flight)) => self.depart(host, flight),
            Some(Doing::Receive(letter)) => self.receive(host, *letter),
            None => {}
        }
        // Whoever waits for a CPU comes first.
        while self.cores.is_none_or(|cores| self.busy_cores < cores)
            && let Some(next) = self.waiting.pop_front()
        {
            self.work(next);
        }
        self.work(host);
    }

    fn count(&mut self, host: usize, request: &Request) {
        let bytes = wire::encode_request(request).unwrap().len() + ENVELOPE_BYTES;
        let signature = if request.is_signed() { SIGNATURE_BYTES } else { 0 };
        let bytes = (bytes + signature) as u64 + REQUEST_HEAD_BYTES;
        self.traffic.count(request, bytes);
        self.hosts[host].sent.count(request, bytes);
    }

    /// The network does to a request what it does.
    fn depart(&mut self, host: usize, flight: u64) {
        let Some(call) = self.hosts[host].open.get(&flight) else { return };
        let (request, tag) = (call.outgoing.request.clone(), call.tag);
        let to = number_at(&call.outgoing.address);
        self.count(host, &request);
        let Some(to) = to.filter(|to| *to < self.hosts.len()) else {
            return self.schedule(2_000, host, Event::Come(flight, failed("no such host")));
        };
        if self.hosts[to].side != self.hosts[host].side {
            return;
        }
        if self.walls.contains(&(host, to)) {
            if self.walls_refuse {
                let back = failed("connection refused");
                self.schedule(RESET_US, host, Event::Come(flight, back));
            }
            return;
        }
        if self.random.u32(0..1_000_000) < self.loss {
            if self.random.bool() {
                let back = failed("connection reset");
                self.schedule(RESET_US, host, Event::Come(flight, back));
            }
            return;
        }
        let delay = self.delay();
        let from_run = self.hosts[host].run;
        let letter = Box::new(Letter { from: host, from_run, flight, tag, request });
        self.schedule(delay, to, Event::Arrive(letter));
    }

    fn arrive(&mut self, host: usize, letter: Box<Letter>) {
        if self.hosts[host].node.is_none() {
            return self.reply(host, &letter, Back::Failed("connection refused"));
        }
        if self.hosts[host].is_hung {
            return;
        }
        self.hosts[host].work.push_back(Work::Receive(letter));
        self.work(host);
    }

    fn apply(
        &mut self,
        host: usize,
        request: Request,
        tag: Tag,
        caller: SocketAddr,
    ) -> (dsn::steps::Answering, Reply, Vec<Action>) {
        let now = self.now();
        let node = self.hosts[host].node.as_mut().unwrap();
        match Arrived::unsealed(request, tag).look(node) {
            Looked::Refused(answering, verdict) => (answering, Reply::from(verdict), Vec::new()),
            Looked::ToCheck(to_check) => {
                let checked = to_check.check(&Believes);
                let answering = checked.answering();
                let (reply, actions) = checked.apply(node, caller, now);
                (answering, reply, actions)
            }
        }
    }

    fn receive(&mut self, host: usize, letter: Letter) {
        let Letter { from, from_run, flight, tag, request } = letter;
        let (is_list, is_push) = (request.kind() == Kind::Peers, brings_records(&request));
        let caller = SocketAddr::new(ip_of(from), 40_000);
        let (answering, reply, actions) = self.apply(host, request.clone(), tag, caller);
        self.perform(host, actions);
        let (back, bytes) = match reply.verdict {
            Verdict::Answer(answer) if matches!(*answer, Answer::Records(_)) => {
                let bytes = wire::encode_answer(&answer).unwrap().len() + ENVELOPE_BYTES;
                let Answer::Records(records) = *answer else { return };
                (Back::Records(records), bytes as u64)
            }
            verdict => {
                let reply = Reply { verdict, caller: reply.caller };
                let signer = Signs(self.hosts[host].key);
                let answer = answering.answer(reply, &self.keys, &signer, [0; 16]).unwrap();
                let seal = answer.seal.as_ref().map_or(0, |it| it.len() as u64 + SEAL_HEAD_BYTES);
                let bytes = answer.body.len() as u64 + seal;
                let (status, seal, body) = (answer.status, answer.seal, answer.body);
                (Back::Http(HttpAnswer { status, seal, body }), bytes)
            }
        };
        let bytes = bytes + ANSWER_HEAD_BYTES;
        self.traffic.bytes += bytes;
        self.traffic.list_bytes += if is_list { bytes } else { 0 };
        self.traffic.push_bytes += if is_push { bytes } else { 0 };
        if self.random.u32(0..1_000_000) >= self.loss {
            self.reply(host, &Letter { from, from_run, flight, tag, request }, back);
        }
    }

    fn reply(&mut self, host: usize, letter: &Letter, back: Back) {
        let is_cut = self.hosts[letter.from].side != self.hosts[host].side;
        if !is_cut && self.hosts[letter.from].run == letter.from_run {
            let delay = self.delay();
            self.schedule(delay, letter.from, Event::Come(letter.flight, Box::new(back)));
        }
    }

    fn come(&mut self, host: usize, flight: u64, back: Back) {
        let (now, now_us) = (self.now(), self.now_us);
        let at = &mut self.hosts[host];
        let Some(call) = at.open.remove(&flight) else { return };
        let Some(node) = &mut at.node else { return };
        let returned = match back {
            Back::Failed(why) => Returned::known(Outcome::Failed(why.into())),
            Back::Records(records) => Returned::Records(records),
            Back::Http(answer) => Returned::read(
                &call.outgoing,
                &call.tag,
                answer,
                &self.keys,
                (&at.node_id, &at.key),
                &Believes,
            ),
        };
        let outcome = returned.look(node).check(&Believes);
        at.busy[place_of(call.job.class)] -= 1;
        let actions = node.on_answer(&call.job, outcome, now_us - call.began_us, now);
        self.perform(host, actions);
    }
}

fn failed(why: &'static str) -> Box<Back> {
    Box::new(Back::Failed(why))
}
