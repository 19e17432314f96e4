//! The digest that an owner signs in place of all its entries: the root of a small hash tree.
//!
//! Keys fall into 256 buckets by the first byte of their hash, buckets into 16 groups. One changed
//! entry changes one leaf, one bucket, one group and the root, so both sides can work out the
//! digest of a changed state without hashing all of it again.

use super::{Key, Value};
use crate::protocol::hash::{Hash, Sha256};

/// The root over the groups that are not empty, each with its number.
pub(super) fn root<'a>(groups: impl Iterator<Item = (u8, &'a Hash)>) -> Hash {
    numbered(ROOT, groups)
}

/// A group over its buckets that are not empty, each with the lower half of its number.
pub(super) fn group<'a>(buckets: impl Iterator<Item = (u8, &'a Hash)>) -> Hash {
    numbered(GROUP, buckets)
}

/// A bucket over its entries, which are sorted by key.
pub(super) fn bucket(entries: &[(Key, Value)]) -> Hash {
    let leaves = entries.iter().map(|(key, value)| leaf(key, value));
    leaves.fold(Sha256::new(&[BUCKET]), |hash, leaf| hash.chain(&leaf)).finish()
}

/// The bucket that a key is in.
pub(super) fn bucket_of(key: &str) -> u8 {
    let [first, ..] = Sha256::new(key.as_bytes()).finish();
    first
}

const LEAF: u8 = 0;
const BUCKET: u8 = 1;
const GROUP: u8 = 2;
const ROOT: u8 = 3;

fn leaf(key: &Key, value: &Value) -> Hash {
    let key = key.as_str().as_bytes();
    // A key has at most 256 bytes.
    let length = u16::try_from(key.len()).unwrap_or(u16::MAX).to_le_bytes();
    Sha256::new(&[LEAF]).chain(&length).chain(key).chain(value.as_bytes()).finish()
}

fn numbered<'a>(kind: u8, children: impl Iterator<Item = (u8, &'a Hash)>) -> Hash {
    let one = |hash: Sha256, (number, child): (u8, &Hash)| hash.chain(&[number]).chain(child);
    children.fold(Sha256::new(&[kind]), one).finish()
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::protocol::entries::Entries;
    use crate::protocol::identity::hex;

    /// The digest of all entries as docs/protocol.md defines it, worked out from nothing.
    pub(in crate::protocol) fn definition(entries: &BTreeMap<Key, Value>) -> Hash {
        let hash = |parts: &[&[u8]]| {
            parts.iter().skip(1).fold(Sha256::new(parts[0]), |hash, part| hash.chain(part)).finish()
        };
        let mut root = vec![3];
        for high in 0..16 {
            let mut group = vec![2];
            for low in 0..16 {
                let number = high << 4 | low;
                let inside =
                    entries.iter().filter(|(key, _)| hash(&[key.as_str().as_bytes()])[0] == number);
                let leaves: Vec<Hash> = inside
                    .map(|(key, value)| {
                        let key = key.as_str().as_bytes();
                        let length = u16::try_from(key.len()).unwrap().to_le_bytes();
                        hash(&[&[0], &length, key, value.as_bytes()])
                    })
                    .collect();
                if !leaves.is_empty() {
                    group.push(low);
                    group.extend(hash(&[&[1], &leaves.concat()]));
                }
            }
            if group.len() > 1 {
                root.push(high);
                root.extend(hash(&[&group]));
            }
        }
        hash(&[&root])
    }

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
                assert_ne!(left.digest(), right.digest());
            }
        }
    }

    /// Worked out by hand with another implementation of SHA-256.
    #[test]
    fn the_root_of_nothing_is_the_hash_of_its_kind() {
        assert_eq!(
            hex(Entries::new().digest()),
            "084fed08b978af4d7d196a7446a86b58009e636b611db16211b65a9aadff29c5"
        );
    }
}
