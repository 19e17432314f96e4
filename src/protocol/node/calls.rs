//! What is due to a peer, and the request that carries it, made from the newest state.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Node, Now, OWED_DATA_MAX, Outgoing, Target};
use crate::protocol::DATA_BYTES_MAX;
use crate::protocol::address::Address;
use crate::protocol::identity::NodeId;
use crate::protocol::peers::{Call, OwedData, Peer, Ticket};
use crate::protocol::report::{PeerStatus, Refused};
use crate::protocol::state::Record;
use crate::protocol::wire::{Data, Header, Hello, Peers, Ping, Request, Update, Want};

/// Most bytes of records in one UPDATE beyond its first: a larger batch would hold up the rest.
pub(super) const BATCH_BYTES_MAX: usize = 256 * 1024;

/// Most bytes of DATA that wait to be sent to all peers together.
const OWED_BYTES_MAX: usize = 8 * DATA_BYTES_MAX;

/// What kind of call is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    Hello,
    Data,
    Ping,
    Update,
    Peers,
}

impl Node {
    /// Asks for a PING whose outcome comes as `Finish` with the ticket.
    pub fn ping(
        &mut self,
        node_id: &NodeId,
        now: Now,
    ) -> Result<(Ticket, Vec<super::Action>), Refused> {
        self.reachable(node_id, now)?;
        let ticket = self.next_ticket();
        let mut actions = Vec::new();
        let peer = self.peers.get_mut(node_id);
        let peer = peer.ok_or_else(|| Refused::UnknownNode(node_id.clone()))?;
        if peer.owed.pings.len() >= OWED_DATA_MAX {
            return Err(Refused::Busy(node_id.clone()));
        }
        peer.owed.pings.push_back(ticket);
        self.poke(node_id, now, &mut actions);
        Ok((ticket, actions))
    }

    /// Takes DATA for a peer; the outcome comes as `Finish` with the ticket.
    pub fn send(
        &mut self,
        node_id: &NodeId,
        data: Arc<[u8]>,
        now: Now,
    ) -> Result<(Ticket, Vec<super::Action>), Refused> {
        if data.len() > DATA_BYTES_MAX {
            return Err(Refused::DataTooLong { bytes: data.len() });
        }
        self.reachable(node_id, now)?;
        let waiting: usize = self
            .peers
            .iter()
            .flat_map(|(_, peer)| &peer.owed.data)
            .map(|owed| owed.data.len())
            .sum();
        let ticket = self.next_ticket();
        let mut actions = Vec::new();
        let peer = self.peers.get_mut(node_id);
        let peer = peer.ok_or_else(|| Refused::UnknownNode(node_id.clone()))?;
        if peer.owed.data.len() >= OWED_DATA_MAX || waiting + data.len() > OWED_BYTES_MAX {
            return Err(Refused::Busy(node_id.clone()));
        }
        peer.owed.data.push_back(OwedData { ticket, data, id: None, doubtful_in: None });
        self.poke(node_id, now, &mut actions);
        Ok((ticket, actions))
    }

    /// Nobody waits for the ticket any more. Says whether it may still happen, or have happened.
    pub fn cancel(&mut self, ticket: Ticket) -> bool {
        let mut doubtful = false;
        for (_, peer) in self.peers.iter_mut() {
            peer.owed.pings.retain(|waiting| *waiting != ticket);
            let asked = peer.owed.data.iter().find(|data| data.ticket == ticket);
            doubtful |= asked.is_some_and(|data| peer.is_doubtful(data));
            peer.owed.data.retain(|data| data.ticket != ticket);
        }
        doubtful
    }

    /// The request that is due to the target, if one still is.
    pub fn begin(&mut self, target: &Target, now: Now) -> Option<Outgoing> {
        match target {
            Target::Seed(address) => self.begin_seed(address, now),
            Target::Peer(node_id) => {
                let outgoing = self.begin_peer(node_id, now);
                if outgoing.is_none()
                    && let Some(peer) = self.peers.get_mut(node_id)
                {
                    peer.flight = None;
                }
                outgoing
            }
        }
    }

