//! The peer table: all other nodes by id, and who has to go when it is full.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use super::address::Address;
use super::flight::Call;
use super::identity::NodeId;
use super::peer::{Peer, Trust};
use super::report::PeerStatus;
use super::rings::{Ring, Stretch, is_between, position};
use super::{PEERS_MAX, RETENTION_MS};
use crate::order::Gather;

/// How long a node that was never reached has to be known and heard until it goes after those that
/// only passed by, ms.
const SETTLED_MS: u64 = 10 * 60 * 1000;

/// Who has to go for a newcomer.
#[derive(Debug, PartialEq, Eq)]
pub enum Room {
    /// Nobody.
    Free,
    /// This one.
    Instead(NodeId),
}

/// All other nodes by id, at most [`PEERS_MAX`].
///
/// Of a thousand only a few ever have something due. So those that nothing is due to until they are
/// changed are laid to rest, and what is done at each wake is done for the others alone. Whoever
/// gets hold of a peer to change it wakes it: nobody can forget to.
#[derive(Debug, Default)]
pub struct PeerTable {
    /// The peers. Who comes takes the first free slot.
    slots: Vec<Option<Box<Peer>>>,
    /// In which slot each is.
    slot_of: BTreeMap<NodeId, usize>,
    /// Those that do not rest, so that a wake looks nobody up by its name.
    awake: BTreeMap<NodeId, usize>,
    /// All by their place on the ring, in its order.
    ring: Vec<(u64, NodeId, usize)>,
}

impl PeerTable {
    fn at(&self, slot: usize) -> Option<&Peer> {
        self.slots.get(slot)?.as_deref()
    }

    /// The peer of that name.
    pub fn get(&self, node_id: &NodeId) -> Option<&Peer> {
        self.at(*self.slot_of.get(node_id)?)
    }

    /// The peer of that name, to change: it is awake from now on.
    pub fn get_mut(&mut self, node_id: &NodeId) -> Option<&mut Peer> {
        let slot = *self.slot_of.get(node_id)?;
        let peer = self.slots.get_mut(slot)?.as_mut()?;
        if !std::mem::replace(&mut peer.is_awake, true) {
            self.awake.insert(node_id.clone(), slot);
        }
        Some(peer)
    }

