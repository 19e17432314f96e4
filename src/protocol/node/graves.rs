//! What is remembered of nodes that were taken out of the table: by an operator, or because there
//! was no room. Without it, bytes that were recorded before would be good again.

use std::collections::BTreeMap;

use crate::order;
use crate::protocol::address::Address;
use crate::protocol::floor::Floor;
use crate::protocol::identity::NodeId;
use crate::protocol::pace::{Pace, Wait};
use crate::protocol::peer::{Peer, Pin, Trust};
use crate::protocol::{PEERS_MAX, RETENTION_MS};

/// Most graves. Where there would be one more, this run begins anew in the eyes of the others, so
/// that whoever makes up ids can't make it forget one of them.
const GRAVES_MAX: usize = 4 * PEERS_MAX;
/// Most nodes that stay forgotten: as many as can be known. The oldest comes back first.
const FORGOTTEN_MAX: usize = PEERS_MAX;

/// Most keys that were proved, of nodes that had to make room, that are remembered even then. Those
/// that were taken out first stay, so that whoever makes up more can't push them out.
const KEPT_MAX: usize = PEERS_MAX;

/// Longest time between knocks at one forgotten node, ms.
const KNOCK_MAX_MS: u64 = 60_000;

/// What is remembered of one node.
#[derive(Debug, Clone, Default)]
pub(super) struct Grave {
    /// How often it was taken out in this incarnation of ours.
    pub(super) removals: u32,
    /// Versions that do not come back.
    pub(super) floor: Floor,
    /// The key that it was known by; an operator who has it forgotten unpins it.
    pub(super) pin: Option<Pin>,
    /// Its place in the order in which they were dug.
    number: u64,
    /// When an operator had it forgotten, ms.
    pub(super) forgotten_at: Option<u64>,
    /// Where a forgotten node may be. Two halves of a network may have forgotten each other:
    /// somebody has to knock.
    pub(super) address: Option<Address>,
    /// When to knock there again.
    knock: Pace,
}

/// All graves by id.
#[derive(Debug, Default)]
pub(super) struct Graves {
    all: BTreeMap<NodeId, Grave>,
    dug: u64,
}

impl Graves {
    /// Remembers a peer that was taken out. Says whether there was room.
    pub(super) fn dig(&mut self, node_id: &NodeId, peer: &Peer) -> bool {
        let (removals, floor, pin) = (peer.removals + 1, peer.floor.clone(), peer.pin);
        self.dug += 1;
        let grave = Grave { removals, floor, pin, number: self.dug, ..Grave::default() };
        self.all.insert(node_id.clone(), grave);
        self.all.len() <= GRAVES_MAX
    }

    /// An operator had it forgotten.
    pub(super) fn forget(&mut self, node_id: NodeId, address: Option<Address>, now_ms: u64) {
        let grave = self.all.entry(node_id).or_default();
        grave.address = address.or(grave.address.take());
        grave.forgotten_at = Some(now_ms);
        grave.pin = None;
        let forgotten = self.all.iter().filter(|(_, grave)| grave.forgotten_at.is_some());
        if forgotten.clone().count() > FORGOTTEN_MAX {
            let oldest = forgotten.min_by_key(|(_, grave)| grave.forgotten_at);
            if let Some(oldest) = oldest.map(|(node_id, _)| node_id.clone())
                && let Some(grave) = self.all.get_mut(&oldest)
            {
                grave.forgotten_at = None;
            }
        }
    }

    /// Whether an operator had it forgotten, and it has not come back by itself.
    pub(super) fn is_forgotten(&self, node_id: &NodeId) -> bool {
        self.all.get(node_id).is_some_and(|grave| grave.forgotten_at.is_some())
    }

    /// Whether it was taken out.
    pub(super) fn is_known(&self, node_id: &NodeId) -> bool {
        self.all.contains_key(node_id)
    }

    /// What is remembered of a node.
    pub(super) fn get(&self, node_id: &NodeId) -> Option<&Grave> {
        self.all.get(node_id)
    }

    /// It comes back: what is remembered of it goes with it.
    pub(super) fn take(&mut self, node_id: &NodeId) -> Option<Grave> {
        self.all.remove(node_id)
    }

    /// Those that an operator had forgotten.
    pub(super) fn forgotten(&self) -> impl Iterator<Item = (&NodeId, &Grave)> {
        self.all.iter().filter(|(_, grave)| grave.forgotten_at.is_some())
    }

