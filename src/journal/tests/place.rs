//! Files and disks that are not where they were.

use std::fs;

use super::*;

/// The disk is unmounted before each step. What is acknowledged is on it; all later changes are
/// refused; and when it is mounted again, all goes on without a loss.
#[test]
fn a_disk_that_is_unmounted_at_any_step_loses_nothing_acknowledged() {
    let (some, big) = (some_changes(), big_changes());
    let rows = [(&some, true), (&some, false), (&big, true), (&big, false)];
    for (changes, syncs) in rows {
        let (mut journal, _) = open(FakeDisk::default(), syncs);
        write(&mut journal, changes, 10);
        let steps = journal.disk.steps;
        assert!(steps > changes.len());
        for unmount_at in 1..=steps {
            let what = format!("unmounted at {unmount_at} of {steps}, syncs: {syncs}");
            let disk = FakeDisk { unmount_at: Some(unmount_at), ..FakeDisk::default() };
            let (mut journal, _) = open(disk, syncs);
            let written = write_each(&mut journal, changes, 10);
            assert!(!written.refused.is_empty(), "{what}: nobody was told");
            let fault = journal.repair(&written.acknowledged, 40, false).unwrap_err();
            assert!(matches!(fault.fault, Fault::Elsewhere), "{what}: {fault}");
            assert!(journal.sync().is_err() || written.last == 0, "{what}");
            let found = FakeDisk { other: None, ..journal.disk.clone() };
            written.check(found, &what);
            journal.disk.unmount_at = None;
            let last = change("last", Some("1"));
            let mut after = written.acknowledged.clone();
            apply_change(&mut after, &last);
            let commit = |timestamp| Commit { change: &last, ttl: None, timestamp, left: false };
            assert!(journal.append(&[commit(50)], &after).is_err(), "{what}");
            journal.disk.other = None;
            journal.append(&[commit(51)], &after).unwrap();
            let (_, loaded) = reopen(journal.disk);
            assert_eq!((loaded.entries, loaded.timestamp), (after, 51), "{what}");
            assert!(loaded.warnings.is_empty() && loaded.notes.is_empty(), "{what}");
        }
    }
}

/// What was added and then found to be elsewhere is cut off again: should the disk be there at the
/// next start, nothing that was refused is.
#[test]
fn a_change_that_was_refused_after_it_was_written_is_cut_off() {
    for step in [1, 2] {
        let (mut journal, _) = open(FakeDisk::default(), true);
        let (entries, timestamp) = write(&mut journal, &some_changes(), 10);
        journal.disk.unmount_at = Some(journal.disk.steps + step);
        let refused = change("refused", Some("1"));
        let commit = Commit { change: &refused, ttl: None, timestamp: 50, left: false };
        assert!(journal.append(&[commit], &entries).is_err());
        let (_, loaded) = reopen(journal.disk);
        assert_eq!((loaded.entries, loaded.timestamp), (entries, timestamp));
    }
}

/// A disk that comes back under another number is known by the id of its file; any other is not.
#[test]
fn a_disk_that_comes_back_as_another_one_is_known_by_its_file() {
    let (mut journal, _) = open(FakeDisk::default(), true);
    let (mut entries, _) = write(&mut journal, &some_changes(), 10);
    let ours = journal.disk.bytes(&path()).to_vec();
    let mut foreign = ours.clone();
    for at in [16, 4096 + 16] {
        foreign[at] ^= 1;
    }
    let whole_foreign = frame::encode_file(FileId([9; 16]), (&entries, &Terms::new()), 10, false);
    // The last one has a whole head.
    let others = [Vec::new(), ours[..40].to_vec(), foreign, whole_foreign, ours[..50].to_vec()];
    for (at, other) in others.into_iter().enumerate() {
        let is_ours = at == 4;
        let disk = FakeDisk::with_file(&path(), &other);
        journal.disk.other = Some(disk.files);
        let done = journal.repair(&entries, 14, false);
        assert_eq!(done.is_ok(), is_ours, "{done:?}");
        if let Some(other_files) = &journal.disk.other {
            assert_eq!(other_files[&path()].bytes, other, "it was written to");
        }
    }
    assert!(journal.disk.other.is_none());
    let last = change("last", Some("1"));
    apply_change(&mut entries, &last);
    journal
        .append(&[Commit { change: &last, ttl: None, timestamp: 15, left: false }], &entries)
        .unwrap();
    assert_eq!(reopen(journal.disk).1.entries, entries);
}

/// A node on a real disk in `place/n`, with some changes.
struct Real {
    folder: tempfile::TempDir,
    journal: Journal,
    entries: Entries,
    timestamp: u64,
}

