//! What a node counts and measures, and how that is told to a monitoring system: in the text format
//! of Prometheus (its exposition format, version 0.0.4).

mod counts;
mod process;
mod text;

use std::fmt;

use crate::protocol::fault::{Code, Fault};
use crate::protocol::report::{Discovered, Heard, NodeMeasures, PeerStatus};
use crate::protocol::wire::Kind;
pub use counts::{Counts, Histogram, Tried};
pub use process::{Process, process};
use text::Text;

/// What kind of text it is, as HTTP says it.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Most peers that are named because they do not answer: more series than that help nobody.
const DOWN_NAMED_MAX: usize = 100;

/// What is told, as it is at one moment. Counts are those since the start of the node.
#[derive(Debug, Default)]
pub struct Measured {
    /// The id of the node: a label of each series.
    pub node_id: String,
    /// Version of the program.
    pub version: &'static str,
    /// Version of the protocol.
    pub protocol: u16,
    /// How long the node runs, seconds.
    pub uptime_s: f64,
    /// What the rules know.
    pub node: NodeMeasures,
    /// What is wrong right now.
    pub degraded: Vec<Fault>,
    /// What all threads count.
    pub counts: counts::Snapshot,
    /// Newer states of others that were taken.
    pub changes_received: u64,
    /// Of the own state on disk; nothing where it is in memory alone.
    pub journal: Option<Journal>,
    /// Of the port.
    pub port: Port,
    /// What waits: the name of the queue, and how much.
    pub queues: Vec<(&'static str, usize)>,
    /// Of finding others on the local network; nothing where that is off.
    pub discovery: Option<Discovered>,
    /// Who listens to events.
    pub listeners: usize,
    /// Events that were dropped as whoever listened was too slow.
    pub events_dropped: u64,
    /// Lines of the log that were dropped as nobody took them.
    pub log_lines_dropped: u64,
    /// Of the process, as far as the system tells.
    pub process: Process,
}

/// What was done to the file of the own state.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Journal {
    /// Its length.
    pub bytes: u64,
    /// Waits for the disk.
    pub syncs: u64,
    /// The time that they took, seconds.
    pub sync_s: f64,
    /// How often it was written anew.
    pub rewrites: u64,
}

/// What the port has seen.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Port {
    /// Connections that were taken.
    pub accepted: u64,
    /// Strangers whose connection was cut to make room.
    pub cut: u64,
    /// Connections that are open.
    pub open: u64,
}

impl fmt::Display for Measured {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = Text::new(&self.node_id);
        self.tell_of_the_network(&mut text);
        self.tell_of_requests(&mut text);
        self.tell_of_the_disk(&mut text);
        self.tell_of_queues(&mut text);
        self.tell_of_discovery(&mut text);
        self.tell_of_the_process(&mut text);
        formatter.write_str(&text.finish())
    }
}

impl Measured {
    fn tell_of_the_network(&self, text: &mut Text) {
        let protocol = self.protocol.to_string();
        let build = [("version", self.version), ("protocol", protocol.as_str())];
        text.gauge("dsn_build_info", "Versions of program and protocol; always 1.")
            .add(&build, 1.0);
        text.gauge("dsn_uptime_seconds", "How long the node runs.").add(&[], self.uptime_s);
        let node = &self.node;
        let mut peers = text.gauge("dsn_peers", "Other nodes, by how they do.");
        for (status, count) in [
            (PeerStatus::Alive, node.peers.alive),
            (PeerStatus::Suspect, node.peers.suspect),
            (PeerStatus::Lost, node.peers.lost),
            (PeerStatus::Left, node.peers.left),
        ] {
            peers.add(&[("status", status.as_str())], count as f64);
        }
        let mut down = text.gauge(
            "dsn_peer_down",
            "Nodes that are suspect or lost, by name, up to a hundred; always 1.",
        );
        for (peer, status) in node.down.iter().take(DOWN_NAMED_MAX) {
            down.add(&[("peer", peer.as_str()), ("status", status.as_str())], 1.0);
        }
        let mut degraded =
            text.gauge("dsn_degraded", "What is wrong right now, by its code: 0 or 1.");
        for code in Code::ALL {
            let is_there = self.degraded.iter().any(|fault| fault.code == code);
            degraded.add(&[("code", code.as_str())], f64::from(u8::from(is_there)));
        }
        let holders = ["own", "others"];
        let mut keys =
            text.gauge("dsn_state_keys", "Keys in the own state, and in copies of others.");
        for (of, load) in holders.into_iter().zip([&node.own, &node.held]) {
            keys.add(&[("of", of)], load.count as f64);
        }
        let help =
            "Bytes of the own state, and of copies of others, as the limit of a state counts them.";
        let mut bytes = text.gauge("dsn_state_bytes", help);
        for (of, load) in holders.into_iter().zip([&node.own, &node.held]) {
            bytes.add(&[("of", of)], load.bytes as f64);
        }
        text.gauge("dsn_inbox_messages", "Messages that wait in the inbox.")
            .add(&[], node.inbox.count as f64);
        text.gauge("dsn_inbox_bytes", "Bytes of messages that wait in the inbox.")
            .add(&[], node.inbox.bytes as f64);
    }

