//! Facts that were checked, as types that only the check makes: whoever has one need not ask.

use std::ops::Deref;
use std::sync::Arc;

use super::crypto::{CryptoFault, Signed, Signer, Verifier};
use super::entries::check_limits;
use super::identity::PublicKey;
use super::record::{Draft, Patch, Record, Signature, SignedHead};
use super::verdict::Reason;
use super::wire::Here;

/// Something that carries its owner's signature, and the signature fits. A copy shares it.
#[derive(Debug)]
pub struct Verified<T>(Arc<T>);

impl<T> Deref for Verified<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> Clone for Verified<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Verified<T> {
    /// The same for a message, where nobody believes it unchecked.
    pub fn share(&self) -> Arc<T> {
        Arc::clone(&self.0)
    }
}

impl Verified<Record> {
    /// Signs a version of the own state.
    pub fn sign(draft: Draft, signer: &impl Signer) -> Result<Self, CryptoFault> {
        let signature = signer.sign(Signed::Record(&draft.head))?;
        Ok(Self(Arc::new(Record::new(draft, signer.public_key(), signature))))
    }

    /// Checks the signature against the key that the record carries.
    pub fn check(record: Arc<Record>, verifier: &impl Verifier) -> Option<Self> {
        let what = Signed::Record(&record.head);
        verifier.verify(&record.public_key, what, &record.signature).then_some(Self(record))
    }

    /// The version that a patch makes of this one.
    ///
    /// Refuses a patch for another base, one that breaks a limit, and one that comes to another
    /// digest than its owner signed.
    pub fn patched(&self, patch: &Verified<Patch>) -> Result<Self, Reason> {
        let Patch { base, change, signature, .. } = &**patch;
        if *base != self.fingerprint || patch.node_id != self.head.node_id {
            return Err(Reason::LacksBase);
        }
        let entries = self.entries.with(change.iter().map(|(key, value)| (key, value.as_ref())));
        check_limits(&entries).map_err(|_| Reason::LimitExceeded)?;
        if *entries.digest() != patch.digest {
            return Err(Reason::Malformed);
        }
        let head = patch.head(&self.head.home);
        let draft = Draft { head, entries: Arc::new(entries) };
        Ok(Self(Arc::new(Record::new(draft, self.public_key, *signature))))
    }
}

impl Verified<Patch> {
    /// Checks the signature over the head of the new version, which the base is a part of, with
    /// the key of the base. What the patch comes to is not worked out yet: [`Verified::patched`].
    pub fn check(patch: Arc<Patch>, base: &Record, verifier: &impl Verifier) -> Option<Self> {
        // The fingerprint stands for the key and the home of the base: they are the same later.
        if patch.base != base.fingerprint {
            return None;
        }
        let head = patch.head(&base.head.home);
        let what = Signed::Record(&head);
        verifier.verify(&base.public_key, what, &patch.signature).then_some(Self(patch))
    }
}

impl Verified<SignedHead> {
    /// Checks the signature against this key.
    pub fn check(held: SignedHead, key: &PublicKey, verifier: &impl Verifier) -> Option<Self> {
        let what = Signed::Record(&held.head);
        verifier.verify(key, what, &held.signature).then(|| Self(Arc::new(held)))
    }
}

impl Verified<Here> {
    /// Checks the signature of the node that is said to be there against this key.
    pub fn check(here: Here, key: &PublicKey, verifier: &impl Verifier) -> Option<Self> {
        let what = Signed::Here { node_id: &here.node_id, challenge: &here.challenge };
        verifier.verify(key, what, &here.signature).then(|| Self(Arc::new(here)))
    }
}

/// A message whose speaker proved with its signature that it said it.
#[derive(Debug)]
pub struct Authentic<T> {
    message: T,
    signer: PublicKey,
}

impl<T> Authentic<T> {
    /// Checks the signature over the bytes that the message came in.
    pub fn check(
        message: T,
        signer: PublicKey,
        what: Signed<'_>,
        signature: &Signature,
        verifier: &impl Verifier,
    ) -> Option<Self> {
        verifier.verify(&signer, what, signature).then_some(Self { message, signer })
    }

    /// The key that it was signed with.
    pub fn signer(&self) -> PublicKey {
        self.signer
    }

    /// The message.
    pub fn message(&self) -> &T {
        &self.message
    }

    /// The message, and the key that it was signed with.
    pub fn into_parts(self) -> (T, PublicKey) {
        (self.message, self.signer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::entries::{Change, Key, Value};
    use crate::protocol::head::Home;
    use crate::protocol::identity::{Incarnation, NodeId};

    /// Signs with a hash of all that it signs.
    struct Hand;

    fn hash_of(what: Signed<'_>) -> Signature {
        let mut signature = [0; 64];
        signature[..32]
            .copy_from_slice(&crate::protocol::hash::Sha256::new(&what.bytes()).finish());
        signature
    }

    impl Signer for Hand {
        fn public_key(&self) -> PublicKey {
            PublicKey([4; 65])
        }

        fn sign(&self, what: Signed<'_>) -> Result<Signature, CryptoFault> {
            Ok(hash_of(what))
        }
    }

    impl Verifier for Hand {
        fn verify(&self, _: &PublicKey, what: Signed<'_>, signature: &Signature) -> bool {
            *signature == hash_of(what)
        }
    }

    fn home(incarnation: u8) -> Home {
        Home { incarnation: Incarnation([incarnation; 16]), address: None }
    }

    /// What is signed of the home is what the base says, unless the patch says otherwise: nobody
    /// between moves an owner.
    #[test]
    fn a_patch_is_checked_against_the_home_of_its_base() {
        let draft = Draft::new(NodeId::new("a").unwrap(), 1, false, Arc::default()).at(home(1));
        let base = Verified::sign(draft, &Hand).unwrap();
        let change = Change::from([(Key::new("k").unwrap(), Some(Value::new(b"v").unwrap()))]);
        let next = |at: &Home| {
            let draft = base.draft().after(&change, false, 2).unwrap().unwrap();
            Verified::sign(draft.at(at.clone()), &Hand).unwrap()
        };
        let made = |patch: &Patch| {
            let patch = Verified::<Patch>::check(Arc::new(patch.clone()), &base, &Hand)?;
            Some(base.patched(&patch).unwrap())
        };
        for (at, told) in [(home(1), None), (home(2), Some(home(2)))] {
            let next = next(&at);
            let patch = Patch::new((base.fingerprint, &base.head.home), &next, change.clone());
            assert_eq!(patch.home, told);
            let whole = made(&patch).unwrap();
            assert_eq!((&whole.head, whole.fingerprint), (&next.head, next.fingerprint));
            assert!(Verified::<Record>::check(whole.share(), &Hand).is_some());
            for lie in [None, Some(home(1)), Some(home(3))] {
                let lie = Patch { home: lie, ..patch.clone() };
                let is_true = lie.head(&base.head.home) == next.head;
                assert_eq!(made(&lie).is_some(), is_true, "{:?}", lie.home);
            }
            let other_base = Patch { base: [9; 16], ..patch };
            assert!(made(&other_base).is_none(), "what its base says is not known");
        }
    }
}
