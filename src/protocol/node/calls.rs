//! What is due to a peer, and the request that carries it, made from the newest state.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::asking::may_be_told;
use super::{
    Action, Job, Node, Now, OWED_DATA_MAX, Outgoing, RETRY_DELAY_MS, TRY_LIMIT_MS, Target,
    place_text,
};
use crate::order::Gather;
use crate::protocol::DATA_BYTES_MAX;
use crate::protocol::doubt::Times;
use crate::protocol::flight::{Call, CallKind, Class, Ticket};
use crate::protocol::head::Version;
use crate::protocol::identity::NodeId;
use crate::protocol::owed::OwedData;
use crate::protocol::peer::Peer;
use crate::protocol::report::{PeerStatus, Refused};
use crate::protocol::wire::{
    Data, Header, Hello, HelloProof, PULLED_MAX, Peers, Ping, Pull, Request, Wish,
};

/// Most bytes of DATA that wait to be sent to all peers together.
const OWED_BYTES_MAX: usize = 8 * DATA_BYTES_MAX;
/// Most requests to one peer between two ticks that nobody asked for and that bring nothing new,
/// whatever it answers; and one more that asks for what the last of them showed.
pub const UPKEEP_MAX: u32 = 4;
/// How long a peer alone is asked for what it holds, in percent of a tick: by then it has come, or
/// others are asked for it as well.
const ALONE_PERCENT: u64 = 50;
/// The same for a few, of a node that joins: what gets lost then is what it lacks last.
const FEW_ALONE_PERCENT: u64 = 15;
/// How many are a few.
const FEW_RECORDS: usize = 16;

impl Node {
    /// Asks for a PING whose outcome comes as `Finish` with the ticket.
    pub fn ping(&mut self, node_id: &NodeId, now: Now) -> Result<(Ticket, Vec<Action>), Refused> {
        self.reachable(node_id, now)?;
        let ticket = self.next_ticket();
        let peer = self.peers.get_mut(node_id);
        let peer = peer.ok_or_else(|| Refused::UnknownNode(node_id.clone()))?;
        if peer.owed.pings.len() >= OWED_DATA_MAX {
            return Err(Refused::Busy(node_id.clone()));
        }
        peer.owed.pings.push_back(ticket);
        let mut actions = Vec::new();
        self.poke(node_id, now, &mut actions);
        Ok((ticket, actions))
    }

    /// Takes DATA for a peer; the outcome comes as `Finish` with the ticket.
    pub fn send(
        &mut self,
        node_id: &NodeId,
        data: Arc<[u8]>,
        now: Now,
    ) -> Result<(Ticket, Vec<Action>), Refused> {
        if data.len() > DATA_BYTES_MAX {
            return Err(Refused::DataTooLong { bytes: data.len() });
        }
        self.reachable(node_id, now)?;
        let owed = self.peers.awake().flat_map(|(_, peer)| &peer.owed.data);
        let waiting: usize = owed.map(|owed| owed.data.len()).sum();
        let ticket = self.next_ticket();
        let peer = self.peers.get_mut(node_id);
        let peer = peer.ok_or_else(|| Refused::UnknownNode(node_id.clone()))?;
        if peer.owed.data.len() >= OWED_DATA_MAX || waiting + data.len() > OWED_BYTES_MAX {
            return Err(Refused::Busy(node_id.clone()));
        }
        peer.owed.data.push_back(OwedData { ticket, data, id: None, doubtful_in: None });
        let mut actions = Vec::new();
        self.poke(node_id, now, &mut actions);
        Ok((ticket, actions))
    }

    /// Nobody waits for the ticket any more. Says whether it may still happen, or have happened.
    pub fn cancel(&mut self, ticket: Ticket) -> bool {
        let mut doubtful = false;
        self.peers.change_awake(|_, peer| {
            peer.owed.pings.retain(|waiting| *waiting != ticket);
            let asked = peer.owed.data.iter().find(|data| data.ticket == ticket);
            doubtful |= asked.is_some_and(|data| peer.is_doubtful(data));
            if asked.is_some() {
                // The next message has all its tries.
                peer.attempts.remove(&CallKind::Data);
            }
            peer.owed.data.retain(|data| data.ticket != ticket);
        });
        doubtful
    }

    /// The request that is due to the target, if the job's flight still is and something is.
    pub fn begin(&mut self, job: &Job, now: Now) -> Option<Outgoing> {
        match &job.target {
            Target::Seed(address) => self.begin_seed(address, job.flight),
            Target::Peer(node_id) => {
                let outgoing = self.begin_peer(node_id, job.flight, now);
                if outgoing.is_none() {
                    self.end_flight(node_id, job.flight);
                }
                outgoing
            }
        }
    }

