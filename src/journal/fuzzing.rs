//! For the fuzzer: what no byte of a file may do.

use super::frame::{self, FRAMES_AT, FileId};
use super::replay::{Condition, Replay, replay};
use crate::protocol::TIMESTAMP_MAX;
use crate::protocol::entries::{Entries, Key, Value, change_of, check_limits};
use crate::protocol::lease::Terms;

const FILE: FileId = FileId([7; 16]);
/// What stands between two payloads in the input.
const BETWEEN: &[u8] = b"\xffnext";

/// Takes any bytes: for a whole file; for payloads of frames that are whole, one after the other;
/// and for a value, in a frame that is damaged.
pub fn fuzz_replay(bytes: &[u8]) {
    check(bytes);
    let mut file = frame::encode_file(FILE, (&Entries::new(), &Terms::new()), 1, false);
    let mut rest = bytes;
    loop {
        let end = rest.windows(BETWEEN.len()).position(|window| window == BETWEEN);
        frame::encode_frame(
            FILE,
            (0, 0),
            rest.get(..end.unwrap_or(rest.len())).unwrap_or_default(),
            &mut file,
        );
        let Some(end) = end else { break };
        rest = rest.get(end + BETWEEN.len()..).unwrap_or_default();
    }
    check(&file);
    as_value(bytes);
}

/// What is taken keeps the rules, and is the same when it was written again.
fn check(bytes: &[u8]) {
    let Ok(Replay { loaded, condition, .. }) = replay(bytes) else { return };
    assert!(check_limits(&loaded.entries).is_ok() && loaded.timestamp <= TIMESTAMP_MAX);
    if let Condition::Torn { at } = condition {
        // What is cut off is none of what was taken.
        let again = replay(bytes.get(..at).unwrap_or_default());
        assert!(
            again.is_ok_and(|again| {
                again.condition == Condition::Whole && again.loaded == loaded
            })
        );
    }
    if loaded.timestamp == 0 {
        return assert!(condition == Condition::Damaged && loaded.entries.is_empty());
    }
    assert!(loaded.terms.keys().all(|key| loaded.entries.get(key.as_str()).is_some()));
    let state = (&loaded.entries, &loaded.terms);
    let written = frame::encode_file(FILE, state, loaded.timestamp, loaded.left);
    let again = replay(&written);
    assert!(again.is_ok_and(|again| again.condition == Condition::Whole && again.loaded == loaded));
}

/// The id of a file that nobody knows who makes a value for it: the inputs to begin with have
/// frames of the other one, and one of them may be shifted to its very place.
const UNKNOWN_FILE: FileId = FileId([0xa5; 16]);

/// Nothing in a value becomes state, whichever byte of the head around it is lost.
fn as_value(bytes: &[u8]) {
    let (Ok(key), Ok(value)) = (Key::new("k"), Value::new(bytes)) else { return };
    let change = change_of(vec![(key, Some(value))]);
    let mut file = frame::encode_file(UNKNOWN_FILE, (&Entries::new(), &Terms::new()), 1, false);
    let start = file.len();
    let mut added = Vec::new();
    let commit = super::Commit { change: &change, ttl: None, timestamp: 2, left: false };
    frame::encode_change(UNKNOWN_FILE, (start, start), &commit, &mut added);
    file.extend_from_slice(&added);
    debug_assert!(start > FRAMES_AT);
    let lost = bytes.first().map_or(0, |byte| usize::from(*byte) % 48);
    if let Some(byte) = file.get_mut(start + lost) {
        *byte ^= 1;
    }
    assert!(replay(&file).is_ok_and(|replay| {
        replay.loaded.timestamp == 1
            && replay.loaded.entries.is_empty()
            && replay.condition != Condition::Whole
    }));
}
