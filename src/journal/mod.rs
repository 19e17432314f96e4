//! The own state on disk: an append-only file of changes, rewritten when it has grown.
//!
//! ```text
//! file    = head ‖ zeros up to byte 4096 ‖ head ‖ frames
//! head    = "dsn journal\n" ‖ format (4): 1 ‖ file id (16) ‖ checksum (16)
//! frame   = "dsnJ" ‖ length of payload (4) ‖ synced (8) ‖ checksum of payload (16)
//!           ‖ checksum of this head (16) ‖ payload
//! payload = kind (1): 1 snapshot, 2 change ‖ timestamp (8) ‖ left (1): 0, 1 ‖ count (4) ‖ entries
//! entry   = length of key (2) ‖ key ‖ 0, or: 1 ‖ value, or: 2 ‖ time (4) ‖ value
//! value   = length (4) ‖ bytes
//! ```
//!
//! Numbers are little-endian. A checksum is the first 16 bytes of SHA-256 over what it is of (1: 1
//! head of the file, 2 head of a frame, 3 payload), the file id, the offset in the file of the head
//! or frame (8), and then
//!
//! * for the head of the file: its magic and format,
//! * for a payload: its length (4) and the payload,
//! * for the head of a frame: the length, `synced`, and the checksum of the payload.
//!
//! **A frame is bound to its file and its place.** The file id is random, and each rewrite makes a
//! new one. So nothing that stands in a value is ever taken for a frame, not even a copy of this
//! file: that has another offset.
//!
//! **A block that is lost costs the frames in it.** The head of the file stands in the first two
//! blocks of 4096 bytes; without both, nothing of the file is taken. All frames that are whole
//! count, wherever they stand. What lies inside a frame with a whole head is passed over, and
//! anything else that looks like a frame costs one hash of 53 bytes: reading is linear in the file.
//!
//! **A frame counts whole or not at all.** A snapshot replaces all that came before it; a change
//! sets and removes keys (flag 0). Timestamps rise from frame to frame, keys within a frame; a
//! snapshot removes nothing; the limits of a state hold after each frame. The file is made in one
//! step, with a snapshot in it; each later write adds frames at its end.
//!
//! **A value that expires says after how long** (flag 2), in ms from when it was set, within the
//! limits of [`crate::protocol::lease::Ttl`]. When it was set last is nowhere: a clock that is
//! right after a restart can't be had everywhere, and to set it again costs no write.
//!
//! **A power cut is told apart from damage.** `synced` says how many bytes of the file were on disk
//! when the frame was written. What is bad behind all that is known to have been there was not
//! promised to anybody, and is what a power cut leaves: any part of it, zeros, or what stood on the
//! disk before. It is dropped and is no damage. Bad bytes before that are damage.
//!
//! **A change counts when the path leads to it.** A file that is removed, or a disk that is
//! unmounted, can be written to for as long as it is open, and nobody will find it after a restart.

mod disk;
mod error;
mod frame;
mod replay;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::advice::whole_path;
use crate::durable::Content;
use crate::protocol::entries::{Change, Entries, check_limits};
use crate::protocol::fault::{self, Code};
use crate::protocol::lease::{Terms, Ttl};
use crate::protocol::{STATE_BYTES_MAX, TIMESTAMP_MAX};
pub use disk::{Disk, Place, RealDisk, Tally};
use error::Fault;
pub use error::JournalError;
pub use frame::FileId;
use replay::{Condition, OtherFormat, Replay, replay};

/// The name of the file in the folder of the node.
pub const FILE_NAME: &str = "state.journal";
/// A file this small is never rewritten, bytes: on an SD card a block of this size is erased for
/// the smallest write.
const REWRITE_BYTES_MIN: usize = 128 * 1024;
/// A file is rewritten when it has so many times the size of a snapshot.
const REWRITE_FACTOR: usize = 4;
/// All files are shorter, bytes: far above what they are rewritten at.
pub const FILE_BYTES_MAX: usize = 16 * STATE_BYTES_MAX;

