//! What comes in: requests of callers that said HELLO, and records; and each reason to refuse them.

use std::net::SocketAddr;
use std::sync::Arc;

use super::hello::{refuse_number, replayed};
use super::{Action, CheckedWord, Incoming, Judgement, Node, Now, Reply, Verdict};
use crate::protocol::identity::{Incarnation, NodeId, PublicKey};
use crate::protocol::record::{Patch, Record, SignedHead};
use crate::protocol::report::{CONFLICT_SHOWN_MS, Event, Message, PeerStatus};
use crate::protocol::verdict::Reason;
use crate::protocol::verified::{Authentic, Verified};
use crate::protocol::wire::{
    Answer, Ask, Data, Header, Held, PULLED_MAX, Pong, Pull, Push, Refusal, RefusedRecord, Relay,
    Suspected, Text, Twin,
};

use super::load::Batch;

/// After so many calls in a row that came to nothing, nobody calls back at once who is called: most
/// likely the caller can be called by nobody, and each such call may take five seconds.
const CALLS_BACK_MAX: u32 = 6;

/// An UPDATE that brings records, after each was looked at: what would be news is verified, what
/// was not verified can be answered, never applied.
#[derive(Debug)]
pub struct CheckedPush {
    /// The receiver's run that it names.
    pub incarnation: Incarnation,
    /// The receiver that it names.
    pub to: NodeId,
    /// What would be news.
    pub records: Vec<Verified<Record>>,
    /// Whose versions in it are held here already.
    pub held: Vec<NodeId>,
    /// What is refused without a look at its signature.
    pub refused: Vec<RefusedPart>,
    /// Whom they are to be brought to.
    pub relays: Vec<Relay>,
    /// Who is asked for.
    pub asks: Vec<Ask>,
    /// Words that were awaited, checked.
    pub words: Vec<CheckedWord>,
    /// Who is accused.
    pub suspects: Vec<Suspected>,
}

impl CheckedPush {
    /// One that brings nothing.
    pub fn new(to: NodeId, incarnation: Incarnation) -> Self {
        Self {
            incarnation,
            to,
            records: Vec::new(),
            held: Vec::new(),
            refused: Vec::new(),
            relays: Vec::new(),
            asks: Vec::new(),
            words: Vec::new(),
            suspects: Vec::new(),
        }
    }
}

/// A record that is refused.
#[derive(Debug)]
pub struct RefusedPart {
    /// Whose.
    pub node_id: NodeId,
    /// Why.
    pub reason: Reason,
    /// For the operator at the other end.
    pub text: String,
    /// The newer version that is held.
    pub held: Option<SignedHead>,
}

impl RefusedPart {
    /// What stands in the way of a version; nothing where nothing does.
    pub fn of(node_id: &NodeId, judgement: Judgement) -> Option<Self> {
        match judgement {
            Judgement::News | Judgement::Held => None,
            Judgement::Refused(reason, text, held) => {
                Some(Self { node_id: node_id.clone(), reason, text, held })
            }
        }
    }
}

impl Node {
    /// Takes a proved request that came over a connection from `caller`; gives the reply and what
    /// else is to be done. A refusal has changed nothing but, for UPDATE, what other records in
    /// the same message were accepted.
    pub fn on_request(
        &mut self,
        request: Incoming,
        caller: SocketAddr,
        now: Now,
    ) -> (Reply, Vec<Action>) {
        let mut actions = Vec::new();
        let actions_in = &mut actions;
        let reply = match request {
            Incoming::Hello(hello) => self.on_hello(hello, caller, now, actions_in),
            Incoming::Push(push) => self.on_push(push, caller, now, actions_in),
            Incoming::Pull(pull) => self.admitted(
                pull,
                |it| &it.header,
                caller,
                now,
                actions_in,
                |node, pull, _| node.on_pull(&pull),
            ),
            Incoming::Peers(peers) => self.admitted(
                peers,
                |it| &it.header,
                caller,
                now,
                actions_in,
                |node, peers, _| Verdict::answer(Answer::Peers(node.answer_peers(&peers))),
            ),
            Incoming::Ping(ping) => self.admitted(
                ping,
                |it| &it.header,
                caller,
                now,
                actions_in,
                |node, ping, actions| {
                    let from = &ping.header.from;
                    if !node.note_view(from, ping.view, now) {
                        node.poke(from, now, actions);
                    }
                    let twin = node.twin_of(from, now);
                    let mail = node.mail_for(from, now);
                    Verdict::answer(Answer::Ping(Pong { view: node.view.hash(), twin, mail }))
                },
            ),
            Incoming::Data(data) => {
                self.admitted(data, |it| &it.header, caller, now, actions_in, Self::on_data)
            }
        };
        // What anybody may have recorded does not show that this node can be called.
        if reply.caller.is_some() {
            self.note_call(now);
        }
        (reply, actions)
    }

