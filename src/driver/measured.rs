//! What those who watch the node get: counts, and what is there at this moment.

use std::sync::atomic::Ordering;

use super::{Driver, Inner};
use crate::metrics::{Journal, Measured, Port, process};
use crate::protocol::PROTOCOL_VERSION;
use crate::protocol::fault::Fault;
use crate::protocol::node::Class;
use crate::protocol::report::{Discovered, Interface};

/// What is known of looking for others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Discovering {
    /// Where they can be heard.
    pub interfaces: Vec<Interface>,
    /// Why they can't be found everywhere.
    pub fault: Option<Fault>,
}

impl Inner {
    pub(super) fn discovered(&self) -> Option<Discovered> {
        let interfaces = self.discovering.as_ref()?.interfaces.clone();
        Some(Discovered { interfaces, found: self.node.found_counts() })
    }
}

impl Driver {
    /// All that is counted and measured, now.
    pub fn measured(&self) -> Measured {
        let now = self.now();
        // Before the lock: it asks the port, too.
        let degraded = self.faults(now);
        let port = self.server().as_ref().map(|server| {
            let tally = server.tally();
            Port { accepted: tally.accepted, cut: tally.cut, open: tally.open as u64 }
        });
        let inner = self.lock();
        let node = inner.node.measures();
        let (listeners, events_dropped) = (inner.hub.listeners(), inner.hub.dropped());
        let changes_received = inner.changes_received;
        let discovery = inner.discovered();
        drop(inner);
        let journal = self.journal.as_ref().map(|tally| {
            let (syncs, time) = tally.syncs();
            Journal {
                bytes: tally.bytes(),
                syncs,
                sync_s: time.as_secs_f64(),
                rewrites: tally.rewrites(),
            }
        });
        let log_lines_dropped = self.log_dropped.get().map_or(0, |it| it.load(Ordering::Relaxed));
        Measured {
            node_id: self.node_id.as_str().to_owned(),
            version: env!("CARGO_PKG_VERSION"),
            protocol: PROTOCOL_VERSION,
            uptime_s: self.began.elapsed().as_secs_f64(),
            node,
            degraded,
            counts: self.counts.snapshot(),
            changes_received,
            journal,
            port: port.unwrap_or_default(),
            queues: self.queue_lengths(),
            discovery,
            listeners,
            events_dropped,
            log_lines_dropped,
            process: process(),
        }
    }

    fn queue_lengths(&self) -> Vec<(&'static str, usize)> {
        let name = |class| match class {
            Class::Healthy => "sends_to_healthy",
            Class::Returning => "sends_to_returning",
            Class::Unproved => "sends_to_unproved",
        };
        let sends = Class::ALL.into_iter().zip(&self.sends);
        let sends = sends.map(|(class, queue)| (name(class), queue.len()));
        sends.chain([("changes", self.sets.len())]).collect()
    }
}