/// What was found on disk.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    /// The entries.
    pub entries: Entries,
    /// Which of them expire.
    pub terms: Terms,
    /// The timestamp of the last version; 0 if there was none.
    pub timestamp: u64,
    /// Whether the node had said goodbye.
    pub left: bool,
    /// What the operator should know: a damaged file, what was kept of it, and where it is now.
    pub warnings: Vec<fault::Fault>,
    /// What is as usual after a power cut.
    pub notes: Vec<fault::Fault>,
}

/// A version to write.
#[derive(Debug)]
pub struct Commit<'a> {
    /// What changed.
    pub change: &'a Change,
    /// For how long what it sets stands; for good where nothing is said.
    pub ttl: Option<Ttl>,
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
    /// Which file it is; nothing before one was written.
    file: Option<FileId>,
    /// Bytes of the file that are known to be good.
    length: usize,
    /// How many of them are on disk for certain.
    synced: usize,
    /// The timestamp of the last version in it.
    timestamp: u64,
    /// Which of its keys expire.
    terms: Terms,
    /// The length from which on it is rewritten.
    rewrite_at: usize,
    /// Whether what was written is to be on disk before `append` returns.
    syncs: bool,
    /// Whether the file is in doubt: then the next write rewrites all of it.
    broken: bool,
}

impl Journal {
    /// Opens the journal in a folder of this host, which is made if need be.
    ///
    /// The rest is as with [`Journal::open_on`].
    pub fn open(folder: &Path, syncs: bool) -> Result<(Self, Loaded), JournalError> {
        crate::durable::create_private_folder(folder)
            .map_err(|why| JournalError::opened(folder, why))?;
        Self::open_on(RealDisk::default(), folder, syncs)
    }

    /// What is done to the disk, for others to read meanwhile.
    pub fn tally(&self) -> Arc<Tally> {
        self.disk.tally()
    }
}

impl<D: Disk> Journal<D> {
    /// Opens the journal in a folder that is there, on a disk of the caller's. An intact file is
    /// synced and not written to.
    ///
    /// With `syncs` every change is on disk when it was appended; else when [`Journal::sync`] is
    /// called: until then it outlives the process, but not a power cut.
    pub fn open_on(disk: D, folder: &Path, syncs: bool) -> Result<(Self, Loaded), JournalError> {
        let mut journal = Self {
            disk,
            path: folder.join(FILE_NAME),
            file: None,
            length: 0,
            synced: 0,
            timestamp: 0,
            terms: Terms::new(),
            rewrite_at: 0,
            syncs,
            broken: false,
        };
        let found = journal.disk.hold(&journal.path);
        let found = found.map_err(|why| JournalError::read(&journal.path, Fault::Disk(why)))?;
        let loaded = found.map(|content| journal.load(content)).transpose()?;
        Ok((journal, loaded.unwrap_or_default()))
    }

    fn load(&mut self, content: Content) -> Result<Loaded, JournalError> {
        let Content { bytes, fault } = content;
        let Replay { mut loaded, file, condition } = replay(&bytes)
            .map_err(|OtherFormat(found)| JournalError::read(&self.path, Fault::Format(found)))?;
        (self.file, self.length, self.timestamp) = (file, bytes.len(), loaded.timestamp);
        self.terms.clone_from(&loaded.terms);
        self.rewrite_at = rewrite_at(&loaded.entries, self.terms.len());
        let is_all = fault.is_none() && bytes.len() < FILE_BYTES_MAX;
        if let Some(why) = fault {
            let path = whole_path(&self.path);
            let text =
                format!("parts of {} can't be read: {why}. Look after that disk", path.display());
            loaded.warnings.push(fault::Fault::new(Code::StateDamaged, text, ""));
        }
        match condition {
            Condition::Whole if is_all => self.settle(&mut loaded),
            Condition::Torn { at } if is_all => {
                self.cut_off(at, &mut loaded);
                self.settle(&mut loaded);
            }
            Condition::Holed if is_all => {
                self.note_dropped("bytes in the middle", &mut loaded);
                self.rewrite_what_was_kept(&mut loaded);
            }
            _ => self.mend(&bytes, &mut loaded),
        }
        Ok(loaded)
    }