    /// Answers a request with a header, if its caller is let in.
    fn admitted<T>(
        &mut self,
        request: Authentic<T>,
        header: impl Fn(&T) -> &Header,
        caller: SocketAddr,
        now: Now,
        actions: &mut Vec<Action>,
        answer: impl FnOnce(&mut Self, T, &mut Vec<Action>) -> Verdict,
    ) -> Reply {
        let signer = request.signer();
        let header = header(request.message()).clone();
        if let Err(refusal) = self.admit(&header, signer, caller, now, actions) {
            return refusal.into();
        }
        let verdict = answer(self, request.into_parts().0, actions);
        Reply { verdict, caller: Some(header.from) }
    }

    /// The key that requests of `node_id` have to be signed with.
    pub fn key_of(&self, node_id: &NodeId) -> Option<PublicKey> {
        self.peers.get(node_id)?.direct_key()
    }

    /// Why a request with this header is refused before its signature is looked at, if it is.
    pub fn refuse_unsigned(&self, header: &Header) -> Option<Verdict> {
        if !self.is_me(&header.to) {
            return Some(self.wrong_receiver(&header.to));
        }
        self.key_of(&header.from).is_none().then(|| unknown_caller(&header.from))
    }

    /// Checks who sends PEERS, PING, DATA or wishes, in which session, and that it is new.
    fn admit(
        &mut self,
        header: &Header,
        signer: PublicKey,
        caller: SocketAddr,
        now: Now,
        actions: &mut Vec<Action>,
    ) -> Result<(), Verdict> {
        if let Some(refusal) = self.refuse_unsigned(header) {
            return Err(refusal);
        }
        let session = self.session_for(&header.from, &signer);
        let Some(peer) = self.peers.get_mut(&header.from) else {
            return Err(unknown_caller(&header.from));
        };
        if peer.direct_key() != Some(signer) {
            // It was forgotten and met anew since the signature was checked.
            return Err(Verdict::refuse(Reason::BadSignature, "not signed with the pinned key"));
        }
        if header.session != session {
            let own_id = &self.settings.node_id;
            let text = format!("{own_id} was started again, or has forgotten {}", header.from);
            return Err(Verdict::refuse(Reason::WrongSession, text));
        }
        if let Some(refusal) = refuse_number(header.number) {
            return Err(refusal);
        }
        if header.number <= peer.link.number_in {
            return Err(replayed(peer.link.number_in));
        }
        peer.link.number_in = header.number;
        if peer.link.incarnation != Some(header.incarnation) {
            let twin = self.refuse_twin(&header.from, header.incarnation, caller, now);
            return Err(twin.unwrap_or_else(|| unknown_caller(&header.from)));
        }
        peer.link.called_at = Some(now.mono_ms);
        let may_be_reached = peer.status != PeerStatus::Alive
            || peer.contact.fruitless() < CALLS_BACK_MAX
            || self.probing.in_vain_since.is_some();
        if !peer.link.connected && may_be_reached {
            // It reaches us: so we may reach it again.
            peer.contact.hurry(now.mono_ms);
        }
        if let Some(moved) = peer.place.address().and_then(|at| at.at_caller(caller)) {
            // Perhaps it is where it calls from now: that is seen by asking it where it was.
            peer.owed.ping |= peer.place.add_hint(&moved);
        }
        self.heard(&header.from, now, actions);
        self.poke(&header.from, now, actions);
        Ok(())
    }

    /// A twin of the node that called lately.
    fn twin_of(&self, node_id: &NodeId, now: Now) -> Option<Twin> {
        let (twin, at) = self.peers.get(node_id)?.link.twin.as_ref()?;
        (now.mono_ms.saturating_sub(*at) < CONFLICT_SHOWN_MS).then(|| twin.clone())
    }

    fn on_data(&mut self, data: Data, actions: &mut Vec<Action>) -> Verdict {
        let from = data.header.from;
        let Some(peer) = self.peers.get_mut(&from) else {
            return unknown_caller(&from);
        };
        let last = peer.link.data_in;
        if last == Some(data.id) {
            // A retry: the message was accepted before, and only the answer was lost.
            return Verdict::answer(Answer::Data);
        }
        if last.is_some_and(|last| data.id < last) {
            return Verdict::refuse(Reason::ReplayedNumber, "a later message was accepted already");
        }
        if !self.inbox.has_room(&from, data.data.len()) {
            let waiting = self.inbox.count_of(&from);
            let text = format!("{waiting} messages of {from} wait there to be received");
            return Verdict::refuse(Reason::InboxFull, text);
        }
        peer.link.data_in = Some(data.id);
        self.inbox.push(Message { from: from.clone(), data: Arc::clone(&data.data) });
        actions.push(Action::Tell(Event::Data { node_id: from, data: data.data }));
        Verdict::answer(Answer::Data)
    }

    /// Why an UPDATE is refused before any record in it is looked at, if it is.
    pub fn refuse_push(&self, push: &Push) -> Option<Verdict> {
        self.refuse_receiver(&push.to, push.incarnation)
    }

    fn refuse_receiver(&self, to: &NodeId, incarnation: Incarnation) -> Option<Verdict> {
        if !self.is_me(to) {
            return Some(self.wrong_receiver(to));
        }
        let text = || format!("{to} was started again since");
        (incarnation != self.incarnation()).then(|| Verdict::refuse(Reason::WrongSession, text()))
    }

