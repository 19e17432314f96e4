//! From bytes to rules and back, step by step: the pure half of the driver. What is done outside
//! the lock and what inside it are steps of their own, so that the simulator can do other things
//! between them, as other threads do.

mod incoming;
mod outgoing;

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;

use crate::protocol::crypto::{CryptoFault, NONCE_BYTES};
use crate::protocol::wire;

pub use incoming::{Answer, Answering, Arrived, Checked, Looked, Read, read};
pub use outgoing::{HttpAnswer, Returned, Sealed, seal_request, sign_words};

/// Random bytes for one envelope.
pub type Nonce = [u8; NONCE_BYTES];

/// An envelope as it travels in a header: base64 without padding.
pub fn seal_text(envelope: &[u8]) -> String {
    STANDARD_NO_PAD.encode(envelope)
}

/// The envelope in a header. There is one way to write each.
pub fn read_seal(text: &str) -> Option<Vec<u8>> {
    STANDARD_NO_PAD.decode(text).ok()
}

/// Why a message could not be made: our own fault.
#[derive(Debug)]
pub enum StepFault {
    /// It can't be signed.
    Crypto(CryptoFault),
    /// It can't be encoded.
    Encode(wire::EncodeFault),
    /// There is no network key to seal it with.
    NoKey,
}

impl fmt::Display for StepFault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Crypto(fault) => fault.fmt(formatter),
            Self::Encode(why) => write!(formatter, "it can't be encoded: {why}"),
            Self::NoKey => write!(formatter, "there is no network key to seal with"),
        }
    }
}

impl std::error::Error for StepFault {}

impl From<CryptoFault> for StepFault {
    fn from(fault: CryptoFault) -> Self {
        Self::Crypto(fault)
    }
}

impl From<wire::EncodeFault> for StepFault {
    fn from(fault: wire::EncodeFault) -> Self {
        Self::Encode(fault)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_one_way_to_write_a_seal() {
        let envelope: Vec<u8> = (0..=255).rev().take(49).collect();
        let text = seal_text(&envelope);
        assert_eq!((text.len(), read_seal(&text)), (66, Some(envelope)));
        assert_eq!(read_seal("//79").as_deref(), Some(&[255, 254, 253][..]));
        assert_eq!(read_seal("/w").as_deref(), Some(&[255][..]));
        for other in ["/w==", "/x", "__79", "//7 9", " /w", "/w\n", "/", "//79/", "ff:"] {
            assert_eq!(read_seal(other), None, "{other:?}");
        }
    }
}
