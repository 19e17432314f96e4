//! What two nodes know of each other's present runs.

use std::collections::VecDeque;

use super::head::Fingerprint;
use super::identity::{Incarnation, Session};
use super::wire::Twin;

/// What two nodes know of each other's present runs.
#[derive(Debug, Default)]
pub struct Link {
    /// The peer's run.
    pub incarnation: Option<Incarnation>,
    /// Since when that one is known, ms.
    pub run_since: u64,
    /// The runs before it, newest last: one that comes back is a twin with the same key.
    pub superseded: VecDeque<Incarnation>,
    /// What the peer gave us to name.
    pub session: Option<Session>,
    /// When the peer proved last that this is its session, ms.
    pub proved_at: Option<u64>,
    /// Whether both have what they need to call each other.
    pub connected: bool,
    /// The highest number that came from the peer.
    pub number_in: u64,
    /// The highest number that went to the peer.
    pub number_out: u64,
    /// The id of the last DATA accepted from the peer.
    pub data_in: Option<u64>,
    /// Which version of our own record the peer holds.
    pub own: OwnAtPeer,
    /// When it called us last in this session, ms: then it can.
    pub called_at: Option<u64>,
    /// Whether the peer refused our last HELLO: that it answers the first step of each does not
    /// make it one that we can talk to.
    pub refused: bool,
    /// Whether it introduced itself in answer to a HELLO, and has taken none since.
    pub was_introduced: bool,
    /// The run that said goodbye.
    pub left: Option<Incarnation>,
    /// A twin of the peer, and when it called last, ms.
    pub twin: Option<(Twin, u64)>,
}

impl Link {
    /// Whether the peer's present run came to be known since a call began, and that call was
    /// answered by another one: that answer is older, or is as good a little later.
    pub fn has_begun_since(&self, began_ms: u64, answers: Incarnation) -> bool {
        let is_another = self.incarnation.is_some_and(|present| present != answers);
        is_another && self.run_since >= began_ms
    }

    /// Whether it called us in this session, no longer than this, ms, ago.
    pub fn has_called_within(&self, most_ms: u64, now_ms: u64) -> bool {
        self.called_at.is_some_and(|at| now_ms.saturating_sub(at) <= most_ms)
    }

    /// Whether the run that is known is the one that said goodbye.
    pub fn said_goodbye(&self) -> bool {
        self.left.is_some() && self.left == self.incarnation
    }
}

/// What a peer has of our own record, as far as we know.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct OwnAtPeer {
    /// The version that it holds.
    pub held: Option<Fingerprint>,
    /// The version that was given to relays while it was one of those that they bring it to.
    pub told: Option<Fingerprint>,
    /// The version that it refused for good.
    pub refused: Option<Fingerprint>,
    /// The version that went to it last: to send it again is upkeep.
    pub sent: Option<Fingerprint>,
    /// The version that it took last, or that it gave no answer to: it has to wait for that one.
    pub brought: Option<Fingerprint>,
}

impl OwnAtPeer {
    /// Whether this version has to be brought to it.
    pub fn lacks(&self, own: Fingerprint) -> bool {
        self.held != Some(own) && self.told != Some(own) && self.refused != Some(own)
    }
}
