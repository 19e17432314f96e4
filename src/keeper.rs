//! When what is written to disk: the pure half of the journal's thread. Time is an argument, the
//! disk and the node are given by whoever runs it.

use std::collections::BTreeMap;

use crossbeam_channel::{Sender, bounded};

use crate::config::SyncRule;
use crate::journal::{Commit, Disk, Journal};
use crate::protocol::crypto::CryptoFault;
use crate::protocol::entries::{Change, Key, change_of};
use crate::protocol::head::Home;
use crate::protocol::lease::{Leases, Ttl};
use crate::protocol::node::{DiskWishes, Republish, Urgency};
use crate::protocol::pace::Budget;
use crate::protocol::peer::KnownPeer;
use crate::protocol::record::{Draft, Record};
use crate::protocol::report::Refused;
use crate::protocol::verified::Verified;

/// How long a key that was pinned waits for more of them before it is written, ms: a burst of joins
/// is one write.
const SAVE_SOON_MS: u64 = 200;
/// How long an address waits for more of them before it is written, ms: it is only a hint.
const SAVE_LATE_MS: u64 = 60_000;
/// How long a failed write of the known peers waits before the next, ms.
const SAVE_RETRY_MS: u64 = 30_000;
/// Most writes of the known peers in a row, whatever members do.
const SAVES_MAX: u32 = 4;
/// Time until one more write of the known peers may be, ms: four a minute in the long run.
const SAVE_EVERY_MS: u64 = 15_000;
/// Most changes that share one write to disk.
pub const BATCH_MAX: usize = 256;
/// Time between two writes where they are shared, ms: four syncs a second are little for any card,
/// and nobody waits for long.
const SHARED_EVERY_MS: u64 = 250;
/// Least time between two changes that remove what has expired, ms: keys that go one after the
/// other are no reason for more writes than that.
const EXPIRY_EVERY_MS: u64 = 250;
/// How long after a fault the disk is tried first, ms.
const REPAIR_FIRST_MS: u64 = 2_000;
/// The time doubles up to this one, ms: each try may cost a card a write.
const REPAIR_LAST_MS: u64 = 30_000;

/// A change that somebody waits for.
pub struct SetJob {
    /// The change.
    pub change: Change,
    /// For how long what it sets stands; for good where nothing is said.
    pub ttl: Option<Ttl>,
    /// Whether the node leaves with it.
    pub left: bool,
    /// Gets the timestamp of the version.
    pub reply: Sender<Result<u64, Refused>>,
}

/// What the node keeps on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// The own state.
    State,
    /// Keys and addresses of the peers.
    Peers,
}

/// The node whose state is kept.
pub trait Core {
    /// The own record.
    fn own(&self) -> Verified<Record>;
    /// Where the node lives: what the next version says.
    fn home(&self) -> Home;
    /// The timestamp of the next version after `last`.
    fn next_timestamp(&self, last: u64) -> Option<u64>;
    /// Signs a version.
    fn sign(&self, draft: Draft) -> Result<Verified<Record>, CryptoFault>;
    /// Publishes a version, the entries of which are on disk by now: it is seen here. Others get it
    /// when [`Self::told`] was called and whoever that was about has passed it on.
    fn publish(&self, record: Verified<Record>);
    /// Notes when keys go that were set, or that they do not any more: before a version with them
    /// is published.
    fn note_leases(&self, leases: Vec<(Key, Option<u64>)>);
    /// All that waited for what was published were told, if anybody did.
    fn told(&self, _somebody: bool) {}
    /// What the node wants of the disk.
    fn wishes(&self) -> DiskWishes;
    /// The peers to keep.
    fn known_peers(&self) -> Vec<KnownPeer>;
    /// Writes the known peers, or says why that can't be.
    fn save_peers(&self, peers: &[KnownPeer]) -> Result<(), String>;
    /// Notes that the disk failed, or that it works again.
    fn note_disk(&self, what: Kept, fault: Option<String>);
}

/// What is to be written, and when.
pub struct Keeper<D> {
    /// Nothing where the state is in memory alone.
    journal: Option<Journal<D>>,
    rule: SyncRule,
    /// Changes that wait for the next shared write, and when that is due, ms.
    held: Vec<SetJob>,
    held_due: Option<u64>,
    leases: Leases,
    /// When what has expired is to be removed next, and may be at the earliest, ms.
    expiry_due: Option<u64>,
    expiry_from: u64,
    /// When the next shared write may be, ms.
    shared_from: u64,
    /// When what was written is to be synced, if it is not yet, ms.
    sync_due: Option<u64>,
    /// When the disk is tried again after a fault, and how long the wait was, ms.
    repair_due: Option<u64>,
    repair_wait: u64,
    /// When the known peers are to be written, if they are, ms.
    peers_due: Option<u64>,
    saves: Budget,
    /// When one more write of the known peers may be, ms.
    saves_grow_at: u64,
}

