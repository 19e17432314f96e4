//! What the node tells those beside it, and what it keeps of what is wrong.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

use super::{Action, Node, Now};
use crate::protocol::PROTOCOL_VERSION;
use crate::protocol::identity::NodeId;
use crate::protocol::peer::caller_text;
use crate::protocol::report::{
    CONFLICT_SHOWN_MS, NodeState, PeerCounts, PeerInfo, PeerStatus, Status,
};

/// Who says that something is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reporter {
    /// This node, which made the call that showed it.
    Own,
    /// This node, of somebody who called from there.
    Caller(String),
    /// A peer, whose word it is.
    Peer(NodeId),
}

/// Something that an operator has to put right.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Conflict {
    /// The node that it is about.
    about: Option<NodeId>,
    reporter: Reporter,
    /// What is wrong, and what to do.
    text: String,
    /// When it was seen last, ms.
    seen_at: u64,
}

/// Most conflicts that are remembered.
const CONFLICTS_MAX: usize = 64;
/// Most conflicts of one reporter: a liar can't hide what others say.
const CONFLICTS_OF_ONE_MAX: usize = 8;
/// Most conflicts of all reporters that are told within [`NOTES_MS`]: a member that claims ids
/// again and again can't fill the log.
const NOTES_MAX: usize = 16;
/// Most of one reporter within that time.
const NOTES_OF_ONE_MAX: usize = 4;
/// The time that both are about, ms.
const NOTES_MS: u64 = 60_000;

/// What is wrong right now, by who says so.
#[derive(Debug, Default)]
pub(super) struct Conflicts {
    list: VecDeque<Conflict>,
    /// Who was quoted in the log of late, and when, ms.
    noted: Vec<(Reporter, u64)>,
}

impl Conflicts {
    /// Takes what somebody says. Says whether it is to be told in the log.
    fn note(&mut self, conflict: Conflict) -> bool {
        let same = |known: &&mut Conflict| {
            known.about == conflict.about && known.reporter == conflict.reporter
        };
        if let Some(known) = self.list.iter_mut().filter(same).find(|it| it.text == conflict.text) {
            known.seen_at = conflict.seen_at;
            return false;
        }
        let of_reporter = self.list.iter().filter(|known| known.reporter == conflict.reporter);
        if of_reporter.count() >= CONFLICTS_OF_ONE_MAX {
            self.drop_oldest(|known| known.reporter == conflict.reporter);
        } else if self.list.len() >= CONFLICTS_MAX {
            let loudest = self.loudest();
            self.drop_oldest(|known| Some(&known.reporter) == loudest.as_ref());
        }
        let (reporter, now_ms) = (conflict.reporter.clone(), conflict.seen_at);
        self.list.push_back(conflict);
        self.may_tell(reporter, now_ms)
    }

    fn may_tell(&mut self, reporter: Reporter, now_ms: u64) -> bool {
        self.noted.retain(|(_, at)| now_ms.saturating_sub(*at) < NOTES_MS);
        let of_one = self.noted.iter().filter(|(other, _)| *other == reporter).count();
        let may = self.noted.len() < NOTES_MAX && of_one < NOTES_OF_ONE_MAX;
        if may {
            self.noted.push((reporter, now_ms));
        }
        may
    }

    fn drop_oldest(&mut self, of: impl Fn(&Conflict) -> bool) {
        let oldest = self.list.iter().enumerate().filter(|(_, known)| of(known));
        if let Some((at, _)) = oldest.min_by_key(|(_, known)| known.seen_at) {
            self.list.remove(at);
        }
    }

    /// Who says most.
    fn loudest(&self) -> Option<Reporter> {
        let count =
            |of: &Conflict| self.list.iter().filter(|known| known.reporter == of.reporter).count();
        self.list.iter().max_by_key(|known| count(known)).map(|known| known.reporter.clone())
    }

    /// An operator did something about this node.
    pub(super) fn drop_about(&mut self, node_id: &NodeId) {
        self.list.retain(|conflict| conflict.about.as_ref() != Some(node_id));
    }

    /// Drops what was not seen for a while.
    pub(super) fn age(&mut self, now_ms: u64) {
        self.list.retain(|conflict| now_ms.saturating_sub(conflict.seen_at) < CONFLICT_SHOWN_MS);
    }

    fn texts(&self) -> Vec<String> {
        self.list.iter().map(|conflict| conflict.text.clone()).collect()
    }
}

impl Node {
    /// What the node says of itself. The driver adds what it alone knows: where it listens, and
    /// what is wrong with disk and port.
    pub fn status(&self, listen: &str, version: &'static str, now: Now) -> Status {
        let mut peers = PeerCounts::default();
        for (_, peer) in self.peers.iter() {
            *match peer.status {
                PeerStatus::Alive => &mut peers.alive,
                PeerStatus::Suspect => &mut peers.suspect,
                PeerStatus::Lost => &mut peers.lost,
                PeerStatus::Left => &mut peers.left,
            } += 1;
        }
        Status {
            node_id: self.settings.node_id.clone(),
            listen: listen.into(),
            advertise: self.settings.advertise.clone().or_else(|| self.seen_at.clone()),
            version,
            protocol: PROTOCOL_VERSION,
            uptime_s: now.mono_ms.saturating_sub(self.started_ms) / 1000,
            peers,
            keys: self.own.entries.len(),
            timestamp: self.own.head.timestamp,
            public_key: self.settings.public_key,
            network_key: String::new(),
            degraded: self.degraded(peers),
        }
    }

