//! Why a key file can't be used, and what to do.

use std::fmt;
use std::io::Error;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::NETWORK_KEYS_MAX;
use crate::advice::{advice, end_of, is_wrong_name};
use crate::named::Unreadable;

/// Why a key file can't be used. Nothing was changed.
#[derive(Debug)]
pub enum CredentialsError {
    /// The system refused.
    Unusable {
        /// Which file or folder.
        path: PathBuf,
        /// What it said.
        why: Error,
    },
    /// Others can change a secret file, or read it for no reason.
    TooOpen {
        /// Which.
        path: PathBuf,
        /// Its mode.
        mode: u32,
        /// Whether its file system keeps modes.
        has_modes: bool,
    },
    /// It is no file, or none of ours: that is said in one place for all that is named.
    NoFile(Unreadable),
    /// Another process has it locked: a start that made it, or something else.
    Locked {
        /// Which.
        path: PathBuf,
        /// How long was waited.
        time: Duration,
    },
    /// It is another one each time it is looked at.
    Unsettled {
        /// Which.
        path: PathBuf,
        /// How long was waited.
        time: Duration,
    },
    /// It is a link to what is not there.
    LeadsNowhere {
        /// The link.
        path: PathBuf,
    },
    /// The file is not text.
    NoText {
        /// Which.
        path: PathBuf,
        /// It is text of another kind, as some editors write it.
        is_utf16: bool,
    },
    /// A line is not what it should be.
    BadLine {
        /// Which file.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
        /// What is wrong with it.
        what: &'static str,
    },
    /// More keys than a file has.
    TooManyKeys {
        /// Which file.
        path: PathBuf,
    },
    /// There is no key in the file.
    NoKey {
        /// Which.
        path: PathBuf,
    },
    /// The token in the file can't be one.
    NoToken {
        /// Which file.
        path: PathBuf,
        /// Why.
        why: &'static str,
    },
    /// The file is there already.
    AlreadyExists {
        /// Which.
        path: PathBuf,
    },
    /// The system gave no randomness.
    NoRandomness,
}

pub(super) fn unusable(path: &Path, why: Error) -> CredentialsError {
    CredentialsError::Unusable { path: path.into(), why }
}

impl From<Unreadable> for CredentialsError {
    fn from(fault: Unreadable) -> Self {
        match fault {
            Unreadable::System { path, why } => Self::Unusable { path, why },
            fault => Self::NoFile(fault),
        }
    }
}

impl CredentialsError {
    /// Whether what was typed or configured is wrong: it names something that can't be a key file.
    /// Else the world says no: rights, disks, what is there already.
    pub fn is_usage(&self) -> bool {
        match self {
            Self::NoFile(fault) => fault.is_usage(),
            Self::NoText { .. }
            | Self::BadLine { .. }
            | Self::NoKey { .. }
            | Self::NoToken { .. }
            | Self::TooOpen { .. } => true,
            Self::Unusable { why, .. } => is_wrong_name(why),
            // What it leads to may be mounted later.
            Self::Locked { .. } | Self::Unsettled { .. } | Self::LeadsNowhere { .. } => false,
            Self::TooManyKeys { .. } | Self::AlreadyExists { .. } | Self::NoRandomness => false,
        }
    }
}

/// What to do about a file with the wrong bytes in it.
fn put_back(path: &Path) -> String {
    let mut whole = path.as_os_str().to_owned();
    whole.push(".new");
    let whole = PathBuf::from(whole);
    // What a power cut left of a file that was written in place.
    let or =
        if whole.exists() { format!(" ({} may be one)", whole.display()) } else { String::new() };
    format!("Put back a good copy of the file{or}")
}

fn locked(path: &Path, time: Duration) -> String {
    format!(
        "{path} was locked by another process for {} s. Look which one it is (`fuser {path}`): end it, or wait until it is \
         done; then start this node again",
        time.as_secs(),
        path = path.display()
    )
}

fn unsettled(path: &Path, time: Duration) -> String {
    format!(
        "{} was another file at each look, for {} s. Others make it and take it away again (end the nodes that fail to start \
         with it), or its file system gives it a new number each time (keep keys on another disk)",
        path.display(),
        time.as_secs()
    )
}

fn leads_nowhere(link: &Path) -> String {
    format!(
        "{} is a link to {}, and nothing is there. If that is to come with a mount (a disk, a secret), mount it first; \
         else put the file there, or remove the link to have a new key made",
        link.display(),
        end_of(link).display()
    )
}

impl fmt::Display for CredentialsError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unusable { path, why } => {
                let other = "name another file";
                write!(formatter, "{} can't be used: {}", path.display(), advice(why, path, other))
            }
            Self::TooOpen { path, mode, has_modes: true } => write!(
                formatter,
                "{} is a secret, but has mode {mode:04o}, so others can {} it. Run: chmod 600 {}",
                path.display(),
                if mode & 0o022 == 0 { "read" } else { "change" },
                path.display()
            ),
            Self::TooOpen { path, mode, has_modes: false } => write!(
                formatter,
                "{} is a secret, but all users of this host can change it (mode {mode:04o}), and its file system keeps no \
                 modes. Mount that disk with umask=0077, or keep keys on another one",
                path.display()
            ),
            Self::NoFile(fault) => fault.with("name another file").fmt(formatter),
            Self::Locked { path, time } => formatter.write_str(&locked(path, *time)),
            Self::Unsettled { path, time } => formatter.write_str(&unsettled(path, *time)),
            Self::LeadsNowhere { path } => formatter.write_str(&leads_nowhere(path)),
            Self::NoText { path, is_utf16: true } => write!(
                formatter,
                "{} is text in UTF-16. Save it as UTF-8, or copy the file again as it is",
                path.display()
            ),
            Self::NoText { path, is_utf16: false } => write!(
                formatter,
                "{} is not text: it is not a file of dsn, or it is damaged. Put back a good copy of it, or name another one",
                path.display()
            ),
            Self::BadLine { path, line, what } => {
                write!(formatter, "{}: line {line} {what}. {}", path.display(), put_back(path))
            }
            Self::TooManyKeys { path } => write!(
                formatter,
                "{} has {NETWORK_KEYS_MAX} keys already; `dsn key remove` one first",
                path.display()
            ),
            Self::NoKey { path } => write!(
                formatter,
                "{} has no key in it. {}: for a network key that is the file of any other node of the network",
                path.display(),
                put_back(path)
            ),
            Self::NoToken { path, why } => write!(
                formatter,
                "the token in {} can't be used: {why}. Make one: (umask 077; head -c 24 /dev/urandom | base64 > {})",
                path.display(),
                path.display()
            ),
            Self::AlreadyExists { path } => write!(
                formatter,
                "{} is there already and is not overwritten. Name another file, or move that one away",
                path.display()
            ),
            Self::NoRandomness => write!(formatter, "the system gave no randomness for a key"),
        }
    }
}

impl std::error::Error for CredentialsError {}
