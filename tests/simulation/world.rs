//! Hosts with clocks, disks and a network, all of them virtual, around the real rules, the real
//! steps of the driver and the real journal. Between two steps of one request other things happen.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use dsn::protocol::address::Address;
use dsn::protocol::crypto::NetworkKeys;
use dsn::protocol::entries::{Change, Entries, Key, Value};
use dsn::protocol::flight::Ticket;
use dsn::protocol::identity::NodeId;
use dsn::protocol::lease::Ttl;
use dsn::protocol::node::{Action, Job, Node, Now, Outcome, Reply};
use dsn::protocol::peer::{Known, KnownPeer};
use dsn::protocol::report::{Event as Told, PeerStatus, Refused};
use dsn::protocol::verdict::Reason;
use dsn::protocol::wire::{Kind, Request};
use dsn::steps::{self, HttpAnswer, Looked, Nonce, Read, Returned};

use super::checks::History;
use super::crypto::{SimVerifier, key_of, network_keys};
use super::expiry::Wanted;
pub use super::host::{Clock, Host, PORT, Running};
use super::liar::{Liar, Purpose};

/// Most recorded requests that can be replayed.
const ARCHIVE_MAX: usize = 300;

/// What the network does to requests and answers.
#[derive(Clone, Default)]
pub struct Faults {
    /// One in a thousand.
    pub loss: u32,
    pub slow: u32,
    /// Of requests, somebody who listens brings a copy before they arrive.
    pub copied: u32,
    /// Directed pairs of hosts that nothing passes.
    pub cut: BTreeSet<(usize, usize)>,
    /// Directed pairs of hosts of which the first may not call the second, as behind a firewall
    /// that refuses; its answers pass.
    pub forbidden: BTreeSet<(usize, usize)>,
}

/// Who waits for the answer to a request.
#[derive(Clone)]
pub enum ReplyTo {
    Flight {
        host: usize,
        run: u64,
        flight: u64,
    },
    Liar {
        liar: usize,
        purpose: Purpose,
    },
    /// Somebody who only repeats bytes.
    Nobody,
    /// Somebody who listens, and brings the bytes before their sender does.
    Faster,
}

/// Requests that a host sent, and their bytes.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Traffic {
    pub requests: u64,
    pub bytes: u64,
}

/// A request as bytes.
#[derive(Clone)]
pub struct Bytes {
    pub path: &'static str,
    pub body: Arc<[u8]>,
}

enum Event {
    Tick,
    Begin(Job),
    Arrive { to: SocketAddr, caller: SocketAddr, bytes: Bytes, reply_to: ReplyTo },
    Apply { looked: Looked, caller: SocketAddr, bytes: Bytes, reply_to: ReplyTo },
    Come { flight: u64, answer: Result<HttpAnswer, String> },
    End { flight: u64, returned: Returned },
    Disk,
    Set(Wanted),
    Cancel(Ticket),
}

/// A request as somebody recorded it.
#[derive(Clone)]
struct Recorded {
    to: usize,
    bytes: Bytes,
    caller: SocketAddr,
}

pub struct World {
    pub now_ms: u64,
    pub random: fastrand::Rng,
    pub hosts: Vec<Host>,
    pub liars: Vec<Liar>,
    pub keys: NetworkKeys,
    pub faults: Faults,
    pub steps: u64,
    /// UPDATEs that carried a partial record, and those that lacked their base.
    pub patches: u64,
    pub baseless: u64,
    pub replays: u64,
    pub history: History,
    pub tick_ms: u64,
    /// The first promise that was broken.
    pub broken: Option<String>,
    /// The last things that happened.
    pub trace: VecDeque<String>,
    /// How often hosts said this of others: what, which host, and of whom.
    pub told: BTreeMap<(&'static str, usize, NodeId), u64>,
    /// What hosts sent, by sender and address.
    pub traffic: BTreeMap<(usize, IpAddr), Traffic>,
    queue: BTreeMap<(u64, u64), (usize, u64, Event)>,
    sequence: u64,
    archive: Vec<Recorded>,
    messages: u64,
    /// Addresses that were given out anew.
    pub moves: usize,
    has_forgotten: bool,
}

pub fn ip_of(number: usize) -> IpAddr {
    let [high, low] = u16::try_from(number).unwrap().to_be_bytes();
    IpAddr::V4(Ipv4Addr::new(10, 0, high, low))
}

pub fn address_of(number: usize) -> Address {
    Address::of(ip_of(number), PORT)
}

impl World {
    /// Takes the number of hosts; each has the first as bootstrap node, and the first has none.
    pub fn new(seed: u64, count: usize) -> Self {
        let host = |number: usize| {
            let mut host = Host::new(number, ip_of(number), key_of(number as u64));
            host.seeds = if number == 0 { Vec::new() } else { vec![address_of(0)] };
            host
        };
        Self {
            now_ms: 1_000,
            random: fastrand::Rng::with_seed(seed),
            hosts: (0..count).map(host).collect(),
            liars: Vec::new(),
            keys: network_keys(),
            faults: Faults::default(),
            steps: 0,
            patches: 0,
            baseless: 0,
            replays: 0,
            history: History::default(),
            tick_ms: 3_000,
            broken: None,
            trace: VecDeque::new(),
            told: BTreeMap::new(),
            traffic: BTreeMap::new(),
            queue: BTreeMap::new(),
            sequence: 0,
            archive: Vec::new(),
            messages: 0,
            moves: 0,
            has_forgotten: false,
        }
    }