    fn tell_of_requests(&self, text: &mut Text) {
        let counts = &self.counts;
        let mut received = text.counter(
            "dsn_received_requests_total",
            "Requests that came, by type and status of the answer.",
        );
        for (kind, status, count) in counts.received.all() {
            received.add(&[("type", kind_name(kind)), ("status", status)], count as f64);
        }
        let help =
            "Tries of requests to others, by type and status of the answer; none: no answer came.";
        let mut sent = text.counter("dsn_sent_requests_total", help);
        for (kind, status, count) in counts.sent.all() {
            sent.add(&[("type", kind_name(kind)), ("status", status)], count as f64);
        }
        let help = "Tries of requests to others that came to nothing: no answer, or one that proves nothing.";
        let mut failures = text.counter("dsn_sent_request_failures_total", help);
        for (kind, count) in Kind::ALL.into_iter().zip(counts.failures) {
            failures.add(&[("type", kind_name(kind))], count as f64);
        }
        let mut bytes = text.counter(
            "dsn_network_bytes_total",
            "Bytes of messages, both ways, without the heads of HTTP, TCP and IP.",
        );
        for (kind, [received, sent]) in Kind::ALL.into_iter().zip(counts.bytes) {
            for (direction, count) in [("received", received), ("sent", sent)] {
                bytes.add(&[("type", kind_name(kind)), ("direction", direction)], count as f64);
            }
        }
        text.histogram(
            "dsn_sent_request_duration_seconds",
            "Time from a request to its answer, or until none could come any more.",
            &counts.durations,
        );
        let help = "Time from a change of the own state until all nodes that are alive hold it.";
        text.histogram("dsn_change_spread_seconds", help, &counts.spreads);
        text.counter("dsn_changes_total", "Versions of the own state that were made.")
            .add(&[], counts.changes as f64);
        text.counter("dsn_changes_received_total", "Newer states of other nodes that were taken.")
            .add(&[], self.changes_received as f64);
        let port = &self.port;
        text.counter("dsn_port_connections_total", "Connections to the port that were taken.")
            .add(&[], port.accepted as f64);
        text.gauge("dsn_port_connections", "Connections to the port that are open.")
            .add(&[], port.open as f64);
        text.counter(
            "dsn_port_strangers_cut_total",
            "Connections of strangers that were cut to make room.",
        )
        .add(&[], port.cut as f64);
    }

    fn tell_of_the_disk(&self, text: &mut Text) {
        text.counter(
            "dsn_disk_failures_total",
            "Writes to disk that failed, of the state and of known peers.",
        )
        .add(&[], self.counts.disk_failures as f64);
        let Some(journal) = &self.journal else { return };
        text.gauge("dsn_journal_bytes", "Length of the file of the own state.")
            .add(&[], journal.bytes as f64);
        text.counter("dsn_journal_syncs_total", "Waits until changes were on disk.")
            .add(&[], journal.syncs as f64);
        text.counter("dsn_journal_sync_seconds_total", "Time of all of these waits.")
            .add(&[], journal.sync_s);
        text.counter("dsn_journal_rewrites_total", "How often the file was written anew.")
            .add(&[], journal.rewrites as f64);
    }

    fn tell_of_queues(&self, text: &mut Text) {
        let mut queues = text
            .gauge("dsn_queue_length", "What waits: sends by class of peer, changes for the disk.");
        for (queue, length) in &self.queues {
            queues.add(&[("queue", queue)], *length as f64);
        }
        text.gauge("dsn_event_listeners", "Programs that listen to events.")
            .add(&[], self.listeners as f64);
        text.counter("dsn_events_dropped_total", "Events that a listener was too slow to take.")
            .add(&[], self.events_dropped as f64);
        text.counter("dsn_log_lines_dropped_total", "Lines of the log that nobody took.")
            .add(&[], self.log_lines_dropped as f64);
    }

