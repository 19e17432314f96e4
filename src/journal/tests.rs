use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::io::ErrorKind;

use crate::durable::Content;

/// A disk in memory that fails at a chosen step: steps are the writes, syncs and renames that a
/// real disk would do. A step that fails in the middle leaves a part of its bytes. What was not
/// synced is gone after a power cut.
#[derive(Debug, Default, Clone)]
struct FakeDisk {
    files: BTreeMap<PathBuf, FakeFile>,
    steps: usize,
    fail_at: Option<usize>,
    /// A second step that fails.
    fail_too_at: Option<usize>,
    /// The power goes at this step: it fails, and all behind it.
    off_at: Option<usize>,
    read_fault: bool,
    torn_to: usize,
}

#[derive(Debug, Default, Clone)]
struct FakeFile {
    /// What is read.
    bytes: Vec<u8>,
    /// What outlives a power cut.
    durable: Vec<u8>,
    /// A sync of it failed: the kernel forgot what was to be written, and later syncs succeed
    /// without it (as Linux does).
    forgot: bool,
}

impl FakeDisk {
    fn step(&mut self) -> bool {
        self.steps += 1;
        self.fail_at != Some(self.steps)
            && self.fail_too_at != Some(self.steps)
            && self.off_at.is_none_or(|off| self.steps < off)
    }

    /// What a file reads.
    fn bytes(&self, path: &Path) -> &[u8] {
        self.files.get(path).map_or(&[], |file| &file.bytes)
    }

    fn file(&mut self, path: &Path) -> &mut FakeFile {
        self.files.entry(path.into()).or_default()
    }

    fn synced(&mut self, path: &Path) {
        let file = self.file(path);
        if !file.forgot {
            file.durable.clone_from(&file.bytes);
        }
    }

    /// What is there when the power is back; of what was not synced so many bytes.
    fn after_power_cut(mut self, kept: usize) -> Self {
        for file in self.files.values_mut() {
            let volatile = file.bytes.strip_prefix(&*file.durable).unwrap_or_default();
            let volatile = if file.forgot { &[] } else { &volatile[..kept.min(volatile.len())] };
            file.bytes = [&*file.durable, volatile].concat();
            file.durable.clone_from(&file.bytes);
            file.forgot = false;
        }
        self
    }
}

fn broken_disk() -> Error {
    Error::from(ErrorKind::StorageFull)
}

impl Disk for FakeDisk {
    fn read(&mut self, path: &Path) -> Result<Option<Content>, Error> {
        let fault = self.read_fault.then(|| Error::from_raw_os_error(5));
        Ok(self.files.get(path).map(|file| Content { bytes: file.bytes.clone(), fault }))
    }

    fn append(&mut self, path: &Path, length: usize, bytes: &[u8]) -> Result<(), Error> {
        if self.bytes(path).len() != length {
            return Err(Error::from(ErrorKind::NotFound));
        }
        let writes = self.step();
        let kept = if writes { bytes.len() } else { self.torn_to.min(bytes.len()) };
        self.file(path).bytes.extend_from_slice(&bytes[..kept]);
        if writes { Ok(()) } else { Err(broken_disk()) }
    }

    fn sync(&mut self, path: &Path) -> Result<(), Error> {
        if self.step() {
            self.synced(path);
            return Ok(());
        }
        self.file(path).forgot = true;
        Err(broken_disk())
    }

    fn truncate(&mut self, path: &Path, length: usize) -> Result<(), Error> {
        if !self.step() {
            return Err(broken_disk());
        }
        self.file(path).bytes.truncate(length);
        self.synced(path);
        Ok(())
    }

    fn length(&self, path: &Path) -> Option<usize> {
        Some(self.bytes(path).len())
    }

    fn keep_as(&mut self, path: &Path, aside: &Path, _: &[u8]) -> Result<(), Error> {
        if !self.step() {
            return Err(broken_disk());
        }
        let file = self.files.get(path).cloned().unwrap_or_default();
        self.files.insert(aside.into(), file);
        Ok(())
    }

