//! What comes in: each of the five requests, and each reason to refuse it.

use std::net::SocketAddr;
use std::sync::Arc;

use super::calls::Batch;
use super::report::CONFLICT_SHOWN_MS;
use super::{Action, Authentic, Conflict, Node, Now, Reply, give_up_doubtful};
use crate::protocol::address::Address;
use crate::protocol::crypto::key_fingerprint;
use crate::protocol::identity::{NodeId, PublicKey, Session};
use crate::protocol::patch::Patch;
use crate::protocol::peers::Trust;
use crate::protocol::report::{Event, Message, PeerStatus};
use crate::protocol::state::{Head, Record};
use crate::protocol::verdict::Reason;
use crate::protocol::wire::{
    Answer, Data, Header, Hello, HelloAnswer, KnownNode, PeersAnswer, Pong, Refusal, Request, Twin,
    Update, Want,
};
use crate::protocol::{PEERS_MAX, PROTOCOL_VERSION};

/// Most later versions of the own record that peers may show in one session. More means that
/// somebody else goes on writing it, and answering each with a still later one would never end.
const CATCH_UPS_MAX: u32 = 16;

/// What an operator does about two nodes with one key.
pub(super) const TWIN_ADVICE: &str =
    "stop one of them, and let it make a key of its own under another id";

impl Node {
    /// Takes a proved request that came over a connection from `caller`; gives the reply and what
    /// else is to be done. A refusal has changed nothing but, for UPDATE, what other records in
    /// the same message were accepted.
    pub fn on_request(
        &mut self,
        request: Authentic,
        caller: SocketAddr,
        now: Now,
    ) -> (Reply, Vec<Action>) {
        let mut actions = Vec::new();
        let signer = request.signer;
        let reply = match request.request {
            Request::Hello(hello) => self.on_hello(hello, caller, now, &mut actions),
            Request::Update(update) => self.on_update(update, now, &mut actions),
            Request::Peers(peers) => {
                match self.admit(&peers.header, signer, caller, now, &mut actions) {
                    Ok(()) => Reply::answer(Answer::Peers(self.known_nodes(&peers.header.from))),
                    Err(refusal) => refusal,
                }
            }
            Request::Ping(ping) => {
                match self.admit(&ping.header, signer, caller, now, &mut actions) {
                    Ok(()) => {
                        let twin = self.twin_of(&ping.header.from, now);
                        Reply::answer(Answer::Ping(Pong { view: self.view, twin }))
                    }
                    Err(refusal) => refusal,
                }
            }
            Request::Data(data) => self.on_data(data, signer, caller, now, &mut actions),
        };
        (reply, actions)
    }

    fn on_hello(
        &mut self,
        hello: Hello,
        caller: SocketAddr,
        now: Now,
        actions: &mut Vec<Action>,
    ) -> Reply {
        if let Some(refusal) = self.refuse_identity(&hello, caller, now, actions) {
            return refusal;
        }
        let (seen, own_id) = (Address::of(caller.ip(), caller.port()), &self.settings.node_id);
        match &hello.to {
            Some((to, _)) if to != own_id => {
                return Reply::refuse(Reason::WrongReceiver, format!("this is {own_id}, not {to}"));
            }
            Some((_, session)) if *session == self.settings.session => {}
            _ => {
                return Reply::answer(Answer::Hello(HelloAnswer {
                    version: PROTOCOL_VERSION,
                    node_id: self.settings.node_id.clone(),
                    public_key: self.settings.public_key,
                    session: self.settings.session,
                    program: self.settings.program.clone(),
                    advertise: self.settings.advertise.clone(),
                    seen,
                }));
            }
        }
        self.on_proved_hello(hello, caller, now, actions)
    }

    /// The HELLO names our session: its sender speaks now.
    fn on_proved_hello(
        &mut self,
        hello: Hello,
        caller: SocketAddr,
        now: Now,
        actions: &mut Vec<Action>,
    ) -> Reply {
        let from = hello.from;
        if let Some(peer) = self.peers.get(&from) {
            if hello.number <= peer.link.number_in {
                return replayed(peer.link.number_in);
            }
            if let Some(refusal) = self.refuse_twin(&from, hello.session, caller, now, actions) {
                return refusal;
            }
        }
        if self.peer_or_new(&from, Trust::Direct, now, actions).is_none() {
            let text = format!("this node knows {PEERS_MAX} nodes already, and all of them live");
            return Reply::refuse(Reason::LimitExceeded, text);
        }
        self.pin(&from, hello.public_key, now, actions);
        let claimed = match &hello.advertise {
            Some(address) => address.clone(),
            None => Address::of(caller.ip(), hello.port),
        };
        if let Some(peer) = self.peers.get_mut(&from) {
            peer.link.number_in = hello.number;
            peer.advertise = hello.advertise;
            if peer.begin_session(hello.session) {
                give_up_doubtful(&from, peer, actions);
            }
            peer.link.connected = true;
            peer.failures = 0;
            peer.attempt_at = 0;
            peer.retry = None;
            peer.owed.ping = true;
            if peer.move_to(claimed) {
                actions.push(Action::SavePeers);
            }
        }
        self.heard(&from, now, actions);
        self.poke(&from, now, actions);
        Reply::Nothing
    }

