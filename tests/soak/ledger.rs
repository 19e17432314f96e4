//! What was asked of the nodes and what they said to it: the truth that all they show is held
//! against.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, HashMap};
use std::hash::{Hash, Hasher};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde_json::Value as Json;

pub type Content = BTreeMap<String, String>;

/// The key of the counter that is in every version.
pub const COUNTER: &str = "c";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// Asked for, without an answer by now.
    Tried,
    Acknowledged,
    /// It never came to be, as its owner showed after its restart.
    Void,
}

struct Version {
    counter: u64,
    digest: u64,
    fate: Fate,
    at: Instant,
}

#[derive(Default)]
struct Owner {
    /// In the order in which they were asked for, so the counters rise.
    versions: Vec<Version>,
    content: Content,
    pending: Option<Content>,
    /// The last counter of each life that ended when its host was set up anew.
    ends: Vec<u64>,
}

/// The versions of all nodes.
pub struct Sets {
    owners: Vec<Mutex<Owner>>,
}

pub fn digest(content: &Content) -> u64 {
    let mut hasher = DefaultHasher::new();
    content.hash(&mut hasher);
    hasher.finish()
}

/// The entries of a state as a node shows it.
pub fn content_of(state: &Json) -> Content {
    let entries = state["entries"].as_object().expect("a state has entries");
    let text = |value: &Json| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    entries.iter().map(|(key, value)| (key.clone(), text(value))).collect()
}

pub fn counter_of(content: &Content) -> Option<u64> {
    content.get(COUNTER)?.parse().ok()
}

impl Sets {
    pub fn new(count: usize) -> Self {
        Self { owners: (0..count).map(|_| Mutex::default()).collect() }
    }

    pub fn content(&self, owner: usize) -> Content {
        self.owners[owner].lock().unwrap().content.clone()
    }

    pub fn next_counter(&self, owner: usize) -> u64 {
        let owner = self.owners[owner].lock().unwrap();
        owner.versions.last().map_or(0, |version| version.counter) + 1
    }

    /// Its host is set up anew: all that it had is gone on purpose, and nothing of it comes back.
    /// The counters go on rising, so each tells which life it is from.
    pub fn begin_anew(&self, owner: usize) {
        let mut owner = self.owners[owner].lock().unwrap();
        assert!(owner.pending.is_none(), "its writer rests");
        let last = owner.versions.last().map_or(0, |version| version.counter);
        owner.ends.push(last);
        owner.content.clear();
    }

    /// In which life of the owner this counter was written: 0 is the first.
    pub fn life_of(&self, owner: usize, counter: u64) -> usize {
        let owner = self.owners[owner].lock().unwrap();
        owner.ends.iter().filter(|last| counter > **last).count()
    }

    /// Before a change is asked for.
    pub fn attempt(&self, owner: usize, counter: u64, content: Content) {
        let mut owner = self.owners[owner].lock().unwrap();
        assert!(owner.pending.is_none(), "one change at a time");
        let digest = digest(&content);
        owner.versions.push(Version { counter, digest, fate: Fate::Tried, at: Instant::now() });
        owner.pending = Some(content);
    }

    /// After it was acknowledged.
    pub fn acknowledge(&self, owner: usize) {
        let mut owner = self.owners[owner].lock().unwrap();
        owner.content = owner.pending.take().expect("a change was asked for");
        let version = owner.versions.last_mut().expect("a change was asked for");
        (version.fate, version.at) = (Fate::Acknowledged, Instant::now());
    }

    /// What the owner itself shows after its start: what was acknowledged, or that and the one
    /// change whose answer never came. Anything else was lost, or made up.
    pub fn resolve(&self, owner: usize, shown: &Content) -> Result<(), String> {
        let mut owner = self.owners[owner].lock().unwrap();
        if owner.pending.as_ref() == Some(shown) {
            drop(owner.pending.take());
            owner.content = shown.clone();
            let version = owner.versions.last_mut().expect("a change was asked for");
            (version.fate, version.at) = (Fate::Acknowledged, Instant::now());
            return Ok(());
        }
        if owner.content != *shown {
            return Err(differences(&owner.content, shown));
        }
        if owner.pending.take().is_some() {
            owner.versions.last_mut().expect("a change was asked for").fate = Fate::Void;
        }
        Ok(())
    }

    /// Whether this content is a version of the owner that may exist.
    pub fn check(&self, owner: usize, content: &Content) -> Result<(), String> {
        let Some(counter) = counter_of(content) else {
            let empty = content.is_empty();
            return if empty { Ok(()) } else { Err(format!("it has no counter: {content:?}")) };
        };
        let digest = digest(content);
        let owner = self.owners[owner].lock().unwrap();
        let from = owner.versions.partition_point(|version| version.counter < counter);
        let same = owner.versions[from..].iter().take_while(|it| it.counter == counter);
        let found: Vec<&Version> = same.filter(|it| it.digest == digest).collect();
        if found.is_empty() {
            return Err(format!("nobody ever wrote counter {counter} with this content"));
        }
        if found.iter().all(|it| it.fate == Fate::Void) {
            return Err(format!("counter {counter} is shown, but its owner lost it"));
        }
        Ok(())
    }

