//! A member that lies: it has the key of the network, listens, joins the nodes as everybody does,
//! and from then on says what it likes, as one who calls and as one who is called. It sends no
//! DATA, so the ledger of the mail stays exact.
//!
//! Records under a key of its own for a node of the cluster go to those alone who know that node
//! for certain, which are those that are never ended: who is new, or was ended before it could
//! write down whom it met, knows others from hearsay, and docs/operations.md says what that means.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use dsn::protocol::address::Address;
use dsn::protocol::crypto::Tag;
use dsn::protocol::head::Version;
use dsn::protocol::identity::{NodeId, PublicKey, Rank};
use dsn::protocol::record::{Draft, Record};
use dsn::protocol::view::BucketSet;
use dsn::protocol::wire::{Answer, KnownNode, PeersAnswer, Pong, Request, Wish};

use crate::soak::ledger::{COUNTER, Content};
use crate::soak::net::connect_from;
use crate::soak::world::{STEADY, World, pause};
use crate::support::liar::{Liar, honest};
use crate::support::{Heard, Link, Member, id};

/// The one that listens, those that only say HELLO, and those that are made up, of which there are
/// as many before the nodes of the cluster in the order of the ids as behind them.
const NAME: &str = "liar";
const FRESH: usize = 6;
const MADE_UP: usize = 32;
/// The one key of what is made up.
const MARK: &str = "lie";
/// Most records of the nodes that are kept, to be said again when they are old.
const KEPT_MAX: usize = 200;
/// Longest wait for an answer.
const ANSWER_TIME: Duration = Duration::from_secs(3);
/// How long the liar keeps a caller waiting, and all that come meanwhile; now and then for longer
/// than anybody waits.
const HANG: Duration = Duration::from_millis(1500);
const LONG_HANG: Duration = Duration::from_secs(12);
/// Records that one message brings at most.
const MANY: usize = 64;
/// The last timestamp there may be is not far behind this one.
const FAR: u64 = 1 << 52;

fn made_up() -> impl Iterator<Item = NodeId> {
    ["m", "z"].into_iter().flat_map(|it| (0..MADE_UP).map(move |at| id(&format!("{it}-{at:02}"))))
}

fn fresh(number: usize) -> String {
    format!("{NAME}-{number}")
}

/// Whether the liar made this id up. There is a fixed number of them.
pub fn is_an_id_of_ours(text: &str) -> bool {
    text == NAME
        || (0..FRESH).any(|number| fresh(number) == text)
        || made_up().any(|it| it.as_str() == text)
}

/// Whether this is a state that the liar made up, under an id of its own.
pub fn is_made_up(text: &str, content: &Content) -> bool {
    is_an_id_of_ours(text) && content.keys().all(|key| key == MARK)
}

/// What the speaker and the one who answers have in common.
struct Knowledge {
    world: Arc<World>,
    rng: Mutex<fastrand::Rng>,
    /// The keys of the nodes, as they said.
    keys: Mutex<BTreeMap<usize, PublicKey>>,
    /// True records, as they were told, and of whom.
    kept: Mutex<Vec<(usize, Arc<Record>)>>,
    /// The last one of each life of each owner.
    lives: Mutex<BTreeMap<(usize, usize), Arc<Record>>>,
}

pub fn let_in(world: &Arc<World>) {
    let knowledge = Arc::new(Knowledge {
        world: Arc::clone(world),
        rng: Mutex::new(fastrand::Rng::with_seed(world.seed ^ 80)),
        keys: Mutex::default(),
        kept: Mutex::default(),
        lives: Mutex::default(),
    });
    std::thread::spawn(move || lie_all(&knowledge));
}

