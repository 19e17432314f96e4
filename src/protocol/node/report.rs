//! What the node tells those beside it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::conflicts::{Conflict, Reporter};
use super::probing::SMALL_MESH;
use super::{Node, Now, place_text};
use crate::order;
use crate::protocol::PROTOCOL_VERSION;
use crate::protocol::doubt::Accuser;
use crate::protocol::fault::{Code, Fault, Notice};
use crate::protocol::identity::NodeId;
use crate::protocol::peer::{CallFault, Peer, caller_text};
use crate::protocol::record::Record;
use crate::protocol::report::{
    Load, NodeMeasures, NodeState, PeerCounts, PeerInfo, PeerStatus, Status,
};
use crate::protocol::verified::Verified;

/// Most nodes that can be heard but not called, and are told one by one.
const ONE_WAY_MAX: usize = 8;
/// Most bootstrap addresses that are named in one sentence.
const SEEDS_NAMED_MAX: usize = 4;
/// How many ticks a node looks around before it says that nobody is there.
const LOOK_AROUND_TICKS: u64 = 3;
/// How many ticks a node is known before it is said that it can't be called.
const ONE_WAY_TICKS: u64 = 3;
/// How many tries have to come to nothing, one after the other, before it is said: where one in ten
/// gets lost, that many do once in 100 000.
const ONE_WAY_TRIES: u32 = 5;
/// After so many ticks without a call it is said that nobody calls this node.
const UNCALLED_TOLD_TICKS: u64 = 10;
/// For how many ticks all calls of this node have to come to nothing, while others call it, before
/// it is said that it can call nobody.
const MUTE_TOLD_TICKS: u64 = 5;
/// Most notices that are kept; the oldest go first.
const NOTICES_MAX: usize = 16;
/// How long a notice is shown, ms: a day, so that it is still there on the next morning.
const NOTICE_SHOWN_MS: u64 = 24 * 60 * 60 * 1000;

/// Something that happened.
#[derive(Debug)]
pub(super) struct Happened {
    fault: Fault,
    /// When, ms.
    at: u64,
    /// Whether the log has it.
    is_told: bool,
}

impl Node {
    /// What the node says of itself. The driver adds what it alone knows: where it listens, and
    /// what is wrong with disk and port.
    pub fn status(&self, listen: &str, version: &'static str, now: Now) -> Status {
        let notices = self
            .notices
            .iter()
            .map(|happened| Notice { fault: happened.fault.clone(), ago: since(happened.at, now) });
        Status {
            node_id: self.settings.node_id.clone(),
            listen: listen.into(),
            http: None,
            advertise: self.home.address.clone(),
            version,
            protocol: PROTOCOL_VERSION,
            uptime: since(self.started_ms, now),
            peers: self.peer_counts(),
            keys: self.own.entries.len(),
            timestamp: self.own.head.timestamp,
            public_key: self.settings.public_key,
            network_key: String::new(),
            discovery: None,
            degraded: self.faults(now),
            notices: notices.collect(),
        }
    }

    pub(super) fn peer_counts(&self) -> PeerCounts {
        let mut counts = PeerCounts::default();
        for (_, peer) in self.peers.iter() {
            *match peer.status {
                PeerStatus::Alive => &mut counts.alive,
                PeerStatus::Suspect => &mut counts.suspect,
                PeerStatus::Lost => &mut counts.lost,
                PeerStatus::Left => &mut counts.left,
            } += 1;
        }
        counts
    }

    /// What is worth to be watched over time.
    pub fn measures(&self) -> NodeMeasures {
        let load = |record: &Verified<Record>| Load {
            count: record.entries.len(),
            bytes: record.entries.bytes(),
        };
        let mut held = Load::default();
        for record in self.peers.iter().filter_map(|(_, peer)| peer.record.as_ref()) {
            let of = load(record);
            held.count += of.count;
            held.bytes += of.bytes;
        }
        let is_down = |peer: &Peer| matches!(peer.status, PeerStatus::Suspect | PeerStatus::Lost);
        let down = self.peers.iter().filter(|(_, peer)| is_down(peer));
        NodeMeasures {
            peers: self.peer_counts(),
            down: down.map(|(node_id, peer)| (node_id.clone(), peer.status)).collect(),
            own: load(&self.own),
            held,
            inbox: self.inbox.load(),
        }
    }

