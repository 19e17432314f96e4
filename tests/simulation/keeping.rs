//! What the journal's thread keeps, of what the node wants while that thread writes.

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::sync::Arc;

use crossbeam_channel::bounded;
use dsn::config::SyncRule;
use dsn::journal::Journal;
use dsn::keeper::{Core, Keeper, Kept, SetJob};
use dsn::protocol::crypto::CryptoFault;
use dsn::protocol::entries::{Change, Key};
use dsn::protocol::head::Home;
use dsn::protocol::identity::NodeId;
use dsn::protocol::lease::Ttl;
use dsn::protocol::node::{DiskWishes, Urgency};
use dsn::protocol::peer::KnownPeer;
use dsn::protocol::record::{Draft, Record};
use dsn::protocol::verified::Verified;

use super::crypto::{SimKey, key_of, sign};
use super::disk::SimDisk;
use crate::support::{key, value};

/// A node that pins a key whenever a version is signed: that is while a change is written.
struct Busy {
    key: SimKey,
    own: RefCell<Verified<Record>>,
    wants: Cell<Option<Urgency>>,
    saved: Cell<u32>,
}

impl Core for Busy {
    fn own(&self) -> Verified<Record> {
        self.own.borrow().clone()
    }

    fn home(&self) -> Home {
        Home::default()
    }

    fn next_timestamp(&self, last: u64) -> Option<u64> {
        Some(last + 1)
    }

    fn sign(&self, draft: Draft) -> Result<Verified<Record>, CryptoFault> {
        self.wants.set(Some(Urgency::Soon));
        Ok(sign(draft, &self.key))
    }

    fn publish(&self, record: Verified<Record>) {
        *self.own.borrow_mut() = record;
    }

    fn wishes(&self) -> DiskWishes {
        DiskWishes { republish: None, save_peers: self.wants.take() }
    }

    fn known_peers(&self) -> Vec<KnownPeer> {
        Vec::new()
    }

    fn save_peers(&self, _: &[KnownPeer]) -> Result<(), String> {
        self.saved.set(self.saved.get() + 1);
        Ok(())
    }

    fn note_disk(&self, _: Kept, _: Option<String>) {}

    fn note_leases(&self, _: Vec<(Key, Option<u64>)>) {}
}

/// A node on a disk, with what it finds there.
fn start_on(disk: &SimDisk) -> (Busy, Keeper<SimDisk>) {
    let key_pair = key_of(1);
    let opened = Journal::open_on(disk.clone(), Path::new("/nowhere/at/all"), true);
    let (journal, loaded) = opened.unwrap();
    let timestamp = loaded.timestamp.max(1);
    let entries = Arc::new(loaded.entries);
    let draft = Draft::new(NodeId::new("a").unwrap(), timestamp, false, entries);
    let own = RefCell::new(sign(draft, &key_pair));
    let busy = Busy { key: key_pair, own, wants: Cell::default(), saved: Cell::new(0) };
    let keeper = Keeper::new(Some(journal), SyncRule::Always, None, 0, &busy);
    (busy, keeper)
}

/// A node that has just written a change, and pinned a key meanwhile.
fn after_a_change() -> (Busy, Keeper<SimDisk>) {
    let (busy, mut keeper) = start_on(&SimDisk::default());
    let (reply, answer) = bounded(1);
    let change = Change::from([(key("k"), Some(value("v")))]);
    keeper.take(vec![SetJob { change, ttl: None, left: false, reply }], 0, &busy);
    assert!(answer.try_recv().unwrap().is_ok());
    assert_eq!(busy.saved.get(), 0, "it waits for more of them");
    (busy, keeper)
}

#[test]
fn a_key_that_is_pinned_while_a_change_is_written_is_kept() {
    let (busy, mut keeper) = after_a_change();
    let due = keeper.due().expect("it is to be written soon");
    assert!(due <= 1000, "{due}");
    keeper.look(due, &busy);
    assert_eq!(busy.saved.get(), 1);
}

#[test]
fn it_is_kept_at_a_stop_too() {
    let (busy, mut keeper) = after_a_change();
    keeper.finish(1, &busy);
    assert_eq!(busy.saved.get(), 1);
}

fn set(keeper: &mut Keeper<SimDisk>, name: &str, ttl_ms: Option<u64>, now_ms: u64, core: &Busy) {
    let (reply, answer) = bounded(1);
    let change = Change::from([(key(name), Some(value("v")))]);
    let ttl = ttl_ms.map(|ms| Ttl::from_ms(ms).unwrap());
    keeper.take(vec![SetJob { change, ttl, left: false, reply }], now_ms, core);
    answer.try_recv().unwrap().unwrap();
}

fn names(core: &Busy) -> Vec<String> {
    core.own().entries.iter().map(|(key, _)| key.as_str().to_owned()).collect()
}

/// A host that was off for long, or not at all: nobody there knows.
#[test]
fn what_expires_has_its_time_once_more_after_a_restart() {
    let disk = SimDisk::default();
    let (core, mut keeper) = start_on(&disk);
    set(&mut keeper, "long", Some(30_000), 0, &core);
    set(&mut keeper, "short", Some(2_000), 0, &core);
    set(&mut keeper, "good", Some(2_000), 0, &core);
    set(&mut keeper, "good", None, 1_900, &core);
    disk.cut_power(&mut fastrand::Rng::with_seed(1));
    drop(keeper);
    let (core, mut keeper) = start_on(&disk);
    keeper.look(1_999, &core);
    assert_eq!(names(&core), ["good", "long", "short"]);
    keeper.look(2_000, &core);
    assert_eq!(names(&core), ["good", "long"]);
    keeper.look(30_000, &core);
    assert_eq!((names(&core), start_on(&disk).0.own().entries.len()), (vec!["good".into()], 1));
}

/// What can't be removed on disk is not removed at all; the disk is tried at its pace.
#[test]
fn what_expires_on_a_full_disk_goes_when_there_is_room() {
    let disk = SimDisk::default();
    let (core, mut keeper) = start_on(&disk);
    set(&mut keeper, "k", Some(1_000), 0, &core);
    disk.fails(true);
    let (mut now, mut looks) = (0, 0);
    while now < 60_000 {
        let due = keeper.due().expect("it is tried again");
        assert!(due > now, "it does not wake again and again");
        (now, looks) = (due, looks + 1);
        keeper.look(now, &core);
        assert_eq!(names(&core), ["k"]);
    }
    assert!((3..12).contains(&looks), "{looks} tries in a minute");
    disk.fails(false);
    let due = keeper.due().unwrap();
    keeper.look(due, &core);
    assert_eq!(keeper.due(), Some(1_000 + 250), "its time is over");
    keeper.look(due, &core);
    assert_eq!((names(&core).len(), start_on(&disk).0.own().entries.len()), (0, 0));
}
