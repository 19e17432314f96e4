//! What goes in one push: the own record, what is to be passed on, and records of others that the
//! peer lacks and can't ask for.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Node, Now};
use crate::order;
use crate::protocol::errand::Errands;
use crate::protocol::flight::Call;
use crate::protocol::head::Fingerprint;
use crate::protocol::identity::NodeId;
use crate::protocol::peer::Peer;
use crate::protocol::record::{Patch, Record};
use crate::protocol::rings::{Ring, Stretch};
use crate::protocol::verified::Verified;
use crate::protocol::wire::{
    PUSHED_MAX, Push, RECORDS_MAX, RELAYS_MAX, Relay, Request, SUSPECTS_MAX, Suspected,
};

use super::calls::gives_others;

/// Most bytes of records in one UPDATE beyond its first: a larger batch would hold up the rest.
const BATCH_BYTES_MAX: usize = 256 * 1024;

impl Node {
    /// The own record where the peer lacks it, records of others that it lacks and can't ask for,
    /// and what it is to pass on: each of them where it is due, as none takes the other along
    /// before its time.
    pub(super) fn make_push(&mut self, node_id: &NodeId, now: Now) -> Option<(Call, Request)> {
        let own = self.own.clone();
        let carries_own = self.brings_own(self.peers.get(node_id)?, now);
        let peer = self.peers.get_mut(node_id)?;
        let incarnation = peer.run()?;
        let gives = gives_others(peer);
        let send = if gives { std::mem::take(&mut peer.owed.send) } else { BTreeSet::new() };
        // Its list may have said that it knows us and holds nothing of us.
        let held = peer.link.own.held.filter(|held| *held != Fingerprint::default());
        let mut waiting = std::mem::take(&mut peer.owed.errands);
        let mut load = Load::new();
        let me = self.settings.node_id.clone();
        if carries_own
            && held.is_none()
            && waiting.get(&me).is_none_or(|errand| errand.stretches.is_empty())
            && let Some(introduction) = self.introduction()
        {
            waiting.give(me.clone(), introduction);
        }
        let carries_own = carries_own || waiting.contains(&me);
        if carries_own {
            let base = held.or(waiting.get(&me).and_then(|errand| errand.base));
            let patch = base.and_then(|base| self.own_changes.patch(base, &own));
            load.take(&own, patch);
        }
        let own_base = load.patches.first().map(|patch| patch.base);
        let partial = own_base.is_some();
        let (errands, left) = self.load_errands(waiting, own_base, &mut load);
        let (mut later, mut given) = (BTreeSet::new(), Vec::new());
        for other in send.into_iter().filter(|other| !errands.contains(other)) {
            let Some(record) = self.record_of(&other) else { continue };
            let version = record.fingerprint;
            if load.take(record, None) {
                given.push((other, version));
            } else {
                later.insert(other);
            }
        }
        let peer = self.peers.get_mut(node_id)?;
        peer.owed.errands = left;
        if gives {
            peer.owed.send = later;
            peer.given.extend(given);
        }
        let relays = errands.iter().flat_map(|(owner, errand)| {
            let relay = |(ring, stretch): (&Ring, &Stretch)| Relay {
                owner: owner.clone(),
                ring: *ring,
                stretch: stretch.clone(),
            };
            errand.stretches.iter().map(relay)
        });
        let relays = relays.collect();
        let own = carries_own.then_some(own.fingerprint);
        let (records, patches) = load.sorted();
        let suspects = load.suspects;
        let push = Push::new(node_id.clone(), incarnation);
        let push = Push { records, patches, relays, suspects, ..push };
        Some((Call::Push { own, partial, gives, errands }, Request::Push(push)))
    }

