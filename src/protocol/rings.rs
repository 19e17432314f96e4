//! Rings of all nodes: by their names, and by the hashes of their names. A change goes to all of a
//! stretch of each ring, so that what one lets fall the other one brings.

use std::cmp::Ordering;

use super::hash::Sha256;
use super::identity::NodeId;

/// One of the two rings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Ring {
    /// In the order of the bytes of the ids.
    Names = 0,
    /// In the order of [`position`].
    Hashes = 1,
}

impl Ring {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Names, Self::Hashes];

    /// The ring of a number that travels.
    pub fn of(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|ring| *ring as u8 == number)
    }

    /// Where a node is in this ring.
    pub fn spot(self, node_id: &NodeId) -> Spot<'_> {
        match self {
            Self::Names => Spot { position: 0, node_id },
            Self::Hashes => Spot { position: position(node_id), node_id },
        }
    }

    /// The same where the position is known.
    pub fn spot_at(self, position: u64, node_id: &NodeId) -> Spot<'_> {
        let position = if self == Self::Names { 0 } else { position };
        Spot { position, node_id }
    }
}

/// Where a node is in a ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Spot<'a> {
    position: u64,
    node_id: &'a NodeId,
}

/// The first eight bytes of the hash of an id, the highest first.
pub fn position(node_id: &NodeId) -> u64 {
    u64::from_be_bytes(Sha256::new(node_id.as_str().as_bytes()).finish_short())
}

/// All that come behind one node, up to another one and with it; of one node and itself, all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stretch {
    /// It begins behind this node.
    pub after: NodeId,
    /// It ends with this one.
    pub through: NodeId,
}

impl Stretch {
    /// All around, from a node back to itself.
    pub fn around(node_id: &NodeId) -> Self {
        Self { after: node_id.clone(), through: node_id.clone() }
    }

    /// Whether it is the whole ring.
    pub fn is_all(&self) -> bool {
        self.after == self.through
    }

    /// Whether it has the node.
    pub fn has(&self, ring: Ring, node_id: &NodeId) -> bool {
        is_between(ring.spot(&self.after), ring.spot(node_id), ring.spot(&self.through))
    }

    /// Of the given nodes those in it, in the order in which one comes by them from its beginning:
    /// what [`super::peers::PeerTable::walk`] is held against.
    #[cfg(test)]
    pub fn walk<'a>(&self, ring: Ring, all: impl Iterator<Item = &'a NodeId>) -> Vec<&'a NodeId> {
        let (after, through) = (ring.spot(&self.after), ring.spot(&self.through));
        let mut spots: Vec<Spot<'a>> =
            all.map(|id| ring.spot(id)).filter(|spot| is_between(after, *spot, through)).collect();
        // Those behind the end of the ring come after those before it.
        spots.sort_unstable_by_key(|spot| (*spot <= after, *spot));
        spots.into_iter().map(|spot| spot.node_id).collect()
    }
}

/// Whether one comes by a spot behind another one, up to a third and with it.
pub fn is_between(after: Spot<'_>, spot: Spot<'_>, through: Spot<'_>) -> bool {
    match after.cmp(&through) {
        Ordering::Equal => true,
        Ordering::Less => after < spot && spot <= through,
        Ordering::Greater => after < spot || spot <= through,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> NodeId {
        NodeId::new(text).unwrap()
    }

    fn stretch(after: &str, through: &str) -> Stretch {
        Stretch { after: id(after), through: id(through) }
    }

    fn walk(after: &str, through: &str) -> String {
        let all: Vec<NodeId> = ["a", "b", "c", "d", "e"].map(id).into();
        let found = stretch(after, through).walk(Ring::Names, all.iter());
        found.into_iter().map(NodeId::as_str).collect()
    }

    #[test]
    fn a_stretch_begins_behind_a_node_and_ends_with_one() {
        assert_eq!(walk("b", "d"), "cd");
        assert_eq!(walk("d", "b"), "eab", "over the end of the ring");
        assert_eq!(walk("c", "c"), "deabc", "all around");
        assert_eq!(walk("bb", "dd"), "cd", "of nodes that nobody knows, too");
        assert_eq!(walk("e", "a"), "a");
        assert_eq!(walk("b", "bb"), "");
    }

    #[test]
    fn both_rings_have_all_nodes_once() {
        let all: Vec<NodeId> = (0..100).map(|number| id(&format!("n{number}"))).collect();
        for ring in Ring::ALL {
            let walk = Stretch::around(&all[42]).walk(ring, all.iter());
            assert_eq!(walk.len(), 100);
            assert_eq!(walk.last(), Some(&&all[42]), "it is the last that one comes by");
            for cut in [1, 30, 98] {
                let (left, right) = (stretch("n42", walk[cut].as_str()), walk[cut].clone());
                let rest = Stretch { after: right, through: all[42].clone() };
                let both = all.iter().filter(|it| left.has(ring, it) && rest.has(ring, it));
                assert_eq!(both.count(), 0, "cut at {cut}");
                assert!(all.iter().all(|it| left.has(ring, it) || rest.has(ring, it)));
                assert_eq!(left.walk(ring, all.iter()), walk[..=cut]);
            }
        }
        assert_ne!(
            Stretch::around(&all[0]).walk(Ring::Names, all.iter()),
            Stretch::around(&all[0]).walk(Ring::Hashes, all.iter())
        );
    }
}
