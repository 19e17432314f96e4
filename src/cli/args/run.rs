//! What `dsn run` takes.

use std::path::PathBuf;

use clap::Args;

use super::values::{path, switch};

/// The flags of `dsn run`. Each can come from the environment, or from the file, too.
#[derive(Debug, Clone, Default, Args)]
#[group(skip)]
pub(in super::super) struct RunArgs {
    /// Name of this node, unique in its network [default: the host name]
    #[arg(long, short = 'i', value_name = "ID", env = "DSN_NODE_ID")]
    pub(in super::super) node_id: Option<String>,
    /// Where to listen, such as 10.0.0.1:8000, [fe80::1%eth0]:8000, or 8000 for all addresses;
    /// port 0 picks one [default: 8000, by IPv4 and IPv6]
    #[arg(long, short, value_name = "ADDR:PORT", env = "DSN_LISTEN")]
    pub(in super::super) listen: Option<String>,
    /// A node of the network to join; may be given several times
    #[arg(long, short, value_name = "HOST:PORT", env = "DSN_BOOTSTRAP", value_delimiter = ',')]
    pub(in super::super) bootstrap: Vec<String>,
    /// Look for nodes with the same network key on the local network, by multicast DNS, and let
    /// them find this one; others see that a node of some network is here, and not which
    #[arg(long, env = "DSN_DISCOVER", value_parser = switch())]
    pub(in super::super) discover: bool,
    /// The address that others should use [default: what they see]
    #[arg(long, value_name = "HOST:PORT", env = "DSN_ADVERTISE")]
    pub(in super::super) advertise: Option<String>,
    /// The network key file [default: CREDENTIALS/network.key]
    #[arg(long, value_name = "FILE", env = "DSN_NETWORK_KEY", value_parser = path())]
    pub(in super::super) network_key: Option<PathBuf>,
    /// Folder of the node's keys [default: credentials]
    #[arg(long, value_name = "DIR", env = "DSN_CREDENTIALS", value_parser = path())]
    pub(in super::super) credentials: Option<PathBuf>,
    /// Folder of the node's state; `none` keeps it in memory alone [default: data]
    #[arg(long, value_name = "DIR", env = "DSN_DATA", value_parser = path())]
    pub(in super::super) data: Option<PathBuf>,
    /// When a change is on disk for certain: `always` (when `set` returns), `shared` (the same, but
    /// at most four syncs a second), or so long after it, such as 5s [default: always]
    #[arg(long, value_name = "always|shared|DURATION", env = "DSN_SYNC")]
    pub(in super::super) sync: Option<String>,
    /// File with the nodes that may be in the network: `ID PUBLIC-KEY` a line [default: anybody
    /// with the network key]
    #[arg(long, value_name = "FILE", env = "DSN_ALLOW", value_parser = path())]
    pub(in super::super) allow: Option<PathBuf>,
    /// Name or number of a group whose members may use the control socket, too, and so all that
    /// the node can do [default: this user and root alone]
    #[arg(long, value_name = "GROUP", env = "DSN_CONTROL_GROUP")]
    pub(in super::super) control_group: Option<String>,
    /// Serve a web page about the network, and its JSON, there: 8001 for this host alone, or such
    /// as 10.0.0.1:8001; port 0 picks one [default: none]
    #[arg(long, value_name = "ADDR:PORT", env = "DSN_HTTP")]
    pub(in super::super) http: Option<String>,
    /// File with the token that readers of the page have to show; needed where other hosts can
    /// reach it
    #[arg(long, value_name = "FILE", env = "DSN_HTTP_TOKEN", value_parser = path())]
    pub(in super::super) http_token: Option<PathBuf>,
    /// What else readers of the page may call this host, where it takes no token, such as the name
    /// of a proxy; may be given several times
    #[arg(long, value_name = "NAME", env = "DSN_HTTP_HOST", value_delimiter = ',')]
    pub(in super::super) http_host: Vec<String>,
    /// Time between ticks [default: 3s]
    #[arg(long, value_name = "DURATION", env = "DSN_TICK")]
    pub(in super::super) tick: Option<String>,
    /// This node is a network of its own: that no other one is there is no fault
    #[arg(long, env = "DSN_ALONE", value_parser = switch())]
    pub(in super::super) alone: bool,
    /// TOML file with the same names
    #[arg(long, short, value_name = "FILE", env = "DSN_CONFIG", value_parser = path())]
    pub(in super::super) config: Option<PathBuf>,
}