    pub fn say(&mut self, text: impl FnOnce() -> String) {
        if self.trace.len() == 1000 {
            self.trace.pop_front();
        }
        let line = format!("{:>9} ms  {}", self.now_ms, text());
        self.trace.push_back(line);
    }

    pub fn check(&mut self, result: Result<(), String>) {
        if let Err(what) = result
            && self.broken.is_none()
        {
            self.broken = Some(what);
        }
    }

    fn schedule(&mut self, delay_ms: u64, host: usize, event: Event) {
        let run = self.hosts.get(host).map_or(0, |host| host.run);
        self.sequence += 1;
        self.queue.insert((self.now_ms + delay_ms, self.sequence), (host, run, event));
    }

    /// No two envelopes have the same nonce.
    pub fn nonce(&mut self) -> Nonce {
        self.sequence += 1;
        let mut nonce = Nonce::default();
        nonce[..8].copy_from_slice(&self.sequence.to_le_bytes());
        nonce
    }

    pub fn now(&self, host: usize) -> Now {
        self.hosts[host].now(self.now_ms)
    }

    pub fn is_running(&self, host: usize) -> bool {
        self.hosts[host].running.is_some()
    }

    pub fn node(&self, host: usize) -> Option<&Node> {
        self.hosts[host].running.as_ref().map(|running| &running.node)
    }

    fn running(&mut self, host: usize) -> &mut Running {
        self.hosts[host].running.as_mut().expect("the host runs")
    }

    pub fn start(&mut self, host: usize) {
        let (now_ms, tick_ms) = (self.now_ms, self.tick_ms);
        let (own, on_disk) = self.hosts[host].start(now_ms, tick_ms, &mut self.random);
        self.history.made(&own);
        let started = self.history.started(host, on_disk);
        self.check(started);
        self.say(|| format!("n{host} starts"));
        self.schedule(0, host, Event::Tick);
        self.wake_keeper(host);
    }

    /// Ends the process at once; the system goes on, so what was written is there.
    pub fn kill(&mut self, host: usize) {
        self.hosts[host].running = None;
        self.hosts[host].hung_until = 0;
        self.say(|| format!("n{host} is killed"));
    }

    /// The power goes: what is not on disk is gone.
    pub fn cut_power(&mut self, host: usize) {
        self.kill(host);
        let disk = self.hosts[host].disk.clone();
        disk.cut_power(&mut self.random);
    }

    pub fn lose_disk(&mut self, host: usize) {
        self.hosts[host].disk.destroy();
        self.history.disk_lost(host);
        self.say(|| format!("the journal of n{host} is destroyed"));
    }

    pub fn lose_pins(&mut self, host: usize) {
        self.hosts[host].known.clear();
    }

    pub fn disk_fails(&mut self, host: usize, fails: bool) {
        self.hosts[host].disk_fails = fails;
        self.hosts[host].disk.fails(fails);
    }

    pub fn hang(&mut self, host: usize, ms: u64) {
        // What waits for the end of an earlier hang waits for this one, too.
        let until = self.now_ms + ms;
        self.hosts[host].hung_until = self.hosts[host].hung_until.max(until);
        self.say(|| format!("n{host} hangs for {ms} ms"));
    }

