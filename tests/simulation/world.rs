//! Hosts with clocks, disks and a network, all of them virtual, around the real rules.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use dsn::protocol::address::Address;
use dsn::protocol::identity::{NodeId, PublicKey, Session};
use dsn::protocol::node::{Action, Node, Now, Outcome, Outgoing, Pin, Reply, Settings, Target};
use dsn::protocol::peers::Ticket;
use dsn::protocol::report::{Event as Told, PeerStatus};
use dsn::protocol::state::{Change, Entries, Key, Record, Value, next_timestamp};
use dsn::protocol::verdict::Reason;
use dsn::protocol::wire::{Kind, ProgramVersion, Request};

use super::checks::History;
use super::wire::{
    AnswerBytes, RequestBytes, encode_reply, encode_request, open_answer, open_request,
    signed_record,
};

/// The true time when a simulation begins, microseconds since 1970.
const EPOCH_US: u64 = 1_767_225_600_000_000;
const TRY_TIMEOUT_MS: u64 = 5_000;
const PORT: u16 = 8000;
/// Most recorded requests that can be replayed.
const ARCHIVE_MAX: usize = 300;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Clock {
    Right,
    /// Off by so much.
    Off(i64),
    /// Begins in 1970 with each start: a board without a clock chip.
    SinceBoot,
    Stopped(u64),
}

/// What the network does to requests and answers.
#[derive(Clone, Default)]
pub struct Faults {
    /// One in a thousand.
    pub loss: u32,
    pub slow: u32,
    /// Directed pairs of hosts that nothing passes.
    pub cut: BTreeSet<(usize, usize)>,
    /// Directed pairs of hosts of which the first may not call the second, as behind a firewall
    /// that refuses; its answers pass.
    pub forbidden: BTreeSet<(usize, usize)>,
}

struct Disk {
    record: Option<Record>,
    pins: Vec<Pin>,
    fails: bool,
}

struct Running {
    node: Node,
    began_ms: u64,
    wake_at: u64,
    open: HashMap<u64, OpenFlight>,
    waiting: HashMap<Ticket, u64>,
    pings: HashMap<Ticket, ()>,
}

struct OpenFlight {
    target: Target,
    outgoing: Outgoing,
    tag: u64,
}

pub struct Host {
    pub node_id: NodeId,
    pub key: PublicKey,
    pub ip: IpAddr,
    pub clock: Clock,
    pub seeds: Vec<Address>,
    pub hung_until: u64,
    pub run: u64,
    disk: Disk,
    running: Option<Running>,
    pub sent: u64,
    pub hellos: u64,
}

#[derive(Clone)]
enum Job {
    Set { change: Change, left: bool },
    Republish,
}

enum Event {
    Tick,
    Sender(Target),
    Arrive {
        from: Option<usize>,
        to: SocketAddr,
        caller: SocketAddr,
        bytes: RequestBytes,
        flight: u64,
        run: u64,
    },
    Come {
        flight: u64,
        answer: Result<AnswerBytes, String>,
    },
    Disk(Job),
    Durable {
        record: Arc<Record>,
        acknowledge: bool,
    },
    SavePeers,
    Cancel(Ticket),
}

/// A request as somebody recorded it.
#[derive(Clone)]
struct Recorded {
    to: usize,
    bytes: RequestBytes,
    caller: SocketAddr,
}

pub struct World {
    pub now_ms: u64,
    pub random: fastrand::Rng,
    pub hosts: Vec<Host>,
    pub faults: Faults,
    pub steps: u64,
    /// UPDATEs that carried a partial record, and those that lacked their base.
    pub patches: u64,
    pub baseless: u64,
    pub history: History,
    pub tick_ms: u64,
    pub timestamp_rule: fn(u64, u64) -> Option<u64>,
    /// The simulator tests itself: nothing protects the node from the rule.
    pub rule_is_wrong: bool,
    /// The first promise that was broken.
    pub broken: Option<String>,
    /// The last things that happened.
    pub trace: VecDeque<String>,
    queue: BTreeMap<(u64, u64), (usize, u64, Event)>,
    sequence: u64,
    archive: Vec<Recorded>,
    messages: u64,
    replays: u64,
    /// Addresses that were given out anew.
    pub moves: usize,
}

fn ip_of(number: usize) -> IpAddr {
    let [high, low] = u16::try_from(number).unwrap().to_be_bytes();
    IpAddr::V4(Ipv4Addr::new(10, 0, high, low))
}

pub fn address_of(number: usize) -> Address {
    Address::of(ip_of(number), PORT)
}

