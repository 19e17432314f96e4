//! Records: one version of one node's state with its owner's signature, as a whole or as what
//! changed. What was decoded is a [`Record`] or a [`Patch`]; that the signature fits is said by
//! [`super::verified::Verified`] alone.

use std::sync::Arc;

use super::entries::{Change, Entries, InvalidEntry, check_limits, entry_bytes};
use super::hash::Hash;
use super::head::{Fingerprint, Head, Home, Version};
use super::identity::{NodeId, PublicKey, SIGNATURE_BYTES};

/// An ECDSA P-256 signature: r and s, 32 bytes each.
pub type Signature = [u8; SIGNATURE_BYTES];

/// A version of the own state that its owner is about to sign.
#[derive(Debug, Clone)]
pub struct Draft {
    /// What the signature will cover.
    pub head: Head,
    /// The entries.
    pub entries: Arc<Entries>,
}

impl Draft {
    /// Takes what a version is made of and works out its digest. It does not say where its owner
    /// lives: [`Self::at`].
    pub fn new(node_id: NodeId, timestamp: u64, left: bool, entries: Arc<Entries>) -> Self {
        let digest = *entries.digest();
        let head = Head { node_id, timestamp, left, digest, home: Home::default() };
        Self { head, entries }
    }

    /// The same with where its owner lives.
    #[must_use]
    pub fn at(mut self, home: Home) -> Self {
        self.head.home = home;
        self
    }

    /// The version that follows when its owner makes `change`; nothing where that changes nothing.
    ///
    /// `timestamp` comes from [`super::head::next_timestamp`].
    pub fn after(
        &self,
        change: &Change,
        left: bool,
        timestamp: u64,
    ) -> Result<Option<Self>, InvalidEntry> {
        let changes_nothing = left == self.head.left
            && change.iter().all(|(key, value)| self.entries.get(key.as_str()) == value.as_ref());
        if changes_nothing {
            return Ok(None);
        }
        let entries = self.entries.with(change.iter().map(|(key, value)| (key, value.as_ref())));
        check_limits(&entries)?;
        let Head { node_id, home, .. } = self.head.clone();
        Ok(Some(Self::new(node_id, timestamp, left, Arc::new(entries)).at(home)))
    }

    /// The same entries under a later timestamp.
    pub fn again(&self, timestamp: u64) -> Self {
        let head = Head { timestamp, ..self.head.clone() };
        Self { head, entries: Arc::clone(&self.entries) }
    }
}

/// A whole version with its owner's signature, which may fit or not.
#[derive(Debug, Clone)]
pub struct Record {
    /// What the signature covers. Its digest is that of the entries.
    pub head: Head,
    /// The owner's public key.
    pub public_key: PublicKey,
    /// The entries.
    pub entries: Arc<Entries>,
    /// The owner's signature over the head.
    pub signature: Signature,
    /// The short name of the version.
    pub fingerprint: Fingerprint,
}

impl Record {
    /// Takes a draft with a signature over its head.
    pub fn new(draft: Draft, public_key: PublicKey, signature: Signature) -> Self {
        let Draft { head, entries } = draft;
        let fingerprint = head.fingerprint(&public_key);
        Self { head, public_key, entries, signature, fingerprint }
    }

    /// Its place in the order, and its short name.
    pub fn version(&self) -> Version {
        Version { timestamp: self.head.timestamp, fingerprint: self.fingerprint }
    }

    /// What proves that this version was made.
    pub fn signed_head(&self) -> SignedHead {
        SignedHead { head: self.head.clone(), signature: self.signature }
    }

    /// What the next version is made of.
    pub fn draft(&self) -> Draft {
        Draft { head: self.head.clone(), entries: Arc::clone(&self.entries) }
    }
}

/// A version told by what changed since another one, with its owner's signature, which may fit or
/// not. Its head, and the key of its owner, are known to whoever holds the base.
#[derive(Debug, Clone)]
pub struct Patch {
    /// Whose state.
    pub node_id: NodeId,
    /// The timestamp of the new version.
    pub timestamp: u64,
    /// Whether the owner said goodbye with it.
    pub left: bool,
    /// Digest of all entries after the change.
    pub digest: Hash,
    /// Where the owner lives, where that is not what the base says.
    pub home: Option<Home>,
    /// The version that it is made of.
    pub base: Fingerprint,
    /// Values that are set, and keys that are removed.
    pub change: Change,
    /// The owner's signature over the head.
    pub signature: Signature,
}

impl Patch {
    /// The size of what it changes, bytes.
    pub fn bytes(&self) -> usize {
        self.change.iter().map(|(key, value)| entry_bytes(key, value.as_ref())).sum()
    }

    /// What makes `next` of a version with this fingerprint, made by an owner that lived there.
    pub fn new((base, home): (Fingerprint, &Home), next: &Record, change: Change) -> Self {
        let Head { node_id, timestamp, left, digest, home: now } = next.head.clone();
        let home = (now != *home).then_some(now);
        let signature = next.signature;
        Self { node_id, timestamp, left, digest, home, base, change, signature }
    }

    /// The head of the new version, where the base says this of its owner's home.
    pub fn head(&self, base: &Home) -> Head {
        Head {
            node_id: self.node_id.clone(),
            timestamp: self.timestamp,
            left: self.left,
            digest: self.digest,
            home: self.home.as_ref().unwrap_or(base).clone(),
        }
    }
}

/// The head of a version with its owner's signature: once verified, proof that it was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedHead {
    /// What the signature covers.
    pub head: Head,
    /// The owner's signature.
    pub signature: Signature,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::entries::{Key, Value};

    fn draft(pairs: &[(&str, &str)], timestamp: u64) -> Draft {
        let entries = pairs
            .iter()
            .map(|(key, value)| (Key::new(key).unwrap(), Value::new(value.as_bytes()).unwrap()))
            .collect();
        Draft::new(NodeId::new("a").unwrap(), timestamp, false, Arc::new(entries))
    }

    fn change(key: &str, value: Option<&[u8]>) -> Change {
        let value = value.map(|bytes| Value::new(bytes).unwrap());
        Change::from([(Key::new(key).unwrap(), value)])
    }

    #[test]
    fn a_change_that_changes_nothing_is_no_version() {
        let first = draft(&[("k", "v")], 1);
        assert!(first.after(&change("k", Some(b"v")), false, 2).unwrap().is_none());
        assert!(first.after(&change("x", None), false, 2).unwrap().is_none());
        let next = first.after(&change("k", None), false, 2).unwrap().unwrap();
        assert!(next.entries.is_empty() && next.head.is_newer_than(&first.head));
        assert!(first.after(&Change::new(), true, 2).unwrap().unwrap().head.left, "a goodbye");
    }

    #[test]
    fn a_change_that_breaks_a_limit_is_refused() {
        let mut now = draft(&[], 1);
        let value = vec![0; crate::protocol::VALUE_BYTES_MAX];
        let fault = loop {
            let key = format!("key-{}", now.entries.len());
            match now.after(&change(&key, Some(&value)), false, 2) {
                Ok(next) => now = next.unwrap(),
                Err(fault) => break fault,
            }
        };
        assert!(matches!(fault, InvalidEntry::StateTooLarge { .. }));
        assert_eq!(now.entries.len(), 15);
    }
}
