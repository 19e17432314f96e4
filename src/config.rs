//! Flags, environment and file to one checked configuration.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde::Deserialize;

use crate::protocol::SEEDS_MAX;
use crate::protocol::address::{Address, InvalidAddress};
use crate::protocol::identity::{InvalidNodeId, NodeId};

/// Default port and address to listen on.
const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 8000);
/// Default time between ticks.
const TICK: Duration = Duration::from_secs(3);
/// Shortest tick: below it a network talks about itself more than it works.
const TICK_MIN: Duration = Duration::from_millis(100);
/// Longest tick: above it a lost node is noticed after minutes only.
const TICK_MAX: Duration = Duration::from_secs(60);
/// Longest path of a Unix socket, bytes (unix(7): `sun_path` has 108 with its end).
const SOCKET_PATH_BYTES_MAX: usize = 107;
/// Largest configuration file, bytes.
const FILE_BYTES_MAX: u64 = 64 * 1024;
/// Longest time until a sync.
const SYNC_MAX: Duration = Duration::from_secs(3600);
/// Shortest one: below it a sync would cost more than it saves.
const SYNC_MIN: Duration = Duration::from_millis(10);
/// What stands for a data folder where the state is in memory alone.
const IN_MEMORY: &str = "none";
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

/// How a node is to run.
#[derive(Debug, Clone)]
pub struct Config {
    /// Its id.
    pub node_id: NodeId,
    /// Where it listens; port 0 picks one.
    pub listen: SocketAddr,
    /// Where nodes of the network may be found.
    pub bootstrap: Vec<Address>,
    /// The address that it tells others; what they see if none is given.
    pub advertise: Option<Address>,
    /// The network key file.
    pub network_key: PathBuf,
    /// The folder of key pairs; the node's own is a subfolder with its id.
    pub credentials: PathBuf,
    /// The folder of states; the node's own is a subfolder with its id. Without one the state is
    /// in memory alone.
    pub data: Option<PathBuf>,
    /// When changes are synced to disk.
    pub sync: SyncRule,
    /// A file with the nodes that may be in the network and their public keys.
    pub allow: Option<PathBuf>,
    /// The control socket.
    pub control: PathBuf,
    /// Time between ticks.
    pub tick: Duration,
}

impl Config {
    /// The defaults for a node of this id: all files below the current folder.
    pub fn new(node_id: NodeId) -> Self {
        let control = Path::new(DATA_FOLDER).join(node_id.as_str()).join(SOCKET_NAME);
        Self {
            node_id,
            listen: LISTEN,
            bootstrap: Vec::new(),
            advertise: None,
            network_key: "credentials/network.key".into(),
            credentials: "credentials".into(),
            data: Some(DATA_FOLDER.into()),
            sync: SyncRule::Always,
            allow: None,
            control,
            tick: TICK,
        }
    }
}

/// The flags of `dsn run`. Each can come from the environment, or from the file, too.
#[derive(Debug, Clone, Default, Args)]
pub struct RunArgs {
    /// Name of this node, unique in its network [default: the host name]
    #[arg(long, value_name = "ID", env = "DSN_NODE_ID")]
    pub node_id: Option<String>,
    /// Where to listen; port 0 picks one [default: 0.0.0.0:8000]
    #[arg(long, value_name = "ADDR:PORT", env = "DSN_LISTEN")]
    pub listen: Option<String>,
    /// A node of the network to join; may be given several times
    #[arg(long, value_name = "HOST:PORT", env = "DSN_BOOTSTRAP", value_delimiter = ',')]
    pub bootstrap: Vec<String>,
    /// The address that others should use [default: what they see]
    #[arg(long, value_name = "HOST:PORT", env = "DSN_ADVERTISE")]
    pub advertise: Option<String>,
    /// The network key file [default: CREDENTIALS/network.key]
    #[arg(long, value_name = "FILE", env = "DSN_NETWORK_KEY", value_parser = path_parser())]
    pub network_key: Option<PathBuf>,
    /// Folder of the node's keys [default: credentials]
    #[arg(long, value_name = "DIR", env = "DSN_CREDENTIALS", value_parser = path_parser())]
    pub credentials: Option<PathBuf>,
    /// Folder of the node's state; `none` keeps it in memory alone [default: data]
    #[arg(long, value_name = "DIR", env = "DSN_DATA", value_parser = path_parser())]
    pub data: Option<PathBuf>,
    /// When a change is on disk for certain: `always` (when `set` returns), `shared` (the same, but
    /// at most four syncs a second), or so long after it, such as 5s [default: always]
    #[arg(long, value_name = "always|shared|DURATION", env = "DSN_SYNC")]
    pub sync: Option<String>,
    /// File with the nodes that may be in the network: `ID PUBLIC-KEY` a line [default: anybody
    /// with the network key]
    #[arg(long, value_name = "FILE", env = "DSN_ALLOW", value_parser = path_parser())]
    pub allow: Option<PathBuf>,
    /// Time between ticks [default: 3s]
    #[arg(long, value_name = "DURATION", env = "DSN_TICK")]
    pub tick: Option<String>,
    /// TOML file with the same names
    #[arg(long, value_name = "FILE", env = "DSN_CONFIG", value_parser = path_parser())]
    pub config: Option<PathBuf>,
}