impl<D: Disk> Keeper<D> {
    /// Takes what was wrong with the disk at the start, if anything was.
    pub fn new(
        journal: Option<Journal<D>>,
        rule: SyncRule,
        fault: Option<String>,
        now_ms: u64,
        core: &impl Core,
    ) -> Self {
        let leases = journal.as_ref().map(|journal| Leases::begin(journal.terms(), now_ms));
        let leases = leases.unwrap_or_default();
        if leases.due().is_some() {
            let noted = leases.iter().map(|(key, due_ms)| (key.clone(), Some(due_ms)));
            core.note_leases(noted.collect());
        }
        let mut keeper = Self {
            journal,
            expiry_due: leases.due(),
            expiry_from: now_ms,
            leases,
            rule,
            held: Vec::new(),
            held_due: None,
            shared_from: now_ms,
            sync_due: None,
            repair_due: None,
            repair_wait: 0,
            peers_due: None,
            saves: Budget::new(SAVES_MAX),
            saves_grow_at: now_ms + SAVE_EVERY_MS,
        };
        if let Some(why) = fault {
            keeper.failed(why, now_ms, core);
        }
        keeper
    }

    /// When there is something to do next, ms; nothing while nothing waits.
    pub fn due(&self) -> Option<u64> {
        let dues = [self.held_due, self.peers_due, self.sync_due, self.repair_due, self.expiry_due];
        dues.into_iter().flatten().min()
    }

    /// How many more changes may be brought before those that wait are written.
    pub fn room(&self) -> usize {
        BATCH_MAX.saturating_sub(self.held.len())
    }

    /// Takes changes, and writes them at once or with the next shared write.
    pub fn take(&mut self, sets: Vec<SetJob>, now_ms: u64, core: &impl Core) {
        self.held.extend(sets);
        self.look(now_ms, core);
    }

    /// Asks the node what it wants, and does what is due by now.
    pub fn look(&mut self, now_ms: u64, core: &impl Core) {
        let wish = self.ask(now_ms, core);
        let shares = self.rule == SyncRule::Shared && self.journal.is_some();
        let is_due = |due: Option<u64>| due.is_some_and(|due| due <= now_ms);
        let has_work =
            !self.held.is_empty() || wish == Some(Republish::Written) || is_due(self.expiry_due);
        if has_work && shares && now_ms < self.shared_from {
            self.held_due = Some(self.shared_from);
        } else if has_work {
            self.work_off(now_ms, core);
        }
        // A change that was just made says it, too.
        if wish == Some(Republish::Unwritten) && self.ask(now_ms, core) == wish {
            renew(core);
        }
        if is_due(self.peers_due) {
            self.save_peers(now_ms, core);
        }
        if is_due(self.sync_due) {
            self.sync(now_ms, core);
        }
        if is_due(self.repair_due) {
            self.repair(now_ms, core);
        }
        self.expiry_due = self.next_expiry(core);
    }

    /// When what has expired is to be removed next. Where the disk fails, that waits until it is
    /// whole again; what has left changes no more.
    fn next_expiry(&self, core: &impl Core) -> Option<u64> {
        let due = self.leases.due()?;
        if self.repair_due.is_some() || core.own().head.left {
            return None;
        }
        let shares = self.rule == SyncRule::Shared && self.journal.is_some();
        let from = if shares { self.shared_from } else { 0 };
        Some(due.max(self.expiry_from).max(from))
    }

    /// The change that removes what has expired; a change that waits decides of what is in it.
    fn expired(&self, sets: &[SetJob], now_ms: u64) -> Change {
        let is_set = |key: &Key| sets.iter().any(|set| set.change.contains_key(key));
        let keys = self.leases.overdue(now_ms).filter(|key| !is_set(key));
        change_of(keys.map(|key| (key.clone(), None)).collect())
    }

