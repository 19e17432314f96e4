//! Records: who owns which entries, and which of two copies is newer.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::{ENTRY_OVERHEAD_BYTES, KEY_BYTES_MAX, STATE_BYTES_MAX, VALUE_BYTES_MAX};

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
        if text
            .chars()
            .any(|character| character.is_control() || character == '=')
        {
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
                write!(
                    formatter,
                    "the key has {bytes} bytes, the limit is {KEY_BYTES_MAX}"
                )
            }
            Self::KeyCharacter { key } => {
                write!(
                    formatter,
                    "the key {key:?} has a control character or '=', which no key may have"
                )
            }
            Self::ValueTooLong { bytes } => {
                write!(
                    formatter,
                    "the value has {bytes} bytes, the limit is {VALUE_BYTES_MAX}"
                )
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

/// The entries of one node.
pub type Entries = BTreeMap<Key, Value>;

/// What an owner does to its own state in one step: values to set, keys to remove (`None`).
pub type Change = BTreeMap<Key, Option<Value>>;
