use std::cell::Cell;

use proptest::prelude::*;

use super::*;
use crate::protocol::entries::{Key, Value};
use fake_disk::{FakeDisk, Rest};

mod damage;
mod failing;
mod fake_disk;
mod format;
mod place;

thread_local! {
    /// Bytes that went into checksums.
    static HASHED: Cell<usize> = const { Cell::new(0) };
}

/// Counts what goes into a checksum.
pub(super) fn count_hashed(bytes: usize) {
    HASHED.with(|hashed| hashed.set(hashed.get() + bytes));
}

const FOLDER: &str = "/nowhere";

fn path() -> PathBuf {
    Path::new(FOLDER).join(FILE_NAME)
}

fn aside() -> PathBuf {
    Path::new(FOLDER).join("state.damaged-1")
}

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

fn value(bytes: &[u8]) -> Value {
    Value::new(bytes).unwrap()
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
    terms: Terms,
    last: u64,
    /// The states that would have been, of those refused after it: a power cut may leave either.
    refused: Vec<(Entries, Terms)>,
}

/// What is set at an odd time expires.
fn ttl_at(timestamp: u64) -> Option<Ttl> {
    (timestamp % 2 == 1).then(|| Ttl::from_ms(timestamp * 1_000).unwrap())
}

fn apply_terms(terms: &mut Terms, change: &Change, ttl: Option<Ttl>) {
    for (key, value) in change {
        match ttl.filter(|_| value.is_some()) {
            Some(ttl) => _ = terms.insert(key.clone(), ttl),
            None => _ = terms.remove(key),
        }
    }
}

fn write<D: Disk>(journal: &mut Journal<D>, changes: &[Change], first: u64) -> (Entries, u64) {
    let Written { acknowledged, last, .. } = write_each(journal, changes, first);
    (acknowledged, last)
}

fn write_each<D: Disk>(journal: &mut Journal<D>, changes: &[Change], first: u64) -> Written {
    let (acknowledged, terms) = (Entries::new(), Terms::new());
    let mut written = Written { acknowledged, terms, last: 0, refused: Vec::new() };
    for (change, timestamp) in changes.iter().zip(first..) {
        let mut after = written.acknowledged.clone();
        let (ttl, mut terms) = (ttl_at(timestamp), written.terms.clone());
        apply_change(&mut after, change);
        apply_terms(&mut terms, change, ttl);
        let commit = Commit { change, ttl, timestamp, left: false };
        if journal.append(&[commit], &after).is_ok() {
            let refused = Vec::new();
            written = Written { acknowledged: after, terms, last: timestamp, refused };
        } else {
            written.refused.push((after, terms));
        }
        assert_eq!(journal.terms(), &written.terms);
    }
    written
}