impl Real {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (mut journal, _) = Journal::open(&folder.path().join("n"), true).unwrap();
        let (entries, timestamp) = write(&mut journal, &some_changes(), 1);
        Self { folder, journal, entries, timestamp }
    }

    fn place(&self) -> PathBuf {
        self.folder.path().join("n")
    }

    fn file(&self) -> PathBuf {
        self.place().join(FILE_NAME)
    }

    /// Takes one more change, or says why not.
    fn add(&mut self) -> Result<(), JournalError> {
        let change = change(&format!("more{}", self.timestamp), Some("1"));
        let mut after = self.entries.clone();
        apply_change(&mut after, &change);
        let timestamp = self.timestamp + 1;
        self.journal
            .append(&[Commit { change: &change, ttl: None, timestamp, left: false }], &after)?;
        (self.entries, self.timestamp) = (after, timestamp);
        Ok(())
    }

    fn repair(&mut self) -> Result<(), JournalError> {
        self.journal.repair(&self.entries, self.timestamp, false)
    }

    /// What was acknowledged, and nothing else, is there for the next start.
    fn check(&self) {
        let (_, loaded) = Journal::open(&self.place(), true).unwrap();
        assert_eq!((&loaded.entries, loaded.timestamp), (&self.entries, self.timestamp));
        assert!(loaded.warnings.is_empty() && loaded.notes.is_empty(), "{loaded:?}");
    }

    fn refuses_as_elsewhere(&mut self) {
        for fault in [self.add().unwrap_err(), self.repair().unwrap_err()] {
            let text = fault.to_string();
            assert!(text.contains(&format!("the folder {} is", self.place().display())), "{text}");
            assert!(text.contains("mount it again"), "{text}");
        }
    }

    fn refuses_as_removed(&mut self) {
        let text = self.add().unwrap_err().to_string();
        assert!(text.contains("removed or changed"), "{text}");
    }
}

#[test]
fn on_a_real_disk_too_and_a_removed_file_is_noticed() {
    let mut real = Real::new();
    real.check();
    fs::remove_dir_all(real.place()).unwrap();
    real.refuses_as_removed();
    assert!(!real.place().exists());
    real.add().unwrap();
    real.check();
    // The file alone: it comes back whole, not as zeros of its old length.
    fs::remove_file(real.file()).unwrap();
    real.refuses_as_removed();
    assert!(!real.file().exists());
    real.repair().unwrap();
    real.check();
    real.add().unwrap();
    real.check();
}

/// Somebody else made the folder again meanwhile.
#[test]
fn a_folder_that_was_removed_may_be_there_again() {
    let mut real = Real::new();
    fs::remove_dir_all(real.place()).unwrap();
    fs::create_dir(real.place()).unwrap();
    real.refuses_as_removed();
    real.repair().unwrap();
    real.add().unwrap();
    real.check();
}

/// Whatever somebody does to the file: what is in doubt is written anew, never added to.
#[test]
fn a_file_that_somebody_changed_is_not_added_to() {
    let changes: [fn(&Path); 4] = [
        |file| fs::File::options().write(true).open(file).unwrap().set_len(5000).unwrap(),
        |file| fs::write(file, [&fs::read(file).unwrap()[..], b"more"].concat()).unwrap(),
        // A copy of the same length is another file.
        |file| {
            fs::copy(file, file.with_extension("copy")).unwrap();
            fs::rename(file.with_extension("copy"), file).unwrap();
        },
        |file| fs::rename(file, file.with_extension("moved")).unwrap(),
    ];
    for (at, change) in changes.iter().enumerate() {
        let mut real = Real::new();
        change(&real.file());
        real.refuses_as_removed();
        assert!(real.journal.is_broken(), "{at}");
        real.add().unwrap();
        real.check();
    }
    let mut real = Real::new();
    fs::remove_file(real.file()).unwrap();
    assert!(real.journal.sync().is_err(), "what is synced is nowhere");
    assert!(real.journal.is_broken());
}

/// As after `umount`: the folder is still there, and the path does not lead to it.
#[test]
fn a_folder_that_was_moved_is_waited_for() {
    let mut real = Real::new();
    let moved = real.folder.path().join("moved");
    fs::rename(real.place(), &moved).unwrap();
    real.refuses_as_elsewhere();
    assert!(!real.place().exists(), "nothing is made anew beside it");
    // Somebody has made another folder there, and another journal in it.
    let (mut other, _) = Journal::open(&real.place(), true).unwrap();
    write(&mut other, &some_changes()[..1], 1);
    let bytes = fs::read(real.file()).unwrap();
    real.refuses_as_elsewhere();
    assert!(real.journal.sync().is_err());
    assert_eq!(fs::read(real.file()).unwrap(), bytes, "and it is not touched");
    fs::remove_dir_all(real.place()).unwrap();
    fs::rename(&moved, real.place()).unwrap();
    real.add().unwrap();
    real.check();
}

/// A copy of the folder, as on a disk that came back under another number.
#[test]
fn a_folder_with_the_file_in_it_is_taken_for_the_one_that_is_gone() {
    let mut real = Real::new();
    let moved = real.folder.path().join("moved");
    fs::rename(real.place(), &moved).unwrap();
    fs::create_dir(real.place()).unwrap();
    fs::copy(moved.join(FILE_NAME), real.file()).unwrap();
    let before = fs::read(moved.join(FILE_NAME)).unwrap();
    assert!(real.add().is_err());
    real.repair().unwrap();
    real.add().unwrap();
    real.check();
    assert_eq!(fs::read(moved.join(FILE_NAME)).unwrap(), before);
}

