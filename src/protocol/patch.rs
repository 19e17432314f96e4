//! Partial records: what changed between two versions of one node's state, with the same proof as
//! a whole record. The owner signs the head; whoever holds the base works out the rest.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

use super::entries::entry_bytes;
use super::identity::PublicKey;
use super::state::{Change, Fingerprint, Head, Record, Signature, check_limits};
use super::verdict::Reason;

/// Most own changes that are remembered: peers that are further behind get the whole record.
const CHANGES_MAX: usize = 64;
/// Most bytes of own changes that are remembered: a few of the largest values.
const CHANGES_BYTES_MAX: usize = 256 * 1024;
/// What a patch has beside its changes and a whole record has not, bytes: base and digest.
const PATCH_OVERHEAD_BYTES: usize = 48;

/// A version of one node's state, told by what changed since another one.
#[derive(Debug, Clone)]
pub struct Patch {
    /// The head of the new version, with its digest.
    pub head: Head,
    /// The owner's public key.
    pub public_key: PublicKey,
    /// The version that it is made of.
    pub base: Fingerprint,
    /// Values that are set, and keys that are removed.
    pub change: Change,
    /// The owner's signature over the head: the cell is that of the whole record.
    pub signature: Arc<OnceLock<Signature>>,
}

impl Record {
    /// The version that a patch makes of this one. The signature is not checked.
    ///
    /// Refuses a patch for another base, one that breaks a limit, and one that comes to another
    /// digest than it says.
    pub fn patched(&self, patch: &Patch) -> Result<Self, Reason> {
        if patch.base != self.fingerprint || patch.head.node_id != self.head.node_id {
            return Err(Reason::LacksBase);
        }
        let change = patch.change.iter().map(|(key, value)| (key, value.as_ref()));
        let entries = self.entries.with(change);
        check_limits(&entries).map_err(|_| Reason::LimitExceeded)?;
        if *entries.digest() != patch.head.digest {
            return Err(Reason::Malformed);
        }
        let Head { node_id, timestamp, left, .. } = patch.head.clone();
        let mut record = Self::new(node_id, patch.public_key, timestamp, left, Arc::new(entries));
        record.signature = Arc::clone(&patch.signature);
        Ok(record)
    }
}

/// The last changes of the own state: what a patch for a peer is made of.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Each with the version before it, the oldest first.
    steps: VecDeque<(Fingerprint, Change)>,
    bytes: usize,
    /// The last patch: peers mostly hold the same version.
    last: Option<Arc<Patch>>,
}

impl Changes {
    /// Takes the step from one version to the next.
    pub(super) fn note(&mut self, old: &Record, new: &Record) {
        let differences = old.entries.differences(&new.entries);
        let change: Change =
            differences.into_iter().map(|difference| (difference.key, difference.new)).collect();
        self.bytes += change_bytes(&change);
        self.steps.push_back((old.fingerprint, change));
        self.last = None;
        while self.steps.len() > CHANGES_MAX || self.bytes > CHANGES_BYTES_MAX {
            let Some((_, change)) = self.steps.pop_front() else { break };
            self.bytes -= change_bytes(&change);
        }
    }

    /// The patch that makes the own record out of the base; nothing where the base is forgotten or
    /// the whole record is no larger.
    pub(super) fn patch(&mut self, base: Fingerprint, own: &Record) -> Option<Arc<Patch>> {
        if let Some(last) = self.last.as_ref().filter(|last| last.base == base) {
            return Some(Arc::clone(last));
        }
        let from = self.steps.iter().position(|(before, _)| *before == base)?;
        let steps = self.steps.iter().skip(from).flat_map(|(_, change)| change);
        let change: Change = steps.map(|(key, value)| (key.clone(), value.clone())).collect();
        if change_bytes(&change) + PATCH_OVERHEAD_BYTES >= own.entries.bytes() {
            return None;
        }
        let patch = Arc::new(Patch {
            head: own.head.clone(),
            public_key: own.public_key,
            base,
            change,
            signature: Arc::clone(&own.signature),
        });
        self.last = Some(Arc::clone(&patch));
        Some(patch)
    }
}

fn change_bytes(change: &Change) -> usize {
    change.iter().map(|(key, value)| entry_bytes(key, value.as_ref())).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::identity::NodeId;
    use crate::protocol::state::{Key, Value};

    fn key(text: &str) -> Key {
        Key::new(text).unwrap()
    }

    fn first() -> Record {
        let entries = (0..20).map(|n| (key(&format!("k{n}")), Value::new(&[n; 40]).unwrap()));
        let node_id = NodeId::new("a").unwrap();
        Record::new(node_id, PublicKey([4; 65]), 1, false, Arc::new(entries.collect()))
    }

    fn next(record: &Record, name: &str, value: Option<&[u8]>) -> Record {
        let change = Change::from([(key(name), value.map(|bytes| Value::new(bytes).unwrap()))]);
        record.after(&change, false, record.head.timestamp + 1).unwrap().unwrap()
    }

    #[test]
    fn a_patch_over_several_steps_makes_the_same_record() {
        let (mut changes, base) = (Changes::default(), first());
        let mut own = base.clone();
        for (name, value) in
            [("k1", Some(&b"new"[..])), ("k2", None), ("x", Some(b"y")), ("x", None)]
        {
            let later = next(&own, name, value);
            changes.note(&own, &later);
            own = later;
        }
        let patch = changes.patch(base.fingerprint, &own).unwrap();
        assert_eq!(patch.change.len(), 3, "each key once");
        let made = base.patched(&patch).unwrap();
        assert_eq!((&made.head, &made.entries), (&own.head, &own.entries));
        let refused = |record: &Record, patch: &Patch| record.patched(patch).unwrap_err();
        assert_eq!(refused(&own, &patch), Reason::LacksBase);
        let lie = Patch { change: Change::new(), ..(*patch).clone() };
        assert_eq!(refused(&base, &lie), Reason::Malformed);
        assert!(changes.patch([9; 16], &own).is_none());
    }

    #[test]
    fn what_is_remembered_is_bounded_in_number_and_in_bytes() {
        let (mut changes, mut own) = (Changes::default(), first());
        let bases: Vec<Fingerprint> = (0..100)
            .map(|n: u8| {
                let later = next(&own, "k1", Some(&[n, 1]));
                changes.note(&own, &later);
                std::mem::replace(&mut own, later).fingerprint
            })
            .collect();
        assert!(changes.patch(bases[99 - CHANGES_MAX], &own).is_none());
        assert!(changes.patch(bases[100 - CHANGES_MAX], &own).is_some());
        for n in 0..8 {
            let later = next(&own, "big", Some(&vec![n; 60_000]));
            changes.note(&own, &later);
            own = later;
        }
        assert!(changes.bytes <= CHANGES_BYTES_MAX && changes.steps.len() == 4);
    }

    #[test]
    fn a_patch_that_is_no_smaller_is_none() {
        let (mut changes, base) = (Changes::default(), first());
        let all: Change = base
            .entries
            .iter()
            .map(|(key, _)| (key.clone(), Some(Value::new(b"z").unwrap())))
            .collect();
        let own = base.after(&all, false, 9).unwrap().unwrap();
        changes.note(&base, &own);
        assert!(changes.patch(base.fingerprint, &own).is_none());
    }
}