impl Written {
    /// Nothing that was acknowledged is lost, and nothing else is there.
    fn check(&self, disk: FakeDisk, what: &str) {
        let (_, loaded) = reopen(disk);
        let is_acknowledged = loaded.entries == self.acknowledged && loaded.terms == self.terms;
        let state = (loaded.entries, loaded.terms);
        let known = is_acknowledged || self.refused.contains(&state);
        assert!(known, "{what}: {} keys, {} of them expire", state.0.len(), state.1.len());
        assert!(loaded.timestamp >= self.last, "{what}");
        assert!(loaded.warnings.is_empty(), "{what}: {:?}", loaded.warnings);
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

fn open(disk: FakeDisk, syncs: bool) -> (Journal<FakeDisk>, Loaded) {
    Journal::open_on(disk, Path::new(FOLDER), syncs).unwrap()
}

fn reopen(disk: FakeDisk) -> (Journal<FakeDisk>, Loaded) {
    open(disk.well(), true)
}

#[test]
fn what_was_written_is_read_and_an_intact_file_is_not_written_to() {
    let (mut journal, loaded) = reopen(FakeDisk::default());
    assert_eq!(loaded, Loaded::default());
    journal.sync().unwrap();
    assert!(!journal.is_broken(), "there is nothing yet");
    let (entries, timestamp) = write(&mut journal, &some_changes(), 10);
    let steps = journal.disk.steps;
    let (journal, loaded) = reopen(journal.disk);
    assert_eq!((loaded.entries, loaded.timestamp), (entries, timestamp));
    assert_eq!((loaded.warnings.len(), loaded.notes.len()), (0, 0));
    assert_eq!(journal.disk.steps, steps);
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

/// What would be taken for damage after a restart is not acknowledged.
#[test]
fn what_could_not_be_read_again_is_refused() {
    let (mut journal, _) = reopen(FakeDisk::default());
    let (entries, _) = write(&mut journal, &some_changes(), 10);
    let more = change("more", Some("1"));
    let mut after = entries.clone();
    apply_change(&mut after, &more);
    let steps = journal.disk.steps;
    for timestamp in [0, 13, 14, TIMESTAMP_MAX + 1, u64::MAX] {
        let commit = Commit { change: &more, ttl: None, timestamp, left: false };
        let fault = journal.append(&[commit], &after).unwrap_err();
        assert!(matches!(fault.fault, Fault::Unfit), "{fault}");
    }
    let commit = |timestamp| Commit { change: &more, ttl: None, timestamp, left: false };
    assert!(journal.append(&[commit(20), commit(20)], &after).is_err());
    let large: Entries =
        (0..17).map(|n| (key(&n.to_string()), value(&vec![0; 64 * 1024]))).collect();
    assert!(journal.append(&[commit(20)], &large).is_err());
    assert_eq!(journal.disk.steps, steps, "nothing was written");
    journal.append(&[commit(20), commit(21), commit(TIMESTAMP_MAX)], &after).unwrap();
    let (_, loaded) = reopen(journal.disk);
    assert_eq!((loaded.entries, loaded.timestamp), (after, TIMESTAMP_MAX));
}

/// A change that removes more keys than any state has: longer than a frame may be.
#[test]
fn a_change_too_long_for_a_frame_is_kept_too() {
    let (mut journal, _) = reopen(FakeDisk::default());
    write(&mut journal, &some_changes(), 10);
    let removed = (0..20_000).map(|n| (key(&format!("{n}{}", "x".repeat(240))), None));
    let mut change: Change = removed.collect();
    change.extend([(key("kept"), Some(value(b"1")))]);
    let entries = Entries::from([(key("kept"), value(b"1"))]);
    let steps = journal.disk.steps;
    // Also where what is to be written instead can't be.
    for fail_at in [0, 1, 2, 3, 4] {
        let (mut journal, before) = reopen(journal.disk.clone());
        journal.disk.fail_at = Some(steps + fail_at);
        let commit = Commit { change: &change, ttl: None, timestamp: 20, left: false };
        let done = journal.append(&[commit], &entries);
        assert_eq!(done.is_ok(), fail_at == 0, "{fail_at}");
        let (_, loaded) = reopen(journal.disk);
        let is_new = (&loaded.entries, loaded.timestamp) == (&entries, 20);
        assert!(is_new || done.is_err() && loaded == before, "{fail_at}");
        assert!(loaded.warnings.is_empty());
    }
}

/// Nor does a file become longer than what is read of it, where it can't be made smaller.
#[test]
fn a_file_that_grows_to_its_limit_is_rewritten_or_not_added_to() {
    let (mut journal, _) = reopen(FakeDisk::default());
    let large = |n: u8| Change::from([(key("k"), Some(value(&vec![n; 64 * 1024])))]);
    let (mut entries, mut timestamp) = write(&mut journal, &[large(0)], 1);
    // Nothing is rewritten before it has to be.
    journal.rewrite_at = usize::MAX;
    let mut append = |journal: &mut Journal<FakeDisk>, n: u8| {
        let (change, mut after) = (large(n), entries.clone());
        apply_change(&mut after, &change);
        let commit = Commit { change: &change, ttl: None, timestamp: timestamp + 1, left: false };
        let done = journal.append(&[commit], &after);
        if done.is_ok() {
            (entries, timestamp) = (after, timestamp + 1);
        }
        (done.is_ok(), entries.clone())
    };
    let mut numbers = (1..=u8::MAX).cycle();
    while journal.length + 66_000 < FILE_BYTES_MAX {
        assert!(append(&mut journal, numbers.next().unwrap()).0);
    }
    journal.disk.fail_at = Some(journal.disk.steps + 1);
    assert!(!append(&mut journal, 1).0, "it can't be rewritten, nor be added to");
    let (taken, entries) = append(&mut journal, 2);
    assert!(taken && journal.length < 2 * 64 * 1024);
    let (_, loaded) = reopen(journal.disk);
    assert_eq!(loaded.entries, entries);
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = replay(&bytes);
        let nothing = (&Entries::new(), &Terms::new());
        let mut file = frame::encode_file(FileId([7; 16]), nothing, 1, false);
        file.extend_from_slice(&bytes);
        let _ = replay(&file);
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
        let written = write_each(&mut journal, &changes, 1);
        let (_, loaded) = reopen(journal.disk);
        prop_assert_eq!(
            frame::file_bytes(&loaded.entries, loaded.terms.len()),
            frame::encode_file(FileId([0; 16]), (&loaded.entries, &loaded.terms), 1, false).len()
        );
        prop_assert_eq!(
            (loaded.entries, loaded.terms, loaded.timestamp),
            (written.acknowledged, written.terms, written.last)
        );
    }
}
