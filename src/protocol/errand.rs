//! Versions that a peer is to be brought, and whom it is asked to pass them on to.

use std::collections::BTreeMap;

use super::head::Fingerprint;
use super::identity::NodeId;
use super::rings::{Ring, Stretch};
use crate::order::ListMap;

/// What a peer is to be brought, by the owners of the versions; the newest is sent, however often
/// it was to be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Errands {
    of: BTreeMap<NodeId, Errand>,
    /// None of those that go further is late before this, ms: so that a thousand that wait are not
    /// looked through for each of them.
    hedge_at: Option<u64>,
}

impl Errands {
    /// One more, or another version in the place of one that waits.
    pub fn give(&mut self, owner: NodeId, errand: Errand) {
        if !errand.stretches.is_empty() {
            let hedge_at = self.hedge_at.map_or(errand.hedge_at, |at| at.min(errand.hedge_at));
            self.hedge_at = Some(hedge_at);
        }
        match self.of.get_mut(&owner) {
            Some(waiting) => waiting.merge(errand),
            None => {
                self.of.insert(owner, errand);
            }
        }
    }

    /// What was not passed on in time is for the peer alone from now on; gives to whom it was to
    /// go.
    pub fn take_late(&mut self, now_ms: u64) -> Vec<(NodeId, Errand)> {
        if self.hedge_at.is_none_or(|at| now_ms < at) {
            return Vec::new();
        }
        let (mut late, mut next) = (Vec::new(), None);
        for (owner, errand) in &mut self.of {
            if errand.stretches.is_empty() {
                continue;
            }
            if errand.hedge_at <= now_ms {
                let stretches = std::mem::take(&mut errand.stretches);
                late.push((owner.clone(), Errand { stretches, ..errand.clone() }));
            } else {
                next = Some(next.map_or(errand.hedge_at, |at: u64| at.min(errand.hedge_at)));
            }
        }
        self.hedge_at = next;
        late
    }

    /// When [`Self::take_late`] is to be asked next, ms.
    pub fn hedge_at(&self) -> Option<u64> {
        self.hedge_at
    }

    /// The one for a version of that owner.
    pub fn get(&self, owner: &NodeId) -> Option<&Errand> {
        self.of.get(owner)
    }

    /// Whether a version of that owner is to be brought.
    pub fn contains(&self, owner: &NodeId) -> bool {
        self.of.contains_key(owner)
    }

    /// All of them, by owner.
    pub fn iter(&self) -> impl Iterator<Item = (&NodeId, &Errand)> {
        self.of.iter()
    }

    /// All of them, by owner, to be given to somebody.
    pub fn into_all(self) -> impl Iterator<Item = (NodeId, Errand)> {
        self.of.into_iter()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.of.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.of.is_empty()
    }
}

/// A version that a peer is to be brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Errand {
    /// To whom it passes it on; nothing where it is for the peer alone.
    pub stretches: ListMap<Ring, Stretch>,
    /// The version that most likely is the newest there; nothing where it gets the whole record.
    pub base: Option<Fingerprint>,
    /// When others are asked in its place, ms.
    pub hedge_at: u64,
}

impl Errand {
    /// A later version is to be brought in its place, or the same one in the other ring, too. What
    /// was waited for longest goes first.
    pub fn merge(&mut self, later: Self) {
        self.stretches.extend(later.stretches);
        if later.base.is_none() {
            self.base = None;
        }
        self.hedge_at = self.hedge_at.min(later.hedge_at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> NodeId {
        NodeId::new(text).unwrap()
    }

    fn errand(hedge_at: u64) -> Errand {
        let mut stretches = ListMap::new();
        stretches.insert(Ring::Names, Stretch::around(&id("a")));
        Errand { stretches, base: None, hedge_at }
    }

    #[test]
    fn what_is_late_is_found_once_and_what_is_not_waits_for_its_time() {
        let mut errands = Errands::default();
        assert_eq!((errands.hedge_at(), errands.take_late(u64::MAX).len()), (None, 0));
        for (owner, at) in [("b", 50), ("a", 20), ("c", 70)] {
            errands.give(id(owner), errand(at));
        }
        errands.give(id("d"), Errand { stretches: ListMap::new(), ..errand(1) });
        let mut late = |now_ms| -> (Vec<NodeId>, Option<u64>) {
            let late = errands.take_late(now_ms);
            assert!(late.iter().all(|(_, errand)| !errand.stretches.is_empty()));
            (late.into_iter().map(|(owner, _)| owner).collect(), errands.hedge_at())
        };
        assert_eq!(late(19), (vec![], Some(20)), "who goes no further is never late");
        assert_eq!(late(50), (vec![id("a"), id("b")], Some(70)));
        assert_eq!(late(50), (vec![], Some(70)));
        assert_eq!(late(90), (vec![id("c")], None));
        assert_eq!(errands.len(), 4, "the peer alone is brought them still");
        errands.give(id("a"), errand(200));
        assert_eq!(errands.hedge_at(), Some(200), "a later version goes further");
    }
}
