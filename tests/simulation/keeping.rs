//! What the journal's thread keeps, of what the node wants while that thread writes.

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::sync::Arc;

use crossbeam_channel::bounded;
use dsn::config::SyncRule;
use dsn::journal::Journal;
use dsn::keeper::{Core, Keeper, Kept, SetJob};
use dsn::protocol::crypto::CryptoFault;
use dsn::protocol::entries::Change;
use dsn::protocol::head::Home;
use dsn::protocol::identity::NodeId;
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
}

/// A node that has just written a change, and pinned a key meanwhile.
fn after_a_change() -> (Busy, Keeper<SimDisk>) {
    let key_pair = key_of(1);
    let draft = Draft::new(NodeId::new("a").unwrap(), 1, false, Arc::default());
    let own = RefCell::new(sign(draft, &key_pair));
    let busy = Busy { key: key_pair, own, wants: Cell::default(), saved: Cell::new(0) };
    let disk = SimDisk::default();
    let (journal, _) = Journal::open_on(disk, Path::new("/nowhere/at/all"), true).unwrap();
    let mut keeper = Keeper::new(Some(journal), SyncRule::Always, None, 0, &busy);
    let (reply, answer) = bounded(1);
    let change = Change::from([(key("k"), Some(value("v")))]);
    keeper.take(vec![SetJob { change, left: false, reply }], 0, &busy);
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