    fn replace(&mut self, path: &Path, bytes: &[u8]) -> Result<(), Error> {
        // Write and sync of the temporary file, then the rename: before it nothing has changed.
        for _ in 0..3 {
            if !self.step() {
                return Err(broken_disk());
            }
        }
        let lasts = self.step();
        let file = self.file(path);
        file.bytes = bytes.to_vec();
        if lasts {
            *file = FakeFile { durable: bytes.to_vec(), forgot: false, bytes: bytes.to_vec() };
            return Ok(());
        }
        // The sync of the folder: the rename may or may not last. Here it does not.
        file.forgot = true;
        Err(broken_disk())
    }
}

const FOLDER: &str = "/nowhere";

fn path() -> PathBuf {
    Path::new(FOLDER).join(FILE_NAME)
}

fn change(key: &str, value: Option<&str>) -> Change {
    let value = value.map(|text| Value::new(text.as_bytes()).unwrap());
    Change::from([(Key::new(key).unwrap(), value)])
}

fn apply_change(entries: &mut Entries, change: &Change) {
    *entries = entries.with(change.iter().map(|(key, value)| (key, value.as_ref())));
}

/// What became of changes that were written one by one.
struct Written {
    /// The state after those that were acknowledged, and the timestamp of the last of them.
    acknowledged: Entries,
    last: u64,
    /// The states that would have been, of those refused after it: a power cut may leave either.
    refused: Vec<Entries>,
}

fn write<D: Disk>(journal: &mut Journal<D>, changes: &[Change], first: u64) -> (Entries, u64) {
    let Written { acknowledged, last, .. } = write_each(journal, changes, first);
    (acknowledged, last)
}

fn write_each<D: Disk>(journal: &mut Journal<D>, changes: &[Change], first: u64) -> Written {
    let mut written = Written { acknowledged: Entries::new(), last: 0, refused: Vec::new() };
    for (change, timestamp) in changes.iter().zip(first..) {
        let mut after = written.acknowledged.clone();
        apply_change(&mut after, change);
        let commit = Commit { change, timestamp, left: false };
        if journal.append(&[commit], &after).is_ok() {
            written = Written { acknowledged: after, last: timestamp, refused: Vec::new() };
        } else {
            written.refused.push(after);
        }
    }
    written
}

impl Written {
    /// After a power cut, nothing that was acknowledged is lost, and nothing else is there.
    fn check(&self, disk: FakeDisk, kept: usize, what: &str) {
        let (_, loaded) = reopen(disk.after_power_cut(kept));
        let known = loaded.entries == self.acknowledged || self.refused.contains(&loaded.entries);
        assert!(known, "{what}: {} keys", loaded.entries.len());
        assert!(loaded.timestamp >= self.last, "{what}");
    }
}

fn some_changes() -> Vec<Change> {
    vec![
        change("a", Some("1")),
        change("b", Some("2")),
        change("a", None),
        change("c", Some("3")),
        change("b", Some("4")),
    ]
}

/// More than a file may have before it is rewritten.
fn big_changes() -> Vec<Change> {
    let big = |n: usize| change("same", Some(&format!("{n}-{}", "v".repeat(20_000))));
    (0..9).map(big).collect()
}

fn reopen(disk: FakeDisk) -> (Journal<FakeDisk>, Loaded) {
    let disk =
        FakeDisk { fail_at: None, fail_too_at: None, off_at: None, read_fault: false, ..disk };
    Journal::open_on(disk, Path::new(FOLDER), true).unwrap()
}

#[test]
fn what_was_written_is_read_and_an_intact_file_is_not_written_to() {
    let (mut journal, loaded) = reopen(FakeDisk::default());
    assert_eq!(loaded, Loaded::default());
    let (entries, timestamp) = write(&mut journal, &some_changes(), 10);
    let steps = journal.disk.steps;
    let (journal, loaded) = reopen(journal.disk);
    assert_eq!((loaded.entries, loaded.timestamp), (entries, timestamp));
    assert_eq!((loaded.warnings.len(), journal.disk.steps), (0, steps));
}

/// Each write, sync and rename fails once, torn at every byte; later ones work again. Nothing
/// acknowledged is lost, nothing refused appears, and the journal goes on.
#[test]
fn a_disk_that_fails_once_costs_nothing_acknowledged() {
    for fail_at in 1..30 {
        for torn_to in 0..60 {
            let disk = FakeDisk { fail_at: Some(fail_at), torn_to, ..FakeDisk::default() };
            let (mut journal, _) = Journal::open_on(disk, Path::new(FOLDER), true).unwrap();
            let (entries, timestamp) = write(&mut journal, &some_changes(), 10);
            let (_, loaded) = reopen(journal.disk);
            assert_eq!(loaded.entries, entries, "step {fail_at} torn to {torn_to}");
            assert_eq!(loaded.timestamp, timestamp);
        }
    }
}