    fn tell_of_discovery(&self, text: &mut Text) {
        text.gauge(
            "dsn_discovery_on",
            "Whether others are looked for on the local network: 0 or 1.",
        )
        .add(&[], f64::from(u8::from(self.discovery.is_some())));
        let Some(Discovered { interfaces, found }) = &self.discovery else { return };
        text.gauge(
            "dsn_discovery_addresses_waiting",
            "Addresses found there that wait to be called.",
        )
        .add(&[], found.waiting as f64);
        let help =
            "Addresses found there that were called, by who answered; dropped: too many waited.";
        let mut calls = text.counter("dsn_discovery_addresses_total", help);
        for (result, count) in [
            ("met", found.met),
            ("known", found.known),
            ("refused", found.refused),
            ("nobody", found.nobody),
            ("dropped", found.dropped),
        ] {
            calls.add(&[("result", result)], count as f64);
        }
        let links = || interfaces.iter().map(|it| (it, [("interface", &*it.name)]));
        let help = "Interfaces on which others are looked for; always 1.";
        let mut used = text.gauge("dsn_discovery_interface", help);
        for (link, [name]) in links() {
            let address = link.address.to_string();
            used.add(&[name, ("address", &address)], 1.0);
        }
        let mut ages = text.gauge(
            "dsn_discovery_heard_seconds",
            "How long ago a member was heard on an interface, where one was.",
        );
        for (link, label) in links() {
            if let Some(at_ms) = link.heard.member_at {
                ages.add(&label, (self.uptime_s - at_ms as f64 / 1000.0).max(0.0));
            }
        }
        let help = "Messages on an interface: looked at, of these no messages, and dropped.";
        let mut messages = text.counter("dsn_discovery_messages_total", help);
        for (link, [name]) in links() {
            let Heard { messages: taken, unreadable, dropped, .. } = link.heard;
            let read = taken.saturating_sub(unreadable);
            for (what, count) in [("read", read), ("unreadable", unreadable), ("dropped", dropped)]
            {
                messages.add(&[name, ("what", what)], count as f64);
            }
        }
        let help = "Nodes that were heard on an interface: members, members that were passed over, others.";
        let mut heard = text.counter("dsn_discovery_announcements_total", help);
        for (link, [name]) in links() {
            let Heard { members, strangers, passed_over, .. } = link.heard;
            let taken = members.saturating_sub(passed_over);
            for (of, count) in
                [("members", taken), ("passed_over", passed_over), ("strangers", strangers)]
            {
                heard.add(&[name, ("of", of)], count as f64);
            }
        }
        let help = "Seconds in which not all messages on an interface were read.";
        let mut full = text.counter("dsn_discovery_full_seconds_total", help);
        for (link, label) in links() {
            full.add(&label, link.heard.full_seconds as f64);
        }
    }

    /// Not under the names that other exporters use for their own process: the text may be passed
    /// on by one of them.
    fn tell_of_the_process(&self, text: &mut Text) {
        let Process { memory_bytes, cpu_s, threads, open_files } = self.process;
        let help = "Memory of the process that is in use (resident).";
        text.gauge("dsn_process_memory_bytes", help).add_some(memory_bytes.map(|it| it as f64));
        text.counter("dsn_process_cpu_seconds_total", "CPU time of the process.").add_some(cpu_s);
        text.gauge("dsn_process_threads", "Threads of the process.")
            .add_some(threads.map(|it| it as f64));
        text.gauge("dsn_process_open_files", "Open files and connections of the process.")
            .add_some(open_files.map(|it| it as f64));
    }
}