    /// A twin of the node that called lately.
    fn twin_of(&self, node_id: &NodeId, now: Now) -> Option<Twin> {
        let (twin, at) = self.peers.get(node_id)?.link.twin.as_ref()?;
        (now.mono_ms.saturating_sub(*at) < CONFLICT_SHOWN_MS).then(|| twin.clone())
    }

    /// A session that a later one replaced is still in use: somebody runs with the same key.
    fn refuse_twin(
        &mut self,
        from: &NodeId,
        session: Session,
        caller: SocketAddr,
        now: Now,
        actions: &mut Vec<Action>,
    ) -> Option<Reply> {
        let peer = self.peers.get_mut(from)?;
        if !peer.link.superseded.contains(&session) {
            return None;
        }
        if let Some(public_key) = peer.direct_key() {
            let address = Address::of(caller.ip(), caller.port());
            peer.link.twin = Some((Twin { address, public_key }, now.mono_ms));
        }
        let other = peer.address.as_ref().map_or("elsewhere", |address| address.as_str());
        let key = peer.direct_key().map(|key| key_fingerprint(&key)).unwrap_or_default();
        let text = format!(
            "two nodes run as {from} with one key, {key}: one at {other}, one at {}; {TWIN_ADVICE}",
            caller.ip()
        );
        self.note_conflict(Conflict::about(from, text.clone(), now), actions);
        Some(Reply::refuse(Reason::SupersededSession, text))
    }

    /// A HELLO of a node that has our id, or an id that is pinned to another key.
    fn refuse_identity(
        &mut self,
        hello: &Hello,
        caller: SocketAddr,
        now: Now,
        actions: &mut Vec<Action>,
    ) -> Option<Reply> {
        let from = &hello.from;
        let offered = key_fingerprint(&hello.public_key);
        let place = Address::of(caller.ip(), hello.port);
        if !self.is_me(from) && !self.is_allowed(from, &hello.public_key) {
            let text = not_allowed(from, &hello.public_key);
            let note = format!("{text} (it called from {})", caller.ip());
            self.note_conflict(Conflict::about(from, note, now), actions);
            return Some(Reply::refuse(Reason::NotAllowed, text));
        }
        let (pinned, pinned_at) = if self.is_me(from) {
            if hello.session == self.settings.session {
                return Some(Reply::refuse(Reason::WrongReceiver, "you called yourself"));
            }
            (Some(self.settings.public_key), "this node".to_owned())
        } else {
            let peer = self.peers.get(from)?;
            let at = peer.address.as_ref().map_or("an unknown address", |a| a.as_str()).to_owned();
            (peer.direct_key(), format!("known at {at}"))
        };
        let pinned = pinned?;
        let reason = match (self.is_me(from), pinned == hello.public_key) {
            (false, true) => return None,
            (true, true) => Reason::SameId,
            (_, false) => Reason::OtherKey,
        };
        let text = format!(
            "two nodes use the id {from}: key {} ({pinned_at}) and key {offered} at {place}. If the host was set up anew, \
             `dsn forget {from}` on the others; else give one of them another id",
            key_fingerprint(&pinned)
        );
        self.note_conflict(Conflict::about(from, text.clone(), now), actions);
        if let Some(peer) = self.peers.get_mut(from) {
            // Our next answer to the one that is known tells it.
            let twin = Twin { address: place, public_key: hello.public_key };
            peer.link.twin = Some((twin, now.mono_ms));
        }
        Some(Reply::refuse(reason, text))
    }

