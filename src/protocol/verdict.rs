//! How an answer turns out: the one place where reasons meet HTTP statuses.

use std::fmt;

/// What an HTTP status of this protocol means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Status {
    /// Accepted, with an answer.
    Ok = 200,
    /// Accepted, and there is nothing to say.
    NoContent = 204,
    /// Not a message.
    BadRequest = 400,
    /// Not who it says.
    Unauthorized = 401,
    /// Understood and refused.
    NotAcceptable = 406,
    /// Our own fault.
    Internal = 500,
    /// No protocol version in common.
    VersionNotSupported = 505,
}

impl Status {
    /// The number.
    pub fn code(self) -> u16 {
        self as u16
    }
}

/// Why a request that opened was refused. The number is what travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Reason {
    /// The payload could not be decoded.
    Malformed = 1,
    /// The message type is not that of the path.
    WrongType = 2,
    /// The sender is not known here: it says HELLO first.
    UnknownSender = 10,
    /// The signature is not the sender's.
    BadSignature = 11,
    /// The node id is pinned to another key here.
    OtherKey = 12,
    /// It names a session of the receiver that is over.
    WrongSession = 13,
    /// It is addressed to another node id.
    WrongReceiver = 14,
    /// The incarnation was replaced by a later one of the same node: two nodes share one key.
    SupersededIncarnation = 15,
    /// The node or its key is not in the receiver's list of those that may be in the network.
    NotAllowed = 16,
    /// The receiver holds a newer version of the record.
    Stale = 20,
    /// The record is the receiver's own: only the receiver writes it.
    OwnRecord = 21,
    /// A limit is exceeded.
    LimitExceeded = 22,
    /// The number is not higher than the last one.
    ReplayedNumber = 23,
    /// The inbox is full.
    InboxFull = 24,
    /// The sender has the id of the receiver.
    SameId = 25,
    /// The receiver does not hold the version that a partial record is made of.
    LacksBase = 26,
    /// The node was forgotten at the receiver: it has to say HELLO there itself.
    Forgotten = 27,
    /// The receiver is at fault.
    Internal = 30,
    /// There is no protocol version that both speak.
    NoCommonVersion = 40,
}

impl Reason {
    /// All reasons, for reading a number.
    const ALL: [Self; 19] = [
        Self::Malformed,
        Self::WrongType,
        Self::UnknownSender,
        Self::BadSignature,
        Self::OtherKey,
        Self::WrongSession,
        Self::WrongReceiver,
        Self::SupersededIncarnation,
        Self::NotAllowed,
        Self::Stale,
        Self::OwnRecord,
        Self::LimitExceeded,
        Self::ReplayedNumber,
        Self::InboxFull,
        Self::SameId,
        Self::LacksBase,
        Self::Forgotten,
        Self::Internal,
        Self::NoCommonVersion,
    ];

    /// The number that travels.
    pub fn code(self) -> u16 {
        self as u16
    }

    /// The reason of a number, if it is one.
    pub fn from_code(code: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.code() == code)
    }

    /// The HTTP status that a refusal with this reason has.
    pub fn status(self) -> Status {
        match self {
            Self::Malformed | Self::WrongType => Status::BadRequest,
            Self::UnknownSender
            | Self::BadSignature
            | Self::OtherKey
            | Self::WrongSession
            | Self::WrongReceiver
            | Self::SupersededIncarnation
            | Self::NotAllowed => Status::Unauthorized,
            Self::Stale
            | Self::OwnRecord
            | Self::LimitExceeded
            | Self::ReplayedNumber
            | Self::InboxFull
            | Self::SameId
            | Self::LacksBase
            | Self::Forgotten => Status::NotAcceptable,
            Self::Internal => Status::Internal,
            Self::NoCommonVersion => Status::VersionNotSupported,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Malformed => "malformed message",
            Self::WrongType => "wrong message type",
            Self::UnknownSender => "unknown sender",
            Self::BadSignature => "bad signature",
            Self::OtherKey => "another key is pinned for this node id",
            Self::WrongSession => "wrong session",
            Self::WrongReceiver => "wrong receiver",
            Self::SupersededIncarnation => "superseded incarnation",
            Self::NotAllowed => "not in the list of allowed nodes",
            Self::Stale => "stale record",
            Self::OwnRecord => "record of the receiver itself",
            Self::LimitExceeded => "limit exceeded",
            Self::ReplayedNumber => "replayed number",
            Self::InboxFull => "inbox full",
            Self::SameId => "the receiver has the same node id",
            Self::LacksBase => "the base of a partial record is not held",
            Self::Forgotten => "the node was forgotten here",
            Self::Internal => "internal fault",
            Self::NoCommonVersion => "no common protocol version",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_goes_over_the_wire_and_back() {
        for reason in Reason::ALL {
            assert_eq!(Reason::from_code(reason.code()), Some(reason));
        }
        assert_eq!(Reason::from_code(0), None);
    }
}
