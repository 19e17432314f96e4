//! The head of the file and its frames to bytes and back. The format stands in `mod.rs`.

use super::Commit;
use crate::durable::BLOCK_BYTES;
use crate::protocol::entries::{Entries, Key, Value};
use crate::protocol::hash::Sha256;
use crate::protocol::lease::{Terms, Ttl};
use crate::protocol::{ENTRY_OVERHEAD_BYTES, STATE_BYTES_MAX, TIMESTAMP_MAX};

/// Stands for one file: 16 random bytes. A file that is rewritten is another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileId(pub [u8; 16]);

const FILE_MAGIC: &[u8; 12] = b"dsn journal\n";
/// The one format that this program knows.
pub(super) const FORMAT: u32 = 1;
const FILE_HEAD_BYTES: usize = 12 + 4 + 16 + SUM_BYTES;
/// Where the second copy of the head is: in a block of its own.
const COPY_AT: usize = BLOCK_BYTES;
/// Where the frames begin.
pub(super) const FRAMES_AT: usize = COPY_AT + FILE_HEAD_BYTES;

const FRAME_MAGIC: &[u8; 4] = b"dsnJ";
const FRAME_HEAD_BYTES: usize = 4 + 4 + 8 + SUM_BYTES + SUM_BYTES;
/// Kind, timestamp, left and count.
const PAYLOAD_FIXED_BYTES: usize = 1 + 8 + 1 + 4;
/// What a key with a value takes in a payload beside the two, bytes: two lengths and a flag.
const ENTRY_FIXED_BYTES: usize = 2 + 1 + 4;
/// What one that expires takes more.
const TTL_BYTES: usize = 4;
/// Largest payload, bytes: a change can remove a whole state and set another one.
const PAYLOAD_BYTES_MAX: usize = 4 * STATE_BYTES_MAX;
/// A frame of at most this many bytes is read again.
pub(super) const FRAME_BYTES_MAX: usize = FRAME_HEAD_BYTES + PAYLOAD_BYTES_MAX;

const SUM_BYTES: usize = 16;
type Sum = [u8; SUM_BYTES];

/// What a checksum is of, so that none can stand for another.
#[derive(Clone, Copy)]
enum Covers {
    FileHead = 1,
    FrameHead = 2,
    Payload = 3,
}

/// The first 16 bytes of SHA-256 over what it is of, the file, the place in it, and the parts.
fn sum(covers: Covers, file: &FileId, at: usize, parts: [&[u8]; 2]) -> Sum {
    #[cfg(test)]
    super::tests::count_hashed(1 + 16 + 8 + parts[0].len() + parts[1].len());
    let hash = Sha256::new(&[covers as u8]).chain(&file.0).chain(&(at as u64).to_le_bytes());
    let hash = parts.iter().fold(hash, |hash, part| hash.chain(part)).finish();
    let mut sum = [0; SUM_BYTES];
    sum.copy_from_slice(hash.split_at(SUM_BYTES).0);
    sum
}

/// The head of a file and its copy: all that stands before the frames.
pub(super) fn encode_file_head(file: FileId) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(FRAMES_AT);
    for at in [0, COPY_AT] {
        bytes.resize(at, 0);
        bytes.extend_from_slice(FILE_MAGIC);
        bytes.extend_from_slice(&FORMAT.to_le_bytes());
        bytes.extend_from_slice(&file.0);
        bytes.extend_from_slice(&file_head_sum(file, at, FORMAT));
    }
    bytes
}

fn file_head_sum(file: FileId, at: usize, format: u32) -> Sum {
    sum(Covers::FileHead, &file, at, [FILE_MAGIC, &format.to_le_bytes()])
}

/// What the head of a file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileHead {
    pub(super) format: u32,
    pub(super) file: FileId,
}

/// What the head of a file says, if one of its copies is whole; and whether both are.
pub(super) fn decode_file_head(bytes: &[u8]) -> (Option<FileHead>, bool) {
    let [first, second] = [0, COPY_AT].map(|at| file_head_at(bytes, at));
    (first.or(second), first.is_some() && first == second)
}

fn file_head_at(bytes: &[u8], at: usize) -> Option<FileHead> {
    let (magic, rest) = bytes.get(at..)?.split_first_chunk::<12>()?;
    let (format, rest) = rest.split_first_chunk::<4>()?;
    let (file, rest) = rest.split_first_chunk::<16>()?;
    let (sum, _) = rest.split_first_chunk::<SUM_BYTES>()?;
    let (format, file) = (u32::from_le_bytes(*format), FileId(*file));
    let is_whole = magic == FILE_MAGIC && *sum == file_head_sum(file, at, format);
    is_whole.then_some(FileHead { format, file })
}

/// What a frame says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FrameKind {
    /// All entries.
    Snapshot = 1,
    /// What changed.
    Change = 2,
}