    pub fn move_to(&mut self, host: usize, ip_number: usize) {
        self.hosts[host].ip = ip_of(ip_number);
        self.say(|| format!("n{host} moves to {}", ip_of(ip_number)));
    }

    pub fn set(&mut self, host: usize, key: &str, value: &str) {
        self.set_for(host, key, value, None)
    }

    pub fn set_for(&mut self, host: usize, key: &str, value: &str, ttl: Option<Ttl>) {
        let value = Value::new(value.as_bytes()).unwrap();
        let change = Change::from([(Key::new(key).unwrap(), Some(value))]);
        let delay = self.random.u64(0..5);
        self.schedule(delay, host, Event::Set(Wanted { change, ttl, left: false }));
    }

    pub fn unset(&mut self, host: usize, key: &str) {
        let change = Change::from([(Key::new(key).unwrap(), None)]);
        self.schedule(0, host, Event::Set(Wanted { change, ttl: None, left: false }));
    }

    pub fn leave(&mut self, host: usize) {
        self.say(|| format!("n{host} leaves"));
        let wanted = Wanted { change: Change::new(), ttl: None, left: true };
        self.schedule(0, host, Event::Set(wanted));
    }

    pub fn forget(&mut self, host: usize, node_id: &NodeId) -> bool {
        let now = self.now(host);
        let Some(running) = &mut self.hosts[host].running else { return false };
        let Ok(actions) = running.node.forget(node_id, now) else { return false };
        self.has_forgotten = true;
        self.say(|| format!("n{host} forgets {node_id}"));
        self.perform(host, actions);
        true
    }

    /// Sends a DATA message that is like no other; whoever waits for it may give up.
    pub fn send(&mut self, from: usize, to: usize) {
        let now = self.now(from);
        let to_id = self.hosts[to].node_id.clone();
        self.messages += 1;
        let message = self.messages;
        let Some(running) = &mut self.hosts[from].running else { return };
        let data = message.to_le_bytes().as_slice().into();
        let Ok((ticket, actions)) = running.node.send(&to_id, data, now) else { return };
        running.waiting.insert(ticket, message);
        self.say(|| format!("n{from} sends message {message} to n{to}"));
        let gives_up = self.random.u64(500..12_000);
        self.schedule(gives_up, from, Event::Cancel(ticket));
        self.perform(from, actions);
    }

    /// Takes up to so many messages out of the inbox.
    pub fn receive(&mut self, host: usize, count: usize) -> usize {
        let Some(running) = &mut self.hosts[host].running else { return 0 };
        (0..count).map_while(|_| running.node.receive()).count()
    }

    pub fn ping(&mut self, from: usize, to: usize) -> bool {
        let now = self.now(from);
        let to_id = self.hosts[to].node_id.clone();
        let Some(running) = &mut self.hosts[from].running else { return false };
        let Ok((ticket, actions)) = running.node.ping(&to_id, now) else { return false };
        running.pings.push(ticket);
        self.perform(from, actions);
        true
    }

    /// Somebody sends again what was sent before.
    pub fn replay(&mut self) {
        if self.archive.is_empty() {
            return;
        }
        let chosen = self.archive[self.random.usize(..self.archive.len())].clone();
        let to = self.hosts[chosen.to].address();
        // From where it came, or from somewhere else.
        let caller =
            if self.random.bool() { chosen.caller } else { SocketAddr::new(ip_of(999), 1) };
        self.post(1, to, caller, chosen.bytes, ReplyTo::Nobody);
    }

    /// A request goes over the network.
    pub fn post(
        &mut self,
        delay_ms: u64,
        to: SocketAddr,
        caller: SocketAddr,
        bytes: Bytes,
        reply_to: ReplyTo,
    ) {
        let receiver = self.hosts.iter().position(|host| host.ip == to.ip());
        let event = Event::Arrive { to, caller, bytes, reply_to };
        self.schedule(delay_ms, receiver.unwrap_or(usize::MAX), event);
    }

    pub fn run_for(&mut self, ms: u64) {
        let until = self.now_ms + ms;
        while self.broken.is_none() {
            match self.queue.first_key_value() {
                Some(((at, _), _)) if *at <= until => self.step(),
                _ => break,
            }
        }
        self.now_ms = self.now_ms.max(until);
    }

