//! Versions of others' states: what is taken, what is refused, and what follows from it.

use std::sync::Arc;

use super::{Action, Node, Now, Republish, Urgency, give_up};
use crate::protocol::fault::{Code, Fault};
use crate::protocol::floor::Floor;
use crate::protocol::head::Head;
use crate::protocol::identity::{NodeId, PublicKey};
use crate::protocol::link::Link;
use crate::protocol::peer::{Peer, Pin, Trust};
use crate::protocol::record::{Patch, Record, SignedHead};
use crate::protocol::report::{Event, PeerStatus};
use crate::protocol::verdict::Reason;
use crate::protocol::verified::Verified;
use crate::protocol::{PEERS_MAX, RETENTION_MS};

use super::hello::{TWIN_ADVICE, not_listed};

/// How often those that are lost are tried soon as another one is back, ms: a network that heals
/// does so once.
const HURRY_EVERY_MS: u64 = 10_000;
/// Most later versions of the own record that peers may show in one run. More means that somebody
/// else goes on writing it, and answering each with a still later one would never end.
const CATCH_UPS_MAX: u32 = 16;

/// What becomes of a version of which only the head and the key are known.
#[derive(Debug)]
pub enum Judgement {
    /// It would be taken, if it is signed by its owner.
    News,
    /// It is held already.
    Held,
    /// It is not taken, whoever signed it. Where a newer version is held, its head proves it.
    Refused(Reason, String, Option<SignedHead>),
}

impl Judgement {
    pub(super) fn refused(reason: Reason, text: impl Into<String>) -> Self {
        Self::Refused(reason, text.into(), None)
    }
}

impl Node {
    /// What would become of a version of a node, without looking at its signature.
    pub fn judge(&self, head: &Head, key: &PublicKey) -> Judgement {
        let owner = &head.node_id;
        if self.is_me(owner) {
            let is_news = *key == self.settings.public_key && head.is_newer_than(&self.own.head);
            let refused =
                || Judgement::refused(Reason::OwnRecord, format!("only {owner} writes it"));
            return if is_news { Judgement::News } else { refused() };
        }
        if let Some(refused) = self.refuse_forgotten(owner) {
            return refused;
        }
        if !self.is_allowed(owner, key) {
            return Judgement::refused(Reason::NotAllowed, not_listed(owner, key));
        }
        if let Some(pinned) = self.pin_of(owner).filter(|pin| !believes(*pin, key, owner)) {
            let text = format!(
                "the record of {owner} is signed with key {}, but key {} is known here; `dsn forget {owner}` drops it",
                key.fingerprint(),
                pinned.key.fingerprint()
            );
            return Judgement::refused(Reason::OtherKey, text);
        }
        self.judge_age(head, key)
    }

    /// What is said to whoever brings a version of a node that was forgotten, whatever it is.
    pub(super) fn refuse_forgotten(&self, owner: &NodeId) -> Option<Judgement> {
        let text = || format!("{owner} was forgotten here and has to say HELLO itself");
        let is_forgotten = self.graves.is_forgotten(owner);
        is_forgotten.then(|| Judgement::refused(Reason::Forgotten, text()))
    }

    /// The same for a version whose key is believed.
    fn judge_age(&self, head: &Head, key: &PublicKey) -> Judgement {
        let owner = &head.node_id;
        let held = self.peers.get(owner).and_then(|peer| peer.record.as_ref());
        match held.filter(|held| held.public_key == *key) {
            Some(held) if held.head.is_newer_than(head) => {
                let text = format!("version {} of {owner} is held here", held.head.timestamp);
                Judgement::Refused(Reason::Stale, text, Some(held.signed_head()))
            }
            Some(held) if held.head == *head => Judgement::Held,
            Some(_) => Judgement::News,
            None if self.floor_of(owner).is_some_and(|it| !it.lets(key, head.timestamp)) => {
                let text = format!("a later version of {owner} was dropped here");
                let proof = self.floor_of(owner).and_then(|floor| floor.proof_for(key));
                Judgement::Refused(Reason::Stale, text, proof.cloned())
            }
            None if self.peers.get(owner).is_none() && !self.has_room_for_hearsay() => {
                let text = format!("this node knows {PEERS_MAX} nodes already");
                Judgement::refused(Reason::LimitExceeded, text)
            }
            None => Judgement::News,
        }
    }

