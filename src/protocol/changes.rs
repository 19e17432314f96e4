//! The last changes of a state: what patches for peers are made of. The owner signs the head;
//! whoever holds the base works out the rest.

use std::collections::VecDeque;
use std::sync::Arc;

use super::entries::{Change, change_of, entry_bytes};
use super::head::{Fingerprint, Home};
use super::record::{Patch, Record};

/// How many changes are remembered: peers that are further behind get the whole record.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    steps: usize,
    bytes: usize,
}

/// Of the own state: a few of the largest values.
const OWN: Bounds = Bounds { steps: 64, bytes: 256 * 1024 };
/// Of each other one, while it is passed on: what comes while one request is under way.
const OF_OTHERS: Bounds = Bounds { steps: 8, bytes: 16 * 1024 };
/// What a patch saves at least beside what it leaves out anyway, bytes: where its base is not held,
/// it costs a request more.
const PATCH_SAVES_BYTES: usize = 48;

/// The last changes of a state: what a patch for a peer is made of.
#[derive(Debug)]
pub struct Changes {
    bounds: Bounds,
    /// The oldest first.
    steps: VecDeque<Step>,
    bytes: usize,
    /// The last patch: peers mostly hold the same version.
    last: Option<Arc<Patch>>,
}

/// From one version to the next.
#[derive(Debug)]
struct Step {
    /// The version before.
    base: Fingerprint,
    /// Where the owner lived then.
    home: Home,
    change: Change,
}

impl Changes {
    fn within(bounds: Bounds) -> Self {
        Self { bounds, steps: VecDeque::new(), bytes: 0, last: None }
    }

    /// None of the own state yet.
    pub(super) fn of_own() -> Self {
        Self::within(OWN)
    }

    /// None of another state yet.
    pub(super) fn of_another() -> Self {
        Self::within(OF_OTHERS)
    }

    /// Takes the step from one version to the next.
    pub(super) fn note(&mut self, old: &Record, new: &Record) {
        let differences = old.entries.differences(&new.entries);
        let pairs = differences.into_iter().map(|difference| (difference.key, difference.new));
        let change = change_of(pairs.collect());
        self.bytes += change_bytes(&change);
        let (base, home) = (old.fingerprint, old.head.home.clone());
        self.steps.push_back(Step { base, home, change });
        self.last = None;
        while self.steps.len() > self.bounds.steps || self.bytes > self.bounds.bytes {
            let Some(step) = self.steps.pop_front() else { break };
            self.bytes -= change_bytes(&step.change);
        }
    }

    /// The version before the last step.
    pub(super) fn last_base(&self) -> Option<Fingerprint> {
        self.steps.back().map(|step| step.base)
    }