    /// Asks the node what it wants. It says each wish once, so the peers are noted here, whoever
    /// asks; gives whether it wants a new version of the same entries.
    fn ask(&mut self, now_ms: u64, core: &impl Core) -> Option<Republish> {
        let wishes = core.wishes();
        if let Some(urgency) = wishes.save_peers {
            let wait = match urgency {
                Urgency::Late => SAVE_LATE_MS,
                Urgency::Soon => SAVE_SOON_MS,
                Urgency::Now => {
                    // The budget is for what members cause.
                    self.saves.give(1);
                    0
                }
            };
            let due = now_ms + wait;
            self.peers_due = Some(self.peers_due.map_or(due, |before| before.min(due)));
        }
        wishes.republish
    }

    /// Writes all that waits, whatever its time.
    pub fn finish(&mut self, now_ms: u64, core: &impl Core) {
        self.work_off(now_ms, core);
        self.ask(now_ms, core);
        if self.peers_due.is_some() {
            self.saves.give(1);
            self.save_peers(now_ms, core);
        }
        if self.sync_due.is_some() {
            self.sync(now_ms, core);
        }
    }

    fn work_off(&mut self, now_ms: u64, core: &impl Core) {
        self.held_due = None;
        let mut sets = std::mem::take(&mut self.held);
        if self.expiry_due.is_some_and(|due| due <= now_ms) {
            let change = self.expired(&sets, now_ms);
            self.expiry_from = now_ms + EXPIRY_EVERY_MS;
            if !change.is_empty() {
                // Nobody waits for it.
                sets.push(SetJob { change, ttl: None, left: false, reply: bounded(0).0 });
            }
        }
        if !sets.is_empty() {
            self.set(sets, now_ms, core);
        }
        // Whatever was set is above all that peers hold already.
        if self.ask(now_ms, core) == Some(Republish::Written) && self.repair_due.is_none() {
            self.republish(now_ms, core);
        }
    }

    /// Makes a version for each change, writes all with one sync, publishes the last, tells.
    fn set(&mut self, sets: Vec<SetJob>, now_ms: u64, core: &impl Core) {
        let mut last = core.own().draft().at(core.home());
        // What changes nothing is in the version on disk; others may have seen a later one of it.
        let kept = self.journal.as_ref().map(Journal::timestamp);
        let mut version = kept.unwrap_or(last.head.timestamp);
        let mut commits = Vec::new();
        let mut results = Vec::new();
        let mut terms = Terms::new();
        for set in &sets {
            let result = self.next(&last, set, &terms, core).map(|next| {
                if let Some(next) = next {
                    version = next.head.timestamp;
                    last = next;
                    let SetJob { change, ttl, left, .. } = set;
                    commits.push(Commit { change, ttl: *ttl, timestamp: version, left: *left });
                }
                note_terms(&mut terms, set);
                version
            });
            results.push((&set.reply, result));
        }
        match self.write(&commits, last, now_ms, core) {
            Ok(record) => {
                self.note_leases(terms, now_ms, core);
                publish(record, core);
            }
            Err(refused) => {
                // What changes nothing needs no disk: it holds, whoever else was in this write.
                let (own, mut terms) = (core.own().draft().at(core.home()), Terms::new());
                for (set, (_, result)) in sets.iter().zip(&mut results) {
                    if let Ok(None) = self.next(&own, set, &Terms::new(), core) {
                        note_terms(&mut terms, set);
                        *result = Ok(kept.unwrap_or(own.head.timestamp));
                    } else if result.is_ok() {
                        *result = Err(refused.clone());
                    }
                }
                self.note_leases(terms, now_ms, core);
            }
        }
        let mut somebody = false;
        for (reply, result) in results {
            // Whoever waited may have gone.
            somebody |= reply.try_send(result).is_ok();
        }
        core.told(somebody);
    }

    /// The version that a change makes of the last one, where these times were noted before it in
    /// the same write; nothing where it changes nothing. What stands for another time than before
    /// is one of its own, with the same entries: that is on disk, too.
    fn next(
        &self,
        last: &Draft,
        SetJob { change, ttl, left, .. }: &SetJob,
        terms: &Terms<'_>,
        core: &impl Core,
    ) -> Result<Option<Draft>, Refused> {
        if last.head.left && !left {
            return Err(Refused::Leaving);
        }
        let none_left = || Refused::NotDurable { why: "no timestamp is left".into() };
        let timestamp = core.next_timestamp(last.head.timestamp).ok_or_else(none_left)?;
        let next = last.after(change, *left, timestamp)?;
        let ttl_of = |key: &Key| terms.get(key).copied().unwrap_or_else(|| self.leases.ttl_of(key));
        let is_other = |(key, value): (&Key, &Option<_>)| value.is_some() && ttl_of(key) != *ttl;
        let changes_terms = change.iter().any(is_other);
        Ok(next.or_else(|| changes_terms.then(|| last.again(timestamp))))
    }

