//! The thread that owns the disk.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, never, select};

use crate::config::SyncRule;
use crate::credentials::{self, KnownPeer};
use crate::driver::{DiskJob, Driver, Kept, SetJob};
use crate::journal::{Commit, Journal};
use crate::protocol::report::Refused;
use crate::protocol::state::{Change, Record};

/// How long a failed write of the known peers waits before the next.
const SAVE_PEERS_RETRY: Duration = Duration::from_secs(30);
/// How long a change of the known peers waits for more of them before it is written.
const SAVE_PEERS_DELAY: Duration = Duration::from_millis(200);
/// Most changes that share one write to disk.
const BATCH_MAX: usize = 256;
/// Time between two writes where they are shared: four syncs a second are little for any card,
/// and nobody waits for long.
const SHARED_EVERY: Duration = Duration::from_millis(250);
/// How long after a fault the disk is tried first.
const REPAIR_FIRST: Duration = Duration::from_secs(2);
/// The time doubles up to this one: each try may cost a card a write.
const REPAIR_LAST: Duration = Duration::from_secs(30);

/// The thread that owns the disk: changes that wait together share one write.
pub(super) struct Keeper {
    driver: Arc<Driver>,
    /// Nothing where the state is in memory alone.
    journal: Option<Journal>,
    rule: SyncRule,
    /// Changes that wait for the next shared write, and when that is due.
    held: Vec<DiskJob>,
    held_due: Option<Instant>,
    /// When the next shared write may be.
    shared_from: Instant,
    /// When what was written is to be synced, if it is not yet.
    sync_due: Option<Instant>,
    /// When the disk is tried again after a fault, and how long the wait was.
    repair_due: Option<Instant>,
    repair_wait: Duration,
    credentials_folder: PathBuf,
    /// When the known peers are to be written, if they are.
    peers_due: Option<Instant>,
}

impl Keeper {
    /// Takes what was wrong with the disk at the start, if anything was.
    pub(super) fn new(
        driver: Arc<Driver>,
        journal: Option<Journal>,
        rule: SyncRule,
        credentials_folder: PathBuf,
        fault: Option<String>,
    ) -> Self {
        let mut keeper = Self {
            driver,
            journal,
            rule,
            held: Vec::new(),
            held_due: None,
            shared_from: Instant::now(),
            sync_due: None,
            repair_due: None,
            repair_wait: Duration::ZERO,
            credentials_folder,
            peers_due: None,
        };
        if let Some(why) = fault {
            keeper.failed(why);
        }
        keeper
    }

    pub(super) fn run(mut self, jobs: &Receiver<DiskJob>, stopped: &Receiver<()>) {
        let nobody = never();
        loop {
            let dues = [self.held_due, self.peers_due, self.sync_due, self.repair_due];
            let due = dues.into_iter().flatten().min();
            let wait = due.map(|due| due.saturating_duration_since(Instant::now()));
            let timer = wait.map_or_else(crossbeam_channel::never, crossbeam_channel::after);
            // More than one write takes waits in the queue, which has a bound of its own.
            let open = if self.held.len() < BATCH_MAX { jobs } else { &nobody };
            select! {
                recv(open) -> job => {
                    let batch: Vec<DiskJob> =
                        job.into_iter().chain(jobs.try_iter().take(BATCH_MAX - 1)).collect();
                    self.take(batch);
                }
                recv(timer) -> _ => self.do_what_is_due(),
                recv(stopped) -> _ => {
                    self.held.extend(jobs.try_iter());
                    self.work_off();
                    if self.peers_due.is_some() {
                        self.save_peers();
                    }
                    if self.sync_due.is_some() {
                        self.sync();
                    }
                    return;
                }
            }
        }
    }

    fn do_what_is_due(&mut self) {
        let now = Instant::now();
        let is_due = |due: Option<Instant>| due.is_some_and(|due| due <= now);
        if is_due(self.held_due) {
            self.work_off();
        }
        if is_due(self.peers_due) {
            self.save_peers();
        }
        if is_due(self.sync_due) {
            self.sync();
        }
        if is_due(self.repair_due) {
            self.repair();
        }
    }

    /// Works jobs off at once, or holds them for the next shared write.
    fn take(&mut self, batch: Vec<DiskJob>) {
        for job in batch {
            match job {
                // A burst of joins is one write.
                DiskJob::SavePeers => {
                    self.peers_due.get_or_insert_with(|| Instant::now() + SAVE_PEERS_DELAY);
                }
                job => self.held.push(job),
            }
        }
        let waits = self.rule == SyncRule::Shared
            && self.journal.is_some()
            && Instant::now() < self.shared_from;
        if waits && !self.held.is_empty() {
            self.held_due = Some(self.shared_from);
        } else {
            self.work_off();
        }
    }

