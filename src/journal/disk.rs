//! What the journal asks of a disk: few enough calls that tests can make each of them fail.

use std::fs::{File, Metadata};
use std::io::{Error, ErrorKind};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ring::rand::{SecureRandom, SystemRandom};

use super::{FILE_BYTES_MAX, FileId};
use crate::durable::{self, Content};

/// Why a file is not added to.
pub(super) const REMOVED: &str = "the file was removed or changed by somebody else";

/// Where the path of a file leads, seen from the file and the folder that are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// To the file that is held, as long as it was left.
    Held,
    /// To no file, or to another one, in the folder that is held; or that folder was removed. It
    /// can be made anew: on the same disk.
    Removed,
    /// To another folder, while the one that is held is still somewhere: its disk was unmounted,
    /// another one was mounted over it, or it was moved.
    Elsewhere,
}

/// A disk, or something that fails like one. It holds one file and its folder open, so that it can
/// tell whether the path still leads to them.
pub trait Disk {
    /// Holds the folder of a file, and the file if there is one; gives its first
    /// [`FILE_BYTES_MAX`] bytes then.
    fn hold(&mut self, path: &Path) -> Result<Option<Content>, Error>;
    /// Where the path leads now. The file that is held was left this long, bytes.
    fn place(&self, path: &Path, length: usize) -> Result<Place, Error>;
    /// The first bytes of whatever file the path leads to, so many at most.
    fn peek(&self, path: &Path, bytes_max: usize) -> Result<Option<Content>, Error>;
    /// Holds the folder that the path leads to now.
    fn adopt(&mut self, path: &Path) -> Result<(), Error>;
    /// Adds bytes to the file that is held, which is this long.
    fn append(&mut self, path: &Path, length: usize, bytes: &[u8]) -> Result<(), Error>;
    /// Waits until all that was added to the file that is held is on disk.
    fn sync(&mut self, path: &Path) -> Result<(), Error>;
    /// Waits until the file that is held and its name are on disk, whoever wrote them.
    fn settle(&mut self, path: &Path) -> Result<(), Error>;
    /// Cuts the file that is held, durably. It never becomes longer.
    fn truncate(&mut self, path: &Path, length: usize) -> Result<(), Error>;
    /// Replaces a file in one step and holds the new one; makes a folder anew that was removed.
    fn replace(&mut self, path: &Path, bytes: &[u8]) -> Result<(), Error>;
    /// Keeps a file under a second name, too, or these bytes of it where that can't be done; gives
    /// the name.
    fn set_aside(&mut self, path: &Path, bytes: &[u8]) -> Result<PathBuf, Error>;
    /// The id of a new file, which no file had before and nobody can guess.
    fn new_id(&mut self) -> Result<FileId, Error>;
}

/// What was done to a disk so far, for others to read meanwhile.
#[derive(Debug, Default)]
pub struct Tally {
    bytes: AtomicU64,
    syncs: AtomicU64,
    sync_us: AtomicU64,
    rewrites: AtomicU64,
}

impl Tally {
    /// Length of the file, bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// How often changes were waited for until they were on disk, and how long all of that took.
    pub fn syncs(&self) -> (u64, Duration) {
        let time = Duration::from_micros(self.sync_us.load(Ordering::Relaxed));
        (self.syncs.load(Ordering::Relaxed), time)
    }

    /// How often the file was written anew.
    pub fn rewrites(&self) -> u64 {
        self.rewrites.load(Ordering::Relaxed)
    }

    fn note_sync(&self, began: Instant) {
        let us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.syncs.fetch_add(1, Ordering::Relaxed);
        self.sync_us.fetch_add(us, Ordering::Relaxed);
    }

    fn note_length(&self, bytes: usize) {
        self.bytes.store(bytes as u64, Ordering::Relaxed);
    }
}

/// The disk of this host.
#[derive(Debug, Default)]
pub struct RealDisk {
    folder: Option<File>,
    file: Option<File>,
    tally: Arc<Tally>,
    /// Whether the file could only be opened for reading.
    pub(super) only_reads: bool,
}

impl RealDisk {
    /// What was done to it, and will be.
    pub(super) fn tally(&self) -> Arc<Tally> {
        Arc::clone(&self.tally)
    }

    fn folder(&self) -> Result<&File, Error> {
        self.folder.as_ref().ok_or_else(removed)
    }

    /// The file that is held, to write to it.
    fn file(&mut self, path: &Path) -> Result<&File, Error> {
        if self.only_reads {
            let held = self.file.as_ref().ok_or_else(removed)?.metadata()?;
            let file = open_to_write(path)?;
            if !is_same(&held, &file.metadata()?) {
                return Err(removed());
            }
            (self.file, self.only_reads) = (Some(file), false);
        }
        self.file.as_ref().ok_or_else(removed)
    }
}

fn removed() -> Error {
    Error::new(ErrorKind::NotFound, REMOVED)
}

