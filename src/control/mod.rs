//! The local control socket: one JSON object a line, both ends (docs/control.md).

mod client;
mod json;
mod listener;
mod server;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use zeroize::Zeroizing;

use crate::events::Subscription;
use crate::protocol::DATA_BYTES_MAX;
use crate::protocol::identity::NodeId;
use crate::protocol::report::{Message, NodeState, PeerInfo, Refused, Status};
use crate::protocol::state::Change;

pub use client::{ControlClient, Failure};
pub use json::{bytes_from_json, bytes_to_json};
pub use listener::ControlServer;

/// Longest line in either direction, bytes: 1 MiB of DATA in base64, or a state of as many bytes
/// with every byte escaped, and room for the rest.
pub const LINE_BYTES_MAX: u64 = 8 * DATA_BYTES_MAX as u64;

/// What is to be done with the network keys.
pub enum KeyChange {
    /// Nothing.
    List,
    /// One more that opens.
    Add(Zeroizing<[u8; 32]>),
    /// The one of this name seals from now on.
    Use(String),
    /// The one of this name opens no more.
    Remove(String),
    /// The file was changed by hand.
    Reload,
}

/// What a running node does for those who connect to its socket.
pub trait Service: Send + Sync + 'static {
    /// What the node says of itself.
    fn status(&self) -> Status;
    /// All peers in the order of their ids.
    fn peers(&self) -> Vec<PeerInfo>;
    /// The state of a node, the own one too.
    fn state(&self, node: &NodeId) -> Option<NodeState>;
    /// The states of all nodes, the own one first.
    fn states(&self) -> Vec<NodeState>;
    /// Changes the own state; returns its timestamp when it is durable.
    fn set(&self, change: Change) -> Result<u64, Refused>;
    /// Sends a PING; gives the round-trip time.
    fn ping(&self, node: &NodeId, timeout: Duration) -> Result<Duration, Refused>;
    /// Sends DATA; returns when it was accepted.
    fn send(&self, node: &NodeId, data: Arc<[u8]>, timeout: Duration) -> Result<(), Refused>;
    /// Takes the oldest message out of the inbox, or waits for one.
    fn receive(&self, timeout: Duration) -> Option<Message>;
    /// Puts a message back in front: its reader went away before it had it.
    fn give_back(&self, message: Message);
    /// Events from now on; nothing where too many listen.
    fn subscribe(&self) -> Option<Subscription>;
    /// Changes the network keys, or only names them: the one that seals first.
    fn network_keys(&self, change: KeyChange) -> Result<Vec<String>, Refused>;
    /// Drops all that is known of a node.
    fn forget(&self, node: &NodeId) -> Result<(), Refused>;
    /// Says goodbye to the network.
    fn leave(&self, timeout: Duration) -> Result<(), Refused>;
    /// Asks the node to stop, soon after this returned.
    fn request_stop(&self);
    /// Whether the node is about to stop.
    fn is_stopping(&self) -> bool;
}

/// The control socket could not be opened.
#[derive(Debug)]
pub enum ControlError {
    /// A node answers there already.
    Taken {
        /// The socket.
        path: PathBuf,
    },
    /// Something else stands there.
    NoSocket {
        /// Where.
        path: PathBuf,
    },
    /// The system refused.
    Unusable {
        /// The socket.
        path: PathBuf,
        /// What it said.
        why: std::io::Error,
    },
}

impl fmt::Display for ControlError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Taken { path } => write!(
                formatter,
                "a node runs already and answers at {}. Stop it with `dsn --control {} stop`, or name another socket \
                 with --control PATH",
                path.display(),
                path.display()
            ),
            Self::NoSocket { path } => write!(
                formatter,
                "the control socket can't be {}: something else is there, and is left as it is. Name another place \
                 with --control PATH",
                path.display()
            ),
            Self::Unusable { path, why } => write!(
                formatter,
                "the control socket {} can't be opened: {why}. Name another one with --control PATH",
                path.display()
            ),
        }
    }
}

impl std::error::Error for ControlError {}
