//! What is wrong, as people and programs are told it: a stable code, the node that it is about, the
//! sentence, and the next step.

use std::fmt;
use std::time::Duration;

use super::identity::NodeId;

/// A kind of fault. Its word is stable: scripts and alert rules compare it (docs/operations.md).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Code {
    /// No other node is here.
    Alone,
    /// Somebody calls, or answers, with another network key.
    OtherNetworkKey,
    /// Another node does not let this one in.
    Refused,
    /// Two nodes use one id, with different keys.
    IdConflict,
    /// Two nodes run with one key.
    Clone,
    /// A node is not in the list of those that may be in the network.
    NotAllowed,
    /// A node can be heard but not called.
    OneWay,
    /// The own state can't be written.
    StateDisk,
    /// The known peers can't be written.
    PeersDisk,
    /// The port can't take connections, or is not open yet.
    Port,
    /// Others can't be found on the local network, or not on all of its interfaces.
    Discovery,
    /// Strangers hold many connections.
    Strangers,
    /// The program is at fault.
    Program,
    /// What was on disk was older than what others hold of it.
    Restored,
    /// The end of the own state was cut off by a power cut, and dropped.
    StateRepaired,
    /// The own state was damaged, or can't be read in parts; what was whole is kept.
    StateDamaged,
    /// What was kept of the own state could not be written anew.
    StateNotWritten,
    /// The known peers were damaged; those that are missing are met anew.
    PeersDamaged,
    /// A key file was empty, and a new key was made.
    KeyLost,
    /// Others on this host can read a key.
    KeyReadable,
    /// The host has another name than before, and the node is a new one.
    NameChanged,
    /// Others had told a wrong key of a node.
    KeyReplaced,
    /// So many nodes came and went that all have to say HELLO again.
    BeganAnew,
    /// Lines of the log found no reader.
    LogDropped,
}

impl Code {
    /// All of them.
    pub const ALL: [Self; 24] = [
        Self::Alone,
        Self::OtherNetworkKey,
        Self::Refused,
        Self::IdConflict,
        Self::Clone,
        Self::NotAllowed,
        Self::OneWay,
        Self::StateDisk,
        Self::PeersDisk,
        Self::Port,
        Self::Discovery,
        Self::Strangers,
        Self::Program,
        Self::Restored,
        Self::StateRepaired,
        Self::StateDamaged,
        Self::StateNotWritten,
        Self::PeersDamaged,
        Self::KeyLost,
        Self::KeyReadable,
        Self::NameChanged,
        Self::KeyReplaced,
        Self::BeganAnew,
        Self::LogDropped,
    ];

    /// The word for it in all output.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Alone => "alone",
            Self::OtherNetworkKey => "other-network-key",
            Self::Refused => "refused",
            Self::IdConflict => "id-conflict",
            Self::Clone => "clone",
            Self::NotAllowed => "not-allowed",
            Self::OneWay => "one-way",
            Self::StateDisk => "state-disk",
            Self::PeersDisk => "peers-disk",
            Self::Port => "port",
            Self::Discovery => "discovery",
            Self::Strangers => "strangers",
            Self::Program => "program",
            Self::Restored => "restored",
            Self::StateRepaired => "state-repaired",
            Self::StateDamaged => "state-damaged",
            Self::StateNotWritten => "state-not-written",
            Self::PeersDamaged => "peers-damaged",
            Self::KeyLost => "key-lost",
            Self::KeyReadable => "key-readable",
            Self::NameChanged => "name-changed",
            Self::KeyReplaced => "key-replaced",
            Self::BeganAnew => "began-anew",
            Self::LogDropped => "log-dropped",
        }
    }

    /// Whether it is a fault of this host or program, not of the network around it.
    pub fn is_own(self) -> bool {
        matches!(self, Self::StateDisk | Self::PeersDisk | Self::Port | Self::Program)
    }
}

/// Whose word it is. What others say is told in the log with a limit for each of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// This node's.
    #[default]
    Own,
    /// That of a node, or of somebody who called from this address.
    Other(String),
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// What kind.
    pub code: Code,
    /// The node that it is about; nothing where it is about none but this one.
    pub node: Option<NodeId>,
    /// What is wrong.
    pub text: String,
    /// What to do.
    pub hint: String,
    /// Whose word it is.
    pub source: Source,
}

impl Fault {
    /// One that this node saw itself.
    pub fn new(code: Code, text: impl Into<String>, hint: impl Into<String>) -> Self {
        let (text, hint) = (text.into(), hint.into());
        Self { code, node: None, text, hint, source: Source::Own }
    }

    /// The same, about a node.
    #[must_use]
    pub fn about(mut self, node_id: &NodeId) -> Self {
        self.node = Some(node_id.clone());
        self
    }
}

/// For the log, and for whoever is refused: all of it on one line.
impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)?;
        if self.hint.is_empty() { Ok(()) } else { write!(formatter, "; {}", self.hint) }
    }
}

/// Something that happened, and is worth to be known for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// What.
    pub fault: Fault,
    /// How long ago.
    pub ago: Duration,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_code_has_a_word_of_its_own() {
        let words: BTreeSet<&str> = Code::ALL.into_iter().map(Code::as_str).collect();
        assert_eq!(words.len(), Code::ALL.len());
        let is_word =
            |word: &&str| word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
        assert!(words.iter().all(is_word));
    }

    #[test]
    fn a_fault_is_a_sentence_with_what_to_do() {
        let fault = Fault::new(Code::Clone, "two nodes run with one key", "stop one of them");
        assert_eq!(fault.to_string(), "two nodes run with one key; stop one of them");
        assert_eq!(Fault::new(Code::Port, "it is shut", "").to_string(), "it is shut");
    }
}
