//! The entries of one node: a persistent hash tree. Versions share what did not change, so a
//! change costs one bucket, however large the state is: in memory, in time, and in what is hashed.
//!
//! The shape is that of the digest (`digest.rs`): 16 groups of 16 buckets, a key in the
//! bucket of the first byte of its hash, sorted by key within it.

use std::fmt;
use std::sync::Arc;

use super::{Key, Value, digest};
use crate::order;
use crate::protocol::ENTRY_OVERHEAD_BYTES;
use crate::protocol::hash::Hash;

const GROUPS: usize = 16;

/// Keys with their values, and the digest of all of them. A copy costs next to nothing.
#[derive(Clone)]
pub struct Entries {
    groups: [Option<Arc<Group>>; GROUPS],
    keys: usize,
    bytes: usize,
    digest: Hash,
}

struct Group {
    hash: Hash,
    /// By the lower half of the bucket's number.
    buckets: Box<[(u8, Arc<Bucket>)]>,
}

struct Bucket {
    hash: Hash,
    entries: Box<[(Key, Value)]>,
}

/// A key whose value differs between two versions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Which key.
    pub key: Key,
    /// Its value before.
    pub old: Option<Value>,
    /// Its value now.
    pub new: Option<Value>,
}

impl Entries {
    /// No entries.
    pub fn new() -> Self {
        let digest = digest::root(std::iter::empty());
        Self { groups: Default::default(), keys: 0, bytes: 0, digest }
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        let number = digest::bucket_of(key);
        let bucket = self.bucket(number)?;
        let at = bucket.entries.binary_search_by(|(other, _)| other.as_str().cmp(key)).ok()?;
        bucket.entries.get(at).map(|(_, value)| value)
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.keys
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.keys == 0
    }

    /// What they count against the limit of a state, bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The root of the hash tree (`digest.rs`).
    pub fn digest(&self) -> &Hash {
        &self.digest
    }

    /// All entries in the order of their keys.
    pub fn iter(&self) -> std::vec::IntoIter<(&Key, &Value)> {
        let buckets = self.groups.iter().flatten().flat_map(|group| &group.buckets);
        let mut all: Vec<(&Key, &Value)> = Vec::with_capacity(self.keys);
        for (_, bucket) in buckets {
            all.extend(bucket.entries.iter().map(|(key, value)| (key, value)));
        }
        all.sort_unstable_by_key(|(key, _)| *key);
        all.into_iter()
    }

    /// The entries after a change: `None` removes a key.
    #[must_use]
    pub fn with<'a>(
        &self,
        changes: impl IntoIterator<Item = (&'a Key, Option<&'a Value>)>,
    ) -> Self {
        let change = |(key, value): (&'a Key, _)| KeyChange {
            bucket: digest::bucket_of(key.as_str()),
            key,
            value,
        };
        self.with_all(changes.into_iter().map(change).collect())
    }

    fn with_all(&self, mut all: Vec<KeyChange<'_>>) -> Self {
        // Of several changes of one key the last one counts: after this it comes first.
        all.reverse();
        all.sort_by_key(|change| (change.bucket, change.key));
        all.dedup_by_key(|change| change.key);
        let mut next = self.clone();
        for of_group in all.chunk_by(|left, right| left.bucket >> 4 == right.bucket >> 4) {
            next.change_group(of_group);
        }
        let groups = (0u8..).zip(&next.groups);
        let hashes = groups.filter_map(|(at, group)| Some((at, &group.as_ref()?.hash)));
        next.digest = digest::root(hashes);
        next
    }

    /// What differs in a later version, in the order of the keys. What both share is passed over.
    pub fn differences(&self, later: &Self) -> Vec<Difference> {
        let mut all = Vec::new();
        for (old, new) in self.groups.iter().zip(&later.groups) {
            if !same(old.as_ref(), new.as_ref()) {
                for low in 0..16 {
                    let (old, new) =
                        (bucket_in(old.as_deref(), low), bucket_in(new.as_deref(), low));
                    if !same(old, new) {
                        compare(entries_of(old), entries_of(new), &mut all);
                    }
                }
            }
        }
        order::sort_by(&mut all, |left, right| left.key.cmp(&right.key));
        all
    }

    fn bucket(&self, number: u8) -> Option<&Arc<Bucket>> {
        let group = self.groups.get(usize::from(number >> 4))?.as_deref();
        bucket_in(group, number & 15)
    }

    fn change_group(&mut self, changes: &[KeyChange<'_>]) {
        let Some(first) = changes.first() else { return };
        let Some(group) = self.groups.get_mut(usize::from(first.bucket >> 4)) else { return };
        let old = group.as_ref().map_or(&[][..], |group| &group.buckets);
        let mut buckets = Vec::with_capacity(old.len() + changes.len());
        let mut rest = old.iter().peekable();
        for of_bucket in changes.chunk_by(|left, right| left.bucket == right.bucket) {
            let low = of_bucket.first().map_or(0, |change| change.bucket & 15);
            while let Some(kept) = rest.next_if(|(number, _)| *number < low) {
                buckets.push(kept.clone());
            }
            let old = entries_of(rest.next_if(|(number, _)| *number == low).map(|(_, it)| it));
            let entries = changed(old, of_bucket);
            let (before, after) = (weight(old), weight(&entries));
            self.keys = self.keys - before.0 + after.0;
            self.bytes = self.bytes - before.1 + after.1;
            if !entries.is_empty() {
                let hash = digest::bucket(&entries);
                buckets.push((low, Arc::new(Bucket { hash, entries })));
            }
        }
        buckets.extend(rest.cloned());
        *group = (!buckets.is_empty()).then(|| {
            let hash = digest::group(buckets.iter().map(|(low, bucket)| (*low, &bucket.hash)));
            Arc::new(Group { hash, buckets: buckets.into() })
        });
    }
}