/// A folder behind a symbolic link that leads elsewhere now.
#[test]
fn a_link_to_the_folder_is_followed_each_time() {
    let folder = tempfile::tempdir().unwrap();
    let [link, one, two] = ["link", "one", "two"].map(|name| folder.path().join(name));
    fs::create_dir(&one).unwrap();
    fs::create_dir(&two).unwrap();
    std::os::unix::fs::symlink(&one, &link).unwrap();
    let (mut journal, _) = Journal::open(&link, true).unwrap();
    let (entries, timestamp) = write(&mut journal, &some_changes(), 1);
    fs::remove_file(&link).unwrap();
    std::os::unix::fs::symlink(&two, &link).unwrap();
    let more = change("x", Some("y"));
    let commit = Commit { change: &more, ttl: None, timestamp: 50, left: false };
    assert!(journal.append(&[commit], &entries).is_err());
    assert!(journal.repair(&entries, timestamp, false).is_err());
    assert_eq!(fs::read_dir(&two).unwrap().count(), 0);
}

/// The folder was removed, and the path leads to another disk now: nothing is made anew there. Each
/// of the two steps sees that for itself, as the disk may go between them.
#[test]
fn a_folder_that_was_removed_is_made_anew_on_its_own_disk_alone() {
    let folder = tempfile::tempdir().unwrap();
    let [link, one] = ["link", "one"].map(|name| folder.path().join(name));
    fs::create_dir(&one).unwrap();
    std::os::unix::fs::symlink(&one, &link).unwrap();
    let path = link.join(FILE_NAME);
    let mut disk = RealDisk::default();
    disk.hold(&path).unwrap();
    disk.replace(&path, b"old").unwrap();
    fs::remove_dir_all(&one).unwrap();
    assert_eq!(disk.place(&path, 3).unwrap(), Place::Removed);
    fs::remove_file(&link).unwrap();
    // A folder on another disk, whatever this host has.
    std::os::unix::fs::symlink("/proc", &link).unwrap();
    assert_eq!(disk.place(&path, 3).unwrap(), Place::Elsewhere);
    let why = disk.replace(&path, b"new").unwrap_err().to_string();
    assert!(why.contains("removed or changed"), "{why}");
}

/// A file that could only be read is opened again when it can be written: that very file.
#[test]
fn a_file_that_could_only_be_read_is_written_to_later() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(FILE_NAME);
    fs::write(&path, b"old").unwrap();
    let mut disk = RealDisk::default();
    let read_only = |disk: &mut RealDisk| {
        disk.hold(&path).unwrap();
        disk.only_reads = true;
    };
    read_only(&mut disk);
    disk.append(&path, 3, b"er").unwrap();
    assert!(!disk.only_reads);
    assert_eq!(
        (fs::read(&path).unwrap(), disk.place(&path, 5).unwrap()),
        (b"older".to_vec(), Place::Held)
    );
    read_only(&mut disk);
    fs::copy(&path, path.with_extension("copy")).unwrap();
    fs::rename(path.with_extension("copy"), &path).unwrap();
    disk.append(&path, 5, b"st").unwrap_err();
    assert_eq!(fs::read(&path).unwrap(), b"older");
}

/// Each file has an id of its own, also where one is written anew.
#[test]
fn each_file_has_another_id() {
    let mut real = Real::new();
    let id = |real: &Real| frame::decode_file_head(&fs::read(real.file()).unwrap()).0.unwrap().file;
    let mut ids = vec![id(&real), id(&Real::new())];
    for _ in 0..3 {
        real.repair().unwrap();
        ids.push(id(&real));
    }
    assert!((1..ids.len()).all(|at| !ids[..at].contains(&ids[at])), "{ids:?}");
}

/// Without a sync for each change, too: what a rewrite that failed leaves open is synced later.
#[test]
fn after_a_rewrite_that_failed_the_old_file_is_still_held() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(FILE_NAME);
    let mut disk = RealDisk::default();
    assert!(disk.hold(&path).unwrap().is_none());
    assert_eq!(disk.place(&path, 0).unwrap(), Place::Removed);
    disk.replace(&path, b"old").unwrap();
    // No file can be written where a folder stands.
    std::fs::create_dir(folder.path().join("state.journal.new")).unwrap();
    disk.replace(&path, b"new").unwrap_err();
    assert_eq!(disk.place(&path, 3).unwrap(), Place::Held, "or nobody can sync it");
    disk.append(&path, 3, b"er").unwrap();
    disk.sync(&path).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"older");
    disk.truncate(&path, 6).unwrap_err();
    disk.truncate(&path, 4).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"olde");
    fs::remove_dir(folder.path().join("state.journal.new")).unwrap();
    disk.replace(&path, b"new").unwrap();
    assert_eq!(disk.place(&path, 3).unwrap(), Place::Held);
    assert_eq!(fs::read(&path).unwrap(), b"new");
}
