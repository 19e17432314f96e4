//! Why a node did not start.

use std::fmt;
use std::path::PathBuf;

use crate::control::ControlError;
use crate::credentials::CredentialsError;
use crate::journal::JournalError;
use crate::protocol::crypto::CryptoFault;
use crate::server::ServerError;

/// Why a node did not start. Nothing is left running.
#[derive(Debug)]
pub enum StartError {
    /// A node that is to join has no network key.
    NoNetworkKey {
        /// Where it was looked for.
        path: PathBuf,
        /// A bootstrap node that has it.
        from: Option<String>,
    },
    /// Key files.
    Credentials(CredentialsError),
    /// What is in the key file is not a key.
    NotAKey {
        /// The folder of the file.
        folder: PathBuf,
        /// What it is not.
        fault: CryptoFault,
    },
    /// The folder of the own state can't be used.
    Folder {
        /// Which.
        path: PathBuf,
        /// What the system said.
        why: std::io::Error,
    },
    /// A node runs on this folder already.
    Runs {
        /// Which.
        folder: PathBuf,
    },
    /// The own state can't be read or written.
    Journal(JournalError),
    /// The port can't be opened.
    Server(ServerError),
    /// The control socket can't be opened.
    Control(ControlError),
    /// The system gave no thread.
    NoThread(std::io::Error),
    /// The system gave no randomness.
    NoRandomness,
    /// The own timestamps are used up.
    NoTimestampLeft,
}

impl fmt::Display for StartError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoNetworkKey { path, from } => {
                let from = from.as_deref().unwrap_or("a node of the network");
                write!(
                    formatter,
                    "there is no network key at {}. Copy the file network.key from the credentials folder of {from}, for \
                     example with scp, and keep its mode 0600",
                    path.display()
                )
            }
            Self::Credentials(fault) => fault.fmt(formatter),
            Self::NotAKey { folder, fault } => write!(
                formatter,
                "the key in {} can't be used: {fault}. Put back a copy of it, or move it away to start with a new key \
                 (then the other nodes have to forget this one)",
                folder.join("node.key").display()
            ),
            Self::Folder { path, why } => write!(
                formatter,
                "the folder {} can't be used: {why}. Name another one with --data, or give this user the right to write \
                 there",
                path.display()
            ),
            Self::Runs { folder } => write!(
                formatter,
                "a node runs on {} already. Stop it with `dsn stop`, or name another folder with --data",
                folder.display()
            ),
            Self::Journal(fault) => fault.fmt(formatter),
            Self::Server(fault) => fault.fmt(formatter),
            Self::Control(fault) => fault.fmt(formatter),
            Self::NoThread(why) => write!(formatter, "the system gave no thread: {why}"),
            Self::NoRandomness => write!(formatter, "the system gave no randomness"),
            Self::NoTimestampLeft => write!(
                formatter,
                "the own state has the last timestamp there is (year 2255): give the node a new id"
            ),
        }
    }
}

impl std::error::Error for StartError {}

impl From<CredentialsError> for StartError {
    fn from(fault: CredentialsError) -> Self {
        Self::Credentials(fault)
    }
}

impl From<JournalError> for StartError {
    fn from(fault: JournalError) -> Self {
        Self::Journal(fault)
    }
}

impl From<ServerError> for StartError {
    fn from(fault: ServerError) -> Self {
        Self::Server(fault)
    }
}

impl From<ControlError> for StartError {
    fn from(fault: ControlError) -> Self {
        Self::Control(fault)
    }
}
