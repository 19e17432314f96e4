//! AES-256 in counter mode: a crate of its own, as it is built for speed and the rest of the
//! program for size (`Cargo.toml`, profile `release`). A profile knows no smaller unit.

use std::fmt;

use aes::Aes256;
use ctr::cipher::{InnerIvInit, KeyInit, StreamCipherCore};
use ctr::{CtrCore, flavors};

/// A key with its round keys. They are worked out once: on a processor without AES instructions
/// that takes as long as to encrypt a small message.
pub struct Keystream(Aes256);

impl Keystream {
    /// Takes a key of AES-256 (FIPS 197).
    #[inline(never)]
    pub fn new(key: &[u8; 32]) -> Self {
        Self(Aes256::new(key.into()))
    }

    /// Encrypts or decrypts `bytes` in place, in counter mode (NIST SP 800-38A, 6.5). The first
    /// counter is `nonce`, big-endian; that of each block is one more.
    ///
    /// Not inlined: in its caller it would be built for size.
    #[inline(never)]
    pub fn apply(&self, nonce: &[u8; 16], bytes: &mut [u8]) {
        CtrCore::<_, flavors::Ctr128BE>::inner_iv_init(self.0.clone(), nonce.into())
            .apply_keystream_partial(bytes.into());
    }
}

impl fmt::Debug for Keystream {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a keystream")
    }
}