impl World {
    /// Takes the number of hosts; each has the first as bootstrap node, and the first has none.
    pub fn new(seed: u64, count: usize) -> Self {
        let host = |number: usize| Host {
            node_id: NodeId::new(&format!("n{number}")).unwrap(),
            key: PublicKey([u8::try_from(number).unwrap(); 65]),
            ip: ip_of(number),
            clock: Clock::Right,
            seeds: if number == 0 { Vec::new() } else { vec![address_of(0)] },
            hung_until: 0,
            run: 0,
            disk: Disk { record: None, pins: Vec::new(), fails: false },
            running: None,
            sent: 0,
            hellos: 0,
        };
        Self {
            now_ms: 1_000,
            random: fastrand::Rng::with_seed(seed),
            hosts: (0..count).map(host).collect(),
            faults: Faults::default(),
            steps: 0,
            patches: 0,
            baseless: 0,
            history: History::default(),
            tick_ms: 3_000,
            timestamp_rule: next_timestamp,
            rule_is_wrong: false,
            broken: None,
            trace: VecDeque::new(),
            queue: BTreeMap::new(),
            sequence: 0,
            archive: Vec::new(),
            messages: 0,
            replays: 0,
            moves: 0,
        }
    }

    pub fn say(&mut self, text: impl FnOnce() -> String) {
        if self.trace.len() == 400 {
            self.trace.pop_front();
        }
        let line = format!("{:>9} ms  {}", self.now_ms, text());
        self.trace.push_back(line);
    }

    fn check(&mut self, result: Result<(), String>) {
        if let Err(what) = result
            && self.broken.is_none()
        {
            self.broken = Some(what);
        }
    }

    fn schedule(&mut self, delay_ms: u64, host: usize, event: Event) {
        let run = self.hosts[host].run;
        self.sequence += 1;
        self.queue.insert((self.now_ms + delay_ms, self.sequence), (host, run, event));
    }

    fn now(&self, host: usize) -> Now {
        let since = |began_ms: u64| (self.now_ms - began_ms) * 1000;
        let right = EPOCH_US + self.now_ms * 1000;
        let began = self.hosts[host].running.as_ref().map_or(self.now_ms, |it| it.began_ms);
        let wall_us = match self.hosts[host].clock {
            Clock::Right => right,
            Clock::Off(by) => right.saturating_add_signed(by),
            Clock::SinceBoot => since(began),
            Clock::Stopped(at) => at,
        };
        Now { wall_us, mono_ms: since(began) / 1000 + 5 }
    }

    pub fn is_running(&self, host: usize) -> bool {
        self.hosts[host].running.is_some()
    }

    pub fn node(&self, host: usize) -> Option<&Node> {
        self.hosts[host].running.as_ref().map(|running| &running.node)
    }

    pub fn start(&mut self, host: usize) {
        assert!(!self.is_running(host));
        self.hosts[host].run += 1;
        let now = self.now(host);
        let at = &mut self.hosts[host];
        let kept = at.disk.record.clone();
        let own = match kept {
            Some(record) if !record.head.left => record,
            other => {
                let (last, entries) = other
                    .map_or((0, Arc::default()), |record| (record.head.timestamp, record.entries));
                let timestamp = next_timestamp(now.wall_us, last).unwrap();
                let own = signed_record(&at.node_id, at.key, timestamp, false, entries);
                at.disk.record = Some(own.clone());
                self.history.made(&own);
                own
            }
        };
        let started = self.history.started(host, own.head.timestamp);
        let at = &mut self.hosts[host];
        let mut session = [0; 16];
        session.fill_with(|| self.random.u8(..));
        let settings = Settings {
            node_id: at.node_id.clone(),
            public_key: at.key,
            session: Session(session),
            port: PORT,
            advertise: None,
            seeds: at.seeds.clone(),
            tick_ms: self.tick_ms,
            program: ProgramVersion::new("simulated"),
            timestamp_rule: self.timestamp_rule,
            allow: None,
        };
        let pins = at.disk.pins.clone();
        let node = Node::new(settings, own, pins, self.random.u64(..), now);
        at.running = Some(Running {
            node,
            began_ms: self.now_ms,
            wake_at: self.now_ms,
            open: HashMap::new(),
            waiting: HashMap::new(),
            pings: HashMap::new(),
        });
        self.check(started);
        self.say(|| format!("n{host} starts"));
        self.schedule(0, host, Event::Tick);
    }