/// What becomes of a key.
const REMOVED: u8 = 0;
const STANDS: u8 = 1;
const EXPIRES: u8 = 2;

/// A whole frame.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) kind: FrameKind,
    pub(super) timestamp: u64,
    pub(super) left: bool,
    /// In the order of their keys, each once.
    pub(super) entries: Vec<FrameEntry>,
}

/// A key and its value, with the time that it stands where it expires; nothing where it is removed.
pub(super) type FrameEntry = (Key, Option<(Value, Option<Ttl>)>);

/// Adds the frame of a change to the bytes of a file from `start` on, of which so many are on disk.
pub(super) fn encode_change(
    file: FileId,
    (start, synced): (usize, usize),
    commit: &Commit<'_>,
    bytes: &mut Vec<u8>,
) {
    let ttl = commit.ttl;
    let entries = commit.change.iter();
    let entries = entries.map(|(key, value)| (key, value.as_ref().map(|value| (value, ttl))));
    let payload = encode(FrameKind::Change, commit.timestamp, commit.left, entries);
    encode_frame(file, (start, synced), &payload, bytes);
}

/// All bytes of a file that holds this state.
pub(super) fn encode_file(
    file: FileId,
    (entries, terms): (&Entries, &Terms),
    timestamp: u64,
    left: bool,
) -> Vec<u8> {
    let mut bytes = encode_file_head(file);
    let entries = entries.iter();
    let entries = entries.map(|(key, value)| (key, Some((value, terms.get(key).copied()))));
    let payload = encode(FrameKind::Snapshot, timestamp, left, entries);
    encode_frame(file, (0, 0), &payload, &mut bytes);
    bytes
}

/// How long the file is that holds this state, of which so many keys expire, and nothing else,
/// bytes.
pub(super) fn file_bytes(entries: &Entries, terms: usize) -> usize {
    // Both count the bytes of keys and values, and so many more for each.
    let all = entries.bytes() - entries.len() * (ENTRY_OVERHEAD_BYTES - ENTRY_FIXED_BYTES);
    FRAMES_AT + FRAME_HEAD_BYTES + PAYLOAD_FIXED_BYTES + all + terms * TTL_BYTES
}

/// How long the frame of a change is at most, bytes.
pub(super) fn frame_bytes_max(commit: &Commit<'_>) -> usize {
    let bytes = |value: &Option<Value>| value.as_ref().map_or(0, |value| value.as_bytes().len());
    let entries = commit.change.iter();
    let fixed = ENTRY_FIXED_BYTES + TTL_BYTES;
    let all = entries.map(|(key, value)| key.as_str().len() + bytes(value) + fixed);
    FRAME_HEAD_BYTES + PAYLOAD_FIXED_BYTES + all.sum::<usize>()
}

fn encode<'a>(
    kind: FrameKind,
    timestamp: u64,
    left: bool,
    entries: impl ExactSizeIterator<Item = (&'a Key, Option<(&'a Value, Option<Ttl>)>)>,
) -> Vec<u8> {
    let mut payload = vec![kind as u8];
    payload.extend_from_slice(&timestamp.to_le_bytes());
    payload.push(u8::from(left));
    payload.extend_from_slice(&small(entries.len()).to_le_bytes());
    for (key, value) in entries {
        let key = key.as_str().as_bytes();
        // A key has at most 256 bytes.
        payload.extend_from_slice(&u16::try_from(key.len()).unwrap_or(u16::MAX).to_le_bytes());
        payload.extend_from_slice(key);
        payload.push(match value {
            None => REMOVED,
            Some((_, None)) => STANDS,
            Some((_, Some(_))) => EXPIRES,
        });
        if let Some((value, ttl)) = value {
            payload.extend(ttl.iter().flat_map(|ttl| ttl.as_ms().to_le_bytes()));
            payload.extend_from_slice(&small(value.as_bytes().len()).to_le_bytes());
            payload.extend_from_slice(value.as_bytes());
        }
    }
    payload
}

/// Adds a frame to the bytes of a file from `start` on, of which so many are on disk.
pub(super) fn encode_frame(
    file: FileId,
    (start, synced): (usize, usize),
    payload: &[u8],
    bytes: &mut Vec<u8>,
) {
    let at = start + bytes.len();
    let synced = (synced as u64).to_le_bytes();
    let length = small(payload.len()).to_le_bytes();
    let payload_sum = sum(Covers::Payload, &file, at, [&length, payload]);
    bytes.extend_from_slice(FRAME_MAGIC);
    bytes.extend_from_slice(&length);
    bytes.extend_from_slice(&synced);
    bytes.extend_from_slice(&payload_sum);
    bytes.extend_from_slice(&head_sum(file, at, length, synced, payload_sum));
    bytes.extend_from_slice(payload);
}