    /// Runs until the condition holds, looking ten times a second; gives how long that took, ms.
    pub fn run_until(&mut self, limit_ms: u64, condition: impl Fn(&Self) -> bool) -> Option<u64> {
        let began = self.now_ms;
        while !condition(self) {
            if self.now_ms - began > limit_ms || self.broken.is_some() {
                return None;
            }
            self.run_for(100);
        }
        Some(self.now_ms - began)
    }

    fn step(&mut self) {
        let Some(((at, _), (host, run, event))) = self.queue.pop_first() else { return };
        self.now_ms = at;
        self.steps += 1;
        let hung_until = self.hosts.get(host).map_or(0, |host| host.hung_until);
        if at < hung_until {
            self.sequence += 1;
            self.queue.insert((hung_until, self.sequence), (host, run, event));
            return;
        }
        if let Event::Arrive { to, caller, bytes, reply_to } = event {
            self.arrive(to, caller, bytes, reply_to);
            return;
        }
        if run != self.hosts[host].run || !self.is_running(host) {
            return;
        }
        match event {
            Event::Tick => self.tick(host),
            Event::Begin(job) => self.begin(host, job),
            Event::Apply { looked, caller, bytes, reply_to } => {
                self.apply(host, looked, caller, &bytes, reply_to);
            }
            Event::Come { flight, answer } => self.come(host, flight, answer),
            Event::End { flight, returned } => self.end(host, flight, returned),
            Event::Disk => self.write(host, None),
            Event::Set(wanted) => self.write(host, Some(wanted)),
            Event::Cancel(ticket) => self.cancel(host, ticket),
            Event::Arrive { .. } => {}
        }
    }

    fn tick(&mut self, host: usize) {
        self.look_at_lives(host);
        let (now, at) = (self.now(host), self.now_ms);
        let running = self.running(host);
        if at < running.wake_at {
            return;
        }
        let (wake_at, actions) = running.node.on_tick(now);
        let delay = wake_at.saturating_sub(now.mono_ms).max(1);
        running.wake_at = at + delay;
        self.schedule(delay, host, Event::Tick);
        if wake_at <= now.mono_ms {
            self.check(Err(format!("boundedness: n{host} wants to tick again at once, for ever")));
        }
        self.perform(host, actions);
    }

    /// Senders that are free take jobs.
    fn pump(&mut self, host: usize) {
        let Some(running) = &mut self.hosts[host].running else { return };
        for job in running.take_jobs() {
            let delay = self.random.u64(0..3);
            self.schedule(delay, host, Event::Begin(job));
        }
    }

    fn begin(&mut self, host: usize, job: Job) {
        let now = self.now(host);
        let nonce = self.nonce();
        let at = &mut self.hosts[host];
        let key = at.key;
        let Some(running) = &mut at.running else { return };
        let Some(mut outgoing) = running.node.begin(&job, now) else {
            running.sender_is_free(job.class);
            return self.pump(host);
        };
        // A node that was forgotten and met anew may still have an old request under way.
        let twice =
            running.open.values().any(|open| open.job.target == job.target) && !self.has_forgotten;
        let sealed =
            steps::seal_request(&mut outgoing, &at.node_id, &self.keys, &key, nonce).unwrap();
        at.sent += 1;
        at.sent_bytes += sealed.body.len() as u64;
        at.hellos += u64::from(outgoing.request.kind() == Kind::Hello);
        if let Request::Push(push) = &outgoing.request {
            self.patches += push.patches.len() as u64;
        }
        if twice {
            self.check(Err(format!("boundedness: two flights from n{host} to {:?}", job.target)));
        }
        let (flight, limit_ms) = (job.flight, outgoing.limit_ms);
        let (kind, place) = (outgoing.request.kind(), outgoing.address.clone());
        let target = job.target.clone();
        self.say(|| format!("n{host} tries {kind:?} at {place} for {target:?}"));
        let address: Option<SocketAddr> = place.as_str().parse().ok();
        let to = address.unwrap_or(SocketAddr::new(ip_of(998), PORT));
        let traffic = self.traffic.entry((host, to.ip())).or_default();
        traffic.requests += 1;
        traffic.bytes += sealed.body.len() as u64;
        let caller = SocketAddr::new(self.hosts[host].ip, 40_000);
        let open = super::host::OpenFlight { job, outgoing, tag: sealed.tag };
        self.running(host).open.insert(flight, open);
        let timeout =
            Event::Come { flight, answer: Err(format!("no answer within {limit_ms} ms")) };
        self.schedule(limit_ms, host, timeout);
        let bytes = Bytes { path: sealed.path, body: sealed.body.into() };
        let is_copied = self.random.u32(0..1000) < self.faults.copied;
        if is_copied && self.hosts.iter().any(|other| other.ip == to.ip()) {
            let delay = self.random.u64(0..3);
            self.post(delay, to, caller, bytes.clone(), ReplyTo::Faster);
        }
        self.carry(host, to, caller, bytes, flight);
    }

