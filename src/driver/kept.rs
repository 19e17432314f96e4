//! What the journal's thread needs of the node.

use super::Driver;
use crate::credentials;
use crate::keeper::{Core, Kept};
use crate::protocol::crypto::CryptoFault;
use crate::protocol::entries::Key;
use crate::protocol::head::Home;
use crate::protocol::node::DiskWishes;
use crate::protocol::peer::KnownPeer;
use crate::protocol::record::{Draft, Record};
use crate::protocol::verified::Verified;

impl Core for Driver {
    fn own(&self) -> Verified<Record> {
        self.lock().node.own().clone()
    }

    fn home(&self) -> Home {
        self.lock().node.home().clone()
    }

    fn next_timestamp(&self, last: u64) -> Option<u64> {
        let now = self.now();
        self.lock().node.next_timestamp(now.wall_us, last)
    }

    fn sign(&self, draft: Draft) -> Result<Verified<Record>, CryptoFault> {
        Verified::sign(draft, &self.private_key)
    }

    fn publish(&self, record: Verified<Record>) {
        self.counts.note_change();
        self.publish_first(record);
    }

    fn note_leases(&self, leases: Vec<(Key, Option<u64>)>) {
        self.lock().leases.note(leases);
    }

    fn told(&self, somebody: bool) {
        // Else who was told does it, when it has passed that on.
        if !somebody {
            self.let_go();
        }
    }

    fn wishes(&self) -> DiskWishes {
        self.lock().node.take_disk_wishes()
    }

    fn known_peers(&self) -> Vec<KnownPeer> {
        self.lock().node.known_peers()
    }

    fn save_peers(&self, peers: &[KnownPeer]) -> Result<(), String> {
        credentials::save_known_peers(&self.credentials_folder, peers)
            .map_err(|fault| fault.to_string())
    }

    fn note_disk(&self, what: Kept, fault: Option<String>) {
        if fault.is_some() {
            self.counts.note_disk_failure();
        }
        let mut inner = self.lock();
        let known = match what {
            Kept::State => &mut inner.state_fault,
            Kept::Peers => &mut inner.peers_fault,
        };
        *known = fault;
    }
}
