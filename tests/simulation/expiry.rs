//! What must be true of values that expire, as their owner's host sees them.

use std::collections::BTreeMap;

use dsn::protocol::entries::{Change, Key};
use dsn::protocol::lease::{Terms, Ttl};

use super::host::Host;

/// How long after its time a value may still be there, ms: two waits for writes that are shared,
/// and the simulated disk.
const LATE_MAX_MS: u64 = 1_000;
/// The same after the disk failed, ms: the longest wait between tries of it.
const LATE_AFTER_FAULT_MS: u64 = 32_000;

/// A change that somebody asked for.
#[derive(Clone)]
pub struct Wanted {
    pub change: Change,
    pub ttl: Option<Ttl>,
    pub left: bool,
}

/// When the keys of a host go, by the true time, ms.
#[derive(Default)]
pub struct Lives {
    due: BTreeMap<Key, u64>,
    /// Until then there is a reason for what is late.
    excused_until: u64,
}

impl Lives {
    /// A change was made just now.
    pub fn acknowledged(&mut self, wanted: &Wanted, now_ms: u64) {
        for (key, value) in &wanted.change {
            match wanted.ttl.filter(|_| value.is_some()) {
                Some(ttl) => _ = self.due.insert(key.clone(), now_ms + u64::from(ttl.as_ms())),
                None => _ = self.due.remove(key),
            }
        }
    }

    /// The host started with this on its disk: all have their whole time again.
    pub fn started(&mut self, terms: &Terms, now_ms: u64) {
        let due = |(key, ttl): (&Key, &Ttl)| (key.clone(), now_ms + u64::from(ttl.as_ms()));
        self.due = terms.iter().map(due).collect();
    }
}

impl Host {
    /// Nothing goes before its time, and nothing is there long after it.
    pub fn look_at_lives(&mut self, now_ms: u64) -> Result<(), String> {
        let disk_is_bad = self.disk_fails || self.disk.is_gone();
        let Some(running) = &self.running else { return Ok(()) };
        let own = running.node.own();
        let excuse = match (disk_is_bad || own.head.left, self.hung_until) {
            (true, _) => now_ms + LATE_AFTER_FAULT_MS,
            (false, hung_until) => hung_until + LATE_MAX_MS,
        };
        let lives = &mut self.lives;
        lives.excused_until = lives.excused_until.max(excuse);
        for (key, due) in &lives.due {
            let is_there = own.entries.get(key.as_str()).is_some();
            if !is_there && now_ms < *due {
                let early = due - now_ms;
                return Err(format!("expiry: {key} of {} went {early} ms early", self.node_id));
            }
            if is_there && now_ms > (due + LATE_MAX_MS).max(lives.excused_until) {
                let late = now_ms - due;
                return Err(format!("expiry: {key} of {} is there {late} ms late", self.node_id));
            }
        }
        lives.due.retain(|key, due| own.entries.get(key.as_str()).is_some() || now_ms < *due);
        Ok(())
    }
}