    /// Ends the process at once: what is not on disk is gone.
    pub fn kill(&mut self, host: usize) {
        self.hosts[host].running = None;
        self.hosts[host].hung_until = 0;
        self.say(|| format!("n{host} is killed"));
    }

    pub fn lose_disk(&mut self, host: usize) {
        self.hosts[host].disk.record = None;
        self.history.disk_lost(host);
        self.say(|| format!("the journal of n{host} is destroyed"));
    }

    pub fn lose_pins(&mut self, host: usize) {
        self.hosts[host].disk.pins.clear();
    }

    pub fn disk_fails(&mut self, host: usize, fails: bool) {
        self.hosts[host].disk.fails = fails;
    }

    pub fn hang(&mut self, host: usize, ms: u64) {
        self.hosts[host].hung_until = self.now_ms + ms;
        self.say(|| format!("n{host} hangs for {ms} ms"));
    }

    pub fn move_to(&mut self, host: usize, ip_number: usize) {
        self.hosts[host].ip = ip_of(ip_number);
        self.say(|| format!("n{host} moves to {}", ip_of(ip_number)));
    }

    pub fn set(&mut self, host: usize, key: &str, value: &str) {
        let value = Value::new(value.as_bytes()).unwrap();
        let change = Change::from([(Key::new(key).unwrap(), Some(value))]);
        let delay = self.random.u64(0..5);
        self.schedule(delay, host, Event::Disk(Job::Set { change, left: false }));
    }

    pub fn unset(&mut self, host: usize, key: &str) {
        let change = Change::from([(Key::new(key).unwrap(), None)]);
        self.schedule(0, host, Event::Disk(Job::Set { change, left: false }));
    }

    pub fn leave(&mut self, host: usize) {
        self.say(|| format!("n{host} leaves"));
        self.schedule(0, host, Event::Disk(Job::Set { change: Change::new(), left: true }));
    }

    /// Sends a DATA message that is like no other; whoever waits for it may give up.
    pub fn send(&mut self, from: usize, to: usize) {
        let now = self.now(from);
        let to_id = self.hosts[to].node_id.clone();
        self.messages += 1;
        let message = self.messages;
        let Some(running) = &mut self.hosts[from].running else { return };
        let Ok((ticket, actions)) =
            running.node.send(&to_id, message.to_le_bytes().as_slice().into(), now)
        else {
            return;
        };
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
        running.pings.insert(ticket, ());
        self.perform(from, actions);
        true
    }

    /// Somebody sends again what was sent before.
    pub fn replay(&mut self) {
        if self.archive.is_empty() {
            return;
        }
        let chosen = self.archive[self.random.usize(..self.archive.len())].clone();
        let to = SocketAddr::new(self.hosts[chosen.to].ip, PORT);
        // From where it came, or from somewhere else.
        let caller =
            if self.random.bool() { chosen.caller } else { SocketAddr::new(ip_of(999), 1) };
        let event =
            Event::Arrive { from: None, to, caller, bytes: chosen.bytes, flight: 0, run: 0 };
        self.schedule(1, chosen.to, event);
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
        let hung_until = self.hosts[host].hung_until;
        if at < hung_until {
            self.sequence += 1;
            self.queue.insert((hung_until, self.sequence), (host, run, event));
            return;
        }
        if let Event::Arrive { from, to, caller, bytes, flight, run } = event {
            self.arrive(from, to, caller, &bytes, flight, run);
            return;
        }
        if run != self.hosts[host].run || !self.is_running(host) {
            return;
        }
        match event {
            Event::Tick => self.tick(host),
            Event::Sender(target) => self.run_sender(host, &target),
            Event::Come { flight, answer } => self.come(host, flight, answer),
            Event::Disk(job) => self.write(host, &job),
            Event::Durable { record, acknowledge } => self.publish(host, record, acknowledge),
            Event::SavePeers => self.save_peers(host),
            Event::Cancel(ticket) => self.cancel(host, ticket),
            Event::Arrive { .. } => {}
        }
    }

    fn running(&mut self, host: usize) -> &mut Running {
        self.hosts[host].running.as_mut().expect("the host runs")
    }

