//! From the bytes of a file to the state: in time linear in the file, whatever stands in it.

use std::collections::BTreeMap;

use super::Loaded;
use super::frame::{self, FORMAT, FRAMES_AT, FileId, Frame, FrameHead, FrameKind};
use crate::protocol::entries::{Key, Value, check_totals, entry_bytes};

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
    /// The last write was cut off: a power cut leaves that. All before this place is whole.
    Torn {
        /// Where what was cut off begins.
        at: usize,
    },
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
    let mut reader = Reader { file: head.file, bytes, damaged: !both, state: State::default() };
    let torn_at = reader.read_all();
    // A file is made with a snapshot in it, in one step: that is never cut off.
    reader.damaged |= reader.state.timestamp == 0;
    let condition = match torn_at {
        _ if reader.damaged => Condition::Damaged,
        Some(at) => Condition::Torn { at },
        None => Condition::Whole,
    };
    Ok(Replay { loaded: reader.state.into_loaded(), file: Some(head.file), condition })
}

/// Goes through a file from its first frame to its end.
struct Reader<'a> {
    file: FileId,
    bytes: &'a [u8],
    damaged: bool,
    state: State,
}

impl Reader<'_> {
    /// Takes all whole frames; gives the place where the last write was cut off, if it was.
    ///
    /// Each byte is looked at once as a part of a payload or in search of a magic: behind a whole
    /// head it goes on at the end of the frame, and nothing inside is taken for a frame.
    fn read_all(&mut self) -> Option<usize> {
        let mut at = FRAMES_AT;
        // Where the bytes begin that are no frame and that nothing followed yet.
        let mut bad: Option<(usize, Option<FrameHead>)> = None;
        while at < self.bytes.len() {
            let Some(head) = frame::head_at(self.file, self.bytes, at) else {
                bad.get_or_insert((at, None));
                at = frame::next_start(self.bytes, at);
                continue;
            };
            // What was bad stands in the middle.
            self.damaged |= bad.take().is_some();
            let end = head.end();
            match head.payload(self.bytes) {
                Some(payload) => self.take(payload),
                None => bad = Some((at, Some(head))),
            }
            at = end;
        }
        let (at, head) = bad?;
        let torn = self.is_cut_off(at, head.as_ref());
        self.damaged |= !torn;
        torn.then_some(at)
    }

    fn take(&mut self, payload: &[u8]) {
        let taken = frame::decode(payload).is_some_and(|frame| self.state.take(frame));
        self.damaged |= !taken;
    }

    /// Whether the bytes from here on, in which no other frame begins, are a frame of which the end
    /// is missing. Blocks that were not written read as zeros.
    fn is_cut_off(&self, at: usize, head: Option<&FrameHead>) -> bool {
        let rest = self.bytes.get(head.map_or(at, FrameHead::end)..).unwrap_or_default();
        let zeros = rest.iter().rev().take_while(|byte| **byte == 0).count();
        let written = rest.get(..rest.len() - zeros).unwrap_or_default();
        match head {
            Some(_) => written.is_empty(),
            None => frame::begins_a_head(written),
        }
    }
}

/// What the frames read so far say.
#[derive(Default)]
struct State {
    entries: BTreeMap<Key, Value>,
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
        }
        for (key, value) in frame.entries {
            match value {
                Some(value) => self.entries.insert(key, value),
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
            if let Some(value) = value {
                keys += 1;
                bytes += entry_bytes(key, Some(value));
            }
        }
        (keys, bytes)
    }

    fn into_loaded(self) -> Loaded {
        let Self { entries, timestamp, left, .. } = self;
        let entries = entries.into_iter().collect();
        Loaded { entries, timestamp, left, ..Loaded::default() }
    }
}
