//! Where this node lives, as its record tells all others: which run of it, and where it is found.

use std::cmp::Ordering;

use super::{Action, Node, Now, Republish, Settings};
use crate::protocol::address::Address;
use crate::protocol::head::Home;
use crate::protocol::identity::Incarnation;

/// How long the address where others saw this node stays the one that it tells after the last of
/// them saw it there, ms: a host has several, and each move is a new version for all others.
const SEEN_MS: u64 = 30_000;

/// Where others saw this node.
#[derive(Debug)]
pub(super) struct Seen {
    address: Address,
    /// When the last of them did, ms.
    at: u64,
}

impl Seen {
    /// Whether this node tells others of another address from now on.
    fn gives_way_to(&self, address: &Address, now_ms: u64) -> bool {
        match reach(address).cmp(&reach(&self.address)) {
            Ordering::Greater => true,
            Ordering::Less => false,
            Ordering::Equal => now_ms.saturating_sub(self.at) >= SEEN_MS,
        }
    }
}

/// Of how much use an address is to others: none at all, on this host alone, or elsewhere.
fn reach(address: &Address) -> u8 {
    match (address.is_link_local(), address.is_loopback()) {
        (true, _) => 0,
        (false, true) => 1,
        (false, false) => 2,
    }
}

impl Settings {
    /// Where the node lives when it starts, for its first record.
    pub fn home(&self) -> Home {
        self.home_in(0, None)
    }

    fn home_in(&self, epoch: u64, seen: Option<&Address>) -> Home {
        let incarnation = Incarnation(self.secret.derived(b"dsn/1 incarnation", epoch, &[]));
        // What is on our link need not be on that of others.
        let address = self.advertise.as_ref().or(seen).filter(|at| !at.is_link_local());
        Home { incarnation, address: address.cloned() }
    }
}

impl Node {
    /// Where this node lives: what the next version of its record says.
    pub fn home(&self) -> &Home {
        &self.home
    }

    /// Names this run to the others.
    pub fn incarnation(&self) -> Incarnation {
        self.home.incarnation
    }

    /// Whether it knows where it is. Who is always called first has to ask somebody.
    pub(super) fn knows_its_place(&self) -> bool {
        self.settings.advertise.is_some() || self.seen.is_some()
    }

    /// A peer says from where it saw this node call.
    pub(super) fn note_seen_from(&mut self, from: &Address, now: Now, actions: &mut Vec<Action>) {
        let Some(address) = from.with_port(self.settings.port) else { return };
        match &mut self.seen {
            Some(seen) if seen.address == address => seen.at = now.mono_ms,
            Some(seen) if !seen.gives_way_to(&address, now.mono_ms) => {}
            seen => *seen = Some(Seen { address, at: now.mono_ms }),
        }
        self.settle_home(actions);
    }

    /// Where the home is another one now, all others are to hear of it.
    pub(super) fn settle_home(&mut self, actions: &mut Vec<Action>) {
        let seen = self.seen.as_ref().map(|seen| &seen.address);
        let home = self.settings.home_in(self.epoch, seen);
        if home != self.home {
            self.home = home;
            actions.push(Action::WakeDisk);
        }
    }

    /// Whether a version has to be made though nobody changed anything.
    pub(super) fn republish(&self) -> Option<Republish> {
        let has_moved = self.own.head.home != self.home && !self.own.head.left;
        self.behind.or(has_moved.then_some(Republish::Unwritten))
    }
}