/// Lengths here are bounded by the limits of a state, far below 4 GiB.
fn small(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

/// The head of a frame that this program wrote to this file at this place.
#[derive(Debug)]
pub(super) struct FrameHead {
    file: FileId,
    at: usize,
    length: [u8; 4],
    payload_bytes: usize,
    payload_sum: Sum,
    /// So many bytes of the file were on disk when it was written.
    pub(super) synced: usize,
}

fn head_sum(file: FileId, at: usize, length: [u8; 4], synced: [u8; 8], payload_sum: Sum) -> Sum {
    sum(Covers::FrameHead, &file, at, [&[&length[..], &synced].concat(), &payload_sum])
}

impl FrameHead {
    /// Where the frame ends, in the file or behind its end.
    pub(super) fn end(&self) -> usize {
        self.at + FRAME_HEAD_BYTES + self.payload_bytes
    }

    /// The payload, if all of it is there as it was written.
    pub(super) fn payload<'a>(&self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        let payload = bytes.get(self.at + FRAME_HEAD_BYTES..self.end())?;
        let found = sum(Covers::Payload, &self.file, self.at, [&self.length, payload]);
        (found == self.payload_sum).then_some(payload)
    }
}

/// The head of a frame at this place of a file, if a whole one is there. Whatever stands there,
/// this hashes no more than the head.
pub(super) fn head_at(file: FileId, bytes: &[u8], at: usize) -> Option<FrameHead> {
    let (magic, rest) = bytes.get(at..)?.split_first_chunk::<4>()?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let (synced_bytes, rest) = rest.split_first_chunk::<8>()?;
    let (payload_sum, rest) = rest.split_first_chunk::<SUM_BYTES>()?;
    let (found, _) = rest.split_first_chunk::<SUM_BYTES>()?;
    let payload_bytes = payload_length(*length)?;
    let synced = usize::try_from(u64::from_le_bytes(*synced_bytes)).ok()?;
    let is_whole = magic == FRAME_MAGIC
        // What stands behind it was not there yet.
        && synced <= at
        && *found == head_sum(file, at, *length, *synced_bytes, *payload_sum);
    let (length, payload_sum) = (*length, *payload_sum);
    is_whole.then_some(FrameHead { file, at, length, payload_bytes, payload_sum, synced })
}

fn payload_length(length: [u8; 4]) -> Option<usize> {
    let length = usize::try_from(u32::from_le_bytes(length)).ok()?;
    (length <= PAYLOAD_BYTES_MAX).then_some(length)
}

/// What a payload says; nothing where it breaks a rule.
pub(super) fn decode(payload: &[u8]) -> Option<Frame> {
    let (kind, rest) = payload.split_first()?;
    let (timestamp, rest) = rest.split_first_chunk::<8>()?;
    let (left, rest) = rest.split_first()?;
    let (count, mut rest) = rest.split_first_chunk::<4>()?;
    let kind = match kind {
        1 => FrameKind::Snapshot,
        2 => FrameKind::Change,
        _ => return None,
    };
    let mut entries: Vec<FrameEntry> = Vec::new();
    for _ in 0..u32::from_le_bytes(*count) {
        let (entry, tail) = decode_entry(rest)?;
        let rises = entries.last().is_none_or(|(before, _)| *before < entry.0);
        let is_set = entry.1.is_some();
        if !rises || kind == FrameKind::Snapshot && !is_set {
            return None;
        }
        entries.push(entry);
        rest = tail;
    }
    let timestamp = u64::from_le_bytes(*timestamp);
    let fits = rest.is_empty() && timestamp <= TIMESTAMP_MAX;
    fits.then_some(Frame { kind, timestamp, left: flag(*left)?, entries })
}

/// The first entry of these bytes, and what follows it.
fn decode_entry(bytes: &[u8]) -> Option<(FrameEntry, &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    let (key, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
    let key = Key::new(str::from_utf8(key).ok()?).ok()?;
    let (what, rest) = rest.split_first()?;
    let (ttl, rest) = match *what {
        REMOVED => return Some(((key, None), rest)),
        STANDS => (None, rest),
        EXPIRES => {
            let (ms, rest) = rest.split_first_chunk::<TTL_BYTES>()?;
            (Some(Ttl::from_ms(u32::from_le_bytes(*ms).into()).ok()?), rest)
        }
        _ => return None,
    };
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
    let (value, rest) = rest.split_at_checked(length)?;
    Some(((key, Some((Value::new(value).ok()?, ttl))), rest))
}

fn flag(byte: u8) -> Option<bool> {
    (byte <= 1).then_some(byte == 1)
}

/// The next place behind this one where a frame may begin, or the end.
pub(super) fn next_start(bytes: &[u8], at: usize) -> usize {
    let behind = bytes.get(at + 1..).unwrap_or_default();
    let found = behind.windows(FRAME_MAGIC.len()).position(|window| window == FRAME_MAGIC);
    found.map_or(bytes.len(), |found| at + 1 + found)
}
