//! How a node is to run.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::protocol::address::Address;
use crate::protocol::identity::NodeId;
use crate::server::Listen;

/// Default time between ticks.
const TICK: Duration = Duration::from_secs(3);
/// What every command calls the node that it talks to, so no node is called so.
pub const OWN_NODE: &str = "self";
/// The default folder of keys.
pub const CREDENTIALS_FOLDER: &str = "credentials";
/// The name of the network key file in it.
pub const NETWORK_KEY_NAME: &str = "network.key";
/// The default data folder; also where commands look for the node's socket.
pub const DATA_FOLDER: &str = "data";
/// The name of the control socket in the node's data folder.
pub const SOCKET_NAME: &str = "control.sock";

/// When changes are synced to disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncRule {
    /// Each one before `set` returns, and at once.
    Always,
    /// Each one before `set` returns, but at most four times a second: changes that come close
    /// together wait for a sync that they share.
    Shared,
    /// So long after `set` returned at the latest. A power cut may cost what was changed since.
    Within(Duration),
}

/// Where the control socket is, over which commands and programs beside the node talk to it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Control {
    /// `control.sock` in the node's data folder; nowhere, where it has none.
    #[default]
    WithData,
    /// There.
    At(PathBuf),
    /// Nowhere: only the program around the node asks it.
    Nowhere,
}

/// The web page of a node and the JSON behind it: docs/web.md.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Http {
    /// Where it is served; port 0 picks one.
    pub listen: Listen,
    /// A file with the token that readers have to show. Without one the page is for this host
    /// alone.
    pub token: Option<PathBuf>,
    /// What else readers may call this host, where no token is wanted.
    pub hosts: Vec<String>,
}

/// How a node is to run.
///
/// ```
/// let mut config = dsn::Config::new("kitchen".parse()?).in_folder("/var/lib/dsn");
/// config.listen = "10.0.0.1:8000".parse()?;
/// config.bootstrap = vec!["10.0.0.1:8000".parse()?, "10.0.0.2:8000".parse()?];
/// config.control = dsn::Control::Nowhere;
/// assert_eq!(config.network_key_file().to_str(), Some("/var/lib/dsn/credentials/network.key"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Config {
    /// Its id.
    pub node_id: NodeId,
    /// Whether that is the name of the host, as none was given.
    pub is_named_by_host: bool,
    /// Where it listens; port 0 picks one.
    pub listen: Listen,
    /// Where nodes of the network may be found.
    pub bootstrap: Vec<Address>,
    /// Whether others are looked for on the local network, and this node can be found there:
    /// docs/discovery.md. It needs the feature `discover`.
    pub discover: bool,
    /// The address that it tells others; what they see if none is given.
    pub advertise: Option<Address>,
    /// The folder of key pairs; the node's own is a subfolder with its id.
    pub credentials: PathBuf,
    /// The network key file; `network.key` in the folder of the credentials if none is given.
    pub network_key: Option<PathBuf>,
    /// The folder of states; the node's own is a subfolder with its id. Without one the state is
    /// in memory alone.
    pub data: Option<PathBuf>,
    /// When changes are synced to disk.
    pub sync: SyncRule,
    /// A file with the nodes that may be in the network and their public keys.
    pub allow: Option<PathBuf>,
    /// The control socket.
    pub control: Control,
    /// The number of the group that may use the control socket, too.
    pub control_group: Option<u32>,
    /// The web page, if there is to be one.
    pub http: Option<Http>,
    /// Time between ticks.
    pub tick: Duration,
    /// Whether no other node is expected: then being alone is no fault.
    pub alone: bool,
}

impl Config {
    /// The defaults for a node of this id: all files below the current folder.
    pub fn new(node_id: NodeId) -> Self {
        Self {
            node_id,
            is_named_by_host: false,
            listen: Listen::default(),
            bootstrap: Vec::new(),
            discover: false,
            advertise: None,
            credentials: CREDENTIALS_FOLDER.into(),
            network_key: None,
            data: Some(DATA_FOLDER.into()),
            sync: SyncRule::Always,
            allow: None,
            control: Control::default(),
            control_group: None,
            http: None,
            tick: TICK,
            alone: false,
        }
    }

    /// The same with `credentials` and `data` below this folder, and all that belongs to them.
    #[must_use]
    pub fn in_folder(mut self, folder: impl AsRef<Path>) -> Self {
        self.credentials = folder.as_ref().join(CREDENTIALS_FOLDER);
        self.data = Some(folder.as_ref().join(DATA_FOLDER));
        self
    }

    /// Where the network key is.
    pub fn network_key_file(&self) -> PathBuf {
        self.network_key.clone().unwrap_or_else(|| self.credentials.join(NETWORK_KEY_NAME))
    }

    /// Where the control socket is, if there is one.
    pub fn control_socket(&self) -> Option<PathBuf> {
        match &self.control {
            Control::At(path) => Some(path.clone()),
            Control::WithData => {
                Some(self.data.as_ref()?.join(self.node_id.as_str()).join(SOCKET_NAME))
            }
            Control::Nowhere => None,
        }
    }
}
