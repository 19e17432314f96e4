//! What stands for a version of one node's state: its head, its short name, its place in the order.

use super::TIMESTAMP_MAX;
use super::address::Address;
use super::hash::{Hash, Sha256};
use super::identity::{Incarnation, NodeId, PublicKey};

/// 16 bytes that stand for one version of one node's state under one key.
pub type Fingerprint = [u8; FINGERPRINT_BYTES];

/// Length of a fingerprint, bytes.
pub const FINGERPRINT_BYTES: usize = 16;

/// Where the owner of a version lives. The default says nothing of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Home {
    /// The run of the owner that made the version.
    pub incarnation: Incarnation,
    /// Where others find it, if that is known to it.
    pub address: Option<Address>,
}

/// What an owner signs in place of its entries: whose, when, from where, and a digest of the
/// entries.
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
    /// Where the owner lives.
    pub home: Home,
}

impl Head {
    /// The order of versions of one node: by time; equal times by what they say, so that all
    /// nodes choose the same.
    pub fn is_newer_than(&self, other: &Self) -> bool {
        self.place() > other.place()
    }

    fn place(&self) -> (u64, bool, &Hash, &Home) {
        (self.timestamp, self.left, &self.digest, &self.home)
    }

    /// The bytes as they are signed: length of the id (1 byte), id, timestamp (8 bytes,
    /// little-endian), flags (1 byte: 1 where the owner left), digest, incarnation, length of the
    /// address (2 bytes, little-endian; 0 where there is none), address.
    pub fn bytes(&self) -> Vec<u8> {
        let id = self.node_id.as_str().as_bytes();
        let address = self.home.address.as_ref().map_or("", Address::as_str).as_bytes();
        let mut bytes = Vec::with_capacity(id.len() + address.len() + HEAD_FIXED_BYTES);
        // A node id has at most 64 bytes.
        bytes.push(u8::try_from(id.len()).unwrap_or(u8::MAX));
        bytes.extend_from_slice(id);
        bytes.extend_from_slice(&self.timestamp.to_le_bytes());
        bytes.push(u8::from(self.left));
        bytes.extend_from_slice(&self.digest);
        bytes.extend_from_slice(&self.home.incarnation.0);
        // An address has at most 260 bytes.
        let length = u16::try_from(address.len()).unwrap_or(u16::MAX);
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(address);
        bytes
    }

    /// The short name of this version when `key` signs it.
    pub fn fingerprint(&self, key: &PublicKey) -> Fingerprint {
        Sha256::new(b"dsn/1 version").chain(&key.0).chain(&self.bytes()).finish_short()
    }
}

/// Bytes of a head beside those of the id and of the address.
const HEAD_FIXED_BYTES: usize = 1 + 8 + 1 + 32 + 16 + 2;

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

/// The timestamp of the version that a start makes without writing it: that of `written`, the
/// version on disk, with room between them for all that the run before made without writing it, so
/// that others take it for newer, as a rule. Where they do not, they show what they hold.
///
/// Where no timestamp is left it is that of the version on disk.
pub fn unwritten_timestamp(wall: u64, written: u64) -> u64 {
    next_timestamp(wall, written.saturating_add(UNWRITTEN_ROOM)).unwrap_or(written)
}

/// Most versions that one run makes behind a written one before a later run could meet them.
pub const UNWRITTEN_ROOM: u64 = 1 << 16;

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

    /// Also where the clock was set back since: what a run makes without writing it is above all
    /// that is on disk, and above all that the run before made so.
    #[test]
    fn a_start_is_above_what_is_on_disk() {
        assert_eq!(unwritten_timestamp(1_000_000, 7), 1_000_000);
        assert_eq!(unwritten_timestamp(3, 1_000_000), 1_000_001 + UNWRITTEN_ROOM);
        let before = next_timestamp(3, 1_000_000).unwrap();
        assert!(unwritten_timestamp(3, 1_000_000) > before + 60_000);
        assert_eq!(unwritten_timestamp(3, TIMESTAMP_MAX - 5), TIMESTAMP_MAX - 5, "none is left");
    }

    fn home(incarnation: u8, address: Option<&str>) -> Home {
        let address = address.map(|text| Address::new(text).unwrap());
        Home { incarnation: Incarnation([incarnation; 16]), address }
    }

    #[test]
    fn equal_timestamps_are_ordered_the_same_way_everywhere() {
        let head = |timestamp, left, digest, home| Head {
            node_id: NodeId::new("a").unwrap(),
            timestamp,
            left,
            digest: [digest; 32],
            home,
        };
        let rising = [
            head(4, true, 9, home(9, None)),
            head(5, false, 1, home(9, None)),
            head(5, false, 2, home(7, Some("b:1"))),
            head(5, false, 2, home(8, None)),
            head(5, false, 2, home(8, Some("a:1"))),
            head(5, false, 2, home(8, Some("b:1"))),
            head(5, true, 0, home(0, None)),
        ];
        for (at, older) in rising.iter().enumerate() {
            for (other, newer) in rising.iter().enumerate() {
                assert_eq!(newer.is_newer_than(older), other > at);
            }
        }
    }

    #[test]
    fn a_fingerprint_depends_on_all_of_the_head_and_on_the_key() {
        let head = Head {
            node_id: NodeId::new("a").unwrap(),
            timestamp: 1,
            left: false,
            digest: [0; 32],
            home: home(1, Some("a:1")),
        };
        let others = [
            Head { node_id: NodeId::new("b").unwrap(), ..head.clone() },
            Head { timestamp: 2, ..head.clone() },
            Head { left: true, ..head.clone() },
            Head { digest: [1; 32], ..head.clone() },
            Head { home: home(2, Some("a:1")), ..head.clone() },
            Head { home: home(1, Some("a:2")), ..head.clone() },
            Head { home: home(1, None), ..head.clone() },
        ];
        let key = PublicKey([4; 65]);
        for other in others {
            assert_ne!(head.fingerprint(&key), other.fingerprint(&key), "{other:?}");
        }
        assert_ne!(head.fingerprint(&key), head.fingerprint(&PublicKey([5; 65])));
    }
}