    /// What is set again stands for its whole time from now on; that alone is no change, and costs
    /// no write.
    fn note_leases(&mut self, terms: Terms<'_>, now_ms: u64, core: &impl Core) {
        let mut noted = Vec::new();
        for (key, ttl) in terms {
            if ttl.is_some() || self.leases.ttl_of(key).is_some() {
                noted.push((key.clone(), self.leases.set(key, ttl, now_ms)));
            }
        }
        if !noted.is_empty() {
            core.note_leases(noted);
        }
    }

    /// Gives the last version, which is on disk by now; nothing where there is none.
    fn write(
        &mut self,
        commits: &[Commit<'_>],
        version: Draft,
        now_ms: u64,
        core: &impl Core,
    ) -> Result<Option<Verified<Record>>, Refused> {
        if commits.is_empty() {
            return Ok(None);
        }
        self.shared_from = now_ms + SHARED_EVERY_MS;
        // Before it is written: what can't be signed can't be published.
        let record =
            core.sign(version).map_err(|fault| Refused::NotDurable { why: fault.to_string() })?;
        let appended = match &mut self.journal {
            Some(journal) => journal.append(commits, &record.entries),
            None => Ok(()),
        };
        if let Err(fault) = appended {
            let why = fault.to_string();
            self.failed(why.clone(), now_ms, core);
            return Err(Refused::NotDurable { why });
        }
        if let (Some(_), SyncRule::Within(time)) = (&self.journal, self.rule) {
            let time_ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
            self.sync_due.get_or_insert(now_ms.saturating_add(time_ms));
        }
        self.worked(core);
        Ok(Some(record))
    }

    fn worked(&mut self, core: &impl Core) {
        self.repair_due = None;
        self.repair_wait = 0;
        core.note_disk(Kept::State, None);
    }

    fn failed(&mut self, why: String, now_ms: u64, core: &impl Core) {
        core.note_disk(Kept::State, Some(why));
        if self.repair_due.is_none() {
            self.repair_wait = (self.repair_wait * 2).clamp(REPAIR_FIRST_MS, REPAIR_LAST_MS);
            self.repair_due = Some(now_ms + self.repair_wait);
        }
    }

    fn sync(&mut self, now_ms: u64, core: &impl Core) {
        self.sync_due = None;
        // What can't be added to is not synced either: it is written anew.
        if self.journal.as_ref().is_some_and(Journal::is_broken) {
            return self.repair(now_ms, core);
        }
        let synced = self.journal.as_mut().map_or(Ok(()), Journal::sync);
        if let Err(fault) = synced {
            self.failed(fault.to_string(), now_ms, core);
        }
    }

    /// Nobody has to change anything for the node to find that there is room again.
    fn repair(&mut self, now_ms: u64, core: &impl Core) {
        self.repair_due = None;
        let own = core.own();
        let (timestamp, left) = (own.head.timestamp, own.head.left);
        let journal = self.journal.as_mut();
        match journal.map_or(Ok(()), |journal| journal.repair(&own.entries, timestamp, left)) {
            Ok(()) => self.worked(core),
            Err(fault) => self.failed(fault.to_string(), now_ms, core),
        }
    }

    /// The same entries under a later timestamp, on disk.
    fn republish(&mut self, now_ms: u64, core: &impl Core) {
        let Some(next) = same_again(core) else { return };
        let (change, timestamp, left) = (Change::new(), next.head.timestamp, next.head.left);
        let commit = Commit { change: &change, ttl: None, timestamp, left };
        let written = self.write(&[commit], next, now_ms, core);
        let written = written.map(|record| publish(record, core));
        core.told(false);
        if written.is_ok() {
            log::info!("peers held a later version of the own state; it goes on from there");
        }
    }

    fn save_peers(&mut self, now_ms: u64, core: &impl Core) {
        while now_ms >= self.saves_grow_at && self.saves.left() < SAVES_MAX {
            self.saves.give(1);
            self.saves_grow_at += SAVE_EVERY_MS;
        }
        if self.saves.left() == SAVES_MAX {
            self.saves_grow_at = now_ms + SAVE_EVERY_MS;
        }
        if !self.saves.take() {
            self.peers_due = Some(self.saves_grow_at);
            return;
        }
        let saved = core.save_peers(&core.known_peers());
        self.peers_due = saved.is_err().then_some(now_ms + SAVE_RETRY_MS);
        core.note_disk(Kept::Peers, saved.err());
    }
}

/// For how long values stand from now on.
type Terms<'a> = BTreeMap<&'a Key, Option<Ttl>>;

fn note_terms<'a>(terms: &mut Terms<'a>, SetJob { change, ttl, .. }: &'a SetJob) {
    let of = |value: &Option<_>| ttl.filter(|_| value.is_some());
    terms.extend(change.iter().map(|(key, value)| (key, of(value))));
}