    /// What is wrong right now, as far as the rules see it.
    pub fn faults(&self, now: Now) -> Vec<Fault> {
        let mut faults: Vec<Fault> = self.alone().into_iter().collect();
        faults.extend(self.conflicts.faults());
        faults.extend(self.one_way(now));
        faults
    }

    /// That no other node is here, where somebody should be.
    fn alone(&self) -> Option<Fault> {
        let counts = self.peer_counts();
        let discovers = self.settings.discovers;
        let is_looking =
            self.ticks < LOOK_AROUND_TICKS && (discovers || !self.seeds.iter().all(is_settled));
        let has_company = counts.alive + counts.suspect > 0;
        if self.settings.alone || self.own.head.left || has_company || is_looking {
            return None;
        }
        let mut facts: Vec<String> = self
            .seeds
            .iter()
            .take(SEEDS_NAMED_MAX)
            .map(|seed| format!("{}: {}", seed.address, self.state_of_seed(seed)))
            .collect();
        if self.seeds.len() > SEEDS_NAMED_MAX {
            facts.push(format!("{} more addresses", self.seeds.len() - SEEDS_NAMED_MAX));
        }
        for (count, word) in [(counts.lost, "lost"), (counts.left, "left")] {
            if count > 0 {
                facts.push(format!("{count} {word}"));
            }
        }
        let hint = if self.seeds.is_empty() && facts.is_empty() {
            facts.push(if discovers {
                "nobody with this network key was heard on the local network, and nobody has called"
                    .into()
            } else {
                "no bootstrap address was given, and nobody has called".into()
            });
            if discovers {
                "do the others run with --discover, on the same local network, with a copy of this network key? Does a firewall \
                 let UDP port 5353 pass? See docs/discovery.md, or give --bootstrap; a network of one node says so with --alone"
            } else {
                "start the others with this one as --bootstrap, or this one with theirs, or on one local network all of them \
                 with --discover; a network of one node says so with --alone"
            }
        } else {
            "they are asked again and again. Are the hosts on, the addresses right, the ports open, the network keys the \
             same? A network of one node says so with --alone"
        };
        Some(Fault::new(
            Code::Alone,
            format!("no other node is alive ({})", facts.join("; ")),
            hint,
        ))
    }

    fn state_of_seed<'a>(&'a self, seed: &'a super::Seed) -> &'a str {
        match (&seed.last_fault, &seed.node_id) {
            (Some(why), _) => why,
            (None, Some(node_id)) if self.is_me(node_id) && seed.is_twin => {
                "another node with the name of this one answers there"
            }
            (None, Some(node_id)) if self.is_me(node_id) => "it leads to this node itself",
            (None, Some(_)) => "who answered there is not alive any more",
            (None, None) => "not tried yet",
        }
    }

    /// The nodes that call here, and give no answer where they say that they are.
    fn one_way(&self, now: Now) -> Vec<Fault> {
        let grace_ms = ONE_WAY_TICKS * self.settings.tick_ms;
        let is_told = |peer: &Peer| {
            self.is_one_way(peer) && now.mono_ms.saturating_sub(peer.known_since) >= grace_ms
        };
        let mut faults: Vec<Fault> = self.uncalled(now).into_iter().collect();
        faults.extend(self.mute(now));
        let mut nodes = self.peers.iter().filter(|(_, peer)| is_told(peer));
        let told = nodes.by_ref().take(ONE_WAY_MAX).map(|(node_id, peer)| {
            let why = one_way_text(peer);
            let hint = format!(
                "what is sent to {node_id} does not arrive. Give it an address that others reach with --advertise HOST:PORT \
                 there, or open its port"
            );
            Fault::new(Code::OneWay, format!("{node_id} {why}"), hint).about(node_id)
        });
        faults.extend(told);
        let more = nodes.count();
        if more > 0 {
            let text = format!("{more} more can be heard but not called");
            faults.push(Fault::new(Code::OneWay, text, "`dsn peers` names them"));
        }
        faults
    }

    /// Whether a node calls here, or others reach it, and was called in vain all the time: one that
    /// just died did not call since. In a large network only of those that links are kept with:
    /// others are hardly ever called, so that what got lost once would stand for days.
    fn is_one_way(&self, peer: &Peer) -> bool {
        let tick_ms = self.settings.tick_ms;
        let calls_since = |fault: &CallFault| {
            let is_since = |at: Option<u64>| at.is_some_and(|at| at > fault.since + tick_ms);
            let is_heard = is_since(peer.heard_at) || is_since(peer.watch.vouched_at);
            fault.tries >= ONE_WAY_TRIES && !fault.was_answered && is_heard
        };
        peer.status == PeerStatus::Alive
            && peer.contact.is_failing()
            && self.is_linked(peer)
            && peer.last_fault.as_ref().is_some_and(calls_since)
            && (!peer.link.connected || !peer.is_reached())
    }