    /// The network does to a host's request what it does.
    fn carry(
        &mut self,
        host: usize,
        to: SocketAddr,
        caller: SocketAddr,
        bytes: Bytes,
        flight: u64,
    ) {
        let come = |answer: &str| Event::Come { flight, answer: Err(answer.into()) };
        let run = self.hosts[host].run;
        let reply_to = ReplyTo::Flight { host, run, flight };
        if self.liars.iter().any(|liar| liar.ip == to.ip()) {
            let delay = self.random.u64(1..20);
            return self.post(delay, to, caller, bytes, reply_to);
        }
        let Some(receiver) = self.hosts.iter().position(|other| other.ip == to.ip()) else {
            // Nobody has the address: refused, or silence.
            if self.random.bool() {
                self.schedule(3, host, come("no such host"));
            }
            return;
        };
        if self.faults.forbidden.contains(&(host, receiver)) {
            self.schedule(2, host, come("not allowed"));
        } else if let Some(delay) = self.passes(host, receiver) {
            self.post(delay, to, caller, bytes, reply_to);
        } else if !self.is_cut(host, receiver) && self.random.bool() {
            self.schedule(5, host, come("connection reset"));
        }
    }

    fn is_cut(&self, from: usize, to: usize) -> bool {
        self.faults.cut.contains(&(from, to))
    }

    /// After how long a message arrives, if it does.
    fn passes(&mut self, from: usize, to: usize) -> Option<u64> {
        if self.is_cut(from, to) || self.random.u32(0..1000) < self.faults.loss {
            return None;
        }
        let is_slow = self.random.u32(0..1000) < self.faults.slow;
        Some(if is_slow { self.random.u64(20..7_000) } else { self.random.u64(1..20) })
    }

    fn arrive(&mut self, to: SocketAddr, caller: SocketAddr, bytes: Bytes, reply_to: ReplyTo) {
        if let Some(liar) = self.liars.iter().position(|liar| liar.ip == to.ip()) {
            return self.liar_answers(liar, caller, &bytes, &reply_to);
        }
        let receiver = self.hosts.iter().position(|host| host.ip == to.ip());
        let Some(receiver) = receiver.filter(|receiver| self.is_running(*receiver)) else {
            return self.reply(2, &reply_to, Err("connection refused".into()));
        };
        let read = steps::read(bytes.path, bytes.body.to_vec(), &self.keys);
        let looked = match read {
            Read::Garbage(status) | Read::Foreign(status) => {
                let answer = HttpAnswer { status, ..HttpAnswer::default() };
                return self.reply(1, &reply_to, Ok(answer));
            }
            Read::Refused(answering, refusal) => Looked::Refused(answering, refusal),
            Read::Arrived(arrived) => arrived.look(&self.running(receiver).node),
        };
        let delay = self.random.u64(0..3);
        self.schedule(delay, receiver, Event::Apply { looked, caller, bytes, reply_to });
    }

