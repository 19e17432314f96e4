//! Records to bytes and back: whole ones, and partial ones.

use std::sync::{Arc, OnceLock};

use bincode::de::{BorrowDecode, BorrowDecoder};
use bincode::enc::{Encode, Encoder};
use bincode::error::{DecodeError, EncodeError};

use super::length;
use crate::protocol::identity::{NodeId, PublicKey};
use crate::protocol::patch::Patch;
use crate::protocol::state::{
    Change, Entries, Fingerprint, Head, InvalidEntry, Key, Record, Signature, Value, check_limits,
};
use crate::protocol::verdict::Reason;
use crate::protocol::{KEYS_MAX, TIMESTAMP_MAX};

/// A record as it lies in the bytes: decoded, its limits not checked.
pub(super) struct RawRecord<'a> {
    node_id: NodeId,
    public_key: PublicKey,
    timestamp: u64,
    left: bool,
    content: RawContent<'a>,
    signature: Signature,
}

enum RawContent<'a> {
    Whole(Vec<(&'a str, &'a [u8])>),
    Partial { base: Fingerprint, digest: [u8; 32], changes: Vec<(&'a str, Option<&'a [u8]>)> },
}

/// In the flags of a record: its owner left.
const LEFT: u8 = 1;
/// In the flags of a record: it tells what changed, not all entries.
const PARTIAL: u8 = 2;

impl<'de, Context> BorrowDecode<'de, Context> for RawRecord<'de> {
    fn borrow_decode<D: BorrowDecoder<'de, Context = Context>>(
        decoder: &mut D,
    ) -> Result<Self, DecodeError> {
        let (node_id, public_key, timestamp, flags): (_, _, _, u8) =
            BorrowDecode::borrow_decode(decoder)?;
        if flags > LEFT | PARTIAL {
            return Err(DecodeError::Other("no flags of a record"));
        }
        let content = if flags & PARTIAL == 0 {
            RawContent::Whole(BorrowDecode::borrow_decode(decoder)?)
        } else {
            let (base, digest, changes) = BorrowDecode::borrow_decode(decoder)?;
            RawContent::Partial { base, digest, changes }
        };
        let signature = BorrowDecode::borrow_decode(decoder)?;
        let left = flags & LEFT != 0;
        Ok(Self { node_id, public_key, timestamp, left, content, signature })
    }
}

/// The whole ones, and the partial ones.
pub(super) type TypedRecords = (Vec<Arc<Record>>, Vec<Arc<Patch>>);

/// Whole records come before partial ones: there is one way to write a list.
pub(super) fn typed_records(all: Vec<RawRecord<'_>>) -> Result<TypedRecords, Reason> {
    let (mut records, mut patches) = (Vec::new(), Vec::new());
    for raw in all {
        if raw.timestamp == 0 || raw.timestamp > TIMESTAMP_MAX {
            return Err(Reason::LimitExceeded);
        }
        let signature = Arc::new(OnceLock::from(raw.signature));
        let (node_id, public_key, timestamp, left) =
            (raw.node_id, raw.public_key, raw.timestamp, raw.left);
        match raw.content {
            RawContent::Whole(_) if !patches.is_empty() => return Err(Reason::Malformed),
            RawContent::Whole(entries) => {
                let entries = Arc::new(typed_entries(&entries)?);
                let mut record = Record::new(node_id, public_key, timestamp, left, entries);
                record.signature = signature;
                records.push(Arc::new(record));
            }
            RawContent::Partial { base, digest, changes } => {
                let change = typed_change(&changes)?;
                let head = Head { node_id, timestamp, left, digest };
                patches.push(Arc::new(Patch { head, public_key, base, change, signature }));
            }
        }
    }
    Ok((records, patches))
}

fn typed_entries(entries: &[(&str, &[u8])]) -> Result<Entries, Reason> {
    check_order(entries)?;
    // Before anything is hashed: what is too much costs little.
    if entries.len() > KEYS_MAX {
        return Err(Reason::LimitExceeded);
    }
    let limit = |_: InvalidEntry| Reason::LimitExceeded;
    let mut typed = Vec::with_capacity(entries.len());
    for (key, value) in entries {
        typed.push((Key::new(key).map_err(limit)?, Value::new(value).map_err(limit)?));
    }
    let entries: Entries = typed.into_iter().collect();
    check_limits(&entries).map_err(|_| Reason::LimitExceeded)?;
    Ok(entries)
}

fn typed_change(changes: &[(&str, Option<&[u8]>)]) -> Result<Change, Reason> {
    check_order(changes)?;
    let typed = |(key, value): &(&str, Option<&[u8]>)| {
        Ok((Key::new(key)?, value.map(Value::new).transpose()?))
    };
    let change = changes.iter().map(typed).collect::<Result<Change, _>>();
    change.map_err(|_: InvalidEntry| Reason::LimitExceeded)
}

/// One way to write a state or a change: sorted, each key once.
fn check_order<T>(pairs: &[(&str, T)]) -> Result<(), Reason> {
    let is_sorted = pairs.is_sorted_by(|left, right| left.0 < right.0);
    if is_sorted { Ok(()) } else { Err(Reason::Malformed) }
}

impl Encode for Record {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        encode_head(&self.head, &self.public_key, 0, encoder)?;
        length(self.entries.len()).encode(encoder)?;
        for (key, value) in self.entries.iter() {
            key.as_str().encode(encoder)?;
            value.as_bytes().encode(encoder)?;
        }
        encode_signature(&self.signature, encoder)
    }
}

impl Encode for Patch {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        encode_head(&self.head, &self.public_key, PARTIAL, encoder)?;
        (self.base, self.head.digest).encode(encoder)?;
        length(self.change.len()).encode(encoder)?;
        for (key, value) in &self.change {
            key.as_str().encode(encoder)?;
            value.as_ref().map(Value::as_bytes).encode(encoder)?;
        }
        encode_signature(&self.signature, encoder)
    }
}

fn encode_head<E: Encoder>(
    head: &Head,
    public_key: &PublicKey,
    flags: u8,
    encoder: &mut E,
) -> Result<(), EncodeError> {
    head.node_id.encode(encoder)?;
    public_key.encode(encoder)?;
    head.timestamp.encode(encoder)?;
    (flags | u8::from(head.left)).encode(encoder)
}

fn encode_signature<E: Encoder>(
    signature: &OnceLock<Signature>,
    encoder: &mut E,
) -> Result<(), EncodeError> {
    signature.get().ok_or(EncodeError::Other("record is not signed"))?.encode(encoder)
}