/// What happens to one key.
struct KeyChange<'a> {
    bucket: u8,
    key: &'a Key,
    value: Option<&'a Value>,
}

fn bucket_in(group: Option<&Group>, low: u8) -> Option<&Arc<Bucket>> {
    let buckets = &group?.buckets;
    let at = buckets.binary_search_by_key(&low, |(number, _)| *number).ok()?;
    buckets.get(at).map(|(_, bucket)| bucket)
}

fn entries_of(bucket: Option<&Arc<Bucket>>) -> &[(Key, Value)] {
    bucket.map_or(&[], |bucket| &bucket.entries)
}

fn same<T>(left: Option<&Arc<T>>, right: Option<&Arc<T>>) -> bool {
    match (left, right) {
        (None, None) => true,
        (Some(left), Some(right)) => Arc::ptr_eq(left, right),
        _ => false,
    }
}

/// What a key with its value, or its removal, counts, bytes.
pub fn entry_bytes(key: &Key, value: Option<&Value>) -> usize {
    key.as_str().len() + value.map_or(0, |value| value.as_bytes().len()) + ENTRY_OVERHEAD_BYTES
}

/// How many keys, and what they count, bytes.
fn weight(entries: &[(Key, Value)]) -> (usize, usize) {
    let bytes = entries.iter().map(|(key, value)| entry_bytes(key, Some(value)));
    (entries.len(), bytes.sum())
}