    fn degraded(&self, peers: PeerCounts) -> Vec<String> {
        let own_id = &self.settings.node_id;
        let mut list = self.conflicts.texts();
        let others: Vec<&super::Seed> =
            self.seeds.iter().filter(|seed| seed.node_id.as_ref() != Some(own_id)).collect();
        if peers.alive == 0 && !others.is_empty() {
            let fault = |seed: &super::Seed| {
                let why = seed.last_fault.as_deref().unwrap_or("not tried yet");
                format!("{}: {why}", seed.address)
            };
            let faults: Vec<String> = others.into_iter().map(fault).collect();
            list.push(format!(
                "no bootstrap node is reached ({}); it is tried again",
                faults.join("; ")
            ));
        }
        list
    }

    /// All peers in the order of their ids.
    pub fn peers(&self, now: Now) -> Vec<PeerInfo> {
        let info = |(node_id, peer): (&NodeId, &super::Peer)| PeerInfo {
            node_id: node_id.clone(),
            address: peer.place.shown().cloned(),
            status: peer.status,
            heard_ms_ago: peer.heard_at.map(|at| now.mono_ms.saturating_sub(at)),
            keys: peer.record.as_ref().map_or(0, |record| record.entries.len()),
            timestamp: peer.version().timestamp,
            public_key: peer.pin.map(|pin| pin.key),
        };
        self.peers.iter().map(info).collect()
    }

    /// The state of a node, the own one too; nothing where no record of it is held.
    pub fn state(&self, node_id: &NodeId) -> Option<NodeState> {
        let record = self.record_of(node_id)?;
        let status = self.peers.get(node_id).map_or(PeerStatus::Alive, |peer| peer.status);
        Some(NodeState {
            node_id: node_id.clone(),
            status,
            timestamp: record.head.timestamp,
            entries: Arc::clone(&record.entries),
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

    /// Something is wrong that this node saw when it called.
    pub(super) fn note_own(
        &mut self,
        about: &NodeId,
        text: String,
        now: Now,
        actions: &mut Vec<Action>,
    ) {
        self.note(Some(about.clone()), Reporter::Own, text, now, actions);
    }

    /// The same, about no node in particular.
    pub(super) fn note_general(&mut self, text: String, now: Now, actions: &mut Vec<Action>) {
        self.note(None, Reporter::Own, text, now, actions);
    }

    /// Something is wrong with somebody who called.
    pub(super) fn note_seen(
        &mut self,
        about: &NodeId,
        text: String,
        caller: SocketAddr,
        now: Now,
        actions: &mut Vec<Action>,
    ) {
        let reporter = Reporter::Caller(caller_text(caller.ip()));
        self.note(Some(about.clone()), reporter, text, now, actions);
    }

    /// A peer says that something is wrong.
    pub(super) fn note_reported(
        &mut self,
        reporter: &NodeId,
        about: &NodeId,
        text: String,
        now: Now,
        actions: &mut Vec<Action>,
    ) {
        let reporter = Reporter::Peer(reporter.clone());
        self.note(Some(about.clone()), reporter, text, now, actions);
    }

    fn note(
        &mut self,
        about: Option<NodeId>,
        reporter: Reporter,
        text: String,
        now: Now,
        actions: &mut Vec<Action>,
    ) {
        let conflict = Conflict { about, reporter, text: text.clone(), seen_at: now.mono_ms };
        if self.conflicts.note(conflict) {
            actions.push(Action::Note(text));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(reporter: usize, text: usize, at: u64) -> Conflict {
        let reporter = Reporter::Peer(NodeId::new(&format!("r{reporter}")).unwrap());
        Conflict { about: None, reporter, text: format!("{text}"), seen_at: at }
    }

    #[test]
    fn one_liar_hides_nobody_else_and_fills_no_log() {
        let mut conflicts = Conflicts::default();
        assert!(conflicts.note(says(1, 0, 0)));
        let told = (0..10_000).filter(|text| conflicts.note(says(2, *text, 1))).count();
        assert_eq!(told, NOTES_OF_ONE_MAX);
        assert_eq!(conflicts.list.len(), 1 + CONFLICTS_OF_ONE_MAX);
        assert!(conflicts.list.contains(&says(1, 0, 0)));
    }

    #[test]
    fn many_liars_leave_those_who_say_little() {
        let mut conflicts = Conflicts::default();
        conflicts.note(says(0, 0, 0));
        let told: usize = (1..100)
            .map(|liar| (0..20).filter(|text| conflicts.note(says(liar, *text, 1))).count())
            .sum();
        assert_eq!(told, NOTES_MAX - 1);
        assert_eq!(conflicts.list.len(), CONFLICTS_MAX);
        assert!(conflicts.list.contains(&says(0, 0, 0)));
    }

    #[test]
    fn what_goes_on_is_told_once_and_what_is_over_goes() {
        let mut conflicts = Conflicts::default();
        assert!(conflicts.note(says(1, 0, 0)));
        assert!(!conflicts.note(says(1, 0, 50_000)));
        conflicts.age(CONFLICT_SHOWN_MS + 10_000);
        assert_eq!(conflicts.texts().len(), 1);
        conflicts.age(CONFLICT_SHOWN_MS + 50_000);
        assert!(conflicts.texts().is_empty());
    }
}