    fn has_room_for_hearsay(&self) -> bool {
        self.peers.room_for(Trust::Hearsay, 0).is_some()
    }

    /// The key that a node is known by, even if it is not in the table any more.
    pub(super) fn pin_of(&self, node_id: &NodeId) -> Option<Pin> {
        match self.peers.get(node_id) {
            Some(peer) => peer.pin,
            None => self.graves.get(node_id)?.pin,
        }
    }

    pub(super) fn floor_of(&self, node_id: &NodeId) -> Option<&Floor> {
        match self.peers.get(node_id) {
            Some(peer) => Some(&peer.floor),
            None => Some(&self.graves.get(node_id)?.floor),
        }
    }

    /// The record that a patch is made of, if it is held.
    pub fn base_of(&self, patch: &Patch) -> Option<Verified<Record>> {
        let held = self.peers.get(&patch.node_id)?.record.as_ref()?;
        // The fingerprint stands for the key as well.
        (held.fingerprint == patch.base).then(|| held.clone())
    }

    /// Takes a version if it is news. Only a verified one can be.
    pub(super) fn take(
        &mut self,
        record: Verified<Record>,
        now: Now,
        actions: &mut Vec<Action>,
    ) -> Judgement {
        let judgement = self.judge(&record.head, &record.public_key);
        if !matches!(judgement, Judgement::News) {
            return judgement;
        }
        if self.is_me(&record.head.node_id) {
            self.catch_up(&record.head, now, actions);
            let text = format!("only {} writes it", self.settings.node_id);
            return Judgement::refused(Reason::OwnRecord, text);
        }
        let (owner, key) = (record.head.node_id.clone(), record.public_key);
        let pinned = self.pin_of(&owner);
        if pinned.is_some_and(|pin| pin.key != key) {
            self.replace_hearsay(&owner, now, actions);
        }
        let Some(peer) = self.peer_or_new(&owner, Trust::Hearsay, now, actions) else {
            let text = format!("this node knows {PEERS_MAX} nodes already");
            return Judgement::refused(Reason::LimitExceeded, text);
        };
        if peer.pin.is_none_or(|pin| pin.key != key) {
            peer.pin = Some(Pin { key, trust: Trust::Hearsay });
            self.want_saved(Urgency::Soon, actions);
        }
        self.apply(record, now, actions);
        Judgement::News
    }

    /// Another key is believed for a node that was known from hearsay alone: what came with the old
    /// one goes.
    pub(super) fn replace_hearsay(
        &mut self,
        node_id: &NodeId,
        now: Now,
        actions: &mut Vec<Action>,
    ) {
        let Some(mut peer) = self.peers.remove(node_id) else { return };
        self.drop_record(node_id, &mut peer, actions);
        peer.pin = None;
        peer.link = Link::default();
        peer.known_since = now.mono_ms;
        self.peers.insert(node_id.clone(), peer);
    }