    /// All of them in the order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = (&NodeId, &Peer)> {
        self.slot_of.iter().filter_map(|(node_id, slot)| Some((node_id, self.at(*slot)?)))
    }

    /// Changes all of them, in the order of their ids: all are awake from now on.
    pub fn change_all(&mut self, change: impl FnMut(&NodeId, &mut Peer)) {
        self.wake_all();
        self.change_awake(change);
    }

    /// Those that do not rest, in the order of their ids.
    pub fn awake(&self) -> impl Iterator<Item = (&NodeId, &Peer)> {
        self.awake.iter().filter_map(|(node_id, slot)| Some((node_id, self.at(*slot)?)))
    }

    /// The ids of those that do not rest.
    pub fn awake_ids(&self) -> Vec<NodeId> {
        self.awake.keys().cloned().collect()
    }

    /// Changes those that do not rest, in the order of their ids.
    pub fn change_awake(&mut self, mut change: impl FnMut(&NodeId, &mut Peer)) {
        for (node_id, slot) in &self.awake {
            if let Some(peer) = self.slots.get_mut(*slot).and_then(Option::as_mut) {
                change(node_id, peer);
            }
        }
    }

    /// How many rest.
    pub fn resting(&self) -> usize {
        self.slot_of.len() - self.awake.len()
    }

    /// Something that concerns all of them changed.
    pub fn wake_all(&mut self) {
        if self.resting() > 0 {
            self.slots.iter_mut().flatten().for_each(|peer| peer.is_awake = true);
            self.awake.clone_from(&self.slot_of);
        }
    }

    /// From now on these rest.
    pub fn lay_to_rest(&mut self, nodes: &[NodeId]) {
        for node_id in nodes {
            let slot = self.awake.remove(node_id);
            if let Some(peer) = slot.and_then(|slot| self.slots.get_mut(slot)?.as_mut()) {
                peer.is_awake = false;
            }
        }
    }

    /// All of them with their places, in the order in which one comes by them behind a place on the
    /// ring.
    pub fn behind(&self, place: u64) -> impl Iterator<Item = (u64, &NodeId, &Peer)> {
        let first = self.ring.partition_point(|(at, ..)| *at <= place);
        let (before, behind) = self.ring.split_at(first);
        let all = behind.iter().chain(before);
        all.filter_map(|(at, node_id, slot)| Some((*at, node_id, self.at(*slot)?)))
    }

    /// Those of a stretch of a ring, in the order in which one comes by them from its beginning.
    /// It takes as long as the stretch, not as all that are known.
    pub fn walk<'a>(
        &'a self,
        ring: Ring,
        stretch: &'a Stretch,
    ) -> impl Iterator<Item = (&'a NodeId, &'a Peer)> {
        let (after, through) = (ring.spot(&stretch.after), ring.spot(&stretch.through));
        let all: Box<dyn Iterator<Item = (&NodeId, &usize)>> = match ring {
            Ring::Names => {
                let behind = (Bound::Excluded(&stretch.after), Bound::Unbounded);
                Box::new(self.slot_of.range(behind).chain(self.slot_of.range(..=&stretch.after)))
            }
            Ring::Hashes => {
                let is_before =
                    |(at, node_id, _): &(u64, NodeId, _)| ring.spot_at(*at, node_id) <= after;
                let (before, behind) = self.ring.split_at(self.ring.partition_point(is_before));
                let all = behind.iter().chain(before);
                Box::new(all.map(|(_, node_id, slot)| (node_id, slot)))
            }
        };
        let all = all.filter_map(|(node_id, slot)| Some((node_id, self.at(*slot)?)));
        let spot = move |node_id, peer: &Peer| ring.spot_at(peer.ring, node_id);
        all.take_while(move |(node_id, peer)| is_between(after, spot(node_id, peer), through))
    }

    /// Their ids.
    pub fn ids(&self) -> Vec<NodeId> {
        self.slot_of.keys().cloned().collect()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.slot_of.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.slot_of.is_empty()
    }

    /// Whether one more can come in for the given trust, and who has to go for it. Hearsay pushes
    /// nobody out. Others push out who was never reached: hearsay first, and the one that is known
    /// for longest, but those last that have called for so long that they are no passers-by, as
    /// one that nobody can call does; then who was lost for so long that its state is dropped. Who
    /// was reached in that time stays.
    pub fn room_for(&self, trust: Trust, now_ms: u64) -> Option<Room> {
        if self.len() < PEERS_MAX {
            return Some(Room::Free);
        }
        if trust == Trust::Hearsay {
            return None;
        }
        let goes = |peer: &Peer| {
            let never_reached = peer.place.proved().is_none();
            let is_gone = matches!(peer.status, PeerStatus::Lost | PeerStatus::Left)
                && peer.silence(now_ms) > RETENTION_MS;
            let known_ms = now_ms.saturating_sub(peer.known_since);
            let has_settled = peer.status == PeerStatus::Alive && known_ms > SETTLED_MS;
            match (never_reached, peer.direct_key()) {
                (true, None) => Some((3, known_ms)),
                (true, Some(_)) if !has_settled => Some((2, known_ms)),
                (true, Some(_)) => Some((1, u64::MAX - known_ms)),
                (false, _) => is_gone.then(|| (0, peer.silence(now_ms))),
            }
        };
        let ranked = self.iter().filter_map(|(node_id, peer)| Some((goes(peer)?, node_id)));
        ranked.max_by_key(|(rank, _)| *rank).map(|(_, node_id)| Room::Instead(node_id.clone()))
    }

    /// Takes a new peer; the caller has made room.
    pub fn insert(&mut self, node_id: NodeId, mut peer: Peer) {
        debug_assert!(self.len() < PEERS_MAX, "room was made");
        self.remove(&node_id);
        peer.ring = position(&node_id);
        peer.is_awake = true;
        let free = self.slots.iter().position(Option::is_none);
        let slot = free.unwrap_or(self.slots.len());
        let spot = (peer.ring, node_id.clone(), slot);
        if let Err(place) = self.ring.binary_search(&spot) {
            self.ring.insert(place, spot);
        }
        match self.slots.get_mut(slot) {
            Some(free) => *free = Some(Box::new(peer)),
            None => self.slots.push(Some(Box::new(peer))),
        }
        self.awake.insert(node_id.clone(), slot);
        self.slot_of.insert(node_id, slot);
    }

    /// Drops a peer.
    pub fn remove(&mut self, node_id: &NodeId) -> Option<Peer> {
        let slot = self.slot_of.remove(node_id)?;
        let peer = self.slots.get_mut(slot)?.take()?;
        self.awake.remove(node_id);
        if let Ok(place) = self.ring.binary_search(&(peer.ring, node_id.clone(), slot)) {
            self.ring.remove(place);
        }
        Some(*peer)
    }

    /// Whether an address belongs to a node that answers there, or is just being tried, so that it
    /// is not tried for another one: one address is one node. Whoever waits for a try of it is none
    /// of these.
    pub fn is_taken(&self, address: &Address) -> bool {
        self.slots.iter().flatten().any(|peer| taken_by(peer).any(|taken| taken == address))
    }

    /// All addresses of which that is true.
    pub fn taken(&self) -> BTreeSet<Address> {
        self.slots.iter().flatten().flat_map(|peer| taken_by(peer)).cloned().gathered()
    }
}

