//! What is owed to a peer, and what of it people wait for.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::doubt::Tell;
use super::errand::Errands;
use super::flight::Ticket;
use super::head::Fingerprint;
use super::identity::{NodeId, Session};

/// What is owed to a peer; the newest state is sent, however often it was owed.
#[derive(Debug, Default)]
pub struct Owed {
    /// A PING.
    pub ping: bool,
    /// People asked whether it is there: until it is heard a link is kept with it.
    pub is_asked_for: bool,
    /// A PEERS, as its view differs.
    pub peers: bool,
    /// A PEERS, as it may know where those are that are missed here.
    pub hints: bool,
    /// PINGs that somebody waits for.
    pub pings: VecDeque<Ticket>,
    /// DATA in order.
    pub data: VecDeque<OwedData>,
    /// Whether the last call was DATA: then other things go first, so that DATA starves nothing.
    pub data_was_last: bool,
    /// Versions that it is brought, and passes on.
    pub errands: Errands,
    /// Nodes whose records the peer lacks, and can not ask for.
    pub send: BTreeSet<NodeId>,
    /// Nodes whose records the peer has newer, and which versions.
    pub want: BTreeMap<NodeId, Fingerprint>,
    /// Asks, words and accusations.
    pub tell: Tell,
}

impl Owed {
    /// Whether nothing is; without a link no PING or PEERS is.
    pub fn is_settled(&self, is_linked: bool) -> bool {
        let Self { ping, peers, hints, pings, data, errands, send, want, tell, .. } = self;
        let is_asked = self.is_asked_for || is_linked && (*ping || *peers || *hints);
        let waits = !pings.is_empty() || !data.is_empty();
        let is_brought = !errands.is_empty() || !send.is_empty() || !tell.is_empty();
        !is_asked && !waits && !is_brought && want.is_empty()
    }
}

/// A DATA message that waits to be sent.
#[derive(Debug)]
pub struct OwedData {
    /// Who waits for it.
    pub ticket: Ticket,
    /// The message.
    pub data: Arc<[u8]>,
    /// The id, from the first try on.
    pub id: Option<u64>,
    /// The session of a try whose outcome is not known: in another session the message is never
    /// sent again, as it may have been delivered.
    pub doubtful_in: Option<Session>,
}
