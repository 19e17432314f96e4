//! Why a node did not start.

use std::fmt;
use std::path::PathBuf;

use crate::advice::{advice, is_wrong_name, no_thread, whole_path};
use crate::control::ControlError;
use crate::credentials::CredentialsError;
use crate::journal::JournalError;
use crate::protocol::crypto::CryptoFault;
use crate::server::{Listen, ServerError};

/// Why a node did not start. Nothing is left running.
#[derive(Debug)]
pub enum StartError {
    /// A node that is to join has no network key.
    NoNetworkKey {
        /// Where it was looked for.
        path: PathBuf,
        /// A bootstrap node that has it.
        from: Option<String>,
        /// A file is there, with nothing in it.
        is_empty: bool,
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
    /// The web page would be served to other hosts, to whoever asks.
    NoToken {
        /// Where.
        listen: Listen,
    },
    /// Others are to be found on the local network, and this program was built without that.
    NoDiscovery,
    /// Others are to find this node on the local network, and it listens where none can call.
    DiscoverNowhere {
        /// Where.
        listen: Listen,
    },
    /// The system gave no thread.
    NoThread(std::io::Error),
    /// The system gave no randomness.
    NoRandomness,
    /// The own timestamps are used up.
    NoTimestampLeft,
}

impl StartError {
    /// Whether what was typed or configured is wrong. Else it was right, and the world says no.
    pub fn is_usage(&self) -> bool {
        match self {
            Self::NoNetworkKey { .. }
            | Self::NotAKey { .. }
            | Self::NoToken { .. }
            | Self::NoDiscovery
            | Self::DiscoverNowhere { .. } => true,
            Self::Credentials(fault) => fault.is_usage(),
            Self::Folder { why, .. } => is_wrong_name(why),
            Self::Control(ControlError::NoSocket { .. }) => true,
            Self::Control(ControlError::Unusable { why, .. }) => is_wrong_name(why),
            Self::Control(_)
            | Self::Runs { .. }
            | Self::Journal(_)
            | Self::Server(_)
            | Self::NoThread(_)
            | Self::NoRandomness
            | Self::NoTimestampLeft => false,
        }
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoNetworkKey { path, from, is_empty } => {
                let from = from.as_deref().unwrap_or("another node of the network");
                let what = if *is_empty { "the file is empty" } else { "there is no file" };
                write!(
                    formatter,
                    "there is no network key at {}: {what}. Copy the file network.key from the credentials folder of {from}, \
                     for example with scp, and keep its mode 0600; if this is the first node of a new network, make one with \
                     `dsn keygen {}`",
                    whole_path(path).display(),
                    whole_path(path).display()
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
                "the folder {} can't be used: {}",
                path.display(),
                advice(why, path, "name another one with --data DIR")
            ),
            Self::Runs { folder } => write!(
                formatter,
                "a node runs on {} already. Stop it with `dsn stop`, or name another folder with --data",
                folder.display()
            ),
            Self::Journal(fault) => fault.fmt(formatter),
            Self::Server(fault) => fault.fmt(formatter),
            Self::Control(fault) => fault.fmt(formatter),
            Self::NoToken { listen } => write!(
                formatter,
                "other hosts can reach the page at {listen}, and whoever does could read all states. Name a file with a token \
                 that readers have to show, --http-token FILE (make one: `(umask 077; head -c 24 /dev/urandom | base64 > \
                 FILE)`), or serve it to this host alone: --http 127.0.0.1:{}",
                listen.port()
            ),
            Self::NoDiscovery => write!(
                formatter,
                "--discover: this program was built without the feature `discover`. Use one that has it, or name another node \
                 with --bootstrap HOST:PORT"
            ),
            Self::DiscoverNowhere { listen } => write!(
                formatter,
                "--discover: nobody on the local network can call this node, as it listens on {listen}, for this host alone. \
                 Listen on all addresses, --listen {}, or leave out --discover and name nodes of this host with --bootstrap",
                listen.port()
            ),
            Self::NoThread(why) => formatter.write_str(&no_thread(why)),
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