/// The word for a type of message, in labels.
fn kind_name(kind: Kind) -> &'static str {
    kind.path().trim_start_matches('/')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::identity::NodeId;
    use crate::protocol::report::{FoundCounts, Interface, Load};

    fn measured() -> Measured {
        let counts = Counts::default();
        counts.note_received(Kind::Ping, 200, (10, 20));
        counts.note_received(Kind::Ping, 999, (1, 2));
        counts
            .note_sent(Kind::Update, Tried { status: None, bytes: (30, 0), elapsed_us: 5_000_000 });
        counts.note_failure(Kind::Update);
        counts.note_spread(3);
        let down = vec![(NodeId::new("garden").unwrap(), PeerStatus::Lost)];
        let heard = Heard { messages: 9, unreadable: 2, member_at: Some(500), ..Heard::default() };
        let name = "e\"0".into();
        let eth0 = Interface { name, address: [10, 0, 0, 1].into(), heard };
        let found = FoundCounts { met: 4, ..FoundCounts::default() };
        let node =
            NodeMeasures { down, own: Load { count: 2, bytes: 9 }, ..NodeMeasures::default() };
        Measured {
            node_id: "kitchen".into(),
            version: "1.2.3",
            protocol: 1,
            node,
            degraded: vec![Fault::new(Code::Alone, "x", "y")],
            counts: counts.snapshot(),
            journal: Some(Journal::default()),
            queues: vec![("changes", 3)],
            uptime_s: 2.0,
            discovery: Some(Discovered { interfaces: vec![eth0], found }),
            ..Measured::default()
        }
    }

    fn lines(of: &Measured) -> Vec<String> {
        of.to_string().lines().map(str::to_owned).collect()
    }

    #[test]
    fn each_series_carries_the_node_and_what_it_is_about() {
        let lines = lines(&measured());
        for line in [
            r#"dsn_build_info{node="kitchen",version="1.2.3",protocol="1"} 1"#,
            r#"dsn_peer_down{node="kitchen",peer="garden",status="lost"} 1"#,
            r#"dsn_degraded{node="kitchen",code="alone"} 1"#,
            r#"dsn_degraded{node="kitchen",code="clone"} 0"#,
            r#"dsn_state_bytes{node="kitchen",of="own"} 9"#,
            r#"dsn_received_requests_total{node="kitchen",type="ping",status="200"} 1"#,
            r#"dsn_received_requests_total{node="kitchen",type="ping",status="other"} 1"#,
            r#"dsn_sent_requests_total{node="kitchen",type="update",status="none"} 1"#,
            r#"dsn_sent_request_failures_total{node="kitchen",type="update"} 1"#,
            r#"dsn_network_bytes_total{node="kitchen",type="ping",direction="sent"} 22"#,
            r#"dsn_change_spread_seconds_count{node="kitchen"} 1"#,
            r#"dsn_queue_length{node="kitchen",queue="changes"} 3"#,
            "# TYPE dsn_journal_syncs_total counter",
            r#"dsn_discovery_on{node="kitchen"} 1"#,
            r#"dsn_discovery_interface{node="kitchen",interface="e\"0",address="10.0.0.1"} 1"#,
            r#"dsn_discovery_heard_seconds{node="kitchen",interface="e\"0"} 1.5"#,
            r#"dsn_discovery_messages_total{node="kitchen",interface="e\"0",what="read"} 7"#,
            r#"dsn_discovery_addresses_total{node="kitchen",result="met"} 4"#,
        ] {
            assert!(lines.iter().any(|it| it == line), "{line}\n{}", lines.join("\n"));
        }
    }

    #[test]
    fn no_series_and_no_family_is_there_twice_and_none_is_empty() {
        let lines = lines(&measured());
        let mut seen = std::collections::BTreeSet::new();
        for line in &lines {
            let name = line.rsplit_once(' ').unwrap().0;
            assert!(seen.insert(name.to_owned()), "{name} is there twice");
        }
        let has_series = |family: &str| {
            let is_of = |line: &&String| !line.starts_with('#') && line.starts_with(family);
            lines.iter().find(is_of).is_some()
        };
        for family in lines.iter().filter_map(|line| line.strip_prefix("# TYPE ")) {
            let family = family.split(' ').next().unwrap();
            assert!(has_series(family), "{family} has no series");
        }
    }

    #[test]
    fn what_is_not_there_is_not_told_of() {
        let memory = Measured { journal: None, ..measured() };
        assert!(!memory.to_string().contains("dsn_journal"));
        let off = Measured { discovery: None, ..measured() }.to_string();
        assert!(off.contains("dsn_discovery_on{node=\"kitchen\"} 0"), "{off}");
        assert_eq!(off.matches("dsn_discovery").count(), 3, "help, type and that");
    }

    #[test]
    fn so_many_nodes_that_are_lost_are_named_and_no_more() {
        let down = (0..500).map(|at| (NodeId::new(&format!("n{at}")).unwrap(), PeerStatus::Lost));
        let node = NodeMeasures { down: down.collect(), ..NodeMeasures::default() };
        let text = Measured { node, ..Measured::default() }.to_string();
        assert_eq!(text.matches("dsn_peer_down{").count(), DOWN_NAMED_MAX);
    }
}