fn lie_all(knowledge: &Arc<Knowledge>) {
    let world = &knowledge.world;
    let [mut speaker, answerer] = Member::pair(NAME, world.listen(0));
    let shared = Arc::clone(knowledge);
    let lie = move |member: &Member, request: &Request, _: &Tag| shared.answer(member, request);
    let liar = Liar::start(answerer, Box::new(lie), Box::new(|envelope| envelope));
    speaker.port = liar.address.port();
    let mut others: Vec<Member> = (0..FRESH)
        .map(|number| Member { port: speaker.port, ..Member::new(&fresh(number), liar.address) })
        .collect();
    let mut rng = fastrand::Rng::with_seed(world.seed ^ 79);
    let mut links: Vec<Option<(u64, Link)>> = vec![None; world.count()];
    while !world.is_stopped() {
        let quiet = world.is_quiet();
        world.liar_is_idle.store(quiet, Ordering::SeqCst);
        if quiet {
            pause(Duration::from_millis(20));
            continue;
        }
        let at = rng.usize(..world.count());
        let Some(run) = world.serves(at) else {
            pause(Duration::from_millis(20));
            continue;
        };
        speaker.target = world.listen(at);
        let said = catch_unwind(AssertUnwindSafe(|| {
            if rng.u8(..12) == 0 {
                let other = &mut others[rng.usize(..FRESH)];
                other.target = speaker.target;
                other.incarnation.0[1] = rng.u8(..);
                let _ = join(other);
                return;
            }
            if rng.u8(..60) == 0 {
                // It was started again, or so it says: all have to be met again.
                speaker.incarnation.0[1] = rng.u8(..);
                links.fill(None);
            }
            let known = links[at].take().filter(|(of, _)| *of == run && rng.u8(..30) != 0);
            speaker.link = known.map(|(_, link)| link);
            if speaker.link.is_none() && join(&mut speaker).is_some() {
                let link = speaker.linked().clone();
                knowledge.keys.lock().unwrap().insert(at, link.public_key);
            }
            if let Some(link) = speaker.link.clone() {
                let goes_on = knowledge.speak(&mut speaker, at, &mut rng);
                links[at] = goes_on.then_some((run, link));
            }
        }));
        // Bytes that are no answer are no way to end a connection, but a kill is.
        if said.is_err() && world.run(at) == run && !world.is_stopped() {
            world.fail("serving", at, "what it answered the liar is no answer");
        }
        world.counts.lies.fetch_add(1, Ordering::Relaxed);
        pause(Duration::from_millis(rng.u64(50..400)));
    }
    world.liar_is_idle.store(true, Ordering::SeqCst);
}

/// Says it over a connection of its own, and does not wait for long.
fn say(member: &Member, request: &Request) -> Option<Heard> {
    let kind = request.kind();
    let envelope = member.envelope(kind, &member.payload(request));
    let mut stream = connect_from(Ipv4Addr::LOCALHOST, member.target).ok()?;
    stream.set_read_timeout(Some(ANSWER_TIME)).ok()?;
    stream.set_write_timeout(Some(ANSWER_TIME)).ok()?;
    let head = format!(
        "POST {} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        kind.path(),
        envelope.len()
    );
    stream.write_all(&[head.as_bytes(), &envelope].concat()).ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    member.heard(kind, &envelope, &answer)
}

/// Both HELLOs; nothing where one of them is not accepted.
fn join(member: &mut Member) -> Option<()> {
    member.link = None;
    let hello = member.hello();
    let Some(Heard::Answer(Answer::Hello(answer))) = say(member, &hello) else { return None };
    member.meet(&answer);
    let hello = member.hello();
    let accepted = matches!(say(member, &hello), Some(Heard::Nothing));
    if !accepted {
        member.link = None;
    }
    accepted.then_some(())
}

fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later than 1970");
    u64::try_from(since.as_micros()).unwrap()
}

/// What a node may be told of another that is not so.
struct Claim {
    node_id: NodeId,
    rank: Rank,
    version: Version,
    address: Option<Address>,
}

impl Knowledge {
    /// One request of any kind. Gives whether it is worth to go on in this session.
    fn speak(&self, member: &mut Member, at: usize, rng: &mut fastrand::Rng) -> bool {
        let request = match rng.u8(..10) {
            0 => member.ping(),
            1 => {
                let mut any = || std::array::from_fn(|_| rng.u8(..3));
                member.peers_with(std::array::from_fn(|_| any()))
            }
            2 => {
                let wish = |node_id| Wish { node_id, version: Version::default() };
                let wishes = self.honest_ids().into_iter().map(wish).collect();
                member.pull(wishes)
            }
            3 => member.push(records_of(member, 1, rng)),
            4 => member.push(records_of(member, MANY, rng)),
            5 => {
                // Itself: another state, or goodbye.
                let entries = Arc::new([(MARK, "self")].map(pair).into_iter().collect());
                let (left, own) = (rng.u8(..3) == 0, member.node_id.clone());
                let draft = Draft::new(own, now_us(), left, entries);
                member.push(vec![member.sign(draft)])
            }
            6 | 7 => return self.forge(member, at, rng),
            8 => return self.bring_back(member, at, rng),
            _ => {
                let kept = self.kept.lock().unwrap();
                let Some((owner, record)) = kept.get(rng.usize(..kept.len().max(1))) else {
                    return true;
                };
                // Its owner may have been set up anew since.
                let over = self.life_of(*owner, record) != Some(self.world.lives.of(*owner));
                if over && self.world.lives.of(at) > 0 {
                    return true;
                }
                member.push(vec![Arc::clone(record)])
            }
        };
        match say(member, &request) {
            Some(Heard::Answer(Answer::Records(records))) => {
                self.keep(&records);
                true
            }
            // Whoever is refused has to come in again.
            Some(Heard::Refusal(401, _) | Heard::Empty(_)) | None => false,
            Some(_) => true,
        }
    }