    /// Takes a newer version of another node's record.
    fn apply(&mut self, record: Verified<Record>, now: Now, actions: &mut Vec<Action>) {
        let node_id = record.head.node_id.clone();
        let is_mesh = self.is_mesh();
        let Some(peer) = self.peers.get_mut(&node_id) else { return };
        let Head { timestamp, left, digest, home, .. } = record.head.clone();
        let new = Arc::clone(&record.entries);
        let old = peer.record.replace(record);
        let lived_at = old.as_ref().and_then(|old| old.head.home.address.as_ref());
        let has_moved = lived_at != home.address.as_ref();
        if old.as_ref().is_some_and(|old| old.head.home.incarnation != home.incarnation) {
            // Another run: what was in the way may be there no more.
            peer.watch.far.succeeded();
        }
        peer.passed.clear();
        self.members += usize::from(old.is_none());
        if let Some((old, new)) = old.as_ref().zip(peer.record.clone()).filter(|_| !is_mesh) {
            peer.note_step(old, &new, now);
        }
        if old.as_ref().is_none_or(|old| old.head.digest != digest) {
            peer.record_since = Some(now.mono_ms);
            let old = old.map(|old| Arc::clone(&old.entries)).unwrap_or_default();
            actions.push(Action::Changed { node_id: node_id.clone(), timestamp, old, new });
        }
        if !left {
            self.refuted(&node_id, now, actions);
        }
        let Some(peer) = self.peers.get_mut(&node_id) else { return };
        if left && peer.status != PeerStatus::Left {
            peer.status = PeerStatus::Left;
            // This is the later version, and nobody need be told more.
            peer.is_to_return = false;
            peer.link.connected = false;
            // What this run still says does not bring it back.
            peer.link.left = peer.run();
            give_up(&node_id, peer, "it left the network", actions);
            actions.push(Action::Tell(Event::Left { node_id: node_id.clone() }));
            return self.note_in_view(&node_id);
        }
        if !left && peer.status == PeerStatus::Left {
            peer.status = PeerStatus::Suspect;
            peer.link.left = None;
            peer.known_since = now.mono_ms;
            peer.heard_at = None;
            peer.contact.hurry(now.mono_ms);
        }
        if let Some(address) = home.address.filter(|_| !left) {
            if has_moved && !peer.link.connected {
                // Nobody else may ever say where it is; and where it was it is no more.
                peer.place.settle(&address);
            }
            self.take_hint(&node_id, &address, now, actions);
        }
        self.believe(&node_id, actions);
        self.is_brought_back(&node_id, now, actions);
        self.note_in_view(&node_id);
        if is_mesh && !self.is_mesh() {
            // Who is known already counts as there from now on.
            self.peers.wake_all();
            self.look_at_hearsay(actions);
            self.choose_acquaintances(now);
        }
    }

    pub(super) fn drop_record(
        &mut self,
        node_id: &NodeId,
        peer: &mut Peer,
        actions: &mut Vec<Action>,
    ) {
        if let Some(record) = peer.record.take() {
            peer.floor.raise(&record);
            peer.changes = None;
            self.view.note(node_id, None);
            actions.push(Action::Changed {
                node_id: node_id.clone(),
                timestamp: record.head.timestamp,
                old: Arc::clone(&record.entries),
                new: Arc::default(),
            });
        }
    }

    /// What a lost node left behind goes at the end of the retention time. Its key stays, and so
    /// does the name of the version, so that nobody brings it back.
    pub(super) fn drop_expired(&mut self, now: Now, actions: &mut Vec<Action>) {
        let is_expired = |peer: &Peer| {
            matches!(peer.status, PeerStatus::Lost | PeerStatus::Left)
                && peer.record.is_some()
                && peer.silence(now.mono_ms) > RETENTION_MS
        };
        let expired: Vec<NodeId> = self
            .peers
            .awake()
            .filter(|(_, peer)| is_expired(peer))
            .map(|(node_id, _)| node_id.clone())
            .collect();
        for node_id in expired {
            if let Some(mut peer) = self.peers.remove(&node_id) {
                let key = peer.record.as_ref().map(|record| record.public_key);
                self.drop_record(&node_id, &mut peer, actions);
                key.iter().for_each(|key| peer.floor.expire(key));
                self.peers.insert(node_id, peer);
            }
        }
    }

