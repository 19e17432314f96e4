//! What the journal asks of a disk: few enough calls that tests can make each of them fail.

use std::fs::File;
use std::io::{Error, ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use crate::durable;
use crate::protocol::STATE_BYTES_MAX;

/// Largest journal that is read, bytes: far above what it is rewritten at.
const READ_BYTES_MAX: u64 = 64 * STATE_BYTES_MAX as u64;

/// A disk, or something that fails like one.
pub trait Disk {
    /// The bytes of a file; nothing where there is none.
    fn read(&mut self, path: &Path) -> Result<Option<Vec<u8>>, Error>;
    /// Adds bytes at the end of a file, made if need be.
    fn append(&mut self, path: &Path, bytes: &[u8]) -> Result<(), Error>;
    /// Waits until all that was added is on disk.
    fn sync(&mut self, path: &Path) -> Result<(), Error>;
    /// Cuts a file.
    fn truncate(&mut self, path: &Path, length: usize) -> Result<(), Error>;
    /// Replaces a file in one step.
    fn replace(&mut self, path: &Path, bytes: &[u8]) -> Result<(), Error>;
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
}

impl Disk for RealDisk {
    fn read(&mut self, path: &Path) -> Result<Option<Vec<u8>>, Error> {
        match File::open(path) {
            Ok(file) => {
                let mut bytes = Vec::new();
                file.take(READ_BYTES_MAX).read_to_end(&mut bytes)?;
                Ok(Some(bytes))
            }
            Err(why) if why.kind() == ErrorKind::NotFound => Ok(None),
            Err(why) => Err(why),
        }
    }

    fn append(&mut self, path: &Path, bytes: &[u8]) -> Result<(), Error> {
        let file = self.file(path)?;
        if file.metadata()?.nlink() == 0 {
            // Writing would succeed, to a file that nobody will ever read.
            self.file = None;
            return Err(Error::new(ErrorKind::NotFound, "the file was removed"));
        }
        file.write_all(bytes)
    }

    fn sync(&mut self, path: &Path) -> Result<(), Error> {
        self.file(path)?.sync_data()
    }

    fn truncate(&mut self, path: &Path, length: usize) -> Result<(), Error> {
        let file = self.file(path)?;
        file.set_len(length as u64)?;
        file.sync_data()
    }

    fn replace(&mut self, path: &Path, bytes: &[u8]) -> Result<(), Error> {
        self.file = None;
        if let Some(folder) = path.parent() {
            durable::create_private_folder(folder)?;
        }
        durable::replace(path, bytes)
    }
}