    /// A newer state of a node, which it did not sign.
    fn forge(&self, member: &Member, at: usize, rng: &mut fastrand::Rng) -> bool {
        let owner = rng.usize(..self.world.count());
        let Some(record) = self.forged(member, owner, at, rng) else { return true };
        let heard = say(member, &member.push(vec![record]));
        if matches!(heard, Some(Heard::Nothing | Heard::Answer(_))) {
            let what = format!("a record of n{owner} that it did not sign got {heard:?}");
            self.world.fail("ownership", at, &what);
        }
        heard.is_some()
    }

    fn forged(
        &self,
        member: &Member,
        owner: usize,
        to: usize,
        rng: &mut fastrand::Rng,
    ) -> Option<Arc<Record>> {
        let node_id = id(&self.world.nodes[owner].id);
        let timestamp = [now_us() + 60_000_000, FAR][rng.usize(..2)];
        let forged = member.record_of(&node_id, timestamp, &[(MARK, "forged")]);
        if to < STEADY && rng.bool() {
            return Some(forged);
        }
        let key = *self.keys.lock().unwrap().get(&owner)?;
        Some(Arc::new(Record::new(forged.draft(), key, forged.signature)))
    }

    fn honest_ids(&self) -> Vec<NodeId> {
        self.world.nodes.iter().map(|node| id(&node.id)).collect()
    }

    /// The answer to what a node says: nothing is a status without a body.
    fn answer(&self, member: &Member, request: &Request) -> Option<(u16, Answer)> {
        let caller = match request {
            Request::Hello(hello) => Some(&hello.from),
            Request::Push(push) => {
                self.keep(&push.records);
                None
            }
            other => other.header().map(|header| &header.from),
        };
        let caller = caller.and_then(|it| self.position(it));
        if self.world.is_quiet() || self.world.is_stopped() {
            return honest(member, request);
        }
        self.world.counts.lies.fetch_add(1, Ordering::Relaxed);
        let mut rng = self.rng.lock().unwrap().fork();
        match rng.u16(..800) {
            0..80 => return None,
            80..120 => self.hang(HANG.mul_f32(rng.f32())),
            120 => self.hang(LONG_HANG),
            _ => {}
        }
        match request {
            Request::Ping(_) => {
                let view = std::array::from_fn(|_| rng.u8(..));
                Some((200, Answer::Ping(Pong { view, twin: None, mail: None })))
            }
            Request::Peers(_) => {
                let known = |it: Claim| KnownNode {
                    node_id: it.node_id,
                    address: it.address,
                    rank: it.rank,
                    version: it.version,
                    is_lost: false,
                };
                let nodes = self.claims(&mut rng).into_iter().map(known).collect();
                let buckets = BucketSet(rng.u32(..));
                Some((200, Answer::Peers(PeersAnswer { buckets, nodes })))
            }
            Request::Pull(pull) => {
                let mut records = Vec::new();
                for wish in &pull.wishes {
                    records.extend(match (self.position(&wish.node_id), caller) {
                        (Some(owner), Some(to)) => self.forged(member, owner, to, &mut rng),
                        (Some(_), None) => None,
                        (None, _) => Some(made_up_record(member, &wish.node_id, &mut rng)),
                    });
                }
                Some((200, Answer::Records(records)))
            }
            other => honest(member, other),
        }
    }

    fn hang(&self, time: Duration) {
        let until = Instant::now() + time;
        while Instant::now() < until && !self.world.is_quiet() && !self.world.is_stopped() {
            pause(Duration::from_millis(20));
        }
    }

    fn position(&self, node_id: &NodeId) -> Option<usize> {
        self.world.nodes.iter().position(|node| node.id == node_id.as_str())
    }