    /// No sender could take the job: what is owed stays owed, and is looked at again at the tick.
    pub fn put_back(&mut self, job: &Job) {
        match &job.target {
            Target::Seed(address) => self.end_seed_flight(address, job.flight),
            Target::Peer(node_id) => self.end_flight(node_id, job.flight),
        }
    }

    fn end_flight(&mut self, node_id: &NodeId, flight: u64) {
        if let Some(peer) = self.peers.get_mut(node_id) {
            // One that is under way ends with its answer.
            peer.flight.take_if(|current| current.id == flight && current.call.is_none());
        }
    }

    /// With whom what is due to a peer waits for a sender. Nothing where nothing is due, or a job
    /// that waits there already is as good.
    pub(super) fn class_due(&self, peer: &Peer, now: Now) -> Option<Class> {
        let waiting = peer.flight.as_ref();
        if waiting.is_some_and(|flight| flight.call.is_some()) {
            return None;
        }
        let class = peer.class_of(*self.dues(peer, now).first()?);
        waiting.is_none_or(|flight| class < flight.class).then_some(class)
    }

    /// What is due to a peer and need not wait, the most urgent first.
    fn dues(&self, peer: &Peer, now: Now) -> Vec<CallKind> {
        let mut dues = self.owed_to(peer, now);
        let waits = |kind: &CallKind| peer.attempts.get(kind).is_some_and(|it| now.mono_ms < it.at);
        dues.retain(|kind| !waits(kind));
        dues
    }

    fn owed_to(&self, peer: &Peer, now: Now) -> Vec<CallKind> {
        let has_upkeep = peer.upkeep < UPKEEP_MAX;
        if !peer.is_reached() && !peer.may_try || peer.address_to_try().is_none() {
            return Vec::new();
        }
        let may_contact = peer.contact.is_due(now.mono_ms) && has_upkeep;
        // After another run refused it, HELLO comes first.
        let waits = peer.attempts.get(&CallKind::Tell).is_some_and(|it| it.had_second_chance);
        let tell =
            !peer.owed.tell.is_empty() && may_be_told(peer) && (peer.link.connected || !waits);
        // A version needs no link: the record of the peer says which run it is for.
        let brings = !peer.owed.errands.is_empty()
            && peer.run().is_some()
            && !matches!(peer.status, PeerStatus::Left | PeerStatus::Lost);
        if !peer.link.connected {
            let may = may_contact && peer.status != PeerStatus::Left && self.is_linked(peer);
            let dues = [(tell, CallKind::Tell), (brings, CallKind::Push), (may, CallKind::Hello)];
            return dues.into_iter().filter_map(|(is_due, due)| is_due.then_some(due)).collect();
        }
        let owed = &peer.owed;
        if !peer.is_reached() {
            // The answer to a PING is signed: it proves the address.
            let dues =
                [(tell, CallKind::Tell), (brings, CallKind::Push), (may_contact, CallKind::Ping)];
            return dues.into_iter().filter_map(|(is_due, due)| is_due.then_some(due)).collect();
        }
        let peers = (owed.peers || owed.hints) && peer.exchange.is_due(now.mono_ms);
        let is_proved = peer.is_session_proved(now.mono_ms);
        let (data, unproved_data) =
            (!owed.data.is_empty() && is_proved, !owed.data.is_empty() && !is_proved);
        [
            (tell, CallKind::Tell),
            (data && !owed.data_was_last, CallKind::Data),
            (!owed.pings.is_empty() || unproved_data || owed.ping && has_upkeep, CallKind::Ping),
            (self.brings_anything(peer, now), CallKind::Push),
            (self.pulls(peer, now), CallKind::Pull),
            (peers && has_upkeep, CallKind::Peers),
            (data && owed.data_was_last, CallKind::Data),
        ]
        .into_iter()
        .filter_map(|(is_due, due)| is_due.then_some(due))
        .collect()
    }

    fn brings_anything(&self, peer: &Peer, now: Now) -> bool {
        !peer.owed.errands.is_empty() || self.brings_own(peer, now) || gives_others(peer)
    }

    /// Whether the own record is due to the peer.
    pub(super) fn brings_own(&self, peer: &Peer, now: Now) -> bool {
        let (own, at_peer) = (Some(self.own.fingerprint), &peer.link.own);
        // A version that says where we live is about to be made: one is enough.
        let is_settled = self.own.head.home == self.home || self.own.head.left;
        is_settled
            && at_peer.lacks(self.own.fingerprint)
            && peer.push.is_due(now.mono_ms)
            && (at_peer.sent != own || peer.upkeep < UPKEEP_MAX)
            && (at_peer.brought != own || peer.again.is_due(now.mono_ms))
    }

