//! Who a node is: its id, its public key, and the session of its present run.

use std::fmt;
use std::sync::Arc;

use super::NODE_ID_BYTES_MAX;
use super::hash::Sha256;

/// The name of a node, unique in its network: `[A-Za-z0-9][A-Za-z0-9._-]{0,63}`.
///
/// It becomes a file name, so this type is a security boundary: it can't hold a path. A copy shares
/// the text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(Arc<str>);

impl NodeId {
    /// Takes a text and gives the id, or says which rule the text breaks.
    pub fn new(text: &str) -> Result<Self, InvalidNodeId> {
        let mut bytes = text.bytes();
        let starts_well = bytes.next().is_some_and(|first| first.is_ascii_alphanumeric());
        let goes_on_well =
            bytes.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'));
        if starts_well && goes_on_well && text.len() <= NODE_ID_BYTES_MAX {
            Ok(Self(text.into()))
        } else {
            Err(InvalidNodeId { text: text.chars().take(NODE_ID_BYTES_MAX + 1).collect() })
        }
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// So much is shown of a text that is too long.
const SHOWN_CHARACTERS: usize = 20;

/// A text that is not a node id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidNodeId {
    /// The text, cut to one character more than an id may have.
    pub text: String,
}

impl fmt::Display for InvalidNodeId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.text.chars().count() > NODE_ID_BYTES_MAX {
            let start: String = self.text.chars().take(SHOWN_CHARACTERS).collect();
            let text = format!("{start}…");
            return write!(
                formatter,
                "{text:?} is not a node id: it has more than {NODE_ID_BYTES_MAX} characters"
            );
        }
        write!(
            formatter,
            "{:?} is not a node id: it takes 1 to {NODE_ID_BYTES_MAX} of the characters A-Z a-z 0-9 . _ -, the \
             first a letter or a digit",
            self.text
        )
    }
}

impl std::error::Error for InvalidNodeId {}

/// Length of a public key, bytes: an uncompressed P-256 point (SEC 1, section 2.3.3).
pub const PUBLIC_KEY_BYTES: usize = 65;
/// Length of a signature, bytes: r and s of ECDSA P-256, 32 bytes each.
pub const SIGNATURE_BYTES: usize = 64;

/// A node's public key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey(pub [u8; PUBLIC_KEY_BYTES]);

impl PublicKey {
    /// The key as 130 lower-case hex digits.
    pub fn to_hex(&self) -> String {
        hex(&self.0)
    }

    /// The key of 130 hex digits, or nothing where the text is another.
    pub fn from_hex(text: &str) -> Option<Self> {
        unhex(text)?.try_into().ok().map(Self)
    }

    /// What people compare: the first 16 hex digits of the hash of the key, in groups of four.
    pub fn fingerprint(&self) -> String {
        let hash = hex(&Sha256::new(&self.0).finish());
        let groups: Vec<&str> = (0..16).step_by(4).filter_map(|at| hash.get(at..at + 4)).collect();
        groups.join("-")
    }

    /// Which of two keys that others told for one node id is believed where its owner was not met:
    /// the one of lower rank. All nodes choose the same one without asking each other.
    pub fn rank_for(&self, node_id: &NodeId) -> Rank {
        let id = node_id.as_str().as_bytes();
        // A node id has at most 64 bytes.
        let length = u8::try_from(id.len()).unwrap_or(u8::MAX);
        let hash = Sha256::new(b"dsn/1 rank").chain(&[length]).chain(id).chain(&self.0);
        Rank(hash.finish_short())
    }
}

/// Stands for a public key in lists, and orders the keys that are told for one node id.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rank(pub [u8; RANK_BYTES]);

/// Length of a rank, bytes.
pub const RANK_BYTES: usize = 8;

impl fmt::Debug for PublicKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.to_hex())
    }
}

/// Names one run of a node, new at each start: what was sent to an earlier run is worthless.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation(pub [u8; 16]);

impl fmt::Debug for Incarnation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&hex(&self.0))
    }
}

/// What a receiver gave one caller to name in its requests: worthless for any other caller, and
/// after the receiver was started again or has forgotten the caller.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Session(pub [u8; 16]);

impl fmt::Debug for Session {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&hex(&self.0))
    }
}

/// Bytes as lower-case hex digits.
pub fn hex(bytes: &[u8]) -> String {
    let digit = |half: u8| char::from(if half < 10 { b'0' + half } else { b'a' + half - 10 });
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(digit(byte >> 4));
        text.push(digit(byte & 15));
    }
    text
}

/// The bytes of an even number of hex digits, or nothing where the text is another.
pub fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.is_ascii() || !text.len().is_multiple_of(2) {
        return None;
    }
    (0..text.len())
        .step_by(2)
        .map(|at| text.get(at..at + 2).filter(|pair| !pair.starts_with('+')))
        .map(|pair| u8::from_str_radix(pair?, 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rejects_what_could_leave_a_folder() {
        for text in ["", ".", "..", "../x", "a/b", "-a", "_a", "a b", "a\0", "é", "a\n"] {
            assert!(NodeId::new(text).is_err(), "{text:?}");
        }
        assert!(NodeId::new(&"a".repeat(65)).is_err());
    }

    #[test]
    fn takes_host_names() {
        for text in ["a", "pi-4.local", "0", "Sensor_1", &"a".repeat(64)] {
            assert_eq!(NodeId::new(text).unwrap().as_str(), text);
        }
    }

    #[test]
    fn hex_goes_both_ways_and_refuses_the_rest() {
        assert_eq!(unhex(&hex(&[0, 255, 16])), Some(vec![0, 255, 16]));
        for text in ["0", "0g", "+1", "é", " 1"] {
            assert_eq!(unhex(text), None, "{text:?}");
        }
    }
}