fn publish(record: Option<Verified<Record>>, core: &impl Core) {
    if let Some(record) = record {
        core.publish(record);
    }
}

/// The same entries under a later timestamp, as the node lives now; nothing where none is left.
fn same_again(core: &impl Core) -> Option<Draft> {
    let own = core.own();
    let timestamp = core.next_timestamp(own.head.timestamp)?;
    Some(own.draft().again(timestamp).at(core.home()))
}

/// The same without a write: its entries are on disk already.
fn renew(core: &impl Core) {
    let Some(next) = same_again(core) else { return };
    match core.sign(next) {
        Ok(record) => {
            core.publish(record);
            core.told(false);
        }
        // It is wished for again at the next tick.
        Err(fault) => log::warn!("a version of the own state could not be signed: {fault}"),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::sync::Arc;

    use crossbeam_channel::{Receiver, bounded};

    use super::*;
    use crate::journal::RealDisk;
    use crate::protocol::crypto::{Signed, Signer};
    use crate::protocol::entries::{Key, Value};
    use crate::protocol::identity::{NodeId, PublicKey};
    use crate::protocol::record::Signature;

    struct Hand;

    impl Signer for Hand {
        fn public_key(&self) -> PublicKey {
            PublicKey([4; 65])
        }

        fn sign(&self, _: Signed<'_>) -> Result<Signature, CryptoFault> {
            Ok([0; 64])
        }
    }

    struct FakeCore {
        own: RefCell<Verified<Record>>,
        home: RefCell<Home>,
        save_peers: Cell<Option<Urgency>>,
        /// Stays until a version is published.
        republish: Cell<Option<Republish>>,
        saves: Cell<u32>,
        fails: Cell<bool>,
        /// Whether anybody was told, each time.
        told: RefCell<Vec<bool>>,
        /// When keys go, as it was noted.
        leases: RefCell<Vec<(Key, Option<u64>)>>,
    }

    impl FakeCore {
        fn new() -> Self {
            let draft = Draft::new(NodeId::new("a").unwrap(), 1, false, Arc::default());
            Self {
                own: RefCell::new(Verified::sign(draft, &Hand).unwrap()),
                home: RefCell::default(),
                save_peers: Cell::default(),
                republish: Cell::default(),
                saves: Cell::new(0),
                fails: Cell::new(false),
                told: RefCell::default(),
                leases: RefCell::default(),
            }
        }

        fn wants_saved(&self, urgency: Urgency) {
            self.save_peers.set(Some(urgency));
        }
    }

    impl Core for FakeCore {
        fn own(&self) -> Verified<Record> {
            self.own.borrow().clone()
        }

        fn home(&self) -> Home {
            self.home.borrow().clone()
        }

        fn next_timestamp(&self, last: u64) -> Option<u64> {
            Some(last + 1)
        }

        fn sign(&self, draft: Draft) -> Result<Verified<Record>, CryptoFault> {
            Verified::sign(draft, &Hand)
        }

        fn publish(&self, record: Verified<Record>) {
            *self.own.borrow_mut() = record;
            self.republish.set(None);
        }

        fn told(&self, somebody: bool) {
            self.told.borrow_mut().push(somebody);
        }

        fn wishes(&self) -> DiskWishes {
            DiskWishes { republish: self.republish.get(), save_peers: self.save_peers.take() }
        }

        fn known_peers(&self) -> Vec<KnownPeer> {
            Vec::new()
        }

        fn save_peers(&self, _: &[KnownPeer]) -> Result<(), String> {
            self.saves.set(self.saves.get() + 1);
            if self.fails.get() { Err("the disk is full".into()) } else { Ok(()) }
        }

        fn note_disk(&self, _: Kept, _: Option<String>) {}

        fn note_leases(&self, leases: Vec<(Key, Option<u64>)>) {
            self.leases.borrow_mut().extend(leases);
        }
    }

    fn keeper(core: &FakeCore) -> Keeper<RealDisk> {
        Keeper::new(None, SyncRule::Always, None, 0, core)
    }

    fn job(key: &str, left: bool) -> (SetJob, Receiver<Result<u64, Refused>>) {
        let (reply, answer) = bounded(1);
        let value = Value::new(b"value").unwrap();
        let entry = (!left).then(|| (Key::new(key).unwrap(), Some(value)));
        let change = entry.into_iter().collect();
        (SetJob { change, ttl: None, left, reply }, answer)
    }

    /// In the same write, or in a later one.
    #[test]
    fn nothing_is_changed_behind_a_goodbye() {
        let core = FakeCore::new();
        let mut keeper = keeper(&core);
        let (jobs, answers): (Vec<_>, Vec<_>) =
            [job("a", false), job("", true), job("b", false)].into_iter().unzip();
        keeper.take(jobs, 0, &core);
        let (later, answer) = job("c", false);
        keeper.take(vec![later], 1_000, &core);
        let results: Vec<_> = answers.iter().map(|answer| answer.try_recv().unwrap()).collect();
        assert_eq!(results, [Ok(2), Ok(3), Err(Refused::Leaving)]);
        assert_eq!(answer.try_recv().unwrap(), Err(Refused::Leaving));
        assert!(core.own().head.left && core.own().entries.get("a").is_some());
    }

    /// Whoever has its answer lets the change go to others; where nobody has one, the journal does.
    #[test]
    fn what_was_published_goes_to_others_also_where_nobody_waits_any_more() {
        let core = FakeCore::new();
        let mut keeper = keeper(&core);
        let (here, answer) = job("a", false);
        let (gone, _) = job("b", false);
        keeper.take(vec![here, gone], 0, &core);
        assert_eq!(answer.try_recv().unwrap(), Ok(2));
        let (gone, _) = job("c", false);
        keeper.take(vec![gone], 0, &core);
        core.republish.set(Some(Republish::Unwritten));
        keeper.look(0, &core);
        assert_eq!(*core.told.borrow(), [true, false, false]);
    }

    #[test]
    fn peers_that_could_not_be_written_are_written_later() {
        let core = FakeCore::new();
        let mut keeper = keeper(&core);
        core.fails.set(true);
        core.wants_saved(Urgency::Soon);
        keeper.look(0, &core);
        keeper.look(SAVE_SOON_MS, &core);
        assert_eq!(core.saves.get(), 1);
        core.fails.set(false);
        let due = keeper.due().expect("it is not forgotten, though nobody asks again");
        keeper.look(due, &core);
        assert_eq!((core.saves.get(), keeper.due()), (2, None));
    }

    /// A key is nobody else's from now on; an address is only a hint.
    #[test]
    fn a_key_is_written_soon_and_an_address_late() {
        let core = FakeCore::new();
        let mut keeper = keeper(&core);
        core.wants_saved(Urgency::Late);
        keeper.look(0, &core);
        keeper.look(SAVE_LATE_MS - 1, &core);
        assert_eq!(core.saves.get(), 0);
        core.wants_saved(Urgency::Soon);
        keeper.look(1_000, &core);
        assert_eq!(keeper.due(), Some(1_000 + SAVE_SOON_MS));
        keeper.look(1_000 + SAVE_SOON_MS, &core);
        assert_eq!((core.saves.get(), keeper.due()), (1, None));
    }

    /// Where a node lives is in no file: a card is not written to for it.
    #[test]
    fn a_version_with_what_is_on_disk_is_not_written() {
        let (core, folder) = (FakeCore::new(), tempfile::tempdir().unwrap());
        let (journal, _) = Journal::open(folder.path(), true).unwrap();
        let mut keeper = Keeper::new(Some(journal), SyncRule::Shared, None, 0, &core);
        let (change, answer) = job("k", false);
        keeper.take(vec![change], 0, &core);
        assert_eq!(answer.try_recv().unwrap(), Ok(2));
        let file = folder.path().join(crate::journal::FILE_NAME);
        let before = std::fs::read(&file).unwrap();
        let lives_in = |run: u8| {
            let incarnation = crate::protocol::identity::Incarnation([run; 16]);
            *core.home.borrow_mut() = Home { incarnation, address: None };
            core.republish.set(Some(Republish::Unwritten));
        };
        for run in 1..50 {
            lives_in(run);
            keeper.look(1, &core);
            assert_eq!(core.own().head.home, core.home(), "at once, whatever writes wait for");
        }
        assert_eq!(core.own().head.timestamp, 51);
        assert_eq!(keeper.due(), None);
        let (nothing, answer) = job("k", false);
        keeper.take(vec![nothing], 1_000, &core);
        assert_eq!(answer.try_recv().unwrap(), Ok(2), "the version that is on disk has it");
        assert!(std::fs::read(&file).unwrap() == before);
        // What is written says it, too, and is later than all that was not.
        lives_in(50);
        let (change, answer) = job("x", false);
        keeper.take(vec![change], 2_000, &core);
        assert_eq!(answer.try_recv().unwrap(), Ok(52));
        assert_eq!((core.own().head.timestamp, core.own().head.home.clone()), (52, core.home()));
    }

    /// Others believe that it is gone, and its disk is full: it says that it is there all the same.
    #[test]
    fn a_disk_that_fails_keeps_no_node_from_saying_where_it_lives() {
        let core = FakeCore::new();
        let mut keeper = Keeper::<RealDisk>::new(
            None,
            SyncRule::Always,
            Some("the disk is full".into()),
            0,
            &core,
        );
        core.republish.set(Some(Republish::Unwritten));
        keeper.look(0, &core);
        assert_eq!(core.own().head.timestamp, 2);
    }

    /// Whatever members do, a card is written to a few times a minute.
    #[test]
    fn the_peers_are_written_a_few_times_a_minute_at_most() {
        let core = FakeCore::new();
        let mut keeper = keeper(&core);
        let minutes = 10;
        for at in (0..minutes * 60_000).step_by(50) {
            core.wants_saved(Urgency::Soon);
            keeper.look(at, &core);
        }
        let most = SAVES_MAX + u32::try_from(minutes * 60_000 / SAVE_EVERY_MS).unwrap();
        assert!((most / 2..=most).contains(&core.saves.get()), "{}", core.saves.get());
        let before = core.saves.get();
        core.wants_saved(Urgency::Soon);
        keeper.finish(minutes * 60_000, &core);
        assert_eq!(core.saves.get(), before + 1, "at the end in any case");
    }

    /// A node that was forgotten came back with its old key, as members had used up all writes when
    /// the host lost its power.
    #[test]
    fn what_an_operator_decided_is_written_at_once_whatever_members_do() {
        let core = FakeCore::new();
        let mut keeper = keeper(&core);
        for at in (0..SAVE_EVERY_MS - 1).step_by(50) {
            core.wants_saved(Urgency::Soon);
            keeper.look(at, &core);
        }
        assert_eq!(core.saves.get(), SAVES_MAX, "nothing is left");
        for more in 1..=3 {
            core.wants_saved(Urgency::Now);
            keeper.look(SAVE_EVERY_MS - 1, &core);
            assert_eq!(core.saves.get(), SAVES_MAX + more);
        }
    }

    /// A change with a time, for a caller who is told.
    fn set_for(
        keeper: &mut Keeper<RealDisk>,
        pairs: &[(&str, Option<&str>)],
        ttl_ms: Option<u64>,
        now_ms: u64,
        core: &FakeCore,
    ) -> u64 {
        let (reply, answer) = bounded(1);
        let pair = |(key, value): &(&str, Option<&str>)| {
            (Key::new(key).unwrap(), value.map(|value| Value::new(value.as_bytes()).unwrap()))
        };
        let change = pairs.iter().map(pair).collect();
        let ttl = ttl_ms.map(|ms| Ttl::from_ms(ms).unwrap());
        keeper.take(vec![SetJob { change, ttl, left: false, reply }], now_ms, core);
        answer.try_recv().unwrap().unwrap()
    }

    fn keys(core: &FakeCore) -> Vec<String> {
        core.own().entries.iter().map(|(key, _)| key.as_str().to_owned()).collect()
    }

    #[test]
    fn what_is_not_set_again_goes_all_of_one_time_at_once() {
        let core = FakeCore::new();
        let mut keeper = keeper(&core);
        set_for(&mut keeper, &[("stays", Some("1"))], None, 0, &core);
        let all = [("a", Some("1")), ("b", Some("1")), ("again", Some("1"))];
        let version = set_for(&mut keeper, &all, Some(3_000), 0, &core);
        assert_eq!(keeper.due(), Some(3_000));
        keeper.look(2_999, &core);
        // To set it again is no change.
        assert_eq!(
            set_for(&mut keeper, &[("again", Some("1"))], Some(3_000), 2_999, &core),
            version
        );
        assert_eq!(core.own().head.timestamp, version);
        assert_eq!((keys(&core).len(), keeper.due()), (4, Some(3_000)));
        keeper.look(3_000, &core);
        assert_eq!(
            (keys(&core), keeper.due()),
            (vec!["again".into(), "stays".into()], Some(5_999))
        );
        assert_eq!(core.own().head.timestamp, version + 1, "one version");
        keeper.look(5_999, &core);
        assert_eq!((keys(&core), keeper.due()), (vec!["stays".to_owned()], None));
        assert_eq!(core.leases.borrow().last(), Some(&(Key::new("again").unwrap(), None)));
    }

    #[test]
    fn what_is_set_without_a_time_or_removed_expires_no_more() {
        let core = FakeCore::new();
        let mut keeper = keeper(&core);
        let all = [("a", Some("1")), ("b", Some("1")), ("c", Some("1"))];
        let version = set_for(&mut keeper, &all, Some(1_000), 0, &core);
        // For how long it stands has to be on disk, so it is a version, though of the same entries.
        let next = set_for(&mut keeper, &[("a", Some("1"))], None, 10, &core);
        assert!(next > version);
        assert_eq!(core.own().head.digest, *core.own().entries.digest());
        assert_eq!(set_for(&mut keeper, &[("a", Some("1"))], None, 20, &core), next, "no change");
        set_for(&mut keeper, &[("b", None)], None, 30, &core);
        assert!(set_for(&mut keeper, &[("c", Some("1"))], Some(9_000), 40, &core) > next);
        keeper.look(1_000, &core);
        assert_eq!((keys(&core), keeper.due()), (vec!["a".into(), "c".into()], Some(9_040)));
    }

    #[test]
    fn a_change_that_comes_when_the_time_is_over_decides() {
        let core = FakeCore::new();
        let mut keeper = keeper(&core);
        set_for(&mut keeper, &[("a", Some("1")), ("b", Some("1"))], Some(1_000), 0, &core);
        set_for(&mut keeper, &[("a", Some("1"))], Some(1_000), 1_000, &core);
        assert_eq!((keys(&core), keeper.due()), (vec!["a".to_owned()], Some(2_000)));
    }

    #[test]
    fn keys_that_go_one_after_the_other_share_writes() {
        let core = FakeCore::new();
        let mut keeper = keeper(&core);
        for number in 0..100 {
            let name = format!("{number:02}");
            set_for(&mut keeper, &[(&name, Some(""))], Some(1_000), number * 10, &core);
        }
        let (mut now, mut looks) = (0, 0);
        while let Some(due) = keeper.due() {
            assert!(due > now, "it does not wake again and again");
            (now, looks) = (due, looks + 1);
            keeper.look(now, &core);
            assert!(looks < 100);
        }
        assert_eq!((keys(&core).len(), looks), (0, 5));
        assert!(now < 2_000 + EXPIRY_EVERY_MS);
    }

    #[test]
    fn what_has_left_changes_no_more() {
        let core = FakeCore::new();
        let mut keeper = keeper(&core);
        set_for(&mut keeper, &[("a", Some("1"))], Some(1_000), 0, &core);
        let (leave, answer) = job("", true);
        keeper.take(vec![leave], 10, &core);
        answer.try_recv().unwrap().unwrap();
        assert_eq!(keeper.due(), None);
        keeper.look(5_000, &core);
        assert_eq!(keys(&core), ["a"]);
    }

    /// It changes nothing, so it needs no disk, whoever else is in the same write.
    #[test]
    fn what_is_set_again_holds_beside_a_change_that_can_not_be_written() {
        let (core, folder) = (FakeCore::new(), tempfile::tempdir().unwrap());
        let (journal, _) = Journal::open(folder.path(), true).unwrap();
        let mut keeper = Keeper::new(Some(journal), SyncRule::Always, None, 0, &core);
        let version = set_for(&mut keeper, &[("a", Some("value"))], Some(3_000), 0, &core);
        std::fs::remove_dir_all(folder.path()).unwrap();
        let (change, refused) = job("b", false);
        let ((again, held), (other, other_refused)) = (job("a", false), job("a", false));
        let again = SetJob { ttl: Ttl::from_ms(3_000).ok(), ..again };
        keeper.take(vec![change, again, other], 2_000, &core);
        assert_eq!(held.try_recv().unwrap(), Ok(version));
        for answer in [refused, other_refused] {
            let answer = answer.try_recv().unwrap();
            assert!(matches!(answer, Err(Refused::NotDurable { .. })), "{answer:?}");
        }
        assert_eq!(core.leases.borrow().last(), Some(&(Key::new("a").unwrap(), Some(5_000))));
        assert_eq!((keys(&core), core.own().head.timestamp), (vec!["a".into()], version));
    }
}