    fn begin_peer(&mut self, node_id: &NodeId, flight: u64, now: Now) -> Option<Outgoing> {
        let peer = self.peers.get(node_id)?;
        let waiting = peer.flight.as_ref()?;
        if waiting.id != flight || waiting.call.is_some() {
            return None;
        }
        // What has to wait with others does not take a sender of these.
        let fits = |due: &CallKind| peer.class_of(*due) <= waiting.class;
        let due = self.dues(peer, now).into_iter().find(fits)?;
        let times = self.times();
        let tries = peer.attempts.get(&due).map_or(0, |attempt| attempt.tries);
        let is_joining = self.is_joining();
        let people_wait = !peer.owed.pings.is_empty() || !peer.owed.data.is_empty();
        let asked_by_people = people_wait && matches!(due, CallKind::Ping | CallKind::Data);
        let (call, request) = match due {
            CallKind::Hello => self.make_hello(node_id, now)?,
            CallKind::Ping => self.make_ping(node_id, now)?,
            CallKind::Peers => self.make_peers(node_id, now)?,
            CallKind::Push => self.make_push(node_id, now)?,
            CallKind::Pull => self.make_pull(node_id, now)?,
            CallKind::Data => self.make_data(node_id, now)?,
            CallKind::Tell => self.make_tell(node_id)?,
        };
        let peer = self.peers.get_mut(node_id)?;
        let brings_news = match &call {
            Call::Push { errands, .. } if !errands.is_empty() => true,
            Call::Push { own: Some(own), .. } => peer.link.own.sent.replace(*own) != Some(*own),
            _ => false,
        };
        // What is told is bounded by what is asked and who is doubted.
        let is_upkeep = !asked_by_people && !brings_news && due != CallKind::Tell;
        peer.upkeep += u32::from(is_upkeep);
        peer.owed.data_was_last = due == CallKind::Data;
        let address = match &call {
            Call::Hello { address } => address.clone(),
            Call::Push { .. } | Call::Tell(_) => peer.address_to_try()?.clone(),
            _ => peer.place.address()?.clone(),
        };
        peer.may_try = false;
        let signer = match &call {
            // That it is there may be signed with a key that others told, too.
            Call::Tell(_) => peer.pin.map(|pin| pin.key),
            _ => peer.direct_key(),
        };
        let network_key = peer.network_key;
        let flight = peer.flight.as_mut()?;
        flight.call = Some(call);
        flight.address = Some(address.clone());
        flight.tries = tries + 1;
        flight.began = now.mono_ms;
        // What is small is answered at once; while it is waited for nothing else goes there.
        let is_short = !asked_by_people && is_small(&request);
        let limit_ms = match due {
            CallKind::Hello => hello_limit_ms(&times, tries, peer.is_given_up()),
            CallKind::Peers | CallKind::Pull if is_joining => list_limit_ms(&times, tries),
            _ if is_short => times.answer.min(TRY_LIMIT_MS),
            _ => TRY_LIMIT_MS,
        };
        Some(Outgoing { address, signer, limit_ms, network_key, request })
    }

    fn make_hello(&mut self, node_id: &NodeId, now: Now) -> Option<(Call, Request)> {
        let knows_its_place = self.knows_its_place();
        let peer = self.peers.get_mut(node_id)?;
        let address = peer.address_to_try()?.clone();
        // Only who proved its key has given us what to name; and the answer to the first step says
        // where we are.
        let named = peer.direct_key().zip(peer.link.session);
        let named = named.filter(|_| knows_its_place || peer.link.was_introduced);
        let number = peer.next_number(now.wall_us);
        let proof = named.map(|(key, session)| HelloProof {
            to: node_id.clone(),
            session,
            number,
            given: self.session_for(node_id, &key),
        });
        Some((Call::Hello { address }, self.hello(proof)))
    }

    pub(super) fn hello(&self, proof: Option<HelloProof>) -> Request {
        Request::Hello(Hello {
            from: self.settings.node_id.clone(),
            public_key: self.settings.public_key,
            incarnation: self.incarnation(),
            program: self.settings.program.clone(),
            port: self.settings.port,
            advertise: self.settings.advertise.clone(),
            proof,
        })
    }

    fn header(&mut self, node_id: &NodeId, now: Now) -> Option<Header> {
        let (from, incarnation) = (self.settings.node_id.clone(), self.incarnation());
        let peer = self.peers.get_mut(node_id)?;
        let session = peer.link.session?;
        let number = peer.next_number(now.wall_us);
        Some(Header { from, to: node_id.clone(), incarnation, session, number })
    }

    fn make_ping(&mut self, node_id: &NodeId, now: Now) -> Option<(Call, Request)> {
        let header = self.header(node_id, now)?;
        let owed = &mut self.peers.get_mut(node_id)?.owed;
        owed.ping = false;
        let waiting = owed.pings.front().copied();
        Some((Call::Ping { waiting }, Request::Ping(Ping { header, view: self.view.hash() })))
    }