    /// Sees to it that what was found is on disk. A process that was killed may have left it
    /// without a sync; from now on it counts, and a change that sets it again writes nothing.
    fn settle(&mut self, loaded: &mut Loaded) {
        if let Err(why) = self.disk.settle(&self.path) {
            // Nobody knows what is on disk now: the next change rewrites all of it.
            self.broken = true;
            let fault = JournalError::written(&self.path, Fault::Disk(why));
            loaded.warnings.push(fault::Fault::new(Code::StateNotWritten, fault.to_string(), ""));
        } else {
            self.synced = self.length;
        }
    }

    fn note_dropped(&self, what: &str, loaded: &mut Loaded) {
        loaded.notes.push(fault::Fault::new(Code::StateRepaired, format!(
                "the last write was cut off by a power cut or a kill; {what} were dropped from {}. With --sync always or \
                 shared nobody was told that they were kept",
                whole_path(&self.path).display()
            ), ""));
    }

    /// Drops what is left of a write that was cut off.
    fn cut_off(&mut self, at: usize, loaded: &mut Loaded) {
        self.note_dropped(&format!("{} bytes", self.length - at), loaded);
        // This needs no room.
        match self.disk.truncate(&self.path, at) {
            Ok(()) => self.length = at,
            Err(_) => self.rewrite_what_was_kept(loaded),
        }
    }

    /// Keeps a damaged file beside a new one.
    fn mend(&mut self, bytes: &[u8], loaded: &mut Loaded) {
        let (path, keys) = (whole_path(&self.path), loaded.entries.len());
        let path = path.display();
        let kept = match loaded.timestamp {
            0 => format!("{path} was damaged, and nothing could be read: the state is empty now"),
            last => format!("{path} was damaged; {keys} keys up to version {last} were kept"),
        };
        let text = match self.disk.set_aside(&self.path, bytes) {
            Ok(aside) => format!("{kept}, and the damaged file is now {}", aside.display()),
            Err(why) => format!("{kept}; it could not be kept under another name: {why}"),
        };
        loaded.warnings.push(fault::Fault::new(Code::StateDamaged, text, ""));
        if loaded.timestamp > 0 {
            self.rewrite_what_was_kept(loaded);
        } else {
            // Nothing was: the first version replaces the file.
            self.file = None;
        }
    }

    fn rewrite_what_was_kept(&mut self, loaded: &mut Loaded) {
        // If there is no room now, the next change tries again; what is there stays there.
        let terms = loaded.terms.clone();
        if let Err(fault) = self.rewrite(&loaded.entries, terms, loaded.timestamp, loaded.left) {
            loaded.warnings.push(fault::Fault::new(Code::StateNotWritten, fault.to_string(), ""));
        }
    }