    /// The patch that makes the record out of the base; nothing where the base is forgotten or
    /// the whole record is hardly larger.
    pub(super) fn patch(&mut self, base: Fingerprint, own: &Record) -> Option<Arc<Patch>> {
        if let Some(last) = self.last.as_ref().filter(|last| last.base == base) {
            return Some(Arc::clone(last));
        }
        let from = self.steps.iter().position(|step| step.base == base)?;
        let home = self.steps.get(from)?.home.clone();
        let steps = self.steps.iter().skip(from).flat_map(|step| &step.change);
        let change = change_of(steps.map(|(key, value)| (key.clone(), value.clone())).collect());
        if change_bytes(&change) + PATCH_SAVES_BYTES >= own.entries.bytes() {
            return None;
        }
        let patch = Arc::new(Patch::new((base, &home), own, change));
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
    use crate::protocol::crypto::{CryptoFault, Signed, Signer, Verifier};
    use crate::protocol::entries::{Key, Value};
    use crate::protocol::identity::{Incarnation, NodeId, PublicKey};
    use crate::protocol::record::{Draft, Signature};
    use crate::protocol::verdict::Reason;
    use crate::protocol::verified::Verified;

    /// Signs with nothing, and believes it.
    struct Anybody;

    impl Signer for Anybody {
        fn public_key(&self) -> PublicKey {
            PublicKey([4; 65])
        }

        fn sign(&self, _: Signed<'_>) -> Result<Signature, CryptoFault> {
            Ok([0; 64])
        }
    }

    impl Verifier for Anybody {
        fn verify(&self, _: &PublicKey, _: Signed<'_>, _: &Signature) -> bool {
            true
        }
    }

    fn key(text: &str) -> Key {
        Key::new(text).unwrap()
    }

    fn first() -> Verified<Record> {
        let entries = (0..20).map(|n| (key(&format!("k{n}")), Value::new(&[n; 40]).unwrap()));
        let node_id = NodeId::new("a").unwrap();
        Verified::sign(Draft::new(node_id, 1, false, Arc::new(entries.collect())), &Anybody)
            .unwrap()
    }

    fn next(record: &Record, name: &str, value: Option<&[u8]>) -> Verified<Record> {
        let change = Change::from([(key(name), value.map(|bytes| Value::new(bytes).unwrap()))]);
        after(record, &change)
    }

    fn after(record: &Record, change: &Change) -> Verified<Record> {
        let draft = record.draft().after(change, false, record.head.timestamp + 1);
        Verified::sign(draft.unwrap().unwrap(), &Anybody).unwrap()
    }

    fn checked(patch: &Patch, base: &Record) -> Verified<Patch> {
        Verified::<Patch>::check(Arc::new(patch.clone()), base, &Anybody).unwrap()
    }

    #[test]
    fn a_patch_over_several_steps_makes_the_same_record() {
        let (mut changes, base) = (Changes::of_own(), first());
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
        let made = base.patched(&checked(&patch, &base)).unwrap();
        assert_eq!((&made.head, &made.entries), (&own.head, &own.entries));
        let refused = |record: &Verified<Record>, patch: &Patch| {
            record.patched(&checked(patch, &base)).unwrap_err()
        };
        assert_eq!(refused(&own, &patch), Reason::LacksBase);
        let lie = Patch { change: Change::new(), ..(*patch).clone() };
        assert_eq!(refused(&base, &lie), Reason::Malformed);
        let mut other_node = (*patch).clone();
        other_node.node_id = NodeId::new("b").unwrap();
        assert_eq!(refused(&base, &other_node), Reason::LacksBase);
        assert!(changes.patch([9; 16], &own).is_none());
    }

    /// The owner signs its home too: who holds the base knows it, unless it is another one since.
    #[test]
    fn a_home_is_told_where_the_base_says_another_one() {
        let home =
            |incarnation: u8| Home { incarnation: Incarnation([incarnation; 16]), address: None };
        let (mut changes, base) = (Changes::of_own(), first());
        let mut go = |own: &Verified<Record>, home: Home| {
            let change = Change::from([(key("x"), Some(Value::new(b"y").unwrap()))]);
            let draft = own.draft().after(&change, false, own.head.timestamp + 1).unwrap();
            let draft = draft.unwrap_or_else(|| own.draft().again(own.head.timestamp + 1));
            let later = Verified::sign(draft.at(home), &Anybody).unwrap();
            changes.note(own, &later);
            later
        };
        let stayed = go(&base, base.head.home.clone());
        let moved = go(&stayed, home(2));
        let settled = go(&moved, home(2));
        let back = go(&settled, base.head.home.clone());
        for (from, own, told) in [
            (&stayed, &moved, Some(home(2))),
            (&base, &settled, Some(home(2))),
            (&moved, &settled, None),
            (&base, &back, None),
            (&settled, &back, Some(base.head.home.clone())),
        ] {
            changes.last = None;
            let patch = changes.patch(from.fingerprint, own).unwrap();
            assert_eq!(patch.home, told);
            let made = from.patched(&checked(&patch, from)).unwrap();
            assert_eq!((&made.head, made.fingerprint), (&own.head, own.fingerprint));
        }
    }

    #[test]
    fn what_is_remembered_is_bounded_in_number_and_in_bytes() {
        let (mut changes, mut own) = (Changes::of_own(), first());
        let bases: Vec<Fingerprint> = (0..100)
            .map(|n: u8| {
                let later = next(&own, "k1", Some(&[n, 1]));
                changes.note(&own, &later);
                std::mem::replace(&mut own, later).fingerprint
            })
            .collect();
        assert!(changes.patch(bases[99 - OWN.steps], &own).is_none());
        assert!(changes.patch(bases[100 - OWN.steps], &own).is_some());
        for n in 0..8 {
            let later = next(&own, "big", Some(&vec![n; 60_000]));
            changes.note(&own, &later);
            own = later;
        }
        assert!(changes.bytes <= OWN.bytes && changes.steps.len() == 4);
    }

    #[test]
    fn a_patch_that_is_no_smaller_is_none() {
        let (mut changes, base) = (Changes::of_own(), first());
        let all: Change = base
            .entries
            .iter()
            .map(|(key, _)| (key.clone(), Some(Value::new(b"z").unwrap())))
            .collect();
        let own = after(&base, &all);
        changes.note(&base, &own);
        assert!(changes.patch(base.fingerprint, &own).is_none());
    }
}
