//! From bytes to rules and back, step by step: the pure half of the driver. What is done outside
//! the lock and what inside it are steps of their own, so that the simulator can do other things
//! between them, as other threads do.

mod incoming;
mod outgoing;

use std::fmt;

use crate::protocol::crypto::{CryptoFault, NONCE_BYTES};
use crate::protocol::wire;

pub use incoming::{Answer, Answering, Arrived, Checked, Looked, Read, read};
pub use outgoing::{HttpAnswer, Returned, Sealed, seal_request};

/// Random bytes for one envelope.
pub type Nonce = [u8; NONCE_BYTES];

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
