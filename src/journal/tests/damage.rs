//! Files that are not as they were written.

use super::*;
use crate::durable::BLOCK_BYTES;
use frame::FRAMES_AT;

fn load(bytes: &[u8]) -> (Journal<FakeDisk>, Loaded) {
    reopen(FakeDisk::with_file(&path(), bytes))
}

/// A file with these changes, and where each of its frames ends.
fn file_of(changes: &[Change]) -> (Vec<u8>, Vec<usize>) {
    let (mut journal, _) = reopen(FakeDisk::default());
    let (mut entries, mut ends) = (Entries::new(), Vec::new());
    for (change, timestamp) in changes.iter().zip(1..) {
        apply_change(&mut entries, change);
        journal.append(&[Commit { change, ttl: None, timestamp, left: false }], &entries).unwrap();
        ends.push(journal.length);
    }
    (journal.disk.bytes(&path()).to_vec(), ends)
}

/// Changes of a key each.
fn changes_of(count: usize, bytes: usize) -> Vec<Change> {
    (0..count).map(|n| change(&format!("k{n:03}"), Some(&"v".repeat(bytes)))).collect()
}

/// Which of such changes are there.
fn kept(loaded: &Loaded) -> Vec<usize> {
    loaded.entries.iter().map(|(key, _)| key.as_str()[1..].parse().unwrap()).collect()
}

/// A block that can't be read: the node starts with all other frames, says so, and keeps the file.
#[test]
fn a_disk_that_does_not_give_all_bytes_is_named_and_the_file_kept() {
    let (mut journal, _) = reopen(FakeDisk::default());
    let (entries, timestamp) = write(&mut journal, &some_changes(), 10);
    let good = journal.disk.bytes(&path()).to_vec();
    // Zeros stand for what was not read: also at the end that is no power cut.
    for cut in [0, 1, 60] {
        let mut bytes = good.clone();
        bytes[good.len() - cut..].fill(0);
        let disk = FakeDisk { read_fault: true, ..FakeDisk::with_file(&path(), &bytes) };
        let (journal, loaded) = open(disk, true);
        if cut == 0 {
            assert_eq!((&loaded.entries, loaded.timestamp), (&entries, timestamp));
        }
        assert!(loaded.warnings[0].text.contains("can't be read"), "{:?}", loaded.warnings);
        assert_eq!(journal.disk.bytes(&aside()), bytes);
    }
}

/// The file is cut, zeroed or changed from every offset on, or a byte more or less stands there:
/// the node starts, keeps every whole frame, and what it writes afterwards is kept. The damaged
/// file is set aside, but for an end that was cut off.
#[test]
fn a_damaged_file_is_set_aside_and_its_whole_frames_are_kept() {
    let (good, ends) = file_of(&some_changes());
    let mut states = vec![Entries::new()];
    for (at, change) in some_changes().iter().enumerate() {
        let mut after = states[at].clone();
        apply_change(&mut after, change);
        states.push(after);
    }
    let damages: [fn(&mut Vec<u8>, usize); 5] = [
        |bytes, at| bytes.truncate(at),
        |bytes, at| bytes[at..].fill(0),
        |bytes, at| bytes[at] ^= 0x10,
        |bytes, at| bytes.insert(at, 0x64),
        |bytes, at| {
            bytes.remove(at);
        },
    ];
    // The zeros between the two copies of the head are nothing; a few of them are enough.
    let places = (0..60).chain(BLOCK_BYTES - 9..good.len());
    for (kind, damage) in damages.iter().enumerate() {
        for at in places.clone() {
            let mut bytes = good.clone();
            damage(&mut bytes, at);
            if bytes == good {
                continue;
            }
            let what = format!("{kind} at {at}");
            let (mut journal, loaded) = load(&bytes);
            let same = bytes.iter().zip(&good).take_while(|(left, right)| left == right).count();
            let whole = ends.iter().filter(|end| **end <= same).count();
            let last = usize::try_from(loaded.timestamp).unwrap();
            if kind == 2 {
                // All others count; that the last one does not shows in the timestamp.
                assert_eq!(last, if at >= ends[3] { 4 } else { 5 }, "{what}");
            } else {
                assert_eq!((last, &loaded.entries), (whole, &states[whole]), "{what}");
            }
            let is_aside = journal.disk.bytes(&aside()) == bytes;
            let is_harmless = match kind {
                // Zeros that nobody reads, and an end that was cut off.
                2 => (48..BLOCK_BYTES).contains(&at) || at >= ends[3],
                // A frame less, or an end that was cut off.
                _ => whole > 0,
            };
            assert_ne!(is_aside, is_harmless, "{what}");
            assert_eq!(loaded.warnings.len(), usize::from(is_aside), "{what}");
            assert_eq!(loaded.warnings.is_empty(), !journal.disk.files.contains_key(&aside()));
            let mut after = loaded.entries.clone();
            apply_change(&mut after, &change("z", Some("9")));
            let commit =
                Commit { change: &change("z", Some("9")), ttl: None, timestamp: 99, left: true };
            journal.append(&[commit], &after).unwrap();
            let (_, again) = reopen(journal.disk);
            assert_eq!((again.entries, again.timestamp, again.left), (after, 99, true));
            assert!(again.warnings.is_empty() && again.notes.is_empty());
        }
    }
}

