//! From the bytes of a file to the state: in time linear in the file, whatever stands in it.

use std::collections::BTreeMap;

use super::Loaded;
use super::frame::{self, FORMAT, FRAMES_AT, FileId, Frame, FrameKind};
use crate::protocol::entries::{Key, Value, check_totals, entry_bytes};
use crate::protocol::lease::Terms;

/// What a file says.
#[derive(Debug)]
pub(super) struct Replay {
    pub(super) loaded: Loaded,
    /// Which file it is; nothing where both copies of its head are lost.
    pub(super) file: Option<FileId>,
    pub(super) condition: Condition,
}

/// In what condition a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Condition {
    /// As it was written.
    Whole,
    /// The power was cut before its end was on disk. All before this place is whole, and nothing
    /// behind it.
    Torn {
        /// Where what was cut off begins.
        at: usize,
    },
    /// The same, and the disk had written some of the end before what stands in front of it.
    Holed,
    /// Something else is wrong with it.
    Damaged,
}

/// A file of a format that this program does not know.
#[derive(Debug)]
pub(super) struct OtherFormat(pub(super) u32);

/// What the whole frames of a file say, and in what condition it is.
pub(super) fn replay(bytes: &[u8]) -> Result<Replay, OtherFormat> {
    let (head, both) = frame::decode_file_head(bytes);
    let Some(head) = head else {
        // Whatever looks like a frame may be a part of a value.
        let (loaded, condition) = (Loaded::default(), Condition::Damaged);
        return Ok(Replay { loaded, file: None, condition });
    };
    if head.format != FORMAT {
        return Err(OtherFormat(head.format));
    }
    let mut reader =
        Reader { file: head.file, bytes, damaged: !both, synced: 0, state: State::default() };
    let lost = reader.read_all();
    // A file is made with a snapshot in it, in one step: that is never cut off.
    reader.damaged |= reader.state.timestamp == 0;
    // Nobody was told that what stands behind that was on disk.
    reader.damaged |= lost.is_some_and(|lost| lost.at < reader.synced);
    let condition = match lost {
        _ if reader.damaged => Condition::Damaged,
        Some(Lost { at, at_end: true }) => Condition::Torn { at },
        Some(_) => Condition::Holed,
        None => Condition::Whole,
    };
    Ok(Replay { loaded: reader.state.into_loaded(), file: Some(head.file), condition })
}

/// Bytes that are no whole frame.
#[derive(Debug, Clone, Copy)]
struct Lost {
    /// Where the first of them are.
    at: usize,
    /// Whether no whole frame stands behind them.
    at_end: bool,
}

/// Goes through a file from its first frame to its end.
struct Reader<'a> {
    file: FileId,
    bytes: &'a [u8],
    damaged: bool,
    /// How much of the file was on disk for certain, by what its frames say.
    synced: usize,
    state: State,
}

impl Reader<'_> {
    /// Takes all whole frames; gives what is none, if there is any.
    ///
    /// Each byte is looked at once as a part of a payload or in search of a magic: behind a whole
    /// head it goes on at the end of the frame, and nothing inside is taken for a frame.
    fn read_all(&mut self) -> Option<Lost> {
        let mut at = FRAMES_AT;
        let mut lost: Option<Lost> = None;
        while at < self.bytes.len() {
            let Some(head) = frame::head_at(self.file, self.bytes, at) else {
                lost.get_or_insert(Lost { at, at_end: true });
                at = frame::next_start(self.bytes, at);
                continue;
            };
            self.synced = self.synced.max(head.synced);
            let end = head.end();
            match head.payload(self.bytes) {
                Some(payload) => {
                    lost = lost.map(|lost| Lost { at_end: false, ..lost });
                    self.take(payload);
                }
                None => _ = lost.get_or_insert(Lost { at, at_end: true }),
            }
            at = end;
        }
        lost
    }

    fn take(&mut self, payload: &[u8]) {
        let taken = frame::decode(payload).is_some_and(|frame| self.state.take(frame));
        self.damaged |= !taken;
    }
}

/// What the frames read so far say.
#[derive(Default)]
struct State {
    entries: BTreeMap<Key, Value>,
    /// Which of them expire.
    terms: Terms,
    /// What they count ([`entry_bytes`]).
    bytes: usize,
    timestamp: u64,
    left: bool,
}

impl State {
    /// Takes all of a frame, or nothing where it breaks a rule; gives whether it did.
    fn take(&mut self, frame: Frame) -> bool {
        let (keys, bytes) = self.totals_after(&frame);
        // They rise from 1 on.
        if frame.timestamp <= self.timestamp || check_totals(keys, bytes).is_err() {
            return false;
        }
        if frame.kind == FrameKind::Snapshot {
            self.entries.clear();
            self.terms.clear();
        }
        for (key, value) in frame.entries {
            match value.as_ref().and_then(|(_, ttl)| *ttl) {
                Some(ttl) => self.terms.insert(key.clone(), ttl),
                None => self.terms.remove(&key),
            };
            match value {
                Some((value, _)) => self.entries.insert(key, value),
                None => self.entries.remove(&key),
            };
        }
        (self.bytes, self.timestamp, self.left) = (bytes, frame.timestamp, frame.left);
        true
    }

    /// How many keys the state would have, and what they would count, bytes.
    fn totals_after(&self, frame: &Frame) -> (usize, usize) {
        let replaces_all = frame.kind == FrameKind::Snapshot;
        let (mut keys, mut bytes) =
            if replaces_all { (0, 0) } else { (self.entries.len(), self.bytes) };
        for (key, value) in &frame.entries {
            if !replaces_all && let Some(old) = self.entries.get(key) {
                keys -= 1;
                bytes -= entry_bytes(key, Some(old));
            }
            if let Some((value, _)) = value {
                keys += 1;
                bytes += entry_bytes(key, Some(value));
            }
        }
        (keys, bytes)
    }

    fn into_loaded(self) -> Loaded {
        let Self { entries, terms, timestamp, left, .. } = self;
        let entries = entries.into_iter().collect();
        Loaded { entries, terms, timestamp, left, ..Loaded::default() }
    }
}
