//! Records to bytes and back: whole ones, and partial ones.

use std::collections::BTreeSet;
use std::sync::Arc;

use bincode::de::{BorrowDecode, BorrowDecoder};
use bincode::enc::{Encode, Encoder};
use bincode::error::{DecodeError, EncodeError};

use super::codec::length;
use super::{RECORDS_MAX, check_order};
use crate::order::Gather;
use crate::protocol::entries::{
    Change, Entries, InvalidEntry, Key, Value, change_of, check_limits,
};
use crate::protocol::head::{Fingerprint, Head, Home};
use crate::protocol::identity::{NodeId, PublicKey};
use crate::protocol::record::{Draft, Patch, Record, Signature};
use crate::protocol::verdict::Reason;
use crate::protocol::{KEYS_MAX, TIMESTAMP_MAX};

/// A record as it lies in the bytes: decoded, its limits not checked.
pub(super) struct RawRecord<'a> {
    node_id: NodeId,
    timestamp: u64,
    left: bool,
    /// Always there in a whole record.
    home: Option<Home>,
    content: RawContent<'a>,
    signature: Signature,
}

enum RawContent<'a> {
    Whole { public_key: PublicKey, entries: Vec<(&'a str, &'a [u8])> },
    Partial { base: Fingerprint, digest: [u8; 32], changes: Vec<(&'a str, Option<&'a [u8]>)> },
}

/// In the flags of a record: its owner left.
const LEFT: u8 = 1;
/// In the flags of a record: it tells what changed, not all entries.
const PARTIAL: u8 = 2;
/// In the flags of a partial record: it tells where its owner lives, as the base says otherwise.
const MOVED: u8 = 4;

impl<'de, Context> BorrowDecode<'de, Context> for RawRecord<'de> {
    fn borrow_decode<D: BorrowDecoder<'de, Context = Context>>(
        decoder: &mut D,
    ) -> Result<Self, DecodeError> {
        let (node_id, timestamp, flags): (_, _, u8) = BorrowDecode::borrow_decode(decoder)?;
        let is_partial = flags & PARTIAL != 0;
        let known = if is_partial { LEFT | PARTIAL | MOVED } else { LEFT };
        if flags & !known != 0 {
            return Err(DecodeError::Other("no flags of a record"));
        }
        let key = (!is_partial).then(|| PublicKey::borrow_decode(decoder)).transpose()?;
        let has_home = !is_partial || flags & MOVED != 0;
        let home = has_home.then(|| Home::borrow_decode(decoder)).transpose()?;
        let content = if let Some(public_key) = key {
            RawContent::Whole { public_key, entries: BorrowDecode::borrow_decode(decoder)? }
        } else {
            let (base, digest, changes) = BorrowDecode::borrow_decode(decoder)?;
            RawContent::Partial { base, digest, changes }
        };
        let signature = BorrowDecode::borrow_decode(decoder)?;
        let left = flags & LEFT != 0;
        Ok(Self { node_id, timestamp, left, home, content, signature })
    }
}

/// The whole ones, and behind them the partial ones, both in the order of their ids: there is one
/// way to write a list, and it has at most one version of each node.
pub(super) type TypedRecords = (Vec<Arc<Record>>, Vec<Arc<Patch>>);

pub(super) fn typed_records(mut all: Vec<RawRecord<'_>>) -> Result<TypedRecords, Reason> {
    let is_whole = |raw: &RawRecord<'_>| matches!(raw.content, RawContent::Whole { .. });
    let wholes = all.iter().take_while(|raw| is_whole(raw)).count();
    let partial = all.split_off(wholes);
    check_order(&partial, |raw| raw.node_id.as_str())?;
    let names: BTreeSet<&NodeId> = all.iter().map(|raw| &raw.node_id).gathered();
    if partial.iter().any(|raw| names.contains(&raw.node_id)) {
        return Err(Reason::Malformed);
    }
    let patches = partial.into_iter().map(|raw| typed_patch(raw).map(Arc::new));
    let patches = patches.collect::<Result<_, _>>()?;
    Ok((whole_records(all, RECORDS_MAX)?, patches))
}

/// Whole records in the order of their ids, at most so many.
pub(super) fn whole_records(
    all: Vec<RawRecord<'_>>,
    most: usize,
) -> Result<Vec<Arc<Record>>, Reason> {
    // Before anything is hashed: what breaks a rule costs little.
    check_order(&all, |raw| raw.node_id.as_str())?;
    let is_whole = |raw: &RawRecord<'_>| matches!(raw.content, RawContent::Whole { .. });
    if all.len() > most || !all.iter().all(is_whole) {
        return Err(Reason::Malformed);
    }
    all.into_iter().map(|raw| typed_record(raw).map(Arc::new)).collect()
}