    /// Somebody says where a forgotten node is.
    pub(super) fn hint(&mut self, node_id: &NodeId, address: &Address) {
        if let Some(grave) = self.all.get_mut(node_id) {
            grave.address = Some(address.clone());
        }
    }

    /// Where to knock now, if anywhere; the next time it is another place.
    pub(super) fn next_knock(&mut self, wait: Wait) -> Option<Address> {
        let due = self.all.values_mut().filter(|grave| {
            grave.forgotten_at.is_some()
                && grave.address.is_some()
                && grave.knock.is_due(wait.now_ms)
        });
        let grave = due.min_by_key(|grave| grave.knock.fruitless())?;
        grave.knock.came_to_nothing(wait, KNOCK_MAX_MS);
        grave.address.clone()
    }

    /// Drops all but those that an operator had forgotten, and the first with a proved key.
    pub(super) fn clear(&mut self) {
        let is_proved = |grave: &Grave| grave.pin.is_some_and(|pin| pin.trust == Trust::Direct);
        let proved = self.all.values().filter(|grave| is_proved(grave));
        let mut numbers: Vec<u64> = proved.map(|grave| grave.number).collect();
        order::sort(&mut numbers);
        let last = numbers.get(KEPT_MAX - 1).copied().unwrap_or(u64::MAX);
        self.all.retain(|_, grave| {
            grave.forgotten_at.is_some() || is_proved(grave) && grave.number <= last
        });
        for grave in self.all.values_mut() {
            grave.removals = 0;
        }
    }

    /// What an operator had forgotten long ago may come back through others. Says whether one may.
    pub(super) fn age(&mut self, now_ms: u64) -> bool {
        let mut aged = false;
        for grave in self.all.values_mut() {
            let over = |at: &mut u64| now_ms.saturating_sub(*at) > RETENTION_MS;
            aged |= grave.forgotten_at.take_if(over).is_some();
        }
        aged
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: usize) -> NodeId {
        NodeId::new(&format!("n{number}")).unwrap()
    }

    #[test]
    fn graves_are_bounded_and_what_is_forgotten_stays() {
        let mut graves = Graves::default();
        graves.forget(id(0), None, 1);
        assert!((1..GRAVES_MAX).all(|number| graves.dig(&id(number), &Peer::new(0))));
        assert!(!graves.dig(&id(GRAVES_MAX), &Peer::new(0)), "one too many");
        graves.clear();
        assert!(graves.is_forgotten(&id(0)) && !graves.is_known(&id(1)));
    }

    #[test]
    fn whoever_makes_up_nodes_does_not_push_out_a_key_that_was_proved_before() {
        let pin = Pin { key: crate::protocol::identity::PublicKey([4; 65]), trust: Trust::Direct };
        let proved = || Peer { pin: Some(pin), ..Peer::new(0) };
        let mut graves = Graves::default();
        for number in 0..3 * GRAVES_MAX {
            if !graves.dig(&id(number), &proved()) {
                graves.clear();
                assert_eq!(graves.all.len(), KEPT_MAX);
            }
        }
        for number in 0..KEPT_MAX {
            assert_eq!(graves.get(&id(number)).unwrap().pin, Some(pin));
            assert_eq!(graves.get(&id(number)).unwrap().removals, 0);
        }
    }

    #[test]
    fn the_oldest_forgotten_node_may_come_back_first() {
        let mut graves = Graves::default();
        for number in 0..=FORGOTTEN_MAX {
            graves.forget(id(number), None, number as u64);
        }
        assert!(!graves.is_forgotten(&id(0)) && graves.is_forgotten(&id(1)));
        assert!(graves.is_known(&id(0)), "what it said before is still worth nothing");
        assert_eq!(graves.forgotten().count(), FORGOTTEN_MAX);
    }

    #[test]
    fn who_is_taken_out_again_and_again_is_counted() {
        let mut graves = Graves::default();
        for removals in 1..4 {
            let peer = Peer { removals: removals - 1, ..Peer::new(0) };
            assert!(graves.dig(&id(1), &peer));
            assert_eq!(graves.take(&id(1)).unwrap().removals, removals);
        }
    }

    #[test]
    fn what_was_forgotten_long_ago_is_no_longer() {
        let mut graves = Graves::default();
        graves.forget(id(1), None, 5);
        assert!(!graves.age(5 + RETENTION_MS) && graves.is_forgotten(&id(1)));
        assert!(graves.age(6 + RETENTION_MS) && !graves.is_forgotten(&id(1)));
    }
}