/// Two steps fail, wherever they are: among them the write, syncs and rename of a file that is
/// rewritten after the first fault. What a refused change left on disk is mended with the next one.
#[test]
fn a_disk_that_fails_twice_costs_nothing_acknowledged() {
    for first in 1..12 {
        for second in first + 1..24 {
            for torn_to in [0, 1, 30, 1000] {
                let (fail_at, fail_too_at) = (Some(first), Some(second));
                let disk = FakeDisk { fail_at, fail_too_at, torn_to, ..FakeDisk::default() };
                let (mut journal, _) = Journal::open_on(disk, Path::new(FOLDER), true).unwrap();
                let (mut entries, _) = write(&mut journal, &some_changes(), 10);
                let last = change("last", Some("1"));
                apply_change(&mut entries, &last);
                // At most the two faults stand before it.
                let commit = || Commit { change: &last, timestamp: 50, left: false };
                let kept = (0..3).any(|_| journal.append(&[commit()], &entries).is_ok());
                assert!(kept, "steps {first} and {second} torn to {torn_to}");
                let (_, loaded) = reopen(journal.disk);
                assert_eq!(loaded.entries, entries, "steps {first} and {second} torn to {torn_to}");
                assert!(loaded.warnings.is_empty());
            }
        }
    }
}

/// A file that is rewritten because it grew: each of the steps fails once.
#[test]
fn a_rewrite_that_fails_costs_nothing() {
    let changes = big_changes();
    for fail_at in 1..40 {
        for torn_to in [0, 1, 10_000] {
            let disk = FakeDisk { fail_at: Some(fail_at), torn_to, ..FakeDisk::default() };
            let (mut journal, _) = Journal::open_on(disk, Path::new(FOLDER), true).unwrap();
            let (entries, timestamp) = write(&mut journal, &changes, 1);
            let (_, loaded) = reopen(journal.disk);
            assert_eq!((loaded.entries, loaded.timestamp), (entries, timestamp), "{fail_at}");
        }
    }
}

/// A rewrite whose rename happened and whose folder could not be synced: the file is another one
/// now, and the next change goes there as if nothing had been.
#[test]
fn a_rewrite_that_half_fails_refuses_nothing_later() {
    for fail_at in 1..40 {
        let disk = FakeDisk { fail_at: Some(fail_at), ..FakeDisk::default() };
        let (mut journal, _) = Journal::open_on(disk, Path::new(FOLDER), true).unwrap();
        let mut entries = Entries::new();
        for (change, timestamp) in big_changes().into_iter().zip(1..) {
            apply_change(&mut entries, &change);
            let commit = Commit { change: &change, timestamp, left: false };
            if let Err(fault) = journal.append(&[commit], &entries) {
                assert_ne!(fault.why.kind(), ErrorKind::NotFound, "step {fail_at}: {fault}");
            }
        }
    }
}

/// Without a sync for each change, too: what a rewrite that failed leaves open is synced later.
#[test]
fn after_a_rewrite_that_failed_the_old_file_is_still_synced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(FILE_NAME);
    let mut disk = RealDisk::default();
    disk.append(&path, 0, b"old").unwrap();
    // No file can be written where a folder stands.
    std::fs::create_dir(folder.path().join("state.journal.new")).unwrap();
    disk.replace(&path, b"new").unwrap_err();
    assert!(disk.has_name(&path), "or nobody can sync it");
    disk.append(&path, 3, b"er").unwrap();
    disk.sync(&path).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"older");
    std::fs::remove_dir(folder.path().join("state.journal.new")).unwrap();
    disk.replace(&path, b"new").unwrap();
    assert!(!disk.has_name(&path), "it is another file now");
}