fn typed_record(raw: RawRecord<'_>) -> Result<Record, Reason> {
    check_timestamp(raw.timestamp)?;
    let (RawContent::Whole { public_key, entries }, Some(home)) = (raw.content, raw.home) else {
        return Err(Reason::Malformed);
    };
    let entries = Arc::new(typed_entries(&entries)?);
    let draft = Draft::new(raw.node_id, raw.timestamp, raw.left, entries).at(home);
    Ok(Record::new(draft, public_key, raw.signature))
}

fn typed_patch(raw: RawRecord<'_>) -> Result<Patch, Reason> {
    check_timestamp(raw.timestamp)?;
    let RawContent::Partial { base, digest, changes } = raw.content else {
        // A whole one stands before all partial ones.
        return Err(Reason::Malformed);
    };
    let change = typed_change(&changes)?;
    let RawRecord { node_id, timestamp, left, home, signature, .. } = raw;
    Ok(Patch { node_id, timestamp, left, digest, home, base, change, signature })
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
    let limit = |_: InvalidEntry| Reason::LimitExceeded;
    let mut typed = Vec::with_capacity(changes.len());
    for (key, value) in changes {
        let value = value.map(Value::new).transpose().map_err(limit)?;
        typed.push((Key::new(key).map_err(limit)?, value));
    }
    Ok(change_of(typed))
}

impl Encode for Record {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        let Head { node_id, timestamp, left, home, .. } = &self.head;
        let flags = if *left { LEFT } else { 0 };
        (node_id, timestamp, flags, &self.public_key).encode(encoder)?;
        home.encode(encoder)?;
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
        let (left, moved) =
            (if self.left { LEFT } else { 0 }, if self.home.is_some() { MOVED } else { 0 });
        let flags = PARTIAL | left | moved;
        (&self.node_id, &self.timestamp, flags).encode(encoder)?;
        if let Some(home) = &self.home {
            home.encode(encoder)?;
        }
        (self.base, self.digest).encode(encoder)?;
        length(self.change.len()).encode(encoder)?;
        for (key, value) in &self.change {
            key.as_str().encode(encoder)?;
            value.as_ref().map(Value::as_bytes).encode(encoder)?;
        }
        self.signature.encode(encoder)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{
        Answer, Kind, PULLED_MAX, PUSHED_MAX, Push, Request, decode_answer, decode_request,
    };
    use super::super::{encode_answer, encode_request};
    use super::*;
    use crate::protocol::identity::Incarnation;

    fn record(name: &str, timestamp: u64) -> Arc<Record> {
        let draft = Draft::new(NodeId::new(name).unwrap(), timestamp, false, Arc::default());
        Arc::new(Record::new(draft, PublicKey([4; 65]), [0; 64]))
    }

    fn patch(name: &str, keys: &[&str]) -> Arc<Patch> {
        Arc::new(Patch {
            node_id: NodeId::new(name).unwrap(),
            timestamp: 5,
            left: false,
            digest: [1; 32],
            home: None,
            base: [2; 16],
            change: keys.iter().map(|key| (Key::new(key).unwrap(), None)).collect(),
            signature: [0; 64],
        })
    }

    fn payload(records: Vec<Arc<Record>>, patches: Vec<Arc<Patch>>) -> Vec<u8> {
        let (to, incarnation) = (NodeId::new("us").unwrap(), Incarnation([3; 16]));
        let push = Push { records, patches, ..Push::new(to, incarnation) };
        encode_request(&Request::Push(push)).unwrap()
    }

    fn refused(payload: &[u8]) -> Option<Reason> {
        decode_request(Kind::Update, payload).err()
    }

    fn many(count: usize) -> Vec<Arc<Record>> {
        (0..count).map(|number| record(&format!("n{number:03}"), 5)).collect()
    }

    #[test]
    fn an_update_has_few_records() {
        assert_eq!(refused(&payload(many(RECORDS_MAX), vec![patch("z", &["a"])])), None);
        let too_many = payload(many(RECORDS_MAX + 1), Vec::new());
        assert_eq!(refused(&too_many), Some(Reason::Malformed));
        assert_eq!(refused(&payload(many(PUSHED_MAX + 1), Vec::new())), Some(Reason::Malformed));
        let answer = |records| encode_answer(&Answer::Records(records)).unwrap();
        assert!(decode_answer(Kind::Update, &answer(many(PULLED_MAX))).is_ok());
        assert!(decode_answer(Kind::Update, &answer(many(PULLED_MAX + 1))).is_err());
    }

    #[test]
    fn an_update_has_one_version_of_a_node() {
        for names in [["a", "a"], ["b", "a"]] {
            let records = names.map(|name| record(name, 5)).to_vec();
            assert_eq!(refused(&payload(records.clone(), Vec::new())), Some(Reason::Malformed));
            let answer = encode_answer(&Answer::Records(records)).unwrap();
            assert!(decode_answer(Kind::Update, &answer).is_err());
        }
        let twice = payload(vec![record("a", 5)], vec![patch("a", &["k"])]);
        assert_eq!(refused(&twice), Some(Reason::Malformed));
    }

