//! The local control socket: one JSON object a line, both ends (docs/control.md).

mod asked;
mod client;
pub(crate) mod json;
mod listener;
mod once;
mod places;
mod server;
mod waiting;

use std::fmt;
use std::path::PathBuf;

use crate::advice::advice;
use crate::protocol::DATA_BYTES_MAX;

pub use client::{ControlClient, Failure, Polled, Woken};
pub use json::{bytes_from_json, bytes_to_base64, bytes_to_json};
pub use listener::ControlServer;
pub use once::Once;

/// Longest line in either direction, bytes: 1 MiB of DATA in base64, or a state of as many bytes
/// with every byte escaped, and room for the rest.
pub const LINE_BYTES_MAX: u64 = 8 * DATA_BYTES_MAX as u64;

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
    /// It can't be given to the group.
    Group {
        /// The socket.
        path: PathBuf,
        /// Which group.
        group: u32,
        /// What the system said.
        why: std::io::Error,
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
            Self::Group { path, group, why } => write!(
                formatter,
                "the control socket {} can't be given to group {group}: {why}. The user of the node has to be in that \
                 group: usermod --append --groups {group} USER, then start it again; or leave out --control-group",
                path.display()
            ),
            Self::Unusable { path, why } => write!(
                formatter,
                "the control socket {} can't be opened: {}",
                path.display(),
                advice(why, path, "name another one with --control PATH")
            ),
        }
    }
}

impl std::error::Error for ControlError {}
