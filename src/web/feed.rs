//! What is new since a reader looked last: so a page that stays open costs little. Pure.
//!
//! Whatever can change has a number: that of its last change. Numbers only grow within a run.

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use crate::order::{self, Gather, ListMap};
use crate::protocol::PEERS_MAX;
use crate::protocol::fault::{Code, Fault, Notice};
use crate::protocol::identity::NodeId;
use crate::protocol::report::{PeerInfo, PeerStatus, Status};

use super::tag_of;

/// Most nodes that are gone and are remembered; who looked before them begins anew.
const GONE_MAX: usize = PEERS_MAX;

/// How far a reader has come: of this run, with peers and status, and with states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cursor {
    run: u64,
    peers: u64,
    pub(super) states: u64,
}

impl fmt::Display for Cursor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:x}-{}-{}", self.run, self.peers, self.states)
    }
}

impl Cursor {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, '-');
        let run = u64::from_str_radix(parts.next()?, 16).ok()?;
        let (peers, states) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        Some(Self { run, peers, states })
    }
}

/// What something is like, and when that changed last.
#[derive(Debug, Default)]
struct Mark {
    value: u64,
    at: u64,
}

impl Mark {
    fn set(&mut self, value: u64, last: &mut u64) {
        if self.at == 0 || self.value != value {
            *last += 1;
            *self = Self { value, at: *last };
        }
    }
}

/// What is tracked of a node.
#[derive(Debug, Default)]
struct Tracked {
    peer: Mark,
    state: Mark,
}

/// All that was seen.
#[derive(Debug)]
pub(super) struct Feed {
    run: u64,
    /// The number of the last change.
    last: u64,
    status: Mark,
    nodes: ListMap<NodeId, Tracked>,
    /// Nodes that are gone, and since when, the latest last.
    gone: VecDeque<(u64, NodeId)>,
    /// When the last of them was dropped here.
    dropped_at: u64,
}

/// What a reader has not seen.
#[derive(Debug)]
pub(super) struct News {
    /// Whether that is all there is: what the reader has beside it is gone.
    pub(super) is_whole: bool,
    pub(super) is_status_new: bool,
    pub(super) peers: BTreeSet<NodeId>,
    pub(super) gone: Vec<NodeId>,
    /// Nodes whose states are new, and their numbers, which only grow.
    pub(super) states: VecDeque<(u64, NodeId)>,
    /// Where the reader is when it has all but the states.
    pub(super) cursor: Cursor,
    /// The number of the last change of all.
    pub(super) last: u64,
}

impl Feed {
    pub(super) fn new(run: u64) -> Self {
        Self {
            run,
            last: 0,
            status: Mark::default(),
            nodes: ListMap::new(),
            gone: VecDeque::new(),
            dropped_at: 0,
        }
    }

    /// Takes all that is there, and notes what changed.
    ///
    /// It takes how often it changed when own keys go, what the node says of itself, and the peers:
    /// both with the moments that they are of (ms).
    pub(super) fn look(
        &mut self,
        lease_changes: u64,
        (status_ms, status): (u64, &Status),
        (peers_ms, peers): (u64, &[PeerInfo]),
    ) {
        let last = &mut self.last;
        self.status.set(value_of_status(status, status_ms), last);
        let value = hash(|it| (status.timestamp, lease_changes, PeerStatus::Alive).hash(it));
        self.nodes.change(&status.node_id, |own| own.state.set(value, last));
        let is_gone = |node_id: &NodeId| {
            let found = peers.binary_search_by(|peer| peer.node_id.cmp(node_id));
            found.is_err() && *node_id != status.node_id
        };
        for node_id in self.nodes.keys().filter(|it| is_gone(it)).cloned().collect::<Vec<_>>() {
            self.nodes.remove(&node_id);
            *last += 1;
            self.gone.push_back((*last, node_id));
        }
        while self.gone.len() > GONE_MAX {
            self.dropped_at = self.gone.pop_front().map_or(0, |(at, _)| at);
        }
        for peer in peers {
            self.nodes.change(&peer.node_id, |node| {
                node.peer.set(value_of_peer(peer, peers_ms), last);
                // Where no state is held there is none to show, and that is no news.
                if peer.timestamp > 0 || node.state.at > 0 {
                    node.state.set(hash(|it| (peer.timestamp, peer.status).hash(it)), last);
                }
            });
        }
    }