    fn work_off(&mut self) {
        self.held_due = None;
        let mut sets = Vec::new();
        let mut republishes = false;
        for job in std::mem::take(&mut self.held) {
            match job {
                DiskJob::Set(set) => sets.push(set),
                DiskJob::Republish => republishes = true,
                DiskJob::SavePeers => {}
            }
        }
        let own = self.driver.own().head.timestamp;
        if !sets.is_empty() {
            self.set(&sets);
        }
        // Whatever was set is above all that peers hold already.
        if republishes && self.driver.own().head.timestamp == own {
            self.republish();
        }
    }

    /// Makes a version for each change, writes all with one sync, publishes the last, tells.
    fn set(&mut self, sets: &[SetJob]) {
        let mut record = self.driver.own();
        let mut commits = Vec::new();
        let mut results = Vec::new();
        for SetJob { change, left, reply } in sets {
            let result = match self.driver.next_timestamp(record.head.timestamp) {
                None => Err(Refused::NotDurable { why: "no timestamp is left".into() }),
                Some(timestamp) => match record.after(change, *left, timestamp) {
                    Err(fault) => Err(fault.into()),
                    Ok(None) => Ok(record.head.timestamp),
                    Ok(Some(next)) => {
                        record = Arc::new(next);
                        commits.push(Commit { change, timestamp, left: *left });
                        Ok(timestamp)
                    }
                },
            };
            results.push((reply, result));
        }
        let written = self.write(&commits, record);
        for (reply, result) in results {
            let result = match &written {
                Err(refused) if result.is_ok() => Err(refused.clone()),
                _ => result,
            };
            // Whoever waited may have gone.
            let _ = reply.try_send(result);
        }
    }

    fn write(&mut self, commits: &[Commit<'_>], record: Arc<Record>) -> Result<(), Refused> {
        if commits.is_empty() {
            return Ok(());
        }
        self.shared_from = Instant::now() + SHARED_EVERY;
        let appended = match &mut self.journal {
            Some(journal) => journal.append(commits, &record.entries),
            None => Ok(()),
        };
        match appended {
            Ok(()) => {
                if let (Some(_), SyncRule::Within(time)) = (&self.journal, self.rule) {
                    self.sync_due.get_or_insert_with(|| Instant::now() + time);
                }
                self.worked();
                self.driver.publish(record);
                Ok(())
            }
            Err(fault) => {
                let why = fault.to_string();
                self.failed(why.clone());
                Err(Refused::NotDurable { why })
            }
        }
    }

    fn worked(&mut self) {
        self.repair_due = None;
        self.repair_wait = Duration::ZERO;
        self.driver.note_disk(Kept::State, None);
    }

    fn failed(&mut self, why: String) {
        self.driver.note_disk(Kept::State, Some(why));
        if self.repair_due.is_none() {
            self.repair_wait = (self.repair_wait * 2).clamp(REPAIR_FIRST, REPAIR_LAST);
            self.repair_due = Some(Instant::now() + self.repair_wait);
        }
    }

    fn sync(&mut self) {
        self.sync_due = None;
        // What can't be added to is not synced either: it is written anew.
        if self.journal.as_ref().is_some_and(Journal::is_broken) {
            return self.repair();
        }
        let synced = self.journal.as_mut().map_or(Ok(()), Journal::sync);
        if let Err(fault) = synced {
            self.failed(fault.to_string());
        }
    }

    /// Nobody has to change anything for the node to find that there is room again.
    fn repair(&mut self) {
        self.repair_due = None;
        let own = self.driver.own();
        let (timestamp, left) = (own.head.timestamp, own.head.left);
        let journal = self.journal.as_mut();
        match journal.map_or(Ok(()), |journal| journal.repair(&own.entries, timestamp, left)) {
            Ok(()) => self.worked(),
            Err(fault) => self.failed(fault.to_string()),
        }
    }

    /// The same entries under a later timestamp.
    fn republish(&mut self) {
        let own = self.driver.own();
        let Some(timestamp) = self.driver.next_timestamp(own.head.timestamp) else {
            return;
        };
        let (head, change) = (&own.head, Change::new());
        let entries = Arc::clone(&own.entries);
        let next = Record::new(head.node_id.clone(), own.public_key, timestamp, head.left, entries);
        let commit = Commit { change: &change, timestamp, left: head.left };
        if self.write(&[commit], Arc::new(next)).is_ok() {
            log::info!("peers held a later version of the own state; it goes on from there");
        }
    }

    fn save_peers(&mut self) {
        let known: Vec<KnownPeer> = self
            .driver
            .known_peers()
            .into_iter()
            .map(|pin| KnownPeer {
                node_id: pin.node_id,
                public_key: pin.public_key,
                direct: pin.direct,
                address: pin.address,
            })
            .collect();
        let saved = credentials::save_known_peers(&self.credentials_folder, &known);
        self.peers_due = saved.is_err().then(|| Instant::now() + SAVE_PEERS_RETRY);
        self.driver.note_disk(Kept::Peers, saved.err().map(|fault| fault.to_string()));
    }
}