/// Where a peer lives, and where it is being tried.
fn taken_by(peer: &Peer) -> impl Iterator<Item = &Address> {
    let lives = peer.place.proved().filter(|_| peer.status == PeerStatus::Alive);
    let tried = match peer.flight.as_ref().and_then(|flight| flight.call.as_ref()) {
        Some(Call::Hello { address }) => Some(address),
        _ => None,
    };
    lives.into_iter().chain(tried)
}

#[cfg(test)]
mod tests {
    use super::super::flight::{Class, Flight};
    use super::super::identity::PublicKey;
    use super::super::peer::Pin;
    use super::super::whereabouts::Whereabouts;
    use super::*;

    fn id(number: usize) -> NodeId {
        NodeId::new(&format!("n{number}")).unwrap()
    }

    fn full(peer: impl Fn(usize) -> Peer) -> PeerTable {
        let mut table = PeerTable::default();
        for number in 0..PEERS_MAX {
            table.insert(id(number), peer(number));
        }
        table
    }

    fn reached(now_ms: u64) -> Peer {
        let mut peer = Peer::new(now_ms);
        peer.pin = Some(Pin { key: PublicKey([4; 65]), trust: Trust::Direct });
        peer.place.prove_address(&Address::new("10.0.0.1:8000").unwrap());
        peer
    }

    fn unreached(now_ms: u64) -> Peer {
        Peer { place: Whereabouts::default(), ..reached(now_ms) }
    }

    #[test]
    fn hearsay_pushes_nobody_out() {
        let table = full(|_| Peer::new(0));
        assert_eq!(table.room_for(Trust::Hearsay, 1_000), None);
        assert!(table.room_for(Trust::Direct, 1_000).is_some());
    }

    #[test]
    fn who_was_never_reached_goes_first_hearsay_before_others_the_oldest_before_newer_ones() {
        let gone = |number| match number {
            3 => Peer::new(50),
            5 => Peer::new(40),
            7 | 9 => unreached(number as u64),
            _ => reached(0),
        };
        let mut table = full(gone);
        for goes in [5, 3, 7, 9] {
            assert_eq!(table.room_for(Trust::Direct, 1_000), Some(Room::Instead(id(goes))));
            table.remove(&id(goes));
            assert_eq!(table.room_for(Trust::Hearsay, 1_000), Some(Room::Free));
            table.insert(id(goes), reached(1_000));
        }
        assert_eq!(table.room_for(Trust::Direct, 1_000), None, "all were reached");
    }

    #[test]
    fn one_that_nobody_can_call_stays_while_others_pass_by() {
        let alive = |now_ms| Peer { status: PeerStatus::Alive, ..unreached(now_ms) };
        let long = SETTLED_MS + 2;
        let mut table = full(|number| match number {
            3 => alive(0),
            4 => alive(1),
            5 => unreached(0),
            6 => alive(long - 5),
            _ => reached(0),
        });
        for goes in [5, 6, 4, 3] {
            assert_eq!(table.room_for(Trust::Direct, long), Some(Room::Instead(id(goes))));
            table.remove(&id(goes));
            table.insert(id(goes), reached(0));
        }
    }

