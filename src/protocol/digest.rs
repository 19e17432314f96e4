//! The digest that an owner signs in place of all its entries: the root of a small hash tree.
//!
//! Keys fall into 256 buckets by the first byte of their hash, buckets into 16 groups. One changed
//! entry changes one leaf, one bucket, one group and the root, so both sides can work out the
//! digest of a changed state without hashing all of it again.

use super::crypto::Sha256;
use super::state::{Entries, Fingerprint, Head, Key, Value};

/// The root over all entries, SHA-256.
pub fn entries_digest(entries: &Entries) -> [u8; 32] {
    let mut leaves: Vec<(u8, [u8; 32])> =
        entries.iter().map(|(key, value)| (bucket_of(key), leaf(key, value))).collect();
    // Stable: within a bucket the leaves stay in the order of their keys.
    leaves.sort_by_key(|(bucket, _)| *bucket);
    let buckets = leaves.chunk_by(|left, right| left.0 == right.0).map(|bucket| {
        let index = bucket.first().map_or(0, |(index, _)| *index);
        (index, node(BUCKET, bucket.iter().map(|(_, hash)| (None, hash))))
    });
    let buckets: Vec<(u8, [u8; 32])> = buckets.collect();
    let groups = buckets.chunk_by(|left, right| left.0 >> 4 == right.0 >> 4).map(|group| {
        let index = group.first().map_or(0, |(index, _)| index >> 4);
        (index, node(GROUP, group.iter().map(|(index, hash)| (Some(index & 15), hash))))
    });
    let groups: Vec<(u8, [u8; 32])> = groups.collect();
    node(ROOT, groups.iter().map(|(index, hash)| (Some(*index), hash)))
}

/// The short name of a version: the first 16 bytes of a hash over its head.
pub fn fingerprint(head: &Head) -> Fingerprint {
    let hash = Sha256::new(b"dsn/1 version").chain(&head_bytes(head)).finish();
    let mut fingerprint = Fingerprint::default();
    fingerprint.copy_from_slice(hash.split_at(16).0);
    fingerprint
}

/// The bytes of a head as they are signed: length of the id (1 byte), id, timestamp (8 bytes,
/// little-endian), flags (1 byte: 1 where the owner left), digest.
pub fn head_bytes(head: &Head) -> Vec<u8> {
    let id = head.node_id.as_str().as_bytes();
    let mut bytes = Vec::with_capacity(id.len() + 42);
    // A node id has at most 64 bytes.
    bytes.push(u8::try_from(id.len()).unwrap_or(u8::MAX));
    bytes.extend_from_slice(id);
    bytes.extend_from_slice(&head.timestamp.to_le_bytes());
    bytes.push(u8::from(head.left));
    bytes.extend_from_slice(&head.digest);
    bytes
}

const LEAF: u8 = 0;
const BUCKET: u8 = 1;
const GROUP: u8 = 2;
const ROOT: u8 = 3;

fn bucket_of(key: &Key) -> u8 {
    let [first, ..] = Sha256::new(key.as_str().as_bytes()).finish();
    first
}

fn leaf(key: &Key, value: &Value) -> [u8; 32] {
    let key = key.as_str().as_bytes();
    // A key has at most 256 bytes.
    let length = u16::try_from(key.len()).unwrap_or(u16::MAX).to_le_bytes();
    Sha256::new(&[LEAF]).chain(&length).chain(key).chain(value.as_bytes()).finish()
}

fn node<'a>(kind: u8, children: impl Iterator<Item = (Option<u8>, &'a [u8; 32])>) -> [u8; 32] {
    let hash = children.fold(Sha256::new(&[kind]), |hash, (index, child)| match index {
        Some(index) => hash.chain(&[index]).chain(child),
        None => hash.chain(child),
    });
    hash.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::identity::{NodeId, hex};

    fn entries(pairs: &[(&str, &str)]) -> Entries {
        let typed = |(key, value): &(&str, &str)| {
            (Key::new(key).unwrap(), Value::new(value.as_bytes()).unwrap())
        };
        pairs.iter().map(typed).collect()
    }

    #[test]
    fn every_difference_shows() {
        let all = [
            entries(&[]),
            entries(&[("a", "")]),
            entries(&[("a", "b")]),
            entries(&[("ab", "")]),
            entries(&[("a", ""), ("b", "")]),
            entries(&[("a", "b"), ("b", "a")]),
        ];
        for (at, left) in all.iter().enumerate() {
            for right in &all[at + 1..] {
                assert_ne!(entries_digest(left), entries_digest(right));
            }
        }
    }

    /// Worked out by hand with another implementation of SHA-256.
    #[test]
    fn the_root_of_nothing_is_the_hash_of_its_kind() {
        assert_eq!(
            hex(&entries_digest(&Entries::new())),
            "084fed08b978af4d7d196a7446a86b58009e636b611db16211b65a9aadff29c5"
        );
    }

    #[test]
    fn a_fingerprint_depends_on_all_of_the_head() {
        let head = |id: &str, timestamp, left, digest| {
            let node_id = NodeId::new(id).unwrap();
            fingerprint(&Head { node_id, timestamp, left, digest })
        };
        let base = head("a", 1, false, [0; 32]);
        for other in [
            head("b", 1, false, [0; 32]),
            head("a", 2, false, [0; 32]),
            head("a", 1, true, [0; 32]),
            head("a", 1, false, [1; 32]),
        ] {
            assert_ne!(base, other);
        }
    }
}