    /// Where the flags of the only record are: behind form, receiver, run, count, id and timestamp.
    const FLAGS_AT: usize = 1 + (8 + 2) + 16 + 8 + (8 + 1) + 8;

    #[test]
    fn flags_that_mean_nothing_are_refused() {
        let good = payload(vec![record("a", 5)], Vec::new());
        for flags in [4, 5, 8, 0x80, 0xff] {
            let mut bytes = good.clone();
            assert_eq!(std::mem::replace(&mut bytes[FLAGS_AT], flags), 0);
            assert_eq!(refused(&bytes), Some(Reason::Malformed), "{flags}");
        }
        let mut left = good;
        left[FLAGS_AT] = LEFT;
        assert_eq!(refused(&left), None);
        let partial = payload(Vec::new(), vec![patch("a", &["k"])]);
        for flags in [PARTIAL | 8, PARTIAL | 0x80] {
            let mut bytes = partial.clone();
            assert_eq!(std::mem::replace(&mut bytes[FLAGS_AT], flags), PARTIAL);
            assert_eq!(refused(&bytes), Some(Reason::Malformed), "{flags}");
        }
    }

    /// A whole record always says where its owner lives, a partial one where it has moved.
    #[test]
    fn a_home_travels_where_it_is_news() {
        let home = Home {
            incarnation: Incarnation([9; 16]),
            address: Some(crate::protocol::address::Address::new("b:1").unwrap()),
        };
        let draft = Draft::new(NodeId::new("a").unwrap(), 5, false, Arc::default());
        let whole = Record::new(draft.at(home.clone()), PublicKey([4; 65]), [0; 64]);
        let read = |bytes: &[u8]| match decode_request(Kind::Update, bytes).unwrap().message {
            Request::Push(push) => push,
            other => panic!("{other:?}"),
        };
        let bytes = payload(vec![Arc::new(whole.clone())], Vec::new());
        assert_eq!(read(&bytes).records[0].head, whole.head);
        let stayed = patch("a", &["k"]);
        let moved = Arc::new(Patch { home: Some(home.clone()), left: true, ..(*stayed).clone() });
        let (stayed, moved) = (payload(Vec::new(), vec![stayed]), payload(Vec::new(), vec![moved]));
        assert_eq!(read(&stayed).patches[0].home, None);
        let patch = read(&moved).patches.remove(0);
        assert_eq!((&patch.home, patch.left), (&Some(home), true));
        assert_eq!(moved[FLAGS_AT], LEFT | PARTIAL | MOVED);
        // The incarnation, and the option of an address: a byte, its length, three characters.
        assert_eq!(moved.len(), stayed.len() + 16 + 1 + 8 + 3);
    }

    /// Partial records come behind whole ones, each node once, in their order.
    #[test]
    fn partial_records_come_last() {
        let [a, b] = ["a", "b"].map(|name| patch(name, &["k"]));
        let all = |count| (0..count).map(|number| patch(&format!("p{number:03}"), &["k"]));
        assert_eq!(refused(&payload(Vec::new(), vec![Arc::clone(&a), Arc::clone(&b)])), None);
        let two = payload(Vec::new(), vec![b, Arc::clone(&a)]);
        assert_eq!(refused(&two), Some(Reason::Malformed));
        let twice = payload(Vec::new(), vec![Arc::clone(&a), a]);
        assert_eq!(refused(&twice), Some(Reason::Malformed));
        assert_eq!(refused(&payload(Vec::new(), all(PUSHED_MAX).collect())), None);
        let too_many = payload(Vec::new(), all(PUSHED_MAX + 1).collect());
        assert_eq!(refused(&too_many), Some(Reason::Malformed));
        let mixed = payload(many(RECORDS_MAX - 1), all(2).collect());
        assert_eq!(refused(&mixed), None);
        // A whole one behind a partial one: both as long as one of each.
        let good = payload(vec![record("a", 5)], vec![patch("b", &["k"])]);
        let head = FLAGS_AT - (8 + 1) - 8;
        let whole = payload(vec![record("a", 5)], Vec::new());
        let (whole, rest) = (&whole[head..whole.len() - 8], &good[whole.len() - 8..]);
        let partial = &rest[..rest.len() - 8];
        let turned = [&good[..head], partial, whole, &[0; 8]].concat();
        assert_eq!(turned.len(), good.len());
        assert_eq!(refused(&turned), Some(Reason::Malformed));
    }

    /// The keys of a partial record rise.
    #[test]
    fn there_is_one_way_to_write_what_changed() {
        let good = payload(Vec::new(), vec![patch("a", &["x", "y"])]);
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
            let reason = refused(&payload(vec![record("a", timestamp)], Vec::new()));
            assert_eq!(reason, (!is_one).then_some(Reason::LimitExceeded));
        }
    }
}