    fn make_peers(&mut self, node_id: &NodeId, now: Now) -> Option<(Call, Request)> {
        let header = self.header(node_id, now)?;
        let owed = &mut self.peers.get_mut(node_id)?.owed;
        (owed.peers, owed.hints) = (false, false);
        self.listed_at = Some(now.mono_ms);
        Some((Call::Peers, Request::Peers(Peers { header, buckets: Box::new(self.buckets()) })))
    }

    fn make_data(&mut self, node_id: &NodeId, now: Now) -> Option<(Call, Request)> {
        let header = self.header(node_id, now)?;
        let session = header.session;
        let owed = self.peers.get_mut(node_id)?.owed.data.front_mut()?;
        if owed.doubtful_in.is_some_and(|doubtful| doubtful != session) {
            return None;
        }
        let id = *owed.id.get_or_insert(header.number);
        let (ticket, data) = (owed.ticket, Arc::clone(&owed.data));
        Some((Call::Data { ticket, session }, Request::Data(Data { header, id, data })))
    }

    /// Whether the peer is to be asked for something that it has newer.
    fn pulls(&self, peer: &Peer, now: Now) -> bool {
        let may = !peer.owed.want.is_empty() && peer.pull.is_due(now.mono_ms);
        may && self.wishes_to(peer, now).next().is_some()
    }

    /// What the peer has newer, by its own word, and no other one was just asked for.
    fn wishes_to<'a>(&'a self, peer: &'a Peer, now: Now) -> impl Iterator<Item = &'a NodeId> {
        let others = self.peers.awake();
        let asked: BTreeSet<&NodeId> =
            others.flat_map(|(_, other)| other.asked_for(now.mono_ms)).gathered();
        peer.owed.want.keys().filter(move |node_id| !asked.contains(node_id))
    }

    /// What the peer has newer, by its own word.
    fn make_pull(&mut self, node_id: &NodeId, now: Now) -> Option<(Call, Request)> {
        let header = self.header(node_id, now)?;
        let peer = self.peers.get(node_id)?;
        let wishes: Vec<NodeId> = self.wishes_to(peer, now).take(PULLED_MAX).cloned().collect();
        let wish = |node_id: &NodeId| {
            let held = self.record_of(node_id);
            let version = held.map_or_else(Version::default, |held| held.version());
            Wish { node_id: node_id.clone(), version }
        };
        let pull = Pull { header, wishes: wishes.iter().map(wish).collect() };
        let is_quick = pull.wishes.len() <= FEW_RECORDS && self.is_joining();
        let percent = if is_quick { FEW_ALONE_PERCENT } else { ALONE_PERCENT };
        let alone_until = now.mono_ms + self.settings.tick_ms * percent / 100;
        Some((Call::Pull { wishes, alone_until }, Request::Pull(pull)))
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
                let address = place_text(peer.place.shown());
                format!("it is lost, not heard for {seconds} s, last at {address}")
            }
        };
        Err(Refused::Unreachable { node_id: node_id.clone(), why })
    }
}

/// Whether records of others are due to the peer, which it can't ask for.
pub(super) fn gives_others(peer: &Peer) -> bool {
    !peer.owed.send.is_empty() && peer.upkeep < UPKEEP_MAX
}

/// How long the answer to a HELLO is waited for, ms, after so many tries: one that got lost is
/// noticed soon, and of a thousand that meet where one try in ten does one loses all three. Whoever
/// was called in vain before, or is called once, has the whole time: it may be a slow host.
pub(super) fn hello_limit_ms(times: &Times, tries: u32, is_given_up: bool) -> u64 {
    if is_given_up { TRY_LIMIT_MS } else { soon_ms(times, tries.saturating_sub(1).min(1)) }
}

/// The same for a list, and for what it showed, of a node that joins: it may know nobody else to
/// ask meanwhile. What is slow, as it is large, comes with the last try.
fn list_limit_ms(times: &Times, tries: u32) -> u64 {
    soon_ms(times, tries.min(2))
}

/// Half a tick, doubled so many times, ms.
fn soon_ms(times: &Times, doublings: u32) -> u64 {
    let first = (times.answer * 3 / 2).max(RETRY_DELAY_MS);
    (first << doublings).min(TRY_LIMIT_MS)
}

/// Whether a request is a PING, or an UPDATE that brings little.
fn is_small(request: &Request) -> bool {
    match request {
        Request::Ping(_) => true,
        Request::Push(push) => {
            let whole = push.records.iter().map(|record| record.entries.bytes());
            let partial = push.patches.iter().map(|patch| patch.bytes());
            whole.chain(partial).sum::<usize>() <= SMALL_BYTES
        }
        _ => false,
    }
}

/// What a slow host on a slow link takes in well below a second, bytes.
const SMALL_BYTES: usize = 16 * 1024;