/// What a disk loses at once costs the frames in it and no others, wherever it is.
#[test]
fn a_block_that_is_lost_costs_the_frames_in_it() {
    let (good, ends) = file_of(&changes_of(60, 600));
    let losses: [fn(&mut [u8]); 3] = [
        |block| block.fill(0),
        |block| block.fill(0xff),
        |block| block.iter_mut().for_each(|byte| *byte = byte.wrapping_mul(167) ^ 0x5a),
    ];
    let blocks = good.len().div_ceil(BLOCK_BYTES);
    assert!(blocks > 8);
    for (kind, loss) in losses.iter().enumerate() {
        for block in 0..blocks {
            let (from, to) = (block * BLOCK_BYTES, good.len().min((block + 1) * BLOCK_BYTES));
            let mut bytes = good.clone();
            loss(&mut bytes[from..to]);
            let starts = std::iter::once(FRAMES_AT).chain(ends.iter().copied());
            let is_whole = |(start, end): (usize, usize)| end <= from || start >= to;
            let whole = starts.zip(ends.iter().copied()).map(is_whole);
            let expected: Vec<usize> =
                whole.enumerate().filter(|(_, is_whole)| *is_whole).map(|(at, _)| at).collect();
            let (journal, loaded) = load(&bytes);
            assert_eq!(kept(&loaded), expected, "{kind}: block {block}");
            let is_end = ends[expected.last().map_or(0, |last| *last)] <= from;
            assert_eq!(is_end, loaded.warnings.is_empty(), "{kind}: block {block}");
            assert!(is_end || journal.disk.bytes(&aside()) == bytes, "{kind}: block {block}");
        }
    }
}

/// One damaged frame in the middle does not cost those behind it.
#[test]
fn frames_behind_a_damaged_one_count() {
    let (good, ends) = file_of(&changes_of(9, 5));
    for (at, end) in ends.iter().enumerate() {
        for back in [1, 20, 50] {
            let mut bytes = good.clone();
            bytes[end - back] ^= 1;
            let (journal, loaded) = load(&bytes);
            assert_eq!(loaded.entries.len(), 8, "{at}, {back}");
            assert!(!kept(&loaded).contains(&at));
            // The end is another matter.
            assert!(at == 8 || journal.disk.bytes(&aside()) == bytes, "{at}, {back}");
        }
    }
}

/// Nothing can be told from what stands in values without the id of the file.
#[test]
fn without_both_heads_nothing_is_taken_and_the_file_is_kept() {
    let (good, _) = file_of(&some_changes());
    let both: [fn(&mut Vec<u8>); 4] = [
        |bytes| bytes[..FRAMES_AT].fill(0),
        |bytes| bytes.clear(),
        |bytes| bytes.truncate(20),
        // Nor does a copy at another place count.
        |bytes| bytes.rotate_left(FRAMES_AT - BLOCK_BYTES),
    ];
    for (kind, damage) in both.iter().enumerate() {
        let mut bytes = good.clone();
        damage(&mut bytes);
        let (mut journal, loaded) = load(&bytes);
        assert!(loaded.entries.is_empty() && loaded.timestamp == 0, "{kind}");
        assert!(loaded.warnings[0].text.contains("state.damaged-1"), "{:?}", loaded.warnings);
        assert_eq!((journal.disk.bytes(&aside()), journal.disk.bytes(&path())), (&*bytes, &*bytes));
        assert!(!journal.is_broken(), "the first version mends it");
        let (entries, _) = write(&mut journal, &some_changes()[..1], 1);
        let terms = Terms::from([(key("a"), ttl_at(1).unwrap())]);
        let expected = Loaded { entries, terms, timestamp: 1, ..Loaded::default() };
        assert_eq!(reopen(journal.disk).1, expected);
    }
}

