//! AES-256 in counter mode: a crate of its own, as it is built for speed and the rest of the
//! program for size (`Cargo.toml`, profile `release`). A profile knows no smaller unit.

use aes::Aes256;
use ctr::Ctr128BE;
use ctr::cipher::{KeyIvInit, StreamCipher};

/// Encrypts or decrypts `bytes` in place: AES-256 (FIPS 197) in counter mode (NIST SP 800-38A,
/// 6.5). The first counter is `nonce`, big-endian; that of each block is one more.
///
/// Not inlined: in its caller it would be built for size.
#[inline(never)]
pub fn apply_keystream(key: &[u8; 32], nonce: &[u8; 16], bytes: &mut [u8]) {
    Ctr128BE::<Aes256>::new(key.into(), nonce.into()).apply_keystream(bytes);
}
