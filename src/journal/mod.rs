//! The own state on disk: an append-only file of changes, rewritten when it has grown.
//!
//! The file is a row of frames:
//!
//! ```text
//! frame   = "dsnJ" ‖ length of payload (4) ‖ checksum (16) ‖ payload
//! payload = kind (1: 1 snapshot, 2 change) ‖ timestamp (8) ‖ left (1) ‖ count (4) ‖ entries
//! entry   = length of key (2) ‖ key ‖ present (1: 0 or 1) ‖ length of value (4) ‖ value
//! ```
//!
//! Numbers are little-endian. The checksum is the first 16 bytes of SHA-256 over length and
//! payload. A snapshot replaces all that came before it; a change sets and removes keys. Frames
//! that are damaged are passed over: each whole frame counts, wherever it stands.

mod disk;
mod frame;

use std::collections::BTreeMap;
use std::fmt;
use std::io::Error;
use std::path::{Path, PathBuf};

use crate::protocol::state::{Change, Entries, Key, Value};
use disk::{Disk, RealDisk};
use frame::{Frame, FrameKind};

/// The name of the file in the folder of the node.
const FILE_NAME: &str = "state.journal";
/// A file this small is never rewritten, bytes: on an SD card a block of this size is erased for
/// the smallest write.
const REWRITE_BYTES_MIN: usize = 128 * 1024;
/// A file is rewritten when it has so many times the size of a snapshot.
const REWRITE_FACTOR: usize = 4;

/// What was found on disk.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    /// The entries.
    pub entries: Entries,
    /// The timestamp of the last version; 0 if there was none.
    pub timestamp: u64,
    /// Whether the node had said goodbye.
    pub left: bool,
    /// What the operator should know: a damaged file, what was kept of it, and where it is now.
    pub warnings: Vec<String>,
}

/// A version to write.
#[derive(Debug)]
pub struct Commit<'a> {
    /// What changed.
    pub change: &'a Change,
    /// Its timestamp.
    pub timestamp: u64,
    /// Whether the node says goodbye with it.
    pub left: bool,
}

/// The own state on disk.
#[derive(Debug)]
pub struct Journal<D = RealDisk> {
    disk: D,
    path: PathBuf,
    /// Bytes of the file that are known to be good.
    length: usize,
    /// The length from which on it is rewritten.
    rewrite_at: usize,
    /// Whether what was written is to be on disk before `append` returns.
    syncs: bool,
    /// Whether the end of the file is in doubt: then the next write rewrites all of it.
    broken: bool,
}

impl Journal {
    /// Opens the journal in a folder, which is made if need be. An intact file is not written to.
    ///
    /// With `syncs` every change is on disk when it was appended; else when [`Journal::sync`] is
    /// called: until then it outlives the process, but not a power cut.
    pub fn open(folder: &Path, syncs: bool) -> Result<(Self, Loaded), JournalError> {
        crate::durable::create_private_folder(folder)
            .map_err(|why| JournalError::new(folder, "opened", why))?;
        Self::open_on(RealDisk::default(), folder, syncs)
    }
}

impl<D: Disk> Journal<D> {
    fn open_on(mut disk: D, folder: &Path, syncs: bool) -> Result<(Self, Loaded), JournalError> {
        let path = folder.join(FILE_NAME);
        let found = disk.read(&path).map_err(|why| JournalError::new(&path, "read", why))?;
        let (bytes, fault) = found.map(|found| (found.bytes, found.fault)).unwrap_or_default();
        let (mut loaded, mut damaged) = replay(&bytes);
        if let Some(why) = fault {
            damaged = true;
            let path = path.display();
            loaded
                .warnings
                .push(format!("parts of {path} can't be read: {why}. Look after that disk"));
        }
        let mut journal = Self {
            disk,
            length: bytes.len(),
            rewrite_at: rewrite_at(&loaded.entries),
            syncs,
            broken: damaged,
            path,
        };
        if damaged {
            loaded.warnings.push(journal.set_aside(&bytes, &loaded));
            // If there is no room now, the next change tries again; what is there stays there.
            if let Err(fault) = journal.rewrite(&loaded.entries, loaded.timestamp, loaded.left) {
                loaded.warnings.push(fault.to_string());
            }
        }
        Ok((journal, loaded))
    }