    /// When the first acknowledged version of its life came to be that is newer than this one.
    pub fn first_after(&self, owner: usize, counter: u64) -> Option<Instant> {
        let owner = self.owners[owner].lock().unwrap();
        let counter = counter.max(owner.ends.last().copied().unwrap_or(0));
        let from = owner.versions.partition_point(|version| version.counter <= counter);
        owner.versions[from..].iter().find(|it| it.fate == Fate::Acknowledged).map(|it| it.at)
    }
}

fn differences(wanted: &Content, shown: &Content) -> String {
    let lost = wanted.iter().filter(|(key, value)| shown.get(*key) != Some(value));
    let lost: Vec<&str> = lost.map(|(key, _)| key.as_str()).collect();
    let more: Vec<&String> = shown.keys().filter(|key| !wanted.contains_key(*key)).collect();
    format!(
        "acknowledged was counter {:?}, shown is {:?}; wrong keys {lost:?}, keys too many {more:?}",
        counter_of(wanted),
        counter_of(shown)
    )
}

/// How a message was given to its reader.
#[derive(Debug, Clone, Copy)]
pub struct Delivery {
    /// How often the receiver had been hung by then.
    pub hangs: u64,
    /// With an acknowledgement, which a hang can make late.
    pub acknowledged: bool,
}

struct Message {
    to: usize,
    tried_at: Instant,
    /// The run of the receiver in which it was accepted.
    accepted: Option<u64>,
    delivered: Option<Delivery>,
}

#[derive(Debug, Default, Clone, Copy)]
pub struct DataCounts {
    pub accepted: u64,
    pub delivered: u64,
    pub refused: u64,
    pub unknown: u64,
    pub lost_with_process: u64,
    pub again_after_hang: u64,
}

/// By sender and number.
type Messages = HashMap<(usize, u64), Message>;

/// All DATA: who sent what to whom.
#[derive(Default)]
pub struct Mail {
    inner: Mutex<(Messages, DataCounts)>,
}

/// The text of a message, of which a damaged one would be seen.
pub fn letter(from: usize, to: usize, number: u64) -> String {
    let tail: String =
        (0..number % 700).map(|at| char::from(b'a' + ((number + at) % 26) as u8)).collect();
    format!("{from} {to} {number} {tail}")
}

impl Mail {
    pub fn counts(&self) -> DataCounts {
        self.inner.lock().unwrap().1
    }

    pub fn count(&self, change: impl FnOnce(&mut DataCounts)) {
        change(&mut self.inner.lock().unwrap().1);
    }

    pub fn attempt(&self, from: usize, to: usize, number: u64) {
        let message = Message { to, tried_at: Instant::now(), accepted: None, delivered: None };
        self.inner.lock().unwrap().0.insert((from, number), message);
    }

    /// The receiver took it, in this run if that is known.
    pub fn accept(&self, from: usize, number: u64, run: Option<u64>) {
        let (messages, counts) = &mut *self.inner.lock().unwrap();
        counts.accepted += 1;
        messages.get_mut(&(from, number)).expect("it was sent").accepted = run;
    }

    /// What a reader at a node got.
    pub fn deliver(
        &self,
        at: usize,
        from: &str,
        text: &str,
        delivery: Delivery,
    ) -> Result<(), String> {
        let mut words = text.split(' ').map_while(|word| word.parse::<u64>().ok());
        let (Some(owner), Some(to), Some(number)) = (words.next(), words.next(), words.next())
        else {
            return Err(format!("nobody sent this: {text:?}"));
        };
        let owner = usize::try_from(owner).unwrap_or(usize::MAX);
        let (messages, counts) = &mut *self.inner.lock().unwrap();
        let Some(message) = messages.get_mut(&(owner, number)) else {
            return Err(format!("nobody sent this: {text:?}"));
        };
        let right = message.to == at && to == at as u64;
        if !right || from != format!("n{owner}") || text != letter(owner, at, number) {
            return Err(format!("{text:?} from {from} is not what n{owner} sent"));
        }
        if let Some(first) = message.delivered {
            // The acknowledgement came too late: then it is told again, as docs/control.md says.
            if first.acknowledged && first.hangs != delivery.hangs {
                counts.again_after_hang += 1;
                return Ok(());
            }
            return Err(format!("message {number} of n{owner} was delivered twice"));
        }
        message.delivered = Some(delivery);
        counts.delivered += 1;
        Ok(())
    }

    /// Accepted, not delivered, and the receiver still is in the same run: for each the age.
    /// What was in the memory of a process that ended is counted and let go.
    pub fn open(&self, run: impl Fn(usize) -> u64) -> Vec<(usize, u64, usize, Duration)> {
        let (messages, counts) = &mut *self.inner.lock().unwrap();
        let mut open = Vec::new();
        for ((from, number), message) in messages.iter_mut() {
            let Some(accepted) = message.accepted.filter(|_| message.delivered.is_none()) else {
                continue;
            };
            if run(message.to) == accepted {
                open.push((*from, *number, message.to, message.tried_at.elapsed()));
            } else {
                message.accepted = None;
                counts.lost_with_process += 1;
            }
        }
        open
    }
}
