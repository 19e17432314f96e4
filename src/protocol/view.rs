//! The view: one hash over all records that a node holds. Two nodes with equal views hold the same.
//!
//! It is a small hash tree and no sum: whoever owns many ids could choose versions whose sum stays
//! the same, but finding other records with the same hash is as hard as a collision of
//! fingerprints, which has a cost of 2^64 for versions of one node made for the purpose, and 2^128
//! for all else.

use std::collections::BTreeMap;

use super::hash::Sha256;
use super::head::Fingerprint;
use super::identity::NodeId;

/// The hash of a view, as it travels: as long as the fingerprints that it is made of.
pub type ViewHash = [u8; 16];

/// How many buckets: a change of one record hashes one of them anew, and all buckets' hashes.
pub const BUCKETS: usize = 32;

/// The hashes of the buckets of a view, as they travel.
pub type Buckets = [ViewHash; BUCKETS];

/// In the place of the hash of a bucket: one that is like no other, so that the bucket differs.
pub const NO_BUCKET: ViewHash = [0; 16];

/// Some of the buckets: a bit for each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BucketSet(pub u32);

impl BucketSet {
    /// Whether the bucket of the node is among them.
    pub fn has(self, node_id: &NodeId) -> bool {
        self.0 >> bucket_of(node_id) & 1 == 1
    }
}

/// What is held of which node, with the hashes of what did not change since.
#[derive(Debug, Default)]
pub struct View {
    buckets: [Bucket; BUCKETS],
    hash: Option<ViewHash>,
}

#[derive(Debug, Default)]
struct Bucket {
    held: BTreeMap<NodeId, Fingerprint>,
    hash: Option<ViewHash>,
}

impl View {
    /// Notes which version is held of a node now; nothing for none.
    pub fn note(&mut self, node_id: &NodeId, version: Option<Fingerprint>) {
        let Some(bucket) = self.buckets.get_mut(bucket_of(node_id)) else { return };
        let before = match version {
            Some(version) => bucket.held.insert(node_id.clone(), version),
            None => bucket.held.remove(node_id),
        };
        if before != version {
            bucket.hash = None;
            self.hash = None;
        }
    }

    /// The hash of all of it.
    pub fn hash(&mut self) -> ViewHash {
        if let Some(hash) = self.hash {
            return hash;
        }
        let all = Sha256::new(b"dsn/1 view");
        let hash = self.buckets.iter_mut().fold(all, |all, bucket| all.chain(&bucket.hash()));
        *self.hash.insert(hash.finish_short())
    }

    /// The hashes of the buckets, with none for those of the nodes named.
    pub fn buckets_without<'a>(&mut self, nodes: impl Iterator<Item = &'a NodeId>) -> Buckets {
        let mut buckets = self.buckets.each_mut().map(Bucket::hash);
        for node_id in nodes {
            if let Some(bucket) = buckets.get_mut(bucket_of(node_id)) {
                *bucket = NO_BUCKET;
            }
        }
        buckets
    }

    /// The buckets that are not as somebody else says of them.
    pub fn differing(&mut self, theirs: &Buckets) -> BucketSet {
        let pairs = self.buckets.iter_mut().zip(theirs).enumerate();
        let differs = pairs.map(|(at, (mine, theirs))| u32::from(mine.hash() != *theirs) << at);
        BucketSet(differs.sum())
    }
}

impl Bucket {
    fn hash(&mut self) -> ViewHash {
        if let Some(hash) = self.hash {
            return hash;
        }
        // The length of each part is fixed, so no two lists make the same bytes.
        let all = Sha256::new(b"dsn/1 bucket of a view");
        let hash = self.held.values().fold(all, |all, version| all.chain(version)).finish_short();
        *self.hash.insert(hash)
    }
}

/// The bucket of a node: the first five bits of the hash of its id.
fn bucket_of(node_id: &NodeId) -> usize {
    let [first] = Sha256::new(node_id.as_str().as_bytes()).finish_short::<1>();
    usize::from(first >> 3)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The view as docs/protocol.md defines it, worked out from nothing.
    fn definition(held: &BTreeMap<String, Fingerprint>) -> ViewHash {
        let hash = |bytes: &[u8]| Sha256::new(bytes).finish();
        let short = |bytes: &[u8]| -> ViewHash { hash(bytes)[..16].try_into().unwrap() };
        let mut all = b"dsn/1 view".to_vec();
        for number in 0..32 {
            let mut bucket = b"dsn/1 bucket of a view".to_vec();
            for (id, version) in held {
                if hash(id.as_bytes())[0] / 8 == number {
                    bucket.extend_from_slice(version);
                }
            }
            all.extend_from_slice(&short(&bucket));
        }
        short(&all)
    }

    fn id(number: usize) -> NodeId {
        NodeId::new(&format!("n{number}")).unwrap()
    }

    /// What differs is found in its bucket, and in no other; a bucket without a hash always does.
    #[test]
    fn a_difference_is_in_the_bucket_of_its_node() {
        let (mut one, mut other) = (View::default(), View::default());
        for number in 0..100 {
            one.note(&id(number), Some([7; 16]));
            other.note(&id(number), Some([7; 16]));
        }
        let nobody = || std::iter::empty();
        assert_eq!(one.differing(&other.buckets_without(nobody())), BucketSet(0));
        for number in 0..100 {
            other.note(&id(number), Some([8; 16]));
            let differing = one.differing(&other.buckets_without(nobody()));
            assert!(differing.0.is_power_of_two() && differing.has(&id(number)));
            other.note(&id(number), Some([7; 16]));
            let missed = one.differing(&other.buckets_without([id(number)].iter()));
            assert_eq!(missed, differing);
        }
    }

    proptest! {
        #[test]
        fn it_is_the_hash_of_what_is_held_whatever_happened_before(
            notes in proptest::collection::vec(
                ("[a-d]{1,3}", proptest::option::of(0_u8..4)), 0..60
            )
        ) {
            let (mut view, mut held) = (View::default(), BTreeMap::new());
            for (id, version) in notes {
                let version = version.map(|number| [number; 16]);
                view.note(&NodeId::new(&id).unwrap(), version);
                match version {
                    Some(version) => held.insert(id, version),
                    None => held.remove(&id),
                };
                prop_assert_eq!(view.hash(), definition(&held));
            }
        }
    }
}