/// Both heads are whole, and say two things: the first one is believed, and it is told.
#[test]
fn heads_of_two_files_are_damage() {
    let (good, _) = file_of(&some_changes());
    let mut bytes = good.clone();
    let other = frame::encode_file_head(FileId([9; 16]));
    bytes[BLOCK_BYTES..FRAMES_AT].copy_from_slice(&other[BLOCK_BYTES..]);
    let (journal, loaded) = load(&bytes);
    assert_eq!((loaded.timestamp, loaded.warnings.len()), (5, 1));
    assert_eq!(journal.disk.bytes(&aside()), bytes);
}

/// A file holds a snapshot from its first moment on.
#[test]
fn a_file_that_lost_all_its_frames_is_damaged() {
    let (good, ends) = file_of(&some_changes());
    for length in [FRAMES_AT, FRAMES_AT + 10, ends[0] - 1] {
        let (journal, loaded) = load(&good[..length]);
        assert_eq!((loaded.warnings.len(), loaded.notes.len()), (1, 0), "{length}");
        assert_eq!(journal.disk.bytes(&aside()), &good[..length]);
    }
}

/// The last frame in every way in which a power cut leaves it.
fn cut_off_ends(good: &[u8], last: usize) -> Vec<Vec<u8>> {
    let mut ends = Vec::new();
    for at in last + 1..good.len() {
        ends.push(good[..at].to_vec());
        for zeros in [good.len() - at, good.len() - at + 5000] {
            ends.push([&good[..at], &vec![0; zeros]].concat());
        }
    }
    for at in last..good.len() {
        ends.push([&good[..at], &[good[at] ^ 4], &good[at + 1..]].concat());
    }
    ends.push([&good[..last], &[0; 9000]].concat());
    // What stood on the disk before, in blocks that were not written: alone, and around zeros.
    ends.push([&good[..last], b"noise"].concat());
    ends.push([&good[..last + 60], &[0; 100], b"noise"].concat());
    ends.push([&good[..last], b"dsnJ\0\0\0\x7f"].concat());
    ends.push([&good[..last], &good[..last]].concat());
    ends.push([&good[..last], b"dsnJ", &[0; 30], &[7; 6]].concat());
    ends.retain(|bytes| bytes != good);
    ends
}

/// That is no damage: one quiet note, and it is cut off.
#[test]
fn an_end_that_was_cut_off_is_dropped() {
    let (good, ends) = file_of(&some_changes());
    let last = ends[3];
    for bytes in cut_off_ends(&good, last) {
        let (mut journal, loaded) = load(&bytes);
        assert_eq!((loaded.timestamp, loaded.warnings.len()), (4, 0), "{:?}", loaded.warnings);
        let dropped = format!("{} bytes were dropped", bytes.len() - last);
        assert!(loaded.notes[0].text.contains(&dropped), "{:?}", loaded.notes);
        assert_eq!((journal.disk.bytes(&path()), journal.disk.steps), (&good[..last], 1));
        assert!(!journal.disk.files.contains_key(&aside()) && !journal.is_broken());
        let mut entries = loaded.entries;
        apply_change(&mut entries, &change("z", Some("9")));
        let commit =
            Commit { change: &change("z", Some("9")), ttl: None, timestamp: 5, left: false };
        journal.append(&[commit], &entries).unwrap();
        let disk = journal.disk.after_power_cut(0, Rest::Nothing);
        assert_eq!(reopen(disk).1, Loaded { entries, timestamp: 5, ..Loaded::default() });
    }
}