    /// What becomes of a patch: as of a version, but it needs its base.
    pub fn judge_patch(&self, patch: &Patch) -> Judgement {
        let owner = &patch.node_id;
        if self.is_me(owner) {
            return Judgement::refused(Reason::OwnRecord, format!("only {owner} writes it"));
        }
        let lacks_base = || {
            let text = format!("the version of {owner} that this is made of is not held here");
            Judgement::refused(Reason::LacksBase, text)
        };
        let Some(held) = self.record_of(owner) else {
            return self.refuse_forgotten(owner).unwrap_or_else(lacks_base);
        };
        // Where the base is held, it is what is held, and it says under which key and of which home
        // the patch is. Where it is not, the patch counts as one under the key held; a version that
        // is told from the one held by its home alone counts as held.
        match self.judge(&patch.head(&held.head.home), &held.public_key) {
            Judgement::News if self.base_of(patch).is_none() => lacks_base(),
            judgement => judgement,
        }
    }

    fn on_push(
        &mut self,
        push: CheckedPush,
        caller: SocketAddr,
        now: Now,
        actions: &mut Vec<Action>,
    ) -> Reply {
        if let Some(refusal) = self.refuse_receiver(&push.to, push.incarnation) {
            return refusal.into();
        }
        let mut proved = None;
        let (mut refused, mut held) = (push.refused, push.held);
        for part in refused.iter().filter(|part| part.reason == Reason::OtherKey) {
            self.note_dispute(&part.node_id, now);
        }
        for record in push.records {
            let owner = record.head.node_id.clone();
            let was_held = self.floor_of(&owner).is_some_and(|floor| floor.was_held(&record));
            let judgement = self.take(record, now, actions);
            let is_news = matches!(judgement, Judgement::News) && !was_held;
            if is_news && self.lives_on(&owner, caller) {
                // What was never here was not recorded on its way here, and it comes from where its
                // owner is: it is no other member that brings it.
                proved.get_or_insert(owner.clone());
            }
            if matches!(judgement, Judgement::News | Judgement::Held) {
                held.push(owner.clone());
            }
            refused.extend(RefusedPart::of(&owner, judgement));
        }
        held.extend(push.suspects.iter().filter(|it| self.holds(it)).map(|it| it.node_id.clone()));
        self.on_words(push.words, now, actions);
        self.on_suspects(push.suspects, now, actions);
        for relay in push.relays.iter().filter(|relay| held.contains(&relay.owner)) {
            self.pass_on(relay, now, actions);
        }
        let challenge = self.on_asks(push.asks, now, actions);
        let here = challenge.map(|it| Verdict::Here(self.settings.node_id.clone(), it));
        let verdict = refuse_parts(refused).or(here).unwrap_or(Verdict::Nothing);
        Reply { verdict, caller: proved }
    }

    /// Whether just the version is held here that somebody accuses.
    fn holds(&self, suspected: &Suspected) -> bool {
        let peer = self.peers.get(&suspected.node_id);
        peer.is_some_and(|peer| peer.version().fingerprint == suspected.fingerprint)
    }

    /// Whether a node has answered on the host that somebody calls from.
    fn lives_on(&self, node_id: &NodeId, caller: SocketAddr) -> bool {
        let proved = self.peers.get(node_id).and_then(|peer| peer.place.proved());
        proved.is_some_and(|at| at.at_caller(caller).as_ref() == Some(at))
    }

    fn on_pull(&self, pull: &Pull) -> Verdict {
        let mut batch = Batch::of(PULLED_MAX);
        for wish in &pull.wishes {
            let held = self.record_of(&wish.node_id);
            if let Some(record) = held.filter(|held| held.version() != wish.version)
                && !batch.take(record)
            {
                break;
            }
        }
        if batch.records.is_empty() {
            Verdict::Nothing
        } else {
            Verdict::answer(Answer::Records(batch.records))
        }
    }

    /// The record that is held of a node, the own one too.
    pub(super) fn record_of(&self, node_id: &NodeId) -> Option<&Verified<Record>> {
        if self.is_me(node_id) {
            return Some(&self.own);
        }
        self.peers.get(node_id)?.record.as_ref()
    }
}

/// One refusal for all records that were refused; the first one says why.
fn refuse_parts(refused: Vec<RefusedPart>) -> Option<Verdict> {
    let first = refused.first()?;
    let (reason, text) = (first.reason, Text::new(&first.text));
    let held = |held: SignedHead| Held {
        timestamp: held.head.timestamp,
        left: held.head.left,
        digest: held.head.digest,
        home: held.head.home,
        signature: held.signature,
    };
    let records = refused.into_iter().map(|part| RefusedRecord {
        node_id: part.node_id,
        reason: part.reason.code(),
        held: part.held.map(held),
    });
    let refusal = Refusal { reason: reason.code(), text, number: 0, records: records.collect() };
    Some(Verdict::Refuse(reason, Box::new(refusal)))
}

fn unknown_caller(from: &NodeId) -> Verdict {
    Verdict::refuse(Reason::UnknownSender, format!("this run of {from} has not said HELLO here"))
}