    fn apply(
        &mut self,
        receiver: usize,
        looked: Looked,
        caller: SocketAddr,
        bytes: &Bytes,
        reply_to: ReplyTo,
    ) {
        let is_replay = matches!(reply_to, ReplyTo::Nobody);
        // Whoever lacks a state, as it forgot its owner for a while, may be brought the newest
        // version that it ever held by anybody. That it is no older one is seen elsewhere.
        let with_states = bytes.path != Kind::Update.path();
        let before = is_replay.then(|| self.visible(receiver, with_states));
        let now = self.now(receiver);
        let (answering, (reply, actions)) = match looked {
            Looked::Refused(answering, refusal) => (answering, (Reply::from(refusal), Vec::new())),
            Looked::ToCheck(to_check) => {
                let checked = to_check.check(&SimVerifier);
                let node = &mut self.running(receiver).node;
                (checked.answering(), checked.apply(node, caller, now))
            }
        };
        let is_accepted = !matches!(reply.verdict, dsn::protocol::node::Verdict::Refuse(..));
        if let dsn::protocol::node::Verdict::Refuse(Reason::LacksBase, _) = reply.verdict {
            self.baseless += u64::from(!is_replay);
        }
        let nonce = self.nonce();
        let key = self.hosts[receiver].key;
        let answer = answering.answer(reply, &self.keys, &key, nonce).unwrap();
        let kind = bytes.path;
        self.say(|| format!("n{receiver} gets {kind} from {caller}: {}", answer.status));
        self.perform(receiver, actions);
        if is_replay {
            self.replays += 1;
            let (was, is) = (before.unwrap_or_default(), self.visible(receiver, with_states));
            if was != is {
                let what = format!("secrecy: a replayed {kind} changed n{receiver}:\n{was}\n{is}");
                self.check(Err(what));
            }
            if answer.caller.is_some() {
                self.check(Err(format!("secrecy: n{receiver} trusts a replayed {kind}")));
            }
            return;
        }
        if is_accepted && self.random.u8(..) < 40 {
            self.record(receiver, bytes, caller);
        }
        let steps::Answer { status, seal, body, .. } = answer;
        let delay = match &reply_to {
            ReplyTo::Flight { host, .. } => self.passes(receiver, *host),
            _ => Some(self.random.u64(1..20)),
        };
        if let Some(delay) = delay {
            self.reply(delay, &reply_to, Ok(HttpAnswer { status, seal, body }));
        }
    }

    /// An answer goes back over the network.
    pub fn reply(&mut self, delay_ms: u64, reply_to: &ReplyTo, answer: Result<HttpAnswer, String>) {
        match reply_to {
            ReplyTo::Flight { host, run, flight } if self.hosts[*host].run == *run => {
                self.schedule(delay_ms, *host, Event::Come { flight: *flight, answer });
            }
            ReplyTo::Liar { liar, purpose } => {
                if let Ok(answer) = answer {
                    self.liar_hears(*liar, purpose, &answer);
                }
            }
            _ => {}
        }
    }

    fn record(&mut self, to: usize, bytes: &Bytes, caller: SocketAddr) {
        if self.archive.len() == ARCHIVE_MAX {
            let at = self.random.usize(..ARCHIVE_MAX);
            self.archive.swap_remove(at);
        }
        self.archive.push(Recorded { to, bytes: bytes.clone(), caller });
    }

    /// All that others could see changed: states, status, pins, addresses, what is said to be
    /// wrong.
    fn visible(&self, host: usize, with_states: bool) -> String {
        let Some(node) = self.node(host) else { return String::new() };
        let is_large = self.hosts[host].mesh_max < self.hosts.len();
        let peers: Vec<_> = node
            .peers(self.now(host))
            .into_iter()
            .map(|peer| {
                // A version says where its owner lives; in a large network that it is there.
                let of_state = with_states.then_some((peer.timestamp, peer.address));
                let status = (with_states || !is_large).then_some(peer.status);
                (peer.node_id, status, of_state, peer.public_key)
            })
            .collect();
        let pins = |known: KnownPeer| match known.known {
            Known::Pinned { pin, address } => {
                (known.node_id, Some(pin), address.filter(|_| with_states))
            }
            Known::Forgotten { address } => (known.node_id, None, address),
        };
        let known: Vec<_> = node.known_peers().into_iter().map(pins).collect();
        let wrong: Vec<_> = node
            .faults(self.now(host))
            .into_iter()
            .map(|fault| (fault.code, fault.node, with_states.then_some(fault.text)))
            .collect();
        format!("{peers:?} {known:?} {} {wrong:?}", node.own().head.timestamp)
    }

    fn come(&mut self, host: usize, flight: u64, answer: Result<HttpAnswer, String>) {
        let own = (self.hosts[host].node_id.clone(), self.hosts[host].key.0);
        let Some(open) = self.hosts[host].running.as_ref().and_then(|it| it.open.get(&flight))
        else {
            return;
        };
        let returned = match answer {
            Ok(answer) => Returned::read(
                &open.outgoing,
                &open.tag,
                answer,
                &self.keys,
                (&own.0, &own.1),
                &SimVerifier,
            ),
            Err(why) => Returned::known(Outcome::Failed(why)),
        };
        let returned = returned.look(&self.running(host).node);
        let delay = self.random.u64(0..3);
        self.schedule(delay, host, Event::End { flight, returned });
    }

