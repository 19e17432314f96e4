//! The thread that owns the disk.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, select};

use crate::credentials::{self, KnownPeer};
use crate::driver::{DiskJob, Driver, SetJob};
use crate::journal::{Commit, Journal};
use crate::protocol::report::Refused;
use crate::protocol::state::{Change, Record};

/// How long a failed write of the known peers waits before the next.
const SAVE_PEERS_RETRY: Duration = Duration::from_secs(30);
/// How long a change of the known peers waits for more of them before it is written.
const SAVE_PEERS_DELAY: Duration = Duration::from_millis(200);
/// Most changes that share one write to disk.
const BATCH_MAX: usize = 256;

/// The thread that owns the disk: changes that wait together share one write.
pub(super) struct Keeper {
    driver: Arc<Driver>,
    /// Nothing where the state is in memory alone.
    journal: Option<Journal>,
    /// How long changes may wait until they are synced; zero: they never wait.
    sync: Duration,
    /// When they are to be synced, if there are any.
    sync_due: Option<Instant>,
    credentials_folder: PathBuf,
    /// Whether the known peers could not be written when that was tried last.
    peers_failed: bool,
    /// When the known peers are to be written, if they are.
    peers_due: Option<Instant>,
}

impl Keeper {
    pub(super) fn new(
        driver: Arc<Driver>,
        journal: Option<Journal>,
        sync: Duration,
        credentials_folder: PathBuf,
    ) -> Self {
        Self {
            driver,
            journal,
            sync,
            sync_due: None,
            credentials_folder,
            peers_failed: false,
            peers_due: None,
        }
    }

    pub(super) fn run(mut self, jobs: &Receiver<DiskJob>, stopped: &Receiver<()>) {
        loop {
            let due = [self.peers_due, self.sync_due].into_iter().flatten().min();
            let wait = due.map(|due| due.saturating_duration_since(Instant::now()));
            let timer = wait.map_or_else(crossbeam_channel::never, crossbeam_channel::after);
            select! {
                recv(jobs) -> job => {
                    let batch: Vec<DiskJob> =
                        job.into_iter().chain(jobs.try_iter().take(BATCH_MAX - 1)).collect();
                    self.work_off(batch);
                }
                recv(timer) -> _ => {
                    let now = Instant::now();
                    let is_due = |due: Option<Instant>| due.is_some_and(|due| due <= now);
                    if is_due(self.peers_due) {
                        self.save_peers();
                    }
                    if is_due(self.sync_due) {
                        self.sync();
                    }
                }
                recv(stopped) -> _ => {
                    self.work_off(jobs.try_iter().collect());
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

    fn work_off(&mut self, batch: Vec<DiskJob>) {
        let mut sets = Vec::new();
        for job in batch {
            match job {
                DiskJob::Set(set) => sets.push(set),
                DiskJob::Republish => self.republish(),
                DiskJob::SavePeers if self.peers_due.is_none() => {
                    // A burst of joins is one write.
                    self.peers_due = Some(Instant::now() + SAVE_PEERS_DELAY);
                }
                DiskJob::SavePeers => {}
            }
        }
        if !sets.is_empty() {
            self.set(&sets);
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
        let appended = match &mut self.journal {
            Some(journal) => journal.append(commits, &record.entries),
            None => Ok(()),
        };
        match appended {
            Ok(()) => {
                if self.journal.is_some() && !self.sync.is_zero() && self.sync_due.is_none() {
                    self.sync_due = Some(Instant::now() + self.sync);
                }
                self.driver.note_disk(None);
                self.driver.publish(record);
                Ok(())
            }
            Err(fault) => {
                let why = fault.to_string();
                self.driver.note_disk(Some(why.clone()));
                Err(Refused::NotDurable { why })
            }
        }
    }

    fn sync(&mut self) {
        let synced = self.journal.as_mut().map_or(Ok(()), Journal::sync);
        self.sync_due = None;
        if let Err(fault) = synced {
            self.driver.note_disk(Some(fault.to_string()));
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
        self.peers_due = match credentials::save_known_peers(&self.credentials_folder, &known) {
            Ok(()) => {
                self.peers_failed = false;
                None
            }
            Err(fault) => {
                // Once: a card that is read-only stays so.
                if !std::mem::replace(&mut self.peers_failed, true) {
                    log::error!("{fault}");
                }
                Some(Instant::now() + SAVE_PEERS_RETRY)
            }
        };
    }
}