    /// Makes versions durable, all with one write and one sync. After an error none of them counts.
    ///
    /// `entries` is the state after all of them.
    pub fn append(
        &mut self,
        commits: &[Commit<'_>],
        entries: &Entries,
    ) -> Result<(), JournalError> {
        let Some(last) = commits.last() else {
            return Ok(());
        };
        if self.broken {
            return self.rewrite(entries, last.timestamp, last.left);
        }
        let mut bytes = Vec::new();
        for commit in commits {
            frame::encode_change(commit, &mut bytes);
        }
        if let Err(why) = self.disk.append(&self.path, self.length, &bytes) {
            // Half a frame may stand at the end now. If it can be cut off, all is as it was, and
            // the next change needs no more room than its own.
            self.broken = self.disk.truncate(&self.path, self.length).is_err();
            return Err(JournalError::new(&self.path, "written", why));
        }
        if self.syncs
            && let Err(why) = self.disk.sync(&self.path)
        {
            // After a failed sync nobody knows what is on disk: all of it is rewritten next time.
            self.broken = true;
            let _ = self.disk.truncate(&self.path, self.length);
            return Err(JournalError::new(&self.path, "written", why));
        }
        self.length += bytes.len();
        if self.length > self.rewrite_at {
            self.compact(entries, last);
        }
        Ok(())
    }

    /// Waits until all changes are on disk.
    pub fn sync(&mut self) -> Result<(), JournalError> {
        self.disk.sync(&self.path).map_err(|why| {
            // Nobody knows what is on disk now: the next change rewrites all of it.
            self.broken = true;
            JournalError::new(&self.path, "written", why)
        })
    }

    /// Whether what is on disk is not what it should be.
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// Writes all of the state anew: after a fault, to see whether the disk is whole again.
    pub fn repair(
        &mut self,
        entries: &Entries,
        timestamp: u64,
        left: bool,
    ) -> Result<(), JournalError> {
        self.rewrite(entries, timestamp, left)
    }

    /// The changes are durable already, so a failure costs nothing but room.
    fn compact(&mut self, entries: &Entries, last: &Commit<'_>) {
        if let Err(fault) = self.rewrite(entries, last.timestamp, last.left) {
            log::warn!("the journal could not be made smaller: {fault}");
            self.rewrite_at = self.length * 2;
            // Where it is another file already, only its folder could not be synced.
            self.broken = self.disk.length(&self.path) != Some(self.length);
        }
    }

    fn rewrite(
        &mut self,
        entries: &Entries,
        timestamp: u64,
        left: bool,
    ) -> Result<(), JournalError> {
        let mut bytes = Vec::new();
        frame::encode_snapshot(entries, timestamp, left, &mut bytes);
        self.disk
            .replace(&self.path, &bytes)
            .map_err(|why| JournalError::new(&self.path, "written", why))?;
        self.length = bytes.len();
        self.rewrite_at = rewrite_at(entries);
        self.broken = false;
        Ok(())
    }

    /// Keeps a damaged file under a name of its own, for whoever wants to look.
    fn set_aside(&mut self, bytes: &[u8], loaded: &Loaded) -> String {
        let aside = crate::durable::aside_name(&self.path);
        let kept = format!(
            "{} was damaged; {} keys up to version {} were kept",
            self.path.display(),
            loaded.entries.len(),
            loaded.timestamp
        );
        match self.disk.keep_as(&self.path, &aside, bytes) {
            Ok(()) => format!("{kept}, and the damaged file is now {}", aside.display()),
            Err(why) => format!("{kept}; it could not be kept as {}: {why}", aside.display()),
        }
    }
}

fn rewrite_at(entries: &Entries) -> usize {
    let mut bytes = Vec::new();
    frame::encode_snapshot(entries, 0, false, &mut bytes);
    REWRITE_BYTES_MIN.max(bytes.len() * REWRITE_FACTOR)
}

/// What the whole frames say, and whether anything else was there.
fn replay(mut bytes: &[u8]) -> (Loaded, bool) {
    let mut replayed = Replayed::default();
    let mut damaged = false;
    while !bytes.is_empty() {
        if let Some((frame, rest)) = frame::decode(bytes) {
            replayed.apply(frame);
            bytes = rest;
        } else {
            damaged = true;
            bytes = frame::next_start(bytes);
        }
    }
    let Replayed { entries, timestamp, left } = replayed;
    let entries = entries.into_iter().collect();
    (Loaded { entries, timestamp, left, warnings: Vec::new() }, damaged)
}

/// For the fuzzer: what is read from a file is the same when it was written again.
#[cfg(fuzzing)]
pub fn fuzz_replay(bytes: &[u8]) {
    let (loaded, _) = replay(bytes);
    let mut written = Vec::new();
    frame::encode_snapshot(&loaded.entries, loaded.timestamp, loaded.left, &mut written);
    let (again, damaged) = replay(&written);
    assert!(!damaged);
    assert!(loaded.timestamp == 0 || again == loaded);
}

/// What the frames read so far say.
#[derive(Default)]
struct Replayed {
    entries: BTreeMap<Key, Value>,
    timestamp: u64,
    left: bool,
}

impl Replayed {
    fn apply(&mut self, frame: Frame) {
        if frame.timestamp <= self.timestamp {
            return;
        }
        if frame.kind == FrameKind::Snapshot {
            self.entries.clear();
        }
        for (key, value) in frame.change {
            match value {
                Some(value) => self.entries.insert(key, value),
                None => self.entries.remove(&key),
            };
        }
        self.timestamp = frame.timestamp;
        self.left = frame.left;
    }
}

/// The own state could not be read or written. What was acknowledged before is still there.
#[derive(Debug)]
pub struct JournalError {
    path: PathBuf,
    what: &'static str,
    why: Error,
}

impl JournalError {
    fn new(path: &Path, what: &'static str, why: Error) -> Self {
        Self { path: path.into(), what, why }
    }
}

impl fmt::Display for JournalError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (path, what, why) = (self.path.display(), self.what, &self.why);
        write!(formatter, "the state in {path} can't be {what}: {why}. ")?;
        match why.kind() {
            std::io::ErrorKind::StorageFull => write!(formatter, "Make room on that disk"),
            std::io::ErrorKind::PermissionDenied => {
                write!(formatter, "Give this user the right to it, or use --data DIR")
            }
            std::io::ErrorKind::ReadOnlyFilesystem => {
                write!(formatter, "Mount that disk so that it can be written, or use --data DIR")
            }
            std::io::ErrorKind::NotFound => {
                write!(formatter, "It is made anew soon; leave it there while the node runs")
            }
            _ => write!(formatter, "Look after that disk, or use --data DIR"),
        }
    }
}

impl std::error::Error for JournalError {}

#[cfg(test)]
mod tests;