    #[test]
    fn who_was_reached_goes_only_when_its_state_is_dropped() {
        let mut table = full(|_| reached(0));
        let lost = table.get_mut(&id(8)).unwrap();
        lost.status = PeerStatus::Lost;
        lost.heard_at = Some(1_000);
        assert_eq!(table.room_for(Trust::Direct, 1_000 + RETENTION_MS), None);
        let later = 1_001 + RETENTION_MS;
        assert_eq!(table.room_for(Trust::Direct, later), Some(Room::Instead(id(8))));
    }

    #[test]
    fn an_address_where_somebody_lives_is_not_tried_for_another() {
        let mut table = PeerTable::default();
        let address = Address::new("10.0.0.1:8000").unwrap();
        table.insert(id(1), Peer { status: PeerStatus::Alive, ..reached(0) });
        let is_taken = |table: &PeerTable| {
            assert_eq!(table.is_taken(&address), table.taken().contains(&address));
            table.is_taken(&address)
        };
        assert!(is_taken(&table));
        table.get_mut(&id(1)).unwrap().status = PeerStatus::Lost;
        assert!(!is_taken(&table), "it may have another name now");
        let call = Some(Call::Hello { address: address.clone() });
        table.get_mut(&id(1)).unwrap().flight =
            Some(Flight { id: 1, call, address: None, tries: 1, began: 0, class: Class::Healthy });
        assert!(is_taken(&table), "it is being tried");
    }

    #[test]
    fn who_gets_hold_of_a_peer_wakes_it() {
        let mut table = full(|_| reached(0));
        let awake = |table: &PeerTable| table.awake().count();
        assert_eq!((awake(&table), table.resting()), (PEERS_MAX, 0), "who is new is awake");
        table.lay_to_rest(&table.ids());
        assert_eq!((awake(&table), table.resting()), (0, PEERS_MAX));
        assert!(table.get(&id(3)).is_some() && table.iter().count() == PEERS_MAX);
        assert_eq!(awake(&table), 0, "whoever only looks wakes nobody");
        table.get_mut(&id(3)).unwrap().upkeep += 1;
        table.get_mut(&id(3)).unwrap().upkeep += 1;
        let ids = table.awake_ids();
        assert_eq!(ids, [id(3)]);
        table.change_awake(|node_id, peer| assert!(*node_id == id(3) && peer.upkeep == 2));
        assert!(table.remove(&id(3)).is_some() && awake(&table) == 0);
        let mut changed = 0;
        table.change_all(|_, _| changed += 1);
        assert_eq!((changed, table.resting()), (PEERS_MAX - 1, 0), "all may have been changed");
    }

    #[test]
    fn a_walk_through_a_stretch_comes_by_those_in_it_alone_and_in_their_order() {
        let mut table = PeerTable::default();
        for number in 0..60 {
            table.insert(id(number), reached(0));
        }
        for number in [7, 20, 59] {
            table.remove(&id(number));
        }
        // Ends that are known, and some that are not.
        let ends = || (0..64).step_by(3).chain([7, 20, 59]).map(id);
        for (after, through) in ends().flat_map(|after| ends().map(move |it| (after.clone(), it))) {
            let stretch = Stretch { after, through };
            for ring in Ring::ALL {
                let walked: Vec<&NodeId> = table.walk(ring, &stretch).map(|(id, _)| id).collect();
                assert_eq!(
                    walked,
                    stretch.walk(ring, table.slot_of.keys()),
                    "{ring:?} {stretch:?}"
                );
            }
        }
    }

    #[test]
    fn one_comes_by_all_behind_a_place_in_the_order_of_the_ring() {
        let mut table = PeerTable::default();
        for number in 0..50 {
            table.insert(id(number), reached(0));
        }
        table.remove(&id(7));
        let own = position(&id(7));
        let behind: Vec<u64> =
            table.behind(own).map(|(place, ..)| place.wrapping_sub(own)).collect();
        assert!(behind.len() == 49 && behind.is_sorted());
    }
}