/// The entries of a bucket after changes, which are in the order of their keys.
fn changed(old: &[(Key, Value)], changes: &[KeyChange<'_>]) -> Box<[(Key, Value)]> {
    let mut entries = Vec::with_capacity(old.len() + changes.len());
    let set = |change: &KeyChange<'_>| Some((change.key.clone(), change.value?.clone()));
    let mut changes = changes.iter().peekable();
    for entry in old {
        while let Some(change) = changes.next_if(|change| *change.key < entry.0) {
            entries.extend(set(change));
        }
        match changes.next_if(|change| *change.key == entry.0) {
            Some(change) => entries.extend(set(change)),
            None => entries.push(entry.clone()),
        }
    }
    entries.extend(changes.filter_map(set));
    entries.into()
}

fn compare(old: &[(Key, Value)], new: &[(Key, Value)], all: &mut Vec<Difference>) {
    let find = |entries: &[(Key, Value)], key: &Key| {
        let at = entries.binary_search_by(|(other, _)| other.cmp(key)).ok()?;
        entries.get(at).map(|(_, value)| value.clone())
    };
    let gone = old.iter().filter(|(key, _)| find(new, key).is_none());
    for (key, _) in new.iter().chain(gone) {
        let (old, new) = (find(old, key), find(new, key));
        if old != new {
            all.push(Difference { key: key.clone(), old, new });
        }
    }
}

impl Default for Entries {
    fn default() -> Self {
        Self::new()
    }
}

impl FromIterator<(Key, Value)> for Entries {
    fn from_iter<I: IntoIterator<Item = (Key, Value)>>(entries: I) -> Self {
        let entries: Vec<(Key, Value)> = entries.into_iter().collect();
        Self::new().with(entries.iter().map(|(key, value)| (key, Some(value))))
    }
}

impl<const COUNT: usize> From<[(Key, Value); COUNT]> for Entries {
    fn from(entries: [(Key, Value); COUNT]) -> Self {
        entries.into_iter().collect()
    }
}

/// Equal digests are equal entries: SHA-256 has no collisions that anybody knows.
impl PartialEq for Entries {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl Eq for Entries {}

impl fmt::Debug for Entries {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_map().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;
    use crate::protocol::entries::Change;

    fn key(text: &str) -> Key {
        Key::new(text).unwrap()
    }

    fn value(text: &str) -> Value {
        Value::new(text.as_bytes()).unwrap()
    }

    fn plain(map: &BTreeMap<Key, Value>) -> Entries {
        map.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    #[test]
    fn a_change_of_one_key_makes_one_bucket_anew() {
        let many: Entries =
            (0..10_000).map(|number| (key(&format!("key-{number}")), value("v"))).collect();
        let next = many.with([(&key("key-7"), Some(&value("w")))]);
        let groups = many.groups.iter().zip(&next.groups);
        assert_eq!(groups.filter(|(old, new)| !same(old.as_ref(), new.as_ref())).count(), 1);
        let buckets = (0..=255).filter(|at| !same(many.bucket(*at), next.bucket(*at)));
        assert_eq!(buckets.count(), 1);
        let expected =
            Difference { key: key("key-7"), old: Some(value("v")), new: Some(value("w")) };
        assert_eq!(many.differences(&next), [expected]);
    }

    #[test]
    fn of_two_values_for_one_key_the_last_one_counts() {
        let twice = Entries::from([(key("k"), value("1")), (key("k"), value("2"))]);
        assert_eq!(twice, Entries::from([(key("k"), value("2"))]));
        assert_eq!(twice.len(), 1);
    }

    proptest! {
        /// Whatever happens to it, it is the map that it stands for, and its digest is that of the
        /// definition, worked out from nothing.
        #[test]
        fn it_is_a_sorted_map_with_the_digest_of_its_entries(
            changes in proptest::collection::vec(
                proptest::collection::btree_map(
                    "[a-z]{1,2}", proptest::option::of("[a-z]{0,3}"), 0..20
                ),
                0..12
            )
        ) {
            let mut map: BTreeMap<Key, Value> = BTreeMap::new();
            let mut entries = Entries::new();
            for change in changes {
                let before = map.clone();
                let change: Change = change
                    .into_iter()
                    .map(|(name, text)| (key(&name), text.map(|text| value(&text))))
                    .collect();
                for (key, value) in &change {
                    match value {
                        Some(value) => map.insert(key.clone(), value.clone()),
                        None => map.remove(key),
                    };
                }
                let next = entries.with(change.iter().map(|(key, value)| (key, value.as_ref())));
                let mut expected = Vec::new();
                let keys: BTreeSet<_> = before.keys().chain(map.keys()).collect();
                for key in keys {
                    let (old, new) = (before.get(key).cloned(), map.get(key).cloned());
                    if old != new {
                        expected.push(Difference { key: key.clone(), old, new });
                    }
                }
                prop_assert_eq!(entries.differences(&next), expected);
                entries = next;
            }
            prop_assert!(entries.iter().eq(map.iter()));
            prop_assert_eq!(entries.digest(), &digest::tests::definition(&map));
            prop_assert_eq!((entries.len(), &entries), (map.len(), &plain(&map)));
            let all: Vec<_> = map.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
            prop_assert_eq!(entries.bytes(), weight(&all).1);
            for name in ["a", "b", "zz"] {
                prop_assert_eq!(entries.get(name), map.get(name));
            }
        }
    }
}