    /// Checks who sends PEERS, PING or DATA, to whom, in which session, and that it is new.
    fn admit(
        &mut self,
        header: &Header,
        signer: Option<PublicKey>,
        caller: SocketAddr,
        now: Now,
        actions: &mut Vec<Action>,
    ) -> Result<(), Reply> {
        let own_id = &self.settings.node_id;
        if header.to != *own_id {
            let text = format!("this is {own_id}, not {}", header.to);
            return Err(Reply::refuse(Reason::WrongReceiver, text));
        }
        let Some(peer) = self.peers.get_mut(&header.from) else {
            return Err(unknown_sender(&header.from));
        };
        match peer.direct_key() {
            None => return Err(unknown_sender(&header.from)),
            Some(key) if Some(key) != signer => {
                return Err(Reply::refuse(Reason::BadSignature, "not signed with the pinned key"));
            }
            Some(_) => {}
        }
        if header.session != self.settings.session {
            let text = format!("{own_id} was started again since");
            return Err(Reply::refuse(Reason::WrongSession, text));
        }
        if header.number <= peer.link.number_in {
            return Err(replayed(peer.link.number_in));
        }
        if peer.link.session != Some(header.from_session) {
            let twin = self.refuse_twin(&header.from, header.from_session, caller, now, actions);
            return Err(twin.unwrap_or_else(|| unknown_sender(&header.from)));
        }
        peer.link.number_in = header.number;
        if !peer.link.connected {
            // It reaches us: so we may reach it again, perhaps where it calls from.
            peer.attempt_at = peer.attempt_at.min(now.mono_ms);
            if let Some(moved) = peer.address.as_ref().and_then(|at| at.with_ip(caller.ip()))
                && peer.add_hint(&moved)
            {
                peer.try_soon(now.mono_ms);
            }
        }
        self.heard(&header.from, now, actions);
        self.poke(&header.from, now, actions);
        Ok(())
    }

    fn on_data(
        &mut self,
        data: Data,
        signer: Option<PublicKey>,
        caller: SocketAddr,
        now: Now,
        actions: &mut Vec<Action>,
    ) -> Reply {
        if let Err(refusal) = self.admit(&data.header, signer, caller, now, actions) {
            return refusal;
        }
        let from = data.header.from;
        let Some(peer) = self.peers.get_mut(&from) else {
            return unknown_sender(&from);
        };
        if data.id == peer.link.data_in {
            // A retry: the message was accepted before, and only the answer was lost.
            return Reply::answer(Answer::Data);
        }
        if data.id < peer.link.data_in {
            return replayed(peer.link.number_in);
        }
        if !self.inbox.has_room(data.data.len()) {
            let text = format!("{} messages wait there to be received", self.inbox.len());
            return Reply::refuse(Reason::InboxFull, text);
        }
        peer.link.data_in = data.id;
        self.inbox.push(Message { from: from.clone(), data: Arc::clone(&data.data) });
        actions.push(Action::Tell(Event::Data { node_id: from, data: data.data }));
        Reply::answer(Answer::Data)
    }

    fn on_update(&mut self, update: Update, now: Now, actions: &mut Vec<Action>) -> Reply {
        let own_id = &self.settings.node_id;
        if update.to != *own_id {
            let text = format!("this is {own_id}, not {}", update.to);
            return Reply::refuse(Reason::WrongReceiver, text);
        }
        if update.session != self.settings.session {
            let text = format!("{own_id} was started again since");
            return Reply::refuse(Reason::WrongSession, text);
        }
        let refusals: Vec<Reply> = update
            .records
            .into_iter()
            .filter_map(|record| self.take_record(record, now, actions).err())
            .collect();
        // The others were made whole before.
        let baseless = update.patches.iter().filter_map(|patch| self.refuse_patch(patch));
        if let Some(first) = refusals.into_iter().chain(baseless).next() {
            return first;
        }
        let mut batch = Batch::default();
        for want in &update.wants {
            if let Some(record) = self.newer_than(want)
                && !batch.take(&record)
            {
                break;
            }
        }
        if batch.records.is_empty() {
            Reply::Nothing
        } else {
            Reply::answer(Answer::Update(batch.records))
        }
    }

    /// A partial record whose base is not held here: the whole one is asked for, unless what is
    /// held is as new.
    fn refuse_patch(&self, patch: &Patch) -> Option<Reply> {
        let owner = &patch.head.node_id;
        if self.is_me(owner) {
            let text = format!("only {owner} writes it");
            return Some(Reply::refuse(Reason::OwnRecord, text));
        }
        let held = self.peers.get(owner).and_then(|peer| peer.record.as_ref());
        match held {
            Some(held) if held.head.is_newer_than(&patch.head) => Some(stale(held)),
            Some(held) if held.head == patch.head => None,
            _ => {
                let text = format!("the version of {owner} that this is made of is not held here");
                Some(Reply::refuse(Reason::LacksBase, text))
            }
        }
    }

    fn newer_than(&self, want: &Want) -> Option<Arc<Record>> {
        let record = if self.is_me(&want.node_id) {
            &self.own
        } else {
            self.peers.get(&want.node_id)?.record.as_ref()?
        };
        let differs = record.fingerprint != want.version.fingerprint;
        (record.head.timestamp >= want.version.timestamp && differs).then(|| Arc::clone(record))
    }