    /// What is new behind the cursor; all, where that is of another run, or too old, or none.
    pub(super) fn since(&self, cursor: &str) -> News {
        let known = Cursor::parse(cursor).filter(|it| it.run == self.run);
        let known =
            known.filter(|it| it.peers >= self.dropped_at && it.peers.max(it.states) <= self.last);
        let is_whole = known.is_none();
        let known = known.unwrap_or(Cursor { run: self.run, peers: 0, states: 0 });
        let is_new = |(_, node): &(&NodeId, &Tracked)| node.peer.at > known.peers;
        let mut states: Vec<(u64, NodeId)> = self
            .nodes
            .iter()
            .filter(|(_, node)| node.state.at > known.states)
            .map(|(node_id, node)| (node.state.at, node_id.clone()))
            .collect();
        order::sort(&mut states);
        let gone = self.gone.iter().filter(|(at, _)| *at > known.peers && !is_whole);
        News {
            is_whole,
            is_status_new: self.status.at > known.peers,
            peers: self.nodes.iter().filter(is_new).map(|(node_id, _)| node_id.clone()).gathered(),
            gone: gone.map(|(_, node_id)| node_id.clone()).collect(),
            states: states.into(),
            cursor: Cursor { peers: self.last, ..known },
            last: self.last,
        }
    }

    /// Names the present version of what the node says of itself.
    pub(super) fn status_tag(&self) -> String {
        self.tag(self.status.at)
    }

    /// Names the present version of the list of peers.
    pub(super) fn peers_tag(&self) -> String {
        self.tag(self.nodes.values().map(|node| node.peer.at).max().unwrap_or_default())
    }

    /// Names the present version of all states.
    pub(super) fn states_tag(&self) -> String {
        self.tag(self.nodes.values().map(|node| node.state.at).max().unwrap_or_default())
    }

    /// Names the present version of the state of one node.
    pub(super) fn state_tag(&self, node_id: &NodeId) -> String {
        self.tag(self.nodes.get(node_id).map_or(0, |node| node.state.at))
    }

    /// What is gone changes each list that it was in.
    fn tag(&self, at: u64) -> String {
        let gone = self.gone.back().map_or(0, |(at, _)| *at);
        tag_of(&Cursor { run: self.run, peers: at, states: gone })
    }
}

fn hash(add: impl FnOnce(&mut DefaultHasher)) -> u64 {
    let mut hasher = DefaultHasher::new();
    add(&mut hasher);
    hasher.finish()
}

/// When it was, for what is so long ago now, ms.
fn moment(now_ms: u64, ago: Duration) -> u128 {
    u128::from(now_ms).saturating_sub(ago.as_millis())
}

/// Stands for what a node says of itself, but for what changes as time passes.
fn value_of_status(status: &Status, now_ms: u64) -> u64 {
    let add_fault = |fault: &Fault, it: &mut DefaultHasher| {
        (fault.code.as_str(), &fault.node, &fault.text, &fault.hint).hash(it);
    };
    hash(|it| {
        (&status.listen, &status.http, &status.network_key).hash(it);
        status.advertise.as_ref().map(|address| address.as_str()).hash(it);
        let counts = &status.peers;
        (counts.alive, counts.suspect, counts.lost, counts.left).hash(it);
        (status.keys, status.timestamp, status.degraded.len()).hash(it);
        status.degraded.iter().for_each(|fault| add_fault(fault, it));
        // What is heard all the time is of use where something else is new, and no news itself.
        let discovery = status.discovery.as_ref();
        discovery.map(|it| (it.found.met, it.interfaces.len())).hash(it);
        for interface in discovery.into_iter().flat_map(|it| &it.interfaces) {
            (&interface.name, interface.address).hash(it);
        }
        for Notice { fault, ago } in &status.notices {
            add_fault(fault, it);
            // That one is always of now: its text counts.
            if fault.code != Code::LogDropped {
                moment(now_ms, *ago).hash(it);
            }
        }
    })
}