impl RunArgs {
    /// Without what is empty, such as `DSN_LISTEN=` in a file of variables: that is not given.
    fn without_empty(self) -> Self {
        let text = |text: Option<String>| text.filter(|text| !text.is_empty());
        Self {
            node_id: text(self.node_id),
            listen: text(self.listen),
            bootstrap: self.bootstrap.into_iter().filter(|text| !text.trim().is_empty()).collect(),
            advertise: text(self.advertise),
            network_key: not_empty(self.network_key),
            credentials: not_empty(self.credentials),
            data: not_empty(self.data),
            sync: text(self.sync),
            allow: not_empty(self.allow),
            tick: text(self.tick),
            config: not_empty(self.config),
        }
    }
}

/// A path, unless it is empty.
pub fn not_empty(path: Option<PathBuf>) -> Option<PathBuf> {
    path.filter(|path| !path.as_os_str().is_empty())
}

/// Takes any path, an empty one too, which counts as none.
pub fn path_parser() -> impl clap::builder::TypedValueParser<Value = PathBuf> {
    use clap::builder::TypedValueParser;
    clap::builder::OsStringValueParser::new().map(PathBuf::from)
}

/// The configuration file. An unknown name is an error, as it is most likely a slip.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct FileArgs {
    node_id: Option<String>,
    listen: Option<String>,
    bootstrap: Option<Bootstrap>,
    advertise: Option<String>,
    network_key: Option<PathBuf>,
    credentials: Option<PathBuf>,
    data: Option<PathBuf>,
    control: Option<PathBuf>,
    sync: Option<String>,
    allow: Option<PathBuf>,
    tick: Option<String>,
}

/// One address or several.
#[derive(Debug, Clone, Deserialize)]
#[serde(
    untagged,
    expecting = "expected an address, or a list of addresses, such as [\"10.0.0.1:8000\"]"
)]
enum Bootstrap {
    One(String),
    Several(Vec<String>),
}

/// Puts together flags (with what came from the environment), file and defaults, in this order.
///
/// `control` is the socket given on the command line or in the environment; `host_name` names a
/// node that got no name.
pub fn resolve(
    flags: RunArgs,
    control: Option<PathBuf>,
    host_name: &str,
) -> Result<Config, ConfigError> {
    let flags = flags.without_empty();
    let file = match &flags.config {
        Some(path) => read_file(path)?,
        None => FileArgs::default(),
    };
    let node_id = match flags.node_id.or(file.node_id) {
        Some(text) => NodeId::new(&text).map_err(ConfigError::NodeId)?,
        None => NodeId::new(host_name)
            .map_err(|_| ConfigError::HostName { name: host_name.to_owned() })?,
    };
    let mut config = Config::new(node_id);
    if let Some(text) = flags.listen.or(file.listen) {
        config.listen = parse_listen(&text)?;
    }
    let bootstrap = if flags.bootstrap.is_empty() {
        match file.bootstrap {
            None => Vec::new(),
            Some(Bootstrap::One(text)) => vec![text],
            Some(Bootstrap::Several(texts)) => texts,
        }
    } else {
        flags.bootstrap
    };
    if bootstrap.len() > SEEDS_MAX {
        return Err(ConfigError::TooManyBootstraps { count: bootstrap.len() });
    }
    let address = |setting, text: &str| {
        Address::new(text.trim()).map_err(|fault| ConfigError::Address { setting, fault })
    };
    config.bootstrap = bootstrap
        .iter()
        .filter(|text| !text.trim().is_empty())
        .map(|text| address("bootstrap", text))
        .collect::<Result<_, _>>()?;
    if let Some(text) = flags.advertise.or(file.advertise) {
        config.advertise = Some(address("advertise", &text)?);
    }
    config.credentials = flags.credentials.or(file.credentials).unwrap_or(config.credentials);
    config.network_key = flags
        .network_key
        .or(file.network_key)
        .unwrap_or_else(|| config.credentials.join("network.key"));
    if let Some(data) = flags.data.or(file.data) {
        config.data = (data != Path::new(IN_MEMORY)).then_some(data);
    }
    config.control = match (not_empty(control).or(file.control), &config.data) {
        (Some(path), _) => path,
        (None, Some(data)) => data.join(config.node_id.as_str()).join(SOCKET_NAME),
        (None, None) => return Err(ConfigError::NoSocket),
    };
    config.allow = flags.allow.or(file.allow);
    if let Some(text) = flags.sync.or(file.sync) {
        config.sync = parse_sync(&text)?;
    }
    check_socket_path(&config.control)?;
    if let Some(text) = flags.tick.or(file.tick) {
        config.tick = parse_tick(&text)?;
    }
    Ok(config)
}

