//! What looks for others on the local network needs of the node, and brings it.

use std::sync::Arc;

use ring::rand::SecureRandom;

use super::Driver;
use crate::protocol::address::Address;
use crate::protocol::crypto::NetworkKeys;
use crate::protocol::fault::Fault;

impl Driver {
    /// Somebody who holds the network key says that it listens there.
    pub fn note_found(&self, address: Address) {
        log::debug!("heard of {address} on the local network");
        self.decide(|node, now| ((), node.on_found(address, now)));
    }

    /// Why others can't be found, or that they can.
    pub fn note_discovery(&self, fault: Option<Fault>) {
        self.lock().discovery_fault = fault;
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