    fn tick(&mut self, host: usize) {
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

    fn run_sender(&mut self, host: usize, target: &Target) {
        let now = self.now(host);
        let running = self.running(host);
        let Some(outgoing) = running.node.begin(target, now) else { return };
        let twice = running.open.values().any(|open| open.target == *target);
        self.sequence += 1;
        let tag = self.sequence;
        let key = self.hosts[host].key;
        let bytes = encode_request(&key, tag, &outgoing.request);
        self.hosts[host].sent += 1;
        if let Request::Update(update) = &outgoing.request {
            self.patches += update.patches.len() as u64;
        }
        self.hosts[host].hellos += u64::from(bytes.kind == Kind::Hello);
        if twice {
            self.check(Err(format!("boundedness: two flights from n{host} to {target:?}")));
        }
        let flight = outgoing.flight;
        self.say(|| format!("n{host} tries {:?} at {}", bytes.kind, outgoing.address));
        let address: Option<SocketAddr> = outgoing.address.as_str().parse().ok();
        let to = address.unwrap_or(SocketAddr::new(ip_of(998), PORT));
        let caller = SocketAddr::new(self.hosts[host].ip, 40_000);
        let open = OpenFlight { target: target.clone(), outgoing, tag };
        self.running(host).open.insert(flight, open);
        let timeout = Event::Come { flight, answer: Err("no answer within 5 s".into()) };
        self.schedule(TRY_TIMEOUT_MS, host, timeout);
        let Some(receiver) = self.hosts.iter().position(|other| other.ip == to.ip()) else {
            // Nobody has the address: refused, or silence.
            if self.random.bool() {
                let answer = Err("no such host".into());
                self.schedule(3, host, Event::Come { flight, answer });
            }
            return;
        };
        if self.faults.forbidden.contains(&(host, receiver)) {
            let answer = Err("not allowed".into());
            self.schedule(2, host, Event::Come { flight, answer });
        } else if let Some(delay) = self.passes(host, receiver) {
            let run = self.hosts[host].run;
            let arrive = Event::Arrive { from: Some(host), to, caller, bytes, flight, run };
            self.schedule(delay, receiver, arrive);
        } else if !self.is_cut(host, receiver) && self.random.bool() {
            let answer = Err("connection reset".into());
            self.schedule(5, host, Event::Come { flight, answer });
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

    fn arrive(
        &mut self,
        from: Option<usize>,
        to: SocketAddr,
        caller: SocketAddr,
        bytes: &RequestBytes,
        flight: u64,
        run: u64,
    ) {
        let receiver = self.hosts.iter().position(|host| host.ip == to.ip());
        let Some(receiver) = receiver.filter(|receiver| self.is_running(*receiver)) else {
            if let Some(from) = from.filter(|from| self.hosts[*from].run == run) {
                let answer = Err("connection refused".into());
                self.schedule(2, from, Event::Come { flight, answer });
            }
            return;
        };
        let before = from.is_none().then(|| self.visible(receiver));
        let now = self.now(receiver);
        let node = &mut self.running(receiver).node;
        let (reply, actions) = match open_request(node, bytes) {
            Ok(request) => node.on_request(request, caller, now),
            Err(reason) => (Reply::refuse(reason, reason.to_string()), Vec::new()),
        };
        let accepted = !matches!(reply, Reply::Refuse(..));
        if from.is_some() && matches!(reply, Reply::Refuse(Reason::LacksBase, _)) {
            self.baseless += 1;
        }
        let key = self.hosts[receiver].key;
        let answer = encode_reply(&key, bytes, reply);
        self.say(|| format!("n{receiver} gets {:?} from {from:?}: {}", bytes.kind, answer.status));
        self.perform(receiver, actions);
        match from {
            None => {
                self.replays += 1;
                if before != Some(self.visible(receiver)) {
                    let kind = bytes.kind;
                    self.check(Err(format!("secrecy: a replayed {kind:?} changed n{receiver}")));
                }
            }
            Some(from) => {
                if accepted && self.random.u8(..) < 40 {
                    self.record(receiver, bytes, caller);
                }
                if let Some(delay) = self.passes(receiver, from)
                    && self.hosts[from].run == run
                {
                    self.schedule(delay, from, Event::Come { flight, answer: Ok(answer) });
                }
            }
        }
    }

    fn record(&mut self, to: usize, bytes: &RequestBytes, caller: SocketAddr) {
        if self.archive.len() == ARCHIVE_MAX {
            let at = self.random.usize(..ARCHIVE_MAX);
            self.archive.swap_remove(at);
        }
        self.archive.push(Recorded { to, bytes: bytes.clone(), caller });
    }

    /// All that others could see changed: states, status, pins and addresses.
    fn visible(&self, host: usize) -> String {
        let Some(node) = self.node(host) else { return String::new() };
        let peers: Vec<_> = node
            .peers(self.now(host))
            .into_iter()
            .map(|peer| (peer.node_id, peer.status, peer.address, peer.timestamp, peer.public_key))
            .collect();
        format!("{peers:?} {:?} {}", node.known_peers(), node.own().head.timestamp)
    }

    fn come(&mut self, host: usize, flight: u64, answer: Result<AnswerBytes, String>) {
        let (now, key) = (self.now(host), self.hosts[host].key);
        let running = self.running(host);
        let Some(open) = running.open.remove(&flight) else { return };
        let outcome = match answer {
            Ok(answer) => open_answer(&running.node, &key, &open.outgoing, open.tag, &answer),
            Err(why) => Outcome::Failed(why),
        };
        let actions = running.node.on_answer(&open.target, flight, outcome, 1000, now);
        self.perform(host, actions);
    }

    fn write(&mut self, host: usize, job: &Job) {
        let now = self.now(host);
        let fails = self.hosts[host].disk.fails;
        let (node_id, key) = (self.hosts[host].node_id.clone(), self.hosts[host].key);
        // The disk is the newest: changes may be on it that are not published yet.
        let last = self.hosts[host].disk.record.clone().expect("a host that runs has a record");
        let node = &self.running(host).node;
        let Some(timestamp) = node.next_timestamp(now.wall_us, last.head.timestamp) else {
            return self.check(Err(format!("n{host} has no timestamp left")));
        };
        let (entries, left) = match job {
            Job::Republish => (Arc::clone(&last.entries), last.head.left),
            Job::Set { change, left } => match last.after(change, *left, timestamp) {
                Ok(Some(next)) => (next.entries, *left),
                _ => return,
            },
        };
        if fails {
            return;
        }
        let record = signed_record(&node_id, key, timestamp, left, entries);
        self.history.made(&record);
        self.hosts[host].disk.record = Some(record.clone());
        let delay = self.random.u64(0..30);
        let acknowledge = matches!(job, Job::Set { .. });
        let durable = Event::Durable { record: Arc::new(record), acknowledge };
        self.schedule(delay, host, durable);
    }

    fn publish(&mut self, host: usize, record: Arc<Record>, acknowledge: bool) {
        let timestamp = record.head.timestamp;
        let now = self.now(host);
        let running = self.running(host);
        // Two writes may end in either order here; in the real node one thread does both.
        if record.head.is_newer_than(&running.node.own().head) || self.rule_is_wrong {
            let actions = self.running(host).node.on_set(record, now);
            self.perform(host, actions);
            if acknowledge {
                let result = self.history.acknowledged(host, timestamp);
                self.check(result);
            }
        }
    }

    fn save_peers(&mut self, host: usize) {
        if !self.hosts[host].disk.fails {
            self.hosts[host].disk.pins = self.running(host).node.known_peers();
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
                Action::Send { target, doubtful } => {
                    let waits = doubtful && self.random.u8(..) < 30;
                    let delay = self.random.u64(if waits { 0..3_000 } else { 0..3 });
                    self.schedule(delay, host, Event::Sender(target));
                }
                Action::WakeAt(at) => {
                    let (now, now_ms) = (self.now(host), self.now_ms);
                    let delay = at.saturating_sub(now.mono_ms).max(1);
                    let running = self.running(host);
                    if now_ms + delay < running.wake_at {
                        running.wake_at = now_ms + delay;
                        self.schedule(delay, host, Event::Tick);
                    }
                }
                Action::Republish => self.schedule(1, host, Event::Disk(Job::Republish)),
                Action::SavePeers => self.schedule(200, host, Event::SavePeers),
                Action::Changed { .. } => look = true,
                Action::Finish(ticket, result) => self.finish(host, ticket, &result),
                Action::Tell(Told::Data { data, .. }) => {
                    let message = u64::from_le_bytes(data[..8].try_into().unwrap());
                    let result = self.history.delivered(message);
                    self.check(result);
                }
                Action::Tell(event) => {
                    self.say(|| format!("n{host}: {:?} {}", event.node_id(), event.name()));
                }
                Action::Note(text) => self.say(|| format!("n{host} notes: {text}")),
            }
        }
        // Most steps change no state; those that do are looked at, and the others now and then.
        if look || self.steps.is_multiple_of(64) {
            let at = &self.hosts[host];
            if let Some(running) = &at.running {
                let result = self.history.look_at(host, at.run, &running.node);
                self.check(result);
            }
        }
    }

    fn finish(
        &mut self,
        host: usize,
        ticket: Ticket,
        result: &Result<u64, dsn::protocol::report::Refused>,
    ) {
        let running = self.running(host);
        running.pings.remove(&ticket);
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
        self.node(host).map(|node| node.status("", "", self.now(host)).degraded).unwrap_or_default()
    }
}