fn open_to_write(path: &Path) -> Result<File, Error> {
    Ok(crate::named::open_to_write(path, File::options().read(true).write(true))?)
}

fn is_same(one: &Metadata, other: &Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

fn leads_to(path: &Path, held: &Metadata) -> Result<bool, Error> {
    match std::fs::metadata(path) {
        Ok(found) => Ok(is_same(&found, held)),
        Err(why) if matches!(why.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Ok(false)
        }
        Err(why) => Err(why),
    }
}

/// The disk on which a folder is, or would be made.
fn device_of(folder: &Path) -> Option<u64> {
    let mut places = folder.ancestors().map(|place| match place.as_os_str().is_empty() {
        true => Path::new("."),
        false => place,
    });
    places.find_map(|place| std::fs::metadata(place).ok()).map(|found| found.dev())
}

impl Disk for RealDisk {
    fn hold(&mut self, path: &Path) -> Result<Option<Content>, Error> {
        self.adopt(path)?;
        let opened = open_to_write(path).or_else(|why| match why.kind() {
            ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied => {
                self.only_reads = true;
                File::open(path)
            }
            _ => Err(why),
        });
        match opened {
            Ok(file) => {
                let content = durable::read_open(&file, FILE_BYTES_MAX as u64)?;
                self.file = Some(file);
                self.tally.note_length(content.bytes.len());
                Ok(Some(content))
            }
            Err(why) if why.kind() == ErrorKind::NotFound => Ok(None),
            Err(why) => Err(why),
        }
    }

    fn place(&self, path: &Path, length: usize) -> Result<Place, Error> {
        let held = self.folder()?.metadata()?;
        let folder = durable::folder_of(path);
        if !leads_to(folder, &held)? {
            let was_removed = held.nlink() == 0 && device_of(folder) == Some(held.dev());
            return Ok(if was_removed { Place::Removed } else { Place::Elsewhere });
        }
        let Some(file) = &self.file else { return Ok(Place::Removed) };
        let file = file.metadata()?;
        let is_held = file.len() == length as u64 && leads_to(path, &file)?;
        Ok(if is_held { Place::Held } else { Place::Removed })
    }

    fn peek(&self, path: &Path, bytes_max: usize) -> Result<Option<Content>, Error> {
        durable::read(path, bytes_max as u64)
    }

    fn adopt(&mut self, path: &Path) -> Result<(), Error> {
        self.folder = Some(File::open(durable::folder_of(path))?);
        (self.file, self.only_reads) = (None, false);
        Ok(())
    }

    fn append(&mut self, path: &Path, length: usize, bytes: &[u8]) -> Result<(), Error> {
        self.file(path)?.write_all_at(bytes, length as u64)?;
        self.tally.note_length(length + bytes.len());
        Ok(())
    }

    fn sync(&mut self, _: &Path) -> Result<(), Error> {
        // One that was never added to was synced when it was written.
        let Some(file) = &self.file else { return Ok(()) };
        let began = Instant::now();
        let synced = file.sync_data();
        self.tally.note_sync(began);
        synced
    }

    fn settle(&mut self, _: &Path) -> Result<(), Error> {
        if self.only_reads {
            return Ok(());
        }
        self.file.as_ref().map_or(Ok(()), File::sync_all)?;
        self.folder()?.sync_all()
    }

    fn truncate(&mut self, path: &Path, length: usize) -> Result<(), Error> {
        let file = self.file(path)?;
        if file.metadata()?.len() < length as u64 {
            // It would be filled with zeros.
            return Err(removed());
        }
        file.set_len(length as u64)?;
        file.sync_data()?;
        self.tally.note_length(length);
        Ok(())
    }

    fn replace(&mut self, path: &Path, bytes: &[u8]) -> Result<(), Error> {
        let held = self.folder()?.metadata()?;
        if held.nlink() == 0 {
            let folder = durable::folder_of(path);
            durable::create_private_folder(folder)?;
            let new = File::open(folder)?;
            if new.metadata()?.dev() != held.dev() {
                return Err(removed());
            }
            self.folder = Some(new);
        }
        let file = durable::put(path, bytes)?;
        (self.file, self.only_reads) = (Some(file), false);
        self.tally.rewrites.fetch_add(1, Ordering::Relaxed);
        self.tally.note_length(bytes.len());
        self.folder()?.sync_all()
    }

    fn set_aside(&mut self, path: &Path, bytes: &[u8]) -> Result<PathBuf, Error> {
        let aside = durable::aside_name(path);
        durable::keep_as(path, &aside, bytes)?;
        Ok(aside)
    }

    fn new_id(&mut self) -> Result<FileId, Error> {
        let mut id = [0; 16];
        let filled = SystemRandom::new().fill(&mut id);
        filled.map_err(|_| Error::other("the system gave no randomness. Start this node again"))?;
        Ok(FileId(id))
    }
}