fn read_file(path: &Path) -> Result<FileArgs, ConfigError> {
    use std::io::Read;
    let unreadable = |why| ConfigError::File { path: path.into(), why };
    let mut text = String::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text))
        .map_err(unreadable)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(ConfigError::FileTooLong { path: path.into() });
    }
    toml::from_str(&text).map_err(|fault| ConfigError::Toml {
        path: path.into(),
        fault: fault.to_string().trim_end().to_owned(),
    })
}

/// `ADDR:PORT`; `:PORT` and `PORT` alone mean all addresses.
fn parse_listen(text: &str) -> Result<SocketAddr, ConfigError> {
    let bad = || ConfigError::Listen { text: text.to_owned() };
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let port: u16 = text.strip_prefix(':').unwrap_or(text).parse().map_err(|_| bad())?;
    Ok(SocketAddr::new(LISTEN.ip(), port))
}

fn parse_tick(text: &str) -> Result<Duration, ConfigError> {
    let tick =
        humantime::parse_duration(text).map_err(|_| ConfigError::Tick { text: text.to_owned() })?;
    if (TICK_MIN..=TICK_MAX).contains(&tick) {
        Ok(tick)
    } else {
        Err(ConfigError::Tick { text: text.to_owned() })
    }
}

fn parse_sync(text: &str) -> Result<SyncRule, ConfigError> {
    match text {
        "always" => Ok(SyncRule::Always),
        "shared" => Ok(SyncRule::Shared),
        _ => match humantime::parse_duration(text) {
            Ok(sync) if (SYNC_MIN..=SYNC_MAX).contains(&sync) => Ok(SyncRule::Within(sync)),
            _ => Err(ConfigError::Sync { text: text.to_owned() }),
        },
    }
}

fn check_socket_path(path: &Path) -> Result<(), ConfigError> {
    if path.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
        return Err(ConfigError::SocketPath { path: path.into() });
    }
    Ok(())
}

/// What is wrong with the configuration.
#[derive(Debug)]
pub enum ConfigError {
    /// The node id breaks its rule.
    NodeId(InvalidNodeId),
    /// No node id was given, and the host name is none.
    HostName {
        /// The host name.
        name: String,
    },
    /// An address is none.
    Address {
        /// Which setting.
        setting: &'static str,
        /// What is wrong with it.
        fault: InvalidAddress,
    },
    /// The address to listen on is none.
    Listen {
        /// What was given.
        text: String,
    },
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
    /// The file can't be read.
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        why: std::io::Error,
    },
    /// The file is longer than any configuration.
    FileTooLong {
        /// Which.
        path: PathBuf,
    },
    /// What is in the file can't be understood.
    Toml {
        /// Which file.
        path: PathBuf,
        /// Where and why.
        fault: String,
    },
}

impl fmt::Display for ConfigError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NodeId(fault) => write!(formatter, "node-id: {fault}"),
            Self::HostName { name } => write!(
                formatter,
                "the host name {name:?} can't be a node id; give one with --node-id ID"
            ),
            Self::Address { setting, fault } => write!(formatter, "{setting}: {fault}"),
            Self::Listen { text } => write!(
                formatter,
                "listen: {text:?} is not an address to listen on; examples: 0.0.0.0:8000, 127.0.0.1:0, [::]:8000, :8000"
            ),
            Self::Tick { text } => write!(
                formatter,
                "tick: {text:?} is not a duration from 100ms to 60s; examples: 3s, 500ms"
            ),
            Self::Sync { text } => {
                write!(
                    formatter,
                    "sync: {text:?} is neither always nor shared nor a duration from 10ms to 1h, such as 5s"
                )
            }
            Self::NoSocket => write!(
                formatter,
                "control: with the data `none` the control socket needs a place; give one with --control PATH, such as \
                 /run/dsn.sock"
            ),
            Self::TooManyBootstraps { count } => {
                write!(
                    formatter,
                    "bootstrap: {count} addresses are given, the limit is {SEEDS_MAX}"
                )
            }
            Self::SocketPath { path } => write!(
                formatter,
                "control: the path {} has {} bytes, the system takes {SOCKET_PATH_BYTES_MAX}; give a shorter one with \
                 --control PATH",
                path.display(),
                path.as_os_str().len()
            ),
            Self::File { path, why } => {
                write!(
                    formatter,
                    "the configuration file {} can't be read: {why}. Name another one with --config FILE, or give \
                     this user the right to read it",
                    path.display()
                )
            }
            Self::FileTooLong { path } => write!(
                formatter,
                "{} has more than {FILE_BYTES_MAX} bytes: it is not a configuration file of dsn. Name another one with \
                 --config FILE",
                path.display()
            ),
            Self::Toml { path, fault } => {
                write!(formatter, "in the configuration file {}: {fault}", path.display())
            }
        }
    }
}

