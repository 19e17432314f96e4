//! Records: who owns which entries, and which of two copies is newer.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, OnceLock};

use super::digest;
use super::identity::{NodeId, PublicKey, SIGNATURE_BYTES};
use super::{
    ENTRY_OVERHEAD_BYTES, KEY_BYTES_MAX, KEYS_MAX, STATE_BYTES_MAX, TIMESTAMP_MAX, VALUE_BYTES_MAX,
};

/// The name of an entry: 1 to 256 bytes of UTF-8 without control characters and without `=`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Arc<str>);

impl Key {
    /// Takes a text and gives the key, or says what is wrong with it.
    pub fn new(text: &str) -> Result<Self, InvalidEntry> {
        if text.is_empty() {
            return Err(InvalidEntry::KeyEmpty);
        }
        if text.len() > KEY_BYTES_MAX {
            return Err(InvalidEntry::KeyTooLong { bytes: text.len() });
        }
        if text.chars().any(|character| character.is_control() || character == '=') {
            return Err(InvalidEntry::KeyCharacter { key: text.into() });
        }
        Ok(Self(text.into()))
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Key {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, formatter)
    }
}

/// What an entry holds: at most 64 KiB, shared rather than copied.
#[derive(Clone, PartialEq, Eq)]
pub struct Value(Arc<[u8]>);

impl Value {
    /// Takes bytes and gives the value, or says that they are too many.
    pub fn new(bytes: &[u8]) -> Result<Self, InvalidEntry> {
        if bytes.len() > VALUE_BYTES_MAX {
            return Err(InvalidEntry::ValueTooLong { bytes: bytes.len() });
        }
        Ok(Self(bytes.into()))
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match str::from_utf8(&self.0) {
            Ok(text) => fmt::Debug::fmt(text, formatter),
            Err(_) => write!(formatter, "{} bytes", self.0.len()),
        }
    }
}

/// An entry that breaks a limit. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InvalidEntry {
    /// A key has at least one byte.
    KeyEmpty,
    /// A key has at most 256 bytes.
    KeyTooLong {
        /// How many it had.
        bytes: usize,
    },
    /// A key has no control character and no `=`.
    KeyCharacter {
        /// The key.
        key: String,
    },
    /// A value has at most 64 KiB.
    ValueTooLong {
        /// How many bytes it had.
        bytes: usize,
    },
    /// The state of a node has at most 16 384 keys.
    TooManyKeys {
        /// How many it would have.
        keys: usize,
    },
    /// The state of a node has at most 1 MiB.
    StateTooLarge {
        /// How many bytes it would have.
        bytes: usize,
    },
}

impl fmt::Display for InvalidEntry {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KeyEmpty => write!(formatter, "the key is empty"),
            Self::KeyTooLong { bytes } => {
                write!(formatter, "the key has {bytes} bytes, the limit is {KEY_BYTES_MAX}")
            }
            Self::KeyCharacter { key } => {
                write!(
                    formatter,
                    "the key {key:?} has a control character or '=', which no key may have"
                )
            }
            Self::ValueTooLong { bytes } => {
                write!(formatter, "the value has {bytes} bytes, the limit is {VALUE_BYTES_MAX}")
            }
            Self::TooManyKeys { keys } => {
                write!(formatter, "the state would have {keys} keys, the limit is {KEYS_MAX}")
            }
            Self::StateTooLarge { bytes } => write!(
                formatter,
                "the state of this node would have {bytes} bytes, the limit is {STATE_BYTES_MAX} (a key and its \
                 value count {ENTRY_OVERHEAD_BYTES} bytes more than they have)"
            ),
        }
    }
}

impl std::error::Error for InvalidEntry {}

pub use super::entries::Entries;

/// What an owner does to its own state in one step: values to set, keys to remove (`None`).
pub type Change = BTreeMap<Key, Option<Value>>;

/// One version of one node's state, with the proof that its owner made it.
#[derive(Debug, Clone)]
pub struct Record {
    /// What the owner's signature covers.
    pub head: Head,
    /// The owner's public key.
    pub public_key: PublicKey,
    /// The entries.
    pub entries: Arc<Entries>,
    /// The owner's signature over the head; the owner makes it when a version is first sent.
    pub signature: Arc<OnceLock<Signature>>,
    /// A short name for the version: the same in all nodes that hold it, another for any other.
    pub fingerprint: Fingerprint,
}

/// An ECDSA P-256 signature: r and s, 32 bytes each.
pub type Signature = [u8; SIGNATURE_BYTES];

/// 16 bytes that stand for one version of one node's state.
pub type Fingerprint = [u8; 16];

/// What stands for a version: whose, when, and a digest of the entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Whose state.
    pub node_id: NodeId,
    /// Its place in the order of versions, microseconds since 1970 if the owner's clock was right.
    pub timestamp: u64,
    /// Whether the owner said goodbye with this version.
    pub left: bool,
    /// Digest of the entries ([`Entries::digest`]).
    pub digest: [u8; 32],
}

impl Head {
    /// The order of versions of one node: by time; equal times by what they say, so that all
    /// nodes choose the same.
    pub fn is_newer_than(&self, other: &Self) -> bool {
        (self.timestamp, self.left, self.digest) > (other.timestamp, other.left, other.digest)
    }
}

