//! A disk that outlives its host, forgets at a power cut what was not synced, and fails when told
//! to.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::{Error, ErrorKind};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use dsn::durable::Content;
use dsn::journal::{Commit, Disk, FileId, Journal, Place};
use dsn::protocol::entries::{Change, Entries};

use crate::support::{key, value};

#[derive(Clone, Default)]
pub struct SimDisk(Rc<RefCell<Files>>);

#[derive(Default)]
struct Files {
    /// What a process reads, and what a power cut leaves.
    cached: HashMap<PathBuf, Vec<u8>>,
    synced: HashMap<PathBuf, Vec<u8>>,
    fails: bool,
    /// It was unmounted: who has its files open can go on writing them.
    is_away: bool,
    /// How many files were made.
    made: u64,
}

impl SimDisk {
    pub fn fails(&self, fails: bool) {
        self.0.borrow_mut().fails = fails;
    }

    pub fn is_away(&self, is_away: bool) {
        self.0.borrow_mut().is_away = is_away;
    }

    pub fn is_gone(&self) -> bool {
        self.0.borrow().is_away
    }

    /// The power goes: of what was not synced, a part may be there all the same.
    pub fn cut_power(&self, random: &mut fastrand::Rng) {
        let files = &mut *self.0.borrow_mut();
        for (path, bytes) in &mut files.cached {
            let synced = files.synced.entry(path.clone()).or_default();
            if bytes.starts_with(synced) {
                bytes.truncate(random.usize(synced.len()..=bytes.len()));
            } else {
                bytes.clone_from(synced);
            }
            synced.clone_from(bytes);
        }
    }

    /// All that was on it is gone.
    pub fn destroy(&self) {
        let files = &mut *self.0.borrow_mut();
        files.cached.clear();
        files.synced.clear();
    }

    /// All that a process would read.
    pub fn content(&self) -> Vec<(PathBuf, Vec<u8>)> {
        self.0.borrow().cached.iter().map(|(path, bytes)| (path.clone(), bytes.clone())).collect()
    }

    fn working(&self) -> Result<std::cell::RefMut<'_, Files>, Error> {
        let files = self.0.borrow_mut();
        if files.fails { Err(Error::from(ErrorKind::StorageFull)) } else { Ok(files) }
    }
}

impl Disk for SimDisk {
    fn hold(&mut self, path: &Path) -> Result<Option<Content>, Error> {
        self.peek(path, usize::MAX)
    }

    fn place(&self, path: &Path, length: usize) -> Result<Place, Error> {
        let files = self.0.borrow();
        let is_held = files.cached.get(path).is_some_and(|bytes| bytes.len() == length);
        Ok(match (files.is_away, is_held) {
            (true, _) => Place::Elsewhere,
            (false, true) => Place::Held,
            (false, false) => Place::Removed,
        })
    }

    fn peek(&self, path: &Path, bytes_max: usize) -> Result<Option<Content>, Error> {
        let files = self.0.borrow();
        let there = files.cached.get(path).filter(|_| !files.is_away);
        Ok(there.map(|bytes| {
            let bytes = bytes[..bytes.len().min(bytes_max)].to_vec();
            Content { bytes, fault: None }
        }))
    }

    fn adopt(&mut self, _: &Path) -> Result<(), Error> {
        Ok(())
    }

    fn append(&mut self, path: &Path, length: usize, bytes: &[u8]) -> Result<(), Error> {
        let mut files = self.working()?;
        let file = files.cached.get_mut(path).ok_or(Error::from(ErrorKind::NotFound))?;
        assert_eq!(file.len(), length, "nobody else writes");
        file.extend_from_slice(bytes);
        Ok(())
    }

    fn sync(&mut self, path: &Path) -> Result<(), Error> {
        let files = &mut *self.working()?;
        let bytes = files.cached.get(path).cloned().unwrap_or_default();
        files.synced.insert(path.into(), bytes);
        Ok(())
    }

    fn settle(&mut self, path: &Path) -> Result<(), Error> {
        self.sync(path)
    }

    fn truncate(&mut self, path: &Path, length: usize) -> Result<(), Error> {
        let mut files = self.working()?;
        files.cached.entry(path.into()).or_default().truncate(length);
        Ok(())
    }

    fn replace(&mut self, path: &Path, bytes: &[u8]) -> Result<(), Error> {
        let files = &mut *self.working()?;
        files.cached.insert(path.into(), bytes.into());
        files.synced.insert(path.into(), bytes.into());
        Ok(())
    }

    fn set_aside(&mut self, path: &Path, bytes: &[u8]) -> Result<PathBuf, Error> {
        let files = &mut *self.working()?;
        let aside = path.with_extension("aside");
        files.cached.insert(aside.clone(), bytes.into());
        Ok(aside)
    }

    fn new_id(&mut self) -> Result<FileId, Error> {
        let mut files = self.0.borrow_mut();
        files.made += 1;
        let [one, two] = [files.made; 2].map(u64::to_le_bytes);
        Ok(FileId([one, two].concat().try_into().unwrap()))
    }
}

/// All that the journal needs of a disk is public, and no folder of this host is touched.
#[test]
fn a_journal_lives_on_a_disk_of_its_caller() {
    let (disk, folder) = (SimDisk::default(), Path::new("/nowhere/at/all"));
    let change = |text: &str| Change::from([(key("k"), Some(value(text)))]);
    let after = |change: &Change| {
        Entries::new().with(change.iter().map(|(key, value)| (key, value.as_ref())))
    };
    let (mut journal, loaded) = Journal::open_on(disk.clone(), folder, true).unwrap();
    assert_eq!(loaded.timestamp, 0);
    let mut append = |timestamp, text: &str| {
        let change = change(text);
        let commit = Commit { change: &change, ttl: None, timestamp, left: false };
        journal.append(&[commit], &after(&change)).map_err(|why| why.to_string())
    };
    append(1, "one").unwrap();
    append(2, "two").unwrap();
    disk.is_away(true);
    let why = append(3, "three").unwrap_err();
    assert!(why.contains("the folder /nowhere/at/all is not the one"), "{why}");
    disk.is_away(false);
    let read = || Journal::open_on(disk.clone(), folder, true).unwrap().1;
    let loaded = read();
    assert_eq!((loaded.entries, loaded.timestamp), (after(&change("two")), 2));
    append(4, "four").unwrap();
    let loaded = read();
    assert_eq!((loaded.entries, loaded.timestamp), (after(&change("four")), 4));
}