impl std::error::Error for ConfigError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_file(text: &str) -> (tempfile::TempDir, RunArgs) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dsn.toml");
        std::fs::write(&path, text).unwrap();
        (folder, RunArgs { config: Some(path), ..RunArgs::default() })
    }

    #[test]
    fn defaults_are_what_readme_says() {
        let config = resolve(RunArgs::default(), None, "pi").unwrap();
        assert_eq!(config.node_id.as_str(), "pi");
        assert_eq!(config.listen.to_string(), "0.0.0.0:8000");
        assert_eq!(config.network_key, Path::new("credentials/network.key"));
        assert_eq!(config.control, Path::new("data/pi/control.sock"));
        assert_eq!(config.tick, Duration::from_secs(3));
        assert_eq!(config.sync, SyncRule::Always);
    }

    #[test]
    fn a_flag_overrules_the_file_and_the_file_the_default() {
        let (_folder, mut flags) = with_file(
            "node-id = \"a\"\nlisten = \"127.0.0.1:1\"\nbootstrap = [\"x:1\", \"y:2\"]\ntick = \"1s\"\ndata = \"/d\"",
        );
        flags.listen = Some(":9".into());
        let config = resolve(flags, Some("/c".into()), "pi").unwrap();
        assert_eq!(config.node_id.as_str(), "a");
        assert_eq!(config.listen.to_string(), "0.0.0.0:9");
        assert_eq!(config.bootstrap.len(), 2);
        assert_eq!((config.tick, &*config.control), (Duration::from_secs(1), Path::new("/c")));
        let (_folder, flags) = with_file("bootstrap = \"x:1\"");
        assert_eq!(resolve(flags, None, "pi").unwrap().bootstrap.len(), 1);
    }

    #[test]
    fn what_is_empty_is_not_given() {
        let (_folder, mut flags) = with_file("listen = \"127.0.0.1:1\"");
        let empty = || Some(String::new());
        (flags.listen, flags.node_id, flags.tick) = (empty(), empty(), empty());
        (flags.sync, flags.advertise) = (empty(), empty());
        (flags.data, flags.allow) = (Some(PathBuf::new()), Some(PathBuf::new()));
        (flags.network_key, flags.credentials) = (Some(PathBuf::new()), Some(PathBuf::new()));
        flags.bootstrap = vec![String::new()];
        let config = resolve(flags, Some(PathBuf::new()), "pi").unwrap();
        assert_eq!(config.listen.to_string(), "127.0.0.1:1");
        assert_eq!(config.network_key, Path::new("credentials/network.key"));
        assert_eq!(config.control, Path::new("data/pi/control.sock"));
        assert_eq!((config.advertise, config.allow), (None, None));
    }

    #[test]
    fn each_fault_names_what_is_wrong() {
        let fault = |change: fn(&mut RunArgs)| {
            let mut flags = RunArgs::default();
            change(&mut flags);
            resolve(flags, None, "pi").unwrap_err().to_string()
        };
        assert!(fault(|f| f.node_id = Some("../x".into())).contains("../x"));
        assert!(fault(|f| f.listen = Some("nowhere".into())).contains("nowhere"));
        assert!(fault(|f| f.tick = Some("1ms".into())).contains("100ms"));
        for sync in ["never", "0s", "2h", "5"] {
            let mut flags = RunArgs { sync: Some(sync.into()), ..RunArgs::default() };
            let said = resolve(flags.clone(), None, "pi").unwrap_err().to_string();
            assert!(said.contains(sync) && said.contains("shared"), "{said}");
            flags.sync = Some("5s".into());
            let config = resolve(flags, None, "pi").unwrap();
            assert_eq!(config.sync, SyncRule::Within(Duration::from_secs(5)));
        }
        assert!(fault(|f| f.bootstrap = vec!["x".into()]).contains("bootstrap"));
        assert!(fault(|f| f.data = Some("d".repeat(200).into())).contains("--control"));
        assert!(fault(|f| f.config = Some("/none".into())).contains("/none"));
        assert!(
            resolve(RunArgs::default(), None, "_").unwrap_err().to_string().contains("--node-id")
        );
        for (text, named) in [
            ("listne = \"x\"", "listne"),
            ("bootstrap = 3", "list of addresses"),
            (&*"#".repeat(70_000), "65536"),
        ] {
            let (_folder, flags) = with_file(text);
            let fault = resolve(flags, None, "pi").unwrap_err().to_string();
            assert!(fault.contains(named), "{fault}");
        }
    }
}
