//! What stands for a version of one node's state: its head, its short name, its place in the order.

use super::TIMESTAMP_MAX;
use super::hash::{Hash, Sha256};
use super::identity::{NodeId, PublicKey};

/// 16 bytes that stand for one version of one node's state under one key.
pub type Fingerprint = [u8; FINGERPRINT_BYTES];

/// Length of a fingerprint, bytes.
pub const FINGERPRINT_BYTES: usize = 16;

/// What an owner signs in place of its entries: whose, when, and a digest of the entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Whose state.
    pub node_id: NodeId,
    /// Its place in the order of versions, microseconds since 1970 if the owner's clock was right.
    pub timestamp: u64,
    /// Whether the owner said goodbye with this version.
    pub left: bool,
    /// Digest of the entries ([`super::entries::Entries::digest`]).
    pub digest: Hash,
}

impl Head {
    /// The order of versions of one node: by time; equal times by what they say, so that all
    /// nodes choose the same.
    pub fn is_newer_than(&self, other: &Self) -> bool {
        (self.timestamp, self.left, self.digest) > (other.timestamp, other.left, other.digest)
    }

    /// The bytes as they are signed: length of the id (1 byte), id, timestamp (8 bytes,
    /// little-endian), flags (1 byte: 1 where the owner left), digest.
    pub fn bytes(&self) -> Vec<u8> {
        let id = self.node_id.as_str().as_bytes();
        let mut bytes = Vec::with_capacity(id.len() + 42);
        // A node id has at most 64 bytes.
        bytes.push(u8::try_from(id.len()).unwrap_or(u8::MAX));
        bytes.extend_from_slice(id);
        bytes.extend_from_slice(&self.timestamp.to_le_bytes());
        bytes.push(u8::from(self.left));
        bytes.extend_from_slice(&self.digest);
        bytes
    }

    /// The short name of this version when `key` signs it.
    pub fn fingerprint(&self, key: &PublicKey) -> Fingerprint {
        Sha256::new(b"dsn/1 version").chain(&key.0).chain(&self.bytes()).finish_short()
    }
}

/// Which version of a record is held: all zero where there is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Version {
    /// Its timestamp.
    pub timestamp: u64,
    /// Its fingerprint.
    pub fingerprint: Fingerprint,
}

/// The timestamp of the next version: the wall clock where it is ahead of what was issued, else
/// one more than that. A host without a clock chip believes in 1970 after a reboot, and its
/// changes must win all the same.
///
/// `wall` and `last` are microseconds since 1970; `None` when no timestamp is left (year 2255).
pub fn next_timestamp(wall: u64, last: u64) -> Option<u64> {
    let believable = if wall <= WALL_CLOCK_MAX { wall } else { 0 };
    let next = believable.max(last.saturating_add(1));
    (next <= TIMESTAMP_MAX).then_some(next)
}

/// A wall clock beyond this (in the year 2219) is not believed: it would use up the timestamps.
const WALL_CLOCK_MAX: u64 = TIMESTAMP_MAX - (1 << 50);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_goes_back_does_not_take_the_timestamp_with_it() {
        assert_eq!(next_timestamp(100, 7), Some(100));
        assert_eq!(next_timestamp(3, 7), Some(8));
        assert_eq!(next_timestamp(7, 7), Some(8));
        assert_eq!(next_timestamp(u64::MAX, 7), Some(8));
        assert_eq!(next_timestamp(0, TIMESTAMP_MAX), None);
        assert_eq!(next_timestamp(WALL_CLOCK_MAX, 7), Some(WALL_CLOCK_MAX));
        assert_eq!(next_timestamp(WALL_CLOCK_MAX + 1, 7), Some(8));
    }

    #[test]
    fn equal_timestamps_are_ordered_the_same_way_everywhere() {
        let head = |timestamp, left, digest| Head {
            node_id: NodeId::new("a").unwrap(),
            timestamp,
            left,
            digest: [digest; 32],
        };
        let rising = [head(4, true, 9), head(5, false, 1), head(5, false, 2), head(5, true, 0)];
        for (at, older) in rising.iter().enumerate() {
            for (other, newer) in rising.iter().enumerate() {
                assert_eq!(newer.is_newer_than(older), other > at);
            }
        }
    }

    #[test]
    fn a_fingerprint_depends_on_all_of_the_head_and_on_the_key() {
        let of = |id: &str, timestamp, left, digest, key| {
            let node_id = NodeId::new(id).unwrap();
            Head { node_id, timestamp, left, digest: [digest; 32] }
                .fingerprint(&PublicKey([key; 65]))
        };
        let base = of("a", 1, false, 0, 4);
        for other in [
            of("b", 1, false, 0, 4),
            of("a", 2, false, 0, 4),
            of("a", 1, true, 0, 4),
            of("a", 1, false, 1, 4),
            of("a", 1, false, 0, 5),
        ] {
            assert_ne!(base, other);
        }
    }
}