    /// Takes a record, whose signature fits the key that it carries, if it is newer than what is
    /// held. Holding it already is fine; an older one is refused.
    pub(super) fn take_record(
        &mut self,
        record: Arc<Record>,
        now: Now,
        actions: &mut Vec<Action>,
    ) -> Result<(), Reply> {
        let owner = record.head.node_id.clone();
        if self.is_me(&owner) {
            return Err(self.refuse_own(&record, now, actions));
        }
        if !self.is_allowed(&owner, &record.public_key) {
            let text = not_allowed(&owner, &record.public_key);
            return Err(Reply::refuse(Reason::NotAllowed, text));
        }
        let Some(peer) = self.peer_or_new(&owner, Trust::Hearsay, now, actions) else {
            let text = format!("this node knows {PEERS_MAX} nodes already");
            return Err(Reply::refuse(Reason::LimitExceeded, text));
        };
        match peer.key {
            Some((key, _)) if key != record.public_key => {
                let text = format!(
                    "the record of {owner} is signed with key {}, but key {} is pinned here; `dsn forget {owner}` unpins it",
                    key_fingerprint(&record.public_key),
                    key_fingerprint(&key)
                );
                self.note_conflict(Conflict::about(&owner, text.clone(), now), actions);
                return Err(Reply::refuse(Reason::OtherKey, text));
            }
            Some(_) => {}
            None => {
                peer.key = Some((record.public_key, Trust::Hearsay));
                actions.push(Action::SavePeers);
            }
        }
        if record.head.timestamp <= peer.expired.timestamp {
            return Ok(());
        }
        match &peer.record {
            Some(held) if held.head.is_newer_than(&record.head) => Err(stale(held)),
            Some(held) if !record.head.is_newer_than(&held.head) => Ok(()),
            _ => {
                self.apply(record, now, actions);
                Ok(())
            }
        }
    }

    /// Somebody sends us our own record. One that we don't know, with our signature, was made in
    /// an earlier run whose files are lost, or by a twin.
    fn refuse_own(&mut self, record: &Record, now: Now, actions: &mut Vec<Action>) -> Reply {
        if record.public_key == self.settings.public_key {
            self.catch_up(&record.head, now, actions);
        }
        Reply::refuse(Reason::OwnRecord, format!("only {} writes it", self.settings.node_id))
    }

    /// Peers hold this version of our record, with our signature.
    pub(super) fn catch_up(&mut self, held: &Head, now: Now, actions: &mut Vec<Action>) {
        // One that is to be left behind is on its way to the disk already.
        let is_on_its_way = self.own.head.timestamp < self.timestamp_floor;
        if !held.is_newer_than(&self.own.head)
            || held.timestamp < self.timestamp_floor
            || held.timestamp == self.timestamp_floor && is_on_its_way
        {
            return;
        }
        self.catch_ups += 1;
        if self.catch_ups > CATCH_UPS_MAX {
            let own_id = self.settings.node_id.clone();
            let text = format!(
                "somebody else goes on writing the state of {own_id} with the key of {own_id}: {TWIN_ADVICE}"
            );
            self.note_conflict(Conflict::about(&own_id, text, now), actions);
            return;
        }
        self.timestamp_floor = held.timestamp;
        actions.push(Action::Republish);
    }

    /// All that the answer to PEERS tells: ourselves, and all others but the one who asks.
    fn known_nodes(&self, asks: &NodeId) -> PeersAnswer {
        let own = KnownNode {
            node_id: self.settings.node_id.clone(),
            address: self.settings.advertise.clone().or_else(|| self.seen_at.clone()),
            version: self.version_held_of(&self.settings.node_id),
        };
        let others = self.peers.iter().map(|(node_id, peer)| KnownNode {
            node_id: node_id.clone(),
            address: peer
                .address_to_share()
                .filter(|_| node_id != asks && peer.status != PeerStatus::Left)
                .cloned(),
            version: peer.version(),
        });
        PeersAnswer { nodes: std::iter::once(own).chain(others).collect() }
    }
}

pub(super) fn not_allowed(node_id: &NodeId, key: &PublicKey) -> String {
    format!(
        "{node_id} with key {} is not in the list of nodes that may be in this network",
        key_fingerprint(key)
    )
}

fn unknown_sender(from: &NodeId) -> Reply {
    Reply::refuse(Reason::UnknownSender, format!("this run of {from} has not said HELLO here"))
}

fn replayed(number: u64) -> Reply {
    let refusal = Refusal {
        reason: Reason::ReplayedNumber.code(),
        text: format!("a request with number {number} was here already"),
        held: None,
        number,
    };
    Reply::Refuse(Reason::ReplayedNumber, Box::new(refusal))
}

fn stale(held: &Record) -> Reply {
    let head = &held.head;
    let refusal = Refusal {
        reason: Reason::Stale.code(),
        text: format!(
            "version {} of {} is held here, which is newer",
            head.timestamp, head.node_id
        ),
        held: Node::held_of(held),
        number: 0,
    };
    Reply::Refuse(Reason::Stale, Box::new(refusal))
}
