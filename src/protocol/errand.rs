//! Versions that a peer is to be brought, and whom it is asked to pass them on to.

use std::collections::BTreeMap;

use super::head::Fingerprint;
use super::identity::NodeId;
use super::rings::{Ring, Stretch};
use crate::order::ListMap;

/// What a peer is to be brought, by the owners of the versions; the newest is sent, however often
/// it was to be.
pub type Errands = BTreeMap<NodeId, Errand>;

/// A version that a peer is to be brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Errand {
    /// To whom it passes it on; nothing where it is for the peer alone.
    pub stretches: ListMap<Ring, Stretch>,
    /// The version that most likely is the newest there; nothing where it gets the whole record.
    pub base: Option<Fingerprint>,
    /// When others are asked in its place, ms.
    pub hedge_at: u64,
}

impl Errand {
    /// A later version is to be brought in its place, or the same one in the other ring, too. What
    /// was waited for longest goes first.
    pub fn merge(&mut self, later: Self) {
        self.stretches.extend(later.stretches);
        if later.base.is_none() {
            self.base = None;
        }
        self.hedge_at = self.hedge_at.min(later.hedge_at);
    }
}
