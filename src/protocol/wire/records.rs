//! Records to bytes and back: whole ones, and partial ones.

use std::sync::Arc;

use bincode::de::{BorrowDecode, BorrowDecoder};
use bincode::enc::{Encode, Encoder};
use bincode::error::{DecodeError, EncodeError};

use super::codec::length;
use super::{RECORDS_MAX, check_order};
use crate::protocol::entries::{Change, Entries, InvalidEntry, Key, Value, check_limits};
use crate::protocol::head::{Fingerprint, Head};
use crate::protocol::identity::{NodeId, PublicKey};
use crate::protocol::record::{Draft, Patch, Record, Signature};
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

/// The whole ones, in the order of their ids, and the partial one, which comes last: there is one
/// way to write a list, and it has at most one version of each node.
pub(super) type TypedRecords = (Vec<Arc<Record>>, Option<Arc<Patch>>);

pub(super) fn typed_records(mut all: Vec<RawRecord<'_>>) -> Result<TypedRecords, Reason> {
    let patch = match all.pop_if(|last| matches!(last.content, RawContent::Partial { .. })) {
        Some(raw) if all.iter().any(|other| other.node_id == raw.node_id) => {
            return Err(Reason::Malformed);
        }
        raw => raw.map(typed_patch).transpose()?,
    };
    Ok((whole_records(all)?, patch.map(Arc::new)))
}

/// Whole records in the order of their ids.
pub(super) fn whole_records(all: Vec<RawRecord<'_>>) -> Result<Vec<Arc<Record>>, Reason> {
    // Before anything is hashed: what breaks a rule costs little.
    check_order(&all, |raw| raw.node_id.as_str())?;
    let is_whole = |raw: &RawRecord<'_>| matches!(raw.content, RawContent::Whole(_));
    if all.len() > RECORDS_MAX || !all.iter().all(is_whole) {
        return Err(Reason::Malformed);
    }
    all.into_iter().map(|raw| typed_record(raw).map(Arc::new)).collect()
}

fn typed_record(raw: RawRecord<'_>) -> Result<Record, Reason> {
    check_timestamp(raw.timestamp)?;
    let RawContent::Whole(entries) = raw.content else {
        return Err(Reason::Malformed);
    };
    let entries = Arc::new(typed_entries(&entries)?);
    let draft = Draft::new(raw.node_id, raw.timestamp, raw.left, entries);
    Ok(Record::new(draft, raw.public_key, raw.signature))
}

fn typed_patch(raw: RawRecord<'_>) -> Result<Patch, Reason> {
    check_timestamp(raw.timestamp)?;
    let RawContent::Partial { base, digest, changes } = raw.content else {
        return Err(Reason::Malformed);
    };
    let change = typed_change(&changes)?;
    let RawRecord { node_id, timestamp, left, public_key, signature, .. } = raw;
    let head = Head { node_id, timestamp, left, digest };
    Ok(Patch { head, public_key, base, change, signature })
}

fn check_timestamp(timestamp: u64) -> Result<(), Reason> {
    let is_one = (1..=TIMESTAMP_MAX).contains(&timestamp);
    if is_one { Ok(()) } else { Err(Reason::LimitExceeded) }
}

fn typed_entries(entries: &[(&str, &[u8])]) -> Result<Entries, Reason> {
    check_order(entries, |(key, _)| key)?;
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
    check_order(changes, |(key, _)| key)?;
    let typed = |(key, value): &(&str, Option<&[u8]>)| {
        Ok((Key::new(key)?, value.map(Value::new).transpose()?))
    };
    let change = changes.iter().map(typed).collect::<Result<Change, _>>();
    change.map_err(|_: InvalidEntry| Reason::LimitExceeded)
}

impl Encode for Record {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        encode_head(&self.head, &self.public_key, 0, encoder)?;
        length(self.entries.len()).encode(encoder)?;
        for (key, value) in self.entries.iter() {
            key.as_str().encode(encoder)?;
            value.as_bytes().encode(encoder)?;
        }
        self.signature.encode(encoder)
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
        self.signature.encode(encoder)
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

#[cfg(test)]
mod tests {
    use super::super::{Answer, Kind, Push, REFUSED_MAX, Request, decode_answer, decode_request};
    use super::super::{encode_answer, encode_request};
    use super::*;
    use crate::protocol::identity::Incarnation;

    fn record(name: &str, timestamp: u64) -> Arc<Record> {
        let draft = Draft::new(NodeId::new(name).unwrap(), timestamp, false, Arc::default());
        Arc::new(Record::new(draft, PublicKey([4; 65]), [0; 64]))
    }