    pub(super) fn something_is_due(&self, node_id: &NodeId, now: Now) -> bool {
        let Some(peer) = self.peers.get(node_id) else {
            return false;
        };
        let waits = peer.retry.as_ref().is_some_and(|retry| now.mono_ms < retry.at);
        peer.flight.is_none() && !waits && self.due(peer, now).is_some()
    }

    fn due(&self, peer: &Peer, now: Now) -> Option<Due> {
        if !peer.link.connected {
            let may = now.mono_ms >= peer.attempt_at && peer.status != PeerStatus::Left;
            return (may && peer.address_to_try().is_some()).then_some(Due::Hello);
        }
        let owed = &peer.owed;
        let update = peer.link.own_held != Some(self.own.fingerprint)
            || !owed.send.is_empty()
            || !owed.want.is_empty();
        let ping = owed.ping || !owed.pings.is_empty();
        let data = !owed.data.is_empty();
        [
            (data && !owed.data_was_last, Due::Data),
            (ping, Due::Ping),
            (update, Due::Update),
            (owed.peers, Due::Peers),
            (data, Due::Data),
        ]
        .into_iter()
        .find_map(|(is_due, due)| is_due.then_some(due))
    }

    fn begin_peer(&mut self, node_id: &NodeId, now: Now) -> Option<Outgoing> {
        let peer = self.peers.get(node_id)?;
        let flight = peer.flight.as_ref().filter(|flight| flight.call.is_none())?.id;
        let due = self.due(peer, now)?;
        let (call, request) = match due {
            Due::Hello => self.make_hello(node_id, now)?,
            Due::Ping => self.make_ping(node_id, now)?,
            Due::Peers => {
                let header = self.header(node_id, now)?;
                self.peers.get_mut(node_id)?.owed.peers = false;
                (Call::Peers, Request::Peers(Peers { header }))
            }
            Due::Update => self.make_update(node_id)?,
            Due::Data => self.make_data(node_id, now)?,
        };
        let peer = self.peers.get_mut(node_id)?;
        peer.owed.data_was_last = due == Due::Data;
        let address = match &call {
            Call::Hello { address } => address.clone(),
            _ => peer.address.clone()?,
        };
        let signer = peer.direct_key().filter(|_| due != Due::Hello);
        let flight_now = peer.flight.as_mut()?;
        flight_now.call = Some(call);
        flight_now.tries += 1;
        Some(Outgoing { flight, address, signer, network_key: peer.network_key, request })
    }

    fn begin_seed(&mut self, address: &Address, now: Now) -> Option<Outgoing> {
        let hello = self.hello(None, now.wall_us);
        let seed = self.seeds.iter_mut().find(|seed| seed.address == *address)?;
        seed.tries += 1;
        let flight = seed.flight?;
        let (network_key, address) = (seed.network_key, address.clone());
        Some(Outgoing { flight, address, signer: None, network_key, request: hello })
    }

    fn make_hello(&mut self, node_id: &NodeId, now: Now) -> Option<(Call, Request)> {
        let peer = self.peers.get_mut(node_id)?;
        let address = peer.address_to_try()?.clone();
        // With a proved key its session is real, and naming it proves that we speak now.
        let session = peer.direct_key().and(peer.link.session);
        let number = peer.next_number(now.wall_us);
        let hello = self.hello(session.map(|session| (node_id.clone(), session)), number);
        Some((Call::Hello { address }, hello))
    }

    fn hello(
        &self,
        to: Option<(NodeId, crate::protocol::identity::Session)>,
        number: u64,
    ) -> Request {
        Request::Hello(Hello {
            from: self.settings.node_id.clone(),
            public_key: self.settings.public_key,
            session: self.settings.session,
            program: self.settings.program.clone(),
            port: self.settings.port,
            advertise: self.settings.advertise.clone(),
            number,
            to,
        })
    }

    fn header(&mut self, node_id: &NodeId, now: Now) -> Option<Header> {
        let (from, from_session) = (self.settings.node_id.clone(), self.settings.session);
        let peer = self.peers.get_mut(node_id)?;
        let session = peer.link.session?;
        let number = peer.next_number(now.wall_us);
        Some(Header { from, to: node_id.clone(), from_session, session, number })
    }

