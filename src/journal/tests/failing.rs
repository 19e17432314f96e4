//! Steps that fail, and the power that goes.

use std::io::ErrorKind;

use super::*;

/// Each write, sync and rename fails once, torn at every byte; later ones work again. Nothing
/// acknowledged is lost, nothing refused appears, and the journal goes on.
#[test]
fn a_disk_that_fails_once_costs_nothing_acknowledged() {
    for fail_at in 1..30 {
        for torn_to in 0..60 {
            let disk = FakeDisk { fail_at: Some(fail_at), torn_to, ..FakeDisk::default() };
            let (mut journal, _) = open(disk, true);
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
    for first in 1..14 {
        for second in first + 1..28 {
            for torn_to in [0, 1, 30, 1000] {
                let (fail_at, fail_too_at) = (Some(first), Some(second));
                let disk = FakeDisk { fail_at, fail_too_at, torn_to, ..FakeDisk::default() };
                let (mut journal, _) = open(disk, true);
                let (mut entries, _) = write(&mut journal, &some_changes(), 10);
                let last = change("last", Some("1"));
                apply_change(&mut entries, &last);
                // At most the two faults stand before it.
                let commit = || Commit { change: &last, ttl: None, timestamp: 50, left: false };
                let kept = (0..3).any(|_| journal.append(&[commit()], &entries).is_ok());
                assert!(kept, "steps {first} and {second} torn to {torn_to}");
                let (_, loaded) = reopen(journal.disk);
                assert_eq!(loaded.entries, entries, "steps {first} and {second} torn to {torn_to}");
                assert!(loaded.warnings.is_empty() && loaded.notes.is_empty());
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
            let (mut journal, _) = open(disk, true);
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
        let (mut journal, _) = open(disk, true);
        let mut entries = Entries::new();
        for (change, timestamp) in big_changes().into_iter().zip(1..) {
            apply_change(&mut entries, &change);
            let commit = Commit { change: &change, ttl: None, timestamp, left: false };
            if let Err(fault) = journal.append(&[commit], &entries) {
                let is_removed = matches!(
                    &fault.fault, Fault::Disk(why) if why.kind() == ErrorKind::NotFound
                );
                assert!(!is_removed, "step {fail_at}: {fault}");
            }
        }
    }
}

/// The changes were durable before, so one that made the file too long is acknowledged.
#[test]
fn a_rewrite_that_fails_refuses_nothing() {
    let changes = big_changes();
    let (mut journal, _) = open(FakeDisk::default(), true);
    write(&mut journal, &changes[..6], 1);
    let steps = journal.disk.steps;
    let (mut journal, loaded) = reopen(journal.disk);
    write(&mut journal, &changes[6..7], 7);
    let (append, rewrite) = (2, 4);
    assert_eq!(journal.disk.steps, steps + append + rewrite, "it was rewritten");
    for failing in 1..=rewrite {
        let (mut journal, _) = open(FakeDisk::default(), true);
        write(&mut journal, &changes[..6], 1);
        journal.disk.fail_at = Some(steps + append + failing);
        let mut after = loaded.entries.clone();
        apply_change(&mut after, &changes[6]);
        let commit = Commit { change: &changes[6], ttl: None, timestamp: 7, left: false };
        journal.append(&[commit], &after).unwrap();
        assert_eq!(reopen(journal.disk.clone()).1.entries, after, "step {failing}");
        // What was appended is in the old file, should that come back.
        let (_, found) = reopen(journal.disk.clone().after_power_cut(0, Rest::Nothing));
        assert_eq!(found.entries, after, "step {failing}");
        // It goes on in the old file, and does not try again at once: there may be no room. Where
        // the new one stands already, all is written once more.
        let steps = journal.disk.steps;
        let (mut last, change) = (after, change("last", Some("1")));
        apply_change(&mut last, &change);
        journal
            .append(&[Commit { change: &change, ttl: None, timestamp: 8, left: false }], &last)
            .unwrap();
        let expected = if failing < rewrite { append } else { rewrite };
        assert_eq!(journal.disk.steps, steps + expected, "step {failing}");
        assert_eq!(reopen(journal.disk).1.entries, last);
    }
}

/// But not where it is found nowhere then: the disk was unmounted meanwhile.
#[test]
fn a_change_whose_file_is_gone_after_a_rewrite_is_refused() {
    let changes = big_changes();
    let (append, rewrite) = (2, 4);
    for at in append + 1..=append + rewrite {
        let (mut journal, _) = open(FakeDisk::default(), true);
        let (mut entries, _) = write(&mut journal, &changes[..6], 1);
        journal.disk.unmount_at = Some(journal.disk.steps + at);
        apply_change(&mut entries, &changes[6]);
        let commit = Commit { change: &changes[6], ttl: None, timestamp: 7, left: false };
        assert!(journal.append(&[commit], &entries).is_err(), "{at}");
        assert!(journal.disk.other.is_some() && journal.is_broken(), "{at}");
    }
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
    let commit = Commit { change: &large, ttl: None, timestamp: 20, left: false };
    assert!(journal.append(&[commit], &entries).is_err());
    let (steps, small) = (journal.disk.steps, change("s", Some("1")));
    apply_change(&mut entries, &small);
    let commit = Commit { change: &small, ttl: None, timestamp: 21, left: false };
    journal.append(&[commit], &entries).unwrap();
    assert_eq!(journal.disk.steps, steps + 2, "a write and a sync");
    assert_eq!(reopen(journal.disk).1.entries, entries);
}

/// The power goes at each step, torn at every byte: what was acknowledged before is there.
#[test]
fn a_power_cut_at_any_step_loses_nothing_acknowledged() {
    for off_at in 1..20 {
        for torn_to in 0..90 {
            for rest in [Rest::Nothing, Rest::Zeros] {
                let disk = FakeDisk { off_at: Some(off_at), torn_to: 90, ..FakeDisk::default() };
                let (mut journal, _) = open(disk, true);
                let written = write_each(&mut journal, &some_changes(), 10);
                let disk = journal.disk.after_power_cut(torn_to, rest);
                written.check(disk, &format!("off at {off_at}, torn to {torn_to}"));
            }
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
            let (mut journal, _) = open(disk, syncs);
            let mut written = write_each(&mut journal, changes, 10);
            if !syncs && (journal.is_broken() || journal.sync().is_err()) {
                // So the next one has to write all of it.
                let (change, timestamp) = (change("last", Some("1")), 50);
                apply_change(&mut written.acknowledged, &change);
                apply_terms(&mut written.terms, &change, None);
                let commit = Commit { change: &change, ttl: None, timestamp, left: false };
                journal.append(&[commit], &written.acknowledged).unwrap();
                journal.sync().unwrap();
            }
            let disk = journal.disk.after_power_cut(0, Rest::Nothing);
            written.check(disk, &format!("step {fail_at}, {} changes", changes.len()));
        }
    }
}

/// Between two syncs a power cut leaves some of the first changes, and never damage.
#[test]
fn a_power_cut_between_two_syncs_leaves_the_first_changes() {
    let changes = some_changes();
    for synced in 1..=changes.len() {
        let (mut journal, _) = open(FakeDisk::default(), false);
        let mut states = vec![Entries::new()];
        for (at, change) in changes.iter().enumerate() {
            let mut after = states[at].clone();
            apply_change(&mut after, change);
            let commit = Commit { change, ttl: None, timestamp: at as u64 + 1, left: false };
            journal.append(&[commit], &after).unwrap();
            states.push(after);
            if at + 1 == synced {
                journal.sync().unwrap();
            }
        }
        let mut most = synced;
        for kept in 0..=400 {
            for rest in [Rest::Nothing, Rest::Zeros] {
                let (_, loaded) = reopen(journal.disk.clone().after_power_cut(kept, rest));
                let there = usize::try_from(loaded.timestamp).unwrap();
                assert!(there >= most && loaded.entries == states[there], "{synced} {kept}");
                assert!(loaded.warnings.is_empty(), "{synced} {kept}: {:?}", loaded.warnings);
                most = there;
            }
        }
        assert_eq!(most, changes.len());
    }
}

/// A process that is killed leaves what it did not sync. The next one shows that to others, and
/// acknowledges what is there already without a write: so it has to be on disk when it starts.
#[test]
fn what_a_killed_process_did_not_sync_is_synced_at_the_next_start() {
    for syncs in [true, false] {
        let (mut journal, _) = open(FakeDisk::default(), false);
        let (entries, timestamp) = write(&mut journal, &some_changes(), 10);
        let (journal, loaded) = open(journal.disk.well(), syncs);
        assert_eq!((&loaded.entries, loaded.timestamp), (&entries, timestamp));
        let (_, found) = reopen(journal.disk.after_power_cut(0, Rest::Nothing));
        assert_eq!((found.entries, found.timestamp), (entries, timestamp), "syncs: {syncs}");
    }
}

/// Where that fails, all is written anew with the next change, and the node says so.
#[test]
fn a_sync_that_fails_at_the_start_is_made_good_by_the_next_change() {
    let (mut journal, _) = open(FakeDisk::default(), false);
    let (mut entries, _) = write(&mut journal, &some_changes(), 10);
    let mut disk = journal.disk.well();
    disk.fail_at = Some(disk.steps + 1);
    let (mut journal, loaded) = open(disk, true);
    assert_eq!(loaded.entries, entries);
    assert!(journal.is_broken());
    assert_eq!(loaded.warnings.len(), 1, "{:?}", loaded.warnings);
    let last = change("last", Some("1"));
    apply_change(&mut entries, &last);
    journal
        .append(&[Commit { change: &last, ttl: None, timestamp: 50, left: false }], &entries)
        .unwrap();
    let (_, found) = reopen(journal.disk.after_power_cut(0, Rest::Nothing));
    assert_eq!(found.entries, entries);
}