/// Where it can't be cut off, all is written anew; where nothing can be written, that is a fault.
#[test]
fn an_end_that_cant_be_cut_off_is_not_added_to() {
    let (good, ends) = file_of(&some_changes());
    let disk = || FakeDisk::with_file(&path(), &good[..ends[3] + 50]);
    let (journal, loaded) = open(FakeDisk { fail_at: Some(1), ..disk() }, true);
    assert!(loaded.warnings.is_empty() && !journal.is_broken());
    let entries = loaded.entries;
    assert_eq!(reopen(journal.disk).1, Loaded { entries, timestamp: 4, ..Loaded::default() });
    let (mut journal, loaded) = open(FakeDisk { off_at: Some(1), ..disk() }, true);
    assert!(loaded.warnings.len() == 1 && journal.is_broken());
    journal.disk.off_at = None;
    let mut entries = loaded.entries;
    apply_change(&mut entries, &change("z", Some("9")));
    let commit = Commit { change: &change("z", Some("9")), ttl: None, timestamp: 5, left: false };
    journal.append(&[commit], &entries).unwrap();
    assert_eq!(reopen(journal.disk).1, Loaded { entries, timestamp: 5, ..Loaded::default() });
}

/// With `--sync 5s` the disk may write later changes before earlier ones. What it lost in the
/// middle then was promised to nobody: it is no damage behind the last sync, and damage before it.
#[test]
fn what_was_not_synced_may_be_lost_in_the_middle() {
    let (mut journal, _) = open(FakeDisk::default(), false);
    let mut entries = Entries::new();
    let mut ends = Vec::new();
    for (change, timestamp) in changes_of(60, 600).iter().zip(1..) {
        apply_change(&mut entries, change);
        journal.append(&[Commit { change, ttl: None, timestamp, left: false }], &entries).unwrap();
        ends.push(journal.length);
        if timestamp == 30 {
            journal.sync().unwrap();
        }
    }
    let good = journal.disk.bytes(&path()).to_vec();
    let lost = |from: usize, to: usize| {
        let mut bytes = good.clone();
        bytes[from..to].fill(0);
        let (journal, loaded) = load(&bytes);
        (journal, loaded, bytes)
    };
    for from in (ends[29]..good.len() - 1).step_by(97) {
        let (journal, loaded, _) = lost(from, (from + BLOCK_BYTES).min(good.len()));
        let expected: Vec<usize> = (0..60)
            .filter(|at| ends[*at] <= from || *at > 0 && ends[at - 1] >= from + BLOCK_BYTES)
            .collect();
        assert_eq!(kept(&loaded), expected, "{from}");
        assert_eq!((loaded.warnings.len(), loaded.notes.len()), (0, 1), "{from}: {loaded:?}");
        assert!(!journal.disk.files.contains_key(&aside()), "{from}");
        let (_, again) = reopen(journal.disk);
        assert!(again.notes.is_empty() && again.entries == loaded.entries, "{from}");
    }
    let (journal, loaded, bytes) = lost(ends[28], ends[28] + 1);
    assert_eq!((loaded.warnings.len(), loaded.entries.len()), (1, 59));
    assert_eq!(journal.disk.bytes(&aside()), bytes);
}

/// Whatever is bad before what was on disk may have cost something acknowledged.
#[test]
fn an_end_that_was_cut_off_hides_no_damage() {
    let (good, ends) = file_of(&some_changes());
    let last = ends[3];
    let cut = &good[..good.len() - 1];
    let rows: [(&str, Vec<u8>); 3] = [
        ("a damaged frame before it", {
            let mut bytes = cut.to_vec();
            bytes[last - 1] ^= 1;
            bytes
        }),
        ("a frame that is zeros before it", {
            let mut bytes = cut.to_vec();
            bytes[ends[2]..last].fill(0);
            bytes
        }),
        ("a damaged head of the file", {
            let mut bytes = cut.to_vec();
            bytes[14] ^= 1;
            bytes
        }),
    ];
    for (what, bytes) in rows {
        let (journal, loaded) = load(&bytes);
        assert_eq!((loaded.warnings.len(), loaded.notes.len()), (1, 0), "{what}");
        assert_eq!(journal.disk.bytes(&aside()), bytes, "{what}");
    }
}

/// Nor is anything cut off that was not looked at.
#[test]
fn a_file_that_is_too_long_is_damaged() {
    let (mut bytes, _) = file_of(&some_changes());
    bytes.resize(FILE_BYTES_MAX, 0);
    let (journal, loaded) = load(&bytes);
    assert_eq!((loaded.timestamp, loaded.warnings.len(), loaded.notes.len()), (5, 1, 0));
    assert!(journal.disk.bytes(&aside()) == bytes);
}
