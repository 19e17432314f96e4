//! What a node owns: keys with their values, and the limits of both.

mod digest;
mod tree;

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::{ENTRY_OVERHEAD_BYTES, KEY_BYTES_MAX, KEYS_MAX, STATE_BYTES_MAX, VALUE_BYTES_MAX};

pub use tree::{Difference, Entries, entry_bytes};

/// The name of an entry: 1 to 256 bytes of UTF-8 without `=`, control characters and those of
/// [`is_invisible`].
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
        let is_forbidden =
            |character: char| character == '=' || character.is_control() || is_invisible(character);
        if text.chars().any(is_forbidden) {
            return Err(InvalidEntry::KeyCharacter { key: text.into() });
        }
        Ok(Self(text.into()))
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether a character is not seen itself, or turns around what stands beside it: with those, two
/// keys could look the same, and a line of keys like another one. The list is part of the protocol,
/// so it does not change with the tables of Unicode.
pub fn is_invisible(character: char) -> bool {
    matches!(
        character,
        '\u{ad}'
            | '\u{61c}'
            | '\u{180e}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}'
    )
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
    /// A key has no `=`, no control character and no invisible one.
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
                    "the key {key:?} has '=', a control character or an invisible one, which no key may have"
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

/// What an owner does to its own state in one step: values to set, keys to remove (`None`).
pub type Change = BTreeMap<Key, Option<Value>>;

/// A change of these pairs; of several with one key the last one counts. Of a list, so that what
/// makes a map out of sorted pairs is there once: it is on the way of each UPDATE.
pub fn change_of(pairs: Vec<(Key, Option<Value>)>) -> Change {
    pairs.into_iter().collect()
}

/// Says whether entries are few and small enough to be a node's state.
pub fn check_limits(entries: &Entries) -> Result<(), InvalidEntry> {
    check_totals(entries.len(), entries.bytes())
}

/// The same of so many keys that count so many bytes ([`entry_bytes`]).
pub fn check_totals(keys: usize, bytes: usize) -> Result<(), InvalidEntry> {
    if keys > KEYS_MAX {
        return Err(InvalidEntry::TooManyKeys { keys });
    }
    if bytes > STATE_BYTES_MAX {
        return Err(InvalidEntry::StateTooLarge { bytes });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_has_a_limit_of_bytes_and_of_keys() {
        let value = Value::new(&vec![0; VALUE_BYTES_MAX]).unwrap();
        let of = |count: usize| -> Entries {
            (0..count)
                .map(|number| (Key::new(&format!("key-{number}")).unwrap(), value.clone()))
                .collect()
        };
        assert!(check_limits(&of(15)).is_ok());
        assert!(matches!(check_limits(&of(16)), Err(InvalidEntry::StateTooLarge { .. })));
        let keys = |count: usize| -> Entries {
            (0..count)
                .map(|number| (Key::new(&number.to_string()).unwrap(), Value::new(b"").unwrap()))
                .collect()
        };
        assert!(check_limits(&keys(KEYS_MAX)).is_ok());
        assert!(matches!(check_limits(&keys(KEYS_MAX + 1)), Err(InvalidEntry::TooManyKeys { .. })));
    }

    #[test]
    fn keys_that_are_not_what_they_look_like_are_refused() {
        for edge in [
            0xad, 0x61c, 0x180e, 0x200b, 0x200f, 0x2028, 0x202e, 0x2060, 0x206f, 0xfeff, 0xfff9,
            0xfffb, 0xe0000, 0xe007f,
        ] {
            let character = char::from_u32(edge).unwrap();
            assert!(Key::new(&format!("a{character}b")).is_err(), "U+{edge:04X}");
        }
        for beside in [0xac, 0xae, 0x200a, 0x2010, 0x2027, 0x202f, 0x205f, 0x2070, 0xe0080] {
            let character = char::from_u32(beside).unwrap();
            assert!(Key::new(&format!("a{character}b")).is_ok(), "U+{beside:04X}");
        }
    }

    #[test]
    fn keys_that_would_break_a_line_of_output_are_refused() {
        for text in ["", "a=b", "a\nb", "a\u{7f}", &"k".repeat(257)] {
            assert!(Key::new(text).is_err(), "{text:?}");
        }
        assert!(Key::new("temperature/°C").is_ok());
        assert!(Key::new("e\u{301} 🙂 漢字").is_ok());
        assert!(Value::new(&vec![0; VALUE_BYTES_MAX + 1]).is_err());
    }
}