    fn end(&mut self, host: usize, flight: u64, returned: Returned) {
        let now = self.now(host);
        let running = self.running(host);
        let Some(open) = running.open.remove(&flight) else { return };
        running.sender_is_free(open.job.class);
        let outcome = returned.check(&SimVerifier);
        let (target, failed) = (open.job.target.clone(), matches!(outcome, Outcome::Failed(_)));
        let why = if let Outcome::Failed(why) = &outcome { why.clone() } else { String::new() };
        let actions = running.node.on_answer(&open.job, outcome, 1000, now);
        if failed {
            self.say(|| format!("n{host} hears nothing of {target:?}: {why}"));
        }
        self.perform(host, actions);
        self.pump(host);
    }

    fn write(&mut self, host: usize, wanted: Option<Wanted>) {
        let now_ms = self.now_ms;
        if wanted.is_none() {
            let running = self.running(host);
            if running.disk_wake_at.take_if(|at| *at <= now_ms).is_none() {
                return;
            }
        }
        let had_left = self.node(host).is_some_and(|node| node.own().head.left);
        let Some(written) = self.hosts[host].write(now_ms, wanted) else { return };
        for record in &written.made {
            self.history.made(record);
        }
        if had_left && self.node(host).is_some_and(|node| !node.own().head.left) {
            self.check(Err(format!("goodbye: n{host} took it back")));
        }
        self.perform(host, written.actions);
        let running = self.running(host);
        let mut acknowledged = Vec::new();
        running.sets.retain(|(answer, wanted)| match answer.try_recv() {
            Ok(Ok(timestamp)) => {
                acknowledged.push((timestamp, wanted.clone()));
                false
            }
            Ok(Err(_)) => false,
            Err(_) => true,
        });
        for (timestamp, wanted) in acknowledged {
            let result = self.history.acknowledged(host, timestamp);
            self.check(result);
            self.hosts[host].lives.acknowledged(&wanted, now_ms);
        }
        self.look_at_lives(host);
        self.wake_keeper(host);
    }

    fn wake_keeper(&mut self, host: usize) {
        let now = self.now(host);
        if let Some(due) = self.running(host).keeper.due() {
            self.wake_disk(host, due.saturating_sub(now.mono_ms));
        }
    }

    /// What expires goes in time, and nothing before.
    fn look_at_lives(&mut self, host: usize) {
        let result = self.hosts[host].look_at_lives(self.now_ms);
        self.check(result);
    }

    fn wake_disk(&mut self, host: usize, delay_ms: u64) {
        let at = self.now_ms + delay_ms;
        let running = self.running(host);
        if running.disk_wake_at.is_none_or(|before| at < before) {
            running.disk_wake_at = Some(at);
            self.schedule(delay_ms, host, Event::Disk);
        }
    }

    fn cancel(&mut self, host: usize, ticket: Ticket) {
        let running = self.running(host);
        if let Some(message) = running.waiting.remove(&ticket) {
            let doubtful = running.node.cancel(ticket);
            let result = self.history.finished(message, false, doubtful);
            self.check(result);
        }
    }

    fn perform(&mut self, host: usize, actions: Vec<Action>) {
        let mut look = false;
        for action in actions {
            match action {
                Action::Send(job) => self.running(host).enqueue(job),
                Action::WakeAt(at) => {
                    let (now, now_ms) = (self.now(host), self.now_ms);
                    let delay = at.saturating_sub(now.mono_ms).max(1);
                    let running = self.running(host);
                    if now_ms + delay < running.wake_at {
                        running.wake_at = now_ms + delay;
                        self.schedule(delay, host, Event::Tick);
                    }
                }
                Action::WakeDisk => {
                    let delay = self.random.u64(0..30);
                    self.wake_disk(host, delay);
                }
                Action::Changed { .. } => look = true,
                Action::Finish(ticket, result) => self.finish(host, ticket, &result),
                Action::Tell(Told::Data { data, .. }) => {
                    if let Ok(message) = <[u8; 8]>::try_from(&*data) {
                        let result = self.history.delivered(u64::from_le_bytes(message));
                        self.check(result);
                    }
                }
                Action::Tell(event) => {
                    if let Some(node_id) = event.node_id() {
                        *self.told.entry((event.name(), host, node_id.clone())).or_default() += 1;
                    }
                    self.say(|| format!("n{host}: {:?} {}", event.node_id(), event.name()));
                }
            }
        }
        self.pump(host);
        // Most steps change no state; those that do are looked at, and the others now and then.
        if look || self.steps.is_multiple_of(64) {
            let (now, at) = (self.now(host), &self.hosts[host]);
            if let Some(running) = &at.running {
                let result = self.history.look_at(host, at.run, &running.node, at.key.0, now);
                self.check(result);
            }
        }
    }

