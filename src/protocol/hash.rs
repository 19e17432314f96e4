//! SHA-256: what versions, keys and views are named by.

use ring::digest;

/// A SHA-256 hash.
pub type Hash = [u8; 32];

/// SHA-256 (FIPS 180-4) over parts.
pub struct Sha256(digest::Context);

impl Sha256 {
    /// Begins with the first part.
    pub fn new(part: &[u8]) -> Self {
        Self(digest::Context::new(&digest::SHA256)).chain(part)
    }

    /// Takes the next part.
    #[must_use]
    pub fn chain(mut self, part: &[u8]) -> Self {
        self.0.update(part);
        self
    }

    /// The hash of all parts.
    pub fn finish(self) -> Hash {
        let mut hash = [0; 32];
        hash.copy_from_slice(self.0.finish().as_ref());
        hash
    }

    /// The first bytes of the hash of all parts.
    pub fn finish_short<const BYTES: usize>(self) -> [u8; BYTES] {
        const { assert!(BYTES <= 32) };
        let mut short = [0; BYTES];
        short.copy_from_slice(self.finish().split_at(BYTES).0);
        short
    }
}