impl Record {
    /// Takes what a version is made of and works out its digest and its fingerprint.
    pub fn new(
        node_id: NodeId,
        public_key: PublicKey,
        timestamp: u64,
        left: bool,
        entries: Arc<Entries>,
    ) -> Self {
        let head = Head { node_id, timestamp, left, digest: *entries.digest() };
        let fingerprint = digest::fingerprint(&head);
        Self { head, public_key, entries, signature: Arc::default(), fingerprint }
    }

    /// The version that follows when its owner makes `change`; nothing where that changes nothing.
    ///
    /// `timestamp` comes from [`next_timestamp`].
    pub fn after(
        &self,
        change: &Change,
        left: bool,
        timestamp: u64,
    ) -> Result<Option<Self>, InvalidEntry> {
        let changes_nothing = left == self.head.left
            && change.iter().all(|(key, value)| self.entries.get(key.as_str()) == value.as_ref());
        if changes_nothing {
            return Ok(None);
        }
        let entries = self.entries.with(change.iter().map(|(key, value)| (key, value.as_ref())));
        check_limits(&entries)?;
        let node_id = self.head.node_id.clone();
        Ok(Some(Self::new(node_id, self.public_key, timestamp, left, Arc::new(entries))))
    }
}

/// Says whether entries are few and small enough to be a node's state.
pub fn check_limits(entries: &Entries) -> Result<(), InvalidEntry> {
    if entries.len() > KEYS_MAX {
        return Err(InvalidEntry::TooManyKeys { keys: entries.len() });
    }
    match entries.bytes() {
        bytes if bytes > STATE_BYTES_MAX => Err(InvalidEntry::StateTooLarge { bytes }),
        _ => Ok(()),
    }
}

/// The timestamp of the next version: the wall clock where it is ahead of what was issued, else
/// one more than that. A host without a clock chip believes in 1970 after a reboot, and its
/// changes must win all the same.
///
/// `wall` and `last` are microseconds since 1970; `None` when no timestamp is left (year 2255).
pub fn next_timestamp(wall: u64, last: u64) -> Option<u64> {
    let believable = if wall <= WALL_CLOCK_MAX { wall } else { 0 };
    let next = believable.max(last.saturating_add(1));
    (next <= TIMESTAMP_MAX).then_some(next)
}

/// A wall clock beyond this (in the year 2219) is not believed: it would use up the timestamps.
const WALL_CLOCK_MAX: u64 = TIMESTAMP_MAX - (1 << 50);

#[cfg(test)]
mod tests {
    use super::*;

    fn record(pairs: &[(&str, &str)], timestamp: u64) -> Record {
        let entries = pairs
            .iter()
            .map(|(key, value)| (Key::new(key).unwrap(), Value::new(value.as_bytes()).unwrap()))
            .collect();
        let node_id = NodeId::new("a").unwrap();
        Record::new(node_id, PublicKey([4; 65]), timestamp, false, Arc::new(entries))
    }

    fn change(key: &str, value: Option<&[u8]>) -> Change {
        let value = value.map(|bytes| Value::new(bytes).unwrap());
        Change::from([(Key::new(key).unwrap(), value)])
    }

    #[test]
    fn a_clock_that_goes_back_does_not_take_the_timestamp_with_it() {
        assert_eq!(next_timestamp(100, 7), Some(100));
        assert_eq!(next_timestamp(3, 7), Some(8));
        assert_eq!(next_timestamp(7, 7), Some(8));
        assert_eq!(next_timestamp(u64::MAX, 7), Some(8));
        assert_eq!(next_timestamp(0, TIMESTAMP_MAX), None);
    }

    #[test]
    fn a_change_that_changes_nothing_is_no_version() {
        let first = record(&[("k", "v")], 1);
        assert!(first.after(&change("k", Some(b"v")), false, 2).unwrap().is_none());
        assert!(first.after(&change("x", None), false, 2).unwrap().is_none());
        let next = first.after(&change("k", None), false, 2).unwrap().unwrap();
        assert!(next.entries.is_empty() && next.head.is_newer_than(&first.head));
    }

    #[test]
    fn a_state_has_a_limit_of_bytes_and_of_keys() {
        let mut now = record(&[], 1);
        let value = vec![0; VALUE_BYTES_MAX];
        let fault = loop {
            let key = format!("key-{}", now.entries.len());
            match now.after(&change(&key, Some(&value)), false, 2) {
                Ok(next) => now = next.unwrap(),
                Err(fault) => break fault,
            }
        };
        assert!(matches!(fault, InvalidEntry::StateTooLarge { .. }));
        assert_eq!(now.entries.len(), 15);
        let many: Entries = (0..=KEYS_MAX)
            .map(|number| (Key::new(&number.to_string()).unwrap(), Value::new(b"").unwrap()))
            .collect();
        assert!(matches!(check_limits(&many), Err(InvalidEntry::TooManyKeys { .. })));
    }

    #[test]
    fn equal_timestamps_are_ordered_the_same_way_everywhere() {
        let (left, right) = (record(&[("k", "1")], 5).head, record(&[("k", "2")], 5).head);
        assert_ne!(left.is_newer_than(&right), right.is_newer_than(&left));
        assert!(!left.is_newer_than(&left));
    }

    #[test]
    fn keys_that_would_break_a_line_of_output_are_refused() {
        for text in ["", "a=b", "a\nb", "a\u{7f}", &"k".repeat(257)] {
            assert!(Key::new(text).is_err(), "{text:?}");
        }
        assert!(Key::new("temperature/°C").is_ok());
        assert!(Value::new(&vec![0; VALUE_BYTES_MAX + 1]).is_err());
    }
}
