//! What the journal asks of a disk: few enough calls that tests can make each of them fail.

use std::fs::File;
use std::io::{Error, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use crate::durable::{self, Content};
use crate::protocol::STATE_BYTES_MAX;

/// Largest journal that is read, bytes: far above what it is rewritten at.
const READ_BYTES_MAX: u64 = 64 * STATE_BYTES_MAX as u64;

/// Why a file is not added to.
const REMOVED: &str = "the file was removed or changed by somebody else";

/// A disk, or something that fails like one.
pub trait Disk {
    /// The bytes of a file; nothing where there is none.
    fn read(&mut self, path: &Path) -> Result<Option<Content>, Error>;
    /// Adds bytes at the end of a file that is this long; one of no bytes is made if need be.
    fn append(&mut self, path: &Path, length: usize, bytes: &[u8]) -> Result<(), Error>;
    /// Waits until all that was added is on disk.
    fn sync(&mut self, path: &Path) -> Result<(), Error>;
    /// Cuts the file that bytes were added to.
    fn truncate(&mut self, path: &Path, length: usize) -> Result<(), Error>;
    /// Replaces a file in one step.
    fn replace(&mut self, path: &Path, bytes: &[u8]) -> Result<(), Error>;
    /// How long a file is; nothing where that can't be told.
    fn length(&self, path: &Path) -> Option<usize>;
    /// Keeps a file under a second name, or these bytes of it where that can't be done.
    fn keep_as(&mut self, path: &Path, aside: &Path, bytes: &[u8]) -> Result<(), Error>;
}

/// The disk of this host. The file stays open between writes.
#[derive(Debug, Default)]
pub struct RealDisk {
    file: Option<File>,
}

impl RealDisk {
    fn file(&mut self, path: &Path) -> Result<&mut File, Error> {
        if self.file.is_none() {
            let is_new = !path.try_exists()?;
            let mut options = File::options();
            let file = options.append(true).create(true).mode(durable::FILE_MODE).open(path)?;
            if is_new {
                durable::sync_folder(path.parent().unwrap_or(Path::new(".")))?;
            }
            self.file = Some(file);
        }
        self.file.as_mut().ok_or_else(|| Error::from(ErrorKind::NotFound))
    }

    /// Whether a file is open, and is the one of this name.
    pub(super) fn has_name(&self, path: &Path) -> bool {
        let open = self.file.as_ref().and_then(|file| file.metadata().ok());
        let named = std::fs::metadata(path).ok();
        open.zip(named)
            .is_some_and(|(open, named)| (open.dev(), open.ino()) == (named.dev(), named.ino()))
    }
}

impl Disk for RealDisk {
    fn read(&mut self, path: &Path) -> Result<Option<Content>, Error> {
        durable::read(path, READ_BYTES_MAX)
    }

    fn append(&mut self, path: &Path, length: usize, bytes: &[u8]) -> Result<(), Error> {
        if self.file.is_none() && length > 0 && !path.try_exists()? {
            return Err(Error::new(ErrorKind::NotFound, REMOVED));
        }
        let file = self.file(path)?;
        let found = file.metadata()?;
        if found.nlink() == 0 || found.len() != length as u64 {
            // Writing would succeed: to a file that nobody will ever read, or to one that lacks
            // what was written before.
            self.file = None;
            return Err(Error::new(ErrorKind::NotFound, REMOVED));
        }
        file.write_all(bytes)
    }

    fn sync(&mut self, _: &Path) -> Result<(), Error> {
        // One that is not open was synced when it was replaced.
        self.file.as_mut().map_or(Ok(()), |file| file.sync_data())
    }

    fn truncate(&mut self, _: &Path, length: usize) -> Result<(), Error> {
        // One that is not open was not added to; a new one would be filled with zeros.
        let file = self.file.as_mut().ok_or_else(|| Error::from(ErrorKind::NotFound))?;
        file.set_len(length as u64)?;
        file.sync_data()
    }

    fn replace(&mut self, path: &Path, bytes: &[u8]) -> Result<(), Error> {
        if let Some(folder) = path.parent() {
            durable::create_private_folder(folder)?;
        }
        let replaced = durable::replace(path, bytes);
        // One that has its name still is synced later, with what was added to it.
        if !self.has_name(path) {
            self.file = None;
        }
        replaced
    }

    fn length(&self, path: &Path) -> Option<usize> {
        std::fs::metadata(path).ok()?.len().try_into().ok()
    }

    fn keep_as(&mut self, path: &Path, aside: &Path, bytes: &[u8]) -> Result<(), Error> {
        // Some file systems know one name for a file only.
        durable::keep_as(path, aside).or_else(|_| durable::replace(aside, bytes))
    }
}