    fn patch(name: &str, keys: &[&str]) -> Arc<Patch> {
        let head = Head { digest: [1; 32], ..record(name, 5).head.clone() };
        let change = keys.iter().map(|key| (Key::new(key).unwrap(), None)).collect();
        let (public_key, base, signature) = (PublicKey([4; 65]), [2; 16], [0; 64]);
        Arc::new(Patch { head, public_key, base, change, signature })
    }

    fn payload(records: Vec<Arc<Record>>, patch: Option<Arc<Patch>>) -> Vec<u8> {
        let (to, incarnation) = (NodeId::new("us").unwrap(), Incarnation([3; 16]));
        let push = Push { records, patch, ..Push::new(to, incarnation) };
        encode_request(&Request::Push(push)).unwrap()
    }

    fn refused(payload: &[u8]) -> Option<Reason> {
        decode_request(Kind::Update, payload).err()
    }

    fn many(count: usize) -> Vec<Arc<Record>> {
        (0..count).map(|number| record(&format!("n{number:03}"), 5)).collect()
    }

    #[test]
    fn an_update_has_few_records_and_one_partial_one() {
        assert_eq!(refused(&payload(many(RECORDS_MAX), Some(patch("z", &["a"])))), None);
        let too_many = payload(many(RECORDS_MAX + 1), None);
        assert_eq!(refused(&too_many), Some(Reason::Malformed));
        assert_eq!(refused(&payload(many(REFUSED_MAX + 1), None)), Some(Reason::Malformed));
        let answer = |records| encode_answer(&Answer::Records(records)).unwrap();
        assert!(decode_answer(Kind::Update, &answer(many(RECORDS_MAX))).is_ok());
        assert!(decode_answer(Kind::Update, &answer(many(RECORDS_MAX + 1))).is_err());
    }

    #[test]
    fn an_update_has_one_version_of_a_node() {
        for names in [["a", "a"], ["b", "a"]] {
            let records = names.map(|name| record(name, 5)).to_vec();
            assert_eq!(refused(&payload(records.clone(), None)), Some(Reason::Malformed));
            let answer = encode_answer(&Answer::Records(records)).unwrap();
            assert!(decode_answer(Kind::Update, &answer).is_err());
        }
        let twice = payload(vec![record("a", 5)], Some(patch("a", &["k"])));
        assert_eq!(refused(&twice), Some(Reason::Malformed));
    }

    /// Where the flags of the only record are: behind form, receiver, run, count, id, key and
    /// timestamp.
    const FLAGS_AT: usize = 1 + (8 + 2) + 16 + 8 + (8 + 1) + 65 + 8;

    #[test]
    fn flags_that_mean_nothing_are_refused() {
        let good = payload(vec![record("a", 5)], None);
        for flags in [4, 5, 0x80, 0xff] {
            let mut bytes = good.clone();
            assert_eq!(std::mem::replace(&mut bytes[FLAGS_AT], flags), 0);
            assert_eq!(refused(&bytes), Some(Reason::Malformed), "{flags}");
        }
        let mut left = good;
        left[FLAGS_AT] = LEFT;
        assert_eq!(refused(&left), None);
    }

    /// The keys of a partial record rise, and it comes last and alone.
    #[test]
    fn there_is_one_way_to_write_what_changed() {
        let good = payload(Vec::new(), Some(patch("a", &["x", "y"])));
        assert_eq!(refused(&good), None);
        let mut bytes = good;
        let at = |bytes: &[u8], key: u8| {
            let entry = [&1_u64.to_le_bytes()[..], &[key, 0]].concat();
            bytes.windows(entry.len()).position(|window| window == entry).unwrap() + 8
        };
        let (x, y) = (at(&bytes, b'x'), at(&bytes, b'y'));
        bytes.swap(x, y);
        assert_eq!(refused(&bytes), Some(Reason::Malformed));
        bytes[x] = b'x';
        bytes[y] = b'x';
        assert_eq!(refused(&bytes), Some(Reason::Malformed), "a key twice");
    }

    #[test]
    fn timestamps_have_a_lowest_and_a_highest() {
        for (timestamp, is_one) in
            [(0, false), (1, true), (TIMESTAMP_MAX, true), (TIMESTAMP_MAX + 1, false)]
        {
            let reason = refused(&payload(vec![record("a", timestamp)], None));
            assert_eq!(reason, (!is_one).then_some(Reason::LimitExceeded));
        }
    }
}