    /// What is held, in the order of the ids: newer states of the nodes that do not exist, ghosts,
    /// and where they live, all of it made up.
    fn claims(&self, rng: &mut fastrand::Rng) -> Vec<Claim> {
        let nowhere = |rng: &mut fastrand::Rng| -> Option<Address> {
            let to = SocketAddr::from((Ipv4Addr::new(127, 0, 6, rng.u8(1..9)), rng.u16(1..9)));
            rng.bool().then(|| Address::of(to.ip(), to.port()))
        };
        let mut claims = Vec::new();
        let true_key = |node_id: &NodeId| {
            let owner = self.position(node_id)?;
            self.keys.lock().unwrap().get(&owner).map(|key| key.rank_for(node_id))
        };
        let (few, ids) = (rng.bool(), self.honest_ids());
        for node_id in ids.into_iter().chain(made_up()) {
            if few && rng.u8(..4) != 0 {
                continue;
            }
            let rank = true_key(&node_id).filter(|_| rng.u8(..4) != 0);
            let rank = rank.unwrap_or_else(|| Rank(std::array::from_fn(|_| rng.u8(..))));
            let fingerprint = std::array::from_fn(|_| rng.u8(..));
            let timestamp = [0, 7, now_us() + 1_000_000, FAR][rng.usize(..4)];
            let version = Version { timestamp, fingerprint };
            claims.push(Claim { node_id, rank, version, address: nowhere(rng) });
        }
        claims.sort_by(|one, other| one.node_id.cmp(&other.node_id));
        claims
    }

    /// In which life its owner wrote it; nothing where that can't be seen.
    fn life_of(&self, owner: usize, record: &Record) -> Option<usize> {
        let counter = record.entries.get(COUNTER)?;
        let counter = std::str::from_utf8(counter.as_bytes()).ok()?.parse().ok()?;
        Some(self.world.sets.life_of(owner, counter))
    }

    /// Keeps true records, to say them again later.
    fn keep(&self, records: &[Arc<Record>]) {
        for record in records {
            let Some(owner) = self.position(&record.head.node_id) else { continue };
            let Some(life) = self.life_of(owner, record) else { continue };
            self.lives.lock().unwrap().insert((owner, life), Arc::clone(record));
            let mut kept = self.kept.lock().unwrap();
            if kept.len() >= KEPT_MAX {
                let place = self.rng.lock().unwrap().usize(..KEPT_MAX);
                kept.swap_remove(place);
            }
            kept.push((owner, Arc::clone(record)));
        }
    }

    /// Says what an owner signed before its host was set up anew, to one who was told to forget
    /// it. One that was set up anew itself does not know of that.
    fn bring_back(&self, member: &Member, at: usize, rng: &mut fastrand::Rng) -> bool {
        let lives = &self.world.lives;
        let is_over = |(owner, life): (usize, usize)| life < lives.of(owner) && owner != at;
        let over: Vec<(usize, Arc<Record>)> = {
            let all = self.lives.lock().unwrap();
            let over = all.iter().filter(|(of, _)| is_over(**of));
            over.map(|((owner, _), record)| (*owner, Arc::clone(record))).collect()
        };
        if over.is_empty() || lives.of(at) > 0 {
            return true;
        }
        let (owner, record) = over[rng.usize(..over.len())].clone();
        let heard = say(member, &member.push(vec![record]));
        if matches!(heard, Some(Heard::Nothing | Heard::Answer(_))) {
            let what = format!("a record of n{owner} from before `forget` got {heard:?}");
            self.world.fail("secrecy", at, &what);
        }
        self.world.counts.revivals.fetch_add(1, Ordering::Relaxed);
        heard.is_some()
    }
}

fn pair((k, v): (&str, &str)) -> (dsn::protocol::entries::Key, dsn::protocol::entries::Value) {
    (crate::support::key(k), crate::support::value(v))
}

/// States of so many nodes that are none, signed with the liar's key.
fn records_of(member: &Member, count: usize, rng: &mut fastrand::Rng) -> Vec<Arc<Record>> {
    let mut ids: Vec<NodeId> = made_up().collect();
    rng.shuffle(&mut ids);
    ids.truncate(count);
    ids.sort();
    ids.iter().map(|owner| made_up_record(member, owner, rng)).collect()
}

fn made_up_record(member: &Member, owner: &NodeId, rng: &mut fastrand::Rng) -> Arc<Record> {
    // Nothing comes behind the last timestamp: the most of them go on changing.
    let is_last = owner.as_str().ends_with('7') && rng.u8(..20) == 0;
    let timestamp = if is_last { FAR } else { now_us() };
    let text = rng.char('a'..='z').to_string().repeat(rng.usize(..200));
    member.record_of(owner, timestamp, &[(MARK, &text)])
}