    /// Why a peer is not well, for people.
    fn reason_of(&self, peer: &Peer) -> Option<String> {
        match peer.status {
            PeerStatus::Alive if self.is_one_way(peer) => Some(one_way_text(peer)),
            PeerStatus::Alive | PeerStatus::Left => None,
            PeerStatus::Suspect | PeerStatus::Lost => {
                let why = match (&peer.last_fault, peer.place.shown()) {
                    (Some(fault), _) => fault.why.clone(),
                    (None, None) => "no address of it is known".into(),
                    (None, Some(_)) if !peer.is_reached() => "never reached yet".into(),
                    (None, Some(_)) => "no word from it".into(),
                };
                Some(suspected_by(peer).map_or(why.clone(), |by| format!("{why}; {by}")))
            }
        }
    }

    /// That this node can call nobody, though others call it. In a large network alone: there it
    /// hears none of them often enough to say it of each, and hardly all others can be the cause.
    fn mute(&self, now: Now) -> Option<Fault> {
        if self.is_mesh() || !self.calls_nobody_for(MUTE_TOLD_TICKS, now) {
            return None;
        }
        let is_alive = |peer: &Peer| peer.status == PeerStatus::Alive;
        let mut others = self.peers.iter().filter(|(_, peer)| is_alive(peer));
        let (node_id, fault, peer) =
            others.find_map(|(node_id, peer)| Some((node_id, peer.last_fault.as_ref()?, peer)))?;
        let (place, why) = (place_text(peer.address_to_try()), &fault.why);
        let text = format!(
            "other nodes call this one, and it can call none of them; {node_id} at {place}: {why}"
        );
        let hint = "does a firewall stop connections out of this host? If not, the others need addresses that can be reached, by \
                    --advertise HOST:PORT there, or open ports; until then what changes here comes to them some seconds late";
        Some(Fault::new(Code::OneWay, text, hint).about(&self.settings.node_id))
    }

    /// That nobody calls this node, where somebody should.
    fn uncalled(&self, now: Now) -> Option<Fault> {
        let answers = |peer: &Peer| peer.status == PeerStatus::Alive && peer.link.connected;
        let answering = self.peers.iter().filter(|(_, peer)| answers(peer) && peer.is_reached());
        // In a small network one that calls all is not asked whether it is there.
        let is_uncalled =
            self.is_uncalled(UNCALLED_TOLD_TICKS, now) && answering.count() > SMALL_MESH;
        let text = format!(
            "no other node calls this one, though they answer it: most likely nobody can reach it at {}",
            place_text(self.home.address.as_ref())
        );
        let hint = "open its port, or forward it to this host and give the address that others reach with --advertise \
                    HOST:PORT; until then what others change comes here a few seconds late";
        is_uncalled.then(|| Fault::new(Code::OneWay, text, hint).about(&self.settings.node_id))
    }

    /// All peers in the order of their ids.
    pub fn peers(&self, now: Now) -> Vec<PeerInfo> {
        let info = |(node_id, peer): (&NodeId, &Peer)| PeerInfo {
            node_id: node_id.clone(),
            address: peer.place.shown().cloned(),
            status: peer.status,
            heard_ago: peer.heard_at.map(|at| since(at, now)),
            round_trip: peer.round_trip_us.map(Duration::from_micros),
            keys: peer.record.as_ref().map_or(0, |record| record.entries.len()),
            timestamp: peer.version().timestamp,
            public_key: peer.pin.map(|pin| pin.key),
            network_key: peer.sealed_with.clone(),
            reason: self.reason_of(peer),
        };
        self.peers.iter().map(info).collect()
    }

    /// The state of a node, the own one too; nothing where no record of it is held.
    pub fn state(&self, node_id: &NodeId) -> Option<NodeState> {
        let record = self.record_of(node_id)?;
        let status = self.status_of(node_id)?;
        Some(NodeState {
            node_id: node_id.clone(),
            status,
            timestamp: record.head.timestamp,
            held_since: if self.is_me(node_id) {
                self.own_since
            } else {
                self.peers.get(node_id).and_then(|peer| peer.record_since)
            },
            entries: Arc::clone(&record.entries),
            expires: Arc::default(),
        })
    }