    /// Makes versions durable, all with one write and one sync. After an error none of them counts.
    ///
    /// `entries` is the state after all of them. Their timestamps rise, above those before.
    pub fn append(
        &mut self,
        commits: &[Commit<'_>],
        entries: &Entries,
    ) -> Result<(), JournalError> {
        let Some(last) = commits.last() else {
            return Ok(());
        };
        self.check(commits, entries)?;
        let terms = self.terms_after(commits);
        match self.file {
            Some(file) if !self.broken && self.has_room(commits) => {
                let mut bytes = Vec::new();
                let place = (self.length, self.synced);
                for commit in commits {
                    frame::encode_change(file, place, commit, &mut bytes);
                }
                self.write(&bytes)?;
            }
            _ => {
                let terms = terms.unwrap_or_else(|| self.terms.clone());
                return self.rewrite(entries, terms, last.timestamp, last.left);
            }
        }
        self.timestamp = last.timestamp;
        let before = terms.map(|terms| std::mem::replace(&mut self.terms, terms));
        if self.length > self.rewrite_at
            && let Err(fault) = self.compact(entries, last)
        {
            // None of the changes counts.
            if let Some(before) = before {
                self.terms = before;
            }
            return Err(fault);
        }
        Ok(())
    }

    /// Which keys expire when these are made; nothing where those are the same as before.
    fn terms_after(&self, commits: &[Commit<'_>]) -> Option<Terms> {
        let is_touched = |key| self.terms.contains_key(key);
        if commits.iter().all(|it| it.ttl.is_none() && !it.change.keys().any(is_touched)) {
            return None;
        }
        let mut terms = self.terms.clone();
        for Commit { change, ttl, .. } in commits {
            for (key, value) in *change {
                match (value, ttl) {
                    (Some(_), Some(ttl)) => _ = terms.insert(key.clone(), *ttl),
                    _ => _ = terms.remove(key),
                }
            }
        }
        Some(terms)
    }

    /// Nothing is acknowledged that would be taken for damage when it is read.
    fn check(&self, commits: &[Commit<'_>], entries: &Entries) -> Result<(), JournalError> {
        let mut before = self.timestamp;
        let rises = commits.iter().all(|commit| {
            let rises = (before + 1..=TIMESTAMP_MAX).contains(&commit.timestamp);
            before = commit.timestamp;
            rises
        });
        if rises && check_limits(entries).is_ok() {
            return Ok(());
        }
        Err(JournalError::written(&self.path, Fault::Unfit))
    }

    /// Whether all of the changes would be read again behind what is there. A state always is, and
    /// a change of it is larger only where it removes many keys that are not there.
    fn has_room(&self, commits: &[Commit<'_>]) -> bool {
        let mut lengths = commits.iter().map(frame::frame_bytes_max);
        let end = lengths.try_fold(self.length, |end, length| {
            let end = end.checked_add(length)?;
            (length <= frame::FRAME_BYTES_MAX).then_some(end)
        });
        end.is_some_and(|end| end < FILE_BYTES_MAX)
    }

    /// Adds bytes to the file, or leaves it as it was.
    fn write(&mut self, bytes: &[u8]) -> Result<(), JournalError> {
        self.confirm(self.length)?;
        if let Err(why) = self.disk.append(&self.path, self.length, bytes) {
            // Half a frame may stand at the end now. If it can be cut off, all is as it was, and
            // the next change needs no more room than its own.
            self.broken = self.disk.truncate(&self.path, self.length).is_err();
            return Err(JournalError::written(&self.path, Fault::Disk(why)));
        }
        let synced = if self.syncs { self.disk.sync(&self.path) } else { Ok(()) };
        let end = self.length + bytes.len();
        let done = synced
            .map_err(|why| JournalError::written(&self.path, Fault::Disk(why)))
            .and_then(|()| self.confirm(end));
        if let Err(fault) = done {
            // After a failed sync nobody knows what is on disk, and a disk that is gone may come
            // back: all of it is rewritten next time.
            self.broken = true;
            let _ = self.disk.truncate(&self.path, self.length);
            return Err(fault);
        }
        self.length = end;
        if self.syncs {
            self.synced = end;
        }
        Ok(())
    }

    /// Sees to it that whoever opens the path finds what was written, in a file of this length.
    fn confirm(&mut self, length: usize) -> Result<(), JournalError> {
        match self.disk.place(&self.path, length) {
            Ok(Place::Held) => Ok(()),
            Ok(Place::Removed) => {
                self.broken = true;
                Err(JournalError::removed(&self.path))
            }
            Ok(Place::Elsewhere) => Err(JournalError::written(&self.path, Fault::Elsewhere)),
            Err(why) => Err(JournalError::written(&self.path, Fault::Disk(why))),
        }
    }

    /// Waits until all changes are on disk.
    pub fn sync(&mut self) -> Result<(), JournalError> {
        if self.file.is_none() {
            // Nothing was written.
            return Ok(());
        }
        let synced = self.disk.sync(&self.path);
        let done = synced
            .map_err(|why| JournalError::written(&self.path, Fault::Disk(why)))
            .and_then(|()| self.confirm(self.length));
        // Nobody knows what is on disk now: the next change rewrites all of it.
        self.broken |= done.is_err();
        if done.is_ok() {
            self.synced = self.length;
        }
        done
    }

    /// The timestamp of the last version in the file; 0 where there is none.
    pub fn timestamp(&self) -> u64 {
        self.timestamp
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
        self.rewrite(entries, self.terms.clone(), timestamp, left)
    }

    /// Which keys of the last version in the file expire.
    pub fn terms(&self) -> &Terms {
        &self.terms
    }

    /// The changes are durable already, so a failure costs nothing but room; unless nobody finds
    /// them any more.
    fn compact(&mut self, entries: &Entries, last: &Commit<'_>) -> Result<(), JournalError> {
        let terms = self.terms.clone();
        let Err(fault) = self.rewrite(entries, terms, last.timestamp, last.left) else {
            return Ok(());
        };
        let is_held = |length| matches!(self.disk.place(&self.path, length), Ok(Place::Held));
        if is_held(self.length) {
            self.rewrite_at = self.length * 2;
            self.broken = false;
        } else if !is_held(frame::file_bytes(entries, self.terms.len())) {
            return Err(fault);
        }
        // Where it is the new file already, only its folder could not be synced: either will do.
        log::warn!("the journal could not be made smaller: {fault}");
        Ok(())
    }

    fn rewrite(
        &mut self,
        entries: &Entries,
        terms: Terms,
        timestamp: u64,
        left: bool,
    ) -> Result<(), JournalError> {
        self.broken = true;
        self.find_folder()?;
        let file = self.disk.new_id();
        let written = file.and_then(|file| {
            let bytes = frame::encode_file(file, (entries, &terms), timestamp, left);
            self.disk.replace(&self.path, &bytes)?;
            Ok((file, bytes.len()))
        });
        let (file, length) =
            written.map_err(|why| JournalError::written(&self.path, Fault::Disk(why)))?;
        self.confirm(length)?;
        (self.file, self.length, self.timestamp) = (Some(file), length, timestamp);
        self.synced = length;
        self.rewrite_at = rewrite_at(entries, terms.len());
        self.terms = terms;
        self.broken = false;
        Ok(())
    }

    /// Nothing is written to another folder than that of the start; but a disk that was plugged in
    /// again may come back under another number. It is the one with our file.
    fn find_folder(&mut self) -> Result<(), JournalError> {
        let fault = |why| JournalError::written(&self.path, Fault::Disk(why));
        if self.disk.place(&self.path, self.length).map_err(fault)? != Place::Elsewhere {
            return Ok(());
        }
        // What can't be read is not ours.
        let there = self.disk.peek(&self.path, frame::FRAMES_AT).ok().flatten();
        let head = there.and_then(|there| frame::decode_file_head(&there.bytes).0);
        if head.is_none_or(|head| Some(head.file) != self.file) {
            return Err(JournalError::written(&self.path, Fault::Elsewhere));
        }
        self.disk.adopt(&self.path).map_err(fault)
    }
}

fn rewrite_at(entries: &Entries, terms: usize) -> usize {
    REWRITE_BYTES_MIN.max(frame::file_bytes(entries, terms) * REWRITE_FACTOR)
}

#[cfg(fuzzing)]
pub use fuzzing::fuzz_replay;

#[cfg(fuzzing)]
mod fuzzing;
#[cfg(test)]
mod tests;
