//! Signatures that cost little and can only be made by who has the key: in the simulator a public
//! key is a number, and whoever may say it aloud may sign with it.

use dsn::protocol::crypto::{CryptoFault, NetworkKeys, Signed, Signer, Verifier};
use dsn::protocol::hash::Sha256;
use dsn::protocol::identity::PublicKey;
use dsn::protocol::record::{Draft, Record, Signature};
use dsn::protocol::verified::Verified;
use zeroize::Zeroizing;

/// A key pair.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SimKey(pub PublicKey);

pub fn key_of(number: u64) -> SimKey {
    let mut bytes = [7; 65];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    SimKey(PublicKey(bytes))
}

fn signature(key: &PublicKey, what: Signed<'_>) -> Signature {
    let hash = Sha256::new(b"only in the simulator").chain(&key.0).chain(&what.bytes()).finish();
    let mut signature = [0; 64];
    signature[..32].copy_from_slice(&hash);
    signature
}

impl Signer for SimKey {
    fn public_key(&self) -> PublicKey {
        self.0
    }

    fn sign(&self, what: Signed<'_>) -> Result<Signature, CryptoFault> {
        Ok(signature(&self.0, what))
    }
}

pub struct SimVerifier;

impl Verifier for SimVerifier {
    fn verify(&self, key: &PublicKey, what: Signed<'_>, given: &Signature) -> bool {
        signature(key, what) == *given
    }
}

pub fn sign(draft: Draft, key: &SimKey) -> Verified<Record> {
    Verified::sign(draft, key).unwrap()
}

/// The network key of all honest hosts, and of the liars among the members.
pub fn network_keys() -> NetworkKeys {
    NetworkKeys::new(&[Zeroizing::new([9; 32])]).unwrap()
}
