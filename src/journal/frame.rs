//! Frames to bytes and back.

use super::Commit;
use crate::protocol::STATE_BYTES_MAX;
use crate::protocol::crypto::Sha256;
use crate::protocol::state::{Change, Entries, Key, Value};

const MAGIC: &[u8; 4] = b"dsnJ";
const CHECKSUM_BYTES: usize = 16;
const HEAD_BYTES: usize = 4 + 4 + CHECKSUM_BYTES;
/// Largest payload, bytes: a change can remove a whole state and set another one.
const PAYLOAD_BYTES_MAX: usize = 4 * STATE_BYTES_MAX;

/// What a frame says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FrameKind {
    /// All entries.
    Snapshot = 1,
    /// What changed.
    Change = 2,
}

/// A whole frame.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) kind: FrameKind,
    pub(super) timestamp: u64,
    pub(super) left: bool,
    pub(super) change: Change,
}

pub(super) fn encode_change(commit: &Commit<'_>, bytes: &mut Vec<u8>) {
    let entries = commit.change.iter().map(|(key, value)| (key, value.as_ref()));
    encode(FrameKind::Change, commit.timestamp, commit.left, entries, bytes);
}

pub(super) fn encode_snapshot(entries: &Entries, timestamp: u64, left: bool, bytes: &mut Vec<u8>) {
    let entries = entries.iter().map(|(key, value)| (key, Some(value)));
    encode(FrameKind::Snapshot, timestamp, left, entries, bytes);
}

fn encode<'a>(
    kind: FrameKind,
    timestamp: u64,
    left: bool,
    entries: impl ExactSizeIterator<Item = (&'a Key, Option<&'a Value>)>,
    bytes: &mut Vec<u8>,
) {
    let mut payload = vec![kind as u8];
    payload.extend_from_slice(&timestamp.to_le_bytes());
    payload.push(u8::from(left));
    payload.extend_from_slice(&small(entries.len()).to_le_bytes());
    for (key, value) in entries {
        let key = key.as_str().as_bytes();
        // A key has at most 256 bytes.
        payload.extend_from_slice(&u16::try_from(key.len()).unwrap_or(u16::MAX).to_le_bytes());
        payload.extend_from_slice(key);
        payload.push(u8::from(value.is_some()));
        if let Some(value) = value {
            payload.extend_from_slice(&small(value.as_bytes().len()).to_le_bytes());
            payload.extend_from_slice(value.as_bytes());
        }
    }
    let length = small(payload.len()).to_le_bytes();
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&length);
    bytes.extend_from_slice(&checksum(&length, &payload));
    bytes.extend_from_slice(&payload);
}

/// Lengths here are bounded by the limits of a state, far below 4 GiB.
fn small(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

fn checksum(length: &[u8], payload: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let mut checksum = [0; CHECKSUM_BYTES];
    let hash = Sha256::new(length).chain(payload).finish();
    checksum.copy_from_slice(hash.split_at(CHECKSUM_BYTES).0);
    checksum
}

/// The frame at the start of the bytes, if a whole one is there, and what follows it.
pub(super) fn decode(bytes: &[u8]) -> Option<(Frame, &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<HEAD_BYTES>()?;
    let (magic, head) = head.split_first_chunk::<4>()?;
    let (length, sum) = head.split_first_chunk::<4>()?;
    let payload_bytes = usize::try_from(u32::from_le_bytes(*length)).ok()?;
    if magic != MAGIC || payload_bytes > PAYLOAD_BYTES_MAX {
        return None;
    }
    let (payload, rest) = rest.split_at_checked(payload_bytes)?;
    if checksum(length, payload) != sum {
        return None;
    }
    Some((decode_payload(payload)?, rest))
}

fn decode_payload(payload: &[u8]) -> Option<Frame> {
    let (kind, rest) = payload.split_first()?;
    let (timestamp, rest) = rest.split_first_chunk::<8>()?;
    let (left, rest) = rest.split_first()?;
    let (count, mut rest) = rest.split_first_chunk::<4>()?;
    let mut change = Change::new();
    for _ in 0..u32::from_le_bytes(*count) {
        let (length, tail) = rest.split_first_chunk::<2>()?;
        let (key, tail) = tail.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
        let key = Key::new(str::from_utf8(key).ok()?).ok()?;
        let (present, tail) = tail.split_first()?;
        let (value, tail) = if *present == 0 {
            (None, tail)
        } else {
            let (length, tail) = tail.split_first_chunk::<4>()?;
            let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
            let (value, tail) = tail.split_at_checked(length)?;
            (Some(Value::new(value).ok()?), tail)
        };
        change.insert(key, value);
        rest = tail;
    }
    let kind = match kind {
        1 => FrameKind::Snapshot,
        2 => FrameKind::Change,
        _ => return None,
    };
    let timestamp = u64::from_le_bytes(*timestamp);
    rest.is_empty().then_some(Frame { kind, timestamp, left: *left != 0, change })
}

/// The bytes from the next place on where a frame may begin, behind the first byte.
pub(super) fn next_start(bytes: &[u8]) -> &[u8] {
    let behind = bytes.get(1..).unwrap_or_default();
    let at = behind.windows(MAGIC.len()).position(|window| window == MAGIC);
    at.and_then(|at| behind.get(at..)).unwrap_or_default()
}