/// A full disk: what did not fit is cut off, and a change that fits is taken without the room that
/// a rewrite of all would need.
#[test]
fn after_a_write_that_did_not_fit_a_smaller_one_is_appended() {
    let (mut journal, _) = reopen(FakeDisk::default());
    let (mut entries, _) = write(&mut journal, &some_changes(), 10);
    journal.disk.fail_at = Some(journal.disk.steps + 1);
    journal.disk.torn_to = 7;
    let large = change("large", Some("v"));
    let commit = Commit { change: &large, timestamp: 20, left: false };
    assert!(journal.append(&[commit], &entries).is_err());
    let (steps, small) = (journal.disk.steps, change("s", Some("1")));
    apply_change(&mut entries, &small);
    let commit = Commit { change: &small, timestamp: 21, left: false };
    journal.append(&[commit], &entries).unwrap();
    assert_eq!(journal.disk.steps, steps + 2, "a write and a sync");
    assert_eq!(reopen(journal.disk).1.entries, entries);
}

/// A block that can't be read: the node starts with all other frames, says so, and keeps the file.
#[test]
fn a_disk_that_does_not_give_all_bytes_is_named_and_the_file_kept() {
    let (mut journal, _) = reopen(FakeDisk::default());
    let (entries, timestamp) = write(&mut journal, &some_changes(), 10);
    let disk = FakeDisk { read_fault: true, ..journal.disk };
    let good = disk.bytes(&path()).to_vec();
    let (journal, loaded) = Journal::open_on(disk, Path::new(FOLDER), true).unwrap();
    assert_eq!((loaded.entries, loaded.timestamp), (entries, timestamp));
    assert!(loaded.warnings[0].contains("can't be read"), "{:?}", loaded.warnings);
    assert_eq!(journal.disk.bytes(&Path::new(FOLDER).join("state.damaged-1")), good);
}

/// The power goes at each step, torn at every byte: what was acknowledged before is there.
#[test]
fn a_power_cut_at_any_step_loses_nothing_acknowledged() {
    for off_at in 1..20 {
        for torn_to in 0..60 {
            let disk = FakeDisk { off_at: Some(off_at), torn_to, ..FakeDisk::default() };
            let (mut journal, _) = Journal::open_on(disk, Path::new(FOLDER), true).unwrap();
            let written = write_each(&mut journal, &some_changes(), 10);
            written.check(journal.disk, torn_to, &format!("off at {off_at}, torn to {torn_to}"));
        }
    }
}

/// Each step fails once, work goes on, and later the power goes: what a failed sync may have lost
/// was never acknowledged, or was written again.
#[test]
fn a_failed_step_and_then_a_power_cut_lose_nothing_acknowledged() {
    let big = big_changes();
    let some = some_changes();
    let rows = (1..=5).map(|count| &some[..count]).chain((6..=9).map(|count| &big[..count]));
    for (changes, syncs) in rows.flat_map(|row| [(row, true), (row, false)]) {
        for fail_at in 1..40 {
            let disk = FakeDisk { fail_at: Some(fail_at), ..FakeDisk::default() };
            let (mut journal, _) = Journal::open_on(disk, Path::new(FOLDER), syncs).unwrap();
            let mut written = write_each(&mut journal, changes, 10);
            if !syncs && (journal.is_broken() || journal.sync().is_err()) {
                // So the next one has to write all of it.
                let (change, timestamp) = (change("last", Some("1")), 50);
                apply_change(&mut written.acknowledged, &change);
                let commit = Commit { change: &change, timestamp, left: false };
                journal.append(&[commit], &written.acknowledged).unwrap();
                journal.sync().unwrap();
            }
            written.check(journal.disk, 0, &format!("step {fail_at}, {} changes", changes.len()));
        }
    }
}