    fn finish(&mut self, host: usize, ticket: Ticket, result: &Result<u64, Refused>) {
        let running = self.running(host);
        running.pings.retain(|waiting| *waiting != ticket);
        let Some(message) = running.waiting.remove(&ticket) else { return };
        let doubtful = result.as_ref().is_err_and(|why| why.to_string().contains("may have been"));
        let result = self.history.finished(message, result.is_ok(), doubtful);
        self.check(result);
    }

    /// Cuts all links between the two groups, both ways.
    pub fn split(&mut self, left: &[usize], right: &[usize]) {
        for &a in left {
            for &b in right {
                self.faults.cut.extend([(a, b), (b, a)]);
            }
        }
        self.say(|| format!("split {left:?} from {right:?}"));
    }

    /// Ends one split; others last.
    pub fn mend(&mut self, left: &[usize], right: &[usize]) {
        for &a in left {
            for &b in right {
                self.faults.cut.remove(&(a, b));
                self.faults.cut.remove(&(b, a));
            }
        }
        self.say(|| format!("{left:?} and {right:?} see each other again"));
    }

    pub fn heal(&mut self) {
        self.faults = Faults::default();
        self.say(|| "the network is whole".to_owned());
    }

    /// What the host lacks to know all the given ones as alive, and to hold what they hold.
    pub fn lacking(&self, host: usize, others: &[usize]) -> Vec<String> {
        let Some(node) = self.node(host) else { return vec![format!("n{host} does not run")] };
        let peers: HashMap<NodeId, _> =
            node.peers(self.now(host)).into_iter().map(|it| (it.node_id.clone(), it)).collect();
        let lack = |other: &usize| {
            let id = &self.hosts[*other].node_id;
            let own = self.node(*other)?.own();
            let held = node.state(id);
            let same = held.as_ref().is_some_and(|held| {
                held.timestamp == own.head.timestamp && held.entries == own.entries
            });
            let peer = peers.get(id);
            let alive = peer.is_some_and(|peer| peer.status == PeerStatus::Alive);
            (!same || !alive).then(|| {
                let holds = held.map(|held| held.timestamp);
                format!("n{host} holds {holds:?} of {id}, which has {:?}: {peer:?}", own.head)
            })
        };
        others.iter().filter(|other| **other != host).filter_map(lack).collect()
    }

    /// Whether the host knows all the given ones as alive and holds what they hold of themselves.
    pub fn knows(&self, host: usize, others: &[usize]) -> bool {
        others.iter().all(|other| self.is_running(*other)) && self.lacking(host, others).is_empty()
    }

    /// Whether all the given hosts know each other.
    pub fn agree(&self, hosts: &[usize]) -> bool {
        hosts.iter().all(|host| self.knows(*host, hosts))
    }

    pub fn everyone(&self) -> Vec<usize> {
        (0..self.hosts.len()).collect()
    }

    pub fn status(&self, host: usize, other: usize) -> Option<PeerStatus> {
        let peers = self.node(host)?.peers(self.now(host));
        let id = &self.hosts[other].node_id;
        peers.into_iter().find(|peer| peer.node_id == *id).map(|peer| peer.status)
    }

    pub fn entries(&self, host: usize, other: usize) -> Option<Arc<Entries>> {
        Some(self.node(host)?.state(&self.hosts[other].node_id)?.entries)
    }

    pub fn degraded(&self, host: usize) -> Vec<String> {
        let faults = self.node(host).map(|node| node.faults(self.now(host))).unwrap_or_default();
        faults.iter().map(ToString::to_string).collect()
    }
}