/// Stands for what is known of a peer, with the moment of its last word instead of the time since.
fn value_of_peer(peer: &PeerInfo, now_ms: u64) -> u64 {
    let heard_at = peer.heard_ago.map(|ago| moment(now_ms, ago));
    hash(|it| {
        (peer.address.as_ref().map(|address| address.as_str()), peer.status, heard_at).hash(it);
        (peer.round_trip, peer.keys, peer.timestamp, &peer.network_key, &peer.reason).hash(it);
        peer.public_key.hash(it);
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::identity::PublicKey;
    use crate::protocol::report::PeerCounts;

    fn id(text: &str) -> NodeId {
        NodeId::new(text).unwrap()
    }

    fn status(timestamp: u64) -> Status {
        Status {
            node_id: id("own"),
            listen: String::new(),
            http: None,
            advertise: None,
            version: "",
            protocol: 1,
            uptime: Duration::ZERO,
            peers: PeerCounts::default(),
            keys: 0,
            timestamp,
            public_key: PublicKey::from_hex(&"00".repeat(65)).unwrap(),
            network_key: String::new(),
            discovery: None,
            degraded: Vec::new(),
            notices: Vec::new(),
        }
    }

    fn peer(name: &str, timestamp: u64, heard_ms_ago: u64) -> PeerInfo {
        PeerInfo {
            node_id: id(name),
            address: None,
            status: PeerStatus::Alive,
            heard_ago: Some(Duration::from_millis(heard_ms_ago)),
            round_trip: None,
            keys: 1,
            timestamp,
            public_key: None,
            network_key: None,
            reason: None,
        }
    }

    fn look(feed: &mut Feed, status: &Status, peers: &[PeerInfo], now_ms: u64) {
        feed.look(0, (now_ms, status), (now_ms, peers));
    }

    fn names(news: &News) -> (Vec<&str>, Vec<&str>) {
        let states = news.states.iter().map(|(_, node_id)| node_id.as_str());
        (news.peers.iter().map(NodeId::as_str).collect(), states.collect())
    }

    /// The cursor of a reader that took all of it.
    fn behind(news: &News) -> String {
        Cursor { states: news.last, ..news.cursor }.to_string()
    }

    #[test]
    fn time_alone_is_no_news() {
        let mut feed = Feed::new(7);
        look(&mut feed, &status(1), &[peer("a", 1, 100)], 1_000);
        let first = feed.since("");
        assert!(first.is_whole && first.is_status_new);
        assert_eq!(names(&first), (vec!["a"], vec!["own", "a"]));
        let tags = |feed: &Feed| (feed.status_tag(), feed.peers_tag(), feed.states_tag());
        let before = tags(&feed);
        let later = Status { uptime: Duration::from_secs(9), ..status(1) };
        look(&mut feed, &later, &[peer("a", 1, 5_100)], 6_000);
        assert_eq!(tags(&feed), before);
        let second = feed.since(&behind(&first));
        assert!(!second.is_whole && !second.is_status_new);
        assert_eq!(names(&second), (vec![], vec![]));
        assert_eq!(behind(&second), behind(&first));
    }

    /// It makes no new version, and yet the state says something else.
    #[test]
    fn a_lease_that_is_renewed_is_news_of_the_own_state() {
        let mut feed = Feed::new(7);
        feed.look(1, (0, &status(1)), (0, &[peer("a", 1, 0)]));
        let first = behind(&feed.since(""));
        let tags = |feed: &Feed| (feed.state_tag(&id("own")), feed.states_tag());
        let (own, all) = tags(&feed);
        feed.look(2, (0, &status(1)), (0, &[peer("a", 1, 0)]));
        assert!(feed.state_tag(&id("own")) != own && feed.states_tag() != all);
        assert_eq!(names(&feed.since(&first)), (vec![], vec!["own"]));
    }

    #[test]
    fn a_notice_that_comes_again_is_news_and_its_age_is_not() {
        let noted = |code: Code, ms_ago: u64| {
            let fault = Fault::new(code, String::from("so it is"), "do something");
            let notices = vec![Notice { fault, ago: Duration::from_millis(ms_ago) }];
            Status { notices, ..status(1) }
        };
        let mut feed = Feed::new(7);
        let mut is_news = |status: Status, now_ms: u64| {
            let before = behind(&feed.since(""));
            look(&mut feed, &status, &[], now_ms);
            feed.since(&before).is_status_new
        };
        assert!(is_news(noted(Code::Port, 100), 1_000));
        assert!(!is_news(noted(Code::Port, 5_100), 6_000), "the same, later");
        assert!(is_news(noted(Code::Port, 0), 6_000), "again");
        assert!(is_news(noted(Code::LogDropped, 0), 7_000));
        assert!(!is_news(noted(Code::LogDropped, 0), 8_000), "it is always of now");
    }

    #[test]
    fn a_word_is_news_of_a_peer_and_a_version_of_its_state() {
        let mut feed = Feed::new(7);
        look(&mut feed, &status(1), &[peer("a", 1, 0), peer("b", 1, 0)], 1_000);
        let first = behind(&feed.since(""));
        look(&mut feed, &status(1), &[peer("a", 1, 0), peer("b", 1, 1_000)], 2_000);
        assert_eq!(names(&feed.since(&first)), (vec!["a"], vec![]));
        look(&mut feed, &status(2), &[peer("a", 1, 1_000), peer("b", 2, 2_000)], 3_000);
        assert_eq!(names(&feed.since(&first)), (vec!["a", "b"], vec!["own", "b"]));
        // A status is shown with the state, too.
        let lost = PeerInfo { status: PeerStatus::Lost, ..peer("a", 1, 2_000) };
        look(&mut feed, &status(2), &[lost, peer("b", 2, 3_000)], 4_000);
        assert_eq!(names(&feed.since(&first)).1, ["own", "b", "a"], "the oldest first");
    }

    #[test]
    fn who_is_gone_is_told_and_may_come_again() {
        let mut feed = Feed::new(7);
        look(&mut feed, &status(1), &[peer("a", 1, 0), peer("b", 1, 0)], 0);
        let first = behind(&feed.since(""));
        let tag = feed.peers_tag();
        look(&mut feed, &status(1), &[peer("b", 1, 0)], 0);
        assert_ne!(feed.peers_tag(), tag);
        assert_eq!(feed.since(&first).gone, [id("a")]);
        assert_eq!(feed.since("").gone, [], "who begins anew never had it");
        let second = behind(&feed.since(&first));
        look(&mut feed, &status(1), &[peer("a", 1, 0), peer("b", 1, 0)], 0);
        let news = feed.since(&second);
        assert_eq!((names(&news).0, news.gone.len()), (vec!["a"], 0));
    }

    #[test]
    fn a_reader_of_another_run_or_from_before_what_is_remembered_begins_anew() {
        let mut feed = Feed::new(7);
        look(&mut feed, &status(1), &[peer("a", 1, 0)], 0);
        let old = behind(&feed.since(""));
        assert!(Feed::new(8).since(&old).is_whole);
        assert!(!feed.since(&old).is_whole);
        for cursor in ["", "7", "7-1", "7-1-x", "7--1-1", "7-1-99999", "7-99999-1", "x-1-1"] {
            assert!(feed.since(cursor).is_whole, "{cursor}");
        }
        for number in 0..=GONE_MAX {
            look(&mut feed, &status(1), &[peer(&format!("n{number}"), 1, 0)], 0);
        }
        look(&mut feed, &status(1), &[], 0);
        assert_eq!(feed.gone.len(), GONE_MAX);
        assert!(feed.since(&old).is_whole);
    }
}