    fn make_ping(&mut self, node_id: &NodeId, now: Now) -> Option<(Call, Request)> {
        let header = self.header(node_id, now)?;
        let view = self.view;
        let owed = &mut self.peers.get_mut(node_id)?.owed;
        owed.ping = false;
        let waiting = owed.pings.front().copied();
        Some((Call::Ping { waiting }, Request::Ping(Ping { header, view })))
    }

    fn make_data(&mut self, node_id: &NodeId, now: Now) -> Option<(Call, Request)> {
        let header = self.header(node_id, now)?;
        let session = header.session;
        let owed = self.peers.get_mut(node_id)?.owed.data.front_mut()?;
        let id = *owed.id.get_or_insert(header.number);
        let data = Arc::clone(&owed.data);
        Some((
            Call::Data { ticket: owed.ticket, session },
            Request::Data(Data { header, id, data }),
        ))
    }

    /// The own record where the peer lacks it, records of others that it lacks, and what we lack.
    fn make_update(&mut self, node_id: &NodeId) -> Option<(Call, Request)> {
        let own = Arc::clone(&self.own);
        let peer = self.peers.get_mut(node_id)?;
        let session = peer.link.session?;
        let send = std::mem::take(&mut peer.owed.send);
        let wanted: Vec<NodeId> = peer.owed.want.iter().cloned().collect();
        let own_held = peer.link.own_held;
        let carries_own = own_held != Some(own.fingerprint);
        let base = own_held.filter(|_| carries_own);
        let patch = base.and_then(|base| self.own_changes.patch(base, &own));
        let mut batch = Batch::default();
        if carries_own && patch.is_none() {
            batch.take(&own);
        }
        let mut later = BTreeSet::new();
        for other in send {
            let record = self.peers.get(&other).and_then(|peer| peer.record.as_ref());
            if let Some(record) = record
                && !batch.take(record)
            {
                later.insert(other);
            }
        }
        self.peers.get_mut(node_id)?.owed.send = later;
        let want = |node_id: NodeId| Want { version: self.version_held_of(&node_id), node_id };
        let wants: Vec<Want> = wanted.into_iter().map(want).collect();
        let call = Call::Update {
            own: carries_own.then_some(own.fingerprint),
            partial: patch.is_some(),
            wants: !wants.is_empty(),
        };
        let patches = patch.into_iter().collect();
        let update =
            Update { to: node_id.clone(), session, records: batch.records, patches, wants };
        Some((call, Request::Update(update)))
    }

    fn next_ticket(&mut self) -> Ticket {
        self.tickets += 1;
        self.tickets
    }

    fn reachable(&self, node_id: &NodeId, now: Now) -> Result<(), Refused> {
        if self.is_me(node_id) {
            return Err(Refused::OwnNode(node_id.clone()));
        }
        let unknown = || Refused::UnknownNode(node_id.clone());
        let peer = self.peers.get(node_id).ok_or_else(unknown)?;
        let why = match peer.status {
            PeerStatus::Alive | PeerStatus::Suspect => return Ok(()),
            PeerStatus::Left => "it left the network".to_owned(),
            PeerStatus::Lost => {
                let seconds = peer.silence(now.mono_ms) / 1000;
                let address = peer.address.as_ref().map_or("an unknown address", |a| a.as_str());
                format!("it is lost, not heard for {seconds} s, last at {address}")
            }
        };
        Err(Refused::Unreachable { node_id: node_id.clone(), why })
    }
}

/// Records that go together in one message.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) records: Vec<Arc<Record>>,
    bytes: usize,
}

impl Batch {
    /// Takes the record if it is the first or the batch has room; says whether it did.
    pub(super) fn take(&mut self, record: &Arc<Record>) -> bool {
        let bytes = record.entries.bytes() + RECORD_OVERHEAD_BYTES;
        if !self.records.is_empty() && self.bytes + bytes > BATCH_BYTES_MAX {
            return false;
        }
        self.bytes += bytes;
        self.records.push(Arc::clone(record));
        true
    }
}

/// What a record has beside its entries, bytes, at most.
const RECORD_OVERHEAD_BYTES: usize = 256;
