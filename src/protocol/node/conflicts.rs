//! What is wrong with other nodes, by who says so: each has a share, so that a liar hides nobody.

use std::collections::VecDeque;

use crate::protocol::fault::{Code, Fault, Source};
use crate::protocol::identity::NodeId;
use crate::protocol::report::CONFLICT_SHOWN_MS;

/// Who says that something is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reporter {
    /// This node, which made the call that showed it.
    Own,
    /// This node, of somebody who called from there.
    Caller(String),
    /// A peer, whose word it is; where it was called, if it said so when it was.
    Peer(NodeId, Option<String>),
}

impl Reporter {
    fn source(&self) -> Source {
        match self {
            Self::Own => Source::Own,
            Self::Caller(host) => Source::Other(host.clone()),
            Self::Peer(node_id, _) => Source::Other(node_id.as_str().to_owned()),
        }
    }

    fn is_same(&self, other: &Self) -> bool {
        self.source() == other.source()
    }
}

/// Something that an operator has to put right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Conflict {
    pub(super) fault: Fault,
    pub(super) reporter: Reporter,
    /// When it was seen last, ms.
    pub(super) seen_at: u64,
}

/// Most conflicts that are remembered.
const CONFLICTS_MAX: usize = 64;
/// Most conflicts of one reporter: a liar can't hide what others say.
const CONFLICTS_OF_ONE_MAX: usize = 8;
/// Most reporters that are named in one sentence.
const NAMED_MAX: usize = 3;
/// Most hosts that call with another network key and are remembered: strangers can do so.
const FOREIGN_MAX: usize = 4;

/// What is wrong right now, by who says so.
#[derive(Debug, Default)]
pub(super) struct Conflicts {
    list: VecDeque<Conflict>,
    /// Hosts that called with another network key, and when they did last, ms.
    foreign: VecDeque<(String, u64)>,
}

impl Conflicts {
    /// Takes what somebody says.
    pub(super) fn note(&mut self, conflict: Conflict) {
        let same = |known: &&mut Conflict| {
            known.fault == conflict.fault && known.reporter.is_same(&conflict.reporter)
        };
        if let Some(known) = self.list.iter_mut().find(same) {
            known.seen_at = conflict.seen_at;
            return;
        }
        let is_of_reporter = |known: &Conflict| known.reporter.is_same(&conflict.reporter);
        if self.list.iter().filter(|known| is_of_reporter(known)).count() >= CONFLICTS_OF_ONE_MAX {
            self.drop_oldest(is_of_reporter);
        } else if self.list.len() >= CONFLICTS_MAX {
            let loudest = self.loudest();
            self.drop_oldest(|known| Some(known.reporter.source()) == loudest);
        }
        self.list.push_back(conflict);
    }

    /// Somebody on this host called, and what it sent opened with no key of ours.
    pub(super) fn note_foreign(&mut self, host: String, now_ms: u64) {
        self.foreign.retain(|(known, _)| *known != host);
        if self.foreign.len() == FOREIGN_MAX {
            self.foreign.pop_front();
        }
        self.foreign.push_back((host, now_ms));
    }

    fn drop_oldest(&mut self, of: impl Fn(&Conflict) -> bool) {
        let oldest = self.list.iter().enumerate().filter(|(_, known)| of(known));
        if let Some((at, _)) = oldest.min_by_key(|(_, known)| known.seen_at) {
            self.list.remove(at);
        }
    }

    /// Who says most.
    fn loudest(&self) -> Option<Source> {
        let sources: Vec<Source> = self.list.iter().map(|known| known.reporter.source()).collect();
        let count = |of: &Source| sources.iter().filter(|source| *source == of).count();
        sources.iter().max_by_key(|source| count(source)).cloned()
    }

    /// An operator did something about this node.
    pub(super) fn drop_about(&mut self, node_id: &NodeId) {
        self.list.retain(|conflict| conflict.fault.node.as_ref() != Some(node_id));
    }

    /// This node lets us in: what it said when it did not is over.
    pub(super) fn lets_in(&mut self, node_id: &NodeId) {
        self.list.retain(|known| {
            known.fault.code != Code::Refused || known.fault.node.as_ref() != Some(node_id)
        });
    }

    /// A node on this host proved itself with our network key.
    pub(super) fn is_ours(&mut self, host: &str) {
        self.foreign.retain(|(known, _)| known != host);
    }

    /// Drops what was not seen for a while.
    pub(super) fn age(&mut self, now_ms: u64) {
        let is_shown = |seen_at: u64| now_ms.saturating_sub(seen_at) < CONFLICT_SHOWN_MS;
        self.list.retain(|conflict| is_shown(conflict.seen_at));
        self.foreign.retain(|(_, seen_at)| is_shown(*seen_at));
    }