/// The file is cut, zeroed or filled with noise from every offset on: the node starts, keeps every
/// whole frame, sets the damaged file aside, and what it writes afterwards is kept.
#[test]
fn a_damaged_file_is_set_aside_and_its_whole_frames_are_kept() {
    let (mut journal, _) = reopen(FakeDisk::default());
    write(&mut journal, &some_changes(), 10);
    let good = journal.disk.bytes(&path()).to_vec();
    let damages: [fn(&mut Vec<u8>, usize); 4] = [
        |bytes, at| bytes.truncate(at),
        |bytes, at| bytes[at..].fill(0),
        |bytes, at| bytes[at] ^= 0x10,
        |bytes, at| bytes.insert(at, 0x64),
    ];
    for (kind, damage) in damages.iter().enumerate() {
        for at in 0..good.len() {
            let mut bytes = good.clone();
            damage(&mut bytes, at);
            let whole = replay(&bytes).0;
            let file = FakeFile { bytes: bytes.clone(), durable: bytes.clone(), forgot: false };
            let files = BTreeMap::from([(path(), file)]);
            let (mut journal, loaded) = reopen(FakeDisk { files, ..FakeDisk::default() });
            assert_eq!((&loaded.entries, loaded.timestamp), (&whole.entries, whole.timestamp));
            let on_boundary = loaded.warnings.is_empty();
            if !on_boundary {
                let aside = Path::new(FOLDER).join("state.damaged-1");
                assert_eq!(journal.disk.bytes(&aside), bytes, "{kind} at {at}");
                assert!(loaded.warnings[0].contains("state.damaged-1"));
            }
            let mut after = loaded.entries.clone();
            apply_change(&mut after, &change("z", Some("9")));
            let commit = Commit { change: &change("z", Some("9")), timestamp: 99, left: true };
            journal.append(&[commit], &after).unwrap();
            let (_, again) = reopen(journal.disk);
            assert_eq!((again.entries, again.timestamp, again.left), (after, 99, true));
            assert!(again.warnings.is_empty());
        }
    }
}

/// One damaged frame in the middle does not cost those behind it.
#[test]
fn frames_behind_a_damaged_one_count() {
    let (mut journal, _) = reopen(FakeDisk::default());
    let changes: Vec<Change> =
        (0..9).map(|n| change(&format!("k{n}"), Some(&"v".repeat(n)))).collect();
    write(&mut journal, &changes, 1);
    let mut bytes = journal.disk.bytes(&path()).to_vec();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let (loaded, damaged) = replay(&bytes);
    assert!(damaged && loaded.entries.len() == 8, "{}", loaded.entries.len());
}

#[test]
fn a_file_that_grew_is_rewritten_small() {
    let (mut journal, _) = reopen(FakeDisk::default());
    let changes: Vec<Change> =
        (0..500).map(|n| change("same", Some(&format!("{n}-{}", "v".repeat(1000))))).collect();
    let (entries, timestamp) = write(&mut journal, &changes, 1);
    let length = journal.disk.bytes(&path()).len();
    assert!(length <= REWRITE_BYTES_MIN + 2000, "{length}");
    let (_, loaded) = reopen(journal.disk);
    assert_eq!((loaded.entries, loaded.timestamp), (entries, timestamp));
}

#[test]
fn on_a_real_disk_too_and_a_removed_file_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("n");
    let (mut journal, _) = Journal::open(&place, true).unwrap();
    let (entries, timestamp) = write(&mut journal, &some_changes(), 1);
    let (_, loaded) = Journal::open(&place, true).unwrap();
    assert_eq!((&loaded.entries, loaded.timestamp), (&entries, timestamp));
    std::fs::remove_dir_all(&place).unwrap();
    let more = change("x", Some("y"));
    let commit = || Commit { change: &more, timestamp: 50, left: false };
    assert!(journal.append(&[commit()], &entries).is_err(), "the file is gone");
    journal.append(&[commit()], &entries).unwrap();
    let (_, loaded) = Journal::open(&place, true).unwrap();
    assert_eq!((&loaded.entries, loaded.timestamp), (&entries, 50), "and it is there again");
    // The file alone: it comes back whole, not as zeros of its old length.
    std::fs::remove_file(place.join(FILE_NAME)).unwrap();
    let commit = Commit { change: &more, timestamp: 51, left: false };
    assert!(journal.append(&[commit], &entries).is_err(), "the file is gone");
    assert!(!place.join(FILE_NAME).exists());
    journal.repair(&entries, 50, false).unwrap();
    let (_, loaded) = Journal::open(&place, true).unwrap();
    assert_eq!((loaded.entries, loaded.timestamp), (entries, 50));
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = replay(&bytes);
    }

    #[test]
    fn any_changes_come_back(
        changes in proptest::collection::vec(
            ("[a-d]", proptest::option::of("[a-z]{0,20}")), 1..20
        )
    ) {
        let (mut journal, _) = reopen(FakeDisk::default());
        let changes: Vec<Change> =
            changes.iter().map(|(key, value)| change(key, value.as_deref())).collect();
        let (entries, timestamp) = write(&mut journal, &changes, 1);
        let (_, loaded) = reopen(journal.disk);
        prop_assert_eq!((loaded.entries, loaded.timestamp), (entries, timestamp));
    }
}