    /// Takes of what is to be passed on what has room; the rest is left.
    fn load_errands(
        &mut self,
        waiting: Errands,
        own_base: Option<Fingerprint>,
        load: &mut Load,
    ) -> (Errands, Errands) {
        let (mut taken, mut left) = (Errands::default(), Errands::default());
        let mut relays = 0;
        for (owner, mut errand) in waiting.into_all() {
            let is_me = self.is_me(&owner);
            let Some(record) = self.record_of(&owner).cloned() else { continue };
            let has_room = relays + errand.stretches.len() <= RELAYS_MAX;
            if self.peers.get(&owner).is_some_and(Peer::is_accused) {
                // Who does not hold that version gets it by what views say.
                if has_room && load.suspects.len() < SUSPECTS_MAX {
                    relays += errand.stretches.len();
                    let (node_id, fingerprint) = (owner.clone(), record.fingerprint);
                    load.suspects.push(Suspected { node_id, fingerprint });
                    taken.give(owner, errand);
                } else {
                    left.give(owner, errand);
                }
                continue;
            }
            let changes = self.peers.get_mut(&owner).and_then(|peer| peer.changes.as_mut());
            let patch = errand.base.zip(changes);
            let patch = patch.and_then(|(base, (changes, _))| changes.patch(base, &record));
            // Without one it is sent whole.
            errand.base = if is_me { own_base } else { patch.as_ref().map(|patch| patch.base) };
            if has_room && (is_me || load.take(&record, patch)) {
                relays += errand.stretches.len();
                taken.give(owner, errand);
            } else {
                left.give(owner, errand);
            }
        }
        (taken, left)
    }
}

/// What goes in one push: whole records, and partial ones.
struct Load {
    batch: Batch,
    patches: Vec<Arc<Patch>>,
    /// In the order of their ids.
    suspects: Vec<Suspected>,
}

impl Load {
    fn new() -> Self {
        Self { batch: Batch::of(RECORDS_MAX), patches: Vec::new(), suspects: Vec::new() }
    }

    /// Takes the patch, or the record where there is none, if there is room; says whether it did.
    fn take(&mut self, record: &Verified<Record>, patch: Option<Arc<Patch>>) -> bool {
        let count = self.batch.records.len() + self.patches.len();
        if count == PUSHED_MAX {
            return false;
        }
        match patch {
            None => self.batch.take(record),
            Some(patch) => {
                let bytes = RECORD_OVERHEAD_BYTES + patch.bytes();
                let has_room = count == 0 || self.batch.bytes + bytes <= BATCH_BYTES_MAX;
                if has_room {
                    self.batch.bytes += bytes;
                    self.patches.push(patch);
                }
                has_room
            }
        }
    }

    /// Both in the order of their owners.
    fn sorted(&mut self) -> (Vec<Arc<Record>>, Vec<Arc<Patch>>) {
        let mut records = std::mem::take(&mut self.batch.records);
        let mut patches = std::mem::take(&mut self.patches);
        order::sort_by(&mut records, |left, right| left.head.node_id.cmp(&right.head.node_id));
        order::sort_by(&mut patches, |left, right| left.node_id.cmp(&right.node_id));
        (records, patches)
    }
}

/// Records that go together in one message.
pub(super) struct Batch {
    pub(super) records: Vec<Arc<Record>>,
    bytes: usize,
    /// Most of them.
    most: usize,
}

impl Batch {
    /// An empty one for so many.
    pub(super) fn of(most: usize) -> Self {
        Self { records: Vec::new(), bytes: 0, most }
    }

    /// Takes the record if it is the first or the batch has room; says whether it did.
    pub(super) fn take(&mut self, record: &Verified<Record>) -> bool {
        let bytes = record.entries.bytes() + RECORD_OVERHEAD_BYTES;
        let is_full = self.records.len() == self.most || self.bytes + bytes > BATCH_BYTES_MAX;
        if !self.records.is_empty() && is_full {
            return false;
        }
        self.bytes += bytes;
        self.records.push(record.share());
        true
    }
}

/// What a record has beside its entries, bytes, at most.
const RECORD_OVERHEAD_BYTES: usize = 256;
