//! Names, keys, values and addresses out of texts and bytes, with the checks of their `new`.

use std::str::FromStr;

use super::address::{Address, InvalidAddress};
use super::entries::{InvalidEntry, Key, Value};
use super::identity::{InvalidNodeId, NodeId};

impl FromStr for NodeId {
    type Err = InvalidNodeId;

    fn from_str(text: &str) -> Result<Self, InvalidNodeId> {
        Self::new(text)
    }
}

impl TryFrom<&str> for NodeId {
    type Error = InvalidNodeId;

    fn try_from(text: &str) -> Result<Self, InvalidNodeId> {
        Self::new(text)
    }
}

impl AsRef<str> for NodeId {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl FromStr for Key {
    type Err = InvalidEntry;

    fn from_str(text: &str) -> Result<Self, InvalidEntry> {
        Self::new(text)
    }
}

impl TryFrom<&str> for Key {
    type Error = InvalidEntry;

    fn try_from(text: &str) -> Result<Self, InvalidEntry> {
        Self::new(text)
    }
}

impl AsRef<str> for Key {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl FromStr for Value {
    type Err = InvalidEntry;

    fn from_str(text: &str) -> Result<Self, InvalidEntry> {
        Self::new(text.as_bytes())
    }
}

impl TryFrom<&str> for Value {
    type Error = InvalidEntry;

    fn try_from(text: &str) -> Result<Self, InvalidEntry> {
        Self::new(text.as_bytes())
    }
}

impl TryFrom<&[u8]> for Value {
    type Error = InvalidEntry;

    fn try_from(bytes: &[u8]) -> Result<Self, InvalidEntry> {
        Self::new(bytes)
    }
}

impl AsRef<[u8]> for Value {
    fn as_ref(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl FromStr for Address {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        Self::new(text)
    }
}

impl TryFrom<&str> for Address {
    type Error = InvalidAddress;

    fn try_from(text: &str) -> Result<Self, InvalidAddress> {
        Self::new(text)
    }
}

impl AsRef<str> for Address {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_conversion_checks_what_new_checks() {
        assert_eq!("pi".parse::<NodeId>(), NodeId::new("pi"));
        assert!("../pi".parse::<NodeId>().is_err() && NodeId::try_from("").is_err());
        assert_eq!("k".parse::<Key>(), Key::new("k"));
        assert!("a=b".parse::<Key>().is_err() && Key::try_from("").is_err());
        assert_eq!(Value::try_from("v"), Value::new(b"v"));
        assert_eq!(Value::try_from(&b"\xff"[..]), Value::new(b"\xff"));
        assert!("x".repeat(70_000).parse::<Value>().is_err());
        assert_eq!("10.0.0.1:8000".parse::<Address>().unwrap().as_ref(), "10.0.0.1:8000");
        assert!("10.0.0.1".parse::<Address>().is_err() && Address::try_from("").is_err());
    }
}