    /// Something signed by the peer came directly from it.
    pub(super) fn heard(&mut self, node_id: &NodeId, now: Now, actions: &mut Vec<Action>) {
        let gaps = self.gaps();
        let Some(peer) = self.peers.get_mut(node_id) else { return };
        peer.note_gap(now.mono_ms, gaps);
        peer.heard_at = Some(now.mono_ms);
        peer.owed.is_asked_for = false;
        self.clear(node_id);
        let Some(peer) = self.peers.get_mut(node_id) else { return };
        // What was dropped for its age is good again when its owner brings it.
        peer.floor.revive();
        let is_leaving = peer.status == PeerStatus::Left && peer.link.said_goodbye();
        if peer.status == PeerStatus::Alive || is_leaving {
            return;
        }
        let was = std::mem::replace(&mut peer.status, PeerStatus::Alive);
        peer.link.left = None;
        if peer.was_away() {
            // It may have missed much, and what it did not answer then says nothing now.
            peer.unanswered.clear();
            peer.exchange.succeeded();
            peer.push.hurry(now.mono_ms);
            peer.again.hurry(now.mono_ms);
            peer.give.hurry(now.mono_ms);
        }
        peer.grace_until = Some(now.mono_ms);
        actions.push(Action::Tell(Event::Joined { node_id: node_id.clone() }));
        self.note_in_view(node_id);
        if was == PeerStatus::Lost {
            self.bring_back(node_id);
            self.hurry_lost_peers(now);
        }
    }

    /// Where one lost peer is back a partition may have ended: the others are tried soon, spread
    /// over a tick.
    fn hurry_lost_peers(&mut self, now: Now) {
        // Two that take each HELLO, and are lost again, do not hurry each other for ever.
        let was_just_now = |at: u64| now.mono_ms.saturating_sub(at) < HURRY_EVERY_MS;
        if self.hurried_at.is_some_and(was_just_now) {
            return;
        }
        self.hurried_at = Some(now.mono_ms);
        let tick_ms = self.settings.tick_ms.max(1);
        let random = &mut self.random;
        self.peers.change_awake(|_, peer| {
            if peer.status == PeerStatus::Lost {
                peer.contact.hurry(now.mono_ms + random.u64(0..tick_ms));
            }
        });
    }

    /// Peers hold this version of our record, with our signature: it was made in an earlier run
    /// whose files are lost, or by a twin.
    pub(super) fn catch_up(&mut self, held: &Head, now: Now, actions: &mut Vec<Action>) {
        // A version above the floor is on its way to the disk already.
        if !held.is_newer_than(&self.own.head)
            || held.timestamp < self.timestamp_floor
            || held.timestamp == self.timestamp_floor && self.behind.is_some()
        {
            return;
        }
        self.catch_ups += 1;
        if self.catch_ups > CATCH_UPS_MAX {
            let own_id = self.settings.node_id.clone();
            let text = format!(
                "somebody else goes on writing the state of {own_id} with the key of {own_id}"
            );
            self.note_own(Fault::new(Code::Clone, text, TWIN_ADVICE).about(&own_id), now);
            return;
        }
        // An earlier run made it without writing it, with what is on disk in it.
        let is_content_ours =
            held.digest == self.own.head.digest || held.digest == self.first_digest;
        let republish = if is_content_ours { Republish::Unwritten } else { Republish::Written };
        if self.settings.is_durable && !is_content_ours && !self.is_restored {
            self.is_restored = true;
            let text = "others held a later version of this node's state than its disk did: its newest changes were \
                        not on disk, or a backup was put back";
            let hint =
                "it goes on from what is on its disk; set again what is missing (`dsn state self`)";
            self.notice(Fault::new(Code::Restored, text, hint), now);
        }
        self.timestamp_floor = held.timestamp;
        self.behind = self.behind.max(Some(republish));
        actions.push(Action::WakeDisk);
    }
}

/// Whether a record signed with `key` is taken where the node is known by this pin: a proved key
/// stays, and of two that others told all nodes take the same one.
fn believes(pin: Pin, key: &PublicKey, node_id: &NodeId) -> bool {
    pin.key == *key
        || pin.trust == Trust::Hearsay && key.rank_for(node_id) < pin.key.rank_for(node_id)
}
