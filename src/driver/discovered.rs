//! What looks for others on the local network needs of the node, and brings it.

use std::net::IpAddr;
use std::sync::Arc;

use ring::rand::SecureRandom;

use super::{Discovering, Driver};
use crate::protocol::address::Address;
use crate::protocol::crypto::NetworkKeys;

impl Driver {
    /// Somebody who holds the network key says that it listens there.
    pub fn note_found(&self, address: Address, said_by: IpAddr) {
        log::debug!("heard of {address} on the local network, from {said_by}");
        self.decide(|node, now| ((), node.on_found(address, said_by, now)));
    }

    /// Where others are looked for and what was heard there, and what is wrong with that; nothing
    /// where nobody looks.
    pub fn note_discovery(&self, discovering: Option<Discovering>) {
        self.lock().discovering = discovering;
    }

    /// How many peers are alive.
    pub fn alive(&self) -> usize {
        self.lock().node.alive()
    }

    /// The network keys of the moment.
    pub fn network_keys_in_use(&self) -> Arc<NetworkKeys> {
        self.keys()
    }

    /// Random bytes, where the system has some.
    pub fn random_bytes<const N: usize>(&self) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        self.random.fill(&mut bytes).ok()?;
        Some(bytes)
    }
}