    /// One fault for each that is wrong, however many say so.
    pub(super) fn faults(&self) -> Vec<Fault> {
        let mut groups: Vec<(&Fault, Vec<&Reporter>)> = Vec::new();
        for conflict in &self.list {
            let same = |(fault, _): &&mut (&Fault, _)| is_told_as_one(fault, &conflict.fault);
            match groups.iter_mut().find(same) {
                Some((_, reporters)) => reporters.push(&conflict.reporter),
                None => groups.push((&conflict.fault, vec![&conflict.reporter])),
            }
        }
        let told = |(fault, reporters): (&Fault, Vec<&Reporter>)| {
            let source = reporters.first().map(|reporter| reporter.source()).unwrap_or_default();
            let text = format!("{}{}", fault.text, who_says(&reporters));
            Fault { text, source, ..fault.clone() }
        };
        groups.into_iter().map(told).chain(self.foreign_fault()).collect()
    }

    fn foreign_fault(&self) -> Option<Fault> {
        let (last, _) = self.foreign.back()?;
        let hosts: Vec<&str> = self.foreign.iter().map(|(host, _)| &**host).collect();
        let text = format!("somebody at {} calls with another network key", hosts.join(", "));
        let hint = "if that host belongs here, give it the credentials/network.key of this network \
                    (or this node that of the other one, where this one was set up anew), and start it again";
        let source = Source::Other(last.clone());
        Some(Fault { source, ..Fault::new(Code::OtherNetworkKey, text, hint) })
    }
}

/// Whether two faults are one to whoever reads: many nodes refuse one for one reason.
fn is_told_as_one(one: &Fault, other: &Fault) -> bool {
    let same_node = one.node == other.node || one.code == Code::Refused;
    one.code == other.code && one.text == other.text && one.hint == other.hint && same_node
}

/// `; so say a at 10.0.0.1:8000, b and 3 more`: nothing where this node saw it itself.
fn who_says(reporters: &[&Reporter]) -> String {
    let names: Vec<String> = reporters
        .iter()
        .filter_map(|reporter| match reporter {
            Reporter::Peer(node_id, Some(address)) => Some(format!("{node_id} at {address}")),
            Reporter::Peer(node_id, None) => Some(node_id.as_str().to_owned()),
            Reporter::Own | Reporter::Caller(_) => None,
        })
        .collect();
    let named = names.get(..NAMED_MAX.min(names.len())).unwrap_or_default().join(", ");
    match names.len() {
        0 => String::new(),
        1 => format!("; so says {named}"),
        count if count <= NAMED_MAX => format!("; so say {named}"),
        count => format!("; so say {named} and {} more", count - NAMED_MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(reporter: usize, text: usize, at: u64) -> Conflict {
        let reporter = Reporter::Peer(NodeId::new(&format!("r{reporter}")).unwrap(), None);
        let fault = Fault::new(Code::IdConflict, format!("{text}"), "");
        Conflict { fault, reporter, seen_at: at }
    }

    #[test]
    fn one_liar_hides_nobody_else() {
        let mut conflicts = Conflicts::default();
        conflicts.note(says(1, 0, 0));
        (0..10_000).for_each(|text| conflicts.note(says(2, text, 1)));
        assert_eq!(conflicts.list.len(), 1 + CONFLICTS_OF_ONE_MAX);
        assert!(conflicts.list.contains(&says(1, 0, 0)));
    }

    #[test]
    fn many_liars_leave_those_who_say_little() {
        let mut conflicts = Conflicts::default();
        conflicts.note(says(0, 0, 0));
        for liar in 1..100 {
            (0..20).for_each(|text| conflicts.note(says(liar, text, 1)));
        }
        assert_eq!(conflicts.list.len(), CONFLICTS_MAX);
        assert!(conflicts.list.contains(&says(0, 0, 0)));
    }

    #[test]
    fn what_goes_on_stays_and_what_is_over_goes() {
        let mut conflicts = Conflicts::default();
        conflicts.note(says(1, 0, 0));
        conflicts.note(says(1, 0, 50_000));
        conflicts.age(CONFLICT_SHOWN_MS + 10_000);
        assert_eq!(conflicts.faults().len(), 1);
        conflicts.age(CONFLICT_SHOWN_MS + 50_000);
        assert!(conflicts.faults().is_empty());
    }

    #[test]
    fn what_many_say_is_one_sentence() {
        let mut conflicts = Conflicts::default();
        (1..=5).for_each(|reporter| conflicts.note(says(reporter, 7, 0)));
        let texts: Vec<String> = conflicts.faults().into_iter().map(|fault| fault.text).collect();
        assert_eq!(texts, ["7; so say r1, r2, r3 and 2 more"]);
    }

    #[test]
    fn strangers_with_another_key_are_one_fault_and_push_out_nothing() {
        let mut conflicts = Conflicts::default();
        conflicts.note(says(1, 0, 0));
        (0..1_000).for_each(|host| conflicts.note_foreign(format!("10.0.0.{host}"), 1));
        let faults = conflicts.faults();
        assert_eq!(faults.len(), 2);
        let text = faults.into_iter().last().unwrap().text;
        let hosts = "10.0.0.996, 10.0.0.997, 10.0.0.998, 10.0.0.999";
        assert!(text.starts_with(&format!("somebody at {hosts} calls")), "{text}");
        conflicts.age(CONFLICT_SHOWN_MS + 1);
        assert!(conflicts.faults().is_empty());
    }
}
