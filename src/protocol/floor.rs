//! What was dropped of a node: older versions under the same key never come back.

use super::identity::PublicKey;
use super::record::{Record, SignedHead};

/// Most keys of one node of which the last version is remembered. All but the one that is believed
/// come back by their owner's HELLO alone, and only one of them is the owner's; those that were
/// there first stay, so that whoever makes up more can't push that one out.
const FLOORS_MAX: usize = 4;

/// The last versions that were held of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Floor(Vec<Dropped>);

/// The last version under one key.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Dropped {
    key: PublicKey,
    /// It proves to its owner how far it had come.
    held: SignedHead,
    /// Whether that version itself is not taken either, until its owner was heard.
    is_expired: bool,
}

impl Floor {
    /// Whether a version may be taken.
    pub fn lets(&self, key: &PublicKey, timestamp: u64) -> bool {
        self.of(key).is_none_or(|floor| {
            let last = floor.held.head.timestamp;
            timestamp > last || timestamp == last && !floor.is_expired
        })
    }

    /// Whether a version is no later than one that was held here.
    pub fn was_held(&self, record: &Record) -> bool {
        let proof = self.proof_for(&record.public_key);
        proof.is_some_and(|held| record.head.timestamp <= held.head.timestamp)
    }

    /// What proves to the owner of this key how far it had come.
    pub fn proof_for(&self, key: &PublicKey) -> Option<&SignedHead> {
        self.of(key).map(|floor| &floor.held)
    }

    fn of(&self, key: &PublicKey) -> Option<&Dropped> {
        self.0.iter().find(|floor| floor.key == *key)
    }

    /// A record was dropped.
    pub fn raise(&mut self, record: &Record) {
        let dropped =
            Dropped { key: record.public_key, held: record.signed_head(), is_expired: false };
        match self.0.iter_mut().find(|floor| floor.key == dropped.key) {
            Some(floor) if floor.held.head.timestamp <= dropped.held.head.timestamp => {
                *floor = dropped;
            }
            Some(_) => {}
            None => {
                self.0.truncate(FLOORS_MAX - 1);
                self.0.push(dropped);
            }
        }
    }

    /// The version that was dropped under this key was too old.
    pub fn expire(&mut self, key: &PublicKey) {
        if let Some(floor) = self.0.iter_mut().find(|floor| floor.key == *key) {
            floor.is_expired = true;
        }
    }

    /// The owner was heard: what was dropped for its age is good again when it brings it.
    pub fn revive(&mut self) {
        for floor in &mut self.0 {
            floor.is_expired = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::protocol::identity::NodeId;
    use crate::protocol::record::Draft;

    fn record(key: u8, timestamp: u64) -> Record {
        let draft = Draft::new(NodeId::new("a").unwrap(), timestamp, false, Arc::default());
        Record::new(draft, PublicKey([key; 65]), [0; 64])
    }

    #[test]
    fn what_was_dropped_does_not_come_back() {
        let (key, other) = (PublicKey([4; 65]), PublicKey([5; 65]));
        let mut floor = Floor::default();
        assert!(floor.lets(&key, 1) && floor.proof_for(&key).is_none());
        floor.raise(&record(4, 5));
        assert!(!floor.lets(&key, 4) && floor.lets(&key, 5) && floor.lets(&key, 6));
        assert!(floor.lets(&other, 1), "another owner, another order");
        assert!(floor.was_held(&record(4, 5)) && !floor.was_held(&record(4, 6)));
        assert!(!floor.was_held(&record(5, 1)));
        floor.expire(&key);
        assert!(!floor.lets(&key, 4) && !floor.lets(&key, 5) && floor.lets(&key, 6));
        floor.revive();
        assert!(!floor.lets(&key, 4) && floor.lets(&key, 5));
        floor.raise(&record(4, 3));
        assert!(!floor.lets(&key, 4), "it never sinks");
        floor.raise(&record(4, 8));
        assert_eq!(floor.proof_for(&key).unwrap().head.timestamp, 8);
    }

    #[test]
    fn keys_that_were_there_first_are_remembered_whatever_comes_later() {
        let mut floor = Floor::default();
        for key in 1..20 {
            floor.raise(&record(key, 100));
            assert!(floor.0.len() <= FLOORS_MAX);
            assert!(!floor.lets(&PublicKey([key; 65]), 99), "the last one always is");
        }
        for key in 1..4 {
            assert!(!floor.lets(&PublicKey([key; 65]), 99), "{key}");
        }
        assert!(floor.lets(&PublicKey([10; 65]), 99));
    }
}