    /// The states of all nodes: the own one first, the others in the order of their ids.
    pub fn states(&self) -> Vec<NodeState> {
        let others = self.peers.iter().map(|(node_id, _)| node_id);
        std::iter::once(&self.settings.node_id)
            .chain(others)
            .filter_map(|node_id| self.state(node_id))
            .collect()
    }

    /// A member sealed a request with this network key.
    pub fn note_network_key(&mut self, node_id: &NodeId, name: &Arc<str>) {
        if let Some(peer) = self.peers.get_mut(node_id)
            && peer.sealed_with.as_ref() != Some(name)
        {
            peer.sealed_with = Some(Arc::clone(name));
        }
    }

    /// Something that looks like a HELLO came from there, and opened with no key of ours.
    pub fn note_foreign(&mut self, caller: SocketAddr, now: Now) {
        self.conflicts.note_foreign(caller_text(caller.ip()), now.mono_ms);
    }

    /// Something is wrong that this node saw when it called.
    pub(super) fn note_own(&mut self, fault: Fault, now: Now) {
        self.note(fault, Reporter::Own, now);
    }

    /// Something is wrong with somebody who called.
    pub(super) fn note_seen(&mut self, fault: Fault, caller: SocketAddr, now: Now) {
        self.note(fault, Reporter::Caller(caller_text(caller.ip())), now);
    }

    /// A peer says that something is wrong.
    pub(super) fn note_reported(&mut self, fault: Fault, reporter: &NodeId, now: Now) {
        self.note(fault, Reporter::Peer(reporter.clone(), None), now);
    }

    /// A peer that was called there says that something is wrong.
    pub(super) fn note_answered(
        &mut self,
        fault: Fault,
        reporter: &NodeId,
        address: &str,
        now: Now,
    ) {
        self.note(fault, Reporter::Peer(reporter.clone(), Some(address.to_owned())), now);
    }

    fn note(&mut self, fault: Fault, reporter: Reporter, now: Now) {
        self.conflicts.note(Conflict { fault, reporter, seen_at: now.mono_ms });
    }

    /// Something happened that is to be known for a while.
    pub fn notice(&mut self, fault: Fault, now: Now) {
        self.notices.retain(|known| known.fault != fault);
        if self.notices.len() == NOTICES_MAX {
            self.notices.pop_front();
        }
        self.notices.push_back(Happened { fault, at: now.mono_ms, is_told: false });
    }

    /// What happened and is not in the log yet.
    pub fn take_untold_notices(&mut self) -> Vec<Fault> {
        let untold = self.notices.iter_mut().filter(|happened| !happened.is_told);
        untold
            .map(|happened| {
                happened.is_told = true;
                happened.fault.clone()
            })
            .collect()
    }

    /// Drops what happened long ago.
    pub(super) fn age_notices(&mut self, now: Now) {
        self.notices.retain(|happened| now.mono_ms.saturating_sub(happened.at) < NOTICE_SHOWN_MS);
    }
}

fn since(at_ms: u64, now: Now) -> Duration {
    Duration::from_millis(now.mono_ms.saturating_sub(at_ms))
}

/// Whether the answer there, or its lack, is known.
fn is_settled(seed: &super::Seed) -> bool {
    seed.last_fault.is_some() || seed.node_id.is_some()
}

fn one_way_text(peer: &Peer) -> String {
    let why = peer.last_fault.as_ref().map_or("no answer", |fault| &fault.why);
    let address = place_text(peer.address_to_try());
    if peer.watch.vouched_at > peer.heard_at {
        format!("can be reached by others but not from here, at {address}: {why}")
    } else {
        format!("can be heard but not called at {address}: {why}")
    }
}

/// Who says that a peer does not answer, beside this node.
fn suspected_by(peer: &Peer) -> Option<String> {
    let accused = peer.watch.accused.as_ref()?;
    match accused.by {
        Accuser::Own => {
            let tried = accused.asked.iter().filter(|asked| asked.is_taken);
            let mut names: Vec<&str> = tried.map(|asked| asked.helper.as_str()).collect();
            order::sort(&mut names);
            names.dedup();
            Some(format!("{} tried it in vain, too", names.join(", ")))
        }
        Accuser::Others => Some("others tried it in vain".into()),
        Accuser::Silent => None,
    }
}
