//! A disk in memory.

use std::collections::BTreeMap;
use std::io::{Error, ErrorKind};
use std::path::{Path, PathBuf};

use super::super::{Disk, FileId, Place};
use crate::durable::Content;

/// A disk in memory that fails at a chosen step: steps are the writes, syncs and renames that a
/// real disk would do. A step that fails in the middle leaves a part of its bytes. What was not
/// synced is gone after a power cut.
#[derive(Debug, Default, Clone)]
pub(super) struct FakeDisk {
    pub(super) files: Files,
    /// What is found under all paths meanwhile, while the disk is not mounted.
    pub(super) other: Option<Files>,
    pub(super) held: Option<u64>,
    /// Ids and inodes that were given away.
    pub(super) given: u64,
    pub(super) steps: usize,
    pub(super) fail_at: Option<usize>,
    /// A second step that fails.
    pub(super) fail_too_at: Option<usize>,
    /// The power goes at this step: it fails, and all behind it.
    pub(super) off_at: Option<usize>,
    /// The disk is unmounted before this step.
    pub(super) unmount_at: Option<usize>,
    pub(super) read_fault: bool,
    pub(super) torn_to: usize,
}

pub(super) type Files = BTreeMap<PathBuf, FakeFile>;

#[derive(Debug, Default, Clone)]
pub(super) struct FakeFile {
    inode: u64,
    /// What is read.
    pub(super) bytes: Vec<u8>,
    /// What outlives a power cut; nothing where not even its name does.
    durable: Option<Vec<u8>>,
    /// A sync of it failed: the kernel forgot what was to be written, and later syncs succeed
    /// without it (as Linux does).
    forgot: bool,
}

/// What a power cut leaves of bytes that were not synced: the first ones, and behind those
#[derive(Debug, Clone, Copy)]
pub(super) enum Rest {
    Nothing,
    Zeros,
}

impl FakeDisk {
    /// A disk with one file, which is durable.
    pub(super) fn with_file(path: &Path, bytes: &[u8]) -> Self {
        let (bytes, durable) = (bytes.to_vec(), Some(bytes.to_vec()));
        let file = FakeFile { inode: 0, bytes, durable, forgot: false };
        Self { files: Files::from([(path.to_owned(), file)]), given: 1, ..Self::default() }
    }

    /// The same disk in a new process, and nothing fails any more.
    pub(super) fn well(self) -> Self {
        Self { files: self.files, given: self.given, steps: self.steps, ..Self::default() }
    }

    fn step(&mut self) -> bool {
        self.steps += 1;
        if self.unmount_at == Some(self.steps) {
            self.other = Some(Files::new());
        }
        self.fail_at != Some(self.steps)
            && self.fail_too_at != Some(self.steps)
            && self.off_at.is_none_or(|off| self.steps < off)
    }

    /// What a file reads, on the disk itself.
    pub(super) fn bytes(&self, path: &Path) -> &[u8] {
        self.files.get(path).map_or(&[], |file| &file.bytes)
    }

    /// Where paths lead.
    fn there(&mut self) -> &mut Files {
        self.other.as_mut().unwrap_or(&mut self.files)
    }

    /// The file that is held; none where it lost its name, and nobody ever sees it again.
    fn held(&mut self) -> Option<&mut FakeFile> {
        let held = self.held?;
        let all = self.files.values_mut().chain(self.other.iter_mut().flat_map(Files::values_mut));
        all.into_iter().find(|file| file.inode == held)
    }

    fn give(&mut self) -> u64 {
        self.given += 1;
        self.given
    }

    /// What is there when the power is back; of what was not synced so many bytes.
    pub(super) fn after_power_cut(mut self, kept: usize, rest: Rest) -> Self {
        self.files.retain(|_, file| file.durable.is_some());
        for file in self.files.values_mut() {
            let durable = file.durable.clone().unwrap_or_default();
            let volatile = file.bytes.strip_prefix(&*durable).unwrap_or_default();
            let volatile = if file.forgot { &[] } else { volatile };
            let (kept, lost) = volatile.split_at(kept.min(volatile.len()));
            let zeros = match rest {
                Rest::Nothing => Vec::new(),
                Rest::Zeros => vec![0; lost.len()],
            };
            file.bytes = [&*durable, kept, &zeros].concat();
            file.durable = Some(file.bytes.clone());
            file.forgot = false;
        }
        self
    }
}

