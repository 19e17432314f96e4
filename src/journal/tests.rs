use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::io::ErrorKind;

/// A disk in memory that fails at a chosen step: steps are the writes, syncs and renames that a
/// real disk would do. A step that fails in the middle leaves a part of its bytes.
#[derive(Debug, Default, Clone)]
struct FakeDisk {
    files: BTreeMap<PathBuf, Vec<u8>>,
    steps: usize,
    fail_at: Option<usize>,
    torn_to: usize,
}

impl FakeDisk {
    fn step(&mut self) -> bool {
        self.steps += 1;
        self.fail_at != Some(self.steps)
    }
}

fn broken_disk() -> Error {
    Error::from(ErrorKind::StorageFull)
}

impl Disk for FakeDisk {
    fn read(&mut self, path: &Path) -> Result<Option<Vec<u8>>, Error> {
        Ok(self.files.get(path).cloned())
    }

    fn append(&mut self, path: &Path, bytes: &[u8]) -> Result<(), Error> {
        let writes = self.step();
        let kept = if writes { bytes.len() } else { self.torn_to.min(bytes.len()) };
        self.files.entry(path.into()).or_default().extend_from_slice(&bytes[..kept]);
        if writes { Ok(()) } else { Err(broken_disk()) }
    }

    fn sync(&mut self, _: &Path) -> Result<(), Error> {
        if self.step() { Ok(()) } else { Err(broken_disk()) }
    }

    fn truncate(&mut self, path: &Path, length: usize) -> Result<(), Error> {
        if !self.step() {
            return Err(broken_disk());
        }
        self.files.entry(path.into()).or_default().truncate(length);
        Ok(())
    }

    fn replace(&mut self, path: &Path, bytes: &[u8]) -> Result<(), Error> {
        // Write and sync of the temporary file, then the rename: before it nothing has changed.
        for _ in 0..3 {
            if !self.step() {
                return Err(broken_disk());
            }
        }
        self.files.insert(path.into(), bytes.to_vec());
        // The sync of the folder: the rename may or may not last.
        if self.step() { Ok(()) } else { Err(broken_disk()) }
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

/// Writes changes one by one; gives the state after those that were acknowledged.
fn write<D: Disk>(journal: &mut Journal<D>, changes: &[Change], first: u64) -> (Entries, u64) {
    let (mut acknowledged, mut last) = (Entries::new(), 0);
    for (at, change) in changes.iter().enumerate() {
        let mut after = acknowledged.clone();
        apply_change(&mut after, change);
        let timestamp = first + at as u64;
        let commit = Commit { change, timestamp, left: false };
        if journal.append(&[commit], &after).is_ok() {
            (acknowledged, last) = (after, timestamp);
        }
    }
    (acknowledged, last)
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

fn reopen(disk: FakeDisk) -> (Journal<FakeDisk>, Loaded) {
    let disk = FakeDisk { fail_at: None, ..disk };
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

/// The power goes at each step, torn at every byte: what was acknowledged before is there.
#[test]
fn a_power_cut_at_any_byte_loses_nothing_acknowledged() {
    for fail_at in 1..12 {
        for torn_to in 0..60 {
            let disk = FakeDisk { fail_at: Some(fail_at), torn_to, ..FakeDisk::default() };
            let (mut journal, _) = Journal::open_on(disk, Path::new(FOLDER), true).unwrap();
            let mut acknowledged = Entries::new();
            let mut cut = None;
            for (at, change) in some_changes().iter().enumerate() {
                let mut after = acknowledged.clone();
                apply_change(&mut after, change);
                let commit = Commit { change, timestamp: 10 + at as u64, left: false };
                let before_cut = journal.disk.clone();
                if journal.append(&[commit], &after).is_err() {
                    // The machine is off before the journal can clean up.
                    let mut disk = before_cut;
                    let mut bytes = Vec::new();
                    let commit = Commit { change, timestamp: 10 + at as u64, left: false };
                    frame::encode_change(&commit, &mut bytes);
                    bytes.truncate(torn_to);
                    disk.files.entry(path()).or_default().extend_from_slice(&bytes);
                    cut = Some((disk, after));
                    break;
                }
                acknowledged = after;
            }
            let Some((disk, after)) = cut else { continue };
            let (_, loaded) = reopen(disk);
            assert!(loaded.entries == acknowledged || loaded.entries == after);
        }
    }
}

/// The file is cut, zeroed or filled with noise from every offset on: the node starts, keeps every
/// whole frame, sets the damaged file aside, and what it writes afterwards is kept.
#[test]
fn a_damaged_file_is_set_aside_and_its_whole_frames_are_kept() {
    let (mut journal, _) = reopen(FakeDisk::default());
    write(&mut journal, &some_changes(), 10);
    let good = journal.disk.files[&path()].clone();
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
            let files = BTreeMap::from([(path(), bytes.clone())]);
            let (mut journal, loaded) = reopen(FakeDisk { files, ..FakeDisk::default() });
            assert_eq!((&loaded.entries, loaded.timestamp), (&whole.entries, whole.timestamp));
            let on_boundary = loaded.warnings.is_empty();
            if !on_boundary {
                let aside = Path::new(FOLDER).join("state.damaged-1");
                assert_eq!(journal.disk.files.get(&aside), Some(&bytes), "{kind} at {at}");
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
    let mut bytes = journal.disk.files[&path()].clone();
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
    let length = journal.disk.files[&path()].len();
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
