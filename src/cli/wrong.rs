//! What is wrong with the configuration of `dsn run`, in the words that are told.

use std::fmt;
use std::path::PathBuf;

use dsn::config::OWN_NODE;
use dsn::named::Unreadable;
use dsn::protocol::SEEDS_MAX;
use dsn::protocol::address::InvalidAddress;
use dsn::protocol::identity::InvalidNodeId;
use dsn::server::InvalidListen;

use super::http;
use super::names::Setting;
use super::settings::SOCKET_PATH_BYTES_MAX;

/// What is wrong with the configuration.
#[derive(Debug)]
pub(super) enum ConfigError {
    /// The node id breaks its rule.
    NodeId(InvalidNodeId),
    /// The node has the name that stands for any node.
    OwnName,
    /// No node id was given, and the host name is none.
    HostName {
        /// The host name.
        name: String,
    },
    /// An address is none.
    Address {
        /// Which setting.
        setting: Setting,
        /// What is wrong with it.
        fault: InvalidAddress,
    },
    /// The address to listen on is none.
    Listen(InvalidListen),
    /// The tick is no duration, or out of its bounds.
    Tick {
        /// What was given.
        text: String,
    },
    /// The time of a sync is neither `always` nor `shared` nor a duration.
    Sync {
        /// What was given.
        text: String,
    },
    /// There is no such group.
    Group {
        /// What was given.
        name: String,
        /// Where it was looked for.
        groups: PathBuf,
    },
    /// The file of groups can't be read.
    Groups {
        /// Which.
        path: PathBuf,
        /// Which group was looked for.
        name: String,
        /// What the system said.
        why: std::io::Error,
    },
    /// Without a data folder there is no place for the control socket.
    NoSocket,
    /// There are more bootstrap addresses than a node tries.
    TooManyBootstraps {
        /// How many.
        count: usize,
    },
    /// The path of the control socket is too long for the system.
    SocketPath {
        /// Which.
        path: PathBuf,
    },
    /// The web page can't be as it is wanted.
    Http(http::Wrong),
    /// The file can't be read.
    File {
        /// What named it.
        named: String,
        /// Which, and why.
        fault: Unreadable,
    },
    /// The file is no text.
    NoText {
        /// Which.
        path: PathBuf,
    },
    /// What was given is wrong.
    At {
        /// Where it was given: an option, a variable, or a line of the file.
        place: String,
        /// Why.
        fault: Box<ConfigError>,
    },
    /// What is in the file can't be understood.
    Toml {
        /// Which file.
        path: PathBuf,
        /// Where and why.
        fault: String,
    },
}

impl ConfigError {
    /// The setting whose fault it is, if it is that of one.
    pub(super) fn setting(&self) -> Option<Setting> {
        Some(match self {
            Self::NodeId(_) | Self::OwnName => Setting::NodeId,
            Self::Address { setting, .. } => *setting,
            Self::Listen(_) => Setting::Listen,
            Self::Tick { .. } => Setting::Tick,
            Self::Sync { .. } => Setting::Sync,
            Self::Group { .. } | Self::Groups { .. } => Setting::ControlGroup,
            Self::NoSocket => Setting::Data,
            Self::TooManyBootstraps { .. } => Setting::Bootstrap,
            Self::SocketPath { .. } => Setting::Control,
            Self::Http(why) => why.setting(),
            Self::HostName { .. } | Self::File { .. } | Self::NoText { .. } => return None,
            Self::At { .. } | Self::Toml { .. } => return None,
        })
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NodeId(fault) => fault.fmt(formatter),
            Self::OwnName => write!(
                formatter,
                "no node may be called {OWN_NODE:?}: that is what commands call the node they talk to. Choose another \
                 name with --node-id"
            ),
            Self::HostName { name } => write!(
                formatter,
                "the host name {name:?} can't be a node id, which names one host and no other: give one with --node-id ID \
                 (or DSN_NODE_ID)"
            ),
            Self::Address { fault, .. } => fault.fmt(formatter),
            Self::Listen(fault) => fault.fmt(formatter),
            Self::Tick { text } => write!(
                formatter,
                "{text:?} is not a duration from 100ms to 60s; examples: 3s, 500ms"
            ),
            Self::Sync { text } => write!(
                formatter,
                "{text:?} is neither always nor shared nor a duration from 10ms to 1h, such as 5s"
            ),
            Self::Group { name, groups } => write!(
                formatter,
                "there is no group {name:?} in {}; make it with groupadd, or give its number",
                groups.display()
            ),
            Self::Groups { path, name, why } => write!(
                formatter,
                "{} can't be read, so the group {name:?} is not known: {why}. Give its number",
                path.display()
            ),
            Self::NoSocket => write!(
                formatter,
                "with the data `none` the control socket needs a place; give one with --control PATH, such as /run/dsn.sock"
            ),
            Self::TooManyBootstraps { count } => {
                write!(formatter, "{count} addresses are given, the limit is {SEEDS_MAX}")
            }
            Self::SocketPath { path } => write!(
                formatter,
                "the path {} of the control socket has {} bytes, the system takes {SOCKET_PATH_BYTES_MAX}; give a shorter one \
                 with --control PATH",
                path.display(),
                path.as_os_str().len()
            ),
            Self::Http(why) => why.fmt(formatter),
            Self::File { named, fault } => {
                write!(formatter, "{named}: {}", fault.with("name another file"))
            }
            Self::NoText { path } => write!(
                formatter,
                "the configuration file {} is no text in UTF-8: save it as one, or name another one with --config FILE",
                path.display()
            ),
            Self::At { place, fault } => write!(formatter, "{place}: {fault}"),
            Self::Toml { path, fault } => {
                let hint = hint_of(fault);
                write!(formatter, "in the configuration file {}: {fault}{hint}", path.display())
            }
        }
    }
}

impl std::error::Error for ConfigError {}

/// What to write instead, where the parser says a type and no example.
fn hint_of(fault: &str) -> &'static str {
    match fault {
        fault if fault.contains("expected a string") || fault.contains("must be quoted") => {
            "\ntexts and durations stand in quotes, such as tick = \"3s\""
        }
        fault if fault.contains("expected a boolean") => {
            "\nit takes true or false, without quotes, such as alone = true"
        }
        _ => "",
    }
}