fn broken_disk() -> Error {
    Error::from(ErrorKind::StorageFull)
}

impl Disk for FakeDisk {
    fn hold(&mut self, path: &Path) -> Result<Option<Content>, Error> {
        let fault = self.read_fault.then(|| Error::from_raw_os_error(5));
        let found = self.there().get(path).cloned();
        self.held = found.as_ref().map(|file| file.inode);
        Ok(found.map(|file| Content { bytes: file.bytes, fault }))
    }

    fn place(&self, path: &Path, length: usize) -> Result<Place, Error> {
        if self.other.is_some() {
            return Ok(Place::Elsewhere);
        }
        let found = self.files.get(path);
        let is_held = |file: &FakeFile| Some(file.inode) == self.held && file.bytes.len() == length;
        Ok(if found.is_some_and(is_held) { Place::Held } else { Place::Removed })
    }

    fn peek(&self, path: &Path, bytes_max: usize) -> Result<Option<Content>, Error> {
        let found = self.other.as_ref().unwrap_or(&self.files).get(path);
        Ok(found.map(|file| {
            let bytes = file.bytes.iter().copied().take(bytes_max).collect();
            Content { bytes, fault: None }
        }))
    }

    fn adopt(&mut self, _: &Path) -> Result<(), Error> {
        if let Some(other) = self.other.take() {
            self.files = other;
        }
        self.held = None;
        Ok(())
    }

    fn append(&mut self, _: &Path, length: usize, bytes: &[u8]) -> Result<(), Error> {
        let writes = self.step();
        let kept = if writes { bytes.len() } else { self.torn_to.min(bytes.len()) };
        if let Some(file) = self.held() {
            assert_eq!(file.bytes.len(), length, "it is written to in the middle");
            file.bytes.extend_from_slice(&bytes[..kept]);
        }
        if writes { Ok(()) } else { Err(broken_disk()) }
    }

    fn sync(&mut self, _: &Path) -> Result<(), Error> {
        let syncs = self.step();
        if let Some(file) = self.held() {
            file.forgot |= !syncs;
            if !file.forgot {
                file.durable = Some(file.bytes.clone());
            }
        }
        if syncs { Ok(()) } else { Err(broken_disk()) }
    }

    fn settle(&mut self, path: &Path) -> Result<(), Error> {
        let is_durable = |file: &FakeFile| file.durable.as_ref() == Some(&file.bytes);
        match self.held() {
            // There is nothing to do, so nothing fails.
            Some(file) if is_durable(file) => Ok(()),
            _ => self.sync(path),
        }
    }

    fn truncate(&mut self, _: &Path, length: usize) -> Result<(), Error> {
        if !self.step() {
            return Err(broken_disk());
        }
        if let Some(file) = self.held() {
            assert!(file.bytes.len() >= length, "it is filled with zeros");
            file.bytes.truncate(length);
            if !file.forgot {
                file.durable = Some(file.bytes.clone());
            }
        }
        Ok(())
    }

    fn replace(&mut self, path: &Path, bytes: &[u8]) -> Result<(), Error> {
        // Write and sync of the temporary file, then the rename: before it nothing has changed.
        let mut began_on_other = None;
        for _ in 0..3 {
            if !self.step() {
                return Err(broken_disk());
            }
            let is_on_other = self.other.is_some();
            if *began_on_other.get_or_insert(is_on_other) != is_on_other {
                return Err(Error::from(ErrorKind::NotFound));
            }
        }
        let inode = self.give();
        let file = self.there().entry(path.into()).or_default();
        (file.inode, file.bytes) = (inode, bytes.to_vec());
        file.forgot = true;
        self.held = Some(inode);
        // The sync of the folder: the rename may or may not last. Here it does not.
        if !self.step() {
            return Err(broken_disk());
        }
        if let Some(file) = self.held() {
            (file.durable, file.forgot) = (Some(file.bytes.clone()), false);
        }
        Ok(())
    }

    fn set_aside(&mut self, path: &Path, _: &[u8]) -> Result<PathBuf, Error> {
        if !self.step() {
            return Err(broken_disk());
        }
        let aside = path.with_extension("damaged-1");
        let file = self.there().get(path).cloned().unwrap_or_default();
        self.there().insert(aside.clone(), file);
        Ok(aside)
    }

    fn new_id(&mut self) -> Result<FileId, Error> {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.give().to_le_bytes());
        Ok(FileId(id))
    }
}
